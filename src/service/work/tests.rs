//! The handler and its calls in a session without a socket: what is served at once, what leaves, what is shed.

use std::io::{self, IoSlice, IoSliceMut};

use super::*;
use crate::clock::Clock;
use crate::session::buffer::{Budget, Leases};
use crate::session::handler::{Closed, Means, Tally};
use crate::session::mailbox::{Mailbox, Rouse};
use crate::session::state::Reasons;
use crate::session::{Session, Stream, TurnEnd};

const BOUNDS: Bounds = Bounds { max_frame_bytes: 1 << 20, max_demand: Duration::from_secs(10) };

/// A peer in memory, which sends as much as is put here and takes everything.
#[derive(Default)]
struct Peer {
    to_come: Vec<u8>,
    writes: Vec<usize>,
    received: Vec<u8>,
}

impl Stream for Peer {
    fn read(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>().min(self.to_come.len());
        let mut coming = self.to_come.drain(..count);
        slices.iter_mut().flat_map(|slice| slice.iter_mut()).zip(&mut coming).for_each(|(to, byte)| *to = byte);
        if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.writes.push(bytes.len());
        self.received.extend(&bytes);
        Ok(bytes.len())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Nobody;

impl Rouse for Nobody {
    fn rouse(&self, _key: u64) {}
}

/// A session of the service with these parameters, and its calls that have not been run.
struct Scene {
    session: Session,
    leases: Leases,
    peer: Peer,
    address: Address,
    calls: Vec<Box<dyn Call>>,
    clock: Clock,
}

impl Scene {
    fn new(service: &dyn Service) -> Scene {
        let mailing = service.mailbox().expect("it makes calls");
        let address = Mailbox::new(mailing.limits, Arc::new(Nobody), 0);
        let session = Session::new(service.open(Some(&address)), Some((Address::clone(&address), mailing)));
        let leases = Leases::new(64 << 10, Budget::new(usize::MAX));
        let mut scene =
            Scene { session, leases, peer: Peer::default(), address, calls: Vec::new(), clock: Clock::start() };
        assert_eq!(scene.turn(Reasons::RESUME), TurnEnd::Idle);
        scene
    }

    fn turn(&mut self, reasons: Reasons) -> TurnEnd {
        self.turn_seen(reasons, Some(self.clock.now_ns()))
    }

    fn turn_seen(&mut self, reasons: Reasons, ready_ns: Option<u64>) -> TurnEnd {
        let moment = Moment::new(self.clock, Some(3), ready_ns, self.clock.now_ns());
        let mut tally = Tally::default();
        let Scene { session, leases, peer, calls, .. } = self;
        let means = &mut Means { leases, budget_bytes: 1 << 20, moment, parallel: None, tally: &mut tally, calls };
        session.turn(peer, reasons, means)
    }

    /// These come in one piece, for a turn of their own.
    fn hear(&mut self, frames: &[Vec<u8>]) {
        self.peer.to_come.extend(frames.concat());
        assert_eq!(self.turn(Reasons::READABLE), TurnEnd::Idle);
    }

    /// Runs its oldest call, and sends the reply.
    fn run_call(&mut self) {
        let call = self.calls.remove(0);
        let (bytes, now_ns) = (call.bytes(), self.clock.now_ns());
        let message = call.run(&Moment::new(self.clock, Some(5), None, now_ns), &|| true);
        assert!(self.address.reply(message, bytes));
        assert_eq!(self.turn(Reasons::POSTED), TurnEnd::Idle);
    }

    /// The replies since the last time.
    fn replies(&mut self) -> Vec<Heard> {
        let received = std::mem::take(&mut self.peer.received);
        let mut rest = &received[..];
        let mut replies = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk() {
            let (frame, behind) = after.split_at(u32::from_be_bytes(*length) as usize);
            replies.push(Heard::read(frame));
            rest = behind;
        }
        replies
    }
}

#[derive(Debug)]
struct Heard {
    id: u64,
    worker: u16,
    is_shed: bool,
    /// Ready, taken, done.
    stamps: [u64; 3],
    payload: Vec<u8>,
}

impl Heard {
    fn read(frame: &[u8]) -> Heard {
        let long = |at: usize| u64::from_be_bytes(frame[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| u16::from_be_bytes(frame[at..at + 2].try_into().expect("two bytes"));
        let is_shed = short(26) == 1;
        let (stamps, head) = if is_shed { ([0; 3], 28) } else { ([long(28), long(36), long(44)], 52) };
        Heard { id: long(0), worker: short(24), is_shed, stamps, payload: frame[head..].to_vec() }
    }
}

/// A request that wants stamps.
fn request(id: u64, kind: Kind, demand_ns: u64, payload: usize) -> Vec<u8> {
    let mut frame = (20 + payload as u32).to_be_bytes().to_vec();
    frame.extend(id.to_be_bytes());
    frame.extend(demand_ns.to_be_bytes());
    frame.extend([kind as u8, 0, 0, 1]);
    frame.extend((0..payload).map(|at| (at as u8).wrapping_add(id as u8)));
    frame
}

fn work(parameters: &[(&str, &str)]) -> Arc<dyn Service> {
    let parameters: Vec<_> = parameters.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    ENTRY.build(&parameters, &BOUNDS).expect("they are its own")
}

fn ids(replies: &[Heard]) -> Vec<u64> {
    replies.iter().map(|reply| reply.id).collect()
}

#[test]
fn a_short_spin_is_served_at_once_and_all_else_leaves() {
    let mut scene = Scene::new(&*work(&[]));
    scene.hear(&[
        request(0, Kind::Spin, 0, 10),
        request(1, Kind::Spin, INLINE_NS + 1, 10),
        request(2, Kind::Spin, INLINE_NS, 10),
        request(3, Kind::Sleep, 0, 10),
        request(4, Kind::Hash, 0, 10),
    ]);
    assert_eq!(ids(&scene.replies()), [0, 2]);
    let lanes: Vec<Lane> = scene.calls.iter().map(|call| call.lane()).collect();
    assert_eq!(lanes, [Lane::Worker, Lane::Worker, Lane::Cpu]);
    for id in [1, 3, 4] {
        scene.run_call();
        let replies = scene.replies();
        assert_eq!((ids(&replies), replies[0].worker), (vec![id], 5));
        assert_eq!(replies[0].payload, (0..10).map(|at| at + id as u8).collect::<Vec<u8>>());
    }
}

#[test]
fn one_turn_serves_some_requests_and_the_next_one_as_many_again() {
    let mut scene = Scene::new(&*work(&[]));
    let at_once = (INLINE_TURN_NS / (INLINE_NS + INLINE_EACH_NS)) as usize;
    for round in 1..3 {
        let frames: Vec<_> = (0..10).map(|id| request(id, Kind::Spin, INLINE_NS, 0)).collect();
        scene.hear(&frames);
        assert_eq!((scene.replies().len(), scene.calls.len()), (at_once, round * (10 - at_once)));
    }
}

#[test]
fn the_replies_of_a_turn_leave_together_and_a_long_payload_with_its_header() {
    let mut scene = Scene::new(&*work(&[]));
    let frames: Vec<_> = (0..20).map(|id| request(id, Kind::Spin, 0, 64)).collect();
    scene.hear(&frames);
    assert_eq!((scene.replies().len(), std::mem::take(&mut scene.peer.writes).len()), (20, 1));
    scene.hear(&[request(20, Kind::Spin, 0, COPIED_BYTES + 1)]);
    let replies = scene.replies();
    assert_eq!((ids(&replies), replies[0].payload.len(), scene.peer.writes.len()), (vec![20], COPIED_BYTES + 1, 1));
    // Larger than a ring, and others behind it.
    scene.hear(&[
        request(21, Kind::Spin, 0, 300_000),
        request(22, Kind::Sleep, 0, 300_000),
        request(23, Kind::Spin, 0, 1),
    ]);
    let replies = scene.replies();
    assert_eq!((ids(&replies), replies[0].payload.len()), (vec![21, 23], 300_000));
    scene.run_call();
    assert_eq!(scene.replies()[0].payload.len(), 300_000);
}

#[test]
fn the_first_request_of_a_turn_was_seen_with_it_and_the_others_when_it_read_them() {
    let mut scene = Scene::new(&*work(&[]));
    let frames: Vec<_> = (0..3).map(|id| request(id, Kind::Spin, 1_000, 0)).collect();
    for ready_ns in [Some(7), None] {
        scene.peer.to_come.extend(frames.concat());
        let before_ns = scene.clock.monotonic_ns_of(scene.clock.now_ns());
        assert_eq!(scene.turn_seen(Reasons::READABLE, ready_ns), TurnEnd::Idle);
        let replies = scene.replies();
        let [first, second, third] = &replies[..] else { panic!("three replies, not {replies:?}") };
        let seen_ns = ready_ns.map_or(u64::MAX, |ready_ns| scene.clock.monotonic_ns_of(ready_ns));
        assert_eq!((first.worker, first.stamps[0]), (3, seen_ns));
        let ready_ns = second.stamps[0];
        assert!(before_ns <= first.stamps[1] && first.stamps[1] <= ready_ns, "{replies:?}");
        assert_eq!(third.stamps[0], ready_ns, "they were read together");
        // Each is taken when the one before it is done.
        let order = [first.stamps[2], second.stamps[1], second.stamps[2], third.stamps[1], third.stamps[2]];
        assert!(order.is_sorted() && ready_ns <= second.stamps[1], "{replies:?}");
    }
}

#[test]
fn with_enough_waiting_requests_are_shed_until_one_is_taken_or_dropped() {
    let service = work(&[("shed", "2")]);
    let (mut scene, mut other) = (Scene::new(&*service), Scene::new(&*service));
    let sleeps = |from: u64| (from..from + 3).map(|id| request(id, Kind::Sleep, 1, 5)).collect::<Vec<_>>();
    scene.hear(&sleeps(0));
    let replies = scene.replies();
    assert_eq!((ids(&replies), scene.calls.len()), (vec![2], 2));
    assert!(replies[0].is_shed && replies[0].payload == [2, 3, 4, 5, 6], "{replies:?}");
    // All sessions of a listener are in one queue, and even what takes no time is not let in.
    other.hear(&[request(9, Kind::Spin, 0, 0)]);
    assert!(other.replies()[0].is_shed);

    scene.run_call();
    assert!(!scene.replies()[0].is_shed);
    other.hear(&sleeps(10));
    assert_eq!((ids(&other.replies()), other.calls.len()), (vec![11, 12], 1));

    // Those of a session that has gone.
    scene.calls.clear();
    other.calls.clear();
    other.hear(&sleeps(20));
    assert_eq!((ids(&other.replies()), other.calls.len()), (vec![22], 2));
}

#[test]
fn what_one_session_may_have_in_flight_does_not_keep_it_from_shedding() {
    let mailing = |parameters| work(parameters).mailbox().expect("it makes calls");
    assert_eq!(mailing(&[]).calls, CALLS);
    assert_eq!(mailing(&[("calls", "3")]).calls, 3);
    assert_eq!(mailing(&[("calls", "3"), ("shed", "100")]).calls, 103);
    assert_eq!(mailing(&[("shed", "off"), ("send", "mmsg")]).sending, Sending::Each);
    let mut scene = Scene::new(&*work(&[("calls", "1"), ("shed", "3")]));
    let frames: Vec<_> = (0..50).map(|id| request(id, Kind::Sleep, 0, 0)).collect();
    scene.hear(&frames);
    assert_eq!((scene.replies().len(), scene.calls.len()), (47, 3));
    // Without it, the input waits.
    let mut scene = Scene::new(&*work(&[("calls", "3")]));
    scene.hear(&frames);
    assert_eq!((scene.replies().len(), scene.calls.len()), (0, 3));
    (0..50).for_each(|_| scene.run_call());
    assert_eq!((scene.replies().len(), scene.calls.len()), (50, 0));
}

#[test]
fn what_nobody_may_ask_for_ends_the_session_before_memory_is_set_aside() {
    let too_long = ((1 << 20) + 1_u32).to_be_bytes();
    let longest = |at: usize, byte: u8| {
        let mut frame = request(0, Kind::Spin, 0, (1 << 20) - 20);
        frame[at] = byte;
        frame.truncate(REQUEST_HEAD);
        frame
    };
    for wrong in
        [vec![0, 0, 0, 19], too_long.to_vec(), vec![0xFF; 4], longest(20, 3), longest(20, 0xFF), longest(12, 1)]
    {
        let mut scene = Scene::new(&*work(&[]));
        scene.peer.to_come.extend(&wrong);
        assert_eq!(scene.turn(Reasons::READABLE), TurnEnd::Closed(Closed::Protocol), "{wrong:?}");
        assert!(scene.calls.is_empty() && scene.peer.received.is_empty());
    }
    let mut scene = Scene::new(&*work(&[]));
    scene.hear(&[longest(20, 1)]);
    assert!(scene.calls.is_empty(), "the rest may come");
}

#[test]
fn parameters_are_checked() {
    for (key, value, expected) in [
        ("calls", "0", "1 to 65536"),
        ("calls", "65537", "1 to 65536"),
        ("calls", "-1", "1 to 65536"),
        ("calls", "", "1 to 65536"),
        ("shed", "0", "off or 1 to 1048576"),
        ("shed", "on", "off or 1 to 1048576"),
        ("shed", "1048577", "off or 1 to 1048576"),
        ("send", "each", "vectored or mmsg"),
        ("queue", "1", "work takes calls, shed, send"),
    ] {
        let bad = ENTRY.build(&[(key.to_owned(), value.to_owned())], &BOUNDS).err();
        assert_eq!(bad, Some(BadParameter { key: key.to_owned(), expected: expected.to_owned() }), "{key}={value}");
    }
}
