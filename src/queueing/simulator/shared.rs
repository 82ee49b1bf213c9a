//! [`Shared`]: processor sharing. All requests of a line are served at once, by all its servers together.
//!
//! With `k` present on `n` servers each is served at the speed `min(1, n / k)`. So all who are present have been served
//! for equally long since they came together, and one number per line, what somebody present from its beginning has
//! received, stands for all of them: who comes is done when that number has grown by its demand.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::ends::Ends;
use super::{Costs, Job, NEVER_NS, Served, Servers, System};

/// The lines with their servers.
pub(super) struct Shared {
    costs: Costs,
    groups: Vec<Group>,
    /// When the next request of each line is done.
    ends: Ends,
}

impl Shared {
    pub(super) fn new(system: &System) -> Shared {
        let lines = system.lines();
        let group =
            || Group { servers: system.servers / lines, present: BinaryHeap::new(), received_ns: 0.0, as_of_ns: 0 };
        Shared { costs: system.costs, groups: (0..lines).map(|_| group()).collect(), ends: Ends::never(lines) }
    }
}

impl Servers for Shared {
    fn admit(&mut self, now_ns: u64, line: usize, job: Job) {
        let group = &mut self.groups[line];
        let is_woken = group.present.len() < group.servers;
        let wake_ns = if is_woken { self.costs.wake_ns } else { 0 };
        group.add(now_ns, job, job.request.demand_ns + self.costs.request_ns + wake_ns);
        self.ends.set(line, group.next_end_ns());
    }

    fn next_end_ns(&self) -> u64 {
        self.ends.first_ns()
    }

    fn end(&mut self) -> (Served, Option<usize>) {
        let (line, end_ns) = (self.ends.first(), self.ends.first_ns());
        let Share { job: Job { number, request }, service_ns, .. } = self.groups[line].remove_next(end_ns);
        self.ends.set(line, self.groups[line].next_end_ns());
        let wait_ns = (end_ns - request.at_ns).saturating_sub(service_ns);
        (Served { number, request, server: line, wait_ns, end_ns }, None)
    }

    fn waiting(&self, _line: usize) -> usize {
        0
    }
}

/// A line and the servers that serve all of it at once.
struct Group {
    servers: usize,
    present: BinaryHeap<Reverse<Share>>,
    /// What somebody has received who has been here since the group was last empty.
    received_ns: f64,
    /// The time of that.
    as_of_ns: u64,
}

impl Group {
    /// How fast each of those present is served.
    fn speed(&self) -> f64 {
        (self.servers as f64 / self.present.len() as f64).min(1.0)
    }

    fn add(&mut self, now_ns: u64, job: Job, service_ns: u64) {
        if self.present.is_empty() {
            // From zero again, so that no rounding outlives a busy period.
            self.received_ns = 0.0;
        } else {
            self.received_ns += (now_ns - self.as_of_ns) as f64 * self.speed();
        }
        self.as_of_ns = now_ns;
        self.present.push(Reverse(Share { done_at: self.received_ns + service_ns as f64, job, service_ns }));
    }

    fn next_end_ns(&self) -> u64 {
        let Some(Reverse(next)) = self.present.peek() else { return NEVER_NS };
        let left_ns = ((next.done_at - self.received_ns) / self.speed()).round();
        let end_ns = self.as_of_ns.checked_add(left_ns as u64).filter(|end_ns| *end_ns < NEVER_NS);
        end_ns.expect("a run is shorter than 584 years")
    }

    fn remove_next(&mut self, now_ns: u64) -> Share {
        let Reverse(share) = self.present.pop().expect("somebody is done");
        self.received_ns = share.done_at;
        self.as_of_ns = now_ns;
        share
    }
}

/// A request that is being served.
struct Share {
    /// What the group will have received when it is done.
    done_at: f64,
    job: Job,
    service_ns: u64,
}

impl Ord for Share {
    fn cmp(&self, other: &Share) -> Ordering {
        self.done_at.total_cmp(&other.done_at).then(self.job.number.cmp(&other.job.number))
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Share) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Share {}

impl PartialEq for Share {
    fn eq(&self, other: &Share) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
