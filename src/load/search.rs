//! `--search`: the largest rate that meets the objective, as an interval rather than a point.
//!
//! A rate is tried in runs of its own. First it doubles or halves until one rate meets the objective and a higher one
//! misses it; then the gap between them is halved, again and again. Near the limit the same rate is met once and missed
//! the next time: such a rate is *undecided*, and what is reported is the largest rate below which all runs met the
//! objective, and the smallest above which all missed it. Both ends are tried more than once before they are believed.
//!
//! What to try next is decided by [`next`], which knows no server. Read next: `mod.rs`, one run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::load::plan::{Objective, Plan, RATES_PER_S};
use crate::load::report::{Report, SearchPoint, SearchReport};
use crate::load::{Outcome, run as run_once, table};
use crate::logging::Log;
use crate::units::show_duration;

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
    met: usize,
    missed: usize,
}

/// The rates tried so far, rising.
#[derive(Default)]
struct Trials(Vec<Tried>);

impl Trials {
    fn add(&mut self, rate_per_s: f64, met: bool) {
        let at = self.0.partition_point(|rate| rate.rate_per_s < rate_per_s);
        if self.0.get(at).is_none_or(|rate| rate.rate_per_s != rate_per_s) {
            self.0.insert(at, Tried { rate_per_s, met: 0, missed: 0 });
        }
        *(if met { &mut self.0[at].met } else { &mut self.0[at].missed }) += 1;
    }
}

/// The lowest and the highest rate whose runs can say something of the objective.
fn rates_per_s(objective: &Objective, duration: Duration) -> (f64, f64) {
    let lowest = requests_needed(objective) / (duration.as_secs_f64() * LONGEST_STRETCH);
    (lowest.max(RATES_PER_S.0), RATES_PER_S.1)
}

fn requests_needed(objective: &Objective) -> f64 {
    REQUESTS_BEYOND / (1.0 - objective.quantile)
}

/// Whether runs of this length can say anything of the objective at all.
///
/// # Errors
/// [`Error::Usage`] of `--duration`, with how long they would have to be.
pub(super) fn check(objective: &Objective, duration: Duration) -> Result<(), Error> {
    let (lowest_per_s, highest_per_s) = rates_per_s(objective, duration);
    if lowest_per_s < highest_per_s {
        return Ok(());
    }
    let seconds = requests_needed(objective) / (highest_per_s * LONGEST_STRETCH);
    Err(Error::Usage {
        flag: "--duration".to_owned(),
        problem: format!("{} is too short for {}", show_duration(duration), objective.text),
        expected: format!("{}s or more, for ten requests beyond that quantile", seconds.ceil()),
    })
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Run(f64),
    Done,
}

/// What is known: the rates between which the limit lies, as positions in the sorted list of tried rates.
struct Bracket {
    /// The highest rate that was met each time, as all below were.
    low: Option<usize>,
    /// The lowest rate that was missed each time, as all above were.
    high: Option<usize>,
}

fn bracket(tried: &[Tried]) -> Bracket {
    let low = tried.iter().take_while(|rate| rate.missed == 0).count().checked_sub(1);
    let missed = tried.iter().rev().take_while(|rate| rate.met == 0).count();
    Bracket { low, high: (missed > 0).then(|| tried.len() - missed) }
}

/// The next rate to try, of `tried` in rising order; `lowest` and `highest` are the bounds of what can be tried.
fn next(tried: &[Tried], lowest: f64, highest: f64) -> Step {
    let runs: usize = tried.iter().map(|rate| rate.met + rate.missed).sum();
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
    let doubtful = [low, high].into_iter().find(|end| tried[*end].met + tried[*end].missed < CONFIRMATIONS);
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
    let (lowest_per_s, highest_per_s) = rates_per_s(objective, plan.duration);
    let log = shows_progress.then(Log::start);
    let mut trials = Trials::default();
    let mut points: Vec<SearchPoint> = Vec::new();
    let mut outcomes: Vec<(Plan, Outcome)> = Vec::new();
    let mut step = Step::Run(start_per_s.clamp(lowest_per_s, highest_per_s));
    while let Step::Run(rate_per_s) = step {
        let stretched = Duration::from_secs_f64(requests_needed(objective) / rate_per_s).max(plan.duration);
        let plan = Plan { arrivals: plan.arrivals.at_rate(rate_per_s), duration: stretched, ..plan.clone() };
        let outcome = match run_once(&plan, stop, &mut |_| {}) {
            Ok(outcome) => outcome,
            Err(error) if outcomes.is_empty() => return Err(error),
            // What was found so far is worth something.
            Err(error) => {
                log::error!("the search ends here: {error}");
                break;
            }
        };
        if outcome.interrupted {
            // A run that was cut off says nothing of its rate.
            if outcomes.is_empty() {
                outcomes.push((plan, outcome));
            }
            break;
        }
        let point = judge(objective, rate_per_s, &outcome.report(&plan));
        if let Some(log) = &log {
            log.print(table::search_line(&point));
        }
        trials.add(rate_per_s, point.met);
        points.push(point);
        outcomes.retain(|(tried, _)| tried.arrivals != plan.arrivals);
        outcomes.push((plan, outcome));
        step = next(&trials.0, lowest_per_s, highest_per_s);
    }
    let Bracket { low, high } = bracket(&trials.0);
    let rate_at = |position: usize| trials.0[position].rate_per_s;
    let shown = low.or(high).map(rate_at);
    let position = outcomes.iter().position(|(plan, _)| plan.arrivals.rate_per_s() == shown);
    let (plan, mut outcome) = outcomes.swap_remove(position.unwrap_or(0));
    outcome.interrupted |= stop.load(Ordering::Relaxed);
    outcome.search = Some(SearchReport::new(objective, low.map(rate_at), high.map(rate_at), points));
    Ok((plan, outcome))
}

/// Whether the run met the objective, and if not, why.
fn judge(objective: &Objective, rate_per_s: f64, report: &Report) -> SearchPoint {
    let mut verdict = report.verdict(objective);
    let wrong = report.errors.wrong();
    if wrong > 0 {
        verdict.reason = Some(format!("{wrong} wrong replies"));
    }
    SearchPoint {
        rate_per_s,
        achieved_per_s: report.achieved_per_s,
        quantile_ns: verdict.quantile_ns,
        met: verdict.reason.is_none(),
        saturated: report.generator.saturated,
        reason: verdict.reason,
        errors: report.errors,
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
        let mut trials = Trials::default();
        let mut step = Step::Run(start);
        let mut runs = 0;
        while let Step::Run(rate_per_s) = step {
            runs += 1;
            assert!(runs <= MOST_RUNS, "{:?}", trials.0);
            trials.add(rate_per_s, rate_per_s < limit * (1.0 + noise * (random.uniform() - 0.5)));
            step = next(&trials.0, 10.0, 1e8);
        }
        let Bracket { low, high } = bracket(&trials.0);
        (low.map(|at| trials.0[at].rate_per_s), high.map(|at| trials.0[at].rate_per_s), runs)
    }

    #[test]
    fn the_interval_holds_the_limit_and_is_narrow() {
        for limit in [11.0, 900.0, 1_000.0, 77_777.0, 5e6] {
            for start in [10.0, 1_000.0, 1e8] {
                let (low, high, runs) = search(limit, 0.0, start, 1);
                let (low, high) = (low.expect("some rate is met"), high.expect("some rate is missed"));
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
            let (low, high) = (low.expect("some rate is met"), high.expect("some rate is missed"));
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
