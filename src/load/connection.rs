//! One connection of the load: its socket, what of its frames has been written and read, and the check of every reply.
//!
//! It moves bytes and says what came of it; what happens then (another request, a new connection) is decided in
//! `client.rs`. What the connections of a thread share is its [`Wire`].
//!
//! Invariant *nothing-unasked*: a byte that answers no request sent is an error, whatever it is. Read next: `client.rs`.

use std::io::{self, ErrorKind as Io, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsFd;

use crate::clock;
use crate::config::Scheme;
use crate::load::flight::{Flight, Sent};
use crate::load::pattern::{CHUNK, Cursor, Pattern, Who};
use crate::load::plan::{Plan, Service};
use crate::load::recorder::{ErrorKind, Errors};
use crate::load::transfer::{Answer, Reference};
use crate::net::poller::Poller;
use crate::net::socket::Socket;

/// Bytes of a `work` reply before its payload, without stamps: `u32 length`, `u64 id`, `u64 queue_ns`, `u64 service_ns`,
/// `u16 worker`, `u16 flags`.
const WORK_REPLY_HEADER: usize = 32;

/// Three more times: ready, taken, done.
const STAMPS: usize = 24;

const SHED: u16 = 1;
const STAMPS_FOLLOW: u16 = 2;

/// Reads of one go: a server that never stops sending must not keep the generator from its clock and from the others.
const CHUNKS: usize = 4;
const DATAGRAMS: usize = 64;

/// What the connections of one thread share.
pub(super) struct Wire {
    pub(super) pattern: Pattern,
    pub(super) poller: Poller,
    pub(super) address: SocketAddr,
    /// What the connections have found and nobody has looked at yet, in the order of finding.
    pub(super) replies: Vec<Reply>,
    /// Of datagrams: what was wrong without ending anything.
    pub(super) errors: Option<Errors>,
    /// Datagrams of which the host there has said that nobody listens.
    pub(super) refused: usize,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) inbox: Vec<u8>,
    dialogue: Dialogue,
    /// For a load of files: what was answered before.
    pub(super) files: Option<Box<Reference>>,
    pub(super) datagrams: bool,
    /// Most requests in flight on one connection.
    depth: usize,
    /// Requests after which a connection is closed.
    pub(super) quota: u64,
}

/// How a service answers.
#[derive(Clone, Copy, PartialEq)]
enum Dialogue {
    /// With the same bytes.
    Echo,
    /// Not at all.
    Discard,
    /// With a frame of its own, in any order.
    Work,
    /// With the frames of the others.
    Chat,
    /// With a line, and perhaps the bytes of a file, in order.
    Files,
}

/// How much of what had come was read.
#[must_use]
pub(super) enum Received {
    All,
    /// There may be more, and no event will tell.
    Part,
}

/// A reply, or what stands for one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    /// Of its request among those of the connection; of a delivery, among those of its sender.
    pub(super) number: u64,
    /// It stands for so many, with the numbers from there on.
    pub(super) count: u64,
    pub(super) received_ns: u64,
    pub(super) detail: Detail,
}

/// What a reply says beside that it came.
#[derive(Clone, Copy, Debug)]
pub(super) enum Detail {
    Plain,
    /// Not served, by the server's own word.
    Shed,
    /// Served, and when: ready seen, taken, done; nanoseconds of the server's monotonic clock.
    Stamps([u64; 3]),
    /// Chat: the message of another connection.
    Delivery {
        sender: u32,
    },
}

/// One connection, or the slot of one that is gone.
pub(super) struct Connection {
    pub(super) who: Who,
    pub(super) flight: Flight,
    pub(super) state: State,
    /// Failures in a row.
    pub(super) failures: u32,
    /// A timer for its oldest request is set.
    pub(super) has_deadline: bool,
    /// There is more to read than was read in one go, and whether a short read does not mean that there is no more.
    pub(super) unread: Option<bool>,
    /// Counted at each opening: events of the socket before are stale.
    generation: u32,
    socket: Option<Socket>,
    written: Cursor,
    /// Echo: how far the replies have come.
    read: Cursor,
    /// Frames begun since it was opened.
    begun: u64,
    /// Apart from the rest, which is looked at for every reply: an echo has none.
    incoming: Option<Box<Incoming>>,
    /// The same of a load of files.
    answer: Option<Box<Answer>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    /// No socket; the next request opens one.
    Closed,
    Connecting {
        since_ns: u64,
    },
    Open,
    /// Open, and its socket has no room: an event will tell.
    Blocked,
    /// Failed; to be opened again then.
    Down {
        until_ns: u64,
    },
    /// Failed, and not to be opened again.
    Gone,
}

