//! [`Findings`]: what a study found, in plain words made from its numbers, with what stands against it.
//!
//! Every sentence is true of any rows: it names what was compared, by what, where, and by how much, and calls a tie a
//! tie. What was not measured is not spoken of. No words depend on anything but the digest: same rows, same words.
//!
//! Read next: `caveats.rs`, what stands against it; `contest.rs`, which decides who is ahead.

use std::collections::BTreeSet;

use serde_json::Value;

use super::contest::{Comparisons, Contest, Lack, LeftOut, counts, is_same};
use super::digest::{Digest, Measure, Mix, Series, Spot};
use super::words::{at, counted, factor, factor_within, listed, percent, rate, span};
use super::{caveats, recovery};
use crate::study::analysis::{Share, ShareOfBound};
use crate::study::estimate::Estimate;
use crate::study::row::Status;
use crate::study::table::show_share;

/// So many mixes have a sentence each; of more there is one for all.
const MIXES_APART: usize = 4;
/// So many points are named; of more the first and the last are.
const POINTS_NAMED: usize = 3;
/// So many clauses of a list are told; of more it is said how many.
const CLAUSES_NAMED: usize = 4;

/// What was found, and what stands against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Sentences, in the order in which they are read; they are one paragraph.
    pub sentences: Vec<String>,
    /// What is to be known before they are believed.
    pub caveats: Vec<String>,
}

impl Findings {
    /// What these rows amount to.
    pub(super) fn of(
        digest: &Digest<'_>,
        comparisons: &Comparisons<'_, '_>,
        shares: &[ShareOfBound],
        host: Option<&Value>,
    ) -> Findings {
        let mut sentences = vec![what_was_done(digest)];
        if digest.spots().any(|spot| !spot.rows.is_empty()) {
            sentences.extend(who_is_ahead(digest, comparisons));
            sentences.extend(who_is_alone(comparisons));
            sentences.extend(who_is_left_out(comparisons));
            sentences.extend(beyond_the_cores(digest));
            sentences.extend(from_the_ideal(digest));
            sentences.extend(share_of_bound(shares));
            sentences.extend(recovery::sentence(digest));
        }
        Findings { sentences, caveats: caveats::of(digest, &comparisons.contests, host) }
    }
}

fn what_was_done(digest: &Digest<'_>) -> String {
    let all = digest.rows.len();
    let measured = digest.rows.iter().filter(|row| row.status == Status::Ok).count();
    match (all, measured) {
        (0, _) => "There are no rows: nothing was measured.".to_owned(),
        (1, 0) => "The only run could not be measured; the reason is below.".to_owned(),
        (_, 0) => format!("None of {} could be measured; the reasons are below.", counted(all, "run")),
        _ => {
            let labels: BTreeSet<&str> = digest.series().map(|(_, series)| &*series.label).collect();
            let mixes = digest.mixes.iter().filter(|mix| !mix.label.is_empty()).count();
            let points: BTreeSet<&str> = digest.spots().map(|spot| spot.point).collect();
            let under = match mixes {
                0 | 1 => String::new(),
                many => format!(" under {many} kinds of requests"),
            };
            let failed = match all - measured {
                0 => String::new(),
                failed => format!(", and {failed} more could not be measured"),
            };
            format!(
                "{} of {}{under} at {} {} measured{failed}.",
                counted(measured, "run"),
                counted(labels.len(), "configuration"),
                counted(points.len(), "point"),
                if measured == 1 { "was" } else { "were" },
            )
        }
    }
}

