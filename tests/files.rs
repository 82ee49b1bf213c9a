//! `files` over real sockets, on every engine that carries it: bytes of files as they are, in order, from one who reads slowly
//! as from many at once; what becomes of a file that changes meanwhile; a pool that has no room; a list that is swept. What
//! paths may not lead to is in `files_traversal.rs`.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;

use maitred::config::{AtOnce, EngineInfo};
use maitred::digest::{Digest, hex};

use client::{Client, text, wait_until};
use daemon::Daemon;
use engines::for_each_engine;

/// A daemon with `files` below a folder, by these parameters, and echo beside it.
fn serve(engine: &EngineInfo, folder: &Path, query: &str, flags: &[&str]) -> Daemon {
    let listener = format!("files=tcp://127.0.0.1:0?root={}{query}", folder.display());
    let listen = ["--listen", &listener, "--listen", "echo=tcp://127.0.0.1:0"];
    Daemon::echo(engine.name, &[&listen[..], flags].concat())
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).expect("it can be written");
    }
    folder
}

/// A client that asks in lines.
struct Lines(BufReader<TcpStream>);

impl Lines {
    fn connect(server: SocketAddr) -> Lines {
        Lines(BufReader::new(Client::connect(server).0))
    }

    fn say(&mut self, lines: &str) {
        self.0.get_mut().write_all(lines.as_bytes()).expect("the daemon reads");
    }

    #[track_caller]
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the daemon answers");
        assert_eq!(line.pop(), Some('\n'), "a line is whole: {line:?}");
        line
    }

    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        self.say(&format!("{line}\n"));
        self.hear()
    }

    /// The bytes that follow `OK SIZE`.
    #[track_caller]
    fn hear_file(&mut self) -> Vec<u8> {
        let line = self.hear();
        let size = line.strip_prefix("OK ").and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        let mut bytes = vec![0; size];
        self.0.read_exact(&mut bytes).expect("what was promised comes");
        bytes
    }

    /// The lines up to the empty one.
    #[track_caller]
    fn hear_all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.hear()).filter(|line| !line.is_empty())).collect()
    }
}

fn hash(bytes: &[u8]) -> String {
    let mut digest = Digest::new();
    digest.update(bytes);
    hex(&digest.finish())
}

#[test]
fn files_of_any_size_are_sent_as_they_are_however_slowly_they_are_read() {
    for_each_engine(AtOnce::One, &[], |engine| {
        let sizes = [0, 1, 4_095, 4_096, 4_097, 8_192, 1 << 20, (1 << 20) + 1, (5 << 20) + 12_345];
        let files: Vec<(String, Vec<u8>)> =
            sizes.iter().map(|&size| (format!("{size} bytes"), text(size, size))).collect();
        let named: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        let folder = folder(&named);
        for query in ["", "&piece=4KiB", "&send=copy"] {
            let daemon = serve(engine, folder.path(), query, &[]);
            let mut client = Lines(BufReader::new(Client::connect_with_room(daemon.address(), 16 << 10).0));
            // More than the sockets hold, so that answers wait for a reader who has not begun.
            let lines: String = files.iter().map(|(name, _)| format!("GET {name}\nSTAT {name}\n")).collect();
            client.say(&lines);
            for (name, bytes) in &files {
                assert!(client.hear_file() == *bytes, "{name} with {query}");
                let stat = client.hear();
                assert!(stat.starts_with(&format!("OK {} ", bytes.len())), "{stat}");
            }
            assert_eq!(client.ask("HASH 1048577 bytes"), format!("OK {} 1048577", hash(&files[7].1)));
            drop(client);
            let summary = daemon.drain();
            assert_eq!(summary.accepted(), 1);
        }
    });
}

