//! Time, for the parts of the daemon that are allowed to know it: nanoseconds and ticks since the daemon started.
//!
//! The only caller of `Instant::now`. Sessions and services never see it; engines read it once per batch and hand the
//! tick on.

use std::time::{Duration, Instant};

/// Length of a tick, the unit of idle and write timeouts: fine enough for a timeout of 100 ms, coarse enough that ten
/// thousand idle sessions cost a few wake-ups a second.
pub const TICK: Duration = Duration::from_millis(10);

/// A clock that started when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock at zero.
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Nanoseconds since the start; runs for 584 years.
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Ticks since the start, from 1 on, so that 0 can mean never; wraps after 497 days.
    pub fn tick_of(now_ns: u64) -> u32 {
        (now_ns / TICK.as_nanos() as u64) as u32 + 1
    }

    /// A duration in ticks, rounded up, at least one.
    pub fn ticks(duration: Duration) -> u32 {
        u32::try_from(duration.as_nanos().div_ceil(TICK.as_nanos()).max(1)).unwrap_or(u32::MAX)
    }
}
