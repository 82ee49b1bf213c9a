//! The contract of every engine: one table of conversations over real sockets, by TCP (`udp_contract.rs` has those by UDP).
//!
//! Each conversation is held with the program, on every engine of the registry that carries the service; after each the
//! daemon is drained and its books are checked. A new engine gets all of them by registering; a new service fails here
//! until it has conversations. A conversation that holds several clients at once is for the engines that serve [`Many`].
//!
//! Not every pair of conversation and settings is worth a process on every engine. All conversations are held at the
//! defaults; those that are [`Core`], in which bytes, turns and ends go different ways, also under each other row of
//! [`SETTINGS`] that the engine has a use for. On the default engine, the one with the most settings, all are.
//!
//! To hold them on one engine only: `MAITRED_TEST_ENGINE=pool cargo test --test engine_contract`; so also `faults`,
//! `signals` and `faulty_services`, where the rest of the contract is.

#[path = "support/chargen.rs"]
mod chargen;
#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;
#[path = "support/relays.rs"]
mod relays;
#[path = "support/targets.rs"]
mod targets;
#[path = "support/work.rs"]
mod work;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use std::time::SystemTime;

use maitred::config::AtOnce::{self, Many, One};
use maitred::config::{ENGINE, EngineInfo, Scheme};
use maitred::service::{self, Bounds, Entry, SERVICES};

use client::{Client, text};
use daemon::Daemon;
use engines::{LeftOut, Told, check_left_out, fitting, rows_for};
use process::check_all;

use Weight::{Core, Plain};

/// How an engine may be told to work, the defaults first; every conversation goes the same way under all of them.
const SETTINGS: &[&[&str]] = &[
    &[],
    &["--rearm", "oneshot"],
    &["--low-water", "off"],
    &["--wake", "each"],
    &["--workers", "1"],
    &["--workers", "4"],
    &["--workers", "4", "--queue", "1"],
    &["--ring", "1KiB"],
    &["--ring", "1KiB", "--budget", "1"],
    &["--assist", "off"],
    &["--stages", "on"],
    &["--pin"],
    &["--rearm", "oneshot", "--ring", "1KiB", "--budget", "1", "--workers", "4", "--queue", "1", "--assist", "off"],
];

/// The engines that a conversation is not for, other than by the number of its clients.
const LEFT_OUT: &[LeftOut] = &[LeftOut {
    test: "echo_to_three_hundred_clients",
    engine: "prefork",
    reason: "it has 256 processes at the most, unless it is told otherwise, and each serves one",
}];

struct Conversation {
    name: &'static str,
    /// How many clients it holds at once.
    at_once: AtOnce,
    weight: Weight,
    service: &'static str,
    /// The listener's parameters.
    query: &'static str,
    /// The ways in which its sessions may end.
    ends: &'static [&'static str],
    /// Talks, and says with how many connections.
    talk: fn(SocketAddr) -> u64,
}

/// Whether it is held under other settings than the defaults, too.
#[derive(Clone, Copy, PartialEq)]
enum Weight {
    Core,
    Plain,
}

/// Makes each row a test of its name, and the list of services that have one.
macro_rules! conversations {
    ($($name:ident: $at_once:ident $weight:ident $service:literal $query:literal $ends:expr, $talk:expr;)+) => {
        $(
            #[test]
            fn $name() {
                check(&Conversation {
                    name: stringify!($name),
                    at_once: $at_once, weight: $weight, service: $service, query: $query, ends: $ends, talk: $talk
                });
            }
        )+

        const SPOKEN: &[&str] = &[$($service),+];
    };
}

