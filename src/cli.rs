//! [`Args`]: what the user typed, one field per flag, with its help text.
//!
//! Values stay text here: `config.rs` gives a flag the same meaning as the key of the file, and one error for both.
//! What a flag does when it is left out comes from there as well. The flags of a load are in `cli/load.rs`, and their
//! meaning in `load/plan.rs`; those of a simulation in `cli/simulate.rs` and `simulate/plan.rs`; those of a study in
//! `cli/study.rs` and `study/plan.rs`; those of a cell in `cli/cell.rs` and `cell/command.rs`. Read next:
//! [`Config`](crate::config::Config).

mod cell;
mod load;
mod simulate;
mod study;

use std::path::PathBuf;

use clap::{Args as Arguments, CommandFactory, Parser, Subcommand, ValueHint};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::config::{self, default_of};
use crate::engine::ENGINES;
use crate::service::SERVICES;

pub use self::cell::{CellArgs, CellCommand, WatchArgs};
pub use self::load::LoadArgs;
pub use self::simulate::SimulateArgs;
pub use self::study::{CompareArgs, StudyArgs};

/// A command line that clap has let through.
#[derive(Parser, Debug)]
#[command(
    name = "maitred",
    version,
    about = "A network daemon: one poller, a bounded service queue, a worker pool as large as the machine",
    after_help = EXIT_CODES,
    max_term_width = 100,
    disable_help_subcommand = true,
    infer_long_args = false,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the daemon
    #[command(after_help = serve_notes())]
    Serve(ServeArgs),
    /// Read a configuration and print the effective one as TOML; binds nothing
    #[command(after_help = EXIT_CODES)]
    Check(ServeArgs),
    /// Put load on any TCP or UDP server and report what it did
    #[command(after_help = load::NOTES)]
    Load(LoadArgs),
    /// Predict waits and latencies by queueing theory and a seeded simulator
    #[command(after_help = simulate::NOTES)]
    Simulate(SimulateArgs),
    /// Run a plan of measurements over engines, worker counts and loads
    #[command(after_help = study::STUDY_NOTES)]
    Study(StudyArgs),
    /// Compare two studies or two loads: ratios with confidence intervals
    #[command(after_help = study::COMPARE_NOTES)]
    Compare(CompareArgs),
    /// Draw the report of a finished study again from its rows, and print what it found
    #[command(after_help = REPORT_NOTES)]
    Report {
        /// The study's directory
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
    /// Get, set or watch a value that processes share by a file
    #[command(after_help = cell::NOTES, subcommand_required = true, arg_required_else_help = true,
        disable_help_subcommand = true)]
    Cell(CellArgs),
    /// Print the completions for a shell
    Completions {
        /// The shell that will read them
        shell: clap_complete::Shell,
    },
    /// Print the manual page: maitred man | man -l -
    Man,
}

const REPORT_NOTES: &str = "\
Reads rows.jsonl in DIR, and plan.toml and host.json if they are there. Writes report.html and figures/*.svg beside
them: the same rows make the same bytes. What was found goes to stdout.

Exit codes: 0 done, 1 failed while running, 2 wrong usage, 78 a line of rows.jsonl is no row.";

