//! [`Cell`]: one combination of everything that varies, as the flags of a server and of a load, tried on both.
//!
//! What a load amounts to in requests per second is decided here, and what the two sides are told. A value that they
//! refuse is an error where it stands in the plan. Read next: `order.rs`, which makes runs of cells.

use std::collections::BTreeMap;

use super::file::Given;
use super::{CLOSED, Parameters as AllGiven, Plan, names};
use crate::cli::parse_pair;
use crate::config::{Config, Limits, Unfit, shown};
use crate::engine::ENGINES;
use crate::error::Error;
use crate::load::demand::Demand;
use crate::load::plan::Plan as LoadPlan;
use crate::study::row::{Parameters, Phase};
use crate::units::show_duration;

/// A combination of what varies.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What is compared, as rows have it.
    pub configuration: String,
    /// How much is asked for, as rows have it.
    pub point: String,
    /// The number of that point among all.
    pub point_number: usize,
    /// Everything, but for the seed of its trace.
    pub parameters: Parameters,
    /// The flags of `serve`, with its listener.
    pub serve: Vec<String>,
    /// The flags of `load`, without its target, its seed and the server's process.
    pub load: Vec<String>,
}

/// Combinations of one plan: above it a slip of the keyboard is likelier than a wish, since they take days.
const MOST: usize = 10_000;

/// What a request of `work` has in its message before the payload.
const REQUEST_BYTES: usize = 20;

/// Where a cell is tried, since nobody listens yet.
const NOWHERE: &str = "tcp://127.0.0.1:1";

/// Every combination of the plan's values.
///
/// # Errors
/// The first value that server or load refuse, where it stands.
pub(super) fn all(plan: &Plan, given: &AllGiven) -> Result<Vec<Cell>, Error> {
    let axes: Vec<(&str, &[String])> = names::all()
        .filter(|name| names::may_vary(name))
        .filter_map(|name| Some((name, plan.values.get(name)?.as_slice())))
        .collect();
    let count = axes.iter().try_fold(1_usize, |count, (_, values)| count.checked_mul(values.len()));
    let Some(count) = count.filter(|count| *count <= MOST) else {
        let (name, _) = axes.iter().max_by_key(|(_, values)| values.len()).expect("what is many has several values");
        let problem = format!("makes more than {MOST} combinations with what else varies");
        return Err(given.find(name).expect("it is longer than a default").origin.error(Unfit::new(problem, "fewer")));
    };
    let mut cells: Vec<Cell> = Vec::with_capacity(count);
    let mut points: Vec<String> = Vec::new();
    for number in 0..count {
        // The last axis changes fastest.
        let mut rest = number;
        let mut values = BTreeMap::new();
        for (name, choices) in axes.iter().rev() {
            values.insert(*name, choices[rest % choices.len()].as_str());
            rest /= choices.len();
        }
        let varied = |name: &str| plan.values[name].len() > 1 && !["load", "rate"].contains(&name);
        let labels = axes.iter().filter(|(name, _)| varied(name)).map(|(name, _)| format!("{name}={}", values[name]));
        let configuration = labels.collect::<Vec<_>>().join(" ");
        let draft = Draft { plan, given, values };
        let mut cell = draft.cell()?;
        cell.configuration = if configuration.is_empty() { "all".to_owned() } else { configuration };
        let known = points.iter().position(|point| *point == cell.point);
        cell.point_number = known.unwrap_or_else(|| {
            points.push(cell.point.clone());
            points.len() - 1
        });
        cells.push(cell);
    }
    Ok(cells)
}

/// A cell that is being made.
struct Draft<'a> {
    plan: &'a Plan,
    given: &'a AllGiven,
    values: BTreeMap<&'a str, &'a str>,
}

/// How much is asked for.
enum Point {
    Closed,
    Share(f64),
    Rate(f64),
    Phases,
}

/// What a point amounts to.
struct Rates {
    capacity_per_s: Option<f64>,
    rate_per_s: Option<f64>,
    phases: Vec<Phase>,
}

impl Point {
    /// As rows have it.
    fn label(&self) -> String {
        match self {
            Point::Closed => CLOSED.to_owned(),
            Point::Share(share) => format!("load={share}"),
            Point::Rate(rate_per_s) => format!("rate={rate_per_s}"),
            Point::Phases => names::PHASES.to_owned(),
        }
    }
}

