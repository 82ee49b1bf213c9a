//! The daemon: listeners, engine and signals put together.
//!
//! [`Daemon`] is the library's way in: construction either works or says why, and what it hands back can be asked,
//! drained and joined. [`serve`] is the program around it: ready lines, signals and the console, the summary at exit.
//!
//! Read next: `daemon/operator.rs`, what signals and operators bring about; `daemon/reload.rs`, listeners that change;
//! `daemon/circles.rs`, relays that are refused.

mod circles;
mod operator;
mod reload;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use log::warn;

use self::operator::{Attendant, Operations};
use self::reload::Bound;
use crate::cli::ServeArgs;
use crate::clock::Clock;
use crate::config::{
    self, Address, AtOnce, Config, DatagramSettings, EngineInfo, Limits, Scheme, Settings, default_udp_ports,
};
use crate::console::{self, Console, Door, Entrance};
use crate::engine::{self, Command, ENGINES, Endpoint, Hearing, MOST_PIPES, Running, Seen, Served, Start};
use crate::error::Error;
use crate::logging::Log;
use crate::metrics::summary::Summary;
use crate::net::batch::Switches;
use crate::net::children::{Signal, SignalFd};
use crate::net::listener::Listener;
use crate::net::local::{LocalListener, SocketFile};
use crate::net::os;
use crate::net::udp::{DatagramSocket, Use};
use crate::session::datagram::LONGEST_DATAGRAM;
use crate::session::guard::{Guard, Policy, Rate};
use crate::session::handler::Service;

/// Descriptors that are not sessions': what was open at the start is counted apart; this is for the engine's own, the
/// log and summary files, and a few to spare.
const SPARE_DESCRIPTORS: usize = 32;

/// Descriptors of a relay of datagrams beside those of its clients: a socket, a poller, which has four, and an alarm.
const RELAY_DESCRIPTORS: usize = 6;

/// Slots of the session table at the most, where descriptors are unlimited.
const MOST_SESSIONS: usize = 1 << 22;

pub use self::reload::Relistened;

/// A daemon at work.
pub struct Daemon {
    engine: Box<dyn Running>,
    info: &'static EngineInfo,
    /// Changed by a reload.
    bound: Mutex<Vec<Bound>>,
    /// Sessions that the process may open descriptors for.
    most_sessions: usize,
    clock: Clock,
}

/// Who may connect to a socket in the file system, if nobody has said: the user that the daemon runs as.
const MODE: u32 = 0o600;

/// What operators connect to, bound and not yet answered.
#[derive(Default)]
struct Doors {
    doors: Vec<Door>,
    /// Removed when the daemon ends.
    files: Vec<SocketFile>,
}

impl Doors {
    /// Binds the one that was asked for, and says where it is.
    fn open(&mut self, asked: &config::Listener) -> io::Result<Address> {
        let (entrance, address) = match &asked.address {
            Address::Ip(address) => {
                let listener = Listener::bind(*address)?;
                let address = Address::Ip(listener.address());
                (Entrance::Tcp(listener), address)
            }
            Address::Path(path) => {
                let mode = asked.service.console().and_then(|console| console.mode());
                let (listener, file) = LocalListener::bind(path, mode.unwrap_or(MODE))?;
                self.files.push(file);
                (Entrance::Local(listener), asked.address.clone())
            }
        };
        let name = format!("{} {}://{address}", asked.service_name, asked.scheme.name());
        self.doors.push(Door { entrance, name, service: Arc::clone(&asked.service) });
        Ok(address)
    }
}

/// How a socket for this service is used.
fn purpose(config: &Config, service: &dyn Service) -> Use {
    let DatagramSettings { buffer_bytes, mmsg, gso, gro, .. } = config.settings.datagrams;
    let (longest_request, longest_answer) = match service.datagrams() {
        Some(datagrams) => {
            let longest_request = datagrams.longest_request();
            (longest_request, datagrams.bound().allowance(longest_request))
        }
        // It passes on what others say.
        None => (LONGEST_DATAGRAM, LONGEST_DATAGRAM),
    };
    Use {
        switches: match config.engine_info(ENGINES).at_once {
            AtOnce::One => Switches::OFF,
            AtOnce::Many => Switches { mmsg, gso, gro },
        },
        longest_request,
        longest_answer,
        receive_buffer_bytes: buffer_bytes,
    }
}

