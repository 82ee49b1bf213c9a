//! Rows of studies that never ran: plausible figures from queueing formulas, seeded, with known answers for whoever reads
//! them.
//!
//! A [`Case`] says what was asked and how the server is off from the ideal; [`row`] is what a study would have kept. The
//! formulas are those of one server that is as fast as all together, whose times in system are exponential: near enough.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use maitred::load::demand::Demand;
use maitred::random::Random;
use maitred::study::effort::Effort;
use maitred::study::row::{Limit, Parameters, Phase, Pin, Predicted, Row, SCHEMA, Sojourn, Status, Twin};

/// What was asked of what.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) engine: &'static str,
    pub(crate) workers: usize,
    pub(crate) demand: &'static str,
    pub(crate) kind: &'static str,
    /// None: a closed loop.
    pub(crate) load: Option<f64>,
    /// The configuration, as the plan names it.
    pub(crate) configuration: String,
    /// How many times longer than ideal its latencies are.
    pub(crate) slower: f64,
    /// How far repeats of the same lie apart, as a part.
    pub(crate) spread: f64,
    pub(crate) repeats: usize,
    pub(crate) cores: usize,
    pub(crate) objective: Option<&'static str>,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            engine: "pool",
            workers: 2,
            demand: "exp:2ms",
            kind: "sleep",
            load: Some(0.5),
            configuration: "all".to_owned(),
            slower: 1.1,
            spread: 0.02,
            repeats: 7,
            cores: 1,
            objective: Some("p99=20ms"),
        }
    }
}

/// Requests of a run: enough for a p99.9.
const REQUESTS: u64 = 30_000;

/// Rows under way to a file.
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    random: Random,
}

impl Rows {
    pub(crate) fn new(seed: u64) -> Rows {
        Rows { rows: Vec::new(), random: Random::new(seed) }
    }

    /// Adds all repeats of a case.
    pub(crate) fn add(&mut self, case: &Case) -> &mut Rows {
        self.add_with(case, |_| {})
    }

    /// Adds all repeats of a case, each changed by `change`.
    pub(crate) fn add_with(&mut self, case: &Case, change: impl Fn(&mut Row)) -> &mut Rows {
        for repeat in 0..case.repeats {
            let mut row = row(case, repeat, &mut self.random);
            (row.run, row.order) = (self.rows.len(), self.rows.len());
            change(&mut row);
            self.rows.push(row);
        }
        self
    }

    /// Adds an A/A pair of a case.
    pub(crate) fn add_pair(&mut self, case: &Case) -> &mut Rows {
        for twin in [Twin::First, Twin::Second] {
            self.add_with(case, |row| (row.aa, row.twin) = (true, Some(twin)));
        }
        self
    }

    /// Adds all repeats of a case that could not be measured.
    pub(crate) fn add_failed(&mut self, case: &Case, reason: &str) -> &mut Rows {
        self.add_with(case, |row| {
            row.status = Status::Failed;
            row.reason = Some(reason.to_owned());
            (row.load, row.server, row.effort) = (None, None, None);
        })
    }
}

