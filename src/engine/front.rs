//! [`Front`]: the part of an engine that meets whoever comes: it accepts within the limits, does its part of what the
//! engine is told, keeps the time, and drains. What becomes of a connection that was let in is for its [`Floor`]: a table of
//! sessions under a poller (`reactor.rs`), a thread or a process for each. So it is with the turns of endpoints.
//!
//! A front waits in its desk's poller, together with all that its floor watches there: one thread at a time.
//!
//! Drain, in this order: accept what still waits, close the listeners, tell the floor; when the drain timeout passes,
//! tell the floor to end what lingers; the front is done when no connection is open.
//!
//! Read next: `accept.rs`, how one listener rests when descriptors run out; then `reactor.rs`.

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use log::info;

use super::accept::{Acceptor, Admission, Doorbell};
use super::common::{Common, Desk, Errand, Resize, Stage};
use super::{Change, Command, Served};
use crate::config::Limits;
use crate::error::Error;
use crate::metrics::counters::size_class;
use crate::net::alarm::Alarm;
use crate::net::listener::BACKLOG;
use crate::net::poller::{Batch, Ready, WAKE_KEY};
use crate::net::socket::Socket;
use crate::session::Session;
use crate::session::handler::{Closed, Service};
use crate::session::mailbox::{Mailbox, Rouse};
use crate::session::state::{Reasons, Scheduled};

/// Connections taken from one listener before sessions have their turn again.
const ACCEPT_BURST: usize = 64;

/// Keys from here on are of endpoints; below are listeners.
const FIRST_ENDPOINT_KEY: u64 = 1 << 31;

/// Keys from here on are the floor's own: those of sessions, or of whatever else it watches.
pub(super) const FIRST_FLOOR_KEY: u64 = 1 << 32;

const ALARM_KEY: u64 = WAKE_KEY - 1;

/// A connection that was let in, and what is to serve it.
pub(super) struct Arrival {
    pub(super) socket: Socket,
    pub(super) service: Arc<dyn Service>,
    /// Whether the idle timeout spares it.
    pub(super) idle_exempt: bool,
}

/// Why a connection that was let in is closed at once, for the counters and for people.
pub(super) type Refusal = (Closed, String);

impl Arrival {
    /// The service's session for it, of which others tell `rouse` with this key; a panic of the service is the end of this
    /// connection alone.
    pub(super) fn open(&self, key: u64, rouse: Arc<dyn Rouse>) -> Result<Session, Refusal> {
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let mail = self.service.mailbox().map(|mailing| (Mailbox::new(mailing.limits, rouse, key), mailing));
            let handler = self.service.open(mail.as_ref().map(|(address, _)| address));
            Session::new(handler, mail)
        }));
        opened.map_err(|_| (Closed::Panicked, format!("its service {} panicked", self.service.name())))
    }
}

/// By what key the poller reports the endpoint of this number.
pub(super) fn endpoint_key(number: usize) -> u64 {
    FIRST_ENDPOINT_KEY + number as u64
}

/// Where connections go that were let in.
pub(super) trait Floor {
    /// Whether endpoints are watched by the front, which leaves their turns to the floor.
    const HAS_ENDPOINTS: bool = false;

    /// Begins a session, and says by when it wants to be called for it. Whoever ends the session calls
    /// [`Common::leave`]; for one that is refused the front does.
    fn admit(&mut self, arrival: Arrival, now_ns: u64) -> Result<Option<u64>, Refusal>;

    /// Whether other threads have left something with it since the last [`handle_wait`](Floor::handle_wait).
    fn has_mail(&self) -> bool {
        false
    }

    /// By what it hears of arrivals.
    fn bell<'a>(&'a mut self, desk: &'a Desk) -> impl Doorbell + 'a {
        &desk.poller
    }

    /// Connections that the kernel has accepted by itself at this listener, which is about to be closed; after this there are
    /// no more.
    fn last_arrivals(&mut self, _listener: usize) -> Vec<Socket> {
        Vec::new()
    }

