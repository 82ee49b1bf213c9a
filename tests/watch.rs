//! `watch` over real sockets, on every engine that carries it: no change is told twice, the newest is never missed, and the
//! same value is seen from outside the daemon.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use maitred::cell::{Cell, Text};
use maitred::config::{AtOnce, EngineInfo, Scheme};

use client::{Client, wait_until};
use daemon::{Daemon, Summary};
use engines::Told;
use process::{check_all, command};

/// Talks to a daemon that watches a cell of its own, where the engine can, and then to one that watches a file.
fn on_each(flags: &[&str], talk: impl Fn(&Daemon, &Cell) + Sync, check: impl Fn(&Summary) + Sync) {
    let carries =
        |engine: &&EngineInfo| (engine.carries)("watch", Scheme::Tcp).is_ok() && engine.at_once == AtOnce::Many;
    check_all(engines::engines().into_iter().filter(carries), |engine| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("cell");
        let cell = Cell::open(&path).expect("it can be made");
        for query in [String::new(), format!("?cell={}", path.display())] {
            if query.is_empty() && engine.forks {
                continue;
            }
            let listener = format!("watch=tcp://127.0.0.1:0{query}");
            let _told = Told(format!("with {listener} on {}", engine.name));
            let daemon = Daemon::echo(engine.name, &[&["--listen", &listener][..], flags].concat());
            talk(&daemon, &cell);
            check(&daemon.drain());
        }
    });
}

/// A client that speaks in lines.
struct Lines {
    reader: BufReader<TcpStream>,
}

impl Lines {
    fn connect(server: SocketAddr) -> Lines {
        Lines { reader: BufReader::new(Client::connect(server).0) }
    }

    fn say(&mut self, line: &str) {
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes()).expect("the daemon reads");
    }

    #[track_caller]
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("the daemon answers");
        assert_eq!(line.pop(), Some('\n'), "a line is whole: {line:?}");
        line
    }

    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }

    /// The version and the text of a `VALUE` line.
    #[track_caller]
    fn hear_value(&mut self) -> (u64, String) {
        let line = self.hear();
        let (version, text) = line.strip_prefix("VALUE ").and_then(|rest| rest.split_once(' ')).expect(&line);
        (version.parse().expect("a version"), text.to_owned())
    }

    #[track_caller]
    fn version_of(&mut self, set: &str) -> u64 {
        let line = self.ask(set);
        line.strip_prefix("OK ").and_then(|version| version.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    }
}

#[test]
fn a_value_is_set_read_and_told_of() {
    on_each(
        &[],
        |daemon, _| {
            let (mut setter, mut watcher) = (Lines::connect(daemon.address()), Lines::connect(daemon.address()));
            let first = setter.version_of("SET one");
            assert_eq!(setter.version_of("SET one"), first, "the present text again is no change");
            assert_eq!(setter.ask("GET"), format!("VALUE {first} one"));
            assert_eq!(watcher.ask("WATCH"), format!("VALUE {first} one"));
            assert_eq!(setter.version_of("SET one"), first);
            let second = setter.version_of("SET two words\r");
            assert!(second > first);
            assert_eq!(
                watcher.hear_value(),
                (second, "two words".to_owned()),
                "and nothing of the text that was set again"
            );
            assert_eq!(watcher.ask("GET"), format!("VALUE {second} two words"));
            let empty = setter.version_of("SET ");
            assert_eq!(watcher.hear_value(), (empty, String::new()));
            assert_eq!(setter.ask("FORGET"), "ERR bad-command SET TEXT, GET or WATCH");
            setter.say("SET last\nGET\nGET");
            let last = setter.hear().strip_prefix("OK ").expect("a version").to_owned();
            assert_eq!([setter.hear(), setter.hear()], [format!("VALUE {last} last"), format!("VALUE {last} last")]);
        },
        |summary| assert_eq!(summary.accepted(), 2),
    );
}

