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

pub(in crate::engine) use backend::ServiceQueue;

#[cfg(not(loom))]
mod backend {
    use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

    use crate::engine::reactor::Request;

    pub(in crate::engine) struct ServiceQueue {
        sender: Sender<Request>,
        receiver: Receiver<Request>,
    }

    impl ServiceQueue {
        pub(in crate::engine) fn new(capacity: usize) -> ServiceQueue {
            let (sender, receiver) = bounded(capacity);
            ServiceQueue { sender, receiver }
        }

        /// Appends a request, or gives it back if the queue is full.
        pub(in crate::engine) fn try_put(&self, request: Request) -> Result<(), Request> {
            match self.sender.try_send(request) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(request)) => Err(request),
                Err(TrySendError::Disconnected(_)) => unreachable!("the queue holds both of its ends"),
            }
        }

        /// The oldest request.
        pub(in crate::engine) fn try_take(&self) -> Option<Request> {
            match self.receiver.try_recv() {
                Ok(request) => Some(request),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => unreachable!("the queue holds both of its ends"),
            }
        }

        /// Requests in the queue. Sequentially consistent with `try_put` and `try_take`: `parking.rs` builds on it.
        pub(in crate::engine) fn len(&self) -> usize {
            self.receiver.len()
        }
    }
}

#[cfg(loom)]
mod backend {
    use std::collections::VecDeque;

    use crate::engine::reactor::Request;
    use crate::sync::Mutex;

    pub(in crate::engine) struct ServiceQueue {
        requests: Mutex<VecDeque<Request>>,
        capacity: usize,
    }

    impl ServiceQueue {
        pub(in crate::engine) fn new(capacity: usize) -> ServiceQueue {
            ServiceQueue { requests: Mutex::new(VecDeque::new()), capacity }
        }

        pub(in crate::engine) fn try_put(&self, request: Request) -> Result<(), Request> {
            let mut requests = self.requests.lock().unwrap();
            if requests.len() == self.capacity {
                return Err(request);
            }
            requests.push_back(request);
            Ok(())
        }

        pub(in crate::engine) fn try_take(&self) -> Option<Request> {
            self.requests.lock().unwrap().pop_front()
        }

        pub(in crate::engine) fn len(&self) -> usize {
            self.requests.lock().unwrap().len()
        }
    }
}