/// Who wins where and by how much, and where nobody does.
fn who_is_ahead(digest: &Digest<'_>, comparisons: &Comparisons<'_, '_>) -> Vec<String> {
    let Comparisons { contests, alone, left_out } = comparisons;
    if digest.spots().all(|spot| spot.has_phases()) {
        // Of a load that changes, the recovery is what is compared.
        return Vec::new();
    }
    if contests.is_empty() {
        let labels: BTreeSet<&str> = digest.series().map(|(_, series)| &*series.label).collect();
        let told = match labels.first() {
            Some(only) if labels.len() == 1 => {
                format!("There is one configuration ({only}), so none is ahead of another.")
            }
            _ if alone.is_empty() && left_out.is_empty() => {
                "No two configurations had the same to do, so none is called ahead of another.".to_owned()
            }
            _ => "No two of those with the same to do have a figure that can be compared.".to_owned(),
        };
        return vec![told];
    }
    let (few, judged): (Vec<&Contest<'_, '_>>, Vec<_>) = contests.iter().partition(|contest| contest.is_of_few());
    let mut sentences = of_judged(digest, &judged);
    sentences.extend(of_few(&few, judged.is_empty()));
    sentences
}

/// Comparisons of too few repeats: how large a difference looks, and that it says nothing.
fn of_few(contests: &[&Contest<'_, '_>], is_all: bool) -> Option<String> {
    let widest = contests.iter().max_by(|one, other| one.farthest().total_cmp(&other.farthest()))?;
    let repeats = contests.iter().flat_map(|contest| &contest.ranking).map(|entry| entry.behind.runs).max()?;
    let where_not_all = if is_all { String::new() } else { format!("in {}, ", counted(contests.len(), "comparison")) };
    let what = if widest.measure == Measure::Achieved { "throughput" } else { widest.measure.name() };
    let largest = factor(widest.farthest());
    let before = format!("{where_not_all}with {}", counted(repeats, "repeat"));
    Some(format!(
        "{}{} no difference can be told from noise (largest seen: ×{largest} in {what} {}{}).",
        before[..1].to_uppercase(),
        &before[1..],
        at(widest.point()),
        with(widest.mix),
    ))
}

/// Comparisons of enough repeats.
fn of_judged(digest: &Digest<'_>, contests: &[&Contest<'_, '_>]) -> Vec<String> {
    let with_contests: Vec<&Mix<'_>> =
        digest.mixes.iter().filter(|mix| contests.iter().any(|c| std::ptr::eq(c.mix, *mix))).collect();
    if with_contests.len() > MIXES_APART {
        return in_all(contests);
    }
    let of_mix = |mix: &&Mix<'_>| {
        let own: Vec<&Contest<'_, '_>> = contests.iter().copied().filter(|c| std::ptr::eq(c.mix, *mix)).collect();
        // One mix may be compared by latency at some points and by throughput at others.
        let measures = Measure::ALL
            .iter()
            .map(|measure| own.iter().copied().filter(|contest| contest.measure == *measure).collect::<Vec<_>>());
        measures.filter(|some| !some.is_empty()).map(|some| of_one_mix(&mix.label, &some)).collect::<Vec<_>>()
    };
    with_contests.iter().flat_map(of_mix).collect()
}

/// Who alone has a figure, where others had the same to do.
fn who_is_alone(comparisons: &Comparisons<'_, '_>) -> Option<String> {
    let mut told: Vec<(String, Vec<String>)> = Vec::new();
    for alone in &comparisons.alone {
        let what = if alone.measure == Measure::Achieved { "throughput" } else { alone.measure.name() };
        let name = format!("{}{} alone has a {what}", alone.series.label, with(alone.mix));
        push_under(&mut told, name, alone.point.to_owned());
    }
    let clauses: Vec<String> = told.iter().map(|(name, points)| format!("{name} {}", over(points))).collect();
    (!clauses.is_empty()).then(|| format!("Of those with the same to do, {}.", some_of(&clauses)))
}

