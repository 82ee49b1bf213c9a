//! How a session sends what it owes: its rings and what came by mail, in one vectored write; and parts of files.
//!
//! The order is that of `mail.rs`, *messages-whole*: whoever leads is offered first. What is offered stays the same, and in the
//! same order, until the stream has taken it. Read next: `gather.rs`; `mail.rs`, who leads.

use std::io::ErrorKind;

use super::Session;
use super::gather::{Gather, RING_SLICES};
use super::handler::{Closed, Sending, Tally};
use super::mail::Backlog;
use super::part::Part;
use super::stream::{Stream, closed_by};

/// Slices of the longest write: as many as `writev` takes.
const MOST_SLICES: usize = 1024;

/// Bytes of a file that one turn sends: some hundred microseconds, since they are not copied.
const PART_BYTES: usize = 1 << 20;

/// Slices of a write of a few messages, which is the common one.
const FEW_SLICES: usize = 16;

impl Session {
    /// Writes what is owed, as far as the stream takes it. True if something has left.
    pub(super) fn send(
        &mut self,
        stream: &mut impl Stream,
        tally: &mut Tally,
        left_bytes: &mut usize,
    ) -> Result<bool, Closed> {
        if !self.may_write {
            return Ok(false);
        }
        self.choose_lead();
        if let Some(part) = self.mail.as_ref().filter(|mail| mail.leads).and_then(|mail| mail.backlog.part()) {
            return self.send_part(part, stream, tally, left_bytes);
        }
        let messages = self.mail.as_ref().map_or(0, |mail| mail.backlog.len());
        match RING_SLICES + messages {
            _ if messages == 0 && self.rings_owe() == 0 => Ok(false),
            RING_SLICES => self.send_at_most::<RING_SLICES>(stream, tally),
            ..=FEW_SLICES => self.send_at_most::<FEW_SLICES>(stream, tally),
            _ => self.send_at_most::<MOST_SLICES>(stream, tally),
        }
    }

    fn send_at_most<const MOST: usize>(&mut self, stream: &mut impl Stream, tally: &mut Tally) -> Result<bool, Closed> {
        let mut gather = Gather::<MOST>::new();
        let sending = self.mail.as_ref().map_or(Sending::Vectored, |mail| mail.sending);
        let (leading, following) = match &self.mail {
            Some(mail) if mail.leads => (Some(&mail.backlog), None),
            Some(mail) => (None, Some(&mail.backlog)),
            None => (None, None),
        };
        leading.into_iter().flat_map(Backlog::slices).for_each(|slice| gather.push(slice));
        // Behind a part that comes first, nothing is offered before it has left.
        if !leading.is_some_and(Backlog::has_part) {
            self.inbound.gather(&mut gather);
            self.outbound.gather(&mut gather);
            self.inbound.gather_held(&mut gather);
        }
        following.into_iter().flat_map(Backlog::slices).for_each(|slice| gather.push(slice));
        let owed = gather.len();
        let result = match sending {
            Sending::Vectored => stream.write(gather.slices()),
            Sending::Each => stream.write_each(gather.slices()),
        };
        tally.writes += stream.kernel_calls();
        let count = match result {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(closed_by(&error)),
        };
        if count < owed {
            self.may_write = false;
            tally.write_blocks += 1;
        }
        tally.written_bytes += count as u64;
        self.transition_sent(count);
        self.room_in_vain &= count == 0;
        Ok(count > 0)
    }

    /// Sends what the stream takes of a file, and what one turn may. It may take less than it could: only when it takes
    /// nothing is it full.
    fn send_part(
        &mut self,
        mut part: Part,
        stream: &mut impl Stream,
        tally: &mut Tally,
        left_bytes: &mut usize,
    ) -> Result<bool, Closed> {
        if *left_bytes == 0 {
            return Ok(false);
        }
        let has_more = part.bytes > PART_BYTES;
        part.bytes = part.bytes.min(PART_BYTES);
        let sent = stream.send_file(&part);
        tally.writes += stream.kernel_calls();
        match sent {
            Ok(count) => {
                if has_more && count == part.bytes {
                    // The others have their turn, and then this one has another.
                    *left_bytes = 0;
                }
                tally.written_bytes += count as u64;
                self.transition_sent(count);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.may_write = false;
                tally.write_blocks += 1;
                Ok(false)
            }
            Err(error) => Err(closed_by(&error)),
        }
    }

    fn choose_lead(&mut self) {
        let rings_owe = self.rings_owe() > 0;
        if let Some(mail) = &mut self.mail {
            mail.choose_lead(rings_owe);
        }
    }

    /// So many bytes have left, in the order in which they were offered.
    fn transition_sent(&mut self, count: usize) {
        let mail_leads = self.mail.as_ref().is_some_and(|mail| mail.leads);
        let count = if mail_leads { self.mail_sent(count) } else { count };
        let forwarded = self.inbound.sent(count);
        let said = self.outbound.sent(count - forwarded);
        if self.outbound.len() == 0 {
            self.inbound.release_held();
        }
        let held = self.inbound.sent(count - forwarded - said);
        if !mail_leads {
            let left = self.mail_sent(count - forwarded - said - held);
            debug_assert_eq!(left, 0, "no more leaves than was offered");
        }
        self.choose_lead();
    }

    fn mail_sent(&mut self, count: usize) -> usize {
        self.mail.as_mut().map_or(count, |mail| mail.sent(count))
    }
}
