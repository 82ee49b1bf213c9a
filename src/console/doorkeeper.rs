//! Who is let in by a token, and how often somebody may be wrong: [`Doorkeeper`], one for each door; [`Visit`], the
//! operator as one session reaches it.
//!
//! A guess costs time: it is answered after [`PENANCE`]. There are [`WRONG_MOST`] of them in a minute at one door, in all
//! its sessions; then nobody is let in by it until the minute is over, not even with the right token: a limit that the
//! right one passes would not limit the guessing. Whoever shares the machine can shut the door of tcp by guessing. That
//! in the file system has its mode instead, and stays open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::warn;

use super::{Orders, nanoseconds};
use crate::clock::Clock;
use crate::session::operator::{Answer, Operator, Order, Progress};

/// How long whoever was wrong waits for the answer.
const PENANCE: Duration = Duration::from_secs(1);

/// Wrong tokens in a minute at one door.
const WRONG_MOST: u32 = 30;

const MINUTE_NS: u64 = 60_000_000_000;

/// Counts wrong tokens.
pub(super) struct Doorkeeper {
    clock: Clock,
    /// The door, for the log.
    name: String,
    minute: Mutex<Minute>,
}

/// The present minute, which began with the first wrong token after the last one.
#[derive(Clone, Copy, Default)]
struct Minute {
    began_ns: u64,
    wrong: u32,
}

impl Doorkeeper {
    pub(super) fn new(clock: Clock, name: String) -> Doorkeeper {
        Doorkeeper { clock, name, minute: Mutex::default() }
    }

    /// Whether somebody is let in; if not, why.
    fn judge(&self, is_right: bool, now_ns: u64) -> Result<(), &'static str> {
        let mut minute = self.minute.lock().expect("no thread panics while it holds this lock");
        if now_ns.saturating_sub(minute.began_ns) >= MINUTE_NS {
            *minute = Minute { began_ns: now_ns, wrong: 0 };
        }
        if minute.wrong == WRONG_MOST {
            return Err("error too many wrong tokens of late; expected patience: a minute");
        }
        if is_right {
            return Ok(());
        }
        minute.wrong += 1;
        match minute.wrong {
            1 => warn!("{}: a wrong token", self.name),
            WRONG_MOST => warn!("{}: {WRONG_MOST} wrong tokens: nobody is let in for a minute", self.name),
            _ => {}
        }
        Err("error that is not the token; expected the line: token TEXT")
    }
}

/// The operator as one session reaches it.
pub(super) struct Visit {
    orders: Orders,
    keeper: Arc<Doorkeeper>,
    /// It has presented the right token.
    is_known: AtomicBool,
    /// What is said to it waits for something, as of its last turn.
    waits: Arc<AtomicBool>,
}

impl Visit {
    pub(super) fn new(orders: Orders, keeper: Arc<Doorkeeper>) -> Visit {
        Visit { orders, keeper, is_known: AtomicBool::new(false), waits: Arc::default() }
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    pub(super) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    fn noted(&self, answer: Box<dyn Answer>) -> Box<dyn Answer> {
        Box::new(Noted { answer, waits: Arc::clone(&self.waits) })
    }
}

impl Operator for Visit {
    fn carry_out(&self, order: Order) -> Box<dyn Answer> {
        self.noted((self.orders)(order))
    }

    fn judge(&self, is_right: bool) -> Option<Box<dyn Answer>> {
        let now_ns = self.keeper.clock.now_ns();
        match self.keeper.judge(is_right, now_ns) {
            Ok(()) => {
                self.is_known.store(true, Ordering::Relaxed);
                None
            }
            Err(line) => {
                let until_ns = now_ns + nanoseconds(PENANCE);
                Some(self.noted(Box::new(Penance { clock: self.keeper.clock, until_ns, line: Some(line) })))
            }
        }
    }
}

/// A line that is said later.
struct Penance {
    clock: Clock,
    until_ns: u64,
    line: Option<&'static str>,
}

impl Answer for Penance {
    fn poll_line(&mut self, line: &mut String) -> Progress {
        if self.clock.now_ns() < self.until_ns {
            return Progress::Waits;
        }
        let Some(last) = self.line.take() else { return Progress::Over };
        line.push_str(last);
        Progress::Line
    }
}

/// An answer that notes whether it waits.
struct Noted {
    answer: Box<dyn Answer>,
    waits: Arc<AtomicBool>,
}

impl Answer for Noted {
    fn poll_line(&mut self, line: &mut String) -> Progress {
        let progress = self.answer.poll_line(line);
        self.waits.store(progress == Progress::Waits, Ordering::Relaxed);
        progress
    }
}

/// Whoever ends in the middle of an answer waits no longer.
impl Drop for Noted {
    fn drop(&mut self) {
        self.waits.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_tokens_are_counted_by_the_minute_and_the_right_one_waits_with_them() {
        let keeper = Doorkeeper::new(Clock::start(), "a door".to_owned());
        let begin_ns = 5 * MINUTE_NS;
        for guess in 0..u64::from(WRONG_MOST) {
            assert_eq!(keeper.judge(true, begin_ns + guess), Ok(()), "the right one costs nobody anything");
            assert!(keeper.judge(false, begin_ns + guess).is_err());
        }
        let last_ns = begin_ns + MINUTE_NS - 1;
        assert!(keeper.judge(true, last_ns).is_err_and(|why| why.contains("too many")));
        assert_eq!(keeper.judge(true, last_ns + 1), Ok(()), "a minute after the first wrong one");
        assert!(keeper.judge(false, last_ns + 1).is_err_and(|why| why.contains("not the token")));
    }
}
