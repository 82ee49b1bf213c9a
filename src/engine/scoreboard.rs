//! The scoreboard: what each child process does and has done, in memory that its parent reads.
//!
//! One padded slot per child. The child writes it as it goes, with plain atomic stores; the parent may read at any
//! instant, and a child may be killed between any two stores. Nothing here is locked, waits or calls the system (but for
//! the memory itself). The parent adds what a dead child has left to its own totals and gives the slot to the next one.
//!
//! Invariants:
//! - *one-writer*: a field of a slot has one writer at a time. While the slot is vacant or its child is not forked yet it
//!   is the parent; then the child, of all but `told_to_leave`; after [`Scoreboard::reap`] the
//!   parent again.
//! - *accepted-before-ended*: a session is counted as accepted before it is counted as ended, and read the other way
//!   round. So whoever reads finds at least as many accepted as ended, at any instant, and after a child's death the
//!   difference is the sessions that died with it: exactly those, because each was counted with one store.
//! - *one-store-per-fact*: no two stores have to agree. A busy spell is begun and ended by one store of one word
//!   (`Spells`), so that no time is ever counted twice or missing, neither in the middle of a spell nor after a death.
//! - *books-balance*: accepted = open + the sum of all `Closed`, of the slots and the totals together. Reaping moves
//!   numbers from a slot to the totals, and adds the lost sessions to those that were [`Closed::Killed`].
//!
//! What no store can tell: a child killed between the kernel's accept and [`Own::begin`] has accepted nothing, as far as
//! the books go; its client sees a reset.
//!
//! Read next: `scoreboard/slot.rs` (the stores), `net/children.rs` (how they come and go), `prefork/policy.rs` (how many
//! there are to be).

mod slot;

use std::io;
use std::sync::atomic::Ordering;

use crate::metrics::counters::{Count, TurnCounters};
use crate::net::shared::Shared;
use crate::session::handler::Closed;

use slot::Slot;
pub use slot::{Own, Reading, State};

/// One slot per child that there may be, and the totals of those that are gone.
///
/// Made by the parent before its first fork. Only the parent calls what takes `&mut self`; a child calls
/// [`own`](Scoreboard::own) on the copy that it has inherited.
pub struct Scoreboard {
    slots: Shared<Slot>,
    /// Slots that were vacated, the last one first; those from `unused` on were never taken.
    vacated: Vec<usize>,
    unused: usize,
    /// What the children that were reaped have done. The parent's own memory.
    retired: Retired,
}

/// The totals of children that are gone, and what the parent itself has ended. Written by the parent only.
#[derive(Debug, Default)]
pub struct Retired {
    /// Children reaped.
    pub children: Count,
    /// Sessions that they had accepted.
    pub accepted: Count,
    /// Nanoseconds that they were busy.
    pub busy_ns: Count,
    /// The sum of their counters; those of [`Closed::Killed`] include the sessions that died with them.
    pub turns: TurnCounters,
}

/// What all slots come to at one time, for the policy and the summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Children forked and not ready yet.
    pub starting: usize,
    /// Children that wait for a session.
    pub idle: usize,
    /// Children that serve.
    pub busy: usize,
    /// Children that accept no more or were told to stop accepting.
    pub leaving: usize,
    /// Sessions accepted by these and by those that are gone.
    pub accepted: u64,
    /// Sessions accepted and not ended.
    pub open: u64,
    /// Nanoseconds that all were busy, the present spells and those that are gone included.
    pub busy_ns: u64,
}

/// What a child that was reaped has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// What it was doing when it ended. Still `Starting`: it never became ready. `Leaving`: it had been told to, or had
    /// said so.
    pub state: State,
    /// Sessions that it had accepted.
    pub accepted: u64,
    /// Those of them that died with it.
    pub lost: u64,
}

