//! Where `event-loops` puts new sessions (`--placement`): who reads the bytes of whom, by the counters of each loop.

#[path = "support/client.rs"]
mod client;

use std::net::SocketAddr;

use maitred::daemon::Daemon;

use client::{Client, config, drain, start, wait_until};

fn start_with(flags: &[&str]) -> (Daemon, SocketAddr) {
    let named = ["--engine", "event-loops", "--idle-timeout", "off", "--listen", "echo=tcp://127.0.0.1:0"];
    start(&config(&[&named[..], flags].concat()))
}

/// Bytes that each loop has read so far.
fn read_bytes(daemon: &Daemon) -> Vec<u64> {
    daemon.summary().worker_turns.iter().map(|turns| turns.read_bytes.expect("every loop counts them")).collect()
}

/// Clients that have been answered once each, and how many of them each loop serves.
fn arrive(daemon: &Daemon, server: SocketAddr, count: usize) -> (Vec<Client>, Vec<u64>) {
    let before = read_bytes(daemon);
    let arrive = |_| {
        let mut client = Client::connect(server);
        client.echo(b"1");
        client
    };
    let clients = (0..count).map(arrive).collect();
    let served =
        || -> Vec<u64> { read_bytes(daemon).iter().zip(&before).map(|(after, before)| after - before).collect() };
    wait_until("all answers are counted", || served().iter().sum::<u64>() == count as u64);
    (clients, served())
}

#[test]
fn round_robin_deals_to_each_loop_in_turn() {
    let (daemon, server) = start_with(&["--workers", "3", "--placement", "round-robin"]);
    let (_clients, served) = arrive(&daemon, server, 9);
    assert_eq!(served, [3, 3, 3]);
    drain(&daemon);
}

#[test]
fn the_loop_with_the_fewest_sessions_gets_the_next_one() {
    let (daemon, server) = start_with(&["--workers", "2", "--placement", "least"]);
    let (mut clients, served) = arrive(&daemon, server, 6);
    assert_eq!(served, [3, 3]);
    // They were dealt in turn: those of the second loop leave.
    let mut place = 0;
    clients.retain(|_| {
        place += 1;
        place % 2 == 1
    });
    wait_until("they have left", || daemon.summary().open == 3);
    let (_more, served) = arrive(&daemon, server, 3);
    assert_eq!(served, [0, 3]);
    drain(&daemon);
}

#[test]
fn clients_that_were_turned_away_make_no_loop_seem_empty() {
    let (daemon, server) = start_with(&["--workers", "2", "--placement", "least", "--max-connections", "4"]);
    let (clients, _) = arrive(&daemon, server, 4);
    (0..20).for_each(|_| Client::connect(server).wait_for_end());
    drop(clients);
    wait_until("they have left", || daemon.summary().open == 0);
    let (_clients, served) = arrive(&daemon, server, 4);
    assert_eq!(served, [2, 2]);
    drain(&daemon);
}
