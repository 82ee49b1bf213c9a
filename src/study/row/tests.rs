//! Rows for tests, here and in the modules that read rows; and that a row is what its line says.

use serde_json::json;

use super::*;

/// A row as a study of sleeping requests writes it, which a test changes where it needs to.
pub(crate) fn row() -> Row {
    Row {
        schema: SCHEMA.to_owned(),
        run: 3,
        repeat: 1,
        order: 7,
        status: Status::Ok,
        reason: None,
        aa: false,
        twin: None,
        configuration: "engine=pool workers=2".to_owned(),
        point: "load=0.5".to_owned(),
        parameters: Parameters {
            engine: "pool".to_owned(),
            workers: 2,
            service: "work".to_owned(),
            demand: Some("exp:2ms".to_owned()),
            demand_mean_ns: Some(2e6),
            kind: Some("sleep".to_owned()),
            load: Some(0.5),
            capacity_per_s: Some(1_000.0),
            rate_per_s: Some(500.0),
            arrivals: "poisson".to_owned(),
            phases: Vec::new(),
            connections: 16,
            depth: None,
            requests_per_connection: None,
            size_bytes: 64,
            duration_s: 3.0,
            warmup_s: 0.5,
            cooldown_s: 0.1,
            seed: 0xffff_ffff_ffff_fff1,
            pin: Pin::Split,
            server_cores: vec![0],
            load_cores: vec![1],
            objective: Some("p99=20ms".to_owned()),
            options: BTreeMap::from([("rearm".to_owned(), "oneshot".to_owned())]),
        },
        limited_by: vec![Limit::Generator],
        load: Some(json!({
            "schema": "maitred.load/1", "achieved_per_s": 499.3333333333333, "requests": 1_498,
            "latency_ns": {"mean": 2_700_123.1, "p50": 2_000_000, "p99": 9_000_000, "p99_9": null},
            "server": {"cpu_ns_per_request": 31_000.5},
        })),
        server: Some(json!({"schema": "maitred.summary/1", "poller": {"wakes": 12}})),
        effort: Some(Effort {
            system_calls_per_request: Some(4.25),
            queue_empty_share: Some(0.5),
            queue_depth_p99: None,
        }),
        predicted: Some(Predicted {
            system: "one queue, 2 servers".to_owned(),
            by: "formula".to_owned(),
            servers: 2,
            utilization: 0.5,
            sojourn_ns: Sojourn { mean: Some(2_666_666.6666666665), p99: None, ..Sojourn::default() },
        }),
    }
}

#[test]
fn a_row_reads_back_as_the_same_row_and_writes_the_same_bytes() {
    let mut failed = row();
    failed.status = Status::Failed;
    failed.reason = Some("the server said nothing\nfor 5s".to_owned());
    (failed.load, failed.server, failed.effort, failed.predicted) = (None, None, None, None);
    (failed.aa, failed.twin) = (true, Some(Twin::Second));
    failed.parameters.phases = vec![Phase { from_s: 0.0, to_s: 0.1, load: Some(2.0), rate_per_s: 1.0 / 3.0 }];
    for row in [row(), failed] {
        let line = row.to_line();
        assert!(!line.contains('\n'), "{line}");
        let read = Row::from_line(&line).unwrap_or_else(|problem| panic!("{problem}: {line}"));
        assert_eq!(read, row);
        assert_eq!(read.to_line(), line);
    }
}

#[test]
fn numbers_keep_their_last_bit_on_the_way_through_a_line() {
    // Neighbours of numbers that need all seventeen digits, which a quick reader of JSON rounds away.
    let mut random = crate::random::Random::new(7);
    for _ in 0..2_000 {
        let mut row = row();
        let exact = random.uniform() * 1e9;
        row.load = Some(json!({ "achieved_per_s": exact }));
        let read = Row::from_line(&row.to_line()).expect("it was a row");
        assert_eq!(read.figure("load.achieved_per_s"), Some(exact));
    }
}

#[test]
fn figures_are_found_by_their_path_and_what_is_absent_is_none() {
    let row = row();
    let table = [
        ("load.latency_ns.p99", Some(9e6)),
        ("load.achieved_per_s", Some(499.3333333333333)),
        ("load.server.cpu_ns_per_request", Some(31_000.5)),
        ("server.poller.wakes", Some(12.0)),
        ("effort.system_calls_per_request", Some(4.25)),
        ("predicted.sojourn_ns.mean", Some(2_666_666.6666666665)),
        ("predicted.utilization", Some(0.5)),
        ("parameters.workers", Some(2.0)),
        ("load.latency_ns.p99_9", None),
        ("effort.queue_depth_p99", None),
        ("predicted.sojourn_ns.p99", None),
        ("load.latency_ns", None),
        ("load.schema", None),
        ("load.latency_ns.p99.more", None),
        ("parameters.depth", None),
        ("run", None),
        ("elsewhere.p99", None),
        ("", None),
    ];
    for (path, figure) in table {
        assert_eq!(row.figure(path), figure, "{path}");
    }
    let empty = Row { load: None, effort: None, ..row };
    assert_eq!(empty.figure("load.latency_ns.p99"), None);
    assert_eq!(empty.figure("effort.system_calls_per_request"), None);
    assert!(!empty.to_line().contains("effort"), "a row without it is as it was before there was any");
    assert_eq!(Row::from_line(&empty.to_line()).as_ref(), Ok(&empty));
}

#[test]
fn what_this_version_does_not_know_of_a_load_stays_and_another_format_is_refused() {
    let mut row = row();
    row.load = Some(json!({"stage_of_tomorrow": {"p50": 1}}));
    let read = Row::from_line(&row.to_line()).expect("it is a row");
    assert_eq!(read.figure("load.stage_of_tomorrow.p50"), Some(1.0));

    row.schema = "maitred.row/2".to_owned();
    assert_eq!(Row::from_line(&row.to_line()), Err("its schema is maitred.row/2, not maitred.row/1".to_owned()));
    let torn = &row.to_line()[..40];
    assert!(Row::from_line(torn).is_err_and(|problem| problem.contains("EOF")), "{torn}");
    assert!(Row::from_line("{}").is_err_and(|problem| problem.contains("schema")));
}

#[test]
fn the_second_twin_and_failed_runs_are_not_of_the_grid() {
    let first = Row { aa: true, twin: Some(Twin::First), ..row() };
    let second = Row { aa: true, twin: Some(Twin::Second), ..row() };
    let failed = Row { status: Status::Failed, ..row() };
    assert_eq!([row(), first, second, failed].map(|row| row.counts()), [true, true, false, false]);
}
