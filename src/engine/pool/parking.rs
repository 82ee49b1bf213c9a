//! Where threads of the pool sleep: idle workers in a stack, the poller on its own seat.
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
//!
//! The looks are at indices that `crossbeam-channel` writes with sequentially consistent read-modify-writes and the
//! flags here are sequentially consistent too, so that all of them have one order. Checked under loom with a queue
//! behind a lock, which gives the same order.

use std::sync::OnceLock;
#[cfg(not(loom))]
use std::time::Duration;

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, thread};

/// The workers that sleep, the one that lay down last on top: it is the one with the warmest cache.
pub(super) struct IdleStack {
    sleepers: Mutex<Vec<usize>>,
    /// Length of `sleepers`. Written under its lock, read without it.
    len: AtomicUsize,
    seats: Box<[Seat]>,
}

/// Where one thread sleeps.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Seat {
    /// True from the moment the owner says that it will sleep until somebody, perhaps itself, takes that back.
    sleeping: AtomicBool,
    owner: OnceLock<thread::Thread>,
}

impl Seat {
    /// Makes the calling thread the one that sleeps here; once.
    pub(super) fn occupy(&self) {
        assert!(self.owner.set(thread::current()).is_ok(), "a seat has one owner");
    }

    /// Says that the owner will sleep unless it is woken from here on.
    pub(super) fn lie_down(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
    }

    /// Takes that back.
    pub(super) fn get_up(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Whether the owner sleeps or is about to. Cheap: workers ask after every request.
    pub(super) fn is_sleeping(&self) -> bool {
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
    pub(super) fn sleep_at_most(&self, limit: Duration) {
        if self.is_sleeping() {
            thread::park_timeout(limit);
        }
        self.get_up();
    }

    /// Wakes the owner if it sleeps and nobody else has woken it; whether this call did.
    pub(super) fn wake(&self) -> bool {
        let woken = self.sleeping.swap(false, Ordering::SeqCst);
        if woken {
            self.unpark();
        }
        woken
    }

    fn unpark(&self) {
        self.owner.get().expect("only an occupied seat sleeps").unpark();
    }
}

impl IdleStack {
    pub(super) fn new(workers: usize) -> IdleStack {
        IdleStack {
            sleepers: Mutex::new(Vec::with_capacity(workers)),
            len: AtomicUsize::new(0),
            seats: (0..workers).map(|_| Seat::default()).collect(),
        }
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
    pub(super) fn enter(&self, worker: usize) {
        let mut sleepers = self.lock();
        sleepers.push(worker);
        self.len.store(sleepers.len(), Ordering::SeqCst);
        self.seats[worker].lie_down();
    }

    /// `worker` has found work after all. If a waker has taken it off the stack meanwhile, that wake is used up here.
    pub(super) fn leave(&self, worker: usize) {
        let mut sleepers = self.lock();
        sleepers.retain(|&sleeper| sleeper != worker);
        self.len.store(sleepers.len(), Ordering::SeqCst);
        self.seats[worker].get_up();
    }

    /// Sleeps until a waker has taken `worker` off the stack.
    pub(super) fn sleep(&self, worker: usize) {
        self.seats[worker].sleep();
    }

    /// Wakes the worker that lay down last; whether there was one.
    pub(super) fn wake_one(&self) -> bool {
        if self.len() == 0 {
            return false;
        }
        let mut sleepers = self.lock();
        let Some(worker) = sleepers.pop() else { return false };
        // The waker takes the sleeper off, not the sleeper itself: between the wake and the sleeper's next step others
        // would count it as idle and wake it again. Its flag changes under the same lock, or a worker that left and
        // lay down again in between would be woken and yet stay on the stack.
        self.len.store(sleepers.len(), Ordering::SeqCst);
        self.seats[worker].get_up();
        drop(sleepers);
        self.seats[worker].unpark();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.sleepers.lock().expect("no thread panics while it holds this lock")
    }
}
