//! `maitred load`: puts load on any TCP or UDP server, ours or not, and reports what it did.
//!
//! ```text
//!                    ┌───────────────── generator thread, one per --threads ─────────────────┐
//!   seed ─▶ schedule ─▶ due? ─▶ flight ─▶ connection ─▶ socket ─▶ the server
//!                               │  ▲         (pattern)      │
//!                               │  └──── reply, checked ◀───┘
//!                               ▼
//!                            recorder ─▶ tally ─▶ report ─▶ table, JSON, .hgrm
//!   main thread: intervals, and what /proc says of the server (--pid) and of the host
//! ```
//! What is sent, and when, is decided by the seed before anything is sent; latency counts from the *intended* time; every
//! reply is checked byte by byte. Why most load generators mislead is the chapter `design/measuring.md`.
//!
//! The modules, in reading order: `target.rs`, `demand.rs` and `plan.rs` (what is asked), `schedule.rs` (when),
//! `pattern.rs` (what), `flight.rs`, `recorder.rs` and `breakdown.rs` (requests and their times; pure), `connection.rs`, `connect.rs`,
//! `client.rs` and `trouble.rs` (sockets, the loop, and what may go wrong), `alertness.rs` (being on time), `room.rs`
//! (chat), `transfer.rs` (files), `report.rs` and `table.rs` (what came of it), `search.rs` (how much a server can bear), `interrupt.rs` (being
//! ended).

mod alertness;
pub mod breakdown;
pub mod client;
mod connect;
mod connection;
pub mod demand;
pub mod flight;
pub(crate) mod interrupt;
pub mod pattern;
pub mod plan;
pub mod recorder;
pub mod report;
mod room;
pub mod schedule;
pub mod search;
pub mod table;
pub mod target;
mod transfer;
mod trouble;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::cli::LoadArgs;
use crate::clock::monotonic_ns;
use crate::error::Error;
use crate::load::client::{Generator, Moment, Span};
use crate::load::plan::Plan;
use crate::load::recorder::{Count, Tally};
use crate::load::report::{Interval, Report};
use crate::net::os;
use crate::net::process::{self, ProcessTree, ServerUse};

/// Descriptors that may be wanted beside those of the connections and the pollers: files of `/proc`, one at a time.
const SPARE_DESCRIPTORS: usize = 4;

/// The threads are given this long to be there when the load begins.
const START_IN: Duration = Duration::from_millis(2);

/// `maitred load`. Whether nothing went wrong: no error was counted, and nobody interrupted it.
///
/// # Errors
/// Wrong usage; a server that cannot be reached; output that cannot be written.
pub fn command(args: &LoadArgs) -> Result<bool, Error> {
    let plan = Plan::resolve(args)?;
    // Before the load rather than after it: a wrong path is told at once.
    let histogram = args.histogram.as_deref().map(|path| {
        // What is there stays until there is something new.
        let created = File::options().write(true).create(true).truncate(false).open(path);
        created.map(|file| (file, path)).map_err(|reason| output_error(&path.display().to_string(), reason))
    });
    let histogram = histogram.transpose()?;
    let stop = interrupt::stop_on_signals()?;
    let mut stdout = io::stdout().lock();
    let mut shown = Ok(());
    let mut show = |interval: &Interval| {
        if args.json || shown.is_err() {
            return;
        }
        let heading = if interval.from_s == 0.0 { table::interval_heading() } else { String::new() };
        shown = write!(stdout, "{heading}{}", table::interval_line(interval)).and_then(|()| stdout.flush());
        if shown.is_err() {
            // Nobody hears how it goes on.
            stop.store(true, Ordering::Relaxed);
        }
    };
    let (plan, outcome) = match plan.search {
        true => search::run(&plan, &stop, !args.quiet)?,
        false => {
            let outcome = run(&plan, &stop, &mut show)?;
            (plan, outcome)
        }
    };
    let report = outcome.report(&plan);
    let text = match args.json {
        true => serde_json::to_string(&report).expect("a report is JSON") + "\n",
        false => table::render(&report),
    };
    let printed = shown.and_then(|()| stdout.write_all(text.as_bytes())).and_then(|()| stdout.flush());
    // Neither output waits for the other to succeed.
    if let Some((file, path)) = histogram {
        let written = write_histogram(file, &outcome.tally);
        written.map_err(|reason| output_error(&path.display().to_string(), reason))?;
    }
    match printed {
        Ok(()) => Ok(!report.has_errors() && !report.interrupted),
        // A reader that has seen enough is no failure; the exit code still says how the load went.
        Err(reason) if reason.kind() == io::ErrorKind::BrokenPipe => Ok(!report.has_errors()),
        Err(reason) => Err(output_error("standard output", reason)),
    }
}

fn write_histogram(mut file: File, tally: &Tally) -> io::Result<()> {
    // Pipes and devices have no length.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    tally.latency.write_hgrm(&mut file)
}

