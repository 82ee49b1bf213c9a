//! What a relay costs: `maitred` that copies, that splices, and HAProxy in TCP mode (`option splice-auto`, one thread).
//!
//! Each relay is a process on one processor; clients and the target are threads of this process on another, the same for all.
//! In each round the relays take turns in shuffled order, and the first is there twice: the ratio of that pair is 1 in truth,
//! so that its interval is what the rounds can resolve. Where HAProxy is not installed its rows are left out, and the bench
//! says so. Every byte is checked. `README.md` beside this file says how to read it.

#[path = "limit/statistics.rs"]
#[allow(dead_code, reason = "`limit` asks more of it")]
mod statistics;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use maitred::net::os;
use maitred::net::process::ProcessTree;
use maitred::random::Random;
use maitred::units::parse_duration;
use statistics::{Estimate, median};

const GIB: f64 = (1_u64 << 30) as f64;

/// How long a relay may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How long anything may take on a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections that carry much at once.
const BULK_CONNECTIONS: usize = 4;

const BULK_BYTES: usize = 64 << 10;
const SMALL_BYTES: usize = 64;

#[derive(Parser)]
#[command(name = "relay", about = "CPU per GiB and added latency of relays")]
struct Arguments {
    /// How often each relay has its turn
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// How long a turn is, for each of the two loads
    #[arg(long, default_value = "500ms", value_parser = parse_duration)]
    window: Duration,
    /// The engine of maitred
    #[arg(long, default_value = "event-loop")]
    engine: String,
    /// Decides the order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// A relay that runs; killed when dropped.
struct Relay {
    about: &'static str,
    child: Child,
    address: SocketAddr,
    /// Processor nanoseconds per GiB that went through, and the median round trip: one of each per round.
    cpu_ns_per_gib: Vec<f64>,
    round_trip_ns: Vec<f64>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let processors = os::processors();
    let (for_relays, for_load) = (processors[0], processors[processors.len() - 1]);
    if for_relays == for_load {
        println!("relays and load share one processor: the ratios say little");
    }
    // What is started from here on inherits it.
    os::pin_to(for_relays)?;
    let (reserved, target) = listen()?;
    let mut relays = vec![
        maitred(arguments, target, "copies", "off")?,
        maitred(arguments, target, "copies, again", "off")?,
        maitred(arguments, target, "splices", "auto")?,
    ];
    match haproxy(target) {
        Ok(relay) => relays.push(relay),
        Err(reason) => println!("haproxy is skipped: {reason}"),
    }
    os::pin_to(for_load)?;
    thread::spawn(move || reserved.incoming().flatten().for_each(|stream| drop(thread::spawn(move || echo(stream)))));

    let mut random = Random::new(arguments.seed);
    let mut direct_ns = Vec::new();
    for _ in 0..arguments.rounds {
        direct_ns.push(round_trip(target, arguments.window / 4)?);
        let mut order: Vec<usize> = (0..relays.len()).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last + 1));
        }
        for number in order {
            let relay = &mut relays[number];
            let cost = bulk(relay, arguments.window)?;
            relay.cpu_ns_per_gib.push(cost);
            relay.round_trip_ns.push(round_trip(relay.address, arguments.window)?);
        }
    }
    report(&relays, &direct_ns);
    Ok(())
}

fn listen() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn started(about: &'static str, child: Child, address: SocketAddr) -> Relay {
    Relay { about, child, address, cpu_ns_per_gib: Vec::new(), round_trip_ns: Vec::new() }
}

fn maitred(arguments: &Arguments, target: SocketAddr, about: &'static str, zero_copy: &str) -> io::Result<Relay> {
    let listener = format!("relay=tcp://127.0.0.1:0?to=tcp://{target}&zero_copy={zero_copy}");
    let mut child = Command::new(env!("CARGO_BIN_EXE_maitred"))
        .args(["serve", "--engine", &arguments.engine, "--workers", "1", "--listen", &listener])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is a pipe")).read_line(&mut line)?;
    let address = line.trim().rsplit("tcp://").next().and_then(|address| address.parse().ok());
    match address {
        Some(address) => Ok(started(about, child, address)),
        None => {
            let _ = child.kill();
            child.wait()?;
            Err(io::Error::other(format!("maitred says {line:?}")))
        }
    }
}

