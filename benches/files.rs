//! What `files` costs, and whom it disturbs: processor time for each GiB that is sent, beside a bare loop of `sendfile`; how
//! three hundred transfers at once use each processor over time; and how far the latency of echo moves while the same daemon
//! looks at files, or hashes them, without a pause.
//!
//! Servers are processes of their own and take turns in shuffled order, each anew for each turn; `bare` is there twice: the
//! ratio of that pair is 1 in truth, so that its interval is what the rounds can resolve. `bare` has a thread for each
//! connection that says the size and sends the file by blocking calls, all of it in one if the kernel takes it; `bare loop`
//! has one thread that waits for all of them and sends what each socket takes. Each engine is to be held to the one that
//! waits as it does: with more senders than processors, whoever reads is seldom woken from an idle one, and the sender pays
//! less. `README.md` beside this file says how to read it.

#[path = "limit/statistics.rs"]
#[allow(dead_code, reason = "`limit` asks more of it")]
mod statistics;

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use maitred::net::process::ProcessTree;
use maitred::random::Random;
use maitred::units::{parse_duration, parse_size, show_duration};
use rustix::event::epoll;
use serde_json::Value;
use statistics::{Estimate, median};

const GIB: f64 = (1_u64 << 30) as f64;

/// Bytes that a client reads at once.
const READ_BYTES: usize = 256 << 10;

/// Commands that a client of the disturbed echo sends at once.
const PIPELINED: usize = 1_000;

/// Files that are hashed: more than one, so that no two jobs read the same pages at once.
const HASHED_FILES: usize = 10;

