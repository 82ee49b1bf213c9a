//! The memory that the kernel receives into: buffers, and the ring by which they are handed to it.
//!
//! INVARIANT one-owner-per-buffer: a buffer is the kernel's from the moment that it is recycled until a completion names
//! it, and the caller's from then on. Asserted at both: when it is taken and when it is recycled.
//!
//! Buffers go around in the order in which they are recycled, so that all of them pass through the cache. Their distance
//! is a line more than their size: at a distance of a power of two the first lines of all would meet in one set of it.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags};

/// Guess, and right for the processors at hand.
const LINE: usize = 64;

/// Buffers, each with one owner.
pub(super) struct Buffers {
    /// The ring's entries, then the buffers themselves.
    memory: Mapping,
    count: u16,
    bytes_each: u32,
    /// The number of recycles so far, modulo 2¹⁶; the kernel has seen those up to `published`.
    tail: u16,
    published: u16,
    /// By buffer; see one-owner-per-buffer.
    is_kernels: Vec<bool>,
}

impl Buffers {
    /// So many buffers, all of them the kernel's from [`register`](Buffers::register) on.
    pub(super) fn new(count: u16, bytes_each: u32) -> io::Result<Buffers> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "{count} buffers are no ring");
        assert!(bytes_each > 0);
        let memory = Mapping::new(entry_bytes(count) + usize::from(count) * distance(bytes_each))?;
        let is_kernels = vec![false; count.into()];
        let mut buffers = Buffers { memory, count, bytes_each, tail: 0, published: 0, is_kernels };
        (0..count).for_each(|buffer| buffers.recycle(buffer));
        buffers.publish();
        Ok(buffers)
    }

    /// Lets a ring receive into them.
    pub(super) fn register(&self, submitter: &Submitter<'_>, group: u16) -> io::Result<()> {
        let address = self.memory.start.as_ptr() as u64;
        // SAFETY: the mapping holds `count` entries at its start, and is dropped after the ring or never.
        #[allow(unsafe_code, reason = "the kernel keeps the address")]
        unsafe {
            submitter.register_buf_ring_with_flags(address, self.count, group, 0)
        }
    }

    /// A completion has named the buffer: it is the caller's.
    pub(super) fn take(&mut self, buffer: u16) {
        let is_kernels = &mut self.is_kernels[usize::from(buffer)];
        assert!(*is_kernels, "one-owner-per-buffer: {buffer} was received into while it was the caller's");
        *is_kernels = false;
    }

    /// Makes a buffer the kernel's, which learns of it at the next [`publish`](Buffers::publish).
    pub(super) fn recycle(&mut self, buffer: u16) {
        let is_kernels = &mut self.is_kernels[usize::from(buffer)];
        assert!(!*is_kernels, "one-owner-per-buffer: {buffer} was recycled twice");
        *is_kernels = true;
        let address = self.start(buffer).as_ptr() as u64;
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: `place` is below `count`. The kernel reads no entry between its head and its tail from here on: the
        // others, this one among them, are ours since no more than `count` buffers can be recycled.
        #[allow(unsafe_code, reason = "entries are memory shared with the kernel")]
        let entry = unsafe { self.memory.start.cast::<BufRingEntry>().add(place).as_mut() };
        // One by one: the ring's tail is in the first entry, behind these.
        entry.set_addr(address);
        entry.set_len(self.bytes_each);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was recycled.
    pub(super) fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        let base = self.memory.start.cast::<BufRingEntry>();
        // SAFETY: the mapping starts with the first entry.
        #[allow(unsafe_code, reason = "the crate finds the tail by the address of the ring")]
        let tail = unsafe { BufRingEntry::tail(base.as_ptr()) };
        // SAFETY: two aligned bytes of the mapping, which this process changes nowhere else.
        #[allow(unsafe_code, reason = "the tail is memory shared with the kernel")]
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release; pairs with the kernel's acquire of the tail where it selects a buffer.
        tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
    }

    pub(super) fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        assert!(
            !self.is_kernels[usize::from(buffer)],
            "one-owner-per-buffer: {buffer} is read while the kernel may write"
        );
        assert!(length <= self.bytes_each as usize);
        // SAFETY: in bounds by the assertion, written by the kernel or zero from the start, and the caller's: nobody
        // writes to it before `recycle`, which takes the exclusive borrow.
        #[allow(unsafe_code, reason = "the memory is a mapping")]
        unsafe {
            std::slice::from_raw_parts(self.start(buffer).as_ptr(), length)
        }
    }

    /// Never unmaps the memory: the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        self.memory.is_leaked = true;
    }

    fn start(&self, buffer: u16) -> NonNull<u8> {
        assert!(buffer < self.count);
        let offset = entry_bytes(self.count) + usize::from(buffer) * distance(self.bytes_each);
        // SAFETY: the mapping was made for so many buffers at this distance.
        #[allow(unsafe_code, reason = "the memory is a mapping")]
        unsafe {
            self.memory.start.add(offset)
        }
    }
}

fn entry_bytes(count: u16) -> usize {
    (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(LINE)
}

fn distance(bytes_each: u32) -> usize {
    (bytes_each as usize).next_multiple_of(LINE) + LINE
}

/// Zeroed memory that begins with a page, as the kernel asks of the entries; given back when dropped.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    is_leaked: bool,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Mapping> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        #[allow(unsafe_code, reason = "mapping over memory in use would be unsound")]
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, access, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).expect("a mapping is not at 0");
        Ok(Mapping { start, bytes, is_leaked: false })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.is_leaked {
            return;
        }
        // SAFETY: slices of it have borrowed the ring that is dropped here, and `Ring::drop` has seen the kernel finish.
        #[allow(unsafe_code, reason = "the memory must not be in use any more")]
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(result.is_ok(), "a mapping can be unmapped: {result:?}");
    }
}
