//! The engine `pool`, the reference: one poller thread, a bounded service queue, N workers.
//!
//! Starts, joins and stops its parts: `poll_loop.rs` finds ready sessions, `hand_off.rs` queues them and wakes whom it
//! takes, `service_queue.rs` is the queue, `worker.rs` takes one request at a time and runs the turn; `wake_rule.rs` is
//! whom to wake, `../parking.rs` how to sleep, `../roster.rs` who the workers are: their number changes while the pool
//! serves. The argument that no session is stranded is in `README.md` beside this file.
//!
//! Shutdown, in this order; each step finds the stage before it closed and empty:
//! 1. the front accepts what still waits, closes the listeners and schedules every session to end;
//! 2. it goes on serving until no session lives (the drain timeout ends those that linger);
//! 3. it marks the pool as stopping, wakes all workers and returns: the queue holds no turn, since no session lives;
//! 4. the workers take what is left, calls that nobody waits for, find the queue empty and return;
//! 5. `join` checks the books: accepted = turned away + the sum of all `Closed`.

mod hand_off;
mod poll_loop;
pub(super) mod service_queue;
mod wake_rule;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use super::books::Books;
use super::common::{Common, Desk};
use super::crew::{Crew, Hand};
use super::front::Front;
use super::parking::{IdleStack, Seat};
use super::reactor::listing::{kill_in_tables, list_tables};
use super::reactor::{Reactor, Sessions};
use super::roster::{Place, Roster};
use super::turns::Turns;
use super::{Change, Command, Entry, Hearing, InForce, Running, Seen, Start, anywhere, carries_all};
use crate::config::{AtOnce, EngineInfo, LowWater, Settings};
use crate::error::Error;
use crate::metrics::summary::{Estimates as Learnt, PollSummary, Summary, TurnSummary};

use service_queue::ServiceQueue;
use wake_rule::{TurnTimes, WakeCost};

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "pool",
        about: "one poller thread, a bounded service queue and a pool of workers",
        carries: carries_all,
        options: &[
            "workers",
            "queue",
            "low_water",
            "wake",
            "batch",
            "spin",
            "budget",
            "ring",
            "rearm",
            "assist",
            "stages",
            "pin",
        ],
        at_once: AtOnce::Many,
        forks: false,
        resizes: Ok(()),
        relistens: Ok(()),
    },
    start: |start| Ok(Box::new(Pool::start(start)?)),
    available: anywhere,
};

/// The low-water mark `auto`: a worker wakes the parked poller when it finds nothing left to take. To do so with a turn
/// still to run would, on a busy machine, only put the poller in that worker's way.
pub(super) const NONE_LEFT: usize = usize::MAX;

/// Counters of turns that only this engine keeps.
const OWN_TURNS: &[&str] = &["again", "carried", "parks", "yields", "worker_wakes", "poller_wakes"];

/// Counters of the poller that only this engine keeps.
const OWN_POLLS: &[&str] =
    &["queued", "queue_depth_max", "wakes", "long_turn_wakes", "parks", "full_queue_waits", "assisted"];

/// What the poller and the workers share. Each field says who writes it.
struct Shared {
    common: Arc<Common>,
    reactor: Arc<Reactor>,
    /// Filled by the poller, and by workers whose session wants another turn; drained by workers.
    queue: ServiceQueue,
    idle: IdleStack,
    /// Where the poller sleeps while the queue holds a backlog. Woken by workers.
    poller_seat: Seat,
    estimates: Estimates,
    by_poller: ByPoller,
    /// Processors that the process may use, counted before any thread was pinned.
    processors: usize,
    /// Set by the poller as its last act.
    stopping: AtomicBool,
    roster: Roster,
    /// The counters of turns that the poller runs itself.
    poller: Place,
}

/// What the poller writes at every round, on a line of its own: the fields around it are read by every turn.
#[repr(align(128))]
struct ByPoller {
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
    fn settings(&self) -> &Settings {
        &self.common.settings
    }

    /// The queue length at which a worker wakes the parked poller; none if it never parks for a backlog.
    fn low_water(&self) -> Option<usize> {
        match self.common.orders().low_water() {
            LowWater::At(len) => Some(len),
            LowWater::Auto => Some(NONE_LEFT),
            LowWater::Off => None,
        }
    }

    fn desk(&self) -> &Desk {
        self.reactor.desk()
    }

    /// Turns of whoever has this place.
    fn turns<'a>(&'a self, place: &'a Place) -> Turns<'a> {
        Turns::new(&self.common, &self.reactor.budget, &place.counters, &place.stages)
    }

