//! [`Line`]: threads for jobs that may wait, such as for a disk, and the line of those who wait for a thread.
//!
//! A job is never given back: with as many as there may be, the next one stands in line, and begins as soon as one has ended.
//! Who brings jobs brings one at a time, so that the line is no longer than there are clients. Jobs begin in the order in which
//! they came. One that is long does a piece of its work at a time, and between them goes behind all who have come meanwhile:
//! so a few long jobs keep nobody from a thread.
//!
//! The threads are `rayon`'s, and sleep here and not there. Its own idle threads look for work and give up their processor
//! dozens of times before they sleep, which pays where work comes thick; for jobs that come one by one, each of some ten
//! microseconds, a third of all processor time went into that. And it runs what its own threads bring before what comes from
//! outside. Both are right for its purpose, and wrong for this one.
//!
//! Invariant *nobody-stranded*: a thread sleeps only while there is no job; both are under one lock. Read next:
//! `service/files/list.rs`, which is swept here.

use std::collections::VecDeque;
use std::io;
use std::ptr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread::Builder;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::session::handler::Sweep;

/// Does a piece of the work; true if there is more of it.
type Job = Box<dyn FnMut() -> bool + Send>;

/// The threads, and those who wait for one. Dropped, it ends what it has begun, and the threads.
pub struct Line {
    shared: Arc<Shared>,
    /// What is swept.
    sweeps: Mutex<Vec<Swept>>,
    _pool: ThreadPool,
}

/// Something that is swept, and the thread that keeps the time for it: told to look how often that is to be, and ended when
/// this is dropped.
struct Swept {
    sweep: Weak<dyn Sweep>,
    keeper: Sender<()>,
}

/// What the threads share with whoever brings jobs.
struct Shared {
    /// Jobs that run or wait; one more stands in line.
    most: usize,
    now: Mutex<Now>,
    /// Notified for a thread that sleeps, when there is a job or there will be no more.
    comes: Condvar,
}

#[derive(Default)]
struct Now {
    /// Not begun, oldest first.
    jobs: VecDeque<Job>,
    running: usize,
    sleeping: usize,
    is_over: bool,
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().expect("no thread panics while it holds this lock")
    }

    /// True if it stands in line. When all is over, it is dropped.
    fn put(&self, job: Job) -> bool {
        let mut now = self.now();
        if now.is_over {
            return false;
        }
        now.jobs.push_back(job);
        let stands_in_line = now.jobs.len() + now.running > self.most;
        let is_awaited = now.sleeping > 0;
        drop(now);
        if is_awaited {
            self.comes.notify_one();
        }
        stands_in_line
    }

    /// The next job; None when there is none and will be none.
    fn take(&self) -> Option<Job> {
        let mut now = self.now();
        loop {
            if let Some(job) = now.jobs.pop_front() {
                now.running += 1;
                return Some(job);
            }
            if now.is_over {
                return None;
            }
            now.sleeping += 1;
            now = self.comes.wait(now).expect("no thread panics while it holds this lock");
            now.sleeping -= 1;
        }
    }

    fn run(&self) {
        while let Some(mut job) = self.take() {
            let goes_on = job();
            let mut now = self.now();
            now.running -= 1;
            if goes_on {
                // Nobody need be woken: this thread takes the next one.
                now.jobs.push_back(job);
            }
        }
    }
}

impl Line {
    /// Starts so many threads, each of which calls `begin` first; beyond `backlog` jobs that wait for one, others stand in line.
    ///
    /// # Errors
    /// When the threads cannot be had.
    pub fn start(threads: usize, backlog: usize, begin: fn()) -> io::Result<Line> {
        let shared = Arc::new(Shared { most: threads + backlog, now: Mutex::default(), comes: Condvar::new() });
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|number| format!("file-{number}"));
        let pool = pool.start_handler(move |_| begin()).build().map_err(io::Error::other)?;
        let theirs = Arc::clone(&shared);
        pool.spawn_broadcast(move |_| theirs.run());
        Ok(Line { shared, sweeps: Mutex::default(), _pool: pool })
    }

    /// Takes a job, to be run when all that came before it have begun; and again, behind those that have come by then, as often
    /// as it returns true. True if it stands in line.
    pub fn submit(&self, job: impl FnMut() -> bool + Send + 'static) -> bool {
        self.shared.put(Box::new(job))
    }

    /// Has the sweep done every so often, one slice at a time, as long as there are these threads and whoever is swept. Of one
    /// for which that is so already, how often is asked anew, from now on.
    ///
    /// # Errors
    /// When the thread that keeps the time cannot be had.
    pub fn keep_sweeping(&self, sweep: &Arc<dyn Sweep>) -> io::Result<()> {
        let mut sweeps = self.sweeps.lock().expect("no thread panics while it holds this lock");
        sweeps.retain(|swept| swept.sweep.strong_count() > 0);
        if let Some(swept) = sweeps.iter().find(|swept| ptr::addr_eq(swept.sweep.as_ptr(), Arc::as_ptr(sweep))) {
            swept.keeper.send(()).expect("it keeps the time as long as there is what is swept");
            return Ok(());
        }
        let (keeper, told) = channel();
        let (shared, sweep) = (Arc::clone(&self.shared), Arc::downgrade(sweep));
        let swept = Swept { sweep: Weak::clone(&sweep), keeper };
        Builder::new().name("sweep".to_owned()).spawn(move || keep_time(&shared, &sweep, &told))?;
        sweeps.push(swept);
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.now().is_over = true;
        self.shared.comes.notify_all();
    }
}

