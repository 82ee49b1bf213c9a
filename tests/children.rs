//! Child processes, forked, killed and counted for real.
//!
//! Without the test harness, which runs tests in threads: only a process with one thread forks. So this is a program with
//! one thread that runs its tests one after the other and reports as the harness does. A child never returns into the
//! test that forked it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use maitred::clock::Clock;
use maitred::engine::scoreboard::{Scoreboard, State};
use maitred::net::children::{Child, Ended, Fork, Signal, SignalFd, close_all_but, exit_child, fork};
use maitred::net::shared::Shared;
use maitred::random::Random;
use maitred::session::handler::Closed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, kill_process, set_child_subreaper, waitid};

/// All of them, by name.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => { &[$((stringify!($name), $name as fn())),+] };
}

const TESTS: &[(&str, fn())] = tests![
    a_child_ends_with_its_code_and_is_collected_once,
    a_child_that_is_dropped_leaves_no_zombie,
    a_child_has_default_dispositions_and_no_mask,
    signals_to_a_whole_group_do_not_end_a_child,
    a_parent_that_ignored_sigchld_still_collects_its_children,
    signals_come_by_descriptor,
    a_process_with_two_threads_does_not_fork,
    all_but_those_named_are_closed,
    children_die_with_their_parent,
    the_books_balance_wherever_a_child_is_killed,
];

/// How long all of it may take before it counts as hanging.
const DEADLINE: Duration = Duration::from_secs(120);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let is_exact = arguments.iter().any(|argument| argument == "--exact");
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |name: &str| {
        let fits = |wanted: &&String| if is_exact { name == **wanted } else { name.contains(wanted.as_str()) };
        wanted.is_empty() || wanted.iter().any(fits)
    };
    let chosen: Vec<_> = TESTS.iter().filter(|(name, _)| is_wanted(name)).collect();
    let _watchdog = watchdog();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for (name, test) in &chosen {
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, left_out) = (chosen.len() - failed, TESTS.len() - chosen.len());
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left_out} filtered out\n"
    );
    std::process::exit(if failed == 0 { 0 } else { 101 });
}

/// A child that ends this program if it hangs, and is ended with it. A thread is not to be had.
fn watchdog() -> Child {
    let program = getpid();
    child(|| {
        thread::sleep(DEADLINE);
        let _ = kill_process(program, Signal::ABORT);
        1
    })
}

/// Forks a child that does this and ends with what it returns, or with 101 if it panics.
fn child(what: impl FnOnce() -> i32) -> Child {
    std::io::stdout().flush().expect("standard output takes it");
    match fork().expect("there is room for a process") {
        Fork::Parent(child) => child,
        Fork::Child => exit_child(catch_unwind(AssertUnwindSafe(what)).unwrap_or(101)),
    }
}

/// A child that has said that it is up and waits to be killed.
fn waiting_child(before: impl FnOnce()) -> Child {
    let (mut here, there) = pipe();
    let child = child(move || {
        before();
        say(&there);
        wait_to_be_killed()
    });
    hear(&mut here);
    child
}

fn wait_to_be_killed() -> ! {
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn pipe() -> (PipeReader, PipeWriter) {
    std::io::pipe().expect("there are descriptors")
}

fn say(mut to: &PipeWriter) {
    to.write_all(b".").expect("somebody reads");
}

fn hear(from: &mut PipeReader) {
    from.read_exact(&mut [0]).expect("somebody writes");
}

fn wait_readable(source: &impl AsFd) {
    let deadline = Timespec { tv_sec: 60, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(source, PollFlags::IN)], Some(&deadline)).expect("it can be polled");
    assert_eq!(ready, 1, "nothing came");
}

fn a_child_ends_with_its_code_and_is_collected_once() {
    let (mut here, there) = pipe();
    let mut child = child(move || {
        hear(&mut here);
        7
    });
    assert_ne!(child.pid(), std::process::id());
    assert_eq!(child.reap().expect("it is ours"), None, "it waits");
    say(&there);
    wait_readable(&child);
    assert_eq!(child.reap().expect("it is ours"), Some(Ended::Code(7)));
    assert_eq!(child.wait().expect("it is known"), Ended::Code(7));
    child.kill(Signal::KILL).expect("that is nobody");
    assert_eq!(Ended::Code(7).to_string(), "ended with code 7");
    assert_eq!(Ended::Signal(9).to_string(), "was ended by SIGKILL");
}

fn a_child_that_is_dropped_leaves_no_zombie() {
    let child = waiting_child(|| {});
    let pid = child.pid();
    let mut later = match fork().expect("there is room for a process") {
        Fork::Parent(later) => later,
        Fork::Child => {
            drop(child);
            exit_child(0);
        }
    };
    assert_eq!(later.wait().expect("it is ours"), Ended::Code(0));
    assert!(is_running(pid), "a copy does nothing");
    drop(child);
    assert!(!fs::exists(format!("/proc/{pid}")).expect("there is /proc"), "nor is there a zombie");
}

fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("there is such a process");
    !stat.contains(") Z ")
}

fn a_child_has_default_dispositions_and_no_mask() {
    let noticed = Arc::new(AtomicBool::new(false));
    let handler = signal_hook::flag::register(Signal::USR2.as_raw(), Arc::clone(&noticed)).expect("it is a signal");
    let _blocked = SignalFd::new(&[Signal::ALARM]).expect("there are descriptors");
    for signal in [Signal::USR2, Signal::ALARM] {
        let mut child = waiting_child(|| {});
        child.kill(signal).expect("it runs");
        assert_eq!(child.wait().expect("it is ours"), Ended::Signal(signal.as_raw()));
    }
    assert!(!noticed.load(Ordering::Relaxed));
    // The parent's own are as before.
    kill_process(getpid(), Signal::USR2).expect("that is this one");
    assert!(noticed.load(Ordering::Relaxed));
    signal_hook::low_level::unregister(handler);
}

fn signals_to_a_whole_group_do_not_end_a_child() {
    let mut child = waiting_child(|| {});
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::USR1, Signal::PIPE] {
        child.kill(signal).expect("it runs");
    }
    child.kill(Signal::USR2).expect("it runs");
    assert_eq!(child.wait().expect("it is ours"), Ended::Signal(Signal::USR2.as_raw()));
}

fn a_parent_that_ignored_sigchld_still_collects_its_children() {
    // SAFETY: ignoring runs no handler.
    #[allow(unsafe_code, reason = "the call takes handlers as well")]
    unsafe {
        nix::sys::signal::signal(nix::sys::signal::Signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn)
            .expect("it can be ignored");
    }
    assert_eq!(child(|| 3).wait().expect("it is ours"), Ended::Code(3));
}

fn signals_come_by_descriptor() {
    let signals = SignalFd::new(&[Signal::USR1, Signal::CHILD]).expect("there are descriptors");
    while signals.read().expect("it can be read").is_some() {}
    kill_process(getpid(), Signal::USR1).expect("that is this one");
    wait_readable(&signals);
    assert_eq!(signals.read().expect("it can be read"), Some(Signal::USR1));
    assert_eq!(signals.read().expect("it can be read"), None);
    let mut child = child(|| {
        let signals = SignalFd::new(&[Signal::TERM]).expect("there are descriptors");
        kill_process(getpid(), Signal::TERM).expect("that is this one");
        i32::from(signals.read().expect("it can be read") != Some(Signal::TERM))
    });
    wait_readable(&signals);
    assert_eq!(signals.read().expect("it can be read"), Some(Signal::CHILD));
    assert_eq!(child.wait().expect("it is ours"), Ended::Code(0));
}

fn a_process_with_two_threads_does_not_fork() {
    let (end, is_to_end) = mpsc::channel::<()>();
    let other = thread::spawn(move || is_to_end.recv().is_err());
    let reason = match fork() {
        Ok(Fork::Child) => exit_child(1),
        Ok(Fork::Parent(_)) => panic!("it has forked"),
        Err(reason) => reason.to_string(),
    };
    assert_eq!(reason, "this process has 2 threads, and only one with a single one may fork");
    drop(end);
    assert!(other.join().expect("it does not panic"));
    assert_eq!(
        child(|| 0).wait().expect("it is ours"),
        Ended::Code(0),
        "and forks again as soon as the other is joined"
    );
}

fn all_but_those_named_are_closed() {
    let opened: Vec<File> = (0..20).map(|_| File::open("/dev/null").expect("it is there")).collect();
    for kept in [vec![], vec![3], vec![0, 1, 19], vec![7, 5, 7], (0..20).collect()] {
        let mut child = child(|| {
            let kept: Vec<_> = kept.iter().map(|&number: &usize| opened[number].as_fd()).collect();
            close_all_but(&kept).expect("the kernel can");
            let expected: BTreeSet<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).chain(0..=2).collect();
            assert_eq!(open_descriptors(), expected);
            0
        });
        assert_eq!(child.wait().expect("it is ours"), Ended::Code(0), "{kept:?}");
    }
}

/// But for that by which they are listed.
fn open_descriptors() -> BTreeSet<RawFd> {
    let entries = fs::read_dir("/proc/self/fd").expect("there is /proc");
    let listed: Vec<RawFd> =
        entries.filter_map(|entry| entry.expect("it can be read").file_name().to_str()?.parse().ok()).collect();
    listed.into_iter().filter(|number| fs::read_link(format!("/proc/self/fd/{number}")).is_ok()).collect()
}

