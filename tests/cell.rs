//! `maitred cell` as scripts and other processes see it: values, versions, lines, and who is woken. What is wrong with a
//! file is in `cell_files.rs`, writers that die are in `cell_deaths.rs`.

#[path = "support/cells.rs"]
mod cells;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use maitred::cell::{Cell, Set, TEXT_MAX_BYTES};
use maitred::random::Random;

use cells::{DEADLINE, Place, Watch, cell, set, wait_until};

#[test]
fn a_value_is_set_and_got_with_its_version() {
    let place = Place::new();
    assert_eq!(place.say("get", &[]), "0 \n", "an empty cell");
    assert_eq!(place.say("set", &["one"]), "1 one\n");
    assert_eq!(place.say("set", &["one"]), "1 one\n", "the present text is no change");
    assert_eq!(place.say("set", &["two words, and  spaces "]), "2 two words, and  spaces \n");
    assert_eq!(place.say("get", &[]), "2 two words, and  spaces \n");
    assert_eq!(place.say("set", &[""]), "3 \n");
    assert_eq!(place.say("set", &["--help me"]), "4 --help me\n", "a text may begin with anything");
    let longest = "ü".repeat(TEXT_MAX_BYTES / 2) + "x";
    assert_eq!(place.say("set", &[&longest]), format!("5 {longest}\n"));
    assert_eq!(place.say("get", &[]), format!("5 {longest}\n"));
    assert_eq!(place.open().read().expect("it is a cell"), (5, longest.into_bytes()));
    assert_eq!(fs::metadata(&place.path).expect("it is there").len(), 20_480);
}

#[test]
fn watch_prints_the_present_value_and_then_the_changes() {
    let place = Place::new();
    let watch = Watch::of(&place.path, &["--count", "3"]);
    assert_eq!(watch.next(), (0, String::new()));
    place.say("set", &["one"]);
    assert_eq!(watch.next(), (1, "one".to_owned()));
    place.say("set", &["one"]);
    place.say("set", &["two"]);
    assert_eq!(watch.next(), (2, "two".to_owned()));
    let mut watch = watch;
    assert_eq!(watch.child.wait().expect("it is ours").code(), Some(0), "three lines were asked for");
    assert_eq!(place.say("watch", &["--count", "1"]), "2 two\n");
}

#[test]
fn a_watch_that_is_out_of_time_fails_only_if_lines_are_missing() {
    let place = Place::new();
    place.say("set", &["one"]);
    let message = format!("maitred: cannot see 2 values of the cell {}: 1 came within 20ms\n", place.path.display());
    assert_eq!(place.run("watch", &["--count", "2", "--timeout", "20ms"]), (1, "1 one\n".to_owned(), message));
    assert_eq!(place.say("watch", &["--timeout", "20ms"]), "1 one\n");
    assert_eq!(place.say("watch", &["--count", "1", "--timeout", "0"]), "1 one\n");
}

#[test]
fn a_slow_reader_gets_the_newest_and_none_twice() {
    let place = Place::new();
    let mut child = cell("watch", &place.path, &[]).stdout(Stdio::piped()).spawn().expect("the program starts");
    let cell = place.open();
    // More than the pipe takes: the watcher waits for its reader, and nobody waits for the watcher.
    let line = |version: u64| format!("{version} {}", "x".repeat(6_000));
    for version in 1..=200 {
        assert_eq!(set(&cell, &line(version)).version, version);
    }
    let mut stdout = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
    let mut seen = Vec::new();
    while seen.last() != Some(&200) {
        let next = stdout.next().expect("another line").expect("only text is printed");
        let (version, text) = next.split_once(' ').expect("a version and a text");
        let version: u64 = version.parse().expect("a number");
        assert_eq!(text, if version == 0 { String::new() } else { line(version) });
        seen.push(version);
    }
    assert!(seen.is_sorted_by(|before, after| before < after), "{seen:?}");
    child.kill().expect("it runs");
    child.wait().expect("it is ours");
}

