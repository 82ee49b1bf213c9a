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
//!
//! The looks are at indices that `crossbeam-channel` writes with sequentially consistent read-modify-writes and reads
//! with sequentially consistent loads, and the flags here are sequentially consistent too, so that all of them have one
//! order. `loom_models` below check both sleeps under loom. Loom takes such loads and stores for weaker ones (acquire
//! and release), and could not see that order; in the models it comes from the lock of the queue's stand-in, which a
//! put or a take and a last look both hold: whichever is later sees all that was done before the earlier one.

use std::sync::OnceLock;
use std::time::Duration;

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, thread};

/// The workers that sleep, the one that lay down last on top: it is the one with the warmest cache.
#[repr(align(128))]
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

/// The two sleeps with the queue's stand-in. A missed wake is a thread that sleeps for ever, which loom reports.
#[cfg(all(test, loom))]
mod loom_models {
    use std::sync::Arc;

    use super::super::pool::NONE_LEFT;
    use super::super::pool::service_queue::ServiceQueue;
    use super::super::reactor::{Request, Work};
    use super::*;
    use crate::session::table::Key;
    use crate::sync::model;

    /// Tells the worker that takes it to return.
    const LAST: u32 = 0;

    /// Several leave something for one who waits elsewhere: all of it is found, and nobody sleeps beside it.
    #[test]
    fn loom_what_is_left_for_one_who_dozes_is_found() {
        const LEAVERS: u32 = 2;
        model(|| {
            let (doze, has_left) = (Arc::new(Doze::default()), Arc::new(AtomicBool::new(false)));
            let left = Arc::new(Mutex::new(0));
            let kernel = Arc::new(Seat::default());
            kernel.occupy();
            let leavers: Vec<_> = (0..LEAVERS)
                .map(|_| {
                    let (doze, has_left, left, kernel) =
                        (Arc::clone(&doze), Arc::clone(&has_left), Arc::clone(&left), Arc::clone(&kernel));
                    thread::spawn(move || {
                        let mut left = left.lock().unwrap();
                        *left += 1;
                        has_left.store(true, Ordering::SeqCst);
                        drop(left);
                        if doze.must_wake() {
                            kernel.unpark();
                        }
                    })
                })
                .collect();
            let mut found = 0;
            while found < LEAVERS {
                doze.lie_down();
                if !has_left.load(Ordering::SeqCst) {
                    // A wake that comes early is used up here, as an event that the kernel keeps.
                    thread::park();
                }
                doze.get_up();
                let mut left = left.lock().unwrap();
                found += std::mem::take(&mut *left);
                has_left.store(false, Ordering::SeqCst);
            }
            leavers.into_iter().for_each(|leaver| leaver.join().unwrap());
        });
    }

    struct Pool {
        queue: ServiceQueue,
        idle: IdleStack,
        poller_seat: Seat,
        /// Of the poller's present park. Written by the poller before it lies down.
        low_water: AtomicUsize,
        workers: usize,
        /// Requests that have not been served.
        left: AtomicUsize,
    }

    impl Pool {
        fn new(workers: usize, requests: usize) -> Arc<Pool> {
            Arc::new(Pool {
                queue: ServiceQueue::new(4),
                idle: IdleStack::new(workers),
                poller_seat: Seat::default(),
                low_water: AtomicUsize::new(0),
                workers,
                left: AtomicUsize::new(requests),
            })
        }

        fn put(&self, index: u32) {
            let key = Key::from_u64(1 << 32 | u64::from(index)).unwrap();
            assert!(self.queue.try_put(Request::turn(key, 0)).is_ok(), "the models never fill the queue");
        }

        /// What the wake rule must do at the least: wake one when nobody is awake. Whoever is awake will look at the
        /// queue before it sleeps.
        fn wake_if_all_sleep(&self) {
            if self.idle.len() == self.workers {
                self.idle.wake_one();
            }
        }

        /// As workers do: one request, then a look at the poller's seat. The poller that wants none left hears of it
        /// from whoever finds the queue empty.
        fn take(&self) -> Option<u32> {
            let request = self.queue.try_take();
            self.poller_seat.wake_if(|| request.is_none() || self.is_at_most(self.low_water.load(Ordering::Relaxed)));
            request.map(|request| match request.work {
                Work::Turn(key) => key.index(),
                _ => unreachable!("the models make no calls and have no endpoints"),
            })
        }

        /// Takes requests until there is none.
        fn take_all(&self) {
            while self.take().is_some() {}
        }

        fn is_at_most(&self, low_water: usize) -> bool {
            low_water != NONE_LEFT && self.queue.len() <= low_water
        }

        /// As the poller does. A worker that looked at the seat before the poller last got up may wake it too early,
        /// so that it looks again.
        fn park_poller(&self, low_water: usize) {
            self.low_water.store(low_water, Ordering::SeqCst);
            let is_low = || self.queue.len() == 0 || self.is_at_most(low_water);
            while self.poller_seat.sleep_unless(Duration::MAX, is_low) {}
        }

        /// Serves requests and rests until one is the last; then tells the other workers, if any.
        fn work(&self, worker: usize) {
            self.idle.occupy(worker);
            loop {
                match self.take() {
                    None => {
                        self.idle.sleep_unless(worker, || self.queue.len() > 0);
                    }
                    Some(LAST) => return,
                    Some(_) => {
                        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                            assert_eq!(self.take(), None);
                            for _ in 1..self.workers {
                                self.put(LAST);
                                self.idle.wake_one();
                            }
                            return;
                        }
                    }
                }
            }
        }

        fn spawn_worker(self: &Arc<Pool>, worker: usize) -> thread::JoinHandle<()> {
            let pool = Arc::clone(self);
            thread::spawn(move || pool.work(worker))
        }

