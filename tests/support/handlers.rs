//! Handlers that use every answer, a witness that writes down what they promise, and what each owes for a given input.
//!
//! [`Plan::outcome`] says it for the whole input at once, without a session: whatever way the input is split, a session
//! must bring the same.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use maitred::service::{self, Bounds};
use maitred::session::handler::{Chunks, Handler, Next, Reply};

use crate::chargen;

/// A handler, with its parameters.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// The service of the registry.
    Echo,
    /// The same with `terminator=nul`.
    EchoUntilNul,
    /// The service of the registry.
    Discard,
    /// The service of the registry: has no end of its own.
    Chargen,
    /// Each line is answered with its length, then the line.
    Lines,
    /// The input is a program of answers.
    Program,
    /// Says so many bytes first, echoes, and says so many when the peer has ended.
    Greeter { bytes: usize },
    /// Says so many bytes from the start and drops all input: after that, or also meanwhile if `hears`.
    Flood { bytes: usize, hears: bool },
}

/// What a session comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It waits for more input.
    Open,
    /// It has said all.
    Finished,
    /// The peer broke the protocol: what it was owed before may or may not have been sent.
    Protocol,
}

impl Plan {
    pub(crate) fn open(&self, witness: Witness, ring_bytes: usize, piece: usize) -> Box<dyn Handler> {
        let service = |name: &str, parameters: &[(&str, &str)]| {
            let entry = service::find(name).expect("it is registered");
            let parameters: Vec<_> = parameters.iter().map(|&(key, value)| (key.into(), value.into())).collect();
            let bounds = Bounds { max_frame_bytes: 1 << 20, max_demand: Duration::from_secs(10) };
            entry.build(&parameters, &bounds).expect("it takes its own parameters").open(None)
        };
        let speaker = Speaker { witness: witness.clone(), left: 0, from: 0, piece: piece.min(ring_bytes) };
        let inner: Box<dyn Handler> = match *self {
            Plan::Echo => service("echo", &[]),
            Plan::EchoUntilNul => service("echo", &[("terminator", "nul")]),
            Plan::Discard => service("discard", &[]),
            Plan::Chargen => Box::new(Overheard { inner: service("chargen", &[]), witness: witness.clone(), said: 0 }),
            Plan::Lines => Box::new(Lines { witness: witness.clone() }),
            Plan::Program => Box::new(Program { speaker, state: State::Command, ended: false }),
            Plan::Greeter { bytes } => Box::new(Greeter { speaker, bytes, farewell: false }),
            Plan::Flood { bytes, hears } => {
                let goes_on = if hears { Next::Talk } else { Next::Room };
                Box::new(Flood { speaker, bytes, goes_on, ended: false })
            }
        };
        Box::new(Witnessed { inner, witness })
    }

    /// What the peer is owed for all of this input, and how the session stands then.
    pub(crate) fn outcome(&self, input: &[u8], fin: bool, ring_bytes: usize) -> (Vec<u8>, Ending) {
        let ending = if fin { Ending::Finished } else { Ending::Open };
        match *self {
            Plan::Echo => (input.to_vec(), ending),
            Plan::EchoUntilNul => match input.iter().position(|&byte| byte == 0) {
                Some(nul) => (input[..=nul].to_vec(), Ending::Finished),
                None => (input.to_vec(), ending),
            },
            Plan::Discard => (Vec::new(), ending),
            Plan::Chargen => unreachable!("what it owes has no end"),
            Plan::Lines => lines_outcome(input, fin, ring_bytes),
            Plan::Program => program_outcome(input, fin, ring_bytes),
            Plan::Greeter { bytes } => {
                let farewell = if fin { bytes } else { 0 };
                ([&speech(bytes), input, &speech(farewell)].concat(), ending)
            }
            Plan::Flood { bytes, .. } => (speech(bytes), ending),
        }
    }
}

/// What has been promised to the peer, as one record for the handlers and the sweep.
#[derive(Clone, Default)]
pub(crate) struct Witness(Arc<Mutex<Promise>>);

#[derive(Default)]
pub(crate) struct Promise {
    /// All bytes that must leave, in order.
    pub(crate) bytes: Vec<u8>,
    /// The same by where they lie: (forwarded from the input, length).
    pub(crate) segments: VecDeque<(bool, usize)>,
    /// Input bytes that the handler has answered for.
    pub(crate) taken: usize,
    pub(crate) opened: bool,
    pub(crate) finished: bool,
    pub(crate) rejected: bool,
    /// The handler waits for room, and for nothing else.
    pub(crate) wants_room: bool,
    /// The handler has something to say whenever there is room.
    pub(crate) talks: bool,
    /// The handler was told that the peer has said all.
    pub(crate) told_end: bool,
    /// The handler waits for more input than this.
    pub(crate) wants_more_than: Option<usize>,
}

