//! What of a plan is still to be run, where some of its rows are there already.
//!
//! A directory says by its plan which study it has. That is not enough: rows may have been copied there, or be of a
//! machine with other cores. So each row is held against the run of its number, and one that was made otherwise is an
//! error with its line, before anything is run. Read next: `order.rs`, where runs have their numbers.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use serde_json::{Value, json};

use super::order::{self, Run};
use super::plan::Plan;
use super::row::{Parameters, Row};
use crate::error::Error;

/// The runs of the plan that have no row yet, in their order. The rows are those of the file at `path`, one a line.
///
/// # Errors
/// A row that is of no run of this plan, or of the same as an earlier one.
pub(super) fn left(plan: &Plan, rows: &[Row], path: &Path) -> Result<VecDeque<Run>, Error> {
    let runs = order::runs(plan);
    let by_id: BTreeMap<usize, &Run> = runs.iter().map(|run| (run.id, run)).collect();
    let mut lines: BTreeMap<usize, usize> = BTreeMap::new();
    for (line, row) in (1..).zip(rows) {
        let foreign = |problem: String| Error::Configuration {
            file: path.to_owned(),
            line: Some(line),
            key: None,
            problem,
            expected: "each run of this study once, or another directory".to_owned(),
        };
        let Some(run) = by_id.get(&row.run) else {
            return Err(foreign(format!("run {} is none of the plan, which has {}", row.run, runs.len())));
        };
        if let Some((name, has, should)) = difference(row, run, plan) {
            return Err(foreign(format!("run {} has {name} = {has}, and in the plan {should}", row.run)));
        }
        if let Some(earlier) = lines.insert(row.run, line) {
            return Err(foreign(format!("run {} stands in line {earlier} already", row.run)));
        }
    }
    Ok(runs.into_iter().filter(|run| !lines.contains_key(&run.id)).collect())
}

/// The first in which the row is not what its run asks for: its name, what the row has, what the plan has.
fn difference(row: &Row, run: &Run, plan: &Plan) -> Option<(String, Value, Value)> {
    let cell = &plan.cells[run.cell];
    let place = [
        ("configuration", json!(row.configuration), json!(cell.configuration)),
        ("point", json!(row.point), json!(cell.point)),
        ("repeat", json!(row.repeat), json!(run.repeat)),
        ("order", json!(row.order), json!(run.order)),
        ("twin", json!(row.twin), json!(run.twin)),
    ];
    let place = place.into_iter().map(|(name, has, should)| (name.to_owned(), has, should));
    let should = fields(&Parameters { seed: run.seed, ..cell.parameters.clone() });
    let parameters =
        fields(&row.parameters).into_iter().zip(should).map(|((name, has), (_, should))| (name, has, should));
    place.chain(parameters).find(|(_, has, should)| has != should)
}

fn fields(parameters: &Parameters) -> Vec<(String, Value)> {
    let Value::Object(fields) = json!(parameters) else { unreachable!("parameters are an object") };
    fields.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::row;
    use super::*;
    use crate::cli::StudyArgs;

    fn plan() -> Plan {
        let some = |text: &str| Some(text.to_owned());
        let args = StudyArgs { workers: some("1,2"), load: some("0.5"), repeats: some("2"), ..StudyArgs::default() };
        Plan::resolve(&args, &[0, 1]).expect("it is a plan")
    }

    fn made(plan: &Plan) -> Vec<Row> {
        let of = |run: Run| {
            let cell = &plan.cells[run.cell];
            let parameters = Parameters { seed: run.seed, ..cell.parameters.clone() };
            let (configuration, point) = (cell.configuration.clone(), cell.point.clone());
            let Run { id, repeat, order, twin, .. } = run;
            let row = Row { run: id, repeat, order, twin, configuration, point, parameters, ..row() };
            Row::from_line(&row.to_line()).expect("it is a row")
        };
        order::runs(plan).into_iter().map(of).collect()
    }

    #[test]
    fn what_has_a_row_is_not_run_again() {
        let plan = plan();
        let (rows, path) = (made(&plan), Path::new("rows.jsonl"));
        for many in 0..=rows.len() {
            let left = left(&plan, &rows[..many], path).expect("they are of the plan");
            assert_eq!(left, &order::runs(&plan)[many..], "INVARIANT reads-back: {many}");
        }
    }

    #[test]
    fn rows_of_another_plan_are_refused_with_their_line() {
        let plan = plan();
        type Change = fn(&mut Row);
        let table: [(Change, &str); 7] = [
            (|row| row.run = 60, "run 60 is none of the plan, which has 6"),
            (|row| row.configuration = "workers=9".to_owned(), "has configuration = \"workers=9\", and in the plan \""),
            (|row| row.point = "load=0.7".to_owned(), "has point = \"load=0.7\", and in the plan \"load=0.5\""),
            (|row| row.parameters.seed += 1, "has seed = "),
            (|row| row.parameters.duration_s = 9.0, "has duration_s = 9.0, and in the plan 3.0"),
            (|row| row.parameters.server_cores = vec![5], "has server_cores = [5], and in the plan [0]"),
            (|row| row.repeat = 7, "has repeat = 7, and in the plan "),
        ];
        for (change, expected) in table {
            let mut rows = made(&plan);
            change(&mut rows[2]);
            let refused = left(&plan, &rows, Path::new("rows.jsonl")).expect_err(expected);
            let told = refused.to_string();
            assert!(told.starts_with("rows.jsonl:3: run ") && told.contains(expected), "{told}");
            assert_eq!(refused.exit_code(), 78);
        }
        let mut twice = made(&plan);
        twice.push(twice[1].clone());
        let told = left(&plan, &twice, Path::new("rows.jsonl")).expect_err("it stands twice").to_string();
        assert!(told.starts_with("rows.jsonl:7: run ") && told.contains(" stands in line 2 already; "), "{told}");
    }
}
