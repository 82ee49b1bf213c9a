//! One run: a server is started, put under load, and stopped; what both sides said becomes a [`Row`].
//!
//! The server and the load are processes of their own, so that neither takes part in the other, and so that the one
//! which fails takes nothing else with it: a run that fails is a row that says why. Measures, never judges and never
//! draws.
//!
//! Invariants: *alone*: there is one server and one load at a time, and both have ended before a run returns.
//! *nothing-behind*: neither outlives this process, however it ends (`net/companion.rs`).
//!
//! Read next: `predict.rs`, what an ideal server would have done; `mod.rs`, which makes all runs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::effort::Effort;
use super::order::Run;
use super::plan::{Cell, Plan};
use super::predict::predicted;
use super::row::{Limit, Parameters, Row, SCHEMA, Status};
use crate::clock::monotonic_ns;
use crate::error::Error;
use crate::net::companion::Companion;

/// A server that is not ready by then will not be.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often its output is looked at until it is. Not while anything is measured.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How often the loop that waits looks whether it is to stop.
const ATTENTION: Duration = Duration::from_millis(100);
/// What a load may take beside its own times: to connect, and to write its report.
const LOAD_SPARE: Duration = Duration::from_secs(20);
/// What a server may take to drain beside the `drain_timeout` that it has by default.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Of what a process said, the last so many lines are told of its failure.
const LINES_TOLD: usize = 4;
/// What must fit into the scratch folder: more than a load and a server write there.
const ROOM_BYTES: usize = 256 << 10;

/// Makes runs.
pub struct Runner<'a> {
    plan: &'a Plan,
    program: PathBuf,
    /// What the processes write goes there, and is gone after each run.
    folder: PathBuf,
    stop: &'a AtomicBool,
}

/// Why there is no row.
pub enum NoRow {
    /// Somebody wants the study to end.
    Interrupted,
    /// There is no room for scratch files. That is no property of what is compared, and would fail every run to come.
    NoScratch(Error),
}

