//! Datagrams over real sockets on loopback: whatever is batched, split or joined, the same comes in and the same goes out.
//!
//! Each test runs under every combination of the switches that it is about; the plain calls, with all of them off, are the
//! oracle. Clients are `std`'s sockets where they can be.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use maitred::config::UDP_BUFFER_BYTES;
use maitred::net::batch::{Datagram, Inbox, Outbox, Sent, Switches};
use maitred::net::udp::{DatagramSocket, Exchange, Use};
use maitred::random::Random;
use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const LONGEST: usize = 65_507;
const PATIENCE: Duration = Duration::from_secs(10);
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// All eight.
fn combinations() -> impl Iterator<Item = Switches> {
    (0..8).map(|bits| Switches { mmsg: bits & 1 != 0, gso: bits & 2 != 0, gro: bits & 4 != 0 })
}

fn with(switches: Switches) -> Use {
    Use { switches, longest_request: LONGEST, longest_answer: LONGEST, receive_buffer_bytes: UDP_BUFFER_BYTES }
}

fn bind(address: SocketAddr, purpose: Use) -> DatagramSocket {
    DatagramSocket::bind(address, purpose).expect("it can be bound")
}

fn client(address: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind(address).expect("there is a port");
    client.set_read_timeout(Some(PATIENCE)).expect("it is a timeout");
    client
}

fn has_come(socket: BorrowedFd<'_>, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
    let ready = poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], Some(&timeout));
    assert_eq!(ready, Ok(1), "something comes");
}

/// A datagram as it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    bytes: Vec<u8>,
    source: SocketAddr,
    to_many: bool,
}

/// Echoes until so many datagrams have been shown; all of them.
fn echo(server: &mut DatagramSocket, count: usize) -> Vec<Shown> {
    let (mut shown, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while shown.len() < count {
        has_come(server.as_fd(), deadline);
        let mut answer = |datagram: &Datagram<'_>, memory: &mut [u8]| {
            let Datagram { bytes, source, to_many, .. } = *datagram;
            shown.push(Shown { bytes: bytes.to_vec(), source, to_many });
            memory[..bytes.len()].copy_from_slice(bytes);
            Some(bytes.len())
        };
        while server.exchange(&mut answer) == Exchange::More {}
    }
    shown
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut memory = vec![0; LONGEST + 1];
    let len = client.recv(&mut memory).expect("an answer comes");
    memory.truncate(len);
    memory
}

fn random_bytes(len: usize, random: &mut Random) -> Vec<u8> {
    (0..len).map(|_| random.next() as u8).collect()
}

/// Sends what there is; the kernel sends some of it joined where `gso` says so.
fn send(client: &UdpSocket, to: SocketAddr, gso: bool, datagrams: &[Vec<u8>]) {
    let mut outbox = Outbox::new(LONGEST, gso);
    for bytes in datagrams {
        outbox.room().expect("a few find room")[..bytes.len()].copy_from_slice(bytes);
        outbox.put(bytes.len(), to, None);
    }
    assert_eq!(outbox.send(client.as_fd(), true), Sent::All);
    assert_eq!((outbox.counts().datagrams, outbox.counts().refused), (datagrams.len() as u64, 0));
}

/// Runs of datagrams of one length each, as many as every kernel holds for a socket.
fn runs(random: &mut Random) -> Vec<Vec<u8>> {
    let lengths = [0, 1, 1, 2, 63, 64, 64, 1_199, 1_200, 1_200, 1_472, 9_000, LONGEST];
    let (mut datagrams, mut left) = (Vec::new(), 70_000);
    for _ in 0..1 + random.below(4) {
        let len = lengths[random.below(lengths.len())];
        for _ in 0..(1 + random.below(9)).min(left / (len + 2_000)) {
            left -= len + 2_000;
            datagrams.push(random_bytes(len, random));
        }
    }
    datagrams
}

