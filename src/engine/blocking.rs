//! One session from its beginning to its end by one thread or process that waits for it alone: what `serial`,
//! `thread-per-connection` and the process engines have in common. So also one endpoint, by a thread of its own.
//!
//! The turn is the same as everywhere (`turns.rs`). What differs is the wait between two turns: in the kernel, for this
//! one socket, with a timeout for the session's own deadlines; orders are heard through a nudge (`net/nudge.rs`). So there
//! is no table, no key, no state word and no wheel here: who has the session's stack frame owns the session.
//!
//! Why it waits in `ppoll` and not in a blocking read: a read needs memory to read into for as long as nothing comes, a
//! ring of 64 KiB for each silent client. That costs one system call a request; `design/memory-ownership.md` has the
//! numbers. Read next: `serial.rs`.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::attendance::Listed;
use super::common::Common;
use super::connection::{Calls, Connection, Ends};
use super::endpoint::{Endpoint, Outcome};
use super::turns::Turns;
use crate::clock::{Clock, TICK, ticks_since};
use crate::metrics::counters::TurnCounters;
use crate::net::nudge::{Interest, Sleeper, Woken, wait, wait_for_both};
use crate::session::TurnEnd;
use crate::session::handler::Closed;
use crate::session::mailbox::Rouse;
use crate::session::state::Reasons;
use crate::session::table::Ticks;

/// How long a session waits before it asks again for memory that others hold: they do not know whom to tell.
const MEMORY_PAUSE: Duration = Duration::from_millis(10);

/// The thread that serves a session, while it does: whom others nudge.
#[derive(Default)]
pub(super) struct Bed(Mutex<Option<Sleeper>>);

impl Bed {
    /// The calling thread is here from now on, until it calls [`leave`](Bed::leave), which it does before it returns.
    pub(super) fn enter(&self) {
        self.set(Some(Sleeper::current()));
    }

    pub(super) fn leave(&self) {
        self.set(None);
    }

    /// Has whoever is here look at everything again.
    pub(super) fn nudge(&self) {
        let sleeper = self.0.lock().expect("no thread panics while it holds this lock");
        sleeper.iter().for_each(|sleeper| sleeper.nudge());
    }

    fn set(&self, sleeper: Option<Sleeper>) {
        *self.0.lock().expect("no thread panics while it holds this lock") = sleeper;
    }
}

impl Rouse for Bed {
    fn rouse(&self, _key: u64) {
        self.nudge();
    }
}

