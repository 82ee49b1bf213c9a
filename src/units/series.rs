//! Several numbers as people write them: lists (`1,2,4`), ranges (`0.1..0.9:9`, with both ends), and lists of both.
//!
//! Errors are the middle of a sentence that begins with the part that is wrong, as elsewhere in [`units`](super). What a
//! number may be is for who asks to say.

use super::{parse_decimal, shown};

/// What a series may be written as, as it follows "expected".
pub const FORMS: &str = "numbers such as 0.5, a list such as 0.1,0.5, or a range such as 0.1..0.9:9 (9 points)";

/// Above it a slip of the keyboard is likelier than a wish.
const MOST_POINTS: usize = 10_000;

/// The numbers written as `text`, in their order there: decimals, and ranges `A..B:N` of N points from A to B at equal
/// distances.
///
/// # Errors
/// The part that is wrong, and why: `0.9..0.1:3 ends before it begins`.
pub fn parse_series(text: &str) -> Result<Vec<f64>, String> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        match part.split_once("..") {
            Some(ends) => parse_range(ends, &mut numbers).map_err(|problem| format!("{} {problem}", shown(part)))?,
            None => numbers.push(parse_decimal(part).ok_or_else(|| format!("{} is not a number", shown(part)))?),
        }
        if numbers.len() > MOST_POINTS {
            return Err(format!("{} is more than {MOST_POINTS} numbers", shown(text)));
        }
    }
    Ok(numbers)
}

fn parse_range((begin, rest): (&str, &str), numbers: &mut Vec<f64>) -> Result<(), &'static str> {
    let (end, points) = rest.split_once(':').ok_or("does not say how many points it has")?;
    let ends = parse_decimal(begin).zip(parse_decimal(end));
    let (begin, end) = ends.ok_or("has an end that is not a number")?;
    let is_number = !points.is_empty() && points.bytes().all(|byte| byte.is_ascii_digit());
    let points: usize = if is_number { points.parse().unwrap_or(usize::MAX) } else { 0 };
    match points {
        0 => return Err("has no number of points"),
        1 if begin != end => return Err("has one point and two ends"),
        2.. if begin == end => return Err("has several points and one end"),
        _ if begin > end => return Err("ends before it begins"),
        _ if points > MOST_POINTS => return Err("has too many points"),
        _ => {}
    }
    let step = (end - begin) / (points.max(2) - 1) as f64;
    numbers.extend((0..points).map(|at| as_written(begin + step * at as f64)));
    Ok(())
}

/// The number that somebody would have written: without the last digits, which are nothing but what rounding has left.
fn as_written(number: f64) -> f64 {
    format!("{number:.12e}").parse().expect("what is printed is a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_read_in_their_order() {
        let table: [(&str, &[f64]); 8] = [
            ("16", &[16.0]),
            ("1,2,4", &[1.0, 2.0, 4.0]),
            ("0.5,0.1", &[0.5, 0.1]),
            ("0.1..0.5:5", &[0.1, 0.2, 0.3, 0.4, 0.5]),
            ("1..8:8", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
            ("0.25..0.75:2", &[0.25, 0.75]),
            ("0.5..0.5:1", &[0.5]),
            ("0.1..0.3:3,0.9,1..2:2", &[0.1, 0.2, 0.3, 0.9, 1.0, 2.0]),
        ];
        for (text, numbers) in table {
            assert_eq!(parse_series(text).as_deref(), Ok(numbers), "{text}");
        }
        // No sum of steps: each is what somebody would have written.
        let steps = parse_series("0.1..0.95:18").expect("it is a range");
        let written: Vec<f64> =
            (0..18).map(|at| format!("{:.2}", 0.1 + 0.05 * f64::from(at)).parse().unwrap()).collect();
        assert_eq!(steps, written);
    }

    #[test]
    fn what_is_no_series_is_refused_with_its_part_and_reason() {
        let table = [
            ("", "an empty value is not a number"),
            ("1,,2", "an empty value is not a number"),
            ("1,", "an empty value is not a number"),
            ("a", "a is not a number"),
            ("-1", "-1 is not a number"),
            ("1 ,2", "1  is not a number"),
            ("1e3", "1e3 is not a number"),
            ("0.1..0.9", "0.1..0.9 does not say how many points it has"),
            ("0.1..0.9:", "0.1..0.9: has no number of points"),
            ("0.1..0.9:0", "0.1..0.9:0 has no number of points"),
            ("0.1..0.9:1.5", "0.1..0.9:1.5 has no number of points"),
            ("0.1..0.9:1", "0.1..0.9:1 has one point and two ends"),
            ("0.5..0.5:2", "0.5..0.5:2 has several points and one end"),
            ("0.9..0.1:3", "0.9..0.1:3 ends before it begins"),
            ("..0.9:3", "..0.9:3 has an end that is not a number"),
            ("0.1..x:3", "0.1..x:3 has an end that is not a number"),
            ("0.1...9:3", "0.1...9:3 has an end that is not a number"),
            ("0..1:10001", "0..1:10001 has too many points"),
            ("0..1:99999999999999999999", "0..1:99999999999999999999 has too many points"),
            ("0..1:9999,0..1:2", "0..1:9999,0..1:2 is more than 10000 numbers"),
        ];
        for (text, problem) in table {
            assert_eq!(parse_series(text), Err(problem.to_owned()), "{text:?}");
        }
    }
}
