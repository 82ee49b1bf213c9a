//! [`Endpoint`]: a UDP socket, the service that answers there or relays, and the guard between the two.
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
//! A relay has sockets of its own beside that one, and a poller around them all: to an engine they are one descriptor
//! (`endpoint/forwarder.rs`).
//!
//! What an exchange is: `net/udp.rs`; who is answered: `session/guard.rs`; why it is built like this: `design/datagrams.md`.

mod forwarder;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use log::error;

use self::forwarder::{Forwarder, Turn};
use super::common::{Common, Stage};
use crate::metrics::counters::DatagramCounters;
use crate::net::batch::{Datagram, ReceiveCounts, SendCounts};
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

/// Datagrams, and who answers them or passes them on.
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
    ends: Ends,
    /// Whether the poller reports that the socket takes output, instead of input.
    watches_output: bool,
    /// Once the engine drains: how many batches are still answered.
    batches_left: Option<u32>,
    /// What the kernel said last that it has dropped, and when to ask again.
    dropped: u32,
    drops_due_ns: u64,
}

/// What is behind an endpoint.
enum Ends {
    /// A socket whose service answers.
    Answering(Box<DatagramSocket>),
    /// One, and others to those who answer.
    Relaying(Box<Forwarder>),
}

impl Ends {
    /// The socket that clients reach.
    fn near(&self) -> &DatagramSocket {
        match self {
            Ends::Answering(socket) => socket,
            Ends::Relaying(forwarder) => forwarder.near(),
        }
    }

    /// What has come and gone so far at that socket, with what could not be taken at any.
    fn counts(&self) -> (ReceiveCounts, SendCounts) {
        match self {
            Ends::Answering(socket) => socket.counts(),
            Ends::Relaying(forwarder) => forwarder.counts(),
        }
    }
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
    /// The service answers at this socket whom the guard lets through, or relays what they say.
    ///
    /// # Errors
    /// No descriptors for what a relay needs beside its socket.
    ///
    /// # Panics
    /// If it is a service that has no use for datagrams.
    pub fn new(socket: DatagramSocket, service: Arc<dyn Service>, guard: Arc<Guard>) -> io::Result<Endpoint> {
        let ends = match service.datagram_upstream() {
            Some(upstream) => Ends::Relaying(Box::new(Forwarder::new(socket, upstream)?)),
            None => Ends::Answering(Box::new(socket)),
        };
        Ok(Endpoint::with(ends, service, guard))
    }

    fn with(ends: Ends, service: Arc<dyn Service>, guard: Arc<Guard>) -> Endpoint {
        let answers = matches!(ends, Ends::Relaying(_)) || service.datagrams().is_some();
        assert!(answers, "{} answers no datagrams", service.name());
        let state = StateWord::vacant(GENERATION);
        state.open(GENERATION);
        let address = ends.near().address();
        let dropped = ends.near().dropped();
        let counters = DatagramCounters { tells_drops: dropped.is_ok(), ..DatagramCounters::default() };
        let dropped = dropped.unwrap_or(0);
        let open = Open { ends, watches_output: false, batches_left: None, dropped, drops_due_ns: 0 };
        Endpoint { address, service, guard, state, open: Mutex::new(Some(open)), counters }
    }

    /// One more on the same port. They share the guard, and with it what its rates grant: a sender with many ports meets
    /// all of them.
    pub(super) fn sibling(&self) -> io::Result<Endpoint> {
        let open = self.open.lock().expect("no thread panics while it holds this lock");
        let ends = match &open.as_ref().expect("it has not begun").ends {
            Ends::Answering(socket) => Ends::Answering(Box::new(socket.sibling()?)),
            Ends::Relaying(forwarder) => Ends::Relaying(Box::new(forwarder.sibling()?)),
        };
        Ok(Endpoint::with(ends, Arc::clone(&self.service), Arc::clone(&self.guard)))
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

    /// Answers one batch, or passes it on.
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
        let exchange = match &mut open.ends {
            Ends::Answering(socket) => {
                socket.exchange(|datagram, memory| self.answer(datagram, memory, now_ns, &is_wanted))
            }
            Ends::Relaying(forwarder) => forwarder.exchange(&self.now(now_ns)),
        };
        self.note(open);
        if now_ns >= open.drops_due_ns {
            open.drops_due_ns = now_ns + DROPS_EVERY_NS;
            self.note_drops(open);
        }
        match (exchange, &mut open.batches_left) {
            // Its own poller tells when that is over.
            (Exchange::Blocked, _) if matches!(open.ends, Ends::Relaying(_)) => Outcome::Idle,
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
        if let Ends::Relaying(forwarder) = open.ends {
            forwarder.close(&self.now(common.clock.now_ns()));
        }
        self.check();
        common.leave_endpoint();
    }

    fn now(&self, now_ns: u64) -> Turn<'_> {
        let upstream = self.service.datagram_upstream().expect("it was there when it began");
        Turn { upstream, guard: &self.guard, counters: &self.counters, now_ns }
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
        let (received, sent) = open.ends.counts();
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
        if let Ok(dropped) = open.ends.near().dropped() {
            self.counters.dropped.add(u64::from(dropped.wrapping_sub(open.dropped)));
            open.dropped = dropped;
        }
    }

    /// INVARIANT *nobody-lost*, by counts of the socket and of the endpoint.
    fn check(&self) {
        let counters = &self.counters;
        let refused: u64 = counters.refused.iter().map(|count| count.read()).sum();
        let served = [&counters.answered, &counters.silent, &counters.panicked, &counters.forwarded];
        let accounted = served.iter().map(|count| count.read()).sum::<u64>() + refused;
        assert_eq!(counters.received.read(), accounted, "nobody-lost");
        let to_send = counters.answered.read() + counters.returned.read();
        assert!(counters.sent.read() + counters.unsendable.read() <= to_send, "nobody-lost");
    }
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.ends {
            Ends::Answering(socket) => socket.as_fd(),
            Ends::Relaying(forwarder) => forwarder.as_fd(),
        }
    }
}
