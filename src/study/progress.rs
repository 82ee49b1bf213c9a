//! One line on a terminal that says which run goes on and how long the study still takes. Elsewhere nothing is written.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::plan::Plan;
use crate::clock::monotonic_ns;

/// How far a study is.
pub(super) struct Progress {
    is_shown: bool,
    runs: usize,
    planned: Duration,
    done: usize,
    begun_ns: u64,
}

impl Progress {
    /// Of a study with so many runs still to make.
    pub(super) fn new(plan: &Plan, runs: usize, is_wanted: bool) -> Progress {
        let is_shown = is_wanted && io::stderr().is_terminal();
        Progress { is_shown, runs, planned: plan.run_length(), done: 0, begun_ns: monotonic_ns() }
    }

    /// The next run begins.
    pub(super) fn begin(&self, what: &str) {
        if self.is_shown {
            let left = show_left(self.left(Duration::from_nanos(monotonic_ns() - self.begun_ns)));
            // Nobody needs to hear that nobody can hear it.
            let _ = write!(io::stderr(), "\r\x1b[2K{}/{}  {left} left  {what}", self.done + 1, self.runs);
        }
    }

    /// It has ended.
    pub(super) fn end(&mut self) {
        self.done += 1;
    }

    /// The line gives way to what is printed.
    pub(super) fn clear(&self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }

    /// How long it still takes: as runs have taken so far, or as they are planned.
    fn left(&self, passed: Duration) -> Duration {
        let to_make = self.runs.saturating_sub(self.done) as u32;
        match u32::try_from(self.done) {
            Ok(done @ 1..) => passed / done * to_make,
            _ => self.planned * to_make,
        }
    }
}

/// Hours, minutes and seconds, as far as they matter.
fn show_left(left: Duration) -> String {
    let seconds = left.as_secs();
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_planned_at_first_and_measured_later() {
        let mut progress =
            Progress { is_shown: false, runs: 10, planned: Duration::from_secs(4), done: 0, begun_ns: 0 };
        assert_eq!(progress.left(Duration::from_secs(1)).as_secs(), 40);
        progress.end();
        progress.end();
        assert_eq!(progress.left(Duration::from_secs(10)).as_secs(), 40);
        assert_eq!(progress.left(Duration::from_secs(12)).as_secs(), 48);
        let shown = [9, 61, 3_600 * 2 + 65].map(|seconds| show_left(Duration::from_secs(seconds)));
        assert_eq!(shown, ["9s", "1m01s", "2h01m"]);
    }
}
