//! One connection, and what it takes for a reply.

use std::net::Ipv4Addr;

use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, socket};

use super::*;
use crate::cli::LoadArgs;

#[test]
fn a_datagram_is_one_whole_reply_or_none() {
    let target = "work=udp://127.0.0.1:1".to_owned();
    let plan = Plan::resolve(&LoadArgs { target, size: Some("3".to_owned()), ..LoadArgs::default() });
    let mut wire =
        Wire::new(&plan.expect("the flags are right"), SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).expect("a poller");
    let mut connection = Connection::new(Who::new(0, 1));
    connection.flight.ask(0);
    connection.flight.begin(1, 0);
    let payload = wire.pattern.stream(connection.who, Cursor::default(), 27)[24..].to_vec();
    let id = connection.who.id(0).to_be_bytes();
    let reply = [&31_u32.to_be_bytes()[..], &id, &[0; 16], &[0; 4], &payload].concat();
    let mut check = |datagram: &[u8]| {
        wire.inbox[..datagram.len()].copy_from_slice(datagram);
        let checked = connection.check_datagram(&mut wire, datagram.len(), 1);
        (checked, wire.replies.drain(..).count())
    };
    assert_eq!(check(&reply), (Ok(()), 1));
    assert_eq!(check(&reply[..reply.len() - 1]), (Err(ErrorKind::Protocol), 0));
    assert_eq!(check(&[&reply[..], &reply].concat()), (Err(ErrorKind::Protocol), 0));
    assert_eq!(check(&[&reply[..], &[9; 40]].concat()), (Err(ErrorKind::Protocol), 0));
    assert_eq!(check(&[]), (Err(ErrorKind::Protocol), 0));
    assert_eq!(check(&reply), (Ok(()), 1));
}

#[test]
fn a_dead_server_is_not_ourselves() {
    let own = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&own, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("some port is free");
    let address = SocketAddr::try_from(getsockname(&own).expect("it is bound")).expect("an address of TCP");
    connect(&own, &address).expect("TCP lets a socket connect with itself");
    let mut connection = Connection::new(Who::new(0, 1));
    connection.socket = Some(Socket::new(own));
    let refused = connection.established().expect_err("it would echo whatever it is sent");
    assert_eq!(refused.kind(), Io::ConnectionRefused);
}
