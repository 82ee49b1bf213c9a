//! What false sharing costs, and how far apart is far enough: a counter per thread, one behind the other or padded.
//!
//! Four layouts: none (8 bytes apart, as in a plain array), fixed 64, fixed 128, and the stride chosen at start from the
//! size of a line that the machine reports. All four run the same code over one block of memory with a stride that the
//! compiler does not know, so that they differ in addresses and in nothing else. `128 again` is 128 once more: what it
//! differs from 128 by is what the bench cannot resolve.
//!
//! Two ways to count: a relaxed load and a relaxed store, as the daemon's counters do (one writer, so nothing is lost),
//! and `fetch_add`. The figures are processor time, not time on the clock, so that more threads than cores do not look
//! slow for having to wait. `README.md` beside this file says how to read the table.

use std::env;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::time::{ClockId, clock_gettime};

/// Counts of one thread in one run: some milliseconds, so that the threads overlap although they do not begin together.
const COUNTS: u64 = 2_000_000;

/// Runs of each layout, in turns.
const REPEATS: usize = 9;

/// The most threads, whatever the machine.
const MOST_THREADS: usize = 8;

/// What a machine that does not say has: the commonest size.
const FALLBACK_LINE_BYTES: usize = 64;

const LINE_FILE: &str = "/sys/devices/system/cpu/cpu0/cache/index0/coherency_line_size";

struct Layout {
    name: String,
    stride_bytes: usize,
}

#[derive(Clone, Copy)]
enum Way {
    LoadStore,
    FetchAdd,
}

/// Two lines of 64 bytes, for the alignment of all strides.
#[derive(Default)]
#[repr(align(128))]
struct Block([AtomicU64; 16]);

/// Memory for one counter per thread, a stride apart.
struct Counters {
    blocks: Vec<Block>,
    stride: usize,
}

impl Counters {
    fn new(threads: usize, stride_bytes: usize) -> Counters {
        let blocks = (threads * stride_bytes).div_ceil(size_of::<Block>());
        Counters { blocks: (0..blocks).map(|_| Block::default()).collect(), stride: stride_bytes / 8 }
    }

    fn of_thread(&self, thread: usize) -> &AtomicU64 {
        let place = thread * self.stride;
        &self.blocks[place / 16].0[place % 16]
    }
}

fn main() {
    if !env::args().any(|argument| argument == "--bench") {
        eprintln!("padding: measures under `cargo bench --bench padding`");
        return;
    }
    let line_bytes = line_bytes();
    let layout = |name: &str, stride_bytes| Layout { name: name.to_owned(), stride_bytes };
    let layouts = [
        layout("none", 8),
        layout("64", 64),
        layout("128", 128),
        Layout { name: format!("line ({line_bytes})"), stride_bytes: line_bytes },
        layout("128 again", 128),
    ];
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let most_threads = (2 * cores).min(MOST_THREADS);
    println!("{cores} cores; lines of {line_bytes} bytes; median of {REPEATS} runs in turns;");
    println!("ns of processor time per count, and the ratio to no padding");
    for (way, name) in [(Way::LoadStore, "relaxed load + relaxed store"), (Way::FetchAdd, "fetch_add, relaxed")] {
        println!("\n{name}");
        print!("{:>7}", "threads");
        layouts.iter().for_each(|layout| print!(" {:>16}", layout.name));
        println!();
        for threads in 1..=most_threads {
            let medians = measure(&layouts, threads, way);
            print!("{threads:>7}");
            medians.iter().for_each(|ns| print!(" {:>16}", format!("{ns:.2} ({:.2})", ns / medians[0])));
            println!();
        }
    }
}

/// The median of each layout, whose runs take turns.
fn measure(layouts: &[Layout], threads: usize, way: Way) -> Vec<f64> {
    let mut runs = vec![Vec::with_capacity(REPEATS); layouts.len()];
    for repeat in 0..REPEATS {
        for place in 0..layouts.len() {
            // Every layout is first, second, … as often as the others.
            let place = (place + repeat) % layouts.len();
            runs[place].push(run(&layouts[place], threads, way));
        }
    }
    runs.into_iter().map(median).collect()
}

/// Nanoseconds per count, averaged over the threads.
fn run(layout: &Layout, threads: usize, way: Way) -> f64 {
    let counters = Counters::new(threads, layout.stride_bytes);
    let start = Barrier::new(threads);
    let total_ns: u64 = thread::scope(|scope| {
        let count = |thread| {
            let counter = black_box(counters.of_thread(thread));
            start.wait();
            let begin_ns = thread_ns();
            match way {
                Way::LoadStore => (0..COUNTS).for_each(|_| {
                    let before = counter.load(Ordering::Relaxed);
                    counter.store(before.wrapping_add(1), Ordering::Relaxed);
                }),
                Way::FetchAdd => (0..COUNTS).for_each(|_| {
                    counter.fetch_add(1, Ordering::Relaxed);
                }),
            }
            thread_ns() - begin_ns
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || count(thread))).collect();
        handles.into_iter().map(|handle| handle.join().expect("a thread that counts does not panic")).sum()
    });
    for thread in 0..threads {
        assert_eq!(counters.of_thread(thread).load(Ordering::Relaxed), COUNTS, "one writer loses nothing");
    }
    total_ns as f64 / (threads as u64 * COUNTS) as f64
}

/// Processor time of the calling thread.
fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn line_bytes() -> usize {
    let said = std::fs::read_to_string(LINE_FILE).ok().and_then(|text| text.trim().parse().ok());
    said.filter(|bytes| bytes % 8 == 0 && *bytes > 0).unwrap_or(FALLBACK_LINE_BYTES)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
