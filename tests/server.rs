//! The library's own face over real sockets, on every engine whose sessions share memory: who is called when, what reaches
//! whom in which order. How one ends: `server_end.rs`.
//!
//! `MAITRED_TEST_ENGINE=pool cargo test --test server` is for one engine.

#[path = "support/client.rs"]
mod client;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;
#[path = "support/server.rs"]
mod server;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use maitred::config::AtOnce::{Many, One};
use maitred::config::ENGINE;
use maitred::engine::ENGINES;
use maitred::server::{Builder, ClientId, Clients, Closed, Framing, Message, Pace, Posted, Receive, Server};

use client::{Client, wait_until};
use server::{Heard, expect_numbered, for_each_engine, modest, numbered, reporter};

#[test]
fn a_client_is_heard_of_from_its_coming_to_its_going() {
    for_each_engine(One, |_, server| {
        let (reporter, reports) = reporter();
        let server = server.start(reporter).expect("it starts");
        let clients = server.clients();
        for (way, says) in [
            (Closed::Finished, &b"finish"[..]),
            (Closed::Finished, b"close"),
            (Closed::Reset, b"reset"),
            (Closed::Panicked, b"panic"),
        ] {
            let mut client = Client::connect(server.address());
            let id = reports.opened();
            assert_eq!((clients.ids(), clients.count()), (vec![id], 1));
            assert_eq!(clients.send(id, *b"welcome"), Posted::Taken);
            client.expect(b"welcome");
            client.send(says);
            reports.expect(Heard::Data(id, says.to_vec()));
            match says {
                b"finish" => {
                    client.finish();
                    reports.expect(Heard::End(id));
                    client.expect_end();
                }
                b"close" => {
                    client.expect_end();
                    client.finish();
                }
                b"reset" => client.reset(),
                _ => client.wait_for_end(),
            }
            reports.expect(Heard::Closed(id, way));
            assert_eq!(clients.send(id, *b"hello?"), Posted::Gone, "ids are not used again");
            assert_eq!((clients.ids(), clients.count()), (vec![], 0));
        }
        let summary = server.stop();
        assert_eq!((summary.accepted, summary.open), (4, 0));
    });
}

#[test]
fn any_thread_sends_to_any_of_a_hundred_clients() {
    const SENDERS: usize = 6;
    const EACH: u64 = 50;
    for_each_engine(Many, |_, server| {
        let (reporter, reports) = reporter();
        let server = server.start(reporter).expect("it starts");
        let mut all: Vec<Client> = (0..100).map(|_| Client::connect(server.address())).collect();
        let mut ids: Vec<ClientId> = all.iter().map(|_| reports.opened()).collect();
        // Threads that report at once do not report in the order of their clients.
        ids.sort_unstable();
        thread::scope(|scope| {
            for sender in 0..SENDERS {
                let (clients, ids) = (server.clients(), &ids);
                scope.spawn(move || {
                    for number in 0..EACH {
                        for id in ids {
                            assert_eq!(clients.send(*id, numbered(sender, number)), Posted::Taken);
                        }
                    }
                });
            }
            all.iter_mut().for_each(|client| expect_numbered(client, SENDERS, EACH));
        });
        assert_eq!(server.clients().ids(), ids, "in the order in which they came");
    });
}

#[test]
fn broadcasts_of_one_thread_reach_every_client_in_order() {
    const SENDERS: usize = 2;
    const EACH: u64 = 500;
    for_each_engine(Many, |_, server| {
        let server = server.pace(Pace::Brief).start(|_: &Clients, _: ClientId, _: &[u8]| {}).expect("it starts");
        let mut all: Vec<Client> = (0..30).map(|_| Client::connect(server.address())).collect();
        wait_until("all are there", || server.clients().count() == all.len());
        thread::scope(|scope| {
            for sender in 0..SENDERS {
                let clients = server.clients();
                scope.spawn(move || {
                    for number in 0..EACH {
                        assert_eq!(clients.broadcast(numbered(sender, number)), 30);
                    }
                });
            }
            all.iter_mut().for_each(|client| expect_numbered(client, SENDERS, EACH));
        });
    });
}

#[test]
fn a_handler_may_send_to_all_and_to_itself() {
    const EACH: u64 = 40;
    for_each_engine(Many, |_, server| {
        let repeat = |clients: &Clients, _: ClientId, line: &[u8]| {
            let line = [line, b"\n"].concat();
            assert_eq!(clients.broadcast(line), 12);
        };
        let server = server.framing(Framing::Line { most: 100 }).start(repeat).expect("it starts");
        let mut all: Vec<Client> = (0..12).map(|_| Client::connect(server.address())).collect();
        wait_until("all are there", || server.clients().count() == all.len());
        for number in 0..EACH {
            all.iter_mut().enumerate().for_each(|(sender, client)| client.send(&numbered(sender, number)));
        }
        all.iter_mut().for_each(|client| expect_numbered(client, 12, EACH));
    });
}

