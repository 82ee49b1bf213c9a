//! What other processes use of the machine, from `/proc`: CPU time, run-queue delay, context switches, memory; of a
//! process and all its descendants, living or ended meanwhile. Also what the host of a virtual machine takes of it.
//!
//! Looks, and does nothing else: no descriptor stays open, nothing is traced, no permission is asked for except for
//! memory. What it costs, how exact it is, and what was tried and dropped, is in `process/README.md`.
//!
//! INVARIANTS counted-once and never-too-much are in `process/member.rs`. What cannot be known is absent, never zero.
//!
//! Read next: `process/member.rs` (one process), `process/files.rs` (the files, parsed).

mod files;
mod member;

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use files::{Files, NS_PER_STEP, Stat, numbers_in};
use member::{Books, Life, Member, Notes, Time, settle};

/// Time on a processor that may hide one switch, where it was not seen whose time it was. Guess: what a thread uses that
/// is started, sleeps twice and ends.
const SLICE_NS: u64 = 10_000;

/// Switches and run-queue delay are known if what was not seen may hide one slice in so many at most.
const SLICES_PER_HIDDEN: u64 = 20;

/// A process and its descendants, from now on.
///
/// They are known by pid and start time, and followed when their parent ends. Descendants are found when it is looked
/// ([`sample`](ProcessTree::sample)), so that of those which live shorter than the time between two looks only the CPU
/// time is known, and that only if their parents wait for them.
pub struct ProcessTree {
    /// The process that was asked for, and its start.
    root: (u32, u64),
    /// Children behind their parents, always.
    members: Vec<Member>,
    /// Where in `members` a pid is.
    places: HashMap<u32, usize>,
    notes: Notes,
    has_children_files: bool,
    /// A known pid is another's now, whom the last look has passed over.
    is_reused: bool,
    last_cost: Duration,
}

/// The totals of a tree at one time; two make a window.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// All of it.
    cpu: Time,
    books: Books,
}

/// What was used in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerUse {
    /// Time on a processor. Of descendants that ended unseen it comes in steps of 10 ms, up to two per parent.
    pub cpu_ns: u64,
    /// False: there was more than `cpu_ns`, unknown how much, because processes ended soon and nobody waited for them:
    /// their parent ignores SIGCHLD, or is gone or outside.
    pub is_cpu_complete: bool,
    /// Time ready to run without a processor. `None` if too much of `cpu_ns` was used by threads that ended unseen.
    pub run_delay_ns: Option<u64>,
    /// Times that a thread went to sleep; or `None`, as above.
    pub voluntary_switches: Option<u64>,
    /// Times that a thread had to give way; or `None`, as above.
    pub involuntary_switches: Option<u64>,
    /// Memory at the end of the window, pages shared by several processes in equal parts (PSS). `None` if that may not
    /// be read of all of them; this needs the right to trace them.
    pub rss_bytes: Option<u64>,
    /// Living processes at the end of the window.
    pub processes: usize,
    /// Their threads, first ones included.
    pub threads: usize,
    /// Processes that began, as far as they were seen; also the next three.
    pub processes_started: u64,
    /// Processes that ended, waited for or not.
    pub processes_ended: u64,
    /// Threads that began, first ones included.
    pub threads_started: u64,
    /// Threads that ended, first ones included.
    pub threads_ended: u64,
}

impl ServerUse {
    /// What would have been used in a window `factor` times as long. Memory, processes and threads stay as they were
    /// counted.
    pub fn scaled(&self, factor: f64) -> ServerUse {
        let scaled = |count: u64| (count as f64 * factor).round() as u64;
        ServerUse {
            cpu_ns: scaled(self.cpu_ns),
            run_delay_ns: self.run_delay_ns.map(scaled),
            voluntary_switches: self.voluntary_switches.map(scaled),
            involuntary_switches: self.involuntary_switches.map(scaled),
            ..*self
        }
    }
}

