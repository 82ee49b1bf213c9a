//! Services that only tests have, on every engine: one that panics, one that cannot be opened, one that speaks first, one
//! that writes down how its sessions end, one that sends each byte back by a call.
//!
//! The binary is its own test runner, since an engine that forks must start in a process with one thread. Started as
//! `faulty_services serve FLAGS` it becomes `maitred serve` with these services beside echo, before any thread of a test
//! is made; otherwise it runs its tests against itself as a child, and prints what cargo's own runner would. A name
//! filter, `--exact`, `--skip` and `--list` work as with that; its other flags change nothing.
//! `MAITRED_TEST_ENGINE=NAME` narrows all tests to one engine.

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
#[path = "support/runner.rs"]
mod runner;

use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rustix::process::Signal;

use maitred::cli::{self, Args};
use maitred::config::AtOnce::{Many, One};
use maitred::config::{Config, Listener, Scheme};
use maitred::engine::ENGINES;
use maitred::error::Error;
use maitred::logging::{Log, install_panic_hook};
use maitred::session::datagram::{DatagramReply, Datagrams};
use maitred::session::handler::{
    Call, Chunks, Closed, Handler, Lane, Mailing, Moment, Next, Pace, Reply, Sending, Service,
};
use maitred::session::mailbox::{Address, Limits, Message};
use maitred::session::part::Brought;

use client::{Client, text};
use daemon::Daemon;
use datagrams::Asker;
use engines::{LeftOut, check_left_out, for_each_engine, rows_for};
use runner::{Test, run_tests};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return match serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    run_tests(TESTS)
}

/// What `maitred serve` does, in the same order, with the services of this file besides.
fn serve() -> Result<(), Error> {
    let cli::Command::Serve(args) = Args::parse().command else { unreachable!("the first argument says so") };
    let log = Log::start();
    install_panic_hook(&log);
    let mut config = Config::resolve(&args, ENGINES)?;
    let engine = config.engine_info(ENGINES);
    let made = MADE.iter().flat_map(|made| Scheme::ALL.map(|scheme| (made, scheme)));
    for (made, scheme) in made.filter(|(made, scheme)| made.is_reached_by(*scheme)) {
        if (engine.carries)(made.name, scheme).is_err() {
            continue;
        }
        config.listeners.push(Listener {
            service_name: made.name,
            scheme,
            address: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            parameters: Vec::new(),
            service: Arc::new(*made),
            idle_exempt: false,
            asked_for: true,
        });
    }
    let served = maitred::daemon::serve(&args, config, &log);
    log.flush();
    served
}

/// A service of a name and a function that opens a handler.
#[derive(Clone, Copy)]
struct Made {
    name: &'static str,
    speaks_first: bool,
    /// How many calls a session may have in flight; none without a mailbox.
    calls: Option<u32>,
    open: fn() -> Box<dyn Handler>,
}

const MADE: &[Made] = &[
    Made { name: "faulty", speaks_first: false, calls: None, open: || Box::new(Faulty) },
    Made { name: "unopened", speaks_first: false, calls: None, open: || panic!("it cannot be opened") },
    Made { name: "clumsy", speaks_first: false, calls: None, open: || Box::new(Clumsy) },
    Made { name: "herald", speaks_first: true, calls: None, open: || Box::new(Herald) },
    Made { name: "chronicler", speaks_first: false, calls: None, open: || Box::new(Chronicler { said: Vec::new() }) },
    Made { name: "toiler", speaks_first: false, calls: Some(1 << 20), open: || Box::new(Toiler) },
];

impl Made {
    fn is_reached_by(&self, scheme: Scheme) -> bool {
        scheme == Scheme::Tcp || scheme == Scheme::Udp && self.name == "faulty"
    }
}

impl Service for Made {
    fn name(&self) -> &'static str {
        self.name
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        (self.open)()
    }

    fn speaks_first(&self) -> bool {
        self.speaks_first
    }

    fn mailbox(&self) -> Option<Mailing> {
        let limits = Limits { bytes: 1 << 20, messages: 16, edge: true };
        self.calls.map(|calls| Mailing { limits, calls, sending: Sending::Vectored })
    }

    fn has_jobs(&self) -> bool {
        self.calls.is_some()
    }

    fn pace(&self) -> Pace {
        if self.calls.is_some() { Pace::Calls } else { Pace::Brief }
    }

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(self)
    }
}

