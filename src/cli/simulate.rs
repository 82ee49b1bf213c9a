//! [`SimulateArgs`]: the flags of `maitred simulate`, with their help texts.
//!
//! Quantities stay text here; what they mean, their ranges and their defaults are in `simulate/plan.rs`. Read next:
//! [`Plan`](crate::simulate::plan::Plan).

use clap::Args as Arguments;

use super::with_default;
use crate::load::plan::SEED;
use crate::simulate::plan;
use crate::simulate::scenario::{CONNECTIONS_PER_SERVER, REQUESTS};

/// The flags of `simulate`. None stands for a flag that was not given.
#[derive(Arguments, Clone, Debug, Default)]
pub struct SimulateArgs {
    /// Servers
    #[arg(long, value_name = "N", help_heading = SYSTEM,
        help = with_default("How many serve", &plan::SERVERS.to_string()))]
    pub servers: Option<String>,

    /// Where requests wait
    #[arg(long, value_name = "central|partitioned|stealing", help_heading = SYSTEM,
        value_parser = ["central", "partitioned", "stealing"], hide_possible_values = true,
        help = with_default("Where requests wait: one line for all servers, a line each, or a line each from which idle \
            servers take", "central"))]
    pub queue: Option<String>,

    /// Who is next
    #[arg(long, value_name = "fifo|lifo|sjf|ps", help_heading = SYSTEM, value_parser = ["fifo", "lifo", "sjf", "ps"],
        hide_possible_values = true,
        help = with_default("Who is next: who came first, who came last, who asks for the least; ps: all at once, each \
            more slowly", "fifo"))]
    pub discipline: Option<String>,

    /// Which server a connection lives on
    #[arg(long, value_name = "round-robin|random", help_heading = SYSTEM, value_parser = ["round-robin", "random"],
        hide_possible_values = true,
        help = with_default("partitioned, stealing: which server a connection lives on; random: by the seed",
            "round-robin"))]
    pub placement: Option<String>,

    /// Cost of every request
    #[arg(long, value_name = "DURATION", help_heading = SYSTEM,
        help = with_default("What every request costs its server beside the demand", "0s"))]
    pub hand_off: Option<String>,

    /// Cost of a wake
    #[arg(long, value_name = "DURATION", help_heading = SYSTEM,
        help = with_default("What a request costs besides that an idle server takes up", "0s"))]
    pub wake: Option<String>,

    /// Cost of stealing
    #[arg(long, value_name = "DURATION", help_heading = SYSTEM,
        help = with_default("stealing: what a request costs besides that another server than its own serves", "0s"))]
    pub steal: Option<String>,

    /// Distance of polls
    #[arg(long, value_name = "DURATION", help_heading = SYSTEM,
        help = with_default("Arrivals are seen only at multiples of this time", "at once"))]
    pub poll_every: Option<String>,

    /// When polling stops
    #[arg(long, value_name = "N|off", help_heading = SYSTEM,
        help = with_default("While more than N wait in their line, arrivals are not seen until it has fallen to N, or \
            until --poll-every if that is before", "off"))]
    pub low_water: Option<String>,

    /// Shares of capacity
    #[arg(long, value_name = "LOADS", help_heading = LOAD,
        help = with_default("Shares of capacity, servers ÷ mean demand, each of them a point: 0.5, 0.1,0.5 or \
            0.1..0.95:18", plan::LOADS))]
    pub load: Option<String>,

    /// Service times
    #[arg(long, value_name = "DISTRIBUTION", help_heading = LOAD,
        help = with_default("How long requests take: fixed:10us, exp:10us, bimodal:90%:5us,10%:55us or \
            lognormal:MEAN:SIGMA", plan::DEMAND))]
    pub demand: Option<String>,

    /// How arrivals are spaced
    #[arg(long, value_name = "poisson|uniform", help_heading = LOAD, value_parser = ["poisson", "uniform"],
        hide_possible_values = true, help = with_default("Whether arrivals are independent or evenly spaced", "poisson"))]
    pub arrivals: Option<String>,

    /// Connections
    #[arg(long, value_name = "N", help_heading = LOAD,
        help = with_default("Connections that requests come over, each equally likely",
            &format!("{CONNECTIONS_PER_SERVER} for each server")))]
    pub connections: Option<String>,

    /// Requests of a point
    #[arg(long, value_name = "N", help_heading = LOAD,
        help = with_default("Requests that are measured at each load; a tenth more is run before and behind them",
            &REQUESTS.to_string()))]
    pub requests: Option<String>,

    /// Seed of all draws
    #[arg(long, value_name = "N", help_heading = LOAD,
        help = with_default("Decides arrivals, connections, service times and random placement", &SEED.to_string()))]
    pub seed: Option<String>,

    /// Objective
    #[arg(long, value_name = "pN=Mx|pN=DURATION", help_heading = LOAD,
        help = "Also look for the largest load that keeps this objective, as in p99=10x (mean demands) or p99=500us")]
    pub slo: Option<String>,

    /// Report as JSON
    #[arg(long, help_heading = OUTPUT, help = "Print the report as JSON (maitred.simulation/1)")]
    pub json: bool,
}

const SYSTEM: &str = "System";
const LOAD: &str = "Load";
const OUTPUT: &str = "Output";

/// What stands below the flags.
pub(super) const NOTES: &str = "\
Examples:
  maitred simulate --servers 16 --demand exp:10us
      latency against load for one line in front of 16 servers, beside the formula
  maitred simulate --servers 16 --queue partitioned --load 0.5,0.8 --slo p99=10x
      the same servers with a line each, and the largest load at which 99 of 100 requests take at most
      ten mean service times
  maitred simulate --servers 4 --queue partitioned --placement random --connections 40
      connections that do not spread evenly
  maitred simulate --servers 2 --hand-off 1us --wake 20us --json

Requests are those that maitred load sends with the same seed, connections and demand.

Exit codes: 0 done, 1 failed while running, 2 wrong usage.";
