//! [`Report`]: what a load found, as JSON (`maitred.load/1`).
//!
//! Made of the plan, the tally and what the server used; figures only, no words and no drawing. A null is something that
//! was not measured, has too few samples to be believed, or does not apply; never a zero in disguise. Fields end in their
//! unit, and what is per request is per reply received inside the window. Fields may be added; none changes its meaning
//! under one schema name.
//!
//! INVARIANT unflattered: a request without an answer is longer than anything, in every comparison with an objective.
//!
//! Read next: `report/generator.rs`, the load's own part; `table.rs`, the same for people. The format is part of `design/contract.md`.

mod generator;

use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

pub use generator::{BUSY_LIMIT, Cause, Generator, LATE_LIMIT, TimerError};

use super::breakdown::Breakdown;
use super::plan::{Objective, Phase, Plan, Service};
use super::recorder::{Count, Errors, Stages, Tally};
use crate::metrics::histogram::{Histogram, is_believable, rank};
use crate::net::process::ServerUse;

/// What a load found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Names this format.
    pub schema: &'static str,
    /// Where the load went: `echo=tcp://127.0.0.1:7007`.
    pub target: String,
    /// What was spoken there.
    pub service: &'static str,
    /// By TCP or UDP.
    pub scheme: &'static str,
    /// `open` or `closed` loop.
    pub mode: &'static str,
    /// Open loop: `poisson` or `uniform`.
    pub arrivals: Option<&'static str>,
    /// Connections, all together.
    pub connections: usize,
    /// Requests in flight on one connection; null: without limit.
    pub depth: Option<usize>,
    /// After so many a connection was replaced by a new one; null: never.
    pub requests_per_connection: Option<u64>,
    /// Payload of one request.
    pub size_bytes: usize,
    /// `work`: the service time asked for, as `--demand` takes it.
    pub demand: Option<String>,
    /// `work`: how it is spent.
    pub kind: Option<&'static str>,
    /// `chat`: where a message ends.
    pub framing: Option<&'static str>,
    /// What all draws came from.
    pub seed: u64,
    /// Threads of the generator.
    pub threads: usize,
    /// Load before the window.
    pub warmup_s: f64,
    /// The window.
    pub duration_s: f64,
    /// Whether the load was ended from outside; the figures are those up to then.
    pub interrupted: bool,
    /// The rate asked for; null in the closed loop.
    pub offered_per_s: Option<f64>,
    /// How that rate changed over the window; empty if it did not.
    pub phases: Vec<PhaseReport>,
    /// Replies received inside the window, by its length.
    pub achieved_per_s: f64,
    /// Requests of the window that were answered, in it or in the grace after it.
    pub requests: u64,
    /// Requests of the window: answered, shed, unanswered and unsent together.
    pub intended: u64,
    /// Requests of the window that were never sent.
    pub unsent: u64,
    /// Requests of the window that were sent and had no reply: cut off, lost, or a message that somebody never got.
    pub unanswered: u64,
    /// Requests that the server answered as shed.
    pub shed: u64,
    /// Chat: messages received, by all connections together.
    pub deliveries: u64,
    /// What went wrong, over the whole run: only what happened.
    #[serde(serialize_with = "as_map")]
    pub errors: Errors,
    /// Handed to the kernel inside the window.
    pub bytes_sent: u64,
    /// Taken from the kernel inside the window.
    pub bytes_received: u64,
    /// From the intended send to the reply.
    pub latency_ns: Quantiles,
    /// From the actual send to the reply.
    pub service_latency_ns: Quantiles,
    /// From the attempt to connect to the connection; null if none was measured.
    pub connect_latency_ns: Option<Quantiles>,
    /// Where the time of `work` requests went; null without stamps.
    pub stages_ns: Option<StageQuantiles>,
    /// Where the requests around each quantile of the latency spent theirs; null without stamps.
    pub stages_at: Option<StagesAt>,
    /// What the load took to make.
    pub generator: Generator,
    /// What the server used; null without `--pid`.
    pub server: Option<Server>,
    /// Whether it kept its objective; null without `--slo`.
    pub slo: Option<Verdict>,
    /// The window piece by piece; empty without `--interval`.
    pub intervals: Vec<Interval>,
    /// How the largest rate was found; null without `--search`.
    pub search: Option<SearchReport>,
    /// All latencies from the intended send: HdrHistogram V2, DEFLATEd, in base64.
    pub histogram: Histogram,
}

/// A piece of the window with a rate of its own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseReport {
    /// Its beginning, from the window's.
    pub from_s: f64,
    /// Its end, from the window's beginning.
    pub to_s: f64,
    /// The rate asked for in it.
    pub offered_per_s: f64,
}

