//! Ring buffers, and the leases by which sessions come to hold them only while bytes are in flight.
//!
//! [`Inbound`] is filled by the socket and drained by the handler's answers; what a handler forwards leaves from the
//! very bytes it came into. [`Outbound`] holds bytes that a handler made itself. Both borrow a [`Ring`] from the
//! worker's own [`Leases`] and give it back when they are empty, so that an idle session holds no buffer and a busy
//! worker uses the same warm memory again and again. A frame that is larger than a ring moves to one buffer of exactly its
//! size, which is paid for like a ring and given up when the frame has left.
//!
//! Invariants:
//! - *segments-in-order*: a ring of input reads `forwarded | held | dropped | unread`. Forwarded bytes go out before
//!   the outbound bytes, held ones after them; while any bytes are dropped, nothing more is taken.
//! - *rings-within-budget*: the bytes of all rings and exact buffers in existence never exceed the [`Budget`]; leases are
//!   counted when memory is made, not when it changes hands.
//!
//! The only user of `ringbuf`. Read next: `design/buffers.md`.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use ringbuf::traits::{Observer, Raw};
use ringbuf::{LocalRb, storage::Heap};

use super::gather::Gather;
use super::handler::Chunks;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A ring of bytes whose memory has been written once, so that all of it may be lent to the kernel as `&mut [u8]`.
pub struct Ring(LocalRb<Heap<u8>>);

impl Ring {
    fn with_capacity(ring_bytes: usize) -> Box<Ring> {
        let mut ring = LocalRb::new(ring_bytes);
        ring.push_iter(std::iter::repeat_n(0, ring_bytes));
        let mut ring = Box::new(Ring(ring));
        ring.consume(ring_bytes);
        ring
    }

    fn len(&self) -> usize {
        self.0.occupied_len()
    }

    fn filled(&self) -> (&[u8], &[u8]) {
        // SAFETY: the range is the occupied part, and `with_capacity` has written every byte. While `self` is borrowed
        // here, nobody has the exclusive borrow that moving an index or writing takes.
        #[allow(unsafe_code, reason = "ringbuf lends shared slices only through its raw interface")]
        let (first, second) = unsafe { self.0.unsafe_slices(self.0.read_index(), self.0.write_index()) };
        (assume_written(first), assume_written(second))
    }

    fn vacant(&mut self) -> (&mut [u8], &mut [u8]) {
        let (first, second) = self.0.vacant_slices_mut();
        (assume_written_mut(first), assume_written_mut(second))
    }

    fn fill(&mut self, count: usize) {
        assert!(count <= self.0.vacant_len());
        // SAFETY: the assertion above keeps the index within the ring; `with_capacity` has written every byte.
        #[allow(unsafe_code, reason = "ringbuf asks who keeps the bytes written: this type does")]
        unsafe {
            self.0.advance_write_index(count);
        }
    }

    /// Removes `count` bytes at the front. An emptied ring starts again at its first byte, so that small messages stay
    /// in the same few cache lines and a read into an empty ring is always one plain call.
    fn consume(&mut self, count: usize) {
        assert!(count <= self.len());
        if count == self.len() {
            // SAFETY: equal indices are an empty ring, and nothing is borrowed from it here.
            #[allow(unsafe_code, reason = "ringbuf has no safe way to start again at the first byte")]
            unsafe {
                self.0.set_read_index(0);
                self.0.set_write_index(0);
            }
        } else {
            self.0.skip(count);
        }
    }
}

fn assume_written(memory: &[MaybeUninit<u8>]) -> &[u8] {
    // SAFETY: only memory of a `Ring` comes here, and `Ring::with_capacity` has written every byte of it.
    #[allow(unsafe_code, reason = "ringbuf speaks of uninitialised memory, which a `Ring` has none of")]
    unsafe {
        memory.assume_init_ref()
    }
}

fn assume_written_mut(memory: &mut [MaybeUninit<u8>]) -> &mut [u8] {
    // SAFETY: as in `assume_written`.
    #[allow(unsafe_code, reason = "ringbuf speaks of uninitialised memory, which a `Ring` has none of")]
    unsafe {
        memory.assume_init_mut()
    }
}

