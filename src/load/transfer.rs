//! Files: what a server answers to `GET`, `STAT` or `HASH` of one path, and whether it is what it answered before.
//!
//! Nobody but the server knows the file, so it is checked against itself: every byte against the first that was received at
//! its place, by whatever connection of the thread, and every size and line against the first. Of a longer file than
//! [`KEPT_BYTES`] the rest is checked by the SHA-256 of each [`BLOCK_BYTES`] of it, so that memory is bounded, and no wrong
//! byte is missed. Nothing here knows a socket. Read next: `connection.rs`.

use crate::digest::Digest;
use crate::load::connection::{Connection, Detail, Reply, Wire};
use crate::load::plan::FilesCommand;
use crate::load::recorder::ErrorKind;

/// Bytes of the file, from its beginning on, that are kept to be compared with.
const KEPT_BYTES: u64 = 64 << 20;

/// Bytes behind those of which a hash is kept.
const BLOCK_BYTES: u64 = 1 << 20;

/// No answer's line is longer.
const LINE_BYTES_MAX: usize = 8 << 10;

/// What the server has answered so far.
pub(super) struct Reference {
    command: FilesCommand,
    /// The first line that was no error.
    line: Option<Vec<u8>>,
    /// The first byte that was received at each place.
    kept: Vec<u8>,
    /// The hashes of the blocks behind them, the same way.
    blocks: Vec<[u8; 32]>,
}

/// An answer that has come in part.
#[derive(Default)]
pub(super) struct Answer {
    line: Vec<u8>,
    body: Option<Body>,
}

struct Body {
    at: u64,
    size: u64,
    block: Digest,
}

/// What has come.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// More is to come.
    Part,
    /// A whole answer.
    Whole,
    /// A line that says why there is no other answer.
    Refusal,
}

impl Reference {
    pub(super) fn new(command: FilesCommand) -> Reference {
        Reference { command, line: None, kept: Vec::new(), blocks: Vec::new() }
    }

    /// Takes as much of `bytes` as is of the present answer: how much that is, and what has come of it.
    fn take(&mut self, answer: &mut Answer, bytes: &[u8]) -> Result<(usize, Step), ErrorKind> {
        let Some(body) = &mut answer.body else { return self.take_line(answer, bytes) };
        let count = (body.size - body.at).min(bytes.len() as u64) as usize;
        self.check(body, &bytes[..count])?;
        if body.at < body.size {
            return Ok((count, Step::Part));
        }
        answer.body = None;
        Ok((count, Step::Whole))
    }

    fn take_line(&mut self, answer: &mut Answer, bytes: &[u8]) -> Result<(usize, Step), ErrorKind> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        answer.line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
        if answer.line.len() > LINE_BYTES_MAX {
            return Err(ErrorKind::Protocol);
        }
        let Some(end) = end else { return Ok((bytes.len(), Step::Part)) };
        let line = std::mem::take(&mut answer.line);
        if line.starts_with(b"ERR ") {
            return Ok((end + 1, Step::Refusal));
        }
        let words = line.strip_prefix(b"OK ").ok_or(ErrorKind::Protocol)?;
        if self.command == FilesCommand::Get {
            let size = std::str::from_utf8(words).ok().and_then(|size| size.parse().ok()).ok_or(ErrorKind::Protocol)?;
            answer.body = (size > 0).then(|| Body { at: 0, size, block: Digest::new() });
        }
        if *self.line.get_or_insert_with(|| line.clone()) != line {
            return Err(ErrorKind::WrongBytes);
        }
        Ok((end + 1, if answer.body.is_some() { Step::Part } else { Step::Whole }))
    }

    /// Checks the next bytes of a file.
    fn check(&mut self, body: &mut Body, mut bytes: &[u8]) -> Result<(), ErrorKind> {
        while !bytes.is_empty() {
            let is_kept = body.at < KEPT_BYTES;
            let end = if is_kept { KEPT_BYTES } else { (body.at / BLOCK_BYTES + 1) * BLOCK_BYTES }.min(body.size);
            let (now, later) = bytes.split_at((end - body.at).min(bytes.len() as u64) as usize);
            if is_kept {
                let at = body.at as usize;
                let known = now.len().min(self.kept.len() - at);
                if now[..known] != self.kept[at..at + known] {
                    return Err(ErrorKind::WrongBytes);
                }
                self.kept.extend_from_slice(&now[known..]);
            } else {
                body.block.update(now);
            }
            body.at += now.len() as u64;
            if !is_kept && body.at == end {
                let hash = std::mem::take(&mut body.block).finish();
                let number = ((end - 1 - KEPT_BYTES) / BLOCK_BYTES) as usize;
                match self.blocks.get(number) {
                    Some(first) if *first != hash => return Err(ErrorKind::WrongBytes),
                    Some(_) => {}
                    None => self.blocks.push(hash),
                }
            }
            bytes = later;
        }
        Ok(())
    }
}

