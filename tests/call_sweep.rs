//! Sessions with calls in flight, without sockets, under seeded abuse: calls that are answered at any time and in any order,
//! messages that others post meanwhile, and all that `session_sweep.rs` has (split reads, short writes, small rings, resets,
//! FINs, drains, peers that never read).
//!
//! The handler is one like `work`: requests that are answered within the turn, by bytes that were put or forwarded, and
//! requests that leave as calls. After each turn the invariants *messages-whole* and *calls-bounded* are checked, and at the
//! end that every request was answered once, whole, and that what keeps an order has kept it.
//!
//! A failure prints its seed and the command that replays it. `MAITRED_SEEDS=100000` sweeps longer.

#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/random.rs"]
mod random;

use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use maitred::clock::Clock;
use maitred::random::Random;
use maitred::session::buffer::{Budget, Leases};
use maitred::session::handler::{Call, Chunks, Closed, Handler, Mailing, Means, Moment, Next, Reply, Sending, Tally};
use maitred::session::mailbox::{Address, Limits, Mailbox, Message, Posted, Rouse};
use maitred::session::part::{Brought, Part};
use maitred::session::state::Reasons;
use maitred::session::{Session, TurnEnd};

use kernel::{Kernel, Peer, Watch};
use random::Draw;

/// What a request says first: how it is to be answered.
const PUT: u8 = b'p';
const FORWARD: u8 = b'f';
const CALL: u8 = b'c';
const FINISH: u8 = b'x';
/// What a message of others says first.
const POST: u8 = b'm';

/// A way to answer, a number, the length of the payload.
const HEAD: usize = 3;

/// One request or message: `payload` bytes that only this one has.
fn frame(way: u8, number: u8, payload: usize) -> Vec<u8> {
    let head = [way, number, payload as u8];
    head.into_iter().chain((0..payload).map(|at| number.wrapping_mul(31).wrapping_add(at as u8))).collect()
}

/// Answers every request with itself, in the way that it asks for.
#[derive(Default)]
struct Echo {
    forwards: usize,
}

impl Handler for Echo {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        if self.forwards > 0 {
            let now = self.forwards.min(input.len());
            self.forwards -= now;
            return Next::Forward(now);
        }
        let Some(payload) = input.byte_at(HEAD - 1) else { return Next::More };
        let bytes = HEAD + usize::from(payload);
        if bytes > input.len() {
            return Next::Gather(bytes);
        }
        let mut frame = vec![0; bytes];
        input.range(0..bytes).copy_to(&mut frame);
        match frame[0] {
            PUT if !reply.put(&frame) => Next::Room,
            FORWARD if !reply.is_through() || !reply.put(&frame[..HEAD]) => Next::Room,
            FORWARD if bytes > HEAD => {
                self.forwards = bytes - HEAD;
                Next::Discard(HEAD)
            }
            CALL => {
                reply.call(Box::new(Later(frame)));
                Next::Discard(bytes)
            }
            FINISH => Next::Finish { forward: 0 },
            _ => Next::Discard(bytes),
        }
    }
}

struct Later(Vec<u8>);

impl Call for Later {
    fn bytes(&self) -> usize {
        self.0.len()
    }

    fn run(self: Box<Self>, _moment: &Moment, _is_wanted: &dyn Fn() -> bool) -> Brought {
        let (head, payload) = self.0.split_at(HEAD);
        // Of some the payload lies in a file.
        if payload.is_empty() || payload[0] % 8 > 0 {
            return Message::from(self.0).into();
        }
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(payload, 3).expect("it can be written");
        let part = Part { file: Arc::new(file), from: 3, bytes: payload.len() };
        Brought::from(Message::from(head)).with_part(part)
    }
}

/// One connection from its first turn to its last.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    peer: Peer,
    /// What is asked for, in order: ways and lengths. The last may be cut off.
    requests: Vec<(u8, usize)>,
    watch: Watch,
    ring_bytes: usize,
    budget_bytes: usize,
    calls: u32,
    call_bytes: usize,
    sending: Sending,
    /// Messages that others post.
    posts: usize,
    drains_after: Option<usize>,
    /// Whether calls are answered before the peer is through.
    answers: bool,
}

