//! Echo and discard over TCP, right or wrong in one way; for bytes, not for requests, which a stream does not show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{Connection, Server, State, spoiled};

/// What is wrong with an echo server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    /// Every so many bytes, of all connections together, one comes back as another.
    CorruptOneIn(u64),
    /// Once so many bytes have come, on all connections together, nothing is answered for this time; then all of it.
    Stall {
        at: u64,
        pause: Duration,
    },
    /// Each connection ends in order after so many bytes; with 0 as soon as it is accepted.
    CloseAfter(u64),
    /// Each connection is reset after so many bytes; with 0 as soon as it is accepted.
    ResetAfter(u64),
    /// Once so many bytes have come, on all connections together, it is gone: nobody listens any more.
    GoneAfter(u64),
    /// Reads and never answers, as discard does.
    Swallow,
    /// These bytes follow whatever is answered.
    Extra(&'static [u8]),
    /// These bytes are sent before anything is asked.
    Greet(&'static [u8]),
    /// Sends without end and reads nothing.
    Firehose,
    /// Answers so much later.
    Delay(Duration),
    /// Answers in pieces of one byte.
    Dribble,
    /// Accepts and reads nothing.
    NeverRead,
    /// Accepts nobody before this time has passed.
    AcceptAfter(Duration),
}

/// An echo server (RFC 862) with this fault.
pub(crate) fn echo(fault: Fault) -> Server {
    let delay = if let Fault::AcceptAfter(delay) = fault { delay } else { Duration::ZERO };
    let state = State::new();
    let echo = Echo { fault, state: Arc::clone(&state), read: AtomicU64::new(0), has_stalled: AtomicBool::new(false) };
    Server::accepting(delay, state, move |connection| {
        // It ends when either side has had enough.
        let _ = echo.serve(&connection);
    })
}

/// A discard server (RFC 863). A wrong one, that answers, is any echo server.
pub(crate) fn discard() -> Server {
    echo(Fault::Swallow)
}

struct Echo {
    fault: Fault,
    state: Arc<State>,
    /// Bytes that came to be answered, on all connections.
    read: AtomicU64,
    has_stalled: AtomicBool,
}

impl Echo {
    fn serve(&self, connection: &Connection) -> Option<()> {
        match self.fault {
            Fault::CloseAfter(0) | Fault::ResetAfter(0) => {
                self.end(connection);
                return None;
            }
            Fault::Greet(words) => {
                connection.write(words)?;
                self.state.count_fault();
            }
            Fault::Firehose => {
                let chunk = [b'*'; 16 << 10];
                loop {
                    connection.write(&chunk)?;
                    self.state.count_fault();
                }
            }
            Fault::NeverRead => self.state.pause_until(None),
            _ => {}
        }
        let mut answered = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let bytes = connection.read(&mut buffer)?;
            self.state.count(&self.state.requests, 1);
            let before = self.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if let Fault::GoneAfter(most) = self.fault
                && before + bytes.len() as u64 >= most
            {
                self.state.count_fault();
                self.state.stop();
                return None;
            }
            let left = self.end_after().map_or(usize::MAX, |end| (end - answered) as usize);
            let len = bytes.len().min(left);
            let bytes = &mut bytes[..len];
            self.answer(connection, bytes, before)?;
            answered += len as u64;
            if self.end_after() == Some(answered) {
                self.end(connection);
                return None;
            }
        }
    }

    /// Answers these bytes, before which `before` others came on all connections together.
    fn answer(&self, connection: &Connection, bytes: &mut [u8], before: u64) -> Option<()> {
        match self.fault {
            Fault::CorruptOneIn(every) => {
                // From here to the last byte of the current stretch of `every` bytes, which is the wrong one.
                let first = every - 1 - before % every;
                for at in (first..bytes.len() as u64).step_by(every as usize) {
                    bytes[at as usize] = spoiled(bytes[at as usize]);
                    self.state.count_fault();
                }
            }
            Fault::Stall { at, pause }
                if before + bytes.len() as u64 >= at && !self.has_stalled.swap(true, Ordering::Relaxed) =>
            {
                self.state.hold_for(pause);
                self.state.count_fault();
            }
            Fault::Swallow => return Some(()),
            Fault::Delay(delay) => self.state.pause(delay),
            _ => {}
        }
        self.state.wait_while_held();
        match self.fault {
            Fault::Dribble => bytes.chunks(1).try_for_each(|byte| connection.write(byte)),
            Fault::Extra(more) => {
                connection.write(&[bytes, more].concat())?;
                self.state.count_fault();
                Some(())
            }
            _ => connection.write(bytes),
        }
    }

    /// After how many bytes a connection ends, if the server ends it.
    fn end_after(&self) -> Option<u64> {
        match self.fault {
            Fault::CloseAfter(bytes) | Fault::ResetAfter(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn end(&self, connection: &Connection) {
        self.state.count_fault();
        if let Fault::ResetAfter(_) = self.fault { connection.reset() } else { connection.finish() }
    }
}
