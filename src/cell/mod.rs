//! [`Cell`]: a value that processes share, with a version, read without a lock and waited on until it changes.
//!
//! ```text
//!   writer ── lock ─▶ other slot ─▶ publish + wake ─┐        watcher: seen = 7 ─▶ sleep while 7 ─▶ read 9 ─▶ seen = 9
//!                                                   ▼                                  ▲
//!                              file, mapped by all: [ version │ slot 0 │ slot 1 ] ─────┘
//! ```
//! It holds one text and nothing of those who watch it: a watcher remembers the version that it has acted on and asks for
//! a later one. So no change is acted on twice, the newest is never missed, those in between may be, and a watcher that
//! is slow, stopped or gone costs a writer nothing.
//!
//! Not here: notifying anybody of every change (that is a queue), and surviving a crash of the machine.
//!
//! Invariants: those of `image.rs`, and *no-change-no-wake*: setting the present text wakes nobody and changes no version.
//!
//! Read next: `image.rs` (how it is read while it is written), `file.rs` (what is found at a path), `command.rs`
//! (`maitred cell`). The chapter is `design/watched-value.md`.

mod command;
mod file;
mod image;
mod memory;
mod observer;
mod word;

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::error::Error;
use crate::net::file::{Held, Lock};

pub use command::command;
pub use image::Set;
use image::{Damage, Image};
use memory::Memory;
pub use observer::start_observer;

/// The longest text in bytes: with `SET ` before it and the LF behind it, a line of 8 KiB.
pub const TEXT_MAX_BYTES: usize = image::TEXT_MAX_BYTES;

/// How long [`Cell::set`] waits for another writer, which needs microseconds unless it was stopped.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How often a watcher looks without being woken: whether its file is still there; and for a change that its wake did not
/// tell, of which there must have been 2^32 since its last look.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A shared value: one line of text and its version.
pub struct Cell {
    memory: Memory,
    lock: Lock,
    /// Its path, for messages.
    name: String,
    /// What the system said when it was asked for the file to write to it, if it refused.
    refused: Option<i32>,
}

/// A text that a cell takes: at most [`TEXT_MAX_BYTES`] bytes, none of them an LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(&'a [u8]);

/// Why a text is none that a cell takes; what is wrong with it, as it follows the text in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// So many bytes.
    TooLong(usize),
    /// It would be more than one line.
    HasLineEnd,
}

impl<'a> Text<'a> {
    /// Takes these bytes as they are.
    ///
    /// # Errors
    /// They are too many, or not one line.
    pub fn new(bytes: &'a [u8]) -> Result<Text<'a>, Unfit> {
        if bytes.len() > TEXT_MAX_BYTES {
            Err(Unfit::TooLong(bytes.len()))
        } else if bytes.contains(&b'\n') {
            Err(Unfit::HasLineEnd)
        } else {
            Ok(Text(bytes))
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::TooLong(bytes) => write!(f, "has {bytes} bytes"),
            Unfit::HasLineEnd => write!(f, "has a line end"),
        }
    }
}

impl Cell {
    /// The cell in this file. A file that is not there, or is empty, becomes an empty cell: version 0, no text. One that
    /// this process may only read can be read and watched.
    ///
    /// # Errors
    /// The file is something else, or cannot be opened, made or mapped.
    pub fn open(path: &Path) -> Result<Cell, Error> {
        let name = path.display().to_string();
        let opened = file::open(path).and_then(|file::Opened { lock, refused }| {
            let file = lock.file()?.expect("it is the lock of a file");
            let memory = Memory::of_file(&file, refused.is_none())?;
            Ok((memory, lock, refused))
        });
        match opened {
            Ok((memory, lock, refused)) => {
                Ok(Cell { memory, lock, name, refused: refused.and_then(|error| error.raw_os_error()) })
            }
            Err(reason) => Err(Error::resource(format!("open the cell {name}"), reason)),
        }
    }

    /// An empty cell for the threads of this process.
    pub fn anonymous() -> Cell {
        let memory = Memory::Own(Box::new(Image::empty()));
        Cell { memory, lock: Lock::of_process(), name: "of this process".to_owned(), refused: None }
    }