#[test]
fn calls_of_one_client_come_one_after_the_other() {
    /// Adds up what each client has sent, and whether two calls of one client ever ran at once.
    #[derive(Default)]
    struct Adder {
        busy: Mutex<HashMap<ClientId, Arc<AtomicBool>>>,
    }
    impl Receive for Adder {
        fn on_receive(&self, clients: &Clients, id: ClientId, data: &[u8]) {
            let busy = Arc::clone(self.busy.lock().expect("no panic while held").entry(id).or_default());
            assert!(!busy.swap(true, Ordering::SeqCst), "one-call-at-a-time");
            thread::yield_now();
            let posted = clients.send(id, data);
            assert_eq!((posted, busy.swap(false, Ordering::SeqCst)), (Posted::Taken, true));
        }
    }
    for_each_engine(Many, |_, server| {
        let server = server.start(Adder::default()).expect("it starts");
        let bytes: Vec<u8> = (0..200_000).map(|place| (place % 251) as u8).collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                let mut client = Client::connect(server.address());
                let (mut writer, bytes) = (client.0.try_clone().expect("a second handle"), &bytes);
                scope.spawn(move || bytes.chunks(997).for_each(|piece| writer.write_all(piece).expect("it reads")));
                scope.spawn(move || client.expect(bytes));
            }
        });
    });
}

#[test]
fn who_does_not_read_is_reported_and_delays_nobody() {
    for_each_engine(Many, |_, server| {
        let (reporter, reports) = reporter();
        let server = server.mailbox_bytes(64 << 10).start(reporter).expect("it starts");
        let clients = server.clients();
        let mut deaf = modest(&server);
        let first = reports.opened();
        let lost = modest(&server);
        let second = reports.opened();
        let mut other = Client::connect(server.address());
        let third = reports.opened();

        let message = Message::from(vec![b'm'; 16 << 10]);
        let mut sent = [0; 2];
        // More than a socket takes, by far.
        for round in 0..1_000 {
            for (id, sent) in [first, second].into_iter().zip(&mut sent) {
                *sent += usize::from(clients.send(id, Arc::clone(&message)) == Posted::Taken);
            }
            assert_eq!(clients.send(third, *b"tick"), Posted::Taken);
            other.expect(b"tick");
            if round > 900 {
                assert_eq!(clients.send(first, Arc::clone(&message)), Posted::Full, "of {sent:?}");
            }
        }
        assert_eq!(clients.broadcast(vec![b'b'; 60 << 10]), 1, "two have no room for it");
        other.expect(&[b'b'; 60 << 10]);

        // One is given up; the other reads on, and has missed nothing that was taken.
        clients.evict(second);
        reports.expect(Heard::Closed(second, Closed::Evicted));
        lost.wait_for_end();
        clients.close(first);
        assert_eq!(clients.send(first, *b"late"), Posted::Gone);
        assert_eq!(clients.ids(), [third]);
        deaf.expect(&message.repeat(sent[0]));
        deaf.expect_end();
        deaf.finish();
        reports.expect(Heard::Closed(first, Closed::Finished));
    });
}

#[test]
fn who_takes_no_replies_is_not_listened_to() {
    const BYTES: usize = 24 << 20;
    for_each_engine(One, |_, server| {
        let heard = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&heard);
        let echo = move |clients: &Clients, id: ClientId, data: &[u8]| {
            assert_eq!(clients.send(id, data), Posted::Taken);
            count.fetch_add(data.len(), Ordering::SeqCst);
        };
        let server = server.mailbox_bytes(256 << 10).start(echo).expect("it starts");
        let mut client = modest(&server);
        let mut writer = client.0.try_clone().expect("a second handle");
        thread::scope(|scope| {
            scope.spawn(move || {
                writer.write_all(&vec![b'x'; BYTES]).expect("it reads in the end");
                writer.shutdown(Shutdown::Write).expect("the connection stands");
            });
            let mut before = usize::MAX;
            wait_until("nothing more is heard", || {
                thread::sleep(Duration::from_millis(100));
                let now = heard.load(Ordering::SeqCst);
                std::mem::replace(&mut before, now) == now
            });
            assert!(before < BYTES, "it was listened to without end");
            let mut replies = Vec::new();
            client.0.read_to_end(&mut replies).expect("it ends in order");
            assert!(replies.len() == BYTES && replies.iter().all(|byte| *byte == b'x'), "{} bytes", replies.len());
        });
    });
}

