//! The console's sessions: accepted, driven and ended by the thread that hears signals, and by no engine.
//!
//! So an operator is heard while every worker is busy, while the service queue is full, and on engines whose parent has
//! one thread. All that the thread waits for is behind one descriptor, a poller of its own; whoever has it waits for
//! that descriptor and calls [`Console::handle`], which never waits. Sessions are those of every service: the same
//! rings, turns and write timeout; a list of many thousand lines goes out a ring at a time.
//!
//! Invariants:
//! - *bounded*: a door has at most [`SESSIONS_MOST`] sessions, all of which have rings within one budget.
//! - *nobody-in-the-way*: one turn moves at most [`TURN_BYTES`]; then signals and the other sessions have theirs.
//! - *known-or-gone*: who has to present a token does so within [`TOKEN_PATIENCE`], and may be wrong as often as
//!   `console/doorkeeper.rs` says.
//!
//! Read next: `service/console.rs`, the protocol; `daemon/operator.rs`, who carries out what is asked.

mod doorkeeper;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use log::{debug, error, warn};

use self::doorkeeper::{Doorkeeper, Visit};
use crate::clock::Clock;
use crate::net::alarm::Alarm;
use crate::net::listener::{Accepted, Listener};
use crate::net::local::LocalListener;
use crate::net::poller::{Batch, Poller, Ready};
use crate::net::socket::Socket;
use crate::session::buffer::{Budget, Leases};
use crate::session::handler::{Closed, Means, Moment, Service, Tally};
use crate::session::operator::{Answer, Order};
use crate::session::state::Reasons;
use crate::session::{Session, TurnEnd};

/// Sessions at one door: a few people and their scripts.
pub const SESSIONS_MOST: usize = 16;

/// Bytes of a ring: twice the longest line.
const RING_BYTES: usize = 16 << 10;

/// Bytes that one turn moves.
const TURN_BYTES: usize = 64 << 10;

/// How long somebody may take to present a token.
const TOKEN_PATIENCE: Duration = Duration::from_secs(20);

/// How often an answer that waits is asked whether it still does.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a door rests that cannot accept for want of descriptors.
const REST: Duration = Duration::from_millis(250);

/// Events taken at once.
const BATCH: usize = 64;

const SOURCE_KEY: u64 = 0;
const ALARM_KEY: u64 = 1;
const FIRST_DOOR_KEY: u64 = 2;

/// Keys from here on are of sessions, each of which has one that no other ever has.
const FIRST_SESSION_KEY: u64 = 1 << 32;

/// By whom orders are carried out.
pub type Orders = Arc<dyn Fn(Order) -> Box<dyn Answer> + Send + Sync>;

/// A bound listener of a console.
pub struct Door {
    /// Where operators come.
    pub entrance: Entrance,
    /// How it is called in the log: scheme and address.
    pub name: String,
    /// The console's service, with its token.
    pub service: Arc<dyn Service>,
}

/// What operators connect to.
pub enum Entrance {
    /// On the network.
    Tcp(Listener),
    /// In the file system.
    Local(LocalListener),
}

/// All doors, and who has come.
pub struct Console {
    poller: Poller,
    alarm: Alarm,
    clock: Clock,
    orders: Orders,
    doors: Vec<Keeping>,
    guests: BTreeMap<u64, Guest>,
    next_key: u64,
    /// Guests that are to have a turn, each once.
    ready: VecDeque<u64>,
    leases: Leases,
    write_timeout: Duration,
}

/// A door and what is known of those who come to it.
struct Keeping {
    door: Door,
    keeper: Arc<Doorkeeper>,
    /// When it is looked at again, while it rests.
    resume_ns: Option<u64>,
}

/// A session of the console.
struct Guest {
    session: Session,
    socket: Socket,
    door: usize,
    visit: Arc<Visit>,
    /// Why it is to have its turn; none while it is not among the ready.
    reasons: Reasons,
    /// Since when it takes nothing of what it is owed, or owes its FIN after ours.
    blocked_ns: Option<u64>,
    /// When it has to have presented a token.
    token_ns: Option<u64>,
}