    /// The newest version.
    ///
    /// # Errors
    /// The file is no longer a cell.
    pub fn version(&self) -> Result<u64, Error> {
        self.memory.version().map_err(|damage| self.damaged("read", damage))
    }

    /// The newest value: its version and its text.
    ///
    /// # Errors
    /// The file is no longer a cell.
    pub fn read(&self) -> Result<(u64, Vec<u8>), Error> {
        let mut text = Vec::new();
        Ok((self.read_into(&mut text)?, text))
    }

    /// Puts the newest text in the place of what is in `text`; its version. Waits for nobody.
    ///
    /// # Errors
    /// The file is no longer a cell.
    pub fn read_into(&self, text: &mut Vec<u8>) -> Result<u64, Error> {
        self.memory.read(text).map_err(|damage| self.damaged("read", damage))
    }

    /// Makes `text` the value, unless it is already, and wakes those who watch. Waits for other writers, [`PATIENCE`] at
    /// most.
    ///
    /// # Errors
    /// Nothing was set: the file may not be written to, is gone or no longer a cell, or another writer has been stopped.
    pub fn set(&self, text: Text<'_>) -> Result<Set, Error> {
        self.check_permission()?;
        let held = self.lock.lock(PATIENCE).and_then(|held| held.ok_or_else(|| file::busy(&self.lock)));
        self.set_with(&held.map_err(|error| self.cannot("set", error))?, text)
    }

    /// The same, without waiting: none if another writer is at work.
    ///
    /// # Errors
    /// As [`set`](Cell::set).
    pub fn try_set(&self, text: Text<'_>) -> Result<Option<Set>, Error> {
        self.check_permission()?;
        let held = self.lock.try_lock().map_err(|error| self.cannot("set", error))?;
        held.map(|held| self.set_with(&held, text)).transpose()
    }

    /// Waits until there is a later version than `seen`, and returns it at once if there is one; none after `timeout`.
    /// Whoever hands in the version that it last acted on acts on no change twice.
    ///
    /// # Errors
    /// The file is gone, or no longer a cell.
    pub fn wait(&self, seen: u64, timeout: Option<Duration>) -> Result<Option<u64>, Error> {
        let deadline_ns = timeout.map(|timeout| {
            let ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            monotonic_ns().saturating_add(ns)
        });
        loop {
            let version = self.version()?;
            if version > seen {
                return Ok(Some(version));
            }
            let left_ns = deadline_ns.map_or(u64::MAX, |deadline_ns| deadline_ns.saturating_sub(monotonic_ns()));
            if left_ns == 0 {
                return Ok(None);
            }
            self.check_presence("watch")?;
            self.memory.sleep_while(version, LOOK_EVERY.min(Duration::from_nanos(left_ns)));
        }
    }

    /// Who has shown that it holds the lock is the one caller of `Image::set`.
    fn set_with(&self, _held: &Held<'_>, text: Text<'_>) -> Result<Set, Error> {
        // A value in a file that nobody can find any more would be lost.
        self.check_presence("set")?;
        self.memory.set(text.0).map_err(|damage| self.damaged("set", damage))
    }

    fn check_permission(&self) -> Result<(), Error> {
        let refusal = self.refused.map(io::Error::from_raw_os_error);
        refusal.map_or(Ok(()), |refusal| Err(self.cannot("set", refusal)))
    }

    fn check_presence(&self, attempt: &str) -> Result<(), Error> {
        let present = self.lock.file().and_then(|file| file.map_or(Ok(()), |file| file::check_presence(&file)));
        present.map_err(|error| self.cannot(attempt, error))
    }

    fn damaged(&self, attempt: &str, damage: Damage) -> Error {
        let reason = match damage {
            Damage::Marks => "it was cut off, or overwritten with something else",
            Damage::Slots => "it is damaged; remove the file to begin anew",
        };
        self.cannot(attempt, io::Error::new(ErrorKind::InvalidData, reason))
    }

    fn cannot(&self, attempt: &str, reason: io::Error) -> Error {
        Error::resource(format!("{attempt} the cell {}", self.name), reason)
    }
}
