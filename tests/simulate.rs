//! `maitred simulate` as a script and a person see it: what is printed, and what is said of wrong flags.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// `maitred simulate` with these arguments, which are separated by blanks.
fn run(arguments: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maitred"));
    command.arg("simulate").args(arguments.split_whitespace()).stdin(Stdio::null()).env_remove("MAITRED_LOG");
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("only text is printed");
    (status.code().expect("no signal ended it"), text(stdout), text(stderr))
}

fn printed(arguments: &str) -> String {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!((code, stderr.as_str()), (0, ""), "{arguments}");
    stdout
}

fn json(arguments: &str) -> Value {
    let text = printed(&format!("{arguments} --json"));
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    serde_json::from_str(&text).expect("it is JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_report_has_a_point_for_each_load_with_the_formula_beside_it() {
    let report = json("--servers 4 --demand exp:10us --load 0.1..0.95:18 --requests 2000");
    assert_eq!(report["schema"], "maitred.simulation/1");
    let expected = [
        ("servers", Value::from(4)),
        ("queue", "central".into()),
        ("discipline", "fifo".into()),
        ("placement", Value::Null),
        ("connections", 256.into()),
        ("arrivals", "poisson".into()),
        ("demand", "exp:10us".into()),
        ("mean_demand_ns", 10_000.0.into()),
        ("squared_variation", 1.0.into()),
        ("hand_off_ns", 0.into()),
        ("wake_ns", 0.into()),
        ("steal_ns", 0.into()),
        ("poll_every_ns", Value::Null),
        ("low_water", Value::Null),
        ("requests", 2_000.into()),
        ("warmup_requests", 200.into()),
        ("seed", 1.into()),
        ("slo", Value::Null),
    ];
    for (field, value) in expected {
        assert_eq!(report[field], value, "{field}");
    }
    let points = report["points"].as_array().expect("there are points");
    assert_eq!(points.len(), 18);
    assert_eq!((number(&points[0]["load"]), number(&points[17]["load"])), (0.1, 0.95));
    for point in points {
        let load = number(&point["load"]);
        assert!((number(&point["offered_per_s"]) / (load * 400_000.0) - 1.0).abs() < 1e-12, "{point}");
        assert_eq!((&point["reason"], number(&point["busiest_load"])), (&Value::Null, load));
        assert_eq!(point["exact"]["formula"], "M/M/4");
        for times in ["wait_ns", "sojourn_ns"] {
            let found = &point[times];
            let mean = number(&found["mean"]);
            assert!(number(&found["mean_low"]) <= mean && mean <= number(&found["mean_high"]), "{found}");
            assert!(number(&found["p50"]) <= number(&found["p90"]) && number(&found["p90"]) <= number(&found["p99"]));
            assert_eq!(found["p99_9"], Value::Null, "two of 2,000 are beyond it");
            let exact = &point["exact"][times];
            assert!(["mean", "p50", "p90", "p99", "p99_9"].iter().all(|name| exact[name].is_f64()), "{exact}");
        }
    }
    assert!(json("--requests 10000 --load 0.5")["points"][0]["sojourn_ns"]["p99_9"].is_f64(), "ten are beyond it");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for queue in ["central", "partitioned --placement random --connections 40", "stealing --discipline sjf"] {
        let line = |seed: u64| {
            format!("--servers 8 --queue {queue} --load 0.3,0.5 --requests 2000 --slo p90=10x --json --seed {seed}")
        };
        assert_eq!(printed(&line(7)), printed(&line(7)), "{queue}");
        assert_ne!(printed(&line(7)), printed(&line(8)), "{queue}");
    }
}

#[test]
fn the_largest_load_is_an_interval_with_the_formula_in_it() {
    let report = json("--servers 4 --load 0.5 --requests 50000 --slo p90=10x");
    let slo = &report["slo"];
    assert_eq!(
        (&slo["text"], number(&slo["quantile"]), number(&slo["at_most_ns"])),
        (&"p90=10x".into(), 0.9, 100_000.0)
    );
    let [simulated, exact] = ["simulated", "exact"].map(|name| &slo[name]);
    assert_eq!((&simulated["formula"], &exact["formula"]), (&Value::Null, &"M/M/4".into()));
    let load = number(&exact["low_load"]);
    assert_eq!(load, number(&exact["high_load"]));
    assert!(number(&simulated["low_load"]) <= load && load <= number(&simulated["high_load"]), "{slo}");
    assert!((number(&exact["low_per_s"]) / (load * 400_000.0) - 1.0).abs() < 1e-12);
    // The same as a duration, and one that service alone does not keep.
    assert_eq!(json("--servers 4 --load 0.5 --requests 50000 --slo p90=100us")["slo"]["simulated"], *simulated);
    let none = json("--servers 4 --load 0.5 --requests 2000 --slo p90=1x");
    assert_eq!(
        (&none["slo"]["exact"]["low_load"], &none["slo"]["simulated"]["low_load"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn a_server_with_too_many_connections_is_named_and_has_no_figures() {
    // Five connections on four servers: server 0 has two of them.
    let arguments = "--servers 4 --queue partitioned --connections 5 --requests 2000 --load 0.5,0.7";
    let report = json(arguments);
    let [well, over] = [&report["points"][0], &report["points"][1]];
    assert_eq!((number(&well["busiest_load"]), &well["reason"]), (0.8, &Value::Null));
    assert!(well["wait_ns"]["mean"].is_f64() && well["exact"].is_null());
    let reason = "the busiest server, 0, is asked for 1.12 of what it can serve: its queue grows without end";
    assert_eq!(over["reason"], reason);
    assert!(over["wait_ns"].is_null() && over["sojourn_ns"].is_null());
    assert!(printed(arguments).contains(reason));
    // What every request costs is part of what is asked for.
    let report = json("--servers 2 --hand-off 10us --load 0.5 --requests 2000");
    let reason = "each server is asked for 1.00 of what it can serve: its queue grows without end";
    assert_eq!(report["points"][0]["reason"], reason);
}

#[test]
fn people_see_two_lines_for_each_load() {
    let table = printed("--servers 16 --load 0.5,0.9 --requests 20000 --slo p99=10x");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "16 servers · central · fifo");
    assert_eq!(lines[1], "  exp:10us · poisson arrivals · 20,000 requests a point after 2,000 of warm-up · seed 1");
    assert_eq!(
        lines[3].split_whitespace().collect::<Vec<_>>().join(" "),
        "load offered/s wait wait p99 sojourn ± 95 % p50 p90 p99 p99.9"
    );
    assert!(lines[4].starts_with("  50.0 %     800,000  simulated "), "{table}");
    assert!(lines[5].trim_start().starts_with("M/M/16 "), "{table}");
    assert!(lines[6].starts_with("  90.0 %   1,440,000  simulated "), "{table}");
    assert_eq!(lines[9], "largest load at p99=10x (100 us)");
    assert!(lines[10].starts_with("  simulated  ") && lines[10].contains(" % to "), "{table}");
    assert_eq!(lines[11], "  M/M/16     96.8 %, 1,548,275 /s");
    assert_eq!(lines.len(), 12);
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{table}");
    let costs = "--servers 1 --queue stealing --hand-off 1us --wake 20us --steal 2us --poll-every 50us --low-water 3";
    let table = printed(&format!("{costs} --requests 2000 --load 0.5"));
    let heading = "1 server · stealing · fifo · 64 connections, round-robin · hand-off 1.00 us · wake 20.0 us · steal \
                   2.00 us · polls every 50.0 us · low water 3";
    assert_eq!(table.lines().next(), Some(heading));
    assert!(!table.contains("M/M/1"), "{table}");
}

#[test]
fn what_things_cost_is_seen_in_what_is_printed() {
    let mean = |arguments: &str| {
        let report = json(&format!("--servers 2 --load 0.3 --requests 20000 {arguments}"));
        number(&report["points"][0]["sojourn_ns"]["mean"])
    };
    let plain = mean("");
    assert!(mean("--hand-off 5us") > plain + 5_000.0);
    assert!(mean("--wake 5us") > plain + 2_000.0);
    let stealing = mean("--queue stealing");
    assert!(mean("--queue stealing --steal 20us") > stealing + 1_000.0);
    // Half of the distance on average.
    let polled = mean("--poll-every 100us") - plain;
    assert!((50_000.0..80_000.0).contains(&polled), "{polled}");
    assert!(mean("--arrivals uniform") < plain);
    assert!(mean("--queue partitioned") > plain);
    assert!(mean("--discipline ps --demand lognormal:10us:1") < mean("--demand lognormal:10us:1 --queue partitioned"));
}

#[test]
fn wrong_usage_exits_with_2_and_says_so_in_one_line() {
    let shares = "expected shares of capacity above 0 and below 1: numbers such as 0.5, a list such as 0.1,0.5, or a range \
                  such as 0.1..0.9:9 (9 points)";
    let objective =
        "expected pN=Mx with N between 0 and 100 and M mean demands, or pN=DURATION, as in p99=10x or p99=500us";
    let durations = |from: &str| format!("expected a duration such as 250us, 10ms or 5s, from {from} to 3600s");
    let table = [
        (
            "--load 1.2",
            format!(
                "--load: 1.2 is impossible: from 1 on an open system has no steady state, its queue grows for ever; {shares}"
            ),
        ),
        (
            "--load 0.5,1",
            format!(
                "--load: 1 is impossible: from 1 on an open system has no steady state, its queue grows for ever; {shares}"
            ),
        ),
        ("--load 0", format!("--load: 0 is no load: nobody comes; {shares}")),
        ("--load=", format!("--load: an empty value is not a number; {shares}")),
        ("--load 50%", format!("--load: 50% is not a number; {shares}")),
        ("--load 0.1..0.9", format!("--load: 0.1..0.9 does not say how many points it has; {shares}")),
        ("--servers 0", "--servers: 0 is too small; expected a number from 1 to 65536".to_owned()),
        ("--servers 1,2", "--servers: 1,2 is not a number; expected a number from 1 to 65536".to_owned()),
        ("--connections 0", "--connections: 0 is too small; expected a number from 1 to 10000000".to_owned()),
        ("--requests 999", "--requests: 999 is too small; expected a number from 1000 to 100000000000".to_owned()),
        ("--seed x", "--seed: x is not a number; expected a number from 0 to 18446744073709551615".to_owned()),
        ("--hand-off 5", format!("--hand-off: 5 has no unit; {}", durations("0s"))),
        ("--wake 2h", format!("--wake: 2h is too large; {}", durations("0s"))),
        ("--poll-every 0", format!("--poll-every: 0 is too small; {}", durations("1ns"))),
        ("--low-water x", "--low-water: x is not a number; expected a number from 0 to 1000000000".to_owned()),
        (
            "--steal 1us",
            "--steal: has no meaning where nobody steals; expected --queue stealing beside it".to_owned(),
        ),
        (
            "--placement random",
            "--placement: has no meaning where all servers have one line; expected --queue partitioned or --queue stealing \
             beside it"
                .to_owned(),
        ),
        (
            "--queue stealing --discipline ps",
            "--discipline: ps has no meaning with stealing: nobody waits, so that there is nothing to steal; expected fifo, \
             lifo or sjf, or another --queue"
                .to_owned(),
        ),
        (
            "--discipline ps --low-water 1",
            "--low-water: has no meaning with ps, where nobody waits; expected another --discipline".to_owned(),
        ),
        (
            "--demand fixed:0",
            "--demand: fixed:0 takes no time, so that there is no load; expected a distribution whose mean is above zero"
                .to_owned(),
        ),
        (
            "--demand gauss:1us",
            "--demand: gauss is not a distribution; expected fixed:10us, exp:10us, bimodal:90%:5us,10%:55us or \
             lognormal:10us:1.5 (mean, sigma)"
                .to_owned(),
        ),
        (
            "--demand exp:1h --load 0.0001 --requests 10000000000",
            "--requests: 10000000000 are too many: at a load of 0.0001 they take centuries; expected fewer, a higher --load \
             or a shorter --demand"
                .to_owned(),
        ),
        ("--slo 10x", format!("--slo: 10x is not an objective; {objective}")),
        ("--slo 99=10x", format!("--slo: 99 is not a percentile; {objective}")),
        ("--slo p100=10x", format!("--slo: p100 is not between p0 and p100; {objective}")),
        ("--slo p99=10", format!("--slo: 10 has no unit; {objective}")),
        ("--slo p99=0x", format!("--slo: 0x is too small; {objective}")),
        ("--slo p99=0s", format!("--slo: 0s is too small; {objective}")),
        (
            "--slo p99.9=10x --requests 1000",
            "--requests: 1000 are too few for p99.9=10x; expected 10000 or more, for ten beyond that quantile".to_owned(),
        ),
        (
            "--queue lifo",
            "invalid value 'lifo' for '--queue <central|partitioned|stealing>' [possible values: central, partitioned, \
             stealing]; For more information, try '--help'."
                .to_owned(),
        ),
    ];
    for (arguments, message) in table {
        assert_eq!(run(arguments), (2, String::new(), format!("maitred: {message}\n")), "{arguments}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    for form in ["", "--json"] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_maitred"));
        command.args(["simulate", "--requests", "1000", "--load", "0.5"]).args(form.split_whitespace());
        let output = command.stdin(Stdio::null()).stdout(writer).output().expect("the program starts");
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{form}");
    }
}

#[test]
fn help_names_the_defaults() {
    let help = printed("--help");
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in ["[default: 16]", "[default: exp:10us]", "[default: 0.1..0.9:9]", "[default: 1000000]", "Exit codes:"] {
        assert!(words.contains(text), "{text} is missing in\n{help}");
    }
}
