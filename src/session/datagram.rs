//! How a service answers datagrams: a request, at most one answer, and nothing kept between two requests.
//!
//! An answer is bounded before the service is asked ([`Bound`]), because whoever sent the request may have put the address of
//! somebody else on it. Read next: `guard.rs`, which decides what is answered at all.

/// A protocol over datagrams: a request, at most one answer, and nothing kept between two requests.
///
/// An answer is bounded before the service is asked ([`Bound`]), because whoever sent the request may have put the
/// address of somebody else on it.
pub trait Datagrams: Send + Sync {
    /// Bytes of the longest request that it has a use for; a longer one is counted and not shown.
    fn longest_request(&self) -> usize {
        LONGEST_DATAGRAM
    }

    /// How long its answers may be.
    fn bound(&self) -> Bound {
        Bound::Request
    }

    /// Puts the answer to a request, or nothing where there is none.
    fn answer(&self, request: &[u8], reply: &mut DatagramReply<'_>);
}

/// Bytes of the longest datagram: what IPv4 has room for behind its header and that of UDP. IPv6 has room for 20 more.
pub const LONGEST_DATAGRAM: usize = 65_507;

/// How long an answer may be: hardly ever longer than what it answers, so that nobody gains by forging a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// As long as the request.
    Request,
    /// 64 bytes, whatever the request: an answer that is always the same few bytes, such as the time.
    Fixed,
    /// 8 bytes longer than the request: what the header of a `work` reply has beyond that of its request.
    Grown,
}

impl Bound {
    /// Bytes that an answer to a request of so many may have.
    pub fn allowance(self, request_len: usize) -> usize {
        let most = match self {
            Bound::Request => request_len,
            Bound::Fixed => 64,
            Bound::Grown => request_len + 8,
        };
        most.min(LONGEST_DATAGRAM)
    }
}

/// The answer to one datagram: memory that is as long as the answer may be.
pub struct DatagramReply<'a> {
    memory: &'a mut [u8],
    /// Bytes put, or more than the memory has.
    said: Option<usize>,
    is_wanted: &'a dyn Fn() -> bool,
}

impl<'a> DatagramReply<'a> {
    /// Nothing yet, and room for what `memory` takes.
    pub fn new(memory: &'a mut [u8]) -> Self {
        DatagramReply { memory, said: None, is_wanted: &|| true }
    }

    /// The same as long as somebody waits for it.
    pub fn while_wanted(self, is_wanted: &'a dyn Fn() -> bool) -> Self {
        DatagramReply { is_wanted, ..self }
    }

    /// Whether anybody still waits for the answer; one that takes long to find asks now and then. If not, the endpoint is about
    /// to be closed, and somebody waits for this thread.
    pub fn is_wanted(&self) -> bool {
        (self.is_wanted)()
    }

    /// Bytes that the answer still has room for.
    pub fn room(&self) -> usize {
        self.memory.len().saturating_sub(self.said.unwrap_or(0))
    }

    /// Appends `bytes`; no bytes make an empty answer, which is not none. If they do not fit, nothing is answered: half
    /// an answer would be a wrong one.
    pub fn put(&mut self, bytes: &[u8]) {
        let begin = self.said.unwrap_or(0);
        let end = begin.saturating_add(bytes.len());
        if let Some(room) = self.memory.get_mut(begin..end) {
            room.copy_from_slice(bytes);
        }
        self.said = Some(end);
    }

    /// What was put.
    pub fn end(self) -> Answer {
        match self.said {
            None => Answer::Nothing,
            Some(len) if len <= self.memory.len() => Answer::Datagram(len),
            Some(_) => Answer::TooLong,
        }
    }
}

/// What a service made of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// It is not answered.
    Nothing,
    /// The first so many bytes of the memory answer it; there may be none.
    Datagram(usize),
    /// More was put than the answer may have: it is not answered.
    TooLong,
}
