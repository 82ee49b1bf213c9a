//! [`StudyArgs`] and [`CompareArgs`]: the flags of `maitred study` and `maitred compare`, with their help texts.
//!
//! Values stay text here; what they mean is in `study/plan.rs`, where a flag overrides the key of the file. Read next:
//! [`Plan`](crate::study::plan::Plan).

use std::path::PathBuf;

use clap::{Args as Arguments, ValueHint};

use super::with_default;
use crate::study::plan;
use crate::units::show_duration;

/// The flags of `study`. None stands for a flag that was not given.
#[derive(Arguments, Clone, Debug, Default)]
pub struct StudyArgs {
    /// The plan
    #[arg(value_name = "PLAN.toml", value_hint = ValueHint::FilePath,
        help = "Read the plan from this TOML file; flags override it")]
    pub plan: Option<PathBuf>,

    /// Where it goes
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath,
        help = "Write plan, host and rows into this directory, which is made")]
    pub out: PathBuf,

    /// Engines
    #[arg(long, value_name = "LIST", help_heading = WHAT, help = with_default("Engines to compare", plan::ENGINE))]
    pub engine: Option<String>,

    /// Worker counts
    #[arg(long, value_name = "LIST", help_heading = WHAT,
        help = with_default("Worker counts to compare: 1,2,4 or 1..8:8", "the server's cores"))]
    pub workers: Option<String>,

    /// Service times
    #[arg(long, value_name = "LIST", help_heading = WHAT,
        help = with_default("Distributions of service times, as in exp:2ms,bimodal:90%:1ms,10%:11ms", plan::DEMAND))]
    pub demand: Option<String>,

    /// What they are spent on
    #[arg(long, value_name = "LIST", help_heading = WHAT,
        help = with_default("How service times are spent: spin, sleep or hash", plan::KIND))]
    pub kind: Option<String>,

    /// Shares of capacity
    #[arg(long, value_name = "LIST", help_heading = WHAT,
        help = with_default("Loads as shares of capacity: 0.1,0.5 or 0.1..0.9:9; closed: a closed loop", plan::LOADS))]
    pub load: Option<String>,

    /// Rates
    #[arg(long, value_name = "LIST", help_heading = WHAT, help = "Loads as requests per second, instead of --load")]
    pub rate: Option<String>,

    /// Connections
    #[arg(long, value_name = "LIST", help_heading = WHAT, help = with_default("Connections", plan::CONNECTIONS))]
    pub connections: Option<String>,

    /// Everything else
    #[arg(long, value_name = "KEY=LIST", help_heading = WHAT,
        help = "Any other key of a plan, as in --set rearm=edge,oneshot; repeatable")]
    pub set: Vec<String>,

    /// Rounds
    #[arg(long, value_name = "N", help_heading = HOW,
        help = with_default("Rounds, each of which has every run once", &plan::REPEATS.to_string()))]
    pub repeats: Option<String>,

    /// Measured load
    #[arg(long, value_name = "DURATION", help_heading = HOW,
        help = with_default("The window of a run", &show_duration(plan::DURATION)))]
    pub duration: Option<String>,

    /// Unmeasured load
    #[arg(long, value_name = "DURATION", help_heading = HOW,
        help = with_default("Load before the window", &show_duration(plan::WARMUP)))]
    pub warmup: Option<String>,

    /// Rest
    #[arg(long, value_name = "DURATION", help_heading = HOW,
        help = with_default("Rest after a run", &show_duration(plan::COOLDOWN)))]
    pub cooldown: Option<String>,

    /// Placement
    #[arg(long, value_name = "split|float", help_heading = HOW,
        help = with_default("Whether server and load have cores of their own", "split, where there are two cores"))]
    pub pin: Option<String>,

    /// Objective
    #[arg(long, value_name = "pN=DURATION", help_heading = HOW,
        help = "What the latency should keep to, as in p99=20ms, for the share of the bound")]
    pub slo: Option<String>,

    /// Seed of all draws
    #[arg(long, value_name = "N", help_heading = HOW,
        help = with_default("Decides the order of the runs and every trace", &plan::SEED.to_string()))]
    pub seed: Option<String>,

    /// A short form
    #[arg(long, help_heading = HOW,
        help = "The short form of the plan: its [quick] table, or fewer, shorter runs at fewer loads")]
    pub quick: bool,

    /// Goes on
    #[arg(long, help_heading = HOW, help = "Go on with the study in --out; a plan that is given must be the same")]
    pub resume: bool,

    /// Rows as JSON
    #[arg(long, help_heading = OUTPUT, help = "Print each row as JSON as its run ends (maitred.row/1), and no table")]
    pub json: bool,

    /// No progress
    #[arg(long, help_heading = OUTPUT, help = "Write no progress to stderr")]
    pub quiet: bool,
}

/// The flags of `compare`.
#[derive(Arguments, Clone, Debug)]
pub struct CompareArgs {
    /// What it is compared with
    #[arg(value_name = "A", value_hint = ValueHint::AnyPath,
        help = "What is compared with: the directory of a study, or the JSON of a load")]
    pub before: PathBuf,

    /// What is compared
    #[arg(value_name = "B", value_hint = ValueHint::AnyPath, help = "What is compared: the same of another one")]
    pub after: PathBuf,

    /// How much worse is too much
    #[arg(long, value_name = "PERCENT",
        help = with_default("A change that counts: a row is worse, or better, if all of an interval lies beyond", "5%"))]
    pub threshold: Option<String>,

    /// As JSON
    #[arg(long, help = "Print the comparison as JSON (maitred.comparison/1)")]
    pub json: bool,
}

const WHAT: &str = "What is run";
const HOW: &str = "How it is run";
const OUTPUT: &str = "Output";

/// What stands below the flags of `study`.
pub(super) const STUDY_NOTES: &str = "\
Examples:
  maitred study --workers 1,2,4,8 --out workers
      what worker counts do to sleeping requests, at three loads
  maitred study --engine pool,event-loops --demand exp:50us --kind spin --load 0.1..0.9:9 \\
      --out engines
  maitred study plan.toml --quick --out try

A plan has the same keys as the flags, with underscores; lists stand in its table [vary], and what
--quick changes in [quick]:
  engine = \"pool\"
  repeats = 5
  [vary]
  workers = [1, 2, 4]
  rearm = [\"edge\", \"oneshot\"]

SIGINT ends it with what is there; --resume goes on.

Exit codes: 0 done, 1 failed while running, interrupted, or no run succeeded, 2 wrong usage,
78 wrong plan file.";

/// What stands below the flags of `compare`.
pub(super) const COMPARE_NOTES: &str = "\
Rows are matched by their parameters. Exit codes: 0 no row is worse, 1 failed while running, 2 wrong usage,
3 at least one row is worse.";
