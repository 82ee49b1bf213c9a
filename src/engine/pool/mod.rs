//! The engine `pool`, the reference: one poller thread, a bounded service queue, N workers.
//!
//! Starts, joins and stops its parts: `poll_loop.rs` finds ready sessions, `hand_off.rs` queues them and wakes whom it takes,
//! `service_queue.rs` is the queue, `worker.rs` takes one request at a time and runs the turn; `parking.rs` and
//! `wake_rule.rs` are how to sleep and whom to wake. The argument that no session is stranded is in `README.md` beside this file.
//!
//! Shutdown, in this order; each step finds the stage before it closed and empty:
//! 1. the poller accepts what still waits, closes the listeners and schedules every session to end;
//! 2. it goes on serving until no session lives (the drain timeout ends those that linger);
//! 3. it marks the pool as stopping, wakes all workers and returns: the queue is empty, since no session lives;
//! 4. the workers find the queue empty and return;
//! 5. `join` checks the books: accepted = turned away + the sum of all `Closed`.

mod hand_off;
mod parking;
mod poll_loop;
mod service_queue;
mod wake_rule;
mod worker;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use log::warn;

use super::connection::Connection;
use super::{Command, Running, Start};
use crate::clock::{Clock, ticks_since};
use crate::config::{LowWater, Settings};
use crate::error::Error;
use crate::logging;
use crate::metrics::counters::{Count, PollCounters, TurnCounters};
use crate::metrics::stages::{self, StageRecorder};
use crate::metrics::summary::{PollSummary, Summary, TurnSummary};
use crate::net::os;
use crate::net::poller::Poller;
use crate::session::buffer::Budget;
use crate::session::handler::Closed;
use crate::session::table::{Slot, Table};

use parking::{IdleStack, Seat};
use service_queue::{Request, ServiceQueue};
use wake_rule::{TurnTimes, WakeCost};

/// The low-water mark `auto`: a worker wakes the parked poller when it finds nothing left to take. To do so with a turn
/// still to run would, on a busy machine, only put the poller in that worker's way.
const NONE_LEFT: usize = usize::MAX;

// What `--max-connections` costs each: one slot, two lines that no other slot shares.
const _: () = assert!(size_of::<Slot<Connection>>() == 128);

/// What the poller and the workers share. Each field says who writes it.
struct Shared {
    settings: Settings,
    clock: Clock,
    /// Filled by the poller; a slot's content belongs to its claim.
    table: Table<Connection>,
    /// Filled by the poller, and by workers whose session wants another turn; drained by workers.
    queue: ServiceQueue,
    poller: Poller,
    idle: IdleStack,
    /// Where the poller sleeps while the queue holds a backlog. Woken by workers.
    poller_seat: Seat,
    /// The queue length at which a worker wakes the parked poller, as configured; or `NONE_LEFT`.
    low_water: usize,
    budget: Arc<Budget>,
    /// Sessions in the state *queued* that wait for memory instead of in the queue. `budget.awaited` says that there
    /// are some; written under this lock.
    starving: Mutex<VecDeque<Request>>,
    estimates: Estimates,
    by_poller: ByPoller,
    /// When the log last said that memory has run out; 0 before the first time. Written under the lock of `starving`.
    warned_tick: AtomicU32,
    /// Processors that the process may use, counted before any thread was pinned.
    processors: usize,
    idle_ticks: AtomicU32,
    write_ticks: AtomicU32,
    /// Set by the poller when it begins to drain: a worker that ends the last session then wakes the poller.
    draining: AtomicBool,
    /// Set by the poller as its last act.
    stopping: AtomicBool,
    /// Commands not yet carried out. Written by anybody, taken by the poller.
    commands: Mutex<Vec<Command>>,
    /// Whether there are some, for a poller that is busy. Set by whoever adds one, cleared by the poller.
    has_commands: AtomicBool,
    /// One block for each worker, and one for the poller's own turns.
    turn_counters: Box<[TurnCounters]>,
    stages: Box<[StageRecorder]>,
    poll_counters: PollCounters,
}

