//! An operator at a console: asks, and reads answers to their end.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::client::DEADLINE;

/// A session with a console.
pub(crate) struct Operator {
    reader: BufReader<Box<dyn Read>>,
    writer: Box<dyn Write>,
}

/// Who is here, as `sessions` tells it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) service: String,
    pub(crate) peer: SocketAddr,
    pub(crate) age_s: f64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) state: String,
}

impl Operator {
    #[track_caller]
    pub(crate) fn at(path: &Path) -> Operator {
        let stream = UnixStream::connect(path).expect("somebody listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket has timeouts");
        Operator::new(stream.try_clone().expect("there are descriptors"), stream)
    }

    #[track_caller]
    pub(crate) fn on(address: SocketAddr) -> Operator {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket has timeouts");
        Operator::new(stream.try_clone().expect("there are descriptors"), stream)
    }

    fn new(reader: impl Read + 'static, writer: impl Write + 'static) -> Operator {
        Operator { reader: BufReader::new(Box::new(reader)), writer: Box::new(writer) }
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).expect("the daemon reads");
    }

    /// The next line, without its end; none after the last.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let len = self.reader.read_line(&mut line).expect("the daemon answers");
        assert!(len == 0 || line.ends_with('\n'), "a line has an end: {line:?}");
        (len > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// The lines of the next answer, the last of which does not begin with a space.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            lines.push(self.line().expect("an answer has an end"));
            let last = lines.last().expect("there is one");
            if !last.starts_with(' ') {
                let is_end = ["ok", "error ", "workers "].iter().any(|begin| last.starts_with(begin));
                assert!(is_end, "{lines:?}");
                return lines;
            }
        }
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> Vec<String> {
        self.send(format!("{line}\n").as_bytes());
        self.answer()
    }

    /// The last line of the answer.
    #[track_caller]
    pub(crate) fn end_of(&mut self, line: &str) -> String {
        self.ask(line).pop().expect("an answer has an end")
    }

    #[track_caller]
    pub(crate) fn expect_ok(&mut self, line: &str) {
        assert_eq!(self.end_of(line), "ok", "{line}");
    }

    #[track_caller]
    pub(crate) fn sessions(&mut self) -> Vec<Row> {
        let mut lines = self.ask("sessions");
        let end = lines.pop().expect("an answer has an end");
        assert_eq!(lines.remove(0), " id service peer age in out state");
        assert_eq!(end, format!("ok {} sessions", lines.len()));
        lines.iter().map(|line| row(line)).collect()
    }

    /// Asks for nothing more, and expects nothing more.
    #[track_caller]
    pub(crate) fn expect_end(mut self) {
        assert_eq!(self.line(), None);
    }
}

fn row(line: &str) -> Row {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [id, service, peer, age, read, written, state] = words[..] else { panic!("seven columns: {line}") };
    Row {
        id: id.parse().expect("an id"),
        service: service.to_owned(),
        peer: peer.parse().expect("an address"),
        age_s: age.strip_suffix('s').expect("seconds").parse().expect("a number"),
        read_bytes: read.parse().expect("a number"),
        written_bytes: written.parse().expect("a number"),
        state: state.to_owned(),
    }
}
