//! What holds of a framer for any bytes, however they come: the body of the fuzz targets `framing_length`, `framing_line`
//! and `framing_nul`, which `tests/framing.rs` runs too.
//!
//! A plain reading of the whole stream, byte by byte, says what frames it has and which byte tells of each. Then the
//! stream comes in pieces, through a ring that wraps where it likes and is hardly larger than the largest frame: after
//! each piece the framer has to know what the bytes so far tell, and no less. A frame by length that is larger than the
//! ring is gathered in one buffer of its size.
//!
//! The first [`HEADER`] bytes of an input choose limits, ring and pieces; the others are the stream.

#![allow(dead_code, reason = "each target uses a part of it")]

use maitred::random::Random;
use maitred::session::framing::{Found, Framer, Framing};
use maitred::session::handler::Chunks;

/// Bytes of an input before its stream.
pub(crate) const HEADER: usize = 3;

/// What ends a frame, or begins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Length,
    Line,
    Nul,
}

impl Kind {
    /// With the limits that the first byte of an input chooses.
    pub(crate) fn framing(self, choice: u8) -> Framing {
        let pick = |from: &[u32]| from[usize::from(choice) % from.len()];
        let most = pick(&[1, 2, 3, 8, 64, 300, 8_192, u32::MAX]);
        match self {
            Kind::Length => Framing::Length { least: pick(&[0, 0, 1, 5, 20]).min(most), most },
            Kind::Line => Framing::Line { most },
            Kind::Nul => Framing::Nul { most },
        }
    }
}

/// Checks one input.
pub(crate) fn check(kind: Kind, input: &[u8]) {
    let Some((&[limits, slack, seed], stream)) = input.split_first_chunk::<HEADER>() else { return };
    let framing = kind.framing(limits);
    let items = read_plainly(framing, stream);
    let slack = [0, 1, 7, 1 << 16][usize::from(slack) % 4];
    let ring_bytes = slack
        + match framing {
            Framing::Length { .. } => 4 + usize::from(slack > 7) * stream.len(),
            // Nobody can gather what has no length: the longest frame there is must fit.
            Framing::Line { most } | Framing::Nul { most } => stream.len().clamp(1, most as usize),
        };
    for pieces in [Pieces::OneByte, Pieces::AllThatFits, Pieces::Drawn(Random::new(u64::from(seed)))] {
        let ring = Ring { memory: vec![0; ring_bytes], start: usize::from(seed) % ring_bytes, len: 0 };
        deliver(framing, stream, &items, ring, pieces);
    }
}

/// One frame of a stream, or what stands in place of the rest.
struct Item<'a> {
    what: What<'a>,
    /// Bytes of it that have to come until anybody can tell.
    told_by: usize,
    /// All its bytes, where its first four say so.
    length: Option<usize>,
}

#[derive(Debug, PartialEq)]
enum What<'a> {
    /// With this body.
    Frame(&'a [u8]),
    TooShort,
    TooLong,
    /// Its end does not come.
    Unfinished,
}

/// All items of the stream; only the last is no frame.
fn read_plainly(framing: Framing, stream: &[u8]) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut rest = stream;
    loop {
        let item = match framing {
            Framing::Length { least, most } => read_length(rest, least, most),
            Framing::Line { most } => read_until(b'\n', rest, most),
            Framing::Nul { most } => read_until(0, rest, most),
        };
        let is_frame = matches!(item.what, What::Frame(_));
        if is_frame {
            rest = &rest[item.told_by..];
        }
        items.push(match item.what {
            What::Frame(body) if matches!(framing, Framing::Line { .. }) => {
                Item { what: What::Frame(body.strip_suffix(b"\r").unwrap_or(body)), ..item }
            }
            _ => item,
        });
        if !is_frame {
            return items;
        }
    }
}

fn read_length(rest: &[u8], least: u32, most: u32) -> Item<'_> {
    if rest.len() < 4 {
        return Item { what: What::Unfinished, told_by: usize::MAX, length: None };
    }
    let length = rest[..4].iter().fold(0, |length, byte| length * 256 + u64::from(*byte));
    if length > u64::from(most) || length < u64::from(least) {
        let what = if length > u64::from(most) { What::TooLong } else { What::TooShort };
        return Item { what, told_by: 4, length: None };
    }
    let bytes = 4 + length as usize;
    match rest.get(4..bytes) {
        Some(body) => Item { what: What::Frame(body), told_by: bytes, length: Some(bytes) },
        None => Item { what: What::Unfinished, told_by: usize::MAX, length: Some(bytes) },
    }
}

fn read_until(end: u8, rest: &[u8], most: u32) -> Item<'_> {
    for (at, byte) in rest.iter().enumerate() {
        if *byte == end {
            return Item { what: What::Frame(&rest[..at]), told_by: at + 1, length: None };
        }
        if at as u64 + 1 == u64::from(most) {
            return Item { what: What::TooLong, told_by: at + 1, length: None };
        }
    }
    Item { what: What::Unfinished, told_by: usize::MAX, length: None }
}

/// How a stream is cut.
enum Pieces {
    OneByte,
    AllThatFits,
    Drawn(Random),
}

