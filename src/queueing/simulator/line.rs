//! [`Line`]: those who wait for one server, or for all of them, and which of them is next.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use super::{Discipline, Job};

/// Those who wait. Grows with them: an overloaded system has no bound of its own.
pub(super) enum Line {
    Fifo(VecDeque<Job>),
    Lifo(Vec<Job>),
    Shortest(BinaryHeap<Reverse<ByDemand>>),
}

impl Line {
    pub(super) fn new(discipline: Discipline) -> Line {
        match discipline {
            Discipline::Fifo => Line::Fifo(VecDeque::new()),
            Discipline::Lifo => Line::Lifo(Vec::new()),
            Discipline::ShortestFirst => Line::Shortest(BinaryHeap::new()),
            Discipline::ProcessorSharing => unreachable!("under processor sharing nobody stands in a line"),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Line::Fifo(jobs) => jobs.len(),
            Line::Lifo(jobs) => jobs.len(),
            Line::Shortest(jobs) => jobs.len(),
        }
    }

    pub(super) fn push(&mut self, job: Job) {
        match self {
            Line::Fifo(jobs) => jobs.push_back(job),
            Line::Lifo(jobs) => jobs.push(job),
            Line::Shortest(jobs) => jobs.push(Reverse(ByDemand(job))),
        }
    }

    /// Takes the one who is next.
    pub(super) fn take(&mut self) -> Option<Job> {
        match self {
            Line::Fifo(jobs) => jobs.pop_front(),
            Line::Lifo(jobs) => jobs.pop(),
            Line::Shortest(jobs) => jobs.pop().map(|Reverse(ByDemand(job))| job),
        }
    }
}

/// A job in the order of demand, and of arrival among equal ones.
#[derive(PartialEq, Eq)]
pub(super) struct ByDemand(Job);

impl ByDemand {
    fn key(&self) -> (u64, u64) {
        (self.0.request.demand_ns, self.0.number)
    }
}

impl Ord for ByDemand {
    fn cmp(&self, other: &ByDemand) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for ByDemand {
    fn partial_cmp(&self, other: &ByDemand) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
