//! [`Bulk`]: a flow that carries much has the kernel move its bytes, by `splice` through a pipe, without a copy in between.
//!
//! A flow is bulk when reads are large several times in a row, and no longer when they are small, when something is to be read
//! that a pipe does not take, or when there is no pipe or no memory for one. Like a ring, a pipe is held while bytes are in
//! it: an idle flow that is bulk holds none.
//!
//! Pipes are the engine's ([`Pipes`]), so that a test can have some in memory. Read next: `pair.rs`; `net/pipe.rs`.

use std::io;
use std::os::fd::BorrowedFd;

use super::super::buffer::Leases;

/// What counts as large: below it a copy is cheaper than two more system calls. Guess; see `benches/relay.rs`.
const LARGE_BYTES: usize = 16 << 10;

/// Large reads, or small ones, in a row after which a flow changes its mind.
const IN_A_ROW: u8 = 4;

/// Bytes that one pipe may hold, which is what the memory of one is taken for.
pub const PIPE_BYTES: usize = 256 << 10;

/// A pipe, and how bytes get into it and out.
pub trait Pipe: Send {
    /// Moves at most so many bytes from a socket into the empty pipe; 0 is the peer's FIN.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has come that a pipe can take, otherwise what broke the connection.
    fn fill(&mut self, from: BorrowedFd<'_>, most: usize) -> io::Result<usize>;

    /// Moves what it holds to a socket, as far as that takes it.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing, otherwise what broke the connection.
    fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize>;

    /// Bytes that are in it.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where pipes come from.
pub trait Pipes: Sync {
    /// An empty pipe, unless as many as may be are lent.
    fn lend(&self) -> Option<Box<dyn Pipe>>;

    /// Takes an empty pipe back; none for one that was given up with what it held.
    fn give_back(&self, pipe: Option<Box<dyn Pipe>>);
}

/// Whether a flow carries much, and what it holds if it does.
#[derive(Default)]
pub(super) struct Bulk {
    is_on: bool,
    /// The kernel has refused to splice: never again.
    is_refused: bool,
    /// Reads in a row that speak against what it is now.
    against: u8,
    /// Something has come by a pipe in this turn.
    has_come: bool,
    pipe: Option<Box<dyn Pipe>>,
}

impl Bulk {
    pub(super) fn begin_turn(&mut self) {
        self.has_come = false;
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(super) fn len(&self) -> usize {
        self.pipe.as_ref().map_or(0, |pipe| pipe.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A read has brought so many bytes, where there are pipes if it `may` change.
    pub(super) fn note_read(&mut self, count: usize, may: bool) {
        if self.is_on {
            return;
        }
        self.against = if may && !self.is_refused && count >= LARGE_BYTES { self.against + 1 } else { 0 };
        if self.against == IN_A_ROW {
            (self.is_on, self.against) = (true, 0);
        }
    }

    pub(super) fn turn_off(&mut self) {
        (self.is_on, self.against) = (false, 0);
    }

    /// A pipe took nothing. Whether it is off now, because nothing has come by it in this turn at all.
    pub(super) fn turn_off_if_vain(&mut self) -> bool {
        if !self.has_come {
            self.turn_off();
        }
        !self.has_come
    }

    pub(super) fn refuse(&mut self) {
        self.is_refused = true;
        self.turn_off();
    }

    /// Sees to it that there is a pipe; false if none is to be had.
    pub(super) fn hold_pipe(&mut self, leases: &mut Leases, pipes: Option<&dyn Pipes>) -> bool {
        if self.pipe.is_none() && leases.pay(PIPE_BYTES) {
            self.pipe = pipes.and_then(Pipes::lend);
            if self.pipe.is_none() {
                leases.refund(PIPE_BYTES);
            }
        }
        self.pipe.is_some()
    }

    pub(super) fn fill(&mut self, from: BorrowedFd<'_>, left_bytes: usize) -> io::Result<usize> {
        let pipe = self.pipe.as_mut().expect("it holds one");
        let count = pipe.fill(from, left_bytes.clamp(LARGE_BYTES, PIPE_BYTES))?;
        self.has_come = true;
        self.against = if count < LARGE_BYTES { self.against + 1 } else { 0 };
        if self.against == IN_A_ROW {
            self.turn_off();
        }
        Ok(count)
    }

    pub(super) fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        self.pipe.as_mut().expect("it holds something").drain(to)
    }

    /// Gives an empty pipe back.
    pub(super) fn settle(&mut self, leases: &mut Leases, pipes: Option<&dyn Pipes>) {
        if let Some(pipe) = self.pipe.take_if(|pipe| pipe.is_empty()) {
            leases.refund(PIPE_BYTES);
            pipes.expect("a pipe is from where there are some").give_back(Some(pipe));
        }
    }

    /// Gives the pipe up with whatever it holds.
    pub(super) fn give_up(&mut self, leases: &mut Leases, pipes: Option<&dyn Pipes>) {
        if self.pipe.take().is_some() {
            leases.refund(PIPE_BYTES);
            pipes.expect("a pipe is from where there are some").give_back(None);
        }
    }
}
