//! When the requests of an open loop are due, and on which connection: a function of the seed and nothing else.
//!
//! Times, places and demands are drawn from streams of their own, so that changing one of them leaves the others as they
//! were, and two servers can be given the identical trace. Nothing is drawn ahead: an arrival is made when the one
//! before it has been taken, which changes nothing in what is made, and a run of hours needs no memory.
//!
//! Invariant *decided-beforehand*: neither a clock nor a reply is known here. Read next: `client.rs`, which sends on time.

use crate::load::demand::Demand;
use crate::load::plan::Arrivals;
use crate::random::Random;

/// The streams of draws that one seed gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// Gaps between arrivals.
    Arrivals = 1,
    /// The connection of each arrival.
    Places = 2,
    /// The service time of each request.
    Demands = 3,
    /// What tells the bytes of one connection from those of another.
    Keys = 4,
    /// The bytes that all requests have in common.
    Body = 5,
    /// The server of each connection, where a simulated system places them at random.
    Homes = 6,
}

/// One request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Nanoseconds after the load begins.
    pub at_ns: u64,
    /// The connection that it is for, from 0 on.
    pub connection: usize,
}

/// The arrivals of one span of load, in order.
pub struct Schedule {
    gaps: Gaps,
    pace: Pace,
    places: Random,
    connections: usize,
    length_ns: u64,
    made: u64,
}

enum Gaps {
    /// A closed loop has no arrivals: its requests follow the replies.
    None,
    Poisson {
        random: Random,
        mean_ns: f64,
        at_ns: f64,
    },
    Uniform {
        gap_ns: f64,
    },
}

impl Schedule {
    /// The arrivals of the first `length_ns` over `connections`.
    pub fn new(arrivals: Arrivals, connections: usize, length_ns: u64, seed: u64) -> Schedule {
        let gaps = match arrivals {
            Arrivals::Closed => Gaps::None,
            Arrivals::Poisson { rate_per_s } => {
                let random = Random::at(seed, Stream::Arrivals as u64, 0);
                Gaps::Poisson { random, mean_ns: 1e9 / rate_per_s, at_ns: 0.0 }
            }
            Arrivals::Uniform { rate_per_s } => Gaps::Uniform { gap_ns: 1e9 / rate_per_s },
        };
        let places = Random::at(seed, Stream::Places as u64, 0);
        Schedule { gaps, pace: Pace::default(), places, connections, length_ns, made: 0 }
    }

    /// The same arrivals, in the same order and on the same connections, at a rate that changes like this.
    pub fn paced(self, pace: Pace) -> Schedule {
        Schedule { pace, ..self }
    }
}

/// How a rate changes: by a factor for some time, then by the next; the last goes on. Without any it stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pace {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
struct Step {
    /// When it begins.
    from_ns: f64,
    /// The same by a clock that runs by the factors, on which the arrivals are those of the rate alone.
    from_paced_ns: f64,
    factor: f64,
}

impl Pace {
    /// One factor after the other, each with how long it lasts. Factors are above zero.
    pub fn new(lasting: impl IntoIterator<Item = (u64, f64)>) -> Pace {
        let (mut from_ns, mut from_paced_ns) = (0.0, 0.0);
        let step = |(length_ns, factor): (u64, f64)| {
            let step = Step { from_ns, from_paced_ns, factor };
            from_ns += length_ns as f64;
            from_paced_ns += length_ns as f64 * factor;
            step
        };
        Pace { steps: lasting.into_iter().map(step).collect() }
    }

    /// When it is by the wall what it is by the clock of the factors.
    fn at(&self, paced_ns: f64) -> f64 {
        let step = self.steps.iter().rfind(|step| step.from_paced_ns <= paced_ns);
        step.map_or(paced_ns, |step| step.from_ns + (paced_ns - step.from_paced_ns) / step.factor)
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let at_ns = match &mut self.gaps {
            Gaps::None => return None,
            Gaps::Poisson { random, mean_ns, at_ns } => {
                *at_ns += random.exponential(*mean_ns);
                *at_ns
            }
            // Multiplied, not added up, so that a gap which is no whole number does not drift.
            Gaps::Uniform { gap_ns } => *gap_ns * self.made as f64,
        };
        self.made += 1;
        let at_ns = self.pace.at(at_ns);
        let arrival = Arrival { at_ns: at_ns as u64, connection: self.places.below(self.connections) };
        (arrival.at_ns < self.length_ns).then_some(arrival)
    }
}

