//! SIGHUP and the listeners: opened, closed and changed while the daemon serves, on every engine that can; nobody who is
//! connected, or about to be, notices anything but what was changed. What a reload does with limits is in `signals.rs`.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;

use maitred::config::AtOnce::{self, Many, One};
use maitred::config::{EngineInfo, Scheme};

use client::{Client, text, wait_until};
use daemon::Daemon;
use engines::{LeftOut, check_left_out, for_each_engine};

const ECHO: &str = "service = \"echo\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\n";

const DAYTIME: &str = "service = \"daytime\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\n";

/// An engine whose listeners stay, by which it is left out of the tests that change some.
const INHERITED: &str = "its processes inherit the listeners when they are made: see the test of what waits";

const LEFT_OUT: &[LeftOut] = &[
    LeftOut { test: "listeners_are_opened_changed_and_closed", engine: "prefork", reason: INHERITED },
    LeftOut { test: "an_address_that_is_taken_changes_nothing", engine: "prefork", reason: INHERITED },
    LeftOut { test: "nobody_is_lost_while_listeners_come_and_go", engine: "prefork", reason: INHERITED },
];

#[test]
fn engines_are_left_out_of_tests_that_there_are() {
    check_left_out(LEFT_OUT, include_str!("reload.rs"));
}

/// A daemon that serves by a file.
struct Filed {
    daemon: Daemon,
    path: PathBuf,
    _folder: TempDir,
}

impl Filed {
    /// With these settings and listeners.
    fn start(engine: &EngineInfo, settings: &str, listeners: &[&str]) -> Filed {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("maitred.toml");
        write(&path, settings, listeners);
        let flags = ["--config", path.to_str().expect("the path is text"), "--idle-timeout", "off"];
        Filed { daemon: Daemon::start(engine.name, &flags), path, _folder: folder }
    }

    /// Has it read these; what it says until it has done with them.
    #[track_caller]
    fn reload(&self, settings: &str, listeners: &[&str]) -> String {
        write(&self.path, settings, listeners);
        let before = self.daemon.process.messages().len();
        self.daemon.process.signal(Signal::HUP);
        let said = || self.daemon.process.messages()[before..].to_owned();
        let ends = ["maitred.toml is in force\n", "the old configuration stays in force: "];
        wait_until("the file is read", || ends.iter().any(|end| said().contains(end)));
        wait_until("the line is whole", || said().ends_with('\n'));
        said()
    }
}

fn write(path: &PathBuf, settings: &str, listeners: &[&str]) {
    let tables: String = listeners.iter().map(|listener| format!("[[listen]]\n{listener}\n")).collect();
    fs::write(path, format!("{settings}\n{tables}")).expect("a file");
}

/// The address in the line that says so.
#[track_caller]
fn opened(said: &str) -> SocketAddr {
    let (_, rest) = said.split_once("SIGHUP: listening ").unwrap_or_else(|| panic!("nothing was opened: {said}"));
    let address = rest.lines().next().and_then(|line| line.split("tcp://").nth(1)).expect("a line with an address");
    address.parse().expect("an address")
}

/// Whether a new client there is served as by `terminator=nul`.
fn ends_at_nul(server: SocketAddr) -> bool {
    let mut client = Client::connect(server);
    client.send(b"to the end\0");
    client.finish();
    client.expect(b"to the end\0");
    client.expect_end();
    let mut client = Client::connect(server);
    client.send(b"a\0b");
    client.expect(b"a\0");
    client.finish();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("it ends in order");
    rest.is_empty()
}

fn tells_the_time(server: SocketAddr) -> bool {
    let mut told = Vec::new();
    Client::connect(server).read_to_end(&mut told).is_ok() && told.ends_with(b"-UTC\r\n")
}

fn is_refused(server: SocketAddr) -> bool {
    TcpStream::connect(server).is_err()
}