/// The flags of `serve`, which `check` takes as well. None stands for a flag that was not given.
#[derive(Arguments, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Read settings from this TOML file; flags override it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// Where a service listens, as SERVICE=SCHEME://IP:PORT[?key=value&…]; repeatable
    #[arg(long, value_name = "LISTENER", help = listen_help())]
    pub listen: Vec<String>,

    /// What runs the sessions
    #[arg(long, value_name = "NAME", help = with_default("Engine that runs the sessions", config::ENGINE))]
    pub engine: Option<String>,

    /// Threads that run turns
    #[arg(long, value_name = "N|auto", help_heading = SCHEDULING,
        help = with_default("Threads that serve sessions; auto: the cores that the process may use", "auto"))]
    pub workers: Option<String>,

    /// Capacity of the service queue
    #[arg(long, value_name = "N", help_heading = SCHEDULING,
        help = help("queue", "Capacity of the service queue, in sessions; the poller waits while it is full"))]
    pub queue: Option<String>,

    /// When a parked poller polls again
    #[arg(long, value_name = "auto|N|off", help_heading = SCHEDULING,
        help = help("low_water", "When a parked poller polls again: at N sessions left in the queue; auto: when a \
            worker finds none; off: it never parks for a backlog"))]
    pub low_water: Option<String>,

    /// Whom the poller wakes
    #[arg(long, value_name = "auto|each|DURATION", help_heading = SCHEDULING,
        help = help("wake", "Whom the poller wakes; each: a worker per ready session; DURATION: one more worker when \
            more work than that is queued"))]
    pub wake: Option<String>,

    /// Ready sessions per call to the kernel
    #[arg(long, value_name = "N", help_heading = SCHEDULING,
        help = help("batch", "Ready sessions that the poller takes from the kernel in one call"))]
    pub batch: Option<String>,

    /// How long an idle worker spins
    #[arg(long, value_name = "DURATION", help_heading = SCHEDULING,
        help = help("spin", "How long an idle worker looks at the queue before it parks"))]
    pub spin: Option<String>,

    /// Bytes per turn
    #[arg(long, value_name = "SIZE", help_heading = SCHEDULING,
        help = help("budget", "Bytes that a session may move before the others get their turn"))]
    pub budget: Option<String>,

    /// How readiness is asked for
    #[arg(long, value_name = "edge|oneshot", help_heading = SCHEDULING, value_parser = ["edge", "oneshot"],
        hide_possible_values = true,
        help = help("rearm", "How the kernel is asked for readiness; oneshot arms each session again after each turn"))]
    pub rearm: Option<String>,

    /// Whether the poller serves
    #[arg(long, value_name = "on|off", help_heading = SCHEDULING, value_parser = ["on", "off"],
        hide_possible_values = true,
        help = help("assist", "Whether the poller may serve brief sessions itself when a worker would come too late or \
            be no quicker"))]
    pub assist: Option<String>,

    /// Whether workers are pinned
    #[arg(long, value_name = "on|off", help_heading = SCHEDULING, value_parser = ["on", "off"],
        hide_possible_values = true, num_args = 0..=1, require_equals = true, default_missing_value = "on",
        help = help("pin", "Pin each worker, not the poller, to a core of its own; --pin=off overrides the file"))]
    pub pin: Option<String>,

    /// Which loop a session lives on
    #[arg(long, value_name = "reuseport|round-robin|least", help_heading = SCHEDULING,
        value_parser = ["reuseport", "round-robin", "least"], hide_possible_values = true,
        help = help("placement", "event-loops: which loop a new session lives on; reuseport: the kernel chooses; least: \
            the one with the fewest sessions"))]
    pub placement: Option<String>,

    /// Fewest processes
    #[arg(long, value_name = "N", help_heading = SCHEDULING,
        help = help("min_processes", "prefork: never fewer processes than this"))]
    pub min_processes: Option<String>,

    /// Most processes
    #[arg(long, value_name = "N", help_heading = SCHEDULING,
        help = help("max_processes", "prefork: never more processes than this"))]
    pub max_processes: Option<String>,

    /// Fewest free processes
    #[arg(long, value_name = "N", help_heading = SCHEDULING,
        help = help("min_spare", "prefork: grow while fewer processes than this are free"))]
    pub min_spare: Option<String>,

    /// Most free processes
    #[arg(long, value_name = "N", help_heading = SCHEDULING,
        help = help("max_spare", "prefork: shrink while more processes than this are free"))]
    pub max_spare: Option<String>,

    /// Threads for jobs
    #[arg(long, value_name = "N|auto", help_heading = SCHEDULING,
        help = with_default("Threads for work on the processors that belongs on no worker; auto: as many as cores", "auto"))]
    pub jobs: Option<String>,

    /// Threads for files
    #[arg(long, value_name = "N|auto", help_heading = SCHEDULING,
        help = with_default("Threads that read files; auto: twice as many as cores, and 4 at least", "auto"))]
    pub file_jobs: Option<String>,

    /// Jobs that wait
    #[arg(long, value_name = "N", help_heading = SCHEDULING,
        help = help("job_backlog", "How much of such work may wait for a thread; more is done by whoever brings it, but for files, whose clients wait"))]
    pub job_backlog: Option<String>,

    /// Size of a ring
    #[arg(long, value_name = "SIZE", help_heading = LIMITS,
        help = help("ring", "Size of a session's buffer, leased while bytes are in flight"))]
    pub ring: Option<String>,

    /// Memory of all rings
    #[arg(long, value_name = "SIZE", help_heading = LIMITS,
        help = help("max_buffers", "Memory of all leased buffers together"))]
    pub max_buffers: Option<String>,

    /// Longest message
    #[arg(long, value_name = "SIZE", help_heading = LIMITS,
        help = help("max_frame", "Longest message of services whose messages name their length"))]
    pub max_frame: Option<String>,

    /// Longest service time
    #[arg(long, value_name = "DURATION", help_heading = LIMITS,
        help = help("max_demand", "work: the longest service time that a request may name"))]
    pub max_demand: Option<String>,

    /// Sessions open at once
    #[arg(long, value_name = "N", help_heading = LIMITS,
        help = help("max_connections", "Sessions open at once; lowered, with a warning, to what the process may open"))]
    pub max_connections: Option<String>,

    /// Silence that ends a session
    #[arg(long, value_name = "DURATION|off", help_heading = LIMITS,
        help = help("idle_timeout", "Silence in both directions that ends a session"))]
    pub idle_timeout: Option<String>,

    /// Stalled sending that ends a session
    #[arg(long, value_name = "DURATION", help_heading = LIMITS,
        help = help("write_timeout", "How long a peer may take none of the bytes that it is owed"))]
    pub write_timeout: Option<String>,

    /// Longest drain
    #[arg(long, value_name = "DURATION", help_heading = LIMITS,
        help = help("drain_timeout", "How long SIGTERM and SIGINT wait for sessions to end; a second signal does not"))]
    pub drain_timeout: Option<String>,

    /// Whether strangers are answered
    #[arg(long, value_name = "on|off", help_heading = DATAGRAMS, value_parser = ["on", "off"],
        hide_possible_values = true, help = help("udp_public", "Answer datagrams on addresses that others than this machine reach"))]
    pub udp_public: Option<String>,

    /// Answers to one sender
    #[arg(long, value_name = "N|off", help_heading = DATAGRAMS,
        help = help("udp_source_rate", "Answers a second to one sender (IPv6: to one network of 64 bits), at each listener"))]
    pub udp_source_rate: Option<String>,

    /// Answers to all
    #[arg(long, value_name = "N|off", help_heading = DATAGRAMS,
        help = help("udp_total_rate", "Answers a second to all senders together, at each listener"))]
    pub udp_total_rate: Option<String>,

    /// Whether this machine is limited
    #[arg(long, value_name = "on|off", help_heading = DATAGRAMS, value_parser = ["on", "off"],
        hide_possible_values = true, help = help("udp_limit_local", "Whether the rates are for senders on this machine, too"))]
    pub udp_limit_local: Option<String>,

    /// Memory for what is unread
    #[arg(long, value_name = "SIZE", help_heading = DATAGRAMS,
        help = help("udp_buffer", "What the kernel is asked to hold unread for each socket; it takes no more than net.core.rmem_max"))]
    pub udp_buffer: Option<String>,

    /// Several per call
    #[arg(long, value_name = "on|off", help_heading = DATAGRAMS, value_parser = ["on", "off"],
        hide_possible_values = true, help = help("udp_mmsg", "Move several messages per call (recvmmsg, sendmmsg), if the kernel can"))]
    pub udp_mmsg: Option<String>,

    /// Joined answers
    #[arg(long, value_name = "on|off", help_heading = DATAGRAMS, value_parser = ["on", "off"],
        hide_possible_values = true, help = help("udp_gso", "Send answers of one length to one sender as one message that the kernel splits, if it can"))]
    pub udp_gso: Option<String>,

    /// Joined requests
    #[arg(long, value_name = "on|off", help_heading = DATAGRAMS, value_parser = ["on", "off"],
        hide_possible_values = true, help = help("udp_gro", "Receive what came together as one message, if the kernel can"))]
    pub udp_gro: Option<String>,

    /// Summary at exit
    #[arg(long, value_name = "FILE", help_heading = OUTPUT, value_hint = clap::ValueHint::FilePath,
        help = "Write the counters to this file as JSON at exit; the readable form goes to stderr, also on SIGUSR1")]
    pub summary: Option<String>,

    /// Stage times
    #[arg(long, value_name = "on|off", help_heading = OUTPUT, value_parser = ["on", "off"],
        hide_possible_values = true,
        help = help("stages", "Measure the time between ready seen, taken and done, for the summary"))]
    pub stages: Option<String>,
}

