//! [`Mail`]: what a session keeps that hears of others: its mailbox, what it has taken from there and not yet sent, and the
//! calls that are in flight.
//!
//! A call is in flight until its reply has left, and not only until it has been run: a peer that asks and does not read fills
//! its share of memory, and then its input waits. Invariant *calls-bounded*: with as many in flight as [`Mailing`] says, or as
//! many bytes of them, the handler is shown no input.
//!
//! What the rings owe and the backlog leave by one socket. Invariant *messages-whole*: between the first byte of a message
//! from the mailbox and its last, and between the first byte of what the rings owe and the last, nothing else is sent. One of
//! the two leads and is offered first, until all of it has left ([`Mail::choose_lead`]). Invariant *taken-before-the-fin*:
//! a session that finishes has emptied its mailbox before, and one that ends in a drain has sent what was left there before
//! the drain and by its own handler.
//!
//! Read next: `Session::send`, which offers both.

use std::collections::VecDeque;

use super::handler::{Call, Closed, Mailing, Sending, Tally};
use super::mailbox::{Address, Message};
use super::part::Part;

/// The part of a session that has to do with its mailbox.
pub(super) struct Mail {
    pub(super) mailbox: Address,
    /// Taken from the mailbox and not yet sent.
    pub(super) backlog: Backlog,
    /// Calls whose replies have not left.
    pub(super) calls: u32,
    most_calls: u32,
    /// Bytes that they take up.
    call_bytes: usize,
    most_call_bytes: usize,
    /// Somebody asks the handler to look for itself.
    pub(super) noted: bool,
    /// The backlog is sent before what the rings owe.
    pub(super) leads: bool,
    pub(super) sending: Sending,
    /// Calls that go on where what is being sent ends: for the engine, once the turn is over.
    pub(super) following: Vec<Box<dyn Call>>,
}

impl Mail {
    pub(super) fn new(mailbox: Address, mailing: Mailing) -> Mail {
        Mail {
            mailbox,
            backlog: Backlog::default(),
            calls: 0,
            most_calls: mailing.calls,
            call_bytes: 0,
            most_call_bytes: mailing.limits.bytes,
            noted: false,
            leads: false,
            sending: mailing.sending,
            following: Vec::new(),
        }
    }

    /// Takes what has come.
    pub(super) fn collect(&mut self, tally: &mut Tally) -> Result<(), Closed> {
        let news = self.mailbox.take(&mut self.backlog);
        tally.posts += news.posts;
        tally.posts_refused += news.refused;
        tally.post_wakes += news.wakes;
        self.note_ended(news.silent_calls, news.silent_bytes);
        self.noted |= news.noted;
        self.follow();
        match (news.failed, news.evicted) {
            (Some(closed), _) => Err(closed),
            (_, true) => Err(Closed::Evicted),
            _ => Ok(()),
        }
    }

    /// What goes on behind the next letter to be sent is begun. In flight before that letter's own call is over, so that no
    /// input is shown in between.
    fn follow(&mut self) {
        if let Some(call) = self.backlog.poll_following() {
            self.note_calls(std::slice::from_ref(&call));
            self.following.push(call);
        }
    }

    /// Whether one more call may be in flight.
    pub(super) fn can_call(&self) -> bool {
        self.calls < self.most_calls && (self.calls == 0 || self.call_bytes < self.most_call_bytes)
    }

    /// These calls are in flight from now on.
    pub(super) fn note_calls(&mut self, calls: &[Box<dyn Call>]) {
        self.calls += calls.len() as u32;
        self.call_bytes += calls.iter().map(|call| call.bytes()).sum::<usize>();
    }

    /// So many calls, which took up so many bytes, are no longer in flight.
    fn note_ended(&mut self, calls: u32, bytes: usize) {
        assert!(calls <= self.calls && bytes <= self.call_bytes, "only calls that were made come back");
        self.calls -= calls;
        self.call_bytes -= bytes;
    }

    /// Whether nothing that was taken waits to be sent, and no call will bring more.
    pub(super) fn owes_nothing(&self) -> bool {
        self.backlog.is_empty() && self.calls == 0
    }

    /// Whoever leads goes on until all of it has left, so that no message is cut by other bytes, and a stream that sends
    /// from where the bytes lie is offered them in the same order again.
    pub(super) fn choose_lead(&mut self, rings_owe: bool) {
        self.leads = !self.backlog.is_empty() && (self.leads || !rings_owe);
    }

    /// Of so many bytes that have left, drops those that were of the backlog; how many others there are.
    pub(super) fn sent(&mut self, mut count: usize) -> usize {
        while let Some(letter) = self.backlog.poll_sent(&mut count) {
            self.mailbox.note_sent(&letter.message);
            self.follow();
            if let Some(bytes) = letter.of_call {
                self.note_ended(1, bytes);
            }
        }
        count
    }
}

