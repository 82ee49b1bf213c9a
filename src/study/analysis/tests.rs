//! What synthetic rows amount to, with answers that are known.

use serde_json::json;

use super::super::row::tests::row;
use super::super::row::{Phase, Predicted, Sojourn};
use super::*;

/// A run at this rate with this latency and this prediction.
fn at(rate_per_s: f64, latency_ns: Option<u64>, predicted_ns: f64) -> Row {
    let mut row = row();
    row.point = format!("rate={rate_per_s}");
    row.parameters.rate_per_s = Some(rate_per_s);
    row.parameters.objective = Some("p99=20ms".to_owned());
    let is_met = latency_ns.is_some_and(|latency_ns| latency_ns <= 20_000_000);
    let reason = if is_met { None } else { Some("above 20ms") };
    row.load = Some(json!({"slo": {"quantile_ns": latency_ns, "met": is_met, "reason": reason}}));
    let sojourn_ns = Sojourn { p99: Some(predicted_ns), ..Sojourn::default() };
    row.predicted = row.predicted.map(|predicted| Predicted { sojourn_ns, ..predicted });
    row
}

fn bimodal(rows: Vec<Row>) -> Vec<Row> {
    // Without a formula.
    let with = |mut row: Row| {
        row.parameters.demand = Some("bimodal:90%:1ms,10%:11ms".to_owned());
        row
    };
    rows.into_iter().map(with).collect()
}