    /// A wait has ended; before anything else is told of it.
    fn handle_wait(&mut self, _now_ns: u64) {}

    /// Something that the floor watches is ready: its key is at least [`FIRST_FLOOR_KEY`].
    fn handle_event(&mut self, ready: Ready, now_ns: u64);

    /// The endpoint of this number is queued: it is to have a turn, and nobody else will see to that.
    fn handle_endpoint(&mut self, _number: usize, _now_ns: u64) {
        unreachable!("its endpoints are not watched");
    }

    /// The engine has gone on to this stage: every session is to know.
    fn handle_stage(&mut self, stage: Stage, now_ns: u64);

    /// The number of fronts changes that are given new sessions; for a floor that has other fronts beside its own.
    fn handle_resize(&mut self, _resize: Resize) {
        unreachable!("it is alone");
    }

    /// The timeouts have changed.
    fn handle_timeouts(&mut self, _now_ns: u64) {}

    /// When it wants to be called again by itself.
    fn next_due_ns(&self, _now_ns: u64) -> Option<u64> {
        None
    }

    /// Does what is due by `now_ns`.
    fn handle_due(&mut self, _now_ns: u64) {}
}

/// Accepts, tells and drains on behalf of one floor.
pub(super) struct Front<F> {
    common: Arc<Common>,
    /// Which desk is this front's.
    number: usize,
    pub(super) floor: F,
    /// By their keys; None where a listener has been closed.
    acceptors: Vec<Option<Acceptor>>,
    limits: Limits,
    alarm: Alarm,
    /// For when the alarm is set; `u64::MAX` for not at all.
    alarm_ns: u64,
    /// When the floor is to be told that the drain is over.
    drain_over_ns: Option<u64>,
    is_draining: bool,
    /// Fronts that have still to leave their listeners here, and what to do with all listeners when they have.
    awaited: usize,
    deferred: Vec<Change>,
    now_ns: u64,
}

impl<F: Floor> Front<F> {
    /// The front at desk `number`, with these listeners. Made before its thread, so that the daemon can say why it
    /// cannot start.
    pub(super) fn new(
        common: Arc<Common>,
        number: usize,
        served: Vec<Served>,
        mut floor: F,
    ) -> Result<Front<F>, Error> {
        let watch = |reason| Error::resource("watch the listeners", reason);
        let desk = &common.desks[number];
        let acceptors = served.into_iter().enumerate();
        let acceptors = acceptors.map(|(key, served)| Acceptor::watch(served, key as u64, floor.bell(desk)).map(Some));
        let acceptors = acceptors.collect::<io::Result<_>>().map_err(watch)?;
        if F::HAS_ENDPOINTS {
            for (number, endpoint) in desk.endpoints.iter().enumerate() {
                endpoint.watch(&desk.poller, endpoint_key(number)).map_err(watch)?;
            }
        }
        let alarm = Alarm::new().map_err(watch)?;
        desk.poller.watch_level(alarm.as_fd(), ALARM_KEY).map_err(watch)?;
        Ok(Front {
            number,
            floor,
            acceptors,
            limits: common.settings.limits.clone(),
            alarm,
            alarm_ns: u64::MAX,
            drain_over_ns: None,
            is_draining: false,
            awaited: 0,
            deferred: Vec::new(),
            now_ns: common.clock.now_ns(),
            common,
        })
    }

    fn desk(&self) -> &Desk {
        &self.common.desks[self.number]
    }

    /// For when the alarm is set.
    pub(super) fn alarm_ns(&self) -> u64 {
        self.alarm_ns
    }

    /// Sets the alarm for what the floor is due for; the first time for a floor that is to act before anybody comes.
    pub(super) fn call_soon(&mut self) {
        self.set_alarm();
    }

    /// Whether nobody is here and nobody can come.
    pub(super) fn is_drained(&self) -> bool {
        // Another front may have left its listeners here before it closed.
        self.common.is_over() && !self.desk().has_errands()
    }

