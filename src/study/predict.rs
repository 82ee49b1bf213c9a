//! What an ideal server does with the very requests of a run: one queue for all servers, first come first served, at no
//! cost but the service that was asked for.
//!
//! The trace is replayed through the simulator rather than a formula evaluated, since a run of seconds has the arrivals
//! that its seed draws and not the average ones: the difference between row and prediction is then the server's alone.
//! Where a formula exists, `maitred simulate` prints it beside the simulated figures.
//!
//! Read next: `queueing/simulator.rs`, which serves; `load/schedule.rs`, where the trace comes from.

use super::row::{Parameters, Predicted, Sojourn};
use crate::config::MAX_PROCESSES;
use crate::engine::ENGINES;
use crate::load::demand::Demand;
use crate::load::plan::Arrivals;
use crate::load::schedule::{Pace, Trace};
use crate::metrics::histogram::Histogram;
use crate::queueing::simulator::{Request, System, simulate};

/// What the ideal does with the requests that these parameters draw; none in a closed loop, whose arrivals depend on
/// the server, and where requests ask for no time.
pub(super) fn predicted(parameters: &Parameters) -> Option<Predicted> {
    let rate_per_s = parameters.rate_per_s?;
    let demand = Demand::parse(parameters.demand.as_deref()?).ok()?;
    let arrivals = match parameters.arrivals.as_str() {
        "poisson" => Arrivals::Poisson { rate_per_s },
        "uniform" => Arrivals::Uniform { rate_per_s },
        _ => return None,
    };
    let servers = servers(parameters);
    let (warmup_ns, window_ns) = (nanoseconds(parameters.warmup_s), nanoseconds(parameters.duration_s));
    let trace = Trace::new(arrivals, parameters.connections, demand.clone(), parameters.seed);
    let trace = trace.paced(pace(parameters, rate_per_s));
    let requests = trace
        .map(|due| Request { at_ns: due.arrival.at_ns, demand_ns: due.demand_ns, connection: due.arrival.connection })
        .take_while(|request| request.at_ns < warmup_ns + window_ns);
    let mut sojourn = Histogram::new();
    let mut asked_ns = 0;
    simulate(&System::ideal(servers), requests, |served| {
        if served.request.at_ns >= warmup_ns {
            sojourn.record(served.sojourn_ns());
            asked_ns += served.request.demand_ns;
        }
    });
    let quantile = |quantile| sojourn.believable_quantile(quantile).map(|ns| ns as f64);
    Some(Predicted {
        system: format!("one queue, {servers} {}", if servers == 1 { "server" } else { "servers" }),
        by: "trace".to_owned(),
        servers,
        utilization: asked_ns as f64 / (servers as f64 * window_ns as f64),
        sojourn_ns: Sojourn {
            mean: (!sojourn.is_empty()).then(|| sojourn.mean()),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
        },
    })
}

/// Engines that serve as many requests at once as there are connections.
const PER_CONNECTION: &[&str] = &["thread-per-connection", "process-per-connection"];
/// The engine that does so as far as it may make processes.
const PREFORK: &str = "prefork";

/// How many requests the engine serves at once: its workers, or one for each connection, or one; of those that need a
/// processor no more than there are.
fn servers(parameters: &Parameters) -> usize {
    let Parameters { engine, workers, connections, .. } = parameters;
    let has_workers = ENGINES.iter().any(|known| known.name == *engine && known.has_use_for("workers"));
    let at_once = match engine.as_str() {
        name if PER_CONNECTION.contains(&name) => *connections,
        PREFORK => {
            let most = parameters.options.get("max_processes").and_then(|text| text.parse().ok());
            *connections.min(&most.unwrap_or(MAX_PROCESSES))
        }
        _ if has_workers => *workers,
        _ => 1,
    };
    match parameters.kind.as_deref() {
        Some("sleep") => at_once,
        _ => at_once.min(parameters.server_cores.len()).max(1),
    }
}

