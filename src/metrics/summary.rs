//! The summary: what the daemon did, as JSON (`maitred.summary/1`) and as text for people.
//!
//! JSON fields end in their unit. Added fields may appear in later versions; none changes its meaning under one schema
//! name. The format is part of `design/contract.md`.

use std::fmt;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::counters::{DatagramCounters, PollCounters, TurnCounters};
use super::stages::StageSummary;
use crate::session::guard::Refusal;

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
    /// Memory of all rings in existence, where one process has all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer_bytes: Option<u64>,
    /// What the wake rule goes by, where there is one.
    #[serde(flatten)]
    pub estimates: Option<Estimates>,
    /// What came and went in datagrams, where there are endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datagrams: Option<Datagrams>,
    /// The child processes, where there are some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<ProcessSummary>,
    /// Polls by the events they brought: none, 1, 2 to 3, 4 to 7, and so on; the last class holds all from 1,024. Absent
    /// where sessions are not polled for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_sizes: Option<Vec<u64>>,
    /// Batches that the poller put into the service queue, by how deep that was then, in the same classes. Absent where
    /// there is no such queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_depths: Option<Vec<u64>>,
    /// System calls that were counted, of all threads and processes that serve: reads and writes, waits, accepts, batches of
    /// datagrams, parks and yields, wakes. There were more: not counted are those that arm and watch, open, shut down and
    /// close, set the alarm, read the clock where that is one, connect to targets, ring another thread's poller, work on
    /// files, and start threads or processes. A park and a wake count as one each, though one that comes before its thread
    /// has fallen asleep needs none.
    pub system_calls: u64,
    /// What those who accept and poll did.
    pub poller: PollSummary,
    /// Turns that the poller ran itself, where it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poller_turns: Option<TurnSummary>,
    /// Turns of each worker.
    pub worker_turns: Vec<TurnSummary>,
    /// Ready seen until taken, with `--stages on`, where the engine can tell the two apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_stage: Option<StageSummary>,
    /// Taken until done, with `--stages on`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_stage: Option<StageSummary>,
    /// Log lines that found no room.
    pub log_lines_dropped: u64,
}

/// What came and went in datagrams.
#[derive(Clone, Debug, Serialize)]
pub struct Datagrams {
    /// How many of what.
    #[serde(flatten)]
    pub counts: DatagramSummary,
    /// Datagrams that were not answered, by reason. Received = answered + silent + panicked + forwarded + the
    /// sum of these.
    #[serde(serialize_with = "as_map")]
    pub refused: Vec<(&'static str, u64)>,
}

/// The child processes of an engine.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessSummary {
    /// Made and not ready yet.
    pub starting: usize,
    /// Without a session.
    pub idle: usize,
    /// With one.
    pub busy: usize,
    /// Told to end.
    pub leaving: usize,
    /// Of the busy ones, those that answer no nudge.
    pub hanging: usize,
    /// Ended so far.
    pub ended: u64,
}

/// What a wake rule has learnt of the last moments.
#[derive(Clone, Debug, Serialize)]
pub struct Estimates {
    /// What it takes a worker's turn to last.
    pub worker_turn_ns: u64,
    /// What it takes a turn of the poller's own to last.
    pub poller_turn_ns: u64,
    /// What it takes a wake to cost.
    pub wake_cost_ns: u64,
}

/// Copies named counters into a struct of numbers, each absent where the engine does not count it.
macro_rules! snapshot {
    ($(#[$meta:meta])* $name:ident of $counters:ident { $($field:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Serialize)]
        pub struct $name {
            $(
                #[doc = concat!("See `", stringify!($counters), "::", stringify!($field), "`.")]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<u64>,
            )+
        }

        impl $name {
            /// The counters now, of all these blocks together; only those of `known` are told.
            pub fn of<'a>(blocks: impl IntoIterator<Item = &'a $counters>, known: &[&str]) -> $name {
                let mut sums = $name::default();
                for counters in blocks {
                    $(
                        let (name, seen) = (stringify!($field), counters.$field.read());
                        if known.contains(&name) {
                            let sum = sums.$field.get_or_insert(0);
                            *sum = if name.ends_with("_max") { seen.max(*sum) } else { *sum + seen };
                        }
                    )+
                }
                sums
            }

            /// Adds what only `others` knows.
            pub fn add_known(&mut self, others: $name) {
                $(self.$field = self.$field.or(others.$field);)+
            }
        }
    };
}

