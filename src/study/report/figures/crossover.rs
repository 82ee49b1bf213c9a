//! The crossover map: service time across, dispersion down, and in each cell who is ahead and by how much; grey where the
//! difference is within noise.
//!
//! There is a map for each kind of spending time and each point. Its cells are the contests of mixes that differ in
//! their demand alone.

use std::collections::{BTreeMap, BTreeSet};

use super::super::contest::Contest;
use super::super::digest::{Digest, Measure};
use super::super::words;
use super::axis::{Axis, plain, round_time};
use super::canvas::{ABOVE, BELOW, Key, LINE, Lettering, TEXT, WIDTH, draw, legend_height, width_of};
use super::theme::{Ink, SERIES};
use super::{Figure, named};
use crate::load::demand::Demand;

const TITLE: &str = "Who is ahead";
/// The height of a cell.
const CELL: i32 = 120;
/// Leads of this factor and more have the full colour.
const STRONGEST: f64 = 2.0;
/// The strength of the least lead that counts, and of the greatest.
const STRENGTHS: (f64, f64) = (0.25, 0.75);

/// Contests of one map.
struct Map<'c, 'd, 'a> {
    /// Of what kind, and at which point.
    key: (String, &'a str),
    cells: Vec<(Demand, &'c Contest<'d, 'a>)>,
}

pub(super) fn figures(digest: &Digest<'_>, contests: &[Contest<'_, '_>]) -> Vec<Figure> {
    let maps = maps(contests);
    if maps.is_empty() {
        let reason = match digest.series().count() {
            0 | 1 => "there is nothing to compare",
            _ => "no two demands were asked of two configurations at one point",
        };
        return vec![Figure::absent("crossover", TITLE, reason)];
    }
    let many = maps.len();
    maps.iter().enumerate().map(|(at, map)| figure(map, named("crossover", at, many))).collect()
}

/// The contests by what they have in common but for the demand; maps of one demand are none.
fn maps<'c, 'd, 'a>(contests: &'c [Contest<'d, 'a>]) -> Vec<Map<'c, 'd, 'a>> {
    let mut maps: Vec<Map<'_, '_, '_>> = Vec::new();
    for contest in contests {
        let spot = contest.ranking[0].spot;
        let Some(demand) = spot.parameters.demand.as_deref().and_then(|text| Demand::parse(text).ok()) else {
            continue;
        };
        let others: Vec<&str> = contest.mix.label.split(' ').filter(|part| !part.starts_with("demand=")).collect();
        let kind = spot.parameters.kind.clone().unwrap_or_default();
        let others = others.join(" ");
        let asked = if others.is_empty() || others.contains("kind=") { others } else { format!("{kind} {others}") };
        let asked = if asked.is_empty() { kind } else { asked };
        let workers = contest.workers().map(|workers| format!(", {}", words::counted(workers, "worker")));
        let key = (asked + &workers.unwrap_or_default(), contest.point());
        match maps.iter_mut().find(|map| map.key == key) {
            Some(map) => map.cells.push((demand, contest)),
            None => maps.push(Map { key, cells: vec![(demand, contest)] }),
        }
    }
    maps.retain(|map| map.cells.iter().any(|(demand, _)| *demand != map.cells[0].0));
    maps
}

