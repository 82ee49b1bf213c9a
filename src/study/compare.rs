//! `maitred compare A B`: two studies, or two loads, row by row: ratios of medians with their intervals, and a verdict.
//!
//! Rows are matched by all that was asked of them, but for seed and order. A row is *worse* only if all of the interval
//! of some ratio lies beyond the threshold: noise alone fails nobody's build, and a difference that the repeats cannot
//! show is told as none. So few repeats find little: it is the interval that says how little.
//!
//! A single load has no repeats. Its quantiles and shares have an interval of their own, from the number of requests;
//! that is the least that they vary, and says nothing of how runs differ. Its rate and its cost have none.
//!
//! Invariant *nothing-fast-by-failing*: a server that answers less, or with errors, or not at all, is worse whatever the
//! latency of the rest.
//!
//! Read next: `compare/share.rs`, what is told as a share; `estimate.rs`, the intervals; `compare/show.rs`, the same for
//! people.

mod asked;
mod share;
mod show;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::estimate::{Estimate, FEWEST, difference_of_means, mean, median, ratio_of_medians};
use super::row::{Row, Status, unserved_share};
use super::rows;
use crate::cli::CompareArgs;
use crate::config::{shown, usage};
use crate::error::Error;
use crate::metrics::histogram::Histogram;
use crate::random::Random;
use crate::units::parse_decimal;

/// The exit code that says: something is worse.
pub const WORSE: u8 = 3;
/// The default of `--threshold`: what interleaved runs on a shared machine can tell apart.
pub const THRESHOLD: f64 = 0.05;
/// Decides the draws for the interval of a quantile of one load.
const SEED: u64 = 1;
/// How many draws those are.
const DRAWS: usize = 1_000;

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name here.
    pub name: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    reading: Reading,
}

/// Where a load has a metric, and so how two of it are compared.
#[derive(Clone, Copy, Debug)]
enum Reading {
    /// At this path; by ratio.
    Figure(&'static str),
    /// At this path, and so many per cent of the histogram lie below it; by ratio.
    Quantile(&'static str, u8),
    /// A share of its requests, by difference: it may be zero.
    Share(fn(&Value) -> Option<f64>),
}

/// All metrics, in the order in which people are shown them.
pub const METRICS: &[Metric] = &[
    Metric { name: "p50", more_is_better: false, reading: Reading::Quantile("latency_ns.p50", 50) },
    Metric { name: "p99", more_is_better: false, reading: Reading::Quantile("latency_ns.p99", 99) },
    Metric { name: "rate", more_is_better: true, reading: Reading::Figure("achieved_per_s") },
    Metric { name: "cpu", more_is_better: false, reading: Reading::Figure("server.cpu_ns_per_request") },
    Metric { name: "unserved", more_is_better: false, reading: Reading::Share(unserved_share) },
    Metric { name: "errors", more_is_better: false, reading: Reading::Share(share::of_errors) },
];

/// How a row, or a metric of it, has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All of the interval lies beyond the threshold, on the better side.
    Better,
    /// All of it lies beyond the threshold, on the worse side.
    Worse,
    /// No difference beyond the threshold is shown.
    NoDifference,
    /// There is nothing to compare, or too little.
    NotComparable,
}

/// One metric of a matched row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// [`Metric::name`].
    pub metric: &'static str,
    /// The median of A, or the mean of a share; null if it was not measured.
    pub before: Option<f64>,
    /// That of B.
    pub after: Option<f64>,
    /// B by A; null without both, and for a share.
    pub ratio: Option<f64>,
    /// Of a share, what B is above A; null for anything else.
    pub difference: Option<f64>,
    /// The 95 % interval of the ratio or the difference; null with too few runs.
    pub interval: Option<(f64, f64)>,
    /// What it says.
    pub verdict: Verdict,
}

