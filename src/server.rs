//! [`Server`]: the library's own face. A value whose constructor works or fails whole, a handler that hears of its clients
//! by number, and a handle by which any thread sends to any of them.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{Shutdown, TcpStream};
//!
//! use maitred::server::{ClientId, Clients, Server};
//!
//! let louder = |clients: &Clients, id: ClientId, data: &[u8]| {
//!     let _ = clients.send(id, data.to_ascii_uppercase());
//! };
//! let server = Server::listen_on("127.0.0.1:0".parse()?).workers(2).start(louder)?;
//!
//! let mut client = TcpStream::connect(server.address())?;
//! client.write_all(b"good evening")?;
//! client.shutdown(Shutdown::Write)?;
//! let mut heard = String::new();
//! client.read_to_string(&mut heard)?;
//! assert_eq!(heard, "GOOD EVENING");
//!
//! let summary = server.stop();
//! assert_eq!(summary.accepted, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A send is a post, not a write: it leaves the message in the client's mailbox and returns; whoever runs the client's next
//! turn writes it. So no thread ever waits for another one's client, a handler may send to anybody, itself included, and
//! nothing that it calls here calls it back. What that costs: `design/completion-style.md`.
//!
//! This is a [`Service`] on top of [`Daemon`] like any other, and adds no way to wait or to schedule. It runs on every
//! engine whose sessions share memory. Invariants:
//! - *one-call-at-a-time*: of one client's calls none begins before the one before it has returned, the first is
//!   [`on_open`](Receive::on_open) and the last [`on_close`](Receive::on_close). Those of different clients run side by
//!   side on the engine's threads.
//! - *no-lock-while-calling*: no lock is held while the handler is called, nor while anything is posted.
//! - *nobody-waits-for-itself*: a server that ends in a call of its own handler is not waited for.
//!
//! Read next: [`Receive`], what a handler hears; [`Clients`], what it can do; `session/mailbox.rs`, where a send goes.

mod clients;
mod visit;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::{Config, ENGINE, EngineInfo, Listener, Scheme, Settings};
use crate::daemon::Daemon;
use crate::engine::ENGINES;
use crate::error::Error;
use crate::metrics::summary::Summary;
use crate::session::handler::Service;
use crate::session::mailbox::MAILBOX_BYTES;

use visit::Host;

pub use self::clients::{ClientId, Clients};
pub use crate::session::framing::Framing;
pub use crate::session::handler::{Closed, Pace};
pub use crate::session::mailbox::{Message, Posted};

/// What a handler hears. A closure of the type of [`on_receive`](Receive::on_receive) is one.
///
/// The engine's threads call it, for several clients at once: what clients share lies behind a lock, or is atomic. A call
/// that takes long keeps its thread, and so other clients, from being served; see [`Builder::pace`]. A panic ends that client
/// alone, as [`Closed::Panicked`].
pub trait Receive: Send + Sync + 'static {
    /// A client has come. It can be sent to from now on.
    fn on_open(&self, _clients: &Clients, _id: ClientId) {}

    /// Bytes as they came, at least one: where one piece ends and the next begins means nothing. With
    /// [`Builder::framing`], one frame's body, which may be empty.
    ///
    /// A client for which half of what may wait is waiting is not listened to until it has taken some of it.
    fn on_receive(&self, clients: &Clients, id: ClientId, data: &[u8]);

    /// The client has sent its FIN: it says no more and still listens. The default closes: what was sent leaves, then the
    /// FIN. A handler that does not close has a client that it can send to until somebody does.
    fn on_end(&self, clients: &Clients, id: ClientId) {
        clients.close(id);
    }

    /// The client's session has ended, in this way; nothing can be sent to it any more. The connection itself is closed when
    /// this returns.
    fn on_close(&self, _clients: &Clients, _id: ClientId, _closed: Closed) {}
}

impl<F: Fn(&Clients, ClientId, &[u8]) + Send + Sync + 'static> Receive for F {
    fn on_receive(&self, clients: &Clients, id: ClientId, data: &[u8]) {
        self(clients, id, data);
    }
}

/// A server at work. Dropped, it stops at once: see [`Server::stop`] for the other way.
///
/// Dropping ends every session as [`Closed::Killed`], whatever is owed, and waits for the threads, so for calls of the
/// handler that are under way. In such a call nothing is waited for: the threads end by themselves when it has returned.
pub struct Server {
    daemon: Daemon,
    clients: Clients,
    /// It was waited for.
    is_over: bool,
}

/// What a server is to be.
#[derive(Clone, Debug)]
#[must_use = "nothing listens before `start`"]
pub struct Builder {
    address: SocketAddr,
    engine: String,
    settings: Settings,
    mailbox_bytes: usize,
    framing: Option<Framing>,
    pace: Pace,
}

