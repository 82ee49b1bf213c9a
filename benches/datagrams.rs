//! What batches, splitting and joining save: an echo of datagrams by every way that a socket has, against one by one.
//!
//! Server and client are threads of this process, each on a processor of its own; the server does nothing but to wait and
//! to [`exchange`](DatagramSocket::exchange), the client is the same for all servers of a row. In each round the servers
//! take turns in shuffled order, and `one by one` is there twice: the ratio of that pair is 1 in truth, so that its
//! interval is what the rounds can resolve. Every answer is checked. `README.md` beside this file says how to read it.

#[path = "limit/statistics.rs"]
#[allow(dead_code, reason = "`limit` asks more of it")]
mod statistics;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use maitred::net::batch::{Inbox, Outbox, Sent, Switches, turn_on};
use maitred::net::os;
use maitred::net::udp::{DatagramSocket, Exchange, Use};
use maitred::random::Random;
use maitred::units::parse_duration;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustix::thread::ClockId;
use statistics::{Estimate, median};

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What the kernel is asked to hold on both sides: more than is ever in flight.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// After so long, what is in flight is lost.
const LOST_AFTER: Duration = Duration::from_millis(100);

/// Load on a new server before it is measured.
const WARM_UP: Duration = Duration::from_millis(20);

#[derive(Parser)]
#[command(name = "datagrams", about = "Echoes datagrams in batches, and one by one")]
struct Arguments {
    /// How often each server has its turn
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// How long a turn is
    #[arg(long, default_value = "200ms", value_parser = parse_duration)]
    window: Duration,
    /// Decides the order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// A load, and the servers that are compared under it.
struct Row {
    about: &'static str,
    bytes: usize,
    in_flight: usize,
    /// Whether the client sends and receives joined.
    is_joined: bool,
    servers: &'static [(&'static str, Switches)],
}

const MMSG: Switches = Switches { mmsg: true, ..Switches::OFF };

/// The first is what the others are compared with.
const ROWS: [Row; 2] = [
    Row {
        about: "64 B, each sent by itself",
        bytes: 64,
        in_flight: 64,
        is_joined: false,
        servers: &[
            ("one by one", Switches::OFF),
            ("one by one, again", Switches::OFF),
            ("mmsg", MMSG),
            ("mmsg, gso, gro", Switches::ON),
        ],
    },
    Row {
        about: "1,200 B, sent joined",
        bytes: 1_200,
        in_flight: 54 * 8,
        is_joined: true,
        servers: &[
            ("one by one", Switches::OFF),
            ("one by one, again", Switches::OFF),
            ("mmsg", MMSG),
            ("mmsg, gso", Switches { gro: false, ..Switches::ON }),
            ("mmsg, gro", Switches { gso: false, ..Switches::ON }),
            ("gso, gro", Switches { mmsg: false, ..Switches::ON }),
            ("mmsg, gso, gro", Switches::ON),
        ],
    },
];

