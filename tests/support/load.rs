//! `maitred load` as a program: run with short times, waited for with a deadline, its report checked for what must be
//! true of every one.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Cursor;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::Process;

#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub(crate) use crate::process::check_all;

/// What a run takes unless its flags say otherwise. The grace ends as soon as all is answered.
const SHORT: &[(&str, &str)] = &[("--duration", "300ms"), ("--warmup", "50ms"), ("--grace", "60s")];

/// A datagram is not lost because the machine has other things to do.
const PATIENT: &[(&str, &str)] = &[("--lost-after", "60s")];

/// What one run left behind.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// `maitred load` that is running; killed when dropped.
pub(crate) struct Running {
    process: Process,
    output: TempDir,
}

/// `maitred load` with this target, these flags, and short times.
pub(crate) fn command(target: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maitred"));
    command.args(arguments(target, flags)).stdin(Stdio::null()).env_remove("MAITRED_LOG").env_remove("RUST_LOG");
    command
}

/// The same as words for a shell.
pub(crate) fn arguments<'a>(target: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    let is_answered_by_datagrams = target.contains("udp://") && !target.starts_with("discard=");
    let defaults = SHORT.iter().chain(if is_answered_by_datagrams { PATIENT } else { &[] });
    let missing = defaults.filter(|(name, _)| !flags.contains(name)).flat_map(|(name, value)| [*name, *value]);
    ["load", target].into_iter().chain(flags.iter().copied()).chain(missing).collect()
}

/// Starts it.
#[track_caller]
pub(crate) fn start(command: &mut Command) -> Running {
    let output = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| File::create(output.path().join(name)).expect("a file in it");
    let process = Process::spawn(command.stdout(file("stdout")).stderr(file("stderr")));
    Running { process, output }
}

/// Runs it to its end.
#[track_caller]
pub(crate) fn run(target: &str, flags: &[&str]) -> Outcome {
    start(&mut command(target, flags)).wait()
}

/// Runs it to its end and returns its report, whatever it found.
#[track_caller]
pub(crate) fn report(target: &str, flags: &[&str]) -> Report {
    run(target, &[flags, &["--json"]].concat()).report()
}

/// The report of a run that found no error: all that was asked was answered. Only of an open loop is it certain that
/// anything was: a closed one for which the machine has no time in the window intends nothing in it.
#[track_caller]
pub(crate) fn right(target: &str, flags: &[&str]) -> Report {
    let report = report(target, flags);
    let bad = [report.count("unanswered"), report.count("unsent")];
    assert_eq!((report.errors(), bad), (BTreeMap::new(), [0, 0]), "{target} {flags:?}: {report:?}");
    assert!(report.at("mode") == "closed" || report.count("requests") > 0, "{target} {flags:?}: {report:?}");
    report
}

/// The report of a run that found at least one kind of `some`, and no other but those of `more`.
#[track_caller]
pub(crate) fn wrong(target: &str, flags: &[&str], some: &[&str], more: &[&str]) -> Report {
    let report = report(target, flags);
    let errors = report.errors();
    let is_named = some.iter().any(|kind| errors.contains_key(*kind));
    let is_expected = |kind: &String| some.contains(&kind.as_str()) || more.contains(&kind.as_str());
    assert!(is_named && errors.keys().all(is_expected), "{target} {flags:?}: {some:?} {more:?}, not {errors:?}");
    report
}

impl Running {
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Waits for its exit.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Outcome {
        let status = self.process.wait();
        let text = |name: &str| fs::read_to_string(self.output.path().join(name)).expect("only text is printed");
        Outcome { code: status.code(), stdout: text("stdout"), stderr: text("stderr") }
    }
}

