//! Real faults over real sockets: descriptors and memory that run out, resets by the thousand, clients that dribble or
//! never read, silence, limits, a service that panics.
//!
//! Most run a daemon in this process and read its counters; what takes a process of its own starts the program. Nothing
//! sleeps to wait for something: every wait looks for what it waits for, until a deadline. Signals and the program's
//! output are in `signals.rs`.

#[path = "support/client.rs"]
mod client;
#[path = "support/process.rs"]
mod process;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};

use maitred::config::{Config, Limits, Listener, Scheme};
use maitred::daemon::Daemon;
use maitred::session::handler::{Chunks, Handler, Next, Pace, Reply, Service};

use client::{Client, closed, config, drain, start, text, wait_until};
use process::Process;

const ECHO: [&str; 2] = ["--listen", "echo=tcp://127.0.0.1:0"];

fn echo_with(flags: &[&str]) -> Config {
    config(&[&ECHO[..], flags].concat())
}

#[test]
fn service_resumes_when_descriptors_come_free() {
    let process = Process::serve(&ECHO);
    let server = process.address();
    let mut early: Vec<Client> = (0..30).map(|_| Client::connect(server)).collect();
    early.iter_mut().for_each(|client| client.echo(b"early"));

    let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid().as_raw_nonzero())).expect("it runs");
    let numbers = open.map(|entry| entry.expect("it runs").file_name().into_string().expect("a number"));
    let used: HashSet<u64> = numbers.map(|number| number.parse().expect("a number")).collect();
    let free = (0..).find(|number| !used.contains(number)).expect("numbers do not end");
    let limit = Rlimit { current: Some(free), ..getrlimit(Resource::Nofile) };
    let before = prlimit(Some(process.pid()), Resource::Nofile, limit).expect("a limit may be lowered");
    assert!(before.current > limit.current);

    // They are in the backlog now, with nothing to tell the daemon of them again.
    let mut waiting: Vec<Client> = (0..20).map(|_| Client::connect(server)).collect();
    process.wait_for_message("accepting pauses for");
    assert!(early[29].is_served(b"those who are in are served"));

    drop(early);
    let freed = Instant::now();
    let served = waiting.iter_mut().filter_map(|client| client.is_served(b"waited").then_some(())).count();
    assert!(freed.elapsed() < Duration::from_secs(10), "service resumes by itself");
    assert!(served > 0, "those who were not turned away are served");
    Client::connect(server).echo(b"late");

    process.signal(Signal::TERM);
    process.wait_for_message("accepting  turned away");
    let turned_away = 20 - served;
    process.wait_for_message(&format!("accepting  turned away {turned_away}  pauses "));
    process.wait_for_message("sessions   accepted 51  open 0");
}

#[test]
fn ten_thousand_resets_leave_a_daemon_that_serves() {
    let (daemon, server) = start(&echo_with(&[]));
    thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                for round in 0..2_500 {
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
    let summary = drain(&daemon);
    // A connection that is reset before it is accepted may never be seen.
    assert!(summary.accepted <= 10_001 && summary.accepted > 5_000, "{summary:?}");
    assert!(closed(&summary, "reset") > 0, "{summary:?}");
}

#[test]
fn a_peer_that_keeps_its_fin_back_does_not_keep_its_session() {
    let flags = ["--listen", "echo=tcp://127.0.0.1:0?terminator=nul", "--write-timeout", "300ms"];
    let (daemon, server) = start(&config(&flags));
    let mut client = Client::connect(server);
    client.send(b"all\0");
    client.expect(b"all\0");
    client.expect_end();
    wait_until("the session is over", || {
        // It dribbles on; what it sends is dropped, and in the end refused.
        let _ = client.0.write_all(b".");
        daemon.summary().open == 0
    });
    assert_eq!(closed(&drain(&daemon), "finished"), 1);
}

#[test]
fn a_drain_beside_arrivals_loses_no_session_and_ends() {
    for round in 0..10 {
        let (daemon, server) =
            start(&echo_with(&["--workers", "2", "--assist", if round % 2 == 0 { "on" } else { "off" }]));
        thread::scope(|scope| {
            for _ in 0..3 {
                // Until the listener is closed, at most a few thousand times.
                scope.spawn(|| (0..5_000).all(|_| TcpStream::connect(server).is_ok()));
            }
            wait_until("clients arrive", || daemon.summary().accepted > 20);
            let summary = drain(&daemon);
            assert!(summary.accepted > 20, "{summary:?}");
        });
    }
}

#[test]
fn a_firehose_does_not_lock_others_out_of_a_full_queue() {
    let (daemon, server) = start(&echo_with(&["--workers", "1", "--queue", "1", "--budget", "1", "--assist", "off"]));
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
    drain(&daemon);
}

#[test]
fn clients_that_dribble_are_served_among_others() {
    let (daemon, server) = start(&echo_with(&["--workers", "2"]));
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
    drain(&daemon);
}

#[test]
fn a_reader_that_never_reads_stops_only_itself_and_runs_into_the_write_timeout() {
    let (daemon, server) = start(&echo_with(&["--write-timeout", "300ms", "--workers", "1"]));
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect_small(server);
            let chunk = text(64 << 10, 1);
            // Four times what the buffers of both kernels' sides could ever hold.
            let end = (0..4_096).find_map(|_| client.0.write_all(&chunk).err()).expect("it is not read for ever");
            assert!(matches!(end.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
            ended.store(true, Ordering::Release);
        });
        let mut other = Client::connect(server);
        while !ended.load(Ordering::Acquire) {
            other.echo(&text(1_000, 2));
        }
        other.echo(b"and on");
    });
    let summary = drain(&daemon);
    assert_eq!(closed(&summary, "write_timeout"), 1, "{summary:?}");
}

