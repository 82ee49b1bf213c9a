//! `--search`: the largest rate that keeps the objective, as an interval rather than a point.
//!
//! A rate is tried in runs of its own. First it doubles or halves until one rate keeps the objective and a higher one
//! misses it; then the gap between them is halved, again and again. Near the limit the same rate is kept once and missed
//! the next time: such a rate is *undecided*, and what is reported is the largest rate below which all runs kept the
//! objective, and the smallest above which all missed it. Both ends are tried more than once before they are believed.
//!
//! What to try next is decided by [`next`], which knows no server. Read next: `mod.rs`, one run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::load::plan::{Objective, Plan};
use crate::load::report::{Report, SearchPoint, SearchReport};
use crate::load::{Outcome, run as run_once, table};
use crate::logging::Log;

/// The search ends when the gaps on both sides of what is undecided are this narrow: a few per cent are what repeated
/// runs on a shared machine can tell apart.
const NARROW: f64 = 1.05;

/// Runs of each end before it is believed.
const CONFIRMATIONS: usize = 3;

/// Runs in all, so that a server whose speed wanders does not keep it going.
const MOST_RUNS: usize = 48;

/// A rate is not tried if its run would have to be this many times as long as was asked for, to have requests enough
/// beyond the quantile.
const LONGEST_STRETCH: f64 = 10.0;

/// Requests that should lie beyond the quantile of a run: some more than the ten that make it believable, since Poisson
/// arrivals differ in number.
const REQUESTS_BEYOND: f64 = 15.0;

/// A rate and how its runs went.
#[derive(Clone, Debug, PartialEq)]
struct Tried {
    rate_per_s: f64,
    kept: usize,
    missed: usize,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Run(f64),
    Done,
}

/// What is known: the rates between which the limit lies, as positions in the sorted list of tried rates.
struct Bracket {
    /// The highest rate that was kept each time, as all below were.
    low: Option<usize>,
    /// The lowest rate that was missed each time, as all above were.
    high: Option<usize>,
}

fn bracket(tried: &[Tried]) -> Bracket {
    let low = tried.iter().take_while(|rate| rate.missed == 0).count().checked_sub(1);
    let missed = tried.iter().rev().take_while(|rate| rate.kept == 0).count();
    Bracket { low, high: (missed > 0).then(|| tried.len() - missed) }
}

/// The next rate to try, of `tried` in rising order; `lowest` and `highest` are the bounds of what can be tried.
fn next(tried: &[Tried], lowest: f64, highest: f64) -> Step {
    let runs: usize = tried.iter().map(|rate| rate.kept + rate.missed).sum();
    if runs >= MOST_RUNS {
        return Step::Done;
    }
    let (Some(first), Some(last)) = (tried.first(), tried.last()) else { return Step::Done };
    let (low, high) = match bracket(tried) {
        Bracket { high: None, .. } if last.rate_per_s < highest => {
            return Step::Run((last.rate_per_s * 2.0).min(highest));
        }
        Bracket { low: None, .. } if first.rate_per_s > lowest => {
            return Step::Run((first.rate_per_s / 2.0).max(lowest));
        }
        Bracket { low: Some(low), high: Some(high) } => (low, high),
        _ => return Step::Done,
    };
    // Next to the ends; what is undecided lies between.
    let gaps =
        [(low, low + 1), (high - 1, high)].map(|(below, above)| (tried[below].rate_per_s, tried[above].rate_per_s));
    let widest = gaps.into_iter().max_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0))).expect("there are two gaps");
    if widest.1 / widest.0 > NARROW {
        return Step::Run((widest.0 * widest.1).sqrt());
    }
    let doubtful = [low, high].into_iter().find(|end| tried[*end].kept + tried[*end].missed < CONFIRMATIONS);
    doubtful.map_or(Step::Done, |end| Step::Run(tried[end].rate_per_s))
}

