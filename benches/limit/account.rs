//! What `/proc` says of another process: CPU time, run-queue delay, context switches, memory.
//!
//! Sums over the threads that are alive at the moment of reading, so a thread that ends inside the
//! measured window takes its share with it; neither server here ends threads under load. The
//! kernel updates the run time of a running thread at each tick or switch: an error of up to a
//! tick at each end of the window, which is why windows are a second long.

use std::fs;
use std::io;
use std::ops::{AddAssign, Sub};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Totals since the process began; subtract two for a window.
#[derive(Clone, Copy, Default)]
pub(crate) struct Account {
    pub(crate) run_ns: u64,
    /// Runnable, but not running: somebody else had the CPU.
    pub(crate) run_delay_ns: u64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
}

impl Account {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let mut total = Self::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // A thread may end between the listing and the reading.
            let Ok(schedstat) = fs::read_to_string(task.join("schedstat")) else {
                continue;
            };
            let Ok(status) = fs::read_to_string(task.join("status")) else {
                continue;
            };
            let mut fields = schedstat.split_whitespace().map(|field| field.parse().unwrap_or(0));
            total.run_ns += fields.next().unwrap_or(0);
            total.run_delay_ns += fields.next().unwrap_or(0);
            total.voluntary_switches += field(&status, "voluntary_ctxt_switches:");
            total.involuntary_switches += field(&status, "nonvoluntary_ctxt_switches:");
        }
        Ok(total)
    }
}

impl Sub for Account {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            run_ns: self.run_ns.saturating_sub(earlier.run_ns),
            run_delay_ns: self.run_delay_ns.saturating_sub(earlier.run_delay_ns),
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
            involuntary_switches: (self.involuntary_switches).saturating_sub(earlier.involuntary_switches),
        }
    }
}

impl AddAssign for Account {
    fn add_assign(&mut self, more: Self) {
        self.run_ns += more.run_ns;
        self.run_delay_ns += more.run_delay_ns;
        self.voluntary_switches += more.voluntary_switches;
        self.involuntary_switches += more.involuntary_switches;
    }
}

/// CPU time of everything on the machine, in steps of 10 ms per CPU.
pub(crate) fn machine_run_ns() -> u64 {
    /// The unit of `/proc/stat` is fixed at 100 per second whatever the kernel's own tick.
    const NS_PER_STEP: u64 = 10_000_000;
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    // user nice system idle iowait irq softirq
    let columns = stat.lines().next().unwrap_or("").split_whitespace().skip(1).take(7);
    let steps = columns.map(|column| column.parse().unwrap_or(0)).enumerate();
    steps.filter(|(column, _)| ![3, 4].contains(column)).map(|(_, steps): (_, u64)| steps * NS_PER_STEP).sum()
}

/// Resident memory, counted page by page. `VmRSS` in `status` is a sum of per-CPU counters that
/// older kernels leave tens of pages out of date, several bytes per connection at 10,000.
pub(crate) fn resident_bytes(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let kib = match rollup {
        Ok(rollup) => field(&rollup, "Rss:"),
        Err(_) => field(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS:"),
    };
    Ok(kib * 1024)
}

/// Waits until the process uses less than 1% of a CPU, at most five seconds.
pub(crate) fn wait_until_quiet(pid: u32) -> io::Result<()> {
    const STEP: Duration = Duration::from_millis(250);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut before = Account::of(pid)?;
    while Instant::now() < deadline {
        sleep(STEP);
        let now = Account::of(pid)?;
        if u128::from((now - before).run_ns) < STEP.as_nanos() / 100 {
            break;
        }
        before = now;
    }
    Ok(())
}

/// The machine, for the record beside the figures.
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

/// The number after `name` at the beginning of a line, or 0.
fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
