//! [`Bound`]: the largest load at which an objective is kept, by formula where there is one, else by simulation.
//!
//! By simulation it is an interval. A run at one load finds which share of requests took longer than the limit, with an
//! interval of its own: *kept* if all of that is at most what the objective allows, *missed* if all of it is more, and
//! *unclear* between. The bound lies between the highest load that was kept and the lowest that was missed; both are
//! brought together until they, or what is unclear between them, lie a fifth of a per cent apart.
//!
//! Read next: `scenario.rs`.

use crate::simulate::scenario::Scenario;

/// How near the ends are brought, as a share of capacity.
const NEAR: f64 = 0.002;

/// How many times wider than for 95 of 100 runs the interval of a run is taken: several verdicts make one bound, and all
/// of them have to be right.
const SURER: f64 = 1.35;

/// Between which loads the largest one lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// The highest load that is known to keep the objective; none: it keeps none.
    pub low: Option<f64>,
    /// The lowest load that is known not to.
    pub high: f64,
    /// Which formula says so, with `low` and `high` the same; none: the simulator.
    pub formula: Option<String>,
}

impl Bound {
    /// The middle of it: what to divide by for a share of the bound; none where no load keeps the objective.
    pub fn middle(&self) -> Option<f64> {
        self.low.map(|low| (low + self.high) / 2.0)
    }
}

enum Verdict {
    Kept,
    Missed,
    Unclear,
}

impl Scenario {
    /// The largest load at which a share `quantile` of all requests takes at most `limit_ns` from arrival to end. Where it
    /// has to be simulated this takes about twenty runs, so whoever asks again keeps the answer.
    pub fn bound(&self, quantile: f64, limit_ns: f64) -> Bound {
        match self.exact_bound(quantile, limit_ns) {
            Some(bound) => bound,
            None => self.simulated_bound(quantile, limit_ns),
        }
    }

    /// The same by formula alone.
    pub fn exact_bound(&self, quantile: f64, limit_ns: f64) -> Option<Bound> {
        let (formula, load) = self.exact_largest_load(quantile, limit_ns)?;
        Some(Bound { low: load, high: load.unwrap_or(0.0), formula: Some(formula) })
    }

    /// The same by simulation alone.
    pub fn simulated_bound(&self, quantile: f64, limit_ns: f64) -> Bound {
        let (mut kept, mut missed) = (0.0, 1.0);
        let mut unclear: Option<(f64, f64)> = None;
        loop {
            let (first, last) = unclear.unwrap_or((missed, kept));
            let is_lower = unclear.is_none() || first - kept >= missed - last;
            let (low, high) = if is_lower { (kept, first) } else { (last, missed) };
            if high - low <= NEAR {
                return Bound { low: (kept > 0.0).then_some(kept), high: missed, formula: None };
            }
            let load = (low + high) / 2.0;
            match self.verdict(load, quantile, limit_ns) {
                // Above what is unclear nothing is known to be kept, and below it nothing to be missed.
                Verdict::Kept if is_lower => kept = load,
                Verdict::Missed if !is_lower || unclear.is_none() => missed = load,
                _ => unclear = Some((first.min(load), last.max(load))),
            }
        }
    }

    fn verdict(&self, load: f64, quantile: f64, limit_ns: f64) -> Verdict {
        if self.busiest(load).load >= 1.0 {
            return Verdict::Missed;
        }
        let beyond = self.run(load, Some(limit_ns)).beyond.expect("a limit was given").interval();
        let (allowed, half) = (1.0 - quantile, SURER * (beyond.high - beyond.mean));
        // A run that has fewer by chance spreads less by the same chance: to be kept, it is held to the spread that it
        // would have with as many as are allowed.
        let half_at_allowed = if beyond.mean > 0.0 { half * (allowed / beyond.mean).sqrt().max(1.0) } else { half };
        if beyond.mean + half_at_allowed <= allowed {
            Verdict::Kept
        } else if beyond.mean - half > allowed {
            Verdict::Missed
        } else {
            Verdict::Unclear
        }
    }
}
