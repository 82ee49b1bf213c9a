//! The summary: what the daemon did, as JSON (`maitred.summary/1`) and as one screen for people.
//!
//! JSON fields end in their unit. Added fields may appear in later versions; none changes its meaning under one schema
//! name. The format is part of `design/contract.md`.

use std::fmt;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::counters::{PollCounters, TurnCounters};
use super::stages::StageSummary;

/// The state of all counters at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Names this format.
    pub schema: &'static str,
    /// The engine that counted.
    pub engine: &'static str,
    /// Its workers.
    pub workers: usize,
    /// Since the daemon started.
    pub uptime_ns: u64,
    /// Connections taken off the backlogs.
    pub accepted: u64,
    /// Sessions open now.
    pub open: u64,
    /// Sessions ended, by way. Accepted = open + the sum of these, once nothing moves.
    #[serde(serialize_with = "as_map")]
    pub closed: Vec<(&'static str, u64)>,
    /// Memory of all rings in existence.
    pub buffer_bytes: u64,
    /// What the wake rule takes a worker's turn to last, of late.
    pub worker_turn_ns: u64,
    /// What it takes a turn of the poller's own to last.
    pub poller_turn_ns: u64,
    /// What it took a wake to cost, of late.
    pub wake_cost_ns: u64,
    /// Polls by the events they brought: none, 1, 2 to 3, 4 to 7, and so on; the last class holds all from 1,024.
    pub batch_sizes: Vec<u64>,
    /// What the poller did.
    pub poller: PollSummary,
    /// Turns that the poller ran itself.
    pub poller_turns: TurnSummary,
    /// Turns of each worker.
    pub worker_turns: Vec<TurnSummary>,
    /// Ready seen until taken, with `--stages on`.
    pub queue_stage: Option<StageSummary>,
    /// Taken until done, with `--stages on`.
    pub service_stage: Option<StageSummary>,
    /// Log lines that found no room.
    pub log_lines_dropped: u64,
}

/// Copies named counters into a struct of numbers.
macro_rules! snapshot {
    ($(#[$meta:meta])* $name:ident of $counters:ident { $($field:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Serialize)]
        pub struct $name {
            $(
                #[doc = concat!("See `", stringify!($counters), "::", stringify!($field), "`.")]
                pub $field: u64,
            )+
        }

        impl $name {
            /// The counters now.
            pub fn of(counters: &$counters) -> $name {
                $name { $($field: counters.$field.read(),)+ }
            }
        }
    };
}

snapshot! {
    /// What one thread's turns came to.
    TurnSummary of TurnCounters {
        turns, read_bytes, written_bytes, read_blocks, write_blocks, budget_stops, starved, again, carried, parks,
        yields, worker_wakes, poller_wakes,
    }
}

snapshot! {
    /// What the poller did.
    PollSummary of PollCounters {
        accepted, turned_away, accept_pauses, polls, events, events_max, noted, stale, queued, queue_depth_max, wakes,
        long_turn_wakes, parks, full_queue_waits, assisted, timer_visits,
    }
}

fn as_map<S: Serializer>(pairs: &[(&'static str, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (name, count) in pairs {
        map.serialize_entry(name, count)?;
    }
    map.end()
}

impl Summary {
    /// The JSON text, with a line end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("numbers and names serialise");
        text.push('\n');
        text
    }
}

/// At most this many workers get a line of their own on the screen; JSON has them all.
const WORKER_LINES: usize = 8;

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uptime = Duration::from_nanos(self.uptime_ns);
        writeln!(out, "engine {}, {} workers, up {:.1} s", self.engine, self.workers, uptime.as_secs_f64())?;
        write!(out, "sessions   accepted {}  open {}", self.accepted, self.open)?;
        for (name, count) in self.closed.iter().filter(|(_, count)| *count > 0) {
            write!(out, "  {name} {count}")?;
        }
        let poller = &self.poller;
        writeln!(
            out,
            "\nof late    a worker's turn {} ns  the poller's {} ns  a wake {} ns   buffers {} bytes of rings",
            self.worker_turn_ns, self.poller_turn_ns, self.wake_cost_ns, self.buffer_bytes
        )?;
        writeln!(
            out,
            "poller     polls {}  events {} (most in one {})  noted {}  stale {}  parks {}",
            poller.polls, poller.events, poller.events_max, poller.noted, poller.stale, poller.parks
        )?;
        writeln!(
            out,
            "queue      queued {}  deepest {}  full {}  wakes {} (for long turns {})  assisted {}",
            poller.queued,
            poller.queue_depth_max,
            poller.full_queue_waits,
            poller.wakes,
            poller.long_turn_wakes,
            poller.assisted
        )?;
        writeln!(
            out,
            "accepting  turned away {}  pauses {}   timeouts looked at {}   log lines dropped {}",
            poller.turned_away, poller.accept_pauses, poller.timer_visits, self.log_lines_dropped
        )?;
        writeln!(
            out,
            "{:<10} {:>11} {:>15} {:>15} {:>9} {:>9} {:>8} {:>8} {:>9}",
            "thread", "turns", "read bytes", "written bytes", "r-blocks", "w-blocks", "parks", "yields", "p-wakes"
        )?;
        if self.poller_turns.turns > 0 {
            write_turns(out, "poller", &self.poller_turns)?;
        }
        for (number, turns) in self.worker_turns.iter().take(WORKER_LINES).enumerate() {
            write_turns(out, &format!("worker {number}"), turns)?;
        }
        if self.worker_turns.len() > WORKER_LINES {
            let rest = &self.worker_turns[WORKER_LINES..];
            let turns: u64 = rest.iter().map(|turns| turns.turns).sum();
            writeln!(out, "{:<10} {turns:>11}   ({} more workers)", "the rest", rest.len())?;
        }
        for (name, stage) in [("queue", &self.queue_stage), ("service", &self.service_stage)] {
            if let Some(stage) = stage {
                writeln!(
                    out,
                    "{name:<10} ns: mean {:.0}  p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
                    stage.mean_ns, stage.p50_ns, stage.p90_ns, stage.p99_ns, stage.p99_9_ns, stage.max_ns
                )?;
            }
        }
        Ok(())
    }
}

fn write_turns(out: &mut fmt::Formatter<'_>, name: &str, turns: &TurnSummary) -> fmt::Result {
    writeln!(
        out,
        "{name:<10} {:>11} {:>15} {:>15} {:>9} {:>9} {:>8} {:>8} {:>9}",
        turns.turns,
        turns.read_bytes,
        turns.written_bytes,
        turns.read_blocks,
        turns.write_blocks,
        turns.parks,
        turns.yields,
        turns.poller_wakes
    )
}
