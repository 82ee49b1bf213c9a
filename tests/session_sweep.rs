//! Sessions without sockets, under seeded abuse: split reads, short writes, would-blocks, resets, FINs with the last
//! bytes and after them, rings of a few bytes, small budgets, memory that runs out and comes back.
//!
//! The kernel is `support/kernel.rs`; it tells readiness once and never again, so that a turn which ends too early
//! strands its session here as it would in the daemon. The handlers are in `support/handlers.rs`. After each turn the
//! invariants of `src/session/mod.rs` are checked, and at the end that the output is what the whole input asks for:
//! how input is split never changes output.
//!
//! A failure prints its seed and the command that replays it. `MAITRED_SEEDS=100000` sweeps longer.

#[path = "support/chargen.rs"]
mod chargen;
#[path = "support/handlers.rs"]
mod handlers;
#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/random.rs"]
mod random;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use maitred::clock::Clock;
use maitred::random::Random;
use maitred::session::buffer::{Budget, Leases};
use maitred::session::handler::{Closed, Means, Moment, Tally};
use maitred::session::state::Reasons;
use maitred::session::{Session, TurnEnd};

use handlers::{Ending, Plan, Promise, Witness};
use kernel::{Kernel, Peer, Watch};
use random::Draw;

/// One connection from its first turn to its last.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    plan: Plan,
    peer: Peer,
    watch: Watch,
    ring_bytes: usize,
    budget_bytes: usize,
    /// The longest piece that a handler says at once.
    piece: usize,
    /// Before which turn somebody else takes all memory but so many rings, and keeps it for a while.
    memory: Option<(usize, usize)>,
    /// After which turn the daemon drains.
    drains_after: Option<usize>,
    /// Whether all turns use one free list, so that rings are used again with old bytes in them.
    keeps_rings: bool,
}

impl Case {
    fn new(plan: Plan, random: &mut Random) -> Case {
        let least_ring = if matches!(plan, Plan::Lines) { 4 } else { 1 };
        let ring_bytes = random.pick(&[1, 2, 3, 4, 5, 7, 8, 16, 31, 64]).max(least_ring);
        let longest = random.pick(&[0, 1, 3, 10, 40, 200, 400]);
        let input = match plan {
            Plan::Lines => lines(longest, ring_bytes, random),
            Plan::EchoUntilNul => with_nul(longest, random),
            _ => (0..longest).map(|_| random.next() as u8).collect(),
        };
        Case {
            seed: random.next(),
            plan,
            peer: Peer {
                input,
                sends_fin: !random.once_in(5),
                resets_after: None,
                reads: true,
                capacity: random.pick(&[1, 2, 3, 5, 8, 13, 40, 100, 1_000]),
                piece: random.pick(&[1, 2, 3, 8, 30, 1_000]),
            },
            watch: random.pick(&[Watch::Edge, Watch::EdgeTellsAll, Watch::Oneshot]),
            ring_bytes,
            budget_bytes: random.pick(&[1, 2, 3, 7, 20, 64, 1_000]),
            piece: random.pick(&[1, 2, 3, 5, 8, 64]),
            memory: None,
            drains_after: None,
            keeps_rings: random.once_in(3),
        }
    }
}

fn any_plan(random: &mut Random) -> Plan {
    let bytes = random.pick(&[0, 1, 5, 30, 100]);
    match random.below(7) {
        0 => Plan::Echo,
        1 => Plan::EchoUntilNul,
        5 => Plan::Discard,
        2 => Plan::Lines,
        3 => Plan::Greeter { bytes },
        4 => Plan::Flood { bytes, hears: random.once_in(2) },
        _ => Plan::Program,
    }
}

/// Lines of which one in some is too long for the ring, and a rest that may not end as one.
fn lines(longest: usize, ring_bytes: usize, random: &mut Random) -> Vec<u8> {
    let mut text = Vec::new();
    while text.len() < longest {
        let len = if random.once_in(60) { ring_bytes + random.below(3) } else { random.below(ring_bytes) };
        text.extend((0..len).map(|_| b'a' + random.below(26) as u8));
        text.push(b'\n');
    }
    text.truncate(longest);
    text
}

/// Bytes other than NUL, then perhaps one, first, last or in between, perhaps several.
fn with_nul(longest: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..longest).map(|_| random.up_to(255) as u8).collect();
    for _ in 0..random.below(3).min(longest) {
        let inside = random.below(longest);
        let at = random.pick(&[0, longest - 1, inside]);
        bytes[at] = 0;
    }
    bytes
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
            eprintln!("{shown}\nreplay with: MAITRED_SEED={seed} cargo test --test session_sweep {test}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn output_is_what_the_whole_input_asks_for() {
    sweep("output_is_what_the_whole_input_asks_for", |random| {
        let plan = any_plan(random);
        Case::new(plan, random)
    });
}

