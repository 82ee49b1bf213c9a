//! A client of `work`: its frames, as `design/contract.md` has them, every reply checked against its request, and
//! conversations with any engine.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;

use crate::client::{Client, text};

pub(crate) const SPIN: u8 = 0;
pub(crate) const SLEEP: u8 = 1;
pub(crate) const HASH: u8 = 2;

/// A service time that is served within its turn, and one that leaves it as a call, yet takes hardly any time.
pub(crate) const INLINE: (u8, u64) = (SPIN, 0);
pub(crate) const AS_A_CALL: (u8, u64) = (SLEEP, 1);

pub(crate) const MICROSECOND: u64 = 1_000;
pub(crate) const MILLISECOND: u64 = 1_000 * MICROSECOND;

/// What nobody knows.
pub(crate) const UNKNOWN: u64 = u64::MAX;

/// The bytes of a request.
pub(crate) fn frame(length: u32, id: u64, (kind, demand_ns): (u8, u64), flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(id.to_be_bytes());
    frame.extend(demand_ns.to_be_bytes());
    frame.extend([kind, 77]);
    frame.extend(flags.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What a reply says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) id: u64,
    pub(crate) queue_ns: u64,
    pub(crate) service_ns: u64,
    pub(crate) worker: u16,
    pub(crate) is_shed: bool,
    /// Ready, taken, done, where it has them.
    pub(crate) stamps: Option<[u64; 3]>,
}

/// A client, and the requests of its that are not answered.
pub(crate) struct Worker {
    pub(crate) client: Client,
    open: HashMap<u64, Asked>,
    next: u64,
}

struct Asked {
    payload: Vec<u8>,
    wants_stamps: bool,
    demand_ns: u64,
}

impl Worker {
    pub(crate) fn new(client: Client) -> Worker {
        Worker { client, open: HashMap::new(), next: 0 }
    }

    /// A request that is to be sent, with its id. Every second one wants stamps.
    pub(crate) fn request(&mut self, work: (u8, u64), payload: usize) -> (u64, Vec<u8>) {
        let id = self.next;
        self.next += 1;
        let wants_stamps = id.is_multiple_of(2);
        let payload = text(payload, id as usize);
        let frame = frame(20 + payload.len() as u32, id, work, u16::from(wants_stamps), &payload);
        self.open.insert(id, Asked { payload, wants_stamps, demand_ns: work.1 });
        (id, frame)
    }

    /// Sends one request; its id.
    #[track_caller]
    pub(crate) fn ask(&mut self, work: (u8, u64), payload: usize) -> u64 {
        let (id, frame) = self.request(work, payload);
        self.client.send(&frame);
        id
    }

    /// Sends these in one write.
    #[track_caller]
    pub(crate) fn ask_all(&mut self, requests: impl IntoIterator<Item = ((u8, u64), usize)>) {
        let frames: Vec<Vec<u8>> = requests.into_iter().map(|(work, payload)| self.request(work, payload).1).collect();
        self.client.send(&frames.concat());
    }

    /// The next reply, checked.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> Reply {
        let mut head = [0; 32];
        self.client.0.read_exact(&mut head).expect("the daemon answers");
        let long = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| u16::from_be_bytes(head[at..at + 2].try_into().expect("two bytes"));
        let length = u32::from_be_bytes(head[..4].try_into().expect("four bytes")) as usize;
        let (id, queue_ns, service_ns, worker, flags) = (long(4), long(12), long(20), short(28), short(30));
        let asked = self.open.remove(&id).unwrap_or_else(|| panic!("{id} was not asked for, or has been answered"));
        let is_shed = flags == 1;
        assert_eq!(flags, if is_shed { 1 } else { 2 * u16::from(asked.wants_stamps) }, "flags of {id}");
        let stamps = (flags == 2).then(|| {
            let mut stamps = [0; 24];
            self.client.0.read_exact(&mut stamps).expect("the daemon answers");
            [0, 8, 16].map(|at| u64::from_be_bytes(stamps[at..at + 8].try_into().expect("eight bytes")))
        });
        assert_eq!(length, 28 + if stamps.is_some() { 24 } else { 0 } + asked.payload.len(), "length of {id}");
        self.client.expect(&asked.payload);
        let reply = Reply { id, queue_ns, service_ns, worker, is_shed, stamps };
        reply.check(&asked);
        reply
    }

    /// All replies that are still to come, in the order in which they do.
    #[track_caller]
    pub(crate) fn hear_all(&mut self) -> Vec<Reply> {
        (0..self.open.len()).map(|_| self.hear()).collect()
    }

    /// Sends the FIN, hears all, and then the end.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.client.finish();
        self.hear_all();
        self.client.expect_end();
    }
}

impl Reply {
    #[track_caller]
    fn check(&self, asked: &Asked) {
        if self.is_shed {
            assert_eq!(self.service_ns, 0, "it was not served: {self:?}");
            return;
        }
        // Sleeps are at least as long; a spin is measured by another clock.
        assert!(self.service_ns < UNKNOWN, "{self:?}");
        let Some([ready_ns, taken_ns, done_ns]) = self.stamps else { return };
        assert_eq!(done_ns - taken_ns, self.service_ns, "{self:?}");
        match ready_ns {
            UNKNOWN => assert_eq!(self.queue_ns, UNKNOWN, "{self:?}"),
            _ => assert_eq!(taken_ns - ready_ns, self.queue_ns, "{self:?}"),
        }
        assert!(asked.demand_ns < MILLISECOND || self.service_ns >= asked.demand_ns / 2, "{self:?}");
    }
}

// Conversations with a daemon at its defaults; each says with how many connections it talked.

