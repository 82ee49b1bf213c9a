//! A distribution of latencies as bars in a terminal.
//!
//! The rows are ranges on a logarithmic scale with edges that are round in every decade, so that two pictures of the same
//! server have the same rows. They span what lies between p0.1 and p99.9; the last one goes up to the longest. A bar is a
//! share of the largest row, in eighths of a column; a row with a single request has one eighth.

use super::{INDENT, show_count, show_ns, show_share};
use crate::metrics::histogram::Histogram;

/// The most rows, the one up to the longest apart.
const ROWS: usize = 14;

/// With fewer rows on the finest logarithmic scale, the distribution is narrow enough for a linear one.
const TOO_FEW_ROWS: usize = 6;

/// Columns of the longest bar.
const BAR: usize = 44;

/// Columns of the label, before the axis.
const LABEL: usize = 11;

/// The preferred numbers R40 of ISO 3, in hundredths: forty nearly equal steps to a decade. Every second, fourth, fifth
/// and so on of them is a coarser scale, nearly as even.
const PREFERRED: [u64; 40] = [
    100, 106, 112, 118, 125, 132, 140, 150, 160, 170, 180, 190, 200, 212, 224, 236, 250, 265, 280, 300, 315, 335, 355,
    375, 400, 425, 450, 475, 500, 530, 560, 600, 630, 670, 710, 750, 800, 850, 900, 950,
];

/// The lines of the picture, with a head.
pub(super) fn draw(histogram: &Histogram) -> Vec<String> {
    let edges = edges(histogram.quantile(0.001), histogram.quantile(0.999));
    let counts = histogram.counts_between(&edges);
    let largest = counts.iter().copied().max().unwrap_or(0).max(1);
    let mut so_far = 0;
    let mut lines = vec![format!(
        "{INDENT}{:>LABEL$}  {:<BAR$}{:>11}{:>10}",
        "up to", "from the intended send", "requests", "so far"
    )];
    for (row, &count) in counts.iter().enumerate() {
        let label = match edges.get(row) {
            Some(&edge) => show_ns(edge as f64),
            // Nothing is longer than the last edge.
            None if count == 0 => continue,
            None => format!("max {}", show_ns(histogram.max() as f64)),
        };
        so_far += count;
        let share = show_share(so_far as f64 / histogram.len() as f64);
        let (bar, count) = (bar(count, largest), show_count(count));
        lines.push(format!("{INDENT}{label:>LABEL$} │{bar:<BAR$}{count:>11}{share:>10}"));
    }
    lines
}

/// Where rows end, of which the first holds `low_ns` and the last `high_ns`.
fn edges(low_ns: u64, high_ns: u64) -> Vec<u64> {
    let strides = [1, 2, 4, 5, 8, 10, 20, 40];
    let scales = strides.map(|stride| logarithmic(stride, low_ns, high_ns));
    if scales[0].len() < TOO_FEW_ROWS {
        return linear(low_ns, high_ns);
    }
    let [.., coarsest] = &scales;
    scales.iter().find(|edges| edges.len() <= ROWS).unwrap_or(coarsest).clone()
}

/// Every `stride`-th preferred number from `low_ns` to `high_ns`, and the first above.
fn logarithmic(stride: usize, low_ns: u64, high_ns: u64) -> Vec<u64> {
    let decades = (0..=11).map(|decade| 10u64.pow(decade));
    let all = decades.flat_map(|decade| PREFERRED.iter().step_by(stride).map(move |number| number * decade / 100));
    up_to(all, low_ns, high_ns)
}

/// Steps of 1, 2 or 5 in some decade, wide enough for three digits to tell them apart, and for several of the
/// histogram's classes to lie in each, since the rows would be uneven otherwise.
fn linear(low_ns: u64, high_ns: u64) -> Vec<u64> {
    let third_digit = 10u64.pow(high_ns.max(1).ilog10()) / 100;
    let least = (high_ns - low_ns).div_ceil(ROWS as u64).max(third_digit).max(high_ns / 200).max(1);
    let steps = (0..=11).flat_map(|decade| [1, 2, 5].map(|step| step * 10u64.pow(decade)));
    let step = steps.into_iter().find(|&step| step >= least).expect("no time is longer than the largest step");
    up_to((low_ns / step..).map(|number| number * step), low_ns, high_ns)
}

/// Those from `low_ns` to `high_ns`, and the first above.
fn up_to(ascending: impl Iterator<Item = u64>, low_ns: u64, high_ns: u64) -> Vec<u64> {
    let mut edges = Vec::new();
    for edge in ascending.filter(|&edge| edge >= low_ns.max(1)) {
        if edges.last() != Some(&edge) {
            edges.push(edge);
        }
        if edge >= high_ns {
            break;
        }
    }
    edges
}

fn bar(count: u64, largest: u64) -> String {
    let eighths = (count as f64 / largest as f64 * (BAR * 8) as f64).round() as usize;
    let eighths = if count > 0 { eighths.max(1) } else { 0 };
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    "█".repeat(eighths / 8) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_all_and_are_told_apart_whatever_the_range() {
        let lows = [0, 1, 7, 99, 1_000, 31_500, 412_345, 9_990_000, 10_060_000, 1_000_000_000, 59_000_000_000];
        let ratios = [1.0, 1.0001, 1.01, 1.05, 1.3, 1.42, 2.0, 5.0, 10.0, 40.0, 300.0, 1e4, 1e6, 1e9];
        for (low, ratio) in lows.iter().flat_map(|&low| ratios.map(|ratio| (low, ratio))) {
            let high = ((low.max(1) as f64 * ratio) as u64).clamp(low, Histogram::LONGEST_NS);
            let edges = edges(low, high);
            assert!((1..=ROWS + 1).contains(&edges.len()), "{low} to {high}: {edges:?}");
            assert!(edges.is_sorted_by(|left, right| left < right), "{low} to {high}: {edges:?}");
            assert!(edges[0] >= low && edges[edges.len() - 1] >= high, "{low} to {high}: {edges:?}");
            let mut labels: Vec<String> = edges.iter().map(|&edge| show_ns(edge as f64)).collect();
            labels.dedup();
            assert_eq!(labels.len(), edges.len(), "{low} to {high}: {edges:?}");
            if ratio >= 2.0 && low >= 99 && high < Histogram::LONGEST_NS {
                assert!(edges.len() >= TOO_FEW_ROWS, "{low} to {high}: {edges:?}");
            }
        }
    }

    #[test]
    fn the_longest_bar_fills_its_columns_and_the_least_is_seen() {
        assert_eq!(bar(7, 7), "█".repeat(BAR));
        assert_eq!(bar(1, 1_000_000), "▏");
        assert_eq!(bar(0, 1_000_000), "");
        assert_eq!(bar(1, 16), "██▊");
    }

    #[test]
    fn no_request_is_left_out() {
        let mut histogram = Histogram::new();
        (1..=100_000).for_each(|ns| histogram.record(ns * 37));
        histogram.record(Histogram::LONGEST_NS);
        let lines = draw(&histogram);
        let count = |line: &String| line.split_whitespace().rev().nth(2).map(|count| count.replace(',', ""));
        let counts = lines[1..].iter().map(|line| count(line).and_then(|count| count.parse().ok()).unwrap_or(0));
        assert_eq!(counts.sum::<u64>(), 100_001, "{lines:#?}");
        assert!(lines[lines.len() - 1].starts_with("   max 60.0 s │▏"), "{lines:#?}");
        assert!(lines[lines.len() - 1].ends_with("1  100.00 %"), "{lines:#?}");
    }
}
