//! [`Plan`]: what a study runs; all its limits and units, checked once, then read-only.
//!
//! Made by [`Plan::resolve`] from defaults, then the file, then its `[quick]` table or what stands for one, then the
//! flags, each overriding the one before by name. Parameters with several values vary: every combination is a *cell*,
//! and each cell is tried here on the daemon's own configuration and on that of the load, so that a mistake is found
//! before the first run and not after an hour. Nothing is started here.
//!
//! Invariants: *same-rules*: a value is right in a plan if `serve` or `load` takes it. *printed-reads-back*:
//! [`Plan::to_toml`] is a plan of the same runs.
//!
//! Read next: `plan/names.rs`, the parameters; `plan/cells.rs`, their combinations; `order.rs`, when which is run.

mod cells;
mod file;
mod names;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use self::file::{Given, Origin};
use crate::cli::StudyArgs;
use crate::config::{Unfit, number, setting, shown, time};
use crate::engine::ENGINES;
use crate::error::Error;
use crate::load::demand::{self, Demand};
use crate::load::plan::Objective;
use crate::study::row::Pin;
use crate::units::series::parse_series;
use crate::units::{parse_duration, show_duration};

pub use self::cells::Cell;

/// The default of `engine`: the one that the project is about.
pub const ENGINE: &str = crate::config::ENGINE;
/// The default of `demand`: long enough that what a virtual machine adds to a wake does not matter, and with a formula.
pub const DEMAND: &str = "exp:2ms";
/// The default of `kind`: what worker counts are about, on a machine of any size.
pub const KIND: &str = "sleep";
/// The default of `load`: where queues are short, where they matter, and where they decide.
pub const LOADS: &str = "0.3,0.6,0.9";
/// The default of `connections`: more than workers, so that it is not they that limit.
pub const CONNECTIONS: &str = "64";
/// The default of `repeats`: the least that has a middle and two on either side.
pub const REPEATS: usize = 5;
/// The default of `duration`.
pub const DURATION: Duration = Duration::from_secs(3);
/// The default of `warmup`: longer than connecting and the first wakes take.
pub const WARMUP: Duration = Duration::from_millis(500);
/// The default of `cooldown`: sockets of the last run close meanwhile.
pub const COOLDOWN: Duration = Duration::from_millis(100);
/// The default of `grace`: replies to what an overload has left behind may take long.
pub const GRACE: Duration = Duration::from_secs(2);
/// The default of `interval` where there are phases: a p99 every quarter of a second.
pub const INTERVAL: Duration = Duration::from_millis(250);
/// Any number would do.
pub const SEED: u64 = 1;

/// What a run takes beside its warm-up, window and rest: to start and stop two processes. Until runs have shown it.
const AROUND: Duration = Duration::from_millis(300);

/// The word for a closed loop among loads and rates.
const CLOSED: &str = "closed";
/// Shares of capacity: below it nothing happens, above it nothing else does.
const SHARES: (f64, f64) = (0.001, 10.0);
const MAX_REPEATS: u64 = 1_000;
const HOUR: Duration = Duration::from_secs(3_600);
const MILLISECOND: Duration = Duration::from_millis(1);

/// What `--quick` makes of a plan that does not say: two rounds of runs that are as short as tells anything.
const QUICK_REPEATS: usize = 2;
const QUICK_DURATION: Duration = Duration::from_millis(500);
const QUICK_WARMUP: Duration = Duration::from_millis(100);
const QUICK_COOLDOWN: Duration = Duration::from_millis(20);
/// Phases are shortened to this part: what fills in one must have the time to be seen in the next.
const QUICK_PHASES: u32 = 4;

/// What a study runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Rounds, each with every run once.
    pub repeats: usize,
    /// The window of a run; with phases, all of them together.
    pub duration: Duration,
    /// Load before it.
    pub warmup: Duration,
    /// Rest after it.
    pub cooldown: Duration,
    /// How long replies may come behind it.
    pub grace: Duration,
    /// How often the load tells how it goes; none: never.
    pub interval: Option<Duration>,
    /// The loads of each run one after the other; empty: one load.
    pub phases: Vec<PhaseOf>,
    /// Decides the order of runs and every trace.
    pub seed: u64,
    /// How server and load share the machine.
    pub pin: Pin,
    /// The cores of the server.
    pub server_cores: Vec<usize>,
    /// The cores of the load.
    pub load_cores: Vec<usize>,
    /// What the latency should keep to.
    pub objective: Option<String>,
    /// Threads of the load.
    pub threads: usize,
    /// Every combination of what varies, in the order of its values.
    pub cells: Vec<Cell>,
    /// All parameters that have a value, each in one spelling, by name.
    values: BTreeMap<String, Vec<String>>,
}

