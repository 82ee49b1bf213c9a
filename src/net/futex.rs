//! A number in shared memory on which threads of any process sleep until it has grown.
//!
//! Invariant *grown-and-woken-at-once*: no instant lies between the addition and the wake at which its caller could be
//! killed. Both are one call (`FUTEX_WAKE_OP`), which the kernel carries out under the lock of its own queue of sleepers;
//! a process that is killed meanwhile dies when it would leave the kernel. A store and a wake behind it would leave, of
//! a caller killed in between, sleepers that nobody wakes.
//!
//! Who goes to sleep says which number was seen; the kernel compares under the same lock, so that a sleeper is on the
//! queue before the number grows, or does not go to sleep. The memory may be mapped for reading only by who sleeps.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Timespec, WakeOp, WakeOpCmp};

use super::shared::Zeroed;

/// The number. It wraps.
#[repr(transparent)]
pub struct Word(AtomicU32);

// SAFETY: an `AtomicU32` and nothing else.
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl Zeroed for Word {}

impl Word {
    /// A word with this number, on which nobody sleeps.
    pub fn new(number: u32) -> Word {
        Word(AtomicU32::new(number))
    }

    /// The number, and with it what was written before it grew to that.
    pub fn load(&self) -> u32 {
        // Not an acquire load: in memory that is mapped for reading only, the language promises relaxed loads alone.
        let number = self.0.load(Ordering::Relaxed);
        // Pairs with the fence in `grow`.
        fence(Ordering::Acquire);
        number
    }

    /// Sleeps while the number is `seen`, `limit` at most. May return early: look again.
    pub fn sleep_while(&self, seen: u32, limit: Duration) {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        match futex::wait(&self.0, Flags::empty(), seen, Some(&limit)) {
            Ok(()) | Err(Errno::AGAIN | Errno::TIMEDOUT | Errno::INTR) => {}
            // Its page belongs to no file any more: whoever looks again learns of it.
            Err(Errno::FAULT) => {}
            Err(error) => panic!("a word can be slept on: {error}"),
        }
    }

    /// Adds one and wakes all who sleep; how many those were. One caller at a time.
    ///
    /// # Errors
    /// The memory behind it is gone. Then nothing was added, and nobody woken.
    pub fn grow(&self) -> io::Result<usize> {
        // Pairs with the fence in `load`. The kernel's addition is an atomic one, and a store behind this fence.
        fence(Ordering::Release);
        // The second wake, which depends on the old value, would be for another word. On this one nobody is left then.
        let (all, none) = (i32::MAX as u32, 0);
        let once = (WakeOp::Add, WakeOpCmp::Eq, 1, 0);
        let (operation, comparison, addend, compared) = once;
        Ok(futex::wake_op(&self.0, Flags::empty(), all, none, &self.0, operation, comparison, addend, compared)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_number_that_has_grown_lets_nobody_sleep() {
        let word = Word::new(0);
        assert_eq!((word.load(), word.grow().expect("it is memory"), word.load()), (0, 0, 1));
        word.sleep_while(0, LONG);
        word.sleep_while(1, Duration::from_millis(1));
        word.sleep_while(1, Duration::ZERO);
    }

    #[test]
    fn it_wraps() {
        let word = Word::new(u32::MAX);
        word.grow().expect("it is memory");
        assert_eq!(word.load(), 0);
    }

    #[test]
    fn all_who_sleep_are_woken_by_one_call_and_counted() {
        let word = Word::new(0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let sleep = || {
                while !done.load(Ordering::Relaxed) {
                    word.sleep_while(word.load(), LONG);
                }
            };
            let sleepers = [(); 3].map(|()| scope.spawn(sleep));
            // Nothing tells from outside when all of them sleep.
            while word.grow().expect("it is memory") < 3 {
                thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
            while !sleepers.iter().all(|sleeper| sleeper.is_finished()) {
                word.grow().expect("it is memory");
            }
        });
    }
}
