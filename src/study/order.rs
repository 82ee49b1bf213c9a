//! Which run is made when: rounds, each with every cell once and the A/A pair's second, in a shuffled order.
//!
//! A machine that is slow for a minute slows a part of a round, and not one configuration: what is compared is spread
//! over the whole study. The seed decides the order and every trace, so that a study that was interrupted goes on as it
//! would have.
//!
//! Invariants: *interleaved*: no round begins before the one before it is over. *same-trace*: all runs at one point of
//! one round have the same seed. Read next: `run.rs`.

use super::plan::Plan;
use super::row::Twin;
use crate::random::Random;

/// The streams of draws that a study's seed gives. Those of a load have seeds of their own.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Stream {
    Order = 1,
    Traces = 2,
}

/// Seeds of traces have so many bits: every reader of JSON keeps such numbers whole.
const SEED_BITS: u32 = 53;

/// One run that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its place in the unshuffled study, which is its name.
    pub id: usize,
    /// Its round.
    pub repeat: usize,
    /// Its place in the order.
    pub order: usize,
    /// Which cell of the plan.
    pub cell: usize,
    /// Whether it is one of the A/A pair.
    pub twin: Option<Twin>,
    /// The seed of its trace.
    pub seed: u64,
}

/// All runs of a plan, in the order in which they are made.
pub fn runs(plan: &Plan) -> Vec<Run> {
    let pair = pair_of(plan);
    let a_round = plan.cells.len() + 1;
    let round = |repeat: usize| {
        let run = |(place, (cell, twin)): (usize, (usize, Option<Twin>))| Run {
            id: repeat * a_round + place,
            repeat,
            order: 0,
            cell,
            twin,
            seed: trace_seed(plan, repeat, plan.cells[cell].point_number),
        };
        let grid = (0..plan.cells.len()).map(|cell| (cell, (cell == pair).then_some(Twin::First)));
        let mut runs: Vec<Run> = grid.chain([(pair, Some(Twin::Second))]).enumerate().map(run).collect();
        shuffle(&mut runs, &mut Random::at(plan.seed, Stream::Order as u64, repeat as u64));
        runs
    };
    let mut all: Vec<Run> = (0..plan.repeats).flat_map(round).collect();
    all.iter_mut().enumerate().for_each(|(order, run)| run.order = order);
    all
}

/// The cell that is run twice: the first configuration, at the middle of its points.
fn pair_of(plan: &Plan) -> usize {
    let first = &plan.cells[0].configuration;
    let own: Vec<usize> = (0..plan.cells.len()).filter(|cell| plan.cells[*cell].configuration == *first).collect();
    own[own.len() / 2]
}

fn trace_seed(plan: &Plan, repeat: usize, point: usize) -> u64 {
    let place = ((repeat as u64) << 32) | point as u64;
    Random::at(plan.seed, Stream::Traces as u64, place).next() >> (u64::BITS - SEED_BITS)
}

/// Every order is equally likely (Fisher and Yates).
fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::cli::StudyArgs;

    fn plan(seed: &str) -> Plan {
        let some = |text: &str| Some(text.to_owned());
        let args = StudyArgs {
            workers: some("1,2,4"),
            load: some("0.3,0.6,0.9"),
            repeats: some("4"),
            seed: some(seed),
            ..StudyArgs::default()
        };
        Plan::resolve(&args, &[0, 1]).expect("it is a plan")
    }

    #[test]
    fn a_round_has_every_cell_once_and_one_of_them_twice() {
        let plan = plan("7");
        let runs = runs(&plan);
        assert_eq!(runs.len(), 40);
        assert!(runs.iter().enumerate().all(|(place, run)| run.order == place));
        let ids: BTreeSet<usize> = runs.iter().map(|run| run.id).collect();
        assert_eq!(ids, (0..40).collect());
        for (repeat, round) in runs.chunks(10).enumerate() {
            assert!(round.iter().all(|run| run.repeat == repeat), "INVARIANT interleaved");
            let mut cells: Vec<usize> = round.iter().map(|run| run.cell).collect();
            cells.sort_unstable();
            // The first configuration's middle point: one worker at 0.6.
            assert_eq!(cells, [0, 1, 2, 3, 3, 4, 5, 6, 7, 8]);
            assert_eq!((plan.cells[3].configuration.as_str(), plan.cells[3].point.as_str()), ("workers=1", "load=0.6"));
            let twins: Vec<_> = round.iter().filter_map(|run| Some((run.cell, run.twin?))).collect();
            assert!(twins.contains(&(3, Twin::First)) && twins.contains(&(3, Twin::Second)) && twins.len() == 2);
        }
    }

    #[test]
    fn all_runs_at_one_point_of_one_round_have_one_trace_and_no_others_have_it() {
        let plan = plan("7");
        let mut seeds: BTreeMap<(usize, &str), BTreeSet<u64>> = BTreeMap::new();
        let all = runs(&plan);
        for run in &all {
            seeds.entry((run.repeat, plan.cells[run.cell].point.as_str())).or_default().insert(run.seed);
        }
        assert_eq!(seeds.len(), 12);
        assert!(seeds.values().all(|seeds| seeds.len() == 1), "{seeds:?}");
        let different: BTreeSet<&u64> = seeds.values().flatten().collect();
        assert_eq!(different.len(), 12);
        assert!(all.iter().all(|run| run.seed < 1 << SEED_BITS));
    }

    #[test]
    fn the_seed_decides_the_order() {
        let order = |seed| runs(&plan(seed)).iter().map(|run| run.id).collect::<Vec<_>>();
        assert_eq!(order("7"), order("7"));
        assert_ne!(order("7"), order("8"));
        let rounds: Vec<Vec<usize>> =
            order("7").chunks(10).map(|round| round.iter().map(|id| id % 10).collect()).collect();
        assert!(rounds.windows(2).all(|pair| pair[0] != pair[1]), "each round has an order of its own: {rounds:?}");
    }
}
