//! The contract of every engine over UDP: one table of conversations by datagrams, as `engine_contract.rs` has them by TCP.
//!
//! Each is held with the program on every engine that carries datagrams, at the defaults; those of `echo` also under each
//! other row of [`SETTINGS`] that the engine has a use for, and those of `relay` under a few. After each the daemon is drained, and its counts must be what was
//! said. What goes wrong on the way is in `udp_faults.rs`.

#[path = "support/chargen.rs"]
mod chargen;
#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/datagrams.rs"]
mod datagrams;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;
#[path = "support/targets.rs"]
mod targets;

use std::net::SocketAddr;
use std::time::SystemTime;

use maitred::config::{EngineInfo, Scheme};
use maitred::service::SERVICES;

use client::text;
use daemon::Daemon;
use datagrams::Asker;
use engines::{Told, engines, rows_for};
use process::check_all;

/// How an engine may be told to work, the defaults first; of the switches, all eight combinations.
const SETTINGS: &[&[&str]] = &[
    &[],
    &["--udp-mmsg", "off"],
    &["--udp-gso", "off"],
    &["--udp-gro", "off"],
    &["--udp-mmsg", "off", "--udp-gso", "off"],
    &["--udp-mmsg", "off", "--udp-gro", "off"],
    &["--udp-gso", "off", "--udp-gro", "off"],
    &["--udp-mmsg", "off", "--udp-gso", "off", "--udp-gro", "off"],
    &["--workers", "1"],
    &["--workers", "4", "--queue", "1"],
    &["--assist", "off", "--wake", "each"],
    &["--stages", "on"],
    &["--rearm", "oneshot"],
    &["--placement", "round-robin"],
];

/// The same for relays.
const RELAY_SETTINGS: &[&[&str]] = &[
    &[],
    &["--udp-mmsg", "off", "--udp-gso", "off", "--udp-gro", "off"],
    &["--workers", "4", "--queue", "1"],
    &["--stages", "on"],
];

struct Conversation {
    service: &'static str,
    /// Where it listens, and with which parameters; `{echo}` is a target.
    at: &'static str,
    /// Talks, and says how many datagrams it has sent and how many answers are due.
    talk: fn(SocketAddr) -> (u64, u64),
}

/// Makes each row a test of its name, and the list of services that have one.
macro_rules! conversations {
    ($($name:ident: $service:literal $at:literal, $talk:expr;)+) => {
        $(
            #[test]
            fn $name() {
                check(&Conversation { service: $service, at: $at, talk: $talk });
            }
        )+

        const SPOKEN: &[&str] = &[$($service),+];
    };
}

