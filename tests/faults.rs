//! Real faults over real sockets: descriptors and memory that run out, resets by the thousand, clients that dribble or
//! never read, silence, limits, a daemon that is killed.
//!
//! Every test is held with the program, on every engine that it is for, and looks at what clients see, at the log and at
//! the summary at exit: in an engine with processes no other place knows of all sessions. Nothing sleeps to wait for
//! something: every wait looks for what it waits for, until a deadline. `MAITRED_TEST_ENGINE=NAME` narrows all of them to
//! one engine. Signals and the program's output are in `signals.rs`; services that panic, in `faulty_services.rs`.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use maitred::config::AtOnce::{Many, One};

use client::{Client, text, wait_until};
use daemon::Daemon;
use engines::{LeftOut, check_left_out, for_each_engine, rows_for};

/// The engines that a test is not for, other than by the number of its clients.
const LEFT_OUT: &[LeftOut] = &[
    LeftOut {
        test: "service_resumes_when_descriptors_come_free",
        engine: "proactor",
        reason: "the kernel takes the limit when an accept is asked for, and does not see it lowered; tests/proactor.rs has it low from the start",
    },
    LeftOut {
        test: "sessions_wait_for_memory_and_lose_nothing",
        engine: "process-per-connection",
        reason: "each of its processes has rings of its own, so that nobody waits for another's",
    },
    LeftOut {
        test: "sessions_wait_for_memory_and_lose_nothing",
        engine: "prefork",
        reason: "each of its processes has rings of its own, so that nobody waits for another's",
    },
    LeftOut {
        test: "a_limit_that_is_raised_lets_more_in",
        engine: "prefork",
        reason: "each of its processes is one session: who comes when all serve waits in the backlog",
    },
    LeftOut {
        test: "connections_above_the_limit_are_closed_and_counted",
        engine: "prefork",
        reason: "each of its processes is one session: who comes when all serve waits in the backlog",
    },
];

#[test]
fn engines_are_left_out_of_tests_that_there_are() {
    check_left_out(LEFT_OUT, include_str!("faults.rs"));
}

#[test]
fn service_resumes_when_descriptors_come_free() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &[]);
        let server = daemon.address();
        let is_many = engine.at_once == Many;
        let mut early: Vec<Client> = (0..if is_many { 30 } else { 0 }).map(|_| Client::connect(server)).collect();
        early.iter_mut().for_each(|client| client.echo(b"early"));

        let family = daemon.process.family();
        let before: Vec<Rlimit> = family.iter().map(|process| limit_to_what_is_open(*process)).collect();

        // They are in the backlog now, with nothing to tell the daemon of them again.
        let waiting: Vec<Client> = (0..20).map(|_| Client::connect(server)).collect();
        daemon.process.wait_for_message("accepting pauses for");
        assert!(early.last_mut().is_none_or(|client| client.is_served(b"those who are in are served")));

        // Sessions in processes of their own hold no descriptor of whoever accepts: the limit itself gives way. So it
        // does where one client at a time is served.
        let clients = early.len() as u64;
        if !is_many || family.len() > 1 {
            // The parent first, so that whoever it has made by then is in the list and whoever it makes later has it.
            prlimit(Some(family[0]), Resource::Nofile, before[0]).expect("a limit may be given back");
            for process in daemon.process.family() {
                // One that serves nobody may have ended.
                let _ = prlimit(Some(process), Resource::Nofile, before[0]);
            }
        }
        drop(early);
        let freed = Instant::now();
        let served = waiting.into_iter().filter_map(|mut client| client.is_served(b"waited").then_some(())).count();
        assert!(freed.elapsed() < Duration::from_secs(10), "service resumes by itself");
        assert!(served > 0, "those who were not turned away are served");
        Client::connect(server).echo(b"late");

        let summary = daemon.drain();
        assert_eq!((summary.accepted(), summary.closed("over_limit")), (clients + 21, 20 - served as u64));
    });
}

