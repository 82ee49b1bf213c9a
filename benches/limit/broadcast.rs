//! Chat against the least that one message to many can cost: a loop that reads a message and writes it to every other
//! connection, one `send` each, with no mailbox, no frame found, no order to keep and nobody slow.
//!
//! Servers and load run on a CPU each, in turns. The load sends at a fixed rate, low enough that nobody falls behind: each
//! delivery is a write of its own then, on all sides. `CPU ns/delivery` is the server's time by the messages, by their
//! recipients.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags, sockopt};
use serde_json::json;

use crate::compare::RESOLVED;
use crate::load::{self, Cpus, Report};
use crate::machine::{Host, be_alone};
use crate::report::{estimate_to_json, show_ratio, show_value};
use crate::statistics::{Estimate, median};
use crate::{Broadcast, bare, process, rows, words};

/// One sender at a time and a thousand who hear it: 30,000 deliveries a second.
pub(crate) const LOAD: &str = "--connections 1001 --size 64 --rate 30";

/// The share of the bare loop's deliveries per CPU second that chat is held to.
const GOAL: f64 = 0.85;

const LISTENER: u64 = u64::MAX;

/// Serves until stdin closes or a signal comes. A message is what one read brings, and must be whole.
pub(crate) fn serve() -> io::Result<()> {
    let listener = bare::listeners(1)?.remove(0);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: Vec<Option<OwnedFd>> = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let mut events = Vec::with_capacity(1024);
    loop {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            if event.data.u64() == LISTENER {
                accept(&epoll, &listener, &mut connections)?;
                continue;
            }
            let speaker = event.data.u64() as usize;
            let Some(Some(socket)) = connections.get(speaker) else { continue };
            match net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => connections[speaker] = None,
                Ok((read, _)) => tell_others(&connections, speaker, &buffer[..read])?,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => connections[speaker] = None,
            }
        }
    }
}

fn accept(epoll: &OwnedFd, listener: &OwnedFd, connections: &mut Vec<Option<OwnedFd>>) -> io::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = match net::accept_with(listener, flags) {
        Ok(socket) => socket,
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    sockopt::set_tcp_nodelay(&socket, true)?;
    let index = socket.as_raw_fd() as usize;
    epoll::add(epoll, &socket, EventData::new_u64(index as u64), EventFlags::IN | EventFlags::RDHUP | EventFlags::ET)?;
    if index >= connections.len() {
        connections.resize_with(index + 1, || None);
    }
    connections[index] = Some(socket);
    Ok(())
}

fn tell_others(connections: &[Option<OwnedFd>], speaker: usize, message: &[u8]) -> io::Result<()> {
    for (index, socket) in connections.iter().enumerate() {
        let Some(socket) = socket.as_ref().filter(|_| index != speaker) else { continue };
        match net::send(socket.as_fd(), message, SendFlags::NOSIGNAL) {
            Ok(written) if written == message.len() => {}
            Err(Errno::PIPE | Errno::CONNRESET) => {}
            other => return Err(io::Error::other(format!("somebody is behind: {other:?}"))),
        }
    }
    Ok(())
}

pub(crate) fn run(arguments: &Broadcast) -> io::Result<()> {
    let [server, load] = process::two_cpus()?;
    let cpus = Cpus { server: Some(server), load: Some(load) };
    let _alone = be_alone()?;
    let flags = format!("chat {}", arguments.load);
    let recipients = rows::plan(&flags).connections as f64 - 1.0;
    let names = names(arguments);
    let commands = commands(arguments)?;
    let subjects: Vec<_> = commands.iter().map(|command| load::Subject { command, flags: &flags }).collect();
    println!("chat, {}; server on CPU {server}, load on CPU {load}", load::show(&rows::plan(&flags)));
    let mut rounds: Vec<Vec<Report>> = Vec::new();
    for round in 1..=*arguments.turns.rounds.end() {
        let mut random = arguments.turns.random(round);
        let (reports, _) = load::round(&subjects, cpus, &arguments.turns, &mut random)?;
        rounds.push(reports);
        let is_resolved = |variant| ratio(&rounds, variant).is_some_and(|ratio| ratio.is_within(RESOLVED));
        if round >= *arguments.turns.rounds.start() && (1..names.len()).all(is_resolved) {
            break;
        }
    }
    println!(
        "{:<24}{:>18}{:>14}  deliveries per CPU second, to the bare loop's [95%]",
        "", "CPU ns/delivery", "p99 us"
    );
    let mut rows = Vec::new();
    for (variant, name) in names.iter().enumerate() {
        let of = |value: fn(&Report) -> f64| {
            median(&rounds.iter().map(|reports| value(&reports[variant])).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        let cpu_ns = of(|report| report.server.cpu_ns_per_request) / recipients;
        let ratio = ratio(&rounds, variant);
        println!(
            "{name:<24}{:>18}{:>14.0}  {}",
            show_value(cpu_ns),
            of(|report| report.latency_ns.p99 as f64) / 1e3,
            ratio.map_or_else(String::new, show_ratio),
        );
        rows.push(json!({
            "name": name, "cpu_ns_per_delivery": cpu_ns, "ratio": ratio.map(estimate_to_json), "goal": GOAL,
            "rounds": rounds.iter().map(|reports| &reports[variant]).collect::<Vec<_>>(),
        }));
    }
    if let Some(path) = &arguments.json {
        let all = json!({
            "schema": "maitred.limit-broadcast/1", "host": Host::read(), "load": arguments.load,
            "seed": arguments.turns.seed, "rows": rows,
        });
        fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(())
}

/// Deliveries per CPU second of a variant, by those of the bare loop.
fn ratio(rounds: &[Vec<Report>], variant: usize) -> Option<Estimate> {
    let cpu_ns = |report: &Report| report.server.cpu_ns_per_request;
    let ratios: Vec<f64> = rounds.iter().map(|reports| cpu_ns(&reports[0]) / cpu_ns(&reports[variant])).collect();
    Estimate::of_ratios(&ratios)
}

fn variants(arguments: &Broadcast) -> Vec<(String, String)> {
    match arguments.variant.as_slice() {
        [] => ["event-loop", "pool"].map(|engine| (engine.to_owned(), format!("--engine {engine} --workers 1"))).into(),
        given => given.to_vec(),
    }
}

fn names(arguments: &Broadcast) -> Vec<String> {
    let own = ["bare".to_owned(), "bare-again".to_owned()];
    own.into_iter().chain(variants(arguments).into_iter().map(|(name, _)| name)).collect()
}

fn commands(arguments: &Broadcast) -> io::Result<Vec<Vec<OsString>>> {
    let bare: Vec<OsString> = vec![std::env::current_exe()?.into(), "serve".into(), "--broadcast".into()];
    let daemon = |(_, flags): (String, String)| {
        let mut command: Vec<OsString> = vec![arguments.maitred.clone().into(), "serve".into()];
        if !flags.contains("--listen") {
            command.extend(["--listen".into(), "chat=tcp://127.0.0.1:0".into()]);
        }
        command.extend(words(&flags).into_iter().map(OsString::from));
        command
    };
    let daemons = variants(arguments).into_iter().map(daemon);
    Ok([bare.clone(), bare].into_iter().chain(daemons).collect())
}