conversations! {
    echo_of_nothing_is_a_fin: One Plain "echo" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        client.finish();
        client.expect_end();
        1
    };
    echo_of_one_byte: One Plain "echo" "" FINISHED, |server| say_and_finish(server, 1);
    echo_of_a_small_message: One Core "echo" "" FINISHED, |server| say_and_finish(server, 64);
    echo_of_exactly_one_small_ring: One Plain "echo" "" FINISHED, |server| say_and_finish(server, 1 << 10);
    echo_of_exactly_one_large_ring: One Core "echo" "" FINISHED, |server| say_and_finish(server, 64 << 10);
    echo_while_it_is_written: One Core "echo" "" FINISHED, |server| relays::both_ways(server, 1 << 20);
    echo_to_requests_one_after_the_other: One Plain "echo" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        for len in 1..100 {
            client.echo(&text(len, len));
        }
        client.finish();
        client.expect_end();
        1
    };
    echo_to_bytes_one_at_a_time: One Plain "echo" "" FINISHED, |server| {
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
    echo_around_urgent_data: One Core "echo" "" FINISHED, |server| {
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
    echo_after_a_half_close: One Core "echo" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        let bytes = text(100_000, 2);
        client.send(&bytes);
        client.finish();
        client.expect(&bytes);
        client.expect_end();
        1
    };
    echo_to_pipelined_writes: One Core "echo" "" FINISHED, |server| {
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
    echo_until_nul_ends_with_the_nul: One Core "echo" "?terminator=nul" LEFT, |server| {
        let mut client = Client::connect(server);
        client.send(b"before\0after");
        client.expect(b"before\0");
        client.expect_end();
        // The daemon has sent its FIN and drops what still comes.
        client.send(&text(10_000, 4));
        1
    };
    echo_until_nul_at_once: One Plain "echo" "?terminator=nul" LEFT, |server| {
        let mut client = Client::connect(server);
        client.send(b"\0\0after");
        client.expect(b"\0");
        client.expect_end();
        1
    };
    echo_until_nul_across_writes: One Plain "echo" "?terminator=nul" LEFT, |server| {
        let mut client = Client::connect(server);
        let bytes = text(5_000, 5);
        client.echo(&bytes);
        client.echo(&bytes);
        client.echo(b"\0");
        client.expect_end();
        1
    };
    echo_until_nul_without_a_nul: One Plain "echo" "?terminator=nul" FINISHED, |server| {
        let mut client = Client::connect(server);
        let bytes = text(50_000, 6);
        client.send(&bytes);
        client.finish();
        client.expect(&bytes);
        client.expect_end();
        1
    };
    echo_to_sixty_clients: Many Core "echo" "" FINISHED, |server| echo_to(60, server);
    echo_to_three_hundred_clients: Many Plain "echo" "" FINISHED, |server| echo_to(300, server);
    echo_to_one_hundred_clients_one_after_the_other: One Plain "echo" "" FINISHED, |server| {
        (1..=100).map(|number| say_and_finish(server, number * 37)).sum()
    };
    a_client_that_comes_second_is_served_when_the_first_has_left: One Core "echo" "" FINISHED, |server| {
        let mut first = Client::connect(server);
        first.echo(&text(1_000, 1));
        let mut second = Client::connect(server);
        second.send(&text(1_000, 2));
        first.finish();
        first.expect_end();
        second.expect(&text(1_000, 2));
        second.finish();
        second.expect_end();
        2
    };
    files_are_looked_at_hashed_and_sent_in_order: One Core "files" "?root=." FINISHED, |server| ask_for_files(server);
    files_are_copied_to_whom_they_are_sent: One Plain "files" "?root=.&send=copy&piece=4KiB" FINISHED, |server| {
        ask_for_files(server)
    };
    clients_that_connect_and_leave: One Plain "echo" "" LEFT, |server| {
        for _ in 0..20 {
            drop(Client::connect(server));
        }
        say_and_finish(server, 64) + 20
    };
    clients_that_reset_disturb_nobody: Many Core "echo" "" ANY, |server| {
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
    clients_that_reset_do_not_keep_the_next_one_waiting: One Core "echo" "" ANY, |server| {
        for round in 0..30 {
            let mut client = Client::connect(server);
            client.send(&text(round * 1_000, round));
            client.reset();
        }
        say_and_finish(server, 64) + 30
    };
    chat_between_two_clients: Many Core "chat" "" LEFT, |server| {
        let mut clients = [Client::connect(server), Client::connect(server)];
        // Again and again, since nobody knows who else is in the room already.
        speak_until_heard(&mut clients, 0, 1);
        speak_until_heard(&mut clients, 1, 0);
        clients.iter_mut().for_each(Client::finish);
        2
    };
    watch_of_a_value_that_is_set: Many Core "watch" "" LEFT, |server| {
        let [mut watcher, mut setter] = [Client::connect(server), Client::connect(server)];
        watcher.send(b"WATCH\n");
        watcher.expect(b"VALUE 0 \n");
        for version in 1..100 {
            setter.send(format!("SET {version}\nSET {version}\n").as_bytes());
            setter.expect(format!("OK {version}\nOK {version}\n").as_bytes());
            watcher.expect(format!("VALUE {version} {version}\n").as_bytes());
        }
        setter.finish();
        setter.expect_end();
        2
    };
    a_session_open_at_the_drain_is_answered: One Core "echo" "" DRAINED, |server| {
        let mut client = Client::connect(server);
        client.echo(&text(100, 7));
        std::mem::forget(client);
        1
    };
    sessions_open_at_the_drain_are_answered: Many Core "echo" "" DRAINED, |server| {
        // Held until the process ends: the drain must not wait for these clients to leave.
        for number in 0..10 {
            let mut client = Client::connect(server);
            client.echo(&text(100, number));
            std::mem::forget(client);
        }
        10
    };
    discard_of_nothing_is_a_fin: One Plain "discard" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        client.finish();
        client.expect_end();
        1
    };
    discard_takes_everything_and_says_nothing: One Core "discard" "" FINISHED, |server| {
        let mut client = Client::connect(server);
        for round in 0..40 {
            client.send(&text(1 + round * 1_300, round));
        }
        client.finish();
        client.expect_end();
        1
    };
    discard_from_a_client_that_stays: One Plain "discard" "" DRAINED, |server| {
        let mut client = Client::connect(server);
        client.send(&text(100_000, 0));
        std::mem::forget(client);
        1
    };
    chargen_goes_on_until_the_client_has_left: One Core "chargen" "" BROKEN, |server| {
        let mut client = Client::connect(server);
        client.expect(&chargen::pattern(500_000));
        1
    };
    chargen_to_a_slow_reader: One Core "chargen" "" BROKEN, |server| {
        let mut client = Client::connect_small(server);
        // More than the kernel holds for it: the daemon has had to stop many times.
        for piece in chargen::pattern(400_000).chunks(601) {
            client.expect(piece);
        }
        1
    };
    chargen_goes_on_after_a_half_close: One Core "chargen" "" BROKEN, |server| {
        let mut client = Client::connect(server);
        client.finish();
        client.expect(&chargen::pattern(500_000));
        1
    };
    chargen_to_a_client_that_talks: One Core "chargen" "" BROKEN, |server| {
        let mut client = Client::connect(server);
        let pattern = chargen::pattern(300_000);
        for (round, piece) in pattern.chunks(10_000).enumerate() {
            client.send(&text(1_000, round));
            client.expect(piece);
        }
        1
    };
    chargen_to_a_client_that_talks_and_does_not_listen: One Plain "chargen" "" BROKEN, |server| {
        // More than both kernels hold: it can only be sent if it is read, while nothing is taken.
        let mut client = Client::connect(server);
        client.send(&text(6 << 20, 0));
        client.expect(&chargen::pattern(100_000));
        1
    };
    chargen_to_a_client_that_stays: One Core "chargen" "" DRAINED, |server| {
        let mut client = Client::connect(server);
        client.expect(&chargen::pattern(100_000));
        // It goes on reading, so that the speech could go on for ever.
        thread::spawn(|| client.wait_for_end());
        1
    };
    chargen_to_clients_that_come_and_go: One Plain "chargen" "" BROKEN, |server| {
        for round in 0..20 {
            let mut client = Client::connect(server);
            client.expect(&chargen::pattern(round * 100));
            if round % 2 == 0 {
                client.reset();
            }
        }
        20
    };
    chargen_to_clients_beside_each_other: Many Plain "chargen" "" BROKEN, |server| {
        let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(server)).collect();
        for piece in chargen::pattern(200_000).chunks(50_000) {
            clients.iter_mut().for_each(|client| client.expect(piece));
        }
        10
    };
    daytime_is_a_line_and_a_fin: One Core "daytime" "" LEFT, |server| {
        let told = told(server, |_| {});
        assert!(told.is_ascii() && told.ends_with(b"-UTC\r\n") && told.len() <= 64, "{}", told.escape_ascii());
        1
    };
    daytime_to_a_client_that_talks: One Plain "daytime" "" LEFT, |server| {
        let told = told(server, |client| client.send(b"what time is it?\r\n"));
        assert!(told.ends_with(b"-UTC\r\n"), "{}", told.escape_ascii());
        1
    };
    daytime_to_a_client_that_has_finished: One Plain "daytime" "" LEFT, |server| {
        let told = told(server, Client::finish);
        assert!(told.ends_with(b"-UTC\r\n"), "{}", told.escape_ascii());
        1
    };
    time_is_four_bytes_and_a_fin: One Core "time" "" LEFT, |server| {
        let before = seconds_since_1900();
        let told = u32::from_be_bytes(told(server, |_| {}).try_into().expect("four bytes"));
        // It may pass 2036 in between.
        assert!(told.wrapping_sub(before) <= seconds_since_1900().wrapping_sub(before), "{told} and {before}");
        1
    };
    time_to_a_client_that_has_finished: One Plain "time" "" LEFT, |server| {
        assert_eq!(told(server, Client::finish).len(), 4);
        1
    };
    work_that_takes_no_time: One Core "work" "" FINISHED, work::without_time;
    work_in_flight_is_answered_in_any_order: One Core "work" "" FINISHED, work::in_any_order;
    work_of_a_thousand_requests_in_one_write: One Core "work" "" FINISHED, work::a_thousand_in_one_write;
    work_by_bytes_one_at_a_time: One Plain "work" "" FINISHED, work::by_bytes;
    work_with_payloads_larger_than_a_ring: One Core "work" "" FINISHED, work::larger_than_a_ring;
    work_to_a_client_that_reads_late: One Core "work" "" FINISHED, work::read_late;
    work_in_flight_at_the_fin_is_answered_first: One Core "work" "" FINISHED, work::before_the_fin;
    work_of_clients_that_leave_it_in_flight: One Core "work" "" ANY, work::left_in_flight;
    work_that_nobody_may_ask_for_ends_the_session: One Plain "work" "" &["protocol"], work::not_allowed;
    work_for_clients_beside_each_other: Many Core "work" "" FINISHED, work::beside_each_other;
    relay_of_nothing_is_a_fin_each_way: One Plain "relay" "?to=tcp://{echo}" FINISHED, |server| {
        let mut client = Client::connect(server);
        client.finish();
        client.expect_end();
        1
    };
    relay_of_requests_one_after_the_other: One Core "relay" "?to=tcp://{echo}" FINISHED, relays::requests;
    relay_both_ways_at_once: One Core "relay" "?to=tcp://{echo}" FINISHED, |server| relays::both_ways(server, 3 << 20);
    relay_of_a_half_close_from_the_client: One Core "relay" "?to=tcp://{echo}" FINISHED, relays::finished_first;
    relay_of_a_half_close_from_the_target: One Core "relay" "?to=tcp://{speaker}" FINISHED, relays::heard_out_first;
    relay_of_a_reset_by_the_target: One Core "relay" "?to=tcp://{resetter}" RESET, relays::reset_by_the_target;
    relay_of_clients_that_reset: One Core "relay" "?to=tcp://{echo}" ANY, |server| {
        relays::reset_by_clients(server) + say_and_finish(server, 64)
    };
    relay_to_one_hundred_clients: Many Core "relay" "?to=tcp://{echo}&to=tcp://{echo}" FINISHED, |server| {
        echo_to(100, server)
    };
    relay_open_at_the_drain: One Core "relay" "?to=tcp://{echo}" DRAINED, relays::open_at_the_drain;
}