#[test]
fn silence_ends_a_session_and_spares_the_others() {
    let (daemon, server) = start(&echo_with(&["--idle-timeout", "3s"]));
    let silent = Client::connect(server);
    let mut active = Client::connect(server);
    thread::scope(|scope| {
        let end = scope.spawn(|| silent.wait_for_end());
        while !end.is_finished() {
            active.echo(b"still here");
        }
    });
    active.echo(b"still here");
    assert_eq!(closed(&daemon.summary(), "idle_timeout"), 1);
    drain(&daemon);
}

#[test]
fn silence_that_begins_long_after_the_start_is_no_longer_than_others() {
    let (daemon, server) = start(&echo_with(&["--idle-timeout", "100ms"]));
    let silence = || {
        let begin = Instant::now();
        Client::connect(server).wait_for_end();
        begin.elapsed()
    };
    silence();
    // Nothing is watched for a while: the clock of the timeouts stands still.
    let (pause, begin) = (Duration::from_secs(4), Instant::now());
    wait_until("nothing has happened for a while", || begin.elapsed() > pause);
    assert!(silence() < pause, "the time before a session began is none of its silence");
    assert_eq!(closed(&daemon.summary(), "idle_timeout"), 2);
    drain(&daemon);
}

#[test]
fn connections_above_the_limit_are_closed_and_counted() {
    let (daemon, server) = start(&echo_with(&["--max-connections", "3"]));
    let mut inside: Vec<Client> = (0..3).map(|_| Client::connect(server)).collect();
    inside.iter_mut().for_each(|client| client.echo(b"inside"));
    for _ in 0..5 {
        Client::connect(server).wait_for_end();
    }
    inside.iter_mut().for_each(|client| client.echo(b"undisturbed"));
    assert_eq!(closed(&daemon.summary(), "over_limit"), 5);

    inside.pop();
    wait_until("the session has ended", || daemon.summary().open == 2);
    inside.push(Client::connect(server));
    inside.iter_mut().for_each(|client| client.echo(b"inside"));
    let summary = drain(&daemon);
    assert_eq!((summary.accepted, closed(&summary, "over_limit")), (9, 5));
}

#[test]
fn a_limit_that_is_raised_lets_more_in() {
    let (daemon, server) = start(&echo_with(&["--max-connections", "1"]));
    let mut first = Client::connect(server);
    first.echo(b"first");
    assert!(!Client::connect(server).is_served(b"second"));
    daemon.limit(Limits { max_connections: 2, ..Limits::default() });
    wait_until("the limit is in force", || Client::connect(server).is_served(b"second"));
    first.echo(b"first");
    drain(&daemon);
}

