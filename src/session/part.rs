//! [`Part`]: bytes of a file that a session sends without holding them; and [`Brought`], what a call brings, which may be
//! such a part and the call that goes on where it ends, or nothing yet.
//!
//! A part is like a message that lies in a file. Whoever made it has brought its bytes into memory, so that whoever sends it
//! waits for no disk; only the stream reads it ([`Stream::send_file`](super::Stream::send_file)).
//!
//! Invariant *next-while-this-is-sent*: the call that follows is begun when what comes before it is the next to be sent, and
//! not sooner. So a long answer takes up two of its pieces, and never more, however slowly its reader reads.
//! Read next: `mail.rs`, which keeps both.

use std::fs::File;
use std::sync::Arc;

use super::handler::{Call, Closed};
use super::mailbox::Message;

/// Bytes of an open file, which are closed with the last part of it.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where they are. Nobody changes its position.
    pub file: Arc<File>,
    /// The first of them.
    pub from: u64,
    /// How many; at least one.
    pub bytes: usize,
}

impl Part {
    /// What is behind its first `count` bytes.
    pub(super) fn behind(&self, count: usize) -> Part {
        Part { file: Arc::clone(&self.file), from: self.from + count as u64, bytes: self.bytes - count }
    }
}

/// What a call brings its session.
pub struct Brought {
    pub(super) message: Message,
    pub(super) part: Option<Part>,
    pub(super) then: Option<Box<dyn Call>>,
    pub(super) is_failure: bool,
}

impl From<Message> for Brought {
    fn from(message: Message) -> Brought {
        Brought { message, part: None, then: None, is_failure: false }
    }
}

impl Brought {
    /// Nothing, since what was promised cannot be given any more: the session ends as [`Closed::Failed`].
    pub fn failure() -> Brought {
        Brought { is_failure: true, ..Brought::from(Message::default()) }
    }

    /// Nothing yet: this call goes on with the work, for which others may have come meanwhile. It is the same one in flight, and
    /// run only while it is wanted.
    pub fn going_on(call: Box<dyn Call>) -> Brought {
        Brought { then: Some(call), ..Brought::from(Message::default()) }
    }

    /// The call that goes on before there is anything to send; otherwise what was brought.
    pub(crate) fn poll_going_on(self) -> Result<Brought, Box<dyn Call>> {
        match self {
            Brought { then: Some(call), message, part: None, .. } if message.is_empty() => Err(call),
            brought => Ok(brought),
        }
    }

    /// This part of a file behind what there is.
    #[must_use]
    pub fn with_part(self, part: Part) -> Brought {
        assert!(part.bytes > 0 && self.part.is_none(), "a part has bytes, and is one");
        Brought { part: Some(part), ..self }
    }

    /// This call goes on where what was said ends; it is one of the session's own, in flight from when this is sent. What
    /// others post may come in between.
    ///
    /// # Panics
    /// If nothing was said.
    #[must_use]
    pub fn followed_by(self, call: Box<dyn Call>) -> Brought {
        assert!(!self.is_empty(), "next-while-this-is-sent: there is something to send");
        Brought { then: Some(call), ..self }
    }

    /// Bytes that it sends.
    pub fn len(&self) -> usize {
        self.message.len() + self.part.as_ref().map_or(0, |part| part.bytes)
    }

    /// Whether it sends none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How it ends the session, if it does.
    pub(super) fn closed(&self) -> Option<Closed> {
        self.is_failure.then_some(Closed::Failed)
    }
}
