//! [`Forwarder`]: what is behind the endpoint of a relay: the socket that clients reach, and for each client one that is
//! connected to a target, since only the socket by which an answer comes says whose it is.
//!
//! ```text
//!   client a ─┐                  ┌── socket of a ── target
//!   client b ─┴── near ── guard ─┴── socket of b ── target        all of them, and an alarm, in one poller
//! ```
//! That poller is watched by whoever has the endpoint's turns, as one descriptor, so that a relay is to an engine what any
//! endpoint is. Sockets are watched in edge mode; one that may have more is remembered here. Boxes are shared: the far sockets
//! have one inbox and one outbox together, so that a client costs a descriptor and a few words.
//!
//! Invariants:
//! - *nobody-lost*: every datagram of a client was taken by the kernel for its target, or is counted under the reason why not.
//! - *in-order*: what one client says leaves in the order in which it came, and so do its answers.
//! - *bounded-table*: there are never more clients than places.
//! - *only-to-whom-it-is-for*: an answer goes to the client whose socket it came by.
//!
//! Who has a place: `session/associations.rs`. Which target: `session/upstream.rs`. Why: `design/relaying.md`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use log::warn;

use crate::engine::paired::is_ours;
use crate::metrics::counters::{Count, DatagramCounters};
use crate::net::alarm::Alarm;
use crate::net::batch::{Datagram, Inbox, Outbox, ReceiveCounts, SendCounts, Sent};
use crate::net::poller::{Batch, Poller};
use crate::net::udp::{ConnectedSocket, DatagramSocket, Exchange, Use};
use crate::session::associations::{Associations, Client, Seats};
use crate::session::guard::{Guard, Refusal, Request};
use crate::session::upstream::{DatagramUsage, SKIPPED_FOR, Tried, Upstream};

/// The key of the socket that clients reach; those of far sockets are their places.
const NEAR_KEY: u64 = 1 << 32;

const ALARM_KEY: u64 = NEAR_KEY + 1;

/// Events that one turn takes. Guess.
const MOST_EVENTS: usize = 32;

/// Answers after which a turn reads no other far socket: then others have their turn. Two batches; guess.
const ENOUGH_ANSWERS: u64 = 64;

/// Who was heard of within this time keeps its place from others who have none.
const KEEPS_PLACE_NS: u64 = 1_000_000_000;

/// What a turn needs beside the sockets.
pub(super) struct Turn<'a> {
    pub(super) upstream: &'a Upstream<DatagramUsage>,
    pub(super) guard: &'a Guard,
    pub(super) counters: &'a DatagramCounters,
    pub(super) now_ns: u64,
}

/// Both sides of a relay.
pub(super) struct Forwarder {
    near: DatagramSocket,
    /// It may have more to read.
    near_is_ready: bool,
    /// It takes no more for now: its output is watched instead of its input, and nobody's answers are read.
    near_is_blocked: bool,
    far: Far,
}

/// The side of the targets.
struct Far {
    poller: Poller,
    events: Batch,
    associations: Associations<Association>,
    /// Of all that are on the same port.
    seats: Arc<Seats>,
    /// Associations that may have answers, by place, each once; some may have ended.
    ready: VecDeque<usize>,
    purpose: Use,
    /// Answers that were received last, and whose they are.
    inbox: Inbox,
    answers_for: Option<Client>,
    /// Datagrams of one client, which the far socket at this place is to send: so many.
    outbox: Outbox,
    sender: Option<usize>,
    put: u64,
    alarm: Alarm,
    alarm_is_set: bool,
}

/// What the relay has for a client.
struct Association {
    socket: ConnectedSocket,
    target: usize,
    is_ready: bool,
    /// The network says that the target is not there. It ends when what it has said before is read.
    has_failed: bool,
}

impl Forwarder {
    /// Relays what comes to `near`.
    pub(super) fn new(near: DatagramSocket, upstream: &Upstream<DatagramUsage>) -> io::Result<Forwarder> {
        Forwarder::with_seats(near, Arc::new(Seats::new(upstream.usage.clients)))
    }

