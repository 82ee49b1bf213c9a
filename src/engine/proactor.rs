//! The engine `proactor`: completion instead of readiness. N pairs of one ring and one thread.
//!
//! ```text
//!   port ──┬──▶ ring 0: hand over, wait ─▶ completions ─▶ turn, turn ─▶ hand over, wait
//!          └──▶ ring 1: hand over, wait ─▶ completions ─▶ turn          (receives and sends go together)
//! ```
//! Who waits: every thread, for its own sessions, in its own ring. Who runs: the thread that waits for the session. What is
//! handed over: operations, to the kernel. It receives into buffers that all sessions of a ring share and says when it has;
//! sends are handed over with the next wait. A round is one system call, however many sessions it serves.
//!
//! Arrivals come by completion as well: under one request per connection that took 0.88 of the time that accepting by
//! readiness did (median of three, noisy; see the chapter). What is rare goes the usual way: the desk's poller (commands,
//! the alarm) is itself watched by the ring.
//!
//! Read next: `proactor/ports.rs`, the operations; the chapter is `design/engines/proactor.md`.

mod ports;

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use self::ports::{CANCEL, FIRST_PORT, News, Ports};
use super::accept::{Doorbell, share_ports};
use super::common::{Desk, Stage};
use super::front::{Arrival, Floor, Front, Refusal};
use super::loops::{Loop, Loops};
use super::reactor::{Reactor, Sessions};
use super::turns::Turns;
use super::{Command, Entry, Running, Served, Start, carries_all};
use crate::config::{AtOnce, EngineInfo};
use crate::error::Error;
use crate::net::poller::{Batch, Ready};
use crate::net::ring::{Ring, Size, probe};
use crate::net::socket::Socket;

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "proactor",
        about: "N pairs of one io_uring and one thread: completion instead of readiness",
        carries: carries_all,
        options: &["workers", "batch", "budget", "ring", "stages", "pin"],
        at_once: AtOnce::Many,
        forks: false,
        resizes: Err("a session's operations are in the ring of its worker for life"),
        relistens: Ok(()),
    },
    start: |start| Ok(Box::new(begin(start)?)),
    available,
};

/// Buffers of each ring to receive into: as many as completions of one round, in a busy one. Those that nobody holds cost
/// the cache a line or two each, since they go around.
const BUFFERS: u16 = 512;

/// Bytes of each, if rings are no shorter: a message of 64 KiB takes four. 8 MiB for each worker, beside `max_buffers`.
const BUFFER_BYTES: usize = 16 << 10;

/// Messages up to this length are copied to be sent; longer ones are worth a system call of their own. Guess.
const SEND_BYTES: usize = 4 << 10;

/// Places for them, for each worker: 1 MiB. A message that finds none goes as a longer one does.
const SENDS: u16 = 256;

/// Operations that go together; more cost one more call.
const SUBMISSIONS: u32 = 256;

/// Completions that wait without costing the kernel memory of its own.
const COMPLETIONS: u32 = 2048;

/// The key of the desk's poller in the ring.
const DESK: u64 = 0;

/// The key of the accept at the first listener; the others follow.
const ACCEPT: u64 = 1 << 32;
const ACCEPT_END: u64 = 2 << 32;

fn available() -> Result<(), String> {
    let features = probe()?;
    match features.accept_multishot && features.receive_multishot {
        true => Ok(()),
        false => Err("io_uring is of a kernel before 6.0: it has no accept or receive that goes on".to_owned()),
    }
}

fn begin(mut start: Start) -> Result<Loops, Error> {
    let count = start.settings.workers;
    let shares = share_ports(mem::take(&mut start.listeners), count)?;
    start.share_endpoints(count)?;
    let loops = Loops::new(ENTRY.info.name, &mut start, count)?;
    let (told, tells) = channel();
    let run_one = |served| {
        let told = told.clone();
        move |one: &Loop| run(one, served, &told)
    };
    loops.begin("ring", shares.into_iter().map(run_one))?;
    // A ring belongs to the thread that makes it, and only there is it known whether it could be made.
    let tell = |_| tells.recv().expect("a thread tells how it began").err();
    let refused: Vec<Error> = (0..count).filter_map(tell).collect();
    match refused.into_iter().next() {
        None => Ok(loops.sharing_ports()),
        Some(reason) => {
            loops.command(Command::Stop);
            loops.join(None);
            Err(reason)
        }
    }
}

