//! [`Outbox`]: takes datagrams, joins those that may leave as one message, and sends a batch per call.
//!
//! Datagrams are put one behind the other into one piece of memory, so that those of one length to one address lie there as
//! the message that they become. A message that is refused as a whole leaves once more in its segments.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::SocketAddrAny;
use rustix::net::addr::SocketAddrArg;

use super::calls::{self, Outgoing};
use super::{MOST_BATCHED, untouched};

/// Segments of a message: what the first kernels with GSO take; later ones take twice as many.
const MOST_SEGMENTS: usize = 64;

/// Bytes of a joined message: with the headers of IPv6, UDP and Ethernet it is as long as a device's software takes in one
/// piece. Three dozen bytes more, which the system call takes, and the kernel splits the message before it leaves.
const LONGEST_JOINED: usize = 65_536 - 40 - 8 - 14;

/// Bytes of a datagram that every route takes whole: the least that IPv6 asks of a link, without the headers.
const EVERY_ROUTE: usize = 1_280 - 40 - 8;

/// Joined messages that there is room for beside each other.
const ROOM_FOR_JOINED: usize = 8;

/// Whether all has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// Nothing is left.
    All,
    /// The socket takes no more for now; the rest is kept.
    Blocked,
}

/// What has been sent so far. Written by the outbox only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendCounts {
    /// Times that the kernel was given something, whatever came of it; each may be several calls where they are plain.
    pub batches: u64,
    /// Messages that it took.
    pub messages: u64,
    /// Datagrams in them.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams that it did not take, such as one that is too long or has no way to go.
    pub refused: u64,
    /// Times that the socket took no more.
    pub blocks: u64,
}

/// Datagrams that are to be sent, and the memory that they lie in.
pub struct Outbox {
    memory: Box<[u8]>,
    /// Where the next datagram goes.
    filled: usize,
    longest: usize,
    /// In the order in which they were put; never more than a batch.
    messages: Vec<Message>,
    /// What is sent next.
    at: Position,
    /// Whether the datagram at `at` has failed once. That may have been an old error of the socket's.
    has_failed: bool,
    joins: bool,
    /// The message at `at` was refused as a whole, perhaps for being joined. It was for that, if one of its segments goes: of
    /// devices that leave checksums to the kernel some cannot have messages split, and only this tells.
    is_suspicious: bool,
    counts: SendCounts,
}

struct Message {
    begin: usize,
    len: usize,
    /// Of all segments but the last, which may be shorter.
    segment_len: usize,
    segments: usize,
    /// It leaves in its segments.
    is_apart: bool,
    to: SocketAddr,
    name: SocketAddrAny,
    from: Option<IpAddr>,
}

/// A message, and how many of its bytes have been dealt with.
#[derive(Clone, Copy)]
struct Position {
    message: usize,
    offset: usize,
}

const BEGIN: Position = Position { message: 0, offset: 0 };

impl Outbox {
    /// An outbox for datagrams of up to `longest` bytes. `gso`: for a socket that splits messages.
    pub fn new(longest: usize, gso: bool) -> Outbox {
        let plain = MOST_BATCHED * longest;
        Outbox {
            memory: untouched(if gso { plain.max(ROOM_FOR_JOINED * LONGEST_JOINED + longest) } else { plain }),
            filled: 0,
            longest,
            messages: Vec::with_capacity(MOST_BATCHED),
            at: BEGIN,
            has_failed: false,
            joins: gso,
            is_suspicious: false,
            counts: SendCounts::default(),
        }
    }

