//! [`Scenario`]: a system of servers and the kind of load that it is put under; the load itself is the one thing left open.
//!
//! A load is a share of capacity: 1 is servers ÷ mean demand, what all servers could do at no cost. Its trace is the very
//! one that `maitred load` sends with this seed, these connections and this demand, so that two systems, or a simulated and
//! a real one, are given the same requests.
//!
//! Read next: `queueing/simulator.rs`, which runs it; `exact.rs`.

use crate::load::demand::Demand;
use crate::load::plan::{Arrivals, SEED};
use crate::load::schedule::{Stream, Trace};
use crate::queueing::simulator::{Costs, Queue, Request, System, simulate};
use crate::random::Random;
use crate::simulate::sample::Outcome;

/// Requests that are measured at each load, where nobody asks for another number: enough for the 99.9th percentile and
/// for a mean within a per cent, up to high loads.
pub const REQUESTS: u64 = 1_000_000;
/// Connections for each server, where nobody asks for another number: so many that their number plays no part.
pub const CONNECTIONS_PER_SERVER: usize = 64;

/// A system and the kind of load that it is under.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// The servers.
    pub system: System,
    /// How long requests take; its mean is above zero.
    pub demand: Demand,
    /// How arrivals are spaced.
    pub spacing: Spacing,
    /// Over how many connections they come, each equally likely.
    pub connections: usize,
    /// How many are measured; a tenth more is run before them and another one behind, so that neither an empty system nor
    /// one that nobody comes to any more is in what is measured.
    pub requests: u64,
    /// Decides the trace.
    pub seed: u64,
}

/// How arrivals are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Independently of each other.
    Poisson,
    /// Evenly.
    Uniform,
}

impl Spacing {
    /// The name of `--arrivals`.
    pub fn name(self) -> &'static str {
        self.at(1.0).name()
    }

    fn at(self, rate_per_s: f64) -> Arrivals {
        match self {
            Spacing::Poisson => Arrivals::Poisson { rate_per_s },
            Spacing::Uniform => Arrivals::Uniform { rate_per_s },
        }
    }
}

/// Which connections live on which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In turn.
    RoundRobin,
    /// Each on any.
    Random,
}

impl Placement {
    /// The name of `--placement`.
    pub fn name(self) -> &'static str {
        match self {
            Placement::RoundRobin => "round-robin",
            Placement::Random => "random",
        }
    }

    /// The server of each connection.
    pub fn homes(self, connections: usize, servers: usize, seed: u64) -> Vec<usize> {
        let home = |connection: usize| match self {
            Placement::RoundRobin => connection % servers,
            Placement::Random => Random::at(seed, Stream::Homes as u64, connection as u64).below(servers),
        };
        (0..connections).map(home).collect()
    }
}

/// The server that most is asked of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busiest {
    /// Which; none where all servers have one line, or help each other.
    pub server: Option<usize>,
    /// What it is asked for, as a share of what it can serve, costs of every request included. From 1 on there is no steady
    /// state.
    pub load: f64,
}

impl Scenario {
    /// The ideal that others are held to: one line, first come first served, at no cost, under Poisson arrivals (M/G/n).
    pub fn ideal(demand: Demand, servers: usize) -> Scenario {
        Scenario {
            system: System::ideal(servers),
            demand,
            spacing: Spacing::Poisson,
            connections: servers * CONNECTIONS_PER_SERVER,
            requests: REQUESTS,
            seed: SEED,
        }
    }

    /// Requests per second at this load.
    pub fn offered_per_s(&self, load: f64) -> f64 {
        load * self.system.servers as f64 / self.demand.mean_ns() * 1e9
    }

    /// The server that most is asked of at this load.
    pub fn busiest(&self, load: f64) -> Busiest {
        let Costs { request_ns, .. } = self.system.costs;
        let load = load * (1.0 + request_ns as f64 / self.demand.mean_ns());
        let Queue::Partitioned(homes) = &self.system.queue else { return Busiest { server: None, load } };
        let counts = counts(homes, self.system.servers);
        let most = counts.iter().copied().max().expect("there are servers");
        let share = most as f64 * self.system.servers as f64 / self.connections as f64;
        Busiest { server: counts.iter().position(|count| *count == most), load: load * share }
    }

    /// Whether each server has as many connections as any other.
    pub(super) fn has_equal_shares(&self) -> bool {
        match &self.system.queue {
            Queue::Central => true,
            Queue::Partitioned(homes) | Queue::Stealing(homes) => {
                let counts = counts(homes, self.system.servers);
                counts.iter().all(|count| *count == counts[0])
            }
        }
    }

    /// The requests at this load, without end.
    pub fn trace(&self, load: f64) -> impl Iterator<Item = Request> + use<> {
        let arrivals = self.spacing.at(self.offered_per_s(load));
        Trace::new(arrivals, self.connections, self.demand.clone(), self.seed).map(|due| Request {
            at_ns: due.arrival.at_ns,
            demand_ns: due.demand_ns,
            connection: due.arrival.connection,
        })
    }

    /// How many requests are run and not measured before those that are, and as many behind them.
    pub fn warm_up(&self) -> u64 {
        self.requests.div_ceil(10)
    }

    /// What the simulator finds at this load. With `limit_ns` it also counts who took longer than that.
    ///
    /// There is no steady state to be found where [`busiest`](Self::busiest) is asked for as much as it can serve; then
    /// what is found depends on nothing but the number of requests.
    pub fn run(&self, load: f64, limit_ns: Option<f64>) -> Outcome {
        let warm_up = self.warm_up();
        let all = self.requests + 2 * warm_up;
        let all = usize::try_from(all).expect("a computer of 64 bits counts to any number of requests");
        let mut outcome = Outcome::new(self.requests, self.demand.mean_ns(), limit_ns);
        simulate(&self.system, self.trace(load).take(all), |served| {
            if let Some(number) = served.number.checked_sub(warm_up).filter(|number| *number < self.requests) {
                outcome.record(number, served);
            }
        });
        outcome
    }
}

/// Connections of each server.
fn counts(homes: &[usize], servers: usize) -> Vec<usize> {
    let mut counts = vec![0; servers];
    homes.iter().for_each(|home| counts[*home] += 1);
    counts
}
