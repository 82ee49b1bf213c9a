//! The contract of every engine: one table of conversations over real sockets.
//!
//! Each conversation is held on every engine of the registry that carries the service, under each of [`SETTINGS`], and
//! after each the daemon is drained and its books are checked. A new engine gets all of them by registering; a new
//! service fails here until it has conversations. Faults that need a process of their own are in `faults.rs`.

#[path = "support/client.rs"]
mod client;

use std::io::Write;
use std::net::SocketAddr;
use std::thread;

use maitred::config::{EngineInfo, Scheme};
use maitred::engine::ENGINES;
use maitred::service::{self, SERVICES};

use client::{Client, closed, config, drain, start, text};

/// How the engine may be told to work; every conversation goes the same way under all of them.
const SETTINGS: &[&[&str]] = &[
    &[],
    &["--rearm", "oneshot"],
    &["--low-water", "off"],
    &["--wake", "each"],
    &["--workers", "1"],
    &["--workers", "4", "--queue", "1"],
    &["--ring", "1KiB", "--budget", "1"],
    &["--assist", "off"],
    &["--stages", "on"],
    &["--pin"],
    &["--rearm", "oneshot", "--ring", "1KiB", "--budget", "1", "--workers", "4", "--queue", "1", "--assist", "off"],
];

struct Conversation {
    service: &'static str,
    /// The listener's parameters.
    query: &'static str,
    /// The ways in which its sessions may end.
    ends: &'static [&'static str],
    /// Talks, and says with how many connections.
    talk: fn(SocketAddr) -> u64,
}

/// Makes each row a test of its name, and the list of services that have one.
macro_rules! conversations {
    ($($name:ident: $service:literal $query:literal $ends:expr, $talk:expr;)+) => {
        $(
            #[test]
            fn $name() {
                check(&Conversation { service: $service, query: $query, ends: $ends, talk: $talk });
            }
        )+

        const SPOKEN: &[&str] = &[$($service),+];
    };
}

conversations! {
    echo_of_nothing_is_a_fin: "echo" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        client.finish();
        client.expect_end();
        1
    };
    echo_of_one_byte: "echo" "" FINISHED, |server| say_and_finish(server, 1);
    echo_of_a_small_message: "echo" "" FINISHED, |server| say_and_finish(server, 64);
    echo_of_exactly_one_small_ring: "echo" "" FINISHED, |server| say_and_finish(server, 1 << 10);
    echo_of_exactly_one_large_ring: "echo" "" FINISHED, |server| say_and_finish(server, 64 << 10);
    echo_while_it_is_written: "echo" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        let bytes = text(1 << 20, 0);
        let mut writer = client.0.try_clone().expect("a second handle");
        thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&bytes).expect("the daemon reads"));
            client.expect(&bytes);
        });
        client.finish();
        client.expect_end();
        1
    };
    echo_to_requests_one_after_the_other: "echo" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        for len in 1..100 {
            client.echo(&text(len, len));
        }
        client.finish();
        client.expect_end();
        1
    };
    echo_to_bytes_one_at_a_time: "echo" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        let bytes = text(400, 1);
        for byte in bytes.chunks(1) {
            client.send(byte);
        }
        client.expect(&bytes);
        for byte in bytes.chunks(1).take(50) {
            client.echo(byte);
        }
        client.finish();
        client.expect_end();
        1
    };
    echo_around_urgent_data: "echo" "" FINISHED, |server| {
        // The urgent byte itself is not in the stream; what follows it must not wait for more to come.
        let mut client = Client::connect(server);
        for _ in 0..50 {
            rustix::net::send(&client.0, b"abc", rustix::net::SendFlags::OOB).expect("the daemon reads");
            client.send(b"defgh");
            client.expect(b"abdefgh");
        }
        client.finish();
        client.expect_end();
        1
    };
    echo_after_a_half_close: "echo" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        let bytes = text(100_000, 2);
        client.send(&bytes);
        client.finish();
        client.expect(&bytes);
        client.expect_end();
        1
    };
    echo_to_pipelined_writes: "echo" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        let bytes = text(64 * 500, 3);
        for request in bytes.chunks(64) {
            client.send(request);
        }
        client.expect(&bytes);
        client.finish();
        client.expect_end();
        1
    };
    echo_until_nul_ends_with_the_nul: "echo" "?terminator=nul" LEFT, |server| {
        let mut client = Client::connect(server);
        client.send(b"before\0after");
        client.expect(b"before\0");
        client.expect_end();
        // The daemon has sent its FIN and drops what still comes.
        client.send(&text(10_000, 4));
        1
    };
    echo_until_nul_at_once: "echo" "?terminator=nul" LEFT, |server| {
        let mut client = Client::connect(server);
        client.send(b"\0\0after");
        client.expect(b"\0");
        client.expect_end();
        1
    };
    echo_until_nul_across_writes: "echo" "?terminator=nul" LEFT, |server| {
        let mut client = Client::connect(server);
        let bytes = text(5_000, 5);
        client.echo(&bytes);
        client.echo(&bytes);
        client.echo(b"\0");
        client.expect_end();
        1
    };
    echo_until_nul_without_a_nul: "echo" "?terminator=nul" FINISHED, |server| {
        let mut client = Client::connect(server);
        let bytes = text(50_000, 6);
        client.send(&bytes);
        client.finish();
        client.expect(&bytes);
        client.expect_end();
        1
    };
    echo_to_three_hundred_clients: "echo" "" FINISHED, |server| {
        let mut clients: Vec<Client> = (0..300).map(|_| Client::connect(server)).collect();
        let bytes = |client: usize, round: usize| text(1 + (client * 37 + round * 501) % 3_000, client + round);
        for round in 0..3 {
            for (number, client) in clients.iter_mut().enumerate() {
                client.send(&bytes(number, round));
            }
            for (number, client) in clients.iter_mut().enumerate() {
                client.expect(&bytes(number, round));
            }
        }
        for client in &mut clients {
            client.finish();
        }
        for client in &mut clients {
            client.expect_end();
        }
        300
    };
    clients_that_connect_and_leave: "echo" "" LEFT, |server| {
        for _ in 0..20 {
            drop(Client::connect(server));
        }
        say_and_finish(server, 64) + 20
    };
    clients_that_reset_disturb_nobody: "echo" "" ANY, |server| {
        thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || {
                    let mut client = Client::connect(server);
                    for round in 0..60 {
                        client.echo(&text(1 + round * 50, number + round));
                    }
                    client.finish();
                    client.expect_end();
                });
            }
            for round in 0..30 {
                let mut client = Client::connect(server);
                // In mid-transfer: some of it is on its way back.
                client.send(&text(round * 1_000, round));
                client.reset();
            }
        });
        34
    };
    sessions_open_at_the_drain_are_answered: "echo" "" DRAINED, |server| {
        // Held until the process ends: the drain must not wait for these clients to leave.
        for number in 0..10 {
            let mut client = Client::connect(server);
            client.echo(&text(100, number));
            std::mem::forget(client);
        }
        10
    };
}

