//! What a relay does beyond conversations (`engine_contract.rs`): which target it takes, what it does when there is none, how
//! long it waits, what it tells of the client, and that it leaves nothing behind.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;
#[path = "support/targets.rs"]
mod targets;

use std::io::{ErrorKind, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use maitred::config::AtOnce::{Many, One};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::process::Signal;

use client::{Client, DEADLINE, text, wait_until};
use daemon::Daemon;
use engines::{LeftOut, check_left_out, for_each_engine};
use process::{Process, command};

const LEFT_OUT: &[LeftOut] = &[LeftOut {
    test: "no_descriptor_is_left_behind",
    engine: "prefork",
    reason: "its parent has a descriptor for each child, and their number follows the load",
}];

fn relay(engine: &str, query: &str, flags: &[&str]) -> Daemon {
    let listener = format!("relay=tcp://127.0.0.1:0?{query}");
    Daemon::echo(engine, &[&["--listen", &listener][..], flags].concat())
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("a socket");
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    // Held and never listened on: given back, the port could be another test's.
    let held = ManuallyDrop::new(TcpListener::from(socket));
    held.local_addr().expect("it is bound")
}

/// A listener whose backlog is full, so that whoever comes is not answered; with those who fill it.
fn silent() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    rustix::net::listen(&listener, 0).expect("it listens");
    let address = listener.local_addr().expect("it is bound");
    let soon = Duration::from_millis(200);
    let fill = std::iter::from_fn(|| TcpStream::connect_timeout(&address, soon).ok()).collect();
    (listener, fill)
}

/// One that accepts, for a test that plays the target by itself.
fn target() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// An address that a daemon can be told before it has it: held by a socket beside which one that listens may be bound.
fn reserved() -> (OwnedFd, String) {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("a socket");
    sockopt::set_socket_reuseaddr(&socket, true).expect("a socket has the option");
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = rustix::net::getsockname(&socket).expect("it is bound");
    let address = SocketAddr::try_from(address).expect("an address of IPv4");
    (socket, address.to_string())
}

