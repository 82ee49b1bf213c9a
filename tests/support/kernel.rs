//! A kernel and a peer in memory: one connection that does what a socket may do, in an order that a seed decides.
//!
//! It models what the engines rely on and no more. In edge mode readiness is told once: input when bytes arrive, the end
//! when the FIN does, output only after a write was cut short and only once somebody asked. In one-shot mode it is told
//! once for each time it was asked for. Bytes, FINs and room may come between two calls of one turn.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};

use maitred::random::Random;
use maitred::session::state::Reasons;
use maitred::session::{Session, Stream};

use crate::random::Draw;

/// What one connection is like.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// What the peer sends, in pieces.
    pub(crate) input: Vec<u8>,
    /// Whether it sends a FIN after that.
    pub(crate) sends_fin: bool,
    /// After how many acts it resets the connection, if it does.
    pub(crate) resets_after: Option<usize>,
    /// Whether it ever takes what it is sent.
    pub(crate) reads: bool,
    /// Bytes that the socket holds for it.
    pub(crate) capacity: usize,
    /// The largest piece that arrives at once.
    pub(crate) piece: usize,
}

/// How readiness is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Told once per change.
    Edge,
    /// The same, and each event tells all that is true, as epoll does.
    EdgeTellsAll,
    /// Told once per request.
    Oneshot,
}

pub(crate) struct Kernel {
    random: Random,
    watch: Watch,
    peer: Peer,
    to_come: VecDeque<u8>,
    arrived: VecDeque<u8>,
    /// Where in the input a read ends early, as Linux ends it at urgent data.
    marks: VecDeque<usize>,
    fin_arrived: bool,
    reset: bool,
    /// A write has told of the reset, which reads do not tell again.
    told: bool,
    space: usize,
    /// A write took less than it was given, and nobody has been told of room since.
    was_short: bool,
    output_watched: bool,
    /// One-shot: what the next event is asked for (input, output).
    armed: Option<(bool, bool)>,
    noted: Reasons,
    /// All that the session wrote, in order.
    pub(crate) received: Vec<u8>,
    pub(crate) read_bytes: usize,
    /// All that ever arrived.
    pub(crate) arrived_bytes: usize,
    pub(crate) fin_read: bool,
    /// The session has sent its FIN.
    pub(crate) finished: bool,
    /// What the peer did so far.
    pub(crate) acts: usize,
    /// How often it was read from and written to, in vain too.
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    calls: usize,
}

/// Calls of one turn that no honest turn needs.
const TOO_MANY_CALLS: usize = 10_000;

impl Kernel {
    pub(crate) fn new(peer: Peer, watch: Watch, seed: u64) -> Kernel {
        Kernel {
            random: Random::new(seed),
            watch,
            to_come: peer.input.iter().copied().collect(),
            arrived: VecDeque::new(),
            marks: VecDeque::new(),
            fin_arrived: false,
            reset: false,
            told: false,
            space: peer.capacity,
            was_short: false,
            output_watched: false,
            armed: Some((true, false)),
            noted: Reasons::NONE,
            received: Vec::new(),
            read_bytes: 0,
            arrived_bytes: 0,
            fin_read: false,
            finished: false,
            acts: 0,
            reads: 0,
            writes: 0,
            calls: 0,
            peer,
        }
    }

    /// The peer does one thing; false if nothing is left that it would do.
    pub(crate) fn act(&mut self) -> bool {
        if self.reset {
            return false;
        }
        if self.peer.resets_after.is_some_and(|acts| acts <= self.acts) {
            self.reset = true;
            self.acts += 1;
            if self.random.once_in(2) {
                self.arrived.clear();
            }
            self.note(Reasons::READABLE | Reasons::READ_ON | Reasons::WRITABLE);
            return true;
        }
        let fin_is_next = self.to_come.is_empty() && self.peer.sends_fin && !self.fin_arrived;
        let can_send = !self.to_come.is_empty() || fin_is_next;
        let can_take = self.peer.reads && self.space < self.peer.capacity;
        match (can_send, can_take) {
            (false, false) => return false,
            (true, true) if self.random.once_in(2) => self.take(),
            (false, true) => self.take(),
            (true, _) => self.send(),
        }
        self.acts += 1;
        true
    }

    fn send(&mut self) {
        let mut reasons = Reasons::NONE;
        if !self.to_come.is_empty() {
            let count = self.random.up_to(self.peer.piece).min(self.to_come.len());
            self.arrived.extend(self.to_come.drain(..count));
            reasons |= Reasons::READABLE;
            if self.random.once_in(16) {
                self.marks.push_back(self.arrived_bytes + self.random.below(count));
                reasons |= Reasons::READ_ON;
            }
            self.arrived_bytes += count;
        }
        // With the last bytes, in the same event, or by itself.
        if self.to_come.is_empty() && self.peer.sends_fin && (reasons.is_empty() || self.random.once_in(2)) {
            self.fin_arrived = true;
            reasons |= Reasons::READABLE | Reasons::READ_ON;
        }
        self.note(reasons);
    }

    fn take(&mut self) {
        self.space += self.random.up_to(self.peer.capacity - self.space);
        if std::mem::take(&mut self.was_short) {
            self.note(Reasons::WRITABLE);
        }
    }

