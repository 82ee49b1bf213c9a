//! [`Pipe`]: bytes on their way from one socket to another that this process never sees.
//!
//! `splice` moves the kernel's own pages into the pipe and out of it. Invariant *filled-when-empty*: a pipe that holds
//! something is not filled, so that `WouldBlock` says of the socket, not of the pipe, that there is nothing.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::retry;

/// A pipe of this process's own, nonblocking.
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty pipe that holds about so many bytes, or as many as the system lets it.
    ///
    /// # Errors
    /// No descriptors.
    pub fn new(bytes: usize) -> io::Result<Pipe> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // What a user's pipes may hold together is limited; a smaller one does as well.
        let _ = fcntl_setpipe_size(&writer, bytes);
        Ok(Pipe { reader, writer, held: 0 })
    }

    /// Bytes that are in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves at most `most` bytes from a socket into the empty pipe; 0 is the peer's FIN.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has come, otherwise what broke the connection; `InvalidInput` from what is no socket.
    pub fn fill(&mut self, from: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        assert_eq!(self.held, 0, "filled-when-empty");
        self.held = retry(|| splice(from, None, &self.writer, None, most, flags()))?;
        Ok(self.held)
    }

    /// Moves what it holds to a socket, as far as that takes it.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing, otherwise what broke the connection.
    pub fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let count = retry(|| splice(&self.reader, None, to, None, self.held, flags()))?;
        self.held -= count;
        Ok(count)
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::NONBLOCK | SpliceFlags::MOVE
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("somebody listens");
        (near, listener.accept().expect("somebody came").0)
    }

    #[test]
    fn bytes_go_through_in_order_and_a_fin_is_nothing() {
        let ((mut client, from), (to, mut target)) = (pair(), pair());
        from.set_nonblocking(true).expect("a socket");
        let mut pipe = Pipe::new(64 << 10).expect("there are descriptors");
        let nothing = pipe.fill(from.as_fd(), 1000).expect_err("nothing has come");
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        client.write_all(b"one two three").expect("it is open");
        assert_eq!(pipe.fill(from.as_fd(), 7).expect("something has come"), 7);
        assert_eq!((pipe.drain(to.as_fd()).expect("there is room"), pipe.held()), (7, 0));
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(pipe.fill(from.as_fd(), 1000).expect("the rest has come"), 6);
        assert_eq!(pipe.drain(to.as_fd()).expect("there is room"), 6);
        assert_eq!(pipe.fill(from.as_fd(), 1000).expect("the FIN has come"), 0);
        drop(to);
        let mut heard = String::new();
        target.read_to_string(&mut heard).expect("it ends in order");
        assert_eq!(heard, "one two three");
    }
}
