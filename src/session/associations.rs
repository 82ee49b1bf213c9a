//! [`Associations`]: the clients of a relay of datagrams, each with what the relay has for it, in the order in which they were
//! last heard of.
//!
//! A datagram belongs to no connection, so that nobody ever says that a client has gone: it is forgotten after a silence, or
//! when another one needs its place. How many there may be is said by [`Seats`], and kept by the owner of the table.
//!
//! Pure: the caller says what time it is. Invariant *oldest-first*: from the oldest to the newest, the times of last use never
//! fall.
//!
//! Read next: `engine/endpoint/forwarder.rs`, which has a socket for each.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whom answers are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Where it is.
    pub address: SocketAddr,
    /// Which address of ours it talks to, where that is known: answers leave from there.
    pub local: Option<IpAddr>,
}

/// How many clients a relay may have, shared out evenly among its tables: one of them cannot forget a client of another.
#[derive(Debug)]
pub struct Seats {
    most: usize,
    /// Written before the first client comes.
    tables: AtomicUsize,
}

impl Seats {
    /// So many, for one table.
    pub fn new(most: usize) -> Seats {
        Seats { most, tables: AtomicUsize::new(1) }
    }

    /// There is one more table.
    pub fn add_table(&self) {
        self.tables.fetch_add(1, Ordering::Relaxed);
    }

    /// How many each table has; one at the least.
    pub fn each(&self) -> usize {
        (self.most / self.tables.load(Ordering::Relaxed)).max(1)
    }
}

/// Clients by address, with something for each. Who is in it has a place, a small number that stays the same.
#[derive(Debug)]
pub struct Associations<A> {
    places: Vec<Option<Association<A>>>,
    free: Vec<usize>,
    by_client: HashMap<Client, usize>,
    oldest: Option<usize>,
    newest: Option<usize>,
}

#[derive(Debug)]
struct Association<A> {
    client: Client,
    what: A,
    used_ns: u64,
    older: Option<usize>,
    newer: Option<usize>,
}

impl<A> Default for Associations<A> {
    fn default() -> Self {
        Associations { places: Vec::new(), free: Vec::new(), by_client: HashMap::new(), oldest: None, newest: None }
    }
}

impl<A> Associations<A> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_client.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    /// The place of this client.
    pub fn find(&self, client: &Client) -> Option<usize> {
        self.by_client.get(client).copied()
    }

    /// Who is at this place, and what there is for it; None if nobody is.
    pub fn at(&mut self, place: usize) -> Option<(Client, &mut A)> {
        let association = self.places.get_mut(place)?.as_mut()?;
        Some((association.client, &mut association.what))
    }

    /// Who was last heard of the longest ago, and when.
    pub fn oldest(&self) -> Option<(usize, u64)> {
        self.oldest.map(|place| (place, self.association(place).used_ns))
    }

    /// Gives a client a place, as the newest.
    ///
    /// # Panics
    /// If it has one.
    pub fn insert(&mut self, client: Client, what: A, now_ns: u64) -> usize {
        let association = Association { client, what, used_ns: now_ns, older: None, newer: None };
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(association);
                place
            }
            None => {
                self.places.push(Some(association));
                self.places.len() - 1
            }
        };
        let before = self.by_client.insert(client, place);
        assert!(before.is_none(), "a client has one place");
        self.link(place);
        place
    }

    /// Somebody at this place was heard of: it is the newest now.
    pub fn touch(&mut self, place: usize, now_ns: u64) {
        self.association_mut(place).used_ns = now_ns;
        if self.newest != Some(place) {
            self.unlink(place);
            self.link(place);
        }
    }

    /// Forgets who is at this place.
    ///
    /// # Panics
    /// If nobody is.
    pub fn remove(&mut self, place: usize) -> A {
        self.unlink(place);
        let association = self.places[place].take().expect("somebody is there");
        self.by_client.remove(&association.client);
        self.free.push(place);
        association.what
    }

    fn link(&mut self, place: usize) {
        let (older, used_ns) = (self.newest.replace(place), self.association(place).used_ns);
        match older {
            Some(older) => {
                assert!(self.association(older).used_ns <= used_ns, "oldest-first");
                self.association_mut(older).newer = Some(place);
            }
            None => self.oldest = Some(place),
        }
        let association = self.association_mut(place);
        (association.older, association.newer) = (older, None);
    }

    fn unlink(&mut self, place: usize) {
        let Association { older, newer, .. } = *self.association(place);
        match older {
            Some(older) => self.association_mut(older).newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.association_mut(newer).older = older,
            None => self.newest = older,
        }
    }

    fn association(&self, place: usize) -> &Association<A> {
        self.places[place].as_ref().expect("somebody is there")
    }

    fn association_mut(&mut self, place: usize) -> &mut Association<A> {
        self.places[place].as_mut().expect("somebody is there")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::random::Random;

    fn client(number: u16) -> Client {
        Client { address: SocketAddr::from(([127, 0, 0, 1], number)), local: None }
    }

    #[test]
    fn tables_share_evenly_and_each_has_a_seat() {
        let seats = Seats::new(5);
        let mut each = vec![seats.each()];
        for _ in 0..5 {
            seats.add_table();
            each.push(seats.each());
        }
        assert_eq!(each, [5, 2, 1, 1, 1, 1]);
    }

    #[test]
    fn who_asks_at_two_of_our_addresses_has_two_places() {
        let mut associations = Associations::default();
        let there = |octet| Client { local: Some(IpAddr::from([127, 0, 0, octet])), ..client(1) };
        let places = [1, 2].map(|octet| associations.insert(there(octet), octet, 0));
        assert_eq!([1, 2].map(|octet| associations.find(&there(octet))), places.map(Some));
        assert_eq!(associations.find(&client(1)), None);
    }

    /// Against a list in the order of last use.
    #[test]
    fn the_order_is_that_of_last_use_whoever_comes_and_goes() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let mut associations = Associations::default();
            let mut list: Vec<(u16, u64)> = Vec::new();
            for now_ns in 0..400 {
                let number = random.below(20) as u16;
                let listed = list.iter().position(|(other, _)| *other == number);
                match (associations.find(&client(number)), random.below(4)) {
                    (None, _) => {
                        assert_eq!(listed, None, "seed {seed}");
                        associations.insert(client(number), number, now_ns);
                        list.push((number, now_ns));
                    }
                    (Some(place), 0) => {
                        assert_eq!(associations.remove(place), number, "seed {seed}");
                        assert!(associations.at(place).is_none());
                        list.remove(listed.expect("it is listed"));
                    }
                    (Some(place), _) => {
                        associations.touch(place, now_ns);
                        list.remove(listed.expect("it is listed"));
                        list.push((number, now_ns));
                    }
                }
                let oldest = associations.oldest();
                let oldest = oldest.map(|(place, used_ns)| (*associations.at(place).expect("it is there").1, used_ns));
                assert_eq!((oldest, associations.len()), (list.first().copied(), list.len()), "seed {seed}");
            }
            while let Some((place, _)) = associations.oldest() {
                assert_eq!(associations.remove(place), list.remove(0).0, "seed {seed}");
            }
            assert!(list.is_empty() && associations.is_empty(), "seed {seed}");
        }
    }
}
