//! What only engines with processes can go through: children that are killed or stopped, a parent that dies, a pool that
//! grows and shrinks, and children that cannot be kept alive.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/process.rs"]
mod process;

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use maitred::engine::ENGINES;

use client::{Client, text, wait_until};
use daemon::Daemon;
use engines::Told;
use process::check_all;

/// The engines that fork.
fn forking() -> impl Iterator<Item = &'static str> {
    ENGINES.iter().filter(|engine| engine.forks).map(|engine| engine.name)
}

fn for_each(test: impl Fn(&str) + Sync) {
    check_all(forking(), |engine| {
        let _told = Told(format!("on the engine {engine}"));
        test(engine);
    });
}

/// The children of the daemon that are alive.
fn children(daemon: &Daemon) -> Vec<Pid> {
    let parent = daemon.process.pid();
    daemon.process.family().into_iter().filter(|pid| *pid != parent && is_alive(*pid)).collect()
}

fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z') && !rest.is_empty())
}

/// Kills a child that may have ended meanwhile.
fn kill(child: Pid) {
    let _ = kill_process(child, Signal::KILL);
}

/// The child that has this client's session: the one that holds the other end of its connection.
fn server_of(daemon: &Daemon, client: &mut Client) -> Pid {
    client.echo(b"whose are you?");
    let [near, far] = [client.0.local_addr(), client.0.peer_addr()].map(|end| end.expect("it is connected").port());
    let table = fs::read_to_string("/proc/net/tcp").expect("it can be read");
    let ends = format!(":{far:04X} 0100007F:{near:04X} ");
    let line = table.lines().find(|line| line.contains(&ends)).expect("the kernel knows the connection");
    let socket = format!("socket:[{}]", line.split_whitespace().nth(9).expect("its inode"));
    let holds = |pid: &Pid| {
        let open = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| link.as_os_str() == socket.as_str())
    };
    children(daemon).into_iter().find(holds).expect("some child has it")
}

#[test]
fn a_killed_child_takes_its_session_and_nothing_else() {
    for_each(|engine| {
        let daemon = Daemon::echo(engine, &[]);
        let mut bystander = Client::connect(daemon.address());
        bystander.echo(b"here");
        for round in 0..20 {
            let mut victim = Client::connect(daemon.address());
            let child = server_of(&daemon, &mut victim);
            assert_ne!(child, server_of(&daemon, &mut bystander));
            // In the middle of something, most of the time.
            victim.send(&text(round * 3_000, round));
            kill_process(child, Signal::KILL).expect("it is alive");
            victim.wait_for_end();
            bystander.echo(&text(5_000, round));
        }
        Client::connect(daemon.address()).echo(b"and whoever comes is served");
        drop(bystander);
        let summary = daemon.drain();
        assert_eq!((summary.accepted(), summary.closed("killed")), (22, 20), "{summary:?}");
    });
}

#[test]
fn a_stopped_child_holds_nobody_up_and_is_noticed() {
    for_each(|engine| {
        let daemon = Daemon::echo(engine, &["--drain-timeout", "500ms"]);
        let mut stalled = Client::connect(daemon.address());
        let child = server_of(&daemon, &mut stalled);
        kill_process(child, Signal::STOP).expect("it is alive");
        stalled.send(b"nobody answers");
        // One that is stopped while it waits for a client is no better.
        let idle = children(&daemon).into_iter().find(|pid| *pid != child);
        idle.iter().for_each(|pid| kill_process(*pid, Signal::STOP).expect("it is alive"));
        for round in 0..30 {
            Client::connect(daemon.address()).echo(&text(100, round));
        }
        daemon.process.wait_for_message(&format!("process {} hangs", child.as_raw_nonzero()));
        kill_process(child, Signal::CONT).expect("it is alive");
        stalled.expect(b"nobody answers");
        daemon.process.wait_for_message(&format!("process {} goes on", child.as_raw_nonzero()));
        kill_process(child, Signal::STOP).expect("it is alive");
        // The end of the drain ends it all the same.
        let summary = daemon.drain();
        assert_eq!(summary.closed("killed"), 1, "{summary:?}");
    });
}

#[test]
fn the_daemons_death_ends_its_children() {
    for_each(|engine| {
        let mut daemon = Daemon::echo(engine, &[]);
        let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(daemon.address())).collect();
        clients.iter_mut().for_each(|client| client.echo(b"here"));
        let children = children(&daemon);
        assert!(children.len() >= 5);
        daemon.process.signal(Signal::KILL);
        daemon.process.wait();
        wait_until("no child is left", || !children.iter().any(|pid| is_alive(*pid)));
    });
}

#[test]
fn signals_to_the_whole_group_kill_no_session() {
    for_each(|engine| {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::USR1] {
            the_group_gets(engine, signal);
        }
    });
}

