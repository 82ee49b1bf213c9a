//! How many children there are to be: grown when too few are free, shrunk when too many are, by the last second.
//!
//! Pure: shown a [`Reading`] every [`TICK`], it answers with a [`Step`]; the parent carries that out and says what went
//! wrong. *Busy* is the time that the children were busy in the last second over that second; *free* is the rest of
//! them, those that still start included.
//!
//! Invariants:
//! - *within-bounds*: no step leads above `max_processes`, those that are leaving included, and none stops a child when
//!   there are no more than `min_processes`. Fewer than these are replaced at the next tick.
//! - *bounded-step*: growth begins with one child a tick and doubles up to [`MOST_STARTED`] while it is wanted at every
//!   tick; a step down is one child, or an eighth of those too many.
//! - *no-flap*: nothing is stopped within a second of the last start, nor unless more than `max_spare` were free even at
//!   the busiest tick of the last second. So a load that comes and goes faster than that is met by a pool that stays.
//! - *no-fork-bomb*: after children that end at once, or forks that fail, there is a pause that doubles with each such
//!   tick, up to [`LONGEST_PAUSE_NS`], and then one child a tick until two seconds have passed without.
//!
//! Read next: `engine/scoreboard.rs`, which the readings come from.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::scoreboard::Tally;

/// How often the policy is to be asked.
pub const TICK: Duration = Duration::from_millis(100);

/// What a busy share is taken over, and how long a start forbids a stop.
const WINDOW_NS: u64 = 1_000_000_000;

/// A tick that comes sooner than this after the last is passed over.
const SHORTEST_TICK_NS: u64 = 50_000_000;

/// Readings that are kept at most: a window of the shortest ticks, and both its ends.
const READINGS: usize = (WINDOW_NS / SHORTEST_TICK_NS) as usize + 2;

/// Most children that one tick starts to meet load. Apache's `MAX_SPAWN_RATE`, which is per second there.
pub const MOST_STARTED: usize = 32;

/// One in so many of the children that are too many is stopped per tick, and at least one. Guess.
const STOPPED_SHARE: usize = 8;

/// A child that served nobody and lived no longer than this counts as ended at once.
pub const EARLY_END_NS: u64 = 1_000_000_000;

/// The first pause after trouble.
const FIRST_PAUSE_NS: u64 = 200_000_000;

/// The longest.
pub const LONGEST_PAUSE_NS: u64 = 10_000_000_000;

/// What the configuration allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolBounds {
    /// Children that there always are.
    pub min_processes: usize,
    /// Most children.
    pub max_processes: usize,
    /// Fewer free ones than this, and more are started.
    pub min_spare: usize,
    /// More free ones than this, and some are stopped.
    pub max_spare: usize,
}

/// The pool as it is at one tick.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// When; never goes back.
    pub now_ns: u64,
    /// Children alive, those that still start included, those that are leaving or were told to not.
    pub processes: usize,
    /// Children that are leaving, or were told to and have not ended yet.
    pub leaving: usize,
    /// Of the processes, those that wait for a session.
    pub idle: usize,
    /// Of the processes, those that are not ready yet.
    pub starting: usize,
    /// Nanoseconds that all children, past and present, have been busy since the daemon started, up to `now_ns`.
    pub busy_ns_total: u64,
}

impl Reading {
    /// The children on the scoreboard, which was read at `now_ns`.
    pub fn of(now_ns: u64, tally: &Tally) -> Reading {
        Reading {
            now_ns,
            processes: tally.starting + tally.idle + tally.busy,
            leaving: tally.leaving,
            idle: tally.idle,
            starting: tally.starting,
            busy_ns_total: tally.busy_ns,
        }
    }

    /// Of the processes, those that serve.
    fn busy(&self) -> usize {
        self.processes - self.idle - self.starting
    }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// So many children are to be started.
    pub start: usize,
    /// So many are to be told to leave, idle ones first.
    pub stop: usize,
}

/// Decides the size of the pool.
#[derive(Debug)]
pub struct Policy {
    bounds: PoolBounds,
    /// The last second, the oldest first.
    readings: VecDeque<Seen>,
    /// The most that the next tick may start to meet load.
    rate: usize,
    /// When children were last started.
    started_ns: Option<u64>,
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    now_ns: u64,
    busy_ns_total: u64,
    /// Children that were busy at that moment.
    busy: usize,
}

/// Children have ended at once, or could not be forked.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    since_ns: u64,
    pause_ns: u64,
}

