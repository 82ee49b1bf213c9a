//! [`Ports`]: the sessions' ends in the ring: what has been received for each and not read, and what is being sent.
//!
//! A port is the ring's part of a session. It has at most one operation in each direction, whose completions carry the
//! session's key.
//!
//! - In: one receive that goes on, into buffers that all ports share. A turn copies from them into the session's ring and
//!   gives them back. A port that holds [`MOST_HELD`] is not received for until the session has read them; when no buffer
//!   is left, a port asks to be told of input instead ([`Ring::poll`]). Whoever is not received for reads by a system call,
//!   until there is nothing: so nobody waits for buffers that others hold, and a drain misses nothing.
//! - Out: one send at a time. A short message is copied into memory of the ports' own, and the session has its ring back at
//!   once. A longer one goes by a system call as far as the socket takes it, since the bytes cost more than the call; the
//!   rest is sent from where it lies, and the session learns by the completion how much has left.
//!
//! Invariants:
//! - *sent-from-where-it-lies*: bytes that a send is to take stay in place until its completion was taken. The session owes
//!   them until then, since `write` has not counted them: owed bytes are at the front of their ring, only `Session::send`
//!   consumes them, what is forwarded or said meanwhile goes behind them, a ring that is not empty is not given back, and
//!   the memory of a ring never moves. Those of a message lie in its own memory until it was sent whole, and what leads goes
//!   on to lead until then (`Mail::choose_lead`). Copied bytes are in a place that is not free before its completion.
//! - *quiet-when-closed*: a socket is closed, its session dropped and its rings given back when the last completion of both
//!   directions was taken. So no completion is of nobody, and no descriptor is used again while something is pending on it.
//! - *stale-keys-miss*: who has ended leaves its slot at once, to wait for its last completions elsewhere; these carry its
//!   key and miss whoever has the slot by then.
//!
//! Read next: `net/ring.rs`; `turns.rs`, which calls [`PortStream`].

use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::AsFd;

use super::super::connection::{Connection, Wire};
use super::super::reactor::Wiring;
use super::super::turns::Turns;
use super::{BUFFERS, SEND_BYTES, SENDS};
use crate::net::ring::{Completion, Ring};
use crate::net::socket::Socket;
use crate::session::Stream;
use crate::session::handler::Closed;
use crate::session::part::Part;
use crate::session::table::{Claim, Key};

/// Buffers that a port may hold unread before it is not received for. Guess: as much as a turn moves.
const MOST_HELD: u16 = 8;

/// Keys of completions below this are the engine's own.
pub(super) const FIRST_PORT: u64 = 2 << 32;

/// The key of cancellations, whose own completion says nothing.
pub(super) const CANCEL: u64 = 1;

/// Set in keys of sends.
const SEND: u64 = 1;

/// What a completion means for its session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Behind what was received is the FIN or an error.
    pub(super) read_on: bool,
    /// The peer has done something. Not so when an operation ends that we have taken back: then its silence goes on.
    pub(super) is_peers: bool,
}

/// All ports of one ring.
pub(super) struct Ports {
    pub(super) ring: Ring,
    /// By slot of the table of sessions.
    ports: Vec<Port>,
    inbox: Inbox,
    outbox: Outbox,
    /// Those that have ended with operations pending, by key.
    leaving: HashMap<u64, Leaver>,
    /// Sessions that can be counted out: nothing is pending any more.
    pub(super) left: Vec<(Connection, Closed)>,
}

struct Leaver {
    port: Port,
    connection: Connection,
    closed: Closed,
}

struct Port {
    /// The session's; 0 for nobody.
    key: u64,
    held: Held,
    input: Input,
    output: Output,
    /// The session was told that nothing can be written now.
    refused: bool,
    /// What became of copied bytes, for which no write will be told.
    error: Option<io::Error>,
}

enum Input {
    /// Nothing is pending: what there is can be read by a system call.
    Resting,
    Receiving {
        /// Asked to stop.
        stopping: bool,
    },
    /// To be told of input.
    Polling,
    /// The FIN, or what broke the connection.
    Over(io::Result<()>),
}

