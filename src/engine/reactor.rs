//! [`Reactor`]: sessions in a table, shared by all engines in which one wait is for many of them. What an engine adds is
//! which threads run the turns, and when; and how its sessions are connected with the kernel ([`Wiring`]): by readiness,
//! as most are, or by completion (`proactor.rs`).
//!
//! ```text
//!   front ──▶ floor: event ─▶ schedule ─▶ ready (keys that are queued now) ──▶ the engine
//!                                                                              │
//!   table ◀── release, requeue, close ◀── turn ◀── claim ◀── Reactor::run ◀────┘
//! ```
//!
//! Two halves: [`Reactor`] is shared by all threads; [`Sessions`] is the [`Floor`] of its front, used by one thread at a
//! time: it turns events into requests and keeps the timeouts.
//!
//! Invariant *last-act*: the last thing that a turn does with a session is to release, requeue or close it; after that
//! only its key is touched. The whole argument is in `pool/README.md`. Read next: `event_loop.rs`, the smallest engine on
//! top of it; `turns.rs` for what happens within a turn; `reactor/listing.rs`, who is here.

pub(super) mod listing;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::warn;

use super::attendance::{Attendance, Who};
use super::common::{Common, Desk, Stage};
use super::connection::{Calls, Connection, Ends, Wire};
use super::front::{Arrival, Floor, Refusal, endpoint_key};
use super::timeouts::Wheel;
use super::turns::{Placed, Turns};
use crate::clock::{Clock, TICK, ticks_since};
use crate::config::Rearm;
use crate::net::poller::Ready;
use crate::net::socket::Socket;
use crate::session::TurnEnd;
use crate::session::buffer::Budget;
use crate::session::handler::{Closed, Pace};
use crate::session::mailbox::Rouse;
use crate::session::state::{Reasons, Released, Scheduled};
use crate::session::table::{Claim, Key, Slot, Table};

// What `--max-connections` costs each: one slot, two lines that no other slot shares. Loom's atomics are larger.
const _: () = assert!(cfg!(loom) || size_of::<Slot<Connection>>() == 128);

/// The longest that a session goes unvisited, whatever the timeouts: about an hour.
const LONGEST_VISIT: u32 = 1 << 19;

/// A service request: something that whoever serves is to do.
pub(super) struct Request {
    pub(super) work: Work,
    /// When it was seen; 0 when nobody wants to know.
    pub(super) ready_ns: u64,
}

/// What there is to do.
pub(super) enum Work {
    /// The session of this key, which is in the state *queued*, is to have a turn.
    Turn(Key),
    /// A call of a session is to be run.
    Call(Box<Placed>),
    /// The endpoint of this number at the reactor's desk, which is in the state *queued*, is to have a turn.
    Datagrams(usize),
}

impl Request {
    pub(super) fn turn(key: Key, ready_ns: u64) -> Request {
        Request { work: Work::Turn(key), ready_ns }
    }

    /// When it was seen, where that is known.
    fn seen_ns(&self) -> Option<u64> {
        Some(self.ready_ns).filter(|ready_ns| *ready_ns > 0)
    }
}

/// How sessions are connected with the kernel.
pub(super) trait Wiring {
    /// By what the session of this key reads and writes in its turn.
    fn wire(&mut self, key: Key) -> impl Wire;

    /// The session's turn has ended and it waits: sees to it that what it waits for will schedule it.
    fn watch_on(&mut self, claim: &mut Claim<'_, Connection>);

    /// The session of this key, which is stale by now, is over.
    fn end(&mut self, turns: &mut Turns<'_>, key: Key, connection: Connection, closed: Closed);
}

/// By readiness: the poller says when a system call is worth it.
struct Readiness<'a>(&'a Reactor);

impl Wiring for Readiness<'_> {
    fn wire(&mut self, _key: Key) -> impl Wire {
        Calls
    }

