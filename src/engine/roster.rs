//! [`Roster`]: the workers of an engine whose number changes while it serves: who is there, who is to go, and who is told
//! when the number is in force.
//!
//! A worker has a [`Place`]: its number, its counters, and the flag by which it is told to go. Places are made when they are
//! first needed and taken again by later workers; what was counted there stays in the books. Neither a turn nor a wait looks
//! at anything but the worker's own place.
//!
//! Invariants:
//! - *one-at-a-place*: a place is taken by a new worker only after the one before has said that it leaves, its last act.
//! - *somebody-stays*: at least one worker is not told to go, so that what a leaver hands on is taken.
//!
//! How a worker goes is for the engine: it takes nothing more, hands on what it has, and passes on a wake that it may have
//! had (*wake-passed-on*, `parking.rs`). Read next: `pool/worker.rs`.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::InForce;
use super::growing::Growing;
use crate::config::MAX_WORKERS;
use crate::error::Error;
use crate::metrics::counters::TurnCounters;
use crate::metrics::stages::StageRecorder;

/// What a worker has to itself.
#[derive(Default)]
pub(super) struct Place {
    /// Written by the worker.
    pub(super) counters: TurnCounters,
    /// Written by the worker.
    pub(super) stages: StageRecorder,
    /// Written by whoever resizes, read by the worker before it takes anything.
    is_to_go: AtomicBool,
}

impl Place {
    /// Whether its worker is to take nothing more.
    pub(super) fn is_to_go(&self) -> bool {
        self.is_to_go.load(Ordering::SeqCst)
    }
}

pub(super) struct Roster {
    pub(super) places: Growing<Place>,
    /// Workers that are there and were not told to go. Written under the lock.
    staying: AtomicUsize,
    /// One above the highest number of a worker that is there. Written under the lock.
    span: AtomicUsize,
    inner: Mutex<Inner>,
}

struct Inner {
    /// By number of the place.
    presence: Vec<Presence>,
    /// Who is told when nobody is left that is to go.
    waiting: Vec<InForce>,
    /// Workers have gone because the engine has finished.
    is_over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Vacant,
    Here,
    /// It was told, and has not gone.
    Going,
}

impl Roster {
    /// With so many workers, whose threads begin soon.
    pub(super) fn new(workers: usize) -> Roster {
        let places = Growing::new(MAX_WORKERS);
        (0..workers).for_each(|_| {
            places.push(Place::default());
        });
        Roster {
            places,
            staying: AtomicUsize::new(workers),
            span: AtomicUsize::new(workers),
            inner: Mutex::new(Inner { presence: vec![Presence::Here; workers], waiting: Vec::new(), is_over: false }),
        }
    }

    /// Workers that take what there is: those that are to go do not count.
    pub(super) fn staying(&self) -> usize {
        self.staying.load(Ordering::SeqCst)
    }

    /// Workers that are there, with those that have not gone yet.
    pub(super) fn present(&self) -> usize {
        self.lock().presence.iter().filter(|presence| **presence != Presence::Vacant).count()
    }

    /// One above the highest number of a worker that is there.
    pub(super) fn span(&self) -> usize {
        self.span.load(Ordering::SeqCst)
    }

    /// Has so many workers stay. `start` starts one at each of these places, or none; `rouse` has the worker at a place look
    /// at its flag, wherever it waits. `in_force` is called when those that are to go have gone; by the last of them, or here.
    ///
    /// # Errors
    /// What `start` says, or that there is no place: the number stays as it was.
    pub(super) fn resize(
        &self,
        workers: usize,
        in_force: InForce,
        start: impl FnOnce(&[usize]) -> Result<(), Error>,
        rouse: impl Fn(usize),
    ) -> Result<(), Error> {
        assert!(workers > 0, "somebody-stays");
        let mut inner = self.lock();
        let refused = |reason: &str| Error::resource(format!("have {workers} workers"), io::Error::other(reason));
        if inner.is_over {
            return Err(refused("the engine has finished"));
        }
        let here = inner.numbers(Presence::Here);
        if workers > here.len() {
            let more = self.find_places(&mut inner, workers - here.len());
            let more = more.ok_or_else(|| refused("too many of before are still in their last turn"))?;
            more.iter().for_each(|number| self.places[*number].is_to_go.store(false, Ordering::SeqCst));
            start(&more)?;
            more.iter().for_each(|number| inner.presence[*number] = Presence::Here);
            self.note(&inner);
        } else {
            let going = &here[workers..];
            going.iter().for_each(|number| inner.presence[*number] = Presence::Going);
            // Before the flags: who sees a worker go counts on it no more (*wake-passed-on*).
            self.note(&inner);
            for &number in going {
                self.places[number].is_to_go.store(true, Ordering::SeqCst);
                rouse(number);
            }
        }
        inner.waiting.push(in_force);
        self.tell(inner);
        Ok(())
    }

