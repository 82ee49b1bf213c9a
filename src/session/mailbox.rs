//! [`Mailbox`]: where other threads leave messages for a session, with one call to its engine however many they are.
//!
//! A message is reference-counted bytes, so that one buffer serves all who are to get it; the last of them frees it. A
//! poster never touches the session, nor its socket: it adds to the mailbox, and if nobody has been told since the session
//! last emptied it, it tells the engine ([`Rouse`]), which schedules a turn. The session's owner takes all there is.
//!
//! Invariants:
//! - *told-once-per-edge*: between two times that the session empties its mailbox, the engine is told once, by whoever
//!   posted first; not by the session's own handler, behind whose calls the turn looks again.
//! - *no-lost-post*: a post is taken by the turn that was asked for after it, or by an earlier one. Both the post and the
//!   flag that somebody was told change under one lock.
//! - *bounded*: messages that were posted and have not left, in the mailbox or with the session, are at most as many, and
//!   as many bytes, as [`Limits`] says; one message more is refused. Replies to the session's own calls are not refused:
//!   what is bounded is the calls, and each is one until its reply has left (`mail.rs`).
//!
//! `loom_models` below check the first two together with the state word. The chapter is `design/posting-less.md`. Read
//! next: `mail.rs`, which takes what has come.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::ptr;
use std::sync::Arc;

use super::handler::{Closed, Parallel};
use super::mail::{Backlog, Letter};
use super::part::Brought;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes that any number of sessions may be sent.
pub type Message = Arc<[u8]>;

/// A message of these parts, one behind the other.
pub fn message_of(parts: &[&[u8]]) -> Message {
    let bytes = parts.iter().map(|part| part.len()).sum();
    let mut message: Message = std::iter::repeat_n(0, bytes).collect();
    let mut left = Arc::get_mut(&mut message).expect("nobody else has it yet");
    for part in parts {
        let (now, later) = left.split_at_mut(part.len());
        now.copy_from_slice(part);
        left = later;
    }
    message
}

/// Where a session is reached by others, as long as they like; posts to one that has ended are [`Posted::Gone`].
pub type Address = Arc<Mailbox>;

/// Tells an engine that a session of its has mail.
pub trait Rouse: Send + Sync {
    /// Has the session of this key take a turn soon. Any thread; does not wait.
    fn rouse(&self, key: u64);
}

/// How much may wait for one session, and how its engine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all messages that have not left.
    pub bytes: usize,
    /// Messages that have not left.
    pub messages: usize,
    /// Whether only the first post to an empty mailbox tells the engine; if not, every post does, for comparison.
    pub edge: bool,
}

/// Bytes that may wait for one session when nobody says how many. As much as some thousand lines, and more than a peer on a
/// slow network takes in the second in which it is behind. Guess.
pub const MAILBOX_BYTES: usize = 1 << 20;

/// Messages that may wait, for each kibibyte of the mailbox: a message costs memory beside its bytes.
const MESSAGES_PER_KIB: usize = 64;

impl Limits {
    /// For messages of so many bytes together, and their number in proportion.
    pub fn of(bytes: usize) -> Limits {
        Limits { bytes, messages: bytes.div_ceil(1 << 10).saturating_mul(MESSAGES_PER_KIB), edge: true }
    }
}

thread_local! {
    /// The mailbox of the session whose handler this thread calls; only ever compared.
    static AT_HOME: Cell<*const Mailbox> = const { Cell::new(ptr::null()) };
}

/// While it is there, this thread calls the handler of that mailbox's session.
pub(super) struct AtHome;

impl Drop for AtHome {
    fn drop(&mut self) {
        AT_HOME.set(ptr::null());
    }
}

/// What became of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Posted {
    /// It will be sent, unless the session ends before.
    Taken,
    /// As much waits as may.
    Full,
    /// The session has ended, or says nothing any more.
    Gone,
}

