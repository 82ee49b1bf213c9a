//! Files that several processes change at the same time: a lock that dies with its holder, and blocks set aside.
//!
//! Invariant *one-holder*: of all threads of all processes at most one holds the lock of a file. The kernel's lock
//! (`flock`) belongs to an open file, which threads share and children inherit; so threads of one process have a mutex
//! before it, and a child opens the file anew before its first try. The kernel gives the lock back when the last
//! descriptor of that open file is closed, as it is when the process dies, at whatever instant and of whatever.
//!
//! The lock is asked for, never waited for inside the kernel, because such a wait has no limit: a holder may be stopped.
//! So it is not fair, and a waiter may come up to [`LONGEST_PAUSE`] later than it could. Locks are held for a few
//! microseconds.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;
use std::{mem, process, thread};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::retry;

/// Tries that only give up the processor in between: longer than an undisturbed holder takes.
const YIELDS: usize = 4;
/// The first sleep between two tries; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_micros(20);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// The right to change what is in a file. Without a file, among the threads of this process.
pub struct Lock {
    /// Held by the thread that holds the lock, or tries to.
    threads: Mutex<()>,
    path: PathBuf,
    opened: Option<Mutex<Opened>>,
}

/// An open file, in the process that has opened it.
struct Opened {
    pid: u32,
    file: Arc<File>,
    /// For writing as well as for reading.
    to_write: bool,
    /// Device and inode.
    identity: (u64, u64),
}

/// The lock is held until this is dropped.
pub struct Held<'a> {
    file: Option<Arc<File>>,
    _threads: MutexGuard<'a, ()>,
}

impl Lock {
    /// The lock of this file, which lies at `path` and is open for reading, or `to_write` as well.
    ///
    /// # Errors
    /// None that a caller can act on.
    pub fn of_file(file: File, path: &Path, to_write: bool) -> io::Result<Lock> {
        let metadata = file.metadata()?;
        let identity = (metadata.dev(), metadata.ino());
        let opened = Mutex::new(Opened { pid: process::id(), file: Arc::new(file), to_write, identity });
        Ok(Lock { threads: Mutex::new(()), path: path.to_owned(), opened: Some(opened) })
    }

    /// A lock for the threads of this process alone.
    pub fn of_process() -> Lock {
        Lock { threads: Mutex::new(()), path: PathBuf::new(), opened: None }
    }

    /// The file, open in this process; none of a lock without one.
    ///
    /// # Errors
    /// In a child of the process that has opened it: it cannot be opened again, or is not there any more.
    pub fn file(&self) -> io::Result<Option<Arc<File>>> {
        let Some(opened) = &self.opened else { return Ok(None) };
        let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.pid != process::id() {
            let again = opened.again(&self.path)?;
            // What was inherited may have been closed, and its number be another's by now.
            mem::forget(mem::replace(&mut *opened, again));
        }
        Ok(Some(Arc::clone(&opened.file)))
    }

    /// Takes the lock, unless somebody else holds it.
    ///
    /// # Errors
    /// The system has no room for another lock; or as [`file`](Lock::file).
    pub fn try_lock(&self) -> io::Result<Option<Held<'_>>> {
        let _threads = match self.threads.try_lock() {
            Ok(threads) => threads,
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let file = self.file()?;
        if let Some(file) = &file {
            match retry(|| flock(file, FlockOperation::NonBlockingLockExclusive)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                taken => taken?,
            }
        }
        Ok(Some(Held { file, _threads }))
    }

    /// Takes the lock; none if somebody else has held it for as long as `patience`.
    ///
    /// # Errors
    /// As [`try_lock`](Lock::try_lock).
    pub fn lock(&self, patience: Duration) -> io::Result<Option<Held<'_>>> {
        let (mut tries, mut pause, mut waited) = (0, FIRST_PAUSE, Duration::ZERO);
        loop {
            if let Some(held) = self.try_lock()? {
                return Ok(Some(held));
            }
            if tries < YIELDS {
                tries += 1;
                thread::yield_now();
            } else if waited < patience {
                // A sleep takes this long at the least, so that no clock need be read.
                thread::sleep(pause);
                waited += pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                return Ok(None);
            }
        }
    }

    /// The process that holds the lock, if it can be seen from here: for a message, not for a decision.
    pub fn holder(&self) -> Option<u32> {
        let inode = self.file().ok()??.metadata().ok()?.ino();
        holder_in(&std::fs::read_to_string("/proc/locks").ok()?, inode)
    }
}

