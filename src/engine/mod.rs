//! Engines: who waits for readiness, who runs the turns. The same services run unchanged on each of them.
//!
//! An engine takes listeners that are bound already ([`Start`]), serves them in threads of its own and hands back a
//! [`Running`] by which it is told to drain or stop, asked for a summary, and joined. An engine's own folder or file holds
//! only what is different about it. What engines share, from the outside in: `front.rs` and `accept.rs` let connections in;
//! `common.rs` and `books.rs` are orders and counts; `turns.rs` is the turn. Between them is `reactor.rs` where one wait is
//! for many sessions (`loops.rs`: N of those), `blocking.rs` where it is for one, and `processes.rs` where that is a child's.
//!
//! The registry is [`ENGINES`]: help text, configuration and the contract tests walk it. Read next: `event_loop.rs`, which
//! has least to say, and from there what it uses; then `pool/README.md`.

mod accept;
mod attendance;
mod blocking;
mod books;
mod common;
mod connection;
mod crew;
mod endpoint;
mod event_loop;
mod event_loops;
mod front;
mod growing;
mod leader_followers;
mod loops;
mod needs;
mod paired;
mod parking;
mod pipes;
mod pool;
pub mod prefork;
mod proactor;
mod process_per_connection;
mod processes;
mod reactor;
mod roster;
pub mod scoreboard;
mod serial;
mod thread_per_connection;
mod timeouts;
mod turns;

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{EngineInfo, Limits, Scheme, Settings, Tuning};
use crate::error::Error;
use crate::metrics::summary::Summary;
use crate::net::listener::Listener;
use crate::session::handler::Service;

use self::needs::Needs;

pub use self::endpoint::Endpoint;
pub use self::pipes::MOST_PIPES;

/// An engine: what people need to know of it, and how it starts.
struct Entry {
    info: EngineInfo,
    start: fn(Start) -> Result<Box<dyn Running>, Error>,
    /// Whether this machine lets it run; if not, why.
    available: fn() -> Result<(), String>,
}

/// For engines that any system will do for that the daemon runs on.
fn anywhere() -> Result<(), String> {
    Ok(())
}

const ENTRIES: [Entry; 9] = [
    pool::ENTRY,
    leader_followers::ENTRY,
    event_loop::ENTRY,
    event_loops::ENTRY,
    thread_per_connection::ENTRY,
    process_per_connection::ENTRY,
    prefork::ENTRY,
    proactor::ENTRY,
    serial::ENTRY,
];

/// All engines, the default first.
pub const ENGINES: &[EngineInfo] = &{
    let mut infos = [ENTRIES[0].info; ENTRIES.len()];
    let mut place = 1;
    while place < infos.len() {
        infos[place] = ENTRIES[place].info;
        place += 1;
    }
    infos
};

/// What an engine carries whose sessions live in one process and run beside each other.
fn carries_all(service: &str, scheme: Scheme) -> Result<(), &'static str> {
    match scheme {
        Scheme::Tcp | Scheme::Udp => Ok(()),
        // Answered beside the engine, by the thread that hears signals.
        Scheme::Unix if service == "console" => Ok(()),
        Scheme::Unix => Err("it carries tcp and udp only"),
    }
}

/// What an engine carries whose sessions are in processes of their own.
fn carries_apart(service: &str, scheme: Scheme) -> Result<(), &'static str> {
    match (service, scheme) {
        ("chat", _) => Err("its sessions share no memory"),
        (_, Scheme::Udp) => Err("a datagram has no connection to give to a process"),
        _ => carries_all(service, scheme),
    }
}

/// What an engine carries that serves one client at a time.
fn carries_one_by_one(service: &str, scheme: Scheme) -> Result<(), &'static str> {
    match service {
        "chat" | "watch" => Err("it serves one client at a time, who would be alone"),
        "console" => Err("it serves one client at a time, and the console would be that one"),
        _ => carries_all(service, scheme),
    }
}

/// A bound listener of streams and the service behind it.
pub struct Served {
    /// Accepts the connections.
    pub listener: Listener,
    /// Serves them.
    pub service: Arc<dyn Service>,
    /// Whether the idle timeout spares its sessions.
    pub idle_exempt: bool,
}