    /// Asks the poller for what the session waits for, as far as it is not watched for ever.
    fn watch_on(&mut self, claim: &mut Claim<'_, Connection>) {
        let Readiness(reactor) = self;
        let poller = &reactor.desk().poller;
        let key = claim.key().to_u64();
        let blocked = claim.session.is_write_blocked();
        let asked = match reactor.common.settings.rearm {
            Rearm::Edge if blocked && !claim.watches_output => {
                claim.watches_output = true;
                poller.watch_edge_output(claim.socket.as_fd(), key)
            }
            Rearm::Edge => Ok(()),
            // Who waits for neither waits for calls: a connection that breaks meanwhile would be told again and again.
            Rearm::Oneshot if !blocked && !claim.session.wants_input() => Ok(()),
            Rearm::Oneshot => poller.rearm(claim.socket.as_fd(), key, claim.session.wants_input(), blocked),
        };
        asked.expect("a session's socket is watched from its first turn to its last");
    }

    fn end(&mut self, turns: &mut Turns<'_>, _key: Key, connection: Connection, closed: Closed) {
        turns.end(connection, closed);
    }
}

/// What the threads share that serve the sessions of one poller.
pub(super) struct Reactor {
    pub(super) common: Arc<Common>,
    /// Which desk of `common` is this one's, with the poller and its counters.
    number: usize,
    /// The memory of the sessions' rings.
    pub(super) budget: Arc<Budget>,
    /// Filled by the front's thread; a slot's content belongs to its claim.
    pub(super) table: Table<Connection>,
    /// What others may know of its sessions, if somebody may ask. A record is written by the front's thread, before it fills
    /// the slot of that index, and then by claims.
    attendance: Option<Attendance>,
    /// Sessions in the state *queued* that wait for memory instead of for a thread. `budget.awaited` says that there
    /// are some; written under this lock.
    starving: Mutex<VecDeque<Request>>,
    /// What others have left for whoever serves, oldest first: sessions that have mail, calls that anybody may run. Taken by
    /// the front when it has waited.
    left: Mutex<Vec<Request>>,
    /// Whether there is some. Written under the lock of `left`.
    has_left: AtomicBool,
    /// When the log last said that memory has run out; 0 before the first time. Written under the lock of `starving`.
    warned_tick: AtomicU32,
    now: Now,
}

/// The present tick, written at every wait by the front's thread, read by turns whose peer blocks or whose timer rang: on
/// a line of its own, since the fields around it are read by every turn.
#[repr(align(128))]
struct Now(AtomicU32);

impl Reactor {
    /// A reactor for at most `most_sessions`, with so much memory for rings, at the desk of this number.
    pub(super) fn new(common: &Arc<Common>, number: usize, most_sessions: usize, buffer_bytes: usize) -> Arc<Reactor> {
        let tick = Clock::tick_of(common.clock.now_ns());
        Arc::new(Reactor {
            common: Arc::clone(common),
            number,
            budget: Budget::new(buffer_bytes),
            table: Table::new(most_sessions),
            attendance: common.is_attended().then(|| Attendance::new(most_sessions)),
            starving: Mutex::new(VecDeque::new()),
            left: Mutex::new(Vec::new()),
            has_left: AtomicBool::new(false),
            warned_tick: AtomicU32::new(0),
            now: Now(AtomicU32::new(tick)),
        })
    }

    pub(super) fn desk(&self) -> &Desk {
        &self.common.desks[self.number]
    }

    /// Serves a request, and gives to `put` what is to be served next: the session again, if it wants another turn; one that
    /// waited for memory, if there is some; calls. The first call of a turn is run here, once all that is out of hand, and
    /// its reply sent, if nobody else has the session by then: so a request that is alone waits in no queue twice.
    pub(super) fn run(&self, turns: &mut Turns<'_>, request: Request, put: &mut dyn FnMut(Request)) {
        self.run_wired(&mut Readiness(self), turns, request, put);
    }

    /// The same for a thread that is to run nothing but turns.
    pub(super) fn run_turn(&self, turns: &mut Turns<'_>, request: Request, put: &mut dyn FnMut(Request)) {
        match request.work {
            Work::Turn(key) => {
                self.turn(&mut Readiness(self), turns, key, request.seen_ns(), put);
                self.put_calls(turns, put);
            }
            // What is no call over a stream takes as long within the turn of an endpoint.
            Work::Datagrams(number) if self.desk().endpoints[number].service().pace() == Pace::Brief => {
                self.answer(turns, number, request.seen_ns(), put);
            }
            Work::Datagrams(_) | Work::Call(_) => put(request),
        }
    }