/// Who had the same to do as others and cannot be compared with them, and why.
fn who_is_left_out(comparisons: &Comparisons<'_, '_>) -> Vec<String> {
    let of_kind = |is_latency: bool| {
        let own = comparisons.left_out.iter().filter(|left| (left.measure != Measure::Achieved) == is_latency);
        let mut told: Vec<(String, Vec<&LeftOut<'_, '_>>)> = Vec::new();
        for left in own {
            let why = std::mem::discriminant(&left.lack);
            let name = format!("{}{}", left.series.label, with(left.mix));
            let same = |(known, lefts): &&mut (String, Vec<&LeftOut<'_, '_>>)| {
                *known == name && std::mem::discriminant(&lefts[0].lack) == why
            };
            match told.iter_mut().find(same) {
                Some((_, lefts)) => lefts.push(left),
                None => told.push((name, vec![left])),
            }
        }
        let clause = |(name, lefts): &(String, Vec<&LeftOut<'_, '_>>)| {
            let points: Vec<String> = lefts.iter().map(|left| left.point.to_owned()).collect();
            format!("{name} {} ({})", over(&points), why(lefts))
        };
        let clauses: Vec<String> = told.iter().map(clause).collect();
        let by = if is_latency { "latency" } else { "throughput" };
        (!clauses.is_empty()).then(|| format!("Without a {by} to be compared: {}.", some_of(&clauses)))
    };
    [true, false].into_iter().filter_map(of_kind).collect()
}

/// Why these have no figure; all for the same reason.
fn why(lefts: &[&LeftOut<'_, '_>]) -> String {
    let shares: Vec<f64> = lefts
        .iter()
        .filter_map(|left| match left.lack {
            Lack::Unserved(share) => Some(share),
            Lack::Failed | Lack::Samples | Lack::Repeats => None,
        })
        .collect();
    match lefts[0].lack {
        Lack::Failed => "no run could be measured".to_owned(),
        Lack::Unserved(_) => format!("{} of its requests not served", span(&shares, percent)),
        Lack::Samples => "too few samples".to_owned(),
        Lack::Repeats => "no repeat in common with the best".to_owned(),
    }
}

fn with(mix: &Mix<'_>) -> String {
    if mix.label.is_empty() { String::new() } else { format!(" with {}", mix.label) }
}

/// Adds an item to those under this name.
fn push_under(told: &mut Vec<(String, Vec<String>)>, name: String, item: String) {
    match told.iter_mut().find(|(known, _)| *known == name) {
        Some((_, items)) => items.push(item),
        None => told.push((name, vec![item])),
    }
}

/// These points by name, or how many there are.
fn over(points: &[String]) -> String {
    match points {
        [] => String::new(),
        some if some.len() <= POINTS_NAMED => at(&listed(some)),
        [first, .., last] => format!("at {} points from {first} to {last}", points.len()),
        [one] => at(one),
    }
}

/// The first of these, and how many more there are.
fn some_of(clauses: &[String]) -> String {
    let named = clauses.len().min(CLAUSES_NAMED);
    let more = match clauses.len() - named {
        0 => String::new(),
        more => format!("; and {more} more, which the tables show"),
    };
    clauses[..named].join("; ") + &more
}

fn of_one_mix(label: &str, contests: &[&Contest<'_, '_>]) -> String {
    let with = if label.is_empty() { String::new() } else { format!("With {label}, ") };
    let measure = contests[0].measure;
    let better = if measure == Measure::Achieved { "highest throughput" } else { "lowest" };
    let better = if measure == Measure::Achieved { better.to_owned() } else { format!("{better} {}", measure.name()) };
    let mut winners: Vec<(&str, Vec<&Contest<'_, '_>>)> = Vec::new();
    for contest in contests {
        let Some(winner) = contest.winner() else { continue };
        let name = contest.name(winner.series);
        match winners.iter_mut().find(|(known, _)| *known == name) {
            Some((_, won)) => won.push(contest),
            None => winners.push((name, vec![contest])),
        }
    }
    let ties = contests.iter().filter(|contest| contest.winner().is_none()).count();
    let clauses: Vec<String> = winners
        .iter()
        .map(|(label, won)| {
            let leads: Vec<f64> = won.iter().map(|contest| contest.lead().center).collect();
            let by = match won.as_slice() {
                [one] => format!("by a factor of {}", factor_within(one.lead())),
                _ => format!("by a factor of {}", span(&leads, factor)),
            };
            format!("{label} has the {better} {} ({by} over the next)", places(won, contests))
        })
        .collect();
    let within = match (ties, winners.is_empty()) {
        (0, _) => String::new(),
        (_, true) => {
            let names = tied_names(contests);
            let whose = if measure == Measure::Achieved { "throughput".to_owned() } else { measure.name().to_owned() };
            return sentence(
                &with,
                &format!(
                    "no difference in {whose} {} is beyond noise, {}",
                    if names.is_empty() { "at the head".to_owned() } else { format!("between {names}") },
                    places(contests, contests),
                ),
            );
        }
        (1, false) => "; at 1 other point the best are within noise of each other".to_owned(),
        (many, false) => format!("; at {many} other points the best are within noise of each other"),
    };
    sentence(&with, &(clauses.join("; ") + &within))
}

