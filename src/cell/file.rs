//! The file of a cell: found or begun, and what is wrong with one that is neither.
//!
//! A file that is not there, or is empty, becomes an empty cell; so does one whose beginning was killed half-way. That is
//! done under the file's lock, all blocks set aside first and the first mark last: whoever finds both marks finds a cell,
//! without the lock. Everything else that can be found is judged under the lock only, since it may be half of a
//! beginning.
//!
//! Who may not write to the file opens it for reading. Read next: `memory.rs`.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::PATIENCE;
use super::image::{Image, MARK};
use crate::net::file::{Lock, set_aside};

const IMAGE_BYTES: u64 = size_of::<Image>() as u64;

/// A file that holds a cell.
pub(super) struct Opened {
    pub(super) lock: Lock,
    /// Why it may not be written to.
    pub(super) refused: Option<io::Error>,
}

/// Opens the cell in this file, or begins one.
pub(super) fn open(path: &Path) -> io::Result<Opened> {
    let (file, refused) = find(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let to_write = refused.is_none();
    let lock = Lock::of_file(file, path, to_write)?;
    let file = lock.file()?.expect("it is the lock of a file");
    if fault_of(&file)?.is_some() {
        let _held = lock.lock(PATIENCE)?.ok_or_else(|| busy(&lock))?;
        match fault_of(&file)? {
            None => {}
            Some(Fault::Unbegun) if to_write => begin(&file)?,
            Some(fault) => return Err(io::Error::new(ErrorKind::InvalidData, fault.to_string())),
        }
    } else if to_write {
        // A copy may have holes where the cell had zeros.
        set_aside(&file, IMAGE_BYTES)?;
    }
    Ok(Opened { lock, refused })
}

/// That somebody else holds the lock, and who.
pub(super) fn busy(lock: &Lock) -> io::Error {
    let who = lock.holder().map_or("another process".to_owned(), |pid| format!("process {pid}"));
    let patience = crate::units::show_duration(PATIENCE);
    io::Error::new(ErrorKind::TimedOut, format!("{who} has held its lock for {patience}"))
}

/// Whether the file has gone from its folder, or is too short to be a cell, and no longer one that others find.
pub(super) fn check_presence(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.nlink() == 0 {
        return Err(io::Error::new(ErrorKind::NotFound, "it was removed, or another file has taken its place"));
    }
    if metadata.len() < IMAGE_BYTES {
        let fault = Fault::Short { bytes: metadata.len() };
        return Err(io::Error::new(ErrorKind::InvalidData, fault.to_string()));
    }
    Ok(())
}

/// The file for reading and writing, or else for reading, and then why; made if it is not there.
fn find(path: &Path) -> io::Result<(File, Option<io::Error>)> {
    // Neither waits for the other end of a pipe, nor takes a terminal.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let open = |options: &mut OpenOptions| options.read(true).custom_flags(flags).open(path);
    // Not made at the first try: in a folder such as /tmp, a system may refuse to open another user's file if it is asked
    // to make one where there is none.
    let opened = open(File::options().write(true)).or_else(|error| match error.kind() {
        ErrorKind::NotFound => open(File::options().write(true).create(true)),
        _ => Err(error),
    });
    match opened {
        Ok(file) => Ok((file, None)),
        Err(error) => match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                match open(&mut File::options()) {
                    Ok(file) => Ok((file, Some(error))),
                    // It is not there, or may not be read either: the first trouble is the one to tell.
                    Err(_) => Err(error),
                }
            }
            _ => Err(error),
        },
    }
}

/// Why a file is not a cell.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing is in it.
    Unbegun,
    /// It begins like a cell, and ends too soon.
    Short { bytes: u64 },
    /// A cell of a later program.
    Layout { number: u8 },
    /// It begins like a cell, and does not end like one.
    Damaged,
    /// Anything else.
    Foreign,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Unbegun => write!(f, "it is empty, and a cell is begun only by who may write to it"),
            Fault::Short { bytes } => write!(f, "it is cut off: {bytes} bytes of {IMAGE_BYTES} are left"),
            Fault::Layout { number } => write!(f, "it is a cell of layout {number}, not {}", MARK[7]),
            Fault::Damaged => write!(f, "it is damaged: it begins as a cell and does not end as one"),
            Fault::Foreign => write!(f, "it is not a cell"),
        }
    }
}

/// Where the last mark is.
const LAST_MARK: u64 = IMAGE_BYTES - MARK.len() as u64;

/// Why the file is not a cell, if it is none.
fn fault_of(file: &File) -> io::Result<Option<Fault>> {
    let bytes = file.metadata()?.len();
    let [first, last] = [read::<8>(file, 0)?, read::<8>(file, LAST_MARK)?];
    Ok(if first == MARK {
        match last {
            _ if bytes < IMAGE_BYTES => Some(Fault::Short { bytes }),
            MARK => None,
            _ => Some(Fault::Damaged),
        }
    } else if first[..7] == MARK[..7] {
        Some(Fault::Layout { number: first[7] })
    } else if bytes <= IMAGE_BYTES && is_blank(file)? {
        Some(Fault::Unbegun)
    } else {
        Some(Fault::Foreign)
    })
}

/// Whether the file holds nothing but zeros and, if its beginning was killed, the last mark.
fn is_blank(file: &File) -> io::Result<bool> {
    let all = read::<{ IMAGE_BYTES as usize }>(file, 0)?;
    let (before, last) = all.split_at(LAST_MARK as usize);
    Ok(before.iter().all(|&byte| byte == 0) && [[0; 8], MARK].iter().any(|mark| mark == last))
}

/// What is there in the file; zeros for what is not.
fn read<const BYTES: usize>(file: &File, place: u64) -> io::Result<[u8; BYTES]> {
    let (mut bytes, mut filled) = ([0; BYTES], 0);
    while filled < BYTES {
        match file.read_at(&mut bytes[filled..], place + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// Makes a blank file an empty cell. Under its lock.
fn begin(file: &File) -> io::Result<()> {
    set_aside(file, IMAGE_BYTES)?;
    file.write_all_at(&MARK, LAST_MARK)?;
    file.write_all_at(&MARK, 0)
}