impl Outcome {
    /// What it printed as JSON, after a look at what is true of every report.
    #[track_caller]
    pub(crate) fn report(&self) -> Report {
        let report = serde_json::from_str(&self.stdout);
        let report = Report(report.unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.stdout, self.stderr)));
        assert_eq!(self.stdout.lines().count(), 1, "a report is one line");
        let is_good = report.errors().is_empty() && report.at("interrupted") == false;
        assert_eq!(self.code, Some(if is_good { 0 } else { 1 }), "{report:?} {:?}", self.stderr);
        report.check();
        if report.at("interrupted") == false {
            report.check_books();
        }
        report
    }

    /// The one line that says why there is no report.
    #[track_caller]
    pub(crate) fn complaint(&self, code: i32) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{}", self.stderr);
        let message = self.stderr.strip_prefix("maitred: ").and_then(|line| line.strip_suffix('\n'));
        let message = message.unwrap_or_else(|| panic!("{:?}", self.stderr));
        assert!(!message.contains('\n'), "one line: {message}");
        message
    }
}

/// `maitred.load/1`.
pub(crate) struct Report(pub(crate) Value);

impl Report {
    /// The field at this path, with dots between its names.
    #[track_caller]
    pub(crate) fn at(&self, path: &str) -> &Value {
        let pointer = format!("/{}", path.replace('.', "/"));
        self.0.pointer(&pointer).unwrap_or_else(|| panic!("there is no {path}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn count(&self, path: &str) -> u64 {
        self.at(path).as_u64().unwrap_or_else(|| panic!("{path} is no count: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn number(&self, path: &str) -> f64 {
        self.at(path).as_f64().unwrap_or_else(|| panic!("{path} is no number: {self:?}"))
    }

    /// What went wrong, by name; without those that did not.
    #[track_caller]
    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        let errors = self.at("errors").as_object().expect("errors by name");
        let count = |count: &Value| count.as_u64().filter(|count| *count > 0).expect("a name is there for a count");
        errors.iter().map(|(name, value)| (name.clone(), count(value))).collect()
    }

    #[track_caller]
    pub(crate) fn error(&self, name: &str) -> u64 {
        self.errors().get(name).copied().unwrap_or(0)
    }

    /// The latencies that the report holds in full.
    #[track_caller]
    pub(crate) fn histogram(&self) -> Histogram<u64> {
        let bytes = BASE64_STANDARD.decode(self.at("histogram").as_str().expect("text")).expect("it is base64");
        Deserializer::new().deserialize(&mut Cursor::new(bytes)).expect("it is a histogram")
    }

    /// What is true of every report of a run that came to its end: whatever was intended has become something.
    #[track_caller]
    fn check_books(&self) {
        let became: u64 = ["requests", "shed", "unanswered", "unsent"].into_iter().map(|name| self.count(name)).sum();
        assert_eq!(self.count("intended"), became, "books balance: {self:?}");
    }

    /// What is true of every report.
    #[track_caller]
    fn check(&self) {
        assert_eq!(self.at("schema"), "maitred.load/1");
        let histogram = self.histogram();
        let requests = self.count("requests");
        assert_eq!(histogram.len(), requests, "a request is one that has a latency: {self:?}");
        let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999)];
        for (name, quantile) in quantiles {
            let shown = self.at(&format!("latency_ns.{name}")).as_u64();
            let is_believable = (1.0 - quantile) * requests as f64 > 9.999_999;
            assert_eq!(shown.is_some(), is_believable, "ten samples are beyond {name}: {self:?}");
            let expected = histogram.value_at_quantile(quantile);
            assert!(shown.is_none_or(|shown| histogram.equivalent(shown, expected)), "{name} is {expected}: {self:?}");
        }
        let max = self.at("latency_ns.max").as_u64();
        assert_eq!(max.is_some(), requests > 0, "{self:?}");
        assert!(max.is_none_or(|max| histogram.equivalent(max, histogram.max())), "{self:?}");
        if self.at("mode") == "closed" {
            // At the end of the window each slot may hold one that is not sent yet; at its beginning a round or two may
            // be sent, for the replies of one look, before its bytes count.
            let slots = self.count("connections") * self.count("depth");
            let sent = self.count("bytes_sent") / self.count("size_bytes").max(1) + 3 * slots;
            assert!(requests <= sent, "{requests} requests need more than {sent}: {self:?}");
        }
    }
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = self.0.clone();
        if let Some(fields) = shown.as_object_mut() {
            // As long as all the rest.
            fields.remove("histogram");
        }
        write!(f, "{shown}")
    }
}
