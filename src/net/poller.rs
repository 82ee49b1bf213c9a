//! Readiness: who is watched, in which mode, and the one call that waits for it.
//!
//! The only user of `polling`, which gives the portable part: the descriptor, level mode for listeners, one-shot mode
//! and its re-arm call. Three things go past it to the same epoll descriptor, because they are measured to pay
//! (`design/edge-or-oneshot.md`):
//! - waiting: `Poller::wait` is five system calls (it arms a timer and re-arms its notification); `epoll_pwait2` is one
//!   (Linux 5.11);
//! - edge mode with `RDHUP` and `PRI`: the event says that the FIN or urgent data has come, so that without it a short
//!   read is enough to know a drained socket and the extra read until would-block can go;
//! - waking: an edge-triggered eventfd that nobody has to read.
//!
//! Keys: a session's is `Key::to_u64` (2³² and up), those below are the engine's own. `usize::MAX` is `polling`'s.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use polling::{Event, PollMode};
use rustix::event::{EventfdFlags, Timespec, epoll};

use super::retry;

/// A set of watched descriptors, and the thread that waits for them.
pub struct Poller {
    polling: polling::Poller,
    wake: OwnedFd,
}

/// What is ready under one key.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The key given when the descriptor was watched.
    pub key: u64,
    /// There is something to read, or to accept.
    pub readable: bool,
    /// Output is taken again.
    pub writable: bool,
    /// The FIN or urgent data has come, or the connection is broken: a short read does not mean a drained socket.
    pub read_on: bool,
}

/// What one wait collected.
pub struct Batch {
    events: Vec<epoll::Event>,
    capacity: usize,
}

// SAFETY: an event is a number of ours and flags; that the number could also be read as a pointer, which is what keeps the
// compiler from sending it, is used by nobody.
#[allow(unsafe_code, reason = "the type of an event has room for a pointer")]
unsafe impl Send for Batch {}

impl Batch {
    /// Room for `capacity` events per wait.
    pub fn new(capacity: usize) -> Batch {
        Batch { events: Vec::with_capacity(capacity), capacity }
    }

    /// Makes room for so many from the next wait on.
    pub fn set_capacity(&mut self, capacity: usize) {
        if self.capacity != capacity {
            *self = Batch::new(capacity);
        }
    }

    /// How many events one wait may bring, at the least.
    pub fn most(&self) -> usize {
        self.events.capacity()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The events in the order in which the kernel saw them.
    pub fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        use epoll::EventFlags as Flags;
        self.events.iter().map(|event| {
            let flags = event.flags;
            Ready {
                key: event.data.u64(),
                readable: flags.contains(Flags::IN),
                writable: flags.contains(Flags::OUT),
                read_on: flags.intersects(Flags::RDHUP | Flags::PRI | Flags::HUP | Flags::ERR),
            }
        })
    }
}

/// The key of [`Poller::wake`]'s own descriptor.
pub const WAKE_KEY: u64 = u32::MAX as u64;

impl Poller {
    /// A poller that watches nothing but its own wake-up.
    ///
    /// # Errors
    /// When the process may open no more descriptors.
    pub fn new() -> io::Result<Poller> {
        let polling = polling::Poller::new()?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(polling.as_fd(), &wake, epoll::EventData::new_u64(WAKE_KEY), flags)?;
        Ok(Poller { polling, wake })
    }

    /// Watches a session's socket in edge mode: an event when input or the FIN comes, with no re-arm call ever.
    ///
    /// # Errors
    /// When the kernel has no memory for another watch.
    pub fn watch_edge(&self, socket: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        Ok(epoll::add(self.polling.as_fd(), socket, epoll::EventData::new_u64(key), edge_input())?)
    }

    /// From now on an edge-mode socket also reports that it takes output again. Reports at once if it does already, so
    /// that nothing is missed between a write that would have blocked and this call.
    ///
    /// # Errors
    /// When the socket is not watched.
    pub fn watch_edge_output(&self, socket: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let flags = edge_input() | epoll::EventFlags::OUT;
        Ok(epoll::modify(self.polling.as_fd(), socket, epoll::EventData::new_u64(key), flags)?)
    }

    /// From now on an edge-mode socket reports input, or only that it takes output again; at once if that is so already.
    ///
    /// # Errors
    /// When the socket is not watched.
    pub fn turn_edge(&self, socket: BorrowedFd<'_>, key: u64, to_output: bool) -> io::Result<()> {
        let output = epoll::EventFlags::OUT | epoll::EventFlags::ET;
        let flags = if to_output { output } else { edge_input() };
        Ok(epoll::modify(self.polling.as_fd(), socket, epoll::EventData::new_u64(key), flags)?)
    }

    /// Watches a socket in edge mode for input and output both, once and for all. Asking for output costs nothing until a
    /// write has found the socket full.
    ///
    /// # Errors
    /// When the kernel has no memory for another watch.
    pub fn watch_edge_both(&self, socket: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let flags = edge_input() | epoll::EventFlags::OUT;
        Ok(epoll::add(self.polling.as_fd(), socket, epoll::EventData::new_u64(key), flags)?)
    }

    /// Watches a session's socket in one-shot mode: one event, then silence until [`rearm`](Poller::rearm).
    ///
    /// # Errors
    /// When the kernel has no memory for another watch.
    pub fn watch_oneshot(&self, socket: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        self.add(socket, Event::readable(key as usize), PollMode::Oneshot)
    }

