//! What an engine keeps for one session: its socket, its protocol state, and what the poller was last asked about it.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::sync::Arc;

use super::front::{Arrival, Refusal};
use crate::net::batch::send_messages;
use crate::net::socket::Socket;
use crate::session::mailbox::Rouse;
use crate::session::part::Part;
use crate::session::{Session, Stream};

/// A session and the socket under it. Dropping it closes the socket.
pub(super) struct Connection {
    pub(super) session: Session,
    pub(super) socket: Socket,
    /// Whether the poller also reports that the socket takes output (edge mode: asked for at most once).
    pub(super) watches_output: bool,
    /// Whether the idle timeout spares it.
    pub(super) idle_exempt: bool,
    /// Whether it has a turn before anything has come.
    pub(super) speaks_first: bool,
}

impl Connection {
    /// A session that has not had its first turn, on the socket that has come; who has mail for it tells `rouse`, with this
    /// key.
    pub(super) fn begin(arrival: Arrival, key: u64, rouse: Arc<dyn Rouse>) -> Result<Connection, Refusal> {
        let session = arrival.open(key, rouse)?;
        let Arrival { socket, service, idle_exempt } = arrival;
        Ok(Connection { session, socket, watches_output: false, idle_exempt, speaks_first: service.speaks_first() })
    }

    /// Whether the idle timeout spares it now.
    pub(super) fn is_spared(&self) -> bool {
        self.idle_exempt || self.session.has_calls()
    }
}

/// The way between a session and its socket during a turn.
pub(super) trait Wire {
    /// What the session reads from and writes to.
    fn stream<'a>(&'a mut self, socket: &'a Socket) -> impl Stream + 'a;
}

/// By system calls, when the session wants them.
pub(super) struct Calls;

impl Wire for Calls {
    fn stream<'a>(&'a mut self, socket: &'a Socket) -> impl Stream + 'a {
        socket
    }
}

/// The socket as a session sees it.
impl Stream for &Socket {
    fn read(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        Socket::read(self, slices)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Socket::write(self, slices)
    }

    fn write_each(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let messages: Vec<&[IoSlice<'_>]> = slices.chunks(1).collect();
        send_messages(self.as_fd(), &messages)
    }

    fn send_file(&mut self, part: &Part) -> io::Result<usize> {
        Socket::send_file(self, &part.file, part.from, part.bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        Socket::finish(self)
    }
}