const FINISHED: &[&str] = &["finished"];
/// The drain may come before the client's FIN.
const LEFT: &[&str] = &["finished", "drained", "reset", "peer_closed"];
const DRAINED: &[&str] = &["drained"];
const ANY: &[&str] = &["finished", "drained", "reset", "peer_closed"];

fn say_and_finish(server: SocketAddr, len: usize) -> u64 {
    let mut client = Client::connect(server);
    client.echo(&text(len, 0));
    client.finish();
    client.expect_end();
    1
}

/// Holds the conversation on every engine that carries its service, under all settings.
fn check(conversation: &Conversation) {
    let entry = service::find(conversation.service).expect("the service is registered");
    for engine in ENGINES {
        for scheme in entry.schemes {
            let scheme = Scheme::from_name(scheme).expect("services name schemes that exist");
            if (engine.carries)(entry.name, scheme).is_ok() {
                assert_eq!(scheme, Scheme::Tcp, "there are conversations over TCP only");
                SETTINGS.iter().for_each(|settings| hold(conversation, engine, settings));
            }
        }
    }
}

fn hold(conversation: &Conversation, engine: &EngineInfo, settings: &[&str]) {
    let Conversation { service, query, ends, talk } = conversation;
    let listener = format!("{service}=tcp://127.0.0.1:0{query}");
    let shown = format!("{listener} on {} {}", engine.name, settings.join(" "));
    let told = Told(&shown);
    // A machine that is busy with other things must not end a session that waits for it.
    let patience = ["--write-timeout", "1h", "--idle-timeout", "off"];
    let named = ["--engine", engine.name, "--listen", &listener];
    let (daemon, server) = start(&config(&[&named[..], &patience, settings].concat()));
    let connections = talk(server);
    let summary = drain(&daemon);
    assert_eq!(summary.accepted, connections, "every connection was accepted");
    let ended: u64 = ends.iter().map(|way| closed(&summary, way)).sum();
    assert_eq!(ended, connections, "sessions end as {ends:?}: {:?}", summary.closed);
    drop(told);
}

/// Says which conversation it was if the test panics.
struct Told<'a>(&'a str);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("in the conversation with {}", self.0);
        }
    }
}

#[test]
fn every_service_has_conversations() {
    for entry in SERVICES {
        assert!(SPOKEN.contains(&entry.name), "{} has no conversation in this table", entry.name);
    }
}
