//! The rows of a study as a table for people: medians of each configuration at each point, with what was predicted.
//!
//! Made of the rows alone: same rows, same text. Read next: `analysis.rs`, where the figures come from.

use std::fmt::Write;

use super::analysis::{Group, Kept, Recovery, Share, groups, noise, recovery, shares_of_bound};
use super::estimate::median;
use super::row::{Parameters, Row, Status};

/// The columns behind configuration and point.
const COLUMNS: &[&str] = &["runs", "offered/s", "achieved/s", "p50", "p99", "ideal p99", "CPU/request", "limited by"];

/// The table, and below it what else there is to say.
pub fn render(rows: &[Row], is_whole: bool) -> String {
    let groups = groups(rows);
    let mut lines: Vec<Vec<String>> =
        vec![["configuration", "point"].iter().chain(COLUMNS).map(|name| (*name).to_owned()).collect()];
    lines.extend(groups.iter().map(line));
    let mut text = aligned(&lines);
    for (name, path) in [
        ("p50", "load.latency_ns.p50"),
        ("p99", "load.latency_ns.p99"),
        ("CPU/request", "load.server.cpu_ns_per_request"),
    ] {
        if let Some((low, high)) = noise(rows, path).and_then(|noise| noise.interval) {
            let _ =
                write!(text, "{} {name} {}", if text.ends_with('\n') { "noise (A/A):" } else { "," }, span(low, high));
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for share in shares_of_bound(rows) {
        let _ = writeln!(
            text,
            "{}: {} kept {}/s, by the ideal {}/s: {}",
            share.configuration,
            share.objective,
            show_kept(share.measured_per_s),
            show_kept(share.ideal_per_s),
            show_share(share.share()),
        );
    }
    for group in &groups {
        if let Some(recovered) = show_recovery(&group.rows) {
            let _ = writeln!(text, "{}: after the overload the latency {recovered}", group.configuration);
        }
    }
    let failed: Vec<&Row> = rows.iter().filter(|row| row.status == Status::Failed).collect();
    if let Some(first) = failed.first() {
        let reason = first.reason.as_deref().unwrap_or("for no known reason");
        let _ = writeln!(
            text,
            "{} of {} runs failed; the first, {} {}: {reason}",
            failed.len(),
            rows.len(),
            first.configuration,
            first.point
        );
    }
    if !is_whole {
        text.push_str("not all runs were made; --resume goes on\n");
    }
    text
}

fn line(group: &Group<'_>) -> Vec<String> {
    let figure = |path: &str| group.median(path).map(|estimate| estimate.center);
    let time = |path: &str| figure(path).map_or_else(|| "-".to_owned(), show_ns);
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
    let runs = match group.failed {
        0 => group.rows.len().to_string(),
        failed => format!("{} ({failed} failed)", group.rows.len()),
    };
    let limits: Vec<&str> = group.limited_by().iter().map(|limit| limit.name()).collect();
    vec![
        group.configuration.to_owned(),
        group.point.to_owned(),
        runs,
        rate(offered_per_s(group.parameters)),
        rate(figure("load.achieved_per_s")),
        time("load.latency_ns.p50"),
        time("load.latency_ns.p99"),
        time("predicted.sojourn_ns.p99"),
        time("load.server.cpu_ns_per_request"),
        limits.join(", "),
    ]
}

/// Requests per second over all of the window, as those that were achieved: with phases, each counts by its length.
fn offered_per_s(parameters: &Parameters) -> Option<f64> {
    let phases = &parameters.phases;
    let length_s: f64 = phases.iter().map(|phase| phase.to_s - phase.from_s).sum();
    let requests: f64 = phases.iter().map(|phase| phase.rate_per_s * (phase.to_s - phase.from_s)).sum();
    if length_s > 0.0 { Some(requests / length_s) } else { parameters.rate_per_s }
}

/// Columns as wide as their widest field: the first two and the last to the left, figures to the right.
pub(super) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|field| field.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, field) in line.iter().enumerate() {
            let width = widths[column];
            let _ = match column < 2 || column + 1 == columns {
                true => write!(row, "{field:<width$}  "),
                false => write!(row, "{field:>width$}  "),
            };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// Three digits and a unit.
pub(super) fn show_ns(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns >= 1e9 => (ns / 1e9, "s"),
        ns if ns >= 1e6 => (ns / 1e6, "ms"),
        ns if ns >= 1e3 => (ns / 1e3, "us"),
        ns => (ns, "ns"),
    };
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}{unit}")
}

