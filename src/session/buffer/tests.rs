//! The rings against a plain queue, and the leases against the budget.

use std::collections::VecDeque;

use super::super::gather::{RING_SLICES, with_io_slices};
use super::*;

const RING: usize = 8;

/// A worker's leases of rings of eight bytes, with memory for all that these tests need.
fn leases() -> Leases {
    Leases::new(RING, Budget::new(usize::MAX))
}

/// Reads `bytes` in, as far as there is room, and says how many fitted and in how many slices the room was lent.
fn read(inbound: &mut Inbound, leases: &mut Leases, bytes: &[u8]) -> (usize, usize) {
    let memory = inbound.lend(leases).expect("memory for a ring");
    let (count, slices) = with_io_slices(memory, |slices| {
        let mut left = bytes;
        for slice in slices.iter_mut() {
            let (now, later) = left.split_at(left.len().min(slice.len()));
            slice[..now.len()].copy_from_slice(now);
            left = later;
        }
        (bytes.len() - left.len(), slices.len())
    });
    inbound.fill(count);
    (count, slices)
}

fn unread(inbound: &Inbound) -> Vec<u8> {
    let (first, second) = inbound.unread().slices();
    [first, second].concat()
}

/// What one write would be given, and in how many slices.
fn owed(inbound: &Inbound, outbound: &Outbound) -> (Vec<u8>, usize) {
    let mut gather = Gather::<RING_SLICES>::new();
    inbound.gather(&mut gather);
    outbound.gather(&mut gather);
    inbound.gather_held(&mut gather);
    let bytes: Vec<u8> = gather.slices().iter().flat_map(|slice| slice.iter().copied()).collect();
    assert_eq!(bytes.len(), gather.len());
    assert!(gather.slices().iter().all(|slice| !slice.is_empty()));
    (bytes, gather.slices().len())
}

/// The stream took `count` bytes of what [`owed`] shows.
fn sent(inbound: &mut Inbound, outbound: &mut Outbound, count: usize) {
    let forwarded = inbound.sent(count);
    let said = outbound.sent(count - forwarded);
    if outbound.len() == 0 {
        inbound.release_held();
    }
    assert_eq!(inbound.sent(count - forwarded - said), count - forwarded - said);
}

#[test]
fn forwarded_bytes_leave_from_where_they_came() {
    let (mut leases, mut inbound, mut outbound) = (leases(), Inbound::default(), Outbound::default());
    assert_eq!(read(&mut inbound, &mut leases, b"abc"), (3, 1));
    assert_eq!(unread(&inbound), b"abc");
    inbound.forward(2, false);
    assert_eq!((unread(&inbound), inbound.unread_len(), inbound.owed_len()), (b"c".to_vec(), 1, 2));
    assert_eq!(owed(&inbound, &outbound), (b"ab".to_vec(), 1));
    sent(&mut inbound, &mut outbound, 1);
    assert_eq!(owed(&inbound, &outbound), (b"b".to_vec(), 1));
    assert_eq!(unread(&inbound), b"c");
}

#[test]
fn held_bytes_leave_behind_the_outbound_ones() {
    let (mut leases, mut inbound, mut outbound) = (leases(), Inbound::default(), Outbound::default());
    read(&mut inbound, &mut leases, b"abcd");
    inbound.forward(1, false);
    assert!(outbound.append(b"XY", &mut leases));
    inbound.forward(1, true);
    assert!(inbound.has_held());
    inbound.forward(1, false);
    assert_eq!(owed(&inbound, &outbound), (b"aXYbc".to_vec(), 3), "what follows held bytes is held too");
    sent(&mut inbound, &mut outbound, 2);
    assert_eq!(owed(&inbound, &outbound), (b"Ybc".to_vec(), 2));
    sent(&mut inbound, &mut outbound, 2);
    assert!(!inbound.has_held());
    assert_eq!(owed(&inbound, &outbound), (b"c".to_vec(), 1));
    assert_eq!(unread(&inbound), b"d");
}

#[test]
fn dropped_bytes_wait_for_the_forwarded_ones_before_them() {
    let (mut leases, mut inbound, mut outbound) = (leases(), Inbound::default(), Outbound::default());
    read(&mut inbound, &mut leases, b"abcdef");
    inbound.discard(1);
    assert!(!inbound.has_dropped(), "with nothing before them they are gone at once");
    inbound.forward(2, false);
    inbound.discard(2);
    assert!(inbound.has_dropped());
    assert!(!inbound.can_show(), "nothing is taken meanwhile");
    sent(&mut inbound, &mut outbound, 1);
    assert!(inbound.has_dropped());
    sent(&mut inbound, &mut outbound, 1);
    assert!(inbound.can_show());
    assert_eq!(unread(&inbound), b"f");
}

