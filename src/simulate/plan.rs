//! [`Plan`]: what is simulated, at which loads, and the objective; checked once, then read-only.
//!
//! Made by [`Plan::resolve`] from the flags. Invariant *fits-its-system*: what is asked for without a meaning, such as a
//! placement for one line, is refused and not ignored. Read next: `scenario.rs`.

use std::time::Duration;

use crate::cli::SimulateArgs;
use crate::config::{number, shown, time, usage, within};
use crate::error::Error;
use crate::load::demand::{self, Demand};
use crate::load::plan::{SEED, parse_quantile};
use crate::metrics::histogram::{SAMPLES_BEYOND, is_believable};
use crate::queueing::simulator::{Costs, Discipline, Polling, Queue, System};
use crate::simulate::scenario::{CONNECTIONS_PER_SERVER, Placement, REQUESTS, Scenario, Spacing};
use crate::units::series::{self, parse_series};
use crate::units::{parse_decimal, parse_duration};

/// The default of `--servers`: a machine of ordinary size.
pub const SERVERS: usize = 16;
/// The default of `--load`.
pub const LOADS: &str = "0.1..0.9:9";
/// The default of `--demand`: the service time of small requests, with the distribution that has the most formulas.
pub const DEMAND: &str = "exp:10us";

/// The upper bounds are there so that a slip of the keyboard is an error and not an hour.
const MAX_SERVERS: u64 = 65_536;
const MAX_CONNECTIONS: u64 = 10_000_000;
const MAX_REQUESTS: u64 = 100_000_000_000;
const MAX_LOW_WATER: u64 = 1_000_000_000;
const MAX_COST: Duration = Duration::from_secs(3_600);
/// Fewer make no interval of a mean.
const MIN_REQUESTS: u64 = 1_000;
const MAX_MULTIPLE: f64 = 1e6;

/// What is simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The system and the kind of load.
    pub scenario: Scenario,
    /// Where connections were placed; none for one line.
    pub placement: Option<Placement>,
    /// The loads, each strictly between 0 and 1.
    pub loads: Vec<f64>,
    /// What the largest load is looked for that keeps it.
    pub objective: Option<Objective>,
}

/// A quantile of the time from arrival to end, and the most that it may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// Strictly between 0 and 1.
    pub quantile: f64,
    /// The most that it may be.
    pub at_most_ns: f64,
    /// As it was typed: `p99=10x`.
    pub text: String,
}

impl Plan {
    /// The plan that these flags amount to.
    ///
    /// # Errors
    /// The first thing that is wrong, as [`Error::Usage`] with the flag, the value and what was expected.
    pub fn resolve(args: &SimulateArgs) -> Result<Plan, Error> {
        let servers = number("--servers", &args.servers, 1, MAX_SERVERS)?.map_or(SERVERS, |servers| servers as usize);
        let connections = number("--connections", &args.connections, 1, MAX_CONNECTIONS)?;
        let connections = connections.map_or(servers * CONNECTIONS_PER_SERVER, |connections| connections as usize);
        let seed = number("--seed", &args.seed, 0, u64::MAX)?.unwrap_or(SEED);
        let (queue, placement) = queue(args, servers, connections, seed)?;
        let discipline = discipline(args, &queue)?;
        let polling = polling(args, discipline)?;
        let costs = costs(args, &queue)?;
        let demand = demand(args)?;
        let requests = number("--requests", &args.requests, MIN_REQUESTS, MAX_REQUESTS)?.unwrap_or(REQUESTS);
        let spacing = if args.arrivals.as_deref() == Some("uniform") { Spacing::Uniform } else { Spacing::Poisson };
        let system = System { servers, queue, discipline, costs, polling };
        let objective = args.slo.as_deref().map(|text| Objective::parse(text, demand.mean_ns())).transpose()?;
        if let Some(objective) = objective.as_ref().filter(|objective| !is_believable(objective.quantile, requests)) {
            let needed = (SAMPLES_BEYOND as f64 / (1.0 - objective.quantile)).ceil();
            let problem = format!("{requests} are too few for {}", objective.text);
            return Err(usage("--requests", problem, format!("{needed} or more, for ten beyond that quantile")));
        }
        let scenario = Scenario { system, demand, spacing, connections, requests, seed };
        let loads = loads(args, &scenario)?;
        Ok(Plan { scenario, placement, loads, objective })
    }
}

impl Objective {
    /// The objective written as `text`: `p99=10x`, in mean demands, or `p99=500us`.
    ///
    /// # Errors
    /// [`Error::Usage`] of `--slo`.
    pub fn parse(text: &str, mean_demand_ns: f64) -> Result<Objective, Error> {
        let wrong = |part: &str, problem: &str| {
            let expected =
                "pN=Mx with N between 0 and 100 and M mean demands, or pN=DURATION, as in p99=10x or p99=500us";
            usage("--slo", format!("{} {problem}", shown(part)), expected)
        };
        let (name, at_most) = text.split_once('=').ok_or_else(|| wrong(text, "is not an objective"))?;
        let quantile = parse_quantile(name).map_err(|problem| wrong(name, problem))?;
        let at_most_ns = match at_most.strip_suffix('x').and_then(parse_decimal) {
            Some(multiple) => within(multiple, 0.0, MAX_MULTIPLE).map(|multiple| multiple * mean_demand_ns),
            None => parse_duration(at_most).map(|time| time.as_nanos() as f64),
        };
        let at_most_ns = at_most_ns.and_then(|ns| if ns > 0.0 { Ok(ns) } else { Err("is too small") });
        let at_most_ns = at_most_ns.map_err(|problem| wrong(at_most, problem))?;
        Ok(Objective { quantile, at_most_ns, text: text.to_owned() })
    }
}

