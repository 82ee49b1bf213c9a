//! What goes wrong around datagrams, over real sockets: floods, senders that have gone or were forged, addresses that
//! strangers reach, drains. On every engine that carries them, unless the guard alone decides.

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

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use maitred::config::AtOnce::{self, Many, One};
use maitred::config::{EngineInfo, Scheme};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::Signal;

use client::{Client, text, wait_until};
use daemon::{Daemon, Summary};
use datagrams::Asker;
use engines::for_each_engine;

const ECHO: &str = "echo=udp://127.0.0.1:0";

/// Runs `test` on every engine that carries datagrams.
fn for_each(needs: AtOnce, test: fn(&'static EngineInfo)) {
    for_each_engine(needs, &[], |engine| {
        if (engine.carries)("echo", Scheme::Udp).is_ok() {
            test(engine);
        }
    });
}

fn refused(summary: &Summary, reason: &str) -> u64 {
    summary.count(&format!("datagrams.refused.{reason}"))
}

fn count(summary: &Summary, name: &str) -> u64 {
    summary.count(&format!("datagrams.{name}"))
}

/// Sends as fast as it can, and reads nothing, while `meanwhile` runs, which begins when the flood is there.
fn flood(server: SocketAddr, meanwhile: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    let (told, is_there) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let asker = Asker::of(server);
            let bytes = text(64, 9);
            (0..1_000).for_each(|_| asker.send(&bytes));
            told.send(()).expect("somebody waits for it");
            while !is_over.load(Ordering::Relaxed) {
                // Refused once the daemon has gone.
                let _ = asker.0.send(&bytes);
            }
        });
        // Also when it panics.
        let _over = Over(&is_over);
        is_there.recv().expect("it begins");
        meanwhile();
    });
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_of_datagrams_and_sessions_are_both_served() {
    for_each(Many, |engine| {
        let listen = ["--listen", ECHO, "--listen", "echo=tcp://127.0.0.1:0", "--workers", "2"];
        let daemon = Daemon::echo(engine.name, &listen);
        let [by_datagram, by_stream] = daemon.process.addresses()[..] else { panic!("two ready lines") };
        flood(by_datagram, || {
            let mut client = Client::connect(by_stream);
            (0..200).for_each(|round| client.echo(&text(500, round)));
            client.finish();
            client.expect_end();
            let asker = Asker::of(by_datagram);
            (0..5).for_each(|round| asker.echo_at_last(&text(100, round)));
        });
        let summary = daemon.drain();
        assert!(count(&summary, "received") > 200, "it was a flood: {summary:?}");
        assert_eq!(summary.accepted(), 1);
    });
}