impl Witness {
    pub(crate) fn look(&self) -> MutexGuard<'_, Promise> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn say(&self, bytes: &[u8], reply: &mut Reply<'_>) -> bool {
        let room = reply.room();
        let said = reply.put(bytes);
        assert!(!said || bytes.len() <= room, "no more is taken than there is room for");
        if said {
            self.note_said(bytes);
        }
        said
    }

    fn note_said(&self, bytes: &[u8]) {
        let mut promise = self.look();
        promise.bytes.extend_from_slice(bytes);
        promise.segments.push_back((false, bytes.len()));
    }

    fn note(&self, next: Next, shown: Chunks<'_>, is_input: bool) {
        let mut promise = self.look();
        let (taken, forwarded) = match next {
            Next::Forward(count) => (count, count),
            Next::Finish { forward } => (forward, forward),
            Next::Discard(count) => (count, 0),
            _ => (0, 0),
        };
        if forwarded > 0 {
            let (first, second) = shown.slices();
            promise.bytes.extend(first.iter().chain(second).take(forwarded));
            promise.segments.push_back((true, forwarded));
        }
        promise.taken += taken;
        promise.finished = matches!(next, Next::Finish { .. });
        promise.rejected = matches!(next, Next::Reject(_));
        promise.wants_room = next == Next::Room;
        promise.talks |= next == Next::Talk;
        promise.wants_more_than = (is_input && next == Next::More).then(|| shown.len());
    }
}

/// Writes down what the inner handler answers, and checks that it is asked nothing that it should not be.
struct Witnessed {
    inner: Box<dyn Handler>,
    witness: Witness,
}

impl Witnessed {
    fn check_open(&self) {
        let promise = self.witness.look();
        assert!(promise.opened, "the handler is opened first");
        assert!(!promise.finished && !promise.rejected, "nobody is asked after the last answer");
    }
}

impl Handler for Witnessed {
    fn handle_open(&mut self, reply: &mut Reply<'_>) -> Next {
        assert!(!std::mem::replace(&mut self.witness.look().opened, true), "the handler is opened once");
        let next = self.inner.handle_open(reply);
        self.witness.note(next, Chunks::new(&[], &[]), false);
        next
    }

    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        self.check_open();
        let promise = self.witness.look();
        assert!(!input.is_empty(), "input is at least one byte");
        assert!(!promise.wants_room, "input waits while the handler waits for room");
        assert!(promise.wants_more_than.is_none_or(|seen| input.len() > seen), "the same input is not shown again");
        drop(promise);
        let next = self.inner.handle_input(input, reply);
        self.witness.note(next, input, true);
        next
    }

    fn handle_room(&mut self, reply: &mut Reply<'_>) -> Next {
        self.check_open();
        let talks = std::mem::take(&mut self.witness.look().talks);
        assert!(talks || self.witness.look().wants_room, "room is offered to those who asked for it");
        assert!(reply.room() > 0, "room is offered when there is some");
        let next = self.inner.handle_room(reply);
        self.witness.note(next, Chunks::new(&[], &[]), false);
        next
    }

    fn handle_end(&mut self, rest: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        self.check_open();
        assert!(!self.witness.look().wants_room, "the end waits while the handler waits for room");
        self.witness.look().told_end = true;
        let next = self.inner.handle_end(rest, reply);
        self.witness.note(next, rest, false);
        next
    }
}

/// `chargen`, of which it is known what it has to say, and is seen how much it says at a time.
struct Overheard {
    inner: Box<dyn Handler>,
    witness: Witness,
    said: usize,
}

impl Overheard {
    fn hear(&mut self, reply: &mut Reply<'_>, ask: impl FnOnce(&mut dyn Handler, &mut Reply<'_>) -> Next) -> Next {
        let room = reply.room();
        let next = ask(&mut *self.inner, reply);
        let from = self.said;
        self.said += room - reply.room();
        if self.said > from {
            let bytes: Vec<u8> = (from..self.said).map(chargen::byte_at).collect();
            self.witness.note_said(&bytes);
        }
        next
    }
}