/// A frame of the server that has come in part.
struct Incoming {
    head: [u8; WORK_REPLY_HEADER + STAMPS],
    have: usize,
    /// Bytes of the body that were checked; none while the head is incomplete.
    body: Option<usize>,
}

impl Wire {
    pub(super) fn new(plan: &Plan, address: SocketAddr) -> io::Result<Wire> {
        Ok(Wire {
            pattern: Pattern::new(plan),
            poller: Poller::new()?,
            address,
            replies: Vec::new(),
            errors: None,
            refused: 0,
            sent_bytes: 0,
            received_bytes: 0,
            inbox: vec![0; CHUNK],
            dialogue: match plan.service {
                Service::Echo => Dialogue::Echo,
                Service::Discard => Dialogue::Discard,
                Service::Work { .. } => Dialogue::Work,
                Service::Chat { .. } => Dialogue::Chat,
                Service::Files { .. } => Dialogue::Files,
            },
            files: match plan.service {
                Service::Files { command, .. } => Some(Box::new(Reference::new(command))),
                _ => None,
            },
            datagrams: plan.target.scheme == Scheme::Udp,
            depth: plan.depth.unwrap_or(usize::MAX),
            quota: plan.requests_per_connection.unwrap_or(u64::MAX),
        })
    }
}

impl Connection {
    pub(super) fn new(who: Who) -> Connection {
        Connection {
            who,
            flight: Flight::default(),
            state: State::Closed,
            failures: 0,
            has_deadline: false,
            unread: None,
            generation: 0,
            socket: None,
            written: Cursor::default(),
            read: Cursor::default(),
            begun: 0,
            incoming: None,
            answer: None,
        }
    }

    /// The key of events, for the slot `index`.
    fn key(&self, index: usize) -> u64 {
        u64::from(self.generation) << 32 | index as u64
    }

    /// Whether an event with this key is of the present socket.
    pub(super) fn is_current(&self, key: u64) -> bool {
        key >> 32 == u64::from(self.generation) && self.socket.is_some()
    }

    /// Begins to connect.
    pub(super) fn open(&mut self, wire: &mut Wire, index: usize, now_ns: u64) -> io::Result<()> {
        let socket = match wire.datagrams {
            true => Socket::datagrams_to(wire.address)?,
            false => Socket::connecting_to(wire.address)?,
        };
        self.generation = self.generation.wrapping_add(1).max(1);
        wire.poller.watch_edge_both(socket.as_fd(), self.key(index))?;
        self.socket = Some(socket);
        self.unread = None;
        self.state = if wire.datagrams { State::Open } else { State::Connecting { since_ns: now_ns } };
        let start = Cursor { number: self.flight.next(), offset: 0 };
        (self.written, self.read, self.begun) = (start, start, 0);
        (self.incoming, self.answer) = (None, None);
        Ok(())
    }

    /// The connection stands, or why not.
    pub(super) fn established(&mut self) -> io::Result<()> {
        let socket = self.socket.as_ref().expect("who connects has a socket");
        socket.take_error()?;
        // A socket may be ready for its failure alone. And where nobody listens on a port that the system also gives to
        // clients, a socket can be connected with itself, and would echo whatever it is sent.
        if socket.peer()? == socket.local()? {
            return Err(Io::ConnectionRefused.into());
        }
        self.state = State::Open;
        Ok(())
    }

    /// Whether there is a connection to read from.
    pub(super) fn has_socket(&self) -> bool {
        self.socket.is_some()
    }

    /// Gives up the socket; `state` says what comes now. Returns what was in flight.
    pub(super) fn close(&mut self, state: State) -> Vec<(u64, Sent)> {
        self.socket = None;
        self.unread = None;
        self.state = state;
        self.flight.fail()
    }

    /// Whether it has sent all that it may send, and has had the replies.
    pub(super) fn is_used_up(&self, wire: &Wire) -> bool {
        self.begun >= wire.quota && self.flight.in_flight() == 0
    }

