//! [`Report`]: what `maitred simulate --json` prints, `maitred.simulation/1`.
//!
//! Null is what is not known, does not apply or has too few samples; never a zero in disguise. What each field means is in
//! `design/contract.md`. Read next: `table.rs`.

use serde::Serialize;

use crate::queueing::simulator::{Discipline, Queue};
use crate::simulate::bound::Bound;
use crate::simulate::exact::Exact;
use crate::simulate::plan::{Objective, Plan};
use crate::simulate::sample::Sample;
use crate::simulate::scenario::Scenario;

/// The quantiles of every distribution, with the columns and fields that they fill.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// The whole report.
#[derive(Serialize)]
pub struct Report {
    schema: &'static str,
    servers: usize,
    queue: &'static str,
    discipline: &'static str,
    placement: Option<&'static str>,
    connections: usize,
    arrivals: &'static str,
    demand: String,
    mean_demand_ns: f64,
    squared_variation: f64,
    hand_off_ns: u64,
    wake_ns: u64,
    steal_ns: u64,
    poll_every_ns: Option<u64>,
    low_water: Option<usize>,
    requests: u64,
    warmup_requests: u64,
    seed: u64,
    points: Vec<Point>,
    slo: Option<Kept>,
}

/// One load.
#[derive(Serialize)]
pub struct Point {
    /// The share of capacity.
    pub load: f64,
    /// Requests per second.
    pub offered_per_s: f64,
    /// What the busiest server is asked for, of what it can serve.
    pub busiest_load: f64,
    /// Why there are no figures.
    pub reason: Option<String>,
    /// Of the simulation.
    pub wait_ns: Option<Figures>,
    /// Of the simulation.
    pub sojourn_ns: Option<Figures>,
    /// By formula, where there is one.
    pub exact: Option<ExactFigures>,
}

/// Of simulated times.
#[derive(Serialize)]
pub struct Figures {
    /// The mean.
    pub mean: f64,
    /// The true mean is above this,
    pub mean_low: f64,
    /// and below this, in 95 of 100 runs.
    pub mean_high: f64,
    /// The quantiles.
    #[serde(flatten)]
    pub quantiles: Quantiles,
}

/// Of times by formula.
#[derive(Serialize)]
pub struct ExactFigures {
    /// Its name in books.
    pub formula: String,
    /// Waits.
    pub wait_ns: Law,
    /// Sojourns.
    pub sojourn_ns: Law,
}

/// What a formula says of one kind of times.
#[derive(Serialize)]
pub struct Law {
    /// The mean.
    pub mean: f64,
    /// The quantiles, where they are known.
    #[serde(flatten)]
    pub quantiles: Quantiles,
}

/// Of one distribution.
#[derive(Serialize)]
pub struct Quantiles {
    /// Half take at most so long.
    pub p50: Option<f64>,
    /// Nine of ten.
    pub p90: Option<f64>,
    /// 99 of 100.
    pub p99: Option<f64>,
    /// 999 of 1,000.
    pub p99_9: Option<f64>,
}

/// The largest load that keeps the objective.
#[derive(Serialize)]
pub struct Kept {
    /// As it was typed.
    pub text: String,
    /// Which quantile,
    pub quantile: f64,
    /// and what it may be at most.
    pub at_most_ns: f64,
    /// What the simulator found.
    pub simulated: Range,
    /// By formula, where there is one.
    pub exact: Option<Range>,
}

/// Between which loads it lies.
#[derive(Serialize)]
pub struct Range {
    /// The formula; none: the simulator.
    pub formula: Option<String>,
    /// The highest load that is known to keep it; none: no load does.
    pub low_load: Option<f64>,
    /// The lowest that is known not to.
    pub high_load: f64,
    /// The same as a rate.
    pub low_per_s: Option<f64>,
    /// The same as a rate.
    pub high_per_s: f64,
}

