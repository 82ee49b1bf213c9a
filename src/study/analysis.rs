//! What rows amount to: groups of repeats with their medians, the noise floor, the share of the bound, the recovery.
//!
//! Pure functions of rows, for tables, reports and tests alike. Failed runs and the second of the A/A pair are in no
//! median.
//!
//! *Share of the bound*: the rate at which a configuration keeps the objective ÷ the rate at which the ideal central
//! queue does. The rate is interpolated between the last point that keeps the objective and the first that does not, on
//! a logarithmic scale of latency; where all points keep it, or none, only a bound of the share is known, and that is
//! said. The ideal's rate comes from the formula where there is one, and else from the predictions at the same points.
//!
//! Read next: `table.rs`; `design/studying.md`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::estimate::{Estimate, median, ratio};
use super::row::{Limit, Parameters, Row, Status, Twin};
use crate::load::demand::Demand;
use crate::load::plan::Objective;
use crate::simulate::scenario::Scenario;

/// All runs of one configuration at one point.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// What is compared.
    pub configuration: &'a str,
    /// How much was asked.
    pub point: &'a str,
    /// The runs that count, in the order of the plan.
    pub rows: Vec<&'a Row>,
    /// How many failed.
    pub failed: usize,
    /// The parameters, of the first run.
    pub parameters: &'a Parameters,
}

impl Group<'_> {
    /// The figure at this path, of each run that has it.
    pub fn values(&self, path: &str) -> Vec<f64> {
        self.rows.iter().filter_map(|row| row.figure(path)).collect()
    }

    /// Its median with the interval.
    pub fn median(&self, path: &str) -> Option<Estimate> {
        Estimate::of(&self.values(path))
    }

    /// What else than the configuration may have decided some of its runs.
    pub fn limited_by(&self) -> Vec<Limit> {
        let mut all: Vec<Limit> = self.rows.iter().flat_map(|row| row.limited_by.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The runs by configuration and point, in the order of the plan.
pub fn groups(rows: &[Row]) -> Vec<Group<'_>> {
    let mut sorted: Vec<&Row> = rows.iter().filter(|row| row.twin != Some(Twin::Second)).collect();
    sorted.sort_by_key(|row| (row.run, row.order));
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for row in sorted {
        let Row { configuration, point, parameters, .. } = row;
        let place = *places.entry((configuration, point)).or_insert_with(|| {
            groups.push(Group { configuration, point, rows: Vec::new(), failed: 0, parameters });
            groups.len() - 1
        });
        match row.status {
            Status::Ok => groups[place].rows.push(row),
            Status::Failed => groups[place].failed += 1,
        }
    }
    groups
}

/// What noise alone makes of the figure at this path: the ratio of the A/A pair's second to its first, round by round.
/// A difference that is no larger says nothing. None without a pair that was measured.
pub fn noise(rows: &[Row], path: &str) -> Option<Estimate> {
    let side = |twin: Twin, repeat: usize| {
        let is_it = |row: &&Row| row.status == Status::Ok && row.twin == Some(twin) && row.repeat == repeat;
        rows.iter().find(is_it)?.figure(path)
    };
    let repeats = rows.iter().map(|row| row.repeat + 1).max().unwrap_or(0);
    let pairs = (0..repeats).filter_map(|repeat| Some((side(Twin::Second, repeat)?, side(Twin::First, repeat)?)));
    ratio(&pairs.collect::<Vec<_>>())
}

/// How unevenly the workers of a run shared its work: the most that one did by the mean, in turns and calls. 1 is even,
/// and as many as there are workers says that one did all. None without workers that did any.
pub fn busiest_by_mean(row: &Row) -> Option<f64> {
    let workers = row.server.as_ref()?.get("worker_turns")?.as_array()?;
    let count = |worker: &Value, name: &str| worker.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let done: Vec<f64> = workers.iter().map(|worker| count(worker, "turns") + count(worker, "calls")).collect();
    let sum: f64 = done.iter().sum();
    let most = done.iter().copied().fold(0.0, f64::max);
    (sum > 0.0).then(|| most * done.len() as f64 / sum)
}

/// A rate up to which an objective is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kept {
    /// At none that was looked at: below this one.
    Below(f64),
    /// Up to this one.
    UpTo(f64),
    /// At all that were looked at: at least up to this one.
    AtLeast(f64),
}

