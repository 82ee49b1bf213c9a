//! [`Upstream`]: whom a relay connects its clients to, and which of them is next.
//!
//! A service that [asks for one](super::handler::Service::upstream) has no handlers: each of its sessions is a
//! [`Pair`](super::pair::Pair), whose other stream the engine connects. Here is only the choice: the target with the fewest
//! connections, those apart that have lately failed. Written by all threads of an engine; processes each know their own.
//!
//! Read next: `service/relay.rs`, which makes one; `engine/paired.rs`, which connects; `engine/endpoint/forwarder.rs`, which
//! does so for datagrams.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How long a target that has failed is skipped, as long as there are others.
pub const SKIPPED_FOR: Duration = Duration::from_secs(10);

/// Most targets of one relay.
pub const MOST_TARGETS: usize = 64;

/// What a new connection is told before the client's first byte: of the client's address and the one that it came to, unless
/// it has gone already.
pub type Header = fn(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8>;

/// The targets of one relay, and how they are to be used: by streams, or by datagrams.
pub struct Upstream<U = Usage> {
    /// Never empty, at most [`MOST_TARGETS`].
    targets: Box<[Target]>,
    /// How it is used.
    pub usage: U,
}

/// How a relay of streams uses its targets.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// How long a client may wait until some target has taken its connection.
    pub connect_timeout: Duration,
    /// After what silence in both directions a session ends; none for that of the daemon.
    pub idle: Option<Duration>,
    /// What each connection begins with, if anything.
    pub header: Option<Header>,
    /// Whether the kernel is to move what is much.
    pub zero_copy: bool,
}

/// How a relay of datagrams uses its targets.
#[derive(Clone, Copy, Debug)]
pub struct DatagramUsage {
    /// How many clients there are at the most; each has a socket.
    pub clients: usize,
    /// After what silence in both directions a client is forgotten.
    pub idle: Duration,
}

/// One server that clients are connected to.
struct Target {
    /// As the user wrote it.
    name: String,
    address: SocketAddr,
    /// Connections that are open or being made. Written by whoever begins and ends one.
    open: AtomicUsize,
    /// Until when it is skipped, by the engine's clock; 0 for not. Written by whoever has tried it.
    skipped_until_ns: AtomicU64,
}

/// Targets that one client has been tried at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// How many.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether that one is among them.
    pub fn has(self, target: usize) -> bool {
        self.0 >> target & 1 == 1
    }
}

impl<U> Upstream<U> {
    /// These targets, each with what people call it.
    ///
    /// # Panics
    /// If there are none, or more than [`MOST_TARGETS`].
    pub fn new(targets: Vec<(String, SocketAddr)>, usage: U) -> Upstream<U> {
        assert!((1..=MOST_TARGETS).contains(&targets.len()), "whoever reads the configuration has checked it");
        let target = |(name, address)| {
            let (open, skipped_until_ns) = (AtomicUsize::new(0), AtomicU64::new(0));
            Target { name, address, open, skipped_until_ns }
        };
        Upstream { targets: targets.into_iter().map(target).collect(), usage }
    }

    /// How many targets there are.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are none, which is never so.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// All of them: what people call each, and where it is.
    pub fn targets(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.targets.iter().map(|target| (target.name.as_str(), target.address))
    }

    /// What people call this one.
    pub fn name(&self, target: usize) -> &str {
        &self.targets[target].name
    }

    /// Where it is.
    pub fn address(&self, target: usize) -> SocketAddr {
        self.targets[target].address
    }

