//! How a server ends: in order, at once, and from within. What is left of one: `left_behind.rs`.
//!
//! `MAITRED_TEST_ENGINE=pool cargo test --test server_end` is for one engine.

#[path = "support/client.rs"]
mod client;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;
#[path = "support/server.rs"]
mod server;

use std::io;
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use maitred::config::AtOnce::One;
use maitred::server::{ClientId, Clients, Closed, Message, Posted, Receive, Server};

use client::{Client, DEADLINE};
use server::{Heard, for_each_engine, modest, reporter};

#[test]
fn a_stop_delivers_what_was_sent_before() {
    for_each_engine(One, |engine, server| {
        let (reporter, reports) = reporter();
        let server = server.mailbox_bytes(8 << 20).start(reporter).expect("it starts");
        let clients = server.clients();
        let at_once = if engine.at_once == One { 1 } else { 8 };
        let mut all: Vec<Client> = (0..at_once).map(|_| modest(&server)).collect();
        let ids: Vec<ClientId> = all.iter().map(|_| reports.opened()).collect();
        let message = Message::from(vec![b'm'; 64 << 10]);
        for _ in 0..64 {
            ids.iter().for_each(|id| assert_eq!(clients.send(*id, Arc::clone(&message)), Posted::Taken));
        }
        thread::scope(|scope| {
            let stopping = scope.spawn(|| server.stop());
            for client in &mut all {
                client.expect(&message.repeat(64));
                client.expect_end();
            }
            let summary = stopping.join().expect("it stops");
            assert_eq!((summary.accepted, summary.open), (all.len() as u64, 0));
        });
        for _ in &ids {
            let (id, closed) = reports.closed();
            assert!(ids.contains(&id) && closed == Closed::Drained);
        }
        assert_eq!((clients.count(), clients.broadcast(*b"anybody?")), (0, 0));
        assert_eq!(clients.send(ids[0], *b"hello?"), Posted::Gone);
        clients.close(ids[0]);
        TcpStream::connect(all[0].0.peer_addr().expect("it was connected")).expect_err("nobody listens");
    });
}

#[test]
fn a_request_that_the_kernel_holds_is_answered_by_a_stop() {
    for_each_engine(One, |_, server| {
        // The first call waits until the stop is under way, and what follows lies in the kernel meanwhile.
        let (entered, enters) = channel();
        let (release, wait) = channel::<()>();
        let wait = Mutex::new(Some(wait));
        let echo = move |clients: &Clients, id: ClientId, data: &[u8]| {
            if let Some(wait) = wait.lock().expect("no panic while held").take() {
                entered.send(()).expect("the test waits");
                wait.recv_timeout(DEADLINE).expect("the test goes on");
            }
            assert_eq!(clients.send(id, data), Posted::Taken);
        };
        let server = server.start(echo).expect("it starts");
        let mut client = Client::connect(server.address());
        client.send(b"one");
        enters.recv_timeout(DEADLINE).expect("it is heard");
        client.send(b"two");
        thread::scope(|scope| {
            scope.spawn(|| server.stop());
            release.send(()).expect("the call waits");
            client.expect(b"onetwo");
            client.expect_end();
        });
    });
}

#[test]
fn a_stop_is_not_kept_by_somebody_who_goes_on_sending() {
    for_each_engine(One, |_, server| {
        let (reporter, reports) = reporter();
        let server = server.start(reporter).expect("it starts");
        let clients = server.clients();
        let mut client = Client::connect(server.address());
        let id = reports.opened();
        thread::scope(|scope| {
            let senders: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| while clients.send(id, *b"and another thing, ") != Posted::Gone {}))
                .collect();
            scope.spawn(|| io::copy(&mut client.0, &mut io::sink()).expect("it ends in order"));
            // The drain timeout is an hour.
            server.stop();
            senders.into_iter().for_each(|sender| sender.join().expect("it is told"));
        });
        reports.expect(Heard::Closed(id, Closed::Drained));
    });
}

#[test]
fn a_drop_ends_everything_at_once() {
    for_each_engine(One, |_, server| {
        let (reporter, reports) = reporter();
        let server = server.start(reporter).expect("it starts");
        let clients = server.clients();
        let client = modest(&server);
        let id = reports.opened();
        while clients.send(id, vec![b'm'; 64 << 10]) == Posted::Taken {}
        // A drain would wait an hour for this client to read.
        drop(server);
        assert_eq!(reports.closed(), (id, Closed::Killed));
        assert_eq!(clients.count(), 0);
        client.wait_for_end();
    });
}

#[test]
fn a_handler_that_drops_its_own_server_does_not_wait_for_itself() {
    /// Drops or stops its server when a client says so.
    struct Mutineer {
        server: Arc<Mutex<Option<Server>>>,
        closed: Sender<Closed>,
    }
    impl Receive for Mutineer {
        fn on_receive(&self, _clients: &Clients, _id: ClientId, data: &[u8]) {
            let server = self.server.lock().expect("no panic while held").take().expect("it is there once");
            match data {
                b"drop" => drop(server),
                _ => drop(server.stop()),
            }
        }

        fn on_close(&self, _clients: &Clients, _id: ClientId, closed: Closed) {
            self.closed.send(closed).expect("the test waits");
        }
    }
    for (says, way) in [(b"drop", Closed::Killed), (b"stop", Closed::Panicked)] {
        for_each_engine(One, |_, builder| {
            let (closed, ends) = channel();
            let place = Arc::new(Mutex::new(None));
            let server = builder.start(Mutineer { server: Arc::clone(&place), closed }).expect("it starts");
            let address = server.address();
            *place.lock().expect("no panic while held") = Some(server);
            let mut client = Client::connect(address);
            client.send(says);
            client.wait_for_end();
            assert_eq!(ends.recv_timeout(DEADLINE), Ok(way));
            // The handler goes with the last of the threads.
            ends.recv_timeout(DEADLINE).expect_err("nobody else came");
            assert_eq!(Arc::strong_count(&place), 1);
            TcpStream::connect(address).expect_err("nobody listens");
        });
    }
}
