//! [`Inbox`]: receives datagrams, a batch per call, and shows them one after another.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::{LONGEST_MESSAGE, MOST_BATCHED, calls, untouched};

/// Messages per call where each may be many datagrams joined: half a megabyte, which is still in the processor's cache when
/// the answers are made of it. Guess.
const MOST_JOINED: usize = 8;

/// Bytes between the beginnings of two buffers beyond a multiple of 4 KiB, so that the first lines of all buffers do not
/// compete for the same places of the processor's cache.
const OFFSET_BYTES: usize = 64;

/// Errors in a row, each an old one of the socket's, after which nothing is said to have come.
const MOST_ERRORS: usize = 16;

/// One datagram that came.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its bytes; there may be none.
    pub bytes: &'a [u8],
    /// Whom it says it is from.
    pub source: SocketAddr,
    /// Which address of ours it came to, where the socket asks for that: an answer leaves from there.
    pub local: Option<IpAddr>,
    /// Whether it was sent to a group or to everybody, as far as the socket tells.
    pub to_many: bool,
}

/// What has come so far. Written by the inbox only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveCounts {
    /// Times that the kernel was asked, whatever came of it; each may be several calls where they are plain.
    pub batches: u64,
    /// Messages that came.
    pub messages: u64,
    /// Datagrams that were shown.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams that were longer than is wanted, and were not shown.
    pub too_long: u64,
    /// Errors of the socket that were passed over.
    pub errors: u64,
}

/// Received datagrams, and the memory that they lie in.
pub struct Inbox {
    memory: Box<[u8]>,
    /// From the beginning of one buffer to that of the next.
    stride: usize,
    /// Bytes of a buffer.
    buffer_bytes: usize,
    longest: usize,
    /// What the last call brought of use; no more than there are buffers.
    messages: Vec<Message>,
    /// Whether the last call filled every buffer.
    was_filled: bool,
    /// The message that is shown next, and how much of it has been.
    next: usize,
    shown: usize,
    counts: ReceiveCounts,
}

struct Message {
    buffer: usize,
    len: usize,
    segment_len: usize,
    source: SocketAddr,
    local: Option<IpAddr>,
    to_many: bool,
}

impl Inbox {
    /// An inbox for datagrams of up to `longest` bytes. Longer ones are dropped and counted. `gro`: for a socket that joins
    /// what arrived together.
    pub fn new(longest: usize, gro: bool) -> Inbox {
        let longest = longest.min(LONGEST_MESSAGE);
        let (buffers, buffer_bytes) = if gro { (MOST_JOINED, LONGEST_MESSAGE) } else { (MOST_BATCHED, longest) };
        let stride = buffer_bytes.next_multiple_of(OFFSET_BYTES) + OFFSET_BYTES;
        Inbox {
            memory: untouched(buffers * stride),
            stride,
            buffer_bytes,
            longest,
            messages: Vec::with_capacity(buffers),
            was_filled: false,
            next: 0,
            shown: 0,
            counts: ReceiveCounts::default(),
        }
    }

    /// Receives what has come, as much as there are buffers for; what was not shown yet is forgotten. False if nothing has
    /// come, or nothing but errors.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, mmsg: bool) -> bool {
        (self.next, self.shown, self.was_filled) = (0, 0, false);
        for _ in 0..MOST_ERRORS {
            match self.ask(socket, mmsg) {
                Ok(received) => {
                    self.was_filled = received == self.memory.len() / self.stride;
                    return true;
                }
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR) => {}
                // Telling it has taken it off the socket.
                Err(_) => self.counts.errors += 1,
            }
        }
        false
    }

    fn ask(&mut self, socket: BorrowedFd<'_>, mmsg: bool) -> Result<usize, Errno> {
        let Inbox { messages, counts, .. } = self;
        messages.clear();
        counts.batches += 1;
        let buffers = self.memory.chunks_exact_mut(self.stride).map(|chunk| &mut chunk[..self.buffer_bytes]);
        let received = calls::receive(socket, mmsg, buffers, |buffer, incoming| {
            let Some(incoming) = incoming else {
                counts.too_long += 1;
                return;
            };
            let local = incoming.control.local();
            messages.push(Message {
                buffer,
                len: incoming.len,
                segment_len: incoming.control.segment_len().unwrap_or(incoming.len),
                source: incoming.source,
                local: local.map(|local| local.address),
                to_many: local.is_some_and(|local| local.is_many),
            });
        })?;
        counts.messages += received as u64;
        Ok(received)
    }

    /// Whether the last call filled all buffers, so that more may have come.
    pub fn was_filled(&self) -> bool {
        self.was_filled
    }

    /// Whether all that was received has been shown.
    pub fn is_empty(&self) -> bool {
        self.next == self.messages.len()
    }

    /// The next datagram that was received, in the order in which they came.
    pub fn take_next(&mut self) -> Option<Datagram<'_>> {
        loop {
            let message = self.messages.get(self.next)?;
            let begin = message.buffer * self.stride + self.shown;
            let len = message.segment_len.min(message.len - self.shown);
            self.shown += len;
            if self.shown == message.len {
                (self.next, self.shown) = (self.next + 1, 0);
            }
            if len > self.longest {
                self.counts.too_long += 1;
                continue;
            }
            self.counts.datagrams += 1;
            self.counts.bytes += len as u64;
            let bytes = &self.memory[begin..begin + len];
            return Some(Datagram { bytes, source: message.source, local: message.local, to_many: message.to_many });
        }
    }

    /// What has come so far.
    pub fn counts(&self) -> ReceiveCounts {
        self.counts
    }
}