#[test]
fn a_drain_answers_what_the_kernel_holds_and_then_closes() {
    for_each(One, |engine| {
        const HELD: usize = 60;
        let daemon = Daemon::echo(engine.name, &["--listen", ECHO]);
        let asker = Asker::of(daemon.address());
        asker.echo(b"it is there");
        daemon.process.signal(Signal::STOP);
        (0..HELD).for_each(|number| asker.send(&text(100, number)));
        daemon.process.signal(Signal::TERM);
        daemon.process.signal(Signal::CONT);
        (0..HELD).for_each(|number| assert!(asker.hear() == text(100, number), "{number} of {HELD}"));
        let summary = daemon.finish();
        assert_eq!(count(&summary, "sent"), HELD as u64 + 1);
        let is_refused = asker.0.send(b"again").and_then(|_| asker.0.recv(&mut [0; 8]));
        assert_eq!(is_refused.expect_err("nobody is there").kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_drain_ends_while_others_go_on_sending() {
    for_each(One, |engine| {
        let daemon = Daemon::echo(engine.name, &["--listen", ECHO]);
        let server = daemon.address();
        flood(server, || {
            Asker::of(server).echo_at_last(b"it is there");
            daemon.drain();
        });
    });
}

#[test]
fn clients_that_have_gone_cost_the_others_nothing() {
    for_each(One, |engine| {
        let daemon = Daemon::echo(engine.name, &["--listen", ECHO]);
        let asker = Asker::of(daemon.address());
        for round in 0..50 {
            // Its answer comes to a closed port, and what ICMP says of that to the endpoint.
            Asker::of(daemon.address()).send(b"farewell");
            asker.echo(&text(200, round));
        }
        let summary = daemon.drain();
        assert_eq!([count(&summary, "answered"), count(&summary, "unsendable")], [100, 0]);
    });
}

#[test]
fn a_datagram_that_is_too_long_costs_those_around_it_nothing() {
    for_each(One, |engine| {
        let daemon = Daemon::echo(engine.name, &["--listen", "echo=udp://[::1]:0"]);
        let asker = Asker::of(daemon.address());
        daemon.process.signal(Signal::STOP);
        asker.send(b"before");
        // Longer than an IPv4 datagram can be, and so than anybody answers.
        asker.send(&text(65_508, 0));
        asker.send(b"after");
        daemon.process.signal(Signal::CONT);
        assert_eq!([asker.hear(), asker.hear()], [b"before".to_vec(), b"after".to_vec()]);
        let summary = daemon.drain();
        assert_eq!([count(&summary, "received"), count(&summary, "oversized")], [2, 1]);
    });
}

#[test]
fn a_port_of_our_own_is_never_answered() {
    for_each(One, |engine| {
        let daemon = Daemon::echo(engine.name, &["--listen", ECHO, "--listen", "chargen=udp://127.0.0.1:0"]);
        let [server, other] = daemon.process.addresses()[..] else { panic!("two ready lines") };
        // The last is of a daemon like this one that has not been told where to listen.
        for port in [server.port(), other.port(), 7019] {
            // An address that no other test uses.
            let [high, low] = server.port().to_be_bytes();
            Asker::from(SocketAddr::from(([127, 7, high, low], port)), server).send(b"and you?");
        }
        Asker::of(server).echo(b"a client");
        let summary = daemon.drain();
        assert_eq!([refused(&summary, "source_port"), count(&summary, "answered")], [3, 1]);
    });
}

/// Sends a datagram to `server` that is from an endpoint of another daemon, which shares its port with itself.
fn forge(from: SocketAddr, server: SocketAddr) {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).expect("a socket");
    sockopt::set_socket_reuseport(&socket, true).expect("a socket has the option");
    rustix::net::bind(&socket, &from).expect("whoever is the same user may share the port");
    UdpSocket::from(socket).send_to(b"loop", server).expect("it is sent");
}

#[test]
fn two_daemons_on_one_port_number_do_not_answer_each_other() {
    let one = Daemon::echo("pool", &["--listen", ECHO]);
    let at = SocketAddr::from(([127, 0, 0, 2], one.address().port()));
    let other = Daemon::echo("event-loops", &["--workers", "2", "--listen", &format!("echo=udp://{at}")]);
    forge(other.address(), one.address());
    Asker::of(one.address()).echo(b"that was before");
    let (one, other) = (one.drain(), other.drain());
    assert_eq!([refused(&one, "source_port"), count(&one, "answered"), count(&other, "received")], [1, 1, 0]);
}

#[test]
fn two_daemons_on_any_ports_answer_each_other_no_more_than_their_rates() {
    let rates = ["--udp-limit-local", "on", "--udp-source-rate", "3"];
    let one = Daemon::echo("pool", &[&["--listen", ECHO][..], &rates].concat());
    let listen = ["--workers", "2", "--listen", "echo=udp://127.0.0.2:0"];
    let other = Daemon::echo("event-loops", &[&listen[..], &rates].concat());
    // The socket that forges has gone before there is an answer, which it might get otherwise.
    one.process.signal(Signal::STOP);
    forge(other.address(), one.address());
    one.process.signal(Signal::CONT);
    wait_until("one of them has enough", || {
        [&one, &other].iter().any(|daemon| {
            daemon.process.signal(Signal::USR1);
            daemon.process.messages().contains("source_rate 1")
        })
    });
    let [one, other] = [one, other].map(Daemon::drain);
    assert_eq!(refused(&one, "source_rate") + refused(&other, "source_rate"), 1, "one datagram went to and fro");
    assert!(count(&one, "answered") >= 3, "it went as often as the rates grant: {one:?}");
}

#[test]
fn an_address_that_strangers_reach_answers_nobody_unless_it_is_to() {
    let listen = ["--listen", "echo=udp://0.0.0.0:0"];
    for (flags, is_answered) in [(&[][..], false), (&["--udp-public", "on"][..], true)] {
        let daemon = Daemon::echo("pool", &[&listen[..], flags].concat());
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, daemon.address().port()));
        let asker = Asker::of(server);
        if is_answered {
            (0..3).for_each(|_| asker.echo(b"hello"));
        } else {
            (0..3).for_each(|_| asker.send(b"hello"));
            daemon.process.wait_for_message("answers nobody");
        }
        let messages = daemon.process.messages();
        assert_eq!(messages.matches("answers nobody").count(), usize::from(!is_answered), "{messages}");
        let summary = daemon.drain();
        let expected = if is_answered { [0, 3] } else { [3, 0] };
        assert_eq!([refused(&summary, "not_public"), count(&summary, "sent")], expected);
    }
}

#[test]
fn rates_are_for_all_sockets_of_a_port_together() {
    for_each(Many, |engine| {
        let rates = ["--udp-limit-local", "on", "--udp-source-rate", "5", "--udp-total-rate", "off"];
        let daemon = Daemon::echo(engine.name, &[&["--workers", "4", "--listen", ECHO][..], &rates].concat());
        // One sender by its address, and with so many ports that every socket hears of it.
        let askers: Vec<Asker> = (0..64).map(|_| Asker::of(daemon.address())).collect();
        let begun = std::time::Instant::now();
        askers.iter().for_each(|asker| asker.send(b"x"));
        let summary = daemon.drain();
        let granted = 5 + (5.0 * begun.elapsed().as_secs_f64()) as u64;
        let (answered, over) = (count(&summary, "answered"), refused(&summary, "source_rate"));
        assert_eq!(answered + over, 64);
        assert!((5..=granted).contains(&answered), "{answered} answers");
    });
}

#[test]
fn what_the_kernel_drops_is_told() {
    for_each(One, |engine| {
        let daemon = Daemon::echo(engine.name, &["--listen", ECHO, "--udp-buffer", "8KiB"]);
        let asker = Asker::of(daemon.address());
        daemon.process.signal(Signal::STOP);
        (0..100).for_each(|number| asker.send(&text(1_000, number)));
        daemon.process.signal(Signal::CONT);
        let summary = daemon.drain();
        let (received, dropped) = (count(&summary, "received"), count(&summary, "dropped"));
        assert!(dropped > 0 && received + dropped == 100, "{received} received and {dropped} dropped");
    });
}
