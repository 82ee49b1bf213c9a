//! [`Pair`]: the session of a relay, whose bytes go from one stream to another and back, without knowing what they are.
//!
//! A client's end and an upstream end, and between them two flows, one for each direction. A flow has at most one ring: what
//! was read from one end and not yet taken by the other. It is driven in turns, as a [`Session`](super::Session) is, by the
//! owner of both streams; a turn moves what can be moved in both directions, within one budget.
//!
//! | a flow is | event | what the turn does | and is then |
//! |---|---|---|---|
//! | open | input at its source | reads it, and writes it to its sink | open |
//! | open | its source's FIN | sends what is owed, then the FIN: the other flow goes on | over |
//! | open | its sink is gone behind a FIN | gives up what is owed, reads and drops what comes: the other flow goes on | dropping |
//! | dropping | its source's FIN, or more than [`MOST_DROPPED`] | nothing more is read | dropped |
//! | open | its sink is broken, says a write | gives up what is owed; the session ends when the other flow would wait | dropped |
//! | any | its source is broken, says a read | ends the session: both streams are to be reset | |
//! | both over or dropped | | ends the session | |
//!
//! Invariants: *no-lost-readiness*, *idle-holds-nothing* as for a session, and
//! - *backpressure*: nothing is read for a flow whose ring is full, so that the end that does not read stops the other;
//! - *fin-as-fin*: each end is sent a FIN exactly if the other one sent one, or the daemon drains, behind all that was read.
//!
//! A flow that carries much goes through a pipe, in the kernel, as long as it does (`pair/bulk.rs`).
//!
//! Read next: `upstream.rs`, which end that is; `engine/paired.rs`, which connects it.

pub mod bulk;

use std::io::{self, ErrorKind};

use self::bulk::{Bulk, Pipes};

use super::buffer::{Inbound, Leases};
use super::gather::{Gather, with_io_slices};
use super::handler::{Closed, Means, Tally};
use super::state::Reasons;
use super::stream::closed_by;
use super::{Stream, TurnEnd};

/// Bytes that are read for an end that is gone, so that what was said to their sender is not lost by a reset: as much as is
/// usually on its way. Guess.
pub const MOST_DROPPED: usize = 1 << 20;

/// Slices of a flow: two of its ring, one of the header.
const MOST_SLICES: usize = 3;

/// One of the two ends of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who came.
    Client,
    /// Whom the daemon has connected to on its behalf.
    Upstream,
}

/// What is known of the stream at one end.
#[derive(Default)]
struct Readiness {
    /// It may hold input: set by readiness, cleared by a read that drained it.
    may_read: bool,
    /// It may take output: cleared by a write cut short, set by readiness.
    may_write: bool,
    /// A short read does not mean a drained stream.
    reads_on: bool,
    /// A read has returned the FIN.
    ended: bool,
    /// A write has found it broken in this way. What came before that is still read; the end of it is no FIN.
    broken: Option<Closed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// Nothing more is read: what is owed goes out, then the FIN.
    Ending,
    /// The FIN is sent.
    Over,
    /// The sink is gone; so many bytes have been dropped.
    Dropping(usize),
    /// The same, and the source has said all.
    Dropped,
}

/// One direction.
struct Flow {
    /// What was read and is owed to the sink; all of it is forwarded.
    ring: Inbound,
    /// The same, of a flow that carries much. One of the two is empty.
    bulk: Bulk,
    stage: Stage,
}

/// The state of a relay between and during turns.
pub struct Pair {
    client: Readiness,
    upstream: Readiness,
    /// From the client to upstream.
    up: Flow,
    /// Back.
    down: Flow,
    /// What upstream is told before the client's first byte, and how much of it has left.
    header: Box<[u8]>,
    header_sent: usize,
    /// Which flow is first in the next turn: the budget may not be enough for both.
    down_first: bool,
    draining: bool,
    /// In the last turn everybody who is still owed something has taken some.
    all_took: bool,
}