    /// Waits until something is to be done, at most for `timeout`, and does it, with the memory of `batch` for what is
    /// ready; what the floor watches goes to [`Floor::handle_event`].
    pub(super) fn wait(&mut self, batch: &mut Batch, timeout: Option<Duration>) {
        let events = self.wait_uncounted(batch, timeout);
        self.count_wait(events);
    }

    /// The same for an engine that waits elsewhere and only looks in here; how many events there were for the floor.
    pub(super) fn wait_uncounted(&mut self, batch: &mut Batch, timeout: Option<Duration>) -> u64 {
        let timeout = self.lie_down(timeout);
        self.desk().poller.wait(batch, timeout).expect("waiting on our own poller cannot fail");
        self.get_up();
        self.now_ns = self.common.clock.now_ns();
        self.floor.handle_wait(self.now_ns);
        let mut events = 0;
        for ready in batch.iter() {
            match ready.key {
                FIRST_FLOOR_KEY.. => {
                    events += 1;
                    self.floor.handle_event(ready, self.now_ns);
                }
                WAKE_KEY => self.handle_errands(),
                ALARM_KEY => self.handle_alarm(),
                FIRST_ENDPOINT_KEY.. => {
                    self.schedule_endpoint((ready.key - FIRST_ENDPOINT_KEY) as usize, Reasons::READABLE);
                }
                listener => self.handle_arrivals(listener as usize),
            }
        }
        events
    }

    /// Says that whoever leaves something with the floor must end the wait that follows; for how long to wait then.
    pub(super) fn lie_down(&self, timeout: Option<Duration>) -> Option<Duration> {
        if timeout == Some(Duration::ZERO) || !self.common.needs.mail() {
            return timeout;
        }
        self.desk().doze.lie_down();
        if self.floor.has_mail() { Some(Duration::ZERO) } else { timeout }
    }

    /// Takes that back.
    pub(super) fn get_up(&self) {
        if self.common.needs.mail() {
            self.desk().doze.get_up();
        }
    }

    /// Counts a wait that has brought so many events of sessions.
    pub(super) fn count_wait(&self, events: u64) {
        let counters = &self.desk().counters;
        counters.polls.add(1);
        counters.events.add(events);
        counters.events_max.raise(events);
        counters.batch_sizes[size_class(events)].add(1);
    }

    fn schedule_endpoint(&mut self, number: usize, reasons: Reasons) {
        if self.desk().endpoints[number].schedule(reasons) == Scheduled::Enqueue {
            self.floor.handle_endpoint(number, self.now_ns);
        }
    }

    /// For a front that comes while the engine serves: does what it would have been told before.
    pub(super) fn catch_up(&mut self) {
        if self.common.orders().stage(self.now_ns) > Stage::Open {
            self.drain();
        }
    }

    /// Has everybody know that the engine has gone on to this stage.
    fn handle_stage(&mut self, stage: Stage) {
        self.floor.handle_stage(stage, self.now_ns);
        if F::HAS_ENDPOINTS {
            (0..self.desk().endpoints.len()).for_each(|number| self.schedule_endpoint(number, stage.reasons()));
        }
    }

    fn handle_arrivals(&mut self, listener: usize) {
        let mut left = ACCEPT_BURST;
        while left > 0 && self.accept_one(listener) && !self.desk().has_errands() {
            left -= 1;
        }
    }

    /// True if somebody was there.
    fn accept_one(&mut self, listener: usize) -> bool {
        let desk = &self.common.desks[self.number];
        // What the same batch of events brought has closed the listener.
        let Some(Some(acceptor)) = self.acceptors.get_mut(listener) else { return false };
        desk.counters.accept_calls.add(1);
        let admission = acceptor.accept(&mut self.floor.bell(desk), self.now_ns);
        match admission {
            Admission::Connection(socket) => {
                self.handle_connection(listener, socket);
                true
            }
            Admission::Nobody => false,
            Admission::Paused { turned_away } => {
                desk.counters.accept_pauses.add(1);
                if turned_away {
                    desk.counters.accepted.add(1);
                    desk.counters.turned_away.add(1);
                }
                self.set_alarm();
                false
            }
        }
    }

