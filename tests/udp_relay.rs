//! `relay` by datagrams, on every engine that carries them: whose answers are whose, who has a place, who is forgotten, and
//! what becomes of a target that is not there. Conversations through it are in `udp_contract.rs`.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/datagrams.rs"]
mod datagrams;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;
#[path = "support/targets.rs"]
mod targets;

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};

use maitred::config::AtOnce::One;
use maitred::config::{EngineInfo, Scheme};
use rustix::process::Signal;

use client::{DEADLINE, text, wait_until};
use daemon::{Daemon, Summary};
use datagrams::Asker;
use engines::for_each_engine;

/// Runs `test` on every engine that relays datagrams.
fn for_each(test: fn(&'static EngineInfo)) {
    for_each_engine(One, &[], |engine| {
        if (engine.carries)("relay", Scheme::Udp).is_ok() {
            test(engine);
        }
    });
}

fn relay(engine: &EngineInfo, query: &str) -> Daemon {
    relay_by("2", engine, query)
}

fn relay_by(workers: &str, engine: &EngineInfo, query: &str) -> Daemon {
    Daemon::echo(engine.name, &["--workers", workers, "--listen", &format!("relay=udp://127.0.0.1:0?{query}")])
}

/// A target that the test itself answers for.
fn target() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(DEADLINE)).expect("a socket has timeouts");
    socket
}

fn to(target: &UdpSocket) -> String {
    format!("to=udp://{}", target.local_addr().expect("it is bound"))
}

/// What has come to a target, and by which of the relay's sockets.
fn heard(target: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = [0; 2_000];
    let (len, from) = target.recv_from(&mut bytes).expect("it is forwarded");
    (bytes[..len].to_vec(), from)
}

fn say(from: &UdpSocket, bytes: &[u8], to: impl ToSocketAddrs) {
    assert_eq!(from.send_to(bytes, to).expect("it is sent"), bytes.len());
}

/// A port at which nobody listens. It is free again, and nobody else is given it while it is held as a client's.
fn nobody() -> (UdpSocket, SocketAddr) {
    let (elsewhere, held) = (target(), target());
    // It hears one address only, so that the kernel refuses what others send there.
    held.connect(elsewhere.local_addr().expect("it is bound")).expect("it is an address");
    let address = held.local_addr().expect("it is bound");
    (held, address)
}

fn descriptors(daemon: &Daemon) -> usize {
    let path = format!("/proc/{}/fd", daemon.process.pid().as_raw_nonzero());
    fs::read_dir(path).expect("the process runs").count()
}

fn count(summary: &Summary, name: &str) -> u64 {
    summary.count(&format!("datagrams.{name}"))
}

#[test]
fn many_clients_have_their_own_answers_and_are_forgotten_after_a_silence() {
    const CLIENTS: usize = 100;
    for_each(|engine| {
        let daemon = relay(engine, &format!("to=udp://{}&idle=1500ms&clients=200", targets::echo_datagrams()));
        let before = descriptors(&daemon);
        let askers: Vec<Asker> = (0..CLIENTS).map(|_| Asker::of(daemon.address())).collect();
        let bytes = |asker: usize, round: usize| text([64, 64, 10, 500][round % 4], asker * 31 + round);
        // In the order in which they were sent.
        for (number, asker) in askers.iter().enumerate() {
            (0..8).for_each(|round| asker.send(&bytes(number, round)));
            (0..8).for_each(|round| assert!(asker.hear() == bytes(number, round), "{number} {round}"));
        }
        // All at once.
        askers.iter().enumerate().for_each(|(number, asker)| asker.send(&bytes(number, 8)));
        askers.iter().enumerate().for_each(|(number, asker)| assert!(asker.hear() == bytes(number, 8), "{number}"));
        wait_until("every socket is closed", || descriptors(&daemon) == before);
        // Whoever comes back is a new client.
        askers[0].echo(b"again");
        let summary = daemon.drain();
        let said = CLIENTS as u64 * 9 + 1;
        let counts = ["received", "forwarded", "returned", "sent"].map(|name| count(&summary, name));
        assert_eq!(counts, [said; 4], "{summary:?}");
        // A pause of the machine may have made a client two.
        assert!(count(&summary, "clients_expired") >= CLIENTS as u64, "{summary:?}");
    });
}

#[test]
fn who_has_no_place_is_refused_until_another_one_has_been_silent() {
    for_each(|engine| {
        // Loops share the places out.
        let daemon = relay_by("1", engine, &format!("to=udp://{}&clients=3", targets::echo_datagrams()));
        let askers: Vec<Asker> = (0..3).map(|_| Asker::of(daemon.address())).collect();
        let late = Asker::of(daemon.address());
        for round in 0..20 {
            askers.iter().for_each(|asker| asker.echo_at_last(&text(100, round)));
            late.send(b"is there room?");
        }
        // They are silent from now on.
        late.echo_at_last(b"is there room now?");
        let summary = daemon.drain();
        assert!(summary.count("datagrams.refused.table_full") > 0, "{summary:?}");
        assert!(count(&summary, "clients_replaced") > 0, "{summary:?}");
        assert_eq!(count(&summary, "clients"), 3 + count(&summary, "clients_replaced"), "{summary:?}");
    });
}

