//! What it costs to hand an item from one thread to another, and how long a sleeping thread takes to wake.
//!
//! Four lanes carry items of the size of the daemon's requests:
//! - *try + park*: crossbeam's bounded channel with `try_send` and `try_recv`, and a flag with `park` and `unpark` around
//!   it, as in the daemon: the channel never waits, and a batch costs at most one wake;
//! - *crossbeam*: the same channel, waiting inside `send` and `recv`;
//! - *mpsc*: std's `sync_channel`, waiting inside;
//! - *condvar*: a `Mutex` around a `VecDeque`, and a `Condvar` that is notified once a batch.
//!
//! Four tables: put and take in one thread; a batch to another thread and one item back when it has all of them; a
//! stream of batches that nobody answers; and the time from a put to the first step of a taker that was asleep.
//! `README.md` beside this file says how to read them.

use std::collections::VecDeque;
use std::env;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// What is carried: two words, like a session's key and the time when it was seen ready.
type Item = (u64, u64);

/// Items that a lane holds.
const CAPACITY: usize = 1024;

const BATCHES: [usize; 5] = [1, 4, 8, 16, 64];

/// Runs of each lane, in turns.
const REPEATS: usize = 9;

/// Items of one run in one thread, or of a stream.
const ITEMS: usize = 64_000;

/// Batches of one run that are answered: each is two wakes at the worst.
const ROUNDS: usize = 2_000;

/// Wakes of one run.
const WAKES: usize = 200;

/// How long the taker is left alone before it is woken: time enough to fall asleep.
const ALONE: Duration = Duration::from_micros(150);

/// The two ends of a way from one thread to another.
trait Lane {
    const NAME: &str;
    type Putter: Put + Send;
    type Taker: Take + Send;

    fn ends() -> (Self::Putter, Self::Taker);
}

trait Put {
    /// Appends an item; waits for room.
    fn put(&mut self, item: Item);

    /// The batch is complete: wakes the taker, if it sleeps and `put` has not woken it.
    fn flush(&mut self) {}
}

trait Take {
    /// The oldest item, if there is one.
    fn try_take(&mut self) -> Option<Item>;

    /// The oldest item; sleeps until there is one.
    fn take(&mut self) -> Item;
}

struct TryAndPark;

/// Where the taker of [`TryAndPark`] sleeps.
#[derive(Default)]
#[repr(align(128))]
struct Seat {
    sleeping: AtomicBool,
    owner: OnceLock<Thread>,
}

struct ParkPutter(crossbeam_channel::Sender<Item>, Arc<Seat>);
struct ParkTaker(crossbeam_channel::Receiver<Item>, Arc<Seat>);

impl Lane for TryAndPark {
    const NAME: &str = "try + park";
    type Putter = ParkPutter;
    type Taker = ParkTaker;

    fn ends() -> (ParkPutter, ParkTaker) {
        let (sender, receiver) = crossbeam_channel::bounded(CAPACITY);
        let seat = Arc::new(Seat::default());
        (ParkPutter(sender, Arc::clone(&seat)), ParkTaker(receiver, seat))
    }
}

impl Put for ParkPutter {
    fn put(&mut self, item: Item) {
        while self.0.try_send(item).is_err() {
            self.flush();
            thread::yield_now();
        }
    }

    fn flush(&mut self) {
        let Seat { sleeping, owner } = &*self.1;
        if sleeping.load(Ordering::SeqCst) && sleeping.swap(false, Ordering::SeqCst) {
            owner.get().expect("whoever sleeps has sat down").unpark();
        }
    }
}

impl Take for ParkTaker {
    fn try_take(&mut self) -> Option<Item> {
        self.0.try_recv().ok()
    }

    fn take(&mut self) -> Item {
        let Seat { sleeping, owner } = &*self.1;
        loop {
            if let Ok(item) = self.0.try_recv() {
                return item;
            }
            owner.get_or_init(thread::current);
            sleeping.store(true, Ordering::SeqCst);
            if self.0.is_empty() {
                while sleeping.load(Ordering::Acquire) {
                    thread::park();
                }
            }
            sleeping.store(false, Ordering::SeqCst);
        }
    }
}

struct Crossbeam;

