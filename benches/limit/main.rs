//! The speed limit that the daemon is held to: a bare edge-triggered epoll echo loop, beside it a bare `io_uring` loop, and a
//! comparison that loads the servers in turns and prints ratios. The load is that of `maitred load`, held to the same loop by `-- generator`.
//!
//! `cargo bench --bench limit` compares every row; `-- --rows list` names the rows, and `-- serve` runs the loop by hand.
//! Only ratios of interleaved runs mean anything: absolute figures drift with the machine, and the A/A pair beside each
//! ratio says what the rounds can resolve.
//!
//! Reading order: [`bare`] is the loop, [`ring`] the one by completion, [`load`] the load in turns, [`idle`] the load that does nothing, [`rows`] the
//! goals, [`statistics`] the interval, [`process`] how servers are started and stopped, [`machine`] what else runs,
//! [`compare`] the rounds, [`report`] the table, [`engines`] every engine under the same loads, [`broadcast`] the same for one
//! message to many, [`generator`] the comparison of the load itself, [`timer`] how late it sends,
//! [`work`] what a framed request costs beside an echo.

mod bare;
mod broadcast;
mod compare;
mod engines;
mod generator;
mod idle;
mod load;
mod machine;
mod process;
mod report;
mod ring;
mod rows;
mod statistics;
mod timer;
mod work;

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, io};

use clap::{Args, Parser, Subcommand};
use maitred::random::Random;
use maitred::units::{parse_duration, parse_size};

/// What was typed after `cargo bench --bench limit --`.
#[derive(Parser)]
#[command(name = "limit", about = "Holds the daemon to the speed of a bare epoll loop")]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Subcommand)]
enum Command {
    /// Interleave the daemon with the bare loop and print ratios (the default)
    Compare(Compare),
    /// Run the bare echo loop until stdin closes
    Serve(Serve),
    /// Measure every engine under the same loads, for the table of `design/engines`
    Engines(Engines),
    /// Compare the load generator itself with the bare loop that it loads
    Generator(Generator),
    /// Compare chat with a bare loop that writes each message to everybody
    Broadcast(Broadcast),
    /// Compare work that takes no time with echo, on the daemon itself
    Work(Work),
    /// Measure how late the load generator takes up what is due
    Timer(Generator),
    /// Become PROGRAM on a given CPU, and die with the parent
    #[command(hide = true)]
    Launch(Launch),
}

#[derive(Args)]
struct Compare {
    /// Rows to measure, separated by commas; `list` prints them
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    rows: Vec<String>,
    /// The daemon to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_maitred"), value_name = "PATH")]
    maitred: PathBuf,
    /// More arguments for `maitred serve`, split at spaces, after those of the row
    #[arg(long, default_value = "", allow_hyphen_values = true, value_name = "ARGS")]
    maitred_args: String,
    /// One more variant of the daemon, with arguments of its own; repeatable
    #[arg(long, value_parser = also, value_name = "NAME=ARGS")]
    also: Vec<(String, String)>,
    /// Only these variants (say `bare-1,bare-1-again,maitred`)
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    variants: Vec<String>,
    #[command(flatten)]
    turns: Turns,
    /// Write every run and every ratio to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Engines {
    /// Engines to measure, separated by commas, beside the bare loop `bare-1`; without it every one, and `ring-1`
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    engines: Vec<String>,
    /// The daemon to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_maitred"), value_name = "PATH")]
    maitred: PathBuf,
    /// How often each engine has its turn at each load
    #[arg(long, default_value_t = 5, value_parser = count)]
    rounds: usize,
    /// What is measured of one load in one round
    #[arg(long, default_value = "1s", value_parser = window)]
    window: Duration,
    /// Load on the new server before that
    #[arg(long, default_value = "300ms", value_parser = parse_duration)]
    warmup: Duration,
    /// Idle connections; fewer where each is a process
    #[arg(long, default_value_t = 1000, value_parser = count)]
    idle: usize,
    /// Decides the order of engines and the bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The server on one CPU, the load on another
    #[arg(long)]
    pin: bool,
    /// Write the rows to FILE
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
}