const SCHEDULING: &str = "Scheduling";
const LIMITS: &str = "Limits";
const DATAGRAMS: &str = "Datagrams";
const OUTPUT: &str = "Output";

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed while running, 2 wrong usage, 78 wrong configuration file.";

impl ServeArgs {
    /// The settings that were given, by the names that they have in the file, with what was typed.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("engine", &self.engine),
            ("workers", &self.workers),
            ("queue", &self.queue),
            ("low_water", &self.low_water),
            ("wake", &self.wake),
            ("batch", &self.batch),
            ("spin", &self.spin),
            ("budget", &self.budget),
            ("ring", &self.ring),
            ("rearm", &self.rearm),
            ("assist", &self.assist),
            ("pin", &self.pin),
            ("placement", &self.placement),
            ("jobs", &self.jobs),
            ("file_jobs", &self.file_jobs),
            ("job_backlog", &self.job_backlog),
            ("max_frame", &self.max_frame),
            ("max_demand", &self.max_demand),
            ("min_processes", &self.min_processes),
            ("max_processes", &self.max_processes),
            ("min_spare", &self.min_spare),
            ("max_spare", &self.max_spare),
            ("max_buffers", &self.max_buffers),
            ("max_connections", &self.max_connections),
            ("idle_timeout", &self.idle_timeout),
            ("write_timeout", &self.write_timeout),
            ("drain_timeout", &self.drain_timeout),
            ("udp_public", &self.udp_public),
            ("udp_source_rate", &self.udp_source_rate),
            ("udp_total_rate", &self.udp_total_rate),
            ("udp_limit_local", &self.udp_limit_local),
            ("udp_buffer", &self.udp_buffer),
            ("udp_mmsg", &self.udp_mmsg),
            ("udp_gso", &self.udp_gso),
            ("udp_gro", &self.udp_gro),
            ("summary", &self.summary),
            ("stages", &self.stages),
        ];
        all.into_iter().filter_map(|(name, value)| value.as_deref().map(|text| (name, text)))
    }
}

