//! [`Sheet`] and [`Panel`]: what figures are drawn on; the only user of `plotters`.
//!
//! The library places, scales and writes the elements of SVG. Added here: a legend, which it would lay out by the widths
//! of letters that it does not know; and what a reader sees who points at something, as transparent marks with a `<title>`,
//! which need no script. Coordinates of the library are whole numbers, so everything is drawn at twice its size.
//!
//! Invariant *same-bytes*: what is drawn depends on the calls alone.

use std::cell::RefCell;
use std::fmt::Write;

use plotters::chart::{ChartBuilder, ChartContext, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text};
use plotters::prelude::{Cartesian2d, SVGBackend};
use plotters::series::DashedLineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, ShapeStyle, TextStyle};

use super::axis::Axis;
use super::theme::{Ink, Shape, dark_rules};

/// The width of all figures, in halves of a pixel.
pub(super) const WIDTH: i32 = 1_880;
/// What is drawn is this many times the size at which it is shown.
const SCALE: i32 = 2;
/// The empty edge around a figure that is a file of its own.
const EDGE: i32 = 24;
/// The height of letters.
pub(super) const TEXT: i32 = 26;
/// The height of a line of them.
pub(super) const LINE: i32 = 38;
/// The height of the title's.
const TITLE: i32 = 32;
/// The library writes sizes divided by this.
const SIZE_OF_LIBRARY: f64 = 1.24;
/// A letter's width by its height, on average: letters of any face are about so.
const LETTER: f64 = 0.54;
/// The radius of a mark.
const MARK: i32 = 9;
/// The radius within which somebody points at it.
const REACH: i32 = 18;
/// Below a panel: the values and the name of its axis.
pub(super) const BELOW: i32 = 90;
/// Above a panel: its name.
pub(super) const ABOVE: i32 = 58;

/// Nothing that is drawn into a string can fail.
const INTO_STRING: &str = "a string takes everything";

/// A drawing in the making.
pub(super) struct Sheet<'s, 'b> {
    area: &'s DrawingArea<SVGBackend<'b>, Shift>,
    marks: &'s RefCell<String>,
}

/// What stands in a legend beside its text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Key {
    /// A line with the mark of this series.
    Series(usize),
    /// The same, hollow.
    Hollow,
    /// A thin dashed line.
    Dashed,
    /// A box of this colour, as strong as that.
    Fill(Ink, f64),
}

/// A finished drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Drawing {
    /// What it is, for those who cannot see it.
    label: String,
    height: i32,
    body: String,
}

impl Drawing {
    /// As a part of a page, which has the rules for the dark.
    pub(in super::super) fn inline(&self) -> String {
        let Drawing { label, height, body } = self;
        format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{label}\">\n{body}</svg>\n")
    }

    /// As a file of its own.
    pub(in super::super) fn file(&self) -> String {
        let Drawing { label, height, body } = self;
        let (wide, high) = (WIDTH + 2 * EDGE, height + 2 * EDGE);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" viewBox=\"-{EDGE} -{EDGE} {wide} {high}\" \
             role=\"img\" aria-label=\"{label}\">\n<style>\n@media screen and (prefers-color-scheme: dark){{\n{}}}\n\
             </style>\n<rect x=\"-{EDGE}\" y=\"-{EDGE}\" width=\"{wide}\" height=\"{high}\" fill=\"{}\"/>\n{body}</svg>\n",
            wide / SCALE,
            high / SCALE,
            dark_rules(""),
            Ink::Paper.hex(),
        )
    }
}