impl Pieces {
    fn next(&mut self) -> usize {
        match self {
            Pieces::OneByte => 1,
            Pieces::AllThatFits => usize::MAX,
            Pieces::Drawn(random) => {
                let longest = [3, 20, 600][random.below(3)];
                1 + random.below(longest)
            }
        }
    }
}

/// A ring that never starts again at its first byte, or a buffer of one frame.
struct Ring {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Ring {
    fn shown(&self) -> Chunks<'_> {
        let (behind, before) = (&self.memory[self.start..], &self.memory[..self.start]);
        let in_first = self.len.min(behind.len());
        Chunks::new(&behind[..in_first], &before[..self.len - in_first])
    }

    /// Takes as many of these bytes as fit; how many.
    fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.memory.len() - self.len);
        for byte in &bytes[..count] {
            let end = (self.start + self.len) % self.memory.len();
            self.memory[end] = *byte;
            self.len += 1;
        }
        count
    }

    fn take(&mut self, count: usize) {
        self.start = (self.start + count) % self.memory.len();
        self.len -= count;
    }

    /// Moves what it holds to the front of a buffer of so many bytes.
    fn move_to(&mut self, bytes: usize) -> Ring {
        let mut memory = vec![0; bytes];
        self.shown().copy_to(&mut memory[..self.len]);
        let len = self.len;
        self.take(len);
        Ring { memory, start: 0, len }
    }
}

/// Lets the stream come in these pieces, and checks what is found after each.
fn deliver(framing: Framing, stream: &[u8], items: &[Item<'_>], mut ring: Ring, mut pieces: Pieces) {
    let (mut framer, mut blind) = (Framer::new(framing), Blind::new(framing));
    let mut rest = stream;
    let mut gathered: Option<Ring> = None;
    let mut items = items.iter();
    let mut item = items.next().expect("there is a last one");
    loop {
        let holder = gathered.as_mut().unwrap_or(&mut ring);
        let found = framer.find(holder.shown());
        blind.check(&found, holder.shown());
        let is_told = holder.len >= item.told_by;
        match found {
            Found::Frame { body, bytes } => {
                assert!(is_told && bytes == item.told_by, "{bytes} bytes are no frame");
                assert_eq!(What::Frame(&joined(body)), item.what);
                assert_lies_in(&holder.memory, body);
                holder.take(bytes);
                if let Some(buffer) = gathered.take() {
                    assert_eq!(buffer.len, 0, "it is of this frame's size");
                }
                item = items.next().expect("a frame is not the last item");
                continue;
            }
            Found::TooShort | Found::TooLong => {
                let what = if matches!(found, Found::TooLong) { What::TooLong } else { What::TooShort };
                assert!(is_told, "{what:?} after {} bytes", holder.len);
                assert_eq!(what, item.what);
                return;
            }
            Found::Part { bytes } => {
                assert!(!is_told && item.length == Some(bytes), "not a part of {bytes} bytes");
                if bytes > ring.memory.len() && gathered.is_none() {
                    // What does not come needs no room.
                    gathered = Some(ring.move_to(bytes.min(ring.len + rest.len())));
                }
            }
            Found::More => assert!(!is_told && (holder.len < 4 || item.length.is_none()), "all is known by now"),
        }
        if rest.is_empty() {
            assert_eq!(item.what, What::Unfinished);
            return;
        }
        let holder = gathered.as_mut().unwrap_or(&mut ring);
        let count = holder.fill(&rest[..pieces.next().min(rest.len())]);
        assert!(count > 0, "nobody can tell, and no more fits");
        rest = &rest[count..];
    }
}

fn joined(chunks: Chunks<'_>) -> Vec<u8> {
    let (first, second) = chunks.slices();
    [first, second].concat()
}

/// The body is no copy.
fn assert_lies_in(memory: &[u8], body: Chunks<'_>) {
    let (first, second) = body.slices();
    for slice in [first, second].into_iter().filter(|slice| !slice.is_empty()) {
        let (whole, part) = (memory.as_ptr_range(), slice.as_ptr_range());
        assert!(whole.start <= part.start && part.end <= whole.end, "the body was copied");
    }
}

/// A framer that sees nothing but ends where it has searched before: it must not notice.
struct Blind {
    framer: Framer,
    end: Option<u8>,
    shown: Vec<u8>,
}

impl Blind {
    fn new(framing: Framing) -> Blind {
        let end = match framing {
            Framing::Length { .. } => None,
            Framing::Line { .. } => Some(b'\n'),
            Framing::Nul { .. } => Some(0),
        };
        Blind { framer: Framer::new(framing), end, shown: Vec::new() }
    }

    fn check(&mut self, expected: &Found<'_>, shown: Chunks<'_>) {
        let Some(end) = self.end else { return };
        let searched = self.shown.len();
        self.shown.extend(joined(shown.range(searched..shown.len())));
        let found = self.framer.find(Chunks::new(&self.shown, &[]));
        match (found, expected) {
            (Found::Frame { bytes, .. }, Found::Frame { bytes: expected, .. }) => {
                assert_eq!(bytes, *expected, "bytes were searched twice");
                self.shown.clear();
            }
            (Found::More, Found::More) => self.shown[searched..].fill(end),
            (Found::TooLong, Found::TooLong) => {}
            (found, expected) => panic!("bytes were searched twice: {found:?} instead of {expected:?}"),
        }
    }
}
