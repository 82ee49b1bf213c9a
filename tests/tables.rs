//! The tables of `design`, made of committed rows: each stands between markers that name its rows and the command that
//! makes it again, and is rendered here in memory and compared. `MAITRED_SPLICE=1` writes it into its page instead.

#[path = "support/tables.rs"]
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use maitred::engine::ENGINES;
use serde_json::{Value, json};
use tables::{Marker, markers, render_engines, render_limits};

/// Repairs what this test finds.
const REPAIR: &str = "MAITRED_SPLICE=1 cargo test --test tables";

/// The page that must have a table of all engines.
const ENGINES_PAGE: &str = "design/engines/README.md";

#[test]
fn tables_are_those_of_their_rows() {
    let splice = std::env::var_os("MAITRED_SPLICE").is_some_and(|value| value == "1");
    let mut found = Vec::new();
    let mut stale = Vec::new();
    for path in pages() {
        let shown = path.strip_prefix(root()).expect("it lies in the repository").display().to_string();
        let page = fs::read_to_string(&path).expect("a page is text");
        let mut fresh = page.clone();
        // From the last one on, so that those before it stay where they are.
        for Marker { kind, rows, begin, end } in markers(&page, &shown).into_iter().rev() {
            let render = match kind.as_str() {
                "engines" => render_engines,
                "limits" => render_limits,
                _ => panic!("{shown}: there is no table of the kind {kind}"),
            };
            let text =
                fs::read_to_string(root().join(&rows)).unwrap_or_else(|error| panic!("{shown}: {rows}: {error}"));
            let rows: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{rows}: {error}"));
            fresh.replace_range(begin..end, &render(&rows));
            found.push(shown.clone());
        }
        if fresh != page {
            match splice {
                true => fs::write(&path, fresh).expect("the page can be written"),
                false => stale.push(shown),
            }
        }
    }
    assert!(found.iter().any(|page| page == ENGINES_PAGE), "{ENGINES_PAGE} has no table of the engines");
    assert!(stale.is_empty(), "no longer what their rows say: {}; run {REPAIR}", stale.join(", "));
}

#[test]
fn every_engine_is_in_the_table() {
    let page = fs::read_to_string(root().join(ENGINES_PAGE)).expect("there is the page");
    for Marker { rows, .. } in markers(&page, ENGINES_PAGE).into_iter().filter(|marker| marker.kind == "engines") {
        let text = fs::read_to_string(root().join(&rows)).expect("there are rows");
        let all: Value = serde_json::from_str(&text).expect("they are JSON");
        let has = |engine: &str, load: &str| {
            let rows = all["rows"].as_array().expect("there are rows");
            rows.iter().any(|row| row["engine"] == engine && row["load"] == load)
        };
        for engine in ENGINES {
            for load in ["steady", "churn", "idle"] {
                assert!(
                    has(engine.name, load),
                    "{rows} has no row {load} of the engine {}; measure again with `cargo bench --bench limit -- engines \
                     --json {rows}`, then run {REPAIR}",
                    engine.name
                );
            }
        }
    }
}

