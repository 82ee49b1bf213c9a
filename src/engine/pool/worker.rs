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

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log::error;

use super::service_queue::Request;
use super::wake_rule::PACE_TURNS;
use super::{Connection, NONE_LEFT, Shared};
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

    /// Gives the session its turn. Returns a request that is to go into the queue now: this session's, if it wants
    /// another turn, or one that waited for the memory that this turn gave back.
    pub(super) fn run(&mut self, request: Request) -> Option<Request> {
        let shared = self.shared;
        self.counters.turns.add(1);
        let taken_ns = shared.ready_ns();
        let again = self.turn(shared.table.claim(request.key));
        if shared.settings.stages {
            self.stages.record(request.ready_ns, taken_ns, shared.clock.now_ns());
        }
        if again {
            return Some(Request { key: request.key, ready_ns: shared.ready_ns() });
        }
        if shared.budget.awaited.load(Ordering::SeqCst) { shared.poll_starving() } else { None }
    }

    /// True if the session is queued again.
    fn turn(&mut self, mut claim: Claim<'_, Connection>) -> bool {
        let (shared, counters) = (self.shared, self.counters);
        let reasons = claim.reasons();
        if let Some(closed) = poll_closed(shared, &claim, reasons) {
            self.close(claim, closed);
            return false;
        }
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
        match end {
            TurnEnd::Closed(closed) => {
                self.close(claim, closed);
                false
            }
            TurnEnd::Again => {
                counters.budget_stops.add(1);
                claim.requeue(Reasons::RESUME);
                true
            }
            TurnEnd::Starved => {
                counters.starved.add(1);
                starve(shared, claim);
                false
            }
            TurnEnd::Idle => {
                note_blocked(shared, &mut claim, tally.written_bytes > 0);
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
        let mut connection = claim.close();
        connection.session.release(&mut self.leases);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(connection)));
        let closed = if dropped.is_ok() { closed } else { Closed::Panicked };
        counters.closed[closed as usize].add(1);
        if shared.draining.load(Ordering::SeqCst) && shared.table.live() == 0 {
            shared.poller.wake();
        }
    }
}

/// Whether one of the reasons ends the session without another look at it.
fn poll_closed(shared: &Shared, claim: &Claim<'_, Connection>, reasons: Reasons) -> Option<Closed> {
    if !reasons.intersects(Reasons::KILL | Reasons::DRAIN_OVER | Reasons::TIMER) {
        return None;
    }
    if reasons.intersects(Reasons::KILL) {
        return Some(Closed::Killed);
    }
    if reasons.intersects(Reasons::DRAIN_OVER) {
        return Some(Closed::Drained);
    }
    let slot = claim.slot();
    let tick = shared.tick.load(Ordering::Relaxed);
    let idle_ticks = tick.wrapping_sub(slot.last_ready_tick.load(Ordering::Relaxed));
    let blocked_tick = slot.blocked_tick.load(Ordering::Relaxed);
    let blocked_ticks = tick.wrapping_sub(blocked_tick);
    if blocked_tick != 0 && blocked_ticks >= shared.write_ticks.load(Ordering::Relaxed) {
        Some(Closed::WriteTimeout)
    } else if !claim.idle_exempt && idle_ticks >= shared.idle_ticks.load(Ordering::Relaxed) {
        Some(Closed::IdleTimeout)
    } else {
        None
    }
}

/// Writes down since when the peer takes nothing, and asks the poller for what the session waits for.
fn note_blocked(shared: &Shared, claim: &mut Claim<'_, Connection>, moved: bool) {
    let key = claim.key().to_u64();
    let slot = claim.slot();
    let blocked = claim.session.is_write_blocked();
    let was_blocked = slot.blocked_tick.load(Ordering::Relaxed) != 0;
    if blocked && (moved || !was_blocked) {
        slot.blocked_tick.store(shared.tick.load(Ordering::Relaxed).max(1), Ordering::Relaxed);
    } else if !blocked && was_blocked {
        slot.blocked_tick.store(0, Ordering::Relaxed);
    }
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
    claim.requeue(Reasons::RESUME);
    let mut starving = shared.starving.lock().expect("no thread panics while it holds this lock");
    starving.push_back(Request { key, ready_ns: 0 });
    shared.budget.awaited.store(true, Ordering::SeqCst);
}

/// One worker thread.
pub(super) struct Worker<'a> {
    shared: &'a Shared,
    turns: Turns<'a>,
    number: usize,
    /// A request that found no room in the queue; run by this worker if there is still none.
    carried: Option<Request>,
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
            carried: None,
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

    fn take(&mut self) -> Option<Request> {
        let shared = self.shared;
        if let Some(carried) = self.carried.take()
            && let Err(carried) = shared.queue.try_put(carried)
        {
            self.turns.counters.carried.add(1);
            return Some(carried);
        }
        let request = shared.queue.try_take();
        if shared.poller_seat.is_sleeping() && self.is_low(request.is_none()) && shared.poller_seat.wake() {
            self.turns.counters.poller_wakes.add(1);
        }
        request
    }

    /// Whether the parked poller wants to hear of the queue as it is after a take that found it empty, or not.
    fn is_low(&self, empty: bool) -> bool {
        let low_water = self.shared.park_low_water.load(Ordering::Relaxed);
        empty || (low_water != NONE_LEFT && self.shared.queue.len() <= low_water)
    }

    fn serve(&mut self, request: Request) {
        self.streak += 1;
        self.paced_turns += 1;
        if self.paced_turns == PACE_TURNS {
            self.note_pace();
        }
        if let Some(again) = self.turns.run(request) {
            self.put_back(again);
        }
    }

    /// Queues a session without waiting. When it is not alone there, this worker may be a long time coming back for
    /// it, and the poller, which rechecks only what it queued itself, may sleep: so an idle worker is woken now.
    fn put_back(&mut self, request: Request) {
        let shared = self.shared;
        if let Err(request) = shared.queue.try_put(request) {
            assert!(self.carried.is_none(), "take() makes room for what is carried before it takes more");
            self.carried = Some(request);
        } else if shared.queue.len() > 1 && shared.idle.wake_one().is_some() {
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
        shared.idle.enter(self.number);
        let stopping = shared.stopping.load(Ordering::SeqCst);
        if stopping || shared.queue.len() > 0 {
            shared.idle.leave(self.number);
        } else {
            self.turns.counters.parks.add(1);
            shared.idle.sleep(self.number);
            let woken_ns = shared.woken_ns.swap(0, Ordering::Relaxed);
            if woken_ns != 0 {
                shared.wake_cost.note(shared.clock.now_ns().saturating_sub(woken_ns));
            }
        }
        self.streak = 0;
        self.paced_ns = shared.clock.now_ns();
        !stopping
    }

    /// Looks at the queue for a while before sleeping, as configured and as the last moments suggest.
    fn look_again(&self) -> bool {
        let shared = self.shared;
        if !shared.settings.spin.is_zero() {
            let until_ns = shared.clock.now_ns() + shared.settings.spin.as_nanos() as u64;
            while shared.clock.now_ns() < until_ns {
                if shared.queue.len() > 0 {
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
        self.shared.pace.note_worker(turn_ns);
        self.paced_turns = 0;
        self.paced_ns = now_ns;
    }
}
