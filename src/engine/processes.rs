//! What the engines have in common that serve in child processes: making them, telling them, noticing that one has ended
//! or hangs, and the loop of the parent.
//!
//! The parent has one thread and is in nobody's way: it never runs a session. Its children are its direct children, serve
//! one session at a time (`blocking.rs`), write what they do into the scoreboard, and die with it.
//!
//! Orders lie in shared memory (`common.rs`); a nudge makes a child look at them. A child that is killed takes its session
//! with it and nothing else: the scoreboard tells what was lost, and the books count it as *killed*.
//!
//! A child hangs when a nudge makes it do nothing: stopped by a signal, or in a service that does not come back. The parent
//! says so. One with a session it leaves alone, since an operator may have stopped it to look; the end of the drain kills
//! it. One without is killed, so that another takes its place.
//!
//! Read next: `process_per_connection.rs`, then `prefork/mod.rs`.

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::{info, warn};

use super::attendance::{Listed, Who, list};
use super::blocking::{Bed, serve};
use super::books::Books;
use super::common::{Common, Stage};
use super::connection::Connection;
use super::front::{Arrival, FIRST_FLOOR_KEY, Floor, Front};
use super::scoreboard::{Left, Own, Scoreboard, State};
use super::turns::Turns;
use super::{Change, Command, Hearing, Running, Seen};
use crate::error::Error;
use crate::logging;
use crate::metrics::counters::TurnCounters;
use crate::metrics::summary::{ProcessSummary, Summary};
use crate::net::children::{Child, Ended, Fork, Signal, exit_child, fork};
use crate::net::nudge::listen_for_nudges;
use crate::net::poller::Batch;
use crate::net::shared::Shared;
use crate::session::mailbox::Rouse;

/// How often children that have done nothing are nudged; one that has done nothing by the next time hangs.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long children may take to end when they have been told to end at once.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The key of what the caller of `join` is to hear; children have those from [`FIRST_FLOOR_KEY`] on.
const HEARING_KEY: u64 = FIRST_FLOOR_KEY + (1 << 31);

/// What a child that panicked outside of a service exits with, as `std` has it.
const PANICKED: i32 = 101;

/// The children of one parent.
pub(super) struct Processes {
    pub(super) common: Arc<Common>,
    pub(super) board: Scoreboard,
    /// The sessions of the children, by slot of the scoreboard. Written by the child; by the parent once it is gone.
    listed: Shared<Listed>,
    /// By slot of the scoreboard.
    children: Vec<Option<Kept>>,
    /// When those that hang are looked for.
    look_ns: u64,
    /// When those that are left are killed.
    kill_ns: Option<u64>,
    has_heard: bool,
}

/// A child that has not been reaped.
struct Kept {
    child: Child,
    born_ns: u64,
    /// It was told to end.
    is_told: bool,
    /// Turns, and waits for a client, that it had taken when it was last looked at.
    seen: u64,
    /// It was nudged then.
    is_nudged: bool,
    hangs: bool,
}

/// A child that has ended.
pub(super) struct Gone {
    pub(super) lived_ns: u64,
    pub(super) left: Left,
    /// Nobody had told it to.
    pub(super) unasked: bool,
}

impl Processes {
    /// Nobody yet, and room for so many.
    pub(super) fn new(common: &Arc<Common>, most: usize) -> io::Result<Processes> {
        Ok(Processes {
            common: Arc::clone(common),
            board: Scoreboard::new(most)?,
            listed: Shared::new(most)?,
            children: (0..most).map(|_| None).collect(),
            look_ns: common.clock.now_ns() + nanoseconds(LOOK_EVERY),
            kill_ns: None,
            has_heard: false,
        })
    }

