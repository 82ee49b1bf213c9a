//! A report for people: what was done, what came of it, the latencies as a table and as a picture, and what both sides
//! used. It is what somebody sees first who runs `maitred load`.
//!
//! Nothing is computed here that [`Report`] does not hold: same report, same text. At most 80 columns, as long as the
//! target's name leaves room; times have three significant digits; `-` stands for a quantile with too few samples beyond
//! it. Warnings come last, where a terminal stops scrolling.
//!
//! Read next: `picture.rs`, the distribution as bars; `report.rs`, which says what every figure means.

mod picture;

use super::recorder::LATE_NS;
use super::report::{Cause, Generator, Interval, LATE_LIMIT, Quantiles, Report, SearchPoint, SearchReport, Server};

/// Columns of a line.
const WIDTH: usize = 80;

/// Before every line but the first and the warnings.
const INDENT: &str = "  ";

/// Columns of a label before its text, with the indent.
const LABEL: usize = 13;

/// Between facts on one line.
const BETWEEN: &str = " · ";

/// The head of the lines that [`interval_line`] makes, with a line end.
pub fn interval_heading() -> String {
    format!(
        "{:>13} {:>12} {:>12} {:>10} {:>10} {:>10} {:>7}\n",
        "time s", "requests", "achieved/s", "p50", "p99", "max", "errors"
    )
}

/// One piece of the window, on one line with its end.
pub fn interval_line(interval: &Interval) -> String {
    format!(
        "{:>6.2}-{:>6.2} {:>12} {:>12} {:>10} {:>10} {:>10} {:>7}\n",
        interval.from_s,
        interval.to_s,
        show_count(interval.requests),
        show_rate(interval.achieved_per_s),
        show_quantile(interval.p50_ns),
        show_quantile(interval.p99_ns),
        show_quantile(interval.max_ns),
        show_count(interval.errors),
    )
}

/// One rate that a search tried, on one line without its end: offered, achieved, the objective's quantile, and whether
/// the objective was met.
pub fn search_line(point: &SearchPoint) -> String {
    let [rate, achieved] = [point.rate_per_s, point.achieved_per_s].map(|rate| format!("{} /s", show_rate(rate)));
    let (quantile, verdict) = (show_quantile(point.quantile_ns), point.reason.as_deref().unwrap_or("met"));
    let saturated = if point.saturated { ", saturated" } else { "" };
    format!("{INDENT}{rate:>14} {achieved:>14} {quantile:>9}  {verdict}{saturated}")
}

