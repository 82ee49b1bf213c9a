//! `files`: looks at, hashes and sends files below one folder, and watches a list of them.
//!
//! The handler only tells commands apart. All that may wait for a disk is done by calls for the pool for files
//! ([`Lane::Files`](crate::session::handler::Lane::Files)), never by a worker. One call of a session is in flight at a time:
//! so answers come in the order of the commands, and a session whose call waits for a place in the pool is not read
//! meanwhile. What is cheap goes many commands to a call ([`BATCH`]); what is not is a call of its own, so that the answers
//! before it do not wait for it.
//!
//! Read next: `files/command.rs` for what clients say, `files/answer.rs` for what they hear; the chapter is
//! `design/files.md`.

mod answer;
mod command;
mod list;

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::answer::{Asked, Lines, Long};
pub use self::command::{Command, Unfit};
use self::list::List;
use super::{BadParameter, Bounds, Entry};
use crate::net::files::Root;
use crate::session::framing::{Found, Framer, Framing, LINE_BYTES_MAX};
use crate::session::handler::{self, Chunks, Handler, Mailing, Next, Pace, Reply, Service, Sweep};
use crate::session::mailbox::{Address, Limits};
use crate::units::{parse_duration, parse_size};

pub(super) const ENTRY: Entry = Entry {
    name: "files",
    about: "STAT, HASH and GET of files below a folder, and a list of files that is swept for changes",
    schemes: &["tcp"],
    default_listeners: &[],
    parameters: &[("root", "DIR"), ("sweep", "DURATION"), ("send", "sendfile|copy"), ("piece", "SIZE")],
    spared_by_idle_timeout: false,
    repeatable: &[],
    build,
};

/// Short commands that one call answers: few enough that a disk which must be asked for each holds up nobody for long, and
/// enough that what a call costs is little beside them. Guess.
const BATCH: usize = 128;

/// How often the list is swept unless `sweep` says otherwise.
const SWEEP: Duration = Duration::from_secs(10);
const SWEEP_MIN: Duration = Duration::from_millis(10);
const SWEEP_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of a file that are brought into memory at a time. Held by nobody but the kernel; large enough that what it costs to
/// hand a piece on is little beside what it costs to send it. Guess.
const PART_BYTES: usize = 4 << 20;

/// The same where they are copied: each session that sends holds two of these.
const COPY_BYTES: usize = 256 << 10;

const PIECE_MIN: usize = 4 << 10;
const PIECE_MAX: usize = 64 << 20;

/// Enough for the one call that a session makes at a time.
const LIMITS: Limits = Limits { bytes: LINE_BYTES_MAX as usize, messages: 1, edge: true };

fn build(parameters: &[(String, String)], _bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    let (mut path, mut sweep, mut sending, mut piece_bytes) = (None, SWEEP, Sending::File, None);
    for (key, value) in parameters {
        let bad = |expected: &str| Err(BadParameter { key: key.clone(), expected: expected.to_owned() });
        match (key.as_str(), value.as_str()) {
            ("root", "") => return bad("the path of a folder"),
            ("root", value) => path = Some(PathBuf::from(value)),
            ("sweep", value) => match parse_duration(value) {
                Ok(every) if (SWEEP_MIN..=SWEEP_MAX).contains(&every) => sweep = every,
                _ => return bad("a duration from 10ms to 24h, as in 10s"),
            },
            ("send", "sendfile") => sending = Sending::File,
            ("send", "copy") => sending = Sending::Copy,
            ("send", _) => return bad("sendfile or copy"),
            ("piece", value) => match parse_size(value) {
                Ok(bytes) if (PIECE_MIN..=PIECE_MAX).contains(&bytes) => piece_bytes = Some(bytes),
                _ => return bad("a size from 4KiB to 64MiB, as in 1MiB"),
            },
            _ => unreachable!("the registry lets only these through"),
        }
    }
    let Some(path) = path else {
        let expected = "the folder whose files are given, as in files=tcp://127.0.0.1:7040?root=/srv/files";
        return Err(BadParameter { key: "root".to_owned(), expected: expected.to_owned() });
    };
    let piece_bytes = piece_bytes.unwrap_or(match sending {
        Sending::File => PART_BYTES,
        Sending::Copy => COPY_BYTES,
    });
    let list = Arc::new(List::new(sweep));
    let terms = Terms { path, root: OnceLock::new(), list, sending, piece_bytes };
    Ok(Arc::new(Files { terms: Arc::new(terms), sweep }))
}

