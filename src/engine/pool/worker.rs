//! Workers: take a request, run the turn, hand the session on; rest when there is nothing to take.
//!
//! [`Turns`] runs one turn of one session and is all that touches a claimed session; a worker has one, and so has the
//! poller for the turns that it runs itself (`--assist`). [`Worker`] is the loop around it.
//!
//! A worker takes one request at a time. Taking several would save a few tens of nanoseconds each, and let the second
//! one wait behind a first that takes 30 ms while another worker sleeps.
//!
//! Invariant *last-act*: the last thing that a turn does with a session is to release, requeue or close it; after that
//! only its key is touched. Read next: `parking.rs`.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log::error;

use super::service_queue::Request;
use super::wake_rule::TIMED_TURNS;
use super::{Connection, NONE_LEFT, Shared};
use crate::clock::ticks_since;
use crate::config::Rearm;
use crate::metrics::counters::TurnCounters;
use crate::metrics::stages::StageRecorder;
use crate::session::buffer::Leases;
use crate::session::handler::Closed;
use crate::session::state::{Reasons, Released};
use crate::session::table::Claim;
use crate::session::{Tally, TurnEnd};

/// Turns since it last parked after which a worker gives up its processor a few times before it parks again: work
/// came thick, and somebody who brings more may be waiting for just this processor.
const STREAK: u64 = 8;

/// How many times it does.
const YIELDS: usize = 4;

/// Requests that a worker carries before it serves those rather than take more from a full queue.
const CARRIED_MOST: usize = 1;

/// Runs turns on behalf of one thread.
pub(super) struct Turns<'a> {
    shared: &'a Shared,
    leases: Leases,
    counters: &'a TurnCounters,
    stages: &'a StageRecorder,
}

impl<'a> Turns<'a> {
    /// Turns of the worker of this number, or of the poller, whose place is after the last worker's.
    pub(super) fn new(shared: &'a Shared, place: usize) -> Turns<'a> {
        Turns {
            shared,
            leases: Leases::new(shared.settings.ring_bytes, Arc::clone(&shared.budget)),
            counters: &shared.turn_counters[place],
            stages: &shared.stages[place],
        }
    }

    pub(super) fn counters(&self) -> &'a TurnCounters {
        self.counters
    }

    /// Gives the session its turn. Returns the requests that are to go into the queue now: this session's, if it wants
    /// another turn, and one that waited for memory, if there is some.
    pub(super) fn run(&mut self, request: Request) -> [Option<Request>; 2] {
        let shared = self.shared;
        self.counters.turns.add(1);
        let taken_ns = shared.ready_ns();
        let again = self.turn(shared.table.claim(request.key));
        if shared.settings.stages {
            self.stages.record(request.ready_ns, taken_ns, shared.clock.now_ns());
        }
        let again = again.then(|| Request { key: request.key, ready_ns: shared.ready_ns() });
        let fed = if shared.budget.awaited.load(Ordering::SeqCst) { shared.poll_starving() } else { None };
        [again, fed]
    }

    /// True if the session is queued again.
    fn turn(&mut self, mut claim: Claim<'_, Connection>) -> bool {
        let (shared, counters) = (self.shared, self.counters);
        let reasons = claim.reasons();
        if reasons.intersects(Reasons::KILL | Reasons::DRAIN_OVER) {
            let killed = reasons.intersects(Reasons::KILL);
            self.close(claim, if killed { Closed::Killed } else { Closed::Drained });
            return false;
        }
        // A timer makes the turn try what it waits for, and only then end a session that still waits: bytes may have
        // come or left meanwhile, and the kernel reports a socket writable only when much of it is free.
        let reasons = if reasons.intersects(Reasons::TIMER) { reasons | Reasons::WRITABLE } else { reasons };
        let mut tally = Tally::default();
        let leases = &mut self.leases;
        let connection = &mut *claim;
        let turn = || {
            let Connection { session, socket, .. } = connection;
            session.turn(&mut &*socket, reasons, leases, shared.settings.budget_bytes, &mut tally)
        };
        let end = catch_unwind(AssertUnwindSafe(turn)).unwrap_or_else(|_| {
            error!("session {}: its service panicked; the session ends", claim.key().index());
            TurnEnd::Closed(Closed::Panicked)
        });
        counters.read_bytes.add(tally.read_bytes);
        counters.written_bytes.add(tally.written_bytes);
        if tally.read_blocks + tally.write_blocks > 0 {
            counters.read_blocks.add(tally.read_blocks);
            counters.write_blocks.add(tally.write_blocks);
        }
        // What a peer sends after all has been said keeps nobody here.
        let heard = tally.read_bytes > 0 && !claim.session.is_lingering();
        let moved = heard || tally.written_bytes > 0;
        if !matches!(end, TurnEnd::Closed(_)) {
            note_blocked(shared, &mut claim, tally.written_bytes > 0);
        }
        match end {
            TurnEnd::Closed(closed) => {
                self.close(claim, closed);
                false
            }
            TurnEnd::Again => {
                counters.budget_stops.add(1);
                // The next turn comes of this one, not of an event that the poller would note.
                let tick = shared.by_poller.tick.load(Ordering::Acquire);
                claim.slot().last_ready_tick.store(tick, Ordering::Relaxed);
                claim.requeue(Reasons::RESUME);
                true
            }
            // One that waits for memory is not silent: what it sent may still lie in the kernel.
            TurnEnd::Idle if reasons.intersects(Reasons::TIMER) && !moved => match poll_overdue(shared, &claim) {
                Some(closed) => {
                    self.close(claim, closed);
                    false
                }
                None => self.give_back(claim, end),
            },
            TurnEnd::Idle | TurnEnd::Starved => self.give_back(claim, end),
        }
    }