    /// Makes a child, which runs `run` and ends; `run` first closes what it does not need. `index` was taken from the
    /// scoreboard and is the caller's again when there is an error.
    pub(super) fn start(&mut self, index: usize, now_ns: u64, run: impl FnOnce(&Common, Post<'_>)) -> io::Result<()> {
        match fork()? {
            Fork::Child => {
                let body = || {
                    logging::forget();
                    listen_for_nudges().expect("a signal that exists can be handled");
                    run(&self.common, Post { own: self.board.own(index), listed: &self.listed[index], index });
                };
                let code = if catch_unwind(AssertUnwindSafe(body)).is_ok() { 0 } else { PANICKED };
                logging::drain();
                exit_child(code)
            }
            Fork::Parent(child) => {
                let key = FIRST_FLOOR_KEY + index as u64;
                let watched = self.common.desks[0].poller.watch_level(child.as_fd(), key);
                // Dropped, it would be killed and waited for.
                watched?;
                let kept = Kept { child, born_ns: now_ns, is_told: false, seen: 0, is_nudged: false, hangs: false };
                self.children[index] = Some(kept);
                Ok(())
            }
        }
    }

    /// Something that is watched for [`Processes`] is ready. The child that has ended, if that is it.
    pub(super) fn handle_event(&mut self, key: u64, now_ns: u64) -> Option<Gone> {
        if key == HEARING_KEY {
            self.has_heard = true;
            return None;
        }
        let index = (key - FIRST_FLOOR_KEY) as usize;
        let kept = self.children.get_mut(index)?.as_mut()?;
        let ended = match kept.child.reap() {
            Ok(ended) => ended?,
            Err(reason) => {
                warn!("process {} cannot be waited for: {reason}", kept.child.pid());
                return None;
            }
        };
        let kept = self.children[index].take().expect("it was there above");
        self.common.desks[0].poller.forget(kept.child.as_fd()).expect("a child is watched until it is reaped");
        let left = self.board.reap(index, now_ns);
        self.listed[index].end();
        if ended != Ended::Code(0) {
            warn!("process {} {ended}; sessions lost with it: {}", kept.child.pid(), left.lost);
        }
        let unasked = !kept.is_told && self.common.orders().stage(now_ns) == Stage::Open;
        Some(Gone { lived_ns: now_ns.saturating_sub(kept.born_ns), left, unasked })
    }

    /// Tells an idle child to end.
    pub(super) fn tell_to_leave(&mut self, index: usize) {
        let Some(kept) = &mut self.children[index] else { return };
        kept.is_told = true;
        self.board.tell_to_leave(index);
        nudge(&kept.child);
    }

    /// Has every child look at the orders.
    pub(super) fn nudge_all(&self) {
        self.children.iter().flatten().for_each(|kept| nudge(&kept.child));
    }

    /// The engine has come to this stage.
    pub(super) fn handle_stage(&mut self, stage: Stage, now_ns: u64) {
        self.nudge_all();
        if stage >= Stage::Over {
            self.kill_ns = Some(now_ns + nanoseconds(LAST_PATIENCE));
        }
    }

    pub(super) fn next_due_ns(&self) -> u64 {
        self.kill_ns.unwrap_or(u64::MAX).min(self.look_ns)
    }

    pub(super) fn handle_due(&mut self, now_ns: u64) {
        if self.kill_ns.is_some_and(|kill_ns| kill_ns <= now_ns) {
            self.kill_ns = None;
            for kept in self.children.iter().flatten() {
                info!("process {} is killed: it has not ended in time", kept.child.pid());
                // It is there until it is reaped.
                let _ = kept.child.kill(Signal::KILL);
            }
        }
        if self.look_ns <= now_ns {
            self.look_ns = now_ns + nanoseconds(LOOK_EVERY);
            self.look_for_hanging(now_ns);
        }
    }

    /// A child answers a nudge with a turn, or, without a session, with another wait for one.
    fn look_for_hanging(&mut self, now_ns: u64) {
        for (index, kept) in self.children.iter_mut().enumerate() {
            let Some(kept) = kept else { continue };
            let counters = self.board.turns_of(index);
            let seen = counters.turns.read() + counters.parks.read();
            let is_still = seen == kept.seen;
            let hangs = is_still && kept.is_nudged;
            let pid = kept.child.pid();
            if hangs != kept.hangs {
                match hangs {
                    true => warn!("process {pid} hangs: it has answered nobody for {LOOK_EVERY:?}"),
                    false => info!("process {pid} goes on"),
                }
                kept.hangs = hangs;
            }
            if hangs && self.board.read(index, now_ns).open() == 0 {
                // It counts as free, or takes a place, and would serve nobody: another one does.
                warn!("process {pid} is killed: it hangs and has no session");
                let _ = kept.child.kill(Signal::KILL);
            }
            (kept.seen, kept.is_nudged) = (seen, is_still);
            if is_still {
                nudge(&kept.child);
            }
        }
    }

    /// Children by slot that are idle now.
    pub(super) fn idle(&self, now_ns: u64) -> impl Iterator<Item = usize> + '_ {
        let is_idle = move |index: &usize| self.board.read(*index, now_ns).state == State::Idle;
        (0..self.children.len()).filter(|index| self.children[*index].is_some()).filter(is_idle)
    }

    fn list(&self, from: u64, most: usize, seen: &mut Vec<Seen>) -> Option<u64> {
        let now_ns = self.common.clock.now_ns();
        list(&self.listed[..self.children.len()], from, most, seen, |listed| listed.read(&self.common.services, now_ns))
    }

    fn kill(&self, id: u64) -> bool {
        let index = Listed::place_of(id);
        let Some(kept) = self.children.get(index).and_then(Option::as_ref) else { return false };
        let is_here = self.listed[index].kill(id);
        if is_here {
            nudge(&kept.child);
        }
        is_here
    }

