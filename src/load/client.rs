//! [`Generator`]: one thread's share of a load: its connections, one poller, and the loop that sends on time.
//!
//! The loop waits for replies until the next arrival is due, takes up what is due, and looks again between any two
//! replies, so that a long batch of them holds no arrival up. What happens when something goes wrong is in `trouble.rs`.
//!
//! Invariants: *same-trace*: what is sent when, and on which connection, depends on the plan alone; *bounded-end*: a run
//! returns by the end of its grace. Read next: `trouble.rs`; then `mod.rs`, which runs several.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::iter::Peekable;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::error::Error;
use crate::load::alertness::Alertness;
use crate::load::connect::CONNECT_TIMEOUT;
use crate::load::connection::{Connection, Detail, Received, Reply, State, Wire};
use crate::load::flight::Found;
use crate::load::pattern::Who;
use crate::load::plan::{Arrivals, Plan, Service};
use crate::load::recorder::{Count, ErrorKind, Mark, Recorder, Tally, ThreadUse};
use crate::load::room::{Delivered, PROBE, Room};
use crate::load::schedule::{Arrival, Schedule};
use crate::net::alarm::Alarm;
use crate::net::poller::{Batch, Poller, Ready, WAKE_KEY};
use crate::net::{os, process};

/// Few enough that arrivals are looked at often, enough to amortise the wait.
pub(super) const EVENTS: usize = 256;

/// Arrivals that are taken up in a row, and between two events: few enough that a whole batch of events with sends
/// between them takes no more than some milliseconds, even when the generator is far behind.
const ARRIVALS: usize = 32;
const ARRIVALS_BETWEEN: usize = 3;

/// The key of the alarm: of no connection, whose keys have a generation.
const ALARM_KEY: u64 = WAKE_KEY - 1;

/// How often the loop looks whether it is to stop.
pub(super) const ATTENTION: Duration = Duration::from_millis(50);

/// One uninterrupted piece of load: first unmeasured, then measured, then a grace for the last replies.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// When it begins, by [`monotonic_ns`].
    pub start_ns: u64,
    /// Sent and not measured.
    pub warmup: Duration,
    /// The window.
    pub duration: Duration,
    /// How long late sends and replies are waited for behind the window.
    pub grace: Duration,
    /// Decides the arrivals of an open loop.
    pub seed: u64,
    /// How often [`Moment::Counted`] comes.
    pub interval: Option<Duration>,
}

/// What a run tells while it goes on.
pub enum Moment {
    /// The window begins now.
    Begins,
    /// An interval of the window has passed: its number, from 0 on, and what was found since the one before. The last,
    /// which may be shorter, is told before [`Moment::Ends`] with the number `usize::MAX`.
    Counted(usize, Box<Count>),
    /// The window has ended.
    Ends,
}

/// One thread's share of a load. Keeps its connections from run to run.
pub struct Generator {
    pub(super) plan: Plan,
    /// Which share: connections `share`, `share + shares`, and so on.
    share: usize,
    pub(super) shares: usize,
    pub(super) connections: Vec<Connection>,
    pub(super) wire: Wire,
    pub(super) recorder: Recorder,
    pub(super) room: Option<Room>,
    /// Times at which to look at a connection again; one that is early or late does no harm.
    pub(super) timers: BinaryHeap<Reverse<(u64, usize)>>,
    /// Connections with something to do that no event will tell.
    pub(super) again: VecDeque<usize>,
    /// Events that were told while the connections were made.
    pub(super) unread: Vec<Ready>,
    alertness: Alertness,
    /// Ends the waits of a closed loop, next at `alarm_ns`.
    alarm: Alarm,
    alarm_ns: u64,
    /// When the loop last looked at the clock.
    seen_ns: u64,
    /// Given up after this, if it is neither answered nor known to be lost.
    pub(super) deadline: Option<Duration>,
    /// Requests waiting or in flight.
    pub(super) open_requests: usize,
    /// Set while a closed loop sends a new request for every reply.
    pub(super) is_replacing: bool,
}

