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

use std::time::Duration;

use client::wait_until;
use load::{command, report, right, start, wrong};
use servers::chat::{Fault as ChatFault, Framing, chat};
use servers::datagrams::{self, Fault as DatagramFault};
use servers::streams::{self, Fault};
use servers::work::{Fault as WorkFault, Work};
use servers::{Nobody, Server};

fn tcp(server: &Server) -> String {
    format!("tcp://{}", server.address)
}

/// So that requests without a reply are not waited for long.
const BRIEF: &[&str] = &["--grace", "200ms"];

#[test]
fn each_fault_of_a_stream_is_named() {
    // A request that was in flight when its connection failed is unanswered besides.
    let table: &[(Fault, &[&str], &[&str])] = &[
        (Fault::CloseAfter(200), &["closed"], &["unanswered", "reset"]),
        (Fault::CloseAfter(0), &["closed", "reset"], &["unanswered"]),
        (Fault::ResetAfter(200), &["reset"], &["unanswered"]),
        (Fault::Swallow, &["unanswered"], &[]),
        (Fault::NeverRead, &["unanswered"], &[]),
        (Fault::Extra(b"!"), &["unexpected_bytes"], &["wrong_bytes", "unanswered"]),
        (Fault::Greet(b"220 ready\r\n"), &["unexpected_bytes", "wrong_bytes"], &["unanswered"]),
        (Fault::Firehose, &["unexpected_bytes", "wrong_bytes"], &["unanswered"]),
        (Fault::CorruptOneIn(131), &["wrong_bytes"], &["unanswered"]),
    ];
    for &(fault, some, more) in table {
        for flags in [&["--connections", "3"][..], &["--connections", "3", "--rate", "1000", "--size", "100"]] {
            let server = streams::echo(fault);
            let report = wrong(&tcp(&server), &[flags, BRIEF].concat(), some, more);
            if matches!(fault, Fault::Swallow | Fault::NeverRead) {
                assert_eq!(report.count("requests"), 0, "{fault:?}: {report:?}");
                assert!(report.at("latency_ns.mean").is_null(), "{fault:?}: {report:?}");
            }
            if matches!(fault, Fault::CloseAfter(_) | Fault::ResetAfter(_)) {
                assert!(server.counts().accepted > 3, "it connects again");
            }
        }
    }
}

#[test]
fn slow_and_clumsy_servers_are_not_wrong() {
    let table = [
        Fault::Delay(Duration::from_millis(20)),
        Fault::Dribble,
        Fault::AcceptAfter(Duration::from_millis(100)),
        Fault::Stall { at: 2_000, pause: Duration::from_millis(100) },
    ];
    for fault in table {
        for flags in [&["--connections", "3"][..], &["--connections", "3", "--rate", "300", "--depth", "1"]] {
            right(&tcp(&streams::echo(fault)), flags);
        }
    }
}

#[test]
fn each_corrupted_byte_is_found() {
    // One request at a time: no connection fails before the next wrong byte, and no reply has two.
    for flags in [&[][..], &["--connections", "5"], &["--rate", "2000", "--depth", "1"]] {
        let server = streams::echo(Fault::CorruptOneIn(131));
        let report = report(&tcp(&server), flags);
        let counts = server.finish();
        assert!(counts.faults > 0, "{counts:?}");
        assert_eq!(report.error("wrong_bytes"), counts.faults, "{report:?}");
    }
    for flags in [&["--depth", "16"][..], &["--connections", "3", "--rate", "2000"], &["--size", "1MiB"]] {
        let server = streams::echo(Fault::CorruptOneIn(1_009));
        let report = report(&tcp(&server), flags);
        let (found, corrupted) = (report.error("wrong_bytes"), server.finish().faults);
        assert!((1..=corrupted).contains(&found), "{found} of {corrupted}: {report:?}");
    }
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
    for &(fault, some, more) in table {
        for flags in [&["--connections", "3", "--rate", "300"][..], &["--connections", "3"]] {
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
        }
    }
}

#[test]
fn datagrams_that_overtake_each_other_are_not_wrong() {
    let server = datagrams::echo(DatagramFault::LateEvery(7));
    let flags = ["--connections", "4", "--rate", "500", "--lost-after", "500ms"];
    let report = report(&format!("udp://{}", server.address), &flags);
    let counts = server.finish();
    assert!(counts.faults > 5 && report.count("requests") > 0, "{counts:?}: {report:?}");
    // The last one may be held for ever.
    assert!(report.errors().keys().all(|kind| kind == "lost"), "{report:?}");
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
    for &(fault, some) in table {
        for (scheme, flags) in [
            ("tcp", &["--connections", "4", "--depth", "4", "--demand", "exp:100us"][..]),
            ("tcp", &["--connections", "4", "--rate", "400", "--demand", "fixed:0"]),
            ("udp", &["--connections", "4", "--rate", "400", "--lost-after", "50ms"]),
        ] {
            let work = Work { fault, ..Work::default() };
            let server = if scheme == "tcp" { work.tcp() } else { work.udp() };
            let target = format!("work={scheme}://{}", server.address);
            let report = wrong(&target, &[flags, &["--kind", "sleep"], BRIEF].concat(), some, &["unanswered", "lost"]);
            let (found, faults) = (report.error(some[0]), server.counts().faults);
            // What has had no reply yet when the grace ends is no fault of the server.
            let is_bounded = !matches!(fault, WorkFault::LoseEvery(_));
            assert!(!is_bounded || found <= faults, "{found} of {faults} {fault:?}: {report:?}");
        }
    }
}

#[test]
fn each_fault_of_chat_is_named() {
    let every = 50;
    // Those that are brief wait for a message that never comes.
    type Names = &'static [&'static str];
    let table: &[(ChatFault, Names, Names, Names)] = &[
        (ChatFault::LoseEvery(every), BRIEF, &["missing"], &["unanswered"]),
        (ChatFault::TwiceEvery(every), &[], &["duplicate"], &[]),
        (ChatFault::SwapEvery(every), BRIEF, &["out_of_order"], &["missing", "unanswered"]),
        // Its connection fails, and the room goes on without it.
        (ChatFault::CorruptEvery(every), BRIEF, &["wrong_bytes"], &["missing", "unanswered"]),
        (ChatFault::ToSenderToo, &[], &["unexpected_bytes"], &[]),
    ];
    for &(fault, brief, some, more) in table {
        for (framing, name) in [(Framing::Length, "length"), (Framing::Line, "line")] {
            let server = chat(framing, fault);
            let flags = ["--connections", "4", "--rate", "1000", "--framing", name];
            let target = format!("chat=tcp://{}", server.address);
            let report = wrong(&target, &[&flags, brief].concat(), some, more);
            let (found, faults) = (report.error(some[0]), server.counts().faults);
            // What is still on its way when the grace ends is missing too.
            let is_bounded = !matches!(fault, ChatFault::LoseEvery(_));
            assert!(!is_bounded || found <= faults, "{found} of {faults}: {report:?}");
        }
    }
}

#[test]
fn a_server_that_goes_away_is_an_error_and_the_load_ends_in_its_time() {
    for flags in [&["--connections", "5"][..], &["--connections", "5", "--rate", "1000"]] {
        let server = streams::echo(Fault::Nothing);
        let flags = [flags, &["--duration", "3s", "--json"], BRIEF].concat();
        let running = start(&mut command(&tcp(&server), &flags));
        wait_until("the load has begun", || server.counts().bytes_read > 1_000);
        drop(server);
        let report = running.wait().report();
        assert!(report.error("closed") + report.error("reset") + report.error("connect") > 0, "{report:?}");
    }
}
