//! What services and engines agree on: the traits [`Service`] and [`Handler`], and the answers [`Next`] and [`Closed`].
//!
//! A service is a pure protocol. It is shown borrowed bytes and says what is to become of them; it never sees a
//! socket, a thread, a lock, a clock or the type of the buffer that lends the bytes. That is why one `echo` runs on
//! every engine, and why a comparison of engines compares nothing else.
//!
//! Invariants:
//! - *answers-name-shown-bytes*: `Forward(n)` and `Discard(n)` take `1..=n` of the bytes that the very call showed;
//!   [`Session`](super::Session) asserts it.
//! - *output-in-order*: bytes leave in the order in which the handler forwarded and put them.
//!
//! Why the split runs here and how calls, posts, jobs, timers and paired sockets fit in: `design/trait-split.md`.
//! Read next: [`Session`](super::Session), which drives a handler; `service/echo.rs`, the smallest one.

use super::buffer::{Leases, Outbound};

/// A protocol, one value per listener, shared by every thread of the engine.
pub trait Service: Send + Sync {
    /// The name that the user types and the log shows.
    fn name(&self) -> &'static str;

    /// Starts the protocol for one new session.
    fn open(&self) -> Box<dyn Handler>;

    /// Whether `handle_open` has something to say, so that a new session has a turn before anything comes.
    fn speaks_first(&self) -> bool {
        false
    }

    /// How long one turn of this service can take; decides whether a poller may serve it by itself.
    fn pace(&self) -> Pace;
}

/// What bounds the length of a service's turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Bounded by the byte budget of the turn alone: the service copies, forwards or drops bytes.
    Brief,
    /// Bounded by nothing that the engine knows: the peer names the work, or the service blocks.
    Open,
}

/// The protocol's half of one session. Owned by the session, called by its one owner of the moment.
///
/// After every answer but [`Next::More`] and [`Next::Room`] the handler is called again for what is left.
pub trait Handler: Send {
    /// The session has opened and nothing has come yet. A protocol in which the server speaks first does so here.
    fn handle_open(&mut self, _reply: &mut Reply<'_>) -> Next {
        Next::More
    }

    /// Unread input: at least one byte, all that has come and is not yet taken.
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next;

    /// The outgoing side has room again after an answer of [`Next::Room`].
    fn handle_room(&mut self, _reply: &mut Reply<'_>) -> Next {
        Next::More
    }

    /// The peer has sent its FIN and `rest` is the input that the handler left unread. The default drops the rest
    /// and ends the session once everything said before has been sent.
    fn handle_end(&mut self, _rest: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Finish { forward: 0 }
    }
}

/// A handler's answer: what becomes of the bytes it was shown, and when it wants to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Nothing can be done until more input comes.
    More,
    /// The first `n` bytes go back to the peer, from the memory they came into.
    Forward(usize),
    /// The first `n` bytes have been dealt with.
    Discard(usize),
    /// There is more to say than the reply has room for: call `handle_room` when some of it has left. Input waits.
    Room,
    /// The first `forward` bytes go back and with them all has been said. What is owed is sent, then the FIN; later
    /// input is read and dropped.
    Finish {
        /// Bytes of those shown.
        forward: usize,
    },
    /// The peer broke the protocol in the way named; the session ends at once as [`Closed::Protocol`].
    Reject(&'static str),
}

/// Why a session ended. Every accepted session ends in exactly one of these, each with a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    /// Both sides have said all and all of it was sent.
    Finished,
    /// The peer left while it was still owed bytes that can no longer be delivered.
    PeerClosed,
    /// The peer reset the connection.
    Reset,
    /// The peer broke the service's protocol.
    Protocol,
    /// Nothing came or left for the idle timeout.
    IdleTimeout,
    /// The peer took none of the bytes it is owed for the write timeout.
    WriteTimeout,
    /// A limit of the daemon was reached: the connection was accepted only to be closed.
    OverLimit,
    /// Ended by an operator's command, or because a second signal stopped the daemon at once.
    Killed,
    /// Ended by the daemon's drain, with everything sent or the drain timeout reached.
    Drained,
    /// The service's code panicked during a turn of this session.
    Panicked,
}

impl Closed {
    /// All the ways, in the order in which they are printed. The position is the index of the counter.
    pub const ALL: [Closed; 10] = [
        Closed::Finished,
        Closed::PeerClosed,
        Closed::Reset,
        Closed::Protocol,
        Closed::IdleTimeout,
        Closed::WriteTimeout,
        Closed::OverLimit,
        Closed::Killed,
        Closed::Drained,
        Closed::Panicked,
    ];

    /// The name in logs and in the summary.
    pub fn name(self) -> &'static str {
        match self {
            Closed::Finished => "finished",
            Closed::PeerClosed => "peer_closed",
            Closed::Reset => "reset",
            Closed::Protocol => "protocol",
            Closed::IdleTimeout => "idle_timeout",
            Closed::WriteTimeout => "write_timeout",
            Closed::OverLimit => "over_limit",
            Closed::Killed => "killed",
            Closed::Drained => "drained",
            Closed::Panicked => "panicked",
        }
    }
}

/// Borrowed input in the order in which it came: one slice, or two when the memory behind it wraps.
#[derive(Clone, Copy, Debug)]
pub struct Chunks<'a> {
    first: &'a [u8],
    second: &'a [u8],
}

impl<'a> Chunks<'a> {
    /// Input that lies in `first` and goes on in `second`.
    pub fn new(first: &'a [u8], second: &'a [u8]) -> Self {
        Chunks { first, second }
    }

    /// Bytes in both slices.
    pub fn len(&self) -> usize {
        self.first.len() + self.second.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The two slices; the second may be empty.
    pub fn slices(&self) -> (&'a [u8], &'a [u8]) {
        (self.first, self.second)
    }

    /// Distance from the first byte to the first `wanted`, across the wrap.
    pub fn position(&self, wanted: u8) -> Option<usize> {
        let in_first = self.first.iter().position(|&byte| byte == wanted);
        in_first.or_else(|| {
            let in_second = self.second.iter().position(|&byte| byte == wanted)?;
            Some(self.first.len() + in_second)
        })
    }
}

/// The outgoing side as a handler sees it: room for bytes that are not in the input already.
pub struct Reply<'a> {
    outbound: &'a mut Outbound,
    leases: &'a mut Leases,
    room: usize,
}

impl<'a> Reply<'a> {
    /// A reply that appends to `outbound`, which has `room` for so many bytes.
    pub(super) fn new(outbound: &'a mut Outbound, leases: &'a mut Leases, room: usize) -> Self {
        Reply { outbound, leases, room }
    }

    /// Bytes that [`put`](Reply::put) takes now.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Appends all of `bytes` and returns true, or none of them and returns false. A handler that got false answers
    /// [`Next::Room`]; what it wants to say in one piece must fit the ring (`--ring`).
    #[must_use]
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        let taken = bytes.len() <= self.room && self.outbound.append(bytes, self.leases);
        if taken {
            self.room -= bytes.len();
        }
        taken
    }
}
