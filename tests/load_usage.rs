//! What the flags of `maitred load` amount to, and what is said of wrong ones: tables of texts and answers.

use std::io;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use clap::{CommandFactory, Parser};

use maitred::cli::{self, Args};
use maitred::config::Scheme;
use maitred::error::Error;
use maitred::load::demand::Demand;
use maitred::load::plan::{Arrivals, Framing, Objective, Plan, Service, WorkKind};
use maitred::load::target::ServiceKind;

const ECHO: &str = "tcp://127.0.0.1:7007";

/// `maitred load` with these arguments, which are separated by blanks, as a script sees it.
fn run(arguments: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maitred"));
    command.arg("load").args(arguments.split(' ')).stdin(Stdio::null()).env_remove("MAITRED_LOG");
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("only text is printed");
    (status.code().expect("no signal ended it"), text(stdout), text(stderr))
}

fn resolve(arguments: &str) -> Result<Plan, Error> {
    let line = ["maitred", "load"].into_iter().chain(arguments.split(' '));
    match Args::try_parse_from(line).expect("clap takes the line").command {
        cli::Command::Load(args) => Plan::resolve(&args),
        other => panic!("load was asked for, not {other:?}"),
    }
}

fn plan(arguments: &str) -> Plan {
    resolve(arguments).unwrap_or_else(|error| panic!("{arguments}: {error}"))
}

