//! What clients of `files` say: one command a line.
//!
//! Pure: a line in, a [`Command`] out, which borrows its path from the line. A path runs to the end of the line, blanks and
//! all, and is whatever the client says: where it may lead is for `net/files.rs`. Read next: `answer.rs`.

use crate::net::files::PATH_BYTES_MAX;

/// A command and what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// How large a file is, and when it was last written to.
    Stat(&'a [u8]),
    /// Its SHA-256.
    Hash(&'a [u8]),
    /// Its bytes.
    Get(&'a [u8]),
    /// It is to be on the list.
    Add(&'a [u8]),
    /// It is not to be on the list any more.
    Del(&'a [u8]),
    /// What is on the list.
    List,
    /// What the last sweep of the list has found.
    Changed,
    /// All has been said.
    Quit,
}

/// Why a line is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is none of the commands.
    Unknown,
    /// Its path is empty, has a NUL in it, which no file's name has, or ends in a CR, which in a list would be taken for a part
    /// of the line's end.
    Path,
    /// Its path is longer than any that the system resolves.
    TooLong,
}

impl<'a> Command<'a> {
    /// The command of this line, which has neither its LF nor a CR before it any more.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(line: &'a [u8]) -> Result<Command<'a>, Unfit> {
        let Some(blank) = line.iter().position(|&byte| byte == b' ') else {
            return match line {
                b"LIST" => Ok(Command::List),
                b"CHANGED" => Ok(Command::Changed),
                b"QUIT" => Ok(Command::Quit),
                b"STAT" | b"HASH" | b"GET" | b"ADD" | b"DEL" => Err(Unfit::Path),
                _ => Err(Unfit::Unknown),
            };
        };
        let (word, path) = (&line[..blank], &line[blank + 1..]);
        let command: fn(&'a [u8]) -> Command<'a> = match word {
            b"STAT" => Command::Stat,
            b"HASH" => Command::Hash,
            b"GET" => Command::Get,
            b"ADD" => Command::Add,
            b"DEL" => Command::Del,
            _ => return Err(Unfit::Unknown),
        };
        match path {
            _ if path.len() > PATH_BYTES_MAX => Err(Unfit::TooLong),
            [] => Err(Unfit::Path),
            _ if path.contains(&0) || path.ends_with(b"\r") => Err(Unfit::Path),
            path => Ok(command(path)),
        }
    }

    /// Whether it takes little time and is answered in one line, so that many of them are one job.
    pub(super) fn is_short(&self) -> bool {
        matches!(self, Command::Stat(_) | Command::Add(_) | Command::Del(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_runs_to_the_end_of_the_line() {
        let long = vec![b'p'; PATH_BYTES_MAX];
        for (line, expected) in [
            (&b"STAT a"[..], Ok(Command::Stat(b"a"))),
            (b"HASH  a b ", Ok(Command::Hash(b" a b "))),
            (b"GET GET", Ok(Command::Get(b"GET"))),
            (b"ADD ../\xff\t", Ok(Command::Add(b"../\xff\t"))),
            (b"DEL \r", Err(Unfit::Path)),
            (b"ADD a\r", Err(Unfit::Path)),
            (b"ADD \ra", Ok(Command::Add(b"\ra"))),
            (b"LIST", Ok(Command::List)),
            (b"CHANGED", Ok(Command::Changed)),
            (b"QUIT", Ok(Command::Quit)),
            (b"LIST ", Err(Unfit::Unknown)),
            (b"QUIT now", Err(Unfit::Unknown)),
            (b"", Err(Unfit::Unknown)),
            (b" STAT a", Err(Unfit::Unknown)),
            (b"stat a", Err(Unfit::Unknown)),
            (b"STATa", Err(Unfit::Unknown)),
            (b"STAT", Err(Unfit::Path)),
            (b"STAT ", Err(Unfit::Path)),
            (b"GET a\0b", Err(Unfit::Path)),
            (&[b"GET ", &long[..]].concat(), Ok(Command::Get(&long))),
            (&[b"GET ", &long[..], b"p"].concat(), Err(Unfit::TooLong)),
        ] {
            assert_eq!(Command::parse(line), expected, "{}", line.escape_ascii());
        }
    }
}
