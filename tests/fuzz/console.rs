//! What holds of the console's protocol for any bytes, however they come: the body of the fuzz target `console`, which
//! `tests/console_protocol.rs` runs too.
//!
//! One session is told everything at once, others the same in pieces, to a peer that takes as little at a time as it
//! likes; all of them give the same orders and say the same. A plain reading takes telnet's commands out of the whole
//! stream first, and a session that is told only what is left gives the same orders again. Each line that is carried out is
//! answered by lines that begin with a space, and one that does not.
//!
//! The first [`HEADER`] bytes of an input choose the token and the pieces; the others are the stream.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use maitred::clock::Clock;
use maitred::random::Random;
use maitred::service::{Bounds, find};
use maitred::session::buffer::{Budget, Leases};
use maitred::session::handler::{Closed, Means, Moment, Tally};
use maitred::session::operator::{Answer, Lines, Operator, Order, Progress};
use maitred::session::state::Reasons;
use maitred::session::{Session, Stream, TurnEnd};

/// Bytes of an input before its stream.
pub(crate) const HEADER: usize = 2;

/// What must be said first, where something must.
pub(crate) const TOKEN: &str = "sesame";

const IAC: u8 = 255;
const RING_BYTES: usize = 16 << 10;

/// The peer takes so many times what it sends at a time: answers are longer than questions.
const WRITE_SCALE: usize = 100;

/// Checks one input.
pub(crate) fn check(input: &[u8]) {
    let Some((&[choice, seed], stream)) = input.split_first_chunk::<HEADER>() else { return };
    let has_token = choice % 2 == 1;
    let told = |stream: &[u8], pieces| converse(has_token, stream, pieces);
    let whole = told(stream, Pieces { random: Random::new(0), most: usize::MAX });
    for most in [1, 2, 7, 300] {
        let other = told(stream, Pieces { random: Random::new(u64::from(seed)), most });
        assert_eq!(other.orders, whole.orders, "in pieces of at most {most}");
        assert_eq!(other.said, whole.said, "in pieces of at most {most}");
        assert_eq!(other.closed, whole.closed, "in pieces of at most {most}");
    }
    assert_eq!(whole.closed, Closed::Finished, "nobody is left in the middle of it");
    check_said(&whole);
    if let Some(text) = without_commands(stream) {
        let plain = told(&text, Pieces { random: Random::new(0), most: usize::MAX });
        assert_eq!(plain.orders, whole.orders, "commands of telnet change no order");
    }
}

/// What came of a session.
struct Outcome {
    orders: Vec<Order>,
    said: Vec<u8>,
    closed: Closed,
}

/// Every line is short; and there are as many ends of answers as there were orders, at the least.
fn check_said(outcome: &Outcome) {
    let text = without_commands(&outcome.said).expect("what the daemon says is whole");
    let text = String::from_utf8(text).expect("answers are text");
    assert!(text.is_empty() || text.ends_with('\n'));
    let mut ends = 0;
    for line in text.lines() {
        assert!(line.len() < 600 && !line.chars().any(|letter| letter.is_control()), "{line:?}");
        let is_end = ["ok", "error ", "workers "].iter().any(|begin| line.starts_with(begin));
        assert!(is_end || line.starts_with(' '), "{line:?}");
        ends += usize::from(is_end);
    }
    assert!(ends >= outcome.orders.len(), "{ends} ends of {} answers", outcome.orders.len());
}

/// The text of a telnet stream, 255 as two of them; none if it has particulars so long that a session ends by them, or breaks
/// off in a command.
fn without_commands(stream: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        if stream[at] != IAC {
            text.push(stream[at]);
            at += 1;
            continue;
        }
        at += match *stream.get(at + 1)? {
            IAC => {
                text.extend([IAC, IAC]);
                2
            }
            251..=254 => {
                stream.get(at + 2)?;
                3
            }
            250 => {
                let mut end = at + 2;
                while !(stream.get(end) == Some(&IAC) && *stream.get(end + 1)? == 240) {
                    // Whatever follows an IAC in there belongs to it.
                    end += if *stream.get(end)? == IAC { 2 } else { 1 };
                }
                if end - at > 1_000 {
                    return None;
                }
                end + 2 - at
            }
            _ => 2,
        };
    }
    Some(text)
}

/// How the stream is cut.
struct Pieces {
    random: Random,
    most: usize,
}

impl Pieces {
    fn next(&mut self, len: usize) -> usize {
        match self.most {
            usize::MAX => len,
            most => len.min(1 + self.random.below(most)),
        }
    }
}

