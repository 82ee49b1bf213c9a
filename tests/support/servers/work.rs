//! The `work` protocol over TCP and UDP: a pool of threads spends what is asked for and answers in any order.
//!
//! `u32 length` of what follows, `u64 id`, `u64 demand_ns`, `u8 kind`, `u8 class`, `u16 flags`, payload; and back
//! `u32 length`, `u64 id`, `u64 queue_ns`, `u64 service_ns`, `u16 worker`, `u16 flags`, with flag 2 three stamps, payload.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::{Connection, Server, State, ignore, is_due, spoiled};

/// The bytes of a request between its length and its payload.
const HEAD: usize = 20;
const MAX_FRAME: usize = 1 << 20;
const MAX_DEMAND_NS: u64 = 10_000_000_000;

/// Frames that come faster than anybody takes them up one by one.
const BURST: usize = 2_000;

/// What an engine cannot know.
const UNKNOWN: u64 = u64::MAX;

const WANTS_STAMPS: u16 = 1;
const IS_SHED: u16 = 1;
const HAS_STAMPS: u16 = 2;

/// A work server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Threads that serve.
    pub(crate) workers: usize,
    pub(crate) stamps: Stamps,
    pub(crate) fault: Fault,
}

/// What a server says of where the time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamps {
    /// Those of CLOCK_MONOTONIC, to whoever wants them.
    Real,
    /// None, wanted or not.
    Absent,
    /// All ones wherever that is allowed.
    Unknown,
}

/// What is wrong with a work server. "Every" counts the requests of all clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    /// Every so many-th is answered as shed, which is no mistake.
    ShedEvery(u64),
    /// Every so many-th is answered with the id of no request.
    WrongIdEvery(u64),
    /// Every so many-th is answered twice.
    TwiceEvery(u64),
    /// The first one is answered again and again, without end.
    WithoutEnd,
    /// Every so many-th is not answered.
    LoseEvery(u64),
    /// Every so many-th is answered with this length before it.
    LengthEvery(u64, u32),
    /// Every so many-th comes back with its last byte of payload changed.
    CorruptEvery(u64),
}

impl Default for Work {
    fn default() -> Work {
        Work { workers: 4, stamps: Stamps::Real, fault: Fault::Nothing }
    }
}

impl Work {
    /// Over TCP.
    pub(crate) fn tcp(self) -> Server {
        let state = State::new();
        let (jobs, pool) = self.pool(&state, BURST);
        let reading = Arc::clone(&state);
        let mut server = Server::accepting(Duration::ZERO, state, move |connection| {
            // It ends when the client does, or says something that no client may say.
            let _ = read_requests(&connection, |request| {
                reading.count(&reading.requests, 1);
                let connection = Arc::clone(&connection);
                let answer = move |frame: &[u8]| connection.write(frame);
                jobs.send(Job { request, ready_ns: now_ns(), answer: Box::new(answer) }).expect("the pool is there");
            });
        });
        server.threads.extend(pool);
        server
    }

    /// Over UDP, a frame a datagram.
    pub(crate) fn udp(self) -> Server {
        let state = State::new();
        let (jobs, pool) = self.pool(&state, 1);
        let counts = Arc::clone(&state);
        let mut server = Server::receiving(state, move |socket, datagram, from| {
            let Some((length, body)) = datagram.split_first_chunk() else { return };
            if u32::from_be_bytes(*length) as usize != body.len() {
                return;
            }
            let Some(request) = Request::parse(body) else { return };
            let (socket, counts): (UdpSocket, _) = (socket.try_clone().expect("a second handle"), Arc::clone(&counts));
            let answer = move |frame: &[u8]| {
                counts.count(&counts.bytes_written, frame.len() as u64);
                ignore(socket.send_to(frame, from));
                Some(())
            };
            jobs.send(Job { request, ready_ns: now_ns(), answer: Box::new(answer) }).expect("the pool is there");
        });
        server.threads.extend(pool);
        server
    }

    /// Its threads, which end when nobody can send them a job any more.
    fn pool(self, state: &Arc<State>, burst: usize) -> (Sender<Job>, Vec<thread::JoinHandle<()>>) {
        let (sender, jobs) = channel();
        let (jobs, answered) = (Arc::new(Mutex::new(jobs)), Arc::new(AtomicU64::new(0)));
        let start = |number| {
            let worker = Worker {
                number,
                work: self,
                burst,
                jobs: Arc::clone(&jobs),
                answered: Arc::clone(&answered),
                state: Arc::clone(state),
            };
            thread::spawn(move || worker.run())
        };
        let threads = (0..self.workers as u16).map(start).collect();
        (sender, threads)
    }
}

struct Request {
    id: u64,
    demand: Duration,
    kind: u8,
    flags: u16,
    payload: Vec<u8>,
}

