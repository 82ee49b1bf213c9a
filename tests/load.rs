//! `maitred load` as a script sees it: what it reports of right servers, and what its flags do.
//!
//! How it ends, and what it writes where, is in `load_output.rs`; what it finds in wrong servers, in `load_faults.rs`; what its flags amount to, in `load_usage.rs`.

#[path = "support/client.rs"]
mod client;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/servers/mod.rs"]
mod servers;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use load::{check_all, report, right, run};
use process::Process;
use servers::Server;
use servers::chat::{self, Framing, chat, chat_after};
use servers::datagrams;
use servers::streams::{self, Fault};
use servers::work::{self, Stamps, Work};

fn echo() -> Server {
    streams::echo(Fault::Nothing)
}

fn tcp(server: &Server) -> String {
    format!("tcp://{}", server.address)
}

fn udp(server: &Server) -> String {
    format!("udp://{}", server.address)
}

#[test]
fn both_loops_over_both_transports_are_answered_in_full() {
    let table: &[&[&str]] = &[
        &[],
        &["--connections", "20"],
        &["--connections", "3", "--depth", "8", "--size", "1000"],
        &["--connections", "5", "--rate", "500"],
        &["--connections", "5", "--rate", "500", "--arrivals", "uniform", "--depth", "1"],
        &["--connections", "6", "--threads", "2"],
        &["--connections", "6", "--rate", "500", "--threads", "2", "--size", "8"],
    ];
    let rows = table.iter().flat_map(|flags| [(flags, false), (flags, true)]);
    check_all(rows, |(flags, is_udp)| {
        let server = if is_udp { datagrams::echo(datagrams::Fault::Nothing) } else { echo() };
        let target = if is_udp { udp(&server) } else { tcp(&server) };
        let report = right(&target, flags);
        let is_open = flags.contains(&"--rate");
        assert_eq!(report.at("mode"), if is_open { "open" } else { "closed" });
        assert_eq!(report.at("offered_per_s").is_null(), !is_open, "{report:?}");
        assert!(report.at("stages_ns").is_null(), "{report:?}");
        let counts = server.finish();
        // What was sent before the window is not in the report.
        assert_eq!(counts.bytes_read, counts.bytes_written, "all that was sent was waited for");
        assert!(counts.bytes_read > 0, "{flags:?}");
        assert!(counts.bytes_read >= report.count("requests") * report.count("size_bytes"), "{counts:?}: {report:?}");
    });
}

#[test]
fn a_closed_loop_goes_on_to_the_end_of_its_window() {
    // Long enough that the machine has time for it.
    let server = echo();
    let report = right(&tcp(&server), &["--connections", "3", "--duration", "2s"]);
    assert!(report.number("achieved_per_s") > 0.0 && report.count("requests") > 3, "{report:?}");
    assert!(report.count("bytes_received") > 0 && report.count("bytes_sent") > 0, "{report:?}");
    assert!(report.number("latency_ns.mean") > 0.0 && report.number("duration_s") > 0.0, "{report:?}");
}

#[test]
fn many_connections_with_many_requests_each_are_answered_in_full() {
    let server = echo();
    let report = right(&tcp(&server), &["--connections", "200", "--depth", "8", "--size", "2KiB"]);
    assert_eq!((report.count("connections"), report.count("depth")), (200, 8));
    assert_eq!(server.finish().accepted % 200, 0);
    // As short as can be, and longer than any buffer of the generator.
    right(&tcp(&echo()), &["--connections", "3", "--depth", "50", "--size", "1"]);
    right(&tcp(&echo()), &["--connections", "3", "--depth", "2", "--size", "1MiB"]);
}

