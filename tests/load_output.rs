//! What `maitred load` writes, where to, and how it ends: its files, its intervals, an interrupt, a reader that is gone.
//!
//! What it reports of right servers is in `load.rs`, of wrong ones in `load_faults.rs`.

#[path = "support/client.rs"]
mod client;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/servers/mod.rs"]
mod servers;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use client::wait_until;
use load::{Report, arguments, check_all, command, right, run, start};
use process::Process;
use servers::streams::{self, Fault};
use servers::{Nobody, Server};

fn echo() -> Server {
    streams::echo(Fault::Nothing)
}

fn tcp(server: &Server) -> String {
    format!("tcp://{}", server.address)
}

#[test]
fn a_histogram_file_has_the_same_distribution() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("latency.hgrm");
    let server = echo();
    let uniform = ["--rate", "1000", "--arrivals", "uniform", "--warmup", "0"];
    let flags = ["--histogram", path.to_str().expect("the path is text")];
    let report = right(&tcp(&server), &[&uniform[..], &flags].concat());
    assert_eq!(report.count("requests"), 300, "{report:?}");
    let histogram = report.histogram();

    let text = fs::read_to_string(path).expect("the file is written");
    let (header, rest) = text.split_once("\n\n").expect("an empty line follows the header");
    let names = ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"];
    assert_eq!(header.split_whitespace().collect::<Vec<_>>(), names);
    let (footer, lines): (Vec<&str>, Vec<&str>) = rest.lines().partition(|line| line.starts_with('#'));
    // In milliseconds with six decimals.
    let ns = |text: &str| (text.parse::<f64>().expect("a number") * 1e6).round() as u64;
    let mut before = (0, 0);
    for line in &lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (value_ns, count) = (ns(fields[0]), fields[2].parse::<u64>().expect("a count"));
        let quantile: f64 = fields[1].parse().expect("a share");
        assert!(value_ns >= before.0 && count >= before.1, "{line}: rising in {text}");
        assert_eq!(histogram.count_between(0, value_ns), count, "{line}: of {text}");
        // Where so many samples end; the next one, if it is at the very end of one.
        let ranks = [quantile, quantile + 1.0 / 300.0].map(|quantile| histogram.value_at_quantile(quantile.min(1.0)));
        let is_there = ranks.iter().any(|rank| histogram.equivalent(*rank, value_ns));
        assert!(is_there, "{line}: {ranks:?} of {text}");
        before = (value_ns, count);
    }
    assert_eq!(before.1, 300, "the last line counts all of {text}");
    assert!(lines.len() > 10, "{text}");
    let figures: Vec<f64> = footer
        .iter()
        .flat_map(|line| line.trim_matches(['#', '[', ']']).split(','))
        .map(|figure| figure.split_once('=').expect("it has a name").1.trim().parse().expect("a number"))
        .collect();
    let [mean, deviation, max, total, ..] = figures[..] else { panic!("{footer:?}") };
    assert!((mean * 1e6 - histogram.mean()).abs() < 1.0, "{footer:?}");
    assert!((deviation * 1e6 - histogram.stdev()).abs() < 1.0, "{footer:?}");
    assert!(histogram.equivalent((max * 1e6).round() as u64, histogram.max()), "{footer:?}");
    assert_eq!(total, 300.0, "{footer:?}");

    let nowhere = run(&tcp(&server), &["--histogram", "/nowhere/latency.hgrm"]);
    assert!(nowhere.complaint(1).contains("/nowhere/latency.hgrm"), "{}", nowhere.stderr);
}

#[test]
fn a_histogram_file_is_written_when_there_is_something_to_write() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("latency.hgrm");
    let flags = ["--rate", "500", "--histogram", path.to_str().expect("the path is text")];
    fs::write(&path, "of an earlier load").expect("it can be written");
    run(&format!("tcp://{}", Nobody::tcp().address), &flags).complaint(1);
    assert_eq!(fs::read_to_string(&path).expect("text"), "of an earlier load", "there was no load");

    // Nobody reads the report.
    let server = echo();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut process = Process::spawn(command(&tcp(&server), &flags).stdout(writer).stderr(Stdio::piped()));
    process.wait();
    let text = fs::read_to_string(&path).expect("text");
    assert!(text.contains("Percentile") && text.contains("Total count"), "{text}: {}", process.messages());
    assert!(!text.contains("of an earlier load"), "{text}");
}

#[test]
fn intervals_add_up_to_the_whole() {
    check_all([&["--connections", "2"][..], &["--connections", "6", "--threads", "2"], &["--rate", "1000"]], |flags| {
        let server = echo();
        let report = right(&tcp(&server), &[flags, &["--interval", "50ms"]].concat());
        let intervals = check_intervals(&report);
        assert_eq!(intervals.last().expect("there is one").1, 0.3, "{report:?}");
    });
}

/// From when to when the intervals of a report are, which have no gaps and add up.
#[track_caller]
fn check_intervals(report: &Report) -> Vec<(f64, f64)> {
    let intervals = report.at("intervals").as_array().expect("a list");
    let sum: u64 = intervals.iter().map(|interval| interval["requests"].as_u64().expect("a count")).sum();
    // By the time of the reply, as the rate is.
    let replies = report.number("achieved_per_s") * report.number("duration_s");
    assert!((sum as f64 - replies).abs() < 0.5, "{sum} {replies}: {report:?}");
    let number = |interval: &Value, name: &str| interval[name].as_f64().expect("a number");
    let ends = intervals.iter().map(|interval| (number(interval, "from_s"), number(interval, "to_s")));
    let ends: Vec<_> = ends.collect();
    assert_eq!(ends.first().map_or(0.0, |first| first.0), 0.0, "{report:?}");
    assert!(ends.windows(2).all(|pair| pair[0].1 == pair[1].0), "no gap: {report:?}");
    assert!(ends.iter().all(|(from, to)| from < to), "{report:?}");
    ends
}

