//! Who is here, and who is to go: the sessions of reactors for operators, by ids that people can type.
//!
//! Any thread may ask: it reads state words and records, and touches no session. Read next: `attendance.rs`.

use std::sync::atomic::Ordering;

use super::{Reactor, Request};
use crate::engine::Seen;
use crate::session::state::{Doing, Reasons, Scheduled};
use crate::session::table::Key;

/// The id of a session in one of several tables, as people are shown it: small as long as slots are used for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id {
    /// Which of the tables.
    number: usize,
    key: Key,
}

impl Id {
    /// Bits of a slot's number; those above, up to the generation, are the table's.
    const SLOT_BITS: u32 = 22;

    fn to_u64(self) -> u64 {
        debug_assert!(self.key.index() >> Id::SLOT_BITS == 0 && self.number >> (32 - Id::SLOT_BITS) == 0);
        // The first generation is 1: the first session of all has the id 1.
        self.key.to_u64() - (1 << 32) + ((self.number as u64) << Id::SLOT_BITS) + 1
    }

    fn from_u64(id: u64) -> Option<Id> {
        let bits = id.checked_sub(1)?.checked_add(1 << 32)?;
        let number = (bits as u32 >> Id::SLOT_BITS) as usize;
        let key = Key::from_u64(bits - ((number as u64) << Id::SLOT_BITS))?;
        Some(Id { number, key })
    }
}

/// Adds the sessions of these tables to `seen`, about `most`; where to go on, see [`Running::sessions`](crate::engine::Running::sessions).
pub(in crate::engine) fn list_tables(tables: &[&Reactor], from: u64, most: usize, seen: &mut Vec<Seen>) -> Option<u64> {
    let number = (from >> 32) as usize;
    match tables.get(number)?.list(from as u32, most, seen) {
        Some(next) => Some((number as u64) << 32 | u64::from(next)),
        None => (number + 1 < tables.len()).then_some((number as u64 + 1) << 32),
    }
}

/// Ends the session of this id in one of these tables; whether there is one.
pub(in crate::engine) fn kill_in_tables(tables: &[&Reactor], id: u64) -> bool {
    Id::from_u64(id).is_some_and(|id| tables.get(id.number).is_some_and(|table| table.kill(id.key)))
}

impl Reactor {
    /// Adds the sessions to `seen` that live in some of its slots, from `from` on. The next slot; None after the last one.
    fn list(&self, from: u32, most: usize, seen: &mut Vec<Seen>) -> Option<u32> {
        let attendance = self.attendance.as_ref()?;
        let used = self.table.used() as u32;
        let to = from.saturating_add(most as u32).min(used);
        let now_ns = self.common.clock.now_ns();
        for index in from..to {
            let Some((key, doing)) = self.table.look_at(index) else { continue };
            let state = match doing {
                Doing::Waits if self.table.slot(key).ticks.blocked.load(Ordering::Relaxed) != 0 => "blocked",
                Doing::Waits => "idle",
                Doing::Queued => "queued",
                Doing::Runs => "running",
            };
            let id = Id { number: self.number, key }.to_u64();
            let row = attendance.record(index).read(id, &self.common.services, now_ns, state);
            // INVARIANT read-whole.
            if self.table.key_at(index) == Some(key) {
                seen.push(row);
            }
        }
        (to < used).then_some(to)
    }

    /// Ends the session of this key, if there is one.
    fn kill(&self, key: Key) -> bool {
        // A key that was typed may name a slot that was never made.
        if self.table.look_at(key.index()).is_none() {
            return false;
        }
        match self.table.schedule(key, Reasons::KILL) {
            Scheduled::Stale => return false,
            Scheduled::Enqueue => self.leave(Request::turn(key, self.common.stage_ns())),
            // It may be among those that wait for memory, and needs none to end.
            Scheduled::Noted => {
                let starving =
                    std::mem::take(&mut *self.starving.lock().expect("no thread panics while it holds this lock"));
                starving.into_iter().for_each(|request| self.leave(request));
            }
        }
        self.desk().poller.wake();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_lead_back_to_where_they_came_from() {
        let most_slot = (1 << Id::SLOT_BITS) - 1;
        for number in [0, 1, 1_023] {
            for (slot, generation) in [(0, 1), (1, 1), (most_slot, 1), (0, 2), (most_slot, u64::from(u32::MAX >> 1))] {
                let key = Key::from_u64(generation << 32 | slot).expect("it is a session's");
                let id = Id { number, key };
                assert_eq!(Id::from_u64(id.to_u64()), Some(id));
            }
        }
        let first = Id { number: 0, key: Key::from_u64(1 << 32).expect("it is a session's") };
        assert_eq!(first.to_u64(), 1);
        assert_eq!([0, u64::MAX].map(Id::from_u64), [None, None]);
    }
}