/// Descriptors of relays of datagrams: one for each client, and those of their pollers and alarms, as often as an engine may
/// open them.
fn relayed_descriptors(config: &Config) -> usize {
    let workers = config.settings.workers;
    let upstreams = config.listeners.iter().filter_map(|asked| asked.service.datagram_upstream());
    upstreams.map(|upstream| upstream.usage.clients.max(workers) + RELAY_DESCRIPTORS * workers).sum()
}

/// Endpoints of these sockets, once the ports of all of them are known, which none of them answers.
fn guarded(
    sockets: Vec<(DatagramSocket, Arc<dyn Service>)>,
    settings: &DatagramSettings,
) -> Result<Vec<Endpoint>, Error> {
    let own_ports: Vec<u16> =
        sockets.iter().map(|(socket, _)| socket.address().port()).chain(default_udp_ports()).collect();
    let rate = |per_s: Option<NonZeroU32>| per_s.map(|per_s| Rate { per_s, burst: per_s });
    let guarded = sockets.into_iter().map(|(socket, service)| {
        let address = socket.address();
        let answers = settings.is_public || address.ip().is_loopback();
        if !answers {
            let name = service.name();
            warn!("{name} on udp://{address} answers nobody: strangers reach this address, and udp_public is off");
        }
        let policy = Policy {
            answers,
            own_ports: own_ports.clone(),
            source_rate: rate(settings.source_rate),
            total_rate: rate(settings.total_rate),
            spares_loopback: !settings.limits_local,
        };
        let refused = |reason| Error::resource(format!("relay on udp://{address}"), reason);
        Endpoint::new(socket, service, Arc::new(Guard::new(&policy))).map_err(refused)
    });
    guarded.collect()
}

/// A listener that is really bound.
#[derive(Clone, Debug)]
pub struct Listening {
    /// The service behind it.
    pub service: &'static str,
    /// The scheme that it is reached by.
    pub scheme: &'static str,
    /// With the port that the kernel chose, if it was asked to.
    pub address: Address,
}

impl Daemon {
    /// Binds every listener and starts the engine.
    ///
    /// # Errors
    /// The first address that cannot be bound, or whatever else the system refuses. A console is refused as well: it is
    /// [`serve`] that answers there.
    pub fn start(config: &Config) -> Result<Daemon, Error> {
        let (daemon, doors) = Daemon::start_with_doors(config)?;
        match doors.doors.first() {
            Some(door) => {
                daemon.stop();
                daemon.join();
                Err(Error::resource(format!("serve {}", door.name), io::Error::other("only `maitred serve` does")))
            }
            None => Ok(daemon),
        }
    }

    /// The same for whoever answers operators.
    fn start_with_doors(config: &Config) -> Result<(Daemon, Doors), Error> {
        config.listeners.iter().try_for_each(reload::prepare)?;
        let descriptors = os::raise_descriptor_limit();
        let consoles = config.listeners.iter().filter(|asked| asked.service.console().is_some()).count();
        // A session with two sockets needs two, and may want pipes.
        let (each, pipes) = match config.listeners.iter().any(|asked| asked.service.upstream().is_some()) {
            true => (2, 2 * MOST_PIPES),
            false => (1, 0),
        };
        let own = 2 * config.listeners.len() + consoles * console::SESSIONS_MOST + SPARE_DESCRIPTORS;
        let own = own + relayed_descriptors(config);
        let most_sessions = descriptors.saturating_sub(os::open_descriptors() + own) / each;
        // Where there are few, pipes are done without.
        let most_sessions = most_sessions.saturating_sub(pipes / each).max(most_sessions.div_ceil(2));
        if most_sessions == 0 {
            let reason = io::Error::other(format!(
                "the process may open {descriptors} descriptors, and needs {own} besides those of its sessions"
            ));
            return Err(Error::resource("serve anybody", reason));
        }
        let mut settings = config.settings.clone();
        lower_to(&mut settings.limits, most_sessions);
        let mut bound = Vec::with_capacity(config.listeners.len());
        let (mut listeners, mut sockets) = (Vec::with_capacity(config.listeners.len()), Vec::new());
        let mut doors = Doors::default();
        for asked in &config.listeners {
            let service = Arc::clone(&asked.service);
            let address = match asked.address.ip() {
                _ if service.console().is_some() => {
                    doors.open(asked).map_err(|reason| reload::refused(asked, reason))?
                }
                Some(address) if asked.scheme == Scheme::Udp => {
                    let socket = DatagramSocket::bind(address, purpose(config, &*service));
                    let socket = socket.map_err(|reason| reload::refused(asked, reason))?;
                    let address = socket.address();
                    sockets.push((socket, service));
                    address.into()
                }
                _ => {
                    let listener = reload::bind(asked)?;
                    let address = listener.address();
                    listeners.push(Served { listener, service, idle_exempt: asked.idle_exempt });
                    address.into()
                }
            };
            bound.push(Bound { asked: asked.clone(), address });
        }
        circles::check(&bound.iter().filter_map(Bound::place).collect::<Vec<_>>())?;
        let endpoints = guarded(sockets, &settings.datagrams)?;
        let clock = Clock::start();
        let start = Start::new(settings, listeners, endpoints, most_sessions.min(MOST_SESSIONS), clock);
        let start = if doors.doors.is_empty() { start } else { start.attended(config::service_names()) };
        let engine = engine::start(config.engine, start)?;
        let info = config.engine_info(ENGINES);
        Ok((Daemon { engine, info, bound: Mutex::new(bound), most_sessions, clock }, doors))
    }