/// An interval of ratios as differences: `-3.1%..+4.0%`.
pub(super) fn span(low: f64, high: f64) -> String {
    let percent = |ratio: f64| format!("{:+.1}%", (ratio - 1.0) * 100.0);
    format!("{}..{}", percent(low), percent(high))
}

pub(super) fn show_kept(kept: Kept) -> String {
    match kept {
        Kept::Below(rate) => format!("below {rate:.0}"),
        Kept::UpTo(rate) => format!("up to {rate:.0}"),
        Kept::AtLeast(rate) => format!("at least up to {rate:.0}"),
    }
}

pub(super) fn show_share(share: Share) -> String {
    let percent = |share: f64| format!("{:.0}% of the bound", share * 100.0);
    match share {
        Share::Is(share) => percent(share),
        Share::AtLeast(share) => format!("at least {}", percent(share)),
        Share::AtMost(share) => format!("at most {}", percent(share)),
        Share::Unknown => "no share of the bound, which no point came to".to_owned(),
    }
}

/// The median over the runs; the runs that never came back are told apart.
pub(super) fn show_recovery(rows: &[&Row]) -> Option<String> {
    let all: Vec<Recovery> = rows.iter().filter_map(|row| recovery(row)).collect();
    let after: Vec<f64> =
        all.iter().filter_map(|one| if let Recovery::After(s) = one { Some(*s) } else { None }).collect();
    let never = all.len() - after.len();
    match (median(&after), never) {
        (None, 0) => None,
        (None, never) => Some(format!("was not back by the end in any of {never} runs")),
        (Some(s), 0) => Some(format!("was back after {s:.2} s")),
        (Some(s), never) => {
            Some(format!("was back after {s:.2} s, and in {never} of {} runs not by the end", all.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Phase;
    use super::super::row::tests::row;
    use super::*;

    #[test]
    fn the_table_has_a_line_a_group_and_says_what_failed() {
        let mut rows: Vec<Row> = (0..3).map(|run| Row { run, ..row() }).collect();
        let reason = Some("the server was not ready within 10 s".to_owned());
        rows.push(Row { run: 3, status: Status::Failed, load: None, reason, ..row() });
        let text = render(&rows, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "configuration          point             runs  offered/s  achieved/s     p50     p99  ideal p99  \
             CPU/request  limited by"
        );
        assert_eq!(
            lines[1],
            "engine=pool workers=2  load=0.5  3 (1 failed)        500         499  2.00ms  9.00ms          -       \
             31.0us  generator"
        );
        assert!(
            text.contains(
                "1 of 4 runs failed; the first, engine=pool workers=2 load=0.5: the server was not ready within 10 s\n"
            ),
            "{text}"
        );
        assert!(text.ends_with("not all runs were made; --resume goes on\n"), "{text}");
        assert!(!render(&rows, true).contains("resume"));
    }

    #[test]
    fn what_is_offered_in_phases_is_their_mean_by_length() {
        let mut parameters = row().parameters;
        assert_eq!(offered_per_s(&parameters), Some(500.0));
        let phase = |from_s, to_s, rate_per_s| Phase { from_s, to_s, load: None, rate_per_s };
        parameters.phases = vec![phase(0.0, 1.0, 500.0), phase(1.0, 4.0, 1_500.0)];
        assert_eq!(offered_per_s(&parameters), Some(1_250.0));
        (parameters.phases, parameters.rate_per_s) = (Vec::new(), None);
        assert_eq!(offered_per_s(&parameters), None, "in a closed loop nothing is");
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [7.0, 99.94, 99.96, 999.0, 1_234.0, 12_345.0, 123_456_789.0, 2.5e9].map(show_ns);
        assert_eq!(shown, ["7.00ns", "99.9ns", "100ns", "999ns", "1.23us", "12.3us", "123ms", "2.50s"]);
    }
}