impl Pair {
    /// Between two streams that may both hold input already; upstream is told `header` before anything else.
    pub fn new(header: Vec<u8>) -> Pair {
        let fresh = || Readiness { may_read: true, may_write: true, ..Readiness::default() };
        let flow = || Flow { ring: Inbound::default(), bulk: Bulk::default(), stage: Stage::Open };
        Pair {
            client: fresh(),
            upstream: fresh(),
            up: flow(),
            down: flow(),
            header: header.into(),
            header_sent: 0,
            down_first: false,
            draining: false,
            all_took: false,
        }
    }

    /// Whether that stream has refused bytes that it is owed.
    pub fn is_write_blocked(&self, end: End) -> bool {
        match end {
            End::Client => !self.client.may_write,
            End::Upstream => !self.upstream.may_write,
        }
    }

    /// Whether it would be read if it had input, rather than wait for the other end to take bytes first.
    pub fn wants_input(&self, end: End) -> bool {
        let (readiness, flow) = match end {
            End::Client => (&self.client, &self.up),
            End::Upstream => (&self.upstream, &self.down),
        };
        !readiness.may_read && !readiness.ended && flow.reads() && flow.has_room()
    }

    /// Whether one direction has ended and the other has not.
    pub fn is_half_closed(&self) -> bool {
        self.up.is_over() != self.down.is_over()
    }

    /// Whether all has been sent that will be, and only what is dropped still comes.
    pub fn is_lingering(&self) -> bool {
        let drops = |flow: &Flow| matches!(flow.stage, Stage::Dropping(_));
        drops(&self.up) && self.down.is_over() || drops(&self.down) && self.up.is_over()
    }

    /// Whether something was read that has not left, so that an end now would cut it off.
    pub fn owes(&self) -> bool {
        self.up.owed_len() + self.down.owed_len() > 0
    }

    /// Whether, in the last turn, whoever is still owed bytes has taken some.
    pub fn all_took(&self) -> bool {
        self.all_took
    }

    /// Takes up reasons without a turn.
    pub fn handle_reasons(&mut self, reasons: Reasons) {
        let drains = reasons.intersects(Reasons::DRAIN);
        self.draining |= drains;
        let reads = Reasons::READABLE | Reasons::READ_ON;
        self.client.note(reasons.intersects(reads), reasons.intersects(Reasons::WRITABLE), drains);
        self.client.reads_on |= reasons.intersects(Reasons::READ_ON);
        let reads = Reasons::UPSTREAM_READABLE | Reasons::UPSTREAM_READ_ON;
        self.upstream.note(reasons.intersects(reads), reasons.intersects(Reasons::UPSTREAM_WRITABLE), drains);
        self.upstream.reads_on |= reasons.intersects(Reasons::UPSTREAM_READ_ON);
    }

    /// Does all that can be done now, within `means`; where a flow carries much, through one of `pipes`.
    pub fn turn(
        &mut self,
        client: &mut impl Stream,
        upstream: &mut impl Stream,
        reasons: Reasons,
        means: &mut Means<'_>,
        pipes: Option<&dyn Pipes>,
    ) -> TurnEnd {
        self.handle_reasons(reasons);
        means.leases.take_refused();
        let mut turn = Turn { left_bytes: means.budget_bytes, means, pipes, took: Took::default() };
        self.up.bulk.begin_turn();
        self.down.bulk.begin_turn();
        let end = loop {
            match self.advance(client, upstream, &mut turn) {
                Err(closed) => break TurnEnd::Closed(closed),
                Ok(_) if self.is_over() => break TurnEnd::Closed(self.closed()),
                Ok(true) => {}
                Ok(false) => break self.transition_end(turn.left_bytes, turn.means.leases),
            }
        };
        let Turn { took, means, .. } = turn;
        self.down_first = !self.down_first;
        self.all_took = (self.client.may_write || took.client) && (self.upstream.may_write || took.upstream);
        for flow in [&mut self.up, &mut self.down] {
            flow.ring.settle(means.leases);
            flow.bulk.settle(means.leases, pipes);
        }
        end
    }

