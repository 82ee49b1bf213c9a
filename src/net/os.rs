//! The machine: processors, descriptor limits, timer slack.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process may use, by number.
pub fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&processor| allowed.is_set(processor)).collect()
}

/// Keeps the calling thread on one processor.
///
/// # Errors
/// When the process may not use that processor.
pub fn pin_to(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    Ok(sched_setaffinity(None, &set)?)
}

/// Raises the soft limit of open descriptors to the hard one and returns it; `usize::MAX` if there is none.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let reached = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    reached.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX))
}

/// Descriptors that this process has open.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}

/// Lets the kernel end this thread's timed waits on time, rather than up to 50 µs late to save power.
pub fn sharpen_timers() {
    let shortest = std::num::NonZeroU64::new(1);
    // Refused only by kernels without timer slack, which are on time anyway.
    let _ = rustix::thread::set_current_timer_slack(shortest);
}