/// All that an engine needs to begin.
pub struct Start {
    /// How it is to schedule, and the limits.
    pub settings: Settings,
    /// What it serves.
    pub listeners: Vec<Served>,
    /// Where datagrams are answered; by desk, which is all at the first one unless they are shared out.
    endpoints: Vec<Vec<Endpoint>>,
    /// Most sessions that it could ever be allowed, whatever the limits say now.
    pub most_sessions: usize,
    /// The daemon's clock.
    pub clock: Clock,
    needs: Needs,
    /// Whether there may be threads for jobs.
    has_jobs: bool,
    /// Of all services that may ever be carried, if somebody may ask who is here; none otherwise.
    service_names: Vec<&'static str>,
    /// Services that have work for the threads for files.
    with_files: Vec<Arc<dyn Service>>,
}

impl Start {
    /// With these listeners and endpoints, and no more sessions than `most_sessions`.
    pub fn new(
        settings: Settings,
        listeners: Vec<Served>,
        endpoints: Vec<Endpoint>,
        most_sessions: usize,
        clock: Clock,
    ) -> Start {
        let needs = Needs::default();
        listeners.iter().for_each(|served| needs.add(&*served.service));
        endpoints.iter().for_each(|endpoint| needs.add(endpoint.service()));
        let with_files = listeners.iter().map(|served| Arc::clone(&served.service));
        let with_files = with_files.filter(|service| service.has_file_jobs()).collect();
        let (endpoints, service_names) = (vec![endpoints], Vec::new());
        Start { settings, listeners, endpoints, most_sessions, clock, needs, has_jobs: true, service_names, with_files }
    }

    /// The same for an engine that is to be asked for its [sessions](Running::sessions), by somebody who knows services by
    /// these names.
    pub fn attended(mut self, services: Vec<&'static str>) -> Start {
        self.service_names = services;
        self
    }

    /// As many endpoints of each kind as there are desks, all on the port of the first.
    fn share_endpoints(&mut self, desks: usize) -> Result<(), Error> {
        self.endpoints.resize_with(desks, Vec::new);
        let (first, others) = self.endpoints.split_first_mut().expect("there is at least one desk");
        for endpoint in first {
            for share in &mut *others {
                let attempt = || format!("answer once more on {}", endpoint.address());
                share.push(endpoint.sibling().map_err(|reason| Error::resource(attempt(), reason))?);
            }
        }
        Ok(())
    }
}

/// What a running engine can be told.
#[derive(Clone, Debug)]
pub enum Command {
    /// Stop accepting, serve what the kernel already holds, end every session, up to the drain timeout; then finish.
    Drain,
    /// End every session now; then finish.
    Stop,
    /// Go on with these limits.
    Limit(Limits),
    /// Go on scheduling like this.
    Tune(Tuning),
}

/// A session that is open, as others than its owner see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Names it for as long as it is open, and no other for very much longer.
    pub id: u64,
    /// The service.
    pub service: &'static str,
    /// Who it is, where the engine knows.
    pub peer: Option<SocketAddr>,
    /// How long it has been open.
    pub age_ns: u64,
    /// Bytes that have come, up to its last turn.
    pub read_bytes: u64,
    /// Bytes that have gone, up to its last turn.
    pub written_bytes: u64,
    /// What it does, in a word.
    pub state: &'static str,
}

/// What becomes of a listener while the engine serves.
pub enum Change {
    /// There is one more.
    Open(Served),
    /// The one at this address offers another service to those who come from now on.
    Offer {
        /// Where it is.
        address: SocketAddr,
        /// Serves them.
        service: Arc<dyn Service>,
        /// Whether the idle timeout spares its sessions.
        idle_exempt: bool,
    },
    /// The one at this address is closed when those in its backlog are in. Its sessions live on.
    Close(SocketAddr),
}

/// Called once with the number of workers that is in force.
pub type InForce = Box<dyn FnOnce(usize) + Send>;

/// Something that the caller of [`Running::join`] must hear of meanwhile.
pub struct Hearing<'a> {
    /// Readable when there is something to hear.
    pub source: BorrowedFd<'a>,
    /// Hears it.
    pub hear: &'a mut dyn FnMut(),
}