/// A phase as a plan asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseOf {
    /// Share of the capacity.
    pub load: f64,
    /// How long.
    pub length: Duration,
}

impl Plan {
    /// The plan that these flags and the file they name amount to, on a machine with these processors.
    ///
    /// # Errors
    /// The first thing that is wrong, as [`Error::Usage`] for a flag and [`Error::Configuration`] for the file.
    pub fn resolve(args: &StudyArgs, processors: &[usize]) -> Result<Plan, Error> {
        let file = args.plan.as_deref().map(file::read).transpose()?.unwrap_or_default();
        let mut given = Parameters(file.given);
        if args.quick {
            match file.quick {
                Some(quick) => given.override_by(quick),
                None => given.shorten(),
            }
        }
        given.override_by(flags(args)?);
        given.canonical()?.resolve(processors)
    }

    /// Whether these flags say anything of a plan.
    pub fn is_asked_by(args: &StudyArgs) -> bool {
        // Flags that are wrong say something, too.
        args.plan.is_some() || args.quick || !flags(args).is_ok_and(|given| given.is_empty())
    }

    /// How long one run takes, about.
    pub fn run_length(&self) -> Duration {
        self.warmup + self.duration + self.cooldown + AROUND
    }

    /// The plan as it is run, as a file that has the same runs.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let (several, one): (Vec<_>, Vec<_>) = names::all()
            .filter_map(|name| self.values.get_key_value(name))
            .partition(|(name, values)| values.len() > 1 && names::may_vary(name));
        let mut line = |name: &str, values: &[String]| {
            let list = || toml::Value::Array(values.iter().map(|value| value_of(name, value)).collect());
            let value = match values {
                [value] if name != names::PHASES => value_of(name, value),
                _ => list(),
            };
            writeln!(text, "{name} = {value}").expect("a string takes everything");
        };
        one.iter().for_each(|(name, values)| line(name, values));
        if !several.is_empty() {
            text.push_str("\n[vary]\n");
            let mut line = |name: &str, values: &[String]| {
                let list = toml::Value::Array(values.iter().map(|value| value_of(name, value)).collect());
                writeln!(text, "{name} = {list}").expect("a string takes everything");
            };
            several.iter().for_each(|(name, values)| line(name, values));
        }
        text
    }
}

/// A value in the file: numbers as numbers.
fn value_of(name: &str, text: &str) -> toml::Value {
    // What looks like a number there is one, but for a size or a duration, which may have a unit.
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(integer), _) => toml::Value::Integer(integer),
        (_, Ok(float)) if ["load", "rate"].contains(&name) => toml::Value::Float(float),
        _ => toml::Value::String(text.to_owned()),
    }
}

/// What was given, the later overriding the earlier.
struct Parameters(Vec<Given>);

impl Parameters {
    fn find(&self, name: &str) -> Option<&Given> {
        self.0.iter().find(|given| given.name == name)
    }

    /// Loads, rates and phases are three ways to say the same: the last that is given counts.
    fn override_by(&mut self, later: Vec<Given>) {
        const HOW_MUCH: &[&str] = &["load", "rate", names::PHASES];
        let says_how_much = later.iter().any(|given| HOW_MUCH.contains(&given.name.as_str()));
        let is_replaced = |given: &Given| {
            later.iter().any(|new| new.name == given.name) || says_how_much && HOW_MUCH.contains(&given.name.as_str())
        };
        self.0.retain(|given| !is_replaced(given));
        self.0.extend(later);
    }

    /// What `--quick` makes of a plan without a `[quick]` table.
    fn shorten(&mut self) {
        let quick = |name: &str, value: String| Given {
            name: name.to_owned(),
            values: vec![value],
            origin: Origin::Flag("--quick".to_owned()),
        };
        let mut shorter = vec![
            quick("repeats", QUICK_REPEATS.to_string()),
            quick("warmup", show_duration(QUICK_WARMUP)),
            quick("cooldown", show_duration(QUICK_COOLDOWN)),
        ];
        match self.0.iter_mut().find(|given| given.name == names::PHASES) {
            Some(phases) => {
                for text in &mut phases.values {
                    if let Ok(PhaseOf { load, length }) = phase(text) {
                        *text = format!("{load}:{}", show_duration(length / QUICK_PHASES));
                    }
                }
            }
            None => shorter.push(quick("duration", show_duration(QUICK_DURATION))),
        }
        for name in ["load", "rate"] {
            if let Some(given) = self.0.iter_mut().find(|given| given.name == name) {
                // What cannot be read is complained of later.
                let values: Vec<String> = given.values.iter().flat_map(|text| expanded(text)).collect();
                let few = [0, values.len() / 2, values.len().saturating_sub(1)];
                if values.len() > few.len() {
                    given.values = few.iter().map(|at| values[*at].clone()).collect();
                }
            }
        }
        self.override_by(shorter);
    }

