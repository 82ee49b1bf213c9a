//! Relays without sockets, under seeded abuse: both ends are kernels in memory (`support/kernel.rs`) that split, stall, send
//! FINs at any point and reset, under rings of a few bytes, small budgets and memory for a single ring.
//!
//! After each turn the invariants of `src/session/pair.rs` are checked, and at the end that each side has got what the other
//! one sent, to the last byte and with its FIN, or an end that is no FIN.
//!
//! A failure prints its seed and the command that replays it. `MAITRED_SEEDS=100000` sweeps longer.

#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/random.rs"]
mod random;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use maitred::clock::Clock;
use maitred::random::Random;
use maitred::session::TurnEnd;
use maitred::session::buffer::{Budget, Leases};
use maitred::session::handler::{Closed, Means, Moment, Tally};
use maitred::session::pair::{End, Pair};
use maitred::session::state::Reasons;

use kernel::{Kernel, Peer, Watch};
use random::Draw;

/// One relay from its first turn to its last.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    header: Vec<u8>,
    client: Peer,
    upstream: Peer,
    watch: Watch,
    ring_bytes: usize,
    /// Rings that there is memory for.
    rings: usize,
    budget_bytes: usize,
    drains_after: Option<usize>,
}

fn any_peer(random: &mut Random) -> Peer {
    let longest = random.pick(&[0, 1, 3, 10, 40, 200, 400]);
    Peer {
        input: (0..longest).map(|_| random.next() as u8).collect(),
        sends_fin: !random.once_in(5),
        resets_after: None,
        reads: true,
        capacity: random.pick(&[1, 2, 3, 5, 8, 13, 40, 100, 1_000]),
        piece: random.pick(&[1, 2, 3, 8, 30, 1_000]),
    }
}

fn any_case(random: &mut Random) -> Case {
    Case {
        seed: random.next(),
        header: (0..random.pick(&[0, 0, 16, 28])).map(|_| random.next() as u8).collect(),
        client: any_peer(random),
        upstream: any_peer(random),
        watch: random.pick(&[Watch::Edge, Watch::EdgeTellsAll, Watch::Oneshot]),
        ring_bytes: random.pick(&[1, 2, 3, 4, 5, 7, 8, 16, 31, 64]),
        rings: random.pick(&[1, 2, 2, 2]),
        budget_bytes: random.pick(&[1, 2, 3, 7, 20, 64, 1_000]),
        drains_after: None,
    }
}

