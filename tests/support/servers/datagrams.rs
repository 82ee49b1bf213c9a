//! Echo over UDP, right or wrong in one way.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use super::{Server, State, ignore, is_due, spoiled};

/// What is wrong with a UDP echo server. "Every" counts the datagrams of all clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    /// Never answers, as discard does.
    Swallow,
    /// Every so many-th is not answered.
    DropEvery(u64),
    /// Every so many-th is answered twice.
    TwiceEvery(u64),
    /// The first one is answered again and again, without end, and no other.
    WithoutEnd,
    /// Every so many-th comes back with its last byte changed.
    CorruptEvery(u64),
    /// Every so many-th comes back without its last byte.
    ShorterEvery(u64),
    /// Every so many-th comes back with one more byte.
    LongerEvery(u64),
    /// Every so many-th is answered after the one that follows it, from whatever client.
    LateEvery(u64),
}

/// An echo server (RFC 862) with this fault.
pub(crate) fn echo(fault: Fault) -> Server {
    let state = State::new();
    let counts = Arc::clone(&state);
    let (mut number, mut held) = (0, None);
    Server::receiving(state, move |socket, bytes, from| {
        number += 1;
        counts.wait_while_held();
        let send = |bytes: &[u8], to: SocketAddr| answer(&counts, socket, bytes, to);
        let mut bytes = bytes.to_vec();
        match fault {
            Fault::Nothing => {}
            Fault::Swallow => return,
            Fault::WithoutEnd => {
                while !counts.is_stopped() {
                    send(&bytes, from);
                    counts.count_fault();
                }
                return;
            }
            Fault::DropEvery(every)
            | Fault::TwiceEvery(every)
            | Fault::CorruptEvery(every)
            | Fault::ShorterEvery(every)
            | Fault::LongerEvery(every)
            | Fault::LateEvery(every)
                if !is_due(number, every) => {}
            Fault::DropEvery(_) => {
                counts.count_fault();
                return;
            }
            Fault::TwiceEvery(_) => {
                counts.count_fault();
                send(&bytes, from);
            }
            Fault::CorruptEvery(_) => {
                if let Some(last) = bytes.last_mut() {
                    *last = spoiled(*last);
                    counts.count_fault();
                }
            }
            Fault::ShorterEvery(_) => {
                if bytes.pop().is_some() {
                    counts.count_fault();
                }
            }
            Fault::LongerEvery(_) => {
                bytes.push(b'+');
                counts.count_fault();
            }
            Fault::LateEvery(_) => {
                if let Some((bytes, to)) = held.replace((bytes, from)) {
                    send(&bytes, to);
                }
                counts.count_fault();
                return;
            }
        }
        send(&bytes, from);
        if let Some((bytes, to)) = held.take() {
            send(&bytes, to);
        }
    })
}

fn answer(counts: &State, socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    ignore(socket.send_to(bytes, to));
    counts.count(&counts.bytes_written, bytes.len() as u64);
}