const FINISHED: &[&str] = &["finished"];
/// The drain may come before the client's FIN.
const LEFT: &[&str] = &["finished", "drained", "reset", "peer_closed"];
const DRAINED: &[&str] = &["drained"];
const RESET: &[&str] = &["reset"];
const ANY: &[&str] = &["finished", "drained", "reset", "peer_closed"];
/// Nothing more could be sent, unless the drain came first.
const BROKEN: &[&str] = &["reset", "peer_closed", "drained"];

/// Requests of all sizes from clients that are all there at once, and as many answers.
fn echo_to(count: usize, server: SocketAddr) -> u64 {
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(server)).collect();
    let bytes = |client: usize, round: usize| text(1 + (client * 37 + round * 501) % 3_000, client + round);
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&bytes(number, round));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect(&bytes(number, round));
        }
    }
    clients.iter_mut().for_each(Client::finish);
    clients.iter_mut().for_each(Client::expect_end);
    count as u64
}

/// All that the daemon says to a client that does this first.
fn told(server: SocketAddr, first: fn(&mut Client)) -> Vec<u8> {
    let mut client = Client::connect(server);
    first(&mut client);
    let mut told = Vec::new();
    client.0.read_to_end(&mut told).expect("the daemon ends the connection in order");
    told
}

