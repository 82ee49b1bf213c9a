//! The engine `serial`: one client at a time, from its first byte to its last. The baseline.
//!
//! ```text
//!   accept ──▶ wait, turn, wait, turn … end ──▶ accept
//! ```
//! Who waits: the one thread, for one client. Who runs: the same. Whoever comes meanwhile waits in the kernel's backlog,
//! however idle the present client is. Nothing is simpler, and nothing else is as fair to the client that is being served.
//!
//! A session is served inside of [`Floor::admit`]: while it lasts nobody is at the front, so that orders reach the session
//! by a nudge, and the front when it is back. So it is with datagrams: one at a time, by plain calls, between two sessions. Read next: `thread_per_connection.rs`, the same with a thread for each.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::attendance::Listed;
use super::blocking::{Bed, serve};
use super::books::Books;
use super::common::{Common, Stage};
use super::connection::Connection;
use super::crew::{Crew, Hand};
use super::front::{Arrival, Floor, Front, Refusal, endpoint_key};
use super::turns::Turns;
use super::{Change, Command, Entry, Hearing, Running, Seen, Start, anywhere, carries_one_by_one};
use crate::config::{AtOnce, EngineInfo};
use crate::error::Error;
use crate::metrics::counters::TurnCounters;
use crate::metrics::stages::StageRecorder;
use crate::metrics::summary::Summary;
use crate::net::nudge::listen_for_nudges;
use crate::net::poller::{Batch, Ready};
use crate::session::buffer::Budget;
use crate::session::mailbox::Rouse;

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "serial",
        about: "one client at a time, the others wait in the backlog: the baseline",
        carries: carries_one_by_one,
        options: &["budget", "ring", "stages", "pin"],
        at_once: AtOnce::One,
        forks: false,
        resizes: Err("it has one thread"),
        relistens: Ok(()),
    },
    start: |start| Ok(Box::new(Serial::start(start)?)),
    available: anywhere,
};

struct Shared {
    common: Arc<Common>,
    budget: Arc<Budget>,
    counters: TurnCounters,
    stages: StageRecorder,
    bed: Arc<Bed>,
}

/// The running engine.
struct Serial {
    shared: Arc<Shared>,
    crew: Crew,
}

impl Serial {
    fn start(mut start: Start) -> Result<Serial, Error> {
        let common = Arc::new(Common::new(&mut start, 1)?);
        let budget = Budget::new(common.settings.limits.max_buffer_bytes);
        let (counters, stages) = (TurnCounters::default(), StageRecorder::default());
        let shared = Arc::new(Shared { common, budget, counters, stages, bed: Arc::default() });
        let floor = Client { shared: Arc::clone(&shared), ready: Vec::new() };
        let mut front = Front::new(Arc::clone(&shared.common), 0, start.listeners, floor)?;
        let crew = Crew::new(shared.common.settings.pin);
        let (bed, batch) = (Arc::clone(&shared.bed), shared.common.settings.batch);
        let (told, hears) = channel();
        crew.start([Hand::new("server", Some(0), move || {
            told.send(listen_for_nudges()).expect("the engine waits for it");
            bed.enter();
            let mut batch = Batch::new(batch);
            while !front.is_drained() {
                let is_busy = front.floor.answer();
                front.wait(&mut batch, is_busy.then_some(Duration::ZERO));
            }
            bed.leave();
        })])?;
        wait_until_it_hears(&hears)?;
        Ok(Serial { shared, crew })
    }

    fn books(&self) -> Books<'_> {
        Books {
            engine: ENTRY.info.name,
            common: &self.shared.common,
            turns: vec![&self.shared.counters],
            stages: vec![&self.shared.stages],
            polls_sessions: false,
            buffer_bytes: Some(self.shared.budget.made_bytes()),
            accepted_elsewhere: 0,
            open: self.shared.common.live() as u64,
        }
    }
}

fn wait_until_it_hears(hears: &Receiver<std::io::Result<()>>) -> Result<(), Error> {
    let heard = hears.recv().expect("a thread that panics ends the process");
    heard.map_err(|reason| Error::resource("receive signals", reason))
}

/// The floor: room for one.
struct Client {
    shared: Arc<Shared>,
    /// Endpoints that are queued, by number.
    ready: Vec<usize>,
}

impl Client {
    /// Gives each endpoint that is queued a turn; true if one is queued again.
    fn answer(&mut self) -> bool {
        let Shared { common, budget, counters, stages, .. } = &*self.shared;
        let mut turns = Turns::new(common, budget, counters, stages).keeping_none();
        let desk = &common.desks[0];
        self.ready.retain(|&number| turns.answer(&desk.endpoints[number], &desk.poller, endpoint_key(number), None));
        !self.ready.is_empty()
    }
}

impl Floor for Client {
    const HAS_ENDPOINTS: bool = true;

    fn admit(&mut self, arrival: Arrival, _now_ns: u64) -> Result<Option<u64>, Refusal> {
        let Shared { common, budget, counters, stages, bed } = &*self.shared;
        let mut turns = Turns::new(common, budget, counters, stages).keeping_none();
        let mut connection = Connection::begin(arrival, 0, Arc::clone(bed) as Arc<dyn Rouse>)?;
        // Nobody asks: it carries no console.
        let closed = serve(common, &mut turns, &mut connection, &Listed::default());
        turns.end(connection, closed);
        Ok(None)
    }

    fn handle_event(&mut self, _ready: Ready, _now_ns: u64) {}

    fn handle_endpoint(&mut self, number: usize, _now_ns: u64) {
        self.ready.push(number);
    }

    fn handle_stage(&mut self, _stage: Stage, _now_ns: u64) {}
}

impl Running for Serial {
    fn command(&self, command: Command) {
        self.shared.common.tell(&command);
        self.shared.bed.nudge();
    }

    fn listen(&self, changes: Vec<Change>) -> Result<(), Error> {
        self.shared.common.listen(changes, false)
    }

    fn summary(&self) -> Summary {
        self.books().summary()
    }

    /// Nobody asks: it carries no console.
    fn sessions(&self, _from: u64, _most: usize, _seen: &mut Vec<Seen>) -> Option<u64> {
        None
    }

    fn kill(&self, _id: u64) -> bool {
        false
    }

    fn join(&self, _hearing: Option<Hearing<'_>>) {
        self.crew.join();
        self.shared.budget.empty_shelf();
        self.books().check();
    }
}