impl Lane for Crossbeam {
    const NAME: &str = "crossbeam";
    type Putter = crossbeam_channel::Sender<Item>;
    type Taker = crossbeam_channel::Receiver<Item>;

    fn ends() -> (Self::Putter, Self::Taker) {
        crossbeam_channel::bounded(CAPACITY)
    }
}

impl Put for crossbeam_channel::Sender<Item> {
    fn put(&mut self, item: Item) {
        self.send(item).expect("the taker outlives the putter");
    }
}

impl Take for crossbeam_channel::Receiver<Item> {
    fn try_take(&mut self) -> Option<Item> {
        self.try_recv().ok()
    }

    fn take(&mut self) -> Item {
        self.recv().expect("the putter outlives the taker")
    }
}

struct Mpsc;

impl Lane for Mpsc {
    const NAME: &str = "mpsc";
    type Putter = mpsc::SyncSender<Item>;
    type Taker = mpsc::Receiver<Item>;

    fn ends() -> (Self::Putter, Self::Taker) {
        mpsc::sync_channel(CAPACITY)
    }
}

impl Put for mpsc::SyncSender<Item> {
    fn put(&mut self, item: Item) {
        self.send(item).expect("the taker outlives the putter");
    }
}

impl Take for mpsc::Receiver<Item> {
    fn try_take(&mut self) -> Option<Item> {
        self.try_recv().ok()
    }

    fn take(&mut self) -> Item {
        self.recv().expect("the putter outlives the taker")
    }
}

struct WithCondvar;

#[derive(Default)]
struct Monitor {
    items: Mutex<VecDeque<Item>>,
    filled: Condvar,
}

struct MonitorPutter(Arc<Monitor>);
struct MonitorTaker(Arc<Monitor>);

impl Lane for WithCondvar {
    const NAME: &str = "condvar";
    type Putter = MonitorPutter;
    type Taker = MonitorTaker;

    fn ends() -> (MonitorPutter, MonitorTaker) {
        let monitor = Arc::new(Monitor::default());
        (MonitorPutter(Arc::clone(&monitor)), MonitorTaker(monitor))
    }
}

impl Put for MonitorPutter {
    fn put(&mut self, item: Item) {
        loop {
            let mut items = self.0.items.lock().expect("nobody panics with the lock");
            if items.len() < CAPACITY {
                items.push_back(item);
                return;
            }
            drop(items);
            self.flush();
            thread::yield_now();
        }
    }

    fn flush(&mut self) {
        self.0.filled.notify_one();
    }
}

impl Take for MonitorTaker {
    fn try_take(&mut self) -> Option<Item> {
        self.0.items.lock().expect("nobody panics with the lock").pop_front()
    }

    fn take(&mut self) -> Item {
        let mut items = self.0.items.lock().expect("nobody panics with the lock");
        loop {
            match items.pop_front() {
                Some(item) => return item,
                None => items = self.0.filled.wait(items).expect("nobody panics with the lock"),
            }
        }
    }
}