/// Sweeps whenever it is time, until what is swept has gone, or the line.
fn keep_time(shared: &Shared, sweep: &Weak<dyn Sweep>, told: &Receiver<()>) {
    while let Some(every) = sweep.upgrade().map(|sweep| sweep.every()) {
        match told.recv_timeout(every) {
            // It is to be another time.
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                let Some(sweep) = sweep.upgrade() else { return };
                while do_slice(shared, &sweep) {}
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Has a slice done in its turn and waits for it. True if there is another one and somebody to do it.
fn do_slice(shared: &Shared, sweep: &Arc<dyn Sweep>) -> bool {
    let (said, says) = channel();
    let sweep = Arc::clone(sweep);
    shared.put(Box::new(move || {
        said.send(sweep.slice()).expect("it is waited for");
        false
    }));
    says.recv() == Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn line(threads: usize, backlog: usize) -> Line {
        Line::start(threads, backlog, || {}).expect("there are threads")
    }

    #[test]
    fn who_stands_in_line_has_its_turn_and_in_order() {
        let line = line(1, 2);
        let (release, wait) = channel::<()>();
        assert!(!line.submit(move || wait.recv().is_err()));
        let (done, dones) = channel();
        let stand: Vec<bool> = (0..50)
            .map(|number| {
                let done = done.clone();
                line.submit(move || done.send(number).is_err())
            })
            .collect();
        assert_eq!(stand.iter().filter(|stands| !**stands).count(), 2, "as many as the backlog");
        release.send(()).expect("it waits");
        assert_eq!([(); 50].map(|()| dones.recv().expect("it runs")), std::array::from_fn(|number| number));
        while line.shared.now().running > 0 {
            std::thread::yield_now();
        }
        assert!(!line.submit(|| false), "there is room again");
    }

    #[test]
    fn a_job_that_goes_on_does_so_behind_those_that_have_come_meanwhile() {
        let line = line(1, 0);
        let (release, wait) = channel::<()>();
        let (done, dones) = channel();
        let said = done.clone();
        let mut pieces = 0..3;
        line.submit(move || {
            let piece = pieces.next().expect("it is over after the last");
            if piece == 0 {
                wait.recv().expect("the test goes on");
            }
            said.send(("long", piece)).expect("the test waits");
            piece < 2
        });
        for number in 0..2 {
            let done = done.clone();
            line.submit(move || done.send(("short", number)).is_err());
        }
        release.send(()).expect("it waits");
        let order = [("long", 0), ("short", 0), ("short", 1), ("long", 1), ("long", 2)];
        assert_eq!([(); 5].map(|()| dones.recv().expect("it runs")), order);
    }

    #[test]
    fn as_many_jobs_run_at_once_as_there_are_threads() {
        let line = line(3, 0);
        let barrier = Arc::new(std::sync::Barrier::new(4));
        for _ in 0..3 {
            let barrier = Arc::clone(&barrier);
            assert!(!line.submit(move || {
                barrier.wait();
                false
            }));
        }
        // The fourth of them.
        barrier.wait();
    }

    #[test]
    fn what_was_taken_is_run_although_the_line_has_gone() {
        let (done, dones) = channel();
        let line = line(2, 1);
        for number in 0..20 {
            let done = done.clone();
            line.submit(move || done.send(number).is_err());
        }
        drop((line, done));
        assert_eq!(dones.iter().sum::<u32>(), 190);
    }

    /// Swept for the first time in a day, until it is told otherwise.
    struct Seldom(Mutex<Sender<()>>, AtomicBool);

    impl Sweep for Seldom {
        fn every(&self) -> Duration {
            if self.1.load(Ordering::Relaxed) { Duration::from_millis(1) } else { Duration::from_hours(24) }
        }

        fn slice(&self) -> bool {
            let _ = self.0.lock().expect("nobody panics").send(());
            false
        }
    }

    #[test]
    fn one_that_is_to_be_swept_more_often_is_so_at_once_and_by_nobody_else() {
        let (said, says) = channel();
        let line = line(1, 0);
        let seldom = Arc::new(Seldom(Mutex::new(said), AtomicBool::new(false)));
        let sweep = Arc::clone(&seldom) as Arc<dyn Sweep>;
        line.keep_sweeping(&sweep).expect("there is a thread");
        seldom.1.store(true, Ordering::Relaxed);
        line.keep_sweeping(&sweep).expect("it has one already");
        assert_eq!([(); 3].map(|()| says.recv()), [Ok(()); 3], "it goes on");
        assert_eq!(line.sweeps.lock().expect("nobody panics").len(), 1);
        drop((seldom, sweep));
        while says.recv().is_ok() {}
        let other: Arc<dyn Sweep> = Arc::new(Thrice(Mutex::new(channel().0), AtomicUsize::new(0)));
        line.keep_sweeping(&other).expect("there is a thread");
        assert_eq!(line.sweeps.lock().expect("nobody panics").len(), 1, "the other has gone");
    }

    struct Thrice(Mutex<Sender<usize>>, AtomicUsize);

    impl Sweep for Thrice {
        fn every(&self) -> Duration {
            Duration::from_millis(1)
        }

        fn slice(&self) -> bool {
            let slices = self.1.fetch_add(1, Ordering::Relaxed);
            let _ = self.0.lock().expect("nobody panics").send(slices);
            slices % 3 != 2
        }
    }

    #[test]
    fn a_sweep_goes_on_until_its_threads_have_gone() {
        let (said, says) = channel();
        let line = line(1, 0);
        let sweep: Arc<dyn Sweep> = Arc::new(Thrice(Mutex::new(said), AtomicUsize::new(0)));
        line.keep_sweeping(&sweep).expect("there is a thread");
        assert_eq!([(); 7].map(|()| says.recv().expect("it goes on")), [0, 1, 2, 3, 4, 5, 6]);
        drop((line, sweep));
        while says.recv().is_ok() {}
    }
}