impl Connection {
    /// Checks answers, which come in the order of their requests.
    pub(super) fn check_files(&mut self, wire: &mut Wire, len: usize, received_ns: u64) -> Result<(), ErrorKind> {
        let Wire { inbox, files, replies, errors, .. } = wire;
        let reference = files.as_mut().expect("a load of files has something to compare with");
        let mut at = 0;
        while at < len {
            let (number, answer) = self.next_answer().ok_or(ErrorKind::UnexpectedBytes)?;
            let (count, step) = reference.take(answer, &inbox[at..len])?;
            at += count;
            if step == Step::Part {
                continue;
            }
            if step == Step::Refusal {
                errors.get_or_insert_default().add(ErrorKind::ErrorReply, 1);
            }
            self.pass_answer();
            replies.push(Reply { number, count: 1, received_ns, detail: Detail::Plain });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these bytes, in pieces of this size.
    fn feed(reference: &mut Reference, bytes: &[u8], piece: usize) -> Result<Vec<Step>, ErrorKind> {
        let (mut answer, mut steps) = (Answer::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            let mut at = 0;
            while at < piece.len() {
                let (count, step) = reference.take(&mut answer, &piece[at..])?;
                assert!(count > 0, "it gets on");
                at += count;
                if step != Step::Part {
                    steps.push(step);
                }
            }
        }
        Ok(steps)
    }

    #[test]
    fn answers_are_cut_wherever_they_come_in_pieces() {
        let answers = b"OK 3\nabcERR busy x\nOK 3\nabcOK 3\nabc";
        for piece in 1..=answers.len() {
            let steps = feed(&mut Reference::new(FilesCommand::Get), answers, piece);
            assert_eq!(steps, Ok(vec![Step::Whole, Step::Refusal, Step::Whole, Step::Whole]), "{piece}");
            let lines = feed(&mut Reference::new(FilesCommand::Stat), b"OK 3 4\nOK 3 4\n", piece);
            assert_eq!(lines, Ok(vec![Step::Whole, Step::Whole]));
        }
        assert_eq!(
            feed(&mut Reference::new(FilesCommand::Get), b"OK 0\nOK 0\n", 1),
            Ok(vec![Step::Whole, Step::Whole])
        );
    }

    #[test]
    fn what_differs_from_the_first_is_wrong() {
        use ErrorKind::{Protocol, WrongBytes};
        for (command, answers, expected) in [
            (FilesCommand::Get, &b"OK 3\nabcOK 3\nabd"[..], WrongBytes),
            (FilesCommand::Get, b"OK 3\nabcOK 4\nabcd", WrongBytes),
            (FilesCommand::Get, b"OK x\n", Protocol),
            (FilesCommand::Get, b"OK -1\n", Protocol),
            (FilesCommand::Get, b"KO 3\n", Protocol),
            (FilesCommand::Hash, b"OK ab 3\nOK ac 3\n", WrongBytes),
            (FilesCommand::Stat, &[b'O'; LINE_BYTES_MAX + 1], Protocol),
        ] {
            assert_eq!(feed(&mut Reference::new(command), answers, 5), Err(expected), "{}", answers.escape_ascii());
        }
    }

    #[test]
    fn a_wrong_byte_is_found_in_the_part_that_is_not_kept() {
        let size = KEPT_BYTES + 2 * BLOCK_BYTES + 5;
        let answer = |changed: Option<u64>| {
            let mut bytes = format!("OK {size}\n").into_bytes();
            let head = bytes.len() as u64;
            bytes.resize((head + size) as usize, 7);
            if let Some(at) = changed {
                bytes[(head + at) as usize] = 8;
            }
            bytes
        };
        let mut reference = Reference::new(FilesCommand::Get);
        for piece in [1 << 16, 1 << 20, 999_999] {
            assert_eq!(feed(&mut reference, &answer(None), piece), Ok(vec![Step::Whole]));
        }
        assert_eq!((reference.kept.len() as u64, reference.blocks.len()), (KEPT_BYTES, 3));
        for at in [0, KEPT_BYTES - 1, KEPT_BYTES, size - 6, size - 1] {
            assert_eq!(feed(&mut reference, &answer(Some(at)), 1 << 16), Err(ErrorKind::WrongBytes), "{at}");
        }
    }
}
