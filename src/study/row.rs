//! [`Row`]: one run of a study as one line of `rows.jsonl` (`maitred.row/1`): what was asked, what came of it on both
//! sides, and what an ideal system would have done.
//!
//! A row speaks for itself: it names every parameter it ran with, so that rows of several studies can be put together.
//! The load's report and the server's summary are kept as they were printed, with fields that this version does not
//! know. Figures are found by their path, as in [`Row::figure`]`("load.latency_ns.p99")`: one way for tables, figures
//! and comparisons alike.
//!
//! Invariants: *reads-back*: what is written is read as the same row, and written again as the same bytes.
//! *never-a-zero-in-disguise*: what was not measured, or has too few samples, is absent.
//!
//! Read next: `rows.rs`, the files; `analysis.rs`, what rows amount to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::effort::Effort;

/// The name of this format.
pub const SCHEMA: &str = "maitred.row/1";

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Names this format: [`SCHEMA`].
    pub schema: String,
    /// Which run of the plan it is: the place in the unshuffled grid of points, configurations and repeats. Unique
    /// within a study, and the same in every study of the same plan.
    pub run: usize,
    /// Which round it was part of, from 0 on. A round has every configuration at every point once.
    pub repeat: usize,
    /// Its place in the order in which the runs were made, from 0 on.
    pub order: usize,
    /// Whether there is a load's report to look at.
    pub status: Status,
    /// Why there is none; null if there is.
    pub reason: Option<String>,
    /// One of the A/A pair: two rows of each round with the same parameters, whose difference is noise.
    pub aa: bool,
    /// Which of the pair; null for all others. The first is part of the grid as well; the second is there for the pair
    /// only.
    pub twin: Option<Twin>,
    /// What is compared: the varied parameters but those of the point, as `engine=pool workers=2`; `all` if none is.
    pub configuration: String,
    /// How much was asked of it, as `load=0.5`, `rate=2000` or `closed`; rows with the same point and the same repeat
    /// had the identical trace.
    pub point: String,
    /// Everything that the run was made with.
    pub parameters: Parameters,
    /// What else than the configuration may have decided the figures; empty if nothing did.
    pub limited_by: Vec<Limit>,
    /// The load's report: `maitred.load/1`.
    pub load: Option<Value>,
    /// The server's summary: `maitred.summary/1`.
    pub server: Option<Value>,
    /// What the server did for its requests; absent where its summary does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
    /// What an ideal system does with the same requests; null in a closed loop, and where nothing is known of the
    /// service time.
    pub predicted: Option<Predicted>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It was measured. The load may have counted errors all the same.
    Ok,
    /// It could not be.
    Failed,
}

/// One of the A/A pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Twin {
    /// The row of the grid.
    First,
    /// The same once more.
    Second,
}

/// What a run was made with. Numbers are null where they have no meaning: a rate in a closed loop, a demand of echo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// The engine.
    pub engine: String,
    /// Its workers: threads, loops or processes.
    pub workers: usize,
    /// The service that was asked: `work`, or `echo`.
    pub service: String,
    /// `work`: the distribution of service times, as `--demand` takes it.
    pub demand: Option<String>,
    /// Its mean.
    pub demand_mean_ns: Option<f64>,
    /// `work`: how the time is spent: `spin`, `sleep` or `hash`.
    pub kind: Option<String>,
    /// Share of the capacity that was asked for, where the plan says it so.
    pub load: Option<f64>,
    /// What 1.0 of that is, in requests per second.
    pub capacity_per_s: Option<f64>,
    /// Requests per second, all connections together; null in a closed loop. With phases it is the rate of the first.
    pub rate_per_s: Option<f64>,
    /// `poisson`, `uniform` or `closed`.
    pub arrivals: String,
    /// The rates one after the other, where there is more than one; else empty.
    pub phases: Vec<Phase>,
    /// Connections.
    pub connections: usize,
    /// Requests in flight on a connection; null: without limit.
    pub depth: Option<usize>,
    /// A connection is replaced after so many requests; null: never.
    pub requests_per_connection: Option<u64>,
    /// Payload of a request.
    pub size_bytes: usize,
    /// The window that was measured.
    pub duration_s: f64,
    /// Load before it.
    pub warmup_s: f64,
    /// Rest after it, before the next run.
    pub cooldown_s: f64,
    /// Decides the trace: the same for every configuration at one point of one repeat.
    pub seed: u64,
    /// How the two sides share the machine.
    pub pin: Pin,
    /// The cores that the server may use.
    pub server_cores: Vec<usize>,
    /// The cores that the load may use.
    pub load_cores: Vec<usize>,
    /// What the latency should keep to, as `--slo` takes it.
    pub objective: Option<String>,
    /// The server's other settings and the listener's parameters, as far as the plan gives them: what is absent had its
    /// default.
    pub options: BTreeMap<String, String>,
}