snapshot! {
    /// What one thread's turns came to.
    TurnSummary of TurnCounters {
        turns, calls, jobs_refused, jobs_waited, posts, posts_refused, post_wakes, read_bytes, written_bytes, reads, writes,
        read_blocks, write_blocks, budget_stops, starved, again, carried, waits, parks, yields, worker_wakes, poller_wakes,
    }
}

snapshot! {
    /// What the poller did.
    PollSummary of PollCounters {
        accepted, turned_away, broken_opens, accept_pauses, accept_calls, polls, events, events_max, noted, stale, queued,
        queue_depth_max, wakes, long_turn_wakes, parks, full_queue_waits, assisted, timer_visits,
    }
}

snapshot! {
    /// What endpoints did.
    DatagramSummary of DatagramCounters {
        received, received_bytes, received_messages, receive_batches, oversized, receive_errors, dropped, answered, silent,
        panicked, sent, sent_bytes, sent_messages, send_batches, unsendable, send_blocks, forwarded, returned, clients,
        clients_expired, clients_replaced, clients_unreachable,
    }
}

impl Datagrams {
    /// The counters now, of all these endpoints together; none if there are none.
    pub fn of(endpoints: &[&DatagramCounters]) -> Option<Datagrams> {
        let tell_drops = endpoints.iter().all(|counters| counters.tells_drops);
        let known = if tell_drops { [DATAGRAMS, &["dropped"]].concat() } else { DATAGRAMS.to_vec() };
        let counts = DatagramSummary::of(endpoints.iter().copied(), &known);
        let refused = Refusal::ALL.iter().enumerate().map(|(place, refusal)| {
            let count = endpoints.iter().map(|counters| counters.refused[place].read()).sum();
            (refusal.name(), count)
        });
        (!endpoints.is_empty()).then(|| Datagrams { counts, refused: refused.collect() })
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

/// Counters of whoever accepts, on every engine.
pub const ACCEPTING: &[&str] = &["accepted", "turned_away", "broken_opens", "accept_pauses", "accept_calls"];

/// Counters of whoever waits for the readiness of sessions.
pub const POLLING: &[&str] = &["polls", "events", "events_max", "noted", "stale", "timer_visits"];

/// Counters of turns of whoever waits for one session alone.
pub const WAITING: &[&str] = &["waits"];

/// Counters of a turn, on every engine.
pub const TURNS: &[&str] = &[
    "turns",
    "calls",
    "jobs_refused",
    "jobs_waited",
    "posts",
    "posts_refused",
    "post_wakes",
    "read_bytes",
    "written_bytes",
    "reads",
    "writes",
    "read_blocks",
    "write_blocks",
    "budget_stops",
    "starved",
];

/// Counters of an endpoint, wherever it is.
const DATAGRAMS: &[&str] = &[
    "received",
    "received_bytes",
    "received_messages",
    "receive_batches",
    "oversized",
    "receive_errors",
    "answered",
    "silent",
    "panicked",
    "sent",
    "sent_bytes",
    "sent_messages",
    "send_batches",
    "unsendable",
    "send_blocks",
    "forwarded",
    "returned",
    "clients",
    "clients_expired",
    "clients_replaced",
    "clients_unreachable",
];

/// At most this many workers get a line of their own on the screen; JSON has them all.
const WORKER_LINES: usize = 8;

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_counts(out)?;
        self.write_threads(out)?;
        self.write_stages(out)
    }
}

