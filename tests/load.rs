//! `maitred load` as a script sees it: what it reports of right servers, what its flags do, and how it ends.
//!
//! What it finds in wrong servers is in `load_faults.rs`; what its flags amount to, in `load_usage.rs`.

#[path = "support/client.rs"]
mod client;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/servers/mod.rs"]
mod servers;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use client::wait_until;
use load::{Report, arguments, command, report, right, run, start};
use process::Process;
use servers::chat::{self, Framing, chat};
use servers::datagrams;
use servers::streams::{self, Fault};
use servers::work::{self, Stamps, Work};
use servers::{Nobody, Server};

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
    for flags in table {
        for is_udp in [false, true] {
            let server = if is_udp { datagrams::echo(datagrams::Fault::Nothing) } else { echo() };
            let target = if is_udp { udp(&server) } else { tcp(&server) };
            let report = right(&target, flags);
            let is_open = flags.contains(&"--rate");
            assert_eq!(report.at("mode"), if is_open { "open" } else { "closed" });
            assert_eq!(report.at("offered_per_s").is_null(), !is_open, "{report:?}");
            assert!(report.number("achieved_per_s") > 0.0);
            assert!(report.count("bytes_received") > 0 && report.at("stages_ns").is_null(), "{report:?}");
            let counts = server.finish();
            // What was sent before the window is not in the report.
            assert_eq!(counts.bytes_read, counts.bytes_written, "all that was sent was waited for");
            assert!(
                counts.bytes_read >= report.count("requests") * report.count("size_bytes"),
                "{counts:?}: {report:?}"
            );
        }
    }
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
    let rounds = right(&format!("work=tcp://{}", rounds.address), &["--demand", "exp:100us", "--kind", "sleep"]);

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
    assert!(open.at("generator.saturated").is_boolean());
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
    for flags in [&[][..], &["--depth", "1"], &["--depth", "1", "--threads", "2", "--connections", "2"]] {
        // About the hundredth request of four hundred: the next two hundred find the server silent.
        let server = streams::echo(Fault::Stall { at: 6_400, pause });
        let uniform = ["--rate", "1000", "--arrivals", "uniform", "--duration", "400ms", "--warmup", "0"];
        let report = right(&tcp(&server), &[&uniform[..], flags].concat());
        assert_eq!(report.count("requests"), 400, "{report:?}");
        // All that were due in the first two thirds of the pause waited for more than a third of it: half of all.
        let p90 = Duration::from_nanos(report.count("latency_ns.p90"));
        assert!(p90 > pause / 3, "{p90:?}: {report:?}");
        assert!(Duration::from_nanos(report.count("latency_ns.max")) >= pause * 9 / 10, "{report:?}");
    }
    // A closed loop does not know what it did not send.
    let server = streams::echo(Fault::Stall { at: 1, pause });
    let report = right(&tcp(&server), &["--warmup", "0"]);
    assert!(Duration::from_nanos(report.count("latency_ns.max")) >= pause * 9 / 10, "{report:?}");
}

#[test]
fn a_seed_decides_what_is_sent_and_when() {
    let sent = |seed: &str| {
        let server = echo();
        let flags = ["--rate", "1000", "--connections", "7", "--seed", seed];
        let report = right(&tcp(&server), &flags);
        (report.count("requests"), server.finish().bytes_read)
    };
    assert_eq!(sent("1"), sent("1"));
    assert_ne!(sent("1"), sent("2"));
}

#[test]
fn a_new_connection_for_every_few_requests() {
    for (each, more) in
        [("1", &[][..]), ("1", &["--connections", "4"]), ("3", &["--rate", "500", "--connections", "4"])]
    {
        let server = echo();
        let report = right(&tcp(&server), &[&["--requests-per-connection", each][..], more].concat());
        let counts = server.finish();
        let requests = counts.bytes_read / report.count("size_bytes");
        let each: u64 = each.parse().expect("a number");
        assert!(requests >= report.count("requests"), "{counts:?}: {report:?}");
        // The last one of each slot may have some requests left, in each run that it takes.
        let connections = requests.div_ceil(each)..=requests.div_ceil(each) + 6 * report.count("connections");
        assert!(connections.contains(&counts.accepted), "{counts:?}: {report:?}");
        assert!(report.number("connect_latency_ns.mean") > 0.0, "{report:?}");
    }
}

#[test]
fn a_histogram_file_has_the_same_distribution() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("latency.hgrm");
    let server = echo();
    let report = right(&tcp(&server), &["--histogram", path.to_str().expect("the path is text")]);
    let text = fs::read_to_string(path).expect("the file is written");
    assert!(text.contains("Value") && text.contains("Percentile") && text.contains("TotalCount"), "{text}");
    let count = format!("{}", report.count("requests"));
    assert!(text.contains(&count), "{count} requests: {text}");
    let nowhere = run(&tcp(&server), &["--histogram", "/nowhere/latency.hgrm"]);
    assert!(nowhere.complaint(1).contains("/nowhere/latency.hgrm"), "{}", nowhere.stderr);
}

