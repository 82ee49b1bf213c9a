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
//! - every worker sleeps and the poller would be done before one arrived: it may run the turns itself (`--assist`);
//! - so it may when all workers together have lately been no quicker than itself alone (*crowded*): turns are measured
//!   on the wall clock, and where other programs want the processors too, handing on takes longer and gains nothing.
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

/// Turns that are timed together, so that the clock is read seldom.
pub(super) const TIMED_TURNS: u64 = 32;

/// How long turns have lasted of late on the wall clock, run by a worker and run by the poller.
///
/// Whoever runs no turns is not measured, so what is known of one side ages with every measurement of the other, towards
/// being worth a try.
pub(super) struct TurnTimes {
    /// Written now and then by workers, and by the poller when it has run turns itself; a lost update does no harm.
    worker_turn_ns: AtomicU64,
    /// Written by the same.
    poller_turn_ns: AtomicU64,
}

impl TurnTimes {
    /// What a turn is taken to last until some have been measured: an echo on a machine of this century.
    const FIRST_GUESS_NS: u64 = 10_000;

    pub(super) fn new() -> TurnTimes {
        let guess = || AtomicU64::new(Self::FIRST_GUESS_NS);
        TurnTimes { worker_turn_ns: guess(), poller_turn_ns: guess() }
    }

    pub(super) fn worker_turn_ns(&self) -> u64 {
        self.worker_turn_ns.load(Ordering::Relaxed)
    }

    pub(super) fn poller_turn_ns(&self) -> u64 {
        self.poller_turn_ns.load(Ordering::Relaxed)
    }

    /// Folds in a worker's turn that lasted `ns`, or the mean of several.
    pub(super) fn note_worker(&self, ns: u64) {
        let mean = note(&self.worker_turn_ns, ns);
        // On a crowded machine a worker's turn takes twice as long and more.
        age(&self.poller_turn_ns, mean / 4);
    }

    /// Folds in a turn of the poller's, or the mean of several.
    pub(super) fn note_poller(&self, ns: u64) {
        let mean = note(&self.poller_turn_ns, ns);
        age(&self.worker_turn_ns, mean);
    }
}

fn note(mean_ns: &AtomicU64, sample_ns: u64) -> u64 {
    let mean = fold(mean_ns.load(Ordering::Relaxed), sample_ns);
    mean_ns.store(mean, Ordering::Relaxed);
    mean
}

/// Lowers an old mean a little, but not below what is plausible. At 5 µs a turn, half of it is gone after 30 ms: often
/// enough to notice that a machine is no longer busy, seldom enough for the tries to cost a per cent or two.
fn age(mean_ns: &AtomicU64, floor_ns: u64) {
    let mean = mean_ns.load(Ordering::Relaxed);
    if mean > floor_ns {
        mean_ns.store((mean - mean / 256).max(floor_ns), Ordering::Relaxed);
    }
}

/// Moves a mean a quarter of the way to a sample. One that is more than four times the mean counts as four times: it is
/// a thread that lost its processor, or the first of many long ones, and then more will say so.
fn fold(mean: u64, sample: u64) -> u64 {
    ((mean * 3 + sample.min(mean.saturating_mul(4))) / 4).max(1)
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
    /// See [`TurnTimes`].
    pub(super) worker_turn_ns: u64,
    /// See [`TurnTimes`].
    pub(super) poller_turn_ns: u64,
    /// See [`WakeCost`].
    pub(super) wake_cost_ns: u64,
}