    /// The same as [`run`](Self::run) for sessions that are not wired as usual.
    pub(super) fn run_wired(
        &self,
        wiring: &mut impl Wiring,
        turns: &mut Turns<'_>,
        request: Request,
        put: &mut dyn FnMut(Request),
    ) {
        let seen_ns = request.seen_ns();
        let call = match request.work {
            Work::Turn(key) => {
                self.turn(wiring, turns, key, seen_ns, put);
                let first = turns.placed.pop_front();
                self.put_calls(turns, put);
                first
            }
            Work::Call(call) => Some(*call),
            Work::Datagrams(number) => {
                self.answer(turns, number, seen_ns, put);
                None
            }
        };
        let Some(call) = call else { return };
        if let Some(key) = turns.call(call, seen_ns)
            && let Some(key) = Key::from_u64(key)
            && self.table.schedule(key, Reasons::POSTED) == Scheduled::Enqueue
        {
            // What waited for the call to come back may be let in by this turn: it is seen now.
            let seen_ns = Request::turn(key, self.common.stage_ns()).seen_ns();
            self.turn(wiring, turns, key, seen_ns, put);
            self.put_calls(turns, put);
        }
    }

    /// Calls that a turn has made are requests of their own; they were seen when it read them.
    fn put_calls(&self, turns: &mut Turns<'_>, put: &mut dyn FnMut(Request)) {
        if turns.placed.is_empty() {
            return;
        }
        let ready_ns = self.common.stage_ns();
        for call in turns.placed.drain(..) {
            put(Request { work: Work::Call(Box::new(call)), ready_ns });
        }
    }

    /// Gives the endpoint its turn.
    fn answer(&self, turns: &mut Turns<'_>, number: usize, seen_ns: Option<u64>, put: &mut dyn FnMut(Request)) {
        let Desk { endpoints, poller, .. } = self.desk();
        if turns.answer(&endpoints[number], poller, endpoint_key(number), seen_ns) {
            put(Request { work: Work::Datagrams(number), ready_ns: self.common.stage_ns() });
        }
    }

    /// Gives the session its turn.
    fn turn(
        &self,
        wiring: &mut impl Wiring,
        turns: &mut Turns<'_>,
        key: Key,
        seen_ns: Option<u64>,
        put: &mut dyn FnMut(Request),
    ) {
        if self.turn_once(wiring, turns, key, seen_ns) {
            put(Request::turn(key, self.common.stage_ns()));
        }
        if self.budget.awaited.load(Ordering::SeqCst)
            && let Some(fed) = self.poll_starving()
        {
            put(fed);
        }
    }

    /// True if the session is queued again.
    fn turn_once(&self, wiring: &mut impl Wiring, turns: &mut Turns<'_>, key: Key, seen_ns: Option<u64>) -> bool {
        let mut claim = self.table.claim(key);
        let (ticks, reasons) = (&claim.slot().ticks, claim.reasons());
        let mut wire = wiring.wire(key);
        let end = turns.run(&mut claim, &mut wire, ticks, reasons, &self.now.0, seen_ns);
        drop(wire);
        if let Some(attendance) = &self.attendance {
            attendance.record(key.index()).add(turns.moved);
        }
        match end {
            TurnEnd::Closed(closed) => {
                wiring.end(turns, key, claim.close(), closed);
                false
            }
            TurnEnd::Again => {
                claim.requeue(Reasons::RESUME);
                true
            }
            TurnEnd::Starved => {
                self.starve(claim);
                false
            }
            TurnEnd::Idle => {
                if let Ends::Two(paired) = &mut claim.session
                    && let Err(reason) = paired.watch(&self.desk().poller, key, self.common.settings.rearm)
                {
                    warn!("a session ends: its second socket cannot be watched: {reason}");
                    wiring.end(turns, key, claim.close(), Closed::OverLimit);
                    return false;
                }
                wiring.watch_on(&mut claim);
                let again = claim.release() == Released::Again;
                if again {
                    turns.counters().again.add(1);
                }
                again
            }
        }
    }

