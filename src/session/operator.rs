//! What a console's protocol and whoever carries out its orders agree on: [`Order`], [`Operator`], [`Answer`].
//!
//! The protocol reads lines and knows what they ask for; it knows no daemon. The operator has the daemon, and no bytes.
//! An answer is said line by line, as room comes, so that a list of many thousand sessions takes up the memory of one
//! line, and so that a session can wait for something that others bring about, while nobody else waits.
//!
//! Read next: `service/console.rs`, the protocol; `daemon/operator.rs`, who carries the orders out.

use std::sync::Arc;

use super::handler::Handler;

/// What an operator can ask of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// The counters, on a screen.
    Stats,
    /// Who is here.
    Sessions,
    /// End this session, by the number that `Sessions` tells.
    Kill(u64),
    /// How many workers there are; with a number: make it so many.
    Workers(Option<usize>),
    /// What can be set while the daemon runs, and to what it is.
    Settings,
    /// Set one of those.
    Set {
        /// The setting, by its name in the file.
        key: String,
        /// Its value, as the flag takes it.
        value: String,
    },
    /// Drain, and end.
    Drain,
}

/// Whoever carries orders out. Asked by the thread that serves the console, which must not be kept waiting.
pub trait Operator: Send + Sync {
    /// Carries the order out, or begins to; what is to be answered.
    fn carry_out(&self, order: Order) -> Box<dyn Answer>;

    /// Somebody presents a token. None for the right one; otherwise what is answered, after a while.
    fn judge(&self, is_right: bool) -> Option<Box<dyn Answer>>;
}

/// What is said to an order.
pub trait Answer: Send {
    /// Appends the next line to `line`, which is empty, if there is one.
    fn poll_line(&mut self, line: &mut String) -> Progress;
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Here is a line; there may be more.
    Line,
    /// There is none yet: ask again in a later turn.
    Waits,
    /// All has been said.
    Over,
}

/// An answer that is known at once: these lines.
pub struct Lines(std::vec::IntoIter<String>);

impl Lines {
    /// The lines of this text.
    pub fn of(text: impl AsRef<str>) -> Box<dyn Answer> {
        let lines: Vec<String> = text.as_ref().lines().map(str::to_owned).collect();
        Box::new(Lines(lines.into_iter()))
    }
}

impl Answer for Lines {
    fn poll_line(&mut self, line: &mut String) -> Progress {
        match self.0.next() {
            Some(next) => {
                line.push_str(&next);
                Progress::Line
            }
            None => Progress::Over,
        }
    }
}

/// A service whose sessions give orders to the daemon itself. No engine serves them: they are answered while every worker
/// is busy, by the thread that hears signals.
pub trait Console: Send + Sync {
    /// What whoever connects must say first, if anything.
    fn has_token(&self) -> bool;

    /// Which users may connect to its socket in the file system, if somebody has said so.
    fn mode(&self) -> Option<u32>;

    /// Starts the protocol for a session whose orders `operator` carries out.
    fn open(&self, operator: Arc<dyn Operator>) -> Box<dyn Handler>;
}
