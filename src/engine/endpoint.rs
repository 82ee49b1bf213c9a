//! [`Endpoint`]: a UDP socket, the service that answers there, and the guard between the two.
//!
//! To an engine it is one thing more that has turns. It is scheduled as a session is, by the same state word: it is watched by
//! a front's poller, or waits among the service requests, or is in the hands of one thread. A turn is one exchange, so that
//! whoever else waits comes after a batch. It is no session: nothing is accepted, nothing times out, and the books of sessions
//! do not know of it.
//!
//! Invariants:
//! - *one-owner*: as for a session; the lock around the socket is taken by the owner alone, and never waited for.
//! - *nobody-lost*: every datagram that was shown is answered, or counted under the reason why not.
//!
//! What an exchange is: `net/udp.rs`; who is answered: `session/guard.rs`; why it is built like this: `design/datagrams.md`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use log::error;

use super::common::{Common, Stage};
use crate::metrics::counters::DatagramCounters;
use crate::net::batch::Datagram;
use crate::net::poller::Poller;
use crate::net::udp::{DatagramSocket, Exchange};
use crate::session::guard::{Guard, Request};
use crate::session::handler::Service;
use crate::session::state::{Reasons, Released, Scheduled, StateWord};

/// An endpoint begins once.
const GENERATION: u32 = 1;

/// Batches that are still answered when the engine drains: more than the kernel holds unread by default, and an end to it
/// where clients go on sending.
const LAST_BATCHES: u32 = 512;

/// How often the kernel is asked what it has dropped.
const DROPS_EVERY_NS: u64 = 10_000_000;

/// Datagrams, and who answers them.
pub struct Endpoint {
    address: SocketAddr,
    service: Arc<dyn Service>,
    guard: Arc<Guard>,
    state: StateWord,
    /// None once it is closed, or in the hands of a thread that has it for itself.
    open: Mutex<Option<Open>>,
    /// Written by the owner of the moment.
    pub(super) counters: DatagramCounters,
}

/// What an endpoint has as long as it is open.
pub(super) struct Open {
    socket: DatagramSocket,
    /// Whether the poller reports that the socket takes output, instead of input.
    watches_output: bool,
    /// Once the engine drains: how many batches are still answered.
    batches_left: Option<u32>,
    /// What the kernel said last that it has dropped, and when to ask again.
    dropped: u32,
    drops_due_ns: u64,
}

/// How a turn ended.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Outcome {
    /// There may be more to answer.
    Again,
    /// It waits for input.
    Idle,
    /// It waits until the socket takes output.
    Blocked,
    /// It is to be closed.
    Over,
}

impl Endpoint {
    /// The service answers at this socket whom the guard lets through.
    ///
    /// # Panics
    /// If it is not a service that answers datagrams.
    pub fn new(socket: DatagramSocket, service: Arc<dyn Service>, guard: Arc<Guard>) -> Endpoint {
        assert!(service.datagrams().is_some(), "{} answers no datagrams", service.name());
        let state = StateWord::vacant(GENERATION);
        state.open(GENERATION);
        let address = socket.address();
        let dropped = socket.dropped();
        let counters = DatagramCounters { tells_drops: dropped.is_ok(), ..DatagramCounters::default() };
        let dropped = dropped.unwrap_or(0);
        let open = Open { socket, watches_output: false, batches_left: None, dropped, drops_due_ns: 0 };
        Endpoint { address, service, guard, state, open: Mutex::new(Some(open)), counters }
    }

