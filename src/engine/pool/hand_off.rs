//! The poller's half of the hand-off: put requests into the queue, wake whom the rule says, park, assist.
//!
//! **Polling on demand.** After queueing, while the queue holds a backlog worth parking for, the poller does not go back
//! to wait for readiness: it parks until a worker has taken the queue down to the low-water mark, and only then collects
//! all that became ready meanwhile. Without this, every arrival wakes the poller while the workers are busy, and a batch
//! never grows (`design/polling-on-demand.md`).
//!
//! The poller is the only thread that may wait for room in the queue. It runs a turn itself only with `--assist on`, only
//! if every service's turns are brief, and only when handing on would gain nothing: every worker sleeps and would arrive
//! after the work is done, or the workers have lately been no quicker than the poller alone. Such turns are counted.
//!
//! Read next: `wake_rule.rs` for the decisions, `parking.rs` for the sleeping, `worker.rs` for the other half.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::wake_rule::{RECHECK, Scene, TIMED_TURNS, TurnWatch, WakeRule};
use super::{NONE_LEFT, Shared};
use crate::engine::reactor::Request;
use crate::engine::turns::Turns;
use crate::metrics::counters::size_class;

/// How long the poller may be parked: it also accepts and looks at commands.
const LONGEST_PARK: Duration = Duration::from_millis(1);

/// What the poller needs to hand requests on. Owned by the poll loop.
pub(super) struct HandOff<'a> {
    shared: &'a Shared,
    /// Workers in force, as they were at the last look.
    workers: usize,
    /// For so many.
    rule: WakeRule,
    turns: Turns<'a>,
    watch: TurnWatch,
    /// Own turns, and the time they took, since they were last noted.
    paced_turns: u64,
    paced_ns: u64,
}

