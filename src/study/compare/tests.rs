//! Comparisons of synthetic rows, with answers that are known.

use serde_json::json;

use super::super::row::tests::row;
use super::super::row::{Row, Twin};
use super::*;

/// Nine runs whose figures lie within two per cent of these.
fn study(p50: f64, p99: f64, rate: f64, cpu: f64) -> Vec<Row> {
    let run = |run: usize| {
        let about = |figure: f64| figure * (1.0 + 0.005 * (run as f64 - 4.0));
        let load = json!({
            "latency_ns": {"p50": about(p50) as u64, "p99": about(p99) as u64}, "achieved_per_s": about(rate),
            "server": {"cpu_ns_per_request": about(cpu)},
        });
        let mut row = Row { run, load: Some(load), limited_by: Vec::new(), ..row() };
        row.parameters.seed = run as u64;
        row
    };
    (0..9).map(run).collect()
}

fn compared(before: Vec<Row>, after: Vec<Row>) -> Comparison {
    Comparison::of(("A", &Side::Study(before)), ("B", &Side::Study(after)), THRESHOLD)
}

/// Those of the figures, without the shares.
fn verdicts(comparison: &Comparison) -> Vec<Verdict> {
    comparison.rows[0].changes[..4].iter().map(|change| change.verdict).collect()
}

/// The verdict on one metric.
fn verdict_on(comparison: &Comparison, metric: &str) -> Verdict {
    comparison.rows[0].changes.iter().find(|change| change.metric == metric).expect("it is a metric").verdict
}

/// The same with these counts in the run of each number.
fn with_counts(mut rows: Vec<Row>, counts: impl Fn(usize) -> (u64, u64)) -> Vec<Row> {
    for row in &mut rows {
        let (unanswered, errors) = counts(row.run);
        let load = row.load.as_mut().expect("it was measured");
        load["intended"] = json!(10_000);
        load["unanswered"] = json!(unanswered);
        load["errors"] = if errors > 0 { json!({"reset": errors}) } else { json!({}) };
    }
    rows
}

#[test]
fn a_change_counts_where_all_of_its_interval_lies_beyond_the_threshold() {
    use Verdict::{Better, NoDifference, Worse};
    let base = || study(1e6, 9e6, 500.0, 30e3);
    let table = [
        (study(1e6, 9e6, 500.0, 30e3), [NoDifference; 4], NoDifference),
        // Four per cent are within the threshold, and so is a change whose interval reaches into it.
        (study(1.04e6, 9e6, 500.0, 30e3), [NoDifference; 4], NoDifference),
        (study(1.06e6, 9e6, 500.0, 30e3), [NoDifference; 4], NoDifference),
        (study(1.2e6, 9e6, 500.0, 30e3), [Worse, NoDifference, NoDifference, NoDifference], Worse),
        (study(1e6, 12e6, 500.0, 20e3), [NoDifference, Worse, NoDifference, Better], Worse),
        (study(1e6, 9e6, 400.0, 30e3), [NoDifference, NoDifference, Worse, NoDifference], Worse),
        (study(1e6, 9e6, 600.0, 30e3), [NoDifference, NoDifference, Better, NoDifference], Better),
        (study(0.5e6, 3e6, 500.0, 30e3), [Better, Better, NoDifference, NoDifference], Better),
    ];
    for (after, metrics, row) in table {
        let comparison = compared(base(), after);
        assert_eq!((verdicts(&comparison), comparison.rows[0].verdict), (metrics.to_vec(), row), "{comparison:?}");
        assert_eq!(comparison.worse, usize::from(row == Worse));
    }
    let exact = compared(base(), study(1.2e6, 9e6, 500.0, 30e3));
    let change = &exact.rows[0].changes[0];
    assert_eq!((change.before, change.after), (Some(1e6), Some(1.2e6)));
    assert!(change.ratio.is_some_and(|ratio| (ratio - 1.2).abs() < 1e-9));
    assert!(change.interval.is_some_and(|(low, high)| 1.14 < low && high < 1.26), "{change:?}");
    assert_eq!(exact, compared(base(), study(1.2e6, 9e6, 500.0, 30e3)), "the seed decides it");
}

