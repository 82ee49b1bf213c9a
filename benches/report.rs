//! How long a study's report takes: of a thousand rows of studies that never ran.
//!
//! `cargo bench --bench report` prints the times of a few reports and the median; `-- DIR` writes rows and report to `DIR`,
//! to be looked at.

use std::path::PathBuf;
use std::time::Instant;
use std::{env, fs};

use maitred::study::report;
use maitred::study::row::Row;

#[path = "../tests/support/rows.rs"]
mod support;

/// The rows of a report.
const ROWS: usize = 1_000;
/// The reports that are timed.
const REPORTS: usize = 7;
/// What the median may take.
const GOAL_S: f64 = 2.0;

fn main() {
    // Started by a test runner, it measures nothing.
    if !env::args().any(|argument| argument == "--bench") {
        println!("measured by: cargo bench --bench report");
        return;
    }
    let kept = env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let temporary = tempfile::tempdir().expect("there is room for a directory");
    let directory = kept.as_deref().unwrap_or(temporary.path());
    fs::create_dir_all(directory).expect("the directory can be made");
    let lines: String = rows().iter().map(|row| row.to_line() + "\n").collect();
    fs::write(directory.join("rows.jsonl"), lines).expect("rows can be written");

    let mut times: Vec<f64> = (0..REPORTS)
        .map(|_| {
            let began = Instant::now();
            report::redraw(directory).expect("rows make a report");
            began.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let median = times[REPORTS / 2];
    let verdict = if median < GOAL_S { "met" } else { "MISSED" };
    println!("report on {ROWS} rows: median {median:.3} s of {REPORTS}, slowest {:.3} s", times[REPORTS - 1]);
    println!("goal: under {GOAL_S} s: {verdict}");
    if let Some(kept) = kept {
        println!("kept: {}", kept.join(report::PAGE).display());
    }
}

/// Rows of every kind, more than one study's worth.
fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = (1..).flat_map(support::rich).take(ROWS).collect();
    for (run, row) in rows.iter_mut().enumerate() {
        (row.run, row.order) = (run, run);
    }
    rows
}