    /// Somebody has come to a listener.
    fn handle_connection(&mut self, listener: usize, socket: Socket) {
        self.desk().counters.accepted.add(1);
        let served = self.acceptor(listener).served();
        let (service, idle_exempt) = (Arc::clone(&served.service), served.idle_exempt);
        if let Err(reason) = self.admit(Arrival { socket, service, idle_exempt }) {
            let now_ns = self.now_ns;
            self.acceptor(listener).warn_turned_away(now_ns, &reason);
        }
    }

    fn acceptor(&mut self, listener: usize) -> &mut Acceptor {
        self.acceptors[listener].as_mut().expect("it has just accepted")
    }

    /// The kernel has accepted somebody by itself, or has ceased to.
    pub(super) fn handle_accepted(&mut self, listener: usize, socket: io::Result<Socket>, goes_on: bool, now_ns: u64) {
        self.now_ns = now_ns;
        if let Ok(socket) = socket {
            self.handle_connection(listener, socket);
        }
        if !goes_on && !self.is_draining {
            // Why it has, the next call says as well, and what to do about it is known there.
            self.handle_arrivals(listener);
            if let Some(acceptor) = &mut self.acceptors[listener] {
                acceptor.watch_again(self.floor.bell(&self.common.desks[self.number]));
            }
        }
    }

    /// Lets a connection in, or says why it was closed.
    fn admit(&mut self, arrival: Arrival) -> Result<(), String> {
        let most = self.limits.max_connections;
        if !self.common.enter(most) {
            self.desk().counters.turned_away.add(1);
            return Err(format!("max_connections = {most} are open"));
        }
        self.seat(arrival)
    }

    /// Gives a connection that was counted in to the floor, or says why it was closed.
    fn seat(&mut self, arrival: Arrival) -> Result<(), String> {
        match self.floor.admit(arrival, self.now_ns) {
            Ok(due_ns) => {
                if due_ns.is_some_and(|due_ns| due_ns < self.alarm_ns) {
                    self.set_alarm();
                }
                Ok(())
            }
            Err((closed, reason)) => {
                let counters = &self.desk().counters;
                match closed {
                    Closed::OverLimit => counters.turned_away.add(1),
                    _ => counters.broken_opens.add(1),
                }
                self.common.leave();
                Err(reason)
            }
        }
    }

    fn handle_alarm(&mut self) {
        let due = |ns: Option<u64>, now_ns: u64| ns.is_some_and(|ns| ns <= now_ns);
        for listener in 0..self.acceptors.len() {
            let resume_ns = self.acceptors[listener].as_ref().and_then(Acceptor::resume_ns);
            if due(resume_ns, self.now_ns) {
                self.handle_arrivals(listener);
            }
        }
        self.floor.handle_due(self.now_ns);
        if due(self.drain_over_ns, self.now_ns) {
            info!("the drain timeout has passed with {} sessions open; they are closed", self.common.live());
            self.drain_over_ns = None;
            self.common.orders().go_on_to(Stage::Over);
            self.handle_stage(Stage::Over);
        }
        self.alarm_ns = u64::MAX;
        self.set_alarm();
    }

    fn set_alarm(&mut self) {
        let resume_ns = self.acceptors.iter().flatten().filter_map(Acceptor::resume_ns).min();
        let floor_ns = self.floor.next_due_ns(self.now_ns);
        let next_ns = [floor_ns, resume_ns, self.drain_over_ns].into_iter().flatten().min().unwrap_or(u64::MAX);
        if next_ns == u64::MAX {
            self.alarm.clear();
        } else {
            self.alarm.set(Duration::from_nanos(next_ns.saturating_sub(self.now_ns)));
        }
        self.alarm_ns = next_ns;
    }

