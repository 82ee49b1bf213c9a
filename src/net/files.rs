//! Files below one folder: found by paths that strangers name, looked at, opened, and brought into memory.
//!
//! Invariant *beneath*: whatever the path, and whatever others rename or link meanwhile, what is found lies below the root.
//! The kernel resolves the path in one call that refuses every step out of it (`openat2`, `RESOLVE_BENEATH`, no magic
//! links); nothing here compares names. Invariant *regular-only*: what is opened for reading is a regular file. It is looked
//! at first through a descriptor that opens nothing (`O_PATH`), so that neither a pipe nor a device hears of it; and, since
//! another may have taken its place, once more when it is open, which does not wait (`O_NONBLOCK`).
//!
//! Read next: `socket.rs`, which sends a file; `service/files.rs`, who asks.

mod cache;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{mem, process};

use rustix::fs::{Advice, FileType, Mode, OFlags, ResolveFlags, fadvise, fstat, open, openat2, sendfile};
use rustix::io::Errno;

use super::retry;

/// Bytes of the longest path that the system resolves, without the NUL that ends it.
pub const PATH_BYTES_MAX: usize = 4_095;

/// Tries to resolve a path while others move folders about. Each failure takes a move within some microseconds.
const TRIES: usize = 32;

/// A folder below which files are found.
pub struct Root {
    path: PathBuf,
    opened: Mutex<Arc<Opened>>,
}

/// The folder, in the process that has opened it.
struct Opened {
    pid: u32,
    folder: OwnedFd,
    /// Swallows what is written: bytes that are sent there have been brought into memory, and copied nowhere.
    sink: OwnedFd,
    identity: Identity,
}

/// Device and inode.
type Identity = (u64, u64);

/// What a file is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its bytes.
    pub size: u64,
    /// When it was last written to: seconds since 1970, and nanoseconds.
    pub modified: (i64, u64),
    identity: Identity,
}

/// Why a path leads to no file that is given.
#[derive(Debug)]
pub enum Refused {
    /// Nothing is there.
    NotFound,
    /// The system does not let this process, or it is a link of the kernel's own, or links without end.
    Denied,
    /// It leads out of the root.
    Outside,
    /// It is a folder, a pipe, a socket or a device.
    NotAFile,
    /// It, or one of its names, is longer than the system resolves.
    TooLong,
    /// Too much is open, or moving, at present.
    Busy,
    /// Anything else.
    Io(io::Error),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Refused {
        match errno {
            Errno::NOENT | Errno::NOTDIR => Refused::NotFound,
            Errno::ACCESS | Errno::PERM | Errno::LOOP => Refused::Denied,
            Errno::XDEV => Refused::Outside,
            Errno::NXIO | Errno::NODEV | Errno::ISDIR => Refused::NotAFile,
            Errno::NAMETOOLONG => Refused::TooLong,
            Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM => Refused::Busy,
            other => Refused::Io(other.into()),
        }
    }
}

impl Root {
    /// The folder at `path`.
    ///
    /// # Errors
    /// It is no folder that can be entered, or this system cannot keep a look-up below it.
    pub fn open(path: &Path) -> io::Result<Root> {
        let opened = Opened::new(path)?;
        opened.resolve(b".", OFlags::PATH).map_err(|errno| match errno {
            Errno::NOSYS | Errno::PERM => io::Error::new(
                ErrorKind::Unsupported,
                "this kernel, or the container around it, has no openat2, by which paths are kept below the root",
            ),
            other => other.into(),
        })?;
        Ok(Root { path: path.to_owned(), opened: Mutex::new(Arc::new(opened)) })
    }

    /// What the file at this path is like. Opens nothing.
    ///
    /// # Errors
    /// It leads to no file.
    pub fn stat(&self, path: &[u8]) -> Result<Stat, Refused> {
        stat_of(&self.opened()?.resolve(path, OFlags::PATH)?)
    }

    /// The file at this path, for reading, and what it is like.
    ///
    /// # Errors
    /// It leads to no file, or to one that cannot be read.
    pub fn file(&self, path: &[u8]) -> Result<(File, Stat), Refused> {
        self.stat(path)?;
        let file = self.opened()?.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = stat_of(&file)?;
        Ok((file.into(), stat))
    }

    /// Waits until so many bytes of the file from `from` on are in memory.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file does not have them; what keeps them from being read.
    pub fn bring_in(&self, file: &File, from: u64, bytes: usize) -> io::Result<()> {
        if cache::holds(file, from, bytes) {
            return Ok(());
        }
        let opened = self.opened()?;
        // All of it is asked for at once; a file system that has no use for the advice does without.
        let _ = fadvise(file, from, std::num::NonZeroU64::new(bytes as u64), Advice::WillNeed);
        let (mut at, end) = (from, from + bytes as u64);
        while at < end {
            let left = (end - at) as usize;
            if retry(|| sendfile(&opened.sink, file, Some(&mut at), left))? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The folder as this process has it open. A child of the process that opened it has lost it with all descriptors.
    fn opened(&self) -> io::Result<Arc<Opened>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.pid != process::id() {
            let again = Opened::new(&self.path)?;
            if again.identity != opened.identity {
                return Err(io::Error::new(ErrorKind::NotFound, "another folder has taken the place of the root"));
            }
            // Its descriptors may be another's by now.
            mem::forget(mem::replace(&mut *opened, Arc::new(again)));
        }
        Ok(Arc::clone(&opened))
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Errno::from_io_error(&error).map_or(Refused::Io(error), Refused::from)
    }
}

/// Says of a file that it will be read from its beginning to its end.
pub fn will_read_all(file: &File) {
    let _ = fadvise(file, 0, None, Advice::Sequential);
}

impl Opened {
    fn new(path: &Path) -> io::Result<Opened> {
        let folder = retry(|| open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))?;
        let sink = retry(|| open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()))
            .map_err(|reason| io::Error::new(reason.kind(), format!("/dev/null: {reason}")))?;
        let status = fstat(&folder)?;
        Ok(Opened { pid: process::id(), folder, sink, identity: (status.st_dev, status.st_ino) })
    }

    fn resolve(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match openat2(&self.folder, path, flags | OFlags::CLOEXEC, Mode::empty(), beneath) {
                // The kernel could not be sure that a step upwards stayed below the root, since something was moved.
                Err(Errno::AGAIN) if tries < TRIES => tries += 1,
                Err(Errno::INTR) => {}
                resolved => return resolved,
            }
        }
    }
}

