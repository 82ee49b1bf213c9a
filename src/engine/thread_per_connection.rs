//! The engine `thread-per-connection`: a thread for each client, which waits for it alone.
//!
//! ```text
//!   front: accept ──▶ start a thread ──▶ wait, turn, wait, turn … end
//!          accept ──▶ start a thread ──▶ wait, turn …
//! ```
//! Who waits: each thread, for its own client. Who runs: whichever thread the kernel's scheduler picks. Nothing is handed
//! over but the socket, once. The kernel keeps the list of who is ready, and switches threads at every request; each
//! client costs a stack, and coming and going costs a thread's start and end.
//!
//! Datagrams have no connection; each endpoint has a thread.
//!
//! The cap is `--max-connections`; a thread that cannot be had turns that one client away. Stacks are small:
//! [`STACK_BYTES`] of address space, of which a session touches a few pages.
//!
//! Read next: `process_per_connection.rs`; the chapter is `design/engines/thread-per-connection.md`.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::Builder;

use super::attendance::{Listed, Who, list};
use super::blocking::{Bed, answer, serve};
use super::books::Books;
use super::common::{Common, Stage};
use super::connection::Connection;
use super::crew::{Crew, Hand, or_abort};
use super::front::{Arrival, Floor, Front, Refusal};
use super::turns::Turns;
use super::{Change, Command, Entry, Hearing, Running, Seen, Start, anywhere, carries_all};
use crate::config::{AtOnce, EngineInfo};
use crate::error::Error;
use crate::metrics::counters::TurnCounters;
use crate::metrics::stages::StageRecorder;
use crate::metrics::summary::Summary;
use crate::net::nudge::listen_for_nudges;
use crate::net::poller::{Batch, Ready};
use crate::session::buffer::Budget;
use crate::session::handler::Closed;
use crate::session::mailbox::Rouse;

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "thread-per-connection",
        about: "a thread for each client, which waits for it alone",
        carries: carries_all,
        options: &["budget", "ring", "stages"],
        at_once: AtOnce::Many,
        forks: false,
        resizes: Err("it has a thread for each client"),
        relistens: Ok(()),
    },
    start: |start| Ok(Box::new(ThreadPerConnection::start(start)?)),
    available: anywhere,
};

/// Address space of a session's stack: the deepest path, a panic that prints where it happened, takes under half of it.
const STACK_BYTES: usize = 128 << 10;

struct Shared {
    common: Arc<Common>,
    budget: Arc<Budget>,
    places: Mutex<Places>,
}

/// Where sessions' threads count. A place goes from thread to thread; there are as many as there ever were threads at
/// once.
#[derive(Default)]
struct Places {
    all: Vec<Arc<Place>>,
    free: Vec<Arc<Place>>,
}

#[derive(Default)]
struct Place {
    counters: TurnCounters,
    stages: StageRecorder,
    bed: Arc<Bed>,
    /// Which of all places it is.
    number: usize,
    /// The session here.
    listed: Listed,
}

impl Shared {
    fn take_place(&self) -> Arc<Place> {
        let mut places = self.places.lock().expect("no thread panics while it holds this lock");
        places.free.pop().unwrap_or_else(|| {
            let place = Arc::new(Place { number: places.all.len(), ..Place::default() });
            places.all.push(Arc::clone(&place));
            place
        })
    }

    fn give_place_back(&self, place: Arc<Place>) {
        self.places.lock().expect("no thread panics while it holds this lock").free.push(place);
    }

    fn all_places(&self) -> Vec<Arc<Place>> {
        self.places.lock().expect("no thread panics while it holds this lock").all.clone()
    }

    /// Serves the endpoint of this number until the engine has drained.
    fn answer(&self, number: usize) {
        listen_for_nudges().expect("a signal that exists can be handled");
        let place = self.take_place();
        place.bed.enter();
        answer(&self.common, &place.counters, &self.common.desks[0].endpoints[number]);
        place.bed.leave();
        self.give_place_back(place);
    }

    /// Has every session and every endpoint look at the orders.
    fn nudge_all(&self) {
        self.all_places().iter().for_each(|place| place.bed.nudge());
    }
}

/// The running engine.
struct ThreadPerConnection {
    shared: Arc<Shared>,
    crew: Crew,
    /// Says so when the front and all threads of sessions have let go of what they share.
    all_gone: Mutex<Receiver<Infallible>>,
}

