//! One session: bytes in, handler, bytes out, without knowing what reads and writes them.
//!
//! A session is driven in *turns* by whoever owns it at that moment. A turn reads what the stream holds, shows it to
//! the handler, carries out the answers and writes what is owed, until nothing is left to do, the stream would block,
//! or the turn's byte budget is spent. It never waits, and it knows no socket: the engine lends it a [`Stream`].
//!
//! | stage | event | what the turn does | next stage |
//! |---|---|---|---|
//! | open | input | shows it to the handler; forwards, discards or answers | open |
//! | open | `Finish`, or FIN and the handler is done | stops showing input | finishing |
//! | open | `Reject` | ends as `Protocol` | closed |
//! | finishing | all owed bytes sent, peer's FIN seen | ends as `Finished` | closed |
//! | finishing | all owed bytes sent, no FIN yet | sends the FIN | lingering |
//! | lingering | input | drops it | lingering |
//! | lingering | FIN | ends as `Finished` | closed |
//! | any | error on the stream | ends as `Reset` or `PeerClosed` | closed |
//! | any, draining | nothing to read and nothing owed | ends as `Drained` | closed |
//!
//! Invariants:
//! - *no-lost-readiness*: a turn ends as [`TurnEnd::Idle`] only if the stream was drained (would-block, FIN, or a short
//!   read of a session that was not told to read on) or reading waits for owed bytes that will make the stream report
//!   writable.
//! - *slow-reader-stops-itself*: nothing is read while the ring is full of owed bytes.
//! - *idle-holds-nothing*: after a turn with nothing unread and nothing owed the session holds no ring.
//!
//! A session that hears of others has a mailbox as well, and may have calls in flight (`mail.rs`). Read next: `handler.rs` for
//! the traits, `buffer.rs` for the rings, `table.rs` for who owns a session when, `pair.rs` for a session with two streams.

pub mod associations;
pub mod audience;
pub mod buffer;
pub mod datagram;
pub mod framing;
mod gather;
pub mod guard;
pub mod handler;
mod mail;
pub mod mailbox;
pub mod operator;
pub mod pair;
pub mod part;
mod send;
pub mod state;
mod stream;
pub mod table;
pub mod upstream;

use std::io::ErrorKind;

use buffer::{Inbound, Leases, Outbound};
use gather::with_io_slices;
use handler::{Chunks, Closed, Handler, Mailing, Means, Next, Reply, Tally};
use mail::Mail;
use mailbox::Address;
use state::Reasons;

pub use stream::Stream;
pub(crate) use stream::closed_by;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum TurnEnd {
    /// Nothing to do until the stream is ready again or another reason comes.
    Idle,
    /// The byte budget is spent and there may be more: take another turn after the others.
    Again,
    /// The memory of all rings is spent: take another turn when some is given back.
    Starved,
    /// The session is over.
    Closed(Closed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// `handle_open` has not been called.
    New,
    Open,
    Finishing,
    Lingering,
}

/// What to ask the handler next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Open,
    Input,
    Note,
    Room,
    End,
    /// Nobody reads this input any more.
    Skip,
    Nothing,
}

/// The state of one session between and during turns.
pub struct Session {
    handler: Box<dyn Handler>,
    inbound: Inbound,
    outbound: Outbound,
    stage: Stage,
    /// The stream may hold input: set by readiness, cleared by a read that drained it.
    may_read: bool,
    /// The stream may take output: cleared by a write cut short, set by readiness.
    may_write: bool,
    /// Readiness said that a short read does not mean a drained stream: behind it is the FIN, or urgent data was.
    reads_on: bool,
    /// A read has returned the peer's FIN.
    ended: bool,
    /// The handler answered `Room` or `Talk`.
    wants_room: bool,
    /// It was `Talk`: input and the end do not wait for room.
    talks: bool,
    /// The handler was offered the room that there is and said nothing; asked again when some has left, or next turn.
    room_in_vain: bool,
    /// The handler answered `More` to the unread input; it is shown input again when some has come.
    wants_more: bool,
    /// The handler answered `More` to the peer's FIN: something other than input will end this session.
    end_answered: bool,
    /// The handler may have posted to its own session since the turn last looked into the mailbox.
    looks_again: bool,
    draining: bool,
    /// The handler answered `Gather`: it is shown input again when there is so much, which lies in a buffer of its own if a
    /// ring is too small. 0 otherwise.
    gather_bytes: u32,
    /// For services that hear of others.
    mail: Option<Box<Mail>>,
}