/// How a configuration stands to the ideal.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareOfBound {
    /// Which configuration.
    pub configuration: String,
    /// The objective, as `--slo` takes it.
    pub objective: String,
    /// Up to which rate the configuration kept it, in requests per second.
    pub measured_per_s: Kept,
    /// Up to which rate the ideal keeps it.
    pub ideal_per_s: Kept,
    /// Whether the ideal's rate comes from a formula, and not from the predictions of the rows.
    pub by_formula: bool,
}

/// A share, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// It is this.
    Is(f64),
    /// It is this or more: there was no point at which the objective was missed.
    AtLeast(f64),
    /// It is this or less.
    AtMost(f64),
    /// Nothing is known of it.
    Unknown,
}

impl ShareOfBound {
    /// Measured ÷ ideal.
    pub fn share(&self) -> Share {
        match (self.measured_per_s, self.ideal_per_s) {
            (Kept::UpTo(measured), Kept::UpTo(ideal)) => Share::Is(measured / ideal),
            (Kept::AtLeast(measured), Kept::UpTo(ideal)) => Share::AtLeast(measured / ideal),
            (Kept::UpTo(measured) | Kept::Below(measured), Kept::AtLeast(ideal)) => Share::AtMost(measured / ideal),
            (Kept::Below(measured), Kept::UpTo(ideal)) => Share::AtMost(measured / ideal),
            (Kept::AtLeast(_), Kept::AtLeast(_)) | (_, Kept::Below(_)) => Share::Unknown,
        }
    }
}