/// A distribution in seven figures, nanoseconds. A quantile is None with fewer than ten samples beyond it; mean and max
/// are None without samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<u64>,
    /// 90 % are at most this.
    pub p90: Option<u64>,
    /// 99 % are at most this.
    pub p99: Option<u64>,
    /// 99.9 % are at most this.
    pub p99_9: Option<u64>,
    /// 99.99 % are at most this.
    pub p99_99: Option<u64>,
    /// The longest.
    pub max: Option<u64>,
}

/// The stages of a `work` request, in order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageQuantiles {
    /// Intended to actual send.
    pub late: Quantiles,
    /// Actual send to ready seen.
    pub unseen: Quantiles,
    /// Ready seen to taken by a worker.
    pub queue: Quantiles,
    /// Taken to done.
    pub service: Quantiles,
    /// Done to received.
    pub reply: Quantiles,
}

/// Where the time went of the requests around some quantiles of the latency; None with fewer than ten samples beyond it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StagesAt {
    /// From p45 to p55.
    pub p50: Option<StageMeans>,
    /// From p85 to p95.
    pub p90: Option<StageMeans>,
    /// From p98.5 to p99.5.
    pub p99: Option<StageMeans>,
    /// From p99.85 to p99.95.
    pub p99_9: Option<StageMeans>,
}

/// The mean of each stage over some requests, nanoseconds. Together they are the mean latency of those requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageMeans {
    /// Intended to actual send.
    pub late: f64,
    /// Actual send to ready seen.
    pub unseen: f64,
    /// Ready seen to taken by a worker.
    pub queue: f64,
    /// Taken to done.
    pub service: f64,
    /// Done to received.
    pub reply: f64,
}

/// What the server used inside the window: a process and all its descendants.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Server {
    /// Processors in use: 1.0 is one. None when processes ended that nobody waited for: what they used is unknown.
    pub cpu_util: Option<f64>,
    /// Processor time; none as above.
    pub cpu_ns_per_request: Option<f64>,
    /// Times that a thread gave its processor up.
    pub voluntary_switches_per_request: Option<f64>,
    /// Times that a processor was taken from a thread.
    pub involuntary_switches_per_request: Option<f64>,
    /// Time ready to run without a processor.
    pub run_delay_ns_per_request: Option<f64>,
    /// Memory: the proportional set sizes of all its processes.
    pub rss_bytes: Option<u64>,
    /// Processes at the end.
    pub processes: usize,
    /// Their threads at the end.
    pub threads: usize,
    /// Processes that began meanwhile.
    pub processes_started: u64,
    /// Processes that ended meanwhile.
    pub processes_ended: u64,
    /// Threads that began meanwhile.
    pub threads_started: u64,
    /// Threads that ended meanwhile.
    pub threads_ended: u64,
}

/// A piece of the window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Its beginning, from the window's.
    pub from_s: f64,
    /// Its end, from the window's beginning.
    pub to_s: f64,
    /// Replies received in it.
    pub requests: u64,
    /// Those by its length.
    pub achieved_per_s: f64,
    /// Median of their latency; None with fewer than ten samples beyond it.
    pub p50_ns: Option<u64>,
    /// 99 % are at most this; None with fewer than ten samples beyond it.
    pub p99_ns: Option<u64>,
    /// The longest; None without replies.
    pub max_ns: Option<u64>,
    /// What went wrong in it.
    pub errors: u64,
}

/// How the largest rate that keeps an objective was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SearchReport {
    /// The objective, as `--slo` takes it.
    pub objective: String,
    /// The largest rate that kept it; null if none did.
    pub low_per_s: Option<f64>,
    /// The smallest rate that did not; null if all kept it.
    pub high_per_s: Option<f64>,
    /// `generator` where its own saturation may be why the upper end missed the objective; else null.
    pub limited_by: Option<&'static str>,
    /// The rates that were tried, in that order.
    pub points: Vec<SearchPoint>,
}

/// One rate that was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SearchPoint {
    /// The rate asked for.
    pub rate_per_s: f64,
    /// The rate of replies.
    pub achieved_per_s: f64,
    /// The objective's quantile; see [`Verdict::quantile_ns`].
    pub quantile_ns: Option<u64>,
    /// Whether the objective was met.
    pub met: bool,
    /// Whether the generator was saturated.
    pub saturated: bool,
    /// Why the objective was not met.
    pub reason: Option<String>,
    /// What went wrong, of this run alone.
    #[serde(serialize_with = "as_map")]
    pub errors: Errors,
}

/// How a load stands to an objective.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The objective, as `--slo` takes it.
    pub text: String,
    /// The objective's quantile over all requests, with those that were never answered longer than anything; null if it
    /// falls among those, or has too few samples.
    pub quantile_ns: Option<u64>,
    /// Whether it is met.
    pub met: bool,
    /// Why not; null if it is.
    pub reason: Option<String>,
}

