//! `maitred load` against servers that are wrong in one known way: what it finds has the right name, nothing keeps it
//! from coming to its end, and it reports all the same.
//!
//! What it says of right servers is in `load.rs`; the servers are in `support/servers`.

#[path = "support/client.rs"]
mod client;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/servers/mod.rs"]
mod servers;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use load::{Outcome, arguments, check_all, report, right, start, wrong};
use servers::chat::{Fault as ChatFault, Framing, chat};
use servers::datagrams::{self, Fault as DatagramFault};
use servers::streams::{self, Fault};
use servers::work::{Fault as WorkFault, Work};
use servers::{Nobody, Server};

fn tcp(server: &Server) -> String {
    format!("tcp://{}", server.address)
}

/// So that requests without a reply are not waited for long.
const BRIEF: &[&str] = &["--grace", "500ms"];

/// A closed loop of which the first round is certain, whatever the machine has time for: with 64 bytes each, it is
/// longer than any fault of a stream here needs, and has more requests.
const CLOSED: &[&str] = &["--connections", "3", "--depth", "8"];

#[test]
fn each_fault_of_a_stream_is_named() {
    // A request that was in flight when its connection failed is unanswered besides.
    let table: &[(Fault, &[&str], &[&str])] = &[
        (Fault::CloseAfter(200), &["closed"], &["unanswered", "reset"]),
        (Fault::CloseAfter(0), &["closed"], &["unanswered"]),
        (Fault::ResetAfter(200), &["reset"], &["unanswered"]),
        (Fault::Swallow, &["unanswered"], &[]),
        (Fault::NeverRead, &["unanswered"], &[]),
        (Fault::Extra(b"!"), &["unexpected_bytes"], &["wrong_bytes", "unanswered"]),
        (Fault::Greet(b"220 ready\r\n"), &["unexpected_bytes", "wrong_bytes"], &["unanswered"]),
        (Fault::Firehose, &["unexpected_bytes", "wrong_bytes"], &["unanswered"]),
        (Fault::CorruptOneIn(131), &["wrong_bytes"], &["unanswered"]),
    ];
    let rows = table
        .iter()
        .flat_map(|row| [CLOSED, &["--connections", "3", "--rate", "1000", "--size", "100"]].map(|flags| (row, flags)));
    check_all(rows, |(&(fault, some, more), flags)| {
        let server = streams::echo(fault);
        let report = wrong(&tcp(&server), &[flags, BRIEF].concat(), some, more);
        if matches!(fault, Fault::Swallow | Fault::NeverRead) {
            assert_eq!(report.count("requests"), 0, "{fault:?}: {report:?}");
            assert!(report.at("latency_ns.mean").is_null(), "{fault:?}: {report:?}");
        }
        let accepted = server.counts().accepted;
        if matches!(fault, Fault::CloseAfter(_) | Fault::ResetAfter(_)) {
            assert!(accepted > 3, "it connects again");
        }
        if fault == Fault::CloseAfter(0) {
            // Of the last ones it may not have heard yet.
            let ended = accepted - 3..=accepted;
            assert!(ended.contains(&report.error("closed")), "{accepted} were: {report:?}");
        }
    });
}

#[test]
fn slow_and_clumsy_servers_are_not_wrong() {
    let faults = [
        Fault::Delay(Duration::from_millis(20)),
        Fault::Dribble,
        Fault::AcceptAfter(Duration::from_millis(100)),
        Fault::Stall { at: 2_000, pause: Duration::from_millis(100) },
    ];
    let rows = faults.iter().flat_map(|fault| {
        [&["--connections", "3"][..], &["--connections", "3", "--rate", "300", "--depth", "1"]]
            .map(|flags| (*fault, flags))
    });
    check_all(rows, |(fault, flags)| {
        right(&tcp(&streams::echo(fault)), flags);
    });
}

