//! Time, for the parts of the daemon that are allowed to know it: nanoseconds and ticks since the daemon started.
//!
//! The only module that asks the system for the time. Sessions and handlers never see it; engines read it once per
//! batch and hand the tick on. The services that tell the time are given [`wall_time`] when they are built.

use std::cell::Cell;
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

/// Length of a tick, the unit of idle and write timeouts: fine enough for a timeout of 100 ms, coarse enough that ten
/// thousand idle sessions cost a few wake-ups a second.
pub const TICK: Duration = Duration::from_millis(10);

/// `CLOCK_MONOTONIC` in nanoseconds, which all processes of one host read alike: for times that are compared with
/// another's.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The date and the time of day, as the system has it: for telling people, and nothing that is measured.
pub fn wall_time() -> SystemTime {
    SystemTime::now()
}

/// The time for which the calling thread has had a processor, in nanoseconds. A system call, some hundred nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Puts the calling thread to sleep, and wakes it as near to its time as the machine can: the kernel may not gather its
/// wake-ups with others, neither this one nor later ones.
pub fn sleep_for(duration: Duration) {
    thread_local! {
        static IS_SHARP: Cell<bool> = const { Cell::new(false) };
    }
    if !IS_SHARP.replace(true) {
        // Refused only by kernels without timer slack, which are on time anyway.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    }
    std::thread::sleep(duration);
}

/// Ticks from `since` to `now`; none if `since` is the later one, as it can be for a thread that read `now` first.
pub fn ticks_since(now: u32, since: u32) -> u32 {
    let ticks = now.wrapping_sub(since);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

/// A clock that started when it was made. One reading is both its own time and the host's, so that the two never part.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start_ns: u64,
}

impl Clock {
    /// A clock at zero.
    pub fn start() -> Clock {
        Clock { start_ns: monotonic_ns() }
    }

    /// Nanoseconds since the start; runs for 584 years.
    pub fn now_ns(&self) -> u64 {
        monotonic_ns() - self.start_ns
    }

    /// A time since the start as all processes of the host read it; see [`monotonic_ns`].
    pub fn monotonic_ns_of(&self, since_start_ns: u64) -> u64 {
        self.start_ns + since_start_ns
    }

    /// Ticks since the start, from 1 on, so that 0 can mean never; wraps after 497 days.
    pub fn tick_of(now_ns: u64) -> u32 {
        ((now_ns / TICK.as_nanos() as u64) as u32).wrapping_add(1)
    }

    /// A duration in ticks, rounded up, at least one.
    pub fn ticks(duration: Duration) -> u32 {
        u32::try_from(duration.as_nanos().div_ceil(TICK.as_nanos()).max(1)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_NS: u64 = TICK.as_nanos() as u64;

    #[test]
    fn the_first_tick_is_one_and_a_tick_begins_on_time() {
        assert_eq!(Clock::tick_of(0), 1);
        assert_eq!(Clock::tick_of(TICK_NS - 1), 1);
        assert_eq!(Clock::tick_of(TICK_NS), 2);
        assert_eq!(Clock::tick_of(TICK_NS * 100), 101);
    }

    #[test]
    fn ticks_wrap_and_distances_survive_it() {
        let lap_ns = TICK_NS << 32;
        assert_eq!(Clock::tick_of(lap_ns - TICK_NS), 0);
        assert_eq!(Clock::tick_of(lap_ns), 1);
        let before = Clock::tick_of(lap_ns - 3 * TICK_NS);
        assert_eq!(Clock::tick_of(lap_ns + 4 * TICK_NS).wrapping_sub(before), 7);
    }

    #[test]
    fn durations_round_up_to_at_least_one_tick() {
        for (duration, ticks) in [
            (Duration::ZERO, 1),
            (Duration::from_nanos(1), 1),
            (TICK, 1),
            (TICK + Duration::from_nanos(1), 2),
            (Duration::from_millis(100), 10),
            (Duration::from_secs(60), 6_000),
            (Duration::MAX, u32::MAX),
        ] {
            assert_eq!(Clock::ticks(duration), ticks, "{duration:?}");
        }
    }

    #[test]
    fn its_time_is_that_of_the_host() {
        for _ in 0..1_000 {
            let before_ns = monotonic_ns();
            let clock = Clock::start();
            let told_ns = clock.monotonic_ns_of(clock.now_ns());
            let times = [before_ns, clock.monotonic_ns_of(0), told_ns, monotonic_ns()];
            assert!(times.is_sorted(), "{times:?}");
        }
    }

    #[test]
    fn time_does_not_run_backwards() {
        let clock = Clock::start();
        let times: Vec<u64> = (0..1000).map(|_| clock.now_ns()).collect();
        assert!(times.is_sorted());
    }
}