/// A matched row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Matched {
    /// What was compared, in the words of B.
    pub configuration: String,
    /// How much was asked.
    pub point: String,
    /// Runs of A that were measured.
    pub runs_before: usize,
    /// Runs of B that were measured.
    pub runs_after: usize,
    /// Whether the load or the machine may have decided a run on either side.
    pub limited: bool,
    /// The metrics.
    pub changes: Vec<Change>,
    /// Worse if any metric is, or if more of B's runs failed than of A's; else better if any is.
    pub verdict: Verdict,
    /// Why, where it is not the metrics that say so.
    pub reason: Option<String>,
}

/// Two studies or loads, row by row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Names this format.
    pub schema: &'static str,
    /// A, as it was named.
    pub before: String,
    /// B, as it was named.
    pub after: String,
    /// A change that counts, as a share: 0.05 is 5 %.
    pub threshold: f64,
    /// The rows that both have.
    pub rows: Vec<Matched>,
    /// Rows that only A has.
    pub only_before: Vec<String>,
    /// Rows that only B has.
    pub only_after: Vec<String>,
    /// How many rows are worse.
    pub worse: usize,
}

/// `maitred compare`. The exit code: 0, or [`WORSE`].
///
/// # Errors
/// A threshold that is none; what is to be compared cannot be read, or has no row in common.
pub fn command(args: &CompareArgs) -> Result<u8, Error> {
    let threshold = args.threshold.as_deref().map_or(Ok(THRESHOLD), threshold)?;
    let (before, after) = (Side::read(&args.before)?, Side::read(&args.after)?);
    let name = |path: &Path| path.display().to_string();
    if let (Side::Load(one), Side::Load(other)) = (&before, &after) {
        asked::alike((&name(&args.before), one), (&name(&args.after), other))?;
    }
    let comparison = Comparison::of((&name(&args.before), &before), (&name(&args.after), &after), threshold);
    if comparison.rows.is_empty() {
        let problem = format!("{} has no row that {} has as well", name(&args.after), name(&args.before));
        return Err(usage("B", problem, "two studies with a configuration at a point in common, or two loads"));
    }
    let text = match args.json {
        true => serde_json::to_string(&comparison).expect("a comparison is JSON") + "\n",
        false => show::render(&comparison),
    };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(reason) if reason.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Output { target: "standard output".to_owned(), reason })
        }
        // A reader that has seen enough is no failure; the exit code still says how it is.
        _ => Ok(if comparison.worse > 0 { WORSE } else { 0 }),
    }
}

fn threshold(text: &str) -> Result<f64, Error> {
    let percent = text.strip_suffix('%').and_then(parse_decimal).filter(|percent| *percent < 1_000.0);
    let expected = "a percentage below 1000%, as in 5%";
    percent
        .map(|percent| percent / 100.0)
        .ok_or_else(|| usage("--threshold", format!("{} is not one", shown(text)), expected))
}

/// What was measured of one side.
pub enum Side {
    /// A study.
    Study(Vec<Row>),
    /// A load: its report.
    Load(Box<Value>),
}

impl Side {
    /// The study in a directory, or the load in a file.
    ///
    /// # Errors
    /// It is neither.
    pub fn read(path: &Path) -> Result<Side, Error> {
        if path.is_dir() {
            return Ok(Side::Study(rows::read(path)?));
        }
        let text =
            fs::read_to_string(path).map_err(|reason| Error::resource(format!("read {}", path.display()), reason))?;
        let report: Option<Value> = serde_json::from_str(&text).ok();
        let report = report.filter(|report| report["schema"] == "maitred.load/1");
        report.map(|report| Side::Load(Box::new(report))).ok_or_else(|| Error::Configuration {
            file: path.to_owned(),
            line: None,
            key: None,
            problem: "is no report of a load".to_owned(),
            expected: "the directory of a study, or what `maitred load --json` prints".to_owned(),
        })
    }

