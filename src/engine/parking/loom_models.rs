//! The sleeps of `parking.rs` with the queue's stand-in. A missed wake is a thread that sleeps for ever, which loom reports.

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
    /// Workers that were not told to go. Written by whoever tells one, before.
    staying: AtomicUsize,
    /// By number of the worker: it was told to go.
    is_to_go: [AtomicBool; 2],
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
            staying: AtomicUsize::new(workers),
            is_to_go: [AtomicBool::new(false), AtomicBool::new(false)],
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
        if self.idle.len() >= self.staying.load(Ordering::SeqCst) {
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

    /// As whoever resizes does.
    fn tell_to_go(&self, worker: usize) {
        self.staying.fetch_sub(1, Ordering::SeqCst);
        self.is_to_go[worker].store(true, Ordering::SeqCst);
        self.idle.rouse(worker);
    }

    /// Serves requests and rests until it is told to go, and passes on a wake that it may have had. Who has served the only
    /// request tells the stayer.
    fn work_until_told(&self, worker: usize) {
        let is_to_go = || self.is_to_go[worker].load(Ordering::SeqCst);
        self.idle.occupy(worker);
        while !is_to_go() {
            if self.take().is_some() {
                self.put(LAST);
                self.idle.wake_one();
                return;
            }
            self.idle.sleep_unless(worker, || self.queue.len() > 0 || is_to_go());
        }
        self.idle.pass_wake_on(|| self.queue.len() > 0);
    }

    fn spawn_leaver_and_stayer(self: &Arc<Pool>) -> [thread::JoinHandle<()>; 2] {
        let [for_leaver, for_stayer] = [(); 2].map(|()| Arc::clone(self));
        let stay = move || {
            for_stayer.idle.occupy(1);
            while for_stayer.take().is_none() {
                for_stayer.idle.sleep_unless(1, || for_stayer.queue.len() > 0);
            }
        };
        [thread::spawn(move || for_leaver.work_until_told(0)), thread::spawn(stay)]
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

/// One of two workers is told to go while both may sleep, and a request comes before that, after, or between. Whichever of
/// them was woken for it, one serves it: the stayer never sleeps beside it.
#[test]
fn a_worker_that_goes_does_not_swallow_a_wake() {
    for is_told_first in [false, true] {
        model(move || {
            let pool = Pool::new(2, 1);
            let [leaver, stayer] = pool.spawn_leaver_and_stayer();
            if is_told_first {
                pool.tell_to_go(0);
            }
            pool.put(1);
            pool.wake_if_all_sleep();
            if !is_told_first {
                pool.tell_to_go(0);
            }
            leaver.join().unwrap();
            stayer.join().unwrap();
            pool.assert_all_up();
        });
    }
}

/// The same where who resizes and who brings the request are two.
#[test]
fn a_wake_is_not_swallowed_whoever_brings_the_request() {
    model(|| {
        let pool = Pool::new(2, 1);
        let [leaver, stayer] = pool.spawn_leaver_and_stayer();
        let resizer = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.tell_to_go(0))
        };
        pool.put(1);
        pool.wake_if_all_sleep();
        [leaver, stayer, resizer].into_iter().for_each(|thread| thread.join().unwrap());
        pool.assert_all_up();
    });
}