fn children_die_with_their_parent() {
    // The grandchild becomes this program's when its parent is gone, so that its end can be seen.
    set_child_subreaper(Some(getpid())).expect("the kernel can");
    let (mut here, there) = pipe();
    let pids = Shared::<AtomicU64>::new(1).expect("there is memory");
    let mut middle = child(|| {
        let grandchild = waiting_child(|| {});
        pids[0].store(u64::from(grandchild.pid()), Ordering::Relaxed);
        say(&there);
        wait_to_be_killed()
    });
    hear(&mut here);
    let grandchild = Pid::from_raw(pids[0].load(Ordering::Relaxed) as i32).expect("it was noted");
    middle.kill(Signal::KILL).expect("it runs");
    assert_eq!(middle.wait().expect("it is ours"), Ended::Signal(Signal::KILL.as_raw()));
    let ended = waitid(WaitId::Pid(grandchild), WaitIdOptions::EXITED).expect("it is ours now").expect("it waits");
    assert_eq!(ended.terminating_signal(), Some(Signal::KILL.as_raw()));
    set_child_subreaper(None).expect("the kernel can");
}

/// Children killed in the middle of what they do.
const KILLS: usize = 200;

fn the_books_balance_wherever_a_child_is_killed() {
    let clock = Clock::start();
    let mut random = Random::new(1);
    let mut board = Scoreboard::new(2).expect("there is memory");
    // What the child says of itself beside the scoreboard: sessions before they are begun, and after they are ended.
    let [begun, ended, rounds] = [0, 1, 2];
    let witness = Shared::<AtomicU64>::new(3).expect("there is memory");
    let (mut accepted, mut lost) = (0, 0);
    for kill in 0..KILLS {
        let index = board.take().expect("there is room");
        witness.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let seed = random.next();
        let work = if kill % 2 == 0 { 1 } else { 1_000 };
        let mut child = child(|| serve_for_ever(&board, index, &witness, clock, Random::new(seed), work));
        // Some are killed before they have done anything.
        let awaited = random.below(4) as u64;
        while witness[rounds].load(Ordering::Relaxed) < awaited {
            let reading = board.read(index, clock.now_ns());
            assert!(reading.accepted >= reading.ended, "{reading:?}");
            std::hint::spin_loop();
        }
        (0..random.below(20_000)).for_each(|_| std::hint::spin_loop());
        child.kill(Signal::KILL).expect("it runs");
        assert_eq!(child.wait().expect("it is ours"), Ended::Signal(Signal::KILL.as_raw()));

        let now_ns = clock.now_ns();
        let reading = board.read(index, now_ns);
        let (begun, ended) = (witness[begun].load(Ordering::Relaxed), witness[ended].load(Ordering::Relaxed));
        assert!((begun.saturating_sub(1)..=begun).contains(&reading.accepted), "{reading:?}, {begun} were begun");
        assert!((ended..=ended + 1).contains(&reading.ended), "{reading:?}, {ended} were ended");
        assert!(reading.busy_ns <= now_ns, "{reading:?}");
        let left = board.reap(index, now_ns);
        assert!(left.lost <= 1 && left.accepted == reading.accepted, "{left:?}");
        accepted += left.accepted;
        lost += left.lost;

        let tally = board.tally(now_ns);
        assert_eq!((tally.accepted, tally.open, tally.idle + tally.busy + tally.starting), (accepted, 0, 0));
        assert_eq!(Closed::ALL.iter().map(|&closed| board.closed(closed)).sum::<u64>(), accepted);
        assert_eq!((board.closed(Closed::Killed), board.read(index, now_ns).state), (lost, State::Vacant));
    }
    assert!(0 < lost && lost < KILLS as u64, "of {KILLS}, {lost} were killed in a session: too alike for a test");
    assert_eq!(board.retired().children.read(), KILLS as u64);
}

fn serve_for_ever(
    board: &Scoreboard,
    index: usize,
    witness: &[AtomicU64],
    clock: Clock,
    mut random: Random,
    work: usize,
) -> i32 {
    let own = board.own(index);
    own.ready();
    loop {
        witness[0].fetch_add(1, Ordering::Relaxed);
        own.begin(clock.now_ns());
        (0..random.below(work)).for_each(|_| std::hint::spin_loop());
        own.turns().turns.add(1);
        // Killed is what the parent counts.
        let closed = [Closed::Finished, Closed::Reset, Closed::OverLimit][random.below(3)];
        own.end(closed, clock.now_ns());
        witness[1].fetch_add(1, Ordering::Relaxed);
        (0..random.below(work)).for_each(|_| std::hint::spin_loop());
        witness[2].fetch_add(1, Ordering::Relaxed);
    }
}
