//! The console as operators see it: on every engine that carries it, in the file system and on loopback, beside load and
//! in trouble. What the protocol does with any bytes is in `console_protocol.rs`; files and modes in `console_files.rs`.

#[path = "support/client.rs"]
mod client;
#[path = "support/console.rs"]
mod console;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use maitred::config::AtOnce::Many;

use client::{Client, text, wait_until};
use console::Operator;
use daemon::Daemon;
use engines::for_each_engine;

const ECHO: &str = "echo=tcp://127.0.0.1:0";

/// A daemon with a console in a folder of its own.
struct Manned {
    daemon: Daemon,
    path: PathBuf,
    _folder: TempDir,
}

impl Manned {
    /// With these listeners beside the console.
    #[track_caller]
    fn start(engine: &str, listen: &[&str], flags: &[&str]) -> Manned {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("console");
        let url = format!("console=unix://{}", path.display());
        let listen = listen.iter().copied().chain([url.as_str()]).flat_map(|listener| ["--listen", listener]);
        let daemon = Daemon::echo(engine, &[&listen.collect::<Vec<_>>()[..], flags].concat());
        Manned { daemon, path, _folder: folder }
    }

    #[track_caller]
    fn operator(&self) -> Operator {
        Operator::at(&self.path)
    }
}

/// Clients of `work` that each ask for an hour's sleep.
#[track_caller]
fn sleepers(manned: &Manned, count: usize) -> Vec<TcpStream> {
    let (demand_ns, sleep) = (3_600_000_000_000_u64, 1_u8);
    let mut frame = Vec::new();
    frame.extend(20_u32.to_be_bytes());
    frame.extend(1_u64.to_be_bytes());
    frame.extend(demand_ns.to_be_bytes());
    frame.extend([sleep, 0, 0, 0]);
    let address = manned.daemon.process.address_of("work");
    let mut sleepers: Vec<TcpStream> = (0..count).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    sleepers.iter_mut().for_each(|sleeper| sleeper.write_all(&frame).expect("it is open"));
    sleepers
}

#[test]
fn an_operator_asks_and_is_answered() {
    for_each_engine(Many, &[], |engine| {
        let manned = Manned::start(engine.name, &[ECHO], &[]);
        let mut operator = manned.operator();
        assert_eq!(operator.sessions(), []);
        let mut clients: Vec<Client> = (1..=3).map(|_| Client::connect(manned.daemon.address())).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.echo(&text(100 * (number + 1), number));
        }
        // The turn that wrote the last byte notes it a moment later.
        let mut rows = Vec::new();
        wait_until("all are noted", || {
            rows = operator.sessions();
            rows.iter().map(|row| row.written_bytes).sum::<u64>() == 600
        });
        rows.sort_by_key(|row| row.read_bytes);
        let bytes: Vec<(u64, u64)> = rows.iter().map(|row| (row.read_bytes, row.written_bytes)).collect();
        assert_eq!(bytes, [(100, 100), (200, 200), (300, 300)]);
        assert!(rows.iter().all(|row| row.service == "echo" && row.peer.ip().is_loopback()));
        assert_eq!(rows.iter().map(|row| row.id).collect::<HashSet<_>>().len(), 3, "{rows:?}");

        let screen = operator.ask("stats");
        assert!(screen.iter().all(|line| line.chars().count() <= 80), "{screen:#?}");
        assert!(screen[0].starts_with(&format!(" engine {}, ", engine.name)), "{screen:#?}");
        assert!(screen.iter().any(|line| line.contains("accepted 3  open 3")), "{screen:#?}");
        let workers: usize = operator.end_of("workers")["workers ".len()..].parse().expect("a number");
        assert!(workers > 0);

        operator.expect_ok(&format!("kill {}", rows[1].id));
        clients.remove(1).wait_for_end();
        clients.iter_mut().for_each(|client| client.echo(b"the others stay"));
        wait_until("it is gone", || operator.sessions().len() == 2);
        let stale = operator.end_of(&format!("kill {}", rows[1].id));
        assert!(stale.starts_with(&format!("error {} is no session that is open", rows[1].id)), "{stale}");
        for nobody in [0, 3_000_000, u64::MAX] {
            assert!(operator.end_of(&format!("kill {nobody}")).starts_with("error "));
        }

        let other = manned.operator();
        operator.send(b"quit\nstats\n");
        assert_eq!(operator.answer(), ["ok"]);
        operator.expect_end();
        let mut operator = other;
        assert!(operator.end_of("drain").starts_with("ok draining"));
        clients.iter_mut().for_each(|client| client.expect_end());
        let Manned { daemon, path, .. } = manned;
        let summary = daemon.finish();
        assert_eq!((summary.closed("killed"), summary.closed("drained")), (1, 2), "{summary:?}");
        assert!(!path.exists(), "the file goes with the daemon");
    });
}

