//! The engine `leader-followers`: N equal threads; one at a time leads, that is waits for readiness; it hands the role on
//! and serves what it found.
//!
//! ```text
//!            ┌────────────── take the role back, if it is free ─────────────┐
//!   leader ──┴─▶ wait ──▶ give the role up ──▶ turns of what it found ──────┤
//!                               │ wake one, if that pays                    │ role taken: follow
//!   follower (asleep) ◀─────────┘                 ▲                         ▼
//!                                                 └──────────────────── lie down
//! ```
//! Who waits: the leader. Who runs: the same thread, a moment later. What is handed over is not the work but the waiting,
//! so that a session's bytes are read by the thread that saw them come, and nothing is queued between threads.
//!
//! Handing the role on costs a wake. Where every turn is brief it is put off while what was found takes less time than a
//! wake does: then the leader is back before anybody else could be there. Otherwise the role is handed on before the first
//! turn, and the leader takes one event at a time, so that nothing waits behind a turn that may take long.
//!
//! Invariant *somebody-returns*: while nobody leads, a thread that is awake is on its way to look for the role: whoever
//! gives the role up either wakes a follower or comes back itself, and a follower lies down only after it has said so and
//! has then seen the role taken (`parking.rs`). One that is to go (`roster.rs`), be it the leader, does as whoever gives the
//! role up: while nobody leads it wakes a follower before it leaves. Read next: `thread_per_connection.rs`; the chapter is
//! `design/engines/leader-followers.md`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::books::Books;
use super::common::Common;
use super::crew::{Crew, Hand};
use super::front::Front;
use super::parking::IdleStack;
use super::reactor::listing::{kill_in_tables, list_tables};
use super::reactor::{Reactor, Request, Sessions};
use super::roster::{Place, Roster};
use super::turns::Turns;
use super::{Change, Command, Entry, Hearing, InForce, Running, Seen, Start, anywhere, carries_all};
use crate::config::{AtOnce, EngineInfo};
use crate::error::Error;
use crate::metrics::summary::{Summary, TurnSummary};
use crate::net::poller::Batch;

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "leader-followers",
        about: "N equal threads; one at a time polls, hands the role on and serves what it found",
        carries: carries_all,
        options: &["workers", "batch", "budget", "ring", "rearm", "stages", "pin"],
        at_once: AtOnce::Many,
        forks: false,
        resizes: Ok(()),
        relistens: Ok(()),
    },
    start: |start| Ok(Box::new(LeaderFollowers::start(start)?)),
    available: anywhere,
};

/// What a wake costs: what is found must take longer to be worth one. That of an idle virtual processor, measured.
const WAKE_COST_NS: u64 = 100_000;

/// Counters of turns that this engine keeps beside those of all.
const OWN_TURNS: &[&str] = &["parks", "worker_wakes"];

struct Shared {
    common: Arc<Common>,
    reactor: Arc<Reactor>,
    /// The leader's; locked by whoever has taken the role, so never waited for.
    front: Mutex<Front<Sessions>>,
    /// Whether somebody leads. Taken by a swap; given up by the leader after it has let go of the front.
    is_led: AtomicBool,
    idle: IdleStack,
    /// What a turn takes, of late; 0 before the first. Written by everybody now and then.
    turn_ns: AtomicU64,
    /// Set by the leader that finds the engine drained.
    is_over: AtomicBool,
    roster: Roster,
}

/// The running engine.
struct LeaderFollowers {
    shared: Arc<Shared>,
    crew: Crew,
}

impl LeaderFollowers {
    fn start(mut start: Start) -> Result<LeaderFollowers, Error> {
        let workers = start.settings.workers;
        let common = Arc::new(Common::new(&mut start, 1)?);
        let reactor = Reactor::new(&common, 0, start.most_sessions, common.settings.limits.max_buffer_bytes);
        let front = Front::new(Arc::clone(&common), 0, start.listeners, Sessions::new(&reactor))?;
        let crew = Crew::new(common.settings.pin);
        let shared = Arc::new(Shared {
            common,
            reactor,
            front: Mutex::new(front),
            is_led: AtomicBool::new(false),
            idle: IdleStack::new(workers),
            turn_ns: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            roster: Roster::new(workers),
        });
        crew.start((0..workers).map(|number| member(&shared, number)))?;
        Ok(LeaderFollowers { shared, crew })
    }