#[test]
fn echo_keeps_every_byte() {
    sweep("echo_keeps_every_byte", |random| {
        let plan = if random.once_in(2) { Plan::Echo } else { Plan::EchoUntilNul };
        Case::new(plan, random)
    });
}

#[test]
fn answers_of_every_kind_mix() {
    sweep("answers_of_every_kind_mix", |random| Case::new(Plan::Program, random));
}

#[test]
fn a_peer_that_resets_ends_its_session() {
    sweep("a_peer_that_resets_ends_its_session", |random| {
        let plan = match random.below(6) {
            0 => Plan::Flood { bytes: usize::MAX >> 8, hears: random.once_in(2) },
            1 => Plan::Chargen,
            _ => any_plan(random),
        };
        let mut case = Case::new(plan, random);
        case.peer.resets_after = Some(random.below(30));
        case.peer.sends_fin &= random.once_in(2);
        case
    });
}

#[test]
fn a_peer_that_never_reads_stops_its_session() {
    sweep("a_peer_that_never_reads_stops_its_session", |random| {
        let plan = if random.once_in(4) { Plan::Chargen } else { any_plan(random) };
        let mut case = Case::new(plan, random);
        case.peer.reads = false;
        case
    });
}

#[test]
fn a_drain_answers_what_has_come() {
    sweep("a_drain_answers_what_has_come", |random| {
        let plan = if random.once_in(5) { Plan::Chargen } else { any_plan(random) };
        let mut case = Case::new(plan, random);
        case.drains_after = Some(random.below(6));
        case.peer.sends_fin &= random.once_in(2);
        case
    });
}

#[test]
fn memory_that_runs_out_and_comes_back_costs_nothing_but_time() {
    sweep("memory_that_runs_out_and_comes_back_costs_nothing_but_time", |random| {
        let mut case = Case::new(any_plan(random), random);
        case.memory = Some((random.below(4), random.below(2)));
        if random.once_in(4) {
            case.drains_after = Some(random.below(6));
        }
        case
    });
}

#[test]
fn a_fin_read_before_the_last_input_is_shown_is_told() {
    // The second byte of the payload stays owed while the FIN is read; what comes behind it is no whole command.
    let input = vec![0x01, b'x', b'y', 0x70, 0xd0, 1];
    for seed in 0..64 {
        let mut case = Case::new(Plan::Program, &mut Random::new(seed));
        case.peer =
            Peer { input: input.clone(), sends_fin: true, resets_after: None, reads: true, capacity: 1, piece: 8 };
        (case.ring_bytes, case.budget_bytes) = (16, 1_000);
        check(case);
    }
}

#[test]
fn a_frame_that_fills_the_ring_behind_owed_bytes_ends_the_session() {
    for seed in 0..64 {
        let mut case = Case::new(Plan::Lines, &mut Random::new(seed));
        let peer = Peer { input: b"ab\nlonger than the ring".to_vec(), ..case.peer };
        case.peer = Peer { sends_fin: false, capacity: 1, piece: 100, ..peer };
        (case.ring_bytes, case.budget_bytes) = (8, 1_000);
        check(case);
    }
}

