//! The running program as an operator sees it: ready lines, signals, the drain, the summary, and output that nobody
//! reads.
//!
//! Each test starts the program: on every engine where the engine has a part in what is tested, else on the default one.
//! `MAITRED_TEST_ENGINE=NAME` narrows the former to one. What the program does under load and in trouble is in
//! `faults.rs`; what it says to wrong usage, in `cli.rs`.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;

use std::fs;
use std::io::{PipeWriter, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::Signal;

use maitred::config::AtOnce::{Many, One};
use maitred::engine::ENGINES;

use client::{Client, text, wait_until};
use daemon::{Daemon, Summary};
use engines::{LeftOut, check_left_out, for_each_engine};
use process::{Process, command};

const ECHO: &str = "echo=tcp://127.0.0.1:0";

/// The engines that a test is not for, other than by the number of its clients.
const LEFT_OUT: &[LeftOut] = &[LeftOut {
    test: "a_stopped_reader_of_stderr_never_holds_up_the_daemon",
    engine: "prefork",
    reason: "each of its processes is one session: the third client would wait in the backlog for the second",
}];

#[test]
fn engines_are_left_out_of_tests_that_there_are() {
    check_left_out(LEFT_OUT, include_str!("signals.rs"));
}

#[test]
fn ready_lines_name_service_scheme_and_the_port_really_bound() {
    let process = Process::serve(&["--listen", ECHO, "--listen", "echo=tcp://[::1]:0?terminator=nul"]);
    let [first, second, ready] = &process.ready_lines[..] else { panic!("{:?}", process.ready_lines) };
    assert_eq!(ready, "ready");
    let address = |line: &str, start: &str| -> SocketAddr {
        line.strip_prefix(start).unwrap_or_else(|| panic!("{line}")).parse().expect("an address")
    };
    let first = address(first, "listening echo tcp://");
    let second = address(second, "listening echo tcp://");
    assert!(first.is_ipv4() && second.is_ipv6() && first.port() != 0 && second.port() != 0);
    Client::connect(first).echo(b"here");
    Client::connect(second).echo(b"and here\0");
}

#[test]
fn an_address_that_is_taken_is_named_and_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it is bound");
    let output = command(&["--listen", ECHO, "--listen", &format!("echo=tcp://{address}")]).output();
    let output = output.expect("the program starts");
    let message = String::from_utf8(output.stderr).expect("only text is printed");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    let last = message.lines().last().expect("it says why");
    assert!(last.starts_with("maitred: ") && last.contains(&format!("tcp://{address}")), "{message}");
}

#[test]
fn a_drain_answers_all_that_the_kernel_held() {
    for_each_engine(One, LEFT_OUT, |engine| {
        for signal in [Signal::TERM, Signal::INT] {
            let daemon = Daemon::echo(engine.name, &[]);
            let address = daemon.address();
            // One client at a time or all at once: they are answered in the order in which they came.
            let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(address)).collect();
            for (number, client) in clients.iter_mut().enumerate() {
                client.send(&text(20_000, number));
            }
            daemon.process.signal(signal);
            for (number, client) in clients.iter_mut().enumerate() {
                client.expect(&text(20_000, number));
                client.expect_end();
            }
            let summary = daemon.finish();
            assert_eq!((summary.accepted(), summary.closed("drained")), (40, 40), "{summary:?}");
            assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
        }
    });
}

#[test]
fn sessions_that_do_not_end_are_ended_by_the_drain_timeout() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &["--drain-timeout", "300ms"]);
        let summary = with_a_client_that_never_reads(daemon, Daemon::drain);
        assert_eq!(summary.closed("drained"), 1, "{summary:?}");
    });
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &["--drain-timeout", "1h"]);
        let summary = with_a_client_that_never_reads(daemon, |mut daemon| {
            daemon.process.signal(Signal::TERM);
            daemon.process.wait_for_message("draining");
            assert!(daemon.process.is_running());
            daemon.process.signal(Signal::HUP);
            daemon.process.wait_for_message("SIGHUP: the daemon drains, and nothing changes any more");
            daemon.process.signal(Signal::INT);
            daemon.finish()
        });
        assert_eq!(summary.closed("killed"), 1, "{summary:?}");
    });
}