impl Scoreboard {
    /// Vacant slots for as many children.
    ///
    /// # Errors
    /// When there is no memory left.
    pub fn new(most_children: usize) -> io::Result<Scoreboard> {
        Ok(Scoreboard {
            slots: Shared::new(most_children)?,
            vacated: Vec::new(),
            unused: 0,
            retired: Retired::default(),
        })
    }

    /// Sets a slot aside for a child that is about to be forked: it is starting from now on. None if all are taken.
    #[must_use]
    pub fn take(&mut self) -> Option<usize> {
        let index = self.vacated.pop().or_else(|| (self.unused < self.slots.len()).then_some(self.unused))?;
        self.unused = self.unused.max(index + 1);
        assert_eq!(self.slots[index].state(0), State::Vacant, "one-writer: a slot that is taken was given back");
        self.slots[index].take();
        Some(index)
    }

    /// Tells the child to leave after its present session: it counts as leaving from now on, whatever it says of itself.
    pub fn tell_to_leave(&mut self, index: usize) {
        self.slots[index].told_to_leave.store(1, Ordering::Relaxed);
    }

    /// Takes the slot back, with what was counted there, of a child that could not be made.
    pub fn cancel(&mut self, index: usize) {
        self.slots[index].vacate();
        self.vacated.push(index);
    }

    /// The slot for its one writer: in the child; or in the parent before the fork, to count a session that it has
    /// accepted for the child.
    pub fn own(&self, index: usize) -> Own<'_> {
        Own(&self.slots[index])
    }

    /// The slot as it is now.
    pub fn read(&self, index: usize, now_ns: u64) -> Reading {
        self.slots[index].read(now_ns)
    }

    /// All slots as they are now, and how many children, of which kind, that makes.
    pub fn tally(&self, now_ns: u64) -> Tally {
        let mut tally = Tally {
            accepted: self.retired.accepted.read(),
            busy_ns: self.retired.busy_ns.read(),
            // INVARIANT books-balance: those that were lost are among the ended, so that nothing of them is open.
            ..Tally::default()
        };
        for slot in &self.slots[..self.unused] {
            let reading = slot.read(now_ns);
            match reading.state {
                State::Vacant => continue,
                State::Starting => tally.starting += 1,
                State::Idle => tally.idle += 1,
                State::Busy => tally.busy += 1,
                State::Leaving => tally.leaving += 1,
            }
            tally.accepted += reading.accepted;
            tally.open += reading.open();
            tally.busy_ns += reading.busy_ns;
        }
        tally
    }

    /// Sessions ended in this way, by the children there are and by those that are gone.
    pub fn closed(&self, closed: Closed) -> u64 {
        let slots = self.slots[..self.unused].iter().map(|slot| slot.turns.closed[closed as usize].read()).sum::<u64>();
        slots + self.retired.turns.closed[closed as usize].read()
    }

    /// The counters of the child in this slot.
    pub fn turns_of(&self, index: usize) -> &TurnCounters {
        &self.slots[index].turns
    }

    /// The counters of the children that there are.
    pub fn turns(&self) -> impl Iterator<Item = &TurnCounters> {
        self.slots[..self.unused].iter().filter(|slot| slot.state(0) != State::Vacant).map(|slot| &slot.turns)
    }

    /// What those that are gone have done.
    pub fn retired(&self) -> &Retired {
        &self.retired
    }

    /// Adds what the child in this slot has done to the totals, sessions that died with it as [`Closed::Killed`], and
    /// vacates the slot. A spell that it died in has lasted until `now_ns`. To be called once the child has been waited
    /// for, or was never forked.
    ///
    /// # Panics
    /// If the slot is vacant, or more sessions have ended in it than were accepted: bugs.
    pub fn reap(&mut self, index: usize, now_ns: u64) -> Left {
        let slot = &self.slots[index];
        let reading = slot.read(now_ns);
        assert_ne!(reading.state, State::Vacant, "slot {index} has no child");
        let lost = reading.accepted.checked_sub(reading.ended);
        let lost = lost.unwrap_or_else(|| panic!("INVARIANT accepted-before-ended in slot {index}: {reading:?}"));
        let retired = &self.retired;
        retired.children.add(1);
        retired.accepted.add(reading.accepted);
        retired.busy_ns.add(reading.busy_ns);
        retired.turns.closed[Closed::Killed as usize].add(lost);
        slot.turns.move_to(&retired.turns);
        slot.vacate();
        self.vacated.push(index);
        Left { state: reading.state, accepted: reading.accepted, lost }
    }
}