impl Opened {
    /// The same file once more, in a process that has inherited this.
    fn again(&self, path: &Path) -> io::Result<Opened> {
        let file = File::options().read(true).write(self.to_write).open(path)?;
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != self.identity {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another file has taken its place"));
        }
        Ok(Opened { pid: process::id(), file: Arc::new(file), ..*self })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let unlocked = retry(|| flock(file, FlockOperation::Unlock));
            debug_assert!(unlocked.is_ok(), "what is held can be given back: {unlocked:?}");
        }
    }
}

/// Finds, among lines like `1: FLOCK  ADVISORY  WRITE 1234 fd:01:131073 0 EOF`, who has locked this inode. Two file
/// systems may have files of one number; the device of a file is told differently here and by `stat` on some.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid, place) = (words.next()?, words.nth(2)?, words.next()?);
        let is_it = kind == "FLOCK" && place.rsplit(':').next()?.parse() == Ok(inode);
        pid.parse().ok().filter(|_| is_it)
    })
}

/// Makes the file at least this long, all of its blocks set aside, so that no store into them can find the disk full.
/// What is new reads as zeros.
///
/// # Errors
/// The disk is full, or the file cannot be so long.
pub fn set_aside(file: &File, bytes: u64) -> io::Result<()> {
    match retry(|| fallocate(file, FallocateFlags::empty(), 0, bytes)) {
        // Not every file system can do so without writing.
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => write_zeros_behind(file, bytes),
        done => done,
    }
}

fn write_zeros_behind(file: &File, bytes: u64) -> io::Result<()> {
    let end = file.metadata()?.len();
    let zeros = vec![0; usize::try_from(bytes.saturating_sub(end)).map_err(|_| io::ErrorKind::FileTooLarge)?];
    file.write_all_at(&zeros, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_openings() -> (Lock, Lock) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let open = || {
            let opened = File::options().read(true).write(true).open(file.path()).expect("it is there");
            Lock::of_file(opened, file.path(), true).expect("it can be looked at")
        };
        (open(), open())
    }

    #[test]
    fn one_of_two_openings_holds_the_lock() {
        let (lock, other) = two_openings();
        let held = lock.try_lock().expect("there is room").expect("it is free");
        assert!(other.try_lock().expect("there is room").is_none());
        assert!(other.lock(Duration::from_millis(5)).expect("there is room").is_none());
        drop(held);
        assert!(other.lock(Duration::ZERO).expect("there is room").is_some());
    }

    #[test]
    fn one_of_many_threads_holds_the_lock() {
        let (lock, other) = two_openings();
        let alone = Lock::of_process();
        for locks in [[&lock, &other], [&alone, &alone]] {
            let inside = Mutex::new(());
            thread::scope(|scope| {
                for lock in locks.iter().cycle().take(4) {
                    scope.spawn(|| {
                        for _ in 0..500 {
                            let held = lock.lock(Duration::from_secs(120)).expect("there is room");
                            assert!(held.is_some() && inside.try_lock().is_ok(), "one-holder");
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn the_holder_is_found_by_the_files_number() {
        let locks = "1: POSIX  ADVISORY  WRITE 5 fd:01:7 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 6 00:1a:17 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 8 00:1a:7 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 9 fd:01:7 0 EOF\n";
        assert_eq!(holder_in(locks, 7), Some(9));
        assert_eq!(holder_in(locks, 17), Some(6));
        assert_eq!(holder_in(locks, 8), None);

        let (lock, other) = two_openings();
        assert_eq!(other.holder(), None);
        let held = lock.try_lock().expect("there is room");
        assert_eq!(other.holder(), Some(process::id()));
        drop(held);
        assert_eq!(other.holder(), None);
    }

    #[test]
    fn what_is_set_aside_is_zeros_behind_what_was_there() {
        for way in [set_aside, write_zeros_behind] {
            let file = tempfile::tempfile().expect("a temporary file");
            file.write_all_at(b"there", 0).expect("it takes text");
            way(&file, 10_000).expect("there is room");
            let mut all = vec![1; 10_000];
            file.read_exact_at(&mut all, 0).expect("it is so long");
            assert!(all.starts_with(b"there\0") && all[5..].iter().all(|&byte| byte == 0));
            way(&file, 4).expect("there is nothing to do");
            assert_eq!(file.metadata().expect("it is open").len(), 10_000);
        }
    }
}
