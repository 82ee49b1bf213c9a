//! A daemon under test: the program on one engine, with its summary file; drained at the end, and its books checked.
//!
//! The program rather than the library, on every engine alike: an engine that forks cannot run inside a test process,
//! which has threads, and what clients, signals and the summary show is the contract anyway.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use maitred::net::os::raise_descriptor_limit;

use crate::client::wait_until;
use crate::process::{Process, command};

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    pub(crate) process: Process,
    folder: TempDir,
}

/// `maitred.summary/1` of a daemon that has ended.
#[derive(Debug)]
pub(crate) struct Summary(pub(crate) Value);

impl Daemon {
    /// Starts `maitred serve` on this engine and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(engine: &str, flags: &[&str]) -> Daemon {
        Daemon::start_by(command(&[]), engine, flags)
    }

    /// The same with echo on a port that the kernel chooses, and no timeout but those of the flags: a machine that is
    /// busy with other things must not end a session that waits for it.
    #[track_caller]
    pub(crate) fn echo(engine: &str, flags: &[&str]) -> Daemon {
        let patience = [("--write-timeout", "1h"), ("--idle-timeout", "off"), ("--drain-timeout", "1h")];
        let missing = patience.into_iter().filter(|(name, _)| !flags.contains(name));
        let missing: Vec<&str> = missing.flat_map(|(name, value)| [name, value]).collect();
        let listen: &[&str] = if flags.contains(&"--listen") { &[] } else { &["--listen", "echo=tcp://127.0.0.1:0"] };
        Daemon::start(engine, &[listen, &missing, flags].concat())
    }

    /// Starts it by a command that takes the flags of `maitred serve`.
    #[track_caller]
    pub(crate) fn start_by(mut command: Command, engine: &str, flags: &[&str]) -> Daemon {
        // The clients of several daemons are in this process.
        raise_descriptor_limit();
        let folder = tempfile::tempdir().expect("a temporary directory");
        command.args(["--engine", engine, "--summary"]).arg(folder.path().join("summary.json")).args(flags);
        Daemon { process: Process::spawn_until_ready(&mut command), folder }
    }

    /// Where its first listener is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.process.address()
    }

    /// Drains it, waits for its end, and checks its books.
    #[track_caller]
    pub(crate) fn drain(self) -> Summary {
        self.process.signal(Signal::TERM);
        self.finish()
    }

    /// Waits for an exit with 0, whatever asked for it, and checks the books.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Summary {
        let status = self.process.wait();
        assert_eq!(status.code(), Some(0), "it drains and says so: {status} {}", self.process.messages());
        let text = fs::read_to_string(self.folder.path().join("summary.json")).expect("the summary is written");
        let summary = Summary(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")));
        summary.check();
        summary
    }

    /// What a SIGUSR1 makes it print: accepted, open, and bytes of rings, none where each process has its own.
    #[track_caller]
    pub(crate) fn summary_now(&self) -> [u64; 3] {
        let printed = || {
            let messages = self.process.messages();
            // Whole summaries only: the line about accepting follows the others.
            let number = |begin: &str| -> Vec<u64> {
                let found = messages.split(begin).skip(1);
                found.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
            };
            [number("sessions   accepted "), number("  open "), number("buffers "), number("accepting  turned away ")]
        };
        let before = printed()[3].len();
        self.process.signal(Signal::USR1);
        wait_until("the summary is printed", || printed()[3].len() > before);
        let [accepted, open, ring_bytes, _] = printed();
        [accepted[before], open[before], ring_bytes.get(before).copied().unwrap_or(0)]
    }
}

impl Summary {
    /// The count at this path, with dots between its names.
    #[track_caller]
    pub(crate) fn count(&self, path: &str) -> u64 {
        let value = self.0.pointer(&format!("/{}", path.replace('.', "/")));
        value.and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} is no count in {self:?}"))
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.count("accepted")
    }

    /// Sessions that ended in this way.
    #[track_caller]
    pub(crate) fn closed(&self, way: &str) -> u64 {
        self.count(&format!("closed.{way}"))
    }

    /// A counter of turns, over all that run some and count it.
    #[track_caller]
    pub(crate) fn turns(&self, name: &str) -> u64 {
        let workers = self.0["worker_turns"].as_array().expect("the turns of each worker");
        let all = workers.iter().chain([&self.0["poller_turns"]]);
        let counts: Vec<u64> = all.filter_map(|turns| turns[name].as_u64()).collect();
        assert!(!counts.is_empty(), "nobody counts {name}: {self:?}");
        counts.iter().sum()
    }

    #[track_caller]
    fn check(&self) {
        assert_eq!(self.0["schema"], "maitred.summary/1");
        let closed = self.0["closed"].as_object().expect("ways to end");
        let ended: u64 = closed.values().map(|count| count.as_u64().expect("a count")).sum();
        assert_eq!((self.count("open"), self.accepted()), (0, ended), "the books balance: {self:?}");
        // Absent where each process has its own.
        let ring_bytes = self.0.get("buffer_bytes").map_or(0, |bytes| bytes.as_u64().expect("a count"));
        assert_eq!(ring_bytes, 0, "all rings are given back: {self:?}");
    }
}
