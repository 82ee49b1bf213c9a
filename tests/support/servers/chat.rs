//! Chat over TCP: each message goes to every other connection; right, or wrong to one of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Connection, Server, State, is_due, spoiled};

const MAX_MESSAGE: usize = 8 << 20;

/// How a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A u32 length comes first.
    Length,
    /// Behind it comes a line feed.
    Line,
}

/// What is wrong with a chat server. All but the last two go wrong for one connection alone, the second that it accepted,
/// and "every" counts the messages for that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    /// Every so many-th is not delivered.
    LoseEvery(u64),
    /// Every so many-th is delivered twice.
    TwiceEvery(u64),
    /// Every so many-th comes after the next one of the same sender.
    SwapEvery(u64),
    /// Every so many-th comes with its last byte changed.
    CorruptEvery(u64),
    /// Whoever sends a message gets it too.
    ToSenderToo,
    /// The sender of every so many-th message, of all that are sent, is kicked once it is delivered.
    KickEvery(u64),
}

/// The connection for which things go wrong.
const VICTIM: u64 = 1;

/// A chat server with one room.
pub(crate) fn chat(framing: Framing, fault: Fault) -> Server {
    chat_after(Duration::ZERO, framing, fault)
}

/// One that lets nobody in for so long: connections stand, and what they send waits in the kernel.
pub(crate) fn chat_after(delay: Duration, framing: Framing, fault: Fault) -> Server {
    let state = State::new();
    let room = Room { framing, fault, state: Arc::clone(&state), members: Mutex::default(), wrong: Mutex::default() };
    Server::accepting(delay, state, move |connection| {
        room.members.lock().expect("no panic while held").insert(connection.number, Arc::clone(&connection));
        // It ends when the client does, or sends too long a message.
        let _ = room.read_messages(&connection);
        room.members.lock().expect("no panic while held").remove(&connection.number);
    })
}

struct Room {
    framing: Framing,
    fault: Fault,
    state: Arc<State>,
    members: Mutex<BTreeMap<u64, Arc<Connection>>>,
    /// Held while anything is written to the victim.
    wrong: Mutex<Wrong>,
}

/// What has gone wrong so far.
#[derive(Default)]
struct Wrong {
    /// Messages for the victim.
    messages: u64,
    /// One that waits for the next of its sender, with the sender's number.
    held: Option<(u64, Vec<u8>)>,
}

impl Room {
    fn read_messages(&self, sender: &Connection) -> Option<()> {
        let mut unread = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            unread.extend_from_slice(sender.read(&mut buffer)?);
            let mut from = 0;
            while let Some(len) = self.frame_len(&unread[from..])? {
                let number = self.state.count(&self.state.requests, 1) + 1;
                self.deliver(sender.number, &unread[from..from + len]);
                from += len;
                if let Fault::KickEvery(every) = self.fault
                    && is_due(number, every)
                {
                    self.state.count_fault();
                    sender.cut();
                    return None;
                }
            }
            unread.drain(..from);
        }
    }

    /// The length of the frame that the bytes begin with: `Some(None)` if the rest of it is still to come, none if it is
    /// longer than anybody may send.
    fn frame_len(&self, bytes: &[u8]) -> Option<Option<usize>> {
        let whole = match self.framing {
            Framing::Length => bytes.first_chunk().map(|length| 4 + u32::from_be_bytes(*length) as usize),
            Framing::Line => bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1),
        };
        let is_allowed = whole.unwrap_or(bytes.len()) <= MAX_MESSAGE;
        is_allowed.then_some(whole.filter(|&len| len <= bytes.len()))
    }

    fn deliver(&self, sender: u64, frame: &[u8]) {
        // Written without the lock: a member that does not read stops those who write to it, not those who come.
        let members: Vec<_> = self.members.lock().expect("no panic while held").values().cloned().collect();
        for member in members {
            let is_sender = member.number == sender;
            if is_sender && self.fault == Fault::ToSenderToo {
                self.state.count_fault();
            } else if is_sender {
                continue;
            }
            // None if the member has gone.
            let _ = if member.number == VICTIM {
                self.deliver_wrongly(&member, sender, frame)
            } else {
                member.write(frame)
            };
        }
    }

    fn deliver_wrongly(&self, victim: &Connection, sender: u64, frame: &[u8]) -> Option<()> {
        let mut wrong = self.wrong.lock().expect("no panic while held");
        wrong.messages += 1;
        if let Some((_, earlier)) = wrong.held.take_if(|(from, _)| *from == sender) {
            victim.write(frame)?;
            self.state.count_fault();
            return victim.write(&earlier);
        }
        match self.fault {
            Fault::LoseEvery(every) if is_due(wrong.messages, every) => {
                self.state.count_fault();
                Some(())
            }
            Fault::TwiceEvery(every) if is_due(wrong.messages, every) => {
                self.state.count_fault();
                victim.write(frame)?;
                victim.write(frame)
            }
            Fault::SwapEvery(every) if is_due(wrong.messages, every) && wrong.held.is_none() => {
                wrong.held = Some((sender, frame.to_vec()));
                Some(())
            }
            Fault::CorruptEvery(every) if is_due(wrong.messages, every) => {
                self.state.count_fault();
                let mut frame = frame.to_vec();
                let end = frame.len() - usize::from(self.framing == Framing::Line);
                if let Some(last) = frame[..end].last_mut() {
                    *last = spoiled(*last);
                }
                victim.write(&frame)
            }
            _ => victim.write(frame),
        }
    }
}
