//! The load: one thread, one epoll, every reply compared byte for byte.
//!
//! Closed loop: a fixed number of requests in flight on each connection. Open loop: Poisson
//! arrivals decided before the first send; latency counts from the *intended* time, so a late send
//! is recorded as latency, and a request never sent or never answered still enters the histogram.
//! The generator never spins: it shares its cores with the server, and what it burns the server
//! lacks. Between arrivals it sleeps on a timer descriptor.
//!
//! It deliberately does not reconnect: a connection that fails is counted and stays dead.

use std::collections::VecDeque;
use std::io;
use std::iter::Peekable;
use std::net::{SocketAddrV4, TcpStream};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::slice;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};
use rustix::thread::ClockId;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use serde::Serialize;

use crate::account::Account;
use crate::pattern::{CHUNK, Cursor, Pattern};
use crate::random::Random;

/// Few enough that arrivals are looked at often, enough to amortise the wait.
const EVENTS: usize = 256;
const TIMER: u64 = u64::MAX;
/// How long a slice waits for what is in flight when its window is over.
const GRACE: Duration = Duration::from_secs(1);
/// A sleeping virtual CPU takes tens of microseconds to wake; a send later than this says that the
/// generator itself was short of CPU.
const LATE_NS: u64 = 1_000_000;
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) size_bytes: usize,
    pub(crate) arrivals: Arrivals,
}

#[derive(Clone, Copy)]
pub(crate) enum Arrivals {
    Closed { depth: usize },
    Open { rate_per_s: f64 },
}

/// One uninterrupted piece of load: first unmeasured, then measured.
#[derive(Clone, Copy)]
pub(crate) struct Slice {
    pub(crate) settle: Duration,
    pub(crate) measured: Duration,
    /// Decides the arrivals of the open loop.
    pub(crate) seed: u64,
}

/// What the measured parts of all slices found.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) duration_s: f64,
    pub(crate) requests: u64,
    pub(crate) requests_per_s: f64,
    pub(crate) bytes_per_s: f64,
    pub(crate) latency_ns: Latency,
    pub(crate) server: Option<Server>,
    pub(crate) generator: GeneratorShare,
    pub(crate) errors: Errors,
    /// Open loop: intended within the window, not sent when the grace was over.
    pub(crate) unsent: u64,
    /// Sent, not answered when the grace was over.
    pub(crate) unanswered: u64,
}

#[derive(Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
}

#[derive(Serialize)]
pub(crate) struct Server {
    pub(crate) cpu_ns_per_request: f64,
    pub(crate) cpu_ns_per_kib: f64,
    /// CPU time over wall time: 2.0 is two CPUs full.
    pub(crate) cpu_util: f64,
    pub(crate) voluntary_switches_per_request: f64,
    pub(crate) involuntary_switches_per_request: f64,
    pub(crate) run_delay_ns_per_request: f64,
}

#[derive(Serialize)]
pub(crate) struct GeneratorShare {
    pub(crate) cpu_util: f64,
    /// Open loop: sends more than a millisecond after their intended time.
    pub(crate) late_sends: u64,
    pub(crate) late_ns_p50: u64,
    pub(crate) late_ns_p99: u64,
}

#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Errors {
    pub(crate) wrong_bytes: u64,
    pub(crate) disconnects: u64,
}

pub(crate) fn connect(address: SocketAddrV4) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address.into(), CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What is left of a schedule.
type Arriving<'a> = Peekable<slice::Iter<'a, Arrival>>;

/// One request of the open loop.
struct Arrival {
    at_ns: u64,
    connection: usize,
}

/// The arrivals of one slice that begins at `start_ns`; a closed loop has none.
fn schedule(load: Load, slice: Slice, start_ns: u64) -> Vec<Arrival> {
    let Arrivals::Open { rate_per_s } = load.arrivals else {
        return Vec::new();
    };
    let mut random = Random::new(slice.seed);
    let length_ns = (slice.settle + slice.measured).as_nanos() as f64;
    let mean_ns = 1e9 / rate_per_s;
    let mut at_ns = 0.0;
    let mut schedule = Vec::with_capacity((length_ns / mean_ns * 1.1) as usize);
    loop {
        at_ns += random.exponential(mean_ns);
        if at_ns >= length_ns {
            return schedule;
        }
        let connection = random.below(load.connections);
        schedule.push(Arrival { at_ns: start_ns + at_ns as u64, connection });
    }
}

