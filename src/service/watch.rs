//! `watch`: a value that clients set, read, and hear of when it changes.
//!
//! `SET TEXT` answers `OK VERSION`, `GET` answers `VALUE VERSION TEXT`, `WATCH` answers the same and then once for each
//! change, coalesced to the newest for a client that reads slowly: what it is told is a version later than the last one,
//! and never one of those in between that it had no room for. The value is a [`Cell`]: of this daemon, or in a file that
//! other processes share (`cell=FILE`).
//!
//! Nobody is told *what* has changed: a change is a note to each watcher, and notes that have not been looked at are one.
//! So a slow watcher holds nothing but its own ring. Read next: `cell/mod.rs`; the chapter is `design/watched-value.md`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::{BadParameter, Bounds, Entry};
use crate::cell::{Cell, Set, Text, start_observer};
use crate::error::Error;
use crate::session::audience::Audience;
use crate::session::framing::{Found, Framer, Framing, LINE_BYTES_MAX};
use crate::session::handler::{Call, Chunks, Handler, Lane, Mailing, Moment, Next, Pace, Reply, Sending, Service};
use crate::session::mailbox::{Address, Limits, Mailbox, Message};
use crate::session::part::Brought;

pub(super) const ENTRY: Entry = Entry {
    name: "watch",
    about: "a value: SET TEXT, GET, and WATCH, which tells of every change",
    schemes: &["tcp"],
    default_listeners: &[("tcp", 7030)],
    parameters: &[("cell", "FILE")],
    spared_by_idle_timeout: true,
    repeatable: &[],
    build,
};

/// Enough for the one reply that a session waits for.
const LIMITS: Limits = Limits { bytes: LINE_BYTES_MAX as usize, messages: 1, edge: true };

fn build(parameters: &[(String, String)], _bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    let mut path = None;
    for (key, value) in parameters {
        match value.as_str() {
            "" => return Err(BadParameter { key: key.clone(), expected: "the path of a file".to_owned() }),
            value => path = Some(PathBuf::from(value)),
        }
    }
    let (cell, watchers, is_observed) = (OnceLock::new(), Audience::default(), Mutex::new(false));
    Ok(Arc::new(Watch { watched: Arc::new(Watched { path, cell, watchers, is_observed }) }))
}

struct Watch {
    watched: Arc<Watched>,
}

/// A cell and who watches it.
struct Watched {
    /// The file that it is in, if it is in one.
    path: Option<PathBuf>,
    /// Opened before the first client comes, and by nobody who only checks a configuration.
    cell: OnceLock<Cell>,
    watchers: Audience,
    /// Whether a thread waits for changes of the file. It does while there are watchers.
    is_observed: Mutex<bool>,
}

impl Service for Watch {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn prepare(&self) -> Result<(), String> {
        let cell = match &self.watched.path {
            Some(path) => Cell::open(path).map_err(|reason| reason.to_string())?,
            None => Cell::anonymous(),
        };
        // Whoever prepares twice goes on with the first.
        let _ = self.watched.cell.set(cell);
        Ok(())
    }

    fn meets_in_memory(&self) -> bool {
        self.watched.path.is_none()
    }

    fn mailbox(&self) -> Option<Mailing> {
        Some(Mailing { limits: LIMITS, calls: 1, sending: Sending::Vectored })
    }

    fn open(&self, address: Option<&Address>) -> Box<dyn Handler> {
        let address = Address::clone(address.expect("it was asked for"));
        Box::new(Client {
            watched: Arc::clone(&self.watched),
            address,
            framer: Framer::new(Framing::Line { most: LINE_BYTES_MAX }),
            told: None,
            saying: Vec::new(),
        })
    }

    fn pace(&self) -> Pace {
        Pace::Brief
    }

    fn has_jobs(&self) -> bool {
        true
    }
}

impl Watched {
    fn cell(&self) -> &Cell {
        self.cell.get().expect("it was prepared")
    }

    /// What whoever set a text is answered.
    fn answer(&self, set: Result<Set, Error>) -> Vec<u8> {
        match set {
            Ok(set) => {
                // Changes of a file are all seen by the observer, whoever made them.
                if set.changed && self.path.is_none() {
                    self.note_all();
                }
                format!("OK {}\n", set.version).into()
            }
            Err(reason) => error("io", &reason.to_string()),
        }
    }

    fn note_all(&self) {
        self.watchers.all().iter().for_each(|address| Mailbox::note(address));
    }

    /// A client is to hear of every change that comes after those that it can read by now.
    fn enter(self: &Arc<Watched>, address: &Address) -> Result<(), String> {
        self.watchers.enter(address);
        if self.path.is_none() {
            return Ok(());
        }
        let mut is_observed = self.is_observed.lock().expect("no thread panics while it holds this lock");
        if *is_observed {
            return Ok(());
        }
        let mut seen = self.cell().version().map_err(|reason| reason.to_string())?;
        let watched = Arc::downgrade(self);
        start_observer(move |wait| watched.upgrade().is_some_and(|watched| watched.observe(&mut seen, wait)))
            .map_err(|reason| format!("cannot start a thread that watches: {reason}"))?;
        *is_observed = true;
        Ok(())
    }

