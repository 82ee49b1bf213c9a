//! The program as a script sees it: arguments in; stdout, stderr and the exit code out. The daemon itself is not run.

use std::collections::BTreeSet;
use std::fs;
use std::io::{PipeWriter, Write};
use std::process::{Command, Output, Stdio};

use rustix::fs::OFlags;

use maitred::config::EngineInfo;
use maitred::engine::ENGINES;
use maitred::service::SERVICES;

fn maitred(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maitred"));
    command.args(arguments).stdin(Stdio::null()).env_remove("MAITRED_LOG").env_remove("RUST_LOG");
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = maitred(arguments).output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("only text is printed");
    (status.code().expect("no signal ended it"), text(stdout), text(stderr))
}

#[test]
fn check_prints_a_configuration_that_it_takes_again_unchanged() {
    let (code, printed, messages) =
        run(&["check", "--queue", "77", "--listen", "echo=tcp://127.0.0.1:0?terminator=nul"]);
    assert_eq!((code, messages.as_str()), (0, ""));
    assert!(printed.contains("\nqueue = 77\n") && printed.contains("\nterminator = \"nul\"\n"), "{printed}");

    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("maitred.toml");
    fs::write(&path, &printed).expect("a file in it");
    let again = run(&["check", "--config", path.to_str().expect("the path is text")]);
    assert_eq!(again, (0, printed, String::new()));
}

#[test]
fn a_wrong_file_exits_with_78_and_names_file_line_and_key() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(b"queue = 1\nworkrs = 2\n").expect("it takes text");
    let path = file.path().to_str().expect("the path is text");
    let expected = format!("maitred: {path}:2: workrs: unknown key; expected workers\n");
    assert_eq!(run(&["check", "--config", path]), (78, String::new(), expected.clone()));
    assert_eq!(run(&["serve", "--config", path]), (78, String::new(), expected));
}

#[test]
fn wrong_usage_exits_with_2_and_says_so_in_one_line() {
    let services: Vec<&str> = maitred::service::SERVICES.iter().map(|entry| entry.name).collect();
    let no_service = format!("maitred: --listen: smtp is not a service; expected one of {}\n", services.join(", "));
    let table: [(&[&str], &str); 7] = [
        (
            &["check", "--workers", "0"],
            "maitred: --workers: 0 is too small; expected auto or a number from 1 to 1024\n",
        ),
        (
            &["serve", "--workers", "0"],
            "maitred: --workers: 0 is too small; expected auto or a number from 1 to 1024\n",
        ),
        (&["serve", "--listen", "smtp=tcp://127.0.0.1:25"], &no_service),
        (
            &["check", "--rearm", "level"],
            "maitred: invalid value 'level' for '--rearm <edge|oneshot>' [possible values: edge, oneshot]; For more \
             information, try '--help'.\n",
        ),
        (
            &["check", "--idle-timeut", "1s"],
            "maitred: unexpected argument '--idle-timeut' found; tip: a similar argument exists: '--idle-timeout'; For \
             more information, try '--help'.\n",
        ),
        (
            &["srve"],
            "maitred: unrecognized subcommand 'srve'; tip: a similar subcommand exists: 'serve'; For more information, \
             try '--help'.\n",
        ),
        (
            &["check", "--queue", "1", "--queue", "2"],
            "maitred: the argument '--queue <N>' cannot be used multiple times; For more information, try '--help'.\n",
        ),
    ];
    for (arguments, expected) in table {
        assert_eq!(run(arguments), (2, String::new(), expected.to_owned()), "{arguments:?}");
    }
    let (code, stdout, stderr) = run(&[]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("Usage: maitred <COMMAND>"), "{stderr}");
}

#[test]
fn help_names_every_setting_with_its_default_and_every_service() {
    let (code, help, messages) = run(&["serve", "--help"]);
    assert_eq!((code, messages.as_str()), (0, ""));
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in ["Scheduling:", "Limits:", "Output:", "[default: 64KiB]", "[default: 60s]", "[default: auto]"] {
        assert!(words.contains(text), "{text} is missing in\n{help}");
    }
    for entry in maitred::service::SERVICES {
        assert!(words.contains(&format!("{} {}", entry.name, entry.about)), "{} is missing in\n{help}", entry.name);
    }
}

