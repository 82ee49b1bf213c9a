//! [`Estimate`]: the middle of a few runs with its 95 % interval; [`ratio`]: how two configurations compare, run by
//! run.
//!
//! Both are medians with a bootstrap: the runs are drawn again, with replacement, and the interval holds what 95 % of
//! the draws say. The draws are seeded, so the same runs have the same interval. Runs of one repeat had the same trace
//! and the same minutes of the machine, so a ratio draws repeats, and takes both sides of each.
//!
//! INVARIANT no-interval-of-few: below [`FEWEST`] runs there is none. What few runs can promise at all is
//! [`most_confidence`].
//!
//! Read next: `report/digest.rs`, which groups the runs.

use crate::random::Random;

/// The fewest runs with an interval: with two it would be the two.
pub const FEWEST: usize = 3;
/// Draws of a bootstrap: enough that its ends lie between the same runs whatever the seed.
const DRAWS: usize = 1_000;
/// Of the draws, those that lie below the interval, and above it.
const OUTSIDE: usize = DRAWS / 40;
/// Any number would do.
const SEED: u64 = 0x6d_6169_7472_6564;

/// A median with what the runs say of its certainty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The median.
    pub center: f64,
    /// The 95 % interval; none with fewer than [`FEWEST`] runs.
    pub interval: Option<(f64, f64)>,
    /// How many runs it is of.
    pub runs: usize,
}

impl Estimate {
    /// The median of these; none without any.
    pub fn of(values: &[f64]) -> Option<Estimate> {
        let center = median(values)?;
        let interval = bootstrap(values.len(), |draw| {
            let drawn: Vec<f64> = draw.iter().map(|at| values[*at]).collect();
            median(&drawn).expect("as many are drawn as there are")
        });
        Some(Estimate { center, interval, runs: values.len() })
    }

    /// Whether the interval lies on one side of `value`. False without one.
    pub fn excludes(&self, value: f64) -> bool {
        self.interval.is_some_and(|(low, high)| low > value || high < value)
    }
}

/// The median of the first of each pair by that of the second; none without pairs, or where the second is zero.
pub fn ratio(pairs: &[(f64, f64)]) -> Option<Estimate> {
    let of = |drawn: &mut dyn Iterator<Item = (f64, f64)>| {
        let (firsts, seconds): (Vec<f64>, Vec<f64>) = drawn.unzip();
        Some(median(&firsts)? / median(&seconds)?).filter(|ratio| ratio.is_finite())
    };
    let center = of(&mut pairs.iter().copied())?;
    let interval = bootstrap(pairs.len(), |draw| {
        // A draw of nothing but zeros says nothing; it counts as no difference.
        of(&mut draw.iter().map(|at| pairs[*at])).unwrap_or(1.0)
    });
    Some(Estimate { center, interval, runs: pairs.len() })
}

/// The median of `after` by that of `before`, whose runs have nothing to do with each other: two studies. None without
/// values, or where the second is zero.
pub fn ratio_of_medians(before: &[f64], after: &[f64]) -> Option<Estimate> {
    // A draw of nothing but zeros says nothing; it counts as no difference.
    let ratio = |before: &[f64], after: &[f64]| {
        median(after)
            .zip(median(before))
            .map(|(above, below)| above / below)
            .filter(|ratio| ratio.is_finite())
            .unwrap_or(1.0)
    };
    let (below, above) = (median(before)?, median(after)?);
    (below > 0.0).then(|| of_two(before, after, above / below, ratio))
}

/// What the mean of `after` is above that of `before`, of two studies. Means, since what seldom happens has a median of
/// nothing. None without values.
pub fn difference_of_means(before: &[f64], after: &[f64]) -> Option<Estimate> {
    let center = mean(after)? - mean(before)?;
    let difference =
        |before: &[f64], after: &[f64]| mean(after).zip(mean(before)).map_or(0.0, |(above, below)| above - below);
    Some(of_two(before, after, center, difference))
}

/// What `of` says of two sides that are drawn apart.
fn of_two(before: &[f64], after: &[f64], center: f64, of: impl Fn(&[f64], &[f64]) -> f64) -> Estimate {
    let (from, to) = (before.len(), after.len());
    // The places of both sides are drawn in one; each takes its own part of them.
    let drawn = |values: &[f64], draw: &[usize]| draw.iter().map(|at| values[at % values.len()]).collect::<Vec<f64>>();
    let interval = bootstrap_of(from.min(to), from + to, from * to, |draw| {
        of(&drawn(before, &draw[..from]), &drawn(after, &draw[from..]))
    });
    Estimate { center, interval, runs: from.min(to) }
}

/// The mean of these; none without any.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The middle of these, or the mean of the two in the middle; none without any.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let many = sorted.len();
    (many > 0).then(|| (sorted[(many - 1) / 2] + sorted[many / 2]) / 2.0)
}

/// How surely the true median lies between the least and the greatest of so many runs, whatever their distribution: no
/// interval made of them can promise more.
pub fn most_confidence(runs: usize) -> f64 {
    1.0 - 2.0 * 0.5_f64.powi(i32::try_from(runs).unwrap_or(i32::MAX))
}

