//! What holds of a command of `files` for any line: the body of the fuzz target `files_command`, which `tests/files_command.rs`
//! runs too.
//!
//! A plain reading says what a line is: its words are compared as text, and its path is what is left of it. The parser has to
//! agree, and what it calls a path must be one that the system can be given.

use maitred::net::files::PATH_BYTES_MAX;
use maitred::service::files::{Command, Unfit};

/// Checks every line of an input.
pub(crate) fn check(input: &[u8]) {
    input.split(|&byte| byte == b'\n').for_each(check_line);
}

fn check_line(line: &[u8]) {
    let parsed = Command::parse(line);
    assert_eq!(parsed, read_plainly(line), "{}", line.escape_ascii());
    if let Ok(
        Command::Stat(path) | Command::Hash(path) | Command::Get(path) | Command::Add(path) | Command::Del(path),
    ) = parsed
    {
        assert!(!path.is_empty() && path.len() <= PATH_BYTES_MAX && !path.contains(&0) && !path.ends_with(b"\r"));
        assert!(line.as_ptr_range().end == path.as_ptr_range().end, "a path runs to the end of its line");
    }
}

fn read_plainly<'a>(line: &'a [u8]) -> Result<Command<'a>, Unfit> {
    type About<'a> = fn(&'a [u8]) -> Command<'a>;
    for (word, alone) in [("LIST", Command::List), ("CHANGED", Command::Changed), ("QUIT", Command::Quit)] {
        if line == word.as_bytes() {
            return Ok(alone);
        }
    }
    let words: [(&str, About<'a>); 5] = [
        ("STAT", Command::Stat),
        ("HASH", Command::Hash),
        ("GET", Command::Get),
        ("ADD", Command::Add),
        ("DEL", Command::Del),
    ];
    for (word, about) in words {
        let Some(rest) = line.strip_prefix(word.as_bytes()) else { continue };
        return match rest.split_first() {
            None => Err(Unfit::Path),
            Some((b' ', path)) if path.len() > PATH_BYTES_MAX => Err(Unfit::TooLong),
            Some((b' ', path)) if path.is_empty() || path.contains(&0) || path.last() == Some(&b'\r') => {
                Err(Unfit::Path)
            }
            Some((b' ', path)) => Ok(about(path)),
            Some(_) => Err(Unfit::Unknown),
        };
    }
    Err(Unfit::Unknown)
}
