//! [`Stream`]: what a session takes a socket for. Engines lend it one, by system calls or by completions; tests lend it one in
//! memory. Read next: [`Session`](super::Session), which reads and writes it.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};

use super::handler::Closed;

/// What a session reads from and writes to. Neither call may block; `Interrupted` is not passed on.
pub trait Stream {
    /// Reads into the slices in order. `Ok(0)` is the peer's FIN, `WouldBlock` that nothing has come.
    fn read(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Writes from the slices in order. A short count means that the next call would block.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes each slice as a message of its own, in order, as far as the stream takes them: how many bytes it took in
    /// all, as [`write`](Stream::write) says it.
    fn write_each(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(slices)
    }

    /// Sends the FIN: nothing more will be written.
    fn finish(&mut self) -> io::Result<()>;

    /// Whether all that was written is on its way: `WouldBlock` from a stream that keeps some of it for a while, and
    /// reports by being writable that it has gone. Asked before the FIN and before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Which end an error on the stream is. What is not a reset is a peer that can no longer be reached.
pub(super) fn closed_by(error: &io::Error) -> Closed {
    match error.kind() {
        ErrorKind::ConnectionReset => Closed::Reset,
        _ => Closed::PeerClosed,
    }
}
