//! [`Paired`]: what an engine keeps for a session with two streams, beside its client's socket: whom it is connected to, and
//! the [`Pair`] that moves the bytes.
//!
//! It is ONE session: one key, one state word, one owner. The second socket's events come under the session's key with a mark
//! ([`Key::to_upstream_u64`]) and are reasons like all others, so that neither end needs a lock. Whoever owns the session
//! connects it: its first turn begins an attempt, which is over when the socket takes output, and a target that refuses or
//! stays silent makes place for the next one. Until then nothing is read from the client, whose bytes wait in the kernel; only
//! whether it has been reset is looked at.
//!
//! A target has what is left of the connect timeout, divided by those that are left. What has been cut off is reset: an end
//! is a FIN at both sockets only if nothing is owed.
//!
//! Read next: `session/pair.rs`; `design/relaying.md` says why it is like this.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use log::warn;

use super::common::{Common, Orders};
use crate::clock::{Clock, TICK};
use crate::config::Rearm;
use crate::net::nudge::Interest;
use crate::net::poller::Poller;
use crate::net::socket::Socket;
use crate::session::buffer::Leases;
use crate::session::handler::{Closed, Means, Service};
use crate::session::pair::bulk::Pipes;
use crate::session::pair::{End, Pair};
use crate::session::state::Reasons;
use crate::session::table::Key;
use crate::session::upstream::{SKIPPED_FOR, Tried, Upstream};
use crate::session::{Stream, TurnEnd, closed_by};

/// How often a session looks at the time that is being connected, in ticks.
const CONNECTING_TICKS: u32 = 10;

/// The silence that ends a session of which one direction has ended, where nobody has named one.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(60);

/// The second end of a session, and what is between the two.
pub(super) struct Paired {
    service: Arc<dyn Service>,
    pair: Pair,
    link: Option<Link>,
    /// The link stands.
    is_connected: bool,
    tried: Tried,
    /// Where the choice of a target begins, so that clients are spread.
    seed: usize,
    /// Until when the present attempt may take, and all of them; 0 before the first.
    attempt_over_ns: u64,
    all_over_ns: u64,
}

/// A connection to a target, or the attempt at one.
struct Link {
    socket: Socket,
    target: usize,
    /// The poller knows the socket.
    is_watched: bool,
    /// Counts with its target as long as it is there.
    service: Arc<dyn Service>,
}

impl Drop for Link {
    fn drop(&mut self) {
        upstream_of(&self.service).leave(self.target);
    }
}

fn upstream_of(service: &Arc<dyn Service>) -> &Upstream {
    service.upstream().expect("a session of two streams is of a service that names its targets")
}

impl Paired {
    /// For the client of this socket, not yet connected to anybody.
    pub(super) fn new(service: Arc<dyn Service>, client: &Socket) -> Paired {
        let addresses = client.peer().ok().zip(client.local().ok());
        // Linux hands out every second port first.
        let seed = addresses.map_or(0, |(peer, _)| usize::from(peer.port() >> 1));
        let header = upstream_of(&service).usage.header.map_or(Vec::new(), |header| header(addresses));
        client.read_urgent_in_line();
        Paired {
            service,
            pair: Pair::new(header),
            link: None,
            is_connected: false,
            tried: Tried::default(),
            seed,
            attempt_over_ns: 0,
            all_over_ns: 0,
        }
    }

    /// Does all that can be done now; `socket` is the client's, under its stream.
    pub(super) fn turn(
        &mut self,
        socket: &Socket,
        client: &mut impl Stream,
        reasons: Reasons,
        means: &mut Means<'_>,
        common: &Common,
    ) -> TurnEnd {
        if !self.is_connected {
            // A client that has gone waits for nobody; one that has sent its FIN still wants its answer.
            if let Err(reason) = socket.take_error().and_then(|()| client.take_error()) {
                return TurnEnd::Closed(closed_by(&reason));
            }
            match self.connect(common.clock.now_ns()) {
                Ok(true) => self.is_connected = true,
                Ok(false) => {
                    self.pair.handle_reasons(reasons);
                    return TurnEnd::Idle;
                }
                Err(closed) => return TurnEnd::Closed(closed),
            }
        }
        let pipes = self.pipes(common);
        let link = self.link.as_ref().expect("it is connected");
        self.pair.turn(client, &mut &link.socket, reasons, means, pipes)
    }

