//! Chat: which member has got which message, so that every delivery is checked: to all others, once, in order.
//!
//! A message in flight has a bit for each member. What arrives sets its bit; a message is delivered when all have it,
//! and is forgotten then. So memory is what is in flight, not what was sent, and the check of a delivery takes the same
//! time however many messages there were.
//!
//! Nothing here knows a socket or a time. Read next: `client.rs`.

use std::collections::VecDeque;

use crate::load::recorder::ErrorKind;

/// Numbers from here on are those of probes, which find out whether everybody is in the room.
pub(super) const PROBE: u64 = 1 << 62;

/// The messages in flight of one room.
pub(super) struct Room {
    members: Vec<Member>,
    /// Members that are still there.
    present: usize,
}

#[derive(Default)]
struct Member {
    has_left: bool,
    /// Its messages, from number `first` on.
    messages: VecDeque<Message>,
    first: u64,
    /// Deliveries that were given up and may come all the same.
    given_up: u64,
}

struct Message {
    /// One bit for each member that has it, the sender included.
    got: Vec<u64>,
    missing: usize,
}

/// What a delivery is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// Others still wait for the message.
    Partly,
    /// It was the last: all have it.
    ToAll,
    /// A later message of the same sender came first. Whether all have this one now.
    Overtaken { to_all: bool },
    /// Of a message that was given up.
    Late,
    /// Not right.
    Wrong(ErrorKind),
}

impl Room {
    pub(super) fn new(members: usize) -> Room {
        Room { members: (0..members).map(|_| Member::default()).collect(), present: members }
    }

    /// The member `sender` has sent its message `number`. Whether anybody is to get it.
    pub(super) fn sent(&mut self, sender: usize, number: u64) -> bool {
        let mut got = vec![0; self.members.len().div_ceil(64)];
        for (index, _) in self.members.iter().enumerate().filter(|(index, other)| other.has_left || *index == sender) {
            set(&mut got, index);
        }
        let missing = self.present - usize::from(!self.members[sender].has_left);
        let member = &mut self.members[sender];
        if member.messages.is_empty() {
            member.first = number;
        }
        assert_eq!(
            number,
            member.first + member.messages.len() as u64,
            "messages are sent in the order of their numbers"
        );
        if missing > 0 {
            member.messages.push_back(Message { got, missing });
        } else {
            member.first = number + 1;
        }
        missing > 0
    }

    /// The member `receiver` got the message `number` of `sender`.
    pub(super) fn deliver(&mut self, receiver: usize, sender: usize, number: u64) -> Delivered {
        let Some(member) = self.members.get_mut(sender) else { return Delivered::Wrong(ErrorKind::WrongBytes) };
        if sender == receiver {
            return Delivered::Wrong(ErrorKind::UnexpectedBytes);
        }
        let Some(position) = number.checked_sub(member.first) else { return member.again() };
        let position = usize::try_from(position).unwrap_or(usize::MAX);
        let Some(message) = member.messages.get_mut(position) else {
            return Delivered::Wrong(ErrorKind::UnexpectedBytes);
        };
        if is_set(&message.got, receiver) {
            return member.again();
        }
        set(&mut message.got, receiver);
        message.missing -= 1;
        let is_last = message.missing == 0;
        // The sender's later messages must come later. Of two that have changed places, the one whose next has come
        // already tells.
        let overtaken = member.messages.get(position + 1).is_some_and(|next| is_set(&next.got, receiver));
        member.forget_delivered();
        match (overtaken, is_last) {
            (true, to_all) => Delivered::Overtaken { to_all },
            (false, true) => Delivered::ToAll,
            (false, false) => Delivered::Partly,
        }
    }

    /// Gives up the message; how many have not got it.
    pub(super) fn give_up(&mut self, sender: usize, number: u64) -> u64 {
        let member = &mut self.members[sender];
        let position = number.checked_sub(member.first).and_then(|position| usize::try_from(position).ok());
        let Some(message) = position.and_then(|position| member.messages.get_mut(position)) else { return 0 };
        let missing = std::mem::take(&mut message.missing) as u64;
        message.got.fill(u64::MAX);
        member.given_up += missing;
        member.forget_delivered();
        missing
    }

