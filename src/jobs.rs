//! [`Jobs`]: a bounded pool for work on the processors that belongs on no worker: the only user of `rayon`.
//!
//! A job touches no client's socket. It is taken or refused at once, and what it has to say it posts, without waiting.
//! Read next: `session/mailbox.rs`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// A pool of threads, and how many jobs wait for one or run.
pub struct Jobs {
    pool: ThreadPool,
    /// Jobs that were taken and have not ended. Raised by whoever submits, lowered by the job.
    taken: Arc<AtomicUsize>,
    most: usize,
}

impl Jobs {
    /// A pool of `threads`, for which at most `backlog` jobs wait.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub fn start(threads: usize, backlog: usize) -> io::Result<Jobs> {
        let name = |number| format!("job-{number}");
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build().map_err(io::Error::other)?;
        Ok(Jobs { pool, taken: Arc::new(AtomicUsize::new(0)), most: threads + backlog })
    }

    /// Takes a job, or gives it back when as many wait as may.
    ///
    /// # Errors
    /// The job.
    pub fn submit<J: FnOnce() + Send + 'static>(&self, job: J) -> Result<(), J> {
        let take = |taken: usize| (taken < self.most).then_some(taken + 1);
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(job);
        }
        let taken = Arc::clone(&self.taken);
        self.pool.spawn_fifo(move || {
            job();
            taken.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(())
    }

    /// Runs `body` in the pool, with all of it at its service, and waits for it.
    pub fn run<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        self.pool.install(body)
    }
}