#[test]
fn wrong_usage_exits_with_2_and_says_so_in_one_line() {
    let durations = |range: &str| format!("expected a duration such as 250us, 10ms or 5s, {range}");
    let sizes = |range: &str| format!("expected a size such as 64, 16KiB or 1MiB, {range}");
    let objective = "expected pN=DURATION with N between 0 and 100 and a duration from 1ns to 30s, as in p99=500us";
    let demand = "expected fixed:10us, exp:10us, bimodal:90%:5us,10%:55us or lognormal:10us:1.5 (mean, sigma)";
    let table = [
        // Targets.
        (
            "127.0.0.1:7007",
            "TARGET: 127.0.0.1:7007 is not a target; expected [SERVICE=]SCHEME://HOST:PORT, as in \
             echo=tcp://127.0.0.1:7007",
        ),
        (
            "smtp=tcp://127.0.0.1:25",
            "TARGET: smtp is not a service that load knows; expected one of echo, discard, chat, work, files",
        ),
        (
            "files=tcp://a:1",
            "--path: is missing; expected the path of a file below the root of the server, as in --path folder/file",
        ),
        (
            "files=tcp://a:1 --path=",
            "--path: is empty; expected the path of a file below the root of the server, as in --path folder/file",
        ),
        ("tcp://a:1 --path a", "--path: has no meaning for echo; expected it only with files=SCHEME://HOST:PORT"),
        (
            "tcp://a:1 --command get",
            "--command: has no meaning for echo; expected it only with files=SCHEME://HOST:PORT",
        ),
        (
            "files=tcp://a:1 --path a --size 5",
            "--size: has no meaning for files, which are as long as they are; expected none",
        ),
        (
            "chat=udp://127.0.0.1:7010",
            "TARGET: chat has members, and datagrams have no connections; expected chat=tcp://127.0.0.1:7010",
        ),
        // Connections, threads, depth.
        ("tcp://a:1 --connections 0", "--connections: 0 is too small; expected a number from 1 to 1000000"),
        ("tcp://a:1 --connections 1000001", "--connections: 1000001 is too large; expected a number from 1 to 1000000"),
        ("tcp://a:1 --connections 1k", "--connections: 1k is not a number; expected a number from 1 to 1000000"),
        (
            "tcp://a:1 --connections=",
            "--connections: an empty value is not a number; expected a number from 1 to 1000000",
        ),
        (
            "chat=tcp://a:1 --connections 1",
            "--connections: 1 is too small for chat, whose messages go to the other connections; expected a number from \
             2 to 1000000",
        ),
        (
            "chat=tcp://a:1",
            "--connections: 1 is too small for chat, whose messages go to the other connections; expected a number from \
             2 to 1000000",
        ),
        ("tcp://a:1 --depth 0", "--depth: 0 is too small; expected a number from 1 to 65536"),
        ("tcp://a:1 --depth 65537", "--depth: 65537 is too large; expected a number from 1 to 65536"),
        (
            "tcp://a:1 --depth 99999999999999999999",
            "--depth: 99999999999999999999 is too large; expected a number from 1 to 65536",
        ),
        ("tcp://a:1 --threads 0", "--threads: 0 is too small; expected a number from 1 to 256"),
        ("tcp://a:1 --threads 257 --connections 1000", "--threads: 257 is too large; expected a number from 1 to 256"),
        (
            "tcp://a:1 --threads 3 --connections 2",
            "--threads: 3 is more than there are connections; expected at most 2, or more --connections",
        ),
        (
            "chat=tcp://a:1 --threads 2 --connections 4",
            "--threads: 2 is too large: chat is checked by one thread; expected 1",
        ),
        (
            "tcp://a:1 --requests-per-connection 0",
            "--requests-per-connection: 0 is too small; expected a number from 1 to 1000000000000",
        ),
        (
            "udp://a:1 --requests-per-connection 5",
            "--requests-per-connection: has no meaning for datagrams, which have no connections; expected a tcp target",
        ),
        (
            "chat=tcp://a:1 --connections 2 --requests-per-connection 5",
            "--requests-per-connection: has no meaning for chat: who comes and goes changes who must get a message; \
             expected connections that stay",
        ),
        // Phases.
        ("tcp://a:1 --phases 1:1s", "--phases: has no rate to change; expected --rate beside it"),
        (
            "tcp://a:1 --rate 10 --duration 1s --phases 1:1s",
            "--phases: says how long the window is, as --duration does; expected one of them",
        ),
        (
            "tcp://a:1 --rate 10 --phases 1:1s,0:1s",
            "--phases: 0:1s has a rate that is too small; expected FACTOR:DURATION,…, as in 0.5:2s,2:500ms, with a rate from \
             0.001 to 100000000 and up to a day",
        ),
        (
            "tcp://a:1 --rate 10 --phases 2",
            "--phases: 2 is not a phase; expected FACTOR:DURATION,…, as in 0.5:2s,2:500ms, with a rate from 0.001 to \
             100000000 and up to a day",
        ),
        // Sizes.
        ("tcp://a:1 --size 0", &format!("--size: 0 is too small: it would be no request; {}", sizes("from 1 to 1GiB"))),
        ("discard=tcp://a:1 --size 2GiB", &format!("--size: 2GiB is too large; {}", sizes("from 1 to 1GiB"))),
        ("tcp://a:1 --size 64KB", &format!("--size: 64KB has an unknown unit; {}", sizes("from 1 to 1GiB"))),
        (
            "udp://a:1 --size 7",
            &format!(
                "--size: 7 is too small: a datagram carries the 8 bytes that identify it; {}",
                sizes("from 8 to 65507")
            ),
        ),
        (
            "discard=udp://a:1 --size 64KiB",
            &format!("--size: 64KiB is too large for a datagram; {}", sizes("from 8 to 65507")),
        ),
        (
            "work=udp://a:1 --size 65452",
            &format!(
                "--size: 65452 is too large: with what stands before it, the reply is more than a datagram; {}",
                sizes("from 0 to 65451")
            ),
        ),
        ("work=tcp://a:1 --size 1025MiB", &format!("--size: 1025MiB is too large; {}", sizes("from 0 to 1GiB"))),
        (
            "chat=tcp://a:1 --connections 2 --size 11",
            &format!(
                "--size: 11 is too small: a message names its sender and its number; {}",
                sizes("from 12 to 1GiB")
            ),
        ),
        (
            "chat=tcp://a:1 --connections 2 --framing line --size 23",
            &format!("--size: 23 is too small: a line names its sender and its number; {}", sizes("from 24 to 8191")),
        ),
        (
            "chat=tcp://a:1 --connections 2 --framing line --size 8KiB",
            &format!("--size: 8KiB is too large: a line is at most 8KiB with its LF; {}", sizes("from 24 to 8191")),
        ),
        // What belongs to one service.
        (
            "tcp://a:1 --demand exp:10us",
            "--demand: has no meaning for echo; expected it only with work=SCHEME://HOST:PORT",
        ),
        (
            "discard=tcp://a:1 --kind spin",
            "--kind: has no meaning for discard; expected it only with work=SCHEME://HOST:PORT",
        ),
        (
            "work=tcp://a:1 --framing line",
            "--framing: has no meaning for work; expected it only with chat=SCHEME://HOST:PORT",
        ),
        ("work=tcp://a:1 --demand exp:10", &format!("--demand: exp:10: 10 has no unit; {demand}")),
        ("work=tcp://a:1 --demand gauss:10us", &format!("--demand: gauss is not a distribution; {demand}")),
        (
            "work=tcp://a:1 --demand bimodal:90%:5us,9%:55us",
            &format!("--demand: bimodal:90%:5us,9%:55us: its shares are 99% together, not 100%; {demand}"),
        ),
        // Arrivals.
        ("tcp://a:1 --rate 0", "--rate: 0 is too small; expected requests per second, from 0.001 to 100000000"),
        ("tcp://a:1 --rate 1e3", "--rate: 1e3 is not a number; expected requests per second, from 0.001 to 100000000"),
        ("tcp://a:1 --rate inf", "--rate: inf is not a number; expected requests per second, from 0.001 to 100000000"),
        ("tcp://a:1 --rate=-5", "--rate: -5 is not a number; expected requests per second, from 0.001 to 100000000"),
        (
            "tcp://a:1 --rate 100000000.5",
            "--rate: 100000000.5 is too large; expected requests per second, from 0.001 to 100000000",
        ),
        (
            "tcp://a:1 --arrivals uniform",
            "--arrivals: has no meaning in a closed loop; expected --rate beside it, or --search",
        ),
        (
            "tcp://a:1 --seed 18446744073709551616",
            "--seed: 18446744073709551616 is too large; expected a number from 0 to 18446744073709551615",
        ),
        // Objectives.
        ("tcp://a:1 --search", "--search: has no objective to keep; expected --slo beside it, as in --slo p99=500us"),
        ("tcp://a:1 --slo 500us", &format!("--slo: 500us is not an objective; {objective}")),
        ("tcp://a:1 --slo p=500us", &format!("--slo: p is not a percentile; {objective}")),
        ("tcp://a:1 --slo max=500us", &format!("--slo: max is not a percentile; {objective}")),
        ("tcp://a:1 --slo p99_9_9=1s", &format!("--slo: p99_9_9 is not a percentile; {objective}")),
        ("tcp://a:1 --slo p0=500us", &format!("--slo: p0 is not between p0 and p100; {objective}")),
        ("tcp://a:1 --slo p100=500us", &format!("--slo: p100 is not between p0 and p100; {objective}")),
        ("tcp://a:1 --slo p99=500", &format!("--slo: 500 has no unit; {objective}")),
        ("tcp://a:1 --slo p99=0", &format!("--slo: 0 is too small; {objective}")),
        ("tcp://a:1 --slo p99=31s", &format!("--slo: 31s is too large; {objective}")),
        // Times.
        ("tcp://a:1 --duration 999us", &format!("--duration: 999us is too small; {}", durations("from 1ms to 86400s"))),
        ("tcp://a:1 --duration 10", &format!("--duration: 10 has no unit; {}", durations("from 1ms to 86400s"))),
        ("tcp://a:1 --warmup 25h", &format!("--warmup: 25h is too large; {}", durations("from 0s to 86400s"))),
        ("tcp://a:1 --grace never", &format!("--grace: never is not a duration; {}", durations("from 0s to 86400s"))),
        ("tcp://a:1 --interval 9ms", &format!("--interval: 9ms is too small; {}", durations("from 10ms to 86400s"))),
        ("udp://a:1 --lost-after 0", &format!("--lost-after: 0 is too small; {}", durations("from 1ms to 86400s"))),
        (
            "tcp://a:1 --lost-after 1s",
            "--lost-after: has no meaning for tcp, which loses nothing; expected a udp target, or chat",
        ),
        (
            "discard=udp://a:1 --lost-after 1s",
            "--lost-after: has no meaning for discard, which never replies; expected a target that replies",
        ),
        // The rest.
        ("tcp://a:1 --pid 0", "--pid: 0 is too small; expected a number from 1 to 4194304"),
        ("tcp://a:1 --pid self", "--pid: self is not a number; expected a number from 1 to 4194304"),
        // What clap says itself.
        (
            "--rate 5",
            "the following required arguments were not provided: <TARGET>; For more information, try '--help'.",
        ),
        (
            "work=tcp://a:1 --kind idle",
            "invalid value 'idle' for '--kind <spin|sleep|hash>' [possible values: spin, sleep, hash]; For more \
             information, try '--help'.",
        ),
        ("tcp://a:1 tcp://b:1", "unexpected argument 'tcp://b:1' found; For more information, try '--help'."),
    ];
    for (arguments, expected) in table {
        assert_eq!(run(arguments), (2, String::new(), format!("maitred: {expected}\n")), "{arguments}");
    }
}