#[test]
fn listeners_are_opened_changed_and_closed() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let until_nul = format!("{ECHO}terminator = \"nul\"");
        let filed = Filed::start(engine, "", &[ECHO]);
        let first = filed.daemon.address();
        let mut stays = Client::connect(first);
        stays.echo(b"before");
        // One who is served alone would keep the others out.
        let mut stays = (engine.at_once > AtOnce::One).then_some(stays);
        let mut sessions = 1;

        let second = opened(&filed.reload("", &[ECHO, &until_nul]));
        wait_until("it is served there", || {
            sessions += 2;
            ends_at_nul(second)
        });
        let said = filed.reload("", &[&until_nul, &until_nul]);
        assert!(said.contains(&format!("tcp://{first} offers echo?terminator=nul (before: echo)")), "{said}");
        assert!(!said.contains("listening "), "the other one has not changed: {said}");
        wait_until("new clients are served in the new way", || {
            sessions += 2;
            ends_at_nul(first)
        });
        if let Some(stays) = &mut stays {
            stays.echo(b"as\0before");
        }

        let said = filed.reload("", &[&until_nul]);
        // The first that is asked for alike is the one that stays.
        assert!(said.contains(&format!("not listening any more echo tcp://{second}; its sessions live on")), "{said}");
        wait_until("nobody listens there", || is_refused(second));
        let said = filed.reload("", &["service = \"discard\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\n"]);
        assert!(said.contains(&format!("tcp://{first} offers discard (before: echo?terminator=nul)")), "{said}");
        if let Some(stays) = &mut stays {
            stays.echo(b"still\0there");
        }
        let summary = filed.daemon.drain();
        // And those who have looked whether anybody listens.
        assert!(summary.accepted() >= sessions, "{summary:?}");
    });
}

#[test]
fn sessions_of_a_listener_that_is_closed_live_on() {
    for_each_engine(Many, &[], |engine| {
        if engine.relistens.is_err() {
            return;
        }
        let filed = Filed::start(engine, "", &[ECHO, &format!("{ECHO}terminator = \"nul\"")]);
        let [goes, stays] = filed.daemon.process.addresses()[..] else { panic!("two listeners") };
        let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(goes)).collect();
        clients.iter_mut().for_each(|client| client.echo(b"here"));
        filed.reload("", &[&format!("{ECHO}terminator = \"nul\"")]);
        wait_until("nobody listens there", || is_refused(goes));
        clients.iter_mut().for_each(|client| client.echo(&text(30_000, 3)));
        assert!(ends_at_nul(stays));
        assert_eq!(filed.daemon.drain().closed("drained"), 5);
    });
}

#[test]
fn an_address_that_is_taken_changes_nothing() {
    for_each_engine(One, LEFT_OUT, |engine| {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = (taken.local_addr().expect("it is bound"), taken);
        let filed = Filed::start(engine, "workers = 2", &[ECHO]);
        let first = filed.daemon.address();
        let other = format!("{ECHO}terminator = \"nul\"");
        let clash = format!("service = \"echo\"\nscheme = \"tcp\"\naddress = \"{}\"\n", taken.0);
        let said = filed.reload("workers = 3", &[&other, &other, &clash]);
        let reason = format!("the old configuration stays in force: cannot bind tcp://{} for echo: ", taken.0);
        assert!(said.contains(&reason) && !said.contains("listening ") && !said.contains("offers"), "{said}");
        Client::connect(first).echo(b"as\0before");

        let said =
            filed.reload("workers = 3", &[&other, "service = \"ehco\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\n"]);
        assert!(
            said.contains("the old configuration stays in force: ") && said.contains("ehco is not a service"),
            "{said}"
        );
        Client::connect(first).echo(b"as\0before");
        assert!(!filed.daemon.process.messages().contains("workers = "));
        filed.daemon.drain();
    });
}

#[test]
fn a_file_that_was_emptied_changes_nothing() {
    for_each_engine(One, &[], |engine| {
        let filed = Filed::start(engine, "", &[ECHO]);
        let server = filed.daemon.address();
        for emptied in ["", "# nothing at all"] {
            let said = filed.reload(emptied, &[]);
            assert!(said.contains("listen: no listener is named any more; expected at least one"), "{said}");
            assert!(!said.contains("listening ") && !said.contains("wait for a restart"), "{said}");
            Client::connect(server).echo(b"as before");
        }
        filed.reload("", &[ECHO]);
        Client::connect(server).echo(b"still as before");
        filed.daemon.drain();
    });
}

#[test]
fn a_relay_that_would_lead_back_to_itself_changes_nothing() {
    for_each_engine(One, &[], |engine| {
        if engine.relistens.is_err() {
            return;
        }
        let relay = |target: SocketAddr| {
            format!("service = \"relay\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\nto = \"tcp://{target}\"\n")
        };
        let filed = Filed::start(engine, "", &[ECHO]);
        let first = filed.daemon.address();
        let said = filed.reload("", &[&relay(first)]);
        let reason = format!("stays in force: cannot relay on tcp://{first}: its target tcp://{first} is itself");
        assert!(said.contains(&reason) && !said.contains("offers"), "{said}");
        Client::connect(first).echo(b"as before");

        let second = opened(&filed.reload("", &[ECHO, &relay(first)]));
        let said = filed.reload("", &[&relay(second), &relay(first)]);
        let reason =
            format!("stays in force: cannot relay on tcp://{first}: its target tcp://{second} leads back to it");
        assert!(said.contains(&reason) && !said.contains("offers"), "{said}");
        Client::connect(first).echo(b"still as before");
        filed.daemon.drain();
    });
}

