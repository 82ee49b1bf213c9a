//! Small servers that `maitred load` is tested against: right ones, and ones that are wrong in one known way.
//!
//! Plain threads and blocking sockets on 127.0.0.1, at a port that the kernel chose; nothing of the crate is used, so
//! that a mistake is not made twice. They count what they see and what they did wrong, for tests to compare.
//!
//! INVARIANT nothing-left: a server that is dropped has stopped and joined its threads and closed its sockets. Every
//! wait inside ends with the server: a pause by its condition variable, a read or write because its socket is shut down,
//! an accept after ten milliseconds.
//!
//! Read next: `streams.rs`, the smallest.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod chat;
pub(crate) mod datagrams;
pub(crate) mod streams;
pub(crate) mod work;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::client::wait_until;

/// How long a server that waits for clients may take to see that it is to stop.
const GLANCE: Duration = Duration::from_millis(10);

/// Connections that may wait to be accepted: more than any test opens.
const BACKLOG: i32 = 1024;

/// What a server has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Connections.
    pub(crate) accepted: u64,
    /// Frames or datagrams; on a plain stream, which has no such thing, reads.
    pub(crate) requests: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    /// How often it did what its fault says.
    pub(crate) faults: u64,
}

/// A running server; stopped and joined when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Accepts, the first time after `delay`, and gives each connection a thread that runs `serve`.
    fn accepting(
        delay: Duration,
        state: Arc<State>,
        serve: impl Fn(Arc<Connection>) + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        // A second call only sets the backlog.
        rustix::net::listen(&listener, BACKLOG).expect("it listens");
        listener.set_nonblocking(true).expect("a socket has the option");
        let (accepting, serve) = (Arc::clone(&state), Arc::new(serve));
        let acceptor = thread::spawn(move || {
            accepting.pause(delay);
            accept_all(&listener, &accepting, &serve);
        });
        Server { address, state, threads: vec![acceptor] }
    }

    /// Gives every datagram, with where it came from, to `serve`.
    fn receiving(state: Arc<State>, mut serve: impl FnMut(&UdpSocket, &[u8], SocketAddr) + Send + 'static) -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("it is bound");
        socket.set_read_timeout(Some(GLANCE)).expect("a socket has timeouts");
        // As much as the system lets it, so that a pause of the machine loses nothing.
        sockopt::set_socket_recv_buffer_size(&socket, 1 << 20).expect("a socket has the option");
        let receiving = Arc::clone(&state);
        let receiver = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !receiving.is_stopped() {
                match socket.recv_from(&mut buffer) {
                    Ok((len, from)) => {
                        receiving.count(&receiving.requests, 1);
                        receiving.count(&receiving.bytes_read, len as u64);
                        serve(&socket, &buffer[..len], from);
                    }
                    // Whoever sent before has gone.
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    Err(_) if receiving.is_draining() => return,
                    Err(_) => {}
                }
            }
        });
        Server { address, state, threads: vec![receiver] }
    }

    /// What it has counted so far.
    pub(crate) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let State { accepted, requests, bytes_read, bytes_written, faults, .. } = &*self.state;
        Counts {
            accepted: read(accepted),
            requests: read(requests),
            bytes_read: read(bytes_read),
            bytes_written: read(bytes_written),
            faults: read(faults),
        }
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.state.open().len()
    }

    /// From now on it keeps what each connection sends.
    pub(crate) fn keep_traces(&self) {
        self.state.keeps_traces.store(true, Ordering::Relaxed);
    }

    /// What each connection has sent since, sorted: in which order they were accepted does not matter.
    pub(crate) fn traces(&self) -> Vec<Vec<u8>> {
        let mut traces: Vec<_> = self.state.traces.lock().expect("no panic while held").values().cloned().collect();
        traces.sort();
        traces
    }

    /// Begins a pause of the whole server: nothing is answered for so long, then all that has come.
    pub(crate) fn hold_for(&self, pause: Duration) {
        self.state.hold_for(pause);
    }

    /// Waits until the clients have gone and all they sent is read, and returns what it has counted.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Counts {
        self.state.is_draining.store(true, Ordering::Relaxed);
        wait_until("all clients have gone", || self.threads.iter().all(JoinHandle::is_finished));
        for thread in self.threads.drain(..) {
            thread.join().expect("the server does not panic");
        }
        self.counts()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop();
        for thread in self.threads.drain(..) {
            // A second panic would hide the first.
            let panicked = thread.join().is_err();
            assert!(!panicked || thread::panicking(), "the server panicked");
        }
        assert!(thread::panicking() || self.open() == 0, "INVARIANT nothing-left");
    }
}

