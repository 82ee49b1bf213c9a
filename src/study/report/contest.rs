//! [`Contest`]: the series that had the same to do at one point, and which of them did best, if that can be told; and
//! [`LeftOut`]: those among them that have no figure to be compared by, with the reason.
//!
//! The same to do is the same mix, point and rate: at one share of capacity, two workers are asked for twice as much as
//! one, and their latencies say nothing about which is better. A difference counts only if the interval of its ratio
//! excludes 1 and the ratio is beyond the noise floor; what does not count is a tie, however large it looks.
//!
//! Read next: `findings.rs`, contests in words; `figures/crossover.rs`, contests as a map.

use super::digest::{Digest, Measure, Mix, Series, Spot, unserved_share};
use crate::study::estimate::Estimate;
use crate::study::row::Limit;

/// Rates that differ by less than this part are the same.
const SAME_RATE: f64 = 1e-6;

/// All that can be said of those that had the same to do, by mix and load.
#[derive(Debug)]
pub(super) struct Comparisons<'d, 'a> {
    /// Where at least two have a figure in common.
    pub(super) contests: Vec<Contest<'d, 'a>>,
    /// Where one has a figure, and no other of them.
    pub(super) alone: Vec<Alone<'d, 'a>>,
    /// Those that have none.
    pub(super) left_out: Vec<LeftOut<'d, 'a>>,
}

/// The only one with a figure, of several that had the same to do.
#[derive(Debug)]
pub(super) struct Alone<'d, 'a> {
    pub(super) mix: &'d Mix<'a>,
    pub(super) series: &'d Series<'a>,
    pub(super) point: &'a str,
    pub(super) measure: Measure,
}

/// One that had the same to do as others, and has no figure to be compared with theirs.
#[derive(Debug)]
pub(super) struct LeftOut<'d, 'a> {
    pub(super) mix: &'d Mix<'a>,
    pub(super) series: &'d Series<'a>,
    pub(super) point: &'a str,
    /// What it would have been compared by, had it kept up: never throughput in an open loop.
    pub(super) measure: Measure,
    pub(super) lack: Lack,
}

/// Why there is no figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Lack {
    /// No run could be measured.
    Failed,
    /// So large a share was not served in the worst of its runs.
    Unserved(f64),
    /// Some run has too few samples beyond the quantile, or did not measure it.
    Samples,
    /// No run of one repeat with the best, whose trace it would have had.
    Repeats,
}

/// Series that had the same to do.
#[derive(Debug)]
pub(super) struct Contest<'d, 'a> {
    /// What clients asked for.
    pub(super) mix: &'d Mix<'a>,
    /// What they are compared by: latency in an open loop, throughput in a closed one, and in an open one where some did
    /// not keep up and so have no latency.
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

impl<'d, 'a> Comparisons<'d, 'a> {
    /// All of a study.
    pub(super) fn of(digest: &'d Digest<'a>) -> Comparisons<'d, 'a> {
        let mut all = Comparisons { contests: Vec::new(), alone: Vec::new(), left_out: Vec::new() };
        for mix in &digest.mixes {
            groups(mix).iter().for_each(|group| all.add(digest, mix, group));
        }
        all
    }

    fn add(&mut self, digest: &Digest<'_>, mix: &'d Mix<'a>, group: &[Member<'d, 'a>]) {
        let measure = measure(group);
        let ranking = ranking(group, measure);
        let wanted = if measure == Measure::Achieved && is_open(group) { latency(group) } else { measure };
        for Member { series, spot } in group {
            let is_ranked = ranking.iter().any(|entry| std::ptr::eq(entry.spot, *spot));
            if !is_ranked || !is_able(spot, wanted) {
                let lack = Lack::of(spot, wanted);
                self.left_out.push(LeftOut { mix, series, point: spot.point, measure: wanted, lack });
            }
        }
        match ranking.as_slice() {
            [] => {}
            [only] => {
                self.alone.push(Alone { mix, series: only.series, point: only.spot.point, measure });
            }
            _ => self.contests.push(Contest::of(digest, mix, measure, ranking)),
        }
    }
}

impl Lack {
    fn of(spot: &Spot<'_>, measure: Measure) -> Lack {
        let unserved = spot.rows.iter().map(|row| unserved_share(row)).fold(0.0, f64::max);
        match () {
            () if spot.rows.is_empty() => Lack::Failed,
            () if is_able(spot, measure) => Lack::Repeats,
            () if unserved >= measure.share_beyond().unwrap_or(1.0) => Lack::Unserved(unserved),
            // Without a reply there is no throughput either.
            () if measure == Measure::Achieved => Lack::Unserved(1.0),
            () => Lack::Samples,
        }
    }
}

impl<'d, 'a> Contest<'d, 'a> {
    fn of(digest: &Digest<'_>, mix: &'d Mix<'a>, measure: Measure, mut ranking: Vec<Entry<'d, 'a>>) -> Contest<'d, 'a> {
        let floor = digest.noise.floor(measure);
        let is_tied = |entry: &Entry<'_, '_>| !counts(entry.behind, floor);
        // Those that are tied stand together, also where one with wide intervals is farther off than one with narrow ones.
        ranking.sort_by_key(|entry| !is_tied(entry));
        let tied = ranking.iter().filter(|entry| is_tied(entry)).count();
        Contest { mix, measure, ranking, tied }
    }

