//! [`CellArgs`]: the commands of `maitred cell`, with their help texts.
//!
//! Quantities stay text here; what they mean is in `cell/command.rs`. Read next: [`command`](crate::cell::command).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as Arguments, Subcommand, ValueHint};

use crate::cell::TEXT_MAX_BYTES;

/// What to do with a cell.
#[derive(Arguments, Clone, Debug)]
pub struct CellArgs {
    /// The command.
    #[command(subcommand)]
    pub command: CellCommand,
}

/// What can be done with a cell.
#[derive(Subcommand, Clone, Debug)]
pub enum CellCommand {
    /// Print the value of a cell, as VERSION TEXT
    Get {
        /// The cell's file
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Set the value of a cell and wake those who watch it; print it, as VERSION TEXT
    Set {
        /// The cell's file
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The text
        #[arg(value_name = "TEXT", allow_hyphen_values = true,
            help = format!("One line of at most {TEXT_MAX_BYTES} bytes; the present text again changes nothing"))]
        text: OsString,
    },
    /// Print the value of a cell, then each change as it comes, coalesced to the newest; as VERSION TEXT
    Watch(WatchArgs),
}

/// Whom to watch, and how long.
#[derive(Arguments, Clone, Debug)]
pub struct WatchArgs {
    /// The cell's file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// End after so many lines
    #[arg(
        long,
        value_name = "N",
        help = "End after N lines, the first of which is the present value [default: never]"
    )]
    pub count: Option<String>,

    /// End after this time
    #[arg(
        long,
        value_name = "DURATION",
        help = "End after this time; with --count, exit 1 if fewer lines came [default: never]"
    )]
    pub timeout: Option<String>,
}

pub(super) const NOTES: &str = "\
A FILE that is not there, or is empty, becomes an empty cell: version 0, no text. Who may not
write to it can get and watch. A file in /dev/shm or /run is never written to a disk.

A set waits up to 5s for another one, which takes microseconds unless its process was stopped.

Exit codes: 0 done, 1 failed while running or fewer lines than --count within --timeout, 2 wrong usage.";