/// The whole report, with a line end.
pub fn render(report: &Report) -> String {
    let mut lines = Vec::new();
    // Their lines stand above.
    if !report.intervals.is_empty() {
        lines.push(String::new());
    }
    lines.extend(what_was_done(report));
    lines.push(String::new());
    lines.extend(what_came_of_it(report));
    lines.push(String::new());
    lines.extend(latencies(report));
    if !report.histogram.is_empty() {
        lines.push(String::new());
        lines.extend(picture::draw(&report.histogram));
    }
    lines.push(String::new());
    lines.extend(generator(report));
    lines.extend(report.server.iter().flat_map(server));
    if let Some(found) = &report.search {
        lines.push(String::new());
        lines.extend(search(found));
    }
    let warnings = warnings(report);
    if !warnings.is_empty() {
        lines.push(String::new());
        lines.extend(warnings);
    }
    lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn what_was_done(report: &Report) -> Vec<String> {
    let depth =
        report.depth.map_or("depth unlimited".to_owned(), |depth| format!("depth {}", show_count(depth as u64)));
    let mut facts = vec![format!("{} loop", report.mode)];
    facts.extend(report.arrivals.map(|arrivals| format!("{arrivals} arrivals")));
    facts.extend([counted(report.connections as u64, "connection"), depth]);
    facts.extend(report.requests_per_connection.map(|count| format!("a new one after {}", counted(count, "request"))));
    facts.push(show_bytes(report.size_bytes as f64));
    facts.extend(report.demand.as_ref().map(|demand| format!("demand {demand} {}", report.kind.unwrap_or_default())));
    facts.extend(report.framing.map(|framing| format!("framing {framing}")));
    facts.push(format!("{} after {} of warm-up", show_s(report.duration_s), show_s(report.warmup_s)));
    facts.extend([counted(report.threads as u64, "thread"), format!("seed {}", report.seed)]);
    let mut lines = vec![report.target.clone()];
    lines.extend(paragraph(INDENT, INDENT.len(), &facts, BETWEEN));
    lines
}

fn what_came_of_it(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let per_s = |rate: f64| format!("{} /s", show_rate(rate));
    let achieved = per_s(report.achieved_per_s);
    if let Some(offered_per_s) = report.offered_per_s {
        let offered = per_s(offered_per_s);
        let width = offered.len().max(achieved.len());
        // Poisson arrivals may be fewer than the rate, which is no shortfall of the server's.
        let due = match report.duration_s > 0.0 {
            true => format!(" of {} that came due", per_s(report.intended as f64 / report.duration_s)),
            false => String::new(),
        };
        lines.push(labelled("offered", &format!("{offered:>width$}")));
        lines.push(labelled("achieved", &format!("{achieved:>width$}{due}")));
    } else {
        lines.push(labelled("achieved", &achieved));
    }
    let mut requests = vec![format!("{} answered", show_count(report.requests))];
    requests.push(format!("{} unsent", show_count(report.unsent)));
    if report.unanswered > 0 {
        requests.push(format!("{} unanswered", show_count(report.unanswered)));
    }
    if report.shed > 0 {
        requests.push(format!("{} shed", show_count(report.shed)));
    }
    if report.deliveries > 0 {
        requests.push(format!("{} deliveries", show_count(report.deliveries)));
    }
    lines.extend(paragraph(&labelled("requests", ""), LABEL, &requests, BETWEEN));
    let traffic = [("sent", report.bytes_sent), ("received", report.bytes_received)].map(|(way, bytes)| {
        // A window that never opened moved nothing.
        let per_s = if report.duration_s > 0.0 { bytes as f64 / report.duration_s } else { 0.0 };
        format!("{} {way} ({}/s)", show_bytes(bytes as f64), show_bytes(per_s))
    });
    lines.extend(paragraph(&labelled("traffic", ""), LABEL, &traffic, BETWEEN));
    let errors: Vec<String> =
        report.errors.iter().map(|(name, count)| format!("{name} {}", show_count(count))).collect();
    if errors.is_empty() {
        lines.push(labelled("errors", "none"));
    } else {
        lines.extend(paragraph(&labelled("errors", ""), LABEL, &errors, BETWEEN));
    }
    if let Some(slo) = &report.slo {
        let found = slo.quantile_ns.map(|ns| show_ns(ns as f64)).or(slo.reason.clone()).unwrap_or_default();
        let verdict = if slo.met { "met" } else { "not met" };
        lines.push(labelled("objective", &format!("{} {verdict} ({found})", slo.text)));
    }
    lines
}

fn latencies(report: &Report) -> Vec<String> {
    let mut lines =
        vec![columns("latency from", ["p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"].map(String::from))];
    let mut rows = vec![("intended send", &report.latency_ns), ("actual send", &report.service_latency_ns)];
    rows.extend(report.connect_latency_ns.as_ref().map(|latency| ("connect", latency)));
    lines.extend(rows.iter().map(|(name, quantiles)| latency_row(name, quantiles)));
    if let Some(stages) = &report.stages_ns {
        let stages = [
            ("late", &stages.late),
            ("unseen", &stages.unseen),
            ("queue", &stages.queue),
            ("service", &stages.service),
            ("reply", &stages.reply),
        ];
        lines.push(String::new());
        let until = ["late until sent", "unseen until ready", "queue until taken", "service until done"];
        let until = until.into_iter().chain(["reply until received"]).map(str::to_owned).collect::<Vec<_>>();
        lines.extend(paragraph(&labelled("stages", ""), LABEL, &until, BETWEEN));
        lines.extend(stages.iter().map(|(name, quantiles)| latency_row(name, quantiles)));
        rows.extend(stages);
    }
    // Without samples every figure is missing, and nobody asks why.
    let in_doubt = |quantiles: &&Quantiles| quantiles.max.is_some() && quantiles.p99_99.is_none();
    if rows.iter().map(|(_, quantiles)| *quantiles).any(|quantiles| in_doubt(&quantiles)) {
        lines.push(format!("{INDENT}- : fewer than ten samples beyond it"));
    }
    lines
}

fn latency_row(name: &str, quantiles: &Quantiles) -> String {
    let Quantiles { mean, p50, p90, p99, p99_9, p99_99, max } = *quantiles;
    let [p50, p90, p99, p99_9, p99_99, max] = [p50, p90, p99, p99_9, p99_99, max].map(show_quantile);
    columns(name, [p50, p90, p99, p99_9, p99_99, max, mean.map_or("-".to_owned(), show_ns)])
}

/// A label and seven columns fill a line.
fn columns(label: &str, figures: [String; 7]) -> String {
    let figures: String = figures.iter().map(|figure| format!("{figure:>9}")).collect();
    format!("{INDENT}{label:<14}{figures}")
}

fn generator(report: &Report) -> Vec<String> {
    let Generator { threads, cpu_util, run_delay_util, steal_util, cpu_ns_per_request, late_sends, .. } =
        report.generator;
    let mut facts = vec![
        format!("{cpu_util:.2} CPUs of {}", counted(threads as u64, "thread")),
        format!("{run_delay_util:.2} waiting for one"),
    ];
    // Below this the p99 is not the host's.
    let matters = |steal: &f64| *steal >= LATE_LIMIT || report.generator.saturated_by == Some(Cause::Host);
    facts.extend(steal_util.filter(matters).map(|steal| format!("{steal:.2} taken by the host")));
    facts.extend(cpu_ns_per_request.map(|ns| format!("{} a request", show_ns(ns))));
    if let Some(error) = &report.generator.timer_error_ns {
        let share = show_share(late_sends as f64 / report.intended.max(1) as f64);
        facts.push(format!("{} over {} ms late ({share})", counted(late_sends, "send"), LATE_NS / 1_000_000));
        let [p50, p99, max] = [error.p50, error.p99, error.max].map(show_quantile);
        facts.push(format!("timer error p50 {p50}, p99 {p99}, max {max}"));
    }
    paragraph(&labelled("generator", ""), LABEL, &facts, BETWEEN)
}

fn server(server: &Server) -> Vec<String> {
    let figure = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.2}"));
    let ns = |ns: Option<f64>| ns.map_or("-".to_owned(), show_ns);
    let processes = match server.processes {
        1 => "1 process".to_owned(),
        processes => format!("{} processes", show_count(processes as u64)),
    };
    let mut facts = vec![
        server.cpu_util.map_or("CPU unknown: processes ended unseen".to_owned(), |cpus| format!("{cpus:.2} CPUs")),
        format!("{} a request", ns(server.cpu_ns_per_request)),
        server.rss_bytes.map_or("- memory".to_owned(), |bytes| show_bytes(bytes as f64)),
        processes,
        counted(server.threads as u64, "thread"),
        format!(
            "switches a request: {} voluntary, {} involuntary",
            figure(server.voluntary_switches_per_request),
            figure(server.involuntary_switches_per_request)
        ),
        format!("run delay {} a request", ns(server.run_delay_ns_per_request)),
    ];
    if server.processes_started + server.processes_ended > 0 {
        facts.push(format!(
            "processes: {} begun, {} ended",
            show_count(server.processes_started),
            show_count(server.processes_ended)
        ));
    }
    if server.threads_started + server.threads_ended > 0 {
        facts.push(format!(
            "threads: {} begun, {} ended",
            show_count(server.threads_started),
            show_count(server.threads_ended)
        ));
    }
    paragraph(&labelled("server", ""), LABEL, &facts, BETWEEN)
}

