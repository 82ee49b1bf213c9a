//! [`Guard`]: which datagrams are answered. Whoever sends one can put any sender on it, so that every answer may reach
//! somebody who never asked.
//!
//! Against loops: no answer goes to a port behind which a service may sit that answers in turn. Against amplification: an
//! answer has hardly more bytes than its request ([`Bound`](super::datagram::Bound)), and each sender, and all together, get
//! so many answers a second. On an address that strangers reach, nothing is answered unless the user said so.
//!
//! Pure: the caller says what came and what time it is, and counts the refusals. Sockets that share a port share the guard, or
//! a sender with many ports would have its rate at each of them; what has been spent is under a lock, which nobody takes
//! while there is no rate to keep. The service answers outside of it. Invariants:
//! - *bounded-table*: the senders that are kept lie in memory of a fixed size, made once; who finds no place is refused.
//! - *rate-holds*: in any time, a sender gets at most its burst and what its rate grants in that time; so do all together.
//! - *refused-is-free*: a datagram that one rate refuses takes nothing from the other.
//!
//! Why these ports and these rates: `design/datagrams.md`. Read next: `datagram.rs`, [`Datagrams`].

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Mutex;

use super::datagram::{Answer, DatagramReply, Datagrams};

/// Ports below have the services that answer whatever comes (echo, daytime, quote of the day, chargen, time, DNS, TFTP,
/// NTP), and no client that leaves the choice to its system.
const FIRST_CLIENT_PORT: u16 = 1024;

/// Services above that answer, and answer errors too: SIP, SSDP, WS-Discovery, mDNS, CoAP, memcached.
const ANSWERING_PORTS: [u16; 6] = [1900, 3702, 5060, 5353, 5683, 11_211];

/// Places for senders that are searched for one.
const WAYS: usize = 8;

/// Groups of places. Together they keep senders for as long as a rate remembers them: a sender whose burst is whole again
/// gives up its place. 64 KiB.
const SETS: usize = 512;

/// Who is answered, and how often.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Whether anybody is: the listener's address is one that only this machine reaches, or the user wants the public.
    pub answers: bool,
    /// Ports of the daemon's own services over UDP, and those that such a daemon has by default.
    pub own_ports: Vec<u16>,
    /// What one sender gets; an IPv6 network of 64 bits counts as one. None: as many as it asks for.
    pub source_rate: Option<Rate>,
    /// What all senders together get.
    pub total_rate: Option<Rate>,
    /// Whether the rates are not for senders on this machine.
    pub spares_loopback: bool,
}

/// So many a second in the long run, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Answers per second.
    pub per_s: NonZeroU32,
    /// Answers that may come at once after a long silence.
    pub burst: NonZeroU32,
}

/// Why a datagram is not answered, or not forwarded; each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Strangers reach this address, and the user has not said that they are to be answered.
    NotPublic,
    /// It was sent to a group or to everybody.
    ToMany,
    /// A service may sit behind the sender's port that would answer the answer.
    SourcePort,
    /// The sender has had what one sender gets.
    SourceRate,
    /// All senders together have had what they get.
    TotalRate,
    /// So many senders came at once that there is no place to keep account of this one.
    Crowded,
    /// The service has put more than the answer may have.
    TooLong,
    /// A relay has as many clients as it may, and has heard of all of them a moment ago.
    TableFull,
    /// A relay has no socket for one more client, or no way to any target.
    NoSocket,
    /// The kernel did not take it for the target.
    NotTaken,
}

impl Refusal {
    /// All of them, in the order in which they are printed. The position is the index of the counter.
    pub const ALL: [Refusal; 10] = [
        Refusal::NotPublic,
        Refusal::ToMany,
        Refusal::SourcePort,
        Refusal::SourceRate,
        Refusal::TotalRate,
        Refusal::Crowded,
        Refusal::TooLong,
        Refusal::TableFull,
        Refusal::NoSocket,
        Refusal::NotTaken,
    ];

    /// The name in logs and in the summary.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::NotPublic => "not_public",
            Refusal::ToMany => "to_many",
            Refusal::SourcePort => "source_port",
            Refusal::SourceRate => "source_rate",
            Refusal::TotalRate => "total_rate",
            Refusal::Crowded => "crowded",
            Refusal::TooLong => "too_long",
            Refusal::TableFull => "table_full",
            Refusal::NoSocket => "no_socket",
            Refusal::NotTaken => "not_taken",
        }
    }
}

/// A datagram that asks for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Whom it says it is from.
    pub source: SocketAddr,
    /// Whether it was sent to a group or to everybody.
    pub to_many: bool,
}

/// Decides who is answered, for one listener. The hasher decides which senders share a group of places; by default nobody
/// outside can tell.
pub struct Guard<H = RandomState> {
    answers: bool,
    /// In order.
    denied_ports: Box<[u16]>,
    spares_loopback: bool,
    source: Option<Meter>,
    total: Option<Meter>,
    hasher: H,
    spent: Mutex<Spent>,
}

/// What has been given of what the rates grant.
struct Spent {
    /// When the bucket of all is full again.
    total_due_ns: u64,
    sets: Box<[[Sender; WAYS]]>,
}

impl Guard {
    /// A guard that nobody has been counted by yet.
    pub fn new(policy: &Policy) -> Guard {
        Guard::with_hasher(policy, RandomState::new())
    }
}