/// How long the request `number` of a connection asks to be served, both from 0 on. The same request asks for the same,
/// however often its frame is made.
pub fn demand_ns(demand: &Demand, seed: u64, connection: usize, number: u64) -> u64 {
    let index = (connection as u64) << 40 | number;
    demand.sample_ns(&mut Random::at(seed, Stream::Demands as u64, index))
}

/// The trace of an open loop: what a load of these arrivals, connections, demands and this seed asks for, without end.
pub struct Trace {
    schedule: Schedule,
    demand: Demand,
    seed: u64,
    /// Requests of each connection so far.
    made: Vec<u64>,
}

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When, and over which connection.
    pub arrival: Arrival,
    /// How long it asks to be served.
    pub demand_ns: u64,
}

impl Trace {
    /// The trace of a load. A closed loop has none.
    pub fn new(arrivals: Arrivals, connections: usize, demand: Demand, seed: u64) -> Trace {
        let schedule = Schedule::new(arrivals, connections, u64::MAX, seed);
        Trace { schedule, demand, seed, made: vec![0; connections] }
    }

    /// The same at a rate that changes like this.
    pub fn paced(self, pace: Pace) -> Trace {
        Trace { schedule: self.schedule.paced(pace), ..self }
    }
}

impl Iterator for Trace {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        let arrival = self.schedule.next()?;
        let number = &mut self.made[arrival.connection];
        let demand_ns = demand_ns(&self.demand, self.seed, arrival.connection, *number);
        *number += 1;
        Some(Due { arrival, demand_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn arrivals(arrivals: Arrivals, seed: u64) -> Vec<Arrival> {
        Schedule::new(arrivals, 7, 10 * SECOND_NS, seed).collect()
    }

    /// The largest distance between the distribution of the values and `cdf` (Kolmogorov and Smirnov).
    fn distance(mut values: Vec<f64>, cdf: impl Fn(f64) -> f64) -> f64 {
        values.sort_by(f64::total_cmp);
        let n = values.len() as f64;
        let steps = values.iter().enumerate().map(|(index, value)| {
            let expected = cdf(*value);
            (expected - index as f64 / n).abs().max((expected - (index + 1) as f64 / n).abs())
        });
        steps.fold(0.0, f64::max)
    }

    /// What the distance of `n` true values exceeds once in a thousand times.
    fn critical(n: usize) -> f64 {
        1.949 / (n as f64).sqrt()
    }

    #[test]
    fn gaps_of_poisson_arrivals_are_exponential() {
        for seed in 1..=5 {
            let all = arrivals(Arrivals::Poisson { rate_per_s: 2_000.0 }, seed);
            let times = std::iter::once(0).chain(all.iter().map(|arrival| arrival.at_ns));
            let gaps: Vec<f64> = times.zip(&all).map(|(before, arrival)| (arrival.at_ns - before) as f64).collect();
            assert!(gaps.len() > 19_000, "{}", gaps.len());
            let (found, limit) = (distance(gaps.clone(), |gap| 1.0 - (-gap / 500_000.0).exp()), critical(gaps.len()));
            assert!(found < limit, "seed {seed}: {found} of {limit}");
            // The test sees a mean that is 5 % off.
            let off = distance(gaps.clone(), |gap| 1.0 - (-gap / 525_000.0).exp());
            assert!(off > limit, "{off} of {limit}");
        }
    }

    #[test]
    fn neighbouring_gaps_know_nothing_of_each_other() {
        let all = arrivals(Arrivals::Poisson { rate_per_s: 2_000.0 }, 3);
        let gaps: Vec<f64> =
            all.windows(2).map(|pair| (pair[1].at_ns - pair[0].at_ns) as f64 / 500_000.0 - 1.0).collect();
        let correlation = gaps.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / gaps.len() as f64;
        // The variance of such gaps is 1; three deviations of the mean of n products.
        assert!(correlation.abs() < 3.0 / (gaps.len() as f64).sqrt(), "{correlation}");
    }

    #[test]
    fn uniform_arrivals_are_evenly_spaced_without_drift() {
        let all = arrivals(Arrivals::Uniform { rate_per_s: 3.0 }, 1);
        assert_eq!(all.len(), 30);
        for (index, arrival) in all.iter().enumerate() {
            assert!(arrival.at_ns.abs_diff(index as u64 * SECOND_NS / 3) <= 1, "{arrival:?}");
        }
    }

    #[test]
    fn connections_get_equal_shares() {
        let all = arrivals(Arrivals::Poisson { rate_per_s: 7_000.0 }, 9);
        let places: Vec<f64> = all.iter().map(|arrival| arrival.connection as f64).collect();
        for connection in 0..7 {
            let count = places.iter().filter(|place| **place == f64::from(connection)).count() as f64;
            let expected = places.len() as f64 / 7.0;
            // Four deviations of a count.
            assert!((count - expected).abs() < 4.0 * expected.sqrt(), "{connection}: {count} of {expected}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_does_not() {
        let poisson = Arrivals::Poisson { rate_per_s: 1_000.0 };
        assert_eq!(arrivals(poisson, 1), arrivals(poisson, 1));
        assert_ne!(arrivals(poisson, 1), arrivals(poisson, 2));
        // Twice the rate puts other times on the same connections.
        let places = |rate_per_s: f64| arrivals(Arrivals::Poisson { rate_per_s }, 1).into_iter().map(|a| a.connection);
        assert!(places(1_000.0).zip(places(2_000.0)).all(|(slow, fast)| slow == fast));
        assert!(arrivals(Arrivals::Closed, 1).is_empty());
    }

    #[test]
    fn a_rate_that_changes_moves_the_arrivals_and_nothing_else() {
        let uniform = Arrivals::Uniform { rate_per_s: 10.0 };
        let steps = [(SECOND_NS, 1.0), (SECOND_NS, 4.0), (SECOND_NS, 0.5)];
        let schedule = || Schedule::new(uniform, 7, 4 * SECOND_NS, 1);
        let paced: Vec<Arrival> = schedule().paced(Pace::new(steps)).collect();
        // The last factor goes on.
        let in_second = |second| paced.iter().filter(|arrival| arrival.at_ns / SECOND_NS == second).count();
        assert_eq!([0, 1, 2, 3].map(in_second), [10, 40, 5, 5]);
        assert!(paced.is_sorted_by_key(|arrival| arrival.at_ns));
        assert_eq!(paced[11].at_ns, SECOND_NS + 25_000_000);
        let places = Schedule::new(uniform, 7, u64::MAX, 1).map(|arrival| arrival.connection);
        assert!(paced.iter().map(|arrival| arrival.connection).eq(places.take(paced.len())));

        let poisson = || Schedule::new(Arrivals::Poisson { rate_per_s: 500.0 }, 7, 9 * SECOND_NS, 3);
        let plain: Vec<Arrival> = poisson().collect();
        assert!(poisson().paced(Pace::new([])).eq(plain.iter().copied()));
        let in_overload = |arrival: &&Arrival| (3..5).contains(&(arrival.at_ns / SECOND_NS));
        let overload = poisson().paced(Pace::new([(3 * SECOND_NS, 0.5), (2 * SECOND_NS, 2.0), (1, 0.5)]));
        let overload: Vec<Arrival> = overload.collect();
        let count = overload.iter().filter(in_overload).count() as f64;
        // Four deviations of a count.
        assert!((count - 2_000.0).abs() < 4.0 * 2_000.0_f64.sqrt(), "{count}");
        assert!(plain.iter().zip(&overload).all(|(plain, paced)| plain.connection == paced.connection));
    }

    #[test]
    fn a_trace_is_what_a_load_with_its_seed_sends() {
        let poisson = Arrivals::Poisson { rate_per_s: 2_000.0 };
        let demand = Demand::parse("exp:1ms").expect("it is a distribution");
        let trace: Vec<Due> = Trace::new(poisson, 7, demand.clone(), 4).take(1_000).collect();
        assert!(Schedule::new(poisson, 7, SECOND_NS, 4).zip(&trace).all(|(arrival, due)| arrival == due.arrival));
        // Demands are numbered on each connection, as its frames are.
        for connection in 0..7 {
            let own = trace.iter().filter(|due| due.arrival.connection == connection);
            let found: Vec<u64> = own.map(|due| due.demand_ns).collect();
            assert!(found.len() > 50);
            let expected: Vec<u64> =
                (0..found.len() as u64).map(|number| demand_ns(&demand, 4, connection, number)).collect();
            assert_eq!(found, expected);
        }
    }
}