/// How the rate changes over the run, the warm-up included.
fn pace(parameters: &Parameters, rate_per_s: f64) -> Pace {
    let first = parameters.phases.first().map(|_| (nanoseconds(parameters.warmup_s), 1.0));
    let phases = parameters.phases.iter().map(|phase| {
        // Lengths of whole nanoseconds, as the load has them, and not what the subtraction leaves.
        ((((phase.to_s - phase.from_s) * 1e9).round()) as u64, phase.rate_per_s / rate_per_s)
    });
    Pace::new(first.into_iter().chain(phases))
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

#[cfg(test)]
mod tests {
    use super::super::row::Phase;
    use super::super::row::tests::row;
    use super::*;
    use crate::queueing::formulas::Mmc;

    fn long(parameters: Parameters) -> Parameters {
        Parameters { duration_s: 200.0, warmup_s: 5.0, seed: 11, ..parameters }
    }

    #[test]
    fn a_long_trace_comes_to_what_the_formula_says() {
        let parameters = long(row().parameters);
        let found = predicted(&parameters).expect("it is an open loop");
        let formula = Mmc::new(2, 0.5, 2e6).expect("it is a load");
        let close = |found: Option<f64>, exact: f64| {
            let found = found.expect("there are enough requests");
            assert!((found / exact - 1.0).abs() < 0.03, "{found} is not {exact}");
        };
        close(found.sojourn_ns.mean, formula.mean_sojourn());
        close(found.sojourn_ns.p50, formula.sojourn_quantile(0.5));
        close(found.sojourn_ns.p99, formula.sojourn_quantile(0.99));
        close(Some(found.utilization), 0.5);
        assert_eq!((found.system.as_str(), found.by.as_str(), found.servers), ("one queue, 2 servers", "trace", 2));
        assert_eq!(predicted(&parameters), Some(found), "the seed decides it");
    }

    #[test]
    fn the_ideal_has_as_many_servers_as_the_engine_serves_at_once() {
        let of = |engine: &str, kind: &str, workers: usize| {
            let base = row().parameters;
            servers(&Parameters { engine: engine.to_owned(), kind: Some(kind.to_owned()), workers, ..base })
        };
        let table = [
            (of("pool", "sleep", 4), 4),
            (of("event-loops", "sleep", 4), 4),
            (of("pool", "spin", 4), 1),
            (of("pool", "hash", 4), 1),
            (of("serial", "sleep", 4), 1),
            (of("event-loop", "sleep", 4), 1),
            (of("thread-per-connection", "sleep", 4), 16),
            (of("process-per-connection", "sleep", 4), 16),
            (of("prefork", "sleep", 4), 16),
            (of("thread-per-connection", "spin", 4), 1),
        ];
        for (place, (found, expected)) in table.into_iter().enumerate() {
            assert_eq!(found, expected, "row {place}");
        }
    }

    #[test]
    fn closed_loops_and_requests_without_a_demand_have_no_prediction() {
        let closed = Parameters { rate_per_s: None, arrivals: "closed".to_owned(), ..row().parameters };
        let echo = Parameters { demand: None, kind: None, ..row().parameters };
        assert_eq!(predicted(&closed), None);
        assert_eq!(predicted(&echo), None);
    }

    #[test]
    fn an_overload_is_in_the_prediction_and_so_is_what_it_leaves_behind() {
        let phase = |from_s, to_s, load| Phase { from_s, to_s, load: Some(load), rate_per_s: load * 1_000.0 };
        let calm = long(row().parameters);
        let calm = Parameters { duration_s: 30.0, ..calm };
        let phases = vec![phase(0.0, 5.0, 0.5), phase(5.0, 10.0, 2.0), phase(10.0, 30.0, 0.5)];
        let stormy = Parameters { phases, ..calm.clone() };
        let p99 =
            |parameters: &Parameters| predicted(parameters).and_then(|found| found.sojourn_ns.p99).expect("it is open");
        // Five seconds at twice the capacity leave five seconds of work behind.
        assert!((3.5e9..6.5e9).contains(&p99(&stormy)), "{}", p99(&stormy));
        assert!(p99(&calm) < 0.1e9);
        let utilization = predicted(&stormy).expect("it is open").utilization;
        assert!((utilization - 0.75).abs() < 0.05, "{utilization}");
    }
}
