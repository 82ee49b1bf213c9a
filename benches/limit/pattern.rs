//! What is sent and what must come back: an endless stream per connection, made on demand and
//! compared with one `memcmp`, so that verifying a reply costs next to nothing.

use crate::random::Random;

/// Most bytes of one read or write.
pub(crate) const CHUNK: usize = 64 << 10;

/// The bytes that every connection sends and expects: requests of `size` bytes, each a header that
/// no other request of any connection has, then a body common to all.
pub(crate) struct Pattern {
    /// Whole requests end to end; only headers are ever rewritten.
    bytes: Vec<u8>,
    size: usize,
    header: usize,
}

impl Pattern {
    pub(crate) fn new(size: usize, random: &mut Random) -> Self {
        let requests = (CHUNK + size - 1).div_ceil(size);
        let body: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        Self { bytes: body.repeat(requests), size, header: size.min(8) }
    }

    /// Bytes of one request.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// At most `CHUNK` bytes of the stream of the connection `key`, from `cursor` on.
    #[inline]
    pub(crate) fn stream(&mut self, key: u64, cursor: Cursor, len: usize) -> &[u8] {
        let requests = (cursor.offset + len).div_ceil(self.size);
        let slots = self.bytes.chunks_exact_mut(self.size).take(requests);
        for (slot, request) in slots.zip(cursor.request..) {
            // An odd factor, so that neighbours differ in the low byte, all a tiny request carries.
            let header = key.wrapping_add(request.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            slot[..self.header].copy_from_slice(&header.to_le_bytes()[..self.header]);
        }
        &self.bytes[cursor.offset..cursor.offset + len]
    }
}

/// A place in a stream of requests of equal size.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    pub(crate) request: u64,
    pub(crate) offset: usize,
}

impl Cursor {
    /// How many requests were completed on the way.
    #[inline]
    pub(crate) fn advance(&mut self, bytes: usize, size: usize) -> u64 {
        let offset = self.offset + bytes;
        let completed = (offset / size) as u64;
        self.request += completed;
        self.offset = offset % size;
        completed
    }
}