/// What the poller writes at every round, on a line of its own: the fields around it are read by every turn.
#[repr(align(128))]
struct ByPoller {
    /// Present tick. Read by workers whose peer blocks or whose timer rang.
    tick: AtomicU32,
    /// When it last woke workers, until the first of them has looked: 0 from then on. Cleared by the woken.
    woken_ns: AtomicU64,
    /// The low-water mark of the present park: waiting for room in a full queue, the poller wants to hear of the first.
    /// Written before it lies down.
    park_low_water: AtomicUsize,
}

/// What the wake rule knows of the last moments; written by everybody now and then.
#[repr(align(128))]
struct Estimates {
    turn_times: TurnTimes,
    wake_cost: WakeCost,
}

impl Shared {
    /// Moves one waiting session back to the queue's side if there is memory for its ring; None if there is none to
    /// move.
    fn poll_starving(&self) -> Option<Request> {
        let mut starving = self.starving.lock().expect("no thread panics while it holds this lock");
        if !self.budget.has_room(self.settings.ring_bytes) {
            return None;
        }
        let request = starving.pop_front();
        self.budget.awaited.store(!starving.is_empty(), Ordering::SeqCst);
        request
    }

    /// Says in the log that memory has run out, at most once a second.
    fn warn_starving(&self) {
        let tick = self.by_poller.tick.load(Ordering::Acquire);
        let before = self.warned_tick.load(Ordering::Relaxed);
        if before == 0 || ticks_since(tick, before) >= Clock::ticks(Duration::from_secs(1)) {
            self.warned_tick.store(tick, Ordering::Relaxed);
            warn!(
                "max_buffers = {} bytes of rings are in use: sessions wait until some are given back",
                self.settings.limits.max_buffer_bytes
            );
        }
    }

    fn ready_ns(&self) -> u64 {
        if self.settings.stages { self.clock.now_ns() } else { 0 }
    }
}

/// The running engine.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts the poller and the workers.
    ///
    /// # Errors
    /// When a descriptor or a thread cannot be had.
    pub fn start(start: Start) -> Result<Pool, Error> {
        let Start { settings, listeners, most_sessions, clock } = start;
        let workers = settings.workers;
        let shared = Arc::new(Shared {
            clock,
            table: Table::new(most_sessions),
            queue: ServiceQueue::new(settings.queue_capacity),
            poller: Poller::new().map_err(|reason| Error::resource("make a poller", reason))?,
            idle: IdleStack::new(workers),
            poller_seat: Seat::default(),
            low_water: match settings.low_water {
                LowWater::At(len) => len,
                LowWater::Auto | LowWater::Off => NONE_LEFT,
            },
            budget: Budget::new(settings.limits.max_buffer_bytes),
            starving: Mutex::new(VecDeque::new()),
            estimates: Estimates { turn_times: TurnTimes::new(), wake_cost: WakeCost::new() },
            warned_tick: AtomicU32::new(0),
            by_poller: ByPoller {
                tick: AtomicU32::new(Clock::tick_of(clock.now_ns())),
                woken_ns: AtomicU64::new(0),
                park_low_water: AtomicUsize::new(NONE_LEFT),
            },
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            idle_ticks: AtomicU32::new(Clock::ticks(settings.limits.idle_timeout)),
            write_ticks: AtomicU32::new(Clock::ticks(settings.limits.write_timeout)),
            draining: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            commands: Mutex::new(Vec::new()),
            has_commands: AtomicBool::new(false),
            turn_counters: (0..=workers).map(|_| TurnCounters::default()).collect(),
            stages: (0..=workers).map(|_| StageRecorder::default()).collect(),
            poll_counters: PollCounters::default(),
            settings,
        });
        let watched = poll_loop::Watched::new(listeners, &shared.poller)
            .map_err(|reason| Error::resource("watch the listeners", reason))?;
        let mut threads = Vec::with_capacity(workers + 1);
        let processors = if shared.settings.pin { os::processors() } else { Vec::new() };
        let mut spawn = |name: String, place: Option<usize>, run: Box<dyn FnOnce() + Send>| {
            let processor = place.filter(|_| !processors.is_empty()).map(|place| processors[place % processors.len()]);
            let body = move || {
                if let Some(processor) = processor
                    && let Err(reason) = os::pin_to(processor)
                {
                    log::warn!("cannot stay on processor {processor}: {reason}");
                }
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    // A bug of ours, and half a pool would serve nobody: the threads that are left would wait for ever.
                    // The panic's own line is on its way to the log.
                    std::thread::sleep(logging::PATIENCE);
                    std::process::abort();
                }
            };
            let thread = std::thread::Builder::new().name(name).spawn(body);
            threads.push(thread.map_err(|reason| Error::resource("start a thread", reason))?);
            Ok(())
        };
        for number in 0..workers {
            let shared = Arc::clone(&shared);
            let run = move || worker::Worker::new(&shared, number).run();
            spawn(format!("worker-{number}"), Some(number), Box::new(run))?;
        }
        let poller_shared = Arc::clone(&shared);
        let run = move || poll_loop::PollLoop::new(&poller_shared, watched).run();
        spawn("poller".to_owned(), None, Box::new(run))?;
        Ok(Pool { shared, threads: Mutex::new(threads) })
    }
}