    /// The runs by what was asked of them, with the words for it.
    fn groups(&self) -> BTreeMap<String, Runs<'_>> {
        let mut groups: BTreeMap<String, Runs<'_>> = BTreeMap::new();
        match self {
            Side::Study(rows) => {
                for row in rows.iter().filter(|row| row.twin != Some(super::row::Twin::Second)) {
                    let group = groups.entry(key(row)).or_insert_with(|| Runs::new(&row.configuration, &row.point));
                    match (row.status, &row.load) {
                        (Status::Ok, Some(load)) => group.loads.push(load),
                        _ => group.failed += 1,
                    }
                    group.limited |= !row.limited_by.is_empty();
                }
            }
            Side::Load(report) => {
                let mut runs = Runs::new(report["target"].as_str().unwrap_or("load"), "");
                runs.loads.push(report);
                runs.is_single = true;
                runs.limited = report["generator"]["saturated"] == true;
                groups.insert(String::new(), runs);
            }
        }
        groups
    }
}

/// All that was asked of a run: what rows are matched by. Not which cores it had, so that two machines can be compared.
fn key(row: &Row) -> String {
    let mut parameters = serde_json::to_value(&row.parameters).expect("parameters are JSON");
    for name in ["seed", "server_cores", "load_cores", "objective", "cooldown_s"] {
        parameters.as_object_mut().expect("they are an object").remove(name);
    }
    parameters.to_string()
}

/// The runs of one row.
struct Runs<'a> {
    configuration: &'a str,
    point: &'a str,
    loads: Vec<&'a Value>,
    failed: usize,
    limited: bool,
    /// A load by itself, and no study.
    is_single: bool,
}

impl<'a> Runs<'a> {
    fn new(configuration: &'a str, point: &'a str) -> Runs<'a> {
        Runs { configuration, point, loads: Vec::new(), failed: 0, limited: false, is_single: false }
    }

    fn name(&self) -> String {
        format!("{} {}", self.configuration, self.point).trim_end().to_owned()
    }

    /// What each of its loads says of a metric, of those that do.
    fn values(&self, reading: Reading) -> Vec<f64> {
        let value = |load: &&Value| match reading {
            Reading::Figure(path) | Reading::Quantile(path, _) => {
                path.split('.').try_fold(*load, |value, field| value.get(field))?.as_f64()
            }
            Reading::Share(of) => of(load),
        };
        self.loads.iter().filter_map(value).collect()
    }

    /// Its one load, if it is one by itself.
    fn single(&self) -> Option<&Value> {
        self.loads.first().copied().filter(|_| self.is_single)
    }

    /// The share of its runs that failed.
    fn failed_share(&self) -> f64 {
        self.failed as f64 / (self.failed + self.loads.len()).max(1) as f64
    }

    fn failures(&self) -> String {
        match (self.loads.len(), self.failed) {
            (0, failed) => format!("all {failed} runs"),
            (measured, failed) => format!("{failed} of {} runs", failed + measured),
        }
    }
}

impl Comparison {
    /// The comparison of two sides, each with its name.
    pub fn of(before: (&str, &Side), after: (&str, &Side), threshold: f64) -> Comparison {
        let (mut old, new) = (before.1.groups(), after.1.groups());
        let (mut rows, mut only_after) = (Vec::new(), Vec::new());
        for (key, runs) in &new {
            match old.remove(key) {
                Some(earlier) => rows.push(matched(&earlier, runs, threshold)),
                None => only_after.push(runs.name()),
            }
        }
        rows.sort_by(|one, other| (&one.configuration, &one.point).cmp(&(&other.configuration, &other.point)));
        let worse = rows.iter().filter(|row| row.verdict == Verdict::Worse).count();
        let only_before = old.values().map(Runs::name).collect();
        let (before, after) = (before.0.to_owned(), after.0.to_owned());
        Comparison { schema: "maitred.comparison/1", before, after, threshold, rows, only_before, only_after, worse }
    }
}

