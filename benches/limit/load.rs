//! The load: the product's own generator, [`maitred::load`], on several servers in turns, and what came of it.
//!
//! The servers of a round run at once, and each has a generator that keeps its connections from slice to slice. On a
//! shared machine the speed of a CPU changes by a third from one second to the next; turns of a tenth of a second see the
//! same machine. The thread that makes the load reads at both ends of each measured window what the server has used, and
//! sends nothing meanwhile: requests and processor time are of the same window. The last replies of a slice wait for that,
//! a quarter of a millisecond, on every server alike.
//!
//! A reply that is wrong or lost, or a connection that ends, fails the server: nothing that it did counts.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddrV4;
use std::panic::resume_unwind;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use clap::Parser as _;
use maitred::cli::{Args, Command};
use maitred::clock::monotonic_ns;
use maitred::load::client::{Generator, Moment, Span};
use maitred::load::plan::{Arrivals, Plan};
use maitred::load::recorder::ErrorKind;
use maitred::net::process::{ProcessTree, ServerUse};
use maitred::random::Random;
use serde::Serialize;

use crate::Turns;
use crate::machine::{Disturbance, Others};
use crate::process::{self, Server};

/// Before each slice: caches are cold, and batches must grow to what they will be. Thousands of requests at any rate
/// that is measured here.
const SETTLE: Duration = Duration::from_millis(40);
/// How long a slice waits for what is in flight when its window is over.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// The plan of a load on the server at `address`; `flags` are those of `maitred load`, behind the name of the service if that
/// is not echo.
pub(crate) fn plan(flags: &str, address: SocketAddrV4) -> Plan {
    let (service, flags) = match flags.split_once(' ') {
        Some((service, flags)) if !service.starts_with('-') => (service, flags),
        _ => ("echo", flags),
    };
    let target = format!("{service}=tcp://{address}");
    let words = ["maitred", "load", &target].into_iter().chain(flags.split_whitespace());
    let Command::Load(args) = Args::parse_from(words).command else { unreachable!("`load` is the load") };
    Plan::resolve(&args).expect("the flags of a row are right")
}

/// `64 connections x 64 B, 1 in flight on each`.
pub(crate) fn show(plan: &Plan) -> String {
    let Plan { connections, size_bytes, .. } = plan;
    let each = match (plan.arrivals, plan.depth) {
        (Arrivals::Closed, depth) => format!("{} in flight on each", depth.unwrap_or(1)),
        (Arrivals::Poisson { rate_per_s }, _) => format!("Poisson {rate_per_s}/s"),
        (Arrivals::Uniform { rate_per_s }, _) => format!("even {rate_per_s}/s"),
    };
    format!("{connections} connections x {size_bytes} B, {each}")
}

/// Where the two sides run; `None`: anywhere.
#[derive(Clone, Copy)]
pub(crate) struct Cpus {
    pub(crate) server: Option<usize>,
    pub(crate) load: Option<usize>,
}

impl Cpus {
    pub(crate) fn show(self) -> String {
        match (self.server, self.load) {
            (Some(server), Some(load)) => format!("server on CPU {server}, load on CPU {load}"),
            _ => "nobody pinned".into(),
        }
    }
}

/// What the measured windows of all slices found.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) duration_s: f64,
    /// Replies that came inside the windows.
    pub(crate) requests: u64,
    pub(crate) requests_per_s: f64,
    pub(crate) bytes_per_s: f64,
    pub(crate) latency_ns: Latency,
    pub(crate) server: ServerShare,
    pub(crate) generator: GeneratorShare,
    /// Open loop: intended within the window, not sent when the grace was over.
    pub(crate) unsent: u64,
    /// Open loop: sent, not answered when the grace was over.
    pub(crate) unanswered: u64,
}

/// From the intended time.
#[derive(Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
}