#[derive(Parser)]
#[command(name = "files", about = "Sends files beside a bare sendfile loop, and disturbs echo with them")]
struct Arguments {
    /// What is measured; all, one after the other, unless it says which
    #[arg(long)]
    only: Option<Measured>,
    /// Engines that send, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "pool,leader-followers,event-loop,event-loops,thread-per-connection,proactor,prefork"
    )]
    engines: Vec<String>,
    /// More parameters of the listeners that send, as in `piece=4MiB`
    #[arg(long, default_value = "")]
    query: String,
    /// How often each has its turn
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Bytes of the file that is sent
    #[arg(long, default_value = "64MiB", value_parser = parse_size)]
    size: usize,
    /// How often it is sent in a turn
    #[arg(long, default_value_t = 32)]
    transfers: usize,
    /// By so many clients at once
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// How long echo is measured in a turn
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    window: Duration,
    /// Echoes for each second
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// Decides the order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The daemon to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_maitred"), value_name = "PATH")]
    maitred: PathBuf,
    /// Become what sends this file barely
    #[arg(long, hide = true)]
    bare: Option<PathBuf>,
    /// By one thread for all connections
    #[arg(long, hide = true)]
    looping: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Measured {
    Get,
    Transfers,
    Echo,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.bench && arguments.bare.is_none() {
        eprintln!("files: measures under `cargo bench --bench files`");
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("files: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    if let Some(path) = &arguments.bare {
        return serve_barely(path, arguments.looping);
    }
    let is_asked_for = |measured| arguments.only.is_none_or(|only| only == measured);
    if is_asked_for(Measured::Get) {
        measure_get(arguments)?;
    }
    if is_asked_for(Measured::Transfers) {
        measure_transfers(arguments)?;
    }
    if is_asked_for(Measured::Echo) {
        measure_echo(arguments)?;
    }
    Ok(())
}

/// A server that printed `ready`; killed when it is dropped.
struct Server {
    child: Child,
    addresses: Vec<SocketAddr>,
}

impl Server {
    fn start(command: &mut Command) -> io::Result<Server> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut server = Server { child, addresses: Vec::new() };
        for line in lines {
            let line = line?;
            if line == "ready" {
                return Ok(server);
            }
            let address = line.rsplit("tcp://").next().and_then(|address| address.parse().ok());
            server.addresses.push(address.ok_or_else(|| io::Error::other(format!("no address in {line:?}")))?);
        }
        Err(io::Error::other(format!("{:?} ended before it was ready", server.child)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The least that sends a file to whoever asks.
fn serve_barely(path: &Path, looping: bool) -> io::Result<()> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening bare tcp://{}\nready", listener.local_addr()?);
    if looping { serve_in_a_loop(&file, size, &listener) } else { serve_in_threads(&file, size, &listener) }
}

fn serve_in_threads(file: &File, size: u64, listener: &TcpListener) -> io::Result<()> {
    thread::scope(|scope| {
        for stream in listener.incoming() {
            let stream = stream?;
            scope.spawn(move || {
                let mut lines = BufReader::new(&stream);
                let mut line = String::new();
                while lines.read_line(&mut line).is_ok_and(|count| count > 0) {
                    let mut at = 0;
                    if (&stream).write_all(format!("OK {size}\n").as_bytes()).is_err() {
                        return;
                    }
                    while at < size {
                        let left = (size - at) as usize;
                        if rustix::fs::sendfile(&stream, file, Some(&mut at), left).is_err() {
                            return;
                        }
                    }
                }
            });
        }
        Ok(())
    })
}

/// Edge-triggered, and without turns: a reader that is as fast as the loop keeps it.
fn serve_in_a_loop(file: &File, size: u64, listener: &TcpListener) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let mut connections: Vec<(TcpStream, u64)> = Vec::new();
    let mut events = Vec::with_capacity(64);
    loop {
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let Some(number) = (event.data.u64() as usize).checked_sub(1) else {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                let both = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
                let data = epoll::EventData::new_u64(connections.len() as u64 + 1);
                epoll::add(&epoll, &stream, data, both)?;
                connections.push((stream, size));
                continue;
            };
            let (stream, at) = &mut connections[number];
            if *at == size && (&*stream).read(&mut [0; 64]).is_ok_and(|count| count > 0) {
                (&*stream).write_all(format!("OK {size}\n").as_bytes())?;
                *at = 0;
            }
            while *at < size {
                let left = (size - *at) as usize;
                if rustix::fs::sendfile(&*stream, file, Some(at), left).is_err() {
                    break;
                }
            }
        }
    }
}

/// What one turn of a server was.
struct Turn {
    gib_per_s: f64,
    cpu_ms_per_gib: f64,
}

/// Where the two that engines are held to stand among the servers; each is there a second time behind them.
const BARE: usize = 0;
const BARE_LOOP: usize = 1;

fn measure_get(arguments: &Arguments) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("file");
    fs::write(&path, vec![7; arguments.size])?;
    let mut servers: Vec<(String, Command)> = Vec::new();
    for (at, name) in ["bare", "bare loop", "bare, again", "bare loop, again"].into_iter().enumerate() {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--bare").arg(&path).args((at % 2 == BARE_LOOP).then_some("--looping"));
        servers.push((name.to_owned(), command));
    }
    for engine in &arguments.engines {
        for send in ["sendfile", "copy"] {
            let mut command = Command::new(&arguments.maitred);
            let root = folder.path().display();
            let listener = format!("files=tcp://127.0.0.1:0?root={root}&send={send}&{}", arguments.query);
            command.args(["serve", "--engine", engine, "--listen", &listener]);
            servers.push((format!("{engine}, {send}"), command));
        }
    }
    let mut turns: Vec<Vec<Turn>> = servers.iter().map(|_| Vec::new()).collect();
    in_turns(arguments, servers.len(), |at| {
        turns[at].push(get(arguments, &mut servers[at].1)?);
        Ok(())
    })?;
    let Arguments { size, transfers, clients, rounds, .. } = arguments;
    println!("a file of {size} B, sent {transfers} times to {clients} clients; medians of {rounds} rounds");
    println!("  {:<32} {:>8} {:>11} {:>21} {:>21}", "server", "GiB/s", "CPU ms/GiB", "to bare", "to bare loop");
    let of = |at: usize, value: fn(&Turn) -> f64| turns[at].iter().map(value).collect::<Vec<f64>>();
    for (at, (name, _)) in servers.iter().enumerate() {
        let speed = median(&of(at, |turn| turn.gib_per_s)).unwrap_or(f64::NAN);
        let cpu = |at| of(at, |turn| turn.cpu_ms_per_gib);
        let [(own, to_bare), (_, to_loop)] =
            [BARE, BARE_LOOP].map(|first| compared(&cpu(at), &cpu(first), at == first));
        println!("  {name:<32} {speed:>8.2} {own:>11.1} {to_bare:>21} {to_loop:>21}");
    }
    println!();
    Ok(())
}

