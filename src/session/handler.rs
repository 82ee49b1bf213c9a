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

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use memchr::memchr;

use super::buffer::{Leases, Outbound};
use super::datagram::Datagrams;
use super::mailbox::{Address, Limits};
use super::operator::Console;
use super::part::Brought;
use super::upstream::{DatagramUsage, Upstream};
use crate::clock::Clock;

/// A protocol, one value per listener, shared by every thread of the engine.
pub trait Service: Any + Send + Sync {
    /// The name that the user types and the log shows.
    fn name(&self) -> &'static str;

    /// Starts the protocol for one new session, which others reach at `address`; None unless the service has
    /// [asked for one](Service::mailbox).
    fn open(&self, address: Option<&Address>) -> Box<dyn Handler>;

    /// How much others may leave for each of its sessions, and how many calls it may have in flight; None for a service
    /// whose sessions neither hear of others nor make calls.
    fn mailbox(&self) -> Option<Mailing> {
        None
    }

    /// Whom its sessions are connected to, for a service whose sessions are pairs: nobody calls [`open`](Service::open) then.
    /// Asked once the service is [prepared](Service::prepare).
    fn upstream(&self) -> Option<&Upstream> {
        None
    }

    /// Whether `handle_open` has something to say, so that a new session has a turn before anything comes.
    fn speaks_first(&self) -> bool {
        false
    }

    /// How long one turn of this service can take; decides whether a poller may serve it by itself.
    fn pace(&self) -> Pace;

    /// How it answers datagrams, if it does.
    fn datagrams(&self) -> Option<&dyn Datagrams> {
        None
    }

    /// Whom it forwards datagrams to, for a service that relays them instead of answering. Asked once the service is
    /// [prepared](Service::prepare).
    fn datagram_upstream(&self) -> Option<&Upstream<DatagramUsage>> {
        None
    }

    /// The scheme that it is reached by, for a service that its parameters have left only one.
    fn only_scheme(&self) -> Option<&'static str> {
        None
    }

    /// How it serves the daemon's operators, if it does; then no engine serves its sessions.
    fn console(&self) -> Option<&dyn Console> {
        None
    }

    /// Whether it makes calls for [`Lane::Cpu`], or has work done [side by side](Reply::parallel).
    fn has_jobs(&self) -> bool {
        false
    }

    /// Whether it makes calls for [`Lane::Files`].
    fn has_file_jobs(&self) -> bool {
        false
    }

    /// What is to be done again and again, beside its sessions, if something is.
    fn sweep(&self) -> Option<Arc<dyn Sweep>> {
        None
    }

    /// Whether its sessions reach each other through the memory of the process, so that an engine will not do whose sessions
    /// are in processes of their own.
    fn meets_in_memory(&self) -> bool {
        false
    }

    /// Does what takes a while or may fail, and is part of no request. Called before anybody can connect, and before the
    /// engine has any thread or process; or, when it comes by a reload, while the engine serves others.
    ///
    /// # Errors
    /// Why it cannot serve, for people.
    fn prepare(&self) -> Result<(), String> {
        Ok(())
    }

    /// For a reload that has this service, which is [prepared](Service::prepare), follow `old` at its address: one like this that
    /// goes on with what the clients of `old` share. It is offered instead. None if there is nothing to go on with.
    fn succeed(&self, _old: &Arc<dyn Service>) -> Option<Arc<dyn Service>> {
        None
    }

    /// Whether its handlers and calls look at the [`Moment`], which costs the engine readings of the clock.
    fn reads_clock(&self) -> bool {
        false
    }
}

/// Work that a service has done every so often, slice by slice, on the pool for files.
pub trait Sweep: Send + Sync {
    /// From the end of one to the beginning of the next. A reload may change it.
    fn every(&self) -> Duration;

    /// Does the next slice: as much as may hold up the jobs of clients. False when this was the last one.
    fn slice(&self) -> bool;
}

/// What a service asks for so that its sessions hear of others, and of their own calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mailing {
    /// How much may wait for one session; as many bytes of its calls may be in flight.
    pub limits: Limits,
    /// Calls of one session that may be in flight, which each is until its reply has left; with so many, its input waits. At
    /// least 1.
    pub calls: u32,
    /// How what has come for it is sent.
    pub sending: Sending,
}