/// Memory for one frame, filled once and emptied once. Written when it was made, like a ring.
struct Exact {
    bytes: Box<[u8]>,
    filled: usize,
    taken: usize,
}

/// Where a session's input lies.
enum Store {
    Ring(Box<Ring>),
    Exact(Box<Exact>),
}

impl Store {
    fn len(&self) -> usize {
        match self {
            Store::Ring(ring) => ring.len(),
            Store::Exact(exact) => exact.filled - exact.taken,
        }
    }

    /// Whether more can be read in. An exact buffer is for one frame alone.
    fn has_room(&self) -> bool {
        match self {
            Store::Ring(ring) => !ring.0.is_full(),
            Store::Exact(exact) => exact.filled < exact.bytes.len(),
        }
    }

    /// Whether it has served its purpose and holds nothing.
    fn is_spent(&self) -> bool {
        matches!(self, Store::Exact(exact) if exact.taken == exact.bytes.len())
    }

    fn filled(&self) -> (&[u8], &[u8]) {
        match self {
            Store::Ring(ring) => ring.filled(),
            Store::Exact(exact) => (&exact.bytes[exact.taken..exact.filled], &[]),
        }
    }

    fn vacant(&mut self) -> (&mut [u8], &mut [u8]) {
        match self {
            Store::Ring(ring) => ring.vacant(),
            Store::Exact(exact) => (&mut exact.bytes[exact.filled..], &mut []),
        }
    }

    fn fill(&mut self, count: usize) {
        match self {
            Store::Ring(ring) => ring.fill(count),
            Store::Exact(exact) => {
                assert!(count <= exact.bytes.len() - exact.filled);
                exact.filled += count;
            }
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Store::Ring(ring) => ring.consume(count),
            Store::Exact(exact) => {
                assert!(count <= exact.filled - exact.taken);
                exact.taken += count;
            }
        }
    }
}

/// The memory of all rings of the daemon together, and whether a session waits for some of it.
pub struct Budget {
    /// Changed by the engine when the memory is shared out anew.
    limit_bytes: AtomicUsize,
    /// Bytes of the rings in existence. Written by every worker, but only when a ring is made or dropped.
    made_bytes: AtomicUsize,
    /// Set by the engine while sessions wait for a ring; workers then drop rings rather than keep them.
    pub(crate) awaited: AtomicBool,
    /// Free rings that threads have put away for others.
    #[expect(clippy::vec_box, reason = "rings change hands by one pointer")]
    shelf: Mutex<Vec<Box<Ring>>>,
}

impl Budget {
    /// A budget of `limit_bytes`; `usize::MAX` for none.
    pub fn new(limit_bytes: usize) -> Arc<Budget> {
        Arc::new(Budget {
            limit_bytes: AtomicUsize::new(limit_bytes),
            made_bytes: AtomicUsize::new(0),
            awaited: AtomicBool::new(false),
            shelf: Mutex::new(Vec::new()),
        })
    }

    /// Bytes of all rings in existence now.
    pub fn made_bytes(&self) -> usize {
        self.made_bytes.load(Ordering::SeqCst)
    }

    /// Goes on with another limit. Where more exists than that, nothing is made until enough has been given back.
    pub fn limit(&self, limit_bytes: usize) {
        self.limit_bytes.store(limit_bytes, Ordering::SeqCst);
    }