#[test]
fn versions_only_grow_and_the_newest_is_always_told() {
    const SETS: usize = 150;
    on_each(
        &["--max-processes", "64"],
        |daemon, _| {
            let server = daemon.address();
            let mut watchers: Vec<Lines> = (0..4).map(|_| Lines::connect(server)).collect();
            let mut before: Vec<u64> = Vec::new();
            for watcher in &mut watchers {
                watcher.say("WATCH");
                before.push(watcher.hear_value().0);
            }
            thread::scope(|scope| {
                for (watcher, mut last) in watchers.iter_mut().zip(before) {
                    scope.spawn(move || {
                        loop {
                            let (version, text) = watcher.hear_value();
                            assert!(version > last, "{version} after {last}");
                            last = version;
                            if text == "the end" {
                                return;
                            }
                        }
                    });
                }
                let setters: Vec<_> = (0..3)
                    .map(|setter| {
                        scope.spawn(move || {
                            let mut client = Lines::connect(server);
                            let mut last = 0;
                            for number in 0..SETS {
                                let version = client.version_of(&format!("SET {setter} {number}"));
                                assert!(version > last, "{version} after {last}");
                                last = version;
                            }
                        })
                    })
                    .collect();
                setters.into_iter().for_each(|setter| setter.join().expect("it has set all"));
                Lines::connect(server).version_of("SET the end");
            });
        },
        |summary| assert_eq!(summary.closed("panicked") + summary.closed("protocol"), 0),
    );
}

#[test]
fn a_text_longer_than_the_ring_comes_whole_and_a_slow_watcher_hears_the_newest() {
    const SETS: usize = 900;
    on_each(
        &["--ring", "1KiB"],
        |daemon, cell| {
            // Lines of commands must fit the ring: what is longer is set from outside.
            let mut slow = Lines { reader: BufReader::new(Client::connect_small(daemon.address()).0) };
            slow.say("WATCH");
            let mut last = slow.hear_value().0;
            let text = |number: usize| format!("{number} {}", "x".repeat(900));
            let mut setter = Lines::connect(daemon.address());
            for number in 0..SETS {
                setter.version_of(&format!("SET {}", text(number)));
            }
            let mut heard = 0;
            loop {
                let (version, told) = slow.hear_value();
                assert!(version > last, "{version} after {last}");
                last = version;
                heard += 1;
                if told == text(SETS - 1) {
                    break;
                }
            }
            assert!(heard <= SETS);
            let long = "y".repeat(8_000);
            cell.set(Text::new(long.as_bytes()).expect("it is not too long")).expect("it can be set");
            if setter.ask("GET").len() > 2_000 {
                assert_eq!(slow.hear_value().1, long, "it is the cell of the file");
            }
        },
        |summary| assert_eq!(summary.closed("panicked") + summary.closed("protocol"), 0),
    );
}

#[test]
fn a_change_from_outside_is_told_and_one_from_inside_is_seen_there() {
    on_each(
        &[],
        |daemon, cell| {
            let mut client = Lines::connect(daemon.address());
            client.say("WATCH");
            let (version, _) = client.hear_value();
            let inside = client.version_of_amid_values("SET inside");
            if cell.version().expect("it is a cell") != inside {
                // The daemon has a cell of its own.
                return;
            }
            assert!(inside > version);
            assert_eq!(cell.read().expect("it is a cell").1, b"inside");
            for number in 0..50 {
                let text = format!("outside {number}");
                let set = cell.set(Text::new(text.as_bytes()).expect("it is a line")).expect("it can be set");
                wait_until("the change is told", || client.hear_value() == (set.version, text.clone()));
            }
        },
        |summary| assert_eq!(summary.accepted(), 1),
    );
}

impl Lines {
    /// The same while changes are told, its own among them.
    fn version_of_amid_values(&mut self, set: &str) -> u64 {
        self.say(set);
        loop {
            let line = self.hear();
            if let Some(version) = line.strip_prefix("OK ") {
                return version.parse().expect("a version");
            }
        }
    }
}

#[test]
fn a_line_that_is_too_long_ends_the_session() {
    on_each(
        &[],
        |daemon, _| {
            let mut client = Client::connect(daemon.address());
            client.send(&[b'x'; 8 << 10]);
            client.expect_end();
        },
        |summary| assert_eq!(summary.closed("protocol"), 1),
    );
}

#[test]
fn what_is_no_cell_keeps_the_daemon_from_starting() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("letter");
    std::fs::write(&file, "Dear Sir or Madam").expect("it can be written");
    let listener = format!("watch=tcp://127.0.0.1:0?cell={}", file.display());
    let output = command(&["--listen", &listener]).output().expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("letter") && output.stdout.is_empty(), "{message}");
    let output = command(&["--engine", "prefork", "--listen", "watch=tcp://127.0.0.1:0"]).output().expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && message.contains("without cell=FILE"), "{message}");
}
