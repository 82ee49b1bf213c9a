//! What a daemon says of its own system calls and of its queue is what it did, on every engine.
//!
//! One client asks for one thing after the other, so that what has to be done for it is known: each echo comes by a read and
//! leaves by a write, and before each somebody waits.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;

use std::fs;
use std::io::Read;
use std::net::SocketAddr;

use maitred::config::AtOnce;

use client::{Client, text};
use daemon::{Daemon, Summary};
use engines::for_each_engine;

/// Echoes, of which each is answered before the next is asked for.
const ECHOES: u64 = 40;

fn talk(address: SocketAddr) {
    let mut client = Client::connect(address);
    (0..ECHOES as usize).for_each(|round| client.echo(&text(64, round)));
    client.finish();
    client.expect_end();
}

#[test]
fn every_echo_is_a_wait_a_read_and_a_write() {
    for_each_engine(AtOnce::One, &[], |engine| {
        let daemon = Daemon::echo(engine.name, &[]);
        talk(daemon.address());
        let summary = daemon.drain();
        let (reads, writes, calls) = (summary.turns("reads"), summary.turns("writes"), summary.count("system_calls"));
        let polls_for_sessions = summary.0.get("batch_sizes").is_some();
        let waits = if polls_for_sessions { summary.count("poller.polls") } else { summary.turns("waits") };
        assert!(waits >= ECHOES, "{waits} waits: {summary:?}");
        assert!(calls >= waits + reads + writes, "{summary:?}");
        if engine.name == "proactor" {
            assert!(reads + writes < ECHOES, "its ring reads and writes with the waits: {summary:?}");
        } else {
            assert_eq!(writes, ECHOES, "{summary:?}");
            // The FIN is read, too.
            assert!((ECHOES + 1..=3 * ECHOES).contains(&reads), "{reads} reads: {summary:?}");
            assert!(summary.turns("read_blocks") < reads, "{summary:?}");
            assert!(calls > waits + reads + writes, "somebody has accepted, too: {summary:?}");
        }
    });
}

#[test]
fn a_batch_is_counted_once_by_the_depth_behind_it_where_there_is_a_queue() {
    for_each_engine(AtOnce::One, &[], |engine| {
        let flags: &[&str] = if engine.name == "pool" { &["--assist", "off"] } else { &[] };
        let daemon = Daemon::echo(engine.name, flags);
        talk(daemon.address());
        let summary = daemon.drain();
        if engine.name == "pool" {
            // One client: one session in each batch, and nothing beside it in the queue.
            let (depths, deepest) = (depths(&summary), summary.count("poller.queue_depth_max"));
            let batches: u64 = depths.iter().sum();
            assert!(batches > 0 && batches == summary.count("poller.queued"), "{summary:?}");
            assert_eq!(depths[0] + depths[1], batches, "{summary:?}");
            assert!(deepest <= 1 && (depths[1] == 0 || deepest == 1), "{summary:?}");
        } else {
            assert!(summary.0.get("queue_depths").is_none(), "it has no queue: {summary:?}");
        }
    });
}

#[test]
fn what_the_kernel_moves_by_itself_is_counted_by_its_calls() {
    let bytes = text(4 << 20, 1);
    let folder = tempfile::tempdir().expect("a temporary directory");
    fs::write(folder.path().join("file"), &bytes).expect("there is room for it");
    let listen = format!("files=tcp://127.0.0.1:0?root={}", folder.path().display());
    let files = Daemon::echo("pool", &["--listen", &listen]);
    let mut client = Client::connect(files.address());
    client.send(b"GET file\nQUIT\n");
    let mut answer = Vec::new();
    client.0.read_to_end(&mut answer).expect("it comes whole");
    assert!(answer.ends_with(&bytes));
    let summary = files.drain();
    // A part of a file is 1 MiB at the most.
    assert!(summary.turns("writes") << 20 >= bytes.len() as u64, "{summary:?}");

    let target = Daemon::echo("pool", &["--listen", "discard=tcp://127.0.0.1:0"]);
    let relay = Daemon::echo("pool", &["--listen", &format!("relay=tcp://127.0.0.1:0?to=tcp://{}", target.address())]);
    let mut client = Client::connect(relay.address());
    client.send(&bytes);
    client.finish();
    client.expect_end();
    // A pipe, like a ring, holds 256 KiB at the most.
    for (daemon, counts) in [(relay, ["reads", "writes"].as_slice()), (target, ["reads"].as_slice())] {
        let summary = daemon.drain();
        for name in counts {
            assert!(summary.turns(name) << 18 >= bytes.len() as u64, "{name}: {summary:?}");
        }
    }
}

fn depths(summary: &Summary) -> Vec<u64> {
    let depths = summary.0["queue_depths"].as_array().expect("it has a queue");
    depths.iter().map(|count| count.as_u64().expect("a count")).collect()
}