impl Report {
    /// What the tally of a run of this plan comes to, as yet without intervals and search.
    pub fn new(plan: &Plan, tally: &Tally, server: Option<&ServerUse>, interrupted: bool) -> Report {
        let offered_per_s = plan.arrivals.rate_per_s();
        let service = plan.service.kind().name();
        let (demand, kind) = match &plan.service {
            Service::Work { demand, kind } => (Some(demand.to_string()), Some(kind.name())),
            _ => (None, None),
        };
        let framing = match &plan.service {
            Service::Chat { framing } => Some(framing.name()),
            _ => None,
        };
        let mut report = Report {
            schema: "maitred.load/1",
            target: format!("{service}={}", plan.target),
            service,
            scheme: plan.target.scheme.name(),
            mode: if offered_per_s.is_some() { "open" } else { "closed" },
            arrivals: offered_per_s.is_some().then(|| plan.arrivals.name()),
            connections: plan.connections,
            depth: plan.depth,
            requests_per_connection: plan.requests_per_connection,
            size_bytes: plan.size_bytes,
            demand,
            kind,
            framing,
            seed: plan.seed,
            threads: plan.threads,
            warmup_s: plan.warmup.as_secs_f64(),
            duration_s: tally.window_ns as f64 / 1e9,
            interrupted,
            offered_per_s,
            phases: phases(plan),
            achieved_per_s: per_s(tally.replies, tally.window_ns),
            requests: tally.latency.len(),
            intended: tally.intended,
            unsent: tally.unsent,
            unanswered: tally.unanswered,
            shed: tally.shed,
            deliveries: tally.deliveries,
            errors: tally.errors,
            bytes_sent: tally.bytes_sent,
            bytes_received: tally.bytes_received,
            latency_ns: Quantiles::of(&tally.latency),
            service_latency_ns: Quantiles::of(&tally.service_latency),
            connect_latency_ns: (!tally.connect_latency.is_empty()).then(|| Quantiles::of(&tally.connect_latency)),
            stages_ns: StageQuantiles::of(&tally.stages),
            stages_at: StagesAt::of(&tally.breakdown),
            generator: Generator::of(plan, tally),
            server: server.map(|server| Server::of(server, tally)),
            slo: None,
            intervals: Vec::new(),
            search: None,
            histogram: tally.latency.clone(),
        };
        report.slo = plan.objective.as_ref().map(|objective| report.verdict(objective));
        report
    }

    /// Whether anything went wrong. Of the runs of a search only what no server may do: at a rate that is too high for it,
    /// one may lose datagrams and connections.
    pub fn has_errors(&self) -> bool {
        let mut runs = self.search.iter().flat_map(|search| &search.points);
        match self.search {
            Some(_) => runs.any(|point| point.errors.wrong() > 0) || self.errors.wrong() > 0,
            None => self.errors.total() > 0,
        }
    }

    /// Requests of the window that got no answer, or one that says they were not served.
    pub fn never_served(&self) -> u64 {
        self.unsent + self.shed + self.unanswered
    }

    /// How this load stands to an objective. Errors that are no missing answers do not count here; see
    /// [`has_errors`](Self::has_errors).
    pub fn verdict(&self, objective: &Objective) -> Verdict {
        let verdict = |quantile_ns, reason: Option<String>| Verdict {
            text: objective.text.clone(),
            quantile_ns,
            met: reason.is_none(),
            reason,
        };
        let limit = objective.text.split('=').next_back().unwrap_or_default();
        let missing = self.never_served();
        let total = self.requests + missing;
        if !is_believable(objective.quantile, total) {
            return verdict(None, Some(format!("{total} requests are too few")));
        }
        let rank = rank(objective.quantile, total);
        if rank > self.requests {
            return verdict(None, Some(format!("{:.2} % unanswered", missing as f64 * 100.0 / total as f64)));
        }
        let quantile_ns = self.histogram.value_at_rank(rank);
        let is_over = Duration::from_nanos(quantile_ns) > objective.at_most;
        verdict(Some(quantile_ns), is_over.then(|| format!("above {limit}")))
    }
}

impl Quantiles {
    /// The figures of a histogram.
    pub fn of(histogram: &Histogram) -> Quantiles {
        let any = !histogram.is_empty();
        Quantiles {
            // What is too long for the histogram counts as its longest; the library's mean knows better, and would stand
            // above the maximum.
            mean: any.then(|| histogram.mean().min(histogram.max() as f64)),
            p50: histogram.believable_quantile(0.5),
            p90: histogram.believable_quantile(0.9),
            p99: histogram.believable_quantile(0.99),
            p99_9: histogram.believable_quantile(0.999),
            p99_99: histogram.believable_quantile(0.9999),
            max: any.then(|| histogram.max()),
        }
    }
}