    fn note(&mut self, reasons: Reasons) {
        if self.watch == Watch::EdgeTellsAll {
            self.noted |= self.level(true, self.output_watched);
            return;
        }
        if reasons.intersects(Reasons::READABLE) {
            self.noted |= Reasons::READABLE;
        }
        if reasons.intersects(Reasons::READ_ON) {
            self.noted |= Reasons::READ_ON;
        }
        if reasons.intersects(Reasons::WRITABLE) && self.output_watched {
            self.noted |= Reasons::WRITABLE;
        }
    }

    /// What is true now, of what is asked for.
    fn level(&self, input: bool, output: bool) -> Reasons {
        let mut reasons = Reasons::NONE;
        if input && self.has_input() {
            reasons |= Reasons::READABLE;
        }
        let is_marked = self.marks.back().is_some_and(|&mark| mark >= self.read_bytes);
        if (input && (self.fin_arrived || is_marked)) || self.reset {
            reasons |= Reasons::READ_ON;
        }
        if output && self.has_space() {
            reasons |= Reasons::WRITABLE;
        }
        reasons
    }

    /// Takes the events that have come.
    pub(crate) fn take_reasons(&mut self) -> Reasons {
        if self.watch != Watch::Oneshot {
            return std::mem::replace(&mut self.noted, Reasons::NONE);
        }
        let Some((input, output)) = self.armed else { return Reasons::NONE };
        let reasons = self.level(input, output);
        if !reasons.is_empty() {
            self.armed = None;
        }
        reasons
    }

    /// Asks for what an engine asks for after a turn that left the session idle.
    pub(crate) fn watch(&mut self, session: &Session) {
        self.watch_for(session.wants_input(), session.is_write_blocked());
    }

    /// The same of a stream that waits for these.
    pub(crate) fn watch_for(&mut self, wants_input: bool, blocked: bool) {
        if self.watch == Watch::Oneshot {
            let asked = (wants_input, blocked);
            self.armed = (asked != (false, false)).then_some(asked);
        } else if blocked && !self.output_watched {
            self.output_watched = true;
            // Asking again tells all that is true already.
            self.noted |= self.level(true, true);
        }
    }

    /// Whether an event waits to be taken.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn has_events(&self) -> bool {
        match (self.watch, self.armed) {
            (Watch::Oneshot, Some((input, output))) => !self.level(input, output).is_empty(),
            (Watch::Oneshot, None) => false,
            _ => !self.noted.is_empty(),
        }
    }

    /// Whether a read would bring something: bytes, the FIN that was not yet read, or an error.
    pub(crate) fn has_input(&self) -> bool {
        !self.arrived.is_empty() || (self.fin_arrived && !self.fin_read) || self.reset
    }

    /// Whether a write would be taken, or fail.
    pub(crate) fn has_space(&self) -> bool {
        self.space > 0 || self.reset
    }

    /// Whether something has come that was not read.
    pub(crate) fn has_unread(&self) -> bool {
        !self.arrived.is_empty()
    }

    pub(crate) fn was_reset(&self) -> bool {
        self.reset
    }

    pub(crate) fn begin_turn(&mut self) {
        self.calls = 0;
    }

    fn begin_call(&mut self) {
        self.calls += 1;
        assert!(self.calls < TOO_MANY_CALLS, "a turn that does not end");
        if self.random.once_in(8) {
            self.act();
        }
    }

    fn broken(&mut self) -> io::Error {
        self.random.pick(&[ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::TimedOut]).into()
    }
}

impl Stream for Kernel {
    fn read(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        assert!(
            !slices.is_empty() && slices.iter().all(|slice| !slice.is_empty()),
            "a read of nothing looks like a FIN"
        );
        assert!(!self.fin_read, "nothing is read behind the FIN");
        self.begin_call();
        self.reads += 1;
        if self.arrived.is_empty() {
            return match (self.reset, self.fin_arrived) {
                (true, _) if self.told => Ok(0),
                (true, _) => Err(self.broken()),
                (_, true) => {
                    self.fin_read = true;
                    Ok(0)
                }
                _ => Err(ErrorKind::WouldBlock.into()),
            };
        }
        let mut count = 0;
        while self.marks.front().is_some_and(|&mark| mark <= self.read_bytes) {
            self.marks.pop_front();
        }
        let until_mark = self.marks.front().map_or(usize::MAX, |&mark| mark - self.read_bytes);
        for byte in slices.iter_mut().flat_map(|slice| slice.iter_mut()) {
            if count == until_mark {
                break;
            }
            let Some(arrived) = self.arrived.pop_front() else { break };
            *byte = arrived;
            count += 1;
        }
        self.read_bytes += count;
        Ok(count)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(!slices.is_empty() && slices.iter().all(|slice| !slice.is_empty()), "a write of nothing");
        assert!(!self.finished, "nothing is written behind the FIN");
        self.begin_call();
        self.writes += 1;
        if self.reset {
            let error = self.broken();
            self.told = error.kind() != ErrorKind::BrokenPipe;
            return Err(error);
        }
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let count = bytes.len().min(self.space);
        self.space -= count;
        self.received.extend_from_slice(&bytes[..count]);
        self.was_short |= count < bytes.len();
        if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn finish(&mut self) -> io::Result<()> {
        assert!(!self.finished, "the FIN is sent once");
        self.begin_call();
        if self.reset {
            return Err(ErrorKind::NotConnected.into());
        }
        self.finished = true;
        Ok(())
    }
}