#[test]
fn many_transfers_at_once_are_exact_and_leave_nothing_open() {
    let bytes = text(3 << 20, 9);
    for_each_engine(AtOnce::Many, &[], |engine| {
        let folder = folder(&[("file", &bytes)]);
        let daemon = serve(engine, folder.path(), "", &[]);
        let open =
            || fs::read_dir(format!("/proc/{}/fd", daemon.process.pid().as_raw_nonzero())).expect("it runs").count();
        // The first call may have opened something for good.
        assert!(Lines::connect(daemon.address()).ask("HASH file").starts_with("OK "));
        wait_until("the first client has gone", || daemon.summary_now()[1] == 0);
        let before = open();
        thread::scope(|scope| {
            for number in 0..24 {
                let (daemon, bytes) = (&daemon, &bytes);
                scope.spawn(move || {
                    let mut client = Lines::connect(daemon.address());
                    client.say("GET file\nGET file\n");
                    if number % 4 == 0 {
                        // Leaves in the middle of what it is sent.
                        let mut some = vec![0; 100_000];
                        client.0.read_exact(&mut some).expect("it is sent something");
                        return;
                    }
                    assert!(client.hear_file() == *bytes && client.hear_file() == *bytes);
                });
            }
        });
        wait_until("all clients have gone", || daemon.summary_now()[1] == 0);
        // What a child had open has gone with it, and of its parent nobody asks for files.
        wait_until("all files are closed", || engine.forks || open() <= before);
        assert_eq!(daemon.drain().accepted(), 25);
    });
}

#[test]
fn a_file_that_is_cut_ends_its_session_as_failed_and_one_that_grows_is_sent_as_it_was() {
    const SIZE: usize = 24 << 20;
    for_each_engine(AtOnce::One, &[], |engine| {
        for query in ["", "&send=copy"] {
            let folder = folder(&[("cut", &[7; SIZE]), ("grown", &[7; SIZE])]);
            let daemon = serve(engine, folder.path(), query, &[]);
            let open = |name: &str| File::options().append(true).open(folder.path().join(name)).expect("it is there");
            let mut client = Lines::connect(daemon.address());
            client.say("GET grown\n");
            assert_eq!(client.hear(), format!("OK {SIZE}"));
            open("grown").write_all(&[8; 1_000]).expect("it can be written");
            let mut bytes = vec![0; SIZE];
            client.0.read_exact(&mut bytes).expect("what was promised comes");
            assert!(bytes.iter().all(|&byte| byte == 7), "and nothing else");
            assert_eq!(client.ask("HASH nothing"), "ERR not-found nothing is there");
            drop(client);

            let mut client = Lines(BufReader::new(Client::connect_with_room(daemon.address(), 16 << 10).0));
            client.say("GET cut\n");
            assert_eq!(client.hear(), format!("OK {SIZE}"));
            open("cut").set_len(1_000).expect("it can be cut");
            let mut rest = Vec::new();
            // An end, or a reset for what the client has not read.
            let _ = client.0.read_to_end(&mut rest);
            assert!(rest.len() < SIZE, "{} bytes came", rest.len());
            let summary = daemon.drain();
            assert_eq!((summary.closed("failed"), summary.accepted()), (1, 2), "{summary:?}");
        }
    });
}

#[test]
fn who_finds_the_pool_full_waits_and_loses_nothing() {
    let bytes = text(1 << 19, 3);
    for_each_engine(AtOnce::Many, &[], |engine| {
        let folder = folder(&[("file", &bytes)]);
        let daemon = serve(engine, folder.path(), "", &["--file-jobs", "1", "--job-backlog", "1"]);
        let (hash, size) = (hash(&bytes), bytes.len());
        thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    let mut client = Lines::connect(daemon.address());
                    let round = "STAT file\nSTAT none\nHASH file\n";
                    client.say(&format!("{}GET file\n", round.repeat(2)));
                    for _ in 0..2 {
                        assert!(client.hear().starts_with(&format!("OK {size} ")));
                        assert_eq!(client.hear(), "ERR not-found nothing is there");
                        assert_eq!(client.hear(), format!("OK {hash} {size}"));
                    }
                    assert!(client.hear_file() == bytes);
                });
            }
        });
        let summary = daemon.drain();
        assert_eq!(summary.accepted(), 12);
        assert_eq!(summary.turns("jobs_waited") > 0, !engine.forks, "{summary:?}");
        assert_eq!(summary.turns("jobs_refused"), 0, "nothing of this is for whoever runs turns");
    });
}

