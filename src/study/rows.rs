//! The rows of a study as files: `rows.jsonl`, one row a line, written as the runs end; `rows.csv`, the same for
//! spreadsheets.
//!
//! A line is on the disk before the next run begins, so that an interruption costs one run. A last line without its end
//! is such an interruption and no row; anything else that cannot be read is an error with its line. The table is made
//! of the rows and nothing else: same rows, same bytes.
//!
//! Read next: `run.rs`, which writes them; `analysis.rs`, which reads them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::row::Row;
use crate::error::Error;

/// The name of the file with one row a line, in a study's directory.
pub const JSON_LINES: &str = "rows.jsonl";
/// The name of the table.
pub const TABLE: &str = "rows.csv";

/// The figures of the table behind the parameters, by their paths. Later versions may add some at the end.
const FIGURES: &[&str] = &[
    "load.offered_per_s",
    "load.achieved_per_s",
    "load.requests",
    "load.unsent",
    "load.unanswered",
    "load.shed",
    "load.latency_ns.mean",
    "load.latency_ns.p50",
    "load.latency_ns.p90",
    "load.latency_ns.p99",
    "load.latency_ns.p99_9",
    "load.latency_ns.max",
    "load.server.cpu_ns_per_request",
    "load.server.voluntary_switches_per_request",
    "load.server.involuntary_switches_per_request",
    "load.server.run_delay_ns_per_request",
    "load.server.rss_bytes",
    "load.generator.cpu_util",
    "load.generator.late_sends",
    "server.poller.polls",
    "server.poller.events",
    "server.poller.wakes",
    "server.poller.parks",
    "server.poller.queue_depth_max",
    "load.stages_ns.late.mean",
    "load.stages_ns.unseen.mean",
    "load.stages_ns.queue.mean",
    "load.stages_ns.service.mean",
    "load.stages_ns.reply.mean",
    "predicted.servers",
    "predicted.utilization",
    "predicted.sojourn_ns.mean",
    "predicted.sojourn_ns.p50",
    "predicted.sojourn_ns.p90",
    "predicted.sojourn_ns.p99",
    "predicted.sojourn_ns.p99_9",
    "effort.system_calls_per_request",
    "effort.queue_empty_share",
    "effort.queue_depth_p99",
];

/// The numbers among the parameters that the table has, by their paths.
const NUMBERS: &[&str] = &[
    "parameters.workers",
    "parameters.demand_mean_ns",
    "parameters.load",
    "parameters.capacity_per_s",
    "parameters.rate_per_s",
    "parameters.connections",
    "parameters.depth",
    "parameters.requests_per_connection",
    "parameters.size_bytes",
    "parameters.duration_s",
];

/// The rows of the study in `directory`, in the order in which they were made; a torn last line is left out.
///
/// # Errors
/// There are none to read, or a line is no row: with its file and line.
pub fn read(directory: &Path) -> Result<Vec<Row>, Error> {
    let path = directory.join(JSON_LINES);
    let (rows, _) = read_file(&path)?;
    Ok(rows)
}

/// The rows, and how many bytes of the file they are.
fn read_file(path: &Path) -> Result<(Vec<Row>, u64), Error> {
    let bytes = fs::read(path).map_err(|reason| Error::resource(format!("read {}", path.display()), reason))?;
    let mut rows = Vec::new();
    let mut whole = 0;
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(line_text) = line.strip_suffix(b"\n") else { break };
        let row = std::str::from_utf8(line_text).map_err(|error| error.to_string()).and_then(Row::from_line);
        rows.push(row.map_err(|problem| broken(path, number + 1, &problem))?);
        whole += line.len() as u64;
    }
    Ok((rows, whole))
}

fn broken(path: &Path, line: usize, problem: &str) -> Error {
    Error::Configuration {
        file: path.to_owned(),
        line: Some(line),
        key: None,
        problem: problem.to_owned(),
        expected: format!("a row of {}, as `maitred study` writes it", super::row::SCHEMA),
    }
}