#[test]
fn intervals_add_up_to_the_whole() {
    for flags in [&["--connections", "2"][..], &["--connections", "6", "--threads", "2"], &["--rate", "1000"]] {
        let server = echo();
        let report = right(&tcp(&server), &[flags, &["--interval", "50ms"]].concat());
        let intervals = report.at("intervals").as_array().expect("a list");
        let sum: u64 = intervals.iter().map(|interval| interval["requests"].as_u64().expect("a count")).sum();
        // By the time of the reply, as the rate is.
        let replies = report.number("achieved_per_s") * report.number("duration_s");
        assert!((sum as f64 - replies).abs() < 0.5, "{sum} {replies}: {report:?}");
        let ends = intervals.iter().map(|interval| (interval["from_s"].as_f64(), interval["to_s"].as_f64()));
        let (from, to): (Vec<_>, Vec<_>) = ends.unzip();
        assert_eq!((from[0], to[to.len() - 1]), (Some(0.0), Some(0.3)), "{report:?}");
        assert_eq!(from[1..], to[..to.len() - 1], "no gap: {report:?}");
    }
}

#[test]
fn discard_is_sent_to_and_never_answered() {
    for flags in [&["--connections", "3"][..], &["--rate", "500", "--size", "5000"]] {
        let server = streams::discard();
        let report = right(&format!("discard={}", tcp(&server)), flags);
        let counts = server.finish();
        assert_eq!(report.count("bytes_received"), 0);
        let size = report.count("size_bytes");
        assert!(counts.bytes_read >= report.count("requests") * size, "{counts:?}: {report:?}");
        assert_eq!(counts.bytes_read % size, 0, "whole requests: {counts:?}");
    }
    let server = datagrams::echo(datagrams::Fault::Swallow);
    right(&format!("discard={}", udp(&server)), &["--rate", "500"]);
}

#[test]
fn work_asks_for_its_time_and_knows_where_it_went() {
    let demands = ["fixed:1ms", "exp:200us", "bimodal:90%:100us,10%:2ms", "lognormal:200us:1.0", "fixed:0"];
    for (at, demand) in demands.into_iter().enumerate() {
        for (flags, is_udp) in [
            (&["--connections", "2", "--depth", "4", "--kind", "sleep"][..], at % 2 == 0),
            (&["--rate", "200", "--kind", "spin", "--size", "0"], at % 2 == 1),
            (&["--rate", "200", "--kind", "hash", "--connections", "3"], at % 2 == 0),
        ] {
            let server = if is_udp { Work::default().udp() } else { Work::default().tcp() };
            let target = format!("work={}", if is_udp { udp(&server) } else { tcp(&server) });
            let report = right(&target, &[flags, &["--demand", demand]].concat());
            let stage = |name: &str| report.number(&format!("stages_ns.{name}.mean"));
            let sum: f64 = ["late", "unseen", "queue", "service", "reply"].into_iter().map(stage).sum();
            let mean = report.number("latency_ns.mean");
            // Three digits each.
            assert!((sum - mean).abs() < mean / 100.0, "{sum} {mean} {demand} {target} {flags:?}: {report:?}");
            if demand == "fixed:1ms" {
                assert!(report.count("stages_ns.service.p50") > 998_000, "{report:?}");
            }
        }
    }
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
    let report = right(&format!("work={}", tcp(&server)), &["--demand", "exp:100us", "--kind", "sleep"]);
    let (requests, shed) = (report.count("requests"), report.count("shed"));
    assert!(requests.abs_diff(3 * shed) <= 6, "every fourth: {requests} {shed}: {report:?}");
}

#[test]
fn chat_reaches_everybody() {
    for (framing, name) in [(Framing::Length, "length"), (Framing::Line, "line")] {
        for flags in [&["--connections", "5"][..], &["--connections", "40", "--rate", "200", "--size", "300"]] {
            let server = chat(framing, chat::Fault::Nothing);
            let report = right(&format!("chat={}", tcp(&server)), &[flags, &["--framing", name]].concat());
            assert!(report.count("deliveries") > 0, "{report:?}");
        }
    }
}

#[test]
fn an_objective_is_judged() {
    let server = echo();
    let kept = right(&tcp(&server), &["--slo", "p50=30s"]);
    assert_eq!((kept.at("slo.met"), kept.at("slo.reason")), (&Value::Bool(true), &Value::Null));
    let missed = right(&tcp(&server), &["--slo", "p50=1ns"]);
    assert!(missed.at("slo.met") == false && missed.at("slo.reason").is_string(), "{missed:?}");
    // Every other request is never answered: three of four are not answered in time.
    let server = datagrams::echo(datagrams::Fault::DropEvery(2));
    let report = report(&udp(&server), &["--rate", "500", "--slo", "p75=30s", "--lost-after", "100ms"]);
    assert!(report.at("slo.met") == false && report.at("slo.quantile_ns").is_null(), "{report:?}");
}