impl ProcessTree {
    /// Watches a process and those that descend from it now, or will.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at; the message names the pid.
    pub fn watch(pid: u32) -> io::Result<ProcessTree> {
        let mut files = Files::default();
        let stat = files.stat(pid).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => no_process(pid),
            kind => io::Error::new(kind, format!("process {pid}: {error}")),
        })?;
        // A thread has a `stat` of its own, too, but no clock of this kind.
        files::clock_ns(files::cpu_clock(pid)).map_err(|_| no_process(pid))?;
        let mut tree = ProcessTree {
            root: (pid, stat.start),
            members: Vec::new(),
            places: HashMap::new(),
            has_children_files: files.children(pid, pid, &mut Vec::new()).is_ok(),
            notes: Notes { files, ..Notes::default() },
            is_reused: false,
            last_cost: Duration::ZERO,
        };
        tree.add(pid, &stat);
        tree.sample();
        Ok(tree)
    }

    /// Looks at every process once, and at the threads of those that have run; to be called now and then, so that those
    /// which end are known.
    pub fn sample(&mut self) {
        let begin = thread_cpu_time();
        let thorough = std::mem::take(&mut self.is_reused);
        let mut at = 0;
        // Those that are found on the way are looked at in the same round.
        while let Some(member) = self.members.get(at) {
            let parent = self.places.get(&member.parent).map(|&at| &self.members[at]);
            let is_orphaned = parent.is_some_and(|parent| parent.life == Life::Gone);
            let member = &mut self.members[at];
            member.look(thorough || is_orphaned, &mut self.notes);
            self.is_reused |= member.life == Life::Gone && self.notes.files.stat(member.pid).is_ok();
            while let Some(pid) = self.notes.children.pop() {
                self.find(pid);
            }
            at += 1;
            if at == self.members.len() && !self.has_children_files {
                self.find_by_parents();
            }
        }
        settle(&mut self.members, &mut self.places, &mut self.notes.books);
        self.last_cost = thread_cpu_time().saturating_sub(begin);
    }

    /// Looks, and tells the totals so far.
    pub fn reading(&mut self) -> Reading {
        self.sample();
        let mut cpu = self.notes.books.ended;
        self.members.iter().for_each(|member| cpu += member.total());
        Reading { cpu, books: self.notes.books }
    }

    /// Looks, and tells what was used since `earlier`, a reading of this tree. Memory is read last: it takes the kernel a
    /// millisecond and more for a large process.
    pub fn used_since(&mut self, earlier: &Reading) -> ServerUse {
        let now = self.reading();
        let (ended, began) = (&now.books, &earlier.books);
        let is_cpu_complete = ended.missed == began.missed;
        let hidden_slices = (now.cpu.unseen_ns - earlier.cpu.unseen_ns) / SLICE_NS;
        let is_known = is_cpu_complete && hidden_slices * SLICES_PER_HIDDEN <= ended.slices - began.slices;
        let known = |now: u64, earlier: u64| is_known.then_some(now - earlier);
        let living = self.members.iter().filter(|member| member.life == Life::Running);
        ServerUse {
            cpu_ns: now.cpu.used_ns - earlier.cpu.used_ns,
            is_cpu_complete,
            run_delay_ns: known(ended.run_delay_ns, began.run_delay_ns),
            voluntary_switches: known(ended.voluntary, began.voluntary),
            involuntary_switches: known(ended.involuntary, began.involuntary),
            processes: living.clone().count(),
            threads: living.map(Member::threads).sum(),
            processes_started: ended.processes_started - began.processes_started,
            processes_ended: ended.processes_ended - began.processes_ended,
            threads_started: ended.threads_started - began.threads_started,
            threads_ended: ended.threads_ended - began.threads_ended,
            rss_bytes: self.proportional_bytes(),
        }
    }

    /// The process that was asked for has ended, as of the last look.
    pub fn is_gone(&self) -> bool {
        let (pid, start) = self.root;
        !self.members.iter().any(|member| member.is(pid, start) && member.life == Life::Running)
    }

    /// CPU time that the last look took: whoever looks every hundred times this spends 1% of a processor on it.
    pub fn last_cost(&self) -> Duration {
        self.last_cost
    }

    fn add(&mut self, pid: u32, stat: &Stat) {
        self.places.insert(pid, self.members.len());
        self.members.push(Member::new(pid, stat));
        self.notes.books.processes_started += 1;
    }

    fn find(&mut self, pid: u32) {
        if !self.places.contains_key(&pid)
            && let Ok(stat) = self.notes.files.stat(pid)
        {
            self.add(pid, &stat);
        }
    }

    /// What the `children` files say, for kernels without: every process of the machine, by its parent.
    fn find_by_parents(&mut self) {
        let Ok(processes) = numbers_in("/proc") else { return };
        for pid in processes.filter(|pid| !self.places.contains_key(pid)).collect::<Vec<_>>() {
            if let Ok(stat) = self.notes.files.stat(pid)
                && self.places.contains_key(&stat.parent)
            {
                self.add(pid, &stat);
            }
        }
    }

    fn proportional_bytes(&mut self) -> Option<u64> {
        let mut sum = 0_u64;
        for member in self.members.iter().filter(|member| member.life == Life::Running) {
            sum = self.notes.files.proportional_bytes(member.pid).ok()?.unwrap_or(0).saturating_add(sum);
        }
        Some(sum)
    }
}

/// CPU time and run-queue delay of the calling thread, in nanoseconds; a delay of 0 on kernels that do not count it.
pub fn own_thread_use() -> (u64, u64) {
    // Its own `schedstat` shows a thread that runs its time up to the last tick; the clock is exact.
    let cpu_ns = u64::try_from(thread_cpu_time().as_nanos()).unwrap_or(u64::MAX);
    let run = std::fs::read("/proc/thread-self/schedstat").ok().and_then(|text| files::Run::parse(&text));
    (cpu_ns, run.map_or(0, |run| run.delay_ns))
}

