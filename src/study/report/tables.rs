//! The tables of a report: what was measured at each point, what the servers did for it, how far each series is from
//! the bound, what could not be measured, and what the A/A pair differed by.
//!
//! Cells are text; what becomes HTML of them is in `page.rs`. A figure that is not known is a dash.

use super::digest::{Digest, Measure, Mix, Spot};
use super::words::{UNKNOWN, factor_within, number, rate, time};
use crate::study::analysis::{ShareOfBound, busiest_by_mean};
use crate::study::estimate::{Estimate, median};
use crate::study::row::Row;
use crate::study::table::{show_kept, show_share};

/// A table, ready to be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// What it shows.
    pub(super) title: String,
    /// What is to be known to read it; may be empty.
    pub(super) note: String,
    pub(super) heads: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// So many columns, from the left, are words; the others are numbers, but for `wraps`.
    pub(super) words: usize,
    /// The column of words that may take several lines.
    pub(super) wraps: Option<usize>,
}

/// The measured figures of every point, a table for each mix.
pub(super) fn measured(digest: &Digest<'_>) -> Vec<Table> {
    digest.mixes.iter().map(of_mix).filter(|table| !table.rows.is_empty()).collect()
}

fn of_mix(mix: &Mix<'_>) -> Table {
    let spots = || mix.series.iter().flat_map(|series| series.spots.iter().map(move |spot| (series, spot)));
    // What no run has been asked for has no column.
    let is_known = |measure: &&Measure| match measure {
        Measure::Connect => spots().any(|(_, spot)| spot.estimate(**measure).is_some()),
        _ => true,
    };
    let measures: Vec<Measure> = Measure::ALL.iter().filter(is_known).copied().collect();
    let mut heads: Vec<String> = ["configuration", "point", "to be known", "runs"].map(str::to_owned).to_vec();
    heads.extend(measures.iter().map(|measure| match measure {
        Measure::Achieved => "replies/s".to_owned(),
        measure => measure.name().to_owned(),
    }));
    heads.push("ideal p99".to_owned());
    let row = |(series, spot): (&super::digest::Series<'_>, &Spot<'_>)| {
        // Doubts stand before the figures that they are about, where no narrow window hides them.
        let mut cells = vec![series.label.clone(), spot.point.to_owned(), spot.doubts().join("; ")];
        cells.push(spot.rows.len().to_string());
        cells.extend(measures.iter().map(|measure| shown(spot.estimate(*measure), *measure)));
        cells.push(spot.predicted(Measure::P99).map_or(UNKNOWN.to_owned(), time));
        cells
    };
    let title =
        if mix.label.is_empty() { "What was measured".to_owned() } else { format!("What was measured, {}", mix.label) };
    Table {
        title,
        note:
            "Medians of the runs with their 95 % intervals; –: not measured, fewer than ten samples beyond it in some \
               run, or more requests than lie beyond it were never served. Ideal: one queue, and no cost but service."
                .to_owned(),
        heads,
        rows: spots().map(row).collect(),
        words: 3,
        wraps: Some(2),
    }
}

fn shown(estimate: Option<Estimate>, measure: Measure) -> String {
    let show = |value: f64| if measure == Measure::Achieved { rate(value) } else { time(value) };
    match estimate {
        None => UNKNOWN.to_owned(),
        Some(Estimate { center, interval: None, .. }) => show(center),
        Some(Estimate { center, interval: Some((low, high)), .. }) => {
            format!("{} [{}, {}]", show(center), show(low), show(high))
        }
    }
}

/// A figure of a row.
type Of = fn(&Row) -> Option<f64>;

/// What a server did for its replies, as rows tell it: how it is called, and how it is found. Counters of the summary are
/// of the whole run with its warm-up, so they are put in relation to each other only.
const EFFORTS: &[(&str, Of)] = &[
    ("switches per reply, voluntary", |row| row.figure("load.server.voluntary_switches_per_request")),
    ("involuntary", |row| row.figure("load.server.involuntary_switches_per_request")),
    ("ready without a core, µs per reply", |row| Some(row.figure("load.server.run_delay_ns_per_request")? / 1e3)),
    ("system calls per request, at least", |row| row.figure("effort.system_calls_per_request")),
    ("wakes per hand-off", |row| part(row, "wakes", "queued")),
    ("events per poll", |row| part(row, "events", "polls")),
    ("parks per poll", |row| part(row, "parks", "polls")),
    ("queue found empty", |row| row.figure("effort.queue_empty_share")),
    ("queue at 99 % of batches, at most", |row| row.figure("effort.queue_depth_p99")),
    ("deepest queue", |row| row.figure("server.poller.queue_depth_max")),
    ("busiest worker by the mean", busiest_by_mean),
];

