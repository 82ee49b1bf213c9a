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
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::ClockId;
use serde_json::json;

use crate::account::{self, Account, Host};
use crate::client::{Errors, Generator, Load, Report, Slice};
use crate::idle;
use crate::process::{self, Server};
use crate::random::Random;
use crate::report::show_ratio;
use crate::rows::{Goal, Metric, Placement, ROWS, Row, Shape};
use crate::statistics::{Estimate, median};

/// The ratio of a row's headline is known when its interval is this narrow, either way.
const RESOLVED: f64 = 0.03;
/// Before each slice: caches are cold, and batches must grow to what they will be. Thousands of
/// requests at any rate that is measured here.
const SETTLE: Duration = Duration::from_millis(40);

pub(crate) struct Plan {
    pub(crate) rows: Vec<String>,
    pub(crate) rounds: RangeInclusive<usize>,
    pub(crate) maitred: PathBuf,
    pub(crate) maitred_args: Vec<String>,
    pub(crate) also: Vec<(String, Vec<String>)>,
    pub(crate) variants: Vec<String>,
    pub(crate) window: Duration,
    pub(crate) slice: Duration,
    pub(crate) warmup: Duration,
    pub(crate) seed: u64,
    pub(crate) json: Option<PathBuf>,
}

pub(crate) fn run(plan: &Plan) -> io::Result<()> {
    if plan.rows == ["list"] {
        for row in ROWS {
            println!("{:<18}{}", row.name, row.summary());
        }
        return Ok(());
    }
    process::raise_descriptor_limit()?;
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
                "schema": "maitred.limit/1", "host": Host::read(), "seed": plan.seed,
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

/// Two comparisons at once would measure each other. Unlocked when the process ends, however.
fn be_alone() -> io::Result<File> {
    let path = std::env::temp_dir().join("maitred-limit.lock");
    let lock = File::create(&path)?;
    if lock.try_lock().is_err() {
        eprintln!("limit: waiting for another comparison, which holds {}", path.display());
        lock.lock()?;
    }
    Ok(lock)
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
    Baseline,
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

/// Which server the load failed on.
struct LoadFailure {
    server: usize,
    what: String,
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
    pub(crate) server_cpu: Option<usize>,
    pub(crate) load_cpu: Option<usize>,
    /// CPUs that other programs kept busy, one value per round.
    pub(crate) others: Vec<f64>,
}

impl<'a> Comparison<'a> {
    fn run(plan: &'a Plan, row: &'static Row) -> io::Result<Self> {
        let (server_cpu, load_cpu) = match row.placement {
            Placement::Free => (None, None),
            Placement::Split => match process::allowed_cpus()?.as_slice() {
                [server, load, ..] => (Some(*server), Some(*load)),
                _ => return Err(io::Error::other("the server and the load need a CPU each")),
            },
        };
        let variants = variants(plan, row)?;
        let mut comparison = Self { plan, row, variants, server_cpu, load_cpu, others: Vec::new() };
        let least = row.least_rounds.max(*plan.rounds.start()).min(*plan.rounds.end());
        for round in 1..=*plan.rounds.end() {
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
        let mut random = Random::new(self.plan.seed.wrapping_mul(1_000_003).wrapping_add(round as u64));
        let samples = match self.row.shape {
            Shape::Idle { connections } => self.round_idle(connections, &mut random)?,
            Shape::Load(load) => self.round_loaded(load, &mut random)?,
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

    /// All servers at once, loaded in turns. On a shared machine the speed of a CPU changes by a
    /// third from one second to the next; turns of a tenth of a second see the same machine.
    fn round_loaded(&mut self, load: Load, random: &mut Random) -> io::Result<Vec<Sample>> {
        let mut servers = Vec::new();
        for index in shuffled(self.variants.len(), random) {
            servers.push((index, Server::start(&self.variants[index].command, self.server_cpu)?));
        }
        let mut servers = in_order(servers);
        let others = Others::begin(&servers)?;
        // A thread of its own, so that only the load is pinned; this one starts the servers.
        let loaded = thread::scope(|scope| {
            let loading = scope.spawn(|| self.load(load, &servers, random));
            loading.join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        let reports = loaded.map_err(|failure| servers[failure.server].failure(&failure.what))?;
        self.others.push(others.end(&servers)?);
        for server in servers {
            server.stop()?;
        }
        Ok((reports.into_iter())
            .map(|report| {
                let value = |metric: Metric| Some((metric, metric.of(&report)?));
                Sample::new(self.metrics().filter_map(value).collect(), Some(report))
            })
            .collect())
    }

    fn load(&self, load: Load, servers: &[Server], random: &mut Random) -> Result<Vec<Report>, LoadFailure> {
        let of = |server: usize| move |error: io::Error| LoadFailure { server, what: error.to_string() };
        process::pin(self.load_cpu).map_err(of(0))?;
        let mut generators = Vec::new();
        for (index, server) in servers.iter().enumerate() {
            let generator = Generator::connect(load, server.address, Some(server.pid()));
            generators.push(generator.map_err(of(index))?);
        }
        let slice = self.plan.slice.min(self.plan.window);
        let slices = self.plan.window.as_nanos().div_ceil(slice.as_nanos());
        let warmup = Slice { settle: self.plan.warmup, measured: Duration::ZERO, seed: 0 };
        let run = |index: usize, generator: &mut Generator, slice| {
            generator.run(slice).map_err(of(index))?;
            match generator.lost() {
                0 => Ok(()),
                lost => Err(LoadFailure { server: index, what: format!("left {lost} requests unanswered") }),
            }
        };
        for (index, generator) in generators.iter_mut().enumerate() {
            run(index, generator, warmup)?;
            generator.forget().map_err(of(index))?;
        }
        for _ in 0..slices {
            // The same arrivals for all.
            let slice = Slice { settle: SETTLE, measured: slice, seed: random.next() };
            for index in shuffled(servers.len(), random) {
                run(index, &mut generators[index], slice)?;
            }
        }
        let reports: Vec<Report> = generators.iter().map(Generator::report).collect();
        for (server, report) in reports.iter().enumerate() {
            let Errors { wrong_bytes, disconnects } = report.errors;
            if wrong_bytes + disconnects > 0 || report.requests == 0 {
                let requests = report.requests;
                let what = format!(
                    "answered {requests} requests, {wrong_bytes} more wrongly, and hung up {disconnects} times"
                );
                return Err(LoadFailure { server, what });
            }
        }
        Ok(reports)
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
        self.variants.iter().filter(|variant| variant.role == Role::Baseline)
    }

    /// The baseline that is harder to beat.
    pub(crate) fn better_baseline(&self, metric: Metric) -> Option<&Variant> {
        let value = |variant: &&Variant| median(&variant.values(metric)).unwrap_or(f64::NAN);
        self.baselines().max_by(|a, b| {
            let order = value(a).total_cmp(&value(b));
            if metric.higher_is_better() { order } else { order.reverse() }
        })
    }

    /// The ratio that decides when there are enough rounds: the daemon's, or else the A/A pair's.
    fn headline(&self) -> Option<Estimate> {
        let metric = self.row.headline;
        if let Some(daemon) = self.variants.iter().find(|variant| variant.role == Role::Daemon) {
            return ratio(daemon, self.better_baseline(metric)?, metric);
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
                Role::Baseline => false,
                Role::Again { of } => *index == of,
                Role::Daemon => baseline.role == Role::Baseline,
            })
            .map(|(_, baseline)| (baseline, ratio(variant, baseline, metric)))
            .collect()
    }
}

/// What the machine does beside the comparison: a build next door spoils every figure.
struct Others {
    since: Instant,
    run_ns: u64,
}

impl Others {
    fn begin(servers: &[Server]) -> io::Result<Self> {
        Ok(Self { since: Instant::now(), run_ns: Self::run_ns(servers)? })
    }

    /// CPUs kept busy since.
    fn end(self, servers: &[Server]) -> io::Result<f64> {
        let run_ns = Self::run_ns(servers)?.saturating_sub(self.run_ns);
        Ok(run_ns as f64 / self.since.elapsed().as_nanos() as f64)
    }

    fn run_ns(servers: &[Server]) -> io::Result<u64> {
        // Not the sum over threads: the one that put the load has ended by now.
        let own = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
        let mut own_ns = own.tv_sec as u64 * 1_000_000_000 + own.tv_nsec as u64;
        for server in servers {
            own_ns += Account::of(server.pid())?.run_ns;
        }
        Ok(account::machine_run_ns().saturating_sub(own_ns))
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
    let limit = std::env::current_exe()?;
    for threads in row.bare_threads {
        let mut command: Vec<OsString> = vec![limit.clone().into(), "serve".into()];
        command.extend(["--threads".into(), threads.to_string().into()]);
        let name = format!("bare-{threads}");
        if let Some(of) = add(name.clone(), Role::Baseline, &command) {
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

fn shuffled(count: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    random.shuffle(&mut order);
    order
}

fn in_order<T>(mut indexed: Vec<(usize, T)>) -> Vec<T> {
    indexed.sort_by_key(|(index, _)| *index);
    indexed.into_iter().map(|(_, item)| item).collect()
}

/// The paired ratio: round by round, then its centre.
pub(crate) fn ratio(variant: &Variant, baseline: &Variant, metric: Metric) -> Option<Estimate> {
    let pairs = variant.values(metric).into_iter().zip(baseline.values(metric));
    let ratios: Vec<f64> = pairs.filter(|(_, below)| *below > 0.0).map(|(above, below)| above / below).collect();
    Estimate::of_ratios(&ratios)
}