impl Scene {
    /// Time that `awake` workers take to empty the queue.
    fn drain_ns(&self, awake: usize) -> u64 {
        (self.backlog as u64).saturating_mul(self.worker_turn_ns) / awake.max(1) as u64
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
    /// Workers that can run at the same time.
    crew: u64,
}

impl WakeRule {
    /// The rule for so many workers on so many processors.
    pub(super) fn new(wake: Wake, workers: usize, processors: usize) -> WakeRule {
        WakeRule {
            each: wake == Wake::Each,
            fixed_cost_ns: match wake {
                Wake::Above(cost) => Some(cost.as_nanos() as u64),
                Wake::Auto | Wake::Each => None,
            },
            alone: processors == 1,
            crew: workers.min(processors) as u64,
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
        if self.alone {
            return scene.backlog > 0;
        }
        // What each worker takes at once is no backlog: parking for it would cost a wake that polling on does not.
        let left = Scene { backlog: scene.backlog.saturating_sub(scene.awake), ..scene };
        left.drain_ns(scene.awake) > self.wake_cost_ns(scene).min(PARK_ABOVE.as_nanos() as u64)
    }

    /// Whether the poller may run this backlog itself: it would be done before a woken worker arrived, or the workers
    /// would be no quicker.
    pub(super) fn can_assist(&self, scene: Scene) -> bool {
        let own_ns = (scene.backlog as u64).saturating_mul(scene.poller_turn_ns);
        self.alone || self.is_crowded(scene) || (scene.awake == 0 && own_ns <= self.wake_cost_ns(scene))
    }

    /// Whether the workers together are not a fifth quicker than the poller alone. A wake cost that the user fixed is
    /// followed instead.
    fn is_crowded(&self, scene: Scene) -> bool {
        let (worker_ns, poller_ns) = (u128::from(scene.worker_turn_ns), u128::from(scene.poller_turn_ns));
        self.fixed_cost_ns.is_none() && worker_ns * 10 >= poller_ns * u128::from(self.crew) * 8
    }
}

/// Tells a worker in one long turn from one in many short ones, by looking at its count of turns now and then. Owned by
/// the poller.
#[derive(Default)]
pub(super) struct TurnWatch {
    /// By number of the worker.
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    turns: u64,
    since_ns: u64,
}

impl TurnWatch {
    /// A worker was woken: it has not begun a turn yet, which is not to be taken for a long one.
    pub(super) fn note_woken(&mut self, worker: usize, now_ns: u64) {
        self.make_room(worker + 1);
        self.seen[worker].since_ns = now_ns;
    }

    /// Counts the workers, of numbers below `span`, that are awake and have not been seen in the same turn for [`RECHECK`].
    /// `look` tells a worker's turns so far and whether it sleeps, or has gone.
    pub(super) fn count_awake(&mut self, now_ns: u64, span: usize, look: impl Fn(usize) -> (u64, bool)) -> usize {
        self.make_room(span);
        let mut awake = 0;
        for (number, seen) in self.seen[..span].iter_mut().enumerate() {
            let (turns, asleep) = look(number);
            if asleep || turns != seen.turns {
                *seen = Seen { turns, since_ns: now_ns };
            }
            let in_long_turn = now_ns.saturating_sub(seen.since_ns) > RECHECK.as_nanos() as u64;
            awake += usize::from(!asleep && !in_long_turn);
        }
        awake
    }

    fn make_room(&mut self, workers: usize) {
        self.seen.resize(self.seen.len().max(workers), Seen::default());
    }
}

#[cfg(test)]
mod tests {
    //! The rule at work in a seeded simulation of the pool: arrivals, a poller that polls, parks and rechecks as
    //! `hand_off.rs` does, workers that take time to wake, service times of which one in a thousand is long.

    use super::*;

    const US: u64 = 1_000;
    const WORKERS: usize = 4;
    /// What a wake takes in the simulation.
    const WAKE_NS: u64 = 60 * US;

    fn scene(backlog: usize, idle: usize, awake: usize) -> Scene {
        Scene { backlog, idle, awake, worker_turn_ns: 5 * US, poller_turn_ns: 5 * US, wake_cost_ns: 100 * US }
    }

    #[test]
    fn wakes_nobody_while_the_awake_are_quicker() {
        let rule = WakeRule::new(Wake::Auto, 4, 4);
        assert_eq!(rule.wakes(scene(0, 4, 0), 0), 0);
        assert_eq!(rule.wakes(scene(1, 4, 0), 1), 1);
        assert_eq!(rule.wakes(scene(20, 3, 1), 20), 0);
        assert_eq!(rule.wakes(scene(21, 3, 1), 21), 1);
        assert_eq!(rule.wakes(scene(1_000, 3, 1), 1_000), 3);
    }

    #[test]
    fn wakes_at_most_the_ready_and_at_most_the_idle() {
        for wake in [Wake::Auto, Wake::Each, Wake::Above(Duration::ZERO)] {
            let rule = WakeRule::new(wake, 4, 4);
            for backlog in 0..50 {
                for idle in 0..=WORKERS {
                    let wakes = rule.wakes(scene(backlog, idle, WORKERS - idle), backlog);
                    assert!(wakes <= backlog.min(idle), "{wake:?}: {wakes} wakes for {backlog} with {idle} idle");
                }
            }
        }
    }

    #[test]
    fn each_wakes_one_per_request() {
        assert_eq!(WakeRule::new(Wake::Each, 4, 4).wakes(scene(3, 4, 0), 3), 3);
        assert_eq!(WakeRule::new(Wake::Each, 4, 4).wakes(scene(9, 2, 2), 1), 1);
    }