fn search(search: &SearchReport) -> Vec<String> {
    let found = match (search.low_per_s, search.high_per_s) {
        (Some(low), Some(high)) => format!("kept at {} /s, missed at {} /s", show_rate(low), show_rate(high)),
        (Some(low), None) => format!("kept at {} /s, the highest that was tried", show_rate(low)),
        (None, Some(high)) => format!("missed at {} /s, the lowest that was tried", show_rate(high)),
        (None, None) => "neither kept nor missed".to_owned(),
    };
    let limit = search.limited_by.map(|limit| format!("limited by the {limit}"));
    let facts: Vec<String> = [format!("{} {found}", search.objective)].into_iter().chain(limit).collect();
    let mut lines = paragraph(&labelled("search", ""), LABEL, &facts, BETWEEN);
    let name = search.objective.split('=').next().unwrap_or_default();
    lines.push(format!("{INDENT}{:>14} {:>14} {name:>9}", "offered", "achieved"));
    lines.extend(search.points.iter().map(search_line));
    lines
}

fn warnings(report: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    if report.interrupted {
        warnings.push(format!("Interrupted: the figures cover {}.", show_s(report.duration_s)));
    }
    let missing = report.never_served();
    if missing > 0 {
        let total = report.requests + missing;
        let share = show_share(missing as f64 / total as f64);
        let missing = show_count(missing);
        let others = if report.requests > 0 { " The latencies are those of the others." } else { "" };
        let what = if report.shed > 0 { "were shed or got no answer" } else { "got no answer" };
        warnings.push(format!("{missing} of {} requests ({share}) {what}.{others}", show_count(total)));
    }
    if report.generator.saturated {
        warnings.push(saturated(report));
    }
    let words = |text: &String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    warnings.iter().flat_map(|warning| paragraph("! ", 2, &words(warning), " ")).collect()
}