/// What one run of a plan found.
pub struct Outcome {
    /// What the generator found.
    pub tally: Tally,
    /// What the server used, if it was asked for.
    pub server: Option<ServerUse>,
    /// The lines of `--interval`.
    pub intervals: Vec<Interval>,
    /// It was stopped before its end.
    pub interrupted: bool,
    /// How the search went, if there was one.
    pub search: Option<report::SearchReport>,
}

impl Outcome {
    /// The report of it.
    pub fn report(&self, plan: &Plan) -> Report {
        let mut report = Report::new(plan, &self.tally, self.server.as_ref(), self.interrupted);
        report.intervals.clone_from(&self.intervals);
        report.search.clone_from(&self.search);
        report
    }
}

/// What the threads tell.
enum Event {
    Begins,
    Counted { thread: usize, number: usize, count: Box<Count> },
    Ends,
}

/// Runs the plan once, and shows each interval as soon as it has passed. Returns by the end of the plan's grace, or soon
/// after `stop` is set.
///
/// # Errors
/// The server cannot be reached, its process not looked at, or the descriptors do not suffice.
pub fn run(plan: &Plan, stop: &AtomicBool, show: &mut dyn FnMut(&Interval)) -> Result<Outcome, Error> {
    let mut server = match plan.pid {
        None => None,
        Some(pid) => {
            let watched = ProcessTree::watch(pid);
            Some(Watched::new(watched.map_err(|reason| Error::resource(format!("look at process {pid}"), reason))?))
        }
    };
    let mut stolen = Stolen::new();
    let mut generators = connect(plan, stop)?;
    let span = Span {
        start_ns: monotonic_ns() + START_IN.as_nanos() as u64,
        warmup: plan.warmup,
        duration: plan.duration,
        grace: plan.grace,
        seed: plan.seed,
        interval: plan.interval,
    };
    let mut intervals = Intervals::new(generators.len());
    thread::scope(|scope| {
        let (sender, events) = channel();
        let threads: Vec<_> = generators
            .iter_mut()
            .enumerate()
            .map(|(thread, generator)| {
                let sender: Sender<Event> = sender.clone();
                let tell = move |moment: Moment| {
                    let event = match moment {
                        Moment::Begins => Event::Begins,
                        Moment::Counted(number, count) => Event::Counted { thread, number, count },
                        Moment::Ends => Event::Ends,
                    };
                    // Nobody listens only when the main thread has panicked.
                    let _ = sender.send(event);
                };
                scope.spawn(move || {
                    let mut tell = tell;
                    generator.run(&span, stop, &mut tell);
                })
            })
            .collect();
        drop(sender);
        let mut ended = 0;
        loop {
            let patience = server.as_mut().map_or(Duration::MAX, Watched::look_if_due);
            match events.recv_timeout(patience) {
                Ok(Event::Begins) => {
                    stolen.begin();
                    server.iter_mut().for_each(Watched::begin);
                }
                Ok(Event::Ends) => {
                    ended += 1;
                    if ended == 1 {
                        stolen.end();
                        server.iter_mut().for_each(Watched::end);
                    }
                }
                Ok(Event::Counted { thread, number, count }) => intervals.add(thread, number, &count, show),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        for thread in threads {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    let mut tally = Tally::default();
    generators.iter_mut().for_each(|generator| tally.merge(generator.tally()));
    tally.stolen_ns = stolen.taken_ns(plan.threads, tally.window_ns);
    let server = server.and_then(|watched| watched.used(tally.window_ns));
    let interrupted = stop.load(Ordering::Relaxed);
    Ok(Outcome { tally, server, intervals: intervals.rows, interrupted, search: None })
}

/// The generators of all threads, with their connections.
fn connect(plan: &Plan, stop: &AtomicBool) -> Result<Vec<Generator>, Error> {
    let limit = os::raise_descriptor_limit();
    // A poller is two, an alarm one.
    let needed = os::open_descriptors() + plan.connections + plan.threads * 3 + SPARE_DESCRIPTORS;
    if needed > limit {
        return Err(Error::Usage {
            flag: "--connections".to_owned(),
            problem: format!("{} need {needed} descriptors, and the process may open {limit}", plan.connections),
            expected: "fewer, or a higher limit (ulimit -n)".to_owned(),
        });
    }
    let addresses = plan.target.addresses()?;
    let mut failed = None;
    for address in addresses {
        let first = match Generator::connect(plan, address, (0, plan.threads), stop) {
            Ok(first) => first,
            // A name may stand for addresses at which nobody listens.
            Err(error) => {
                failed.get_or_insert(error);
                continue;
            }
        };
        let others = (1..plan.threads).map(|share| Generator::connect(plan, address, (share, plan.threads), stop));
        return std::iter::once(Ok(first)).chain(others).collect();
    }
    Err(failed.expect("a target has an address"))
}

/// The server's process, looked at now and then.
struct Watched {
    tree: ProcessTree,
    begun: Option<(u64, crate::net::process::Reading)>,
    used: Option<(u64, ServerUse)>,
    looked_ns: u64,
}

impl Watched {
    fn new(tree: ProcessTree) -> Watched {
        Watched { tree, begun: None, used: None, looked_ns: 0 }
    }

    fn begin(&mut self) {
        if self.begun.is_none() {
            self.begun = Some((monotonic_ns(), self.tree.reading()));
        }
    }

    fn end(&mut self) {
        if let Some((since_ns, earlier)) = &self.begun {
            let at_ns = monotonic_ns();
            self.used = Some((at_ns - since_ns, self.tree.used_since(earlier)));
        }
    }

    /// Looks at the tasks, so that those which end are known by then: often enough to see most, for no more than a
    /// fiftieth of a processor. When the next look is due.
    fn look_if_due(&mut self) -> Duration {
        const OFTEN: Duration = Duration::from_millis(50);
        let period = OFTEN.max(self.tree.last_cost() * 50);
        if self.used.is_some() {
            return Duration::MAX;
        }
        let passed = Duration::from_nanos(monotonic_ns() - self.looked_ns);
        if passed < period {
            return period - passed;
        }
        self.tree.sample();
        self.looked_ns = monotonic_ns();
        period
    }

    /// What the server used in a window of this length. The readings are not taken at its very ends, since that would
    /// hold up the generator.
    fn used(self, window_ns: u64) -> Option<ServerUse> {
        let (over_ns, used) = self.used?;
        Some(used.scaled(window_ns as f64 / over_ns.max(1) as f64))
    }
}

/// What the host takes of the processors that the threads may run on.
struct Stolen {
    processors: Vec<usize>,
    /// When, and what of each processor until then.
    begun: Option<(u64, Vec<u64>)>,
    ended: Option<(u64, Vec<u64>)>,
}

impl Stolen {
    fn new() -> Stolen {
        Stolen { processors: os::processors(), begun: None, ended: None }
    }

    fn begin(&mut self) {
        if self.begun.is_none() {
            self.begun = self.look();
        }
    }

    fn end(&mut self) {
        self.ended = self.look();
    }

    fn look(&self) -> Option<(u64, Vec<u64>)> {
        Some((monotonic_ns(), process::stolen_ns(&self.processors).ok()?))
    }

    /// In a window of this length, of the `count` processors that lost most. Scaled, since the two looks are not at its
    /// very ends.
    fn taken_ns(self, count: usize, window_ns: u64) -> Option<u64> {
        let ((since_ns, before), (until_ns, after)) = (self.begun?, self.ended?);
        // The kernel's count may go back by a step.
        let mut each: Vec<u64> =
            after.iter().zip(&before).map(|(after, before)| after.saturating_sub(*before)).collect();
        each.sort_unstable_by(|a, b| b.cmp(a));
        let taken_ns: u64 = each.iter().take(count).sum();
        let over_ns = (until_ns - since_ns).max(1);
        Some((taken_ns as f64 * window_ns as f64 / over_ns as f64).round() as u64)
    }
}

/// Puts the intervals of the threads together.
struct Intervals {
    /// For each thread the last interval that it is done with.
    done: Vec<Option<usize>>,
    waiting: BTreeMap<usize, Count>,
    rows: Vec<Interval>,
}

impl Intervals {
    fn new(threads: usize) -> Intervals {
        Intervals { done: vec![None; threads], waiting: BTreeMap::new(), rows: Vec::new() }
    }

    fn add(&mut self, thread: usize, number: usize, count: &Count, show: &mut dyn FnMut(&Interval)) {
        let sum = self.waiting.entry(number).or_default();
        sum.until_ns = sum.until_ns.max(count.until_ns);
        sum.latency.add(&count.latency);
        sum.errors.add_all(&count.errors);
        self.done[thread] = Some(number);
        let all_done = self.done.iter().min().copied().flatten();
        while let Some(entry) = self.waiting.first_entry().filter(|entry| Some(*entry.key()) <= all_done) {
            let from_s = self.rows.last().map_or(0.0, |row| row.to_s);
            let count = entry.remove();
            let row = Interval::new(from_s, count.until_ns as f64 / 1e9, &count);
            show(&row);
            self.rows.push(row);
        }
    }
}

fn output_error(target: &str, reason: io::Error) -> Error {
    Error::Output { target: target.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_took_is_that_of_as_many_processors_as_there_are_threads() {
        let taken_ns = |count, window_ns| {
            let (begun, ended) = (Some((5, vec![100, 0, 50])), Some((1_005, vec![110, 40, 49])));
            Stolen { processors: vec![0, 1, 7], begun, ended }.taken_ns(count, window_ns)
        };
        assert_eq!([1, 2, 3, 256].map(|count| taken_ns(count, 1_000)), [40, 50, 50, 50].map(Some));
        assert_eq!(taken_ns(1, 500), Some(20));
        assert_eq!(Stolen::new().taken_ns(1, 1), None, "a window that never opened");
    }
}
