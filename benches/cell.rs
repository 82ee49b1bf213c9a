//! What it costs to wait for a shared value and to set it.
//!
//! *From a set to a waiting process*: the time from before the set until a process that slept has the value in its hands.
//! Two lanes: *bare* is a number and a futex, stored, woken and slept on with no more than these calls; *cell* is
//! `Cell::set` and `Cell::wait` with `Cell::read_into`, which also lock the file, look whether it is still there, keep two
//! versions and survive a kill. *bare again* is what the bench cannot resolve. Writer and waiters have a processor each
//! where there are two.
//!
//! *A set*: its processor time with nobody watching, with watchers that are slow (each sleeps on after its first wake, as one that
//! acts on a change for long), and with as many that are prompt and so are woken by every set.
//!
//! *A read and a set by length*: short texts and the longest; how often two sets can fall into one read.
//!
//! All lanes take turns in every round. `README.md` beside this file says how to read the tables.

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "limit/statistics.rs"]
mod statistics;

use std::convert::Infallible;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use rustix::thread::futex;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tempfile::TempDir;

use maitred::cell::{Cell, TEXT_MAX_BYTES, Text};
use maitred::clock::monotonic_ns;
use maitred::net::children::{Child, Fork, exit_child, fork};
use maitred::net::os;
use maitred::net::shared::Shared;
use statistics::{Estimate, median};

/// What was typed after `cargo bench --bench cell --`.
#[derive(Parser)]
#[command(name = "cell", about = "What it costs to wait for a shared value and to set it")]
struct Arguments {
    /// Rounds, in each of which every lane has its turn
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Wakes of a lane in a round
    #[arg(long, default_value_t = 300)]
    wakes: usize,
    /// Sets of a lane in a round
    #[arg(long, default_value_t = 5_000)]
    sets: usize,
    /// Also write all rounds to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long a waiter is left alone before it is woken: time enough to fall asleep.
const ALONE: Duration = Duration::from_micros(200);

/// The largest median ratio of *cell* to *bare* that is agreed on.
const GOAL: f64 = 1.5;

const MANY: usize = 100;

/// What a waiter tells: nanoseconds of the last wake, from which number it woke, and how often.
struct Told(Shared<AtomicU64>);

impl Told {
    fn new() -> Told {
        Told(Shared::new(2).expect("there is memory"))
    }

    fn tell(&self, number: u64, now_ns: u64) {
        self.0[0].store(now_ns, Ordering::Relaxed);
        // Release; pairs with the load in `when`.
        self.0[1].store(number, Ordering::Release);
    }

    /// When the waiter had this number.
    fn when(&self, number: u64) -> u64 {
        while self.0[1].load(Ordering::Acquire) < number {
            thread::sleep(Duration::from_micros(20));
        }
        self.0[0].load(Ordering::Relaxed)
    }
}

/// A value that one process waits for.
struct Lane {
    name: &'static str,
    set: Box<dyn Fn(u64)>,
    told: Told,
    set_so_far: u64,
    _waiter: Child,
}

impl Lane {
    /// A number, and a word to sleep on.
    fn bare(name: &'static str) -> Lane {
        let (word, value) = (Shared::<AtomicU32>::new(1).unwrap(), Shared::<AtomicU64>::new(1).unwrap());
        let told = Told::new();
        let waiter = child(|| {
            let mut seen = 0;
            loop {
                while word[0].load(Ordering::Acquire) == seen {
                    // Woken or not, it looks again.
                    let _ = futex::wait(&word[0], futex::Flags::empty(), seen, None);
                }
                seen = word[0].load(Ordering::Acquire);
                let number = value[0].load(Ordering::Relaxed);
                told.tell(number, monotonic_ns());
            }
        });
        let set = move |number: u64| {
            value[0].store(number, Ordering::Relaxed);
            word[0].store(number as u32, Ordering::Release);
            futex::wake(&word[0], futex::Flags::empty(), 1).expect("a word has waiters or not");
        };
        Lane { name, set: Box::new(set), told, set_so_far: 0, _waiter: waiter }
    }

    fn cell(path: &Path) -> Lane {
        let told = Told::new();
        let waiter = child(|| {
            let cell = open(path);
            let (mut seen, mut text) = (0, Vec::new());
            loop {
                cell.wait(seen, None).expect("it is a cell");
                seen = cell.read_into(&mut text).expect("it is a cell");
                told.tell(seen, monotonic_ns());
            }
        });
        let cell = open(path);
        let set = move |number: u64| assert_eq!(set_number(&cell, number), number);
        Lane { name: "cell", set: Box::new(set), told, set_so_far: 0, _waiter: waiter }
    }