/// Does `act` while a client writes without end, reads nothing, and has come to a standstill.
fn with_a_client_that_never_reads(daemon: Daemon, act: impl FnOnce(Daemon) -> Summary) -> Summary {
    let client = Client::connect_small(daemon.address());
    let written = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = text(16 << 10, 0);
            let mut stream = &client.0;
            while let Ok(count) = stream.write(&chunk) {
                written.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        let (mut seen, mut since) = (0, Instant::now());
        wait_until("it has come to a standstill", || {
            let now = written.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            now > 0 && since.elapsed() > Duration::from_secs(1)
        });
        act(daemon)
    })
}

#[test]
fn a_reload_changes_the_timeouts_and_a_broken_file_changes_nothing() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("maitred.toml");
        let write = |text: &str| {
            let listen = "[[listen]]\nservice = \"echo\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\n";
            fs::write(&path, format!("{text}\n{listen}")).expect("a file");
        };
        let path_text = path.to_str().expect("the path is text");
        write("idle_timeout = \"1h\"");
        let daemon = Daemon::start(engine.name, &["--config", path_text]);
        let process = &daemon.process;
        let mut client = Client::connect(process.address());
        client.echo(b"before");

        write("idle_timeout = \"soon\"");
        process.signal(Signal::HUP);
        process.wait_for_message(&format!("the old configuration stays in force: {path_text}:1: idle_timeout: soon"));
        client.echo(b"as before");

        write("workers = 3\nidle_timeout = \"200ms\"");
        process.signal(Signal::HUP);
        process.wait_for_message(&match engine.resizes {
            Ok(()) => "workers = 3 is in force".to_owned(),
            Err(reason) => format!("these changes wait for a restart: workers ({reason})"),
        });
        process.wait_for_message(&format!("{path_text} is in force"));
        client.expect_end();
        Client::connect(process.address()).wait_for_end();
        assert_eq!(daemon.drain().closed("idle_timeout"), 2);
    });
}

#[test]
fn a_reload_without_a_file_changes_nothing() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &[]);
        let mut client = Client::connect(daemon.address());
        client.echo(b"before");
        daemon.process.signal(Signal::HUP);
        daemon.process.wait_for_message("there is no configuration file to read again");
        client.echo(b"on");
        daemon.drain();
    });
}

#[test]
fn the_summary_is_printed_on_request_and_at_exit() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let daemon = Daemon::echo(engine.name, &[]);
        let mut client = Client::connect(daemon.address());
        client.echo(&text(1_234, 0));
        let [accepted, open, _] = daemon.summary_now();
        assert_eq!((accepted, open), (1, 1));
        client.echo(b"undisturbed");
        daemon.process.signal(Signal::TERM);
        daemon.process.wait_for_message("sessions   accepted 1  open 0  drained 1\n");
        let summary = daemon.finish();
        assert_eq!(summary.0["engine"], engine.name);
        assert_eq!((summary.turns("read_bytes"), summary.turns("written_bytes")), (1_245, 1_245), "{summary:?}");
    });
}

#[test]
fn stage_times_are_in_the_summary_where_they_are_asked_for() {
    for_each_engine(One, LEFT_OUT, |engine| {
        for is_asked in [true, false] {
            let daemon = Daemon::echo(engine.name, &["--stages", if is_asked { "on" } else { "off" }]);
            let mut client = Client::connect(daemon.address());
            for round in 0..50 {
                client.echo(&text(100, round));
            }
            let summary = daemon.drain();
            let is_expected = is_asked && engine.options.contains(&"stages");
            for stage in ["queue_stage", "service_stage"] {
                let shown = &summary.0[stage];
                // Not every engine can tell when a session became ready from when it was taken.
                let may_lack = stage == "queue_stage" && shown.is_null();
                assert_eq!(shown.is_object(), is_expected && !may_lack, "{summary:?}");
                let number = |name: &str| shown[name].as_u64().expect("a number");
                assert!(shown.is_null() || number("count") >= 50 && number("p50_ns") <= number("max_ns"), "{shown}");
            }
        }
    });
}

