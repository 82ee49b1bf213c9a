//! `chat` over real sockets, on every engine that carries it: who hears what, in which order, and what becomes of those who
//! do not listen.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;

use std::collections::VecDeque;
use std::io::Read;
use std::thread;

use maitred::config::{EngineInfo, Scheme};

use client::{Client, text, wait_until};
use daemon::{Daemon, Summary};
use engines::Told;
use process::{check_all, command};

/// Talks to a daemon with this listener on every engine that carries chat, drains it and looks at its summary.
fn on_each(query: &str, flags: &[&str], talk: impl Fn(&Daemon) + Sync, check: impl Fn(&Summary) + Sync) {
    let listener = format!("chat=tcp://127.0.0.1:0{query}");
    let carries = |engine: &&EngineInfo| (engine.carries)("chat", Scheme::Tcp).is_ok();
    check_all(engines::engines().into_iter().filter(carries), |engine| {
        let _told = Told(format!("with {listener} on {}", engine.name));
        let daemon = Daemon::echo(engine.name, &[&["--listen", &listener][..], flags].concat());
        talk(&daemon);
        check(&daemon.drain());
    });
}

/// A message as `framing=length` has it.
fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

/// Clients of the room, all of whom the daemon knows.
fn enter(daemon: &Daemon, count: usize) -> Vec<Client> {
    let clients: Vec<Client> = (0..count).map(|_| Client::connect(daemon.address())).collect();
    wait_until("all are in the room", || daemon.summary_now()[1] >= count as u64);
    clients
}

fn finish(mut clients: Vec<Client>) {
    clients.iter_mut().for_each(Client::finish);
    clients.iter_mut().for_each(Client::expect_end);
}

#[test]
fn everybody_else_hears_a_message_and_who_said_it_does_not() {
    on_each(
        "",
        &[],
        |daemon| {
            let mut clients = enter(daemon, 5);
            for speaker in 0..5 {
                for body in [&b""[..], b"x", &text(1_000, speaker)] {
                    clients[speaker].send(&framed(body));
                    for (number, listener) in clients.iter_mut().enumerate() {
                        if number != speaker {
                            listener.expect(&framed(body));
                        }
                    }
                }
            }
            finish(clients);
        },
        |summary| assert_eq!((summary.closed("finished"), summary.turns("posts")), (5, 5 * 3 * 4)),
    );
}

#[test]
fn what_one_client_says_is_heard_in_its_order_whoever_else_speaks() {
    const MESSAGES: u32 = 300;
    for query in ["", "?send=mmsg", "?posts=each"] {
        on_each(
            query,
            &[],
            |daemon| {
                let mut clients = enter(daemon, 12);
                let (speakers, listeners) = clients.split_at_mut(3);
                thread::scope(|scope| {
                    for (speaker, client) in (0_u32..).zip(speakers) {
                        scope.spawn(move || {
                            for number in 0..MESSAGES {
                                client.send(&framed(&[speaker.to_be_bytes(), number.to_be_bytes()].concat()));
                            }
                        });
                    }
                    for client in listeners {
                        scope.spawn(|| {
                            let mut next = [0; 3];
                            for _ in 0..3 * MESSAGES {
                                let mut message = [0; 12];
                                client.0.read_exact(&mut message).expect("the others speak");
                                let word =
                                    |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().expect("four"));
                                let (length, speaker, number) = (word(0), word(4), word(8));
                                assert_eq!((length, number), (8, next[speaker as usize]), "of {speaker}");
                                next[speaker as usize] += 1;
                            }
                        });
                    }
                });
                drop(clients);
            },
            // Speakers that leave with messages unread reset.
            |summary| {
                assert_eq!(summary.closed("evicted") + summary.closed("panicked") + summary.closed("protocol"), 0)
            },
        );
    }
}

#[test]
fn lines_end_in_lf_however_they_come() {
    on_each(
        "?framing=line",
        &[],
        |daemon| {
            let mut clients = enter(daemon, 2);
            let mut speaker = clients.pop().expect("two");
            let listener = &mut clients[0];
            speaker.send(b"one\r\ntwo\n\n");
            listener.expect(b"one\ntwo\n\n");
            for byte in b"byte by byte\n" {
                speaker.send(&[*byte]);
            }
            listener.expect(b"byte by byte\n");
            speaker.send(b"nobody ended this one");
            finish(vec![speaker]);
            listener.expect(b"nobody ended this one\n");
            finish(clients);
        },
        |summary| assert_eq!(summary.closed("finished"), 2),
    );
}

