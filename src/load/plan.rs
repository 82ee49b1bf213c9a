//! [`Plan`]: what a load runs with; all its limits and units, checked once, then read-only.
//!
//! Made by [`Plan::resolve`] from the flags. Nothing here resolves a name, connects or looks at the machine. What goes
//! where (`--json`, `--histogram`, `--quiet`) is no part of a plan.
//!
//! Invariants: *in-range*: every number lies in the range that its flag names. *fits-its-service*: a plan has nothing
//! that its service or its scheme gives no meaning to; what is asked for without a meaning is refused, not ignored.
//!
//! Read next: `schedule.rs`, when requests are due; `pattern.rs`, what they are.

use std::time::Duration;

use crate::cli::LoadArgs;
use crate::config::{Scheme, number, shown, time, usage, within};
use crate::error::Error;
use crate::load::demand::{self, Demand};
use crate::load::schedule::Pace;
use crate::load::search;
use crate::load::target::{ServiceKind, Target};
use crate::units::{parse_decimal, parse_duration, parse_size, show_duration, show_size};

/// One, so that what is measured is the server and not its queue.
pub const CONNECTIONS: usize = 1;
/// Requests in flight on a connection of a closed loop: the next follows the reply.
pub const DEPTH: usize = 1;
/// A small request, as most are.
pub const SIZE_BYTES: usize = 64;
/// Enough for the 99.9th percentile of a thousand requests per second.
pub const DURATION: Duration = Duration::from_secs(10);
/// Longer than connecting and filling caches take.
pub const WARMUP: Duration = Duration::from_secs(1);
/// Longer than a server without trouble takes to reply.
pub const GRACE: Duration = Duration::from_secs(2);
/// A thousand round trips of a local network: who answers later has lost the datagram, or its use.
pub const LOST_AFTER: Duration = Duration::from_millis(500);
/// The same for a message of chat, which a busy server may well hand to its last member late.
pub const MISSED_AFTER: Duration = Duration::from_secs(2);
/// Any number would do.
pub const SEED: u64 = 1;
/// One: on a machine that it shares with the server, each more takes a processor from it.
pub const THREADS: usize = 1;
/// The default of `--demand`, as it takes it: a round number of the order of what small requests cost their servers.
pub const DEMAND: &str = "fixed:10us";
/// Where a search without `--rate` starts. Low, so that the first step does no harm; it finds its way up quickly.
pub const SEARCH_START_PER_S: f64 = 1_000.0;
/// The lowest and the highest rate: gaps between arrivals from a thousand seconds down to ten nanoseconds.
pub const RATES_PER_S: (f64, f64) = (0.001, 100_000_000.0);

/// The upper bounds are there so that a slip of the keyboard is an error and not an allocation.
const MAX_CONNECTIONS: usize = 1_000_000;
const MAX_DEPTH: usize = 65_536;
const MAX_THREADS: usize = 256;
const MAX_REQUESTS_PER_CONNECTION: u64 = 1_000_000_000_000;
const GIB: usize = 1 << 30;
const DAY: Duration = Duration::from_secs(86_400);
const MILLISECOND: Duration = Duration::from_millis(1);
/// Below it an interval has too few requests to say anything, and its line costs more than they do.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Half of what a histogram of latencies tells apart: above 60 s, every latency would keep the objective.
const MAX_OBJECTIVE: Duration = Duration::from_secs(30);
/// No Linux has a larger process number.
const MAX_PID: u32 = 1 << 22;
/// What a UDP datagram carries over IPv4: 65,535 bytes without the headers of IP and UDP.
const DATAGRAM_BYTES: usize = 65_507;
/// A `work` reply with stamps before its payload; its request has 24 bytes there.
const WORK_REPLY_HEADER_BYTES: usize = 56;
/// `max_line` of the text protocols, without the LF.
const MAX_LINE_BYTES: usize = (8 << 10) - 1;

