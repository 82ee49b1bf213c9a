//! The slices of one system call: what a write takes its bytes from, and what a read puts them into.
//!
//! Read next: `buffer.rs`, whose memory they are of.

use std::io::{IoSlice, IoSliceMut};

/// Slices that the rings of a session can come to: two of forwarded input, two of outbound bytes, two of held input.
pub(super) const RING_SLICES: usize = 6;

/// The slices of one write, empty ones left out; at most `MOST`, what is more waits for the next write.
pub(super) struct Gather<'a, const MOST: usize> {
    slices: [IoSlice<'a>; MOST],
    count: usize,
    len: usize,
}

impl<'a, const MOST: usize> Gather<'a, MOST> {
    pub(super) fn new() -> Self {
        Gather { slices: [IoSlice::new(&[]); MOST], count: 0, len: 0 }
    }

    pub(super) fn slices(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.count]
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, slice: &'a [u8]) {
        if !slice.is_empty() && self.count < MOST {
            self.slices[self.count] = IoSlice::new(slice);
            self.count += 1;
            self.len += slice.len();
        }
    }
}

/// Calls `read` with one slice, or with two if the lent memory wraps.
pub(super) fn with_io_slices<T>(
    (first, second): (&mut [u8], &mut [u8]),
    read: impl FnOnce(&mut [IoSliceMut<'_>]) -> T,
) -> T {
    if second.is_empty() {
        read(&mut [IoSliceMut::new(first)])
    } else {
        read(&mut [IoSliceMut::new(first), IoSliceMut::new(second)])
    }
}
