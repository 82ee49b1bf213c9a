//! What answers the commands of `files`: calls for the pool for files, each of which may wait for a disk.
//!
//! Short commands come many at once ([`Lines`]). A long answer comes in pieces: each call brings one, and the call that goes
//! on where it ends, which is begun while that piece is sent (`session/part.rs`). So a file of any size takes up two pieces
//! of it, and nobody sends what is not in memory yet.
//!
//! Invariant *promised-or-failed*: once `OK SIZE` has been said, so many bytes follow, of the file that was opened then, or
//! the session ends as [`Closed::Failed`](crate::session::handler::Closed). A file that grows meanwhile is cut there.
//! Read next: `list.rs`; `net/files.rs`.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::command::{Command, Unfit};
use super::list::{Findings, Name, PATHS_MAX, Unedited};
use super::{Sending, Terms};
use crate::digest::{Digest, hex};
use crate::net::files::{Refused, will_read_all};
use crate::session::handler::{Call, Lane, Moment};
use crate::session::mailbox::Message;
use crate::session::part::{Brought, Part};

/// Bytes that are hashed before others who wait for a thread have theirs: some ten milliseconds.
const HASHED_AT_ONCE: u64 = 16 << 20;

/// Bytes that are hashed before somebody looks whether they are still wanted: a millisecond, or less.
const HASHED_BYTES: usize = 256 << 10;

/// About so many bytes of a list are told at once.
const TOLD_BYTES: usize = 64 << 10;

/// Lines of short commands, in the order in which they came.
pub(super) struct Lines {
    pub(super) terms: Arc<Terms>,
    pub(super) lines: Vec<u8>,
}

/// Everything that takes longer, or says more, than a line.
pub(super) enum Long {
    Hash(Vec<u8>),
    Hashing(Box<Hashing>),
    Get(Vec<u8>),
    List { after: Option<Name> },
    Changed { findings: Option<Arc<Findings>>, told: usize },
}

impl Long {
    /// What this command asks for, if it is such a one.
    pub(super) fn of(command: &Command<'_>) -> Option<Long> {
        match command {
            Command::Hash(path) => Some(Long::Hash(path.to_vec())),
            Command::Get(path) => Some(Long::Get(path.to_vec())),
            Command::List => Some(Long::List { after: None }),
            Command::Changed => Some(Long::Changed { findings: None, told: 0 }),
            _ => None,
        }
    }
}

/// A long command, or the rest of one.
pub(super) struct Asked {
    pub(super) terms: Arc<Terms>,
    pub(super) long: Long,
}

/// A file of which a part is hashed.
pub(super) struct Hashing {
    file: File,
    /// When it was opened.
    size: u64,
    digest: Digest,
    hashed: u64,
}

/// The rest of a file.
struct Rest {
    terms: Arc<Terms>,
    file: Arc<File>,
    from: u64,
    end: u64,
}

impl Call for Lines {
    fn lane(&self) -> Lane {
        Lane::Files
    }

    fn run(self: Box<Self>, _moment: &Moment, is_wanted: &dyn Fn() -> bool) -> Brought {
        let mut said = Vec::new();
        for line in self.lines.split_inclusive(|&byte| byte == b'\n').take_while(|_| is_wanted()) {
            let line = line.strip_suffix(b"\n").expect("they were gathered so");
            said.extend_from_slice(self.terms.answer(line).as_bytes());
        }
        Message::from(said).into()
    }
}

