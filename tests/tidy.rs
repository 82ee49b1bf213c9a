//! What the layout promises, read from the sources: arrows between modules, one importing module per crate, a header in
//! every file, no file too long, and links that lead somewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of a file.
const LONGEST: usize = 600;

/// Which modules of the crate each may import. An empty list imports none. A module that is not named here fails.
const ARROWS: &[(&str, &[&str])] = &[
    ("cell", &["cli", "clock", "config", "error", "net", "sync", "units"]),
    ("cli", &["cell", "config", "engine", "load", "service", "simulate", "study", "units"]),
    ("clock", &[]),
    ("config", &["cli", "error", "service", "session", "units"]),
    ("console", &["clock", "net", "session"]),
    ("daemon", &["cli", "clock", "config", "console", "engine", "error", "logging", "metrics", "net", "session"]),
    ("engine", &["clock", "config", "error", "jobs", "logging", "metrics", "net", "session", "sync"]),
    ("digest", &[]),
    ("error", &[]),
    ("jobs", &["session::handler"]),
    ("lib", &[]),
    ("load", &["cli", "clock", "config", "digest", "error", "logging", "metrics", "net", "random", "units"]),
    ("logging", &["net"]),
    ("main", &["cell", "cli", "config", "daemon", "engine", "error", "load", "logging", "simulate", "study"]),
    ("metrics", &["session::guard", "session::handler"]),
    ("net", &[]),
    ("queueing", &[]),
    ("random", &[]),
    ("server", &["config", "daemon", "engine", "error", "metrics", "session"]),
    (
        "service",
        &[
            "cell",
            "error",
            "session::audience",
            "session::datagram",
            "clock::monotonic_ns",
            "clock::wall_time",
            "session::framing",
            "session::handler",
            "session::mailbox",
            "session::operator",
            "session::part",
            "session::upstream",
            "digest",
            "net::files",
            "spend",
            "units",
        ],
    ),
    ("session", &["clock", "sync"]),
    ("simulate", &["cli", "config", "error", "load", "metrics", "queueing", "random", "units"]),
    ("spend", &["clock", "digest", "units"]),
    (
        "study",
        &[
            "cli", "clock", "config", "engine", "error", "load", "logging", "metrics", "net", "queueing", "random",
            "service", "simulate", "units",
        ],
    ),
    ("sync", &[]),
    ("units", &[]),
];

/// What only these files may name, tests apart.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("polling::", &["src/net/poller.rs"]),
    ("epoll::", &["src/net/poller.rs"]),
    ("io_uring::", &["src/net/ring.rs"]),
    ("ringbuf::", &["src/session/buffer.rs"]),
    ("rayon::", &["src/jobs.rs", "src/jobs/line.rs"]),
    ("memchr::", &["src/session/handler.rs"]),
    ("crossbeam_channel::", &["src/engine/pool/service_queue.rs", "src/logging.rs"]),
    ("hdrhistogram::", &["src/metrics/histogram.rs"]),
    ("base64::", &["src/metrics/histogram.rs"]),
    (
        "nix::",
        &[
            "src/net/batch.rs",
            "src/net/children.rs",
            "src/net/files/cache.rs",
            "src/net/nudge.rs",
            "src/net/process.rs",
            "src/net/shared/guard.rs",
        ],
    ),
    ("signal_hook::", &["src/load/interrupt.rs"]),
    ("clap::", &["src/cli.rs", "src/main.rs"]),
    ("jiff::", &["src/service/daytime.rs"]),
    ("plotters::", &["src/study/report/figures/canvas.rs", "src/study/report/figures/theme.rs"]),
    ("sha2::", &["src/digest.rs"]),
    ("Instant::now", &["src/clock.rs"]),
    ("SystemTime::now", &["src/clock.rs"]),
];

