//! What one client says goes to all; a thread that is no part of the server tells them how long it has been up, and so does
//! whoever types a line into this terminal. `cargo run --example chat_server [ADDRESS [TICK]]`, then `nc 127.0.0.1 7010`.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use maitred::metrics::summary::Summary;
use maitred::server::{ClientId, Clients, Closed, Framing, Receive, Server};
use maitred::units::parse_duration;

struct Chat;

impl Receive for Chat {
    fn on_open(&self, clients: &Clients, id: ClientId) {
        tell_all(clients, format!("{id} has come, one of {}", clients.count()));
    }

    fn on_receive(&self, clients: &Clients, id: ClientId, line: &[u8]) {
        match line {
            b"bye" => clients.close(id),
            line => tell_all(clients, format!("{id}: {}", line.escape_ascii())),
        }
    }

    fn on_close(&self, clients: &Clients, id: ClientId, closed: Closed) {
        tell_all(clients, format!("{id} has gone: {}", closed.name()));
    }
}

fn tell_all(clients: &Clients, line: String) {
    clients.broadcast((line + "\n").into_bytes());
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let address = words.next().unwrap_or("127.0.0.1:7010".to_owned()).parse()?;
    let tick = parse_duration(&words.next().unwrap_or("10s".to_owned()))?;
    let summary = serve(address, tick, io::stdin().lines(), |address| println!("listening on {address}"))?;
    println!("{summary}");
    Ok(())
}

/// Serves until there are no more lines to tell.
pub(crate) fn serve(
    address: SocketAddr,
    tick: Duration,
    lines: impl Iterator<Item = io::Result<String>>,
    ready: impl FnOnce(SocketAddr),
) -> Result<Summary, Box<dyn Error>> {
    let server = Server::listen_on(address).framing(Framing::Line { most: 1_000 }).start(Chat)?;
    ready(server.address());
    let (over, is_over) = channel::<()>();
    let (clients, since) = (server.clients(), Instant::now());
    let ticker = thread::spawn(move || {
        while is_over.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
            tell_all(&clients, format!("up {:.1?}", since.elapsed()));
        }
    });
    for line in lines {
        tell_all(&server.clients(), line?);
    }
    drop(over);
    ticker.join().expect("it only tells");
    Ok(server.stop())
}