impl Trouble {
    fn resume_ns(self) -> u64 {
        self.since_ns + self.pause_ns
    }
}

impl Policy {
    /// A policy that has seen nothing yet.
    ///
    /// # Panics
    /// If the bounds contradict each other; the configuration sees to it.
    pub fn new(bounds: PoolBounds) -> Policy {
        assert!(bounds.min_processes >= 1, "somebody has to serve: {bounds:?}");
        assert!(bounds.min_processes <= bounds.max_processes, "{bounds:?}");
        assert!(bounds.min_spare <= bounds.max_spare, "{bounds:?}");
        Policy { bounds, readings: VecDeque::with_capacity(READINGS), rate: 1, started_ns: None, trouble: None }
    }

    /// What to do now. To be called every [`TICK`]; one that comes late does no harm, nor one that comes early.
    pub fn handle_tick(&mut self, reading: Reading) -> Step {
        if self.readings.back().is_some_and(|last| reading.now_ns < last.now_ns + SHORTEST_TICK_NS) {
            return Step::default();
        }
        self.remember(&reading);
        let step = self.step(&reading);
        if step.start > 0 {
            self.started_ns = Some(reading.now_ns);
        }
        // INVARIANT within-bounds.
        assert!(step.start == 0 || reading.processes + reading.leaving + step.start <= self.bounds.max_processes);
        assert!(step.stop == 0 || reading.processes - step.stop >= self.bounds.min_processes);
        step
    }

    /// A child ended that nobody had told to, `lived_ns` after its fork and after `accepted` sessions.
    pub fn handle_end(&mut self, now_ns: u64, lived_ns: u64, accepted: u64) {
        // One that has served was well: what killed it, a client perhaps, is to be met by another at once.
        if accepted == 0 && lived_ns < EARLY_END_NS {
            self.handle_trouble(now_ns);
        }
    }

    /// A child could not be forked.
    pub fn handle_failed_fork(&mut self, now_ns: u64) {
        self.handle_trouble(now_ns);
    }

    /// When the pause ends that trouble has caused, if there is one; for the log.
    pub fn paused_until_ns(&self) -> Option<u64> {
        self.trouble.map(Trouble::resume_ns)
    }

    fn handle_trouble(&mut self, now_ns: u64) {
        let pause_ns = match self.trouble {
            // Those that end together are one trouble.
            Some(trouble) if now_ns < trouble.resume_ns() => return,
            Some(trouble) => (2 * trouble.pause_ns).min(LONGEST_PAUSE_NS),
            None => FIRST_PAUSE_NS,
        };
        self.trouble = Some(Trouble { since_ns: now_ns, pause_ns });
    }

    fn remember(&mut self, reading: &Reading) {
        assert!(reading.idle + reading.starting <= reading.processes, "{reading:?}");
        // The oldest that stays is the one at the beginning of the window, or before it.
        while self.readings.get(1).is_some_and(|second| second.now_ns + WINDOW_NS <= reading.now_ns) {
            self.readings.pop_front();
        }
        assert!(self.readings.len() < READINGS, "ticks are no shorter than allowed");
        self.readings.push_back(Seen {
            now_ns: reading.now_ns,
            busy_ns_total: reading.busy_ns_total,
            busy: reading.busy(),
        });
    }

    fn step(&mut self, reading: &Reading) -> Step {
        // The share of a second is slow to notice a wave of sessions; that all who are ready serve is seen at once.
        let busy = reading.busy();
        let is_overrun = busy > 0 && reading.idle == 0;
        let wanted = match self.missing_spare(reading) {
            // Never more under way than there are busy ones: it may be the starting that takes long, not the serving.
            missing if is_overrun => missing.max(self.rate.min(busy.saturating_sub(reading.starting))),
            missing => missing,
        };
        let limit = self.rate;
        self.rate = match wanted {
            0 if is_overrun => limit,
            0 => 1,
            _ => (2 * limit).min(MOST_STARTED),
        };
        let missing = self.bounds.min_processes.saturating_sub(reading.processes);
        let room = self.bounds.max_processes.saturating_sub(reading.processes + reading.leaving);
        let start = missing.max(wanted.min(limit)).min(room).min(self.allowed_by_trouble(reading.now_ns));
        let is_growing = start > 0 || wanted > 0 || is_overrun;
        let surplus = if is_growing { 0 } else { self.surplus(reading) };
        // Of a surplus, one at least.
        Step { start, stop: surplus.min(1.max(surplus / STOPPED_SHARE)) }
    }