/// The mailbox of one session.
pub struct Mailbox {
    key: u64,
    rouse: Arc<dyn Rouse>,
    limits: Limits,
    inner: Mutex<Inner>,
    /// Something has come since the session last took all there was. Written under the lock; read by the session without it,
    /// since what it misses it is told of.
    has_news: AtomicBool,
    /// Of messages that were posted and have not left. Raised by posters under the lock, lowered by the session's owner.
    held_bytes: AtomicUsize,
    held_messages: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    letters: VecDeque<Letter>,
    news: News,
    /// The engine was told since the mailbox was last emptied.
    is_told: bool,
    /// Nothing is taken from others any more.
    is_closed: bool,
    /// The session has ended.
    is_over: bool,
}

/// What has come besides messages since the mailbox was last emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Calls of the session that have ended and have nothing to say, and the bytes that they took up.
    pub(super) silent_calls: u32,
    pub(super) silent_bytes: usize,
    /// Somebody asks the handler to look for itself.
    pub(super) noted: bool,
    /// A call of the session has failed, and the session ends like this.
    pub(super) failed: Option<Closed>,
    /// The session is to end, since it takes too little of what it is sent.
    pub(super) evicted: bool,
    /// Messages of others, taken and refused, and how often the engine was told.
    pub(super) posts: u64,
    pub(super) refused: u64,
    pub(super) wakes: u64,
}

impl Mailbox {
    /// The mailbox of the session that the engine behind `rouse` knows by `key`.
    pub fn new(limits: Limits, rouse: Arc<dyn Rouse>, key: u64) -> Address {
        Arc::new(Mailbox {
            key,
            rouse,
            limits,
            inner: Mutex::default(),
            has_news: AtomicBool::new(false),
            held_bytes: AtomicUsize::new(0),
            held_messages: AtomicUsize::new(0),
        })
    }

    /// Leaves a message, to be sent as it is. Any thread; does not wait.
    pub fn post(&self, message: Message) -> Posted {
        let mut inner = self.lock();
        if inner.is_closed {
            return Posted::Gone;
        }
        // Only lowered meanwhile.
        let bytes = self.held_bytes.load(Ordering::Relaxed).saturating_add(message.len());
        let messages = self.held_messages.load(Ordering::Relaxed) + 1;
        if bytes > self.limits.bytes || messages > self.limits.messages {
            inner.news.refused += 1;
            return Posted::Full;
        }
        inner.news.posts += 1;
        let must_tell = self.put(&mut inner, Letter { message, part: None, then: None, of_call: None });
        drop(inner);
        self.tell_if(must_tell);
        Posted::Taken
    }

    /// Asks the session's handler to look for itself ([`handle_note`](super::handler::Handler::handle_note)); once, however
    /// often it is asked before it does. Any thread; does not wait.
    pub fn note(&self) {
        self.add_news(|news| news.noted = true);
    }

    /// Ends the session, which takes too little of what it is sent. Any thread; does not wait.
    pub fn evict(&self) {
        self.add_news(|news| news.evicted = true);
    }

    /// Whether half of what may wait does. Whoever says no more to a session as long as this is so is not refused for what it
    /// has said itself.
    pub fn is_half_full(&self) -> bool {
        let Limits { bytes, messages, .. } = self.limits;
        let (held_bytes, held_messages) = (&self.held_bytes, &self.held_messages);
        held_bytes.load(Ordering::Relaxed) > bytes / 2 || held_messages.load(Ordering::Relaxed) > messages / 2
    }

    /// Leaves the reply to a call that takes up so many bytes ([`Call::bytes`](super::handler::Call::bytes)). True if the
    /// engine, which runs the calls, must see to it that the session has a turn.
    #[must_use]
    pub fn reply(&self, brought: Brought, call_bytes: usize) -> bool {
        if let Some(closed) = brought.closed() {
            return self.fail(closed);
        }
        assert!(
            brought.then.is_none() || !brought.is_empty(),
            "next-while-this-is-sent: a call that goes on has no reply yet"
        );
        let Brought { message, part, then, .. } = brought;
        self.put(&mut self.lock(), Letter { message, part, then, of_call: Some(call_bytes) })
    }