impl Case {
    fn new(random: &mut Random) -> Case {
        let ring_bytes = random.pick(&[3, 4, 7, 16, 31, 64, 300]);
        let longest = random.pick(&[0, 1, 5, 20, 60, 255]);
        // What is put in one piece must fit the ring.
        let way = |random: &mut Random, payload: usize| match random.below(5) {
            0 if HEAD + payload <= ring_bytes => PUT,
            0 | 1 => FORWARD,
            _ => CALL,
        };
        let mut requests: Vec<(u8, usize)> = (0..random.below(40))
            .map(|_| {
                let payload = random.below(longest + 1);
                (way(random, payload), payload)
            })
            .collect();
        if random.once_in(8) {
            let place = random.below(requests.len() + 1);
            requests.insert(place, (FINISH, 0));
        }
        let input = (0..).zip(&requests).flat_map(|(number, &(way, payload))| frame(way, number, payload)).collect();
        Case {
            seed: random.next(),
            peer: Peer {
                input,
                sends_fin: !random.once_in(5),
                resets_after: None,
                reads: true,
                capacity: random.pick(&[1, 2, 5, 13, 40, 100, 1_000]),
                piece: random.pick(&[1, 3, 8, 30, 1_000]),
            },
            requests,
            watch: random.pick(&[Watch::Edge, Watch::EdgeTellsAll, Watch::Oneshot]),
            ring_bytes,
            budget_bytes: random.pick(&[1, 3, 20, 64, 1_000]),
            calls: random.pick(&[1, 2, 5, 100]),
            call_bytes: random.pick(&[0, 10, 200, 100_000]),
            sending: random.pick(&[Sending::Vectored, Sending::Each]),
            posts: random.pick(&[0, 0, 1, 10]),
            drains_after: None,
            answers: !random.once_in(4),
        }
    }
}

/// Runs `make_case` for many seeds, or for the one of `MAITRED_SEED`.
fn sweep(test: &str, make_case: fn(&mut Random) -> Case) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a seed is a number"));
    let seeds = match number("MAITRED_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MAITRED_SEEDS").unwrap_or(1_500),
    };
    for seed in seeds {
        let case = make_case(&mut Random::new(seed));
        let shown = format!("{case:?}");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(case))) {
            eprintln!("{shown}\nreplay with: MAITRED_SEED={seed} cargo test --test call_sweep {test}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn every_request_is_answered_once_and_whole() {
    sweep("every_request_is_answered_once_and_whole", Case::new);
}

#[test]
fn a_drain_waits_for_calls() {
    sweep("a_drain_waits_for_calls", |random| {
        let mut case = Case::new(random);
        case.drains_after = Some(random.below(8));
        case.peer.sends_fin &= random.once_in(2);
        case
    });
}

#[test]
fn a_peer_that_asks_and_never_reads_fills_its_share_and_no_more() {
    sweep("a_peer_that_asks_and_never_reads_fills_its_share_and_no_more", |random| {
        let mut case = Case::new(random);
        case.peer.reads = false;
        case
    });
}

#[test]
fn a_reset_ends_a_session_with_calls() {
    sweep("a_reset_ends_a_session_with_calls", |random| {
        let mut case = Case::new(random);
        case.peer.resets_after = Some(random.below(20));
        case
    });
}

/// Notes that somebody has told it of mail.
#[derive(Default)]
struct Told(AtomicBool);

impl Rouse for Told {
    fn rouse(&self, _key: u64) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Those around a session: who runs its calls, and who has messages for it.
struct Others {
    address: Address,
    told: Arc<Told>,
    calls: Vec<Box<dyn Call>>,
    made: usize,
    posted: usize,
    posts: usize,
}

impl Others {
    /// One of them does something, if there is something to do.
    fn act(&mut self, random: &mut Random) -> bool {
        let may_post = self.posted < self.posts;
        if !self.calls.is_empty() && (!may_post || random.once_in(2)) {
            let call = self.calls.swap_remove(random.below(self.calls.len()));
            let bytes = call.bytes();
            let brought = call.run(&moment(), &|| true);
            if self.address.reply(brought, bytes) {
                self.told.rouse(0);
            }
            return true;
        }
        if may_post {
            let number = self.posted as u8;
            if self.address.post(frame(POST, number, random.below(30)).into()) == Posted::Gone {
                self.posts = self.posted;
            } else {
                self.posted += 1;
            }
        }
        may_post
    }

    fn take_reasons(&self) -> Reasons {
        if self.told.0.swap(false, Ordering::Relaxed) { Reasons::POSTED } else { Reasons::NONE }
    }
}

fn moment() -> Moment {
    Moment::new(Clock::start(), None, None, 0)
}

/// Drives one session as an engine does, and checks it after each turn.
fn check(case: Case) {
    let mut random = Random::new(case.seed);
    let mut kernel = Kernel::new(case.peer.clone(), case.watch, random.next());
    let limits = Limits { bytes: case.call_bytes, messages: 100, edge: !random.once_in(4) };
    let told = Arc::new(Told::default());
    let address = Mailbox::new(Limits { bytes: 100_000, ..limits }, Arc::clone(&told) as Arc<dyn Rouse>, 0);
    let mailing = Mailing { limits, calls: case.calls, sending: case.sending };
    let mut session = Session::new(Box::<Echo>::default(), Some((Address::clone(&address), mailing)));
    let mut others = Others { address, told, calls: Vec::new(), made: 0, posted: 0, posts: case.posts };
    let budget = Budget::new(8 * case.ring_bytes + 1_000);
    let mut leases = Leases::new(case.ring_bytes, Arc::clone(&budget));
    let mut due = Reasons::RESUME;
    let (mut turns, mut is_draining) = (0, false);
    let closed = loop {
        for _ in 0..random.below(3) {
            kernel.act();
        }
        if case.answers && random.once_in(2) {
            others.act(&mut random);
        }
        due |= kernel.take_reasons() | others.take_reasons();
        if due.is_empty() {
            if kernel.act() || others.act(&mut random) {
                continue;
            }
            break None;
        }
        if case.drains_after.is_some_and(|after| turns >= after) && !is_draining {
            due |= Reasons::DRAIN;
            is_draining = true;
        }
        turns += 1;
        assert!(turns < 20_000, "a session that does not end");
        kernel.begin_turn();
        let mut tally = Tally::default();
        let known = others.calls.len();
        let means = &mut Means {
            leases: &mut leases,
            budget_bytes: case.budget_bytes,
            moment: moment(),
            parallel: None,
            tally: &mut tally,
            calls: &mut others.calls,
        };
        let end = session.turn(&mut kernel, std::mem::replace(&mut due, Reasons::NONE), means);
        others.made += others.calls.len() - known;
        check_calls(&case, others.made, &session, &kernel);
        match end {
            TurnEnd::Closed(closed) => break Some(closed),
            TurnEnd::Again => due |= Reasons::RESUME,
            TurnEnd::Starved => panic!("there is memory"),
            TurnEnd::Idle => kernel.watch(&session),
        }
    };
    session.release(&mut leases);
    drop(leases);
    assert_eq!(budget.made_bytes(), 0, "all memory is given back");
    check_end(&case, closed, &kernel, &others, is_draining);
}

/// *calls-bounded*: those that were made and whose replies have not left whole.
fn check_calls(case: &Case, made: usize, session: &Session, kernel: &Kernel) {
    let left = frames(&kernel.received).filter(|frame| frame.is_whole && frame.way == CALL).count();
    assert!(made - left <= case.calls as usize, "calls-bounded: {made} made, {left} left");
    assert_eq!(session.has_calls(), made > left);
    let bytes: usize = case.requests.iter().filter(|(way, _)| *way == CALL).map(|(_, payload)| HEAD + payload).sum();
    // The last one may be as long as it likes.
    let most = case.call_bytes + HEAD + 255;
    let in_flight = made - left;
    assert!(in_flight <= 1 || in_flight * HEAD <= most, "calls-bounded: {in_flight} of {bytes} bytes");
}

/// Part of what was received.
struct Received<'a> {
    way: u8,
    number: u8,
    payload: &'a [u8],
    is_whole: bool,
}

/// *messages-whole*: all that was received, cut into frames; the last one may not have come whole.
fn frames(mut received: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let (head, rest) = received.split_at_checked(HEAD)?;
        let payload = usize::from(head[2]).min(rest.len());
        let is_whole = payload == usize::from(head[2]);
        received = &rest[payload..];
        assert!([PUT, FORWARD, CALL, POST].contains(&head[0]), "messages-whole: {head:?}");
        Some(Received { way: head[0], number: head[1], payload: &rest[..payload], is_whole })
    })
}

