//! `chat`: what one session says goes to every other session of its room.
//!
//! A message is copied once, out of the sender's ring into a reference-counted buffer that all recipients share; the last
//! of them frees it. The sender posts to their mailboxes and never touches their sockets, so that one which takes nothing
//! delays nobody: its mailbox fills, and then it is evicted, or misses messages, as the listener says. What one session says
//! reaches each of the others in the order in which it was said.
//!
//! A room is a listener's own, or shared by all listeners of the process that name it. Read next: `session/mailbox.rs`; the
//! chapter is `design/broadcast.md`.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, Weak};

use super::{BadParameter, Bounds, Entry};
use crate::session::audience::Audience;
use crate::session::framing::{Found, Framer, Framing, LINE_BYTES_MAX};
use crate::session::handler::{Chunks, Handler, Mailing, Next, Pace, Reply, Sending, Service};
use crate::session::mailbox::{Address, Limits, MAILBOX_BYTES, Mailbox, Message, message_of, post_to_all};
use crate::units::parse_size;

pub(super) const ENTRY: Entry = Entry {
    name: "chat",
    about: "what one client says goes to every other client of the room",
    schemes: &["tcp"],
    default_listeners: &[("tcp", 7010)],
    parameters: &[
        ("framing", "length|line"),
        ("room", "NAME"),
        ("mailbox", "SIZE"),
        ("slow", "evict|drop"),
        ("send", "vectored|mmsg"),
        ("posts", "edge|each"),
    ],
    spared_by_idle_timeout: true,
    repeatable: &[],
    build,
};

fn build(parameters: &[(String, String)], bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    let mut framing = Framing::Length { least: 0, most: u32::try_from(bounds.max_frame_bytes).unwrap_or(u32::MAX) };
    let (mut mailbox_bytes, mut edge) = (MAILBOX_BYTES, true);
    let (mut slow, mut sending, mut name) = (Slow::Evict, Sending::Vectored, None);
    for (key, value) in parameters {
        let bad = |expected: &str| Err(BadParameter { key: key.clone(), expected: expected.to_owned() });
        match (key.as_str(), value.as_str()) {
            ("framing", "length") => {}
            ("framing", "line") => framing = Framing::Line { most: LINE_BYTES_MAX },
            ("framing", _) => return bad("length or line"),
            ("room", "") => return bad("the name of a room"),
            ("room", value) => name = Some(value.to_owned()),
            ("mailbox", value) => match parse_size(value) {
                Ok(bytes @ 1..) => mailbox_bytes = bytes,
                _ => return bad("a size from 1, as in 64KiB or 1MiB"),
            },
            ("slow", "evict") => slow = Slow::Evict,
            ("slow", "drop") => slow = Slow::Drop,
            ("slow", _) => return bad("evict or drop"),
            ("send", "vectored") => sending = Sending::Vectored,
            ("send", "mmsg") => sending = Sending::Each,
            ("send", _) => return bad("vectored or mmsg"),
            ("posts", "edge") => edge = true,
            ("posts", "each") => edge = false,
            ("posts", _) => return bad("edge or each"),
            _ => unreachable!("the registry lets only these through"),
        }
    }
    let limits = Limits { edge, ..Limits::of(mailbox_bytes) };
    let is_named = name.is_some();
    let room = match name {
        None => Arc::new(Room::new(framing)),
        Some(name) => Room::named(&name, framing).ok_or_else(|| BadParameter {
            key: "room".to_owned(),
            expected: "the name of a room that is not framed otherwise already".to_owned(),
        })?,
    };
    Ok(Arc::new(Chat { room, is_named, framing, slow, mailing: Mailing { limits, calls: 1, sending } }))
}

/// What becomes of a client that takes too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slow {
    Evict,
    /// It misses the messages for which there is no room.
    Drop,
}