/// How bytes of a file come to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// From where the kernel has them.
    File,
    /// By way of a message, for comparison.
    Copy,
}

struct Files {
    terms: Arc<Terms>,
    sweep: Duration,
}

/// What all clients of a listener share.
struct Terms {
    path: PathBuf,
    /// Opened before the first client comes, and by nobody who only checks a configuration.
    root: OnceLock<Arc<Root>>,
    list: Arc<List>,
    sending: Sending,
    piece_bytes: usize,
}

impl Terms {
    fn root(&self) -> &Root {
        self.root.get().expect("it was prepared")
    }
}

impl Service for Files {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn prepare(&self) -> Result<(), String> {
        let path = &self.terms.path;
        let root = Root::open(path).map_err(|reason| format!("root={}: {reason}", path.display()))?;
        // Whoever prepares twice goes on with the first.
        let root = self.terms.root.get_or_init(|| Arc::new(root));
        self.terms.list.begin(root);
        Ok(())
    }

    /// Goes on with the list of the same folder.
    fn succeed(&self, old: &Arc<dyn Service>) -> Option<Arc<dyn Service>> {
        let old = (&**old as &dyn Any).downcast_ref::<Files>()?;
        let Terms { path, root, sending, piece_bytes, .. } = &*self.terms;
        if *path != old.terms.path {
            return None;
        }
        let list = Arc::clone(&old.terms.list);
        list.go_on(root.get().expect("it was prepared"), self.sweep);
        let terms =
            Terms { path: path.clone(), root: root.clone(), list, sending: *sending, piece_bytes: *piece_bytes };
        Some(Arc::new(Files { terms: Arc::new(terms), sweep: self.sweep }))
    }

    fn mailbox(&self) -> Option<Mailing> {
        Some(Mailing { limits: LIMITS, calls: 1, sending: handler::Sending::Vectored })
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        let framer = Framer::new(Framing::Line { most: LINE_BYTES_MAX });
        Box::new(Client { terms: Arc::clone(&self.terms), framer })
    }

    fn pace(&self) -> Pace {
        Pace::Calls
    }

    fn has_file_jobs(&self) -> bool {
        true
    }

    fn sweep(&self) -> Option<Arc<dyn Sweep>> {
        Some(Arc::clone(&self.terms.list) as Arc<dyn Sweep>)
    }
}

/// One client.
struct Client {
    terms: Arc<Terms>,
    framer: Framer,
}

impl Handler for Client {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        let (mut lines, mut count, mut taken) = (Vec::new(), 0, 0);
        let next = loop {
            let rest = input.range(taken..input.len());
            let (body, bytes) = match self.framer.find(rest) {
                Found::Frame { body, bytes } => (body, bytes),
                Found::Part { .. } | Found::More => break Next::More,
                Found::TooShort | Found::TooLong => break Next::Reject("the line is longer than 8 KiB"),
            };
            let start = lines.len();
            lines.resize(start + body.len(), 0);
            body.copy_to(&mut lines[start..]);
            let command = Command::parse(&lines[start..]);
            if command.is_err() || command.is_ok_and(|command| command.is_short()) {
                lines.push(b'\n');
                (count, taken) = (count + 1, taken + bytes);
                if count == BATCH {
                    break Next::More;
                }
                continue;
            }
            let long = command.ok().and_then(|command| Long::of(&command));
            lines.truncate(start);
            break match long {
                // What was said before it is answered first; then it is found again.
                _ if count > 0 => Next::More,
                Some(long) => {
                    reply.call(Box::new(Asked { terms: Arc::clone(&self.terms), long }));
                    Next::Discard(bytes)
                }
                None => Next::Finish { forward: 0 },
            };
        };
        if count == 0 {
            return next;
        }
        reply.call(Box::new(Lines { terms: Arc::clone(&self.terms), lines }));
        Next::Discard(taken)
    }
}