fn figure(map: &Map<'_, '_, '_>, name: String) -> Figure {
    let (kind, point) = &map.key;
    let title = format!("{TITLE}: {kind}, {}", words::at(point));
    let means: BTreeSet<u64> = map.cells.iter().map(|(demand, _)| demand.mean_ns().round() as u64).collect();
    let means: Vec<u64> = means.into_iter().collect();
    // By dispersion, the least on top; distributions of one dispersion by name.
    let rows: BTreeMap<(u64, String), ()> = map.cells.iter().map(|(demand, _)| (row_key(demand), ())).collect();
    let rows: Vec<(u64, String)> = rows.into_keys().collect();
    // In the order of the plan, as in the other figures.
    let mut heads: Vec<&str> = Vec::new();
    for (_, contest) in &map.cells {
        for series in &contest.mix.series {
            let is_in = contest.ranking.iter().any(|entry| std::ptr::eq(entry.series, series));
            let name = contest.name(series);
            if is_in && !heads.contains(&name) {
                heads.push(name);
            }
        }
    }
    let ink = |label: &str| {
        let at = heads.iter().position(|head| *head == label).unwrap_or(0);
        if at < SERIES { Ink::Series(at) } else { Ink::Muted }
    };
    let winners: BTreeSet<&str> =
        map.cells.iter().filter_map(|(_, contest)| Some(contest.name(contest.winner()?.series))).collect();
    let mut legend: Vec<(Key, String)> =
        winners.iter().map(|label| (Key::Fill(ink(label), STRENGTHS.1), format!("{label} ahead"))).collect();
    legend.push((Key::Fill(Ink::Noise, STRENGTHS.0), "within noise".to_owned()));
    let x = Axis::of_names("mean service time", means.iter().map(|mean| round_time(*mean as f64)));
    let names = Axis::of_names("distribution of service times", rows.iter().rev().map(|(_, name)| name.clone()));
    let top = LINE + 14;
    let under = top + legend_height(&legend);
    let height = under + ABOVE + rows.len() as i32 * CELL + BELOW;
    let left = rows.iter().map(|(_, name)| width_of(name)).max().unwrap_or(0) + 30;
    let usual = usual_measure(map);
    let drawing = draw(&title, height, |sheet| {
        sheet.legend(top, &legend);
        let panel = sheet.panel((0, under), (WIDTH, height), left, &x, &names);
        for (demand, contest) in &map.cells {
            let mean = demand.mean_ns().round() as u64;
            let across = means.iter().position(|known| *known == mean).map_or(0.0, |at| at as f64);
            let row = rows.iter().rev().position(|row| *row == row_key(demand)).map_or(0.0, |at| at as f64);
            let (low, high) = (panel.at(across - 0.48, row - 0.46), panel.at(across + 0.48, row + 0.46));
            let (fill, strength) = match contest.winner() {
                Some(winner) => (ink(contest.name(winner.series)), strength(contest.lead().center)),
                None => (Ink::Noise, STRENGTHS.0),
            };
            panel.sheet.fill((low.0, high.1), (high.0, low.1), fill, strength);
            let (middle, up) = ((low.0 + high.0) / 2, (low.1 + high.1) / 2);
            let other = if contest.measure == usual { String::new() } else { format!(", {}", contest.measure.name()) };
            let limited = format!("{other}{}", if contest.is_limited() { " *" } else { "" });
            let lines = match contest.winner() {
                Some(winner) => {
                    let by = format!("×{}{limited}", words::factor(contest.lead().center));
                    vec![fitting(contest.name(winner.series), high.0 - low.0), by]
                }
                None => vec![format!("within noise{limited}")],
            };
            let step = TEXT + 10;
            let first = up - step * (lines.len() as i32 - 1) / 2;
            for (at, line) in lines.iter().enumerate() {
                let lettering = Lettering { is_bold: at == 0 && lines.len() > 1, ..Lettering::centered() };
                panel.sheet.write((middle, first + at as i32 * step), line, lettering);
            }
            panel.sheet.tell_in(low, high, &told(demand, contest));
        }
    });
    let by = match usual {
        Measure::Achieved => "× is the throughput by that of the next".to_owned(),
        measure => format!("× is how much longer the {} of the next is", measure.name()),
    };
    let mut caption = format!(
        "{by}. Grey: the 95 % interval of the ratio holds 1, or the ratio is within what the A/A pair differed by. c² is the \
         squared coefficient of variation."
    );
    if map.cells.iter().any(|(_, contest)| contest.measure != usual) {
        caption.push_str(" A cell that names another measure has no two of them with that one.");
    }
    if map.cells.iter().any(|(_, contest)| contest.is_limited()) {
        caption.push_str(" *: a limit of the load or the machine may have decided it.");
    }
    Figure { name, title, caption, drawing: Ok(drawing) }
}

/// What most cells are compared by.
fn usual_measure(map: &Map<'_, '_, '_>) -> Measure {
    let cells_by = |measure: &&Measure| map.cells.iter().filter(|(_, contest)| contest.measure == **measure).count();
    Measure::ALL.iter().max_by_key(cells_by).copied().unwrap_or(Measure::P99)
}

/// Dispersion in thousandths, then the shape by name.
fn row_key(demand: &Demand) -> (u64, String) {
    let variation = demand.squared_variation();
    let shape = match demand {
        Demand::Fixed(_) => "fixed".to_owned(),
        Demand::Exponential { .. } => "exponential".to_owned(),
        Demand::Bimodal { parts } => {
            let share = parts.iter().map(|(share, _)| *share).fold(0.0, f64::max);
            format!("bimodal, {} %", plain(share * 100.0))
        }
        Demand::Lognormal { sigma, .. } => format!("lognormal, σ {}", plain(*sigma)),
    };
    ((variation * 1e3).round() as u64, format!("{shape}, c² {}", short(variation)))
}

/// A dispersion with two digits.
fn short(variation: f64) -> String {
    if variation >= 9.95 { format!("{variation:.0}") } else { plain((variation * 10.0).round() / 10.0) }
}

fn strength(lead: f64) -> f64 {
    let (least, most) = STRENGTHS;
    let part = (lead.ln() / STRONGEST.ln()).clamp(0.0, 1.0);
    // Few digits: the library writes them all.
    ((least + (most - least) * part) * 100.0).round() / 100.0
}

/// The text, or as much of it as fits.
fn fitting(text: &str, width: i32) -> String {
    let fits = |text: &str| width_of(text) * 11 / 10 <= width;
    if fits(text) {
        return text.to_owned();
    }
    let mut kept = text.to_owned();
    while kept.pop().is_some() && !fits(&format!("{kept}…")) {}
    format!("{}…", kept.trim_end())
}

fn told(demand: &Demand, contest: &Contest<'_, '_>) -> String {
    let entries = contest.ranking.iter().map(|entry| {
        let shown = entry.spot.estimate(contest.measure).map(|estimate| match contest.measure {
            Measure::Achieved => format!("{}/s", words::rate(estimate.center)),
            _ => words::time(estimate.center),
        });
        format!("{} {} (×{})", entry.series.label, shown.unwrap_or_default(), words::factor_within(entry.behind))
    });
    format!("{demand}, {}: {}", contest.measure.name(), entries.collect::<Vec<_>>().join(" · "))
}
