//! The speed limit that the daemon is held to: a bare edge-triggered epoll echo loop, a load that
//! verifies every reply, and a comparison that interleaves the two servers and prints ratios.
//!
//! `cargo bench --bench limit` compares every row; `-- --rows list` names the rows, `-- serve` and
//! `-- load` run one half by hand. Only ratios of interleaved runs mean anything: absolute figures
//! drift with the machine, and the A/A pair beside each ratio says what the rounds can resolve.
//!
//! Reading order: [`bare`] is the loop, [`client`] the load and [`pattern`] its bytes, [`idle`] the
//! load that does nothing, [`account`] what `/proc` says of the server, [`rows`] the goals, [`statistics`] the interval, [`process`] how servers are started
//! and stopped, [`compare`] the rounds, [`report`] the table.

mod account;
mod bare;
mod client;
mod compare;
mod idle;
mod pattern;
mod process;
mod random;
mod report;
mod rows;
mod statistics;

use std::ffi::OsString;
use std::net::SocketAddrV4;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, io};

use clap::{Args, Parser, Subcommand};

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
    /// Put load on an echo server and print one line of JSON
    Load(Load),
    /// Become PROGRAM on a given CPU, and die with the parent
    #[command(hide = true)]
    Launch(Launch),
}

#[derive(Args)]
struct Compare {
    /// Rows to measure, separated by commas; `list` prints them
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    rows: Vec<String>,
    /// Fewest and most rounds of a row
    #[arg(long, default_value = "6..40", value_parser = rounds, value_name = "MIN..MAX")]
    rounds: RangeInclusive<usize>,
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
    /// What is measured of one variant in one round
    #[arg(long, default_value = "1s", value_parser = window)]
    window: Duration,
    /// The variants take turns, a slice of the window each
    #[arg(long, default_value = "100ms", value_parser = window)]
    slice: Duration,
    /// Load on a new server before its first slice
    #[arg(long, default_value = "200ms", value_parser = duration)]
    warmup: Duration,
    /// Decides the order of variants and all arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write every run and every ratio to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Serve {
    /// Loops, each with a listener of its own on the same port
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Size of one read
    #[arg(long, default_value = "64KiB", value_parser = size)]
    read: usize,
    /// CPU to run on
    #[arg(long, value_name = "CPU")]
    pin: Option<usize>,
}

#[derive(Args)]
struct Load {
    address: SocketAddrV4,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Bytes of one request and of its reply
    #[arg(long, default_value = "64", value_parser = size)]
    size: usize,
    /// Closed loop: requests in flight on each connection
    #[arg(long, default_value_t = 1, conflicts_with = "rate")]
    depth: usize,
    /// Open loop: requests per second over all connections, Poisson
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value = "1s", value_parser = window)]
    duration: Duration,
    #[arg(long, default_value = "300ms", value_parser = duration)]
    warmup: Duration,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// CPU to run on
    #[arg(long, value_name = "CPU")]
    pin: Option<usize>,
    /// Account for this process over the measured part
    #[arg(long)]
    pid: Option<u32>,
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
            rounds: compare.rounds,
            maitred: compare.maitred,
            maitred_args: words(&compare.maitred_args),
            also: (compare.also.into_iter()).map(|(name, arguments)| (name, words(&arguments))).collect(),
            variants: compare.variants,
            window: compare.window,
            slice: compare.slice,
            warmup: compare.warmup,
            seed: compare.seed,
            json: compare.json,
        }),
        Command::Serve(serve) => {
            process::pin(serve.pin)?;
            bare::run(serve.threads, serve.read)
        }
        Command::Load(load) => {
            process::pin(load.pin)?;
            process::raise_descriptor_limit()?;
            let arrivals = match load.rate {
                Some(rate_per_s) => client::Arrivals::Open { rate_per_s },
                None => client::Arrivals::Closed { depth: load.depth },
            };
            let (connections, size_bytes) = (load.connections, load.size);
            let shape = client::Load { connections, size_bytes, arrivals };
            let mut generator = client::Generator::connect(shape, load.address, load.pid)?;
            generator.run(client::Slice { settle: load.warmup, measured: load.duration, seed: load.seed })?;
            let report = generator.report();
            println!("{}", serde_json::to_string(&report)?);
            match report.errors.wrong_bytes + report.errors.disconnects {
                0 => Ok(()),
                errors => Err(io::Error::other(format!("{errors} connections failed"))),
            }
        }
        Command::Launch(launch) => Err(process::become_program(launch.parent, launch.cpu, &launch.command)),
    }
}

/// `1s`, `300ms`, `50us`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text)?;
    let nanoseconds = match unit {
        "s" => 1e9,
        "ms" => 1e6,
        "us" => 1e3,
        _ => return Err(format!("`{text}` needs a unit: s, ms or us")),
    };
    Ok(Duration::from_nanos((number * nanoseconds) as u64))
}

/// A duration that something can happen in.
fn window(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("nothing can be measured in no time".into()),
        window => Ok(window),
    }
}

/// `64`, `16KiB`, `1MiB`.
fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return Err(format!("`{text}` is no size: write 64, 16KiB or 1MiB")),
    };
    match number as usize * factor {
        0 => Err("a size is at least 1".into()),
        bytes => Ok(bytes),
    }
}

fn split_unit(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number = text[..end].parse().map_err(|_| format!("`{text}` does not begin with a number"))?;
    Ok((number, &text[end..]))
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
