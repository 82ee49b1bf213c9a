//! The number of workers changes while the daemon serves: on every engine that resizes, nothing is lost, doubled or out of
//! its order, threads come and go, and the books balance.
//!
//! Daemons in this process, whose threads are counted by their names: one test at a time.

#[path = "support/client.rs"]
mod client;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use maitred::daemon::Daemon;
use maitred::engine::{ENGINES, available};
use maitred::random::Random;

use client::{Client, DEADLINE, closed, config, drain, start, wait_until};
use work::{AS_A_CALL, INLINE, MILLISECOND, SLEEP, Worker};

/// Connections under load.
const CONNECTIONS: usize = 24;

/// Threads that drive them.
const CLIENTS: usize = 3;

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// Engines that resize, with flags that make them do so in different ways.
fn for_each_way(test: impl Fn(&str, &[&str])) {
    let _one = one_at_a_time();
    let mut tested = 0;
    for engine in ENGINES.iter().filter(|engine| engine.resizes.is_ok() && available(engine.name).is_ok()) {
        let ways: &[&[&str]] = match engine.name {
            "pool" => &[&[], &["--queue", "4"], &["--assist", "off", "--wake", "each", "--low-water", "2"]],
            "event-loops" => &[&[], &["--placement", "round-robin"], &["--placement", "least"]],
            _ => &[&[]],
        };
        for flags in ways {
            println!("on the engine {} {flags:?}", engine.name);
            test(engine.name, flags);
            tested += 1;
        }
    }
    assert!(tested > 1, "some engines resize");
}

fn start_with(engine: &str, listen: &str, flags: &[&str]) -> (Daemon, SocketAddr) {
    let named = ["--engine", engine, "--listen", listen, "--idle-timeout", "off", "--drain-timeout", "1h"];
    start(&config(&[&named[..], flags].concat()))
}

/// Asks for so many workers; where it is told what is in force.
fn ask(daemon: &Daemon, workers: usize) -> Receiver<usize> {
    let (told, tells) = channel();
    daemon.set_workers(workers, move |number| told.send(number).expect("the test waits")).expect("it resizes");
    tells
}

/// Has so many workers, and waits until the number is in force.
fn resize(daemon: &Daemon, workers: usize) {
    let in_force = ask(daemon, workers).recv_timeout(DEADLINE).expect("it comes into force");
    assert_eq!((in_force, daemon.workers(), daemon.summary().workers), (workers, workers, workers));
}

/// Waits until there are so many threads, no more and no less: one that has been joined is listed for a moment.
fn wait_for_threads(workers: usize) {
    wait_until("the threads are there, or gone", || threads() == workers);
}

/// Whether a worker that is to go waits for the end of the sessions that it has.
fn keeps_sessions(engine: &str) -> bool {
    engine == "event-loops"
}

/// Threads of this process that run turns, by their names.
fn threads() -> usize {
    let all = fs::read_dir("/proc/self/task").expect("there are threads");
    // One that has ended meanwhile has no name.
    let names = all.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|name| ["worker-", "loop-"].iter().any(|begin| name.starts_with(begin))).count()
}

/// Echoes on many connections until it is over, each byte compared; how many.
fn echo_until(is_over: &AtomicBool, echoed: &AtomicU64, server: SocketAddr, seed: u64) {
    let mut random = Random::new(seed);
    let mut clients: Vec<Client> = (0..CONNECTIONS / CLIENTS).map(|_| Client::connect(server)).collect();
    let mut sent = vec![Vec::new(); clients.len()];
    while !is_over.load(Ordering::Relaxed) {
        for (client, sent) in clients.iter_mut().zip(&mut sent) {
            // Now and then more than a turn's budget.
            let most = if random.below(50) == 0 { 40_000 } else { 600 };
            *sent = client::text(1 + random.below(most), random.below(1 << 20));
            client.send(sent);
        }
        for (client, sent) in clients.iter_mut().zip(&sent) {
            client.expect(sent);
            echoed.fetch_add(sent.len() as u64, Ordering::Relaxed);
        }
    }
    for mut client in clients {
        client.finish();
        client.expect_end();
    }
}

/// Does `act` while clients echo; bytes that came back.
fn under_load(server: SocketAddr, act: impl FnOnce(&AtomicU64)) -> u64 {
    let (is_over, echoed) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (is_over, echoed) = (&is_over, &echoed);
            scope.spawn(move || echo_until(is_over, echoed, server, number as u64));
        }
        // Not to be waited for for ever if `act` fails.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&echoed)));
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    echoed.into_inner()
}