    /// Whether a flush would write something.
    pub(super) fn wants_to_write(&self, wire: &Wire) -> bool {
        self.state == State::Open && (self.written.offset > 0 || self.sendable(wire) > 0)
    }

    /// Waiting requests that may be sent now.
    #[inline]
    fn sendable(&self, wire: &Wire) -> usize {
        let slots = wire.depth.saturating_sub(self.flight.in_flight());
        let quota = wire.quota - self.begun;
        self.flight.waiting().min(slots).min(usize::try_from(quota).unwrap_or(usize::MAX))
    }

    /// Writes what waits, at most a chunk, as of `now_ns`.
    #[inline]
    pub(super) fn flush(&mut self, wire: &mut Wire, now_ns: u64) -> Result<(), ErrorKind> {
        if self.state != State::Open {
            return Ok(());
        }
        let sendable = self.sendable(wire);
        let frames = sendable + usize::from(self.written.offset > 0);
        if frames == 0 {
            return Ok(());
        }
        if wire.datagrams {
            return self.flush_datagrams(wire, sendable, now_ns);
        }
        let owed = frames.saturating_mul(wire.pattern.frame()) - self.written.offset;
        let bytes = wire.pattern.stream(self.who, self.written, owed.min(CHUNK));
        let len = bytes.len();
        let socket = self.socket.as_ref().expect("an open connection has a socket");
        let written = match socket.write(&[IoSlice::new(bytes)]) {
            Ok(written) => written,
            Err(error) if error.kind() == Io::WouldBlock => 0,
            Err(_) => return Err(ErrorKind::Reset),
        };
        if written < len {
            self.state = State::Blocked;
        }
        wire.sent_bytes += written as u64;
        let before = self.written;
        let completed = wire.pattern.advance(&mut self.written, written);
        let begun = self.written.begun() - before.begun();
        self.flight.begin(begun as usize, now_ns);
        self.begun += begun;
        if wire.dialogue == Dialogue::Discard && completed > 0 {
            let received_ns = clock::monotonic_ns();
            wire.replies.push(Reply { number: before.number, count: completed, received_ns, detail: Detail::Plain });
        }
        Ok(())
    }

    fn flush_datagrams(&mut self, wire: &mut Wire, count: usize, now_ns: u64) -> Result<(), ErrorKind> {
        let socket = self.socket.as_ref().expect("an open connection has a socket");
        let most = CHUNK.div_ceil(wire.pattern.frame());
        for sent in 0..count.min(most) {
            let bytes = wire.pattern.stream(self.who, self.written, wire.pattern.frame());
            let now_ns = if sent == 0 { now_ns } else { clock::monotonic_ns() };
            match socket.write(&[IoSlice::new(bytes)]) {
                Ok(written) => wire.sent_bytes += written as u64,
                Err(error) if error.kind() == Io::WouldBlock => {
                    self.state = State::Blocked;
                    return Ok(());
                }
                Err(error) if error.kind() == Io::ConnectionRefused => {
                    // Said of one before; this one was not sent.
                    wire.refused += 1;
                    return Ok(());
                }
                Err(_) => return Err(ErrorKind::Reset),
            }
            let number = self.written.number;
            self.written.number += 1;
            self.flight.begin(1, now_ns);
            self.begun += 1;
            if wire.dialogue == Dialogue::Discard {
                wire.replies.push(Reply {
                    number,
                    count: 1,
                    received_ns: clock::monotonic_ns(),
                    detail: Detail::Plain,
                });
            }
        }
        Ok(())
    }

    /// Reads and checks what has come, up to a bound. `read_on`: a short read does not mean that there is no more.
    #[inline]
    pub(super) fn receive(&mut self, wire: &mut Wire, read_on: bool) -> Result<Received, ErrorKind> {
        for _ in 0..if wire.datagrams { DATAGRAMS } else { CHUNKS } {
            let socket = self.socket.as_ref().expect("who receives has a socket");
            let len = match socket.read(&mut [IoSliceMut::new(&mut wire.inbox)]) {
                Ok(len) => len,
                Err(error) if error.kind() == Io::WouldBlock => return Ok(Received::All),
                Err(error) if wire.datagrams && error.kind() == Io::ConnectionRefused => {
                    wire.refused += 1;
                    continue;
                }
                Err(_) => return Err(ErrorKind::Reset),
            };
            let now_ns = clock::monotonic_ns();
            wire.received_bytes += len as u64;
            if wire.datagrams {
                if let Err(kind) = self.check_datagram(wire, len, now_ns) {
                    wire.errors.get_or_insert_default().add(kind, 1);
                }
                continue;
            }
            if len == 0 {
                return Err(ErrorKind::Closed);
            }
            match wire.dialogue {
                Dialogue::Echo => self.check_echo(wire, len, now_ns)?,
                Dialogue::Discard => return Err(ErrorKind::UnexpectedBytes),
                Dialogue::Work | Dialogue::Chat => self.check_frames(wire, len, now_ns)?,
                Dialogue::Files => self.check_files(wire, len, now_ns)?,
            }
            if len < wire.inbox.len() && !read_on {
                return Ok(Received::All);
            }
        }
        Ok(Received::Part)
    }