/// Leaves the process no descriptor to open; returns what it was allowed before.
fn limit_to_what_is_open(process: Pid) -> Rlimit {
    let open = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).expect("it runs");
    let numbers = open.map(|entry| entry.expect("it runs").file_name().into_string().expect("a number"));
    let used: HashSet<u64> = numbers.map(|number| number.parse().expect("a number")).collect();
    let free = (0..).find(|number| !used.contains(number)).expect("numbers do not end");
    let limit = Rlimit { current: Some(free), ..getrlimit(Resource::Nofile) };
    let before = prlimit(Some(process), Resource::Nofile, limit).expect("a limit may be lowered");
    assert!(before.current > Some(free));
    before
}

#[test]
fn thousands_of_resets_leave_a_daemon_that_serves() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &[]);
        let server = daemon.address();
        // Where a session costs a process, a few thousand are enough to make the point.
        let clients = if engine.name == maitred::config::ENGINE { 10_000 } else { 2_000 };
        thread::scope(|scope| {
            for worker in 0..4 {
                scope.spawn(move || {
                    for round in 0..clients / 4 {
                        let mut client = Client::connect(server);
                        if round % 2 == 0 {
                            client.send(&text(1 + round % 900, worker));
                        }
                        client.reset();
                    }
                });
            }
        });
        Client::connect(server).echo(b"still there");
        let summary = daemon.drain();
        // A connection that is reset before it is accepted may never be seen.
        let accepted = summary.accepted() as usize;
        assert!(accepted <= clients + 1 && accepted > clients / 2, "{summary:?}");
        assert!(summary.closed("reset") > 0, "{summary:?}");
    });
}

#[test]
fn a_peer_that_keeps_its_fin_back_does_not_keep_its_session() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let flags = ["--listen", "echo=tcp://127.0.0.1:0?terminator=nul", "--write-timeout", "300ms"];
        let daemon = Daemon::echo(engine.name, &flags);
        let mut client = Client::connect(daemon.address());
        client.send(b"all\0");
        client.expect(b"all\0");
        client.expect_end();
        // It dribbles on; what it sends is dropped, and refused when the session is over.
        wait_until("the session is over", || client.0.write_all(b".").is_err());
        assert_eq!(daemon.drain().closed("finished"), 1);
    });
}

#[test]
fn a_drain_beside_arrivals_loses_no_session_and_ends() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let rows = rows_for(engine, &[&[], &["--workers", "2"], &["--workers", "2", "--assist", "off"]]);
        for flags in rows.iter().cycle().take(rows.len().max(4)) {
            let daemon = Daemon::echo(engine.name, flags);
            let server = daemon.address();
            let arrived = &AtomicU64::new(0);
            thread::scope(|scope| {
                // Until the listener is closed, at most a few thousand times.
                let arrive = |_| TcpStream::connect(server).map(|_| arrived.fetch_add(1, Ordering::Relaxed)).is_ok();
                for _ in 0..3 {
                    scope.spawn(move || (0..5_000).all(arrive));
                }
                wait_until("clients arrive", || arrived.load(Ordering::Relaxed) > 20);
                let summary = daemon.drain();
                assert!(summary.accepted() > 20, "{summary:?}");
            });
        }
    });
}

#[test]
fn a_firehose_does_not_lock_others_out_of_a_full_queue() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        let narrow: &[&str] = &["--workers", "1", "--queue", "1", "--budget", "1", "--assist", "off"];
        for flags in rows_for(engine, &[&[], &["--budget", "1"], &["--workers", "1", "--budget", "1"], narrow]) {
            let daemon = Daemon::echo(engine.name, flags);
            a_firehose_beside_others(daemon.address());
            daemon.drain();
        }
    });
}

