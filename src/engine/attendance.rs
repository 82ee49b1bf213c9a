//! Who is here, for others than the owners of sessions: [`Record`], what is known of one; [`Attendance`], the records of a
//! table of sessions.
//!
//! A session belongs to whoever runs its turn, and nobody else may look into it. What an operator wants to know lies beside
//! it, in a record that its owner writes with plain stores at the end of a turn. There are records only where somebody may
//! ask for them: without a console none is made or written.
//!
//! Invariant *read-whole*: a row is of one session. Whoever reads looks at the key before and after; a session that begins in
//! the same place writes its record behind a fence, so that whoever has read any of that finds the old key gone.
//!
//! Read next: `reactor.rs`, `blocking.rs`, the two kinds of owners.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::Seen;
use super::front::Arrival;
use crate::net::shared::Zeroed;

/// What is known of one session. Written by its owner.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Record {
    opened_ns: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    /// Address of the peer as IPv6.
    peer: [AtomicU64; 2],
    /// The peer's port with [`HAS_PEER`] set; 0 where the peer is not known.
    port: AtomicU32,
    /// Number of the service.
    service: AtomicU32,
}

const HAS_PEER: u32 = 1 << 16;

/// What one turn has moved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
}

impl Record {
    /// A session begins.
    pub(super) fn begin(&self, who: Who, now_ns: u64) {
        // INVARIANT read-whole: pairs with the fence of whoever reads.
        fence(Ordering::Release);
        let (high, low) = match who.peer.map(|peer| peer.ip()) {
            Some(IpAddr::V4(ip)) => halves(ip.to_ipv6_mapped()),
            Some(IpAddr::V6(ip)) => halves(ip),
            None => (0, 0),
        };
        self.opened_ns.store(now_ns, Ordering::Relaxed);
        self.read_bytes.store(0, Ordering::Relaxed);
        self.written_bytes.store(0, Ordering::Relaxed);
        self.peer[0].store(high, Ordering::Relaxed);
        self.peer[1].store(low, Ordering::Relaxed);
        self.port.store(who.peer.map_or(0, |peer| HAS_PEER | u32::from(peer.port())), Ordering::Relaxed);
        self.service.store(who.service, Ordering::Relaxed);
    }

    /// Notes what a turn has moved; for the owner.
    pub(super) fn add(&self, moved: Moved) {
        for (sum, more) in [(&self.read_bytes, moved.read_bytes), (&self.written_bytes, moved.written_bytes)] {
            if more > 0 {
                sum.store(sum.load(Ordering::Relaxed) + more, Ordering::Relaxed);
            }
        }
    }

    /// The session here as others see it, whom the caller knows by this id; the caller looks afterwards whether it was that
    /// one.
    pub(super) fn read(&self, id: u64, services: &[&'static str], now_ns: u64, state: &'static str) -> Seen {
        let [high, low] = [0, 1].map(|half| u128::from(self.peer[half].load(Ordering::Relaxed)));
        let port = self.port.load(Ordering::Relaxed);
        let ip = Ipv6Addr::from(high << 64 | low).to_canonical();
        let seen = Seen {
            id,
            service: services.get(self.service.load(Ordering::Relaxed) as usize).copied().unwrap_or("-"),
            peer: (port & HAS_PEER != 0).then(|| SocketAddr::new(ip, port as u16)),
            age_ns: now_ns.saturating_sub(self.opened_ns.load(Ordering::Relaxed)),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            state,
        };
        // INVARIANT read-whole: pairs with the fence in `begin`.
        fence(Ordering::Acquire);
        seen
    }
}

/// Whose session it is, as it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    /// Number of the service.
    service: u32,
    peer: Option<SocketAddr>,
}

impl Who {
    /// Whoever has arrived; of these services.
    pub(super) fn of(arrival: &Arrival, services: &[&'static str]) -> Who {
        let name = arrival.service.name();
        let service = services.iter().position(|known| *known == name).unwrap_or(services.len());
        // Who has gone already is none that anybody can ask for.
        Who { service: u32::try_from(service).expect("services are few"), peer: arrival.socket.peer().ok() }
    }
}

/// Records per chunk.
const CHUNK: usize = 256;

/// The records of a table of sessions, by index; made when they are needed, and kept.
pub(super) struct Attendance(Box<[OnceLock<Box<[Record]>>]>);

impl Attendance {
    pub(super) fn new(most_sessions: usize) -> Attendance {
        Attendance((0..most_sessions.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect())
    }

    pub(super) fn record(&self, index: u32) -> &Record {
        let index = index as usize;
        let chunk = self.0[index / CHUNK].get_or_init(|| (0..CHUNK).map(|_| Record::default()).collect());
        &chunk[index % CHUNK]
    }
}

/// Bits of an id that say which of the places it is, where places are those of threads or processes.
const PLACE_BITS: u32 = 22;

/// The place of a session that is in no table: it has its id here.
#[derive(Debug, Default)]
pub(super) struct Listed {
    record: Record,
    /// Of the session here; 0 while there is none. Written by its owner.
    id: AtomicU64,
    /// Sessions that there were. Written by owners.
    count: AtomicU64,
    /// The id of the last session that somebody wanted to end. Written by whoever wants to.
    kill_id: AtomicU64,
}

// SAFETY: atomics only, for which all zeroes is a value: nobody is here.
#[allow(unsafe_code, reason = "memory shared with child processes")]
unsafe impl Zeroed for Listed {}

impl Listed {
    /// A session begins at this place, which is number `place` of all.
    pub(super) fn begin(&self, place: usize, who: Who, now_ns: u64) {
        self.record.begin(who, now_ns);
        let count = self.count.load(Ordering::Relaxed) + 1;
        self.count.store(count, Ordering::Relaxed);
        self.id.store(count << PLACE_BITS | place as u64, Ordering::Release);
    }