#[test]
fn rows_are_matched_by_what_was_asked_and_not_by_how_it_was_called() {
    let mut other = study(1e6, 9e6, 500.0, 30e3);
    for row in &mut other {
        row.configuration = "all".to_owned();
        row.parameters.server_cores = vec![0, 1, 2];
    }
    let mut more: Vec<Row> = study(1e6, 9e6, 500.0, 30e3);
    more.iter_mut().for_each(|row| {
        row.parameters.workers = 9;
        row.configuration = "workers=9".to_owned();
    });
    let comparison = compared([study(1e6, 9e6, 500.0, 30e3), more].concat(), other);
    assert_eq!(comparison.rows.len(), 1);
    assert_eq!((comparison.rows[0].runs_before, comparison.rows[0].runs_after), (9, 9));
    assert_eq!(comparison.only_before, ["workers=9 load=0.5"]);
    assert!(comparison.only_after.is_empty());
    let text = show::render(&comparison);
    assert!(text.contains("only A has: workers=9 load=0.5\n"), "{text}");
    assert!(
        text.contains("1 rows, by a threshold of 5%: 0 worse, 0 better, 1 without a difference, 0 not comparable"),
        "{text}"
    );
}

#[test]
fn few_runs_are_not_comparable_and_failures_are_worse() {
    let base = || study(1e6, 9e6, 500.0, 30e3);
    let few = compared(base(), study(9e6, 90e6, 50.0, 300e3).into_iter().take(2).collect());
    assert_eq!((few.rows[0].verdict, few.worse), (Verdict::NotComparable, 0));
    assert_eq!(few.rows[0].reason.as_deref(), Some("fewer than 3 runs on a side"));
    assert!(few.rows[0].changes[0].ratio.is_some_and(|ratio| ratio > 8.0), "the ratio is told all the same");

    let fail = |row: Row| Row { status: Status::Failed, load: None, ..row };
    let failed = compared(base(), base().into_iter().map(fail).collect());
    assert_eq!((failed.rows[0].verdict, failed.worse), (Verdict::Worse, 1));
    assert!(show::render(&failed).contains("worse: all 9 runs of B failed, none of A"), "{}", show::render(&failed));
    let some = |runs: usize| base().into_iter().map(move |row| if row.run < runs { fail(row) } else { row }).collect();
    let partly = compared(some(1), some(3));
    assert_eq!((partly.rows[0].verdict, partly.worse), (Verdict::Worse, 1));
    assert_eq!(partly.rows[0].reason.as_deref(), Some("3 of 9 runs of B failed, 1 of 9 runs of A"));
    assert!(show::render(&partly).contains("worse: 3 of 9 runs of B failed"), "{}", show::render(&partly));
    assert_eq!(compared(some(3), some(1)).worse, 0, "fewer failures are no regression");
    let mended = compared(base().into_iter().map(fail).collect(), base());
    assert_eq!(mended.rows[0].verdict, Verdict::NotComparable);

    let with_twin = |row: Row| Row { aa: true, twin: Some(Twin::Second), ..row };
    let twins = compared(base(), [base(), study(9e6, 9e6, 500.0, 30e3).into_iter().map(with_twin).collect()].concat());
    assert_eq!((twins.rows[0].runs_after, twins.worse), (9, 0), "the second of the pair is not of the row");
}

#[test]
fn a_server_that_answers_less_or_with_errors_is_worse_however_fast_the_rest_is() {
    let base = || with_counts(study(1e6, 9e6, 500.0, 30e3), |_| (0, 0));
    let faster = || study(0.5e6, 3e6, 500.0, 20e3);
    let losing = compared(base(), with_counts(faster(), |run| (400 + 10 * run as u64, 0)));
    assert_eq!(
        (verdict_on(&losing, "unserved"), verdict_on(&losing, "errors")),
        (Verdict::Worse, Verdict::NoDifference)
    );
    assert_eq!((verdict_on(&losing, "p99"), losing.rows[0].verdict), (Verdict::Better, Verdict::Worse));
    let shown = show::render(&losing);
    assert!(shown.contains("unserved") && shown.contains("+4.40%") && !shown.contains("errors"), "{shown}");
    let failing = compared(base(), with_counts(faster(), |_| (0, 500)));
    assert_eq!((verdict_on(&failing, "errors"), failing.worse), (Verdict::Worse, 1));
    assert_eq!(verdict_on(&compared(with_counts(faster(), |_| (0, 500)), base()), "errors"), Verdict::Better);

    // What one run of nine lost, and what is less than one in a thousand, fails nobody's build.
    let once = compared(base(), with_counts(faster(), |run| if run == 4 { (300, 1) } else { (0, 0) }));
    assert_eq!(verdict_on(&once, "unserved"), Verdict::NoDifference);
    let little = compared(base(), with_counts(faster(), |_| (9, 9)));
    let both = ["unserved", "errors"].map(|metric| verdict_on(&little, metric));
    assert_eq!(both, [Verdict::NoDifference; 2]);
    // Of what is overloaded anyway, as much must change as of anything else.
    let overloaded = |unserved| with_counts(faster(), move |_| (unserved, 0));
    let unserved = |before, after| verdict_on(&compared(overloaded(before), overloaded(after)), "unserved");
    assert_eq!((unserved(5_000, 5_200), unserved(5_000, 5_300)), (Verdict::NoDifference, Verdict::Worse));
    assert_eq!(unserved(5_000, 4_000), Verdict::Better);
}

