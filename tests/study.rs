//! `maitred study` and `maitred compare` as their users see them: tiny studies end to end, interrupted, killed,
//! resumed.

#[path = "support/client.rs"]
mod client;
#[path = "support/process.rs"]
mod process;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use maitred::study::row::{Pin, Row, Status, Twin};
use maitred::study::rows;

use client::wait_until;
use process::Process;

/// Four runs: three worker counts at one rate, and the second of the A/A pair.
const FOUR: &[&str] = &[
    "--workers=1,2,4",
    "--rate=400",
    "--demand=exp:1ms",
    "--connections=8",
    "--repeats=1",
    "--duration=150ms",
    "--warmup=50ms",
    "--cooldown=10ms",
    "--pin=float",
    // It ends as soon as all replies have come.
    "--set=grace=60s",
];

fn maitred(command: &str, flags: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_maitred"));
    program.arg(command).args(flags).stdin(Stdio::null()).env_remove("MAITRED_LOG");
    program
}

fn study(directory: &Path, flags: &[&str]) -> Command {
    let mut program = maitred("study", flags);
    program.arg("--out").arg(directory);
    program
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it writes text")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn read(directory: &Path) -> Vec<Row> {
    rows::read(directory).unwrap_or_else(|error| panic!("{error}"))
}

fn count_of(value: &Value, path: &str) -> u64 {
    let found = value.pointer(path).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("{path} is no count in {value}"))
}

#[test]
fn four_tiny_runs_leave_four_rows_that_say_everything() {
    let parent = directory();
    let out = parent.path().join("new/study");
    let done = output(&mut study(&out, FOUR));
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert_eq!(text(&done.stderr), "", "progress is for terminals");
    let shown = text(&done.stdout);
    for line in ["workers=1 ", "workers=2 ", "workers=4 "] {
        assert!(shown.contains(&format!("\n{line}")), "{shown}");
    }

    let rows = read(&out);
    assert_eq!(rows.len(), 4);
    for (order, row) in rows.iter().enumerate() {
        assert_eq!((row.order, row.status, row.reason.as_deref()), (order, Status::Ok, None), "{row:?}");
        assert_eq!((row.point.as_str(), row.parameters.pin), ("rate=400", Pin::Float));
        assert_eq!(row.configuration, format!("workers={}", row.parameters.workers));
        let (load, server) = (row.load.as_ref().expect("it was measured"), row.server.as_ref().expect("it was"));
        assert_eq!((&load["schema"], &server["schema"]), (&json!("maitred.load/1"), &json!("maitred.summary/1")));
        assert_eq!(load["errors"], json!({}), "{load}");
        assert_eq!(load["seed"], json!(row.parameters.seed));
        assert!(load["server"]["cpu_ns_per_request"].is_number(), "the server is accounted for: {load}");
        assert_eq!((&server["engine"], count_of(server, "/workers")), (&json!("pool"), row.parameters.workers as u64));
        assert_eq!(count_of(server, "/accepted"), 8);
        let effort = row.effort.as_ref().expect("the server counts it");
        let [calls, empty] =
            [effort.system_calls_per_request, effort.queue_empty_share].map(|part| part.expect("it does"));
        assert!((1.0..100.0).contains(&calls) && (0.0..=1.0).contains(&empty), "{effort:?}");
        let predicted = row.predicted.as_ref().expect("it is an open loop");
        assert_eq!((predicted.servers, predicted.by.as_str()), (row.parameters.workers, "trace"));
    }
    let trace: BTreeSet<u64> =
        rows.iter().map(|row| count_of(row.load.as_ref().expect("it was"), "/intended")).collect();
    assert_eq!(trace.len(), 1, "all configurations get the identical trace: {trace:?}");
    let twins: Vec<&Row> = rows.iter().filter(|row| row.aa).collect();
    assert_eq!(twins.len(), 2);
    assert_eq!(twins[0].parameters, twins[1].parameters);
    assert!(
        twins.iter().any(|row| row.twin == Some(Twin::First)) && twins.iter().any(|row| row.twin == Some(Twin::Second))
    );
    assert_eq!(twins[0].predicted, twins[1].predicted, "one trace has one prediction");

    let table = fs::read_to_string(out.join("rows.csv")).expect("there is a table");
    assert_eq!(table, rows::table(&rows), "same rows, same bytes");
    let host: Value = serde_json::from_slice(&fs::read(out.join("host.json")).expect("there is a host")).expect("JSON");
    assert_eq!(host["schema"], "maitred.host/1");
    let mut names: Vec<_> =
        fs::read_dir(&out).expect("it is there").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    let expected = ["figures", "host.json", "plan.toml", "report.html", "rows.csv", "rows.jsonl"];
    assert_eq!(names, expected, "nothing else is left behind");

    let page = || fs::read(out.join("report.html")).expect("there is a report");
    let drawn = page();
    let done = output(maitred("report", &[]).arg(&out));
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("4 runs of "), "{}", text(&done.stdout));
    assert_eq!(page(), drawn, "same rows, same bytes");

    // The plan as run has the same runs; and a directory has one study.
    let again = parent.path().join("again");
    let plan = out.join("plan.toml");
    let done = output(study(&again, &["--json", "--quiet"]).arg(&plan));
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let printed: Vec<Row> =
        text(&done.stdout).lines().map(|line| Row::from_line(line).expect("a row a line")).collect();
    assert_eq!(printed, read(&again));
    let asked = |rows: &[Row]| rows.iter().map(|row| (row.run, row.parameters.clone())).collect::<Vec<_>>();
    assert_eq!(asked(&printed), asked(&rows), "in the same order, with the same traces");
    assert_eq!(fs::read(again.join("plan.toml")).expect("a plan"), fs::read(&plan).expect("a plan"));

    let refused = output(&mut study(&out, FOUR));
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("has a study already; expected a new directory, or --resume"),
        "{refused:?}"
    );
}

