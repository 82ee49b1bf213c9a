//! Quantities as people write them: durations (`250us`, `10ms`, `5s`) and sizes (`64`, `16KiB`, `1MiB`).
//!
//! Whole numbers only, but for what has no unit, so that what is printed reads back as the same quantity. Errors are the middle of a sentence:
//! the value stands before them, what would have been right follows. Read next: `units/series.rs`, several of them at
//! once; `config/keys.rs`, which adds the ranges.

pub mod series;

use std::time::Duration;

/// Units of durations in nanoseconds, largest first. Printing stops at seconds: `60s`, not `1m`.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Units of sizes in bytes, largest first.
const SIZE_UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// The duration written as `text`: a whole number and one of the units ns, us, ms, s, m, h; or a plain `0`.
///
/// # Errors
/// What is wrong with it, as it follows the text in a sentence.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let (number, unit) = split(text).ok_or("is not a duration")?;
    if unit.is_empty() && number.bytes().any(|digit| digit != b'0') {
        return Err("has no unit");
    }
    let unit = if unit.is_empty() { "ns" } else { unit };
    let nanoseconds = in_units(number, unit, DURATION_UNITS)?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// A duration as [`parse_duration`] reads it, in the largest unit up to seconds that leaves no fraction.
pub fn show_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let up_to_seconds = &DURATION_UNITS[2..];
    let exact = up_to_seconds.iter().find(|&&(_, factor)| nanoseconds.is_multiple_of(u128::from(factor)));
    let &(unit, factor) = exact.expect("a nanosecond divides every duration");
    format!("{}{unit}", nanoseconds / u128::from(factor))
}

/// The size in bytes written as `text`: a whole number, alone or with one of the units B, KiB, MiB, GiB.
///
/// # Errors
/// What is wrong with it, as it follows the text in a sentence.
pub fn parse_size(text: &str) -> Result<usize, &'static str> {
    let (number, unit) = split(text).ok_or("is not a size")?;
    let bytes = in_units(number, if unit.is_empty() { "B" } else { unit }, SIZE_UNITS)?;
    usize::try_from(bytes).map_err(|_| "is too large")
}

/// A size as [`parse_size`] reads it, in the largest unit that leaves no fraction; bytes stand without a unit.
pub fn show_size(bytes: usize) -> String {
    let exact = SIZE_UNITS.iter().find(|&&(_, factor)| bytes as u64 >= factor && (bytes as u64).is_multiple_of(factor));
    match exact {
        Some(&(unit, factor)) if factor > 1 => format!("{}{unit}", bytes as u64 / factor),
        _ => bytes.to_string(),
    }
}

/// The number written as digits, with decimals if need be: no sign, no exponent, no words.
pub fn parse_decimal(text: &str) -> Option<f64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let are_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if are_digits(whole) && are_digits(decimals) { text.parse().ok() } else { None }
}

/// A value as an error line shows it: something to see even if it is empty, and never a second line.
pub(crate) fn shown(text: &str) -> String {
    if text.is_empty() { "an empty value".to_owned() } else { text.escape_debug().to_string() }
}

/// The digits that `text` begins with, at least one, and what follows them.
fn split(text: &str) -> Option<(&str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| text.split_at(digits))
}

fn in_units(number: &str, unit: &str, units: &[(&str, u64)]) -> Result<u64, &'static str> {
    if unit.starts_with('.') {
        return Err("is not a whole number");
    }
    let &(_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or("has an unknown unit")?;
    let number: u64 = number.parse().map_err(|_| "is too large")?;
    number.checked_mul(factor).ok_or("is too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        let table = [
            ("0", 0),
            ("000", 0),
            ("0s", 0),
            ("100ns", 100),
            ("250us", 250_000),
            ("10ms", 10_000_000),
            ("5s", 5_000_000_000),
            ("1m", 60_000_000_000),
            ("2h", 7_200_000_000_000),
            ("18446744073709551615ns", u64::MAX),
        ];
        for (text, nanoseconds) in table {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_its_reason() {
        let table = [
            ("", "is not a duration"),
            ("s", "is not a duration"),
            ("-5s", "is not a duration"),
            ("+5s", "is not a duration"),
            (" 5s", "is not a duration"),
            ("off", "is not a duration"),
            ("٣s", "is not a duration"),
            ("5", "has no unit"),
            ("5 s", "has an unknown unit"),
            ("5S", "has an unknown unit"),
            ("5sec", "has an unknown unit"),
            ("5s ", "has an unknown unit"),
            ("5KiB", "has an unknown unit"),
            ("5µs", "has an unknown unit"),
            ("1.5s", "is not a whole number"),
            ("18446744073709551616ns", "is too large"),
            ("18446744073709551615us", "is too large"),
            ("99999999999999999999999999s", "is too large"),
        ];
        for (text, problem) in table {
            assert_eq!(parse_duration(text), Err(problem), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_every_unit() {
        let table =
            [("0", 0), ("64", 64), ("64B", 64), ("16KiB", 16_384), ("1MiB", 1_048_576), ("3GiB", 3_221_225_472)];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_reason() {
        let table = [
            ("", "is not a size"),
            ("KiB", "is not a size"),
            ("-1", "is not a size"),
            ("16KB", "has an unknown unit"),
            ("16kib", "has an unknown unit"),
            ("16 KiB", "has an unknown unit"),
            ("1s", "has an unknown unit"),
            ("0.5MiB", "is not a whole number"),
            ("18446744073709551615GiB", "is too large"),
            ("18446744073709551616", "is too large"),
        ];
        for (text, problem) in table {
            assert_eq!(parse_size(text), Err(problem), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same_quantity() {
        // Every power of two and its neighbours, and every unit's multiples: where the choice of the unit changes.
        let near_powers = (0..63).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        let near_units =
            [1_000, 1_000_000, 1_000_000_000, 60_000_000_000].into_iter().flat_map(|unit| [unit, 7 * unit, unit + 1]);
        for value in near_powers.chain(near_units) {
            let duration = Duration::from_nanos(value);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration), "{value} ns");
            assert_eq!(parse_size(&show_size(value as usize)), Ok(value as usize), "{value} bytes");
        }
        assert_eq!(show_duration(Duration::ZERO), "0s");
        assert_eq!(show_duration(Duration::from_secs(60)), "60s");
        assert_eq!(show_duration(Duration::from_micros(1_500)), "1500us");
        assert_eq!(show_size(65_536), "64KiB");
        assert_eq!(show_size(65_537), "65537");
    }
}
