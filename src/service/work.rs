//! `work`: requests that name their own service time, so that a study can choose it.
//!
//! A short one is served within its turn ([`INLINE_NS`]): its header is made, its payload goes back from where it lies.
//! Every other one leaves its session as a call, a service request of its own, so that it holds up neither its worker's
//! next turn nor the requests behind it; its reply comes back by the session's mailbox. Replies come in any order.
//!
//! Two limits, each of which stops the reading of a session: calls in flight (`calls=N`), and their bytes ([`CALL_BYTES`]).
//! With `shed=N` a session goes on reading while N calls of the listener wait, and answers that it was not served.
//!
//! Invariants: *checked-before-memory*, of `work/frame.rs`. *waiting-counted*: a call waits from when it is made until it is
//! run or dropped unrun ([`Place`]).
//!
//! Read next: `work/frame.rs` for what is on the wire, `src/spend.rs` for how time is spent; the numbers are in
//! `design/work.md`.

mod frame;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use self::frame::{Answer, LONGEST_REPLY_HEAD, REQUEST_HEAD, Request};
use super::{BadParameter, Bounds, Entry};
use crate::clock::monotonic_ns;
use crate::session::datagram::{Bound, DatagramReply, Datagrams};
use crate::session::framing::{Found, Framer, Framing};
use crate::session::handler::{Call, Chunks, Handler, Lane, Mailing, Moment, Next, Pace, Reply, Sending, Service};
use crate::session::mailbox::{Address, Limits, Message, message_of};
use crate::session::part::Brought;
use crate::spend::{self, Kind, spend};

pub(super) const ENTRY: Entry = Entry {
    name: "work",
    about: "framed requests that name their own service time, to be spent by spin, sleep or hash",
    schemes: &["tcp", "udp"],
    default_listeners: &[("tcp", 7020), ("udp", 7020)],
    parameters: &[("calls", "N"), ("shed", "off|N"), ("send", "vectored|mmsg")],
    spared_by_idle_timeout: false,
    repeatable: &[],
    build,
};

/// A spin of at most so long is served within its turn. As a call it would cost 0.6 us of processor time more where one
/// thread does everything and up to 2.5 us where it is handed on, to spare those behind it no more than this.
const INLINE_NS: u64 = 5_000;

/// Spins that one turn serves take at most so long together. It keeps a turn as brief as others are that a poller may run;
/// requests behind that are worth a call each, since another thread can begin with them meanwhile.
const INLINE_TURN_NS: u64 = 25_000;

/// What a request costs its turn beside its spin; a fifth of a microsecond with all that it has to do with its session.
const INLINE_EACH_NS: u64 = 200;

/// A payload of at most so many bytes is copied behind its header. Forwarded from where it lies it costs no copy, and nothing
/// that is said later may overtake it, so that it ends the write that it is in. Alone in its turn it is as cheap either way;
/// with eight requests in flight on each connection a copy is cheaper, by 2.3 us to 0.8 at 4 KiB and 2.9 to 1.7 at 8 KiB.
const COPIED_BYTES: usize = 8 << 10;

/// Calls of one session that may be in flight unless `calls=N` says otherwise: enough to keep every worker of a large machine
/// busy, and few enough that nobody waits behind one session for long. Guess.
const CALLS: u32 = 64;
const MOST_CALLS: u32 = 1 << 16;

/// Bytes of them: a frame of the default `max_frame`, or thousands of short ones.
const CALL_BYTES: usize = 1 << 20;

/// The most that `shed` may be.
const MOST_WAITING: u32 = 1 << 20;

fn build(parameters: &[(String, String)], bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    let (mut calls, mut shed, mut sending) = (CALLS, None, Sending::Vectored);
    for (key, value) in parameters {
        let bad = |expected: &str| Err(BadParameter { key: key.clone(), expected: expected.to_owned() });
        match (key.as_str(), value.as_str()) {
            ("calls", value) => match value.parse() {
                Ok(count @ 1..=MOST_CALLS) => calls = count,
                _ => return bad("1 to 65536"),
            },
            ("shed", "off") => shed = None,
            ("shed", value) => match value.parse() {
                Ok(most @ 1..=MOST_WAITING) => shed = Some(most),
                _ => return bad("off or 1 to 1048576"),
            },
            ("send", "vectored") => sending = Sending::Vectored,
            ("send", "mmsg") => sending = Sending::Each,
            ("send", _) => return bad("vectored or mmsg"),
            _ => unreachable!("the registry lets only these through"),
        }
    }
    // Those that wait are not to keep a session from reading what it will shed.
    let calls = calls + shed.unwrap_or(0);
    let limits = Limits { bytes: CALL_BYTES, messages: 0, edge: true };
    let terms = Terms {
        framing: frame::framing(bounds.max_frame_bytes),
        max_demand: bounds.max_demand,
        shed: shed.map(|most| Shed { most, waiting: Arc::default() }),
    };
    Ok(Arc::new(Work { terms: Arc::new(terms), mailing: Mailing { limits, calls, sending } }))
}

