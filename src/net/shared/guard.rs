//! A file that shrinks under its mapping: what is touched there then reads as zeros, instead of ending the process.
//!
//! The kernel answers an access behind the end of a mapped file with SIGBUS. Whoever may write to the file could end
//! everybody who has it mapped, by a slip as small as `> FILE`. So the handler here puts zeros of our own in the place of
//! the whole mapping, and the access goes on. That somebody did so is for the owner of the values to notice, by a word
//! that is never zero otherwise.
//!
//! What is not inside a guarded mapping is none of ours: the handler that was there before gets it. The table is read by
//! a handler that may run in the middle of anything, so it is made of atomics and nothing in it moves.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::libc::{c_int, c_void, siginfo_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Mappings of files that there may be at once.
const MOST: usize = 256;

static RANGES: [Range; MOST] = [const { Range { begin: AtomicUsize::new(0), bytes: AtomicUsize::new(0) } }; MOST];

/// Held while a range is taken or given back; the handler does without.
static CHANGES: Mutex<()> = Mutex::new(());

/// What was done about SIGBUS before.
static BEFORE: OnceLock<SigAction> = OnceLock::new();

/// The addresses of one mapping; none while `bytes` is 0.
struct Range {
    begin: AtomicUsize,
    /// Written after `begin` (Release) and read before it (Acquire).
    bytes: AtomicUsize,
}

impl Range {
    fn has(&self, address: usize) -> bool {
        let bytes = self.bytes.load(Ordering::Acquire);
        address.wrapping_sub(self.begin.load(Ordering::Relaxed)) < bytes
    }
}

/// The place of one mapping in the table. To be dropped before the mapping, which nobody touches any more.
pub(super) struct Guard(&'static Range);

impl Guard {
    /// Guards this mapping of a file.
    pub(super) fn over(begin: usize, bytes: usize) -> io::Result<Guard> {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        if BEFORE.get().is_none() {
            let before = install()?;
            assert!(BEFORE.set(before).is_ok(), "whoever installs holds the lock");
        }
        let free = RANGES.iter().find(|range| range.bytes.load(Ordering::Relaxed) == 0);
        let range = free.ok_or_else(|| io::Error::other(format!("{MOST} files are mapped already")))?;
        range.begin.store(begin, Ordering::Relaxed);
        range.bytes.store(bytes, Ordering::Release);
        Ok(Guard(range))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.bytes.store(0, Ordering::Release);
    }
}

fn install() -> io::Result<SigAction> {
    // On a stack of its own where the thread has one: the handler that was there before is for stacks that overflow.
    let flags = SaFlags::SA_ONSTACK | SaFlags::SA_SIGINFO;
    let action = SigAction::new(SigHandler::SigAction(put_zeros_there), flags, SigSet::empty());
    // SAFETY: the handler reads atomics and calls the system, which is safe in the middle of anything.
    #[allow(unsafe_code, reason = "a handler may run in the middle of anything")]
    Ok(unsafe { sigaction(Signal::SIGBUS, &action)? })
}

extern "C" fn put_zeros_there(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel hands a handler of this kind a description that lives as long as the call; the address is a
    // number whatever the signal is.
    #[allow(unsafe_code, reason = "what the kernel hands over is a pointer")]
    let (cause, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // Somebody may send the signal as well; then it has no address.
    let is_fault = cause > 0;
    let replaced = RANGES.iter().find(|range| is_fault && range.has(address)).is_some_and(|range| {
        let begin = range.begin.load(Ordering::Relaxed);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let bytes = range.bytes.load(Ordering::Relaxed);
        // SAFETY: these pages are a mapping of ours of `AnyBytes`, which is touched at this instant and so is not unmapped;
        // zeros are as valid there as anything, and change what others see no more than a write to the file would.
        #[allow(unsafe_code, reason = "pages are replaced in place")]
        let mapped = unsafe {
            mmap_anonymous(ptr::with_exposed_provenance_mut(begin), bytes, access, MapFlags::FIXED | MapFlags::PRIVATE)
        };
        mapped.is_ok()
    });
    if !replaced && let Some(before) = BEFORE.get() {
        // SAFETY: what was installed before is as safe as it was then.
        #[allow(unsafe_code, reason = "as above")]
        let restored = unsafe { sigaction(Signal::SIGBUS, before) };
        // Delivered again when this handler returns.
        let _ = restored.and_then(|_| raise(Signal::SIGBUS));
    }
}
