//! [`Input`]: lines of what a terminal sends, telnet's commands taken out of them.
//!
//! A telnet client mixes commands with the text: a byte 255 (IAC) and what belongs to it, which may hold line ends of its
//! own. So they are taken out before lines are looked for. The client offers options and asks for some; each is declined,
//! the first [`OPTIONS_MOST`] of a session at least, and a client that goes on asking is no longer answered. Whoever sends
//! no IAC sees nothing of all this.
//!
//! Pure, and the same however the bytes are cut. Read next: `../console.rs`.

use crate::session::framing::LINE_BYTES_MAX;
use crate::session::handler::Chunks;

/// Options of one session that are declined; those that clients know are about fifty.
const OPTIONS_MOST: u32 = 64;

/// Bytes that the particulars of an option may have. None was asked for, and a window's size takes four.
const PARTICULARS_MOST: u32 = 1 << 10;

const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
const SUBNEGOTIATION: u8 = 250;
const SUBNEGOTIATION_END: u8 = 240;

/// What has come of a line so far, and where in a command the text breaks off.
pub(super) struct Input {
    line: Vec<u8>,
    state: State,
    options_left: u32,
    /// The peer has sent an IAC: it is a telnet client, for which CR LF ends a line.
    pub(super) is_telnet: bool,
}

#[derive(Clone, Copy)]
enum State {
    Text,
    /// Behind an IAC.
    Command,
    /// Behind WILL, WONT, DO or DONT: the option follows.
    Option(u8),
    /// In the particulars of an option, with so many bytes of them.
    Particulars(u32),
    /// Behind an IAC in there.
    ParticularsCommand(u32),
}

/// What the bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// These have been taken, and the line goes on.
    More(usize),
    /// These have been taken, the last of which ends a line.
    Line(usize),
    /// The line is longer than is allowed.
    TooLong,
    /// The particulars of an option do not end.
    Endless,
}

impl Input {
    pub(super) fn new() -> Input {
        Input { line: Vec::new(), state: State::Text, options_left: OPTIONS_MOST, is_telnet: false }
    }

    /// Takes bytes up to the end of a line; what a telnet client is to be answered is appended to `answers`.
    pub(super) fn feed(&mut self, input: Chunks<'_>, answers: &mut Vec<u8>) -> Fed {
        let (first, second) = input.slices();
        for (at, &byte) in first.iter().chain(second).enumerate() {
            if let Err(fed) = self.take(byte, answers) {
                return match fed {
                    Fed::Line(_) => Fed::Line(at + 1),
                    broken => broken,
                };
            }
        }
        Fed::More(input.len())
    }