/// What may stand in XML as text or in an attribute.
pub(in super::super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            // Others have no place in XML at all.
            '\n' | '\t' => escaped.push(' '),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Draws a figure of this height below its title.
pub(super) fn draw(title: &str, height: i32, paint: impl FnOnce(&Sheet<'_, '_>)) -> Drawing {
    let marks = RefCell::new(String::new());
    let mut drawn = String::new();
    {
        let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
        let area = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        let sheet = Sheet { area: &area, marks: &marks };
        sheet.write((0, 4), title, Lettering { size: TITLE, is_bold: true, ..Lettering::default() });
        paint(&sheet);
        area.present().expect(INTO_STRING);
    }
    // The root is written anew, as a page and a file want it.
    let inner = drawn.split_once('>').map_or("", |(_, inner)| inner);
    let inner = inner.trim_start().strip_suffix("</svg>\n").unwrap_or(inner);
    let marks = marks.into_inner();
    let body = format!("{inner}<g fill=\"none\" pointer-events=\"all\">\n{marks}</g>\n");
    Drawing { label: escaped(title), height, body }
}

/// How a text looks, and where it stands from its point.
#[derive(Clone, Copy)]
pub(super) struct Lettering {
    pub(super) ink: Ink,
    pub(super) size: i32,
    pub(super) is_bold: bool,
    pub(super) across: HPos,
    pub(super) down: VPos,
}

impl Default for Lettering {
    fn default() -> Lettering {
        Lettering { ink: Ink::Text, size: TEXT, is_bold: false, across: HPos::Left, down: VPos::Top }
    }
}

impl Lettering {
    /// In the middle of its point.
    pub(super) fn centered() -> Lettering {
        Lettering { across: HPos::Center, down: VPos::Center, ..Lettering::default() }
    }

    /// To the right of its point.
    pub(super) fn beside() -> Lettering {
        Lettering { down: VPos::Center, ..Lettering::default() }
    }

    fn style(self) -> TextStyle<'static> {
        let font = ("system-ui, sans-serif", f64::from(self.size) * SIZE_OF_LIBRARY).into_font();
        let font = if self.is_bold { font.style(FontStyle::Bold) } else { font };
        let position = Pos::new(self.across, self.down);
        TextStyle { color: self.ink.light().to_backend_color(), ..TextStyle::from(font).pos(position) }
    }
}

/// About how wide a text is.
pub(super) fn width_of(text: &str) -> i32 {
    (text.chars().count() as f64 * f64::from(TEXT) * LETTER).ceil() as i32
}

impl<'b> Sheet<'_, 'b> {
    /// Writes a text at a point.
    pub(super) fn write(&self, at: (i32, i32), text: &str, lettering: Lettering) {
        self.area.draw(&Text::new(text.to_owned(), at, lettering.style())).expect(INTO_STRING);
    }

    /// Fills a box, between two corners.
    pub(super) fn fill(&self, from: (i32, i32), to: (i32, i32), ink: Ink, strength: f64) {
        self.area.draw(&Rectangle::new([from, to], ink.light().mix(strength).filled())).expect(INTO_STRING);
    }

    /// Draws a line through points.
    pub(super) fn line(&self, points: Vec<(i32, i32)>, ink: Ink, width: u32) {
        self.area.draw(&PathElement::new(points, ink.light().stroke_width(width))).expect(INTO_STRING);
    }

    fn dashes(&self, points: Vec<(i32, i32)>, ink: Ink) {
        for dash in DashedLineSeries::new(points, 10, 8, ink.light().stroke_width(3)) {
            self.area.draw(&dash).expect(INTO_STRING);
        }
    }

    /// Draws the mark of a series, hollow if its value is in doubt.
    pub(super) fn mark(&self, at: (i32, i32), series: usize, is_hollow: bool) {
        let ink = Ink::Series(series).light();
        let filling: ShapeStyle = if is_hollow { Ink::Paper.light().filled() } else { ink.filled() };
        let edge = ink.stroke_width(4);
        let corners = Shape::of(series).corners();
        if corners.is_empty() {
            self.area.draw(&Circle::new(at, MARK, filling)).expect(INTO_STRING);
            self.area.draw(&Circle::new(at, MARK, edge)).expect(INTO_STRING);
            return;
        }
        let place = |(x, y): &(f64, f64)| {
            let near = |part: f64| (part * f64::from(MARK)).round() as i32;
            (at.0 + near(*x), at.1 + near(*y))
        };
        let mut points: Vec<(i32, i32)> = corners.iter().map(place).collect();
        self.area.draw(&Polygon::new(points.clone(), filling)).expect(INTO_STRING);
        points.extend_from_within(..2);
        self.area.draw(&PathElement::new(points, edge)).expect(INTO_STRING);
    }

    /// Lets a reader who points near `at` see this.
    pub(super) fn tell_at(&self, at: (i32, i32), text: &str) {
        let _ = writeln!(
            self.marks.borrow_mut(),
            "<circle cx=\"{}\" cy=\"{}\" r=\"{REACH}\"><title>{}</title></circle>",
            at.0,
            at.1,
            escaped(text)
        );
    }

    /// Lets a reader who points into a box see this.
    pub(super) fn tell_in(&self, from: (i32, i32), to: (i32, i32), text: &str) {
        let (x, y) = (from.0.min(to.0), from.1.min(to.1));
        let _ = writeln!(
            self.marks.borrow_mut(),
            "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
            from.0.abs_diff(to.0),
            from.1.abs_diff(to.1),
            escaped(text)
        );
    }

    /// Writes the legend from this height on.
    pub(super) fn legend(&self, top: i32, entries: &[(Key, String)]) {
        for (row, line) in legend_lines(entries).into_iter().enumerate() {
            let middle = top + row as i32 * LINE + LINE / 2;
            for (x, (key, text)) in line {
                self.key((x, middle), *key);
                self.write((x + KEY, middle), text, Lettering::beside());
            }
        }
    }

    fn key(&self, (x, middle): (i32, i32), key: Key) {
        let (from, to) = ((x, middle), (x + KEY - 16, middle));
        let center = ((from.0 + to.0) / 2, middle);
        match key {
            Key::Series(series) => {
                self.line(vec![from, to], Ink::Series(series), 4);
                self.mark(center, series, false);
            }
            Key::Hollow => {
                self.area.draw(&Circle::new(center, MARK, Ink::Paper.light().filled())).expect(INTO_STRING);
                self.area.draw(&Circle::new(center, MARK, Ink::Text.light().stroke_width(4))).expect(INTO_STRING);
            }
            Key::Dashed => self.dashes(vec![from, to], Ink::Muted),
            Key::Fill(ink, strength) => self.fill((from.0 + 8, middle - 12), (to.0 - 8, middle + 12), ink, strength),
        }
    }

    /// A panel with these axes between two corners; the values of `y` stand `left` of it, and its name above.
    pub(super) fn panel(&self, from: (i32, i32), to: (i32, i32), left: i32, x: &Axis, y: &Axis) -> Panel<'_, 'b> {
        let name = Lettering { ink: Ink::Muted, down: VPos::Bottom, ..Lettering::default() };
        self.write((from.0 + left, from.1 + ABOVE - 12), &y.name, name);
        let own = self.area.clone().shrink((from.0, from.1 + ABOVE), (to.0 - from.0, to.1 - from.1 - ABOVE));
        let mut chart = ChartBuilder::on(&own)
            .set_label_area_size(LabelAreaPosition::Left, left)
            .set_label_area_size(LabelAreaPosition::Bottom, BELOW)
            .build_cartesian_2d(x.clone(), y.clone())
            .expect(INTO_STRING);
        let values = Lettering { ink: Ink::Muted, ..Lettering::default() };
        let mut mesh = chart.configure_mesh();
        if !x.has_lines {
            mesh.disable_x_mesh();
        }
        if !y.has_lines {
            mesh.disable_y_mesh();
        }
        mesh.bold_line_style(Ink::Grid.light().stroke_width(2))
            .axis_style(Ink::Muted.light().stroke_width(2))
            .label_style(values.style())
            .axis_desc_style(values.style())
            .x_desc(x.name.clone())
            .set_all_tick_mark_size(8)
            .draw()
            .expect(INTO_STRING);
        Panel { sheet: Sheet { area: self.area, marks: self.marks }, chart, x: x.clone(), y: y.clone() }
    }
}

