//! What an overload left behind: the pieces of runs whose load changes on the way, and when their latency was back.
//!
//! What *back* means is decided in `analysis.rs`; here it is put together over the repeats. Read next:
//! `figures/timeline.rs`, the same as a picture.

use super::digest::{Digest, Mix, Series, Spot};
use crate::study::row::Row;
use crate::study::table::show_recovery;

/// One piece of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Piece {
    /// Its beginning, from the window's.
    pub(super) from_s: f64,
    /// Its end.
    pub(super) to_s: f64,
    /// Replies per second.
    pub(super) achieved_per_s: Option<f64>,
    /// Its p99; none with too few samples.
    pub(super) p99_ns: Option<f64>,
}

/// The pieces of a run; empty if it was not looked at piece by piece.
pub(super) fn pieces(row: &Row) -> Vec<Piece> {
    let intervals = row.load.as_ref().and_then(|load| load.get("intervals")).and_then(|intervals| intervals.as_array());
    let piece = |interval: &serde_json::Value| {
        let number = |name: &str| interval.get(name).and_then(serde_json::Value::as_f64);
        Some(Piece {
            from_s: number("from_s")?,
            to_s: number("to_s")?,
            achieved_per_s: number("achieved_per_s"),
            p99_ns: number("p99_ns"),
        })
    };
    intervals.into_iter().flatten().filter_map(piece).collect()
}

/// What overloads left behind, in words; none if there was none.
pub(super) fn sentence(digest: &Digest<'_>) -> Option<String> {
    let series = || digest.series().flat_map(|(mix, series)| series.spots.iter().map(move |spot| (mix, series, spot)));
    let objective =
        series().find_map(|(.., spot)| show_recovery(&spot.rows).and(spot.parameters.objective.as_deref()))?;
    let clause = |(mix, series, spot): (&Mix<'_>, &Series<'_>, &Spot<'_>)| {
        let with = if mix.label.is_empty() { String::new() } else { format!(" with {}", mix.label) };
        Some(format!("that of {}{with} {}", series.label, show_recovery(&spot.rows)?))
    };
    let clauses: Vec<String> = series().filter_map(clause).collect();
    Some(format!("After the overload, by the objective {objective} of the latency, {}.", clauses.join("; ")))
}