#[cfg(test)]
mod tests {
    use super::slot::{BEGIN, Store, end_as};
    use super::*;
    use crate::random::Random;

    /// What a child that was stopped somewhere has really done.
    #[derive(Default)]
    struct Truth {
        accepted: u64,
        ended: u64,
        busy_ns: u64,
        busy_since_ns: Option<u64>,
    }

    impl Truth {
        fn store(&mut self, store: Store, now_ns: u64) {
            match store {
                Store::Accept => self.accepted += 1,
                Store::CountEnded(_) => self.ended += 1,
                Store::BeginSpell => self.busy_since_ns = Some(now_ns),
                Store::EndSpell => self.busy_ns += now_ns - self.busy_since_ns.take().expect("it was busy"),
                Store::Ready | Store::Leave => {}
            }
        }

        fn busy_ns(&self, now_ns: u64) -> u64 {
            self.busy_ns + self.busy_since_ns.map_or(0, |since_ns| now_ns - since_ns)
        }
    }

    /// A child's life, store by store, each with its time.
    fn life(random: &mut Random, begin_ns: u64) -> Vec<(Store, u64)> {
        let mut now_ns = begin_ns;
        let mut later = |random: &mut Random| {
            now_ns += random.below(1_000) as u64;
            now_ns
        };
        let mut stores = vec![(Store::Ready, later(random))];
        for _ in 0..random.below(5) {
            let begin_ns = later(random);
            stores.extend(BEGIN.map(|store| (store, begin_ns)));
            let end_ns = later(random);
            stores.extend(end_as(Closed::ALL[random.below(Closed::ALL.len())]).map(|store| (store, end_ns)));
        }
        stores.push((Store::Leave, later(random)));
        stores
    }

    /// INVARIANT books-balance.
    fn assert_balanced(board: &Scoreboard, now_ns: u64) {
        let tally = board.tally(now_ns);
        let closed: u64 = Closed::ALL.iter().map(|&closed| board.closed(closed)).sum();
        assert_eq!(tally.accepted, tally.open + closed);
    }

