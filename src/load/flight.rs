//! The requests of one connection: those that wait to be sent, and those in flight, by number.
//!
//! Numbers run on for the life of the slot, over reconnects, so that the k-th request of a connection is the same one
//! whatever the server does. Replies may come in any order; what has come stays as a gap until all before it have.
//!
//! Invariant *counted-once*: each request asked for leaves by exactly one of complete, expire, fail and abandon. Nothing
//! here knows a socket or a clock. Read next: `connection.rs`.

use std::collections::VecDeque;

/// When a request in flight was due, and when it was sent; nanoseconds of one clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// When it should have been sent.
    pub intended_ns: u64,
    /// When the first of its bytes was handed to the kernel.
    pub sent_ns: u64,
}

/// What a reply found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its request, which is in flight no longer.
    Sent(Sent),
    /// A request that was given up as lost: the reply is late.
    Late,
    /// A request that has had its reply.
    Answered,
    /// No request: nothing of that number was sent yet.
    Nothing,
}

/// Stands for a request that has had its reply: no clock reaches it.
const ANSWERED: u64 = u64::MAX;

/// The requests of one connection.
#[derive(Debug, Default)]
pub struct Flight {
    /// Intended times of requests that were asked for and not sent.
    waiting: VecDeque<u64>,
    /// Requests sent, from number `first` on; the front one is never an answered one.
    sent: VecDeque<Sent>,
    first: u64,
    in_flight: usize,
    /// Replies that may still come for requests that were given up.
    given_up: u64,
}

impl Flight {
    /// Asks for one more request, due at `intended_ns`.
    #[inline]
    pub fn ask(&mut self, intended_ns: u64) {
        self.waiting.push_back(intended_ns);
    }

    /// Requests that were asked for and not sent.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests sent whose reply is still to come.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The number of the next request to be sent.
    pub fn next(&self) -> u64 {
        self.first + self.sent.len() as u64
    }

    /// The `count` longest waiting requests have been sent.
    ///
    /// # Panics
    /// When fewer are waiting.
    #[inline]
    pub fn begin(&mut self, count: usize, sent_ns: u64) {
        assert!(count <= self.waiting.len(), "what is sent was asked for");
        let begun = self.waiting.drain(..count);
        self.sent.extend(begun.map(|intended_ns| Sent { intended_ns, sent_ns }));
        self.in_flight += count;
    }

    /// The request `number` has had its reply.
    #[inline]
    pub fn complete(&mut self, number: u64) -> Found {
        if number < self.first {
            return self.answered_before();
        }
        let Some(slot) = self.sent.get_mut((number - self.first) as usize) else { return Found::Nothing };
        let sent = *slot;
        if sent.intended_ns == ANSWERED {
            return self.answered_before();
        }
        slot.intended_ns = ANSWERED;
        self.in_flight -= 1;
        self.drop_answered();
        Found::Sent(sent)
    }

    /// When the longest flying request was sent.
    pub fn oldest_sent_ns(&self) -> Option<u64> {
        self.sent.front().map(|sent| sent.sent_ns)
    }

    /// Gives up the requests that were sent before `before_ns`; their numbers and times. A reply that comes all the same
    /// is late.
    pub fn expire(&mut self, before_ns: u64) -> Vec<(u64, Sent)> {
        self.give_up_while(|_, sent| sent.sent_ns < before_ns)
    }

    /// Gives up the `count` oldest requests; their numbers and times.
    pub fn give_up(&mut self, count: usize) -> Vec<(u64, Sent)> {
        self.give_up_while(|given_up, _| given_up < count)
    }