/// Requests that take no time, one after the other.
pub(crate) fn without_time(server: SocketAddr) -> u64 {
    let mut worker = Worker::new(Client::connect(server));
    for round in 0..60 {
        worker.ask(INLINE, round * 31);
        worker.hear();
    }
    worker.finish();
    1
}

/// Requests of all kinds, a hundred at a time.
pub(crate) fn in_any_order(server: SocketAddr) -> u64 {
    let mut worker = Worker::new(Client::connect(server));
    for round in 0..20 {
        let demand_ns = round as u64 * 7 * MICROSECOND;
        worker.ask_all([
            ((HASH, demand_ns), round),
            (INLINE, 300),
            ((SLEEP, demand_ns), 2_000 - round),
            ((SPIN, 3 * MICROSECOND), 5),
            ((SPIN, demand_ns), round),
        ]);
        if round % 3 == 0 {
            worker.hear_all();
        }
    }
    worker.finish();
    1
}

/// As many as many turns take.
pub(crate) fn a_thousand_in_one_write(server: SocketAddr) -> u64 {
    let mut worker = Worker::new(Client::connect(server));
    worker.ask_all((0..1_000).map(|round| (if round % 4 == 0 { AS_A_CALL } else { INLINE }, round % 100)));
    worker.hear_all();
    worker.finish();
    1
}

/// Frames that come a byte at a time.
pub(crate) fn by_bytes(server: SocketAddr) -> u64 {
    let mut worker = Worker::new(Client::connect(server));
    for work in [INLINE, AS_A_CALL] {
        let (_, frame) = worker.request(work, 40);
        frame.chunks(1).for_each(|byte| worker.client.send(byte));
    }
    worker.hear_all();
    worker.finish();
    1
}

/// Frames of all lengths up to the longest that is allowed.
pub(crate) fn larger_than_a_ring(server: SocketAddr) -> u64 {
    let mut worker = Worker::new(Client::connect(server));
    for payload in [1_000, 5_000, 70_000, 200_000, 1_000_000, (1 << 20) - 20] {
        for work in [INLINE, AS_A_CALL, (HASH, MICROSECOND)] {
            worker.ask(work, payload);
            worker.ask(AS_A_CALL, 10);
            worker.ask(INLINE, 10);
            worker.hear_all();
        }
    }
    worker.finish();
    1
}

/// More than the kernel holds, sent and read side by side.
pub(crate) fn read_late(server: SocketAddr) -> u64 {
    let mut worker = Worker::new(Client::connect_with_room(server, 20_000));
    let works = [INLINE, AS_A_CALL, INLINE, (SPIN, 20 * MICROSECOND)];
    let frames: Vec<Vec<u8>> = (0..200).map(|round| worker.request(works[round % 4], round * 60).1).collect();
    let mut writer = worker.client.0.try_clone().expect("a second handle");
    thread::scope(|scope| {
        // Neither of them could go on without the other: what is sent waits until some of what comes is read.
        scope.spawn(|| writer.write_all(&frames.concat()).expect("the daemon reads"));
        worker.hear_all();
    });
    worker.finish();
    1
}

/// The FIN behind requests that are in flight.
pub(crate) fn before_the_fin(server: SocketAddr) -> u64 {
    let mut worker = Worker::new(Client::connect(server));
    worker.ask_all((0..30).map(|round| ((round as u8 % 3, 300 * MICROSECOND), 100)));
    // A request that never comes whole is none.
    worker.client.send(&frame(100, 0, INLINE, 0, b"half"));
    worker.finish();
    1
}

/// Clients that leave without their replies.
pub(crate) fn left_in_flight(server: SocketAddr) -> u64 {
    for round in 0..10 {
        let mut worker = Worker::new(Client::connect(server));
        worker.ask_all((0..10).map(|_| ((SLEEP, 2_000 * MICROSECOND), 10)));
        match round % 2 {
            0 => worker.client.reset(),
            _ => drop(worker),
        }
    }
    let mut worker = Worker::new(Client::connect(server));
    worker.ask(AS_A_CALL, 64);
    worker.finish();
    11
}

/// Requests that end their session.
pub(crate) fn not_allowed(server: SocketAddr) -> u64 {
    let max = 1 << 20;
    let wrong = [
        frame(0, 0, INLINE, 0, b""),
        frame(19, 0, INLINE, 0, b""),
        frame(max + 1, 0, INLINE, 0, b""),
        frame(u32::MAX, 0, INLINE, 0, b""),
        frame(20, 0, (3, 0), 0, b""),
        frame(20, 0, (SPIN, 10_000_000_001), 0, b""),
        // Before any of its payload.
        frame(max, 0, (255, 0), 0, b""),
        frame(max, 0, (SLEEP, u64::MAX), 0, b""),
    ];
    for frame in &wrong {
        let mut client = Client::connect(server);
        client.send(frame);
        client.wait_for_end();
    }
    // The length alone says it.
    for length in [0_u32, 19, max + 1, 0xFFFF_FFFF] {
        let mut client = Client::connect(server);
        client.send(&length.to_be_bytes());
        client.wait_for_end();
    }
    12
}

/// Several clients at once.
pub(crate) fn beside_each_other(server: SocketAddr) -> u64 {
    let mut workers: Vec<Worker> = (0..12).map(|_| Worker::new(Client::connect(server))).collect();
    for round in 0..10 {
        for (number, worker) in workers.iter_mut().enumerate() {
            let demand_ns = (number as u64 * 13 % 7) * 10 * MICROSECOND;
            worker.ask_all((0..3).map(|_| ((SPIN, demand_ns), number * round)));
        }
        workers.iter_mut().for_each(|worker| drop(worker.hear_all()));
    }
    workers.into_iter().for_each(Worker::finish);
    12
}