impl Generator {
    /// Makes the connections of share `share` of `shares`; each thread of a load has one. Takes at most five seconds
    /// longer than the server keeps answering.
    ///
    /// # Errors
    /// The first connection that cannot be made, a room that does not fill, or `stop` set meanwhile.
    pub fn connect(
        plan: &Plan,
        address: SocketAddr,
        (share, shares): (usize, usize),
        stop: &AtomicBool,
    ) -> Result<Generator, Error> {
        let start = |reason| Error::resource("start the load", reason);
        let wire = Wire::new(plan, address).map_err(start)?;
        let alarm = Alarm::new().map_err(start)?;
        wire.poller.watch_edge(alarm.as_fd(), ALARM_KEY).map_err(start)?;
        let own = (share..plan.connections).step_by(shares);
        let connections: Vec<Connection> = own.map(|index| Connection::new(Who::new(index, plan.seed))).collect();
        let is_chat = matches!(plan.service, Service::Chat { .. });
        let mut generator = Generator {
            plan: plan.clone(),
            share,
            shares,
            room: is_chat.then(|| Room::new(connections.len())),
            connections,
            deadline: (wire.datagrams || is_chat).then_some(plan.lost_after),
            wire,
            recorder: Recorder::default(),
            timers: BinaryHeap::new(),
            again: VecDeque::new(),
            unread: Vec::new(),
            alertness: Alertness::new(),
            alarm,
            alarm_ns: 0,
            seen_ns: 0,
            open_requests: 0,
            is_replacing: false,
        };
        let target = |reason| Error::Connect { target: plan.target.to_string(), reason };
        generator.connect_all(stop).map_err(target)?;
        if is_chat {
            generator.fill_room(stop).map_err(target)?;
        }
        Ok(generator)
    }

    /// What all runs found so far.
    pub fn tally(&mut self) -> &Tally {
        self.recorder.tally()
    }

    /// Forgets what was measured so far, not the connections.
    pub fn forget(&mut self) {
        self.recorder.forget();
    }

    /// Loads the server for one span. Returns when everything is answered or the grace is over, so that the next server
    /// to be loaded has the machine to itself; or soon after `stop` is set, with what was found until then.
    pub fn run(&mut self, span: &Span, stop: &AtomicBool, tell: &mut dyn FnMut(Moment)) {
        os::sharpen_timers();
        let begin_ns = span.start_ns + nanoseconds(span.warmup);
        let end_ns = begin_ns + nanoseconds(span.duration);
        let give_up_ns = end_ns + nanoseconds(span.grace);
        self.recorder.set_window(begin_ns..end_ns, span.interval.is_some());
        let mut arrivals = self.arrivals(span, end_ns - span.start_ns);
        let mut batch = Batch::new(EVENTS);
        let mut stage = Stage::Before;
        let mut intervals = 0;
        if self.plan.requests_per_connection.is_none() {
            self.reopen();
        }
        for ready in std::mem::take(&mut self.unread) {
            self.handle_ready(ready);
        }
        loop {
            let mut now_ns = monotonic_ns();
            self.seen_ns = now_ns;
            let starts = stage == Stage::Before && now_ns >= span.start_ns;
            if starts {
                stage = Stage::WarmingUp;
            }
            if stage == Stage::WarmingUp && now_ns >= begin_ns {
                stage = Stage::Measuring;
                tell(Moment::Begins);
                if self.plan.requests_per_connection.is_some() {
                    self.recorder.forget_connects();
                }
                self.recorder.take_count(now_ns);
                self.recorder.begin(self.mark());
                // Whoever listens may have taken its time.
                now_ns = monotonic_ns();
            }
            if starts && self.plan.arrivals == Arrivals::Closed && now_ns < end_ns {
                self.is_replacing = true;
                self.fill_loop(now_ns);
            }
            let stopped = stop.load(Ordering::Relaxed);
            if stage == Stage::Measuring {
                let passed = span.interval.map_or(0, |interval| {
                    let until_ns = now_ns.min(end_ns) - begin_ns;
                    (until_ns / nanoseconds(interval)) as usize
                });
                let is_over = now_ns >= end_ns || stopped;
                if passed > intervals || is_over {
                    if let Some(count) = self.recorder.take_count(now_ns.min(end_ns)) {
                        tell(Moment::Counted(if is_over { usize::MAX } else { passed - 1 }, Box::new(count)));
                    }
                    intervals = passed;
                }
            }
            if stage == Stage::Measuring && (now_ns >= end_ns || stopped) {
                stage = Stage::Over;
                self.is_replacing = false;
                self.recorder.end(self.mark());
                tell(Moment::Ends);
            }
            // What a thread without a processor finds due behind the end was never sent.
            if stopped || now_ns >= give_up_ns {
                break;
            }
            self.take_up_due(&mut arrivals, now_ns, span.start_ns, ARRIVALS);
            self.look_at_timers(now_ns);
            if stage == Stage::Over && self.open_requests == 0 && arrivals.peek().is_none() {
                break;
            }
            let boundary_ns = match stage {
                Stage::Before => span.start_ns,
                Stage::WarmingUp => begin_ns,
                Stage::Measuring => span
                    .interval
                    .map_or(end_ns, |interval| end_ns.min(begin_ns + (intervals as u64 + 1) * nanoseconds(interval))),
                Stage::Over => give_up_ns,
            };
            self.wait(&mut batch, arrivals.peek().map(|next| span.start_ns + next.at_ns), boundary_ns);
            for ready in batch.iter() {
                self.handle_ready(ready);
                // A long batch of replies must not hold arrivals up; a closed loop is spared the look at the clock.
                if arrivals.peek().is_some() {
                    self.take_up_due(&mut arrivals, monotonic_ns(), span.start_ns, ARRIVALS_BETWEEN);
                }
            }
            for _ in 0..self.again.len() {
                let index = self.again.pop_front().expect("it was counted");
                match self.connections[index].unread.take() {
                    Some(read_on) => self.receive(index, read_on),
                    None => self.pump(index, monotonic_ns()),
                }
            }
        }
        self.is_replacing = false;
        let was_stopped = stop.load(Ordering::Relaxed);
        self.abandon_unsent(arrivals, (span.start_ns, end_ns), was_stopped);
        self.look_once_more(&mut batch);
        self.abandon_unanswered(was_stopped);
    }