    /// Says that a call has failed, and how the session ends; otherwise like [`reply`](Self::reply).
    #[must_use]
    pub(crate) fn fail(&self, closed: Closed) -> bool {
        let mut inner = self.lock();
        inner.news.failed = Some(closed);
        self.mark_told(&mut inner)
    }

    /// Whether the session has ended, so that nobody would hear a reply.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// The session's key.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Has the session take a turn.
    pub(crate) fn tell(&self) {
        self.rouse.rouse(self.key);
    }

    /// From now on the handler of the session is called, by this thread: what it leaves here itself is taken before the turn
    /// ends, and the engine need not be told.
    pub(super) fn at_home(&self) -> AtHome {
        AT_HOME.set(self);
        AtHome
    }

    /// Moves all that has come behind `backlog`; for the session's owner.
    pub(super) fn take(&self, backlog: &mut Backlog) -> News {
        let mut inner = self.lock();
        inner.is_told = false;
        self.has_news.store(false, Ordering::Relaxed);
        backlog.append(&mut inner.letters);
        std::mem::take(&mut inner.news)
    }

    /// Whether something has come that the session has not taken. What was posted before is seen: by whoever posted it, and
    /// by whoever that has told of it in any way.
    pub(super) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Relaxed)
    }

    /// A message has been sent whole.
    pub(super) fn note_sent(&self, message: &Message) {
        self.held_bytes.fetch_sub(message.len(), Ordering::Relaxed);
        self.held_messages.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes nothing more from others: all has been said.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
    }

    /// Takes nothing at all any more: the session is over.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        (inner.is_closed, inner.is_over) = (true, true);
        inner.letters = VecDeque::new();
    }

    fn add_news(&self, add: impl FnOnce(&mut News)) {
        let mut inner = self.lock();
        if inner.is_closed {
            return;
        }
        add(&mut inner.news);
        let must_tell = self.mark_told(&mut inner);
        drop(inner);
        self.tell_if(must_tell);
    }

    fn put(&self, inner: &mut Inner, letter: Letter) -> bool {
        if letter.message.is_empty() && letter.part.is_none() {
            // Nothing is sent by a write of nothing.
            inner.news.silent_calls += u32::from(letter.of_call.is_some());
            inner.news.silent_bytes += letter.of_call.unwrap_or(0);
        } else {
            self.held_bytes.fetch_add(letter.message.len(), Ordering::Relaxed);
            self.held_messages.fetch_add(1, Ordering::Relaxed);
            inner.letters.push_back(letter);
        }
        self.mark_told(inner)
    }

    /// Whether the engine is to be told now.
    fn mark_told(&self, inner: &mut Inner) -> bool {
        self.has_news.store(true, Ordering::Relaxed);
        if ptr::eq(AT_HOME.get(), self) {
            return false;
        }
        let was_told = std::mem::replace(&mut inner.is_told, true);
        let must_tell = !was_told || !self.limits.edge;
        inner.news.wakes += u64::from(must_tell);
        must_tell
    }

    fn tell_if(&self, must_tell: bool) {
        if must_tell {
            self.tell();
        }
    }

    fn lock(&self) -> crate::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread panics while it holds this lock")
    }
}

/// Addresses for which one part is not worth being done beside others: some hundred microseconds of posts, which is more than
/// it costs to wake a thread for them. Guess; see `design/broadcast.md`.
const PART: usize = 2_048;