fn converse(has_token: bool, stream: &[u8], pieces: Pieces) -> Outcome {
    let parameters: Vec<(String, String)> =
        has_token.then(|| ("token".to_owned(), TOKEN.to_owned())).into_iter().collect();
    let bounds = Bounds { max_frame_bytes: 1 << 20, max_demand: Duration::from_secs(1) };
    let service = find("console").expect("it is registered").build(&parameters, &bounds).expect("it is right");
    let notes = Arc::new(Notes::default());
    let operator = Arc::clone(&notes) as Arc<dyn Operator>;
    let mut session = Session::new(service.console().expect("it is one").open(operator), None);
    let mut leases = Leases::new(RING_BYTES, Budget::new(8 * RING_BYTES));
    let mut peer = Peer { unread: stream, pieces, said: Vec::new(), takes: 0, tells_end: true };
    let closed = loop {
        let mut tally = Tally::default();
        let mut means = Means {
            leases: &mut leases,
            budget_bytes: 64 << 10,
            moment: Moment::new(Clock::start(), None, None, 0),
            parallel: None,
            tally: &mut tally,
            calls: &mut Vec::new(),
        };
        peer.takes = peer.pieces.next(1 << 20).saturating_mul(WRITE_SCALE);
        peer.tells_end = true;
        let reasons = Reasons::READABLE | Reasons::WRITABLE | Reasons::READ_ON | Reasons::RESUME;
        if let TurnEnd::Closed(closed) = session.turn(&mut peer, reasons, &mut means) {
            break closed;
        }
    };
    session.release(&mut leases);
    let orders = std::mem::take(&mut *notes.0.lock().expect("no panic while held"));
    Outcome { orders, said: peer.said, closed }
}

/// Notes all orders, and answers each of them in one of several ways.
#[derive(Default)]
struct Notes(Mutex<Vec<Order>>);

impl Operator for Notes {
    fn carry_out(&self, order: Order) -> Box<dyn Answer> {
        let answer: Box<dyn Answer> = match &order {
            Order::Stats => Lines::of(format!("{} one\n two\nok", " x".repeat(3_000))),
            Order::Sessions => Box::new(Rows(0)),
            Order::Workers(Some(workers)) => Box::new(Later { turns: workers % 5, is_said: false }),
            Order::Workers(None) => Lines::of("workers 1"),
            _ => Lines::of("ok"),
        };
        self.0.lock().expect("no panic while held").push(order);
        answer
    }

    fn judge(&self, is_right: bool) -> Option<Box<dyn Answer>> {
        (!is_right).then(|| Lines::of("error that is not the token"))
    }
}

/// More than any ring holds.
struct Rows(u32);

impl Answer for Rows {
    fn poll_line(&mut self, line: &mut String) -> Progress {
        self.0 += 1;
        match self.0 {
            1..700 => line.push_str(" a row that is like any other"),
            700 => line.push_str("ok"),
            _ => return Progress::Over,
        }
        Progress::Line
    }
}

/// Waits for a few turns.
struct Later {
    turns: usize,
    is_said: bool,
}

impl Answer for Later {
    fn poll_line(&mut self, line: &mut String) -> Progress {
        if self.turns > 0 {
            self.turns -= 1;
            return Progress::Waits;
        }
        if std::mem::replace(&mut self.is_said, true) {
            return Progress::Over;
        }
        line.push_str("workers 2");
        Progress::Line
    }
}

/// Who sends the stream, then its FIN, and takes what it is told.
struct Peer<'a> {
    unread: &'a [u8],
    pieces: Pieces,
    said: Vec<u8>,
    /// Bytes that it takes in this turn.
    takes: usize,
    /// Nothing more was read since the last piece.
    tells_end: bool,
}

impl Stream for Peer<'_> {
    fn read(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.unread.is_empty() {
            return Ok(0);
        }
        if !std::mem::replace(&mut self.tells_end, false) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let room = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let count = self.pieces.next(self.unread.len()).min(room);
        let (mut piece, rest) = self.unread.split_at(count);
        for slice in slices {
            let len = slice.len().min(piece.len());
            slice[..len].copy_from_slice(&piece[..len]);
            piece = &piece[len..];
        }
        self.unread = rest;
        Ok(count)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let owed = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let count = owed.min(self.takes);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut left = count;
        for slice in slices {
            let len = slice.len().min(left);
            self.said.extend_from_slice(&slice[..len]);
            left -= len;
        }
        self.takes -= count;
        Ok(count)
    }

    fn finish(&mut self) -> io::Result<()> {
        // What it has not read yet is read and dropped.
        self.pieces.most = usize::MAX;
        Ok(())
    }
}
