//! Medians, and how far they are to be believed: an interval by the bootstrap.
//!
//! The bootstrap draws as many values as there are, each any of them, again and again, and looks at how the median of what
//! was drawn varies. It supposes nothing of the distribution, which few repeats could not show anyway. Draws are seeded:
//! same values, same interval.

use crate::random::Random;

/// Draws for an interval: its ends are then known to about a hundredth of its width.
const DRAWS: usize = 2_000;
/// What the interval leaves out on either side.
const TAIL: f64 = 0.025;
/// Fewer values have no interval: of three or four, the smallest and the largest come up as a median too often.
pub const LEAST: usize = 3;

/// The median; none without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    middle(&sorted)
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len();
    (n > 0).then(|| (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0)
}

/// A figure with the interval that holds the true one in 95 of 100 studies.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The figure.
    pub center: f64,
    /// Its interval; none with fewer than [`LEAST`] values on a side.
    pub interval: Option<(f64, f64)>,
}

/// The median of some values, with its interval; none without values.
pub fn median_estimate(values: &[f64], seed: u64) -> Option<Estimate> {
    let center = median(values)?;
    let mut random = Random::new(seed);
    let interval = interval(values.len(), || drawn_median(values, &mut random));
    Some(Estimate { center, interval })
}

/// The ratio of the medians of `after` to `before`, with its interval; none without values, or where the median is not
/// above zero.
pub fn ratio_of_medians(before: &[f64], after: &[f64], seed: u64) -> Option<Estimate> {
    let (below, above) = (median(before)?, median(after)?);
    let mut random = Random::new(seed);
    let least = before.len().min(after.len());
    let interval = interval(least, || drawn_median(after, &mut random) / drawn_median(before, &mut random));
    (below > 0.0).then_some(Estimate { center: above / below, interval })
}

fn drawn_median(values: &[f64], random: &mut Random) -> f64 {
    let drawn: Vec<f64> = (0..values.len()).map(|_| values[random.below(values.len())]).collect();
    median(&drawn).expect("there are values")
}

/// What lies between the tails of what is drawn.
fn interval(values: usize, mut draw: impl FnMut() -> f64) -> Option<(f64, f64)> {
    if values < LEAST {
        return None;
    }
    let mut drawn: Vec<f64> = (0..DRAWS).map(|_| draw()).filter(|value| value.is_finite()).collect();
    drawn.sort_unstable_by(f64::total_cmp);
    let out = (drawn.len() as f64 * TAIL) as usize;
    Some((*drawn.get(out)?, drawn[drawn.len() - 1 - out]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn the_interval_of_a_ratio_holds_the_true_one_about_as_often_as_it_says() {
        let mut random = Random::new(5);
        let mut normal = |mean: f64| -> Vec<f64> { (0..11).map(|_| mean + random.normal()).collect() };
        let holds = |seed| {
            let found = ratio_of_medians(&normal(20.0), &normal(30.0), seed).expect("there are values");
            let (low, high) = found.interval.expect("there are enough");
            assert!(low <= found.center && found.center <= high);
            (low..=high).contains(&1.5)
        };
        let held = (0..60).map(holds).filter(|holds| *holds).count();
        // 95 of 100, and four deviations of a count below; the bootstrap of a median is known to be a little wide.
        assert!(held >= 50, "{held} of 60");
        assert!(held < 60, "an interval that always holds it says nothing");
    }

    #[test]
    fn few_values_have_no_interval_and_the_seed_decides_it() {
        let few = ratio_of_medians(&[1.0, 2.0], &[3.0, 4.0, 5.0], 1).expect("there are values");
        assert_eq!(few, Estimate { center: 4.0 / 1.5, interval: None });
        let values = [1.0, 1.5, 2.0, 4.0, 7.0];
        let of = |seed| ratio_of_medians(&values, &[2.0, 3.0, 9.0, 1.0], seed);
        assert_eq!(of(3), of(3));
        assert_eq!(ratio_of_medians(&[0.0, 0.0, 0.0], &values, 1), None);
        assert_eq!(ratio_of_medians(&[], &values, 1), None);
        assert_eq!(median_estimate(&[2.0, 2.0, 2.0], 1), Some(Estimate { center: 2.0, interval: Some((2.0, 2.0)) }));
    }
}
