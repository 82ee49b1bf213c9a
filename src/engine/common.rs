//! [`Common`]: what all parts of an engine share, whatever the engine: how it was told to work, the clock,
//! the orders in force, how many sessions are open, and a desk for each front.
//!
//! A [`Desk`] is where other threads reach a front: they leave an errand there and ring. [`Orders`] are what every
//! session is to know, however it is served, and what can be tuned: a few words of atomics, so that they can lie in memory
//! that processes share.
//!
//! Invariant *books-balance*: who enters leaves once: [`Common::enter`] counts a connection before anything is made of
//! it, and whoever ends it, or cannot begin it, counts it out. Read next: `front.rs`, which accepts.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::accept::share_ports;
use super::endpoint::Endpoint;
use super::front::Arrival;
use super::growing::Growing;
use super::needs::Needs;
use super::parking::Doze;
use super::pipes::PipeRack;
use super::{Change, Command, Served, Start};
use crate::clock::Clock;
use crate::config::{Limits, LowWater, MAX_WORKERS, Settings, Tuning};
use crate::error::Error;
use crate::jobs::Jobs;
use crate::jobs::line::Line;
use crate::metrics::counters::PollCounters;
use crate::net::os;
use crate::net::poller::Poller;
use crate::net::shared::{Shared, Zeroed};
use crate::session::handler::Service;
use crate::session::state::Reasons;

/// What the parts of an engine share.
pub(super) struct Common {
    pub(super) settings: Settings,
    /// What the services that it carries need of it.
    pub(super) needs: Needs,
    /// Names of services, if somebody may ask who is here; there a service is known by its place in this list.
    pub(super) services: Box<[&'static str]>,
    pub(super) clock: Clock,
    /// Where calls for the pool of the processors go; none if this engine runs them itself.
    pub(super) jobs: Option<Jobs>,
    /// Where calls for files go, begun with the first service that has some; none if this engine runs them itself.
    files: Option<OnceLock<Line>>,
    /// For relays that carry much.
    pub(super) pipes: PipeRack,
    /// In memory that child processes share, for those engines that have some.
    orders: Shared<Orders>,
    /// One for each front. Some engines add fronts while they serve.
    pub(super) desks: Growing<Desk>,
    /// Connections that were let in and have not ended. Written by fronts and by whoever ends sessions.
    live: AtomicUsize,
    /// Endpoints that are open. Written by whoever closes one.
    endpoints: AtomicUsize,
    /// Fronts that let nobody in any more.
    closed: AtomicUsize,
}

impl Common {
    /// With so many desks, each with the endpoints that are its own.
    pub(super) fn new(start: &mut Start, desks: usize) -> Result<Common, Error> {
        let (settings, needs) = (start.settings.clone(), std::mem::take(&mut start.needs));
        let jobs = start.has_jobs.then(|| Jobs::new(settings.jobs, settings.job_backlog));
        let services = start.service_names.clone().into();
        let files = start.has_jobs.then(OnceLock::new);
        let mut endpoints = std::mem::take(&mut start.endpoints).into_iter();
        let made = Growing::new(MAX_WORKERS);
        for _ in 0..desks {
            made.push(Desk::new(endpoints.next().unwrap_or_default()).map_err(no_poller)?);
        }
        let desks = made;
        let orders = Shared::<Orders>::new(1).map_err(|reason| Error::resource("share memory", reason))?;
        orders[0].set_timeouts(&settings.limits);
        orders[0].tune(&settings.tuning());
        let common = Common {
            settings,
            needs,
            services,
            clock: start.clock,
            jobs,
            files,
            pipes: PipeRack::default(),
            orders,
            live: AtomicUsize::new(0),
            endpoints: AtomicUsize::new(desks.iter().map(|desk: &Desk| desk.endpoints.len()).sum()),
            desks,
            closed: AtomicUsize::new(0),
        };
        std::mem::take(&mut start.with_files).iter().try_for_each(|service| common.begin_files(&**service))?;
        Ok(common)
    }

    /// Adds a desk, at which nobody is yet; its number. For one thread at a time.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub(super) fn add_desk(&self) -> Result<usize, Error> {
        let number = self.desks.push(Desk::new(Vec::new()).map_err(no_poller)?);
        self.close_one();
        Ok(number)
    }

    /// What every session is to know.
    pub(super) fn orders(&self) -> &Orders {
        &self.orders[0]
    }

    /// Gives the orders, and tells every front to do its part.
    pub(super) fn tell(&self, command: &Command) {
        match command {
            Command::Drain => self.orders().drain_from(self.clock.now_ns()),
            Command::Stop => {
                self.orders().drain_from(self.clock.now_ns());
                self.orders().go_on_to(Stage::Killed);
            }
            Command::Limit(limits) => self.orders().set_timeouts(limits),
            Command::Tune(tuning) => self.orders().tune(tuning),
        }
        self.desks.iter().for_each(|desk| desk.leave(Errand::Tell(command.clone())));
    }