#[test]
fn the_same_comes_in_and_goes_out_by_every_way() {
    for address in [LOCAL, SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
        for switches in combinations() {
            let mut random = Random::new(7);
            let mut server = bind(address, with(switches));
            assert_eq!(server.switches(), switches, "this kernel has them all");
            let clients: [UdpSocket; 3] = std::array::from_fn(|_| client(address));
            for round in 0..40 {
                let sent: [Vec<Vec<u8>>; 3] = std::array::from_fn(|_| runs(&mut random));
                for (number, datagrams) in sent.iter().enumerate() {
                    send(&clients[number], server.address(), round % 2 == number % 2, datagrams);
                }
                let shown = echo(&mut server, sent.iter().map(Vec::len).sum());
                for (client, sent) in clients.iter().zip(sent) {
                    let source = client.local_addr().expect("it is bound");
                    let of_client = shown.iter().filter(|shown| shown.source == source);
                    assert!(of_client.clone().all(|shown| !shown.to_many));
                    let in_order: Vec<&Vec<u8>> = of_client.map(|shown| &shown.bytes).collect();
                    assert!(in_order.iter().copied().eq(&sent), "{switches:?}, round {round}: in, from {source}");
                    let back: Vec<Vec<u8>> = sent.iter().map(|_| receive(client)).collect();
                    assert!(back == sent, "{switches:?}, round {round}: back to {source}");
                }
            }
            let (received, answered) = server.counts();
            assert_eq!((received.datagrams, received.bytes), (answered.datagrams, answered.bytes), "{switches:?}");
            assert_eq!((received.too_long, received.errors, answered.refused), (0, 0, 0), "{switches:?}");
            // What is saved: calls for messages, and messages for datagrams.
            assert_eq!(received.messages < received.datagrams, switches.gro, "{switches:?}: {received:?}");
            assert_eq!(answered.messages < answered.datagrams, switches.gso, "{switches:?}: {answered:?}");
        }
    }
}

#[test]
fn a_joined_message_is_taken_apart_where_it_was_joined() {
    // Segments of one length, and a last one that is shorter, as long, or alone.
    for (segment_len, count, last_len) in
        [(1_200, 10, 7), (1_200, 53, 1_200), (1, 63, 1), (9_000, 6, 8_999), (64, 0, 64)]
    {
        for switches in combinations() {
            let mut server = bind(LOCAL, with(switches));
            let client = client(LOCAL);
            let mut random = Random::new(count);
            let mut sent: Vec<Vec<u8>> = (0..count).map(|_| random_bytes(segment_len, &mut random)).collect();
            sent.push(random_bytes(last_len, &mut random));
            let mut outbox = Outbox::new(LONGEST, true);
            for bytes in &sent {
                outbox.room().expect("it is one message")[..bytes.len()].copy_from_slice(bytes);
                outbox.put(bytes.len(), server.address(), None);
            }
            assert_eq!((outbox.send(client.as_fd(), false), outbox.counts().messages), (Sent::All, 1));
            let shown = echo(&mut server, sent.len());
            assert!(shown.iter().map(|shown| &shown.bytes).eq(&sent), "{segment_len} and {last_len} by {switches:?}");
            let messages = server.counts().0.messages;
            assert_eq!(messages, if switches.gro { 1 } else { sent.len() as u64 }, "{segment_len} by {switches:?}");
        }
    }
}

#[test]
fn datagrams_that_are_too_long_are_counted_and_not_shown() {
    for switches in combinations() {
        for gso in [false, true] {
            let mut server = bind(LOCAL, Use { longest_request: 100, ..with(switches) });
            let client = client(LOCAL);
            // 101 twice and 60 are one message of a sender that joins.
            let sent = [100, 101, 101, 60, 65_507, 0, 100].map(|len| vec![len as u8; len]);
            send(&client, server.address(), gso, &sent);
            let shown = echo(&mut server, 4);
            let whole: Vec<&Vec<u8>> = sent.iter().filter(|bytes| bytes.len() <= 100).collect();
            assert!(shown.iter().map(|shown| &shown.bytes).eq(whole.iter().copied()), "{switches:?}: {shown:?}");
            assert_eq!((server.counts().0.too_long, server.counts().0.datagrams), (3, 4), "{switches:?}");
            whole.iter().for_each(|bytes| assert_eq!(&receive(&client), *bytes));
        }
    }
}

