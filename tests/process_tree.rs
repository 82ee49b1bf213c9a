//! What a process tree is seen to use, against what real processes say of themselves.
//!
//! The processes are this test program again, told by a variable to be a burner: it burns CPU time, says how much by its
//! own clock, and goes on when told to. Nobody sleeps: every step waits for a line.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use maitred::net::process::{ProcessTree, Reading, ServerUse};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, set_child_subreaper, wait, waitid,
};
use rustix::time::{ClockId, clock_gettime};

/// Says what a burner is to do.
const ROLE: &str = "MAITRED_TEST_BURNER";

/// Time of one burn: steps of 10 ms are a small part of it.
const BURN_NS: u64 = 300_000_000;

/// How long anything may take before it counts as never.
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn threads_that_ended_count() {
    let mut burner = Burner::start("threads");
    let begin = burner.reading();
    burner.go_on();
    let burned = burner.burned();
    let alive = burner.used_since(&begin);
    assert_about(alive.cpu_ns, burned);
    assert_eq!((alive.threads_started, alive.threads_ended, alive.processes_started), (3, 0, 0), "{alive:?}");
    assert!(alive.voluntary_switches.is_some() && alive.involuntary_switches.is_some(), "all were seen: {alive:?}");
    burner.go_on();
    burner.expect("done");
    let ended = burner.used_until(&begin, |used| used.threads_ended == 3);
    assert_about(ended.cpu_ns, burned);
    assert_eq!((ended.threads_started, ended.threads_ended), (3, 3), "{ended:?}");
    assert_eq!((ended.threads + 3, ended.processes), (alive.threads, 1), "{ended:?}");
}

#[test]
fn threads_that_nobody_saw_count_but_not_their_switches() {
    let mut burner = Burner::start("threads");
    let begin = burner.reading();
    burner.go_on();
    let burned = burner.burned();
    burner.go_on();
    burner.expect("done");
    burner.wait_for_threads(2);
    let living = burner.reading();
    let used = burner.used_since(&begin);
    assert_about(used.cpu_ns, burned);
    assert!(used.is_cpu_complete, "{used:?}");
    assert_eq!((used.run_delay_ns, used.voluntary_switches, used.involuntary_switches), (None, None, None));
    assert!(burner.used_since(&living).voluntary_switches.is_some(), "none ended in this window");
}

#[test]
fn a_child_that_nobody_saw_counts_but_not_its_switches() {
    let mut burner = Burner::start("parent");
    let begin = burner.reading();
    burner.go_on();
    let burned = burner.burned();
    burner.go_on();
    burner.expect("done");
    let used = burner.used_since(&begin);
    assert_about(used.cpu_ns, burned);
    assert_eq!((used.processes_started, used.processes_ended), (0, 0), "as far as they were seen: {used:?}");
    assert!(used.is_cpu_complete, "{used:?}");
    assert_eq!((used.run_delay_ns, used.voluntary_switches, used.involuntary_switches), (None, None, None));
}

#[test]
fn a_child_that_was_seen_and_collected_counts_once() {
    let mut burner = Burner::start("parent");
    let begin = burner.reading();
    burner.go_on();
    let burned = burner.burned();
    let alive = burner.used_since(&begin);
    assert_about(alive.cpu_ns, burned);
    assert_eq!((alive.processes, alive.processes_started, alive.processes_ended), (2, 1, 0), "{alive:?}");
    burner.go_on();
    burner.expect("done");
    for _ in 0..3 {
        let used = burner.used_since(&begin);
        assert_about(used.cpu_ns, burned);
        assert!(used.cpu_ns >= alive.cpu_ns && used.is_cpu_complete, "{used:?} after {alive:?}");
        assert_eq!((used.processes, used.processes_started, used.processes_ended), (1, 1, 1), "{used:?}");
    }
}

