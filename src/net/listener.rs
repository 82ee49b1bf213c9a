//! Accepting: bind, accept, and which accept errors pass, pause or end the listener.
//!
//! Invariant *reserve*: a listener holds one spare descriptor, so that even a process without free ones can accept a
//! connection to close it, rather than leave it in a backlog that nobody will ever look at.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::socket::Socket;

/// Connections that the kernel may hold for us; it takes the least of this and `net.core.somaxconn`.
pub const BACKLOG: u16 = 4096;

/// A listening TCP socket, nonblocking.
pub struct Listener {
    socket: OwnedFd,
    address: SocketAddr,
    /// The spare descriptor; empty only while it is lent to a connection that is accepted to be closed.
    reserve: Option<OwnedFd>,
}

/// What one accept brought.
#[must_use]
pub enum Accepted {
    /// A connection, nonblocking, with small writes sent at once.
    Connection(Socket),
    /// Nobody is waiting.
    Nobody,
    /// That connection had gone already; the next may be well.
    Gone,
    /// The process or the machine has no descriptor or memory left for it: `reason` says which. Accept again later.
    Exhausted(io::Error),
}

impl Listener {
    /// Binds and listens; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// What the kernel says of the address.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        Listener::open(address, false)
    }

    fn open(address: SocketAddr, shares: bool) -> io::Result<Listener> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if shares {
            sockopt::set_socket_reuseport(&socket, true)?;
        }
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, i32::from(BACKLOG))?;
        let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(Listener { socket, address, reserve: Some(spare_descriptor()?) })
    }

    /// One more listener on the same address, with a backlog of its own: from now on the kernel spreads arrivals over both.
    ///
    /// The port stays this daemon's. The first listener was bound without `SO_REUSEPORT`, so that an address that is
    /// taken was refused; it gets the option only now, and Linux lets it into the group that the second one founds. A
    /// process that does not ask to share is refused as ever, and one that does must be of the same user.
    ///
    /// # Errors
    /// No descriptor, or the kernel knows no sharing.
    pub fn sibling(&self) -> io::Result<Listener> {
        sockopt::set_socket_reuseport(&self.socket, true)?;
        Listener::open(self.address, true)
    }

    /// The address really bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes one connection off the backlog.
    ///
    /// # Errors
    /// When the listener itself is broken.
    pub fn accept(&self) -> io::Result<Accepted> {
        accept_on(self.socket.as_fd())
    }

    /// Accepts one connection on the spare descriptor and closes it; whether there was one.
    pub fn turn_away_one(&mut self) -> bool {
        self.reserve = None;
        let turned_away = matches!(self.accept(), Ok(Accepted::Connection(_)));
        // Another thread may have taken the descriptor that was just freed; then the next call gets it back.
        self.reserve = spare_descriptor().ok();
        turned_away
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Takes one connection off a listening socket's backlog.
pub(super) fn accept_on(socket: BorrowedFd<'_>) -> io::Result<Accepted> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        return match rustix::net::accept_with(socket, flags) {
            Ok(descriptor) => Ok(Accepted::Connection(Socket::accepted(descriptor))),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(Accepted::Nobody),
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                Ok(Accepted::Exhausted(errno.into()))
            }
            Err(errno @ (Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP | Errno::FAULT)) => {
                Err(errno.into())
            }
            // Linux hands on the errors of the connection itself: it is gone, the listener is well.
            Err(_) => Ok(Accepted::Gone),
        };
    }
}

fn spare_descriptor() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
