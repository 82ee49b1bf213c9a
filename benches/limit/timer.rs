//! How late the load generator takes up what is due, at rates far below what it can do: the timer error.
//!
//! The server is the bare loop, nobody is pinned, and in each round every rate has its window, in shuffled order: a busy
//! moment of the machine meets them all alike. Beside each rate stands what disturbed it, since a late send is more often
//! the host's doing than the timer's. It deliberately has no verdict: what is printed is to be read.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::Turns;
use crate::load::{self, Cpus, Report, in_order, shuffled};
use crate::machine::{Disturbance, Host, be_alone};
use crate::report::show_value;
use crate::rows::Bare;
use crate::statistics::median;

const RATES_PER_S: [u64; 3] = [1_000, 4_000, 20_000];

const FLAGS: &str = "--connections 16";

/// As many rounds as are asked for at the least: there is no ratio that could be known sooner or later.
pub(crate) fn run(turns: &Turns, json: Option<&Path>) -> io::Result<()> {
    let rounds = *turns.rounds.start();
    let _alone = be_alone()?;
    let command = Bare::Epoll(1).command()?;
    let flags = RATES_PER_S.map(|rate| format!("{FLAGS} --rate {rate}"));
    let mut of_rates = RATES_PER_S.map(|_| Vec::new());
    for round in 1..=rounds {
        let mut random = turns.random(round);
        let mut found = Vec::new();
        for rate in shuffled(RATES_PER_S.len(), &mut random) {
            let nobody = Cpus { server: None, load: None };
            let subject = load::Subject { command: &command, flags: &flags[rate] };
            let (mut reports, disturbance) = load::round(&[subject], nobody, turns, &mut random)?;
            found.push((rate, Run { report: reports.remove(0), disturbance }));
        }
        for (runs, run) in of_rates.iter_mut().zip(in_order(found)) {
            runs.push(run);
        }
        eprintln!("round {round} of {rounds}");
    }
    println!("{FLAGS}, Poisson arrivals, {:?} of each rate a round, rounds: {rounds}", turns.window);
    println!("{:>8}  {:<26}{:>14}{:>14}{:>14}", "rate", "", "median", "lowest", "highest");
    for (rate, runs) in RATES_PER_S.iter().zip(&of_rates) {
        print(*rate, runs);
    }
    if let Some(path) = json {
        let rates = RATES_PER_S.iter().zip(&of_rates).map(|(rate, runs)| {
            let rounds: Vec<Value> =
                runs.iter().map(|run| json!({ "load": run.report, "disturbance": run.disturbance })).collect();
            json!({ "rate_per_s": rate, "rounds": rounds })
        });
        let all = json!({
            "schema": "maitred.limit-timer/1", "host": Host::read(), "seed": turns.seed, "flags": FLAGS,
            "window_s": turns.window.as_secs_f64(), "rates": rates.collect::<Vec<_>>(),
        });
        fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(())
}

/// One rate in one round.
struct Run {
    report: Report,
    disturbance: Disturbance,
}

/// A line of the table.
type Figure = (&'static str, fn(&Run) -> f64);

fn print(rate: u64, runs: &[Run]) {
    let figures: [Figure; 7] = [
        ("timer error p50 ns", |run| run.report.generator.late_ns_p50 as f64),
        ("timer error p99 ns", |run| run.report.generator.late_ns_p99 as f64),
        ("timer error max ns", |run| run.report.generator.late_ns_max as f64),
        ("over 1 ms late, %", |run| {
            let generator = &run.report.generator;
            generator.late_sends as f64 * 100.0 / generator.arrivals.max(1) as f64
        }),
        ("CPUs of the load", |run| run.report.generator.cpu_util),
        ("CPUs taken by the host", |run| run.disturbance.stolen_cpus),
        ("CPUs of other programs", |run| run.disturbance.other_programs_cpus),
    ];
    for (index, (name, value)) in figures.into_iter().enumerate() {
        let values: Vec<f64> = runs.iter().map(value).collect();
        let (lowest, highest) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        let [median, lowest, highest] = [median(&values).unwrap_or(f64::NAN), lowest, highest].map(show_value);
        let rate = if index == 0 { show_value(rate as f64) } else { String::new() };
        println!("{rate:>8}  {name:<26}{median:>14}{lowest:>14}{highest:>14}");
    }
}