conversations! {
    echo_of_all_lengths: "echo" "127.0.0.1:0", |server| {
        let asker = Asker::of(server);
        let lengths = [0, 1, 2, 64, 1_472, 1_473, 9_000, 65_506, 65_507];
        lengths.iter().for_each(|len| asker.echo(&text(*len, *len)));
        (9, 9)
    };
    echo_by_version_six: "echo" "[::1]:0", |server| {
        let asker = Asker::of(server);
        [0, 1, 1_452, 65_507].iter().for_each(|len| asker.echo(&text(*len, *len)));
        (4, 4)
    };
    echo_to_many_at_once_in_their_order: "echo" "127.0.0.1:0", |server| {
        let askers: Vec<Asker> = (0..20).map(|_| Asker::of(server)).collect();
        // Runs of one length, with shorter and longer ones between, so that some may be joined.
        let bytes = |asker: usize, round: usize| text([64, 64, 64, 10, 500][round % 5], asker * 31 + round);
        for rounds in [0..10, 10..20, 20..30] {
            for (number, asker) in askers.iter().enumerate() {
                rounds.clone().for_each(|round| asker.send(&bytes(number, round)));
            }
            for (number, asker) in askers.iter().enumerate() {
                rounds.clone().for_each(|round| assert!(asker.hear() == bytes(number, round), "{number} {round}"));
            }
        }
        (600, 600)
    };
    echo_up_to_the_first_nul: "echo" "127.0.0.1:0?terminator=nul", |server| {
        let asker = Asker::of(server);
        assert_eq!(asker.ask(b"one\0two\0"), b"one\0");
        assert_eq!(asker.ask(b"three"), b"three");
        (2, 2)
    };
    discard_says_nothing: "discard" "127.0.0.1:0", |server| {
        let asker = Asker::of(server);
        (0..50).for_each(|len| asker.send(&text(len * 20, len)));
        (50, 0)
    };
    chargen_says_as_much_as_it_is_asked: "chargen" "127.0.0.1:0", |server| {
        let asker = Asker::of(server);
        for len in [0, 1, 73, 74, 75, 511, 512] {
            assert_eq!(asker.ask(&text(len, 0)), chargen::pattern(len));
        }
        for len in [513, 65_507] {
            assert_eq!(asker.ask(&text(len, 0)), chargen::pattern(512));
        }
        (9, 9)
    };
    daytime_is_a_line: "daytime" "127.0.0.1:0", |server| {
        let asker = Asker::of(server);
        for request in [&b""[..], b"what is the time?"] {
            let answer = String::from_utf8(asker.ask(request)).expect("a line of text");
            assert!(answer.ends_with("-UTC\r\n") && answer.len() <= 64 && answer.contains(" 20"), "{answer:?}");
        }
        (2, 2)
    };
    work_is_a_frame_a_datagram: "work" "127.0.0.1:0", |server| {
        let asker = Asker::of(server);
        for (kind, payload) in [(0_u8, 0_usize), (1, 10), (2, 1_000), (0, 30_000)] {
            let payload = text(payload, usize::from(kind));
            // Ten microseconds, with stamps, which a datagram has no room for.
            let head = [&7_u64.to_be_bytes()[..], &10_000_u64.to_be_bytes(), &[kind, 0, 0, 1]].concat();
            let request = [&((20 + payload.len()) as u32).to_be_bytes()[..], &head, &payload].concat();
            let answer = asker.ask(&request);
            assert_eq!(answer[..4], ((28 + payload.len()) as u32).to_be_bytes());
            assert_eq!(answer[4..12], 7_u64.to_be_bytes());
            assert_eq!((&answer[12..20], &answer[28..30]), (&[0xFF; 8][..], &[0xFF; 2][..]), "nobody knows");
            assert!(u64::from_be_bytes(answer[20..28].try_into().expect("eight bytes")) >= 9_000, "service time");
            assert!(answer[30..32] == [0, 0] && answer[32..] == payload);
        }
        // None of these is answered: half a frame, two frames, an unknown kind, a demand above the most.
        let frame = |kind: u8, demand_ns: u64| {
            let head = [&20_u32.to_be_bytes()[..], &1_u64.to_be_bytes(), &demand_ns.to_be_bytes()].concat();
            [&head[..], &[kind, 0, 0, 0]].concat()
        };
        asker.send(&frame(0, 0)[..20]);
        asker.send(&frame(0, 0).repeat(2));
        asker.send(&frame(3, 0));
        asker.send(&frame(0, u64::MAX));
        assert_eq!(asker.ask(&frame(0, 0)).len(), 32);
        (9, 5)
    };
    relay_of_all_lengths: "relay" "127.0.0.1:0?to=udp://{echo}", |server| {
        let asker = Asker::of(server);
        let lengths = [0, 1, 2, 64, 1_472, 1_473, 9_000, 65_506, 65_507];
        lengths.iter().for_each(|len| asker.echo(&text(*len, *len)));
        (9, 9)
    };
    relay_of_many_at_once_in_their_order: "relay" "127.0.0.1:0?to=udp://{echo}", |server| {
        let askers: Vec<Asker> = (0..10).map(|_| Asker::of(server)).collect();
        let bytes = |asker: usize, round: usize| text([64, 64, 64, 10, 500][round % 5], asker * 31 + round);
        for rounds in [0..10, 10..20] {
            for (number, asker) in askers.iter().enumerate() {
                rounds.clone().for_each(|round| asker.send(&bytes(number, round)));
                rounds.clone().for_each(|round| assert!(asker.hear() == bytes(number, round), "{number} {round}"));
            }
        }
        (200, 200)
    };
    relay_from_version_six_to_four: "relay" "[::1]:0?to=udp://{echo}", |server| {
        let asker = Asker::of(server);
        [0, 1, 1_452, 65_507].iter().for_each(|len| asker.echo(&text(*len, *len)));
        (4, 4)
    };
    relay_answers_from_the_address_that_was_asked: "relay" "0.0.0.0:0?to=udp://{echo}", |server| {
        // Connected: it hears nobody but whom it asks.
        let there = SocketAddr::from(([127, 0, 0, 1], server.port()));
        Asker::of(there).echo(b"from the first address");
        let there = SocketAddr::from(([127, 0, 0, 9], server.port()));
        Asker::from(SocketAddr::from(([127, 0, 0, 1], 0)), there).echo(b"from another one");
        (2, 2)
    };
    time_is_a_number_of_four_bytes: "time" "127.0.0.1:0", |server| {
        let asker = Asker::of(server);
        for request in [&b""[..], b"x"] {
            let before = seconds_since_1900();
            let answer = asker.ask(request).try_into().expect("four bytes");
            assert!((before..=seconds_since_1900()).contains(&u32::from_be_bytes(answer)));
        }
        (2, 2)
    };
}

