//! The comparison: every variant of a row once per round, each on a server started for that round;
//! then paired ratios, their intervals and the verdict on the goals.
//!
//! A round is the pair, and within it the variants take turns slice by slice in shuffled order: a
//! machine that is slow for a second slows both sides of a ratio. `-again`
//! is the same bare loop once more: its ratio to the first must be 1, and the width of its
//! interval is the smallest difference that the rounds can show.
//!
//! It deliberately sets nothing per row beyond what the row says, so the daemon is compared with
//! one setting; other settings go beside it with `--also`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

use maitred::net::{os, ring};
use maitred::random::Random;
use serde_json::json;

use crate::Turns;
use crate::idle;
use crate::load::{self, Cpus, Report, in_order, shuffled};
use crate::machine::{Host, be_alone};
use crate::process::{self, Server};
use crate::report::show_ratio;
use crate::rows::{Bare, Goal, Metric, Placement, ROWS, Row, Shape};
use crate::statistics::{Estimate, median};

/// A ratio is known when its interval is this narrow, either way.
pub(crate) const RESOLVED: f64 = 0.03;

pub(crate) struct Plan {
    pub(crate) rows: Vec<String>,
    pub(crate) maitred: PathBuf,
    pub(crate) maitred_args: Vec<String>,
    pub(crate) also: Vec<(String, Vec<String>)>,
    pub(crate) variants: Vec<String>,
    pub(crate) turns: Turns,
    pub(crate) json: Option<PathBuf>,
}

pub(crate) fn run(plan: &Plan) -> io::Result<()> {
    if plan.rows == ["list"] {
        for row in ROWS {
            println!("{:<18}{}", row.name, row.summary());
        }
        return Ok(());
    }
    os::raise_descriptor_limit();
    let rows = chosen_rows(&plan.rows)?;
    let _alone = be_alone()?;
    let mut written = Vec::new();
    let mut failures = Vec::new();
    for row in rows {
        match Comparison::run(plan, row) {
            Ok(comparison) => {
                comparison.print();
                written.push(comparison.to_json());
            }
            // The other rows are still worth having.
            Err(error) => {
                println!("{}: failed: {error}\n", row.name);
                written.push(json!({ "row": row.name, "failed": error.to_string() }));
                failures.push(row.name);
            }
        }
        if let Some(path) = &plan.json {
            let all = json!({
                "schema": "maitred.limit/1", "host": Host::read(), "seed": plan.turns.seed,
                "maitred_args": plan.maitred_args, "rows": written,
            });
            fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
        }
    }
    match failures.as_slice() {
        [] => Ok(()),
        failures => Err(io::Error::other(format!("failed: {}", failures.join(", ")))),
    }
}

fn chosen_rows(names: &[String]) -> io::Result<Vec<&'static Row>> {
    if names.is_empty() {
        return Ok(ROWS.iter().collect());
    }
    (names.iter())
        .map(|name| {
            ROWS.iter().find(|row| row.name == name).ok_or_else(|| {
                let known: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
                io::Error::other(format!("no row `{name}`; there are {}", known.join(", ")))
            })
        })
        .collect()
}

/// A server to be measured.
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) role: Role,
    command: Vec<OsString>,
    /// One sample per round, in the order of rounds.
    pub(crate) samples: Vec<Sample>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Role {
    Baseline(Bare),
    /// The other half of the A/A pair of a baseline.
    Again {
        of: usize,
    },
    Daemon,
}

/// One run.
pub(crate) struct Sample {
    values: Vec<(Metric, f64)>,
    /// Absent where nothing was loaded.
    pub(crate) report: Option<Report>,
}

impl Sample {
    fn new(values: Vec<(Metric, f64)>, report: Option<Report>) -> Self {
        Self { values, report }
    }
}

impl Variant {
    pub(crate) fn values(&self, metric: Metric) -> Vec<f64> {
        (self.samples.iter())
            .filter_map(|sample| sample.values.iter().find(|(of, _)| *of == metric).map(|(_, value)| *value))
            .collect()
    }
}

/// A row with everything that was measured of it.
pub(crate) struct Comparison<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) row: &'static Row,
    pub(crate) variants: Vec<Variant>,
    pub(crate) cpus: Cpus,
    /// CPUs that other programs kept busy, one value per round.
    pub(crate) others: Vec<f64>,
}