#[test]
fn a_target_that_cannot_be_found_or_reached_is_a_failure_that_names_it() {
    // A label of more than 63 letters is refused before anybody is asked.
    let host = format!("{}.invalid", "x".repeat(64));
    let (code, stdout, stderr) = run(&format!("tcp://{host}:7007"));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(
        stderr.starts_with(&format!("maitred: cannot resolve {host}: ")) && stderr.lines().count() == 1,
        "{stderr}"
    );

    let reason = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
    let error = Error::Connect { target: "tcp://127.0.0.1:1".to_owned(), reason };
    let expected = "cannot connect to tcp://127.0.0.1:1: Connection refused (os error 111)";
    assert_eq!((error.to_string(), error.exit_code()), (expected.to_owned(), 1));
}

#[test]
fn what_is_left_out_has_its_default() {
    let Plan { target, service, arrivals, depth, connections, requests_per_connection, size_bytes, .. } = plan(ECHO);
    assert_eq!((target.to_string().as_str(), service), ("tcp://127.0.0.1:7007", Service::Echo));
    assert_eq!((arrivals, depth, connections, size_bytes), (Arrivals::Closed, Some(1), 1, 64));
    assert_eq!(requests_per_connection, None);

    let Plan { duration, warmup, grace, lost_after, seed, threads, interval, pid, objective, search, .. } = plan(ECHO);
    let times = [duration, warmup, grace, lost_after].map(|time| time.as_millis());
    assert_eq!((times, seed, threads), ([10_000, 1_000, 2_000, 500], 1, 1));
    assert_eq!((interval, pid, objective, search), (None, None, None, false));

    let fixed = Demand::Fixed(Duration::from_micros(10));
    assert_eq!(plan("work=tcp://a:1").service, Service::Work { demand: fixed, kind: WorkKind::Spin });
    let chat = plan("chat=tcp://a:1 --connections 2");
    assert_eq!((chat.service, chat.connections), (Service::Chat { framing: Framing::Length }, 2));
}

