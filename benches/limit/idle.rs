//! What an idle connection costs in memory of the server.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use maitred::net::process::{ProcessTree, resident_bytes};
use rustix::net::sockopt;

const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server is watched before it counts as quiet.
const STEP: Duration = Duration::from_millis(250);

/// Connections that come and go before memory is measured, since the first ones also pay for code and tables.
const FIRST: usize = 4;

/// Resident bytes per connection of `count` idle ones.
pub(crate) fn bytes_per_connection(address: SocketAddrV4, count: usize, pid: u32) -> io::Result<f64> {
    wait_until_quiet(pid)?;
    let before = resident_bytes(pid)?;
    let idle = hold(address, count)?;
    wait_until_quiet(pid)?;
    let after = resident_bytes(pid)?;
    drop(idle);
    Ok((after as f64 - before as f64) / count as f64)
}

/// The same of a server that may be several processes, pages that they share counted once (PSS). `forks`: their number
/// follows the connections, late. What the first connections of all cost is not counted.
pub(crate) fn shared_bytes_per_connection(
    address: SocketAddrV4,
    count: usize,
    pid: u32,
    forks: bool,
) -> io::Result<f64> {
    drop(hold(address, FIRST)?);
    let before = settled_bytes(pid, forks)?;
    let idle = hold(address, count)?;
    let after = settled_bytes(pid, forks)?;
    drop(idle);
    Ok((after as f64 - before as f64) / count as f64)
}

/// Memory of the server and its descendants when nothing happens any more.
fn settled_bytes(pid: u32, forks: bool) -> io::Result<u64> {
    // Where processes come and go, their number must have stayed for two seconds: a pool shrinks a second late.
    let (steps, limit) = if forks { (8, TIMEOUT * 4) } else { (1, TIMEOUT) };
    let deadline = Instant::now() + limit;
    let mut server = ProcessTree::watch(pid)?;
    let (mut quiet, mut processes) = (0, 0);
    loop {
        let before = server.reading();
        sleep(STEP);
        let used = server.used_since(&before);
        // A parent that looks at a hundred children ten times a second is not at rest, but nothing changes.
        let is_quiet = forks || u128::from(used.cpu_ns) < STEP.as_nanos() / 100;
        quiet = if is_quiet && used.processes == processes { quiet + 1 } else { 0 };
        processes = used.processes;
        if quiet >= steps || Instant::now() >= deadline {
            return used.rss_bytes.ok_or_else(|| io::Error::other("its memory may not be looked at"));
        }
    }
}

/// Waits until the process uses less than 1% of a CPU, at most five seconds.
fn wait_until_quiet(pid: u32) -> io::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let mut server = ProcessTree::watch(pid)?;
    while Instant::now() < deadline {
        let before = server.reading();
        sleep(STEP);
        if u128::from(server.used_since(&before).cpu_ns) < STEP.as_nanos() / 100 {
            break;
        }
    }
    Ok(())
}

/// Opens `count` connections, lets each echo one message, and hands them over idle.
fn hold(address: SocketAddrV4, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = TcpStream::connect_timeout(&address.into(), TIMEOUT)?;
        // Reset instead of FIN: thousands of ports in TIME_WAIT would starve the next variant.
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
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