#[test]
fn a_report_has_all_its_fields() {
    let server = Process::serve(&["--listen", "echo=tcp://127.0.0.1:0"]);
    let pid = server.pid().as_raw_nonzero().to_string();
    let target = format!("tcp://{}", server.address());
    let flags = ["--rate", "2000", "--connections", "2", "--seed", "7", "--slo", "p90=30s", "--interval", "100ms"];
    let open = right(&target, &[&flags[..], &["--pid", &pid]].concat());
    let closed = right(&target, &["--depth", "2"]);
    let rounds = Work::default().tcp();
    let flags = ["--demand", "exp:100us", "--kind", "sleep", "--rate", "500"];
    let rounds = right(&format!("work=tcp://{}", rounds.address), &flags);

    for (name, text) in [
        ("schema", "maitred.load/1"),
        ("target", &format!("echo={target}")),
        ("service", "echo"),
        ("scheme", "tcp"),
        ("mode", "open"),
        ("arrivals", "poisson"),
        ("slo.text", "p90=30s"),
    ] {
        assert_eq!(open.at(name), text);
    }
    for (name, count) in [("connections", 2), ("size_bytes", 64), ("seed", 7), ("threads", 1)] {
        assert_eq!(open.count(name), count);
    }
    for (name, number) in [("offered_per_s", 2000.0), ("warmup_s", 0.05)] {
        assert_eq!(open.number(name), number);
    }
    assert_eq!((open.at("interrupted"), open.at("slo.met")), (&Value::Bool(false), &Value::Bool(true)));
    assert_eq!((open.count("server.processes"), open.count("deliveries"), open.count("shed")), (1, 0, 0));
    for name in ["requests", "bytes_sent", "bytes_received", "server.rss_bytes", "server.threads"] {
        assert!(open.count(name) > 0, "{name}");
    }
    for name in ["unsent", "generator.late_sends", "server.processes_started", "server.threads_ended"] {
        assert!(open.at(name).is_u64(), "{name}");
    }
    let numbers = ["duration_s", "achieved_per_s", "generator.cpu_util", "generator.cpu_ns_per_request"];
    let used =
        ["cpu_util", "cpu_ns_per_request", "voluntary_switches_per_request"].map(|name| format!("server.{name}"));
    for name in numbers.into_iter().chain(used.iter().map(String::as_str)) {
        assert!(open.number(name) > 0.0, "{name}");
    }
    for name in ["server.involuntary_switches_per_request", "server.run_delay_ns_per_request"] {
        assert!(open.number(name) >= 0.0, "{name}");
    }
    assert!(open.at("generator.saturated").is_boolean() && open.number("generator.steal_util") >= 0.0);
    let causes = [Value::Null, Value::from("itself"), Value::from("other_programs"), Value::from("host")];
    assert!(causes.contains(open.at("generator.saturated_by")), "{open:?}");
    for name in ["p50_ns", "p99_ns", "max_ns", "achieved_per_s", "errors", "requests"] {
        assert!(open.at("intervals.0").get(name).is_some(), "{name}");
    }

    let stages = ["late", "unseen", "queue", "service", "reply"].map(|name| (&rounds, format!("stages_ns.{name}")));
    let latencies = ["latency_ns", "service_latency_ns", "connect_latency_ns"].map(|name| (&open, name.to_owned()));
    for (report, distribution) in latencies.iter().chain(&stages) {
        for quantile in ["p50", "p90", "p99", "p99_9", "p99_99"] {
            let value = report.at(&format!("{distribution}.{quantile}"));
            assert!(value.is_null() || value.is_u64(), "{distribution} {quantile}");
        }
        assert!(report.at(&format!("{distribution}.mean")).is_number(), "{distribution}");
        assert!(report.at(&format!("{distribution}.max")).is_u64(), "{distribution}");
    }
    assert!(open.at("latency_ns.p90").is_u64() && open.at("latency_ns.p99_99").is_null(), "{open:?}");
    assert!(open.at("generator.timer_error_ns.p50").is_u64());

    for name in ["depth", "stages_ns", "demand", "kind", "framing", "requests_per_connection", "search", "slo.reason"] {
        assert!(open.at(name).is_null(), "{name}");
    }
    for name in ["offered_per_s", "arrivals", "server", "slo", "generator.timer_error_ns"] {
        assert!(closed.at(name).is_null(), "{name}");
    }
    assert_eq!((closed.at("mode"), closed.count("depth")), (&Value::from("closed"), 2));
    assert_eq!(closed.at("intervals"), &Value::Array(Vec::new()));
    assert_eq!((rounds.at("demand"), rounds.at("kind")), (&Value::from("exp:100us"), &Value::from("sleep")));
}

#[test]
fn a_process_that_is_not_there_cannot_be_watched() {
    let server = echo();
    // One more than the largest that Linux gives.
    let outcome = run(&tcp(&server), &["--pid", "4194304", "--json"]);
    let message = outcome.complaint(1);
    assert!(message.contains("process 4194304"), "{message}");
}

