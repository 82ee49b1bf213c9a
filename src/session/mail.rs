//! [`Mail`]: what a session keeps that hears of others: its mailbox, what it has taken from there and not yet sent, and the
//! calls that have not come back.
//!
//! What the rings owe and the backlog leave by one socket. Invariant *messages-whole*: between the first byte of a message
//! from the mailbox and its last, and between the first byte of what the rings owe and the last, nothing else is sent. One of
//! the two leads and is offered first, until all of it has left ([`Mail::choose_lead`]). Invariant *taken-before-the-fin*:
//! a session that finishes, or ends in a drain, has emptied its mailbox before.
//!
//! Read next: `Session::send`, which offers both.

use std::collections::VecDeque;

use super::handler::{Closed, Mailing, Sending, Tally};
use super::mailbox::{Address, Mailbox, Message};

/// The part of a session that has to do with its mailbox.
pub(super) struct Mail {
    pub(super) mailbox: Address,
    /// Taken from the mailbox and not yet sent.
    pub(super) backlog: Backlog,
    /// Calls that have not come back.
    pub(super) calls: u32,
    most_calls: u32,
    /// Somebody asks the handler to look for itself.
    pub(super) noted: bool,
    /// The backlog is sent before what the rings owe.
    pub(super) leads: bool,
    pub(super) sending: Sending,
}

impl Mail {
    pub(super) fn new(mailbox: Address, mailing: Mailing) -> Mail {
        let Mailing { calls: most_calls, sending, .. } = mailing;
        Mail { mailbox, backlog: Backlog::default(), calls: 0, most_calls, noted: false, leads: false, sending }
    }

    /// Takes what has come.
    pub(super) fn collect(&mut self, tally: &mut Tally) -> Result<(), Closed> {
        let news = self.mailbox.take(&mut self.backlog);
        tally.posts += news.posts;
        tally.posts_refused += news.refused;
        tally.post_wakes += news.wakes;
        assert!(news.replies <= self.calls, "only calls that were made come back");
        self.calls -= news.replies;
        self.noted |= news.noted;
        match (news.failed, news.evicted) {
            (true, _) => Err(Closed::Panicked),
            (_, true) => Err(Closed::Evicted),
            _ => Ok(()),
        }
    }

    /// Whether one more call may be in flight.
    pub(super) fn can_call(&self) -> bool {
        self.calls < self.most_calls
    }

    /// Whether nothing waits to be sent, here or in the mailbox, and no call will bring more.
    pub(super) fn has_said_all(&self) -> bool {
        self.backlog.is_empty() && self.calls == 0 && !self.mailbox.has_news()
    }

    /// Whoever leads goes on until all of it has left, so that no message is cut by other bytes, and a stream that sends
    /// from where the bytes lie is offered them in the same order again.
    pub(super) fn choose_lead(&mut self, rings_owe: bool) {
        self.leads = !self.backlog.is_empty() && (self.leads || !rings_owe);
    }

    /// Of so many bytes that have left, drops those that were of the backlog; how many others there are.
    pub(super) fn sent(&mut self, count: usize) -> usize {
        self.backlog.sent(count, &self.mailbox)
    }
}

/// Messages that a session has taken and not yet sent, oldest first.
#[derive(Default)]
pub(super) struct Backlog {
    messages: VecDeque<Message>,
    /// Bytes of the first that have been sent.
    sent: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Adds messages behind those that are there.
    pub(super) fn append(&mut self, more: &mut VecDeque<Message>) {
        if self.messages.is_empty() {
            std::mem::swap(&mut self.messages, more);
        } else {
            self.messages.append(more);
        }
    }

    /// What is left of each message.
    pub(super) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let begun = |place: usize| if place == 0 { self.sent } else { 0 };
        self.messages.iter().enumerate().map(move |(place, message)| &message[begun(place)..])
    }

    /// Drops what has left: `count` bytes. How many of them are not of this backlog.
    pub(super) fn sent(&mut self, mut count: usize, mailbox: &Mailbox) -> usize {
        while let Some(message) = self.messages.front() {
            let left = message.len() - self.sent;
            if count < left {
                self.sent += count;
                return 0;
            }
            count -= left;
            mailbox.note_sent(message);
            self.messages.pop_front();
            self.sent = 0;
        }
        count
    }

    /// Gives up the memory of a long list that has been sent.
    pub(super) fn settle(&mut self) {
        const KEPT: usize = 4;
        if self.messages.is_empty() && self.messages.capacity() > KEPT {
            self.messages = VecDeque::new();
        }
    }
}
