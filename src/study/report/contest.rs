//! [`Contest`]: the series that had the same to do at one point, and which of them did best, if that can be told.
//!
//! The same to do is the same mix, point and rate: at one share of capacity, two workers are asked for twice as much as
//! one, and their latencies say nothing about which is better. A difference counts only if the interval of its ratio
//! excludes 1 and the ratio is beyond the noise floor; what does not count is a tie, however large it looks.
//!
//! Read next: `findings.rs`, contests in words; `figures/crossover.rs`, contests as a map.

use super::digest::{Digest, Measure, Mix, Series, Spot};
use crate::study::estimate::Estimate;
use crate::study::row::Limit;

/// Rates that differ by less than this part are the same.
const SAME_RATE: f64 = 1e-6;

/// Series that had the same to do.
#[derive(Debug)]
pub(super) struct Contest<'d, 'a> {
    /// What clients asked for.
    pub(super) mix: &'d Mix<'a>,
    /// What they are compared by: latency in an open loop, throughput in a closed one.
    pub(super) measure: Measure,
    /// At least two, the best first.
    pub(super) ranking: Vec<Entry<'d, 'a>>,
    /// Those at the head of the ranking that cannot be told from the best, with it; 1 if it is alone.
    pub(super) tied: usize,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'d, 'a> {
    /// What served.
    pub(super) series: &'d Series<'a>,
    /// How it did.
    pub(super) spot: &'d Spot<'a>,
    /// How many times worse than the best; 1 for itself.
    pub(super) behind: Estimate,
}

impl<'d, 'a> Contest<'d, 'a> {
    /// All contests of a study, by mix and load.
    pub(super) fn all(digest: &'d Digest<'a>) -> Vec<Contest<'d, 'a>> {
        let of_mix = |mix| groups(mix).into_iter().filter_map(move |group| Contest::of(digest, mix, group));
        digest.mixes.iter().flat_map(of_mix).collect()
    }

    fn of(digest: &Digest<'_>, mix: &'d Mix<'a>, group: Vec<Member<'d, 'a>>) -> Option<Contest<'d, 'a>> {
        let measure = measure(&group)?;
        let mut able: Vec<(Estimate, Member<'_, '_>)> =
            group.into_iter().filter_map(|member| Some((member.spot.estimate(measure)?, member))).collect();
        let is_more_better = measure == Measure::Achieved;
        able.sort_by(|(one, _), (other, _)| match is_more_better {
            true => other.center.total_cmp(&one.center),
            false => one.center.total_cmp(&other.center),
        });
        let best = able.first()?.1.spot;
        let entry = |(estimate, Member { series, spot }): &(Estimate, Member<'d, 'a>)| {
            let ratio = match (std::ptr::eq(*spot, best), is_more_better) {
                (true, _) => Some(Estimate { center: 1.0, interval: Some((1.0, 1.0)), runs: estimate.runs }),
                (false, true) => best.ratio_to(spot, measure),
                (false, false) => spot.ratio_to(best, measure),
            };
            Some(Entry { series, spot, behind: ratio? })
        };
        let mut ranking: Vec<Entry<'_, '_>> = able.iter().filter_map(entry).collect();
        if ranking.len() < 2 {
            return None;
        }
        let floor = digest.noise.floor(measure);
        let is_tied = |entry: &Entry<'_, '_>| !counts(entry.behind, floor);
        // Those that are tied stand together, also where one with wide intervals is farther off than one with narrow ones.
        ranking.sort_by_key(|entry| !is_tied(entry));
        let tied = ranking.iter().filter(|entry| is_tied(entry)).count();
        Some(Contest { mix, measure, ranking, tied })
    }

    /// The best one, if it is alone.
    pub(super) fn winner(&self) -> Option<&Entry<'d, 'a>> {
        self.ranking.first().filter(|_| self.tied == 1)
    }

    /// How many times worse the next one is; of a tie, how it looks.
    pub(super) fn lead(&self) -> Estimate {
        self.ranking[1].behind
    }

    /// What to call one of them here: without its workers, where all have the same number of them.
    pub(super) fn name(&self, series: &'d Series<'a>) -> &'d str {
        if self.workers().is_some() { &series.family } else { &series.label }
    }

    /// The number of workers that all of them have; none if they differ.
    pub(super) fn workers(&self) -> Option<usize> {
        let workers = self.ranking[0].series.workers;
        self.ranking.iter().all(|entry| entry.series.workers == workers).then_some(workers)
    }

    /// As `load=0.5`.
    pub(super) fn point(&self) -> &'a str {
        self.ranking[0].spot.point
    }

    /// Whether a limit of load or machine may have decided the first two places.
    pub(super) fn is_limited(&self) -> bool {
        let is_limited =
            |entry: &Entry<'_, '_>| entry.spot.limited_by(Limit::Generator) + entry.spot.limited_by(Limit::Machine) > 0;
        self.ranking.iter().take(2).any(is_limited)
    }
}

/// Whether a ratio is more than noise.
pub(super) fn counts(ratio: Estimate, floor: Option<f64>) -> bool {
    let is_beyond_floor = ratio.center.max(1.0 / ratio.center) > floor.unwrap_or(1.0);
    ratio.excludes(1.0) && is_beyond_floor
}

#[derive(Clone, Copy)]
struct Member<'d, 'a> {
    series: &'d Series<'a>,
    spot: &'d Spot<'a>,
}

/// The spots of a mix with the same to do, in the order of load.
fn groups<'d, 'a>(mix: &'d Mix<'a>) -> Vec<Vec<Member<'d, 'a>>> {
    let mut groups: Vec<Vec<Member<'_, '_>>> = Vec::new();
    for series in &mix.series {
        for spot in series.spots.iter().filter(|spot| !spot.rows.is_empty() && !spot.has_phases()) {
            let same = |group: &&mut Vec<Member<'_, '_>>| is_same(group[0].spot, spot);
            match groups.iter_mut().find(same) {
                Some(group) => group.push(Member { series, spot }),
                None => groups.push(vec![Member { series, spot }]),
            }
        }
    }
    let load = |group: &Vec<Member<'_, '_>>| group[0].spot.load().unwrap_or(f64::INFINITY);
    groups.sort_by(|one, other| load(one).total_cmp(&load(other)));
    groups.retain(|group| group.len() > 1);
    groups
}

/// Whether two spots had the same to do.
pub(super) fn is_same(one: &Spot<'_>, other: &Spot<'_>) -> bool {
    let same_rate = match (one.rate_per_s(), other.rate_per_s()) {
        (Some(one), Some(other)) => (one - other).abs() <= SAME_RATE * one.abs(),
        (one, other) => one.is_none() && other.is_none(),
    };
    one.point == other.point && same_rate
}

/// What most of them can be compared by: throughput in a closed loop; in an open one the p99, or the median where more
/// have that.
fn measure(group: &[Member<'_, '_>]) -> Option<Measure> {
    let able = |measure: Measure| group.iter().filter(|member| member.spot.estimate(measure).is_some()).count();
    if group[0].spot.rate_per_s().is_none() {
        return Some(Measure::Achieved).filter(|measure| able(*measure) > 1);
    }
    let choice = if able(Measure::P50) > able(Measure::P99) { Measure::P50 } else { Measure::P99 };
    Some(choice).filter(|measure| able(*measure) > 1)
}
