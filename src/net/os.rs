//! The machine: processors, descriptor limits, addresses, timer slack.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::retry;

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

/// Whether what is sent to the address stays on this machine: a socket can be bound to such a one only.
pub fn is_local(mut address: SocketAddr) -> bool {
    address.set_port(0);
    !address.ip().is_multicast() && UdpSocket::bind(address).is_ok()
}

/// Waits until the descriptor is readable.
pub fn wait_for_input(descriptor: BorrowedFd<'_>) {
    let ready = retry(|| poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], None));
    assert!(ready.is_ok(), "a descriptor of ours can be waited for: {ready:?}");
}

/// Whether the descriptor takes some output now, or within `patience`; also when writing would fail.
pub fn takes_output(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
    retry(|| poll(&mut polled, Some(&timeout))).is_ok_and(|ready| ready > 0)
}

/// How much less than others a thread that gives way has of a processor, in the kernel's own steps. Guess: a tenth of what
/// a worker has that wants it too, so that neither starves.
const GIVES_WAY_BY: i32 = 10;

/// Has the calling thread give way to others who want its processor.
pub fn give_way() {
    // Nobody is refused to want less.
    let _ = rustix::process::setpriority_process(None, GIVES_WAY_BY);
}

/// Lets the kernel end this thread's timed waits on time, rather than up to 50 µs late to save power.
pub fn sharpen_timers() {
    let shortest = std::num::NonZeroU64::new(1);
    // Refused only by kernels without timer slack, which are on time anyway.
    let _ = rustix::thread::set_current_timer_slack(shortest);
}
