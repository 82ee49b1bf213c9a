//! `maitred cell`: get, set or watch a cell, one line `VERSION TEXT` for each value.
//!
//! A line is written whole and flushed, before the next change is looked for: a reader of the output that is slow makes
//! the watcher miss changes, and nobody wait. Signals have their usual effect; there is nothing to put in order.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::{Cell, TEXT_MAX_BYTES, Text};
use crate::cli::{CellArgs, CellCommand, WatchArgs};
use crate::clock::monotonic_ns;
use crate::config::{number, time, usage};
use crate::error::Error;
use crate::units::show_duration;

/// The upper bounds are there so that a slip of the keyboard is an error.
const MAX_LINES: u64 = 1_000_000_000_000;
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// `maitred cell`.
///
/// # Errors
/// Wrong usage; a file that is no cell; output that cannot be written; or fewer changes than were waited for.
pub fn command(args: &CellArgs) -> Result<(), Error> {
    match &args.command {
        CellCommand::Get { file } => {
            let (version, text) = Cell::open(file)?.read()?;
            print(version, &text)
        }
        CellCommand::Set { file, text } => {
            let text = text.as_bytes();
            let line = Text::new(text).map_err(|unfit| {
                usage("TEXT", unfit.to_string(), format!("one line, of at most {TEXT_MAX_BYTES} bytes"))
            })?;
            print(Cell::open(file)?.set(line)?.version, text)
        }
        CellCommand::Watch(args) => watch(args),
    }
}

fn watch(args: &WatchArgs) -> Result<(), Error> {
    let count = number("--count", &args.count, 1, MAX_LINES)?;
    let timeout = time("--timeout", &args.timeout, Duration::ZERO, YEAR)?;
    let deadline_ns = timeout.map(|timeout| monotonic_ns() + timeout.as_nanos() as u64);
    let cell = Cell::open(&args.file)?;
    let mut text = Vec::new();
    let mut version = cell.read_into(&mut text)?;
    print(version, &text)?;
    let mut lines = 1;
    while count.is_none_or(|count| lines < count) {
        let left = deadline_ns.map(|deadline_ns| Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns())));
        if cell.wait(version, left)?.is_none() {
            return too_few(&args.file, lines, count, timeout.unwrap_or_default());
        }
        version = cell.read_into(&mut text)?;
        print(version, &text)?;
        lines += 1;
    }
    Ok(())
}

/// The time is up: a failure if a number of lines was asked for.
fn too_few(file: &Path, lines: u64, count: Option<u64>, timeout: Duration) -> Result<(), Error> {
    let Some(count) = count else { return Ok(()) };
    let attempt = format!("see {count} values of the cell {}", file.display());
    let reason = format!("{lines} came within {}", show_duration(timeout));
    Err(Error::resource(attempt, io::Error::new(io::ErrorKind::TimedOut, reason)))
}

fn print(version: u64, text: &[u8]) -> Result<(), Error> {
    let line = [format!("{version} ").as_bytes(), text, b"\n"].concat();
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(&line).and_then(|()| stdout.flush());
    written.map_err(|reason| Error::Output { target: "standard output".to_owned(), reason })
}