    /// Every value in one spelling, ranges written out, each value once.
    fn canonical(mut self) -> Result<Parameters, Error> {
        for given in &mut self.0 {
            let mut values: Vec<String> = Vec::new();
            for text in given
                .values
                .iter()
                .flat_map(|text| if names::may_vary(&given.name) { expanded(text) } else { vec![text.clone()] })
            {
                let value = canonical(&given.name, &text).map_err(|unfit| given.origin.error(unfit))?;
                if values.contains(&value) && given.name != names::PHASES {
                    return Err(given
                        .origin
                        .error(Unfit::new(format!("{} stands twice", shown(&value)), "each value once")));
                }
                values.push(value);
            }
            given.values = values;
        }
        Ok(self)
    }

    fn resolve(self, processors: &[usize]) -> Result<Plan, Error> {
        let how_much: Vec<&Given> = ["load", "rate", names::PHASES].iter().filter_map(|name| self.find(name)).collect();
        if let [one, other, ..] = how_much.as_slice() {
            let problem = format!("stands beside {}, which says how much is asked for as well", one.name);
            return Err(other.origin.error(Unfit::new(problem, "one of load, rate and phases")));
        }
        let phases = self.phases()?;
        let duration = self.time("duration", MILLISECOND, HOUR)?;
        if let Some(given) = self.find("duration").filter(|_| !phases.is_empty()) {
            return Err(given.origin.error(Unfit::new("has no meaning beside phases", "the lengths of the phases")));
        }
        let all_phases = (!phases.is_empty()).then(|| phases.iter().map(|phase| phase.length).sum());
        let threads = self.number("threads", 1, 256)?.unwrap_or(1) as usize;
        let (pin, server_cores, load_cores) = self.placement(processors, threads)?;
        let objective = self.find("objective").map(|given| {
            let parsed = Objective::parse(&given.values[0]);
            parsed.map(|_| given.values[0].clone()).map_err(|error| relocated(error, &given.origin))
        });
        let mut plan = Plan {
            repeats: self.number("repeats", 1, MAX_REPEATS)?.map_or(REPEATS, |repeats| repeats as usize),
            duration: all_phases.or(duration).unwrap_or(DURATION),
            warmup: self.time("warmup", Duration::ZERO, HOUR)?.unwrap_or(WARMUP),
            cooldown: self.time("cooldown", Duration::ZERO, HOUR)?.unwrap_or(COOLDOWN),
            grace: self.time("grace", Duration::ZERO, HOUR)?.unwrap_or(GRACE),
            interval: self.time("interval", MILLISECOND * 10, HOUR)?.or((!phases.is_empty()).then_some(INTERVAL)),
            phases,
            seed: self.number("seed", 0, u64::MAX)?.unwrap_or(SEED),
            pin,
            server_cores,
            load_cores,
            objective: objective.transpose()?,
            threads,
            cells: Vec::new(),
            values: BTreeMap::new(),
        };
        plan.values = self.values(&plan);
        plan.cells = cells::all(&plan, &self)?;
        Ok(plan)
    }