/// What a load runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Whom it talks to.
    pub target: Target,
    /// What it asks there, with what belongs to that service.
    pub service: Service,
    /// When requests are due.
    pub arrivals: Arrivals,
    /// How the rate changes over the window; empty: not. The first phase is that of the warm-up as well.
    pub phases: Vec<Phase>,
    /// Requests in flight on one connection; none: without limit, in an open loop only.
    pub depth: Option<usize>,
    /// Connections; for datagrams, sockets. At least 2 for chat.
    pub connections: usize,
    /// A connection is replaced after so many requests; none: never. TCP only, and not chat.
    pub requests_per_connection: Option<u64>,
    /// Bytes of a request: all of it for echo, discard and files, the payload for work, the body or the line without its LF
    /// for chat.
    pub size_bytes: usize,
    /// The measured window, after the warm-up.
    pub duration: Duration,
    /// Load before the window that is not measured.
    pub warmup: Duration,
    /// How long replies may still come after the window.
    pub grace: Duration,
    /// A datagram without a reply after this time is lost, and so is a message of chat that somebody has not got.
    /// Without meaning for other services over TCP.
    pub lost_after: Duration,
    /// Decides arrivals, places, demands and bytes.
    pub seed: u64,
    /// Threads of the generator; never more than connections, and one for chat.
    pub threads: usize,
    /// How often a line says how it goes; none: never.
    pub interval: Option<Duration>,
    /// The server's process, to account for it and its descendants.
    pub pid: Option<u32>,
    /// What the latency should keep to. Always there with `search`.
    pub objective: Option<Objective>,
    /// Whether the largest rate that keeps the objective is looked for, from the rate of `arrivals` on.
    pub search: bool,
}

/// What a load asks of its target, with what belongs to that service.
#[derive(Clone, Debug, PartialEq)]
pub enum Service {
    /// The bytes come back.
    Echo,
    /// Nothing comes back.
    Discard,
    /// Each message goes to all other connections.
    Chat {
        /// How messages are told apart.
        framing: Framing,
    },
    /// Each request names its service time.
    Work {
        /// How it is drawn.
        demand: Demand,
        /// How it is spent.
        kind: WorkKind,
    },
    /// The same file is asked for, again and again.
    Files {
        /// What of it.
        command: FilesCommand,
        /// Which one: without LF, and no longer than a line may be.
        path: String,
    },
}

/// When requests are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// Each follows the reply to the one before.
    Closed,
    /// Independent of each other, at this rate over all connections.
    Poisson {
        /// Requests per second.
        rate_per_s: f64,
    },
    /// Evenly spaced, at this rate over all connections.
    Uniform {
        /// Requests per second.
        rate_per_s: f64,
    },
}

/// A piece of the window with a rate of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// By which the rate is multiplied, above zero.
    pub factor: f64,
    /// How long it lasts.
    pub length: Duration,
}

/// How the messages of chat are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By a u32 length before each.
    Length,
    /// By an LF behind each.
    Line,
}

/// How a server spends the service time of a `work` request; the number is the one on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WorkKind {
    /// On its processor.
    Spin = 0,
    /// Waiting.
    Sleep = 1,
    /// On the pool for long computations.
    Hash = 2,
}

/// What a load asks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesCommand {
    /// Its bytes.
    Get,
    /// How large it is, and how old.
    Stat,
    /// Its SHA-256.
    Hash,
}

impl FilesCommand {
    /// The name of `--command`.
    pub fn name(self) -> &'static str {
        match self {
            FilesCommand::Get => "get",
            FilesCommand::Stat => "stat",
            FilesCommand::Hash => "hash",
        }
    }
}

/// What a latency should keep to: a quantile of it, and the most that it may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// Strictly between 0 and 1: 0.99 for p99.
    pub quantile: f64,
    /// The most that the latency of this quantile may be.
    pub at_most: Duration,
    /// As the user typed it: `p99=500us`.
    pub text: String,
}