/// Of more clients than there are threads, each of which would take one for an hour.
#[test]
fn files_go_on_while_huge_ones_are_hashed() {
    const HOLE: u64 = 1 << 40;
    const LARGE: usize = (33 << 20) + 5;
    for_each_engine(AtOnce::Many, &[], |engine| {
        let folder = folder(&[("file", b"12345")]);
        let hole = |name: &str, size| {
            let file = File::create(folder.path().join(name)).expect("it can be written");
            file.set_len(size).expect("the file system has holes");
        };
        hole("huge", HOLE);
        hole("large", LARGE as u64);
        let flags = ["--file-jobs", "1", "--job-backlog", "1", "--drain-timeout", "100ms"];
        let daemon = serve(engine, folder.path(), "", &flags);
        let mut hogs: Vec<Lines> = (0..3).map(|_| Lines::connect(daemon.address())).collect();
        hogs.iter_mut().for_each(|hog| hog.say("HASH huge\n"));
        let mut client = Lines::connect(daemon.address());
        assert!(client.ask("STAT file").starts_with("OK 5 "));
        assert_eq!(client.ask("HASH large"), format!("OK {} {LARGE}", hash(&vec![0; LARGE])));
        client.say("GET file\n");
        assert!(client.hear_file() == b"12345");
        drop((client, hogs));
        let summary = daemon.drain();
        assert_eq!(summary.accepted(), 4);
        // Each command is one, in however many pieces.
        assert!(summary.turns("calls") <= 6, "{summary:?}");
    });
}

#[test]
fn echo_goes_on_while_thousands_of_files_are_asked_for() {
    const STATS: usize = 4_000;
    for_each_engine(AtOnce::Many, &[], |engine| {
        let folder = folder(&[("file", b"12345")]);
        let daemon = serve(engine, folder.path(), "", &[]);
        let echo = daemon.process.address_of("echo");
        thread::scope(|scope| {
            for _ in 0..3 {
                let mut reader = Lines::connect(daemon.address());
                let mut writer = reader.0.get_ref().try_clone().expect("a second handle");
                scope.spawn(move || writer.write_all("STAT file\n".repeat(STATS).as_bytes()).expect("it reads"));
                scope.spawn(move || {
                    for _ in 0..STATS {
                        assert!(reader.hear().starts_with("OK 5 "));
                    }
                });
            }
            let mut client = Client::connect(echo);
            (0..300).for_each(|round| client.echo(&text(64, round)));
        });
        let summary = daemon.drain();
        assert_eq!(summary.accepted(), 4);
        assert!(summary.turns("calls") < 3 * STATS as u64 / 2, "commands at hand are one call: {summary:?}");
    });
}

#[test]
fn a_line_that_is_too_long_ends_its_session_behind_the_answers_before_it() {
    for_each_engine(AtOnce::One, &[], |engine| {
        let folder = folder(&[]);
        let daemon = serve(engine, folder.path(), "", &[]);
        let mut client = Lines::connect(daemon.address());
        client.say(&format!("STAT {}\nSTAT {}\n", "x".repeat(4_096), "x/".repeat(2_047)));
        assert_eq!(client.hear(), "ERR too-long the path, or a name in it, is too long");
        assert_eq!(client.hear(), "ERR not-found nothing is there");
        client.say(&format!("STAT a\nSTAT {}", "x".repeat(9_000)));
        assert_eq!(client.hear(), "ERR not-found nothing is there");
        let mut rest = Vec::new();
        let _ = client.0.read_to_end(&mut rest);
        assert!(rest.is_empty());
        assert_eq!(daemon.drain().closed("protocol"), 1);
    });
}

