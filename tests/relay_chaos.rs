//! A relay between clients and targets that both go through chaos: a proxy on either side of it, which delays, splits, stalls,
//! half-closes and resets at points that a seed decides.
//!
//! ```text
//!   client ──▶ chaos ──▶ relay ──▶ chaos ──▶ echo
//! ```
//! What comes back is what was sent, to the last byte, or the connection was reset; never a FIN in the place of bytes. At the
//! end the daemon has no session, no ring and no socket more than before.
//!
//! Three hundred connections by default, fifty at once; `MAITRED_CHAOS=10000,2000` for more. A failure prints the seed:
//! `MAITRED_SEED=7 cargo test --test relay_chaos`.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;
#[path = "support/random.rs"]
mod random;
#[path = "support/targets.rs"]
mod targets;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Builder};
use std::time::Duration;

use maitred::random::Random;

use client::{DEADLINE, text, wait_until};
use daemon::Daemon;
use random::Draw;

/// Engines that differ in how a pair is owned and waits: by claim, by a thread of its own, by a ring.
const ENGINES: &[&str] = &["pool", "event-loop", "thread-per-connection", "proactor"];

/// A thread that only copies needs no more.
const STACK_BYTES: usize = 128 << 10;

#[test]
fn what_comes_through_chaos_is_whole_or_cut() {
    let number = |name: &str| std::env::var(name).ok();
    let seed = number("MAITRED_SEED").map_or(1, |text| text.parse().expect("a seed is a number"));
    let [connections, at_once] = number("MAITRED_CHAOS").map_or([300, 50], |text| {
        let mut parts = text.split(',').map(|part| part.parse().expect("two numbers, as in 10000,2000"));
        [(); 2].map(|()| parts.next().expect("two numbers, as in 10000,2000"))
    });
    for engine in engines::engines().iter().filter(|engine| ENGINES.contains(&engine.name)) {
        println!("MAITRED_SEED={seed} on {}", engine.name);
        soak(engine.name, seed, connections, at_once);
    }
}

fn soak(engine: &str, seed: u64, connections: usize, at_once: usize) {
    let behind = Chaos::start(targets::echo(), seed);
    let query = format!("relay=tcp://127.0.0.1:0?to=tcp://{behind}&connect_timeout=1m");
    let daemon = Daemon::echo(engine, &["--listen", &query, "--max-connections", "4096"]);
    // Some pipes are kept for the next one that has much to say.
    let sockets = || {
        let folder = format!("/proc/{}/fd", daemon.process.pid().as_raw_nonzero());
        let links = std::fs::read_dir(folder).expect("the daemon lives").flatten();
        let links = links.filter_map(|link| std::fs::read_link(link.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    };
    let before = sockets();
    let front = Chaos::start(daemon.address(), seed + 1);
    let (next, whole, cut) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..at_once {
            let talks = || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= connections {
                        return;
                    }
                    let is_whole = converse(front, &mut Random::new(seed << 32 | number as u64));
                    if is_whole { &whole } else { &cut }.fetch_add(1, Ordering::Relaxed);
                }
            };
            Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, talks).expect("a thread");
        }
    });
    let (whole, cut) = (whole.into_inner(), cut.into_inner());
    assert_eq!(whole + cut, connections as u64);
    assert!(whole > 0 && cut > 0, "chaos lets some through, {whole}, and cuts others, {cut}");
    wait_until("every session has ended", || daemon.summary_now()[1] == 0);
    wait_until("every socket is closed", || sockets() <= before);
    let summary = daemon.drain();
    assert!(summary.accepted() >= whole, "who was served was accepted");
    assert_eq!(summary.closed("panicked") + summary.closed("idle_timeout") + summary.closed("write_timeout"), 0);
}