/// As from a terminal, from `timeout` or from a service manager.
fn the_group_gets(engine: &str, signal: Signal) {
    let daemon = Daemon::echo(engine, &[]);
    let mut client = Client::connect(daemon.address());
    client.echo(b"here");
    client.send(&text(50_000, 1));
    children(&daemon).into_iter().for_each(|pid| kill_process(pid, signal).expect("it is alive"));
    daemon.process.signal(signal);
    client.expect(&text(50_000, 1));
    if [Signal::HUP, Signal::USR1].contains(&signal) {
        client.echo(b"undisturbed");
        daemon.process.signal(Signal::TERM);
    }
    client.expect_end();
    assert_eq!(daemon.finish().closed("drained"), 1);
}

#[test]
fn a_second_signal_does_not_wait_for_a_stopped_child() {
    for_each(|engine| {
        let daemon = Daemon::echo(engine, &[]);
        let mut client = Client::connect(daemon.address());
        let child = server_of(&daemon, &mut client);
        kill_process(child, Signal::STOP).expect("it is alive");
        daemon.process.signal(Signal::TERM);
        daemon.process.wait_for_message("draining");
        daemon.process.signal(Signal::TERM);
        daemon.process.wait_for_message(&format!("process {} is killed", child.as_raw_nonzero()));
        assert_eq!(daemon.finish().closed("killed"), 1);
    });
}

#[test]
fn a_pool_grows_with_its_clients_and_shrinks_when_they_leave() {
    let flags =
        ["--workers", "2", "--min-processes", "2", "--min-spare", "2", "--max-spare", "4", "--max-processes", "40"];
    let daemon = Daemon::echo("prefork", &flags);
    wait_until("the first are there", || children(&daemon).len() >= 2);
    let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(daemon.address())).collect();
    let begun = Instant::now();
    clients.iter_mut().for_each(|client| client.echo(b"everybody is served"));
    assert!(begun.elapsed() < Duration::from_secs(30), "a few steps are enough");
    assert!(children(&daemon).len() >= 30);
    // Those above the most wait, and are served when others leave.
    let mut late: Vec<Client> = (0..20).map(|_| Client::connect(daemon.address())).collect();
    wait_until("it has grown as far as it may", || children(&daemon).len() == 40);
    drop(clients);
    late.iter_mut().for_each(|client| client.echo(b"late"));
    assert!(children(&daemon).len() <= 40);
    drop(late);
    wait_until("it has shrunk to those that may be free", || children(&daemon).len() <= 4);
    assert!(children(&daemon).len() >= 2);
    Client::connect(daemon.address()).echo(b"still");
    assert_eq!(daemon.drain().accepted(), 51);
}

#[test]
fn a_pool_whose_children_are_killed_is_as_large_as_before_soon() {
    let daemon = Daemon::echo("prefork", &["--workers", "6", "--min-processes", "6"]);
    for round in 0..5 {
        wait_until("all are there", || children(&daemon).len() >= 6);
        children(&daemon).into_iter().for_each(kill);
        Client::connect(daemon.address()).echo(&text(100, round));
    }
    assert_eq!(daemon.drain().accepted(), 5);
}

#[test]
fn stopped_children_without_a_session_are_replaced() {
    let daemon = Daemon::echo("prefork", &["--workers", "2"]);
    wait_until("they are there", || children(&daemon).len() == 2);
    children(&daemon).into_iter().for_each(|pid| kill_process(pid, Signal::STOP).expect("it is alive"));
    let mut client = Client::connect(daemon.address());
    client.echo(b"by others");
    daemon.process.wait_for_message("it hangs and has no session");
    assert_eq!(daemon.drain().accepted(), 1);
}

#[test]
fn children_that_cannot_live_are_not_made_without_end() {
    // No descriptor for what a child needs: it ends at once, again and again.
    let daemon = Daemon::echo("prefork", &["--workers", "3", "--min-processes", "3"]);
    wait_until("they are there", || children(&daemon).len() >= 3);
    let parent = daemon.process.pid();
    let open = fs::read_dir(format!("/proc/{}/fd", parent.as_raw_nonzero())).expect("it runs").count() as u64;
    let limit = rustix::process::Rlimit { current: Some(4), maximum: Some(open + 100) };
    rustix::process::prlimit(Some(parent), rustix::process::Resource::Nofile, limit).expect("it may be lowered");
    let begun = Instant::now();
    children(&daemon).into_iter().for_each(kill);
    let made = || {
        let messages = daemon.process.messages();
        messages.matches("was ended by").count()
            + messages.matches("exited with").count()
            + messages.matches("no process can be had").count()
    };
    wait_until("it has tried again", || made() >= 6);
    wait_until("a while has passed", || begun.elapsed() > Duration::from_secs(3));
    // Ten ticks a second, thirty-two a tick: a fork bomb would be at a thousand.
    assert!(made() < 60, "{}", daemon.process.messages());
    let limit = rustix::process::Rlimit { current: Some(open + 100), maximum: Some(open + 100) };
    rustix::process::prlimit(Some(parent), rustix::process::Resource::Nofile, limit).expect("it may be raised");
    Client::connect(daemon.address()).echo(b"well again");
    daemon.drain();
}