#[test]
fn a_zombie_counts_once_before_and_after_it_is_collected() {
    let mut burner = Burner::start("lazy");
    let begin = burner.reading();
    burner.go_on();
    let burned = burner.burned();
    burner.go_on();
    burner.expect("zombie");
    let zombie = burner.used_since(&begin);
    assert_about(zombie.cpu_ns, burned);
    assert_eq!((zombie.processes, zombie.processes_started, zombie.processes_ended), (1, 1, 1), "{zombie:?}");
    burner.go_on();
    burner.expect("done");
    let collected = burner.used_since(&begin);
    assert_about(collected.cpu_ns, burned);
    assert_eq!(collected.processes_ended, 1, "{collected:?}");
}

#[test]
fn a_child_of_a_parent_that_ignores_it_counts_as_it_was_seen() {
    let mut burner = Burner::start("ignoring");
    let begin = burner.reading();
    burner.go_on();
    let burned = burner.burned();
    burner.tree.sample();
    burner.go_on();
    burner.expect("done");
    let used = burner.used_since(&begin);
    assert_about(used.cpu_ns, burned);
    assert!(!used.is_cpu_complete && used.voluntary_switches.is_none(), "seen once only: {used:?}");
    assert_eq!((used.processes, used.processes_started, used.processes_ended), (1, 1, 1), "{used:?}");
    let later = burner.reading();
    assert!(burner.used_since(&later).is_cpu_complete, "nothing ended in this window");
}

#[test]
fn a_grandchild_counts_seen_or_not() {
    for is_seen in [false, true] {
        let mut burner = Burner::start("grandparent");
        let begin = burner.reading();
        burner.go_on();
        burner.expect("ready");
        if is_seen {
            burner.tree.sample();
        }
        burner.go_on();
        let burned = burner.burned();
        if is_seen {
            let alive = burner.used_since(&begin);
            assert_about(alive.cpu_ns, burned);
            assert_eq!((alive.processes, alive.processes_started), (3, 2), "{alive:?}");
        }
        burner.go_on();
        burner.expect("done");
        burner.go_on();
        burner.expect("done");
        let used = burner.used_since(&begin);
        assert_about(used.cpu_ns, burned);
        let count = if is_seen { 2 } else { 0 };
        assert_eq!((used.processes_started, used.processes_ended), (count, count), "{used:?}");
    }
}

#[test]
fn an_orphan_is_followed() {
    let mut burner = Burner::start("orphaning");
    let begin = burner.reading();
    burner.go_on();
    burner.expect("begun");
    burner.tree.sample();
    burner.go_on();
    let burned = burner.burned();
    let orphaned = burner.used_since(&begin);
    assert_about(orphaned.cpu_ns, burned);
    assert_eq!((orphaned.processes, orphaned.processes_started, orphaned.processes_ended), (2, 2, 1), "{orphaned:?}");
    burner.go_on();
    burner.expect("done");
    let used = burner.used_until(&begin, |used| used.processes_ended == 2);
    assert_about(used.cpu_ns, burned);
    assert_eq!((used.processes, used.processes_started, used.processes_ended), (1, 2, 2), "{used:?}");
}

#[test]
fn an_orphan_that_is_adopted_counts_once() {
    let mut burner = Burner::start("adopting");
    let begin = burner.reading();
    burner.go_on();
    let parent: i32 = burner.expect("dying ").parse().expect("a pid");
    let burned = burner.burned();
    let mut last_ns = 0;
    burner.used_until(&begin, |used| std::mem::replace(&mut last_ns, used.cpu_ns) == used.cpu_ns);
    kill_process(Pid::from_raw(parent).expect("a pid"), Signal::KILL).expect("it lives");
    burner.expect("left");
    // The orphan has not run meanwhile, and yet is not the child that it was.
    burner.tree.sample();
    burner.go_on();
    burner.expect("done");
    let used = burner.used_since(&begin);
    assert_about(used.cpu_ns, burned);
    assert!(used.is_cpu_complete, "{used:?}");
    assert_eq!((used.processes, used.processes_started, used.processes_ended), (1, 2, 2), "{used:?}");
}

#[test]
fn memory_is_that_of_all() {
    let mut burner = Burner::start("parent");
    let begin = burner.reading();
    burner.go_on();
    burner.burned();
    let two = burner.used_since(&begin).rss_bytes.expect("both may be read");
    burner.go_on();
    burner.expect("done");
    let one = burner.used_since(&begin).rss_bytes.expect("it may be read");
    assert!(0 < one && one < two, "{one} of {two}");
}

