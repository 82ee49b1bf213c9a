//! What queueing theory knows in closed form, or by a sum that keeps its digits.
//!
//! Loads are shares of what all servers together can serve, strictly between 0 and 1: from 1 on an open system has no
//! steady state, and nothing here has a value. Times are in the unit of the mean service time that they are given. All of
//! it is for Poisson arrivals and systems that have run for ever.
//!
//! Sources: Erlang 1917 for the delay formula and M/D/1; Pollaczek 1930 and Khinchine 1932 for M/G/1; Franx 2001, "A
//! simple solution for the M/D/c waiting time distribution"; Kelly 1979, "Reversibility and Stochastic Networks", 3.3, for
//! processor sharing, whose number present knows nothing of the distribution but its mean.
//!
//! Read next: `simulator.rs`, which must agree.

use std::fmt;

/// No steady state, or nothing that can be computed to the last digits.
#[derive(Clone, Debug, PartialEq)]
pub struct OutOfDomain(String);

impl fmt::Display for OutOfDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OutOfDomain {}

fn check_load(load: f64) -> Result<(), OutOfDomain> {
    match load {
        load if 0.0 < load && load < 1.0 => Ok(()),
        load if load >= 1.0 => Err(OutOfDomain(format!("at a load of {load} the queue grows without end"))),
        load => Err(OutOfDomain(format!("{load} is no load"))),
    }
}

fn check_servers(servers: usize) -> Result<(), OutOfDomain> {
    if servers == 0 { Err(OutOfDomain("without servers nobody is served".to_owned())) } else { Ok(()) }
}

/// Erlang B: the share of arrivals that find all `servers` busy where nobody waits. `offered` is the load of all servers
/// together, rate × mean service time, and may be above their number. By the recursion over servers, whose terms are
/// shares, so that nothing overflows.
pub fn erlang_b(servers: usize, offered: f64) -> f64 {
    (1..=servers).fold(1.0, |blocked, server| offered * blocked / (server as f64 + offered * blocked))
}

/// Erlang C: the share of arrivals that have to wait for one of `servers`, of exponential service times.
///
/// # Errors
/// A load that is not strictly between 0 and 1; no servers.
pub fn erlang_c(servers: usize, load: f64) -> Result<f64, OutOfDomain> {
    check_load(load)?;
    check_servers(servers)?;
    let blocked = erlang_b(servers, load * servers as f64);
    Ok(blocked / (1.0 - load * (1.0 - blocked)))
}

/// M/M/c, first come first served: exponential service times, one line for all servers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mmc {
    service: f64,
    waits: f64,
    /// How fast the line drains while all are busy and somebody waits: the rate of the wait, if there is one.
    drain: f64,
}

impl Mmc {
    /// With service times of this mean.
    ///
    /// # Errors
    /// A load that is not strictly between 0 and 1; no servers.
    pub fn new(servers: usize, load: f64, service: f64) -> Result<Mmc, OutOfDomain> {
        let waits = erlang_c(servers, load)?;
        Ok(Mmc { service, waits, drain: servers as f64 * (1.0 - load) / service })
    }

    /// The share that has to wait.
    pub fn waits(&self) -> f64 {
        self.waits
    }

    /// The mean wait.
    pub fn mean_wait(&self) -> f64 {
        self.waits / self.drain
    }

    /// The mean from arrival to end.
    pub fn mean_sojourn(&self) -> f64 {
        self.mean_wait() + self.service
    }

    /// The share that waits longer than `time`.
    pub fn wait_beyond(&self, time: f64) -> f64 {
        self.waits * (-self.drain * time).exp()
    }

    /// The share that is here longer than `time`.
    pub fn sojourn_beyond(&self, time: f64) -> f64 {
        let rate = 1.0 / self.service;
        // Service alone, and what a wait adds to it: the difference of two exponentials over that of their rates, written
        // so that it stays right where the rates come near each other, and where one of them vanishes.
        let (slow, apart) = (rate.min(self.drain), (self.drain - rate).abs() * time);
        let shape = if apart == 0.0 { 1.0 } else { -(-apart).exp_m1() / apart };
        (-rate * time).exp() + self.waits * rate * time * (-slow * time).exp() * shape
    }