/// Waits for the first row of a study that is under way, with a run after it.
fn wait_for_the_second_run(process: &Process, out: &Path) -> Vec<Pid> {
    let mut family = Vec::new();
    wait_until("a row is written and the next server runs", || {
        family = process.family();
        fs::read_to_string(out.join("rows.jsonl")).is_ok_and(|text| text.contains('\n')) && family.len() > 1
    });
    family
}

fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // A zombie is waited for by whoever has become its parent.
    test_kill_process(pid).is_err() || stat.contains(") Z ")
}

#[test]
fn a_study_that_is_killed_leaves_no_process_and_loses_one_run() {
    let parent = directory();
    let out = parent.path().join("study");
    let eight: Vec<&str> = FOUR.iter().map(|flag| if *flag == "--repeats=1" { "--repeats=2" } else { *flag }).collect();
    let mut killed = Process::spawn(study(&out, &eight).stdout(Stdio::null()).stderr(Stdio::piped()));
    let family = wait_for_the_second_run(&killed, &out);
    killed.signal(Signal::KILL);
    killed.wait();
    wait_until("server and load are gone", || family.iter().all(|pid| is_gone(*pid)));

    // As if the kill had come in the middle of a row.
    let path = out.join("rows.jsonl");
    let whole = fs::read(&path).expect("there are rows");
    let kept = whole.iter().rposition(|byte| *byte == b'\n').expect("there is a row") + 1;
    let torn = [&whole[..kept], &whole[..kept / 2]].concat();
    fs::write(&path, &torn).expect("it can be written");

    let other = output(study(&out, &eight).args(["--resume", "--seed=2"]));
    assert_eq!(other.status.code(), Some(2));
    let told = text(&other.stderr);
    assert!(told.contains("has a study of another plan: it has `seed = 1`, and this one `seed = 2`"), "{told}");
    assert_eq!(fs::read(&path).expect("there are rows"), torn, "a study of another plan is not touched");

    // The plan is in the directory.
    let resumed = output(&mut study(&out, &["--resume"]));
    assert_eq!(resumed.status.code(), Some(0), "{}", text(&resumed.stderr));
    let all = fs::read(&path).expect("there are rows");
    assert!(all.starts_with(&whole[..kept]), "what was there stays");
    let runs: BTreeSet<usize> = read(&out).iter().map(|row| row.run).collect();
    assert_eq!((read(&out).len(), runs), (8, (0..8).collect()));
    assert!(read(&out).iter().all(|row| row.status == Status::Ok));

    let nothing = output(study(&parent.path().join("nowhere"), FOUR).arg("--resume"));
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("has no study; expected the directory of one"), "{nothing:?}");
}

