//! [`Digest`]: the rows of a study in the groups that a reader compares, each with its medians and intervals.
//!
//! A *mix* is what clients ask for, such as `demand=exp:10us`; a *series* is what serves them, such as
//! `engine=pool`; a *spot* is one point of a series with all its repeats. Only series of one mix are put on one
//! figure, since others had something else to do.
//!
//! Invariants: *any-order*: rows in another order give the same digest. *all-or-none*: a spot has a figure only if each of
//! its runs has it, since those with few samples or many failures are not like the others. *unflattered*: where as many
//! requests as lie beyond a quantile were never served, the quantile is longer than anything, and absent.
//!
//! Read next: `contest.rs`, which of them is ahead; `findings.rs`, the same in words.

use std::collections::BTreeMap;

use crate::study::analysis::{Group, groups};
use crate::study::estimate::{Estimate, median, ratio};
use crate::study::row::{self, Limit, Parameters, Pin, Row, Status, Twin};

/// The parameters that clients decide; all others are the server's.
const OF_CLIENTS: &[&str] =
    &["service", "demand", "kind", "connections", "depth", "requests_per_connection", "size", "arrivals"];

/// An open load is behind when it has fewer replies than this part of what came due: guess, far beyond chance at any
/// length of a run.
const KEPT_UP: f64 = 0.95;

/// Something that is measured of every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    /// Median latency from the intended send.
    P50,
    /// 90 % are at most this.
    P90,
    /// 99 % are at most this.
    P99,
    /// 99.9 % are at most this.
    P999,
    /// Replies per second.
    Achieved,
    /// The server's processor time for a request.
    Cpu,
    /// Median of the time to connect.
    Connect,
}

impl Measure {
    /// All of them, in the order of tables.
    pub(super) const ALL: &[Measure] =
        &[Measure::P50, Measure::P90, Measure::P99, Measure::P999, Measure::Achieved, Measure::Cpu, Measure::Connect];

    /// As tables and sentences call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Measure::P50 => "p50",
            Measure::P90 => "p90",
            Measure::P99 => "p99",
            Measure::P999 => "p99.9",
            Measure::Achieved => "throughput",
            Measure::Cpu => "CPU per request",
            Measure::Connect => "connect p50",
        }
    }

    /// Where it stands in a row.
    fn path(self) -> &'static str {
        match self {
            Measure::P50 => "load.latency_ns.p50",
            Measure::P90 => "load.latency_ns.p90",
            Measure::P99 => "load.latency_ns.p99",
            Measure::P999 => "load.latency_ns.p99_9",
            Measure::Achieved => "load.achieved_per_s",
            Measure::Cpu => "load.server.cpu_ns_per_request",
            Measure::Connect => "load.connect_latency_ns.p50",
        }
    }

    /// The share of requests that take longer; none of what is no quantile of latency.
    pub(super) fn share_beyond(self) -> Option<f64> {
        match self {
            Measure::P50 => Some(0.5),
            Measure::P90 => Some(0.1),
            Measure::P99 => Some(0.01),
            Measure::P999 => Some(0.001),
            Measure::Achieved | Measure::Cpu | Measure::Connect => None,
        }
    }

    /// What this row says of it (*unflattered*).
    pub(super) fn of(self, row: &Row) -> Option<f64> {
        if self == Measure::Connect && row.parameters.requests_per_connection.is_none() {
            // What every connection waits for once, before the load begins.
            return None;
        }
        let figure = row.figure(self.path())?;
        let is_beyond_all = self.share_beyond().is_some_and(|beyond| unserved_share(row) >= beyond);
        (!is_beyond_all).then_some(figure)
    }

    /// What the ideal system is predicted to have.
    pub(super) fn predicted(self, row: &Row) -> Option<f64> {
        let sojourn = &row.predicted.as_ref()?.sojourn_ns;
        match self {
            Measure::P50 => sojourn.p50,
            Measure::P90 => sojourn.p90,
            Measure::P99 => sojourn.p99,
            Measure::P999 => sojourn.p99_9,
            Measure::Achieved | Measure::Cpu | Measure::Connect => None,
        }
    }
}