impl<'a> Comparison<'a> {
    fn run(plan: &'a Plan, row: &'static Row) -> io::Result<Self> {
        let cpus = match row.placement {
            Placement::Free => Cpus { server: None, load: None },
            Placement::Split => {
                let [server, load] = process::two_cpus()?.map(Some);
                Cpus { server, load }
            }
        };
        let mut comparison = Self { plan, row, variants: variants(plan, row)?, cpus, others: Vec::new() };
        let rounds = &plan.turns.rounds;
        let least = row.least_rounds.max(*rounds.start()).min(*rounds.end());
        for round in 1..=*rounds.end() {
            comparison.round(round)?;
            comparison.progress(round);
            if round >= least && comparison.is_resolved() {
                break;
            }
        }
        Ok(comparison)
    }

    /// Every variant once, each on a new server.
    fn round(&mut self, round: usize) -> io::Result<()> {
        let mut random = self.plan.turns.random(round);
        let samples = match self.row.shape {
            Shape::Idle { connections } => self.round_idle(connections, &mut random)?,
            Shape::Load(flags) => self.round_loaded(flags, &mut random)?,
        };
        for (variant, sample) in self.variants.iter_mut().zip(samples) {
            variant.samples.push(sample);
        }
        Ok(())
    }

    /// One server after the other: only its memory counts.
    fn round_idle(&self, connections: usize, random: &mut Random) -> io::Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for index in shuffled(self.variants.len(), random) {
            let mut server = Server::start(&self.variants[index].command, None)?;
            let bytes = idle::bytes_per_connection(server.address, connections, server.pid())
                .map_err(|error| server.failure(&error.to_string()))?;
            server.stop()?;
            samples.push((index, Sample::new(vec![(Metric::IdleBytes, bytes)], None)));
        }
        Ok(in_order(samples))
    }

    /// All servers at once, loaded in turns.
    fn round_loaded(&mut self, flags: &str, random: &mut Random) -> io::Result<Vec<Sample>> {
        let subjects: Vec<_> =
            self.variants.iter().map(|variant| load::Subject { command: &variant.command, flags }).collect();
        let (reports, disturbance) = load::round(&subjects, self.cpus, &self.plan.turns, random)?;
        self.others.push(disturbance.other_programs_cpus);
        Ok((reports.into_iter())
            .map(|report| {
                let value = |metric: Metric| Some((metric, metric.of(&report)?));
                Sample::new(self.metrics().filter_map(value).collect(), Some(report))
            })
            .collect())
    }

    /// The metrics of the goals, then those beside them.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = Metric> + use<> {
        let goals = self.row.goals.iter().map(|(metric, _)| *metric);
        goals.chain(self.row.beside.iter().copied())
    }

    pub(crate) fn goal(&self, metric: Metric) -> Option<Goal> {
        self.row.goals.iter().find(|(of, _)| *of == metric).map(|(_, goal)| *goal)
    }

    pub(crate) fn baselines(&self) -> impl Iterator<Item = &Variant> {
        self.variants.iter().filter(|variant| matches!(variant.role, Role::Baseline(_)))
    }

    /// The epoll loop that is harder to beat.
    pub(crate) fn better_baseline(&self, metric: Metric) -> Option<&Variant> {
        let value = |variant: &&Variant| median(&variant.values(metric)).unwrap_or(f64::NAN);
        let epoll = self.baselines().filter(|variant| matches!(variant.role, Role::Baseline(Bare::Epoll(_))));
        epoll.max_by(|a, b| {
            let order = value(a).total_cmp(&value(b));
            if metric.higher_is_better() { order } else { order.reverse() }
        })
    }

    /// The ratio that decides when there are enough rounds: the daemon's, or else the A/A pair's.
    fn headline(&self) -> Option<Estimate> {
        let metric = self.row.headline;
        if let Some(daemon) = self.variants.iter().find(|variant| variant.role == Role::Daemon) {
            let of_epoll = self.better_baseline(metric);
            return ratio(daemon, of_epoll.or_else(|| self.baselines().next())?, metric);
        }
        let pair = |variant: &Variant| match variant.role {
            Role::Again { of } => ratio(variant, &self.variants[of], metric),
            _ => None,
        };
        self.variants.iter().find_map(pair)
    }

    pub(crate) fn is_resolved(&self) -> bool {
        self.headline().is_some_and(|estimate| estimate.is_within(RESOLVED))
    }

    fn progress(&self, round: usize) {
        let headline = self
            .headline()
            .map_or_else(String::new, |ratio| format!(": {} ratio {}", self.row.headline.name(), show_ratio(ratio)));
        eprintln!("{} round {round}{headline}", self.row.name);
    }

    pub(crate) fn rounds(&self) -> usize {
        self.variants.first().map_or(0, |variant| variant.samples.len())
    }

    /// Each ratio that says something of `variant`, with the baseline it is to.
    pub(crate) fn ratios(&self, variant: &Variant, metric: Metric) -> Vec<(&Variant, Option<Estimate>)> {
        (self.variants.iter().enumerate())
            .filter(|(index, baseline)| match variant.role {
                Role::Baseline(Bare::Epoll(_)) => false,
                // What completion costs beside readiness.
                Role::Baseline(Bare::Ring(_)) => matches!(baseline.role, Role::Baseline(Bare::Epoll(_))),
                Role::Again { of } => *index == of,
                Role::Daemon => matches!(baseline.role, Role::Baseline(_)),
            })
            .map(|(_, baseline)| (baseline, ratio(variant, baseline, metric)))
            .collect()
    }
}

