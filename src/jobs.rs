//! [`Jobs`]: a bounded pool for work on the processors that belongs on no worker; and, in `jobs/line.rs`, threads for work that
//! waits for files. The only users of `rayon`.
//!
//! A job touches no client's socket. It is taken or refused at once, and what it has to say it posts, without waiting. The
//! threads are started when the first job comes: a daemon whose clients ask for none has none.
//!
//! Read next: `jobs/line.rs`, then `session/mailbox.rs`.

pub mod line;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use log::warn;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::session::handler::Parallel;

/// A pool of threads, and how many jobs wait for one or run.
pub struct Jobs {
    /// None inside if its threads could not be had.
    pool: OnceLock<Option<ThreadPool>>,
    threads: usize,
    /// Jobs that were taken and have not ended. Raised by whoever submits, lowered by the job.
    taken: Arc<AtomicUsize>,
    most: usize,
}

impl Jobs {
    /// A pool of `threads`, for which at most `backlog` jobs wait.
    pub fn new(threads: usize, backlog: usize) -> Jobs {
        Jobs { pool: OnceLock::new(), threads, taken: Arc::new(AtomicUsize::new(0)), most: threads + backlog }
    }

    /// Takes a job, or gives it back when as many wait as may, or there are no threads.
    ///
    /// # Errors
    /// The job.
    pub fn submit<J: FnOnce() + Send + 'static>(&self, job: J) -> Result<(), J> {
        let Some(pool) = self.pool() else { return Err(job) };
        let take = |taken: usize| (taken < self.most).then_some(taken + 1);
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(job);
        }
        let taken = Arc::clone(&self.taken);
        pool.spawn_fifo(move || {
            job();
            taken.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(())
    }

    fn pool(&self) -> Option<&ThreadPool> {
        let start = || {
            let name = |number| format!("job-{number}");
            let pool = ThreadPoolBuilder::new().num_threads(self.threads).thread_name(name).build();
            pool.inspect_err(|reason| warn!("jobs are run by whoever brings them: {reason}")).ok()
        };
        self.pool.get_or_init(start).as_ref()
    }
}

impl Parallel for Jobs {
    fn width(&self) -> usize {
        self.threads
    }

    fn for_each_part(&self, parts: usize, body: &(dyn Fn(usize) + Sync)) {
        match self.pool() {
            Some(pool) => pool.install(|| (0..parts).into_par_iter().for_each(body)),
            None => (0..parts).for_each(body),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn more_jobs_than_may_wait_are_given_back() {
        let jobs = Jobs::new(1, 2);
        let (release, wait) = channel::<()>();
        let (done, dones) = channel();
        let mut wait = Some(wait);
        for number in 0..3 {
            let (wait, done) = (wait.take(), done.clone());
            let job = move || {
                if let Some(wait) = wait {
                    wait.recv().expect("the test goes on");
                }
                done.send(number).expect("the test waits");
            };
            assert!(jobs.submit(job).is_ok(), "one runs and two wait");
        }
        let refused = jobs.submit(|| {});
        assert!(refused.is_err());
        release.send(()).expect("it waits");
        assert_eq!([(); 3].map(|()| dones.recv().expect("it runs")), [0, 1, 2]);
    }

    #[test]
    fn all_parts_are_done_when_the_call_returns() {
        let jobs = Jobs::new(3, 0);
        let sum = AtomicUsize::new(0);
        jobs.for_each_part(100, &|part| {
            sum.fetch_add(part, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4_950);
    }
}