    fn give_back(&mut self, mut claim: Claim<'_, Connection>, end: TurnEnd) -> bool {
        let (shared, counters) = (self.shared, self.counters);
        match end {
            TurnEnd::Starved => {
                counters.starved.add(1);
                starve(shared, claim);
                false
            }
            _ => {
                watch_on(shared, &mut claim);
                match claim.release() {
                    Released::Idle => false,
                    Released::Again => {
                        counters.again.add(1);
                        true
                    }
                }
            }
        }
    }

    fn close(&mut self, claim: Claim<'_, Connection>, closed: Closed) {
        let (shared, counters) = (self.shared, self.counters);
        // The key is stale from here on; only then is the socket dropped, which takes it out of the poller.
        let Connection { mut session, socket, .. } = claim.close();
        session.release(&mut self.leases);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(session)));
        let closed = if dropped.is_ok() { closed } else { Closed::Panicked };
        counters.closed[closed as usize].add(1);
        // Last: who sees the end of the connection finds it counted.
        drop(socket);
        if shared.draining.load(Ordering::SeqCst) && shared.table.live() == 0 {
            shared.poller.wake();
        }
    }
}

/// Which timeout the session has run into, at the end of a turn that moved nothing.
fn poll_overdue(shared: &Shared, claim: &Claim<'_, Connection>) -> Option<Closed> {
    let slot = claim.slot();
    // The slot's tick first: the poller stores its own before the slot's, so that this one cannot be the older.
    let last_ready_tick = slot.last_ready_tick.load(Ordering::Acquire);
    let blocked_tick = slot.blocked_tick.load(Ordering::Relaxed);
    let tick = shared.by_poller.tick.load(Ordering::Acquire);
    let is_over = |since: u32, limit_ticks: u32| ticks_since(tick, since) >= limit_ticks;
    if blocked_tick != 0 && is_over(blocked_tick, shared.write_ticks.load(Ordering::Relaxed)) {
        Some(if claim.session.is_lingering() { Closed::Finished } else { Closed::WriteTimeout })
    } else if !claim.idle_exempt && is_over(last_ready_tick, shared.idle_ticks.load(Ordering::Relaxed)) {
        Some(Closed::IdleTimeout)
    } else {
        None
    }
}

/// Writes down since when the peer takes nothing of what it is owed, or owes its FIN after ours.
fn note_blocked(shared: &Shared, claim: &mut Claim<'_, Connection>, moved: bool) {
    let slot = claim.slot();
    let blocked = claim.session.is_write_blocked() || claim.session.is_lingering();
    let was_blocked = slot.blocked_tick.load(Ordering::Relaxed) != 0;
    if blocked && (moved || !was_blocked) {
        let tick = shared.by_poller.tick.load(Ordering::Acquire);
        slot.blocked_tick.store(tick.max(1), Ordering::Relaxed);
    } else if !blocked && was_blocked {
        slot.blocked_tick.store(0, Ordering::Relaxed);
    }
}

/// Asks the poller for what the session waits for, as far as it is not watched for ever.
fn watch_on(shared: &Shared, claim: &mut Claim<'_, Connection>) {
    let key = claim.key().to_u64();
    let blocked = claim.session.is_write_blocked();
    let asked = match shared.settings.rearm {
        Rearm::Edge if blocked && !claim.watches_output => {
            claim.watches_output = true;
            shared.poller.watch_edge_output(claim.socket.as_fd(), key)
        }
        Rearm::Edge => Ok(()),
        Rearm::Oneshot => shared.poller.rearm(claim.socket.as_fd(), key, claim.session.wants_input(), blocked),
    };
    asked.expect("a session's socket is watched from its first turn to its last");
}

/// Puts the session aside until there is memory for its ring.
fn starve(shared: &Shared, claim: Claim<'_, Connection>) {
    let key = claim.key();
    // Requeued under the lock: the poller, when it schedules all sessions to end, finds each either running or here.
    let mut starving = shared.starving.lock().expect("no thread panics while it holds this lock");
    claim.requeue(Reasons::RESUME);
    if starving.is_empty() {
        shared.warn_starving();
    }
    starving.push_back(Request { key, ready_ns: shared.ready_ns() });
    shared.budget.awaited.store(true, Ordering::SeqCst);
}