    /// What it listens on.
    pub fn listening(&self) -> Vec<Listening> {
        let bound = self.bound.lock().expect("no thread panics while it holds this lock");
        let listening = bound.iter().map(|Bound { asked, address }| Listening {
            service: asked.service_name,
            scheme: asked.scheme.name(),
            address: address.clone(),
        });
        listening.collect()
    }

    /// Stops accepting, serves what the kernel holds, ends every session within the drain timeout, finishes.
    pub fn drain(&self) {
        self.engine.command(Command::Drain);
    }

    /// Ends every session now and finishes.
    pub fn stop(&self) {
        self.engine.command(Command::Stop);
    }

    /// Goes on with other limits; the rings' memory stays as it was.
    pub fn limit(&self, mut limits: Limits) {
        lower_to(&mut limits, self.most_sessions);
        self.engine.command(Command::Limit(limits));
    }

    /// Goes on as these settings say, as far as they can be changed while it runs; what the process may not have is lowered.
    pub fn tune(&self, settings: &mut Settings) {
        lower_to(&mut settings.limits, self.most_sessions);
        self.limit(settings.limits.clone());
        self.engine.command(Command::Tune(settings.tuning()));
    }

    /// Workers that there are; those that are to go count until they have gone.
    pub fn workers(&self) -> usize {
        self.engine.workers()
    }

    /// Goes on with so many workers. More of them serve at once; who is to go finishes the turn that it is in, and the last of
    /// them calls `in_force` with the number that is in force then. Returns without waiting for that; any thread may call it.
    ///
    /// # Errors
    /// The engine does not resize, the number is out of range or does not fit the other settings, or a thread cannot be had.
    /// Then the number stays as it was, and `in_force` is not called.
    pub fn set_workers(&self, workers: usize, in_force: impl FnOnce(usize) + Send + 'static) -> Result<(), Error> {
        self.info.resizes.map_err(|reason| {
            let attempt = format!("change the workers of the engine {}", self.info.name);
            Error::resource(attempt, io::Error::other(reason))
        })?;
        self.engine.resize(workers, Box::new(in_force))
    }

    /// Adds sessions that are open to `seen`, about `most` of them, beginning at the place `from`, which is 0 at first. The
    /// place to go on from; None when all places have been looked at. Who comes or goes meanwhile may be missing.
    fn sessions(&self, from: u64, most: usize, seen: &mut Vec<Seen>) -> Option<u64> {
        self.engine.sessions(from, most, seen)
    }

    /// Ends the session of this id; whether there is one. It may have sent its last word by the time it hears of it.
    fn kill(&self, id: u64) -> bool {
        self.engine.kill(id)
    }

    /// The counters now.
    pub fn summary(&self) -> Summary {
        self.engine.summary()
    }

    /// Waits until the daemon has finished, after [`drain`](Daemon::drain) or [`stop`](Daemon::stop); the last summary. An
    /// engine that makes processes does its work in here.
    pub fn join(&self) -> Summary {
        self.engine.join(None);
        self.engine.summary()
    }

