//! `recvmmsg` and `sendmmsg` on one socket, in batches of up to [`MOST_BATCHED`], with the plain calls as fallback and as
//! test oracle.
//!
//! [`Inbox`] receives datagrams and [`Outbox`] sends them, into and from memory that they own; nothing is allocated per
//! batch. A *message* is what the kernel moves as one: a datagram, or several of equal length that it splits (GSO) or has
//! joined (GRO), whose pieces are *segments*. Each way to save calls is a switch of its own ([`Switches`]).
//! [`send_messages`] is the same bargain for a stream.
//!
//! Invariants:
//! - *one-bad-datagram*: an error of one datagram costs that datagram, which is counted, and no other.
//! - *old-errors-pass*: an error that ICMP has left on the socket costs nothing.
//! - *order*: answers leave in the order in which they were put.
//!
//! What is saved by which switch: `design/datagrams.md`. Read next: `udp.rs`, the socket that has both boxes.

mod calls;
mod control;
mod features;
mod inbox;
mod outbox;
mod stream;

pub use features::turn_on;
pub use inbox::{Datagram, Inbox, ReceiveCounts};
pub use outbox::{Outbox, SendCounts, Sent};
pub use stream::send_messages;

pub(super) use features::{dropped, tell_local_addresses};

/// Messages per call: what the way into the kernel costs is shared by as many. Guess.
pub const MOST_BATCHED: usize = 32;

/// Bytes of the longest message: all that a length of 16 bits can say.
const LONGEST_MESSAGE: usize = 65_535;

/// How datagrams may be moved more than one at a time; each by itself, and each without effect where the kernel lacks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Several messages per call (`recvmmsg`, `sendmmsg`).
    pub mmsg: bool,
    /// Datagrams that follow each other to one address, of one length, leave as one message (`UDP_SEGMENT`).
    pub gso: bool,
    /// What arrived like that is received as one message (`UDP_GRO`).
    pub gro: bool,
}

impl Switches {
    /// One datagram per message, one message per call.
    pub const OFF: Switches = Switches { mmsg: false, gso: false, gro: false };

    /// As many at once as the kernel can.
    pub const ON: Switches = Switches { mmsg: true, gso: true, gro: true };
}

/// Memory in pages that the kernel gives when they are first written to.
fn untouched(bytes: usize) -> Box<[u8]> {
    vec![0; bytes].into_boxed_slice()
}
