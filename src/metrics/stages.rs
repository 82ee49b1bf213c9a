//! Stage times: how long a ready session waited for a worker, and how long its turn took.
//!
//! Off unless `--stages on`, because they take three readings of the clock per turn; what that costs is in
//! `design/pool.md`. Each thread records into its own histograms behind its own lock, which only a reader of the
//! summary ever contends for.

use std::sync::Mutex;

use serde::Serialize;

use super::histogram::Histogram;

/// The stage times of one thread's turns.
#[derive(Default)]
#[repr(align(128))]
pub struct StageRecorder(Mutex<Option<Stages>>);

#[derive(Default)]
struct Stages {
    queue: Histogram,
    service: Histogram,
}

/// One stage as the summary shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageSummary {
    /// Turns recorded.
    pub count: u64,
    /// Mean.
    pub mean_ns: f64,
    /// Median.
    pub p50_ns: u64,
    /// 90 % are at most this.
    pub p90_ns: u64,
    /// 99 % are at most this.
    pub p99_ns: u64,
    /// 99.9 % are at most this.
    pub p99_9_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl StageRecorder {
    /// Records one turn: ready seen, where the engine can tell that from taken; taken; done; nanoseconds of one clock.
    pub fn record(&self, ready_ns: Option<u64>, taken_ns: u64, done_ns: u64) {
        let mut stages = self.0.lock().expect("no thread panics while it records");
        let stages = stages.get_or_insert_default();
        if let Some(ready_ns) = ready_ns {
            stages.queue.record(taken_ns.saturating_sub(ready_ns));
        }
        stages.service.record(done_ns.saturating_sub(taken_ns));
    }
}

/// The stages of all threads together: ready seen → taken, and taken → done; None of what was not recorded.
pub fn merge<'a>(recorders: impl Iterator<Item = &'a StageRecorder>) -> [Option<StageSummary>; 2] {
    let mut queue = Histogram::new();
    let mut service = Histogram::new();
    for recorder in recorders {
        if let Some(stages) = &*recorder.0.lock().expect("no thread panics while it records") {
            queue.add(&stages.queue);
            service.add(&stages.service);
        }
    }
    [queue, service].map(|stage| (!stage.is_empty()).then(|| summarise(&stage)))
}

fn summarise(histogram: &Histogram) -> StageSummary {
    StageSummary {
        count: histogram.len(),
        mean_ns: histogram.mean(),
        p50_ns: histogram.quantile(0.5),
        p90_ns: histogram.quantile(0.9),
        p99_ns: histogram.quantile(0.99),
        p99_9_ns: histogram.quantile(0.999),
        max_ns: histogram.max(),
    }
}