    /// Chooses a target that was not `tried` yet, and counts a connection to it, which [`leave`](Upstream::leave) takes back:
    /// the one with the fewest connections, of those equal the next behind `seed`; one that is skipped only if all others
    /// are, and then the one whose time is up first. None when all were tried.
    pub fn choose(&self, tried: &mut Tried, seed: usize, now_ns: u64) -> Option<usize> {
        let count = self.targets.len();
        let left = (0..count).map(|step| (seed + step) % count).filter(|&target| !tried.has(target));
        let target = left.min_by_key(|&target| {
            let Target { open, skipped_until_ns, .. } = &self.targets[target];
            let until_ns = skipped_until_ns.load(Ordering::Relaxed);
            (if until_ns > now_ns { until_ns } else { 0 }, open.load(Ordering::Relaxed))
        })?;
        tried.0 |= 1 << target;
        self.targets[target].open.fetch_add(1, Ordering::Relaxed);
        Some(target)
    }

    /// A connection to it has ended, or was not made.
    pub fn leave(&self, target: usize) {
        let before = self.targets[target].open.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "who leaves has been counted");
    }

    /// It did not take a connection: others go first for a while. Whether that is news.
    pub fn skip(&self, target: usize, now_ns: u64) -> bool {
        let until_ns = now_ns.saturating_add(SKIPPED_FOR.as_nanos() as u64);
        self.targets[target].skipped_until_ns.swap(until_ns, Ordering::Relaxed) <= now_ns
    }

    /// It took one.
    pub fn welcome(&self, target: usize) {
        let skipped_until_ns = &self.targets[target].skipped_until_ns;
        if skipped_until_ns.load(Ordering::Relaxed) != 0 {
            skipped_until_ns.store(0, Ordering::Relaxed);
        }
    }

    /// Connections to each target now.
    pub fn open(&self) -> Vec<usize> {
        self.targets.iter().map(|target| target.open.load(Ordering::Relaxed)).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn three() -> Upstream {
        let address = |port| (format!("target-{port}"), SocketAddr::from(([127, 0, 0, 1], port)));
        let usage = Usage { connect_timeout: Duration::from_secs(1), idle: None, header: None, zero_copy: true };
        Upstream::new(vec![address(1), address(2), address(3)], usage)
    }

    fn choose(upstream: &Upstream, seed: usize, now_ns: u64) -> usize {
        upstream.choose(&mut Tried::default(), seed, now_ns).expect("there is one")
    }

    #[test]
    fn the_fewest_connections_come_first_and_equals_in_turn() {
        let upstream = three();
        let chosen: Vec<usize> = (0..6).map(|_| choose(&upstream, 1, 0)).collect();
        assert_eq!(chosen, [1, 2, 0, 1, 2, 0]);
        upstream.leave(2);
        assert_eq!(upstream.open(), [2, 2, 1]);
        assert_eq!(choose(&upstream, 0, 0), 2);
        assert_eq!([0, 1, 2].map(|seed| choose(&three(), seed, 0)), [0, 1, 2]);
    }

    #[test]
    fn a_client_is_tried_at_each_target_once() {
        let upstream = three();
        let mut tried = Tried::default();
        let chosen: Vec<usize> = std::iter::from_fn(|| upstream.choose(&mut tried, 0, 0)).collect();
        assert_eq!((chosen, tried.count()), (vec![0, 1, 2], 3));
    }

    #[test]
    fn who_has_failed_is_skipped_for_a_while_unless_all_have() {
        let upstream = three();
        assert!(upstream.skip(0, SECOND_NS) && upstream.skip(1, 2 * SECOND_NS) && !upstream.skip(1, 2 * SECOND_NS));
        assert_eq!([choose(&upstream, 0, SECOND_NS), choose(&upstream, 0, SECOND_NS)], [2, 2], "however many it has");
        assert!(upstream.skip(2, 3 * SECOND_NS));
        assert_eq!(choose(&upstream, 1, 4 * SECOND_NS), 0, "its time is up first");
        let later_ns = SECOND_NS + SKIPPED_FOR.as_nanos() as u64;
        assert_eq!(choose(&upstream, 0, later_ns), 0, "its time is up");
        upstream.welcome(1);
        assert_eq!(choose(&upstream, 0, 4 * SECOND_NS), 1);
    }
}
