//! The state word of a session, or of an endpoint of datagrams: who owns it, and why it wants a turn. One atomic, six
//! transitions.
//!
//! ```text
//!            schedule                claim                 release, no reasons
//!   idle ───────────────▶ queued ───────────────▶ running ───────────────────▶ idle
//!                           ▲                      │   │
//!                           │  release with        │   └── close ──▶ vacant, next generation
//!                           └── reasons, requeue ──┘
//! ```
//!
//! "Running and ready again" is *running* with reasons in the word. Reasons are bits that anybody may add at any time
//! with [`StateWord::schedule`]; the owner takes all of them when it claims the session.
//!
//! Invariants:
//! - *one-owner*: only the thread that moved the word from queued to running touches the session, until its own
//!   `release`, `requeue` or `close`.
//! - *queued-once*: exactly the caller that is answered [`Scheduled::Enqueue`] (or [`Released::Again`]) puts the key
//!   into the queue, so a session is in the queue at most once.
//! - *never-stranded*: a reason added is either taken by a later claim, or seen by the `release` that then queues the
//!   session again. No transition discards a reason but `close`.
//! - *stale-keys-miss*: the generation is part of the word, so a key of an ended session changes nothing.
//!
//! The argument in full is in `engine/pool/README.md`; `loom_models` below check it under loom, and those of `table.rs`
//! check what the word guards.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Why a session wants a turn; a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reasons(u64);

impl Reasons {
    /// No reason.
    pub const NONE: Reasons = Reasons(0);
    /// The stream holds input.
    pub const READABLE: Reasons = Reasons(1 << 8);
    /// The stream takes output again.
    pub const WRITABLE: Reasons = Reasons(1 << 9);
    /// The peer has sent its FIN or urgent data, or the connection is broken. Each can hide behind a short read, and
    /// nothing would repeat the event: from now on read until would-block or the end.
    pub const READ_ON: Reasons = Reasons(1 << 10);
    /// A time-out may have passed: look at the clock.
    pub const TIMER: Reasons = Reasons(1 << 11);
    /// The daemon drains: serve what has come, then end.
    pub const DRAIN: Reasons = Reasons(1 << 12);
    /// End now, whatever is owed.
    pub const KILL: Reasons = Reasons(1 << 13);
    /// The drain timeout has passed: end now, as drained.
    pub const DRAIN_OVER: Reasons = Reasons(1 << 15);
    /// A turn ended for lack of something that is there again: budget, memory. Or a session that has just begun has
    /// something to say first.
    pub const RESUME: Reasons = Reasons(1 << 14);
    /// There is something in the session's mailbox.
    pub const POSTED: Reasons = Reasons(1 << 16);

    /// The second stream of a relay's session holds input.
    pub const UPSTREAM_READABLE: Reasons = Reasons(1 << 17);
    /// It takes output again, or has been connected.
    pub const UPSTREAM_WRITABLE: Reasons = Reasons(1 << 18);
    /// As [`READ_ON`](Reasons::READ_ON), of the second stream.
    pub const UPSTREAM_READ_ON: Reasons = Reasons(1 << 19);

    const ALL: u64 = 0xff_ff00;

    /// Those of a stream of which this is so: of the client's, or of the second one if it `is_upstream`.
    pub fn of(is_upstream: bool, readable: bool, writable: bool, read_on: bool) -> Reasons {
        let [for_input, for_output, for_more] = match is_upstream {
            false => [Reasons::READABLE, Reasons::WRITABLE, Reasons::READ_ON],
            true => [Reasons::UPSTREAM_READABLE, Reasons::UPSTREAM_WRITABLE, Reasons::UPSTREAM_READ_ON],
        };
        let mut reasons = Reasons::NONE;
        for (is_so, reason) in [(readable, for_input), (writable, for_output), (read_on, for_more)] {
            if is_so {
                reasons |= reason;
            }
        }
        reasons
    }

    /// Whether any of `others` is among these.
    pub fn intersects(self, others: Reasons) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::BitOr for Reasons {
    type Output = Reasons;

    fn bitor(self, other: Reasons) -> Reasons {
        Reasons(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Reasons {
    fn bitor_assign(&mut self, other: Reasons) {
        self.0 |= other.0;
    }
}

/// What the caller of [`StateWord::schedule`] must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Scheduled {
    /// Put the key into the queue: nobody else will.
    Enqueue,
    /// Nothing: the session is queued or running, and its owner will find the reasons.
    Noted,
    /// Nothing: the key is of a session that has ended.
    Stale,
}

/// What an owner that gave its session back must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Released {
    /// Nothing: the session is idle.
    Idle,
    /// Put the key into the queue: reasons came during the turn.
    Again,
}

/// What a session is doing, to those who only look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It waits for a reason.
    Waits,
    /// It has one, and waits for its turn.
    Queued,
    /// It has its turn.
    Runs,
}

const PHASE: u64 = 0xff;
const VACANT: u64 = 0;
const IDLE: u64 = 1;
const QUEUED: u64 = 2;
const RUNNING: u64 = 3;

/// Bits 32.. hold the generation, 8..24 the reasons, 0..8 the phase.
///
/// Written by everybody who has a reason, and by the owner. The phase always moves by one read-modify-write, whose
/// Acquire pairs with the Release of the one before it, so that an owner sees all that the owner before it wrote.
/// (`requeue` adds its reason by another one first; a `release` that finds reasons goes on as a `requeue`.)
pub(crate) struct StateWord(AtomicU64);

impl StateWord {
    pub(crate) fn vacant(generation: u32) -> StateWord {
        StateWord(AtomicU64::new(word(generation, VACANT)))
    }

