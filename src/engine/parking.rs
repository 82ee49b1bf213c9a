//! Where threads sleep that others wake: idle workers, or followers, in a stack; the pool's poller on a seat of its own.
//!
//! Both sleeps are the same bargain. The sleeper first says that it will sleep, then looks once more at what it waits
//! for; the waker first changes that, then looks whether anybody sleeps. Whichever of the two looks later sees the
//! other, so one of them acts.
//!
//! Invariants:
//! - *no-missed-wake*: a request put into the queue while a worker lies down is seen by that worker's last look, or
//!   that worker is seen by the waker.
//! - *wake-one-once*: a worker leaves the stack of the idle exactly once per sleep, taken by the waker, who thereby owes
//!   it an unpark; or by itself, when its last look found work.
//! - *wake-passed-on*: a worker that goes, and may have been woken for work that it does not take, looks whether there is
//!   some when nobody counts on it any more, and wakes another one for it.
//!
//! The looks are at indices that `crossbeam-channel` writes with sequentially consistent read-modify-writes and reads
//! with sequentially consistent loads, and the flags here are sequentially consistent too, so that all of them have one
//! order. `loom_models` below check both sleeps under loom. Loom takes such loads and stores for weaker ones (acquire
//! and release), and could not see that order; in the models it comes from the lock of the queue's stand-in, which a
//! put or a take and a last look both hold: whichever is later sees all that was done before the earlier one.

use std::time::Duration;

use super::growing::Growing;
use crate::config::MAX_WORKERS;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, thread};

/// The workers that sleep, the one that lay down last on top: it is the one with the warmest cache.
#[repr(align(128))]
pub(super) struct IdleStack {
    sleepers: Mutex<Vec<usize>>,
    /// Length of `sleepers`. Written under its lock, read without it.
    len: AtomicUsize,
    /// By number of the worker. Made before the first worker of that number begins.
    seats: Growing<Seat>,
}

/// Seats that there can be; loom makes all places anew for every interleaving.
const MOST_SEATS: usize = if cfg!(loom) { 4 } else { MAX_WORKERS };

/// Where one thread sleeps.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Seat {
    /// True from the moment the owner says that it will sleep until somebody, perhaps itself, takes that back.
    sleeping: AtomicBool,
    /// Who sleeps here. Written by each owner as it comes; a wake that is still meant for the one before finds this one
    /// awake, or ends a sleep that begins again. Not seen by loom: no more than a handle is read under the lock.
    owner: std::sync::Mutex<Option<thread::Thread>>,
}

impl Seat {
    /// Makes the calling thread the one that sleeps here. The one before it, if there was one, has gone.
    pub(super) fn occupy(&self) {
        let before = self.owner().replace(thread::current());
        debug_assert!(!self.is_sleeping(), "who has gone does not sleep");
        drop(before);
    }

    fn owner(&self) -> std::sync::MutexGuard<'_, Option<thread::Thread>> {
        self.owner.lock().expect("no thread panics while it holds this lock")
    }

    /// Says that the owner will sleep unless it is woken from here on.
    fn lie_down(&self) {
        // A swap, as in `get_up`, where a store would do: x86 does the same for both. Loom knows which of two changes
        // came later only if the later one reads the earlier, and else reports failures that cannot be.
        self.sleeping.swap(true, Ordering::SeqCst);
    }

    /// Takes that back.
    fn get_up(&self) {
        self.sleeping.swap(false, Ordering::SeqCst);
    }

    /// Whether the owner sleeps or is about to. Cheap: workers ask after every request.
    fn is_sleeping(&self) -> bool {
        self.sleeping.load(Ordering::SeqCst)
    }

    /// Sleeps until woken.
    fn sleep(&self) {
        while self.sleeping.load(Ordering::Acquire) {
            thread::park();
        }
    }

    /// Sleeps until woken, or until `limit` has passed.
    #[cfg(not(loom))]
    fn sleep_at_most(&self, limit: Duration) {
        if self.is_sleeping() {
            thread::park_timeout(limit);
        }
        self.get_up();
    }

    /// Sleeps until woken. The limit only makes a missed wake cheaper, so that the models do without.
    #[cfg(loom)]
    fn sleep_at_most(&self, _limit: Duration) {
        self.sleep();
    }

    /// Sleeps until woken, or until `limit` has passed, unless what the owner waits for `has_come` already when it has
    /// said that it will sleep. Whether it slept.
    pub(super) fn sleep_unless(&self, limit: Duration, has_come: impl FnOnce() -> bool) -> bool {
        self.lie_down();
        if has_come() {
            self.get_up();
            return false;
        }
        self.sleep_at_most(limit);
        true
    }

    /// Wakes the owner if it sleeps and what it waits for `has_come`; whether this call did. For those who have just
    /// brought it.
    pub(super) fn wake_if(&self, has_come: impl FnOnce() -> bool) -> bool {
        self.is_sleeping() && has_come() && self.wake()
    }

    /// Wakes the owner if it sleeps and nobody else has woken it; whether this call did.
    fn wake(&self) -> bool {
        let woken = self.sleeping.swap(false, Ordering::SeqCst);
        if woken {
            self.unpark();
        }
        woken
    }

    fn unpark(&self) {
        let owner = self.owner().clone();
        owner.expect("only an occupied seat sleeps").unpark();
    }
}