    /// The last act of the worker at this place; its turns and what it carried are gone from it.
    pub(super) fn leave(&self, number: usize) {
        let mut inner = self.lock();
        let was = std::mem::replace(&mut inner.presence[number], Presence::Vacant);
        assert!(was != Presence::Vacant, "one-at-a-place");
        if was == Presence::Here {
            inner.is_over = true;
        } else {
            self.note(&inner);
        }
        self.tell(inner);
    }

    /// So many vacant places, the lowest first; None if there are fewer.
    fn find_places(&self, inner: &mut Inner, count: usize) -> Option<Vec<usize>> {
        let mut found = inner.numbers(Presence::Vacant);
        found.truncate(count);
        if count - found.len() > self.places.most() - self.places.len() {
            return None;
        }
        while found.len() < count {
            found.push(self.places.push(Place::default()));
            inner.presence.push(Presence::Vacant);
        }
        Some(found)
    }

    fn note(&self, inner: &Inner) {
        self.staying.store(inner.numbers(Presence::Here).len(), Ordering::SeqCst);
        let last = inner.presence.iter().rposition(|presence| *presence != Presence::Vacant);
        self.span.store(last.map_or(0, |last| last + 1), Ordering::SeqCst);
    }

    /// Tells those who wait, if nobody is left that is to go; without the lock, since they may do anything.
    fn tell(&self, mut inner: MutexGuard<'_, Inner>) {
        if inner.presence.contains(&Presence::Going) {
            return;
        }
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_iter().for_each(|in_force| in_force(self.staying()));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread panics while it holds this lock")
    }
}