impl Console {
    /// Watches `source`, for the caller, and the doors.
    ///
    /// # Errors
    /// When the process may open no more descriptors.
    pub fn new(source: BorrowedFd<'_>, doors: Vec<Door>, clock: Clock, orders: Orders) -> io::Result<Console> {
        let (poller, alarm) = (Poller::new()?, Alarm::new()?);
        poller.watch_level(source, SOURCE_KEY)?;
        poller.watch_level(alarm.as_fd(), ALARM_KEY)?;
        for (number, door) in doors.iter().enumerate() {
            poller.watch_level(door.entrance.as_fd(), FIRST_DOOR_KEY + number as u64)?;
        }
        // A session has two rings at the most; some lie free.
        let budget = Budget::new(RING_BYTES * (2 * SESSIONS_MOST * doors.len() + Leases::KEPT));
        let keep = |door: Door| {
            let keeper = Arc::new(Doorkeeper::new(clock, door.name.clone()));
            Keeping { door, keeper, resume_ns: None }
        };
        Ok(Console {
            poller,
            alarm,
            clock,
            orders,
            doors: doors.into_iter().map(keep).collect(),
            guests: BTreeMap::new(),
            next_key: FIRST_SESSION_KEY,
            ready: VecDeque::new(),
            leases: Leases::new(RING_BYTES, budget),
            write_timeout: Duration::MAX,
        })
    }

    /// Does what can be done now, without waiting; whether the source is readable. `write_timeout` is how long a session
    /// may take nothing of what it is owed.
    pub fn handle(&mut self, write_timeout: Duration) -> bool {
        self.write_timeout = write_timeout;
        let mut batch = Batch::new(BATCH);
        self.poller.wait(&mut batch, Some(Duration::ZERO)).expect("waiting on our own poller cannot fail");
        let mut has_source = false;
        for ready in batch.iter() {
            match ready.key {
                FIRST_SESSION_KEY.. => self.handle_ready(ready),
                SOURCE_KEY => has_source = true,
                ALARM_KEY => self.handle_alarm(),
                // Turns are left over: they follow.
                crate::net::poller::WAKE_KEY => {}
                door => self.accept((door - FIRST_DOOR_KEY) as usize),
            }
        }
        for key in std::mem::take(&mut self.ready) {
            self.turn(key);
        }
        if !self.ready.is_empty() {
            self.poller.wake();
        }
        self.set_alarm();
        has_source
    }

    fn handle_ready(&mut self, ready: Ready) {
        let mut reasons = Reasons::NONE;
        for (is_so, reason) in [
            (ready.readable, Reasons::READABLE),
            (ready.writable, Reasons::WRITABLE),
            (ready.read_on, Reasons::READ_ON | Reasons::READABLE),
        ] {
            if is_so {
                reasons |= reason;
            }
        }
        self.schedule(ready.key, reasons);
    }

    fn schedule(&mut self, key: u64, reasons: Reasons) {
        let Some(guest) = self.guests.get_mut(&key) else { return };
        if guest.reasons.is_empty() {
            self.ready.push_back(key);
        }
        guest.reasons |= reasons;
    }

    fn accept(&mut self, number: usize) {
        for _ in 0..SESSIONS_MOST {
            let Keeping { door, .. } = &self.doors[number];
            match door.entrance.accept() {
                Ok(Accepted::Connection(socket)) => self.admit(number, socket),
                Ok(Accepted::Gone) => {}
                Ok(Accepted::Nobody) => return,
                Ok(Accepted::Exhausted(reason)) | Err(reason) => {
                    warn!("{}: accepting rests for {REST:?}: {reason}", door.name);
                    self.poller.forget(door.entrance.as_fd()).expect("a door that does not rest is watched");
                    self.doors[number].resume_ns = Some(self.clock.now_ns() + nanoseconds(REST));
                    return;
                }
            }
        }
    }

    fn admit(&mut self, number: usize, socket: Socket) {
        let Keeping { door, keeper, .. } = &self.doors[number];
        let here = self.guests.values().filter(|guest| guest.door == number).count();
        if here == SESSIONS_MOST {
            warn!("{}: a session was closed at once: {SESSIONS_MOST} are open", door.name);
            let line = format!("error {SESSIONS_MOST} sessions are open; expected one of them to end first\n");
            // Whoever does not hear of it sees the end.
            let _ = socket.write(&[IoSlice::new(line.as_bytes())]);
            return;
        }
        let console = door.service.console().expect("a door is that of a console");
        let visit = Arc::new(Visit::new(Arc::clone(&self.orders), Arc::clone(keeper)));
        let session = Session::new(console.open(Arc::clone(&visit) as _), None);
        let key = self.next_key;
        if let Err(reason) = self.poller.watch_edge_both(socket.as_fd(), key) {
            warn!("{}: a session was closed at once: it cannot be watched: {reason}", door.name);
            return;
        }
        self.next_key += 1;
        let token_ns = console.has_token().then(|| self.clock.now_ns() + nanoseconds(TOKEN_PATIENCE));
        let guest = Guest { session, socket, door: number, visit, reasons: Reasons::NONE, blocked_ns: None, token_ns };
        self.guests.insert(key, guest);
        debug!("{}: an operator has come", self.doors[number].door.name);
    }

