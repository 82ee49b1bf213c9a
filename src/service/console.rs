//! `console`: lines for people, and for scripts, by which the daemon is asked and told what to do.
//!
//! | line | answer |
//! |---|---|
//! | `help` | the commands |
//! | `stats` | the counters, on a screen of 80 columns |
//! | `sessions` | a heading, then a line for each: id, service, peer, age, bytes in and out, state |
//! | `kill ID` | ends that session |
//! | `workers`, `workers N` | `workers N`; the second once it is so |
//! | `set`, `set KEY VALUE` | what can be set while the daemon runs; sets it |
//! | `drain` | begins the end of the daemon |
//! | `quit` | ends this session |
//!
//! Every answer ends in one line that begins with `ok`, `error` or `workers`; all lines before it begin with a space. So a
//! script knows when it has all. Lines of a client are carried out one after the other; empty ones are passed over.
//!
//! The protocol only: who carries orders out, when, and with what patience is for the daemon ([`Operator`]). Read next:
//! `console/input.rs`; the chapter is `design/console.md`.

mod input;

use std::hint::black_box;
use std::mem;
use std::sync::Arc;

use super::{BadParameter, Bounds, Entry, HIDDEN, SECRET};
use crate::session::handler::{Chunks, Handler, Next, Pace, Reply, Service};
use crate::session::mailbox::Address;
use crate::session::operator::{Answer, Lines, Operator, Order, Progress};
use input::{Fed, Input};

pub(super) const ENTRY: Entry = Entry {
    name: "console",
    about: "text commands to the daemon itself: stats, sessions, set, drain; on tcp with a token",
    schemes: &["unix", "tcp"],
    default_listeners: &[],
    parameters: &[("mode", "0600"), (SECRET, "TEXT")],
    spared_by_idle_timeout: true,
    repeatable: &[],
    build,
};

/// Wrong tokens after which a session ends.
const ATTEMPTS_MOST: u32 = 3;

/// Bytes of the longest line of an answer; what a client has sent may be in it.
const ANSWER_BYTES_MAX: usize = 512;

/// Bytes that a token may have.
const TOKEN_BYTES_MAX: usize = 1 << 10;

/// Begins with a space wherever it goes on.
const HELP: &str = "  help            this
  stats           what the daemon has done, on one screen
  sessions        who is here: id, service, peer, age, bytes in and out, state
  kill ID         ends the session of that id
  workers         how many workers there are
  workers N       makes it so many; the answer comes when it is so
  set             what can be set while the daemon runs, and what it is now
  set KEY VALUE   sets it, until a reload or the end
  drain           lets nobody in any more, serves those who are here, and ends
  quit            ends this session, and nothing else
ok";

fn build(parameters: &[(String, String)], _bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    let (mut token, mut mode) = (None, None);
    for (key, value) in parameters {
        let bad = |expected: &str| Err(BadParameter { key: key.clone(), expected: expected.to_owned() });
        if key == SECRET {
            if value.is_empty() || value.len() > TOKEN_BYTES_MAX || value.contains(char::is_control) || value == HIDDEN
            {
                return bad("a text that nobody guesses, in one line");
            }
            token = Some(Arc::from(value.as_str()));
        } else {
            match (value.len(), u32::from_str_radix(value, 8)) {
                (4, Ok(bits @ 0..=0o777)) => mode = Some(bits),
                _ => return bad("who may connect, as in 0600 (its owner) or 0660 (its group too)"),
            }
        }
    }
    Ok(Arc::new(Console { token, mode }))
}

struct Console {
    token: Option<Arc<str>>,
    mode: Option<u32>,
}

impl Service for Console {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        crate::session::operator::Console::open(self, Arc::new(Nobody))
    }

    fn pace(&self) -> Pace {
        Pace::Open
    }

    fn console(&self) -> Option<&dyn crate::session::operator::Console> {
        Some(self)
    }
}