impl Inner {
    fn numbers(&self, presence: Presence) -> Vec<usize> {
        let all = self.presence.iter().enumerate();
        all.filter(|(_, one)| **one == presence).map(|(number, _)| number).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use super::*;
    use crate::random::Random;

    /// A roster with what its `start` and `rouse` were called for, and the numbers that were said to be in force.
    struct Scene {
        roster: Roster,
        started: RefCell<Vec<usize>>,
        roused: RefCell<Vec<usize>>,
        told: Arc<Mutex<Vec<usize>>>,
    }

    impl Scene {
        fn new(workers: usize) -> Scene {
            let (started, roused) = (RefCell::default(), RefCell::default());
            Scene { roster: Roster::new(workers), started, roused, told: Arc::default() }
        }

        fn resize(&self, workers: usize) -> Result<(), Error> {
            let told = Arc::clone(&self.told);
            let in_force: InForce = Box::new(move |number| told.lock().unwrap().push(number));
            let start = |numbers: &[usize]| {
                self.started.borrow_mut().extend(numbers);
                Ok(())
            };
            self.roster.resize(workers, in_force, start, |number| self.roused.borrow_mut().push(number))
        }

        fn told(&self) -> Vec<usize> {
            std::mem::take(&mut *self.told.lock().unwrap())
        }
    }

    #[test]
    fn the_number_is_in_force_when_the_last_that_is_to_go_has_gone() {
        let scene = Scene::new(4);
        scene.resize(2).expect("it shrinks");
        assert_eq!((scene.roster.staying(), scene.roster.present(), scene.told()), (2, 4, vec![]));
        assert_eq!(*scene.roused.borrow(), [2, 3]);
        assert!(scene.roster.places[3].is_to_go() && !scene.roster.places[1].is_to_go());
        scene.roster.leave(3);
        assert_eq!((scene.roster.span(), scene.told()), (3, vec![]));
        scene.roster.leave(2);
        assert_eq!((scene.roster.span(), scene.roster.present(), scene.told()), (2, 2, vec![2]));
        scene.resize(2).expect("nothing to do");
        assert_eq!((scene.told(), scene.started.borrow().len()), (vec![2], 0));
    }

    #[test]
    fn a_place_is_taken_again_once_it_is_left_and_not_before() {
        let scene = Scene::new(3);
        scene.resize(1).expect("it shrinks");
        scene.roster.leave(1);
        scene.resize(3).expect("it grows while one is still to go");
        assert_eq!(*scene.started.borrow(), [1, 3]);
        assert!(!scene.roster.places[1].is_to_go() && scene.roster.places[2].is_to_go());
        assert_eq!((scene.roster.staying(), scene.roster.present(), scene.told()), (3, 4, vec![]));
        scene.roster.leave(2);
        assert_eq!(scene.told(), [3, 3], "both hear what is in force now");
    }

    #[test]
    fn a_start_that_fails_leaves_the_number_as_it_was() {
        let scene = Scene::new(2);
        let failing = |_: &[usize]| Err(Error::resource("start", io::Error::other("no")));
        let refused = scene.roster.resize(5, Box::new(|_| panic!("it is not in force")), failing, |_| ());
        assert!(refused.is_err());
        assert_eq!((scene.roster.staying(), scene.roster.present()), (2, 2));
        scene.resize(3).expect("the next one does not");
        assert_eq!(*scene.started.borrow(), [2]);
    }

    #[test]
    fn there_are_never_more_workers_than_places() {
        let scene = Scene::new(MAX_WORKERS);
        scene.resize(1).expect("it shrinks");
        scene.roster.leave(5);
        scene.resize(2).expect("one place is free");
        let said = scene.resize(3).expect_err("the others are still there").to_string();
        assert_eq!(said, "cannot have 3 workers: too many of before are still in their last turn");
    }

    /// Numbers that are asked for and workers that go, in any order: the last number is the one that comes into force, each who
    /// asked is told once, when nobody is left that is to go, and no place is taken twice.
    #[test]
    fn any_order_of_asking_and_going_ends_with_the_last_number() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let scene = Scene::new(1 + random.below(8));
            let mut here: Vec<usize> = (0..scene.roster.staying()).collect();
            let (mut asked, mut told, mut last) = (0, 0, here.len());
            for _ in 0..60 {
                let going = |here: &[usize]| -> Vec<usize> {
                    here.iter().copied().filter(|&number| scene.roster.places[number].is_to_go()).collect()
                };
                if random.below(3) == 0 {
                    last = 1 + random.below(12);
                    scene.resize(last).expect("there are places");
                    asked += 1;
                    for number in scene.started.take() {
                        assert!(!here.contains(&number), "seed {seed}: one-at-a-place");
                        here.push(number);
                    }
                } else if let gone @ [_, ..] = &going(&here)[..] {
                    let leaver = gone[random.below(gone.len())];
                    here.retain(|number| *number != leaver);
                    scene.roster.leave(leaver);
                }
                let numbers = scene.told();
                told += numbers.len();
                let left = going(&here).len();
                assert!(numbers.is_empty() || left == 0 && numbers.iter().all(|number| *number == last), "seed {seed}");
                assert!(left > 0 || told == asked, "seed {seed}: all have been told when nobody is left that is to go");
                assert_eq!((scene.roster.staying(), scene.roster.present()), (last, last + left), "seed {seed}");
                assert_eq!(scene.roster.span(), here.iter().max().map_or(0, |most| most + 1), "seed {seed}");
            }
        }
    }

    #[test]
    fn nobody_comes_when_the_engine_has_finished() {
        let scene = Scene::new(2);
        scene.roster.leave(0);
        assert_eq!(
            scene.resize(4).expect_err("it is over").to_string(),
            "cannot have 4 workers: the engine has finished"
        );
        assert_eq!(scene.roster.staying(), 2, "the last number stays in the books");
    }
}