#[test]
fn a_warning_names_the_settings_that_the_engine_has_no_use_for() {
    let all: &[&str] = &["--queue", "7", "--low-water", "3", "--wake", "each", "--batch", "9", "--spin", "1us"];
    let more: &[&str] = &["--budget", "1KiB", "--ring", "2KiB", "--rearm", "oneshot", "--assist", "off", "--pin"];
    for_each_engine(One, LEFT_OUT, |engine| {
        let flags = [all, more, &["--max-connections", "10", "--idle-timeout", "1h"]].concat();
        let names = flags.iter().filter_map(|flag| flag.strip_prefix("--")).map(|name| name.replace('-', "_"));
        let is_limit = |name: &String| ["max_connections", "idle_timeout"].contains(&name.as_str());
        let without_use: Vec<String> =
            names.filter(|name| !is_limit(name) && !engine.options.contains(&name.as_str())).collect();
        let daemon = Daemon::start(engine.name, &[&["--listen", ECHO][..], &flags].concat());
        Client::connect(daemon.address()).echo(b"none the less");
        let begin = format!("engine {} has no use for ", engine.name);
        if !without_use.is_empty() {
            daemon.process.wait_for_message(&format!("{begin}{}\n", without_use.join(", ")));
        }
        daemon.process.signal(Signal::TERM);
        daemon.process.wait_for_message("sessions   accepted 1");
        let said = daemon.process.messages();
        assert_eq!(said.contains(&begin), !without_use.is_empty(), "{said}");
        daemon.finish();
    });
}

#[test]
fn a_summary_that_cannot_be_written_is_known_at_the_start() {
    let output = command(&["--listen", ECHO, "--summary", "/nowhere/summary.json"]).output();
    let output = output.expect("the program starts");
    let message = String::from_utf8(output.stderr).expect("only text is printed");
    assert_eq!(output.status.code(), Some(1));
    assert!(message.starts_with("maitred: cannot write to /nowhere/summary.json: "), "{message}");
}

#[test]
fn a_stopped_reader_of_stderr_never_holds_up_the_daemon() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        fill(&mut writer);
        let address = unused_address();
        let listen = format!("echo=tcp://{address}");
        let mut command = command(&["--engine", engine.name, "--listen", &listen, "--max-connections", "2"]);
        let mut process = Process::spawn(command.stdout(Stdio::null()).stderr(writer));
        let mut client = connect_when_ready(address);
        for round in 0..40 {
            process.signal(if round % 2 == 0 { Signal::USR1 } else { Signal::HUP });
            let mut other = Client::connect(address);
            client.echo(&text(1_000, round));
            let mut third = Client::connect(address);
            other.is_served(b"in");
            third.is_served(b"turned away, with a log line now and then");
        }
        process.signal(Signal::TERM);
        assert_eq!(process.wait().code(), Some(0));
        drop(reader);
    });
}

#[test]
fn a_closed_stdout_is_no_reason_not_to_serve() {
    // No descriptor at all, a reader that has gone, and one that leaves when it has read the ready lines.
    for how in ["closed", "gone", "leaves"] {
        let address = unused_address();
        let flags = ["--listen", &format!("echo=tcp://{address}")];
        let mut process = match how {
            "closed" => {
                let mut shell = std::process::Command::new("/bin/sh");
                shell.args(["-c", "exec \"$0\" serve \"$@\" >&-", env!("CARGO_BIN_EXE_maitred")]).args(flags);
                Process::spawn(shell.stderr(Stdio::piped()))
            }
            "gone" => {
                let (_, writer) = std::io::pipe().expect("a pipe");
                Process::spawn(command(&flags).stdout(writer).stderr(Stdio::piped()))
            }
            _ => Process::serve(&flags),
        };
        let mut client = connect_when_ready(address);
        client.echo(how.as_bytes());
        process.signal(Signal::USR1);
        process.wait_for_message("sessions   accepted 1  open 1");
        client.echo(b"undisturbed");
        process.signal(Signal::TERM);
        assert_eq!(process.wait().code(), Some(0), "{}", process.messages());
    }
}

/// An address that nobody else uses, for when the ready line cannot be read: loopback has a network of them.
fn unused_address() -> SocketAddr {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let host = NEXT.fetch_add(1, Ordering::Relaxed) as u8;
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, high, low, host], 7007))
}

fn connect_when_ready(address: SocketAddr) -> Client {
    let mut stream = None;
    wait_until("the daemon listens", || {
        stream = TcpStream::connect(address).ok();
        stream.is_some()
    });
    Client::from_stream(stream.expect("it is connected"))
}

