//! Every system call of the daemon, behind types that the engines can reason about.
//!
//! Nothing here knows a session, a service or an engine. `Interrupted` is retried here and seen by nobody else;
//! would-block is passed on as `ErrorKind::WouldBlock`, for the session to treat as a state.
//!
//! Read next: `poller.rs` (readiness), `ring.rs` (completion), `listener.rs` (accepting), `local.rs` (the same
//! in the file system), `socket.rs` (bytes), `udp.rs`
//! (datagrams, by `batch.rs`), `nudge.rs` (waiting for one socket), `os.rs` (the machine), `process.rs` (what other
//! processes use of it), `children.rs` (child processes), `companion.rs` (other programs), `shared.rs`, `futex.rs` and `file.rs` (memory that processes
//! share, sleeping on it, and its files), `files.rs` (files that strangers name).

pub mod alarm;
pub mod batch;
pub mod children;
pub mod companion;
pub mod file;
pub mod files;
pub mod futex;
pub mod listener;
pub mod local;
pub mod nudge;
pub mod os;
pub mod pipe;
pub mod poller;
pub mod process;
pub mod ring;
pub mod shared;
pub mod socket;
pub mod udp;

use rustix::io::Errno;

/// Calls until the answer is not `EINTR`.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