    /// The wait that a share `quantile` does not exceed.
    pub fn wait_quantile(&self, quantile: f64) -> f64 {
        ((self.waits / (1.0 - quantile)).ln() / self.drain).max(0.0)
    }

    /// The sojourn that a share `quantile` does not exceed, by bisection to the last digit.
    pub fn sojourn_quantile(&self, quantile: f64) -> f64 {
        first_at_most(1.0 - quantile, self.service, |time| self.sojourn_beyond(time))
    }

    /// The largest load at which a share `quantile` of all sojourns is at most `limit` mean service times; none where
    /// service alone takes longer.
    pub fn largest_load(servers: usize, quantile: f64, limit: f64) -> Option<f64> {
        largest_load(|load| {
            let beyond = Mmc::new(servers, load, 1.0).map(|system| system.sojourn_beyond(limit));
            beyond.is_ok_and(|beyond| beyond <= 1.0 - quantile)
        })
    }
}

/// M/G/1, first come first served, or in any order that does not look at service times: the mean wait by Pollaczek and
/// Khinchine. `squared_variation` is that of service times, their variance over their squared mean.
///
/// # Errors
/// A load that is not strictly between 0 and 1.
pub fn mg1_mean_wait(load: f64, service: f64, squared_variation: f64) -> Result<f64, OutOfDomain> {
    check_load(load)?;
    Ok(load / (1.0 - load) * (1.0 + squared_variation) / 2.0 * service)
}

/// M/G/c under processor sharing, all servers together and nobody faster than one of them: the mean sojourn, whatever the
/// distribution of service times. The number present is that of M/M/c, so that this is its sojourn; for one server,
/// `service / (1 - load)`.
///
/// # Errors
/// A load that is not strictly between 0 and 1; no servers.
pub fn shared_mean_sojourn(servers: usize, load: f64, service: f64) -> Result<f64, OutOfDomain> {
    Mmc::new(servers, load, service).map(|system| system.mean_sojourn())
}

/// M/D/1, first come first served: service times that are all alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Md1 {
    load: f64,
    service: f64,
    /// The probability that at most so many wait, for 0, 1, 2 and so on, until nobody is left to speak of.
    at_most: Vec<f64>,
}

impl Md1 {
    /// Above it the states to be counted grow into the hundred thousands, and their rounding into what is asked for.
    pub const LARGEST_LOAD: f64 = 0.9999;

    /// What is beyond the last state that is counted.
    const REST: f64 = 1e-11;

    /// With service times of this length. Good for quantiles up to 1 - 1e-9.
    ///
    /// # Errors
    /// A load that is not strictly between 0 and 1, or above [`LARGEST_LOAD`](Self::LARGEST_LOAD).
    pub fn new(load: f64, service: f64) -> Result<Md1, OutOfDomain> {
        check_load(load)?;
        if load > Md1::LARGEST_LOAD {
            return Err(OutOfDomain(format!("M/D/1 is computed up to a load of {}, not {load}", Md1::LARGEST_LOAD)));
        }
        let beyond = arrivals_beyond(load);
        let none_arrives = 1.0 - beyond[1];
        // The probability of each number present. What rises past a number comes down past it as often, which gives each
        // from those before by positive terms alone (Ramaswami).
        let mut present = vec![1.0 - load];
        let mut at_most = Vec::new();
        let mut below = present[0];
        loop {
            let next = present.len();
            let least = (next + 2).saturating_sub(beyond.len()).max(1);
            let from_others: f64 = (least..next).map(|from| present[from] * beyond[next + 1 - from]).sum();
            let from_none = beyond.get(next).map_or(0.0, |share| present[0] * share);
            present.push((from_none + from_others) / none_arrives);
            below += present[next];
            // One of those present is being served.
            at_most.push(below);
            // From one state to the next the probability falls by the same ratio before long.
            let ratio = present[next] / present[next - 1];
            if present[next] * ratio < Md1::REST * (1.0 - ratio) {
                return Ok(Md1 { load, service, at_most });
            }
        }
    }