    #[test]
    fn a_child_stopped_after_any_store_leaves_the_truth() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut board = Scoreboard::new(2).expect("there is memory");
            let stores = life(&mut random, 1);
            let (mut accepted, mut lost, mut busy_ns) = (0, 0, 0);
            for stop in 0..=stores.len() {
                let index = board.take().expect("there is room");
                let mut truth = Truth::default();
                let mut now_ns = 1;
                for &(store, at_ns) in &stores[..stop] {
                    board.own(index).store(store, at_ns);
                    truth.store(store, at_ns);
                    now_ns = at_ns;
                    let read = board.read(index, now_ns);
                    let expected = (truth.accepted, truth.ended, truth.busy_ns(now_ns));
                    assert_eq!((read.accepted, read.ended, read.busy_ns), expected, "seed {seed}, {stop} stores");
                    assert_balanced(&board, now_ns);
                }
                let killed = board.closed(Closed::Killed);
                let left = board.reap(index, now_ns + 3);
                assert_eq!((left.accepted, left.lost), (truth.accepted, truth.accepted - truth.ended));
                assert!(left.lost <= 1, "it serves one at a time");
                assert_eq!(board.closed(Closed::Killed), killed + left.lost, "seed {seed}, {stop} stores");
                accepted += truth.accepted;
                lost += left.lost;
                busy_ns += truth.busy_ns(now_ns + 3);
                let tally = board.tally(now_ns);
                assert_eq!(tally, Tally { accepted, busy_ns, ..Tally::default() }, "seed {seed}, {stop} stores");
                assert_balanced(&board, now_ns);
            }
            let sessions = stores.iter().filter(|(store, _)| matches!(store, Store::Accept)).count() as u64;
            assert_eq!(lost, 2 * sessions, "each was lost when stopped behind its begin, of two stores");
            assert_eq!(board.retired().children.read(), stores.len() as u64 + 1);
        }
    }

    #[test]
    fn a_slot_is_used_again_and_knows_nothing_of_its_last_child() {
        let mut board = Scoreboard::new(1).expect("there is memory");
        assert_eq!(board.take(), Some(0));
        assert_eq!(board.take(), None, "it is taken");
        board.own(0).ready();
        board.own(0).begin(5);
        board.own(0).turns().turns.add(3);
        let read = board.read(0, 7);
        assert_eq!((read.state, read.open(), read.busy_ns), (State::Busy, 1, 2));
        assert_eq!(board.turns().map(|counters| counters.turns.read()).sum::<u64>(), 3);
        assert_eq!(board.reap(0, 9), Left { state: State::Busy, accepted: 1, lost: 1 });
        assert_eq!((board.turns().count(), board.retired().turns.turns.read()), (0, 3));
        assert_eq!(board.retired().busy_ns.read(), 4);

        assert_eq!(board.take(), Some(0));
        let read = board.read(0, 9);
        assert_eq!((read.state, read.accepted, read.busy_ns), (State::Starting, 0, 0));
        assert!(!board.own(0).is_to_leave());
    }

    #[test]
    fn a_session_accepted_by_the_parent_is_in_the_books_before_the_fork() {
        let mut board = Scoreboard::new(1).expect("there is memory");
        let index = board.take().expect("there is room");
        board.own(index).begin(5);
        assert_eq!((board.tally(6).open, board.read(index, 6).state), (1, State::Starting));
        // The fork failed.
        board.own(index).end(Closed::OverLimit, 7);
        assert_eq!(board.reap(index, 8), Left { state: State::Starting, accepted: 1, lost: 0 });
        assert_eq!((board.closed(Closed::OverLimit), board.closed(Closed::Killed)), (1, 0));
    }

    #[test]
    fn a_child_told_to_leave_counts_as_leaving_at_once() {
        let mut board = Scoreboard::new(2).expect("there is memory");
        let index = board.take().expect("there is room");
        board.own(index).ready();
        assert_eq!((board.tally(0).idle, board.tally(0).leaving), (1, 0));
        board.tell_to_leave(index);
        assert!(board.own(index).is_to_leave());
        assert_eq!((board.tally(0).idle, board.tally(0).leaving), (0, 1));
        board.own(index).leave();
        assert_eq!(board.reap(index, 1).state, State::Leaving);
    }

    #[test]
    fn a_reader_never_finds_more_ended_than_accepted() {
        let mut board = Scoreboard::new(1).expect("there is memory");
        let index = board.take().expect("there is room");
        std::thread::scope(|scope| {
            let board = &board;
            let child = scope.spawn(move || {
                for session in 0..100_000 {
                    board.own(index).begin(2 * session);
                    board.own(index).end(Closed::ALL[session as usize % Closed::ALL.len()], 2 * session + 1);
                }
            });
            let mut busy_ns = 0;
            while !child.is_finished() {
                let read = board.read(index, 1 << 40);
                assert!(read.accepted >= read.ended, "{read:?}");
                // From so late, a spell seen from inside is a long one; from outside each has lasted 1 ns.
                if read.busy_ns <= 100_000 {
                    assert!(read.busy_ns >= busy_ns, "{read:?}");
                    busy_ns = read.busy_ns;
                }
            }
        });
        assert_eq!(board.reap(index, 1 << 40), Left { state: State::Starting, accepted: 100_000, lost: 0 });
        assert_eq!(board.retired().busy_ns.read(), 100_000);
    }
}