    /// It is over.
    pub(super) fn end(&self) {
        self.id.store(0, Ordering::Release);
    }

    /// Notes what a turn of it has moved.
    pub(super) fn add(&self, moved: Moved) {
        self.record.add(moved);
    }

    /// Whether somebody wants the session here to end.
    pub(super) fn is_killed(&self) -> bool {
        let kill_id = self.kill_id.load(Ordering::Relaxed);
        kill_id != 0 && kill_id == self.id.load(Ordering::Relaxed)
    }

    /// The session here, if there is one.
    pub(super) fn read(&self, services: &[&'static str], now_ns: u64) -> Option<Seen> {
        let id = self.id.load(Ordering::Acquire);
        let seen = self.record.read(id, services, now_ns, "-");
        (id != 0 && id == self.id.load(Ordering::Relaxed)).then_some(seen)
    }

    /// Wants the session of this id to end; whether it is here. Whoever serves it has to be told to look.
    pub(super) fn kill(&self, id: u64) -> bool {
        let is_here = id != 0 && id == self.id.load(Ordering::Acquire);
        if is_here {
            self.kill_id.store(id, Ordering::Relaxed);
        }
        is_here
    }

    /// The place that an id names.
    pub(super) fn place_of(id: u64) -> usize {
        (id & ((1 << PLACE_BITS) - 1)) as usize
    }
}

/// Adds the sessions at some of these places to `seen`: from place `from` on, `most` places at the most. Where to go on; None
/// when all have been looked at.
pub(super) fn list<P>(
    places: &[P],
    from: u64,
    most: usize,
    seen: &mut Vec<Seen>,
    read: impl Fn(&P) -> Option<Seen>,
) -> Option<u64> {
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(places.len());
    let to = from.saturating_add(most).min(places.len());
    seen.extend(places[from..to].iter().filter_map(read));
    (to < places.len()).then_some(to as u64)
}

fn halves(ip: Ipv6Addr) -> (u64, u64) {
    let bits = u128::from(ip);
    ((bits >> 64) as u64, bits as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &[&str] = &["echo", "chat"];

    fn who(peer: Option<&str>) -> Who {
        Who { service: 1, peer: peer.map(|peer| peer.parse().expect("it is an address")) }
    }

    #[test]
    fn what_was_written_is_read() {
        let record = Record::default();
        for peer in [Some("127.0.0.1:7"), Some("[::1]:65535"), Some("[2001:db8::5]:0"), None] {
            record.begin(who(peer), 5);
            record.add(Moved { read_bytes: 3, written_bytes: 0 });
            record.add(Moved { read_bytes: 4, written_bytes: 1 << 40 });
            let seen = record.read(9, SERVICES, 12, "idle");
            assert_eq!(seen.peer, peer.map(|peer| peer.parse().expect("it is an address")));
            assert_eq!((seen.id, seen.service, seen.age_ns, seen.state), (9, "chat", 7, "idle"));
            assert_eq!((seen.read_bytes, seen.written_bytes), (7, 1 << 40));
        }
    }

    #[test]
    fn an_id_is_of_one_session_and_of_its_place() {
        let listed = Listed::default();
        let ids: Vec<u64> = (0..3)
            .map(|_| {
                listed.begin(77, who(None), 1);
                let id = listed.read(SERVICES, 1).expect("somebody is here").id;
                assert_eq!(Listed::place_of(id), 77);
                assert!(!listed.is_killed());
                listed.end();
                assert_eq!(listed.read(SERVICES, 1), None);
                assert!(!listed.kill(id), "it is over");
                id
            })
            .collect();
        listed.begin(77, who(None), 1);
        assert!(!ids.iter().any(|&id| listed.kill(id)), "stale ids miss");
        assert!(!listed.is_killed());
        let id = listed.read(SERVICES, 1).expect("somebody is here").id;
        assert!(listed.kill(id) && listed.is_killed());
        listed.end();
        listed.begin(77, who(None), 1);
        assert!(!listed.is_killed(), "the next one is spared");
    }

    #[test]
    fn places_are_looked_at_a_few_at_a_time_and_each_once() {
        let places: Vec<Listed> = (0..10).map(|_| Listed::default()).collect();
        for place in [0, 3, 4, 9] {
            places[place].begin(place, who(None), 1);
        }
        let (mut seen, mut next, mut rounds) = (Vec::new(), Some(0), 0);
        while let Some(from) = next {
            next = list(&places, from, 4, &mut seen, |place| place.read(SERVICES, 1));
            rounds += 1;
        }
        let found: Vec<usize> = seen.iter().map(|seen| Listed::place_of(seen.id)).collect();
        assert_eq!((found, rounds), (vec![0, 3, 4, 9], 3));
        assert_eq!(list(&places, 99, 4, &mut seen, |_| None), None);
    }
}
