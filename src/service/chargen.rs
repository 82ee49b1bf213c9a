//! `chargen`: lines of a rotating pattern without end (RFC 864), as fast as the client takes them.
//!
//! A session says as much as there is room for and waits for more room, so that a client which does not read costs one
//! ring and no time. It keeps its place in the pattern to the byte: how much fits at a time changes nothing. The lines
//! lie ready, all 95 of them, and saying some is a copy. What the client says meanwhile is dropped as it comes.
//!
//! A half-close does not end it. A client that has no more to say may still want to read, and the servers of old inetd do
//! not so much as notice. So it ends when the client can be sent nothing more: when it closes the whole connection, and
//! what comes for it after that is answered with a reset.
//!
//! A datagram is answered with the beginning of the pattern, as much of it as the request is long and at most 512 bytes. The
//! RFC draws the length, from 0 to 512; but an answer that is longer than its request multiplies what a forger of senders
//! sends, and this protocol is notorious for it.

use std::sync::Arc;

use super::{BadParameter, Bounds, Entry};
use crate::session::datagram::{DatagramReply, Datagrams};
use crate::session::handler::{Chunks, Handler, Next, Pace, Reply, Service};
use crate::session::mailbox::Address;

pub(super) const ENTRY: Entry = Entry {
    name: "chargen",
    about: "lines of 72 characters, without end, until the client closes the connection",
    schemes: &["tcp", "udp"],
    default_listeners: &[("tcp", 7019), ("udp", 7019)],
    parameters: &[],
    spared_by_idle_timeout: false,
    repeatable: &[],
    build,
};

/// The first and the last of the characters, in the order of ASCII; behind the last comes the first.
const FIRST: u8 = b' ';
const LAST: u8 = b'~';
const CHARACTERS: usize = (LAST - FIRST) as usize + 1;

/// Characters of a line, and its bytes with CR LF.
const COLUMNS: usize = 72;
const LINE: usize = COLUMNS + 2;

/// Bytes of the longest answer to a datagram.
const LONGEST_ANSWER: usize = 512;

/// Every line once: each begins one character further on, so that there are as many as there are characters.
static LINES: [u8; CHARACTERS * LINE] = lines();

const fn lines() -> [u8; CHARACTERS * LINE] {
    let mut lines = [0; CHARACTERS * LINE];
    let mut at = 0;
    while at < lines.len() {
        let (line, column) = (at / LINE, at % LINE);
        lines[at] = match column.checked_sub(COLUMNS) {
            None => FIRST + ((line + column) % CHARACTERS) as u8,
            Some(0) => b'\r',
            Some(_) => b'\n',
        };
        at += 1;
    }
    lines
}

/// Bytes of the pattern from this place on, in one piece, at most so many.
fn pattern(place: usize, most: usize) -> &'static [u8] {
    let rest = &LINES[place % LINES.len()..];
    &rest[..rest.len().min(most)]
}

fn build(_parameters: &[(String, String)], _bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    Ok(Arc::new(Chargen))
}

struct Chargen;

impl Service for Chargen {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        Box::new(Speech { place: 0 })
    }

    fn speaks_first(&self) -> bool {
        true
    }

    fn pace(&self) -> Pace {
        Pace::Brief
    }

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(self)
    }
}

impl Datagrams for Chargen {
    fn answer(&self, request: &[u8], reply: &mut DatagramReply<'_>) {
        reply.put(pattern(0, request.len().min(LONGEST_ANSWER)));
    }
}

/// The speech of one session.
struct Speech {
    /// Where in the pattern it goes on.
    place: usize,
}

impl Speech {
    /// Says what there is room for.
    fn go_on(&mut self, reply: &mut Reply<'_>) -> Next {
        while reply.room() > 0 {
            let piece = pattern(self.place, reply.room());
            if !reply.put(piece) {
                // There is room, and no memory for it now.
                break;
            }
            self.place = (self.place + piece.len()) % LINES.len();
        }
        Next::Talk
    }
}

impl Handler for Speech {
    fn handle_open(&mut self, reply: &mut Reply<'_>) -> Next {
        self.go_on(reply)
    }

    fn handle_room(&mut self, reply: &mut Reply<'_>) -> Next {
        self.go_on(reply)
    }

    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Discard(input.len())
    }

    fn handle_end(&mut self, _rest: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::datagram::Answer;

    #[test]
    fn the_lines_are_those_of_the_rfc() {
        let text = str::from_utf8(&LINES).expect("ASCII");
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 95);
        assert!(lines.iter().all(|line| line.len() == 72));
        let ring: String = (' '..='~').chain(' '..='~').collect();
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(*line, &ring[number..number + 72], "line {number}");
        }
        assert!(lines[0].starts_with(" !\"#$%&'()") && lines[94].starts_with("~ !\""));
    }

    #[test]
    fn a_datagram_is_answered_with_no_more_than_it_brought() {
        for (request, expected) in [(0, 0), (1, 1), (74, 74), (511, 511), (512, 512), (513, 512), (65_507, 512)] {
            let mut memory = vec![0; Chargen.bound().allowance(request)];
            let mut reply = DatagramReply::new(&mut memory);
            Chargen.answer(&vec![0xff; request], &mut reply);
            assert_eq!(reply.end(), Answer::Datagram(expected), "to {request} bytes");
            assert_eq!(memory[..expected], LINES[..expected]);
        }
    }

    #[test]
    fn pieces_of_any_size_make_the_same_pattern() {
        let twice = LINES.repeat(2);
        for most in [1, 7, 73, 74, 75, 1_000, 7_029, 7_030, 7_031, 100_000] {
            let mut said = Vec::new();
            while said.len() < twice.len() {
                let piece = pattern(said.len(), most.min(twice.len() - said.len()));
                assert!(!piece.is_empty() && piece.len() <= most);
                said.extend_from_slice(piece);
            }
            assert!(said == twice, "in pieces of {most}");
        }
    }
}
