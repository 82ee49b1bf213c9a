//! The wake rule: whom to wake for a backlog, and whether the poller goes on polling. Pure arithmetic over a [`Scene`].
//!
//! Waking a worker that then finds the work done is a loss for everybody. So the rule compares two times: how long the
//! backlog takes the workers that are awake (*drain time*: backlog × mean turn ÷ awake), and how long a woken worker
//! takes to arrive (*wake cost*), as the last wakes measured it. On a machine with an idle processor that is some tens
//! of microseconds; on one whose processors are all busy it is a time slice, and waking would only take turns from
//! somebody else.
//!
//! - nobody is awake: wake one;
//! - the drain time exceeds the wake cost: wake another, and so on;
//! - a worker that has been in one turn for longer than [`RECHECK`] does not count as awake: the mean says nothing of it;
//! - the drain time exceeds [`PARK_ABOVE`]: the poller need not look for more work now; it parks until the queue is low;
//! - every worker sleeps and the poller would be done before one arrived: it may run the turns itself (`--assist`).
//!
//! A process confined to one processor gains nothing by a wake: there the poller parks for any backlog and runs every
//! brief turn itself.
//!
//! Invariant *work-conserving*: while a worker is idle, no request waits longer than [`RECHECK`] and a wake beyond the
//! drain time that the rule allows, because the poller looks again that often while requests and idle workers exist, and
//! the wake cost is bounded and relaxes while it keeps workers asleep. `tests` below run the rule against seeded
//! service times and hold it to that bound. Why these numbers: `design/polling-on-demand.md`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Wake;

/// Backlog above which the poller parks rather than polls: half of what an undisturbed wake costs, so that it is back
/// before the backlog is gone.
const PARK_ABOVE: Duration = Duration::from_micros(50);

/// How long a queue with a request in it may go unlooked-at while a worker is idle, and how long a turn may last until
/// its worker no longer counts as awake.
pub(super) const RECHECK: Duration = Duration::from_micros(100);

/// What a wake costs until some have been measured, and what the estimate returns to: an idle virtual processor takes
/// 30 to 100 µs to come back.
const WAKE_COST_AT_REST: Duration = Duration::from_micros(100);

/// The most that a measured wake counts for: a few scheduler slices would be true at times, but a request must not wait
/// for an estimate.
const WAKE_COST_MOST: Duration = Duration::from_millis(1);

/// How long wakes have taken of late. Written by woken workers, and by the poller while it refrains from waking.
pub(super) struct WakeCost(AtomicU64);

impl WakeCost {
    pub(super) fn new() -> WakeCost {
        WakeCost(AtomicU64::new(WAKE_COST_AT_REST.as_nanos() as u64))
    }

    pub(super) fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Folds in a wake that took `ns` from the waker's call to the woken worker's first look. A lost update does no harm.
    pub(super) fn note(&self, ns: u64) {
        let ns = ns.clamp(WAKE_COST_AT_REST.as_nanos() as u64, WAKE_COST_MOST.as_nanos() as u64);
        self.0.store((self.ns() * 3 + ns) / 4, Ordering::Relaxed);
    }

    /// Moves the estimate towards rest, because it has just kept a worker asleep: the machine may be idle by now, and
    /// only a wake would tell.
    pub(super) fn relax(&self) {
        let above = self.ns().saturating_sub(WAKE_COST_AT_REST.as_nanos() as u64);
        self.0.fetch_sub(above / 32, Ordering::Relaxed);
    }
}

/// What the poller sees when it decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    /// Requests in the queue.
    pub(super) backlog: usize,
    /// Workers asleep.
    pub(super) idle: usize,
    /// Workers awake, without those in a long turn.
    pub(super) awake: usize,
    /// Moving average of the length of a turn.
    pub(super) mean_turn_ns: u64,
    /// See [`WakeCost`].
    pub(super) wake_cost_ns: u64,
}

impl Scene {
    /// Time that `awake` workers take to empty the queue.
    fn drain_ns(&self, awake: usize) -> u64 {
        (self.backlog as u64).saturating_mul(self.mean_turn_ns) / awake.max(1) as u64
    }
}

/// When to wake, as configured.
#[derive(Clone, Copy, Debug)]
pub(super) struct WakeRule {
    each: bool,
    /// What a wake is taken to cost, if the user said so.
    fixed_cost_ns: Option<u64>,
    /// Whether the process may use one processor only.
    alone: bool,
}

impl WakeRule {
    /// The rule for a process that may use so many processors.
    pub(super) fn new(wake: Wake, processors: usize) -> WakeRule {
        WakeRule {
            each: wake == Wake::Each,
            fixed_cost_ns: match wake {
                Wake::Above(cost) => Some(cost.as_nanos() as u64),
                Wake::Auto | Wake::Each => None,
            },
            alone: processors == 1,
        }
    }

    fn wake_cost_ns(&self, scene: Scene) -> u64 {
        self.fixed_cost_ns.unwrap_or(scene.wake_cost_ns)
    }

    /// How many of the idle workers to wake, when `queued` requests were added to make this backlog: never more than
    /// there are idle, nor than there are requests.
    pub(super) fn wakes(&self, scene: Scene, queued: usize) -> usize {
        let most = scene.idle.min(scene.backlog);
        if self.each {
            return if scene.awake == 0 { most } else { most.min(queued) };
        }
        let enough = |&wakes: &usize| {
            let awake = scene.awake + wakes;
            awake > 0 && scene.drain_ns(awake) <= self.wake_cost_ns(scene)
        };
        (0..most).find(enough).unwrap_or(most)
    }

    /// Whether the backlog is long enough for the poller to stop looking for more.
    pub(super) fn can_park(&self, scene: Scene) -> bool {
        let park_above_ns = if self.alone { 0 } else { PARK_ABOVE.as_nanos() as u64 };
        scene.backlog > 0 && scene.drain_ns(scene.awake) > park_above_ns.min(self.wake_cost_ns(scene))
    }

    /// Whether the poller itself would finish this backlog before a woken worker arrived.
    pub(super) fn can_assist(&self, scene: Scene) -> bool {
        scene.awake == 0 && (self.alone || scene.drain_ns(1) <= self.wake_cost_ns(scene))
    }
}