    fn pipes<'a>(&self, common: &'a Common) -> Option<&'a dyn Pipes> {
        let is_wanted = upstream_of(&self.service).usage.zero_copy;
        is_wanted.then_some(&common.pipes as &dyn Pipes)
    }

    /// Goes on with connecting as far as that goes without waiting. True once the link stands.
    fn connect(&mut self, now_ns: u64) -> Result<bool, Closed> {
        let service = Arc::clone(&self.service);
        let upstream = upstream_of(&service);
        if self.all_over_ns == 0 {
            self.all_over_ns = now_ns.saturating_add(upstream.usage.connect_timeout.as_nanos() as u64);
        }
        loop {
            let refusal = match &self.link {
                None => None,
                Some(link) => match link.socket.take_error() {
                    Err(reason) => Some(reason),
                    Ok(()) if link.socket.peer().is_ok() => {
                        upstream.welcome(link.target);
                        return Ok(true);
                    }
                    Ok(()) if now_ns < self.attempt_over_ns => return Ok(false),
                    Ok(()) => Some(ErrorKind::TimedOut.into()),
                },
            };
            if let (Some(reason), Some(link)) = (refusal, self.link.take()) {
                refused(upstream, link.target, &reason, now_ns);
            }
            self.begin(&service, now_ns)?;
        }
    }

    /// Begins an attempt at the next target.
    fn begin(&mut self, service: &Arc<dyn Service>, now_ns: u64) -> Result<(), Closed> {
        let upstream = upstream_of(service);
        let left = upstream.len() - self.tried.count();
        let left_ns = self.all_over_ns.saturating_sub(now_ns);
        if left == 0 || left_ns == 0 {
            return Err(Closed::Unreachable);
        }
        let target = upstream.choose(&mut self.tried, self.seed, now_ns).expect("some are left");
        match Socket::connecting_to(upstream.address(target)) {
            Ok(socket) => {
                socket.read_urgent_in_line();
                self.attempt_over_ns = now_ns + left_ns / left as u64;
                self.link = Some(Link { socket, target, is_watched: false, service: Arc::clone(service) });
                Ok(())
            }
            Err(reason) => {
                upstream.leave(target);
                if is_ours(&reason) {
                    warn!("{}: a client cannot be connected to {}: {reason}", service.name(), upstream.name(target));
                    return Err(Closed::OverLimit);
                }
                refused(upstream, target, &reason, now_ns);
                Ok(())
            }
        }
    }

    /// Has the poller report what the second stream waits for, as far as it is not watched for ever.
    pub(super) fn watch(&mut self, poller: &Poller, key: Key, rearm: Rearm) -> io::Result<()> {
        let Interest { input, output } = self.interest();
        let Some(link) = &mut self.link else { return Ok(()) };
        let (socket, key) = (link.socket.as_fd(), key.to_upstream_u64());
        match (rearm, std::mem::replace(&mut link.is_watched, true)) {
            (Rearm::Edge, false) => poller.watch_edge_both(socket, key),
            (Rearm::Edge, true) => Ok(()),
            (Rearm::Oneshot, false) => {
                poller.watch_oneshot(socket, key)?;
                poller.rearm(socket, key, input, output)
            }
            (Rearm::Oneshot, true) if input || output => poller.rearm(socket, key, input, output),
            (Rearm::Oneshot, true) => Ok(()),
        }
    }

    /// What the second stream waits for.
    pub(super) fn interest(&self) -> Interest {
        match self.is_connected {
            true => Interest {
                input: self.pair.wants_input(End::Upstream),
                output: self.pair.is_write_blocked(End::Upstream),
            },
            false => Interest { input: false, output: true },
        }
    }

    /// The second socket, once there is one.
    pub(super) fn socket(&self) -> Option<&Socket> {
        self.link.as_ref().map(|link| &link.socket)
    }

    pub(super) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// After what silence it is to end; None while it is being connected, which has a timeout of its own.
    pub(super) fn idle_ticks(&self, orders: &Orders) -> Option<u32> {
        let own = upstream_of(&self.service).usage.idle.map(Clock::ticks);
        let common = match self.pair.is_half_closed() {
            true => orders.idle_ticks().min(Clock::ticks(HALF_CLOSED_IDLE)),
            false => orders.idle_ticks(),
        };
        self.is_connected.then(|| own.unwrap_or(common))
    }

    /// After how many ticks of silence it wants a turn at the latest.
    pub(super) fn look_ticks(&self) -> u32 {
        match self.is_connected {
            true => Clock::ticks(upstream_of(&self.service).usage.idle.unwrap_or(HALF_CLOSED_IDLE)),
            false => CONNECTING_TICKS,
        }
    }

    /// After what time it is looked at again, while it is being connected.
    pub(super) fn connecting_left(&self, now_ns: u64) -> Option<Duration> {
        let left = Duration::from_nanos(self.attempt_over_ns.saturating_sub(now_ns));
        (!self.is_connected).then(|| left.clamp(TICK, TICK * CONNECTING_TICKS))
    }

    /// Gives back what it holds; what has been cut off is reset, at both sockets.
    pub(super) fn end(&mut self, client: &Socket, closed: Closed, leases: &mut Leases, common: &Common) {
        let is_whole = match closed {
            Closed::Finished => true,
            Closed::Drained | Closed::IdleTimeout => self.is_connected && !self.pair.owes(),
            _ => false,
        };
        self.pair.release(leases, self.pipes(common));
        if !is_whole {
            client.reset_when_closed();
            self.socket().into_iter().for_each(Socket::reset_when_closed);
        }
    }
}

/// A target did not take a connection.
fn refused(upstream: &Upstream, target: usize, reason: &io::Error, now_ns: u64) {
    if upstream.skip(target, now_ns) {
        warn!("{} took no connection and is skipped for {SKIPPED_FOR:?}: {reason}", upstream.name(target));
    }
}

/// Whether it is this process or this machine that has run out of something, rather than a target that is not there.
pub(super) fn is_ours(reason: &io::Error) -> bool {
    use rustix::io::Errno;
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL, Errno::AGAIN];
    reason.raw_os_error().is_some_and(|code| own.iter().any(|errno| errno.raw_os_error() == code))
}
