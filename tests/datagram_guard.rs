//! The guard of datagrams under hand-driven time: who is refused and why, and that no service and no order of senders
//! gets around it.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hasher};
use std::num::NonZeroU32;

use maitred::random::Random;
use maitred::session::datagram::{Bound, DatagramReply, Datagrams, LONGEST_DATAGRAM};
use maitred::session::guard::{Guard, Policy, Rate, Refusal, Request};

const SECOND_NS: u64 = 1_000_000_000;
const STRANGER: &str = "192.0.2.7:40000";

/// Senders that share a group of places and have room in it together.
const TOGETHER: usize = 8;

/// Sends every sender to the same few places.
#[derive(Default)]
struct OneSet;

impl Hasher for OneSet {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, _bytes: &[u8]) {}
}

/// Puts so many bytes, in two pieces.
struct Chatty {
    bound: Bound,
    bytes: usize,
}

impl Datagrams for Chatty {
    fn bound(&self) -> Bound {
        self.bound
    }

    fn answer(&self, _request: &[u8], reply: &mut DatagramReply<'_>) {
        let bytes = vec![7; self.bytes];
        let (first, second) = bytes.split_at(self.bytes / 3);
        reply.put(first);
        reply.put(second);
    }
}

struct Silent;

impl Datagrams for Silent {
    fn answer(&self, _request: &[u8], _reply: &mut DatagramReply<'_>) {}
}

const ONE_BYTE: Chatty = Chatty { bound: Bound::Fixed, bytes: 1 };

fn rate(per_s: u32, burst: u32) -> Option<Rate> {
    let positive = |number| NonZeroU32::new(number).expect("a rate grants something");
    Some(Rate { per_s: positive(per_s), burst: positive(burst) })
}

fn open_to_all() -> Policy {
    Policy { answers: true, own_ports: vec![], source_rate: None, total_rate: None, spares_loopback: true }
}

fn from(source: &str) -> Request<'static> {
    Request { bytes: b"x", source: source.parse().expect("it is an address"), to_many: false }
}

/// What becomes of a request that has an answer of one byte.
fn ask<H: BuildHasher>(guard: &Guard<H>, request: Request<'_>, now_ns: u64) -> Result<(), Refusal> {
    let answer = guard.answer(&ONE_BYTE, request, &mut [0; 64], now_ns, &|| true);
    answer.map(|len| assert_eq!(len, Some(1)))
}

#[test]
fn nothing_is_answered_where_strangers_are_not_to_be() {
    let guard = Guard::new(&Policy { answers: false, ..open_to_all() });
    for source in [STRANGER, "127.0.0.1:40000", "127.0.0.1:7"] {
        assert_eq!(ask(&guard, from(source), 0), Err(Refusal::NotPublic), "{source}");
    }
}

#[test]
fn what_was_sent_to_many_is_answered_by_none() {
    let guard = Guard::new(&open_to_all());
    assert_eq!(ask(&guard, Request { to_many: true, ..from(STRANGER) }, 0), Err(Refusal::ToMany));
    assert_eq!(ask(&guard, from(STRANGER), 0), Ok(()));
}

#[test]
fn ports_that_may_answer_back_get_no_answer() {
    let guard = Guard::new(&Policy { own_ports: vec![7007, 7020, 40_000, 7007], ..open_to_all() });
    let denied =
        [0, 7, 9, 11, 13, 17, 19, 37, 53, 69, 123, 1023, 1900, 3702, 5060, 5353, 5683, 11_211, 7007, 7020, 40_000];
    for address in ["127.0.0.1", "192.0.2.1", "[::1]", "[2001:db8::1]"] {
        for port in 0..=u16::MAX {
            let expected = if port < 1024 || denied.contains(&port) { Err(Refusal::SourcePort) } else { Ok(()) };
            let source = format!("{address}:{port}");
            assert_eq!(ask(&guard, from(&source), 0), expected, "{source}");
        }
    }
}

#[test]
fn a_sender_gets_its_burst_and_then_its_rate() {
    let guard = Guard::new(&Policy { source_rate: rate(10, 3), ..open_to_all() });
    let tenth = SECOND_NS / 10;
    let table = [
        (0, [true, true, true, false]),
        (tenth - 1, [false, false, false, false]),
        (tenth, [true, false, false, false]),
        (3 * tenth, [true, true, false, false]),
        (3 * tenth + 1, [false, false, false, false]),
        // However long it was silent, it gets no more than its burst.
        (100 * tenth, [true, true, true, false]),
    ];
    for (now_ns, expected) in table {
        let answered = expected.map(|_| ask(&guard, from(STRANGER), now_ns));
        assert_eq!(answered, expected.map(|is| if is { Ok(()) } else { Err(Refusal::SourceRate) }), "at {now_ns}");
    }
}