impl Plan {
    /// The plan that these flags amount to.
    ///
    /// # Errors
    /// The first thing that is wrong, as [`Error::Usage`] with the flag, the value and what was expected.
    pub fn resolve(args: &LoadArgs) -> Result<Plan, Error> {
        let (kind, target) = Target::parse(&args.target)?;
        let service = service(args, kind)?;
        let objective = args.slo.as_deref().map(Objective::parse).transpose()?;
        if args.search && objective.is_none() {
            return Err(usage("--search", "has no objective to keep", "--slo beside it, as in --slo p99=500us"));
        }
        let arrivals = arrivals(args)?;
        let phases = phases(args, arrivals)?;
        let all_phases = (!phases.is_empty()).then(|| phases.iter().map(|phase| phase.length).sum());
        let length = all_phases.or(time("--duration", &args.duration, MILLISECOND, DAY)?).unwrap_or(DURATION);
        if let Some(objective) = objective.as_ref().filter(|_| args.search) {
            search::check(objective, length)?;
        }
        let depth = number("--depth", &args.depth, 1, MAX_DEPTH as u64)?.map(|depth| depth as usize);
        let connections = connections(args, &service)?;
        Ok(Plan {
            requests_per_connection: requests_per_connection(args, kind, target.scheme)?,
            size_bytes: size(args, &service, target.scheme)?,
            duration: length,
            warmup: time("--warmup", &args.warmup, Duration::ZERO, DAY)?.unwrap_or(WARMUP),
            grace: time("--grace", &args.grace, Duration::ZERO, DAY)?.unwrap_or(GRACE),
            lost_after: lost_after(args, kind, target.scheme)?,
            seed: number("--seed", &args.seed, 0, u64::MAX)?.unwrap_or(SEED),
            threads: threads(args, &service, connections)?,
            interval: time("--interval", &args.interval, MIN_INTERVAL, DAY)?,
            pid: number("--pid", &args.pid, 1, MAX_PID.into())?.map(|pid| pid as u32),
            depth: depth.or((arrivals == Arrivals::Closed).then_some(DEPTH)),
            search: args.search,
            phases,
            target,
            service,
            arrivals,
            connections,
            objective,
        })
    }
}

impl Plan {
    /// How the rate changes over a run with this warm-up.
    pub fn pace(&self, warmup: Duration) -> Pace {
        let before = self.phases.first().map(|first| (warmup, first.factor));
        let lasting = before.into_iter().chain(self.phases.iter().map(|phase| (phase.length, phase.factor)));
        Pace::new(lasting.map(|(length, factor)| (length.as_nanos() as u64, factor)))
    }
}

impl Service {
    /// Which one it is.
    pub fn kind(&self) -> ServiceKind {
        match self {
            Service::Echo => ServiceKind::Echo,
            Service::Discard => ServiceKind::Discard,
            Service::Chat { .. } => ServiceKind::Chat,
            Service::Work { .. } => ServiceKind::Work,
            Service::Files { .. } => ServiceKind::Files,
        }
    }
}

impl Arrivals {
    /// The name of `--arrivals`; `closed` for a closed loop.
    pub fn name(self) -> &'static str {
        match self {
            Arrivals::Closed => "closed",
            Arrivals::Poisson { .. } => "poisson",
            Arrivals::Uniform { .. } => "uniform",
        }
    }

    /// Requests per second over all connections; none in a closed loop.
    pub fn rate_per_s(self) -> Option<f64> {
        match self {
            Arrivals::Closed => None,
            Arrivals::Poisson { rate_per_s } | Arrivals::Uniform { rate_per_s } => Some(rate_per_s),
        }
    }

    /// The same kind of arrivals at another rate; a closed loop has none and stays as it is.
    pub fn at_rate(self, rate_per_s: f64) -> Arrivals {
        match self {
            Arrivals::Closed => Arrivals::Closed,
            Arrivals::Poisson { .. } => Arrivals::Poisson { rate_per_s },
            Arrivals::Uniform { .. } => Arrivals::Uniform { rate_per_s },
        }
    }
}

impl Framing {
    /// The name of `--framing`.
    pub fn name(self) -> &'static str {
        match self {
            Framing::Length => "length",
            Framing::Line => "line",
        }
    }
}

impl WorkKind {
    /// The name of `--kind`.
    pub fn name(self) -> &'static str {
        match self {
            WorkKind::Spin => "spin",
            WorkKind::Sleep => "sleep",
            WorkKind::Hash => "hash",
        }
    }
}