/// Sends the file so many times, and says what that took.
fn get(arguments: &Arguments, command: &mut Command) -> io::Result<Turn> {
    let server = Server::start(command)?;
    let address = server.addresses[0];
    // Brings everything into memory, and threads into being.
    transfer(&mut Asking::connect(address)?, arguments.size)?;
    let mut tree = ProcessTree::watch(server.child.id())?;
    let mut clients = (0..arguments.clients).map(|_| Asking::connect(address)).collect::<io::Result<Vec<_>>>()?;
    let (before, begun) = (tree.reading(), Instant::now());
    let left = AtomicU64::new(arguments.transfers as u64);
    thread::scope(|scope| {
        let running: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let take = |left: u64| left.checked_sub(1);
                let left = &left;
                scope.spawn(move || -> io::Result<()> {
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                        transfer(client, arguments.size)?;
                    }
                    Ok(())
                })
            })
            .collect();
        running.into_iter().try_for_each(|client| client.join().expect("it does not panic"))
    })?;
    let elapsed = begun.elapsed();
    let used = tree.used_since(&before);
    let gib = (arguments.transfers * arguments.size) as f64 / GIB;
    Ok(Turn { gib_per_s: gib / elapsed.as_secs_f64(), cpu_ms_per_gib: used.cpu_ns as f64 / 1e6 / gib })
}

/// A client that asks in lines.
struct Asking(BufReader<TcpStream>);

impl Asking {
    fn connect(address: SocketAddr) -> io::Result<Asking> {
        Ok(Asking(BufReader::with_capacity(READ_BYTES, TcpStream::connect(address)?)))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        if line.starts_with("OK ") { Ok(line) } else { Err(io::Error::other(format!("the answer was {line:?}"))) }
    }
}

fn transfer(client: &mut Asking, size: usize) -> io::Result<()> {
    client.0.get_mut().write_all(b"GET file\n")?;
    if client.line()? != format!("OK {size}\n") {
        return Err(io::Error::other("the size is wrong"));
    }
    let read = io::copy(&mut client.0.by_ref().take(size as u64), &mut io::sink())?;
    if read == size as u64 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// How many transfers there are at once, of how many bytes.
const AT_ONCE: usize = 300;
const TRANSFER_BYTES: usize = 16 << 20;

/// How often the processors are looked at while transfers run.
const LOOK: Duration = Duration::from_millis(100);

/// Has `maitred load` transfer a file of random bytes on many connections, from each engine once, and draws what each processor
/// did meanwhile, whoever used it.
fn measure_transfers(arguments: &Arguments) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut random = Random::new(arguments.seed);
    let bytes: Vec<u8> = (0..TRANSFER_BYTES / 8).flat_map(|_| random.next().to_ne_bytes()).collect();
    fs::write(folder.path().join("file"), bytes)?;
    println!(
        "{AT_ONCE} transfers of {TRANSFER_BYTES} B at once for {}, each byte compared; use of each processor by server and \
         clients together,\n  a letter for {}: 0 a tenth and less, 9 nine tenths and more",
        show_duration(arguments.window),
        show_duration(LOOK)
    );
    println!("  {:<32} {:>8} {:>11}  of each processor", "server", "GiB/s", "CPU ms/GiB");
    for engine in &arguments.engines {
        for send in ["sendfile", "copy"] {
            let listener = format!("files=tcp://127.0.0.1:0?root={}&send={send}", folder.path().display());
            let mut serve = Command::new(&arguments.maitred);
            serve.args(["serve", "--engine", engine, "--listen", &listener]);
            if engine == "prefork" {
                // One for each client, or the last of them would wait for the others to leave.
                serve.args(["--max-processes", &AT_ONCE.to_string()]);
            }
            let server = Server::start(&mut serve)?;
            let ((report, status), looks) = looking(|| load_files(arguments, &server))?;
            if !status || report["errors"].as_object().is_none_or(|errors| !errors.is_empty()) {
                return Err(io::Error::other(format!("{engine}, {send}: errors {}", report["errors"])));
            }
            // By bytes and not by transfers, which take about as long as the window and end together.
            let figure = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
            let (gib, window_s) = (figure(&report["bytes_received"]) / GIB, figure(&report["duration_s"]));
            let cpu_ms = figure(&report["server"]["cpu_util"]) * window_s * 1e3;
            let name = format!("{engine}, {send}");
            println!("  {name:<32} {:>8.2} {:>11.1}  {}", gib / window_s, cpu_ms / gib, looks.join(" "));
        }
    }
    println!();
    Ok(())
}