/// That the generator was saturated, by whom, and what helps against that.
fn saturated(report: &Report) -> String {
    let less = if report.mode == "open" { "a lower --rate" } else { "fewer --connections" };
    let threads = if report.threads > 1 { ", no more --threads than it has processors" } else { "" };
    let (cause, remedy) = match report.generator.saturated_by {
        Some(Cause::Itself) => ("", format!("Use more --threads, {less} or another machine.")),
        Some(Cause::OtherPrograms) => (
            " by others who had its processor",
            format!("Give it a processor that neither the server nor another program uses (taskset){threads}."),
        ),
        Some(Cause::Host) => (
            " by the host, which took its processor away",
            format!("More --threads or {less} do not help; wait for a better hour, or use another machine."),
        ),
        None => (
            ", and neither its own work nor other programs nor the host, as far as it tells, explain that",
            format!("Try more --threads, {less} or another machine."),
        ),
    };
    format!(
        "The generator was saturated{cause}: the latencies hold its own delays, and the server may carry more than \
         this. {remedy}"
    )
}

/// A line that begins with a label.
fn labelled(label: &str, text: &str) -> String {
    format!("{INDENT}{label:<width$}{text}", width = LABEL - INDENT.len())
}

/// Facts in lines of at most [`WIDTH`] columns, the first after `first`, the others `indent` columns in.
fn paragraph(first: &str, indent: usize, facts: &[String], between: &str) -> Vec<String> {
    let columns = |text: &str| text.chars().count();
    let mut lines = vec![first.to_owned()];
    let mut is_empty = true;
    for fact in facts {
        let line = lines.last_mut().expect("there is a first line");
        if is_empty {
            line.push_str(fact);
        } else if columns(line) + columns(between) + columns(fact) <= WIDTH {
            line.push_str(between);
            line.push_str(fact);
        } else {
            lines.push(" ".repeat(indent) + fact);
        }
        is_empty = false;
    }
    lines
}

/// A time of so many nanoseconds with three significant digits, in the unit that suits it: `412 us`, `1.37 ms`.
pub fn show_ns(ns: f64) -> String {
    if ns < 999.5 && ns.fract() == 0.0 {
        return format!("{ns} ns");
    }
    in_units(ns, 1e3, &["ns", "us", "ms", "s"])
}

/// A time in seconds, likewise.
fn show_s(seconds: f64) -> String {
    if seconds == 0.0 { "0 s".to_owned() } else { show_ns((seconds * 1e9).round()) }
}

fn show_quantile(ns: Option<u64>) -> String {
    ns.map_or("-".to_owned(), |ns| show_ns(ns as f64))
}

/// So many bytes with three significant digits, in the unit that suits it: `64 B`, `1.37 MiB`.
pub fn show_bytes(bytes: f64) -> String {
    if bytes < 999.5 && bytes.fract() == 0.0 {
        return format!("{bytes} B");
    }
    in_units(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A rate: from a thousand on a whole number, below with three significant digits.
pub fn show_rate(per_s: f64) -> String {
    if per_s >= 999.5 { show_count(per_s.round() as u64) } else { three_digits(per_s) }
}

/// A count, its thousands set apart: `1,234,567`.
pub fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let apart = |(at, digit): (usize, char)| {
        let comma = (at > 0 && (digits.len() - at).is_multiple_of(3)).then_some(',');
        comma.into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(apart).collect()
}

/// `1 thread`, `2 threads`.
fn counted(count: u64, thing: &str) -> String {
    format!("{} {thing}{}", show_count(count), if count == 1 { "" } else { "s" })
}

/// Hundredths of a per cent, rounded down, so that only all is 100 %.
fn show_share(share: f64) -> String {
    let hundredths = (share * 10_000.0 + 1e-9).floor();
    if hundredths == 0.0 && share > 0.0 { "<0.01 %".to_owned() } else { format!("{:.2} %", hundredths / 100.0) }
}

fn in_units(value: f64, factor: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    // What would round to a thousand is one of the next unit.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= factor;
        unit += 1;
    }
    format!("{} {}", three_digits(value), units[unit])
}

fn three_digits(value: f64) -> String {
    let decimals = match value {
        value if value == 0.0 || value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests;
