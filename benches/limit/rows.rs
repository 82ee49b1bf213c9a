//! The rows: which load, who runs where, which baseline, and what must be reached.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use maitred::load::plan::{Arrivals, Plan};

use crate::load::{self, Report};

/// One load, measured on every variant.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) placement: Placement,
    /// `--workers` of the daemon.
    pub(crate) workers: usize,
    /// What the daemon must be told besides; the same for every variant of it.
    pub(crate) maitred_args: &'static [&'static str],
    /// The baselines.
    pub(crate) bare: &'static [Bare],
    /// Rounds go on until the ratio of this one is known.
    pub(crate) headline: Metric,
    pub(crate) goals: &'static [(Metric, Goal)],
    /// Shown beside the goals.
    pub(crate) beside: &'static [Metric],
    /// Tails need more rounds than a mean does.
    pub(crate) least_rounds: usize,
}

pub(crate) enum Shape {
    /// The flags of `maitred load`.
    Load(&'static str),
    Idle {
        connections: usize,
    },
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Placement {
    /// The server on one CPU, the load on another.
    Split,
    /// Nobody is pinned.
    Free,
}

/// A server that does nothing but its system calls, with so many threads.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Bare {
    /// By readiness. The goals are held to the better one of these.
    Epoll(usize),
    /// By completion. It says what is to be had where `io_uring` is not refused; no goal depends on it.
    Ring(usize),
}

#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// Of the ratio to the better epoll loop.
    AtMost(f64),
    AtLeast(f64),
    /// Of the value itself.
    ValueAtMost(f64),
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Metric {
    CpuPerRequest,
    CpuPerKib,
    Throughput,
    P50,
    P90,
    P99,
    P99_9,
    Switches,
    RunDelay,
    IdleBytes,
}

use Metric::{CpuPerKib, CpuPerRequest, IdleBytes, P50, P90, P99, P99_9, RunDelay, Switches, Throughput};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "one-core",
        shape: Shape::Load("--connections 64"),
        placement: Placement::Split,
        workers: 1,
        maitred_args: &[],
        bare: &[Bare::Epoll(1), Bare::Ring(1)],
        headline: CpuPerRequest,
        goals: &[(CpuPerRequest, Goal::AtMost(1.05))],
        beside: &[Throughput, P50, P99, Switches],
        least_rounds: 6,
    },
    Row {
        name: "one-core-depth16",
        shape: Shape::Load("--connections 64 --depth 16"),
        placement: Placement::Split,
        workers: 1,
        maitred_args: &[],
        bare: &[Bare::Epoll(1), Bare::Ring(1)],
        headline: CpuPerRequest,
        goals: &[(CpuPerRequest, Goal::AtMost(1.05))],
        beside: &[Throughput, P50, P99, Switches],
        least_rounds: 6,
    },
    Row {
        name: "many",
        shape: Shape::Load("--connections 256"),
        placement: Placement::Free,
        workers: 2,
        maitred_args: &[],
        bare: &[Bare::Epoll(1), Bare::Epoll(2), Bare::Ring(2)],
        headline: Throughput,
        goals: &[(Throughput, Goal::AtLeast(1.0)), (P99, Goal::AtMost(1.0))],
        beside: &[CpuPerRequest, P50, P99_9, Switches, RunDelay],
        least_rounds: 6,
    },
    Row {
        name: "open-88k",
        shape: Shape::Load("--connections 64 --rate 88000"),
        placement: Placement::Free,
        workers: 2,
        maitred_args: &[],
        bare: &[Bare::Epoll(2), Bare::Ring(2)],
        headline: CpuPerRequest,
        goals: &[
            (P50, Goal::AtMost(1.1)),
            (P90, Goal::AtMost(1.1)),
            (P99, Goal::AtMost(1.0)),
            (CpuPerRequest, Goal::AtMost(1.10)),
        ],
        beside: &[P99_9, Throughput, Switches, RunDelay],
        least_rounds: 20,
    },
    Row {
        name: "open-40k",
        shape: Shape::Load("--connections 64 --rate 40000"),
        placement: Placement::Free,
        workers: 2,
        maitred_args: &[],
        bare: &[Bare::Epoll(2), Bare::Ring(2)],
        headline: CpuPerRequest,
        goals: &[(P99, Goal::AtMost(0.9)), (CpuPerRequest, Goal::AtMost(1.15))],
        beside: &[P50, P90, P99_9, Throughput, Switches, RunDelay],
        least_rounds: 6,
    },
    Row {
        name: "one-connection",
        shape: Shape::Load("--connections 1"),
        placement: Placement::Free,
        workers: 2,
        maitred_args: &[],
        bare: &[Bare::Epoll(1), Bare::Epoll(2), Bare::Ring(1)],
        headline: P50,
        goals: &[(P50, Goal::AtMost(1.05)), (CpuPerRequest, Goal::AtMost(1.3))],
        beside: &[Throughput, P99, Switches],
        least_rounds: 6,
    },
    Row {
        name: "bulk",
        shape: Shape::Load("--connections 8 --size 64KiB"),
        placement: Placement::Split,
        workers: 1,
        maitred_args: &["--ring", "64KiB"],
        bare: &[Bare::Epoll(1), Bare::Ring(1)],
        headline: CpuPerKib,
        goals: &[(CpuPerKib, Goal::AtMost(1.05))],
        beside: &[Throughput, P50, P99, Switches],
        least_rounds: 6,
    },
    Row {
        name: "idle-10k",
        shape: Shape::Idle { connections: 10_000 },
        placement: Placement::Free,
        workers: 2,
        maitred_args: &["--max-connections", "10100"],
        bare: &[Bare::Epoll(1)],
        headline: IdleBytes,
        goals: &[(IdleBytes, Goal::ValueAtMost(256.0))],
        beside: &[],
        least_rounds: 1,
    },
];