/// The report of such a load, and whether it ended well.
fn load_files(arguments: &Arguments, server: &Server) -> io::Result<(Value, bool)> {
    let mut load = Command::new(&arguments.maitred);
    load.args(["load", &format!("files=tcp://{}", server.addresses[0]), "--path", "file", "--quiet", "--json"]);
    load.args(["--connections", &AT_ONCE.to_string(), "--duration", &show_duration(arguments.window)]);
    // Three hundred at once take seconds each.
    load.args(["--warmup", "300ms", "--grace", "30s", "--pid", &server.child.id().to_string()]);
    let output = load.output()?;
    Ok((serde_json::from_slice(&output.stdout)?, output.status.success()))
}

/// Does something while the processors are looked at; for each a line of digits.
fn looking<T>(what: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Vec<String>)> {
    let is_over = AtomicBool::new(false);
    let (done, looks) = thread::scope(|scope| {
        let looker = scope.spawn(|| -> io::Result<Vec<String>> {
            let mut before = processors()?;
            let mut lines = vec![String::new(); before.len()];
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(LOOK);
                let now = processors()?;
                for ((line, now), before) in lines.iter_mut().zip(&now).zip(&before) {
                    // The kernel's account of idle time may step back by a tick.
                    let (busy, all) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1).max(1));
                    line.push(char::from(b'0' + (busy * 10 / all).min(9) as u8));
                }
                before = now;
            }
            Ok(lines)
        });
        let done = what();
        is_over.store(true, Ordering::Relaxed);
        (done, looker.join().expect("it does not panic"))
    });
    Ok((done?, looks?))
}

/// For each processor its time in use and all its time, in ticks of the kernel.
fn processors() -> io::Result<Vec<(u64, u64)>> {
    let text = fs::read_to_string("/proc/stat")?;
    let lines = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    let of = |line: &str| {
        // user nice system idle iowait irq softirq steal
        let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        let all: u64 = ticks.iter().sum();
        (all - ticks.get(3).unwrap_or(&0) - ticks.get(4).unwrap_or(&0), all)
    };
    Ok(lines.map(of).collect())
}

/// What disturbs echo, and by what command.
const DISTURBED: [(&str, Option<&str>); 4] =
    [("nothing", None), ("nothing, again", None), ("STAT", Some("STAT")), ("HASH of 16 MiB", Some("HASH"))];

/// Latencies of echo in one turn, and how often the other commands were answered for each second.
struct Disturbed {
    p50_us: f64,
    p99_us: f64,
    others_per_s: f64,
}

fn measure_echo(arguments: &Arguments) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    for number in 0..HASHED_FILES {
        fs::write(folder.path().join(format!("{number}")), vec![number as u8; 16 << 20])?;
    }
    let mut turns: Vec<Vec<Disturbed>> = DISTURBED.iter().map(|_| Vec::new()).collect();
    in_turns(arguments, DISTURBED.len(), |at| {
        turns[at].push(disturb(arguments, folder.path(), DISTURBED[at].1)?);
        Ok(())
    })?;
    println!(
        "echo of 64 B, {} for each second, while ten clients ask for files without a pause; medians of {} rounds of {}",
        arguments.rate,
        arguments.rounds,
        show_duration(arguments.window)
    );
    println!("  {:<16} {:>8} {:>21} {:>8} {:>21} {:>12}", "beside", "p50 us", "ratio", "p99 us", "ratio", "answers/s");
    for (at, (name, _)) in DISTURBED.iter().enumerate() {
        let of = |value: fn(&Disturbed) -> f64, at: usize| turns[at].iter().map(value).collect::<Vec<f64>>();
        let [p50, p99] = [|turn: &Disturbed| turn.p50_us, |turn: &Disturbed| turn.p99_us]
            .map(|value| compared(&of(value, at), &of(value, 0), at == 0));
        let others = median(&of(|turn| turn.others_per_s, at)).unwrap_or(f64::NAN);
        println!("  {name:<16} {:>8.0} {:>21} {:>8.0} {:>21} {others:>12.0}", p50.0, p50.1, p99.0, p99.1);
    }
    Ok(())
}