#[test]
fn the_latency_counts_from_the_time_a_request_was_due() {
    let pause = Duration::from_millis(300);
    let rows = [&[][..], &["--depth", "1"], &["--depth", "1", "--threads", "2", "--connections", "2"]];
    check_all(rows, |flags| {
        // About the hundredth request of four hundred: the next two hundred find the server silent.
        let server = streams::echo(Fault::Stall { at: 6_400, pause });
        let uniform = ["--rate", "1000", "--arrivals", "uniform", "--duration", "400ms", "--warmup", "0"];
        let report = right(&tcp(&server), &[&uniform[..], flags].concat());
        assert_eq!(report.count("requests"), 400, "{report:?}");
        // All that were due in the first two thirds of the pause waited for more than a third of it: half of all.
        let p90 = Duration::from_nanos(report.count("latency_ns.p90"));
        assert!(p90 > pause / 3, "{p90:?}: {report:?}");
        assert!(Duration::from_nanos(report.count("latency_ns.max")) >= pause * 9 / 10, "{report:?}");
    });
    // A closed loop does not know what it did not send. Its first request is in the window if that is long enough.
    let server = streams::echo(Fault::Stall { at: 1, pause });
    let report = right(&tcp(&server), &["--warmup", "0", "--duration", "2s"]);
    assert!(Duration::from_nanos(report.count("latency_ns.max")) >= pause * 9 / 10, "{report:?}");
}

/// What each connection sends, and how many of the requests in the window were answered.
fn trace(server: &Server, target: &str, flags: &[&str]) -> (Vec<Vec<u8>>, u64) {
    server.keep_traces();
    let requests = right(target, flags).count("requests");
    (server.traces(), requests)
}

#[test]
fn a_seed_decides_what_is_sent_and_when() {
    let rows = ["poisson", "uniform"].into_iter().flat_map(|arrivals| [(arrivals, false), (arrivals, true)]);
    check_all(rows, |(arrivals, is_work)| {
        let sent = |seed: &str, threads: &str| {
            let common = ["--rate", "1000", "--connections", "7", "--warmup", "0", "--arrivals", arrivals];
            let flags = [&common[..], &["--seed", seed, "--threads", threads]].concat();
            if is_work {
                let server = Work::default().tcp();
                let work = ["--demand", "exp:10us", "--kind", "sleep"];
                trace(&server, &format!("work={}", tcp(&server)), &[&flags[..], &work].concat())
            } else {
                let server = echo();
                trace(&server, &tcp(&server), &flags)
            }
        };
        let (first, requests) = sent("1", "1");
        assert!(arrivals != "uniform" || requests == 300, "a thousand a second");
        let bytes: usize = first.iter().map(Vec::len).sum();
        // A request of work has 24 bytes before its payload.
        let frame = if is_work { 24 + 64 } else { 64 };
        assert_eq!((first.len(), bytes as u64), (7, requests * frame), "{arrivals}: there is no warm-up");
        for threads in ["1", "2"] {
            // Not with `assert_eq`: nobody wants to read the bytes.
            assert!(sent("1", threads) == (first.clone(), requests), "{arrivals} work {is_work}: {threads} threads");
        }
        let (other, _) = sent("2", "1");
        assert!(first != other, "{arrivals} work {is_work}");
        if is_work {
            assert_ne!(demands_ns(&first, frame as usize), demands_ns(&other, frame as usize), "{arrivals}");
        }
        let lengths = |trace: &[Vec<u8>]| trace.iter().map(Vec::len).collect::<BTreeSet<_>>();
        assert_ne!(lengths(&first), lengths(&other), "{arrivals}: others have more and fewer");
    });
}

/// The times that these requests of `work` ask for, rising; not more than a few of them are alike.
#[track_caller]
fn demands_ns(trace: &[Vec<u8>], frame: usize) -> BTreeSet<u64> {
    let frames = trace.iter().flat_map(|bytes| bytes.chunks_exact(frame));
    let demand_ns = |frame: &[u8]| u64::from_be_bytes(frame[12..20].try_into().expect("eight bytes"));
    let demands: BTreeSet<u64> = frames.clone().map(demand_ns).collect();
    assert!(demands.len() * 10 > frames.count() * 9, "exponential");
    demands
}

#[test]
fn a_new_connection_for_every_few_requests() {
    let rows = [("1", &[][..]), ("1", &["--connections", "4"]), ("3", &["--rate", "500", "--connections", "4"])];
    check_all(rows, |(each, more)| {
        let server = echo();
        let report = right(&tcp(&server), &[&["--requests-per-connection", each][..], more].concat());
        let counts = server.finish();
        let requests = counts.bytes_read / report.count("size_bytes");
        let each: u64 = each.parse().expect("a number");
        assert!(requests > 0 && requests >= report.count("requests"), "{counts:?}: {report:?}");
        // The last one of each slot may have some requests left.
        let connections = requests.div_ceil(each)..=requests.div_ceil(each) + report.count("connections");
        assert!(connections.contains(&counts.accepted), "{counts:?}: {report:?}");
        assert!(report.at("mode") == "closed" || report.number("connect_latency_ns.mean") > 0.0, "{report:?}");
    });
}

