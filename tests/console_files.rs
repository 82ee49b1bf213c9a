//! Where a console may be: sockets and their modes in the file system, loopback with a token, and what is refused before
//! anything is bound.

#[path = "support/client.rs"]
mod client;
#[path = "support/console.rs"]
mod console;
#[path = "support/process.rs"]
mod process;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;

use maitred::daemon::Daemon;

use console::Operator;
use process::{Process, command};

const ECHO: [&str; 2] = ["--listen", "echo=tcp://127.0.0.1:0"];

#[track_caller]
fn serve(url: &str) -> Process {
    Process::serve(&[&ECHO[..], &["--listen", url]].concat())
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn the_socket_is_the_users_own_unless_somebody_says_otherwise() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (name, query, mode) in [("own", "", 0o600), ("group", "?mode=0660", 0o660), ("all", "?mode=0666", 0o666)] {
        let path = folder.path().join(name);
        let url = format!("unix://{}", path.display());
        let mut process = serve(&format!("console={url}{query}"));
        assert_eq!(process.ready_lines[1], format!("listening console {url}"));
        assert_eq!(mode_of(&path), mode, "{query}");
        Operator::at(&path).expect_ok("help");
        process.signal(Signal::TERM);
        assert_eq!(process.wait().code(), Some(0));
        assert!(!path.exists(), "it goes with the daemon");
    }
}

#[test]
fn a_socket_that_a_killed_daemon_has_left_is_replaced() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("console");
    let url = format!("console=unix://{}", path.display());
    let mut killed = serve(&url);
    killed.signal(Signal::KILL);
    killed.wait();
    assert!(fs::symlink_metadata(&path).expect("it is left").file_type().is_socket());
    let mut next = serve(&url);
    Operator::at(&path).expect_ok("help");
    next.signal(Signal::TERM);
    next.wait();
}

fn refused(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().expect("the program starts");
    let text = String::from_utf8(stderr).expect("only text is printed");
    (status.code(), text.lines().last().expect("it says why").to_owned())
}

#[test]
fn a_path_that_somebody_has_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (live, file) = (folder.path().join("live"), folder.path().join("file"));
    let _listener = UnixListener::bind(&live).expect("nobody is there");
    fs::write(&file, "kept").expect("it can be written");
    for (path, reason) in [
        (live.as_path(), "somebody listens there already"),
        (file.as_path(), "there is a file that is no socket; it stays"),
        (Path::new("/proc/no such folder/console"), "No such file or directory (os error 2)"),
    ] {
        let url = format!("unix://{}", path.display());
        let asked = command(&[&ECHO[..], &["--listen", &format!("console={url}")]].concat());
        assert_eq!(refused(asked), (Some(1), format!("maitred: cannot bind {url} for console: {reason}")));
    }
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "kept");
    Operator::at(&live);
}

fn check(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maitred"));
    command.arg("check").args(flags).env_remove("MAITRED_LOG");
    command
}

#[test]
fn a_console_that_would_let_strangers_in_is_refused_before_anything_is_bound() {
    let long = "x".repeat(108);
    for (listener, expected) in [
        ("console=tcp://127.0.0.1:0", "console on tcp asks for a token; expected token=TEXT, or unix://PATH".to_owned()),
        (
            "console=tcp://192.0.2.1:7000?token=sesame",
            "console may not be reached from other machines: 192.0.2.1:7000; expected an address on loopback, or \
             unix://PATH"
                .to_owned(),
        ),
        (
            "console=tcp://0.0.0.0:0?token=sesame",
            "console may not be reached from other machines: 0.0.0.0:0; expected an address on loopback, or unix://PATH"
                .to_owned(),
        ),
        (
            "console=tcp://127.0.0.1:0?token=",
            "the value given does not fit token; expected a text that nobody guesses, in one line".to_owned(),
        ),
        (
            "console=tcp://127.0.0.1:0?token=sesame&mode=0600",
            "mode is for a socket in the file system; expected unix://PATH, or no mode".to_owned(),
        ),
        (
            "console=unix:///run/c?mode=660",
            "660 does not fit mode; expected who may connect, as in 0600 (its owner) or 0660 (its group too)".to_owned(),
        ),
        (
            "console=unix://?mode=0600",
            "an empty value is not a path; expected the path of a socket, as in /run/maitred.sock".to_owned(),
        ),
        (
            &format!("console=unix://{long}"),
            format!(
                "{long} is too long; expected the path of a socket, as in /run/maitred.sock of at most 107 bytes"
            ),
        ),
        (
            "console=tcp://127.0.0.1:0?token=sesame&tokens",
            "console=tcp://127.0.0.1:0? is not a listener; expected SERVICE=SCHEME://ADDRESS[?key=value&…], as in \
             echo=tcp://127.0.0.1:7007"
                .to_owned(),
        ),
        ("echo=unix:///run/c", "echo cannot be reached by unix; expected one of tcp, udp".to_owned()),
    ] {
        let expected = (Some(2), format!("maitred: --listen: {expected}"));
        assert_eq!(refused(check(&["--listen", listener])), expected, "{listener}");
    }
}

#[test]
fn a_token_is_shown_to_nobody() {
    let printed = |flags: &[&str]| {
        let output = check(flags).output().expect("the program starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("only text is printed")
    };
    let text = printed(&["--listen", "console=tcp://127.0.0.1:7099?token=sesame"]);
    assert!(text.contains("token = \"(hidden)\"") && !text.contains("sesame"), "{text}");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("maitred.toml");
    fs::write(&file, text).expect("it can be written");
    // What was printed is no configuration that anybody could get in by.
    let (code, message) = refused(check(&["--config", file.to_str().expect("it is text")]));
    assert_eq!(code, Some(78));
    assert!(message.ends_with("the value given does not fit token; expected a text that nobody guesses, in one line"));
    let text = printed(&["--listen", "console=unix:///run/m\"d?mode=0660"]);
    assert!(text.contains("address = '/run/m\"d'\nmode = \"0660\""), "{text}");
    fs::write(&file, &text).expect("it can be written");
    assert_eq!(printed(&["--config", file.to_str().expect("it is text")]), text);
}

#[test]
fn two_consoles_may_not_have_one_path() {
    let twice = ["--listen", "console=unix:///run/c", "--listen", "console=unix:///run/c"];
    let expected =
        "maitred: --listen: unix:///run/c is taken by console already; expected one listener for each address";
    assert_eq!(refused(check(&twice)), (Some(2), expected.to_owned()));
}

#[test]
fn a_program_of_ones_own_has_no_console() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("console");
    let url = format!("unix://{}", path.display());
    let config = client::config(&[&ECHO[..], &["--listen", &format!("console={url}")]].concat());
    let refused = Daemon::start(&config).err().expect("nobody would answer there").to_string();
    assert_eq!(refused, format!("cannot serve console {url}: only `maitred serve` does"));
    assert!(!path.exists());
}