/// Writes until the pipe takes no more, then lets it block again.
fn fill(writer: &mut PipeWriter) {
    rustix::fs::fcntl_setfl(&*writer, OFlags::NONBLOCK).expect("a pipe can be nonblocking");
    while writer.write(&[b'x'; 4_096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::fs::fcntl_setfl(&*writer, OFlags::empty()).expect("a pipe can block");
}

#[test]
fn a_reload_from_a_pipe_leaves_the_daemon_its_ears() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("maitred.toml");
    std::fs::write(&path, "idle_timeout = \"60s\"\n").expect("a file");
    let mut process = Process::serve(&["--config", path.to_str().expect("text"), "--listen", "echo=tcp://127.0.0.1:0"]);
    std::fs::remove_file(&path).expect("it is there");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).expect("a pipe");
    process.signal(Signal::HUP);
    process.wait_for_message("is no regular file");
    process.signal(Signal::TERM);
    assert!(process.wait().success());
}

#[test]
fn too_few_descriptors_are_named_and_exit_with_1() {
    let mut command = Command::new("sh");
    let line = format!("ulimit -n 30; exec {} serve --listen echo=tcp://127.0.0.1:0", env!("CARGO_BIN_EXE_maitred"));
    let output = command.args(["-c", &line]).output().expect("there is a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot serve anybody: the process may open 30 descriptors"), "{said}");
}

#[test]
fn too_few_threads_are_no_surprise_after_the_ready_lines() {
    // The limit counts all that a user runs, and does not bind root.
    let user = |place: usize| 10_000 + (std::process::id() * 16 + place as u32) % 50_000;
    if let Err(reason) = Command::new("true").uid(user(0)).status() {
        println!("skipped: a user who runs nothing else is needed: {reason}");
        return;
    }
    for_each_engine(One, LEFT_OUT, |engine| {
        let place = ENGINES.iter().position(|one| one.name == engine.name).expect("it is one of them");
        let outcomes = [1, 2, 3, 4, 5, 6, 7, 8].map(|most| {
            let flags = ["--listen", ECHO, "--workers", "2", "--engine", engine.name];
            let mut process = Process::spawn_until_ready_or_over(&mut limited(user(place), most, &flags));
            let is_ready = process.is_ready();
            if is_ready {
                process.signal(Signal::TERM);
                assert_eq!(process.wait().code(), Some(0), "{most} threads: {}", process.messages());
            } else {
                assert_eq!(process.wait().code(), Some(1), "{most} threads: {}", process.messages());
                process.wait_for_message("maitred: cannot start the thread");
            }
            is_ready
        });
        let is_first_ready = engine.forks;
        assert_eq!((outcomes[0], outcomes[7]), (is_first_ready, true), "{outcomes:?}");
    });
}

#[test]
fn threads_that_cannot_be_had_leave_the_workers_as_they_were() {
    let user = |place: usize| 60_000 + (std::process::id() * 16 + place as u32) % 5_000;
    if let Err(reason) = Command::new("true").uid(user(0)).status() {
        println!("skipped: a user who runs nothing else is needed: {reason}");
        return;
    }
    for_each_engine(Many, LEFT_OUT, |engine| {
        if engine.resizes.is_err() {
            return;
        }
        let place = ENGINES.iter().position(|one| one.name == engine.name).expect("it is one of them");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("maitred.toml");
        // The other user is to read it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let write = |workers: usize| fs::write(&path, format!("workers = {workers}\n")).expect("a file");
        write(2);
        let flags = ["--config", path.to_str().expect("text"), "--listen", ECHO, "--engine", engine.name];
        let mut process = Process::spawn_until_ready(&mut limited(user(place), 9, &flags));
        let mut client = Client::connect(process.address());
        client.echo(b"before");
        write(40);
        process.signal(Signal::HUP);
        process.wait_for_message("workers = 2 stays in force: cannot start the thread ");
        client.echo(b"as before");
        // Those that were had for it have gone again.
        write(3);
        process.signal(Signal::HUP);
        process.wait_for_message("workers = 3 is in force (before: 2)");
        client.echo(b"and on");
        process.signal(Signal::TERM);
        assert_eq!(process.wait().code(), Some(0), "{}", process.messages());
    });
}

/// The program as this user, who may have so many threads. Opened here: the user may have no way to where it lies.
fn limited(user: u32, most: usize, flags: &[&str]) -> Command {
    let program = fs::File::open(env!("CARGO_BIN_EXE_maitred")).expect("it was built");
    let mut shell = Command::new("sh");
    // One shell has one letter for it, another the other.
    let line = format!("ulimit -u {most} 2>/dev/null || ulimit -p {most}; exec /proc/self/fd/0 \"$@\"");
    shell.args(["-c", &line, "sh", "serve"]).args(flags);
    shell.stdin(program).uid(user);
    shell
}