impl Terms {
    /// The answer to a short command.
    fn answer(&self, line: &[u8]) -> String {
        let list = || match self.list.is_here() {
            true => Ok(&self.list),
            false => Err(says_no_list()),
        };
        let count = |edited: Result<usize, Unedited>| match edited {
            Ok(count) => format!("OK {count}\n"),
            Err(Unedited::Full) => error("too-long", &format!("{PATHS_MAX} paths are on the list")),
            Err(Unedited::NotThere) => error("not-found", "it is not on the list"),
        };
        match Command::parse(line) {
            Ok(Command::Stat(path)) => match self.root().stat(path) {
                Ok(stat) => format!("OK {} {}\n", stat.size, stat.modified.0),
                Err(refused) => says(&refused),
            },
            Ok(Command::Add(path)) => list().map_or_else(|no| no, |list| count(list.add(path))),
            Ok(Command::Del(path)) => list().map_or_else(|no| no, |list| count(list.del(path))),
            Ok(_) => unreachable!("it is a call of its own"),
            Err(Unfit::Unknown) => {
                error("bad-command", "STAT, HASH, GET, ADD or DEL and a path; LIST, CHANGED or QUIT")
            }
            Err(Unfit::Path) => error("bad-command", "a path is not empty, has no NUL, and does not end in a CR"),
            Err(Unfit::TooLong) => says(&Refused::TooLong),
        }
    }
}

impl Call for Asked {
    fn lane(&self) -> Lane {
        Lane::Files
    }

    fn run(self: Box<Self>, _moment: &Moment, is_wanted: &dyn Fn() -> bool) -> Brought {
        let Asked { terms, long } = *self;
        match long {
            Long::Hash(path) => match terms.root().file(&path) {
                Ok((file, stat)) => hash(terms, Hashing::new(file, stat.size), is_wanted),
                Err(refused) => Message::from(says(&refused).into_bytes()).into(),
            },
            Long::Hashing(hashing) => hash(terms, hashing, is_wanted),
            Long::Get(path) => get(terms, &path),
            Long::List { .. } | Long::Changed { .. } if !terms.list.is_here() => {
                Message::from(says_no_list().into_bytes()).into()
            }
            Long::List { after } => tell_list(terms, after),
            Long::Changed { findings, told } => tell_changes(terms, findings, told),
        }
    }
}

/// Hashes more of a file, and says the digest at its end.
fn hash(terms: Arc<Terms>, mut hashing: Box<Hashing>, is_wanted: &dyn Fn() -> bool) -> Brought {
    match hashing.go_on(is_wanted) {
        Ok(true) => Brought::going_on(Box::new(Asked { terms, long: Long::Hashing(hashing) })),
        Ok(false) => Message::from(hashing.finish().into_bytes()).into(),
        Err(error) => Message::from(says(&error.into()).into_bytes()).into(),
    }
}

impl Hashing {
    fn new(file: File, size: u64) -> Box<Hashing> {
        will_read_all(&file);
        Box::new(Hashing { file, size, digest: Digest::new(), hashed: 0 })
    }

    /// As much as others who wait for a thread are to wait for; true if there is more.
    fn go_on(&mut self, is_wanted: &dyn Fn() -> bool) -> io::Result<bool> {
        // A file that grows meanwhile may grow without end: what it was is hashed.
        let end = self.size.min(self.hashed + HASHED_AT_ONCE);
        let mut bytes = vec![0; HASHED_BYTES.min((end - self.hashed) as usize)];
        while self.hashed < end && is_wanted() {
            let left = bytes.len().min((end - self.hashed) as usize);
            match self.file.read_at(&mut bytes[..left], self.hashed) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.digest.update(&bytes[..count]);
                    self.hashed += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.hashed < self.size)
    }

    fn finish(self) -> String {
        format!("OK {} {}\n", hex(&self.digest.finish()), self.hashed)
    }
}

/// The size of a file and its first piece.
fn get(terms: Arc<Terms>, path: &[u8]) -> Brought {
    let (file, size) = match terms.root().file(path) {
        Ok((file, stat)) => (Arc::new(file), stat.size),
        Err(refused) => return Message::from(says(&refused).into_bytes()).into(),
    };
    let head = format!("OK {size}\n");
    let rest = Box::new(Rest { terms, file, from: 0, end: size });
    match rest.piece(head.as_bytes()) {
        // Nothing has been promised yet.
        Err(error) => Message::from(says(&error.into()).into_bytes()).into(),
        Ok(brought) => rest.behind(brought),
    }
}

impl Call for Rest {
    fn lane(&self) -> Lane {
        Lane::Files
    }