#[test]
fn a_datagram_that_cannot_be_sent_costs_no_other() {
    let good = client(LOCAL);
    let to_good = good.local_addr().expect("it is bound");
    // Too long for any message; to nobody; to everybody, without leave.
    let bad = [(65_508, to_good), (9, (Ipv4Addr::LOCALHOST, 0).into()), (9, (Ipv4Addr::BROADCAST, 9).into())];
    for (len, to) in bad {
        for place in [0, 2, 5] {
            for switches in combinations() {
                let mut outbox = Outbox::new(70_000, switches.gso);
                let sender = client(LOCAL);
                for number in 0..6_u8 {
                    let (len, to) = if usize::from(number) == place { (len, to) } else { (50, to_good) };
                    outbox.room().expect("six find room")[..len].fill(number);
                    outbox.put(len, to, None);
                }
                assert_eq!(outbox.send(sender.as_fd(), switches.mmsg), Sent::All);
                assert_eq!((outbox.counts().datagrams, outbox.counts().refused), (5, 1), "{to} by {switches:?}");
                assert_eq!(outbox.joins(), switches.gso, "{to} by {switches:?}");
                for number in (0..6).filter(|&number| usize::from(number) != place) {
                    assert_eq!(receive(&good), [number; 50], "{to} by {switches:?}");
                }
            }
        }
    }
}

#[test]
fn old_errors_of_a_socket_stop_nothing() {
    for mmsg in [false, true] {
        let sender = client(LOCAL);
        let closed = client(LOCAL).local_addr().expect("it was bound");
        sender.connect(closed).expect("it is an address");
        // Nobody is there: each datagram brings back an error, which the next one meets.
        let mut outbox = Outbox::new(10, false);
        for round in 0..5 {
            for _ in 0..20 {
                outbox.room().expect("20 find room").fill(1);
                outbox.put(10, closed, None);
            }
            assert_eq!(outbox.send(sender.as_fd(), mmsg), Sent::All);
            assert_eq!((outbox.counts().datagrams, outbox.counts().refused), (20 * (round + 1), 0));
        }
        let mut inbox = Inbox::new(10, false);
        let deadline = Instant::now() + PATIENCE;
        while inbox.counts().errors == 0 {
            assert!(!inbox.receive(sender.as_fd(), mmsg), "nothing but an error has come");
            assert!(Instant::now() < deadline, "the error comes");
        }
        // Then somebody is.
        let peer = UdpSocket::bind(closed).expect("the port is free");
        peer.send_to(b"welcome", sender.local_addr().expect("it is bound")).expect("it is sent");
        has_come(sender.as_fd(), deadline);
        assert!(inbox.receive(sender.as_fd(), mmsg));
        assert_eq!(inbox.take_next().map(|datagram| datagram.bytes.to_vec()).as_deref(), Some(&b"welcome"[..]));
        assert!(inbox.is_empty() && inbox.take_next().is_none());
    }
}

/// Sets an option that no crate has.
fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) {
    // SAFETY: the kernel reads one number.
    #[allow(unsafe_code, reason = "no crate has these options")]
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    assert_eq!(set, 0, "{}", Error::last_os_error());
}

#[test]
fn a_socket_that_cannot_send_joined_sends_one_by_one_from_then_on() {
    for mmsg in [false, true] {
        let mut server = bind(LOCAL, with(Switches { mmsg, ..Switches::ON }));
        let client = client(LOCAL);
        // Without checksums nothing can be split: what a device does that leaves them to the kernel.
        set_option(server.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
        for round in 1..=2 {
            let sent: Vec<Vec<u8>> = (0..20).map(|number| vec![number; 1_000]).collect();
            send(&client, server.address(), true, &sent);
            assert_eq!(echo(&mut server, sent.len()).len(), sent.len());
            sent.iter().for_each(|bytes| assert!(receive(&client) == *bytes));
            assert_eq!(server.switches(), Switches { mmsg, gso: false, gro: true });
            assert_eq!((server.counts().1.datagrams, server.counts().1.refused), (round * 20, 0));
        }
    }
}

#[test]
fn datagrams_too_long_for_their_route_leave_in_fragments_and_others_joined() {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    for mmsg in [false, true] {
        let mut server = bind(address, with(Switches { mmsg, ..Switches::ON }));
        let client = client(address);
        set_option(server.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU, 1_280);
        let mut messages = 0;
        for (len, count, joined) in [(3_000, 5, false), (1_000, 5, true), (1_232, 3, true), (1_233, 3, false)] {
            let sent: Vec<Vec<u8>> = (0..count).map(|number| vec![number; len]).collect();
            send(&client, server.address(), true, &sent);
            echo(&mut server, sent.len());
            sent.iter().for_each(|bytes| assert!(receive(&client) == *bytes, "{len}"));
            messages += if joined { 1 } else { sent.len() as u64 };
            assert_eq!(server.counts().1.messages, messages, "{len} bytes");
            assert!(server.switches().gso);
        }
    }
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let v4 = |last| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let any = [SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))];
    for (wildcard, asked) in any.into_iter().zip([&[v4(1), v4(2), v4(99)][..], &[v6, v4(1), v4(2)]]) {
        for switches in combinations() {
            let mut server = bind(wildcard, with(switches));
            for &asked in asked {
                let client = client(SocketAddr::new(if asked.is_ipv4() { v4(1).ip() } else { v6.ip() }, 0));
                // A connected socket hears nobody but whom it is connected to.
                client.connect((asked.ip(), server.address().port())).expect("it is an address");
                let sent: Vec<Vec<u8>> = (0..5).map(|number| vec![number; 1_200]).collect();
                sent.iter().for_each(|bytes| assert_eq!(client.send(bytes).expect("it is sent"), bytes.len()));
                let shown = echo(&mut server, sent.len());
                assert!(shown.iter().all(|shown| !shown.to_many));
                assert!(
                    shown.iter().all(|shown| shown.source.ip().to_canonical() == client.local_addr().unwrap().ip())
                );
                sent.iter().for_each(|bytes| assert!(receive(&client) == *bytes, "{asked} of {wildcard}"));
            }
        }
    }
}