    /// Leaves a request for whoever serves; any thread.
    pub(super) fn leave(&self, request: Request) {
        let mut left = self.left.lock().expect("no thread panics while it holds this lock");
        left.push(request);
        self.has_left.store(true, Ordering::SeqCst);
        drop(left);
        let desk = self.desk();
        // Where nobody has mail the front does not say that it dozes.
        if self.common.needs.mail() { desk.rouse() } else { desk.poller.wake() }
    }

    /// Puts the session aside until there is memory for its ring.
    fn starve(&self, claim: Claim<'_, Connection>) {
        let key = claim.key();
        // Requeued under the lock: the front, when it schedules all sessions to end, finds each either running or here.
        let mut starving = self.starving.lock().expect("no thread panics while it holds this lock");
        claim.requeue(Reasons::RESUME);
        if starving.is_empty() {
            self.warn_starving();
        }
        starving.push_back(Request::turn(key, self.common.stage_ns()));
        self.budget.awaited.store(true, Ordering::SeqCst);
    }

    /// Moves one waiting session back to those that are served if there is memory for its ring; None if there is none to
    /// move.
    fn poll_starving(&self) -> Option<Request> {
        let budget = &self.budget;
        let mut starving = self.starving.lock().expect("no thread panics while it holds this lock");
        if !budget.has_room(self.common.settings.ring_bytes) {
            return None;
        }
        let request = starving.pop_front();
        budget.awaited.store(!starving.is_empty(), Ordering::SeqCst);
        request
    }

    /// Says in the log that memory has run out, at most once a second.
    fn warn_starving(&self) {
        let tick = self.now.0.load(Ordering::Acquire);
        let before = self.warned_tick.load(Ordering::Relaxed);
        if before == 0 || ticks_since(tick, before) >= Clock::ticks(Duration::from_secs(1)) {
            self.warned_tick.store(tick, Ordering::Relaxed);
            warn!(
                "max_buffers = {} bytes of rings are in use: sessions wait until some are given back",
                self.common.settings.limits.max_buffer_bytes
            );
        }
    }
}

/// Whoever has mail for a session leaves its turn with the front.
impl Rouse for Reactor {
    fn rouse(&self, key: u64) {
        let Some(key) = Key::from_u64(key) else { return };
        if self.table.schedule(key, Reasons::POSTED) == Scheduled::Enqueue {
            self.leave(Request::turn(key, self.common.stage_ns()));
        }
    }
}

/// The floor of a reactor's front.
pub(super) struct Sessions {
    reactor: Arc<Reactor>,
    wheel: Wheel,
    /// What this thread has to hand on or to serve, in the order in which it came.
    pub(super) ready: VecDeque<Request>,
}

impl Sessions {
    pub(super) fn new(reactor: &Arc<Reactor>) -> Sessions {
        let tick = Clock::tick_of(reactor.common.clock.now_ns());
        let ready = VecDeque::with_capacity(reactor.common.settings.batch);
        Sessions { reactor: Arc::clone(reactor), wheel: Wheel::new(tick), ready }
    }

    /// Adds reasons for a turn, and notes the session as ready if that is now this thread's duty.
    fn schedule(&mut self, key: Key, reasons: Reasons, now_ns: u64) -> Scheduled {
        let scheduled = self.reactor.table.schedule(key, reasons);
        if scheduled == Scheduled::Enqueue {
            let ready_ns = if self.reactor.common.is_timed() { now_ns } else { 0 };
            self.ready.push_back(Request::turn(key, ready_ns));
        }
        scheduled
    }