#[test]
fn an_interrupted_load_has_intervals_until_then() {
    let server = echo();
    let flags = ["--rate", "1000", "--arrivals", "uniform", "--interval", "50ms"];
    let started = Instant::now();
    let report = interrupted(&server, &flags, || server.counts().bytes_written > 300 * 64);
    let end_s = check_intervals(&report).last().expect("there is one").1;
    // A thousand a second, and nothing behind the end.
    let least_s = (report.count("intended") - 1) as f64 / 1_000.0;
    assert!((least_s..started.elapsed().as_secs_f64()).contains(&end_s), "from {least_s}: {report:?}");

    // The first is not over yet.
    let server = echo();
    let flags = ["--rate", "1000", "--warmup", "0", "--interval", "1h"];
    let started = Instant::now();
    let report = interrupted(&server, &flags, || server.counts().bytes_written > 100 * 64);
    let ends = check_intervals(&report);
    assert!(ends.len() == 1 && ends[0].1 < started.elapsed().as_secs_f64(), "{report:?}");
}

#[test]
fn a_process_is_looked_at_between_short_intervals_too() {
    // Each child lives for a tenth of a second: only who looks meanwhile knows of more than the last one.
    let mut parent = Command::new("sh");
    parent.args(["-c", "while :; do sleep 0.1; done"]).stdin(Stdio::null()).stdout(Stdio::null());
    let parent = Process::spawn(&mut parent);
    let pid = parent.pid().as_raw_nonzero().to_string();
    let server = echo();
    let flags = ["--rate", "100", "--duration", "1500ms", "--interval", "20ms", "--pid", &pid];
    let report = right(&tcp(&server), &flags);
    assert!(report.count("server.processes_started") >= 4, "fourteen were: {report:?}");
}

#[test]
fn nobody_there_is_said_in_one_line() {
    let nobody = Nobody::tcp();
    let target = format!("tcp://{}", nobody.address);
    check_all([&["--json"][..], &["--connections", "30", "--threads", "2"], &["--rate", "100"]], |flags| {
        let outcome = run(&target, flags);
        let message = outcome.complaint(1);
        assert!(message.starts_with(&format!("cannot connect to {target}: ")), "{message}");
        assert!(message.to_lowercase().contains("refused"), "{message}");
    });
}

#[test]
fn a_search_that_is_interrupted_does_not_count_the_run_that_it_cut_off() {
    let server = echo();
    let report = interrupted(&server, &["--rate", "1000", "--slo", "p50=10s", "--search", "--quiet"], || {
        server.counts().bytes_written > 300 * 64
    });
    assert_eq!(report.at("interrupted"), &Value::Bool(true));
    assert_eq!(report.at("search.points"), &Value::Array(Vec::new()), "{report:?}");
    assert!(report.at("search.low_per_s").is_null() && report.at("search.high_per_s").is_null(), "{report:?}");
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
    // A thousand a second: the three hundredth is sent long after the warm-up.
    let flags = ["--rate", "1000", "--arrivals", "uniform", "--connections", "2"];
    let report = interrupted(&server, &flags, || server.counts().bytes_written > 300 * 64);
    assert_eq!((report.at("interrupted"), report.count("unsent")), (&Value::Bool(true), 0));
    let duration_s = report.number("duration_s");
    assert!(report.count("requests") > 0 && duration_s > 0.0 && duration_s < 3_600.0, "{report:?}");
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
fn an_interrupt_told_twice_is_one_and_a_later_one_ends_it_at_once() {
    // As `timeout` does it. Two signals, since a second of the same kind may find the first still waiting.
    let server = echo();
    let running = start(&mut command(&tcp(&server), &["--duration", "1h", "--json"]));
    wait_until("the load has begun", || server.counts().bytes_written > 0);
    running.process().signal(Signal::INT);
    running.process().signal(Signal::TERM);
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert_eq!(outcome.report().at("interrupted"), &Value::Bool(true));

    // Nobody reads, so that the report does not come to its end.
    let server = echo();
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("it need not block");
    while writer.write(&[b' '; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("it may block");
    let flags = ["--duration", "1h", "--json"];
    let mut process = Process::spawn(command(&tcp(&server), &flags).stdout(writer).stderr(Stdio::piped()));
    wait_until("the load has begun", || server.counts().bytes_written > 0);
    let first = Instant::now();
    wait_until("it has ended", || {
        // One that has ended is a zombie until it is asked after.
        process.signal(Signal::INT);
        !process.is_running()
    });
    assert!(first.elapsed() > Duration::from_millis(200), "the report was given up for the same signal");
    assert_eq!(process.wait().code(), Some(1), "{}", process.messages());
    drop(reader);
}

#[test]
fn a_reader_that_has_gone_away_does_not_hold_it_up() {
    let server = echo();
    check_all([&["--json"][..], &[], &["--interval", "20ms"]], |flags| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut process = Process::spawn(command(&tcp(&server), flags).stdout(writer).stderr(Stdio::piped()));
        assert_eq!(process.wait().code(), Some(0), "{}", process.messages());
    });
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
    let wrong = run(&tcp(&streams::echo(Fault::CorruptOneIn(1_000))), &["--rate", "500"]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stdout.contains("wrong_bytes") || wrong.stdout.contains("wrong bytes"), "{}", wrong.stdout);
}
