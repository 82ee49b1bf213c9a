//! [`Turns`]: one turn of one session, one call, and the end of a session, written once for all engines.
//!
//! Who may run it is for the engine: the owner of a claim (`reactor.rs`), or the thread or process that the session has
//! to itself (`blocking.rs`). Each thread has its own [`Turns`], with its own free list of rings and its own counters.
//!
//! Timeouts: a timer only makes a turn. The turn tries what the session waits for, and only one that moved nothing looks
//! at the clock once more and ends the session.
//!
//! Invariant *tried-in-eighths*: while its peer is owed bytes that the socket refuses, a session has such a turn at least
//! every eighth of the shorter timeout. The kernel does not report a little room, only a try finds it, and the peer may
//! have made it at any time since the try before. So its silence counts from an eighth after it began at the latest, and
//! not from the end of the timeout. Read next: `reactor.rs`.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use log::error;

use super::attendance::Moved;
use super::common::{Common, Stage};
use super::connection::{Connection, Wire};
use super::endpoint::Endpoint;
use crate::clock::{Clock, ticks_since};
use crate::jobs::Jobs;
use crate::metrics::counters::TurnCounters;
use crate::metrics::stages::StageRecorder;
use crate::net::poller::Poller;
use crate::net::socket::Socket;
use crate::session::TurnEnd;
use crate::session::buffer::{Budget, Leases};
use crate::session::handler::{Call, Closed, Lane, Means, Moment, Parallel, Tally};
use crate::session::mailbox::Address;
use crate::session::part::Brought;
use crate::session::state::Reasons;
use crate::session::table::Ticks;

/// Runs turns on behalf of one thread.
pub(super) struct Turns<'a> {
    common: &'a Common,
    leases: Leases,
    counters: &'a TurnCounters,
    stages: &'a StageRecorder,
    /// The number of this thread among those that run turns, where they have one.
    worker: Option<u16>,
    /// What the last turn's handler has made.
    calls: Vec<Box<dyn Call>>,
    /// The same with the way back, for the engine to take.
    pub(super) placed: VecDeque<Placed>,
    /// What the last turn has moved.
    pub(super) moved: Moved,
    /// Free rings are left to other threads whenever this one may wait for long.
    keeps_none: bool,
}

/// A call, and the session that it is of.
pub(super) struct Placed {
    call: Box<dyn Call>,
    address: Address,
    /// What it takes up of the session's memory, also when another goes on for it.
    bytes: usize,
}

impl Placed {
    fn new(call: Box<dyn Call>, address: Address) -> Placed {
        let bytes = call.bytes();
        Placed { call, address, bytes }
    }
}

/// What became of a call.
enum Ran {
    /// This one does the rest of it.
    GoesOn(Box<dyn Call>),
    /// What it brought is in the mailbox; whether its session is to be told.
    Over { must_tell: bool },
}

/// What one turn came to.
pub(super) struct Turn {
    pub(super) end: TurnEnd,
    /// It read or wrote something.
    pub(super) moved: bool,
}