/// Leaves one message for all of these but `except`; side by side if there are many and `parallel` is given. Returns when all
/// have it, so that whoever sends several keeps their order. `handle_full` is told who had no room.
pub fn post_to_all(
    addresses: &[Address],
    except: Option<&Address>,
    message: &Message,
    parallel: Option<&dyn Parallel>,
    handle_full: &(dyn Fn(&Address) + Sync),
) {
    let post = |part: &[Address]| {
        for address in part {
            let is_meant = except.is_none_or(|except| !Arc::ptr_eq(address, except));
            if is_meant && address.post(Message::clone(message)) == Posted::Full {
                handle_full(address);
            }
        }
    };
    match parallel {
        Some(parallel) if addresses.len() >= 2 * PART && parallel.width() > 1 => {
            let parts: Vec<&[Address]> = addresses.chunks(PART).collect();
            parallel.for_each_part(parts.len(), &|part| post(parts[part]));
        }
        _ => post(addresses),
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mailbox").field("key", &self.key).field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

/// Posters and an owner around one session's word and mailbox: every post is taken, and none is taken by nobody.
#[cfg(all(test, loom))]
mod loom_models {
    use super::super::state::{Reasons, Released, Scheduled, StateWord};
    use super::*;
    use crate::sync::{model, thread};

    const GENERATION: u32 = 1;

    /// The session's word, and whether its key is in the queue.
    struct Engine {
        word: StateWord,
        queued: Mutex<bool>,
    }

    impl Engine {
        fn mailbox(edge: bool) -> (Arc<Engine>, Address) {
            let word = StateWord::vacant(GENERATION);
            word.open(GENERATION);
            let engine = Arc::new(Engine { word, queued: Mutex::new(false) });
            let limits = Limits { bytes: 100, messages: 100, edge };
            let mailbox = Mailbox::new(limits, Arc::clone(&engine) as Arc<dyn Rouse>, 0);
            (engine, mailbox)
        }

        fn put(&self) {
            assert!(!std::mem::replace(&mut *self.queued.lock().unwrap(), true), "queued-once");
        }

        /// Turns as long as the key is in the queue; what they took.
        fn serve(&self, mailbox: &Mailbox, backlog: &mut Backlog) -> u64 {
            let mut wakes = 0;
            while std::mem::take(&mut *self.queued.lock().unwrap()) {
                let reasons = self.word.claim(GENERATION);
                if reasons.intersects(Reasons::POSTED) {
                    wakes += mailbox.take(backlog).wakes;
                }
                if self.word.release(GENERATION) == Released::Again {
                    self.put();
                }
            }
            wakes
        }
    }

    impl Rouse for Engine {
        fn rouse(&self, _key: u64) {
            if self.word.schedule(GENERATION, Reasons::POSTED) == Scheduled::Enqueue {
                self.put();
            }
        }
    }

    fn post(mailbox: &Address, text: &'static str) -> thread::JoinHandle<()> {
        let mailbox = Address::clone(mailbox);
        thread::spawn(move || assert_eq!(mailbox.post(Message::from(text.as_bytes())), Posted::Taken))
    }

    #[test]
    fn loom_every_post_is_taken() {
        for edge in [true, false] {
            model(move || {
                let (engine, mailbox) = Engine::mailbox(edge);
                let posters = [post(&mailbox, "a"), post(&mailbox, "b")];
                let mut backlog = Backlog::default();
                let mut wakes = engine.serve(&mailbox, &mut backlog);
                posters.into_iter().for_each(|poster| poster.join().unwrap());
                wakes += engine.serve(&mailbox, &mut backlog);
                assert_eq!(backlog.len(), 2, "no-lost-post");
                assert!((1..=2).contains(&wakes), "told-once-per-edge");
            });
        }
    }

    #[test]
    fn loom_posts_while_the_session_ends_are_gone_or_dropped() {
        model(|| {
            let (engine, mailbox) = Engine::mailbox(true);
            let message = Message::from(&b"a"[..]);
            let freed = Arc::downgrade(&message);
            let poster = {
                let mailbox = Address::clone(&mailbox);
                thread::spawn(move || mailbox.post(message) != Posted::Full)
            };
            let end = || {
                engine.word.claim(GENERATION);
                mailbox.end();
                engine.word.close(GENERATION);
            };
            let is_mine = engine.word.schedule(GENERATION, Reasons::KILL) == Scheduled::Enqueue;
            if is_mine {
                end();
            }
            assert!(poster.join().unwrap());
            if std::mem::take(&mut *engine.queued.lock().unwrap()) {
                assert!(!is_mine, "stale-keys-miss");
                end();
            }
            assert!(freed.upgrade().is_none(), "a message of a session that has ended is not kept");
        });
    }
}