/// How a session sends several messages that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// All of them in one vectored write.
    Vectored,
    /// Each as a message of its own, up to 32 of them in one `sendmmsg`, for comparison.
    Each,
}

/// What bounds the length of a service's turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Bounded by the byte budget of the turn alone: the service copies, forwards or drops bytes.
    Brief,
    /// Turns are as brief, or nearly, and what is not leaves them as calls.
    Calls,
    /// Bounded by nothing that the engine knows: the peer names the work, or the service blocks.
    Open,
}

/// The protocol's half of one session. Owned by the session, called by its one owner of the moment.
///
/// After every answer but [`Next::More`], [`Next::Room`] and [`Next::Talk`] the handler is called again for what is left.
pub trait Handler: Send {
    /// The session has opened and nothing has come yet. A protocol in which the server speaks first does so here.
    fn handle_open(&mut self, _reply: &mut Reply<'_>) -> Next {
        Next::More
    }

    /// Unread input: at least one byte, all that has come and is not yet taken.
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next;

    /// Somebody has asked the session to look for itself ([`Mailbox::note`](super::mailbox::Mailbox::note)).
    fn handle_note(&mut self, _reply: &mut Reply<'_>) -> Next {
        Next::More
    }

    /// The outgoing side has room again after an answer of [`Next::Room`] or [`Next::Talk`].
    fn handle_room(&mut self, _reply: &mut Reply<'_>) -> Next {
        Next::More
    }

    /// The peer has sent its FIN and `rest` is the input that the handler left unread. The default drops the rest
    /// and ends the session once everything said before has been sent.
    fn handle_end(&mut self, _rest: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Finish { forward: 0 }
    }

    /// The session has ended, in this way. The last call of all, of every session that has begun: also of one that never
    /// opened, and of one whose handler has panicked. Nothing can be said any more, and the peer may see the end only later.
    fn handle_closed(&mut self, _closed: Closed) {}
}

/// A handler's answer: what becomes of the bytes it was shown, and when it wants to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Nothing can be done until more input comes.
    More,
    /// Nothing can be done until so many bytes, those shown among them, can be shown whole. If they are more than a ring
    /// holds, they come to lie in one buffer of exactly their size. The handler has checked that so many are allowed.
    Gather(usize),
    /// The first `n` bytes go back to the peer, from the memory they came into.
    Forward(usize),
    /// The first `n` bytes have been dealt with.
    Discard(usize),
    /// There is more to say than the reply has room for: call `handle_room` when some of it has left. Input waits.
    Room,
    /// There is always more to say: call `handle_room` whenever there is room, and show input and the end meanwhile. Holds
    /// until one of those calls is answered otherwise; a drain ends such a session as it ends a silent one.
    Talk,
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
    /// A limit of the daemon was reached: the connection was accepted only to be closed, or would have needed more memory
    /// than all may have.
    OverLimit,
    /// Ended by an operator's command, or because a second signal stopped the daemon at once.
    Killed,
    /// Ended by the daemon's drain, with everything sent or the drain timeout reached.
    Drained,
    /// The service's code panicked during a turn of this session.
    Panicked,
    /// It took too little of what others sent it.
    Evicted,
    /// It could not be given what it had been promised: the rest of a file that was cut short meanwhile.
    Failed,
    /// Nobody took the connection that it was to be relayed by.
    Unreachable,
}

impl Closed {
    /// All the ways, in the order in which they are printed. The position is the index of the counter.
    pub const ALL: [Closed; 13] = [
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
        Closed::Evicted,
        Closed::Failed,
        Closed::Unreachable,
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
            Closed::Evicted => "evicted",
            Closed::Failed => "failed",
            Closed::Unreachable => "unreachable",
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

    /// The bytes of this range, where they lie.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn range(&self, Range { start, end }: Range<usize>) -> Chunks<'a> {
        let wrap = self.first.len();
        let first = &self.first[start.min(wrap)..end.min(wrap)];
        let second = &self.second[start.saturating_sub(wrap)..end.saturating_sub(wrap)];
        if first.is_empty() { Chunks::new(second, &[]) } else { Chunks::new(first, second) }
    }

    /// The byte so far from the first.
    #[inline]
    pub fn byte_at(&self, at: usize) -> Option<u8> {
        let byte = self.first.get(at).or_else(|| self.second.get(at - self.first.len()));
        byte.copied()
    }

