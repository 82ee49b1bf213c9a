//! The session table: slots with a state word each, keys with a generation, and the claim by which one thread at a time
//! reaches what a slot holds.
//!
//! Slots come in chunks that are allocated when first needed and stay for the daemon's life, so that a slot never moves
//! and ten thousand idle sessions cost ten thousand slots, not the configured limit. A slot is padded to two cache
//! lines of 64 bytes (the pair that the prefetcher fetches together): neighbours never share one.
//!
//! Invariants: *one-owner*, *queued-once*, *never-stranded*, *stale-keys-miss* (see `state.rs`), and *closed-is-empty*:
//! a vacant slot holds nothing; its content is dropped by its last owner, under its own generation.
//!
//! Read next: `state.rs`.

use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

use super::state::{Reasons, Released, Scheduled, StateWord};
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::sync::{Mutex, UnsafeCell};

/// Names one session for ever: its slot, and which of the slot's successive sessions it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// The key as one number, for the kernel to hand back. Never below 2³², never all ones.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key behind a number, or None for one that is not a session's (below 2³²).
    pub fn from_u64(number: u64) -> Option<Key> {
        let key = Key { index: number as u32, generation: (number >> 32) as u32 };
        (key.generation != 0).then_some(key)
    }

    /// The slot's number: small, reused, what people are shown.
    pub fn index(self) -> u32 {
        self.index
    }
}

/// One place for a session. `T` is what the engine keeps for it.
#[repr(align(128))]
pub struct Slot<T> {
    state: StateWord,
    /// Tick of the last readiness seen. Written by the poller, read by the poller and the owner.
    pub last_ready_tick: AtomicU32,
    /// Tick since when the peer has taken nothing of what it is owed, 0 when it is owed nothing. Written by the owner,
    /// read by the poller.
    pub blocked_tick: AtomicU32,
    content: UnsafeCell<Option<T>>,
}

// SAFETY: `content` is reached only through a `Claim`, of which one-owner allows one at a time, or by the thread that
// fills a vacant slot before its key is known; the state word's Acquire and Release order those accesses.
#[allow(unsafe_code, reason = "the session's cell")]
unsafe impl<T: Send> Sync for Slot<T> {}

/// Slots per chunk: 32 KiB at 128 bytes a slot.
const CHUNK: usize = 256;

/// All slots, and which of them are free.
pub struct Table<T> {
    chunks: Box<[OnceLock<Box<[Slot<T>]>>]>,
    limit: usize,
    /// Indices of vacant slots that were used before; the last one vacated is used next. Locked once per accepted and
    /// once per ended session.
    vacated: Mutex<Vec<u32>>,
    /// Slots ever used. Written under the lock of `vacated`.
    used: AtomicUsize,
    /// Sessions now. Written by the filling thread and by owners that close.
    live: AtomicUsize,
}

impl<T> Table<T> {
    /// A table for at most `limit` sessions.
    pub fn new(limit: usize) -> Table<T> {
        let chunks = (0..limit.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
        Table { chunks, limit, vacated: Mutex::new(Vec::new()), used: AtomicUsize::new(0), live: AtomicUsize::new(0) }
    }

    /// Sessions now.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Sets a vacant slot aside, so that its key is known before there is a session; None if all are taken.
    pub fn reserve(&self) -> Option<Vacancy<'_, T>> {
        let mut vacated = self.vacated.lock().expect("no thread panics while it holds this lock");
        let index = match vacated.pop() {
            Some(index) => index,
            None => {
                let used = self.used.load(Ordering::Relaxed);
                if used == self.limit {
                    return None;
                }
                self.chunks[used / CHUNK].get_or_init(|| (0..CHUNK).map(|_| Slot::vacant()).collect());
                self.used.store(used + 1, Ordering::Release);
                used as u32
            }
        };
        let generation = self.slot_at(index as usize).state.vacant_generation();
        let key = Key { index, generation };
        Some(Vacancy { table: self, key: Some(key) })
    }

    /// Adds reasons for a turn; any thread, any key.
    pub fn schedule(&self, key: Key, reasons: Reasons) -> Scheduled {
        self.slot(key).state.schedule(key.generation, reasons)
    }

