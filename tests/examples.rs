//! The examples, run as they are.

#[path = "../examples/chat_server.rs"]
#[allow(dead_code, reason = "its `main` reads from a terminal")]
mod chat_server;
#[path = "support/client.rs"]
mod client;
#[path = "../examples/echo_server.rs"]
#[allow(dead_code, reason = "its `main` reads from a terminal")]
mod echo_server;

use std::io::{BufRead, BufReader};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use client::{Client, DEADLINE, text};

/// The next line, ticks left out.
fn next_line(client: &mut BufReader<Client>) -> String {
    loop {
        let mut line = String::new();
        client.read_line(&mut line).expect("the server speaks");
        if !line.starts_with("up ") {
            return line.trim_end().to_owned();
        }
    }
}

#[test]
fn a_chat_hears_its_clients_its_clock_and_its_terminal() {
    let (types, typed) = channel();
    let (ready, is_ready) = channel();
    let server = thread::spawn(move || {
        let address = "127.0.0.1:0".parse().expect("an address");
        let ready = |address| ready.send(address).expect("the test waits");
        chat_server::serve(address, Duration::from_millis(5), typed.into_iter().map(Ok), ready)
            .map_err(|error| error.to_string())
    });
    let address = is_ready.recv_timeout(DEADLINE).expect("it gets ready");

    let mut first = BufReader::new(Client::connect(address));
    let greeting = next_line(&mut first);
    let one = greeting.strip_suffix(" has come, one of 1").expect("it is greeted");
    let mut second = BufReader::new(Client::connect(address));
    let greeting = next_line(&mut second);
    let two = greeting.strip_suffix(" has come, one of 2").expect("it is greeted").to_owned();
    assert_eq!(next_line(&mut first), greeting);

    second.get_mut().send(b"good ");
    second.get_mut().send(b"evening\r\n");
    types.send("the kitchen closes".to_owned()).expect("it listens");
    let mut heard = [next_line(&mut first), next_line(&mut first)];
    heard.sort();
    let mut said = [format!("{two}: good evening"), "the kitchen closes".to_owned()];
    said.sort();
    assert_eq!(heard, said);

    let mut tick = String::new();
    first.read_line(&mut tick).expect("the clock goes on");
    assert!(tick.starts_with("up "), "{tick}");

    second.get_mut().send(b"bye\n");
    second.get_mut().finish();
    assert_eq!(next_line(&mut first), format!("{two} has gone: finished"));
    drop(types);
    while !next_line(&mut first).is_empty() {}
    let summary = server.join().expect("it ends").expect("in order");
    assert_eq!((summary.accepted, summary.open), (2, 0), "{one} was drained");
}

#[test]
fn an_echo_sends_back_what_it_is_sent() {
    let server = echo_server::start("127.0.0.1:0".parse().expect("an address"), "event-loop").expect("it starts");
    let mut client = Client::connect(server.address());
    for round in 0..10 {
        client.echo(&text(10_000, round));
    }
    client.finish();
    client.expect_end();
    assert_eq!(server.stop().accepted, 1);
}