    /// Waits for a change and tells the watchers. False when there are none, or the cell can be watched no more.
    fn observe(&self, seen: &mut u64, wait: Duration) -> bool {
        let changed = self.cell().wait(*seen, Some(wait));
        let can_go_on = changed.is_ok();
        if let Ok(Some(version)) = changed {
            *seen = version;
        }
        if !matches!(changed, Ok(None)) {
            self.note_all();
        }
        let mut is_observed = self.is_observed.lock().expect("no thread panics while it holds this lock");
        *is_observed = can_go_on && !self.watchers.all().is_empty();
        *is_observed
    }
}

/// One client.
struct Client {
    watched: Arc<Watched>,
    address: Address,
    framer: Framer,
    /// The version that it was told last, if it watches.
    told: Option<u64>,
    /// What is left of a line for which there was no room.
    saying: Vec<u8>,
}

impl Client {
    /// Carries out a command.
    fn obey(&mut self, line: &[u8], reply: &mut Reply<'_>) {
        match line {
            b"GET" => self.saying = self.value().1,
            b"WATCH" => self.watch(),
            [b'S', b'E', b'T', b' ', text @ ..] => self.set(text, reply),
            b"SET" => self.set(b"", reply),
            _ => self.saying = error("bad-command", "SET TEXT, GET or WATCH"),
        }
    }

    fn set(&mut self, bytes: &[u8], reply: &mut Reply<'_>) {
        let text = match Text::new(bytes) {
            Ok(text) => text,
            Err(unfit) => return self.saying = error("too-long", &format!("the text {unfit}")),
        };
        match self.watched.cell().try_set(text).transpose() {
            Some(set) => self.saying = self.watched.answer(set),
            // Another process is at it, and may have been stopped: that is for a thread that nobody waits for.
            None => reply.call(Box::new(SetAside { watched: Arc::clone(&self.watched), text: bytes.to_vec() })),
        }
    }

    fn watch(&mut self) {
        if self.told.is_none()
            && let Err(reason) = self.watched.enter(&self.address)
        {
            self.watched.watchers.leave(&self.address);
            return self.saying = error("io", &reason);
        }
        // From here on it is among the watchers, whatever comes of it.
        self.told.get_or_insert(0);
        let (version, line) = self.value();
        self.saying = line;
        match version {
            Some(version) => self.told = Some(version),
            // There is nothing to watch any more.
            None => self.end_watch(),
        }
    }

    /// The present value as a line, and its version, if it can be read.
    fn value(&self) -> (Option<u64>, Vec<u8>) {
        match self.watched.cell().read() {
            Ok((version, text)) => {
                let mut line = format!("VALUE {version} ").into_bytes();
                line.extend_from_slice(&text);
                line.push(b'\n');
                (Some(version), line)
            }
            Err(reason) => (None, error("io", &reason.to_string())),
        }
    }

    /// Says what there is room for of what is to be said, and then what is new to one who watches.
    fn speak(&mut self, reply: &mut Reply<'_>) -> Next {
        loop {
            let now = self.saying.len().min(reply.room());
            if now > 0 && reply.put(&self.saying[..now]) {
                self.saying.drain(..now);
            }
            if !self.saying.is_empty() {
                return Next::Room;
            }
            let Some(told) = self.told else { return Next::More };
            if self.watched.cell().version().is_ok_and(|version| version <= told) {
                return Next::More;
            }
            self.watch();
        }
    }

    fn end_watch(&mut self) {
        if self.told.take().is_some() {
            self.watched.watchers.leave(&self.address);
        }
    }
}

impl Handler for Client {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        match self.framer.find(input) {
            // What was said before leaves first; the line is shown again then.
            Found::Frame { .. } if !self.saying.is_empty() && self.speak(reply) == Next::Room => Next::Room,
            Found::Frame { body, bytes } => {
                let (first, second) = body.slices();
                match second {
                    [] => self.obey(first, reply),
                    second => self.obey(&[first, second].concat(), reply),
                }
                if self.speak(reply) == Next::Room {
                    // The answer is about the line; for what has found no room it asks itself to go on.
                    Mailbox::note(&self.address);
                }
                Next::Discard(bytes)
            }
            Found::Part { bytes } => Next::Gather(bytes),
            Found::More => Next::More,
            Found::TooShort | Found::TooLong => Next::Reject("the line is longer than 8 KiB"),
        }
    }

    fn handle_note(&mut self, reply: &mut Reply<'_>) -> Next {
        self.speak(reply)
    }

    fn handle_room(&mut self, reply: &mut Reply<'_>) -> Next {
        self.speak(reply)
    }

    fn handle_end(&mut self, _rest: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        match self.speak(reply) {
            Next::Room => Next::Room,
            _ => Next::Finish { forward: 0 },
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end_watch();
    }
}

/// A text that waits for another process to be done with the cell.
struct SetAside {
    watched: Arc<Watched>,
    text: Vec<u8>,
}

impl Call for SetAside {
    fn lane(&self) -> Lane {
        Lane::Cpu
    }

    fn bytes(&self) -> usize {
        self.text.len()
    }

    fn run(self: Box<Self>, _moment: &Moment, _is_wanted: &dyn Fn() -> bool) -> Brought {
        let text = Text::new(&self.text).expect("it was taken as one");
        Message::from(self.watched.answer(self.watched.cell().set(text))).into()
    }
}

fn error(code: &str, text: &str) -> Vec<u8> {
    format!("ERR {code} {text}\n").into()
}
