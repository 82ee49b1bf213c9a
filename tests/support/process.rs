//! The program as a child: started, signalled, waited for, and never left behind.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

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
        let mut process = Process::spawn(command(flags).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let lines = lines(process.child.stdout.take().expect("stdout is a pipe"));
        loop {
            let line = lines.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("it does not get ready: {}", process.messages()));
            process.ready_lines.push(line);
            if process.ready_lines.last().is_some_and(|line| line == "ready") {
                return process;
            }
        }
    }

    /// Starts it, with its output wherever the command says.
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Process {
        let mut child = command.spawn().expect("the program starts");
        let messages = Arc::new(Mutex::new(String::new()));
        if let Some(stderr) = child.stderr.take() {
            let messages = Arc::clone(&messages);
            let lines = lines(stderr);
            std::thread::spawn(move || {
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
        let (_, address) = self.ready_lines[0].split_once("://").expect("a ready line names an address");
        address.parse().expect("an address with its port")
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
        // Fails only if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe as they come, for readers with a deadline.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
