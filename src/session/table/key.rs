//! [`Key`]: the name of one session, as a number that goes through the kernel and comes back. Read next: `table.rs`, where it
//! leads.

/// Set in the number of a key that stands for the second stream: no slot has so high a number.
const UPSTREAM: u64 = 1 << 31;

/// Slots that there are numbers for.
pub(super) const MOST_SLOTS: usize = UPSTREAM as usize;

/// Names one session for ever: its slot, and which of the slot's successive sessions it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl Key {
    /// The key as one number, for the kernel to hand back. Never below 2³², never all ones.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key behind a number, or None for one that is not a session's (below 2³²).
    pub fn from_u64(number: u64) -> Option<Key> {
        let key = Key { index: number as u32, generation: (number >> 32) as u32 };
        (key.generation != 0).then_some(key)
    }

    /// The same for the second stream of the session, if it has one.
    pub fn to_upstream_u64(self) -> u64 {
        self.to_u64() | UPSTREAM
    }

    /// The key behind either number of a session, and whether it was that of its second stream.
    pub fn from_event(number: u64) -> Option<(Key, bool)> {
        Some((Key::from_u64(number & !UPSTREAM)?, number & UPSTREAM != 0))
    }

    /// The slot's number: small, reused, what people are shown.
    pub fn index(self) -> u32 {
        self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_way_through_the_kernel() {
        for (index, generation) in [(0, 1), (7, 1), (u32::MAX, 1), (0, u32::MAX >> 1), (u32::MAX, u32::MAX >> 1)] {
            let key = Key { index, generation };
            assert_eq!(Key::from_u64(key.to_u64()), Some(key));
            assert!(key.to_u64() >= 1 << 32, "smaller numbers are the engine's own");
            assert!(key.to_u64() < u64::MAX, "polling keeps this one for itself");
            let key = Key { index: index >> 1, generation };
            assert_eq!(Key::from_event(key.to_u64()), Some((key, false)));
            assert_eq!(Key::from_event(key.to_upstream_u64()), Some((key, true)));
        }
        for number in [0, 1, u64::from(u32::MAX)] {
            assert_eq!((Key::from_u64(number), Key::from_event(number)), (None, None));
        }
    }
}
