//! Listening on a socket in the file system: who may connect is decided by the file's mode, from its first moment on.
//!
//! A file is left behind by a daemon that was killed. Whether somebody listens at one is asked by connecting: a socket
//! that refuses is stale and is replaced, one that accepts is in use. What is no socket is never touched.
//!
//! Invariants:
//! - *mode-at-birth*: at no moment may more users connect than the mode says: the file is made with no more rights than
//!   that, and nobody can connect before the socket listens.
//! - *one-at-a-time*: who looks at a file and replaces it holds the lock of its folder, so that of two daemons that begin
//!   at once the second finds the first one listening.
//! - *removes-its-own*: [`SocketFile`] removes the file that was made here, and not one that has taken its place since.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::listener::{Accepted, accept_on};

/// Clients that the kernel may hold for us: a few people and their scripts.
const BACKLOG: i32 = 16;

/// How long another process may hold the folder's lock. It does no more there than is done here.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A listening socket in the file system, nonblocking.
pub struct LocalListener {
    socket: OwnedFd,
}

/// The file of a [`LocalListener`], removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and number of the file that was made.
    identity: (u64, u64),
}

impl LocalListener {
    /// Binds and listens at `path`, where whoever `mode` names may connect. The file stays until the second of the two is
    /// dropped.
    ///
    /// # Errors
    /// What is in the way: somebody who listens there, a file that is no socket, the system.
    pub fn bind(path: &Path, mode: u32) -> io::Result<(LocalListener, SocketFile)> {
        let address = SocketAddrUnix::new(path)?;
        let _lock = lock_folder_of(path)?;
        make_way(path, &address)?;
        let socket = stream_socket()?;
        let mode = Mode::from_raw_mode(mode);
        // The file gets these rights as it is made, less what the umask takes away.
        rustix::fs::fchmod(&socket, mode)?;
        rustix::net::bind(&socket, &address)?;
        let file = SocketFile { path: path.to_owned(), identity: identity(&rustix::fs::lstat(path)?) };
        rustix::fs::chmod(path, mode)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok((LocalListener { socket }, file))
    }

    /// Takes one connection off the backlog.
    ///
    /// # Errors
    /// When the listener itself is broken.
    pub fn accept(&self) -> io::Result<Accepted> {
        accept_on(self.socket.as_fd())
    }
}

impl AsFd for LocalListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if rustix::fs::lstat(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            // Somebody else may have removed it a moment ago.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

/// Has the folder to itself as long as the descriptor is open.
fn lock_folder_of(path: &Path) -> io::Result<OwnedFd> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    for _ in 0..LOCK_PATIENCE.as_millis() / LOCK_PAUSE.as_millis() {
        match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(opened),
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(ErrorKind::TimedOut, format!("another process has locked {}", folder.display())))
}

/// Removes a socket at which nobody listens, if there is one.
fn make_way(path: &Path, address: &SocketAddrUnix) -> io::Result<()> {
    let found = match rustix::fs::lstat(path) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket; it stays"));
    }
    match rustix::net::connect(&stream_socket()?, address) {
        Err(Errno::CONNREFUSED) => Ok(rustix::fs::unlink(path)?),
        Err(Errno::NOENT) => Ok(()),
        // Nobody takes connections from a full backlog, but somebody has it.
        Ok(()) | Err(Errno::WOULDBLOCK | Errno::PROTOTYPE) => {
            Err(io::Error::new(ErrorKind::AddrInUse, "somebody listens there already"))
        }
        Err(error) => {
            let reason = io::Error::from(error);
            Err(io::Error::new(reason.kind(), format!("whether somebody listens there cannot be told: {reason}")))
        }
    }
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn a_socket_has_the_mode_asked_for_and_goes_with_its_file() {
        let folder = tempfile::tempdir().expect("there is room for files");
        let path = folder.path().join("socket");
        for mode in [0o600, 0o660, 0o666, 0o200] {
            let (listener, file) = LocalListener::bind(&path, mode).expect("nobody is there");
            assert_eq!(mode_of(&path), mode);
            assert!(matches!(listener.accept(), Ok(Accepted::Nobody)));
            let _client = UnixStream::connect(&path).expect("somebody listens");
            assert!(matches!(listener.accept(), Ok(Accepted::Connection(_))));
            drop(file);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("there is room for files");
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).expect("nobody is there"));
        assert!(path.exists(), "a listener of std leaves its file behind");
        let (_listener, file) = LocalListener::bind(&path, 0o600).expect("nobody listens there");
        let refused = LocalListener::bind(&path, 0o600).err().expect("somebody listens there");
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        UnixStream::connect(&path).expect("the first one still listens");
        drop(file);
        let _other_kind = UnixDatagram::bind(&path).expect("nobody is there");
        let refused = LocalListener::bind(&path, 0o600).err().expect("somebody has it");
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().expect("there is room for files");
        let (file, link, target) =
            (folder.path().join("file"), folder.path().join("link"), folder.path().join("target"));
        fs::write(&file, "kept").expect("it can be written");
        drop(UnixListener::bind(&target).expect("nobody is there"));
        std::os::unix::fs::symlink(&target, &link).expect("it can be made");
        for path in [file.as_path(), link.as_path(), folder.path()] {
            let refused = LocalListener::bind(path, 0o600).err().expect("something is in the way");
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "{}: {refused}", path.display());
        }
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "kept");
        assert!(fs::symlink_metadata(&target).expect("it is there").file_type().is_socket());
    }

    #[test]
    fn a_file_that_has_taken_its_place_is_left_alone() {
        let folder = tempfile::tempdir().expect("there is room for files");
        let path = folder.path().join("socket");
        let (_listener, file) = LocalListener::bind(&path, 0o600).expect("nobody is there");
        fs::remove_file(&path).expect("it can be removed");
        let _next = UnixListener::bind(&path).expect("nobody is there");
        drop(file);
        assert!(path.exists(), "it is another's");
    }

    #[test]
    fn a_folder_that_another_has_locked_is_waited_for() {
        let folder = tempfile::tempdir().expect("there is room for files");
        let path = folder.path().join("socket");
        let lock = lock_folder_of(&path).expect("nobody has it");
        let waiting = thread::spawn({
            let path = path.clone();
            move || LocalListener::bind(&path, 0o600).map(|(_, file)| file)
        });
        thread::sleep(2 * LOCK_PAUSE);
        assert!(!path.exists(), "who has the lock is not disturbed");
        drop(lock);
        let file = waiting.join().expect("it does not panic").expect("the lock is free");
        assert!(path.exists());
        drop(file);
    }

    #[test]
    fn a_path_too_long_is_refused() {
        let long = PathBuf::from("/tmp").join("x".repeat(107));
        assert!(LocalListener::bind(&long, 0o600).is_err());
    }
}
