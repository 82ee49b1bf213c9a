//! The poller thread: wait for readiness, queue what is ready, wake whom it takes, repeat.
//!
//! It accepts, looks at timeouts and carries out commands between two waits. Each wait's harvest goes to `hand_off.rs`,
//! which decides whom to wake and whether to park before the next one.
//!
//! Read next: `hand_off.rs`.

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::info;

use super::hand_off::HandOff;
use super::service_queue::Request;
use super::{Connection, Shared};
use crate::clock::{Clock, TICK, ticks_since};
use crate::config::{Limits, Rearm};
use crate::engine::accept::{Acceptor, Admission};
use crate::engine::timeouts::Wheel;
use crate::engine::{Command, Served};
use crate::metrics::counters::batch_class;
use crate::net::alarm::Alarm;
use crate::net::listener::BACKLOG;
use crate::net::os::sharpen_timers;
use crate::net::poller::{Batch, Poller, WAKE_KEY};
use crate::net::socket::Socket;
use crate::session::Session;
use crate::session::handler::{Closed, Pace};
use crate::session::state::{Reasons, Scheduled};
use crate::session::table::Key;

/// Connections taken from one listener before sessions have their turn again.
const ACCEPT_BURST: usize = 64;

/// The longest that a session goes unvisited, whatever the timeouts: about an hour.
const LONGEST_VISIT: u32 = 1 << 19;

const ALARM_KEY: u64 = WAKE_KEY - 1;

pub(super) struct PollLoop<'a> {
    shared: &'a Shared,
    hand_off: HandOff<'a>,
    acceptors: Vec<Acceptor>,
    limits: Limits,
    batch: Batch,
    wheel: Wheel,
    alarm: Alarm,
    /// For when the alarm is set; `u64::MAX` for not at all.
    alarm_ns: u64,
    /// When sessions that still live are ended, once draining.
    drain_over_ns: Option<u64>,
    now_ns: u64,
}

/// What the poll loop watches from the start; made before its thread, so that the daemon can say why it cannot start.
pub(super) struct Watched {
    acceptors: Vec<Acceptor>,
    alarm: Alarm,
}

impl Watched {
    pub(super) fn new(served: Vec<Served>, poller: &Poller) -> io::Result<Watched> {
        let watch = |(key, served)| Acceptor::watch(served, key as u64, poller);
        let acceptors = served.into_iter().enumerate().map(watch).collect::<io::Result<_>>()?;
        let alarm = Alarm::new()?;
        poller.watch_level(alarm.as_fd(), ALARM_KEY)?;
        Ok(Watched { acceptors, alarm })
    }
}

