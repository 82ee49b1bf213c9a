//! What each engine costs: every engine of the registry, and the bare loops beside them, under the same three loads.
//!
//! *steady* is a closed loop over connections that stay, *churn* one request per connection, *idle* connections that do
//! nothing. In each round every engine has its turn at each load, in shuffled order, on a server started for it alone: no
//! state leaks from one to the next, and a busy moment of the machine meets them all alike.
//!
//! It deliberately sets as little as it can: what an engine must be told besides its name, and where a load had to be cut
//! to what the engine can carry, is written into the row. What cannot be measured is null with its reason, and an engine
//! that does not start is a row that says why. Nothing is drawn here: `tests/tables.rs` makes the table of the JSON.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::slice;
use std::sync::atomic::AtomicBool;
use std::thread;

use maitred::config::{AtOnce, EngineInfo};
use maitred::engine::ENGINES;
use maitred::load::report::Report;
use maitred::net::os;
use maitred::random::Random;
use serde_json::{Map, Value, json};

use crate::Engines;
use crate::compare::ring_refusal;
use crate::idle;
use crate::load::{self, Cpus, in_order, shuffled};
use crate::machine::{Disturbance, Host, Others, be_alone};
use crate::process::{self, Server};
use crate::rows::Bare;
use crate::statistics::median;

/// Idle connections at most where each is a process.
const IDLE_PROCESSES: usize = 100;

const BARE: [Bare; 2] = [Bare::Epoll(1), Bare::Ring(1)];

#[derive(Clone, Copy, PartialEq)]
enum Load {
    Steady,
    Churn,
    Idle,
}

const LOADS: [Load; 3] = [Load::Steady, Load::Churn, Load::Idle];

pub(crate) fn run(plan: &Engines) -> io::Result<()> {
    os::raise_descriptor_limit();
    let subjects = subjects(&plan.engines)?;
    let cpus = match plan.pin {
        true => {
            let [server, load] = process::two_cpus()?.map(Some);
            Cpus { server, load }
        }
        false => Cpus { server: None, load: None },
    };
    let mut rows = Vec::new();
    for load in LOADS {
        for subject in &subjects {
            rows.push(Row::new(plan, subject, load)?);
        }
    }
    let _alone = be_alone()?;
    for round in 1..=plan.rounds {
        let mut random = Random::new(plan.seed.wrapping_mul(1_000_003).wrapping_add(round as u64));
        // The same bytes for all.
        let seed = random.next();
        for rows in rows.chunks_mut(subjects.len()) {
            self::round(rows, plan, cpus, seed, &mut random);
        }
        eprintln!("round {round} of {}", plan.rounds);
        // What was measured so far stays if this is ended.
        write(&plan.json, plan, cpus, &rows)?;
    }
    let failures: Vec<&str> = rows.iter().flat_map(|row| &row.failures).map(String::as_str).collect();
    if !failures.is_empty() {
        return Err(io::Error::other(failures.join("; ")));
    }
    match rows.iter().any(|row| row.samples.iter().any(Option::is_some)) {
        true => Ok(()),
        false => Err(io::Error::other("nothing could be measured")),
    }
}

/// All of them, or those named and the first bare loop, which ratios are to.
fn subjects(names: &[String]) -> io::Result<Vec<Subject>> {
    let bare = BARE.into_iter().map(Subject::Bare);
    let all: Vec<Subject> = bare.chain(ENGINES.iter().map(Subject::Engine)).collect();
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|subject| subject.name() != **name)) {
        let known: Vec<String> = all.iter().map(Subject::name).collect();
        return Err(io::Error::other(format!("no engine `{unknown}`; there are {}", known.join(", "))));
    }
    let is_wanted = |(at, subject): &(usize, Subject)| names.is_empty() || *at == 0 || names.contains(&subject.name());
    Ok(all.into_iter().enumerate().filter(is_wanted).map(|(_, subject)| subject).collect())
}

