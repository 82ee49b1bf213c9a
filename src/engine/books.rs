//! What an engine has counted, put together for the summary, and the check at the end that the books balance.
//!
//! Counters are where they are written: each front's at its desk, each thread's turns in a block of its own. An engine
//! names the blocks and which counters it knows; what it does not know is absent from the summary, never zero.

use super::common::Common;
use crate::metrics::counters::{BATCH_SIZES, PollCounters, TurnCounters};
use crate::metrics::stages::{self, StageRecorder};
use crate::metrics::summary::{ACCEPTING, Datagrams, POLLING, PollSummary, Summary, TURNS, TurnSummary};
use crate::session::handler::Closed;

/// The blocks that one engine's counters are in.
pub(super) struct Books<'a> {
    pub(super) engine: &'static str,
    pub(super) common: &'a Common,
    /// Of all threads or processes that run turns.
    pub(super) turns: Vec<&'a TurnCounters>,
    pub(super) stages: Vec<&'a StageRecorder>,
    /// Whether its fronts wait for the readiness of sessions.
    pub(super) polls_sessions: bool,
    /// Memory of all rings, where one process knows of all.
    pub(super) buffer_bytes: Option<usize>,
    /// Connections that others than the fronts have accepted.
    pub(super) accepted_elsewhere: u64,
    /// Sessions that are open now.
    pub(super) open: u64,
}

impl<'a> Books<'a> {
    fn desks(&self) -> impl Iterator<Item = &'a PollCounters> {
        self.common.desks.iter().map(|desk| &desk.counters)
    }

    /// Connections taken off the backlogs.
    pub(super) fn accepted(&self) -> u64 {
        self.desks().map(|counters| counters.accepted.read()).sum::<u64>() + self.accepted_elsewhere
    }

    /// How many sessions ended in which way.
    pub(super) fn closed(&self) -> Vec<(&'static str, u64)> {
        let all = Closed::ALL.iter().enumerate();
        all.map(|(place, &closed)| {
            let by_turns: u64 = self.turns.iter().map(|turns| turns.closed[place].read()).sum();
            let by_fronts: u64 = self
                .desks()
                .map(|counters| match closed {
                    Closed::OverLimit => counters.turned_away.read(),
                    Closed::Panicked => counters.broken_opens.read(),
                    _ => 0,
                })
                .sum();
            (closed.name(), by_turns + by_fronts)
        })
        .collect()
    }

    fn datagrams(&self) -> Option<Datagrams> {
        let endpoints = self.common.desks.iter().flat_map(|desk| &desk.endpoints);
        Datagrams::of(&endpoints.map(|endpoint| &endpoint.counters).collect::<Vec<_>>())
    }

    /// What every engine can tell; the rest is added by those that can.
    pub(super) fn summary(&self) -> Summary {
        let mut known = [TURNS, ACCEPTING].concat();
        if self.polls_sessions {
            known.extend_from_slice(POLLING);
            known.push("again");
        }
        let [queue_stage, service_stage] = stages::merge(self.stages.iter().copied());
        Summary {
            schema: "maitred.summary/1",
            engine: self.engine,
            workers: self.turns.len(),
            uptime_ns: self.common.clock.now_ns(),
            accepted: self.accepted(),
            open: self.open,
            closed: self.closed(),
            buffer_bytes: self.buffer_bytes.map(|bytes| bytes as u64),
            estimates: None,
            datagrams: self.datagrams(),
            processes: None,
            batch_sizes: self.polls_sessions.then(|| {
                let class = |class: usize| self.desks().map(|counters| counters.batch_sizes[class].read()).sum();
                (0..BATCH_SIZES).map(class).collect()
            }),
            poller: PollSummary::of(self.desks(), &known),
            poller_turns: None,
            worker_turns: self.turns.iter().map(|&turns| TurnSummary::of([turns], &known)).collect(),
            queue_stage,
            service_stage,
            log_lines_dropped: 0,
        }
    }

    /// The same where threads or processes come and go with their sessions: one line for the turns of all of them.
    pub(super) fn summary_of_many(&self) -> Summary {
        let mut summary = self.summary();
        summary.workers = self.common.live();
        summary.worker_turns = vec![TurnSummary::of(self.turns.iter().copied(), TURNS)];
        summary
    }

    /// For when the engine has finished.
    ///
    /// # Panics
    /// If accepted connections and ended ones do not balance: a bug.
    pub(super) fn check(&self) {
        assert_eq!((self.common.live(), self.open), (0, 0), "the fronts return when no connection is open");
        let ended: u64 = self.closed().iter().map(|(_, count)| count).sum();
        assert_eq!(self.accepted(), ended, "books-balance");
    }
}
