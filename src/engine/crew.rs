//! [`Crew`]: the threads of an engine: named, pinned where that was asked for, joined at the end.
//!
//! A panic in one of them, outside of a service's code, ends the process: half an engine would serve nobody, and the
//! threads that are left would wait for ever.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread::{Builder, JoinHandle};

use crate::error::Error;
use crate::logging;
use crate::net::os;

/// Threads at work.
#[derive(Default)]
pub(super) struct Crew {
    /// The processors that its threads are pinned to in turn; none if they are not pinned.
    processors: Vec<usize>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Crew {
    /// Nobody yet.
    pub(super) fn new(pin: bool) -> Crew {
        Crew { processors: if pin { os::processors() } else { Vec::new() }, threads: Mutex::default() }
    }

    /// Starts a thread; `place` says to which of the processors it is pinned, if threads are.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub(super) fn start(
        &self,
        name: String,
        place: Option<usize>,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let processors = &self.processors;
        let processor = place.filter(|_| !processors.is_empty()).map(|place| processors[place % processors.len()]);
        let body = move || {
            if let Some(processor) = processor
                && let Err(reason) = os::pin_to(processor)
            {
                log::warn!("cannot stay on processor {processor}: {reason}");
            }
            or_abort(run);
        };
        let refused = |reason| Error::resource(format!("start the thread {name}"), reason);
        let thread = Builder::new().name(name.clone()).spawn(body).map_err(refused)?;
        self.threads.lock().expect("no thread panics while it holds this lock").push(thread);
        Ok(())
    }

    /// Waits for all of them.
    pub(super) fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().expect("no thread panics while it holds this lock"));
        for thread in threads {
            thread.join().expect("a thread that panics ends the process");
        }
    }
}

/// Runs code whose panic is a bug of ours.
pub(super) fn or_abort(run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        // The panic's own line is on its way to the log.
        std::thread::sleep(logging::PATIENCE);
        std::process::abort();
    }
}