    fn limit_bytes(&self) -> usize {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Whether a ring of this size could be made now.
    pub fn has_room(&self, ring_bytes: usize) -> bool {
        self.made_bytes().saturating_add(ring_bytes) <= self.limit_bytes()
    }

    /// Gives up the rings that were put away; for when nobody is left to need them.
    pub fn empty_shelf(&self) {
        for ring in self.shelf.lock().expect("no thread panics while it holds this lock").drain(..) {
            self.shrink(ring.0.capacity().get());
        }
    }

    fn try_grow(&self, ring_bytes: usize) -> bool {
        let before = self.made_bytes.fetch_add(ring_bytes, Ordering::Relaxed);
        let fits = before.saturating_add(ring_bytes) <= self.limit_bytes();
        if !fits {
            self.made_bytes.fetch_sub(ring_bytes, Ordering::Relaxed);
        }
        fits
    }

    fn shrink(&self, ring_bytes: usize) {
        self.made_bytes.fetch_sub(ring_bytes, Ordering::SeqCst);
    }
}

/// One worker's free list of rings. Not shared: taking and giving back cost no synchronisation.
pub struct Leases {
    #[expect(
        clippy::vec_box,
        reason = "a session holds its ring by one pointer; unboxing it here would allocate anew"
    )]
    free: Vec<Box<Ring>>,
    ring_bytes: usize,
    budget: Arc<Budget>,
    refused: bool,
}

impl Leases {
    /// Rings that a worker keeps when nobody needs them: enough for the sessions of a few turns, little memory.
    pub const KEPT: usize = 8;

    /// An empty free list of rings of `ring_bytes`, paid for from `budget`.
    pub fn new(ring_bytes: usize, budget: Arc<Budget>) -> Leases {
        Leases { free: Vec::with_capacity(Self::KEPT), ring_bytes, budget, refused: false }
    }

    /// Gives all free rings up.
    pub fn clear(&mut self) {
        self.budget.shrink(self.ring_bytes * self.free.len());
        self.free.clear();
    }

    /// Puts free rings away, where the next thread that needs one looks first: for threads that keep none of their own
    /// while they wait. More than [`KEPT`](Self::KEPT) are given up.
    pub fn put_away(&mut self) {
        if self.free.is_empty() {
            return;
        }
        let mut shelf = self.budget.shelf.lock().expect("no thread panics while it holds this lock");
        while shelf.len() < Self::KEPT
            && let Some(ring) = self.free.pop()
        {
            shelf.push(ring);
        }
        drop(shelf);
        self.clear();
    }

    /// Bytes that one ring holds.
    pub fn ring_bytes(&self) -> usize {
        self.ring_bytes
    }

    /// Pays for memory that is not a ring's; false when the budget is spent. [`refund`](Leases::refund) takes it back.
    pub(super) fn pay(&mut self, bytes: usize) -> bool {
        self.budget.try_grow(bytes)
    }

    pub(super) fn refund(&mut self, bytes: usize) {
        self.budget.shrink(bytes);
    }

    /// Whether so many bytes could be had if nobody else had any.
    pub(super) fn could_hold(&self, bytes: usize) -> bool {
        bytes <= self.budget.limit_bytes()
    }

    /// Whether a lease was refused since the last call of this method.
    pub(super) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    fn lease(&mut self) -> Option<Box<Ring>> {
        if let Some(ring) = self.free.pop() {
            return Some(ring);
        }
        let shelved = self.budget.shelf.lock().expect("no thread panics while it holds this lock").pop();
        if shelved.is_some() {
            return shelved;
        }
        if self.budget.try_grow(self.ring_bytes) {
            return Some(Ring::with_capacity(self.ring_bytes));
        }
        self.refused = true;
        None
    }

    /// Memory for a frame of so many bytes; None when the budget is spent.
    fn lease_exact(&mut self, frame_bytes: usize) -> Option<Box<Exact>> {
        if !self.budget.try_grow(frame_bytes) {
            self.refused = true;
            return None;
        }
        Some(Box::new(Exact { bytes: vec![0; frame_bytes].into_boxed_slice(), filled: 0, taken: 0 }))
    }

    fn give_store_back(&mut self, store: Store) {
        match store {
            Store::Ring(ring) => self.give_back(ring),
            Store::Exact(exact) => self.budget.shrink(exact.bytes.len()),
        }
    }