struct Connection {
    stream: TcpStream,
    key: u64,
    alive: bool,
    /// Requests to write in total; those before `written.request` are in the socket.
    asked: u64,
    written: Cursor,
    read: Cursor,
    /// For each request asked for and not answered, the time its latency counts from.
    from_ns: VecDeque<u64>,
}

/// Readings at one moment; two make a window.
#[derive(Clone, Copy)]
struct Mark {
    at_ns: u64,
    replies: u64,
    own_cpu_ns: u64,
    server: Option<Account>,
}

/// Sums over the windows of all slices.
struct Totals {
    wall_ns: u64,
    requests: u64,
    own_cpu_ns: u64,
    server: Account,
    latency: Histogram<u64>,
    late: Histogram<u64>,
    late_sends: u64,
    unsent: u64,
    unanswered: u64,
}

/// The client of one server; keeps its connections from slice to slice.
pub(crate) struct Generator {
    load: Load,
    pid: Option<u32>,
    connections: Vec<Connection>,
    pattern: Pattern,
    inbox: Vec<u8>,
    epoll: OwnedFd,
    timer: OwnedFd,
    timer_at_ns: u64,
    /// All times count from here.
    origin: Instant,
    /// Replies since the origin.
    replies: u64,
    /// Requests asked for and not answered, on connections that live.
    outstanding: u64,
    errors: Errors,
    totals: Totals,
}