struct Work {
    terms: Arc<Terms>,
    mailing: Mailing,
}

impl Service for Work {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        Box::new(Client { terms: Arc::clone(&self.terms), turn: Turn::default(), forwards: 0 })
    }

    fn mailbox(&self) -> Option<Mailing> {
        Some(self.mailing)
    }

    fn pace(&self) -> Pace {
        Pace::Calls
    }

    fn has_jobs(&self) -> bool {
        true
    }

    fn reads_clock(&self) -> bool {
        true
    }

    fn prepare(&self) -> Result<(), String> {
        spend::calibrate();
        Ok(())
    }

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(&*self.terms)
    }
}

/// What all clients of a listener may ask for.
struct Terms {
    framing: Framing,
    max_demand: Duration,
    shed: Option<Shed>,
}

/// A frame a datagram. Whoever has the endpoint serves one after the other; how long a request waited before, nobody knows. Its
/// answer has no stamps, wanted or not: it may be longer than the request by no more than its header is.
impl Datagrams for Terms {
    fn bound(&self) -> Bound {
        Bound::Grown
    }

    fn answer(&self, request: &[u8], reply: &mut DatagramReply<'_>) {
        let frame = Chunks::new(request, &[]);
        let Found::Frame { bytes, .. } = Framer::new(self.framing).find(frame) else { return };
        // One that is followed by something is not a frame a datagram.
        if bytes != request.len() {
            return;
        }
        let Ok(request_head) = Request::parse(frame, self.max_demand) else { return };
        if !reply.is_wanted() {
            return;
        }
        let request_head = Request { wants_stamps: false, ..request_head };
        let taken_ns = monotonic_ns();
        spend(request_head.kind, request_head.demand_ns, &|| reply.is_wanted());
        let done_ns = Some(monotonic_ns());
        let answer = Answer { request: request_head, worker: None, ready_ns: None, taken_ns, done_ns };
        let payload = &request[REQUEST_HEAD..];
        let mut head = [0; LONGEST_REPLY_HEAD];
        let head = &mut head[..answer.head()];
        answer.write(payload.len(), head);
        reply.put(head);
        reply.put(payload);
    }
}

/// Calls of a listener that wait, and how many of them are enough. Each process of an engine that has some counts its own.
struct Shed {
    most: u32,
    waiting: Arc<AtomicU32>,
}

impl Shed {
    /// A place for one more that waits, unless there are enough.
    fn enter(&self) -> Option<Place> {
        let enter = |waiting: u32| (waiting < self.most).then_some(waiting + 1);
        let entered = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter);
        entered.is_ok().then(|| Place(Arc::clone(&self.waiting)))
    }

    fn has_enough(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= self.most
    }
}

/// Of a call that waits.
struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One session.
struct Client {
    terms: Arc<Terms>,
    turn: Turn,
    /// Bytes of payload at the front of the input that go back behind a header which has been said.
    forwards: usize,
}

/// The turn in which the client was last heard, and since when its requests are known of.
#[derive(Default)]
struct Turn {
    /// When it was taken, which tells it from all others.
    taken_ns: u64,
    /// What it has spent on requests that it served itself.
    spent_ns: u64,
    /// Bytes that were shown behind the last request.
    left: usize,
    /// When those were read.
    read_ns: u64,
}

impl Turn {
    /// The next request is the first of `shown` bytes and has so many: when it was known of, and when it is taken. The first
    /// one of a turn is what the turn is for; the others were found by it, when it read them.
    fn next(&mut self, shown: usize, bytes: usize, moment: &Moment) -> (Option<u64>, u64) {
        let is_first = self.taken_ns != moment.taken_ns;
        let has_more = shown > bytes;
        // Without a reason to, no clock is looked at.
        let now_ns = if is_first && !has_more { 0 } else { moment.now_ns() };
        if is_first {
            *self = Turn { taken_ns: moment.taken_ns, read_ns: now_ns, ..Turn::default() };
        } else if shown > self.left {
            self.read_ns = now_ns;
        }
        self.left = shown - bytes;
        if is_first { (moment.ready_ns, moment.taken_ns) } else { (Some(self.read_ns), now_ns) }
    }

    /// Whether it is to serve this request itself; if so it has.
    fn serves(&mut self, request: &Request) -> bool {
        let spent_ns = self.spent_ns + request.demand_ns + INLINE_EACH_NS;
        let serves = request.kind == Kind::Spin && request.demand_ns <= INLINE_NS && spent_ns <= INLINE_TURN_NS;
        if serves {
            self.spent_ns = spent_ns;
        }
        serves
    }
}