/// The width of a legend's key, with the space behind it.
const KEY: i32 = 84;

/// The entries by line, each with its place across.
fn legend_lines(entries: &[(Key, String)]) -> Vec<Vec<(i32, &(Key, String))>> {
    let mut lines: Vec<Vec<(i32, &(Key, String))>> = Vec::new();
    let mut x = WIDTH;
    for entry in entries {
        let width = KEY + width_of(&entry.1) + 48;
        if x + width > WIDTH {
            lines.push(Vec::new());
            x = 0;
        }
        lines.last_mut().expect("there is one").push((x, entry));
        x += width;
    }
    lines
}

/// Panels beside each other under one legend, one for each of `names`; the first has the values of `y` for all.
pub(super) struct Row<'a> {
    pub(super) title: &'a str,
    pub(super) legend: &'a [(Key, String)],
    pub(super) names: &'a [String],
    /// How high a panel is, without its heading and the names of its axes.
    pub(super) panel: i32,
}

impl Row<'_> {
    /// Draws it; `paint` is told the number of the panel.
    pub(super) fn draw(&self, x: &Axis, y: &Axis, paint: impl Fn(&Panel<'_, '_>, usize)) -> Drawing {
        /// Room for the values of the axis.
        const VALUES: i32 = 130;
        const GAP: i32 = 36;
        let top = LINE + 14;
        let under = top + legend_height(self.legend);
        let height = under + ABOVE + self.panel + BELOW;
        draw(self.title, height, |sheet| {
            sheet.legend(top, self.legend);
            let many = self.names.len() as i32;
            let width = (WIDTH - VALUES - (many - 1) * GAP) / many;
            let mut left = 0;
            for (number, name) in self.names.iter().enumerate() {
                let values = if number == 0 { VALUES } else { 0 };
                let y = y.named(name.clone(), number == 0);
                paint(&sheet.panel((left, under), (left + values + width, height), values, x, &y), number);
                left += values + width + GAP;
            }
        })
    }
}