#[test]
fn signals_end_a_watch_and_a_reader_that_has_gone_does_so_quietly() {
    let place = Place::new();
    for signal in [Signal::INT, Signal::TERM] {
        if is_ignored(signal) {
            eprintln!("skipped: these tests were started with {signal:?} ignored, and so is what they start");
            continue;
        }
        let mut watch = Watch::of(&place.path, &[]);
        watch.next();
        watch.signal(signal);
        assert_eq!(watch.child.wait().expect("it is ours").signal(), Some(signal.as_raw()));
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let watch = cell("watch", &place.path, &[]).stdout(writer).stderr(Stdio::piped()).spawn();
    let mut watch = watch.expect("the program starts");
    let (cell_file, mut changes) = (place.open(), 0);
    // A child of another test that is not its program yet has the reader as well; so there must be something to write later.
    wait_until("the watch ends", || {
        changes += 1;
        set(&cell_file, &changes.to_string());
        watch.try_wait().expect("it is ours").is_some()
    });
    let output = watch.wait_with_output().expect("it has ended");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));

    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = cell("get", &place.path, &[]).stdout(full).output().expect("the program starts");
    let message = String::from_utf8(output.stderr).expect("only text is printed");
    assert_eq!(output.status.code(), Some(1));
    assert!(message.starts_with("maitred: cannot write to standard output: No space left"), "{message}");
}

/// Whether this process ignores the signal, as shells have it of what they put into the background.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("it has a mask");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("it is hexadecimal");
    mask >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
fn wrong_usage_exits_with_2_and_says_so_in_one_line() {
    let place = Place::new();
    let long = "x".repeat(TEXT_MAX_BYTES + 1);
    let table: [(&str, &[&str], &str); 7] = [
        ("set", &["two\nlines"], "TEXT: has a line end; expected one line, of at most 8187 bytes"),
        ("set", &[&long], "TEXT: has 8188 bytes; expected one line, of at most 8187 bytes"),
        ("watch", &["--count", "0"], "--count: 0 is too small; expected a number from 1 to 1000000000000"),
        ("watch", &["--count=-1"], "--count: -1 is not a number; expected a number from 1 to 1000000000000"),
        (
            "watch",
            &["--timeout", "5"],
            "--timeout: 5 has no unit; expected a duration such as 250us, 10ms or 5s, from 0s to 31536000s",
        ),
        ("set", &[], "the following required arguments were not provided: <TEXT>; For more information, try '--help'."),
        ("get", &["more"], "unexpected argument 'more' found; For more information, try '--help'."),
    ];
    for (command, more, expected) in table {
        assert_eq!(place.run(command, more), (2, String::new(), format!("maitred: {expected}\n")), "{command}");
    }
    assert!(!place.path.exists(), "wrong usage makes no file");
}

#[test]
fn help_completions_and_the_manual_page_have_the_commands() {
    let maitred = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_maitred")).args(arguments).output().expect("the program starts");
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).expect("only text is printed")
    };
    let [general, watch] = [&["cell", "--help"][..], &["cell", "watch", "--help"]].map(maitred);
    assert!(["get", "set", "watch", "version 0"].iter().all(|word| general.contains(word)), "{general}");
    assert!(["<FILE>", "--count <N>", "--timeout <DURATION>"].iter().all(|word| watch.contains(word)), "{watch}");
    let page = maitred(&["man"]);
    for text in [".SH \"MAITRED CELL\"", ".SH \"MAITRED CELL WATCH\"", "\\-\\-count", "8187 bytes", "version 0"] {
        assert!(page.contains(text), "{text} is missing in\n{page}");
    }
    assert!(maitred(&["completions", "bash"]).contains("maitred__subcmd__cell__subcmd__watch"));
}

#[test]
fn the_present_text_wakes_nobody_and_a_new_one_wakes_all_who_sleep() {
    const WATCHERS: usize = 4;
    let place = Place::new();
    for cell in [place.open(), Cell::anonymous()] {
        set(&cell, "one");
        thread::scope(|scope| {
            let watch = || cell.wait(1, Some(DEADLINE)).expect("it is a cell");
            let watchers = [(); WATCHERS].map(|()| scope.spawn(watch));
            for _ in 0..1_000 {
                assert_eq!(set(&cell, "one"), Set { version: 1, changed: false, woken: 0 });
            }
            assert!(watchers.iter().all(|watcher| !watcher.is_finished()));
            let first = set(&cell, "two");
            assert_eq!((first.version, first.changed), (2, true));
            assert!(first.woken <= WATCHERS);
            watchers.into_iter().for_each(|watcher| assert_eq!(watcher.join().expect("no panic"), Some(2)));
            assert_eq!(set(&cell, "three").woken, 0, "nobody sleeps any more");
        });
    }
    // And processes: of those that sleep, each is woken, by one change.
    let cell = place.open();
    let watches = [(); WATCHERS].map(|()| Watch::of(&place.path, &[]));
    let mut version = cell.version().expect("it is a cell");
    wait_until("all sleep", || {
        version += 1;
        set(&cell, &version.to_string()).woken == WATCHERS
    });
    for watch in &watches {
        while watch.next().0 < version {}
    }
}