impl Objective {
    /// The objective written as `text`: `p99=500us`; also p99.9 or p99_9, and every other percentile between 0 and 100.
    ///
    /// # Errors
    /// [`Error::Usage`] of `--slo`.
    pub fn parse(text: &str) -> Result<Objective, Error> {
        let wrong = |part: &str, problem: &str| {
            let range = format!("from 1ns to {}", show_duration(MAX_OBJECTIVE));
            let expected = format!("pN=DURATION with N between 0 and 100 and a duration {range}, as in p99=500us");
            usage("--slo", format!("{} {problem}", shown(part)), expected)
        };
        let (name, at_most) = text.split_once('=').ok_or_else(|| wrong(text, "is not an objective"))?;
        let quantile = parse_quantile(name).map_err(|problem| wrong(name, problem))?;
        let limit = parse_duration(at_most).map_err(|problem| wrong(at_most, problem))?;
        let limit = within(limit, Duration::from_nanos(1), MAX_OBJECTIVE).map_err(|problem| wrong(at_most, problem))?;
        Ok(Objective { quantile, at_most: limit, text: text.to_owned() })
    }
}

/// The quantile written as `text`: `p99` is 0.99; also p99.9 or p99_9, and every other percentile between 0 and 100.
///
/// # Errors
/// What is wrong with it, as it follows the text in a sentence.
pub fn parse_quantile(text: &str) -> Result<f64, &'static str> {
    let percentile = text.strip_prefix('p').map(|number| number.replacen('_', ".", 1));
    let percentile = percentile.filter(|number| parse_decimal(number).is_some()).ok_or("is not a percentile")?;
    // Not divided by a hundred, so that p99.9 is the very number that 0.999 is.
    let quantile: f64 = format!("{percentile}e-2").parse().expect("a decimal with an exponent is a number");
    if 0.0 < quantile && quantile < 1.0 { Ok(quantile) } else { Err("is not between p0 and p100") }
}

fn service(args: &LoadArgs, kind: ServiceKind) -> Result<Service, Error> {
    let only_with = |flag: &str, given: &Option<String>, owner: ServiceKind| {
        let expected = format!("it only with {}=SCHEME://HOST:PORT", owner.name());
        let problem = format!("has no meaning for {}", kind.name());
        if kind != owner && given.is_some() { Err(usage(flag, problem, expected)) } else { Ok(()) }
    };
    only_with("--demand", &args.demand, ServiceKind::Work)?;
    only_with("--kind", &args.kind, ServiceKind::Work)?;
    only_with("--framing", &args.framing, ServiceKind::Chat)?;
    only_with("--path", &args.path, ServiceKind::Files)?;
    only_with("--command", &args.command, ServiceKind::Files)?;
    Ok(match kind {
        ServiceKind::Echo => Service::Echo,
        ServiceKind::Discard => Service::Discard,
        ServiceKind::Chat => {
            let words = [Framing::Length, Framing::Line].map(|framing| (framing.name(), framing));
            Service::Chat { framing: word("--framing", &args.framing, &words)?.unwrap_or(Framing::Length) }
        }
        ServiceKind::Work => {
            let demand = Demand::parse(args.demand.as_deref().unwrap_or(DEMAND));
            let words = [WorkKind::Spin, WorkKind::Sleep, WorkKind::Hash].map(|kind| (kind.name(), kind));
            Service::Work {
                demand: demand.map_err(|problem| usage("--demand", problem, demand::FORMS))?,
                kind: word("--kind", &args.kind, &words)?.unwrap_or(WorkKind::Spin),
            }
        }
        ServiceKind::Files => {
            let words = [FilesCommand::Get, FilesCommand::Stat, FilesCommand::Hash].map(|word| (word.name(), word));
            let command = word("--command", &args.command, &words)?.unwrap_or(FilesCommand::Get);
            Service::Files { command, path: path(args)? }
        }
    })
}

fn arrivals(args: &LoadArgs) -> Result<Arrivals, Error> {
    let rate = args.rate.as_deref().map(|text| {
        let (min, max) = RATES_PER_S;
        let rate = parse_decimal(text).ok_or("is not a number").and_then(|rate| within(rate, min, max));
        let expected = || format!("requests per second, from {min} to {max}");
        rate.map_err(|problem| usage("--rate", format!("{} {problem}", shown(text)), expected()))
    });
    let Some(rate_per_s) = rate.transpose()?.or(args.search.then_some(SEARCH_START_PER_S)) else {
        return match args.arrivals {
            Some(_) => Err(usage("--arrivals", "has no meaning in a closed loop", "--rate beside it, or --search")),
            None => Ok(Arrivals::Closed),
        };
    };
    let words = [Arrivals::Poisson { rate_per_s }, Arrivals::Uniform { rate_per_s }].map(|kind| (kind.name(), kind));
    Ok(word("--arrivals", &args.arrivals, &words)?.unwrap_or(Arrivals::Poisson { rate_per_s }))
}

