//! Metrics that are shares of the requests: compared by difference, since the share before may be nothing.
//!
//! A share counts as changed beyond [`FLOOR`] and beyond the threshold of what it was: from nothing, one request in a
//! thousand; from a half, as much as any other figure must move.

use serde_json::Value;

use super::super::estimate::Estimate;

/// One in a thousand: below it a load that loses a few replies at its end would be told from one that does not. Guess.
pub(super) const FLOOR: f64 = 0.001;
/// How many standard errors an interval of 95 % reaches to each side.
const ERRORS_95: f64 = 1.96;

/// Errors for each request of the window, at most one each. None without requests.
pub(super) fn of_errors(load: &Value) -> Option<f64> {
    let intended = load["intended"].as_f64().filter(|intended| *intended > 0.0)?;
    let errors: f64 = load["errors"].as_object()?.values().filter_map(Value::as_f64).sum();
    Some((errors / intended).min(1.0))
}

/// The least and the most that the difference to this share may be without counting.
pub(super) fn margins(before: f64, threshold: f64) -> (f64, f64) {
    let margin = FLOOR.max(before * threshold);
    (-margin, margin)
}

/// What the share of one load is above that of another, with the interval of Agresti and Caffo (2000): as if each had had one
/// more request with, and one without. It holds for shares of nothing too.
pub(super) fn difference_of_loads(before: &Value, after: &Value, of: fn(&Value) -> Option<f64>) -> Option<Estimate> {
    let requests = |load: &Value| load["intended"].as_f64();
    let (below, above) = (of(before)?, of(after)?);
    let adjusted = |share: f64, requests: f64| ((share * requests + 1.0) / (requests + 2.0), requests + 2.0);
    let ((low, low_of), (high, high_of)) = (adjusted(below, requests(before)?), adjusted(above, requests(after)?));
    let error = (low * (1.0 - low) / low_of + high * (1.0 - high) / high_of).sqrt();
    let interval = Some((high - low - ERRORS_95 * error, high - low + ERRORS_95 * error));
    Some(Estimate { center: above - below, interval, runs: 1 })
}