impl Handler for Client {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        if self.forwards > 0 {
            let now = self.forwards.min(input.len());
            self.forwards -= now;
            self.turn.left = input.len() - now;
            return Next::Forward(now);
        }
        let found = Framer::new(self.terms.framing).find(input);
        match found {
            Found::More => return Next::More,
            Found::TooShort => return Next::Reject("a request is shorter than its header"),
            Found::TooLong => return Next::Reject("a request is longer than is allowed"),
            Found::Part { .. } if input.len() < REQUEST_HEAD => return Next::More,
            Found::Part { .. } | Found::Frame { .. } => {}
        }
        match (Request::parse(input, self.terms.max_demand), found) {
            (Err(wrong), _) => Next::Reject(wrong),
            (Ok(_), Found::Part { bytes }) => Next::Gather(bytes),
            (Ok(request), Found::Frame { bytes, .. }) => self.handle_request(request, input, bytes, reply),
            (Ok(_), _) => unreachable!("returned above"),
        }
    }
}

impl Client {
    /// Serves the request of the first `bytes`, or sends it away.
    fn handle_request(&mut self, request: Request, input: Chunks<'_>, bytes: usize, reply: &mut Reply<'_>) -> Next {
        let payload = input.range(REQUEST_HEAD..bytes);
        let Some(way) = Way::of(payload.len(), reply) else { return Next::Room };
        let (ready_ns, taken_ns) = self.turn.next(input.len(), bytes, reply.moment());
        let answer = Answer { request, worker: reply.moment().worker, ready_ns, taken_ns, done_ns: None };
        if self.terms.shed.as_ref().is_some_and(Shed::has_enough) {
            return self.say(answer, payload, way, reply);
        }
        if self.turn.serves(&request) {
            spend(request.kind, request.demand_ns, &|| true);
            let done_ns = Some(reply.moment().now_ns());
            return self.say(Answer { done_ns, ..answer }, payload, way, reply);
        }
        let place = match self.terms.shed.as_ref().map(Shed::enter) {
            Some(None) => return self.say(answer, payload, way, reply),
            place => place.flatten(),
        };
        let head = [0; LONGEST_REPLY_HEAD];
        let (first, second) = payload.slices();
        let message = message_of(&[&head[..request.reply_head()], first, second]);
        reply.call(Box::new(Served { request, ready_ns, place, message }));
        Next::Discard(bytes)
    }

    /// Says what became of a request.
    fn say(&mut self, answer: Answer, payload: Chunks<'_>, way: Way, reply: &mut Reply<'_>) -> Next {
        let mut head = [0; LONGEST_REPLY_HEAD];
        let head = &mut head[..answer.head()];
        answer.write(payload.len(), head);
        let (first, second) = payload.slices();
        let (parts, done): (&[&[u8]], usize) = match way {
            Way::Copied => (&[head, first, second], payload.len()),
            Way::Forwarded => (&[head], 0),
        };
        for part in parts {
            assert!(reply.put(part), "there is room");
        }
        self.forwards = payload.len() - done;
        Next::Discard(REQUEST_HEAD + done)
    }
}

/// How a payload goes back that does not leave with a call.
#[derive(Clone, Copy)]
enum Way {
    /// Behind its header.
    Copied,
    /// From where it lies.
    Forwarded,
}

impl Way {
    /// For a payload of so many bytes, if there is one now.
    fn of(payload_bytes: usize, reply: &Reply<'_>) -> Option<Way> {
        let room = reply.room();
        if payload_bytes <= COPIED_BYTES && LONGEST_REPLY_HEAD + payload_bytes <= room {
            return Some(Way::Copied);
        }
        (LONGEST_REPLY_HEAD <= room && reply.is_through()).then_some(Way::Forwarded)
    }
}

/// A request that has left its session.
struct Served {
    request: Request,
    ready_ns: Option<u64>,
    /// None where nobody counts.
    place: Option<Place>,
    /// The reply but for its header.
    message: Message,
}

impl Call for Served {
    fn lane(&self) -> Lane {
        match self.request.kind {
            Kind::Spin | Kind::Sleep => Lane::Worker,
            Kind::Hash => Lane::Cpu,
        }
    }

    fn bytes(&self) -> usize {
        self.message.len()
    }

    fn run(self: Box<Self>, moment: &Moment, is_wanted: &dyn Fn() -> bool) -> Brought {
        let Served { request, ready_ns, place, mut message } = *self;
        drop(place);
        spend(request.kind, request.demand_ns, is_wanted);
        let done_ns = Some(moment.now_ns());
        let answer = Answer { request, worker: moment.worker, ready_ns, taken_ns: moment.taken_ns, done_ns };
        let bytes = Arc::get_mut(&mut message).expect("nobody else has it yet");
        let (head, payload) = bytes.split_at_mut(answer.head());
        answer.write(payload.len(), head);
        message.into()
    }
}

#[cfg(test)]
mod tests;