/// CPU time of everything on the machine since it started, in steps of 10 ms per CPU.
///
/// # Errors
/// When `/proc/stat` cannot be read, or is odd.
pub fn machine_run_ns() -> io::Result<u64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    machine_steps(&stat).map(|steps| steps.saturating_mul(NS_PER_STEP)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Time that the host of a virtual machine has kept each of these processors from what wanted to run on it, since the
/// start, in steps of 10 ms; 0 where the host does not tell.
///
/// # Errors
/// When `/proc/stat` cannot be read, or is odd.
pub fn stolen_ns(processors: &[usize]) -> io::Result<Vec<u64>> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let stolen = processors.iter().map(|&processor| stolen_steps(&stat, processor));
    let stolen = stolen.map(|steps| steps.map(|steps| steps.saturating_mul(NS_PER_STEP)));
    stolen.collect::<Option<_>>().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The eighth number of a processor's line. One that is switched off has no line.
fn stolen_steps(stat: &str, processor: usize) -> Option<u64> {
    let name = format!("cpu{processor}");
    let mut lines = stat.lines().map_while(|line| line.split_once(' ').filter(|(name, _)| name.starts_with("cpu")));
    let (_, columns) = lines.find(|(found, _)| *found == name)?;
    columns.split_whitespace().nth(7)?.parse().ok()
}

/// All columns of the first line that are time on a CPU, guests apart, who are in the first two already.
fn machine_steps(stat: &str) -> Option<u64> {
    let columns: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|n| n.parse().ok()).collect();
    let [user, nice, system, _idle, _wait, irq, softirq, ..] = columns[..] else { return None };
    Some(user.saturating_add(nice).saturating_add(system).saturating_add(irq).saturating_add(softirq))
}

/// Resident memory of one process, in bytes, counted page by page. `VmRSS` in `status` is a sum of per-CPU counters
/// that older kernels leave tens of pages out of date, several bytes per connection at 10,000.
///
/// # Errors
/// When there is no such process, or it may not be traced by this one.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    Files::default().resident_bytes(pid)
}

fn no_process(pid: u32) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no process {pid}"))
}

fn thread_cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_process_is_an_error_that_names_it() {
        // No pid is as large: the kernel's limit is 2²².
        let error = ProcessTree::watch(1 << 30).err().expect("there is no such process");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("1073741824"), "{error}");
        assert!(ProcessTree::watch(0).is_err(), "that is nobody");
    }

    #[test]
    fn the_machine_adds_up_what_is_time_on_a_cpu() {
        assert_eq!(machine_steps("cpu  1 2 4 800 1600 8 16 32 64 128\ncpu0 1 2\n"), Some(31));
        assert_eq!(machine_steps("cpu  1 2 4 800 1600 8 16\n"), Some(31));
        for odd in ["", "cpu", "cpu  1 2 3", "cpu  1 2 x 4 5 6 7 8", "intr 1 2 3 4 5 6 7 8"] {
            assert_eq!(machine_steps(odd), None, "{odd}");
        }
        assert!(machine_run_ns().expect("there is a machine") > 0);
    }

    #[test]
    fn what_the_host_took_is_told_of_each_processor() {
        let stat = "cpu  9 9 9 9 9 9 9 99 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu10 1 2 3 4 5 6 7 80\ncpu2 1 2 3 4 5 6 7 x\n\
                    cpu3 1 2 3 4 5 6 7\nintr 1 2 3 4 5 6 7 8\ncpu4 1 2 3 4 5 6 7 8\n";
        let stolen = [0, 10, 1, 2, 3, 4].map(|processor| stolen_steps(stat, processor));
        assert_eq!(stolen, [Some(8), Some(80), None, None, None, None]);
        assert_eq!(stolen_steps("", 0), None);
        let processors = crate::net::os::processors();
        assert_eq!(stolen_ns(&processors).expect("there is a machine").len(), processors.len());
        assert!(stolen_ns(&[1 << 30]).is_err());
    }

    #[test]
    fn a_thread_knows_its_own_use() {
        let begin = own_thread_use();
        while own_thread_use().0 < begin.0 + 1_000_000 {}
        assert!(own_thread_use().1 >= begin.1);
    }

    #[test]
    fn kernels_without_lists_of_children_are_searched() {
        let mut tree = ProcessTree::watch(std::process::id()).expect("it runs");
        tree.has_children_files = false;
        let before = tree.reading();
        let mut child = std::process::Command::new("/proc/self/exe")
            .arg("--list")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("it starts");
        let used = tree.used_since(&before);
        assert!(used.processes_started >= 1 && tree.places.contains_key(&child.id()), "{used:?}");
        let _ = child.kill();
        let _ = child.wait();
    }
}
