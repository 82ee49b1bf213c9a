//! The engine `event-loop`: one thread, one poller, everything inline.
//!
//! ```text
//!   wait ──▶ ready sessions ──▶ turn, turn, turn ──▶ wait
//! ```
//! Who waits: the one thread, for all sessions at once. Who runs: the same thread, one session after the other. Nothing is
//! handed over, so nothing has to be woken. A turn that takes long holds everybody up, and a second processor stays idle.
//!
//! Read next: `event_loops.rs`, N of these; the chapter is `design/engines/event-loop.md`.

use std::sync::Arc;
use std::time::Duration;

use super::front::{Floor, Front};
use super::loops::{Loop, Loops};
use super::reactor::Sessions;
use super::{Entry, Served, Start, anywhere, carries_all};
use crate::config::{AtOnce, EngineInfo};
use crate::error::Error;
use crate::net::poller::Batch;

pub(super) const ENTRY: Entry = Entry {
    info: EngineInfo {
        name: "event-loop",
        about: "one thread that waits for all sessions and serves them inline",
        carries: carries_all,
        options: &["batch", "budget", "ring", "rearm", "stages", "pin"],
        at_once: AtOnce::Many,
        forks: false,
        resizes: Err("it has one thread"),
        relistens: Ok(()),
    },
    start: |mut start| {
        let listeners = vec![std::mem::take(&mut start.listeners)];
        Ok(Box::new(start_loops(ENTRY.info.name, &mut start, listeners, |loops, number| {
            Sessions::new(&loops.all[number].reactor)
        })?))
    },
    available: anywhere,
};

/// The floor of a loop: sessions, and perhaps something before them.
pub(super) trait LoopFloor: Floor + Send + 'static {
    fn sessions(&mut self) -> &mut Sessions;

    /// Whether the loop ends here, while the engine serves on. Asked when it has nothing to do.
    fn leaves(&mut self) -> bool {
        false
    }
}

impl LoopFloor for Sessions {
    fn sessions(&mut self) -> &mut Sessions {
        self
    }
}

/// Starts a loop for each of these lists of listeners; `floor` makes the floor of each.
///
/// # Errors
/// When a descriptor or a thread cannot be had.
pub(super) fn start_loops<F: LoopFloor>(
    engine: &'static str,
    start: &mut Start,
    listeners: Vec<Vec<Served>>,
    floor: impl Fn(&Loops, usize) -> F,
) -> Result<Loops, Error> {
    let loops = Loops::new(engine, start, listeners.len())?;
    let fronts = listeners.into_iter().enumerate();
    let fronts =
        fronts.map(|(number, served)| Front::new(Arc::clone(&loops.common), number, served, floor(&loops, number)));
    // All of them listen before the first one serves.
    let fronts = fronts.collect::<Result<Vec<_>, _>>()?;
    loops.begin("loop", fronts.into_iter().map(|front| move |one: &Loop| run(one, front)))?;
    Ok(loops)
}

/// Runs a loop until the engine has drained, or it [leaves](LoopFloor::leaves).
pub(super) fn run<F: LoopFloor>(one: &Loop, mut front: Front<F>) {
    let reactor = &*one.reactor;
    let mut turns = one.turns();
    let mut batch = Batch::new(reactor.common.settings.batch);
    while !front.is_drained() {
        // Who wants another turn has it after those who have become ready meanwhile.
        let is_busy = !front.floor.sessions().ready.is_empty();
        batch.set_capacity(reactor.common.orders().batch());
        front.wait(&mut batch, is_busy.then_some(Duration::ZERO));
        let ready = &mut front.floor.sessions().ready;
        for _ in 0..ready.len() {
            let request = ready.pop_front().expect("as many as there were");
            reactor.run(&mut turns, request, &mut |next| ready.push_back(next));
        }
        if ready.is_empty() && front.floor.leaves() {
            return;
        }
    }
}