    /// All who run turns, and who ever did: the workers by their numbers, then the poller.
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.roster.places.iter().chain([&self.poller])
    }

    fn books(&self) -> Books<'_> {
        Books {
            engine: "pool",
            common: &self.common,
            turns: self.places().map(|place| &place.counters).collect(),
            stages: self.places().map(|place| &place.stages).collect(),
            polls_sessions: true,
            buffer_bytes: Some(self.reactor.budget.made_bytes()),
            accepted_elsewhere: 0,
            open: self.common.live() as u64,
        }
    }
}

/// The running engine.
struct Pool {
    shared: Arc<Shared>,
    crew: Crew,
}

impl Pool {
    /// Starts the poller and the workers.
    ///
    /// # Errors
    /// When a descriptor or a thread cannot be had.
    fn start(mut start: Start) -> Result<Pool, Error> {
        let common = Arc::new(Common::new(&mut start, 1)?);
        let Start { listeners, most_sessions, .. } = start;
        let workers = common.settings.workers;
        let settings = &common.settings;
        let reactor = Reactor::new(&common, 0, most_sessions, settings.limits.max_buffer_bytes);
        let shared = Arc::new(Shared {
            queue: ServiceQueue::new(settings.queue_capacity),
            idle: IdleStack::new(workers),
            poller_seat: Seat::default(),
            estimates: Estimates { turn_times: TurnTimes::new(), wake_cost: WakeCost::new() },
            by_poller: ByPoller { woken_ns: AtomicU64::new(0), park_low_water: AtomicUsize::new(NONE_LEFT) },
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            stopping: AtomicBool::new(false),
            roster: Roster::new(workers),
            poller: Place::default(),
            common: Arc::clone(&common),
            reactor: Arc::clone(&reactor),
        });
        let front = Front::new(Arc::clone(&common), 0, listeners, Sessions::new(&reactor))?;
        let crew = Crew::new(settings.pin);
        let for_poller = Arc::clone(&shared);
        let poller = Hand::new("poller", None, move || poll_loop::run(&for_poller, front));
        crew.start((0..workers).map(|number| worker(&shared, number)).chain([poller]))?;
        Ok(Pool { shared, crew })
    }
}

fn worker(shared: &Arc<Shared>, number: usize) -> Hand {
    let shared = Arc::clone(shared);
    Hand::new(format!("worker-{number}"), Some(number), move || worker::Worker::new(&shared, number).run())
}

impl Running for Pool {
    fn command(&self, command: Command) {
        self.shared.common.tell(&command);
    }

    fn workers(&self) -> usize {
        self.shared.roster.present()
    }

    fn resize(&self, workers: usize, in_force: InForce) -> Result<(), Error> {
        let shared = &self.shared;
        shared.common.check_workers(workers)?;
        let start = |numbers: &[usize]| {
            shared.idle.make_seats(shared.roster.places.len());
            self.crew.start(numbers.iter().map(|&number| worker(shared, number)))
        };
        shared.roster.resize(workers, in_force, start, |number| shared.idle.rouse(number))
    }

    fn listen(&self, changes: Vec<Change>) -> Result<(), Error> {
        self.shared.common.listen(changes, false)
    }

    fn summary(&self) -> Summary {
        let shared = &self.shared;
        let books = shared.books();
        let mut summary = books.summary();
        let known = [crate::metrics::summary::TURNS, OWN_TURNS].concat();
        let each = |place: &Place| TurnSummary::of([&place.counters], &known);
        summary.workers = shared.roster.staying();
        summary.worker_turns = shared.roster.places.iter().map(each).collect();
        summary.poller_turns = Some(each(&shared.poller));
        let own = PollSummary::of([&shared.desk().counters], OWN_POLLS);
        summary.poller.add_known(own);
        summary.queue_depths = Some(books.classes(|desk| &desk.queue_depths));
        summary.estimates = Some(Learnt {
            worker_turn_ns: shared.estimates.turn_times.worker_turn_ns(),
            poller_turn_ns: shared.estimates.turn_times.poller_turn_ns(),
            wake_cost_ns: shared.estimates.wake_cost.ns(),
        });
        summary
    }

    fn sessions(&self, from: u64, most: usize, seen: &mut Vec<Seen>) -> Option<u64> {
        list_tables(&[&*self.shared.reactor], from, most, seen)
    }

    fn kill(&self, id: u64) -> bool {
        kill_in_tables(&[&*self.shared.reactor], id)
    }

    fn join(&self, _hearing: Option<Hearing<'_>>) {
        self.crew.join();
        assert_eq!(self.shared.queue.len(), 0, "whoever puts something there takes until there is nothing");
        self.shared.books().check();
    }
}
