//! argv -> Args -> Config -> one subcommand -> exit code; nothing else.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use maitred::cli::{self, Args, Command};
use maitred::config::Config;
use maitred::engine::{self, ENGINES};
use maitred::error::Error;
use maitred::logging::{Log, install_panic_hook};

fn main() -> ExitCode {
    let done = match Args::try_parse() {
        Ok(args) => run(args.command),
        Err(answer) => explain(&answer),
    };
    match done {
        Ok(code) => code,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("maitred: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Serve(args) => {
            let log = Log::start();
            install_panic_hook(&log);
            let config = Config::resolve(&args, ENGINES)?;
            let served = maitred::daemon::serve(&args, config, &log);
            log.flush();
            served.map(|()| ExitCode::SUCCESS)
        }
        Command::Check(args) => {
            let log = Log::start();
            let config = Config::resolve(&args, ENGINES)?;
            // The configuration is right all the same, and may be meant for another machine.
            if let Err(reason) = engine::available(config.engine) {
                log::warn!("the engine {} cannot run here: {reason}", config.engine);
            }
            log.flush();
            print(config.to_toml().as_bytes())
        }
        Command::Load(args) => {
            let clean = maitred::load::command(&args)?;
            Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Simulate(args) => maitred::simulate::command(&args).map(|()| ExitCode::SUCCESS),
        Command::Study(args) => {
            let is_done = maitred::study::command(&args)?;
            Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Compare(args) => maitred::study::compare::command(&args).map(ExitCode::from),
        Command::Report { directory } => maitred::study::report::command(&directory).map(|()| ExitCode::SUCCESS),
        Command::Cell(args) => maitred::cell::command(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => print(&cli::completions(shell)),
        Command::Man => print(&cli::man()),
    }
}

/// What clap says instead of letting a command line through: help and version go to stdout; a mistake goes to stderr,
/// as one line, like all our messages.
fn explain(answer: &clap::Error) -> Result<ExitCode, Error> {
    let text = answer.render().to_string();
    match answer.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return print(text.as_bytes()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => complain(text),
        _ => {
            // Paragraphs: the mistake, tips, the usage, and where to read more.
            let paragraphs = text.trim().split("\n\n").filter(|paragraph| !paragraph.starts_with("Usage:"));
            let one_line = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
            let message = paragraphs.map(one_line).collect::<Vec<_>>().join("; ");
            complain(format_args!("maitred: {}", message.strip_prefix("error: ").unwrap_or(&message)));
        }
    }
    Ok(ExitCode::from(2))
}

/// By the log, behind its lines, so that a stopped reader of stderr cannot hold up the exit.
fn complain(message: impl Display) {
    let log = Log::start();
    log.print(message);
    log.flush();
}

fn print(bytes: &[u8]) -> Result<ExitCode, Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(reason) => Err(Error::Output { target: "standard output".to_owned(), reason }),
    }
}
