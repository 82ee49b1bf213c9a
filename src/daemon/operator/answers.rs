//! Answers that are longer than memory should hold at once, or that come later.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use crate::daemon::Daemon;
use crate::engine::Seen;
use crate::session::operator::{Answer, Progress};

/// Places that are looked at in one go.
const STRETCH: usize = 64;

/// `sessions`: a heading, a line for each, and how many there were.
pub(super) struct SessionList {
    daemon: Arc<Daemon>,
    /// The place to look at next; none when all have been.
    next: Option<u64>,
    seen: VecDeque<Seen>,
    stage: Stage,
    told: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Heading,
    Rows,
    Over,
}

impl SessionList {
    pub(super) fn new(daemon: Arc<Daemon>) -> SessionList {
        SessionList { daemon, next: Some(0), seen: VecDeque::new(), stage: Stage::Heading, told: 0 }
    }

    fn next_seen(&mut self) -> Option<Seen> {
        while self.seen.is_empty() {
            let mut seen = Vec::with_capacity(STRETCH);
            self.next = self.daemon.sessions(self.next?, STRETCH, &mut seen);
            self.seen = seen.into();
        }
        self.seen.pop_front()
    }
}

impl Answer for SessionList {
    fn poll_line(&mut self, line: &mut String) -> Progress {
        match self.stage {
            Stage::Heading => {
                line.push_str(" id service peer age in out state");
                self.stage = Stage::Rows;
            }
            Stage::Rows => match self.next_seen() {
                Some(seen) => {
                    write_row(line, &seen);
                    self.told += 1;
                }
                None => {
                    write!(line, "ok {} sessions", self.told).expect("a string takes everything");
                    self.stage = Stage::Over;
                }
            },
            Stage::Over => return Progress::Over,
        }
        Progress::Line
    }
}

fn write_row(line: &mut String, seen: &Seen) {
    let Seen { id, service, peer, age_ns, read_bytes, written_bytes, state } = seen;
    let peer = peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string());
    let age_s = *age_ns as f64 / 1e9;
    write!(line, " {id} {service} {peer} {age_s:.2}s {read_bytes} {written_bytes} {state}")
        .expect("a string takes everything");
}

/// `workers N`: said once it is so.
pub(super) struct InForceLater {
    pub(super) in_force: Arc<OnceLock<usize>>,
    pub(super) is_said: bool,
}

impl Answer for InForceLater {
    fn poll_line(&mut self, line: &mut String) -> Progress {
        if self.is_said {
            return Progress::Over;
        }
        let Some(workers) = self.in_force.get() else { return Progress::Waits };
        write!(line, "workers {workers}").expect("a string takes everything");
        self.is_said = true;
        Progress::Line
    }
}