/// The share of the requests of a run's window that nobody served; 0 without requests.
pub(super) fn unserved_share(row: &Row) -> f64 {
    row.load.as_ref().and_then(row::unserved_share).unwrap_or(0.0)
}

/// What came due in a run's window, by its length: of a short one not the rate that was asked for, which chance decides.
/// None in a closed loop.
fn offered_per_s(row: &Row) -> Option<f64> {
    let asked = row.parameters.rate_per_s?;
    let window_s = row.figure("load.duration_s").unwrap_or(row.parameters.duration_s);
    let came_due = row.figure("load.intended").map(|intended| intended / window_s).filter(|rate| rate.is_finite());
    Some(came_due.or_else(|| row.figure("load.offered_per_s")).unwrap_or(asked))
}

/// A study's rows in groups.
#[derive(Debug)]
pub(super) struct Digest<'a> {
    /// By what clients ask for, in the order of the plan.
    pub(super) mixes: Vec<Mix<'a>>,
    /// What two alike differ by.
    pub(super) noise: Noise,
    /// All rows, in the order of the plan.
    pub(super) rows: Vec<&'a Row>,
    /// The most repeats that any spot has.
    pub(super) repeats: usize,
}

/// What clients ask for.
#[derive(Debug)]
pub(super) struct Mix<'a> {
    /// As `demand=exp:10us`; empty if all of the study is one.
    pub(super) label: String,
    /// What served them, in the order of the plan.
    pub(super) series: Vec<Series<'a>>,
}

/// What serves clients, at every point.
#[derive(Debug)]
pub(super) struct Series<'a> {
    /// As `pool, 2 workers`.
    pub(super) label: String,
    /// The same without the number of workers, as `pool`; the label where that would be nothing.
    pub(super) family: String,
    /// Its workers.
    pub(super) workers: usize,
    /// In the order of load; what has none comes last.
    pub(super) spots: Vec<Spot<'a>>,
}

/// A series at one point: the same run several times.
#[derive(Debug)]
pub(super) struct Spot<'a> {
    /// As `load=0.5`.
    pub(super) point: &'a str,
    /// The runs that were measured; never those that are there for the A/A pair alone.
    pub(super) rows: Vec<&'a Row>,
    /// Runs that were not.
    pub(super) failed: usize,
    /// What the first of either was made with.
    pub(super) parameters: &'a Parameters,
    estimates: BTreeMap<Measure, Estimate>,
}

/// How much two configurations that are the same differ: the A/A pair.
#[derive(Debug, Default)]
pub(super) struct Noise {
    ratios: BTreeMap<Measure, Estimate>,
}

impl Noise {
    /// The ratio of the second of the pair to the first.
    pub(super) fn ratio(&self, measure: Measure) -> Option<Estimate> {
        self.ratios.get(&measure).copied()
    }

    /// The floor: the farthest end of that ratio's interval from 1, or the ratio itself where there is no interval, as a
    /// factor of at least 1. None without a pair.
    pub(super) fn floor(&self, measure: Measure) -> Option<f64> {
        let Estimate { center, interval, .. } = self.ratio(measure)?;
        let (low, high) = interval.unwrap_or((center, center));
        Some([low, high, center].iter().map(|end| end.max(1.0 / end)).fold(1.0, f64::max)).filter(|far| far.is_finite())
    }
}

impl<'a> Digest<'a> {
    /// The groups of these rows, in whatever order they come.
    pub(super) fn new(rows: &'a [Row]) -> Digest<'a> {
        let mut sorted: Vec<&Row> = rows.iter().collect();
        sorted.sort_by_key(|row| (row.run, row.order));
        let mut mixes: Vec<Mix<'_>> = Vec::new();
        for group in groups(rows) {
            let (asked, served) = (mix_label(group.configuration), series_label(&group));
            let mix = found(&mut mixes, |mix| &mix.label, asked, |label| Mix { label, series: Vec::new() });
            let series = found(
                &mut mix.series,
                |series| &series.label,
                served,
                |label| Series { family: family(&label), label, workers: group.parameters.workers, spots: Vec::new() },
            );
            series.spots.push(Spot::new(group));
        }
        for series in mixes.iter_mut().flat_map(|mix| &mut mix.series) {
            let key = |spot: &Spot<'_>| spot.load().unwrap_or(f64::INFINITY);
            series.spots.sort_by(|one, other| key(one).total_cmp(&key(other)));
        }
        let all = || mixes.iter().flat_map(|mix| &mix.series).flat_map(|series| &series.spots);
        let repeats = all().map(|spot| spot.rows.len()).max().unwrap_or(0);
        let noise = noise(&sorted);
        Digest { mixes, noise, rows: sorted, repeats }
    }

    /// All series, with their mixes.
    pub(super) fn series(&self) -> impl Iterator<Item = (&Mix<'a>, &Series<'a>)> {
        self.mixes.iter().flat_map(|mix| mix.series.iter().map(move |series| (mix, series)))
    }

    /// All spots.
    pub(super) fn spots(&self) -> impl Iterator<Item = &Spot<'a>> {
        self.series().flat_map(|(_, series)| &series.spots)
    }

