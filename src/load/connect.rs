//! Making the connections of a load before its clock starts: all of them, or an error that says what is in the way.
//!
//! A few at a time, since a backlog that is full drops a SYN and costs a second. A room of chat is filled as well: the
//! load begins when everybody is known to hear the others. Read next: `client.rs`.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::load::client::{ATTENTION, EVENTS, Generator, nanoseconds, wait};
use crate::load::connection::{Connection, Detail, Received, State};
use crate::load::room::PROBE;
use crate::net::poller::Batch;

/// Connections that are being made at once: what the shortest usual backlog takes without dropping a SYN, which would
/// cost a second.
const CONNECTING: usize = 64;

/// An attempt to connect that has taken this long has failed; so has a room that has not filled.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two probes of a room.
const PROBE_EVERY: Duration = Duration::from_millis(20);

impl Generator {
    /// Makes all connections, a few at a time.
    pub(super) fn connect_all(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut batch = Batch::new(EVENTS);
        let (mut begun, mut connecting) = (0, 0);
        let mut progress_ns = monotonic_ns();
        loop {
            while connecting < CONNECTING && begun < self.connections.len() {
                self.connections[begun].open(&mut self.wire, begun, monotonic_ns())?;
                connecting += usize::from(!self.wire.datagrams);
                begun += 1;
            }
            if connecting == 0 {
                return Ok(());
            }
            let now_ns = monotonic_ns();
            let left_ns = (progress_ns + nanoseconds(CONNECT_TIMEOUT)).saturating_sub(now_ns);
            if left_ns == 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_TIMEOUT:?}")));
            }
            go_on_unless(stop)?;
            wait(&self.wire.poller, &mut batch, Duration::from_nanos(left_ns).min(ATTENTION));
            for ready in batch.iter() {
                let Some(connection) = self.connections.get_mut(ready.key as u32 as usize) else { continue };
                if let State::Connecting { since_ns } = connection.state
                    && (ready.writable || ready.read_on)
                {
                    connection.established()?;
                    progress_ns = monotonic_ns();
                    self.recorder.connected(progress_ns - since_ns);
                    connecting -= 1;
                }
                // An event is told once: the first run looks at what has come already.
                if ready.readable || ready.read_on {
                    self.unread.push(ready);
                }
            }
        }
    }

    /// Waits until every member of the room hears the others: a connection may stand long before the server has let its
    /// session into the room, and what is sent until then never reaches it.
    pub(super) fn fill_room(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut batch = Batch::new(EVENTS);
        let mut hears = vec![false; self.connections.len()];
        let until_ns = monotonic_ns() + nanoseconds(CONNECT_TIMEOUT);
        let mut next_ns = 0;
        let mut round = 0;
        loop {
            let deaf = hears.iter().position(|hears| !hears);
            // A probe that is half sent is sent to its end, whoever has heard what before: the load follows behind it.
            let half_sent = self.connections.iter().position(|connection| !connection.has_probed());
            // The first speaks to all others, the second to the first.
            let second_speaks = deaf == Some(0) && hears.iter().skip(1).all(|hears| *hears);
            let Some(speaker) = half_sent.or(deaf.map(|_| usize::from(second_speaks))) else { break };
            let now_ns = monotonic_ns();
            if now_ns >= until_ns {
                let count = hears.iter().filter(|hears| !**hears).count();
                let text = match count {
                    0 => format!("the room takes no message of {} bytes whole", self.wire.pattern.frame()),
                    _ => format!("{count} of {} connections hear no message of the others", hears.len()),
                };
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            go_on_unless(stop)?;
            let connection = &mut self.connections[speaker];
            if half_sent.is_none() && now_ns >= next_ns {
                connection.probe(&mut self.wire, PROBE + round)?;
                round += 1;
                next_ns = now_ns + nanoseconds(PROBE_EVERY);
            }
            let flushed = connection.flush(&mut self.wire, now_ns);
            flushed.map_err(|kind| io::Error::other(format!("the room takes no message: {kind:?}")))?;
            let pause_ns = match connection.has_probed() {
                true => next_ns.saturating_sub(now_ns),
                // Many chunks long: soon again, unless an event is to tell when it goes on.
                false if connection.wants_to_write(&self.wire) => 0,
                false => nanoseconds(ATTENTION),
            };
            wait(&self.wire.poller, &mut batch, Duration::from_nanos(pause_ns));
            for ready in batch.iter() {
                let index = ready.key as u32 as usize;
                let Some(connection) = self.connections.get_mut(index) else { continue };
                if ready.writable && connection.state == State::Blocked {
                    connection.state = State::Open;
                }
                let mut is_unread = ready.readable || ready.read_on;
                while is_unread {
                    let received = connection.receive(&mut self.wire, ready.read_on);
                    let received = received.map_err(|kind| io::Error::other(format!("the room answers: {kind:?}")))?;
                    is_unread = matches!(received, Received::Part) && monotonic_ns() < until_ns;
                    let others = self.wire.replies.drain(..).filter(
                        |reply| matches!(reply.detail, Detail::Delivery { sender } if sender as usize != index),
                    );
                    hears[index] |= others.count() > 0;
                }
            }
        }
        self.connections.iter_mut().for_each(Connection::end_probing);
        Ok(())
    }
}

fn go_on_unless(stop: &AtomicBool) -> io::Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(io::Error::other("interrupted")),
        false => Ok(()),
    }
}