    /// The number in the four bytes from `at` on, the highest first; none unless all of them are there.
    #[inline]
    pub fn u32_at(&self, at: usize) -> Option<u32> {
        let in_one = self.first.get(at..).and_then(<[u8]>::first_chunk);
        let bytes = in_one.copied().or_else(|| {
            let mut bytes = [0; 4];
            (at + 4 <= self.len()).then(|| self.range(at..at + 4).copy_to(&mut bytes))?;
            Some(bytes)
        });
        bytes.map(u32::from_be_bytes)
    }

    /// Distance from the first byte to the first `wanted`, across the wrap.
    #[inline]
    pub fn position(&self, wanted: u8) -> Option<usize> {
        memchr(wanted, self.first).or_else(|| Some(self.first.len() + memchr(wanted, self.second)?))
    }

    /// Copies all bytes to `out`, which is as long.
    ///
    /// # Panics
    /// If it is not.
    pub fn copy_to(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.len(), "there is a place for every byte");
        let (first, second) = out.split_at_mut(self.first.len());
        first.copy_from_slice(self.first);
        second.copy_from_slice(self.second);
    }
}

/// Work that leaves its session: run by itself, perhaps beside other calls of the same session, and never within a turn.
/// What it returns goes to the peer by the session's mailbox.
pub trait Call: Send {
    /// Who is to run it.
    fn lane(&self) -> Lane {
        Lane::Worker
    }

    /// Bytes of its session's share of memory that it takes up until its reply has left; about as many as it holds, or returns.
    fn bytes(&self) -> usize {
        0
    }

    /// Does the work. One that takes long asks now and then whether it `is_wanted`: if not, the session is over or about to
    /// be, somebody waits for this thread, and nobody hears what is returned. One for files that takes longer than others should
    /// wait for a thread goes on as [another](Brought::going_on) now and then.
    fn run(self: Box<Self>, moment: &Moment, is_wanted: &dyn Fn() -> bool) -> Brought;
}

/// Who runs a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Whoever runs turns: each call is a service request like a turn.
    Worker,
    /// The pool for work on the CPU, if the engine has one. When as many wait there as may, whoever runs turns.
    Cpu,
    /// The pool for work that waits for files, if the engine has one; never whoever runs turns then. When as many wait there
    /// as may, the call waits until there is a place, and its session with it.
    Files,
}

/// Does the parts of one piece of work side by side.
pub trait Parallel: Sync {
    /// How many parts can be done at once.
    fn width(&self) -> usize;

    /// Calls `body` for each of `0..parts`, in any order, perhaps several at once, and returns when all are done.
    fn for_each_part(&self, parts: usize, body: &(dyn Fn(usize) + Sync));
}

/// By whom and when a turn or a call is run.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    clock: Clock,
    /// The worker's number, where workers have one.
    pub worker: Option<u16>,
    /// When its reason was seen, by [`now_ns`](Moment::now_ns)'s clock; None where the engine cannot know.
    pub ready_ns: Option<u64>,
    /// When it was taken up.
    pub taken_ns: u64,
}

impl Moment {
    /// A moment by `clock`, whose times are those since its start.
    pub fn new(clock: Clock, worker: Option<u16>, ready_ns: Option<u64>, taken_ns: u64) -> Moment {
        let ready_ns = ready_ns.map(|ready_ns| clock.monotonic_ns_of(ready_ns));
        Moment { clock, worker, ready_ns, taken_ns: clock.monotonic_ns_of(taken_ns) }
    }

    /// The time now: `CLOCK_MONOTONIC`, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.clock.monotonic_ns_of(self.clock.now_ns())
    }
}

/// The outgoing side as a handler sees it: room for bytes that are not in the input already, and the way out for calls.
pub struct Reply<'a> {
    outbound: &'a mut Outbound,
    leases: &'a mut Leases,
    calls: &'a mut Vec<Box<dyn Call>>,
    moment: &'a Moment,
    parallel: Option<&'a dyn Parallel>,
    room: usize,
    is_through: bool,
}