/// Drives one session as an engine does, and checks it after each turn.
fn check(case: Case) {
    let mut random = Random::new(case.seed);
    let mut kernel = Kernel::new(case.peer.clone(), case.watch, random.next());
    let witness = Witness::default();
    let mut session = Session::new(case.plan.open(witness.clone(), case.ring_bytes, case.piece), None);
    let budget = Budget::new(3 * case.ring_bytes);
    let mut leases = Leases::new(case.ring_bytes, Arc::clone(&budget));
    let mut hog = Hog::default();
    let mut books = Books::default();
    let mut tally = Tally::default();
    // Engines give each session a first turn, so that its service may speak first.
    let mut due = Reasons::RESUME;
    let (mut turns, mut retries, mut turns_in_vain) = (0, 0, 0);
    let mut starved = false;
    let closed = loop {
        for _ in 0..random.below(3) {
            kernel.act();
        }
        due |= kernel.take_reasons();
        if starved {
            // Looked at again when there is memory, and now and then without.
            let has_room = budget.has_room(case.ring_bytes);
            if has_room || random.once_in(8) {
                due |= Reasons::RESUME;
                retries += 1;
            } else if random.once_in(4) || !kernel.act() {
                hog.release();
                continue;
            } else {
                continue;
            }
        } else if due.is_empty() {
            if kernel.act() {
                continue;
            }
            break None;
        }
        if case.drains_after == Some(turns) {
            books.drained_at.get_or_insert(kernel.arrived_bytes);
            due |= Reasons::DRAIN;
        }
        if let Some((turn, rings)) = case.memory
            && turn == turns
        {
            hog.take_all_but(rings, case.ring_bytes, &budget);
        }
        turns += 1;
        kernel.begin_turn();
        let (acts, written) = (kernel.acts, kernel.received.len());
        let before = (tally, witness.look().bytes.len());
        let reasons = std::mem::replace(&mut due, Reasons::NONE);
        let end = turn(&mut session, &mut kernel, reasons, &mut leases, case.budget_bytes, &mut tally);
        let turn_read_bytes = (tally.read_bytes - before.0.read_bytes) as usize;
        assert!(turn_read_bytes < case.budget_bytes + case.ring_bytes, "a turn keeps to its budget");
        starved = end == TurnEnd::Starved;
        match end {
            TurnEnd::Closed(closed) => break Some(closed),
            TurnEnd::Again => {
                assert!(turn_read_bytes > 0 || witness.look().bytes.len() > before.1, "a turn that goes on has moved");
                due |= Reasons::RESUME;
            }
            TurnEnd::Starved => {
                assert!(case.memory.is_some() && !hog.sessions.is_empty(), "there is memory");
                assert!(!session.is_write_blocked(), "who hears from the stream does not wait for memory");
            }
            TurnEnd::Idle => kernel.watch(&session),
        }
        if !case.keeps_rings {
            leases = Leases::new(case.ring_bytes, Arc::clone(&budget));
        }
        let left = books.settle(&kernel, &witness.look());
        left.check(&case, &kernel, &witness.look());
        if !case.keeps_rings {
            assert_eq!(
                budget.made_bytes(),
                (left.rings() + hog.sessions.len()) * case.ring_bytes,
                "idle-holds-nothing"
            );
        }
        if end == TurnEnd::Idle && !kernel.has_events() {
            left.check_idle(&case, &session, &kernel, &witness.look());
        }
        let in_vain = turn_read_bytes == 0 && kernel.received.len() == written && kernel.acts == acts;
        turns_in_vain = if in_vain && kernel.has_events() { turns_in_vain + 1 } else { 0 };
        assert!(turns_in_vain < 3, "events come again and again and nothing is done about them");
        let moved = kernel.read_bytes + witness.look().bytes.len();
        assert!(turns <= 8 + retries + 3 * (kernel.acts + moved), "{turns} turns are too many");
    };
    assert_eq!((tally.read_bytes, tally.written_bytes), (kernel.read_bytes as u64, kernel.received.len() as u64));
    assert_eq!((tally.reads, tally.writes), (kernel.reads, kernel.writes), "each is counted once, in vain or not");
    session.release(&mut leases);
    drop(leases);
    hog.release();
    assert_eq!(budget.made_bytes(), 0, "all memory is given back");
    check_end(&case, closed, &kernel, &witness.look(), &books);
}

/// One turn by nobody in particular, of a service that makes no calls.
fn turn(
    session: &mut Session,
    kernel: &mut Kernel,
    reasons: Reasons,
    leases: &mut Leases,
    budget_bytes: usize,
    tally: &mut Tally,
) -> TurnEnd {
    let (moment, mut calls) = (Moment::new(Clock::start(), None, None, 0), Vec::new());
    let means = &mut Means { leases, budget_bytes, moment, parallel: None, tally, calls: &mut calls };
    let end = session.turn(kernel, reasons, means);
    assert!(calls.is_empty());
    end
}

fn check_end(case: &Case, closed: Option<Closed>, kernel: &Kernel, promise: &Promise, books: &Books) {
    assert!(promise.bytes.starts_with(&kernel.received), "output-in-order");
    let (expected, ending) = match case.plan {
        // Too long to spell out, and cut short by the reset, the drain or who does not read.
        Plan::Flood { bytes, .. } if bytes > 1_000 => (promise.bytes.clone(), Ending::Open),
        Plan::Chargen => (promise.bytes.clone(), Ending::Open),
        _ => case.plan.outcome(&case.peer.input, case.peer.sends_fin, case.ring_bytes),
    };
    assert!(expected.starts_with(&kernel.received), "how input is split never changes output");
    let all = kernel.received.len() == expected.len();
    let sent_all = kernel.received.len() == promise.bytes.len();
    match closed {
        Some(Closed::Reset | Closed::PeerClosed) => assert!(kernel.was_reset()),
        Some(Closed::Protocol) => assert_eq!(ending, Ending::Protocol),
        Some(Closed::Finished) => {
            assert!(all && ending == Ending::Finished, "all was said and sent");
            assert!(kernel.fin_read || (books.drained_at.is_some() && kernel.finished), "both sides have said all");
        }
        Some(Closed::Drained) => {
            assert!(sent_all, "what was promised is sent");
            let arrived = books.drained_at.expect("only a drain drains");
            assert!(!matches!(case.plan, Plan::Echo) || kernel.received.len() >= arrived, "what has come is answered");
        }
        Some(other) => panic!("a session does not end as {other:?} by itself"),
        None if !case.peer.reads => assert!(all || !kernel.has_space(), "a peer that never reads is sent what fits"),
        None => {
            assert!(!kernel.was_reset() && books.drained_at.is_none(), "stranded: it should have ended");
            assert!(all, "stranded: {} of {} bytes", kernel.received.len(), expected.len());
            let lingers = ending == Ending::Finished && kernel.finished && !kernel.fin_read;
            assert!(ending == Ending::Open || lingers, "stranded: nothing is left to come, and it has not ended");
        }
    }
}

