//! [`Histogram`]: every measured time is counted in one of these.
//!
//! 1 ns to 60 s at three significant digits, whatever is measured, so that any two can be added and compared. Recording
//! never fails and never allocates: what is longer than 60 s counts as 60 s. A quantile is the upper end of the class
//! that holds it, up to 0.1 % too long and never too short. There is no correction for coordinated omission here: who
//! measures from the intended time needs none.
//!
//! INVARIANT believable: what is reported as a quantile has at least ten samples beyond it.
//!
//! Read next: `load/recorder.rs` and `stages.rs`, which fill them; `load/table.rs`, which draws one.

use std::fmt;
use std::io;

use base64::prelude::{BASE64_STANDARD, Engine};
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::{Serialize, Serializer};

/// Samples that must lie beyond a quantile before it is worth a number: with fewer, the next run's may well be twice it.
pub const SAMPLES_BEYOND: u64 = 10;

/// Times of at most 60 s, in nanoseconds, and how often each was seen.
#[derive(Clone, PartialEq)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

impl Histogram {
    /// The longest time told apart from longer ones.
    pub const LONGEST_NS: u64 = 60_000_000_000;

    const DIGITS: u8 = 3;

    /// One without samples; takes about 220 KiB.
    pub fn new() -> Histogram {
        let histogram = hdrhistogram::Histogram::new_with_bounds(1, Histogram::LONGEST_NS, Histogram::DIGITS);
        Histogram(histogram.expect("1 ns to 60 s at three digits is a valid range"))
    }

    /// Counts one sample.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Counts `count` samples of the same length; none leave no trace.
    pub fn record_n(&mut self, ns: u64, count: u64) {
        // The library would take the length for a maximum all the same.
        if count > 0 {
            self.0.saturating_record_n(ns, count);
        }
    }

    /// How many samples there are.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mean in nanoseconds; 0 without samples.
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// The shortest sample in nanoseconds; 0 without samples.
    pub fn min(&self) -> u64 {
        self.0.min()
    }

    /// The longest sample in nanoseconds; 0 without samples.
    pub fn max(&self) -> u64 {
        // The class of 60 s ends a little above it.
        self.0.max().min(Histogram::LONGEST_NS)
    }

    /// The time in nanoseconds that a share `quantile` of the samples does not exceed; 0 without samples.
    pub fn quantile(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile).min(Histogram::LONGEST_NS)
    }

    /// The same, or None where fewer than [`SAMPLES_BEYOND`] samples lie beyond it.
    pub fn believable_quantile(&self, quantile: f64) -> Option<u64> {
        is_believable(quantile, self.len()).then(|| self.quantile(quantile))
    }

    /// The `rank`-th shortest sample in nanoseconds, from 1; the longest for any rank above; 0 without samples.
    pub fn value_at_rank(&self, rank: u64) -> u64 {
        if self.is_empty() {
            return 0;
        }
        // The crate takes a share and rounds up to a rank: half a rank below, rounding cannot go wrong.
        let share = (rank.max(1) as f64 - 0.5) / self.len() as f64;
        self.0.value_at_quantile(share).min(Histogram::LONGEST_NS)
    }

    /// Adds all samples of `other`.
    pub fn add(&mut self, other: &Histogram) {
        self.0.add(&other.0).expect("all histograms have the same range");
    }

    /// Forgets all samples.
    pub fn clear(&mut self) {
        // Not the crate's `clear`, which keeps the shortest and the longest.
        self.0.reset();
    }

    /// How many samples there are up to the first edge, from each edge to the next, and above the last: one count more
    /// than edges. The edges are nanoseconds, ascending; a sample on an edge counts below it.
    pub fn counts_between(&self, edges_ns: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; edges_ns.len() + 1];
        for class in self.0.iter_recorded() {
            // A class may go beyond its edge, by 0.1 %: it goes where it begins.
            let begin = self.0.lowest_equivalent(class.value_iterated_to());
            counts[edges_ns.partition_point(|&edge| edge < begin)] += class.count_at_value();
        }
        counts
    }

    /// HdrHistogram's exchange format V2, DEFLATEd, in base64: what any of its implementations reads.
    pub fn to_base64(&self) -> String {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).expect("memory takes what is written to it");
        BASE64_STANDARD.encode(bytes)
    }

    /// The histogram that [`to_base64`](Self::to_base64) wrote.
    ///
    /// # Errors
    /// What is wrong with `text`, as it follows the text in a sentence.
    pub fn from_base64(text: &str) -> Result<Histogram, String> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|error| format!("is not base64: {error}"))?;
        let read: hdrhistogram::Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| format!("is not a histogram: {error}"))?;
        if (read.low(), read.high(), read.sigfig()) != (1, Histogram::LONGEST_NS, Histogram::DIGITS) {
            return Err("is a histogram, but not of 1 ns to 60 s at three digits".to_owned());
        }
        Ok(Histogram(read))
    }

    /// Writes the distribution by percentiles, in milliseconds, as HdrHistogram prints it and its plotters read it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_hgrm(&self, out: &mut impl io::Write) -> io::Result<()> {
        // Six decimals of a millisecond are nanoseconds. The column widths are those of the Java implementation.
        let milliseconds = |ns: f64| ns / 1e6;
        writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
        let mut count = 0;
        for step in self.0.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
            count += step.count_since_last_iteration();
            let value = milliseconds(step.value_iterated_to().min(Histogram::LONGEST_NS) as f64);
            let quantile = step.quantile_iterated_to();
            write!(out, "{value:12.6} {quantile:14.12} {count:10}")?;
            // The last line goes without: 1/(1-1) is no number.
            if quantile < 1.0 {
                write!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
            }
            writeln!(out)?;
        }
        let (mean, deviation) = (milliseconds(self.mean()), milliseconds(self.0.stdev()));
        writeln!(out, "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]")?;
        writeln!(out, "#[Max     = {:12.6}, Total count    = {:12}]", milliseconds(self.max() as f64), self.len())?;
        let buckets = self.0.buckets();
        // All buckets but the first use the upper half of their sub-buckets only.
        let sub_buckets = 2 * self.0.distinct_values() / (usize::from(buckets) + 1);
        writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]")
    }
}