/// One run of a case.
pub(crate) fn row(case: &Case, repeat: usize, random: &mut Random) -> Row {
    let demand = Demand::parse(case.demand).expect("the case has a demand");
    let mean_ns = demand.mean_ns();
    let servers = if case.kind == "sleep" { case.workers } else { case.workers.min(case.cores) };
    let capacity_per_s = servers as f64 * 1e9 / mean_ns;
    let rate_per_s = case.load.map(|load| load * capacity_per_s);
    // A closed loop asks for nearly all.
    let utilization = case.load.unwrap_or(0.9);
    let variation = (1.0 + demand.squared_variation()) / 2.0;
    let waiting = if utilization < 1.0 { utilization / (1.0 - utilization) } else { 300.0 } / servers as f64;
    let at = |quantile: f64, factor: f64| factor * mean_ns * (1.0 + variation * waiting * -(1.0 - quantile).ln());
    let noise = case.slower * (1.0 + case.spread * random.normal());
    let achieved_per_s = capacity_per_s * utilization.min(1.0) / if case.load.is_some() { 1.0 } else { noise };
    let [p50, p90, p99, p99_9] = [0.5, 0.9, 0.99, 0.999].map(|quantile| at(quantile, noise).round());
    let stages = |whole: f64| {
        let service = mean_ns.min(0.8 * whole);
        let rest = whole - service;
        json!({"late": 0.02 * rest, "unseen": 0.18 * rest, "queue": 0.7 * rest, "service": service, "reply": 0.1 * rest})
    };
    let load = json!({
        "schema": "maitred.load/1",
        "offered_per_s": rate_per_s, "achieved_per_s": achieved_per_s,
        "requests": REQUESTS, "intended": REQUESTS, "unsent": 0, "unanswered": 0, "shed": 0, "errors": {},
        "latency_ns": {"mean": at(0.63, noise), "p50": p50, "p90": p90, "p99": p99, "p99_9": p99_9, "max": 2.0 * p99_9},
        "stages_at": {"p50": stages(p50), "p90": stages(p90), "p99": stages(p99), "p99_9": stages(p99_9)},
        "server": {"cpu_ns_per_request": (20_000.0 + 300.0 * case.workers as f64) * (1.0 + 0.02 * random.normal())},
        "intervals": [],
        "slo": case.objective.map(|text| json!({"text": text, "quantile_ns": p99, "met": p99 <= 20e6, "reason": null})),
    });
    let predicted = case.load.filter(|load| *load < 1.0).map(|utilization| Predicted {
        system: format!("one queue, {servers} servers"),
        by: "formula".to_owned(),
        servers,
        utilization,
        sojourn_ns: Sojourn {
            mean: Some(at(0.63, 1.0)),
            p50: Some(at(0.5, 1.0)),
            p90: Some(at(0.9, 1.0)),
            p99: Some(at(0.99, 1.0)),
            p99_9: Some(at(0.999, 1.0)),
        },
    });
    let is_machine_limited = case.kind != "sleep" && case.workers > case.cores;
    Row {
        schema: SCHEMA.to_owned(),
        run: 0,
        repeat,
        order: 0,
        status: Status::Ok,
        reason: None,
        aa: false,
        twin: None,
        configuration: case.configuration.clone(),
        point: case.load.map_or("closed".to_owned(), |load| format!("load={load}")),
        parameters: Parameters {
            engine: case.engine.to_owned(),
            workers: case.workers,
            service: "work".to_owned(),
            demand: Some(case.demand.to_owned()),
            demand_mean_ns: Some(mean_ns),
            kind: Some(case.kind.to_owned()),
            load: case.load,
            capacity_per_s: Some(capacity_per_s),
            rate_per_s,
            arrivals: if case.load.is_some() { "poisson" } else { "closed" }.to_owned(),
            phases: Vec::new(),
            connections: 64,
            depth: None,
            requests_per_connection: None,
            size_bytes: 64,
            duration_s: REQUESTS as f64 / rate_per_s.unwrap_or(achieved_per_s),
            warmup_s: 0.5,
            cooldown_s: 0.1,
            seed: 1_000 + repeat as u64,
            pin: Pin::Split,
            server_cores: (0..case.cores).collect(),
            load_cores: vec![case.cores],
            objective: case.objective.map(str::to_owned),
            options: BTreeMap::new(),
        },
        limited_by: if is_machine_limited { vec![Limit::Machine] } else { Vec::new() },
        load: Some(load),
        server: Some(
            json!({"schema": "maitred.summary/1", "poller": {"wakes": 12, "queued": 48, "polls": 40, "events": 60, "queue_depth_max": 7},
                           "worker_turns": [{"turns": 30}, {"turns": 10}]}),
        ),
        effort: Some(Effort {
            system_calls_per_request: Some(4.5),
            queue_empty_share: Some(0.75),
            queue_depth_p99: Some(3),
        }),
        predicted,
    }
}

/// Changes a field of a row's load.
pub(crate) fn set(row: &mut Row, path: &[&str], value: Value) {
    let mut at = row.load.as_mut().expect("it was measured");
    for field in path {
        at = &mut at[*field];
    }
    *at = value;
}