/// Serves the session until it ends, and says how it did; the caller ends it. `listed` is where others see it, and say that
/// it is to end.
pub(super) fn serve(common: &Common, turns: &mut Turns<'_>, connection: &mut Connection, listed: &Listed) -> Closed {
    let now_tick = || Clock::tick_of(common.clock.now_ns());
    let tick = AtomicU32::new(now_tick());
    let ticks = Ticks::beginning(now_tick());
    let mut calls = VecDeque::new();
    let waits = &turns.counters().waits;
    let mut heard = common.orders().stage(common.clock.now_ns());
    let mut reasons = Reasons::RESUME | heard.reasons();
    // When the peer was last tried, or owed nothing.
    let mut tried = now_tick();
    if !connection.speaks_first && !connection.session.has_news() && heard.reasons().is_empty() {
        waits.add(1);
        reasons = wait_for(common, connection, &ticks, tried, now_tick());
    }
    loop {
        tick.store(now_tick(), Ordering::Relaxed);
        let stage = common.orders().stage(common.clock.now_ns());
        if stage > heard {
            heard = stage;
            reasons |= stage.reasons();
        }
        // Announced by a nudge, which says no more than that there is something to look for.
        if connection.session.has_news() {
            reasons |= Reasons::POSTED;
        }
        if listed.is_killed() {
            reasons |= Reasons::KILL;
        }
        if reasons.intersects(Reasons::of(false, true, true, true) | Reasons::of(true, true, true, true)) {
            ticks.last_ready.store(tick.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let end = turns.run(connection, &mut Calls, &ticks, reasons, &tick, None);
        if reasons.intersects(Reasons::TIMER) || ticks.blocked.load(Ordering::Relaxed) == 0 {
            tried = tick.load(Ordering::Relaxed);
        }
        listed.add(turns.moved);
        calls.append(&mut turns.placed);
        reasons = match (end, calls.pop_front()) {
            (TurnEnd::Closed(closed), _) => return closed,
            (_, Some(call)) => {
                // There is nobody else to run it. Its reply leaves before the next one is run.
                let _ = turns.call(call, None);
                Reasons::RESUME
            }
            (TurnEnd::Again, None) => Reasons::RESUME,
            (TurnEnd::Starved, None) => {
                turns.put_rings_away();
                waits.add(1);
                wait(None, Interest { input: false, output: false }, Some(MEMORY_PAUSE));
                Reasons::RESUME
            }
            (TurnEnd::Idle, None) => {
                turns.put_rings_away();
                waits.add(1);
                wait_for(common, connection, &ticks, tried, tick.load(Ordering::Relaxed))
            }
        };
    }
}

/// Serves the endpoint until the engine has drained.
pub(super) fn answer(common: &Common, counters: &TurnCounters, endpoint: &Endpoint) {
    let mut open = endpoint.take();
    loop {
        counters.turns.add(1);
        let reasons = common.orders().stage(common.clock.now_ns()).reasons();
        let outcome = endpoint.exchange(&mut open, reasons, common);
        match outcome {
            Outcome::Again => {}
            Outcome::Over => return endpoint.close(open, common),
            Outcome::Idle | Outcome::Blocked => {
                let output = outcome == Outcome::Blocked;
                counters.waits.add(1);
                wait(Some(open.as_fd()), Interest { input: !output, output }, left_of_drain(common));
            }
        }
    }
}

/// How long a drain still goes on, once there is one.
fn left_of_drain(common: &Common) -> Option<Duration> {
    let over_ns = common.orders().over_ns();
    over_ns.map(|over_ns| Duration::from_nanos(over_ns.saturating_sub(common.clock.now_ns())))
}

/// Waits for what the session waits for; why it is to have a turn then. `tried` is the tick at which its peer last was, or was
/// owed nothing.
fn wait_for(common: &Common, connection: &Connection, ticks: &Ticks, tried: u32, tick: u32) -> Reasons {
    let session = &connection.session;
    let interest = Interest { input: session.wants_input(), output: session.is_write_blocked() };
    let orders = common.orders();
    let left = |since: u32, limit: u32| limit.saturating_sub(ticks_since(tick, since));
    let idle_left = connection
        .idle_ticks(orders)
        .map_or(u32::MAX, |limit_ticks| left(ticks.last_ready.load(Ordering::Relaxed), limit_ticks));
    let write_left = match ticks.blocked.load(Ordering::Relaxed) {
        0 => u32::MAX,
        // tried-in-eighths
        since => left(since, orders.write_ticks()).min(left(tried, orders.try_ticks())),
    };
    let timers = TICK * idle_left.min(write_left).max(1);
    let mut timeout = left_of_drain(common).map_or(timers, |over| over.min(timers));
    let client = connection.socket.as_fd();
    let [woken, upstream] = match session {
        Ends::Two(paired) => {
            timeout = paired.connecting_left(common.clock.now_ns()).map_or(timeout, |left| left.min(timeout));
            let upstream = paired.socket().expect("it is being connected from its first turn on").as_fd();
            wait_for_both([(client, interest), (upstream, paired.interest())], Some(timeout))
        }
        // Who waits for neither waits for calls: a connection that breaks meanwhile would end every wait at once.
        Ends::One(_) => {
            let socket = (interest.input || interest.output).then_some(client);
            [wait(socket, interest, Some(timeout)), Woken::default()]
        }
    };
    let reasons = Reasons::of(false, woken.readable, woken.writable, woken.read_on)
        | Reasons::of(true, upstream.readable, upstream.writable, upstream.read_on);
    // A peer that sends on, and quicker than a tick, lets no wait time out.
    if woken.timed_out || write_left == 0 { reasons | Reasons::TIMER } else { reasons }
}
