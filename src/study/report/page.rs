//! The page: everything of a report in one file that needs no network and no script, light or dark, on a screen or on paper.
//!
//! It is HTML that reads as XML as well, so that a test can hold it to be well-formed. All text that comes from rows is
//! escaped here. What belongs into it is decided elsewhere. Read next: `page.css`.

use std::fmt::Write;

use serde_json::Value;

use super::digest::Digest;
use super::figures::{Drawing, Figure, KINDS, dark_rules, escaped};
use super::findings::Findings;
use super::tables::Table;
use super::words::{counted, listed};
use crate::study::row::Row;

/// So many figures of a kind are open on the page; more are folded.
const OPEN: usize = 4;

/// What a page is made of.
pub(super) struct Page<'p> {
    pub(super) digest: &'p Digest<'p>,
    pub(super) findings: &'p Findings,
    pub(super) figures: &'p [Figure],
    pub(super) tables: Vec<Table>,
    pub(super) plan: Option<&'p str>,
    pub(super) host: Option<&'p Value>,
}

impl Page<'_> {
    /// The whole file.
    pub(super) fn html(&self) -> String {
        let mut html = String::new();
        let _ = write!(
            html,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" \
             content=\"width=device-width,initial-scale=1\"/>\n<title>maitred study</title>\n<style>\n{}@media screen and \
             (prefers-color-scheme:dark){{\n{}}}\n</style>\n</head>\n<body>\n<main>\n",
            include_str!("page.css"),
            dark_rules("svg ")
        );
        self.head(&mut html);
        self.draw(&mut html);
        for (number, table) in self.tables.iter().enumerate() {
            write_table(&mut html, number, table);
        }
        self.machine(&mut html);
        html.push_str("</main>\n</body>\n</html>\n");
        html
    }

    fn head(&self, html: &mut String) {
        let facts = facts(self.digest);
        let _ =
            writeln!(html, "<h1>What this study found</h1>\n<p class=\"facts\">{}</p>", escaped(&facts.join(" · ")));
        let sentences = self.findings.sentences.iter().map(|sentence| format!("<span>{}</span>", escaped(sentence)));
        let sentences: Vec<String> = sentences.collect();
        let _ = writeln!(html, "<p class=\"findings\" id=\"findings\">\n{}\n</p>", sentences.join("\n"));
        if !self.findings.caveats.is_empty() {
            html.push_str("<h3 id=\"caveats\">Before you believe it</h3>\n<ul>\n");
            for caveat in &self.findings.caveats {
                let _ = writeln!(html, "<li>{}</li>", escaped(caveat));
            }
            html.push_str("</ul>\n");
        }
    }

    fn draw(&self, html: &mut String) {
        html.push_str("<h2>Figures</h2>\n");
        for kind in KINDS {
            let own = self.figures.iter().filter(|figure| figure.kind() == *kind);
            let drawn: Vec<(&Figure, &Drawing)> =
                own.filter_map(|figure| Some((figure, figure.drawing.as_ref().ok()?))).collect();
            let (open, folded) = drawn.split_at(drawn.len().min(OPEN));
            open.iter().for_each(|drawn| write_figure(html, *drawn));
            if folded.is_empty() {
                continue;
            }
            let titles: Vec<String> = folded.iter().map(|(figure, _)| escaped(&figure.title)).collect();
            let _ = writeln!(html, "<details>\n<summary>{} more: {}</summary>", folded.len(), titles.join("; "));
            folded.iter().for_each(|drawn| write_figure(html, *drawn));
            html.push_str("</details>\n");
        }
        let absent: Vec<String> = (self.figures.iter())
            .filter_map(|figure| Some(format!("<li>{}: {}.</li>", escaped(&figure.title), escaped(figure.reason()?))))
            .collect();
        if !absent.is_empty() {
            let _ =
                writeln!(html, "<p class=\"note\">Not drawn:</p>\n<ul class=\"note\">\n{}\n</ul>", absent.join("\n"));
        }
    }

    fn machine(&self, html: &mut String) {
        if let Some(host) = self.host {
            html.push_str("<h2>The machine</h2>\n<div class=\"scroll\"><table>\n");
            let mut facts = Vec::new();
            flatten("", host, &mut facts);
            for (name, value) in facts {
                let (name, value) = (escaped(&name), escaped(&value));
                let _ = writeln!(html, "<tr><td class=\"w\">{name}</td><td class=\"w v\">{value}</td></tr>");
            }
            html.push_str("</table></div>\n");
        }
        if let Some(plan) = self.plan {
            let lines: Vec<String> = plan.lines().map(escaped).collect();
            let _ = writeln!(html, "<h2>The plan, as it was run</h2>\n<pre>{}</pre>", lines.join("\n"));
        }
    }
}