impl crate::session::operator::Console for Console {
    fn has_token(&self) -> bool {
        self.token.is_some()
    }

    fn mode(&self) -> Option<u32> {
        self.mode
    }

    fn open(&self, operator: Arc<dyn Operator>) -> Box<dyn Handler> {
        Box::new(Client {
            operator,
            token: self.token.clone(),
            attempts: 0,
            input: Input::new(),
            taken: 0,
            answer: None,
            unsaid: Vec::new(),
            leaves: false,
        })
    }
}

/// For a console that has no daemon.
struct Nobody;

impl Operator for Nobody {
    fn carry_out(&self, _order: Order) -> Box<dyn Answer> {
        Lines::of("error there is no daemon behind this console")
    }

    fn judge(&self, is_right: bool) -> Option<Box<dyn Answer>> {
        (!is_right).then(|| Lines::of("error that is not the token"))
    }
}

struct Client {
    operator: Arc<dyn Operator>,
    /// What the client has to say first; none once it has.
    token: Option<Arc<str>>,
    /// Lines that it has said instead.
    attempts: u32,
    input: Input,
    /// Bytes of the input that are in the answer now being said, and so still to be discarded.
    taken: usize,
    /// What is being said.
    answer: Option<Box<dyn Answer>>,
    /// Bytes that have found no room yet.
    unsaid: Vec<u8>,
    /// All is over when that has been said.
    leaves: bool,
}

impl Handler for Client {
    fn handle_input(&mut self, input: Chunks<'_>, reply: &mut Reply<'_>) -> Next {
        if self.taken == 0 {
            match self.input.feed(input, &mut self.unsaid) {
                Fed::More(taken) => self.taken = taken,
                Fed::Line(taken) => {
                    self.taken = taken;
                    self.answer = self.handle_line();
                }
                Fed::TooLong => self.leave_with("error the line is too long; expected at most 8KiB"),
                Fed::Endless => self.leave_with("error a subnegotiation of telnet does not end"),
            }
        }
        match self.say(reply) {
            Next::More if self.taken > 0 => Next::Discard(mem::take(&mut self.taken)),
            next => next,
        }
    }

    fn handle_room(&mut self, reply: &mut Reply<'_>) -> Next {
        self.say(reply)
    }
}

impl Client {
    /// Says what there is to say, as far as it is known and there is room.
    fn say(&mut self, reply: &mut Reply<'_>) -> Next {
        loop {
            if !self.unsaid.is_empty() {
                if !reply.put(&self.unsaid) {
                    return Next::Room;
                }
                self.unsaid.clear();
            }
            let Some(answer) = &mut self.answer else { break };
            let mut line = String::new();
            match answer.poll_line(&mut line) {
                Progress::Line => self.put_line(&line),
                Progress::Waits => return Next::Room,
                Progress::Over => self.answer = None,
            }
        }
        if self.leaves { Next::Finish { forward: 0 } } else { Next::More }
    }

    fn put_line(&mut self, line: &str) {
        let cut = line.floor_char_boundary(ANSWER_BYTES_MAX);
        self.unsaid.extend_from_slice(&line.as_bytes()[..cut]);
        if cut < line.len() {
            self.unsaid.extend_from_slice("…".as_bytes());
        }
        let end: &[u8] = if self.input.is_telnet { b"\r\n" } else { b"\n" };
        self.unsaid.extend_from_slice(end);
    }

    fn leave_with(&mut self, line: &str) {
        self.answer = Some(Lines::of(line));
        self.leaves = true;
    }