fn seconds_since_1900() -> u32 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set");
    (since_1970.as_secs() + 70 * 365 * 86_400 + 17 * 86_400) as u32
}

fn carries_datagrams(engine: &EngineInfo) -> bool {
    (engine.carries)("echo", Scheme::Udp).is_ok()
}

/// Holds the conversation on every engine, under all settings for `echo`, several at a time.
fn check(conversation: &Conversation) {
    let engines = engines().into_iter().filter(|engine| carries_datagrams(engine));
    let rows = engines.flat_map(|engine| {
        let settings = match conversation.service {
            "echo" => rows_for(engine, SETTINGS),
            "relay" => rows_for(engine, RELAY_SETTINGS),
            _ => vec![SETTINGS[0]],
        };
        settings.into_iter().map(move |settings| (engine, settings))
    });
    check_all(rows, |(engine, settings)| hold(conversation, engine, settings));
}

fn hold(conversation: &Conversation, engine: &EngineInfo, settings: &[&str]) {
    let Conversation { service, at, talk } = conversation;
    let at = at.replace("{echo}", &targets::echo_datagrams().to_string());
    let listener = format!("{service}=udp://{at}");
    let public: &[&str] = if at.starts_with("0.0.0.0") { &["--udp-public", "on"] } else { &[] };
    let _told = Told(format!("in the conversation with {listener} on {} {}", engine.name, settings.join(" ")));
    let daemon = Daemon::echo(engine.name, &[&["--listen", &listener][..], public, settings].concat());
    let ready = &daemon.process.ready_lines[0];
    assert!(ready.starts_with(&format!("listening {service} udp://")), "{ready}");
    let (said, answered) = talk(daemon.address());
    let summary = daemon.drain();
    let count = |name: &str| summary.count(&format!("datagrams.{name}"));
    let served = if *service == "relay" { "returned" } else { "answered" };
    assert_eq!([count("received"), count(served), count("sent")], [said, answered, answered], "{summary:?}");
    assert_eq!([count("silent"), count("unsendable"), count("oversized")], [said - answered, 0, 0], "{summary:?}");
    assert_eq!(count("forwarded"), if *service == "relay" { said } else { 0 }, "{summary:?}");
    assert_eq!(summary.accepted(), 0, "a datagram is no session");
}

#[test]
fn every_service_that_answers_datagrams_has_conversations() {
    let answering = SERVICES.iter().filter(|entry| entry.schemes.contains(&"udp"));
    let missing: Vec<&str> = answering.map(|entry| entry.name).filter(|name| !SPOKEN.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} have no conversation in this table");
}

#[test]
fn engines_with_processes_refuse_datagrams_and_say_why() {
    for engine in engines().into_iter().filter(|engine| !carries_datagrams(engine)) {
        assert!(engine.forks, "{} is to carry datagrams", engine.name);
        let output = process::command(&["--engine", engine.name, "--listen", "echo=udp://127.0.0.1:0"]).output();
        let output = output.expect("the program starts");
        let message = String::from_utf8(output.stderr).expect("only text is printed");
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("a datagram has no connection to give to a process"), "{message}");
    }
}
