//! The daemon: listeners, engine and signals put together.
//!
//! [`Daemon`] is the library's way in: construction either works or says why, and what it hands back can be asked,
//! drained and joined. [`serve`] is the program around it: ready lines, signals, the summary at exit.
//!
//! Signals: the first SIGTERM or SIGINT drains, the second stops at once; SIGUSR1 prints the summary; SIGHUP reads the
//! configuration again (`daemon/reload.rs`), or keeps the old one and says why.

mod reload;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use log::{info, warn};

use self::reload::Bound;
use crate::cli::ServeArgs;
use crate::clock::Clock;
use crate::config::{self, AtOnce, Config, DatagramSettings, EngineInfo, Limits, Scheme, default_udp_ports};
use crate::engine::{self, Command, ENGINES, Endpoint, Hearing, Running, Served, Start};
use crate::error::Error;
use crate::logging::Log;
use crate::metrics::summary::Summary;
use crate::net::batch::Switches;
use crate::net::children::{Signal, SignalFd};
use crate::net::os;
use crate::net::udp::{DatagramSocket, Use};
use crate::session::guard::{Guard, Policy, Rate};
use crate::session::handler::Service;

/// Descriptors that are not sessions': what was open at the start is counted apart; this is for the engine's own, the
/// log and summary files, and a few to spare.
const SPARE_DESCRIPTORS: usize = 32;

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
}

/// How a socket for this service is used.
fn purpose(config: &Config, service: &dyn Service) -> Use {
    let DatagramSettings { buffer_bytes, mmsg, gso, gro, .. } = config.settings.datagrams;
    let datagrams = service.datagrams().expect("the registry says that it answers datagrams");
    let longest_request = datagrams.longest_request();
    Use {
        switches: match config.engine_info(ENGINES).at_once {
            AtOnce::One => Switches::OFF,
            AtOnce::Many => Switches { mmsg, gso, gro },
        },
        longest_request,
        longest_answer: datagrams.bound().allowance(longest_request),
        receive_buffer_bytes: buffer_bytes,
    }
}

/// Endpoints of these sockets, once the ports of all of them are known, which none of them answers.
fn guarded(sockets: Vec<(DatagramSocket, Arc<dyn Service>)>, settings: &DatagramSettings) -> Vec<Endpoint> {
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
        Endpoint::new(socket, service, Arc::new(Guard::new(&policy)))
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
    pub address: SocketAddr,
}

impl Daemon {
    /// Binds every listener and starts the engine.
    ///
    /// # Errors
    /// The first address that cannot be bound, or whatever else the system refuses.
    pub fn start(config: &Config) -> Result<Daemon, Error> {
        let descriptors = os::raise_descriptor_limit();
        let most_sessions =
            descriptors.saturating_sub(os::open_descriptors() + 2 * config.listeners.len() + SPARE_DESCRIPTORS);
        if most_sessions == 0 {
            let reason = io::Error::other(format!(
                "the process may open {descriptors} descriptors, and needs {SPARE_DESCRIPTORS} besides those of its listeners \
                 and sessions"
            ));
            return Err(Error::resource("serve anybody", reason));
        }
        let mut settings = config.settings.clone();
        lower_to(&mut settings.limits, most_sessions);
        config.listeners.iter().try_for_each(reload::prepare)?;
        let mut bound = Vec::with_capacity(config.listeners.len());
        let (mut listeners, mut sockets) = (Vec::with_capacity(config.listeners.len()), Vec::new());
        for asked in &config.listeners {
            let service = Arc::clone(&asked.service);
            let address = if asked.scheme == Scheme::Udp {
                let socket = DatagramSocket::bind(asked.address, purpose(config, &*service));
                let socket = socket.map_err(|reason| reload::refused(asked, reason))?;
                let address = socket.address();
                sockets.push((socket, service));
                address
            } else {
                let listener = reload::bind(asked)?;
                let address = listener.address();
                listeners.push(Served { listener, service, idle_exempt: asked.idle_exempt });
                address
            };
            bound.push(Bound { asked: asked.clone(), address });
        }
        let endpoints = guarded(sockets, &settings.datagrams);
        let start = Start::new(settings, listeners, endpoints, most_sessions.min(MOST_SESSIONS), Clock::start());
        let info = config.engine_info(ENGINES);
        Ok(Daemon { engine: engine::start(config.engine, start)?, info, bound: Mutex::new(bound), most_sessions })
    }

