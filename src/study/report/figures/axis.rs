//! [`Axis`]: from a value to its place on a figure, with the values that are written beside it.
//!
//! The drawing library maps places to pixels and draws the mesh; which values stand there, and how they are written, is
//! decided here, so that a logarithmic axis has ones, twos and fives of its units and not powers of ten of nanoseconds.

use super::super::words;

/// Room beyond the least and the greatest value, in parts of the axis.
const MARGIN: f64 = 0.04;
/// About so many values are written beside a linear axis.
const TICKS: f64 = 7.0;

/// An axis of a panel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// What it shows, with its unit.
    pub(super) name: String,
    /// The places of its ends.
    pub(super) low: f64,
    pub(super) high: f64,
    /// Where something is written, and what.
    pub(super) ticks: Vec<(f64, String)>,
    is_logarithmic: bool,
    /// Whether there are lines to read values by; names need none.
    pub(super) has_lines: bool,
}

impl Axis {
    /// From zero to beyond the greatest of these; none without a value.
    pub(super) fn from_zero(name: &str, values: impl Iterator<Item = f64>, show: fn(f64) -> String) -> Option<Axis> {
        let greatest = values.fold(f64::NEG_INFINITY, f64::max);
        let high = if greatest > 0.0 { greatest * (1.0 + 2.0 * MARGIN) } else { 1.0 };
        greatest.is_finite().then(|| Axis::linear(name, 0.0, high, show))
    }

    /// Around these; none without a value.
    pub(super) fn around(name: &str, values: impl Iterator<Item = f64>, show: fn(f64) -> String) -> Option<Axis> {
        let (least, greatest) = ends(values)?;
        let room = if greatest > least { (greatest - least) * MARGIN } else { greatest.abs().max(1.0) * 0.1 };
        Some(Axis::linear(name, least - room, greatest + room, show))
    }

    fn linear(name: &str, low: f64, high: f64, show: fn(f64) -> String) -> Axis {
        let step = nice((high - low) / TICKS);
        let first = (low / step).ceil() as i64;
        let ticks = (first..).map(|number| number as f64 * step).take_while(|value| *value <= high);
        let ticks = ticks.map(|value| (value, show(value))).collect();
        Axis { name: name.to_owned(), low, high, ticks, is_logarithmic: false, has_lines: true }
    }

    /// Logarithmic around these, which are above zero; none without a value.
    pub(super) fn logarithmic(name: &str, values: impl Iterator<Item = f64>, show: fn(f64) -> String) -> Option<Axis> {
        let (least, greatest) = ends(values.filter(|value| *value > 0.0))?;
        let (mut low, mut high) = (least.log10(), greatest.log10());
        // A flat line is no cliff: there is at least half a decade around it.
        let room = ((high - low) * MARGIN).max((0.5 - (high - low)) / 2.0);
        (low, high) = (low - room, high + room);
        let mantissas: &[f64] = if high - low > 2.6 {
            &[1.0]
        } else if high - low > 1.2 {
            &[1.0, 3.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let decades = low.floor() as i32..=high.ceil() as i32;
        let values = decades.flat_map(|decade| mantissas.iter().map(move |mantissa| mantissa * 10_f64.powi(decade)));
        let ticks = values.filter(|value| (low..=high).contains(&value.log10()));
        let ticks = ticks.map(|value| (value.log10(), show(value))).collect();
        Some(Axis { name: name.to_owned(), low, high, ticks, is_logarithmic: true, has_lines: true })
    }

    /// From nothing to all.
    pub(super) fn of_shares(name: &str) -> Axis {
        let ticks = (0..=5).map(|fifth| f64::from(fifth) / 5.0);
        let ticks = ticks.map(|share| (share, words::percent(share))).collect();
        Axis { name: name.to_owned(), low: 0.0, high: 1.0, ticks, is_logarithmic: false, has_lines: true }
    }

    /// One place for each of these, from 0 on.
    pub(super) fn of_names(name: &str, names: impl Iterator<Item = String>) -> Axis {
        Axis::at_places(name, names.enumerate().map(|(at, name)| (at as f64, name)).collect())
    }

    /// These names at these places, the first of which is the lowest.
    pub(super) fn at_places(name: &str, ticks: Vec<(f64, String)>) -> Axis {
        let (low, high) = (-0.5, ticks.last().map_or(0.5, |(place, _)| place + 0.5));
        Axis { name: name.to_owned(), low, high, ticks, is_logarithmic: false, has_lines: false }
    }

    /// The same under another name; with `is_written` false its values are left to the panel beside it.
    pub(super) fn named(&self, name: String, is_written: bool) -> Axis {
        let text = |(place, text): &(f64, String)| (*place, if is_written { text.clone() } else { String::new() });
        Axis { name, ticks: self.ticks.iter().map(text).collect(), ..self.clone() }
    }

    /// The same without lines and values.
    pub(super) fn blank(&self) -> Axis {
        Axis { ticks: Vec::new(), ..self.clone() }
    }

    /// The place of a value.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = if self.is_logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        place.clamp(self.low, self.high)
    }

    /// What is written at a place where something is.
    pub(super) fn text_at(&self, place: f64) -> String {
        let near = |tick: &&(f64, String)| (tick.0 - place).abs() < 1e-9;
        self.ticks.iter().find(near).map(|(_, text)| text.clone()).unwrap_or_default()
    }
}

fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    let (least, greatest) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, greatest), value| (least.min(*value), greatest.max(*value)));
    (!values.is_empty()).then_some((least, greatest))
}

