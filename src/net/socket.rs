//! One connected stream socket, nonblocking: read, write, send the FIN.
//!
//! One slice goes through `recv` and `send`, which the kernel serves a little quicker than the vectored calls; two go
//! through `readv` and `writev`, so that a ring that wraps still costs one call.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::retry;

/// A connected socket; closed when dropped.
pub struct Socket(OwnedFd);

impl Socket {
    /// A socket from a connected, nonblocking descriptor.
    pub fn new(descriptor: OwnedFd) -> Socket {
        Socket(descriptor)
    }

    /// Reads into the slices in order; 0 is the peer's FIN.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has come, otherwise what broke the connection.
    pub fn read(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match slices {
            [only] => retry(|| rustix::net::recv(&self.0, &mut **only, RecvFlags::empty())).map(|(count, _)| count),
            several => retry(|| rustix::io::readv(&self.0, several)),
        }
    }

    /// Writes from the slices in order. Never raises `SIGPIPE`: the daemon ignores that signal, as `std` arranges.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes nothing, otherwise what broke the connection.
    pub fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [only] => retry(|| rustix::net::send(&self.0, only, SendFlags::NOSIGNAL)),
            several => retry(|| rustix::io::writev(&self.0, several)),
        }
    }

    /// Sends the FIN.
    ///
    /// # Errors
    /// What broke the connection, if the peer is no longer there to hear it.
    pub fn finish(&self) -> io::Result<()> {
        retry(|| rustix::net::shutdown(&self.0, Shutdown::Write))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