/// Every row of one load once, in shuffled order. What fails is a round that the row has not.
fn round(rows: &mut [Row], plan: &Engines, cpus: Cpus, seed: u64, random: &mut Random) {
    let mut found = Vec::new();
    for index in shuffled(rows.len(), random) {
        let row = &mut rows[index];
        found.push((index, row.sample(plan, cpus, seed)));
    }
    for (row, sample) in rows.iter_mut().zip(in_order(found)) {
        row.samples.push(sample);
    }
}

/// What is measured.
enum Subject {
    Bare(Bare),
    Engine(&'static EngineInfo),
}

impl Subject {
    fn name(&self) -> String {
        match self {
            Self::Bare(bare) => bare.name(),
            Self::Engine(engine) => engine.name.to_owned(),
        }
    }

    fn serves_one(&self) -> bool {
        matches!(self, Self::Engine(engine) if engine.at_once == AtOnce::One)
    }

    fn forks(&self) -> bool {
        matches!(self, Self::Engine(engine) if engine.forks)
    }

    /// Whether its processes are made ahead.
    fn has_pool_of_processes(&self) -> bool {
        matches!(self, Self::Engine(engine) if engine.options.contains(&"min_processes"))
    }
}

/// One load on one engine.
struct Row {
    engine: String,
    load: Load,
    connections: usize,
    command: Vec<OsString>,
    /// What the engine is told besides its name.
    settings: Vec<String>,
    /// Where this load is not that of the others.
    note: Option<String>,
    /// Why there is nothing; set once.
    reason: Option<String>,
    forks: bool,
    /// One per round; none where it failed.
    samples: Vec<Option<Sample>>,
    failures: Vec<String>,
}

/// One row in one round.
struct Sample {
    figures: Vec<(Figure, Option<f64>)>,
    disturbance: Disturbance,
}

/// Its name in the JSON, and why it may not be known.
type Figure = (&'static str, &'static str);

const ALWAYS: &str = "it was not measured";
const FEW: &str = "too few requests were answered in a window to tell";
const UNSEEN: &str = "not known of threads and processes that ended before they were looked at";
const UNWAITED: &str = "processes ended that nobody waited for";

impl Row {
    fn new(plan: &Engines, subject: &Subject, load: Load) -> io::Result<Self> {
        let mut row = Self {
            engine: subject.name(),
            load,
            connections: match load {
                Load::Steady => 64,
                Load::Churn => 16,
                Load::Idle => plan.idle,
            },
            command: Vec::new(),
            settings: Vec::new(),
            note: None,
            reason: None,
            forks: subject.forks(),
            samples: Vec::new(),
            failures: Vec::new(),
        };
        match load {
            Load::Idle if subject.serves_one() => {
                row.reason = Some("it serves one client at a time: the others would wait in the backlog".into());
            }
            _ if subject.serves_one() => {
                row.connections = 1;
                row.note = Some("one connection: it serves one client at a time".into());
            }
            Load::Idle if subject.forks() && plan.idle > IDLE_PROCESSES => {
                row.connections = IDLE_PROCESSES;
                row.note = Some(format!("of {IDLE_PROCESSES} connections, a process for each"));
            }
            _ => {}
        }
        if subject.has_pool_of_processes() {
            // One window is shorter than the pool takes to follow the load, so that it begins large enough. Idle
            // connections are to pay for their processes, so that then it begins as it comes, and ends with just two free.
            let count = row.connections;
            row.settings = match load {
                Load::Steady | Load::Churn => words(&format!("--min-processes {count} --max-processes {}", count * 4)),
                Load::Idle => words(&format!("--min-spare 2 --max-spare 2 --max-processes {}", count * 2 + 8)),
            };
        }
        match subject {
            Subject::Bare(bare) => {
                row.command = bare.command()?;
                if let Bare::Ring(_) = bare {
                    row.reason = ring_refusal();
                }
            }
            Subject::Engine(engine) => {
                row.command = vec![plan.maitred.clone().into(), "serve".into(), "--engine".into(), engine.name.into()];
                row.command.extend(["--listen".into(), "echo=tcp://127.0.0.1:0".into()]);
                row.command.extend(row.settings.iter().map(OsString::from));
            }
        }
        Ok(row)
    }