    /// One more on the same port. They share the guard, and with it what its rates grant: a sender with many ports meets
    /// all of them.
    pub(super) fn sibling(&self) -> io::Result<Endpoint> {
        let open = self.open.lock().expect("no thread panics while it holds this lock");
        let socket = open.as_ref().expect("it has not begun").socket.sibling()?;
        Ok(Endpoint::new(socket, Arc::clone(&self.service), Arc::clone(&self.guard)))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn service(&self) -> &dyn Service {
        &*self.service
    }

    /// Has the poller report under `key` what comes.
    pub(super) fn watch(&self, poller: &Poller, key: u64) -> io::Result<()> {
        let open = self.open.lock().expect("no thread panics while it holds this lock");
        poller.watch_edge(open.as_ref().expect("it has not begun").as_fd(), key)
    }

    /// Adds reasons for a turn; any thread.
    pub(super) fn schedule(&self, reasons: Reasons) -> Scheduled {
        self.state.schedule(GENERATION, reasons)
    }

    /// Runs the turn that it was queued for, and has the poller report under `key` what it waits for then. True if it is
    /// queued again.
    pub(super) fn turn(&self, common: &Common, poller: &Poller, key: u64) -> bool {
        let reasons = self.state.claim(GENERATION);
        let mut place = self.open.try_lock().expect("one-owner");
        let open = place.as_mut().expect("who is queued has not ended");
        let outcome = self.exchange(open, reasons, common);
        if outcome == Outcome::Over {
            let open = place.take().expect("it was there");
            drop(place);
            self.state.close(GENERATION);
            self.close(open, common);
            return false;
        }
        let is_blocked = outcome == Outcome::Blocked;
        if std::mem::replace(&mut open.watches_output, is_blocked) != is_blocked {
            let watched = poller.turn_edge(open.as_fd(), key, is_blocked);
            watched.expect("a socket is watched until it is closed");
        }
        drop(place);
        if outcome == Outcome::Again {
            self.state.requeue(GENERATION, Reasons::RESUME);
            return true;
        }
        self.state.release(GENERATION) == Released::Again
    }

    /// For a thread that is to have it for itself, until it calls [`close`](Endpoint::close).
    pub(super) fn take(&self) -> Open {
        let mut open = self.open.lock().expect("no thread panics while it holds this lock");
        open.take().expect("it is taken once")
    }

    /// Answers one batch.
    pub(super) fn exchange(&self, open: &mut Open, reasons: Reasons, common: &Common) -> Outcome {
        if reasons.intersects(Reasons::KILL | Reasons::DRAIN_OVER) {
            return Outcome::Over;
        }
        if reasons.intersects(Reasons::DRAIN) {
            open.batches_left.get_or_insert(LAST_BATCHES);
        }
        let now_ns = common.clock.now_ns();
        // Nobody who waits for the engine's end is to wait for what takes long first.
        let is_wanted = || common.orders().stage(common.clock.now_ns()) < Stage::Over;
        let exchange = open.socket.exchange(|datagram, memory| self.answer(datagram, memory, now_ns, &is_wanted));
        self.note(open);
        if now_ns >= open.drops_due_ns {
            open.drops_due_ns = now_ns + DROPS_EVERY_NS;
            self.note_drops(open);
        }
        match (exchange, &mut open.batches_left) {
            (Exchange::Blocked, _) => Outcome::Blocked,
            (Exchange::More, None) => Outcome::Again,
            (Exchange::Drained, None) => Outcome::Idle,
            (Exchange::More, Some(left)) if *left > 1 => {
                *left -= 1;
                Outcome::Again
            }
            (Exchange::More | Exchange::Drained, Some(_)) => Outcome::Over,
        }
    }

    /// Closes the socket and counts it out, which is the last act.
    pub(super) fn close(&self, mut open: Open, common: &Common) {
        self.note_drops(&mut open);
        drop(open);
        self.check();
        common.leave_endpoint();
    }

    fn answer(
        &self,
        datagram: &Datagram<'_>,
        memory: &mut [u8],
        now_ns: u64,
        is_wanted: &dyn Fn() -> bool,
    ) -> Option<usize> {
        let &Datagram { bytes, source, to_many, .. } = datagram;
        let datagrams = self.service.datagrams().expect("it has answered before");
        let ask = || self.guard.answer(datagrams, Request { bytes, source, to_many }, memory, now_ns, is_wanted);
        let (count, answer) = match catch_unwind(AssertUnwindSafe(ask)) {
            Ok(Ok(Some(len))) => (&self.counters.answered, Some(len)),
            Ok(Ok(None)) => (&self.counters.silent, None),
            Ok(Err(refusal)) => (&self.counters.refused[refusal as usize], None),
            Err(_) => {
                error!("the service {} panicked over a datagram, which is not answered", self.service.name());
                (&self.counters.panicked, None)
            }
        };
        count.add(1);
        answer
    }

    fn note(&self, open: &Open) {
        let (received, sent) = open.socket.counts();
        let counters = &self.counters;
        for (count, now) in [
            (&counters.received, received.datagrams),
            (&counters.received_bytes, received.bytes),
            (&counters.received_messages, received.messages),
            (&counters.receive_batches, received.batches),
            (&counters.oversized, received.too_long),
            (&counters.receive_errors, received.errors),
            (&counters.sent, sent.datagrams),
            (&counters.sent_bytes, sent.bytes),
            (&counters.sent_messages, sent.messages),
            (&counters.send_batches, sent.batches),
            (&counters.unsendable, sent.refused),
            (&counters.send_blocks, sent.blocks),
        ] {
            count.set(now);
        }
    }

    fn note_drops(&self, open: &mut Open) {
        if let Ok(dropped) = open.socket.dropped() {
            self.counters.dropped.add(u64::from(dropped.wrapping_sub(open.dropped)));
            open.dropped = dropped;
        }
    }

    /// INVARIANT *nobody-lost*, by counts of the socket and of the endpoint.
    fn check(&self) {
        let counters = &self.counters;
        let refused: u64 = counters.refused.iter().map(|count| count.read()).sum();
        let accounted = counters.answered.read() + counters.silent.read() + counters.panicked.read() + refused;
        assert_eq!(counters.received.read(), accounted, "nobody-lost");
        assert!(counters.sent.read() + counters.unsendable.read() <= counters.answered.read(), "nobody-lost");
    }
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
