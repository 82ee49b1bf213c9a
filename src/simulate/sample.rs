//! [`Outcome`]: what is kept of a simulated run, in memory that does not grow with it.
//!
//! Requests that follow each other are delayed by the same queue, so that their spread says nothing of how far their mean
//! is from the truth. Means therefore come with an interval by *batch means*: the run is cut into [`BATCHES`] pieces, each
//! long enough to have nearly forgotten the one before, and the interval comes from how the means of the pieces spread.
//!
//! Invariant *believable*: a quantile has ten samples beyond it (`metrics/histogram.rs`). Read next: `report.rs`.

use crate::metrics::histogram::Histogram;
use crate::queueing::simulator::Served;

/// Pieces of a run.
const BATCHES: usize = 32;
/// How many of them are taken together for one mean, and what 95 % of Student's t lies within for the means that there
/// are then. Where pieces still know of each other, the means of longer ones spread wider than they should: the widest
/// interval is believed.
const STUDENT_T: [(usize, f64); 3] = [(1, 2.039_513), (2, 2.131_450), (4, 2.364_624)];
/// The histograms' longest time is at least sixty thousand mean demands.
const FINEST_PER_MEAN: f64 = 1e6;

/// What was found of requests that were measured.
pub struct Outcome {
    /// How long they were not served.
    pub wait: Sample,
    /// From arrival to end.
    pub sojourn: Sample,
    /// The share of sojourns that took longer than the limit, where there was one.
    pub beyond: Option<BatchMeans>,
    batch_len: u64,
    limit_ns: f64,
}

impl Outcome {
    pub(super) fn new(requests: u64, mean_demand_ns: f64, limit_ns: Option<f64>) -> Outcome {
        let unit_ns = (mean_demand_ns / FINEST_PER_MEAN).ceil().max(1.0) as u64;
        Outcome {
            wait: Sample::new(unit_ns),
            sojourn: Sample::new(unit_ns),
            beyond: limit_ns.map(|_| BatchMeans::default()),
            batch_len: requests.div_ceil(BATCHES as u64),
            limit_ns: limit_ns.unwrap_or(f64::INFINITY),
        }
    }

    /// Records the measured request `number`, from 0 on.
    pub(super) fn record(&mut self, number: u64, served: &Served) {
        let batch = (number / self.batch_len) as usize;
        self.wait.record(batch, served.wait_ns);
        let sojourn_ns = served.sojourn_ns();
        self.sojourn.record(batch, sojourn_ns);
        if let Some(beyond) = &mut self.beyond {
            beyond.record(batch, f64::from(u8::from(sojourn_ns as f64 > self.limit_ns)));
        }
    }
}

/// Times of one kind.
pub struct Sample {
    histogram: Histogram,
    means: BatchMeans,
    /// What a unit of the histogram stands for: more than one where demands take so long that their queues would be more
    /// than it can hold.
    unit_ns: u64,
}

impl Sample {
    fn new(unit_ns: u64) -> Sample {
        Sample { histogram: Histogram::new(), means: BatchMeans::default(), unit_ns }
    }

    fn record(&mut self, batch: usize, ns: u64) {
        self.histogram.record(ns / self.unit_ns);
        self.means.record(batch, ns as f64);
    }

    /// The mean, with the interval that holds the true one in 95 of 100 runs.
    pub fn mean_ns(&self) -> Interval {
        self.means.interval()
    }

    /// The time that a share `quantile` does not exceed, up to 0.1 % too long; none where fewer than ten samples lie beyond
    /// it, or where it is longer than can be told.
    pub fn quantile_ns(&self, quantile: f64) -> Option<f64> {
        let units = self.histogram.believable_quantile(quantile)?;
        (units < Histogram::LONGEST_NS).then(|| (units * self.unit_ns) as f64)
    }
}

/// A mean by pieces of the run.
#[derive(Clone, Debug, Default)]
pub struct BatchMeans {
    sums: [f64; BATCHES],
    counts: [u64; BATCHES],
}

/// A mean and the interval in which the true one lies in 95 of 100 runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The mean that was found.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl BatchMeans {
    fn record(&mut self, batch: usize, value: f64) {
        self.sums[batch] += value;
        self.counts[batch] += 1;
    }

    /// The mean of all, with its interval.
    pub fn interval(&self) -> Interval {
        let all: u64 = self.counts.iter().sum();
        let mean = self.sums.iter().sum::<f64>() / all as f64;
        let halves = STUDENT_T.map(|(together, t)| t * self.deviation(together, mean));
        let half = halves.into_iter().fold(0.0, f64::max);
        Interval { mean, low: mean - half, high: mean + half }
    }

    /// The standard deviation of the mean, from means of so many pieces together.
    fn deviation(&self, together: usize, mean: f64) -> f64 {
        let pieces = self.sums.chunks(together).zip(self.counts.chunks(together));
        let sums = pieces.map(|(sums, counts)| (sums.iter().sum::<f64>(), counts.iter().sum::<u64>()));
        // The last ones are empty where there are hardly more requests than pieces.
        let squares = sums.filter(|(_, count)| *count > 0).map(|(sum, count)| (sum / count as f64 - mean).powi(2));
        let pieces = (BATCHES / together) as f64;
        (squares.sum::<f64>() / (pieces - 1.0) / pieces).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_interval_holds_the_truth_about_as_often_as_it_says() {
        let mut held = 0;
        for seed in 0..1_000 {
            let mut random = Random::new(seed);
            let mut means = BatchMeans::default();
            for number in 0..BATCHES * 20 {
                means.record(number / 20, random.exponential(7.0));
            }
            let interval = means.interval();
            held += usize::from(interval.low <= 7.0 && 7.0 <= interval.high);
        }
        // The widest of three is a little wider than one.
        assert!((940..=990).contains(&held), "{held} of 1000");
    }

    #[test]
    fn times_of_any_length_are_kept() {
        // An hour is more than the histogram holds; its queue is a hundred times that.
        let hour_ns: u64 = 3_600_000_000_000;
        let mut outcome = Outcome::new(1_000, hour_ns as f64, Some(1.5 * hour_ns as f64));
        for number in 0..1_000 {
            let request = crate::queueing::simulator::Request { at_ns: 0, demand_ns: hour_ns, connection: 0 };
            let end_ns = if number < 900 { hour_ns } else { 100 * hour_ns };
            outcome.record(number, &Served { number, request, server: 0, wait_ns: end_ns - hour_ns, end_ns });
        }
        let quantile = |quantile| outcome.sojourn.quantile_ns(quantile).expect("it is believable") / hour_ns as f64;
        assert!((1.0..1.002).contains(&quantile(0.5)) && (100.0..100.2).contains(&quantile(0.95)));
        assert_eq!(outcome.sojourn.quantile_ns(0.999), None, "one of a thousand is beyond it");
        assert!((outcome.beyond.expect("there was a limit").interval().mean - 0.1).abs() < 1e-12);
        assert_eq!(outcome.wait.quantile_ns(0.5), Some(0.0));
    }
}