fn a_firehose_beside_others(server: SocketAddr) {
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let hose = Client::connect(server);
        let (mut writer, mut reader) = (hose.0.try_clone().expect("a second handle"), hose.0);
        scope.spawn(move || {
            let chunk = text(64 << 10, 1);
            while !stop.load(Ordering::Relaxed) {
                writer.write_all(&chunk).expect("the daemon reads");
            }
            writer.shutdown(Shutdown::Write).expect("the connection stands");
        });
        scope.spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).expect("the daemon answers"));
        let mut quiet: Vec<Client> = (0..8).map(|_| Client::connect(server)).collect();
        for _ in 0..20 {
            quiet.iter_mut().for_each(|client| client.echo(b"in between"));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn clients_that_dribble_are_served_among_others() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        for flags in rows_for(engine, &[&[], &["--workers", "2"]]) {
            let daemon = Daemon::echo(engine.name, flags);
            let server = daemon.address();
            thread::scope(|scope| {
                for number in 0..4 {
                    scope.spawn(move || {
                        let mut client = Client::connect(server);
                        for _ in 0..20 {
                            client.echo(&text(50_000, number));
                        }
                    });
                }
                let mut dribblers: Vec<Client> = (0..20).map(|_| Client::connect(server)).collect();
                let bytes = text(60, 9);
                for byte in bytes.chunks(1) {
                    dribblers.iter_mut().for_each(|client| client.send(byte));
                }
                for client in &mut dribblers {
                    client.expect(&bytes);
                    client.finish();
                    client.expect_end();
                }
            });
            daemon.drain();
        }
    });
}

#[test]
fn a_reader_that_never_reads_stops_only_itself_and_runs_into_the_write_timeout() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let timeout = ["--write-timeout", "300ms"];
        for flags in rows_for(engine, &[&[], &["--workers", "1"]]) {
            let daemon = Daemon::echo(engine.name, &[&timeout[..], flags].concat());
            let server = daemon.address();
            let ended = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut client = Client::connect_small(server);
                    let chunk = text(64 << 10, 1);
                    // Four times what the buffers of both kernels' sides could ever hold.
                    let end =
                        (0..4_096).find_map(|_| client.0.write_all(&chunk).err()).expect("it is not read for ever");
                    assert!(matches!(end.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
                    ended.store(true, Ordering::Release);
                });
                if engine.at_once == Many {
                    let mut other = Client::connect(server);
                    while !ended.load(Ordering::Acquire) {
                        other.echo(&text(1_000, 2));
                        pause();
                    }
                    other.echo(b"and on");
                }
            });
            Client::connect(server).echo(b"and on");
            let summary = daemon.drain();
            assert_eq!(summary.closed("write_timeout"), 1, "{summary:?}");
        }
    });
}

#[test]
fn a_speech_that_nobody_hears_stops_and_runs_into_the_write_timeout() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let flags = ["--listen", "chargen=tcp://127.0.0.1:0", "--workers", "1", "--write-timeout", "300ms"];
        let daemon = Daemon::echo(engine.name, &flags);
        let mut deaf = Client::connect_small(daemon.address());
        // The first byte says that the session has begun; from here on nobody reads.
        deaf.0.read_exact(&mut [0]).expect("a speech that begins");
        wait_until("the daemon has given up", || {
            let [accepted, open, ring_bytes] = daemon.summary_now();
            // The session's, and one that each of two threads may have kept.
            assert!(ring_bytes <= 3 * (64 << 10), "{ring_bytes} bytes for one speech");
            accepted == 1 && open == 0
        });
        let summary = daemon.drain();
        assert_eq!(summary.closed("write_timeout"), 1, "{summary:?}");
    });
}

#[test]
fn what_the_kernel_took_first_is_no_second_write_timeout() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        // The deaf one's kernel acknowledges a little after the socket was full. A session that falls silent at the same
        // time is the clock: its timeout lies between one write timeout and two.
        let flags = ["--listen", "chargen=tcp://127.0.0.1:0", "--listen", "echo=tcp://127.0.0.1:0"];
        let timeouts = ["--write-timeout", "3s", "--idle-timeout", "5s"];
        let daemon = Daemon::echo(engine.name, &[flags, timeouts].concat());
        let [speech, echo] = daemon.process.addresses()[..] else { panic!("two listeners") };
        let mut deaf = Client::connect(speech);
        deaf.0.read_exact(&mut [0]).expect("a speech that begins");
        let mut silent = Client::connect(echo);
        silent.echo(b"the last word");
        wait_until("the daemon has given one of them up", || daemon.summary_now()[1] < 2);
        let summary = daemon.drain();
        assert_eq!((summary.closed("write_timeout"), summary.closed("idle_timeout")), (1, 0), "{summary:?}");
    });
}

