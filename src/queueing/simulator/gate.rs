//! [`Gate`]: where arrivals stand until a poller sees them.
//!
//! Invariant *behind-a-backlog*: where a low-water mark is set, arrivals stand outside only while more than that wait in
//! their line. Time for the polls themselves belongs to nobody here: it is measured as a cost of the request.

use std::collections::VecDeque;

use super::{Job, NEVER_NS, Polling};

/// Those outside, by the line that they will join.
pub(super) struct Gate {
    polling: Polling,
    outside: Vec<VecDeque<Job>>,
    /// A multiple of `every_ns` while somebody is outside who must be seen by then.
    next_poll_ns: u64,
}

impl Gate {
    pub(super) fn new(polling: Polling, lines: usize) -> Gate {
        Gate { polling, outside: vec![VecDeque::new(); lines], next_poll_ns: NEVER_NS }
    }

    /// Whether an arrival is seen at once where `waiting` wait.
    pub(super) fn is_open(&self, waiting: usize) -> bool {
        match self.polling {
            Polling { low_water: Some(mark), .. } => waiting <= mark,
            Polling { every_ns, low_water: None } => every_ns.is_none(),
        }
    }

    /// Whether those outside of this line are seen now that it has fallen to `waiting`.
    pub(super) fn opens(&self, line: usize, waiting: usize) -> bool {
        self.polling.low_water.is_some_and(|mark| waiting <= mark) && !self.outside[line].is_empty()
    }

    /// Keeps an arrival outside.
    pub(super) fn hold(&mut self, line: usize, job: Job) {
        self.outside[line].push_back(job);
        if let Some(every_ns) = self.polling.every_ns.filter(|_| self.next_poll_ns == NEVER_NS) {
            self.next_poll_ns = job.request.at_ns.next_multiple_of(every_ns);
        }
    }

    /// When those outside are seen whatever waits.
    pub(super) fn next_poll_ns(&self) -> u64 {
        self.next_poll_ns
    }

    /// Lets in those outside of one line, in the order of their arrival.
    pub(super) fn let_in(&mut self, line: usize, mut admit: impl FnMut(Job)) {
        self.outside[line].drain(..).for_each(&mut admit);
    }

    /// The poll: lets in everybody.
    pub(super) fn let_all_in(&mut self, mut admit: impl FnMut(usize, Job)) {
        self.next_poll_ns = NEVER_NS;
        for (line, outside) in self.outside.iter_mut().enumerate() {
            outside.drain(..).for_each(|job| admit(line, job));
        }
    }
}