impl IdleStack {
    pub(super) fn new(workers: usize) -> IdleStack {
        let idle =
            IdleStack { sleepers: Mutex::new(Vec::new()), len: AtomicUsize::new(0), seats: Growing::new(MOST_SEATS) };
        idle.make_seats(workers);
        idle
    }

    /// Sees to it that there are seats for the workers of all numbers below `workers`; for one thread at a time.
    pub(super) fn make_seats(&self, workers: usize) {
        while self.seats.len() < workers {
            self.seats.push(Seat::default());
        }
        // So that none of them needs memory to lie down.
        let mut sleepers = self.lock();
        let more = workers.saturating_sub(sleepers.len());
        sleepers.reserve(more);
    }

    /// Makes the calling thread the worker of this number.
    pub(super) fn occupy(&self, worker: usize) {
        self.seats[worker].occupy();
    }

    /// Workers that sleep or are about to.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::SeqCst)
    }

    /// Whether this worker sleeps or is about to.
    pub(super) fn is_idle(&self, worker: usize) -> bool {
        self.seats[worker].is_sleeping()
    }

    /// Says that `worker` will sleep. It must look at the queue once more, then `sleep` or `leave`.
    fn enter(&self, worker: usize) {
        let mut sleepers = self.lock();
        sleepers.push(worker);
        self.len.store(sleepers.len(), Ordering::SeqCst);
        self.seats[worker].lie_down();
    }

    /// `worker` has found work after all. If a waker has taken it off the stack meanwhile, that wake is used up here.
    fn leave(&self, worker: usize) {
        let mut sleepers = self.lock();
        sleepers.retain(|&sleeper| sleeper != worker);
        self.len.store(sleepers.len(), Ordering::SeqCst);
        self.seats[worker].get_up();
    }

    /// Sleeps until a waker has taken `worker` off the stack.
    fn sleep(&self, worker: usize) {
        self.seats[worker].sleep();
    }

    /// Sleeps until a waker takes `worker` off the stack, unless it `has_work` after all when it has said that it will
    /// sleep. Whether it slept.
    pub(super) fn sleep_unless(&self, worker: usize, has_work: impl FnOnce() -> bool) -> bool {
        self.enter(worker);
        if has_work() {
            self.leave(worker);
            return false;
        }
        self.sleep(worker);
        true
    }

    /// Wakes this worker if it sleeps, so that it looks at what the caller has changed for it before.
    pub(super) fn rouse(&self, worker: usize) {
        let mut sleepers = self.lock();
        let before = sleepers.len();
        sleepers.retain(|&sleeper| sleeper != worker);
        self.len.store(sleepers.len(), Ordering::SeqCst);
        if sleepers.len() < before {
            self.seats[worker].wake();
        }
    }

    /// For a worker that goes, when nobody counts on it any more: wakes another one, if there `has_come` what this one was
    /// perhaps woken for. The one that was woken.
    pub(super) fn pass_wake_on(&self, has_come: impl FnOnce() -> bool) -> Option<usize> {
        if has_come() { self.wake_one() } else { None }
    }

    /// Wakes all who sleep, for the last time. Takes the lock even if nobody seems to sleep: who lies down after that
    /// sees on its last look what the caller did before.
    pub(super) fn wake_all(&self) {
        let mut sleepers = self.lock();
        self.len.store(0, Ordering::SeqCst);
        for worker in sleepers.drain(..) {
            self.seats[worker].wake();
        }
    }

    /// Wakes the worker that lay down last and returns its number; None if nobody sleeps.
    pub(super) fn wake_one(&self) -> Option<usize> {
        if self.len() == 0 {
            return None;
        }
        let mut sleepers = self.lock();
        let worker = sleepers.pop()?;
        // The waker takes the sleeper off, not the sleeper itself: between the wake and the sleeper's next step others
        // would count it as idle and wake it again. Its flag changes under the same lock, or a worker that left and
        // lay down again in between would be woken and yet stay on the stack.
        self.len.store(sleepers.len(), Ordering::SeqCst);
        self.seats[worker].get_up();
        drop(sleepers);
        self.seats[worker].unpark();
        Some(worker)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.sleepers.lock().expect("no thread panics while it holds this lock")
    }
}

/// Of a thread that waits in the kernel, where a flag of ours would not end its wait: whether it must be woken there by who
/// leaves something for it. The same bargain as a [`Seat`]'s, and told once per wait.
#[derive(Default)]
pub(super) struct Doze(AtomicBool);

impl Doze {
    /// The thread waits, or is about to. What was left before this, it sees by a look that follows.
    pub(super) fn lie_down(&self) {
        self.0.swap(true, Ordering::SeqCst);
    }

    /// It has waited.
    pub(super) fn get_up(&self) {
        self.0.swap(false, Ordering::SeqCst);
    }

    /// Whether the caller, who has just left something, is the one who must end the wait.
    #[must_use]
    pub(super) fn must_wake(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

#[cfg(all(test, loom))]
mod loom_models;