#[test]
fn all_unread_bytes_can_be_discarded() {
    let (mut leases, mut inbound, mut outbound) = (leases(), Inbound::default(), Outbound::default());
    read(&mut inbound, &mut leases, b"abcd");
    inbound.forward(1, false);
    inbound.discard_unread();
    assert_eq!((inbound.unread_len(), inbound.is_empty()), (0, false));
    sent(&mut inbound, &mut outbound, 1);
    assert!(inbound.is_empty());
}

#[test]
#[should_panic(expected = "segments-in-order")]
fn nothing_is_forwarded_past_dropped_bytes() {
    let (mut leases, mut inbound) = (leases(), Inbound::default());
    read(&mut inbound, &mut leases, b"abc");
    inbound.forward(1, false);
    inbound.discard(1);
    inbound.forward(1, false);
}

#[test]
fn a_ring_that_wraps_is_two_slices_each_way() {
    let (mut leases, mut inbound, mut outbound) = (leases(), Inbound::default(), Outbound::default());
    read(&mut inbound, &mut leases, b"abcdef");
    inbound.forward(4, false);
    sent(&mut inbound, &mut outbound, 4);
    assert_eq!(read(&mut inbound, &mut leases, b"ghijklm"), (6, 2), "two at the end and four at the front");
    assert!(!inbound.has_room());
    assert_eq!(inbound.unread().slices(), (&b"efgh"[..], &b"ijkl"[..]));
    inbound.forward(6, false);
    assert_eq!(inbound.unread().slices(), (&b"kl"[..], &b""[..]), "behind the wrap");
    assert_eq!(owed(&inbound, &outbound), (b"efghij".to_vec(), 2));
    assert!(outbound.append(b"X", &mut leases));
    assert_eq!(owed(&inbound, &outbound), (b"efghijX".to_vec(), 3));
}

#[test]
fn outbound_bytes_wrap_too() {
    let (mut leases, inbound, mut outbound) = (leases(), Inbound::default(), Outbound::default());
    assert!(outbound.append(b"abcdef", &mut leases));
    outbound.sent(5);
    assert!(outbound.append(b"ghijklm", &mut leases));
    assert_eq!(outbound.len(), RING);
    assert_eq!(owed(&inbound, &outbound), (b"fghijklm".to_vec(), 2));
}

#[test]
fn an_emptied_ring_begins_at_its_first_byte() {
    let (mut leases, mut inbound, mut outbound) = (leases(), Inbound::default(), Outbound::default());
    for _ in 0..3 {
        assert_eq!(read(&mut inbound, &mut leases, b"abcde"), (5, 1));
        inbound.forward(5, false);
        sent(&mut inbound, &mut outbound, 5);
    }
    let (first, second) = inbound.lend(&mut leases).expect("it has a ring");
    assert_eq!((first.len(), second.len()), (RING, 0));
}

#[test]
fn a_ring_is_given_back_when_it_is_empty_and_not_before() {
    let budget = Budget::new(usize::MAX);
    let mut leases = Leases::new(RING, Arc::clone(&budget));
    let (mut inbound, mut outbound) = (Inbound::default(), Outbound::default());
    assert!(inbound.has_room(), "once it is lent a ring");
    read(&mut inbound, &mut leases, b"a");
    assert!(outbound.append(b"b", &mut leases));
    inbound.settle(&mut leases);
    outbound.settle(&mut leases);
    assert_eq!((leases.free.len(), budget.made_bytes()), (0, 2 * RING));
    inbound.discard(1);
    outbound.sent(1);
    inbound.settle(&mut leases);
    outbound.settle(&mut leases);
    assert_eq!((leases.free.len(), budget.made_bytes()), (2, 2 * RING));
    assert!(inbound.unread().is_empty());
    assert_eq!(owed(&inbound, &outbound), (vec![], 0));
}

#[test]
fn a_ring_given_back_full_is_lent_empty() {
    let (mut leases, mut inbound, mut outbound) = (leases(), Inbound::default(), Outbound::default());
    read(&mut inbound, &mut leases, b"abcdefgh");
    inbound.forward(2, false);
    inbound.discard(2);
    assert!(outbound.append(b"x", &mut leases));
    inbound.release(&mut leases);
    outbound.release(&mut leases);
    assert_eq!(leases.free.len(), 2);
    assert_eq!((inbound.owed_len(), inbound.unread_len(), inbound.has_dropped()), (0, 0, false));
    assert_eq!(read(&mut inbound, &mut leases, b"ijklmnopq"), (RING, 1));
    assert_eq!(unread(&inbound), b"ijklmnop");
}