#[test]
fn how_messages_are_cut_into_writes_changes_nothing() {
    on_each(
        "",
        &["--ring", "1KiB"],
        |daemon| {
            let mut clients = enter(daemon, 2);
            let mut listener = clients.pop().expect("two");
            let mut speaker = clients.pop().expect("one");
            let messages: Vec<u8> = (0..400).flat_map(|number| framed(&text(number % 7 * number, number))).collect();
            thread::scope(|scope| {
                scope.spawn(|| listener.expect(&messages));
                let mut sizes: VecDeque<usize> = [1, 3, 10_000, 2, 1_000, 7].into();
                let mut left = &messages[..];
                while !left.is_empty() {
                    let (now, later) = left.split_at(left.len().min(sizes[0]));
                    speaker.send(now);
                    sizes.rotate_left(1);
                    left = later;
                }
            });
            finish(vec![speaker, listener]);
        },
        |summary| assert_eq!(summary.closed("finished"), 2),
    );
}

#[test]
fn a_message_may_be_as_long_as_is_allowed_and_no_longer() {
    on_each(
        "?mailbox=8MiB",
        &["--ring", "1KiB", "--max-frame", "300KiB"],
        |daemon| {
            let mut clients = enter(daemon, 2);
            let mut listener = clients.pop().expect("two");
            let mut speaker = clients.pop().expect("one");
            let longest = framed(&text(300 << 10, 1));
            for _ in 0..3 {
                speaker.send(&longest);
                listener.expect(&longest);
            }
            // The four bytes are enough.
            for length in [(300 << 10) + 1, u32::MAX] {
                let mut offender = Client::connect(daemon.address());
                offender.send(&length.to_be_bytes());
                offender.expect_end();
            }
            finish(vec![speaker, listener]);
        },
        |summary| assert_eq!((summary.closed("finished"), summary.closed("protocol")), (2, 2)),
    );
}

#[test]
fn a_client_that_does_not_listen_is_evicted_and_delays_nobody() {
    const MESSAGES: usize = 4_000;
    on_each(
        "?mailbox=64KiB",
        &[],
        |daemon| {
            let deaf = Client::connect_small(daemon.address());
            let mut clients = enter(daemon, 4).into_iter();
            let mut speaker = clients.next().expect("four");
            let message = framed(&text(2_000, 3));
            let mut listeners: Vec<Client> = clients.collect();
            // One message after the other, so that who listens is never behind.
            for _ in 0..MESSAGES {
                speaker.send(&message);
                listeners.iter_mut().for_each(|listener| listener.expect(&message));
            }
            listeners.push(speaker);
            finish(listeners);
            drop(deaf);
        },
        |summary| assert_eq!((summary.closed("finished"), summary.closed("evicted")), (4, 1)),
    );
}

#[test]
fn a_client_that_does_not_listen_may_miss_whole_messages_instead() {
    const MESSAGES: u32 = 6_000;
    on_each(
        "?mailbox=64KiB&slow=drop",
        &[],
        |daemon| {
            let mut slow = Client::connect_small(daemon.address());
            let mut clients = enter(daemon, 3);
            let body = |number: u32| [&number.to_be_bytes()[..], &text(1_996, 5)].concat();
            for number in 0..MESSAGES {
                clients[0].send(&framed(&body(number)));
                clients[1].expect(&framed(&body(number)));
            }
            // What it now hears are whole messages, in order, not all of them; then the newest.
            clients[0].send(&framed(b"last"));
            let mut before = None;
            let mut heard = 0;
            loop {
                let mut length = [0; 4];
                slow.0.read_exact(&mut length).expect("there is more");
                let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
                slow.0.read_exact(&mut bytes).expect("a message is whole");
                if bytes == b"last" {
                    break;
                }
                let number = u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"));
                assert!(bytes == body(number) && before < Some(number), "{number} after {before:?}");
                before = Some(number);
                heard += 1;
                if heard % 50 == 0 {
                    clients[0].send(&framed(b"last"));
                }
            }
            assert!(heard < MESSAGES, "it cannot have heard everything");
            drop((slow, clients));
        },
        |summary| {
            assert_eq!(summary.closed("evicted"), 0);
            assert!(summary.turns("posts_refused") > 0, "{summary:?}");
        },
    );
}