    /// The same, and has `attendant` do what there is to do whenever `source`, which is its own, is readable: for an engine whose
    /// process has this one thread.
    fn join_attended(&self, attendant: &mut Attendant, source: BorrowedFd<'_>) -> Summary {
        self.engine.join(Some(Hearing { source, hear: &mut || attendant.handle() }));
        self.engine.summary()
    }
}

fn lower_to(limits: &mut Limits, most_sessions: usize) {
    if limits.max_connections > most_sessions {
        warn!(
            "max_connections = {} is more than the descriptors that this process may open; {most_sessions} are in force",
            limits.max_connections
        );
        limits.max_connections = most_sessions;
    }
}

/// Runs the program `maitred serve` until a signal ends it.
///
/// # Errors
/// What kept it from starting, or the summary file that could not be written.
pub fn serve(args: &ServeArgs, config: Config, log: &Log) -> Result<(), Error> {
    // Blocked first, for all threads to come: a signal that comes during the start is carried out after it.
    let signals = SignalFd::new(&[Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1]);
    let signals = signals.map_err(|reason| Error::resource("receive signals", reason))?;
    // Then these threads: nothing that can fail comes after the ready lines, and no client takes what they need.
    let forks = config.engine_info(ENGINES).forks;
    let (begin, begins) = channel();
    if !forks {
        let refused = |reason| Error::resource("start the threads log and operator", reason);
        log.start_writer().and_then(|()| start_operator_thread(begins)).map_err(refused)?;
    }
    let summary_path = config.summary_path.clone();
    // Opened first too: a summary that cannot be written is better known before a week's run than after it.
    let summary_file = summary_path.as_deref().map(open_summary).transpose()?;
    if !config.without_use.is_empty() {
        warn!("engine {} has no use for {}", config.engine, config.without_use.join(", "));
    }
    let (daemon, doors) = Daemon::start_with_doors(&config)?;
    let daemon = Arc::new(daemon);
    // Removed on the way out, also when something fails from here on.
    let Doors { doors, files: _files } = doors;
    let operations = Operations::new(Arc::clone(&daemon), args.clone(), config, log.clone());
    let console = Console::new(signals.as_fd(), doors, daemon.clock, Arc::clone(&operations).orders());
    let console = console.map_err(|reason| Error::resource("answer operators", reason))?;
    let source = if forks { console.as_fd().try_clone_to_owned().map(Some) } else { Ok(None) };
    let source = source.map_err(|reason| Error::resource("answer operators", reason))?;
    let mut attendant = Attendant { operations, signals, console };
    match print_ready(&daemon.listening()) {
        // Whoever started it may have read as much as it wanted, or nothing: the clients are others.
        Err(reason) if reason.kind() == io::ErrorKind::BrokenPipe => warn!("nobody reads standard output"),
        printed => printed.map_err(|reason| Error::Output { target: "standard output".to_owned(), reason })?,
    }
    let mut summary = match &source {
        Some(source) => daemon.join_attended(&mut attendant, source.as_fd()),
        None => {
            begin.send(attendant).expect("its thread waits for it");
            daemon.join()
        }
    };
    summary.log_lines_dropped = log.dropped_lines();
    log.print(&summary);
    if let (Some(mut file), Some(path)) = (summary_file, summary_path) {
        write_summary(&mut file, &summary)
            .map_err(|reason| Error::Output { target: path.display().to_string(), reason })?;
    }
    Ok(())
}

/// A thread for the attendant that is to come, once there is a daemon; without one it ends.
fn start_operator_thread(begins: Receiver<Attendant>) -> io::Result<()> {
    let run = move || begins.into_iter().for_each(Attendant::run);
    std::thread::Builder::new().name("operator".to_owned()).spawn(run).map(drop)
}

fn open_summary(path: &std::path::Path) -> Result<File, Error> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    opened.map_err(|reason| Error::Output { target: path.display().to_string(), reason })
}

fn write_summary(file: &mut File, summary: &Summary) -> io::Result<()> {
    // A pipe or a terminal cannot be truncated, and need not be.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(summary.to_json().as_bytes())
}

fn print_ready(listening: &[Listening]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for one in listening {
        writeln!(out, "listening {} {}://{}", one.service, one.scheme, one.address)?;
    }
    writeln!(out, "ready")?;
    out.flush()
}
