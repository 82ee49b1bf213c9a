//! A session in which the server says one thing and ends: what `daytime` and `time` have in common.
//!
//! What is said is made at the moment at which it is said. Whatever the client says is dropped, by the session, which shows
//! nothing to a handler that has finished.

use crate::session::handler::{Chunks, Handler, Next, Reply};

/// Says what the function makes, once.
pub(super) struct Once<F>(pub(super) F);

impl<F: Fn() -> T, T: AsRef<[u8]>> Once<F> {
    fn say(&self, reply: &mut Reply<'_>) -> Next {
        // It is a few bytes, fewer than any ring has: what may be wanting is memory for the ring.
        if reply.put((self.0)().as_ref()) { Next::Finish { forward: 0 } } else { Next::Room }
    }
}

impl<F: Fn() -> T + Send, T: AsRef<[u8]>> Handler for Once<F> {
    fn handle_open(&mut self, reply: &mut Reply<'_>) -> Next {
        self.say(reply)
    }

    fn handle_room(&mut self, reply: &mut Reply<'_>) -> Next {
        self.say(reply)
    }

    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Discard(input.len())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::{self, IoSlice, IoSliceMut};
    use std::sync::Arc;
    use std::sync::atomic::AtomicU8;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::clock::Clock;
    use crate::session::buffer::{Budget, Leases};
    use crate::session::handler::{Means, Moment, Tally};
    use crate::session::state::Reasons;
    use crate::session::{Session, Stream, TurnEnd};

    /// A peer that says nothing and takes everything.
    #[derive(Default)]
    struct Listener {
        heard: Vec<u8>,
        fin: bool,
    }

    impl Stream for Listener {
        fn read(&mut self, _slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let before = self.heard.len();
            slices.iter().for_each(|slice| self.heard.extend_from_slice(slice));
            Ok(self.heard.len() - before)
        }

        fn finish(&mut self) -> io::Result<()> {
            self.fin = true;
            Ok(())
        }
    }

    fn turn(session: &mut Session, peer: &mut Listener, memory_bytes: usize) -> TurnEnd {
        let moment = Moment::new(Clock::start(), None, None, 0);
        let (leases, tally) = (&mut Leases::new(64, Budget::new(memory_bytes)), &mut Tally::default());
        session.turn(
            peer,
            Reasons::RESUME,
            &mut Means { leases, budget_bytes: 1, moment, tally, calls: &mut Vec::new(), parallel: None },
        )
    }

    #[test]
    fn what_is_said_is_said_once_and_made_when_there_is_memory_for_it() {
        let made = Arc::new(AtomicU8::new(0));
        let make = {
            let made = Arc::clone(&made);
            move || [made.fetch_add(1, Relaxed) + 1]
        };
        let (mut session, mut peer) = (Session::new(Box::new(Once(make)), None), Listener::default());
        assert_eq!(turn(&mut session, &mut peer, 0), TurnEnd::Starved);
        assert!(peer.heard.is_empty() && !peer.fin && made.load(Relaxed) > 0);
        assert_eq!(turn(&mut session, &mut peer, 64), TurnEnd::Idle);
        assert_eq!(peer.heard, [made.load(Relaxed)], "the latest, once");
        assert!(peer.fin);
        assert!(session.is_lingering());
    }
}
