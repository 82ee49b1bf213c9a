//! What the load generator itself costs per request, against the bare loop that answers it.
//!
//! In a closed loop both do the same calls for a request: one wait, one read and one write, and fewer where several are
//! ready at once. The generator adds the check of every reply and its histograms. In an open loop it also waits awake, up
//! to a share of the time, so as to send on time; what that buys is the timer error beside it.
//!
//! One CPU each. A round has two parts, between which the two swap their CPUs, and its ratio is the geometric mean of the
//! two: what one CPU is slower than the other cancels. It deliberately has no verdict: what is printed is to be read.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::Turns;
use crate::compare::RESOLVED;
use crate::load::{self, Cpus, Report};
use crate::machine::{Host, be_alone};
use crate::process;
use crate::report::{estimate_to_json, show_ratio, show_value};
use crate::rows;
use crate::statistics::{Estimate, median};

/// The flags of `maitred load`.
const SHAPES: [&str; 5] = [
    "--connections 64",
    "--connections 64 --depth 16",
    "--connections 256",
    "--connections 1",
    "--connections 64 --rate 20000",
];

pub(crate) fn run(turns: &Turns, json: Option<&Path>) -> io::Result<()> {
    let [one, other] = process::two_cpus()?;
    let _alone = be_alone()?;
    println!(
        "the load generator and the bare loop on CPUs {one} and {other}, which they swap; CPU ns/request, medians"
    );
    println!(
        "{:<45}{:>10}{:>11}  {:<23}{:>8}  {:<30}{:>15}",
        "load", "generator", "bare loop", "ratio [95%]", "rounds", "timer error p50, p99 in ns", "other programs"
    );
    let mut written = Vec::new();
    for flags in SHAPES {
        let rounds = Rounds::run(flags, turns, [one, other])?;
        rounds.print();
        written.push(rounds.to_json());
        if let Some(path) = json {
            let all = json!({
                "schema": "maitred.limit-generator/1", "host": Host::read(), "seed": turns.seed, "rows": written,
            });
            fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
        }
    }
    Ok(())
}

/// One shape with everything that was measured of it.
struct Rounds {
    flags: &'static str,
    /// Of each round the two parts.
    reports: Vec<[Report; 2]>,
    /// CPUs that other programs kept busy, one value per part.
    others: Vec<f64>,
}

impl Rounds {
    fn run(flags: &'static str, turns: &Turns, [one, other]: [usize; 2]) -> io::Result<Self> {
        let mut rounds = Self { flags, reports: Vec::new(), others: Vec::new() };
        let command = rows::Bare::Epoll(1).command()?;
        for round in 1..=*turns.rounds.end() {
            let mut random = turns.random(round);
            let mut part = |server, load| {
                let cpus = Cpus { server: Some(server), load: Some(load) };
                let subject = load::Subject { command: &command, flags };
                let (mut reports, disturbance) = load::round(&[subject], cpus, turns, &mut random)?;
                rounds.others.push(disturbance.other_programs_cpus);
                io::Result::Ok(reports.remove(0))
            };
            let parts = [part(one, other)?, part(other, one)?];
            rounds.reports.push(parts);
            let ratio = rounds.ratio();
            eprintln!("{flags} round {round}: ratio {}", ratio.map_or_else(String::new, show_ratio));
            if round >= *turns.rounds.start() && ratio.is_some_and(|ratio| ratio.is_within(RESOLVED)) {
                break;
            }
        }
        Ok(rounds)
    }

    /// The generator's cost by the loop's.
    fn ratio(&self) -> Option<Estimate> {
        let ratio = |report: &Report| report.generator.cpu_ns_per_request / report.server.cpu_ns_per_request;
        let ratios: Vec<f64> = self.reports.iter().map(|[a, b]| (ratio(a) * ratio(b)).sqrt()).collect();
        Estimate::of_ratios(&ratios)
    }

    fn median(&self, value: impl Fn(&Report) -> f64) -> f64 {
        median(&self.reports.iter().flatten().map(value).collect::<Vec<f64>>()).unwrap_or(f64::NAN)
    }

    fn print(&self) {
        let plan = rows::plan(self.flags);
        let late = if plan.arrivals.rate_per_s().is_some() {
            let p50 = self.median(|report| report.generator.late_ns_p50 as f64);
            let p99 = self.median(|report| report.generator.late_ns_p99 as f64);
            format!("{}, {}", show_value(p50), show_value(p99))
        } else {
            "-".into()
        };
        println!(
            "{:<45}{:>10}{:>11}  {:<23}{:>8}  {late:<30}{:>13.0} %",
            load::show(&plan),
            show_value(self.median(|report| report.generator.cpu_ns_per_request)),
            show_value(self.median(|report| report.server.cpu_ns_per_request)),
            self.ratio().map_or_else(String::new, show_ratio),
            self.reports.len(),
            median(&self.others).unwrap_or(0.0) * 100.0,
        );
    }

    fn to_json(&self) -> Value {
        json!({
            "load": load::show(&rows::plan(self.flags)),
            "flags": self.flags,
            "generator_cpu_ns_per_request": self.median(|report| report.generator.cpu_ns_per_request),
            "bare_loop_cpu_ns_per_request": self.median(|report| report.server.cpu_ns_per_request),
            "ratio": self.ratio().map(estimate_to_json),
            "other_programs_cpus": self.others,
            "rounds": self.reports,
        })
    }
}
