//! The timeout wheel: when to look at a session again, without touching it at every request.
//!
//! The wheel holds the numbers of slots, each at most once. A visit reads the two ticks of the slot (last readiness,
//! blocked since), compares them with the limits and puts the slot back at the tick of its nearest deadline. A request
//! therefore moves nothing here: a store into the slot, which is touched anyway, is all the bookkeeping there is.
//!
//! Invariant *visited-in-time*: a live slot is visited no later than its nearest deadline, because it is put back at
//! most an eighth of the shorter timeout away (*tried-in-eighths*, `turns.rs`), and a deadline that begins after a visit lies
//! no nearer than that. When a timeout becomes shorter all slots are put in anew.
//!
//! A visit only schedules a turn, and the turn looks again before it ends the session. Read next: `turns.rs`.

/// Buckets, each a tick wide: a lap of 41 seconds. What lies further waits for more laps.
const BUCKETS: usize = 4096;

/// Slots in the order of the tick at which they are to be visited. Owned by the thread of the front.
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
    use std::collections::BTreeMap;

    use super::*;

    /// Numbers that look random and are the same every time (xorshift).
    struct Dice(u64);

    impl Dice {
        fn new(seed: u64) -> Dice {
            Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        }

        /// A number from 0 up to and with `most`.
        fn up_to(&mut self, most: u32) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % (u64::from(most) + 1)) as u32
        }

        fn is_one_in(&mut self, many: u32) -> bool {
            self.up_to(many - 1) == 0
        }
    }

    /// Slots visited when the time is `now_tick`, none of which comes back.
    fn visited(wheel: &mut Wheel, now_tick: u32) -> Vec<u32> {
        let mut visited = Vec::new();
        wheel.advance(now_tick, |index| {
            visited.push(index);
            None
        });
        visited
    }

    /// The wheel against a list of due ticks, counted without wrapping.
    fn check_against_a_list(seed: u64, start: u32) {
        let mut dice = Dice::new(seed);
        let mut wheel = Wheel::new(start);
        let mut due = BTreeMap::<u32, u64>::new();
        let mut now: u64 = 0;
        let lap = BUCKETS as u32;
        for _ in 0..200 {
            let now_tick = start.wrapping_add(now as u32);
            for _ in 0..dice.up_to(4) {
                let longest = if dice.is_one_in(4) { 5 * lap } else { 300 };
                let (index, after) = (dice.up_to(40), dice.up_to(longest));
                wheel.insert(index, now_tick, after);
                due.entry(index).or_insert(now + u64::from(after.max(1)));
            }
            let longest = if dice.is_one_in(20) { 3 * lap } else { 90 };
            now += u64::from(dice.up_to(longest));
            let now_tick = start.wrapping_add(now as u32);
            let mut visits = 0;
            wheel.advance(now_tick, |index| {
                visits += 1;
                let was_due = due.remove(&index).expect("only what is in is visited");
                assert!(was_due <= now, "seed {seed}: slot {index} was due at {was_due}, not by {now}");
                if dice.is_one_in(3) {
                    return None;
                }
                let after = dice.up_to(2 * lap);
                due.insert(index, now + u64::from(after.max(1)));
                Some(after)
            });
            assert!(visits <= 41, "seed {seed}: nobody is visited twice");
            let late = due.iter().find(|&(_, &tick)| tick <= now);
            assert_eq!(late, None, "seed {seed}: not visited-in-time at {now}");
            assert_eq!(wheel.len, due.len(), "seed {seed}");
            let next = due.values().min().map(|tick| tick - now);
            let told = wheel.next_in(now_tick).map(u64::from);
            assert_eq!(told.is_some(), next.is_some());
            assert!(told <= next, "seed {seed}: told to wait {told:?} ticks for a visit in {next:?}");
        }
    }

    #[test]
    fn every_slot_is_visited_in_time() {
        (1..=40).for_each(|seed| check_against_a_list(seed, 1));
    }

    #[test]
    fn ticks_may_wrap_while_slots_wait() {
        (1..=40).for_each(|seed| check_against_a_list(seed, u32::MAX - 5_000));
    }

    #[test]
    fn a_far_deadline_waits_for_its_lap() {
        let lap = BUCKETS as u32;
        for after in [lap - 1, lap, lap + 1, 3 * lap, 3 * lap + 7, 1 << 19] {
            let mut wheel = Wheel::new(10);
            wheel.insert(3, 10, after);
            for lap_end in (10..10 + after).step_by(BUCKETS) {
                assert!(visited(&mut wheel, lap_end).is_empty());
            }
            assert!(visited(&mut wheel, 10 + after - 1).is_empty());
            assert_eq!(visited(&mut wheel, 10 + after), [3]);
        }
    }

    #[test]
    fn a_slot_is_in_once() {
        let mut wheel = Wheel::new(0);
        wheel.insert(7, 0, 5);
        wheel.insert(7, 0, 2);
        wheel.insert(7, 3, 9);
        assert!(visited(&mut wheel, 4).is_empty());
        assert_eq!(visited(&mut wheel, 5), [7]);
        assert!(visited(&mut wheel, 100).is_empty());
        wheel.insert(7, 100, 1);
        assert_eq!(visited(&mut wheel, 101), [7], "in again after it was left out");
    }

    #[test]
    fn a_visit_never_repeats_within_the_same_advance() {
        let mut wheel = Wheel::new(0);
        wheel.insert(0, 0, 1);
        let mut visits = 0;
        wheel.advance(50, |_| {
            visits += 1;
            Some(0)
        });
        assert_eq!(visits, 1);
        assert_eq!(visited(&mut wheel, 51), [0]);
    }

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

    #[test]
    fn an_empty_wheel_catches_up_at_once_and_says_that_it_is_empty() {
        let mut wheel = Wheel::new(0);
        assert_eq!(wheel.next_in(0), None);
        assert!(visited(&mut wheel, u32::MAX / 2).is_empty());
        wheel.insert(1, u32::MAX / 2, 20);
        assert_eq!(wheel.next_in(u32::MAX / 2), Some(20));
    }
}