/// One turn of echo on the default engine, beside ten clients that repeat a command if there is one.
fn disturb(arguments: &Arguments, folder: &Path, command: Option<&str>) -> io::Result<Disturbed> {
    let listener = format!("files=tcp://127.0.0.1:0?root={}", folder.display());
    let mut serve = Command::new(&arguments.maitred);
    serve.args(["serve", "--listen", &listener, "--listen", "echo=tcp://127.0.0.1:0"]);
    let server = Server::start(&mut serve)?;
    let [files, echo] = server.addresses[..] else { return Err(io::Error::other("it listens twice")) };
    let (ends, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let (report, elapsed) = thread::scope(|scope| {
        let clients: Vec<_> = (0..HASHED_FILES)
            .filter_map(|number| {
                let command = format!("{} {number}\n", command?);
                let (ends, answers) = (&ends, &answers);
                Some(scope.spawn(move || ask(files, &command, ends, answers)))
            })
            .collect();
        let begun = Instant::now();
        let mut load = Command::new(&arguments.maitred);
        load.args(["load", &format!("tcp://{echo}"), "--connections", "8", "--rate", &arguments.rate.to_string()]);
        load.args(["--duration", &show_duration(arguments.window), "--warmup", "300ms", "--quiet", "--json"]);
        let output = load.output();
        let elapsed = begun.elapsed();
        ends.store(true, Ordering::Relaxed);
        clients.into_iter().try_for_each(|client| client.join().expect("it does not panic"))?;
        output.map(|output| (output.stdout, elapsed))
    })?;
    let report: Value = serde_json::from_slice(&report)?;
    let quantile = |name: &str| report["latency_ns"][name].as_f64().map_or(f64::NAN, |ns| ns / 1e3);
    if report["errors"].as_object().is_none_or(|errors| !errors.is_empty()) {
        return Err(io::Error::other(format!("echo had errors: {}", report["errors"])));
    }
    let others_per_s = answers.into_inner() as f64 / elapsed.as_secs_f64();
    Ok(Disturbed { p50_us: quantile("p50"), p99_us: quantile("p99"), others_per_s })
}

/// Pipelines a command until it `ends`, and counts the answers.
fn ask(files: SocketAddr, command: &str, ends: &AtomicBool, answers: &AtomicU64) -> io::Result<()> {
    let mut client = Asking::connect(files)?;
    // Of what takes long only few, or the last of them would be waited for.
    let pipelined = if command.starts_with("STAT") { PIPELINED } else { 2 };
    while !ends.load(Ordering::Relaxed) {
        client.0.get_mut().write_all(command.repeat(pipelined).as_bytes())?;
        for _ in 0..pipelined {
            client.line()?;
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Has each of so many its turn in each round, in shuffled order.
fn in_turns(arguments: &Arguments, count: usize, mut turn: impl FnMut(usize) -> io::Result<()>) -> io::Result<()> {
    let mut random = Random::new(arguments.seed);
    for _ in 0..arguments.rounds {
        let mut order: Vec<usize> = (0..count).collect();
        random.shuffle(&mut order);
        order.into_iter().try_for_each(&mut turn)?;
    }
    Ok(())
}

/// The median, and the ratio to the first of all as people read it.
fn compared(own: &[f64], first: &[f64], is_first: bool) -> (f64, String) {
    let ratios: Vec<f64> = own.iter().zip(first).map(|(own, first)| own / first).collect();
    let shown = match Estimate::of_ratios(&ratios).filter(|_| !is_first) {
        Some(Estimate { center, interval: Some((low, high)) }) => format!("{center:.3} [{low:.3}, {high:.3}]"),
        Some(Estimate { center, interval: None }) => format!("{center:.3}"),
        None => String::new(),
    };
    (median(own).unwrap_or(f64::NAN), shown)
}
