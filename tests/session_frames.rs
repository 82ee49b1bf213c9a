//! Frames that may be larger than the ring, through pure sessions under seeded abuse: how the input is cut never changes
//! them, each is shown whole, and their memory is exactly as much as they need and given back.
//!
//! `MAITRED_SEEDS=100000` sweeps longer; a failure prints its seed.

#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/random.rs"]
mod random;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use maitred::clock::Clock;
use maitred::random::Random;
use maitred::session::buffer::{Budget, Leases};
use maitred::session::framing::{Found, Framer, Framing};
use maitred::session::handler::{Chunks, Closed, Handler, Means, Moment, Next, Reply, Tally};
use maitred::session::state::Reasons;
use maitred::session::{Session, TurnEnd};

use kernel::{Kernel, Peer, Watch};
use random::Draw;

const MOST: u32 = 300;

/// Answers each frame with its head, made anew, and its body from where it lies, or drops it: by the first byte of it.
struct Frames(Framer);

impl Handler for Frames {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        match self.0.find(input) {
            Found::Frame { body, bytes } => match body.byte_at(0) {
                Some(first) if first % 3 == 0 => Next::Discard(bytes),
                Some(first) if first % 3 == 1 && reply.room() == 0 => Next::Room,
                Some(first) if first % 3 == 1 => {
                    assert!(reply.put(b"!"), "there is room");
                    Next::Forward(bytes)
                }
                _ => Next::Forward(bytes),
            },
            Found::Part { bytes } => Next::Gather(bytes),
            Found::More => Next::More,
            Found::TooShort => unreachable!("there is no least"),
            Found::TooLong => Next::Reject("a frame is too long"),
        }
    }
}

/// What is answered to all of these bodies.
fn answer(bodies: &[Vec<u8>]) -> Vec<u8> {
    let answer_one = |body: &Vec<u8>| match body.first().map(|first| first % 3) {
        Some(0) => Vec::new(),
        Some(1) => [b"!".to_vec(), framed(body)].concat(),
        _ => framed(body),
    };
    bodies.iter().flat_map(answer_one).collect()
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

fn check(seed: u64) {
    let mut random = Random::new(seed);
    let ring_bytes = random.pick(&[5, 8, 13, 32, 64]);
    let longest = random.pick(&[0, 3, 20, 100, MOST as usize]);
    let body = |random: &mut Random| (0..random.below(longest + 1)).map(|_| random.next() as u8).collect();
    let bodies: Vec<Vec<u8>> = (0..random.below(12)).map(|_| body(&mut random)).collect();
    let input: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
    let peer = Peer {
        input,
        sends_fin: true,
        resets_after: None,
        reads: true,
        capacity: random.pick(&[1, 3, 8, 40, 1_000]),
        piece: random.pick(&[1, 2, 5, 30, 1_000]),
    };
    let watch = random.pick(&[Watch::Edge, Watch::EdgeTellsAll, Watch::Oneshot]);
    let budget_bytes = random.pick(&[1, 7, 64, 1_000]);
    let mut kernel = Kernel::new(peer, watch, random.next());
    let budget = Budget::new(usize::MAX);
    let mut session = Session::new(Box::new(Frames(Framer::new(Framing::Length { least: 0, most: MOST }))), None);
    let mut due = Reasons::RESUME;
    let longest_memory = 2 * ring_bytes + 4 + MOST as usize;
    let closed = loop {
        for _ in 0..random.below(3) {
            kernel.act();
        }
        due |= kernel.take_reasons();
        if due.is_empty() {
            assert!(kernel.act(), "stranded: {} bytes were sent", kernel.received.len());
            continue;
        }
        // A free list of its own for each turn: what the session holds is what there is.
        let mut leases = Leases::new(ring_bytes, Arc::clone(&budget));
        let (tally, calls, moment) =
            (&mut Tally::default(), &mut Vec::new(), Moment::new(Clock::start(), None, None, 0));
        let mut means = Means { leases: &mut leases, budget_bytes, moment, parallel: None, tally, calls };
        kernel.begin_turn();
        let end = session.turn(&mut kernel, std::mem::replace(&mut due, Reasons::NONE), &mut means);
        assert!(
            tally.read_bytes < (budget_bytes + ring_bytes.max(4 + MOST as usize)) as u64,
            "a turn keeps to its budget"
        );
        match end {
            TurnEnd::Closed(closed) => {
                session.release(&mut leases);
                break closed;
            }
            TurnEnd::Again => due |= Reasons::RESUME,
            TurnEnd::Starved => panic!("there is memory"),
            TurnEnd::Idle => kernel.watch(&session),
        }
        drop(leases);
        assert!(budget.made_bytes() <= longest_memory, "{} bytes for a frame of {MOST}", budget.made_bytes());
    };
    assert_eq!(closed, Closed::Finished);
    assert_eq!(kernel.received, answer(&bodies), "how the input is cut changes nothing");
    assert_eq!(budget.made_bytes(), 0, "all memory is given back");
}

#[test]
fn frames_larger_than_the_ring_are_the_same_however_they_come() {
    let seeds = std::env::var("MAITRED_SEEDS").map_or(3_000, |text| text.parse().expect("a number"));
    for seed in 0..seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(seed))) {
            eprintln!("with the seed {seed}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn a_frame_larger_than_all_memory_ends_its_session_and_waits_for_none() {
    let budget = Budget::new(100);
    let input = [&200_u32.to_be_bytes()[..], &[7; 200]].concat();
    let peer = Peer { input, sends_fin: false, resets_after: None, reads: true, capacity: 9, piece: 300 };
    let mut kernel = Kernel::new(peer, Watch::Edge, 0);
    while kernel.act() {}
    let framing = Framing::Length { least: 0, most: MOST };
    let mut session = Session::new(Box::new(Frames(Framer::new(framing))), None);
    let mut leases = Leases::new(16, Arc::clone(&budget));
    let (tally, calls, moment) = (&mut Tally::default(), &mut Vec::new(), Moment::new(Clock::start(), None, None, 0));
    let mut means = Means { leases: &mut leases, budget_bytes: 1_000, moment, parallel: None, tally, calls };
    assert_eq!(session.turn(&mut kernel, Reasons::READABLE, &mut means), TurnEnd::Closed(Closed::OverLimit));
    session.release(&mut leases);
    drop(leases);
    assert_eq!(budget.made_bytes(), 0);
}
