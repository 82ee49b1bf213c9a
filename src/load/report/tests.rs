//! The report's names, nulls, thresholds and verdicts.

use serde_json::{Value, json};

use super::*;
use crate::config::Scheme;
use crate::load::demand::Demand;
use crate::load::plan::{Arrivals, Framing, WorkKind};
use crate::load::recorder::ErrorKind;
use crate::load::recorder::ThreadUse;
use crate::load::target::Target;

const SECOND_NS: u64 = 1_000_000_000;

fn plan(service: Service, arrivals: Arrivals) -> Plan {
    Plan {
        target: Target { scheme: Scheme::Tcp, host: "127.0.0.1".to_owned(), port: 7007 },
        service,
        arrivals,
        depth: None,
        connections: 4,
        requests_per_connection: None,
        size_bytes: 64,
        duration: Duration::from_secs(1),
        warmup: Duration::from_millis(500),
        grace: Duration::from_secs(2),
        lost_after: Duration::from_secs(1),
        seed: 42,
        threads: 2,
        interval: None,
        pid: None,
        objective: None,
        search: false,
        phases: Vec::new(),
    }
}

fn open() -> Plan {
    plan(Service::Echo, Arrivals::Poisson { rate_per_s: 1_000.0 })
}

/// A second of `count` requests that took 1 us, 2 us and so on, each taken up at once.
fn tally(count: u64) -> Tally {
    let mut tally = Tally { window_ns: SECOND_NS, replies: count, ..Tally::default() };
    for request in 1..=count {
        tally.latency.record(request * 1_000);
        tally.service_latency.record(request * 500);
        tally.timer_error.record(100);
    }
    tally
}

fn report(tally: &Tally) -> Report {
    Report::new(&open(), tally, None, false)
}

fn json(report: &Report) -> Value {
    serde_json::to_value(report).expect("a report is JSON")
}

/// The names of an object's fields, in their order of writing.
fn names(value: &impl Serialize) -> Vec<String> {
    let text = serde_json::to_string(value).expect("it is JSON");
    let object: Value = serde_json::from_str(&text).expect("what was written reads back");
    let mut names: Vec<String> = object.as_object().expect("it is an object").keys().cloned().collect();
    names.sort_by_key(|name| text.find(&format!("\"{name}\":")));
    names
}

fn used() -> ServerUse {
    ServerUse {
        cpu_ns: SECOND_NS / 2,
        is_cpu_complete: true,
        run_delay_ns: Some(5_000),
        voluntary_switches: Some(2_000),
        involuntary_switches: None,
        rss_bytes: Some(1 << 20),
        processes: 1,
        threads: 5,
        processes_started: 0,
        processes_ended: 0,
        threads_started: 2,
        threads_ended: 1,
    }
}

#[test]
fn the_names_are_those_of_the_contract() {
    let mut tally = tally(1_000);
    tally.connect_latency.record(1);
    tally.stages.queue.record(1);
    let report = Report::new(&open(), &tally, Some(&used()), false);
    let promised = "schema target service scheme mode arrivals connections depth requests_per_connection size_bytes \
        demand kind framing seed threads warmup_s duration_s interrupted offered_per_s phases achieved_per_s requests \
        intended unsent unanswered shed deliveries errors bytes_sent bytes_received latency_ns service_latency_ns \
        connect_latency_ns stages_ns stages_at generator server slo intervals search histogram";
    assert_eq!(names(&report).join(" "), promised);
    let quantiles = "mean p50 p90 p99 p99_9 p99_99 max";
    assert_eq!(names(&report.latency_ns).join(" "), quantiles);
    assert_eq!(names(&report.stages_ns).join(" "), "late unseen queue service reply");
    assert_eq!(
        names(&report.generator).join(" "),
        "threads cpu_util run_delay_util steal_util cpu_ns_per_request saturated saturated_by late_sends timer_error_ns"
    );
    assert_eq!(
        names(&report.server).join(" "),
        "cpu_util cpu_ns_per_request voluntary_switches_per_request involuntary_switches_per_request \
         run_delay_ns_per_request rss_bytes processes threads processes_started processes_ended threads_started \
         threads_ended"
    );
    let json = json(&report);
    assert_eq!(json["schema"], "maitred.load/1");
    assert_eq!((&json["mode"], &json["arrivals"]), (&json!("open"), &json!("poisson")));
    assert_eq!(json["offered_per_s"], json!(1_000.0));
    assert_eq!(json["phases"], json!([]));
    assert_eq!(json["target"], "echo=tcp://127.0.0.1:7007");
}