    /// All values, with the defaults of what was not given, as far as the plan depends on it.
    fn values(&self, plan: &Plan) -> BTreeMap<String, Vec<String>> {
        let given = self.0.iter().map(|given| (given.name.clone(), given.values.clone()));
        let mut values: BTreeMap<String, Vec<String>> = given.collect();
        let mut default = |name: &str, value: String| {
            values.entry(name.to_owned()).or_insert_with(|| value.split(',').map(str::to_owned).collect());
        };
        default("repeats", plan.repeats.to_string());
        default("warmup", show_duration(plan.warmup));
        default("cooldown", show_duration(plan.cooldown));
        default("grace", show_duration(plan.grace));
        default("seed", plan.seed.to_string());
        default("pin", plan.pin.name().to_owned());
        default("engine", ENGINE.to_owned());
        default("workers", plan.server_cores.len().to_string());
        default("service", names::SERVICES[0].to_owned());
        default("connections", CONNECTIONS.to_owned());
        if let Some(interval) = plan.interval {
            default("interval", show_duration(interval));
        }
        if plan.phases.is_empty() {
            default("duration", show_duration(plan.duration));
        }
        let asks_work = values["service"].iter().any(|service| service == "work");
        let says_how_much = ["load", "rate", names::PHASES].iter().any(|name| values.contains_key(*name));
        let mut default = |name: &str, value: &str| {
            values.entry(name.to_owned()).or_insert_with(|| value.split(',').map(str::to_owned).collect());
        };
        if asks_work {
            default("demand", DEMAND);
            default("kind", KIND);
        }
        if !says_how_much {
            default("load", if asks_work { LOADS } else { CLOSED });
        }
        values
    }

    fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Error> {
        let Some(given) = self.find(name) else { return Ok(None) };
        number(name, &Some(given.values[0].clone()), min, max).map_err(|error| relocated(error, &given.origin))
    }

    fn time(&self, name: &str, min: Duration, max: Duration) -> Result<Option<Duration>, Error> {
        let Some(given) = self.find(name) else { return Ok(None) };
        time(name, &Some(given.values[0].clone()), min, max).map_err(|error| relocated(error, &given.origin))
    }

    fn phases(&self) -> Result<Vec<PhaseOf>, Error> {
        let Some(given) = self.find(names::PHASES) else { return Ok(Vec::new()) };
        let phases = given.values.iter().map(|text| phase(text)).collect::<Result<Vec<_>, Unfit>>();
        phases.map_err(|unfit| given.origin.error(unfit))
    }

    /// How the two sides share these processors, and which each gets: the load the last ones.
    fn placement(&self, processors: &[usize], threads: usize) -> Result<(Pin, Vec<usize>, Vec<usize>), Error> {
        let given = self.find("pin");
        let pin = match given.map(|given| given.values[0].as_str()) {
            Some("split") => Pin::Split,
            Some("float") => Pin::Float,
            Some(other) => {
                let unfit = Unfit::new(format!("{} is not known", shown(other)), "split or float");
                return Err(given.expect("it was just looked at").origin.error(unfit));
            }
            None if processors.len() > 1 => Pin::Split,
            None => Pin::Float,
        };
        match (pin, processors.len()) {
            (Pin::Float, _) => Ok((pin, processors.to_vec(), processors.to_vec())),
            (Pin::Split, 0 | 1) => {
                let unfit = Unfit::new("split needs two cores, and there is one", "float");
                Err(given.expect("it is not the default here").origin.error(unfit))
            }
            (Pin::Split, count) => {
                let (server, load) = processors.split_at(count - threads.min(count - 1));
                Ok((pin, server.to_vec(), load.to_vec()))
            }
        }
    }
}

/// A usage error of somebody else, as one of the place where the value stands.
fn relocated(error: Error, origin: &Origin) -> Error {
    match error {
        Error::Usage { problem, expected, .. } => origin.error(Unfit { problem, expected }),
        other => other,
    }
}

/// What the flags say; a list is several values.
fn flags(args: &StudyArgs) -> Result<Vec<Given>, Error> {
    let one = |name: &str, flag: String, text: &str| {
        let values = if names::may_vary(name) || name == names::PHASES { split(text) } else { vec![text.to_owned()] };
        Given { name: name.to_owned(), values, origin: Origin::Flag(flag) }
    };
    let flags = [
        ("engine", &args.engine),
        ("workers", &args.workers),
        ("demand", &args.demand),
        ("kind", &args.kind),
        ("load", &args.load),
        ("rate", &args.rate),
        ("connections", &args.connections),
        ("repeats", &args.repeats),
        ("duration", &args.duration),
        ("warmup", &args.warmup),
        ("cooldown", &args.cooldown),
        ("pin", &args.pin),
        ("seed", &args.seed),
        ("objective", &args.slo),
    ];
    let typed = flags.iter().filter_map(|(name, text)| Some((*name, text.as_deref()?)));
    let named = |name: &str| if name == "objective" { "--slo".to_owned() } else { format!("--{name}") };
    let mut given: Vec<Given> = typed.map(|(name, text)| one(name, named(name), text)).collect();
    for text in &args.set {
        let flag = || format!("--set {text}");
        let wrong = |unfit: Unfit| Origin::Flag(flag()).error(unfit);
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| wrong(Unfit::new("has no value", "KEY=LIST, as in rearm=edge,oneshot")))?;
        if !names::is_known(name) {
            return Err(wrong(file::unknown(name)));
        }
        if given.iter().any(|earlier| earlier.name == name) {
            return Err(wrong(Unfit::new("stands twice", "each key once")));
        }
        given.push(one(name, flag(), value));
    }
    Ok(given)
}

