//! The report of a study as a reader meets it: the same bytes from the same rows, a page that is well-formed and needs
//! nothing from elsewhere, every figure that there are rows for, words that are true of rows with known answers, and
//! files that cannot be read named by their line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use roxmltree::{Document, ParsingOptions};
use serde_json::json;

use maitred::random::Random;
use maitred::study::report::Report;
use maitred::study::row::{Limit, Row};

#[path = "support/rows.rs"]
mod support;

use support::{Case, Rows, rich, set};

fn report(rows: &[Row]) -> Report {
    Report::new(rows, Some("engine = \"pool\" # <plan>\n"), Some(&json!({"cpu": "two & a half", "cores": [0, 1]})))
}

/// Everything that it found, in one text.
fn words(rows: &[Row]) -> String {
    report(rows).text()
}

fn check_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

fn check_is_silent_of(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(!text.contains(part), "{part:?} is in:\n{text}");
    }
}

/// What XML and the browsers agree on.
fn parsed(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap_or_else(|error| panic!("{error}: {text:.2000}"))
}

#[test]
fn the_same_rows_make_the_same_bytes_in_whatever_order_they_stand() {
    let mut rows = rich(1);
    let first = report(&rows);
    assert_eq!(report(&rows), first);
    Random::new(3).shuffle(&mut rows);
    assert_eq!(report(&rows), first);
}

#[test]
fn the_page_and_the_figures_are_well_formed_and_need_nothing_from_elsewhere() {
    let report = report(&rich(2));
    let page = parsed(&report.html);
    let lower = report.html.to_lowercase();
    check_is_silent_of(&lower, &["http", "<script", "src=", "url(", "@import", "<link"]);
    check_says(&lower, &["@media print", "prefers-color-scheme:dark", "<meta charset=\"utf-8\"/>"]);
    check_says(&report.html, &["&lt;plan&gt;", "two &amp; a half"]);
    let elements = |name: &str| page.descendants().filter(|node| node.has_tag_name(name)).count();
    assert_eq!(elements("svg"), report.figures.iter().filter(|figure| figure.svg().is_some()).count());
    assert!(elements("title") > 100, "values are told to those who point at them");
    let ids: Vec<&str> = page.descendants().filter_map(|node| node.attribute("id")).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an id stands twice: {ids:?}");

    for figure in &report.figures {
        let svg = figure.svg().expect("there are rows for all of them");
        let drawn = parsed(&svg);
        let root = drawn.root_element();
        assert_eq!((root.tag_name().name(), root.tag_name().namespace()), ("svg", Some("http://www.w3.org/2000/svg")));
        assert_eq!(svg.matches("http").count(), 1, "nothing but the name of the format: {}", figure.name);
        assert!(root.descendants().any(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "title"))));
        check_is_silent_of(&svg, &["NaN", "inf", "<script"]);
        check_says(&svg, &["prefers-color-scheme: dark"]);
    }
}

