//! The report for people: two lines for each load, what the simulator found and what the formula says.

use crate::load::table::{show_count, show_ns, show_rate};
use crate::simulate::plan::Plan;
use crate::simulate::report::{ExactFigures, Figures, Kept, Point, Quantiles, Range, discipline_name, queue_name};

/// What is simulated, and the heads of the columns.
pub(super) fn heading(plan: &Plan) -> String {
    let (scenario, system) = (&plan.scenario, &plan.scenario.system);
    let placement = plan
        .placement
        .map(|placement| format!("{} connections, {}", show_count(scenario.connections as u64), placement.name()));
    let costs = [
        ("hand-off", system.costs.request_ns),
        ("wake", system.costs.wake_ns),
        ("steal", system.costs.steal_ns),
        ("polls every", system.polling.every_ns.unwrap_or(0)),
    ];
    let costs = costs.into_iter().filter(|(_, ns)| *ns > 0).map(|(name, ns)| format!("{name} {}", show_ns(ns as f64)));
    let mark = system.polling.low_water.map(|mark| format!("low water {mark}"));
    let servers = if system.servers == 1 {
        "1 server".to_owned()
    } else {
        format!("{} servers", show_count(system.servers as u64))
    };
    let first = [servers, queue_name(&system.queue).to_owned(), discipline_name(system.discipline).to_owned()];
    let facts: Vec<String> = first.into_iter().chain(placement).chain(costs).chain(mark).collect();
    format!(
        "{}\n  {} · {} arrivals · {} requests a point after {} of warm-up · seed {}\n\n{}",
        facts.join(" · "),
        scenario.demand,
        scenario.spacing.name(),
        show_count(scenario.requests),
        show_count(scenario.warm_up()),
        scenario.seed,
        columns(
            ["load", "offered/s", "", "wait", "wait p99", "sojourn", "± 95 %", "p50", "p90", "p99", "p99.9"]
                .map(str::to_owned)
        ),
    )
}

/// The lines of one load.
pub(super) fn point(point: &Point) -> String {
    let place = [format!("{:.1} %", point.load * 100.0), show_rate(point.offered_per_s)];
    let first = match (&point.wait_ns, &point.sojourn_ns) {
        (Some(wait), Some(sojourn)) => simulated(place, wait, sojourn),
        _ => format!("{:>8}{:>12}  {}\n", place[0], place[1], point.reason.as_deref().unwrap_or_default()),
    };
    first + &point.exact.as_ref().map(exact).unwrap_or_default()
}

fn simulated([load, offered]: [String; 2], wait: &Figures, sojourn: &Figures) -> String {
    let half = (sojourn.mean_high - sojourn.mean_low) / 2.0;
    let [p50, p90, p99, p99_9] = quantiles(&sojourn.quantiles);
    let [wait_p99, mean] = [show(wait.quantiles.p99), show_ns(sojourn.mean)];
    columns([
        load,
        offered,
        "simulated".to_owned(),
        show_ns(wait.mean),
        wait_p99,
        mean,
        show_ns(half),
        p50,
        p90,
        p99,
        p99_9,
    ])
}

fn exact(exact: &ExactFigures) -> String {
    let [p50, p90, p99, p99_9] = quantiles(&exact.sojourn_ns.quantiles);
    let [wait, wait_p99] = [show_ns(exact.wait_ns.mean), show(exact.wait_ns.quantiles.p99)];
    let mean = show_ns(exact.sojourn_ns.mean);
    let empty = String::new;
    columns([empty(), empty(), exact.formula.clone(), wait, wait_p99, mean, empty(), p50, p90, p99, p99_9])
}

/// The largest load that keeps the objective.
pub(super) fn objective(kept: &Kept) -> String {
    let line = |range: &Range| {
        let name = range.formula.as_deref().unwrap_or("simulated");
        let percent = |load: f64| format!("{:.1} %", load * 100.0);
        let text = match (range.low_load, range.low_per_s) {
            (Some(low), Some(low_per_s)) if range.formula.is_some() => {
                format!("{}, {} /s", percent(low), show_rate(low_per_s))
            }
            (Some(low), Some(low_per_s)) => format!(
                "{} to {}, {} to {} /s",
                percent(low),
                percent(range.high_load),
                show_rate(low_per_s),
                show_rate(range.high_per_s)
            ),
            _ => "none: service alone takes longer".to_owned(),
        };
        format!("  {name:<10} {text}\n")
    };
    let head = format!("\nlargest load at {} ({})\n", kept.text, show_ns(kept.at_most_ns));
    head + &line(&kept.simulated) + &kept.exact.as_ref().map(line).unwrap_or_default()
}

fn quantiles(quantiles: &Quantiles) -> [String; 4] {
    [quantiles.p50, quantiles.p90, quantiles.p99, quantiles.p99_9].map(show)
}

fn show(ns: Option<f64>) -> String {
    ns.map_or("-".to_owned(), show_ns)
}

fn columns([load, offered, source, times @ ..]: [String; 11]) -> String {
    let times: String = times.iter().map(|time| format!("{time:>9}")).collect();
    format!("{load:>8}{offered:>12}  {source:<10}{times}\n")
}