    /// Runs that failed.
    pub(super) fn failed(&self) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().copied().filter(|row| row.status == Status::Failed)
    }

    /// Whether any run shared its cores with its load.
    pub(super) fn shares_cores(&self) -> bool {
        let shares = |row: &Row| {
            let parameters = &row.parameters;
            parameters.pin == Pin::Float
                || parameters.server_cores.iter().any(|core| parameters.load_cores.contains(core))
        };
        self.rows.iter().any(|row| shares(row))
    }
}

impl<'a> Spot<'a> {
    fn new(Group { point, rows, failed, parameters, .. }: Group<'a>) -> Spot<'a> {
        let estimate = |measure: &Measure| {
            let values: Option<Vec<f64>> = rows.iter().map(|row| measure.of(row)).collect();
            Some((*measure, Estimate::of(&values?)?))
        };
        let estimates = Measure::ALL.iter().filter_map(estimate).collect();
        Spot { point, rows, failed, parameters, estimates }
    }

    /// The median of its runs (*all-or-none*).
    pub(super) fn estimate(&self, measure: Measure) -> Option<Estimate> {
        self.estimates.get(&measure).copied()
    }

    /// How far its runs lie apart: the interval, or where there are too few for one, from the least to the greatest.
    pub(super) fn spread(&self, measure: Measure) -> Option<(f64, f64)> {
        let estimate = self.estimate(measure)?;
        let values = || self.rows.iter().filter_map(|row| measure.of(row));
        let ends = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        estimate.interval.or((estimate.runs > 1).then_some(ends))
    }

    /// What the ideal system is predicted to have: the median over the runs' traces.
    pub(super) fn predicted(&self, measure: Measure) -> Option<f64> {
        let values: Vec<f64> = self.rows.iter().filter_map(|row| measure.predicted(row)).collect();
        median(&values)
    }

    /// How much is asked for: a share of capacity where the plan says it so, else requests per second. None in a closed
    /// loop, and where the load changes on the way.
    pub(super) fn load(&self) -> Option<f64> {
        if self.has_phases() { None } else { self.parameters.load.or(self.parameters.rate_per_s) }
    }

    /// Requests per second that were asked for.
    pub(super) fn rate_per_s(&self) -> Option<f64> {
        self.parameters.rate_per_s
    }

    /// Whether the load changes on the way.
    pub(super) fn has_phases(&self) -> bool {
        !self.parameters.phases.is_empty()
    }

    /// How many of its runs this limit may have decided.
    pub(super) fn limited_by(&self, limit: Limit) -> usize {
        self.rows.iter().filter(|row| row.limited_by.contains(&limit)).count()
    }

    /// Whether most of its runs had fewer replies than requests came due: the server is over its limit.
    pub(super) fn is_behind(&self) -> bool {
        let behind = |row: &&&Row| {
            let achieved = row.figure("load.achieved_per_s");
            offered_per_s(row).zip(achieved).is_some_and(|(offered, achieved)| achieved < KEPT_UP * offered)
        };
        !self.has_phases() && self.rows.iter().filter(behind).count() * 2 > self.rows.len()
    }

    /// What is to be known before its figures are believed, each in a few words.
    pub(super) fn doubts(&self) -> Vec<String> {
        let runs = self.rows.len();
        let part = |count: usize| if count == runs { String::new() } else { format!(" in {count} of {runs}") };
        let mut doubts = Vec::new();
        for (limit, words) in [(Limit::Generator, "generator-limited"), (Limit::Machine, "machine-limited")] {
            let count = self.limited_by(limit);
            doubts.extend((count > 0).then(|| format!("{words}{}", part(count))));
        }
        doubts.extend(self.is_behind().then(|| "over its limit".to_owned()));
        let unserved = self.rows.iter().map(|row| unserved_share(row)).fold(0.0, f64::max);
        doubts.extend((unserved > 0.0).then(|| format!("up to {} not served", super::words::percent(unserved))));
        doubts.extend((self.failed > 0).then(|| format!("{} failed", self.failed)));
        doubts
    }

    /// Whether its figures may be the load's own, or the machine's.
    pub(super) fn is_doubtful(&self) -> bool {
        self.limited_by(Limit::Generator) + self.limited_by(Limit::Machine) > 0 || self.is_behind()
    }

    /// The median ratio of a measure here to the same at another spot, run by run of one repeat.
    pub(super) fn ratio_to(&self, other: &Spot<'_>, measure: Measure) -> Option<Estimate> {
        // As in `estimate`: what only some runs have is not compared.
        self.estimate(measure).and(other.estimate(measure))?;
        let of = |row: &&Row| Some((row.repeat, measure.of(row)?));
        let others: BTreeMap<usize, f64> = other.rows.iter().filter_map(of).collect();
        let pairs = self.rows.iter().filter_map(of);
        let pairs: Vec<(f64, f64)> = pairs.filter_map(|(repeat, own)| Some((own, *others.get(&repeat)?))).collect();
        ratio(&pairs)
    }
}

/// The one of this label, which is put there if it is not.
fn found<T>(items: &mut Vec<T>, label_of: fn(&T) -> &String, label: String, make: impl FnOnce(String) -> T) -> &mut T {
    let at = items.iter().position(|item| *label_of(item) == label).unwrap_or_else(|| {
        items.push(make(label));
        items.len() - 1
    });
    &mut items[at]
}

/// Each pair of the same round and point is one of the ratio's.
fn noise(rows: &[&Row]) -> Noise {
    let twins = |twin: Twin| rows.iter().filter(move |row| row.status == Status::Ok && row.twin == Some(twin));
    let key = |row: &Row| (row.repeat, row.configuration.clone(), row.point.clone());
    let firsts: BTreeMap<_, &Row> = twins(Twin::First).map(|row| (key(row), *row)).collect();
    let mut ratios = BTreeMap::new();
    for measure in Measure::ALL {
        let pair = |second: &&Row| Some((measure.of(second)?, measure.of(firsts.get(&key(second))?)?));
        let pairs: Vec<(f64, f64)> = twins(Twin::Second).filter_map(pair).collect();
        ratios.extend(ratio(&pairs).map(|ratio| (*measure, ratio)));
    }
    Noise { ratios }
}

/// The varied parameters in a configuration's name; none in a study that varies nothing.
fn varied(configuration: &str) -> impl Iterator<Item = (&str, &str)> {
    configuration.split(' ').filter_map(|part| part.split_once('='))
}

fn mix_label(configuration: &str) -> String {
    let parts = varied(configuration).filter(|(name, _)| OF_CLIENTS.contains(name));
    parts.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn series_label(group: &Group<'_>) -> String {
    let parts = varied(group.configuration).filter(|(name, _)| !OF_CLIENTS.contains(name));
    let word = |(name, value): (&str, &str)| match name {
        "engine" => value.to_owned(),
        "workers" => workers(value),
        _ => format!("{name}={value}"),
    };
    let words: Vec<String> = parts.map(word).collect();
    match words.is_empty() {
        true => format!("{}, {}", group.parameters.engine, workers(&group.parameters.workers.to_string())),
        false => words.join(", "),
    }
}

/// A label without its number of workers.
fn family(label: &str) -> String {
    let is_other = |part: &&str| !part.ends_with(" workers") && *part != "1 worker";
    let others: Vec<&str> = label.split(", ").filter(is_other).collect();
    if others.is_empty() { label.to_owned() } else { others.join(", ") }
}

fn workers(count: &str) -> String {
    if count == "1" { "1 worker".to_owned() } else { format!("{count} workers") }
}
