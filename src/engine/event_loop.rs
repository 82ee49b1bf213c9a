//! The engine `event-loop`: one thread, one poller, everything inline.
//!
//! ```text
//!   wait ──▶ ready sessions ──▶ turn, turn, turn ──▶ wait
//! ```
//! Who waits: the one thread, for all sessions at once. Who runs: the same thread, one session after the other. Nothing is
//! handed over, so nothing has to be woken. A turn that takes long holds everybody up, and a second processor stays idle.
//!
//! Read next: `event_loops.rs`, N of these; the chapter is `design/engines/event-loop.md`.

use std::sync::Arc;
use std::time::Duration;

use super::books::Books;
use super::common::Common;
use super::crew::{Crew, Hand};
use super::front::{Floor, Front};
use super::reactor::{Reactor, Sessions};
use super::turns::Turns;
use super::{Command, Entry, Hearing, Running, Served, Start, anywhere, carries_all};
use crate::config::{AtOnce, EngineInfo};
use crate::error::Error;
use crate::metrics::counters::{Count, TurnCounters};
use crate::metrics::stages::StageRecorder;
use crate::metrics::summary::Summary;
use crate::net::poller::Batch;

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "event-loop",
        about: "one thread that waits for all sessions and serves them inline",
        carries: carries_all,
        options: &["batch", "budget", "ring", "rearm", "stages", "pin"],
        at_once: AtOnce::Many,
        forks: false,
    },
    start: |mut start| {
        let listeners = vec![std::mem::take(&mut start.listeners)];
        let floor = |loops: &Arc<[Loop]>, number: usize| Sessions::new(&loops[number].reactor);
        Ok(Box::new(Loops::start(ENTRY.info.name, start, listeners, floor)?))
    },
    available: anywhere,
};

/// What one loop has to itself.
pub(super) struct Loop {
    pub(super) reactor: Arc<Reactor>,
    counters: TurnCounters,
    stages: StageRecorder,
}

/// The floor of a loop: sessions, and perhaps something before them.
pub(super) trait LoopFloor: Floor + Send + 'static {
    fn sessions(&mut self) -> &mut Sessions;
}

impl LoopFloor for Sessions {
    fn sessions(&mut self) -> &mut Sessions {
        self
    }
}

/// One loop, or several that share nothing but the port.
pub(super) struct Loops {
    engine: &'static str,
    common: Arc<Common>,
    loops: Arc<[Loop]>,
    crew: Crew,
}

impl Loops {
    /// Starts a loop for each of these lists of listeners; `floor` makes the floor of each.
    ///
    /// # Errors
    /// When a descriptor or a thread cannot be had.
    pub(super) fn start<F: LoopFloor>(
        engine: &'static str,
        start: Start,
        listeners: Vec<Vec<Served>>,
        floor: impl Fn(&Arc<[Loop]>, usize) -> F,
    ) -> Result<Loops, Error> {
        let count = listeners.len();
        let common = Arc::new(Common::new(&start, count)?);
        // Memory is shared out too: a loop that runs out of it waits for its own sessions.
        let buffer_bytes = common.settings.limits.max_buffer_bytes / count;
        let made = |number| Loop {
            reactor: Reactor::new(&common, number, start.most_sessions, buffer_bytes),
            counters: TurnCounters::default(),
            stages: StageRecorder::default(),
        };
        let loops: Arc<[Loop]> = (0..count).map(made).collect();
        let crew = Crew::new(common.settings.pin);
        let fronts = listeners.into_iter().enumerate();
        let fronts =
            fronts.map(|(number, served)| Front::new(Arc::clone(&common), number, served, floor(&loops, number)));
        // All of them listen before the first one serves.
        let fronts = fronts.collect::<Result<Vec<_>, _>>()?.into_iter().enumerate();
        let for_threads = Arc::clone(&loops);
        crew.start(fronts.map(|(number, front)| {
            let loops = Arc::clone(&for_threads);
            Hand::new(format!("loop-{number}"), Some(number), move || loops[number].run(number, front))
        }))?;
        Ok(Loops { engine, common, loops, crew })
    }

    fn books(&self) -> Books<'_> {
        Books {
            engine: self.engine,
            common: &self.common,
            turns: self.loops.iter().map(|one| &one.counters).collect(),
            stages: self.loops.iter().map(|one| &one.stages).collect(),
            polls_sessions: true,
            buffer_bytes: Some(self.loops.iter().map(|one| one.reactor.budget.made_bytes()).sum()),
            accepted_elsewhere: 0,
            open: self.common.live() as u64,
        }
    }
}

impl Loop {
    /// Connections that were given to it and have ended.
    pub(super) fn ended(&self) -> u64 {
        let desk = &self.reactor.desk().counters;
        let turned_away = desk.turned_away.read() + desk.broken_opens.read();
        self.counters.closed.iter().map(Count::read).sum::<u64>() + turned_away
    }

    fn run<F: LoopFloor>(&self, number: usize, mut front: Front<F>) {
        let reactor = &*self.reactor;
        let turns = Turns::new(&reactor.common, &reactor.budget, &self.counters, &self.stages);
        let mut turns = turns.numbered(number);
        let mut batch = Batch::new(reactor.common.settings.batch);
        while !front.is_drained() {
            // Who wants another turn has it after those who have become ready meanwhile.
            let is_busy = !front.floor.sessions().ready.is_empty();
            front.wait(&mut batch, is_busy.then_some(Duration::ZERO));
            let ready = &mut front.floor.sessions().ready;
            for _ in 0..ready.len() {
                let request = ready.pop_front().expect("as many as there were");
                reactor.run(&mut turns, request, &mut |next| ready.push_back(next));
            }
        }
    }
}

impl Running for Loops {
    fn command(&self, command: Command) {
        self.common.tell(&command);
    }

    fn summary(&self) -> Summary {
        self.books().summary()
    }

    fn join(&self, _hearing: Option<Hearing<'_>>) {
        self.crew.join();
        self.books().check();
    }
}