#[test]
fn every_kind_of_figure_is_drawn_where_there_are_rows_and_says_why_where_there_are_none() {
    let kinds = ["latency", "workers", "stages", "crossover", "timeline", "bars", "loops"];
    let drawn = |rows: &[Row]| -> BTreeSet<String> {
        let report = report(rows);
        let drawn = report.figures.iter().filter(|figure| figure.svg().is_some());
        drawn.map(|figure| figure.name.split('-').next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(drawn(&rich(1)), kinds.map(str::to_owned).into());

    let none = report(&[]);
    assert_eq!(none.figures.len(), kinds.len());
    for figure in &none.figures {
        let reason = figure.reason().unwrap_or_else(|| panic!("{} is drawn of nothing", figure.name));
        assert!(!reason.is_empty() && !reason.contains('\n'));
        check_says(&none.html, &[&format!("{}: {reason}.", figure.title)]);
    }
    // One point has latencies and stages, but nothing to be drawn against.
    assert_eq!(drawn(&Rows::new(1).add(&Case::default()).rows), ["stages".to_owned()].into());
}

#[test]
fn stages_that_are_not_together_the_latency_have_no_bar_and_it_is_said() {
    let mut all = Rows::new(17);
    // Beside the mean latency, the mean stages of so many times as much.
    let mut add = |engine: &'static str, off: f64| {
        let case = Case { engine, configuration: format!("engine={engine}"), ..Case::default() };
        all.add_with(&case, |row| {
            let part = json!({"mean": off * row.figure("load.latency_ns.mean").expect("it was measured") / 5.0});
            let load = row.load.as_mut().and_then(|load| load.as_object_mut()).expect("it was measured");
            load.remove("stages_at");
            let stages = json!({"late": part, "unseen": part, "queue": part, "service": part, "reply": part});
            load.insert("stages_ns".to_owned(), stages);
        });
    };
    add("pool", 1.01);
    add("serial", 0.9);
    let stages = |rows: &[Row]| report(rows).figures.into_iter().find(|figure| figure.name == "stages");
    let both = stages(&all.rows).expect("there are rows");
    let svg = both.svg().expect("one has a bar");
    check_says(&svg, &["pool · mean"]);
    check_is_silent_of(&svg, &["serial"]);
    check_says(&both.caption, &["more than 2.0 % off the mean latency: serial."]);
    let off = stages(&all.rows[7..]).expect("there are rows");
    assert_eq!(off.reason(), Some("the stages of requests are on average not together their latency"));
}

#[test]
fn what_more_rows_draw_than_fit_on_one_figure_is_spread_and_none_is_left_out() {
    let mut all = Rows::new(4);
    let engines = ["pool", "event-loop", "event-loops", "leader-followers", "proactor", "prefork", "serial"];
    for (at, engine) in engines.into_iter().enumerate() {
        for load in [0.3, 0.6] {
            let configuration = format!("engine={engine}");
            all.add(&Case { engine, load: Some(load), configuration, slower: 1.0 + at as f64, ..Case::default() });
        }
    }
    let report = report(&all.rows);
    let latency: Vec<String> =
        report.figures.iter().filter(|figure| figure.name.starts_with("latency")).filter_map(|f| f.svg()).collect();
    assert_eq!(latency.len(), 2);
    for engine in engines {
        assert!(latency.iter().any(|svg| svg.contains(&format!("\n{engine}\n"))), "{engine} has no line");
    }
}

/// Two engines at four loads, with an A/A pair at the second.
fn two_engines(slower: impl Fn(&str, f64) -> f64) -> Rows {
    let mut all = Rows::new(9);
    for engine in ["pool", "event-loops"] {
        for load in [0.2, 0.4, 0.6, 0.8] {
            let configuration = format!("engine={engine}");
            let slower = slower(engine, load);
            let case = Case { engine, load: Some(load), configuration, slower, ..Case::default() };
            match (engine, load) {
                ("pool", 0.4) => all.add_pair(&case),
                _ => all.add(&case),
            };
        }
    }
    all
}

#[test]
fn a_clear_winner_is_named_with_its_lead() {
    let all = two_engines(|engine, _| if engine == "pool" { 1.0 } else { 2.0 });
    let text = words(&all.rows);
    check_says(&text, &["pool has the lowest p99 at each of 4 points (by a factor of ", "over the next)"]);
    check_says(
        &text,
        &["For the objective p99=20ms, engine=pool reaches ", "the most of all, and engine=event-loops reaches"],
    );
    check_says(
        &text,
        &["(by a factor of 1.9", "Two configurations that are the same (the A/A pair) differed by factors of up to"],
    );
    check_is_silent_of(&text, &["event-loops has", "within noise", "failed", "limited"]);
}

#[test]
fn a_tie_is_called_one_also_where_the_medians_differ() {
    let all = two_engines(|engine, _| if engine == "pool" { 1.0 } else { 1.004 });
    check_says(
        &words(&all.rows),
        &["No difference in p99 between event-loops and pool is beyond noise, at each of 4 points"],
    );

    // A difference that every interval excludes, and an A/A pair that differs by more.
    let mut all = two_engines(|engine, _| if engine == "pool" { 1.0 } else { 1.3 });
    let second = all.rows.iter_mut().filter(|row| row.twin == Some(maitred::study::row::Twin::Second));
    for row in second {
        let p99 = row.figure("load.latency_ns.p99").expect("it was measured");
        set(row, &["latency_ns", "p99"], json!(p99 * 1.5));
    }
    check_says(&words(&all.rows), &["No difference in p99 between event-loops and pool is beyond noise"]);
}

#[test]
fn a_crossover_is_told_by_its_sides() {
    let all = two_engines(|engine, load| match (engine, load) {
        ("pool", _) => 1.0,
        (_, load) if load < 0.5 => 0.7,
        (_, load) if load < 0.7 => 1.0,
        _ => 1.5,
    });
    let text = words(&all.rows);
    check_says(&text, &["event-loops has the lowest p99 at load=0.2 and load=0.4 (by a factor of 1.4"]);
    check_says(&text, &["pool has the lowest p99 at load=0.8 (by a factor of 1.", "over the next)"]);
    check_says(&text, &["at 1 other point the best are within noise of each other"]);
}

#[test]
fn runs_that_failed_are_told_with_their_reasons_and_count_for_nothing() {
    let mut all = Rows::new(5);
    let (good, bad) = (("pool", 1.0), ("event-loops", 2.0));
    for (engine, slower) in [good, bad] {
        let configuration = format!("engine={engine}");
        all.add(&Case { engine, load: Some(0.5), configuration, slower, ..Case::default() });
    }
    let lost = Case { configuration: "engine=serial".to_owned(), engine: "serial", ..Case::default() };
    all.add_failed(&lost, "it said <nothing> for 5s");
    let report = report(&all.rows);
    check_says(
        &report.text(),
        &["14 runs of 3 configurations at 1 point were measured, and 7 more could not be measured."],
    );
    check_says(&report.text(), &["pool has the lowest p99", "7 runs failed; their reasons are in a table below."]);
    check_says(&report.text(), &["Without a latency to be compared: serial at load=0.5 (no run could be measured)."]);
    check_says(&report.html, &["Runs that failed", "it said &lt;nothing&gt; for 5s"]);

    let none = words(&all.rows[14..]);
    check_says(&none, &["None of 7 runs could be measured; the reasons are below."]);
    check_is_silent_of(&none, &["p99", "ahead", "ideal"]);
}

/// `pool` and `serial` at one load, the second with these changes.
fn beside_serial(change: impl Fn(&mut Row)) -> Rows {
    let mut all = Rows::new(14);
    let of = |engine: &'static str| Case { engine, configuration: format!("engine={engine}"), ..Case::default() };
    all.add(&of("pool")).add_with(&of("serial"), change);
    all
}

#[test]
fn one_that_answers_a_part_of_what_the_other_does_is_behind_by_throughput_where_it_has_no_latency() {
    let all = beside_serial(|row| {
        let achieved = row.figure("load.achieved_per_s").expect("it was measured");
        set(row, &["achieved_per_s"], json!(achieved / 59.0));
        set(row, &["requests"], json!(510));
        set(row, &["unanswered"], json!(29_490));
    });
    let text = words(&all.rows);
    check_says(
        &text,
        &[
            "pool has the highest throughput at load=0.5 (by a factor of 59",
            "Without a latency to be compared: serial at load=0.5 (98 % of its requests not served).",
        ],
    );
    check_is_silent_of(&text, &["had the same to do, so"]);
}

#[test]
fn a_window_too_short_for_the_rate_that_was_asked_is_not_over_the_limit_for_it() {
    let served = |intended: u64, replies: u64| {
        let mut all = Rows::new(15);
        all.add_with(&Case::default(), |row| {
            // 500 a second, for 0.2 s.
            row.parameters.duration_s = 0.2;
            set(row, &["intended"], json!(intended));
            set(row, &["requests"], json!(replies));
            set(row, &["achieved_per_s"], json!(replies as f64 / 0.2));
        });
        words(&all.rows)
    };
    check_is_silent_of(&served(84, 84), &["over the server's limit"]);
    check_says(&served(116, 100), &["1 point was over the server's limit"]);
}

#[test]
fn who_alone_has_a_figure_is_told_with_what_the_others_lack() {
    let silent = ["No two configurations had the same to do", "pool has the lowest"];
    let no_common = "No two of those with the same to do have a figure that can be compared.";
    let alone = "Of those with the same to do, pool alone has a p99 at load=0.5.";

    let failed = beside_serial(|row| {
        row.status = maitred::study::row::Status::Failed;
        (row.load, row.server) = (None, None);
    });
    let text = words(&failed.rows);
    check_says(&text, &[no_common, alone, "serial at load=0.5 (no run could be measured)."]);
    check_is_silent_of(&text, &silent);

    let few = beside_serial(|row| {
        ["p50", "p90", "p99", "p99_9"].iter().for_each(|quantile| set(row, &["latency_ns", quantile], json!(null)));
    });
    let text = words(&few.rows);
    check_says(&text, &[no_common, alone, "serial at load=0.5 (too few samples)."]);
    check_is_silent_of(&text, &silent);

    let mut apart = beside_serial(|row| row.repeat += 100);
    check_says(&words(&apart.rows), &[alone, "serial at load=0.5 (no repeat in common with the best)."]);

    // Three, of whom two can be compared: the third is not passed over.
    apart.rows.retain(|row| row.parameters.engine == "pool");
    let slow = Case { engine: "proactor", configuration: "engine=proactor".to_owned(), slower: 3.0, ..Case::default() };
    apart.add(&slow).rows.extend(failed.rows[7..].iter().cloned());
    check_says(&words(&apart.rows), &["pool has the lowest p99", "serial at load=0.5 (no run could be measured)."]);
}

#[test]
fn one_configuration_is_ahead_of_nobody_and_no_rows_are_nothing() {
    let mut one = Rows::new(6);
    for load in [0.3, 0.6] {
        one.add(&Case { load: Some(load), ..Case::default() });
    }
    let text = words(&one.rows);
    check_says(&text, &["There is one configuration (pool, 2 workers), so none is ahead of another."]);
    check_says(&text, &["There is no A/A pair", "The p99 is 1.10 times that of the ideal system."]);
    assert_eq!(words(&[]), "There are no rows: nothing was measured.\n");
}

#[test]
fn few_repeats_are_no_ground_for_a_claim() {
    for (repeats, told) in [
        (2, "With 2 repeats there are no intervals, and no difference counts as more than noise."),
        (3, "With 3 repeats an interval covers the true median at most 75 % of the time."),
        (5, "With 5 repeats an interval covers the true median at most 94 % of the time."),
    ] {
        let mut all = Rows::new(7);
        for (engine, slower) in [("pool", 1.0), ("event-loops", 3.0)] {
            let configuration = format!("engine={engine}");
            all.add(&Case { engine, configuration, slower, repeats, ..Case::default() });
        }
        let text = words(&all.rows);
        check_says(&text, &[told]);
        assert_eq!(text.contains("pool has the lowest p99"), repeats > 2, "{text}");
        let none = "With 2 repeats no difference can be told from noise (largest seen: ×2.9 in p99 at load=0.5).";
        assert_eq!(text.contains(none), repeats == 2, "{text}");
        check_is_silent_of(&text, &["is beyond noise"]);
    }
}

#[test]
fn more_workers_than_cores_are_told_by_what_they_did() {
    let mut all = Rows::new(8);
    for (workers, slower) in [(1, 1.0), (2, 1.0), (4, 1.5), (8, 2.0)] {
        for load in [0.4, 0.8] {
            let configuration = format!("workers={workers}");
            let case =
                Case { workers, cores: 2, kind: "spin", load: Some(load), configuration, slower, ..Case::default() };
            all.add(&case);
        }
    }
    let text = words(&all.rows);
    check_says(&text, &["More workers than cores, beside as many as cores at the same rate, had 1.5"]);
    check_says(&text, &["longer in 4, shorter in 0, within noise in 0 of 4 comparisons; CPU per request was 1.0"]);
    check_says(&text, &["28 runs were limited by the machine"]);

    let mut asleep = Rows::new(8);
    for workers in [1, 4, 16] {
        asleep.add(&Case { workers, configuration: format!("workers={workers}"), ..Case::default() });
    }
    let text = words(&asleep.rows);
    check_says(
        &text,
        &[
            "Requests that sleep need no core: 16 workers kept up with 4,000/s and 1 with 250/s (16 times as many) on 1 core.",
        ],
    );
    check_says(&text, &["No two configurations had the same to do"]);
}

#[test]
fn a_run_that_the_load_decided_is_marked_wherever_it_is_shown() {
    let mut all = Rows::new(10);
    for load in [0.3, 0.6, 0.9] {
        all.add_with(&Case { load: Some(load), ..Case::default() }, |row| {
            if load > 0.8 {
                row.limited_by = vec![Limit::Generator];
            }
        });
    }
    let report = report(&all.rows);
    check_says(&report.text(), &["In 7 runs the load had too much to do to be on time"]);
    check_says(&report.html, &["generator-limited</td>", "in doubt", "load=0.9 · p50"]);
}

#[test]
fn a_quantile_with_fewer_than_ten_samples_beyond_it_or_with_too_many_unserved_is_a_dash() {
    let mut all = Rows::new(11);
    all.add(&Case { load: Some(0.3), ..Case::default() });
    // One of seven runs has too few samples: the others are not like it, so there is no median of them either.
    all.add_with(&Case { load: Some(0.5), ..Case::default() }, |row| {
        if row.repeat == 3 {
            set(row, &["latency_ns", "p99_9"], json!(null));
        }
    });
    // Two in a hundred are never served: the p99 is longer than anything.
    all.add_with(&Case { load: Some(0.8), ..Case::default() }, |row| {
        set(row, &["unanswered"], json!(600));
        set(row, &["requests"], json!(29_400));
    });
    let report = report(&all.rows);
    let page = parsed(&report.html);
    let cells = |point: &str| -> Vec<String> {
        let is_row = |row: &roxmltree::Node<'_, '_>| {
            row.has_tag_name("tr") && row.children().any(|cell| cell.text() == Some(point))
        };
        let row = page.descendants().find(is_row).expect("the point is in the table");
        row.children().map(|cell| cell.text().unwrap_or_default().trim().to_owned()).collect()
    };
    let dashes = |point: &str| cells(point).iter().map(|cell| cell == "–").collect::<Vec<_>>()[4..8].to_vec();
    assert_eq!(dashes("load=0.3"), [false, false, false, false]);
    assert_eq!(dashes("load=0.5"), [false, false, false, true]);
    assert_eq!(dashes("load=0.8"), [false, false, true, true]);
    check_says(&report.text(), &["1 point has no p99", "7 runs had errors or left requests unserved."]);
    assert_eq!(cells("load=0.8")[2], "up to 2.0 % not served", "doubts stand where they are seen without scrolling");
}

#[test]
fn what_the_servers_did_is_put_in_relation_and_what_none_tells_has_no_column() {
    let mut all = Rows::new(13);
    let report = report(&all.add(&Case::default()).rows);
    let page = parsed(&report.html);
    let texts = |name: &str| -> Vec<&str> {
        let of_table = page.descendants().filter(|node| node.has_tag_name("table")).find(|table| {
            table.descendants().any(|head| head.has_tag_name("th") && head.text() == Some("wakes per hand-off"))
        });
        let cells = of_table.expect("there is such a table").descendants().filter(|node| node.has_tag_name(name));
        cells.filter_map(|cell| cell.text()).collect()
    };
    let heads = "system calls per request, at least; wakes per hand-off; events per poll; queue found empty; \
                 queue at 99 % of batches, at most; deepest queue; busiest worker by the mean";
    assert_eq!(texts("th")[2..].join("; "), heads);
    assert_eq!(texts("td")[2..], ["4.5", "0.25", "1.5", "0.75", "3", "7", "1.5"]);
}

#[test]
fn a_worker_is_as_busy_as_its_turns_and_calls() {
    let mut all = Rows::new(13);
    all.add_with(&Case::default(), |row| {
        let workers = json!([{"turns": 10, "calls": 20}, {"turns": 30}]);
        row.server.as_mut().expect("it was measured")["worker_turns"] = workers;
    });
    check_says(&report(&all.rows).html, &["<td>7</td><td>1</td></tr>"]);
}

#[test]
fn caveats_tell_of_a_pair_that_was_cut_short_and_of_a_build_without_optimisation() {
    let mut all = two_engines(|_, _| 1.0);
    all.rows.retain(|row| row.twin != Some(maitred::study::row::Twin::Second));
    let cut = words(&all.rows);
    check_says(&cut, &["The A/A pair was cut short: no round has both of it measured"]);
    check_is_silent_of(&cut, &["There is no A/A pair", "without optimisation"]);

    let built = |optimised: bool| Report::new(&all.rows, None, Some(&json!({"optimised": optimised}))).text();
    check_says(&built(false), &["The program was built without optimisation"]);
    check_is_silent_of(&built(true), &["without optimisation"]);
}

#[test]
fn one_is_one_and_names_with_commas_are_kept_apart() {
    let mut all = Rows::new(16);
    all.add(&Case { repeats: 1, ..Case::default() });
    check_says(&words(&all.rows), &["1 run of 1 configuration at 1 point was measured."]);

    let mut all = Rows::new(16);
    for (engine, workers) in [("pool", 1), ("pool", 2), ("serial", 1)] {
        let configuration = format!("engine={engine} workers={workers}");
        // As many requests for all, whatever their capacity.
        let load = Some(0.5 / workers as f64);
        all.add_with(&Case { engine, workers, load, configuration, slower: 1.0, ..Case::default() }, |row| {
            row.point = "rate=250".to_owned();
            set(row, &["latency_ns", "p99"], json!(1e6));
        });
    }
    check_says(&words(&all.rows), &["between pool, 1 worker; pool, 2 workers; and serial, 1 worker is beyond noise"]);
}

fn redrawn(directory: &Path) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maitred"));
    command.arg("report").arg(directory).stdin(Stdio::null()).env_remove("MAITRED_LOG");
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("only text is printed");
    (status.code().expect("no signal ended it"), text(stdout), text(stderr))
}

