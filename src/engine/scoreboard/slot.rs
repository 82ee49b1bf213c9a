//! One child's place on the scoreboard: what is stored there, in which order, and how it is read meanwhile.
//!
//! The invariants are those of [`Scoreboard`](super::Scoreboard); *accepted-before-ended* and *one-store-per-fact* are
//! kept here. Everything that a child does to its slot is a sequence of [`Store`]s, one atomic store each, so that a test
//! can stop it anywhere.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::metrics::counters::{Count, TurnCounters};
use crate::net::shared::Zeroed;
use crate::session::handler::Closed;

/// What a child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no child in this slot.
    Vacant,
    /// Forked, or about to be, and not ready yet.
    Starting,
    /// Ready for a session.
    Idle,
    /// Serving.
    Busy,
    /// It accepts no more or was told to stop accepting, and will end.
    Leaving,
}

/// A slot as the parent reads it.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// What the child does.
    pub state: State,
    /// Sessions that it has accepted.
    pub accepted: u64,
    /// Sessions that it has ended, in whatever way.
    pub ended: u64,
    /// Nanoseconds that it was busy, the present spell included.
    pub busy_ns: u64,
}

impl Reading {
    /// Sessions accepted and not ended.
    pub fn open(&self) -> u64 {
        self.accepted - self.ended
    }
}

/// One child's place. All zero is vacant.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Slot {
    /// A [`Phase`]. The parent makes it starting and vacant, the child ready and leaving.
    phase: AtomicU32,
    /// 1 if the child is to leave when its present session has ended. Written by the parent, read by both.
    pub(super) told_to_leave: AtomicU32,
    accepted: Count,
    spells: Spells,
    /// Counts the sessions ended, among others. On cache lines of its own.
    pub(super) turns: TurnCounters,
}

// SAFETY: atomics and counters made of them, no pointer, nothing to drop. Zero is `Phase::Vacant`, no spell, no count.
#[allow(unsafe_code, reason = "the slots lie in memory that the children share")]
unsafe impl Zeroed for Slot {}

/// What is stored of a state; whether a ready child is idle or busy is in its [`Spells`].
#[repr(u32)]
enum Phase {
    Vacant = 0,
    Starting = 1,
    Ready = 2,
    Leaving = 3,
}

/// Busy time in one word, so that it is right at any instant.
///
/// Idle: the nanoseconds of all spells so far. Busy: [`BUSY`](Spells::BUSY) and the origin, which is when the child would
/// have begun, had it been busy without a pause: now − origin is the sum of all spells, the present one included.
#[derive(Debug, Default)]
struct Spells(AtomicU64);

impl Spells {
    /// The top bit: the clock of the daemon does not reach it in 292 years.
    const BUSY: u64 = 1 << 63;

    /// One store. Nothing, if a spell has begun already.
    fn begin(&self, now_ns: u64) {
        let word = self.0.load(Ordering::Relaxed);
        if word & Self::BUSY == 0 {
            // Busy for no longer than the clock runs, so that this is no less than zero.
            self.0.store(Self::BUSY | now_ns.saturating_sub(word), Ordering::Relaxed);
        }
    }

    /// One store. Nothing, if no spell has begun.
    fn end(&self, now_ns: u64) {
        let word = self.0.load(Ordering::Relaxed);
        if word & Self::BUSY != 0 {
            self.0.store(now_ns.saturating_sub(word & !Self::BUSY), Ordering::Relaxed);
        }
    }

    /// (in a spell, nanoseconds of all spells)
    fn read(&self, now_ns: u64) -> (bool, u64) {
        let word = self.0.load(Ordering::Relaxed);
        match word & Self::BUSY {
            0 => (false, word),
            _ => (true, now_ns.saturating_sub(word & !Self::BUSY)),
        }
    }
}

/// One store of a child. What a child does to its slot is a sequence of these, which a test can stop anywhere.
#[derive(Clone, Copy, Debug)]
pub(super) enum Store {
    Ready,
    Accept,
    BeginSpell,
    CountEnded(Closed),
    EndSpell,
    Leave,
}

/// First the count, as close behind the accept as can be: until then a death would leave nothing of the session.
pub(super) const BEGIN: [Store; 2] = [Store::Accept, Store::BeginSpell];

/// First the count: a session whose last byte is sent has ended, whatever becomes of the child.
pub(super) const fn end_as(closed: Closed) -> [Store; 2] {
    [Store::CountEnded(closed), Store::EndSpell]
}

