//! The smallest server: what a client says is sent back to it. Ends with the first line that is typed.
//! `cargo run --release --example echo_server [ADDRESS [ENGINE]]`, then `maitred load tcp://127.0.0.1:7008`.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use maitred::config::ENGINE;
use maitred::error::Error as Refused;
use maitred::server::{ClientId, Clients, Pace, Posted, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let address = words.next().unwrap_or("127.0.0.1:7008".to_owned()).parse()?;
    let server = start(address, &words.next().unwrap_or(ENGINE.to_owned()))?;
    println!("listening on {}", server.address());
    io::stdin().read_line(&mut String::new())?;
    println!("{}", server.stop());
    Ok(())
}

pub(crate) fn start(address: SocketAddr, engine: &str) -> Result<Server, Refused> {
    let echo = |clients: &Clients, id: ClientId, data: &[u8]| {
        // There is room: whoever takes no replies is not listened to.
        assert_ne!(clients.send(id, data), Posted::Full);
    };
    // It never waits for anything, so that a thread for which others wait may call it as well.
    Server::listen_on(address).engine(engine).pace(Pace::Brief).start(echo)
}