    /// The line that has ended, without its end.
    pub(super) fn take_line(&mut self) -> Vec<u8> {
        let mut line = std::mem::take(&mut self.line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        line
    }

    /// An error says that something has ended, if only a line.
    fn take(&mut self, byte: u8, answers: &mut Vec<u8>) -> Result<(), Fed> {
        self.state = match (self.state, byte) {
            (State::Text, IAC) => {
                self.is_telnet = true;
                State::Command
            }
            (State::Text, b'\n') => return Err(Fed::Line(0)),
            // A telnet client's other end of a line, when it sends each key as it is pressed (RFC 854).
            (State::Text, 0) if self.is_telnet && self.line.last() == Some(&b'\r') => return Err(Fed::Line(0)),
            (State::Text, byte) => self.put(byte)?,
            (State::Command, IAC) => self.put(IAC)?,
            (State::Command, WILL | WONT | DO | DONT) => State::Option(byte),
            (State::Command, SUBNEGOTIATION) => State::Particulars(0),
            // Commands of two bytes: interrupt, erase, are you there. None means anything to a line.
            (State::Command, _) => State::Text,
            (State::Option(verb), option) => {
                self.decline(verb, option, answers);
                State::Text
            }
            (State::Particulars(PARTICULARS_MOST), _) => return Err(Fed::Endless),
            (State::Particulars(len), IAC) => State::ParticularsCommand(len),
            (State::Particulars(len), _) => State::Particulars(len + 1),
            (State::ParticularsCommand(_), SUBNEGOTIATION_END) => State::Text,
            (State::ParticularsCommand(len), _) => State::Particulars(len + 1),
        };
        Ok(())
    }

    fn put(&mut self, byte: u8) -> Result<State, Fed> {
        // With its LF it may have as many bytes as any line.
        if self.line.len() + 1 == LINE_BYTES_MAX as usize {
            return Err(Fed::TooLong);
        }
        self.line.push(byte);
        Ok(State::Text)
    }

    /// Says no to an offer or a wish. A refusal of the peer's needs no answer.
    fn decline(&mut self, verb: u8, option: u8, answers: &mut Vec<u8>) {
        let answer = match verb {
            WILL => DONT,
            DO => WONT,
            _ => return,
        };
        if let Some(left) = self.options_left.checked_sub(1) {
            self.options_left = left;
            answers.extend([IAC, answer, option]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a text, and what a telnet client is answered, whichever way the text is cut.
    #[track_caller]
    fn check(text: &[u8], lines: &[&[u8]], answered: &[u8]) {
        for cut in 0..=text.len() {
            let (mut input, mut answers, mut found) = (Input::new(), Vec::new(), Vec::new());
            for mut piece in [&text[..cut], &text[cut..]] {
                while let Fed::Line(taken) = input.feed(Chunks::new(piece, &[]), &mut answers) {
                    found.push(input.take_line());
                    piece = &piece[taken..];
                }
            }
            assert_eq!(found, lines, "cut at {cut}");
            assert_eq!(answers, answered, "cut at {cut}");
        }
    }

    #[test]
    fn lines_end_in_lf_and_lose_a_cr() {
        check(b"one\ntwo\r\n\n\rthree\r\r\nfour", &[b"one", b"two", b"", b"\rthree\r"], b"");
    }

    #[test]
    fn commands_of_telnet_are_no_text() {
        let naws = [IAC, SUBNEGOTIATION, 31, 0, b'\n', 0, IAC, IAC, IAC, SUBNEGOTIATION_END];
        let text = [&[IAC, WILL, 31, IAC, DO, 1, IAC, WONT, 3, IAC, DONT, 5], &naws[..], b"he", &[IAC, 246], b"lp\r\n"];
        check(&text.concat(), &[b"help"], &[IAC, DONT, 31, IAC, WONT, 1]);
        check(&[b'a', IAC, IAC, b'b', b'\n'], &[&[b'a', 255, b'b']], b"");
        check(&[&b"a\r\0b\r\0\n"[..], &[IAC, 246], b"c\r\0d\0\r\0"].concat(), &[b"a\r\0b\r\0", b"c", b"d\0"], b"");
    }

    #[test]
    fn whoever_offers_without_end_is_no_longer_answered() {
        let (mut input, mut answers) = (Input::new(), Vec::new());
        let offers = [IAC, WILL, 200].repeat(1_000);
        assert_eq!(input.feed(Chunks::new(&offers, &[]), &mut answers), Fed::More(3_000));
        assert_eq!(answers, [IAC, DONT, 200].repeat(OPTIONS_MOST as usize));
    }

    #[test]
    fn nothing_grows_without_end() {
        let long = vec![b'x'; LINE_BYTES_MAX as usize];
        let mut answers = Vec::new();
        assert_eq!(Input::new().feed(Chunks::new(&long, &[]), &mut answers), Fed::TooLong);
        let mut longest = long.clone();
        *longest.last_mut().expect("it has bytes") = b'\n';
        let mut input = Input::new();
        assert_eq!(input.feed(Chunks::new(&longest, &[]), &mut answers), Fed::Line(longest.len()));
        assert_eq!(input.take_line().len(), longest.len() - 1);
        let endless = [&[IAC, SUBNEGOTIATION][..], &long].concat();
        assert_eq!(Input::new().feed(Chunks::new(&endless, &[]), &mut answers), Fed::Endless);
        assert_eq!(answers, b"");
    }
}
