//! Medians and their interval.
//!
//! The interval is the exact, distribution-free one from order statistics: the k-th smallest and
//! k-th largest value enclose the median unless fewer than k of n fair coins fall on one side. It
//! makes no assumption about how a noisy machine disturbs a run, one wild round cannot widen it
//! for ever, and nothing is resampled. It takes six values to promise 95%.

/// A median with its 95% interval.
#[derive(Clone, Copy)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    /// Absent below six values.
    pub(crate) interval: Option<(f64, f64)>,
}

impl Estimate {
    /// Absent without values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
        let outside = values_outside(n);
        let interval = (outside > 0).then(|| (sorted[outside - 1], sorted[n - outside]));
        Some(Self { median, interval })
    }

    /// Whether a ratio is known to within `share`, say 0.03 for three percent either way.
    pub(crate) fn is_within(&self, share: f64) -> bool {
        self.interval.is_some_and(|(low, high)| (high / low).ln() / 2.0 <= share)
    }
}

/// The largest k such that a median lies outside the k-th smallest and k-th largest of `n` values
/// at most one time in twenty; 0 if there is none.
fn values_outside(n: usize) -> usize {
    let mut probability = 0.5_f64.powi(n as i32);
    let mut cumulative = 0.0;
    for k in 0..n {
        cumulative += probability;
        if cumulative > 0.025 {
            return k;
        }
        probability *= (n - k) as f64 / (k + 1) as f64;
    }
    0
}