#[test]
fn the_end_of_the_watched_process_is_noticed() {
    let mut burner = Burner::start("parent");
    let begin = burner.reading();
    assert!(!burner.tree.is_gone());
    burner.process.kill().expect("it runs");
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(Pid::from_child(&burner.process)), options).expect("it ends");
    burner.tree.sample();
    assert!(burner.tree.is_gone(), "a zombie has ended");
    burner.process.wait().expect("it has ended");
    let used = burner.used_since(&begin);
    assert!(burner.tree.is_gone());
    assert_eq!((used.processes, used.threads, used.processes_ended, used.rss_bytes), (0, 0, 1, Some(0)), "{used:?}");
}

#[track_caller]
fn assert_about(used_ns: u64, burned_ns: u64) {
    assert!(burned_ns >= BURN_NS, "{burned_ns} ns is no burn");
    let is_about = burned_ns * 9 / 10 <= used_ns && used_ns <= burned_ns * 3 / 2;
    assert!(is_about, "used {used_ns} ns, burned {burned_ns} ns");
}

/// A burner and what is seen of it; killed when dropped.
struct Burner {
    process: Child,
    input: ChildStdin,
    lines: BufReader<ChildStdout>,
    tree: ProcessTree,
}

impl Burner {
    /// Starts one, and watches it from the time that it is ready.
    #[track_caller]
    fn start(role: &str) -> Burner {
        let mut process = burner(role).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let input = process.stdin.take().expect("a pipe");
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe"));
        expect(&mut lines, "ready");
        let tree = ProcessTree::watch(process.id()).expect("it runs");
        Burner { process, input, lines, tree }
    }

    fn reading(&mut self) -> Reading {
        self.tree.reading()
    }

    fn used_since(&mut self, earlier: &Reading) -> ServerUse {
        self.tree.used_since(earlier)
    }

    /// The same, once this holds: to whom waits for a thread or a pipe, its end is known before the kernel is done with it.
    #[track_caller]
    fn used_until(&mut self, earlier: &Reading, mut holds: impl FnMut(&ServerUse) -> bool) -> ServerUse {
        let start = Instant::now();
        loop {
            let used = self.tree.used_since(earlier);
            if holds(&used) {
                return used;
            }
            assert!(start.elapsed() < DEADLINE, "waited too long: {used:?}");
            thread::yield_now();
        }
    }

    /// Waits until the kernel is done with all but so many of its threads, without a look through `tree`.
    #[track_caller]
    fn wait_for_threads(&self, count: usize) {
        let start = Instant::now();
        let folder = format!("/proc/{}/task", self.process.id());
        while std::fs::read_dir(&folder).expect("it runs").count() != count {
            assert!(start.elapsed() < DEADLINE, "waited too long");
            thread::yield_now();
        }
    }

    /// Lets whoever waits for it take the next step.
    #[track_caller]
    fn go_on(&mut self) {
        self.input.write_all(b"go\n").expect("somebody waits");
    }

    #[track_caller]
    fn expect(&mut self, line: &str) -> String {
        expect(&mut self.lines, line)
    }

