//! Conversations with a relay, for the table of the contract, and what echo shares with them; who is at a relay's other end is
//! in `targets.rs`.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread;

use crate::client::{Client, text};
use crate::targets;

/// A listener's parameters with the addresses of targets in the place of what they are.
pub(crate) fn with_targets(query: &str) -> String {
    let mut query = query.to_owned();
    for name in ["{echo}", "{speaker}", "{resetter}"] {
        if query.contains(name) {
            let address = match name {
                "{echo}" => targets::echo(),
                "{speaker}" => targets::speaker(),
                _ => targets::resetter(),
            };
            query = query.replace(name, &address.to_string());
        }
    }
    query
}

pub(crate) fn requests(server: SocketAddr) -> u64 {
    let mut client = Client::connect(server);
    for len in 1..100 {
        client.echo(&text(len * len, len));
    }
    client.finish();
    client.expect_end();
    1
}

/// So many bytes come back while they are written.
pub(crate) fn both_ways(server: SocketAddr, len: usize) -> u64 {
    let mut client = Client::connect(server);
    let bytes = text(len, 0);
    let mut writer = client.0.try_clone().expect("a second handle");
    thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&bytes).expect("the daemon reads"));
        client.expect(&bytes);
    });
    client.finish();
    client.expect_end();
    1
}

pub(crate) fn finished_first(server: SocketAddr) -> u64 {
    let mut client = Client::connect(server);
    let bytes = text(100_000, 2);
    client.send(&bytes);
    client.finish();
    client.expect(&bytes);
    client.expect_end();
    1
}

/// What the target has to say is over before the client has begun.
pub(crate) fn heard_out_first(server: SocketAddr) -> u64 {
    let mut client = Client::connect_small(server);
    client.expect(&text(targets::SPEECH, 9));
    client.expect_end();
    client.send(&text(200_000, 3));
    client.finish();
    1
}

pub(crate) fn reset_by_the_target(server: SocketAddr) -> u64 {
    for _ in 0..5 {
        let mut client = Client::connect(server);
        client.send(b"x");
        let error = client.0.read(&mut [0; 16]).expect_err("it is no FIN");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    5
}

pub(crate) fn reset_by_clients(server: SocketAddr) -> u64 {
    for round in 0..20 {
        let mut client = Client::connect(server);
        client.send(&text(round * 1_000, round));
        client.reset();
    }
    20
}

/// What was said last is answered, by a target that the daemon's FIN has reached.
pub(crate) fn open_at_the_drain(server: SocketAddr) -> u64 {
    let mut client = Client::connect(server);
    client.echo(&text(100, 7));
    client.send(&text(50_000, 8));
    thread::spawn(move || {
        client.expect(&text(50_000, 8));
        client.expect_end();
    });
    1
}