fn write_rows(directory: &Path, rows: &[Row]) {
    let lines: String = rows.iter().map(|row| row.to_line() + "\n").collect();
    fs::write(directory.join("rows.jsonl"), lines).expect("it can be written");
}

/// Every file under a directory, with its bytes.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).expect("it can be read")));
        }
    }
    found.sort();
    found
}

#[test]
fn the_command_draws_a_finished_study_again_byte_for_byte() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let all = two_engines(|engine, _| if engine == "pool" { 1.0 } else { 2.0 });
    write_rows(path, &all.rows);
    let (code, printed, messages) = redrawn(path);
    assert_eq!(code, 0, "{messages}");
    check_says(&printed, &["pool has the lowest p99"]);
    check_says(&messages, &["report.html and 2 figures"]);
    let first = files(path);
    let names: Vec<&str> = first.iter().filter_map(|(name, _)| name.strip_prefix(path.to_str()?)).collect();
    assert_eq!(names, ["/figures/latency.svg", "/figures/stages.svg", "/report.html", "/rows.jsonl"]);

    // A figure of an earlier report goes, somebody else's stays.
    fs::write(path.join("figures/latency-7.svg"), "old").expect("it can be written");
    fs::write(path.join("figures/mine.svg"), "mine").expect("it can be written");
    assert_eq!(redrawn(path).0, 0);
    let mut again = files(path);
    again.retain(|(name, _)| !name.ends_with("mine.svg"));
    assert_eq!(again.len() + 1, files(path).len());
    assert!(again == first, "the same rows made other bytes");
}