    /// Begins a session once `watch` has seen to it that what comes for it will be an event. Where the engine has gone on
    /// from [`Stage::Open`], as `watch` is told, it has a turn at once and may never have another.
    pub(super) fn seat(
        &mut self,
        arrival: Arrival,
        now_ns: u64,
        watch: impl FnOnce(&Socket, Key, Stage) -> io::Result<()>,
    ) -> Result<Option<u64>, Refusal> {
        let reactor = Arc::clone(&self.reactor);
        let over_limit = |reason: String| (Closed::OverLimit, reason);
        let vacancy = reactor.table.reserve();
        let vacancy = vacancy.ok_or_else(|| over_limit("there are no more slots for sessions".to_owned()))?;
        let key = vacancy.key();
        if let Some(attendance) = &reactor.attendance {
            attendance.record(key.index()).begin(Who::of(&arrival, &reactor.common.services), now_ns);
        }
        let connection = Connection::begin(arrival, key.to_u64(), Arc::clone(&self.reactor) as Arc<dyn Rouse>)?;
        let (speaks_first, has_mail) = (connection.speaks_first, connection.session.address().is_some());
        let look_ticks = connection.session.look_ticks();
        let stage = reactor.common.orders().stage(now_ns);
        let watched = watch(&connection.socket, key, stage);
        watched.map_err(|reason| over_limit(format!("it cannot be watched: {reason}")))?;
        let tick = Clock::tick_of(now_ns);
        // Events of the new key can only be collected by this thread, in a later wait.
        vacancy.fill(connection, tick);
        // One that was on its way from another front when the drain began hears of it here, and what was left for a session
        // before its slot was filled told nobody.
        if speaks_first || has_mail || stage != Stage::Open {
            let _ = self.schedule(key, Reasons::RESUME | Reasons::POSTED | stage.reasons(), now_ns);
        }
        let visit_ticks = self.longest_visit_ticks().min(look_every(look_ticks));
        self.wheel.insert(key.index(), tick, visit_ticks);
        Ok(Some(now_ns + u64::from(visit_ticks) * TICK.as_nanos() as u64))
    }

    fn schedule_all(&mut self, reasons: Reasons, now_ns: u64) {
        let keys: Vec<Key> = self.reactor.table.keys().collect();
        for key in keys {
            let _ = self.schedule(key, reasons, now_ns);
        }
        self.retry_starving();
    }

    /// Sessions that wait for memory cannot take the turn that would end them; serve them, to take it or starve again.
    fn retry_starving(&mut self) {
        let mut starving = self.reactor.starving.lock().expect("no thread panics while it holds this lock");
        self.ready.extend(starving.drain(..));
        self.reactor.budget.awaited.store(false, Ordering::SeqCst);
    }

    /// Sessions whose timeouts may have passed, and those whose peers take nothing, to be tried (*tried-in-eighths*).
    pub(super) fn poll_overdue(&mut self, now_ns: u64) -> Vec<Key> {
        let reactor = Arc::clone(&self.reactor);
        let tick = Clock::tick_of(now_ns);
        let orders = reactor.common.orders();
        let (idle_ticks, write_ticks) = (orders.idle_ticks(), orders.write_ticks());
        let longest = self.longest_visit_ticks();
        let mut overdue = Vec::new();
        self.wheel.advance(tick, |index| {
            reactor.desk().counters.timer_visits.add(1);
            let key = reactor.table.key_at(index)?;
            let ticks = &reactor.table.slot(key).ticks;
            let idle_left = left_ticks(tick, ticks.last_ready.load(Ordering::Relaxed), idle_ticks);
            let (is_blocked, write_left) = match ticks.blocked.load(Ordering::Relaxed) {
                0 => (false, write_ticks),
                since => (true, left_ticks(tick, since, write_ticks)),
            };
            let look_ticks = look_every(ticks.look.load(Ordering::Relaxed));
            let look_left = left_ticks(tick, ticks.last_ready.load(Ordering::Relaxed), look_ticks);
            let left = [idle_left, write_left, look_left];
            if is_blocked || left.contains(&0) {
                overdue.push(key);
            }
            // A session that is spared or not yet done with its turn is looked at again after a while.
            left.into_iter().filter(|left| *left > 0).chain([look_ticks, longest]).min()
        });
        overdue
    }

    /// Gives these a turn in which they look at the clock.
    pub(super) fn handle_overdue(&mut self, overdue: &[Key], now_ns: u64) {
        for &key in overdue {
            let _ = self.schedule(key, Reasons::TIMER, now_ns);
        }
        if !overdue.is_empty() {
            self.retry_starving();
        }
    }