    /// The arrivals on connections of this share.
    fn arrivals(&self, span: &Span, length_ns: u64) -> Peekable<impl Iterator<Item = Arrival> + use<>> {
        let all = Schedule::new(self.plan.arrivals, self.plan.connections, length_ns, span.seed);
        let all = all.paced(self.plan.pace(span.warmup));
        let (share, shares) = (self.share, self.shares);
        all.filter(move |arrival| arrival.connection % shares == share).peekable()
    }

    /// Takes up what is due by now, and no more, nor too many: a generator that is behind must still read replies, and
    /// end in time.
    #[inline]
    fn take_up_due(
        &mut self,
        arrivals: &mut Peekable<impl Iterator<Item = Arrival>>,
        due_ns: u64,
        start_ns: u64,
        most: usize,
    ) {
        let mut now_ns = due_ns;
        for _ in 0..most {
            let Some(arrival) = arrivals.next_if(|arrival| start_ns + arrival.at_ns <= due_ns) else { return };
            let intended_ns = start_ns + arrival.at_ns;
            self.recorder.taken_up(intended_ns, now_ns);
            let index = arrival.connection / self.shares;
            self.ask(index, intended_ns);
            self.pump(index, now_ns);
            now_ns = monotonic_ns();
        }
    }

    /// One more request on a connection.
    #[inline]
    pub(super) fn ask(&mut self, index: usize, intended_ns: u64) {
        self.connections[index].flight.ask(intended_ns);
        self.recorder.intended(intended_ns);
        self.open_requests += 1;
    }

    /// A closed loop has its depth in flight on each connection from the beginning.
    fn fill_loop(&mut self, now_ns: u64) {
        for index in 0..self.connections.len() {
            let flight = &self.connections[index].flight;
            let missing = self.plan.depth.unwrap_or(1).saturating_sub(flight.waiting() + flight.in_flight());
            for _ in 0..missing {
                self.ask(index, now_ns);
            }
            self.pump(index, now_ns);
        }
    }

    #[inline]
    pub(super) fn handle_ready(&mut self, ready: Ready) {
        let index = ready.key as u32 as usize;
        let Some(connection) = self.connections.get_mut(index).filter(|found| found.is_current(ready.key)) else {
            return;
        };
        if let State::Connecting { since_ns } = connection.state {
            if !ready.writable && !ready.read_on {
                return;
            }
            let now_ns = monotonic_ns();
            match connection.established() {
                Ok(()) => self.recorder.connected(now_ns - since_ns),
                Err(_) => return self.fail(index, ErrorKind::Connect, now_ns),
            }
        }
        if ready.writable && connection.state == State::Blocked {
            connection.state = State::Open;
        }
        if ready.readable || ready.read_on {
            self.receive(index, ready.read_on);
        } else {
            self.pump(index, monotonic_ns());
        }
    }