#[test]
fn what_is_not_known_has_a_footnote_and_what_is_known_its_spread() {
    let spread = |median: f64| {
        json!({"median": median, "lowest": median / 2.0, "highest": median * 2.0,
        "values": [median / 2.0, median * 2.0], "reason": null})
    };
    let unknown =
        json!({"median": null, "lowest": null, "highest": null, "values": [null, null], "reason": "ended unseen"});
    let row = |engine: &str, load: &str, factor: f64, switches: &Value| {
        json!({"engine": engine, "load": load, "connections": 1, "settings": "", "note": null, "reason": null,
            "failures": [], "figures": {"requests_per_s": spread(100_000.0 * factor), "p50_ns": spread(1_234_567.0),
            "p99_ns": spread(12_345.0), "cpu_ns_per_request": spread(9_876.0), "switches_per_request": switches}})
    };
    let idle = |engine: &str, note: Value, reason: Value, figures: Value| {
        json!({"engine": engine, "load": "idle", "connections": 9, "settings": "--few 2", "note": note, "reason": reason,
            "failures": ["it broke"], "figures": figures})
    };
    let all = json!({
        "schema": "maitred.engines/1",
        "host": {"cpu": "Thing", "cpus": 2, "kernel": "6.1"},
        "options": {"rounds": 2, "window_s": 0.5, "warmup_s": 0.3, "idle_connections": 9, "placement": "nobody pinned"},
        "disturbance": {"other_programs_cpus": spread(0.1), "stolen_cpus": spread(0.02)},
        "rows": [
            row("bare-1", "steady", 1.0, &spread(0.5)), row("slow", "steady", 0.25, &unknown),
            row("bare-1", "churn", 1.0, &unknown), row("slow", "churn", 0.25, &unknown),
            idle("bare-1", json!(null), json!("refused"), json!({})),
            idle("slow", json!("fewer"), json!(null), json!({"bytes_per_connection": spread(2048.0)})),
        ],
    });
    let text = render_engines(&all);
    assert_eq!(text, render_engines(&all), "same rows, same bytes");
    let lines: Vec<&str> =
        text.lines().map(str::trim_end).filter(|line| line.starts_with("| `") || line.starts_with('(')).collect();
    assert_eq!(
        lines,
        [
            "| `bare-1` | 100 (50.0–200) | 1.00 | 1,235 (617–2,469) | 12.3 (6.17–24.7) | 9.88 (4.94–19.8) | 1.00 \
         | 0.500 (0.250–1.00) | - (a) |",
            "| `slow` | 25.0 (12.5–50.0) | 0.25 | 1,235 (617–2,469) | 12.3 (6.17–24.7) | 9.88 (4.94–19.8) | 1.00 | - (b) \
         | 2.00 (1.00–4.00) (c, d, e) |",
            "| `bare-1` | 100 (50.0–200) | 1.00 | 1,235 (617–2,469) | 12.3 (6.17–24.7) | 9.88 (4.94–19.8) | 1.00 | - (b) |",
            "| `slow` | 25.0 (12.5–50.0) | 0.25 | 1,235 (617–2,469) | 12.3 (6.17–24.7) | 9.88 (4.94–19.8) | 1.00 | - (b) |",
            "(a) refused.",
            "(b) ended unseen.",
            "(c) fewer.",
            "(d) with `--few 2`.",
            "(e) without 1 of the rounds, which failed: it broke.",
        ]
    );
}

#[test]
fn a_variant_is_held_to_those_that_it_was_compared_with() {
    let figure = |variant: &str, metric: &str, ratios: Value| json!({"variant": variant, "metric": metric, "median": 9_101.4, "ratios": ratios});
    let ratio = json!({"to": "ring-1", "ratio": {"center": 1.0126, "low": 0.99, "high": 1.04}});
    let metrics = [
        figure("bare-1", "CPU ns/request", json!([])),
        figure("event-loop", "CPU ns/request", json!([ratio])),
        figure("event-loop", "p99 ns", json!([ratio])),
    ];
    let row =
        json!({"load": "some load", "placement": "nobody pinned", "rounds": 2, "window_s": 0.5, "metrics": metrics});
    let host = json!({"cpu": "Thing", "cpus": 2, "kernel": "6.1"});
    let text = render_limits(&json!({"schema": "maitred.limit/1", "host": host, "rows": [row]}));
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(
        lines,
        [
            "Measured on Thing, 2 processors, Linux 6.1.",
            "**some load**; nobody pinned; 2 rounds of 0.5 s",
            "| variant | CPU ns per request | to `bare-1` | to `ring-1` |",
            "|---|--:|--:|--:|",
            "| `bare-1` | 9,101 |  |  |",
            "| `event-loop` | 9,101 |  | 1.013 [0.990, 1.040] |",
        ]
    );
}

#[test]
fn markers_name_their_rows() {
    let page = "a\n<!-- BEGIN table engines: x/y.json (regenerate: z) -->\nold\n<!-- END table -->\nb\n";
    let found = markers(page, "page");
    let [Marker { kind, rows, begin, end }] = &found[..] else { panic!("one") };
    assert_eq!((kind.as_str(), rows.as_str(), &page[*begin..*end]), ("engines", "x/y.json", "old\n"));
    assert!(markers("no table\n", "page").is_empty());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages that may have tables.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("design")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be listed") {
            let path = entry.expect("a folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