#[test]
fn who_reads_a_report_while_it_is_drawn_again_has_a_whole_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let mut all = two_engines(|_, _| 1.0);
    report(&all.rows).write(path).expect("it can be written");
    let opened = [("report.html", "page"), ("figures/latency.svg", "figure")].map(|(name, kept)| {
        let before = fs::read(path.join(name)).expect("it was written");
        fs::hard_link(path.join(name), path.join(kept)).expect("both are in one directory");
        (name, kept, before)
    });
    all.add(&Case { load: Some(0.9), engine: "pool", configuration: "engine=pool".to_owned(), ..Case::default() });
    report(&all.rows).write(path).expect("it can be written");
    for (name, kept, before) in opened {
        assert!(fs::read(path.join(kept)).expect("it is open") == before, "{name} was changed under its reader");
        assert!(fs::read(path.join(name)).expect("it was written") != before, "{name} is not the new one");
    }
    let names: Vec<String> = files(path).into_iter().map(|(name, _)| name).collect();
    assert!(!names.iter().any(|name| name.ends_with(".new")), "{names:?}");
}

#[test]
fn what_cannot_be_read_is_named_with_its_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let (code, printed, messages) = redrawn(&path.join("none"));
    assert_eq!((code, printed.as_str()), (1, ""));
    check_says(&messages, &["none/rows.jsonl: No such file"]);

    let rows = Rows::new(12).add(&Case::default()).rows.clone();
    write_rows(path, &rows);
    let whole = fs::read_to_string(path.join("rows.jsonl")).expect("it was written");
    let write = |text: &str| fs::write(path.join("rows.jsonl"), text).expect("it can be written");
    let second = whole.replacen("maitred.row/1", "maitred.row/9", 2).replacen("maitred.row/9", "maitred.row/1", 1);
    write(&second);
    let (code, _, messages) = redrawn(path);
    assert_eq!(code, 78);
    check_says(&messages, &["rows.jsonl:2: its schema is maitred.row/9, not maitred.row/1"]);

    let broken = whole.lines().enumerate().map(|(at, line)| if at == 2 { "{\"schema\":7}" } else { line });
    write(&(broken.collect::<Vec<_>>().join("\n") + "\n"));
    let (code, _, messages) = redrawn(path);
    assert_eq!(code, 78);
    check_says(&messages, &["rows.jsonl:3: invalid type"]);
    assert!(!path.join("report.html").exists(), "nothing is drawn of rows that are none");

    write(&whole[..whole.len() - 20]);
    let (code, printed, messages) = redrawn(path);
    assert_eq!(code, 0, "{messages}");
    check_says(&messages, &["rows.jsonl:7: the last row was cut off, and is left out"]);
    check_says(&printed, &["6 runs of 1 configuration at 1 point were measured."]);

    write(&whole);
    fs::write(path.join("host.json"), "{\n\"cpu\" 1}").expect("it can be written");
    let (code, _, messages) = redrawn(path);
    assert_eq!(code, 78);
    check_says(&messages, &["host.json:2: expected `:`"]);
}
