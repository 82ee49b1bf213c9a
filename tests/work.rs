//! `work` over real sockets, on every engine that carries it: what several requests of one connection owe each other, what
//! is bounded, what is shed, and how long ones end. Conversations that go the same way under all settings are in
//! `engine_contract.rs`.

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
#[path = "support/work.rs"]
mod work;

use std::io::{ErrorKind, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use maitred::clock::monotonic_ns;
use maitred::config::AtOnce::One;
use maitred::config::Scheme;

use client::{Client, wait_until};
use daemon::Daemon;
use datagrams::Asker;
use engines::{LeftOut, check_left_out, for_each_engine, rows_for};
use work::{AS_A_CALL, HASH, INLINE, MILLISECOND, Reply, SLEEP, SPIN, UNKNOWN, Worker, frame};

/// Longer than any test waits for anything.
const FOR_EVER: u64 = 3_600_000 * MILLISECOND;

const ONE_THREAD: &str = "one thread waits and serves, so that its other requests wait too";

const LEFT_OUT: &[LeftOut] = &[
    LeftOut { test: SLOW, engine: "event-loop", reason: ONE_THREAD },
    LeftOut { test: SLOW, engine: "event-loops", reason: ONE_THREAD },
    LeftOut { test: SLOW, engine: "proactor", reason: ONE_THREAD },
    LeftOut { test: SLOW, engine: "thread-per-connection", reason: ONE_THREAD },
    LeftOut { test: SLOW, engine: "process-per-connection", reason: ONE_THREAD },
    LeftOut { test: SLOW, engine: "prefork", reason: ONE_THREAD },
    LeftOut { test: SLOW, engine: "serial", reason: ONE_THREAD },
];

const SLOW: &str = "a_slow_request_does_not_hold_up_the_others_of_its_connection";

/// A daemon with `work` that lets requests take for ever.
fn start(engine: &str, query: &str, flags: &[&str]) -> Daemon {
    let listener = format!("work=tcp://127.0.0.1:0{query}");
    Daemon::echo(engine, &[&["--listen", &listener, "--max-demand", "1h"][..], flags].concat())
}

fn connect(daemon: &Daemon) -> Worker {
    Worker::new(Client::connect(daemon.address()))
}

/// Waits until so many calls have begun.
fn wait_for_calls(daemon: &Daemon, count: u64) {
    let begun = || {
        daemon.summary_now();
        let messages = daemon.process.messages();
        let last = messages.rsplit("   calls ").next().filter(|rest| rest.len() < messages.len());
        last.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    wait_until("calls have begun", || begun() >= count);
}

#[test]
fn engines_are_left_out_of_tests_that_there_are() {
    check_left_out(LEFT_OUT, include_str!("work.rs"));
}

#[test]
fn a_slow_request_does_not_hold_up_the_others_of_its_connection() {
    for_each_engine(One, LEFT_OUT, |engine| {
        for flags in rows_for(engine, &[&["--workers", "2"], &["--workers", "4"], &["--workers", "2", "--queue", "1"]])
        {
            // In front of others in the same write and before more; or before others in writes of their own.
            for beside in [&[(AS_A_CALL, 100), (INLINE, 10), (AS_A_CALL, 10)][..], &[]] {
                let daemon = start(engine.name, "", flags);
                let mut worker = connect(&daemon);
                worker.ask_all([((SLEEP, FOR_EVER), 10)].iter().chain(beside).copied());
                for payload in 0..30 {
                    worker.ask(if payload % 3 == 0 { INLINE } else { AS_A_CALL }, payload);
                }
                for _ in 0..beside.len() + 30 {
                    assert_ne!(worker.hear().id, 0, "it is not through");
                }
                // And nobody waits for it when its client has left.
                worker.client.reset();
                assert_eq!(daemon.drain().closed("reset"), 1);
            }
        }
    });
}

#[test]
fn a_drain_waits_for_requests_in_flight() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = start(engine.name, "", &[]);
        let mut worker = connect(&daemon);
        worker.ask_all((0..12).map(|number| (([SPIN, SLEEP, HASH][number % 3], 5 * MILLISECOND), number)));
        daemon.process.signal(Signal::TERM);
        worker.hear_all();
        worker.client.expect_end();
        let summary = daemon.finish();
        assert_eq!(summary.closed("drained"), 1, "{summary:?}");
    });
}

