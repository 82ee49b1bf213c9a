//! A comparison as a table for people. Same comparison, same text.

use std::fmt::Write;

use super::super::table::{aligned, show_ns, span};
use super::{Change, Comparison, Matched, Verdict};

/// The table, then what has no counterpart, then the verdict in one line.
pub(super) fn render(comparison: &Comparison) -> String {
    let heading = ["configuration", "point", "metric", "A", "B", "B/A or B-A", "95% interval", "verdict"];
    let mut lines = vec![heading.map(str::to_owned).to_vec()];
    for row in &comparison.rows {
        let measured = row.changes.iter().filter(|change| is_told(change)).count();
        lines.extend(row.changes.iter().filter(|change| is_told(change)).map(|change| line(row, change)));
        if let Some(reason) = row.reason.as_ref().filter(|_| measured == 0 || row.verdict == Verdict::Worse) {
            let mut line = vec![row.configuration.clone(), row.point.clone()];
            line.extend(["-"; 5].map(str::to_owned));
            line.push(format!("{}: {reason}", name(row.verdict)));
            lines.push(line);
        }
    }
    let mut text = aligned(&lines);
    for (side, rows) in [("A", &comparison.only_before), ("B", &comparison.only_after)] {
        if !rows.is_empty() {
            let _ = writeln!(text, "only {side} has: {}", rows.join(", "));
        }
    }
    let count = |verdict| comparison.rows.iter().filter(|row| row.verdict == verdict).count();
    let _ = writeln!(
        text,
        "{} rows, by a threshold of {}%: {} worse, {} better, {} without a difference, {} not comparable",
        comparison.rows.len(),
        comparison.threshold * 100.0,
        comparison.worse,
        count(Verdict::Better),
        count(Verdict::NoDifference),
        count(Verdict::NotComparable),
    );
    text
}

/// Whether there is something to tell: a ratio, or a share that is not nothing on both sides.
fn is_told(change: &Change) -> bool {
    let is_nothing = |share: Option<f64>| share == Some(0.0);
    change.ratio.is_some() || change.difference.is_some() && !(is_nothing(change.before) && is_nothing(change.after))
}

fn line(row: &Matched, change: &Change) -> Vec<String> {
    let percent = |share: f64| format!("{:.2}%", 100.0 * share);
    let value = |figure: f64| match change.metric {
        _ if change.difference.is_some() => percent(figure),
        "rate" => format!("{figure:.0}/s"),
        _ => show_ns(figure),
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let limited = if row.limited { " (limited)" } else { "" };
    let by = change.ratio.map(|ratio| format!("{ratio:.3}"));
    let more = change.difference.map(|difference| format!("{:+.2}%", 100.0 * difference));
    let interval = change.interval.map(|(low, high)| match change.difference {
        Some(_) => format!("{:+.2}% to {:+.2}%", 100.0 * low, 100.0 * high),
        None => span(low, high),
    });
    vec![
        row.configuration.clone(),
        row.point.clone(),
        change.metric.to_owned(),
        or_dash(change.before.map(value)),
        or_dash(change.after.map(value)),
        or_dash(by.or(more)),
        or_dash(interval),
        format!("{}{limited}", name(change.verdict)),
    ]
}

fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::NoDifference => "no difference",
        Verdict::NotComparable => "not comparable",
    }
}