/// Other sessions, which hold memory until their peers take what they are owed.
#[derive(Default)]
struct Hog {
    sessions: Vec<(Session, Leases)>,
}

impl Hog {
    fn take_all_but(&mut self, rings: usize, ring_bytes: usize, budget: &Arc<Budget>) {
        while budget.has_room((rings + 1) * ring_bytes) {
            let peer =
                Peer { input: vec![1], sends_fin: false, resets_after: None, reads: false, capacity: 0, piece: 1 };
            let mut kernel = Kernel::new(peer, Watch::Edge, 0);
            let mut session = Session::new(Plan::Echo.open(Witness::default(), ring_bytes, 1), None);
            let mut leases = Leases::new(ring_bytes, Arc::clone(budget));
            kernel.act();
            let tally = &mut Tally::default();
            let end = turn(&mut session, &mut kernel, Reasons::READABLE, &mut leases, 1_000, tally);
            assert!(end == TurnEnd::Idle && session.is_write_blocked());
            self.sessions.push((session, leases));
        }
    }

    fn release(&mut self) {
        for (mut session, mut leases) in self.sessions.drain(..) {
            session.release(&mut leases);
        }
    }
}

/// What of the promised bytes has been sent, by where they lay.
#[derive(Default)]
struct Books {
    sent_segments: usize,
    sent_bytes: usize,
    counted_bytes: usize,
    drained_at: Option<usize>,
}

/// What a session has left to do.
#[derive(Debug)]
struct Left {
    unread: usize,
    owed_from_input: usize,
    owed_said: usize,
}

impl Books {
    fn settle(&mut self, kernel: &Kernel, promise: &Promise) -> Left {
        self.sent_bytes += kernel.received.len() - std::mem::replace(&mut self.counted_bytes, kernel.received.len());
        let mut left = Left { unread: kernel.read_bytes - promise.taken, owed_from_input: 0, owed_said: 0 };
        if promise.finished {
            left.unread = 0;
        }
        let mut sent = self.sent_bytes;
        for &(forwarded, len) in promise.segments.iter().skip(self.sent_segments) {
            let now = sent.min(len);
            sent -= now;
            if now == len {
                self.sent_segments += 1;
                self.sent_bytes -= len;
            }
            *(if forwarded { &mut left.owed_from_input } else { &mut left.owed_said }) += len - now;
        }
        left
    }
}

impl Left {
    fn owed(&self) -> usize {
        self.owed_from_input + self.owed_said
    }

    fn rings(&self) -> usize {
        usize::from(self.unread + self.owed_from_input > 0) + usize::from(self.owed_said > 0)
    }

    fn check(&self, case: &Case, kernel: &Kernel, promise: &Promise) {
        assert!(promise.bytes.starts_with(&kernel.received), "output-in-order");
        assert!(self.unread + self.owed_from_input <= case.ring_bytes, "slow-reader-stops-itself: {self:?}");
        assert!(self.owed_said <= case.ring_bytes, "slow-reader-stops-itself: {self:?}");
        assert!(!promise.talks || self.unread == 0, "who talks hears what has come: {self:?}");
        assert!(!promise.talks || !kernel.fin_read || promise.told_end, "who talks hears of the end: {self:?}");
    }

    /// Nobody will give this session a turn before something happens to its socket.
    fn check_idle(&self, case: &Case, session: &Session, kernel: &Kernel, promise: &Promise) {
        if self.owed() > 0 {
            assert!(session.is_write_blocked() && !kernel.has_space(), "no-lost-readiness: output waits: {self:?}");
            return;
        }
        assert!(!kernel.has_input(), "no-lost-readiness: input waits: {self:?}");
        assert!(!session.is_write_blocked(), "nothing is owed");
        assert!(!promise.wants_room && !promise.talks, "no-lost-readiness: there is room: {self:?}");
        let waits = promise.wants_more_than == Some(self.unread);
        assert!(self.unread == 0 || waits, "no-lost-readiness: the handler was not asked: {self:?}");
        assert!(self.unread < case.ring_bytes, "no more could ever come: {self:?}");
        assert!(!kernel.fin_read || promise.finished, "no-lost-readiness: the end was not told: {self:?}");
    }
}