impl<'a> Reply<'a> {
    /// A reply that appends to `outbound`, which has `room` for so many bytes, behind input that all has left if it
    /// `is_through`.
    pub(super) fn new(outbound: &'a mut Outbound, means: &'a mut Means<'_>, room: usize, is_through: bool) -> Self {
        let Means { leases, calls, moment, parallel, .. } = means;
        Reply { outbound, leases, calls, moment, parallel: *parallel, room, is_through }
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

    /// Whether all that was forwarded before has left. Then bytes that are discarded are gone at once, and a handler that puts
    /// the head of a message, discards what stood in its place and forwards the rest says it in one piece. If not, replies to
    /// calls and posts of others could come in between: it answers [`Next::Room`] and waits.
    pub fn is_through(&self) -> bool {
        self.is_through
    }

    /// Sends a call on its way, one for each time that the handler is shown input. Its reply comes to the peer by itself;
    /// the end of the input is not shown before.
    pub fn call(&mut self, call: Box<dyn Call>) {
        self.calls.push(call);
    }

    /// By what work can be done side by side that one thread would take long for.
    pub fn parallel(&self) -> Option<&'a dyn Parallel> {
        self.parallel
    }

    /// By whom and when the handler is called.
    pub fn moment(&self) -> &Moment {
        self.moment
    }
}

/// What whoever runs a turn lends it, and where the turn writes down what it did.
pub struct Means<'a> {
    /// Where its rings come from.
    pub leases: &'a mut Leases,
    /// At most so many bytes of input are read, and one ring.
    pub budget_bytes: usize,
    /// By whom and when it is run.
    pub moment: Moment,
    /// By what a handler can have work done side by side.
    pub parallel: Option<&'a dyn Parallel>,
    /// What was moved.
    pub tally: &'a mut Tally,
    /// Calls that the handler made: the engine runs them once the session is given back.
    pub calls: &'a mut Vec<Box<dyn Call>>,
}

/// What one turn moved, for the counters of whoever ran it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes read from the stream.
    pub read_bytes: u64,
    /// Bytes written to the stream.
    pub written_bytes: u64,
    /// System calls that read from the stream, those that would have blocked too.
    pub reads: u64,
    /// System calls that wrote to the stream, those that would have blocked too.
    pub writes: u64,
    /// Reads that would have blocked.
    pub read_blocks: u64,
    /// Writes that would have blocked, or were cut short.
    pub write_blocks: u64,
    /// Messages of others that were taken from the mailbox.
    pub posts: u64,
    /// Messages of others that the mailbox had refused.
    pub posts_refused: u64,
    /// Times that the engine was told of mail.
    pub post_wakes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These bytes, cut in two at every place.
    fn cuts(bytes: &[u8]) -> impl Iterator<Item = Chunks<'_>> {
        (0..=bytes.len()).map(|at| Chunks::new(&bytes[..at], &bytes[at..]))
    }

    fn joined(chunks: Chunks<'_>) -> Vec<u8> {
        let (first, second) = chunks.slices();
        [first, second].concat()
    }

    #[test]
    fn where_the_memory_wraps_makes_no_difference() {
        let bytes: Vec<u8> = (100..111).collect();
        let number = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        for chunks in cuts(&bytes) {
            for at in 0..bytes.len() + 3 {
                assert_eq!(chunks.byte_at(at), bytes.get(at).copied(), "{at} of {chunks:?}");
                assert_eq!(chunks.u32_at(at), number(at), "{at} of {chunks:?}");
            }
            for wanted in 99..=111 {
                let expected = bytes.iter().position(|&byte| byte == wanted);
                assert_eq!(chunks.position(wanted), expected, "{wanted} in {chunks:?}");
            }
            let mut copy = [0; 11];
            chunks.copy_to(&mut copy);
            assert_eq!(copy, *bytes);
        }
    }

    #[test]
    fn a_range_is_the_bytes_themselves_and_in_one_slice_where_they_are() {
        let bytes: Vec<u8> = (100..111).collect();
        for chunks in cuts(&bytes) {
            let wrap = chunks.slices().0.len();
            for start in 0..=bytes.len() {
                for end in start..=bytes.len() {
                    let range = chunks.range(start..end);
                    assert_eq!(joined(range), bytes[start..end], "{start}..{end} of {chunks:?}");
                    let (first, second) = range.slices();
                    assert_eq!(second.is_empty(), end <= wrap || start >= wrap, "{start}..{end} of {chunks:?}");
                    assert!(start == end || first.as_ptr() == bytes[start..].as_ptr(), "nothing was copied");
                }
            }
        }
    }

    #[test]
    #[should_panic = "out of range"]
    fn a_range_that_is_not_there_is_refused() {
        let _ = Chunks::new(&[1, 2], &[3]).range(1..4);
    }
}