#[test]
fn what_was_not_measured_or_cannot_be_believed_is_null() {
    let plan = plan(Service::Echo, Arrivals::Closed);
    let empty = json(&Report::new(&plan, &Tally::default(), None, true));
    for name in [
        "arrivals",
        "depth",
        "demand",
        "kind",
        "framing",
        "offered_per_s",
        "connect_latency_ns",
        "stages_ns",
        "stages_at",
    ] {
        assert_eq!(empty[name], Value::Null, "{name}");
    }
    assert_eq!(empty["mode"], "closed");
    assert_eq!(empty["achieved_per_s"], json!(0.0));
    assert_eq!(empty["server"], Value::Null);
    assert_eq!(empty["errors"], json!({}));
    assert_eq!(empty["latency_ns"]["mean"], Value::Null);
    assert_eq!(empty["latency_ns"]["max"], Value::Null);
    assert_eq!(empty["generator"]["cpu_ns_per_request"], Value::Null);
    for name in ["timer_error_ns", "steal_util", "saturated_by"] {
        assert_eq!(empty["generator"][name], Value::Null, "{name}");
    }
    let few = report(&tally(999)).latency_ns;
    assert!(few.p90.is_some() && few.p99.is_none() && few.max.is_some(), "{few:?}");
    assert!(report(&tally(1_000)).latency_ns.p99.is_some());
}

#[test]
fn what_belongs_to_a_service_is_there_with_it() {
    let demand = Demand::Fixed(Duration::from_micros(10));
    let work = Service::Work { demand, kind: WorkKind::Sleep };
    let work = plan(work, Arrivals::Uniform { rate_per_s: 10.0 });
    let work = json(&Report::new(&work, &tally(1), None, false));
    assert_eq!((&work["service"], &work["kind"]), (&json!("work"), &json!("sleep")));
    assert_eq!((&work["demand"], &work["arrivals"]), (&json!("fixed:10us"), &json!("uniform")));
    let chat = plan(Service::Chat { framing: Framing::Line }, Arrivals::Closed);
    assert_eq!(json(&Report::new(&chat, &tally(1), None, false))["framing"], "line");
}

#[test]
fn only_errors_that_happened_are_named() {
    let mut tally = tally(1);
    assert!(!report(&tally).has_errors());
    tally.errors.add(ErrorKind::Reset, 2);
    assert!(report(&tally).has_errors());
    assert_eq!(json(&report(&tally))["errors"], json!({ "reset": 2 }));
}

#[test]
fn the_histogram_in_it_reads_back() {
    let report = report(&tally(5_000));
    let json = json(&report);
    let text = json["histogram"].as_str().expect("it is text");
    assert_eq!(Histogram::from_base64(text), Ok(report.histogram));
}

#[test]
fn shares_are_of_the_window_and_figures_per_request_of_its_replies() {
    let mut tally = tally(1_000);
    // Twice as many were received as were intended in the window.
    tally.replies = 2_000;
    tally.window_ns = SECOND_NS / 2;
    tally.threads = vec![ThreadUse { cpu_ns: SECOND_NS / 10, run_delay_ns: SECOND_NS / 20 }; 2];
    tally.stolen_ns = Some(SECOND_NS / 8);
    let report = Report::new(&open(), &tally, Some(&used()), false);
    assert_eq!((report.requests, report.achieved_per_s, report.duration_s), (1_000, 4_000.0, 0.5));
    let generator = &report.generator;
    assert_eq!((generator.cpu_util, generator.run_delay_util, generator.steal_util), (0.4, 0.2, Some(0.25)));
    assert_eq!(generator.cpu_ns_per_request, Some(100_000.0));
    let server = report.server.expect("it was looked at");
    assert_eq!((server.cpu_util, server.cpu_ns_per_request), (Some(1.0), Some(250_000.0)));
    assert_eq!((server.voluntary_switches_per_request, server.run_delay_ns_per_request), (Some(1.0), Some(2.5)));
    assert_eq!(server.involuntary_switches_per_request, None);
    let incomplete = ServerUse { is_cpu_complete: false, ..used() };
    let server = Report::new(&open(), &tally, Some(&incomplete), false).server.expect("it was looked at");
    assert_eq!((server.cpu_util, server.cpu_ns_per_request), (None, None), "part of it would mislead");
}

