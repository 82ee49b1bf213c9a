//! `maitred report`, and the report that a study ends with: from its rows one page, `report.html`, and the same figures as
//! files under `figures/`. Draws, never measures.
//!
//! ```text
//!   rows ─▶ digest ─▶ contest ─▶ findings, caveats ─┐
//!              ├────────────────▶ figures ──────────┼─▶ page
//!              └────────────────▶ tables ───────────┘
//! ```
//! Invariant *same-rows-same-bytes*: no clock, no locale, no order but that of the plan, and every draw of a bootstrap seeded.
//!
//! Reading order: `report/digest.rs`, `contest.rs`, `findings.rs`, `tables.rs`, `figures.rs`, `page.rs`.

mod caveats;
mod contest;
mod digest;
mod figures;
mod findings;
mod page;
mod recovery;
mod tables;
mod words;

use std::fs;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::Value;

use self::contest::Comparisons;
use self::digest::Digest;
use self::page::Page;
use super::analysis::shares_of_bound;
use super::row::Row;
use super::{PLAN, host, rows};
use crate::error::Error;
use crate::logging::Log;

pub use self::figures::Figure;
pub use self::findings::Findings;

/// The name of the page, in a study's directory.
pub const PAGE: &str = "report.html";
/// The name of the directory of figures in it.
pub const FIGURES: &str = "figures";

/// `maitred report`: draws the report of the study in this directory, and prints what it found.
///
/// # Errors
/// There are no rows to read, or one is none; the report cannot be written.
pub fn command(directory: &Path) -> Result<(), Error> {
    let report = redraw(directory)?;
    let log = Log::start();
    if let Some(line) = torn_line(directory)? {
        let path = directory.join(rows::JSON_LINES);
        log.print(format_args!("maitred: {}:{line}: the last row was cut off, and is left out", path.display()));
    }
    let drawn = report.figures.iter().filter(|figure| figure.svg().is_some()).count();
    log.print(format_args!("{} and {}", directory.join(PAGE).display(), words::counted(drawn, "figure")));
    log.flush();
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(report.text().as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|reason| Error::Output { target: "standard output".to_owned(), reason })
}

/// Draws the report of the study in this directory again.
///
/// # Errors
/// As [`command`].
pub fn redraw(directory: &Path) -> Result<Report, Error> {
    let rows = rows::read(directory)?;
    let plan = optional(&directory.join(PLAN))?;
    let machine = optional(&directory.join(host::FILE))?.map(|text| {
        serde_json::from_str::<Value>(&text).map_err(|problem| Error::Configuration {
            file: directory.join(host::FILE),
            line: Some(problem.line()),
            key: None,
            problem: problem.to_string(),
            expected: "what is known of the machine, as JSON".to_owned(),
        })
    });
    let report = Report::new(&rows, plan.as_deref(), machine.transpose()?.as_ref());
    report.write(directory)?;
    Ok(report)
}

/// What is in a file that need not be there.
fn optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(reason) if reason.kind() == ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(Error::resource(format!("read {}", path.display()), reason)),
    }
}

/// The line of a last row that was cut off; none if all are whole.
fn torn_line(directory: &Path) -> Result<Option<usize>, Error> {
    let path = directory.join(rows::JSON_LINES);
    let look = || -> io::Result<Option<usize>> {
        let mut file = fs::File::open(&path)?;
        if file.metadata()?.len() == 0 {
            return Ok(None);
        }
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last == *b"\n" {
            return Ok(None);
        }
        let whole = fs::read(&path)?.iter().filter(|byte| **byte == b'\n').count();
        Ok(Some(whole + 1))
    };
    look().map_err(|reason| Error::resource(format!("read {}", path.display()), reason))
}

/// A report, drawn and not yet written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the study found.
    pub findings: Findings,
    /// The figures, those among them that could not be drawn.
    pub figures: Vec<Figure>,
    /// The page.
    pub html: String,
}

impl Report {
    /// The report of these rows, in whatever order they come, with the plan and the machine beside it if they are known.
    pub fn new(rows: &[Row], plan: Option<&str>, host: Option<&Value>) -> Report {
        let digest = Digest::new(rows);
        let comparisons = Comparisons::of(&digest);
        let shares = shares_of_bound(rows);
        let findings = Findings::of(&digest, &comparisons, &shares, host);
        let figures = figures::all(&digest, &comparisons.contests);
        let more = [tables::bound(&shares), tables::noise(&digest), tables::failed(&digest)];
        let figures_of = tables::measured(&digest).into_iter().chain(tables::efforts(&digest));
        let tables = figures_of.chain(more.into_iter().flatten()).collect();
        let page = Page { digest: &digest, findings: &findings, figures: &figures, tables, plan, host };
        let html = page.html();
        Report { findings, figures, html }
    }

    /// What was found, for a terminal.
    pub fn text(&self) -> String {
        let Findings { sentences, caveats } = &self.findings;
        let caveats: String = caveats.iter().map(|caveat| format!("- {caveat}\n")).collect();
        let between = if caveats.is_empty() { "" } else { "\n" };
        format!("{}\n{between}{caveats}", sentences.join("\n"))
    }

    /// Writes the page and the figures into a study's directory, each whole or not at all; figures of an earlier report
    /// that this one has not are removed.
    ///
    /// # Errors
    /// Something cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        let output = |path: &Path, reason: io::Error| Error::Output { target: path.display().to_string(), reason };
        let folder = directory.join(FIGURES);
        fs::create_dir_all(&folder).map_err(|reason| output(&folder, reason))?;
        for stale in self.stale(&folder).map_err(|reason| output(&folder, reason))? {
            fs::remove_file(&stale).map_err(|reason| output(&stale, reason))?;
        }
        for figure in &self.figures {
            let Some(svg) = figure.svg() else { continue };
            let path = folder.join(format!("{}.svg", figure.name));
            write_whole(&path, &svg).map_err(|reason| output(&path, reason))?;
        }
        let path = directory.join(PAGE);
        write_whole(&path, &self.html).map_err(|reason| output(&path, reason))
    }

    /// Files of figures that this report has not. Others are somebody else's.
    fn stale(&self, folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
        let mut stale = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".svg"))
            else {
                continue;
            };
            let is_ours = figures::KINDS.contains(&figures::kind_of(name));
            let is_drawn = self.figures.iter().any(|figure| figure.name == name && figure.drawing.is_ok());
            if is_ours && !is_drawn {
                stale.push(path);
            }
        }
        Ok(stale)
    }
}

/// Writes a file beside its place and renames it there: whoever has the old one open keeps it, and nobody reads a half.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let written = fs::write(beside, text).and_then(|()| fs::rename(beside, path));
    if written.is_err() {
        // What went wrong first is what is told.
        let _ = fs::remove_file(beside);
    }
    written
}