#[test]
fn sessions_wait_for_memory_and_lose_nothing() {
    for flags in [&["--workers", "1"][..], &["--workers", "1", "--rearm", "oneshot", "--assist", "off"]] {
        // The least that one worker may have, seventeen rings; and no timeout that would end what waits.
        let limits = ["--max-buffers", "1088KiB", "--write-timeout", "1h", "--idle-timeout", "off"];
        let (daemon, server) = start(&echo_with(&[&limits[..], flags].concat()));
        let (chunk, stop) = (&text(16 << 10, 3), &AtomicBool::new(false));
        thread::scope(|scope| {
            let greedy: Vec<Client> = (0..30).map(|_| Client::connect_small(server)).collect();
            let start_writer = |client: &Client| {
                let mut writer = client.0.try_clone().expect("a second handle");
                scope.spawn(move || {
                    let mut written = 0;
                    while !stop.load(Ordering::Relaxed) {
                        writer.write_all(chunk).expect("it is read in the end");
                        written += chunk.len();
                    }
                    writer.shutdown(Shutdown::Write).expect("the connection stands");
                    written
                })
            };
            let writers: Vec<_> = greedy.iter().map(start_writer).collect();
            wait_until("memory has run out", || {
                let summary = daemon.summary();
                // The poller may have run all turns so far.
                let poller = summary.poller_turns.as_ref().and_then(|turns| turns.starved);
                poller.max(summary.worker_turns[0].starved) > Some(0)
            });
            let mut modest: Vec<Client> = (0..10).map(|_| Client::connect(server)).collect();
            modest.iter_mut().for_each(|client| client.send(&chunk[..1_000]));
            assert!(daemon.summary().buffer_bytes <= 1088 << 10);
            stop.store(true, Ordering::Relaxed);
            // All at once: which of them hold the memory that the rest wait for is not known here.
            let read = |mut client: Client| {
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
        drain(&daemon);
    }
}

/// A service that the registry does not have, on a listener of its own beside echo.
fn start_with(service: Arc<dyn Service>, flags: &[&str]) -> (Daemon, SocketAddr, SocketAddr) {
    let mut config = echo_with(flags);
    config.listeners.push(Listener {
        service_name: service.name(),
        scheme: Scheme::Tcp,
        address: "127.0.0.1:0".parse().expect("an address"),
        parameters: Vec::new(),
        service,
        idle_exempt: false,
        asked_for: true,
    });
    let (daemon, echo) = start(&config);
    let address = daemon.listening()[1].address;
    (daemon, echo, address)
}

/// A service of a name and a function that opens a handler.
struct Made(&'static str, fn() -> Box<dyn Handler>);

impl Service for Made {
    fn name(&self) -> &'static str {
        self.0
    }

    fn open(&self) -> Box<dyn Handler> {
        (self.1)()
    }

    fn speaks_first(&self) -> bool {
        self.0 == "herald"
    }

    fn pace(&self) -> Pace {
        Pace::Brief
    }
}

struct Faulty;

impl Handler for Faulty {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        // With a ring of its own in its hands.
        assert!(reply.put(b">"));
        assert!(input.position(b'!').is_none(), "told to panic");
        Next::Forward(input.len())
    }
}

#[test]
fn a_panic_in_a_service_ends_that_session_alone() {
    for flags in [&[][..], &["--assist", "off"], &["--workers", "1", "--rearm", "oneshot"]] {
        let (daemon, echo, faulty) = start_with(Arc::new(Made("faulty", || Box::new(Faulty))), flags);
        let mut bystander = Client::connect(faulty);
        let mut other = Client::connect(echo);
        for _ in 0..20 {
            let mut victim = Client::connect(faulty);
            victim.send(b"well");
            victim.expect(b">well");
            victim.send(b"!");
            victim.wait_for_end();
            bystander.send(b"well");
            bystander.expect(b">well");
            other.echo(b"well");
        }
        let summary = drain(&daemon);
        assert_eq!((summary.accepted, closed(&summary, "panicked")), (22, 20), "{summary:?}");
    }
}

struct Herald;

impl Handler for Herald {
    fn handle_open(&mut self, reply: &mut Reply<'_>) -> Next {
        assert!(reply.put(b"welcome\r\n"));
        Next::More
    }

    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Forward(input.len())
    }
}

#[test]
fn a_service_may_speak_first() {
    for flags in [&[][..], &["--rearm", "oneshot"], &["--assist", "off"]] {
        let (daemon, _, herald) = start_with(Arc::new(Made("herald", || Box::new(Herald))), flags);
        let mut client = Client::connect(herald);
        client.expect(b"welcome\r\n");
        client.echo(b"thanks");
        drain(&daemon);
    }
}