impl<'a> Turns<'a> {
    /// Turns whose rings are paid for from `budget`, and that are counted there.
    pub(super) fn new(
        common: &'a Common,
        budget: &Arc<Budget>,
        counters: &'a TurnCounters,
        stages: &'a StageRecorder,
    ) -> Turns<'a> {
        let leases = Leases::new(common.settings.ring_bytes, Arc::clone(budget));
        let (calls, placed) = (Vec::new(), VecDeque::new());
        let moved = Moved::default();
        Turns { common, leases, counters, stages, worker: None, calls, placed, moved, keeps_none: false }
    }

    /// The same for a thread that has a number among those that run turns.
    pub(super) fn numbered(self, worker: usize) -> Turns<'a> {
        Turns { worker: u16::try_from(worker).ok(), ..self }
    }

    /// The same for a thread that waits for a single session: it keeps no free rings for itself.
    pub(super) fn keeping_none(self) -> Turns<'a> {
        Turns { keeps_none: true, ..self }
    }

    pub(super) fn counters(&self) -> &'a TurnCounters {
        self.counters
    }

    /// Leaves free rings to other threads: for one that is about to wait for a single session.
    pub(super) fn put_rings_away(&mut self) {
        self.leases.put_away();
    }

    /// Gives the memory of all free rings up.
    pub(super) fn give_up_rings(&mut self) {
        self.leases.clear();
    }

    /// Runs one turn. `tick` is the present one, read anew when it matters; `ready_ns` is when the session was seen ready,
    /// where that is known.
    pub(super) fn run(
        &mut self,
        connection: &mut Connection,
        wire: &mut impl Wire,
        ticks: &Ticks,
        reasons: Reasons,
        tick: &AtomicU32,
        ready_ns: Option<u64>,
    ) -> TurnEnd {
        self.counters.turns.add(1);
        let taken_ns = self.common.stage_ns();
        let moment = Moment::new(self.common.clock, self.worker, ready_ns, taken_ns);
        let end = self.turn(connection, wire, ticks, reasons, tick, moment);
        if !self.calls.is_empty() {
            let address = connection.session.address().expect("who makes calls has a mailbox");
            self.placed.extend(self.calls.drain(..).map(|call| Placed::new(call, Address::clone(address))));
        }
        if self.common.settings.stages {
            self.stages.record(ready_ns, taken_ns, self.common.clock.now_ns());
        }
        end
    }

    /// Runs one turn of an endpoint. True if it is queued again.
    pub(super) fn answer(&mut self, endpoint: &Endpoint, poller: &Poller, key: u64, ready_ns: Option<u64>) -> bool {
        self.counters.turns.add(1);
        let taken_ns = self.common.stage_ns();
        let again = endpoint.turn(self.common, poller, key);
        if self.common.settings.stages {
            self.stages.record(ready_ns, taken_ns, self.common.clock.now_ns());
        }
        again
    }

    /// Runs a call, or gives it to the pool that it is for, whose threads see to the rest. The key of its session, if whoever
    /// runs turns must see to it that it has one.
    pub(super) fn call(&mut self, placed: Placed, ready_ns: Option<u64>) -> Option<u64> {
        // Written at the start, as for a turn.
        self.counters.calls.add(1);
        // Nobody who waits for the engine's end, or for this thread's next turn, is to wait for a long call first.
        let common = self.common;
        let address = Address::clone(&placed.address);
        let is_wanted = || common.orders().stage(common.clock.now_ns()) < Stage::Over && !address.is_over();
        if !is_wanted() {
            return None;
        }
        match (placed.call.lane(), &common.jobs, common.files()) {
            (Lane::Cpu, Some(jobs), _) => {
                self.submit(jobs, placed, ready_ns);
                None
            }
            (Lane::Files, _, Some(files)) => {
                let waits = files.submit(job(common.clock, placed, ready_ns));
                self.counters.jobs_waited.add(u64::from(waits));
                None
            }
            _ => {
                let taken_ns = common.stage_ns();
                let moment = Moment::new(common.clock, self.worker, ready_ns, taken_ns);
                let must_tell = run_whole(placed, &moment, &is_wanted);
                if common.settings.stages {
                    self.stages.record(ready_ns, taken_ns, common.clock.now_ns());
                }
                must_tell.then(|| address.key())
            }
        }
    }

    fn submit(&self, jobs: &Jobs, placed: Placed, ready_ns: Option<u64>) {
        let mut job = job(self.common.clock, placed, ready_ns);
        if let Err(job) = jobs.submit(move || while job() {}) {
            // As many wait as may: it is run here, and what would bring more waits meanwhile.
            self.counters.jobs_refused.add(1);
            job();
        }
    }

    fn turn(
        &mut self,
        connection: &mut Connection,
        wire: &mut impl Wire,
        ticks: &Ticks,
        reasons: Reasons,
        tick: &AtomicU32,
        moment: Moment,
    ) -> TurnEnd {
        if reasons.intersects(Reasons::KILL | Reasons::DRAIN_OVER) {
            self.moved = Moved::default();
            let killed = reasons.intersects(Reasons::KILL);
            return TurnEnd::Closed(if killed { Closed::Killed } else { Closed::Drained });
        }
        // A timer makes the turn try what it waits for, and only then end a session that still waits: bytes may have
        // come or left meanwhile, and the kernel reports a socket writable only when much of it is free.
        let is_timed = reasons.intersects(Reasons::TIMER);
        let reasons = if is_timed { reasons | Reasons::WRITABLE | Reasons::UPSTREAM_WRITABLE } else { reasons };
        // For what no event tells: input behind the budget, room in the socket that the kernel does not report.
        let note_activity = || ticks.last_ready.store(tick.load(Ordering::Acquire), Ordering::Relaxed);
        if reasons.intersects(Reasons::POSTED) {
            // A session is not idle that others write to, or whose calls come back. A call that the front's own thread has
            // run kept it from its wait, so that the tick may be long past.
            ticks.last_ready.store(Clock::tick_of(self.common.clock.now_ns()), Ordering::Relaxed);
        }
        let Turn { end, moved } = self.advance(connection, wire, ticks, reasons, tick, moment);
        match end {
            TurnEnd::Again => {
                self.counters.budget_stops.add(1);
                note_activity();
                end
            }
            TurnEnd::Idle if is_timed && moved => {
                note_activity();
                end
            }
            // One that waits for memory is not silent: what it sent may still lie in the kernel.
            TurnEnd::Idle if is_timed => {
                let overdue = poll_overdue(self.common, connection, ticks, tick);
                if overdue.is_none() && connection.idle_ticks(self.common.orders()).is_none() {
                    // One that is spared is next asked after a whole timeout, not at each visit.
                    note_activity();
                }
                overdue.map_or(end, TurnEnd::Closed)
            }
            TurnEnd::Starved => {
                self.counters.starved.add(1);
                end
            }
            TurnEnd::Idle | TurnEnd::Closed(_) => end,
        }
    }

    fn advance(
        &mut self,
        connection: &mut Connection,
        wire: &mut impl Wire,
        ticks: &Ticks,
        reasons: Reasons,
        tick: &AtomicU32,
        moment: Moment,
    ) -> Turn {
        let mut tally = Tally::default();
        let (leases, calls) = (&mut self.leases, &mut self.calls);
        let budget_bytes = self.common.orders().budget_bytes();
        let Connection { session, socket, .. } = connection;
        let parallel = self.common.jobs.as_ref().map(|jobs| jobs as &dyn Parallel);
        let mut means = Means { leases, budget_bytes, moment, parallel, tally: &mut tally, calls };
        let common = self.common;
        let turn = || session.turn(socket, &mut wire.stream(socket), reasons, &mut means, common);
        let end = catch_unwind(AssertUnwindSafe(turn)).unwrap_or_else(|_| {
            error!("a session's service panicked; the session ends");
            TurnEnd::Closed(Closed::Panicked)
        });
        self.moved = Moved { read_bytes: tally.read_bytes, written_bytes: tally.written_bytes };
        let counters = self.counters;
        counters.read_bytes.add(tally.read_bytes);
        counters.written_bytes.add(tally.written_bytes);
        counters.reads.add(tally.reads);
        counters.writes.add(tally.writes);
        if tally.read_blocks + tally.write_blocks > 0 {
            counters.read_blocks.add(tally.read_blocks);
            counters.write_blocks.add(tally.write_blocks);
        }
        if tally.posts + tally.posts_refused + tally.post_wakes > 0 {
            counters.posts.add(tally.posts);
            counters.posts_refused.add(tally.posts_refused);
            counters.post_wakes.add(tally.post_wakes);
        }
        // What a peer sends after all has been said keeps nobody here.
        let heard = tally.read_bytes > 0 && !connection.session.is_lingering();
        if !matches!(end, TurnEnd::Closed(_)) {
            note_blocked(connection, ticks, tick, connection.session.all_took(tally.written_bytes > 0));
            let look_ticks = connection.session.look_ticks();
            if look_ticks > 0 {
                ticks.look.store(look_ticks, Ordering::Relaxed);
            }
        }
        Turn { end, moved: heard || tally.written_bytes > 0 }
    }

    /// Ends a session whose key, if it had one, is stale by now: drops it, counts it, drops its socket, which takes it out
    /// of the poller. The last act of all is to count it out.
    pub(super) fn end(&mut self, connection: Connection, closed: Closed) {
        let (closed, socket) = self.finish(connection, closed);
        self.counters.closed[closed as usize].add(1);
        // Who sees the end of the connection finds it counted.
        drop(socket);
        self.common.leave();
    }

    /// Tells a session's handler how it ended, drops the session, and says how it ended in the end. The caller counts it, and
    /// then drops its socket.
    pub(super) fn finish(&mut self, connection: Connection, closed: Closed) -> (Closed, Socket) {
        let mut connection = connection;
        let told = catch_unwind(AssertUnwindSafe(|| connection.end(closed, &mut self.leases, self.common)));
        let Connection { session, socket, .. } = connection;
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(session)));
        if self.keeps_none {
            self.put_rings_away();
        }
        (if told.and(dropped).is_ok() { closed } else { Closed::Panicked }, socket)
    }
}

