//! What an idle connection costs in memory of the server.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;

use crate::account;
use crate::client::{CONNECT_TIMEOUT, connect};

/// Resident bytes per connection of `count` idle ones.
pub(crate) fn bytes_per_connection(address: SocketAddrV4, count: usize, pid: u32) -> io::Result<f64> {
    account::wait_until_quiet(pid)?;
    let before = account::resident_bytes(pid)?;
    let idle = hold(address, count)?;
    account::wait_until_quiet(pid)?;
    let after = account::resident_bytes(pid)?;
    drop(idle);
    Ok((after as f64 - before as f64) / count as f64)
}

/// Opens `count` connections, lets each echo one message, and hands them over idle.
fn hold(address: SocketAddrV4, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = connect(address)?;
        // Reset instead of FIN: thousands of ports in TIME_WAIT would starve the next variant.
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        idle.push(stream);
    }
    for mut stream in &idle {
        let mut reply = [0; 64];
        stream.write_all(&[b'i'; 64])?;
        stream.read_exact(&mut reply)?;
        if reply != [b'i'; 64] {
            return Err(io::Error::other("an idle connection echoed wrong bytes"));
        }
    }
    Ok(idle)
}