fn expect_reset(mut client: Client) {
    let error = client.0.read(&mut [0; 16]).expect_err("it is no FIN");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_target_that_refuses_is_skipped_and_named() {
    for_each_engine(One, &[], |engine| {
        let nobody = nobody();
        let daemon = relay(engine.name, &format!("to=tcp://{nobody}&to=tcp://{}", targets::echo()), &[]);
        // Whichever is first: the choice begins with the client's port.
        let mut clients = 0;
        wait_until("it was tried", || {
            let mut client = Client::connect(daemon.address());
            client.echo(&text(100, 1));
            client.finish();
            client.expect_end();
            clients += 1;
            daemon.process.messages().contains(&format!("tcp://{nobody} took no connection"))
        });
        assert_eq!(daemon.drain().closed("finished"), clients);
    });
}

#[test]
fn a_target_that_does_not_answer_leaves_time_for_the_next_one() {
    for_each_engine(One, &[], |engine| {
        let (listener, _fill) = silent();
        let silent = listener.local_addr().expect("it is bound");
        let query = format!("connect_timeout=2s&to=tcp://{silent}&to=tcp://{}", targets::echo());
        let daemon = relay(engine.name, &query, &[]);
        // Whichever is first: the choice begins with the client's port.
        for round in 0..2 {
            let mut client = Client::connect(daemon.address());
            client.echo(&text(100, round));
            client.finish();
            client.expect_end();
        }
        assert_eq!(daemon.drain().closed("finished"), 2);
    });
}

#[test]
fn a_client_that_nobody_takes_is_reset() {
    for_each_engine(One, &[], |engine| {
        let (listener, _fill) = silent();
        let silent = listener.local_addr().expect("it is bound");
        let daemon = relay(engine.name, &format!("connect_timeout=300ms&to=tcp://{silent}&to=tcp://{}", nobody()), &[]);
        let begun = Instant::now();
        expect_reset(Client::connect(daemon.address()));
        assert!(begun.elapsed() >= Duration::from_millis(150), "the silent one had its part of the time");
        assert_eq!(daemon.drain().closed("unreachable"), 1);
    });
}

#[test]
fn a_client_that_resets_while_it_is_being_connected_is_not_kept() {
    for_each_engine(Many, &[], |engine| {
        let (listener, _fill) = silent();
        let silent = listener.local_addr().expect("it is bound");
        // As long as other tests take at the most: only the reset ends a session before.
        let daemon = relay(engine.name, &format!("connect_timeout=200s&to=tcp://{silent}"), &[]);
        let mut waits = Client::connect(daemon.address());
        waits.send(b"all that I have to say");
        waits.finish();
        let mut spoke = Client::connect(daemon.address());
        spoke.send(b"hello");
        let leave = [Client::connect(daemon.address()), spoke];
        wait_until("all have come", || daemon.summary_now()[1] == 3);
        leave.into_iter().for_each(Client::reset);
        wait_until("only the one that has sent its FIN is left", || daemon.summary_now()[1] == 1);
        waits.reset();
        wait_until("nobody is left", || daemon.summary_now()[1] == 0);
        let summary = daemon.drain();
        assert_eq!([summary.closed("reset"), summary.closed("peer_closed")], [2, 1]);
    });
}

#[test]
fn connections_are_spread_by_how_many_there_are() {
    let ((first, first_address), (second, second_address)) = (target(), target());
    for engine in ["event-loop", "pool"] {
        let query = format!("to=tcp://{first_address}&to=tcp://{second_address}");
        let daemon = relay(engine, &query, &[]);
        let mut clients = Vec::new();
        let mut taken = [Vec::new(), Vec::new()];
        for pair in 0..5 {
            for _ in 0..2 {
                clients.push(Client::connect(daemon.address()));
            }
            // Each of them has one more.
            taken[0].push(first.accept().expect("a client of the relay"));
            taken[1].push(second.accept().expect("a client of the relay"));
            assert_eq!(taken.each_ref().map(Vec::len), [pair + 1; 2]);
        }
        // Who has lost some gets the next ones.
        for (lost, _) in taken[1].drain(..3) {
            sockopt::set_socket_linger(&lost, Some(Duration::ZERO)).expect("a TCP socket has the option");
        }
        wait_until("their sessions have ended", || daemon.summary_now()[1] == 7);
        for _ in 0..3 {
            clients.push(Client::connect(daemon.address()));
            taken[1].push(second.accept().expect("a client of the relay"));
        }
        drop((clients, taken));
        daemon.drain();
    }
}

#[test]
fn a_half_closed_relay_ends_by_silence_and_not_before() {
    for_each_engine(One, &[], |engine| {
        let (listener, address) = target();
        let daemon = relay(engine.name, &format!("idle=400ms&to=tcp://{address}"), &[]);
        let mut client = Client::connect(daemon.address());
        let mut target = Client::from_stream(listener.accept().expect("the relay connects").0);
        client.send(b"all that I have to say");
        client.finish();
        target.expect(b"all that I have to say");
        target.expect_end();
        // Far longer in all than the silence that ends it.
        let begun = Instant::now();
        for round in 0..30 {
            std::thread::sleep(Duration::from_millis(30));
            target.send(&text(10, round));
            client.expect(&text(10, round));
        }
        assert!(begun.elapsed() > Duration::from_millis(800));
        client.expect_end();
        assert_eq!(daemon.drain().closed("idle_timeout"), 1);
    });
}

#[test]
fn a_client_that_has_left_costs_the_target_nothing_of_what_it_sent() {
    for_each_engine(One, &[], |engine| {
        let (listener, address) = target();
        let daemon = relay(engine.name, &format!("to=tcp://{address}"), &[]);
        let bytes = text(1 << 20, 4);
        let mut client = Client::connect(daemon.address());
        let mut target = Client::from_stream(listener.accept().expect("the relay connects").0);
        client.send(&bytes[..1000]);
        // Answers that nobody will read.
        target.send(&text(1000, 5));
        std::thread::scope(|scope| {
            let bytes = &bytes;
            scope.spawn(move || {
                client.expect(&text(1000, 5));
                client.send(&bytes[1000..]);
                client.finish();
                drop(client);
            });
            target.expect(bytes);
        });
        target.send(&text(1000, 6));
        target.expect_end();
        drop(target);
        daemon.drain();
    });
}

#[test]
fn a_target_that_ends_early_is_heard_to_its_last_byte() {
    for_each_engine(One, &[], |engine| {
        let (listener, address) = target();
        let daemon = relay(engine.name, &format!("to=tcp://{address}"), &[]);
        let mut client = Client::connect(daemon.address());
        let mut target = Client::from_stream(listener.accept().expect("the relay connects").0);
        client.send(&text(1000, 1));
        target.expect(&text(1000, 1));
        // No more than is on its way at once: what it still has to send when it is gone, its own kernel drops.
        target.send(&text(20_000, 2));
        target.finish();
        drop(target);
        // The client goes on meanwhile, to somebody who is no longer there.
        for round in 0..20 {
            client.send(&text(1000, round));
        }
        client.expect(&text(20_000, 2));
        client.expect_end();
        drop(client);
        daemon.drain();
    });
}

#[test]
fn urgent_bytes_are_forwarded_in_their_place() {
    for_each_engine(One, &[], |engine| {
        let (listener, address) = target();
        let daemon = relay(engine.name, &format!("to=tcp://{address}"), &[]);
        let mut client = Client::connect(daemon.address());
        let mut target = Client::from_stream(listener.accept().expect("the relay connects").0);
        let say = |from: &Client, to: &mut Client, bytes: &[u8]| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    (&from.0).write_all(bytes).expect("the daemon reads");
                    assert_eq!(rustix::net::send(&from.0, b"!", SendFlags::OOB), Ok(1));
                });
                to.expect(&[bytes, b"!"].concat());
            });
        };
        // Small pieces and large ones, which go through a pipe where there are pipes.
        for (round, len) in [1000, 70_000, 1, 200_000, 70_000, 3].into_iter().enumerate() {
            say(&client, &mut target, &text(len, round));
            say(&target, &mut client, &text(len, round));
        }
        client.finish();
        target.expect_end();
        target.finish();
        client.expect_end();
        assert_eq!(daemon.drain().closed("finished"), 1);
    });
}

