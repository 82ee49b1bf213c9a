//! [`Spin`]: keeps a processor busy for a time that somebody asks for, by work and not by watching a clock.
//!
//! The work is a chain of steps, each of which needs the result of the one before, so that neither the compiler nor the
//! processor can do two of them at once. How many steps make a nanosecond is measured once per process ([`Rate::measure`]).
//! A short time is then so many steps. A longer one is corrected while it runs, by the time that the thread has really had
//! a processor: so it becomes no shorter when the thread is preempted, and no longer when the processor slows down.
//!
//! What a clock on the wall would make of it: a thread that is preempted for as long as it was to work would come back and
//! find its work done.
//!
//! Invariant *work-is-conserved*: a run takes as much processor time as was asked for, whoever else runs meanwhile. Tests
//! drive it by hand ([`Processor`]); what it reaches on a machine, `cargo bench --bench spin` says.

use std::hint::black_box;
use std::sync::OnceLock;

use crate::clock;

/// Something that works at some speed, and the time for which it has worked.
pub trait Processor {
    /// Does so many units of work.
    fn work(&mut self, units: u64);

    /// For how long it has worked, in nanoseconds from some start. To ask may itself take a while.
    fn now_ns(&mut self) -> u64;
}

/// How much work a processor does in a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    units_per_ns: f64,
    /// Whether the last measurements agreed with each other.
    pub is_settled: bool,
}

/// How long a measurement of the rate takes: long enough that to read the clock is a small part of it, and short enough
/// that most are not disturbed.
const SAMPLE_NS: u64 = 200_000;

/// The quickest measurements that must agree, and within what share of the quickest. What disturbs a measurement makes it
/// longer.
const AGREEING: usize = 3;
const AGREED: f64 = 0.003;

/// Measurements after which the rate is taken as it is.
const MOST_SAMPLES: usize = 50;

impl Rate {
    /// Measures how fast `processor` works, again and again until it agrees with itself. Takes a millisecond or two.
    pub fn measure(processor: &mut impl Processor) -> Rate {
        let mut time = |units: u64| {
            let since_ns = processor.now_ns();
            processor.work(units);
            processor.now_ns() - since_ns
        };
        let mut reading_ns = time(0);
        let mut units: u64 = 1 << 10;
        while time(units) < SAMPLE_NS {
            units *= 2;
        }
        let mut samples: Vec<u64> = Vec::with_capacity(MOST_SAMPLES);
        let mut is_settled = false;
        while !is_settled && samples.len() < MOST_SAMPLES {
            samples.push(time(units));
            samples.sort_unstable();
            // Disturbed, a reading may take longer than a sample; of several, one is not.
            reading_ns = reading_ns.min(time(0));
            let agrees = |slowest: &u64| (slowest - samples[0]) as f64 <= samples[0] as f64 * AGREED;
            is_settled = samples.get(AGREEING - 1).is_some_and(agrees);
        }
        let sample_ns = samples[AGREEING / 2].saturating_sub(reading_ns).max(1);
        Rate { units_per_ns: units as f64 / sample_ns as f64, is_settled }
    }

    /// The work of so many nanoseconds.
    pub fn units_in(self, ns: u64) -> u64 {
        (ns as f64 * self.units_per_ns).round() as u64
    }

    /// The work of one nanosecond.
    pub fn units_per_ns(self) -> f64 {
        self.units_per_ns
    }
}

/// Up to here a time is so many steps and no more: to look at the clock would take a good part of it.
const BY_COUNT_NS: u64 = 30_000;

/// Of a longer time, the last part that is not looked at again.
const LAST_NS: u64 = 10_000;

/// The longest part before the clock is looked at, and whether the work is still wanted.
const PART_NS: u64 = 1_000_000;

/// Keeps processors busy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spin {
    rate: Rate,
}

impl Spin {
    /// With the speed of the present processor, measured once per process: the first call takes some milliseconds.
    pub fn calibrated() -> Spin {
        static CALIBRATED: OnceLock<Spin> = OnceLock::new();
        *CALIBRATED.get_or_init(|| Spin::new(Rate::measure(&mut Chain)))
    }

    /// For processors of this speed.
    pub fn new(rate: Rate) -> Spin {
        Spin { rate }
    }

    /// How fast processors are taken to be.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Keeps `processor` busy for `demand_ns`, or until the work is no longer wanted, which is asked about every
    /// millisecond.
    pub fn run(&self, processor: &mut impl Processor, demand_ns: u64, is_wanted: &dyn Fn() -> bool) {
        if demand_ns <= BY_COUNT_NS {
            return processor.work(self.rate.units_in(demand_ns));
        }
        let since_ns = processor.now_ns();
        let (mut rate, mut units, mut left_ns) = (self.rate, 0, demand_ns);
        while left_ns > LAST_NS {
            let part = rate.units_in((left_ns / 2).min(PART_NS));
            processor.work(part);
            units += part;
            if !is_wanted() {
                return;
            }
            let spent_ns = processor.now_ns() - since_ns;
            left_ns = demand_ns.saturating_sub(spent_ns);
            // As fast as it is now: more than half of the time has been worked when the last part begins.
            rate.units_per_ns = units as f64 / spent_ns.max(1) as f64;
        }
        processor.work(rate.units_in(left_ns));
    }