#[test]
fn what_is_given_is_what_the_load_runs_with() {
    let plan = plan(
        "work=udp://[::1]:7020 --connections 9 --depth 7 --size 1KiB --demand exp:3us --kind sleep --rate 0.5 --arrivals \
         uniform --seed 18446744073709551615 --slo p99_9=2ms --search --warmup 0 --duration 1ms --grace 0s --lost-after \
         1s --threads 9 --pid 4194304 --interval 10ms --json --histogram out.hgrm --quiet",
    );
    assert_eq!((plan.service.kind(), plan.target.scheme), (ServiceKind::Work, Scheme::Udp));
    let exponential = Demand::Exponential { mean: Duration::from_micros(3) };
    assert_eq!(plan.service, Service::Work { demand: exponential, kind: WorkKind::Sleep });
    assert_eq!(plan.arrivals, Arrivals::Uniform { rate_per_s: 0.5 });
    assert_eq!((plan.connections, plan.depth, plan.size_bytes, plan.threads), (9, Some(7), 1_024, 9));
    assert_eq!((plan.seed, plan.pid), (u64::MAX, Some(4_194_304)));
    assert_eq!(
        [plan.warmup, plan.duration, plan.grace, plan.lost_after].map(|time| time.as_millis()),
        [0, 1, 0, 1_000]
    );
    assert_eq!((plan.interval, plan.search), (Some(Duration::from_millis(10)), true));
    let objective = Objective { quantile: 0.999, at_most: Duration::from_millis(2), text: "p99_9=2ms".to_owned() };
    assert_eq!(plan.objective, Some(objective));
}