impl Report {
    /// Runs all of a plan.
    pub fn of(plan: &Plan) -> Report {
        let Plan { scenario, placement, loads, objective } = plan;
        let system = &scenario.system;
        Report {
            schema: "maitred.simulation/1",
            servers: system.servers,
            queue: queue_name(&system.queue),
            discipline: discipline_name(system.discipline),
            placement: placement.map(|placement| placement.name()),
            connections: scenario.connections,
            arrivals: scenario.spacing.name(),
            demand: scenario.demand.to_string(),
            mean_demand_ns: scenario.demand.mean_ns(),
            squared_variation: scenario.demand.squared_variation(),
            hand_off_ns: system.costs.request_ns,
            wake_ns: system.costs.wake_ns,
            steal_ns: system.costs.steal_ns,
            poll_every_ns: system.polling.every_ns,
            low_water: system.polling.low_water,
            requests: scenario.requests,
            warmup_requests: scenario.warm_up(),
            seed: scenario.seed,
            points: loads.iter().map(|load| Point::of(scenario, *load)).collect(),
            slo: objective.as_ref().map(|objective| Kept::of(scenario, objective)),
        }
    }
}

impl Point {
    /// Runs one load.
    pub fn of(scenario: &Scenario, load: f64) -> Point {
        let busiest = scenario.busiest(load);
        let who = busiest.server.map_or("each server".to_owned(), |server| format!("the busiest server, {server},"));
        let reason = (busiest.load >= 1.0).then(|| {
            format!("{who} is asked for {:.2} of what it can serve: its queue grows without end", busiest.load)
        });
        let outcome = reason.is_none().then(|| scenario.run(load, None));
        Point {
            load,
            offered_per_s: scenario.offered_per_s(load),
            busiest_load: busiest.load,
            reason,
            wait_ns: outcome.as_ref().map(|outcome| Figures::of(&outcome.wait)),
            sojourn_ns: outcome.as_ref().map(|outcome| Figures::of(&outcome.sojourn)),
            exact: scenario.exact(load).map(|exact| ExactFigures::of(&exact)),
        }
    }
}

impl Figures {
    fn of(sample: &Sample) -> Figures {
        let mean = sample.mean_ns();
        Figures {
            mean: mean.mean,
            // No time is below zero.
            mean_low: mean.low.max(0.0),
            mean_high: mean.high,
            quantiles: Quantiles::of(|quantile| sample.quantile_ns(quantile)),
        }
    }
}

impl ExactFigures {
    fn of(exact: &Exact) -> ExactFigures {
        ExactFigures {
            formula: exact.formula.clone(),
            wait_ns: Law {
                mean: exact.wait_mean_ns,
                quantiles: Quantiles::of(|quantile| exact.wait_quantile_ns(quantile)),
            },
            sojourn_ns: Law {
                mean: exact.sojourn_mean_ns,
                quantiles: Quantiles::of(|quantile| exact.sojourn_quantile_ns(quantile)),
            },
        }
    }
}

impl Quantiles {
    fn of(quantile: impl Fn(f64) -> Option<f64>) -> Quantiles {
        let [p50, p90, p99, p99_9] = QUANTILES.map(quantile);
        Quantiles { p50, p90, p99, p99_9 }
    }
}

impl Kept {
    /// Looks for the largest load.
    pub fn of(scenario: &Scenario, objective: &Objective) -> Kept {
        let (quantile, at_most_ns) = (objective.quantile, objective.at_most_ns);
        let range = |bound: Bound| Range {
            low_per_s: bound.low.map(|load| scenario.offered_per_s(load)),
            high_per_s: scenario.offered_per_s(bound.high),
            low_load: bound.low,
            high_load: bound.high,
            formula: bound.formula,
        };
        Kept {
            text: objective.text.clone(),
            quantile,
            at_most_ns,
            simulated: range(scenario.simulated_bound(quantile, at_most_ns)),
            exact: scenario.exact_bound(quantile, at_most_ns).map(range),
        }
    }
}

/// The name of `--queue`.
pub(super) fn queue_name(queue: &Queue) -> &'static str {
    match queue {
        Queue::Central => "central",
        Queue::Partitioned(_) => "partitioned",
        Queue::Stealing(_) => "stealing",
    }
}

/// The name of `--discipline`.
pub(super) fn discipline_name(discipline: Discipline) -> &'static str {
    match discipline {
        Discipline::Fifo => "fifo",
        Discipline::Lifo => "lifo",
        Discipline::ShortestFirst => "sjf",
        Discipline::ProcessorSharing => "ps",
    }
}