    /// Gives back what it holds; for its owner, before it drops the pair.
    pub fn release(&mut self, leases: &mut Leases, pipes: Option<&dyn Pipes>) {
        for flow in [&mut self.up, &mut self.down] {
            flow.ring.release(leases);
            flow.bulk.give_up(leases, pipes);
        }
    }

    /// One round of both flows. True if it changed anything.
    fn advance(
        &mut self,
        client: &mut impl Stream,
        upstream: &mut impl Stream,
        turn: &mut Turn<'_, '_>,
    ) -> Result<bool, Closed> {
        let mut changed = false;
        for goes_down in [self.down_first, !self.down_first] {
            let Pair { client: near, upstream: far, up, down, header, header_sent, draining, .. } = self;
            changed |= if goes_down {
                let mut ends = Ends { source: far, sink: near, header: &[], header_sent: &mut 0, drains: false };
                let (changed, took) = down.advance(&mut ends, upstream, client, turn)?;
                turn.took.client |= took;
                changed
            } else {
                let mut ends = Ends { source: near, sink: far, header, header_sent, drains: *draining };
                let (changed, took) = up.advance(&mut ends, client, upstream, turn)?;
                turn.took.upstream |= took;
                changed
            };
        }
        Ok(changed)
    }

    fn transition_end(&mut self, left_bytes: usize, leases: &mut Leases) -> TurnEnd {
        let starved = leases.take_refused();
        let could_read = self.up.could_read(&self.client) || self.down.could_read(&self.upstream);
        if left_bytes == 0 && could_read {
            return TurnEnd::Again;
        }
        if let Some(closed) = self.broken() {
            return TurnEnd::Closed(closed);
        }
        // Who holds a ring is owed bytes that a stream refused, hears from it, and tries again then: those who wait for memory
        // must not have any.
        let holds_none = self.up.owed_len() + self.down.owed_len() == 0;
        if starved && holds_none { TurnEnd::Starved } else { TurnEnd::Idle }
    }

    fn is_over(&self) -> bool {
        self.up.is_over() && self.down.is_over()
    }

    /// How it has ended, once it is over.
    fn closed(&self) -> Closed {
        let dropped = self.up.stage == Stage::Dropped || self.down.stage == Stage::Dropped;
        self.broken().unwrap_or(match () {
            () if dropped => Closed::PeerClosed,
            () if self.draining && !self.client.ended => Closed::Drained,
            () => Closed::Finished,
        })
    }

    /// How a write has found either stream broken.
    fn broken(&self) -> Option<Closed> {
        self.client.broken.or(self.upstream.broken)
    }
}

impl Readiness {
    fn note(&mut self, readable: bool, writable: bool, drains: bool) {
        self.may_read |= (readable || drains) && !self.ended;
        self.may_write |= writable;
        // A drain reads to the end: what a short read left would not be told of in time.
        self.reads_on |= drains;
    }

    /// A write has taken the error, which no read will tell again.
    fn break_off(&mut self, closed: Closed) {
        self.broken = Some(closed);
        self.may_read = !self.ended;
        self.reads_on = true;
    }
}

/// What a turn has to work with.
struct Turn<'a, 'b> {
    means: &'a mut Means<'b>,
    pipes: Option<&'a dyn Pipes>,
    left_bytes: usize,
    took: Took,
}

/// Who has taken something in this turn.
#[derive(Default)]
struct Took {
    client: bool,
    upstream: bool,
}

/// What a flow runs between.
struct Ends<'a> {
    source: &'a mut Readiness,
    sink: &'a mut Readiness,
    header: &'a [u8],
    header_sent: &'a mut usize,
    /// The source is to say no more than what has come.
    drains: bool,
}

impl Ends<'_> {
    fn header_left(&self) -> usize {
        self.header.len() - *self.header_sent
    }
}

