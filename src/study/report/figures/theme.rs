//! [`Ink`]: the colours of figures by what they are for, light and dark, and the shapes beside them.
//!
//! A figure is drawn in the light colours. What shows it in the dark replaces each by its partner, with rules that go by
//! the colour itself ([`dark_rules`]): so the drawing is right without any style sheet, and one sheet serves all. Series
//! have the palette of Okabe and Ito, which people of any colour vision tell apart, and a shape each, so that colour is never
//! the only carrier.

use std::fmt::Write;

use plotters::style::RGBColor;

/// What something is drawn with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Ink {
    /// The ground.
    Paper,
    /// Text, and what is as strong.
    Text,
    /// Text that stands back, axes, predictions.
    Muted,
    /// Lines to read values by.
    Grid,
    /// What cannot be told apart.
    Noise,
    /// One of up to [`SERIES`].
    Series(usize),
}

/// So many series have a colour and a shape of their own.
pub(in super::super) const SERIES: usize = 6;

/// The colours of series, light and dark: of Okabe and Ito but for their yellow, which paper swallows, and their black,
/// which is the text's.
const PALETTE: [(u32, u32); SERIES] = [
    (0x0072b2, 0x4aa8e8),
    (0xd55e00, 0xff8a3d),
    (0x009e73, 0x2bcf9f),
    (0xcc79a7, 0xe8a3c8),
    (0xe69f00, 0xf6c04d),
    (0x56b4e9, 0x9ad6ff),
];

impl Ink {
    fn all() -> impl Iterator<Item = Ink> {
        [Ink::Paper, Ink::Text, Ink::Muted, Ink::Grid, Ink::Noise].into_iter().chain((0..SERIES).map(Ink::Series))
    }

    /// Light and dark. No two inks share a light one.
    fn pair(self) -> (u32, u32) {
        match self {
            Ink::Paper => (0xffffff, 0x15181c),
            Ink::Text => (0x1b1f24, 0xe6e8eb),
            Ink::Muted => (0x59626c, 0xa3abb5),
            Ink::Grid => (0xdde1e6, 0x343a42),
            Ink::Noise => (0xb4bac2, 0x5d656e),
            Ink::Series(number) => PALETTE[number % SERIES],
        }
    }

    /// What it is drawn in.
    pub(in super::super) fn light(self) -> RGBColor {
        let [_, red, green, blue] = self.pair().0.to_be_bytes();
        RGBColor(red, green, blue)
    }

    /// As a style sheet has it.
    pub(in super::super) fn hex(self) -> String {
        hex(self.pair().0)
    }
}

/// As the library writes colours, which is what the rules go by.
fn hex(color: u32) -> String {
    format!("#{color:06X}")
}

/// The rules that make a light drawing a dark one, each line behind `before`.
pub(in super::super) fn dark_rules(before: &str) -> String {
    let mut rules = String::new();
    for (light, dark) in Ink::all().map(Ink::pair) {
        for property in ["fill", "stroke"] {
            let _ = writeln!(rules, "{before}[{property}=\"{}\"]{{{property}:{}}}", hex(light), hex(dark));
        }
    }
    rules
}

/// The mark of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Diamond,
    Down,
    Cross,
}

impl Shape {
    /// The shape beside the colour of the same number.
    pub(super) fn of(number: usize) -> Shape {
        use Shape::{Circle, Cross, Diamond, Down, Square, Triangle};
        [Circle, Square, Triangle, Diamond, Down, Cross][number % SERIES]
    }

    /// Its corners around the origin, one unit being a radius; none of a circle.
    pub(super) fn corners(self) -> &'static [(f64, f64)] {
        match self {
            Shape::Circle => &[],
            Shape::Square => &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            Shape::Triangle => &[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
            Shape::Diamond => &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
            Shape::Down => &[(0.0, 1.2), (-1.1, -0.8), (1.1, -0.8)],
            Shape::Cross => &[
                (-0.4, -1.2),
                (0.4, -1.2),
                (0.4, -0.4),
                (1.2, -0.4),
                (1.2, 0.4),
                (0.4, 0.4),
                (0.4, 1.2),
                (-0.4, 1.2),
                (-0.4, 0.4),
                (-1.2, 0.4),
                (-1.2, -0.4),
                (-0.4, -0.4),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_ink_has_a_light_colour_of_its_own_and_a_rule_for_the_dark() {
        let lights: BTreeSet<u32> = Ink::all().map(|ink| ink.pair().0).collect();
        assert_eq!(lights.len(), Ink::all().count());
        let rules = dark_rules("svg ");
        for ink in Ink::all() {
            assert!(rules.contains(&format!("svg [fill=\"{}\"]", ink.hex())), "{ink:?}: {rules}");
        }
        assert_eq!(rules.lines().count(), 2 * Ink::all().count());
    }
}