    #[inline]
    fn check_echo(&mut self, wire: &mut Wire, len: usize, received_ns: u64) -> Result<(), ErrorKind> {
        let mut at = 0;
        while at < len {
            let frames = (self.written.number - self.read.number) as usize;
            let owed = frames.saturating_mul(wire.pattern.frame()) + self.written.offset - self.read.offset;
            if owed == 0 {
                return Err(ErrorKind::UnexpectedBytes);
            }
            let expected = wire.pattern.stream(self.who, self.read, owed.min(len - at));
            let checked = expected.len();
            if *expected != wire.inbox[at..at + checked] {
                return Err(ErrorKind::WrongBytes);
            }
            at += checked;
            let first = self.read.number;
            let completed = wire.pattern.advance(&mut self.read, checked);
            if completed > 0 {
                wire.replies.push(Reply { number: first, count: completed, received_ns, detail: Detail::Plain });
            }
        }
        Ok(())
    }

    /// Cuts the server's frames out of what has come, and checks each byte of them.
    fn check_frames(&mut self, wire: &mut Wire, len: usize, now_ns: u64) -> Result<(), ErrorKind> {
        let incoming = self.incoming.get_or_insert_with(|| Box::new(Incoming::NOTHING));
        let mut at = 0;
        while at < len {
            let body = match incoming.body {
                Some(body) => body,
                None => {
                    let need = incoming.head_len(wire);
                    let count = (need - incoming.have).min(len - at);
                    incoming.head[incoming.have..incoming.have + count].copy_from_slice(&wire.inbox[at..at + count]);
                    incoming.have += count;
                    at += count;
                    // The head may turn out to be longer than it seemed.
                    if incoming.have < incoming.head_len(wire) {
                        continue;
                    }
                    incoming.check_head(wire)?;
                    0
                }
            };
            let count = (wire.pattern.body_len() - body).min(len - at);
            if !wire.pattern.is_body(body, &wire.inbox[at..at + count]) {
                return Err(ErrorKind::WrongBytes);
            }
            at += count;
            incoming.body = Some(body + count);
            if body + count == wire.pattern.body_len() {
                let (number, detail) = incoming.read_head(wire, self.who)?;
                // Ahead of all that was sent: the id is of no request.
                if wire.dialogue == Dialogue::Work && number >= self.flight.next() {
                    return Err(ErrorKind::WrongBytes);
                }
                wire.replies.push(Reply { number, count: 1, received_ns: now_ns, detail });
                (incoming.have, incoming.body) = (0, None);
            }
        }
        Ok(())
    }

    /// The request that is to be answered next, if one was sent, and what of its answer has come.
    pub(super) fn next_answer(&mut self) -> Option<(u64, &mut Answer)> {
        let number = self.read.number;
        (number < self.written.begun()).then(|| (number, &mut **self.answer.get_or_insert_default()))
    }

    /// It has had its answer.
    pub(super) fn pass_answer(&mut self) {
        self.read.number += 1;
    }

