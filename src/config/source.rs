//! A TOML file as text with lines: reading it, its keys in order, and errors that name file, line and key.
//!
//! Knows nothing of what keys mean, so that every file that a user writes is refused in the same way. Read next:
//! `file.rs`, the configuration; `study/plan/file.rs`, the plan of a study.

use std::io::Read;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Unfit};
use crate::error::Error;

/// Bytes that a file may have: a hundred times what all keys and a thousand listeners need. Keeps a slip such as
/// `--config /dev/zero` from filling the memory.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The text of the file at `path`, if it is no longer than [`MAX_FILE_BYTES`].
///
/// # Errors
/// It cannot be read, or is longer.
pub(crate) fn contents(path: &Path) -> Result<String, Error> {
    let unreadable = |problem: String| Error::Configuration {
        file: path.to_owned(),
        line: None,
        key: None,
        problem,
        expected: "a readable TOML file".to_owned(),
    };
    let file = std::fs::File::open(path).map_err(|reason| unreadable(format!("cannot be opened: {reason}")))?;
    let mut text = String::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    read.map_err(|reason| unreadable(format!("cannot be read: {reason}")))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(unreadable("is longer than 1MiB".to_owned()));
    }
    Ok(text)
}

/// The file that is being read, for its name and its lines.
pub(crate) struct Source<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    /// What is wrong with the key that stands on `line`.
    pub(crate) fn error(&self, line: usize, key: &str, unfit: Unfit) -> Error {
        configuration(self.path.to_owned(), line, key, unfit)
    }

    /// What is wrong with a text that is no TOML.
    pub(crate) fn not_toml(&self, error: &toml::de::Error) -> Error {
        let message = error.message().trim().replace('\n', " ");
        let (problem, expected) = message.split_once(", expected ").unwrap_or((&message, "valid TOML"));
        Error::Configuration {
            file: self.path.to_owned(),
            line: error.span().map(|span| self.line(span.start)),
            key: None,
            problem: format!("not TOML: {problem}"),
            expected: expected.to_owned(),
        }
    }

    /// The line, counted from one, of the byte at `offset`.
    pub(crate) fn line(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// The error for a key of a file.
pub(crate) fn configuration(file: PathBuf, line: usize, key: &str, unfit: Unfit) -> Error {
    let Unfit { problem, expected } = unfit;
    Error::Configuration { file, line: Some(line), key: Some(keys::shown(key)), problem, expected }
}

/// The entries of a table in the order in which they stand.
pub(crate) fn in_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t Spanned<toml::de::DeString<'i>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

/// A value of another type than its key takes.
pub(crate) fn wrong_type<T>(expected: String, value: &DeValue<'_>) -> Result<T, Unfit> {
    Err(Unfit::new(format!("{} has the wrong type", described(value)), expected))
}

/// A value as an error speaks of it.
pub(crate) fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{}\"", text.escape_debug()),
        DeValue::Integer(integer) => format!("the integer {}", decimal(integer)),
        DeValue::Float(float) => format!("the float {}", float.as_str()),
        DeValue::Boolean(on) => format!("the boolean {on}"),
        DeValue::Datetime(time) => format!("the date {time}"),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// An integer, however it is written, as people write it.
pub(crate) fn decimal(integer: &toml::de::DeInteger<'_>) -> String {
    let number = i128::from_str_radix(integer.as_str(), integer.radix());
    number.map_or_else(|_| integer.to_string(), |number| number.to_string())
}

/// The name that `typed` is most likely a slip of: a third of its letters may differ, and dashes stand for underscores.
pub(crate) fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let typed = typed.to_lowercase().replace('-', "_");
    let near = known.iter().map(|name| (distance(&typed, name), *name)).min()?;
    (near.0 * 3 <= near.1.len().max(3)).then_some(near.1)
}

/// Insertions, deletions and substitutions between the two (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (column, other) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