#[test]
fn bytes_are_exact_while_the_workers_come_and_go() {
    for_each_way(|engine, flags| {
        let more = ["--workers", "1", "--budget", "4KiB", "--ring", "4KiB"];
        let (daemon, server) = start_with(engine, "echo=tcp://127.0.0.1:0", &[&more[..], flags].concat());
        let echoed = under_load(server, |echoed| {
            for workers in [8, 1, 8, 1, 3, 2, 8, 5, 1].repeat(7) {
                resize(&daemon, workers);
                if !keeps_sessions(engine) {
                    wait_for_threads(workers);
                }
                let before = echoed.load(Ordering::Relaxed);
                wait_until("it serves on", || echoed.load(Ordering::Relaxed) > before + 20_000);
            }
        });
        wait_for_threads(1);
        let summary = drain(&daemon);
        assert_eq!((summary.accepted, closed(&summary, "finished")), (CONNECTIONS as u64, CONNECTIONS as u64));
        let all = || summary.worker_turns.iter().chain(&summary.poller_turns);
        let read: u64 = all().filter_map(|turns| turns.read_bytes).sum();
        assert_eq!((read, summary.workers), (echoed, 1), "what those counted who have gone is in the books");
        wait_for_threads(0);
    });
}

#[test]
fn those_who_go_finish_what_they_are_in() {
    for_each_way(|engine, flags| {
        let (daemon, server) = start_with(engine, "work=tcp://127.0.0.1:0", &[&["--workers", "8"], flags].concat());
        let mut clients: Vec<Worker> = (0..8).map(|_| Worker::new(Client::connect(server))).collect();
        for workers in [1, 8, 2, 6, 1] {
            for client in &mut clients {
                client.ask_all([((SLEEP, 5 * MILLISECOND), 10), (INLINE, 700), (AS_A_CALL, 20)]);
            }
            let tells = ask(&daemon, workers);
            clients.iter_mut().for_each(|client| drop(client.hear_all()));
            assert_eq!(tells.recv_timeout(DEADLINE), Ok(workers));
        }
        drop(clients);
        wait_for_threads(1);
        drain(&daemon);
    });
}

#[test]
fn a_number_that_is_asked_for_before_another_is_in_force_is_followed_by_it() {
    for_each_way(|engine, flags| {
        let (daemon, server) = start_with(engine, "work=tcp://127.0.0.1:0", &[&["--workers", "4"], flags].concat());
        let mut clients: Vec<Worker> = (0..4).map(|_| Worker::new(Client::connect(server))).collect();
        for client in &mut clients {
            client.ask((SLEEP, 50 * MILLISECOND), 0);
        }
        wait_until("calls have begun", || {
            daemon.summary().worker_turns.iter().filter_map(|turns| turns.calls).sum::<u64>() > 0
        });
        let all = [1, 7, 2, 3].map(|workers| ask(&daemon, workers));
        let told: Vec<usize> = all.iter().map(|tells| tells.recv_timeout(DEADLINE).expect("each is told")).collect();
        assert_eq!(told.last(), Some(&3), "{told:?}");
        clients.iter_mut().for_each(|client| drop(client.hear_all()));
        drop(clients);
        wait_for_threads(3);
        drain(&daemon);
    });
}

#[test]
fn the_same_number_is_in_force_at_once() {
    for_each_way(|engine, flags| {
        let (daemon, server) = start_with(engine, "echo=tcp://127.0.0.1:0", &[&["--workers", "3"], flags].concat());
        assert_eq!(ask(&daemon, 3).try_recv(), Ok(3));
        Client::connect(server).echo(b"as before");
        drain(&daemon);
    });
}