    /// Gives the guest its turn.
    fn turn(&mut self, key: u64) {
        let guest = self.guests.get_mut(&key).expect("who is ready is here");
        let reasons = std::mem::replace(&mut guest.reasons, Reasons::NONE);
        let mut tally = Tally::default();
        let now_ns = self.clock.now_ns();
        let mut means = Means {
            leases: &mut self.leases,
            budget_bytes: TURN_BYTES,
            moment: Moment::new(self.clock, None, None, now_ns),
            parallel: None,
            tally: &mut tally,
            calls: &mut Vec::new(),
        };
        let (session, mut stream) = (&mut guest.session, &guest.socket);
        let turn = || session.turn(&mut stream, reasons, &mut means);
        let end = catch_unwind(AssertUnwindSafe(turn)).unwrap_or_else(|_| {
            error!("the console's service panicked; its session ends");
            TurnEnd::Closed(Closed::Panicked)
        });
        if guest.visit.is_known() {
            guest.token_ns = None;
        }
        let is_blocked = guest.session.is_write_blocked() || guest.session.is_lingering();
        match guest.blocked_ns {
            Some(_) if is_blocked && tally.written_bytes == 0 => {}
            _ => guest.blocked_ns = is_blocked.then_some(now_ns),
        }
        match end {
            TurnEnd::Closed(_) => self.end(key),
            TurnEnd::Again => self.schedule(key, Reasons::RESUME),
            TurnEnd::Idle => {}
            TurnEnd::Starved => unreachable!("INVARIANT bounded: there is a ring for each"),
        }
    }

    fn end(&mut self, key: u64) {
        let mut guest = self.guests.remove(&key).expect("who ends is here");
        guest.session.release(&mut self.leases);
        debug!("{}: an operator has left", self.doors[guest.door].door.name);
    }

    fn handle_alarm(&mut self) {
        let now_ns = self.clock.now_ns();
        for number in 0..self.doors.len() {
            let keeping = &mut self.doors[number];
            if keeping.resume_ns.is_some_and(|resume_ns| resume_ns <= now_ns) {
                let watched =
                    self.poller.watch_level(keeping.door.entrance.as_fd(), FIRST_DOOR_KEY + number as u64).is_ok();
                // Refused for want of memory: it is looked at again.
                keeping.resume_ns = (!watched).then(|| now_ns + nanoseconds(REST));
            }
        }
        let write_ns = nanoseconds(self.write_timeout);
        let is_over = |guest: &Guest| {
            let owes = guest.blocked_ns.is_some_and(|since_ns| since_ns.saturating_add(write_ns) <= now_ns);
            owes || guest.token_ns.is_some_and(|token_ns| token_ns <= now_ns)
        };
        let over: Vec<u64> = self.guests.iter().filter(|(_, guest)| is_over(guest)).map(|(key, _)| *key).collect();
        for key in over {
            self.ready.retain(|ready| *ready != key);
            self.end(key);
        }
        let waiting: Vec<u64> =
            self.guests.iter().filter(|(_, guest)| guest.visit.waits()).map(|(key, _)| *key).collect();
        for key in waiting {
            self.schedule(key, Reasons::RESUME);
        }
    }

    fn set_alarm(&mut self) {
        let (now_ns, write_ns) = (self.clock.now_ns(), nanoseconds(self.write_timeout));
        let looks = self.guests.values().flat_map(|guest| {
            let write_ns = guest.blocked_ns.map(|since_ns| since_ns.saturating_add(write_ns));
            let look_ns = guest.visit.waits().then(|| now_ns + nanoseconds(LOOK_EVERY));
            [write_ns, look_ns, guest.token_ns].into_iter().flatten()
        });
        match looks.chain(self.doors.iter().filter_map(|keeping| keeping.resume_ns)).min() {
            Some(next_ns) => self.alarm.set(Duration::from_nanos(next_ns.saturating_sub(now_ns))),
            None => self.alarm.clear(),
        }
    }
}

/// Readable when there is something to do.
impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }
}

impl Entrance {
    fn accept(&self) -> io::Result<Accepted> {
        match self {
            Entrance::Tcp(listener) => listener.accept(),
            Entrance::Local(listener) => listener.accept(),
        }
    }
}

impl AsFd for Entrance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Entrance::Tcp(listener) => listener.as_fd(),
            Entrance::Local(listener) => listener.as_fd(),
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
