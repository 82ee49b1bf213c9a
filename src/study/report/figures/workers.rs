//! Throughput and CPU per request against the number of workers: a line for each engine, or whatever else varies beside.
//!
//! Throughput is the most that a series achieved at any of its points; CPU per request is that at the highest point that all
//! of them have and none fell behind at, or else at the highest that all have.

use super::super::digest::{Digest, Measure, Mix, Series, Spot};
use super::super::words;
use super::axis::{Axis, round_count, round_time};
use super::canvas::{ABOVE, BELOW, Key, LINE, Panel, WIDTH, draw, legend_height};
use super::theme::{Ink, SERIES};
use super::{Figure, named, told};
use crate::study::row::Limit;

const TITLE: &str = "Throughput and CPU per request against workers";
const PANEL: i32 = 480;
const VALUES: i32 = 130;
const GAP: i32 = 60;
/// How far lines stand aside of each other.
const ASIDE: i32 = 8;

/// Series that differ by their workers alone, by their number.
struct Line<'d, 'a> {
    label: String,
    series: Vec<(usize, &'d Series<'a>)>,
}

pub(super) fn figures(digest: &Digest<'_>) -> Vec<Figure> {
    let with_lines: Vec<(&Mix<'_>, Vec<Line<'_, '_>>)> =
        digest.mixes.iter().map(|mix| (mix, lines(mix))).filter(|(_, lines)| !lines.is_empty()).collect();
    if with_lines.is_empty() {
        return vec![Figure::absent("workers", TITLE, "no two configurations differ in their number of workers alone")];
    }
    let pages: Vec<(&Mix<'_>, &[Line<'_, '_>])> =
        with_lines.iter().flat_map(|(mix, lines)| lines.chunks(SERIES).map(move |lines| (*mix, lines))).collect();
    let many = pages.len();
    let figures = pages.into_iter().enumerate();
    figures.map(|(at, (mix, lines))| figure(mix, lines, named("workers", at, many))).collect()
}

/// The lines of a mix that have at least two numbers of workers.
fn lines<'d, 'a>(mix: &'d Mix<'a>) -> Vec<Line<'d, 'a>> {
    let mut lines: Vec<Line<'_, '_>> = Vec::new();
    for series in mix.series.iter().filter(|series| series.spots.iter().any(|spot| !spot.rows.is_empty())) {
        let engine = &series.spots[0].parameters.engine;
        let label = if series.family == series.label { engine.clone() } else { series.family.clone() };
        match lines.iter_mut().find(|line| line.label == label) {
            Some(line) => line.series.push((series.workers, series)),
            None => lines.push(Line { label, series: vec![(series.workers, series)] }),
        }
    }
    for line in &mut lines {
        line.series.sort_by_key(|(workers, _)| *workers);
    }
    lines.retain(|line| line.series.first().map(|first| first.0) != line.series.last().map(|last| last.0));
    lines
}

fn figure(mix: &Mix<'_>, lines: &[Line<'_, '_>], name: String) -> Figure {
    let title = if mix.label.is_empty() { TITLE.to_owned() } else { format!("{TITLE}, {}", mix.label) };
    let mut numbers: Vec<usize> =
        lines.iter().flat_map(|line| line.series.iter().map(|(workers, _)| *workers)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let x = Axis::of_names("workers", numbers.iter().map(usize::to_string));
    let place = |workers: usize| numbers.iter().position(|number| *number == workers).map_or(0.0, |at| at as f64);
    let point = common_point(lines);
    let at_point = |series: &&Series<'_>| series.spots.iter().position(|spot| Some(spot.point) == point);
    let all = || lines.iter().flat_map(|line| line.series.iter().map(|(_, series)| *series));
    let most = all().filter_map(|series| ends(best(series)?, Measure::Achieved));
    let cpu = all().filter_map(|series| ends(&series.spots[at_point(&series)?], Measure::Cpu));
    let capacity = capacity(lines);
    let has_capacity = capacity.len() == numbers.len();
    let highest = capacity.iter().map(|(_, most)| *most).filter(|_| has_capacity);
    let throughput = Axis::from_zero("throughput, requests per second", most.chain(highest), round_count);
    let cpu_name = format!("server's CPU per request {}", words::at(point.unwrap_or_default()));
    let cpu = Axis::from_zero(&cpu_name, cpu, round_time);
    let panels: Vec<(Measure, Axis)> = [(Measure::Achieved, throughput), (Measure::Cpu, cpu)]
        .into_iter()
        .filter_map(|(m, axis)| Some((m, axis?)))
        .collect();
    if panels.is_empty() {
        return Figure::absent(&name, &title, "the rows have neither throughput nor CPU");
    }
    let mut legend: Vec<(Key, String)> =
        lines.iter().enumerate().map(|(at, line)| (Key::Series(at), line.label.clone())).collect();
    if has_capacity {
        legend.push((Key::Dashed, "capacity".to_owned()));
    }
    let shown = |(measure, _): &(Measure, Axis)| {
        let measure = *measure;
        all().filter_map(move |series| {
            Some((
                measure,
                if measure == Measure::Achieved { best(series)? } else { &series.spots[at_point(&series)?] },
            ))
        })
    };
    if panels.iter().flat_map(shown).any(|(measure, spot)| is_doubtful(spot, measure)) {
        legend.push((Key::Hollow, "in doubt".to_owned()));
    }
    let cores = lines[0].series[0].1.spots[0].parameters.server_cores.len();
    let top = LINE + 14;
    let under = top + legend_height(&legend);
    let height = under + ABOVE + PANEL + BELOW;
    let drawing = draw(&title, height, |sheet| {
        sheet.legend(top, &legend);
        let width = (WIDTH - GAP) / 2;
        for (number, (measure, y)) in panels.iter().enumerate() {
            let left = number as i32 * (width + GAP);
            let panel = sheet.panel((left, under), (left + width, height), VALUES, &x, y);
            if *measure == Measure::Achieved && has_capacity {
                panel.dashes(
                    &capacity.iter().map(|(workers, most)| (place(*workers), *most)).collect::<Vec<_>>(),
                    Ink::Muted,
                );
            }
            for (at, line) in lines.iter().enumerate() {
                let shown = line.series.iter().filter_map(|(workers, series)| {
                    let spot = match measure {
                        Measure::Achieved => best(series)?,
                        _ => &series.spots[at_point(series)?],
                    };
                    Some((place(*workers), *series, spot))
                });
                let shift = (2 * at as i32 + 1 - lines.len() as i32) * ASIDE / 2;
                paint(&panel, (at, shift), *measure, &shown.collect::<Vec<_>>());
            }
        }
    });
    let caption = format!(
        "Left: the most that was achieved at any point; dashed: all servers busy all the time. Medians of the repeats; whiskers are 95 % intervals. The server \
         had {}. Hollow: limited by the load or the machine.",
        words::counted(cores, "core")
    );
    Figure { name, title, caption, drawing: Ok(drawing) }
}

fn paint(
    panel: &Panel<'_, '_>,
    (number, shift): (usize, i32),
    measure: Measure,
    shown: &[(f64, &Series<'_>, &Spot<'_>)],
) {
    let value = |spot: &Spot<'_>| spot.estimate(measure).map(|estimate| estimate.center);
    let line: Vec<(f64, f64)> = shown.iter().filter_map(|(place, _, spot)| Some((*place, value(spot)?))).collect();
    panel.line(&line, shift, Ink::Series(number));
    for (place, series, spot) in shown {
        let Some(estimate) = spot.estimate(measure) else { continue };
        if let Some(spread) = spot.spread(measure) {
            panel.whisker(*place, spread, shift, Ink::Series(number));
        }
        panel.mark((*place, estimate.center), shift, number, is_doubtful(spot, measure), &told(series, spot, measure));
    }
}

/// A server is at its limit where it achieves most, which makes its latency doubtful and not its throughput.
fn is_doubtful(spot: &Spot<'_>, measure: Measure) -> bool {
    match measure {
        Measure::Achieved => spot.limited_by(Limit::Generator) + spot.limited_by(Limit::Machine) > 0,
        _ => spot.is_doubtful(),
    }
}

/// Where the upper end of a spot's spread is.
fn ends(spot: &Spot<'_>, measure: Measure) -> Option<f64> {
    let estimate = spot.estimate(measure)?;
    Some(spot.spread(measure).map_or(estimate.center, |(_, high)| high.max(estimate.center)))
}

/// What the ideal system can do with so many workers, where that is the same for all lines.
fn capacity(lines: &[Line<'_, '_>]) -> Vec<(usize, f64)> {
    let all = lines.iter().flat_map(|line| &line.series);
    let mut known: Vec<(usize, f64)> =
        all.filter_map(|(workers, series)| Some((*workers, series.spots[0].parameters.capacity_per_s?))).collect();
    known.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
    known.dedup();
    known
}

/// Where a series achieved most.
fn best<'d, 'a>(series: &'d Series<'a>) -> Option<&'d Spot<'a>> {
    let achieved = |spot: &&Spot<'_>| spot.estimate(Measure::Achieved).map(|estimate| estimate.center);
    let able = series.spots.iter().filter(|spot| !spot.has_phases() && achieved(spot).is_some());
    able.max_by(|one, other| achieved(one).unwrap_or(0.0).total_cmp(&achieved(other).unwrap_or(0.0)))
}

/// The point at which CPU per request is compared.
fn common_point<'a>(lines: &[Line<'_, 'a>]) -> Option<&'a str> {
    let all = || lines.iter().flat_map(|line| line.series.iter().map(|(_, series)| *series));
    let find = |series: &'_ Series<'a>, point: &str| series.spots.iter().position(|spot| spot.point == point);
    let has = |point: &str, wants_pace: bool| {
        all().all(|series| {
            find(series, point)
                .map(|at| &series.spots[at])
                .is_some_and(|spot| spot.estimate(Measure::Cpu).is_some() && !(wants_pace && spot.is_behind()))
        })
    };
    // Spots are in the order of load; closed loops come last.
    let points = || all().next().into_iter().flat_map(|series| series.spots.iter().rev().map(|spot| spot.point));
    points().find(|point| has(point, true)).or_else(|| points().find(|point| has(point, false)))
}