        fn assert_all_up(&self) {
            assert_eq!(self.idle.len(), 0, "wake-one-once");
            assert!(self.idle.lock().is_empty(), "wake-one-once");
            assert!((0..self.workers).all(|worker| !self.idle.is_idle(worker)), "wake-one-once");
            assert_eq!(self.queue.len(), 0);
        }
    }

    /// Two puts, each while the worker may be anywhere between its last take and its sleep.
    #[test]
    fn a_put_is_not_missed_by_a_worker_that_lies_down() {
        model(|| {
            let pool = Pool::new(1, 2);
            let worker = pool.spawn_worker(0);
            for index in [1, 2] {
                pool.put(index);
                pool.wake_if_all_sleep();
            }
            worker.join().unwrap();
            pool.assert_all_up();
        });
    }

    /// Two workers, and one that wakes only when nobody is awake.
    #[test]
    fn a_put_is_not_missed_by_two_workers() {
        model(|| {
            let pool = Pool::new(2, 2);
            let workers = [0, 1].map(|worker| pool.spawn_worker(worker));
            for index in [1, 2] {
                pool.put(index);
                pool.wake_if_all_sleep();
            }
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            pool.assert_all_up();
        });
    }

    /// A wake that meets a worker which has found work and lies down again is used up or takes it off the stack; it
    /// never leaves it there awake, nor asleep beside it.
    #[test]
    fn a_wake_races_with_leaving_and_lying_down_again() {
        model(|| {
            let pool = Pool::new(1, 0);
            let worker = {
                let pool = Arc::clone(&pool);
                thread::spawn(move || {
                    pool.idle.occupy(0);
                    assert!(!pool.idle.sleep_unless(0, || true));
                    pool.idle.enter(0);
                })
            };
            let woken = pool.idle.wake_one().is_some();
            worker.join().unwrap();
            let asleep = pool.idle.is_idle(0);
            assert!(asleep || woken);
            assert_eq!(pool.idle.lock().len(), usize::from(asleep), "wake-one-once");
            assert_eq!(pool.idle.len(), usize::from(asleep), "wake-one-once");
        });
    }

    /// Of two wakers, one wakes the only sleeper.
    #[test]
    fn a_sleeper_is_woken_by_one_waker() {
        model(|| {
            let pool = Pool::new(1, 0);
            let waker = {
                let pool = Arc::clone(&pool);
                thread::spawn(move || pool.idle.wake_one().is_some())
            };
            let other = {
                let pool = Arc::clone(&pool);
                thread::spawn(move || pool.idle.wake_one().is_some())
            };
            pool.idle.occupy(0);
            pool.idle.enter(0);
            let wakes = usize::from(waker.join().unwrap()) + usize::from(other.join().unwrap());
            assert!(wakes <= 1, "wake-one-once");
            assert_eq!(pool.idle.len(), 1 - wakes);
            assert_eq!(pool.idle.is_idle(0), wakes == 0);
        });
    }

    /// Who lies down while the pool stops sees it, or is woken.
    #[test]
    fn nobody_sleeps_through_the_stop() {
        model(|| {
            let pool = Pool::new(2, 0);
            let stopping = Arc::new(AtomicBool::new(false));
            let workers = [0, 1].map(|worker| {
                let (pool, stopping) = (Arc::clone(&pool), Arc::clone(&stopping));
                thread::spawn(move || {
                    pool.idle.occupy(worker);
                    pool.idle.sleep_unless(worker, || stopping.load(Ordering::SeqCst));
                })
            });
            stopping.store(true, Ordering::SeqCst);
            pool.idle.wake_all();
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            pool.assert_all_up();
        });
    }

    /// The poller lies down over a backlog while a worker takes it down to the low-water mark, or below. The worker
    /// looks for no more after that: it is in a long turn.
    #[test]
    fn the_poller_does_not_sleep_over_a_low_queue() {
        for low_water in [0, 1] {
            model(move || {
                let pool = Pool::new(1, 0);
                pool.poller_seat.occupy();
                pool.put(1);
                pool.put(2);
                let worker = {
                    let pool = Arc::clone(&pool);
                    thread::spawn(move || assert_eq!([pool.take(), pool.take()], [Some(1), Some(2)]))
                };
                pool.park_poller(low_water);
                worker.join().unwrap();
            });
        }
    }

    /// The same with two workers, so that the one whose take made the queue low need not be the one that looks first.
    #[test]
    fn the_poller_is_woken_by_one_of_two_workers() {
        for low_water in [0, 1, NONE_LEFT] {
            model(move || {
                let pool = Pool::new(2, 0);
                pool.poller_seat.occupy();
                pool.put(1);
                pool.put(2);
                let workers = [(); 2].map(|()| {
                    let pool = Arc::clone(&pool);
                    thread::spawn(move || pool.take_all())
                });
                pool.park_poller(low_water);
                workers.into_iter().for_each(|worker| worker.join().unwrap());
            });
        }
    }

    /// Both sleeps at once: the poller queues, wakes and parks, twice, so that a wake for its first park can come late;
    /// the worker takes and rests. Never do both sleep.
    #[test]
    fn poller_and_worker_never_both_sleep() {
        for low_waters in [[0, 0], [NONE_LEFT, 0], [0, NONE_LEFT]] {
            model(move || {
                let pool = Pool::new(1, 2);
                let worker = pool.spawn_worker(0);
                pool.poller_seat.occupy();
                for (index, low_water) in (1..).zip(low_waters) {
                    pool.put(index);
                    pool.wake_if_all_sleep();
                    pool.park_poller(low_water);
                }
                worker.join().unwrap();
                pool.assert_all_up();
            });
        }
    }
}