fn main() {
    if !env::args().any(|argument| argument == "--bench") {
        eprintln!("hand_off: measures under `cargo bench --bench hand_off`");
        return;
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!("{cores} cores; items of {} bytes; medians of {REPEATS} runs in turns", size_of::<Item>());
    table(
        "one thread: put a batch, take it; ns per item",
        [one_thread::<TryAndPark>, one_thread::<Crossbeam>, one_thread::<Mpsc>, one_thread::<WithCondvar>],
    );
    table(
        "two threads: a batch there, one item back; ns per batch",
        [answered::<TryAndPark>, answered::<Crossbeam>, answered::<Mpsc>, answered::<WithCondvar>],
    );
    table(
        "two threads: a stream of batches; ns per item",
        [streamed::<TryAndPark>, streamed::<Crossbeam>, streamed::<Mpsc>, streamed::<WithCondvar>],
    );
    wake_table();
}

/// Prints a line for each size of a batch and a column for each lane; the runs of the lanes take turns.
fn table(title: &str, lanes: [fn(usize) -> f64; 4]) {
    println!("\n{title}");
    println!("{:>7} {}", "batch", header());
    for batch in BATCHES {
        let mut runs = [const { Vec::new() }; 4];
        for repeat in 0..REPEATS {
            for place in 0..lanes.len() {
                let place = (place + repeat) % lanes.len();
                runs[place].push(lanes[place](batch));
            }
        }
        let line: Vec<String> = runs.into_iter().map(|run| format!("{:>12.1}", at(run, 0.5))).collect();
        println!("{batch:>7} {}", line.join(" "));
    }
}

/// Prints how long a sleeping taker takes to wake.
fn wake_table() {
    let lanes = [wakes::<TryAndPark>, wakes::<Crossbeam>, wakes::<Mpsc>, wakes::<WithCondvar>];
    let mut latencies = [const { Vec::new() }; 4];
    for repeat in 0..REPEATS {
        for place in 0..lanes.len() {
            let place = (place + repeat) % lanes.len();
            latencies[place].extend(lanes[place]());
        }
    }
    println!("\nfrom a put to the first step of a taker that was asleep; µs, all {} wakes of a lane", REPEATS * WAKES);
    println!("{:>7} {}", "", header());
    for (name, share) in [("p10", 0.1), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        let line: Vec<String> = latencies.iter().map(|all| format!("{:>12.1}", at(all.clone(), share) / 1e3)).collect();
        println!("{name:>7} {}", line.join(" "));
    }
}

fn header() -> String {
    [TryAndPark::NAME, Crossbeam::NAME, Mpsc::NAME, WithCondvar::NAME].map(|name| format!("{name:>12}")).join(" ")
}

/// The queue alone: nobody sleeps, no line of memory changes its core.
fn one_thread<L: Lane>(batch: usize) -> f64 {
    let (mut putter, mut taker) = L::ends();
    let start = Instant::now();
    for number in 0..ITEMS / batch {
        for place in 0..batch {
            putter.put((number as u64, place as u64));
        }
        for _ in 0..batch {
            black_box(taker.try_take().expect("it was put"));
        }
    }
    per(start, ITEMS / batch * batch)
}

/// A batch that is waited for: nearly all of it is two wakes, until the batch is long.
fn answered<L: Lane>(batch: usize) -> f64 {
    let (mut putter, mut taker) = L::ends();
    let (mut back, mut answers) = L::ends();
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..ROUNDS {
                let mut item = taker.take();
                for _ in 1..batch {
                    item = taker.take();
                }
                back.put(item);
                back.flush();
            }
        });
        let start = Instant::now();
        for round in 0..ROUNDS {
            for place in 0..batch {
                putter.put((round as u64, place as u64));
            }
            putter.flush();
            black_box(answers.take());
        }
        per(start, ROUNDS)
    })
}

/// Batches as fast as the lane takes them; the taker sleeps only when it has caught up.
fn streamed<L: Lane>(batch: usize) -> f64 {
    let (mut putter, mut taker) = L::ends();
    let items = ITEMS / batch * batch;
    thread::scope(|scope| {
        let start = Instant::now();
        let done = scope.spawn(move || {
            for _ in 0..items {
                black_box(taker.take());
            }
            // What the putter still does with its end must not meet a taker that is gone.
            (per(start, items), taker)
        });
        for number in 0..items / batch {
            for place in 0..batch {
                putter.put((number as u64, place as u64));
            }
            putter.flush();
        }
        done.join().expect("a taker does not panic").0
    })
}

/// Nanoseconds from each put to the taker's next step.
fn wakes<L: Lane>() -> Vec<f64> {
    let (mut putter, mut taker) = L::ends();
    let start = Instant::now();
    let now_ns = || start.elapsed().as_nanos() as u64;
    thread::scope(|scope| {
        let taken = scope.spawn(move || {
            let latencies = (0..WAKES).map(|_| {
                let (_, put_ns) = taker.take();
                (now_ns() - put_ns) as f64
            });
            (latencies.collect(), taker)
        });
        for number in 0..WAKES {
            thread::sleep(ALONE);
            putter.put((number as u64, now_ns()));
            putter.flush();
        }
        taken.join().expect("a taker does not panic").0
    })
}

fn per(start: Instant, count: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / count as f64
}

/// The value that `share` of the values are below.
fn at(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}