struct Chat {
    room: Arc<Room>,
    /// By which others find it; if not, it is the listener's own.
    is_named: bool,
    framing: Framing,
    slow: Slow,
    mailing: Mailing,
}

impl Service for Chat {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn mailbox(&self) -> Option<Mailing> {
        Some(self.mailing)
    }

    fn open(&self, address: Option<&Address>) -> Box<dyn Handler> {
        let address = Address::clone(address.expect("it was asked for"));
        self.room.members.enter(&address);
        let (room, slow) = (Arc::clone(&self.room), self.slow);
        Box::new(Member { room, address, slow, framing: self.framing, framer: Framer::new(self.framing) })
    }

    /// Goes on with the listener's own room, unless its members frame otherwise.
    fn succeed(&self, old: &Arc<dyn Service>) -> Option<Arc<dyn Service>> {
        let old = (&**old as &dyn Any).downcast_ref::<Chat>()?;
        let are_alike = !self.is_named && !old.is_named && self.framing == old.framing;
        are_alike.then(|| Arc::new(Chat { room: Arc::clone(&old.room), ..*self }) as Arc<dyn Service>)
    }

    fn pace(&self) -> Pace {
        Pace::Brief
    }

    fn has_jobs(&self) -> bool {
        true
    }

    fn meets_in_memory(&self) -> bool {
        true
    }
}

/// Who hears each other.
struct Room {
    framing: Framing,
    members: Audience,
}

/// Rooms by name, as long as a listener or a client is in one.
static NAMED: LazyLock<Mutex<HashMap<String, Weak<Room>>>> = LazyLock::new(Mutex::default);

impl Room {
    fn new(framing: Framing) -> Room {
        Room { framing, members: Audience::default() }
    }

    /// The room of this name, unless its members frame otherwise.
    fn named(name: &str, framing: Framing) -> Option<Arc<Room>> {
        let mut named = NAMED.lock().expect("no thread panics while it holds this lock");
        named.retain(|_, room| room.strong_count() > 0);
        if let Some(room) = named.get(name).and_then(Weak::upgrade) {
            return (room.framing == framing).then_some(room);
        }
        let room = Arc::new(Room::new(framing));
        named.insert(name.to_owned(), Arc::downgrade(&room));
        Some(room)
    }
}

/// One client in a room.
struct Member {
    room: Arc<Room>,
    address: Address,
    slow: Slow,
    framing: Framing,
    framer: Framer,
}

impl Member {
    fn say(&self, body: Chunks<'_>, reply: &Reply<'_>) {
        let message = framed(self.framing, body);
        let handle_full = |address: &Address| match self.slow {
            Slow::Evict => Mailbox::evict(address),
            Slow::Drop => {}
        };
        post_to_all(&self.room.members.all(), Some(&self.address), &message, reply.parallel(), &handle_full);
    }
}

impl Handler for Member {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        match self.framer.find(input) {
            Found::Frame { body, bytes } => {
                self.say(body, reply);
                Next::Discard(bytes)
            }
            Found::Part { bytes } => Next::Gather(bytes),
            Found::More => Next::More,
            Found::TooShort => unreachable!("an empty message is one"),
            Found::TooLong => Next::Reject("the message is longer than is allowed"),
        }
    }

    /// A last line that nobody ended is one all the same.
    fn handle_end(&mut self, rest: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        if matches!(self.framing, Framing::Line { .. }) && !rest.is_empty() {
            self.say(rest, reply);
        }
        Next::Finish { forward: 0 }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.room.members.leave(&self.address);
    }
}

/// The message as it goes to everybody else.
fn framed(framing: Framing, body: Chunks<'_>) -> Message {
    let (first, second) = body.slices();
    match framing {
        Framing::Length { .. } => {
            let length = u32::try_from(body.len()).expect("a frame says its length in 32 bits").to_be_bytes();
            message_of(&[&length, first, second])
        }
        _ => message_of(&[first, second, b"\n"]),
    }
}