enum Output {
    Nothing,
    /// Bytes of the session's own ring are being sent.
    InPlace,
    /// They have been: so many, or none of them.
    Sent(io::Result<usize>),
    /// Bytes `from..to` of a place in the outbox are being sent.
    Copied(Copied),
    /// The send has ended without them; they are to be sent again.
    Returned(Copied),
    /// To be told when the socket takes some of a file.
    Polling,
}

#[derive(Clone, Copy)]
struct Copied {
    place: u16,
    from: u16,
    to: u16,
}

impl Port {
    fn new(key: u64) -> Port {
        let (held, input, output) = (Held::default(), Input::Resting, Output::Nothing);
        Port { key, held, input, output, refused: false, error: None }
    }

    fn is_quiet(&self) -> bool {
        let receives = matches!(self.input, Input::Receiving { .. } | Input::Polling);
        !receives && !self.output.is_pending()
    }
}

impl Ports {
    /// None yet.
    pub(super) fn new(ring: Ring) -> Ports {
        let (inbox, outbox, leaving) = (Inbox::new(), Outbox::new(), HashMap::new());
        Ports { ring, ports: Vec::new(), inbox, outbox, leaving, left: Vec::new() }
    }

    /// Gives a new session its port.
    pub(super) fn open(&mut self, key: Key) {
        let index = key.index() as usize;
        if index >= self.ports.len() {
            self.ports.resize_with(index + 1, || Port::new(0));
        }
        assert_eq!(self.ports[index].key, 0, "stale-keys-miss: a port is opened in an empty slot");
        self.ports[index] = Port::new(key.to_u64());
    }

    /// Takes what a completion has brought; the session that is to know of it, unless it has ended.
    pub(super) fn handle(&mut self, completion: Completion) -> Option<(u64, News)> {
        let key = completion.key >> 1;
        let port = self.ports.get_mut(key as u32 as usize).filter(|port| port.key == key);
        if let Some(port) = port {
            let news = if completion.key & SEND == 0 {
                received(port, &mut self.ring, &mut self.inbox, completion)
            } else {
                sent(port, &mut self.outbox, completion)
            };
            return Some((key, news));
        }
        let leaver = self.leaving.get_mut(&key).expect("quiet-when-closed: a completion is of somebody");
        if completion.key & SEND == 0 {
            if let Some(buffer) = completion.buffer {
                self.ring.recycle(buffer);
            }
            if !completion.more {
                leaver.port.input = Input::Resting;
            }
        } else {
            leaver.port.output.end(&mut self.outbox);
        }
        if leaver.port.is_quiet() {
            let Leaver { connection, closed, .. } = self.leaving.remove(&key).expect("it was there");
            self.left.push((connection, closed));
        }
        None
    }

    /// Takes a pending send back, so that the next write finds out for itself what the socket takes.
    pub(super) fn take_back_send(&mut self, key: Key) {
        let port = &self.ports[key.index() as usize];
        if port.key == key.to_u64() && port.output.is_pending() {
            self.ring.cancel(port.key << 1 | SEND, CANCEL);
        }
    }

    /// Receives for the session, or asks to be told when there is something.
    pub(super) fn receive(&mut self, key: Key, socket: &Socket) {
        let port = &mut self.ports[key.index() as usize];
        assert_eq!(port.key, key.to_u64(), "stale-keys-miss");
        let key = port.key << 1;
        if self.inbox.held < BUFFERS {
            port.input = Input::Receiving { stopping: false };
            self.ring.receive_multishot(socket.as_fd(), key);
        } else {
            port.input = Input::Polling;
            self.ring.poll(socket.as_fd(), key);
        }
    }
}

fn received(port: &mut Port, ring: &mut Ring, inbox: &mut Inbox, completion: Completion) -> News {
    let is_void = completion.is_void();
    let Completion { result, buffer, more, .. } = completion;
    let was_stopped = matches!(port.input, Input::Receiving { stopping: true }) && is_void;
    let told = News { readable: true, is_peers: !was_stopped, ..News::default() };
    if matches!(port.input, Input::Polling) {
        // Whatever the answer, the read that follows finds out.
        port.input = Input::Resting;
        return told;
    }
    assert!(matches!(port.input, Input::Receiving { .. }), "one receive at a time");
    match (&result, buffer) {
        (Ok(length @ 1..), Some(buffer)) => inbox.append(&mut port.held, buffer, *length),
        (_, Some(buffer)) => ring.recycle(buffer),
        _ => {}
    }
    match result {
        Ok(1..) if more => {
            if port.held.count >= MOST_HELD && matches!(port.input, Input::Receiving { stopping: false }) {
                port.input = Input::Receiving { stopping: true };
                ring.cancel(port.key << 1, CANCEL);
            }
            return told;
        }
        Ok(1..) => port.input = Input::Resting,
        Err(_) if is_void => port.input = Input::Resting,
        Ok(0) => port.input = Input::Over(Ok(())),
        Err(error) => port.input = Input::Over(Err(error)),
    }
    assert!(!more, "a receive that has ended does not go on");
    News { read_on: matches!(port.input, Input::Over(_)), ..told }
}

