//! [`Breakdown`]: where the requests around a quantile of the latency spent their time.
//!
//! The p99 of each stage says nothing of the requests at the p99 of the whole: who waited long in one stage need not
//! have waited in another. So the stages are summed by how long the whole request took, in classes that are a sixteenth
//! of a power of two wide, and a quantile is given the means of the requests whose rank lies near its own: in memory
//! that does not grow with the load, and with a table that other threads' can be added to.
//!
//! Invariants: *sums*: the stages of a quantile add up to the mean latency of the same requests, exactly, and that lies
//! within [`WIDTH`] of some latency that these ranks have. *whole*: only requests count of which every stage is known.
//!
//! Read next: `recorder.rs`, which fills it.

use crate::metrics::histogram::is_believable;

/// Classes of each power of two.
const CLASSES: usize = 1 << CLASS_BITS;
const CLASS_BITS: u32 = 4;
/// How far apart the latencies of one class lie, as a share.
pub const WIDTH: f64 = 1.0 / CLASSES as f64;
/// The longest power of two that is told apart from longer ones: more than a minute.
const LONGEST_BITS: u32 = 37;
/// Ranks count that lie nearer to the quantile than this share of all.
const NEAR: f64 = 0.05;

/// Stages of a request.
pub const STAGES: usize = 5;

/// Sums of stages by the latency of the whole.
#[derive(Clone, Default)]
pub struct Breakdown {
    /// Empty until there is a request.
    classes: Vec<Class>,
    requests: u64,
}

#[derive(Clone, Copy, Default)]
struct Class {
    requests: u64,
    stages_ns: [u64; STAGES],
}

/// What the requests around a quantile spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Around {
    /// How many they are; parts where a class lies in the range in part.
    pub requests: f64,
    /// The mean of each stage.
    pub stages_ns: [f64; STAGES],
}

impl Breakdown {
    /// Counts a request with its stages, which together are its latency.
    pub fn record(&mut self, stages_ns: [u64; STAGES]) {
        if self.classes.is_empty() {
            self.classes = vec![Class::default(); class_of(u64::MAX) + 1];
        }
        let class = &mut self.classes[class_of(stages_ns.iter().sum())];
        class.requests += 1;
        self.requests += 1;
        for (sum, ns) in class.stages_ns.iter_mut().zip(stages_ns) {
            *sum += ns;
        }
    }

    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Breakdown) {
        if self.classes.is_empty() {
            self.classes.clone_from(&other.classes);
        } else {
            for (class, more) in self.classes.iter_mut().zip(&other.classes) {
                class.requests += more.requests;
                for (sum, ns) in class.stages_ns.iter_mut().zip(more.stages_ns) {
                    *sum += ns;
                }
            }
        }
        self.requests += other.requests;
    }

    /// The requests whose rank lies within half of what is beyond the quantile, and within a twentieth of all: from
    /// p98.5 to p99.5 for p99, from p45 to p55 for p50. None with fewer than ten samples beyond it.
    pub fn around(&self, quantile: f64) -> Option<Around> {
        if !is_believable(quantile, self.requests) {
            return None;
        }
        let all = self.requests as f64;
        let reach = ((1.0 - quantile) / 2.0).min(NEAR);
        let (from, to) = ((quantile - reach) * all, (quantile + reach) * all);
        let mut around = Around { requests: 0.0, stages_ns: [0.0; STAGES] };
        let mut rank = 0.0;
        for class in self.classes.iter().filter(|class| class.requests > 0) {
            let many = class.requests as f64;
            // Within a class nothing tells one request from another.
            let counted = (to.min(rank + many) - from.max(rank)).max(0.0);
            rank += many;
            around.requests += counted;
            for (sum, ns) in around.stages_ns.iter_mut().zip(class.stages_ns) {
                *sum += ns as f64 * counted / many;
            }
        }
        around.stages_ns = around.stages_ns.map(|sum| sum / around.requests);
        Some(around)
    }
}

/// Times up to a class's width each have a class of their own; then every power of two has sixteen.
fn class_of(ns: u64) -> usize {
    let ns = ns.min((1 << LONGEST_BITS) - 1);
    let above = (u64::BITS - ns.leading_zeros()).saturating_sub(CLASS_BITS + 1);
    above as usize * CLASSES + (ns >> above) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::histogram::Histogram;
    use crate::random::Random;

    #[test]
    fn classes_are_in_order_and_no_wider_than_they_say() {
        let mut before = 0;
        let mut first_ns = 0;
        for ns in
            (0..5_000).chain((13..37).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + (1 << (bits - 5))]))
        {
            let class = class_of(ns);
            assert!(class == before || class == before + 1 || ns > 5_000 && class > before, "{ns}");
            if class != before {
                (before, first_ns) = (class, ns);
            }
            assert!((ns - first_ns) as f64 <= ns as f64 * WIDTH, "{ns} is in the class of {first_ns}");
        }
        assert_eq!(class_of(u64::MAX), class_of((1 << LONGEST_BITS) - 1));
    }

    #[test]
    fn the_stages_of_a_quantile_are_those_of_the_requests_that_are_there() {
        // Most wait for their service alone; one in a hundred waits in the queue, and is the tail.
        let mut breakdown = Breakdown::default();
        (0..9_900).for_each(|_| breakdown.record([0, 10_000, 0, 100_000, 20_000]));
        (0..100).for_each(|_| breakdown.record([0, 10_000, 900_000, 100_000, 20_000]));
        let body = breakdown.around(0.5).expect("there are enough");
        assert_eq!(body.stages_ns, [0.0, 10_000.0, 0.0, 100_000.0, 20_000.0]);
        assert!((body.requests - 1_000.0).abs() < 1e-6, "from p45 to p55: {}", body.requests);
        let tail = breakdown.around(0.999).expect("there are enough");
        assert_eq!(tail.stages_ns, [0.0, 10_000.0, 900_000.0, 100_000.0, 20_000.0]);
        // The p99 lies on the edge: half of its requests are on either side.
        let edge = breakdown.around(0.99).expect("there are enough");
        assert!((edge.stages_ns[2] - 450_000.0).abs() < 1.0, "{edge:?}");
        assert_eq!(breakdown.around(0.9999), None, "fewer than ten beyond it");
        assert_eq!(Breakdown::default().around(0.5), None);
    }

    #[test]
    fn stages_add_up_to_a_latency_within_a_class_of_the_quantile() {
        let mut random = Random::new(3);
        let (mut breakdown, mut whole, mut histogram) = (Breakdown::default(), Breakdown::default(), Histogram::new());
        for number in 0..40_000 {
            let stages_ns: [u64; STAGES] =
                std::array::from_fn(|stage| random.exponential(1e4 * (stage + 1) as f64) as u64);
            histogram.record(stages_ns.iter().sum());
            // As two threads would.
            if number % 3 == 0 { breakdown.record(stages_ns) } else { whole.record(stages_ns) }
        }
        whole.add(&breakdown);
        let mut into_empty = Breakdown::default();
        into_empty.add(&whole);
        for quantile in [0.5, 0.9, 0.99, 0.999] {
            let around = whole.around(quantile).expect("there are enough");
            let reach = ((1.0 - quantile) / 2.0_f64).min(NEAR);
            let [low, high] = [quantile - reach, quantile + reach].map(|at| histogram.quantile(at) as f64);
            let sum: f64 = around.stages_ns.iter().sum();
            assert!(low * (1.0 - WIDTH) <= sum && sum <= high * (1.0 + WIDTH), "{quantile}: {low} {sum} {high}");
            assert_eq!(into_empty.around(quantile), Some(around));
        }
    }
}