/// An echo that panics when it is told to, and says too much when it is told to do that.
impl Datagrams for Made {
    fn answer(&self, request: &[u8], reply: &mut DatagramReply<'_>) {
        assert!(request != b"panic", "told to panic");
        reply.put(request);
        if request == b"more" {
            reply.put(request);
        }
    }
}

/// Panics when it is told to.
struct Faulty;

impl Handler for Faulty {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        // With a ring of its own in its hands.
        assert!(reply.put(b">"));
        assert!(input.position(b'!').is_none(), "told to panic");
        Next::Forward(input.len())
    }
}

/// Panics when it is dropped.
struct Clumsy;

impl Handler for Clumsy {
    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Forward(input.len())
    }
}

impl Drop for Clumsy {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

/// Speaks first.
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

/// Echoes, and writes down in the log what it has heard and how it ended.
struct Chronicler {
    said: Vec<u8>,
}

impl Handler for Chronicler {
    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        let (first, second) = input.slices();
        self.said.extend(first.iter().chain(second));
        match self.said.last() {
            Some(b'!') => panic!("told to panic"),
            Some(b'?') => Next::Reject("a question"),
            _ => Next::Forward(input.len()),
        }
    }

    fn handle_closed(&mut self, closed: Closed) {
        log::warn!("{:?} ended as {}", String::from_utf8_lossy(&self.said), closed.name());
        assert!(self.said != b"last words", "the very last");
    }
}

/// Sends each byte back by a call of its own, a capital by one for the pool of the processors; that of a `z` takes a while.
/// Panics when it is told to, and so do calls.
struct Toiler;

impl Handler for Toiler {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        let (first, second) = input.slices();
        let byte = *first.first().or(second.first()).expect("input is a byte at least");
        assert!(byte != b'!', "told to panic");
        reply.call(Box::new(Toil(byte)));
        Next::Discard(1)
    }
}

struct Toil(u8);

impl Call for Toil {
    fn lane(&self) -> Lane {
        if self.0.is_ascii_uppercase() { Lane::Cpu } else { Lane::Worker }
    }

    fn run(self: Box<Self>, _moment: &Moment, _is_wanted: &dyn Fn() -> bool) -> Brought {
        assert!(!b"xX".contains(&self.0), "told to panic");
        if self.0 == b'z' {
            std::thread::sleep(Duration::from_millis(300));
        }
        Message::from([self.0]).into()
    }
}

/// This binary as a daemon.
fn start(engine: &str, flags: &[&str]) -> Daemon {
    let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
    command.arg("serve").stdin(Stdio::null()).env_remove("MAITRED_LOG").env_remove("RUST_LOG");
    Daemon::start_by(command, engine, &[&["--listen", "echo=tcp://127.0.0.1:0"][..], flags].concat())
}

/// Under which settings each is tested, as far as the engine has a use for them.
const SETTINGS: &[&[&str]] = &[
    &[],
    &["--assist", "off"],
    &["--rearm", "oneshot"],
    &["--workers", "1"],
    &["--workers", "1", "--rearm", "oneshot"],
    &["--ring", "1KiB", "--budget", "1"],
];

/// The engines that a test is not for, other than by the number of its clients.
const LEFT_OUT: &[LeftOut] = &[];