    /// What is answered to the line that has come; nothing to an empty one.
    fn handle_line(&mut self) -> Option<Box<dyn Answer>> {
        let line = self.input.take_line();
        if self.token.is_some() && line != b"quit" {
            return self.handle_token(&line);
        }
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split_ascii_whitespace();
        let command = words.next()?;
        let words: Vec<&str> = words.collect();
        let order = match (command, words.as_slice()) {
            ("help", []) => return Some(Lines::of(HELP)),
            ("quit", []) => {
                self.leaves = true;
                return Some(Lines::of("ok"));
            }
            ("stats", []) => Ok(Order::Stats),
            ("sessions", []) => Ok(Order::Sessions),
            ("drain", []) => Ok(Order::Drain),
            ("workers", []) => Ok(Order::Workers(None)),
            ("workers", [number]) => match number.parse() {
                Ok(number) => Ok(Order::Workers(Some(number))),
                Err(_) => Err(format!("{} is not a number of workers; expected one from 1 on", shown(number))),
            },
            ("kill", [id]) => match id.parse() {
                Ok(id) => Ok(Order::Kill(id)),
                Err(_) => Err(format!("{} is not an id; expected a number that sessions tells", shown(id))),
            },
            ("set", []) => Ok(Order::Settings),
            ("set", [key, value]) => Ok(Order::Set { key: (*key).to_owned(), value: (*value).to_owned() }),
            (command, _) => Err(misused(command)),
        };
        Some(order.map_or_else(|problem| Lines::of(format!("error {problem}")), |order| self.operator.carry_out(order)))
    }

    fn handle_token(&mut self, line: &[u8]) -> Option<Box<dyn Answer>> {
        let token = self.token.as_ref().expect("it is asked for");
        let is_right = line.strip_prefix(b"token ").is_some_and(|said| is_same(token.as_bytes(), said));
        let refusal = self.operator.judge(is_right);
        if refusal.is_some() {
            self.attempts += 1;
            self.leaves = self.attempts == ATTEMPTS_MOST;
            return refusal;
        }
        self.token = None;
        Some(Lines::of("ok"))
    }
}

/// Whether somebody said the secret. How long it takes depends on what was said, and not on how much of it is right.
fn is_same(secret: &[u8], said: &[u8]) -> bool {
    let differs = |(at, &byte): (usize, &u8)| byte ^ secret[at % secret.len()];
    let difference = said.iter().enumerate().map(differs).fold(0, |sum, bits| black_box(sum | bits));
    black_box(difference) == 0 && secret.len() == said.len()
}

/// What is wrong with a line that is no command, or has too many words behind it, or too few.
fn misused(command: &str) -> String {
    let form = |line: &str| line.trim_start().split("  ").next().unwrap_or_default().to_owned();
    let forms = HELP.lines().filter(|line| line.starts_with(' ')).map(form);
    let own: Vec<String> = forms.clone().filter(|form| form.split(' ').next() == Some(command)).collect();
    if own.is_empty() {
        let all: Vec<String> = forms.collect();
        return format!("{} is not a command; expected {}", shown(command), all.join(", "));
    }
    format!("{command} takes other words; expected {}", own.join(" or "))
}

/// What a client has sent, as an answer shows it: no second line, no bytes that do something to a terminal.
fn shown(text: &str) -> String {
    text.escape_debug().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_same_or_not() {
        for (said, is_right) in
            [("", false), ("s", false), ("secret", true), ("secres", false), ("xecret", false), ("secretsecret", false)]
        {
            assert_eq!(is_same(b"secret", said.as_bytes()), is_right, "{said}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_names_what_was_expected() {
        assert_eq!(misused("kill"), "kill takes other words; expected kill ID");
        assert_eq!(misused("set"), "set takes other words; expected set or set KEY VALUE");
        assert!(misused("reboot").starts_with("reboot is not a command; expected help, stats, sessions, kill ID"));
        assert!(misused("\x1b[2J").starts_with("\\u{1b}[2J is not"));
    }

    #[test]
    fn the_help_fits_a_terminal_and_ends_as_answers_do() {
        assert!(HELP.lines().all(|line| line.len() <= 80));
        let ends: Vec<&str> = HELP.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(ends, ["ok"]);
    }
}