#[test]
fn a_search_finds_what_the_server_can_bear() {
    // One worker that sleeps 5 ms a request: never more than 200 a second, however fast the machine.
    let server = Work { workers: 1, ..Work::default() }.tcp();
    let flags =
        ["--demand", "fixed:5ms", "--kind", "sleep", "--rate", "50", "--slo", "p50=50ms", "--search", "--quiet"];
    let target = format!("work={}", tcp(&server));
    let report = report(&target, &[&flags[..], &["--duration", "200ms", "--warmup", "0"]].concat());
    let points = report.at("search.points").as_array().expect("a list");
    assert!(!points.is_empty() && report.at("search.objective") == "p50=50ms", "{report:?}");
    // In its shortest run a backlog that grows by half of what is offered is felt.
    assert!(report.at("search.low_per_s").as_f64().is_none_or(|low| low < 500.0), "{report:?}");
    assert!(report.at("search.high_per_s").is_number(), "{report:?}");
}

#[test]
fn nobody_there_is_said_in_one_line() {
    let nobody = Nobody::tcp();
    let target = format!("tcp://{}", nobody.address);
    for flags in [&["--json"][..], &["--connections", "30", "--threads", "2"], &["--rate", "100"]] {
        let outcome = run(&target, flags);
        let message = outcome.complaint(1);
        assert!(message.starts_with(&format!("cannot connect to {target}: ")), "{message}");
        assert!(message.to_lowercase().contains("refused"), "{message}");
    }
}

#[test]
fn too_few_descriptors_are_said_with_the_limit() {
    let server = echo();
    let target = tcp(&server);
    let limited = |connections: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_maitred")]);
        shell.args(arguments(&target, &["--connections", connections, "--json"])).stdin(Stdio::null());
        start(&mut shell).wait()
    };
    let outcome = limited("100");
    let message = outcome.complaint(2);
    assert!(message.contains("--connections: 100") && message.contains("may open 64"), "{message}");
    limited("30").report();
}

/// Runs until it is interrupted, which it is once `has_begun`.
fn interrupted(server: &Server, flags: &[&str], has_begun: impl Fn() -> bool) -> Report {
    let flags = [&["--duration", "1h", "--grace", "1h", "--json"][..], flags].concat();
    let running = start(&mut command(&tcp(server), &flags));
    wait_until("the load has begun", has_begun);
    running.process().signal(Signal::INT);
    running.wait().report()
}

#[test]
fn an_interrupt_ends_it_with_a_report_of_what_there_is() {
    let server = echo();
    // A thousand a second: the two thousandth is sent long after the warm-up.
    let flags = ["--rate", "1000", "--arrivals", "uniform", "--connections", "2"];
    let report = interrupted(&server, &flags, || server.counts().bytes_read > 2_000 * 64);
    assert_eq!((report.at("interrupted"), report.count("unsent")), (&Value::Bool(true), 0));
    assert!(report.count("requests") > 0 && report.number("duration_s") > 1.5, "{report:?}");
    assert!(report.number("achieved_per_s") > 0.0 && report.errors().is_empty(), "{report:?}");
    drop(server);

    let server = echo();
    let report = interrupted(&server, &["--warmup", "1h"], || server.counts().bytes_read > 10_000);
    assert_eq!((report.count("requests"), report.at("interrupted")), (0, &Value::Bool(true)));

    let silent = streams::echo(Fault::Swallow);
    let report = interrupted(&silent, &[], || silent.counts().bytes_read > 0);
    assert_eq!((report.count("requests"), report.at("interrupted")), (0, &Value::Bool(true)));
}

#[test]
fn a_reader_that_has_gone_away_does_not_hold_it_up() {
    let server = echo();
    for flags in [&["--json"][..], &[], &["--interval", "20ms"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut process = Process::spawn(command(&tcp(&server), flags).stdout(writer).stderr(Stdio::piped()));
        assert_eq!(process.wait().code(), Some(0), "{}", process.messages());
    }
}

#[test]
fn without_json_it_prints_a_table() {
    let server = echo();
    let outcome = run(&tcp(&server), &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for word in ["p50", "p99", "requests"] {
        assert!(outcome.stdout.contains(word), "{word}: {}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains('\u{1b}'), "no colours for a file: {}", outcome.stdout);
    let wrong = run(&tcp(&streams::echo(Fault::CorruptOneIn(1_000))), &[]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stdout.contains("wrong_bytes") || wrong.stdout.contains("wrong bytes"), "{}", wrong.stdout);
}