    /// Gives a session its turn for what it can do now. `is_peers` says whether its peer has done something; otherwise the
    /// peer's silence goes on.
    pub(super) fn handle_ready(&mut self, ready: Ready, is_peers: bool, now_ns: u64) {
        let Some((key, is_upstream)) = Key::from_event(ready.key) else { return };
        let reasons = Reasons::of(is_upstream, ready.readable, ready.writable, ready.read_on);
        if is_peers {
            self.reactor.table.slot(key).ticks.last_ready.store(Clock::tick_of(now_ns), Ordering::Release);
        }
        match self.schedule(key, reasons, now_ns) {
            Scheduled::Enqueue => {}
            Scheduled::Noted => self.reactor.desk().counters.noted.add(1),
            Scheduled::Stale => self.reactor.desk().counters.stale.add(1),
        }
    }

    /// One that is blocked from just after a visit on is tried at the next.
    fn longest_visit_ticks(&self) -> u32 {
        self.reactor.common.orders().try_ticks().min(LONGEST_VISIT)
    }
}

impl Floor for Sessions {
    const HAS_ENDPOINTS: bool = true;

    fn admit(&mut self, arrival: Arrival, now_ns: u64) -> Result<Option<u64>, Refusal> {
        let reactor = Arc::clone(&self.reactor);
        let poller = &reactor.desk().poller;
        self.seat(arrival, now_ns, |socket, key, _stage| match reactor.common.settings.rearm {
            Rearm::Edge => poller.watch_edge(socket.as_fd(), key.to_u64()),
            Rearm::Oneshot => poller.watch_oneshot(socket.as_fd(), key.to_u64()),
        })
    }

    /// The tick is stored before any session's own: a turn that reads both never finds the session's the later one.
    fn handle_wait(&mut self, now_ns: u64) {
        let reactor = &*self.reactor;
        reactor.now.0.store(Clock::tick_of(now_ns), Ordering::Release);
        if reactor.has_left.load(Ordering::SeqCst) {
            let mut left = reactor.left.lock().expect("no thread panics while it holds this lock");
            self.ready.extend(left.drain(..));
            reactor.has_left.store(false, Ordering::SeqCst);
        }
    }

    fn has_mail(&self) -> bool {
        self.reactor.has_left.load(Ordering::SeqCst)
    }

    fn handle_event(&mut self, ready: Ready, now_ns: u64) {
        self.handle_ready(ready, true, now_ns);
    }

    fn handle_endpoint(&mut self, number: usize, now_ns: u64) {
        let ready_ns = if self.reactor.common.is_timed() { now_ns } else { 0 };
        self.ready.push_back(Request { work: Work::Datagrams(number), ready_ns });
    }

    fn handle_stage(&mut self, stage: Stage, now_ns: u64) {
        self.schedule_all(stage.reasons(), now_ns);
    }

    /// A timeout that became shorter must not wait for visits that were planned for the longer one.
    fn handle_timeouts(&mut self, now_ns: u64) {
        let tick = Clock::tick_of(now_ns);
        self.wheel = Wheel::new(tick);
        let keys: Vec<Key> = self.reactor.table.keys().collect();
        for key in keys {
            self.wheel.insert(key.index(), tick, 1);
        }
    }

    fn next_due_ns(&self, now_ns: u64) -> Option<u64> {
        let next_in = self.wheel.next_in(Clock::tick_of(now_ns));
        next_in.map(|ticks| now_ns + u64::from(ticks) * TICK.as_nanos() as u64)
    }

    fn handle_due(&mut self, now_ns: u64) {
        let overdue = self.poll_overdue(now_ns);
        self.handle_overdue(&overdue, now_ns);
    }
}

/// How often a session is looked at that wants to be so often, 0 for not at all.
fn look_every(look_ticks: u32) -> u32 {
    if look_ticks == 0 { u32::MAX } else { look_ticks }
}

/// Ticks until `limit` ticks have passed since `since`.
fn left_ticks(now: u32, since: u32, limit: u32) -> u32 {
    limit.saturating_sub(ticks_since(now, since))
}
