//! The engine `prefork`: processes made ahead; each accepts by itself and serves one client at a time.
//!
//! ```text
//!   parent: every 100 ms: scoreboard ──▶ policy ──▶ fork some more, or tell some idle ones to leave
//!   child:  wait for the port ──▶ accept ──▶ wait, turn, wait, turn … end ──▶ wait for the port
//! ```
//! Who waits: each child, for the port or for its client. Who runs: whichever process the kernel picks. Nothing is handed
//! over: a client is accepted by the process that serves it, and no fork is on its way. How many processes there are is
//! judged by what was busy in the last second (`policy.rs`), between `min_processes` and `max_processes`; more clients than
//! those wait in the backlog.
//!
//! All children wait for the same port, each in a poller of its own, and the kernel wakes one that really waits: not one
//! that serves, and not one that was stopped by a signal.
//!
//! `policy.rs` touches no process; here is what does. The chapter is `design/engines/prefork.md`.

pub mod policy;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use log::warn;

use super::common::{Common, Stage};
use super::front::{Arrival, Floor, Front, Refusal};
use super::processes::{Parent, Post, ProcessFloor, Processes, serve_one};
use super::turns::Turns;
use super::{Entry, Served, Start, anywhere, carries_apart};
use crate::config::{AtOnce, EngineInfo};
use crate::error::Error;
use crate::logging;
use crate::metrics::stages::StageRecorder;
use crate::net::children::{Signal, SignalFd, close_all_but};
use crate::net::listener::{Accepted, BACKLOG};
use crate::net::nudge::{Interest, wait};
use crate::net::poller::{Batch, Poller, Ready};
use crate::session::buffer::Budget;
use crate::session::handler::Closed;

use policy::{Policy, PoolBounds, Reading, Step};

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "prefork",
        about: "processes made ahead, which accept by themselves; their number follows the load",
        carries: carries_apart,
        options: &["workers", "budget", "ring", "min_processes", "max_processes", "min_spare", "max_spare"],
        at_once: AtOnce::Many,
        forks: true,
        resizes: Err("the number of its processes follows the load, between min_processes and max_processes"),
        relistens: Err("its processes inherit the listeners when they are made"),
    },
    start: |start| Ok(Box::new(begin(start)?)),
    available: anywhere,
};

/// The key of a child's nudges, behind those of its listeners.
const NUDGE_KEY: u64 = u32::MAX as u64 - 1;

/// How long a child waits that has no descriptor or memory left to accept with.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(10);

fn begin(mut start: Start) -> Result<Parent<Prefork>, Error> {
    let settings = &start.settings;
    // Each process has one session.
    let max = settings.processes.max.min(settings.limits.max_connections);
    let bounds = PoolBounds {
        min_processes: settings.processes.min.min(max),
        max_processes: max,
        min_spare: settings.processes.min_spare,
        max_spare: settings.processes.max_spare,
    };
    let first = settings.workers.clamp(bounds.min_processes, max);
    let common = Arc::new(Common::new(&mut start, 1)?);
    let processes = Processes::new(&common, max);
    let processes = processes.map_err(|reason| Error::resource("share memory with children", reason))?;
    let floor = Prefork { processes, policy: Policy::new(bounds), listeners: start.listeners, first, tick_ns: 0 };
    let mut front = Front::new(Arc::clone(&common), 0, Vec::new(), floor)?;
    front.call_soon();
    Ok(Parent::new(ENTRY.info.name, &common, front))
}

/// The floor: processes that accept by themselves, so that nothing is admitted here.
struct Prefork {
    processes: Processes,
    policy: Policy,
    /// Inherited by every child; closed when the drain begins.
    listeners: Vec<Served>,
    /// Children to begin with; 0 once they are there.
    first: usize,
    /// When the policy is asked next.
    tick_ns: u64,
}

impl Prefork {
    fn ask_policy(&mut self, now_ns: u64) {
        let reading = Reading::of(now_ns, &self.processes.board.tally(now_ns));
        let Step { start, stop } = self.policy.handle_tick(reading);
        for _ in 0..start.max(std::mem::take(&mut self.first)) {
            if !self.start_one(now_ns) {
                break;
            }
        }
        let leaving: Vec<usize> = self.processes.idle(now_ns).take(stop).collect();
        leaving.into_iter().for_each(|index| self.processes.tell_to_leave(index));
    }

    fn start_one(&mut self, now_ns: u64) -> bool {
        let Some(index) = self.processes.board.take() else { return false };
        let listeners = &self.listeners;
        let started = self.processes.start(index, now_ns, |common, post| {
            let open: Vec<_> = listeners.iter().map(|served| served.listener.as_fd()).collect();
            close_all_but(&open).expect("descriptors can be closed");
            serve_clients(common, post, listeners);
        });
        if let Err(reason) = started {
            warn!("no process can be had: {reason}");
            self.processes.board.cancel(index);
            self.policy.handle_failed_fork(now_ns);
            return false;
        }
        // The front waits for children as it does for connections.
        assert!(self.processes.common.enter(usize::MAX), "there is no limit");
        true
    }
}

