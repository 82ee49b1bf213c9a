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

mod key;

use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

use self::key::MOST_SLOTS;
use super::state::{Doing, Reasons, Released, Scheduled, StateWord};
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::sync::{Mutex, UnsafeCell};

pub use self::key::Key;

/// When things last happened to a session.
#[derive(Debug, Default)]
pub struct Ticks {
    /// Tick of the last readiness seen. Written by whoever sees it, read by the poller and the owner.
    pub last_ready: AtomicU32,
    /// Tick since when the peer has taken nothing of what it is owed, 0 when it is owed nothing. Written by the owner,
    /// read by the poller.
    pub blocked: AtomicU32,
    /// After how many ticks without readiness the session wants a turn, beside the timeouts of all; 0 for never. Written by
    /// the owner, read by the poller.
    pub look: AtomicU32,
}

impl Ticks {
    /// Those of a session that begins now.
    pub fn beginning(tick: u32) -> Ticks {
        Ticks { last_ready: AtomicU32::new(tick), ..Ticks::default() }
    }
}

/// One place for a session. `T` is what the engine keeps for it.
#[repr(align(128))]
pub struct Slot<T> {
    state: StateWord,
    /// For the timeouts.
    pub ticks: Ticks,
    content: UnsafeCell<Option<T>>,
}

// SAFETY: `content` is reached only through a `Claim`, of which one-owner allows one at a time, or by the thread that
// fills a vacant slot before its key is known; the state word's Acquire and Release order those accesses.
#[allow(unsafe_code, reason = "the session's cell")]
unsafe impl<T: Send> Sync for Slot<T> {}

/// Slots per chunk: 32 KiB at 128 bytes a slot. Two under loom, which makes every one of them anew for every
/// interleaving.
const CHUNK: usize = if cfg!(loom) { 2 } else { 256 };

/// Slots that are made together, when the first of them is needed.
type Chunk<T> = OnceLock<Box<[Slot<T>]>>;

/// All slots, and which of them are free.
pub struct Table<T> {
    chunks: Box<[Chunk<T>]>,
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
        assert!(limit <= MOST_SLOTS, "every slot has a number");
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
        self.look_at(index).map(|(key, _)| key)
    }

    /// The session that lives in slot `index` now, and what it is doing; nobody in a slot that was never used.
    pub fn look_at(&self, index: u32) -> Option<(Key, Doing)> {
        let slot = ((index as usize) < self.used()).then(|| self.slot_at(index as usize));
        let (generation, doing) = slot?.state.live()?;
        Some((Key { index, generation }, doing))
    }

    /// Slots that were ever used, which are the first ones.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Keys of all sessions that live now; sessions that open or end meanwhile may be missing or stale.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0..self.used() as u32).filter_map(|index| self.key_at(index))
    }

    fn slot_at(&self, index: usize) -> &Slot<T> {
        let chunk = self.chunks[index / CHUNK].get().expect("a key exists only for a slot that was made");
        &chunk[index % CHUNK]
    }
}

impl<T> Slot<T> {
    fn vacant() -> Slot<T> {
        Slot { state: StateWord::vacant(1), ticks: Ticks::default(), content: UnsafeCell::new(None) }
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
        slot.ticks.last_ready.store(tick, Ordering::Relaxed);
        slot.ticks.blocked.store(0, Ordering::Relaxed);
        slot.ticks.look.store(0, Ordering::Relaxed);
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::rc::Rc;

    use super::*;

    fn begin<T>(table: &Table<T>, content: T) -> Key {
        let vacancy = table.reserve().expect("the table has room");
        let key = vacancy.key();
        vacancy.fill(content, 1);
        key
    }

    fn claim<T>(table: &Table<T>, key: Key) -> Claim<'_, T> {
        assert_eq!(table.schedule(key, Reasons::READABLE), Scheduled::Enqueue);
        table.claim(key)
    }

