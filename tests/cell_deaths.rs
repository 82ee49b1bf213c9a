//! Writers of a cell that are killed, stopped or forked at the worst moment, and what readers, watchers and the next
//! writer find then.
//!
//! Without the test harness, which runs tests in threads: the processes here are forked, which takes a process with one
//! thread. *At any instruction* is meant: a tracer lets a writer take one after the other and kills it behind one of
//! them. A watcher here sleeps without a limit, so that a wake which is lost is a test that fails, and not one that takes
//! a second longer.

#[path = "support/cells.rs"]
mod cells;
#[path = "support/runner.rs"]
mod runner;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::{Signal as Stop, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use maitred::cell::{Cell, TEXT_MAX_BYTES, Text};
use maitred::net::children::{Child, Ended, Fork, Signal, exit_child, fork};
use maitred::net::file::Lock;
use maitred::net::futex::Word;
use maitred::net::shared::{AnyBytes, Shared, Zeroed};
use maitred::random::Random;

use cells::{Place, wait_until};
use runner::{Test, run_tests};

/// All of them, by name.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => { &[$((stringify!($name), $name as fn())),+] };
}

const TESTS: &[Test] = tests![
    so_many_files_may_be_mapped_at_once_and_no_more,
    children_that_inherit_a_cell_take_turns,
    a_child_that_has_closed_what_it_inherited_opens_the_cell_again,
    a_writer_killed_at_any_instruction_leaves_a_whole_value_and_no_sleeper,
    writers_killed_at_random_leave_a_whole_value_and_no_sleeper,
    a_stopped_writer_holds_up_no_reader_and_the_next_writer_says_who_it_is,
];

fn main() -> ExitCode {
    run_tests(TESTS)
}

/// The beginning of a cell's file, where watchers sleep.
#[repr(C)]
struct Front {
    _before: [AtomicU64; 16],
    published: Word,
}

// SAFETY: atomic numbers; zero is one.
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl Zeroed for Front {}

// SAFETY: every pattern of bits is a number.
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl AnyBytes for Front {}

/// A process that sleeps until the cell changes, without a limit, and tells which version it has woken to.
struct Watcher {
    child: Child,
    seen: Shared<AtomicU64>,
    front: Shared<Front>,
}

impl Watcher {
    fn of(place: &Place) -> Watcher {
        let front = Shared::<Front>::of_file(&place.file()).expect("it can be mapped");
        let seen = Shared::<AtomicU64>::new(1).expect("there is memory");
        let child = child(|| {
            loop {
                let published = front[0].published.load();
                seen[0].store(u64::from(published) + 1, Ordering::Release);
                front[0].published.sleep_while(published, Duration::MAX);
            }
        });
        let watcher = Watcher { child, seen, front };
        watcher.wait_until_it_sleeps();
        watcher
    }

    /// Until it has seen what is published, and sleeps: woken if it slept, or never asleep.
    fn wait_until_it_sleeps(&self) {
        let what = "a watcher has seen what is published";
        wait_until(what, || {
            let seen = self.seen[0].load(Ordering::Acquire);
            seen == u64::from(self.front[0].published.load()) + 1 && state_of(self.child.pid()) == 'S'
        });
    }
}

fn state_of(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("there is such a process");
    let (_, rest) = stat.rsplit_once(") ").expect("a name ends so");
    rest.chars().next().expect("a process has a state")
}

/// Forks a child that does this and ends with what it returns, or with 101 if it panics.
fn child(what: impl FnOnce() -> i32) -> Child {
    match fork().expect("there is room for a process") {
        Fork::Parent(child) => child,
        Fork::Child => exit_child(catch_unwind(AssertUnwindSafe(what)).unwrap_or(101)),
    }
}

/// What a writer sets as this version, in so many bytes or a few more: it tells from the beginning how it goes on, and
/// where it ends.
fn text(version: u64, bytes: usize) -> Vec<u8> {
    let word = format!("{version}:{bytes}:");
    word.bytes().cycle().take(bytes.max(word.len())).collect()
}

/// Few words, for a writer that takes them one instruction at a time.
const SHORT: usize = 30;

fn set_next(cell: &Cell, bytes: usize) -> u64 {
    let next = cell.version().expect("it is a cell") + 1;
    let set = cell.try_set(Text::new(&text(next, bytes)).expect("it fits")).expect("it can be written to");
    let set = set.expect("nobody holds the lock");
    assert_eq!((set.version, set.changed), (next, true), "versions grow by one");
    next
}