    /// By which share of each of [`TRIED_NS`] a run takes too long, or too short where it is below zero; by the
    /// processor's own clock. Takes some ten milliseconds.
    pub fn errors(&self, processor: &mut impl Processor) -> [f64; TRIED_NS.len()] {
        TRIED_NS.map(|demand_ns| {
            let runs = (SAMPLE_NS / demand_ns).max(1);
            let mut time = |runs: u64| {
                let since_ns = processor.now_ns();
                (0..runs).for_each(|_| self.run(processor, demand_ns, &|| true));
                processor.now_ns() - since_ns
            };
            // What disturbs a run makes it longer.
            let repeats = (10 * SAMPLE_NS / demand_ns).clamp(1, AGREEING as u64);
            let reading_ns = time(0);
            let took_ns = (0..repeats).map(|_| time(runs)).min().unwrap_or(0).saturating_sub(reading_ns);
            took_ns as f64 / (runs * demand_ns) as f64 - 1.0
        })
    }
}

/// The times for which the error is reported.
pub const TRIED_NS: [u64; 5] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// The calling thread's processor: a unit is a step of the chain.
pub struct Chain;

impl Processor for Chain {
    /// Never inlined, so that what is measured and what is run are the same instructions at the same place.
    #[inline(never)]
    fn work(&mut self, units: u64) {
        let mut link: u64 = black_box(0x9E37_79B9_7F4A_7C15);
        for _ in 0..units {
            // Marsaglia's xorshift: never 0, and no way to its n-th number that a compiler would find but step by step.
            link ^= link << 13;
            link ^= link >> 7;
            link ^= link << 17;
        }
        black_box(link);
    }