fn matched(before: &Runs<'_>, after: &Runs<'_>, threshold: f64) -> Matched {
    let changes: Vec<Change> = METRICS.iter().map(|metric| change(metric, before, after, threshold)).collect();
    let any = |verdict: Verdict| changes.iter().any(|change| change.verdict == verdict);
    let has_nothing = |runs: &Runs<'_>| runs.loads.is_empty() && runs.failed > 0;
    let (verdict, reason) = match () {
        () if has_nothing(before) => (Verdict::NotComparable, Some(format!("{} of A failed", before.failures()))),
        () if after.failed_share() > before.failed_share() => {
            let earlier = if before.failed > 0 { before.failures() } else { "none".to_owned() };
            (Verdict::Worse, Some(format!("{} of B failed, {earlier} of A", after.failures())))
        }
        () if any(Verdict::Worse) => (Verdict::Worse, None),
        () if any(Verdict::Better) => (Verdict::Better, None),
        () if any(Verdict::NoDifference) => (Verdict::NoDifference, None),
        () => (Verdict::NotComparable, Some(format!("fewer than {FEWEST} runs on a side"))),
    };
    Matched {
        configuration: after.configuration.to_owned(),
        point: after.point.to_owned(),
        runs_before: before.loads.len(),
        runs_after: after.loads.len(),
        limited: before.limited || after.limited,
        changes,
        verdict,
        reason,
    }
}

fn change(metric: &Metric, before: &Runs<'_>, after: &Runs<'_>, threshold: f64) -> Change {
    let (old, new) = (before.values(metric.reading), after.values(metric.reading));
    let singles = before.single().zip(after.single());
    let is_share = matches!(metric.reading, Reading::Share(_));
    let estimate = match (metric.reading, singles) {
        (Reading::Share(of), Some((one, other))) => share::difference_of_loads(one, other, of),
        (Reading::Share(_), None) => difference_of_means(&old, &new),
        (Reading::Quantile(_, percent), Some((one, other))) => {
            ratio_of_quantiles(percent, one, other).or_else(|| ratio_of_medians(&old, &new))
        }
        _ => ratio_of_medians(&old, &new),
    };
    let interval = estimate.and_then(|estimate| estimate.interval);
    let middle = |values: &[f64]| if is_share { mean(values) } else { median(values) };
    let (middle_before, center) = (middle(&old), estimate.map(|estimate| estimate.center));
    Change {
        metric: metric.name,
        before: middle_before,
        after: middle(&new),
        ratio: center.filter(|_| !is_share),
        difference: center.filter(|_| is_share),
        interval,
        verdict: interval.map_or(Verdict::NotComparable, |interval| {
            // The same distance on either side: half as much is as far away as twice as much.
            let (least, most) = match is_share {
                true => share::margins(middle_before.unwrap_or(0.0), threshold),
                false => (1.0 / (1.0 + threshold), 1.0 + threshold),
            };
            verdict(interval, least, most, metric.more_is_better)
        }),
    }
}

fn verdict((low, high): (f64, f64), least: f64, most: f64, more_is_better: bool) -> Verdict {
    match (low > most, high < least, more_is_better) {
        (true, _, true) | (_, true, false) => Verdict::Better,
        (true, _, false) | (_, true, true) => Verdict::Worse,
        (false, false, _) => Verdict::NoDifference,
    }
}

/// The ratio of one quantile of two loads, from their histograms. How many requests lie below a quantile varies as a
/// count does; so the rank is drawn, and the value at it looked up.
fn ratio_of_quantiles(percent: u8, before: &Value, after: &Value) -> Option<Estimate> {
    let quantile = f64::from(percent) / 100.0;
    let histogram = |load: &Value| Histogram::from_base64(load["histogram"].as_str()?).ok();
    let (old, new) = (histogram(before)?, histogram(after)?);
    let (below, above) = (old.believable_quantile(quantile)?, new.believable_quantile(quantile)?);
    let mut random = Random::new(SEED);
    let mut drawn = |histogram: &Histogram| {
        let n = histogram.len() as f64;
        let rank = n * quantile + (n * quantile * (1.0 - quantile)).sqrt() * random.normal();
        histogram.value_at_rank((rank.round() as u64).clamp(1, histogram.len())) as f64
    };
    let mut ratios: Vec<f64> = (0..DRAWS).map(|_| drawn(&new) / drawn(&old)).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let out = DRAWS / 40;
    let interval = Some((ratios[out], ratios[DRAWS - 1 - out]));
    (below > 0).then(|| Estimate { center: above as f64 / below as f64, interval, runs: 1 })
}

#[cfg(test)]
mod tests;
