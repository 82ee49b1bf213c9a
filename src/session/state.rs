//! The state word of a session: who owns it, and why it wants a turn. One atomic, six transitions.
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
//! The argument in full is in `engine/pool/README.md`; `tests` below model-check it under loom.

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
    /// The peer has sent its FIN, or the connection is broken: read until the end.
    pub const ENDED: Reasons = Reasons(1 << 10);
    /// A time-out may have passed: look at the clock.
    pub const TIMER: Reasons = Reasons(1 << 11);
    /// The daemon drains: serve what has come, then end.
    pub const DRAIN: Reasons = Reasons(1 << 12);
    /// End now, whatever is owed.
    pub const KILL: Reasons = Reasons(1 << 13);
    /// The drain timeout has passed: end now, as drained.
    pub const DRAIN_OVER: Reasons = Reasons(1 << 15);
    /// A turn ended for lack of something that is there again: budget, memory.
    pub const RESUME: Reasons = Reasons(1 << 14);

    const ALL: u64 = 0xff00;

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

const PHASE: u64 = 0xff;
const VACANT: u64 = 0;
const IDLE: u64 = 1;
const QUEUED: u64 = 2;
const RUNNING: u64 = 3;

/// Bits 32.. hold the generation, 8..16 the reasons, 0..8 the phase.
///
/// Written by everybody who has a reason, and by the owner. Every transition is one read-modify-write; its Acquire
/// pairs with the Release of the transition before it, so that an owner sees all that the owner before it wrote.
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

    /// The generation if a session lives here, for those who look at all slots.
    pub(crate) fn live_generation(&self) -> Option<u32> {
        let now = self.0.load(Ordering::Acquire);
        (now & PHASE != VACANT).then(|| generation_of(now))
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