/// One worker thread.
pub(super) struct Worker<'a> {
    shared: &'a Shared,
    turns: Turns<'a>,
    number: usize,
    /// Requests that found no room in the queue, oldest first; run by this worker if there is still none.
    carried: VecDeque<Request>,
    /// Turns since this worker last parked.
    streak: u64,
    /// Turns since `paced_ns`.
    paced_turns: u64,
    paced_ns: u64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Shared, number: usize) -> Worker<'a> {
        Worker {
            turns: Turns::new(shared, number),
            number,
            carried: VecDeque::with_capacity(CARRIED_MOST + 2),
            streak: 0,
            paced_turns: 0,
            paced_ns: shared.clock.now_ns(),
            shared,
        }
    }

    pub(super) fn run(mut self) {
        self.shared.idle.occupy(self.number);
        loop {
            match self.take() {
                Some(request) => self.serve(request),
                None => {
                    if !self.rest() {
                        return;
                    }
                }
            }
        }
    }

    /// The next request to serve. Whoever waits in a full queue is not overtaken by what this worker carries: it takes
    /// the oldest there first, which makes room for the carried behind all others.
    fn take(&mut self) -> Option<Request> {
        let shared = self.shared;
        let request = if self.carried.len() > CARRIED_MOST { None } else { shared.queue.try_take() };
        while let Some(&carried) = self.carried.front()
            && shared.queue.try_put(carried).is_ok()
        {
            self.carried.pop_front();
            self.wake_for_put_back();
        }
        let seat = &shared.poller_seat;
        if seat.wake_if(|| self.is_low(request.is_none())) {
            self.turns.counters.poller_wakes.add(1);
        }
        if request.is_some() {
            return request;
        }
        let carried = self.carried.pop_front()?;
        self.turns.counters.carried.add(1);
        Some(carried)
    }

    /// Whether the parked poller wants to hear of the queue as it is after a take that found it empty, or not.
    fn is_low(&self, empty: bool) -> bool {
        let low_water = self.shared.by_poller.park_low_water.load(Ordering::Relaxed);
        empty || (low_water != NONE_LEFT && self.shared.queue.len() <= low_water)
    }

    fn serve(&mut self, request: Request) {
        for again in self.turns.run(request).into_iter().flatten() {
            self.put_back(again);
        }
        self.streak += 1;
        self.paced_turns += 1;
        if self.paced_turns == TIMED_TURNS {
            self.note_pace();
        }
    }

    /// Queues a session without waiting. When it is not alone there, this worker may be a long time coming back for
    /// it, and the poller, which rechecks only what it queued itself, may sleep: so an idle worker is woken now.
    fn put_back(&mut self, request: Request) {
        let shared = self.shared;
        if !self.carried.is_empty() || shared.queue.try_put(request).is_err() {
            self.carried.push_back(request);
        } else {
            self.wake_for_put_back();
        }
    }

    fn wake_for_put_back(&self) {
        let shared = self.shared;
        if shared.queue.len() > 1 && shared.idle.wake_one().is_some() {
            // The poller did not call this one: it is not to measure a wake from whenever the poller called last.
            shared.by_poller.woken_ns.store(0, Ordering::Relaxed);
            self.turns.counters.worker_wakes.add(1);
        }
    }

    /// Waits until there may be something to take. False when the pool has stopped.
    fn rest(&mut self) -> bool {
        self.note_pace();
        if self.look_again() {
            self.paced_ns = self.shared.clock.now_ns();
            return true;
        }
        let shared = self.shared;
        if shared.budget.awaited.load(Ordering::SeqCst) {
            self.turns.leases.clear();
        }
        let has_work = || shared.queue.len() > 0 || shared.stopping.load(Ordering::SeqCst);
        if shared.idle.sleep_unless(self.number, has_work) {
            self.turns.counters.parks.add(1);
            let woken_ns = shared.by_poller.woken_ns.swap(0, Ordering::Relaxed);
            if woken_ns != 0 {
                shared.estimates.wake_cost.note(shared.clock.now_ns().saturating_sub(woken_ns));
            }
        }
        self.streak = 0;
        self.paced_ns = shared.clock.now_ns();
        // What was queued before the pool stopped has been served: a session in the queue lives, and none does.
        !shared.stopping.load(Ordering::SeqCst)
    }

    /// Looks at the queue for a while before sleeping, as configured and as the last moments suggest.
    fn look_again(&self) -> bool {
        let shared = self.shared;
        if !shared.settings.spin.is_zero() {
            let until_ns = shared.clock.now_ns() + shared.settings.spin.as_nanos() as u64;
            while shared.clock.now_ns() < until_ns {
                if shared.queue.len() > 0 || shared.stopping.load(Ordering::Relaxed) {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        if self.streak < STREAK {
            return false;
        }
        (0..YIELDS).any(|_| {
            self.turns.counters.yields.add(1);
            std::thread::yield_now();
            shared.queue.len() > 0
        })
    }

    /// Folds the turns since the last look at the clock into the shared average.
    fn note_pace(&mut self) {
        if self.paced_turns == 0 {
            return;
        }
        let now_ns = self.shared.clock.now_ns();
        let turn_ns = (now_ns - self.paced_ns) / self.paced_turns;
        self.shared.estimates.turn_times.note_worker(turn_ns);
        self.paced_turns = 0;
        self.paced_ns = now_ns;
    }
}