/// Lines of the percentile distribution per halving of what is beyond: HdrHistogram's and wrk2's own choice.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Where a share `quantile` of `total` samples ends, counted from 1 at the shortest. Whoever counts more samples than a
/// histogram holds, because some never ended, asks for this rank and [`Histogram::value_at_rank`].
pub fn rank(quantile: f64, total: u64) -> u64 {
    // A hundred times 0.07 is a little more than seven to a computer.
    let exact = quantile * total as f64 * (1.0 - 1e-12);
    (exact.ceil() as u64).clamp(1, total.max(1))
}

/// Whether at least [`SAMPLES_BEYOND`] of `total` samples lie beyond the quantile.
pub fn is_believable(quantile: f64, total: u64) -> bool {
    // 1 - 0.9999 is a little less than 0.0001 to a computer.
    total as f64 * (1.0 - quantile) >= SAMPLES_BEYOND as f64 - 1e-6
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

impl fmt::Debug for Histogram {
    /// What a failed assertion should say, rather than 27,648 counts.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Histogram")
            .field("len", &self.len())
            .field("min", &self.min())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max())
            .finish()
    }
}

impl Serialize for Histogram {
    /// As the text of [`to_base64`](Self::to_base64).
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` samples of 1 us, 2 us, and so on.
    fn microseconds(count: u64) -> Histogram {
        let mut histogram = Histogram::new();
        (1..=count).for_each(|value| histogram.record(value * 1_000));
        histogram
    }

    #[test]
    fn quantiles_are_right_to_three_digits_and_never_too_short() {
        let histogram = microseconds(100_000);
        for (quantile, exact) in [(0.5, 50_000_000), (0.9, 90_000_000), (0.99, 99_000_000), (0.9999, 99_990_000)] {
            let found = histogram.quantile(quantile);
            assert!((exact..=exact + exact / 1_000).contains(&found), "{quantile}: {found}");
        }
        assert_eq!(histogram.quantile(0.0), 1_000);
        assert_eq!(histogram.quantile(1.0), histogram.max());
        assert!((histogram.mean() - 50_000_500.0).abs() < 50_000.0, "{}", histogram.mean());
        assert_eq!(histogram.len(), 100_000);
    }

    #[test]
    fn times_below_two_microseconds_are_exact() {
        let mut histogram = Histogram::new();
        (0..2_048).for_each(|value| histogram.record(value));
        assert!((1..=2_048).all(|rank| histogram.value_at_rank(rank) == rank - 1));
    }

    #[test]
    fn a_rank_is_not_missed_by_one() {
        assert!((1..=100).all(|value| rank(value as f64 / 100.0, 100) == value));
        assert_eq!((rank(0.0, 10), rank(0.01, 10), rank(1.0, 10), rank(0.99, 101)), (1, 1, 10, 100));
        assert_eq!(rank(0.5, 0), 1);
    }

    #[test]
    fn without_samples_all_figures_are_zero() {
        let mut histogram = microseconds(7);
        histogram.clear();
        for histogram in [histogram, Histogram::default()] {
            assert!(histogram.is_empty());
            assert_eq!((histogram.min(), histogram.max(), histogram.quantile(0.99)), (0, 0, 0));
            assert_eq!(histogram.mean(), 0.0);
            assert_eq!(histogram.believable_quantile(0.5), None);
            assert_eq!(histogram.counts_between(&[1]), [0, 0]);
        }
    }

    #[test]
    fn a_quantile_needs_ten_samples_beyond_it() {
        let edges = [(0.5, 20), (0.9, 100), (0.99, 1_000), (0.999, 10_000), (0.9999, 100_000), (0.99999, 1_000_000)];
        for (quantile, least) in edges {
            assert!(is_believable(quantile, least), "{quantile} of {least}");
            assert!(!is_believable(quantile, least - 1), "{quantile} of {least} less one");
        }
        assert_eq!(microseconds(1_000).believable_quantile(0.99), Some(microseconds(1_000).quantile(0.99)));
        assert_eq!(microseconds(999).believable_quantile(0.99), None);
        assert!(!is_believable(1.0, u64::MAX));
    }

    #[test]
    fn what_is_longer_than_a_minute_counts_as_a_minute() {
        let mut histogram = Histogram::new();
        histogram.record_n(Histogram::LONGEST_NS + 1, 3);
        histogram.record(u64::MAX);
        assert_eq!(histogram.len(), 4);
        assert_eq!(histogram.max(), Histogram::LONGEST_NS);
        assert_eq!(histogram.quantile(0.5), Histogram::LONGEST_NS);
        let mut sum = microseconds(1);
        sum.add(&histogram);
        assert_eq!((sum.len(), sum.min(), sum.max()), (5, 1_000, Histogram::LONGEST_NS));
    }

    #[test]
    fn counts_between_edges_miss_nothing() {
        let histogram = microseconds(1_000);
        assert_eq!(histogram.counts_between(&[]), [1_000]);
        let counts = histogram.counts_between(&[10_000, 100_000, 5_000_000]);
        assert_eq!(counts, [10, 90, 900, 0]);
    }

    #[test]
    fn base64_reads_back_and_nothing_else_does() {
        for histogram in [Histogram::new(), microseconds(1), microseconds(5_000)] {
            assert_eq!(Histogram::from_base64(&histogram.to_base64()), Ok(histogram));
        }
        let wrong = |text: &str| Histogram::from_base64(text).expect_err(text);
        assert!(wrong("?").starts_with("is not base64"), "{}", wrong("?"));
        assert!(wrong("").starts_with("is not a histogram"), "{}", wrong(""));
        let mut bytes = Vec::new();
        let other = hdrhistogram::Histogram::<u64>::new(2).expect("two digits are valid");
        V2DeflateSerializer::new().serialize(&other, &mut bytes).expect("memory takes it");
        assert!(wrong(&BASE64_STANDARD.encode(bytes)).starts_with("is a histogram, but"));
    }

    #[test]
    fn the_percentile_distribution_reads_back() {
        let histogram = microseconds(10_000);
        let mut out = Vec::new();
        histogram.write_hgrm(&mut out).expect("memory takes it");
        let text = String::from_utf8(out).expect("it is text");
        let (header, lines) = text.split_once("\n\n").expect("an empty line follows the header");
        assert_eq!(header, "       Value     Percentile TotalCount 1/(1-Percentile)");
        let mut before = (0.0, -1.0, 0);
        let (values, footer): (Vec<&str>, Vec<&str>) = lines.lines().partition(|line| !line.starts_with('#'));
        for line in &values {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let value: f64 = fields[0].parse().expect("milliseconds");
            let quantile: f64 = fields[1].parse().expect("a share");
            let count: u64 = fields[2].parse().expect("a count");
            assert!(value >= before.0 && quantile > before.1 && count >= before.2, "{line}");
            // A sample every microsecond: the count up to a value is the value.
            assert!((value * 1_000.0 - count as f64).abs() <= count as f64 / 1_000.0, "{line}");
            assert!(count as f64 >= quantile * 10_000.0 - 1e-6, "{line}");
            match fields.get(3) {
                Some(odds) => assert_eq!(*odds, format!("{:.2}", 1.0 / (1.0 - quantile)), "{line}"),
                None => assert_eq!(quantile, 1.0, "{line}"),
            }
            before = (value, quantile, count);
        }
        assert_eq!((before.1, before.2), (1.0, 10_000));
        let milliseconds = |ns: f64| format!("{:12.6}", ns / 1e6);
        let deviation = footer[0].rsplit_once("= ").expect("it has two figures").1;
        assert_eq!(
            footer,
            [
                format!("#[Mean    = {}, StdDeviation   = {deviation}", milliseconds(histogram.mean())),
                format!("#[Max     = {}, Total count    =        10000]", milliseconds(histogram.max() as f64)),
                "#[Buckets =           26, SubBuckets     =         2048]".to_owned(),
            ]
        );
    }

    #[test]
    fn no_samples_leave_no_trace() {
        let mut histogram = Histogram::new();
        histogram.record_n(1_000, 0);
        assert_eq!((histogram.len(), histogram.max()), (0, 0));
    }

    #[test]
    fn an_empty_distribution_has_header_and_footer() {
        let mut out = Vec::new();
        Histogram::new().write_hgrm(&mut out).expect("memory takes it");
        let text = String::from_utf8(out).expect("it is text");
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("#[Max     =     0.000000, Total count    =            0]"), "{text}");
    }
}
