//! The program as a child: started, signalled, waited for, and never left behind, nor are its own children.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{DEADLINE, wait_until};

/// A running `maitred serve`; killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// What it wrote to stderr so far.
    messages: Arc<Mutex<String>>,
    /// What it wrote to stdout until it was ready.
    pub(crate) ready_lines: Vec<String>,
}

/// `maitred serve` with these flags.
pub(crate) fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maitred"));
    command.arg("serve").args(flags).stdin(Stdio::null()).env_remove("MAITRED_LOG").env_remove("RUST_LOG");
    command
}

impl Process {
    /// Starts it and waits until it is ready.
    #[track_caller]
    pub(crate) fn serve(flags: &[&str]) -> Process {
        Process::spawn_until_ready(&mut command(flags))
    }

    /// Starts whatever prints ready lines, and waits until it is ready.
    #[track_caller]
    pub(crate) fn spawn_until_ready(command: &mut Command) -> Process {
        let process = Process::spawn_until_ready_or_over(command);
        assert!(process.is_ready(), "it does not get ready: {}", process.messages());
        process
    }

    /// The same for one that may end before it is ready.
    #[track_caller]
    pub(crate) fn spawn_until_ready_or_over(command: &mut Command) -> Process {
        let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let lines = lines(process.child.stdout.take().expect("stdout is a pipe"));
        while !process.is_ready() {
            match lines.recv_timeout(DEADLINE) {
                Ok(line) => process.ready_lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("neither ready nor over: {}", process.messages()),
            }
        }
        process
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready_lines.last().is_some_and(|line| line == "ready")
    }

    /// Starts it, with its output wherever the command says.
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Process {
        let mut child = command.spawn().expect("the program starts");
        let messages = Arc::new(Mutex::new(String::new()));
        if let Some(stderr) = child.stderr.take() {
            let messages = Arc::clone(&messages);
            let lines = lines(stderr);
            thread::spawn(move || {
                for line in lines {
                    *messages.lock().expect("no panic while held") += &format!("{line}\n");
                }
            });
        }
        Process { child, messages, ready_lines: Vec::new() }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Where its first listener is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of("")
    }

    /// Where its first listener for this service is.
    pub(crate) fn address_of(&self, service: &str) -> SocketAddr {
        *self.addresses_of(service).first().expect("a ready line for each")
    }

    /// Where its listeners are.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses_of("")
    }

    /// Where its listeners for this service are.
    pub(crate) fn addresses_of(&self, service: &str) -> Vec<SocketAddr> {
        let begin = format!("listening {service}");
        let lines = self.ready_lines.iter().filter(|line| line.starts_with(&begin));
        let on_network = lines.filter(|line| !line.contains(" unix://"));
        let addresses = on_network.map(|line| line.split_once("://").expect("a ready line names an address").1);
        addresses.map(|address| address.parse().expect("an address with its port")).collect()
    }

    /// The process and all that descend from it, as far as their parents still run.
    pub(crate) fn family(&self) -> Vec<Pid> {
        let mut family = vec![self.pid()];
        let mut at = 0;
        while let Some(parent) = family.get(at) {
            let threads = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())).into_iter().flatten();
            for thread in threads.flatten() {
                // One that has ended meanwhile has no children.
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                let children = children.split_whitespace().map(|number| number.parse().expect("a number"));
                family.extend(children.filter_map(Pid::from_raw));
            }
            at += 1;
        }
        family
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the program runs");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// What it has written to stderr so far.
    pub(crate) fn messages(&self) -> String {
        self.messages.lock().expect("no panic while held").clone()
    }

    /// Waits until stderr has this text.
    #[track_caller]
    pub(crate) fn wait_for_message(&self, text: &str) {
        wait_until(&format!("stderr says {text:?}"), || self.messages().contains(text));
    }

    /// Waits for its exit.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the program exits", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        status.expect("it has exited")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // An engine with processes need not outlive a test that has failed. Each fails only if it has exited.
            for process in self.family() {
                let _ = kill_process(process, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// The lines of a pipe as they come, for readers with a deadline.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Checks the rows of a table side by side, a few at a time: what a run takes is mostly waiting. Not for tables whose
/// figures depend on how much of the machine a run gets.
pub(crate) fn check_all<Row: Send>(rows: impl IntoIterator<Item = Row>, check: impl Fn(Row) + Sync) {
    const AT_ONCE: usize = 6;
    let rows = Mutex::new(rows.into_iter().collect::<Vec<_>>().into_iter());
    let next = || rows.lock().expect("no panic while held").next();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| std::iter::from_fn(next).for_each(&check))).collect();
        // All of them end; each has printed what it says of itself.
        let panics: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().err()).collect();
        if let Some(panic) = panics.into_iter().next() {
            resume_unwind(panic);
        }
    });
}