    #[test]
    fn a_table_takes_its_limit_and_no_more() {
        for limit in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3] {
            let table = Table::new(limit);
            let keys: Vec<Key> = (0..limit).map(|number| begin(&table, number)).collect();
            assert!(table.reserve().is_none());
            assert_eq!(table.live(), limit);
            assert_eq!(table.keys().collect::<Vec<_>>(), keys);
            let Some(&last) = keys.last() else { continue };
            assert_eq!(claim(&table, last).close(), limit - 1);
            assert_eq!(table.live(), limit - 1);
            assert!(table.reserve().is_some());
        }
    }

    #[test]
    fn a_vacancy_that_is_dropped_is_vacant_again() {
        let table = Table::<()>::new(1);
        let vacancy = table.reserve().expect("the table has room");
        let key = vacancy.key();
        assert!(table.reserve().is_none(), "set aside");
        assert_eq!(table.schedule(key, Reasons::READABLE), Scheduled::Stale, "not begun");
        assert_eq!((table.live(), table.keys().count()), (0, 0));
        drop(vacancy);
        let again = table.reserve().expect("vacant again");
        assert_eq!(again.key(), key, "nobody lived here, so that the generation is the same");
        again.fill((), 1);
        assert_eq!(table.live(), 1);
    }

    #[test]
    fn a_slot_that_was_vacated_last_is_used_next_under_a_new_key() {
        let table = Table::new(3);
        let keys = [begin(&table, 'a'), begin(&table, 'b'), begin(&table, 'c')];
        assert_eq!(claim(&table, keys[0]).close(), 'a');
        assert_eq!(claim(&table, keys[2]).close(), 'c');
        let next = begin(&table, 'd');
        assert_eq!(next.index(), keys[2].index());
        assert_ne!(next, keys[2]);
        assert_eq!(table.schedule(keys[2], Reasons::KILL), Scheduled::Stale);
        assert_eq!(*claim(&table, next), 'd');
        assert_eq!(table.keys().collect::<Vec<_>>(), [keys[1], next]);
    }

    #[test]
    fn keys_and_key_at_show_the_living_whatever_their_phase() {
        let table = Table::new(4);
        let [idle, queued, running, ended] = [(); 4].map(|()| begin(&table, ()));
        assert_eq!(table.schedule(queued, Reasons::TIMER), Scheduled::Enqueue);
        let held = claim(&table, running);
        claim(&table, ended).close();
        assert_eq!(table.keys().collect::<Vec<_>>(), [idle, queued, running]);
        assert_eq!(table.key_at(ended.index()), None);
        assert_eq!(table.key_at(idle.index()), Some(idle));
        assert_eq!(held.release(), Released::Idle);
    }

    #[test]
    fn generations_of_a_slot_wrap() {
        let mut table = Table::new(1);
        claim(&table, begin(&table, ())).close();
        // As if two thousand million sessions had lived here.
        let last = u32::MAX >> 1;
        table.chunks[0].get_mut().expect("used")[0].state = StateWord::vacant(last);
        let old = begin(&table, ());
        assert_eq!(old, Key { index: 0, generation: last });
        claim(&table, old).close();
        let new = begin(&table, ());
        assert_eq!(new, Key { index: 0, generation: 1 });
        assert_eq!(table.schedule(old, Reasons::KILL), Scheduled::Stale);
        claim(&table, new).close();
    }

    #[test]
    fn what_a_claim_changes_the_next_one_finds() {
        let table = Table::new(1);
        let key = begin(&table, vec![1]);
        let mut first = claim(&table, key);
        assert_eq!((first.key(), first.reasons()), (key, Reasons::READABLE));
        first.push(2);
        first.requeue(Reasons::RESUME);
        let mut second = table.claim(key);
        assert_eq!(second.reasons(), Reasons::RESUME);
        second.push(3);
        assert_eq!(table.schedule(key, Reasons::KILL), Scheduled::Noted);
        assert_eq!(second.release(), Released::Again);
        let third = table.claim(key);
        assert_eq!(third.reasons(), Reasons::KILL);
        assert_eq!(third.close(), [1, 2, 3]);
    }

    #[test]
    fn a_new_session_begins_with_its_own_ticks() {
        let table = Table::new(1);
        let old = begin(&table, ());
        table.slot(old).ticks.blocked.store(9, Ordering::Relaxed);
        claim(&table, old).close();
        let vacancy = table.reserve().expect("vacated");
        let key = vacancy.key();
        vacancy.fill((), 77);
        let slot = table.slot(key);
        assert_eq!(slot.ticks.last_ready.load(Ordering::Relaxed), 77);
        assert_eq!(slot.ticks.blocked.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_lives_in_a_table_goes_with_it() {
        let content = Rc::new(());
        let table = Table::new(2);
        begin(&table, Rc::clone(&content));
        drop(claim(&table, begin(&table, Rc::clone(&content))).close());
        assert_eq!(Rc::strong_count(&content), 2);
        drop(table);
        assert_eq!(Rc::strong_count(&content), 1);
    }

    #[test]
    fn neighbours_share_no_pair_of_cache_lines() {
        assert_eq!(align_of::<Slot<[u8; 40]>>() % 128, 0);
        assert_eq!(size_of::<Slot<[u8; 40]>>(), 128);
    }
}

/// The table with a queue behind a lock: what a claim reaches is touched by one thread at a time, each of which sees
/// what the one before it wrote. Loom watches the accesses to the slot's cell.
#[cfg(all(test, loom))]
mod loom_models {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use super::*;
    use crate::sync::{model, thread};

    struct Place {
        table: Table<u32>,
        queue: Mutex<VecDeque<Key>>,
    }

    impl Place {
        /// A table of one slot.
        fn new() -> Arc<Place> {
            Arc::new(Place { table: Table::new(1), queue: Mutex::new(VecDeque::new()) })
        }

        fn begin(&self, content: u32) -> Option<Key> {
            let vacancy = self.table.reserve()?;
            let key = vacancy.key();
            vacancy.fill(content, 1);
            Some(key)
        }

        fn schedule(&self, key: Key, reasons: Reasons) -> Scheduled {
            let scheduled = self.table.schedule(key, reasons);
            if scheduled == Scheduled::Enqueue {
                self.put(key);
            }
            scheduled
        }

        fn put(&self, key: Key) {
            let mut queue = self.queue.lock().unwrap();
            assert!(!queue.contains(&key), "queued-once");
            queue.push_back(key);
        }

        fn take(&self) -> Option<Key> {
            self.queue.lock().unwrap().pop_front()
        }

        /// A turn, if there is something in the queue: adds one to the content.
        fn turn(&self) -> bool {
            let Some(key) = self.take() else { return false };
            let mut claim = self.table.claim(key);
            *claim += 1;
            if claim.release() == Released::Again {
                self.put(key);
            }
            true
        }
    }

    /// Three threads schedule and run turns over one slot. Every turn adds one to what the turns before it left.
    #[test]
    fn an_owner_sees_what_the_owner_before_it_wrote() {
        model(|| {
            let place = Place::new();
            let key = place.begin(0).unwrap();
            let threads = [(); 2].map(|()| {
                let place = Arc::clone(&place);
                thread::spawn(move || {
                    let _ = place.schedule(key, Reasons::READABLE);
                    u32::from(place.turn())
                })
            });
            let mut turns = u32::from(place.turn());
            turns += threads.map(|thread| thread.join().unwrap()).iter().sum::<u32>();
            while place.turn() {
                turns += 1;
            }
            let _ = place.schedule(key, Reasons::KILL);
            let claim = place.table.claim(place.take().unwrap());
            assert_eq!(claim.reasons(), Reasons::KILL, "never-stranded");
            assert_eq!(claim.close(), turns);
        });
    }

    /// A session ends and its slot is filled again while a third thread has reasons for the one that ended.
    #[test]
    fn a_stale_key_misses_the_next_session() {
        model(|| {
            let place = Place::new();
            let old = place.begin(10).unwrap();
            let _ = place.schedule(old, Reasons::READABLE);
            let late = {
                let place = Arc::clone(&place);
                thread::spawn(move || {
                    assert_ne!(place.schedule(old, Reasons::KILL), Scheduled::Enqueue, "it is queued until it ends");
                })
            };
            let filler = {
                let place = Arc::clone(&place);
                thread::spawn(move || {
                    let new = place.begin(20);
                    if let Some(new) = new {
                        assert_eq!(place.schedule(new, Reasons::TIMER), Scheduled::Enqueue);
                    }
                    new
                })
            };
            let claim = place.table.claim(place.take().unwrap());
            assert_eq!(claim.close(), 10);
            late.join().unwrap();
            let new = filler.join().unwrap();
            assert_eq!(place.table.live(), usize::from(new.is_some()));
            assert_eq!(place.take(), new);
            if let Some(new) = new {
                assert_eq!(place.table.schedule(old, Reasons::KILL), Scheduled::Stale);
                let claim = place.table.claim(new);
                assert_eq!(claim.reasons(), Reasons::TIMER);
                assert_eq!(claim.close(), 20);
            }
        });
    }

    /// Somebody who looks at all slots while a session begins sees none or the whole of it.
    #[test]
    fn a_key_that_is_seen_leads_to_a_full_slot() {
        model(|| {
            let place = Place::new();
            let filler = {
                let place = Arc::clone(&place);
                thread::spawn(move || place.begin(10).unwrap())
            };
            // The filler runs first, as this thread waits for it first: loom remembers no more than the last access to
            // an atomic, and would find no race in a load here, a load there and a store there.
            let looker = {
                let place = Arc::clone(&place);
                thread::spawn(move || {
                    let seen = place.table.keys().next();
                    if let Some(key) = seen {
                        assert_eq!(place.schedule(key, Reasons::KILL), Scheduled::Enqueue);
                        assert_eq!(place.table.claim(place.take().unwrap()).close(), 10);
                    }
                    seen
                })
            };
            let key = filler.join().unwrap();
            let seen = looker.join().unwrap();
            assert!(seen.is_none() || seen == Some(key));
            assert_eq!(place.table.live(), usize::from(seen.is_none()));
        });
    }
}