/// The words between backticks.
fn in_backticks(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn help_check_and_the_pages_name_exactly_the_engines_that_there_are() {
    let registered: Vec<&str> = ENGINES.iter().map(|engine| engine.name).collect();

    let (_, help, _) = run(&["serve", "--help"]);
    let (_, rest) = help.split_once("\nEngines:\n").expect("the help lists engines");
    let (listed, _) = rest.split_once("\n\n").expect("and then something else");
    let expected = |engine: &EngineInfo| format!("{} {}", engine.name, engine.about);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected: Vec<String> = ENGINES.iter().map(expected).collect();
    assert_eq!(words(listed), expected.join(" "), "maitred serve --help");

    let listener = ["--listen", "echo=tcp://127.0.0.1:0"];
    let (code, _, message) = run(&[&["check", "--engine", "nobody"], &listener[..]].concat());
    let expected = format!("maitred: --engine: nobody is not an engine; expected {}\n", registered.join(" or "));
    assert_eq!((code, message), (2, expected));
    for engine in &registered {
        let (code, printed, _) = run(&[&["check", "--engine", engine], &listener[..]].concat());
        assert_eq!((code, printed.lines().next()), (0, Some(format!("engine = \"{engine}\"").as_str())));
    }

    let readme = include_str!("../README.md");
    let row = readme.lines().find(|line| line.starts_with("| `--engine` |")).expect("a row of the table");
    assert_eq!(in_backticks(row.split('|').nth(2).expect("what it takes")), registered, "README.md, --engine");

    // What is on one line is marked as a whole: those of today, then those to come.
    let contract = include_str!("../design/contract.md");
    let lines: Vec<&str> = contract.lines().skip_while(|line| !line.starts_with("--engine NAME")).collect();
    let lines = lines.split(|line| line.starts_with("--workers")).next().expect("it has an end");
    let text = lines.join(" ").replace("--engine NAME", "").replace("(default)", "").replace('|', " ");
    let (today, to_come) = text.split_once("[today]").expect("a mark");
    assert_eq!(today.split_whitespace().collect::<Vec<_>>(), registered, "design/contract.md, --engine [today]");
    let to_come: Vec<&str> = to_come.split_whitespace().filter(|word| !["[to", "come]"].contains(word)).collect();

    let lines = contract.lines().skip_while(|line| !line.starts_with("### Which engine carries which"));
    let cells = lines.skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let names = |line: &'static str| line.split('|').nth(1).expect("a cell").split(',').map(str::trim);
    let in_table: BTreeSet<&str> = cells.flat_map(names).collect();
    assert_eq!(in_table, registered.into_iter().chain(to_come).collect(), "design/contract.md, the table of engines");
}

#[test]
fn the_pages_name_exactly_the_services_that_there_are() {
    let registered: BTreeSet<&str> = SERVICES.iter().map(|entry| entry.name).collect();
    let contract = include_str!("../design/contract.md");
    let rows = contract.lines().skip_while(|line| !line.starts_with("| service | scheme |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let in_table: BTreeSet<&str> =
        rows.flat_map(|line| in_backticks(line.split('|').nth(1).expect("a cell"))).collect();
    assert_eq!(in_table, registered, "design/contract.md, the table of services");
    for entry in SERVICES {
        assert!(include_str!("../README.md").contains(&format!("`{}`", entry.name)), "{} in README.md", entry.name);
        for (key, _) in entry.parameters {
            assert!(contract.contains(&format!("{key}=")), "design/contract.md knows no {key}= of {}", entry.name);
        }
    }
}

#[test]
fn completions_and_the_manual_page_name_the_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, messages) = run(&["completions", shell]);
        assert_eq!((code, messages.as_str()), (0, ""), "{shell}");
        assert!(script.contains("low-water") && script.contains("oneshot"), "{shell}");
    }
    let (code, page, messages) = run(&["man"]);
    assert_eq!((code, messages.as_str()), (0, ""));
    for text in [".TH maitred 1", ".SH \"MAITRED SERVE\"", ".SS LIMITS", "drain\\-timeout", ".SH NOTES", "SIGHUP"] {
        assert!(page.contains(text), "{text} is missing in\n{page}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure_and_no_panic() {
    for arguments in [&["man"][..], &["check"], &["serve", "--help"], &["--version"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = maitred(arguments).stdout(writer).output().expect("the program starts");
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_a_failure_that_names_the_output() {
    for arguments in [&["man"][..], &["serve", "--help"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        let output = maitred(arguments).stdout(full).output().expect("the program starts");
        let message = String::from_utf8(output.stderr).expect("only text is printed");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(message.starts_with("maitred: cannot write to standard output: No space left"), "{message}");
    }
}

#[test]
fn a_reader_of_stderr_that_has_stopped_does_not_hold_up_the_exit() {
    let (_reader, mut writer) = std::io::pipe().expect("a pipe");
    // Filled to the last byte, so that the message itself cannot be written.
    fill(&mut writer);
    let status = maitred(&["check", "--workers", "0"]).stdout(Stdio::null()).stderr(writer).status();
    assert_eq!(status.expect("the program starts").code(), Some(2));
}

/// Writes until the pipe takes no more, then lets it block again.
fn fill(writer: &mut PipeWriter) {
    rustix::fs::fcntl_setfl(&*writer, OFlags::NONBLOCK).expect("a pipe can be nonblocking");
    while writer.write(&[b'x'; 4_096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::fs::fcntl_setfl(&*writer, OFlags::empty()).expect("a pipe can block");
}
