//! Many messages into one stream by `sendmmsg`: every byte once and in order, however small the socket's buffer is and
//! wherever in a message it is full.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use maitred::net::batch::send_messages;
use maitred::net::os;
use maitred::random::Random;
use rustix::net::sockopt;

const PATIENCE: Duration = Duration::from_secs(10);

/// A message as a session holds it: a header of its own, and a body that it shares with others.
struct Message {
    header: [u8; 4],
    body: Arc<[u8]>,
}

/// Messages that are owed, the first of them from some byte on.
struct Backlog {
    messages: VecDeque<Message>,
    taken_of_first: usize,
}

impl Backlog {
    /// What is owed of the first `most` messages, each as two slices.
    fn slices(&self, most: usize) -> Vec<[IoSlice<'_>; 2]> {
        let mut skipped = self.taken_of_first;
        let mut slices = Vec::new();
        for message in self.messages.iter().take(most) {
            let of_header = skipped.min(message.header.len());
            let of_body = skipped - of_header;
            slices.push([IoSlice::new(&message.header[of_header..]), IoSlice::new(&message.body[of_body..])]);
            skipped = 0;
        }
        slices
    }

    /// Forgets so many bytes; whether that ended inside a message.
    fn take(&mut self, bytes: usize) -> bool {
        self.taken_of_first += bytes;
        while let Some(message) = self.messages.front() {
            let len = message.header.len() + message.body.len();
            if len > self.taken_of_first {
                break;
            }
            self.taken_of_first -= len;
            self.messages.pop_front();
        }
        self.taken_of_first > 0
    }
}

/// Messages of random sizes, many of which share a body; and all their bytes.
fn messages(count: usize, random: &mut Random) -> (VecDeque<Message>, Vec<u8>) {
    let bodies: Vec<Arc<[u8]>> = [0, 1, 100, 4_000, 9_000, 30_000]
        .map(|len| (0..len + random.below(len + 1)).map(|_| random.next() as u8).collect())
        .to_vec();
    let (mut messages, mut bytes) = (VecDeque::new(), Vec::new());
    for number in 0..count {
        let body = Arc::clone(&bodies[random.below(bodies.len())]);
        let header = (number as u32).to_be_bytes();
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&body);
        messages.push_back(Message { header, body });
    }
    (messages, bytes)
}

/// Sends the backlog, some messages a call; how many calls ended inside a message, and how many took nothing.
fn send(socket: BorrowedFd<'_>, messages: VecDeque<Message>, random: &mut Random) -> (usize, usize) {
    let mut backlog = Backlog { messages, taken_of_first: 0 };
    let (mut cuts, mut blocks) = (0, 0);
    while !backlog.messages.is_empty() {
        let slices = backlog.slices(1 + random.below(100));
        match send_messages(socket, &slices) {
            Ok(bytes) => {
                let owed: usize = slices.iter().flatten().map(|slice| slice.len()).sum();
                assert!(bytes > 0 && bytes <= owed, "{bytes} of {owed}");
                cuts += usize::from(backlog.take(bytes));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                blocks += 1;
                assert!(os::takes_output(socket, PATIENCE), "the reader reads");
            }
            Err(error) => panic!("{error}"),
        }
    }
    (cuts, blocks)
}

/// Reads everything in pieces of random sizes.
fn read_all(mut stream: impl Read, mut random: Random) -> Vec<u8> {
    let (mut all, mut memory) = (Vec::new(), vec![0; 20_000]);
    loop {
        let most = 1 + random.below(memory.len());
        match stream.read(&mut memory[..most]).expect("the sender sends on") {
            0 => return all,
            len => all.extend_from_slice(&memory[..len]),
        }
    }
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a port");
    let near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    (near, listener.accept().expect("somebody came").0)
}

#[test]
fn every_byte_arrives_once_and_in_order_through_the_smallest_buffer() {
    let mut cuts = 0;
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let (near, far) = tcp_pair();
        near.set_nonblocking(true).expect("it can be");
        // The kernel makes it what it takes at the least.
        sockopt::set_socket_send_buffer_size(&near, 1).expect("it can be set");
        let (messages, expected) = messages(300, &mut random);
        let reader = Random::new(random.next());
        let received = thread::scope(|scope| {
            let reader = scope.spawn(|| read_all(far, reader));
            cuts += send(near.as_fd(), messages, &mut random).0;
            drop(near);
            reader.join().expect("it reads")
        });
        assert!(received == expected, "seed {seed}: {} bytes of {}", received.len(), expected.len());
    }
    assert!(cuts > 20, "the buffer was full inside a message {cuts} times");
}

#[test]
fn a_stream_of_another_kind_serves_as_well() {
    let mut random = Random::new(3);
    let (near, far) = UnixStream::pair().expect("there are descriptors");
    let (messages, expected) = messages(300, &mut random);
    let reader = Random::new(4);
    let (received, blocks) = thread::scope(|scope| {
        let reader = scope.spawn(|| read_all(far, reader));
        // Nothing waits in the call, though the socket would.
        let (_, blocks) = send(near.as_fd(), messages, &mut random);
        drop(near);
        (reader.join().expect("it reads"), blocks)
    });
    assert!(received == expected && blocks > 0, "{} bytes, {blocks} waits", received.len());
}

#[test]
fn a_large_backlog_goes_in_one_call_and_nothing_is_nothing() {
    let (near, mut far) = tcp_pair();
    let messages: Vec<[IoSlice<'_>; 1]> = (0..100).map(|_| [IoSlice::new(b"0123456789")]).collect();
    assert_eq!(send_messages(near.as_fd(), &messages).expect("there is room"), 1_000);
    assert_eq!(send_messages(near.as_fd(), &messages[..0]).expect("there is nothing to do"), 0);
    let mut received = vec![0; 1_000];
    far.read_exact(&mut received).expect("it was sent");
    assert_eq!(received, b"0123456789".repeat(100));
}

#[test]
fn a_broken_stream_says_so() {
    let (near, far) = tcp_pair();
    drop(far);
    // Whatever was taken before the reset has come back is lost; then there is an error, and no signal.
    let messages = [[IoSlice::new(b"hello")]; 40];
    let error = std::iter::repeat_with(|| send_messages(near.as_fd(), &messages)).find_map(Result::err);
    let kind = error.expect("it ends with one").kind();
    assert!(matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{kind}");
}
