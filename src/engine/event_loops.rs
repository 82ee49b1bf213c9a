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
//! Their number changes while they serve: the first loop, which never goes, accepts for all from then on, also at the
//! listeners that the others had, and deals to so many. A loop that is to go is given no more sessions and ends with its last
//! one; a session never moves.
//!
//! Read next: `leader_followers.rs`; the chapter is `design/engines/event-loops.md`.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::accept::share_ports;
use super::common::{Errand, Resize, Stage};
use super::event_loop::{LoopFloor, run, start_loops};
use super::front::{Arrival, Floor, Front, Refusal};
use super::growing::Growing;
use super::loops::{Loop, Loops, share_memory};
use super::reactor::{Reactor, Sessions};
use super::{Change, Command, Entry, Hearing, InForce, Running, Seen, Start, anywhere, carries_all};
use crate::config::{AtOnce, EngineInfo, Placement};
use crate::error::Error;
use crate::metrics::summary::Summary;
use crate::net::poller::Ready;

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "event-loops",
        about: "N pairs of one loop and one thread; a session lives on one of them for life",
        carries: carries_all,
        options: &["workers", "batch", "budget", "ring", "rearm", "stages", "pin", "placement"],
        at_once: AtOnce::Many,
        forks: false,
        resizes: Ok(()),
        relistens: Ok(()),
    },
    start: |start| Ok(Box::new(begin(start)?)),
    available: anywhere,
};

fn begin(mut start: Start) -> Result<EventLoops, Error> {
    let (count, placement) = (start.settings.workers, start.settings.placement);
    let listeners = std::mem::take(&mut start.listeners);
    let are_shared = placement == Placement::ReusePort;
    let listeners = if are_shared {
        start.share_endpoints(count)?;
        share_ports(listeners, count)?
    } else {
        std::iter::once(listeners).chain((1..count).map(|_| Vec::new())).collect()
    };
    let hall = Arc::new(Mutex::new(Hall { wanted: count, changes: 0, at_work: vec![true; count], are_shared }));
    let floor = |loops: &Loops, number| Dealer::new(loops, &hall, number, count, placement);
    let loops = start_loops(ENTRY.info.name, &mut start, listeners, floor)?;
    Ok(EventLoops { loops, hall })
}

/// The running engine.
struct EventLoops {
    loops: Loops,
    hall: Arc<Mutex<Hall>>,
}

/// Who of the loops is there. Changed by whoever resizes, and by a loop that ends.
struct Hall {
    /// Loops that are given new sessions: those of the lowest numbers.
    wanted: usize,
    /// How often that has changed.
    changes: u64,
    /// By number: it has a thread.
    at_work: Vec<bool>,
    /// Each loop has listeners of its own, by which the kernel deals.
    are_shared: bool,
}

fn lock(hall: &Mutex<Hall>) -> MutexGuard<'_, Hall> {
    hall.lock().expect("no thread panics while it holds this lock")
}

impl Hall {
    fn count(&self) -> usize {
        self.at_work.iter().filter(|at_work| **at_work).count()
    }
}

impl EventLoops {
    /// Starts the loops below `wanted` that have no thread: all or none.
    fn start_missing(&self, hall: &mut Hall, wanted: usize) -> Result<(), Error> {
        let loops = &self.loops;
        while loops.all.len() < wanted {
            loops.add(loops.common.add_desk()?);
            hall.at_work.push(false);
        }
        let missing: Vec<usize> = (0..wanted).filter(|number| !hall.at_work[*number]).collect();
        let placement = loops.common.settings.placement;
        let fronts = missing.iter().map(|&number| {
            let floor = Dealer::new(loops, &self.hall, number, wanted, placement);
            Ok((number, Front::new(Arc::clone(&loops.common), number, Vec::new(), floor)?))
        });
        let fronts = fronts.collect::<Result<Vec<_>, Error>>()?;
        missing.iter().for_each(|_| loops.common.open_one());
        let runs = fronts.into_iter().map(|(number, mut front)| {
            let run_one = move |one: &Loop| {
                front.catch_up();
                run(one, front);
            };
            (number, run_one)
        });
        let started = loops.begin_some("loop", runs);
        match started {
            Ok(()) => missing.iter().for_each(|number| hall.at_work[*number] = true),
            Err(_) => missing.iter().for_each(|_| loops.common.close_one()),
        }
        started
    }
}

impl Running for EventLoops {
    fn command(&self, command: Command) {
        self.loops.command(command);
    }

    fn workers(&self) -> usize {
        lock(&self.hall).wanted
    }