impl Running for Pool {
    fn command(&self, command: Command) {
        self.shared.commands.lock().expect("no thread panics while it holds this lock").push(command);
        self.shared.has_commands.store(true, Ordering::SeqCst);
        self.shared.poller.wake();
    }

    fn summary(&self) -> Summary {
        let shared = &self.shared;
        let turns: Vec<TurnSummary> = shared.turn_counters.iter().map(TurnSummary::of).collect();
        let (poller_turns, worker_turns) = turns.split_last().expect("the poller has a block too");
        let stages = stages::merge(shared.stages.iter());
        Summary {
            schema: "maitred.summary/1",
            engine: "pool",
            workers: worker_turns.len(),
            uptime_ns: shared.clock.now_ns(),
            accepted: shared.poll_counters.accepted.read(),
            open: shared.table.live() as u64,
            closed: closed(shared),
            buffer_bytes: shared.budget.made_bytes() as u64,
            worker_turn_ns: shared.estimates.turn_times.worker_turn_ns(),
            poller_turn_ns: shared.estimates.turn_times.poller_turn_ns(),
            wake_cost_ns: shared.estimates.wake_cost.ns(),
            batch_sizes: shared.poll_counters.batch_sizes.iter().map(Count::read).collect(),
            poller: PollSummary::of(&shared.poll_counters),
            poller_turns: poller_turns.clone(),
            worker_turns: worker_turns.to_vec(),
            queue_stage: stages.as_ref().map(|(queue, _)| queue.clone()),
            service_stage: stages.map(|(_, service)| service),
            log_lines_dropped: 0,
        }
    }

    fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().expect("no thread panics while it holds this lock"));
        for thread in threads {
            thread.join().expect("a thread that panics ends the process");
        }
        let shared = &self.shared;
        assert_eq!(shared.table.live(), 0, "the poller returns when no session lives");
        assert_eq!(shared.queue.len(), 0, "a session in the queue lives");
        let ended: u64 = closed(shared).iter().map(|(_, count)| count).sum();
        assert_eq!(shared.poll_counters.accepted.read(), ended, "the books balance");
    }
}

/// How many sessions ended in which way, over all threads.
fn closed(shared: &Shared) -> Vec<(&'static str, u64)> {
    let by_turns =
        |place: usize| shared.turn_counters.iter().map(|counters| counters.closed[place].read()).sum::<u64>();
    let all = Closed::ALL.iter().enumerate();
    all.map(|(place, &closed)| {
        let turned_away = if closed == Closed::OverLimit { shared.poll_counters.turned_away.read() } else { 0 };
        (closed.name(), by_turns(place) + turned_away)
    })
    .collect()
}