    /// One more on the same port. They share the places for clients out.
    pub(super) fn sibling(&self) -> io::Result<Forwarder> {
        let sibling = Forwarder::with_seats(self.near.sibling()?, Arc::clone(&self.far.seats))?;
        self.far.seats.add_table();
        Ok(sibling)
    }

    fn with_seats(near: DatagramSocket, seats: Arc<Seats>) -> io::Result<Forwarder> {
        let (poller, alarm) = (Poller::new()?, Alarm::new()?);
        poller.watch_edge(near.as_fd(), NEAR_KEY)?;
        poller.watch_edge(alarm.as_fd(), ALARM_KEY)?;
        let (purpose, switches) = (near.purpose(), near.switches());
        let far = Far {
            poller,
            events: Batch::new(MOST_EVENTS),
            associations: Associations::default(),
            seats,
            ready: VecDeque::new(),
            purpose: Use { switches, ..purpose },
            inbox: Inbox::new(purpose.longest_answer, switches.gro),
            answers_for: None,
            outbox: Outbox::new(purpose.longest_request, switches.gso),
            sender: None,
            put: 0,
            alarm,
            alarm_is_set: false,
        };
        Ok(Forwarder { near, near_is_ready: false, near_is_blocked: false, far })
    }

    /// The socket that clients reach.
    pub(super) fn near(&self) -> &DatagramSocket {
        &self.near
    }

    /// What has come from clients and gone to them; of targets, what was too long, and errors.
    pub(super) fn counts(&self) -> (ReceiveCounts, SendCounts) {
        let ((near, sent), far) = (self.near.counts(), self.far.inbox.counts());
        let (too_long, errors) = (near.too_long + far.too_long, near.errors + far.errors);
        (ReceiveCounts { too_long, errors, ..near }, sent)
    }

    /// Passes on what targets have said, up to a batch of each of some, then a batch of what clients have, and forgets those
    /// who have been silent. Blocked: it need not be called again before its descriptor is readable.
    pub(super) fn exchange(&mut self, turn: &Turn<'_>) -> Exchange {
        let has_more_events = self.take_events();
        let sent = match self.near.flush() {
            // Targets first: what says that one is not there is then known before the next is sent to it.
            Sent::All => self.take_answers(turn),
            Sent::Blocked => Sent::Blocked,
        };
        let exchange = match sent {
            Sent::All => self.take_requests(turn),
            Sent::Blocked => Exchange::Blocked,
        };
        turn.counters.returned.set(self.far.inbox.counts().datagrams);
        self.far.expire(turn);
        self.watch_near(exchange == Exchange::Blocked);
        let has_more = has_more_events || self.near_is_ready || !self.far.ready.is_empty();
        match exchange {
            Exchange::Blocked => Exchange::Blocked,
            _ if has_more => Exchange::More,
            _ => Exchange::Drained,
        }
    }

    /// Ends all associations, which is the last act.
    pub(super) fn close(mut self: Box<Self>, turn: &Turn<'_>) {
        while let Some((place, _)) = self.far.associations.oldest() {
            self.far.end(place, turn, None);
        }
    }

    /// Notes who is ready. True if there may be more of them.
    fn take_events(&mut self) -> bool {
        let Forwarder { near_is_ready, far, .. } = self;
        far.poller.wait(&mut far.events, Some(Duration::ZERO)).expect("waiting on our own poller cannot fail");
        let mut seen = 0;
        for event in far.events.iter() {
            seen += 1;
            match event.key {
                NEAR_KEY => *near_is_ready = true,
                ALARM_KEY => far.alarm_is_set = false,
                place => note_ready(&mut far.associations, &mut far.ready, place as usize),
            }
        }
        seen >= MOST_EVENTS
    }

    /// Passes on what targets have said.
    fn take_answers(&mut self, turn: &Turn<'_>) -> Sent {
        let Forwarder { near, far, .. } = self;
        let enough = far.inbox.counts().datagrams + ENOUGH_ANSWERS;
        loop {
            // Also what was left of the last batch when the near socket was full.
            if far.hand_over(near) == Sent::Blocked {
                return Sent::Blocked;
            }
            if far.inbox.counts().datagrams >= enough {
                return Sent::All;
            }
            let Some(place) = far.ready.pop_front() else { return Sent::All };
            far.receive(place, turn);
        }
    }

