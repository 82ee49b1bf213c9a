//! What configuration files and flags amount to, and what is said of wrong ones: tables of texts and answers.

use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use maitred::cli::{Args, Command, ServeArgs};
use maitred::config::{
    self, AtOnce, Config, EngineInfo, Limits, LowWater, Rearm, Scheme, Settings, Wake, changes_needing_restart,
};
use maitred::error::Error;

/// Engines, so that a configuration can name one that does not carry what it asks for, or has no use for it.
const ENGINES: &[EngineInfo] = &[
    EngineInfo {
        name: "pool",
        about: "carries everything",
        carries: |_, _| Ok(()),
        options: &["workers", "queue", "spin", "ring", "pin"],
        at_once: AtOnce::Many,
        forks: false,
        resizes: Ok(()),
        relistens: Ok(()),
    },
    EngineInfo {
        name: "picky",
        about: "carries nothing",
        carries: |_, _| Err("it serves one client at a time"),
        options: &[],
        at_once: AtOnce::One,
        forks: false,
        resizes: Err("it has no workers"),
        relistens: Ok(()),
    },
    EngineInfo {
        name: "plain",
        about: "carries everything, and takes hardly a setting",
        carries: |_, _| Ok(()),
        options: &["ring"],
        at_once: AtOnce::One,
        forks: false,
        resizes: Err("it has no workers"),
        relistens: Ok(()),
    },
];

fn flags(line: &[&str]) -> ServeArgs {
    let line = ["maitred", "check"].iter().chain(line);
    match Args::try_parse_from(line).expect("clap takes the line").command {
        Command::Check(args) => args,
        other => panic!("check was asked for, not {other:?}"),
    }
}

fn resolve(line: &[&str]) -> Result<Config, Error> {
    Config::resolve(&flags(line), ENGINES)
}