/// A slot in the hands of its one writer: the child, or the parent until it has forked it.
#[derive(Clone, Copy)]
pub struct Own<'a>(pub(super) &'a Slot);

impl<'a> Own<'a> {
    /// The child is ready for sessions.
    pub fn ready(&self) {
        self.store(Store::Ready, 0);
    }

    /// A session was accepted, and the child is busy from now on. To be called as the first thing after the accept.
    pub fn begin(&self, now_ns: u64) {
        BEGIN.into_iter().for_each(|store| self.store(store, now_ns));
    }

    /// A session has ended, and with it the spell. To be called before its descriptor is closed: who sees the end of a
    /// session finds it in the books.
    pub fn end(&self, closed: Closed, now_ns: u64) {
        end_as(closed).into_iter().for_each(|store| self.store(store, now_ns));
    }

    /// The child accepts no more. It may still be busy, which is counted.
    pub fn leave(&self) {
        self.store(Store::Leave, 0);
    }

    /// Whether the parent has told it to; for the child to look at between sessions. It needs waking besides, if it waits.
    pub fn is_to_leave(&self) -> bool {
        self.0.told_to_leave.load(Ordering::Relaxed) != 0
    }

    /// For the turns of its sessions. [`end`](Own::end) counts their ends: nobody else writes `closed`.
    pub fn turns(&self) -> &'a TurnCounters {
        &self.0.turns
    }

    pub(super) fn store(&self, store: Store, now_ns: u64) {
        let slot = self.0;
        match store {
            Store::Ready => slot.phase.store(Phase::Ready as u32, Ordering::Relaxed),
            Store::Accept => slot.accepted.add(1),
            Store::BeginSpell => slot.spells.begin(now_ns),
            Store::CountEnded(closed) => {
                // INVARIANT accepted-before-ended. Release; pairs with the Acquire in `Slot::read`.
                fence(Ordering::Release);
                slot.turns.closed[closed as usize].add(1);
            }
            Store::EndSpell => slot.spells.end(now_ns),
            Store::Leave => slot.phase.store(Phase::Leaving as u32, Ordering::Relaxed),
        }
    }
}

/// Times that a slot is read again because sessions have ended meanwhile.
const READS: usize = 4;

impl Slot {
    /// The slot as it is now; any process, at any instant.
    pub(super) fn read(&self, now_ns: u64) -> Reading {
        let (mut accepted, mut ended) = (0, 0);
        for _ in 0..READS {
            ended = self.ended();
            // INVARIANT accepted-before-ended. Acquire; pairs with the Release in `Own::store`.
            fence(Ordering::Acquire);
            accepted = self.accepted.read();
            fence(Ordering::Acquire);
            // If none has ended meanwhile, both were true at one instant. Else too many may seem open, never too few, and
            // the books balance all the same.
            if self.ended() == ended {
                break;
            }
        }
        Reading { state: self.state(now_ns), accepted, ended, busy_ns: self.spells.read(now_ns).1 }
    }

    fn ended(&self) -> u64 {
        self.turns.closed.iter().map(Count::read).sum()
    }

    pub(super) fn state(&self, now_ns: u64) -> State {
        const VACANT: u32 = Phase::Vacant as u32;
        const STARTING: u32 = Phase::Starting as u32;
        const READY: u32 = Phase::Ready as u32;
        match (self.phase.load(Ordering::Relaxed), self.spells.read(now_ns).0) {
            (VACANT, _) => State::Vacant,
            _ if self.told_to_leave.load(Ordering::Relaxed) != 0 => State::Leaving,
            (STARTING, _) => State::Starting,
            (READY, false) => State::Idle,
            (READY, true) => State::Busy,
            _ => State::Leaving,
        }
    }

    /// Sets it aside for the next child.
    pub(super) fn take(&self) {
        self.phase.store(Phase::Starting as u32, Ordering::Relaxed);
    }

    /// Forgets its child, last of all that it has one.
    pub(super) fn vacate(&self) {
        self.accepted.clear();
        self.spells.0.store(0, Ordering::Relaxed);
        self.told_to_leave.store(0, Ordering::Relaxed);
        self.phase.store(Phase::Vacant as u32, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_read_before_a_spell_began_does_no_harm() {
        let spells = Spells::default();
        spells.begin(100);
        assert_eq!(spells.read(90), (true, 0));
        spells.begin(105);
        spells.end(110);
        spells.end(120);
        assert_eq!(spells.read(90), (false, 10));
        spells.begin(200);
        assert_eq!((spells.read(190), spells.read(200), spells.read(201)), ((true, 0), (true, 10), (true, 11)));
    }
}