    fn sample(&mut self, plan: &Engines, cpus: Cpus, seed: u64) -> Option<Sample> {
        if self.reason.is_some() {
            return None;
        }
        // Where it lies is of no interest beside the figures.
        let program = self.command[0].to_string_lossy().into_owned();
        let said = |error: io::Error| error.to_string().replace(&program, "maitred");
        let mut server = match Server::start(&self.command, cpus.server) {
            Ok(server) => server,
            Err(error) => {
                eprintln!("{} {}: {error}", self.engine, self.load.name());
                self.reason = Some(said(error));
                return None;
            }
        };
        let sample = self.measure(&mut server, plan, cpus, seed).map_err(|error| server.failure(&error.to_string()));
        match sample.and_then(|sample| server.stop().map(|()| sample)) {
            Ok(sample) => {
                let shown: Vec<String> = (sample.figures.iter())
                    .filter_map(|((name, _), value)| Some(format!("{name} {:.3}", (*value)?)))
                    .collect();
                eprintln!("{} {}: {}", self.engine, self.load.name(), shown.join(", "));
                Some(sample)
            }
            Err(error) => {
                eprintln!("{} {}: {error}", self.engine, self.load.name());
                self.failures.push(format!("{} {}: {}", self.engine, self.load.name(), said(error)));
                None
            }
        }
    }

    fn measure(&self, server: &mut Server, plan: &Engines, cpus: Cpus, seed: u64) -> io::Result<Sample> {
        let others = Others::begin(slice::from_ref(server))?;
        let figures = match self.load.flags() {
            None => {
                let bytes =
                    idle::shared_bytes_per_connection(server.address, self.connections, server.pid(), self.forks)?;
                vec![(("bytes_per_connection", ALWAYS), Some(bytes))]
            }
            Some(flags) => figures(&self.loaded(flags, server, plan, cpus, seed)?),
        };
        Ok(Sample { figures, disturbance: others.end()? })
    }

    fn loaded(&self, flags: &str, server: &Server, plan: &Engines, cpus: Cpus, seed: u64) -> io::Result<Report> {
        let flags = format!("{flags} --connections {} --pid {}", self.connections, server.pid());
        let mut load = load::plan(&flags, server.address);
        (load.warmup, load.duration, load.grace, load.seed) = (plan.warmup, plan.window, load::GRACE, seed);
        // A thread of its own, so that only the load is pinned; this one starts the servers.
        let outcome = thread::scope(|scope| {
            let loading = scope.spawn(|| {
                process::pin(cpus.load)?;
                maitred::load::run(&load, &AtomicBool::new(false), &mut |_| {}).map_err(io::Error::other)
            });
            loading.join().unwrap_or_else(|panic| resume_unwind(panic))
        })?;
        let report = outcome.report(&load);
        if report.has_errors() {
            let counts: Vec<String> = report.errors.iter().map(|(name, count)| format!("{name} {count}")).collect();
            return Err(io::Error::other(format!("failed its load: {}", counts.join(", "))));
        }
        Ok(report)
    }

