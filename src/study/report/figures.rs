//! The figures of a report: each made of the digest alone, or a line that says why it is not.
//!
//! A figure shows one mix, and no more series than have colours and shapes of their own; more are spread over several
//! figures. Reading order: `figures/theme.rs` (colours), `axis.rs`, `canvas.rs` (what they are drawn on), then `latency.rs`,
//! which is the plainest of the figures; `workers.rs`, `stages.rs`, `crossover.rs`, `timeline.rs`, `bars.rs`, `loops.rs`.

mod axis;
mod bars;
mod canvas;
mod crossover;
mod latency;
mod loops;
mod stages;
mod theme;
mod timeline;
mod workers;

use super::contest::Contest;
use super::digest::{Digest, Measure, Mix, Series, Spot};
use super::words;

pub(super) use canvas::{Drawing, escaped};
pub(super) use theme::dark_rules;

/// The kinds of figures, as their files are called.
pub(super) const KINDS: &[&str] = &["latency", "workers", "stages", "crossover", "timeline", "bars", "loops"];

/// The kind of a figure of this name.
pub(super) fn kind_of(name: &str) -> &str {
    name.trim_end_matches(|letter: char| letter == '-' || letter.is_ascii_digit())
}

/// A figure, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Of its file, without the ending; unique in a report.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub caption: String,
    /// Itself, or why it cannot be drawn.
    pub(super) drawing: Result<Drawing, String>,
}

impl Figure {
    /// As a file of its own; none if it could not be drawn.
    pub fn svg(&self) -> Option<String> {
        self.drawing.as_ref().ok().map(Drawing::file)
    }

    /// Why it could not be drawn.
    pub fn reason(&self) -> Option<&str> {
        self.drawing.as_ref().err().map(String::as_str)
    }

    /// Which of [`KINDS`] it is.
    pub(super) fn kind(&self) -> &str {
        kind_of(&self.name)
    }

    fn absent(name: &str, title: &str, reason: &str) -> Figure {
        Figure {
            name: name.to_owned(),
            title: title.to_owned(),
            caption: String::new(),
            drawing: Err(reason.to_owned()),
        }
    }
}

/// All figures of a study, in the order in which they are read.
pub(super) fn all(digest: &Digest<'_>, contests: &[Contest<'_, '_>]) -> Vec<Figure> {
    let groups = [
        latency::figures(digest),
        workers::figures(digest),
        stages::figures(digest),
        crossover::figures(digest, contests),
        timeline::figures(digest),
        bars::figures(digest),
        loops::figures(digest),
    ];
    groups.into_iter().flatten().collect()
}

/// A part of a mix's series that fits on a figure.
struct Page<'d, 'a> {
    mix: &'d Mix<'a>,
    series: Vec<&'d Series<'a>>,
    /// Which of how many.
    number: usize,
    many: usize,
}

impl Page<'_, '_> {
    /// The title of the figure: what it shows, of which mix, which part.
    fn title(&self, what: &str) -> String {
        let mix = if self.mix.label.is_empty() { String::new() } else { format!(", {}", self.mix.label) };
        let part = if self.many > 1 { format!(" ({} of {})", self.number, self.many) } else { String::new() };
        format!("{what}{mix}{part}")
    }
}

/// The series that a figure can show something of, by mix, as many to a page as have colours.
fn pages<'d, 'a>(digest: &'d Digest<'a>, shows: impl Fn(&Series<'a>) -> bool) -> Vec<Page<'d, 'a>> {
    let mut pages = Vec::new();
    for mix in &digest.mixes {
        let mut shown: Vec<&Series<'_>> = mix.series.iter().filter(|series| shows(series)).collect();
        let many = shown.len().div_ceil(theme::SERIES);
        if many > 1 {
            // What has the same capacity is compared first of all.
            shown.sort_by_key(|series| series.workers);
        }
        // Pages of about one size, rather than a full one and a rest.
        let size = shown.len().div_ceil(many.max(1)).max(1);
        for (at, series) in shown.chunks(size).enumerate() {
            pages.push(Page { mix, series: series.to_vec(), number: at + 1, many });
        }
    }
    pages
}

/// The names of files of one kind: `latency`, or `latency-1`, `latency-2`.
fn named(kind: &str, number: usize, many: usize) -> String {
    if many == 1 { kind.to_owned() } else { format!("{kind}-{}", number + 1) }
}

/// What a reader sees who points at a spot.
fn told(series: &Series<'_>, spot: &Spot<'_>, measure: Measure) -> String {
    let shown = |value: f64| match measure {
        Measure::Achieved => format!("{}/s", words::rate(value)),
        _ => words::time(value),
    };
    let mut parts = vec![format!("{}, {}", series.label, spot.point)];
    if let Some(estimate) = spot.estimate(measure) {
        let interval = estimate.interval.map(|(low, high)| format!(" [{}, {}]", shown(low), shown(high)));
        let runs = words::counted(spot.rows.len(), "run");
        parts.push(format!("{} {}{} of {runs}", measure.name(), shown(estimate.center), interval.unwrap_or_default()));
    }
    parts.extend(spot.predicted(measure).map(|predicted| format!("ideal {}", shown(predicted))));
    parts.extend(spot.doubts());
    parts.join(" · ")
}
