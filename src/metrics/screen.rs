//! [`Screen`]: the summary on a terminal of 80 columns. Large numbers are rounded; the JSON has them whole.

use std::fmt::{self, Write};

use super::summary::{Summary, TurnSummary};

/// Columns of a terminal that nobody has widened.
const COLUMNS: usize = 80;

/// Lines for threads; of more, the last line is the sum of those that have none.
const THREADS_MOST: usize = 12;

/// Where a line goes on that was too long.
const INDENT: &str = "            ";

/// The summary, each line behind one space.
pub struct Screen<'a>(pub &'a Summary);

impl fmt::Display for Screen<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.0.write_counts(&mut text)?;
        self.0.write_stages(&mut text)?;
        text.lines().try_for_each(|line| write_folded(out, line))?;
        self.write_threads(out)
    }
}

impl Screen<'_> {
    fn write_threads(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading = ["turns", "calls", "read", "written", "r-blks", "w-blks", "parks", "starved"];
        write_columns(out, "thread", &heading.map(str::to_owned))?;
        let workers = &self.0.worker_turns;
        let poller = self.0.poller_turns.iter().map(|turns| ("poller".to_owned(), turns));
        let named = workers.iter().enumerate().map(|(number, turns)| (format!("worker-{number}"), turns));
        let shown = if workers.len() > THREADS_MOST { THREADS_MOST - 1 } else { workers.len() };
        for (name, turns) in poller.chain(named.take(shown)) {
            write_thread(out, &name, &[turns])?;
        }
        let others: Vec<&TurnSummary> = workers[shown..].iter().collect();
        if others.is_empty() { Ok(()) } else { write_thread(out, &format!("{} more", others.len()), &others) }
    }
}

fn write_thread(out: &mut fmt::Formatter<'_>, name: &str, turns: &[&TurnSummary]) -> fmt::Result {
    let sum = |count: fn(&TurnSummary) -> Option<u64>| {
        let known: Vec<u64> = turns.iter().filter_map(|turns| count(turns)).collect();
        if known.is_empty() { "-".to_owned() } else { rounded(known.iter().sum()) }
    };
    let counts: [fn(&TurnSummary) -> Option<u64>; 8] = [
        |turns| turns.turns,
        |turns| turns.calls,
        |turns| turns.read_bytes,
        |turns| turns.written_bytes,
        |turns| turns.read_blocks,
        |turns| turns.write_blocks,
        |turns| turns.parks,
        |turns| turns.starved,
    ];
    write_columns(out, name, &counts.map(sum))
}

fn write_columns(out: &mut fmt::Formatter<'_>, name: &str, columns: &[String; 8]) -> fmt::Result {
    write!(out, " {name:<11}")?;
    columns.iter().try_for_each(|column| write!(out, " {column:>7}"))?;
    writeln!(out)
}

/// A line as it is, or on several lines; it breaks where two spaces are.
fn write_folded(out: &mut impl Write, line: &str) -> fmt::Result {
    let mut rest = format!(" {line}");
    while rest.chars().count() > COLUMNS {
        let most = rest.char_indices().nth(COLUMNS).map_or(rest.len(), |(at, _)| at);
        // Not in the name that the line begins with.
        let indented = rest.len() - rest.trim_start().len();
        let from = indented.max(INDENT.len());
        let Some(at) = rest.get(from..most).and_then(|head| head.rfind("  ")) else { break };
        writeln!(out, "{}", rest[..from + at].trim_end())?;
        rest = format!("{INDENT}{}", rest[from + at..].trim_start());
    }
    writeln!(out, "{rest}")
}

/// A number in at most six columns.
fn rounded(number: u64) -> String {
    if number < 100_000 {
        return number.to_string();
    }
    let mut scaled = number as f64;
    for unit in ["K", "M", "G", "T", "P", "E"] {
        scaled /= 1_000.0;
        if scaled < 999.5 {
            return format!("{scaled:.*}{unit}", if scaled < 99.95 { 1 } else { 0 });
        }
    }
    unreachable!("2⁶⁴ is 18 E")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_few_columns() {
        for (number, shown) in [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100K"),
            (999_499, "999K"),
            (999_500, "1.0M"),
            (12_345_678, "12.3M"),
            (99_950_000, "100M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(rounded(number), shown);
        }
    }

    #[test]
    fn long_lines_go_on_below_where_there_are_two_spaces() {
        let long = format!("sessions   accepted 5  open 3{}", "  some_way_to_end 18446744073709551615".repeat(3));
        let mut folded = String::new();
        write_folded(&mut folded, &long).expect("a string takes everything");
        assert!(folded.lines().count() > 1 && folded.lines().all(|line| line.len() <= COLUMNS), "{folded}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&folded), words(&long), "nothing is lost");
        let mut short = String::new();
        write_folded(&mut short, "poller     polls 3").expect("a string takes everything");
        assert_eq!(short, " poller     polls 3\n");
    }
}