/// The names of those that are tied, where they are the same in all of these.
fn tied_names(contests: &[&Contest<'_, '_>]) -> String {
    let names = |contest: &Contest<'_, '_>| {
        let mut names: Vec<String> =
            contest.ranking[..contest.tied].iter().map(|entry| contest.name(entry.series).to_owned()).collect();
        names.sort();
        names
    };
    let first = names(contests[0]);
    if contests.iter().all(|contest| names(contest) == first) { listed(&first) } else { String::new() }
}

/// Where these are among all of them: `at each of 5 points`, `at load=0.1 and load=0.2`, `from load=0.1 to load=0.5`.
fn places(some: &[&Contest<'_, '_>], all: &[&Contest<'_, '_>]) -> String {
    let points: Vec<String> = some.iter().map(|contest| contest.point().to_owned()).collect();
    if some.len() == all.len() && all.len() > 1 {
        return format!("at each of {} points", all.len());
    }
    if points.len() <= POINTS_NAMED {
        return at(&listed(&points));
    }
    let place = |contest: &Contest<'_, '_>| all.iter().position(|other| std::ptr::eq(*other, contest));
    let (first, last) = (place(some[0]), place(some[some.len() - 1]));
    let is_unbroken = first.zip(last).is_some_and(|(first, last)| last - first + 1 == some.len());
    match is_unbroken {
        true => format!("from {} to {}", points[0], points[points.len() - 1]),
        false => format!("at {} points from {} to {}", points.len(), points[0], points[points.len() - 1]),
    }
}

/// One sentence for many mixes.
fn in_all(contests: &[&Contest<'_, '_>]) -> Vec<String> {
    let mut sentences = Vec::new();
    for measure in Measure::ALL {
        let own: Vec<&Contest<'_, '_>> =
            contests.iter().copied().filter(|contest| contest.measure == *measure).collect();
        match own.as_slice() {
            [] => continue,
            [one] => {
                sentences.push(of_one_mix(&one.mix.label, &own));
                continue;
            }
            _ => {}
        }
        let mut winners: Vec<(&str, Vec<&Contest<'_, '_>>)> = Vec::new();
        for contest in &own {
            let Some(winner) = contest.winner() else { continue };
            let name = contest.name(winner.series);
            match winners.iter_mut().find(|(known, _)| *known == name) {
                Some((_, won)) => won.push(contest),
                None => winners.push((name, vec![contest])),
            }
        }
        let mut clauses: Vec<String> = winners
            .iter()
            .map(|(label, won)| {
                let leads: Vec<f64> = won.iter().map(|contest| contest.lead().center).collect();
                let widest = won.iter().max_by(|one, other| one.lead().center.total_cmp(&other.lead().center));
                let widest =
                    widest.map(|c| format!(", most with {} {}", c.mix.label, at(c.point()))).unwrap_or_default();
                format!("{label} is ahead in {} (by a factor of {}{widest})", won.len(), span(&leads, factor))
            })
            .collect();
        let ties = own.iter().filter(|contest| contest.winner().is_none()).count();
        if ties == own.len() {
            sentences.push(format!("Of {} by {}, all are within noise.", counted(ties, "comparison"), measure.name()));
            continue;
        }
        if ties > 0 {
            clauses.push(format!("{ties} {} within noise", if ties == 1 { "is" } else { "are" }));
        }
        sentences.push(format!("Of {} by {}, {}.", counted(own.len(), "comparison"), measure.name(), listed(&clauses)));
    }
    sentences
}

