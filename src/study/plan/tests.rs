//! Plans that are right, and what they amount to; plans that are wrong, and what is said of them.

use std::path::Path;

use super::*;

const TWO: &[usize] = &[0, 1];

fn from_file(text: &str) -> Result<Plan, Error> {
    Parameters(file::parse(Path::new("plan.toml"), text)?.given).canonical()?.resolve(TWO)
}

fn from_flags(args: &StudyArgs) -> Result<Plan, Error> {
    Plan::resolve(args, TWO)
}

fn right(text: &str) -> Plan {
    from_file(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn worker_counts_alone_are_enough() {
    let plan = from_flags(&StudyArgs { workers: some("1,2,4,8"), ..StudyArgs::default() }).expect("it is a plan");
    assert_eq!((plan.repeats, plan.pin, plan.cells.len()), (REPEATS, Pin::Split, 12));
    assert_eq!((plan.server_cores.as_slice(), plan.load_cores.as_slice()), (&[0][..], &[1][..]));
    let labels: Vec<String> =
        plan.cells.iter().map(|cell| format!("{} {} {}", cell.configuration, cell.point, cell.point_number)).collect();
    assert_eq!(
        labels[..4],
        ["workers=1 load=0.3 0", "workers=2 load=0.3 0", "workers=4 load=0.3 0", "workers=8 load=0.3 0"]
    );
    assert_eq!(labels[11], "workers=8 load=0.9 2");
    let last = &plan.cells[11].parameters;
    // Eight workers that sleep for 2 ms each serve 4,000 a second, on one core as on many.
    assert_eq!((last.capacity_per_s, last.rate_per_s, last.load), (Some(4_000.0), Some(3_600.0), Some(0.9)));
    assert_eq!((last.engine.as_str(), last.connections, last.kind.as_deref()), ("pool", 64, Some("sleep")));
}

#[test]
fn a_share_of_capacity_counts_workers_that_sleep_and_cores_for_all_else() {
    let rates = |kind: &str, pin: &str| {
        let plan = right(&format!(
            "kind = \"{kind}\"\npin = \"{pin}\"\ndemand = \"exp:1ms\"\nload = 0.5\n[vary]\nworkers = [1, 2, 8]"
        ));
        plan.cells.iter().map(|cell| cell.parameters.rate_per_s.expect("it is an open loop")).collect::<Vec<_>>()
    };
    assert_eq!(rates("sleep", "split"), [500.0, 1_000.0, 4_000.0]);
    assert_eq!(rates("spin", "split"), [500.0, 500.0, 500.0], "the server has one of the two cores");
    assert_eq!(rates("spin", "float"), [500.0, 1_000.0, 1_000.0]);
    assert_eq!(rates("hash", "float"), [500.0, 1_000.0, 1_000.0]);
}

#[test]
fn every_serve_option_may_vary_and_listeners_take_their_parameters() {
    let plan = right(
        "engine = \"pool\"\nload = 0.5\nworkers = \"auto\"\nmax_frame = \"64KiB\"\n\
         [vary]\nrearm = [\"edge\", \"oneshot\"]\nshed = [\"off\", 4]\npin_workers = [true, false]",
    );
    assert_eq!(plan.cells.len(), 8);
    let cell = &plan.cells[3];
    assert_eq!(cell.configuration, "rearm=edge pin_workers=off shed=4");
    let expected = [("max_frame", "64KiB"), ("pin_workers", "off"), ("rearm", "edge"), ("shed", "4")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(cell.parameters.options, BTreeMap::from(expected));
    assert_eq!(cell.parameters.workers, 1, "auto is the server's cores");
    for flag in
        ["--listen=work=tcp://127.0.0.1:0?shed=4", "--rearm=edge", "--pin=off", "--max-frame=64KiB", "--workers=1"]
    {
        assert!(cell.serve.iter().any(|given| given == flag), "{flag} in {:?}", cell.serve);
    }
}

#[test]
fn closed_loops_stand_among_loads_and_phases_follow_each_other() {
    let plan = right("connections = 4\n[vary]\nload = [\"closed\", 0.5]");
    let points: Vec<&str> = plan.cells.iter().map(|cell| cell.point.as_str()).collect();
    assert_eq!(points, ["closed", "load=0.5"]);
    assert_eq!((plan.cells[0].parameters.rate_per_s, plan.cells[0].parameters.depth), (None, Some(1)));
    assert!(!plan.cells[0].load.iter().any(|flag| flag.starts_with("--rate")));

    let plan = right("demand = \"fixed:1ms\"\nworkers = 2\nphases = [\"0.5:1s\", \"2:500ms\", \"0.5:1500ms\"]");
    let parameters = &plan.cells[0].parameters;
    assert_eq!((plan.duration, parameters.rate_per_s), (Duration::from_secs(3), Some(1_000.0)));
    let ends: Vec<(f64, f64)> = parameters.phases.iter().map(|phase| (phase.to_s, phase.rate_per_s)).collect();
    assert_eq!(ends, [(1.0, 1_000.0), (1.5, 4_000.0), (3.0, 1_000.0)]);
    assert!(plan.cells[0].load.contains(&"--phases=1:1s,4:500ms,1:1500ms".to_owned()), "{:?}", plan.cells[0].load);
    assert!(plan.cells[0].load.contains(&"--interval=250ms".to_owned()), "recovery is seen in pieces");
}

#[test]
fn what_is_printed_is_a_plan_of_the_same_runs() {
    let files = [
        "",
        "rate = 500\nrepeats = 2\nservice = \"echo\"\n[vary]\nworkers = [1, 2]\nengine = [\"pool\", \"event-loops\"]",
        "seed = 7\nobjective = \"p99=20ms\"\n[vary]\nload = \"0.1..0.5:5\"\ndemand = [\"exp:2000us\", \
         \"bimodal:90%:1ms,10%:11ms\"]",
        "phases = [\"0.5:1s\", \"2:500ms\"]\n[vary]\nshed = [\"off\", 64]",
        "phases = [\"0.5:1s\"]",
        "spin = 0\nsize = \"1KiB\"\ndepth = 4\n[vary]\nload = [\"closed\", 0.25]",
    ];
    for text in files {
        let plan = right(text);
        let printed = plan.to_toml();
        assert_eq!(right(&printed), plan, "{printed}");
        assert_eq!(right(&printed).to_toml(), printed);
    }
    let printed = right(files[2]).to_toml();
    assert!(
        printed.contains(
            "\n[vary]\ndemand = [\"exp:2ms\", \"bimodal:90%:1ms,10%:11ms\"]\nload = [0.1, 0.2, 0.3, 0.4, 0.5]\n"
        ),
        "{printed}"
    );
}

#[test]
fn flags_override_the_file_and_quick_stands_between() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let path = directory.path().join("plan.toml");
    let text = "repeats = 9\nduration = \"4s\"\n[vary]\nload = \"0.1..0.9:9\"\nworkers = [1, 2]\n";
    let resolve = |text: &str, args: StudyArgs| {
        std::fs::write(&path, text).expect("it can be written");
        from_flags(&StudyArgs { plan: Some(path.clone()), ..args }).unwrap_or_else(|error| panic!("{error}"))
    };
    let plan = resolve(text, StudyArgs { repeats: some("3"), rate: some("100"), ..StudyArgs::default() });
    assert_eq!((plan.repeats, plan.duration.as_secs(), plan.cells.len()), (3, 4, 2), "a rate stands for the loads");

    let quick = resolve(text, StudyArgs { quick: true, ..StudyArgs::default() });
    assert_eq!((quick.repeats, quick.duration, quick.cells.len()), (QUICK_REPEATS, QUICK_DURATION, 6));
    let points: Vec<&str> = quick.cells.iter().map(|cell| cell.point.as_str()).step_by(2).collect();
    assert_eq!(points, ["load=0.1", "load=0.5", "load=0.9"]);

    let own = format!("{text}[quick]\nrepeats = 1\nworkers = 2\nload = [0.5]\n");
    let quick = resolve(&own, StudyArgs { quick: true, duration: some("200ms"), ..StudyArgs::default() });
    assert_eq!((quick.repeats, quick.duration.as_millis(), quick.cells.len()), (1, 200, 1));
    assert_eq!(resolve(&own, StudyArgs::default()).cells.len(), 18, "without --quick the table counts for nothing");

    let phases = resolve("phases = [\"0.5:2s\", \"2:1s\"]", StudyArgs { quick: true, ..StudyArgs::default() });
    assert_eq!(phases.duration, Duration::from_millis(750));
}

#[test]
fn the_plans_that_ship_are_right_and_fit_their_time() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("design/experiments");
    let entries = std::fs::read_dir(&folder).expect("there are plans").map(|entry| entry.expect("an entry").path());
    let plans: Vec<_> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    assert!(plans.len() >= 9, "{plans:?}");
    for path in plans {
        for (quick, most) in [(false, 600), (true, 60)] {
            let plan = from_flags(&StudyArgs { plan: Some(path.clone()), quick, ..StudyArgs::default() });
            let plan = plan.unwrap_or_else(|error| panic!("{error}"));
            let runs = crate::study::order::runs(&plan).len() as u32;
            let seconds = (plan.run_length() * runs).as_secs();
            assert!(seconds < most, "{}: {runs} runs take {seconds} s", path.display());
        }
    }
}

#[test]
fn demands_in_a_list_of_a_flag_keep_their_commas() {
    let args = StudyArgs {
        demand: some("exp:1ms,bimodal:90%:1ms,10%:11ms,fixed:2ms"),
        load: some("0.5"),
        ..StudyArgs::default()
    };
    let plan = from_flags(&args).expect("it is a plan");
    let demands: Vec<&str> = plan.cells.iter().filter_map(|cell| cell.parameters.demand.as_deref()).collect();
    assert_eq!(demands, ["exp:1ms", "bimodal:90%:1ms,10%:11ms", "fixed:2ms"]);
}

#[test]
fn mistakes_in_a_file_are_named_by_line_with_what_was_expected() {
    let table = [
        ("repeats = 1\nworkres = 2", "plan.toml:2: workres: unknown key; expected workers"),
        ("[vary]\nworkers = []", "plan.toml:2: vary.workers: the list is empty; expected at least one value"),
        (
            "\n\nengine = \"poool\"",
            "plan.toml:3: engine: poool is not an engine; expected pool or leader-followers or event-loop or \
             event-loops or thread-per-connection or process-per-connection or prefork or proactor or serial",
        ),
        (
            "[vary]\nload = [0.5, 0]",
            "plan.toml:2: vary.load: 0 is an impossible load; expected a share of capacity from 0.001 to 10, a range \
             such as \
             0.1..0.9:9, or closed",
        ),
        (
            "load = -0.5",
            "plan.toml:1: load: -0.5 is an impossible load; expected a share of capacity from 0.001 to 10, a range \
             such as \
             0.1..0.9:9, or closed",
        ),
        (
            "[vary]\nload = \"0.9..0.1:3\"",
            "plan.toml:2: vary.load: 0.9..0.1:3 ends before it begins; expected a share of capacity from 0.001 to 10, \
             a range \
             such as 0.1..0.9:9, or closed",
        ),
        (
            "service = \"echo\"\nload = 0.5",
            "plan.toml:2: load: 0.5 is a share of no capacity: nothing names how long a request takes; expected rate = \
             REQUESTS PER SECOND, or a demand above zero",
        ),
        (
            "workers = [1, 2]",
            "plan.toml:1: workers: a list stands at the top; expected one value, or workers in [vary]",
        ),
        (
            "[vary]\nrepeats = [1, 2]",
            "plan.toml:2: vary.repeats: does not vary within a study; expected repeats at the top, with one value",
        ),
        (
            "workers = 1\n[vary]\nworkers = [1, 2]",
            "plan.toml:3: vary.workers: stands twice; expected it once, either at the top or in [vary]",
        ),
        ("[vary]\nworkers = [2, 2]", "plan.toml:2: vary.workers: 2 stands twice; expected each value once"),
        (
            "[vary]\nworkers = [1, 5000]",
            "plan.toml:2: vary.workers: 5000 is too large; expected auto or a number from 1 to 1024",
        ),
        (
            "demand = \"exp\"",
            "plan.toml:1: demand: exp: an empty value is not a duration; expected fixed:10us, exp:10us, \
             bimodal:90%:5us,10%:55us or lognormal:10us:1.5 (mean, sigma)",
        ),
        ("kind = \"nap\"", "plan.toml:1: kind: nap is not known; expected spin or sleep or hash"),
        (
            "rate = 100\nload = 0.5",
            "plan.toml:1: rate: stands beside load, which says how much is asked for as well; expected one of load, \
             rate and phases",
        ),
        ("\nconnections = 0", "plan.toml:2: connections: 0 is too small; expected a number from 1 to 1000000"),
        ("rate = 0", "plan.toml:1: rate: 0 is too small; expected requests per second, from 0.001 to 100000000"),
        (
            "[vary]\nshed = [\"off\", \"maybe\"]",
            "plan.toml:2: vary.shed: maybe does not fit shed; expected off or 1 to 1048576",
        ),
        ("pin = \"on\"", "plan.toml:1: pin: on is not known; expected split or float"),
        (
            "duration = \"0s\"",
            "plan.toml:1: duration: 0s is too small; expected a duration such as 250us, 10ms or 5s, from 1ms to 3600s",
        ),
        (
            "duration = \"1s\"\nphases = [\"1:1s\"]",
            "plan.toml:1: duration: has no meaning beside phases; expected the lengths of the phases",
        ),
        (
            "phases = [\"2\"]",
            "plan.toml:1: phases: 2 is not a phase; expected LOAD:DURATION, as in 2:500ms, with a load from 0.001 to \
             10",
        ),
        (
            "objective = \"fast\"",
            "plan.toml:1: objective: fast is not an objective; expected pN=DURATION with N between 0 and 100 and a \
             duration from 1ns to 30s, as in p99=500us",
        ),
        (
            "low_water = 2000\nqueue = 1000",
            "plan.toml:1: low_water: 2000 is more than the queue holds; expected at most 1000, the capacity of the \
             queue",
        ),
        (
            "[vary]\nrate = \"1..5000:5000\"\nworkers = [1, 2, 3]",
            "plan.toml:2: vary.rate: makes more than 10000 combinations with what else varies; expected fewer",
        ),
        ("slo = \"p99=9ms\"", "plan.toml:1: slo: unknown key; expected objective"),
        (
            "max_frame = \"1KiB\"\nsize = 1005",
            "plan.toml:2: size: 1005 bytes make a message of 1025, and max_frame is 1024; expected less, or a larger \
             max_frame",
        ),
        (
            "max_demand = \"1ms\"\n[vary]\ndemand = [\"exp:1ms\", \"exp:2ms\"]",
            "plan.toml:3: vary.demand: exp:2ms is on average longer than max_demand, 1ms; expected less, or a larger \
             max_demand",
        ),
        ("vary = 3", "plan.toml:1: vary: the integer 3 is not a table; expected [vary]"),
        (
            "workers = 2000-01-01",
            "plan.toml:1: workers: the date 2000-01-01 has the wrong type; expected a string, a number, a boolean, or \
             a list of them in [vary]",
        ),
    ];
    for (text, expected) in table {
        let error = from_file(text).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
        assert_eq!(error.exit_code(), 78, "{text}");
    }
}

#[test]
fn mistakes_in_flags_are_named_by_the_flag() {
    let set = |text: &str| StudyArgs { set: vec![text.to_owned()], ..StudyArgs::default() };
    let table = [
        (
            StudyArgs { workers: some("1,x"), ..StudyArgs::default() },
            "--workers: x is not a number; expected auto or a number from 1 to 1024",
        ),
        (
            StudyArgs { load: some("nine"), ..StudyArgs::default() },
            "--load: nine is not a load; expected a share of capacity from 0.001 to 10, a range such as 0.1..0.9:9, \
             or closed",
        ),
        (
            StudyArgs { slo: some("p99"), ..StudyArgs::default() },
            "--slo: p99 is not an objective; expected pN=DURATION with N between 0 and 100 and a duration from 1ns to \
             30s, as in p99=500us",
        ),
        (set("rearm"), "--set rearm: has no value; expected KEY=LIST, as in rearm=edge,oneshot"),
        (set("rearn=edge"), "--set rearn=edge: unknown key; expected rearm"),
        (set("rearm=edge,level"), "--set rearm=edge,level: level is not known; expected edge or oneshot"),
        (StudyArgs { rate: some("5"), ..set("rate=5") }, "--set rate=5: stands twice; expected each key once"),
    ];
    for (args, expected) in table {
        let error = from_flags(&args).expect_err(expected);
        assert_eq!((error.to_string().as_str(), error.exit_code()), (expected, 2));
    }
}
