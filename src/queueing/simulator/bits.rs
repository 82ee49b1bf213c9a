//! [`Bits`]: which of the servers, or of the lines, have something in common; found in a circle.

/// A set of small numbers.
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// None of `len`.
    pub(super) fn none(len: usize) -> Bits {
        Bits(vec![0; len.div_ceil(64)])
    }

    /// All of `len`.
    pub(super) fn all(len: usize) -> Bits {
        let mut bits = Bits::none(len);
        (0..len).for_each(|at| bits.insert(at));
        bits
    }

    pub(super) fn contains(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    pub(super) fn insert(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.0[at / 64] &= !(1 << (at % 64));
    }

    /// The first from `start` on, in a circle.
    pub(super) fn first_from(&self, start: usize) -> Option<usize> {
        let (first, bit) = (start / 64, start % 64);
        let lowest = |word: usize, bits: u64| (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize);
        let from_start = lowest(first, self.0[first] & u64::MAX << bit);
        let others = (first + 1..self.0.len()).chain(0..=first);
        from_start.or_else(|| others.into_iter().find_map(|word| lowest(word, self.0[word])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_found_in_a_circle() {
        for len in [1, 2, 63, 64, 65, 256] {
            for at in [0, len / 2, len - 1] {
                let mut bits = Bits::none(len);
                assert!((0..len).all(|start| bits.first_from(start).is_none() && !bits.contains(start)));
                bits.insert(at);
                assert!((0..len).all(|start| bits.first_from(start) == Some(at)), "{at} of {len}");
                bits.remove(at);
                assert_eq!(bits.first_from(0), None);
            }
            let all = Bits::all(len);
            assert!((0..len).all(|start| all.first_from(start) == Some(start) && all.contains(start)));
        }
        let mut bits = Bits::all(130);
        bits.remove(129);
        assert_eq!(bits.first_from(129), Some(0));
    }
}
