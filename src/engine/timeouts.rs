//! The timeout wheel: when to look at a session again, without touching it at every request.
//!
//! The wheel holds the numbers of slots, each at most once. A visit reads the two ticks of the slot (last readiness,
//! blocked since), compares them with the limits and puts the slot back at the tick of its nearest deadline. A request
//! therefore moves nothing here: the poller's store into the slot it touches anyway is all the bookkeeping there is.
//!
//! Invariant *visited-in-time*: a live slot is visited no later than its nearest deadline, because it is put back at
//! most the shorter of the two timeouts away, and a deadline that begins after a visit lies further than that.
//!
//! Expiry only schedules a turn; the turn's owner looks again and ends the session (`engine/pool/worker.rs`).

/// Buckets, each a tick wide: a lap of 41 seconds. What lies further waits for more laps.
const BUCKETS: usize = 4096;

/// Slots in the order of the tick at which they are to be visited. Owned by the poll loop.
pub(super) struct Wheel {
    buckets: Vec<Vec<Entry>>,
    /// Every bucket up to this tick has been visited.
    visited_tick: u32,
    /// Whether a slot is in some bucket, by index.
    present: Vec<bool>,
    len: usize,
    /// Entries of the bucket being visited; kept for its memory.
    due: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    index: u32,
    tick: u32,
}

impl Wheel {
    /// An empty wheel at `now_tick`.
    pub(super) fn new(now_tick: u32) -> Wheel {
        Wheel {
            buckets: vec![Vec::new(); BUCKETS],
            visited_tick: now_tick,
            present: Vec::new(),
            len: 0,
            due: Vec::new(),
        }
    }

    /// Puts a slot in to be visited `after_ticks` (at least one) from `now_tick`, unless it is in already: then its
    /// visit comes no later than that.
    pub(super) fn insert(&mut self, index: u32, now_tick: u32, after_ticks: u32) {
        let place = index as usize;
        if self.present.len() <= place {
            self.present.resize(place + 1, false);
        }
        if self.len == 0 {
            self.visited_tick = now_tick;
        }
        if !self.present[place] {
            self.present[place] = true;
            self.put(index, now_tick.wrapping_add(after_ticks.max(1)));
        }
    }

    /// Visits every slot that is due by `now_tick`. `visit` says in how many ticks to come again, or None to leave the
    /// slot out.
    pub(super) fn advance(&mut self, now_tick: u32, mut visit: impl FnMut(u32) -> Option<u32>) {
        while self.visited_tick != now_tick {
            if self.len == 0 {
                self.visited_tick = now_tick;
                return;
            }
            self.visited_tick = self.visited_tick.wrapping_add(1);
            let tick = self.visited_tick;
            let mut due = std::mem::take(&mut self.due);
            std::mem::swap(&mut due, &mut self.buckets[tick as usize % BUCKETS]);
            for entry in due.drain(..) {
                self.len -= 1;
                if entry.tick != tick {
                    self.put(entry.index, entry.tick);
                    continue;
                }
                match visit(entry.index) {
                    Some(after_ticks) => self.put(entry.index, now_tick.wrapping_add(after_ticks.max(1))),
                    None => self.present[entry.index as usize] = false,
                }
            }
            self.due = due;
        }
    }

    /// Ticks from `now_tick` until the next bucket with something in it is due, None when the wheel is empty. Looks at up
    /// to a lap of buckets: for when the alarm is set, not for every poll.
    pub(super) fn next_in(&self, now_tick: u32) -> Option<u32> {
        (self.len > 0).then(|| {
            let ahead =
                |&ticks: &u32| !self.buckets[self.visited_tick.wrapping_add(ticks) as usize % BUCKETS].is_empty();
            let ticks = (1..=BUCKETS as u32).find(ahead).expect("a wheel with entries has a bucket with entries");
            // The last visit may be long past.
            ticks.saturating_sub(now_tick.wrapping_sub(self.visited_tick))
        })
    }

    fn put(&mut self, index: u32, tick: u32) {
        self.buckets[tick as usize % BUCKETS].push(Entry { index, tick });
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_put_in_long_after_the_last_visit_is_visited_in_time() {
        let mut wheel = Wheel::new(1);
        wheel.insert(7, 3_000, 10);
        assert_eq!(wheel.next_in(3_000), Some(10));
        wheel.insert(8, 3_004, 50);
        assert_eq!(wheel.next_in(3_004), Some(6));
        let mut visited = Vec::new();
        wheel.advance(3_010, |index| {
            visited.push(index);
            None
        });
        assert_eq!((visited, wheel.next_in(3_010)), (vec![7], Some(44)));
    }

    #[test]
    fn a_visit_that_is_overdue_is_due_now() {
        let mut wheel = Wheel::new(1);
        wheel.insert(0, 1, 5);
        assert_eq!(wheel.next_in(100), Some(0));
    }
}