#[test]
fn a_half_closed_client_is_sent_to_until_somebody_closes_it() {
    for_each_engine(One, |_, server| {
        let (reporter, reports) = reporter();
        let server = server.start(reporter.holding_on()).expect("it starts");
        let clients = server.clients();
        let mut client = Client::connect(server.address());
        let id = reports.opened();
        client.send(b"all");
        client.finish();
        reports.expect(Heard::Data(id, b"all".to_vec()));
        reports.expect(Heard::End(id));
        for number in 0..100 {
            assert_eq!(clients.send(id, numbered(0, number)), Posted::Taken);
        }
        clients.close(id);
        assert_eq!(clients.send(id, *b"late"), Posted::Gone);
        expect_numbered(&mut client, 1, 100);
        client.expect_end();
        reports.expect(Heard::Closed(id, Closed::Finished));
    });
}

#[test]
fn a_panic_ends_its_client_alone() {
    for_each_engine(Many, |_, server| {
        let (reporter, reports) = reporter();
        let server = server.start(reporter).expect("it starts");
        let mut bystander = Client::connect(server.address());
        let other = reports.opened();
        for _ in 0..10 {
            let mut victim = Client::connect(server.address());
            let id = reports.opened();
            victim.send(b"panic");
            victim.wait_for_end();
            reports.expect(Heard::Data(id, b"panic".to_vec()));
            reports.expect(Heard::Closed(id, Closed::Panicked));
            bystander.send(b"well");
            reports.expect(Heard::Data(other, b"well".to_vec()));
        }
        assert_eq!(server.clients().ids(), [other]);
    });
}

#[test]
fn frames_come_whole_however_they_are_cut() {
    for_each_engine(One, |_, server| {
        let (reporter, reports) = reporter();
        let server = server.framing(Framing::Length { least: 0, most: 200_000 }).start(reporter).expect("it starts");
        let mut client = Client::connect(server.address());
        let id = reports.opened();
        // The last but one is longer than a ring, and the last never ends.
        for length in [0_u32, 1, 40_000, 40_000, 200_000] {
            let body: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
            let frame = [&length.to_be_bytes()[..], &body].concat();
            let (begin, end) = frame.split_at(frame.len() / 3);
            client.send(begin);
            client.send(end);
            reports.expect(Heard::Data(id, body));
        }
        client.send(&[0, 0, 0, 9, 1, 2, 3]);
        client.finish();
        reports.expect(Heard::End(id));
        reports.expect(Heard::Closed(id, Closed::Finished));

        let mut client = Client::connect(server.address());
        let id = reports.opened();
        client.send(&200_001_u32.to_be_bytes());
        client.wait_for_end();
        reports.expect(Heard::Closed(id, Closed::Protocol));
    });
}

#[test]
fn clients_come_and_go_beside_broadcasts() {
    /// Counts comings and goings.
    #[derive(Clone, Default)]
    struct Counter(Arc<[AtomicU64; 2]>);
    impl Receive for Counter {
        fn on_open(&self, _clients: &Clients, _id: ClientId) {
            self.0[0].fetch_add(1, Ordering::SeqCst);
        }
        fn on_receive(&self, _clients: &Clients, _id: ClientId, _data: &[u8]) {}
        fn on_close(&self, _clients: &Clients, _id: ClientId, _closed: Closed) {
            self.0[1].fetch_add(1, Ordering::SeqCst);
        }
    }
    const STAYERS: usize = 8;
    for_each_engine(Many, |engine, server| {
        // On the others enough to go wrong, and no more: each costs a thread or a port.
        let (threads, each) = if engine.name == ENGINE { (4, 2_500) } else { (2, 500) };
        let counter = Counter::default();
        let server = server.start(counter.clone()).expect("it starts");
        let mut stayers: Vec<Client> = (0..STAYERS).map(|_| Client::connect(server.address())).collect();
        wait_until("all are there", || server.clients().count() == STAYERS);
        let is_over = AtomicBool::new(false);
        let read_bytes = [const { AtomicUsize::new(0) }; STAYERS];
        thread::scope(|scope| {
            let broadcaster = scope.spawn(|| {
                let (clients, mut sent) = (server.clients(), Vec::new());
                for number in 0.. {
                    let message = numbered(0, number);
                    sent.extend_from_slice(&message);
                    assert!(clients.broadcast(message) >= STAYERS, "all who stay have room");
                    // For those who come and go to have a processor; correct without.
                    thread::sleep(Duration::from_micros(50));
                    wait_until("those who stay have read most of it", || {
                        read_bytes.iter().all(|read| sent.len() - read.load(Ordering::SeqCst) < 64 << 10)
                    });
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                }
                clients.ids().into_iter().for_each(|id| clients.close(id));
                sent
            });
            let read_all = |stayer: &mut Client, read: &AtomicUsize| {
                let mut bytes = Vec::new();
                let mut piece = [0; 4096];
                loop {
                    match stayer.0.read(&mut piece).expect("it ends in order") {
                        0 => return bytes,
                        count => bytes.extend_from_slice(&piece[..count]),
                    }
                    read.store(bytes.len(), Ordering::SeqCst);
                }
            };
            let readers = stayers.iter_mut().zip(&read_bytes);
            let readers: Vec<_> = readers.map(|(stayer, read)| scope.spawn(move || read_all(stayer, read))).collect();
            let come_and_go = || {
                for _ in 0..each {
                    let mut client = Client::connect(server.address());
                    client.0.read_exact(&mut [0; 4]).expect("it hears the next broadcast");
                    client.reset();
                }
            };
            let goers: Vec<_> = (0..threads).map(|_| scope.spawn(come_and_go)).collect();
            goers.into_iter().for_each(|goer| goer.join().expect("each was heard"));
            is_over.store(true, Ordering::SeqCst);
            let sent = broadcaster.join().expect("nobody kept it");
            for reader in readers {
                let got = reader.join().expect("it reads to the end");
                assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
            }
        });
        let came = threads * each + STAYERS as u64;
        let summary = server.stop();
        assert_eq!((summary.accepted, summary.open), (came, 0));
        assert_eq!(counter.0.each_ref().map(|count| count.load(Ordering::SeqCst)), [came, came]);
    });
}