impl<'a> Runner<'a> {
    /// Runs this very program, with scratch files in `directory`; ends early once `stop` is set.
    ///
    /// # Errors
    /// The program cannot be found.
    pub fn new(plan: &'a Plan, directory: &Path, stop: &'a AtomicBool) -> io::Result<Runner<'a>> {
        Ok(Runner { plan, program: std::env::current_exe()?, folder: directory.join(".run"), stop })
    }

    /// Makes one run. Everything that can go wrong with it is in its row.
    ///
    /// # Errors
    /// It was interrupted, and there is nothing to tell; or there was no room for it.
    pub fn run(&self, run: &Run) -> Result<Row, NoRow> {
        let cell = &self.plan.cells[run.cell];
        let parameters = Parameters { seed: run.seed, ..cell.parameters.clone() };
        self.make_room()?;
        let measured = self.measure(cell, run.seed).and_then(|measured| answered(&measured.0).map(|()| measured));
        // While what the run wrote is still there: without it there would be room again.
        let room = if measured.is_err() { self.make_room() } else { Ok(()) };
        // What is left there is of no use to anybody.
        let _ = fs::remove_dir_all(&self.folder);
        // One that was measured all the same counts: neither side hears of the signal before we do.
        if measured.is_err() && self.stop.load(Ordering::Relaxed) {
            return Err(NoRow::Interrupted);
        }
        room?;
        let (reason, load, server) = match measured {
            Ok((load, server)) => (None, Some(load), Some(server)),
            Err(reason) => (Some(reason), None, None),
        };
        let predicted = if load.is_some() { predicted(&parameters) } else { None };
        Ok(Row {
            schema: SCHEMA.to_owned(),
            run: run.id,
            repeat: run.repeat,
            order: run.order,
            status: if reason.is_none() { Status::Ok } else { Status::Failed },
            reason,
            aa: run.twin.is_some(),
            twin: run.twin,
            configuration: cell.configuration.clone(),
            point: cell.point.clone(),
            effort: server.as_ref().and_then(|server| Effort::of(&parameters, server)),
            limited_by: load.as_ref().map_or_else(Vec::new, |load| limits(&parameters, load)),
            parameters,
            load,
            server,
            predicted,
        })
    }

    /// Sees to it that processes can write to the scratch folder.
    fn make_room(&self) -> Result<(), NoRow> {
        let path = self.folder.join("room");
        let made = fs::create_dir_all(&self.folder)
            .and_then(|()| File::create(&path))
            .and_then(|mut file| file.write_all(&[0; ROOM_BYTES]).and_then(|()| file.sync_all()));
        let made = made.and_then(|()| fs::remove_file(&path));
        made.map_err(|reason| NoRow::NoScratch(Error::Output { target: self.folder.display().to_string(), reason }))
    }

    /// What load and server said, or what went wrong.
    fn measure(&self, cell: &Cell, seed: u64) -> Result<(Value, Value), String> {
        let mut server = self.start_server(cell)?;
        let address = self.wait_until_ready(&mut server)?;
        let load = self.put_load(cell, seed, &server, &address)?;
        server.process.terminate().map_err(|reason| format!("the server cannot be told to end: {reason}"))?;
        let Some(status) = server.wait(STOP_WITHIN)? else {
            return Err(server.failure("did not end when it was told to"));
        };
        if !status.success() {
            return Err(server.failure(&format!("ended badly ({status})")));
        }
        let summary = fs::read_to_string(self.folder.join("summary.json")).ok();
        let summary = summary.and_then(|text| serde_json::from_str(&text).ok());
        let summary = summary.ok_or_else(|| server.failure("left no summary"))?;
        Ok((load, summary))
    }

    fn start_server(&self, cell: &Cell) -> Result<Process, String> {
        let mut command = Command::new(&self.program);
        command.arg("serve").args(&cell.serve).arg("--summary").arg(self.folder.join("summary.json"));
        self.start("server", &mut command, &self.plan.server_cores)
    }

    /// Where the server listens, once it does.
    fn wait_until_ready(&self, server: &mut Process) -> Result<String, String> {
        let since_ns = monotonic_ns();
        loop {
            let ended = server.wait(LOOK_EVERY)?;
            let said = server.said();
            if said.lines().any(|line| line == "ready") && said.ends_with('\n') {
                let address = said.lines().find_map(|line| line.strip_prefix("listening ")?.split(' ').nth(1));
                return address.map(str::to_owned).ok_or_else(|| server.failure("named no address"));
            }
            if let Some(status) = ended {
                return Err(server.failure(&format!("ended before it was ready ({status})")));
            }
            if passed(since_ns) > READY_WITHIN || self.stop.load(Ordering::Relaxed) {
                return Err(server.failure(&format!("was not ready within {} s", READY_WITHIN.as_secs())));
            }
        }
    }

    fn put_load(&self, cell: &Cell, seed: u64, server: &Process, address: &str) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        let target = format!("{}={address}", cell.parameters.service);
        command.args(["load", &target, "--json", "--quiet", "--seed", &seed.to_string()]);
        command.args(["--pid", &server.process.pid().to_string()]).args(&cell.load);
        let mut load = self.start("load", &mut command, &self.plan.load_cores)?;
        let plan = self.plan;
        let patience = plan.warmup + plan.duration + plan.grace + LOAD_SPARE;
        let since_ns = monotonic_ns();
        let status = loop {
            if let Some(status) = load.wait(ATTENTION)? {
                break status;
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err("interrupted".to_owned());
            }
            if passed(since_ns) > patience {
                return Err(load.failure("went on longer than it should"));
            }
        };
        // A load that counted errors says so by its code, and has its report all the same.
        let report: Option<Value> = serde_json::from_str(&load.said()).ok();
        let report = report.ok_or_else(|| load.failure(&format!("left no report ({status})")))?;
        // Of a run that somebody else has cut short, not what the parameters say is known.
        if report["interrupted"] == true { Err(load.failure("was ended from outside")) } else { Ok(report) }
    }

    fn start(&self, name: &'static str, command: &mut Command, cores: &[usize]) -> Result<Process, String> {
        let failed = |reason: io::Error| format!("the {name} cannot be started: {reason}");
        let (out, log) = (self.folder.join(format!("{name}.out")), self.folder.join(format!("{name}.log")));
        // Not pipes: nobody reads them while the process runs, and a full pipe would stop it.
        command.stdin(Stdio::null()).stdout(File::create(&out).map_err(failed)?);
        command.stderr(File::create(&log).map_err(failed)?).env_remove("MAITRED_LOG");
        let process = Companion::start(command, cores).map_err(failed)?;
        Ok(Process { name, process, out, log })
    }
}