impl Session {
    /// A session that has not had its first turn, reached by others at `mail`'s address, if they are to reach it.
    pub fn new(handler: Box<dyn Handler>, mail: Option<(Address, Mailing)>) -> Session {
        let mail = mail.map(|(mailbox, mailing)| Box::new(Mail::new(mailbox, mailing)));
        Session {
            handler,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            stage: Stage::New,
            may_read: false,
            may_write: true,
            reads_on: false,
            ended: false,
            wants_room: false,
            talks: false,
            room_in_vain: false,
            wants_more: false,
            end_answered: false,
            looks_again: false,
            draining: false,
            gather_bytes: 0,
            mail,
        }
    }

    /// Where others reach it, if they do.
    pub fn address(&self) -> Option<&Address> {
        self.mail.as_ref().map(|mail| &mail.mailbox)
    }

    /// Whether calls of it are in flight: it is not idle then, however silent.
    pub fn has_calls(&self) -> bool {
        self.calls() > 0
    }

    /// Whether the stream has refused bytes that the peer is owed: the engine then waits for it to be writable, and
    /// for the write timeout.
    pub fn is_write_blocked(&self) -> bool {
        !self.may_write
    }

    /// Whether all has been said and sent, the FIN too, and only the peer's FIN is awaited.
    pub fn is_lingering(&self) -> bool {
        self.stage == Stage::Lingering
    }

    /// Whether the session would read if the stream had input, rather than wait for its peer to take bytes first.
    pub fn wants_input(&self) -> bool {
        // What is known to wait, waits for owed bytes to leave; to be told of it again would change nothing.
        !self.ended && !self.may_read && (self.stage == Stage::Lingering || self.inbound.has_room())
    }

    /// Does all that can be done now, within `means`.
    ///
    /// # Panics
    /// If the handler panics, or answers for more bytes than it was shown. The caller ends the session then.
    pub fn turn(&mut self, stream: &mut impl Stream, reasons: Reasons, means: &mut Means<'_>) -> TurnEnd {
        self.handle_reasons(reasons);
        // What a turn that panicked was refused is none of this one's business.
        means.leases.take_refused();
        self.room_in_vain = false;
        if reasons.intersects(Reasons::POSTED)
            && let Err(closed) = self.collect(means.tally)
        {
            return TurnEnd::Closed(closed);
        }
        let mut left_bytes = means.budget_bytes;
        self.looks_again = true;
        let end = loop {
            let advanced = match self.advance(stream, means, &mut left_bytes) {
                // The common turn is one round; a second would only find that there is nothing more to do.
                Ok(true) if !self.is_settled() => Ok(()),
                // What the handler has left for its own session goes out in the same turn. Others, who may post without end,
                // make it no longer.
                Ok(_) if std::mem::take(&mut self.looks_again) && self.has_news() => self.collect(means.tally),
                Ok(_) => break self.transition_end(stream, left_bytes, means.leases),
                Err(closed) => Err(closed),
            };
            if let Err(closed) = advanced {
                break TurnEnd::Closed(closed);
            }
        };
        self.inbound.settle(means.leases);
        self.outbound.settle(means.leases);
        if let Some(mail) = &mut self.mail {
            mail.backlog.settle();
            means.calls.append(&mut mail.following);
        }
        end
    }

    /// Tells the handler how the session has ended; for its owner, before it drops the session.
    ///
    /// # Panics
    /// If the handler does.
    pub fn handle_closed(&mut self, closed: Closed) {
        self.handler.handle_closed(closed);
    }

    /// Gives back what the session holds, and takes no more mail; for its owner, before it drops the session.
    pub fn release(&mut self, leases: &mut Leases) {
        self.inbound.release(leases);
        self.outbound.release(leases);
        if let Some(mail) = &self.mail {
            mail.mailbox.end();
        }
    }