/// The share of the bound of every configuration that has an objective, and an open loop at more than no point.
pub fn shares_of_bound(rows: &[Row]) -> Vec<ShareOfBound> {
    let groups = groups(rows);
    let mut curves: Vec<(&str, Vec<&Group<'_>>)> = Vec::new();
    for group in &groups {
        match curves.iter_mut().find(|(configuration, _)| *configuration == group.configuration) {
            Some((_, curve)) => curve.push(group),
            None => curves.push((group.configuration, vec![group])),
        }
    }
    curves.iter().filter_map(|(configuration, curve)| share_of_bound(configuration, curve)).collect()
}

fn share_of_bound(configuration: &str, curve: &[&Group<'_>]) -> Option<ShareOfBound> {
    let text = curve.iter().find_map(|group| group.parameters.objective.as_deref())?;
    let objective = Objective::parse(text).ok()?;
    let limit_ns = objective.at_most.as_nanos() as f64;
    let open = || curve.iter().filter(|group| group.parameters.phases.is_empty());
    let points = |latency_ns: &dyn Fn(&Group<'_>) -> Option<f64>| -> Vec<(f64, f64)> {
        open().filter_map(|group| Some((group.parameters.rate_per_s?, latency_ns(group)?))).collect()
    };
    let measured_per_s = kept(points(&|group| median(&objective_ns(group))), limit_ns)?;
    let parameters = &open().next()?.parameters;
    let formula = formula_per_s(parameters, &objective, limit_ns, open().find_map(|group| servers(group)));
    let field = percentile_field(&objective.text);
    let predicted = || kept(points(&|group| median(&group.values(&format!("predicted.sojourn_ns.{field}")))), limit_ns);
    let ideal_per_s = formula.or_else(predicted)?;
    Some(ShareOfBound {
        configuration: configuration.to_owned(),
        objective: text.to_owned(),
        measured_per_s,
        ideal_per_s,
        by_formula: formula.is_some(),
    })
}

fn servers(group: &Group<'_>) -> Option<usize> {
    group.rows.iter().find_map(|row| Some(row.predicted.as_ref()?.servers))
}

/// The objective's latency of each run; a request that was never answered took longer than anything.
fn objective_ns(group: &Group<'_>) -> Vec<f64> {
    let of = |row: &&Row| {
        let verdict = row.load.as_ref()?.get("slo")?;
        let found = verdict.get("quantile_ns").and_then(Value::as_f64);
        let is_missed = verdict.get("met").and_then(Value::as_bool) == Some(false);
        let too_few = verdict.get("reason").and_then(Value::as_str).is_some_and(|reason| reason.contains("too few"));
        found.or((is_missed && !too_few).then_some(f64::INFINITY))
    };
    group.rows.iter().filter_map(of).collect()
}

/// Up to which rate the ideal keeps the objective, where a formula says so: Poisson arrivals, and a demand that has
/// one.
fn formula_per_s(
    parameters: &Parameters,
    objective: &Objective,
    limit_ns: f64,
    servers: Option<usize>,
) -> Option<Kept> {
    let demand = Demand::parse(parameters.demand.as_deref()?).ok()?;
    let is_poisson = parameters.arrivals == "poisson" && demand.mean_ns() > 0.0;
    let ideal = Scenario::ideal(demand, servers.filter(|_| is_poisson)?);
    let load = ideal.exact_bound(objective.quantile, limit_ns)?.middle();
    Some(load.map_or(Kept::Below(0.0), |load| Kept::UpTo(ideal.offered_per_s(load))))
}

/// The field that rows have this quantile in: `p99_9` of `p99.9=1ms`.
fn percentile_field(objective: &str) -> String {
    objective.split('=').next().unwrap_or_default().replace('.', "_")
}

/// Up to which rate the latency is at most `limit_ns`, of points of rate and latency; none without points.
fn kept(mut points: Vec<(f64, f64)>, limit_ns: f64) -> Option<Kept> {
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (first_per_s, _) = *points.first()?;
    let (last_per_s, _) = *points.last()?;
    match points.iter().position(|(_, latency_ns)| *latency_ns > limit_ns) {
        Some(0) => Some(Kept::Below(first_per_s)),
        None => Some(Kept::AtLeast(last_per_s)),
        Some(missed) => {
            let ((low_per_s, low_ns), (high_per_s, high_ns)) = (points[missed - 1], points[missed]);
            // Towards a latency without end the last point that kept it is all that is known.
            let part = (limit_ns / low_ns).ln() / (high_ns / low_ns).ln();
            Some(Kept::UpTo(low_per_s + (high_per_s - low_per_s) * part.clamp(0.0, 1.0)))
        }
    }
}

/// How a run came out of an overload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recovery {
    /// After so many seconds from the end of the overload its latency was back, and stayed so.
    After(f64),
    /// It was not back by the end, so many seconds later.
    NotWithin(f64),
}

/// How long after the last phase above capacity the latency of a run was within its objective again, by its intervals:
/// the p99 of each, or its longest where there are too few for a p99. None without such a phase, an objective or
/// intervals.
pub fn recovery(row: &Row) -> Option<Recovery> {
    let overload = row.parameters.phases.iter().rfind(|phase| phase.load > Some(1.0))?;
    let limit_ns = Objective::parse(row.parameters.objective.as_deref()?).ok()?.at_most.as_nanos() as f64;
    let intervals = row.load.as_ref()?.get("intervals")?.as_array()?;
    let number = |interval: &Value, name: &str| interval.get(name).and_then(Value::as_f64);
    let later: Vec<&Value> =
        intervals.iter().filter(|interval| number(interval, "from_s") >= Some(overload.to_s - 1e-6)).collect();
    let end_s = number(later.last()?, "to_s")? - overload.to_s;
    // Nothing answered is not back either.
    let is_back = |interval: &&Value| {
        number(interval, "p99_ns").or(number(interval, "max_ns")).is_some_and(|latency_ns| latency_ns <= limit_ns)
    };
    match later.iter().rposition(|interval| !is_back(interval)) {
        None => Some(Recovery::After(0.0)),
        Some(last) if last + 1 == later.len() => Some(Recovery::NotWithin(end_s)),
        Some(last) => Some(Recovery::After(number(later[last], "to_s")? - overload.to_s)),
    }
}

#[cfg(test)]
mod tests;