impl Draft<'_> {
    fn cell(&self) -> Result<Cell, Error> {
        let point = self.point();
        let rates = self.rates(&point)?;
        let (serve, load) = (self.serve_flags(), self.load_flags(rates.rate_per_s));
        let asked = self.tried(&serve, &load)?;
        let parameters = self.parameters(&point, rates, &asked);
        Ok(Cell { configuration: String::new(), point: point.label(), point_number: 0, parameters, serve, load })
    }

    fn rates(&self, point: &Point) -> Result<Rates, Error> {
        let capacity_per_s = self.capacity_per_s();
        let of_capacity = |name: &str, share: f64| match capacity_per_s {
            Some(capacity_per_s) => Ok(share * capacity_per_s),
            None => {
                let problem = format!("{share} is a share of no capacity: nothing names how long a request takes");
                Err(self.error(name, Unfit::new(problem, "rate = REQUESTS PER SECOND, or a demand above zero")))
            }
        };
        let mut phases = Vec::new();
        let mut from_s = 0.0;
        for phase in &self.plan.phases {
            let to_s = from_s + phase.length.as_secs_f64();
            let rate_per_s = of_capacity(names::PHASES, phase.load)?;
            phases.push(Phase { from_s, to_s, load: Some(phase.load), rate_per_s });
            from_s = to_s;
        }
        let rate_per_s = match point {
            Point::Closed => None,
            Point::Share(share) => Some(of_capacity("load", *share)?),
            Point::Rate(rate_per_s) => Some(*rate_per_s),
            Point::Phases => phases.first().map(|first| first.rate_per_s),
        };
        Ok(Rates { capacity_per_s, rate_per_s, phases })
    }

    fn parameters(&self, point: &Point, rates: Rates, asked: &LoadPlan) -> Parameters {
        let Draft { plan, values, .. } = self;
        let demand = self.demand();
        let options = values.iter().filter(|(name, _)| {
            names::setting(name).is_some_and(|known| known != "workers") || self.is_of_listener(name)
        });
        Parameters {
            engine: values["engine"].to_owned(),
            workers: self.workers(),
            service: self.service().to_owned(),
            demand_mean_ns: demand.as_ref().map(Demand::mean_ns),
            demand: demand.map(|demand| demand.to_string()),
            kind: self.kind().map(str::to_owned),
            load: match point {
                Point::Share(share) => Some(*share),
                Point::Phases => plan.phases.first().map(|phase| phase.load),
                Point::Closed | Point::Rate(_) => None,
            },
            capacity_per_s: rates.capacity_per_s,
            rate_per_s: rates.rate_per_s,
            arrivals: asked.arrivals.name().to_owned(),
            phases: rates.phases,
            connections: asked.connections,
            depth: asked.depth,
            requests_per_connection: asked.requests_per_connection,
            size_bytes: asked.size_bytes,
            duration_s: plan.duration.as_secs_f64(),
            warmup_s: plan.warmup.as_secs_f64(),
            cooldown_s: plan.cooldown.as_secs_f64(),
            seed: 0,
            pin: plan.pin,
            server_cores: plan.server_cores.clone(),
            load_cores: plan.load_cores.clone(),
            objective: plan.objective.clone(),
            options: options.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn service(&self) -> &str {
        self.values["service"]
    }

    fn demand(&self) -> Option<Demand> {
        let text = self.values.get("demand").filter(|_| self.service() == "work")?;
        Some(Demand::parse(text).expect("it was checked"))
    }

    fn kind(&self) -> Option<&str> {
        self.values.get("kind").filter(|_| self.service() == "work").copied()
    }

    /// What a load of 1 is: of workers that sleep, or of as many as have a processor.
    fn capacity_per_s(&self) -> Option<f64> {
        let mean_ns = self.demand()?.mean_ns();
        let workers = self.workers();
        let servers = if self.kind() == Some("sleep") { workers } else { workers.min(self.plan.server_cores.len()) };
        (mean_ns > 0.0).then(|| servers as f64 * 1e9 / mean_ns)
    }

    fn is_of_listener(&self, name: &str) -> bool {
        names::is_of_listener(self.service(), name)
    }

    /// As many as the server's cores for `auto`, which it would find by itself.
    fn workers(&self) -> usize {
        self.values["workers"].parse().unwrap_or(self.plan.server_cores.len())
    }

    fn point(&self) -> Point {
        let number = |text: &str| text.parse().expect("it was checked");
        match (self.values.get("load"), self.values.get("rate")) {
            (Some(&CLOSED), _) | (_, Some(&CLOSED)) => Point::Closed,
            (Some(share), _) => Point::Share(number(share)),
            (_, Some(rate)) => Point::Rate(number(rate)),
            (None, None) => Point::Phases,
        }
    }

    fn serve_flags(&self) -> Vec<String> {
        let parameters = self.values.iter().filter(|(name, _)| self.is_of_listener(name));
        let parameters: Vec<String> = parameters.map(|(name, value)| format!("{name}={value}")).collect();
        let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
        let mut flags = vec![
            format!("--listen={}=tcp://127.0.0.1:0{query}", self.service()),
            format!("--engine={}", self.values["engine"]),
            format!("--workers={}", self.workers()),
        ];
        for (name, value) in &self.values {
            if let Some(setting) = names::setting(name).filter(|setting| *setting != "workers") {
                flags.push(format!("--{}={value}", setting.replace('_', "-")));
            }
        }
        flags
    }

    fn load_flags(&self, rate_per_s: Option<f64>) -> Vec<String> {
        let plan = self.plan;
        let mut flags = vec![
            format!("--warmup={}", show_duration(plan.warmup)),
            format!("--grace={}", show_duration(plan.grace)),
            format!("--threads={}", plan.threads),
        ];
        let mut add = |flag: &str, value: Option<String>| flags.extend(value.map(|value| format!("--{flag}={value}")));
        add("interval", plan.interval.map(show_duration));
        add("slo", plan.objective.clone());
        add("rate", rate_per_s.map(|rate_per_s| rate_per_s.to_string()));
        match plan.phases.as_slice() {
            [first, _, ..] => {
                let factor = |load: f64| load / first.load;
                let phases =
                    plan.phases.iter().map(|phase| format!("{}:{}", factor(phase.load), show_duration(phase.length)));
                add("phases", Some(phases.collect::<Vec<_>>().join(",")));
            }
            _ => add("duration", Some(show_duration(plan.duration))),
        }
        let of_work: &[&str] = if self.service() == "work" { &["demand", "kind"] } else { &[] };
        let of_rate: &[&str] = if rate_per_s.is_some() { &["arrivals"] } else { &[] };
        let others: &[&str] = &["connections", "depth", "requests_per_connection", "size"];
        for name in of_work.iter().chain(of_rate).chain(others) {
            add(&name.replace('_', "-"), self.values.get(name).map(|value| (*value).to_owned()));
        }
        flags
    }

    /// What the load would do, if both sides take what they are told.
    fn tried(&self, serve: &[String], load: &[String]) -> Result<LoadPlan, Error> {
        let target = [format!("{}={NOWHERE}", self.service())];
        let pair = parse_pair(serve, &[&target[..], load].concat());
        let (serve, load) =
            pair.map_err(|problem| self.error("engine", Unfit::new(problem, "flags of serve and load")))?;
        let config = Config::resolve(&serve, ENGINES).map_err(|error| self.located(error))?;
        let asked = LoadPlan::resolve(&load).map_err(|error| self.located(error))?;
        if self.service() == "work" {
            self.fits(&asked, &config.settings.limits)?;
        }
        Ok(asked)
    }

    /// What the server would end every session for, though each side takes its own part of it.
    fn fits(&self, asked: &LoadPlan, limits: &Limits) -> Result<(), Error> {
        let (frame_bytes, most) = (asked.size_bytes + REQUEST_BYTES, limits.max_frame_bytes);
        if frame_bytes > most {
            let problem =
                format!("{} bytes make a message of {frame_bytes}, and max_frame is {most}", asked.size_bytes);
            return Err(self.error("size", Unfit::new(problem, "less, or a larger max_frame")));
        }
        let Some(demand) = self.demand().filter(|demand| demand.mean_ns() > limits.max_demand.as_nanos() as f64) else {
            return Ok(());
        };
        let problem = format!("{demand} is on average longer than max_demand, {}", show_duration(limits.max_demand));
        Err(self.error("demand", Unfit::new(problem, "less, or a larger max_demand")))
    }

    /// What a side says of a flag of its own, said of the parameter in the plan.
    fn located(&self, error: Error) -> Error {
        let Error::Usage { flag, problem, expected } = error else { return error };
        let name = flag.trim_start_matches('-').replace('-', "_");
        let name = match name.as_str() {
            "pin" => names::PIN_WORKERS,
            "slo" => "objective",
            // A rate comes of a load.
            "rate" if self.given.find("rate").is_none() => "load",
            "listen" => self.values.keys().find(|name| self.is_of_listener(name)).unwrap_or(&"service"),
            name => name,
        };
        self.error(name, Unfit { problem, expected })
    }

    /// Where the parameter stands; one that was not given stands nowhere, and is named alone.
    fn error(&self, name: &str, unfit: Unfit) -> Error {
        let Some(Given { origin, .. }) = self.given.find(name) else {
            let Unfit { problem, expected } = unfit;
            let value = self.values.get(name).map(|value| format!("{} by default: ", shown(value)));
            return Error::Usage { flag: name.to_owned(), problem: value.unwrap_or_default() + &problem, expected };
        };
        origin.error(unfit)
    }
}