impl<'a> PollLoop<'a> {
    pub(super) fn new(shared: &'a Shared, Watched { acceptors, alarm }: Watched) -> PollLoop<'a> {
        let all_brief = acceptors.iter().all(|acceptor| acceptor.served().service.pace() == Pace::Brief);
        let now_ns = shared.clock.now_ns();
        let settings = &shared.settings;
        PollLoop {
            hand_off: HandOff::new(shared, all_brief),
            acceptors,
            limits: settings.limits.clone(),
            batch: Batch::new(settings.batch),
            wheel: Wheel::new(Clock::tick_of(now_ns)),
            alarm,
            alarm_ns: u64::MAX,
            drain_over_ns: None,
            now_ns,
            shared,
        }
    }

    pub(super) fn run(mut self) {
        self.shared.poller_seat.occupy();
        sharpen_timers();
        while !self.is_drained() {
            let timeout = self.hand_off.recheck_in();
            self.shared.poller.wait(&mut self.batch, timeout).expect("waiting on our own poller cannot fail");
            self.now_ns = self.shared.clock.now_ns();
            self.shared.by_poller.tick.store(Clock::tick_of(self.now_ns), Ordering::Release);
            self.handle_batch();
            self.hand_off.hand_on(self.alarm_ns);
        }
        assert_eq!(self.shared.queue.len(), 0, "a session in the queue lives");
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.idle.wake_all();
    }

    fn is_drained(&self) -> bool {
        self.drain_over_ns.is_some() && self.shared.table.live() == 0
    }

    fn handle_batch(&mut self) {
        let shared = self.shared;
        let counters = &shared.poll_counters;
        counters.polls.add(1);
        let batch = std::mem::replace(&mut self.batch, Batch::new(0));
        let tick = Clock::tick_of(self.now_ns);
        let mut events = 0;
        for ready in batch.iter() {
            let Some(key) = Key::from_u64(ready.key) else {
                match ready.key {
                    WAKE_KEY => self.handle_commands(),
                    ALARM_KEY => self.handle_alarm(),
                    listener => self.handle_arrivals(listener as usize),
                }
                continue;
            };
            events += 1;
            let mut reasons = Reasons::NONE;
            if ready.readable {
                reasons |= Reasons::READABLE;
            }
            if ready.writable {
                reasons |= Reasons::WRITABLE;
            }
            if ready.read_on {
                reasons |= Reasons::READ_ON;
            }
            shared.table.slot(key).last_ready_tick.store(tick, Ordering::Release);
            match self.schedule(key, reasons) {
                Scheduled::Enqueue => {}
                Scheduled::Noted => counters.noted.add(1),
                Scheduled::Stale => counters.stale.add(1),
            }
        }
        counters.events.add(events);
        counters.events_max.raise(events);
        counters.batch_sizes[batch_class(events)].add(1);
        self.batch = batch;
    }

    /// Adds reasons for a turn, and notes the session for the queue if that is now this thread's duty.
    fn schedule(&mut self, key: Key, reasons: Reasons) -> Scheduled {
        let scheduled = self.shared.table.schedule(key, reasons);
        if scheduled == Scheduled::Enqueue {
            let ready_ns = if self.shared.settings.stages { self.now_ns } else { 0 };
            self.hand_off.push(Request { key, ready_ns });
        }
        scheduled
    }

    fn handle_arrivals(&mut self, listener: usize) {
        for _ in 0..ACCEPT_BURST {
            if !self.accept_one(listener) {
                break;
            }
        }
    }

    /// True if somebody was there.
    fn accept_one(&mut self, listener: usize) -> bool {
        let shared = self.shared;
        let counters = &shared.poll_counters;
        // A drain that the same batch of events brought has closed the listener.
        let Some(acceptor) = self.acceptors.get_mut(listener) else { return false };
        match acceptor.accept(&shared.poller, self.now_ns) {
            Admission::Connection(socket) => {
                counters.accepted.add(1);
                if let Err((closed, reason)) = self.admit(listener, socket) {
                    match closed {
                        Closed::OverLimit => counters.turned_away.add(1),
                        // The poller has a block of counters for turns; a panic counts there like one in a turn.
                        _ => self.hand_off.turn_counters().closed[closed as usize].add(1),
                    }
                    self.acceptors[listener].warn_turned_away(self.now_ns, &reason);
                }
                true
            }
            Admission::Nobody => false,
            Admission::Paused { turned_away } => {
                counters.accept_pauses.add(1);
                if turned_away {
                    counters.accepted.add(1);
                    counters.turned_away.add(1);
                }
                self.set_alarm();
                false
            }
        }
    }

    /// Makes a session of a connection, or says as what it is to be closed, and why.
    fn admit(&mut self, listener: usize, socket: Socket) -> Result<(), (Closed, String)> {
        let shared = self.shared;
        let most = self.limits.max_connections;
        let vacancy = shared.table.reserve().filter(|_| shared.table.live() < most);
        let over_limit = |reason: String| (Closed::OverLimit, reason);
        let vacancy = vacancy.ok_or_else(|| over_limit(format!("max_connections = {most} are open")))?;
        let key = vacancy.key();
        let watched = match shared.settings.rearm {
            Rearm::Edge => shared.poller.watch_edge(socket.as_fd(), key.to_u64()),
            Rearm::Oneshot => shared.poller.watch_oneshot(socket.as_fd(), key.to_u64()),
        };
        watched.map_err(|reason| over_limit(format!("it cannot be watched: {reason}")))?;
        let served = self.acceptors[listener].served();
        let service = &served.service;
        let handler = catch_unwind(AssertUnwindSafe(|| service.open()));
        let panicked = || (Closed::Panicked, format!("its service {} panicked", service.name()));
        let handler = handler.map_err(|_| panicked())?;
        let (idle_exempt, speaks_first) = (served.idle_exempt, service.speaks_first());
        let tick = Clock::tick_of(self.now_ns);
        // Events of the new key can only be collected by this thread, in a later wait.
        vacancy.fill(Connection { session: Session::new(handler), socket, watches_output: false, idle_exempt }, tick);
        if speaks_first {
            let _ = self.schedule(key, Reasons::RESUME);
        }
        let first_visit_ticks = self.shortest_timeout_ticks();
        self.wheel.insert(key.index(), tick, first_visit_ticks);
        if self.alarm_ns > self.now_ns + u64::from(first_visit_ticks) * TICK.as_nanos() as u64 {
            self.set_alarm();
        }
        Ok(())
    }

    fn shortest_timeout_ticks(&self) -> u32 {
        let shared = &self.shared;
        shared.idle_ticks.load(Ordering::Relaxed).min(shared.write_ticks.load(Ordering::Relaxed)).min(LONGEST_VISIT)
    }

    fn handle_alarm(&mut self) {
        let shared = self.shared;
        let due = |ns: Option<u64>, now_ns: u64| ns.is_some_and(|ns| ns <= now_ns);
        for listener in 0..self.acceptors.len() {
            if due(self.acceptors[listener].resume_ns(), self.now_ns) {
                self.handle_arrivals(listener);
            }
        }
        self.visit_timeouts();
        if due(self.drain_over_ns, self.now_ns) {
            info!("the drain timeout has passed with {} sessions open; they are closed", shared.table.live());
            self.drain_over_ns = Some(u64::MAX);
            self.schedule_all(Reasons::DRAIN_OVER);
        }
        self.alarm_ns = u64::MAX;
        self.set_alarm();
    }

    fn visit_timeouts(&mut self) {
        let shared = self.shared;
        let tick = Clock::tick_of(self.now_ns);
        let idle_ticks = shared.idle_ticks.load(Ordering::Relaxed);
        let write_ticks = shared.write_ticks.load(Ordering::Relaxed);
        let mut overdue = Vec::new();
        self.wheel.advance(tick, |index| {
            shared.poll_counters.timer_visits.add(1);
            let key = shared.table.key_at(index)?;
            let slot = shared.table.slot(key);
            let idle_left = left_ticks(tick, slot.last_ready_tick.load(Ordering::Relaxed), idle_ticks);
            let write_left = match slot.blocked_tick.load(Ordering::Relaxed) {
                0 => write_ticks,
                since => left_ticks(tick, since, write_ticks),
            };
            let left = idle_left.min(write_left);
            if left == 0 {
                overdue.push(key);
            }
            // A session that is spared or not yet done with its turn is looked at again after a while.
            Some(if left == 0 { idle_ticks.min(write_ticks) } else { left }.min(LONGEST_VISIT))
        });
        for &key in &overdue {
            let _ = self.schedule(key, Reasons::TIMER);
        }
        if !overdue.is_empty() {
            self.retry_starving();
        }
    }

    /// Sessions that wait for memory cannot take the turn that would end them; queue them, to take it or starve again.
    fn retry_starving(&mut self) {
        let mut starving = self.shared.starving.lock().expect("no thread panics while it holds this lock");
        starving.drain(..).for_each(|request| self.hand_off.push(request));
        self.shared.budget.awaited.store(false, Ordering::SeqCst);
    }

    fn schedule_all(&mut self, reasons: Reasons) {
        let keys: Vec<Key> = self.shared.table.keys().collect();
        for key in keys {
            let _ = self.schedule(key, reasons);
        }
        self.retry_starving();
    }

    fn set_alarm(&mut self) {
        let tick_ns = TICK.as_nanos() as u64;
        let next_in = self.wheel.next_in(Clock::tick_of(self.now_ns));
        let visit_ns = next_in.map(|ticks| self.now_ns + u64::from(ticks) * tick_ns);
        let resume_ns = self.acceptors.iter().filter_map(Acceptor::resume_ns).min();
        let next_ns = [visit_ns, resume_ns, self.drain_over_ns].into_iter().flatten().min().unwrap_or(u64::MAX);
        if next_ns == u64::MAX {
            self.alarm.clear();
        } else {
            self.alarm.set(Duration::from_nanos(next_ns.saturating_sub(self.now_ns)));
        }
        self.alarm_ns = next_ns;
    }

    fn handle_commands(&mut self) {
        self.shared.has_commands.store(false, Ordering::SeqCst);
        let commands = std::mem::take(&mut *self.shared.commands.lock().expect("no thread panics while it holds it"));
        for command in commands {
            match command {
                Command::Drain => self.drain(),
                Command::Stop => {
                    self.drain();
                    self.schedule_all(Reasons::KILL);
                }
                Command::Limit(limits) => {
                    self.shared.idle_ticks.store(Clock::ticks(limits.idle_timeout), Ordering::Relaxed);
                    self.shared.write_ticks.store(Clock::ticks(limits.write_timeout), Ordering::Relaxed);
                    self.limits = limits;
                    self.visit_soon();
                }
            }
        }
    }

    /// A timeout that became shorter must not wait for visits that were planned for the longer one.
    fn visit_soon(&mut self) {
        let tick = Clock::tick_of(self.now_ns);
        self.wheel = Wheel::new(tick);
        let keys: Vec<Key> = self.shared.table.keys().collect();
        for key in keys {
            self.wheel.insert(key.index(), tick, 1);
        }
        self.set_alarm();
    }

    fn drain(&mut self) {
        if self.drain_over_ns.is_some() {
            return;
        }
        // What the kernel has accepted on our behalf is served like the rest.
        for listener in 0..self.acceptors.len() {
            // As many as a backlog holds: those who come later meet a closed door, or this would never end.
            let _ = (0..=BACKLOG).all(|_| self.accept_one(listener));
        }
        for acceptor in self.acceptors.drain(..) {
            acceptor.close(&self.shared.poller);
        }
        self.shared.draining.store(true, Ordering::SeqCst);
        let drain_ns = u64::try_from(self.limits.drain_timeout.as_nanos()).unwrap_or(u64::MAX);
        self.drain_over_ns = Some(self.now_ns.saturating_add(drain_ns));
        self.set_alarm();
        self.schedule_all(Reasons::DRAIN);
    }
}

/// Ticks until `limit` ticks have passed since `since`.
fn left_ticks(now: u32, since: u32, limit: u32) -> u32 {
    limit.saturating_sub(ticks_since(now, since))
}