#[test]
fn one_busy_thread_or_late_arrivals_are_saturation() {
    let mut tally = tally(1_000);
    let with = |cpu_ns, run_delay_ns| vec![ThreadUse::default(), ThreadUse { cpu_ns, run_delay_ns }];
    tally.threads = with(900_000_000, 49_999_999);
    assert!(!report(&tally).generator.saturated);
    tally.threads = with(900_000_000, 50_000_000);
    assert!(report(&tally).generator.saturated);
    tally.threads = with(0, 0);
    tally.late_sends = 10;
    assert!(!report(&tally).generator.saturated);
    tally.late_sends = 11;
    assert!(report(&tally).generator.saturated);
}

#[test]
fn who_was_late_is_told_why() {
    // Thousandths of the window of one thread: late sends, time on a processor, in wait for one, and taken by the host.
    let cause = |[late, run, waited, stolen]: [u64; 4]| {
        let mut tally = tally(1_000);
        tally.late_sends = late;
        tally.threads = vec![ThreadUse { cpu_ns: run * SECOND_NS / 1_000, run_delay_ns: waited * SECOND_NS / 1_000 }];
        tally.stolen_ns = Some(stolen * SECOND_NS / 1_000);
        let generator = report(&tally).generator;
        assert_eq!(json(&report(&tally))["generator"]["saturated"], json!(generator.saturated));
        generator.saturated.then_some(generator.saturated_by)
    };
    let table = [
        // A low rate on a processor that the host has taken away once, for 12 ms.
        ([12, 60, 1, 10], Some(Some(Cause::Host))),
        ([12, 60, 1, 400], Some(Some(Cause::Host))),
        ([12, 60, 30, 10], Some(Some(Cause::OtherPrograms))),
        ([12, 60, 30, 0], Some(Some(Cause::OtherPrograms))),
        // Neither comes to what twelve late sends need.
        ([12, 60, 2, 0], Some(None)),
        ([12, 60, 0, 5], Some(None)),
        ([12, 700, 1, 0], Some(Some(Cause::Itself))),
        // Twice as long late as away, since half of the time the thread was behind.
        ([20, 500, 0, 6], Some(Some(Cause::Host))),
        // Full, and nobody else is why.
        ([0, 960, 10, 30], Some(Some(Cause::Itself))),
        ([999, 900, 60, 30], Some(Some(Cause::Itself))),
        ([0, 500, 460, 30], Some(Some(Cause::OtherPrograms))),
        ([999, 500, 460, 30], Some(Some(Cause::OtherPrograms))),
        // Not in doubt, so that there is nothing to explain.
        ([10, 60, 0, 10], None),
        ([0, 900, 40, 30], None),
    ];
    for (shares, expected) in table {
        assert_eq!(cause(shares), expected, "{shares:?}");
    }
    let mut unknown = tally(1_000);
    unknown.late_sends = 100;
    let generator = report(&unknown).generator;
    assert_eq!((generator.saturated, generator.saturated_by, generator.steal_util), (true, None, None));
    assert_eq!(json!([Cause::Itself, Cause::OtherPrograms, Cause::Host]), json!(["itself", "other_programs", "host"]));
}

#[test]
fn a_request_without_an_answer_is_longer_than_any_objective() {
    // The p99 of 1 us to 2000 us is 1980 us.
    let verdict = |tally: &Tally, text: &str| report(tally).verdict(&Objective::parse(text).expect("it is right"));
    let found = verdict(&tally(2_000), "p99=2ms");
    assert!(found.met && found.quantile_ns.is_some_and(|ns| ns.abs_diff(1_980_000) < 2_000), "{found:?}");
    let found = verdict(&tally(2_000), "p99=1979us");
    assert!(!found.met && found.quantile_ns.is_some(), "{found:?}");
    assert_eq!(found.reason.as_deref(), Some("above 1979us"));

    let found = verdict(&tally(999), "p99=1s");
    assert_eq!((found.met, found.quantile_ns), (false, None));
    assert_eq!(found.reason.as_deref(), Some("999 requests are too few"));
    assert!(!verdict(&Tally::default(), "p50=1s").met);

    // 10 missing of 2010 push the p99 up by 10 requests and less; 21 of 2021 are more than one in a hundred.
    for count in [10, 21] {
        let mut some_unsent = tally(2_000);
        some_unsent.unsent = count;
        let mut some_shed = tally(2_000);
        some_shed.shed = count;
        let mut some_lost = tally(2_000);
        some_lost.unanswered = count;
        // What went wrong outside the window, or more than once with one request, does not count here.
        some_lost.errors.add(ErrorKind::Lost, 7 * count);
        for tally in [some_unsent, some_shed, some_lost] {
            let found = verdict(&tally, "p99=30s");
            if count == 10 {
                assert!(found.met && found.quantile_ns.is_some_and(|ns| ns.abs_diff(1_990_000) < 2_000), "{found:?}");
            } else {
                assert_eq!((found.met, found.quantile_ns), (false, None));
                assert_eq!(found.reason.as_deref(), Some("1.04 % unanswered"));
            }
        }
    }
}