#[test]
fn groups_have_the_repeats_that_count() {
    let mut rows: Vec<Row> = (0..3).map(|run| Row { run, order: 9 - run, ..row() }).collect();
    rows.push(Row { run: 3, status: Status::Failed, load: None, ..row() });
    rows.push(Row { run: 4, point: "load=0.9".to_owned(), ..row() });
    rows.push(Row { run: 5, aa: true, twin: Some(Twin::Second), ..row() });
    let groups = groups(&rows);
    assert_eq!(groups.len(), 2);
    assert_eq!((groups[0].rows.len(), groups[0].failed, groups[1].rows.len()), (3, 1, 1));
    assert_eq!(groups[0].rows.iter().map(|row| row.run).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(groups[0].values("load.latency_ns.p99"), [9e6; 3]);
    assert_eq!(groups[0].limited_by(), [Limit::Generator]);
}

#[test]
fn noise_is_the_second_twin_by_the_first() {
    let twin = |twin, repeat, p99: u64| {
        let load = Some(json!({"latency_ns": {"p99": p99}}));
        Row { aa: true, twin: Some(twin), repeat, load, ..row() }
    };
    let pairs = [(100, 110), (200, 210), (300, 310), (400, 400)].into_iter().enumerate();
    let rows: Vec<Row> =
        pairs.flat_map(|(at, (one, other))| [twin(Twin::Second, at, other), twin(Twin::First, at, one)]).collect();
    let noise = noise(&rows, "load.latency_ns.p99").expect("there is a pair");
    // 260 by 250.
    assert!((noise.center - 1.04).abs() < 1e-9 && noise.runs == 4, "{noise:?}");
    assert!(noise.interval.is_some_and(|(low, high)| low >= 1.0 && high <= 1.1 + 1e-9), "{noise:?}");
    assert_eq!(super::noise(&[row()], "load.latency_ns.p99"), None);
}

#[test]
fn the_rate_that_keeps_an_objective_lies_between_the_points() {
    // Latency grows tenfold from 400 to 600, and half of that, on its logarithmic scale, is at 500.
    let limit = 20e6_f64;
    let tenfold = limit / 10f64.sqrt();
    assert_eq!(kept(vec![(600.0, tenfold * 10.0), (400.0, tenfold)], limit), Some(Kept::UpTo(500.0)));
    assert_eq!(kept(vec![(400.0, tenfold), (600.0, f64::INFINITY)], limit), Some(Kept::UpTo(400.0)));
    assert_eq!(kept(vec![(400.0, limit + 1.0), (600.0, 1.0)], limit), Some(Kept::Below(400.0)));
    assert_eq!(kept(vec![(400.0, 1.0), (600.0, limit)], limit), Some(Kept::AtLeast(600.0)));
    assert_eq!(
        kept(vec![(400.0, 1.0), (500.0, limit * 2.0), (600.0, 1.0)], limit)
            .map(|kept| matches!(kept, Kept::UpTo(rate) if rate < 500.0)),
        Some(true),
        "what is kept again higher up does not count"
    );
    assert_eq!(kept(Vec::new(), limit), None);
}

#[test]
fn the_share_of_the_bound_is_measured_by_ideal_and_says_when_it_is_a_bound_only() {
    let slow = |rate, ms: u64, ideal_ms: f64| at(rate, Some(ms * 1_000_000), ideal_ms * 1e6);
    let share = |rows: Vec<Row>| {
        let shares = shares_of_bound(&bimodal(rows));
        assert_eq!((shares.len(), shares[0].by_formula), (1, false));
        shares[0].share()
    };
    // 20 ms is where the measured curve is halfway from 10 to 40, and the ideal halfway from 10 to 40 a step later.
    let both = vec![slow(100.0, 10, 5.0), slow(200.0, 40, 10.0), slow(300.0, 90, 40.0)];
    assert!(matches!(share(both), Share::Is(share) if (share - 150.0 / 250.0).abs() < 1e-9));
    assert_eq!(
        share(vec![slow(100.0, 10, 5.0), slow(200.0, 20, 40.0)]),
        Share::AtLeast(200.0 / (100.0 + 100.0 * 4f64.ln() / 8f64.ln()))
    );
    let never_missed_by_the_ideal = share(vec![slow(100.0, 10, 5.0), slow(200.0, 40, 10.0)]);
    assert!(matches!(never_missed_by_the_ideal, Share::AtMost(share) if (share - 0.75).abs() < 1e-9));
    assert_eq!(share(vec![slow(100.0, 30, 5.0), slow(200.0, 40, 10.0)]), Share::AtMost(0.5));
    assert_eq!(share(vec![slow(100.0, 10, 5.0), slow(200.0, 10, 10.0)]), Share::Unknown);
    // Requests without an answer took longer than anything.
    let lost = vec![slow(100.0, 10, 5.0), at(200.0, None, 10e6)];
    assert_eq!(share(lost), Share::AtMost(0.5));
}

#[test]
fn where_there_is_a_formula_the_bound_is_its() {
    // One server, p99 of ln(100) mean service times at no load: the textbook's 1 - ln(100) × 2 ms ÷ 20 ms.
    let mut rows = vec![at(100.0, Some(15_000_000), 1.0), at(300.0, Some(30_000_000), 1.0)];
    for row in &mut rows {
        row.parameters.workers = 1;
        row.predicted = row.predicted.clone().map(|predicted| Predicted { servers: 1, ..predicted });
    }
    let shares = shares_of_bound(&rows);
    let ideal = (1.0 - 100f64.ln() * 2e6 / 20e6) * 500.0;
    assert!(shares[0].by_formula);
    assert!(
        matches!(shares[0].ideal_per_s, Kept::UpTo(rate) if (rate / ideal - 1.0).abs() < 1e-6),
        "{shares:?} {ideal}"
    );
    assert!(matches!(shares[0].share(), Share::Is(share) if share < 1.0));

    let without = rows.into_iter().map(|mut row| {
        row.parameters.objective = None;
        row
    });
    assert_eq!(shares_of_bound(&without.collect::<Vec<_>>()), []);
}

#[test]
fn a_run_has_recovered_when_its_latency_is_back_and_stays_so() {
    let phase = |from_s, to_s, load| Phase { from_s, to_s, load: Some(load), rate_per_s: 1.0 };
    let run = |latencies_ms: &[Option<u64>]| {
        let mut row = row();
        row.parameters.phases = vec![phase(0.0, 1.0, 0.5), phase(1.0, 2.0, 2.0), phase(2.0, 4.0, 0.5)];
        let interval = |(at, ms): (usize, &Option<u64>)| {
            let max_ns = ms.map(|ms| ms * 1_000_000);
            json!({"from_s": at as f64 / 2.0, "to_s": (at + 1) as f64 / 2.0, "p99_ns": null, "max_ns": max_ns})
        };
        row.load = Some(json!({"intervals": latencies_ms.iter().enumerate().map(interval).collect::<Vec<_>>()}));
        recovery(&row)
    };
    let some = |list: [u64; 8]| list.map(Some);
    assert_eq!(run(&some([5, 5, 90, 300, 200, 90, 20, 5])), Some(Recovery::After(1.0)));
    assert_eq!(run(&some([5, 5, 90, 300, 20, 5, 5, 5])), Some(Recovery::After(0.0)));
    assert_eq!(run(&some([5, 5, 90, 300, 5, 5, 90, 5])), Some(Recovery::After(1.5)), "it must stay so");
    assert_eq!(run(&some([5, 5, 90, 300, 300, 300, 300, 21])), Some(Recovery::NotWithin(2.0)));
    let mut silent = some([5, 5, 90, 300, 5, 5, 5, 5]);
    silent[7] = None;
    assert_eq!(run(&silent), Some(Recovery::NotWithin(2.0)), "who answers nothing is not back");
    assert_eq!(run(&[]), None);
    assert_eq!(recovery(&row()), None, "there was no overload");
}

#[test]
fn the_busiest_worker_is_told_by_the_mean() {
    let of = |server: Value| busiest_by_mean(&Row { server: Some(server), ..row() });
    let workers = |done: [u64; 4]| json!({"worker_turns": done.map(|turns| json!({"turns": turns}))});
    assert_eq!(of(workers([100; 4])), Some(1.0));
    assert_eq!(of(workers([300, 0, 0, 0])), Some(4.0));
    assert_eq!(of(json!({"worker_turns": [{"turns": 10, "calls": 20}, {"turns": 30}]})), Some(1.0));
    assert_eq!(of(workers([0; 4])), None);
    assert_eq!(of(json!({})), None);
}