    fn check_datagram(&mut self, wire: &mut Wire, len: usize, received_ns: u64) -> Result<(), ErrorKind> {
        match wire.dialogue {
            Dialogue::Echo => {
                let Some(id) = wire.inbox[..len].first_chunk() else { return Err(ErrorKind::WrongBytes) };
                let number = self.who.number(u64::from_le_bytes(*id));
                // Ahead of all that was sent: the id itself is wrong.
                if len != wire.pattern.frame() || number >= self.flight.next() {
                    return Err(ErrorKind::WrongBytes);
                }
                if *wire.pattern.stream(self.who, Cursor { number, offset: 0 }, len) != wire.inbox[..len] {
                    return Err(ErrorKind::WrongBytes);
                }
                wire.replies.push(Reply { number, count: 1, received_ns, detail: Detail::Plain });
                Ok(())
            }
            Dialogue::Discard | Dialogue::Files => Err(ErrorKind::UnexpectedBytes),
            Dialogue::Work | Dialogue::Chat => {
                let before = wire.replies.len();
                if let Some(incoming) = &mut self.incoming {
                    **incoming = Incoming::NOTHING;
                }
                let checked = self.check_frames(wire, len, received_ns);
                // One whole frame, no less and no more.
                let has_rest = self.incoming.as_ref().is_some_and(|incoming| incoming.have > 0);
                let is_one = wire.replies.len() == before + 1 && !has_rest;
                let checked = checked.and(if is_one { Ok(()) } else { Err(ErrorKind::Protocol) });
                if checked.is_err() {
                    // A right frame in a wrong datagram is no reply.
                    wire.replies.truncate(before);
                }
                checked
            }
        }
    }

    /// Chat: begins to send the frame `number` beside all others, before the load begins; [`flush`](Connection::flush)
    /// sends the rest of it.
    pub(super) fn probe(&mut self, wire: &mut Wire, number: u64) -> io::Result<()> {
        let bytes = wire.pattern.stream(self.who, Cursor { number, offset: 0 }, CHUNK.min(wire.pattern.frame()));
        let socket = self.socket.as_ref().expect("who probes has a socket");
        let written = match socket.write(&[IoSlice::new(bytes)]) {
            Err(error) if error.kind() == Io::WouldBlock => 0,
            written => written?,
        };
        self.written = Cursor { number, offset: 0 };
        let _ = wire.pattern.advance(&mut self.written, written);
        Ok(())
    }

    /// Whether the last probe has been sent to its last byte.
    pub(super) fn has_probed(&self) -> bool {
        self.written.offset == 0
    }

    /// Chat: the load begins with the first frame of its own.
    pub(super) fn end_probing(&mut self) {
        self.written = Cursor { number: self.flight.next(), offset: 0 };
    }
}

impl Incoming {
    const NOTHING: Incoming = Incoming { head: [0; _], have: 0, body: None };

    /// Bytes of the head, as far as is known.
    fn head_len(&self, wire: &Wire) -> usize {
        match wire.dialogue {
            Dialogue::Work if self.have >= WORK_REPLY_HEADER && self.flags() & STAMPS_FOLLOW != 0 => {
                WORK_REPLY_HEADER + STAMPS
            }
            Dialogue::Work => WORK_REPLY_HEADER,
            _ => wire.pattern.prefix_len(),
        }
    }

    fn flags(&self) -> u16 {
        u16::from_be_bytes([self.head[30], self.head[31]])
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.head[at..at + 8].try_into().expect("eight bytes"))
    }

    /// Whether the head is one that the protocol allows, before anything is made of its body.
    fn check_head(&self, wire: &Wire) -> Result<(), ErrorKind> {
        let is_right = match wire.dialogue {
            Dialogue::Work if self.flags() & !(SHED | STAMPS_FOLLOW) != 0 => false,
            Dialogue::Work => {
                let length = u32::from_be_bytes(self.head[..4].try_into().expect("four bytes"));
                length as usize == self.have - 4 + wire.pattern.body_len()
            }
            _ => wire.pattern.read_chat_prefix(&self.head[..self.have]).is_some(),
        };
        if is_right { Ok(()) } else { Err(ErrorKind::Protocol) }
    }

    fn read_head(&self, wire: &Wire, who: Who) -> Result<(u64, Detail), ErrorKind> {
        if wire.dialogue == Dialogue::Work {
            let number = who.number(self.u64_at(4));
            let detail = match self.flags() {
                flags if flags & SHED != 0 => Detail::Shed,
                flags if flags & STAMPS_FOLLOW != 0 => Detail::Stamps([32, 40, 48].map(|at| self.u64_at(at))),
                _ => Detail::Plain,
            };
            return Ok((number, detail));
        }
        let prefix = wire.pattern.read_chat_prefix(&self.head[..self.have]);
        let (sender, number) = prefix.ok_or(ErrorKind::Protocol)?;
        Ok((number, Detail::Delivery { sender }))
    }
}

#[cfg(test)]
mod tests;