#[test]
fn an_open_loop_has_no_depth_unless_one_is_given_and_a_search_is_one() {
    let table = [
        ("tcp://a:1 --depth 4", Arrivals::Closed, Some(4)),
        ("tcp://a:1 --rate 1500", Arrivals::Poisson { rate_per_s: 1_500.0 }, None),
        ("tcp://a:1 --rate 100000000 --depth 4", Arrivals::Poisson { rate_per_s: 1e8 }, Some(4)),
        ("tcp://a:1 --rate 0.001 --arrivals poisson", Arrivals::Poisson { rate_per_s: 0.001 }, None),
        ("tcp://a:1 --slo p50=1ms", Arrivals::Closed, Some(1)),
        ("tcp://a:1 --slo p50=1ms --search", Arrivals::Poisson { rate_per_s: 1_000.0 }, None),
        ("tcp://a:1 --slo p50=1ms --search --depth 2", Arrivals::Poisson { rate_per_s: 1_000.0 }, Some(2)),
        ("tcp://a:1 --slo p50=1ms --search --arrivals uniform", Arrivals::Uniform { rate_per_s: 1_000.0 }, None),
        ("tcp://a:1 --slo p50=1ms --search --rate 20", Arrivals::Poisson { rate_per_s: 20.0 }, None),
    ];
    for (arguments, arrivals, depth) in table {
        let plan = plan(arguments);
        assert_eq!((plan.arrivals, plan.depth), (arrivals, depth), "{arguments}");
    }
    let uniform = Arrivals::Uniform { rate_per_s: 5.0 }.at_rate(7.0);
    assert_eq!((uniform.name(), uniform.rate_per_s()), ("uniform", Some(7.0)));
    assert_eq!(Arrivals::Closed.at_rate(7.0).rate_per_s(), None);
}

#[test]
fn sizes_reach_to_the_last_byte_that_fits() {
    for (target, least, most) in [
        ("tcp://a:1", 1, 1 << 30),
        ("udp://a:1", 8, 65_507),
        ("discard=udp://a:1", 8, 65_507),
        ("work=tcp://a:1", 0, 1 << 30),
        ("work=udp://a:1", 0, 65_451),
        ("chat=tcp://a:1 --connections 2", 12, 1 << 30),
        ("chat=tcp://a:1 --connections 2 --framing line", 24, 8_191),
    ] {
        for size in [least, most] {
            assert_eq!(plan(&format!("{target} --size {size}")).size_bytes, size, "{target}");
        }
        assert!(resolve(&format!("{target} --size {}", most + 1)).is_err(), "{target}");
    }
}

#[test]
fn percentiles_are_the_very_numbers_that_they_name() {
    let table = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99_9", 0.999), ("p99.99", 0.9999)];
    for (name, quantile) in table {
        let objective = Objective::parse(&format!("{name}=30s")).expect(name);
        assert_eq!((objective.quantile, objective.at_most), (quantile, Duration::from_secs(30)), "{name}");
    }
}

#[test]
fn help_names_every_flag_and_the_manual_page_and_completions_have_them() {
    let (code, help, messages) = run("--help");
    assert_eq!((code, messages.as_str()), (0, ""));
    let maitred = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_maitred")).args(arguments).output().expect("the program starts");
        String::from_utf8(output.stdout).expect("only text is printed")
    };
    let page = maitred(&["man"]);
    let section = page.split(".SH \"MAITRED LOAD\"").nth(1).expect("the page has a section").split(".SH ").next();
    let section = section.expect("a section has text");
    let completions = maitred(&["completions", "fish"]);
    let command = Args::command();
    let load = command.find_subcommand("load").expect("load is a command");
    for argument in load.get_arguments().filter(|argument| argument.get_id() != "help") {
        let Some(flag) = argument.get_long() else {
            assert!(help.contains("<TARGET>") && section.contains("TARGET"));
            continue;
        };
        assert!(help.contains(&format!("--{flag} ")) || help.contains(&format!("--{flag}\n")), "{flag} in\n{help}");
        assert!(section.contains(&format!("\\-\\-{}\\fR", flag.replace('-', "\\-"))), "{flag} in\n{section}");
        assert!(completions.contains(&format!("using_subcommand load\" -l {flag} ")), "{flag} in\n{completions}");
        // What is typed there has a meaning, or is refused.
        if argument.get_action().takes_values() && !["histogram", "path"].contains(&flag) {
            let service = if flag == "framing" { "chat=tcp" } else { "work=udp" };
            let others = if flag == "connections" { "" } else { " --connections 2" };
            let line = format!("{service}://a:1 --{flag}=?{others}");
            let (code, _, stderr) = run(&line);
            assert!(code == 2 && stderr.contains(&format!("--{flag}")) && stderr.contains('?'), "{line}: {stderr}");
        }
    }
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in ["Requests:", "Arrivals:", "Time:", "Output:", "[default: 64]", "[default: 10s]", "Exit codes: 0 done"]
    {
        assert!(words.contains(text), "{text} is missing in\n{help}");
    }
    assert!(section.contains(".SS NOTES") && section.contains("maitred load udp://"), "{section}");
}