/// As [`FOUR`], with one worker: two runs.
fn two() -> Vec<&'static str> {
    FOUR.iter().map(|flag| if flag.starts_with("--workers") { "--workers=1" } else { flag }).collect()
}

#[test]
fn rows_of_another_plan_are_neither_gone_on_with_nor_added_to() {
    let parent = directory();
    let out = parent.path().join("study");
    assert!(output(&mut study(&out, &two())).status.success());
    let path = out.join("rows.jsonl");
    let own = fs::read_to_string(&path).expect("there are rows");
    let foreign = own.replace("\"warmup_s\":0.05", "\"warmup_s\":0.5");
    assert_ne!(own, foreign);
    let twice = format!("{own}{own}");
    for (rows, expected) in [
        (&foreign, ":1: run 0 has warmup_s = 0.5, and in the plan 0.05; expected each run of this study once"),
        (&twice, ":3: run 0 stands in line 1 already; expected each run of this study once"),
    ] {
        fs::write(&path, rows).expect("it can be written");
        let refused = output(&mut study(&out, &["--resume"]));
        let told = text(&refused.stderr).replace("run 1 ", "run 0 ");
        assert_eq!(refused.status.code(), Some(78), "{told}");
        assert!(told.contains(&format!("{}{expected}", path.display())), "{told}");
        assert_eq!(&fs::read_to_string(&path).expect("there are rows"), rows);
    }

    // Rows without their plan are no new study's.
    let orphans = parent.path().join("orphans");
    fs::create_dir(&orphans).expect("it is new");
    fs::write(orphans.join("rows.jsonl"), &own).expect("it can be written");
    let refused = output(&mut study(&orphans, &two()));
    let told = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("has rows.jsonl and no plan.toml; expected a new directory"), "{told}");
    assert_eq!(fs::read_dir(&orphans).expect("it is there").count(), 1, "nothing is written there");
}

#[test]
fn a_full_disk_ends_a_study_and_is_no_row() {
    let parent = directory();
    let out = parent.path().join("study");
    // A device that is always full stands where it is looked whether there is room.
    fs::create_dir_all(out.join(".run")).expect("it is new");
    std::os::unix::fs::symlink("/dev/full", out.join(".run/room")).expect("it is new");
    let failed = output(&mut study(&out, &two()));
    let told = text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{told}");
    let expected = format!("maitred: cannot write to {}: No space left on device", out.join(".run").display());
    assert!(told.starts_with(&expected), "{told}");
    assert_eq!(fs::read_to_string(out.join("rows.jsonl")).expect("it was begun"), "", "no run is lost to it");
}

#[test]
fn rows_that_cannot_be_printed_are_a_failure_and_a_reader_that_has_gone_is_none() {
    let parent = directory();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let failed = output(study(&parent.path().join("full"), &two()).arg("--json").stdout(full));
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).starts_with("maitred: cannot write to standard output: "), "{failed:?}");

    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let done = output(study(&parent.path().join("gone"), &two()).arg("--json").stdout(writer));
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
}

#[test]
fn an_interrupt_ends_a_study_with_what_is_there() {
    let parent = directory();
    let out = parent.path().join("study");
    let flags = FOUR.iter().map(|flag| if *flag == "--repeats=1" { "--repeats=50" } else { flag });
    let mut process =
        Process::spawn(study(&out, &flags.collect::<Vec<_>>()).stdout(Stdio::null()).stderr(Stdio::piped()));
    let family = wait_for_the_second_run(&process, &out);
    process.signal(Signal::INT);
    assert_eq!(process.wait().code(), Some(1), "{}", process.messages());
    assert!(family.iter().all(|pid| is_gone(*pid)), "the run has ended before the study");
    let rows = read(&out);
    assert!((1..200).contains(&rows.len()), "{}", rows.len());
    assert_eq!(fs::read_to_string(out.join("rows.csv")).expect("there is a table"), rows::table(&rows));
    assert!(!out.join(".run").exists(), "nothing else is left behind");
}