#[derive(Args)]
struct Broadcast {
    /// The daemon to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_maitred"), value_name = "PATH")]
    maitred: PathBuf,
    /// One variant of the daemon, with arguments of its own; repeatable [default: event-loop and pool]
    #[arg(long, value_parser = also, value_name = "NAME=ARGS")]
    variant: Vec<(String, String)>,
    /// Flags of the load, behind `chat`
    #[arg(long, default_value = broadcast::LOAD, allow_hyphen_values = true)]
    load: String,
    #[command(flatten)]
    turns: Turns,
    /// Write every run and every ratio to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Work {
    /// The daemon to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_maitred"), value_name = "PATH")]
    maitred: PathBuf,
    /// Arguments for `maitred serve`, split at spaces, the same for echo and work
    #[arg(long, default_value = "--workers 1", allow_hyphen_values = true, value_name = "ARGS")]
    maitred_args: String,
    /// Flags of the load, the same for echo and work
    #[arg(long, default_value = "--connections 64 --size 64", allow_hyphen_values = true)]
    load: String,
    #[command(flatten)]
    turns: Turns,
    /// Write every run and every ratio to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Of the two that measure the load itself.
#[derive(Args)]
struct Generator {
    #[command(flatten)]
    turns: Turns,
    /// Write every run and every ratio to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How much is measured, in which pieces and in which order.
#[derive(Args)]
struct Turns {
    /// Fewest and most rounds of a row
    #[arg(long, default_value = "6..40", value_parser = rounds, value_name = "MIN..MAX")]
    rounds: RangeInclusive<usize>,
    /// What is measured of one server in one round
    #[arg(long, default_value = "1s", value_parser = window)]
    window: Duration,
    /// The servers take turns, a slice of the window each
    #[arg(long, default_value = "100ms", value_parser = window)]
    slice: Duration,
    /// Load on a new server before its first slice
    #[arg(long, default_value = "200ms", value_parser = parse_duration)]
    warmup: Duration,
    /// Decides the order of servers and all arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Turns {
    /// What decides in one round.
    fn random(&self, round: usize) -> Random {
        Random::new(self.seed.wrapping_mul(1_000_003).wrapping_add(round as u64))
    }
}

#[derive(Args)]
struct Serve {
    /// Loops, each with a listener of its own on the same port
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Size of one read
    #[arg(long, default_value = "64KiB", value_parser = read_size)]
    read: usize,
    /// By completion (io_uring) rather than by readiness (epoll)
    #[arg(long)]
    ring: bool,
    /// Write what one connection sends to all others, as chat does, instead of back
    #[arg(long, conflicts_with = "ring")]
    broadcast: bool,
    /// Buffers of a ring, of the size of one read each; a power of two
    #[arg(long, default_value_t = ring::BUFFERS, requires = "ring", value_parser = buffers, value_name = "COUNT")]
    buffers: u16,
    /// CPU to run on
    #[arg(long, value_name = "CPU")]
    pin: Option<usize>,
}

#[derive(Args)]
struct Launch {
    #[arg(long)]
    parent: i32,
    #[arg(long)]
    cpu: Option<usize>,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    // Cargo appends `--bench` under `cargo bench`, and nothing under `cargo test --benches`, where
    // minutes of load would be a surprise.
    let mut arguments: Vec<OsString> = env::args_os().collect();
    let asked_for = arguments.len() > 1;
    if arguments.last().is_some_and(|last| last == "--bench") {
        arguments.pop();
    }
    if !asked_for {
        eprintln!("limit: measures under `cargo bench --bench limit`; see `--help`");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse_from(arguments);
    let command = arguments.command.unwrap_or(Command::Compare(arguments.compare));
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("limit: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> io::Result<()> {
    match command {
        Command::Compare(compare) => compare::run(&compare::Plan {
            rows: compare.rows,
            maitred: compare.maitred,
            maitred_args: words(&compare.maitred_args),
            also: (compare.also.into_iter()).map(|(name, arguments)| (name, words(&arguments))).collect(),
            variants: compare.variants,
            turns: compare.turns,
            json: compare.json,
        }),
        Command::Serve(serve) => {
            process::pin(serve.pin)?;
            match (serve.ring, serve.broadcast) {
                (true, _) => ring::run(serve.threads, serve.read, serve.buffers),
                (_, true) => broadcast::serve(),
                _ => bare::run(serve.threads, serve.read),
            }
        }
        Command::Engines(engines) => engines::run(&engines),
        Command::Broadcast(broadcast) => broadcast::run(&broadcast),
        Command::Generator(generator) => generator::run(&generator.turns, generator.json.as_deref()),
        Command::Work(work) => work::run(&work),
        Command::Timer(timer) => timer::run(&timer.turns, timer.json.as_deref()),
        Command::Launch(launch) => Err(process::become_program(launch.parent, launch.cpu, &launch.command)),
    }
}

/// A duration that something can happen in.
fn window(text: &str) -> Result<Duration, &'static str> {
    match parse_duration(text)? {
        Duration::ZERO => Err("is too short to measure anything"),
        window => Ok(window),
    }
}

fn count(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(count @ 1..) => Ok(count),
        _ => Err("is no count from 1 on"),
    }
}

fn read_size(text: &str) -> Result<usize, &'static str> {
    match parse_size(text)? {
        0 => Err("is too small"),
        bytes => Ok(bytes),
    }
}

fn buffers(text: &str) -> Result<u16, &'static str> {
    match text.parse() {
        Ok(count @ 1..=32_768_u16) if count.is_power_of_two() => Ok(count),
        _ => Err("is no power of two up to 32768"),
    }
}

/// `6..40`, or `8` for exactly eight.
fn rounds(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    match (least.parse(), most.parse()) {
        (Ok(least), Ok(most)) if 1 <= least && least <= most => Ok(least..=most),
        _ => Err(format!("`{text}` is not MIN..MAX")),
    }
}

fn also(text: &str) -> Result<(String, String), String> {
    let (name, arguments) = text.split_once('=').ok_or("expected NAME=ARGS")?;
    Ok((name.into(), arguments.into()))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}