impl Summary {
    /// What concerns all threads together.
    pub(super) fn write_counts(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let uptime = Duration::from_nanos(self.uptime_ns);
        writeln!(out, "engine {}, {} workers, up {:.1} s", self.engine, self.workers, uptime.as_secs_f64())?;
        write!(out, "sessions   accepted {}  open {}", self.accepted, self.open)?;
        for (name, count) in self.closed.iter().filter(|(_, count)| *count > 0) {
            write!(out, "  {name} {count}")?;
        }
        writeln!(out)?;
        if let Some(bytes) = self.buffer_bytes {
            write!(out, "buffers    {bytes} bytes of rings")?;
        }
        if let Some(Estimates { worker_turn_ns, poller_turn_ns, wake_cost_ns }) = &self.estimates {
            write!(
                out,
                "   of late a worker's turn {worker_turn_ns} ns  the poller's {poller_turn_ns} ns  a wake {wake_cost_ns} ns"
            )?;
        }
        if self.buffer_bytes.is_some() {
            writeln!(out)?;
        }
        let poller = &self.poller;
        if let Some(polls) = poller.polls {
            write!(out, "poller     polls {polls}")?;
            if let (Some(events), Some(most)) = (poller.events, poller.events_max) {
                write!(out, "  events {events} (most in one {most})")?;
            }
            write_known(out, &[("noted", poller.noted), ("stale", poller.stale), ("parks", poller.parks)])?;
            writeln!(out)?;
        }
        if let (Some(queued), Some(deepest)) = (poller.queued, poller.queue_depth_max) {
            write!(out, "queue      queued {queued}  deepest {deepest}")?;
            write_known(out, &[("full", poller.full_queue_waits), ("wakes", poller.wakes)])?;
            write_known(out, &[("wakes for long turns", poller.long_turn_wakes), ("assisted", poller.assisted)])?;
            writeln!(out)?;
        }
        if let Some(ProcessSummary { starting, idle, busy, leaving, hanging, ended }) = &self.processes {
            write!(out, "processes  busy {busy}  idle {idle}  starting {starting}  leaving {leaving}")?;
            writeln!(out, "  hanging {hanging}  ended {ended}")?;
        }
        self.write_mail(out)?;
        self.write_datagrams(out)?;
        let (reads, writes) = (self.sum(|turns| turns.reads), self.sum(|turns| turns.writes));
        writeln!(out, "kernel     calls {} or more  reads {reads}  writes {writes}", self.system_calls)?;
        write!(out, "accepting")?;
        write_known(out, &[("turned away", poller.turned_away), ("pauses", poller.accept_pauses)])?;
        write_known(out, &[("timeouts looked at", poller.timer_visits)])?;
        writeln!(out, "  log lines dropped {}", self.log_lines_dropped)
    }