#[test]
fn on_the_network_the_token_comes_first() {
    for engine in ["pool", "prefork"] {
        let flags = ["--listen", ECHO, "--listen", "console=tcp://127.0.0.1:0?token=open sesame"];
        let daemon = Daemon::echo(engine, &flags);
        let address = daemon.process.address_of("console");
        let mut operator = Operator::on(address);
        operator.expect_ok("token open sesame");
        assert!(operator.end_of("workers").starts_with("workers "));
        assert!(operator.end_of("token open sesame").starts_with("error token is not a command"));

        // Nothing is carried out before it, and three lines without it are too many.
        let mut stranger = Operator::on(address);
        let begin = Instant::now();
        for line in ["drain", "token open sesam", "token"] {
            assert!(stranger.end_of(line).starts_with("error that is not the token"), "{line}");
        }
        assert!(begin.elapsed() >= Duration::from_secs(3), "each is answered a second later");
        stranger.expect_end();
        let mut hesitant = Operator::on(address);
        assert!(hesitant.end_of("token nothing").starts_with("error that is not"));
        hesitant.expect_ok("token open sesame");
        hesitant.expect_ok("quit");
        assert_eq!(daemon.process.messages().matches("a wrong token").count(), 1, "guessing does not fill the log");
        assert!(!daemon.process.messages().contains("sesam"));

        assert!(operator.end_of("drain").starts_with("ok"));
        daemon.finish();
    }
}

#[test]
fn a_telnet_client_is_declined_and_answered() {
    const IAC: u8 = 255;
    let manned = Manned::start("pool", &[ECHO], &[]);
    let mut stream = UnixStream::connect(&manned.path).expect("somebody listens");
    // WILL NAWS, DO ECHO, a window of ten lines, which has an LF in it; the line itself ends as telnet has it.
    stream.write_all(&[IAC, 251, 31, IAC, 253, 1, IAC, 250, 31, 0, 80, 0, 10, IAC, 240]).expect("it reads");
    stream.write_all(b"wor").expect("it reads");
    stream.write_all(&[IAC, 241]).expect("it reads");
    stream.write_all(b"kers\r\nquit\r\n").expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let [declined, said] = [&answer[..6], &answer[6..]];
    assert_eq!(declined, [IAC, 254, 31, IAC, 252, 1]);
    let said = std::str::from_utf8(said).expect("the rest is text");
    assert!(said.starts_with("workers ") && said.ends_with("\r\nok\r\n"), "{said:?}");
    assert_eq!(said.matches('\n').count(), 2, "{said:?}");
}