/// The values of a list in a flag. A bimodal demand has a comma of its own.
fn split(text: &str) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    for part in text.split(',') {
        match values.last_mut() {
            Some(last) if last.starts_with("bimodal:") && !last.contains(',') => *last = format!("{last},{part}"),
            _ => values.push(part.to_owned()),
        }
    }
    values
}

/// The numbers of a range; anything else is itself.
fn expanded(text: &str) -> Vec<String> {
    match text.contains("..").then(|| parse_series(text)) {
        Some(Ok(numbers)) => numbers.iter().map(ToString::to_string).collect(),
        _ => vec![text.to_owned()],
    }
}

/// The phase written as `text`: `LOAD:DURATION`.
fn phase(text: &str) -> Result<PhaseOf, Unfit> {
    let unfit = |problem: &str| {
        let (least, most) = SHARES;
        let expected = format!("LOAD:DURATION, as in 2:500ms, with a load from {least} to {most}");
        Unfit::new(format!("{} {problem}", shown(text)), expected)
    };
    let (load, length) = text.split_once(':').ok_or_else(|| unfit("is not a phase"))?;
    let load: f64 = load.parse().map_err(|_| unfit("has no number before its colon"))?;
    let length = parse_duration(length).map_err(|problem| unfit(&format!(": its length {problem}")))?;
    let is_possible = (SHARES.0..=SHARES.1).contains(&load) && (MILLISECOND..=HOUR).contains(&length);
    if is_possible { Ok(PhaseOf { load, length }) } else { Err(unfit("is impossible")) }
}

/// The one spelling of a value, as far as its parameter has one; whether it is right otherwise is seen when it is
/// tried.
fn canonical(name: &str, text: &str) -> Result<String, Unfit> {
    if let Some(known) = names::setting(name) {
        return setting(known, text).expect("it is a setting");
    }
    let word = |known: &[&str]| match known.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(Unfit::new(format!("{} is not known", shown(text)), known.join(" or "))),
    };
    match name {
        "engine" => {
            let known: Vec<&str> = ENGINES.iter().map(|engine| engine.name).collect();
            let problem = format!("{} is not an engine", shown(text));
            if known.contains(&text) { Ok(text.to_owned()) } else { Err(Unfit::new(problem, known.join(" or "))) }
        }
        "service" => word(names::SERVICES),
        "kind" => word(&["spin", "sleep", "hash"]),
        "arrivals" => word(&["poisson", "uniform"]),
        "demand" => match Demand::parse(text) {
            Ok(demand) => Ok(demand.to_string()),
            Err(problem) => Err(Unfit::new(problem, demand::FORMS)),
        },
        "load" | "rate" if text == CLOSED => Ok(text.to_owned()),
        "load" => share(text).map(|share| share.to_string()),
        "rate" => match text.parse::<f64>() {
            Ok(rate) if rate.is_finite() => Ok(rate.to_string()),
            _ => Err(Unfit::new(format!("{} is not a number", shown(text)), "requests per second, or closed")),
        },
        names::PHASES => phase(text).map(|PhaseOf { load, length }| format!("{load}:{}", show_duration(length))),
        _ => Ok(text.to_owned()),
    }
}

/// A load as a share of capacity.
fn share(text: &str) -> Result<f64, Unfit> {
    let (least, most) = SHARES;
    let unfit = |problem: &str| {
        let expected = format!("a share of capacity from {least} to {most}, a range such as 0.1..0.9:9, or closed");
        Unfit::new(format!("{} {problem}", shown(text)), expected)
    };
    let range = if text.contains("..") { parse_series(text).err() } else { None };
    match (range, text.parse::<f64>()) {
        (Some(problem), _) => Err(Unfit { problem, ..unfit("") }),
        (None, Ok(share)) if (least..=most).contains(&share) => Ok(share),
        (None, Ok(_)) => Err(unfit("is an impossible load")),
        (None, Err(_)) => Err(unfit("is not a load")),
    }
}

#[cfg(test)]
mod tests;
