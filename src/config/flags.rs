//! Numbers and durations of flags that have no key in the file: read, held to their range, or refused with the flag's
//! name. Read next: `keys.rs`, the settings that both have.

use std::time::Duration;

use super::keys::{shown, within};
use crate::error::Error;
use crate::units::{parse_duration, show_duration};

/// What is wrong with a flag, with the value that was given, and what would have been right.
pub(crate) fn usage(flag: &str, problem: impl Into<String>, expected: impl Into<String>) -> Error {
    Error::Usage { flag: flag.to_owned(), problem: problem.into(), expected: expected.into() }
}

/// A whole number in this range, if one was given.
pub(crate) fn number(flag: &str, given: &Option<String>, min: u64, max: u64) -> Result<Option<u64>, Error> {
    quantity(flag, given, (min, max), &format!("a number from {min} to {max}"), |text| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { text.parse().map_err(|_| "is too large") } else { Err("is not a number") }
    })
}

/// A duration in this range, if one was given.
pub(crate) fn time(
    flag: &str,
    given: &Option<String>,
    min: Duration,
    max: Duration,
) -> Result<Option<Duration>, Error> {
    let range = format!("from {} to {}", show_duration(min), show_duration(max));
    quantity(flag, given, (min, max), &format!("a duration such as 250us, 10ms or 5s, {range}"), parse_duration)
}

/// What was given, if it was, as far as it can be read and lies in the range.
fn quantity<T: PartialOrd>(
    flag: &str,
    given: &Option<String>,
    (min, max): (T, T),
    expected: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Option<T>, Error> {
    let Some(text) = given.as_deref() else { return Ok(None) };
    let value = parse(text).and_then(|value| within(value, min, max));
    value.map(Some).map_err(|problem| usage(flag, format!("{} {problem}", shown(text)), expected))
}