#[test]
fn an_objective_without_a_search_is_judged_as_well() {
    let plan = Plan { objective: Some(Objective::parse("p50=1ms").expect("it is right")), ..open() };
    let json = json(&Report::new(&plan, &tally(100), None, false));
    assert_eq!((&json["slo"]["text"], &json["slo"]["met"]), (&json!("p50=1ms"), &json!(true)));
}

#[test]
fn a_piece_of_the_window_has_its_own_figures() {
    let mut count = Count { latency: tally(1_000).latency, ..Count::default() };
    count.errors.add(ErrorKind::Closed, 3);
    let interval = Interval::new(0.5, 1.0, &count);
    assert_eq!((interval.requests, interval.achieved_per_s, interval.errors), (1_000, 2_000.0, 3));
    assert_eq!(interval.max_ns, Some(count.latency.max()));
    let empty = Interval::new(1.0, 1.0, &Count::default());
    assert_eq!((empty.achieved_per_s, empty.p50_ns, empty.max_ns), (0.0, None, None));
}

#[test]
fn a_search_says_when_the_generator_was_its_limit() {
    let objective = Objective::parse("p99=1ms").expect("it is right");
    let point = |rate_per_s, met, saturated| SearchPoint {
        rate_per_s,
        achieved_per_s: rate_per_s,
        quantile_ns: None,
        met,
        saturated,
        reason: None,
        errors: Errors::default(),
    };
    let limit =
        |points: &[SearchPoint]| SearchReport::new(&objective, Some(1.0), Some(2.0), points.to_vec()).limited_by;
    assert_eq!(limit(&[point(1.0, true, true), point(2.0, false, false)]), None);
    assert_eq!(limit(&[point(1.0, true, false), point(2.0, false, true), point(2.0, false, false)]), None);
    assert_eq!(limit(&[point(1.0, true, false), point(2.0, false, true)]), Some("generator"));
    assert_eq!(SearchReport::new(&objective, None, None, Vec::new()).limited_by, None);
}

#[test]
fn phases_say_what_was_offered_when() {
    let phase = |factor, ms| Phase { factor, length: Duration::from_millis(ms) };
    let plan = Plan { phases: vec![phase(0.5, 200), phase(2.0, 300)], ..open() };
    let json = serde_json::to_value(Report::new(&plan, &tally(10), None, false)).expect("a report is JSON");
    let expected = json!([
        {"from_s": 0.0, "to_s": 0.2, "offered_per_s": 500.0},
        {"from_s": 0.2, "to_s": 0.5, "offered_per_s": 2_000.0},
    ]);
    assert_eq!(json["phases"], expected);
}

#[test]
fn the_stages_of_a_quantile_are_told_where_ten_lie_beyond_it() {
    let mut tally = tally(10);
    (0..1_000).for_each(|_| tally.breakdown.record([1, 20, 300, 4_000, 50_000]));
    let json = serde_json::to_value(Report::new(&open(), &tally, None, false)).expect("a report is JSON");
    let means = json!({"late": 1.0, "unseen": 20.0, "queue": 300.0, "service": 4_000.0, "reply": 50_000.0});
    assert_eq!(json["stages_at"], json!({"p50": means, "p90": means, "p99": means, "p99_9": null}));
    assert_eq!(names(&StagesAt::of(&tally.breakdown)).join(" "), "p50 p90 p99 p99_9");
}
