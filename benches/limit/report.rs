//! The table and the JSON of a comparison, and the verdict on each goal. Draws; never measures.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::compare::{Comparison, Role, Variant, ratio};
use crate::rows::{Goal, Metric};
use crate::statistics::{Estimate, median};

impl Comparison<'_> {
    pub(crate) fn print(&self) {
        println!("{}: {}", self.row.name, self.row.summary());
        println!(
            "  {}; {} rounds of {:?} in slices of {:?}; headline {}{}",
            self.cpus.show(),
            self.rounds(),
            self.plan.turns.window,
            self.plan.turns.slice,
            self.row.headline.name(),
            if self.is_resolved() { "" } else { ", NOT resolved to 3%" },
        );
        let baselines: Vec<&Variant> = self.baselines().collect();
        print!("  {:<21}{:<19}{:>11}", "metric", "variant", "median");
        for baseline in &baselines {
            print!("  {:<23}", format!("to {} [95%]", baseline.name));
        }
        println!("  goal");
        for metric in self.metrics() {
            let mut title = metric.name();
            for variant in &self.variants {
                let Some(value) = median(&variant.values(metric)) else {
                    continue;
                };
                print!("  {title:<21}{:<19}{:>11}", variant.name, show_value(value));
                title = "";
                let ratios = self.ratios(variant, metric);
                for baseline in &baselines {
                    let ratio =
                        (ratios.iter()).find(|(to, _)| std::ptr::eq(*to, *baseline)).and_then(|(_, ratio)| *ratio);
                    print!("  {:<23}", ratio.map_or_else(String::new, show_ratio));
                }
                match (variant.role, self.goal(metric), self.verdict(variant, metric)) {
                    (Role::Again { .. }, ..) => print!("  A/A"),
                    (_, Some(goal), Some(verdict)) => {
                        print!("  {}: {}", show_goal(goal), verdict.name());
                    }
                    _ => {}
                }
                println!();
            }
        }
        self.print_load();
        println!();
    }

    /// How hard the load had to work, and who disturbed it: a generator that was short of CPU
    /// measures itself.
    fn print_load(&self) {
        if let Some(others) = median(&self.others) {
            println!("  other programs: {:.0}% of a CPU", others * 100.0);
        }
        for variant in &self.variants {
            let reports = || variant.samples.iter().filter_map(|sample| sample.report.as_ref());
            let shares: Vec<f64> = reports().map(|report| report.generator.cpu_util).collect();
            let Some(share) = median(&shares) else {
                continue;
            };
            print!("  load of {}: {:.0}% of a CPU", variant.name, share * 100.0);
            if self.row.is_open_loop() {
                let late: u64 = reports().map(|report| report.generator.late_sends).sum();
                let sent: u64 = reports().map(|report| report.requests).sum();
                let unsent: u64 = reports().map(|report| report.unsent).sum();
                let unanswered: u64 = reports().map(|report| report.unanswered).sum();
                print!(
                    ", {:.2}% sent over 1 ms late, {unsent} unsent, {unanswered} unanswered",
                    late as f64 * 100.0 / sent.max(1) as f64,
                );
            }
            println!();
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let metrics: Vec<Value> = (self.metrics())
            .flat_map(|metric| self.variants.iter().map(move |variant| (metric, variant)))
            .map(|(metric, variant)| {
                let ratios: Vec<Value> = (self.ratios(variant, metric).into_iter())
                    .map(|(to, ratio)| json!({ "to": to.name, "ratio": ratio.map(estimate_to_json) }))
                    .collect();
                json!({
                    "metric": metric.name(),
                    "variant": variant.name,
                    "median": median(&variant.values(metric)),
                    "values": variant.values(metric),
                    "ratios": ratios,
                    "goal": self.goal(metric).map(show_goal),
                    "verdict": self.verdict(variant, metric).map(Verdict::name),
                })
            })
            .collect();
        let runs: Vec<Value> = (self.variants.iter())
            .map(|variant| {
                let reports: Vec<_> = variant.samples.iter().map(|run| &run.report).collect();
                json!({ "variant": variant.name, "rounds": reports })
            })
            .collect();
        json!({
            "row": self.row.name,
            "load": self.row.summary(),
            "placement": self.cpus.show(),
            "rounds": self.rounds(),
            "other_programs_cpus": self.others,
            "window_s": self.plan.turns.window.as_secs_f64(),
            "resolved": self.is_resolved(),
            "metrics": metrics,
            "runs": runs,
        })
    }

    fn verdict(&self, variant: &Variant, metric: Metric) -> Option<Verdict> {
        if variant.role != Role::Daemon {
            return None;
        }
        let to_baseline = || ratio(variant, self.better_baseline(metric)?, metric);
        Some(match self.goal(metric)? {
            Goal::AtMost(limit) => Verdict::at_most(to_baseline()?, limit),
            Goal::AtLeast(limit) => Verdict::at_least(to_baseline()?, limit),
            Goal::ValueAtMost(limit) => Verdict::at_most(Estimate::of(&variant.values(metric))?, limit),
        })
    }
}

/// Whether a goal is met, and whether the interval says so too.
#[derive(Clone, Copy)]
enum Verdict {
    Met,
    MetUnresolved,
    MissedUnresolved,
    Missed,
}

impl Verdict {
    fn at_most(estimate: Estimate, limit: f64) -> Self {
        let (low, high) = estimate.interval.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
        match estimate.center.total_cmp(&limit) {
            Ordering::Less | Ordering::Equal if high <= limit => Self::Met,
            Ordering::Less | Ordering::Equal => Self::MetUnresolved,
            Ordering::Greater if low > limit => Self::Missed,
            Ordering::Greater => Self::MissedUnresolved,
        }
    }

    fn at_least(estimate: Estimate, limit: f64) -> Self {
        let interval = estimate.interval.map(|(low, high)| (-high, -low));
        Self::at_most(Estimate { center: -estimate.center, interval }, -limit)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::MetUnresolved => "met, not resolved",
            Self::MissedUnresolved => "missed, not resolved",
            Self::Missed => "MISSED",
        }
    }
}

fn show_goal(goal: Goal) -> String {
    match goal {
        Goal::AtMost(limit) => format!("<= {limit:.2}"),
        Goal::AtLeast(limit) => format!(">= {limit:.2}"),
        Goal::ValueAtMost(limit) => format!("itself <= {limit}"),
    }
}

pub(crate) fn estimate_to_json(estimate: Estimate) -> Value {
    let (low, high) = estimate.interval.unzip();
    json!({ "center": estimate.center, "low": low, "high": high })
}

pub(crate) fn show_ratio(ratio: Estimate) -> String {
    match ratio.interval {
        Some((low, high)) => format!("{:.3} [{low:.3}, {high:.3}]", ratio.center),
        None => format!("{:.3}", ratio.center),
    }
}

/// Three decimals for small numbers, thousands apart for large ones.
pub(crate) fn show_value(value: f64) -> String {
    if value.abs() < 10.0 {
        return format!("{value:.3}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    if value < 0.0 { format!("-{shown}") } else { shown }
}