/// Until the server stops, or drains and nobody waits; then joins the threads of all connections.
fn accept_all(
    listener: &TcpListener,
    state: &Arc<State>,
    serve: &Arc<impl Fn(Arc<Connection>) + Send + Sync + 'static>,
) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !state.is_stopped() {
        match listener.accept() {
            Ok((stream, _)) => {
                let (connection, serve) = (state.register(stream), Arc::clone(serve));
                // Many may come and go.
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread::spawn(move || serve(connection)));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if state.is_draining() {
                    break;
                }
                let glance = Timespec::try_from(GLANCE).expect("it is short");
                // An interrupted wait is a short one.
                let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&glance));
            }
            // One that has gone before it was accepted, or too few descriptors for now.
            Err(_) => state.pause(GLANCE),
        }
    }
    for thread in threads {
        thread.join().expect("no connection makes the server panic");
    }
}

/// What the threads of a server share.
#[derive(Default)]
struct State {
    accepted: AtomicU64,
    requests: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    faults: AtomicU64,
    /// Nobody new comes: end when all have gone.
    is_draining: AtomicBool,
    is_stopped: AtomicBool,
    /// Until when nothing is answered. Its lock guards `is_stopped` too, for `changed`.
    held_until: Mutex<Option<Instant>>,
    changed: Condvar,
    keeps_traces: AtomicBool,
    /// What each connection has sent, if that is kept.
    traces: Mutex<BTreeMap<u64, Vec<u8>>>,
    /// Every connection that is open. Each belongs to the thread that serves it; here only to be shut down.
    open: Mutex<BTreeMap<u64, Arc<TcpStream>>>,
}

impl State {
    fn new() -> Arc<State> {
        Arc::default()
    }

    /// Adds to a counter; returns what it was before.
    fn count(&self, counter: &AtomicU64, more: u64) -> u64 {
        counter.fetch_add(more, Ordering::Relaxed)
    }