#[test]
fn a_run_that_fails_is_a_row_with_its_reason_and_not_the_end() {
    let parent = directory();
    let out = parent.path().join("study");
    // A load of 200 connections cannot be made where a process may open a hundred descriptors.
    let flags = [FOUR, &["--workers=1", "--connections=4,200"]].concat();
    let flags: Vec<&str> =
        flags.into_iter().filter(|flag| !["--workers=1,2,4", "--connections=8"].contains(flag)).collect();
    let inner = study(&out, &flags);
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 100; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    let done = output(&mut shell);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let rows = read(&out);
    assert_eq!(rows.len(), 3);
    for row in &rows {
        match row.parameters.connections {
            4 => assert_eq!((row.status, row.reason.as_deref()), (Status::Ok, None)),
            _ => {
                let reason = row.reason.as_deref().expect("it says why");
                assert_eq!((row.status, &row.load, &row.server), (Status::Failed, &None, &None));
                assert!(
                    reason.contains("the load left no report") && reason.contains("--connections: 200 need"),
                    "{reason}"
                );
            }
        }
    }
    let shown = text(&done.stdout);
    assert!(
        shown.contains("1 of 3 runs failed; the first, connections=200 rate=400: the load left no report"),
        "{shown}"
    );
}

#[test]
fn an_overload_has_phases_and_shows_how_it_went() {
    let parent = directory();
    let out = parent.path().join("study");
    let plan = parent.path().join("overload.toml");
    let written = "workers = 1\ndemand = \"fixed:2ms\"\nconnections = 4\nrepeats = 1\nwarmup = \"50ms\"\npin = \
     \"float\"\n\
        phases = [\"0.5:100ms\", \"3:100ms\", \"0.5:300ms\"]\ninterval = \"50ms\"\nobjective = \"p99=15ms\"\n";
    fs::write(&plan, written).expect("it can be written");
    let done = output(study(&out, &[]).arg(&plan));
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    for row in read(&out) {
        let load = row.load.as_ref().expect("it was measured");
        let offered: Vec<f64> = load["phases"]
            .as_array()
            .expect("phases")
            .iter()
            .filter_map(|phase| phase["offered_per_s"].as_f64())
            .collect();
        assert_eq!(offered, [250.0, 1_500.0, 250.0]);
        assert!(load["intervals"].as_array().is_some_and(|intervals| intervals.len() >= 10), "{load}");
        // A hundred milliseconds of three times the capacity leave two hundred of work behind, on any machine.
        let longest_ns = load["latency_ns"]["max"].as_f64().expect("there were replies");
        assert!(longest_ns > 50e6, "{longest_ns}");
        assert!(row.predicted.is_some_and(|predicted| predicted.utilization > 0.8));
    }
}