/// What all rows have in common, in a few words each.
fn facts(digest: &Digest<'_>) -> Vec<String> {
    let several = |of: &dyn Fn(&Row) -> String| {
        let mut seen: Vec<String> = Vec::new();
        for row in &digest.rows {
            let word = of(row);
            if !word.is_empty() && !seen.contains(&word) {
                seen.push(word);
            }
        }
        seen
    };
    if digest.rows.is_empty() {
        return Vec::new();
    }
    let engines = several(&|row| row.parameters.engine.clone());
    let asked = several(&|row| {
        let parameters = &row.parameters;
        let kind = parameters.kind.as_ref().map(|kind| format!(" {kind}")).unwrap_or_default();
        format!("{}{kind}", parameters.service)
    });
    let demands = several(&|row| row.parameters.demand.clone().unwrap_or_default());
    let cores = several(&|row| {
        let cores = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let parameters = &row.parameters;
        format!(
            "server on {} {}, load on {} ({})",
            if parameters.server_cores.len() == 1 { "core" } else { "cores" },
            cores(&parameters.server_cores),
            cores(&parameters.load_cores),
            parameters.pin.name()
        )
    });
    let lengths = several(&|row| format!("{} s", row.parameters.duration_s));
    let many = |items: Vec<String>, noun: &str| match items.len() {
        0 => None,
        1..=4 => Some(listed(&items)),
        many => Some(counted(many, noun)),
    };
    let mut facts = vec![counted(digest.rows.len(), "run")];
    facts.extend(many(engines, "engine"));
    facts.extend(many(asked, "service"));
    facts.extend(many(demands, "demand"));
    facts.extend(many(lengths, "length").map(|lengths| format!("windows of {lengths}")));
    facts.push(counted(digest.repeats, "repeat"));
    facts.extend(many(cores, "placement"));
    facts
}

fn write_figure(html: &mut String, (figure, drawing): (&Figure, &Drawing)) {
    let _ = writeln!(
        html,
        "<figure id=\"{}\">\n{}<figcaption>{}</figcaption>\n</figure>",
        figure.name,
        drawing.inline(),
        escaped(&figure.caption)
    );
}

fn write_table(html: &mut String, number: usize, table: &Table) {
    let Table { title, note, heads, rows, words, wraps } = table;
    let _ = writeln!(html, "<h2 id=\"table-{}\">{}</h2>", number + 1, escaped(title));
    if !note.is_empty() {
        let _ = writeln!(html, "<p class=\"note\">{}</p>", escaped(note));
    }
    let class = |column: usize| match column {
        column if *wraps == Some(column) => " class=\"w v\"",
        column if column < *words => " class=\"w\"",
        _ => "",
    };
    html.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    for (column, head) in heads.iter().enumerate() {
        let _ = write!(html, "<th{}>{}</th>", class(column), escaped(head));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(html, "<td{}>{}</td>", class(column), set_back(&escaped(cell)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table></div>\n");
}

/// An interval behind a number stands back.
fn set_back(cell: &str) -> String {
    match cell.split_once(" [") {
        Some((number, interval)) if cell.ends_with(']') => format!("{number} <small>[{interval}</small>"),
        _ => cell.to_owned(),
    }
}

/// The values of an object by their paths, in the order in which they stand.
fn flatten(path: &str, value: &Value, into: &mut Vec<(String, String)>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| flatten(&below(name), value, into)),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().enumerate().for_each(|(at, item)| flatten(&below(&at.to_string()), item, into));
        }
        Value::Array(items) => {
            into.push((path.to_owned(), items.iter().map(plain).collect::<Vec<_>>().join(", ")));
        }
        Value::Null => {}
        value => into.push((path.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