#[test]
fn the_target_is_told_of_the_client_before_all_else() {
    for_each_engine(One, &[], |engine| {
        let (listener, address) = target();
        let daemon = relay(engine.name, &format!("proxy=v2&to=tcp://{address}"), &[]);
        let mut client = Client::connect(daemon.address());
        let mut target = Client::from_stream(listener.accept().expect("the relay connects").0);
        // Also to a target that waits for nothing else.
        let mut header = [0; 28];
        target.read_exact(&mut header).expect("the header");
        let (own, to) = (client.0.local_addr().expect("connected"), daemon.address());
        let ports = [own.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        let expected = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..], &[127, 0, 0, 1, 127, 0, 0, 1], &ports].concat();
        assert_eq!(header[..], expected);
        client.send(b"hello");
        target.expect(b"hello");
        drop((client, target));
        daemon.drain();
    });
}

#[test]
fn a_client_that_does_not_read_stops_the_target_and_ends_by_the_write_timeout() {
    for_each_engine(Many, &[], |engine| {
        let (listener, address) = target();
        let daemon = relay(engine.name, &format!("to=tcp://{address}"), &["--write-timeout", "500ms"]);
        let client = Client::connect_small(daemon.address());
        let mut target = listener.accept().expect("the relay connects").0;
        target.set_write_timeout(Some(DEADLINE)).expect("a socket has timeouts");
        // It goes on the other way meanwhile, which does not keep the client.
        let mut talker = client.0.try_clone().expect("a second handle");
        let talks = std::thread::spawn(move || {
            while talker.write_all(b"still here").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let chunk = text(64 << 10, 1);
        let mut sent: u64 = 0;
        let error = loop {
            match target.write(&chunk) {
                Ok(count) => sent += count as u64,
                Err(error) => break error,
            }
        };
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        assert!(sent < 64 << 20, "backpressure: {sent} bytes were taken");
        talks.join().expect("it only writes");
        assert_eq!(daemon.drain().closed("write_timeout"), 1);
    });
}

#[test]
fn a_second_signal_resets_both_ends() {
    for_each_engine(One, &[], |engine| {
        let (listener, address) = target();
        let daemon = relay(engine.name, &format!("to=tcp://{address}"), &[]);
        let client = Client::connect(daemon.address());
        let mut target = Client::from_stream(listener.accept().expect("the relay connects").0);
        daemon.process.signal(Signal::TERM);
        // The drain has told it that no more comes; it says no end itself.
        target.expect_end();
        daemon.process.signal(Signal::TERM);
        expect_reset(client);
        let error = target.0.write_all(&[0; 1 << 20]).and_then(|()| target.0.write_all(&[0; 8 << 20]));
        assert!(error.is_err(), "nobody is there");
        assert_eq!(daemon.finish().closed("killed"), 1);
    });
}

#[test]
fn a_name_without_an_address_is_an_error_at_the_start() {
    let listener = "relay=tcp://127.0.0.1:0?to=tcp://name.invalid:7";
    let output = command(&["--listen", listener]).output().expect("it runs");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{messages}");
    assert!(messages.contains("name.invalid:7"), "{messages}");
    for (listener, named) in [
        ("relay=tcp://127.0.0.1:0", "relay is without to"),
        ("relay=tcp://127.0.0.1:0?to=http://127.0.0.1:7", "does not fit to"),
        ("relay=tcp://127.0.0.1:0?to=udp://127.0.0.1:7", "is not reached by tcp"),
    ] {
        let output = command(&["--listen", listener]).output().expect("it runs");
        let messages = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{messages}");
        assert!(messages.contains(named), "{messages}");
    }
}

#[test]
fn no_descriptor_is_left_behind() {
    for_each_engine(Many, LEFT_OUT, |engine| {
        let daemon = relay(engine.name, &format!("to=tcp://{}&to=tcp://{}", targets::echo(), nobody()), &[]);
        let descriptors = || {
            let folder = format!("/proc/{}/fd", daemon.process.pid().as_raw_nonzero());
            std::fs::read_dir(folder).expect("the daemon lives").count()
        };
        let before = descriptors();
        for round in 0..10 {
            let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(daemon.address())).collect();
            clients.iter_mut().for_each(|client| client.echo(&text(3000, round)));
            for (number, client) in clients.into_iter().enumerate() {
                match number % 3 {
                    0 => client.reset(),
                    1 => client.0.shutdown(Shutdown::Write).expect("it stands"),
                    _ => drop(client),
                }
            }
        }
        wait_until("everything is closed", || descriptors() <= before);
        daemon.drain();
    });
}

#[test]
fn what_is_much_goes_through_pipes_and_what_is_little_among_it_as_well() {
    for_each_engine(Many, &[], |engine| {
        for zero_copy in ["auto", "off"] {
            let query = format!("zero_copy={zero_copy}&to=tcp://{}", targets::echo());
            let daemon = relay(engine.name, &query, &[]);
            let pipes = || {
                let folder = format!("/proc/{}/fd", daemon.process.pid().as_raw_nonzero());
                let links = std::fs::read_dir(folder).expect("the daemon lives").flatten();
                let links = links.filter_map(|link| std::fs::read_link(link.path()).ok());
                links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
            };
            let before = pipes();
            let mut client = Client::connect(daemon.address());
            for (round, len) in [1, 4 << 20, 10, 70_000, 1, 1, 1, 1, 3 << 20, 200_000, 5].into_iter().enumerate() {
                let bytes = text(len, round);
                let mut voice = client.0.try_clone().expect("a second handle");
                std::thread::scope(|scope| {
                    scope.spawn(|| voice.write_all(&bytes).expect("the daemon reads"));
                    client.expect(&bytes);
                });
            }
            // The proactor has received what it would splice; processes have pipes of their own, which end with them.
            let splices = zero_copy == "auto" && engine.name != "proactor" && !engine.forks;
            assert_eq!(pipes() > before, splices, "with zero_copy={zero_copy}");
            client.finish();
            client.expect_end();
            assert_eq!(daemon.drain().closed("finished"), 1);
        }
    });
}

#[test]
fn engines_are_left_out_of_tests_that_there_are() {
    check_left_out(LEFT_OUT, include_str!("relay.rs"));
}

#[test]
fn a_relay_that_leads_back_to_itself_is_refused_with_the_target() {
    let [(_first, first), (_second, second)] = [(); 2].map(|()| reserved());
    let port = first.rsplit_once(':').expect("a port").1;
    let to = |listener: &str, target: &str| format!("relay=tcp://{listener}?to=tcp://{target}");
    let circle = "leads back to it";
    for (listeners, listener, wrong, how) in [
        (vec![to(&first, &first)], &*first, &*first, "is itself"),
        (vec![format!("{}&to=tcp://{first}", to(&first, "127.0.0.1:9"))], &first, &first, "is itself"),
        (vec![to(&format!("0.0.0.0:{port}"), &first)], &format!("0.0.0.0:{port}"), &first, "is itself"),
        (vec![to(&first, &second), to(&second, &first)], &first, &second, circle),
        (vec!["echo=tcp://127.0.0.1:0".to_owned(), to(&second, &first), to(&first, &second)], &second, &first, circle),
    ] {
        let flags: Vec<&str> = listeners.iter().flat_map(|listener| ["--listen", listener]).collect();
        let mut process = Process::spawn_until_ready_or_over(&mut command(&flags));
        process.wait_for_message(&format!("cannot relay on tcp://{listener}: its target tcp://{wrong} {how}"));
        assert_eq!(process.wait().code(), Some(1), "{listeners:?}");
    }
}

#[test]
fn relays_behind_one_another_are_served() {
    let [(_middle, middle), (_end, end)] = [(); 2].map(|()| reserved());
    let first = format!("relay=tcp://127.0.0.1:0?to=tcp://{middle}");
    let (middle, end) = (format!("relay=tcp://{middle}?to=tcp://{end}"), format!("echo=tcp://{end}"));
    let daemon = Daemon::start("pool", &["--listen", &first, "--listen", &middle, "--listen", &end]);
    Client::connect(daemon.address()).echo(b"there and back");
    daemon.drain();
}
