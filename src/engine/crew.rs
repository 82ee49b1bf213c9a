//! [`Crew`]: the threads of an engine: named, pinned where that was asked for, started together, joined at the end.
//!
//! Invariant *all-or-none*: threads that are started together begin their work when the last of them is there, and end
//! without it if that one cannot be had. So an engine that does not start leaves nobody behind.
//!
//! A panic in one of them, outside of a service's code, ends the process: half an engine would serve nobody, and the
//! threads that are left would wait for ever.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::{Builder, JoinHandle};

use crate::error::Error;
use crate::logging;
use crate::net::os;

/// A thread that is to be started.
pub(super) struct Hand {
    name: String,
    thread: Builder,
    place: Option<usize>,
    run: Box<dyn FnOnce() + Send>,
}

impl Hand {
    /// `place` says to which of the processors it is pinned, if threads are.
    pub(super) fn new(name: impl Into<String>, place: Option<usize>, run: impl FnOnce() + Send + 'static) -> Hand {
        let name = name.into();
        Hand { thread: Builder::new().name(name.clone()), name, place, run: Box::new(run) }
    }
}

/// Threads at work.
pub(super) struct Crew {
    /// The processors that its threads are pinned to in turn; none if they are not pinned.
    processors: Vec<usize>,
    /// None once all have been waited for: nobody comes any more.
    threads: Mutex<Option<Vec<JoinHandle<()>>>>,
}

impl Crew {
    /// Nobody yet.
    pub(super) fn new(pin: bool) -> Crew {
        Crew { processors: if pin { os::processors() } else { Vec::new() }, threads: Mutex::new(Some(Vec::new())) }
    }

    /// Starts these threads beside those that are there: *all-or-none*.
    ///
    /// # Errors
    /// When one of them cannot be had, or the crew has been waited for.
    pub(super) fn start(&self, hands: impl IntoIterator<Item = Hand>) -> Result<(), Error> {
        let mut at_work = self.lock();
        let Some(at_work) = &mut *at_work else {
            return Err(Error::resource("start a thread", io::Error::other("the engine has finished")));
        };
        // A thread that has ended keeps its stack until somebody has waited for it.
        at_work.extract_if(.., |thread| thread.is_finished()).for_each(join_one);
        let all_are_here = Arc::new(OnceLock::new());
        let (mut threads, mut started) = (Vec::new(), Ok(()));
        for hand in hands {
            let name = hand.name.clone();
            match self.spawn(hand, Arc::clone(&all_are_here)) {
                Ok(thread) => threads.push(thread),
                Err(reason) => {
                    started = Err(Error::resource(format!("start the thread {name}"), reason));
                    break;
                }
            }
        }
        all_are_here.set(started.is_ok()).expect("it is said once");
        match started {
            Ok(()) => at_work.extend(threads),
            Err(_) => threads.into_iter().for_each(join_one),
        }
        started
    }

    fn spawn(&self, hand: Hand, all_are_here: Arc<OnceLock<bool>>) -> io::Result<JoinHandle<()>> {
        let Hand { thread, place, run, .. } = hand;
        let processors = &self.processors;
        let processor = place.filter(|_| !processors.is_empty()).map(|place| processors[place % processors.len()]);
        thread.spawn(move || {
            if !all_are_here.wait() {
                return;
            }
            if let Some(processor) = processor
                && let Err(reason) = os::pin_to(processor)
            {
                log::warn!("cannot stay on processor {processor}: {reason}");
            }
            or_abort(run);
        })
    }

    /// Waits for all of them, also for those that come meanwhile.
    pub(super) fn join(&self) {
        while let Some(threads) = self.take() {
            threads.into_iter().for_each(join_one);
        }
    }

    /// Those who are there; if nobody is, nobody comes any more.
    fn take(&self) -> Option<Vec<JoinHandle<()>>> {
        let mut at_work = self.lock();
        let threads = at_work.take()?;
        if threads.is_empty() {
            return None;
        }
        *at_work = Some(Vec::new());
        Some(threads)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<JoinHandle<()>>>> {
        self.threads.lock().expect("no thread panics while it holds this lock")
    }
}

fn join_one(thread: JoinHandle<()>) {
    thread.join().expect("a thread that panics ends the process");
}

/// Runs code whose panic is a bug of ours.
pub(super) fn or_abort(run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        // The panic's own line is on its way to the log.
        std::thread::sleep(logging::PATIENCE);
        std::process::abort();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_that_cannot_be_had_keeps_the_others_from_their_work() {
        let (at_work, reports) = channel();
        let hand = |number: usize| {
            let at_work = at_work.clone();
            Hand::new(format!("hand-{number}"), Some(number), move || at_work.send(number).expect("the test waits"))
        };
        let crew = Crew::new(true);
        let giant = Hand { thread: Builder::new().stack_size(1 << 60), ..hand(3) };
        let started = crew.start((0..3).map(hand).chain([giant, hand(4)]));
        let said = started.expect_err("there is no such stack").to_string();
        assert!(said.starts_with("cannot start the thread hand-3: "), "{said}");
        assert!(crew.lock().as_ref().is_some_and(Vec::is_empty));

        crew.start((5..8).map(hand)).expect("there are threads");
        crew.join();
        let mut worked: Vec<usize> = reports.try_iter().collect();
        worked.sort_unstable();
        assert_eq!(worked, [5, 6, 7], "the first three have ended without a word");
    }
}