/// The interval of what `of` says of so many drawn with replacement, given by their places.
fn bootstrap(many: usize, of: impl Fn(&[usize]) -> f64) -> Option<(f64, f64)> {
    bootstrap_of(many, many, many, of)
}

/// The same where `many` places below `below` are drawn, of what has `runs`.
fn bootstrap_of(runs: usize, many: usize, below: usize, of: impl Fn(&[usize]) -> f64) -> Option<(f64, f64)> {
    if runs < FEWEST {
        return None;
    }
    let mut random = Random::new(SEED);
    let mut drawn: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let places: Vec<usize> = (0..many).map(|_| random.below(below)).collect();
            of(&places)
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    Some((drawn[OUTSIDE], drawn[DRAWS - 1 - OUTSIDE]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle_and_without_values_there_is_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
        assert_eq!((median(&[]), Estimate::of(&[]), ratio(&[])), (None, None, None));
    }

    #[test]
    fn the_interval_covers_the_true_median_about_as_often_as_it_says() {
        // Exponential times have their median at ln 2.
        let mut random = Random::new(5);
        let covered = (0..400).filter(|_| {
            let runs: Vec<f64> = (0..15).map(|_| random.exponential(1.0)).collect();
            let (low, high) = Estimate::of(&runs).and_then(|estimate| estimate.interval).expect("15 runs have one");
            (low..=high).contains(&2.0_f64.ln())
        });
        let covered = covered.count() as f64 / 400.0;
        assert!((0.90..=0.99).contains(&covered), "{covered}");
    }

    #[test]
    fn few_runs_have_no_interval_and_some_more_no_more_than_their_ends() {
        assert_eq!(Estimate::of(&[1.0, 2.0]).map(|estimate| estimate.interval), Some(None));
        let three = Estimate::of(&[1.0, 2.0, 5.0]).expect("there are values");
        assert_eq!((three.center, three.interval, three.runs), (2.0, Some((1.0, 5.0)), 3));
        assert_eq!([3, 5, 6].map(most_confidence), [0.75, 0.9375, 0.96875]);
    }

    #[test]
    fn a_ratio_sees_through_what_both_sides_had_in_common() {
        // The machine drifts by a factor of eight; one side is a fifth slower in every repeat.
        let pairs = [1.0, 8.0, 2.0, 4.0, 3.0].map(|drift| (1.2 * drift, drift));
        let seen = ratio(&pairs).expect("there are pairs");
        assert!((seen.center - 1.2).abs() < 1e-12 && seen.excludes(1.0), "{seen:?}");
        let (low, high) = seen.interval.expect("five pairs have one");
        assert!((low - 1.2).abs() < 1e-9 && (high - 1.2).abs() < 1e-9, "{seen:?}");

        let none = ratio(&[(1.0, 1.1), (2.0, 1.8), (3.0, 3.1), (1.5, 1.4), (2.5, 2.6)]).expect("there are pairs");
        assert!(!none.excludes(1.0), "{none:?}");
        assert_eq!(ratio(&[(1.0, 0.0)]), None);
    }

    #[test]
    fn two_studies_have_a_ratio_that_knows_nothing_of_pairs() {
        let (before, after) = ([10.0, 11.0, 9.0, 10.5, 9.5], [30.0, 33.0, 27.0]);
        let seen = ratio_of_medians(&before, &after).expect("there are values");
        assert_eq!((seen.center, seen.runs), (3.0, 3));
        assert!(
            seen.interval.is_some_and(|(low, high)| (2.4..3.0).contains(&low) && (3.0..3.7).contains(&high)),
            "{seen:?}"
        );
        assert_eq!(ratio_of_medians(&before[..2], &after).map(|seen| seen.interval), Some(None));
        assert_eq!(ratio_of_medians(&[0.0; 3], &after), None);
        assert_eq!(ratio_of_medians(&[], &after), None);
        let same = ratio_of_medians(&[2.0; 4], &[2.0; 6]).expect("there are values");
        assert_eq!(same.interval, Some((1.0, 1.0)));
    }

    #[test]
    fn a_difference_is_of_means_and_has_an_interval_where_a_ratio_has_none() {
        let seen = difference_of_means(&[0.0; 5], &[0.0, 0.1, 0.0, 0.1, 0.05]).expect("there are values");
        assert!((seen.center - 0.05).abs() < 1e-12, "{seen:?}");
        assert!(seen.interval.is_some_and(|(low, high)| 0.0 < low && low < 0.05 && 0.05 < high), "{seen:?}");
        assert_eq!(difference_of_means(&[0.25; 4], &[0.25; 3]).map(|seen| seen.interval), Some(Some((0.0, 0.0))));
        assert_eq!(difference_of_means(&[0.2; 2], &[0.9; 9]).map(|seen| seen.interval), Some(None));
        assert_eq!((difference_of_means(&[], &[0.1]), difference_of_means(&[0.1], &[])), (None, None));
    }
}