#[test]
fn a_drain_and_a_change_of_the_workers_do_not_disturb_each_other() {
    for_each_way(|engine, flags| {
        for (before, after) in [(8, 1), (1, 8), (4, 2)] {
            for drains_first in [false, true] {
                let number = before.to_string();
                let flags = [&["--workers", &number], flags].concat();
                let (daemon, server) = start_with(engine, "work=tcp://127.0.0.1:0", &flags);
                let mut clients: Vec<Worker> = (0..6).map(|_| Worker::new(Client::connect(server))).collect();
                for client in &mut clients {
                    client.ask_all([((SLEEP, 2 * MILLISECOND), 10), (INLINE, 700), ((SLEEP, 2 * MILLISECOND), 20)]);
                }
                if drains_first {
                    daemon.drain();
                }
                // The engine may have finished: then it says so.
                let asked = daemon.set_workers(after, |_| ());
                assert!(drains_first || asked.is_ok(), "{asked:?}");
                if !drains_first {
                    daemon.drain();
                }
                for client in &mut clients {
                    client.hear_all();
                    client.client.expect_end();
                }
                let summary = daemon.join();
                assert_eq!((summary.open, summary.accepted, closed(&summary, "drained")), (0, 6, 6), "{summary:?}");
                wait_for_threads(0);
                let said = daemon.set_workers(2, |_| panic!("it is over")).expect_err("it is over").to_string();
                assert!(said.ends_with(": the engine has finished"), "{said}");
            }
        }
    });
}

#[test]
fn a_number_that_cannot_be_is_refused_with_the_reason_and_changes_nothing() {
    for_each_way(|engine, flags| {
        let more = ["--workers", "2", "--ring", "64KiB", "--max-buffers", "2MiB"];
        let (daemon, server) = start_with(engine, "echo=tcp://127.0.0.1:0", &[&more[..], flags].concat());
        for (workers, said) in [
            (0, "workers: 0 is too small; expected auto or a number from 1 to 1024"),
            (1_025, "workers: 1025 is too large; expected auto or a number from 1 to 1024"),
            (9, "max_buffers: 2MiB is too small for 9 workers and rings of 64KiB; expected at least 5184KiB"),
        ] {
            let refused = daemon.set_workers(workers, |_| panic!("it is not in force")).expect_err(said);
            assert_eq!(refused.to_string(), said);
        }
        assert_eq!(daemon.workers(), 2);
        wait_for_threads(2);
        Client::connect(server).echo(b"as before");
        drain(&daemon);
    });
}

#[test]
fn engines_that_do_not_resize_say_why() {
    let _one = one_at_a_time();
    let fixed = ENGINES.iter().filter(|engine| !engine.forks && available(engine.name).is_ok());
    for (engine, reason) in fixed.filter_map(|engine| Some((engine, engine.resizes.err()?))) {
        let (daemon, server) = start_with(engine.name, "echo=tcp://127.0.0.1:0", &[]);
        let said = daemon.set_workers(2, |_| panic!("it is not in force")).expect_err("it does not resize").to_string();
        assert_eq!(said, format!("cannot change the workers of the engine {}: {reason}", engine.name));
        Client::connect(server).echo(b"as before");
        drain(&daemon);
    }
}

#[test]
fn workers_that_sleep_are_sent_away_and_those_that_come_serve() {
    for_each_way(|engine, flags| {
        let (daemon, server) = start_with(engine, "echo=tcp://127.0.0.1:0", &[&["--workers", "2"], flags].concat());
        let mut stays = Client::connect(server);
        for workers in [6, 1, 2, 1, 4, 1] {
            // Long enough for all to lie down: what follows meets sleepers, whether they stay or go.
            thread::sleep(Duration::from_millis(5));
            resize(&daemon, workers);
            stays.echo(b"one at a time");
            Client::connect(server).echo(b"another");
        }
        drop(stays);
        wait_for_threads(1);
        drain(&daemon);
    });
}

#[test]
fn nobody_who_comes_is_lost_while_the_workers_come_and_go() {
    for_each_way(|engine, flags| {
        let (daemon, server) = start_with(engine, "echo=tcp://127.0.0.1:0", &[&["--workers", "3"], flags].concat());
        let (is_over, served) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for seed in 0..CLIENTS {
                let (is_over, served) = (&is_over, &served);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        // All of them wait in backlogs, wherever those are.
                        let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(server)).collect();
                        clients.iter_mut().for_each(|client| client.echo(&client::text(300, seed)));
                        clients.iter_mut().for_each(Client::finish);
                        clients.iter_mut().for_each(Client::expect_end);
                        served.fetch_add(8, Ordering::Relaxed);
                    }
                });
            }
            for workers in [1, 5, 2, 8, 1, 3].repeat(3) {
                resize(&daemon, workers);
                wait_for_threads(workers);
                let before = served.load(Ordering::Relaxed);
                wait_until("others are served", || served.load(Ordering::Relaxed) > before + 50);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let summary = drain(&daemon);
        assert_eq!(
            (summary.accepted, closed(&summary, "finished")),
            (served.load(Ordering::Relaxed), summary.accepted)
        );
    });
}
