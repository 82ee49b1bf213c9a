//! The centre of a few noisy values, and its 95% interval.
//!
//! Both come from the means of all pairs (Hodges and Lehmann): the centre is their median, the
//! interval lies between two of them, chosen by the exact distribution of Wilcoxon's signed ranks.
//! That supposes symmetry and nothing else, which the logarithms of ratios of interleaved runs
//! have when nothing differs; a wild round cannot move it, as it would a mean; and it needs a
//! third fewer rounds than the interval of a plain median. Six values are the least that promise
//! 95%.

pub(crate) use maitred::study::estimate::median;

/// A centre with its 95% interval.
#[derive(Clone, Copy)]
pub(crate) struct Estimate {
    pub(crate) center: f64,
    /// Absent below six values.
    pub(crate) interval: Option<(f64, f64)>,
}

impl Estimate {
    /// Absent without values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut means: Vec<f64> = (values.iter().enumerate())
            .flat_map(|(index, a)| values[index..].iter().map(move |b| (a + b) / 2.0))
            .collect();
        means.sort_by(f64::total_cmp);
        let outside = means_outside(values.len());
        let interval = (outside > 0).then(|| (means[outside - 1], means[means.len() - outside]));
        Some(Self { center: median(&means)?, interval })
    }

    /// Of ratios: centred between their logarithms, so that `a / b` and `b / a` say the same.
    pub(crate) fn of_ratios(ratios: &[f64]) -> Option<Self> {
        let logarithms: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let Self { center, interval } = Self::of(&logarithms)?;
        Some(Self { center: center.exp(), interval: interval.map(|(low, high)| (low.exp(), high.exp())) })
    }

    /// Whether a ratio is known to within `share`, say 0.03 for three percent either way.
    pub(crate) fn is_within(&self, share: f64) -> bool {
        self.interval.is_some_and(|(low, high)| (high / low).ln() / 2.0 <= share)
    }
}

/// The largest k such that the centre lies outside the k-th smallest and k-th largest mean of
/// pairs of `n` values at most one time in twenty; 0 if there is none.
fn means_outside(n: usize) -> usize {
    // The chance of each sum of ranks, when every rank from 1 to n counts or not by a fair coin.
    let mut chances = vec![0.0; n * (n + 1) / 2 + 1];
    chances[0] = 1.0;
    for rank in 1..=n {
        for sum in (0..chances.len()).rev() {
            let with_rank = if sum >= rank { chances[sum - rank] } else { 0.0 };
            chances[sum] = (chances[sum] + with_rank) / 2.0;
        }
    }
    let cumulative = chances.iter().scan(0.0, |total, chance| {
        *total += chance;
        Some(*total)
    });
    cumulative.take_while(|chance| *chance <= 0.025).count()
}