#[test]
fn each_corrupted_byte_is_found() {
    // One request at a time: no connection fails before the next wrong byte, and no reply has two. A closed loop of one
    // goes on long enough to find one.
    let rows = [&["--duration", "1s"][..], &["--connections", "5"], &["--rate", "500", "--depth", "1"]];
    check_all(rows, |flags| {
        let server = streams::echo(Fault::CorruptOneIn(131));
        let report = report(&tcp(&server), flags);
        let counts = server.finish();
        assert!(counts.faults > 0, "{counts:?}");
        assert_eq!(report.error("wrong_bytes"), counts.faults, "{report:?}");
    });
    check_all([&["--depth", "16"][..], &["--connections", "3", "--rate", "2000"], &["--size", "1MiB"]], |flags| {
        let server = streams::echo(Fault::CorruptOneIn(1_009));
        let report = report(&tcp(&server), flags);
        let (found, corrupted) = (report.error("wrong_bytes"), server.finish().faults);
        assert!((1..=corrupted).contains(&found), "{found} of {corrupted}: {report:?}");
    });
}

#[test]
fn one_corrupted_byte_in_a_million_is_found() {
    // Two megabytes for each request of an open loop: whatever the machine has time for, two wrong bytes are among them.
    let server = streams::echo(Fault::CorruptOneIn(1_000_000));
    let report = report(&tcp(&server), &["--rate", "10", "--arrivals", "uniform", "--size", "2MiB", "--warmup", "0"]);
    let (found, corrupted) = (report.error("wrong_bytes"), server.finish().faults);
    assert!((1..=corrupted).contains(&found), "{found} of {corrupted}: {report:?}");
}

#[test]
fn each_fault_of_a_datagram_server_is_named_and_counted() {
    let every = 5;
    let table: &[(DatagramFault, &[&str], &[&str])] = &[
        (DatagramFault::DropEvery(every), &["lost"], &["unanswered"]),
        (DatagramFault::TwiceEvery(every), &["duplicate"], &["lost", "unanswered"]),
        // It is wrong, and its request has had no reply.
        (DatagramFault::CorruptEvery(every), &["wrong_bytes"], &["lost", "unanswered"]),
        (DatagramFault::ShorterEvery(every), &["wrong_bytes"], &["lost", "unanswered"]),
        (DatagramFault::LongerEvery(every), &["wrong_bytes"], &["lost", "unanswered"]),
    ];
    let rows =
        table.iter().flat_map(|row| [&["--connections", "3", "--rate", "300"], CLOSED].map(|flags| (row, flags)));
    check_all(rows, |(&(fault, some, more), flags)| {
        let server = datagrams::echo(fault);
        let flags = [flags, &["--lost-after", "50ms"]].concat();
        let report = wrong(&format!("udp://{}", server.address), &flags, some, more);
        let counts = server.finish();
        let unanswered = report.error("lost") + report.error("unanswered");
        match fault {
            // The kernel too may lose some on a busy machine.
            DatagramFault::DropEvery(_) => assert!(unanswered >= counts.faults, "{counts:?}: {report:?}"),
            // The last may come when nobody listens any more.
            _ => assert!((1..=counts.faults).contains(&report.error(some[0])), "{counts:?}: {report:?}"),
        }
    });
}

#[test]
fn datagrams_that_overtake_each_other_are_not_wrong() {
    let uniform = ["--rate", "500", "--arrivals", "uniform", "--warmup", "0", "--lost-after", "60s"];
    let rows = ["1", "4"].into_iter().flat_map(|connections| [(connections, 150), (connections, 154)]);
    check_all(rows, |(connections, requests)| {
        let server = datagrams::echo(DatagramFault::LateEvery(7));
        let duration = format!("{}ms", requests * 2);
        let flags = [&uniform[..], &["--connections", connections, "--duration", &duration]].concat();
        let target = format!("udp://{}", server.address);
        if requests % 7 == 0 {
            // The last one is held for ever.
            let report = wrong(&target, &[&flags[..], &["--grace", "1s"]].concat(), &["unanswered"], &[]);
            assert!((1..=4).contains(&report.error("unanswered")), "{report:?}");
        } else {
            right(&target, &flags);
        }
        assert_eq!(server.finish().faults, requests / 7);
    });
}

