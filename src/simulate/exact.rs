//! [`Exact`]: what theory knows of a scenario, if it knows anything.
//!
//! A formula belongs to a scenario only where its assumptions do: Poisson arrivals that are seen at once, no costs, and one
//! line for all servers, or a line each with as many connections as any other, which sees independent arrivals of its own.
//! Where all demands are alike the shortest of those that wait is the first.
//!
//! Read next: `queueing/formulas.rs`.

use crate::load::demand::Demand;
use crate::queueing::formulas::{Md1, Mmc, mg1_mean_wait, shared_mean_sojourn};
use crate::queueing::simulator::{Costs, Discipline, Polling, Queue};
use crate::simulate::scenario::{Scenario, Spacing};

/// What a formula says of a scenario at one load.
#[derive(Clone, Debug, PartialEq)]
pub struct Exact {
    /// Which one, as books call it: `M/M/16`.
    pub formula: String,
    /// The mean time that a request is not served.
    pub wait_mean_ns: f64,
    /// The mean from arrival to end.
    pub sojourn_mean_ns: f64,
    law: Law,
}

/// The distribution, where it is known.
#[derive(Clone, Debug, PartialEq)]
enum Law {
    Mmc(Mmc),
    Md1(Md1),
    MeanAlone,
}

impl Exact {
    /// The wait that a share `quantile` does not exceed, where it is known.
    pub fn wait_quantile_ns(&self, quantile: f64) -> Option<f64> {
        match &self.law {
            Law::Mmc(system) => Some(system.wait_quantile(quantile)),
            Law::Md1(system) => Some(system.wait_quantile(quantile)),
            Law::MeanAlone => None,
        }
    }

    /// The same from arrival to end.
    pub fn sojourn_quantile_ns(&self, quantile: f64) -> Option<f64> {
        match &self.law {
            Law::Mmc(system) => Some(system.sojourn_quantile(quantile)),
            Law::Md1(system) => Some(system.sojourn_quantile(quantile)),
            Law::MeanAlone => None,
        }
    }

    fn mean_alone(formula: String, wait_mean_ns: f64, service_ns: f64) -> Exact {
        Exact { formula, wait_mean_ns, sojourn_mean_ns: wait_mean_ns + service_ns, law: Law::MeanAlone }
    }
}

/// A system of which books have formulas.
struct Textbook<'a> {
    /// Of one line.
    servers: usize,
    discipline: Discipline,
    demand: &'a Demand,
}

impl Textbook<'_> {
    fn is_exponential(&self) -> bool {
        matches!(self.demand, Demand::Exponential { .. })
    }

    /// One server whose requests all take the same time, in the order in which they came.
    fn is_md1(&self) -> bool {
        let in_order = matches!(self.discipline, Discipline::Fifo | Discipline::ShortestFirst);
        self.servers == 1 && in_order && self.demand.squared_variation() == 0.0
    }
}

impl Scenario {
    /// What theory knows of this scenario at this load.
    pub fn exact(&self, load: f64) -> Option<Exact> {
        let textbook = self.textbook()?;
        let (servers, service_ns) = (textbook.servers, self.demand.mean_ns());
        let mmc = Mmc::new(servers, load, service_ns).ok()?;
        let mg1_wait_ns = mg1_mean_wait(load, service_ns, self.demand.squared_variation()).ok()?;
        let md1 = if textbook.is_md1() { Md1::new(load, service_ns).ok() } else { None };
        Some(match (self.system.discipline, md1) {
            (Discipline::ProcessorSharing, _) => {
                let sojourn_ns = shared_mean_sojourn(servers, load, service_ns).ok()?;
                Exact::mean_alone(format!("M/G/{servers}-PS"), sojourn_ns - service_ns, service_ns)
            }
            (_, Some(system)) => Exact {
                formula: "M/D/1".to_owned(),
                wait_mean_ns: system.mean_wait(),
                sojourn_mean_ns: system.mean_sojourn(),
                law: Law::Md1(system),
            },
            (Discipline::Fifo, None) if textbook.is_exponential() => Exact {
                formula: format!("M/M/{servers}"),
                wait_mean_ns: mmc.mean_wait(),
                sojourn_mean_ns: mmc.mean_sojourn(),
                law: Law::Mmc(mmc),
            },
            // Whoever is next without regard to its demand, the line is as long, and by Little so is the mean wait.
            (Discipline::Lifo, None) if textbook.is_exponential() => {
                Exact::mean_alone(format!("M/M/{servers}"), mmc.mean_wait(), service_ns)
            }
            (Discipline::Fifo | Discipline::Lifo, None) if servers == 1 => {
                Exact::mean_alone("M/G/1".to_owned(), mg1_wait_ns, service_ns)
            }
            _ => return None,
        })
    }

    /// The formula that says at which load a share `quantile` of sojourns is still at most `limit_ns`, and that load;
    /// none of the latter where service alone takes longer.
    pub(super) fn exact_largest_load(&self, quantile: f64, limit_ns: f64) -> Option<(String, Option<f64>)> {
        let textbook = self.textbook()?;
        let limit = limit_ns / self.demand.mean_ns();
        if textbook.is_md1() {
            return Some(("M/D/1".to_owned(), Md1::largest_load(quantile, limit)));
        }
        let is_mmc = textbook.is_exponential() && textbook.discipline == Discipline::Fifo;
        is_mmc.then(|| (format!("M/M/{}", textbook.servers), Mmc::largest_load(textbook.servers, quantile, limit)))
    }

    fn textbook(&self) -> Option<Textbook<'_>> {
        let system = &self.system;
        let is_plain = system.costs == Costs::default() && system.polling == Polling::default();
        if self.spacing != Spacing::Poisson || !is_plain || !self.has_equal_shares() {
            return None;
        }
        let servers = match &system.queue {
            Queue::Central => system.servers,
            Queue::Partitioned(_) => 1,
            Queue::Stealing(_) if system.servers == 1 => 1,
            Queue::Stealing(_) => return None,
        };
        Some(Textbook { servers, discipline: system.discipline, demand: &self.demand })
    }
}