/// The next one, two or five times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().map(|mantissa| mantissa * power).find(|nice| *nice >= step).unwrap_or(step)
}

/// A round time as an axis has it: `100 µs`, `2 ms`.
pub(super) fn round_time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 999.5 => (ns, "ns"),
        ns if ns < 999.5e3 => (ns / 1e3, "µs"),
        ns if ns < 999.5e6 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    if ns == 0.0 { "0".to_owned() } else { format!("{} {unit}", plain(value)) }
}

/// A round count as an axis has it: `500`, `20k`, `1.5M`.
pub(super) fn round_count(count: f64) -> String {
    match count {
        count if count < 9_999.5 => plain(count),
        count if count < 999.5e3 => format!("{}k", plain(count / 1e3)),
        count => format!("{}M", plain(count / 1e6)),
    }
}

/// A round share or other number: as few digits as tell it from its neighbours.
pub(super) fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn what_is_written_beside_an_axis_is_round() {
        let axis = Axis::from_zero("", [0.3, 0.9].into_iter(), plain).expect("there are values");
        assert_eq!(texts(&axis), ["0", "0.2", "0.4", "0.6", "0.8"]);
        let axis = Axis::logarithmic("", [1.2e6, 9e6].into_iter(), round_time).expect("there are values");
        assert_eq!(texts(&axis), ["2 ms", "5 ms"]);
        let axis = Axis::logarithmic("", [9e4, 9e8].into_iter(), round_time).expect("there are values");
        assert_eq!(texts(&axis), ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]);
        assert_eq!(texts(&Axis::of_names("", ["a", "b"].map(str::to_owned).into_iter())), ["a", "b"]);
        assert_eq!([800.0, 20_000.0, 1.5e6].map(round_count), ["800", "20k", "1.5M"]);
    }

    #[test]
    fn one_value_or_none_or_zeros_are_no_trouble() {
        let one = Axis::logarithmic("", [5e6].into_iter(), round_time).expect("there is a value");
        assert!(one.low < one.place(5e6) && one.place(5e6) < one.high, "{one:?}");
        let zeros = Axis::from_zero("", [0.0, 0.0].into_iter(), plain).expect("there are values");
        assert!(zeros.high > 0.0, "{zeros:?}");
        let flat = Axis::around("", [3.0, 3.0].into_iter(), plain).expect("there are values");
        assert!(flat.low < 3.0 && flat.high > 3.0, "{flat:?}");
        assert_eq!(Axis::logarithmic("", [0.0].into_iter(), plain), None);
        assert_eq!(Axis::from_zero("", [].into_iter(), plain), None);
        assert_eq!(one.text_at(99.0), "");
    }
}