impl<H: BuildHasher> Guard<H> {
    /// The same with a hasher of the caller's.
    pub fn with_hasher(policy: &Policy, hasher: H) -> Guard<H> {
        let mut denied_ports: Vec<u16> = ANSWERING_PORTS.iter().chain(&policy.own_ports).copied().collect();
        denied_ports.sort_unstable();
        denied_ports.dedup();
        let sets = if policy.source_rate.is_some() { SETS } else { 0 };
        Guard {
            answers: policy.answers,
            denied_ports: denied_ports.into(),
            spares_loopback: policy.spares_loopback,
            source: policy.source_rate.map(Meter::new),
            total: policy.total_rate.map(Meter::new),
            hasher,
            spent: Mutex::new(Spent { total_due_ns: 0, sets: vec![[Sender::NOBODY; WAYS]; sets].into() }),
        }
    }

    /// Has the service answer the request, into the beginning of `memory`, as long as the answer `is_wanted`; the length of the
    /// answer, if there is one.
    /// The service is not asked for more than `memory` takes, nor for more than its [`Bound`](super::datagram::Bound).
    ///
    /// # Errors
    /// Why there is no answer.
    ///
    /// # Panics
    /// If the service does.
    pub fn answer(
        &self,
        service: &dyn Datagrams,
        request: Request<'_>,
        memory: &mut [u8],
        now_ns: u64,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<usize>, Refusal> {
        self.admit(&request, now_ns)?;
        let allowance = service.bound().allowance(request.bytes.len()).min(memory.len());
        let mut reply = DatagramReply::new(&mut memory[..allowance]).while_wanted(is_wanted);
        service.answer(request.bytes, &mut reply);
        match reply.end() {
            Answer::Nothing => Ok(None),
            Answer::Datagram(len) => Ok(Some(len)),
            Answer::TooLong => Err(Refusal::TooLong),
        }
    }

    /// Whether a datagram is to be served, and takes that from what the rates grant; for whoever does not answer it at once.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(&self, request: &Request<'_>, now_ns: u64) -> Result<(), Refusal> {
        if !self.answers {
            return Err(Refusal::NotPublic);
        }
        if request.to_many {
            return Err(Refusal::ToMany);
        }
        let (address, port) = (request.source.ip().to_canonical(), request.source.port());
        if port < FIRST_CLIENT_PORT || self.denied_ports.binary_search(&port).is_ok() {
            return Err(Refusal::SourcePort);
        }
        let is_rated = self.source.is_some() || self.total.is_some();
        if !is_rated || self.spares_loopback && address.is_loopback() {
            return Ok(());
        }
        self.spend(address, now_ns)
    }

    /// Takes an answer from what the sender gets and from what all get, or from neither.
    fn spend(&self, address: IpAddr, now_ns: u64) -> Result<(), Refusal> {
        let mut spent = self.spent.lock().expect("no thread panics while it holds this lock");
        let Spent { total_due_ns: total_before_ns, sets } = &mut *spent;
        let total_due_ns = match self.total {
            Some(total) => total.spend(*total_before_ns, now_ns).ok_or(Refusal::TotalRate)?,
            None => 0,
        };
        if let Some(source) = self.source {
            let network = network(address);
            let set = (self.hasher.hash_one(network) % SETS as u64) as usize;
            let sender = Sender::find(&mut sets[set], network, now_ns).ok_or(Refusal::Crowded)?;
            let due_ns = if sender.network == network { sender.due_ns } else { 0 };
            let due_ns = source.spend(due_ns, now_ns).ok_or(Refusal::SourceRate)?;
            *sender = Sender { network, due_ns };
        }
        *total_before_ns = total_due_ns;
        Ok(())
    }
}

/// What counts as one sender: an IPv4 address, or the 64 bits of an IPv6 address that name a network, since whoever has
/// one of its addresses can have them all. One number for both: an IPv4 address lies where IPv6 has its multicast groups,
/// which send nothing.
fn network(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => 0xff << 56 | u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

/// Who is remembered, and until when.
#[derive(Clone, Copy)]
struct Sender {
    network: u64,
    /// When its burst is whole again. From then on it need not be remembered.
    due_ns: u64,
}

impl Sender {
    const NOBODY: Sender = Sender { network: 0, due_ns: 0 };

    /// The place of this sender, or one whose sender need not be remembered.
    fn find(set: &mut [Sender; WAYS], network: u64, now_ns: u64) -> Option<&mut Sender> {
        let mine = set.iter().position(|sender| sender.network == network && sender.due_ns > now_ns);
        let place = mine.or_else(|| set.iter().position(|sender| sender.due_ns <= now_ns))?;
        Some(&mut set[place])
    }
}

/// A token bucket as one number per bucket: when it is full. Each token moves that time by what it takes to refill one,
/// and none is left when it lies a whole bucket ahead.
#[derive(Clone, Copy)]
struct Meter {
    token_ns: u64,
    bucket_ns: u64,
}

impl Meter {
    fn new(rate: Rate) -> Meter {
        // Rounded up: a rate is never exceeded. At most a billion a second.
        let token_ns = 1_000_000_000_u64.div_ceil(u64::from(rate.per_s.get()));
        Meter { token_ns, bucket_ns: token_ns * u64::from(rate.burst.get()) }
    }

    /// When a bucket that is full at `due_ns` is full again after one token more; None if it has none.
    fn spend(self, due_ns: u64, now_ns: u64) -> Option<u64> {
        let due_ns = due_ns.max(now_ns) + self.token_ns;
        (due_ns - now_ns <= self.bucket_ns).then_some(due_ns)
    }
}
