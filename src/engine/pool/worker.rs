//! Workers: take a request, run the turn, hand the session on; rest when there is nothing to take.
//!
//! [`Reactor::run`](crate::engine::reactor::Reactor::run) runs one turn of one session; [`Worker`] is the loop around it.
//!
//! A worker takes one request at a time. Taking several would save a few tens of nanoseconds each, and let the second
//! one wait behind a first that takes 30 ms while another worker sleeps.
//!
//! Read next: `../parking.rs`.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::wake_rule::TIMED_TURNS;
use super::{NONE_LEFT, Shared};
use crate::engine::reactor::Request;
use crate::engine::turns::Turns;

/// Turns since it last parked after which a worker gives up its processor a few times before it parks again: work
/// came thick, and somebody who brings more may be waiting for just this processor.
const STREAK: u64 = 8;

/// How many times it does.
const YIELDS: usize = 4;

/// Requests that a worker carries before it serves those rather than take more from a full queue.
const CARRIED_MOST: usize = 1;

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
            turns: shared.turns(number),
            number,
            carried: VecDeque::with_capacity(CARRIED_MOST + 2),
            streak: 0,
            paced_turns: 0,
            paced_ns: shared.common.clock.now_ns(),
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
            self.turns.counters().poller_wakes.add(1);
        }
        if request.is_some() {
            return request;
        }
        let carried = self.carried.pop_front()?;
        self.turns.counters().carried.add(1);
        Some(carried)
    }

    /// Whether the parked poller wants to hear of the queue as it is after a take that found it empty, or not.
    fn is_low(&self, empty: bool) -> bool {
        let low_water = self.shared.by_poller.park_low_water.load(Ordering::Relaxed);
        empty || (low_water != NONE_LEFT && self.shared.queue.len() <= low_water)
    }

    fn serve(&mut self, request: Request) {
        for again in self.shared.reactor.run(&mut self.turns, request).into_iter().flatten() {
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
            self.turns.counters().worker_wakes.add(1);
        }
    }

    /// Waits until there may be something to take. False when the pool has stopped.
    fn rest(&mut self) -> bool {
        self.note_pace();
        if self.look_again() {
            self.paced_ns = self.shared.common.clock.now_ns();
            return true;
        }
        let shared = self.shared;
        if shared.reactor.budget.awaited.load(Ordering::SeqCst) {
            self.turns.give_up_rings();
        }
        let has_work = || shared.queue.len() > 0 || shared.stopping.load(Ordering::SeqCst);
        if shared.idle.sleep_unless(self.number, has_work) {
            self.turns.counters().parks.add(1);
            let woken_ns = shared.by_poller.woken_ns.swap(0, Ordering::Relaxed);
            if woken_ns != 0 {
                shared.estimates.wake_cost.note(shared.common.clock.now_ns().saturating_sub(woken_ns));
            }
        }
        self.streak = 0;
        self.paced_ns = shared.common.clock.now_ns();
        // What was queued before the pool stopped has been served: a session in the queue lives, and none does.
        !shared.stopping.load(Ordering::SeqCst)
    }

    /// Looks at the queue for a while before sleeping, as configured and as the last moments suggest.
    fn look_again(&self) -> bool {
        let shared = self.shared;
        if !shared.settings().spin.is_zero() {
            let until_ns = shared.common.clock.now_ns() + shared.settings().spin.as_nanos() as u64;
            while shared.common.clock.now_ns() < until_ns {
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
            self.turns.counters().yields.add(1);
            std::thread::yield_now();
            shared.queue.len() > 0
        })
    }

    /// Folds the turns since the last look at the clock into the shared average.
    fn note_pace(&mut self) {
        if self.paced_turns == 0 {
            return;
        }
        let now_ns = self.shared.common.clock.now_ns();
        let turn_ns = (now_ns - self.paced_ns) / self.paced_turns;
        self.shared.estimates.turn_times.note_worker(turn_ns);
        self.paced_turns = 0;
        self.paced_ns = now_ns;
    }
}
