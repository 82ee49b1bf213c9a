//! An open loop against a closed one: latency against the throughput that was achieved, on one figure.
//!
//! The closed loop's marks are hollow and its line is dashed. Where it stands below the open one at the same throughput, that is
//! what its clients do not see: they ask nothing while they wait.

use super::super::digest::{Digest, Measure, Series, Spot};
use super::axis::{Axis, round_count, round_time};
use super::canvas::{Key, Panel, Row};
use super::theme::{Ink, SERIES};
use super::{Figure, named, told};

const TITLE: &str = "Open loop against closed loop";
const PANEL: i32 = 480;

/// A series under one kind of requests, by throughput.
type Line<'d, 'a> = (String, Vec<(&'d Series<'a>, &'d Spot<'a>)>);

pub(super) fn figures(digest: &Digest<'_>) -> Vec<Figure> {
    let lines = lines(digest);
    if lines.is_empty() {
        return vec![Figure::absent("loops", TITLE, "no configuration ran in both")];
    }
    let pages: Vec<&[Line<'_, '_>]> = lines.chunks(SERIES).collect();
    let many = pages.len();
    pages.into_iter().enumerate().map(|(at, lines)| figure(lines, named("loops", at, many))).collect()
}

/// What ran in both.
fn lines<'d, 'a>(digest: &'d Digest<'a>) -> Vec<Line<'d, 'a>> {
    let is_shown = |spot: &&Spot<'_>| {
        !spot.has_phases() && spot.estimate(Measure::Achieved).is_some() && spot.estimate(Measure::P50).is_some()
    };
    let mut lines: Vec<Line<'_, '_>> = Vec::new();
    for (mix, series) in digest.series() {
        let spots = series.spots.iter().filter(is_shown).map(|spot| (series, spot));
        let label = match (mix.label.as_str(), mix.series.len()) {
            ("", _) => series.label.clone(),
            (asked, 1) => asked.to_owned(),
            (asked, _) => format!("{}, {asked}", series.label),
        };
        lines.push((label, spots.collect()));
    }
    lines.retain(|(_, spots)| {
        spots.iter().any(|(_, spot)| is_closed(spot)) && spots.iter().any(|(_, spot)| !is_closed(spot))
    });
    for (_, spots) in &mut lines {
        spots.sort_by(|one, other| achieved(one.1).unwrap_or(0.0).total_cmp(&achieved(other.1).unwrap_or(0.0)));
    }
    lines
}

fn is_closed(spot: &Spot<'_>) -> bool {
    spot.rate_per_s().is_none()
}

fn achieved(spot: &Spot<'_>) -> Option<f64> {
    spot.estimate(Measure::Achieved).map(|estimate| estimate.center)
}

fn figure(lines: &[Line<'_, '_>], name: String) -> Figure {
    let all = || lines.iter().flat_map(|(_, spots)| spots.iter().map(|(_, spot)| *spot));
    let has = |measure: &&Measure| all().any(|spot| spot.estimate(**measure).is_some());
    let measures: Vec<Measure> = [Measure::P50, Measure::P99].iter().filter(has).copied().collect();
    let values = all().flat_map(|spot| {
        measures.iter().flat_map(move |measure| {
            let ends = spot.spread(*measure);
            [spot.estimate(*measure).map(|estimate| estimate.center), ends.map(|ends| ends.0), ends.map(|ends| ends.1)]
        })
    });
    let x = Axis::from_zero("throughput, requests per second", all().filter_map(achieved), round_count);
    let (Some(x), Some(y)) = (x, Axis::logarithmic("", values.flatten(), round_time)) else {
        return Figure::absent(&name, TITLE, "no latency is above zero");
    };
    let mut legend: Vec<(Key, String)> =
        lines.iter().enumerate().map(|(at, (label, _))| (Key::Series(at), format!("{label}, open"))).collect();
    legend.push((Key::Hollow, "closed loop, of the same colour and shape".to_owned()));
    let names: Vec<String> = measures.iter().map(|measure| format!("{} latency", measure.name())).collect();
    let row = Row { title: TITLE, legend: &legend, names: &names, panel: PANEL };
    let drawing = row.draw(&x, &y, |panel, number| paint(panel, lines, measures[number]));
    let caption = "Medians of the repeats; whiskers are 95 % intervals. Hollow and dashed: the closed loop, whose clients wait for \
        a reply before they ask again. At one throughput the open loop's latency is what clients have who do not wait for each \
        other.";
    Figure { name, title: TITLE.to_owned(), caption: caption.to_owned(), drawing: Ok(drawing) }
}

fn paint(panel: &Panel<'_, '_>, lines: &[Line<'_, '_>], measure: Measure) {
    for (at, (_, spots)) in lines.iter().enumerate() {
        let ink = Ink::Series(at);
        let value = |spot: &Spot<'_>| Some((achieved(spot)?, spot.estimate(measure)?.center));
        let line = |wants_closed: bool| -> Vec<(f64, f64)> {
            let own = spots.iter().filter(|(_, spot)| is_closed(spot) == wants_closed);
            own.filter_map(|(_, spot)| value(spot)).collect()
        };
        panel.line(&line(false), 0, ink);
        panel.dashes(&line(true), ink);
        for (series, spot) in spots {
            let Some(value) = value(spot) else { continue };
            if let Some(spread) = spot.spread(measure) {
                panel.whisker(value.0, spread, 0, ink);
            }
            panel.mark(value, 0, at, is_closed(spot), &told(series, spot, measure));
        }
    }
}