/// What more workers than cores did to those that need a core, and what more workers did for those that sleep.
fn beyond_the_cores(digest: &Digest<'_>) -> Vec<String> {
    let mut sentences = Vec::new();
    let (mut spinning, mut sleeping) = (Beyond::default(), Vec::new());
    for mix in &digest.mixes {
        for family in families(mix) {
            let cores = family[0].spots[0].parameters.server_cores.len().max(1);
            if family[0].spots[0].parameters.kind.as_deref() == Some("sleep") {
                let most = |series: &Series<'_>| {
                    let kept_up = series.spots.iter().filter(|spot| !spot.is_behind());
                    kept_up.filter_map(|spot| spot.estimate(Measure::Achieved)).map(|e| e.center).fold(0.0, f64::max)
                };
                let few = family.iter().min_by_key(|series| series.workers).map(|s| (s.workers, most(s)));
                let many = family.iter().max_by_key(|series| series.workers).map(|s| (s.workers, most(s)));
                if let (Some((few, low)), Some((many, high))) = (few, many)
                    && few < many
                    && low > 0.0
                    && high > 0.0
                {
                    sleeping.push(format!(
                        "{many} workers kept up with {}/s and {few} with {}/s ({} times as many) on {}",
                        rate(high),
                        rate(low),
                        factor(high / low),
                        counted(cores, "core")
                    ));
                }
                continue;
            }
            let within = family.iter().filter(|series| series.workers <= cores);
            let Some(base) = within.max_by_key(|series| series.workers) else { continue };
            for more in family.iter().filter(|series| series.workers > cores) {
                spinning.add(digest, base, more);
            }
        }
    }
    sentences.extend(spinning.sentence());
    // One example stands for all: the figure has the others.
    sentences.extend(sleeping.first().map(|told| format!("Requests that sleep need no core: {told}.")));
    sentences
}