#[test]
fn silence_ends_a_session_and_spares_the_others() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &["--idle-timeout", "3s"]);
        let silent = Client::connect(daemon.address());
        if engine.at_once == Many {
            let mut active = Client::connect(daemon.address());
            thread::scope(|scope| {
                let end = scope.spawn(|| silent.wait_for_end());
                while !end.is_finished() {
                    active.echo(b"still here");
                    pause();
                }
            });
            active.echo(b"still here");
        } else {
            silent.wait_for_end();
            Client::connect(daemon.address()).echo(b"at last");
        }
        assert_eq!(daemon.drain().closed("idle_timeout"), 1);
    });
}

#[test]
fn a_peer_that_takes_nothing_and_falls_silent_runs_into_the_idle_timeout() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &["--idle-timeout", "1s"]);
        let mut client = Client::connect_small(daemon.address());
        client.0.set_nonblocking(true).expect("a socket");
        let chunk = text(64 << 10, 1);
        // As long as anything is taken it goes on; then both sides are full, and it is silent.
        wait_until("its silence has ended the session", || match client.0.write(&chunk) {
            Ok(_) => false,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        });
        assert_eq!(daemon.drain().closed("idle_timeout"), 1);
    });
}

#[test]
fn a_peer_that_takes_little_at_a_time_runs_into_no_timeout() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &["--idle-timeout", "2s", "--write-timeout", "2s"]);
        let mut client = Client::stuffed(daemon.address());
        let begin = Instant::now();
        // Far too little at a time for the kernel to call the socket writable.
        while begin.elapsed() < Duration::from_secs(7) {
            client.0.read_exact(&mut [0; 512]).expect("it is not cut off");
            pause();
        }
        let [_, open, _] = daemon.summary_now();
        assert_eq!(open, 1, "{}", daemon.process.messages());
    });
}

/// Between two acts of somebody who is active and in no hurry, so that a dozen engines can be tested at once.
fn pause() {
    thread::sleep(Duration::from_millis(5));
}

#[test]
fn silence_that_begins_long_after_the_start_is_no_longer_than_others() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &["--idle-timeout", "100ms"]);
        let silence = || {
            let begin = Instant::now();
            Client::connect(daemon.address()).wait_for_end();
            begin.elapsed()
        };
        silence();
        // Nothing is watched for a while: the clock of the timeouts stands still.
        let (pause, begin) = (Duration::from_secs(4), Instant::now());
        wait_until("nothing has happened for a while", || begin.elapsed() > pause);
        assert!(silence() < pause, "the time before a session began is none of its silence");
        assert_eq!(daemon.drain().closed("idle_timeout"), 2);
    });
}

#[test]
fn connections_above_the_limit_are_closed_and_counted() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &["--max-connections", "3"]);
        let server = daemon.address();
        let mut inside: Vec<Client> = (0..3).map(|_| Client::connect(server)).collect();
        inside.iter_mut().for_each(|client| client.echo(b"inside"));
        for _ in 0..5 {
            Client::connect(server).wait_for_end();
        }
        inside.iter_mut().for_each(|client| client.echo(b"undisturbed"));

        inside.pop();
        let mut early = 0;
        let mut next = Client::connect(server);
        while !next.is_served(b"in the place of one that left") {
            early += 1;
            assert!(early < 10_000, "the session ends");
            next = Client::connect(server);
        }
        inside.push(next);
        inside.iter_mut().for_each(|client| client.echo(b"inside"));
        let summary = daemon.drain();
        assert_eq!((summary.accepted(), summary.closed("over_limit")), (9 + early, 5 + early));
    });
}

