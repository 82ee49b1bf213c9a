//! An alarm that a poller watches: set once for the next deadline, it costs nothing per wait.
//!
//! A timeout on every wait would arm and disarm a kernel timer each time; deadlines of sessions change far less often.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer descriptor, readable when the time has come.
pub struct Alarm(OwnedFd);

impl Alarm {
    /// An alarm that is not set.
    ///
    /// # Errors
    /// When the process may open no more descriptors.
    pub fn new() -> io::Result<Alarm> {
        Ok(Alarm(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?))
    }

    /// Rings once, `after` from now; replaces what was set before, and takes back a ring that was not yet seen.
    pub fn set(&self, after: Duration) {
        let after = after.max(Duration::from_nanos(1)); // all zeroes would mean never
        self.arm(Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(after.subsec_nanos()),
        });
    }

    /// Does not ring.
    pub fn clear(&self) {
        self.arm(Timespec { tv_sec: 0, tv_nsec: 0 });
    }

    fn arm(&self, it_value: Timespec) {
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).expect("a timer takes any time from now on");
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
