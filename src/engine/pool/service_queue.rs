//! The service queue: bounded, filled by the poller, drained by the workers.
//!
//! Invariant *only-the-poller-waits*: no worker ever waits for room. Workers that did could all wait for each other;
//! what a worker cannot put back, it carries and may have to run itself. So neither call here blocks, and the poller's
//! waiting is written where it can be seen, in `hand_off.rs`.
//!
//! The only user of `crossbeam-channel` in the engine (`logging.rs` has a queue of lines). Nobody parks inside this
//! channel either: how an idle worker waits and whom to wake is what this engine is about (`parking.rs`,
//! `wake_rule.rs`). Under loom, which cannot see into the channel, a lock around a deque of the same contract takes its
//! place.

use crate::session::table::Key;

/// What a worker finds in the queue: a session that is to have a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// The session, in the state *queued*.
    pub(super) key: Key,
    /// When the poller saw it ready; 0 when stage times are off.
    pub(super) ready_ns: u64,
}

pub(super) use backend::ServiceQueue;

#[cfg(not(loom))]
mod backend {
    use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

    use super::Request;

    pub(in super::super) struct ServiceQueue {
        sender: Sender<Request>,
        receiver: Receiver<Request>,
    }

    impl ServiceQueue {
        pub(in super::super) fn new(capacity: usize) -> ServiceQueue {
            let (sender, receiver) = bounded(capacity);
            ServiceQueue { sender, receiver }
        }

        /// Appends a request, or gives it back if the queue is full.
        pub(in super::super) fn try_put(&self, request: Request) -> Result<(), Request> {
            match self.sender.try_send(request) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(request)) => Err(request),
                Err(TrySendError::Disconnected(_)) => unreachable!("the queue holds both of its ends"),
            }
        }

        /// The oldest request.
        pub(in super::super) fn try_take(&self) -> Option<Request> {
            match self.receiver.try_recv() {
                Ok(request) => Some(request),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => unreachable!("the queue holds both of its ends"),
            }
        }

        /// Requests in the queue. Sequentially consistent with `try_put` and `try_take`: `parking.rs` builds on it.
        pub(in super::super) fn len(&self) -> usize {
            self.receiver.len()
        }
    }
}

#[cfg(loom)]
mod backend {
    use std::collections::VecDeque;

    use super::Request;
    use crate::sync::Mutex;

    pub(in super::super) struct ServiceQueue {
        requests: Mutex<VecDeque<Request>>,
        capacity: usize,
    }

    impl ServiceQueue {
        pub(in super::super) fn new(capacity: usize) -> ServiceQueue {
            ServiceQueue { requests: Mutex::new(VecDeque::new()), capacity }
        }

        pub(in super::super) fn try_put(&self, request: Request) -> Result<(), Request> {
            let mut requests = self.requests.lock().unwrap();
            if requests.len() == self.capacity {
                return Err(request);
            }
            requests.push_back(request);
            Ok(())
        }

        pub(in super::super) fn try_take(&self) -> Option<Request> {
            self.requests.lock().unwrap().pop_front()
        }

        pub(in super::super) fn len(&self) -> usize {
            self.requests.lock().unwrap().len()
        }
    }
}