fn stat_of(file: &OwnedFd) -> Result<Stat, Refused> {
    let status = fstat(file)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(Refused::NotAFile);
    }
    Ok(Stat {
        size: u64::try_from(status.st_size).unwrap_or(0),
        modified: (status.st_mtime, status.st_mtime_nsec),
        identity: (status.st_dev, status.st_ino),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, symlink};

    use rustix::fs::{CWD, mkfifoat};

    use super::*;

    fn name(refused: Refused) -> String {
        match refused {
            Refused::Io(error) => error.kind().to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_a_file_below_the_root_is_refused_and_says_why() {
        let outer = tempfile::tempdir().expect("a temporary directory");
        let inner = outer.path().join("root");
        std::fs::create_dir_all(inner.join("folder")).expect("it can be made");
        std::fs::write(outer.path().join("secret"), "secret").expect("it can be written");
        std::fs::write(inner.join("file"), "five!").expect("it can be written");
        mkfifoat(CWD, inner.join("pipe"), Mode::from_raw_mode(0o666)).expect("it can be made");
        let links = [
            ("good", "file"),
            ("up", "../secret"),
            ("absolute", "/etc/passwd"),
            ("self", "self"),
            ("device", "/dev/null"),
            ("round", "folder/../file"),
        ];
        for (link, target) in links {
            symlink(target, inner.join(link)).expect("it can be made");
        }
        let _socket = std::os::unix::net::UnixListener::bind(inner.join("socket")).expect("it can be bound");
        let root = Root::open(&inner).expect("it is a folder");
        for path in ["file", "good", "round", "./file", "folder//..//file"] {
            let (file, stat) = root.file(path.as_bytes()).unwrap_or_else(|refused| panic!("{path}: {refused:?}"));
            assert_eq!((stat.size, root.stat(path.as_bytes()).ok()), (5, Some(stat)), "{path}");
            let mut bytes = [0; 5];
            file.read_exact_at(&mut bytes, 0).expect("it is there");
            assert_eq!(&bytes, b"five!");
        }
        let long = "x".repeat(256);
        let longer = "x/".repeat(PATH_BYTES_MAX / 2 + 1);
        for (path, expected) in [
            ("", "NotFound"),
            ("nothing", "NotFound"),
            ("file/below", "NotFound"),
            (".", "NotAFile"),
            ("folder", "NotAFile"),
            ("pipe", "NotAFile"),
            ("socket", "NotAFile"),
            ("..", "Outside"),
            ("../secret", "Outside"),
            ("folder/../../secret", "Outside"),
            ("up", "Outside"),
            ("/etc/passwd", "Outside"),
            ("absolute", "Outside"),
            ("device", "Outside"),
            ("self", "Denied"),
            (&long, "TooLong"),
            (&longer, "TooLong"),
            ("a\0b", "invalid input parameter"),
        ] {
            assert_eq!(root.stat(path.as_bytes()).map_err(name), Err(expected.to_owned()), "stat of {path:?}");
            assert_eq!(root.file(path.as_bytes()).map(drop).map_err(name), Err(expected.to_owned()), "file {path:?}");
        }
    }

    #[test]
    fn links_and_devices_of_the_kernel_are_refused() {
        let root = Root::open(Path::new("/proc/self")).expect("there is /proc");
        for path in ["exe", "cwd/Cargo.toml", "root/etc/passwd", "fd/0"] {
            assert!(matches!(root.stat(path.as_bytes()), Err(Refused::Denied)), "{path}");
        }
        assert!(root.file(b"status").is_ok(), "regular files there are files");
        let root = Root::open(Path::new("/dev")).expect("there is /dev");
        for path in ["null", "zero", "full"] {
            assert!(matches!(root.file(path.as_bytes()), Err(Refused::NotAFile)), "{path}");
        }
    }

    #[test]
    fn a_root_is_a_folder() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        for path in [file.path(), Path::new("/no/such/folder")] {
            assert!(Root::open(path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn what_a_file_has_is_brought_in_and_no_more() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("file"), vec![7; 300_000]).expect("it can be written");
        let root = Root::open(folder.path()).expect("it is a folder");
        let (file, _) = root.file(b"file").expect("it is there");
        will_read_all(&file);
        for (from, bytes) in [(0, 1), (0, 300_000), (299_999, 1), (4_095, 200_000)] {
            root.bring_in(&file, from, bytes).expect("it has them");
        }
        for (from, bytes) in [(0, 300_001), (300_000, 1), (u64::from(u32::MAX), 1)] {
            let missed = root.bring_in(&file, from, bytes).expect_err("it does not have them");
            assert_eq!(missed.kind(), ErrorKind::UnexpectedEof, "{from} {bytes}");
        }
    }
}