    /// Leaves these changes of listeners with the fronts: with the first alone, or with each of them, which then has a
    /// listener of its own on the same port.
    ///
    /// # Errors
    /// One of those listeners cannot be had; then nothing has changed.
    pub(super) fn listen(&self, changes: Vec<Change>, are_shared: bool) -> Result<(), Error> {
        let fronts = if are_shared { self.desks.len() } else { 1 };
        let mut errands: Vec<Vec<Change>> = self.desks.iter().map(|_| Vec::new()).collect();
        let mut services = Vec::new();
        for change in changes {
            match change {
                Change::Open(served) => {
                    services.push(Arc::clone(&served.service));
                    for (front, share) in share_ports(vec![served], fronts)?.into_iter().enumerate() {
                        errands[front].extend(share.into_iter().map(Change::Open));
                    }
                }
                Change::Offer { address, service, idle_exempt } => {
                    for errand in &mut errands[..fronts] {
                        errand.push(Change::Offer { address, service: Arc::clone(&service), idle_exempt });
                    }
                    services.push(service);
                }
                Change::Close(address) => {
                    errands[..fronts].iter_mut().for_each(|errand| errand.push(Change::Close(address)));
                }
            }
        }
        services.iter().try_for_each(|service| self.begin_files(&**service))?;
        // Known-before-the-first; and every desk is rung.
        services.iter().for_each(|service| self.needs.add(&**service));
        self.desks.iter().zip(errands).for_each(|(desk, changes)| desk.leave(Errand::Listen(changes)));
        Ok(())
    }

    /// Sees to it that there are threads for the files of this service, and that what it sweeps is swept, before anybody can
    /// connect.
    fn begin_files(&self, service: &dyn Service) -> Result<(), Error> {
        let Some(files) = self.files.as_ref().filter(|_| service.has_file_jobs()) else { return Ok(()) };
        let begin = || -> io::Result<()> {
            if files.get().is_none() {
                let Settings { file_jobs, job_backlog, .. } = self.settings;
                // Whoever was quicker has the same.
                let _ = files.set(Line::start(file_jobs, job_backlog, os::give_way)?);
            }
            let line = files.get().expect("it was begun");
            service.sweep().map_or(Ok(()), |sweep| line.keep_sweeping(&sweep))
        };
        begin().map_err(|reason| Error::resource("start the threads for files", reason))
    }

    /// Where calls for files go, unless whoever has one runs it.
    pub(super) fn files(&self) -> Option<&Line> {
        self.files.as_ref().and_then(OnceLock::get)
    }

    /// Whether the settings are right with so many workers.
    ///
    /// # Errors
    /// The one that does not fit, by its name in the file.
    pub(super) fn check_workers(&self, workers: usize) -> Result<(), Error> {
        Settings { workers, ..self.settings.clone() }.check()
    }

    /// Counts a connection in, unless `most` are open.
    pub(super) fn enter(&self, most: usize) -> bool {
        let enters = |live: usize| (live < most).then_some(live + 1);
        self.live.fetch_update(Ordering::SeqCst, Ordering::Relaxed, enters).is_ok()
    }

    /// Counts a connection out. Fronts that wait for the last one to end are told.
    pub(super) fn leave(&self) {
        let before = self.live.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "books-balance");
        if before == 1 {
            self.tell_if_over();
        }
    }

    /// Counts an endpoint out.
    pub(super) fn leave_endpoint(&self) {
        self.endpoints.fetch_sub(1, Ordering::SeqCst);
        self.tell_if_over();
    }

    /// For a desk at which nobody will ever be.
    pub(super) fn give_up_desk(&self, number: usize) {
        self.endpoints.fetch_sub(self.desks[number].endpoints.len(), Ordering::SeqCst);
        self.close_one();
    }

    /// Says that one more front lets nobody in.
    pub(super) fn close_one(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
        self.tell_if_over();
    }

    /// Takes that back: there is a front again at a desk where there was none.
    pub(super) fn open_one(&self) {
        self.closed.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether nobody is here and nobody can come: a front may still hand to another what it lets in.
    pub(super) fn is_over(&self) -> bool {
        let are_closed = self.closed.load(Ordering::SeqCst) == self.desks.len();
        are_closed && self.live() == 0 && self.endpoints.load(Ordering::SeqCst) == 0
    }

    fn tell_if_over(&self) {
        if self.is_over() {
            self.desks.iter().for_each(|desk| desk.poller.wake());
        }
    }

    /// Whether somebody may ask who is here.
    pub(super) fn is_attended(&self) -> bool {
        !self.services.is_empty()
    }

    /// Connections that are open.
    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Whether turns and calls are told when they were seen and taken.
    pub(super) fn is_timed(&self) -> bool {
        self.settings.stages || self.needs.clock()
    }

    /// The time for stage times, 0 when nobody wants it.
    pub(super) fn stage_ns(&self) -> u64 {
        if self.is_timed() { self.clock.now_ns() } else { 0 }
    }
}

