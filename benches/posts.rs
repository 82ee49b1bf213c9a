//! How often an engine is told of messages that threads post to one session: with the rule that only the first post to an
//! empty mailbox tells it, and with every post telling it.
//!
//! Eight threads post messages of 64 bytes to one session, whose client reads all that comes; all of it is in this process,
//! on the engine itself, without the program around it. *Saturated*: each thread posts as fast as the mailbox takes
//! messages, and gives its processor up when it is full. *Half load*: each posts at a steady pace, an eighth of half of
//! what was taken in the saturated run of the same round. The variants take turns in each round; `edge again` is the same
//! as `edge`, and says what the rounds can resolve.
//!
//! *Tellings* are calls of the engine, by the messages that were taken.
//! `README.md` beside this file says how to read the table.

use std::env;
use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use maitred::clock::Clock;
use maitred::config::Settings;
use maitred::engine::{self, Command, Served, Start};
use maitred::metrics::summary::Summary;
use maitred::net::listener::Listener;
use maitred::net::os::sharpen_timers;
use maitred::session::handler::{Chunks, Handler, Mailing, Next, Pace, Reply, Sending, Service};
use maitred::session::mailbox::{Address, Limits, Message, Posted};

const POSTERS: usize = 8;
const MESSAGE_BYTES: usize = 64;
const MAILBOX_BYTES: usize = 1 << 20;

/// Of one variant in one round at one load.
const WINDOW: Duration = Duration::from_millis(300);
const SMOKE_WINDOW: Duration = Duration::from_millis(20);
const ROUNDS: usize = 15;

const ENGINES: [&str; 2] = ["event-loop", "pool"];
const VARIANTS: [(&str, bool); 3] = [("edge", true), ("edge again", true), ("each", false)];

/// Hands out the address of each of its sessions, and drops what they are sent.
struct Target {
    edge: bool,
    addresses: Mutex<Sender<Address>>,
}

struct Deaf;

impl Handler for Deaf {
    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Discard(input.len())
    }
}

impl Service for Target {
    fn name(&self) -> &'static str {
        "target"
    }

    fn mailbox(&self) -> Option<Mailing> {
        let limits = Limits { bytes: MAILBOX_BYTES, messages: MAILBOX_BYTES / MESSAGE_BYTES, edge: self.edge };
        Some(Mailing { limits, calls: 1, sending: Sending::Vectored })
    }

    fn open(&self, address: Option<&Address>) -> Box<dyn Handler> {
        let address = Address::clone(address.expect("it was asked for"));
        self.addresses.lock().expect("nobody panics").send(address).expect("the bench waits for it");
        Box::new(Deaf)
    }

    fn pace(&self) -> Pace {
        Pace::Brief
    }
}

/// What one run came to.
#[derive(Clone, Copy)]
struct Outcome {
    messages: u64,
    tellings: u64,
    seconds: f64,
}

impl Outcome {
    fn per_message(&self) -> f64 {
        self.tellings as f64 / self.messages as f64
    }

    fn per_second(&self) -> f64 {
        self.messages as f64 / self.seconds
    }
}

/// Posts for `window`, by each thread once per `pace`, or as fast as it goes.
fn run(engine_name: &str, edge: bool, window: Duration, pace: Option<Duration>) -> Outcome {
    let (sender, addresses) = channel();
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let server = listener.address();
    let service = Arc::new(Target { edge, addresses: Mutex::new(sender) });
    let served = Served { listener, service, idle_exempt: true };
    let engine =
        engine::start(engine_name, Start::new(Settings::default(), vec![served], Vec::new(), 16, Clock::start()));
    let engine = engine.expect("the engine starts");
    let client = TcpStream::connect(server).expect("it listens");
    let address = addresses.recv().expect("the session opens");
    let reader = thread::spawn(move || drain(client));
    let is_over = AtomicBool::new(false);
    let posted = AtomicU64::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for number in 0..POSTERS {
            let (address, is_over, posted) = (&address, &is_over, &posted);
            scope.spawn(move || posted.fetch_add(post(address, is_over, pace, number), Ordering::Relaxed));
        }
        thread::sleep(window);
        is_over.store(true, Ordering::Relaxed);
    });
    let seconds = start.elapsed().as_secs_f64();
    drop(address);
    engine.command(Command::Drain);
    engine.join(None);
    reader.join().expect("the client reads to the end");
    let summary = engine.summary();
    let messages = posted.into_inner();
    assert_eq!(sum(&summary, |turns| turns.posts), messages, "every message that was posted was taken");
    Outcome { messages, tellings: sum(&summary, |turns| turns.post_wakes), seconds }
}

fn post(address: &Address, is_over: &AtomicBool, pace: Option<Duration>, number: usize) -> u64 {
    let message = Message::from([number as u8; MESSAGE_BYTES]);
    sharpen_timers();
    let start = Instant::now();
    let mut posted = 0;
    while !is_over.load(Ordering::Relaxed) {
        if let Some(pace) = pace {
            // The threads do not post all at the same moment.
            let due = pace.mul_f64(posted as f64 + number as f64 / POSTERS as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        match address.post(Message::clone(&message)) {
            Posted::Taken => posted += 1,
            Posted::Full => thread::yield_now(),
            Posted::Gone => panic!("the session ends after the posters"),
        }
    }
    posted
}

fn drain(mut client: TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    while client.read(&mut buffer).expect("the session ends in order") > 0 {}
}

fn sum(summary: &Summary, count: fn(&maitred::metrics::summary::TurnSummary) -> Option<u64>) -> u64 {
    summary.worker_turns.iter().chain(&summary.poller_turns).filter_map(count).sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // Cargo appends `--bench` under `cargo bench`; a smoke test says `--smoke` besides.
    let arguments: Vec<String> = env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        eprintln!("posts: measures under `cargo bench --bench posts`");
        return;
    }
    let is_smoke = arguments.iter().any(|argument| argument == "--smoke");
    let (rounds, window) = if is_smoke { (1, SMOKE_WINDOW) } else { (ROUNDS, WINDOW) };
    println!("{POSTERS} threads post {MESSAGE_BYTES} bytes to one session; medians of {rounds} rounds in turns");
    println!(
        "{:<12}{:<12}{:<12}{:>14}{:>22}{:>14}",
        "engine", "load", "rule", "messages/s", "tellings per message", "to each"
    );
    for engine in ENGINES {
        let mut outcomes = vec![Vec::new(); 2 * VARIANTS.len()];
        for round in 0..rounds {
            for turn in 0..VARIANTS.len() {
                let variant = (round + turn) % VARIANTS.len();
                let saturated = run(engine, VARIANTS[variant].1, window, None);
                outcomes[variant].push(saturated);
                let pace = Duration::from_secs_f64(POSTERS as f64 * 2.0 / saturated.per_second());
                outcomes[VARIANTS.len() + variant].push(run(engine, VARIANTS[variant].1, window, Some(pace)));
            }
        }
        for (place, outcomes_of) in outcomes.iter().enumerate() {
            let (load, variant) = (["saturated", "half load"][place / VARIANTS.len()], place % VARIANTS.len());
            let each = &outcomes[place - variant + VARIANTS.len() - 1];
            let ratios = outcomes_of.iter().zip(each).map(|(one, each)| one.per_message() / each.per_message());
            println!(
                "{engine:<12}{load:<12}{:<12}{:>14.0}{:>22.4}{:>14.4}",
                VARIANTS[variant].0,
                median(outcomes_of.iter().map(Outcome::per_second).collect()),
                median(outcomes_of.iter().map(Outcome::per_message).collect()),
                median(ratios.collect()),
            );
        }
    }
}