    fn to_json(&self) -> Value {
        let samples = || self.samples.iter().flatten();
        let mut figures = Map::new();
        for (figure, _) in samples().next().iter().flat_map(|sample| &sample.figures) {
            let value = |sample: &Sample| sample.figures.iter().find(|(of, _)| of == figure).and_then(|found| found.1);
            let values: Vec<Option<f64>> =
                self.samples.iter().map(|sample| sample.as_ref().and_then(value).map(rounded)).collect();
            let known: Vec<f64> = values.iter().copied().flatten().collect();
            // Of a few rounds only, those that happened to be known would stand for the others.
            let is_known = known.len() * 2 >= samples().count();
            let mut spread = if is_known { spread(&known) } else { spread(&[]) };
            spread["values"] = json!(values);
            spread["reason"] = json!((!is_known).then_some(figure.1));
            figures.insert(figure.0.to_owned(), spread);
        }
        let disturbance = |sample: &Option<Sample>| sample.as_ref().map(|sample| sample.disturbance);
        let disturbances: Vec<Option<Disturbance>> = self.samples.iter().map(disturbance).collect();
        let failed = self.samples.iter().all(Option::is_none).then(|| self.failures.first().cloned()).flatten();
        json!({
            "engine": self.engine,
            "load": self.load.name(),
            "connections": self.connections,
            "settings": self.settings.join(" "),
            "note": self.note,
            "reason": self.reason.clone().or(failed),
            "failures": self.failures,
            "figures": figures,
            "disturbance": disturbances,
        })
    }
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Churn => "churn",
            Self::Idle => "idle",
        }
    }

    /// Those of `maitred load`, without the connections.
    fn flags(self) -> Option<&'static str> {
        match self {
            Self::Steady => Some("--size 64B"),
            Self::Churn => Some("--size 64B --requests-per-connection 1"),
            Self::Idle => None,
        }
    }
}

fn figures(report: &Report) -> Vec<(Figure, Option<f64>)> {
    let latency = &report.latency_ns;
    let server = report.server.as_ref();
    let of_server = |of: fn(&maitred::load::report::Server) -> Option<f64>| server.and_then(of);
    let ns = |value: Option<u64>| value.map(|ns| ns as f64);
    let connect = report.connect_latency_ns.as_ref();
    let mut figures = vec![
        (("requests_per_s", ALWAYS), Some(report.achieved_per_s)),
        (("p50_ns", FEW), ns(latency.p50)),
        (("p99_ns", FEW), ns(latency.p99)),
        (("cpu_ns_per_request", UNWAITED), of_server(|server| server.cpu_ns_per_request)),
        (
            ("switches_per_request", UNSEEN),
            of_server(|server| Some(server.voluntary_switches_per_request? + server.involuntary_switches_per_request?)),
        ),
        (("voluntary_switches_per_request", UNSEEN), of_server(|server| server.voluntary_switches_per_request)),
        (("involuntary_switches_per_request", UNSEEN), of_server(|server| server.involuntary_switches_per_request)),
        (("rss_bytes", ALWAYS), of_server(|server| Some(server.rss_bytes? as f64))),
        (("generator_cpus", ALWAYS), Some(report.generator.cpu_util)),
    ];
    figures.extend(connect.map(|connect| (("connect_p50_ns", FEW), ns(connect.p50))));
    figures
}

fn write(path: &Path, plan: &Engines, cpus: Cpus, rows: &[Row]) -> io::Result<()> {
    let disturbed = |of: fn(&Disturbance) -> f64| {
        let samples = rows.iter().flat_map(|row| row.samples.iter().flatten());
        spread(&samples.map(|sample| rounded(of(&sample.disturbance))).collect::<Vec<_>>())
    };
    let loads: Map<String, Value> = LOADS
        .iter()
        .map(|load| (load.name().to_owned(), json!(load.flags().unwrap_or("connections that do nothing"))))
        .collect();
    let all = json!({
        "schema": "maitred.engines/1",
        "host": Host::read(),
        "options": {
            "rounds": plan.rounds,
            "window_s": plan.window.as_secs_f64(),
            "warmup_s": plan.warmup.as_secs_f64(),
            "idle_connections": plan.idle,
            "placement": cpus.show(),
            "seed": plan.seed,
            "loads": loads,
        },
        "disturbance": {
            "other_programs_cpus": disturbed(|disturbance| disturbance.other_programs_cpus),
            "stolen_cpus": disturbed(|disturbance| disturbance.stolen_cpus),
        },
        "rows": rows.iter().map(Row::to_json).collect::<Vec<_>>(),
    });
    fs::write(path, serde_json::to_string_pretty(&all)? + "\n")
}

/// Null without values.
fn spread(values: &[f64]) -> Value {
    json!({
        "median": median(values).map(rounded),
        "lowest": values.iter().copied().reduce(f64::min),
        "highest": values.iter().copied().reduce(f64::max),
    })
}

/// More digits than these say nothing.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}
