//! SIGINT and SIGTERM: the first ends a load, or a study, with a report of what there is, a second one later ends the
//! process at once.
//!
//! `timeout` signals its child, then the group in which the child is as well, 0.2 ms later; so do shells and supervisors
//! that pass on what the terminal has told everybody already. That is one wish, told twice, and must not cost the report.
//!
//! Read next: `mod.rs`, which asks for the flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::clock::monotonic_ns;
use crate::error::Error;

/// A signal that comes no later than this after the first is the same one. Long enough for a sender that a busy machine
/// makes wait between two calls; short enough for a hand, which hardly presses twice within it, and of which nothing is
/// lost if it does: by then most loads have ended with their report, and the third time it is heard.
const SAME_NS: u64 = 200_000_000;

/// The exit code of a load that was ended without a report.
const ENDED: i32 = 1;

/// Set at the first SIGINT or SIGTERM; a later one ends the process.
///
/// # Errors
/// The system has no room for another thread or descriptor.
pub(crate) fn stop_on_signals() -> Result<Arc<AtomicBool>, Error> {
    let listen = |reason| Error::resource("listen for signals", reason);
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(listen)?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    // Not in a handler: when the first came must be remembered, and nothing else waits for as long as a load may be held
    // up by a reader.
    let watch = move || {
        let mut wish = Wish::default();
        for _ in signals.forever() {
            match wish.told(monotonic_ns()) {
                Then::Stop => flag.store(true, Ordering::Relaxed),
                Then::End => low_level::exit(ENDED),
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(listen)?;
    Ok(stop)
}

/// That the load is to end, once somebody has said so.
#[derive(Default)]
struct Wish {
    first_ns: Option<u64>,
}

#[derive(Debug, PartialEq)]
enum Then {
    /// With a report.
    Stop,
    /// At once.
    End,
}

impl Wish {
    fn told(&mut self, now_ns: u64) -> Then {
        let first_ns = *self.first_ns.get_or_insert(now_ns);
        if now_ns - first_ns <= SAME_NS { Then::Stop } else { Then::End }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_twice_in_a_moment_is_one_wish() {
        let mut wish = Wish::default();
        let later = [0, 1, SAME_NS / 2, SAME_NS].map(|later_ns| wish.told(7 + later_ns));
        assert_eq!(later, [Then::Stop, Then::Stop, Then::Stop, Then::Stop]);
        assert_eq!(wish.told(7 + SAME_NS + 1), Then::End, "counted from the first, not from the one before");
    }
}