    fn books(&self) -> Books<'_> {
        Books {
            engine: ENTRY.info.name,
            common: &self.shared.common,
            turns: self.shared.roster.places.iter().map(|place| &place.counters).collect(),
            stages: self.shared.roster.places.iter().map(|place| &place.stages).collect(),
            polls_sessions: true,
            buffer_bytes: Some(self.shared.reactor.budget.made_bytes()),
            accepted_elsewhere: 0,
            open: self.shared.common.live() as u64,
        }
    }
}

impl Shared {
    /// Whether the turns of every service are bounded by the byte budget.
    fn all_brief(&self) -> bool {
        !self.common.needs.more_than_brief()
    }

    /// Events that one wait may bring.
    fn most_found(&self) -> usize {
        if self.all_brief() { self.common.settings.batch } else { 1 }
    }
}

fn member(shared: &Arc<Shared>, number: usize) -> Hand {
    let shared = Arc::clone(shared);
    Hand::new(format!("worker-{number}"), Some(number), move || Member::new(&shared, number).run())
}

/// One of the threads.
struct Member<'a> {
    shared: &'a Shared,
    place: &'a Place,
    number: usize,
    turns: Turns<'a>,
    batch: Batch,
    /// What it found, and what of that wants another turn.
    found: VecDeque<Request>,
}

