//! The machine around a measurement: what it is, whether it is ours alone, and what else runs on it.

use std::fs::{self, File};
use std::io;
use std::time::Instant;

use maitred::net::os;
use maitred::net::process::{ProcessTree, Reading, machine_run_ns, stolen_ns};
use rustix::thread::ClockId;
use serde::Serialize;

use crate::process::Server;

/// Two comparisons at once would measure each other. Unlocked when the process ends, however.
pub(crate) fn be_alone() -> io::Result<File> {
    let path = std::env::temp_dir().join("maitred-limit.lock");
    let lock = File::create(&path)?;
    if lock.try_lock().is_err() {
        eprintln!("limit: waiting for another comparison, which holds {}", path.display());
        lock.lock()?;
    }
    Ok(lock)
}

/// What disturbed a measurement, in CPUs.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Disturbance {
    /// Kept busy by other programs.
    pub(crate) other_programs_cpus: f64,
    /// Taken away by the host, of all that this process may use together.
    pub(crate) stolen_cpus: f64,
}

/// What the machine does beside the comparison: a build next door spoils every figure.
pub(crate) struct Others {
    since: Instant,
    machine_ns: u64,
    stolen_ns: u64,
    own_ns: u64,
    servers: Vec<(ProcessTree, Reading)>,
}

impl Others {
    pub(crate) fn begin(servers: &[Server]) -> io::Result<Self> {
        let mut watched = Vec::new();
        for server in servers {
            let mut tree = ProcessTree::watch(server.pid())?;
            let reading = tree.reading();
            watched.push((tree, reading));
        }
        Ok(Self {
            since: Instant::now(),
            machine_ns: machine_run_ns()?,
            stolen_ns: stolen_in_all_ns()?,
            own_ns: own_run_ns(),
            servers: watched,
        })
    }

    /// What it did since.
    pub(crate) fn end(mut self) -> io::Result<Disturbance> {
        let machine_ns = machine_run_ns()?.saturating_sub(self.machine_ns);
        let stolen_ns = stolen_in_all_ns()?.saturating_sub(self.stolen_ns);
        let elapsed_ns = self.since.elapsed().as_nanos() as f64;
        let mut ours_ns = own_run_ns() - self.own_ns;
        for (tree, begin) in &mut self.servers {
            ours_ns += tree.used_since(begin).cpu_ns;
        }
        Ok(Disturbance {
            other_programs_cpus: machine_ns.saturating_sub(ours_ns) as f64 / elapsed_ns,
            stolen_cpus: stolen_ns as f64 / elapsed_ns,
        })
    }
}

fn stolen_in_all_ns() -> io::Result<u64> {
    Ok(stolen_ns(&os::processors())?.iter().sum())
}

/// Of this process; not the sum over its threads, since the one that puts the load ends.
fn own_run_ns() -> u64 {
    let own = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    own.tv_sec as u64 * 1_000_000_000 + own.tv_nsec as u64
}

/// For the record beside the figures.
#[derive(Serialize)]
pub(crate) struct Host {
    cpu: String,
    cpus: usize,
    kernel: String,
    congestion_control: String,
}

impl Host {
    pub(crate) fn read() -> Self {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
        let cpuinfo = line("/proc/cpuinfo");
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1))
            .unwrap_or("unknown")
            .trim()
            .to_string();
        Self {
            cpu,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: line("/proc/sys/kernel/osrelease"),
            congestion_control: line("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }
}