impl Row {
    pub(crate) fn summary(&self) -> String {
        let load = match self.shape {
            Shape::Load(flags) => load::show(&plan(flags)),
            Shape::Idle { connections } => format!("{connections} idle connections"),
        };
        format!("{load}; workers: {}", self.workers)
    }

    pub(crate) fn is_open_loop(&self) -> bool {
        matches!(self.shape, Shape::Load(flags) if plan(flags).arrivals != Arrivals::Closed)
    }
}

/// For what does not depend on the server.
pub(crate) fn plan(flags: &str) -> Plan {
    load::plan(flags, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1))
}

impl Bare {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Epoll(threads) => format!("bare-{threads}"),
            Self::Ring(threads) => format!("ring-{threads}"),
        }
    }

    /// The command that runs it.
    pub(crate) fn command(self) -> io::Result<Vec<OsString>> {
        let mut command = vec![std::env::current_exe()?.into(), "serve".into()];
        let threads = match self {
            Self::Epoll(threads) => threads,
            Self::Ring(threads) => {
                command.push("--ring".into());
                threads
            }
        };
        command.extend(["--threads".into(), threads.to_string().into()]);
        Ok(command)
    }
}

impl Metric {
    pub(crate) fn name(self) -> &'static str {
        match self {
            CpuPerRequest => "CPU ns/request",
            CpuPerKib => "CPU ns/KiB",
            Throughput => "requests/s",
            P50 => "p50 ns",
            P90 => "p90 ns",
            P99 => "p99 ns",
            P99_9 => "p99.9 ns",
            Switches => "switches/request",
            RunDelay => "run delay ns/request",
            IdleBytes => "bytes/connection",
        }
    }

    pub(crate) fn of(self, report: &Report) -> Option<f64> {
        let (latency, server) = (&report.latency_ns, &report.server);
        match self {
            CpuPerRequest => Some(server.cpu_ns_per_request),
            CpuPerKib => Some(server.cpu_ns_per_kib),
            Throughput => Some(report.requests_per_s),
            P50 => Some(latency.p50 as f64),
            P90 => Some(latency.p90 as f64),
            P99 => Some(latency.p99 as f64),
            P99_9 => Some(latency.p99_9 as f64),
            Switches => Some(server.voluntary_switches_per_request? + server.involuntary_switches_per_request?),
            RunDelay => server.run_delay_ns_per_request,
            IdleBytes => None,
        }
    }

    pub(crate) fn higher_is_better(self) -> bool {
        self == Throughput
    }
}
