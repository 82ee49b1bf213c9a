//! What cannot start, and what has ended, leaves nothing behind: no thread, no descriptor, no port, no handler.
//!
//! The binary is its own test runner, one test after the other: each counts what the process has, and one takes descriptors
//! away from all of it. What becomes of threads of which one cannot be had is checked in `src/engine/crew.rs`. Engines that
//! fork take nothing while they start, and carry no [`Server`].

#[path = "support/client.rs"]
mod client;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;
#[path = "support/runner.rs"]
mod runner;

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use maitred::clock::Clock;
use maitred::config::Settings;
use maitred::engine::{Command, Endpoint, Running, Served, Start, start};
use maitred::error::Error;
use maitred::net::batch::Switches;
use maitred::net::listener::Listener;
use maitred::net::udp::{DatagramSocket, Use};
use maitred::server::{ClientId, Clients, Receive, Server};
use maitred::service::{Bounds, find};
use maitred::session::guard::{Guard, Policy};

use client::{Client, wait_until};
use engines::{Told, engines};
use runner::{Test, run_tests};

fn main() -> ExitCode {
    run_tests(TESTS)
}

const TESTS: &[Test] = &[
    (
        "an_engine_that_lacks_a_descriptor_leaves_nothing_behind",
        an_engine_that_lacks_a_descriptor_leaves_nothing_behind,
    ),
    ("a_server_whose_port_is_taken_leaves_nothing_behind", a_server_whose_port_is_taken_leaves_nothing_behind),
    ("a_server_that_has_ended_leaves_nothing_behind", a_server_that_has_ended_leaves_nothing_behind),
];

/// What this process has.
#[derive(Debug, PartialEq)]
struct Holdings {
    threads: usize,
    descriptors: usize,
}

impl Holdings {
    fn now() -> Holdings {
        let count = |folder| fs::read_dir(format!("/proc/self/{folder}")).expect("a process has it").count();
        Holdings { threads: count("task"), descriptors: count("fd") }
    }

    /// Nothing has been added since.
    #[track_caller]
    fn check(&self) {
        assert_eq!(Holdings::now().descriptors, self.descriptors);
        // Threads that have been waited for may still be on their way out of the kernel.
        wait_until("the threads have ended", || Holdings::now() == *self);
    }
}

fn an_engine_that_lacks_a_descriptor_leaves_nothing_behind() {
    let address = free_address();
    for engine in engines().into_iter().filter(|engine| !engine.forks) {
        let before = Holdings::now();
        let mut lacked = 0;
        loop {
            let started = start_within(lacked, engine.name, address);
            let is_started = started.is_ok();
            match started {
                Ok(running) => {
                    running.command(Command::Stop);
                    running.join(None);
                }
                Err(reason) => {
                    let said = reason.to_string();
                    assert!(said.contains("os error 24"), "{}: it says what it lacks: {said}", engine.name);
                }
            }
            before.check();
            if is_started {
                break;
            }
            lacked += 1;
        }
        assert!(lacked > 2, "{}: it started with {lacked} descriptors", engine.name);
    }
}

/// Starts the engine with so many descriptors to spare.
fn start_within(spare: usize, engine: &str, address: SocketAddr) -> Result<Box<dyn Running>, Error> {
    let bounds = Bounds { max_frame_bytes: 1 << 20, max_demand: Duration::ZERO };
    let service = find("echo").expect("echo is a service").build(&[], &bounds).expect("it needs no parameters");
    let listener = Listener::bind(address).expect("nobody has kept the port");
    let served = Served { listener, service: Arc::clone(&service), idle_exempt: false };
    let any = SocketAddr::from((address.ip(), 0));
    let purpose = Use { switches: Switches::OFF, longest_request: 1, longest_answer: 1, receive_buffer_bytes: 1 << 16 };
    let socket = DatagramSocket::bind(any, purpose).expect("there is a port");
    let policy =
        Policy { answers: true, own_ports: vec![], source_rate: None, total_rate: None, spares_loopback: true };
    let endpoint = Endpoint::new(socket, service, Arc::new(Guard::new(&policy))).expect("there are descriptors");
    let settings = Settings { workers: 3, ..Settings::default() };
    let start_of = Start::new(settings, vec![served], vec![endpoint], 100, Clock::start());

    let limit = getrlimit(Resource::Nofile);
    let next = File::open("/dev/null").expect("there is a descriptor").as_raw_fd() as u64;
    let lowered = Rlimit { current: Some(next + spare as u64), ..limit };
    setrlimit(Resource::Nofile, lowered).expect("a limit may be lowered");
    let started = start(engine, start_of);
    setrlimit(Resource::Nofile, limit).expect("and raised again");
    started
}

fn a_server_whose_port_is_taken_leaves_nothing_behind() {
    for engine in engines().into_iter().filter(|engine| !engine.forks) {
        let first = start_server(engine.name, free_address(), Repeater::default()).expect("the port is free");
        let mut client = Client::connect(first.address());
        client.echo(b"before");
        let before = Holdings::now();
        for _ in 0..3 {
            let repeater = Repeater::default();
            let second = start_server(engine.name, first.address(), repeater.clone());
            let said = second.expect_err("the port is taken").to_string();
            assert!(said.starts_with(&format!("cannot bind tcp://{} for server: ", first.address())), "{said}");
            assert_eq!(repeater.owners(), 1, "the handler is dropped");
            before.check();
        }
        client.echo(b"after");
    }
}

fn a_server_that_has_ended_leaves_nothing_behind() {
    for engine in engines().into_iter().filter(|engine| !engine.forks) {
        let _told = Told(format!("on the engine {}", engine.name));
        let (before, address) = (Holdings::now(), free_address());
        // The port again and again.
        for is_stopped in [true, false, true, false] {
            let repeater = Repeater::default();
            let server = start_server(engine.name, address, repeater.clone()).expect("nobody has kept the port");
            let mut client = Client::connect(address);
            client.echo(b"evening");
            match is_stopped {
                true => drop(server.stop()),
                false => drop(server),
            }
            assert_eq!(repeater.owners(), 1, "the handler is dropped");
            client.wait_for_end();
            before.check();
        }
    }
}

fn start_server(engine: &str, address: SocketAddr, repeater: Repeater) -> Result<Server, Error> {
    Server::listen_on(address).engine(engine).workers(3).start(repeater)
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// An echo that is told how many have it.
#[derive(Clone, Default)]
struct Repeater(Arc<()>);

impl Repeater {
    fn owners(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl Receive for Repeater {
    fn on_receive(&self, clients: &Clients, id: ClientId, data: &[u8]) {
        let _ = clients.send(id, data);
    }
}