const TESTS: &[Test] = &[
    ("a_panic_over_a_datagram_costs_that_datagram_alone", a_panic_over_a_datagram_costs_that_datagram_alone),
    ("engines_are_left_out_of_tests_that_there_are", || {
        check_left_out(LEFT_OUT, include_str!("faulty_services.rs"));
    }),
    ("a_panic_in_a_service_ends_that_session_alone", a_panic_in_a_service_ends_that_session_alone),
    ("a_panic_in_a_call_ends_its_session_alone", a_panic_in_a_call_ends_its_session_alone),
    ("a_panic_in_a_service_is_followed_by_other_sessions", a_panic_in_a_service_is_followed_by_other_sessions),
    (
        "a_service_that_cannot_be_opened_costs_its_connections_alone",
        a_service_that_cannot_be_opened_costs_its_connections_alone,
    ),
    (
        "a_panic_of_a_service_that_is_dropped_ends_that_session_alone",
        a_panic_of_a_service_that_is_dropped_ends_that_session_alone,
    ),
    ("a_service_may_speak_first", a_service_may_speak_first),
    ("a_service_learns_how_each_session_ended", a_service_learns_how_each_session_ended),
    ("a_panic_in_a_call_ends_its_session_alone", a_panic_in_a_call_ends_its_session_alone),
    (
        "calls_of_the_last_session_may_be_left_when_it_has_ended",
        calls_of_the_last_session_may_be_left_when_it_has_ended,
    ),
    (
        "a_session_with_a_mailbox_is_not_spared_by_the_idle_timeout",
        a_session_with_a_mailbox_is_not_spared_by_the_idle_timeout,
    ),
];

fn a_panic_in_a_service_ends_that_session_alone() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        for flags in rows_for(engine, SETTINGS) {
            let daemon = start(engine.name, flags);
            let [echo, faulty] = ["echo", "faulty"].map(|service| daemon.process.address_of(service));
            let mut bystander = Client::connect(faulty);
            let mut other = Client::connect(echo);
            for _ in 0..20 {
                let mut victim = Client::connect(faulty);
                victim.send(b"w");
                victim.expect(b">w");
                victim.send(b"!");
                victim.wait_for_end();
                bystander.send(b"w");
                bystander.expect(b">w");
                other.echo(b"well");
            }
            let summary = daemon.drain();
            assert_eq!((summary.accepted(), summary.closed("panicked")), (22, 20), "{summary:?}");
        }
    });
}

fn a_panic_over_a_datagram_costs_that_datagram_alone() {
    for_each_engine(One, LEFT_OUT, |engine| {
        if (engine.carries)("faulty", Scheme::Udp).is_err() {
            return;
        }
        let daemon = start(engine.name, &[]);
        let [_, by_datagram] = daemon.process.addresses_of("faulty")[..] else { panic!("two ready lines") };
        let asker = Asker::of(by_datagram);
        for _ in 0..5 {
            ["before", "panic", "more", "after"].iter().for_each(|request| asker.send(request.as_bytes()));
            assert_eq!([asker.hear(), asker.hear()], [b"before".to_vec(), b"after".to_vec()]);
        }
        let summary = daemon.drain();
        let count = |name: &str| summary.count(&format!("datagrams.{name}"));
        assert_eq!([count("answered"), count("panicked"), count("refused.too_long")], [10, 5, 5]);
    });
}

fn a_panic_in_a_service_is_followed_by_other_sessions() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = start(engine.name, &[]);
        let [echo, faulty] = ["echo", "faulty"].map(|service| daemon.process.address_of(service));
        for round in 0..20 {
            let mut victim = Client::connect(faulty);
            victim.send(b"!");
            victim.wait_for_end();
            Client::connect(echo).echo(&text(100, round));
        }
        daemon.process.wait_for_message("told to panic");
        let summary = daemon.drain();
        assert_eq!((summary.accepted(), summary.closed("panicked")), (40, 20), "{summary:?}");
    });
}

fn a_service_that_cannot_be_opened_costs_its_connections_alone() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = start(engine.name, &[]);
        let [echo, unopened] = ["echo", "unopened"].map(|service| daemon.process.address_of(service));
        for round in 0..20 {
            Client::connect(unopened).wait_for_end();
            Client::connect(echo).echo(&text(100, round));
        }
        let summary = daemon.drain();
        assert_eq!((summary.accepted(), summary.closed("panicked")), (40, 20), "{summary:?}");
    });
}

fn a_panic_of_a_service_that_is_dropped_ends_that_session_alone() {
    for_each_engine(One, LEFT_OUT, |engine| {
        for flags in rows_for(engine, SETTINGS) {
            let daemon = start(engine.name, flags);
            let [echo, clumsy] = ["echo", "clumsy"].map(|service| daemon.process.address_of(service));
            for round in 0..20 {
                let mut client = Client::connect(clumsy);
                client.echo(b"well");
                client.finish();
                client.wait_for_end();
                Client::connect(echo).echo(&text(100, round));
            }
            let summary = daemon.drain();
            assert_eq!((summary.accepted(), summary.closed("panicked")), (40, 20), "{summary:?}");
        }
    });
}