fn seconds_since_1900() -> u32 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set");
    (since_1970.as_secs() + 70 * 365 * 86_400 + 17 * 86_400) as u32
}

/// One client says the same until the other has heard it.
fn speak_until_heard(clients: &mut [Client; 2], speaker: usize, listener: usize) {
    let message = [&[0, 0, 0, 100], &text(100, speaker)[..]].concat();
    let mut voice = clients[speaker].0.try_clone().expect("a second handle");
    thread::scope(|scope| {
        let ear = scope.spawn(|| clients[listener].expect(&message));
        while !ear.is_finished() {
            voice.write_all(&message).expect("the daemon reads");
            thread::yield_now();
        }
    });
}

fn say_and_finish(server: SocketAddr, len: usize) -> u64 {
    let mut client = Client::connect(server);
    client.echo(&text(len, 0));
    client.finish();
    client.expect_end();
    1
}

/// Holds the conversation on every engine that carries its service, under all settings, several at a time.
fn check(conversation: &Conversation) {
    let entry = service::find(conversation.service).expect("the service is registered");
    let is_carried = |engine: &EngineInfo| (engine.carries)(entry.name, Scheme::Tcp).is_ok();
    let fitting = fitting(conversation.name, conversation.at_once, LEFT_OUT);
    let needs_memory = |engine: &EngineInfo| engine.forks && meets_in_memory(entry, conversation.query);
    let rows = fitting.into_iter().filter(|engine| is_carried(engine) && !needs_memory(engine)).flat_map(|engine| {
        let is_under_all = conversation.weight == Core || engine.name == ENGINE;
        let settings = if is_under_all { rows_for(engine, SETTINGS) } else { vec![SETTINGS[0]] };
        settings.into_iter().map(move |settings| (engine, settings))
    });
    check_all(rows, |(engine, settings)| hold(conversation, engine, settings));
}

