//! What this kernel has of `io_uring`, by trying it: version numbers say little of kernels that distributions patch,
//! containers restrict and sandboxes imitate.
//!
//! Invariant *nothing-left*: the ring that it tries things on is gone when it returns, with all that was tried.

use std::io;
use std::os::fd::AsFd;
use std::thread::Builder;

use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::event::EventfdFlags;
use rustix::io::Errno;

use super::buffers::Buffers;
use super::{GROUP, fd, set_up};

/// The operations that there is no doing without.
const NEEDED: [(&str, u8); 5] = [
    ("ACCEPT", opcode::AcceptMulti::CODE),
    ("RECV", opcode::RecvMulti::CODE),
    ("SEND", opcode::Send::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
];

/// What works here besides the plain operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// One accept for all connections.
    pub accept_multishot: bool,
    /// One receive for all input of a connection.
    pub receive_multishot: bool,
    /// Buffers that the kernel takes from a ring; without them there is no [`Ring`](super::Ring).
    pub buffer_ring: bool,
    /// Completions are worked out within the wait for them, rather than wherever the thread is.
    pub deferred: bool,
}

/// Tries what a [`Ring`](super::Ring) needs; takes a fraction of a millisecond.
///
/// # Errors
/// Why there can be no ring at all, in words for whoever runs the daemon.
pub fn probe() -> Result<Features, String> {
    // On a thread that is gone as well when this returns: when the kernel takes a ring down, a moment later, it interrupts
    // the thread that made it, whose read with a timeout would fail for nothing that it did.
    match Builder::new().name("probe".to_owned()).spawn(probe_here) {
        Ok(thread) => thread.join().expect("nothing here panics"),
        Err(_) => probe_here(),
    }
}

fn probe_here() -> Result<Features, String> {
    let (mut ring, deferred) = set_up(8, 16).map_err(|error| reason(&error))?;
    let mut known = Probe::new();
    ring.submitter()
        .register_probe(&mut known)
        .map_err(|error| format!("io_uring does not say which operations it has: {error}"))?;
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(_, code)| !known.is_supported(*code)).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        return Err(format!("io_uring lacks the operations {}", missing.join(", ")));
    }
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err("io_uring is of a kernel before 5.11: it has no timeout for a wait, or loses completions".into());
    }
    let tried = |error: io::Error| format!("io_uring cannot be tried: {error}");
    // On what is no socket, an accept is refused for that reason where it is understood, and as invalid where it is not.
    let no_socket = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| tried(error.into()))?;
    let target = fd(no_socket.as_fd());
    let accept = opcode::AcceptMulti::new(target).build();
    let receive = opcode::RecvMulti::new(target, GROUP).build();
    let accept_multishot = is_understood(&mut ring, &accept).map_err(tried)?;
    let receive_multishot = is_understood(&mut ring, &receive).map_err(tried)?;
    // Last, and dropped before its memory: nothing receives into it.
    let buffers = Buffers::new(1, 64).map_err(tried)?;
    let buffer_ring = buffers.register(&ring.submitter(), GROUP).is_ok();
    drop(ring);
    Ok(Features { accept_multishot, receive_multishot: receive_multishot && buffer_ring, buffer_ring, deferred })
}

fn is_understood(ring: &mut IoUring, operation: &squeue::Entry) -> io::Result<bool> {
    // SAFETY: the operation is on a descriptor that has neither connections nor bytes, so it touches no memory.
    #[allow(unsafe_code, reason = "the crate cannot know which operations name memory")]
    let pushed = unsafe { ring.submission().push(operation) };
    pushed.expect("an empty queue has room");
    ring.submit_and_wait(1)?;
    let entry = ring.completion().next().ok_or(io::ErrorKind::NotFound)?;
    Ok(entry.result() != -Errno::INVAL.raw_os_error())
}

fn reason(error: &io::Error) -> String {
    let why = match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            "is refused, by the container's seccomp profile or by the sysctl kernel.io_uring_disabled"
        }
        Some(Errno::NOSYS) => "is not in this kernel",
        Some(Errno::NOMEM) => "has no memory, or more than the limit of locked memory (ulimit -l)",
        Some(Errno::MFILE | Errno::NFILE) => "has no descriptor left",
        _ => "cannot be set up",
    };
    format!("io_uring {why}: {error}")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_is_told_in_words() {
        let told = |errno: Errno| reason(&io::Error::from(errno));
        assert!(told(Errno::PERM).contains("seccomp") && told(Errno::PERM).contains("kernel.io_uring_disabled"));
        assert!(told(Errno::NOSYS).contains("not in this kernel"));
        assert!(told(Errno::NOMEM).contains("locked memory"));
    }

    #[test]
    fn a_probe_disturbs_nobody_who_waits_afterwards() {
        let (mut silent, _kept) = UnixStream::pair().expect("there are sockets");
        silent.set_read_timeout(Some(Duration::from_millis(10))).expect("a socket has timeouts");
        for _ in 0..30 {
            let _ = probe();
            let waited = silent.read(&mut [0]).expect_err("nothing comes");
            assert_eq!(waited.kind(), io::ErrorKind::WouldBlock, "{waited}");
        }
    }

    #[test]
    fn a_probe_can_be_repeated() {
        let first = probe();
        println!("{first:?}");
        for _ in 0..50 {
            assert_eq!(probe(), first);
        }
    }
}
