//! A plan as somebody wrote it, in a file or as flags: parameters by name, each with its values and where they stand.
//!
//! Knows TOML, and which parameters there are; what a value means is for `plan.rs` and those who run with it. Layers
//! override each other by name: the file, then its `[quick]` table if it is asked for, then the flags. Read next:
//! `cells.rs`, which tries the values.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::names;
use crate::config::Unfit;
use crate::config::source::{Source, configuration, contents, decimal, described, in_order, nearest, wrong_type};
use crate::error::Error;

/// A parameter with what was given for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    /// Its name in plans.
    pub(super) name: String,
    /// At least one; several vary.
    pub(super) values: Vec<String>,
    /// Where that stands.
    pub(super) origin: Origin,
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Origin {
    /// In a file, on this line, under this name.
    File(PathBuf, usize, String),
    /// In this flag.
    Flag(String),
}

impl Origin {
    /// The error of a value that stands here.
    pub(super) fn error(&self, unfit: Unfit) -> Error {
        match self {
            Origin::File(path, line, key) => configuration(path.clone(), *line, key, unfit),
            Origin::Flag(flag) => Error::Usage { flag: flag.clone(), problem: unfit.problem, expected: unfit.expected },
        }
    }
}

/// What a plan file says.
#[derive(Debug, Default)]
pub(super) struct File {
    /// The parameters, in the order in which they stand.
    pub(super) given: Vec<Given>,
    /// Those of the `[quick]` table; none if there is no such table.
    pub(super) quick: Option<Vec<Given>>,
}

/// Reads the plan at `path`.
///
/// # Errors
/// The first thing that is wrong with it, with its line and key.
pub(super) fn read(path: &Path) -> Result<File, Error> {
    let text = contents(path)?;
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<File, Error> {
    let source = Source { path, text };
    let table = DeTable::parse(text).map_err(|error| source.not_toml(&error))?;
    let mut file = File::default();
    for (name, value) in in_order(table.get_ref()) {
        let line = source.line(name.span().start);
        let name: &str = name.get_ref();
        let table = || {
            let problem = format!("{} is not a table", described(value.get_ref()));
            value.get_ref().as_table().ok_or_else(|| source.error(line, name, Unfit::new(problem, format!("[{name}]"))))
        };
        match name {
            "vary" => parameters(&source, table()?, Lists::Expected, "vary.", &mut file.given)?,
            "quick" => parameters(&source, table()?, Lists::Allowed, "quick.", file.quick.insert(Vec::new()))?,
            _ => file.given.push(parameter(&source, line, name, value.get_ref(), Lists::Refused, "")?),
        }
    }
    let given = [&file.given[..], file.quick.as_deref().unwrap_or(&[])];
    for (at, twice) in given.iter().flat_map(|given| given.iter().enumerate().map(move |(at, one)| (&given[..at], one)))
    {
        if at.iter().any(|earlier| earlier.name == twice.name) {
            let expected = "it once, either at the top or in [vary]";
            return Err(twice.origin.error(Unfit::new("stands twice", expected)));
        }
    }
    Ok(file)
}

/// Whether a parameter may have several values where it stands.
#[derive(Clone, Copy, PartialEq)]
enum Lists {
    Refused,
    Allowed,
    Expected,
}

fn parameters(
    source: &Source<'_>,
    table: &DeTable<'_>,
    lists: Lists,
    prefix: &str,
    into: &mut Vec<Given>,
) -> Result<(), Error> {
    for (name, value) in in_order(table) {
        let line = source.line(name.span().start);
        into.push(parameter(source, line, name.get_ref(), value.get_ref(), lists, prefix)?);
    }
    Ok(())
}

fn parameter(
    source: &Source<'_>,
    line: usize,
    name: &str,
    value: &DeValue<'_>,
    lists: Lists,
    prefix: &str,
) -> Result<Given, Error> {
    let key = format!("{prefix}{name}");
    let unfit = |unfit| source.error(line, &key, unfit);
    if !names::is_known(name) {
        return Err(unfit(unknown(name)));
    }
    if lists == Lists::Expected && !names::may_vary(name) {
        return Err(unfit(Unfit::new("does not vary within a study", format!("{name} at the top, with one value"))));
    }
    let values = match value {
        DeValue::Array(values) => {
            let several: Result<Vec<String>, Unfit> = values.iter().map(|value| scalar(value.get_ref())).collect();
            let several = several.map_err(unfit)?;
            if several.is_empty() {
                return Err(unfit(Unfit::new("the list is empty", "at least one value")));
            }
            if lists == Lists::Refused && names::may_vary(name) {
                return Err(unfit(Unfit::new("a list stands at the top", format!("one value, or {name} in [vary]"))));
            }
            several
        }
        one => vec![scalar(one).map_err(unfit)?],
    };
    if !names::may_vary(name) && values.len() > 1 && name != names::PHASES {
        return Err(unfit(Unfit::new("does not vary within a study", "one value")));
    }
    Ok(Given { name: name.to_owned(), values, origin: Origin::File(source.path.to_owned(), line, key) })
}

/// A value as a flag would take it.
fn scalar(value: &DeValue<'_>) -> Result<String, Unfit> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(integer) => Ok(decimal(integer)),
        DeValue::Float(float) => Ok(float.as_str().to_owned()),
        DeValue::Boolean(on) => Ok(if *on { "on" } else { "off" }.to_owned()),
        other => wrong_type("a string, a number, a boolean, or a list of them in [vary]".to_owned(), other),
    }
}

/// What is wrong with a name that no parameter has.
pub(super) fn unknown(name: &str) -> Unfit {
    let known: Vec<&str> = names::all().collect();
    let expected = match (name, nearest(name, &known)) {
        // As flags call it.
        ("slo", _) => "objective".to_owned(),
        (_, Some(near)) => near.to_owned(),
        (_, None) => format!("one of {}", known.join(", ")),
    };
    Unfit::new("unknown key", expected)
}