/// A server or a load.
struct Process {
    name: &'static str,
    process: Companion,
    out: PathBuf,
    log: PathBuf,
}

impl Process {
    fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>, String> {
        let name = self.name;
        self.process.wait_for(patience).map_err(|reason| format!("the {name} cannot be waited for: {reason}"))
    }

    /// What it wrote to stdout so far.
    fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What went wrong, with the last that it said of it.
    fn failure(&self, what: &str) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().filter(|line| !line.trim().is_empty()).take(LINES_TOLD).collect();
        let told = lines.into_iter().rev().collect::<Vec<_>>().join(" | ");
        format!("the {} {what}{}{told}", self.name, if told.is_empty() { "" } else { ": " })
    }
}

fn passed(since_ns: u64) -> Duration {
    Duration::from_nanos(monotonic_ns() - since_ns)
}

/// Whether the server had any answer at all; to shed a request is one. Without, there is nothing to measure.
fn answered(load: &Value) -> Result<(), String> {
    let count = |name: &str| load[name].as_u64().unwrap_or(0);
    if count("intended") == 0 || count("requests") + count("shed") > 0 {
        return Ok(());
    }
    let errors = load["errors"].as_object().into_iter().flatten().map(|(name, count)| format!("{name} {count}"));
    let errors = errors.collect::<Vec<_>>().join(", ");
    let errors = if errors.is_empty() { "the load counted no error".to_owned() } else { errors };
    Err(format!("none of {} requests was answered: {errors}", count("intended")))
}

/// What else than the configuration may have decided the figures.
fn limits(parameters: &Parameters, load: &Value) -> Vec<Limit> {
    let generator = &load["generator"];
    let saturated = generator["saturated"].as_bool() == Some(true);
    let by_others = ["other_programs", "host"].iter().any(|cause| generator["saturated_by"] == **cause);
    let wants_processor = parameters.kind.as_deref().is_some_and(|kind| kind != "sleep");
    let is_crowded = wants_processor && parameters.workers > parameters.server_cores.len();
    let mut limits = Vec::new();
    if saturated && !by_others {
        limits.push(Limit::Generator);
    }
    if is_crowded || saturated && by_others {
        limits.push(Limit::Machine);
    }
    limits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::row::tests::row;
    use super::*;

    #[test]
    fn a_run_without_any_answer_is_a_failure_with_the_errors() {
        let told = |load: Value| answered(&load).err();
        let (silent, errors) = (json!({"intended": 9, "requests": 0, "shed": 0, "errors": {}}), json!({"reset": 4}));
        assert_eq!(told(silent.clone()).as_deref(), Some("none of 9 requests was answered: the load counted no error"));
        let reset = json!({"intended": 9, "requests": 0, "shed": 0, "errors": errors});
        assert_eq!(told(reset).as_deref(), Some("none of 9 requests was answered: reset 4"));
        for (name, value) in [("requests", 1), ("shed", 9), ("intended", 0)] {
            let mut load = silent.clone();
            load[name] = json!(value);
            assert_eq!(told(load), None, "{name}");
        }
    }

    #[test]
    fn a_row_says_what_else_may_have_decided_it() {
        let sleeping = row().parameters;
        let spinning = Parameters { kind: Some("spin".to_owned()), ..sleeping.clone() };
        let fitting = Parameters { workers: 1, ..spinning.clone() };
        let load = |saturated: bool, by: Value| json!({"generator": {"saturated": saturated, "saturated_by": by}});
        let table = [
            (&sleeping, load(false, Value::Null), vec![]),
            (&sleeping, load(true, Value::Null), vec![Limit::Generator]),
            (&sleeping, load(true, json!("itself")), vec![Limit::Generator]),
            (&sleeping, load(true, json!("host")), vec![Limit::Machine]),
            (&fitting, load(true, json!("other_programs")), vec![Limit::Machine]),
            (&fitting, load(false, Value::Null), vec![]),
            // Two workers that want the one core of the server.
            (&spinning, load(false, Value::Null), vec![Limit::Machine]),
            (&spinning, load(true, json!("itself")), vec![Limit::Generator, Limit::Machine]),
        ];
        for (parameters, load, expected) in table {
            assert_eq!(limits(parameters, &load), expected, "{load}");
        }
    }
}