#[test]
fn a_limit_that_is_raised_lets_more_in() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("maitred.toml");
        fs::write(&path, "max_connections = 1\n").expect("a file");
        let daemon = Daemon::echo(engine.name, &["--config", path.to_str().expect("the path is text")]);
        let server = daemon.address();
        let mut first = Client::connect(server);
        first.echo(b"first");
        assert!(!Client::connect(server).is_served(b"second"));
        fs::write(&path, "max_connections = 2\n").expect("a file");
        daemon.process.signal(Signal::HUP);
        wait_until("the limit is in force", || Client::connect(server).is_served(b"second"));
        first.echo(b"first");
        daemon.drain();
    });
}

#[test]
fn sessions_wait_for_memory_and_lose_nothing() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        for flags in rows_for(engine, &[&[], &["--rearm", "oneshot"], &["--rearm", "oneshot", "--assist", "off"]]) {
            // The least that one worker may have, seventeen rings. Who has no workers takes no notice of their number.
            let limits = ["--max-buffers", "1088KiB", "--workers", "1"];
            let daemon = Daemon::echo(engine.name, &[&limits[..], flags].concat());
            thirty_that_never_read_beside_ten(&daemon);
            let summary = daemon.drain();
            assert!(summary.turns("starved") > 0, "memory has run out: {summary:?}");
        }
    });
}

fn thirty_that_never_read_beside_ten(daemon: &Daemon) {
    let server = daemon.address();
    let (chunk, stop, all_written) = (&text(16 << 10, 3), &AtomicBool::new(false), &AtomicU64::new(0));
    thread::scope(|scope| {
        let greedy: Vec<Client> = (0..30).map(|_| Client::connect_small(server)).collect();
        let start_writer = |client: &Client| {
            // What waits in the kernel is to be read in the end, through a small window.
            sockopt::set_socket_send_buffer_size(&client.0, 1).expect("a socket has the option");
            let mut writer = client.0.try_clone().expect("a second handle");
            scope.spawn(move || {
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    writer.write_all(chunk).expect("it is read in the end");
                    written += chunk.len();
                    all_written.fetch_add(1, Ordering::Relaxed);
                }
                writer.shutdown(Shutdown::Write).expect("the connection stands");
                written
            })
        };
        let writers: Vec<_> = greedy.iter().map(start_writer).collect();
        // Seventeen of them, then, hold all there is: the others are not read.
        let (mut seen, mut since) = (0, Instant::now());
        wait_until("none of them gets on", || {
            let now = all_written.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            now > 0 && since.elapsed() > Duration::from_millis(500)
        });
        let mut modest: Vec<Client> = (0..10).map(|_| Client::connect(server)).collect();
        modest.iter_mut().for_each(|client| client.send(&chunk[..1_000]));
        let [_, _, ring_bytes] = daemon.summary_now();
        assert!(ring_bytes <= 1088 << 10, "{ring_bytes} bytes of rings");
        stop.store(true, Ordering::Relaxed);
        // All at once: which of them hold the memory that the rest wait for is not known here.
        let read = |mut client: Client| {
            sockopt::set_socket_recv_buffer_size(&client.0, 1 << 20).expect("a socket has the option");
            let mut echoed = Vec::new();
            client.0.read_to_end(&mut echoed).expect("the daemon answers");
            assert!(echoed.chunks(chunk.len()).all(|echoed| echoed == chunk), "what comes back is what was sent");
            echoed.len()
        };
        let readers: Vec<_> = greedy.into_iter().map(|client| scope.spawn(move || read(client))).collect();
        for (reader, writer) in readers.into_iter().zip(writers) {
            assert_eq!(reader.join().expect("it has read"), writer.join().expect("it has written"));
        }
        modest.iter_mut().for_each(|client| client.expect(&chunk[..1_000]));
    });
}

#[test]
fn a_daemon_that_is_killed_leaves_no_session_and_no_listener_behind() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let mut daemon = Daemon::echo(engine.name, &[]);
        let server = daemon.address();
        let count = if engine.at_once == Many { 5 } else { 1 };
        let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(server)).collect();
        clients.iter_mut().for_each(|client| client.echo(b"here"));
        daemon.process.signal(Signal::KILL);
        daemon.process.wait();
        clients.into_iter().for_each(Client::wait_for_end);
        wait_until("nobody listens", || TcpStream::connect(server).is_err());
    });
}