    fn handle_errands(&mut self) {
        for errand in self.desk().take_errands() {
            match errand {
                Errand::Tell(Command::Drain) => self.drain(),
                Errand::Tell(Command::Stop) => {
                    self.drain();
                    self.handle_stage(Stage::Killed);
                    // The drain before may have set it for much later than the floor wants to be called now.
                    self.set_alarm();
                }
                Errand::Tell(Command::Limit(limits)) => {
                    self.limits = limits;
                    self.floor.handle_timeouts(self.now_ns);
                    self.set_alarm();
                }
                // It was in the orders; whoever waits has been woken, and finds it there.
                Errand::Tell(Command::Tune(_)) => {}
                Errand::Listen(changes) => {
                    self.deferred.extend(changes);
                    self.change_listeners();
                }
                Errand::Resize(resize) => {
                    if self.number == 0 {
                        self.awaited += resize.hand_over.saturating_sub(1);
                    } else if self.number < resize.hand_over {
                        self.leave_listeners();
                    }
                    self.floor.handle_resize(resize);
                }
                Errand::Take(listeners) => {
                    self.awaited -= 1;
                    listeners.into_iter().for_each(|served| self.open(served));
                    self.change_listeners();
                }
                Errand::Adopt(arrival) => {
                    if let Err(reason) = self.seat(arrival) {
                        log::warn!("a connection was closed at once: {reason}");
                    }
                }
            }
        }
    }

    /// Leaves all listeners with the first front. None is closed, so that nobody in a backlog is lost.
    fn leave_listeners(&mut self) {
        let desk = &self.common.desks[self.number];
        let mut left = Vec::new();
        for mut acceptor in self.acceptors.drain(..).flatten() {
            acceptor.forget(self.floor.bell(desk));
            left.push(acceptor.into_served());
        }
        self.common.desks[0].leave(Errand::Take(left));
    }

    /// Changes the listeners as it was told, once all of them are here.
    fn change_listeners(&mut self) {
        if self.awaited == 0 {
            std::mem::take(&mut self.deferred).into_iter().for_each(|change| self.change_listener(change));
        }
        self.set_alarm();
    }

    fn change_listener(&mut self, change: Change) {
        match change {
            Change::Open(served) => self.open(served),
            Change::Offer { address, service, idle_exempt } => {
                for acceptor in self.acceptors.iter_mut().flatten().filter(|acceptor| acceptor.is_at(address)) {
                    acceptor.offer(Arc::clone(&service), idle_exempt);
                }
            }
            Change::Close(address) => {
                let is_there = |acceptor: &Option<Acceptor>| acceptor.as_ref().is_some_and(|one| one.is_at(address));
                let there: Vec<usize> =
                    (0..self.acceptors.len()).filter(|listener| is_there(&self.acceptors[*listener])).collect();
                there.into_iter().for_each(|listener| self.close(listener));
            }
        }
    }

    /// Takes one more listener.
    fn open(&mut self, served: Served) {
        let key = self.acceptors.iter().position(Option::is_none).unwrap_or(self.acceptors.len());
        let bell = self.floor.bell(&self.common.desks[self.number]);
        let acceptor = Some(Acceptor::watch_or_rest(served, key as u64, bell, self.now_ns));
        match self.acceptors.get_mut(key) {
            Some(place) => *place = acceptor,
            None => self.acceptors.push(acceptor),
        }
        if self.is_draining {
            self.close(key);
        }
    }

    /// Closes a listener. What the kernel has accepted there on our behalf is served like the rest.
    fn close(&mut self, listener: usize) {
        let Some(acceptor) = &mut self.acceptors[listener] else { return };
        acceptor.forget(self.floor.bell(&self.common.desks[self.number]));
        for socket in self.floor.last_arrivals(listener) {
            self.handle_connection(listener, socket);
        }
        // As many as a backlog holds: those who come later meet a closed door, or this would never end.
        let _ = (0..=BACKLOG).all(|_| self.accept_one(listener));
        self.acceptors[listener] = None;
    }

    fn drain(&mut self) {
        if std::mem::replace(&mut self.is_draining, true) {
            return;
        }
        (0..self.acceptors.len()).for_each(|listener| self.close(listener));
        self.drain_over_ns = self.common.orders().over_ns();
        self.handle_stage(Stage::Draining);
        self.set_alarm();
        self.common.close_one();
    }
}