fn check_end(case: &Case, closed: Option<Closed>, kernel: &Kernel, others: &Others, is_draining: bool) {
    let finish = case.requests.iter().position(|(way, _)| *way == FINISH).unwrap_or(case.requests.len());
    let asked = &case.requests[..finish];
    let mut answered = vec![false; asked.len()];
    let (mut next_said, mut next_post) = (0, 0);
    for Received { way, number, payload, is_whole } in frames(&kernel.received) {
        let expected = frame(way, number, payload.len());
        assert_eq!(payload, &expected[HEAD..], "messages-whole");
        if way == POST {
            assert_eq!(usize::from(number), next_post, "posts keep their order");
            next_post += 1;
            continue;
        }
        let (asked_way, asked_payload) = asked[usize::from(number)];
        assert_eq!(way, asked_way);
        assert!(!is_whole || payload.len() == asked_payload, "the whole of it comes back");
        assert!(!std::mem::replace(&mut answered[usize::from(number)], true), "{number} is answered twice");
        if way != CALL {
            assert!(usize::from(number) >= next_said, "output-in-order");
            next_said = usize::from(number);
        }
    }
    let all_answered = answered.iter().all(|&answered| answered);
    let all_posted = next_post == others.posted;
    match closed {
        Some(Closed::Reset | Closed::PeerClosed) => assert!(kernel.was_reset()),
        Some(Closed::Finished) => {
            assert!(all_answered || is_draining, "the end waits for all calls");
            assert!(others.calls.is_empty(), "the end waits for all calls");
        }
        Some(Closed::Drained) => assert!(is_draining && others.calls.is_empty(), "a drain waits for all calls"),
        Some(other) => panic!("a session does not end as {other:?} by itself"),
        None if !case.peer.reads => assert!(!kernel.has_space() || (all_answered && all_posted), "sent is what fits"),
        None => {
            assert!(!kernel.was_reset() && !is_draining, "stranded: it should have ended");
            assert!(all_answered && all_posted, "stranded: {answered:?}, {next_post} posts");
            assert!(!case.peer.sends_fin || kernel.finished, "stranded: nothing is left to come, and it has not ended");
        }
    }
}