/// Runs a call on a thread of a pool, piece by piece and only while its session is there, and tells the engine what it must be
/// told. True if there is more of it.
fn job(clock: Clock, placed: Placed, ready_ns: Option<u64>) -> impl FnMut() -> bool + Send + 'static {
    let mut left = Some(placed);
    move || {
        let Some(Placed { call, address, bytes }) = left.take().filter(|placed| !placed.address.is_over()) else {
            return false;
        };
        let moment = Moment::new(clock, None, ready_ns, clock.now_ns());
        match run_call(call, &address, bytes, &moment, &|| !address.is_over()) {
            Ran::GoesOn(call) => left = Some(Placed { call, address, bytes }),
            Ran::Over { must_tell } if must_tell => address.tell(),
            Ran::Over { .. } => {}
        }
        left.is_some()
    }
}

/// Runs a call with all that goes on for it, as long as it is wanted. True if its session is to be told.
fn run_whole(placed: Placed, moment: &Moment, is_wanted: &dyn Fn() -> bool) -> bool {
    let Placed { mut call, address, bytes } = placed;
    while is_wanted() {
        match run_call(call, &address, bytes, moment, is_wanted) {
            Ran::GoesOn(next) => call = next,
            Ran::Over { must_tell } => return must_tell,
        }
    }
    false
}