#[test]
fn discard_is_sent_to_and_never_answered() {
    check_all([&["--connections", "3"][..], &["--rate", "500", "--size", "5000"]], |flags| {
        let server = streams::discard();
        let report = right(&format!("discard={}", tcp(&server)), flags);
        let counts = server.finish();
        assert_eq!(report.count("bytes_received"), 0);
        let size = report.count("size_bytes");
        assert!(
            counts.bytes_read > 0 && counts.bytes_read >= report.count("requests") * size,
            "{counts:?}: {report:?}"
        );
        assert_eq!(counts.bytes_read % size, 0, "whole requests: {counts:?}");
    });
    let server = datagrams::echo(datagrams::Fault::Swallow);
    right(&format!("discard={}", udp(&server)), &["--rate", "500"]);
}

#[test]
fn work_asks_for_its_time_and_knows_where_it_went() {
    let demands = ["fixed:1ms", "exp:200us", "bimodal:90%:100us,10%:2ms", "lognormal:200us:1.0", "fixed:0"];
    let rows = demands.into_iter().enumerate().flat_map(|(at, demand)| {
        let rows = [
            // Of a closed loop that is long enough to have replies, one will do.
            match at {
                0 => (&["--connections", "2", "--depth", "4", "--kind", "sleep", "--duration", "1s"][..], false),
                _ => (&["--rate", "200", "--connections", "2", "--depth", "4", "--kind", "sleep"][..], at % 2 == 0),
            },
            (&["--rate", "200", "--kind", "spin", "--size", "0"], at % 2 == 1),
            (&["--rate", "200", "--kind", "hash", "--connections", "3"], at % 2 == 0),
        ];
        rows.map(|(flags, is_udp)| (demand, flags, is_udp))
    });
    check_all(rows, |(demand, flags, is_udp)| {
        let server = if is_udp { Work::default().udp() } else { Work::default().tcp() };
        let target = format!("work={}", if is_udp { udp(&server) } else { tcp(&server) });
        let report = right(&target, &[flags, &["--demand", demand]].concat());
        let stage = |name: &str| report.number(&format!("stages_ns.{name}.mean"));
        let sum: f64 = ["late", "unseen", "queue", "service", "reply"].into_iter().map(stage).sum();
        let mean = report.number("latency_ns.mean");
        // Three digits each.
        assert!((sum - mean).abs() < mean / 100.0, "{sum} {mean} {demand} {target} {flags:?}: {report:?}");
        let of_body = |name: &str| report.number(&format!("stages_at.p50.{name}"));
        let body: f64 = ["late", "unseen", "queue", "service", "reply"].into_iter().map(of_body).sum();
        assert!(0.0 < body && body <= report.number("latency_ns.max") * 1.001, "{body}: {report:?}");
        if demand == "fixed:1ms" {
            assert!(report.count("stages_ns.service.p50") > 998_000, "{report:?}");
            assert!(of_body("service") > 998_000.0, "{report:?}");
        }
    });
}

#[test]
fn work_without_stamps_has_no_stages() {
    for (stamps, known) in [(Stamps::Absent, &[][..]), (Stamps::Unknown, &["late"])] {
        let server = Work { stamps, ..Work::default() }.tcp();
        let report = right(&format!("work={}", tcp(&server)), &["--demand", "exp:100us", "--rate", "500"]);
        if known.is_empty() {
            assert!(report.at("stages_ns").is_null(), "{report:?}");
            continue;
        }
        for name in ["late", "unseen", "queue", "service", "reply"] {
            let mean = report.at(&format!("stages_ns.{name}.mean"));
            assert_eq!(mean.is_number(), known.contains(&name), "{name}: {report:?}");
        }
    }
}

#[test]
fn work_that_is_shed_is_counted_and_not_timed() {
    let server = Work { fault: work::Fault::ShedEvery(4), ..Work::default() }.tcp();
    let uniform = ["--rate", "1000", "--arrivals", "uniform", "--warmup", "0"];
    let flags = ["--connections", "3", "--demand", "exp:100us", "--kind", "sleep"];
    let report = right(&format!("work={}", tcp(&server)), &[&uniform[..], &flags].concat());
    let counts = ["intended", "requests", "shed"].map(|name| report.count(name));
    assert_eq!(counts, [300, 225, 75], "every fourth: {report:?}");
}

