//! Bars for what has no load to be drawn against: closed loops, and connections that come and go.
//!
//! A panel for each measure, a bar for each series, from zero. Many series make a tall figure rather than several.

use super::super::digest::{Digest, Measure, Mix, Series, Spot};
use super::super::words;
use super::axis::{Axis, round_count, round_time};
use super::canvas::{ABOVE, BELOW, LINE, Lettering, WIDTH, draw, width_of};
use super::theme::Ink;
use super::{Figure, named, told};

/// What has bars, if it was measured: most of what clients wait for, then what they cost.
const MEASURES: [Measure; 4] = [Measure::Achieved, Measure::P99, Measure::Connect, Measure::Cpu];
/// The height of a bar with the space around it.
const BAR: i32 = 52;
const GAP: i32 = 30;
const STRENGTH: f64 = 0.75;
/// Above the longest bar there is room for its number.
const ROOM: f64 = 1.45;
/// No value stands farther right than this part of an axis.
const RIGHTMOST: f64 = 0.8;

/// Series with something at one point.
struct Group<'d, 'a> {
    mix: &'d Mix<'a>,
    point: &'a str,
    bars: Vec<(&'d Series<'a>, &'d Spot<'a>)>,
}

pub(super) fn figures(digest: &Digest<'_>) -> Vec<Figure> {
    let groups: Vec<Group<'_, '_>> = digest.mixes.iter().flat_map(groups).collect();
    if groups.is_empty() {
        let reason = "no runs of several configurations in a closed loop, or with connections that come and go";
        return vec![Figure::absent("bars", "Closed loops and churn", reason)];
    }
    let many = groups.len();
    groups.iter().enumerate().map(|(at, group)| figure(group, named("bars", at, many))).collect()
}

fn is_shown(spot: &Spot<'_>) -> bool {
    let is_churn = spot.parameters.requests_per_connection.is_some();
    let is_closed = spot.rate_per_s().is_none();
    !spot.rows.is_empty() && !spot.has_phases() && (is_churn || is_closed)
}

fn groups<'d, 'a>(mix: &'d Mix<'a>) -> Vec<Group<'d, 'a>> {
    let mut groups: Vec<Group<'_, '_>> = Vec::new();
    for series in &mix.series {
        for spot in series.spots.iter().filter(|spot| is_shown(spot)) {
            match groups.iter_mut().find(|group| group.point == spot.point) {
                Some(group) => group.bars.push((series, spot)),
                None => groups.push(Group { mix, point: spot.point, bars: vec![(series, spot)] }),
            }
        }
    }
    groups.retain(|group| group.bars.len() > 1);
    groups
}

fn figure(group: &Group<'_, '_>, name: String) -> Figure {
    let churn = group.bars[0].1.parameters.requests_per_connection;
    let what = match churn {
        Some(1) => "A connection for each request".to_owned(),
        Some(many) => format!("A new connection after {many} requests"),
        None => "Closed loop".to_owned(),
    };
    let mix = if group.mix.label.is_empty() { String::new() } else { format!(", {}", group.mix.label) };
    let point = if group.point == "closed" { String::new() } else { format!(", {}", group.point) };
    let title = format!("{what}{mix}{point}");
    let value = |spot: &Spot<'_>, measure| spot.estimate(measure).map(|estimate| estimate.center);
    let axis = |measure: Measure| {
        let values = group.bars.iter().filter_map(|(_, spot)| value(spot, measure).map(|value| value * ROOM));
        let (name, show): (&str, fn(f64) -> String) = match measure {
            Measure::Achieved => ("requests per second", round_count),
            Measure::P99 => ("p99 latency", round_time),
            Measure::Connect => ("connecting, median", round_time),
            _ => ("CPU per request", round_time),
        };
        let mut axis = Axis::from_zero(name, values, show)?;
        // In a narrow panel two or three values are enough, none so far right that it meets the next panel's.
        let apart = axis.ticks.len().div_ceil(3);
        let ticks = axis.ticks.into_iter().step_by(apart.max(1));
        axis.ticks = ticks.filter(|(place, _)| *place <= RIGHTMOST * axis.high).collect();
        Some((measure, axis))
    };
    let panels: Vec<(Measure, Axis)> = MEASURES.into_iter().filter_map(axis).collect();
    if panels.is_empty() {
        return Figure::absent(&name, &title, "the rows have none of its measures");
    }
    let names = Axis::of_names("", group.bars.iter().rev().map(|(series, _)| series.label.clone()));
    let blank = names.blank();
    let left = group.bars.iter().map(|(series, _)| width_of(&series.label)).max().unwrap_or(0) + 30;
    let height = LINE + ABOVE / 2 + group.bars.len() as i32 * BAR + ABOVE + BELOW;
    let drawing = draw(&title, height, |sheet| {
        let many = panels.len() as i32;
        let width = (WIDTH - left - (many - 1) * GAP) / many;
        for (number, (measure, x)) in panels.iter().enumerate() {
            let number = number as i32;
            let (own, y) = if number == 0 { (left, &names) } else { (0, &blank) };
            let from = if number == 0 { 0 } else { left + number * (width + GAP) };
            let panel = sheet.panel((from, LINE), (from + own + width, height), own, x, y);
            for (at, (series, spot)) in group.bars.iter().rev().enumerate() {
                let Some(value) = value(spot, *measure) else { continue };
                let middle = at as f64;
                let (low, high) = (panel.at(0.0, middle - 0.34), panel.at(value, middle + 0.34));
                panel.sheet.fill((low.0, high.1), (high.0, low.1), Ink::Series(number as usize), STRENGTH);
                panel.sheet.tell_in(low, high, &told(series, spot, *measure));
                let doubt = if spot.is_doubtful() { " *" } else { "" };
                let shown = match measure {
                    Measure::Achieved => words::rate(value),
                    _ => words::time(value),
                };
                let behind = (high.0 + 12, (low.1 + high.1) / 2);
                panel.sheet.write(behind, &format!("{shown}{doubt}"), Lettering::beside());
            }
        }
    });
    let mut caption = "Medians of the repeats; their intervals are in the table.".to_owned();
    if group.bars.iter().any(|(_, spot)| spot.is_doubtful()) {
        caption.push_str(" *: limited by the load or the machine.");
    }
    Figure { name, title, caption, drawing: Ok(drawing) }
}
