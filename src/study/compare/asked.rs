//! What two loads were asked for: those that were asked for different things are not compared.

use serde_json::Value;

use crate::config::usage;
use crate::error::Error;

/// All that makes a load what it is, by the names of its report. Not its seed and its length, nor how many threads made it.
const ASKED: [&str; 14] = [
    "service",
    "scheme",
    "mode",
    "offered_per_s",
    "phases",
    "arrivals",
    "connections",
    "depth",
    "requests_per_connection",
    "size_bytes",
    "demand",
    "kind",
    "framing",
    "search",
];

/// Whether both were asked for the same.
///
/// # Errors
/// They were not; the first difference is named.
pub(super) fn alike(before: (&str, &Value), after: (&str, &Value)) -> Result<(), Error> {
    let Some(name) = ASKED.iter().find(|name| asked(before.1, name) != asked(after.1, name)) else { return Ok(()) };
    let shown = |(side, load)| format!("{side} had {}", asked(load, name));
    let problem = format!("was asked for something else: of {name} {} and {}", shown(before), shown(after));
    Err(usage("B", problem, "two loads of the same kind and size"))
}

/// What was asked of one thing; null where nothing was.
fn asked(load: &Value, name: &str) -> Value {
    let is_searched = load["search"].is_object();
    match name {
        // The rate of a search is what it found, and its objective what it was asked for.
        "offered_per_s" if is_searched => Value::Null,
        "search" => load["search"]["objective"].clone(),
        // Absent where it was an empty list.
        "phases" if load["phases"].as_array().is_some_and(Vec::is_empty) => Value::Null,
        _ => load[name].clone(),
    }
}
