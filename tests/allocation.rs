//! Nothing is allocated per request, and an idle session holds no buffer: counted, not claimed.
//!
//! The allocator of this binary counts the calls of the daemon's own threads, which it knows by the numbers that the
//! kernel gave them. One test, alone in its process: whatever else ran beside it would disturb nothing that is counted,
//! but would slow it down.

#[path = "support/client.rs"]
mod client;
#[path = "support/datagrams.rs"]
mod datagrams;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread;

use maitred::session::buffer::Leases;

use client::{Client, config, drain, start, text, wait_until};
use datagrams::Asker;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The threads whose allocations count; 0 where there is none.
static WATCHED: [AtomicI32; 16] = [const { AtomicI32::new(0) }; 16];

/// Allocations of those threads.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if WATCHED[0].load(Ordering::Relaxed) == 0 {
        return;
    }
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    if WATCHED.iter().any(|watched| watched.load(Ordering::Relaxed) == thread) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the promises of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the promises of `realloc`.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Watches the poller and the workers of the one daemon in this process; how many they are.
fn watch() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("a process has tasks");
    let numbers = tasks.map(|task| task.expect("it can be listed").file_name().into_string().expect("a number"));
    let is_the_daemons = |number: &String| {
        let name = fs::read_to_string(format!("/proc/self/task/{number}/comm")).unwrap_or_default();
        name.starts_with("worker-") || name.starts_with("poller")
    };
    let ours: Vec<i32> = numbers.filter(is_the_daemons).map(|number| number.parse().expect("a number")).collect();
    for (place, number) in WATCHED.iter().zip(&ours) {
        place.store(*number, Ordering::Relaxed);
    }
    ours.len()
}

fn watch_nobody() {
    WATCHED.iter().for_each(|watched| watched.store(0, Ordering::Relaxed));
}

const CONNECTIONS: usize = 8;

/// So many requests, spread over the connections, some of them several in one write.
fn talk(clients: &mut [Client], requests: usize) {
    thread::scope(|scope| {
        for half in clients.chunks_mut(CONNECTIONS / 2) {
            scope.spawn(move || {
                let bytes = text(64 * 5, 0);
                for round in 0..requests / CONNECTIONS {
                    let bytes = &bytes[..64 * (1 + round % 5)];
                    half.iter_mut().for_each(|client| client.send(bytes));
                    half.iter_mut().for_each(|client| client.expect(bytes));
                }
            });
        }
    });
}

/// So many requests by datagrams, in batches of different lengths.
fn talk_by_datagrams(askers: &[Asker], requests: usize) {
    let bytes = text(64, 0);
    for round in 0..requests / askers.len() / 8 {
        let bytes = &bytes[..32 + round % 32];
        askers.iter().for_each(|asker| (0..8).for_each(|_| asker.send(bytes)));
        askers.iter().for_each(|asker| (0..8).for_each(|_| assert!(asker.hear() == bytes)));
    }
}

#[test]
fn requests_allocate_nothing_and_idle_sessions_hold_no_buffer() {
    let workers = 2;
    let settings: [&[&str]; 4] =
        [&[], &["--assist", "off"], &["--rearm", "oneshot", "--wake", "each"], &["--stages", "on", "--queue", "1"]];
    for flags in settings {
        let listen = ["--listen", "echo=tcp://127.0.0.1:0", "--listen", "echo=udp://127.0.0.1:0", "--workers", "2"];
        // With a rate, which is kept account of and never reached.
        let rated = ["--udp-limit-local", "on", "--udp-source-rate", "1000000000", "--udp-total-rate", "off"];
        let config = config(&[&listen[..], &rated, flags].concat());
        let (daemon, server) = start(&config);
        let askers: Vec<Asker> =
            (0..4).map(|_| Asker::of(daemon.listening()[1].address.ip().expect("it is on the network"))).collect();
        let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::connect(server)).collect();
        // Warm: every worker has had its turn and has its rings, every thread its parking place.
        wait_until("all workers have worked", || {
            talk(&mut clients, 800);
            talk_by_datagrams(&askers, 800);
            daemon.summary().worker_turns.iter().all(|turns| turns.turns > Some(10))
        });

        assert_eq!(watch(), workers + 1, "the poller and the workers");
        // A thread may need its first ring only now, such as a poller that had nothing to serve before: two allocations.
        let rings = || daemon.summary().buffer_bytes.expect("it is one process") / config.settings.ring_bytes as u64;
        let rings_before = rings();
        ALLOCATIONS.store(0, Ordering::Relaxed);
        talk(&mut clients, 8_000);
        let allocations = ALLOCATIONS.load(Ordering::Relaxed);
        assert_eq!(allocations, 2 * (rings() - rings_before), "allocations in 8,000 requests with {flags:?}");
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        talk_by_datagrams(&askers, 8_000);
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        watch_nobody();
        assert_eq!(allocations, 0, "allocations in 8,000 datagrams with {flags:?}");

        let mut idle: Vec<Client> = (0..300).map(|_| Client::connect(server)).collect();
        idle.iter_mut().for_each(|client| client.echo(&text(1_000, 0)));
        // Each worker keeps some, and so does the poller.
        let kept = (workers + 1) * Leases::KEPT * config.settings.ring_bytes;
        wait_until("idle sessions hold no buffer", || daemon.summary().buffer_bytes <= Some(kept as u64));
        assert_eq!(daemon.summary().open, 308);
        drain(&daemon);
    }
}