/// The height of the legend.
pub(super) fn legend_height(entries: &[(Key, String)]) -> i32 {
    legend_lines(entries).len() as i32 * LINE
}

/// The library's view of an axis; its values are places.
impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (place - self.low) / (self.high - self.low);
        from + (part * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Lines between those with a text are left out.
        let is_bold = !hint.weight().allow_light_points();
        self.ticks.iter().filter(|_| is_bold).map(|(place, _)| *place).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(place: &f64) -> String {
        unreachable!("an axis writes its own texts, also at {place}")
    }

    fn format_ext(&self, place: &f64) -> String {
        self.text_at(*place)
    }
}

/// A pair of axes, and what is drawn by their values.
pub(super) struct Panel<'s, 'b> {
    /// What it is part of.
    pub(super) sheet: Sheet<'s, 'b>,
    chart: ChartContext<'s, SVGBackend<'b>, Cartesian2d<Axis, Axis>>,
    x: Axis,
    y: Axis,
}

impl Panel<'_, '_> {
    /// Where a pair of values is on the sheet.
    pub(super) fn at(&self, x: f64, y: f64) -> (i32, i32) {
        self.chart.backend_coord(&(self.x.place(x), self.y.place(y)))
    }

    /// A line through pairs of values, `shift` aside.
    pub(super) fn line(&self, values: &[(f64, f64)], shift: i32, ink: Ink) {
        let place = |(x, y): &(f64, f64)| aside(self.at(*x, *y), shift);
        self.sheet.line(values.iter().map(place).collect(), ink, 4);
    }

    /// A thin dashed line.
    pub(super) fn dashes(&self, values: &[(f64, f64)], ink: Ink) {
        self.sheet.dashes(values.iter().map(|(x, y)| self.at(*x, *y)).collect(), ink);
    }

    /// From one value to another at the same place across, with ends.
    pub(super) fn whisker(&self, x: f64, (low, high): (f64, f64), shift: i32, ink: Ink) {
        let [low, high] = [low, high].map(|y| aside(self.at(x, y), shift));
        let end = |(x, y): (i32, i32)| vec![(x - 6, y), (x + 6, y)];
        for line in [vec![low, high], end(low), end(high)] {
            self.sheet.line(line, ink, 3);
        }
    }

    /// The mark of a series, with what is told of it.
    pub(super) fn mark(&self, value: (f64, f64), shift: i32, series: usize, is_hollow: bool, told: &str) {
        let at = aside(self.at(value.0, value.1), shift);
        self.sheet.mark(at, series, is_hollow);
        self.sheet.tell_at(at, told);
    }
}

fn aside((x, y): (i32, i32), shift: i32) -> (i32, i32) {
    (x + shift, y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legend_goes_on_in_the_next_line_before_it_leaves_the_figure() {
        let entries: Vec<(Key, String)> =
            (0..9).map(|number| (Key::Series(number), format!("process-per-connection, {number} workers"))).collect();
        let lines = legend_lines(&entries);
        assert!(lines.len() > 2 && lines.iter().map(Vec::len).sum::<usize>() == 9, "{lines:?}");
        for (x, (_, text)) in lines.iter().flatten() {
            assert!(x + KEY + width_of(text) <= WIDTH, "{text} begins at {x}");
        }
        assert_eq!((legend_height(&entries), legend_height(&[])), (lines.len() as i32 * LINE, 0));
    }

    #[test]
    fn what_has_no_place_in_xml_does_not_come_into_it() {
        assert_eq!(escaped("a<b> & \"c\"\n\u{0}\u{1b}d"), "a&lt;b&gt; &amp; &quot;c&quot; \u{fffd}\u{fffd}d");
    }

    #[test]
    fn a_drawing_has_its_title_and_what_is_told_of_it_on_a_page_and_as_a_file() {
        let drawing = draw("<title> & more", 100, |sheet| sheet.tell_at((7, 8), "3 < 4"));
        let (inline, file) = (drawing.inline(), drawing.file());
        for text in [&inline, &file] {
            assert!(
                text.contains("aria-label=\"&lt;title&gt; &amp; more\"") && text.ends_with("</g>\n</svg>\n"),
                "{text}"
            );
            assert!(text.contains("<circle cx=\"7\" cy=\"8\" r=\"18\"><title>3 &lt; 4</title></circle>"), "{text}");
        }
        assert!(!inline.contains("xmlns") && file.contains("xmlns") && file.contains("@media"));
    }
}
