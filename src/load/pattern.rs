//! What is sent, and what must come back: for each connection an endless row of frames, made on demand.
//!
//! A frame is a prefix, which no other frame of any connection has, and a body, which all have in common; so that a
//! frame costs the writing of its prefix, and the check of a reply one `memcmp`. (A frame of fewer than eight bytes has no
//! room for that: those of one byte repeat after 256.) Every frame of a load has the same
//! length. Nothing here knows a socket or a time. Read next: `connection.rs`.

use crate::load::demand::Demand;
use crate::load::plan::{Framing, Plan, Service};
use crate::load::schedule::{self, Stream};
use crate::random::Random;

/// Most bytes of one read or write.
pub const CHUNK: usize = 64 << 10;

/// Odd, so that multiplying by it loses nothing and neighbours differ in the low byte, all that a frame of one byte has.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// SPREAD × UNSPREAD = 1 in 64 bits.
const UNSPREAD: u64 = 0xf1de_83e1_9937_733d;

/// Bytes of a `work` request before its payload: `u32 length`, `u64 id`, `u64 demand_ns`, `u8 kind`, `u8 class`,
/// `u16 flags`.
pub const WORK_REQUEST_HEADER: usize = 24;

/// The flag of a `work` request that asks for stamps.
const STAMPS_WANTED: u16 = 1;

/// Whose frame it is.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    /// Its number in the load, from 0 on.
    pub connection: u32,
    /// Tells its frames from those of other connections.
    pub key: u64,
}

impl Who {
    /// The connection `connection` of a load with this seed.
    pub fn new(connection: usize, seed: u64) -> Who {
        let key = Random::at(seed, Stream::Keys as u64, connection as u64).next();
        Who { connection: connection as u32, key }
    }

    /// What its request `number` is called on the wire.
    #[inline]
    pub fn id(self, number: u64) -> u64 {
        self.key.wrapping_add(number.wrapping_mul(SPREAD))
    }

    /// The number of the request that is called `id`; some huge number if there is none.
    #[inline]
    pub fn number(self, id: u64) -> u64 {
        id.wrapping_sub(self.key).wrapping_mul(UNSPREAD)
    }
}

/// A place in a row of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The frame.
    pub number: u64,
    /// Bytes of it that lie behind.
    pub offset: usize,
}

impl Cursor {
    /// Frames that were begun up to here.
    #[inline]
    pub fn begun(self) -> u64 {
        self.number + u64::from(self.offset > 0)
    }
}

/// The frames of all connections.
pub struct Pattern {
    layout: Layout,
    /// Bytes of a frame that only it has.
    prefix: usize,
    frame: usize,
    /// Whole frames end to end, or the beginning of a frame that is longer than a chunk.
    frames: Vec<u8>,
    /// The body, endlessly repeated: any `CHUNK` bytes of it lie in one piece.
    body: Vec<u8>,
}

#[derive(Clone)]
enum Layout {
    /// The id, little-endian, as far as there is room.
    Plain,
    Work {
        demand: Demand,
        kind: u8,
        seed: u64,
        payload: usize,
    },
    /// `u32 length`, `u32 sender`, `u64 number`.
    ChatLength,
    /// Sender and number in hexadecimal; ends in LF.
    ChatLine,
    /// A command, always the same.
    Files,
}

