//! What only the engine that waits for completions has to get right: buffers that all sessions share, memory and sockets
//! that operations are pending on, and descriptors at the end.
//!
//! Where the kernel refuses io_uring the tests say so and pass. What holds on every engine is in `engine_contract.rs`.

#[path = "support/client.rs"]
mod client;

use std::io::Read;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, setrlimit};

use maitred::daemon::Daemon;
use maitred::engine;

use client::{Client, closed, config, drain, text, wait_until};

/// Tests that count descriptors or memory have the process to themselves.
static ALONE: Mutex<()> = Mutex::new(());

/// A daemon, or none where there can be none.
fn start(flags: &[&str]) -> Option<(Daemon, SocketAddr)> {
    if let Err(reason) = engine::available("proactor") {
        println!("skipped: {reason}");
        return None;
    }
    let named = ["--engine", "proactor", "--workers", "1", "--idle-timeout", "off"];
    let listens = ["--listen", "echo=tcp://127.0.0.1:0"];
    Some(client::start(&config(&[&named[..], &listens, flags].concat())))
}

#[test]
fn those_who_do_not_read_leave_others_without_buffers_but_not_without_service() {
    let _alone = ALONE.lock();
    let Some((daemon, server)) = start(&["--write-timeout", "1h", "--ring", "4KiB"]) else { return };
    // Each may hold eight of 512 buffers.
    let mut stuck: Vec<Client> = (0..80).map(|_| Client::stuffed(server)).collect();
    let mut others: Vec<Client> = (0..20).map(|_| Client::connect(server)).collect();
    for round in 0..50 {
        others.iter_mut().for_each(|client| client.echo(&text(1 + round * 200, round)));
    }
    let before = daemon.summary().poller.polls;
    thread::sleep(std::time::Duration::from_millis(200));
    let polls = daemon.summary().poller.polls.zip(before).map(|(after, before)| after - before);
    assert!(polls < Some(100), "nobody spins while there are no buffers: {polls:?} waits");
    // To read all that lies in both kernels takes long where windows are this small.
    let mut first = stuck.swap_remove(0);
    drop(stuck);
    first.finish();
    let read = first.0.read_to_end(&mut Vec::new()).expect("all that was sent comes back");
    assert!(read > 64 << 10);
    drain(&daemon);
}

#[test]
fn a_drain_sends_what_is_owed_and_a_stop_does_not_wait() {
    let _alone = ALONE.lock();
    // All of it fits into the window that a connection begins with: what the client's kernel still has is not the daemon's.
    for len in [100, 3_000, 50_000] {
        let Some((daemon, server)) = start(&[]) else { return };
        let mut client = Client::connect(server);
        client.send(&text(len, 7));
        daemon.drain();
        let mut all = Vec::new();
        client.0.read_to_end(&mut all).expect("in order");
        assert_eq!(all.len(), len, "what the kernel held at the drain is answered");
        drain(&daemon);
    }
    let Some((daemon, server)) = start(&["--drain-timeout", "1h", "--write-timeout", "1h"]) else { return };
    let stuck: Vec<Client> = (0..10).map(|_| Client::stuffed(server)).collect();
    daemon.drain();
    daemon.stop();
    let summary = daemon.join();
    assert_eq!(closed(&summary, "killed"), 10, "{:?}", summary.closed);
    drop(stuck);
}

#[test]
fn an_accept_that_ends_for_want_of_descriptors_begins_again() {
    // In a process of its own, whose hard limit can be lowered for good: the daemon raises the soft one, and the kernel
    // goes by the one that was in force when it was asked to accept.
    if std::env::var_os("INNER").is_none() {
        let mut inner = Command::new(std::env::current_exe().expect("a Linux"));
        inner.args(["--exact", "an_accept_that_ends_for_want_of_descriptors_begins_again"]).env("INNER", "1");
        assert!(inner.status().expect("it starts").success());
        return;
    }
    let few = Some(200);
    setrlimit(Resource::Nofile, Rlimit { current: few, maximum: few }).expect("a limit may be lowered");
    let Some((daemon, server)) = start(&[]) else { return };
    let mut early = Client::connect(server);
    early.echo(b"early");
    let sockets: Vec<_> = (0..10)
        .map(|_| {
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .expect("a socket")
        })
        .collect();
    let mut filling = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        filling.push(file);
    }
    let mut waiting: Vec<Client> = sockets
        .into_iter()
        .map(|socket| {
            rustix::net::connect(&socket, &server).expect("the daemon listens");
            Client::from_stream(socket.into())
        })
        .collect();
    wait_until("accepting pauses", || daemon.summary().poller.accept_pauses > Some(1));
    early.echo(b"undisturbed");
    drop(filling);
    let served = waiting.iter_mut().filter_map(|client| client.is_served(b"waited").then_some(())).count();
    assert!(served > 0, "those who were not turned away are served");
    for _ in 0..20 {
        Client::connect(server).echo(b"late");
    }
    let summary = drain(&daemon);
    assert_eq!(summary.poller.turned_away, Some(10 - served as u64), "{:?}", summary.poller);
}

#[test]
fn no_descriptor_and_no_ring_outlives_its_session() {
    let _alone = ALONE.lock();
    let open = || std::fs::read_dir("/proc/self/fd").expect("a Linux").count();
    let before = open();
    let Some((daemon, server)) = start(&["--write-timeout", "300ms"]) else { return };
    let idle = open();
    for round in 0..300 {
        let mut client = Client::connect(server);
        match round % 4 {
            0 => client.reset(),
            1 => {
                client.send(&text(100_000, round));
                client.reset();
            }
            2 => client.send(&text(5_000, round)),
            _ => client.echo(&text(20_000, round)),
        }
    }
    let stuck: Vec<Client> = (0..10).map(|_| Client::stuffed(server)).collect();
    wait_until("they have run into the timeout", || closed(&daemon.summary(), "write_timeout") == 10);
    drop(stuck);
    wait_until("all have ended", || daemon.summary().open == 0);
    wait_until("their descriptors are closed", || open() == idle);
    drain(&daemon);
    drop(daemon);
    wait_until("the engine's own are closed", || open() == before);
}