impl Generator {
    /// Connects; with `pid`, the server is accounted for as well.
    pub(crate) fn connect(load: Load, address: SocketAddrV4, pid: Option<u32>) -> io::Result<Self> {
        // The default lets the kernel put a wake-up off by 50 us, to save power.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let mut random = Random::new(0xC0_11EC_7104);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // On an edge it need not be read: setting it again clears it.
        let interest = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), interest)?;
        let mut connections = Vec::with_capacity(load.connections);
        for index in 0..load.connections {
            let stream = connect(address)?;
            stream.set_nonblocking(true)?;
            let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(&epoll, &stream, EventData::new_u64(index as u64), interest)?;
            connections.push(Connection {
                stream,
                key: random.next(),
                alive: true,
                asked: 0,
                written: Cursor::default(),
                read: Cursor::default(),
                from_ns: VecDeque::new(),
            });
        }
        Ok(Self {
            load,
            pid,
            connections,
            pattern: Pattern::new(load.size_bytes, &mut random),
            inbox: vec![0; CHUNK],
            epoll,
            timer,
            timer_at_ns: 0,
            origin: Instant::now(),
            replies: 0,
            outstanding: 0,
            errors: Errors::default(),
            totals: Totals::new()?,
        })
    }

    /// Loads the server for one slice, and returns when it has answered everything: the next
    /// server to be loaded has the machine to itself.
    pub(crate) fn run(&mut self, slice: Slice) -> io::Result<()> {
        let start_ns = self.now_ns();
        let begin_ns = start_ns + slice.settle.as_nanos() as u64;
        let end_ns = begin_ns + slice.measured.as_nanos() as u64;
        let give_up_ns = end_ns + GRACE.as_nanos() as u64;
        let window = begin_ns..end_ns;
        let schedule = schedule(self.load, slice, start_ns);
        let mut arrivals = schedule.iter().peekable();
        let mut events = Vec::with_capacity(EVENTS);
        let (mut begin, mut end) = (None, None);
        if let Arrivals::Closed { depth } = self.load.arrivals {
            for index in 0..self.connections.len() {
                let now_ns = self.now_ns();
                self.ask(index, depth as u64, now_ns);
            }
        }
        loop {
            let now_ns = self.now_ns();
            if begin.is_none() && now_ns >= begin_ns {
                begin = Some(self.mark()?);
            }
            if end.is_none() && now_ns >= end_ns {
                end = Some(self.mark()?);
            }
            let is_idle = self.outstanding == 0 && arrivals.peek().is_none();
            if end.is_some() && (is_idle || now_ns >= give_up_ns) {
                break;
            }
            self.send_due(&mut arrivals, now_ns, &window);
            let boundary_ns = match (begin, end) {
                (None, _) => begin_ns,
                (_, None) => end_ns,
                _ => give_up_ns,
            };
            let next_ns = arrivals.peek().map_or(boundary_ns, |next| next.at_ns.min(boundary_ns));
            self.wait(&mut events, next_ns)?;
            for event in events.drain(..) {
                let index = event.data.u64();
                if index == TIMER {
                    continue;
                }
                let completed = self.turn(index as usize, event.flags);
                let now_ns = self.now_ns();
                self.settle(index as usize, completed, now_ns, &window);
                // A long batch of replies must not hold arrivals up.
                self.send_due(&mut arrivals, now_ns, &window);
            }
        }
        if let (Some(begin), Some(end)) = (begin, end) {
            self.totals.add(begin, end);
        }
        self.count_missing(arrivals, &window);
        Ok(())
    }

    /// Records the completed requests of a connection and, in a closed loop, replaces them.
    #[inline]
    fn settle(&mut self, index: usize, completed: u64, now_ns: u64, window: &Range<u64>) {
        let is_closed = matches!(self.load.arrivals, Arrivals::Closed { .. });
        self.replies += completed;
        self.outstanding -= completed;
        for _ in 0..completed {
            let from_ns = self.connections[index].from_ns.pop_front().unwrap_or(now_ns);
            // A closed loop has no intended time to place a request by.
            if window.contains(if is_closed { &now_ns } else { &from_ns }) {
                self.totals.latency.saturating_record(now_ns - from_ns);
            }
        }
        if is_closed && completed > 0 && now_ns < window.end {
            self.ask(index, completed, now_ns);
        }
    }

    /// Sends what is due by now, and no more: a generator that is behind must still read replies.
    #[inline]
    fn send_due(&mut self, arrivals: &mut Arriving<'_>, due_ns: u64, window: &Range<u64>) {
        while let Some(arrival) = arrivals.next_if(|arrival| arrival.at_ns <= due_ns) {
            if window.contains(&arrival.at_ns) {
                let late_ns = self.now_ns() - arrival.at_ns;
                self.totals.late.saturating_record(late_ns);
                self.totals.late_sends += u64::from(late_ns > LATE_NS);
            }
            self.ask(arrival.connection, 1, arrival.at_ns);
        }
    }

    /// What was never sent or answered took at least until now; leaving it out would flatter.
    fn count_missing(&mut self, arrivals: Arriving<'_>, window: &Range<u64>) {
        let now_ns = self.now_ns();
        for arrival in arrivals.filter(|arrival| window.contains(&arrival.at_ns)) {
            self.totals.unsent += 1;
            self.totals.latency.saturating_record(now_ns - arrival.at_ns);
        }
        for connection in &self.connections {
            // The youngest are still in this process.
            let unwritten = (connection.asked - connection.written.request) as usize;
            let written = connection.from_ns.len().saturating_sub(unwritten);
            for (position, from_ns) in connection.from_ns.iter().enumerate() {
                if window.contains(from_ns) {
                    self.totals.unanswered += u64::from(position < written);
                    self.totals.unsent += u64::from(position >= written);
                    self.totals.latency.saturating_record(now_ns - from_ns);
                }
            }
        }
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn mark(&self) -> io::Result<Mark> {
        let server = self.pid.map(Account::of).transpose()?;
        let own_cpu = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
        Ok(Mark {
            at_ns: self.now_ns(),
            replies: self.replies,
            own_cpu_ns: own_cpu.tv_sec as u64 * 1_000_000_000 + own_cpu.tv_nsec as u64,
            server,
        })
    }

    /// Waits for events, at most until `until_ns`.
    fn wait(&mut self, events: &mut Vec<epoll::Event>, until_ns: u64) -> io::Result<()> {
        let now_ns = self.now_ns();
        let timeout = if until_ns <= now_ns {
            Some(&Timespec { tv_sec: 0, tv_nsec: 0 })
        } else {
            // A timer descriptor, because the timeout of epoll_wait is in milliseconds.
            if self.timer_at_ns != until_ns {
                self.timer_at_ns = until_ns;
                let after = Duration::from_nanos(until_ns - now_ns);
                let timer = Itimerspec {
                    it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                    it_value: Timespec { tv_sec: after.as_secs() as _, tv_nsec: after.subsec_nanos().into() },
                };
                timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
            }
            None
        };
        match epoll::wait(&self.epoll, spare_capacity(events), timeout) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts `count` more requests on a connection; their latency counts from `from_ns`.
    #[inline]
    fn ask(&mut self, index: usize, count: u64, from_ns: u64) {
        let connection = &mut self.connections[index];
        if !connection.alive {
            self.totals.unsent += count;
            return;
        }
        connection.from_ns.extend((0..count).map(|_| from_ns));
        connection.asked += count;
        self.outstanding += count;
        self.write(index);
    }

    /// A connection that failed is not used again, and nothing more is expected of it.
    #[cold]
    fn bury(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.alive = false;
        self.outstanding -= connection.from_ns.len() as u64;
        connection.from_ns.clear();
        connection.asked = connection.written.request;
    }

    /// One turn of a connection: writes what waits, reads what came, returns completed requests.
    #[inline]
    fn turn(&mut self, index: usize, flags: EventFlags) -> u64 {
        if self.connections[index].written.request != self.connections[index].asked {
            self.write(index);
        }
        let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let connection = &mut self.connections[index];
        let mut completed = 0;
        while connection.alive {
            let len = match net::recv(&connection.stream, &mut self.inbox[..], RecvFlags::empty()) {
                Ok((_, len)) if len > 0 => len,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Ok(_) | Err(_) => {
                    self.errors.disconnects += 1;
                    self.bury(index);
                    return 0;
                }
            };
            let is_right = self.pattern.stream(connection.key, connection.read, len) == &self.inbox[..len];
            completed += connection.read.advance(len, self.pattern.size());
            // A reply to what was never asked is wrong as well.
            if !is_right || completed > connection.from_ns.len() as u64 {
                self.errors.wrong_bytes += 1;
                self.bury(index);
                return 0;
            }
            if len < self.inbox.len() && !ends {
                break;
            }
        }
        completed
    }

    #[inline]
    fn write(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let size = self.pattern.size();
        while connection.written.request < connection.asked {
            let requests = connection.asked - connection.written.request;
            let len = (requests as usize * size - connection.written.offset).min(CHUNK);
            let bytes = self.pattern.stream(connection.key, connection.written, len);
            match net::send(&connection.stream, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    connection.written.advance(sent, size);
                    if sent < len {
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.errors.disconnects += 1;
                    return self.bury(index);
                }
            }
        }
    }

    pub(crate) fn report(&self) -> Report {
        let totals = &self.totals;
        let wall_ns = totals.wall_ns.max(1) as f64;
        let per_request = |value: u64| value as f64 / totals.requests.max(1) as f64;
        let requests_per_s = totals.requests as f64 * 1e9 / wall_ns;
        let size_bytes = self.load.size_bytes as f64;
        let used = totals.server;
        let quantile = |q| totals.latency.value_at_quantile(q);
        Report {
            duration_s: wall_ns / 1e9,
            requests: totals.requests,
            requests_per_s,
            bytes_per_s: requests_per_s * size_bytes,
            latency_ns: Latency {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p99_9: quantile(0.999),
                max: totals.latency.max(),
            },
            server: self.pid.map(|_| Server {
                cpu_ns_per_request: per_request(used.run_ns),
                cpu_ns_per_kib: per_request(used.run_ns) * 1024.0 / size_bytes,
                cpu_util: used.run_ns as f64 / wall_ns,
                voluntary_switches_per_request: per_request(used.voluntary_switches),
                involuntary_switches_per_request: per_request(used.involuntary_switches),
                run_delay_ns_per_request: per_request(used.run_delay_ns),
            }),
            generator: GeneratorShare {
                cpu_util: totals.own_cpu_ns as f64 / wall_ns,
                late_sends: totals.late_sends,
                late_ns_p50: totals.late.value_at_quantile(0.5),
                late_ns_p99: totals.late.value_at_quantile(0.99),
            },
            errors: self.errors,
            unsent: totals.unsent,
            unanswered: totals.unanswered,
        }
    }

    /// Requests of a closed loop that a whole grace did not bring an answer to: the server lost
    /// them, or stands still.
    pub(crate) fn lost(&self) -> u64 {
        match self.load.arrivals {
            Arrivals::Closed { .. } => self.outstanding,
            // Here it may only be behind, which the latency shows.
            Arrivals::Open { .. } => 0,
        }
    }

    /// Forgets what was measured so far, not the connections.
    pub(crate) fn forget(&mut self) -> io::Result<()> {
        self.totals = Totals::new()?;
        Ok(())
    }
}

impl Totals {
    fn new() -> io::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, 3_600_000_000_000, 3).map_err(io::Error::other);
        Ok(Self {
            wall_ns: 0,
            requests: 0,
            own_cpu_ns: 0,
            server: Account::default(),
            latency: histogram()?,
            late: histogram()?,
            late_sends: 0,
            unsent: 0,
            unanswered: 0,
        })
    }

    fn add(&mut self, begin: Mark, end: Mark) {
        self.wall_ns += end.at_ns - begin.at_ns;
        self.requests += end.replies - begin.replies;
        self.own_cpu_ns += end.own_cpu_ns - begin.own_cpu_ns;
        if let (Some(begin), Some(end)) = (begin.server, end.server) {
            self.server += end - begin;
        }
    }
}