#[test]
fn no_request_keeps_the_daemon_longer_than_its_drain_timeout() {
    for_each_engine(One, LEFT_OUT, |engine| {
        for kind in [SPIN, SLEEP, HASH] {
            let daemon = start(engine.name, "", &["--drain-timeout", "100ms"]);
            let mut worker = connect(&daemon);
            worker.ask_all((0..3).map(|_| ((kind, FOR_EVER), 0)));
            wait_for_calls(&daemon, 1);
            assert_eq!(daemon.drain().closed("drained"), 1);
        }
    });
}

#[test]
fn no_datagram_keeps_the_daemon_longer_than_its_drain_timeout() {
    for_each_engine(One, LEFT_OUT, |engine| {
        if (engine.carries)("work", Scheme::Udp).is_err() {
            return;
        }
        for kind in [SPIN, SLEEP, HASH] {
            let flags = ["--listen", "work=udp://127.0.0.1:0", "--max-demand", "1h", "--drain-timeout", "100ms"];
            let daemon = Daemon::echo(engine.name, &flags);
            let asker = Asker::of(daemon.process.addresses_of("work")[0]);
            asker.ask(&frame(20, 0, INLINE, 0, b""));
            (1..4).for_each(|id| asker.send(&frame(20, id, (kind, FOR_EVER), 0, b"")));
            daemon.drain();
        }
    });
}

#[test]
fn no_request_keeps_a_daemon_that_is_told_twice() {
    for_each_engine(One, LEFT_OUT, |engine| {
        for kind in [SPIN, SLEEP, HASH] {
            let daemon = start(engine.name, "", &[]);
            let mut worker = connect(&daemon);
            worker.ask_all((0..3).map(|_| ((kind, FOR_EVER), 0)));
            wait_for_calls(&daemon, 1);
            daemon.process.signal(Signal::TERM);
            daemon.process.wait_for_message("draining");
            daemon.process.signal(Signal::TERM);
            assert_eq!(daemon.finish().closed("killed"), 1);
        }
    });
}

#[test]
fn a_session_with_a_request_in_flight_is_not_idle() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = start(engine.name, "", &["--idle-timeout", "1s"]);
        for kind in [SLEEP, HASH] {
            let mut worker = connect(&daemon);
            worker.ask((kind, 1_300 * MILLISECOND), 10);
            worker.hear();
            worker.client.wait_for_end();
        }
        assert_eq!(daemon.drain().closed("idle_timeout"), 2);
    });
}

#[test]
fn requests_are_shed_while_enough_wait_and_not_after() {
    for_each_engine(One, LEFT_OUT, |engine| {
        // What one session may have in flight does not keep it from reading what is shed.
        for (query, most) in [("?shed=2", 2), ("?calls=1&shed=3", 3)] {
            let daemon = start(engine.name, query, &[]);
            let mut worker = connect(&daemon);
            for _ in 0..3 {
                worker
                    .ask_all((0..100).map(|number| (if number % 2 == 0 { INLINE } else { (SLEEP, MILLISECOND) }, 50)));
                let (shed, served): (Vec<Reply>, Vec<Reply>) =
                    worker.hear_all().into_iter().partition(|reply| reply.is_shed);
                // Most are of one turn, during which none of its own begins.
                assert!(served.len() >= most && shed.len() > 50, "{} served, {} shed", served.len(), shed.len());
                for _ in 0..10 {
                    worker.ask(AS_A_CALL, 20);
                    assert!(!worker.hear().is_shed, "nobody waits");
                }
            }
            worker.finish();
            daemon.drain();
        }
    });
}

#[test]
fn requests_whose_client_has_left_wait_no_longer() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = start(engine.name, "?shed=2", &[]);
        let mut gone = connect(&daemon);
        gone.ask_all((0..10).map(|_| ((SLEEP, 20 * MILLISECOND), 5)));
        // All of them have been read then.
        assert!(gone.hear().is_shed);
        gone.client.reset();
        let mut worker = connect(&daemon);
        let mut finds_places = || {
            worker.ask_all([(AS_A_CALL, 5), (AS_A_CALL, 5)]);
            worker.hear_all().iter().all(|reply| !reply.is_shed)
        };
        // Who has left may be read only now: its calls take places once more. One that was lost would be missed for ever.
        wait_until("none of its places is lost", || (0..10).all(|_| finds_places()));
        worker.finish();
        daemon.drain();
    });
}