/// The file that rows are added to.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
}

impl Writer {
    /// Opens the rows of the study in `directory` for more, and tells which are there. What is torn is cut off.
    ///
    /// # Errors
    /// The file cannot be opened, or has something else in it.
    pub fn open(directory: &Path) -> Result<(Writer, Vec<Row>), Error> {
        let path = directory.join(JSON_LINES);
        let output = |reason: io::Error| Error::Output { target: path.display().to_string(), reason };
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(output)?;
        // Held until the process ends, however it does.
        if file.try_lock().is_err() {
            return Err(output(io::Error::new(ErrorKind::WouldBlock, "another study is under way there")));
        }
        let (rows, whole) = read_file(&path)?;
        file.set_len(whole).map_err(output)?;
        Ok((Writer { file, path }, rows))
    }

    /// Adds a row, and returns when the disk has it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, row: &Row) -> Result<(), Error> {
        let line = row.to_line() + "\n";
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|reason| Error::Output { target: self.path.display().to_string(), reason })
    }
}

/// The rows as a table: a heading, then a line each, in the order of runs in the plan. Commas and quotes inside a field
/// are quoted (RFC 4180); what is absent is empty.
pub fn table(rows: &[Row]) -> String {
    let texts =
        ["run", "repeat", "order", "status", "reason", "aa", "twin", "configuration", "point", "engine", "service"];
    let more = ["demand", "kind", "arrivals", "pin", "seed", "options", "limited_by"];
    let numbers = NUMBERS.iter().map(|path| path.strip_prefix("parameters.").unwrap_or(path));
    let heading = texts.into_iter().chain(more).chain(numbers).chain(FIGURES.iter().copied());
    let mut table = line(heading.map(str::to_owned));
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|row| (row.run, row.order));
    for row in sorted {
        let figures = NUMBERS.iter().chain(FIGURES).map(|path| row.figure(path).map_or_else(String::new, number));
        table.push_str(&line(texts_of(row).into_iter().chain(figures)));
    }
    table
}

fn texts_of(row: &Row) -> [String; 18] {
    let parameters = &row.parameters;
    let options = parameters.options.iter().map(|(name, value)| format!("{name}={value}"));
    let limits = row.limited_by.iter().map(|limit| limit.name());
    [
        row.run.to_string(),
        row.repeat.to_string(),
        row.order.to_string(),
        name_of(&row.status),
        row.reason.clone().unwrap_or_default(),
        row.aa.to_string(),
        row.twin.as_ref().map(name_of).unwrap_or_default(),
        row.configuration.clone(),
        row.point.clone(),
        parameters.engine.clone(),
        parameters.service.clone(),
        parameters.demand.clone().unwrap_or_default(),
        parameters.kind.clone().unwrap_or_default(),
        parameters.arrivals.clone(),
        parameters.pin.name().to_owned(),
        parameters.seed.to_string(),
        options.collect::<Vec<_>>().join(" "),
        limits.collect::<Vec<_>>().join(" "),
    ]
}

/// The word that stands in a row for one of several.
fn name_of(word: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(word).expect("a word is JSON");
    value.as_str().expect("it is written as a word").to_owned()
}

/// Whole numbers without decimals, so that a spreadsheet shows counts as counts.
fn number(figure: f64) -> String {
    format!("{figure}")
}

