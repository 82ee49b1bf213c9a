//! Daemons to talk to, and clients that never wait without end.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use maitred::cli::{Args, Command};
use maitred::config::Config;
use maitred::daemon::Daemon;
use maitred::engine::ENGINES;
use maitred::metrics::summary::Summary;

/// How long anything may take before it counts as never: far longer than it takes on a machine that has other things to
/// do.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// The configuration of `maitred serve` with these flags.
pub(crate) fn config(flags: &[&str]) -> Config {
    let line = ["maitred", "serve"].iter().chain(flags);
    match Args::try_parse_from(line).expect("clap takes the flags").command {
        Command::Serve(args) => Config::resolve(&args, ENGINES).expect("the flags are right"),
        other => panic!("serve was asked for, not {other:?}"),
    }
}

/// A daemon of these flags that listens where the kernel chose, and where that is.
pub(crate) fn start(config: &Config) -> (Daemon, SocketAddr) {
    let daemon = Daemon::start(config).expect("the daemon starts");
    let address = daemon.listening()[0].address.ip().expect("it is on the network");
    (daemon, address)
}

/// Drains the daemon, waits for it, and checks its books.
pub(crate) fn drain(daemon: &Daemon) -> Summary {
    daemon.drain();
    let summary = daemon.join();
    let closed: u64 = summary.closed.iter().map(|(_, count)| count).sum();
    assert_eq!((summary.open, summary.accepted), (0, closed), "the books balance: {summary:?}");
    assert_eq!(summary.buffer_bytes, Some(0), "all rings are given back");
    summary
}

/// Sessions that ended in this way.
pub(crate) fn closed(summary: &Summary, way: &str) -> u64 {
    summary.closed.iter().find(|(name, _)| *name == way).expect("a way to end").1
}

/// Looks again and again until `holds`, which must be before the deadline.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `len` bytes without a NUL, others for another `seed`.
pub(crate) fn text(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| 1 + ((at * 131 + at / 251 + seed * 31) % 255) as u8).collect()
}

/// A connected client.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Client {
        Client::from_stream(TcpStream::connect(address).expect("the daemon listens"))
    }

    /// With a receive buffer as small as the kernel lets it be, so that a client that does not read is soon felt.
    #[track_caller]
    pub(crate) fn connect_small(address: SocketAddr) -> Client {
        Client::connect_with_room(address, 1)
    }

    /// With a receive buffer of about so many bytes, for many small messages: they need room for what the kernel keeps with
    /// each, or they are dropped and sent again.
    #[track_caller]
    pub(crate) fn connect_with_room(address: SocketAddr, bytes: usize) -> Client {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .expect("a socket");
        sockopt::set_socket_recv_buffer_size(&socket, bytes).expect("a socket has the option");
        rustix::net::connect(&socket, &address).expect("the daemon listens");
        Client::from_stream(socket.into())
    }

    /// One that has sent until nothing more is taken, and has read nothing.
    #[track_caller]
    pub(crate) fn stuffed(address: SocketAddr) -> Client {
        let mut client = Client::connect_small(address);
        client.0.set_nonblocking(true).expect("a socket");
        let chunk = text(16 << 10, 5);
        let mut stalls = 0;
        while stalls < 20 {
            match client.0.write(&chunk) {
                Ok(written) if written > 0 => stalls = 0,
                _ => {
                    stalls += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        client.0.set_nonblocking(false).expect("a socket");
        client
    }

    pub(crate) fn from_stream(stream: TcpStream) -> Client {
        stream.set_nodelay(true).expect("a TCP socket has the option");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket has timeouts");
        stream.set_write_timeout(Some(DEADLINE)).expect("a socket has timeouts");
        Client(stream)
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the daemon reads");
    }

    /// Sends the FIN.
    #[track_caller]
    pub(crate) fn finish(&mut self) {
        self.0.shutdown(Shutdown::Write).expect("the connection stands");
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        self.0.read_exact(&mut got).expect("the daemon answers");
        assert!(got == bytes, "the answer differs in byte {:?}", got.iter().zip(bytes).position(|(a, b)| a != b));
    }

    /// Nothing more comes but the FIN.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("the daemon ends the connection in order");
        assert!(rest.is_empty(), "{} bytes too many", rest.len());
    }

    /// Sends bytes and waits for the same.
    #[track_caller]
    pub(crate) fn echo(&mut self, bytes: &[u8]) {
        self.send(bytes);
        self.expect(bytes);
    }

    /// Breaks the connection with a reset instead of a FIN.
    pub(crate) fn reset(self) {
        sockopt::set_socket_linger(&self.0, Some(Duration::ZERO)).expect("a TCP socket has the option");
    }

    /// Whether the daemon answers these bytes, rather than close or reset the connection.
    pub(crate) fn is_served(&mut self, bytes: &[u8]) -> bool {
        let mut got = vec![0; bytes.len()];
        match self.0.write_all(bytes).and_then(|()| self.0.read_exact(&mut got)) {
            Ok(()) => got == bytes,
            Err(error) => {
                let waited = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                assert!(!waited, "neither an answer nor an end");
                false
            }
        }
    }

    /// Waits for the end of the connection, in order or by a reset, and drops what comes before it.
    #[track_caller]
    pub(crate) fn wait_for_end(mut self) {
        if let Err(error) = io::copy(&mut self.0, &mut io::sink()) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        }
    }
}

impl Read for Client {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}
