//! A discrete-event simulator of servers that serve requests: a trace goes in, and what became of each request comes out.
//!
//! ```text
//!   requests ──▶ gate ──▶ line ──▶ server ──▶ done
//!               (polls)  (discipline)  one at a time, or shared
//! ```
//! [`simulate`] draws nothing: arrival times, demands, connections and the homes of connections are the caller's, so that
//! the same trace can be run through any [`System`], and a measured one as well as a made one. Memory is that of the
//! requests that are present, not of all that come: a trace is taken one request at a time.
//!
//! Invariants: *work-conserving*: no server of a central queue, or of one with stealing, is idle while a request stands in
//! a line. *in-order*: of events at one instant ends come first, then polls, then arrivals; servers by their number. So
//! the same trace gives the same bytes.
//!
//! Read next: `simulator/dedicated.rs`, servers that serve one request at a time; `simulator/shared.rs`, those that share.

mod bits;
mod dedicated;
mod ends;
mod gate;
mod line;
mod shared;

use self::dedicated::Dedicated;
use self::gate::Gate;
use self::shared::Shared;

/// The time of what never happens.
const NEVER_NS: u64 = u64::MAX;

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it comes, in nanoseconds from any beginning; never before the one before it.
    pub at_ns: u64,
    /// How long it takes to serve, apart from [`Costs`].
    pub demand_ns: u64,
    /// Which connection it comes over, from 0 on. Without meaning for a central queue.
    pub connection: usize,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its number in the trace, from 0 on.
    pub number: u64,
    /// The request.
    pub request: Request,
    /// Who served it, from 0 on. Servers that share one line and all its requests count as server 0.
    pub server: usize,
    /// How long it was not served. Under processor sharing this is all that the others took from it.
    pub wait_ns: u64,
    /// When it was done.
    pub end_ns: u64,
}

impl Served {
    /// From its arrival to its end.
    pub fn sojourn_ns(&self) -> u64 {
        self.end_ns - self.request.at_ns
    }
}

/// Servers, and how requests come to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// How many, at least one.
    pub servers: usize,
    /// Where requests wait.
    pub queue: Queue,
    /// Which of them is next.
    pub discipline: Discipline,
    /// What serving takes beside the demand.
    pub costs: Costs,
    /// When arrivals are seen.
    pub polling: Polling,
}

impl System {
    /// The system that others are held to: one line for all servers, first come first served, at no cost (M/G/n).
    pub fn ideal(servers: usize) -> System {
        let (costs, polling) = (Costs::default(), Polling::default());
        System { servers, queue: Queue::Central, discipline: Discipline::Fifo, costs, polling }
    }

    fn check(&self) {
        assert!(self.servers > 0, "somebody must serve");
        let shares = self.discipline == Discipline::ProcessorSharing;
        if let Queue::Partitioned(homes) | Queue::Stealing(homes) = &self.queue {
            assert!(homes.iter().all(|home| *home < self.servers), "a home is a server");
        }
        assert!(!(shares && matches!(self.queue, Queue::Stealing(_))), "where nobody waits there is nothing to steal");
        assert!(!(shares && self.polling.low_water.is_some()), "where nobody waits there is no mark to fall to");
        assert!(self.polling.every_ns != Some(0), "polls have a distance");
    }

    /// The line that a request joins: the only one, or that of its connection's server.
    fn line_of(&self, request: &Request) -> usize {
        match &self.queue {
            Queue::Central => 0,
            Queue::Partitioned(homes) | Queue::Stealing(homes) => homes[request.connection],
        }
    }

    fn lines(&self) -> usize {
        if self.queue == Queue::Central { 1 } else { self.servers }
    }
}

/// Where requests wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queue {
    /// In one line for all servers.
    Central,
    /// In a line for each server, which serves no other. Here is the server of each connection.
    Partitioned(Vec<usize>),
    /// The same; but a server whose own line is empty takes the next one of the first line after its own, in a circle,
    /// in which somebody waits, and who comes to a busy server is taken by the first idle one after it.
    Stealing(Vec<usize>),
}

/// Which of those that wait is next. None but processor sharing interrupts a request that is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// Who came first.
    Fifo,
    /// Who came last.
    Lifo,
    /// Who asks for the least time; of equal ones, who came first.
    ShortestFirst,
    /// Nobody waits: all who are present are served at once, at equal speed, none faster than one server serves one.
    ProcessorSharing,
}

/// What serving takes beside the demand, as it was measured; all of it keeps the server busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// Of every request.
    pub request_ns: u64,
    /// Of a request that an idle server takes up, which has to be woken first.
    pub wake_ns: u64,
    /// Of a request that another than its home serves.
    pub steal_ns: u64,
}

/// When arrivals are seen and join their line. By default at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polling {
    /// At whole multiples of this, at the latest; none: no such bound.
    pub every_ns: Option<u64>,
    /// At once while at most so many wait in their line, and else when the line has fallen to that.
    pub low_water: Option<usize>,
}

/// Runs all `requests` through `system` and tells `done` of each when it is done, until none is left.
///
/// # Panics
/// When requests come out of order or over a connection without a home; when the system is none, such as stealing among
/// servers that share, with whom nobody waits; and when times come to 584 years.
pub fn simulate(system: &System, requests: impl IntoIterator<Item = Request>, done: impl FnMut(&Served)) {
    system.check();
    let requests = requests.into_iter();
    match system.discipline {
        Discipline::ProcessorSharing => run(system, Shared::new(system), requests, done),
        _ => run(system, Dedicated::new(system), requests, done),
    }
}

/// A request with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Job {
    number: u64,
    request: Request,
}

/// What the loop asks of servers.
trait Servers {
    /// Serves a request that has been seen, or puts it into this line.
    fn admit(&mut self, now_ns: u64, line: usize, job: Job);
    /// When the next request is done; [`NEVER_NS`] if nobody serves.
    fn next_end_ns(&self) -> u64;
    /// Ends the request that is done next, and begins another. With the line that this one was taken from.
    fn end(&mut self) -> (Served, Option<usize>);
    /// How many stand in this line.
    fn waiting(&self, line: usize) -> usize;
}

fn run(
    system: &System,
    mut servers: impl Servers,
    mut requests: impl Iterator<Item = Request>,
    mut done: impl FnMut(&Served),
) {
    let mut gate = Gate::new(system.polling, system.lines());
    let mut number = 0;
    let mut next = requests.next();
    loop {
        let arrival_ns = next.map_or(NEVER_NS, |request| request.at_ns);
        let (end_ns, poll_ns) = (servers.next_end_ns(), gate.next_poll_ns());
        if end_ns <= arrival_ns.min(poll_ns) {
            if end_ns == NEVER_NS {
                return;
            }
            let (served, taken) = servers.end();
            done(&served);
            if let Some(line) = taken.filter(|line| gate.opens(*line, servers.waiting(*line))) {
                gate.let_in(line, |job| servers.admit(end_ns, line, job));
            }
        } else if poll_ns <= arrival_ns {
            gate.let_all_in(|line, job| servers.admit(poll_ns, line, job));
        } else if let Some(request) = next {
            let (line, job) = (system.line_of(&request), Job { number, request });
            if gate.is_open(servers.waiting(line)) {
                servers.admit(arrival_ns, line, job);
            } else {
                gate.hold(line, job);
            }
            number += 1;
            next = requests.next();
            assert!(next.is_none_or(|later| later.at_ns >= arrival_ns), "request {number} comes before its forerunner");
        }
    }
}

#[cfg(test)]
mod tests;
