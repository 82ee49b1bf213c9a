//! Framing: where in a stream of bytes one message ends and the next begins.
//!
//! Pure: a [`Framer`] is shown what has come and not been taken, and says what lies at its front. A frame that is all there
//! is a range of what was shown, so nothing is copied and nothing allocated; who is told the length of one that is not
//! can make room for exactly that. What the frames mean is for services; who holds the bytes meanwhile, for the session.
//!
//! Invariants:
//! - *limit-before-memory*: what is too long is refused as soon as it shows: at the fourth byte of a length, whatever the
//!   length, and at the last byte that a line may have.
//! - *looked-at-once*: no byte is searched twice for the end of a frame, however it comes.
//! - *same-start*: what is shown begins where it began the last time, unless that was a frame and has been taken. It is
//!   what lets a framer remember one number only.
//!
//! Why, and what it costs: `design/framing.md`. Read next: [`Chunks`], whose ranges frames are.

use super::handler::Chunks;

/// The longest line of the text protocols, its LF included.
pub const LINE_BYTES_MAX: u32 = 8 << 10;

/// Bytes of a length.
const LENGTH_BYTES: usize = 4;

/// How frames are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A `u32`, big-endian, says how many bytes of body follow it.
    Length {
        /// The least that it may say.
        least: u32,
        /// The most that it may say.
        most: u32,
    },
    /// LF ends a line; a CR before it is dropped.
    Line {
        /// The most bytes of a line, with its LF and its CR.
        most: u32,
    },
    /// NUL ends a frame.
    Nul {
        /// The most bytes of a frame, with its NUL.
        most: u32,
    },
}

/// What lies at the front of the bytes shown.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub enum Found<'a> {
    /// A whole frame. The next one is behind `bytes`.
    Frame {
        /// What it says: without its length, or without what ends it.
        body: Chunks<'a>,
        /// All its bytes, those that are not of the body too.
        bytes: usize,
    },
    /// The beginning of a frame of so many bytes in all.
    Part {
        /// All its bytes.
        bytes: usize,
    },
    /// The beginning of a frame, and nothing yet that says how long it is.
    More,
    /// Its length is less than this protocol's frames have.
    TooShort,
    /// It is longer than is allowed, by its length or by the bytes that have come without an end.
    TooLong,
}

/// Finds the frames of one stream, one after the other.
#[derive(Clone, Debug)]
pub struct Framer {
    framing: Framing,
    /// Bytes at the front of what was shown last that do not end the frame. Never more than were shown, nor than are
    /// allowed.
    searched: u32,
}

impl Framer {
    /// A framer at the beginning of a stream.
    pub fn new(framing: Framing) -> Framer {
        Framer { framing, searched: 0 }
    }

    /// What lies at the front of `input`: all that has come and was not taken. A frame that is not taken is found again.
    ///
    /// # Panics
    /// *same-start*: if fewer bytes are shown than the last time, and no frame was found then.
    #[inline]
    pub fn find<'a>(&mut self, input: Chunks<'a>) -> Found<'a> {
        match self.framing {
            Framing::Length { least, most } => find_by_length(input, least, most),
            Framing::Line { most } => match self.find_by_end(input, b'\n', most) {
                Found::Frame { body, bytes } => Found::Frame { body: without_cr(body), bytes },
                other => other,
            },
            Framing::Nul { most } => self.find_by_end(input, 0, most),
        }
    }

    #[inline]
    fn find_by_end<'a>(&mut self, input: Chunks<'a>, end: u8, most: u32) -> Found<'a> {
        let shown = u32::try_from(input.len()).unwrap_or(u32::MAX).min(most);
        assert!(self.searched <= shown, "same-start: {} bytes were searched, {shown} are shown", self.searched);
        let searched = self.searched as usize;
        match input.range(searched..shown as usize).position(end) {
            Some(distance) => {
                self.searched = 0;
                let body = input.range(0..searched + distance);
                Found::Frame { body, bytes: body.len() + 1 }
            }
            None => {
                self.searched = shown;
                if shown < most { Found::More } else { Found::TooLong }
            }
        }
    }
}