#[test]
fn a_network_is_one_sender_and_another_is_not() {
    let same: [&[&str]; 4] = [
        &["192.0.2.7:40000", "192.0.2.7:50000", "[::ffff:192.0.2.7]:40000"],
        &["192.0.2.8:40000"],
        &["[2001:db8:0:1::1]:40000", "[2001:db8:0:1:ffff:ffff:ffff:ffff]:50000"],
        &["[2001:db8:0:2::1]:40000"],
    ];
    let guard = Guard::new(&Policy { source_rate: rate(1, 1), ..open_to_all() });
    for (number, network) in same.iter().enumerate() {
        for (place, source) in network.iter().enumerate() {
            let expected = if place == 0 { Ok(()) } else { Err(Refusal::SourceRate) };
            assert_eq!(ask(&guard, from(source), 0), expected, "{source} of network {number}");
        }
    }
}

#[test]
fn this_machine_is_spared_unless_it_is_not_to_be() {
    let local = ["127.0.0.1:40000", "127.8.9.10:40000", "[::1]:40000", "[::ffff:127.0.0.1]:40000"];
    for spares_loopback in [true, false] {
        for source in local {
            let (source_rate, total_rate) = (rate(1, 1), rate(1, 1));
            let guard = Guard::new(&Policy { source_rate, total_rate, spares_loopback, ..open_to_all() });
            assert_eq!(ask(&guard, from(source), 0), Ok(()));
            assert_eq!(ask(&guard, from(source), 0).is_ok(), spares_loopback, "{source}");
            let spent = !spares_loopback;
            assert_eq!(ask(&guard, from(STRANGER), 0).is_err(), spent, "the rest is spent by this machine: {spent}");
        }
    }
}

#[test]
fn all_together_get_no_more_than_the_total_and_a_refusal_takes_nothing() {
    let guard = Guard::new(&Policy { source_rate: rate(1, 2), total_rate: rate(1, 3), ..open_to_all() });
    let (one, two) = ("192.0.2.1:40000", "192.0.2.2:40000");
    assert_eq!([one, one].map(|source| ask(&guard, from(source), 0)), [Ok(()); 2]);
    // What one sender is refused is left to the others.
    assert_eq!([one; 3].map(|source| ask(&guard, from(source), 0)), [Err(Refusal::SourceRate); 3]);
    assert_eq!(ask(&guard, from(two), 0), Ok(()));
    // What the total refuses is left to the sender: two more a second later each, not one.
    assert_eq!([two; 3].map(|source| ask(&guard, from(source), 0)), [Err(Refusal::TotalRate); 3]);
    assert_eq!(ask(&guard, from(two), SECOND_NS), Ok(()));
    assert_eq!(ask(&guard, from(two), SECOND_NS), Err(Refusal::TotalRate));
    assert_eq!(ask(&guard, from(two), 2 * SECOND_NS), Ok(()));
}

#[test]
fn who_finds_no_place_is_refused_until_somebody_is_whole_again() {
    let policy = Policy { source_rate: rate(1, 2), ..open_to_all() };
    let guard = Guard::with_hasher(&policy, BuildHasherDefault::<OneSet>::default());
    let sources: Vec<String> = (0..=TOGETHER).map(|number| format!("192.0.2.{number}:40000")).collect();
    let (last, first) = sources.split_last().expect("there are several");
    for source in first {
        assert_eq!(ask(&guard, from(source), 0), Ok(()));
    }
    assert_eq!(ask(&guard, from(last), SECOND_NS - 1), Err(Refusal::Crowded));
    // Those who have a place are not affected, and are not forgotten.
    for expected in [Ok(()), Err(Refusal::SourceRate)] {
        assert!(first.iter().all(|source| ask(&guard, from(source), SECOND_NS - 1) == expected));
    }
    assert_eq!(ask(&guard, from(last), SECOND_NS), Err(Refusal::Crowded));
    assert_eq!(ask(&guard, from(last), 2 * SECOND_NS), Ok(()));
}

#[test]
fn answers_are_as_long_as_they_may_be_and_no_longer() {
    let table = [
        (Bound::Request, 0, 0),
        (Bound::Request, 1_200, 1_200),
        (Bound::Request, LONGEST_DATAGRAM + 20, LONGEST_DATAGRAM),
        (Bound::Fixed, 0, 64),
        (Bound::Fixed, 1_200, 64),
        (Bound::Grown, 24, 32),
        (Bound::Grown, LONGEST_DATAGRAM - 7, LONGEST_DATAGRAM),
    ];
    let mut memory = vec![0; LONGEST_DATAGRAM];
    for (bound, request_len, most) in table {
        assert_eq!(bound.allowance(request_len), most, "{bound:?} of {request_len}");
        let bytes = vec![0; request_len];
        let guard = Guard::new(&open_to_all());
        let mut answer = |bytes_put| {
            let request = Request { bytes: &bytes, ..from(STRANGER) };
            guard.answer(&Chatty { bound, bytes: bytes_put }, request, &mut memory, 0, &|| true)
        };
        assert_eq!(answer(most), Ok(Some(most)), "{bound:?} of {request_len}");
        assert_eq!(answer(most + 1), Err(Refusal::TooLong), "{bound:?} of {request_len}");
        assert_eq!(answer(most * 3 + 9), Err(Refusal::TooLong), "{bound:?} of {request_len}");
    }
    let guard = Guard::new(&open_to_all());
    assert_eq!(guard.answer(&Silent, from(STRANGER), &mut memory, 0, &|| true), Ok(None));
}