    /// Passes on what clients have said.
    fn take_requests(&mut self, turn: &Turn<'_>) -> Exchange {
        let Forwarder { near, near_is_ready, far, .. } = self;
        if !*near_is_ready {
            return match near.flush() {
                Sent::All => Exchange::Drained,
                Sent::Blocked => Exchange::Blocked,
            };
        }
        let exchange = near.exchange(|datagram, _| {
            far.forward(datagram, turn);
            None
        });
        far.flush(turn);
        *near_is_ready = exchange == Exchange::More;
        exchange
    }

    /// Watches for what the near socket is waited for.
    fn watch_near(&mut self, is_blocked: bool) {
        if std::mem::replace(&mut self.near_is_blocked, is_blocked) != is_blocked {
            // Turned back to input, it tells at once what has come meanwhile.
            let watched = self.far.poller.turn_edge(self.near.as_fd(), NEAR_KEY, is_blocked);
            watched.expect("a socket is watched until it is closed");
        }
    }
}

impl Far {
    /// Puts a client's datagram where its target is, or says why not.
    fn forward(&mut self, datagram: &Datagram<'_>, turn: &Turn<'_>) {
        let &Datagram { bytes, source, local, to_many } = datagram;
        let admitted = turn.guard.admit(&Request { bytes, source, to_many }, turn.now_ns);
        match admitted.and_then(|()| self.place_of(Client { address: source, local }, turn)) {
            Ok(place) => self.put(place, bytes, turn),
            Err(refusal) => turn.counters.refused[refusal as usize].add(1),
        }
    }

    fn put(&mut self, place: usize, bytes: &[u8], turn: &Turn<'_>) {
        if self.sender != Some(place) || self.outbox.room().is_none() {
            self.flush(turn);
        }
        let (_, association) = self.associations.at(place).expect("it was just found");
        let room = self.outbox.room().expect("it is empty, or has room");
        room[..bytes.len()].copy_from_slice(bytes);
        self.outbox.put(bytes.len(), association.socket.peer(), None);
        self.sender = Some(place);
        self.put += 1;
    }

    /// Sends what waits for one target. What its socket does not take is counted and forgotten: to keep it would be to hold up
    /// all other clients, and the next network does the same.
    fn flush(&mut self, turn: &Turn<'_>) {
        let Some(place) = self.sender.take() else { return };
        let (_, association) = self.associations.at(place).expect("who ends is sent first");
        let before = self.outbox.counts().datagrams;
        if self.outbox.send(association.socket.as_fd(), self.purpose.switches.mmsg) == Sent::Blocked {
            self.outbox.forget();
        }
        let sent = self.outbox.counts().datagrams - before;
        turn.counters.forwarded.add(sent);
        turn.counters.refused[Refusal::NotTaken as usize].add(std::mem::take(&mut self.put) - sent);
    }

    /// The place of a client, which may be a new one.
    fn place_of(&mut self, client: Client, turn: &Turn<'_>) -> Result<usize, Refusal> {
        if let Some(place) = self.associations.find(&client) {
            self.associations.touch(place, turn.now_ns);
            return Ok(place);
        }
        if self.associations.len() >= self.seats.each() {
            let oldest = self.associations.oldest();
            let (replaced, _) = oldest
                .filter(|(_, used_ns)| turn.now_ns.saturating_sub(*used_ns) >= KEEPS_PLACE_NS)
                .ok_or(Refusal::TableFull)?;
            self.end(replaced, turn, Some(&turn.counters.clients_replaced));
        }
        self.associate(client, turn)
    }

    /// Connects a client to a target; there is a place.
    fn associate(&mut self, client: Client, turn: &Turn<'_>) -> Result<usize, Refusal> {
        let Turn { upstream, now_ns, .. } = *turn;
        let mut tried = Tried::default();
        while let Some(target) = upstream.choose(&mut tried, usize::from(client.address.port()), now_ns) {
            match ConnectedSocket::connect(upstream.address(target), self.purpose) {
                Ok(socket) => return self.seat(client, socket, target, turn),
                Err(reason) => {
                    upstream.leave(target);
                    if is_ours(&reason) {
                        break;
                    }
                    blame(turn, target, &reason);
                }
            }
        }
        Err(Refusal::NoSocket)
    }

