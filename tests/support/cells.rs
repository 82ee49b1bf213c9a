//! Cells in files of their own, and `maitred cell` beside them.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use maitred::cell::{Cell, Set, Text};
use maitred::net::file::Lock;

/// How long anything may take before it counts as never.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A folder with the file of a cell in it, which is not there at first.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Place { path: folder.path().join("cell"), folder }
    }

    pub(crate) fn file(&self) -> File {
        File::options().read(true).write(true).open(&self.path).expect("it is there")
    }

    /// The lock that writers take.
    pub(crate) fn lock(&self) -> Lock {
        Lock::of_file(self.file(), &self.path, true).expect("it can be looked at")
    }

    pub(crate) fn open(&self) -> Cell {
        Cell::open(&self.path).expect("it is a cell, or becomes one")
    }

    /// `maitred cell COMMAND FILE …`: its exit code, output and messages.
    pub(crate) fn run(&self, command: &str, more: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = cell(command, &self.path, more).output().expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("only text is printed");
        (status.code().expect("no signal ended it"), text(stdout), text(stderr))
    }

    /// What it prints if all goes well.
    #[track_caller]
    pub(crate) fn say(&self, command: &str, more: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(command, more);
        assert_eq!((code, stderr.as_str()), (0, ""), "{command} {more:?}");
        stdout
    }
}

pub(crate) fn cell(command: &str, path: &Path, more: &[&str]) -> Command {
    let mut maitred = Command::new(env!("CARGO_BIN_EXE_maitred"));
    maitred.args(["cell", command]).arg(path).args(more).stdin(Stdio::null()).env_remove("RUST_LOG");
    maitred
}

pub(crate) fn text(line: &str) -> Text<'_> {
    Text::new(line.as_bytes()).expect("it fits")
}

pub(crate) fn set(cell: &Cell, line: &str) -> Set {
    cell.set(text(line)).expect("it can be written to")
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "waited too long until {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// `maitred cell watch`, and its lines as they come. Killed when dropped.
pub(crate) struct Watch {
    pub(crate) child: Child,
    lines: Receiver<(u64, String)>,
}

impl Watch {
    pub(crate) fn of(path: &Path, more: &[&str]) -> Watch {
        let mut child = cell("watch", path, more).stdout(Stdio::piped()).spawn().expect("the program starts");
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("it is a pipe");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = line.expect("only text is printed");
                let (version, text) = line.split_once(' ').expect("a version and a text");
                if sender.send((version.parse().expect("a number"), text.to_owned())).is_err() {
                    return;
                }
            }
        });
        Watch { child, lines }
    }

    #[track_caller]
    pub(crate) fn next(&self) -> (u64, String) {
        self.lines.recv_timeout(DEADLINE).expect("another line")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