/// Makes a row one of an overload: half the capacity, then twice, then half, each of two seconds. `back_s` is when its p99
/// is as before.
pub(crate) fn overload(row: &mut Row, back_s: f64) {
    let capacity_per_s = row.parameters.capacity_per_s.expect("work has a capacity");
    let phase = |number: usize, load: f64| Phase {
        from_s: 2.0 * number as f64,
        to_s: 2.0 * (number + 1) as f64,
        load: Some(load),
        rate_per_s: load * capacity_per_s,
    };
    row.parameters.phases = vec![phase(0, 0.5), phase(1, 2.0), phase(2, 0.5)];
    row.point = "phases".to_owned();
    let interval = |number: usize| {
        let from_s = 0.25 * number as f64;
        let (asked, p99) = match from_s {
            from if from < 2.0 => (0.5, 10e6),
            from if from < 4.0 => (1.0, 10e6 + (from - 1.9) * 4e8),
            from if from < 4.0 + back_s => (1.0, 8e8 * (1.0 - (from - 4.0) / (back_s + 1.0))),
            _ => (0.5, 11e6),
        };
        json!({"from_s": from_s, "to_s": from_s + 0.25, "requests": 100, "achieved_per_s": asked * capacity_per_s,
               "p50_ns": p99 / 4.0, "p99_ns": p99, "max_ns": p99 * 2.0, "errors": 0})
    };
    set(row, &["intervals"], (0..24).map(interval).collect());
}

/// Every kind of figure and table has rows here.
pub(crate) fn rich(seed: u64) -> Vec<Row> {
    let mut all = Rows::new(seed);
    let loads = [0.2, 0.5, 0.8, 0.9, 1.1];
    for (engine, slower) in [("pool", 1.15), ("event-loops", 1.6)] {
        for workers in [1, 2, 4, 8] {
            for load in loads {
                let configuration = format!("engine={engine} workers={workers} demand=exp:2ms kind=sleep");
                let case = Case { engine, workers, load: Some(load), configuration, slower, ..Case::default() };
                if engine == "pool" && workers == 2 && load == 0.5 {
                    all.add_pair(&case);
                } else if engine == "event-loops" && workers == 8 && load == 0.9 {
                    all.add_failed(&case, "the server ended: signal 9");
                } else if load == 1.1 {
                    all.add_with(&case, |row| {
                        let achieved = row.parameters.capacity_per_s.expect("work has a capacity");
                        set(row, &["achieved_per_s"], json!(achieved * 0.98));
                    });
                } else {
                    all.add(&case);
                }
            }
        }
    }
    // The shorter the service, the better are loops; the more it varies, the better is one queue.
    let means = [("5us", 0.6), ("20us", 0.8), ("100us", 1.0), ("500us", 1.3)];
    for (mean, of_mean) in means {
        for (shape, of_shape) in [("fixed", 0.8), ("exp", 1.0), ("bimodal", 1.5)] {
            let demand: &'static str = match (shape, mean) {
                ("fixed", "5us") => "fixed:5us",
                ("fixed", "20us") => "fixed:20us",
                ("fixed", "100us") => "fixed:100us",
                ("fixed", _) => "fixed:500us",
                ("exp", "5us") => "exp:5us",
                ("exp", "20us") => "exp:20us",
                ("exp", "100us") => "exp:100us",
                ("exp", _) => "exp:500us",
                (_, "5us") => "bimodal:90%:2500ns,10%:27500ns",
                (_, "20us") => "bimodal:90%:10us,10%:110us",
                (_, "100us") => "bimodal:90%:50us,10%:550us",
                _ => "bimodal:90%:250us,10%:2750us",
            };
            for (engine, slower) in [("pool", 1.2), ("event-loops", 1.2 * of_mean * of_shape)] {
                let configuration = format!("engine={engine} workers=1 demand={demand} kind=spin");
                let case = Case {
                    engine,
                    workers: 1,
                    demand,
                    kind: "spin",
                    load: Some(0.7),
                    configuration,
                    slower,
                    objective: None,
                    ..Case::default()
                };
                all.add(&case);
            }
        }
    }
    for (engine, back_s) in [("pool", 0.5), ("event-loops", 1.25)] {
        let configuration = format!("engine={engine} demand=exp:5ms");
        let case = Case { engine, demand: "exp:5ms", configuration, ..Case::default() };
        all.add_with(&case, |row| overload(row, back_s));
    }
    for (engine, slower) in
        [("pool", 1.0), ("event-loops", 1.3), ("thread-per-connection", 1.9), ("process-per-connection", 5.0)]
    {
        let configuration = format!("engine={engine} requests_per_connection=1");
        let case = Case { engine, load: None, configuration, slower, ..Case::default() };
        all.add_with(&case, |row| {
            row.parameters.requests_per_connection = Some(1);
            set(row, &["connect_latency_ns"], json!({"p50": 40_000.0 * slower}));
        });
    }
    for load in [None, Some(0.3), Some(0.6), Some(0.9)] {
        let configuration = "engine=pool demand=exp:1ms".to_owned();
        all.add(&Case { demand: "exp:1ms", load, configuration, ..Case::default() });
    }
    all.rows
}
