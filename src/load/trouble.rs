//! What a generator does when something goes wrong: a connection that fails, datagrams that are refused or lost, and what
//! is left when the time is over.
//!
//! A connection that fails is counted, with the requests that were in flight on it, and is opened again after a pause, so
//! that the load goes on; a member of a room is not, since who comes back has missed something. Nothing that happens to a
//! connection ends a run. Read next: `report.rs`, where it all arrives.

use std::cmp::Reverse;
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::load::client::{EVENTS, Generator, nanoseconds, wait};
use crate::load::connect::CONNECT_TIMEOUT;
use crate::load::connection::State;
use crate::load::flight::{Found, Sent};
use crate::load::recorder::ErrorKind;
use crate::load::schedule::Arrival;
use crate::net::poller::Batch;

/// A failed connection is opened again after this, and after twice as long each time it fails again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long what was never sent is counted one by one.
const PATIENCE: Duration = Duration::from_millis(100);

impl Generator {
    /// The connection has failed: counts that, and what it leaves unanswered, and has it opened again.
    #[cold]
    pub(super) fn fail(&mut self, index: usize, kind: ErrorKind, now_ns: u64) {
        self.recorder.error(kind, 1);
        let connection = &mut self.connections[index];
        let pause = (FIRST_PAUSE * 2_u32.saturating_pow(connection.failures)).min(LONGEST_PAUSE);
        connection.failures = (connection.failures + 1).min(10);
        let until_ns = now_ns + nanoseconds(pause);
        // Who comes back to a room has missed something, and nobody could say what.
        let state = if self.room.is_some() { State::Gone } else { State::Down { until_ns } };
        let lost = connection.close(state);
        self.never_answered(lost.iter().map(|(_, sent)| *sent));
        self.recorder.error(ErrorKind::Unanswered, lost.len() as u64);
        if let Some(room) = &mut self.room {
            for (sender, number) in room.leave(index) {
                if let Found::Sent(sent) = self.connections[sender].flight.complete(number) {
                    self.never_answered([sent]);
                    self.replace(sender, now_ns);
                }
            }
            return;
        }
        for _ in lost {
            self.replace(index, now_ns);
        }
        self.timers.push(Reverse((until_ns, index)));
    }

    /// Nobody listens where its datagrams go: counts that, and lets them rest a little.
    #[cold]
    pub(super) fn refuse(&mut self, index: usize, now_ns: u64) {
        let refused = std::mem::take(&mut self.wire.refused);
        self.recorder.error(ErrorKind::Refused, refused as u64);
        let connection = &mut self.connections[index];
        // It is not said which; one is as good as the other.
        let given_up = connection.flight.give_up(refused);
        connection.state = State::Blocked;
        self.never_answered(given_up.iter().map(|(_, sent)| *sent));
        for _ in given_up {
            self.replace(index, now_ns);
        }
        self.timers.push(Reverse((now_ns + nanoseconds(FIRST_PAUSE), index)));
    }

    /// These requests are open no longer.
    fn never_answered(&mut self, requests: impl IntoIterator<Item = Sent>) {
        for sent in requests {
            self.recorder.unanswered(sent);
            self.open_requests -= 1;
        }
    }

    /// A closed loop goes on behind a request that had no reply.
    fn replace(&mut self, index: usize, now_ns: u64) {
        if self.is_replacing {
            self.ask(index, now_ns);
            self.again.push_back(index);
        }
    }

    pub(super) fn look_at_timers(&mut self, now_ns: u64) {
        while let Some(&Reverse((due_ns, index))) = self.timers.peek()
            && due_ns <= now_ns
        {
            self.timers.pop();
            let connection = &mut self.connections[index];
            match connection.state {
                State::Down { until_ns } if until_ns <= now_ns => {
                    connection.state = State::Closed;
                    // With a quota the next request opens it.
                    if self.plan.requests_per_connection.is_none() || connection.flight.waiting() > 0 {
                        self.open(index, now_ns);
                    }
                }
                State::Connecting { since_ns } if since_ns + nanoseconds(CONNECT_TIMEOUT) <= now_ns => {
                    self.fail(index, ErrorKind::Connect, now_ns);
                }
                _ => self.expire(index, now_ns),
            }
        }
    }

    /// Gives up the requests of a connection that are past their deadline.
    fn expire(&mut self, index: usize, now_ns: u64) {
        let Some(deadline) = self.deadline else { return };
        let connection = &mut self.connections[index];
        let expired = connection.flight.expire((now_ns + 1).saturating_sub(nanoseconds(deadline)));
        connection.has_deadline = false;
        self.never_answered(expired.iter().map(|(_, sent)| *sent));
        for (number, _) in &expired {
            let (kind, count) = match &mut self.room {
                Some(room) => (ErrorKind::Missing, room.give_up(index, *number)),
                None => (ErrorKind::Lost, 1),
            };
            self.recorder.error(kind, count);
        }
        for _ in expired {
            self.replace(index, now_ns);
        }
        // It may only have rested; if its socket is full, the next write says so.
        if self.connections[index].state == State::Blocked {
            self.connections[index].state = State::Open;
        }
        // Sets the timer for the next oldest.
        self.pump(index, now_ns);
    }

    /// What was not sent is not any more. Of a run that was stopped nobody can say what would have been.
    /// What would have been due after 100 ms of counting is reckoned from the rate instead.
    pub(super) fn abandon_unsent(
        &mut self,
        arrivals: impl Iterator<Item = Arrival>,
        (start_ns, end_ns): (u64, u64),
        was_stopped: bool,
    ) {
        for connection in &mut self.connections {
            let never_sent = connection.flight.abandon();
            never_sent.filter(|_| !was_stopped).for_each(|intended_ns| self.recorder.unsent(intended_ns));
        }
        if was_stopped {
            return;
        }
        // At a rate far beyond reach there are too many to look at each.
        let until_ns = monotonic_ns() + nanoseconds(PATIENCE);
        for (count, arrival) in arrivals.enumerate() {
            let intended_ns = start_ns + arrival.at_ns;
            self.recorder.intended(intended_ns);
            self.recorder.unsent(intended_ns);
            if count % 1024 == 1023 && monotonic_ns() > until_ns {
                let left_s = end_ns.saturating_sub(intended_ns) as f64 / 1e9;
                let rate_per_s = self.plan.arrivals.rate_per_s().unwrap_or(0.0) / self.shares as f64;
                return self.recorder.never_taken_up((left_s * rate_per_s) as u64);
            }
        }
    }

    /// Replies that had come when the time was over.
    pub(super) fn look_once_more(&mut self, batch: &mut Batch) {
        for _ in 0..self.connections.len().div_ceil(EVENTS) {
            wait(&self.wire.poller, batch, Duration::ZERO);
            batch.iter().for_each(|ready| self.handle_ready(ready));
        }
        self.again.clear();
    }

    /// What was not answered is not any more.
    pub(super) fn abandon_unanswered(&mut self, was_stopped: bool) {
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            connection.unread = None;
            // Replies may still come, and would answer nothing that the next run asks.
            let flying = connection.flight.expire(u64::MAX);
            if flying.is_empty() {
                continue;
            }
            match &mut self.room {
                Some(room) => {
                    for (number, _) in &flying {
                        room.give_up(index, *number);
                    }
                }
                None => {
                    connection.close(State::Closed);
                }
            }
            if !was_stopped {
                self.recorder.error(ErrorKind::Unanswered, flying.len() as u64);
                flying.iter().for_each(|(_, sent)| self.recorder.unanswered(*sent));
            }
        }
        self.open_requests = 0;
    }
}
