//! What stands against the findings of a study: runs that failed or were limited, too few repeats, cores that both sides
//! shared, and what the A/A pair cannot tell apart.
//!
//! Read next: `findings.rs`, what stands before it.

use serde_json::Value;

use super::contest::Contest;
use super::digest::{Digest, Measure, Spot, unserved_share};
use super::words::{counted, factor, listed, percent};
use crate::study::estimate::{FEWEST, most_confidence};
use crate::study::row::{Limit, Status};

/// What the intervals claim to cover.
const CLAIMED: f64 = 0.95;

/// What is to be known before the findings are believed.
pub(super) fn of(digest: &Digest<'_>, contests: &[Contest<'_, '_>], host: Option<&Value>) -> Vec<String> {
    let mut caveats = Vec::new();
    let failed = digest.failed().count();
    caveats.extend((failed > 0).then(|| match failed {
        1 => "1 run failed; its reason is in a table below.".to_owned(),
        many => format!("{} failed; their reasons are in a table below.", counted(many, "run")),
    }));
    if digest.rows.iter().all(|row| row.status == Status::Failed) {
        return caveats;
    }
    let is_optimised = host.and_then(|host| host.get("optimised")).and_then(Value::as_bool);
    if is_optimised == Some(false) {
        caveats
            .push("The program was built without optimisation: its times say little of those of a release.".to_owned());
    }
    caveats.push(noise(digest));
    caveats.extend(repeats(digest));
    caveats.extend(limits(digest, contests));
    caveats.extend(figures(digest));
    if digest.shares_cores() {
        caveats.push(
            "Server and load shared cores in some runs, so each took time from the other: compare ratios, not times."
                .to_owned(),
        );
    }
    if digest.spots().any(|spot| spot.rate_per_s().is_none() && !spot.rows.is_empty()) {
        caveats.push(
            "In a closed loop a server that stalls is not asked meanwhile: its latencies leave out what clients of an \
             open loop would have waited."
                .to_owned(),
        );
    }
    caveats
}

fn noise(digest: &Digest<'_>) -> String {
    let measures = [Measure::P50, Measure::P99, Measure::Achieved, Measure::Cpu];
    let floor = |measure: Measure| Some(format!("{} in {}", factor(digest.noise.floor(measure)?), measure.name()));
    let floors: Vec<String> = measures.into_iter().filter_map(floor).collect();
    let is_cut_short = digest.rows.iter().any(|row| row.twin.is_some());
    match floors.is_empty() {
        true if is_cut_short => {
            "The A/A pair was cut short: no round has both of it measured, so that differences are judged by their \
             intervals alone."
                .to_owned()
        }
        true => "There is no A/A pair, so that differences are judged by their intervals alone.".to_owned(),
        false => format!(
            "Two configurations that are the same (the A/A pair) differed by factors of up to {}: smaller differences \
             count as noise.",
            listed(&floors)
        ),
    }
}

fn repeats(digest: &Digest<'_>) -> Option<String> {
    let repeats = digest.repeats;
    let most = most_confidence(repeats);
    if repeats < FEWEST {
        let repeats = counted(repeats, "repeat");
        Some(format!("With {repeats} there are no intervals, and no difference counts as more than noise."))
    } else {
        let repeats = counted(repeats, "repeat");
        (most < CLAIMED).then(|| {
            format!("With {repeats} an interval covers the true median at most {} of the time.", percent(most))
        })
    }
}

fn limits(digest: &Digest<'_>, contests: &[Contest<'_, '_>]) -> Vec<String> {
    let of_limit = |limit: Limit| digest.rows.iter().filter(|row| row.limited_by.contains(&limit)).count();
    let mut caveats = Vec::new();
    let generator = of_limit(Limit::Generator);
    caveats.extend((generator > 0).then(|| {
        format!(
            "In {} the load had too much to do to be on time: the latencies there may be its own.",
            counted(generator, "run")
        )
    }));
    let machine = of_limit(Limit::Machine);
    caveats.extend((machine > 0).then(|| {
        format!(
            "{} limited by the machine: more workers wanted a processor than there were, or others had the load's.",
            if machine == 1 { "1 run was".to_owned() } else { format!("{} were", counted(machine, "run")) }
        )
    }));
    let limited = contests.iter().filter(|contest| contest.is_limited()).count();
    let rest = if limited == 1 { "rests" } else { "rest" };
    caveats.extend((limited > 0).then(|| format!("{} {rest} on such runs.", counted(limited, "comparison"))));
    caveats
}

fn figures(digest: &Digest<'_>) -> Vec<String> {
    let measured = || digest.spots().filter(|spot| !spot.rows.is_empty());
    let mut caveats = Vec::new();
    let behind = measured().filter(|spot| spot.is_behind()).count();
    caveats.extend((behind > 0).then(|| {
        format!(
            "{} over the server's limit: latency there is a matter of how long the run was.",
            if behind == 1 { "1 point was".to_owned() } else { format!("{} were", counted(behind, "point")) }
        )
    }));
    let is_without = |spot: &&Spot<'_>| spot.estimate(Measure::P99).is_none();
    let without = measured().filter(is_without).count();
    caveats.extend((without > 0).then(|| {
        format!(
            "{} no p99: some run had fewer than ten samples beyond it, or left one request in a hundred without service.",
            if without == 1 { "1 point has".to_owned() } else { format!("{} have", counted(without, "point")) }
        )
    }));
    let wrong = digest.rows.iter().filter(|row| has_errors(row)).count();
    caveats.extend((wrong > 0).then(|| format!("{} had errors or left requests unserved.", counted(wrong, "run"))));
    caveats
}

fn has_errors(row: &crate::study::row::Row) -> bool {
    let errors = row.load.as_ref().and_then(|load| load.get("errors")).and_then(|errors| errors.as_object());
    errors.is_some_and(|errors| !errors.is_empty()) || unserved_share(row) > 0.0
}