    /// In the order of sending, until `goes_on` says no; it gets how many there were before, and the next.
    fn give_up_while(&mut self, goes_on: impl Fn(usize, Sent) -> bool) -> Vec<(u64, Sent)> {
        let mut given_up = Vec::new();
        for (number, slot) in (self.first..).zip(&mut self.sent) {
            if !goes_on(given_up.len(), *slot) {
                break;
            }
            if slot.intended_ns != ANSWERED {
                given_up.push((number, *slot));
                slot.intended_ns = ANSWERED;
            }
        }
        self.in_flight -= given_up.len();
        self.given_up += given_up.len() as u64;
        self.drop_answered();
        given_up
    }

    /// The connection has ended: nothing is in flight any more. Returns what was.
    pub fn fail(&mut self) -> Vec<(u64, Sent)> {
        let lost = self.give_up_while(|_, _| true);
        // No reply comes any more, not even a late one.
        self.given_up = 0;
        lost
    }

    /// Gives up what waits; the intended times, in order.
    pub fn abandon(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.drain(..)
    }

    fn answered_before(&mut self) -> Found {
        match self.given_up.checked_sub(1) {
            // Which of them it is does not matter: each may come once.
            Some(left) => {
                self.given_up = left;
                Found::Late
            }
            None => Found::Answered,
        }
    }

    #[inline]
    fn drop_answered(&mut self) {
        while self.sent.front().is_some_and(|sent| sent.intended_ns == ANSWERED) {
            self.sent.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flying(count: u64) -> Flight {
        let mut flight = Flight::default();
        for number in 0..count {
            flight.ask(number * 10);
            flight.begin(1, number * 10 + 1);
        }
        flight
    }

    fn sent(number: u64) -> Found {
        Found::Sent(Sent { intended_ns: number * 10, sent_ns: number * 10 + 1 })
    }

    fn numbers(given_up: Vec<(u64, Sent)>) -> Vec<u64> {
        given_up.into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn replies_in_any_order_find_their_requests_once() {
        let mut flight = flying(4);
        assert_eq!(flight.complete(2), sent(2));
        assert_eq!(flight.complete(2), Found::Answered);
        assert_eq!(flight.complete(0), sent(0));
        assert_eq!(flight.complete(0), Found::Answered);
        assert_eq!(flight.complete(4), Found::Nothing);
        assert_eq!((flight.in_flight(), flight.next(), flight.oldest_sent_ns()), (2, 4, Some(11)));
        assert_eq!(flight.complete(1), sent(1));
        assert_eq!(flight.complete(3), sent(3));
        assert_eq!((flight.in_flight(), flight.next(), flight.oldest_sent_ns()), (0, 4, None));
    }

    #[test]
    fn a_reply_after_its_deadline_is_late_and_not_an_error() {
        let mut flight = flying(3);
        assert_eq!(flight.complete(0), sent(0));
        assert_eq!(numbers(flight.expire(21)), [1]);
        assert_eq!(flight.in_flight(), 1);
        assert_eq!(flight.complete(1), Found::Late);
        assert_eq!(flight.complete(1), Found::Answered);
        assert_eq!(flight.complete(2), sent(2));
        let mut flight = flying(4);
        assert_eq!(flight.complete(1), sent(1));
        assert_eq!((numbers(flight.give_up(2)), flight.in_flight()), (vec![0, 2], 1));
        assert_eq!((flight.give_up(9), flight.next()), (vec![(3, Sent { intended_ns: 30, sent_ns: 31 })], 4));
    }

    #[test]
    fn what_waits_outlives_the_connection_and_numbers_run_on() {
        let mut flight = flying(3);
        flight.ask(77);
        assert_eq!(flight.complete(1), sent(1));
        assert_eq!(numbers(flight.fail()), [0, 2]);
        assert_eq!((flight.in_flight(), flight.waiting(), flight.next()), (0, 1, 3));
        flight.begin(1, 80);
        assert_eq!(flight.complete(3), Found::Sent(Sent { intended_ns: 77, sent_ns: 80 }));
        flight.ask(90);
        assert_eq!(flight.abandon().collect::<Vec<_>>(), [90]);
        assert_eq!(flight.waiting(), 0);
    }
}