fn no_poller(reason: io::Error) -> Error {
    Error::resource("make a poller", reason)
}

/// How far the engine has come on its way to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Everybody is welcome.
    Open,
    /// Nobody new; those who are here are served what the kernel holds, and end.
    Draining,
    /// The drain timeout has passed: sessions end.
    Over,
    /// Sessions end at once.
    Killed,
}

/// What every session is to know. Written by a front or by whoever commands, read by all who run turns.
#[derive(Debug)]
pub(super) struct Orders {
    idle_ticks: AtomicU32,
    write_ticks: AtomicU32,
    stage: AtomicU32,
    /// How long a drain may take.
    drain_ns: AtomicU64,
    /// When the drain is over, by the engine's clock; 0 before it begins. A session that waits for itself needs nobody to
    /// tell it.
    over_ns: AtomicU64,
    /// What of [`Tuning`] concerns whoever waits and whoever runs turns; each is read where it is needed, by one load.
    batch: AtomicUsize,
    spin_ns: AtomicU64,
    budget_bytes: AtomicUsize,
    /// A depth, or one of the two above all depths.
    low_water: AtomicUsize,
}

/// How often a session whose peer takes nothing is tried in the shorter timeout (*tried-in-eighths*, `turns.rs`). More of them
/// would cost visits of all sessions, fewer let a silent peer stay longer than was said.
const TRIES: u32 = 8;

/// How [`LowWater`] is kept in one word.
const LOW_WATER_AUTO: usize = usize::MAX;
const LOW_WATER_OFF: usize = usize::MAX - 1;

// SAFETY: atomics only, for which all zeroes is a value: nothing ordered yet.
#[allow(unsafe_code, reason = "memory shared with child processes")]
unsafe impl Zeroed for Orders {}

impl Orders {
    pub(super) fn set_timeouts(&self, limits: &Limits) {
        self.idle_ticks.store(Clock::ticks(limits.idle_timeout), Ordering::Relaxed);
        self.write_ticks.store(Clock::ticks(limits.write_timeout), Ordering::Relaxed);
        let drain_ns = u64::try_from(limits.drain_timeout.as_nanos()).unwrap_or(u64::MAX);
        self.drain_ns.store(drain_ns, Ordering::Relaxed);
    }

    pub(super) fn tune(&self, &Tuning { batch, spin, budget_bytes, low_water }: &Tuning) {
        let low_water = match low_water {
            LowWater::Auto => LOW_WATER_AUTO,
            LowWater::Off => LOW_WATER_OFF,
            LowWater::At(depth) => depth,
        };
        self.batch.store(batch, Ordering::Relaxed);
        self.spin_ns.store(u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.budget_bytes.store(budget_bytes, Ordering::Relaxed);
        self.low_water.store(low_water, Ordering::Relaxed);
    }

    /// Ready sessions that a wait takes at the most.
    pub(super) fn batch(&self) -> usize {
        self.batch.load(Ordering::Relaxed)
    }

    /// For how long an idle worker looks for work before it sleeps.
    pub(super) fn spin_ns(&self) -> u64 {
        self.spin_ns.load(Ordering::Relaxed)
    }

    /// Bytes that a turn moves at the most.
    pub(super) fn budget_bytes(&self) -> usize {
        self.budget_bytes.load(Ordering::Relaxed)
    }

    /// When a parked poller polls again.
    pub(super) fn low_water(&self) -> LowWater {
        match self.low_water.load(Ordering::Relaxed) {
            LOW_WATER_AUTO => LowWater::Auto,
            LOW_WATER_OFF => LowWater::Off,
            depth => LowWater::At(depth),
        }
    }

    pub(super) fn idle_ticks(&self) -> u32 {
        self.idle_ticks.load(Ordering::Relaxed)
    }

    pub(super) fn write_ticks(&self) -> u32 {
        self.write_ticks.load(Ordering::Relaxed)
    }

    /// How often a session is tried whose peer takes nothing (*tried-in-eighths*).
    pub(super) fn try_ticks(&self) -> u32 {
        self.idle_ticks().min(self.write_ticks()).div_ceil(TRIES)
    }

    /// Goes on to `stage`, never back.
    pub(super) fn go_on_to(&self, stage: Stage) {
        self.stage.fetch_max(stage as u32, Ordering::SeqCst);
    }

    /// Begins the drain, which is over when its timeout has passed; a second call changes nothing.
    pub(super) fn drain_from(&self, now_ns: u64) {
        let over_ns = now_ns.saturating_add(self.drain_ns.load(Ordering::Relaxed)).max(1);
        let _ = self.over_ns.compare_exchange(0, over_ns, Ordering::SeqCst, Ordering::Relaxed);
        self.go_on_to(Stage::Draining);
    }

    /// When the drain is over, once there is one.
    pub(super) fn over_ns(&self) -> Option<u64> {
        Some(self.over_ns.load(Ordering::SeqCst)).filter(|over_ns| *over_ns > 0)
    }

    /// How far the engine has come by `now_ns`.
    pub(super) fn stage(&self, now_ns: u64) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Open,
            1 if self.over_ns().is_some_and(|over_ns| over_ns <= now_ns) => Stage::Over,
            1 => Stage::Draining,
            2 => Stage::Over,
            _ => Stage::Killed,
        }
    }
}