#[test]
fn a_target_that_is_not_there_is_named_and_another_one_asked() {
    for_each(|engine| {
        let (_held, nobody) = nobody();
        let daemon = relay(engine, &format!("to=udp://{nobody}&to=udp://{}", targets::echo_datagrams()));
        // Whichever is first: the choice begins with the client's port.
        wait_until("it was tried", || {
            Asker::of(daemon.address()).echo_at_last(b"is anybody there?");
            daemon.process.messages().contains(&format!("udp://{nobody} took no datagrams"))
        });
        let asker = Asker::of(daemon.address());
        asker.echo(b"others go first");
        let summary = daemon.drain();
        assert!(count(&summary, "clients_unreachable") > 0, "{summary:?}");
    });
}

#[test]
fn only_the_target_is_heard_and_only_by_the_client_it_answers() {
    for_each(|engine| {
        let target = target();
        let daemon = relay(engine, &to(&target));
        let askers: Vec<Asker> = (0..2).map(|_| Asker::of(daemon.address())).collect();
        let far: Vec<SocketAddr> = askers
            .iter()
            .map(|asker| {
                asker.send(b"who am I?");
                heard(&target).1
            })
            .collect();
        assert_ne!(far[0], far[1], "each has a socket");
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("a port");
        far.iter().for_each(|far| say(&stranger, b"a stranger", far));
        for (number, far) in far.iter().enumerate().rev() {
            say(&target, &text(10, number), far);
        }
        askers.iter().enumerate().for_each(|(number, asker)| assert!(asker.hear() == text(10, number)));
        assert_eq!(count(&daemon.drain(), "returned"), 2);
    });
}

#[test]
fn clients_are_spread_by_how_many_there_are() {
    for_each(|engine| {
        let targets = [target(), target()];
        let daemon = relay(engine, &format!("{}&{}", to(&targets[0]), to(&targets[1])));
        let askers: Vec<Asker> = (0..10).map(|_| Asker::of(daemon.address())).collect();
        askers.iter().for_each(|asker| asker.send(b"here"));
        for target in &targets {
            (0..5).for_each(|_| assert_eq!(heard(target).0, b"here"));
        }
        assert_eq!(count(&daemon.drain(), "clients"), 10);
    });
}

#[test]
fn a_drain_delivers_the_answers_that_have_come() {
    const HELD: usize = 60;
    for_each(|engine| {
        let target = target();
        let daemon = relay(engine, &to(&target));
        let asker = Asker::of(daemon.address());
        asker.send(b"tell me all");
        let (_, far) = heard(&target);
        daemon.process.signal(Signal::STOP);
        (0..HELD).for_each(|number| say(&target, &text(100, number), far));
        asker.send(b"and that is all");
        daemon.process.signal(Signal::TERM);
        daemon.process.signal(Signal::CONT);
        (0..HELD).for_each(|number| assert!(asker.hear() == text(100, number), "{number} of {HELD}"));
        assert_eq!(heard(&target).0, b"and that is all", "what the kernel held is forwarded");
        let summary = daemon.finish();
        assert_eq!([count(&summary, "forwarded"), count(&summary, "sent")], [2, HELD as u64]);
    });
}

#[test]
fn what_comes_from_a_port_of_our_own_is_not_forwarded() {
    for_each(|engine| {
        let daemon = relay(engine, &format!("to=udp://{}", targets::echo_datagrams()));
        let server = daemon.address();
        for port in [server.port(), 7007] {
            // An address that no other test uses.
            let [high, low] = server.port().to_be_bytes();
            Asker::from(SocketAddr::from(([127, 8, high, low], port)), server).send(b"and you?");
        }
        Asker::of(server).echo(b"a client");
        let summary = daemon.drain();
        assert_eq!([summary.count("datagrams.refused.source_port"), count(&summary, "forwarded")], [2, 1]);
    });
}

#[test]
fn a_relay_that_makes_no_sense_is_refused_with_the_reason() {
    let free = target().local_addr().expect("it is bound");
    for (listener, reason) in [
        (format!("relay=udp://{free}?to=udp://{free}"), "is itself"),
        (format!("relay=udp://0.0.0.0:{}?to=udp://{free}", free.port()), "is itself"),
        (format!("relay=udp://[::]:{}?to=udp://127.0.0.1:9&to=udp://{free}", free.port()), "is itself"),
        (format!("relay=tcp://{free}?to=udp://127.0.0.1:9"), "is not reached by tcp"),
        (format!("relay=udp://{free}?to=tcp://127.0.0.1:9"), "is not reached by udp"),
        (format!("relay=udp://{free}?to=udp://127.0.0.1:9&proxy=v2"), "proxy"),
        (format!("relay=udp://{free}"), "is without to"),
    ] {
        let output = process::command(&["--listen", &listener]).output().expect("the program starts");
        let message = String::from_utf8(output.stderr).expect("only text is printed");
        assert!(!output.status.success() && message.contains(reason), "{listener}: {message}");
    }
}