/// A file in a directory of its own, which goes with it.
struct Written {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn written(text: impl AsRef<[u8]>) -> Written {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("maitred.toml");
    fs::write(&path, text).expect("a file in it");
    Written { path, _directory: directory }
}

fn resolve_file(text: impl AsRef<[u8]>, more: &[&str]) -> Result<Config, String> {
    let file = written(text);
    let path = file.path.to_str().expect("the path is text");
    let line: Vec<&str> = ["--config", path].into_iter().chain(more.iter().copied()).collect();
    // The directory has another name each time; tables name the file alone.
    resolve(&line).map_err(|error| error.to_string().replace(path, "F"))
}

fn refused(text: impl AsRef<[u8]>) -> String {
    resolve_file(text, &[]).err().unwrap_or_else(|| "was taken".to_owned())
}

#[test]
fn wrong_files_are_named_with_line_key_and_what_was_expected() {
    let all_keys = "one of engine, summary, listen, workers, queue, low_water, wake, batch, spin, budget, ring, rearm, \
                    assist, stages, pin, placement, min_processes, max_processes, min_spare, max_spare, \
                    jobs, file_jobs, job_backlog, udp_public, udp_source_rate, udp_total_rate, udp_limit_local, udp_buffer, udp_mmsg, \
                    udp_gso, udp_gro, max_connections, max_buffers, max_frame, max_demand, idle_timeout, write_timeout, \
                    drain_timeout";
    let table = [
        // Keys.
        ("idle_timout = \"1s\"", "F:1: idle_timout: unknown key; expected idle_timeout"),
        ("\n# a comment\nidle-timeout = \"1s\"", "F:3: idle-timeout: unknown key; expected idle_timeout"),
        ("Workers = 1", "F:1: Workers: unknown key; expected workers"),
        ("[limits]\nqueue = 1", &format!("F:1: limits: unknown key; expected {all_keys}")),
        ("colour = 1", &format!("F:1: colour: unknown key; expected {all_keys}")),
        ("\"a\\nb\" = 1", &format!("F:1: a\\nb: unknown key; expected {all_keys}")),
        ("queue = 1\nworkers = 0\nbatch = 0", "F:2: workers: 0 is too small; expected auto or a number from 1 to 1024"),
        // Types.
        (
            "workers = \"4\"",
            "F:1: workers: the string \"4\" has the wrong type; expected auto or a number from 1 to 1024",
        ),
        ("queue = 1.5", "F:1: queue: the float 1.5 has the wrong type; expected a number from 1 to 1048576"),
        ("queue = [1]", "F:1: queue: an array has the wrong type; expected a number from 1 to 1048576"),
        ("queue.max = 1", "F:1: queue: a table has the wrong type; expected a number from 1 to 1048576"),
        ("pin = 1", "F:1: pin: the integer 1 has the wrong type; expected on or off"),
        ("rearm = true", "F:1: rearm: the boolean true has the wrong type; expected edge or oneshot"),
        ("summary = 1", "F:1: summary: the integer 1 has the wrong type; expected a string"),
        (
            "idle_timeout = 60",
            "F:1: idle_timeout: the integer 60 has the wrong type; expected off or a duration such as 250us, 10ms or \
             5s, from 1ms to 86400s",
        ),
        // Ranges.
        ("workers = 1025", "F:1: workers: 1025 is too large; expected auto or a number from 1 to 1024"),
        ("workers = -1", "F:1: workers: -1 is not a number; expected auto or a number from 1 to 1024"),
        ("queue = 0", "F:1: queue: 0 is too small; expected a number from 1 to 1048576"),
        ("queue = 1048577", "F:1: queue: 1048577 is too large; expected a number from 1 to 1048576"),
        ("batch = 65537", "F:1: batch: 65537 is too large; expected a number from 1 to 65536"),
        ("max_connections = 0", "F:1: max_connections: 0 is too small; expected a number from 1 to 4194304"),
        (
            "max_connections = 99999999999999999999999",
            "F:1: max_connections: 99999999999999999999999 is too large; expected a number from 1 to 4194304",
        ),
        ("ring = 1023", "F:1: ring: 1023 is too small; expected a size such as 64, 16KiB or 1MiB, from 1KiB to 16MiB"),
        (
            "ring = \"1GiB\"",
            "F:1: ring: 1GiB is too large; expected a size such as 64, 16KiB or 1MiB, from 1KiB to 16MiB",
        ),
        (
            "budget = \"1 KB\"",
            "F:1: budget: 1 KB has an unknown unit; expected a size such as 64, 16KiB or 1MiB, from 1 to 1GiB",
        ),
        (
            "drain_timeout = \"0s\"",
            "F:1: drain_timeout: 0s is too small; expected a duration such as 250us, 10ms or 5s, from 1ms to 86400s",
        ),
        (
            "write_timeout = \"\"",
            "F:1: write_timeout: an empty value is not a duration; expected a duration such as 250us, 10ms or 5s, \
             from 1ms to 86400s",
        ),
        ("spin = \"2s\"", "F:1: spin: 2s is too large; expected a duration such as 250us, 10ms or 5s, from 0s to 1s"),
        (
            "wake = \"all\"",
            "F:1: wake: all is not a duration; expected auto or each or a duration such as 250us, 10ms or 5s, from 0s \
             to 1s",
        ),
        ("rearm = \"level\"", "F:1: rearm: level is not known; expected edge or oneshot"),
        ("assist = \"yes\"", "F:1: assist: yes is not known; expected on or off"),
        ("engine = \"pol\"", "F:1: engine: pol is not an engine; expected pool or picky or plain"),
        ("summary = \"\"", "F:1: summary: the path is empty; expected the path of a file"),
        // What does not fit together.
        (
            "low_water = 9\nqueue = 8",
            "F:1: low_water: 9 is more than the queue holds; expected at most 8, the capacity of the queue",
        ),
        (
            "workers = 2\nmax_buffers = \"1MiB\"",
            "F:2: max_buffers: 1MiB is too small for 2 workers and rings of 64KiB; expected at least 1600KiB",
        ),
        // Texts that are no TOML, or no text.
        ("queue = 1\nqueue = 2", "F:2: not TOML: duplicate key; expected valid TOML"),
        ("workers", "F:1: not TOML: key with no value; expected `=`"),
    ];
    for (text, expected) in table {
        assert_eq!(refused(text), *expected, "{text:?}");
    }
    assert_eq!(
        refused(b"\xff"),
        "F: cannot be read: stream did not contain valid UTF-8; expected a readable TOML file"
    );
    assert_eq!(refused("#".repeat(1 << 21)), "F: is longer than 1MiB; expected a readable TOML file");
}

#[test]
fn wrong_listeners_in_a_file_are_named_with_line_and_key() {
    let services: Vec<&str> = maitred::service::SERVICES.iter().map(|entry| entry.name).collect();
    let table = [
        ("listen = []", "F:1: listen: the list is empty; expected at least one [[listen]] table"),
        (
            "listen = \"echo\"",
            "F:1: listen: the string \"echo\" is not a list of tables; expected [[listen]] tables with service, scheme \
             and address",
        ),
        (
            "[listen]\nservice = \"echo\"",
            "F:1: listen: a table is not a list of tables; expected [[listen]] tables with service, scheme and address",
        ),
        (
            "queue = 1\n[[listen]]\nservice = \"echo\"\nscheme = \"tcp\"",
            "F:2: listen.address: is missing; expected address = \"…\" in each [[listen]] table",
        ),
        (
            "[[listen]]\nservice = \"ehco\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"",
            &format!("F:2: listen.service: ehco is not a service; expected one of {}", services.join(", ")),
        ),
        (
            "[[listen]]\nservice = \"echo\"\nscheme = \"sctp\"\naddress = \"127.0.0.1:0\"",
            "F:3: listen.scheme: echo cannot be reached by sctp; expected one of tcp, udp",
        ),
        (
            "[[listen]]\nservice = \"echo\"\nscheme = \"tcp\"\naddress = 7007",
            "F:4: listen.address: 7007 is not an address; expected IP:PORT, as in 127.0.0.1:7007 or [::1]:7007",
        ),
        (
            "[[listen]]\nservice = \"echo\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:70000\"",
            "F:4: listen.address: 127.0.0.1:70000 is not an address; expected IP:PORT, as in 127.0.0.1:7007 or \
             [::1]:7007",
        ),
        (
            "[[listen]]\nservice = \"echo\"\nscheme = \"tcp\"\naddress = [\"127.0.0.1:0\"]",
            "F:4: listen.address: an array has the wrong type; expected a string, an integer or a boolean",
        ),
        (
            "[[listen]]\ncolour = \"red\"\nservice = \"echo\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"",
            "F:2: listen.colour: colour is not a parameter of echo; expected terminator",
        ),
        (
            "[[listen]]\nservice = \"echo\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\nterminator = 0",
            "F:5: listen.terminator: 0 does not fit terminator; expected nul",
        ),
        (
            "[[listen]]\nservice = \"echo\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:7\"\n\
             [[listen]]\nservice = \"echo\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:7\"",
            "F:8: listen.address: tcp://127.0.0.1:7 is taken by echo already; expected one listener for each address",
        ),
        (
            "engine = \"picky\"\n[[listen]]\nservice = \"echo\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"",
            "F:3: listen.service: engine picky cannot carry echo on tcp: it serves one client at a time; expected \
             another engine, or a service that this one carries",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(refused(text), expected, "{text:?}");
    }
}

#[test]
fn wrong_flags_are_named_with_their_value() {
    let table: [(&[&str], &str); 14] = [
        (&["--workers", "0"], "--workers: 0 is too small; expected auto or a number from 1 to 1024"),
        (&["--workers", "many"], "--workers: many is not a number; expected auto or a number from 1 to 1024"),
        (&["--low-water=-1"], "--low-water: -1 is not a number; expected auto or off or a number from 0 to 1048576"),
        (&["--udp-total-rate", "0"], "--udp-total-rate: 0 is too small; expected off or a number from 1 to 1000000000"),
        (
            &["--idle-timeout", "99999999999999999999s"],
            "--idle-timeout: 99999999999999999999s is too large; expected off or a duration such as 250us, 10ms or 5s, \
             from 1ms to 86400s",
        ),
        (&["--engine", "fast"], "--engine: fast is not an engine; expected pool or picky or plain"),
        (
            &["--listen", "echo"],
            "--listen: echo is not a listener; expected SERVICE=SCHEME://ADDRESS[?key=value&…], as in \
             echo=tcp://127.0.0.1:7007",
        ),
        (
            &["--listen", "echo=tcp://127.0.0.1:0?terminator"],
            "--listen: echo=tcp://127.0.0.1:0?terminator is not a listener; expected \
             SERVICE=SCHEME://ADDRESS[?key=value&…], as in echo=tcp://127.0.0.1:7007",
        ),
        (&["--listen", "files=tcp://127.0.0.1:0?root=a&root=b"], "--listen: a does not fit root; expected root once"),
        (&["--listen", "echo=unix:///tmp/x"], "--listen: echo cannot be reached by unix; expected one of tcp, udp"),
        (
            &["--listen", "echo=tcp://localhost:7"],
            "--listen: localhost:7 is not an address; expected IP:PORT, as in 127.0.0.1:7007 or [::1]:7007",
        ),
        (
            &["--listen", "echo=tcp://127.0.0.1:7", "--listen", "echo=tcp://127.0.0.1:7?terminator=nul"],
            "--listen: tcp://127.0.0.1:7 is taken by echo already; expected one listener for each address",
        ),
        (
            &["--engine", "picky", "--listen", "echo=tcp://127.0.0.1:7"],
            "--listen: engine picky cannot carry echo on tcp: it serves one client at a time; expected another engine, \
             or a service that this one carries",
        ),
        (
            &["--workers", "1", "--ring", "1MiB", "--max-buffers", "8MiB"],
            "--max-buffers: 8MiB is too small for 1 workers and rings of 1MiB; expected at least 17MiB",
        ),
    ];
    for (line, expected) in table {
        let error = resolve(line).err().unwrap_or_else(|| panic!("{line:?} was taken"));
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.exit_code(), 2, "{line:?}");
    }
}

#[test]
fn a_missing_file_is_an_error_of_the_configuration() {
    let error = resolve(&["--config", "/nonexistent/maitred.toml"]).err().expect("there is no such file");
    assert_eq!(error.exit_code(), 78);
    let text = error.to_string();
    assert!(text.starts_with("/nonexistent/maitred.toml: cannot be opened: No such file"), "{text}");
}

#[test]
fn flags_override_the_file_and_the_file_the_defaults() {
    let text = "queue = 7\nbatch = 0x10\nidle_timeout = \"off\"\npin = true\nlow_water = 3\nwake = \"50us\"\n\
                rearm = \"oneshot\"\nstages = \"on\"\nsummary = \"a.json\"\nudp_public = true\nudp_gro = \"off\"\n\
                udp_source_rate = 7\nudp_total_rate = \"off\"\n\
                [[listen]]\nservice = \"echo\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:1\"";
    let from_file = resolve_file(text, &[]).expect("the file is right");
    let settings = &from_file.settings;
    assert_eq!((settings.queue_capacity, settings.batch, settings.pin, settings.stages), (7, 16, true, true));
    assert_eq!(settings.limits.idle_timeout, Limits::NEVER);
    let datagrams = settings.datagrams;
    assert_eq!((datagrams.is_public, datagrams.gso, datagrams.gro), (true, true, false));
    assert_eq!((datagrams.source_rate, datagrams.total_rate), (NonZeroU32::new(7), None));
    assert_eq!((settings.low_water, settings.wake), (LowWater::At(3), Wake::Above(Duration::from_micros(50))));
    assert_eq!(settings.rearm, Rearm::Oneshot);
    assert_eq!(settings.ring_bytes, config::RING_BYTES);
    assert_eq!(from_file.summary_path.as_deref(), Some(Path::new("a.json")));
    let [listener] = from_file.listeners.as_slice() else { panic!("the file has one listener") };
    assert!(listener.asked_for && !listener.idle_exempt);
    assert_eq!(
        (listener.service_name, listener.scheme, listener.url().as_str()),
        ("echo", Scheme::Tcp, "tcp://127.0.0.1:1")
    );

    let line = ["--queue", "8", "--pin=off", "--low-water", "off", "--wake", "each", "--summary", "b.json"];
    let line = [&line[..], &["--listen", "echo=tcp://[::1]:2?terminator=nul", "--engine", "pool"]].concat();
    let both = resolve_file(text, &line).expect("file and flags are right");
    assert_eq!((both.settings.queue_capacity, both.settings.batch, both.settings.pin), (8, 16, false));
    assert_eq!((both.settings.low_water, both.settings.wake), (LowWater::Off, Wake::Each));
    assert_eq!(both.summary_path.as_deref(), Some(Path::new("b.json")));
    let [listener] = both.listeners.as_slice() else { panic!("the flag replaces the file's listener") };
    assert_eq!(listener.url(), "tcp://[::1]:2");
    assert_eq!(listener.parameters, [("terminator".to_owned(), "nul".to_owned())]);
}

#[test]
fn without_flags_every_service_listens_on_loopback_as_far_as_the_engine_carries_it() {
    let config = resolve(&[]).expect("the defaults are right");
    assert_eq!(config.engine, config::ENGINE);
    assert!(!config.listeners.is_empty());
    for listener in &config.listeners {
        assert!(
            listener.address.ip().is_some_and(|address| address.ip().is_loopback()) && !listener.asked_for,
            "{}",
            listener.url()
        );
    }
    let error = resolve(&["--engine", "picky"]).err().expect("nothing is left to listen");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn settings_that_the_engine_has_no_use_for_are_named_and_taken() {
    let without_use = |line: &[&str]| resolve(line).expect("the flags are right").without_use;
    let all = ["--pin", "--queue", "7", "--ring", "1KiB", "--max-connections", "9", "--idle-timeout", "1s"];
    assert_eq!(without_use(&all), [""; 0]);
    assert_eq!(without_use(&[&all[..], &["--engine", "plain"]].concat()), ["queue", "pin"]);
    assert_eq!(without_use(&["--engine", "plain"]), [""; 0]);
    assert_eq!(without_use(&["--engine", "plain", "--max-buffers", "1GiB", "--write-timeout", "1s"]), [""; 0]);

    let in_file = "engine = \"plain\"\nspin = \"1ms\"\nworkers = 2\nring = \"1KiB\"\n";
    let config = resolve_file(in_file, &["--workers", "3"]).expect("the file is right");
    assert_eq!(config.without_use, ["workers", "spin"]);
    assert_eq!(config.settings.workers, 3);
    let config = resolve_file(in_file, &["--engine", "pool"]).expect("the flag overrides the file");
    assert_eq!(config.without_use, [""; 0]);
}

#[test]
fn the_printed_configuration_reads_back_as_the_same() {
    let lines: [&[&str]; 4] = [
        &[],
        &["--workers", "3", "--low-water", "5", "--wake", "75us", "--idle-timeout", "off", "--pin", "--assist", "off"],
        &[
            "--budget",
            "1000",
            "--spin",
            "1500ns",
            "--rearm",
            "oneshot",
            "--stages",
            "on",
            "--summary",
            "a \"b\"\\é.json",
        ],
        &[
            "--listen",
            "relay=tcp://[::1]:7?to=tcp://127.0.0.1:8&idle=1s&to=tcp://127.0.0.1:9",
            "--listen",
            "echo=tcp://0.0.0.0:0?terminator=nul",
        ],
    ];
    for line in lines {
        let printed = resolve(line).expect("the flags are right").to_toml();
        let again = resolve_file(&printed, &[]).unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(again.to_toml(), printed, "{line:?}");
    }
}

#[test]
fn any_damage_to_a_file_is_taken_or_named_in_one_line() {
    let listener = "echo=tcp://127.0.0.1:7?terminator=nul";
    let whole = resolve(&["--listen", listener, "--summary", "a.json"]).expect("the flags are right").to_toml();
    let junk = b"\"'[]{}=.#\n\r\0 -9az\xc3";
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    for round in 0..400 {
        let mut damaged = whole.clone().into_bytes();
        for _ in 0..=below(3) {
            if damaged.is_empty() {
                break;
            }
            let at = below(damaged.len());
            match below(3) {
                0 => damaged[at] = junk[below(junk.len())],
                1 => drop(damaged.remove(at)),
                _ => damaged.truncate(at + 1),
            }
        }
        if let Err(message) = resolve_file(&damaged, &[]) {
            let text = String::from_utf8_lossy(&damaged);
            assert!(message.starts_with("F:") && message.contains("; expected "), "round {round}: {message}\n{text}");
            assert!(!message.contains(char::is_control), "round {round}: {message:?}\n{text}");
        }
    }
}

#[test]
fn buffers_grow_with_rings_and_workers_unless_they_are_set() {
    let config = resolve(&["--workers", "4", "--ring", "16MiB"]).expect("large rings are allowed");
    assert_eq!(config.settings.limits.max_buffer_bytes, 41 * (16 << 20));
    let config = resolve(&["--workers", "4"]).expect("the defaults are right");
    assert_eq!(config.settings.limits.max_buffer_bytes, config::MAX_BUFFER_BYTES);
}

#[test]
fn a_reload_may_change_workers_and_what_can_be_tuned_and_no_other_setting() {
    let changes = |line: &[&str]| {
        let (old, new) = (resolve(&[]).expect("the defaults are right"), resolve(line).expect("the flags are right"));
        changes_needing_restart(&ENGINES[0], &old, &new)
    };
    let live = ["--max-connections", "9", "--idle-timeout", "1s", "--write-timeout", "1s", "--drain-timeout", "1s"];
    assert_eq!(changes(&live), [""; 0]);
    let tuning = ["--batch", "9", "--spin", "1ms", "--budget", "9", "--low-water", "9"];
    assert_eq!(changes(&tuning), [""; 0]);
    assert_eq!(changes(&["--workers", "3"]), [""; 0], "this engine resizes");
    let plain = |line: &[&str]| resolve(&[&["--engine", "plain"], line].concat()).expect("the flags are right");
    let fixed = changes_needing_restart(&ENGINES[2], &plain(&["--workers", "2"]), &plain(&["--workers", "3"]));
    assert_eq!(fixed, ["workers (it has no workers)"]);
    assert_eq!(changes(&["--queue", "9", "--max-buffers", "1GiB", "--pin"]), ["queue", "pin", "max_buffers"]);
    let listen = ["--listen", "echo=tcp://127.0.0.1:0"];
    assert_eq!(changes(&[&["--summary", "a"], &listen[..]].concat()), ["summary"], "the daemon knows what it can do");
    assert_eq!(changes(&[&["--engine", "plain"], &listen[..]].concat()), ["engine", "listen"]);
}

#[test]
fn a_reload_refuses_a_file_that_names_no_listener_any_more() {
    let one = "[[listen]]\nservice = \"echo\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\n";
    let reload = |before: &str, after: &str, more: &[&str]| {
        let file = written(before);
        let flags = flags(&[&["--config", file.path.to_str().expect("the path is text")], more].concat());
        let old = Config::resolve(&flags, ENGINES).expect("the file is right");
        fs::write(&file.path, after).expect("a file");
        let path = format!("{}: ", file.path.display());
        let new = old.resolve_again(&flags, ENGINES);
        new.map(|new| new.settings.budget_bytes).map_err(|error| error.to_string().replace(&path, "F: "))
    };
    let refused = "F: listen: no listener is named any more; expected at least one [[listen]] table, as before";
    for emptied in ["", "# nothing\n", "budget = 9\n"] {
        assert_eq!(reload(one, emptied, &[]), Err(refused.to_owned()));
    }
    assert_eq!(reload(one, &format!("budget = 9\n{one}"), &[]), Ok(9));
    // A file that never named any, because the flags do or because the defaults are wanted.
    let flag = ["--listen", "echo=tcp://127.0.0.1:0"];
    assert_eq!(reload("", "budget = 9\n", &flag), Ok(9));
    assert_eq!(reload(one, "budget = 9\n", &flag), Ok(9), "the flags replace what it named");
    assert_eq!(reload("budget = 9\n", "", &[]), Ok(Settings::default().budget_bytes));
}

#[test]
fn settings_that_no_file_and_no_flag_let_through_are_checked_alike() {
    let wrong = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check().expect_err("it is wrong").to_string()
    };
    assert!(Settings::default().check().is_ok());
    assert_eq!(
        wrong(|settings| settings.workers = 0),
        "workers: 0 is too small; expected auto or a number from 1 to 1024"
    );
    assert_eq!(
        wrong(|settings| settings.limits.write_timeout = Duration::ZERO),
        "write_timeout: 0s is too small; expected a duration such as 250us, 10ms or 5s, from 1ms to 86400s"
    );
    assert_eq!(
        wrong(|settings| settings.low_water = LowWater::At(settings.queue_capacity + 1)),
        "low_water: 1025 is more than the queue holds; expected at most 1024, the capacity of the queue"
    );
    assert_eq!(
        wrong(|settings| (settings.workers, settings.limits.max_buffer_bytes) = (2, 1 << 20)),
        "max_buffers: 1MiB is too small for 2 workers and rings of 64KiB; expected at least 1600KiB"
    );
}