/// Sends requests until none has been taken for a while, and at most so many bytes; how many were sent.
fn fill(client: &mut Client, request: &[u8], most: usize) -> usize {
    client.0.set_nonblocking(true).expect("a socket has the option");
    let (mut sent, mut since) = (0, Instant::now());
    while sent < most && since.elapsed() < Duration::from_millis(500) {
        match client.0.write(&request[sent % request.len()..]) {
            Ok(count) => {
                sent += count;
                since = Instant::now();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                std::thread::yield_now();
            }
        }
    }
    client.0.set_nonblocking(false).expect("a socket has the option");
    sent
}

#[test]
fn requests_in_flight_are_bounded_and_then_nothing_is_read() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = start(engine.name, "?calls=4", &["--drain-timeout", "100ms"]);
        let mut client = Client::connect(daemon.address());
        let request = frame(20 + 4_000, 0, (SLEEP, FOR_EVER), 0, &[7; 4_000]);
        let sent = fill(&mut client, &request, 256 << 20);
        wait_for_calls(&daemon, 1);
        client.reset();
        let read = daemon.drain().turns("read_bytes") as usize;
        // Four calls and a full ring, or two where the last turn saw it emptied.
        assert!(read <= 4 * request.len() + (2 << 16), "{read} bytes of {sent}");
        assert!(sent < 64 << 20, "the client is stopped");
    });
}

#[test]
fn a_client_that_never_reads_is_not_read() {
    for_each_engine(One, LEFT_OUT, |engine| {
        for work in [AS_A_CALL, INLINE] {
            let daemon = start(engine.name, "", &["--drain-timeout", "100ms"]);
            let mut client = Client::connect_with_room(daemon.address(), 1 << 16);
            let request = frame(20 + 40_000, 0, work, 0, &[7; 40_000]);
            let sent = fill(&mut client, &request, 256 << 20);
            assert!(sent < 64 << 20, "the client is stopped: the rest would lie in the daemon");
            client.reset();
            daemon.drain();
        }
    });
}

#[test]
fn who_served_and_when_is_said_on_the_clock_of_the_host() {
    for_each_engine(One, LEFT_OUT, |engine| {
        // Who waits for one client alone cannot tell when it was ready; but what a turn has read beside, it can.
        let polls = !matches!(engine.name, "serial" | "thread-per-connection") && !engine.forks;
        // With one call at a time, most requests wait until those before them have been answered.
        for query in ["", "?calls=1"] {
            let daemon = start(engine.name, query, &[]);
            let mut worker = connect(&daemon);
            for work in [INLINE, (SPIN, MILLISECOND), (SLEEP, MILLISECOND), (HASH, MILLISECOND)].repeat(3) {
                let sent_ns = monotonic_ns();
                worker.ask_all([(work, 10), (work, 10), (work, 10), (work, 10)]);
                for reply in worker.hear_all() {
                    let heard_ns = monotonic_ns();
                    let Some([ready_ns, taken_ns, done_ns]) = reply.stamps else { continue };
                    assert!(ready_ns != UNKNOWN || !polls, "{reply:?}");
                    assert!(ready_ns == UNKNOWN || polls || reply.id % 4 != 0, "{reply:?}");
                    let ready_ns = if ready_ns == UNKNOWN { taken_ns } else { ready_ns };
                    let known = [sent_ns, ready_ns, taken_ns, done_ns, heard_ns];
                    assert!(known.is_sorted(), "{known:?} of {reply:?}");
                    assert!(reply.worker < 100 || reply.worker == u16::MAX, "{reply:?}");
                }
            }
            worker.finish();
            daemon.drain();
        }
    });
}

#[test]
fn a_load_of_work_is_answered_and_knows_its_stages() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = start(engine.name, "", &[]);
        for kind in ["spin", "sleep", "hash"] {
            let target = format!("work=tcp://{}", daemon.address());
            let flags =
                format!("load {target} --depth 4 --demand exp:50us --kind {kind} --warmup 0s --duration 300ms --json");
            let output = Command::new(env!("CARGO_BIN_EXE_maitred")).args(flags.split(' ')).output().expect("it runs");
            let messages = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{messages}");
            let report: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
            assert!(report["requests"].as_u64() > Some(0), "{report}");
            for stage in ["late", "unseen", "queue", "service", "reply"] {
                assert!(report["stages_ns"][stage]["mean"].is_number(), "{stage} in {}", report["stages_ns"]);
            }
        }
        daemon.drain();
    });
}
