//! One mailbox, what it takes and whom it tells.

use super::*;
use crate::sync::atomic::AtomicU64;

const LIMITS: Limits = Limits { bytes: 10, messages: 3, edge: true };

/// Counts how often it is told.
#[derive(Default)]
struct Counter(AtomicU64);

impl Rouse for Counter {
    fn rouse(&self, key: u64) {
        assert_eq!(key, 7);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counter {
    fn mailbox(limits: Limits) -> (Arc<Counter>, Address) {
        let counter = Arc::new(Counter::default());
        let address = Mailbox::new(limits, Arc::clone(&counter) as Arc<dyn Rouse>, 7);
        (counter, address)
    }

    fn told(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn message(text: &str) -> Message {
    Message::from(text.as_bytes())
}

/// So many bytes have left; how many of them were not of the backlog.
fn sent(backlog: &mut Backlog, mut count: usize, mailbox: &Mailbox) -> usize {
    while let Some(letter) = backlog.poll_sent(&mut count) {
        mailbox.note_sent(&letter.message);
    }
    count
}

fn texts(backlog: &Backlog) -> Vec<String> {
    backlog.slices().map(|slice| String::from_utf8_lossy(slice).into_owned()).collect()
}

#[test]
fn only_the_first_post_to_an_empty_mailbox_tells_the_engine() {
    let (counter, mailbox) = Counter::mailbox(LIMITS);
    let mut backlog = Backlog::default();
    for round in 1..=3 {
        assert_eq!(mailbox.post(message("a")), Posted::Taken);
        mailbox.note();
        assert!(!mailbox.reply(message("b").into(), 1), "told already");
        assert_eq!(counter.told(), round);
        let news = mailbox.take(&mut backlog);
        assert_eq!((news.posts, news.wakes, news.noted), (1, 1, true));
        assert_eq!(texts(&backlog), ["a", "b"]);
        assert_eq!(sent(&mut backlog, 2, &mailbox), 0);
    }
    assert_eq!(mailbox.take(&mut backlog), News::default());
}

#[test]
fn the_session_s_own_handler_tells_nobody() {
    let (counter, mailbox) = Counter::mailbox(LIMITS);
    let (_, other) = Counter::mailbox(LIMITS);
    let at_home = other.at_home();
    assert_eq!(mailbox.post(message("from next door")), Posted::Full);
    assert_eq!(mailbox.post(message("a")), Posted::Taken);
    assert_eq!(counter.told(), 1);
    drop(at_home);
    let mut backlog = Backlog::default();
    let _ = mailbox.take(&mut backlog);
    let at_home = mailbox.at_home();
    assert_eq!(mailbox.post(message("b")), Posted::Taken);
    mailbox.note();
    assert!(mailbox.has_news());
    drop(at_home);
    assert_eq!(counter.told(), 1);
    // Nobody is told yet, so that the next one from outside still is the first.
    assert_eq!(mailbox.post(message("c")), Posted::Taken);
    assert_eq!(counter.told(), 2);
    let news = mailbox.take(&mut backlog);
    assert_eq!((texts(&backlog).join(""), news.noted, news.wakes), ("abc".to_owned(), true, 1));
}

#[test]
fn with_the_rule_off_every_post_tells_the_engine() {
    let (counter, mailbox) = Counter::mailbox(Limits { edge: false, ..LIMITS });
    for told in 1..=3 {
        assert_eq!(mailbox.post(message("a")), Posted::Taken);
        assert_eq!(counter.told(), told);
    }
    assert_eq!(mailbox.take(&mut Backlog::default()).wakes, 3);
}

#[test]
fn what_has_not_left_counts_against_the_limits_wherever_it_is() {
    let (_, mailbox) = Counter::mailbox(LIMITS);
    let mut backlog = Backlog::default();
    assert_eq!(mailbox.post(message("12345678")), Posted::Taken);
    assert_eq!(mailbox.post(message("9ab")), Posted::Full, "eleven bytes");
    let _ = mailbox.take(&mut backlog);
    assert_eq!(mailbox.post(message("9ab")), Posted::Full, "it is with the session");
    assert_eq!(sent(&mut backlog, 7, &mailbox), 0);
    assert_eq!(mailbox.post(message("9ab")), Posted::Full, "part of it still is");
    assert_eq!(texts(&backlog), ["8"]);
    assert_eq!(sent(&mut backlog, 3, &mailbox), 2, "two of them are not of the backlog");
    for _ in 0..3 {
        assert_eq!(mailbox.post(message("9")), Posted::Taken);
    }
    assert_eq!(mailbox.post(message("")), Posted::Full, "four messages");
    assert!(!mailbox.reply(message("replies are bounded by the calls").into(), 1));
    assert_eq!(mailbox.take(&mut backlog).refused, 3, "since the last look");
}

#[test]
fn a_closed_mailbox_takes_replies_and_an_ended_one_nothing() {
    let (counter, mailbox) = Counter::mailbox(LIMITS);
    mailbox.close();
    assert_eq!(mailbox.post(message("a")), Posted::Gone);
    mailbox.note();
    mailbox.evict();
    assert_eq!(counter.told(), 0);
    assert!(mailbox.reply(message("b").into(), 1) && !mailbox.is_over());
    mailbox.end();
    assert!(mailbox.is_over());
    assert_eq!(mailbox.post(message("a")), Posted::Gone);
}

/// Does the parts in turn, the last first, and counts them.
struct Backwards(AtomicUsize);

impl Parallel for Backwards {
    fn width(&self) -> usize {
        2
    }

    fn for_each_part(&self, parts: usize, body: &(dyn Fn(usize) + Sync)) {
        self.0.fetch_add(parts, Ordering::Relaxed);
        (0..parts).rev().for_each(body);
    }
}

#[test]
fn all_but_one_get_each_message_in_parts_only_if_there_are_many() {
    for (count, expected_parts) in [(3, 0), (2 * PART - 1, 0), (2 * PART, 2), (2 * PART + 1, 3)] {
        let mailboxes: Vec<Address> = (0..count).map(|_| Counter::mailbox(LIMITS).1).collect();
        let parallel = Backwards(AtomicUsize::new(0));
        let full = AtomicUsize::new(0);
        for text in ["1234", "5678", "9"] {
            let handle_full = |_: &Address| {
                full.fetch_add(1, Ordering::Relaxed);
            };
            post_to_all(&mailboxes, Some(&mailboxes[1]), &message(text), Some(&parallel), &handle_full);
        }
        post_to_all(&mailboxes, None, &message("0"), Some(&parallel), &|_| {
            full.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(parallel.0.into_inner(), 4 * expected_parts, "of {count}");
        assert_eq!(full.into_inner(), count - 1, "the fourth is one too many for who has three");
        for (number, mailbox) in mailboxes.iter().enumerate() {
            let mut backlog = Backlog::default();
            let _ = mailbox.take(&mut backlog);
            let expected: &[&str] = if number == 1 { &["0"] } else { &["1234", "5678", "9"] };
            assert_eq!(texts(&backlog), expected);
        }
    }
}

#[test]
fn one_buffer_goes_to_many_and_is_freed_once_by_the_last() {
    let one = message("for all");
    let freed = Arc::downgrade(&one);
    let mailboxes: Vec<Address> = (0..5).map(|_| Counter::mailbox(LIMITS).1).collect();
    for mailbox in &mailboxes {
        assert_eq!(mailbox.post(Message::clone(&one)), Posted::Taken);
    }
    drop(one);
    for (left, mailbox) in (0..5).rev().zip(&mailboxes) {
        let mut backlog = Backlog::default();
        let _ = mailbox.take(&mut backlog);
        assert_eq!(freed.strong_count(), left + 1);
        match left % 2 {
            0 => assert_eq!(sent(&mut backlog, 7, mailbox), 0),
            // Or it ends with its session.
            _ => drop(backlog),
        }
        assert_eq!(freed.strong_count(), left);
    }
    assert!(freed.upgrade().is_none());
}