#[test]
fn a_list_is_edited_swept_and_told() {
    for_each_engine(AtOnce::Many, &[], |engine| {
        let folder = folder(&[("a", b"1"), ("b", b"1")]);
        let daemon = serve(engine, folder.path(), "&sweep=20ms", &[]);
        let mut client = Lines::connect(daemon.address());
        if engine.forks {
            for line in ["ADD a", "DEL a", "LIST", "CHANGED"] {
                assert!(client.ask(line).starts_with("ERR denied the list is shared by sessions of one process"));
            }
            drop(client);
            daemon.drain();
            return;
        }
        let mut other = Lines::connect(daemon.address());
        client.say("ADD b\nADD a\nADD a\nDEL x\nADD c\nLIST\nDEL x\n");
        let heard: Vec<String> = (0..5).map(|_| client.hear()).collect();
        assert_eq!(heard, ["OK 1", "OK 2", "OK 2", "ERR not-found it is not on the list", "OK 3"]);
        assert_eq!(client.hear_all(), ["OK", "a", "b", "c"]);
        assert_eq!(client.hear(), "ERR not-found it is not on the list");
        other.say("LIST\n");
        assert_eq!(other.hear_all(), ["OK", "a", "b", "c"], "it is the same for all");

        let mut changed = || {
            other.say("CHANGED\n");
            let mut lines = other.hear_all();
            let sweep: u64 = lines.remove(0).strip_prefix("OK ").expect("a sweep").parse().expect("a number");
            (sweep, lines)
        };
        let (now, _) = changed();
        // Two more: one of them has begun after the list was edited.
        wait_until("all were looked at", || changed().0 >= now + 2);
        fs::remove_file(folder.path().join("b")).expect("it is there");
        // Who asks too late misses what a sweep has found: there is more to find until all kinds were seen.
        let (mut found, mut last, mut round) = (BTreeSet::new(), 0, 0);
        wait_until("sweeps have found everything", || {
            let (sweep, lines) = changed();
            if sweep > last {
                found.extend(lines);
                (last, round) = (sweep, round + 1);
                fs::write(folder.path().join("a"), "x".repeat(round)).expect("it can be written");
                match fs::remove_file(folder.path().join("c")) {
                    Ok(()) => {}
                    Err(_) => fs::write(folder.path().join("c"), "1").expect("it can be written"),
                }
            }
            ["changed a", "come c", "gone c"].iter().all(|line| found.contains(*line))
        });
        let known = ["changed a", "come c", "gone b", "gone c", "changed c"];
        assert!(found.iter().all(|line| known.contains(&line.as_str())), "{found:?}");
        drop((client, other));
        assert_eq!(daemon.drain().accepted(), 2);
    });
}

#[test]
fn a_list_of_a_hundred_thousand_paths_is_told_to_one_who_reads_late() {
    const PATHS: usize = 100_000;
    let engine = maitred::engine::ENGINES.iter().find(|engine| engine.name == maitred::config::ENGINE);
    let folder = folder(&[]);
    let daemon = serve(engine.expect("there is a default"), folder.path(), "&sweep=50ms", &[]);
    let name = |number: usize| format!("{}/{number:06}", "folder".repeat(20));
    let mut client = Lines::connect(daemon.address());
    let mut writer = client.0.get_ref().try_clone().expect("a second handle");
    let commands: String = (0..=PATHS).map(|number| format!("ADD {}\n", name(number))).collect();
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(commands.as_bytes()).expect("the daemon reads"));
        for number in 1..=PATHS {
            assert_eq!(client.hear(), format!("OK {number}"));
        }
    });
    assert_eq!(client.hear(), "ERR too-long 100000 paths are on the list");
    let mut late = Lines(BufReader::new(Client::connect_with_room(daemon.address(), 16 << 10).0));
    late.say("LIST\nSTAT none\n");
    // Those that are on the list all the while are told, whatever becomes of others.
    for number in (0..PATHS).step_by(2).take(2_000) {
        let _ = client.ask(&format!("DEL {}", name(number)));
    }
    let told = late.hear_all();
    assert!(told.is_sorted() && told.len() > PATHS - 2_000, "{}", told.len());
    for number in (1..4_000).step_by(2).chain(4_000..PATHS) {
        assert!(told.binary_search(&name(number)).is_ok(), "{number}");
    }
    assert_eq!(late.hear(), "ERR not-found nothing is there");
    drop((client, late));
    daemon.drain();
}