    fn now_ns(&mut self) -> u64 {
        clock::thread_cpu_ns()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A processor driven by hand: so many units take a nanosecond, by turns and as the test says.
    struct ByHand {
        now_ns: f64,
        /// How fast it is from a time on, in the order of times.
        speeds: Vec<(f64, f64)>,
        reading_ns: f64,
        /// What the n-th piece of work takes besides.
        disturbed: fn(usize) -> f64,
        pieces: usize,
        readings: usize,
        /// The first so many readings take longer than any sample.
        slow_readings: usize,
    }

    impl ByHand {
        fn new(units_per_ns: f64) -> ByHand {
            let speeds = vec![(0.0, units_per_ns)];
            let (pieces, readings, slow_readings) = (0, 0, 0);
            ByHand { now_ns: 0.0, speeds, reading_ns: 0.0, disturbed: |_| 0.0, pieces, readings, slow_readings }
        }

        fn speed(&self) -> f64 {
            self.speeds.iter().rev().find(|(since, _)| *since <= self.now_ns).expect("from the start on").1
        }

        /// Time until its speed changes.
        fn stays_ns(&self) -> f64 {
            let next = self.speeds.iter().map(|(since, _)| *since).find(|since| *since > self.now_ns);
            next.map_or(f64::INFINITY, |next| next - self.now_ns)
        }

        fn run(&mut self, spin: Spin, demand_ns: u64) -> f64 {
            let since_ns = self.now_ns;
            spin.run(self, demand_ns, &|| true);
            self.now_ns - since_ns
        }
    }

    impl Processor for ByHand {
        fn work(&mut self, units: u64) {
            let mut left = units as f64;
            while left > 0.0 {
                let now = (left / self.speed()).min(self.stays_ns());
                left -= now * self.speed();
                self.now_ns += now;
                if left < 1e-6 {
                    break;
                }
            }
            if units > 0 {
                self.now_ns += (self.disturbed)(self.pieces);
                self.pieces += 1;
            }
        }

        fn now_ns(&mut self) -> u64 {
            self.readings += 1;
            self.now_ns += if self.readings <= self.slow_readings { 900_000.0 } else { self.reading_ns };
            self.now_ns as u64
        }
    }

    fn rate(units_per_ns: f64) -> Rate {
        Rate { units_per_ns, is_settled: true }
    }

    #[track_caller]
    fn assert_near(got: f64, wanted: f64, share: f64) {
        assert!((got - wanted).abs() <= wanted * share, "{got} is not within {share} of {wanted}");
    }

    #[test]
    fn the_rate_is_that_of_the_processor_whatever_a_reading_costs() {
        for speed in [0.01, 0.6, 3.7, 40.0] {
            for reading_ns in [0.0, 30.0, 900.0] {
                let mut processor = ByHand { reading_ns, ..ByHand::new(speed) };
                let found = Rate::measure(&mut processor);
                assert_near(found.units_per_ns, speed, 0.005);
                assert!(found.is_settled);
                assert!(processor.now_ns < 3e6, "{} ns is no quick calibration", processor.now_ns);
            }
        }
    }

    #[test]
    fn disturbed_measurements_are_measured_again() {
        // Three of four take longer, each by another time.
        let disturbed =
            |piece: usize| if piece.is_multiple_of(4) { 0.0 } else { 1_000.0 * (1 + piece * 37 % 61) as f64 };
        let mut processor = ByHand { disturbed, ..ByHand::new(0.6) };
        let found = Rate::measure(&mut processor);
        assert_near(found.units_per_ns, 0.6, 0.005);
        assert!(found.is_settled);
    }

    #[test]
    fn readings_that_are_disturbed_at_first_are_made_again() {
        for slow_readings in 1..12 {
            let mut processor = ByHand { slow_readings, reading_ns: 30.0, ..ByHand::new(0.6) };
            assert!(Rate::measure(&mut processor).units_per_ns > 0.0);
        }
        // So many that only the clock's readings before the first sample are.
        let mut processor = ByHand { slow_readings: 2, reading_ns: 30.0, ..ByHand::new(0.6) };
        assert_near(Rate::measure(&mut processor).units_per_ns, 0.6, 0.005);
    }

    #[test]
    fn a_processor_that_never_agrees_with_itself_is_said_to() {
        let mut processor = ByHand { disturbed: |piece| 20_000.0 * (piece % 40) as f64, ..ByHand::new(0.6) };
        let found = Rate::measure(&mut processor);
        assert!(!found.is_settled && found.units_per_ns > 0.0, "{found:?}");
    }

    #[test]
    fn a_run_takes_as_long_as_was_asked_for() {
        let spin = Spin::new(rate(0.6));
        for reading_ns in [0.0, 430.0] {
            for demand_ns in [0, 1, 10, 999, 5_000, 29_999, 30_001, 47_123, 100_000, 1_000_000, 10_000_000, 999_999_999]
            {
                let mut processor = ByHand { reading_ns, ..ByHand::new(0.6) };
                let took_ns = processor.run(spin, demand_ns);
                assert!((took_ns - demand_ns as f64).abs() <= 2.0 + reading_ns, "{took_ns} of {demand_ns} ns");
            }
        }
    }

    #[test]
    fn a_short_run_looks_at_no_clock_and_a_long_one_seldom() {
        let spin = Spin::new(rate(0.6));
        for (demand_ns, most) in [(0, 0), (30_000, 0), (30_001, 4), (1_000_000, 9), (100_000_000, 120)] {
            let mut processor = ByHand::new(0.6);
            processor.run(spin, demand_ns);
            assert!(processor.readings <= most, "{} readings in {demand_ns} ns", processor.readings);
        }
    }

    #[test]
    fn a_processor_of_another_speed_lengthens_no_long_run() {
        // It was measured at 0.6, and is slower or quicker by now.
        for speed in [0.3, 0.45, 0.66, 1.1] {
            for demand_ns in [40_000, 250_000, 10_000_000] {
                let mut processor = ByHand::new(speed);
                let took_ns = processor.run(Spin::new(rate(0.6)), demand_ns);
                assert_near(took_ns, demand_ns as f64, 0.001);
            }
        }
    }

    #[test]
    fn a_processor_that_changes_its_speed_lengthens_no_long_run() {
        let mut processor = ByHand::new(0.6);
        let turns = (1..1_000).map(|turn| (f64::from(turn) * 333_000.0, if turn % 2 == 0 { 0.6 } else { 0.36 }));
        processor.speeds.extend(turns);
        for demand_ns in [1_000_000, 10_000_000, 100_000_000] {
            let took_ns = processor.run(Spin::new(rate(0.6)), demand_ns);
            assert_near(took_ns, demand_ns as f64, 0.005);
        }
    }

    #[test]
    fn what_nobody_wants_any_more_is_left() {
        let mut processor = ByHand::new(0.6);
        let asked = Cell::new(0);
        let is_wanted = || {
            asked.set(asked.get() + 1);
            asked.get() < 3
        };
        Spin::new(rate(0.6)).run(&mut processor, 10_000_000_000, &is_wanted);
        assert_near(processor.now_ns, 3.0 * PART_NS as f64, 0.01);
    }

    #[test]
    fn the_error_that_is_found_is_the_one_that_there_is() {
        let mut processor = ByHand { reading_ns: 430.0, ..ByHand::new(0.66) };
        let [one_us, ten_us, hundred_us, one_ms, ten_ms] = Spin::new(rate(0.6)).errors(&mut processor);
        for short in [one_us, ten_us] {
            assert!((short - (0.6 / 0.66 - 1.0)).abs() < 0.002, "{short}");
        }
        for long in [hundred_us, one_ms, ten_ms] {
            assert!(long.abs() < 0.01, "{long}");
        }
        assert!(processor.now_ns < 3e7, "{} ns", processor.now_ns);
    }

    #[test]
    fn the_real_processor_is_kept_busy() {
        let spin = Spin::calibrated();
        assert!(spin.rate().units_per_ns() > 0.0);
        let since_ns = Chain.now_ns();
        spin.run(&mut Chain, 2_000_000, &|| true);
        // Corrected by the clock that is looked at here: it is never less, but for the last part.
        assert!(Chain.now_ns() - since_ns >= 2_000_000 - LAST_NS);
    }
}