/// The newest version, whose text is one that somebody set, from its first byte to its last.
#[track_caller]
fn read_whole(cell: &Cell) -> u64 {
    let (version, found) = cell.read().expect("it is a cell");
    let line = String::from_utf8(found).expect("only text was set");
    let bytes = line.split(':').nth(1).unwrap_or_else(|| panic!("version {version} is none of ours: {line}"));
    let expected = text(version, bytes.parse().expect("a number"));
    assert_eq!(line.as_bytes(), expected, "torn: version {version}");
    version
}

fn so_many_files_may_be_mapped_at_once_and_no_more() {
    let place = Place::new();
    for _ in 0..2 {
        let _cells: Vec<Cell> = (0..256).map(|_| place.open()).collect();
        let refused = Cell::open(&place.path).err().expect("there is no room").to_string();
        assert_eq!(refused, format!("cannot open the cell {}: 256 files are mapped already", place.path.display()));
    }
}

fn children_that_inherit_a_cell_take_turns() {
    const WRITERS: u64 = 4;
    const SETS: u64 = 200;
    let place = Place::new();
    let cell = place.open();
    let set_all = |writer: u64| {
        (0..SETS).for_each(|number| {
            let line = format!("{writer} {number}");
            let set = cell.set(Text::new(line.as_bytes()).expect("it fits")).expect("it can be written to");
            assert!(set.changed);
        });
        0
    };
    let mut writers: Vec<Child> = (0..WRITERS).map(|writer| child(|| set_all(writer))).collect();
    set_all(WRITERS);
    writers.iter_mut().for_each(|writer| assert_eq!(writer.wait().expect("it is ours"), Ended::Code(0)));
    assert_eq!(cell.version().expect("it is a cell"), (WRITERS + 1) * SETS, "two have had the lock at once");
}

fn a_child_that_has_closed_what_it_inherited_opens_the_cell_again() {
    let place = Place::new();
    let cell = place.open();
    let in_child = || {
        maitred::net::children::close_all_but(&[]).expect("the kernel can");
        // Takes the number that the cell's descriptor had, and is locked, measured and closed by nobody.
        let other = tempfile::tempfile().expect("a temporary file");
        assert!(cell.set(Text::new(b"a").expect("it fits")).expect("it can be written to").changed);
        assert_eq!(cell.wait(1, Some(Duration::from_millis(1))).expect("it is a cell"), None);
        assert_eq!(other.metadata().expect("it is open").len(), 0);
        0
    };
    assert_eq!(child(in_child).wait().expect("it is ours"), Ended::Code(0));
    assert_eq!(cell.read().expect("it is a cell"), (1, b"a".to_vec()));

    let replace = || {
        fs::remove_file(&place.path).expect("it is there");
        place.open();
        let refused = cell.set(Text::new(b"b").expect("it fits"));
        let expected = format!("cannot set the cell {}: another file has taken its place", place.path.display());
        assert_eq!(refused.expect_err("it is another one").to_string(), expected);
        0
    };
    assert_eq!(child(replace).wait().expect("it is ours"), Ended::Code(0));
}

/// A writer that is about to set the next value, and takes no step that it is not told to.
struct Traced {
    child: Child,
    pid: Pid,
}

impl Traced {
    /// Traced from before its set on; until then the child does as it likes.
    fn before_a_set(cell: &Cell) -> Traced {
        let child = child(|| {
            // Opens what it has inherited anew, so that it need not do so while it is traced.
            assert!(!cell.set(Text::new(&cell.read().expect("it is a cell").1).expect("it was set")).unwrap().changed);
            ptrace::traceme().expect("a child may ask for it");
            raise(Stop::SIGSTOP).expect("that is this process");
            set_next(cell, SHORT);
            raise(Stop::SIGSTOP).expect("that is this process");
            0
        });
        let traced = Traced { pid: Pid::from_raw(child.pid() as i32), child };
        assert!(traced.has_stopped_itself());
        traced
    }

    /// Goes on, system call by system call, until the writer holds the lock of the file.
    fn until_it_holds(&self, lock: &Lock) {
        while lock.try_lock().expect("there is room").is_some() {
            ptrace::syscall(self.pid, None).expect("it is stopped");
            assert!(!self.has_stopped_itself(), "it has never held the lock");
        }
    }

    /// One instruction, or a whole system call; false if it was the last before the writer is done.
    fn step(&self) -> bool {
        ptrace::step(self.pid, None).expect("it is stopped");
        !self.has_stopped_itself()
    }

    /// Waits for its next stop, and tells whether that was of its own.
    fn has_stopped_itself(&self) -> bool {
        match waitpid(self.pid, None).expect("it is a child") {
            WaitStatus::Stopped(_, signal) => signal == Stop::SIGSTOP,
            other => panic!("it should have stopped: {other:?}"),
        }
    }

    fn kill(mut self) {
        self.child.kill(Signal::KILL).expect("it is there");
        assert_eq!(self.child.wait().expect("it is ours"), Ended::Signal(Signal::KILL.as_raw()));
    }
}

