//! [`Loops`]: N threads with a [`Reactor`] each, which is what `event-loop`, `event-loops` and `proactor` have in common. A
//! session lives with one of them for life; they share the orders, and the count of who is here.
//!
//! How a thread waits, and who deals arrivals out to it, is for the engine. Read next: `event_loop.rs`.

use std::sync::Arc;

use super::books::Books;
use super::common::Common;
use super::crew::{Crew, Hand};
use super::growing::Growing;
use super::reactor::Reactor;
use super::reactor::listing::{kill_in_tables, list_tables};
use super::turns::Turns;
use super::{Change, Command, Hearing, Running, Seen, Start};
use crate::config::{MAX_WORKERS, Settings};
use crate::error::Error;
use crate::metrics::counters::{Count, TurnCounters};
use crate::metrics::stages::StageRecorder;
use crate::metrics::summary::Summary;

/// What one thread has to itself.
pub(super) struct Loop {
    pub(super) number: usize,
    pub(super) reactor: Arc<Reactor>,
    /// Connections that were given to it and could not begin. Written by its thread.
    pub(super) refused: Count,
    counters: TurnCounters,
    stages: StageRecorder,
}

impl Loop {
    /// Turns of its sessions.
    pub(super) fn turns(&self) -> Turns<'_> {
        let turns = Turns::new(&self.reactor.common, &self.reactor.budget, &self.counters, &self.stages);
        turns.numbered(self.number)
    }

    /// Connections that were given to it and have ended, or could not begin.
    pub(super) fn ended(&self) -> u64 {
        self.counters.closed.iter().map(Count::read).sum::<u64>() + self.refused.read()
    }
}

/// Shares the memory for rings out among so many loops that have sessions, at least a ring for each: a loop that runs out of
/// it waits for its own sessions.
pub(super) fn share_memory(common: &Common, loops: &Growing<Loop>, count: usize) {
    let Settings { limits, ring_bytes, .. } = &common.settings;
    let share_bytes = (limits.max_buffer_bytes / count).max(*ring_bytes);
    loops.iter().for_each(|one| one.reactor.budget.limit(share_bytes));
}

/// The running engine.
pub(super) struct Loops {
    engine: &'static str,
    pub(super) common: Arc<Common>,
    pub(super) all: Arc<Growing<Loop>>,
    crew: Crew,
    most_sessions: usize,
    /// Each loop has listeners of its own.
    are_shared: bool,
}

impl Loops {
    /// So many, and no threads yet.
    ///
    /// # Errors
    /// When a descriptor cannot be had.
    pub(super) fn new(engine: &'static str, start: &mut Start, count: usize) -> Result<Loops, Error> {
        let common = Arc::new(Common::new(start, count)?);
        let crew = Crew::new(common.settings.pin);
        let all = Arc::new(Growing::new(MAX_WORKERS));
        let loops = Loops { engine, common, all, crew, most_sessions: start.most_sessions, are_shared: false };
        (0..count).for_each(|number| loops.add(number));
        share_memory(&loops.common, &loops.all, count);
        Ok(loops)
    }

    /// Adds a loop at this desk, without a thread.
    pub(super) fn add(&self, number: usize) {
        self.all.push(Loop {
            number,
            reactor: Reactor::new(&self.common, number, self.most_sessions, 0),
            refused: Count::default(),
            counters: TurnCounters::default(),
            stages: StageRecorder::default(),
        });
    }

    /// The same, each with listeners of its own on the same ports.
    pub(super) fn sharing_ports(self) -> Loops {
        Loops { are_shared: true, ..self }
    }

    /// Starts the threads: each of these runs one loop, in their order.
    ///
    /// # Errors
    /// When a thread cannot be had; then there is none.
    pub(super) fn begin<R>(&self, name: &str, runs: impl IntoIterator<Item = R>) -> Result<(), Error>
    where
        R: FnOnce(&Loop) + Send + 'static,
    {
        self.begin_some(name, runs.into_iter().enumerate())
    }

    /// The same for those of these numbers.
    pub(super) fn begin_some<R>(&self, name: &str, runs: impl IntoIterator<Item = (usize, R)>) -> Result<(), Error>
    where
        R: FnOnce(&Loop) + Send + 'static,
    {
        self.crew.start(runs.into_iter().map(|(number, run)| {
            let all = Arc::clone(&self.all);
            Hand::new(format!("{name}-{number}"), Some(number), move || run(&all[number]))
        }))
    }

    fn reactors(&self) -> Vec<&Reactor> {
        self.all.iter().map(|one| &*one.reactor).collect()
    }

    fn books(&self) -> Books<'_> {
        Books {
            engine: self.engine,
            common: &self.common,
            turns: self.all.iter().map(|one| &one.counters).collect(),
            stages: self.all.iter().map(|one| &one.stages).collect(),
            polls_sessions: true,
            buffer_bytes: Some(self.all.iter().map(|one| one.reactor.budget.made_bytes()).sum()),
            accepted_elsewhere: 0,
            open: self.common.live() as u64,
        }
    }
}

impl Running for Loops {
    fn command(&self, command: Command) {
        self.common.tell(&command);
    }

    fn listen(&self, changes: Vec<Change>) -> Result<(), Error> {
        self.common.listen(changes, self.are_shared)
    }

    fn summary(&self) -> Summary {
        self.books().summary()
    }

    fn sessions(&self, from: u64, most: usize, seen: &mut Vec<Seen>) -> Option<u64> {
        list_tables(&self.reactors(), from, most, seen)
    }

    fn kill(&self, id: u64) -> bool {
        kill_in_tables(&self.reactors(), id)
    }

    fn join(&self, _hearing: Option<Hearing<'_>>) {
        self.crew.join();
        self.books().check();
    }
}