#[test]
fn a_wrong_plan_names_its_line_and_exits_with_78_before_anything_is_made() {
    let parent = directory();
    let plan = parent.path().join("plan.toml");
    let table = [
        ("workers = 2\nrepeets = 3\n", ":2: repeets: unknown key; expected repeats"),
        ("\n[vary]\nengine = []\n", ":3: vary.engine: the list is empty; expected at least one value"),
        ("engine = \"threads\"\n", ":1: engine: threads is not an engine; expected pool or "),
        (
            "[vary]\nload = [0.5, 99]\n",
            ":2: vary.load: 99 is an impossible load; expected a share of capacity from 0.001 to 10",
        ),
    ];
    for (written, expected) in table {
        fs::write(&plan, written).expect("it can be written");
        let out = parent.path().join("study");
        let refused = output(study(&out, &[]).arg(&plan));
        assert_eq!(refused.status.code(), Some(78), "{written}");
        let told = text(&refused.stderr);
        assert!(told.starts_with(&format!("maitred: {}{expected}", plan.display())), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(!out.exists());
    }
}

/// A study of five runs with this median p99, as a directory.
fn synthetic(directory: &Path, p99_ns: u64) {
    fs::create_dir(directory).expect("it is new");
    let base = directory.parent().expect("it has one").join("base/rows.jsonl");
    let row = Row::from_line(fs::read_to_string(base).expect("a study").lines().next().expect("a row")).expect("a row");
    let lines = (0..5).map(|run| {
        let mut row = Row { run, aa: false, twin: None, ..row.clone() };
        let load = row.load.as_mut().expect("it was measured");
        load["latency_ns"]["p50"] = json!(1_000_000 + run);
        load["latency_ns"]["p99"] = json!(p99_ns + run as u64);
        load["achieved_per_s"] = json!(400.0);
        load["server"]["cpu_ns_per_request"] = json!(30_000.0);
        row.to_line() + "\n"
    });
    fs::write(directory.join("rows.jsonl"), lines.collect::<String>()).expect("it can be written");
}

#[test]
fn a_comparison_ends_with_3_if_something_is_worse_and_with_0_otherwise() {
    let parent = directory();
    let at = |name: &str| parent.path().join(name);
    assert!(output(&mut study(&at("base"), &two())).status.success());
    [("a", 9_000_000), ("b", 12_000_000), ("c", 9_100_000)].iter().for_each(|(name, p99)| synthetic(&at(name), *p99));
    let compare = |before: &str, after: &str, flags: &[&str]| {
        let done = output(maitred("compare", flags).arg(at(before)).arg(at(after)));
        (done.status.code(), text(&done.stdout).to_owned(), text(&done.stderr).to_owned())
    };
    let (code, shown, _) = compare("a", "b", &[]);
    assert_eq!(code, Some(3), "{shown}");
    assert!(
        shown.lines().any(|line| line.contains(" p99 ") && line.contains("1.333") && line.contains("  worse")),
        "{shown}"
    );
    assert_eq!(compare("b", "a", &[]).0, Some(0), "better is no failure");
    assert_eq!(compare("a", "c", &[]).0, Some(0), "one per cent is within the threshold");
    assert_eq!(compare("a", "c", &["--threshold", "0.5%"]).0, Some(3));
    assert_eq!(compare("a", "b", &["--threshold", "50%"]).0, Some(0));

    let (code, json, _) = compare("a", "b", &["--json"]);
    let found: Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!((code, &found["schema"], &found["worse"]), (Some(3), &json!("maitred.comparison/1"), &json!(1)));
    let p99 = &found["rows"][0]["changes"][1];
    assert_eq!((&p99["metric"], &p99["verdict"]), (&json!("p99"), &json!("worse")));
    assert_eq!(compare("a", "b", &["--json"]).1, json, "the draws are seeded");

    let (code, _, told) = compare("a", "nowhere", &[]);
    assert_eq!(code, Some(1), "{told}");
    fs::write(at("other.json"), "{}").expect("it can be written");
    let (code, _, told) = compare("a", "other.json", &[]);
    assert_eq!(code, Some(78));
    assert!(told.contains("other.json: is no report of a load; expected the directory of a study"), "{told}");
}

/// Chapters rest on these.
#[test]
fn the_rows_that_ship_are_whole_and_of_plans_that_ship() {
    let design = Path::new(env!("CARGO_MANIFEST_DIR")).join("design");
    let plans =
        || fs::read_dir(design.join("experiments")).expect("it is there").map(|plan| plan.expect("it is").path());
    let mut unasked: BTreeSet<_> = plans().map(|plan| plan.file_stem().expect("it has a name").to_owned()).collect();
    for day in fs::read_dir(design.join("data")).expect("it is there") {
        for folder in fs::read_dir(day.expect("it is").path()).expect("it is a folder") {
            let folder = folder.expect("it is").path();
            if !folder.join("plan.toml").is_file() {
                continue;
            }
            let rows = rows::read(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let failed = rows.iter().filter(|row| row.status != Status::Ok).count();
            let runs: BTreeSet<usize> = rows.iter().map(|row| row.run).collect();
            let last = runs.last().copied().expect("there are rows");
            assert_eq!((failed, runs.len(), rows.len()), (0, last + 1, last + 1), "{}", folder.display());
            let compared = output(maitred("compare", &[]).arg(&folder).arg(&folder));
            assert_eq!(compared.status.code(), Some(0), "{}", text(&compared.stdout));
            unasked.remove(folder.file_name().expect("it has a name"));
        }
    }
    assert!(unasked.is_empty(), "without rows under design/data: {unasked:?}");
}