#[test]
fn what_was_sent_to_many_says_so() {
    let mut server = bind((Ipv4Addr::UNSPECIFIED, 0).into(), with(Switches::ON));
    let client = client(LOCAL);
    client.set_broadcast(true).expect("it may be");
    for (last, to_many) in [(1, false), (255, true)] {
        let to = Ipv4Addr::new(127, last, last, last);
        client.send_to(b"hello", (to, server.address().port())).expect("it is sent");
        assert_eq!(echo(&mut server, 1)[0].to_many, to_many, "{to}");
        assert_eq!(receive(&client), b"hello");
    }
}

#[test]
fn siblings_share_a_port_that_stays_ours() {
    let mut first = bind(LOCAL, with(Switches::ON));
    let is_taken = |error: Option<Error>| error.is_some_and(|error| error.kind() == ErrorKind::AddrInUse);
    assert!(is_taken(DatagramSocket::bind(first.address(), with(Switches::ON)).err()));
    let mut second = first.sibling().expect("the kernel shares");
    let mut third = first.sibling().expect("the kernel shares");
    assert!(is_taken(DatagramSocket::bind(first.address(), with(Switches::ON)).err()));
    assert!(is_taken(UdpSocket::bind(first.address()).err()));
    assert_eq!([second.address(), third.address()], [first.address(); 2]);

    let clients: Vec<UdpSocket> = (0..60).map(|_| client(LOCAL)).collect();
    for client in &clients {
        client.send_to(b"x", first.address()).expect("it is sent");
    }
    let (mut shown, deadline) = ([0; 3], Instant::now() + PATIENCE);
    while shown.iter().sum::<u32>() < 60 {
        assert!(Instant::now() < deadline, "all are answered: {shown:?}");
        for (count, server) in shown.iter_mut().zip([&mut first, &mut second, &mut third]) {
            let _ = server.exchange(|datagram, memory| {
                *count += 1;
                memory[..1].copy_from_slice(datagram.bytes);
                Some(1)
            });
        }
    }
    assert!(shown.iter().all(|&count| count > 0), "each has some: {shown:?}");
    clients.iter().for_each(|client| assert_eq!(receive(client), b"x"));
}

#[test]
fn what_the_kernel_drops_is_counted() {
    let mut server = bind(LOCAL, Use { receive_buffer_bytes: 4_096, ..with(Switches::ON) });
    let client = client(LOCAL);
    for _ in 0..200 {
        client.send_to(&[1; 100], server.address()).expect("it is sent");
    }
    let mut shown = 0;
    let deadline = Instant::now() + PATIENCE;
    while shown + server.dropped().expect("the kernel tells") < 200 {
        assert!(Instant::now() < deadline, "every datagram is shown or counted");
        let _ = server.exchange(|_, _| {
            shown += 1;
            None
        });
    }
    let dropped = server.dropped().expect("the kernel tells");
    assert!(dropped > 0 && shown > 0 && shown + dropped == 200, "{shown} shown, {dropped} dropped");
    assert_eq!(server.counts().1.batches, 0, "nothing is answered");
}