    /// Children that are missing until `min_spare` are free.
    fn missing_spare(&self, reading: &Reading) -> usize {
        let free = reading.processes as f64 - self.busy();
        (self.bounds.min_spare as f64 - free).max(0.0).ceil() as usize
    }

    /// Children that are too many; none before a second has passed without a start.
    fn surplus(&self, reading: &Reading) -> usize {
        let window_ns = self.readings.front().map_or(0, |oldest| reading.now_ns - oldest.now_ns);
        let is_quiet = self.started_ns.is_none_or(|started_ns| started_ns + WINDOW_NS <= reading.now_ns);
        if window_ns < WINDOW_NS || !is_quiet {
            return 0;
        }
        // INVARIANT no-flap.
        let busiest = self.readings.iter().map(|seen| seen.busy).max().unwrap_or(0);
        let kept = busiest.max(self.busy().ceil() as usize) + self.bounds.max_spare;
        reading.processes.saturating_sub(kept.max(self.bounds.min_processes))
    }

    /// Children that were busy in the last second, in the mean.
    fn busy(&self) -> f64 {
        let (Some(oldest), Some(newest)) = (self.readings.front(), self.readings.back()) else { return 0.0 };
        match newest.now_ns - oldest.now_ns {
            0 => 0.0,
            window_ns => newest.busy_ns_total.saturating_sub(oldest.busy_ns_total) as f64 / window_ns as f64,
        }
    }