    /// The times of the stages, where they are measured.
    pub(super) fn write_stages(&self, out: &mut impl fmt::Write) -> fmt::Result {
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

    /// Of all who run turns.
    fn sum(&self, count: fn(&TurnSummary) -> Option<u64>) -> u64 {
        self.worker_turns.iter().chain(&self.poller_turns).filter_map(count).sum()
    }

    /// Where anything was posted or called.
    fn write_mail(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let (posts, refused, wakes) =
            (self.sum(|t| t.posts), self.sum(|t| t.posts_refused), self.sum(|t| t.post_wakes));
        let (calls, inline, waited) =
            (self.sum(|t| t.calls), self.sum(|t| t.jobs_refused), self.sum(|t| t.jobs_waited));
        if posts + refused + wakes + calls > 0 {
            write!(out, "mail       posts {posts}  refused {refused}  told {wakes} times")?;
            writeln!(out, "   calls {calls}  jobs run inline {inline}  in line {waited}")?;
        }
        Ok(())
    }

    /// Where there are endpoints. Of what is rare only what there was.
    fn write_datagrams(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let Some(Datagrams { counts, refused }) = &self.datagrams else { return Ok(()) };
        let joined = |datagrams: Option<u64>, messages| Some(datagrams?.saturating_sub(messages?));
        write!(out, "datagrams ")?;
        write_known(out, &[("received", counts.received), ("bytes", counts.received_bytes)])?;
        write_known(out, &[("joined", joined(counts.received, counts.received_messages))])?;
        write_known(out, &[("answered", counts.answered), ("sent", counts.sent), ("bytes", counts.sent_bytes)])?;
        write_known(out, &[("joined", joined(counts.sent, counts.sent_messages))])?;
        let rare = [
            ("forwarded", counts.forwarded),
            ("returned", counts.returned),
            ("clients", counts.clients),
            ("expired", counts.clients_expired),
            ("replaced", counts.clients_replaced),
            ("unreachable", counts.clients_unreachable),
            ("silent", counts.silent),
            ("panicked", counts.panicked),
            ("oversized", counts.oversized),
            ("unsendable", counts.unsendable),
            ("errors", counts.receive_errors),
            ("blocked", counts.send_blocks),
            ("dropped", counts.dropped),
        ];
        let refused = refused.iter().map(|&(reason, count)| (reason, Some(count)));
        for seen in rare.into_iter().chain(refused).filter(|(_, count)| *count > Some(0)) {
            write_known(out, &[seen])?;
        }
        writeln!(out)
    }

    fn write_threads(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{:<10} {:>11} {:>15} {:>15} {:>9} {:>9} {:>8} {:>8} {:>9}",
            "thread", "turns", "read bytes", "written bytes", "r-blocks", "w-blocks", "parks", "yields", "p-wakes"
        )?;
        if let Some(turns) = self.poller_turns.as_ref().filter(|turns| turns.turns > Some(0)) {
            write_turns(out, "poller", turns)?;
        }
        for (number, turns) in self.worker_turns.iter().take(WORKER_LINES).enumerate() {
            write_turns(out, &format!("worker {number}"), turns)?;
        }
        if self.worker_turns.len() > WORKER_LINES {
            let rest = &self.worker_turns[WORKER_LINES..];
            let turns: u64 = rest.iter().filter_map(|turns| turns.turns).sum();
            writeln!(out, "{:<10} {turns:>11}   ({} more workers)", "the rest", rest.len())?;
        }
        Ok(())
    }
}

/// Names and numbers, without those that are not known.
fn write_known(out: &mut impl fmt::Write, counts: &[(&str, Option<u64>)]) -> fmt::Result {
    for (name, count) in counts {
        if let Some(count) = count {
            write!(out, "  {name} {count}")?;
        }
    }
    Ok(())
}

fn write_turns(out: &mut fmt::Formatter<'_>, name: &str, turns: &TurnSummary) -> fmt::Result {
    let shown = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    writeln!(
        out,
        "{name:<10} {:>11} {:>15} {:>15} {:>9} {:>9} {:>8} {:>8} {:>9}",
        shown(turns.turns),
        shown(turns.read_bytes),
        shown(turns.written_bytes),
        shown(turns.read_blocks),
        shown(turns.write_blocks),
        shown(turns.parks),
        shown(turns.yields),
        shown(turns.poller_wakes)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_an_engine_counts_is_told_even_if_it_is_zero_and_what_it_does_not_is_absent() {
        let [first, second] = [TurnCounters::default(), TurnCounters::default()];
        first.reads.add(3);
        second.reads.add(4);
        second.waits.add(5);
        let told = |known: &[&str]| -> Value {
            serde_json::to_value(TurnSummary::of([&first, &second], known)).expect("numbers serialise")
        };
        let without = told(TURNS);
        assert_eq!((&without["reads"], &without["writes"]), (&json!(7), &json!(0)));
        assert_eq!(without.get("waits"), None, "{without}");
        assert_eq!(told(&[TURNS, WAITING].concat())["waits"], 5);
    }
}