fn sent(port: &mut Port, outbox: &mut Outbox, completion: Completion) -> News {
    let refused = mem::take(&mut port.refused);
    let is_void = completion.is_void();
    let count = if is_void { Ok(0) } else { completion.result.map(|count| count as usize) };
    let told = News { writable: true, is_peers: !is_void, ..News::default() };
    match mem::replace(&mut port.output, Output::Nothing) {
        Output::InPlace => {
            port.output = Output::Sent(count);
            told
        }
        Output::Copied(copied) => match count {
            Ok(count) if usize::from(copied.to - copied.from) == count => {
                outbox.free.push(copied.place);
                News { writable: refused, ..told }
            }
            Ok(count) => {
                port.output = Output::Returned(Copied { from: copied.from + count as u16, ..copied });
                told
            }
            Err(error) => {
                outbox.free.push(copied.place);
                port.error = Some(error);
                News { readable: true, read_on: true, ..told }
            }
        },
        Output::Polling => told,
        _ => panic!("one send at a time"),
    }
}

impl Output {
    /// Whether a completion is to come.
    fn is_pending(&self) -> bool {
        matches!(self, Output::InPlace | Output::Copied(_) | Output::Polling)
    }

    /// Nothing is to be sent any more, and nothing is pending.
    fn end(&mut self, outbox: &mut Outbox) {
        if let Output::Copied(copied) | Output::Returned(copied) = mem::replace(self, Output::Nothing) {
            outbox.free.push(copied.place);
        }
    }
}

impl Wiring for Ports {
    fn wire(&mut self, key: Key) -> impl Wire {
        PortWire { index: key.index() as usize, ports: self }
    }

    fn watch_on(&mut self, claim: &mut Claim<'_, Connection>) {
        let index = claim.key().index() as usize;
        let port = &mut self.ports[index];
        debug_assert_eq!(port.key, claim.key().to_u64());
        if let Output::Returned(copied) = port.output {
            self.outbox.send(&mut self.ring, port, copied, &claim.socket);
        }
        // One that has no room reads on by itself when its peer has taken something; to be told of input would tell it
        // nothing, again and again.
        if matches!(port.input, Input::Resting) && claim.session.wants_input() {
            self.receive(claim.key(), &claim.socket);
        }
    }

    fn end(&mut self, turns: &mut Turns<'_>, key: Key, connection: Connection, closed: Closed) {
        let vacant = Port::new(0);
        let mut port = mem::replace(&mut self.ports[key.index() as usize], vacant);
        assert_eq!(port.key, key.to_u64(), "stale-keys-miss");
        while let Some(buffer) = self.inbox.pop(&mut port.held) {
            self.ring.recycle(buffer);
        }
        if let Output::Returned(_) = port.output {
            port.output.end(&mut self.outbox);
        }
        if port.is_quiet() {
            return turns.end(connection, closed);
        }
        // Behind a send that was not yet handed over: the kernel takes what it has room for, as by a system call.
        if let Input::Receiving { .. } | Input::Polling = port.input {
            self.ring.cancel(port.key << 1, CANCEL);
        }
        if port.output.is_pending() {
            self.ring.cancel(port.key << 1 | SEND, CANCEL);
        }
        self.leaving.insert(port.key, Leaver { port, connection, closed });
    }
}

struct PortWire<'a> {
    ports: &'a mut Ports,
    index: usize,
}

impl Wire for PortWire<'_> {
    fn stream<'a>(&'a mut self, socket: &'a Socket) -> impl Stream + 'a {
        let Ports { ring, ports, inbox, outbox, .. } = &mut *self.ports;
        PortStream { port: &mut ports[self.index], ring, inbox, outbox, socket, kernel_calls: 0 }
    }
}

