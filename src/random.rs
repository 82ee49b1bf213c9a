//! [`Random`]: the seeded generator (splitmix64) behind arrivals, demands, orders and tests. Not for secrets.
//!
//! Our own, in a few lines, because a stream that a library may change in its next version would change published
//! traces. The whole numbers are the same on every machine; what goes through a logarithm or a cosine may differ in its
//! last bit with the system's mathematics.
//!
//! Invariant *open-interval*: [`Random::uniform`] is never 0 and never 1, so that its logarithm is finite and negative.

use std::f64::consts::TAU;

/// Added to the state with each draw: 2^64 over the golden ratio, made odd, so that all states come up.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of draws that its seed decides.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of `seed`. Every seed is as good as any other, zero too.
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// The sequence of item `index` of the stream `stream` of `seed`: what it draws depends on nobody else's draws, and
    /// no two items of one stream begin alike.
    pub fn at(seed: u64, stream: u64, index: u64) -> Random {
        Random::new(number(number(seed, stream), index))
    }

    /// Uniform over all 64 bits.
    #[allow(clippy::should_implement_trait, reason = "the field's name for it; a sequence without end is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mixed(self.state)
    }

    /// Uniform below `bound`; the bias of the multiplication is far below what anyone could see.
    ///
    /// # Panics
    /// There is nothing below a `bound` of zero.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "there is nothing below zero");
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Uniform in the open interval from 0 to 1, in odd multiples of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        // Half a step added to 53 bits would do as well, but the largest of those sums rounds up to 1.
        (self.next() >> 11 | 1) as f64 / (1_u64 << 53) as f64
    }

    /// Exponential with this mean. One draw.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.uniform().ln()
    }

    /// Normal with mean 0 and standard deviation 1, by Box and Muller. Two draws: the first gives the distance from the
    /// middle, the second the angle. The sine, which would be another normal, is dropped: who keeps it for the next
    /// call has a sequence in which calls no longer take as many draws as each other.
    pub fn normal(&mut self) -> f64 {
        let distance = (-2.0 * self.uniform().ln()).sqrt();
        let angle = TAU * self.uniform();
        distance * angle.cos()
    }

    /// Brings the items into any order, each as likely as any other.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Number `index`, from zero, of the sequence of `seed`, without those before it.
fn number(seed: u64, index: u64) -> u64 {
    mixed(seed.wrapping_add(STEP.wrapping_mul(index.wrapping_add(1))))
}