/// Searches from the rate of the plan on. The plan with the rate that was found, or else with the one that came
/// closest, and what its last run found. `shows_progress`: a line for each run, to stderr.
///
/// # Errors
/// Those of a run.
///
/// # Panics
/// When the plan has no objective or no rate, which [`Plan::resolve`] does not let through.
pub fn run(plan: &Plan, stop: &AtomicBool, shows_progress: bool) -> Result<(Plan, Outcome), Error> {
    let objective = plan.objective.as_ref().expect("a search has an objective");
    let start_per_s = plan.arrivals.rate_per_s().expect("a search is an open loop");
    let needed = REQUESTS_BEYOND / (1.0 - objective.quantile);
    let lowest_per_s = needed / (plan.duration.as_secs_f64() * LONGEST_STRETCH);
    let highest_per_s = crate::load::plan::RATES_PER_S.1;
    let log = shows_progress.then(Log::start);
    let mut tried: Vec<Tried> = Vec::new();
    let mut points: Vec<SearchPoint> = Vec::new();
    let mut outcomes: Vec<(Plan, Outcome)> = Vec::new();
    let mut step = Step::Run(start_per_s.clamp(lowest_per_s, highest_per_s));
    while let Step::Run(rate_per_s) = step {
        let stretched = Duration::from_secs_f64(needed / rate_per_s).max(plan.duration);
        let plan = Plan { arrivals: plan.arrivals.at_rate(rate_per_s), duration: stretched, ..plan.clone() };
        let outcome = run_once(&plan, stop, &mut |_| {})?;
        let point = judge(objective, rate_per_s, &outcome.report(&plan));
        if let Some(log) = &log {
            log.print(table::search_line(&point));
        }
        let is_met = point.met;
        points.push(point);
        let interrupted = outcome.interrupted;
        outcomes.retain(|(tried, _)| tried.arrivals != plan.arrivals);
        outcomes.push((plan, outcome));
        let at = tried.partition_point(|rate| rate.rate_per_s < rate_per_s);
        if tried.get(at).is_none_or(|rate| rate.rate_per_s != rate_per_s) {
            tried.insert(at, Tried { rate_per_s, kept: 0, missed: 0 });
        }
        *(if is_met { &mut tried[at].kept } else { &mut tried[at].missed }) += 1;
        step = if interrupted { Step::Done } else { next(&tried, lowest_per_s, highest_per_s) };
    }
    let Bracket { low, high } = bracket(&tried);
    let rate_at = |position: usize| tried[position].rate_per_s;
    let shown = low.or(high).map_or(start_per_s, rate_at);
    let position = outcomes.iter().position(|(plan, _)| plan.arrivals.rate_per_s() == Some(shown));
    let (plan, mut outcome) = outcomes.swap_remove(position.unwrap_or(0));
    outcome.interrupted |= stop.load(Ordering::Relaxed);
    outcome.search = Some(SearchReport::new(objective, low.map(rate_at), high.map(rate_at), points));
    Ok((plan, outcome))
}

/// Whether the run kept the objective, and if not, why.
fn judge(objective: &Objective, rate_per_s: f64, report: &Report) -> SearchPoint {
    let verdict = report.verdict(objective);
    SearchPoint {
        rate_per_s,
        achieved_per_s: report.achieved_per_s,
        quantile_ns: verdict.quantile_ns,
        met: verdict.reason.is_none(),
        saturated: report.generator.saturated,
        reason: verdict.reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Searches a server that keeps the objective with a chance which falls from 1 to 0 around `limit`, over `noise`
    /// as a share of it. The interval, and the runs that it took.
    fn search(limit: f64, noise: f64, start: f64, seed: u64) -> (Option<f64>, Option<f64>, usize) {
        let mut random = Random::new(seed);
        let mut tried: Vec<Tried> = Vec::new();
        let mut step = Step::Run(start);
        let mut runs = 0;
        while let Step::Run(rate_per_s) = step {
            runs += 1;
            assert!(runs <= MOST_RUNS, "{tried:?}");
            let kept = rate_per_s < limit * (1.0 + noise * (random.uniform() - 0.5));
            let at = tried.partition_point(|rate| rate.rate_per_s < rate_per_s);
            if tried.get(at).is_none_or(|rate| rate.rate_per_s != rate_per_s) {
                tried.insert(at, Tried { rate_per_s, kept: 0, missed: 0 });
            }
            *(if kept { &mut tried[at].kept } else { &mut tried[at].missed }) += 1;
            step = next(&tried, 10.0, 1e8);
        }
        let Bracket { low, high } = bracket(&tried);
        (low.map(|at| tried[at].rate_per_s), high.map(|at| tried[at].rate_per_s), runs)
    }

    #[test]
    fn the_interval_holds_the_limit_and_is_narrow() {
        for limit in [11.0, 900.0, 1_000.0, 77_777.0, 5e6] {
            for start in [10.0, 1_000.0, 1e8] {
                let (low, high, runs) = search(limit, 0.0, start, 1);
                let (low, high) = (low.expect("some rate is kept"), high.expect("some rate is missed"));
                assert!(low < limit && limit <= high && high / low <= NARROW, "{limit} from {start}: {low}..{high}");
                assert!(runs <= 40, "{runs}");
            }
        }
    }

    #[test]
    fn noise_widens_the_interval_and_does_not_move_it_off_the_limit() {
        let mut widths = Vec::new();
        for seed in 0..200 {
            let (low, high, _) = search(10_000.0, 0.3, 1_000.0, seed);
            let (low, high) = (low.expect("some rate is kept"), high.expect("some rate is missed"));
            assert!(low < 11_500.0 && high > 8_500.0, "seed {seed}: {low}..{high}");
            widths.push(high / low);
        }
        widths.sort_by(f64::total_cmp);
        assert!(widths[100] > NARROW, "the noise shows: {}", widths[100]);
    }

    #[test]
    fn what_no_rate_keeps_or_every_rate_keeps_has_one_end() {
        let (low, high, _) = search(1.0, 0.0, 1_000.0, 1);
        assert_eq!((low, high), (None, Some(10.0)));
        let (low, high, _) = search(1e9, 0.0, 1_000.0, 1);
        assert_eq!((low, high), (Some(1e8), None));
    }
}