/// A piece of a run with a rate of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its beginning, from the window's.
    pub from_s: f64,
    /// Its end, from the window's beginning.
    pub to_s: f64,
    /// Share of the capacity, where the plan says it so.
    pub load: Option<f64>,
    /// Requests per second.
    pub rate_per_s: f64,
}

/// How server and load share the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// Each has cores of its own.
    Split,
    /// Both may use every core, and the kernel places them.
    Float,
}

/// What may have decided the figures of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The load had too much to do to be on time.
    Generator,
    /// There are more workers that want a processor than processors, or others had the load's.
    Machine,
}

/// What an ideal system does with the requests of a run: one queue, served in order, without any cost but service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// The system, in words: `one queue, 4 servers`.
    pub system: String,
    /// Where the figures come from: `formula`, or `trace` for a simulation of the very requests that were sent.
    pub by: String,
    /// Its servers: workers of sleeping requests; of those that need a processor no more than there are cores.
    pub servers: usize,
    /// Service asked for by what the servers can give; above 1 there is no steady state.
    pub utilization: f64,
    /// From the arrival to the end of service.
    pub sojourn_ns: Sojourn,
}

/// A distribution of predicted times; null where it has no bound, or too few samples beyond it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sojourn {
    /// Mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90 % are at most this.
    pub p90: Option<f64>,
    /// 99 % are at most this.
    pub p99: Option<f64>,
    /// 99.9 % are at most this.
    pub p99_9: Option<f64>,
}

/// The share of the requests of this load's window that nobody served: unsent, unanswered or shed. None without requests.
pub fn unserved_share(load: &Value) -> Option<f64> {
    let count = |name: &str| load[name].as_f64().unwrap_or(0.0);
    let unserved = count("unsent") + count("unanswered") + count("shed");
    let intended = load["intended"].as_f64().unwrap_or_else(|| count("requests") + unserved);
    (intended > 0.0).then(|| unserved / intended)
}

impl Row {
    /// The number at this path, with dots between the fields: `load.latency_ns.p99`, `server.poller.wakes`,
    /// `effort.queue_depth_p99`, `predicted.sojourn_ns.p50`, `parameters.workers`. None if it is absent, null, or no number.
    pub fn figure(&self, path: &str) -> Option<f64> {
        let (part, rest) = path.split_once('.')?;
        let at = |value: &Value| rest.split('.').try_fold(value, |value, field| value.get(field))?.as_f64();
        match part {
            "load" => at(self.load.as_ref()?),
            "server" => at(self.server.as_ref()?),
            "effort" => at(&serde_json::to_value(self.effort.as_ref()?).ok()?),
            "predicted" => at(&serde_json::to_value(self.predicted.as_ref()?).ok()?),
            "parameters" => at(&serde_json::to_value(&self.parameters).ok()?),
            _ => None,
        }
    }

    /// Whether it is one of the grid: measured, and not there for the A/A pair only.
    pub fn counts(&self) -> bool {
        self.status == Status::Ok && self.twin != Some(Twin::Second)
    }

    /// The line of `rows.jsonl`, without its end.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("a row is JSON")
    }

    /// The row written as `line`.
    ///
    /// # Errors
    /// What is wrong with it: no JSON, no row, or one of another format.
    pub fn from_line(line: &str) -> Result<Row, String> {
        let row: Row = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if row.schema == SCHEMA { Ok(row) } else { Err(format!("its schema is {}, not {SCHEMA}", row.schema)) }
    }
}

impl Pin {
    /// The name in plans.
    pub fn name(self) -> &'static str {
        match self {
            Pin::Split => "split",
            Pin::Float => "float",
        }
    }
}

impl Limit {
    /// The name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Generator => "generator",
            Limit::Machine => "machine",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
