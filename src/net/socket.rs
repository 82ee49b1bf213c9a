//! One connected socket, nonblocking: connect, read, write, send the FIN.
//!
//! One slice goes through `recv` and `send`, which the kernel serves a little quicker than the vectored calls; two go
//! through `readv` and `writev`, so that a ring that wraps still costs one call.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};

use super::retry;

/// A connected socket; closed when dropped.
pub struct Socket(OwnedFd);

impl Socket {
    /// A socket from a connected, nonblocking descriptor.
    pub fn new(descriptor: OwnedFd) -> Socket {
        Socket(descriptor)
    }

    /// The socket of a nonblocking descriptor that was accepted, with small writes sent at once.
    pub fn accepted(descriptor: OwnedFd) -> Socket {
        // Answers are written once per turn, whole: waiting to fill a packet would only delay them. A connection that is
        // gone already says so at its first read.
        let _ = sockopt::set_tcp_nodelay(&descriptor, true);
        Socket(descriptor)
    }

    /// A stream socket that is being connected to `address`, with small writes sent at once. It is writable when that is
    /// done, and [`take_error`](Socket::take_error) says how it went.
    ///
    /// # Errors
    /// What keeps the attempt from being made: no descriptor, no local port, no way there.
    pub fn connecting_to(address: SocketAddr) -> io::Result<Socket> {
        let socket = new_socket(address, SocketType::STREAM)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match rustix::net::connect(&socket, &address) {
            // An interrupted attempt goes on as well.
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Socket(socket)),
            Err(error) => Err(error.into()),
        }
    }

    /// A datagram socket that sends to `address` and hears nobody else.
    ///
    /// # Errors
    /// No descriptor, no local port, no way there.
    pub fn datagrams_to(address: SocketAddr) -> io::Result<Socket> {
        let socket = new_socket(address, SocketType::DGRAM)?;
        rustix::net::connect(&socket, &address)?;
        Ok(Socket(socket))
    }

    /// What went wrong since the last look, such as with an attempt to connect.
    ///
    /// # Errors
    /// That.
    pub fn take_error(&self) -> io::Result<()> {
        Ok(sockopt::socket_error(&self.0)??)
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// `NotConnected` when nobody is.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::try_from(rustix::net::getpeername(&self.0)?.ok_or(Errno::NOTCONN)?)?)
    }

    /// This end's own address.
    ///
    /// # Errors
    /// When the socket has none.
    pub fn local(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::try_from(rustix::net::getsockname(&self.0)?)?)
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

    /// Sends `bytes` of a file from `from` on, from where the kernel has them. Waits for those that it has not.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes nothing; `UnexpectedEof` when the file has no such bytes, or they cannot be read;
    /// otherwise what broke the connection.
    pub fn send_file(&self, file: &File, from: u64, bytes: usize) -> io::Result<usize> {
        let count = retry(|| {
            let mut from = from;
            rustix::fs::sendfile(&self.0, file, Some(&mut from), bytes)
        });
        match count {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, error))
            }
            count => count,
        }
    }

    /// When the socket is closed, the peer sees a reset rather than a FIN, and what it was not yet sent is dropped.
    pub fn reset_when_closed(&self) {
        // A socket that knows no such option is closed in order.
        let _ = sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
    }

    /// From now on the peer's urgent bytes are read in their place among the others, rather than left out.
    pub fn read_urgent_in_line(&self) {
        // A socket that knows no such option has no urgent bytes.
        let _ = sockopt::set_socket_oobinline(&self.0, true);
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

fn new_socket(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}