impl ThreadPerConnection {
    fn start(mut start: Start) -> Result<ThreadPerConnection, Error> {
        let common = Arc::new(Common::new(&mut start, 1)?);
        let budget = Budget::new(common.settings.limits.max_buffer_bytes);
        let shared = Arc::new(Shared { common, budget, places: Mutex::default() });
        let (present, all_gone) = channel();
        let floor = Threads { shared: Arc::clone(&shared), present };
        let mut front = Front::new(Arc::clone(&shared.common), 0, start.listeners, floor)?;
        let crew = Crew::new(false);
        let batch = shared.common.settings.batch;
        let endpoints = shared.common.desks[0].endpoints.len();
        let for_endpoints = Arc::clone(&shared);
        let endpoints = (0..endpoints).map(|number| {
            let shared = Arc::clone(&for_endpoints);
            Hand::new(format!("endpoint-{number}"), None, move || shared.answer(number))
        });
        let front = Hand::new("front", None, move || {
            // Inherited by the threads that it starts.
            listen_for_nudges().expect("a signal that exists can be handled");
            let mut batch = Batch::new(batch);
            while !front.is_drained() {
                front.wait(&mut batch, None);
            }
        });
        crew.start(endpoints.chain([front]))?;
        Ok(ThreadPerConnection { shared, crew, all_gone: Mutex::new(all_gone) })
    }

    fn with_books<T>(&self, tell: impl FnOnce(&Books<'_>) -> T) -> T {
        let places = self.shared.all_places();
        tell(&Books {
            engine: ENTRY.info.name,
            common: &self.shared.common,
            turns: places.iter().map(|place| &place.counters).collect(),
            stages: places.iter().map(|place| &place.stages).collect(),
            polls_sessions: false,
            buffer_bytes: Some(self.shared.budget.made_bytes()),
            accepted_elsewhere: 0,
            open: self.shared.common.live() as u64,
        })
    }
}

/// The floor: a thread for each.
struct Threads {
    shared: Arc<Shared>,
    /// Each thread has one as long as it has anything else.
    present: Sender<Infallible>,
}

impl Floor for Threads {
    fn admit(&mut self, arrival: Arrival, now_ns: u64) -> Result<Option<u64>, Refusal> {
        let (shared, place) = (Arc::clone(&self.shared), self.shared.take_place());
        let who = self.shared.common.is_attended().then(|| Who::of(&arrival, &self.shared.common.services));
        let begun = Connection::begin(arrival, 0, Arc::clone(&place.bed) as Arc<dyn Rouse>);
        let mut connection = begun.inspect_err(|_| shared.give_place_back(Arc::clone(&place)))?;
        if let Some(who) = who {
            place.listed.begin(place.number, who, now_ns);
        }
        let (own, present) = (Arc::clone(&place), self.present.clone());
        let body = move || {
            or_abort(move || {
                own.bed.enter();
                let mut turns = Turns::new(&shared.common, &shared.budget, &own.counters, &own.stages).keeping_none();
                let closed = serve(&shared.common, &mut turns, &mut connection, &own.listed);
                own.listed.end();
                turns.end(connection, closed);
                own.bed.leave();
                shared.give_place_back(own);
            });
            drop(present);
        };
        let started = Builder::new().name("session".to_owned()).stack_size(STACK_BYTES).spawn(body);
        match started {
            Ok(_) => Ok(None),
            Err(reason) => {
                place.listed.end();
                self.shared.give_place_back(place);
                Err((Closed::OverLimit, format!("no thread can be had for it: {reason}")))
            }
        }
    }

    fn handle_event(&mut self, _ready: Ready, _now_ns: u64) {}

    fn handle_stage(&mut self, _stage: Stage, _now_ns: u64) {
        self.shared.nudge_all();
    }

    fn handle_timeouts(&mut self, _now_ns: u64) {
        self.shared.nudge_all();
    }
}

impl Running for ThreadPerConnection {
    fn command(&self, command: Command) {
        self.shared.common.tell(&command);
    }

    fn listen(&self, changes: Vec<Change>) -> Result<(), Error> {
        self.shared.common.listen(changes, false)
    }

    fn summary(&self) -> Summary {
        self.with_books(|books| books.summary_of_many())
    }

    fn sessions(&self, from: u64, most: usize, seen: &mut Vec<Seen>) -> Option<u64> {
        let common = &self.shared.common;
        let now_ns = common.clock.now_ns();
        list(&self.shared.all_places(), from, most, seen, |place| place.listed.read(&common.services, now_ns))
    }

    fn kill(&self, id: u64) -> bool {
        let places = self.shared.all_places();
        let place = places.get(Listed::place_of(id)).filter(|place| place.listed.kill(id));
        place.inspect(|place| place.bed.nudge()).is_some()
    }

    fn join(&self, _hearing: Option<Hearing<'_>>) {
        self.crew.join();
        let all_gone = self.all_gone.lock().expect("no thread panics while it holds this lock");
        let Err(_) = all_gone.recv();
        drop(all_gone);
        self.shared.budget.empty_shelf();
        self.with_books(|books| books.check());
    }
}
