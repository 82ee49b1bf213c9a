//! What `work` costs beside echo when it takes no time: to find a frame, to check it, to say who served it and when.
//!
//! All of it is the daemon, on one engine, under the same load of the same size. *in turn* is a spin of no time, which its
//! turn serves; *as a call* is a sleep of no time, which leaves its session and comes back by the mailbox: its ratio, less that
//! of *in turn*, is what a call costs. Servers and load run on a CPU each, in turns; `echo-again` is echo once more.

use std::ffi::OsString;
use std::fs;
use std::io;

use serde_json::json;

use crate::compare::RESOLVED;
use crate::load::{self, Cpus, Report, Subject};
use crate::machine::{Host, be_alone};
use crate::report::{estimate_to_json, show_ratio, show_value};
use crate::statistics::{Estimate, median};
use crate::{Work, process, rows, words};

/// The most processor time of work in turn, by that of echo.
const GOAL: f64 = 1.25;

struct Variant {
    name: &'static str,
    service: &'static str,
    /// Flags of the load besides those of all.
    flags: &'static str,
}

const VARIANTS: [Variant; 4] = [
    Variant { name: "echo", service: "echo", flags: "" },
    Variant { name: "echo-again", service: "echo", flags: "" },
    Variant { name: "work, in turn", service: "work", flags: "--kind spin --demand fixed:0us" },
    Variant { name: "work, as a call", service: "work", flags: "--kind sleep --demand fixed:0us" },
];

pub(crate) fn run(arguments: &Work) -> io::Result<()> {
    let [server, load] = process::two_cpus()?;
    let cpus = Cpus { server: Some(server), load: Some(load) };
    let _alone = be_alone()?;
    let loads = VARIANTS.map(|variant| format!("{} {} {}", variant.service, arguments.load, variant.flags));
    let commands = VARIANTS.map(|variant| command(arguments, variant.service));
    let subjects: Vec<Subject<'_>> =
        commands.iter().zip(&loads).map(|(command, flags)| Subject { command, flags }).collect();
    println!(
        "maitred serve {}; {}; server on CPU {server}, load on CPU {load}",
        arguments.maitred_args,
        load::show(&rows::plan(&loads[0]))
    );
    let mut rounds: Vec<Vec<Report>> = Vec::new();
    for round in 1..=*arguments.turns.rounds.end() {
        let mut random = arguments.turns.random(round);
        rounds.push(load::round(&subjects, cpus, &arguments.turns, &mut random)?.0);
        let is_resolved = |variant| ratio(&rounds, variant).is_some_and(|ratio| ratio.is_within(RESOLVED));
        if round >= *arguments.turns.rounds.start() && (1..VARIANTS.len()).all(is_resolved) {
            break;
        }
    }
    println!("{:<18}{:>16}{:>14}{:>10}  CPU, to echo's [95%]", "", "CPU ns/request", "requests/s", "p99 us");
    let mut rows = Vec::new();
    for (variant, Variant { name, flags, .. }) in VARIANTS.iter().enumerate() {
        let of = |value: fn(&Report) -> f64| {
            median(&rounds.iter().map(|reports| value(&reports[variant])).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        let cpu_ns = of(|report| report.server.cpu_ns_per_request);
        let ratio = ratio(&rounds, variant);
        println!(
            "{name:<18}{:>16}{:>14}{:>10.0}  {}",
            show_value(cpu_ns),
            show_value(of(|report| report.requests_per_s)),
            of(|report| report.latency_ns.p99 as f64) / 1e3,
            ratio.map_or_else(String::new, show_ratio),
        );
        rows.push(json!({
            "name": name, "flags": flags, "cpu_ns_per_request": cpu_ns, "ratio": ratio.map(estimate_to_json),
            "rounds": rounds.iter().map(|reports| &reports[variant]).collect::<Vec<_>>(),
        }));
    }
    println!("goal: work, in turn, at most {GOAL}");
    if let Some(path) = &arguments.json {
        let all = json!({
            "schema": "maitred.limit-work/1", "host": Host::read(), "maitred_args": arguments.maitred_args,
            "load": arguments.load, "seed": arguments.turns.seed, "goal": GOAL, "rows": rows,
        });
        fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(())
}

/// Processor time per request of a variant, by that of echo.
fn ratio(rounds: &[Vec<Report>], variant: usize) -> Option<Estimate> {
    let cpu_ns = |report: &Report| report.server.cpu_ns_per_request;
    let ratios: Vec<f64> = rounds.iter().map(|reports| cpu_ns(&reports[variant]) / cpu_ns(&reports[0])).collect();
    Estimate::of_ratios(&ratios)
}

fn command(arguments: &Work, service: &str) -> Vec<OsString> {
    let listener = format!("{service}=tcp://127.0.0.1:0");
    let mut command: Vec<OsString> = vec![arguments.maitred.clone().into(), "serve".into()];
    command.extend(["--listen", &listener].map(OsString::from));
    command.extend(words(&arguments.maitred_args).into_iter().map(OsString::from));
    command
}
