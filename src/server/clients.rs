//! [`Clients`]: who is there, by number, and what can be done to each of them from any thread.
//!
//! One directory behind one lock: a send looks a mailbox up and posts without it; a broadcast takes the mailboxes a stretch
//! at a time and posts to each stretch without it. So whoever comes or goes waits for a look-up or for a stretch to be
//! copied, however many there are and however long posting takes. Numbers only grow, which is what a broadcast goes by: it
//! ends with the last client that was there when it began, though others come meanwhile.
//!
//! Read next: `session/mailbox.rs`, which all of these end in.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::session::mailbox::{Address, Message, Posted};

/// Mailboxes that a broadcast takes at a time: some microseconds for whoever comes or goes meanwhile.
const STRETCH: usize = 256;

/// Counts clients, and servers, of the process.
static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The server whose handler this thread calls; it is a thread of that server's for life.
    static CALLED_FOR: Cell<u64> = const { Cell::new(0) };
}

/// Names one client for ever: no other one of the process has the same number, before or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u64);

impl fmt::Display for ClientId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The clients of one server: a handle that can be cloned, kept, and used by any thread, also in a call of the handler. No
/// call here waits for a client. When the server has ended there is nobody, and all that is sent is [`Posted::Gone`].
#[derive(Clone)]
pub struct Clients(Arc<Directory>);

struct Directory {
    /// Names the server.
    number: u64,
    /// Those that can be sent to. Filled and emptied by sessions that open and end; emptied by whoever closes one.
    open: RwLock<BTreeMap<ClientId, Address>>,
}

impl Default for Clients {
    fn default() -> Clients {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Clients(Arc::new(Directory { number, open: RwLock::default() }))
    }
}

impl Clients {
    /// Sends a message to one client. What one thread sends to a client arrives in that order.
    ///
    /// Bytes in an `Arc<[u8]>` are sent from where they lie; others (`Vec<u8>`, `&[u8]`, an array) are copied there once.
    pub fn send(&self, id: ClientId, message: impl Into<Message>) -> Posted {
        let mailbox = self.0.read().get(&id).cloned();
        mailbox.map_or(Posted::Gone, |mailbox| mailbox.post(message.into()))
    }

    /// Sends a message to all who are there now, without a copy for each; for how many it was taken. Whoever has no room
    /// misses it. What one thread sends or broadcasts reaches each client in that order; of several threads that broadcast
    /// at once, each client may hear another first.
    pub fn broadcast(&self, message: impl Into<Message>) -> usize {
        let message = message.into();
        let mut taken = 0;
        self.0.for_each(|_, mailbox| taken += usize::from(mailbox.post(Message::clone(&message)) == Posted::Taken));
        taken
    }

    /// Ends a client in order: what was sent to it before leaves, then the FIN; its own FIN is waited for. From now on it is
    /// [`Posted::Gone`], though it may still be heard of for a moment.
    pub fn close(&self, id: ClientId) {
        if let Some(mailbox) = self.0.remove(id) {
            mailbox.note();
        }
    }

    /// Ends a client at once, whatever was sent to it: as [`Closed::Evicted`](super::Closed::Evicted), for one that takes
    /// too little.
    pub fn evict(&self, id: ClientId) {
        if let Some(mailbox) = self.0.remove(id) {
            mailbox.evict();
        }
    }

    /// Those who are there now, in the order in which they came.
    pub fn ids(&self) -> Vec<ClientId> {
        let mut ids = Vec::new();
        self.0.for_each(|id, _| ids.push(id));
        ids
    }

    /// How many are there now.
    pub fn count(&self) -> usize {
        self.0.read().len()
    }

    /// Somebody has come.
    pub(super) fn enter(&self, mailbox: &Address) -> ClientId {
        let mut open = self.0.write();
        // Under the lock: a number that a broadcast finds given is in the directory by the time that it looks.
        let id = ClientId(NEXT.fetch_add(1, Ordering::Relaxed));
        open.insert(id, Address::clone(mailbox));
        id
    }

    /// Somebody has gone.
    pub(super) fn leave(&self, id: ClientId) {
        self.0.remove(id);
    }

    /// Says that this thread calls the handler of this server.
    pub(super) fn note_call_here(&self) {
        CALLED_FOR.set(self.0.number);
    }

    /// Whether this thread calls the handler of this server.
    pub(super) fn call_here(&self) -> bool {
        CALLED_FOR.get() == self.0.number
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Clients").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Directory {
    /// Calls `act` for each who is there now.
    fn for_each(&self, mut act: impl FnMut(ClientId, &Address)) {
        let end = ClientId(NEXT.load(Ordering::Relaxed));
        let mut begin = ClientId(0);
        let mut stretch = Vec::new();
        loop {
            let open = self.read();
            let ahead = open.range((Bound::Excluded(begin), Bound::Excluded(end)));
            stretch.extend(ahead.take(STRETCH).map(|(id, mailbox)| (*id, Address::clone(mailbox))));
            drop(open);
            let Some((last, _)) = stretch.last() else { return };
            begin = *last;
            stretch.drain(..).for_each(|(id, mailbox)| act(id, &mailbox));
        }
    }

    fn remove(&self, id: ClientId) -> Option<Address> {
        self.write().remove(&id)
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<ClientId, Address>> {
        self.open.read().expect("no thread panics while it holds this lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<ClientId, Address>> {
        self.open.write().expect("no thread panics while it holds this lock")
    }
}
