//! Tables in Markdown from rows in JSON. Draws, never measures: same rows, same bytes.

use std::fmt::Write as _;

use serde_json::Value;

const BEGIN: &str = "<!-- BEGIN table ";
const END: &str = "<!-- END table -->";

/// What every ratio is to.
const BASELINE: &str = "bare-1";

/// A table in a page.
pub(crate) struct Marker {
    /// Which renderer.
    pub(crate) kind: String,
    /// The file with its rows, from the root of the repository.
    pub(crate) rows: String,
    /// Where the table begins and ends in the page, markers apart.
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

/// The tables of a page: between `BEGIN table KIND: ROWS (regenerate: COMMAND)` and `END table`.
///
/// # Panics
/// If a marker is odd or has no end.
pub(crate) fn markers(page: &str, name: &str) -> Vec<Marker> {
    let mut found = Vec::new();
    let mut at = 0;
    for line in page.split_inclusive('\n') {
        at += line.len();
        let Some(rest) = line.strip_prefix(BEGIN) else { continue };
        let (kind, rest) = rest.split_once(": ").unwrap_or_else(|| panic!("{name}: a marker names no kind: {line}"));
        let (rows, _) =
            rest.split_once(" (regenerate: ").unwrap_or_else(|| panic!("{name}: a marker has no command: {line}"));
        let len = page[at..].find(END).unwrap_or_else(|| panic!("{name}: there is no `{END}` after {line}"));
        found.push(Marker { kind: kind.into(), rows: rows.into(), begin: at, end: at + len });
    }
    found
}

/// A column: its title, the figure, what it is divided by.
type Column = (&'static str, &'static str, f64);

const REQUESTS: Column = ("requests/s, thousands", "requests_per_s", 1e3);
const CPU: Column = ("CPU per request, µs", "cpu_ns_per_request", 1e3);
const P50: Column = ("p50, µs", "p50_ns", 1e3);
const P99: Column = ("p99, µs", "p99_ns", 1e3);
const SWITCHES: Column = ("switches per request", "switches_per_request", 1.0);
const MEMORY: Column = ("memory per idle connection, KiB", "bytes_per_connection", 1024.0);

/// The table of all engines, of `maitred.engines/1`.
pub(crate) fn render_engines(all: &Value) -> String {
    assert_eq!(all["schema"], "maitred.engines/1", "rows of another kind");
    let mut notes = Footnotes::default();
    let mut text = heading(all);
    for (title, load, memory) in
        [("Connections that stay", "steady", Some("idle")), ("One request per connection", "churn", None)]
    {
        let rows = rows(all, load);
        let baseline = rows.iter().copied().find(|row| row["engine"] == BASELINE).unwrap_or(&Value::Null);
        let mut titles = vec!["engine".to_owned()];
        for column in [REQUESTS, P50, P99, CPU, SWITCHES] {
            titles.push(column.0.into());
            if column == REQUESTS || column == CPU {
                titles.push(format!("to `{BASELINE}`"));
            }
        }
        titles.extend(memory.map(|_| MEMORY.0.into()));
        let _ = write!(text, "\n**{title}**{}\n\n| {} |\n", described(all, load, &rows), titles.join(" | "));
        let _ = writeln!(text, "|---|{}", "--:|".repeat(titles.len() - 1));
        for row in rows {
            let mut cells = vec![format!("`{}`{}", row["engine"].as_str().expect("a name"), notes.of_row(row))];
            for column in [REQUESTS, P50, P99, CPU, SWITCHES] {
                cells.push(cell(row, column, &mut notes));
                if column == REQUESTS || column == CPU {
                    cells
                        .push(ratio(row, baseline, column.1).map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")));
                }
            }
            if let Some(load) = memory {
                let idle = self::rows(all, load).into_iter().find(|idle| idle["engine"] == row["engine"]);
                cells.push(match idle {
                    Some(idle) => cell(idle, MEMORY, &mut notes) + &notes.of_row(idle),
                    None => notes.unknown("it was not measured"),
                });
            }
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
    if !notes.0.is_empty() {
        text.push('\n');
    }
    for (at, note) in notes.0.iter().enumerate() {
        // Two blanks break the line.
        let blanks = if at + 1 < notes.0.len() { "  " } else { "" };
        let _ = writeln!(text, "({}) {note}.{blanks}", letter(at));
    }
    text
}

/// What engines spend beside loops that do only their system calls, of `maitred.limit/1`: a table for each row.
pub(crate) fn render_limits(all: &Value) -> String {
    assert_eq!(all["schema"], "maitred.limit/1", "rows of another kind");
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let host = &all["host"];
    let mut rendered =
        format!("Measured on {}, {} processors, Linux {}.\n", text(&host["cpu"]), host["cpus"], text(&host["kernel"]));
    for row in list(&all["rows"]) {
        let (rounds, window_s) = (&row["rounds"], &row["window_s"]);
        let _ = write!(
            rendered,
            "\n**{}**; {}; {rounds} rounds of {window_s} s\n\n| variant | CPU ns per request | to `bare-1` | to `ring-1` \
             |\n|---|--:|--:|--:|\n",
            text(&row["load"]),
            text(&row["placement"]),
        );
        for figure in list(&row["metrics"]).iter().filter(|figure| figure["metric"] == "CPU ns/request") {
            let ratio = |to: &str| {
                let found = list(&figure["ratios"]).into_iter().find(|ratio| ratio["to"] == to);
                let part = |name: &str| found.as_ref().and_then(|ratio| ratio["ratio"][name].as_f64());
                match (part("center"), part("low"), part("high")) {
                    (Some(center), Some(low), Some(high)) => format!("{center:.3} [{low:.3}, {high:.3}]"),
                    _ => String::new(),
                }
            };
            let median = figure["median"].as_f64().map_or_else(|| "-".into(), show);
            let _ = writeln!(
                rendered,
                "| `{}` | {median} | {} | {} |",
                text(&figure["variant"]),
                ratio("bare-1"),
                ratio("ring-1")
            );
        }
    }
    rendered
}

fn rows<'a>(all: &'a Value, load: &str) -> Vec<&'a Value> {
    all["rows"].as_array().expect("there are rows").iter().filter(|row| row["load"] == load).collect()
}

/// The machine, and how it was measured.
fn heading(all: &Value) -> String {
    let (host, options, disturbed) = (&all["host"], &all["options"], &all["disturbance"]);
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let percent = |name: &str| {
        let of = |which: &str| {
            disturbed[name][which].as_f64().map_or_else(|| "?".into(), |share| format!("{:.0}", share * 100.0))
        };
        format!("{} % of a processor (at most {} %)", of("median"), of("highest"))
    };
    // A sentence a line, since their lengths follow the rows.
    format!(
        "Measured on {}, {} processors, Linux {}; {}.\n{} rounds, of each load {} s a round after {} s of warm-up: the median \
         of the rounds, in parentheses the lowest and the\nhighest; *to `{BASELINE}`* is the median of the ratios round by \
         round.\nMeanwhile other programs used {}, and the host took {}.\n",
        text(&host["cpu"]),
        host["cpus"],
        text(&host["kernel"]),
        text(&options["placement"]),
        options["rounds"],
        options["window_s"],
        options["warmup_s"],
        percent("other_programs_cpus"),
        percent("stolen_cpus"),
    )
}

/// What most of the rows were loaded with.
fn described(all: &Value, load: &str, rows: &[&Value]) -> String {
    let connections = rows.iter().filter_map(|row| row["connections"].as_u64()).max().unwrap_or(0);
    let idle = show(all["options"]["idle_connections"].as_f64().unwrap_or(0.0));
    match load {
        "steady" => {
            format!(": {connections} connections, one request of 64 B in flight on each; memory with {idle} of them")
        }
        _ => format!(
            ": {connections} connections at once, each replaced after its one request of 64 B; connecting apart"
        ),
    }
}

/// `104 (98.1–110)`, or `-` with the reason.
fn cell(row: &Value, (_, name, unit): Column, notes: &mut Footnotes) -> String {
    let figure = &row["figures"][name];
    let show = |which: &str| figure[which].as_f64().map(|value| show(value / unit));
    match (show("median"), show("lowest"), show("highest")) {
        (Some(median), Some(lowest), Some(highest)) => format!("{median} ({lowest}–{highest})"),
        _ => {
            let reason = [&row["reason"], &figure["reason"]].into_iter().find_map(Value::as_str);
            notes.unknown(reason.unwrap_or("it was not measured"))
        }
    }
}

/// The median over the rounds that both have.
fn ratio(row: &Value, baseline: &Value, name: &str) -> Option<f64> {
    let values = |row: &Value| row["figures"][name]["values"].as_array().cloned().unwrap_or_default();
    row["figures"][name]["median"].as_f64()?;
    let pairs = values(row).into_iter().zip(values(baseline));
    let mut ratios: Vec<f64> = pairs
        .filter_map(|(value, below)| Some(value.as_f64()? / below.as_f64().filter(|below| *below > 0.0)?))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let count = ratios.len();
    (count > 0).then(|| f64::midpoint(ratios[(count - 1) / 2], ratios[count / 2]))
}

/// Three digits that count, thousands apart.
fn show(value: f64) -> String {
    let size = value.abs();
    let places = if size >= 100.0 {
        0
    } else if size >= 10.0 {
        1
    } else if size >= 0.9995 {
        2
    } else {
        3
    };
    let digits = format!("{size:.places$}");
    let whole = digits.split('.').next().expect("a number has a first part").len();
    let mut shown = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at < whole && (whole - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Each text once, in the order of their use.
#[derive(Default)]
struct Footnotes(Vec<String>);

impl Footnotes {
    fn unknown(&mut self, reason: &str) -> String {
        format!("- ({})", self.refer(reason))
    }

    /// What is different about a row; empty if nothing is.
    fn of_row(&mut self, row: &Value) -> String {
        if row["reason"].is_string() {
            return String::new();
        }
        let failed = row["failures"].as_array().map_or(0, Vec::len);
        let failed = (failed > 0).then(|| {
            let first = row["failures"][0].as_str().unwrap_or_default();
            format!("without {failed} of the rounds, which failed: {first}")
        });
        let settings = row["settings"].as_str().filter(|settings| !settings.is_empty());
        let settings = settings.map(|settings| format!("with `{settings}`"));
        let texts = [row["note"].as_str().map(str::to_owned), settings, failed];
        let letters: Vec<String> = texts.into_iter().flatten().map(|text| self.refer(&text)).collect();
        if letters.is_empty() { String::new() } else { format!(" ({})", letters.join(", ")) }
    }

    fn refer(&mut self, text: &str) -> String {
        let at = self.0.iter().position(|known| known == text).unwrap_or_else(|| {
            self.0.push(text.to_owned());
            self.0.len() - 1
        });
        letter(at)
    }
}

/// a, b, … z, aa, ab, …
fn letter(at: usize) -> String {
    let last = char::from(b'a' + u8::try_from(at % 26).expect("it is below 26"));
    if at < 26 { last.to_string() } else { format!("{}{last}", letter(at / 26 - 1)) }
}
