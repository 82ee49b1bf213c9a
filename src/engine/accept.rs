//! The accepting side of an engine with a poller: when to take connections, when to turn one away, when to pause.
//!
//! A listener is watched in level mode. When the process has no descriptor left, level mode would spin and edge mode
//! would go deaf: nothing fires again when descriptors come free. So the acceptor stops watching, turns one connection
//! away on the spare descriptor, and looks again by itself after a pause that doubles up to [`LONGEST_PAUSE`]. Clients
//! in the backlog are served as soon as there is room, with no need for a new one to come.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use log::warn;

use super::Served;
use crate::error::Error;
use crate::net::listener::Accepted;
use crate::net::poller::Poller;
use crate::net::socket::Socket;
use crate::session::handler::Service;

/// The first pause after descriptors ran out.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// The longest: well within the second in which service is to resume.
const LONGEST_PAUSE: Duration = Duration::from_millis(640);

/// Connections in a row that may be gone before they are accepted; more, and accepting itself is what fails.
const GONE_MOST: usize = 64;

/// A listener, and whether it rests.
pub(super) struct Acceptor {
    served: Served,
    key: u64,
    next_pause: Duration,
    /// When to look again; None while the poller watches.
    resume_ns: Option<u64>,
    /// Nobody rings any more; those who wait are still taken.
    is_closing: bool,
    warned_ns: Option<u64>,
    unwarned: u64,
}