    /// Takes what has come by mail.
    fn collect(&mut self, tally: &mut Tally) -> Result<(), Closed> {
        self.mail.as_mut().map_or(Ok(()), |mail| mail.collect(tally))
    }

    /// Whether something has been left for it since it last took all there was.
    pub fn has_news(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| mail.mailbox.has_news())
    }

    fn handle_reasons(&mut self, reasons: Reasons) {
        self.may_read |= reasons.intersects(Reasons::READABLE | Reasons::READ_ON | Reasons::DRAIN) && !self.ended;
        self.may_write |= reasons.intersects(Reasons::WRITABLE);
        // A drain reads to the end as well: what a short read left would not be told of in time.
        self.reads_on |= reasons.intersects(Reasons::READ_ON | Reasons::DRAIN);
        self.draining |= reasons.intersects(Reasons::DRAIN);
    }

    /// One round of read, answer and write. True if it changed anything.
    fn advance(
        &mut self,
        stream: &mut impl Stream,
        means: &mut Means<'_>,
        left_bytes: &mut usize,
    ) -> Result<bool, Closed> {
        let mut changed = self.make_room(means.leases)?;
        changed |= self.receive(stream, means.leases, left_bytes, means.tally)?;
        while self.answer(means, left_bytes)? {
            changed = true;
        }
        changed |= self.send(stream, means.tally, left_bytes)?;
        // A frame larger than the ring, of a service that does not gather it: the rest of it could never come.
        let is_full = self.gather_bytes == 0 && !self.inbound.has_room();
        let frame_is_stuck = self.wants_more && is_full && self.rings_owe() == 0;
        if self.stage == Stage::Open && frame_is_stuck {
            return Err(Closed::Protocol);
        }
        if self.stage == Stage::Finishing && self.has_said_all() && self.is_flushed(stream)? {
            if self.ended {
                return Err(Closed::Finished);
            }
            stream.finish().map_err(|error| closed_by(&error))?;
            self.stage = Stage::Lingering;
            changed = true;
        }
        if self.stage == Stage::Lingering && self.ended {
            return Err(Closed::Finished);
        }
        Ok(changed)
    }

    /// Moves the beginning of a frame that no ring can hold to memory of its own, once what is owed has left the ring. True
    /// if there is room now.
    fn make_room(&mut self, leases: &mut Leases) -> Result<bool, Closed> {
        let frame_bytes = self.gather_bytes as usize;
        let is_needed = frame_bytes > leases.ring_bytes() && !self.inbound.is_exact() && self.stage == Stage::Open;
        if !is_needed || !self.inbound.is_all_unread() {
            return Ok(false);
        }
        if !leases.could_hold(frame_bytes) {
            return Err(Closed::OverLimit);
        }
        Ok(self.inbound.move_to_exact(frame_bytes, leases))
    }

    fn receive(
        &mut self,
        stream: &mut impl Stream,
        leases: &mut Leases,
        left_bytes: &mut usize,
        tally: &mut Tally,
    ) -> Result<bool, Closed> {
        if !self.may_read || *left_bytes == 0 || !self.inbound.has_room() {
            return Ok(false);
        }
        let Some(memory) = self.inbound.lend(leases) else { return Ok(false) };
        let room = memory.0.len() + memory.1.len();
        let read = with_io_slices(memory, |slices| stream.read(slices));
        tally.reads += stream.kernel_calls();
        match read {
            Ok(0) => {
                self.may_read = false;
                self.ended = true;
                Ok(true)
            }
            Ok(count) => {
                self.inbound.fill(count);
                // A short read drained the stream: what comes later is a new edge. Unless the edge of the FIN was
                // already seen, which nothing would repeat.
                self.may_read = count == room || self.reads_on;
                self.wants_more &= self.inbound.unread_len() < self.gather_bytes as usize;
                *left_bytes = left_bytes.saturating_sub(count);
                tally.read_bytes += count as u64;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.may_read = false;
                tally.read_blocks += 1;
                Ok(false)
            }
            Err(error) => Err(closed_by(&error)),
        }
    }

    /// Asks the handler once, if there is something to ask. True if the answer changed anything.
    fn answer(&mut self, means: &mut Means<'_>, left_bytes: &mut usize) -> Result<bool, Closed> {
        let room = if self.inbound.has_held() { 0 } else { means.leases.ring_bytes() - self.outbound.len() };
        let question = self.poll_question(room.min(*left_bytes));
        let (shown, shown_len) = match question {
            Question::Nothing => return Ok(false),
            Question::Skip => {
                self.inbound.discard_unread();
                return Ok(true);
            }
            Question::Input | Question::End => (self.inbound.unread(), self.inbound.unread_len()),
            Question::Open | Question::Note | Question::Room => (Chunks::new(&[], &[]), 0),
        };
        self.gather_bytes = if question == Question::Input { 0 } else { self.gather_bytes };
        let calls_before = means.calls.len();
        let is_through = self.inbound.is_all_unread();
        let mut reply = Reply::new(&mut self.outbound, means, room, is_through);
        let at_home = self.mail.as_ref().map(|mail| mail.mailbox.at_home());
        let next = match question {
            Question::Open => self.handler.handle_open(&mut reply),
            Question::Note => self.handler.handle_note(&mut reply),
            Question::Room => self.handler.handle_room(&mut reply),
            Question::End => self.handler.handle_end(shown, &mut reply),
            _ => self.handler.handle_input(shown, &mut reply),
        };
        drop(at_home);
        let said = room - reply.room();
        let called = &means.calls[calls_before..];
        assert!(called.is_empty() || self.mail.is_some(), "who makes calls has asked for a mailbox");
        self.looks_again = true;
        if let Some(mail) = &mut self.mail {
            mail.note_calls(called);
            mail.noted &= question != Question::Note;
        }
        *left_bytes = left_bytes.saturating_sub(said);
        let is_aside = self.talks && matches!(question, Question::Input | Question::End);
        self.wants_room &= is_aside;
        self.talks &= is_aside;
        self.room_in_vain = said == 0 && (self.room_in_vain || question == Question::Room);
        if self.stage == Stage::New {
            self.stage = Stage::Open;
        }
        self.transition_answer(next, question, shown_len).map(|changed| changed || said > 0)
    }

    fn poll_question(&self, room: usize) -> Question {
        let can_show = self.inbound.can_show();
        let (calls, noted) = self.mail.as_ref().map_or((0, false), |mail| (mail.calls, mail.noted));
        match self.stage {
            Stage::New => Question::Open,
            Stage::Finishing | Stage::Lingering if can_show => Question::Skip,
            Stage::Finishing | Stage::Lingering => Question::Nothing,
            Stage::Open if self.wants_room && !self.talks && (room == 0 || self.room_in_vain) => Question::Nothing,
            Stage::Open if self.wants_room && !self.talks => Question::Room,
            Stage::Open if noted && room > 0 => Question::Note,
            Stage::Open if can_show && !self.wants_more && self.can_call() => Question::Input,
            // Calls come back before the end is shown, and input that waits for them.
            Stage::Open if self.can_show_end() && calls == 0 && !noted => Question::End,
            Stage::Open if self.talks && !self.draining && room > 0 && !self.room_in_vain => Question::Room,
            Stage::Open => Question::Nothing,
        }
    }

    fn can_show_end(&self) -> bool {
        self.ended && !self.end_answered && !self.inbound.has_dropped()
    }

    fn transition_answer(&mut self, next: Next, question: Question, shown_len: usize) -> Result<bool, Closed> {
        match next {
            Next::Forward(count) => {
                assert!((1..=shown_len).contains(&count), "answers-name-shown-bytes: Forward({count}) of {shown_len}");
                self.inbound.forward(count, self.outbound.len() > 0);
            }
            Next::Discard(count) => {
                assert!((1..=shown_len).contains(&count), "answers-name-shown-bytes: Discard({count}) of {shown_len}");
                self.inbound.discard(count);
            }
            Next::Gather(frame_bytes) if !self.ended => {
                assert!(frame_bytes > shown_len, "answers-name-shown-bytes: Gather({frame_bytes}) of {shown_len}");
                self.gather_bytes = u32::try_from(frame_bytes).expect("a frame whose length is allowed");
                self.wants_more = true;
                // There may be room for more of it now.
                return Ok(true);
            }
            Next::More | Next::Gather(_) => match question {
                Question::Input => {
                    self.wants_more = true;
                    // The end, if it is known already, is the next question.
                    return Ok(self.ended);
                }
                Question::End => {
                    self.end_answered = true;
                    return Ok(false);
                }
                // Input and the end may have waited for this answer.
                _ => {}
            },
            Next::Room | Next::Talk => {
                self.wants_room = true;
                self.talks = next == Next::Talk;
                // There may be room already; a handler that was just offered it waits for more.
                return Ok(question != Question::Room);
            }
            Next::Finish { forward } => {
                assert!(forward <= shown_len, "answers-name-shown-bytes: Finish({forward}) of {shown_len}");
                self.inbound.forward(forward, self.outbound.len() > 0);
                self.stage = Stage::Finishing;
                self.inbound.discard_unread();
                if let Some(mail) = &self.mail {
                    mail.mailbox.close();
                }
            }
            Next::Reject(_) => return Err(Closed::Protocol),
        }
        Ok(true)
    }

    fn transition_end(&mut self, stream: &mut impl Stream, left_bytes: usize, leases: &mut Leases) -> TurnEnd {
        let starved = leases.take_refused();
        let could_read = self.may_read && self.inbound.has_room();
        let has_room = !self.inbound.has_held() && self.outbound.len() < leases.ring_bytes();
        let could_say = self.wants_room && has_room && !self.room_in_vain;
        let could_send = self.may_write && self.mail.as_ref().is_some_and(|mail| mail.backlog.part().is_some());
        if left_bytes == 0 && (could_read || could_say || could_send) {
            return TurnEnd::Again;
        }
        if starved {
            // Who is owed bytes that the stream refused hears from the stream, and gives memory back by then. Such a
            // session must not wait for others to do so: all of them could be waiting like this.
            return if self.may_write { TurnEnd::Starved } else { TurnEnd::Idle };
        }
        // What others have left since this turn looked does not put a drain off: they might go on for ever.
        if !self.draining || self.may_read || !self.owes_nothing() {
            return TurnEnd::Idle;
        }
        match self.is_flushed(stream) {
            Ok(true) if self.stage == Stage::Lingering => TurnEnd::Closed(Closed::Finished),
            Ok(true) => TurnEnd::Closed(Closed::Drained),
            Ok(false) => TurnEnd::Idle,
            Err(closed) => TurnEnd::Closed(closed),
        }
    }

    /// Whether nothing that was written is kept back; if it is, the session waits as for a stream that takes nothing.
    fn is_flushed(&mut self, stream: &mut impl Stream) -> Result<bool, Closed> {
        match stream.flush() {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.may_write = false;
                Ok(false)
            }
            Err(error) => Err(closed_by(&error)),
        }
    }

    /// Whether another round could not change anything: an open session with nothing to read, answer or send.
    fn is_settled(&self) -> bool {
        let nothing_held = self.inbound.is_empty() && self.outbound.len() == 0;
        let no_mail = self.mail.as_ref().is_none_or(|mail| mail.backlog.is_empty() && !mail.noted);
        nothing_held && no_mail && self.stage == Stage::Open && !(self.may_read || self.ended || self.wants_room)
    }

    /// Bytes in the rings that the peer has not been sent.
    fn rings_owe(&self) -> usize {
        self.inbound.owed_len() + self.outbound.len()
    }

    /// Whether nothing is owed, and no call will bring more.
    fn owes_nothing(&self) -> bool {
        self.rings_owe() == 0 && self.mail.as_ref().is_none_or(|mail| mail.owes_nothing())
    }

    /// The same, and nobody has left anything either.
    fn has_said_all(&self) -> bool {
        self.owes_nothing() && !self.has_news()
    }

    fn calls(&self) -> u32 {
        self.mail.as_ref().map_or(0, |mail| mail.calls)
    }

    /// Whether one more call may be in flight.
    fn can_call(&self) -> bool {
        self.mail.as_ref().is_none_or(|mail| mail.can_call())
    }
}