    /// In force at once: new sessions are given to so many loops. Those that are given none end with their last session.
    fn resize(&self, workers: usize, in_force: InForce) -> Result<(), Error> {
        let common = &self.loops.common;
        common.check_workers(workers)?;
        let mut hall = lock(&self.hall);
        if common.orders().stage(common.clock.now_ns()) > Stage::Open {
            let attempt = format!("have {workers} workers");
            return Err(Error::resource(attempt, io::Error::other("the engine has finished")));
        }
        if workers != hall.wanted {
            // Those who listen themselves were there from the start.
            let hand_over = if hall.are_shared { hall.at_work.len() } else { 0 };
            self.start_missing(&mut hall, workers)?;
            hall.are_shared = false;
            hall.wanted = workers;
            hall.changes += 1;
            share_memory(common, &self.loops.all, hall.count());
            common.desks[0].leave(Errand::Resize(Resize { fronts: workers, number: hall.changes, hand_over }));
        }
        drop(hall);
        in_force(workers);
        Ok(())
    }

    fn listen(&self, changes: Vec<Change>) -> Result<(), Error> {
        let hall = lock(&self.hall);
        self.loops.common.listen(changes, hall.are_shared)
    }

    fn summary(&self) -> Summary {
        Summary { workers: self.workers(), ..self.loops.summary() }
    }

    fn sessions(&self, from: u64, most: usize, seen: &mut Vec<Seen>) -> Option<u64> {
        self.loops.sessions(from, most, seen)
    }

    fn kill(&self, id: u64) -> bool {
        self.loops.kill(id)
    }

    fn join(&self, hearing: Option<Hearing<'_>>) {
        self.loops.join(hearing);
    }
}

/// The floor of a loop. Where the first loop accepts for all, the others adopt what it deals them.
struct Dealer {
    sessions: Sessions,
    loops: Arc<Growing<Loop>>,
    hall: Arc<Mutex<Hall>>,
    number: usize,
    placement: Placement,
    /// Of the first loop: those that it deals to, and the connections ever dealt to each.
    count: usize,
    dealt: Vec<u64>,
    next: usize,
    /// Of the others: it is given no more sessions, as of this change.
    is_to_go: bool,
    seen: u64,
}

impl Dealer {
    fn new(loops: &Loops, hall: &Arc<Mutex<Hall>>, number: usize, count: usize, placement: Placement) -> Dealer {
        Dealer {
            sessions: Sessions::new(&loops.all[number].reactor),
            loops: Arc::clone(&loops.all),
            hall: Arc::clone(hall),
            number,
            placement,
            count,
            dealt: vec![0; count],
            next: 0,
            is_to_go: false,
            seen: 0,
        }
    }

    fn choose(&mut self) -> usize {
        let chosen = match self.placement {
            Placement::ReusePort => return self.number,
            Placement::Least => {
                let open = |number: usize| self.dealt[number].saturating_sub(self.loops[number].ended());
                // Among equals the one whose turn it is.
                let numbers = (0..self.count).map(|place| (self.next + place) % self.count);
                numbers.min_by_key(|number| open(*number)).expect("there is at least one loop")
            }
            Placement::RoundRobin => self.next % self.count,
        };
        self.next = (self.next + 1) % self.count;
        self.dealt[chosen] += 1;
        chosen
    }

    fn reactor(&self) -> &Reactor {
        &self.loops[self.number].reactor
    }
}

impl Floor for Dealer {
    const HAS_ENDPOINTS: bool = true;

    fn admit(&mut self, arrival: Arrival, now_ns: u64) -> Result<Option<u64>, Refusal> {
        // What comes to another loop than the first has been dealt to it, by that one or by the kernel.
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

    /// The first loop passes it on, so that what it has dealt before comes before it.
    fn handle_resize(&mut self, resize: Resize) {
        if self.number > 0 {
            (self.is_to_go, self.seen) = (self.number >= resize.fronts, resize.number);
            return;
        }
        self.count = resize.fronts;
        self.dealt.resize(self.dealt.len().max(self.count), 0);
        if self.placement == Placement::ReusePort {
            self.placement = Placement::RoundRobin;
        }
        self.reactor().common.desks.iter().skip(1).for_each(|desk| desk.leave(Errand::Resize(resize)));
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

    /// *nobody-dealt-away*: a loop that is to go ends when it has no session and knows of every change, so that the first loop
    /// has passed all of them on and deals it nothing more.
    fn leaves(&mut self) -> bool {
        let (reactor, common) = (self.reactor(), &self.reactor().common);
        let has_more = reactor.table.live() > 0 || self.sessions.has_mail() || !reactor.desk().endpoints.is_empty();
        if !self.is_to_go || has_more {
            return false;
        }
        let mut hall = lock(&self.hall);
        let is_open = common.orders().stage(common.clock.now_ns()) == Stage::Open;
        let leaves = is_open && hall.changes == self.seen && !reactor.desk().has_errands();
        if leaves {
            hall.at_work[self.number] = false;
            common.close_one();
            share_memory(common, &self.loops, hall.count());
        }
        leaves
    }
}
