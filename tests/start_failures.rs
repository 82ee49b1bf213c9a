//! An engine that cannot start leaves nothing behind: no thread, no descriptor, no port.
//!
//! One test, and so a process of its own: it takes descriptors away from all of it. What becomes of threads of which one
//! cannot be had is checked in `src/engine/crew.rs`. Engines that fork take nothing while they start.

#[path = "support/client.rs"]
mod client;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use maitred::clock::Clock;
use maitred::config::Settings;
use maitred::engine::{Command, Endpoint, Running, Served, Start, start};
use maitred::error::Error;
use maitred::net::batch::Switches;
use maitred::net::listener::Listener;
use maitred::net::udp::{DatagramSocket, Use};
use maitred::service::{Bounds, find};
use maitred::session::guard::{Guard, Policy};

use client::wait_until;
use engines::engines;

#[test]
fn an_engine_that_lacks_a_descriptor_leaves_nothing_behind() {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    for engine in engines().into_iter().filter(|engine| !engine.forks) {
        let (threads, descriptors) = (count("task"), count("fd"));
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
            assert_eq!(count("fd"), descriptors, "{} with {lacked} descriptors", engine.name);
            // Those that have been waited for may still be on their way out of the kernel.
            wait_until("its threads have ended", || count("task") == threads);
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
    let bounds = Bounds { max_frame_bytes: 1 << 20, max_demand: std::time::Duration::ZERO };
    let service = find("echo").expect("echo is a service").build(&[], &bounds).expect("it needs no parameters");
    let listener = Listener::bind(address).expect("nobody has kept the port");
    let served = Served { listener, service: Arc::clone(&service), idle_exempt: false };
    let any = SocketAddr::from((address.ip(), 0));
    let purpose = Use { switches: Switches::OFF, longest_request: 1, longest_answer: 1, receive_buffer_bytes: 1 << 16 };
    let socket = DatagramSocket::bind(any, purpose).expect("there is a port");
    let policy =
        Policy { answers: true, own_ports: vec![], source_rate: None, total_rate: None, spares_loopback: true };
    let endpoint = Endpoint::new(socket, service, Arc::new(Guard::new(&policy)));
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

/// Entries of this folder of the process.
fn count(folder: &str) -> usize {
    fs::read_dir(format!("/proc/self/{folder}")).expect("a process has it").count()
}
