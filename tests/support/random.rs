//! What seeded tests draw beside numbers; the generator is [`Random`]: the same seed, the same test.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use maitred::random::Random;

pub(crate) trait Draw {
    /// Uniform from 1 to `most`.
    fn up_to(&mut self, most: usize) -> usize;

    /// True once in `n` times.
    fn once_in(&mut self, n: usize) -> bool;

    fn pick<T: Copy>(&mut self, items: &[T]) -> T;
}

impl Draw for Random {
    fn up_to(&mut self, most: usize) -> usize {
        1 + self.below(most)
    }

    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}
