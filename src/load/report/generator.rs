//! [`Generator`]: what a load took to make, whether that was in its own way, and what kept it from being on time.
//!
//! A thread is late when it has too much to do, when other programs have its processor, or when the host of a virtual
//! machine has taken it away. Each has a remedy of its own, and none helps against the others.
//!
//! Read next: `table.rs`, which names the remedies; `design/measuring.md`, *The generator is a suspect*.

use serde::Serialize;

use super::{per_request, share};
use crate::load::plan::Plan;
use crate::load::recorder::Tally;
use crate::metrics::histogram::SAMPLES_BEYOND;

/// The share of the window that one generator thread may be busy before its figures are in doubt: time on a processor
/// and time in wait for one. Near all of it, a thread is behind with taking replies up, and its own delay is counted as
/// the server's. Guess: below 95 % a thread still sleeps between events.
pub const BUSY_LIMIT: f64 = 0.95;

/// The share of arrivals taken up late (see [`Tally::late_sends`]) before the figures are in doubt: with more than one
/// in a hundred, the p99 from the intended time is the generator's and not the server's. That is so whatever made them
/// late; what did is [`Generator::saturated_by`].
pub const LATE_LIMIT: f64 = 0.01;

/// A thread that ran for this part of the time that it was busy is full of its own work. Guess.
const OWN_PART: f64 = 0.9;

/// What kept the threads away explains the late sends if it comes to this part of what they need. Guess: half, since
/// steal comes in steps of 10 ms, and the processors that lost most need not be those that were missed.
const EXPLAINED_PART: f64 = 0.5;

/// A thread that ran for less of the window was not late because of its own work. Guess.
const IDLE_LIMIT: f64 = 0.5;

/// What the load took to make, and whether that was in its own way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generator {
    /// Its threads.
    pub threads: usize,
    /// Processors in use, all threads together: 1.0 is one.
    pub cpu_util: f64,
    /// Threads in wait for a processor, on average.
    pub run_delay_util: f64,
    /// Processors that the host took away; see [`Tally::stolen_ns`]. None where the system does not tell.
    pub steal_util: Option<f64>,
    /// Processor time by replies received in the window; null without any.
    pub cpu_ns_per_request: Option<f64>,
    /// Whether a thread was busier than [`BUSY_LIMIT`], or more arrivals late than [`LATE_LIMIT`].
    pub saturated: bool,
    /// What explains that; none if it was not saturated, or nothing that was measured explains it.
    pub saturated_by: Option<Cause>,
    /// Arrivals that the generator took up more than a millisecond late.
    pub late_sends: u64,
    /// From the intended send until the arrival was taken up; null in the closed loop.
    pub timer_error_ns: Option<TimerError>,
}

/// Why a generator does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It has too much to do.
    Itself,
    /// Its threads waited for a processor that somebody else had: another program, the server among them, or, where
    /// there are more threads than processors, each other.
    OtherPrograms,
    /// The host of the virtual machine took the processor away.
    Host,
}

/// How late the generator took arrivals up.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TimerError {
    /// Median.
    pub p50: Option<u64>,
    /// 99 % are at most this.
    pub p99: Option<u64>,
    /// The latest.
    pub max: Option<u64>,
}

impl Generator {
    pub(super) fn of(plan: &Plan, tally: &Tally) -> Generator {
        let cpu_ns = tally.threads.iter().map(|thread| thread.cpu_ns).sum();
        let run_delay_ns = tally.threads.iter().map(|thread| thread.run_delay_ns).sum();
        let busiest = tally.threads.iter().map(|thread| thread.cpu_ns + thread.run_delay_ns).max().unwrap_or(0);
        let arrivals = tally.timer_error.len();
        let saturated = share(busiest, tally.window_ns) >= BUSY_LIMIT
            || (late_share(tally) > LATE_LIMIT && tally.late_sends >= SAMPLES_BEYOND);
        Generator {
            threads: plan.threads,
            cpu_util: share(cpu_ns, tally.window_ns),
            run_delay_util: share(run_delay_ns, tally.window_ns),
            steal_util: tally.stolen_ns.map(|stolen_ns| share(stolen_ns, tally.window_ns)),
            cpu_ns_per_request: per_request(cpu_ns, tally),
            saturated,
            saturated_by: if saturated { cause(tally) } else { None },
            late_sends: tally.late_sends,
            timer_error_ns: (arrivals > 0).then(|| TimerError {
                p50: tally.timer_error.believable_quantile(0.5),
                p99: tally.timer_error.believable_quantile(0.99),
                max: Some(tally.timer_error.max()),
            }),
        }
    }
}

/// What explains best that the generator did not keep up, if anything does.
fn cause(tally: &Tally) -> Option<Cause> {
    let is_full = |run: f64, waited: f64| run + waited >= BUSY_LIMIT && run >= (run + waited) * OWN_PART;
    let shares =
        tally.threads.iter().map(|thread| [thread.cpu_ns, thread.run_delay_ns].map(|ns| share(ns, tally.window_ns)));
    if shares.clone().any(|[run, waited]| is_full(run, waited)) {
        return Some(Cause::Itself);
    }
    let waited: f64 = shares.clone().map(|[_, waited]| waited).sum();
    let stolen = share(tally.stolen_ns.unwrap_or(0), tally.window_ns);
    // What becomes due while a thread is kept away for d is done d / (1 - run) after its beginning, and late until then.
    let needed: f64 = shares.clone().map(|[run, _]| late_share(tally) * (1.0 - run)).sum();
    if waited.max(stolen) > 0.0 && waited.max(stolen) >= needed * EXPLAINED_PART {
        return Some(if stolen > waited { Cause::Host } else { Cause::OtherPrograms });
    }
    shares.map(|[run, _]| run).any(|run| run >= IDLE_LIMIT).then_some(Cause::Itself)
}

/// The part of the arrivals that were taken up late.
fn late_share(tally: &Tally) -> f64 {
    tally.late_sends as f64 / tally.timer_error.len().max(1) as f64
}