/// What one turn of a server was.
struct Turn {
    answers_per_s: f64,
    cpu_ns: f64,
    /// Datagrams that the server received at once.
    per_batch: f64,
    lost: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.bench {
        eprintln!("datagrams: measures under `cargo bench --bench datagrams`");
        return ExitCode::SUCCESS;
    }
    match ROWS.iter().try_for_each(|row| measure(row, &arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("datagrams: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(row: &Row, arguments: &Arguments) -> io::Result<()> {
    let mut random = Random::new(arguments.seed);
    let mut turns: Vec<Vec<Turn>> = row.servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..arguments.rounds {
        let mut order: Vec<usize> = (0..row.servers.len()).collect();
        random.shuffle(&mut order);
        for server in order {
            turns[server].push(turn(row, row.servers[server].1, arguments.window)?);
        }
    }
    println!(
        "{}, {} in flight; medians of {} rounds of {:?}",
        row.about, row.in_flight, arguments.rounds, arguments.window
    );
    println!(
        "  {:<18} {:>11} {:>21} {:>10} {:>21} {:>9}",
        "server", "answers/s", "ratio", "CPU ns", "ratio", "per batch"
    );
    let lost: u64 = turns.iter().flatten().map(|turn| turn.lost).sum();
    for (server, (name, _)) in row.servers.iter().enumerate() {
        let of = |value: fn(&Turn) -> f64, server: usize| turns[server].iter().map(value).collect::<Vec<f64>>();
        let shown = |value: fn(&Turn) -> f64| {
            let (own, first) = (of(value, server), of(value, 0));
            let ratios: Vec<f64> = own.iter().zip(&first).map(|(own, first)| own / first).collect();
            let ratio = if server == 0 { String::new() } else { show(&Estimate::of_ratios(&ratios)) };
            (median(&own).unwrap_or(f64::NAN), ratio)
        };
        let (answers, answers_ratio) = shown(|turn| turn.answers_per_s);
        let (cpu_ns, cpu_ratio) = shown(|turn| turn.cpu_ns);
        let (per_batch, _) = shown(|turn| turn.per_batch);
        println!("  {name:<18} {answers:>11.0} {answers_ratio:>21} {cpu_ns:>10.0} {cpu_ratio:>21} {per_batch:>9.1}");
    }
    println!("  {lost} datagrams were lost\n");
    Ok(())
}

fn show(ratio: &Option<Estimate>) -> String {
    match ratio {
        Some(Estimate { center, interval: Some((low, high)) }) => format!("{center:.3} [{low:.3}, {high:.3}]"),
        Some(Estimate { center, interval: None }) => format!("{center:.3}"),
        None => String::new(),
    }
}

/// One server under the load of its row.
fn turn(row: &Row, switches: Switches, window: Duration) -> io::Result<Turn> {
    let purpose = Use {
        switches,
        longest_request: row.bytes,
        longest_answer: row.bytes,
        receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
    };
    let server = DatagramSocket::bind(LOCAL, purpose)?;
    if server.switches() != switches {
        return Err(io::Error::other(format!("this kernel has no more than {:?}", server.switches())));
    }
    let mut client = Client::new(row, server.address())?;
    let [server_cpu, client_cpu] = two_cpus();
    os::pin_to(client_cpu)?;
    thread::scope(|scope| {
        let server = scope.spawn(move || serve(server, server_cpu));
        client.run(WARM_UP)?;
        // An empty datagram begins what the server counts, and another ends it.
        client.mark()?;
        let (answers, elapsed) = client.run(window)?;
        client.mark()?;
        let served = server.join().expect("it does not panic")?;
        Ok(Turn {
            answers_per_s: answers as f64 / elapsed.as_secs_f64(),
            cpu_ns: served.cpu_ns as f64 / served.answers as f64,
            per_batch: served.answers as f64 / served.batches as f64,
            lost: client.lost,
        })
    })
}

/// What a server did between two marks.
struct Served {
    cpu_ns: u64,
    answers: u64,
    batches: u64,
}

/// Echoes until the second mark.
fn serve(mut server: DatagramSocket, cpu: usize) -> io::Result<Served> {
    os::pin_to(cpu)?;
    let mut marks = Vec::new();
    while marks.len() < 2 {
        os::wait_for_input(server.as_fd());
        let mut is_marked = false;
        loop {
            let exchange = server.exchange(|datagram, memory| {
                is_marked |= datagram.bytes.is_empty();
                memory[..datagram.bytes.len()].copy_from_slice(datagram.bytes);
                Some(datagram.bytes.len())
            });
            match exchange {
                Exchange::Drained => break,
                Exchange::More => {}
                Exchange::Blocked => assert!(os::takes_output(server.as_fd(), LOST_AFTER), "loopback takes all"),
            }
        }
        if is_marked {
            let (received, sent) = server.counts();
            marks.push(Served { cpu_ns: cpu_ns(), answers: sent.datagrams, batches: received.batches });
        }
    }
    let [begin, end] = marks.try_into().unwrap_or_else(|_| unreachable!("one is made after the other"));
    Ok(Served {
        cpu_ns: end.cpu_ns - begin.cpu_ns,
        answers: end.answers - begin.answers,
        batches: end.batches - begin.batches,
    })
}

fn cpu_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Two processors that this process may use; one, if there is no other.
fn two_cpus() -> [usize; 2] {
    match os::processors().as_slice() {
        [first, second, ..] => [*first, *second],
        only => [only[0]; 2],
    }
}

/// Keeps datagrams in flight.
struct Client {
    socket: UdpSocket,
    server: SocketAddr,
    switches: Switches,
    inbox: Inbox,
    outbox: Outbox,
    message: Vec<u8>,
    most_in_flight: usize,
    /// So many are sent at once, as one message where they are joined.
    burst: usize,
    in_flight: usize,
    lost: u64,
}

impl Client {
    fn new(row: &Row, server: SocketAddr) -> io::Result<Client> {
        let socket = UdpSocket::bind(LOCAL)?;
        socket.set_nonblocking(true)?;
        sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES)?;
        let wanted = if row.is_joined { Switches::ON } else { MMSG };
        let switches = turn_on(socket.as_fd(), wanted);
        Ok(Client {
            socket,
            server,
            switches,
            inbox: Inbox::new(row.bytes, switches.gro),
            outbox: Outbox::new(row.bytes, switches.gso),
            message: (0..row.bytes).map(|place| place as u8).collect(),
            most_in_flight: row.in_flight,
            burst: if row.is_joined { 54 } else { 1 },
            in_flight: 0,
            lost: 0,
        })
    }

    /// Keeps the server busy for so long, then waits for what is in flight; the answers until then, and how long it was.
    fn run(&mut self, window: Duration) -> io::Result<(u64, Duration)> {
        let (begin, mut answers) = (Instant::now(), 0);
        loop {
            while self.in_flight + self.burst <= self.most_in_flight {
                (0..self.burst).for_each(|_| self.put());
            }
            self.flush();
            answers += self.receive()?;
            let elapsed = begin.elapsed();
            if elapsed >= window {
                while self.in_flight > 0 {
                    self.receive()?;
                }
                return Ok((answers, elapsed));
            }
        }
    }

    /// Sends an empty datagram and waits until it comes back.
    fn mark(&mut self) -> io::Result<()> {
        let message = std::mem::take(&mut self.message);
        self.put();
        self.flush();
        self.receive()?;
        self.message = message;
        Ok(())
    }

    fn put(&mut self) {
        if self.outbox.room().is_none() {
            self.flush();
        }
        let room = self.outbox.room().expect("all has been sent");
        room[..self.message.len()].copy_from_slice(&self.message);
        self.outbox.put(self.message.len(), self.server, None);
        self.in_flight += 1;
    }

    fn flush(&mut self) {
        while self.outbox.send(self.socket.as_fd(), self.switches.mmsg) == Sent::Blocked {
            assert!(os::takes_output(self.socket.as_fd(), LOST_AFTER), "loopback takes all");
        }
    }

    /// Waits for answers and takes all that have come.
    fn receive(&mut self) -> io::Result<u64> {
        let patience = Timespec { tv_sec: 0, tv_nsec: LOST_AFTER.as_nanos() as i64 };
        if poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&patience))? == 0 {
            self.lost += self.in_flight as u64;
            self.in_flight = 0;
        }
        let mut answers = 0;
        while self.inbox.receive(self.socket.as_fd(), self.switches.mmsg) {
            while let Some(datagram) = self.inbox.take_next() {
                if datagram.bytes != self.message {
                    return Err(io::Error::other("an answer is wrong"));
                }
                answers += 1;
                self.in_flight = self.in_flight.saturating_sub(1);
            }
            if !self.inbox.was_filled() {
                break;
            }
        }
        Ok(answers)
    }
}