/// One client: says something, hears it, and both end. Whether it got all of it; what it got is right either way.
fn converse(server: SocketAddr, random: &mut Random) -> bool {
    let bytes = text(random.pick(&[0, 1, 100, 5_000, 70_000, 300_000]), random.below(1000));
    let half_closes = random.once_in(2);
    let Ok(mut stream) = TcpStream::connect(server) else { return false };
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket has timeouts");
    stream.set_write_timeout(Some(DEADLINE)).expect("a socket has timeouts");
    let mut heard = Vec::with_capacity(bytes.len());
    let mut ear = stream.try_clone().expect("a second handle");
    let wanted = bytes.len();
    let ended = thread::scope(|scope| {
        let hears = || -> io::Result<bool> {
            // Who ends first is drawn: the client behind its last word, or when it has heard all.
            let mut piece = [0; 8 << 10];
            while half_closes || heard.len() < wanted {
                match ear.read(&mut piece)? {
                    0 => return Ok(true),
                    count => heard.extend_from_slice(&piece[..count]),
                }
            }
            ear.shutdown(Shutdown::Write)?;
            ear.read_to_end(&mut heard).map(|_| true)
        };
        let hears = Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, hears).expect("a thread");
        let said = stream.write_all(&bytes).and_then(|()| match half_closes {
            true => stream.shutdown(Shutdown::Write),
            false => Ok(()),
        });
        let heard = hears.join().expect("it only reads");
        said.and(heard)
    });
    assert!(bytes.starts_with(&heard), "what comes back is what was sent");
    match ended {
        Ok(_) => {
            assert_eq!(heard.len(), bytes.len(), "a FIN in the place of bytes");
            true
        }
        Err(error) => {
            assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "neither bytes nor an end");
            false
        }
    }
}

/// A proxy that disturbs.
struct Chaos;

impl Chaos {
    fn start(target: SocketAddr, seed: u64) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        rustix::net::listen(&listener, 4096).expect("it listens already");
        let address = listener.local_addr().expect("it is bound");
        let accept = move || {
            for (number, near) in listener.incoming().flatten().enumerate() {
                let random = Random::new(seed << 40 | number as u64);
                let pass = move || Chaos::pass(near, target, random);
                Builder::new().stack_size(STACK_BYTES).spawn(pass).expect("a thread");
            }
        };
        thread::spawn(accept);
        address
    }

    /// Both directions of one connection, of which one in six is reset somewhere.
    fn pass(near: TcpStream, target: SocketAddr, mut random: Random) {
        let Ok(far) = TcpStream::connect(target) else { return cut(&near) };
        let fate = |random: &mut Random| random.once_in(12).then(|| random.below(100_000));
        let (up, down) = ((fate(&mut random), random.next()), (fate(&mut random), random.next()));
        thread::scope(|scope| {
            let back = || forward(&far, &near, down.0, Random::new(down.1));
            Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, back).expect("a thread");
            forward(&near, &far, up.0, Random::new(up.1));
        });
    }
}

/// Forwards until the FIN, which it forwards, in pieces and with pauses; or resets both after so many bytes.
fn forward(mut from: &TcpStream, mut to: &TcpStream, resets_after: Option<usize>, mut random: Random) {
    let mut bytes = vec![0; 16 << 10];
    let mut left = resets_after.unwrap_or(usize::MAX);
    let result = (|| -> io::Result<()> {
        loop {
            let most = random.pick(&[1, 7, 100, 4_000, 16 << 10]);
            if random.once_in(20) {
                thread::sleep(Duration::from_millis(random.up_to(8) as u64));
            }
            let count = from.read(&mut bytes[..most])?;
            if count == 0 {
                return to.shutdown(Shutdown::Write);
            }
            if count >= left {
                to.write_all(&bytes[..left])?;
                return Err(ErrorKind::ConnectionAborted.into());
            }
            left -= count;
            to.write_all(&bytes[..count])?;
        }
    })();
    if result.is_err() {
        cut(from);
        cut(to);
    }
}

/// A reset now, whoever else holds the socket.
fn cut(stream: &TcpStream) {
    let _ = rustix::net::connect_unspec(stream);
}