    /// The median of so many wakes, in nanoseconds.
    fn wakes_ns(&mut self, wakes: usize) -> f64 {
        let latencies = (0..wakes).map(|_| {
            self.set_so_far += 1;
            thread::sleep(ALONE);
            let begin_ns = monotonic_ns();
            (self.set)(self.set_so_far);
            (self.told.when(self.set_so_far) - begin_ns) as f64
        });
        median(&latencies.collect::<Vec<_>>()).expect("there was a wake")
    }
}

/// A cell, and those who watch it.
struct Audience {
    name: String,
    cell: Cell,
    /// Whether the value that is set is a new one.
    changes: bool,
    set_so_far: u64,
    _watchers: Vec<Child>,
}

#[derive(Clone, Copy, PartialEq)]
enum Pace {
    Slow,
    Prompt,
}

impl Audience {
    fn of(name: &str, path: &Path, watchers: usize, pace: Pace) -> Audience {
        let cell = open(path);
        let watch = || {
            let cell = open(path);
            let mut seen = 0;
            loop {
                seen = cell.wait(seen, None).expect("it is a cell").expect("there is no limit");
                if pace == Pace::Slow {
                    thread::sleep(Duration::from_secs(3_600));
                }
            }
        };
        let watchers = (0..watchers).map(|_| child(watch)).collect();
        Audience { name: name.to_owned(), cell, changes: true, set_so_far: 0, _watchers: watchers }
    }