fn haproxy(target: SocketAddr) -> io::Result<Relay> {
    // Let go of again at once: it must be named in the configuration.
    let (_, address) = listen()?;
    let path = std::env::temp_dir().join(format!("maitred-bench-relay-{}.cfg", std::process::id()));
    let configuration = format!(
        "global\n    nbthread 1\n    maxconn 1000\ndefaults\n    mode tcp\n    option splice-auto\n    timeout connect 5s\n    \
         timeout client 1m\n    timeout server 1m\nlisten relay\n    bind {address}\n    server target {target}\n"
    );
    std::fs::write(&path, configuration)?;
    let spawned = Command::new("haproxy")
        .args(["-db", "-f"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let relay = spawned.map(|child| started("haproxy", child, address));
    let begun = Instant::now();
    while relay.is_ok() && TcpStream::connect(address).is_err() && begun.elapsed() < START_TIMEOUT {
        thread::sleep(Duration::from_millis(10));
    }
    std::fs::remove_file(&path)?;
    relay
}

/// The target: bytes back as they came.
fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut bytes = vec![0; 256 << 10];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends messages one after the other and checks each echo, for so long; how many there were.
fn converse(stream: &mut TcpStream, bytes: usize, window: Duration) -> io::Result<u64> {
    let message: Vec<u8> = (0..bytes).map(|at| (at * 131 + at / 251) as u8).collect();
    let mut reply = vec![0; bytes];
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < window {
        stream.write_all(&message)?;
        stream.read_exact(&mut reply)?;
        if reply != message {
            return Err(io::Error::other("an echo is wrong"));
        }
        count += 1;
    }
    Ok(count)
}

/// Processor nanoseconds of the relay per GiB that it forwarded, both ways counted.
fn bulk(relay: &Relay, window: Duration) -> io::Result<f64> {
    let mut streams = (0..BULK_CONNECTIONS).map(|_| connect(relay.address)).collect::<io::Result<Vec<_>>>()?;
    for stream in &mut streams {
        converse(stream, BULK_BYTES, window / 20)?;
    }
    let mut tree = ProcessTree::watch(relay.child.id())?;
    let before = tree.reading();
    let counts: Vec<io::Result<u64>> = thread::scope(|scope| {
        let talks = streams.iter_mut().map(|stream| scope.spawn(move || converse(stream, BULK_BYTES, window)));
        talks.collect::<Vec<_>>().into_iter().map(|talk| talk.join().expect("it does not panic")).collect()
    });
    let used = tree.used_since(&before);
    let messages: u64 = counts.into_iter().sum::<io::Result<u64>>()?;
    Ok(used.cpu_ns as f64 / (messages as f64 * 2.0 * BULK_BYTES as f64 / GIB))
}

/// The median round trip of a small message, in nanoseconds.
fn round_trip(address: SocketAddr, window: Duration) -> io::Result<f64> {
    let mut stream = connect(address)?;
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < window || times.is_empty() {
        let sent = Instant::now();
        converse_once(&mut stream)?;
        times.push(sent.elapsed().as_nanos() as f64);
    }
    Ok(median(&times).expect("there is one at least"))
}

fn converse_once(stream: &mut TcpStream) -> io::Result<()> {
    let message = [7; SMALL_BYTES];
    let mut reply = [0; SMALL_BYTES];
    stream.write_all(&message)?;
    stream.read_exact(&mut reply)?;
    if reply == message { Ok(()) } else { Err(io::Error::other("an echo is wrong")) }
}

fn report(relays: &[Relay], direct_ns: &[f64]) {
    let direct = median(direct_ns).expect("there is a round at least");
    println!("a round trip of {SMALL_BYTES} bytes without a relay takes {:.1} us", direct / 1e3);
    println!("{:<15}{:>12}{:>22}{:>12}{:>22}", "relay", "CPU ms/GiB", "of the first", "adds us", "of the first");
    let first = &relays[0];
    for relay in relays {
        let added = |relay: &Relay| -> Vec<f64> {
            relay.round_trip_ns.iter().zip(direct_ns).map(|(through, direct)| (through - direct).max(1.0)).collect()
        };
        println!(
            "{:<15}{:>12.1}{:>22}{:>12.1}{:>22}",
            relay.about,
            median(&relay.cpu_ns_per_gib).expect("there is a round at least") / 1e6,
            ratio(&relay.cpu_ns_per_gib, &first.cpu_ns_per_gib),
            median(&added(relay)).expect("there is a round at least") / 1e3,
            ratio(&added(relay), &added(first)),
        );
    }
}

fn ratio(of: &[f64], to: &[f64]) -> String {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    match Estimate::of_ratios(&ratios) {
        Some(Estimate { center, interval: Some((low, high)) }) => format!("{center:.2} ({low:.2} to {high:.2})"),
        Some(Estimate { center, interval: None }) => format!("{center:.2}"),
        None => String::new(),
    }
}
