//! Numbers and lists as sentences and tables have them: three significant digits, units that people read, no locale.
//!
//! Text only; what is escaped for HTML is escaped in `html.rs`.

use crate::load::table::{show_count, show_ns, show_rate};
use crate::study::estimate::Estimate;

/// Stands for what is not known.
pub(super) const UNKNOWN: &str = "–";

/// A time: `2.31 ms`, `86 µs`.
pub(super) fn time(ns: f64) -> String {
    let shown = if ns < 999.5 { show_ns(ns.round()) } else { show_ns(ns) };
    shown.replace(" us", " µs")
}

/// Requests per second, without the unit.
pub(super) fn rate(per_s: f64) -> String {
    show_rate(per_s)
}

/// A number without a unit, with three digits at most: `0.021`, `1.3`, `412`.
pub(super) fn number(value: f64) -> String {
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else if value >= 0.9995 {
        2
    } else {
        3
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A count with its noun in the right number.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{} {noun}{}", show_count(count as u64), if count == 1 { "" } else { "s" })
}

/// A share as per cent: `12 %`, `0.3 %`.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let decimals = if percent >= 9.95 || percent == 0.0 {
        0
    } else if percent >= 0.095 {
        1
    } else {
        2
    };
    format!("{percent:.decimals$} %")
}

/// A factor: `1.6`, `1.08`, `12`.
pub(super) fn factor(ratio: f64) -> String {
    let decimals = if ratio < 1.995 {
        2
    } else if ratio < 9.95 {
        1
    } else {
        0
    };
    format!("{ratio:.decimals$}")
}

/// A factor with its interval: `1.6 [1.4, 1.9]`.
pub(super) fn factor_within(ratio: Estimate) -> String {
    match ratio.interval {
        Some((low, high)) => format!("{} [{}, {}]", factor(ratio.center), factor(low), factor(high)),
        None => factor(ratio.center),
    }
}

/// Where a point is, as it stands behind a verb.
pub(super) fn at(point: &str) -> String {
    match point {
        "closed" => "in a closed loop".to_owned(),
        "phases" => "over all phases".to_owned(),
        point => format!("at {point}"),
    }
}

/// `a`, `a and b`, `a, b and c`; where a name has a comma of its own, `a, 1; b, 2; and c, 3`.
pub(super) fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] if items.iter().any(|item| item.contains(',')) => format!("{}; and {last}", most.join("; ")),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// The least and the greatest as `1.2 to 1.9`; one of them where they read the same.
pub(super) fn span(values: &[f64], show: impl Fn(f64) -> String) -> String {
    let low = show(values.iter().copied().fold(f64::INFINITY, f64::min));
    let high = show(values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    if low == high { low } else { format!("{low} to {high}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        assert_eq!([999.4, 1_234.0, 86_400.0, 2.3e6].map(time), ["999 ns", "1.23 µs", "86.4 µs", "2.30 ms"]);
        assert_eq!([0.0, 0.0007, 0.0031, 0.123, 1.0].map(percent), ["0 %", "0.07 %", "0.3 %", "12 %", "100 %"]);
        assert_eq!([1.084, 1.996, 2.345, 9.96, 41.7].map(factor), ["1.08", "2.0", "2.3", "10", "42"]);
        assert_eq!([0.0, 0.0213, 1.304, 12.0, 411.6, 1_000.0].map(number), ["0", "0.021", "1.3", "12", "412", "1000"]);
        assert_eq!(counted(1, "run") + " " + &counted(1_200, "run"), "1 run 1,200 runs");
    }

    #[test]
    fn lists_and_spans_read_as_they_are_said() {
        let items = ["a", "b", "c"].map(str::to_owned);
        assert_eq!([0, 1, 2, 3].map(|many| listed(&items[..many])), ["", "a", "a and b", "a, b and c"]);
        assert_eq!(listed(&["a, 1", "b, 2", "c"].map(str::to_owned)), "a, 1; b, 2; and c");
        assert_eq!(span(&[1.9, 1.2], factor), "1.20 to 1.90");
        assert_eq!(span(&[1.201, 1.202], factor), "1.20");
    }
}
