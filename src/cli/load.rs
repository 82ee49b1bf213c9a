//! [`LoadArgs`]: the flags of `maitred load`, with their help texts.
//!
//! Quantities stay text here; what they mean, their ranges and their defaults are in `load/plan.rs`, which also says
//! which flags go together. Read next: [`Plan`](crate::load::plan::Plan).

use std::path::PathBuf;

use clap::{Args as Arguments, ValueHint};

use super::with_default;
use crate::load::plan;
use crate::units::{show_duration, show_size};

/// The flags of `load`. None stands for a flag that was not given.
#[derive(Arguments, Clone, Debug, Default)]
pub struct LoadArgs {
    /// Whom to put load on
    #[arg(
        value_name = "TARGET",
        help = "Server and protocol, as [SERVICE=]SCHEME://HOST:PORT; SERVICE: echo (default), discard, chat, work or \
            files; \
            SCHEME: tcp or udp"
    )]
    pub target: String,

    /// Connections
    #[arg(long, value_name = "N", help_heading = REQUESTS,
        help = with_default("Connections, or sockets for udp", &plan::CONNECTIONS.to_string()))]
    pub connections: Option<String>,

    /// Requests in flight on a connection
    #[arg(long, value_name = "N", help_heading = REQUESTS,
        help = with_default("Requests in flight on each connection; waiting for a place counts as latency",
            &format!("{}; unlimited with --rate", plan::DEPTH)))]
    pub depth: Option<String>,

    /// Life of a connection
    #[arg(long, value_name = "N", help_heading = REQUESTS,
        help = with_default("Connect again after so many requests; the time that it takes is reported apart", "never"))]
    pub requests_per_connection: Option<String>,

    /// Bytes of a request
    #[arg(long, value_name = "SIZE", help_heading = REQUESTS,
        help = with_default("Bytes of a request: all of it for echo and discard, the payload for work, the message for \
            chat", &show_size(plan::SIZE_BYTES)))]
    pub size: Option<String>,

    /// Service time of a request
    #[arg(long, value_name = "DISTRIBUTION", help_heading = REQUESTS,
        help = with_default("work: how long each request asks to be served: fixed:10us, exp:10us, \
            bimodal:90%:5us,10%:55us or lognormal:MEAN:SIGMA", plan::DEMAND))]
    pub demand: Option<String>,

    /// What service time is spent on
    #[arg(long, value_name = "spin|sleep|hash", help_heading = REQUESTS, value_parser = ["spin", "sleep", "hash"],
        hide_possible_values = true,
        help = with_default("work: how the server spends that time; hash: on its pool for computations", "spin"))]
    pub kind: Option<String>,

    /// How messages are told apart
    #[arg(long, value_name = "length|line", help_heading = REQUESTS, value_parser = ["length", "line"],
        hide_possible_values = true,
        help = with_default("chat: a u32 length before each message, or an LF behind it", "length"))]
    pub framing: Option<String>,

    /// The file that is asked for
    #[arg(long, value_name = "PATH", help_heading = REQUESTS,
        help = "files: which file is asked for, below the root of the server")]
    pub path: Option<String>,

    /// What of it
    #[arg(long, value_name = "get|stat|hash", help_heading = REQUESTS, value_parser = ["get", "stat", "hash"],
        hide_possible_values = true,
        help = with_default("files: its bytes, its size and age, or its SHA-256", "get"))]
    pub command: Option<String>,

    /// Requests per second
    #[arg(long, value_name = "R", help_heading = ARRIVALS,
        help = "Open loop: R requests per second over all connections, whatever the server does; without it the next \
            request follows a reply")]
    pub rate: Option<String>,

    /// How arrivals are spaced
    #[arg(long, value_name = "poisson|uniform", help_heading = ARRIVALS, value_parser = ["poisson", "uniform"],
        hide_possible_values = true,
        help = with_default("Open loop: whether arrivals are independent or evenly spaced", "poisson"))]
    pub arrivals: Option<String>,

    /// A rate that changes
    #[arg(long, value_name = "FACTOR:DURATION,…", help_heading = ARRIVALS,
        help = "Change the rate over the window, which is as long as the phases together: 0.5:2s,2:500ms,0.5:5s")]
    pub phases: Option<String>,

    /// Seed of all draws
    #[arg(long, value_name = "N", help_heading = ARRIVALS,
        help = with_default("Decides arrivals, connections, service times and bytes", &plan::SEED.to_string()))]
    pub seed: Option<String>,

    /// Objective
    #[arg(long, value_name = "pN=DURATION", help_heading = ARRIVALS,
        help = "What the latency should keep to, as in p99=500us; the report says whether it did")]
    pub slo: Option<String>,

    /// Whether the largest rate is looked for
    #[arg(long, help_heading = ARRIVALS,
        help = format!("Look for the largest rate that keeps --slo, from --rate on [default: from {} on]",
            plan::SEARCH_START_PER_S))]
    pub search: bool,

    /// Unmeasured load
    #[arg(long, value_name = "DURATION", help_heading = TIME,
        help = with_default("Load before the window that is not measured", &show_duration(plan::WARMUP)))]
    pub warmup: Option<String>,

    /// Measured load
    #[arg(long, value_name = "DURATION", help_heading = TIME,
        help = with_default("The window that is measured", &show_duration(plan::DURATION)))]
    pub duration: Option<String>,

    /// Wait for late replies
    #[arg(long, value_name = "DURATION", help_heading = TIME,
        help = with_default("How long replies may still come after the window", &show_duration(plan::GRACE)))]
    pub grace: Option<String>,

    /// Wait for a datagram
    #[arg(long, value_name = "DURATION", help_heading = TIME,
        help = with_default("udp: a datagram without a reply after this time is lost; chat: so is a message that somebody \
            has not got", &format!("{}; chat: {}", show_duration(plan::LOST_AFTER), show_duration(plan::MISSED_AFTER))))]
    pub lost_after: Option<String>,

    /// Threads of the generator
    #[arg(long, value_name = "N", help_heading = MACHINE,
        help = with_default("Threads of the generator; not more than connections", &plan::THREADS.to_string()))]
    pub threads: Option<String>,

    /// The server's process
    #[arg(long, value_name = "PID", help_heading = MACHINE,
        help = "Also account for the server: this process and all its descendants, living or ended meanwhile")]
    pub pid: Option<String>,

    /// Reports in between
    #[arg(long, value_name = "DURATION", help_heading = OUTPUT,
        help = with_default("Also report on each interval of this length, as soon as it has passed", "never"))]
    pub interval: Option<String>,

    /// Report as JSON
    #[arg(long, help_heading = OUTPUT, help = "Print the report as JSON (maitred.load/1)")]
    pub json: bool,

    /// Distribution as a file
    #[arg(long, value_name = "FILE.hgrm", help_heading = OUTPUT, value_hint = ValueHint::FilePath,
        help = "Write the distribution of latency to this file, as plotters of HdrHistogram read it")]
    pub histogram: Option<PathBuf>,

    /// No progress
    #[arg(long, help_heading = OUTPUT, help = "Write no progress to stderr")]
    pub quiet: bool,
}

const REQUESTS: &str = "Requests";
const ARRIVALS: &str = "Arrivals";
const TIME: &str = "Time";
const MACHINE: &str = "Machine";
const OUTPUT: &str = "Output";

/// What stands below the flags.
pub(super) const NOTES: &str = "\
Examples:
  maitred load tcp://127.0.0.1:7007
      closed loop: one request after the other
  maitred load tcp://127.0.0.1:7007 --connections 64 --depth 4 --threads 2
      closed loop: 256 requests in flight
  maitred load work=tcp://127.0.0.1:7020 --connections 64 --rate 20000 --demand exp:10us
      open loop: latency runs from when a request was due, not from when it was sent
  maitred load tcp://127.0.0.1:7007 --connections 64 --slo p99=500us --search
      the largest rate at which 99 of 100 requests take at most 500 us
  maitred load files=tcp://127.0.0.1:7040 --path big --connections 300
      transfers of one file, each compared byte by byte with the first
  maitred load udp://[::1]:7007 --rate 1000 --json --histogram echo.hgrm

Every reply is checked. The report goes to stdout, also after errors.

Exit codes: 0 done and every reply right, 1 failed while running, interrupted, or errors counted,
2 wrong usage.";