/// What tells the front that somebody waits at a listener.
pub(super) trait Doorbell {
    /// Rings with this key from now on.
    fn watch(&mut self, listener: BorrowedFd<'_>, key: u64) -> io::Result<()>;

    /// Does not ring any more.
    fn forget(&mut self, listener: BorrowedFd<'_>, key: u64);
}

/// The poller reports a listener as long as somebody waits there.
impl Doorbell for &Poller {
    fn watch(&mut self, listener: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        self.watch_level(listener, key)
    }

    fn forget(&mut self, listener: BorrowedFd<'_>, _key: u64) {
        Poller::forget(self, listener).expect("a listener that does not rest is watched");
    }
}

/// What one attempt to accept brought.
#[must_use]
pub(super) enum Admission {
    /// Somebody is here.
    Connection(Socket),
    /// Nobody waits any more: the next arrival is an event.
    Nobody,
    /// Descriptors or memory ran out: the acceptor looks again at `resume_ns`.
    Paused {
        /// Whether a connection was turned away on the spare descriptor.
        turned_away: bool,
    },
}

impl Acceptor {
    /// Watches the listener under `key`.
    pub(super) fn watch(served: Served, key: u64, mut bell: impl Doorbell) -> io::Result<Acceptor> {
        bell.watch(served.listener.as_fd(), key)?;
        Ok(Acceptor::new(served, key))
    }

    /// The same for when it is too late to say that it cannot be watched: then it goes on looking by itself.
    pub(super) fn watch_or_rest(served: Served, key: u64, mut bell: impl Doorbell, now_ns: u64) -> Acceptor {
        let watched = bell.watch(served.listener.as_fd(), key).is_ok();
        let resume_ns = (!watched).then(|| now_ns + LONGEST_PAUSE.as_nanos() as u64);
        Acceptor { resume_ns, ..Acceptor::new(served, key) }
    }

    fn new(served: Served, key: u64) -> Acceptor {
        Acceptor {
            served,
            key,
            next_pause: SHORTEST_PAUSE,
            resume_ns: None,
            is_closing: false,
            warned_ns: None,
            unwarned: 0,
        }
    }

    /// Whether it listens there.
    pub(super) fn is_at(&self, address: SocketAddr) -> bool {
        self.served.listener.address() == address
    }

    /// Offers this from now on.
    pub(super) fn offer(&mut self, service: Arc<dyn Service>, idle_exempt: bool) {
        (self.served.service, self.served.idle_exempt) = (service, idle_exempt);
    }

    pub(super) fn served(&self) -> &Served {
        &self.served
    }

    pub(super) fn into_served(self) -> Served {
        self.served
    }

    /// When it wants to look again by itself.
    pub(super) fn resume_ns(&self) -> Option<u64> {
        self.resume_ns
    }

    /// Takes one connection.
    pub(super) fn accept(&mut self, bell: &mut impl Doorbell, now_ns: u64) -> Admission {
        for _ in 0..GONE_MOST {
            return match self.served.listener.accept() {
                Ok(Accepted::Connection(socket)) => {
                    self.resume(bell);
                    Admission::Connection(socket)
                }
                Ok(Accepted::Gone) => continue,
                Ok(Accepted::Nobody) => {
                    self.resume(bell);
                    Admission::Nobody
                }
                Ok(Accepted::Exhausted(reason)) | Err(reason) => self.pause(bell, now_ns, &reason),
            };
        }
        self.pause(bell, now_ns, &io::Error::other("every connection is gone before it is accepted"))
    }

    /// The bell has fallen silent by itself.
    pub(super) fn watch_again(&mut self, mut bell: impl Doorbell) {
        if self.resume_ns.is_none() {
            bell.watch(self.served.listener.as_fd(), self.key).expect("what was watched can be watched again");
        }
    }

    /// Nobody is to ring any more: the listener is about to be closed.
    pub(super) fn forget(&mut self, mut bell: impl Doorbell) {
        self.is_closing = true;
        if self.resume_ns.is_none() {
            bell.forget(self.served.listener.as_fd(), self.key);
        }
    }

    fn pause(&mut self, bell: &mut impl Doorbell, now_ns: u64, reason: &io::Error) -> Admission {
        let turned_away = self.served.listener.turn_away_one();
        let pause = self.next_pause;
        self.warn_turned_away(now_ns, &format!("{reason}; accepting pauses for {pause:?}"));
        if self.resume_ns.is_none() && !self.is_closing {
            bell.forget(self.served.listener.as_fd(), self.key);
        }
        self.resume_ns = Some(now_ns + pause.as_nanos() as u64);
        self.next_pause = (pause * 2).min(LONGEST_PAUSE);
        Admission::Paused { turned_away }
    }

    fn resume(&mut self, bell: &mut impl Doorbell) {
        self.next_pause = SHORTEST_PAUSE;
        if let Some(resume_ns) = self.resume_ns.filter(|_| !self.is_closing) {
            // Refused for want of memory: then the acceptor goes on looking by itself.
            let watched = bell.watch(self.served.listener.as_fd(), self.key).is_ok();
            self.resume_ns = (!watched).then(|| resume_ns + LONGEST_PAUSE.as_nanos() as u64);
        }
    }

    /// Says in the log that a connection was turned away, at most once a second, with the number left unsaid.
    pub(super) fn warn_turned_away(&mut self, now_ns: u64, reason: &str) {
        let recently = self.warned_ns.is_some_and(|warned_ns| now_ns.saturating_sub(warned_ns) < 1_000_000_000);
        if recently {
            self.unwarned += 1;
            return;
        }
        self.warned_ns = Some(now_ns);
        let address = self.served.listener.address();
        match std::mem::take(&mut self.unwarned) {
            0 => warn!("{address}: a connection was closed at once: {reason}"),
            more => warn!("{address}: a connection was closed at once, and {more} before it: {reason}"),
        }
    }
}

/// As many listeners of each kind as there are threads that accept, all on the port of the first.
pub(super) fn share_ports(listeners: Vec<Served>, count: usize) -> Result<Vec<Vec<Served>>, Error> {
    let mut shares: Vec<Vec<Served>> = (0..count).map(|_| Vec::with_capacity(listeners.len())).collect();
    for served in listeners {
        for share in &mut shares[1..] {
            let listener = served.listener.sibling();
            let address = served.listener.address();
            let listener =
                listener.map_err(|reason| Error::resource(format!("listen once more on {address}"), reason))?;
            share.push(Served { listener, service: Arc::clone(&served.service), idle_exempt: served.idle_exempt });
        }
        shares[0].push(served);
    }
    Ok(shares)
}