    /// The generation that the next session here will have.
    pub(crate) fn vacant_generation(&self) -> u32 {
        let now = self.0.load(Ordering::Acquire);
        assert_eq!(now & PHASE, VACANT, "one-owner: a session begins in an empty slot");
        generation_of(now)
    }

    /// Vacant to idle, by the thread that filled the slot.
    pub(crate) fn open(&self, generation: u32) {
        let before = self.0.swap(word(generation, IDLE), Ordering::AcqRel);
        assert_eq!(before, word(generation, VACANT), "one-owner: a session begins in an empty slot");
    }

    /// Adds `reasons`. Any thread, any time, with any key ever made.
    pub(crate) fn schedule(&self, generation: u32, reasons: Reasons) -> Scheduled {
        let mut before = self.0.load(Ordering::Relaxed);
        loop {
            if generation_of(before) != generation || before & PHASE == VACANT {
                return Scheduled::Stale;
            }
            let (after, answer) = match before & PHASE {
                IDLE => (word(generation, QUEUED) | reasons.0, Scheduled::Enqueue),
                _ => (before | reasons.0, Scheduled::Noted),
            };
            match self.0.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return answer,
                Err(now) => before = now,
            }
        }
    }

    /// Queued to running, by the thread that took the key from the queue; takes the reasons.
    pub(crate) fn claim(&self, generation: u32) -> Reasons {
        let before = self.0.swap(word(generation, RUNNING), Ordering::AcqRel);
        assert_eq!(generation_of(before), generation, "queued-once: a queued session cannot end");
        assert_eq!(before & PHASE, QUEUED, "one-owner: only a queued session can be claimed");
        Reasons(before & Reasons::ALL)
    }

    /// Running to idle, or to queued if reasons came meanwhile.
    pub(crate) fn release(&self, generation: u32) -> Released {
        let expected = word(generation, RUNNING);
        match self.0.compare_exchange(expected, word(generation, IDLE), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Released::Idle,
            Err(_) => {
                self.requeue(generation, Reasons::NONE);
                Released::Again
            }
        }
    }

    /// Running to queued with one more reason; the caller puts the key into the queue.
    pub(crate) fn requeue(&self, generation: u32, reasons: Reasons) {
        // The phase is known, so that adding the difference moves it, whatever reasons arrive at the same time. The
        // reason bits are set first: until the phase moves, this thread is the owner and nobody takes them.
        if !reasons.is_empty() {
            self.0.fetch_or(reasons.0, Ordering::Relaxed);
        }
        let before = self.0.fetch_sub(RUNNING - QUEUED, Ordering::AcqRel);
        assert_eq!(before & PHASE, RUNNING, "one-owner: only a running session is given back");
        assert_eq!(generation_of(before), generation, "one-owner: given back by its owner");
    }

    /// Running to vacant under the next generation. The owner has emptied the slot.
    pub(crate) fn close(&self, generation: u32) {
        let before = self.0.swap(word(next_generation(generation), VACANT), Ordering::AcqRel);
        assert_eq!(before & PHASE, RUNNING, "one-owner: only a running session is closed");
        assert_eq!(generation_of(before), generation, "one-owner: closed by its owner");
    }

    /// The generation if a session lives here, and what that session is doing, for those who look at all slots.
    pub(crate) fn live(&self) -> Option<(u32, Doing)> {
        let now = self.0.load(Ordering::Acquire);
        let doing = match now & PHASE {
            VACANT => return None,
            IDLE => Doing::Waits,
            QUEUED => Doing::Queued,
            _ => Doing::Runs,
        };
        Some((generation_of(now), doing))
    }
}

/// Generations run from 1 to 2³¹ − 1 and start again: 0 marks keys that are not a session's, and the top bit stays
/// clear because `polling` reserves the key of all ones.
fn next_generation(generation: u32) -> u32 {
    if generation == u32::MAX >> 1 { 1 } else { generation + 1 }
}