#[test]
fn ten_slow_readers_among_a_thousand_delay_nobody() {
    // More than the kernel holds for each of the ten: 4 MiB, and what is in their mailboxes.
    const MESSAGES: usize = 300;
    let daemon = Daemon::echo("pool", &["--listen", "chat=tcp://127.0.0.1:0?mailbox=64KiB"]);
    let deaf: Vec<Client> = (0..10).map(|_| Client::connect_small(daemon.address())).collect();
    let mut clients = enter(&daemon, 990);
    let mut speaker = clients.pop().expect("a thousand");
    let message = framed(&text(16_000, 9));
    for _ in 0..MESSAGES {
        speaker.send(&message);
        clients.iter_mut().for_each(|listener| listener.expect(&message));
    }
    clients.push(speaker);
    finish(clients);
    drop(deaf);
    let summary = daemon.drain();
    assert_eq!((summary.closed("finished"), summary.closed("evicted")), (990, 10));
}

#[test]
fn who_comes_and_goes_meanwhile_hears_whole_messages() {
    on_each(
        "",
        &[],
        |daemon| {
            let mut clients = enter(daemon, 2);
            let mut listener = clients.pop().expect("two");
            let mut speaker = clients.pop().expect("one");
            let message = framed(&text(100, 11));
            thread::scope(|scope| {
                let visitors = scope.spawn(|| {
                    for number in 0..150 {
                        let mut visitor = Client::connect(daemon.address());
                        match number % 3 {
                            0 => visitor.reset(),
                            1 => visitor.expect(&message),
                            _ => drop(visitor),
                        }
                    }
                });
                let mut said = 0;
                while !visitors.is_finished() || said < 200 {
                    speaker.send(&message);
                    listener.expect(&message);
                    said += 1;
                }
            });
            finish(vec![speaker, listener]);
        },
        |summary| assert_eq!(summary.accepted(), 152),
    );
}

#[test]
fn rooms_are_a_listeners_own_unless_they_are_named() {
    let listen = |query: &str| ["--listen".to_owned(), format!("chat=tcp://127.0.0.1:0{query}")];
    let flags: Vec<String> = ["", "", "?room=hall", "?room=hall"].into_iter().flat_map(listen).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let daemon = Daemon::echo("pool", &flags);
    let mut clients: Vec<Client> = daemon.process.addresses().iter().map(|address| Client::connect(*address)).collect();
    wait_until("all are there", || daemon.summary_now()[1] == 4);
    for (speaker, client) in clients.iter_mut().enumerate() {
        client.send(&framed(&[speaker as u8]));
    }
    clients[2].expect(&framed(&[3]));
    clients[3].expect(&framed(&[2]));
    // To the other two nothing was said.
    finish(clients);
    assert_eq!(daemon.drain().turns("posts"), 2);
}

#[test]
fn wrong_parameters_are_named() {
    for (query, word) in [
        ("framing=word", "length or line"),
        ("room=", "the name of a room"),
        ("mailbox=0", "a size from 1"),
        ("mailbox=many", "a size from 1"),
        ("slow=later", "evict or drop"),
        ("send=one", "vectored or mmsg"),
        ("posts=none", "edge or each"),
        ("colour=red", "framing"),
    ] {
        let listener = format!("chat=tcp://127.0.0.1:0?{query}");
        let output = command(&["--listen", &listener]).output().expect("it runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{query}: {message}");
        assert!(message.contains(word), "{query}: {message}");
    }
    let rooms = ["chat=tcp://127.0.0.1:0?room=hall", "chat=tcp://127.0.0.1:0?room=hall&framing=line"];
    let output = command(&["--listen", rooms[0], "--listen", rooms[1]]).output().expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && message.contains("framed otherwise"), "{message}");
}