    /// Takes over a session, by the thread that took its key from the queue.
    ///
    /// # Panics
    /// If the session is not queued: that is a bug of the engine.
    pub fn claim(&self, key: Key) -> Claim<'_, T> {
        let reasons = self.slot(key).state.claim(key.generation);
        Claim { table: self, key, reasons }
    }

    /// The slot of a session that may have ended.
    pub fn slot(&self, key: Key) -> &Slot<T> {
        self.slot_at(key.index as usize)
    }

    /// The key of the session that lives in slot `index` now.
    pub fn key_at(&self, index: u32) -> Option<Key> {
        let generation = self.slot_at(index as usize).state.live_generation()?;
        Some(Key { index, generation })
    }

    /// Keys of all sessions that live now; sessions that open or end meanwhile may be missing or stale.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0..self.used.load(Ordering::Acquire) as u32).filter_map(|index| self.key_at(index))
    }

    fn slot_at(&self, index: usize) -> &Slot<T> {
        let chunk = self.chunks[index / CHUNK].get().expect("a key exists only for a slot that was made");
        &chunk[index % CHUNK]
    }
}

impl<T> Slot<T> {
    fn vacant() -> Slot<T> {
        Slot {
            state: StateWord::vacant(1),
            last_ready_tick: AtomicU32::new(0),
            blocked_tick: AtomicU32::new(0),
            content: UnsafeCell::new(None),
        }
    }
}

/// A slot set aside for a session that is about to begin.
#[must_use]
pub struct Vacancy<'a, T> {
    table: &'a Table<T>,
    /// None once filled.
    key: Option<Key>,
}

impl<T> Vacancy<'_, T> {
    /// The key that the session will have.
    pub fn key(&self) -> Key {
        self.key.expect("a vacancy that can be asked has not been filled")
    }

    /// Begins the session, idle: it has no turn until somebody schedules it.
    pub fn fill(mut self, content: T, tick: u32) {
        let key = self.key();
        self.key = None;
        let slot = self.table.slot(key);
        slot.last_ready_tick.store(tick, Ordering::Relaxed);
        slot.blocked_tick.store(0, Ordering::Relaxed);
        slot.content.with_mut(|cell| {
            // SAFETY: the slot is vacant and its index was taken off the list of vacant ones: nobody else has it, and
            // whoever knows the key already finds it stale until `open`.
            #[allow(unsafe_code, reason = "the session's cell")]
            let cell = unsafe { &mut *cell };
            assert!(cell.is_none(), "closed-is-empty");
            *cell = Some(content);
        });
        self.table.live.fetch_add(1, Ordering::SeqCst);
        slot.state.open(key.generation);
    }
}

impl<T> Drop for Vacancy<'_, T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.table.vacated.lock().expect("no thread panics while it holds this lock").push(key.index);
        }
    }
}

/// A session in the hands of its one owner. Must be given back by `release`, `requeue` or `close`.
pub struct Claim<'a, T> {
    table: &'a Table<T>,
    key: Key,
    reasons: Reasons,
}

impl<'a, T> Claim<'a, T> {
    /// The reasons taken with the claim.
    pub fn reasons(&self) -> Reasons {
        self.reasons
    }

    /// The session's key.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The slot, for its ticks.
    pub fn slot(&self) -> &'a Slot<T> {
        self.table.slot(self.key)
    }

    /// Gives the session back.
    pub fn release(self) -> Released {
        self.slot().state.release(self.key.generation)
    }

    /// Gives the session back as queued; the caller puts its key into the queue.
    pub fn requeue(self, reasons: Reasons) {
        self.slot().state.requeue(self.key.generation, reasons);
    }

    /// Ends the session and hands out what the slot held. Its key is stale from here on, its slot free for the next.
    pub fn close(self) -> T {
        let slot = self.slot();
        let content = slot.content.with_mut(|cell| {
            // SAFETY: one-owner; this claim is consumed.
            #[allow(unsafe_code, reason = "the session's cell")]
            unsafe {
                (*cell).take()
            }
        });
        slot.state.close(self.key.generation);
        let mut vacated = self.table.vacated.lock().expect("no thread panics while it holds this lock");
        vacated.push(self.key.index);
        drop(vacated);
        self.table.live.fetch_sub(1, Ordering::SeqCst);
        content.expect("a claimed slot holds a session")
    }
}

impl<T> Deref for Claim<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.slot().content.with_mut(|cell| {
            // SAFETY: one-owner; the borrow lives no longer than the claim's.
            #[allow(unsafe_code, reason = "the session's cell")]
            unsafe { (*cell).as_ref() }.expect("a claimed slot holds a session")
        })
    }
}

impl<T> DerefMut for Claim<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.slot().content.with_mut(|cell| {
            // SAFETY: one-owner; the borrow lives no longer than the claim's.
            #[allow(unsafe_code, reason = "the session's cell")]
            unsafe { (*cell).as_mut() }.expect("a claimed slot holds a session")
        })
    }
}