fn line(fields: impl Iterator<Item = String>) -> String {
    let quoted = |field: String| match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    };
    fields.map(quoted).collect::<Vec<_>>().join(",") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::row;
    use super::super::row::{Row, Status, Twin};
    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("there is room for a directory")
    }

    #[test]
    fn rows_are_there_as_soon_as_they_are_added_and_a_torn_one_is_not() {
        let directory = directory();
        let (mut writer, none) = Writer::open(directory.path()).expect("it is a new file");
        assert!(none.is_empty());
        let second = Writer::open(directory.path()).expect_err("one study at a time").to_string();
        assert!(second.ends_with("rows.jsonl: another study is under way there"), "{second}");
        let rows = [row(), Row { run: 4, ..row() }, Row { run: 5, status: Status::Failed, ..row() }];
        for (written, next) in rows.iter().enumerate() {
            writer.add(next).expect("it can be written");
            assert_eq!(read(directory.path()).expect("they are rows"), rows[..=written]);
        }
        drop(writer);

        // Cut anywhere in its last line, the file has the rows before it, and takes the lost one again.
        let path = directory.path().join(JSON_LINES);
        let whole = fs::read(&path).expect("it was written");
        let last = whole.len() - (rows[2].to_line().len() + 1);
        for cut in [last, last + 1, last + 100, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).expect("it can be cut");
            assert_eq!(read(directory.path()).expect("they are rows"), rows[..2], "cut at {cut}");
            let (mut writer, there) = Writer::open(directory.path()).expect("it is a file of rows");
            assert_eq!(there, rows[..2]);
            writer.add(&rows[2]).expect("it can be written");
            assert_eq!(fs::read(&path).expect("it is there"), whole, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_row_is_named_by_its_line() {
        let directory = directory();
        let path = directory.path().join(JSON_LINES);
        fs::write(&path, format!("{}\n{{\"schema\":1}}\n", row().to_line())).expect("it can be written");
        let told = read(directory.path()).expect_err("the second line is no row").to_string();
        assert!(told.starts_with(&format!("{}:2: invalid type", path.display())), "{told}");
        assert!(Writer::open(directory.path()).is_err(), "what is no study is not written to");
        assert!(fs::read_to_string(&path).expect("it is there").ends_with("{\"schema\":1}\n"));

        let nowhere = read(&directory.path().join("none")).expect_err("there is no such directory").to_string();
        assert!(nowhere.contains("none/rows.jsonl: No such file"), "{nowhere}");
    }

    #[test]
    fn the_table_has_a_line_a_row_in_the_order_of_the_plan_and_the_same_bytes_each_time() {
        let second = Row { run: 9, aa: true, twin: Some(Twin::Second), ..row() };
        let mut failed = Row { run: 1, status: Status::Failed, load: None, ..row() };
        failed.reason = Some("it said \"no\", twice\nand ended".to_owned());
        let text = table(&[second.clone(), failed.clone(), row()]);
        assert_eq!(text, table(&[row(), second, failed]), "the order of the runs is not in it");

        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(
            lines[1].starts_with("1,1,7,failed,\"it said \"\"no\"\", twice\nand ended\",false,,engine=pool"),
            "{text}"
        );
        assert!(
            lines[3].starts_with("9,1,7,ok,,true,second,engine=pool workers=2,load=0.5,pool,work,exp:2ms,"),
            "{text}"
        );
        let column = |name: &str| lines[0].split(',').position(|heading| heading == name).expect("it is a column");
        // The third row has no quoted field.
        let cell = |name: &str| lines[2].split(',').nth(column(name)).expect("every row has every column");
        let table = [
            ("run", "3"),
            ("workers", "2"),
            ("seed", "18446744073709551601"),
            ("depth", ""),
            ("options", "rearm=oneshot"),
            ("limited_by", "generator"),
            ("load.latency_ns.p99", "9000000"),
            ("load.latency_ns.p99_9", ""),
            ("load.achieved_per_s", "499.3333333333333"),
            ("server.poller.wakes", "12"),
            ("predicted.sojourn_ns.mean", "2666666.6666666665"),
            ("effort.system_calls_per_request", "4.25"),
            ("effort.queue_depth_p99", ""),
        ];
        for (name, expected) in table {
            assert_eq!(cell(name), expected, "{name}");
        }
        assert_eq!(lines[0].split(',').count(), lines[2].split(',').count());
    }
}