    /// Reads what has come for a connection, and goes on with it. `read_on`: a short read does not mean that there is no
    /// more.
    #[inline]
    fn receive(&mut self, index: usize, read_on: bool) {
        let connection = &mut self.connections[index];
        if !connection.has_socket() {
            return;
        }
        let received = connection.receive(&mut self.wire, read_on);
        // What came before the end is worth as much as what came alone.
        let now_ns = self.settle(index).unwrap_or_else(monotonic_ns);
        if self.wire.refused > 0 {
            return self.refuse(index, now_ns);
        }
        match received {
            // With its last reply a server may end the connection as well as we.
            Err(ErrorKind::Closed) if self.connections[index].is_used_up(&self.wire) => self.pump(index, now_ns),
            Ok(Received::All) => self.pump(index, now_ns),
            Ok(Received::Part) => {
                // The clock and the others come first.
                self.connections[index].unread = Some(read_on);
                self.again.push_back(index);
            }
            Err(kind) => self.fail(index, kind, now_ns),
        }
    }

    /// Writes what the connection may write, opens it if it is closed, closes it if it is used up.
    #[inline]
    pub(super) fn pump(&mut self, index: usize, now_ns: u64) {
        let connection = &mut self.connections[index];
        if connection.state == State::Closed && connection.flight.waiting() > 0 {
            self.open(index, now_ns);
            return;
        }
        let before = connection.flight.next();
        if let Err(kind) = connection.flush(&mut self.wire, now_ns) {
            return self.fail(index, kind, now_ns);
        }
        if self.wire.refused > 0 {
            return self.refuse(index, now_ns);
        }
        if let Some(room) = &mut self.room {
            for number in before..connection.flight.next() {
                // Nobody is left to hear it.
                if !room.sent(index, number)
                    && let Found::Sent(sent) = self.connections[index].flight.complete(number)
                {
                    self.recorder.unanswered(sent);
                    self.open_requests -= 1;
                }
            }
        }
        if !self.wire.replies.is_empty() {
            self.settle(index);
        }
        let connection = &mut self.connections[index];
        if let Some(deadline) = self.deadline
            && !connection.has_deadline
            && let Some(oldest_ns) = connection.flight.oldest_sent_ns()
        {
            connection.has_deadline = true;
            self.timers.push(Reverse((oldest_ns + nanoseconds(deadline), index)));
        }
        if connection.is_used_up(&self.wire) && connection.state == State::Open {
            connection.close(State::Closed);
        }
        // What is left goes on after the others have had their turn.
        if connection.wants_to_write(&self.wire)
            || (connection.state == State::Closed && connection.flight.waiting() > 0)
        {
            self.again.push_back(index);
        }
    }

    /// Records what the connection has found, and replaces it in a closed loop. When the last of it came.
    #[inline]
    fn settle(&mut self, index: usize) -> Option<u64> {
        let mut replies = std::mem::take(&mut self.wire.replies);
        let mut last_ns = None;
        for reply in replies.drain(..) {
            last_ns = Some(reply.received_ns);
            match reply.detail {
                Detail::Delivery { sender } => self.deliver(index, sender as usize, &reply),
                _ => (reply.number..reply.number + reply.count).for_each(|number| self.complete(index, number, &reply)),
            }
        }
        self.wire.replies = replies;
        if let Some(errors) = self.wire.errors.take() {
            self.recorder.errors(&errors);
        }
        last_ns
    }

    #[inline]
    fn complete(&mut self, index: usize, number: u64, reply: &Reply) {
        let connection = &mut self.connections[index];
        let sent = match connection.flight.complete(number) {
            Found::Sent(sent) => sent,
            Found::Late => return,
            Found::Answered => return self.recorder.error(ErrorKind::Duplicate, 1),
            Found::Nothing => return self.recorder.error(ErrorKind::WrongBytes, 1),
        };
        connection.failures = 0;
        self.open_requests -= 1;
        match reply.detail {
            Detail::Shed => self.recorder.shed(sent),
            Detail::Stamps(stamps) => {
                self.recorder.answered(sent, reply.received_ns);
                self.recorder.staged(sent, stamps, reply.received_ns);
            }
            _ => self.recorder.answered(sent, reply.received_ns),
        }
        if self.is_replacing {
            self.ask(index, reply.received_ns);
        }
    }