/// Serves the sessions of one ring, if there can be one.
fn run(one: &Loop, served: Vec<Served>, told: &Sender<Result<(), Error>>) {
    let common = &one.reactor.common;
    let front = ring(common.settings.ring_bytes).and_then(|ring| {
        let (reactor, sessions) = (Arc::clone(&one.reactor), Sessions::new(&one.reactor));
        let (ports, accepted, accepts) = (Ports::new(ring), Vec::new(), Vec::new());
        let floor = Completions { reactor, sessions, ports, rang: false, accepted, accepts };
        Front::new(Arc::clone(common), one.number, served, floor)
    });
    let tell = |how| told.send(how).expect("whoever starts the engine waits for this");
    match front {
        Ok(mut front) => {
            front.floor.watch_desk();
            tell(Ok(()));
            serve(one, front);
        }
        Err(reason) => {
            // It lets nobody in.
            common.give_up_desk(one.number);
            tell(Err(reason));
        }
    }
}

fn serve(one: &Loop, mut front: Front<Completions>) {
    let common = &one.reactor.common;
    let mut turns = one.turns();
    let mut batch = Batch::new(common.settings.batch);
    while !front.is_drained() {
        let timeout = front.lie_down(front.floor.is_busy().then_some(Duration::ZERO));
        front.floor.submit_and_wait(timeout);
        front.get_up();
        let now_ns = common.clock.now_ns();
        front.floor.handle_wait(now_ns);
        let events = front.floor.take(common.orders().batch(), now_ns);
        front.count_wait(events);
        for (listener, socket, goes_on) in mem::take(&mut front.floor.accepted) {
            front.handle_accepted(listener, socket, goes_on, now_ns);
        }
        if front.floor.rang {
            front.wait_uncounted(&mut batch, Some(Duration::ZERO));
            // Nothing rings again for what it has left, such as connections behind a burst.
            front.floor.rang = !batch.is_empty();
        }
        front.floor.run_turns(&mut turns);
    }
}

fn ring(ring_bytes: usize) -> Result<Ring, Error> {
    let buffer_bytes = ring_bytes.min(BUFFER_BYTES) as u32;
    let size = Size { submissions: SUBMISSIONS, completions: COMPLETIONS, buffers: BUFFERS, buffer_bytes };
    Ring::new(size).map_err(|reason| Error::resource("make a ring", reason))
}

/// The floor of a ring's front.
struct Completions {
    reactor: Arc<Reactor>,
    sessions: Sessions,
    ports: Ports,
    /// The desk's poller has something for the front.
    rang: bool,
    /// What accepts have brought, by listener, and whether they go on; for the front.
    accepted: Vec<(usize, io::Result<Socket>, bool)>,
    /// By listener: an accept is pending. One that is ending is asked for again when it has ended.
    accepts: Vec<bool>,
}

impl Completions {
    fn watch_desk(&mut self) {
        self.ports.ring.poll_multishot(self.reactor.desk().poller.as_fd(), DESK);
    }

    /// Whether there is something to do before the next completion.
    fn is_busy(&self) -> bool {
        self.rang || !self.accepted.is_empty() || !self.sessions.ready.is_empty()
    }

    fn submit_and_wait(&mut self, timeout: Option<Duration>) -> usize {
        self.ports.ring.submit_and_wait(timeout).expect("waiting in our own ring cannot fail")
    }

    /// Takes at most so many completions; how many of them were of sessions.
    fn take(&mut self, most: usize, now_ns: u64) -> u64 {
        let mut events = 0;
        for _ in 0..most {
            let Some(completion) = self.ports.ring.next_completion() else { break };
            match completion.key {
                FIRST_PORT.. => {
                    events += 1;
                    let Some((key, news)) = self.ports.handle(completion) else { continue };
                    let News { readable, writable, read_on, is_peers } = news;
                    if readable || writable {
                        self.sessions.handle_ready(Ready { key, readable, writable, read_on }, is_peers, now_ns);
                    }
                }
                CANCEL => {}
                ACCEPT..ACCEPT_END => {
                    let (listener, goes_on) = ((completion.key - ACCEPT) as usize, completion.more);
                    self.accepts[listener] = goes_on;
                    // SAFETY: the key is that of an accept, and this is its completion as it came.
                    #[allow(unsafe_code, reason = "an accept completes with a number")]
                    let descriptor = unsafe { completion.into_connection() };
                    self.accepted.push((listener, descriptor.map(Socket::accepted), goes_on));
                }
                DESK => {
                    self.rang = true;
                    if !completion.more {
                        self.watch_desk();
                    }
                }
                key => panic!("nothing has the key {key}"),
            }
        }
        events
    }

