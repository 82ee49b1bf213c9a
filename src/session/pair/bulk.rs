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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;
    use std::io::ErrorKind;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::super::buffer::Budget;
    use super::*;

    /// A pipe into which so much comes each time.
    struct Fake {
        comes: usize,
        held: usize,
    }

    impl Pipe for Fake {
        fn fill(&mut self, _from: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
            assert_eq!(self.held, 0, "it is filled when it is empty");
            self.held = self.comes.min(most);
            if self.held == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(self.held) }
        }

        fn drain(&mut self, _to: BorrowedFd<'_>) -> io::Result<usize> {
            Ok(std::mem::take(&mut self.held))
        }

        fn len(&self) -> usize {
            self.held
        }
    }

    /// One pipe.
    struct One {
        comes: usize,
        lent: AtomicUsize,
    }

    impl Pipes for One {
        fn lend(&self) -> Option<Box<dyn Pipe>> {
            let is_free = self.lent.swap(1, Ordering::Relaxed) == 0;
            is_free.then(|| Box::new(Fake { comes: self.comes, held: 0 }) as Box<dyn Pipe>)
        }

        fn give_back(&self, pipe: Option<Box<dyn Pipe>>) {
            assert!(pipe.is_none_or(|pipe| pipe.is_empty()), "what is given back is empty");
            assert_eq!(self.lent.swap(0, Ordering::Relaxed), 1, "what is given back was lent");
        }
    }

    fn bulk() -> Bulk {
        let mut bulk = Bulk::default();
        (0..IN_A_ROW).for_each(|_| bulk.note_read(LARGE_BYTES, true));
        assert!(bulk.is_on());
        bulk
    }

    fn leases(limit_bytes: usize) -> (Leases, Arc<Budget>) {
        let budget = Budget::new(limit_bytes);
        (Leases::new(1 << 10, Arc::clone(&budget)), budget)
    }

    #[test]
    fn only_large_reads_in_a_row_make_a_flow_bulk() {
        let mut bulk = Bulk::default();
        for _ in 0..3 {
            (1..IN_A_ROW).for_each(|_| bulk.note_read(LARGE_BYTES, true));
            bulk.note_read(LARGE_BYTES - 1, true);
        }
        (0..10).for_each(|_| bulk.note_read(LARGE_BYTES, false));
        assert!(!bulk.is_on(), "a small one between them, and where there are no pipes");
        let mut refused = Bulk::default();
        refused.refuse();
        (0..10).for_each(|_| refused.note_read(LARGE_BYTES, true));
        assert!(!refused.is_on(), "the kernel does not splice");
    }

    #[test]
    fn small_pieces_end_it_and_so_does_a_pipe_that_takes_nothing() {
        let (mut leases, budget) = leases(2 * PIPE_BYTES);
        let socket = io::stdin();
        for (comes, fills) in [(LARGE_BYTES - 1, usize::from(IN_A_ROW)), (LARGE_BYTES, 100)] {
            let (mut bulk, pipes) = (bulk(), One { comes, lent: AtomicUsize::new(0) });
            let counted = Cell::new(0);
            while bulk.is_on() && counted.get() < 100 {
                bulk.begin_turn();
                assert!(bulk.hold_pipe(&mut leases, Some(&pipes)));
                assert_eq!(bulk.fill(socket.as_fd(), 1).expect("some comes"), comes.min(LARGE_BYTES));
                assert!(!bulk.turn_off_if_vain(), "some has come in this turn");
                assert_eq!((bulk.drain(socket.as_fd()).expect("all leaves"), bulk.len()), (comes, 0));
                bulk.settle(&mut leases, Some(&pipes));
                assert_eq!(budget.made_bytes(), 0, "an idle flow holds nothing");
                counted.set(counted.get() + 1);
            }
            assert_eq!(counted.get(), fills);
        }
        let (mut vain, pipes) = (bulk(), One { comes: 0, lent: AtomicUsize::new(0) });
        vain.begin_turn();
        assert!(vain.hold_pipe(&mut leases, Some(&pipes)));
        assert!(vain.fill(socket.as_fd(), 1).is_err() && vain.turn_off_if_vain() && !vain.is_on());
        vain.settle(&mut leases, Some(&pipes));
    }

    #[test]
    fn who_gets_no_pipe_pays_for_none() {
        let (mut leases, budget) = leases(2 * PIPE_BYTES);
        let pipes = One { comes: LARGE_BYTES, lent: AtomicUsize::new(0) };
        let (mut first, mut second) = (bulk(), bulk());
        assert!(first.hold_pipe(&mut leases, Some(&pipes)));
        assert!(!second.hold_pipe(&mut leases, Some(&pipes)), "there is one");
        assert_eq!(budget.made_bytes(), PIPE_BYTES);
        first.fill(io::stdin().as_fd(), 1).expect("some comes");
        first.give_up(&mut leases, Some(&pipes));
        assert_eq!(budget.made_bytes(), 0);
        assert!(second.hold_pipe(&mut leases, Some(&pipes)), "a pipe that was given up makes place for another");
        second.settle(&mut leases, Some(&pipes));
        let (mut poor, _) = self::leases(PIPE_BYTES - 1);
        assert!(!bulk().hold_pipe(&mut poor, Some(&pipes)), "there is no memory");
        assert!(!bulk().hold_pipe(&mut leases, None));
    }
}