    /// Memory for the longest datagram; None if some must be sent before there is any.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        let has_room = self.messages.len() < MOST_BATCHED && self.memory.len() - self.filled >= self.longest;
        has_room.then(|| &mut self.memory[self.filled..self.filled + self.longest])
    }

    /// The first `len` bytes of the room are a datagram to this address. `from`: which address of ours it leaves from.
    ///
    /// # Panics
    /// If the room is not that long.
    pub fn put(&mut self, len: usize, to: SocketAddr, from: Option<IpAddr>) {
        assert!(len <= self.longest && self.messages.len() < MOST_BATCHED, "{len} bytes of {}", self.longest);
        let begin = self.filled;
        self.filled += len;
        match self.messages.last_mut() {
            Some(last) if self.joins && last.can_grow(len, to, from) => {
                last.len += len;
                last.segments += 1;
            }
            _ => self.messages.push(Message {
                begin,
                len,
                segment_len: len,
                segments: 1,
                is_apart: false,
                to,
                name: to.as_any(),
                from,
            }),
        }
    }

    /// Sends what there is, as far as the socket takes it. What cannot be sent is counted and passed over.
    pub fn send(&mut self, socket: BorrowedFd<'_>, mmsg: bool) -> Sent {
        let joined = self.joins;
        let sent = self.send_by(|messages| calls::send(socket, mmsg, messages));
        if joined && !self.joins {
            let address = rustix::net::getsockname(socket).ok().and_then(|name| SocketAddr::try_from(name).ok());
            let address = address.map_or_else(String::new, |address| format!("{address}: "));
            log::warn!("{address}the kernel does not send datagrams joined (gso); from now on each leaves by itself");
        }
        sent
    }

    /// The same by a call that sends the first few of the messages it is given, or says what is wrong with the first.
    fn send_by(
        &mut self,
        mut call: impl FnMut(&mut dyn Iterator<Item = Outgoing<'_>>) -> Result<usize, Errno>,
    ) -> Sent {
        while self.at.message < self.messages.len() {
            self.counts.batches += 1;
            let sent = call(&mut self.outgoing());
            match sent {
                Ok(count) => self.note_sent(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.counts.blocks += 1;
                    return Sent::Blocked;
                }
                Err(error) => self.handle_refusal(error),
            }
        }
        self.forget();
        Sent::All
    }

    /// Forgets what waits to be sent.
    pub fn forget(&mut self) {
        self.messages.clear();
        self.filled = 0;
        (self.at, self.has_failed, self.is_suspicious) = (BEGIN, false, false);
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether datagrams are joined where they can be.
    pub fn joins(&self) -> bool {
        self.joins
    }

    /// What has been sent so far.
    pub fn counts(&self) -> SendCounts {
        self.counts
    }

    /// From the present position on, what the kernel is to be given.
    fn outgoing(&self) -> impl Iterator<Item = Outgoing<'_>> {
        let mut at = self.at;
        std::iter::from_fn(move || {
            let message = self.messages.get(at.message)?;
            let (begin, len) = (message.begin + at.offset, message.piece_len(at.offset));
            at = self.after(at);
            Some(Outgoing {
                bytes: &self.memory[begin..begin + len],
                to: &message.name,
                from: message.from,
                segment_len: (len > message.segment_len).then_some(message.segment_len as u16),
            })
        })
    }

    /// The position behind the piece at `at`.
    fn after(&self, at: Position) -> Position {
        let message = &self.messages[at.message];
        let offset = at.offset + message.piece_len(at.offset);
        if offset < message.len { Position { offset, ..at } } else { Position { message: at.message + 1, offset: 0 } }
    }

    /// The kernel has taken so many pieces, at least one.
    fn note_sent(&mut self, count: usize) {
        let was_suspicious = self.is_suspicious;
        for _ in 0..count {
            let (message, offset) = (&self.messages[self.at.message], self.at.offset);
            self.counts.messages += 1;
            self.counts.datagrams += if message.is_apart { 1 } else { message.segments as u64 };
            self.counts.bytes += message.piece_len(offset) as u64;
            self.go_on();
        }
        if was_suspicious {
            self.joins = false;
            // None of them has left in part, other than in segments.
            self.messages.iter_mut().for_each(|message| message.is_apart = true);
        }
    }

    fn go_on(&mut self) {
        self.at = self.after(self.at);
        self.has_failed = false;
        self.is_suspicious = false;
    }

    /// The kernel did not take the piece at the present position.
    fn handle_refusal(&mut self, error: Errno) {
        let message = &mut self.messages[self.at.message];
        let is_joined = message.segments > 1 && !message.is_apart;
        if is_joined && matches!(error, Errno::IO | Errno::INVAL | Errno::MSGSIZE) {
            // Segments that are only too long for their route leave in fragments, and others may be joined.
            let is_too_long = error == Errno::MSGSIZE || error == Errno::INVAL && message.segment_len > EVERY_ROUTE;
            message.is_apart = true;
            self.is_suspicious = !is_too_long;
            self.has_failed = false;
        } else if std::mem::replace(&mut self.has_failed, true) {
            self.counts.refused += if is_joined { message.segments as u64 } else { 1 };
            self.go_on();
        }
    }
}

impl Message {
    /// Whether a datagram put behind it can be its next segment.
    fn can_grow(&self, len: usize, to: SocketAddr, from: Option<IpAddr>) -> bool {
        let is_full = self.len == self.segments * self.segment_len;
        let fits = (1..=self.segment_len).contains(&len) && self.len + len <= LONGEST_JOINED;
        let has_room = self.segments < MOST_SEGMENTS && !self.is_apart;
        is_full && fits && has_room && self.to == to && self.from == from
    }