    fn run(self: Box<Self>, _moment: &Moment, _is_wanted: &dyn Fn() -> bool) -> Brought {
        self.piece(&[]).map_or_else(|_| Brought::failure(), |brought| self.behind(brought))
    }
}

impl Rest {
    fn piece_bytes(&self) -> usize {
        usize::try_from(self.end - self.from).unwrap_or(usize::MAX).min(self.terms.piece_bytes)
    }

    /// The next piece, behind `head`.
    fn piece(&self, head: &[u8]) -> io::Result<Brought> {
        let bytes = self.piece_bytes();
        if bytes == 0 {
            return Ok(Message::from(head).into());
        }
        match self.terms.sending {
            Sending::File => {
                self.terms.root().bring_in(&self.file, self.from, bytes)?;
                let part = Part { file: Arc::clone(&self.file), from: self.from, bytes };
                Ok(Brought::from(Message::from(head)).with_part(part))
            }
            Sending::Copy => {
                let mut message: Message = std::iter::repeat_n(0, head.len() + bytes).collect();
                let (first, copied) =
                    Arc::get_mut(&mut message).expect("nobody else has it yet").split_at_mut(head.len());
                first.copy_from_slice(head);
                self.file.read_exact_at(copied, self.from)?;
                Ok(message.into())
            }
        }
    }

    /// What was brought, and the call for what is behind it.
    fn behind(mut self: Box<Self>, brought: Brought) -> Brought {
        self.from += self.piece_bytes() as u64;
        if self.from == self.end { brought } else { brought.followed_by(self) }
    }
}

/// The next lines of the list.
fn tell_list(terms: Arc<Terms>, mut after: Option<Name>) -> Brought {
    let mut said = if after.is_none() { b"OK\n".to_vec() } else { Vec::new() };
    let mut is_last = true;
    terms.list.names_behind(after.clone().as_ref(), |name| {
        if said.len() >= TOLD_BYTES {
            is_last = false;
            return false;
        }
        said.extend_from_slice(name);
        said.push(b'\n');
        after = Some(Arc::clone(name));
        true
    });
    tell(said, (!is_last).then(|| Asked { terms, long: Long::List { after } }))
}

/// The next lines of what a sweep has found; at first of the last one that has finished.
fn tell_changes(terms: Arc<Terms>, findings: Option<Arc<Findings>>, mut told: usize) -> Brought {
    let mut said = Vec::new();
    let findings = findings.unwrap_or_else(|| {
        let findings = terms.list.findings();
        said.extend_from_slice(format!("OK {}\n", findings.sweep).as_bytes());
        findings
    });
    while let Some((change, name)) = findings.changes.get(told).filter(|_| said.len() < TOLD_BYTES) {
        said.extend_from_slice(format!("{change} ").as_bytes());
        said.extend_from_slice(name);
        said.push(b'\n');
        told += 1;
    }
    let is_last = told == findings.changes.len();
    let long = Long::Changed { findings: Some(findings), told };
    tell(said, (!is_last).then_some(Asked { terms, long }))
}

/// Lines, and what tells the others; behind the last one is an empty line, which is no path.
fn tell(mut said: Vec<u8>, then: Option<Asked>) -> Brought {
    match then {
        Some(then) => Brought::from(Message::from(said)).followed_by(Box::new(then)),
        None => {
            said.push(b'\n');
            Message::from(said).into()
        }
    }
}

fn says_no_list() -> String {
    error("denied", "the list is shared by sessions of one process, and this engine's are in processes of their own")
}

fn says(refused: &Refused) -> String {
    match refused {
        Refused::NotFound => error("not-found", "nothing is there"),
        Refused::Denied => error("denied", "it may not be read"),
        Refused::Outside => error("outside", "it leads out of the root"),
        Refused::NotAFile => error("not-a-file", "it is no regular file"),
        Refused::TooLong => error("too-long", "the path, or a name in it, is too long"),
        Refused::Busy => error("busy", "too much is open, or moving, at present"),
        Refused::Io(reason) => error("io", &reason.to_string()),
    }
}

fn error(code: &str, text: &str) -> String {
    format!("ERR {code} {text}\n")
}
