//! Overload and recovery: throughput and p99 over time, for runs whose load changes on the way.
//!
//! Each point is an interval: the median of the repeats. The steps are what was asked for; a vertical line is where the
//! load changes.

use super::super::digest::{Digest, Series, Spot};
use super::super::recovery::{self, Piece};
use super::super::words;
use super::axis::{Axis, plain, round_count, round_time};
use super::canvas::{ABOVE, BELOW, Key, LINE, Panel, WIDTH, draw, legend_height};
use super::theme::Ink;
use super::{Figure, Page, named, pages};
use crate::study::estimate::median;
use crate::study::table::show_recovery;

const TITLE: &str = "Overload and recovery";
const PANEL: i32 = 340;
const VALUES: i32 = 130;

/// A figure of a piece, and how it is written.
type Of = fn(&Piece) -> Option<f64>;
type Show = fn(f64) -> String;

pub(super) fn figures(digest: &Digest<'_>) -> Vec<Figure> {
    let pages = pages(digest, |series| shown(series).is_some());
    if pages.is_empty() {
        return vec![Figure::absent("timeline", TITLE, "no run had a load that changes, with intervals")];
    }
    let many = pages.len();
    pages.iter().enumerate().map(|(at, page)| figure(page, named("timeline", at, many))).collect()
}

/// The spot of a series that has phases and was looked at piece by piece.
fn shown<'d, 'a>(series: &'d Series<'a>) -> Option<&'d Spot<'a>> {
    series.spots.iter().find(|spot| spot.has_phases() && spot.rows.iter().any(|row| !recovery::pieces(row).is_empty()))
}

/// The median piece of all repeats, by time.
fn pieces(spot: &Spot<'_>) -> Vec<Piece> {
    let runs: Vec<Vec<Piece>> = spot.rows.iter().map(|row| recovery::pieces(row)).collect();
    let longest = runs.iter().max_by_key(|pieces| pieces.len()).cloned().unwrap_or_default();
    let of =
        |at: usize, figure: Of| median(&runs.iter().filter_map(|pieces| figure(pieces.get(at)?)).collect::<Vec<_>>());
    let median = |(at, piece): (usize, &Piece)| Piece {
        achieved_per_s: of(at, |piece| piece.achieved_per_s),
        p99_ns: of(at, |piece| piece.p99_ns),
        ..*piece
    };
    longest.iter().enumerate().map(median).collect()
}

fn figure(page: &Page<'_, '_>, name: String) -> Figure {
    let title = page.title(TITLE);
    let shown: Vec<(&Series<'_>, &Spot<'_>, Vec<Piece>)> = page
        .series
        .iter()
        .filter_map(|series| Some((*series, shown(series)?)))
        .map(|(s, spot)| (s, spot, pieces(spot)))
        .collect();
    let all = || shown.iter().flat_map(|(_, _, pieces)| pieces);
    let phases = &shown[0].1.parameters.phases;
    let asked = || phases.iter().map(|phase| phase.rate_per_s);
    let axes = (
        Axis::from_zero("time, seconds", all().map(|piece| piece.to_s), plain),
        Axis::from_zero("replies per second", all().filter_map(|p| p.achieved_per_s).chain(asked()), round_count),
        Axis::logarithmic("p99 latency", all().filter_map(|piece| piece.p99_ns), round_time),
    );
    let (Some(x), Some(rate), Some(p99)) = axes else {
        return Figure::absent(&name, &title, "its intervals have no throughput, or no p99");
    };
    let mut legend: Vec<(Key, String)> =
        shown.iter().enumerate().map(|(at, (series, _, _))| (Key::Series(at), series.label.clone())).collect();
    legend.push((Key::Dashed, "asked for".to_owned()));
    let top = LINE + 14;
    let under = top + legend_height(&legend);
    let panel_height = ABOVE + PANEL + BELOW;
    let height = under + 2 * panel_height;
    let drawing = draw(&title, height, |sheet| {
        sheet.legend(top, &legend);
        let panels: [(&Axis, Of, Show); 2] = [
            (&rate, |piece| piece.achieved_per_s, |value| format!("{}/s", words::rate(value))),
            (&p99, |piece| piece.p99_ns, words::time),
        ];
        for (number, (y, figure, show)) in panels.into_iter().enumerate() {
            let from = under + number as i32 * panel_height;
            let panel = sheet.panel((0, from), (WIDTH, from + panel_height), VALUES, &x, y);
            for phase in &phases[1..] {
                let ends = [panel.at(phase.from_s, f64::MIN), panel.at(phase.from_s, f64::MAX)];
                panel.sheet.line(ends.to_vec(), Ink::Muted, 2);
            }
            if number == 0 {
                let steps: Vec<(f64, f64)> = phases
                    .iter()
                    .flat_map(|phase| [(phase.from_s, phase.rate_per_s), (phase.to_s, phase.rate_per_s)])
                    .collect();
                panel.dashes(&steps, Ink::Muted);
            }
            for (at, (series, _, pieces)) in shown.iter().enumerate() {
                paint(&panel, at, &series.label, pieces, figure, show);
            }
        }
    });
    let back = |(series, spot, _): &(&Series<'_>, &Spot<'_>, Vec<Piece>)| {
        Some(format!("{} {}", series.label, show_recovery(&spot.rows)?))
    };
    let back: Vec<String> = shown.iter().filter_map(back).collect();
    let mut caption = "Medians of the repeats, interval by interval; dashed: the rate asked for.".to_owned();
    if !back.is_empty() {
        caption.push_str(&format!(
            " Whether it is within its objective again, from the end of the overload on: {}.",
            back.join("; ")
        ));
    }
    Figure { name, title, caption, drawing: Ok(drawing) }
}

fn paint(panel: &Panel<'_, '_>, number: usize, label: &str, pieces: &[Piece], figure: Of, show: Show) {
    let middle = |piece: &Piece| (piece.from_s + piece.to_s) / 2.0;
    let values: Vec<(f64, f64)> = pieces.iter().filter_map(|piece| Some((middle(piece), figure(piece)?))).collect();
    panel.line(&values, 0, Ink::Series(number));
    for value in values {
        panel.mark(value, 0, number, false, &format!("{label} at {:.2} s: {}", value.0, show(value.1)));
    }
}
