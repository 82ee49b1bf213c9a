//! Servers of the library on every engine that can carry one, and a handler that tells a test what it hears.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::net::sockopt;

use maitred::config::{AtOnce, EngineInfo, Limits};
use maitred::net::os::raise_descriptor_limit;
use maitred::server::{Builder, ClientId, Clients, Closed, Posted, Receive, Server};

use crate::client::{Client, DEADLINE};
use crate::engines::{Told, engines};
use crate::process::check_all;

/// Runs `test` with a server to be for each engine that can have one and serves so many clients, a few side by side. No
/// timeout but those that the test sets: a machine that is busy with other things must not end a client that waits.
pub(crate) fn for_each_engine(needs: AtOnce, test: impl Fn(&EngineInfo, Builder) + Sync) {
    raise_descriptor_limit();
    let fit = engines().into_iter().filter(|engine| !engine.forks && engine.at_once >= needs);
    check_all(fit, |engine| {
        let _told = Told(format!("on the engine {}", engine.name));
        let server = Server::listen_on("127.0.0.1:0".parse().expect("an address")).engine(engine.name).workers(3);
        let server = server.settings(|settings| {
            settings.limits.idle_timeout = Limits::NEVER;
            settings.limits.write_timeout = Duration::from_secs(3_600);
            settings.limits.drain_timeout = Duration::from_secs(3_600);
        });
        test(engine, server);
    });
}

/// A client for which the kernel keeps little, so that one that does not read is felt before it is sent megabytes, and one
/// that reads is still quick.
pub(crate) fn modest(server: &Server) -> Client {
    let client = Client::connect(server.address());
    sockopt::set_socket_recv_buffer_size(&client.0, 64 << 10).expect("a socket has the option");
    sockopt::set_socket_send_buffer_size(&client.0, 64 << 10).expect("a socket has the option");
    client
}

/// What a handler has heard.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Open(ClientId),
    Data(ClientId, Vec<u8>),
    End(ClientId),
    Closed(ClientId, Closed),
}

/// A handler that tells a test all that it hears, and does what some words ask for.
pub(crate) struct Reporter {
    reports: Sender<Heard>,
    /// Whether it leaves clients half-closed.
    holds_on: bool,
}

/// The other end of its reports.
pub(crate) struct Reports(Receiver<Heard>);

pub(crate) fn reporter() -> (Reporter, Reports) {
    let (reports, heard) = channel();
    (Reporter { reports, holds_on: false }, Reports(heard))
}

impl Reporter {
    /// The same, and clients stay half-closed.
    pub(crate) fn holding_on(self) -> Reporter {
        Reporter { holds_on: true, ..self }
    }

    fn report(&self, heard: Heard) {
        // A test that has failed listens no more.
        let _ = self.reports.send(heard);
    }
}

impl Receive for Reporter {
    fn on_open(&self, _clients: &Clients, id: ClientId) {
        self.report(Heard::Open(id));
    }

    fn on_receive(&self, clients: &Clients, id: ClientId, data: &[u8]) {
        self.report(Heard::Data(id, data.to_vec()));
        match data {
            b"panic" => panic!("told to panic"),
            b"close" => clients.close(id),
            _ => {}
        }
    }

    fn on_end(&self, clients: &Clients, id: ClientId) {
        self.report(Heard::End(id));
        if !self.holds_on {
            clients.close(id);
        }
    }

    fn on_close(&self, clients: &Clients, id: ClientId, closed: Closed) {
        assert_eq!(clients.send(id, *b"too late"), Posted::Gone);
        self.report(Heard::Closed(id, closed));
    }
}

impl Reports {
    #[track_caller]
    pub(crate) fn next(&self) -> Heard {
        self.0.recv_timeout(DEADLINE).expect("the handler hears something")
    }

    #[track_caller]
    pub(crate) fn opened(&self) -> ClientId {
        match self.next() {
            Heard::Open(id) => id,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn closed(&self) -> (ClientId, Closed) {
        match self.next() {
            Heard::Closed(id, closed) => (id, closed),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn expect(&self, heard: Heard) {
        assert_eq!(self.next(), heard);
    }
}

/// A message of a sender, which says how many it has sent before.
pub(crate) fn numbered(sender: usize, number: u64) -> Vec<u8> {
    format!("{sender} {number}\n").into_bytes()
}

/// Reads so many messages of each of these senders, which must be in the order in which each has sent them.
#[track_caller]
pub(crate) fn expect_numbered(client: &mut Client, senders: usize, each: u64) {
    let mut counts = vec![0; senders];
    let mut bytes = Vec::new();
    while counts.iter().any(|count| *count < each) {
        let mut piece = [0; 4096];
        let count = client.0.read(&mut piece).expect("more comes");
        assert!(count > 0, "it ends after {counts:?}");
        bytes.extend_from_slice(&piece[..count]);
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            let line = std::str::from_utf8(&line).expect("text");
            let (sender, number) = line.trim_end().split_once(' ').expect("two numbers");
            let count: &mut u64 = &mut counts[sender.parse::<usize>().expect("a number")];
            assert_eq!(number, count.to_string(), "in order, each once");
            *count += 1;
        }
    }
    assert!(bytes.is_empty() && counts.iter().all(|count| *count == each), "{counts:?}");
}