#[test]
fn waiting_ends_at_its_time_and_at_once_if_there_is_something_later() {
    let cell = Cell::anonymous();
    assert_eq!(cell.wait(0, Some(Duration::ZERO)).expect("it is a cell"), None);
    assert_eq!(cell.wait(0, Some(Duration::from_millis(2))).expect("it is a cell"), None);
    set(&cell, "one");
    set(&cell, "two");
    for timeout in [None, Some(Duration::ZERO), Some(Duration::MAX)] {
        assert_eq!(cell.wait(0, timeout).expect("it is a cell"), Some(2));
        assert_eq!(cell.wait(1, timeout).expect("it is a cell"), Some(2));
    }
    assert_eq!(cell.wait(2, Some(Duration::ZERO)).expect("it is a cell"), None);
    assert_eq!(cell.wait(u64::MAX, Some(Duration::from_millis(2))).expect("it is a cell"), None);
}

/// Four processes that set and four that watch.
#[test]
fn watchers_see_versions_that_grow_the_texts_that_were_set_and_the_last_one() {
    const WRITERS: usize = 4;
    const SETS: usize = 60;
    let place = Place::new();
    let watches = [(); 4].map(|()| Watch::of(&place.path, &[]));
    let all = Mutex::new(BTreeMap::from([(0, String::new())]));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (place, all) = (&place, &all);
            scope.spawn(move || {
                for number in 0..SETS {
                    let text = format!("writer {writer}, number {number} {}", "x".repeat(number * 100));
                    let said = place.say("set", &[&text]);
                    let (version, said) = said.trim_end_matches('\n').split_once(' ').expect("a version and a text");
                    assert_eq!(said, text);
                    let version = version.parse().expect("a number");
                    let before = all.lock().expect("no panic while held").insert(version, text);
                    assert_eq!(before, None, "two sets of version {version}");
                }
            });
        }
    });
    place.say("set", &["end"]);
    let mut all = all.into_inner().expect("no panic while held");
    let last = (WRITERS * SETS + 1) as u64;
    all.insert(last, "end".to_owned());
    assert!(all.keys().copied().eq(0..=last), "versions grow by one");
    for watch in &watches {
        let mut seen = None;
        while seen != Some(last) {
            let (version, text) = watch.next();
            assert!(seen.is_none_or(|seen| seen < version), "{version} behind {seen:?}");
            assert_eq!(Some(&text), all.get(&version), "version {version}");
            seen = Some(version);
        }
    }
}

#[test]
fn the_program_killed_at_random_leaves_a_value_that_somebody_set_and_the_way_free() {
    const KILLS: u64 = 200;
    let place = Place::new();
    let watch = Watch::of(&place.path, &[]);
    let cell = place.open();
    let mut random = Random::new(3);
    let text = |kill: u64| format!("{kill} ").repeat(1 + kill as usize % 1_000);
    let mut seen = watch.next().0;
    let (mut version, mut died_before) = (0, 0);
    for kill in 1..=KILLS {
        let mut command = cells::cell("set", &place.path, &[&text(kill)]);
        let mut child = command.stdout(Stdio::null()).spawn().expect("the program starts");
        thread::sleep(Duration::from_micros(random.below(3_000) as u64));
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        let (now, found) = cell.read().expect("it is a cell");
        let found = String::from_utf8(found).expect("only text was set");
        if now == version {
            died_before += 1;
        } else {
            assert_eq!((now, &found), (version + 1, &text(kill)));
        }
        version = set(&cell, &format!("after {kill}")).version;
        assert_eq!(version, now + 1, "kill {kill}");
        while seen < version {
            let next = watch.next().0;
            assert!(seen < next);
            seen = next;
        }
    }
    assert!(died_before > 0, "none has died before it had set anything");
}

#[test]
fn a_text_is_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let odd = OsStr::from_bytes(b"\xff\t\r\x1b[0m \xc3");
    let output = cell("set", &place.path, &[]).arg(odd).output().expect("the program starts");
    assert_eq!(output.stdout, [b"1 ", odd.as_bytes(), b"\n"].concat());
    let mut found = Vec::new();
    let mut child = cell("get", &place.path, &[]).stdout(Stdio::piped()).spawn().expect("the program starts");
    child.stdout.take().expect("it is a pipe").read_to_end(&mut found).expect("it can be read");
    assert!(child.wait().expect("it is ours").success());
    assert_eq!(found, output.stdout);
}