fn queue(
    args: &SimulateArgs,
    servers: usize,
    connections: usize,
    seed: u64,
) -> Result<(Queue, Option<Placement>), Error> {
    // Clap lets no other words through.
    let placement = if args.placement.as_deref() == Some("random") { Placement::Random } else { Placement::RoundRobin };
    let homes = || placement.homes(connections, servers, seed);
    match args.queue.as_deref() {
        Some("partitioned") => Ok((Queue::Partitioned(homes()), Some(placement))),
        Some("stealing") => Ok((Queue::Stealing(homes()), Some(placement))),
        _ if args.placement.is_some() => {
            let problem = "has no meaning where all servers have one line";
            Err(usage("--placement", problem, "--queue partitioned or --queue stealing beside it"))
        }
        _ => Ok((Queue::Central, None)),
    }
}

fn discipline(args: &SimulateArgs, queue: &Queue) -> Result<Discipline, Error> {
    let discipline = match args.discipline.as_deref() {
        Some("lifo") => Discipline::Lifo,
        Some("sjf") => Discipline::ShortestFirst,
        Some("ps") => Discipline::ProcessorSharing,
        _ => Discipline::Fifo,
    };
    if discipline == Discipline::ProcessorSharing && matches!(queue, Queue::Stealing(_)) {
        let problem = "ps has no meaning with stealing: nobody waits, so that there is nothing to steal";
        return Err(usage("--discipline", problem, "fifo, lifo or sjf, or another --queue"));
    }
    Ok(discipline)
}

fn polling(args: &SimulateArgs, discipline: Discipline) -> Result<Polling, Error> {
    let every = time("--poll-every", &args.poll_every, Duration::from_nanos(1), MAX_COST)?;
    let given = args.low_water.clone().filter(|text| text != "off");
    let low_water = number("--low-water", &given, 0, MAX_LOW_WATER)?;
    if low_water.is_some() && discipline == Discipline::ProcessorSharing {
        return Err(usage("--low-water", "has no meaning with ps, where nobody waits", "another --discipline"));
    }
    Ok(Polling { every_ns: every.map(ns), low_water: low_water.map(|mark| mark as usize) })
}

fn costs(args: &SimulateArgs, queue: &Queue) -> Result<Costs, Error> {
    let cost = |flag: &str, given: &Option<String>| time(flag, given, Duration::ZERO, MAX_COST);
    let steal = cost("--steal", &args.steal)?;
    if steal.is_some() && !matches!(queue, Queue::Stealing(_)) {
        return Err(usage("--steal", "has no meaning where nobody steals", "--queue stealing beside it"));
    }
    Ok(Costs {
        request_ns: cost("--hand-off", &args.hand_off)?.map_or(0, ns),
        wake_ns: cost("--wake", &args.wake)?.map_or(0, ns),
        steal_ns: steal.map_or(0, ns),
    })
}

fn demand(args: &SimulateArgs) -> Result<Demand, Error> {
    let text = args.demand.as_deref().unwrap_or(DEMAND);
    let demand = Demand::parse(text).map_err(|problem| usage("--demand", problem, demand::FORMS))?;
    if demand.mean_ns() > 0.0 {
        return Ok(demand);
    }
    let problem = format!("{} takes no time, so that there is no load", shown(text));
    Err(usage("--demand", problem, "a distribution whose mean is above zero"))
}

fn loads(args: &SimulateArgs, scenario: &Scenario) -> Result<Vec<f64>, Error> {
    let expected = format!("shares of capacity above 0 and below 1: {}", series::FORMS);
    let wrong = |problem: String| usage("--load", problem, expected.clone());
    let loads = parse_series(args.load.as_deref().unwrap_or(LOADS)).map_err(wrong)?;
    if let Some(load) = loads.iter().find(|load| **load >= 1.0) {
        let problem =
            format!("{load} is impossible: from 1 on an open system has no steady state, its queue grows for ever");
        return Err(wrong(problem));
    }
    if loads.contains(&0.0) {
        return Err(wrong("0 is no load: nobody comes".to_owned()));
    }
    let all = scenario.requests + 2 * scenario.warm_up();
    let longest_ns = |load: f64| all as f64 / scenario.offered_per_s(load) * 1e9;
    // Half of what nanoseconds count to is left for those who wait at the end.
    match loads.iter().find(|load| longest_ns(**load) > u64::MAX as f64 / 2.0) {
        Some(load) => {
            let problem = format!("{} are too many: at a load of {load} they take centuries", scenario.requests);
            Err(usage("--requests", problem, "fewer, a higher --load or a shorter --demand"))
        }
        None => Ok(loads),
    }
}

fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
