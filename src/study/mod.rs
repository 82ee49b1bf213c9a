//! `maitred study`: swaps worker counts and architectures, and keeps what scheduling did.
//!
//! ```text
//!   flags, PLAN.toml ─▶ plan ─▶ order ─▶ run: serve ◀── load ─▶ row ─▶ rows.jsonl ─▶ analysis, compare, report
//!                      (cells) (shuffled rounds)        predict ─▲
//! ```
//! A study is made of runs. Each has a server and a load of its own, both other processes; runs are interleaved in
//! rounds; all configurations get the identical trace; one of them is measured twice, to know what noise is. How to ask
//! a question of a machine is the chapter `design/studying.md`.
//!
//! The modules, in reading order: `row.rs` and `rows.rs` (what a run leaves behind), `plan.rs` (what is run),
//! `order.rs` (when), `resume.rs` (what of it is left), `run.rs`, `predict.rs` and `effort.rs` (one run), `host.rs` and `progress.rs` (beside them), `estimate.rs` and
//! `analysis.rs` (what rows amount to), `table.rs` (the same for people), `report.rs` (the same as a page with
//! figures), `compare.rs` (two studies).

pub mod analysis;
pub mod compare;
pub mod effort;
pub mod estimate;
pub mod host;
pub mod order;
pub mod plan;
mod predict;
mod progress;
pub mod report;
mod resume;
pub mod row;
pub mod rows;
pub mod run;
pub mod table;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::host::Host;
use self::plan::Plan;
use self::progress::Progress;
use self::row::Status;
use self::run::{NoRow, Runner};
use crate::cli::StudyArgs;
use crate::clock::sleep_for;
use crate::error::Error;
use crate::load::interrupt;
use crate::net::os;

/// The name of the plan as it was run, in a study's directory.
pub const PLAN: &str = "plan.toml";

/// `maitred study`. Whether all of it was made and any of it succeeded.
///
/// # Errors
/// A plan that is wrong; a directory that cannot be written, or has another study in it. Rows that were made stay.
pub fn command(args: &StudyArgs) -> Result<bool, Error> {
    let directory = args.out.as_path();
    let plan = Plan::resolve(&with_own_plan(args), &os::processors())?;
    prepare(directory, &plan, args.resume)?;
    let (mut writer, mut rows) = rows::Writer::open(directory)?;
    let stop = interrupt::stop_on_signals()?;
    let mut left = resume::left(&plan, &rows, &directory.join(rows::JSON_LINES))?;
    let runner = Runner::new(&plan, directory, &stop).map_err(|reason| Error::resource("find this program", reason))?;
    let mut progress = Progress::new(&plan, left.len(), !args.quiet);
    let mut stdout = io::stdout().lock();
    while let Some(run) = left.front() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let cell = &plan.cells[run.cell];
        progress.begin(&format!("{} {}", cell.configuration, cell.point));
        let row = match runner.run(run) {
            Ok(row) => row,
            Err(NoRow::Interrupted) => break,
            Err(NoRow::NoScratch(error)) => return Err(error),
        };
        progress.end();
        writer.add(&row)?;
        left.pop_front();
        if args.json {
            print(&mut stdout, &(row.to_line() + "\n"))?;
        }
        rows.push(row);
        rest(plan.cooldown, &stop);
    }
    progress.clear();
    write(&directory.join(rows::TABLE), &rows::table(&rows))?;
    report::redraw(directory)?;
    let is_whole = left.is_empty();
    if !args.json {
        print(&mut stdout, &table::render(&rows, is_whole))?;
    }
    Ok(is_whole && rows.iter().any(|row| row.status == Status::Ok))
}

/// A reader that has seen enough is no reason to stop; one that cannot take any is.
fn print(stdout: &mut impl Write, text: &str) -> Result<(), Error> {
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(reason) if reason.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Output { target: "standard output".to_owned(), reason })
        }
        _ => Ok(()),
    }
}

/// Who goes on with a study and says no more has its plan.
fn with_own_plan(args: &StudyArgs) -> StudyArgs {
    let own = args.out.join(PLAN);
    let is_meant = args.resume && !Plan::is_asked_by(args) && own.exists();
    StudyArgs { plan: if is_meant { Some(own) } else { args.plan.clone() }, ..args.clone() }
}

/// Makes the directory of a new study, or finds that the one there is of the same plan.
fn prepare(directory: &Path, plan: &Plan, is_resumed: bool) -> Result<(), Error> {
    let path = directory.join(PLAN);
    let usage = |problem: &str, expected: &str| Error::Usage {
        flag: if is_resumed { "--resume" } else { "--out" }.to_owned(),
        problem: format!("{} {problem}", directory.display()),
        expected: expected.to_owned(),
    };
    let there = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(reason) if reason.kind() == ErrorKind::NotFound => None,
        Err(reason) => return Err(Error::resource(format!("read {}", path.display()), reason)),
    };
    match (is_resumed, there) {
        (true, None) => Err(usage("has no study", "the directory of one that was interrupted")),
        (true, Some(text)) => match difference(&text, &plan.to_toml()) {
            None => Ok(()),
            Some((old, new)) => {
                let problem = format!("has a study of another plan: it has `{old}`, and this one `{new}`");
                Err(usage(&problem, &format!("the plan {}, or another directory", path.display())))
            }
        },
        (false, Some(_)) => Err(usage("has a study already", "a new directory, or --resume to go on")),
        (false, None) if directory.join(rows::JSON_LINES).exists() => {
            Err(usage(&format!("has {} and no {PLAN}", rows::JSON_LINES), "a new directory"))
        }
        (false, None) => {
            fs::create_dir_all(directory)
                .map_err(|reason| Error::Output { target: directory.display().to_string(), reason })?;
            write(&directory.join(host::FILE), &Host::read().to_json())?;
            write(&path, &plan.to_toml())
        }
    }
}

/// The first line in which two plans differ.
fn difference(old: &str, new: &str) -> Option<(String, String)> {
    let longest = old.lines().count().max(new.lines().count());
    let line = |text: &str, at: usize| text.lines().nth(at).unwrap_or("nothing more").to_owned();
    (0..longest).map(|at| (line(old, at), line(new, at))).find(|(old, new)| old != new)
}

/// Written beside and renamed, so that there is the old text or the new one, and never a part.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let beside = path.with_added_extension("new");
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_data()))
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|reason| {
        // Half of it is of no use to anybody.
        let _ = fs::remove_file(&beside);
        Error::Output { target: path.display().to_string(), reason }
    })
}

/// Does nothing for this long, or until somebody wants it to end.
fn rest(length: Duration, stop: &AtomicBool) {
    const ATTENTION: Duration = Duration::from_millis(100);
    let mut left = length;
    while !left.is_zero() && !stop.load(Ordering::Relaxed) {
        let piece = left.min(ATTENTION);
        sleep_for(piece);
        left -= piece;
    }
}