    fn give_back(&mut self, mut ring: Box<Ring>) {
        if self.free.len() < Self::KEPT && !self.budget.awaited.load(Ordering::Relaxed) {
            ring.consume(ring.len());
            self.free.push(ring);
        } else {
            drop(ring);
            self.budget.shrink(self.ring_bytes);
        }
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What has come from the peer and has not left again.
#[derive(Default)]
pub(super) struct Inbound {
    store: Option<Store>,
    forwarded: usize,
    held: usize,
    dropped: usize,
}

impl Inbound {
    /// Bytes that the handler has not answered for.
    pub(super) fn unread_len(&self) -> usize {
        self.len() - self.forwarded - self.held - self.dropped
    }

    /// Whether nothing is held for the session.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the handler forwarded and the peer has not been sent.
    pub(super) fn owed_len(&self) -> usize {
        self.forwarded + self.held
    }

    /// Whether some forwarded bytes wait for the outbound ring to be sent first.
    pub(super) fn has_held(&self) -> bool {
        self.held > 0
    }

    /// Whether bytes that the handler discarded wait for forwarded ones before them to be sent.
    pub(super) fn has_dropped(&self) -> bool {
        self.dropped > 0
    }

    /// Whether the handler may be shown input: there is some, and no dropped bytes wait to be skipped before it.
    pub(super) fn can_show(&self) -> bool {
        self.dropped == 0 && self.unread_len() > 0
    }

    /// Whether bytes can be read in once there is a ring.
    pub(super) fn has_room(&self) -> bool {
        self.store.as_ref().is_none_or(|store| store.has_room() || store.is_spent())
    }

    /// Whether all of it is unread: nothing is owed, nothing waits to be skipped.
    pub(super) fn is_all_unread(&self) -> bool {
        self.unread_len() == self.len()
    }

    /// Whether it lies in a buffer of its own.
    pub(super) fn is_exact(&self) -> bool {
        matches!(self.store, Some(Store::Exact(_)))
    }

    /// The unread bytes.
    pub(super) fn unread(&self) -> Chunks<'_> {
        let Some(store) = &self.store else { return Chunks::new(&[], &[]) };
        let (first, second) = store.filled();
        let taken = self.forwarded + self.held + self.dropped;
        match first.len().checked_sub(taken) {
            Some(_) => Chunks::new(&first[taken..], second),
            None => Chunks::new(&second[taken - first.len()..], &[]),
        }
    }

    /// Memory to read into: one slice, or two when the ring wraps. None when the budget is spent.
    pub(super) fn lend<'a>(&'a mut self, leases: &mut Leases) -> Option<(&'a mut [u8], &'a mut [u8])> {
        if self.store.as_ref().is_some_and(Store::is_spent) {
            self.release(leases);
        }
        if self.store.is_none() {
            self.store = Some(Store::Ring(leases.lease()?));
        }
        self.store.as_mut().map(Store::vacant)
    }

    /// `count` bytes were read into the lent memory.
    pub(super) fn fill(&mut self, count: usize) {
        self.store.as_mut().expect("filled memory was lent").fill(count);
    }

    /// Moves all that there is, which is unread, into a buffer of `frame_bytes`, to be filled up. False when the budget is
    /// spent.
    pub(super) fn move_to_exact(&mut self, frame_bytes: usize, leases: &mut Leases) -> bool {
        assert_eq!(self.len(), self.unread_len(), "what is owed has left the ring first");
        let Some(mut exact) = leases.lease_exact(frame_bytes) else { return false };
        let (first, second) = self.unread().slices();
        exact.bytes[..first.len()].copy_from_slice(first);
        exact.bytes[first.len()..first.len() + second.len()].copy_from_slice(second);
        exact.filled = first.len() + second.len();
        self.release(leases);
        self.store = Some(Store::Exact(exact));
        true
    }

    /// The first `count` unread bytes go out, after the outbound bytes if `after_outbound`.
    pub(super) fn forward(&mut self, count: usize, after_outbound: bool) {
        assert!(self.dropped == 0, "segments-in-order");
        if after_outbound || self.held > 0 {
            self.held += count;
        } else {
            self.forwarded += count;
        }
    }

    /// The first `count` unread bytes are dealt with.
    pub(super) fn discard(&mut self, count: usize) {
        self.dropped += count;
        self.skip_dropped();
    }