/// The child: serves one client after the other until it is told to leave.
fn serve_clients(common: &Common, post: Post<'_>, listeners: &[Served]) {
    let own = post.own;
    let poller = Poller::new().expect("a child may open a few descriptors");
    let nudges = SignalFd::new(&[Signal::URG]).expect("a child may open a few descriptors");
    poller.watch_level(nudges.as_fd(), NUDGE_KEY).expect("there is memory for a few watches");
    for (key, served) in listeners.iter().enumerate() {
        poller.watch_exclusive(served.listener.as_fd(), key as u64).expect("there is memory for a few watches");
    }
    let stages = StageRecorder::default();
    let budget = Budget::new(common.settings.limits.max_buffer_bytes);
    let mut turns = Turns::new(common, &budget, own.turns(), &stages);
    let mut batch = Batch::new(listeners.len() + 1);
    own.ready();
    while !own.is_to_leave() && common.orders().stage(common.clock.now_ns()) == Stage::Open {
        own.turns().parks.add(1);
        poller.wait(&mut batch, None).expect("waiting on our own poller cannot fail");
        for ready in batch.iter() {
            match ready.key {
                // What it says is in the orders; those that wait for a session take theirs in the wait.
                NUDGE_KEY => while nudges.read().is_ok_and(|nudge| nudge.is_some()) {},
                key => {
                    let _ = accept_one(common, post, &mut turns, &listeners[key as usize]);
                }
            }
        }
    }
    if common.orders().stage(common.clock.now_ns()) == Stage::Draining {
        // What the kernel has accepted on our behalf is served like the rest: as many as a backlog holds.
        for served in listeners {
            let _ = (0..=BACKLOG).all(|_| accept_one(common, post, &mut turns, served));
        }
    }
    own.leave();
}

/// Serves whoever waits at this listener; true if somebody did.
fn accept_one(common: &Common, post: Post<'_>, turns: &mut Turns<'_>, served: &Served) -> bool {
    match served.listener.accept() {
        Ok(Accepted::Connection(socket)) => {
            post.own.begin(common.clock.now_ns());
            let (service, idle_exempt) = (Arc::clone(&served.service), served.idle_exempt);
            serve_one(common, post, turns, Arrival { socket, service, idle_exempt });
            logging::drain();
            true
        }
        Ok(Accepted::Gone) => true,
        // Another child was quicker.
        Ok(Accepted::Nobody) => false,
        Ok(Accepted::Exhausted(reason)) | Err(reason) => {
            let address = served.listener.address();
            warn!("{address}: a process cannot accept: {reason}; its accepting pauses for {EXHAUSTED_PAUSE:?}");
            logging::drain();
            wait(None, Interest { input: false, output: false }, Some(EXHAUSTED_PAUSE));
            false
        }
    }
}

impl Floor for Prefork {
    fn admit(&mut self, _arrival: Arrival, _now_ns: u64) -> Result<Option<u64>, Refusal> {
        Err((Closed::OverLimit, "the parent serves nobody".to_owned()))
    }

    fn handle_event(&mut self, ready: Ready, now_ns: u64) {
        if let Some(gone) = self.processes.handle_event(ready.key, now_ns) {
            self.processes.common.leave();
            if gone.unasked {
                self.policy.handle_end(now_ns, gone.lived_ns, gone.left.accepted);
            }
        }
    }

    fn handle_stage(&mut self, stage: Stage, now_ns: u64) {
        self.listeners.clear();
        self.processes.handle_stage(stage, now_ns);
    }

    fn handle_timeouts(&mut self, _now_ns: u64) {
        self.processes.nudge_all();
    }

    fn next_due_ns(&self, _now_ns: u64) -> Option<u64> {
        let tick_ns = if self.listeners.is_empty() { u64::MAX } else { self.tick_ns };
        Some(self.processes.next_due_ns().min(tick_ns))
    }

    fn handle_due(&mut self, now_ns: u64) {
        self.processes.handle_due(now_ns);
        if self.tick_ns <= now_ns && !self.listeners.is_empty() {
            self.tick_ns = now_ns + policy::TICK.as_nanos() as u64;
            self.ask_policy(now_ns);
        }
    }
}

impl ProcessFloor for Prefork {
    fn processes(&self) -> &Processes {
        &self.processes
    }

    fn processes_mut(&mut self) -> &mut Processes {
        &mut self.processes
    }

    fn accepted(&self) -> u64 {
        self.processes.board.tally(self.processes.common.clock.now_ns()).accepted
    }
}