    #[test]
    fn on_one_processor_the_poller_parks_for_any_backlog_and_runs_brief_turns_itself() {
        let alone = WakeRule::new(Wake::Auto, 4, 1);
        assert!(alone.can_park(scene(1, 0, 1)) && alone.can_assist(scene(500, 1, 0)));
        let beside = WakeRule::new(Wake::Auto, 4, 4);
        assert!(!beside.can_park(scene(1, 0, 1)) && !beside.can_assist(scene(500, 1, 0)));
    }

    #[test]
    fn the_poller_runs_turns_itself_while_the_workers_are_no_quicker() {
        let rule = WakeRule::new(Wake::Auto, 2, 2);
        let pace = TurnTimes::new();
        let backlog_of_300 = |pace: &TurnTimes| Scene {
            worker_turn_ns: pace.worker_turn_ns(),
            poller_turn_ns: pace.poller_turn_ns(),
            ..scene(300, 0, 2)
        };
        assert!(!rule.can_assist(backlog_of_300(&pace)), "two workers and a poller that are as quick");
        (0..20).for_each(|_| pace.note_poller(5 * US));
        pace.worker_turn_ns.store(6 * US, Ordering::Relaxed);
        assert!(!rule.can_assist(backlog_of_300(&pace)), "two workers at 6 us beat one poller at 5");
        pace.worker_turn_ns.store(11 * US, Ordering::Relaxed);
        assert!(rule.can_assist(backlog_of_300(&pace)), "two workers at 11 us do not");
        (0..160).for_each(|_| pace.note_poller(5 * US));
        assert!(!rule.can_assist(backlog_of_300(&pace)), "what is known of the workers has aged: try them again");
        (0..160).for_each(|_| pace.note_worker(6 * US));
        assert!(rule.can_assist(backlog_of_300(&pace)), "what is known of the poller has aged: try it again");
        assert!(!WakeRule::new(Wake::Above(Duration::from_micros(100)), 2, 2).is_crowded(backlog_of_300(&pace)));
    }

    #[test]
    fn the_wake_cost_follows_the_machine_within_bounds_and_returns_to_rest() {
        let cost = WakeCost::new();
        (0..100).for_each(|_| cost.note(u64::MAX));
        assert!(cost.ns() > 950 * US && cost.ns() <= WAKE_COST_MOST.as_nanos() as u64);
        (0..200).for_each(|_| cost.relax());
        assert!(cost.ns() < 110 * US);
        (0..100).for_each(|_| cost.note(0));
        assert_eq!(cost.ns(), WAKE_COST_AT_REST.as_nanos() as u64);
    }