/// Series that differ by their workers alone, at least two.
fn families<'d, 'a>(mix: &'d Mix<'a>) -> Vec<Vec<&'d Series<'a>>> {
    let mut families: Vec<(String, Vec<&Series<'_>>)> = Vec::new();
    for series in &mix.series {
        let engine = &series.spots[0].parameters.engine;
        // Where workers alone vary, a family has no name but the engine's.
        let name = if series.family == series.label { engine.clone() } else { series.family.clone() };
        match families.iter_mut().find(|(known, _)| *known == name) {
            Some((_, family)) => family.push(series),
            None => families.push((name, vec![series])),
        }
    }
    families.into_iter().map(|(_, family)| family).filter(|family| family.len() > 1).collect()
}

/// More workers than cores beside as many.
#[derive(Default)]
struct Beyond {
    latency: Vec<Estimate>,
    worse: usize,
    better: usize,
    cpu: Vec<f64>,
}

impl Beyond {
    fn add(&mut self, digest: &Digest<'_>, base: &Series<'_>, more: &Series<'_>) {
        let pairs = more.spots.iter().flat_map(|spot| base.spots.iter().map(move |other| (spot, other)));
        for (spot, other) in pairs.filter(|(spot, other)| is_same(spot, other) && spot.load().is_some()) {
            let Some(ratio) = spot.ratio_to(other, Measure::P99) else { continue };
            self.latency.push(ratio);
            if counts(ratio, digest.noise.floor(Measure::P99)) {
                *(if ratio.center > 1.0 { &mut self.worse } else { &mut self.better }) += 1;
            }
            self.cpu.extend(spot.ratio_to(other, Measure::Cpu).map(|ratio| ratio.center));
        }
    }

    fn sentence(&self) -> Option<String> {
        if self.latency.is_empty() {
            return None;
        }
        let all = self.latency.len();
        let ratios: Vec<f64> = self.latency.iter().map(|ratio| ratio.center).collect();
        let judged = match self.latency.iter().all(|ratio| ratio.interval.is_none()) {
            true => format!("{} of too few repeats to be told from noise", counted(all, "comparison")),
            false => format!(
                "longer in {}, shorter in {}, within noise in {} of {}",
                self.worse,
                self.better,
                all - self.worse - self.better,
                counted(all, "comparison")
            ),
        };
        let cpu = match self.cpu.is_empty() {
            true => String::new(),
            false => format!("; CPU per request was {} times as much", span(&self.cpu, factor)),
        };
        Some(format!(
            "More workers than cores, beside as many as cores at the same rate, had {} times the p99: {judged}{cpu}.",
            span(&ratios, factor),
        ))
    }
}

/// How far latencies are from those of the ideal system, where there is a steady state to speak of.
fn from_the_ideal(digest: &Digest<'_>) -> Option<String> {
    let is_steady = |spot: &&Spot<'_>| {
        let stays = |predicted: &crate::study::row::Predicted| predicted.utilization < 1.0;
        !spot.is_doubtful() && spot.rows.iter().all(|row| row.predicted.as_ref().is_some_and(stays))
    };
    let far = |(mix, series, spot): (&Mix<'_>, &Series<'_>, &Spot<'_>)| {
        let ratio = spot.estimate(Measure::P99)?.center / spot.predicted(Measure::P99)?;
        ratio.is_finite().then(|| (ratio, format!("{} {}{}", series.label, at(spot.point), with(mix))))
    };
    let spots = digest.series().flat_map(|(mix, series)| series.spots.iter().map(move |spot| (mix, series, spot)));
    let mut far: Vec<(f64, String)> = spots.filter(|(.., spot)| is_steady(spot)).filter_map(far).collect();
    far.sort_by(|one, other| one.0.total_cmp(&other.0));
    let ((least, nearest), (most, farthest)) = (far.first()?, far.last()?);
    Some(match far.len() {
        _ if factor(*least) == factor(*most) => {
            format!("The p99 is {} times that of the ideal system.", factor(*least))
        }
        _ => format!(
            "The p99 is between {} times that of the ideal system ({nearest}) and {} times ({farthest}).",
            factor(*least),
            factor(*most)
        ),
    })
}

/// How much of what the ideal bears the configurations bear: the least and the most.
fn share_of_bound(shares: &[ShareOfBound]) -> Option<String> {
    let is = |share: &ShareOfBound| match share.share() {
        Share::Is(part) => Some((part, share.clone())),
        // Bounds have no order among each other; the table has them.
        Share::AtLeast(_) | Share::AtMost(_) | Share::Unknown => None,
    };
    let mut known: Vec<(f64, ShareOfBound)> = shares.iter().filter_map(is).collect();
    known.sort_by(|one, other| one.0.total_cmp(&other.0));
    let ((_, least), (_, most)) = (known.first()?, known.last()?);
    let told = |share: &ShareOfBound| format!("{} reaches {}", share.configuration, show_share(share.share()));
    let objective = &most.objective;
    Some(match known.len() {
        1 => format!("For the objective {objective}, {}.", told(most)),
        many if show_share(least.share()) == show_share(most.share()) => {
            let all = counted(many, "configuration");
            format!("For the objective {objective}, {all} reach {}.", show_share(most.share()))
        }
        _ => format!("For the objective {objective}, {}, the most of all, and {}, the least.", told(most), told(least)),
    })
}

/// With its first letter as a sentence has it, unless that begins a name.
fn sentence(before: &str, text: &str) -> String {
    match text.strip_prefix("no ") {
        Some(rest) if before.is_empty() => format!("No {rest}."),
        _ => format!("{before}{text}."),
    }
}
