//! Relays that lead back to themselves, which one client would keep busy until every limit is reached: refused.
//!
//! A relay leads to the listeners of this daemon that its targets reach, and those that are relays lead on. Known once all are
//! bound, at the start and at a reload, before anybody is served. One target of several is enough: some client gets it.
//!
//! Not seen: a way back by another process, another host, or a rule of the firewall.
//!
//! Read next: [`Upstream`](crate::session::upstream::Upstream), which has the addresses.

use std::io;
use std::net::SocketAddr;

use crate::config::{Listener as Asked, Scheme};
use crate::error::Error;
use crate::net::os;

/// A listener, and where it really is.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) asked: &'a Asked,
    pub(super) address: SocketAddr,
}

/// Whom a relay leads to, and what people call it.
type Target<'a> = (&'a str, SocketAddr);

impl<'a> Place<'a> {
    /// None of a service that is no relay.
    fn targets(&self) -> Vec<Target<'a>> {
        let service = &self.asked.service;
        let streams = service.upstream().map(|upstream| upstream.targets().collect());
        let datagrams = || service.datagram_upstream().map(|upstream| upstream.targets().collect());
        streams.or_else(datagrams).unwrap_or_default()
    }
}

/// Refuses the first relay that leads back to itself.
///
/// # Errors
/// It, and the target that does.
pub(super) fn check(places: &[Place<'_>]) -> Result<(), Error> {
    for (relay, place) in places.iter().enumerate() {
        for (name, target) in place.targets() {
            let first = reached(places, place.asked.scheme, target);
            let how = match first {
                Some(first) if first == relay => "is itself",
                Some(first) if leads_to(places, first, relay) => "leads back to it",
                _ => continue,
            };
            let attempt = format!("relay on {}://{}", place.asked.scheme.name(), place.address);
            return Err(Error::resource(attempt, io::Error::other(format!("its target {name} {how}"))));
        }
    }
    Ok(())
}

/// The listener that takes what is sent there, if one of these does: a socket of its own address before one of all.
fn reached(places: &[Place<'_>], scheme: Scheme, target: SocketAddr) -> Option<usize> {
    let is_there = |place: &Place<'_>| place.asked.scheme == scheme && takes(place.address, target);
    let is_just_there = |place: &Place<'_>| is_there(place) && !place.address.ip().is_unspecified();
    places.iter().position(is_just_there).or_else(|| places.iter().position(is_there))
}

/// Whether relays lead from one listener to another.
fn leads_to(places: &[Place<'_>], from: usize, to: usize) -> bool {
    let mut seen = vec![from];
    let mut next = 0;
    while let Some(&at) = seen.get(next) {
        next += 1;
        let place = &places[at];
        for (_, target) in place.targets() {
            match reached(places, place.asked.scheme, target) {
                Some(there) if there == to => return true,
                Some(there) if !seen.contains(&there) => seen.push(there),
                _ => {}
            }
        }
    }
    false
}

/// Whether a socket that is bound to `listener` takes what is sent to `target`.
fn takes(listener: SocketAddr, target: SocketAddr) -> bool {
    let (own, other) = (listener.ip().to_canonical(), target.ip().to_canonical());
    let is_same_family = own.is_ipv4() == other.is_ipv4();
    // The kernel takes IPv4 as well at an unspecified address of IPv6.
    let is_all = own.is_unspecified() && (is_same_family || own.is_ipv6());
    // What is sent to an unspecified address goes to loopback.
    let is_loopback = other.is_unspecified() && own.is_loopback() && is_same_family;
    listener.port() == target.port()
        && (own == other || is_loopback || is_all && (other.is_unspecified() || os::is_local(target)))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_listener_takes_what_is_sent_to_its_address_or_to_any_local_one_if_it_has_all() {
        let takes = |listener: &str, target: &str| {
            takes(listener.parse().expect("an address"), target.parse().expect("an address"))
        };
        for (listener, target) in [
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("127.0.0.1:7", "[::ffff:127.0.0.1]:7"),
            ("127.0.0.1:7", "0.0.0.0:7"),
            ("0.0.0.0:7", "127.0.0.1:7"),
            ("0.0.0.0:7", "127.8.8.8:7"),
            ("0.0.0.0:7", "0.0.0.0:7"),
            ("[::]:7", "127.0.0.1:7"),
            ("[::]:7", "0.0.0.0:7"),
            ("[::1]:7", "[::]:7"),
        ] {
            assert!(takes(listener, target), "{listener} {target}");
        }
        for (listener, target) in [
            ("127.0.0.1:7", "127.0.0.1:8"),
            ("127.0.0.1:7", "127.0.0.2:7"),
            ("127.0.0.1:7", "[::]:7"),
            ("0.0.0.0:7", "[::1]:7"),
            // Of the net that is kept for documentation.
            ("0.0.0.0:7", "192.0.2.1:7"),
            ("0.0.0.0:7", "239.1.1.1:7"),
            ("[::]:7", "[2001:db8::1]:7"),
        ] {
            assert!(!takes(listener, target), "{listener} {target}");
        }
    }
}