impl StageQuantiles {
    fn of(stages: &Stages) -> Option<StageQuantiles> {
        let Stages { late, unseen, queue, service, reply } = stages;
        let any = [late, unseen, queue, service, reply].iter().any(|stage| !stage.is_empty());
        any.then(|| StageQuantiles {
            late: Quantiles::of(late),
            unseen: Quantiles::of(unseen),
            queue: Quantiles::of(queue),
            service: Quantiles::of(service),
            reply: Quantiles::of(reply),
        })
    }
}

impl StagesAt {
    fn of(breakdown: &Breakdown) -> Option<StagesAt> {
        let at = |quantile: f64| {
            let [late, unseen, queue, service, reply] = breakdown.around(quantile)?.stages_ns;
            Some(StageMeans { late, unseen, queue, service, reply })
        };
        let found = StagesAt { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999) };
        // What has no p50 has nothing.
        found.p50.is_some().then_some(found)
    }
}

impl Server {
    fn of(used: &ServerUse, tally: &Tally) -> Server {
        let per_request = |count: Option<u64>| count.and_then(|count| per_request(count, tally));
        let cpu_ns = used.is_cpu_complete.then_some(used.cpu_ns);
        Server {
            cpu_util: cpu_ns.map(|cpu_ns| share(cpu_ns, tally.window_ns)),
            cpu_ns_per_request: per_request(cpu_ns),
            voluntary_switches_per_request: per_request(used.voluntary_switches),
            involuntary_switches_per_request: per_request(used.involuntary_switches),
            run_delay_ns_per_request: per_request(used.run_delay_ns),
            rss_bytes: used.rss_bytes,
            processes: used.processes,
            threads: used.threads,
            processes_started: used.processes_started,
            processes_ended: used.processes_ended,
            threads_started: used.threads_started,
            threads_ended: used.threads_ended,
        }
    }
}

impl Interval {
    /// What came of a piece of the window between these times, from the window's beginning.
    pub fn new(from_s: f64, to_s: f64, count: &Count) -> Interval {
        let Count { latency, errors, .. } = count;
        Interval {
            from_s,
            to_s,
            requests: latency.len(),
            achieved_per_s: if to_s > from_s { latency.len() as f64 / (to_s - from_s) } else { 0.0 },
            p50_ns: latency.believable_quantile(0.5),
            p99_ns: latency.believable_quantile(0.99),
            max_ns: (!latency.is_empty()).then(|| latency.max()),
            errors: errors.total(),
        }
    }
}

impl SearchReport {
    /// What a search came to: the interval, of which either end may not have been found, and all rates tried.
    pub fn new(objective: &Objective, low: Option<f64>, high: Option<f64>, points: Vec<SearchPoint>) -> SearchReport {
        // The server may have kept the objective where the generator did not keep up.
        let misses = || points.iter().filter(|point| !point.met && Some(point.rate_per_s) >= high);
        let is_own_limit = misses().next().is_some() && misses().all(|point| point.saturated);
        let limited_by = is_own_limit.then_some("generator");
        SearchReport { objective: objective.text.clone(), low_per_s: low, high_per_s: high, limited_by, points }
    }
}

fn phases(plan: &Plan) -> Vec<PhaseReport> {
    let rate_per_s = plan.arrivals.rate_per_s().unwrap_or(0.0);
    let mut from = Duration::ZERO;
    let phase = |phase: &Phase| {
        let to = from + phase.length;
        let offered_per_s = rate_per_s * phase.factor;
        let report = PhaseReport { from_s: from.as_secs_f64(), to_s: to.as_secs_f64(), offered_per_s };
        from = to;
        report
    };
    plan.phases.iter().map(phase).collect()
}

/// The share of a window that was used; 0 of one that never opened.
fn share(used_ns: u64, window_ns: u64) -> f64 {
    if window_ns == 0 { 0.0 } else { used_ns as f64 / window_ns as f64 }
}

/// How many in a second of a window; 0 in one that never opened.
fn per_s(count: u64, window_ns: u64) -> f64 {
    if window_ns == 0 { 0.0 } else { count as f64 * 1e9 / window_ns as f64 }
}

/// By replies received in the window.
fn per_request(count: u64, tally: &Tally) -> Option<f64> {
    (tally.replies > 0).then(|| count as f64 / tally.replies as f64)
}

fn as_map<S: Serializer>(errors: &Errors, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (name, count) in errors.iter() {
        map.serialize_entry(name, &count)?;
    }
    map.end()
}

#[cfg(test)]
mod tests;
