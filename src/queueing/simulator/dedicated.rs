//! [`Dedicated`]: servers that serve one request at a time and finish it, from one line or from a line each.

use super::bits::Bits;
use super::ends::Ends;
use super::line::Line;
use super::{Costs, Job, NEVER_NS, Queue, Served, Servers, System};

/// The servers with their lines.
pub(super) struct Dedicated {
    is_central: bool,
    steals: bool,
    costs: Costs,
    lines: Vec<Line>,
    /// Lines in which somebody stands.
    occupied: Bits,
    /// Servers that serve nobody; disjoint from those with an end.
    idle: Bits,
    /// What each server serves, or has served last.
    serving: Vec<Serving>,
    ends: Ends,
}

#[derive(Clone)]
struct Serving {
    job: Job,
    begin_ns: u64,
}

impl Dedicated {
    pub(super) fn new(system: &System) -> Dedicated {
        let request = super::Request { at_ns: 0, demand_ns: 0, connection: 0 };
        let nobody = Serving { job: Job { number: 0, request }, begin_ns: 0 };
        let lines = system.lines();
        Dedicated {
            is_central: system.queue == Queue::Central,
            steals: matches!(system.queue, Queue::Stealing(_)),
            costs: system.costs,
            lines: (0..lines).map(|_| Line::new(system.discipline)).collect(),
            occupied: Bits::none(lines),
            idle: Bits::all(system.servers),
            serving: vec![nobody; system.servers],
            ends: Ends::never(system.servers),
        }
    }

    /// The server that takes up a request of this line now, if there is one.
    fn idle_for(&self, line: usize) -> Option<usize> {
        if self.is_central || self.steals {
            self.idle.first_from(line)
        } else {
            self.idle.contains(line).then_some(line)
        }
    }

    /// The line that this server takes from, if somebody waits there.
    fn line_for(&self, server: usize) -> Option<usize> {
        let own = if self.is_central { 0 } else { server };
        if self.steals { self.occupied.first_from(own) } else { self.occupied.contains(own).then_some(own) }
    }

    fn begin(&mut self, now_ns: u64, server: usize, line: usize, job: Job, is_woken: bool) {
        let mut service_ns = job.request.demand_ns + self.costs.request_ns;
        if is_woken {
            service_ns += self.costs.wake_ns;
        }
        if self.steals && line != server {
            service_ns += self.costs.steal_ns;
        }
        self.serving[server] = Serving { job, begin_ns: now_ns };
        let end_ns = now_ns.checked_add(service_ns).filter(|end_ns| *end_ns < NEVER_NS);
        self.ends.set(server, end_ns.expect("a run is shorter than 584 years"));
    }
}

impl Servers for Dedicated {
    fn admit(&mut self, now_ns: u64, line: usize, job: Job) {
        match self.idle_for(line) {
            Some(server) => {
                self.idle.remove(server);
                self.begin(now_ns, server, line, job, true);
            }
            None => {
                self.lines[line].push(job);
                self.occupied.insert(line);
            }
        }
    }

    fn next_end_ns(&self) -> u64 {
        self.ends.first_ns()
    }

    fn end(&mut self) -> (Served, Option<usize>) {
        let (server, end_ns) = (self.ends.first(), self.ends.first_ns());
        let Serving { job: Job { number, request }, begin_ns } = self.serving[server];
        let served = Served { number, request, server, wait_ns: begin_ns - request.at_ns, end_ns };
        let taken = self.line_for(server);
        match taken {
            Some(line) => {
                let job = self.lines[line].take().expect("somebody stands in an occupied line");
                if self.lines[line].len() == 0 {
                    self.occupied.remove(line);
                }
                self.begin(end_ns, server, line, job, false);
            }
            None => {
                self.ends.set(server, NEVER_NS);
                self.idle.insert(server);
            }
        }
        (served, taken)
    }

    fn waiting(&self, line: usize) -> usize {
        self.lines[line].len()
    }
}