fn word(generation: u32, phase: u64) -> u64 {
    u64::from(generation) << 32 | phase
}

fn generation_of(word: u64) -> u32 {
    (word >> 32) as u32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SOME: Reasons = Reasons::READABLE;
    const OTHERS: Reasons = Reasons::TIMER;

    fn idle_word(generation: u32) -> StateWord {
        let word = StateWord::vacant(generation);
        word.open(generation);
        word
    }

    fn running_word(generation: u32, reasons: Reasons) -> StateWord {
        let word = idle_word(generation);
        assert_eq!(word.schedule(generation, reasons), Scheduled::Enqueue);
        assert_eq!(word.claim(generation), reasons);
        word
    }

    #[test]
    fn a_session_goes_round_from_vacant_to_vacant() {
        let word = StateWord::vacant(5);
        assert_eq!((word.vacant_generation(), word.live()), (5, None));
        word.open(5);
        assert_eq!(word.live(), Some((5, Doing::Waits)));
        assert_eq!(word.schedule(5, SOME), Scheduled::Enqueue);
        assert_eq!(word.live(), Some((5, Doing::Queued)));
        assert_eq!(word.claim(5), SOME);
        assert_eq!(word.live(), Some((5, Doing::Runs)));
        assert_eq!(word.release(5), Released::Idle);
        assert_eq!(word.schedule(5, OTHERS), Scheduled::Enqueue);
        assert_eq!(word.claim(5), OTHERS);
        word.close(5);
        assert_eq!((word.vacant_generation(), word.live()), (6, None));
    }

    #[test]
    fn only_the_first_reason_enqueues() {
        let word = idle_word(1);
        assert_eq!(word.schedule(1, SOME), Scheduled::Enqueue);
        assert_eq!(word.schedule(1, SOME), Scheduled::Noted);
        assert_eq!(word.schedule(1, OTHERS), Scheduled::Noted);
        assert_eq!(word.claim(1), SOME | OTHERS);
    }

    #[test]
    fn reasons_of_a_running_session_come_with_the_next_claim() {
        let word = running_word(1, SOME);
        assert_eq!(word.schedule(1, OTHERS), Scheduled::Noted);
        assert_eq!(word.schedule(1, Reasons::KILL), Scheduled::Noted);
        assert_eq!(word.release(1), Released::Again);
        assert_eq!(word.claim(1), OTHERS | Reasons::KILL);
        assert_eq!(word.release(1), Released::Idle);
    }

    #[test]
    fn requeue_keeps_its_reason_and_those_that_came() {
        let word = running_word(1, SOME);
        assert_eq!(word.schedule(1, OTHERS), Scheduled::Noted);
        word.requeue(1, Reasons::RESUME);
        assert_eq!(word.schedule(1, Reasons::DRAIN), Scheduled::Noted, "queued already");
        assert_eq!(word.claim(1), OTHERS | Reasons::RESUME | Reasons::DRAIN);
    }

    #[test]
    fn a_turn_may_begin_without_a_reason() {
        let word = running_word(1, SOME);
        word.requeue(1, Reasons::NONE);
        assert!(word.claim(1).is_empty());
    }

    #[test]
    fn keys_of_other_generations_change_nothing() {
        let word = idle_word(7);
        for stale in [0, 6, 8, u32::MAX >> 1] {
            assert_eq!(word.schedule(stale, SOME), Scheduled::Stale);
        }
        assert_eq!(word.schedule(7, OTHERS), Scheduled::Enqueue);
        assert_eq!(word.claim(7), OTHERS);
        word.close(7);
        for stale in [7, 8] {
            assert_eq!(word.schedule(stale, SOME), Scheduled::Stale, "nobody lives here");
        }
    }

    #[test]
    fn generations_wrap_past_zero_and_below_the_top_bit() {
        let last = u32::MAX >> 1;
        let word = running_word(last, SOME);
        word.close(last);
        assert_eq!(word.vacant_generation(), 1);
        word.open(1);
        assert_eq!(word.schedule(last, SOME), Scheduled::Stale);
        assert_eq!(word.schedule(1, SOME), Scheduled::Enqueue);
    }

    #[test]
    fn every_reason_is_a_bit_of_its_own_clear_of_phase_and_generation() {
        let all = [
            Reasons::READABLE,
            Reasons::WRITABLE,
            Reasons::READ_ON,
            Reasons::TIMER,
            Reasons::DRAIN,
            Reasons::KILL,
            Reasons::DRAIN_OVER,
            Reasons::RESUME,
            Reasons::POSTED,
            Reasons::UPSTREAM_READABLE,
            Reasons::UPSTREAM_WRITABLE,
            Reasons::UPSTREAM_READ_ON,
        ];
        let mut seen = Reasons::NONE;
        for reason in all {
            assert_eq!(reason.0.count_ones(), 1);
            assert!(!seen.intersects(reason));
            seen |= reason;
        }
        assert_eq!(seen.0 & !Reasons::ALL, 0);
        assert_eq!(Reasons::ALL & (PHASE | u64::from(u32::MAX) << 32), 0);
    }

    #[test]
    #[should_panic(expected = "one-owner")]
    fn a_session_that_is_not_queued_cannot_be_claimed() {
        let _ = idle_word(1).claim(1);
    }

    #[test]
    #[should_panic(expected = "one-owner")]
    fn a_session_that_nobody_runs_cannot_be_given_back() {
        idle_word(1).requeue(1, Reasons::NONE);
    }

    #[test]
    #[should_panic(expected = "one-owner")]
    fn a_session_that_nobody_runs_cannot_be_closed() {
        idle_word(1).close(1);
    }

    #[test]
    #[should_panic(expected = "one-owner")]
    fn a_session_cannot_begin_where_one_lives() {
        idle_word(1).open(1);
    }
}