#[test]
fn the_console_answers_while_every_worker_is_busy() {
    for_each_engine(Many, &[], |engine| {
        // Far longer than anything here takes: whoever waits for a worker waits for ever.
        let flags = ["--workers", "1", "--queue", "1", "--max-demand", "1h"];
        let manned = Manned::start(engine.name, &["work=tcp://127.0.0.1:0"], &flags);
        let mut sleepers = sleepers(&manned, 4);
        let mut operator = manned.operator();
        for _ in 0..3 {
            assert_eq!(operator.end_of("stats"), "ok");
            assert!(operator.end_of("workers").starts_with("workers "));
            operator.sessions();
        }
        for sleeper in &mut sleepers {
            sleeper.set_nonblocking(true).expect("a socket can be asked");
            let heard = sleeper.read(&mut [0]).expect_err("nobody was served");
            assert_eq!(heard.kind(), ErrorKind::WouldBlock);
        }
        manned.daemon.process.signal(Signal::TERM);
        manned.daemon.process.wait_for_message("draining");
        assert!(operator.end_of("workers").starts_with("workers "), "a drain does not silence it");
        manned.daemon.process.signal(Signal::TERM);
        // Who sleeps in a service hears of nothing before it wakes, on some engines.
    });
}

#[test]
fn a_session_under_load_is_killed_and_no_other() {
    for_each_engine(Many, &[], |engine| {
        let manned = Manned::start(engine.name, &[ECHO], &["--workers", "2"]);
        let is_over = AtomicBool::new(false);
        let echoed = AtomicU64::new(0);
        let address = manned.daemon.address();
        thread::scope(|scope| {
            for number in 0..2 {
                let (is_over, echoed) = (&is_over, &echoed);
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    while !is_over.load(Ordering::Relaxed) {
                        client.echo(&text(10_000, number));
                        echoed.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let firehose = TcpStream::connect(address).expect("it listens");
            let peer = firehose.local_addr().expect("it has an address");
            let mut reader = firehose.try_clone().expect("there are descriptors");
            scope.spawn(move || {
                let mut writer = firehose;
                while writer.write_all(&[7; 65_536]).is_ok() {}
            });
            scope.spawn(move || while reader.read(&mut [0; 65_536]).is_ok_and(|count| count > 0) {});
            let mut operator = manned.operator();
            let mut found = None;
            wait_until("much has gone through it", || {
                found = operator.sessions().into_iter().find(|row| row.peer == peer);
                found.as_ref().is_some_and(|row| row.written_bytes > 1 << 20)
            });
            operator.expect_ok(&format!("kill {}", found.expect("it was found").id));
            wait_until("it is gone", || operator.sessions().iter().all(|row| row.peer != peer));
            let before = echoed.load(Ordering::Relaxed);
            wait_until("the others go on", || echoed.load(Ordering::Relaxed) > before + 10);
            is_over.store(true, Ordering::Relaxed);
        });
        let summary = manned.daemon.drain();
        assert_eq!(summary.closed("killed"), 1, "{summary:?}");
    });
}

#[test]
fn what_is_set_is_in_force() {
    let manned = Manned::start("pool", &[ECHO], &["--queue", "100", "--ring", "1KiB"]);
    let address = manned.daemon.address();
    let mut operator = manned.operator();
    let shown = |operator: &mut Operator, key: &str| {
        let lines = operator.ask("set");
        let value = lines.iter().find_map(|line| line.strip_prefix(&format!(" {key} ")));
        value.unwrap_or_else(|| panic!("{key} is not among {lines:?}")).to_owned()
    };
    for (key, value) in [
        ("low_water", "7"),
        ("low_water", "off"),
        ("low_water", "auto"),
        ("batch", "1"),
        ("spin", "50us"),
        ("budget", "1"),
        ("max_connections", "2"),
        ("idle_timeout", "3600s"),
        ("write_timeout", "2s"),
        ("drain_timeout", "77s"),
        ("log_level", "debug"),
    ] {
        operator.expect_ok(&format!("set {key} {value}"));
        assert_eq!(shown(&mut operator, key), value, "{key}");
    }
    let mut idle = Client::connect(address);
    idle.echo(b"here");
    let mut busy = Client::connect(address);
    busy.echo(&text(300_000, 0));
    Client::connect(address).wait_for_end();
    operator.expect_ok("set idle_timeout 100ms");
    idle.wait_for_end();
    assert!(operator.end_of("drain").starts_with("ok draining, at most 77s"));
    let summary = manned.daemon.finish();
    assert_eq!((summary.closed("over_limit"), summary.count("poller.turned_away")), (1, 1), "max_connections");
    assert!(summary.closed("idle_timeout") >= 1, "idle_timeout: {summary:?}");
    assert!(summary.turns("budget_stops") > 10, "a budget of one byte: {summary:?}");
    assert_eq!(summary.count("poller.events_max"), 1, "batch: {summary:?}");
}

#[test]
fn what_cannot_be_set_is_named_with_what_could_be() {
    let manned = Manned::start("event-loop", &[ECHO], &[]);
    let mut operator = manned.operator();
    let known = "expected one of batch, budget, max_connections, idle_timeout, write_timeout, drain_timeout, log_level";
    for (line, expected) in [
        ("set ring 64KiB", format!("error ring can only be changed by a restart; {known}")),
        ("set spin 1ms", format!("error engine event-loop has no use for spin; {known}")),
        ("set colour red", format!("error colour is no setting; {known}")),
        ("set batch many", "error batch: many is not a number; expected a number from 1 to 65536".to_owned()),
        ("set batch 0", "error batch: 0 is too small; expected a number from 1 to 65536".to_owned()),
        (
            "set log_level loud",
            "error log_level: loud is not known; expected off, error, warn, info, debug or trace".to_owned(),
        ),
        ("set batch", "error set takes other words; expected set or set KEY VALUE".to_owned()),
        ("kill me", "error me is not an id; expected a number that sessions tells".to_owned()),
        ("workers -1", "error -1 is not a number of workers; expected one from 1 on".to_owned()),
    ] {
        assert_eq!(operator.ask(line), [expected], "{line}");
    }
}

#[test]
fn an_operator_that_reads_nothing_is_in_nobodys_way_and_is_cut_off() {
    for_each_engine(Many, &[], |engine| {
        let manned = Manned::start(engine.name, &[ECHO], &["--write-timeout", "1h"]);
        let mut deaf = UnixStream::connect(&manned.path).expect("somebody listens");
        deaf.set_nonblocking(true).expect("a socket can be asked");
        let mut sent = 0;
        let questions = b"help\n".repeat(1_000);
        wait_until("it takes no more", || match deaf.write(&questions) {
            Ok(count) => {
                sent += count;
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                sent > 0
            }
        });
        let mut operator = manned.operator();
        assert_eq!(operator.end_of("stats"), "ok");
        Client::connect(manned.daemon.address()).echo(b"service goes on");
        operator.expect_ok("set write_timeout 50ms");
        deaf.set_nonblocking(false).expect("a socket can be asked");
        wait_until("it is cut off", || {
            let error = deaf.write_all(b"help\n").err().map(|error| error.kind());
            error == Some(ErrorKind::BrokenPipe) || error == Some(ErrorKind::ConnectionReset)
        });
        assert_eq!(operator.end_of("stats"), "ok");
        manned.daemon.drain();
    });
}

#[test]
fn a_door_has_so_many_sessions_and_says_so_to_the_next() {
    let manned = Manned::start("pool", &[ECHO], &[]);
    let mut operators: Vec<Operator> = (0..16).map(|_| manned.operator()).collect();
    operators.iter_mut().for_each(|operator| assert!(operator.end_of("workers").starts_with("workers")));
    let mut late = manned.operator();
    assert_eq!(late.answer(), ["error 16 sessions are open; expected one of them to end first"]);
    operators[0].expect_ok("quit");
    drop(operators.remove(0));
    wait_until("there is room", || manned.operator().ask("workers")[0].starts_with("workers"));
}

#[test]
fn a_list_of_a_thousand_sessions_is_whole() {
    let manned = Manned::start("event-loops", &[ECHO], &["--workers", "3"]);
    let address = manned.daemon.address();
    let clients: Vec<TcpStream> = (0..1_000).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    let mut operator = manned.operator();
    let mut rows = Vec::new();
    wait_until("all are here", || {
        rows = operator.sessions();
        rows.len() == clients.len()
    });
    assert_eq!(rows.iter().map(|row| row.id).collect::<HashSet<_>>().len(), clients.len());
    let peers: HashSet<_> = rows.iter().map(|row| row.peer).collect();
    assert!(clients.iter().all(|client| peers.contains(&client.local_addr().expect("it has an address"))));
    // In many turns, of which each waits for the reader.
    operator.send(&b"sessions\n".repeat(20));
    for _ in 0..20 {
        assert_eq!(operator.answer().last().map(String::as_str), Some("ok 1000 sessions"));
    }
}

#[test]
fn lines_that_come_with_the_end_of_the_input_are_answered() {
    let manned = Manned::start("pool", &[ECHO], &[]);
    let mut stream = UnixStream::connect(&manned.path).expect("somebody listens");
    stream.write_all(b"\n\nhelp\nworkers\nstats").expect("it reads");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let ends: Vec<&str> = answer.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(ends.len() == 2 && ends[0] == "ok" && ends[1].starts_with("workers "), "{answer}");
}

#[test]
fn a_reload_takes_back_what_was_set() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("maitred.toml");
    std::fs::write(&file, "batch = 9\ndrain_timeout = \"3s\"\n").expect("it can be written");
    let manned = Manned::start("pool", &[ECHO], &["--config", file.to_str().expect("it is text")]);
    let mut operator = manned.operator();
    operator.expect_ok("set batch 5");
    assert!(operator.ask("set").contains(&" batch 5".to_owned()));
    manned.daemon.process.signal(Signal::HUP);
    manned.daemon.process.wait_for_message("is in force");
    assert!(operator.ask("set").contains(&" batch 9".to_owned()));
}

#[test]
fn workers_change_their_number_and_the_answer_comes_when_it_is_so() {
    for_each_engine(Many, &[], |engine| {
        let manned = Manned::start(engine.name, &[ECHO], &["--workers", "2"]);
        let mut operator = manned.operator();
        let mut client = Client::connect(manned.daemon.address());
        client.echo(b"before");
        if engine.resizes.is_err() {
            let end = operator.end_of("workers 3");
            assert!(end.starts_with("error cannot change the workers of the engine "), "{end}");
            return;
        }
        for workers in [3, 1, 2] {
            assert_eq!(operator.ask(&format!("workers {workers}")), [format!("workers {workers}")]);
            assert_eq!(operator.ask("workers"), [format!("workers {workers}")]);
            client.echo(b"and after");
        }
        for wrong in ["workers 0", "workers 1025"] {
            assert!(operator.end_of(wrong).starts_with("error "), "{wrong}");
        }
        manned.daemon.drain();
    });
}

#[test]
fn who_waits_for_workers_to_go_holds_up_no_other_operator() {
    let flags = ["--workers", "2", "--max-demand", "1h", "--assist", "off"];
    let manned = Manned::start("pool", &["work=tcp://127.0.0.1:0"], &flags);
    let sleepers = sleepers(&manned, 2);
    let mut operator = manned.operator();
    wait_until("both workers have taken a request", || {
        let screen = operator.ask("stats").join("\n");
        let calls =
            |worker: &str| screen.lines().find(|line| line.contains(worker))?.split_whitespace().nth(2)?.parse().ok();
        (calls("worker-0"), calls("worker-1")) == (Some(1), Some(1))
    });
    let mut waiting = manned.operator();
    waiting.send(b"workers 1\nhelp\n");
    for _ in 0..3 {
        assert_eq!(operator.end_of("workers"), "workers 2", "nobody goes before it wakes");
    }
    drop(sleepers);
}
