//! [`Ends`]: when each server is done, and which is first.
//!
//! A tournament: each inner node of a complete tree names the earlier of its two sides, so that one time is changed in as
//! many steps as the tree is high, up or down, and nothing is ever taken out and put in again as in a heap.

use super::NEVER_NS;

/// A time for each of a fixed number of servers.
pub(super) struct Ends {
    times_ns: Vec<u64>,
    /// Node 1 is the root, those below `n` are `2n` and `2n + 1`, and the leaves name themselves.
    winners: Vec<u32>,
}

impl Ends {
    /// None of `len` is ever done.
    pub(super) fn never(len: usize) -> Ends {
        let leaves = len.next_power_of_two();
        let mut winners = vec![0; 2 * leaves];
        for node in (1..2 * leaves).rev() {
            winners[node] = if node >= leaves { (node - leaves) as u32 } else { winners[2 * node] };
        }
        Ends { times_ns: vec![NEVER_NS; leaves], winners }
    }

    /// The earliest time.
    pub(super) fn first_ns(&self) -> u64 {
        self.times_ns[self.first()]
    }

    /// Whose it is; of equal ones the lowest number.
    pub(super) fn first(&self) -> usize {
        self.winners[1] as usize
    }

    /// From now on `server` is done at `time_ns`.
    pub(super) fn set(&mut self, server: usize, time_ns: u64) {
        self.times_ns[server] = time_ns;
        let mut node = (self.times_ns.len() + server) / 2;
        while node > 0 {
            let [left, right] = [self.winners[2 * node], self.winners[2 * node + 1]];
            let wins_right = self.times_ns[right as usize] < self.times_ns[left as usize];
            let winner = if wins_right { right } else { left };
            let before = std::mem::replace(&mut self.winners[node], winner);
            // Somebody else won here before and does so again: nobody above has anything new to compare.
            if winner == before && winner as usize != server {
                return;
            }
            node /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_the_earliest_and_of_equal_ones_the_lowest() {
        for len in [1, 2, 3, 16, 17, 256] {
            let mut ends = Ends::never(len);
            let mut times = vec![NEVER_NS; len];
            assert_eq!((ends.first(), ends.first_ns()), (0, NEVER_NS));
            // Any sequence with many equal times will do.
            let mut state: u64 = 1;
            for _ in 0..5_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (server, time) = ((state >> 33) as usize % len, state >> 50 & 31);
                let time = if time == 31 { NEVER_NS } else { time };
                ends.set(server, time);
                times[server] = time;
                let earliest = *times.iter().min().expect("there are some");
                let first = times.iter().position(|time| *time == earliest).expect("it is one of them");
                assert_eq!((ends.first(), ends.first_ns()), (first, earliest));
            }
        }
    }
}