fn a_service_may_speak_first() {
    for_each_engine(One, LEFT_OUT, |engine| {
        for flags in rows_for(engine, SETTINGS) {
            let daemon = start(engine.name, flags);
            for _ in 0..3 {
                let mut client = Client::connect(daemon.process.address_of("herald"));
                client.expect(b"welcome\r\n");
                client.echo(b"thanks");
            }
            daemon.drain();
        }
    });
}

fn a_service_learns_how_each_session_ended() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = start(engine.name, &[]);
        let chronicler = || Client::connect(daemon.process.address_of("chronicler"));
        let is_told = |said: &str, way: &str| {
            daemon.process.wait_for_message(&format!("\"{said}\" ended as {way}"));
        };
        let mut client = chronicler();
        client.echo(b"all");
        client.finish();
        client.wait_for_end();
        is_told("all", "finished");
        let mut client = chronicler();
        client.echo(b"gone");
        client.reset();
        is_told("gone", "reset");
        for (said, way) in [("why?", "protocol"), ("oh!", "panicked")] {
            let mut client = chronicler();
            client.send(said.as_bytes());
            client.wait_for_end();
            is_told(said, way);
        }
        // A panic then is the end of that session alone, as one before it.
        let mut client = chronicler();
        client.echo(b"last words");
        client.finish();
        client.wait_for_end();
        is_told("last words", "finished");
        let mut client = chronicler();
        client.echo(b"still here");
        daemon.process.signal(Signal::TERM);
        is_told("still here", "drained");
        let summary = daemon.finish();
        assert_eq!((summary.accepted(), summary.closed("panicked")), (6, 2), "{summary:?}");
    });
}

fn calls_of_the_last_session_may_be_left_when_it_has_ended() {
    for_each_engine(One, LEFT_OUT, |engine| {
        for flags in
            rows_for(engine, &[&["--workers", "2"], &["--workers", "2", "--assist", "off"], &["--workers", "1"], &[]])
        {
            let daemon = start(engine.name, flags);
            let mut client = Client::connect(daemon.process.address_of("toiler"));
            // Keeps its session through the drain.
            client.send(b"z");
            daemon.process.signal(Signal::TERM);
            daemon.process.wait_for_message("draining");
            // More calls than the queue has room for, and no session that they would be of.
            client.send(&[&[b'a'; 20_000][..], b"!"].concat());
            client.wait_for_end();
            let summary = daemon.finish();
            assert_eq!(summary.accepted(), 1, "{summary:?}");
        }
    });
}

fn a_panic_in_a_call_ends_its_session_alone() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        for flags in rows_for(engine, SETTINGS) {
            let daemon = start(engine.name, flags);
            let [echo, toiler] = ["echo", "toiler"].map(|service| daemon.process.address_of(service));
            let mut bystander = Client::connect(toiler);
            let mut other = Client::connect(echo);
            for told in [b"x", b"X"].repeat(10) {
                let mut victim = Client::connect(toiler);
                victim.echo(b"w");
                victim.echo(b"W");
                // With others of it around it.
                victim.send(&[&b"ab"[..], told, b"cd"].concat());
                victim.wait_for_end();
                bystander.echo(b"w");
                bystander.echo(b"W");
                other.echo(b"well");
            }
            let summary = daemon.drain();
            assert_eq!((summary.accepted(), summary.closed("panicked")), (22, 20), "{summary:?}");
        }
    });
}

fn a_session_with_a_mailbox_is_not_spared_by_the_idle_timeout() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = start(engine.name, &["--idle-timeout", "500ms"]);
        let mut client = Client::connect(daemon.process.address_of("toiler"));
        client.echo(b"aaaa");
        client.wait_for_end();
        let summary = daemon.drain();
        assert_eq!(summary.closed("idle_timeout"), 1, "{summary:?}");
    });
}