#[test]
fn nobody_is_lost_while_listeners_come_and_go() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        let filed = Filed::start(engine, "", &[ECHO]);
        let server = filed.daemon.address();
        let (is_over, served) = (AtomicBool::new(false), AtomicU64::new(0));
        let changed = format!("{ECHO}terminator = \"nul\"");
        thread::scope(|scope| {
            for seed in 0..3 {
                let (is_over, served) = (&is_over, &served);
                scope.spawn(move || {
                    let mut stays = Client::connect(server);
                    while !is_over.load(Ordering::Relaxed) {
                        stays.echo(&text(2_000, seed));
                        let mut comes = Client::connect(server);
                        comes.echo(&text(500, seed));
                        comes.finish();
                        comes.expect_end();
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for round in 0..6 {
                let before = served.load(Ordering::Relaxed);
                let first: &str = if round % 2 == 0 { &changed } else { ECHO };
                let said = filed.reload("", &[first, DAYTIME]);
                assert!(said.contains(&format!("tcp://{server} offers ")), "{said}");
                let more = opened(&said);
                wait_until("the new one is served", || tells_the_time(more));
                filed.reload("", &[first]);
                wait_until("it is gone", || is_refused(more));
                wait_until("others are served", || served.load(Ordering::Relaxed) > before + 10);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        filed.daemon.drain();
    });
}

#[test]
fn a_listener_may_come_whose_sessions_need_what_none_before_did() {
    for_each_engine(Many, &[], |engine| {
        if engine.relistens.is_err() || (engine.carries)("chat", Scheme::Tcp).is_err() || engine.forks {
            return;
        }
        let filed = Filed::start(engine, "workers = 2", &[ECHO]);
        let mut old = Client::connect(filed.daemon.address());
        old.echo(b"before");
        let chat = "service = \"chat\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\nframing = \"line\"\n";
        let room = opened(&filed.reload("workers = 2", &[ECHO, chat]));
        let mut talkers: Vec<Client> = (0..4).map(|_| Client::connect(room)).collect();
        // All of them are in when each has been heard by all.
        wait_until("all are in the room", || filed.daemon.summary_now()[1] == 5);
        for round in 0..50 {
            let line = format!("line {round}\n");
            talkers[round % 4].send(line.as_bytes());
            for (number, talker) in talkers.iter_mut().enumerate() {
                if number != round % 4 {
                    talker.expect(line.as_bytes());
                }
            }
            old.echo(b"as before");
        }
        let work = "service = \"work\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\n";
        filed.reload("workers = 2", &[ECHO, chat, work]);
        old.echo(&text(100_000, 1));
        assert_eq!(filed.daemon.drain().closed("drained"), 5);
    });
}

#[test]
fn what_clients_share_is_kept_when_their_listener_changes() {
    for_each_engine(Many, &[], |engine| {
        if engine.forks || engine.relistens.is_err() {
            return;
        }
        let [folder, other] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
        let files = |folder: &TempDir, sweep| {
            let root = folder.path().display();
            format!(
                "service = \"files\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\nroot = \"{root}\"\nsweep = \"{sweep}\""
            )
        };
        let chat = "service = \"chat\"\nscheme = \"tcp\"\naddress = \"127.0.0.1:0\"\nframing = \"line\"\n";
        let filed = Filed::start(engine, "", &[&files(&folder, "24h"), chat]);
        let [list, room] = filed.daemon.process.addresses()[..] else { panic!("two listeners") };
        let ask = |client: &mut Client, line: &str, answer: &str| {
            client.send(line.as_bytes());
            client.expect(answer.as_bytes());
        };
        let mut old = Client::connect(list);
        ask(&mut old, "ADD a\n", "OK 1\n");
        let mut talker = Client::connect(room);
        wait_until("it is in the room", || filed.daemon.summary_now()[1] == 2);

        let evicts_none = format!("{chat}slow = \"drop\"");
        let said = filed.reload("", &[&files(&folder, "10ms"), &evicts_none]);
        assert!(said.contains("sweep=10ms (before: ") && said.contains("slow=drop (before: "), "{said}");
        let mut new = Client::connect(list);
        ask(&mut new, "ADD b\nLIST\n", "OK 2\nOK\na\nb\n\n");
        ask(&mut old, "LIST\n", "OK\na\nb\n\n");
        wait_until("it is swept in the new rhythm", || {
            old.send(b"CHANGED\n");
            let mut told = Vec::new();
            while !told.ends_with(b"\n\n") {
                let mut byte = [0];
                old.read_exact(&mut byte).expect("the daemon answers");
                told.extend(byte);
            }
            told != b"OK 0\n\n"
        });
        let mut listener = Client::connect(room);
        wait_until("it is in the room, too", || filed.daemon.summary_now()[1] == 4);
        ask(&mut listener, "hello\n", "");
        talker.expect(b"hello\n");
        talker.send(b"welcome\n");
        listener.expect(b"welcome\n");

        filed.reload("", &[&files(&other, "10ms"), &evicts_none]);
        wait_until("another folder has a list of its own", || {
            let mut client = Client::connect(list);
            client.send(b"LIST\nQUIT\n");
            let mut told = Vec::new();
            client.read_to_end(&mut told).expect("it ends in order");
            told == b"OK\n\n"
        });
        ask(&mut new, "DEL a\n", "OK 1\n");
        filed.daemon.drain();
    });
}

#[test]
fn what_waits_for_a_restart_is_named_with_its_reason() {
    for_each_engine(One, &[], |engine| {
        let filed = Filed::start(engine, "", &[ECHO]);
        let udp = "service = \"echo\"\nscheme = \"udp\"\naddress = \"127.0.0.1:0\"\n";
        let until_nul = format!("{ECHO}terminator = \"nul\"");
        if let Err(reason) = engine.relistens {
            let said = filed.reload("", &[&until_nul]);
            let expected = format!("wait for a restart: listen tcp://{} ({reason})", filed.daemon.address());
            assert!(said.contains(&expected) && !said.contains("offers"), "{said}");
        }
        if (engine.carries)("echo", Scheme::Udp).is_ok() {
            let said = filed.reload("", &[ECHO, udp]);
            assert!(said.contains("wait for a restart: listen udp://127.0.0.1:0 (a listener of datagrams "), "{said}");
        }
        let mut plain = Client::connect(filed.daemon.address());
        plain.echo(b"still\0plain");
        drop(plain);
        filed.daemon.drain();
    });
}

#[test]
fn workers_and_listeners_change_together() {
    for_each_engine(Many, &[], |engine| {
        if engine.resizes.is_err() {
            return;
        }
        let udp = "service = \"echo\"\nscheme = \"udp\"\naddress = \"127.0.0.1:0\"\n";
        let until_nul = format!("{ECHO}terminator = \"nul\"");
        let filed = Filed::start(engine, "workers = 3", &[ECHO, udp]);
        let [first, datagrams] = filed.daemon.process.addresses_of("echo")[..] else { panic!("two listeners") };
        let mut stays: Vec<Client> = (0..9).map(|_| Client::connect(first)).collect();
        stays.iter_mut().for_each(|client| client.echo(b"before"));
        for round in 0..4 {
            let second = opened(&filed.reload("workers = 1", &[ECHO, udp, DAYTIME]));
            wait_until("it is served there", || (0..6).all(|_| tells_the_time(second)));
            let said = filed.reload("workers = 6", &[&until_nul, udp]);
            assert!(said.contains(&format!("tcp://{first} offers echo?terminator=nul")), "{said}");
            wait_until("new clients are served in the new way", || (0..6).all(|_| ends_at_nul(first)));
            wait_until("nobody listens there", || is_refused(second));
            // Whichever of several sockets the kernel chooses for it.
            for sender in 0..12 {
                let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
                client.set_read_timeout(Some(client::DEADLINE)).expect("it has timeouts");
                client.send_to(&text(100, sender), datagrams).expect("it is sent");
                let mut answer = [0; 200];
                let len = client.recv(&mut answer).expect("it is answered");
                assert!(answer[..len] == text(100, sender));
            }
            stays.iter_mut().for_each(|client| client.echo(&text(3_000, round)));
            filed.reload("workers = 2", &[ECHO, udp]);
            wait_until("new clients are served in the old way", || !ends_at_nul(first));
        }
        filed.daemon.process.wait_for_message("workers = 1 is in force (before: 3)");
        assert_eq!(filed.daemon.drain().closed("drained"), 9);
    });
}
