//! The engine `process-per-connection`: a process for each client, made when it comes.
//!
//! ```text
//!   parent: accept ──▶ fork ──▶ child: wait, turn, wait, turn … end
//!           accept ──▶ fork ──▶ child: wait, turn …
//!           reap ◀────────────────────────────────────── exit
//! ```
//! Who waits: each child, for its own client; the parent for those who come and for children that end. Who runs: whichever
//! process the kernel picks. What is handed over is the socket, by the fork. Nothing that one client does can touch the
//! memory of another; each costs an address space, and coming and going costs a fork, an exit and a wait.
//!
//! The cap is `--max-connections`. Sessions share no memory, so services that tie them together are not carried.
//!
//! Read next: `prefork/mod.rs`, where the processes are made ahead; the chapter is
//! `design/engines/process-per-connection.md`.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::common::{Common, Stage};
use super::front::{Arrival, Floor, Front, Refusal};
use super::processes::{Parent, Post, ProcessFloor, Processes, serve_one};
use super::turns::Turns;
use super::{Entry, anywhere, carries_apart};
use crate::config::{AtOnce, EngineInfo};
use crate::error::Error;
use crate::metrics::stages::StageRecorder;
use crate::net::children::close_all_but;
use crate::net::poller::Ready;
use crate::session::buffer::Budget;
use crate::session::handler::Closed;

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "process-per-connection",
        about: "a process for each client, made when it comes",
        carries: carries_apart,
        options: &["budget", "ring"],
        at_once: AtOnce::Many,
        forks: true,
        resizes: Err("it has a process for each client"),
        relistens: Ok(()),
    },
    start: |mut start| {
        let common = Arc::new(Common::new(&mut start, 1)?);
        let processes = Processes::new(&common, start.most_sessions.min(MOST_PROCESSES));
        let processes = processes.map_err(|reason| Error::resource("share memory with children", reason))?;
        let mut front = Front::new(Arc::clone(&common), 0, start.listeners, Forks { processes })?;
        front.call_soon();
        Ok(Box::new(Parent::new(ENTRY.info.name, &common, front)))
    },
    available: anywhere,
};

/// As many as systems have process numbers by default.
const MOST_PROCESSES: usize = 1 << 15;

/// The floor: a process for each.
struct Forks {
    processes: Processes,
}

/// The child: serves its one client.
fn serve_client(common: &Common, post: Post<'_>, arrival: Arrival) {
    let own = post.own;
    own.ready();
    let stages = StageRecorder::default();
    let budget = Budget::new(common.settings.limits.max_buffer_bytes);
    let mut turns = Turns::new(common, &budget, own.turns(), &stages);
    serve_one(common, post, &mut turns, arrival);
}

impl Floor for Forks {
    fn admit(&mut self, arrival: Arrival, now_ns: u64) -> Result<Option<u64>, Refusal> {
        let over_limit = |reason: String| (Closed::OverLimit, reason);
        let index = self.processes.board.take().ok_or_else(|| over_limit("there are no more places".to_owned()))?;
        // In the books before there is a process that could be killed.
        self.processes.board.own(index).begin(now_ns);
        let started = self.processes.start(index, now_ns, |common, post| {
            close_all_but(&[arrival.socket.as_fd()]).expect("descriptors can be closed");
            serve_client(common, post, arrival);
        });
        started.map(|()| None).map_err(|reason| {
            self.processes.board.cancel(index);
            over_limit(format!("no process can be had for it: {reason}"))
        })
    }

    fn handle_event(&mut self, ready: Ready, now_ns: u64) {
        if self.processes.handle_event(ready.key, now_ns).is_some() {
            self.processes.common.leave();
        }
    }

    fn handle_stage(&mut self, stage: Stage, now_ns: u64) {
        self.processes.handle_stage(stage, now_ns);
    }

    fn handle_timeouts(&mut self, _now_ns: u64) {
        self.processes.nudge_all();
    }

    fn next_due_ns(&self, _now_ns: u64) -> Option<u64> {
        Some(self.processes.next_due_ns())
    }

    fn handle_due(&mut self, now_ns: u64) {
        self.processes.handle_due(now_ns);
    }
}

impl ProcessFloor for Forks {
    fn processes(&self) -> &Processes {
        &self.processes
    }

    fn processes_mut(&mut self) -> &mut Processes {
        &mut self.processes
    }

    fn accepted(&self) -> u64 {
        0
    }
}