/// A bucket as the books have it: time flows in, and each answer takes out what one costs.
#[derive(Clone, Copy)]
struct Bucket {
    token_ns: u64,
    most_ns: u64,
    level_ns: u64,
    at_ns: u64,
}

impl Bucket {
    fn full(rate: Rate, at_ns: u64) -> Bucket {
        let token_ns = SECOND_NS.div_ceil(u64::from(rate.per_s.get()));
        let most_ns = token_ns * u64::from(rate.burst.get());
        Bucket { token_ns, most_ns, level_ns: most_ns, at_ns }
    }

    fn has_token(&mut self, now_ns: u64) -> bool {
        self.level_ns = self.most_ns.min(self.level_ns + (now_ns - self.at_ns));
        self.at_ns = now_ns;
        self.level_ns >= self.token_ns
    }
}

#[test]
fn rates_are_those_of_plain_buckets_whoever_sends_when() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let draw_rate = |random: &mut Random| rate(1 + random.below(3_000) as u32, 1 + random.below(20) as u32);
        let source_rate = draw_rate(&mut random);
        let total_rate = if random.below(2) == 0 { draw_rate(&mut random) } else { None };
        let policy = Policy { source_rate, total_rate, spares_loopback: false, ..open_to_all() };
        // No more senders than places for them: nobody is ever refused for want of one.
        let guard = Guard::with_hasher(&policy, BuildHasherDefault::<OneSet>::default());
        let mut now_ns = random.next() >> 20;
        let mut senders = [Bucket::full(source_rate.expect("drawn"), now_ns); TOGETHER];
        let mut total = total_rate.map(|rate| Bucket::full(rate, now_ns));
        let mut answered = 0;
        for step in 0..400 {
            now_ns += random.below(4) as u64 * (random.next() >> (36 + random.below(20)));
            let number = random.below(TOGETHER);
            let expected = if total.as_mut().is_some_and(|total| !total.has_token(now_ns)) {
                Err(Refusal::TotalRate)
            } else if !senders[number].has_token(now_ns) {
                Err(Refusal::SourceRate)
            } else {
                for bucket in total.iter_mut().chain([&mut senders[number]]) {
                    bucket.level_ns -= bucket.token_ns;
                }
                answered += 1;
                Ok(())
            };
            let found = ask(&guard, from(&format!("198.51.100.{number}:5000")), now_ns);
            assert_eq!(found, expected, "seed {seed}, step {step}, sender {number} at {now_ns}: {policy:?}");
        }
        assert!(answered > 0, "seed {seed}: a full bucket has a token");
    }
}

#[test]
fn a_flood_of_senders_gets_nobody_more_than_its_share() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let policy = Policy { source_rate: rate(100, 5), total_rate: rate(100_000, 1_000), ..open_to_all() };
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let guard = Guard::with_hasher(&policy, hasher);
        let (mut now_ns, mut answered) = (0, HashMap::<String, Vec<u64>>::new());
        for _ in 0..40_000 {
            now_ns += random.below(4_000) as u64;
            // A few senders that never stop, among as many as there are addresses.
            let number = if random.below(3) == 0 { random.below(10) } else { random.below(1 << 24) };
            let source = format!("10.{}.{}.{}:5000", number >> 16, number >> 8 & 255, number & 255);
            if ask(&guard, from(&source), now_ns).is_ok() {
                answered.entry(source).or_default().push(now_ns);
            }
        }
        for (source, times) in &answered {
            for (place, begin_ns) in times.iter().enumerate() {
                for (before, end_ns) in times[place..].iter().enumerate() {
                    let granted = 5 + (end_ns - begin_ns) * 100 / SECOND_NS;
                    assert!((before as u64) < granted, "seed {seed}: {source} from {begin_ns} to {end_ns}: {granted}");
                }
            }
        }
        let all: usize = answered.values().map(Vec::len).sum();
        assert!(all as u64 <= 1_000 + now_ns * 100_000 / SECOND_NS, "seed {seed}: {all} in {now_ns} ns");
        assert!(all > 4_000, "seed {seed}: hardly anybody was answered: {all}");
    }
}