/// Runs `make_case` for many seeds, or for the one of `MAITRED_SEED`.
fn sweep(test: &str, make_case: fn(&mut Random) -> Case) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a seed is a number"));
    let seeds = match number("MAITRED_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MAITRED_SEEDS").unwrap_or(1_000),
    };
    for seed in seeds {
        let case = make_case(&mut Random::new(seed));
        let shown = format!("{case:?}");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| Relay::new(case).run())) {
            eprintln!("{shown}\nreplay with: MAITRED_SEED={seed} cargo test --test pair_sweep {test}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn every_byte_goes_both_ways_and_every_fin() {
    sweep("every_byte_goes_both_ways_and_every_fin", any_case);
}

#[test]
fn a_reset_cuts_and_never_changes_what_was_sent() {
    sweep("a_reset_cuts_and_never_changes_what_was_sent", |random| {
        let mut case = any_case(random);
        let acts = random.below(40);
        let end = if random.once_in(2) { &mut case.client } else { &mut case.upstream };
        end.resets_after = Some(acts);
        case
    });
}

#[test]
fn an_end_that_never_reads_stops_the_other_and_nothing_else() {
    sweep("an_end_that_never_reads_stops_the_other_and_nothing_else", |random| {
        let mut case = any_case(random);
        let end = if random.once_in(2) { &mut case.client } else { &mut case.upstream };
        end.reads = false;
        case.rings = 2;
        case
    });
}

#[test]
fn a_drain_forwards_what_has_come_and_says_that_it_was_all() {
    sweep("a_drain_forwards_what_has_come_and_says_that_it_was_all", |random| {
        let mut case = any_case(random);
        case.drains_after = Some(random.below(12));
        case.client.sends_fin &= random.once_in(3);
        case
    });
}

struct Relay {
    case: Case,
    random: Random,
    pair: Pair,
    client: Kernel,
    upstream: Kernel,
    budget: Arc<Budget>,
    leases: Leases,
    turns: usize,
    /// Bytes of the client that had come when the drain began.
    came_before: Option<usize>,
}

impl Relay {
    fn new(case: Case) -> Relay {
        let mut random = Random::new(case.seed);
        let client = Kernel::new(case.client.clone(), case.watch, random.next());
        let upstream = Kernel::new(case.upstream.clone(), case.watch, random.next());
        let budget = Budget::new(case.rings * case.ring_bytes);
        let leases = Leases::new(case.ring_bytes, Arc::clone(&budget));
        let pair = Pair::new(case.header.clone());
        Relay { random, pair, client, upstream, budget, leases, turns: 0, came_before: None, case }
    }

    fn run(mut self) {
        let mut again = true;
        loop {
            let mut reasons = self.client.take_reasons() | as_upstream(self.upstream.take_reasons());
            if self.case.drains_after == Some(self.turns) && self.came_before.is_none() {
                reasons |= Reasons::DRAIN;
                self.came_before = Some(self.client.arrived_bytes);
            }
            if reasons.is_empty() && !again {
                // Nobody has a reason: the peers go on, or it is over.
                let Relay { client, upstream, random, .. } = &mut self;
                let [first, second] = if random.once_in(2) { [client, upstream] } else { [upstream, client] };
                let acted = first.act() || second.act();
                match (acted, self.case.drains_after) {
                    (true, _) => continue,
                    (false, Some(turns)) if self.came_before.is_none() => {
                        assert!(turns >= self.turns, "it had its chance");
                        self.case.drains_after = Some(self.turns);
                        continue;
                    }
                    _ => return self.check_stuck(),
                }
            }
            match self.turn(reasons) {
                TurnEnd::Closed(closed) => return self.check_closed(closed),
                end => again = end != TurnEnd::Idle,
            }
            // Between two turns anything may happen.
            if self.random.once_in(3) {
                let _ = self.client.act();
            }
            if self.random.once_in(3) {
                let _ = self.upstream.act();
            }
        }
    }

    fn turn(&mut self, reasons: Reasons) -> TurnEnd {
        let clock = Clock::start();
        let (mut tally, mut calls) = (Tally::default(), Vec::new());
        let before = [self.client.read_bytes + self.upstream.read_bytes, self.written()];
        let calls_before = self.kernel_calls();
        self.client.begin_turn();
        self.upstream.begin_turn();
        let mut means = Means {
            leases: &mut self.leases,
            budget_bytes: self.case.budget_bytes,
            moment: Moment::new(clock, None, None, 0),
            parallel: None,
            tally: &mut tally,
            calls: &mut calls,
        };
        let end = self.pair.turn(&mut self.client, &mut self.upstream, reasons, &mut means, None);
        self.turns += 1;
        assert!(self.turns < 100_000, "it gets somewhere");
        let moved = [self.client.read_bytes + self.upstream.read_bytes - before[0], self.written() - before[1]];
        assert_eq!(moved, [tally.read_bytes as usize, tally.written_bytes as usize], "it is counted");
        let called = self.kernel_calls().into_iter().zip(calls_before).map(|(after, before)| after - before);
        assert!(called.eq([tally.reads, tally.writes]), "each is counted once, in vain or not");
        assert!(moved[0] <= self.case.budget_bytes + self.case.ring_bytes, "the budget, and one ring");
        if self.case.rings == 2 {
            assert_ne!(end, TurnEnd::Starved, "two rings are enough");
        }
        if end == TurnEnd::Starved || end == TurnEnd::Idle && !self.pair.owes() {
            self.leases.clear();
            assert_eq!(self.budget.made_bytes(), 0, "idle-holds-nothing");
        }
        if end == TurnEnd::Idle {
            let Relay { pair, client, upstream, .. } = self;
            client.watch_for(pair.wants_input(End::Client), pair.is_write_blocked(End::Client));
            upstream.watch_for(pair.wants_input(End::Upstream), pair.is_write_blocked(End::Upstream));
        }
        end
    }

    fn written(&self) -> usize {
        self.client.received.len() + self.upstream.received.len()
    }

    /// Reads and writes of both.
    fn kernel_calls(&self) -> [u64; 2] {
        [self.client.reads + self.upstream.reads, self.client.writes + self.upstream.writes]
    }

    /// What upstream is to be told in all.
    fn told_upstream(&self) -> Vec<u8> {
        [&self.case.header[..], &self.case.client.input].concat()
    }

    fn check_bytes(&self) {
        assert!(self.told_upstream().starts_with(&self.upstream.received), "what upstream got is what the client sent");
        assert!(self.case.upstream.input.starts_with(&self.client.received), "and the other way");
    }

    fn check_closed(mut self, closed: Closed) {
        self.check_bytes();
        let was_reset = self.client.was_reset() || self.upstream.was_reset();
        match closed {
            Closed::Finished => {
                assert!(self.client.finished && self.upstream.finished, "fin-as-fin");
                assert!(self.client.fin_read && self.upstream.fin_read, "fin-as-fin");
                assert_eq!(self.upstream.received, self.told_upstream());
                assert_eq!(self.client.received, self.case.upstream.input);
            }
            Closed::Drained => {
                assert!(self.client.finished && self.upstream.finished && self.upstream.fin_read);
                assert_eq!(self.client.received, self.case.upstream.input);
                self.check_drain();
            }
            Closed::Reset | Closed::PeerClosed => {
                assert!(was_reset, "nobody has reset anything");
                self.check_reset();
            }
            other => panic!("a relay does not end as {other:?}"),
        }
        self.pair.release(&mut self.leases, None);
        drop(self.leases);
        assert_eq!(self.budget.made_bytes(), 0, "all rings are given back");
    }

    /// What came in front of a reset is delivered as far as the other end takes it, and a reset does not look like an end.
    fn check_reset(&self) {
        let Relay { client, upstream, pair, .. } = self;
        let drains = self.came_before.is_some();
        assert!(!client.finished || upstream.fin_read, "fin-as-fin");
        assert!(!upstream.finished || client.fin_read || drains, "fin-as-fin");
        let is_taken_from = |end: &Kernel, other: &Kernel, other_end| {
            !end.was_reset() || other.was_reset() || pair.is_write_blocked(other_end) || !end.has_unread()
        };
        assert!(is_taken_from(client, upstream, End::Upstream) || drains, "what the client had said is forwarded");
        assert!(is_taken_from(upstream, client, End::Client), "what upstream had said is forwarded");
    }

    fn check_drain(&self) {
        let came = self.came_before.expect("it drains");
        let told = self.upstream.received.len().checked_sub(self.case.header.len());
        assert!(told.is_some_and(|told| told >= came), "{told:?} of {came} bytes that had come were forwarded");
    }

    /// Nothing happens any more, and it has not ended: somebody waits with good reason.
    fn check_stuck(self) {
        self.check_bytes();
        if self.client.was_reset() || self.upstream.was_reset() {
            // Only who has said all can be gone without being missed.
            let gone = if self.client.was_reset() { &self.client } else { &self.upstream };
            assert!(gone.fin_read || !self.both_read(), "a reset is seen");
            return;
        }
        for (source, sink, flow) in [
            (&self.client, &self.upstream, self.told_upstream()),
            (&self.upstream, &self.client, self.case.upstream.input.clone()),
        ] {
            let is_drained = self.came_before.is_some() && std::ptr::eq(source, &raw const self.client);
            if is_drained {
                if self.case.upstream.reads {
                    self.check_drain();
                    assert!(sink.finished, "the drain is told");
                }
                continue;
            }
            let reads =
                if std::ptr::eq(sink, &raw const self.client) { &self.case.client } else { &self.case.upstream };
            if reads.reads {
                assert_eq!(sink.received, flow, "every byte has left");
                assert_eq!(sink.finished, source.fin_read, "fin-as-fin");
            } else {
                assert!(sink.received.len() <= reads.capacity);
                assert!(
                    source.read_bytes <= reads.capacity + self.case.ring_bytes,
                    "backpressure: {} bytes were read for an end that does not",
                    source.read_bytes
                );
            }
        }
        assert!(self.pair.is_half_closed() || !self.client.fin_read && !self.upstream.fin_read || !self.both_read());
    }

    fn both_read(&self) -> bool {
        self.case.client.reads && self.case.upstream.reads
    }
}

/// Events of the second stream.
fn as_upstream(reasons: Reasons) -> Reasons {
    let pairs = [
        (Reasons::READABLE, Reasons::UPSTREAM_READABLE),
        (Reasons::WRITABLE, Reasons::UPSTREAM_WRITABLE),
        (Reasons::READ_ON, Reasons::UPSTREAM_READ_ON),
    ];
    pairs.into_iter().filter(|(own, _)| reasons.intersects(*own)).fold(Reasons::NONE, |all, (_, of)| all | of)
}
