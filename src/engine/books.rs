//! What an engine has counted, put together for the summary, and the check at the end that the books balance.
//!
//! Counters are where they are written: each front's at its desk, each thread's turns in a block of its own. An engine
//! names the blocks and which counters it knows; what it does not know is absent from the summary, never zero.

use super::common::Common;
use crate::metrics::counters::{Count, DatagramCounters, PollCounters, SIZE_CLASSES, TurnCounters};
use crate::metrics::stages::{self, StageRecorder};
use crate::metrics::summary::{ACCEPTING, Datagrams, POLLING, PollSummary, Summary, TURNS, TurnSummary, WAITING};
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

    fn endpoints(&self) -> impl Iterator<Item = &'a DatagramCounters> {
        self.common.desks.iter().flat_map(|desk| &desk.endpoints).map(|endpoint| &endpoint.counters)
    }

    fn datagrams(&self) -> Option<Datagrams> {
        Datagrams::of(&self.endpoints().collect::<Vec<_>>())
    }

    /// See [`Summary::system_calls`]. Also what this engine tells nobody else, such as how often fronts wait that wait for
    /// listeners alone: a counter that nothing writes adds nothing.
    fn system_calls(&self) -> u64 {
        let by_turns = self.turns.iter().flat_map(|turns| {
            let TurnCounters { reads, writes, waits, parks, yields, worker_wakes, poller_wakes, .. } = turns;
            [reads, writes, waits, parks, yields, worker_wakes, poller_wakes]
        });
        let by_fronts = self.desks().flat_map(|desk| [&desk.accept_calls, &desk.polls, &desk.parks, &desk.wakes]);
        let by_endpoints = self.endpoints().flat_map(|endpoint| [&endpoint.receive_batches, &endpoint.send_batches]);
        by_turns.chain(by_fronts).chain(by_endpoints).map(Count::read).sum::<u64>() + self.accepted_elsewhere
    }

    /// What all desks have counted by classes of sizes.
    pub(super) fn classes(&self, counts: fn(&PollCounters) -> &[Count; SIZE_CLASSES]) -> Vec<u64> {
        let class = |class: usize| self.desks().map(|desk| counts(desk)[class].read()).sum();
        (0..SIZE_CLASSES).map(class).collect()
    }

    /// Counters of turns that every engine of this kind keeps.
    fn known_turns(&self) -> Vec<&'static str> {
        let own: &[&str] = if self.polls_sessions { &["again"] } else { WAITING };
        [TURNS, own].concat()
    }

    /// What every engine can tell; the rest is added by those that can.
    pub(super) fn summary(&self) -> Summary {
        let polled: &[&str] = if self.polls_sessions { POLLING } else { &[] };
        let (known_turns, known_polls) = (self.known_turns(), [ACCEPTING, polled].concat());
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
            batch_sizes: self.polls_sessions.then(|| self.classes(|desk| &desk.batch_sizes)),
            queue_depths: None,
            system_calls: self.system_calls(),
            poller: PollSummary::of(self.desks(), &known_polls),
            poller_turns: None,
            worker_turns: self.turns.iter().map(|&turns| TurnSummary::of([turns], &known_turns)).collect(),
            queue_stage,
            service_stage,
            log_lines_dropped: 0,
        }
    }

    /// The same where threads or processes come and go with their sessions: one line for the turns of all of them.
    pub(super) fn summary_of_many(&self) -> Summary {
        let mut summary = self.summary();
        summary.workers = self.common.live();
        summary.worker_turns = vec![TurnSummary::of(self.turns.iter().copied(), &self.known_turns())];
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