/// A port as its session sees it in a turn.
struct PortStream<'a> {
    port: &'a mut Port,
    ring: &'a mut Ring,
    inbox: &'a mut Inbox,
    outbox: &'a mut Outbox,
    socket: &'a Socket,
    /// Since the last read or write began; the ring's own are counted with its waits.
    kernel_calls: u64,
}

impl Stream for PortStream<'_> {
    fn read(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.kernel_calls = 0;
        self.check()?;
        let mut count = 0;
        for slice in &mut *slices {
            count += self.inbox.read(self.ring, &mut self.port.held, slice);
        }
        if count > 0 {
            return Ok(count);
        }
        match &mut self.port.input {
            Input::Receiving { .. } | Input::Polling => Err(ErrorKind::WouldBlock.into()),
            Input::Over(how) => mem::replace(how, Ok(())).map(|()| 0),
            Input::Resting => {
                self.kernel_calls = 1;
                let count = self.socket.read(slices);
                if matches!(count, Ok(0)) {
                    self.port.input = Input::Over(Ok(()));
                }
                count
            }
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.kernel_calls = 0;
        self.flush()?;
        let (mut count, is_short) = match mem::replace(&mut self.port.output, Output::Nothing) {
            Output::Nothing => (0, slices.iter().map(|slice| slice.len()).sum::<usize>() <= SEND_BYTES),
            Output::Sent(count) => (count?, false),
            pending => {
                self.port.output = pending;
                return Err(ErrorKind::WouldBlock.into());
            }
        };
        if is_short && let Some(copied) = self.outbox.copy(slices) {
            self.outbox.send(self.ring, self.port, copied, self.socket);
            return Ok(usize::from(copied.to));
        }
        let rest = unsent(slices, count);
        if !rest.is_empty() {
            self.kernel_calls += 1;
            count += self.write_directly(&rest)?;
        }
        if let Some(first) = unsent(slices, count).first() {
            let key = self.port.key << 1 | SEND;
            // SAFETY: sent-from-where-it-lies; the session that has these bytes, in a ring or a message, lives until the
            // completion, by quiet-when-closed.
            #[allow(unsafe_code, reason = "the kernel reads the bytes after the turn")]
            unsafe {
                self.ring.send(self.socket.as_fd(), &raw const **first, key);
            }
            self.port.output = Output::InPlace;
        }
        if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    /// By a system call: the ring's own way from a file to a socket is two operations and a pipe.
    fn send_file(&mut self, part: &Part) -> io::Result<usize> {
        self.kernel_calls = 0;
        self.flush()?;
        if let Output::Polling = self.port.output {
            return Err(ErrorKind::WouldBlock.into());
        }
        assert!(matches!(self.port.output, Output::Nothing), "a part is offered when all before it has left");
        self.kernel_calls += 1;
        let sent = self.socket.send_file(&part.file, part.from, part.bytes);
        if sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            self.ring.poll_output(self.socket.as_fd(), self.port.key << 1 | SEND);
            self.port.output = Output::Polling;
        }
        sent
    }

    fn kernel_calls(&self) -> u64 {
        self.kernel_calls
    }

    fn take_error(&mut self) -> io::Result<()> {
        match &mut self.port.input {
            Input::Over(how) => mem::replace(how, Ok(())),
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        assert!(matches!(self.port.output, Output::Nothing), "the FIN goes behind all that is owed");
        self.socket.finish()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.check()?;
        if let Output::Returned(Copied { place, from, to }) = self.port.output {
            self.kernel_calls += 1;
            let rest = IoSlice::new(self.outbox.bytes(Copied { place, from, to }));
            let copied = Copied { place, from: from + self.write_directly(&[rest])? as u16, to };
            match copied.from < to {
                true => self.outbox.send(self.ring, self.port, copied, self.socket),
                false => self.port.output.end(self.outbox),
            }
        }
        if matches!(self.port.output, Output::Copied(_)) {
            self.port.refused = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(())
    }
}

impl PortStream<'_> {
    /// By a system call: as much as the socket takes now, perhaps nothing.
    fn write_directly(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.socket.write(slices) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// What became of bytes that the session no longer owes.
    fn check(&mut self) -> io::Result<()> {
        self.port.error.take().map_or(Ok(()), Err)
    }
}

/// The slices without their first `count` bytes.
fn unsent<'a>(slices: &[IoSlice<'a>], mut count: usize) -> Vec<IoSlice<'a>> {
    let mut left = Vec::with_capacity(slices.len());
    for slice in slices {
        let skipped = count.min(slice.len());
        count -= skipped;
        if skipped < slice.len() {
            let mut rest = *slice;
            rest.advance(skipped);
            left.push(rest);
        }
    }
    left
}