impl<'a> HandOff<'a> {
    pub(super) fn new(shared: &'a Shared) -> HandOff<'a> {
        let settings = shared.settings();
        let workers = shared.roster.staying();
        HandOff {
            shared,
            workers,
            rule: WakeRule::new(settings.wake, workers, shared.processors),
            turns: shared.turns(&shared.poller),
            watch: TurnWatch::default(),
            paced_turns: 0,
            paced_ns: 0,
        }
    }

    /// How long the next wait may be: none while there is something in `ready`, which found no room in the queue; and
    /// requests that wait beside an idle worker must be looked at again soon, even if nothing becomes ready.
    pub(super) fn recheck_in(&self, ready: &VecDeque<Request>) -> Option<Duration> {
        if !ready.is_empty() {
            return Some(Duration::ZERO);
        }
        (self.shared.queue.len() > 0 && self.shared.idle.len() > 0).then_some(RECHECK)
    }

    /// Puts what is ready into the queue, wakes whom the rule says, and parks while that makes sense.
    ///
    /// Returns early when there are commands, or when the clock reaches `alarm_ns`; what then found no room in the queue
    /// is put there at the next call.
    pub(super) fn hand_on(&mut self, ready: &mut VecDeque<Request>, alarm_ns: u64) {
        self.count_workers();
        self.assist(ready);
        let queued = ready.len();
        let mut is_new = self.put_ready(ready, alarm_ns) > 0;
        let mut parked_ns = 0;
        loop {
            let backlog = self.shared.queue.len();
            self.note_depth(backlog as u64, mem::take(&mut is_new));
            if backlog == 0 {
                return;
            }
            let scene = self.wake_workers(backlog, queued);
            let Some(low_water) = self.shared.low_water().filter(|_| self.rule.can_park(scene)) else { return };
            let long_enough = parked_ns >= LONGEST_PARK.as_nanos() as u64;
            if long_enough || self.shared.desk().has_errands() {
                return;
            }
            parked_ns += self.park(low_water, scene.idle > 0);
            if is_at_most(self.shared.queue.len(), low_water) {
                return;
            }
        }
    }

    /// The queue was seen to be this deep, right behind a batch or at a later look.
    fn note_depth(&self, depth: u64, behind_batch: bool) {
        let counters = &self.shared.desk().counters;
        counters.queue_depth_max.raise(depth);
        if behind_batch {
            counters.queue_depths[size_class(depth)].add(1);
        }
    }

    /// Follows their number, which others change.
    fn count_workers(&mut self) {
        let workers = self.shared.roster.staying();
        if workers != self.workers {
            self.workers = workers;
            self.rule = WakeRule::new(self.shared.settings().wake, workers, self.shared.processors);
        }
    }

    /// Workers that are awake, if so many sleep. One that is about to go may be among the sleepers for a moment.
    fn awake(&self, idle: usize) -> usize {
        self.shared.roster.staying().saturating_sub(idle)
    }

    /// Moves `ready` into the queue, and says how many went. When that is full, waits until a worker has made room.
    fn put_ready(&mut self, ready: &mut VecDeque<Request>, alarm_ns: u64) -> u64 {
        let shared = self.shared;
        let counters = &shared.desk().counters;
        let mut put: u64 = 0;
        while let Some(request) = ready.pop_front() {
            let Err(request) = shared.queue.try_put(request) else {
                put += 1;
                continue;
            };
            ready.push_front(request);
            counters.full_queue_waits.add(1);
            let backlog = shared.queue.len();
            self.wake_workers(backlog, backlog);
            self.park(shared.settings().queue_capacity - 1, true);
            if shared.desk().has_errands() || shared.common.clock.now_ns() >= alarm_ns {
                break;
            }
        }
        counters.queued.add(put);
        put
    }

    /// Parks until the queue holds at most `low_water` requests, or a while has passed; for how long it did.
    fn park(&mut self, low_water: usize, recheck: bool) -> u64 {
        let shared = self.shared;
        shared.by_poller.park_low_water.store(low_water, Ordering::SeqCst);
        let since_ns = shared.common.clock.now_ns();
        let limit = if recheck { RECHECK } else { LONGEST_PARK };
        if !shared.poller_seat.sleep_unless(limit, || is_at_most(shared.queue.len(), low_water)) {
            return 0;
        }
        shared.desk().counters.parks.add(1);
        shared.common.clock.now_ns() - since_ns
    }

    /// Wakes as many workers as the rule says; what it saw, with them counted as awake.
    fn wake_workers(&mut self, backlog: usize, queued: usize) -> Scene {
        let mut scene = self.scene(backlog);
        let by_count = Scene { awake: self.awake(scene.idle), ..scene };
        let counters = &self.shared.desk().counters;
        let wakes = self.rule.wakes(scene, queued);
        let now_ns = self.shared.common.clock.now_ns();
        if wakes == 0 && scene.idle > 0 {
            self.shared.estimates.wake_cost.relax();
        } else if wakes > 0 {
            self.shared.by_poller.woken_ns.store(now_ns, Ordering::Relaxed);
        }
        let mut woken: usize = 0;
        for number in (0..wakes).map_while(|_| self.shared.idle.wake_one()) {
            self.watch.note_woken(number, now_ns);
            woken += 1;
        }
        counters.wakes.add(woken as u64);
        counters.long_turn_wakes.add(woken.saturating_sub(self.rule.wakes(by_count, queued)) as u64);
        scene.idle -= woken.min(scene.idle);
        scene.awake += woken;
        scene
    }

    fn scene(&mut self, backlog: usize) -> Scene {
        let shared = self.shared;
        let idle = shared.idle.len();
        let mut awake = self.awake(idle);
        if idle > 0 && awake > 0 {
            let look = |number: usize| {
                let place = &shared.roster.places[number];
                let turns = place.counters.turns.read() + place.counters.calls.read();
                // Who is to go takes nothing more.
                (turns, shared.idle.is_idle(number) || place.is_to_go())
            };
            awake = self.watch.count_awake(shared.common.clock.now_ns(), shared.roster.span(), look);
        }
        self.scene_of(backlog, idle, awake)
    }

    fn scene_of(&self, backlog: usize, idle: usize, awake: usize) -> Scene {
        let estimates = &self.shared.estimates;
        Scene {
            backlog,
            idle,
            awake,
            worker_turn_ns: estimates.turn_times.worker_turn_ns(),
            poller_turn_ns: estimates.turn_times.poller_turn_ns(),
            wake_cost_ns: estimates.wake_cost.ns(),
        }
    }

    /// Runs the turns that are done before a woken worker would arrive.
    fn assist(&mut self, ready: &mut VecDeque<Request>) {
        let shared = self.shared;
        // Only turns that something bounds.
        let may = shared.settings().assist && !shared.common.needs.time();
        if !may || ready.is_empty() || shared.queue.len() > 0 {
            return;
        }
        let idle = shared.idle.len();
        let scene = self.scene_of(ready.len(), idle, self.awake(idle));
        if !self.rule.can_assist(scene) {
            return;
        }
        shared.estimates.wake_cost.relax();
        let since_ns = shared.common.clock.now_ns();
        let mut run: usize = 0;
        let mut took_ns = 0;
        while run < scene.backlog && took_ns < LONGEST_PARK.as_nanos() as u64 {
            // What a turn leaves to be queued goes behind the others, and into the queue after them.
            let request = ready.pop_front().expect("as many as there were");
            shared.reactor.run_turn(&mut self.turns, request, &mut |next| ready.push_back(next));
            run += 1;
            // The poller is away from accepting and commands no longer than when it parks. What is left is queued.
            if run.is_multiple_of(TIMED_TURNS as usize) || run == scene.backlog {
                took_ns = shared.common.clock.now_ns() - since_ns;
            }
        }
        shared.desk().counters.assisted.add(run as u64);
        self.paced_ns += took_ns;
        self.paced_turns += run as u64;
        if self.paced_turns >= TIMED_TURNS {
            shared.estimates.turn_times.note_poller(self.paced_ns / self.paced_turns);
            (self.paced_turns, self.paced_ns) = (0, 0);
        }
    }
}

/// Whether a queue of this length is low enough for a parked poller. `NONE_LEFT` asks for an empty one.
fn is_at_most(len: usize, low_water: usize) -> bool {
    len == 0 || (low_water != NONE_LEFT && len <= low_water)
}