impl Handler for Overheard {
    fn handle_open(&mut self, reply: &mut Reply<'_>) -> Next {
        self.hear(reply, |inner, reply| inner.handle_open(reply))
    }

    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        self.hear(reply, |inner, reply| inner.handle_input(input, reply))
    }

    fn handle_room(&mut self, reply: &mut Reply<'_>) -> Next {
        self.hear(reply, |inner, reply| inner.handle_room(reply))
    }

    fn handle_end(&mut self, rest: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        self.hear(reply, |inner, reply| inner.handle_end(rest, reply))
    }
}

/// The first bytes of what every speaker says.
pub(crate) fn speech(bytes: usize) -> Vec<u8> {
    (0..bytes).map(spoken).collect()
}

fn spoken(at: usize) -> u8 {
    (at * 7 + 1) as u8
}

/// Says a speech in pieces, as there is room.
struct Speaker {
    witness: Witness,
    from: usize,
    left: usize,
    piece: usize,
}

impl Speaker {
    fn begin(&mut self, bytes: usize) {
        (self.from, self.left) = (0, bytes);
    }

    /// True when all has been said.
    fn speak(&mut self, reply: &mut Reply<'_>) -> bool {
        while self.left > 0 {
            let count = self.piece.min(self.left);
            let piece: Vec<u8> = (self.from..self.from + count).map(spoken).collect();
            if !self.witness.say(&piece, reply) {
                return false;
            }
            self.from += count;
            self.left -= count;
        }
        true
    }
}

struct Lines {
    witness: Witness,
}

impl Handler for Lines {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        let Some(end) = input.position(b'\n') else { return Next::More };
        // What does not fit is said again when there is room: `handle_room` answers `More`, and the input is shown again.
        if self.witness.say(&label(end, b':'), reply) { Next::Forward(end + 1) } else { Next::Room }
    }

    fn handle_end(&mut self, rest: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        if !self.witness.say(&label(rest.len(), b'!'), reply) {
            return Next::Room;
        }
        Next::Finish { forward: rest.len() }
    }
}

fn label(len: usize, end: u8) -> [u8; 4] {
    let digits = format!("{len:03}").into_bytes();
    [digits[0], digits[1], digits[2], end]
}

fn lines_outcome(input: &[u8], fin: bool, ring_bytes: usize) -> (Vec<u8>, Ending) {
    let mut output = Vec::new();
    let mut rest = input;
    loop {
        match rest.iter().position(|&byte| byte == b'\n').filter(|&end| end < ring_bytes) {
            Some(end) => {
                output.extend(label(end, b':'));
                output.extend_from_slice(&rest[..=end]);
                rest = &rest[end + 1..];
            }
            None if rest.len() >= ring_bytes => return (output, Ending::Protocol),
            None if fin => {
                output.extend(label(rest.len(), b'!'));
                output.extend_from_slice(rest);
                return (output, Ending::Finished);
            }
            None => return (output, Ending::Open),
        }
    }
}

/// What one byte of a program tells its handler to do.
enum Op {
    /// The next bytes go back.
    Forward(usize),
    /// The next bytes are dropped.
    Discard(usize),
    Say(usize),
    /// The byte itself goes back.
    Back,
    /// The two bytes that follow tell, together, how much to say: nothing can be done until they have come.
    SayLong,
    Finish {
        forward: usize,
    },
    Reject,
}

fn op(byte: u8) -> Op {
    let operand = usize::from(byte & 15);
    match byte >> 4 {
        0..=3 => Op::Forward(operand + 1),
        4..=6 => Op::Discard(operand + 1),
        7..=10 => Op::Say(3 * operand),
        11..=12 => Op::Back,
        13..=14 => Op::SayLong,
        _ if operand == 15 => Op::Reject,
        _ if operand > 12 => Op::Finish { forward: operand % 2 },
        _ => Op::Back,
    }
}

struct Program {
    speaker: Speaker,
    state: State,
    ended: bool,
}

#[derive(Clone, Copy)]
enum State {
    Command,
    /// So many bytes are the payload of the last command; whether they go back.
    Payload(bool, usize),
    /// The speech of a command of so many bytes has begun.
    Speaking(usize),
}

impl Program {
    fn speak(&mut self, command: usize, reply: &mut Reply<'_>) -> Next {
        self.state = State::Speaking(command);
        if !self.speaker.speak(reply) {
            return Next::Room;
        }
        self.state = State::Command;
        Next::Discard(command)
    }
}