impl Server {
    /// A server at this address, and port 0 for one that the system chooses; nothing is bound before [`Builder::start`].
    pub fn listen_on(address: SocketAddr) -> Builder {
        Builder {
            address,
            engine: ENGINE.to_owned(),
            settings: Settings::default(),
            mailbox_bytes: MAILBOX_BYTES,
            framing: None,
            pace: Pace::Open,
        }
    }

    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.daemon.listening()[0].address.ip().expect("a server is on the network")
    }

    /// A handle to its clients, for any thread and as long as it likes.
    pub fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// The counters now.
    pub fn summary(&self) -> Summary {
        self.daemon.summary()
    }

    /// Stops in order: accepts nobody more, serves what has come, sends what was sent before, then the FIN to each client;
    /// waits until all that is done and the threads have ended; the last counters. What takes longer than the drain timeout
    /// (`settings.limits.drain_timeout`, 5 s) is closed. A call of the handler is waited for as long as it takes.
    ///
    /// # Panics
    /// In a call of its own handler, which would wait for itself: the server stops at once then, as if dropped there. A
    /// handler that wants the end tells another thread.
    pub fn stop(mut self) -> Summary {
        assert!(
            !self.clients.call_here(),
            "nobody-waits-for-itself: a handler cannot wait for the end of its own server"
        );
        self.daemon.drain();
        self.is_over = true;
        self.daemon.join()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        self.daemon.stop();
        if !self.clients.call_here() {
            self.daemon.join();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Builder {
    /// The engine that runs it, by its name in [`ENGINES`]. Default: `pool`.
    pub fn engine(mut self, name: &str) -> Builder {
        name.clone_into(&mut self.engine);
        self
    }

    /// Threads that call the handler, on engines that have a number of them. Default: one for each processor.
    pub fn workers(self, workers: usize) -> Builder {
        self.settings(|settings| settings.workers = workers)
    }

    /// Changes any of the settings that `maitred serve` has, such as its limits:
    /// `.settings(|settings| settings.limits.idle_timeout = Limits::NEVER)`.
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Builder {
        change(&mut self.settings);
        self
    }

    /// Bytes that may wait for one client, before a send to it is [`Posted::Full`]; how many messages they may be is in
    /// proportion. Default: [`MAILBOX_BYTES`].
    pub fn mailbox_bytes(mut self, bytes: usize) -> Builder {
        self.mailbox_bytes = bytes;
        self
    }

    /// How the clients' bytes fall into frames, each of which is one call of [`Receive::on_receive`]. A frame that is too
    /// short or too long ends its session as [`Closed::Protocol`]; what is sent goes out as it is. Default: bytes as they
    /// come.
    pub fn framing(mut self, framing: Framing) -> Builder {
        self.framing = Some(framing);
        self
    }

    /// How long a call of the handler may take. Default: [`Pace::Open`], nobody knows; a handler that never blocks and is
    /// done in some microseconds is [`Pace::Brief`], and then also called by threads that others wait for.
    pub fn pace(mut self, pace: Pace) -> Builder {
        self.pace = pace;
        self
    }

    /// Binds the address, starts the threads and serves; or says why not, and leaves nothing behind.
    ///
    /// What it does to the whole process: the limit of open descriptors is raised as far as it may be; `serial` and
    /// `thread-per-connection` handle `SIGURG`; and a panic that is no handler's, so a bug of this library, aborts.
    ///
    /// # Errors
    /// A setting out of its range, an engine that there is not, that cannot run here or whose sessions share no memory, an
    /// address that cannot be bound, or whatever else the system refuses.
    pub fn start(self, handler: impl Receive) -> Result<Server, Error> {
        let engine = fitting_engine(&self.engine)?;
        self.settings.check()?;
        self.check_framing()?;
        let clients = Clients::default();
        let host = Host::new(&self, handler, &clients);
        let listener = Listener {
            service_name: host.name(),
            scheme: Scheme::Tcp,
            address: self.address.into(),
            parameters: Vec::new(),
            service: Arc::new(host),
            idle_exempt: false,
            asked_for: true,
        };
        let config = Config {
            engine: engine.name,
            listeners: vec![listener],
            settings: self.settings,
            summary_path: None,
            config_path: None,
            without_use: Vec::new(),
        };
        Ok(Server { daemon: Daemon::start(&config)?, clients, is_over: false })
    }

    /// A frame that has no length before it is found in a ring.
    fn check_framing(&self) -> Result<(), Error> {
        let ring_bytes = self.settings.ring_bytes;
        match self.framing {
            Some(Framing::Line { most } | Framing::Nul { most }) if most as usize > ring_bytes => {
                let problem = format!("frames of up to {most} bytes do not fit in a ring of {ring_bytes}");
                Err(Error::resource("tell frames apart", io::Error::other(problem)))
            }
            _ => Ok(()),
        }
    }
}

/// The engine of this name, if it can carry a server.
fn fitting_engine(name: &str) -> Result<&'static EngineInfo, Error> {
    let refused =
        |reason: String| Error::resource(format!("run a server on the engine {name}"), io::Error::other(reason));
    let Some(engine) = ENGINES.iter().find(|engine| engine.name == name) else {
        let known: Vec<&str> = ENGINES.iter().filter(|engine| !engine.forks).map(|engine| engine.name).collect();
        return Err(refused(format!("there is none of this name; expected {}", known.join(" or "))));
    };
    match engine.forks {
        true => Err(refused("its sessions are in other processes, and share no memory with whoever sends".to_owned())),
        false => Ok(engine),
    }
}