#[test]
fn a_server_that_cannot_be_says_why() {
    let server = || Server::listen_on("127.0.0.1:0".parse().expect("an address"));
    let refused = |server: Builder| {
        let started = server.start(|_: &Clients, _: ClientId, _: &[u8]| {});
        started.expect_err("it cannot be").to_string()
    };
    for engine in ENGINES.iter().filter(|engine| engine.forks) {
        assert_eq!(
            refused(server().engine(engine.name)),
            format!(
                "cannot run a server on the engine {}: its sessions are in other processes, and share no memory with \
                 whoever sends",
                engine.name
            )
        );
    }
    let said = refused(server().engine("carousel"));
    assert!(
        said.starts_with("cannot run a server on the engine carousel: there is none of this name; expected pool or ")
    );
    assert!(!said.contains("prefork"), "{said}");
    assert_eq!(refused(server().workers(0)), "workers: 0 is too small; expected auto or a number from 1 to 1024");
    let lines = server().framing(Framing::Line { most: 2_000 }).settings(|settings| settings.ring_bytes = 1 << 10);
    assert_eq!(refused(lines), "cannot tell frames apart: frames of up to 2000 bytes do not fit in a ring of 1024");
    let taken = server().start(|_: &Clients, _: ClientId, _: &[u8]| {}).expect("it starts");
    let said = refused(Server::listen_on(taken.address()));
    assert!(said.starts_with(&format!("cannot bind tcp://{} for server: ", taken.address())), "{said}");
}

#[test]
fn a_message_that_goes_to_many_is_freed_once_all_have_it() {
    for_each_engine(Many, |_, server| {
        let server = server.start(|_: &Clients, _: ClientId, _: &[u8]| {}).expect("it starts");
        let mut all: Vec<Client> = (0..10).map(|_| Client::connect(server.address())).collect();
        wait_until("all are there", || server.clients().count() == all.len());
        let message = Message::from(vec![b'm'; 100_000]);
        assert_eq!(server.clients().broadcast(Arc::clone(&message)), 10);
        all.iter_mut().for_each(|client| client.expect(&message));
        wait_until("nobody has it", || Arc::strong_count(&message) == 1);
    });
}

#[test]
fn handles_go_anywhere() {
    fn goes_anywhere<T: Send + Sync + 'static>() {}
    goes_anywhere::<Server>();
    goes_anywhere::<Clients>();
    static KEPT: OnceLock<Clients> = OnceLock::new();
    let server = Server::listen_on("127.0.0.1:0".parse().expect("an address"));
    let server = server.start(|_: &Clients, _: ClientId, _: &[u8]| {}).expect("it starts");
    let clients = KEPT.get_or_init(|| server.clients());
    assert_eq!(
        format!("{clients:?} {server:?}"),
        format!("Clients {{ count: 0, .. }} Server {{ address: {}, .. }}", server.address())
    );
    let mut client = Client::connect(server.address());
    wait_until("it is there", || clients.count() == 1);
    drop(server);
    assert_eq!(clients.broadcast(*b"anybody?"), 0);
    let ended = client.0.read(&mut [0]);
    assert!(matches!(&ended, Ok(0)) || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}
