//! `maitred simulate`: what queueing theory and a seeded simulator predict of servers, without any.
//!
//! ```text
//!   flags ─▶ plan ─▶ scenario ─▶ trace (as `maitred load` would send it) ─▶ simulator ─▶ sample ─▶ report ─▶ table, JSON
//!                       └──────▶ formulas, where one is known ───────────────────────────────────────▲
//! ```
//! What is simulated is in `queueing`, which knows neither seeds nor distributions; here a load and a system are put
//! together. `study` asks the same [`Scenario`] for the ideal system that measurements are held to.
//!
//! The modules, in reading order: `plan.rs` (what is asked), `scenario.rs` (a load and a system), `exact.rs` (which formula
//! is its own), `sample.rs` (what is kept of a run), `bound.rs` (the largest load that keeps an objective), `report.rs` and
//! `table.rs`. The chapter is `design/theory.md`.

pub mod bound;
pub mod exact;
pub mod plan;
pub mod report;
pub mod sample;
pub mod scenario;
mod table;

use std::io::{self, Write};

use crate::cli::SimulateArgs;
use crate::error::Error;

pub use self::bound::Bound;
pub use self::plan::Plan;
pub use self::report::Report;
pub use self::scenario::Scenario;

/// `maitred simulate`.
///
/// # Errors
/// Wrong usage, or output that cannot be written.
pub fn command(args: &SimulateArgs) -> Result<(), Error> {
    let plan = Plan::resolve(args)?;
    let mut stdout = io::stdout().lock();
    // A point may take seconds: for people each is shown when it is known.
    let shown = |text: String| write!(stdout, "{text}").and_then(|()| stdout.flush());
    let done = if args.json { print_json(&plan, shown) } else { print_table(&plan, shown) };
    done.map_err(|reason| Error::Output { target: "standard output".to_owned(), reason })
}

fn print_json(plan: &Plan, mut print: impl FnMut(String) -> io::Result<()>) -> io::Result<()> {
    let report = Report::of(plan);
    print(serde_json::to_string(&report).expect("a report is JSON") + "\n")
}

fn print_table(plan: &Plan, mut print: impl FnMut(String) -> io::Result<()>) -> io::Result<()> {
    print(table::heading(plan))?;
    for load in &plan.loads {
        print(table::point(&report::Point::of(&plan.scenario, *load)))?;
    }
    match &plan.objective {
        Some(objective) => print(table::objective(&report::Kept::of(&plan.scenario, objective))),
        None => Ok(()),
    }
}
