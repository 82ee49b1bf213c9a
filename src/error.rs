//! [`Error`]: why the program could not start, or failed while it ran; each names the thing that failed.
//!
//! Only failures of the whole program are errors. A peer that leaves or misbehaves ends one session (`Closed`), and a
//! bug is an assertion. An error is printed once, by `main`, as one line on stderr, and decides the exit code.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A failure of the program, as one line that names the thing and, where it was the user's, what would have been right.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong: exit code 2.
    Usage {
        /// The flag, as the user types it: `--idle-timeout`.
        flag: String,
        /// What is wrong, with the value that was given.
        problem: String,
        /// What would have been right.
        expected: String,
    },
    /// The configuration file is wrong: exit code 78.
    Configuration {
        /// The file, as the user named it.
        file: PathBuf,
        /// The line of the key, counted from one; none when the file as a whole cannot be read.
        line: Option<usize>,
        /// The key; none when the text is no TOML and no key is known.
        key: Option<String>,
        /// What is wrong, with the value that was given.
        problem: String,
        /// What would have been right.
        expected: String,
    },
    /// A listener could not be bound: exit code 1.
    Bind {
        /// The service that would have listened.
        service: &'static str,
        /// The address, with its scheme: `tcp://127.0.0.1:7007`.
        address: String,
        /// What the system said.
        reason: io::Error,
    },
    /// A peer could not be reached: exit code 1.
    Connect {
        /// Who, with scheme and port: `tcp://127.0.0.1:7007`.
        target: String,
        /// What the system said.
        reason: io::Error,
    },
    /// The system refused something that the program cannot do without: exit code 1.
    Resource {
        /// What was wanted, as it fits behind "cannot": `start worker 3`.
        attempt: String,
        /// What the system said.
        reason: io::Error,
    },
    /// Something that was to be written could not be: exit code 1.
    Output {
        /// Where it should have gone: `standard output`, or a path.
        target: String,
        /// What the system said.
        reason: io::Error,
    },
}

impl Error {
    /// The system refused what the program needs to `attempt`.
    pub fn resource(attempt: impl Into<String>, reason: impl Into<io::Error>) -> Error {
        Error::Resource { attempt: attempt.into(), reason: reason.into() }
    }

    /// The exit code that scripts see: 1 failed while running, 2 wrong usage, 78 wrong configuration file.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage { .. } => 2,
            Error::Configuration { .. } => 78,
            Error::Bind { .. } | Error::Connect { .. } | Error::Resource { .. } | Error::Output { .. } => 1,
        }
    }

    /// Whether a reader of the output has simply gone away, as in `maitred man | head`, of which nobody needs to hear.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Output { reason, .. } if reason.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage { flag, problem, expected } => write!(f, "{flag}: {problem}; expected {expected}"),
            Error::Configuration { file, line, key, problem, expected } => {
                write!(f, "{}", file.display())?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                if let Some(key) = key {
                    write!(f, ": {key}")?;
                }
                write!(f, ": {problem}; expected {expected}")
            }
            Error::Bind { service, address, reason } => write!(f, "cannot bind {address} for {service}: {reason}"),
            Error::Connect { target, reason } => write!(f, "cannot connect to {target}: {reason}"),
            Error::Resource { attempt, reason } => write!(f, "cannot {attempt}: {reason}"),
            Error::Output { target, reason } => write!(f, "cannot write to {target}: {reason}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Usage { .. } | Error::Configuration { .. } => None,
            Error::Bind { reason, .. }
            | Error::Connect { reason, .. }
            | Error::Resource { reason, .. }
            | Error::Output { reason, .. } => Some(reason),
        }
    }
}