    fn seat(
        &mut self,
        client: Client,
        socket: ConnectedSocket,
        target: usize,
        turn: &Turn<'_>,
    ) -> Result<usize, Refusal> {
        let association = Association { socket, target, is_ready: false, has_failed: false };
        let place = self.associations.insert(client, association, turn.now_ns);
        let (_, association) = self.associations.at(place).expect("it was just put there");
        if self.poller.watch_edge(association.socket.as_fd(), place as u64).is_err() {
            self.associations.remove(place);
            turn.upstream.leave(target);
            return Err(Refusal::NoSocket);
        }
        assert!(self.associations.len() <= self.seats.each(), "bounded-table");
        turn.counters.clients.add(1);
        Ok(place)
    }

    /// Receives a batch of answers by the far socket at this place, if it is still there.
    fn receive(&mut self, place: usize, turn: &Turn<'_>) {
        let Some((client, association)) = self.associations.at(place) else { return };
        let errors_before = self.inbox.counts().errors;
        association.is_ready = false;
        let has_come = self.inbox.receive(association.socket.as_fd(), self.purpose.switches.mmsg);
        association.has_failed |= self.inbox.counts().errors > errors_before;
        let (target, has_failed) = (association.target, association.has_failed);
        if has_come {
            self.answers_for = Some(client);
            self.associations.touch(place, turn.now_ns);
            if !has_failed {
                turn.upstream.welcome(target);
            }
        }
        if self.inbox.was_filled() {
            note_ready(&mut self.associations, &mut self.ready, place);
        } else if has_failed {
            blame(turn, target, &io::Error::from(io::ErrorKind::ConnectionRefused));
            self.end(place, turn, Some(&turn.counters.clients_unreachable));
        }
    }

    /// Gives the answers that were received to the near socket.
    fn hand_over(&mut self, near: &mut DatagramSocket) -> Sent {
        while !self.inbox.is_empty() {
            if near.make_room() == Sent::Blocked {
                return Sent::Blocked;
            }
            let Some(datagram) = self.inbox.take_next() else { break };
            let client = self.answers_for.expect("answers are somebody's");
            near.post(datagram.bytes, client.address, client.local);
        }
        Sent::All
    }

    /// Forgets who has been silent, and has the alarm ring for the next.
    fn expire(&mut self, turn: &Turn<'_>) {
        if self.alarm_is_set {
            return;
        }
        let idle_ns = u64::try_from(turn.upstream.usage.idle.as_nanos()).unwrap_or(u64::MAX);
        while let Some((place, used_ns)) = self.associations.oldest() {
            let left_ns = used_ns.saturating_add(idle_ns).saturating_sub(turn.now_ns);
            if left_ns > 0 {
                self.alarm.set(Duration::from_nanos(left_ns));
                self.alarm_is_set = true;
                break;
            }
            self.end(place, turn, Some(&turn.counters.clients_expired));
        }
    }

    /// Ends an association, and counts how. What was put for its target is sent before.
    fn end(&mut self, place: usize, turn: &Turn<'_>, how: Option<&Count>) {
        self.flush(turn);
        let association = self.associations.remove(place);
        if let Ok(dropped) = association.socket.dropped() {
            turn.counters.dropped.add(u64::from(dropped));
        }
        turn.upstream.leave(association.target);
        how.into_iter().for_each(|count| count.add(1));
    }
}

/// Has this place read when its turn comes.
fn note_ready(associations: &mut Associations<Association>, ready: &mut VecDeque<usize>, place: usize) {
    let Some((_, association)) = associations.at(place) else { return };
    if !std::mem::replace(&mut association.is_ready, true) {
        ready.push_back(place);
    }
}

/// A target is not there: others go first for a while.
fn blame(turn: &Turn<'_>, target: usize, reason: &io::Error) {
    if turn.upstream.skip(target, turn.now_ns) {
        warn!("{} took no datagrams and is skipped for {SKIPPED_FOR:?}: {reason}", turn.upstream.name(target));
    }
}

/// Readable when there is something to do.
impl AsFd for Forwarder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.far.poller.as_fd()
    }
}