    /// One turn for each session that is there now, and the end of those whose operations have ended.
    fn run_turns(&mut self, turns: &mut Turns<'_>) {
        let Completions { reactor, sessions, ports, .. } = self;
        let ready = &mut sessions.ready;
        for _ in 0..ready.len() {
            let request = ready.pop_front().expect("as many as there were");
            reactor.run_wired(ports, turns, request, &mut |next| ready.push_back(next));
        }
        for (connection, closed) in ports.left.drain(..) {
            turns.end(connection, closed);
        }
    }

    /// Takes all that the kernel can complete now.
    fn take_all(&mut self, now_ns: u64) {
        while self.submit_and_wait(Some(Duration::ZERO)) > 0 {
            self.take(usize::MAX, now_ns);
        }
    }
}

impl Doorbell for &mut Completions {
    fn watch(&mut self, listener: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let number = key as usize;
        self.accepts.resize(self.accepts.len().max(number + 1), false);
        if !mem::replace(&mut self.accepts[number], true) {
            self.ports.ring.accept_multishot(listener, ACCEPT + key);
        }
        Ok(())
    }

    fn forget(&mut self, _listener: BorrowedFd<'_>, key: u64) {
        self.ports.ring.cancel(ACCEPT + key, CANCEL);
    }
}

impl Floor for Completions {
    const HAS_ENDPOINTS: bool = true;

    fn bell<'a>(&'a mut self, _desk: &'a Desk) -> impl Doorbell + 'a {
        self
    }

    fn last_arrivals(&mut self, listener: usize) -> Vec<Socket> {
        let now_ns = self.reactor.common.clock.now_ns();
        while self.accepts[listener] {
            self.submit_and_wait(None);
            self.take(usize::MAX, now_ns);
        }
        let accepted = self.accepted.extract_if(.., |(at, ..)| *at == listener);
        accepted.filter_map(|(_, socket, _)| socket.ok()).collect()
    }

    fn admit(&mut self, arrival: Arrival, now_ns: u64) -> Result<Option<u64>, Refusal> {
        let ports = &mut self.ports;
        self.sessions.seat(arrival, now_ns, |socket, key, stage| {
            ports.open(key);
            if stage == Stage::Open {
                ports.receive(key, socket);
            }
            // Otherwise its turn finds out for itself what the kernel holds.
            Ok(())
        })
    }

    fn handle_wait(&mut self, now_ns: u64) {
        self.sessions.handle_wait(now_ns);
    }

    fn has_mail(&self) -> bool {
        self.sessions.has_mail()
    }

    /// Of sessions, the poller watches second sockets alone.
    fn handle_event(&mut self, ready: Ready, now_ns: u64) {
        self.sessions.handle_event(ready, now_ns);
    }

    fn handle_endpoint(&mut self, number: usize, now_ns: u64) {
        self.sessions.handle_endpoint(number, now_ns);
    }

    fn handle_stage(&mut self, stage: Stage, now_ns: u64) {
        // What the kernel holds for a session is to be known to it when it hears of the drain.
        self.take_all(now_ns);
        self.sessions.handle_stage(stage, now_ns);
    }

    fn handle_timeouts(&mut self, now_ns: u64) {
        self.sessions.handle_timeouts(now_ns);
    }

    fn next_due_ns(&self, now_ns: u64) -> Option<u64> {
        self.sessions.next_due_ns(now_ns)
    }

    fn handle_due(&mut self, now_ns: u64) {
        let overdue = self.sessions.poll_overdue(now_ns);
        if !overdue.is_empty() {
            // The kernel ends a send when much of the socket is free; a peer that reads little is to be seen as well.
            overdue.iter().for_each(|key| self.ports.take_back_send(*key));
            self.take_all(now_ns);
            self.sessions.handle_overdue(&overdue, now_ns);
        }
    }
}
