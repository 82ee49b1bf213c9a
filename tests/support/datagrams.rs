//! A client by datagrams that never waits without end.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::{SocketAddr, UdpSocket};

use crate::client::DEADLINE;

/// Longer than any datagram.
const ROOM: usize = 1 << 16;

/// A client of one endpoint: it hears nobody else.
pub(crate) struct Asker(pub(crate) UdpSocket);

impl Asker {
    #[track_caller]
    pub(crate) fn of(server: SocketAddr) -> Asker {
        Asker::from(SocketAddr::from((server.ip(), 0)), server)
    }

    /// One whose datagrams are from this address.
    #[track_caller]
    pub(crate) fn from(own: SocketAddr, server: SocketAddr) -> Asker {
        Asker::with(UdpSocket::bind(own).expect("the address is free"), server)
    }

    #[track_caller]
    pub(crate) fn with(socket: UdpSocket, server: SocketAddr) -> Asker {
        socket.connect(server).expect("it is an address");
        socket.set_read_timeout(Some(DEADLINE)).expect("a socket has timeouts");
        Asker(socket)
    }

    #[track_caller]
    pub(crate) fn send(&self, request: &[u8]) {
        assert_eq!(self.0.send(request).expect("the endpoint is there"), request.len());
    }

    /// The next answer.
    #[track_caller]
    pub(crate) fn hear(&self) -> Vec<u8> {
        let mut answer = vec![0; ROOM];
        let len = self.0.recv(&mut answer).expect("it is answered");
        answer.truncate(len);
        answer
    }

    #[track_caller]
    pub(crate) fn ask(&self, request: &[u8]) -> Vec<u8> {
        self.send(request);
        self.hear()
    }

    #[track_caller]
    pub(crate) fn echo(&self, bytes: &[u8]) {
        let answer = self.ask(bytes);
        assert!(answer == bytes, "{} bytes for {}, or others", answer.len(), bytes.len());
    }

    /// Sends again until there is an answer: for an endpoint whose kernel may drop something.
    #[track_caller]
    pub(crate) fn echo_at_last(&self, bytes: &[u8]) {
        let begun = std::time::Instant::now();
        self.0.set_read_timeout(Some(std::time::Duration::from_millis(20))).expect("a socket has timeouts");
        let mut answer = vec![0; ROOM];
        loop {
            self.send(bytes);
            if self.0.recv(&mut answer).is_ok_and(|len| &answer[..len] == bytes) {
                break;
            }
            assert!(begun.elapsed() < DEADLINE, "it is never answered");
        }
        self.0.set_read_timeout(Some(DEADLINE)).expect("a socket has timeouts");
    }
}