/// What cannot be known is absent.
#[derive(Serialize)]
pub(crate) struct ServerShare {
    pub(crate) cpu_ns_per_request: f64,
    pub(crate) cpu_ns_per_kib: f64,
    /// CPU time over wall time: 2.0 is two CPUs full.
    pub(crate) cpu_util: f64,
    pub(crate) voluntary_switches_per_request: Option<f64>,
    pub(crate) involuntary_switches_per_request: Option<f64>,
    pub(crate) run_delay_ns_per_request: Option<f64>,
}

#[derive(Serialize)]
pub(crate) struct GeneratorShare {
    pub(crate) cpu_ns_per_request: f64,
    pub(crate) cpu_util: f64,
    /// Open loop: arrivals taken up within the windows; of these, more than a millisecond after their intended time.
    pub(crate) arrivals: u64,
    pub(crate) late_sends: u64,
    pub(crate) late_ns_p50: u64,
    pub(crate) late_ns_p99: u64,
    pub(crate) late_ns_max: u64,
}

/// A server, and the load for it as [`plan`] reads it.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) command: &'a [OsString],
    pub(crate) flags: &'a str,
}

/// Starts the servers, loads them in turns, and stops them. What was found of each, and what disturbed it.
pub(crate) fn round(
    subjects: &[Subject<'_>],
    cpus: Cpus,
    turns: &Turns,
    random: &mut Random,
) -> io::Result<(Vec<Report>, Disturbance)> {
    let mut servers = Vec::new();
    for index in shuffled(subjects.len(), random) {
        servers.push((index, Server::start(subjects[index].command, cpus.server)?));
    }
    let mut servers = in_order(servers);
    let others = Others::begin(&servers)?;
    // A thread of its own, so that only the load is pinned; this one starts the servers.
    let loaded = thread::scope(|scope| {
        let loading = scope.spawn(|| in_turns(subjects, &servers, cpus.load, turns, random));
        loading.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    let reports = loaded.map_err(|(server, error)| servers[server].failure(&error.to_string()))?;
    let disturbance = others.end();
    for server in servers {
        server.stop()?;
    }
    Ok((reports, disturbance?))
}

/// An error says which server the load failed on.
fn in_turns(
    subjects: &[Subject<'_>],
    servers: &[Server],
    cpu: Option<usize>,
    turns: &Turns,
    random: &mut Random,
) -> Result<Vec<Report>, (usize, io::Error)> {
    let of = |server: usize| move |error: io::Error| (server, error);
    process::pin(cpu).map_err(of(0))?;
    let mut loads = Vec::new();
    for (index, (subject, server)) in subjects.iter().zip(servers).enumerate() {
        loads.push(Load::connect(subject.flags, server).map_err(of(index))?);
    }
    for (index, load) in loads.iter_mut().enumerate() {
        load.run(turns.warmup, Duration::ZERO, 0).map_err(of(index))?;
        load.forget();
    }
    let slice = turns.slice.min(turns.window);
    for _ in 0..turns.window.as_nanos().div_ceil(slice.as_nanos()) {
        // The same arrivals for all.
        let seed = random.next();
        for index in shuffled(loads.len(), random) {
            loads[index].run(SETTLE, slice, seed).map_err(of(index))?;
        }
    }
    loads.iter_mut().enumerate().map(|(index, load)| load.report().map_err(of(index))).collect()
}

/// The load of one server.
struct Load {
    plan: Plan,
    generator: Generator,
    server: ProcessTree,
    /// One for each slice.
    used: Vec<ServerUse>,
}

impl Load {
    fn connect(flags: &str, server: &Server) -> io::Result<Self> {
        let plan = plan(flags, server.address);
        let generator = Generator::connect(&plan, server.address.into(), (0, 1), &AtomicBool::new(false))
            .map_err(io::Error::other)?;
        Ok(Self { plan, generator, server: ProcessTree::watch(server.pid())?, used: Vec::new() })
    }

    /// One slice: when it returns, the next server to be loaded has the machine to itself.
    fn run(&mut self, warmup: Duration, duration: Duration, seed: u64) -> io::Result<()> {
        let span = Span { start_ns: monotonic_ns(), warmup, duration, grace: GRACE, seed, interval: None };
        let (server, used) = (&mut self.server, &mut self.used);
        let mut begun = None;
        self.generator.run(&span, &AtomicBool::new(false), &mut |moment| match moment {
            Moment::Begins => begun = Some(server.reading()),
            Moment::Ends => used.extend(begun.as_ref().map(|begun| server.used_since(begun))),
            Moment::Counted(..) => {}
        });
        let errors = self.generator.tally().errors;
        // In an open loop the server may only be behind, which the latency shows.
        let behind = if self.is_open() { errors.count(ErrorKind::Unanswered) } else { 0 };
        if errors.total() > behind {
            let counts: Vec<String> = errors.iter().map(|(name, count)| format!("{name} {count}")).collect();
            return Err(io::Error::other(format!("failed its load: {}", counts.join(", "))));
        }
        Ok(())
    }

    /// Forgets what was measured so far, not the connections.
    fn forget(&mut self) {
        self.generator.forget();
        self.used.clear();
    }

    fn is_open(&self) -> bool {
        self.plan.arrivals != Arrivals::Closed
    }

    fn report(&mut self) -> io::Result<Report> {
        let tally = self.generator.tally();
        if tally.replies == 0 {
            return Err(io::Error::other("answered nothing"));
        }
        let unanswered = tally.errors.count(ErrorKind::Unanswered);
        let mut latency = tally.latency.clone();
        // What was never sent or answered took at least as long; leaving it out would flatter.
        latency.record_n(GRACE.as_nanos() as u64, tally.unsent + unanswered);
        let (window_ns, size_bytes) = (tally.window_ns as f64, self.plan.size_bytes as f64);
        let per_request = |count: u64| count as f64 / tally.replies as f64;
        let requests_per_s = tally.replies as f64 * 1e9 / window_ns;
        let generator_ns: u64 = tally.threads.iter().map(|thread| thread.cpu_ns).sum();
        let server_ns = self.used.iter().map(|used| used.cpu_ns).sum();
        let known = |of: fn(&ServerUse) -> Option<u64>| self.used.iter().map(of).sum::<Option<u64>>().map(per_request);
        Ok(Report {
            duration_s: window_ns / 1e9,
            requests: tally.replies,
            requests_per_s,
            bytes_per_s: requests_per_s * size_bytes,
            latency_ns: Latency {
                p50: latency.quantile(0.5),
                p90: latency.quantile(0.9),
                p99: latency.quantile(0.99),
                p99_9: latency.quantile(0.999),
                max: latency.max(),
            },
            server: ServerShare {
                cpu_ns_per_request: per_request(server_ns),
                cpu_ns_per_kib: per_request(server_ns) * 1024.0 / size_bytes,
                cpu_util: server_ns as f64 / window_ns,
                voluntary_switches_per_request: known(|used| used.voluntary_switches),
                involuntary_switches_per_request: known(|used| used.involuntary_switches),
                run_delay_ns_per_request: known(|used| used.run_delay_ns),
            },
            generator: GeneratorShare {
                cpu_ns_per_request: per_request(generator_ns),
                cpu_util: generator_ns as f64 / window_ns,
                arrivals: tally.timer_error.len(),
                late_sends: tally.late_sends,
                late_ns_p50: tally.timer_error.quantile(0.5),
                late_ns_p99: tally.timer_error.quantile(0.99),
                late_ns_max: tally.timer_error.max(),
            },
            unsent: tally.unsent,
            unanswered,
        })
    }
}

pub(crate) fn shuffled(count: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    random.shuffle(&mut order);
    order
}

pub(crate) fn in_order<T>(mut indexed: Vec<(usize, T)>) -> Vec<T> {
    indexed.sort_by_key(|(index, _)| *index);
    indexed.into_iter().map(|(_, item)| item).collect()
}