#[test]
fn two_loads_are_held_to_what_was_lost_and_to_the_same_question() {
    let with = |change: &dyn Fn(&mut Value)| {
        let Side::Load(mut report) = load(100, 50_000) else { unreachable!("it is a load") };
        (report["intended"], report["errors"]) = (json!(50_000), json!({}));
        change(&mut report);
        Side::Load(report)
    };
    let compared =
        |change: &dyn Fn(&mut Value)| Comparison::of(("a.json", &with(&|_| ())), ("b.json", &with(change)), THRESHOLD);
    assert_eq!(verdict_on(&compared(&|_| ()), "unserved"), Verdict::NoDifference);
    let losing = compared(&|report| report["unanswered"] = json!(500));
    assert_eq!((verdict_on(&losing, "unserved"), losing.worse), (Verdict::Worse, 1));
    let failing = compared(&|report| report["errors"] = json!({"timeout": 900_000}));
    assert_eq!((verdict_on(&failing, "errors"), failing.worse), (Verdict::Worse, 1));
    assert_eq!(verdict_on(&compared(&|report| report["unanswered"] = json!(20)), "unserved"), Verdict::NoDifference);

    let alike =
        |one: Value, other: Value| asked::alike(("a.json", &one), ("b.json", &other)).map_err(|e| e.to_string());
    let search = |rate: f64| json!({"offered_per_s": rate, "search": {"objective": "p99=5ms"}});
    assert_eq!(alike(search(100.0), search(250.0)), Ok(()));
    let seeds = |seed| json!({"seed": seed, "threads": seed, "duration_s": 1.0, "phases": []});
    assert_eq!(alike(seeds(1), json!({})), Ok(()));
    let told = alike(json!({"depth": 1}), json!({"depth": null})).expect_err("they differ");
    assert!(told.contains("of depth a.json had 1 and b.json had null"), "{told}");
    let told = alike(search(100.0), json!({"offered_per_s": null})).expect_err("they differ");
    assert!(told.contains("of search a.json had \"p99=5ms\""), "{told}");
}

fn load(scale: u64, requests: u64) -> Side {
    let mut histogram = Histogram::new();
    let mut random = Random::new(4);
    (0..requests).for_each(|_| histogram.record(random.exponential(1e6) as u64 * scale / 100));
    let (p50, p99) = (histogram.believable_quantile(0.5), histogram.believable_quantile(0.99));
    Side::Load(Box::new(json!({
        "schema": "maitred.load/1", "target": "work=tcp://127.0.0.1:7020", "latency_ns": {"p50": p50, "p99": p99},
        "achieved_per_s": 100.0, "server": null, "histogram": histogram.to_base64(), "generator": {"saturated": false},
    })))
}

#[test]
fn two_loads_are_compared_by_their_histograms() {
    let of = |scale, requests| {
        Comparison::of(("a.json", &load(100, requests)), ("b.json", &load(scale, requests)), THRESHOLD)
    };
    let same = of(100, 50_000);
    assert_eq!(verdicts(&same)[..2], [Verdict::NoDifference, Verdict::NoDifference]);
    let slower = of(130, 50_000);
    assert_eq!(verdicts(&slower), [Verdict::Worse, Verdict::Worse, Verdict::NotComparable, Verdict::NotComparable]);
    assert_eq!(slower.worse, 1);
    // Ten per cent show with many requests; with few the tail is too uncertain to say so.
    assert_eq!(of(110, 50_000).rows[0].changes[1].verdict, Verdict::Worse);
    let few = of(110, 1_200);
    assert_eq!(few.rows[0].changes[1].verdict, Verdict::NoDifference, "{few:?}");
    assert!(show::render(&slower).contains("p99"), "{}", show::render(&slower));
}

#[test]
fn thresholds_are_percentages() {
    assert_eq!(threshold("5%").expect("it is one"), 0.05);
    assert_eq!(threshold("2.5%").expect("it is one"), 0.025);
    for text in ["5", "", "%", "-1%", "1000%", "NaN%"] {
        let told = threshold(text).expect_err(text).to_string();
        assert!(
            told.starts_with("--threshold: ") && told.ends_with("expected a percentage below 1000%, as in 5%"),
            "{told}"
        );
    }
}