fn a_writer_killed_at_any_instruction_leaves_a_whole_value_and_no_sleeper() {
    /// Unless `MAITRED_KILLS` says more. A step costs microseconds, and a set has thousands of them from taking the lock to
    /// giving it back.
    const KILLS: usize = 40;
    let kills = std::env::var("MAITRED_KILLS").map_or(KILLS, |text| text.parse().expect("a number"));
    let place = Place::new();
    let cell = place.open();
    set_next(&cell, SHORT);
    let watcher = Watcher::of(&place);
    let lock = place.lock();
    // How many steps a set takes from the lock on, and behind which of them others see it.
    let (published, steps) = {
        let (writer, version) = (Traced::before_a_set(&cell), read_whole(&cell));
        writer.until_it_holds(&lock);
        let (mut published, mut steps) = (0, 0);
        while writer.step() {
            steps += 1;
            published += usize::from(read_whole(&cell) == version);
        }
        writer.kill();
        (published, steps)
    };
    // Half of the kills lie anywhere, the other half from shortly before it is published on.
    let ranges = [(0, steps), (published - 20, steps)];
    let mut random = Random::new(1);
    let (mut before, mut after) = (0, 0);
    for kill in 0..kills {
        watcher.wait_until_it_sleeps();
        let version = read_whole(&cell);
        let writer = Traced::before_a_set(&cell);
        writer.until_it_holds(&lock);
        let (first, end) = ranges[kill % 2];
        let dies_after = first + random.below(end - first + 1);
        let is_on = (0..dies_after).all(|_| writer.step());
        // What readers find does not depend on whether it lives.
        let now = read_whole(&cell);
        assert!(now == version || now == version + 1);
        writer.kill();
        assert_eq!(read_whole(&cell), now, "step {dies_after} of {steps}");
        watcher.wait_until_it_sleeps();
        if now == version {
            before += 1
        } else {
            after += 1
        }
        assert!(is_on || now > version, "a set that ended has set nothing");
        assert_eq!(set_next(&cell, SHORT), now + 1, "step {dies_after} of {steps}");
    }
    assert!(
        before > kills / 8 && after > kills / 8,
        "{before} died before it was published, {after} behind: too alike"
    );
}

fn writers_killed_at_random_leave_a_whole_value_and_no_sleeper() {
    const KILLS: u64 = 250;
    let place = Place::new();
    let cell = place.open();
    set_next(&cell, SHORT);
    let watcher = Watcher::of(&place);
    let mut random = Random::new(2);
    for kill in 1..=KILLS {
        let begin = read_whole(&cell);
        let mut lengths = random.clone();
        let mut writer = child(|| {
            loop {
                set_next(&cell, 1 + lengths.below(TEXT_MAX_BYTES));
            }
        });
        let awaited = begin + random.below(30) as u64;
        wait_until("a writer has begun", || read_whole(&cell) >= awaited);
        (0..random.below(20_000)).for_each(|_| std::hint::spin_loop());
        writer.kill(Signal::KILL).expect("it runs");
        assert_eq!(writer.wait().expect("it is ours"), Ended::Signal(Signal::KILL.as_raw()));
        let now = read_whole(&cell);
        watcher.wait_until_it_sleeps();
        assert_eq!(set_next(&cell, SHORT), now + 1, "kill {kill}");
    }
}

fn a_stopped_writer_holds_up_no_reader_and_the_next_writer_says_who_it_is() {
    let place = Place::new();
    let cell = place.open();
    let version = set_next(&cell, SHORT);
    let lock = place.lock();
    let writer = Traced::before_a_set(&cell);
    writer.until_it_holds(&lock);

    assert_eq!(read_whole(&cell), version);
    assert_eq!(cell.wait(version, Some(Duration::from_millis(5))).expect("it is a cell"), None);
    assert_eq!(cell.try_set(Text::new(b"x").expect("it fits")).expect("it can be written to"), None);
    let refused = cell.set(Text::new(b"x").expect("it fits")).expect_err("it is locked").to_string();
    let (path, pid) = (place.path.display(), writer.child.pid());
    let expected = format!("cannot set the cell {path}: process {pid} has held its lock for 5s");
    assert_eq!(refused, expected);
    let set = Command::new(env!("CARGO_BIN_EXE_maitred")).args(["cell", "set"]).arg(&place.path).arg("x").output();
    let set = set.expect("the program starts");
    let message = String::from_utf8(set.stderr).expect("only text is printed");
    assert_eq!((set.status.code(), message), (Some(1), format!("maitred: {expected}\n")));
    assert_eq!(read_whole(&cell), version, "nothing was set");

    writer.kill();
    assert_eq!(set_next(&cell, SHORT), version + 1);
}