impl Stage {
    /// What a session is told when the engine has come this far.
    pub(super) fn reasons(self) -> Reasons {
        match self {
            Stage::Open => Reasons::NONE,
            Stage::Draining => Reasons::DRAIN,
            Stage::Over => Reasons::DRAIN_OVER,
            Stage::Killed => Reasons::KILL,
        }
    }
}

/// Where other threads reach a front.
pub(super) struct Desk {
    pub(super) poller: Poller,
    pub(super) counters: PollCounters,
    /// Watched by this desk's poller, or served by threads of their own.
    pub(super) endpoints: Box<[Endpoint]>,
    /// Not yet carried out, oldest first. Written by anybody, taken by the front.
    errands: Mutex<VecDeque<Errand>>,
    /// Whether there are some, for a front that is busy. Set by whoever adds one, cleared by the front.
    has_errands: AtomicBool,
    /// Whether the front waits, or is about to, and would not see what is left with its floor. Set by the front before it
    /// looks for the last time, cleared by whoever ends the wait.
    pub(super) doze: Doze,
}

/// A change of the number of fronts that are given new sessions. It goes to the first, and from there to the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resize {
    pub(super) fronts: usize,
    /// Which change it is, from 1 on.
    pub(super) number: u64,
    /// Fronts below this one leave their listeners with the first, which accepts for all from now on; 0 if it does already.
    pub(super) hand_over: usize,
}

/// Something for a front to do.
pub(super) enum Errand {
    /// What the engine was told.
    Tell(Command),
    /// Its listeners change.
    Listen(Vec<Change>),
    /// The number of fronts that are given new sessions changes.
    Resize(Resize),
    /// Listeners that another front had.
    Take(Vec<Served>),
    /// A connection that another front has accepted and counted in.
    Adopt(Arrival),
}

impl Desk {
    fn new(endpoints: Vec<Endpoint>) -> io::Result<Desk> {
        Ok(Desk {
            poller: Poller::new()?,
            counters: PollCounters::default(),
            endpoints: endpoints.into(),
            errands: Mutex::new(VecDeque::new()),
            has_errands: AtomicBool::new(false),
            doze: Doze::default(),
        })
    }

    /// Ends the front's wait, if it waits: something was left with its floor.
    pub(super) fn rouse(&self) {
        if self.doze.must_wake() {
            self.poller.wake();
        }
    }

    /// Leaves an errand and rings; returns at once.
    pub(super) fn leave(&self, errand: Errand) {
        self.errands.lock().expect("no thread panics while it holds this lock").push_back(errand);
        self.has_errands.store(true, Ordering::SeqCst);
        self.poller.wake();
    }

    pub(super) fn has_errands(&self) -> bool {
        self.has_errands.load(Ordering::Relaxed)
    }

    pub(super) fn take_errands(&self) -> VecDeque<Errand> {
        self.has_errands.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.errands.lock().expect("no thread panics while it holds this lock"))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn orders_tell_what_was_tuned() {
        let orders = Shared::<Orders>::new(1).expect("there is memory");
        for low_water in [LowWater::Auto, LowWater::Off, LowWater::At(0), LowWater::At(1 << 20)] {
            let tuning = Tuning { batch: 3, spin: Duration::from_micros(5), budget_bytes: 7, low_water };
            orders[0].tune(&tuning);
            let told = (orders[0].batch(), orders[0].spin_ns(), orders[0].budget_bytes(), orders[0].low_water());
            assert_eq!(told, (3, 5_000, 7, low_water));
        }
    }
}