    /// The best one, if it is alone.
    pub(super) fn winner(&self) -> Option<&Entry<'d, 'a>> {
        self.ranking.first().filter(|_| self.tied == 1)
    }

    /// How many times worse the next one is; of a tie, how it looks.
    pub(super) fn lead(&self) -> Estimate {
        self.ranking[1].behind
    }

    /// Whether there are too few repeats to tell any difference from noise.
    pub(super) fn is_of_few(&self) -> bool {
        // The best of them is one time itself, for certain.
        self.ranking.iter().filter(|entry| entry.behind.interval.is_some()).count() == 1
    }

    /// The farthest from the best, however sure.
    pub(super) fn farthest(&self) -> f64 {
        self.ranking.iter().map(|entry| entry.behind.center).fold(1.0, f64::max)
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

/// The spots of a mix with the same to do, in the order of load; those without a run that was measured among them.
fn groups<'d, 'a>(mix: &'d Mix<'a>) -> Vec<Vec<Member<'d, 'a>>> {
    let mut groups: Vec<Vec<Member<'_, '_>>> = Vec::new();
    for series in &mix.series {
        for spot in series.spots.iter().filter(|spot| !spot.has_phases()) {
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

/// What most of them can be compared by: throughput in a closed loop; in an open one a latency, and where no two have that
/// because some did not keep up, throughput again.
fn measure(group: &[Member<'_, '_>]) -> Measure {
    if !is_open(group) {
        return Measure::Achieved;
    }
    let latency = latency(group);
    let is_without = able(group, latency) < 2 && group.iter().any(|member| member.spot.is_behind());
    if is_without && able(group, Measure::Achieved) > 1 { Measure::Achieved } else { latency }
}

/// The p99, or the median where more have that.
fn latency(group: &[Member<'_, '_>]) -> Measure {
    if able(group, Measure::P50) > able(group, Measure::P99) { Measure::P50 } else { Measure::P99 }
}

fn is_open(group: &[Member<'_, '_>]) -> bool {
    group[0].spot.rate_per_s().is_some()
}

/// How many of them have a figure to be compared by.
fn able(group: &[Member<'_, '_>], measure: Measure) -> usize {
    group.iter().filter(|member| is_able(member.spot, measure)).count()
}

/// Whether there is a figure, of which there are ratios: not zero.
fn is_able(spot: &Spot<'_>, measure: Measure) -> bool {
    spot.estimate(measure).is_some_and(|estimate| estimate.center > 0.0)
}

/// Those with a figure, the best first.
fn ranking<'d, 'a>(group: &[Member<'d, 'a>], measure: Measure) -> Vec<Entry<'d, 'a>> {
    let is_more_better = measure == Measure::Achieved;
    let able = group.iter().filter(|member| is_able(member.spot, measure));
    let mut able: Vec<(Estimate, &Member<'d, 'a>)> =
        able.filter_map(|member| Some((member.spot.estimate(measure)?, member))).collect();
    able.sort_by(|(one, _), (other, _)| match is_more_better {
        true => other.center.total_cmp(&one.center),
        false => one.center.total_cmp(&other.center),
    });
    let Some(best) = able.first().map(|(_, member)| member.spot) else { return Vec::new() };
    let entry = |(estimate, Member { series, spot }): &(Estimate, &Member<'d, 'a>)| {
        let behind = match (std::ptr::eq(*spot, best), is_more_better) {
            (true, _) => Some(Estimate { center: 1.0, interval: Some((1.0, 1.0)), runs: estimate.runs }),
            (false, true) => best.ratio_to(spot, measure),
            (false, false) => spot.ratio_to(best, measure),
        };
        Some(Entry { series, spot, behind: behind? })
    };
    able.iter().filter_map(entry).collect()
}