impl Pattern {
    /// The frames of a load.
    pub fn new(plan: &Plan) -> Pattern {
        let size = plan.size_bytes;
        let (layout, prefix, frame) = match &plan.service {
            Service::Echo | Service::Discard => (Layout::Plain, size.min(8), size),
            Service::Work { demand, kind } => {
                let layout = Layout::Work { demand: demand.clone(), kind: *kind as u8, seed: plan.seed, payload: size };
                (layout, WORK_REQUEST_HEADER, WORK_REQUEST_HEADER + size)
            }
            Service::Chat { framing: Framing::Length } => (Layout::ChatLength, 4 + 12, 4 + size),
            Service::Chat { framing: Framing::Line } => (Layout::ChatLine, 24, size + 1),
            Service::Files { .. } => (Layout::Files, 0, size),
        };
        if let Service::Files { command, path } = &plan.service {
            let one = format!("{} {path}\n", command.name().to_uppercase()).into_bytes();
            let (frame, frames) = (one.len(), one.repeat((CHUNK + one.len() - 1).div_ceil(one.len())));
            return Pattern { layout: Layout::Files, prefix: 0, frame, frames, body: Vec::new() };
        }
        let mut random = Random::at(plan.seed, Stream::Body as u64, 0);
        let mut body: Vec<u8> = (0..CHUNK).map(|_| random.next() as u8).collect();
        if matches!(layout, Layout::ChatLine) {
            // Neither LF nor CR nor anything that a terminal would act on.
            body.iter_mut().for_each(|byte| *byte = b'a' + *byte % 26);
        }
        body.extend_from_within(..);
        let mut one: Vec<u8> = vec![0; prefix];
        one.extend_from_slice(&body[..(frame - prefix).min(CHUNK - prefix.min(CHUNK))]);
        if matches!(layout, Layout::ChatLine) {
            one[frame - 1] = b'\n';
        }
        let frames = if frame <= CHUNK { one.repeat((CHUNK + frame - 1).div_ceil(frame)) } else { one };
        Pattern { layout, prefix, frame, frames, body }
    }

    /// Bytes of every frame.
    #[inline]
    pub fn frame(&self) -> usize {
        self.frame
    }

    /// Moves `cursor` on by `bytes`; the frames completed on the way.
    #[inline]
    pub fn advance(&self, cursor: &mut Cursor, bytes: usize) -> u64 {
        let offset = cursor.offset + bytes;
        // Division is slow, and most often nothing or one whole frame was moved.
        if offset < self.frame {
            cursor.offset = offset;
            return 0;
        }
        let completed = (offset / self.frame) as u64;
        cursor.number += completed;
        cursor.offset = offset % self.frame;
        completed
    }

    /// Bytes of the row of `who` from `cursor` on: at least one, at most `len`, which is at most [`CHUNK`].
    #[inline]
    pub fn stream(&mut self, who: Who, cursor: Cursor, len: usize) -> &[u8] {
        let Cursor { mut number, offset } = cursor;
        if self.frame <= CHUNK {
            let mut at = 0;
            while at < offset + len {
                self.write_prefix(at, who, number);
                at += self.frame;
                number += 1;
            }
            return &self.frames[offset..offset + len];
        }
        if offset < CHUNK {
            self.write_prefix(0, who, number);
            return &self.frames[offset..CHUNK.min(offset + len)];
        }
        self.body_from(offset - self.prefix, len)
    }