    /// Bytes that leave at once, if so many have left.
    fn piece_len(&self, offset: usize) -> usize {
        let left = self.len - offset;
        if self.is_apart { left.min(self.segment_len) } else { left }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::random::Random;

    /// What has left, as receivers see it.
    type Wire = Vec<(Vec<u8>, SocketAddr, Option<IpAddr>)>;

    /// A kernel that refuses what it is told to, and now and then something else.
    struct Kernel {
        random: Random,
        /// Why it takes no joined messages, if it does not.
        refuses_joined: Option<Errno>,
        /// Segments above it are too long to be joined.
        longest_segment: usize,
        /// Whether it now and then is interrupted, takes no more or tells an old error.
        has_moods: bool,
        told_old_error: bool,
        wire: Wire,
        calls: usize,
    }

    impl Kernel {
        fn new(seed: u64) -> Kernel {
            Kernel {
                random: Random::new(seed),
                refuses_joined: None,
                longest_segment: usize::MAX,
                has_moods: false,
                told_old_error: false,
                wire: Vec::new(),
                calls: 0,
            }
        }

        fn call(&mut self, messages: &mut dyn Iterator<Item = Outgoing<'_>>) -> Result<usize, Errno> {
            self.calls += 1;
            let mut taken = 0;
            for message in messages.take(MOST_BATCHED) {
                match self.take(&message) {
                    Ok(()) => taken += 1,
                    // An error behind the first message is lost.
                    Err(error) if taken == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            assert!(taken > 0, "a call is made with something to send");
            Ok(taken)
        }

        fn take(&mut self, message: &Outgoing<'_>) -> Result<(), Errno> {
            if self.has_moods && self.random.below(8) == 0 {
                let mood = [Errno::INTR, Errno::AGAIN, Errno::CONNREFUSED][self.random.below(3)];
                let is_old_error = mood == Errno::CONNREFUSED;
                // Told once, it is gone.
                if !(is_old_error && self.told_old_error) {
                    self.told_old_error |= is_old_error;
                    return Err(mood);
                }
            }
            let to = SocketAddr::try_from(message.to.clone()).expect("it is an address");
            let segment_len = message.segment_len.map_or(message.bytes.len(), usize::from);
            if message.segment_len.is_some() {
                assert!(segment_len < message.bytes.len() && message.bytes.len() <= LONGEST_JOINED);
                assert!(message.bytes.chunks(segment_len).count() <= MOST_SEGMENTS);
                if segment_len > self.longest_segment {
                    return Err(Errno::MSGSIZE);
                }
                if let Some(error) = self.refuses_joined {
                    return Err(error);
                }
            }
            if to.port() == 0 {
                return Err(Errno::INVAL);
            }
            if message.bytes.len() > 65_507 {
                return Err(Errno::MSGSIZE);
            }
            self.told_old_error = false;
            match message.bytes {
                [] => self.wire.push((Vec::new(), to, message.from)),
                bytes => self.wire.extend(bytes.chunks(segment_len).map(|bytes| (bytes.to_vec(), to, message.from))),
            }
            Ok(())
        }
    }

    fn to(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// Puts datagrams of these lengths, each with its number in every byte; all that went in.
    fn put(outbox: &mut Outbox, datagrams: &[(usize, u16)]) -> Wire {
        let mut expected = Vec::new();
        for (number, &(len, port)) in datagrams.iter().enumerate() {
            let room = outbox.room().expect("there is room for a few");
            room[..len].fill(number as u8);
            outbox.put(len, to(port), None);
            expected.push((vec![number as u8; len], to(port), None));
        }
        expected
    }

    #[test]
    fn datagrams_of_one_length_to_one_address_are_one_message() {
        let table: [(&[(usize, u16)], usize); 9] = [
            (&[(100, 1), (100, 1), (100, 1)], 1),
            (&[(100, 1), (100, 1), (7, 1)], 1),
            (&[(100, 1), (7, 1), (7, 1)], 2),
            (&[(7, 1), (100, 1), (100, 1)], 2),
            (&[(100, 1), (100, 2), (100, 1)], 3),
            (&[(0, 1), (0, 1)], 2),
            (&[(100, 1), (0, 1), (100, 1)], 3),
            (&[(65_000, 1), (400, 1), (400, 1)], 2),
            (&[(1, 1); 65], 2),
        ];
        for (datagrams, messages) in table {
            for gso in [true, false] {
                let mut outbox = Outbox::new(65_507, gso);
                let mut kernel = Kernel::new(0);
                let mut expected = Vec::new();
                for part in datagrams.chunks(if gso { datagrams.len() } else { MOST_BATCHED }) {
                    expected.extend(put(&mut outbox, part));
                    assert_eq!(outbox.send_by(|messages| kernel.call(messages)), Sent::All);
                }
                assert_eq!(kernel.wire, expected, "{datagrams:?}");
                let messages = if gso { messages } else { datagrams.len() };
                let counts = outbox.counts();
                assert_eq!((counts.messages, counts.refused), (messages as u64, 0), "{datagrams:?}, gso {gso}");
                assert_eq!(counts.datagrams, datagrams.len() as u64);
                assert_eq!(counts.bytes, datagrams.iter().map(|(len, _)| *len as u64).sum::<u64>());
            }
        }
    }

    #[test]
    fn a_message_that_is_refused_for_being_joined_leaves_apart_and_so_do_all_others() {
        for error in [Errno::IO, Errno::INVAL] {
            let mut outbox = Outbox::new(1_200, true);
            let mut kernel = Kernel { refuses_joined: Some(error), ..Kernel::new(0) };
            let datagrams = [[(1_000, 1); 40], [(900, 2); 40]].concat();
            let mut expected = put(&mut outbox, &datagrams);
            assert_eq!(outbox.send_by(|messages| kernel.call(messages)), Sent::All);
            assert!(!outbox.joins());
            // One call that was refused, and as many as 80 messages take.
            assert_eq!((kernel.calls, outbox.counts().messages), (4, 80), "{error}");
            expected.extend(put(&mut outbox, &[(1_000, 1); 3]));
            assert_eq!(outbox.send_by(|messages| kernel.call(messages)), Sent::All);
            assert_eq!((kernel.calls, outbox.counts().messages, outbox.counts().refused), (5, 83, 0), "{error}");
            assert_eq!(kernel.wire, expected);
        }
    }

    #[test]
    fn what_is_refused_for_other_reasons_does_not_end_joining() {
        // Too long for the route, or no way to go, joined or not.
        let table: [(&[(usize, u16)], u64); 3] =
            [(&[(9_000, 1), (9_000, 1), (300, 1)], 0), (&[(100, 0), (100, 0)], 2), (&[(3_000, 0), (3_000, 0)], 2)];
        for (datagrams, refused) in table {
            let mut outbox = Outbox::new(9_000, true);
            let mut kernel = Kernel { longest_segment: 1_472, ..Kernel::new(0) };
            let mut expected = put(&mut outbox, datagrams);
            expected.extend(put(&mut outbox, &[(500, 3), (500, 3)]));
            expected.retain(|(_, to, _)| to.port() != 0);
            assert_eq!(outbox.send_by(|messages| kernel.call(messages)), Sent::All);
            assert_eq!(kernel.wire, expected, "{datagrams:?}");
            assert!(outbox.joins(), "{datagrams:?}");
            assert_eq!(outbox.counts().refused, refused, "{datagrams:?}");
        }
    }

    #[test]
    fn whatever_the_kernel_does_good_datagrams_leave_once_and_in_order() {
        let (mut blocks, mut ceased, mut refusals) = (0, 0, 0);
        for seed in 0..700 {
            let mut random = Random::new(seed);
            let longest = [1, 64, 1_200, 9_000, 70_000][random.below(5)];
            let gso = random.below(3) > 0;
            let mut outbox = Outbox::new(longest, gso);
            let mut kernel = Kernel { has_moods: random.below(4) > 0, ..Kernel::new(random.next()) };
            kernel.longest_segment = [usize::MAX, 1_000, 100][random.below(3)];
            kernel.refuses_joined = [None, Some(Errno::IO), Some(Errno::INVAL)][random.below(3)];
            let (mut expected, mut bad, mut number) = (Wire::new(), 0, 0_u8);
            let mut is_blocked = false;
            while expected.len() < 200 || is_blocked {
                let (len, port) = (random.below(longest + 1), random.below(3) as u16 * u16::from(random.below(6) > 0));
                let from = [None, Some(Ipv4Addr::LOCALHOST.into())][random.below(8) / 7];
                let run = if is_blocked { 0 } else { 1 + random.below(70) };
                for _ in 0..run {
                    let Some(room) = outbox.room() else { break };
                    number = number.wrapping_add(1);
                    room[..len].fill(number);
                    outbox.put(len, to(port), from);
                    if port == 0 || len > 65_507 {
                        bad += 1;
                    } else {
                        expected.push((vec![number; len], to(port), from));
                    }
                }
                let sent = outbox.send_by(|messages| kernel.call(messages));
                is_blocked = sent == Sent::Blocked;
                blocks += u64::from(is_blocked);
                assert_eq!(outbox.is_empty(), !is_blocked, "seed {seed}");
            }
            assert!(kernel.wire == expected, "seed {seed}: {} left of {}", kernel.wire.len(), expected.len());
            let counts = outbox.counts();
            assert_eq!((counts.refused, counts.datagrams), (bad, expected.len() as u64), "seed {seed}");
            assert!(gso || !outbox.joins(), "seed {seed}");
            refusals += bad;
            ceased += u64::from(gso && !outbox.joins());
        }
        assert!(blocks > 500 && ceased > 50 && refusals > 500, "{blocks} {ceased} {refusals}");
    }
}