#[test]
fn datagrams_to_nobody_are_refused_and_to_somebody_silent_lost() {
    let nobody = Nobody::udp();
    let flags = [&["--rate", "200", "--lost-after", "50ms"][..], BRIEF].concat();
    wrong(&format!("udp://{}", nobody.address), &flags, &["refused"], &["lost", "unanswered"]);
    let silent = datagrams::echo(DatagramFault::Swallow);
    let report = wrong(&format!("udp://{}", silent.address), &flags, &["lost"], &["unanswered"]);
    assert_eq!(report.count("requests"), 0);
}

#[test]
fn a_discard_server_that_answers_is_wrong() {
    let server = streams::echo(Fault::Nothing);
    wrong(&format!("discard=tcp://{}", server.address), BRIEF, &["unexpected_bytes"], &["unanswered", "reset"]);
    let server = datagrams::echo(DatagramFault::Nothing);
    let flags = ["--rate", "300"];
    wrong(&format!("discard=udp://{}", server.address), &flags, &["unexpected_bytes"], &[]);
}

#[test]
fn a_discard_server_that_does_not_read_leaves_requests_unsent() {
    let server = streams::echo(Fault::NeverRead);
    let flags = ["--rate", "200", "--size", "1MiB", "--depth", "1"];
    let report = report(&format!("discard=tcp://{}", server.address), &[&flags, BRIEF].concat());
    assert!(report.count("unsent") > 0, "{report:?}");
}

/// Runs it with the flags and no more than a GiB of address space.
fn run_in_little_memory(target: &str, flags: &[&str]) -> Outcome {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -v 1048576; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_maitred")]);
    start(shell.args(arguments(target, &[flags, &["--json"]].concat())).stdin(Stdio::null())).wait()
}

#[test]
fn a_peer_that_never_stops_sending_does_not_keep_a_run_beyond_its_end() {
    let rows = ["work=tcp", "work=udp", "udp"].into_iter().flat_map(|scheme| {
        [&["--connections", "2"][..], &["--connections", "2", "--rate", "100"]].map(|flags| (scheme, flags))
    });
    check_all(rows, |(scheme, flags)| {
        let work = Work { fault: WorkFault::WithoutEnd, ..Work::default() };
        let server = match scheme {
            "work=tcp" => work.tcp(),
            "work=udp" => work.udp(),
            _ => datagrams::echo(DatagramFault::WithoutEnd),
        };
        let target = format!("{scheme}://{}", server.address);
        let more: &[&str] = if scheme.starts_with("work") { &["--demand", "fixed:0", "--kind", "sleep"] } else { &[] };
        let flags = [flags, more, BRIEF, &["--duration", "1s"]].concat();
        let report = run_in_little_memory(&target, &flags).report();
        assert!(report.error("duplicate") > 0, "{target} {flags:?}: {report:?}");
    });
}

#[test]
fn each_fault_of_work_is_named() {
    let every = 5;
    // Over TCP a reply that is not its own ends the connection, or leaves its request without one.
    let table: &[(WorkFault, &[&str])] = &[
        (WorkFault::WrongIdEvery(every), &["wrong_bytes"]),
        (WorkFault::TwiceEvery(every), &["duplicate"]),
        (WorkFault::LoseEvery(every), &["unanswered", "lost"]),
        (WorkFault::LengthEvery(every, 3), &["protocol"]),
        (WorkFault::LengthEvery(every, u32::MAX), &["protocol"]),
        (WorkFault::CorruptEvery(every), &["wrong_bytes"]),
    ];
    let rows = table.iter().flat_map(|row| {
        [
            ("tcp", &["--connections", "4", "--depth", "4", "--demand", "exp:100us"][..]),
            ("tcp", &["--connections", "4", "--rate", "400", "--demand", "fixed:0"]),
            ("udp", &["--connections", "4", "--rate", "400", "--lost-after", "50ms"]),
        ]
        .map(|(scheme, flags)| (row, scheme, flags))
    });
    check_all(rows, |(&(fault, some), scheme, flags)| {
        let work = Work { fault, ..Work::default() };
        let server = if scheme == "tcp" { work.tcp() } else { work.udp() };
        let target = format!("work={scheme}://{}", server.address);
        let report = wrong(&target, &[flags, &["--kind", "sleep"], BRIEF].concat(), some, &["unanswered", "lost"]);
        let (found, faults) = (report.error(some[0]), server.counts().faults);
        // What has had no reply yet when the grace ends is no fault of the server.
        let is_bounded = !matches!(fault, WorkFault::LoseEvery(_));
        assert!(!is_bounded || found <= faults, "{found} of {faults} {fault:?}: {report:?}");
    });
}