    /// Whether `bytes` are those of the body from its byte `at` on. At most [`CHUNK`] bytes.
    pub fn is_body(&self, at: usize, bytes: &[u8]) -> bool {
        let ends_here = at + bytes.len() == self.frame - self.prefix && !bytes.is_empty();
        match (&self.layout, ends_here) {
            (Layout::ChatLine, true) => {
                let (last, bytes) = bytes.split_last().expect("it is not empty");
                *last == b'\n' && self.body_from(at, bytes.len()) == bytes
            }
            _ => self.body_from(at, bytes.len()) == bytes,
        }
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> usize {
        self.frame - self.prefix
    }

    /// The service time that the request `number` asks for.
    pub fn demand_ns(&self, who: Who, number: u64) -> Option<u64> {
        let Layout::Work { demand, seed, .. } = &self.layout else { return None };
        Some(schedule::demand_ns(demand, *seed, who.connection as usize, number))
    }

    fn body_from(&self, at: usize, len: usize) -> &[u8] {
        let start = at % CHUNK;
        let len = len.min(self.frame - self.prefix - at);
        &self.body[start..start + len]
    }

    #[inline]
    fn write_prefix(&mut self, at: usize, who: Who, number: u64) {
        if let Layout::Plain = self.layout {
            let id = who.id(number).to_le_bytes();
            // A length that the compiler knows is one store; this is done for every request and every reply.
            match self.frames[at..].first_chunk_mut() {
                Some(prefix) if self.prefix == 8 => *prefix = id,
                _ => self.frames[at..at + self.prefix].copy_from_slice(&id[..self.prefix]),
            }
            return;
        }
        let demand_ns = self.demand_ns(who, number).unwrap_or_default();
        let prefix = &mut self.frames[at..at + self.prefix];
        match &self.layout {
            Layout::Plain => unreachable!("it was written above"),
            Layout::Files => {}
            Layout::Work { kind, payload, .. } => {
                let length = (WORK_REQUEST_HEADER - 4 + payload) as u32;
                prefix[..4].copy_from_slice(&length.to_be_bytes());
                prefix[4..12].copy_from_slice(&who.id(number).to_be_bytes());
                prefix[12..20].copy_from_slice(&demand_ns.to_be_bytes());
                prefix[20..22].copy_from_slice(&[*kind, 0]);
                prefix[22..24].copy_from_slice(&STAMPS_WANTED.to_be_bytes());
            }
            Layout::ChatLength => {
                let length = (self.frame - 4) as u32;
                prefix[..4].copy_from_slice(&length.to_be_bytes());
                prefix[4..8].copy_from_slice(&who.connection.to_be_bytes());
                prefix[8..16].copy_from_slice(&number.to_be_bytes());
            }
            Layout::ChatLine => {
                write_hex(&mut prefix[..8], u64::from(who.connection));
                write_hex(&mut prefix[8..24], number);
            }
        }
    }

    /// The prefix of a chat message: its sender and number, if it is one of ours.
    pub fn read_chat_prefix(&self, prefix: &[u8]) -> Option<(u32, u64)> {
        match self.layout {
            Layout::ChatLength => {
                let length = u32::from_be_bytes(prefix[..4].try_into().expect("four bytes"));
                let sender = u32::from_be_bytes(prefix[4..8].try_into().expect("four bytes"));
                let number = u64::from_be_bytes(prefix[8..16].try_into().expect("eight bytes"));
                (length as usize == self.frame - 4).then_some((sender, number))
            }
            Layout::ChatLine => Some((u32::try_from(read_hex(&prefix[..8])?).ok()?, read_hex(&prefix[8..24])?)),
            Layout::Plain | Layout::Work { .. } | Layout::Files => None,
        }
    }

    /// Bytes of the prefix.
    pub fn prefix_len(&self) -> usize {
        self.prefix
    }
}

fn write_hex(out: &mut [u8], value: u64) {
    for (index, byte) in out.iter_mut().rev().enumerate() {
        *byte = b"0123456789abcdef"[(value >> (4 * index)) as usize & 15];
    }
}

fn read_hex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |value: u64, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::LoadArgs;

    fn pattern(target: &str, size: &str, flags: &[(&str, &str)]) -> Pattern {
        let mut args = LoadArgs { target: target.to_owned(), size: Some(size.to_owned()), ..LoadArgs::default() };
        for (flag, value) in flags {
            let value = Some((*value).to_owned());
            match *flag {
                "framing" => args.framing = value,
                "demand" => args.demand = value,
                _ => args.connections = value,
            }
        }
        Pattern::new(&Plan::resolve(&args).expect("the flags are right"))
    }

    /// The first `len` bytes of a row, made in pieces of at most `piece`.
    fn row(pattern: &mut Pattern, who: Who, len: usize, piece: usize) -> Vec<u8> {
        let (mut cursor, mut bytes) = (Cursor::default(), Vec::new());
        while bytes.len() < len {
            let made = pattern.stream(who, cursor, piece.min(len - bytes.len()));
            assert!(!made.is_empty());
            bytes.extend_from_slice(made);
            let count = made.len();
            pattern.advance(&mut cursor, count);
        }
        assert_eq!(cursor.number as usize * pattern.frame() + cursor.offset, len);
        bytes
    }