fn phases(args: &LoadArgs, arrivals: Arrivals) -> Result<Vec<Phase>, Error> {
    let Some(text) = args.phases.as_deref() else { return Ok(Vec::new()) };
    let (min, max) = RATES_PER_S;
    let wrong = |part: &str, problem: &str| {
        let expected =
            format!("FACTOR:DURATION,…, as in 0.5:2s,2:500ms, with a rate from {min} to {max} and up to a day");
        usage("--phases", format!("{} {problem}", shown(part)), expected)
    };
    let phase = |part: &str| {
        let (factor, length) = part.split_once(':').ok_or_else(|| wrong(part, "is not a phase"))?;
        let factor = parse_decimal(factor).ok_or_else(|| wrong(part, "has no number before its colon"))?;
        let length = parse_duration(length).and_then(|length| within(length, MILLISECOND, DAY));
        let length = length.map_err(|problem| wrong(part, &format!("has a length that {problem}")))?;
        Ok(Phase { factor, length })
    };
    let phases = text.split(',').map(phase).collect::<Result<Vec<_>, Error>>()?;
    let Some(rate_per_s) = arrivals.rate_per_s() else {
        return Err(usage("--phases", "has no rate to change", "--rate beside it"));
    };
    if args.search {
        return Err(usage("--phases", "has no meaning in a search, which changes the rate itself", "--rate alone"));
    }
    if args.duration.is_some() {
        return Err(usage("--phases", "says how long the window is, as --duration does", "one of them"));
    }
    for (phase, part) in phases.iter().zip(text.split(',')) {
        let possible = within(phase.factor * rate_per_s, min, max);
        possible.map_err(|problem| wrong(part, &format!("has a rate that {problem}")))?;
    }
    Ok(phases)
}

fn connections(args: &LoadArgs, service: &Service) -> Result<usize, Error> {
    let connections = number("--connections", &args.connections, 1, MAX_CONNECTIONS as u64)?;
    let connections = connections.map_or(CONNECTIONS, |connections| connections as usize);
    if matches!(service, Service::Chat { .. }) && connections < 2 {
        let problem = format!("{connections} is too small for chat, whose messages go to the other connections");
        return Err(usage("--connections", problem, format!("a number from 2 to {MAX_CONNECTIONS}")));
    }
    Ok(connections)
}

fn requests_per_connection(args: &LoadArgs, kind: ServiceKind, scheme: Scheme) -> Result<Option<u64>, Error> {
    let flag = "--requests-per-connection";
    let count = number(flag, &args.requests_per_connection, 1, MAX_REQUESTS_PER_CONNECTION)?;
    match (kind, scheme) {
        _ if count.is_none() => Ok(None),
        (ServiceKind::Chat, _) => {
            let problem = "has no meaning for chat: who comes and goes changes who must get a message";
            Err(usage(flag, problem, "connections that stay"))
        }
        (_, Scheme::Udp) => Err(usage(flag, "has no meaning for datagrams, which have no connections", "a tcp target")),
        _ => Ok(count),
    }
}

/// The path of the file that is asked for.
fn path(args: &LoadArgs) -> Result<String, Error> {
    let expected = "the path of a file below the root of the server, as in --path folder/file";
    let Some(path) = args.path.clone() else { return Err(usage("--path", "is missing", expected)) };
    let most = MAX_LINE_BYTES - "HASH ".len();
    let problem = match path.as_str() {
        "" => "is empty",
        path if path.contains(['\n', '\0']) || path.ends_with('\r') => "has an end of line or a NUL in it",
        path if path.len() > most => "is longer than a line may be",
        _ => return Ok(path),
    };
    Err(usage("--path", problem, expected))
}

/// The bytes that a request may have, and why not fewer or more.
struct Sizes {
    min: usize,
    too_small: &'static str,
    max: usize,
    too_large: &'static str,
}

