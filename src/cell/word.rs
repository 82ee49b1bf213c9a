//! What watchers sleep on: [`Word`], or under loom, which cannot see into the kernel, a stand-in of the same contract.

#[cfg(not(loom))]
pub(super) use crate::net::futex::Word;

/// The kernel's lock around its queue of sleepers is a mutex, the queue a condition variable. The number itself promises
/// no order to those who only load it, so that the models check the fences around it.
#[cfg(loom)]
mod stand_in {
    use std::io;
    use std::time::Duration;

    use crate::sync::atomic::{AtomicU32, Ordering, fence};
    use crate::sync::{Condvar, Mutex};

    pub(in crate::cell) struct Word {
        number: AtomicU32,
        queue: Mutex<()>,
        grown: Condvar,
    }

    impl Word {
        pub(in crate::cell) fn new(number: u32) -> Word {
            Word { number: AtomicU32::new(number), queue: Mutex::new(()), grown: Condvar::new() }
        }

        pub(in crate::cell) fn load(&self) -> u32 {
            let number = self.number.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            number
        }

        /// The limit only makes a missed wake cheaper, so that the models do without.
        pub(in crate::cell) fn sleep_while(&self, seen: u32, _limit: Duration) {
            let queue = self.queue.lock().unwrap();
            if self.number.load(Ordering::Relaxed) == seen {
                drop(self.grown.wait(queue).unwrap());
            }
        }

        pub(in crate::cell) fn grow(&self) -> io::Result<usize> {
            fence(Ordering::Release);
            let _queue = self.queue.lock().unwrap();
            self.number.fetch_add(1, Ordering::Relaxed);
            self.grown.notify_all();
            Ok(0)
        }
    }
}

#[cfg(loom)]
pub(super) use stand_in::Word;