    /// Nanoseconds for each of so many sets.
    fn set_ns(&mut self, sets: usize) -> f64 {
        let begin_ns = processor_ns();
        for _ in 0..sets {
            self.set_so_far += u64::from(self.changes);
            set_number(&self.cell, self.set_so_far);
        }
        (processor_ns() - begin_ns) as f64 / sets as f64
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Read,
    Set,
}

/// A read or a set of a text of so many bytes, with nobody watching.
struct Length {
    act: Act,
    bytes: usize,
}

impl Length {
    /// Nanoseconds for each of so many.
    fn each_ns(&self, cell: &Cell, times: usize) -> f64 {
        let texts = [b'a', b'b'].map(|byte| vec![byte; self.bytes]);
        let (mut number, mut found) = (0, Vec::new());
        let mut set = || {
            number += 1;
            cell.set(Text::new(&texts[number % 2]).expect("it fits")).expect("it can be written to")
        };
        set();
        let begin_ns = processor_ns();
        for _ in 0..times {
            match self.act {
                Act::Read => drop(cell.read_into(&mut found).expect("it is a cell")),
                Act::Set => assert!(set().changed),
            }
        }
        (processor_ns() - begin_ns) as f64 / times as f64
    }
}

fn main() {
    let arguments = Arguments::parse();
    if !arguments.bench {
        eprintln!("cell: measures under `cargo bench --bench cell`");
        return;
    }
    let processors = Processors::ours();
    os::pin_to(processors.writer).expect("it is one of ours");
    os::sharpen_timers();
    let folder = memory_folder();
    let path = |name: &str| folder.path().join(name);
    println!(
        "writer on CPU {}, waiters on CPU {}; files in {}; medians of {} rounds",
        processors.writer,
        processors.waiters,
        folder.path().parent().expect("it is in a folder").display(),
        arguments.rounds,
    );
    let mut lanes = [Lane::bare("bare"), Lane::cell(&path("wake")), Lane::bare("bare again")];
    let wakes = in_turns(&mut lanes, arguments.rounds, |lane| lane.wakes_ns(arguments.wakes));
    let lanes = lanes.map(|lane| lane.name.to_owned());
    print_wakes(&lanes, &wakes);

    let audience = |name: &str, watchers, pace| Audience::of(name, &path(name), watchers, pace);
    let mut audiences = [
        audience("nobody", 0, Pace::Slow),
        audience("1 slow", 1, Pace::Slow),
        audience("100 slow", MANY, Pace::Slow),
        audience("1 prompt", 1, Pace::Prompt),
        audience("100 prompt", MANY, Pace::Prompt),
        Audience { changes: false, ..audience("same text", 0, Pace::Slow) },
        audience("nobody again", 0, Pace::Slow),
    ];
    let sets = in_turns(&mut audiences, arguments.rounds, |audience| audience.set_ns(arguments.sets));
    let audiences = audiences.map(|audience| audience.name.clone());
    print_sets(&audiences, &sets);

    let cell = open(&path("length"));
    let mut lengths = [64, TEXT_MAX_BYTES].map(|bytes| [Act::Read, Act::Set].map(|act| Length { act, bytes }));
    let lengths = lengths.as_flattened_mut();
    let acts = in_turns(lengths, arguments.rounds, |length| length.each_ns(&cell, arguments.sets));
    let lengths: Vec<String> =
        lengths.iter().map(|length| format!("{:?} {}", length.act, length.bytes).to_lowercase()).collect();
    print_acts(&lengths, &acts);

    if let Some(file) = arguments.json {
        let rows = |what: &str, names: &[String], values: &[Vec<f64>]| -> Vec<Value> {
            let row = |(name, values)| json!({ "measured": what, "lane": name, "rounds_ns": values });
            names.iter().zip(values).map(row).collect()
        };
        let rows = [
            rows("set_to_wake_p50", &lanes, &wakes),
            rows("set", &audiences, &sets),
            rows("by_length", &lengths, &acts),
        ]
        .concat();
        let document = json!({
            "bench": "cell",
            "wakes_per_round": arguments.wakes,
            "sets_per_round": arguments.sets,
            "rows": rows,
        });
        fs::write(&file, format!("{document:#}\n")).expect("the file can be written");
    }
}

/// What each lane measured in each round; every lane is first, second, … as often as the others.
fn in_turns<L>(lanes: &mut [L], rounds: usize, measure: impl Fn(&mut L) -> f64) -> Vec<Vec<f64>> {
    let mut measured = vec![Vec::with_capacity(rounds); lanes.len()];
    for round in 0..rounds {
        for place in 0..lanes.len() {
            let place = (place + round) % lanes.len();
            // Waiters of the lane before may still be awake.
            thread::sleep(Duration::from_millis(5));
            measured[place].push(measure(&mut lanes[place]));
        }
    }
    measured
}

fn print_wakes(lanes: &[String], wakes: &[Vec<f64>]) {
    println!("\nfrom a set to a waiting process that has the value: the p50 of a round, us");
    for (lane, values) in lanes.iter().zip(wakes) {
        let ratio = if lane == &lanes[0] { String::new() } else { ratio(values, &wakes[0]) };
        println!("  {lane:<13} {:>8.2}   {ratio}", median(values).expect("there was a round") / 1e3);
    }
    let estimate = Estimate::of_ratios(&paired(&wakes[1], &wakes[0])).expect("there was a round");
    let verdict = match estimate.interval {
        Some((_, high)) if high <= GOAL => "met",
        Some((low, _)) if low > GOAL => "MISSED",
        _ if estimate.center <= GOAL => "met, not resolved",
        _ => "missed, not resolved",
    };
    println!("  goal: cell to bare at most {GOAL}: {verdict}");
}

fn print_sets(audiences: &[String], sets: &[Vec<f64>]) {
    println!("\na set, by who watches: us of processor time");
    for (audience, values) in audiences.iter().zip(sets) {
        let ratio = if audience == &audiences[0] { String::new() } else { ratio(values, &sets[0]) };
        println!("  {audience:<13} {:>8.2}   {ratio}", median(values).expect("there was a round") / 1e3);
    }
}

fn print_acts(acts: &[String], times: &[Vec<f64>]) {
    println!("\na read and a set, by the bytes of the text: us of processor time");
    for (act, values) in acts.iter().zip(times) {
        println!("  {act:<13} {:>8.2}", median(values).expect("there was a round") / 1e3);
    }
}

/// Centre and interval of the paired ratios.
fn ratio(values: &[f64], to: &[f64]) -> String {
    let Estimate { center, interval } = Estimate::of_ratios(&paired(values, to)).expect("there was a round");
    let interval = interval.map_or(String::new(), |(low, high)| format!(" [{low:.3}, {high:.3}]"));
    format!("{center:.3}{interval}")
}

fn paired(values: &[f64], to: &[f64]) -> Vec<f64> {
    values.iter().zip(to).map(|(value, to)| value / to).collect()
}

/// Processor time of this thread: what it was kept from its processor does not count.
fn processor_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A folder whose files are memory and nothing else, if there is one.
fn memory_folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

fn open(path: &Path) -> Cell {
    Cell::open(path).expect("it is a cell, or becomes one")
}

/// A text of 64 bytes; its version.
fn set_number(cell: &Cell, number: u64) -> u64 {
    let text = format!("{number:064}");
    cell.set(Text::new(text.as_bytes()).expect("it fits")).expect("it can be written to").version
}

/// A process that does this on another processor than the writer's, until it is dropped here.
fn child(what: impl FnOnce() -> Infallible) -> Child {
    match fork().expect("there is room for a process") {
        Fork::Parent(child) => child,
        Fork::Child => {
            let _ = catch_unwind(AssertUnwindSafe(|| {
                os::pin_to(Processors::ours().waiters).expect("it is one of ours");
                what()
            }));
            exit_child(101)
        }
    }
}

/// Who runs where.
struct Processors {
    writer: usize,
    waiters: usize,
}

impl Processors {
    /// As it was decided when it was first asked for, before anybody was pinned.
    fn ours() -> &'static Processors {
        static OURS: OnceLock<Processors> = OnceLock::new();
        OURS.get_or_init(|| {
            let all = os::processors();
            Processors { writer: all[0], waiters: *all.get(1).unwrap_or(&all[0]) }
        })
    }
}