impl Flow {
    /// Whether its source is still listened to.
    fn reads(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Dropping(_))
    }

    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over | Stage::Dropped)
    }

    fn could_read(&self, source: &Readiness) -> bool {
        source.may_read && self.reads() && self.has_room()
    }

    /// A pipe is filled when it is empty, so that a source that would block is not taken for a pipe that is full.
    fn has_room(&self) -> bool {
        self.ring.has_room() && self.bulk.is_empty()
    }

    fn owed_len(&self) -> usize {
        self.ring.owed_len() + self.bulk.len()
    }

    /// One round: whether it changed anything, and whether the sink has taken some.
    fn advance(
        &mut self,
        ends: &mut Ends<'_>,
        source: &mut impl Stream,
        sink: &mut impl Stream,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(bool, bool), Closed> {
        let can_splice = self.stage == Stage::Open && self.owed_len() + ends.header_left() == 0;
        let is_bulk = can_splice && !ends.source.reads_on && self.bulk.is_on() && sink.descriptor().is_some();
        let mut changed = match is_bulk {
            true => self.splice(ends.source, source, turn)?,
            false => self.receive(ends.source, source, turn)?,
        };
        let has_said_all = ends.source.ended || ends.drains && !ends.source.may_read;
        if self.stage == Stage::Open && has_said_all && ends.source.broken.is_none() {
            self.stage = Stage::Ending;
        }
        let took = match self.bulk.is_empty() {
            true => self.send(ends, sink, turn.means.tally),
            false => self.unsplice(ends, sink, turn.means.tally),
        };
        let took = match took {
            Ok(took) => took,
            Err(error) => {
                self.lose_sink(ends, &error, turn);
                return Ok((true, true));
            }
        };
        changed |= took;
        if self.stage == Stage::Ending && self.owed_len() + ends.header_left() == 0 {
            changed |= self.finish(ends.sink, sink)?;
        }
        Ok((changed, took))
    }

    /// Moves what has come into a pipe. True if anything changed.
    fn splice(
        &mut self,
        readiness: &mut Readiness,
        source: &mut impl Stream,
        turn: &mut Turn<'_, '_>,
    ) -> Result<bool, Closed> {
        if turn.left_bytes == 0 || !self.could_read(readiness) {
            return Ok(false);
        }
        let Some(from) = source.descriptor().filter(|_| self.bulk.hold_pipe(turn.means.leases, turn.pipes)) else {
            // It goes on by the ring: there is no pipe, or the source is more than a socket.
            self.bulk.turn_off();
            return Ok(true);
        };
        turn.means.tally.reads += 1;
        match self.bulk.fill(from, turn.left_bytes) {
            Ok(0) => (readiness.may_read, readiness.ended) = (false, true),
            Ok(count) => {
                turn.left_bytes = turn.left_bytes.saturating_sub(count);
                turn.means.tally.read_bytes += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                turn.means.tally.read_blocks += 1;
                // Nothing by a pipe where something is to be read: it may be urgent, which only a read gets past.
                readiness.may_read = self.bulk.turn_off_if_vain();
                return Ok(readiness.may_read);
            }
            Err(error) if error.kind() == ErrorKind::InvalidInput || error.kind() == ErrorKind::Unsupported => {
                self.bulk.refuse();
            }
            Err(error) => return Err(closed_by(&error)),
        }
        Ok(true)
    }

    /// Moves what is in the pipe on. True if some of it has left.
    fn unsplice(&mut self, ends: &mut Ends<'_>, sink: &mut impl Stream, tally: &mut Tally) -> io::Result<bool> {
        if !ends.sink.may_write {
            return Ok(false);
        }
        let to = sink.descriptor().expect("a pipe is filled for a sink that can be spliced to");
        tally.writes += 1;
        match self.bulk.drain(to) {
            Ok(count) => {
                tally.written_bytes += count as u64;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ends.sink.may_write = false;
                tally.write_blocks += 1;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// A write has found the sink broken: what is owed to it is given up. What it said before is still to be read, and
    /// delivered: all of it, if its FIN came before, or else what can be without waiting.
    fn lose_sink(&mut self, ends: &mut Ends<'_>, error: &io::Error, turn: &mut Turn<'_, '_>) {
        self.ring.release(turn.means.leases);
        self.bulk.give_up(turn.means.leases, turn.pipes);
        *ends.header_sent = ends.header.len();
        self.stage = if ends.source.ended { Stage::Dropped } else { Stage::Dropping(0) };
        if error.kind() != ErrorKind::BrokenPipe {
            ends.sink.break_off(closed_by(error));
            self.stage = Stage::Dropped;
        }
    }

    fn receive(
        &mut self,
        readiness: &mut Readiness,
        source: &mut impl Stream,
        turn: &mut Turn<'_, '_>,
    ) -> Result<bool, Closed> {
        if turn.left_bytes == 0 || !self.could_read(readiness) {
            return Ok(false);
        }
        let means = &mut *turn.means;
        let Some(memory) = self.ring.lend(means.leases) else { return Ok(false) };
        let room = memory.0.len() + memory.1.len();
        let read = with_io_slices(memory, |slices| source.read(slices));
        means.tally.reads += source.kernel_calls();
        match read {
            Ok(0) => {
                (readiness.may_read, readiness.ended) = (false, true);
                if matches!(self.stage, Stage::Dropping(_)) {
                    self.stage = Stage::Dropped;
                }
                Ok(true)
            }
            Ok(count) => {
                readiness.may_read = count == room || readiness.reads_on;
                turn.left_bytes = turn.left_bytes.saturating_sub(count);
                means.tally.read_bytes += count as u64;
                self.ring.fill(count);
                self.bulk.note_read(count, turn.pipes.is_some());
                match self.stage {
                    Stage::Dropping(before) => {
                        self.ring.discard_unread();
                        let dropped = before + count;
                        self.stage = if dropped > MOST_DROPPED { Stage::Dropped } else { Stage::Dropping(dropped) };
                    }
                    _ => self.ring.forward(count, false),
                }
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                readiness.may_read = false;
                means.tally.read_blocks += 1;
                Ok(false)
            }
            Err(error) => Err(closed_by(&error)),
        }
    }

    fn send(&mut self, ends: &mut Ends<'_>, sink: &mut impl Stream, tally: &mut Tally) -> io::Result<bool> {
        let owed = ends.header_left() + self.ring.owed_len();
        if owed == 0 || !ends.sink.may_write {
            return Ok(false);
        }
        let mut gather = Gather::<MOST_SLICES>::new();
        gather.push(&ends.header[*ends.header_sent..]);
        self.ring.gather(&mut gather);
        let written = sink.write(gather.slices());
        tally.writes += sink.kernel_calls();
        let count = match written {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            written => written?,
        };
        if count < owed {
            ends.sink.may_write = false;
            tally.write_blocks += 1;
        }
        tally.written_bytes += count as u64;
        let of_header = count.min(ends.header_left());
        *ends.header_sent += of_header;
        let sent = self.ring.sent(count - of_header);
        debug_assert_eq!(sent, count - of_header, "no more leaves than was offered");
        Ok(count > 0)
    }

    /// Sends the FIN behind all that was written. True if that is done with: where nobody is there any more, the other flow
    /// finds out how that came, behind what it still has to read.
    fn finish(&mut self, readiness: &mut Readiness, sink: &mut impl Stream) -> Result<bool, Closed> {
        if !readiness.may_write {
            return Ok(false);
        }
        match sink.flush().and_then(|()| sink.finish()) {
            Ok(()) => {
                self.stage = Stage::Over;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                self.stage = Stage::Dropped;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                readiness.may_write = false;
                Ok(false)
            }
            Err(error) => Err(closed_by(&error)),
        }
    }
}