/// An engine at work.
pub trait Running: Send + Sync {
    /// Tells the engine something; returns at once.
    fn command(&self, command: Command);

    /// Workers that there are, with those that have been told to go and have not gone yet.
    fn workers(&self) -> usize {
        self.summary().workers
    }

    /// Goes on with so many workers, and calls `in_force` when that is so: whoever is to go finishes first what it is in. More
    /// of them serve at once. Any thread, a worker's own too: it returns without waiting for anybody's turn. Only for an engine
    /// that [resizes](EngineInfo::resizes).
    ///
    /// # Errors
    /// The number is out of range, does not fit the other settings, or a thread cannot be had: then the number stays as it
    /// was, and `in_force` is not called.
    fn resize(&self, _workers: usize, _in_force: InForce) -> Result<(), Error> {
        unreachable!("whoever resizes has asked whether that can be")
    }

    /// Goes on with other listeners. Returns at once: the fronts see to it when they next look. Only for an engine that
    /// [listens anew](EngineInfo::relistens).
    ///
    /// # Errors
    /// The system refuses what the new listeners need: then there are the old ones, as they were.
    fn listen(&self, _changes: Vec<Change>) -> Result<(), Error> {
        unreachable!("whoever changes the listeners has asked whether that can be")
    }

    /// Adds sessions that are open to `seen`, about `most` of them, beginning at the place `from`. The place to go on from;
    /// None when all have been looked at.
    fn sessions(&self, from: u64, most: usize, seen: &mut Vec<Seen>) -> Option<u64>;

    /// Ends the session of this id; whether there is one.
    fn kill(&self, id: u64) -> bool;

    /// The counters now; any thread, any time.
    fn summary(&self) -> Summary;

    /// Waits until the engine has finished, and checks its books. Meanwhile it hears what is to be heard, if it has the
    /// process's one thread to itself; other engines leave that to a thread of the caller's.
    ///
    /// # Panics
    /// If accepted sessions and ended ones do not balance: a bug. (A panic in a thread of the engine, outside of a
    /// service's code, ends the process.)
    fn join(&self, hearing: Option<Hearing<'_>>);
}

/// Starts the engine of this name.
///
/// # Errors
/// When a thread or a descriptor that the engine needs cannot be had, or it is not [`available`].
///
/// # Panics
/// If there is no such engine; names are checked when the configuration is read.
pub fn start(name: &str, mut start: Start) -> Result<Box<dyn Running>, Error> {
    available(name).map_err(|reason| Error::resource(format!("run the engine {name}"), io::Error::other(reason)))?;
    // A process that forks has one thread; its children run jobs inline.
    start.has_jobs = !entry(name).info.forks;
    (entry(name).start)(start)
}

/// Whether this machine lets the engine run.
///
/// # Errors
/// Why it does not, in words for whoever runs the daemon.
///
/// # Panics
/// If there is no such engine.
pub fn available(name: &str) -> Result<(), String> {
    (entry(name).available)()
}

fn entry(name: &str) -> &'static Entry {
    let entry = ENTRIES.iter().find(|entry| entry.info.name == name);
    entry.expect("the configuration names an engine of the registry")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ENGINE, limit_names, setting_names};

    #[test]
    fn engines_have_a_use_for_settings_that_exist() {
        for engine in ENGINES {
            for option in engine.options {
                let is_limit = limit_names().contains(option);
                assert!(setting_names().any(|name| name == *option), "{}: {option} is no setting", engine.name);
                assert!(!is_limit, "{}: every engine keeps {option}, which is a limit", engine.name);
            }
        }
        assert!(limit_names().iter().all(|limit| setting_names().any(|name| name == *limit)));
    }

    #[test]
    fn the_default_engine_is_the_first_and_names_are_unique() {
        assert_eq!(ENGINES[0].name, ENGINE);
        for (at, engine) in ENGINES.iter().enumerate() {
            assert!(ENGINES[..at].iter().all(|other| other.name != engine.name), "{} is there twice", engine.name);
        }
    }
}