    /// Asks for one more event of a one-shot socket, for what the session waits for.
    ///
    /// # Errors
    /// When the socket is not watched.
    pub fn rearm(&self, socket: BorrowedFd<'_>, key: u64, input: bool, output: bool) -> io::Result<()> {
        self.polling.modify_with_mode(socket, Event::new(key as usize, input, output), PollMode::Oneshot)
    }

    /// Watches a listener (or any other descriptor of the engine's own) in level mode.
    ///
    /// # Errors
    /// When the kernel has no memory for another watch.
    pub fn watch_level(&self, source: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        self.add(source, Event::readable(key as usize), PollMode::Level)
    }

    /// Watches a listener in level mode among others that watch it too, in this process or another: of all that wait, an
    /// arrival wakes one or a few, and none that does not wait.
    ///
    /// # Errors
    /// When the kernel has no memory for another watch.
    pub fn watch_exclusive(&self, source: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        Ok(epoll::add(self.polling.as_fd(), source, epoll::EventData::new_u64(key), flags)?)
    }

    /// Stops watching a descriptor; one that is about to be closed while a duplicate may be open.
    ///
    /// # Errors
    /// When it is not watched.
    pub fn forget(&self, source: BorrowedFd<'_>) -> io::Result<()> {
        self.polling.delete(source)
    }

    /// Waits until something is ready, somebody calls [`wake`](Poller::wake), or the timeout passes; None waits
    /// without end. `batch` holds what is ready, or nothing.
    ///
    /// # Errors
    /// None that a caller can act on: a failure here is a bug.
    pub fn wait(&self, batch: &mut Batch, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout
            .map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) });
        batch.events.clear();
        match epoll::wait(self.polling.as_fd(), rustix::buffer::spare_capacity(&mut batch.events), timeout.as_ref()) {
            // A signal: the caller looks at its commands and waits again.
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the present wait, or the next one, with an event of [`WAKE_KEY`]. Any thread.
    pub fn wake(&self) {
        // Adding to the counter is an edge even when nobody has read it. It would block after 2⁶⁴ − 2 wakes.
        let result = retry(|| rustix::io::write(&self.wake, &1_u64.to_ne_bytes()));
        debug_assert!(result.is_ok(), "an eventfd takes every write: {result:?}");
    }

    fn add(&self, source: BorrowedFd<'_>, interest: Event, mode: PollMode) -> io::Result<()> {
        // SAFETY: `polling` asks that a source is deleted before it is closed, for pollers that would otherwise report a
        // number that was reused. epoll forgets a descriptor when it is closed, the engines never duplicate one, and
        // the generation in the key makes a late event miss.
        #[allow(unsafe_code, reason = "polling's registration is unsafe for a reason that epoll does not have")]
        unsafe {
            self.polling.add_with_mode(source.as_raw_fd(), interest, mode)
        }
    }
}

/// Readable when something is ready: for a wait in which the poller itself is only one of many.
impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.polling.as_fd()
    }
}

fn edge_input() -> epoll::EventFlags {
    // PRI: Linux ends a read at the mark of urgent data, so that a short read leaves what came behind it.
    use epoll::EventFlags as Flags;
    Flags::IN | Flags::RDHUP | Flags::PRI | Flags::ET
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_wait_takes_as_many_as_there_is_room_for() {
        let poller = Poller::new().expect("there are descriptors");
        let sockets: Vec<UdpSocket> =
            (0..5).map(|_| UdpSocket::bind("127.0.0.1:0").expect("there is a port")).collect();
        for (key, socket) in (1 << 32..).zip(&sockets) {
            socket.connect(socket.local_addr().expect("it is bound")).expect("it may talk to itself");
            poller.watch_edge(socket.as_fd(), key).expect("there is memory");
            socket.send(b"x").expect("somebody is there");
        }
        let mut batch = Batch::new(2);
        for (capacity, found) in [(2, 2), (1, 1), (9, 2)] {
            batch.set_capacity(capacity);
            poller.wait(&mut batch, Some(Duration::ZERO)).expect("it can wait");
            assert_eq!(batch.iter().count(), found, "of at most {capacity}");
        }
    }

    #[test]
    fn a_socket_that_is_turned_to_one_way_tells_at_once_what_is_so_already() {
        let poller = Poller::new().expect("there are descriptors");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("there is a port");
        socket.connect(socket.local_addr().expect("it is bound")).expect("it may talk to itself");
        poller.watch_edge(socket.as_fd(), 1 << 32).expect("there is memory");
        let mut batch = Batch::new(8);
        let mut seen = || {
            poller.wait(&mut batch, Some(Duration::ZERO)).expect("it can wait");
            batch.iter().map(|ready| (ready.readable, ready.writable)).collect::<Vec<_>>()
        };
        assert_eq!(seen(), []);
        socket.send(b"x").expect("somebody is there");
        assert_eq!([seen(), seen()], [vec![(true, false)], vec![]], "an edge is told once, and output not at all");

        poller.turn_edge(socket.as_fd(), 1 << 32, true).expect("it is watched");
        assert_eq!([seen(), seen()], [vec![(false, true)], vec![]], "the input that waits is not told");
        socket.send(b"y").expect("somebody is there");
        assert!(seen().iter().all(|(readable, _)| !readable), "nor what comes");

        poller.turn_edge(socket.as_fd(), 1 << 32, false).expect("it is watched");
        assert_eq!([seen(), seen()], [vec![(true, false)], vec![]], "it is now");
    }
}