    #[track_caller]
    fn burned(&mut self) -> u64 {
        self.expect("burned ").parse().expect("a number")
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        // Children that still wait for a line get the end of the pipe. Fails only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads until a line begins with this, and returns what follows. The test harness says something, too.
#[track_caller]
fn expect(lines: &mut impl BufRead, beginning: &str) -> String {
    let mut line = String::new();
    while lines.read_line(&mut line).expect("it writes text") > 0 {
        if let Some(rest) = line.strip_prefix(beginning) {
            return rest.trim_end().to_owned();
        }
        line.clear();
    }
    panic!("it ended without {beginning:?}");
}

/// This program, as a burner.
fn burner(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test is a program"));
    command.args(["--exact", "a_burner_when_told_so", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// Does nothing in the run of all tests.
#[test]
fn a_burner_when_told_so() {
    let Ok(role) = std::env::var(ROLE) else { return };
    if ["threads", "parent", "lazy", "ignoring", "grandparent", "orphaning", "adopting"].contains(&role.as_str()) {
        if role == "ignoring" {
            ignore_children();
        }
        say("ready");
        wait_for_go();
    }
    match role.as_str() {
        "threads" => {
            let barrier = Barrier::new(4);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        burn(ClockId::ThreadCPUTime, BURN_NS / 3);
                        barrier.wait();
                        barrier.wait();
                    });
                }
                barrier.wait();
                say_burned();
                wait_for_go();
                barrier.wait();
            });
        }
        "leaf" => {
            burn(ClockId::ProcessCPUTime, BURN_NS);
            say_burned();
        }
        "parent" => drop(burner("leaf").spawn().expect("it starts").wait().expect("it ends")),
        "grandparent" => drop(burner("parent").spawn().expect("it starts").wait().expect("it ends")),
        "lazy" => {
            let mut child = burner("leaf").spawn().expect("it starts");
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(Pid::from_child(&child)), options).expect("it ends");
            say("zombie");
            wait_for_go();
            child.wait().expect("it has ended");
        }
        "ignoring" => {
            let mut child = burner("leaf").spawn().expect("it starts");
            let folder = format!("/proc/{}", child.id());
            child.wait().expect_err("nobody waits for a child that is ignored, except for its end");
            while Path::new(&folder).exists() {
                thread::yield_now();
            }
        }
        "orphaning" => {
            // The end of the pipe is the end of the orphan, who has its other side.
            let (mut reader, writer) = std::io::pipe().expect("a pipe");
            let mut child = burner("leaving").stderr(writer).spawn().expect("it starts");
            child.wait().expect("it ends");
            reader.read_to_end(&mut Vec::new()).expect("the pipe ends");
        }
        "adopting" => {
            set_child_subreaper(Some(getpid())).expect("any process may");
            burner("dying").spawn().expect("it starts").wait().expect("it ends");
            say("left");
            wait(WaitOptions::empty()).expect("the orphan is a child now");
        }
        "dying" => {
            drop(burner("leaf").spawn().expect("it starts"));
            say(&format!("dying {}", std::process::id()));
            loop {
                thread::park();
            }
        }
        "leaving" => {
            drop(burner("orphan").env("PARENT", std::process::id().to_string()).spawn().expect("it starts"));
            wait_for_go();
            return;
        }
        "orphan" => {
            let parent = std::env::var("PARENT").expect("its parent said who it is");
            burn(ClockId::ProcessCPUTime, BURN_NS / 2);
            say("begun");
            while parent_id().to_string() == parent {
                burn(ClockId::ProcessCPUTime, 1_000_000);
            }
            burn(ClockId::ProcessCPUTime, BURN_NS / 2);
            say_burned();
        }
        other => panic!("nobody is a {other}"),
    }
    if !["leaf", "orphan"].contains(&role.as_str()) {
        say("done");
    }
    wait_for_go();
}

fn say(line: &str) {
    // The harness leaves its line open.
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "\n{line}\n").and_then(|()| stdout.flush()).expect("the test listens");
}

/// All that the process has used.
fn say_burned() {
    say(&format!("burned {}", clock_ns(ClockId::ProcessCPUTime)));
}

fn wait_for_go() {
    std::io::stdin().read_line(&mut String::new()).expect("the test writes text");
}

fn burn(clock: ClockId, ns: u64) {
    let end = clock_ns(clock) + ns;
    while clock_ns(clock) < end {
        std::hint::spin_loop();
    }
}

fn clock_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[allow(unsafe_code, reason = "std can not ignore a signal, and no crate that is here can without unsafe code")]
fn ignore_children() {
    const SIGCHLD: i32 = 17;
    const SIG_IGN: usize = 1;
    const SIG_ERR: usize = usize::MAX;
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
    }
    // SAFETY: to ignore a signal installs no code.
    let before = unsafe { signal(SIGCHLD, SIG_IGN) };
    assert_ne!(before, SIG_ERR, "SIGCHLD can be ignored");
}