#[inline]
fn find_by_length(input: Chunks<'_>, least: u32, most: u32) -> Found<'_> {
    let Some(length) = input.u32_at(0) else { return Found::More };
    if length > most {
        return Found::TooLong;
    }
    if length < least {
        return Found::TooShort;
    }
    let bytes = LENGTH_BYTES + length as usize;
    if bytes > input.len() {
        return Found::Part { bytes };
    }
    Found::Frame { body: input.range(LENGTH_BYTES..bytes), bytes }
}

#[inline]
fn without_cr(line: Chunks<'_>) -> Chunks<'_> {
    match line.len().checked_sub(1) {
        Some(last) if line.byte_at(last) == Some(b'\r') => line.range(0..last),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Framing = Framing::Line { most: 8 };
    const NUL: Framing = Framing::Nul { most: 4 };
    const LENGTH: Framing = Framing::Length { least: 2, most: 5 };

    /// What was found, with a body as text.
    fn shown(found: Found<'_>) -> String {
        match found {
            Found::Frame { body, bytes } => {
                let mut text = vec![0; body.len()];
                body.copy_to(&mut text);
                format!("{} of {bytes}", text.escape_ascii())
            }
            Found::Part { bytes } => format!("part of {bytes}"),
            Found::More => "more".to_owned(),
            Found::TooShort => "too short".to_owned(),
            Found::TooLong => "too long".to_owned(),
        }
    }

    #[test]
    fn what_lies_at_the_front_is_found_wherever_the_memory_wraps() {
        for (framing, input, expected) in [
            (LINE, &b""[..], "more"),
            (LINE, b"\n", " of 1"),
            (LINE, b"\r\n", " of 2"),
            (LINE, b"\r", "more"),
            (LINE, b"one\r\ntwo\n", "one of 5"),
            (LINE, b"a\rb\r\r\n", "a\\rb\\r of 6"),
            (LINE, b"seven..\n", "seven.. of 8"),
            (LINE, b"seven..", "more"),
            (LINE, b"eight...", "too long"),
            (LINE, b"eight...\n", "too long"),
            (LINE, b"seven..\r\n", "too long"),
            (NUL, b"", "more"),
            (NUL, b"\0\0", " of 1"),
            (NUL, b"\r\n\0", "\\r\\n of 3"),
            (NUL, b"abc\0", "abc of 4"),
            (NUL, b"abc", "more"),
            (NUL, b"abcd", "too long"),
            (LENGTH, b"", "more"),
            (LENGTH, b"\0\0\0", "more"),
            (LENGTH, b"\0\0\0\0", "too short"),
            (LENGTH, b"\0\0\0\x01", "too short"),
            (LENGTH, b"\0\0\0\x02", "part of 6"),
            (LENGTH, b"\0\0\0\x02a", "part of 6"),
            (LENGTH, b"\0\0\0\x02ab", "ab of 6"),
            (LENGTH, b"\0\0\0\x05abcdefgh", "abcde of 9"),
            (LENGTH, b"\0\0\0\x06", "too long"),
            (LENGTH, b"\0\0\x01\x02", "too long"),
            (LENGTH, b"\xff\xff\xff\xff", "too long"),
            (Framing::Length { least: 0, most: u32::MAX }, b"\xff\xff\xff\xff", "part of 4294967299"),
            (Framing::Length { least: 0, most: u32::MAX }, b"\0\0\0\0", " of 4"),
        ] {
            for wrap in 0..=input.len() {
                let chunks = Chunks::new(&input[..wrap], &input[wrap..]);
                let found = Framer::new(framing).find(chunks);
                assert_eq!(shown(found), expected, "{framing:?} {} at {wrap}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn what_was_searched_is_not_searched_again() {
        for (framing, end) in [(Framing::Line { most: 100 }, b'\n'), (Framing::Nul { most: 100 }, 0)] {
            let mut framer = Framer::new(framing);
            assert_eq!(shown(framer.find(Chunks::new(b"once", &[]))), "more");
            // An end among the bytes that were searched can only be found by whoever searches them again.
            let behind = [b'o', b'n', b'c', end, b'x', end];
            assert_eq!(shown(framer.find(Chunks::new(&behind[..5], &[]))), "more");
            let Found::Frame { bytes, .. } = framer.find(Chunks::new(&behind, &[])) else { panic!("its end has come") };
            assert_eq!(bytes, 6);
        }
    }

    #[test]
    fn a_frame_that_is_not_taken_is_found_again() {
        let mut framer = Framer::new(LINE);
        let input = Chunks::new(b"one\nt", b"wo\n");
        for _ in 0..3 {
            assert_eq!(shown(framer.find(input)), "one of 4");
        }
        assert_eq!(shown(framer.find(input.range(4..8))), "two of 4");
        assert_eq!(shown(framer.find(input.range(8..8))), "more");
    }

    #[test]
    #[should_panic = "same-start"]
    fn bytes_taken_from_the_middle_of_a_frame_are_missed() {
        let mut framer = Framer::new(LINE);
        let _ = framer.find(Chunks::new(b"half", &[]));
        let _ = framer.find(Chunks::new(b"lf", &[]));
    }
}