#[test]
fn the_budget_bounds_the_rings_of_all_workers_together() {
    let budget = Budget::new(2 * RING + RING / 2);
    let mut workers = [(); 2].map(|()| Leases::new(RING, Arc::clone(&budget)));
    let mut inbounds = [(); 3].map(|()| Inbound::default());
    assert!(inbounds[0].lend(&mut workers[0]).is_some());
    assert!(inbounds[1].lend(&mut workers[1]).is_some());
    assert!(!budget.has_room(RING));
    assert!(inbounds[2].lend(&mut workers[0]).is_none(), "half a ring is none");
    assert!(!Outbound::default().append(b"x", &mut workers[0]));
    assert_eq!(budget.made_bytes(), 2 * RING, "refusals cost nothing");
    assert!(workers[0].take_refused());
    assert!(!workers[0].take_refused(), "told once");
    assert!(!workers[1].take_refused());
    inbounds[0].settle(&mut workers[0]);
    assert!(inbounds[2].lend(&mut workers[0]).is_some(), "a ring of its own free list");
}

#[test]
fn a_worker_keeps_no_ring_that_others_wait_for() {
    let budget = Budget::new(RING);
    let mut workers = [(); 2].map(|()| Leases::new(RING, Arc::clone(&budget)));
    let (mut first, mut second) = (Inbound::default(), Inbound::default());
    assert!(first.lend(&mut workers[0]).is_some());
    assert!(second.lend(&mut workers[1]).is_none());
    budget.awaited.store(true, Ordering::Relaxed);
    first.settle(&mut workers[0]);
    assert_eq!((workers[0].free.len(), budget.made_bytes()), (0, 0));
    assert!(budget.has_room(RING));
    assert!(second.lend(&mut workers[1]).is_some());
}

#[test]
fn a_worker_keeps_a_few_rings_and_leaves_none_behind() {
    let budget = Budget::new(usize::MAX);
    let mut leases = Leases::new(RING, Arc::clone(&budget));
    let mut inbounds: Vec<Inbound> = (0..Leases::KEPT + 3).map(|_| Inbound::default()).collect();
    for inbound in &mut inbounds {
        assert!(inbound.lend(&mut leases).is_some());
    }
    assert_eq!(budget.made_bytes(), (Leases::KEPT + 3) * RING);
    inbounds.iter_mut().for_each(|inbound| inbound.settle(&mut leases));
    assert_eq!((leases.free.len(), budget.made_bytes()), (Leases::KEPT, Leases::KEPT * RING));
    drop(leases);
    assert_eq!(budget.made_bytes(), 0);
}

#[test]
fn a_budget_without_a_limit_has_room() {
    assert!(Budget::new(usize::MAX).has_room(usize::MAX));
    assert!(!Budget::new(RING).has_room(RING + 1));
    assert!(!Budget::new(0).has_room(1));
}

/// Numbers that look random and are the same every time (xorshift).
struct Dice(u64);

impl Dice {
    /// A number from 0 up to and with `most`.
    fn up_to(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % (most as u64 + 1)) as usize
    }
}

/// The rings against two plain queues: what is unread, and what is owed in the order in which it was said.
#[test]
fn whatever_is_done_the_bytes_come_out_in_order() {
    for seed in 1..=500 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let (mut leases, mut inbound, mut outbound) = (leases(), Inbound::default(), Outbound::default());
        let (mut plain_unread, mut plain_owed) = (VecDeque::<u8>::new(), VecDeque::<u8>::new());
        let mut next = (0..=255).cycle();
        for step in 0..200 {
            match dice.up_to(4) {
                0 if inbound.has_room() => {
                    let bytes: Vec<u8> = next.by_ref().take(dice.up_to(RING)).collect();
                    let (count, _) = read(&mut inbound, &mut leases, &bytes);
                    plain_unread.extend(&bytes[..count]);
                }
                1 if inbound.can_show() => {
                    let count = 1 + dice.up_to(inbound.unread_len() - 1);
                    inbound.forward(count, outbound.len() > 0);
                    plain_owed.extend(plain_unread.drain(..count));
                }
                2 if inbound.can_show() => {
                    let count = 1 + dice.up_to(inbound.unread_len() - 1);
                    inbound.discard(count);
                    plain_unread.drain(..count);
                }
                3 if !inbound.has_held() => {
                    let bytes: Vec<u8> = next.by_ref().take(dice.up_to(RING - outbound.len())).collect();
                    assert!(outbound.append(&bytes, &mut leases));
                    plain_owed.extend(bytes);
                }
                _ => {
                    let (bytes, _) = owed(&inbound, &outbound);
                    let count = dice.up_to(bytes.len());
                    sent(&mut inbound, &mut outbound, count);
                    plain_owed.drain(..count);
                    inbound.settle(&mut leases);
                    outbound.settle(&mut leases);
                }
            }
            let (bytes, slices) = owed(&inbound, &outbound);
            assert!(slices <= 4);
            assert!(plain_owed.iter().take(bytes.len()).eq(&bytes), "seed {seed}, step {step}");
            assert_eq!(inbound.owed_len() + outbound.len(), plain_owed.len(), "seed {seed}, step {step}");
            assert!(plain_owed.is_empty() || !bytes.is_empty(), "something can always be sent");
            assert!(plain_unread.iter().eq(&unread(&inbound)), "seed {seed}, step {step}");
        }
    }
}
