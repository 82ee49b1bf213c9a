//! A test runner for a binary that brings its own `main`: it takes the arguments of cargo's and prints its lines, which
//! scripts add up.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

/// A test by its name.
pub(crate) type Test = (&'static str, fn());

/// What the command line asks for.
#[derive(Default)]
struct Asked {
    filters: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    ignored_only: bool,
}

/// Flags of cargo's runner that take a value and change nothing here.
const WITH_VALUE: &[&str] =
    &["--test-threads", "--format", "--color", "--logfile", "--report-time", "--shuffle-seed", "-Z"];

/// Runs those that the command line asks for, one after the other.
pub(crate) fn run_tests(tests: &[Test]) -> ExitCode {
    let asked = Asked::read(std::env::args().skip(1));
    let chosen: Vec<&Test> = tests.iter().filter(|(name, _)| asked.names(name)).collect();
    if asked.list {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        println!("\n{} tests, 0 benchmarks", chosen.len());
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} test{}", chosen.len(), if chosen.len() == 1 { "" } else { "s" });
    let begun = Instant::now();
    let mut failed = Vec::new();
    for (name, test) in &chosen {
        let passed = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        println!("\nfailures:");
        failed.iter().for_each(|name| println!("    {name}"));
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        chosen.len() - failed.len(),
        failed.len(),
        tests.len() - chosen.len(),
        begun.elapsed().as_secs_f64()
    );
    // The exit code of cargo's own.
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

impl Asked {
    fn read(mut words: impl Iterator<Item = String>) -> Asked {
        let mut asked = Asked::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--exact" => asked.exact = true,
                "--list" => asked.list = true,
                "--ignored" => asked.ignored_only = true,
                "--skip" => asked.skipped.extend(words.next()),
                word if WITH_VALUE.contains(&word) => drop(words.next()),
                word if word.starts_with('-') => asked.skipped.extend(word.strip_prefix("--skip=").map(str::to_owned)),
                _ => asked.filters.push(word),
            }
        }
        asked
    }

    fn names(&self, name: &str) -> bool {
        let fits = |filter: &String| if self.exact { filter == name } else { name.contains(filter.as_str()) };
        let is_wanted = self.filters.is_empty() || self.filters.iter().any(fits);
        // None of them is ever ignored.
        is_wanted && !self.skipped.iter().any(fits) && !self.ignored_only
    }
}