/// Buffers received into and not read, in their order; the first from `offset` on.
#[derive(Default)]
struct Held {
    first: u16,
    last: u16,
    count: u16,
    offset: u32,
}

/// By buffer, while a port holds it: how much is in it, and which one is behind it.
struct Inbox {
    lengths: Box<[u32]>,
    next: Box<[u16]>,
    /// Buffers that ports hold, so that the kernel does not have them.
    held: u16,
}

impl Inbox {
    fn new() -> Inbox {
        let count = usize::from(BUFFERS);
        Inbox { lengths: vec![0; count].into(), next: vec![0; count].into(), held: 0 }
    }

    fn append(&mut self, held: &mut Held, buffer: u16, length: u32) {
        self.lengths[usize::from(buffer)] = length;
        match held.count {
            0 => (held.first, held.offset) = (buffer, 0),
            _ => self.next[usize::from(held.last)] = buffer,
        }
        held.last = buffer;
        held.count += 1;
        self.held += 1;
    }

    fn pop(&mut self, held: &mut Held) -> Option<u16> {
        held.count = held.count.checked_sub(1)?;
        self.held -= 1;
        held.offset = 0;
        let behind = self.next[usize::from(held.first)];
        Some(mem::replace(&mut held.first, behind))
    }

    /// Copies as much as there is and fits.
    fn read(&mut self, ring: &mut Ring, held: &mut Held, slice: &mut [u8]) -> usize {
        let mut count = 0;
        while count < slice.len() && held.count > 0 {
            let (offset, length) = (held.offset as usize, self.lengths[usize::from(held.first)] as usize);
            let copied = (length - offset).min(slice.len() - count);
            let bytes = &ring.bytes(held.first, length)[offset..offset + copied];
            slice[count..count + copied].copy_from_slice(bytes);
            count += copied;
            held.offset += copied as u32;
            if offset + copied == length {
                ring.recycle(self.pop(held).expect("it holds one"));
            }
        }
        count
    }
}

/// Places for short messages on their way out.
struct Outbox {
    memory: Vec<u8>,
    /// The last one used is the next, since it is in the cache.
    free: Vec<u16>,
}

impl Outbox {
    /// A line more than is used: see `net/ring/buffers.rs`.
    const DISTANCE: usize = SEND_BYTES + 64;

    fn new() -> Outbox {
        Outbox { memory: vec![0; usize::from(SENDS) * Outbox::DISTANCE], free: (0..SENDS).rev().collect() }
    }

    fn bytes(&self, copied: Copied) -> &[u8] {
        let start = usize::from(copied.place) * Outbox::DISTANCE;
        &self.memory[start + usize::from(copied.from)..start + usize::from(copied.to)]
    }

    /// Copies the slices, no more than [`SEND_BYTES`], to a free place if there is one.
    fn copy(&mut self, slices: &[IoSlice<'_>]) -> Option<Copied> {
        let place = self.free.pop()?;
        let start = usize::from(place) * Outbox::DISTANCE;
        let mut end = start;
        for slice in slices {
            self.memory[end..end + slice.len()].copy_from_slice(slice);
            end += slice.len();
        }
        Some(Copied { place, from: 0, to: (end - start) as u16 })
    }

    fn send(&self, ring: &mut Ring, port: &mut Port, copied: Copied, socket: &Socket) {
        // SAFETY: sent-from-where-it-lies: the place is not free before `sent` or `end`, the memory is as long as the ring,
        // which is dropped before it.
        #[allow(unsafe_code, reason = "the kernel reads the bytes after the turn")]
        unsafe {
            ring.send(socket.as_fd(), &raw const *self.bytes(copied), port.key << 1 | SEND);
        }
        port.output = Output::Copied(copied);
    }
}
