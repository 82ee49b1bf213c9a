//! The engine `event-loops`: N pairs of one loop and one thread, and a session lives on one of them for life.
//!
//! ```text
//!   port ──┬──▶ loop 0: wait, turn, turn          placement reuseport: the kernel deals
//!          └──▶ loop 1: wait, turn                 round-robin, least: loop 0 accepts and deals
//! ```
//! Who waits: every thread, for its own sessions. Who runs: the thread that waits for the session. Nothing is handed over
//! after the session has begun, so that N threads need no synchronisation at all; and nothing evens out a loop whose
//! sessions have much to do beside one whose sessions are silent.
//!
//! Read next: `leader_followers.rs`; the chapter is `design/engines/event-loops.md`.

use std::sync::Arc;

use super::accept::share_ports;
use super::common::{Errand, Stage};
use super::event_loop::{LoopFloor, start_loops};
use super::front::{Arrival, Floor, Refusal};
use super::loops::{Loop, Loops};
use super::reactor::Sessions;
use super::{Entry, Start, anywhere, carries_all};
use crate::config::{AtOnce, EngineInfo, Placement};
use crate::error::Error;
use crate::net::poller::Ready;

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "event-loops",
        about: "N pairs of one loop and one thread; a session lives on one of them for life",
        carries: carries_all,
        options: &["workers", "batch", "budget", "ring", "rearm", "stages", "pin", "placement"],
        at_once: AtOnce::Many,
        forks: false,
        resizes: Err("a session lives on its loop for life"),
        relistens: Ok(()),
    },
    start: |start| Ok(Box::new(begin(start)?)),
    available: anywhere,
};

fn begin(mut start: Start) -> Result<Loops, Error> {
    let (count, placement) = (start.settings.workers, start.settings.placement);
    let listeners = std::mem::take(&mut start.listeners);
    if placement == Placement::ReusePort {
        let listeners = share_ports(listeners, count)?;
        start.share_endpoints(count)?;
        let loops = start_loops(ENTRY.info.name, &mut start, listeners, |loops, number| {
            Sessions::new(&loops.all[number].reactor)
        })?;
        return Ok(loops.sharing_ports());
    }
    let first_alone = std::iter::once(listeners).chain((1..count).map(|_| Vec::new())).collect();
    start_loops(ENTRY.info.name, &mut start, first_alone, |loops, number| Dealer {
        sessions: Sessions::new(&loops.all[number].reactor),
        loops: Arc::clone(&loops.all),
        number,
        placement,
        dealt: vec![0; count],
        next: 0,
    })
}

/// The floor of a loop among those for which the first one accepts. The others adopt what it deals them.
struct Dealer {
    sessions: Sessions,
    loops: Arc<[Loop]>,
    number: usize,
    placement: Placement,
    /// Connections ever dealt to each loop.
    dealt: Vec<u64>,
    next: usize,
}

impl Dealer {
    fn choose(&mut self) -> usize {
        let chosen = match self.placement {
            Placement::Least => {
                let open = |number: usize| self.dealt[number].saturating_sub(self.loops[number].ended());
                // Among equals the one whose turn it is.
                let numbers = (0..self.loops.len()).map(|place| (self.next + place) % self.loops.len());
                numbers.min_by_key(|number| open(*number)).expect("there is at least one loop")
            }
            Placement::RoundRobin | Placement::ReusePort => self.next,
        };
        self.next = (self.next + 1) % self.loops.len();
        self.dealt[chosen] += 1;
        chosen
    }
}

impl Floor for Dealer {
    const HAS_ENDPOINTS: bool = true;

    fn admit(&mut self, arrival: Arrival, now_ns: u64) -> Result<Option<u64>, Refusal> {
        // Only the first loop has listeners; what comes to another one has been dealt to it.
        let chosen = if self.number == 0 { self.choose() } else { self.number };
        if chosen == self.number {
            return self.sessions.admit(arrival, now_ns).inspect_err(|_| self.loops[self.number].refused.add(1));
        }
        let desk = self.loops[chosen].reactor.desk();
        desk.leave(Errand::Adopt(arrival));
        Ok(None)
    }

    fn handle_wait(&mut self, now_ns: u64) {
        self.sessions.handle_wait(now_ns);
    }

    fn has_mail(&self) -> bool {
        self.sessions.has_mail()
    }

    fn handle_event(&mut self, ready: Ready, now_ns: u64) {
        self.sessions.handle_event(ready, now_ns);
    }

    fn handle_endpoint(&mut self, number: usize, now_ns: u64) {
        self.sessions.handle_endpoint(number, now_ns);
    }

    fn handle_stage(&mut self, stage: Stage, now_ns: u64) {
        self.sessions.handle_stage(stage, now_ns);
    }

    fn handle_timeouts(&mut self, now_ns: u64) {
        self.sessions.handle_timeouts(now_ns);
    }

    fn next_due_ns(&self, now_ns: u64) -> Option<u64> {
        self.sessions.next_due_ns(now_ns)
    }

    fn handle_due(&mut self, now_ns: u64) {
        self.sessions.handle_due(now_ns);
    }
}

impl LoopFloor for Dealer {
    fn sessions(&mut self) -> &mut Sessions {
        &mut self.sessions
    }
}
