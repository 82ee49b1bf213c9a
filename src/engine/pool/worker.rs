//! Workers: take a request, run the turn, hand the session on; rest when there is nothing to take.
//!
//! [`Reactor::run`](crate::engine::reactor::Reactor::run) runs one turn of one session; [`Worker`] is the loop around it.
//!
//! A worker takes one request at a time. Taking several would save a few tens of nanoseconds each, and let the second
//! one wait behind a first that takes 30 ms while another worker sleeps.
//!
//! A worker that is to go (`../roster.rs`) finishes the request that it is in, takes nothing more, and hands on what it has.
//!
//! Read next: `../parking.rs`.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::wake_rule::TIMED_TURNS;
use super::{NONE_LEFT, Shared};
use crate::engine::reactor::Request;
use crate::engine::roster::Place;
use crate::engine::turns::Turns;
use crate::metrics::counters::TurnCounters;

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
    place: &'a Place,
    turns: Turns<'a>,
    number: usize,
    back: WayBack<'a>,
    /// Turns since this worker last parked.
    streak: u64,
    /// Turns since `paced_ns`.
    paced_turns: u64,
    paced_ns: u64,
}

/// The way back into the queue, for what the worker's turns leave to be served.
struct WayBack<'a> {
    shared: &'a Shared,
    counters: &'a TurnCounters,
    /// Requests that found no room in the queue, oldest first; run by this worker if there is still none.
    carried: VecDeque<Request>,
}

impl WayBack<'_> {
    /// Queues a request without waiting. When it is not alone there, this worker may be a long time coming back for
    /// it, and the poller, which rechecks only what it queued itself, may sleep: so an idle worker is woken now. Where there
    /// are calls nothing is alone: this worker may have one to run first, however long it takes. What finds no room is then
    /// left to the poller, which queues it when there is some.
    fn put(&mut self, request: Request) {
        let has_calls = self.shared.common.needs.mail();
        // Calls are never carried, also if the first service that makes some came while something is.
        if !has_calls && !self.carried.is_empty() {
            self.carried.push_back(request);
            return;
        }
        match self.shared.queue.try_put(request) {
            Ok(()) => self.wake_for_put(has_calls),
            Err(request) if has_calls => self.shared.reactor.leave(request),
            Err(request) => self.carried.push_back(request),
        }
    }

    /// Puts what it carries into the queue, as far as there is room.
    fn put_carried(&mut self) {
        while let Some(request) = self.carried.pop_front() {
            if let Err(request) = self.shared.queue.try_put(request) {
                self.carried.push_front(request);
                return;
            }
            self.wake_for_put(false);
        }
    }

    fn wake_for_put(&self, has_calls: bool) {
        let shared = self.shared;
        if (has_calls || shared.queue.len() > 1) && shared.idle.wake_one().is_some() {
            self.note_wake();
        }
    }

    /// This worker has woken another one.
    fn note_wake(&self) {
        // The poller did not call that one: it is not to measure a wake from whenever the poller called last.
        self.shared.by_poller.woken_ns.store(0, Ordering::Relaxed);
        self.counters.worker_wakes.add(1);
    }
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Shared, number: usize) -> Worker<'a> {
        let place = &shared.roster.places[number];
        Worker {
            place,
            turns: shared.turns(place).numbered(number),
            number,
            back: WayBack { shared, counters: &place.counters, carried: VecDeque::with_capacity(CARRIED_MOST + 2) },
            streak: 0,
            paced_turns: 0,
            paced_ns: shared.common.clock.now_ns(),
            shared,
        }
    }

    pub(super) fn run(mut self) {
        self.shared.idle.occupy(self.number);
        loop {
            // Looked at before the queue: what was put there until the pool stopped is taken.
            let has_stopped = self.shared.stopping.load(Ordering::SeqCst);
            if self.place.is_to_go() && !has_stopped {
                break;
            }
            match self.take() {
                Some(request) => self.serve(request),
                None if has_stopped => break,
                None => self.rest(),
            }
        }
        self.leave();
    }

    /// Hands on what it has: what it carries to the poller, which queues it when there is room; and the wake that it may have
    /// had for a request which it does not take (*wake-passed-on*).
    fn leave(self) {
        let Worker { shared, number, turns, mut back, .. } = self;
        back.carried.drain(..).for_each(|request| shared.reactor.leave(request));
        // Gives its rings back.
        drop(turns);
        if shared.idle.pass_wake_on(|| shared.queue.len() > 0).is_some() {
            back.note_wake();
        }
        shared.roster.leave(number);
    }

    /// The next request to serve. Whoever waits in a full queue is not overtaken by what this worker carries: it takes
    /// the oldest there first, which makes room for the carried behind all others.
    fn take(&mut self) -> Option<Request> {
        let shared = self.shared;
        let request = if self.back.carried.len() > CARRIED_MOST { None } else { shared.queue.try_take() };
        self.back.put_carried();
        let seat = &shared.poller_seat;
        if seat.wake_if(|| self.is_low(request.is_none())) {
            self.turns.counters().poller_wakes.add(1);
        }
        if request.is_some() {
            return request;
        }
        let carried = self.back.carried.pop_front()?;
        self.turns.counters().carried.add(1);
        Some(carried)
    }

    /// Whether the parked poller wants to hear of the queue as it is after a take that found it empty, or not.
    fn is_low(&self, empty: bool) -> bool {
        let low_water = self.shared.by_poller.park_low_water.load(Ordering::Relaxed);
        empty || (low_water != NONE_LEFT && self.shared.queue.len() <= low_water)
    }

    fn serve(&mut self, request: Request) {
        let Worker { turns, back, .. } = self;
        self.shared.reactor.run(turns, request, &mut |next| back.put(next));
        self.streak += 1;
        self.paced_turns += 1;
        if self.paced_turns == TIMED_TURNS {
            self.note_pace();
        }
    }

    /// Waits until there may be something to take, or the pool has stopped.
    fn rest(&mut self) {
        self.note_pace();
        if self.look_again() {
            self.paced_ns = self.shared.common.clock.now_ns();
            return;
        }
        let shared = self.shared;
        if shared.reactor.budget.awaited.load(Ordering::SeqCst) {
            self.turns.give_up_rings();
        }
        let has_work = || shared.queue.len() > 0 || shared.stopping.load(Ordering::SeqCst) || self.place.is_to_go();
        if shared.idle.sleep_unless(self.number, has_work) {
            self.turns.counters().parks.add(1);
            let woken_ns = shared.by_poller.woken_ns.swap(0, Ordering::Relaxed);
            if woken_ns != 0 {
                shared.estimates.wake_cost.note(shared.common.clock.now_ns().saturating_sub(woken_ns));
            }
        }
        self.streak = 0;
        self.paced_ns = shared.common.clock.now_ns();
    }

    /// Looks at the queue for a while before sleeping, as configured and as the last moments suggest.
    fn look_again(&self) -> bool {
        let shared = self.shared;
        let spin_ns = shared.common.orders().spin_ns();
        if spin_ns > 0 {
            let until_ns = shared.common.clock.now_ns() + spin_ns;
            while shared.common.clock.now_ns() < until_ns {
                if shared.queue.len() > 0 || shared.stopping.load(Ordering::Relaxed) || self.place.is_to_go() {
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