impl Request {
    /// The request of these bytes behind the length; none if no client may send them.
    fn parse(body: &[u8]) -> Option<Request> {
        let (head, payload) = body.split_first_chunk::<HEAD>()?;
        let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (id, demand_ns, kind) = (number(0), number(8), head[16]);
        let flags = u16::from_be_bytes([head[18], head[19]]);
        let demand = Duration::from_nanos(demand_ns);
        let is_allowed = kind <= 2 && demand_ns <= MAX_DEMAND_NS;
        is_allowed.then(|| Request { id, demand, kind, flags, payload: payload.to_vec() })
    }
}

fn read_requests(connection: &Connection, mut take: impl FnMut(Request)) -> Option<()> {
    loop {
        let mut length = [0; 4];
        connection.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if !(HEAD..=MAX_FRAME).contains(&length) {
            return None;
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        take(Request::parse(&body)?);
    }
}

/// A request with the way back.
struct Job {
    request: Request,
    ready_ns: u64,
    answer: Answer,
}

/// Sends a frame to whoever asked; none if it is known to have gone.
type Answer = Box<dyn Fn(&[u8]) -> Option<()> + Send>;

struct Worker {
    number: u16,
    work: Work,
    /// Frames in one write, when there is no end of them.
    burst: usize,
    jobs: Arc<Mutex<Receiver<Job>>>,
    /// Of all workers.
    answered: Arc<AtomicU64>,
    state: Arc<State>,
}

impl Worker {
    fn run(self) {
        loop {
            // Whoever holds the lock waits for the next job, the others for the lock.
            let job = self.jobs.lock().expect("no panic while held").recv();
            match job {
                Ok(job) => self.serve(job),
                Err(_) => return,
            }
        }
    }

    fn serve(&self, Job { request, ready_ns, answer }: Job) {
        let taken_ns = now_ns();
        let number = self.answered.fetch_add(1, Ordering::Relaxed) + 1;
        let is_wrong = self.is_wrong(number);
        let is_shed = is_wrong && matches!(self.work.fault, Fault::ShedEvery(_));
        if is_wrong {
            self.state.count_fault();
        }
        if !is_shed {
            self.spend(request.demand, request.kind);
        }
        self.state.wait_while_held();
        let done_ns = now_ns();
        let (mut id, mut payload) = (request.id, request.payload);
        match self.work.fault {
            Fault::WrongIdEvery(_) if is_wrong => id = !id,
            Fault::CorruptEvery(_) if is_wrong => {
                let last = payload.last_mut().expect("there is a payload to spoil");
                *last = spoiled(*last);
            }
            Fault::LoseEvery(_) if is_wrong => return,
            _ => {}
        }

        let wants_stamps = request.flags & WANTS_STAMPS != 0 && self.work.stamps != Stamps::Absent;
        let flags = match (is_shed, wants_stamps) {
            (true, _) => IS_SHED,
            (_, true) => HAS_STAMPS,
            _ => 0,
        };
        let told = |known: u64| if self.work.stamps == Stamps::Unknown { UNKNOWN } else { known };
        let worker = if self.work.stamps == Stamps::Unknown { u16::MAX } else { self.number };
        let mut body = id.to_be_bytes().to_vec();
        body.extend(told(taken_ns - ready_ns).to_be_bytes());
        body.extend(told(done_ns - taken_ns).to_be_bytes());
        body.extend(worker.to_be_bytes());
        body.extend(flags.to_be_bytes());
        if flags == HAS_STAMPS {
            body.extend([ready_ns, taken_ns, done_ns].into_iter().flat_map(|stamp| told(stamp).to_be_bytes()));
        }
        body.extend(payload);
        let mut length = body.len() as u32;
        if let (true, Fault::LengthEvery(_, wrong)) = (is_wrong, self.work.fault) {
            length = wrong;
        }
        let frame = [&length.to_be_bytes(), &body[..]].concat();
        let again = match self.work.fault {
            Fault::TwiceEvery(_) if is_wrong => 1,
            Fault::WithoutEnd if is_wrong => usize::MAX,
            _ => 0,
        };
        let frames = if again == usize::MAX { frame.repeat(self.burst) } else { frame };
        let mut left = again.saturating_add(1);
        while left > 0 && !self.state.is_stopped() && answer(&frames).is_some() {
            left -= 1;
        }
    }

    /// Whether the `number`-th request, counted from 1, is one that its fault is for.
    fn is_wrong(&self, number: u64) -> bool {
        match self.work.fault {
            Fault::Nothing => false,
            Fault::WithoutEnd => number == 1,
            Fault::ShedEvery(every)
            | Fault::WrongIdEvery(every)
            | Fault::TwiceEvery(every)
            | Fault::LoseEvery(every)
            | Fault::LengthEvery(every, _)
            | Fault::CorruptEvery(every) => is_due(number, every),
        }
    }

    /// Sleeps for kind 1; is busy for the others.
    fn spend(&self, demand: Duration, kind: u8) {
        let until = Instant::now() + demand;
        if kind == 1 {
            return self.state.pause_until(Some(until));
        }
        while Instant::now() < until && !self.state.is_stopped() {
            std::hint::spin_loop();
        }
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