/// The flags of `serve` as a program gives them, and those of `load` behind their target: for those that start both.
///
/// # Errors
/// What is wrong with them, in one line.
pub fn parse_pair(serve: &[String], load: &[String]) -> Result<(ServeArgs, LoadArgs), String> {
    let command = |name: &str, flags: &[String]| {
        let line = ["maitred", name].into_iter().chain(flags.iter().map(String::as_str));
        let first_line = |error: clap::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
        Args::try_parse_from(line).map(|args| args.command).map_err(first_line)
    };
    match (command("serve", serve)?, command("load", load)?) {
        (Command::Serve(serve), Command::Load(load)) => Ok((serve, load)),
        _ => unreachable!("a command line is of the command that it names"),
    }
}

/// The completions of all commands and flags for `shell`.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "maitred", &mut text);
    text
}

/// The manual page: one for the program and all its commands.
pub fn man() -> Vec<u8> {
    let mut command = Args::command();
    command.build();
    let mut page = Vec::new();
    render_man(&command, &mut page).expect("memory takes everything");
    page
}

fn render_man(command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let program = Man::new(command.clone()).manual("maitred");
    program.render_title(page)?;
    program.render_name_section(page)?;
    program.render_synopsis_section(page)?;
    for command in command.get_subcommands() {
        render_command("maitred", command, page)?;
    }
    render_notes(("SH", "NOTES"), &serve_notes(), page)
}

/// The sections of a command and of those below it.
fn render_command(above: &str, command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let name = format!("{above} {}", command.get_name());
    let mut section = Roff::default();
    section.control("SH", [name.to_uppercase().as_str()]);
    section.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default() + ".")]);
    let mut options = Vec::new();
    if command.get_name() == "check" {
        section.text([roman("Takes the options of maitred serve.")]);
    } else {
        Man::new(command.clone().mut_arg("help", |help| help.hide(true))).render_options_section(&mut options)?;
    }
    section.to_writer(page)?;
    // One page for all commands: what would be sections of theirs are parts of the command's section here.
    page.extend(String::from_utf8_lossy(&options).replace(".SH ", ".SS ").into_bytes());
    match command.get_name() {
        "load" => render_notes(("SS", "NOTES"), load::NOTES, page)?,
        "simulate" => render_notes(("SS", "NOTES"), simulate::NOTES, page)?,
        "study" => render_notes(("SS", "NOTES"), study::STUDY_NOTES, page)?,
        "compare" => render_notes(("SS", "NOTES"), study::COMPARE_NOTES, page)?,
        "cell" => render_notes(("SS", "NOTES"), cell::NOTES, page)?,
        _ => {}
    }
    command.get_subcommands().try_for_each(|below| render_command(&name, below, page))
}

