//! Whatever path a client of `files` names, and whatever is swapped meanwhile, nothing outside of the root is told or sent.
//!
//! A thread swaps what two names in the root stand for, as quickly as it can: a file or a folder inside, links to what is
//! outside, links without end, a pipe. Clients ask for paths across them, and along every other way out that there is. What is
//! outside differs in size and bytes from what is inside, so that every answer shows where it is from. On the default engine:
//! the engines have no part in this.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use maitred::config::ENGINE;
use maitred::random::Random;
use rustix::fs::{CWD, Mode, mkfifoat};

use client::Client;
use daemon::Daemon;

const ATTEMPTS: usize = 100_000;
const CLIENTS: usize = 4;

const INSIDE: &str = "inside";
const OUTSIDE: &str = "outside, which nobody is to see";

/// A folder `outer` with `root` in it, and what is there.
fn lay_out(outer: &Path) {
    let root = outer.join("root");
    for folder in ["root/folder/deep", "outside/deep"] {
        fs::create_dir_all(outer.join(folder)).expect("it can be made");
    }
    for (file, text) in [
        ("root/file", INSIDE),
        ("root/door-file", INSIDE),
        ("root/folder/file", INSIDE),
        ("root/folder/deep/file", INSIDE),
        ("outside/file", OUTSIDE),
        ("outside/deep/file", OUTSIDE),
        ("file", OUTSIDE),
    ] {
        fs::write(outer.join(file), text).expect("it can be written");
    }
    for (link, target) in [
        ("out", "../outside"),
        ("absolute", "/etc"),
        ("device", "/dev/zero"),
        ("magic", "/proc/self/root"),
        ("round", "round"),
        ("in", "folder"),
    ] {
        symlink(target, root.join(link)).expect("it can be made");
    }
    mkfifoat(CWD, root.join("pipe"), Mode::from_raw_mode(0o666)).expect("it can be made");
}

/// Swaps what `door` and `shape` in the root are, until `ends`; how often.
fn swap(root: &Path, ends: &AtomicBool) -> usize {
    let doors = ["folder", "../outside", "out", "/", "in", "door"];
    let shapes = ["file", "../file", "pipe", "device", "folder/../../file", "folder/file"];
    let mut swaps = 0;
    while !ends.load(Ordering::Relaxed) {
        for (name, targets) in [("door", doors), ("shape", shapes)] {
            let fresh = root.join(format!("{name}.next"));
            symlink(targets[swaps % targets.len()], &fresh).expect("it can be made");
            fs::rename(&fresh, root.join(name)).expect("it can take the place of the last");
        }
        // A folder that moves makes the kernel unsure of steps upwards.
        let (here, there) = (root.join("folder/deep"), root.join("deep"));
        let (from, to) = if swaps.is_multiple_of(2) { (&here, &there) } else { (&there, &here) };
        fs::rename(from, to).expect("it is there");
        swaps += 1;
    }
    swaps
}

/// A path, most of them across something that is swapped.
fn path(random: &mut Random) -> Vec<u8> {
    const STEPS: &[&str] =
        &["door", "door", "shape", "folder", "deep", "..", "..", ".", "in", "out", "absolute", "magic", "round", ""];
    const LAST: &[&str] =
        &["file", "file", "shape", "pipe", "device", "passwd", "deep", "door", "..", "file\0", "etc/passwd"];
    let mut path = Vec::new();
    if random.below(8) == 0 {
        path.push(b'/');
    }
    for _ in 0..random.below(4) {
        path.extend_from_slice(STEPS[random.below(STEPS.len())].as_bytes());
        path.push(b'/');
    }
    path.extend_from_slice(LAST[random.below(LAST.len())].as_bytes());
    path
}

/// Asks so many times, and says how often each answer came.
fn ask(server: SocketAddr, attempts: usize, seed: u64) -> BTreeMap<String, usize> {
    let mut reader = BufReader::new(Client::connect(server).0);
    let writer = reader.get_ref().try_clone().expect("a second handle");
    // By the same draws, so that the reader knows what was asked.
    let (mut said, mut heard) = (Random::new(seed), Random::new(seed));
    let command = |random: &mut Random| {
        (["STAT", "STAT", "STAT", "STAT", "STAT", "STAT", "GET", "HASH"][random.below(8)], path(random))
    };
    let mut answers = BTreeMap::new();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut writer: TcpStream = writer;
            for _ in 0..attempts.div_ceil(64) {
                let mut lines = Vec::new();
                for _ in 0..64 {
                    let (word, path) = command(&mut said);
                    lines.extend_from_slice(&[word.as_bytes(), b" ", &path, b"\n"].concat());
                }
                writer.write_all(&lines).expect("the daemon reads");
            }
        });
        for number in 0..attempts {
            let (word, path) = command(&mut heard);
            let what = || format!("{number} of seed {seed}: {word} {}", path.escape_ascii());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap_or_else(|error| panic!("{}: {error}", what()));
            let words: Vec<&str> = line.split_whitespace().collect();
            let size = match (words[0], word) {
                ("OK", "HASH") => words[2],
                ("OK", _) => words[1],
                _ => "",
            };
            if words[0] == "OK" {
                assert_eq!(size, INSIDE.len().to_string(), "{}: {line}", what());
            }
            if (words[0], word) == ("OK", "GET") {
                let mut bytes = [0; INSIDE.len()];
                reader.read_exact(&mut bytes).expect("what was promised comes");
                assert_eq!(bytes, INSIDE.as_bytes(), "{}", what());
            }
            let answer = if words[0] == "OK" { word } else { words[1] };
            *answers.entry(answer.to_owned()).or_default() += 1;
        }
    });
    answers
}

#[test]
fn nothing_outside_of_the_root_is_ever_told_or_sent() {
    let outer = tempfile::tempdir().expect("a temporary directory");
    lay_out(outer.path());
    let root = outer.path().join("root");
    let listener = format!("files=tcp://127.0.0.1:0?root={}", root.display());
    let daemon = Daemon::echo(ENGINE, &["--listen", &listener]);
    let ends = AtomicBool::new(false);
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    thread::scope(|scope| {
        let swapper = scope.spawn(|| swap(&root, &ends));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let server = daemon.address();
                    move || ask(server, ATTEMPTS / CLIENTS, number as u64 + 1)
                })
            })
            .collect();
        let heard: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        ends.store(true, Ordering::Relaxed);
        let swaps = swapper.join().expect("it swaps to the end");
        for (answer, count) in heard.into_iter().flat_map(|heard| heard.expect("nothing escapes")) {
            *answers.entry(answer).or_default() += count;
        }
        println!("{swaps} swaps; {answers:?}");
        assert!(swaps > 100);
    });
    daemon.drain();
    assert_eq!(answers.values().sum::<usize>(), ATTEMPTS);
    for known in ["STAT", "GET", "HASH", "outside", "not-found", "not-a-file", "denied", "bad-command"] {
        assert!(answers.get(known).is_some_and(|count| *count > 100), "{known} is among {answers:?}");
    }
    let known = ["STAT", "GET", "HASH", "outside", "not-found", "not-a-file", "denied", "bad-command", "busy"];
    assert!(answers.keys().all(|answer| known.contains(&answer.as_str())), "{answers:?}");
}