    /// Forgets everything unread.
    pub(super) fn discard_unread(&mut self) {
        self.discard(self.unread_len());
    }

    /// The outbound ring is empty: what was held behind it may go.
    pub(super) fn release_held(&mut self) {
        self.forwarded += std::mem::take(&mut self.held);
    }

    /// Of `count` bytes sent, removes those that were forwarded, and says how many they were.
    pub(super) fn sent(&mut self, count: usize) -> usize {
        let count = count.min(self.forwarded);
        self.forwarded -= count;
        if let Some(store) = &mut self.store {
            store.consume(count);
        }
        self.skip_dropped();
        count
    }

    /// Adds the forwarded bytes to `slices`.
    pub(super) fn gather<'a, const MOST: usize>(&'a self, slices: &mut Gather<'a, MOST>) {
        self.gather_range(0..self.forwarded, slices);
    }

    /// Adds the held bytes, for behind the outbound ones.
    pub(super) fn gather_held<'a, const MOST: usize>(&'a self, slices: &mut Gather<'a, MOST>) {
        self.gather_range(self.forwarded..self.forwarded + self.held, slices);
    }

    fn gather_range<'a, const MOST: usize>(&'a self, range: Range<usize>, slices: &mut Gather<'a, MOST>) {
        let Some(store) = self.store.as_ref().filter(|_| !range.is_empty()) else { return };
        let (first, second) = store.filled();
        let (first, second) = Chunks::new(first, second).range(range).slices();
        slices.push(first);
        slices.push(second);
    }

    /// Gives the ring back if it is empty; not a buffer that is still to be filled.
    pub(super) fn settle(&mut self, leases: &mut Leases) {
        let is_ring = matches!(self.store, Some(Store::Ring(_)));
        if self.is_empty() && (is_ring || self.store.as_ref().is_some_and(Store::is_spent)) {
            self.release(leases);
        }
    }

    /// Gives the ring back with whatever it holds.
    pub(super) fn release(&mut self, leases: &mut Leases) {
        if let Some(store) = self.store.take() {
            leases.give_store_back(store);
        }
        (self.forwarded, self.held, self.dropped) = (0, 0, 0);
    }

    fn len(&self) -> usize {
        self.store.as_ref().map_or(0, Store::len)
    }

    fn skip_dropped(&mut self) {
        if self.dropped > 0 && self.forwarded + self.held == 0 {
            let count = std::mem::take(&mut self.dropped);
            self.store.as_mut().expect("dropped bytes lie somewhere").consume(count);
        }
    }
}

/// Bytes that a handler made itself and the peer has not been sent.
#[derive(Default)]
pub(super) struct Outbound {
    ring: Option<Box<Ring>>,
}

impl Outbound {
    pub(super) fn len(&self) -> usize {
        self.ring.as_ref().map_or(0, |ring| ring.len())
    }

    /// Appends `bytes`, which must fit the ring; false when there is no ring and the budget is spent.
    pub(super) fn append(&mut self, bytes: &[u8], leases: &mut Leases) -> bool {
        if self.ring.is_none() {
            self.ring = leases.lease();
        }
        let Some(ring) = &mut self.ring else { return false };
        let taken = ring.0.push_slice(bytes);
        assert_eq!(taken, bytes.len(), "the caller has checked the room");
        true
    }

    pub(super) fn gather<'a, const MOST: usize>(&'a self, slices: &mut Gather<'a, MOST>) {
        if let Some(ring) = &self.ring {
            let (first, second) = ring.filled();
            slices.push(first);
            slices.push(second);
        }
    }

    /// Of `count` bytes sent, removes those that were of this ring, and says how many they were.
    pub(super) fn sent(&mut self, count: usize) -> usize {
        let count = count.min(self.len());
        if let Some(ring) = &mut self.ring {
            ring.consume(count);
        }
        count
    }

    pub(super) fn settle(&mut self, leases: &mut Leases) {
        if self.len() == 0 {
            self.release(leases);
        }
    }

    pub(super) fn release(&mut self, leases: &mut Leases) {
        if let Some(ring) = self.ring.take() {
            leases.give_back(ring);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