impl<'a> Member<'a> {
    fn new(shared: &'a Shared, number: usize) -> Member<'a> {
        let place = &shared.roster.places[number];
        let Place { counters, stages, .. } = place;
        let events = shared.most_found();
        Member {
            turns: Turns::new(&shared.common, &shared.reactor.budget, counters, stages).numbered(number),
            batch: Batch::new(events),
            found: VecDeque::with_capacity(events),
            place,
            number,
            shared,
        }
    }

    fn run(mut self) {
        let shared = self.shared;
        shared.idle.occupy(self.number);
        while !shared.is_over.load(Ordering::SeqCst) && !self.place.is_to_go() {
            let leads = !shared.is_led.load(Ordering::Relaxed) && !shared.is_led.swap(true, Ordering::SeqCst);
            if leads {
                self.lead();
            }
            if !self.found.is_empty() {
                self.serve();
            } else if !leads {
                self.follow();
            }
        }
        self.leave();
    }

    /// Hands on what it has: to whoever leads, what wants another turn; and the role, if nobody has it (*somebody-returns*).
    fn leave(self) {
        let Member { shared, number, turns, found, .. } = self;
        if !shared.is_over.load(Ordering::SeqCst) {
            found.into_iter().for_each(|request| shared.reactor.leave(request));
        }
        if shared.idle.pass_wake_on(|| !shared.is_led.load(Ordering::SeqCst)).is_some() {
            turns.counters().worker_wakes.add(1);
        }
        // Gives its rings back.
        drop(turns);
        shared.roster.leave(number);
    }

    /// Waits for readiness, unless there is something to serve already, and gives the role up.
    fn lead(&mut self) {
        let shared = self.shared;
        let all_brief = shared.all_brief();
        if !all_brief && self.batch.most() > 1 {
            // Since a reload.
            self.batch = Batch::new(shared.most_found());
        }
        let mut front = shared.front.try_lock().expect("only the leader has it, and no leader panics");
        let is_over = front.is_drained();
        if !is_over {
            // Told before it took the role, it may not wait: whoever led then has heard the ring.
            let is_busy = !self.found.is_empty() || !front.floor.ready.is_empty() || self.place.is_to_go();
            if all_brief {
                self.batch.set_capacity(shared.common.orders().batch());
            }
            front.wait(&mut self.batch, is_busy.then_some(Duration::ZERO));
            // Others may serve what a turn or a call that takes long would hold up.
            let found = if all_brief { front.floor.ready.len() } else { front.floor.ready.len().min(1) };
            self.found.extend(front.floor.ready.drain(..found));
        }
        drop(front);
        shared.is_led.store(false, Ordering::SeqCst);
        if is_over {
            shared.is_over.store(true, Ordering::SeqCst);
            shared.idle.wake_all();
        } else if self.pays() && shared.idle.wake_one().is_some() {
            self.turns.counters().worker_wakes.add(1);
        }
    }

    /// Whether somebody else should lead while this thread serves.
    fn pays(&self) -> bool {
        let found = self.found.len() as u64;
        let takes_ns = found * self.shared.turn_ns.load(Ordering::Relaxed);
        found > 0 && (!self.shared.all_brief() || takes_ns > WAKE_COST_NS)
    }

    /// One turn for each session that is there now; then it is time to look for the role again.
    fn serve(&mut self) {
        let shared = self.shared;
        let round = self.found.len();
        let since_ns = shared.common.clock.now_ns();
        let all_brief = shared.all_brief();
        let Member { turns, found, .. } = self;
        for _ in 0..round {
            let request = found.pop_front().expect("as many as there were");
            shared.reactor.run(turns, request, &mut |next| match all_brief {
                true => found.push_back(next),
                // For whoever leads next: behind a call or a turn that takes long it would wait for this member.
                false => shared.reactor.leave(next),
            });
        }
        let turn_ns = (shared.common.clock.now_ns() - since_ns) / round as u64;
        let before_ns = shared.turn_ns.load(Ordering::Relaxed);
        let after_ns = if before_ns == 0 { turn_ns } else { (before_ns * 7 + turn_ns) / 8 };
        shared.turn_ns.store(after_ns, Ordering::Relaxed);
    }

    /// Sleeps until it is needed.
    fn follow(&mut self) {
        let shared = self.shared;
        if shared.reactor.budget.awaited.load(Ordering::SeqCst) {
            self.turns.give_up_rings();
        }
        let is_needed = || {
            let is_free = !shared.is_led.load(Ordering::SeqCst);
            is_free || shared.is_over.load(Ordering::SeqCst) || self.place.is_to_go()
        };
        if shared.idle.sleep_unless(self.number, is_needed) {
            self.turns.counters().parks.add(1);
        }
    }
}

impl Running for LeaderFollowers {
    fn command(&self, command: Command) {
        self.shared.common.tell(&command);
    }

    fn workers(&self) -> usize {
        self.shared.roster.present()
    }

    fn resize(&self, workers: usize, in_force: InForce) -> Result<(), Error> {
        let shared = &self.shared;
        shared.common.check_workers(workers)?;
        let start = |numbers: &[usize]| {
            shared.idle.make_seats(shared.roster.places.len());
            self.crew.start(numbers.iter().map(|&number| member(shared, number)))
        };
        shared.roster.resize(workers, in_force, start, |number| {
            shared.idle.rouse(number);
            // It may be the one that leads.
            shared.reactor.desk().poller.wake();
        })
    }

    fn listen(&self, changes: Vec<Change>) -> Result<(), Error> {
        self.shared.common.listen(changes, false)
    }

    fn summary(&self) -> Summary {
        let mut summary = self.books().summary();
        summary.workers = self.shared.roster.staying();
        for (turns, place) in summary.worker_turns.iter_mut().zip(self.shared.roster.places.iter()) {
            turns.add_known(TurnSummary::of([&place.counters], OWN_TURNS));
        }
        summary
    }

    fn sessions(&self, from: u64, most: usize, seen: &mut Vec<Seen>) -> Option<u64> {
        list_tables(&[&*self.shared.reactor], from, most, seen)
    }

    fn kill(&self, id: u64) -> bool {
        kill_in_tables(&[&*self.shared.reactor], id)
    }

    fn join(&self, _hearing: Option<Hearing<'_>>) {
        self.crew.join();
        self.books().check();
    }
}