/// The word alone, with a queue of one place behind a lock: no reason is lost, nobody queues twice.
#[cfg(all(test, loom))]
mod loom_models {
    use std::sync::Arc;

    use super::*;
    use crate::sync::{Mutex, model, thread};

    const GENERATION: u32 = 1;

    struct Place {
        word: StateWord,
        /// The queue: whether the key is in it.
        queued: Mutex<bool>,
        taken: Mutex<Reasons>,
    }

    impl Place {
        fn idle() -> Arc<Place> {
            let word = StateWord::vacant(GENERATION);
            word.open(GENERATION);
            Arc::new(Place { word, queued: Mutex::new(false), taken: Mutex::new(Reasons::NONE) })
        }

        fn schedule(&self, reasons: Reasons) {
            match self.word.schedule(GENERATION, reasons) {
                Scheduled::Enqueue => self.put(),
                Scheduled::Noted => {}
                Scheduled::Stale => unreachable!("the session lives"),
            }
        }

        fn put(&self) {
            let before = std::mem::replace(&mut *self.queued.lock().unwrap(), true);
            assert!(!before, "queued-once");
        }

        /// A turn, if the key is in the queue: once more if `again`, else until the reasons say so.
        fn turn(&self, again: bool) -> bool {
            if !std::mem::take(&mut *self.queued.lock().unwrap()) {
                return false;
            }
            *self.taken.lock().unwrap() |= self.word.claim(GENERATION);
            if again {
                self.word.requeue(GENERATION, Reasons::RESUME);
                self.put();
            } else if self.word.release(GENERATION) == Released::Again {
                self.put();
            }
            true
        }

        fn assert_nothing_stranded(&self, expected: Reasons) {
            while self.turn(false) {}
            assert_eq!(*self.taken.lock().unwrap(), expected, "never-stranded");
            assert_eq!(self.word.0.load(Ordering::Acquire), word(GENERATION, IDLE));
        }
    }

    /// Two threads have a reason each while a worker runs a turn or two.
    #[test]
    fn reasons_of_two_schedulers_reach_an_owner() {
        model(|| {
            let place = Place::idle();
            let threads = [Reasons::READABLE, Reasons::TIMER].map(|reasons| {
                let place = Arc::clone(&place);
                thread::spawn(move || place.schedule(reasons))
            });
            place.turn(false);
            place.turn(false);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            place.assert_nothing_stranded(Reasons::READABLE | Reasons::TIMER);
        });
    }

    /// One thread has two reasons in a row, so that the second can meet any phase, and two workers run turns.
    #[test]
    fn two_workers_never_own_it_at_once() {
        model(|| {
            let place = Place::idle();
            let worker = {
                let place = Arc::clone(&place);
                thread::spawn(move || place.turn(false))
            };
            let scheduler = {
                let place = Arc::clone(&place);
                thread::spawn(move || {
                    place.schedule(Reasons::READABLE);
                    place.schedule(Reasons::WRITABLE);
                })
            };
            place.turn(false);
            worker.join().unwrap();
            scheduler.join().unwrap();
            place.assert_nothing_stranded(Reasons::READABLE | Reasons::WRITABLE);
        });
    }

    /// A turn that asks for another one while reasons come: neither hides the other.
    #[test]
    fn requeue_races_with_reasons() {
        model(|| {
            let place = Place::idle();
            place.schedule(Reasons::READABLE);
            let threads = [Reasons::WRITABLE, Reasons::KILL].map(|reasons| {
                let place = Arc::clone(&place);
                thread::spawn(move || place.schedule(reasons))
            });
            place.turn(true);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let all = Reasons::READABLE | Reasons::WRITABLE | Reasons::KILL | Reasons::RESUME;
            place.assert_nothing_stranded(all);
        });
    }
}