/// Bare loops, each twice, then the daemon with `--assist` as it comes and off, then `--also`.
fn variants(plan: &Plan, row: &Row) -> io::Result<Vec<Variant>> {
    let is_wanted = |name: &str| plan.variants.is_empty() || plan.variants.iter().any(|wanted| wanted == name);
    let mut variants: Vec<Variant> = Vec::new();
    let mut add = |name: String, role: Role, command: &[OsString]| {
        if is_wanted(&name) {
            let command = command.to_vec();
            variants.push(Variant { name, role, command, samples: Vec::new() });
            return Some(variants.len() - 1);
        }
        None
    };
    let refusal = ring_refusal();
    for bare in row.bare {
        let name = bare.name();
        if let (Bare::Ring(_), Some(reason)) = (bare, &refusal) {
            println!("{}: without {name}: {reason}", row.name);
            continue;
        }
        let command = bare.command()?;
        if let Some(of) = add(name.clone(), Role::Baseline(*bare), &command) {
            add(format!("{name}-again"), Role::Again { of }, &command);
        }
    }
    let mut daemon: Vec<OsString> = vec![plan.maitred.clone().into(), "serve".into()];
    daemon.extend(["--listen".into(), "echo=tcp://127.0.0.1:0".into()]);
    daemon.extend(["--workers".into(), row.workers.to_string().into()]);
    daemon.extend(row.maitred_args.iter().map(Into::into));
    daemon.extend(plan.maitred_args.iter().map(Into::into));
    add("maitred".into(), Role::Daemon, &daemon);
    let assist_off = ("maitred-assist-off".into(), vec!["--assist".into(), "off".into()]);
    for (name, arguments) in [&assist_off].into_iter().chain(&plan.also) {
        let mut command = daemon.clone();
        command.extend(arguments.iter().map(Into::into));
        add(name.clone(), Role::Daemon, &command);
    }
    if variants.is_empty() {
        return Err(io::Error::other("`--variants` leaves nothing to measure"));
    }
    Ok(variants)
}

/// Why the bare ring cannot run here.
pub(crate) fn ring_refusal() -> Option<String> {
    match ring::probe() {
        Ok(features) if features.accept_multishot && features.receive_multishot && features.deferred => None,
        Ok(features) => Some(format!("io_uring is too old here: {features:?}")),
        Err(reason) => Some(reason),
    }
}

/// The paired ratio: round by round, then its centre.
pub(crate) fn ratio(variant: &Variant, baseline: &Variant, metric: Metric) -> Option<Estimate> {
    let pairs = variant.values(metric).into_iter().zip(baseline.values(metric));
    let ratios: Vec<f64> = pairs.filter(|(_, below)| *below > 0.0).map(|(above, below)| above / below).collect();
    Estimate::of_ratios(&ratios)
}