    /// Chat: `receiver` got a message; its sender's request is answered when all have it.
    fn deliver(&mut self, receiver: usize, sender: usize, reply: &Reply) {
        let Some(room) = &mut self.room else { return };
        if reply.number >= PROBE {
            return;
        }
        self.recorder.delivered();
        let delivered = room.deliver(receiver, sender, reply.number);
        if let Delivered::Overtaken { .. } = delivered {
            self.recorder.error(ErrorKind::OutOfOrder, 1);
        }
        match delivered {
            Delivered::ToAll | Delivered::Overtaken { to_all: true } => {
                self.complete(sender, reply.number, reply);
                self.again.push_back(sender);
            }
            Delivered::Wrong(kind) => self.recorder.error(kind, 1),
            Delivered::Partly | Delivered::Late | Delivered::Overtaken { to_all: false } => {}
        }
    }

    pub(super) fn open(&mut self, index: usize, now_ns: u64) {
        match self.connections[index].open(&mut self.wire, index, now_ns) {
            Ok(()) if self.wire.datagrams => self.pump(index, now_ns),
            Ok(()) => self.timers.push(Reverse((now_ns + nanoseconds(CONNECT_TIMEOUT), index))),
            Err(_) => self.fail(index, ErrorKind::Connect, now_ns),
        }
    }

    /// Waits for events until the next arrival is due, a boundary is reached or a timer runs out.
    #[inline]
    fn wait(&mut self, batch: &mut Batch, arrival_ns: Option<u64>, boundary_ns: u64) {
        let timer_ns = self.timers.peek().map_or(boundary_ns, |Reverse((due_ns, _))| boundary_ns.min(*due_ns));
        if !self.again.is_empty() {
            return wait(&self.wire.poller, batch, Duration::ZERO);
        }
        let Some(due_ns) = arrival_ns else {
            self.set_alarm(timer_ns);
            return self.wire.poller.wait(batch, None).expect("a poller can be waited on");
        };
        let now_ns = monotonic_ns();
        let other_ns = timer_ns.saturating_sub(now_ns);
        let sleep_ns = self.alertness.sleep_ns(due_ns, now_ns);
        wait(&self.wire.poller, batch, Duration::from_nanos(sleep_ns.min(other_ns)).min(ATTENTION));
        let found_something = batch.iter().next().is_some();
        if sleep_ns > 0 {
            self.alertness.woke(monotonic_ns(), found_something);
        }
    }

    /// Has the next wait end by `until_ns`, and soon in any case, to look whether it is to stop. A timeout would have the
    /// kernel set and clear a timer at every wait, for boundaries that are a thousand waits away.
    #[inline]
    fn set_alarm(&mut self, until_ns: u64) {
        let now_ns = self.seen_ns;
        if now_ns >= self.alarm_ns || until_ns < self.alarm_ns {
            self.alarm_ns = until_ns.min(now_ns + nanoseconds(ATTENTION));
            self.alarm.set(Duration::from_nanos(self.alarm_ns.saturating_sub(monotonic_ns())));
        }
    }

    fn mark(&self) -> Mark {
        let (cpu_ns, run_delay_ns) = process::own_thread_use();
        Mark {
            at_ns: monotonic_ns(),
            sent_bytes: self.wire.sent_bytes,
            received_bytes: self.wire.received_bytes,
            used: ThreadUse { cpu_ns, run_delay_ns },
        }
    }

    /// Opens what a run before has left closed.
    fn reopen(&mut self) {
        for index in 0..self.connections.len() {
            if self.connections[index].state == State::Closed && self.room.is_none() {
                self.open(index, monotonic_ns());
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Before,
    WarmingUp,
    Measuring,
    Over,
}

pub(super) fn wait(poller: &Poller, batch: &mut Batch, timeout: Duration) {
    poller.wait(batch, Some(timeout)).expect("a poller can be waited on");
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