    /// INVARIANT no-fork-bomb.
    fn allowed_by_trouble(&mut self, now_ns: u64) -> usize {
        match self.trouble {
            Some(trouble) if now_ns < trouble.resume_ns() => 0,
            Some(trouble) if now_ns < trouble.resume_ns() + 2 * EARLY_END_NS => 1,
            _ => {
                self.trouble = None;
                usize::MAX
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const TICK_NS: u64 = TICK.as_nanos() as u64;

    const BOUNDS: PoolBounds = PoolBounds { min_processes: 4, max_processes: 200, min_spare: 5, max_spare: 10 };

    /// A pool whose children are ready some ticks after their fork and leave at once.
    struct Pool {
        policy: Policy,
        bounds: PoolBounds,
        now_ns: u64,
        ready: usize,
        /// By the tick at which they will be ready, the next one first.
        starting: VecDeque<usize>,
        busy_ns_total: u64,
        started: usize,
        stopped: usize,
        largest_step: Step,
        forks_fail: bool,
    }

    impl Pool {
        fn new(bounds: PoolBounds) -> Pool {
            Pool {
                policy: Policy::new(bounds),
                bounds,
                now_ns: 1_000,
                ready: 0,
                starting: VecDeque::from([0]),
                busy_ns_total: 0,
                started: 0,
                stopped: 0,
                largest_step: Step::default(),
                forks_fail: false,
            }
        }

        fn processes(&self) -> usize {
            self.ready + self.starting.iter().sum::<usize>()
        }

        /// One tick in which so many sessions want to be served.
        fn tick(&mut self, load: usize) -> Step {
            self.now_ns += TICK_NS;
            let busy = load.min(self.ready);
            self.busy_ns_total += busy as u64 * TICK_NS;
            let step = self.policy.handle_tick(Reading {
                now_ns: self.now_ns,
                processes: self.processes(),
                leaving: 0,
                idle: self.ready - busy,
                starting: self.starting.iter().sum(),
                busy_ns_total: self.busy_ns_total,
            });
            self.ready += self.starting.pop_front().expect("there is a next tick");
            self.starting.push_back(0);
            if self.forks_fail && step.start > 0 {
                self.policy.handle_failed_fork(self.now_ns);
            } else {
                *self.starting.back_mut().expect("there is a last tick") = step.start;
            }
            self.ready -= step.stop;
            self.started += step.start;
            self.stopped += step.stop;
            self.largest_step.start = self.largest_step.start.max(step.start);
            self.largest_step.stop = self.largest_step.stop.max(step.stop);
            assert!(self.processes() <= self.bounds.max_processes);
            assert!(step.stop == 0 || self.processes() >= self.bounds.min_processes);
            step
        }

        fn run(&mut self, ticks: usize, load: usize) {
            for _ in 0..ticks {
                let _ = self.tick(load);
            }
        }

        /// Ticks of this load until nothing was started or stopped for two seconds, those two seconds not counted.
        fn settle(&mut self, load: usize) -> usize {
            let (mut ticks, mut quiet) = (0, 0);
            while quiet < 20 {
                let step = self.tick(load);
                ticks += 1;
                quiet = if step == Step::default() { quiet + 1 } else { 0 };
                assert!(ticks < 1_000, "it never comes to rest");
            }
            ticks - quiet
        }

        fn churn(&self) -> usize {
            self.started + self.stopped
        }
    }

    #[test]
    fn the_first_tick_starts_the_least_and_the_next_ones_the_spare() {
        let mut pool = Pool::new(BOUNDS);
        assert_eq!(pool.tick(0), Step { start: 4, stop: 0 });
        assert!(pool.settle(0) <= 3);
        assert_eq!((pool.processes(), pool.churn()), (5, 5), "min_spare without load");
    }

    #[test]
    fn a_step_of_load_is_met_by_doubling_and_left_by_eighths() {
        let mut pool = Pool::new(BOUNDS);
        pool.settle(0);
        let mut starts = Vec::new();
        while pool.ready < 100 {
            starts.push(pool.tick(100).start);
        }
        // Those of the tick before are not ready yet: no more are under way than are busy.
        assert_eq!(starts, [1, 2, 4, 4, 8, 8, 16, 16, 32, 32, 32]);
        let churn = pool.churn();
        pool.settle(100);
        assert_eq!((pool.processes(), pool.largest_step.start), (110, MOST_STARTED));
        assert_eq!((churn, pool.churn() - churn), (160, 50), "those on the way when 100 were ready were too many");

        let ticks = pool.settle(0);
        assert_eq!((pool.processes(), pool.stopped), (10, pool.started - 10), "max_spare without load");
        assert!((30..=45).contains(&ticks), "{ticks} ticks, the first ten of which remember the load");
        assert!(pool.largest_step.stop <= 100 / STOPPED_SHARE, "{:?}", pool.largest_step);
    }

    #[test]
    fn slow_starts_are_no_reason_for_more_of_them() {
        for start_ticks in 1..16 {
            let mut pool = Pool::new(BOUNDS);
            pool.starting.resize(start_ticks, 0);
            pool.settle(0);
            assert_eq!(pool.churn(), 5, "{start_ticks} ticks from fork to ready");
            pool.settle(4);
            // Nobody is idle at first; and then the spare are missing.
            assert!(pool.started <= 14, "{start_ticks} ticks: {} started", pool.started);
            pool.settle(60);
            assert!((65..=70).contains(&pool.processes()), "{start_ticks} ticks: {}", pool.processes());
            assert!(pool.started <= 120, "{start_ticks} ticks: {} started", pool.started);
        }
    }

    #[test]
    fn load_that_comes_and_goes_within_a_second_does_not_flap() {
        for (on, off) in [(1, 1), (1, 4), (3, 3), (5, 4), (2, 7)] {
            let mut pool = Pool::new(BOUNDS);
            let mut churn_by_second = Vec::new();
            for _second in 0..60 {
                let before = pool.churn();
                for tick in 0..10 {
                    let _ = pool.tick(if tick % (on + off) < on { 50 } else { 0 });
                }
                churn_by_second.push(pool.churn() - before);
            }
            let after: usize = churn_by_second[30..].iter().sum();
            assert!(after == 0, "{on} ticks of load and {off} without: {churn_by_second:?}");
            assert!(pool.churn() < 150, "{on} on, {off} off: {}", pool.churn());
        }
    }

    #[test]
    fn slow_tides_are_followed_once_each_way() {
        let mut pool = Pool::new(BOUNDS);
        for _tide in 0..5 {
            pool.run(100, 60);
            pool.run(100, 0);
        }
        let (low, high) = (BOUNDS.max_spare, 60 + BOUNDS.max_spare + MOST_STARTED);
        assert!(pool.churn() <= 5 * 2 * (high - low), "{} starts and stops", pool.churn());
        assert_eq!(pool.processes(), low);
    }

    #[test]
    fn steady_random_load_comes_to_rest() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut pool = Pool::new(BOUNDS);
            let mut draw = || (0..40).filter(|_| random.uniform() < 0.5).count();
            for _ in 0..100 {
                let _ = pool.tick(draw());
            }
            let churn = pool.churn();
            for _ in 0..600 {
                let _ = pool.tick(draw());
            }
            let churn = pool.churn() - churn;
            assert!(churn <= 30, "{churn} starts and stops in a minute of 20 ± 3 sessions, seed {seed}");
        }
    }

    #[test]
    fn the_bounds_hold_under_any_load() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let min_processes = 1 + random.below(10);
            let min_spare = random.below(10);
            let bounds = PoolBounds {
                min_processes,
                max_processes: min_processes + random.below(50),
                min_spare,
                max_spare: min_spare + random.below(10),
            };
            let mut pool = Pool::new(bounds);
            for _ in 0..30 {
                let load = random.below(80);
                for _ in 0..=random.below(20) {
                    // Asserts them, too.
                    let _ = pool.tick(load);
                    // Somebody kills a few.
                    pool.ready -= if random.below(30) == 0 { random.below(pool.ready + 1) } else { 0 };
                }
                assert!(pool.processes() >= bounds.min_processes || pool.tick(load).start > 0, "seed {seed}");
            }
            pool.settle(random.below(80));
        }
    }

    #[test]
    fn children_that_were_killed_are_replaced_at_the_next_tick() {
        let mut pool = Pool::new(PoolBounds { min_processes: 50, ..BOUNDS });
        pool.settle(20);
        for _ in 0..pool.ready {
            pool.policy.handle_end(pool.now_ns, 5 * EARLY_END_NS, 0);
            pool.policy.handle_end(pool.now_ns, 5, 1);
        }
        pool.ready = 0;
        assert_eq!(pool.tick(20).start, 50);
        assert_eq!(pool.policy.paused_until_ns(), None);
    }

    #[test]
    fn children_that_end_at_once_are_no_fork_bomb() {
        let mut pool = Pool::new(PoolBounds { min_processes: 50, ..BOUNDS });
        let mut forks = Vec::new();
        for _ in 0..600 {
            let _ = pool.tick(0);
            // All that were started have ended by now.
            forks.push(std::mem::take(&mut pool.starting[0]));
            for _ in 0..*forks.last().expect("it was just put there") {
                pool.policy.handle_end(pool.now_ns + TICK_NS / 2, TICK_NS / 2, 0);
            }
        }
        assert_eq!(forks[0], 50);
        let later: usize = forks[1..].iter().sum();
        assert!((6..=12).contains(&later), "{later} forks in a minute: {forks:?}");
        assert!(forks[1..].iter().all(|&forks| forks <= 1));
        // Then the reason is gone.
        let ticks = (1..=150).find(|_| {
            let _ = pool.tick(0);
            pool.processes() >= 50
        });
        assert!(ticks.is_some_and(|ticks| ticks <= 130), "{ticks:?}");
        assert_eq!(pool.policy.paused_until_ns(), None);
    }

    #[test]
    fn forks_that_fail_are_tried_again_after_a_pause() {
        let mut pool = Pool::new(BOUNDS);
        pool.forks_fail = true;
        let tries = (0..300).filter(|_| pool.tick(0).start > 0).count();
        assert!((5..=9).contains(&tries), "{tries} in half a minute");
        pool.forks_fail = false;
        pool.run(150, 0);
        assert_eq!(pool.processes(), BOUNDS.min_spare);
    }

    #[test]
    fn those_that_are_leaving_take_room_and_serve_nobody() {
        let bounds = PoolBounds { min_processes: 1, max_processes: 10, min_spare: 2, max_spare: 4 };
        let mut policy = Policy::new(bounds);
        let reading = Reading { now_ns: 1, processes: 4, leaving: 5, idle: 0, starting: 0, busy_ns_total: 0 };
        assert_eq!(policy.handle_tick(reading), Step { start: 1, stop: 0 });
        let reading = Reading { now_ns: TICK_NS, leaving: 6, ..reading };
        assert_eq!(policy.handle_tick(reading), Step::default());
    }

    #[test]
    fn ticks_may_come_early_and_late() {
        let mut policy = Policy::new(BOUNDS);
        let reading = Reading { now_ns: 1, processes: 0, leaving: 0, idle: 0, starting: 0, busy_ns_total: 0 };
        assert_eq!(policy.handle_tick(reading).start, 4);
        assert_eq!(policy.handle_tick(Reading { now_ns: 2, ..reading }), Step::default());
        for now_ns in (1..100).map(|tick| tick * SHORTEST_TICK_NS + 1) {
            let _ = policy.handle_tick(Reading { now_ns, processes: 20, idle: 20, ..reading });
        }
        let late = Reading { now_ns: 1_000_000_000_000, processes: 20, idle: 20, ..reading };
        assert_eq!(policy.handle_tick(late).stop, 1);
    }
}