/// The finalizer of splitmix64: one to one, and each bit of the state decides half of the bits.
fn mixed(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DRAWS: usize = 100_000;

    /// Mean and variance of many draws.
    fn moments(draw: impl FnMut() -> f64) -> (f64, f64) {
        let draws: Vec<f64> = std::iter::repeat_with(draw).take(DRAWS).collect();
        let mean = draws.iter().sum::<f64>() / DRAWS as f64;
        (mean, draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / DRAWS as f64)
    }

    fn is_near(found: f64, expected: f64, tolerance: f64) -> bool {
        (found - expected).abs() <= tolerance
    }

    #[test]
    fn the_numbers_are_those_of_the_reference_implementation() {
        let of_zero: [u64; 4] =
            [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f, 0xf88b_b8a8_724c_81ec];
        let of_1234567: [u64; 5] = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        for (seed, expected) in [(0, &of_zero[..]), (1_234_567, &of_1234567)] {
            let mut random = Random::new(seed);
            for (index, &expected) in expected.iter().enumerate() {
                assert_eq!(random.next(), expected, "number {index} of seed {seed}");
                assert_eq!(number(seed, index as u64), expected, "number {index} of seed {seed}, without those before");
            }
        }
    }

    #[test]
    fn uniform_stays_inside_its_interval_and_is_uniform() {
        // The states whose mix is all zeros and all ones are not found by drawing.
        let ends = [0_u64, u64::MAX].map(|bits| (bits >> 11 | 1) as f64 / (1_u64 << 53) as f64);
        assert_eq!(ends, [2.0_f64.powi(-53), 1.0 - 2.0_f64.powi(-53)]);
        assert!(ends[1] < 1.0 && ends[1].ln() < 0.0);

        let mut random = Random::new(1);
        let (mean, variance) = moments(|| random.uniform());
        assert!(is_near(mean, 0.5, 0.004) && is_near(variance, 1.0 / 12.0, 0.001), "{mean} {variance}");
    }

    #[test]
    fn exponential_and_normal_have_their_moments() {
        let mut random = Random::new(2);
        let (mean, variance) = moments(|| random.exponential(3.0));
        assert!(is_near(mean, 3.0, 0.04) && is_near(variance, 9.0, 0.4), "{mean} {variance}");
        let (mean, variance) = moments(|| random.normal());
        assert!(is_near(mean, 0.0, 0.013) && is_near(variance, 1.0, 0.02), "{mean} {variance}");
        let within_one = (0..DRAWS).filter(|_| random.normal().abs() < 1.0).count() as f64 / DRAWS as f64;
        assert!(is_near(within_one, 0.682_689, 0.006), "{within_one}");
    }

    #[test]
    fn each_call_takes_the_draws_that_it_promises() {
        let (mut random, mut beside) = (Random::new(3), Random::new(3));
        let mut skip = |draws: usize| {
            for _ in 0..draws {
                beside.next();
            }
        };
        random.below(7);
        skip(1);
        random.exponential(1.0);
        skip(1);
        random.normal();
        skip(2);
        assert_eq!(random.next(), beside.next());
    }

    #[test]
    fn below_and_shuffle_favour_nobody() {
        let mut random = Random::new(4);
        let mut counts = [0_usize; 7];
        (0..70_000).for_each(|_| counts[random.below(7)] += 1);
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 400), "{counts:?}");
        assert_eq!(random.below(1), 0);

        let mut first_places = [0_usize; 5];
        for _ in 0..50_000 {
            let mut items = [0, 1, 2, 3, 4];
            random.shuffle(&mut items);
            first_places[items[0]] += 1;
            items.sort_unstable();
            assert_eq!(items, [0, 1, 2, 3, 4]);
        }
        assert!(first_places.iter().all(|count| count.abs_diff(10_000) < 400), "{first_places:?}");
        random.shuffle::<u8>(&mut []);
    }

    #[test]
    fn streams_and_items_are_repeated_alike_and_independent() {
        assert_eq!(Random::at(5, 1, 9).next(), Random::at(5, 1, 9).next());
        let mut begins = BTreeSet::new();
        for (seed, stream) in [(0, 0), (0, 1), (1, 0), (1, 1), (u64::MAX, u64::MAX)] {
            begins.extend((0..10_000).map(|index| Random::at(seed, stream, index).next()));
        }
        assert_eq!(begins.len(), 50_000, "two items begin alike");

        // The correlation of neighbours: of items, of streams, of seeds, and of an item's own draws.
        let first = |seed, stream, index| Random::at(seed, stream, index).uniform();
        let second = |index| {
            let mut random = Random::at(6, 0, index);
            random.next();
            random.uniform()
        };
        let pairs: [&dyn Fn(u64) -> (f64, f64); 4] = [
            &|index| (first(6, 0, index), first(6, 0, index + 1)),
            &|index| (first(6, 0, index), first(6, 1, index)),
            &|index| (first(6, 0, index), first(7, 0, index)),
            &|index| (first(6, 0, index), second(index)),
        ];
        for (which, pair) in pairs.iter().enumerate() {
            let products = (0..DRAWS as u64).map(|index| {
                let (left, right) = pair(index);
                (left - 0.5) * (right - 0.5)
            });
            let correlation = products.sum::<f64>() / DRAWS as f64 * 12.0;
            // Its standard deviation is the root of 1 / DRAWS.
            assert!(correlation.abs() < 4.0 / (DRAWS as f64).sqrt(), "pair {which}: {correlation}");
        }
    }
}