    #[test]
    fn how_a_row_is_cut_does_not_change_it() {
        let who = Who::new(3, 1);
        let chat = &[("connections", "5")][..];
        let line = &[("connections", "5"), ("framing", "line")][..];
        let exponential = &[("demand", "exp:5us")][..];
        for (target, size, flags) in [
            ("tcp://h:1", "1", &[][..]),
            ("tcp://h:1", "7", &[]),
            ("tcp://h:1", "64", &[]),
            ("tcp://h:1", "64KiB", &[]),
            ("tcp://h:1", "65537", &[]),
            ("discard=tcp://h:1", "300000", &[]),
            ("chat=tcp://h:1", "12", chat),
            ("chat=tcp://h:1", "200KiB", chat),
            ("chat=tcp://h:1", "24", line),
            ("work=tcp://h:1", "0", exponential),
            ("work=tcp://h:1", "100000", exponential),
        ] {
            let mut pattern = pattern(target, size, flags);
            let len = 3 * pattern.frame() + pattern.frame() / 2 + 1;
            let whole = row(&mut pattern, who, len, CHUNK);
            for piece in [1, 5, 4096].into_iter().filter(|piece| len / piece < 20_000) {
                assert!(row(&mut pattern, who, len, piece) == whole, "{target} {size} in pieces of {piece}");
            }
            let other = row(&mut pattern, Who::new(4, 1), len, CHUNK);
            assert!(other != whole, "{target} {size}: another connection sends other bytes");
        }
    }

    #[test]
    fn a_frame_is_its_prefix_and_the_common_body() {
        for (target, size) in [("work=tcp://h:1", "150000"), ("work=tcp://h:1", "10"), ("echo=udp://h:1", "100")] {
            let mut pattern = pattern(target, size, &[]);
            let len = pattern.frame();
            let frame = row(&mut pattern, Who::new(0, 1), len, CHUNK);
            let mut body = frame[pattern.prefix_len()..].to_vec();
            for (index, piece) in body.chunks(CHUNK).enumerate() {
                assert!(pattern.is_body(index * CHUNK, piece));
            }
            let last = body.len() - 1;
            body[last] ^= 1;
            let from = last / CHUNK * CHUNK;
            assert!(!pattern.is_body(from, &body[from..]));
        }
        let mut lines = pattern("chat=tcp://h:1", "40", &[("connections", "2"), ("framing", "line")]);
        let row = row(&mut lines, Who::new(1, 1), 41, CHUNK);
        assert!(row.ends_with(b"\n") && row[..40].iter().all(u8::is_ascii_alphanumeric));
        assert_eq!(lines.read_chat_prefix(&row[..24]), Some((1, 0)));
        assert!(lines.is_body(0, &row[24..]) && !lines.is_body(0, &[row[24..40].to_vec(), b"x".to_vec()].concat()));
    }

    #[test]
    fn an_id_names_its_request_and_no_other_connections() {
        let (one, other) = (Who::new(0, 1), Who::new(1, 1));
        for number in [0, 1, 77, 1 << 40] {
            assert_eq!(one.number(one.id(number)), number);
            assert!(other.number(one.id(number)) > 1 << 41, "as good as never sent");
        }
    }

    #[test]
    fn the_same_request_asks_for_the_same_time_whenever_its_frame_is_made() {
        let pattern = pattern("work=tcp://h:1", "0", &[("demand", "exp:5us")]);
        let who = Who::new(2, 1);
        let demands: Vec<_> = (0..100).map(|number| pattern.demand_ns(who, number)).collect();
        assert!(demands.windows(2).any(|pair| pair[0] != pair[1]));
        assert_eq!((0..100).rev().map(|number| pattern.demand_ns(who, number)).rev().collect::<Vec<_>>(), demands);
        let mean = (0..20_000).filter_map(|number| pattern.demand_ns(who, number)).sum::<u64>() / 20_000;
        // Four deviations of the mean of as many.
        assert!((4_860..5_140).contains(&mean), "{mean}");
    }
}