/// Runs a call that takes up so many bytes, and leaves what it brings.
fn run_call(
    call: Box<dyn Call>,
    address: &Address,
    bytes: usize,
    moment: &Moment,
    is_wanted: &dyn Fn() -> bool,
) -> Ran {
    let brought = catch_unwind(AssertUnwindSafe(|| call.run(moment, is_wanted)));
    match brought.map(Brought::poll_going_on) {
        Ok(Ok(brought)) => Ran::Over { must_tell: address.reply(brought, bytes) },
        Ok(Err(call)) => Ran::GoesOn(call),
        Err(_) => {
            error!("a call of a session's service panicked; the session ends");
            Ran::Over { must_tell: address.fail(Closed::Panicked) }
        }
    }
}

/// Which timeout the session has run into, at the end of a turn that moved nothing.
fn poll_overdue(common: &Common, connection: &Connection, ticks: &Ticks, tick: &AtomicU32) -> Option<Closed> {
    // The session's ticks first: the poller stores its own before the session's, so that this one cannot be the older.
    let last_ready = ticks.last_ready.load(Ordering::Acquire);
    let blocked = ticks.blocked.load(Ordering::Relaxed);
    let tick = tick.load(Ordering::Acquire);
    let is_over = |since: u32, limit_ticks: u32| ticks_since(tick, since) >= limit_ticks;
    if blocked != 0 && is_over(blocked, common.orders().write_ticks()) {
        Some(if connection.session.is_lingering() { Closed::Finished } else { Closed::WriteTimeout })
    } else if connection.idle_ticks(common.orders()).is_some_and(|limit_ticks| is_over(last_ready, limit_ticks)) {
        Some(Closed::IdleTimeout)
    } else {
        None
    }
}

/// Writes down since when the peer takes nothing of what it is owed, or owes its FIN after ours.
fn note_blocked(connection: &Connection, ticks: &Ticks, tick: &AtomicU32, moved: bool) {
    let blocked = connection.session.is_blocked() || connection.session.is_lingering();
    let was_blocked = ticks.blocked.load(Ordering::Relaxed) != 0;
    if blocked && (moved || !was_blocked) {
        let tick = tick.load(Ordering::Acquire);
        ticks.blocked.store(tick.max(1), Ordering::Relaxed);
    } else if !blocked && was_blocked {
        ticks.blocked.store(0, Ordering::Relaxed);
    }
}