    /// The mean wait.
    pub fn mean_wait(&self) -> f64 {
        self.load / (1.0 - self.load) / 2.0 * self.service
    }

    /// The mean from arrival to end.
    pub fn mean_sojourn(&self) -> f64 {
        self.mean_wait() + self.service
    }

    /// The share that waits no longer than `time`: whoever arrives is served in time if of those who waited at a moment a
    /// whole number of services earlier, and of those who came since, few enough are left (Franx).
    pub fn waits_at_most(&self, time: f64) -> f64 {
        let services = (time / self.service).floor();
        let since = self.load * (services + 1.0 - time / self.service);
        let mut poisson = (-since).exp();
        let mut share = 0.0;
        // Thirty more than one on average are less likely than what is rounded away.
        for came in 0..=(services as usize).min(30) {
            let waiting = services as usize - came;
            share += poisson * self.at_most.get(waiting).copied().unwrap_or(1.0);
            poisson *= since / (came + 1) as f64;
        }
        share
    }

    /// The wait that a share `quantile` does not exceed, by bisection.
    pub fn wait_quantile(&self, quantile: f64) -> f64 {
        if self.waits_at_most(0.0) >= quantile {
            return 0.0;
        }
        first_at_most(1.0 - quantile, self.service, |time| 1.0 - self.waits_at_most(time))
    }

    /// The sojourn that a share `quantile` does not exceed.
    pub fn sojourn_quantile(&self, quantile: f64) -> f64 {
        self.wait_quantile(quantile) + self.service
    }

    /// The largest load, up to [`LARGEST_LOAD`](Self::LARGEST_LOAD), at which a share `quantile` of all sojourns is at
    /// most `limit` service times; none where service alone takes longer.
    pub fn largest_load(quantile: f64, limit: f64) -> Option<f64> {
        largest_load(|load| {
            let wait = limit - 1.0;
            wait >= 0.0 && Md1::new(load, 1.0).is_ok_and(|system| system.waits_at_most(wait) >= quantile)
        })
    }
}

/// The probability that at least so many arrive in one service, for 0, 1, 2 and so on.
fn arrivals_beyond(load: f64) -> Vec<f64> {
    // The load is below one, so that this many arrivals are less likely than the smallest number.
    const MOST: usize = 150;
    let mut exactly = vec![(-load).exp()];
    while exactly.len() < MOST && exactly[exactly.len() - 1] > f64::MIN_POSITIVE {
        exactly.push(exactly[exactly.len() - 1] * load / exactly.len() as f64);
    }
    // Summed from the smallest on, so that none is lost beside a larger one.
    let mut beyond = exactly;
    for at in (0..beyond.len() - 1).rev() {
        beyond[at] += beyond[at + 1];
    }
    beyond
}

/// Where a falling function of time comes down to `share`, to the last digit that bisection gives.
fn first_at_most(share: f64, unit: f64, beyond: impl Fn(f64) -> f64) -> f64 {
    let mut high = unit;
    while beyond(high) > share {
        high *= 2.0;
    }
    let mut low = 0.0;
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return high;
        }
        if beyond(middle) > share { low = middle } else { high = middle }
    }
}

/// The largest load that `keeps`, which holds up to some load and not above, to a billionth.
fn largest_load(keeps: impl Fn(f64) -> bool) -> Option<f64> {
    let (mut low, mut high) = (1e-9, 1.0);
    if !keeps(low) {
        return None;
    }
    while high - low > 1e-9 {
        let middle = (low + high) / 2.0;
        if keeps(middle) { low = middle } else { high = middle }
    }
    Some(low)
}

#[cfg(test)]
mod tests;
