//! What an engine keeps for one session: its socket, its protocol state, and what the poller was last asked about it. What is
//! different about a session with two sockets is in `paired.rs`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::common::{Common, Orders};
use super::front::{Arrival, Refusal};
use super::paired::Paired;
use crate::net::batch::send_messages;
use crate::net::socket::Socket;
use crate::session::buffer::Leases;
use crate::session::handler::{Closed, Means};
use crate::session::mailbox::{Address, Rouse};
use crate::session::pair::End;
use crate::session::part::Part;
use crate::session::state::Reasons;
use crate::session::{Session, Stream, TurnEnd};

/// A session and the socket under it. Dropping it closes the socket.
pub(super) struct Connection {
    pub(super) session: Ends,
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
        let session = match arrival.service.upstream() {
            Some(_) => Ends::Two(Box::new(Paired::new(Arc::clone(&arrival.service), &arrival.socket))),
            None => Ends::One(arrival.open(key, rouse)?),
        };
        let Arrival { socket, service, idle_exempt } = arrival;
        // Who is to be connected does not wait for the client to speak.
        let speaks_first = service.speaks_first() || matches!(session, Ends::Two(_));
        Ok(Connection { session, socket, watches_output: false, idle_exempt, speaks_first })
    }

    /// After what silence it is to end; None if the idle timeout spares it now.
    pub(super) fn idle_ticks(&self, orders: &Orders) -> Option<u32> {
        match &self.session {
            _ if self.idle_exempt => None,
            Ends::One(session) => (!session.has_calls()).then(|| orders.idle_ticks()),
            Ends::Two(paired) => paired.idle_ticks(orders),
        }
    }

    /// Tells the session how it ends, and gives back what it holds.
    pub(super) fn end(&mut self, closed: Closed, leases: &mut Leases, common: &Common) {
        match &mut self.session {
            Ends::One(session) => {
                session.release(leases);
                session.handle_closed(closed);
            }
            Ends::Two(paired) => paired.end(&self.socket, closed, leases, common),
        }
    }
}

/// A session has one stream, its client's, or a second one that the engine has connected.
pub(super) enum Ends {
    One(Session),
    Two(Box<Paired>),
}

impl Ends {
    /// Does all that can be done now; `socket` is the client's, under its stream.
    pub(super) fn turn(
        &mut self,
        socket: &Socket,
        client: &mut impl Stream,
        reasons: Reasons,
        means: &mut Means<'_>,
        common: &Common,
    ) -> TurnEnd {
        match self {
            Ends::One(session) => session.turn(client, reasons, means),
            Ends::Two(paired) => paired.turn(socket, client, reasons, means, common),
        }
    }

    /// Where others reach it, if they do.
    pub(super) fn address(&self) -> Option<&Address> {
        match self {
            Ends::One(session) => session.address(),
            Ends::Two(_) => None,
        }
    }

    /// Whether something has been left for it.
    pub(super) fn has_news(&self) -> bool {
        match self {
            Ends::One(session) => session.has_news(),
            Ends::Two(_) => false,
        }
    }

    /// Whether the client's socket has refused bytes.
    pub(super) fn is_write_blocked(&self) -> bool {
        match self {
            Ends::One(session) => session.is_write_blocked(),
            Ends::Two(paired) => paired.pair().is_write_blocked(End::Client),
        }
    }

    /// Whether it would read the client's socket if there were input.
    pub(super) fn wants_input(&self) -> bool {
        match self {
            Ends::One(session) => session.wants_input(),
            Ends::Two(paired) => paired.pair().wants_input(End::Client),
        }
    }

    /// Whether some socket has refused bytes.
    pub(super) fn is_blocked(&self) -> bool {
        match self {
            Ends::One(session) => session.is_write_blocked(),
            Ends::Two(paired) => {
                let is_blocked = |end| paired.pair().is_write_blocked(end);
                is_blocked(End::Client) || is_blocked(End::Upstream)
            }
        }
    }

    /// Whether everybody who is still owed bytes has taken some in the last turn, which wrote some if it `moved`.
    pub(super) fn all_took(&self, moved: bool) -> bool {
        match self {
            Ends::One(_) => moved,
            Ends::Two(paired) => paired.pair().all_took(),
        }
    }

    /// Whether all has been sent, and only a FIN is awaited.
    pub(super) fn is_lingering(&self) -> bool {
        match self {
            Ends::One(session) => session.is_lingering(),
            Ends::Two(paired) => paired.pair().is_lingering(),
        }
    }

    /// After how many ticks of silence it wants a turn, beside the timeouts of all; 0 for never.
    pub(super) fn look_ticks(&self) -> u32 {
        match self {
            Ends::One(_) => 0,
            Ends::Two(paired) => paired.look_ticks(),
        }
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

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }

    fn finish(&mut self) -> io::Result<()> {
        Socket::finish(self)
    }
}
