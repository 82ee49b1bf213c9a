//! The configuration file: what is in it, each value with the line it stands on.
//!
//! Knows TOML, names and types, nothing of ranges or of what fits together. Keys come out in the order in which they
//! stand, so that the first mistake of a file is the one reported. Read next: `listen.rs`, for the tables `[[listen]]`.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::keys::{self, Form, KEYS, Unfit};
use super::listen::{Asked, Field};
use super::source::{Source, contents, decimal, described, in_order, nearest, wrong_type};
use crate::error::Error;

/// What a file says.
pub(super) struct File {
    /// Settings, `engine` and `summary` in the order in which they stand.
    pub(super) fields: Vec<Field>,
    /// The `[[listen]]` tables; none when the file does not speak of listeners.
    pub(super) listen: Option<Vec<Asked>>,
}

/// Keys that are not settings: they are kept elsewhere in the configuration.
const OTHER_KEYS: &[&str] = &["engine", "summary", "listen"];

/// Reads the file at `path`.
///
/// # Errors
/// The first thing that is wrong with it, with its line and key.
pub(super) fn read(path: &Path) -> Result<File, Error> {
    let text = contents(path)?;
    let source = Source { path, text: &text };
    let table = DeTable::parse(&text).map_err(|error| source.not_toml(&error))?;
    let mut file = File { fields: Vec::new(), listen: None };
    for (name, value) in in_order(table.get_ref()) {
        let line = source.line(name.span().start);
        let name: &str = name.get_ref();
        let unfit = |unfit| source.error(line, name, unfit);
        if name == "listen" {
            file.listen = Some(source.listen(line, value.get_ref())?);
            continue;
        }
        let text = match keys::find(name) {
            Some(key) => setting(&key.form, value.get_ref()).map_err(unfit)?,
            None if OTHER_KEYS.contains(&name) => word(value.get_ref()).map_err(unfit)?,
            None => return Err(unfit(unknown(name))),
        };
        file.fields.push(Field { key: name.to_owned(), text, line: Some(line) });
    }
    Ok(file)
}

impl Source<'_> {
    fn listen(&self, line: usize, value: &DeValue<'_>) -> Result<Vec<Asked>, Error> {
        let not_tables = || {
            let problem = format!("{} is not a list of tables", described(value));
            self.error(line, "listen", Unfit::new(problem, "[[listen]] tables with service, scheme and address"))
        };
        let tables = value.as_array().ok_or_else(not_tables)?;
        let mut listen = Vec::new();
        for table in tables {
            // The header of the table, so that a missing key is reported where it is missing.
            let header = self.line(table.span().start);
            let keys = table.get_ref().as_table().ok_or_else(not_tables)?;
            listen.push(self.listener(header, keys)?);
        }
        if listen.is_empty() {
            return Err(self.error(line, "listen", Unfit::new("the list is empty", "at least one [[listen]] table")));
        }
        Ok(listen)
    }

    fn listener(&self, header: usize, keys: &DeTable<'_>) -> Result<Asked, Error> {
        let mut fields = Vec::new();
        for (name, value) in in_order(keys) {
            let line = self.line(name.span().start);
            let key: &str = name.get_ref();
            let several = value.get_ref().as_array().filter(|_| !Asked::FIXED.contains(&key));
            let values = several.map_or_else(|| vec![value], |values| values.iter().collect());
            for value in values {
                let text = scalar(value.get_ref()).map_err(|unfit| self.error(line, &listen_key(key), unfit))?;
                fields.push(Field { key: key.to_owned(), text, line: Some(line) });
            }
        }
        Asked::from_fields(fields, header).map_err(|key| {
            let expected = format!("{key} = \"…\" in each [[listen]] table");
            self.error(header, &listen_key(key), Unfit::new("is missing", expected))
        })
    }
}

/// How an error names a key of a `[[listen]]` table.
pub(super) fn listen_key(key: &str) -> String {
    format!("listen.{key}")
}

/// A value of a setting as the flag would take it, if its type is one that the form has.
fn setting(form: &Form, value: &DeValue<'_>) -> Result<String, Unfit> {
    let number = |text: &str| text.parse::<i128>().is_ok();
    match (form, value) {
        (Form::Count { .. } | Form::Size { .. }, DeValue::Integer(integer)) => Ok(decimal(integer)),
        (Form::Switch, DeValue::Boolean(on)) => Ok(if *on { "on" } else { "off" }.to_owned()),
        // Integers are written as integers, so that a file has one way to say a thing.
        (Form::Count { .. }, DeValue::String(text)) if number(text) => wrong_type(form.expected(), value),
        (_, DeValue::String(text)) => Ok(text.clone().into_owned()),
        _ => wrong_type(form.expected(), value),
    }
}

fn word(value: &DeValue<'_>) -> Result<String, Unfit> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        other => wrong_type("a string".to_owned(), other),
    }
}

fn scalar(value: &DeValue<'_>) -> Result<String, Unfit> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(integer) => Ok(decimal(integer)),
        DeValue::Boolean(on) => Ok(if *on { "on" } else { "off" }.to_owned()),
        other => wrong_type("a string, an integer or a boolean".to_owned(), other),
    }
}

fn unknown(name: &str) -> Unfit {
    let known: Vec<&str> = OTHER_KEYS.iter().copied().chain(KEYS.iter().map(|key| key.name)).collect();
    let expected = match nearest(name, &known) {
        Some(near) => near.to_owned(),
        None => format!("one of {}", known.join(", ")),
    };
    Unfit::new("unknown key", expected)
}
