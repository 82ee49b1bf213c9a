//! Latency against load: a panel for each quantile, a line for each series with its spread, and the prediction of the
//! ideal system beside it.
//!
//! Marks are hollow where load or machine may have made the figure, or the server was over its limit. Series stand a little
//! aside of each other, so that equal values do not hide each other.

use super::super::digest::{Digest, Measure, Series, Spot};
use super::axis::{Axis, plain, round_count, round_time};
use super::canvas::{Key, Panel, Row};
use super::theme::Ink;
use super::{Figure, Page, named, pages, told};

const TITLE: &str = "Latency against load";
const PANEL: i32 = 520;
/// How far series stand aside of each other.
const ASIDE: i32 = 5;
/// Predictions that differ by less than this part are drawn as one.
const ALIKE: f64 = 0.02;

pub(super) fn figures(digest: &Digest<'_>) -> Vec<Figure> {
    let pages = pages(digest, |series| series.spots.iter().filter(|spot| is_shown(spot)).count() > 1);
    if pages.is_empty() {
        let reason = "no configuration has latencies at two loads of an open loop";
        return vec![Figure::absent("latency", TITLE, reason)];
    }
    let many = pages.len();
    pages.iter().enumerate().map(|(at, page)| figure(page, named("latency", at, many))).collect()
}

fn is_shown(spot: &Spot<'_>) -> bool {
    spot.load().is_some() && spot.estimate(Measure::P50).is_some()
}

fn figure(page: &Page<'_, '_>, name: String) -> Figure {
    let title = page.title(TITLE);
    let all = || page.series.iter().flat_map(|series| &series.spots).filter(|spot| is_shown(spot));
    let has = |measure: &&Measure| all().any(|spot| spot.estimate(**measure).is_some());
    let measures: Vec<Measure> = [Measure::P50, Measure::P99, Measure::P999].iter().filter(has).copied().collect();
    let values = || {
        all().flat_map(|spot| {
            measures.iter().flat_map(move |measure| {
                let estimate = spot.estimate(*measure);
                let ends = spot.spread(*measure);
                [estimate.map(|estimate| estimate.center), ends.map(|ends| ends.0), ends.map(|ends| ends.1)]
            })
        })
    };
    let predicted = all().flat_map(|spot| measures.iter().map(move |measure| spot.predicted(*measure)));
    let is_share = all().all(|spot| spot.parameters.load.is_some());
    let (load_name, show): (&str, fn(f64) -> String) =
        if is_share { ("load, share of capacity", plain) } else { ("load, requests per second", round_count) };
    let x = Axis::around(load_name, all().filter_map(|spot| spot.load()), show);
    let y = Axis::logarithmic("", values().chain(predicted).flatten(), round_time);
    let (Some(x), Some(y)) = (x, y) else {
        return Figure::absent(&name, &title, "no latency is above zero");
    };
    let common = common_prediction(page, &measures);
    let mut legend: Vec<(Key, String)> =
        page.series.iter().enumerate().map(|(at, series)| (Key::Series(at), series.label.clone())).collect();
    let is_predicted = all().any(|spot| measures.iter().any(|measure| spot.predicted(*measure).is_some()));
    if is_predicted {
        legend.push((Key::Dashed, if common { "ideal system" } else { "ideal system of each" }.to_owned()));
    }
    if all().any(Spot::is_doubtful) {
        legend.push((Key::Hollow, "in doubt".to_owned()));
    }
    let names: Vec<String> = measures.iter().map(|measure| format!("{} latency", measure.name())).collect();
    let row = Row { title: &title, legend: &legend, names: &names, panel: PANEL };
    let drawing = row.draw(&x, &y, |panel, number| paint(panel, page, measures[number], common));
    let caption = "Medians of the repeats; whiskers are 95 % intervals, or both of two repeats. Time is logarithmic and counts from the intended \
        send. Dashed: one queue and no cost but service, with the same requests. Hollow: limited by the load or the \
        machine, or over the server's limit. A point is left out where fewer than ten samples lie beyond the quantile, or \
        more requests than that were never served.";
    Figure { name, title, caption: caption.to_owned(), drawing: Ok(drawing) }
}

/// Whether the ideal systems of all series at one load predict the same, so that one line stands for them.
fn common_prediction(page: &Page<'_, '_>, measures: &[Measure]) -> bool {
    let spots = || page.series.iter().flat_map(|series| &series.spots);
    let alike = |one: &Spot<'_>, other: &Spot<'_>| {
        one.point != other.point
            || measures.iter().all(|measure| match (one.predicted(*measure), other.predicted(*measure)) {
                (Some(one), Some(other)) => (one / other - 1.0).abs() <= ALIKE,
                (one, other) => one.is_none() == other.is_none(),
            })
    };
    spots().all(|one| spots().all(|other| alike(one, other)))
}

fn paint(panel: &Panel<'_, '_>, page: &Page<'_, '_>, measure: Measure, common: bool) {
    let predicted = |series: &Series<'_>| -> Vec<(f64, f64)> {
        let pair = |spot: &Spot<'_>| Some((spot.load()?, spot.predicted(measure)?));
        series.spots.iter().filter_map(pair).collect()
    };
    if common {
        let longest = page.series.iter().map(|series| predicted(series)).max_by_key(Vec::len);
        panel.dashes(&longest.unwrap_or_default(), Ink::Muted);
    }
    let middle = page.series.len() as i32 - 1;
    let shift = |at: usize| (2 * at as i32 - middle) * ASIDE / 2;
    for (at, series) in page.series.iter().enumerate() {
        if !common {
            panel.dashes(&predicted(series), Ink::Series(at));
        }
        for line in unbroken(series, measure) {
            panel.line(&line, shift(at), Ink::Series(at));
        }
    }
    for (at, series) in page.series.iter().enumerate() {
        for spot in &series.spots {
            let (Some(load), Some(estimate)) = (spot.load(), spot.estimate(measure)) else { continue };
            if let Some(spread) = spot.spread(measure) {
                panel.whisker(load, spread, shift(at), Ink::Series(at));
            }
            let told = told(series, spot, measure);
            panel.mark((load, estimate.center), shift(at), at, spot.is_doubtful(), &told);
        }
    }
}

/// The values of a series, broken where a point has none.
fn unbroken(series: &Series<'_>, measure: Measure) -> Vec<Vec<(f64, f64)>> {
    let mut lines = vec![Vec::new()];
    for spot in series.spots.iter().filter(|spot| spot.load().is_some()) {
        match (spot.load(), spot.estimate(measure)) {
            (Some(load), Some(estimate)) => lines.last_mut().expect("there is one").push((load, estimate.center)),
            _ => lines.push(Vec::new()),
        }
    }
    lines.retain(|line: &Vec<(f64, f64)>| line.len() > 1);
    lines
}
