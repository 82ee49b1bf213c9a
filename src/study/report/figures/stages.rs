//! Where the time went: for each series a bar for the requests around each quantile, in the shares of its stages.
//!
//! One point of each mix is shown, the highest at which no server fell behind. Rows that tell the stages only of all
//! requests have one bar, of the means.

use std::fmt::Write;

use serde_json::Value;

use super::super::digest::{Digest, Series, Spot};
use super::super::words;
use super::axis::Axis;
use super::canvas::{ABOVE, BELOW, Key, LINE, Lettering, WIDTH, draw, legend_height, width_of};
use super::theme::Ink;
use super::{Figure, Page, named, pages};
use crate::study::row::Row;

const TITLE: &str = "Where the time went";

/// The stages of a request, in order, with their colours.
const STAGES: [(&str, Ink); 5] = [
    ("late", Ink::Series(4)),
    ("unseen", Ink::Series(5)),
    ("queue", Ink::Series(1)),
    ("service", Ink::Series(2)),
    ("reply", Ink::Series(0)),
];
/// How strong the colours are, so that text can be read on all of them.
const STRENGTH: f64 = 0.6;
/// The quantiles with a bar, as rows and as people call them.
const QUANTILES: [(&str, &str); 4] = [("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99_9", "p99.9")];
/// The height of a bar with the space around it.
const BAR: i32 = 46;
/// Room for the whole time behind a bar.
const WHOLE: i32 = 150;
/// Means whose sum is farther than this part from the mean latency are of other requests: they are no parts of it.
const ADDS_UP: f64 = 0.02;
/// Between the bars of two series, in bars.
const BETWEEN: f64 = 0.5;

/// One bar.
struct Bar {
    quantile: String,
    told: String,
    stages_ns: [f64; 5],
}

impl Bar {
    fn whole_ns(&self) -> f64 {
        self.stages_ns.iter().sum()
    }
}

pub(super) fn figures(digest: &Digest<'_>) -> Vec<Figure> {
    let pages = pages(digest, |series| series.spots.iter().any(|spot| !bars_of(series, spot).is_empty()));
    if pages.is_empty() {
        let is_any_left_out =
            digest.series().any(|(_, series)| series.spots.iter().any(|spot| is_left_out(series, spot)));
        let reason = match is_any_left_out {
            true => "the stages of requests are on average not together their latency",
            false => "no run has the stages of its requests: only `work` tells them",
        };
        return vec![Figure::absent("stages", TITLE, reason)];
    }
    let many = pages.len();
    pages.iter().enumerate().map(|(at, page)| figure(page, named("stages", at, many))).collect()
}

fn figure(page: &Page<'_, '_>, name: String) -> Figure {
    let point = shown_point(page);
    let title = format!("{}, {}", page.title(TITLE), words::at(point));
    let of_series = |series: &Series<'_>| {
        let spot = series.spots.iter().find(|spot| spot.point == point);
        spot.map(|spot| bars_of(series, spot)).unwrap_or_default()
    };
    let groups: Vec<(&str, Vec<Bar>)> = page.series.iter().map(|series| (&*series.label, of_series(series))).collect();
    // From below: each bar with its place, and the name of the series beside the first of its own.
    let mut bars: Vec<(f64, String, &Bar)> = Vec::new();
    let mut place = 0.0;
    for (label, group) in groups.iter().rev() {
        for (at, bar) in group.iter().enumerate().rev() {
            let name = if at == 0 { format!("{label} · {}", bar.quantile) } else { bar.quantile.clone() };
            bars.push((place, name, bar));
            place += 1.0;
        }
        place += BETWEEN;
    }
    let names = Axis::at_places("", bars.iter().map(|(place, name, _)| (*place, name.clone())).collect());
    let x = Axis::of_shares("share of the time");
    let legend: Vec<(Key, String)> =
        STAGES.iter().map(|(stage, ink)| (Key::Fill(*ink, STRENGTH), (*stage).to_owned())).collect();
    let top = LINE + 14;
    let under = top + legend_height(&legend);
    let height = under + ABOVE / 2 + ((names.high - names.low) * f64::from(BAR)) as i32 + BELOW;
    let left = bars.iter().map(|(_, name, _)| width_of(name)).max().unwrap_or(0) + 30;
    let drawing = draw(&title, height, |sheet| {
        sheet.legend(top, &legend);
        let panel = sheet.panel((0, under - ABOVE / 2), (WIDTH - WHOLE, height), left, &x, &names);
        for (middle, _, bar) in &bars {
            let middle = *middle;
            let mut from = 0.0;
            for ((stage, ink), stage_ns) in STAGES.iter().zip(bar.stages_ns) {
                let share = stage_ns / bar.whole_ns();
                let (low, high) = (panel.at(from, middle - 0.36), panel.at(from + share, middle + 0.36));
                from += share;
                if high.0 <= low.0 {
                    continue;
                }
                panel.sheet.fill(low, (high.0, high.1), *ink, STRENGTH);
                panel.sheet.line(vec![(high.0, low.1), high], Ink::Paper, 3);
                let told = format!("{}: {stage} {} ({})", bar.told, words::time(stage_ns), words::percent(share));
                panel.sheet.tell_in(low, high, &told);
                if width_of(stage) + 16 < high.0 - low.0 {
                    let center = ((low.0 + high.0) / 2, (low.1 + high.1) / 2);
                    panel.sheet.write(center, stage, Lettering::centered());
                }
            }
            let (x, y) = panel.at(1.0, middle);
            panel.sheet.write((x + 16, y), &words::time(bar.whole_ns()), Lettering::beside());
        }
    });
    let mut caption = "From the intended send: late (until the actual one), unseen (in the kernel, or the poller parked), queue \
        (until a worker took it), service, reply (until it was received). Each bar is the requests around that quantile, means \
        of all repeats; the whole time stands behind it."
        .to_owned();
    let without = page
        .mix
        .series
        .iter()
        .filter(|series| series.spots.iter().any(|spot| spot.point == point && is_left_out(series, spot)));
    let without: Vec<String> = without.map(|series| series.label.clone()).collect();
    if !without.is_empty() {
        let _ = write!(
            caption,
            " Without a bar, because the means of its stages are together more than {} off the mean latency: {}.",
            words::percent(ADDS_UP),
            words::listed(&without)
        );
    }
    Figure { name, title, caption, drawing: Ok(drawing) }
}

