//! Whether bytes of a file are in memory, asked without waiting for them and without touching them.
//!
//! `cachestat` counts the pages that the kernel keeps, also those that are still being read. Reading goes on from the front to
//! the back, so a byte at each end and one in the middle are asked for as well, by reads that do not wait. Where the kernel
//! has no such call (before Linux 6.5) nothing is known, and the answer is no.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;

use nix::libc;
use rustix::io::{ReadWriteFlags, preadv2};

/// The call's number, the same on every architecture; `libc` has no name for it everywhere.
const SYS_CACHESTAT: libc::c_long = 451;

/// A range of bytes, as the call takes it.
#[repr(C)]
struct Range {
    from: u64,
    bytes: u64,
}

/// Pages of the range, as the call counts them.
#[repr(C)]
#[derive(Default)]
struct Pages {
    kept: u64,
    dirty: u64,
    written_back: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Whether all of these bytes are in memory, as far as can be told.
pub(super) fn holds(file: &File, from: u64, bytes: usize) -> bool {
    let page = page_bytes();
    let (first, last) = (from / page, (from + bytes as u64 - 1) / page);
    let is_kept = pages_kept(file, from, bytes).is_some_and(|kept| kept > last - first);
    is_kept && [from, from + bytes as u64 / 2, from + bytes as u64 - 1].iter().all(|&at| is_readable(file, at))
}

fn pages_kept(file: &File, from: u64, bytes: usize) -> Option<u64> {
    let (range, mut pages) = (Range { from, bytes: bytes as u64 }, Pages::default());
    // SAFETY: both structures are laid out as the call has them, and live until it returns.
    #[allow(unsafe_code, reason = "no crate has this call")]
    let answer = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut pages, 0) };
    (answer == 0).then_some(pages.kept)
}

fn page_bytes() -> u64 {
    // SAFETY: a question that touches no memory.
    #[allow(unsafe_code, reason = "what is there already has no safe way to ask")]
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    bytes as u64
}

/// Whether this byte can be read without waiting.
fn is_readable(file: &File, at: u64) -> bool {
    let mut byte = [0];
    preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT).is_ok_and(|count| count == 1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    #[test]
    fn what_was_just_written_is_in_memory_and_what_is_not_there_is_not() {
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(&[7; 300_000], 0).expect("it can be written");
        let is_known = pages_kept(&file, 0, 1).is_some();
        for (from, bytes) in [(0, 300_000), (0, 1), (299_999, 1), (5_000, 100_000)] {
            assert_eq!(holds(&file, from, bytes), is_known, "{from} {bytes}");
        }
        assert!(!holds(&file, 0, 400_000) && !holds(&file, 300_000, 1) && !holds(&file, 299_999, 2));
        // What has been given up is not there, where the file lies on a disk.
        file.sync_all().expect("it can be written");
        fadvise(&file, 0, None, Advice::DontNeed).expect("it is advice");
        let is_gone = pages_kept(&file, 0, 300_000) == Some(0);
        assert!(!is_gone || !holds(&file, 0, 300_000));
    }
}