/// What the servers did, a table for each mix; without what no row tells.
pub(super) fn efforts(digest: &Digest<'_>) -> Vec<Table> {
    digest.mixes.iter().map(efforts_of).filter(|table| table.heads.len() > table.words).collect()
}

fn efforts_of(mix: &Mix<'_>) -> Table {
    let spots = || mix.series.iter().flat_map(|series| series.spots.iter().map(move |spot| (series, spot)));
    let middle = |spot: &Spot<'_>, of: Of| median(&spot.rows.iter().filter_map(|row| of(row)).collect::<Vec<_>>());
    let told: Vec<_> = EFFORTS.iter().filter(|(_, of)| spots().any(|(_, spot)| middle(spot, *of).is_some())).collect();
    let heads = ["configuration", "point"].into_iter().chain(told.iter().map(|(name, _)| *name));
    let row = |(series, spot): (&super::digest::Series<'_>, &Spot<'_>)| {
        let mut cells = vec![series.label.clone(), spot.point.to_owned()];
        cells.extend(told.iter().map(|(_, of)| middle(spot, *of).map_or(UNKNOWN.to_owned(), number)));
        cells
    };
    let of = if mix.label.is_empty() { String::new() } else { format!(", {}", mix.label) };
    Table {
        title: format!("What the servers did{of}"),
        note: "Medians of the runs; –: not counted by that engine, or too few batches to say. System calls are those that the \
               server counts: reads, writes, waits, accepts, parks and wakes; those that arm, close and set timers come on \
               top. A hand-off is a request that the poller queued. The queue is looked at behind every batch that the \
               poller has put there: the share of batches that the workers had taken by then, and the depth that 99 % \
               did not exceed. A busiest worker of 1 means that all had as many turns and calls."
            .to_owned(),
        heads: heads.map(str::to_owned).collect(),
        rows: spots().filter(|(_, spot)| !spot.rows.is_empty()).map(row).collect(),
        words: 2,
        wraps: None,
    }
}

/// One of the poller's counters by another; none where the second is zero.
fn part(row: &Row, count: &str, whole: &str) -> Option<f64> {
    let counter = |name: &str| row.figure(&format!("server.poller.{name}"));
    Some(counter(count)? / counter(whole).filter(|whole| *whole > 0.0)?)
}

/// How far each configuration is from the ideal; none without an objective.
pub(super) fn bound(shares: &[ShareOfBound]) -> Option<Table> {
    let row = |share: &ShareOfBound| {
        vec![
            share.configuration.clone(),
            share.objective.clone(),
            show_kept(share.measured_per_s),
            show_kept(share.ideal_per_s),
            show_share(share.share()),
            if share.by_formula { "formula" } else { "predictions" }.to_owned(),
        ]
    };
    (!shares.is_empty()).then(|| Table {
        title: "Share of the bound".to_owned(),
        note: "The rate up to which a configuration keeps the objective, by the rate up to which the ideal central queue \
               does: one queue, as many servers, and no cost but service. Requests per second, interpolated between the last \
               point that keeps it and the first that does not."
            .to_owned(),
        heads: ["configuration", "objective", "kept", "by the ideal", "share", "the ideal's is from"].map(str::to_owned).to_vec(),
        rows: shares.iter().map(row).collect(),
        words: 2,
        wraps: Some(5),
    })
}

/// What the two of the A/A pair differed by; none without a pair.
pub(super) fn noise(digest: &Digest<'_>) -> Option<Table> {
    let row = |measure: &Measure| {
        let ratio = digest.noise.ratio(*measure)?;
        let floor = digest.noise.floor(*measure)?;
        Some(vec![measure.name().to_owned(), factor_within(ratio), super::words::factor(floor)])
    };
    let rows: Vec<Vec<String>> = Measure::ALL.iter().filter_map(row).collect();
    (!rows.is_empty()).then(|| Table {
        title: "The noise floor".to_owned(),
        note: "The A/A pair is one configuration twice. The floor is the farthest end of the interval from 1: a difference \
               within it is called noise."
            .to_owned(),
        heads: ["", "second by first", "floor"].map(str::to_owned).to_vec(),
        rows,
        words: 1,
        wraps: None,
    })
}

/// The runs that failed, with their reasons; none if none did.
pub(super) fn failed(digest: &Digest<'_>) -> Option<Table> {
    let row = |row: &Row| {
        let reason = row.reason.clone().unwrap_or_else(|| "no reason was kept".to_owned());
        vec![row.configuration.clone(), row.point.clone(), row.repeat.to_string(), reason]
    };
    let rows: Vec<Vec<String>> = digest.failed().map(row).collect();
    (!rows.is_empty()).then(|| Table {
        title: "Runs that failed".to_owned(),
        note: String::new(),
        heads: ["configuration", "point", "repeat", "reason"].map(str::to_owned).to_vec(),
        rows,
        words: 2,
        wraps: Some(3),
    })
}