/// The highest point that all series of a page have stages at and none fell behind at; else the first that any has.
fn shown_point<'a>(page: &Page<'_, 'a>) -> &'a str {
    let has = |series: &Series<'_>, point: &str, wants_pace: bool| {
        series
            .spots
            .iter()
            .any(|spot| spot.point == point && !bars_of(series, spot).is_empty() && !(wants_pace && spot.is_behind()))
    };
    let spots = || page.series.iter().flat_map(|series| series.spots.iter().rev());
    let by_all = spots().find(|spot| page.series.iter().all(|series| has(series, spot.point, true)));
    let by_any = || spots().find(|spot| page.series.iter().any(|series| has(series, spot.point, false)));
    by_all.or_else(by_any).map(|spot| spot.point).unwrap_or_default()
}

/// The bars of a spot: one for each quantile that its runs tell the stages of, or one of the means of all requests.
fn bars_of(series: &Series<'_>, spot: &Spot<'_>) -> Vec<Bar> {
    let bar = |name: &str, stages_of: &dyn Fn(&Row) -> Option<[f64; 5]>| {
        let runs: Option<Vec<[f64; 5]>> = spot.rows.iter().map(|row| stages_of(row)).collect();
        let runs = runs.filter(|runs| !runs.is_empty())?;
        let mean = |stage: usize| runs.iter().map(|stages| stages[stage]).sum::<f64>() / runs.len() as f64;
        let stages_ns = std::array::from_fn(mean);
        let bar =
            Bar { quantile: name.to_owned(), told: format!("{}, {}, {name}", series.label, spot.point), stages_ns };
        (bar.whole_ns() > 0.0).then_some(bar)
    };
    let at =
        |quantile: &'static str| move |row: &Row| stages(row.load.as_ref()?.get("stages_at")?.get(quantile)?, None);
    let bars: Vec<Bar> = QUANTILES.iter().filter_map(|(quantile, name)| bar(name, &at(quantile))).collect();
    if !bars.is_empty() {
        return bars;
    }
    bar("mean", &means).filter(|_| adds_up(spot)).into_iter().collect()
}

/// The mean times of the stages of all requests.
fn means(row: &Row) -> Option<[f64; 5]> {
    stages(row.load.as_ref()?.get("stages_ns")?, Some("mean"))
}

/// Whether the mean stages of each run are together its mean latency.
fn adds_up(spot: &Spot<'_>) -> bool {
    spot.rows.iter().all(|row| {
        let whole = row.figure("load.latency_ns.mean");
        whole
            .zip(means(row))
            .is_some_and(|(whole, stages)| (stages.iter().sum::<f64>() - whole).abs() <= ADDS_UP * whole)
    })
}

/// Whether there is no bar because the stages are not together the latency.
fn is_left_out(series: &Series<'_>, spot: &Spot<'_>) -> bool {
    let has_means = !spot.rows.is_empty() && spot.rows.iter().all(|row| means(row).is_some());
    has_means && bars_of(series, spot).is_empty()
}

/// The times of the stages under a value; with `figure`, that of each one's distribution.
fn stages(of: &Value, figure: Option<&str>) -> Option<[f64; 5]> {
    let time = |(stage, _): &(&str, Ink)| {
        let stage = of.get(stage)?;
        figure.map_or(Some(stage), |figure| stage.get(figure))?.as_f64()
    };
    let times: Option<Vec<f64>> = STAGES.iter().map(time).collect();
    times?.try_into().ok()
}
