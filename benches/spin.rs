//! How near the time that `work` spends comes to the time that it was asked for.
//!
//! *Spin*, from a microsecond to ten milliseconds: many runs of each, one after the other, by two clocks. By the thread's
//! processor time, which is what a spin promises; and by the clock on the wall, which also counts the time in which somebody
//! else had the processor. For each the error of the median run and of the 99th percentile, as a share of what was asked for.
//! *Hash* likewise: it is so many bytes, whatever they take. *Sleep* by the wall alone; it is never early.
//!
//! The runs of all times take turns, so that a busy moment meets them all. `README.md` beside this file says how to read it.

use std::env;

use maitred::clock::{monotonic_ns, thread_cpu_ns};
use maitred::spend::spin::{Spin, TRIED_NS};
use maitred::spend::{Kind, calibrate, spend};
use maitred::units::show_duration;

use std::time::Duration;

/// All runs of one time together take so long, unless that is less than a few of them.
const OF_EACH_NS: u64 = 500_000_000;
const SMOKE_NS: u64 = 5_000_000;
const FEWEST: u64 = 20;

/// Runs that are measured together where one is too short for the clock.
const TOGETHER_NS: u64 = 20_000;

/// What is held to: a share of what was asked for, or so many nanoseconds.
const GOAL_SHARE: f64 = 0.02;
const GOAL_NS: f64 = 1_000.0;

/// Errors of one kind at one time, as shares of it.
#[derive(Default)]
struct Errors {
    cpu: Vec<f64>,
    wall: Vec<f64>,
}

fn main() {
    let measures = env::args().any(|argument| argument == "--bench");
    let smokes = env::args().any(|argument| argument == "--smoke");
    if !measures {
        eprintln!("spin: measures under `cargo bench --bench spin`");
        return;
    }
    calibrate();
    let rate = Spin::calibrated().rate();
    let settled = if rate.is_settled { "" } else { "; the machine works at no steady speed" };
    println!("{:.3} steps of the chain in a nanosecond{settled}\n", rate.units_per_ns());
    println!("{:<8}{:>8}{:>8}{:>24}{:>24}", "", "", "", "processor time, error", "wall clock, error");
    println!("{:<8}{:>8}{:>8}{:>12}{:>12}{:>12}{:>12}", "kind", "asked", "runs", "p50", "p99", "p50", "p99");
    let of_each_ns = if smokes { SMOKE_NS } else { OF_EACH_NS };
    for kind in [Kind::Spin, Kind::Hash, Kind::Sleep] {
        let errors = measure(kind, of_each_ns);
        for (demand_ns, errors) in TRIED_NS.into_iter().zip(errors) {
            print_line(kind, demand_ns, errors);
        }
    }
    println!("\ngoal of spin, by processor time: within {} % or {GOAL_NS} ns", GOAL_SHARE * 100.0);
}

fn measure(kind: Kind, of_each_ns: u64) -> Vec<Errors> {
    let mut all: Vec<Errors> = TRIED_NS.iter().map(|_| Errors::default()).collect();
    let together = |demand_ns: u64| TOGETHER_NS.div_ceil(demand_ns);
    let runs = |demand_ns: u64| (of_each_ns / demand_ns / together(demand_ns)).max(FEWEST);
    let most = TRIED_NS.into_iter().map(runs).max().expect("there are some");
    // What to read the clocks takes is in every figure; for the shortest it would be much of it.
    let reading = (0..1_000).map(|_| timed(|| {})).reduce(|one, other| [one[0].min(other[0]), one[1].min(other[1])]);
    let reading = reading.expect("there are some");
    for turn in 0..most {
        for (errors, demand_ns) in all.iter_mut().zip(TRIED_NS) {
            // Spread over all turns.
            let due = |turn: u64| turn * runs(demand_ns) / most;
            if due(turn) == due(turn + 1) {
                continue;
            }
            let count = together(demand_ns);
            let took = timed(|| (0..count).for_each(|_| spend(kind, demand_ns, &|| true)));
            let error =
                |clock: usize| took[clock].saturating_sub(reading[clock]) as f64 / (count * demand_ns) as f64 - 1.0;
            errors.cpu.push(error(0));
            errors.wall.push(error(1));
        }
    }
    all
}

/// What it takes by the thread's processor time, and by the wall.
fn timed(run: impl FnOnce()) -> [u64; 2] {
    let (wall_ns, cpu_ns) = (monotonic_ns(), thread_cpu_ns());
    run();
    let (cpu_ns, wall_ns) = (thread_cpu_ns() - cpu_ns, monotonic_ns() - wall_ns);
    [cpu_ns, wall_ns]
}

fn print_line(kind: Kind, demand_ns: u64, mut errors: Errors) {
    let name = match kind {
        Kind::Spin => "spin",
        Kind::Hash => "hash",
        Kind::Sleep => "sleep",
    };
    let asked = show_duration(Duration::from_nanos(demand_ns));
    let runs = errors.wall.len();
    let wall = [0.5, 0.99].map(|quantile| show(quantile_of(&mut errors.wall, quantile)));
    let median = quantile_of(&mut errors.cpu, 0.5);
    let cpu = match kind {
        Kind::Sleep => ["-".to_owned(), "-".to_owned()],
        _ => [show(median), show(quantile_of(&mut errors.cpu, 0.99))],
    };
    let is_held = median.abs() <= GOAL_SHARE || median.abs() * demand_ns as f64 <= GOAL_NS;
    let verdict = if kind == Kind::Spin && !is_held { "  MISSED" } else { "" };
    println!("{name:<8}{asked:>8}{runs:>8}{:>12}{:>12}{:>12}{:>12}{verdict}", cpu[0], cpu[1], wall[0], wall[1]);
}

fn quantile_of(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * quantile).round() as usize]
}

fn show(share: f64) -> String {
    format!("{:+.2} %", share * 100.0)
}