    fn summary(&self, now_ns: u64) -> ProcessSummary {
        let tally = self.board.tally(now_ns);
        ProcessSummary {
            starting: tally.starting,
            idle: tally.idle,
            busy: tally.busy,
            leaving: tally.leaving,
            hanging: self.children.iter().flatten().filter(|kept| kept.hangs).count(),
            ended: self.board.retired().children.read(),
        }
    }
}

/// A child's places in the memory that it shares with its parent.
#[derive(Clone, Copy)]
pub(super) struct Post<'a> {
    /// On the scoreboard.
    pub(super) own: Own<'a>,
    /// Among the sessions.
    listed: &'a Listed,
    /// Their number.
    index: usize,
}

/// Serves one session in a child whose slot counts it already, to its end.
pub(super) fn serve_one(common: &Common, post: Post<'_>, turns: &mut Turns<'_>, arrival: Arrival) {
    let Post { own, listed, index } = post;
    let bed = Arc::new(Bed::default());
    if common.is_attended() {
        listed.begin(index, Who::of(&arrival, &common.services), common.clock.now_ns());
    }
    match Connection::begin(arrival, 0, Arc::clone(&bed) as Arc<dyn Rouse>) {
        Ok(mut connection) => {
            bed.enter();
            let closed = serve(common, turns, &mut connection, listed);
            bed.leave();
            listed.end();
            let (closed, socket) = turns.finish(connection, closed);
            own.end(closed, common.clock.now_ns());
            // Who sees the end of the connection finds it counted.
            drop(socket);
        }
        Err((closed, reason)) => {
            listed.end();
            own.end(closed, common.clock.now_ns());
            warn!("a connection was closed at once: {reason}");
        }
    }
}

fn nudge(child: &Child) {
    // It is there until it is reaped.
    let _ = child.kill(Signal::URG);
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// A floor with children on it.
pub(super) trait ProcessFloor: Floor + Send {
    fn processes(&self) -> &Processes;
    fn processes_mut(&mut self) -> &mut Processes;
    /// Connections that the children have accepted, and not the front.
    fn accepted(&self) -> u64;
}

/// The engine in the parent: its loop is [`Running::join`], on the thread of the caller.
pub(super) struct Parent<F> {
    engine: &'static str,
    common: Arc<Common>,
    front: Mutex<Front<F>>,
}

impl<F: ProcessFloor> Parent<F> {
    pub(super) fn new(engine: &'static str, common: &Arc<Common>, front: Front<F>) -> Parent<F> {
        Parent { engine, common: Arc::clone(common), front: Mutex::new(front) }
    }

    fn with_books<T>(&self, tell: impl FnOnce(&Books<'_>, &Processes) -> T) -> T {
        let front = self.front.lock().expect("no panic while held");
        let processes = front.floor.processes();
        let turns: Vec<&TurnCounters> = processes.board.turns().chain([&processes.board.retired().turns]).collect();
        let books = Books {
            engine: self.engine,
            common: &self.common,
            turns,
            stages: Vec::new(),
            polls_sessions: false,
            // Each process has its own rings, at most two at a time.
            buffer_bytes: None,
            accepted_elsewhere: front.floor.accepted(),
            open: processes.board.tally(self.common.clock.now_ns()).open,
        };
        tell(&books, processes)
    }
}

impl<F: ProcessFloor> Running for Parent<F> {
    fn command(&self, command: Command) {
        self.common.tell(&command);
    }

    fn listen(&self, changes: Vec<Change>) -> Result<(), Error> {
        self.common.listen(changes, false)
    }

    fn summary(&self) -> Summary {
        self.with_books(|books, processes| {
            let mut summary = books.summary_of_many();
            summary.processes = Some(processes.summary(self.common.clock.now_ns()));
            summary
        })
    }

    fn sessions(&self, from: u64, most: usize, seen: &mut Vec<Seen>) -> Option<u64> {
        self.front.lock().expect("no panic while held").floor.processes().list(from, most, seen)
    }

    fn kill(&self, id: u64) -> bool {
        self.front.lock().expect("no panic while held").floor.processes().kill(id)
    }

    fn join(&self, mut hearing: Option<Hearing<'_>>) {
        if let Some(hearing) = &hearing {
            let watched = self.common.desks[0].poller.watch_level(hearing.source, HEARING_KEY);
            watched.expect("one descriptor more can be watched");
        }
        let mut batch = Batch::new(self.common.settings.batch);
        loop {
            let has_heard = {
                let mut front = self.front.lock().expect("no panic while held");
                if front.is_drained() {
                    break;
                }
                front.wait(&mut batch, None);
                std::mem::take(&mut front.floor.processes_mut().has_heard)
            };
            if let Some(hearing) = hearing.as_mut().filter(|_| has_heard) {
                (hearing.hear)();
            }
            logging::drain();
        }
        self.with_books(|books, _| books.check());
    }
}