/// Something for a session to send.
pub(super) struct Letter {
    pub(super) message: Message,
    /// Behind the message.
    pub(super) part: Option<Part>,
    /// What goes on where this ends.
    pub(super) then: Option<Box<dyn Call>>,
    /// If it is the reply to a call of that session: the bytes that the call takes up.
    pub(super) of_call: Option<usize>,
}

impl Letter {
    fn len(&self) -> usize {
        self.message.len() + self.part.as_ref().map_or(0, |part| part.bytes)
    }
}

/// Messages that a session has taken and not yet sent, oldest first.
#[derive(Default)]
pub(super) struct Backlog {
    letters: VecDeque<Letter>,
    /// Bytes of the first that have been sent.
    sent: usize,
    /// Letters with a part of a file.
    parts: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    /// Adds messages behind those that are there.
    pub(super) fn append(&mut self, more: &mut VecDeque<Letter>) {
        self.parts += more.iter().filter(|letter| letter.part.is_some()).count();
        if self.letters.is_empty() {
            std::mem::swap(&mut self.letters, more);
        } else {
            self.letters.append(more);
        }
    }

    /// Whether a part of a file is among them, which no write can offer.
    pub(super) fn has_part(&self) -> bool {
        self.parts > 0
    }

    /// What is left of each message, up to the first part of a file.
    pub(super) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let begun = |place: usize| if place == 0 { self.sent } else { 0 };
        let mut is_over = false;
        let before_part = self.letters.iter().take_while(move |letter| {
            let goes_on = !is_over;
            is_over = letter.part.is_some();
            goes_on
        });
        before_part.enumerate().map(move |(place, letter)| &letter.message[begun(place).min(letter.message.len())..])
    }

    /// What is left of the part of a file that is to be sent now, if that is what is to be sent now.
    pub(super) fn part(&self) -> Option<Part> {
        let Letter { message, part, .. } = self.letters.front()?;
        let sent = self.sent.checked_sub(message.len())?;
        part.as_ref().map(|part| part.behind(sent))
    }

    /// Takes what follows the first letter.
    fn poll_following(&mut self) -> Option<Box<dyn Call>> {
        self.letters.front_mut()?.then.take()
    }

    /// The next message of which the last byte is among `count` that have left; takes its bytes off them.
    pub(super) fn poll_sent(&mut self, count: &mut usize) -> Option<Letter> {
        let left = self.letters.front()?.len() - self.sent;
        if *count < left {
            self.sent += std::mem::take(count);
            return None;
        }
        *count -= left;
        self.sent = 0;
        let letter = self.letters.pop_front()?;
        self.parts -= usize::from(letter.part.is_some());
        Some(letter)
    }

    /// Gives up the memory of a long list that has been sent.
    pub(super) fn settle(&mut self) {
        const KEPT: usize = 4;
        if self.letters.is_empty() && self.letters.capacity() > KEPT {
            self.letters = VecDeque::new();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::super::handler::Moment;
    use super::super::mailbox::{Limits, Mailbox, Posted, Rouse};
    use super::super::part::Brought;
    use super::*;

    struct Nobody;

    impl Rouse for Nobody {
        fn rouse(&self, _key: u64) {}
    }

    struct Call(usize);

    impl super::Call for Call {
        fn bytes(&self) -> usize {
            self.0
        }

        fn run(self: Box<Self>, _moment: &Moment, _is_wanted: &dyn Fn() -> bool) -> Brought {
            brought(self.0)
        }
    }

    fn brought(bytes: usize) -> Brought {
        Message::from(vec![b'x'; bytes]).into()
    }

    fn mail(calls: u32, bytes: usize) -> Mail {
        let limits = Limits { bytes, messages: 10, edge: true };
        let mailbox = Mailbox::new(limits, Arc::new(Nobody), 0);
        Mail::new(mailbox, Mailing { limits, calls, sending: Sending::Vectored })
    }

    fn call(mail: &mut Mail, bytes: usize) {
        mail.note_calls(&[Box::new(Call(bytes))]);
    }

    /// A call has been run, and its reply was taken.
    fn answer(mail: &mut Mail, bytes: usize) {
        let _ = mail.mailbox.reply(brought(bytes), bytes);
        mail.collect(&mut Tally::default()).expect("it goes on");
    }

    #[test]
    fn a_call_is_in_flight_until_its_reply_has_left() {
        let mut mail = mail(2, 1_000);
        call(&mut mail, 10);
        assert!(mail.can_call());
        call(&mut mail, 20);
        assert!(!mail.can_call());
        answer(&mut mail, 20);
        assert!(!mail.can_call() && !mail.owes_nothing(), "it was run, and has not left");
        assert_eq!(mail.sent(19), 0);
        assert!(!mail.can_call(), "all but its last byte");
        assert_eq!(mail.sent(3), 2, "two were of something else");
        assert!(mail.can_call() && !mail.owes_nothing());
        answer(&mut mail, 10);
        assert_eq!(mail.sent(10), 0);
        assert!(mail.owes_nothing());
        assert_eq!((mail.calls, mail.call_bytes), (0, 0));
    }

    #[test]
    fn the_bytes_of_calls_are_bounded_too_and_one_call_may_always_be_made() {
        let mut mail = mail(10, 100);
        call(&mut mail, 99);
        assert!(mail.can_call());
        call(&mut mail, 1);
        assert!(!mail.can_call());
        answer(&mut mail, 99);
        assert_eq!(mail.sent(99), 0);
        call(&mut mail, 5_000);
        answer(&mut mail, 1);
        answer(&mut mail, 5_000);
        assert_eq!(mail.sent(5_000), 0);
        assert!(!mail.can_call(), "one byte is left of it");
        assert_eq!(mail.sent(1), 0);
        assert!(mail.can_call());
    }

    #[test]
    fn what_others_post_is_no_call() {
        let mut mail = mail(1, 100);
        call(&mut mail, 1);
        assert_eq!(mail.mailbox.post(vec![b'y'; 3].into()), Posted::Taken);
        answer(&mut mail, 1);
        assert_eq!(mail.sent(3), 0);
        assert!(!mail.can_call());
        assert_eq!(mail.sent(1), 0);
        assert!(mail.can_call());
    }

    /// Three bytes of a message, `part` bytes of a file, and a call behind them.
    fn part_of_answer(mail: &mut Mail, part: usize, then: Option<usize>) {
        let file = Arc::new(tempfile::tempfile().expect("a temporary file"));
        let mut brought = brought(3).with_part(Part { file, from: 10, bytes: part });
        if let Some(bytes) = then {
            brought = brought.followed_by(Box::new(Call(bytes)));
        }
        let _ = mail.mailbox.reply(brought, 0);
        mail.collect(&mut Tally::default()).expect("it goes on");
    }

    #[test]
    fn what_follows_is_begun_while_what_comes_before_is_sent_and_no_input_comes_between() {
        let mut mail = mail(1, 100);
        call(&mut mail, 0);
        part_of_answer(&mut mail, 5, Some(0));
        assert_eq!((mail.following.len(), mail.calls), (1, 2), "the first is the next to be sent");
        mail.following.clear();
        part_of_answer(&mut mail, 6, Some(0));
        assert_eq!((mail.following.len(), mail.calls), (0, 2), "the second waits for the first to leave");
        assert_eq!(mail.sent(8), 0);
        assert_eq!((mail.following.len(), mail.calls), (1, 2));
        assert!(!mail.can_call());
        mail.following.clear();
        assert_eq!(mail.sent(9), 0);
        assert!(mail.backlog.is_empty() && !mail.can_call() && !mail.owes_nothing(), "the last is on its way");
        part_of_answer(&mut mail, 1, None);
        assert_eq!(mail.sent(4), 0);
        assert!(mail.following.is_empty() && mail.owes_nothing() && mail.can_call());
    }

    #[test]
    fn a_part_is_offered_when_all_before_it_has_left_and_nothing_behind_it_sooner() {
        let mut mail = mail(5, 100);
        for _ in 0..3 {
            call(&mut mail, 0);
        }
        let _ = mail.mailbox.reply(brought(2), 0);
        part_of_answer(&mut mail, 5, None);
        let _ = mail.mailbox.reply(brought(4), 0);
        mail.collect(&mut Tally::default()).expect("it goes on");
        let offered = |mail: &Mail| mail.backlog.slices().map(<[u8]>::len).collect::<Vec<_>>();
        let part = |mail: &Mail| mail.backlog.part().map(|part| (part.from, part.bytes));
        assert_eq!((offered(&mail), part(&mail)), (vec![2, 3], None));
        assert_eq!(mail.sent(3), 0);
        assert_eq!((offered(&mail), part(&mail)), (vec![2], None));
        assert_eq!(mail.sent(2), 0);
        assert_eq!((offered(&mail), part(&mail)), (vec![0], Some((10, 5))));
        assert_eq!(mail.sent(2), 0);
        assert_eq!((offered(&mail), part(&mail)), (vec![0], Some((12, 3))));
        assert_eq!(mail.sent(3), 0);
        assert_eq!((offered(&mail), part(&mail)), (vec![4], None));
    }
}