    /// What it listens on.
    pub fn listening(&self) -> Vec<Listening> {
        let bound = self.bound.lock().expect("no thread panics while it holds this lock");
        let listening = bound.iter().map(|Bound { asked, address }| Listening {
            service: asked.service_name,
            scheme: asked.scheme.name(),
            address: *address,
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

    /// The same, and calls `hear` whenever `source` is readable: for an engine whose process has this one thread.
    fn join_hearing(&self, source: BorrowedFd<'_>, hear: &mut dyn FnMut()) -> Summary {
        self.engine.join(Some(Hearing { source, hear }));
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
        let refused = |reason| Error::resource("start the threads log and signals", reason);
        log.start_writer().and_then(|()| start_signal_thread(begins)).map_err(refused)?;
    }
    // Opened first too: a summary that cannot be written is better known before a week's run than after it.
    let summary_file = config.summary_path.as_deref().map(open_summary).transpose()?;
    if !config.without_use.is_empty() {
        warn!("engine {} has no use for {}", config.engine, config.without_use.join(", "));
    }
    let daemon = Arc::new(Daemon::start(&config)?);
    match print_ready(&daemon.listening()) {
        // Whoever started it may have read as much as it wanted, or nothing: the clients are others.
        Err(reason) if reason.kind() == io::ErrorKind::BrokenPipe => warn!("nobody reads standard output"),
        printed => printed.map_err(|reason| Error::Output { target: "standard output".to_owned(), reason })?,
    }
    let summary_path = config.summary_path.clone();
    let mut handler = SignalHandler {
        daemon: Arc::clone(&daemon),
        args: args.clone(),
        config,
        log: log.clone(),
        signals: Arc::new(signals),
        is_draining: false,
    };
    let mut summary = if forks {
        let signals = Arc::clone(&handler.signals);
        daemon.join_hearing(signals.as_fd(), &mut || handler.handle())
    } else {
        begin.send(handler).expect("its thread waits for it");
        daemon.join()
    };
    summary.log_lines_dropped = log.dropped_lines();
    log.print(&summary);
    if let (Some(mut file), Some(path)) = (summary_file, summary_path) {
        write_summary(&mut file, &summary)
            .map_err(|reason| Error::Output { target: path.display().to_string(), reason })?;
    }
    Ok(())
}

/// A thread for the handler that is to come, once there is a daemon; without one it ends.
fn start_signal_thread(begins: Receiver<SignalHandler>) -> io::Result<()> {
    let run = move || begins.into_iter().for_each(SignalHandler::run);
    std::thread::Builder::new().name("signals".to_owned()).spawn(run).map(drop)
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

/// Carries signals out. They come by a descriptor: to a thread that waits for nothing else, so that no hot thread ever does
/// more than look at a queue of commands; or to the one thread of a process that forks, between other things.
struct SignalHandler {
    daemon: Arc<Daemon>,
    args: ServeArgs,
    config: Config,
    log: Log,
    signals: Arc<SignalFd>,
    is_draining: bool,
}

impl SignalHandler {
    fn run(mut self) {
        loop {
            os::wait_for_input(self.signals.as_fd());
            self.handle();
        }
    }

    /// Carries out what has come.
    fn handle(&mut self) {
        while let Some(signal) = self.signals.read().expect("a signal descriptor can be read") {
            match signal {
                Signal::TERM | Signal::INT if self.is_draining => {
                    info!("a second signal: stopping at once");
                    self.daemon.stop();
                }
                Signal::TERM | Signal::INT => {
                    info!(
                        "draining, at most {:?}; another signal stops at once",
                        self.config.settings.limits.drain_timeout
                    );
                    self.is_draining = true;
                    self.daemon.drain();
                }
                Signal::USR1 => {
                    let mut summary = self.daemon.summary();
                    summary.log_lines_dropped = self.log.dropped_lines();
                    self.log.print(summary);
                }
                _ => self.reload(),
            }
        }
    }

    fn reload(&mut self) {
        if self.is_draining {
            warn!("SIGHUP: the daemon drains, and nothing changes any more");
            return;
        }
        let Some(path) = self.config.config_path.clone() else {
            warn!("SIGHUP: there is no configuration file to read again");
            return;
        };
        // Reading a pipe could keep this thread from every later signal; and it would find nothing new there.
        if !std::fs::metadata(&path).is_ok_and(|file| file.is_file()) {
            warn!("SIGHUP: the old configuration stays in force: {} is no regular file", path.display());
            return;
        }
        let new = match Config::resolve(&self.args, ENGINES) {
            Ok(new) => new,
            Err(reason) => {
                warn!("SIGHUP: the old configuration stays in force: {reason}");
                return;
            }
        };
        // Another engine may carry other services: then the listeners wait with it.
        let is_same_engine = new.engine == self.config.engine;
        let listened = if is_same_engine { self.daemon.listen(&new) } else { Ok(Relistened::default()) };
        let Relistened { changes, waiting } = match listened {
            Ok(listened) => listened,
            Err(reason) => {
                warn!("SIGHUP: the old configuration stays in force: {reason}");
                return;
            }
        };
        changes.iter().for_each(|change| info!("SIGHUP: {change}"));
        self.reload_workers(new.settings.workers);
        let mut restart = config::changes_needing_restart(self.daemon.info, &self.config, &new);
        restart.extend(waiting);
        if !restart.is_empty() {
            warn!("SIGHUP: these changes wait for a restart: {}", restart.join(", "));
        }
        self.daemon.limit(new.settings.limits.clone());
        info!("SIGHUP: {} is in force", path.display());
        // The memory of rings is one of the changes that wait: the next reload is to say so again.
        let max_buffer_bytes = self.config.settings.limits.max_buffer_bytes;
        self.config.settings.limits = Limits { max_buffer_bytes, ..new.settings.limits };
        if is_same_engine {
            self.config.listeners = new.listeners;
        }
    }

    /// Has as many workers as the file says, where they can change while the daemon serves.
    fn reload_workers(&self, workers: usize) {
        if self.daemon.info.resizes.is_err() {
            return;
        }
        let before = self.daemon.workers();
        if workers == before {
            return;
        }
        let in_force = move |workers| info!("SIGHUP: workers = {workers} is in force (before: {before})");
        if let Err(reason) = self.daemon.set_workers(workers, in_force) {
            warn!("SIGHUP: workers = {before} stays in force: {reason}");
        }
    }
}