#[test]
fn imports_follow_the_arrows() {
    let mut wrong = Vec::new();
    // What a test stands in for, it may import.
    for file in sources().into_iter().filter(|file| !file.path.ends_with("tests.rs")) {
        let module = module_of(&file.path);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: say in tests/tidy.rs what the module {module} may import", file.shown()));
            continue;
        };
        for import in file.imports() {
            let own = import == module || import.starts_with(&format!("{module}::"));
            let is_allowed = |arrow: &str| import == arrow || import.starts_with(&format!("{arrow}::"));
            if !own && !allowed.iter().any(|arrow| is_allowed(arrow)) {
                wrong.push(format!("{}: {module} must not import {import}", file.shown()));
            }
        }
    }
    assert!(wrong.is_empty(), "new arrows:\n{}", wrong.join("\n"));
}

#[test]
fn each_crate_has_its_importing_module() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (name, allowed) in ONLY_IN {
            let is_allowed =
                allowed.iter().any(|path| file.shown() == *path || file.shown().starts_with(&in_folder(path)));
            let named = file.code_without_tests().lines().any(|line| has_path(line, name));
            if named && !is_allowed {
                wrong.push(format!("{}: {name} belongs to {}", file.shown(), allowed.join(" and ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_source_has_a_header_and_is_no_longer_than_agreed() {
    let mut wrong = Vec::new();
    for file in sources().into_iter().chain(read_all("tests", "rs")).chain(read_all("benches", "rs")) {
        if !file.text.starts_with("//! ") {
            wrong.push(format!("{}: the first line is no `//!` header", file.shown()));
        }
        let lines = file.text.lines().count();
        if lines > LONGEST {
            wrong.push(format!("{}: {lines} lines, more than {LONGEST}: look for the second subject", file.shown()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_lead_somewhere_and_named_symbols_are_there() {
    let folders = ["src", "design", "benches", "tests"];
    let mut pages: Vec<Source> = folders.iter().flat_map(|folder| read_all(folder, "md")).collect();
    pages.extend(["README.md", "CHANGELOG.md"].iter().filter_map(|path| Source::read(root().join(path))));
    let mut wrong = Vec::new();
    for page in &pages {
        for (label, target) in links(&page.text) {
            let Some(path) = target.split('#').next().filter(|path| !path.is_empty() && !path.contains("://")) else {
                continue;
            };
            let found = page.path.parent().expect("a file is in a folder").join(path);
            if !found.exists() {
                wrong.push(format!("{}: [{label}]({target}) leads nowhere", page.shown()));
                continue;
            }
            let symbol = label.strip_prefix('`').and_then(|label| label.strip_suffix('`'));
            let Some(symbol) = symbol.filter(|_| found.is_file() && path.ends_with(".rs")) else { continue };
            let text = fs::read_to_string(&found).expect("a source is text");
            for word in symbol_words(symbol) {
                if !has_word(&text, word) {
                    wrong.push(format!("{}: [{label}]({target}): there is no {word}", page.shown()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_readers_of_sources_read_what_is_there() {
    // The readers above would pass over anything if they found nothing.
    let by_module = sources().iter().fold(BTreeMap::new(), |mut counts: BTreeMap<String, usize>, file| {
        *counts.entry(module_of(&file.path)).or_default() += file.imports().len();
        counts
    });
    assert!(by_module["engine"] > 20 && by_module["daemon"] > 5 && by_module["net"] == 0, "{by_module:?}");
    let uses = imports("use crate::a::{b, c::{self, d}};\nuse crate::e;\nuse super::f;\npub(crate) use crate::g as h;");
    assert_eq!(uses, ["a::b", "a::c", "a::c::d", "e", "g"]);
    assert_eq!(links("a [b](c.md) and [`D::e`](f/g.rs#h), `[no](link)`"), [("b", "c.md"), ("`D::e`", "f/g.rs#h")]);
    assert_eq!(symbol_words("Worker::turn()"), ["turn"]);
    assert!(has_word("fn turn(", "turn") && !has_word("fn return_(", "turn"));
}

/// A file of the repository.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn read(path: PathBuf) -> Option<Source> {
        let text = fs::read_to_string(&path).ok()?;
        Some(Source { path, text })
    }

    fn shown(&self) -> String {
        self.path.strip_prefix(root()).expect("it lies in the repository").to_string_lossy().into_owned()
    }

    /// The code without comments, up to its first test module.
    fn code_without_tests(&self) -> String {
        let code: Vec<&str> = self.text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        let end = code.find("#[cfg(test)]\nmod ").into_iter().chain(code.find("#[cfg(all(test,")).min();
        code[..end.unwrap_or(code.len())].to_owned()
    }

    /// What it uses of this crate: by `use`, and by paths that begin with `crate::`.
    fn imports(&self) -> Vec<String> {
        let code = self.code_without_tests();
        let code = if module_of(&self.path) == "main" { code.replace("maitred::", "crate::") } else { code };
        imports(&code)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let sources = read_all("src", "rs");
    assert!(!sources.is_empty(), "there are sources");
    sources
}

/// All files of one kind under a folder, but for what a compiler has left there.
fn read_all(folder: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a folder can be listed").path()) {
            if path.is_dir() {
                folders.extend((!path.ends_with("target")).then_some(path));
            } else if path.extension().is_some_and(|found| found == extension) {
                found.extend(Source::read(path));
            }
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    found
}

/// The top-level module that a source belongs to.
fn module_of(path: &Path) -> String {
    let within = path.strip_prefix(root().join("src")).expect("a source lies in src");
    let first = within.components().next().expect("a file has a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The files that a file may be split into lie in the folder of its name.
fn in_folder(path: &str) -> String {
    format!("{}/", path.trim_end_matches(".rs"))
}

/// Every path after `crate::`, with the groups of a `use` spelled out.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        spell_out("", &code[at + "crate::".len()..], &mut found);
    }
    found
}

/// Adds the paths of the use tree at the start of `code` to `found`; returns what follows it.
fn spell_out<'a>(prefix: &str, code: &'a str, found: &mut Vec<String>) -> &'a str {
    let code = code.trim_start();
    if let Some(mut rest) = code.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if let Some(rest) = rest.strip_prefix('}') {
                return rest;
            }
            if rest.is_empty() {
                return rest;
            }
            rest = spell_out(prefix, rest, found);
        }
    }
    let end = code.find(|after: char| !(after.is_alphanumeric() || after == '_' || after == '*')).unwrap_or(code.len());
    let (word, rest) = code.split_at(end);
    let path = match (prefix, word) {
        ("", word) => word.to_owned(),
        (prefix, "self" | "*") => prefix.to_owned(),
        (prefix, word) => format!("{prefix}::{word}"),
    };
    if let Some(rest) = rest.strip_prefix("::") {
        return spell_out(&path, rest, found);
    }
    found.push(path);
    // A new name does not matter here.
    let rest = rest.trim_start();
    match rest.strip_prefix("as ") {
        Some(renamed) => renamed.trim_start().trim_start_matches(|name: char| name.is_alphanumeric() || name == '_'),
        // Something that can make no progress would never end.
        None if word.is_empty() => rest.get(1..).unwrap_or(""),
        None => rest,
    }
}

/// Whether the line has this path, not as the end of a longer name.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
            && !line[..at].ends_with("crate::")
    })
}

/// (label, target) of every link, code apart.
fn links(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let Some(begin) = line[..at].rfind('[') else { continue };
            let Some(len) = line[at + 2..].find(')') else { continue };
            // Inside code a bracket is only a bracket.
            if line[..begin].matches('`').count() % 2 == 0 {
                found.push((&line[begin + 1..at], &line[at + 2..at + 2 + len]));
            }
        }
    }
    found
}

/// The words of a symbol that must be in its file: the last of its path.
fn symbol_words(symbol: &str) -> Vec<&str> {
    let last = symbol.rsplit("::").next().unwrap_or(symbol);
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    // What is no path of the language, such as a file name or a flag, names no symbol.
    if symbol.contains(|letter: char| "/. -=".contains(letter)) {
        return Vec::new();
    }
    last.split(|letter| !is_word(letter)).filter(|word| !word.is_empty()).take(1).collect()
}

fn has_word(text: &str, word: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word))
}