/// A section of text whose lines stay as they are.
fn render_notes((control, title): (&str, &str), text: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut notes = Roff::default();
    notes.control(control, [title]).control("nf", []);
    for line in text.lines() {
        notes.text([roman(line)]);
    }
    notes.control("fi", []);
    notes.to_writer(page)
}

fn help(setting: &str, text: &str) -> String {
    with_default(text, &default_of(setting))
}

fn with_default(text: &str, default: &str) -> String {
    format!("{text} [default: {default}]")
}

fn listen_help() -> String {
    "Listen as SERVICE=SCHEME://IP:PORT[?key=value&…], or unix://PATH where a service says so; repeatable, replaces \
     the default listeners below; port 0 lets the system choose"
        .to_owned()
}

/// The engines, the services and where they listen by default, from the registries, and how quantities and signals
/// work.
fn serve_notes() -> String {
    let mut notes = "Engines:\n".to_owned();
    for engine in ENGINES {
        notes.push_str(&format!("  {:22} {}\n", engine.name, engine.about));
    }
    notes.push_str("\nServices:\n");
    for entry in SERVICES {
        let ports = entry.default_listeners.iter().map(|(scheme, port)| format!("{scheme}://127.0.0.1:{port}"));
        let ports = ports.collect::<Vec<_>>().join(" ");
        let ports = if ports.is_empty() { "none" } else { &ports };
        notes.push_str(&format!("  {:10} {}\n  {:10} default listeners: {ports}\n", entry.name, entry.about, ""));
        for (key, expected) in entry.parameters {
            notes.push_str(&format!("  {:10} ?{key}={expected}\n", ""));
        }
    }
    notes.push_str(
        "\n\
         Durations are written 250us, 10ms, 5s, 1m; sizes 64, 16KiB, 1MiB.\n\
         \n\
         In the file every flag has the same name with underscores, as in\n\
         idle_timeout = \"60s\"; listeners are [[listen]] tables with service, scheme\n\
         and address. `maitred check` prints such a file.\n\
         \n\
         stdout carries a line `listening SERVICE SCHEME://IP:PORT` per listener, then\n\
         `ready`. The log goes to stderr; MAITRED_LOG sets its level: error, warn,\n\
         info (default), debug, trace.\n\
         \n\
         SIGTERM, SIGINT  drain and exit; the second time at once\n\
         SIGHUP           read the file again: listeners, workers, limits and\n\
                          timeouts change, what cannot is named in the log\n\
         SIGUSR1          write the summary to stderr\n\
         \n",
    );
    notes.push_str(EXIT_CODES);
    notes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag_and_every_flag_is_given_by_its_name() {
        let command = Args::command();
        let serve = command.find_subcommand("serve").expect("serve is a command");
        let mut line = vec!["maitred".to_owned(), "serve".to_owned()];
        let mut flags = BTreeSet::new();
        for flag in serve.get_arguments().filter_map(|argument| argument.get_long()) {
            if ["config", "listen", "help"].contains(&flag) {
                continue;
            }
            flags.insert(flag.replace('-', "_"));
            let switches =
                ["assist", "stages", "pin", "udp-public", "udp-limit-local", "udp-mmsg", "udp-gso", "udp-gro"];
            let switch = switches.contains(&flag);
            let value = if switch {
                "off"
            } else if flag == "rearm" {
                "edge"
            } else if flag == "placement" {
                "least"
            } else {
                flag
            };
            line.push(format!("--{flag}={value}"));
        }
        let Command::Serve(args) = Args::try_parse_from(line).expect("every flag takes a text").command else {
            panic!("serve was asked for");
        };
        let given: BTreeSet<String> = args.given().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(given, flags);
        let others = ["engine", "summary"].into_iter();
        let settings: BTreeSet<String> = config::setting_names().chain(others).map(str::to_owned).collect();
        assert_eq!(given, settings);
    }
}
