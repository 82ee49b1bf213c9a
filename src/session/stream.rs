//! [`Stream`]: what a session takes a socket for. Engines lend it one, by system calls or by completions; tests lend it one in
//! memory. Read next: [`Session`](super::Session), which reads and writes it.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use super::handler::Closed;
use super::part::Part;

/// Bytes of a file that are copied at once where nothing better is to be had.
const COPIED_BYTES: usize = 64 << 10;

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

    /// Sends bytes of a file, as far as the stream takes them; a short count says nothing of the next call. `UnexpectedEof`:
    /// the file does not have them.
    fn send_file(&mut self, part: &Part) -> io::Result<usize> {
        let mut bytes = vec![0; part.bytes.min(COPIED_BYTES)];
        let count = part.file.read_at(&mut bytes, part.from)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.write(&[IoSlice::new(&bytes[..count])])
    }

    /// The socket itself, for whoever can have the kernel move bytes from one to another; None where it would not see all.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What has broken it, if the stream has been told of that before anybody has read or written.
    fn take_error(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// System calls that its last read, write or [`send_file`](Stream::send_file) took: one, but where bytes wait in memory
    /// until the kernel takes them or has brought them.
    fn kernel_calls(&self) -> u64 {
        1
    }

    /// Sends the FIN: nothing more will be written.
    fn finish(&mut self) -> io::Result<()>;

    /// Whether all that was written is on its way: `WouldBlock` from a stream that keeps some of it for a while, and
    /// reports by being writable that it has gone. Asked before the FIN and before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Which end an error on the stream is. What is neither a reset nor a file that was cut is a peer that can no longer be reached.
pub(crate) fn closed_by(error: &io::Error) -> Closed {
    match error.kind() {
        ErrorKind::ConnectionReset => Closed::Reset,
        ErrorKind::UnexpectedEof => Closed::Failed,
        _ => Closed::PeerClosed,
    }
}