fn size(args: &LoadArgs, service: &Service, scheme: Scheme) -> Result<usize, Error> {
    if let Service::Files { command, path } = service {
        return match args.size {
            None => Ok(command.name().len() + 1 + path.len() + 1),
            Some(_) => Err(usage("--size", "has no meaning for files, which are as long as they are", "none")),
        };
    }
    let sizes = match (service, scheme) {
        (Service::Echo | Service::Discard, Scheme::Udp) => Sizes {
            min: 8,
            too_small: ": a datagram carries the 8 bytes that identify it",
            max: DATAGRAM_BYTES,
            too_large: " for a datagram",
        },
        (Service::Work { .. }, Scheme::Udp) => Sizes {
            min: 0,
            too_small: "",
            max: DATAGRAM_BYTES - WORK_REPLY_HEADER_BYTES,
            too_large: ": with what stands before it, the reply is more than a datagram",
        },
        (Service::Echo | Service::Discard, _) => {
            Sizes { min: 1, too_small: ": it would be no request", max: GIB, too_large: "" }
        }
        (Service::Work { .. } | Service::Files { .. }, _) => Sizes { min: 0, too_small: "", max: GIB, too_large: "" },
        (Service::Chat { framing: Framing::Length }, _) => {
            Sizes { min: 12, too_small: ": a message names its sender and its number", max: GIB, too_large: "" }
        }
        (Service::Chat { framing: Framing::Line }, _) => Sizes {
            min: 24,
            too_small: ": a line names its sender and its number",
            max: MAX_LINE_BYTES,
            too_large: ": a line is at most 8KiB with its LF",
        },
    };
    let Some(text) = args.size.as_deref() else { return Ok(SIZE_BYTES) };
    let bytes = parse_size(text).map_err(str::to_owned).and_then(|bytes| match bytes {
        bytes if bytes < sizes.min => Err(format!("is too small{}", sizes.too_small)),
        bytes if bytes > sizes.max => Err(format!("is too large{}", sizes.too_large)),
        bytes => Ok(bytes),
    });
    bytes.map_err(|problem| {
        let range = format!("from {} to {}", show_size(sizes.min), show_size(sizes.max));
        usage("--size", format!("{} {problem}", shown(text)), format!("a size such as 64, 16KiB or 1MiB, {range}"))
    })
}

fn lost_after(args: &LoadArgs, kind: ServiceKind, scheme: Scheme) -> Result<Duration, Error> {
    let flag = "--lost-after";
    let lost_after = time(flag, &args.lost_after, MILLISECOND, DAY)?;
    if kind == ServiceKind::Chat {
        return Ok(lost_after.unwrap_or(MISSED_AFTER));
    }
    if lost_after.is_some() && scheme != Scheme::Udp {
        return Err(usage(flag, "has no meaning for tcp, which loses nothing", "a udp target, or chat"));
    }
    if lost_after.is_some() && kind == ServiceKind::Discard {
        return Err(usage(flag, "has no meaning for discard, which never replies", "a target that replies"));
    }
    Ok(lost_after.unwrap_or(LOST_AFTER))
}

fn threads(args: &LoadArgs, service: &Service, connections: usize) -> Result<usize, Error> {
    let flag = "--threads";
    let threads = number(flag, &args.threads, 1, MAX_THREADS as u64)?.map_or(THREADS, |threads| threads as usize);
    if threads > 1 && matches!(service, Service::Chat { .. }) {
        return Err(usage(flag, format!("{threads} is too large: chat is checked by one thread"), "1"));
    }
    if threads > connections {
        let problem = format!("{threads} is more than there are connections");
        return Err(usage(flag, problem, format!("at most {connections}, or more --connections")));
    }
    Ok(threads)
}

fn word<T: Copy>(flag: &str, given: &Option<String>, words: &[(&str, T)]) -> Result<Option<T>, Error> {
    let Some(text) = given.as_deref() else { return Ok(None) };
    let Some((_, value)) = words.iter().find(|(word, _)| *word == text) else {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        return Err(usage(flag, format!("{} is not known", shown(text)), known.join(" or ")));
    };
    Ok(Some(*value))
}