#[test]
fn each_fault_of_chat_is_named() {
    let every = 50;
    // With it, what is lost is soon known to be; with the other, what is slow is not lost.
    const SOON: &[&str] = &["--lost-after", "200ms"];
    const LATE: &[&str] = &["--lost-after", "60s"];
    // Those that are brief have a message that never comes, or cannot be sent.
    const LATE_AND_BRIEF: &[&str] = &["--lost-after", "60s", "--grace", "500ms"];
    type Names = &'static [&'static str];
    let table: &[(ChatFault, Names, Names, Names)] = &[
        (ChatFault::LoseEvery(every), SOON, &["missing"], &[]),
        (ChatFault::TwiceEvery(every), LATE, &["duplicate"], &[]),
        (ChatFault::SwapEvery(every), LATE_AND_BRIEF, &["out_of_order"], &["unanswered"]),
        // Its connection fails, and the room goes on without it.
        (ChatFault::CorruptEvery(every), LATE_AND_BRIEF, &["wrong_bytes"], &["unanswered"]),
        (ChatFault::ToSenderToo, LATE, &["unexpected_bytes"], &[]),
    ];
    let rows = table.iter().flat_map(|row| [(Framing::Length, "length"), (Framing::Line, "line")].map(|by| (row, by)));
    check_all(rows, |(&(fault, times, some, more), (framing, name))| {
        let server = chat(framing, fault);
        let flags = ["--connections", "4", "--rate", "1000", "--framing", name];
        let target = format!("chat=tcp://{}", server.address);
        let report = wrong(&target, &[&flags, times].concat(), some, more);
        let (found, faults) = (report.error(some[0]), server.counts().faults);
        // What took long may be missing, too.
        let is_bounded = !matches!(fault, ChatFault::LoseEvery(_));
        assert!(!is_bounded || found <= faults, "{found} of {faults}: {report:?}");
        assert!(is_bounded || report.count("unanswered") > 0, "missing is unanswered: {report:?}");
    });
}

#[test]
fn members_of_a_chat_that_are_kicked_do_not_upset_the_books() {
    let rows = [&["--rate", "2000"][..], &["--rate", "2000", "--depth", "2"], &["--depth", "4"]];
    check_all(rows, |flags| {
        let server = chat(Framing::Length, ChatFault::KickEvery(100));
        let flags = [&["--connections", "6", "--lost-after", "60s"], BRIEF, flags].concat();
        // The check of every report has the books.
        let report = report(&format!("chat=tcp://{}", server.address), &flags);
        let kicked = report.error("closed") + report.error("reset");
        assert!(kicked <= server.counts().faults && kicked <= 6, "{kicked} {:?}: {report:?}", server.counts());
        // A closed loop may not get that far.
        assert!(report.at("mode") == "closed" || kicked > 0, "{report:?}");
        let is_expected = |kind: &String| ["closed", "reset", "unanswered"].contains(&kind.as_str());
        assert!(report.errors().keys().all(is_expected), "{report:?}");
    });
}

#[test]
fn a_server_that_goes_away_is_an_error_and_the_load_ends_in_its_time() {
    check_all([CLOSED, &["--connections", "5", "--rate", "1000"]], |flags| {
        let server = streams::echo(Fault::GoneAfter(1_000));
        let started = Instant::now();
        let report = report(&tcp(&server), &[flags, &["--duration", "1s"], BRIEF].concat());
        let (took, window_s) = (started.elapsed(), report.number("duration_s"));
        assert!(report.error("closed") + report.error("reset") > 0, "{report:?}");
        assert!(server.counts().faults > 0, "it went away");
        // As planned, server or none; that it ends at all has a deadline where it is waited for.
        assert!(took >= Duration::from_millis(1_050), "{took:?}: {report:?}");
        assert!(window_s > 0.0 && window_s < took.as_secs_f64(), "{took:?}: {report:?}");
    });
}