#[test]
fn chat_reaches_everybody() {
    let members = [&["--connections", "5"][..], &["--connections", "40", "--rate", "200", "--size", "300"]];
    let mut rows: Vec<_> = members.map(|flags| (Framing::Length, flags)).into();
    rows.extend(members.map(|flags| (Framing::Line, flags)));
    // More than one read takes, and the longest line.
    rows.push((Framing::Length, &["--connections", "3", "--rate", "50", "--size", "200KiB"]));
    rows.push((Framing::Length, &["--connections", "3", "--depth", "2", "--size", "200KiB"]));
    rows.push((Framing::Line, &["--connections", "3", "--rate", "50", "--size", "8191"]));
    check_all(rows, |(framing, flags)| {
        let name = if framing == Framing::Length { "length" } else { "line" };
        let server = chat(framing, chat::Fault::Nothing);
        let patient = ["--framing", name, "--lost-after", "60s"];
        let report = right(&format!("chat={}", tcp(&server)), &[flags, &patient].concat());
        let others = report.count("connections") - 1;
        // In a window that is short, what was sent before it arrives, too.
        assert!(report.at("mode") == "closed" || report.count("deliveries") > others, "{report:?}");
    });
}

#[test]
fn a_probe_that_is_half_sent_when_the_room_is_full_is_sent_to_its_end() {
    // The first probe fits into the kernel's buffers and the second does not: it is on its way when the first is heard.
    let server = chat_after(Duration::from_millis(100), Framing::Length, chat::Fault::Nothing);
    let flags = ["--connections", "3", "--rate", "60", "--size", "3MiB", "--lost-after", "60s"];
    right(&format!("chat={}", tcp(&server)), &flags);
}

#[test]
fn what_is_on_its_way_when_chat_ends_is_not_missing() {
    let rows = [&["--connections", "5", "--depth", "4"][..], &["--connections", "5", "--rate", "2000"]];
    check_all(rows, |flags| {
        let server = chat(Framing::Length, chat::Fault::Nothing);
        let flags = [flags, &["--grace", "0", "--lost-after", "60s"]].concat();
        let report = report(&format!("chat={}", tcp(&server)), &flags);
        assert!(report.errors().keys().all(|kind| kind == "unanswered"), "{report:?}");
        assert!(report.count("unanswered") <= report.error("unanswered"), "{report:?}");
        if report.at("mode") == "closed" {
            assert!(report.error("unanswered") <= 5 * 4, "no more are in flight: {report:?}");
        }
    });
}

#[test]
fn an_objective_is_judged() {
    let server = echo();
    let kept = right(&tcp(&server), &["--rate", "500", "--slo", "p50=30s"]);
    assert_eq!((kept.at("slo.met"), kept.at("slo.reason")), (&Value::Bool(true), &Value::Null));
    let missed = right(&tcp(&server), &["--rate", "500", "--slo", "p50=1ns"]);
    assert!(missed.at("slo.met") == false && missed.at("slo.reason").is_string(), "{missed:?}");
    // Every other request is never answered: three of four are not answered in time.
    let server = datagrams::echo(datagrams::Fault::DropEvery(2));
    let report = report(&udp(&server), &["--rate", "500", "--slo", "p75=30s", "--lost-after", "100ms"]);
    assert!(report.at("slo.met") == false && report.at("slo.quantile_ns").is_null(), "{report:?}");
}

#[test]
fn a_search_finds_what_the_server_can_bear() {
    // One worker that sleeps a millisecond a request: never more than a thousand a second, however fast the machine.
    let server = Work { workers: 1, ..Work::default() }.tcp();
    let flags =
        ["--demand", "fixed:1ms", "--kind", "sleep", "--rate", "500", "--slo", "p50=10ms", "--search", "--quiet"];
    let target = format!("work={}", tcp(&server));
    // A backlog need not be waited for: what is not answered is longer than anything.
    let brief = ["--duration", "100ms", "--warmup", "0", "--grace", "50ms"];
    let report = report(&target, &[&flags[..], &brief].concat());
    let points = report.at("search.points").as_array().expect("a list");
    assert!(!points.is_empty() && report.at("search.objective") == "p50=10ms", "{report:?}");
    // In its shortest run a backlog that grows by a third of what is offered is felt.
    assert!(report.at("search.low_per_s").as_f64().is_none_or(|low| low < 1_500.0), "{report:?}");
    assert!(report.at("search.high_per_s").is_number(), "{report:?}");
}