    /// Nothing is delivered to this member any more, and nobody waits for what it sent. Returns the messages of others, as
    /// sender and number, that waited for it alone.
    pub(super) fn leave(&mut self, who: usize) -> Vec<(usize, u64)> {
        if std::mem::replace(&mut self.members[who].has_left, true) {
            return Vec::new();
        }
        self.present -= 1;
        let left = &mut self.members[who];
        // They may come all the same.
        left.given_up += left.messages.iter().map(|message| message.missing as u64).sum::<u64>();
        left.first += left.messages.len() as u64;
        left.messages.clear();
        let mut done = Vec::new();
        for (sender, member) in self.members.iter_mut().enumerate() {
            for (number, message) in (member.first..).zip(&mut member.messages) {
                if !is_set(&message.got, who) {
                    set(&mut message.got, who);
                    message.missing -= 1;
                    if message.missing == 0 {
                        done.push((sender, number));
                    }
                }
            }
            member.forget_delivered();
        }
        done
    }
}

impl Member {
    /// A delivery whose place is taken.
    fn again(&mut self) -> Delivered {
        match self.given_up.checked_sub(1) {
            Some(left) => {
                self.given_up = left;
                Delivered::Late
            }
            None => Delivered::Wrong(ErrorKind::Duplicate),
        }
    }

    fn forget_delivered(&mut self) {
        while self.messages.front().is_some_and(|message| message.missing == 0) {
            self.messages.pop_front();
            self.first += 1;
        }
    }
}

fn is_set(bits: &[u64], index: usize) -> bool {
    bits[index / 64] >> (index % 64) & 1 == 1
}

fn set(bits: &mut [u64], index: usize) {
    bits[index / 64] |= 1 << (index % 64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_delivered_when_all_others_have_it_once() {
        let mut room = Room::new(3);
        assert!(room.sent(0, 0) && room.sent(0, 1) && room.sent(2, 0));
        assert_eq!(room.deliver(1, 0, 0), Delivered::Partly);
        assert_eq!(room.deliver(1, 0, 0), Delivered::Wrong(ErrorKind::Duplicate));
        assert_eq!(room.deliver(2, 0, 0), Delivered::ToAll);
        assert_eq!(room.deliver(2, 0, 0), Delivered::Wrong(ErrorKind::Duplicate));
        assert_eq!(room.deliver(0, 0, 1), Delivered::Wrong(ErrorKind::UnexpectedBytes));
        assert_eq!(room.deliver(1, 0, 2), Delivered::Wrong(ErrorKind::UnexpectedBytes));
        assert_eq!(room.deliver(1, 9, 0), Delivered::Wrong(ErrorKind::WrongBytes));
        assert_eq!(room.deliver(0, 2, 0), Delivered::Partly);
        assert_eq!(room.deliver(1, 2, 0), Delivered::ToAll);
    }

    #[test]
    fn a_message_that_was_overtaken_is_told_apart_from_one_that_is_missing() {
        let mut room = Room::new(3);
        assert!(room.sent(0, 5) && room.sent(0, 6) && room.sent(0, 7));
        assert_eq!(room.deliver(1, 0, 6), Delivered::Partly);
        assert_eq!(room.deliver(1, 0, 5), Delivered::Overtaken { to_all: false });
        assert_eq!(room.deliver(2, 0, 6), Delivered::ToAll);
        assert_eq!((room.give_up(0, 5), room.give_up(0, 5), room.give_up(0, 7)), (1, 0, 2));
        assert_eq!(room.deliver(2, 0, 5), Delivered::Late);
        assert_eq!(room.deliver(1, 0, 7), Delivered::Late);
        assert_eq!(room.deliver(2, 0, 7), Delivered::Late);
        assert_eq!(room.deliver(2, 0, 7), Delivered::Wrong(ErrorKind::Duplicate));
    }

    #[test]
    fn nobody_waits_for_a_member_that_has_left() {
        let mut room = Room::new(3);
        assert!(room.sent(0, 0) && room.sent(1, 0) && room.sent(2, 0));
        assert_eq!(room.deliver(1, 0, 0), Delivered::Partly);
        assert_eq!(room.deliver(0, 2, 0), Delivered::Partly);
        assert_eq!(room.leave(2), [(0, 0)]);
        assert_eq!(room.leave(2), []);
        // Its last message may still reach the others, each once.
        assert_eq!(room.deliver(1, 2, 0), Delivered::Late);
        assert_eq!(room.deliver(1, 2, 0), Delivered::Wrong(ErrorKind::Duplicate));
        assert_eq!(room.deliver(0, 1, 0), Delivered::ToAll);
        assert!(room.sent(0, 1));
        assert_eq!(room.deliver(1, 0, 1), Delivered::ToAll);
        assert_eq!(room.leave(1), []);
        assert!(!room.sent(0, 2), "nobody is left to hear it");
    }
}