    /// Counts that it did what its fault says.
    fn count_fault(&self) {
        self.count(&self.faults, 1);
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        let held_until = self.held_until.lock().expect("no panic while held");
        // Before the connections are looked through: one that comes later sees it.
        self.is_stopped.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        drop(held_until);
        for stream in self.open().values() {
            // Fails if the client was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn hold_for(&self, pause: Duration) {
        *self.held_until.lock().expect("no panic while held") = Some(Instant::now() + pause);
        self.changed.notify_all();
    }

    /// Waits while nothing is to be answered.
    fn wait_while_held(&self) {
        let mut held_until = self.held_until.lock().expect("no panic while held");
        while let Some(left) = held_until.and_then(|until| until.checked_duration_since(Instant::now())) {
            if self.is_stopped() || left.is_zero() {
                return;
            }
            held_until = self.changed.wait_timeout(held_until, left).expect("no panic while held").0;
        }
    }

    /// Waits for so long, or until the server stops.
    fn pause(&self, pause: Duration) {
        self.pause_until(Instant::now().checked_add(pause));
    }

    /// Waits until then (none: for ever), or until the server stops.
    fn pause_until(&self, until: Option<Instant>) {
        let mut guard = self.held_until.lock().expect("no panic while held");
        while !self.is_stopped() {
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            guard = self.changed.wait_timeout(guard, left).expect("no panic while held").0;
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<TcpStream>>> {
        self.open.lock().expect("no panic while held")
    }

    fn register(self: &Arc<State>, stream: TcpStream) -> Arc<Connection> {
        stream.set_nodelay(true).expect("a TCP socket has the option");
        let stream = Arc::new(stream);
        let number = self.count(&self.accepted, 1);
        self.open().insert(number, Arc::clone(&stream));
        if self.is_stopped.load(Ordering::SeqCst) {
            // Registered too late for `stop` to find it.
            let _ = stream.shutdown(Shutdown::Both);
        }
        Arc::new(Connection { number, stream, writing: Mutex::new(()), state: Arc::clone(self) })
    }
}

/// One accepted connection; closed, with a FIN, when the last one that holds it lets go.
struct Connection {
    /// Counted from 0 as they were accepted.
    number: u64,
    stream: Arc<TcpStream>,
    /// Held while a frame is written: frames of several threads do not mix.
    writing: Mutex<()>,
    state: Arc<State>,
}

impl Connection {
    /// The next bytes; none at the end, however it ended.
    fn read<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let count = match (&*self.stream).read(buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => count,
        };
        self.state.count(&self.state.bytes_read, count as u64);
        if self.state.keeps_traces.load(Ordering::Relaxed) {
            let mut traces = self.state.traces.lock().expect("no panic while held");
            traces.entry(self.number).or_default().extend_from_slice(&buffer[..count]);
        }
        Some(&mut buffer[..count])
    }

    /// Fills the buffer; none if the end comes first.
    fn read_exact(&self, buffer: &mut [u8]) -> Option<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            filled += self.read(&mut buffer[filled..])?.len();
        }
        Some(())
    }

    /// Writes all of it, in one piece among other writers; none if the client has gone.
    fn write(&self, bytes: &[u8]) -> Option<()> {
        let _writing = self.writing.lock().expect("no panic while held");
        (&*self.stream).write_all(bytes).ok()?;
        self.state.count(&self.state.bytes_written, bytes.len() as u64);
        Some(())
    }

    /// Sends the FIN, and drops what still comes: a close with bytes unread would be a reset.
    fn finish(&self) {
        // Fails if the client has gone.
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut buffer = [0; 4096];
        while self.read(&mut buffer).is_some() {}
    }

    /// Ends it in both directions, whoever still holds it.
    fn cut(&self) {
        // Fails if the client has gone.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Makes the close that follows a reset.
    fn reset(&self) {
        sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("a TCP socket has the option");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.state.open().remove(&self.number);
    }
}

/// An address that is taken and where nobody listens: connections are refused as long as this lives.
pub(crate) struct Nobody {
    pub(crate) address: SocketAddr,
    _socket: OwnedFd,
}

impl Nobody {
    /// For TCP: bound and not listening.
    pub(crate) fn tcp() -> Nobody {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        );
        let socket = socket.expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        rustix::net::bind(&socket, &any).expect("a port");
        let address = rustix::net::getsockname(&socket).and_then(SocketAddr::try_from).expect("it is bound");
        Nobody { address, _socket: socket }
    }

    /// For UDP: connected to somebody else, and so deaf to all others.
    pub(crate) fn udp() -> Nobody {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("it is bound");
        socket.connect("127.0.0.1:1").expect("nothing is sent");
        Nobody { address, _socket: socket.into() }
    }
}

/// True for every `every`-th, counted from 1.
fn is_due(number: u64, every: u64) -> bool {
    number.is_multiple_of(every)
}

/// Another byte than this, of any kind but a line feed.
fn spoiled(byte: u8) -> u8 {
    if byte == b'#' { b'%' } else { b'#' }
}

/// A result that does not matter because the client has gone, or the socket with the server.
fn ignore(_: io::Result<usize>) {}