impl Handler for Program {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        match self.state {
            State::Payload(back, left) => {
                let count = left.min(input.len());
                self.state = if count == left { State::Command } else { State::Payload(back, left - count) };
                return if back { Next::Forward(count) } else { Next::Discard(count) };
            }
            State::Speaking(command) => return self.speak(command, reply),
            State::Command => {}
        }
        match op(byte(input, 0)) {
            Op::Forward(count) => {
                self.state = State::Payload(true, count);
                Next::Discard(1)
            }
            Op::Discard(count) => {
                self.state = State::Payload(false, count);
                Next::Discard(1)
            }
            Op::Say(count) => {
                self.speaker.begin(count);
                self.speak(1, reply)
            }
            Op::Back => Next::Forward(1),
            Op::SayLong if input.len() < 3 => Next::More,
            Op::SayLong => {
                self.speaker.begin(long(byte(input, 1), byte(input, 2)));
                self.speak(3, reply)
            }
            Op::Finish { forward } => Next::Finish { forward },
            Op::Reject => Next::Reject("told to"),
        }
    }

    fn handle_room(&mut self, reply: &mut Reply<'_>) -> Next {
        if self.speaker.speak(reply) { Next::More } else { Next::Room }
    }

    fn handle_end(&mut self, rest: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        if !std::mem::replace(&mut self.ended, true) {
            self.speaker.begin(5);
        }
        if self.speaker.speak(reply) { Next::Finish { forward: rest.len() } } else { Next::Room }
    }
}

fn byte(input: Chunks<'_>, at: usize) -> u8 {
    let (first, second) = input.slices();
    first.get(at).copied().unwrap_or_else(|| second[at - first.len()])
}

fn long(high: u8, low: u8) -> usize {
    usize::from(high) + usize::from(low) / 2
}

fn program_outcome(input: &[u8], fin: bool, ring_bytes: usize) -> (Vec<u8>, Ending) {
    let mut output = Vec::new();
    let mut rest = input;
    while let Some(&command) = rest.first() {
        let mut skip = 1;
        match op(command) {
            Op::Forward(count) => {
                let count = count.min(rest.len() - 1);
                output.extend_from_slice(&rest[1..=count]);
                skip += count;
            }
            Op::Discard(count) => skip += count.min(rest.len() - 1),
            Op::Say(count) => output.extend(speech(count)),
            Op::Back => output.push(command),
            // The command could not even be looked at in a ring that small.
            Op::SayLong if rest.len().min(3) >= ring_bytes && ring_bytes < 3 => return (output, Ending::Protocol),
            Op::SayLong if rest.len() < 3 => break,
            Op::SayLong => {
                output.extend(speech(long(rest[1], rest[2])));
                skip = 3;
            }
            Op::Finish { forward } => {
                output.extend_from_slice(&rest[..forward]);
                return (output, Ending::Finished);
            }
            Op::Reject => return (output, Ending::Protocol),
        }
        rest = &rest[skip..];
    }
    if !fin {
        return (output, Ending::Open);
    }
    output.extend(speech(5));
    output.extend_from_slice(rest);
    (output, Ending::Finished)
}

struct Greeter {
    speaker: Speaker,
    bytes: usize,
    farewell: bool,
}

impl Handler for Greeter {
    fn handle_open(&mut self, reply: &mut Reply<'_>) -> Next {
        self.speaker.begin(self.bytes);
        self.handle_room(reply)
    }

    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Forward(input.len())
    }

    fn handle_room(&mut self, reply: &mut Reply<'_>) -> Next {
        if self.speaker.speak(reply) { Next::More } else { Next::Room }
    }

    fn handle_end(&mut self, _rest: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        if !std::mem::replace(&mut self.farewell, true) {
            self.speaker.begin(self.bytes);
        }
        if self.speaker.speak(reply) { Next::Finish { forward: 0 } } else { Next::Room }
    }
}

struct Flood {
    speaker: Speaker,
    bytes: usize,
    goes_on: Next,
    ended: bool,
}

impl Handler for Flood {
    fn handle_open(&mut self, _reply: &mut Reply<'_>) -> Next {
        self.speaker.begin(self.bytes);
        self.goes_on
    }

    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Discard(input.len())
    }

    fn handle_room(&mut self, reply: &mut Reply<'_>) -> Next {
        match self.speaker.speak(reply) {
            true if self.ended => Next::Finish { forward: 0 },
            true => Next::More,
            false => self.goes_on,
        }
    }

    fn handle_end(&mut self, _rest: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        self.ended = true;
        if self.speaker.left == 0 { Next::Finish { forward: 0 } } else { Next::More }
    }
}