/// Pipelines commands of every kind about a file of this repository.
fn ask_for_files(server: SocketAddr) -> u64 {
    let file = include_bytes!("../Cargo.lock");
    let mut digest = maitred::digest::Digest::new();
    digest.update(file);
    let (size, hash) = (file.len(), maitred::digest::hex(&digest.finish()));
    let modified = std::fs::metadata("Cargo.lock").and_then(|metadata| metadata.modified()).expect("it is there");
    let modified_s = modified.duration_since(SystemTime::UNIX_EPOCH).expect("it is young").as_secs();
    let mut client = Client::connect(server);
    client.send(b"STAT Cargo.lock\r\nHASH Cargo.lock\nGET Cargo.lock\nSTAT src/../Cargo.lock\nGET ../x\nHASH src\n");
    client.send(b"EAT Cargo.lock\nGET Cargo.lock\nQUIT\nSTAT Cargo.lock\n");
    client.expect(format!("OK {size} {modified_s}\nOK {hash} {size}\nOK {size}\n").as_bytes());
    client.expect(file);
    client.expect(format!("OK {size} {modified_s}\nERR outside it leads out of the root\n").as_bytes());
    client.expect(b"ERR not-a-file it is no regular file\nERR bad-command STAT, HASH, GET, ADD or DEL and a path; ");
    client.expect(format!("LIST, CHANGED or QUIT\nOK {size}\n").as_bytes());
    client.expect(file);
    client.finish();
    client.expect_end();
    1
}

/// Whether its sessions reach each other through memory, so that processes will not do.
fn meets_in_memory(entry: &Entry, query: &str) -> bool {
    let query = relays::with_targets(query);
    let pairs = query.trim_start_matches('?').split('&').filter_map(|pair| pair.split_once('='));
    let parameters: Vec<_> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let bounds = Bounds { max_frame_bytes: 1 << 20, max_demand: Duration::from_secs(10) };
    entry.build(&parameters, &bounds).expect("the listener is right").meets_in_memory()
}

fn hold(conversation: &Conversation, engine: &EngineInfo, settings: &[&str]) {
    let Conversation { service, query, ends, talk, .. } = conversation;
    let listener = format!("{service}=tcp://127.0.0.1:0{}", relays::with_targets(query));
    let _told = Told(format!("in the conversation with {listener} on {} {}", engine.name, settings.join(" ")));
    let daemon = Daemon::echo(engine.name, &[&["--listen", &listener][..], settings].concat());
    let connections = talk(daemon.address());
    let summary = daemon.drain();
    assert_eq!(summary.accepted(), connections, "every connection was accepted");
    let ended: u64 = ends.iter().map(|way| summary.closed(way)).sum();
    assert_eq!(ended, connections, "sessions end as {ends:?}: {summary:?}");
}

#[test]
fn every_service_has_conversations() {
    let bounds = Bounds { max_frame_bytes: 1 << 20, max_demand: Duration::from_secs(10) };
    // No engine serves a console; it has conversations in `console.rs`.
    let is_console = |entry: &Entry| entry.build(&[], &bounds).is_ok_and(|service| service.console().is_some());
    for entry in SERVICES.iter().filter(|entry| !is_console(entry)) {
        assert!(SPOKEN.contains(&entry.name), "{} has no conversation in this table", entry.name);
    }
}

#[test]
fn engines_are_left_out_of_conversations_that_there_are() {
    check_left_out(LEFT_OUT, include_str!("engine_contract.rs"));
}
