//! How many events a second the simulator makes, by queue and discipline, on one core.
//!
//! A request is two events, its arrival and its end. The first columns are the simulator alone, which is given a trace that
//! lies in memory and tells a closure that adds up; the last is all that a point of `maitred simulate` does: drawing the
//! trace as well, and recording two times of each request.
//!
//! Rows take turns, so that a busy moment meets them all. `README.md` beside this file says how to read it.

use std::env;
use std::hint::black_box;

use maitred::clock::thread_cpu_ns;
use maitred::load::demand::Demand;
use maitred::queueing::simulator::{Discipline, Queue, Request, System, simulate};
use maitred::simulate::Scenario;
use maitred::simulate::scenario::Placement;

const SERVERS: [usize; 3] = [16, 64, 256];
const LOAD: f64 = 0.8;
const REQUESTS: u64 = 1_000_000;
const SMOKE_REQUESTS: u64 = 10_000;
const TURNS: usize = 5;

/// What is held to, with everything.
const GOAL_PER_S: f64 = 5e6;

struct Row {
    name: String,
    scenarios: Vec<Scenario>,
    /// Events a second, of each turn: a column per number of servers, and one for everything.
    per_s: Vec<Vec<f64>>,
}

fn main() {
    let measures = env::args().any(|argument| argument == "--bench");
    let requests = if env::args().any(|argument| argument == "--smoke") { SMOKE_REQUESTS } else { REQUESTS };
    if !measures {
        eprintln!("simulator: measures under `cargo bench --bench simulator`");
        return;
    }
    let mut rows = rows(requests);
    for _ in 0..TURNS {
        rows.iter_mut().for_each(Row::turn);
    }
    println!(
        "exp:10us at a load of {LOAD}, {requests} requests; million events per second of processor time, median of {TURNS}\n"
    );
    println!("{:<24}{:>10}{:>10}{:>10}{:>14}", "servers", SERVERS[0], SERVERS[1], SERVERS[2], "16, all of it");
    for row in &mut rows {
        let median = |column: &mut Vec<f64>| {
            column.sort_unstable_by(f64::total_cmp);
            column[column.len() / 2]
        };
        let medians: Vec<f64> = row.per_s.iter_mut().map(median).collect();
        let columns: String = medians[..3].iter().map(|per_s| format!("{:>10.2}", per_s / 1e6)).collect();
        let verdict = if medians[3] < GOAL_PER_S { "  MISSED" } else { "" };
        println!("{:<24}{columns}{:>14.2}{verdict}", row.name, medians[3] / 1e6);
    }
    println!("\ngoal, with all of it: {:.0} million", GOAL_PER_S / 1e6);
}

fn rows(requests: u64) -> Vec<Row> {
    let disciplines = [
        ("fifo", Discipline::Fifo),
        ("lifo", Discipline::Lifo),
        ("sjf", Discipline::ShortestFirst),
        ("ps", Discipline::ProcessorSharing),
    ];
    let mut rows = Vec::new();
    for queue in ["central", "partitioned", "stealing"] {
        for (name, discipline) in disciplines {
            if queue == "stealing" && discipline == Discipline::ProcessorSharing {
                continue;
            }
            let scenarios = SERVERS.map(|servers| scenario(servers, queue, discipline, requests)).to_vec();
            rows.push(Row { name: format!("{queue} {name}"), scenarios, per_s: vec![Vec::new(); SERVERS.len() + 1] });
        }
    }
    rows
}

fn scenario(servers: usize, queue: &str, discipline: Discipline, requests: u64) -> Scenario {
    let demand = Demand::parse("exp:10us").expect("it is a distribution");
    let ideal = Scenario { requests, ..Scenario::ideal(demand, servers) };
    let homes = Placement::RoundRobin.homes(ideal.connections, servers, ideal.seed);
    let queue = match queue {
        "central" => Queue::Central,
        "partitioned" => Queue::Partitioned(homes),
        _ => Queue::Stealing(homes),
    };
    Scenario { system: System { queue, discipline, ..ideal.system.clone() }, ..ideal }
}

impl Row {
    fn turn(&mut self) {
        for (scenario, column) in self.scenarios.iter().zip(&mut self.per_s) {
            let trace: Vec<Request> = scenario.trace(LOAD).take(scenario.requests as usize).collect();
            let mut sum_ns = 0;
            column.push(events_per_s(scenario.requests, || {
                simulate(&scenario.system, trace.iter().copied(), |served| sum_ns += served.sojourn_ns());
            }));
            black_box(sum_ns);
        }
        let first = &self.scenarios[0];
        let all = first.requests + 2 * first.warm_up();
        let per_s = events_per_s(all, || {
            black_box(first.run(LOAD, None).sojourn.mean_ns());
        });
        self.per_s[SERVERS.len()].push(per_s);
    }
}

fn events_per_s(requests: u64, run: impl FnOnce()) -> f64 {
    let begin_ns = thread_cpu_ns();
    run();
    2.0 * requests as f64 / (thread_cpu_ns() - begin_ns) as f64 * 1e9
}