    /// A generator good enough to shuffle a schedule (SplitMix64, Steele and others 2014).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, bound: u64) -> u64 {
            self.next() % bound
        }
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Worker {
        Asleep,
        /// On its way since it was woken, there at the time given.
        Waking(u64),
        /// In a turn until the time given.
        Busy(u64),
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum PollerState {
        /// In the kernel: an arrival ends it, or the recheck at the time given.
        Polling(Option<u64>),
        /// Parked until the time given, or until the queue is empty.
        Parked(u64),
    }

    /// What one simulated run showed.
    struct Outcome {
        /// The longest that a request waited in the queue while a worker slept with nobody on the way to it.
        beside_idle_ns: u64,
        served: usize,
        wakes: usize,
    }

    /// Simulates `requests` arrivals, `gap_ns` apart on average, and steps from event to event.
    fn simulate(seed: u64, requests: usize, gap_ns: u64, mut service_ns: impl FnMut(&mut Random) -> u64) -> Outcome {
        let rule = WakeRule::new(Wake::Auto, WORKERS, 8);
        let mut random = Random(seed);
        let mut watch = TurnWatch::default();
        let mut workers = [Worker::Asleep; WORKERS];
        let mut turns = [0_u64; WORKERS];
        let mut poller = PollerState::Polling(None);
        // (service time, time spent beside a sleeping worker)
        let mut queue: std::collections::VecDeque<(u64, u64)> = std::collections::VecDeque::new();
        let mut arrived = Vec::new();
        let mut outcome = Outcome { beside_idle_ns: 0, served: 0, wakes: 0 };
        let (mut now_ns, mut made, mut mean_ns) = (0, 0, 5 * US);
        let mut next_arrival_ns = 0;
        while outcome.served < requests {
            // The next event.
            let arrival = (made < requests).then_some(next_arrival_ns);
            let by_workers = workers.iter().filter_map(|worker| match worker {
                Worker::Asleep => None,
                Worker::Waking(at) | Worker::Busy(at) => Some(*at),
            });
            let by_poller = match poller {
                PollerState::Polling(recheck) => recheck,
                PollerState::Parked(until) => Some(until),
            };
            let next = by_workers.chain(by_poller).chain(arrival).min();
            let next_ns = next.expect("requests are left, so something is to come: nobody may be stranded").max(now_ns);
            if workers.contains(&Worker::Asleep) && !workers.iter().any(|worker| matches!(worker, Worker::Waking(_))) {
                for (_, beside_idle_ns) in &mut queue {
                    *beside_idle_ns += next_ns - now_ns;
                    outcome.beside_idle_ns = outcome.beside_idle_ns.max(*beside_idle_ns);
                }
            }
            now_ns = next_ns;
            if arrival == Some(now_ns) {
                arrived.push(service_ns(&mut random));
                made += 1;
                next_arrival_ns = now_ns + random.below(2 * gap_ns) + 1;
            }
            // Workers whose time has come take the next request, or sleep.
            let mut emptied = false;
            for number in 0..WORKERS {
                let due = match workers[number] {
                    Worker::Asleep => false,
                    Worker::Waking(at) => at <= now_ns,
                    Worker::Busy(at) if at <= now_ns => {
                        outcome.served += 1;
                        true
                    }
                    Worker::Busy(_) => false,
                };
                if due {
                    workers[number] = match queue.pop_front() {
                        Some((service_ns, _)) => {
                            turns[number] += 1;
                            mean_ns = (mean_ns * 127 + service_ns) / 128;
                            Worker::Busy(now_ns + service_ns)
                        }
                        None => Worker::Asleep,
                    };
                    emptied |= queue.is_empty();
                }
            }
            // The poller: what ends its wait, then what `hand_on` does.
            let rings = match poller {
                PollerState::Polling(recheck) => !arrived.is_empty() || recheck.is_some_and(|at| at <= now_ns),
                PollerState::Parked(until) => emptied || until <= now_ns,
            };
            if !rings {
                continue;
            }
            let queued = arrived.len();
            queue.extend(arrived.drain(..).map(|service_ns| (service_ns, 0)));
            let asleep = |workers: &[Worker; WORKERS]| workers.iter().filter(|w| **w == Worker::Asleep).count();
            let scene = Scene {
                backlog: queue.len(),
                idle: asleep(&workers),
                awake: watch.count_awake(now_ns, WORKERS, |number| (turns[number], workers[number] == Worker::Asleep)),
                worker_turn_ns: mean_ns,
                poller_turn_ns: mean_ns,
                wake_cost_ns: 100 * US,
            };
            let wakes = rule.wakes(scene, queued);
            outcome.wakes += wakes;
            for _ in 0..wakes {
                let sleeper = workers.iter().position(|worker| *worker == Worker::Asleep);
                let sleeper = sleeper.expect("the rule wakes at most the idle");
                workers[sleeper] = Worker::Waking(now_ns + WAKE_NS);
                watch.note_woken(sleeper, now_ns);
            }
            let idle = asleep(&workers);
            let seen = Scene { idle, awake: scene.awake + wakes, ..scene };
            let recheck_ns = RECHECK.as_nanos() as u64;
            poller = if rule.can_park(seen) {
                PollerState::Parked(now_ns + if idle > 0 { recheck_ns } else { 1_000 * US })
            } else {
                PollerState::Polling((idle > 0 && !queue.is_empty()).then_some(now_ns + recheck_ns))
            };
        }
        outcome
    }

    #[test]
    fn nobody_waits_behind_a_long_turn_while_a_worker_sleeps() {
        // Two looks to know a turn for a long one, a third before the first of them, and the drain time that the rule
        // allows: a long turn takes a hundred times that.
        let bound_ns = 3 * RECHECK.as_nanos() as u64 + WAKE_COST_AT_REST.as_nanos() as u64;
        for seed in 0..60 {
            for gap_ns in [3 * US, 10 * US, 40 * US, 300 * US] {
                let service = |random: &mut Random| if random.below(1_000) == 0 { 30_000 * US } else { 5 * US };
                let outcome = simulate(seed, 4_000, gap_ns, service);
                assert!(
                    outcome.beside_idle_ns <= bound_ns,
                    "seed {seed}, gap {gap_ns} ns: a request waited {} ns beside a sleeping worker",
                    outcome.beside_idle_ns
                );
            }
        }
    }

    #[test]
    fn short_turns_alone_keep_the_workers_that_are_awake_busy_and_wake_few() {
        let outcome = simulate(7, 20_000, 20 * US, |_| 5 * US);
        assert_eq!(outcome.served, 20_000);
        assert!(outcome.wakes <= 20_000, "{} wakes", outcome.wakes);
        let dense = simulate(7, 20_000, 3 * US, |_| 5 * US);
        assert!(dense.wakes * 20 < 20_000, "{} wakes for 20,000 requests that come thick", dense.wakes);
    }
}
