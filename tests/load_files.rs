//! `maitred load files=…` against the daemon itself: right where the file stays as it is, wrong where it does not.

#[path = "support/client.rs"]
mod client;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;

use std::fs;
use std::os::unix::fs::FileExt;

use maitred::config::ENGINE;
use tempfile::TempDir;

use client::text;
use daemon::Daemon;
use load::{right, start, wrong};

fn serve(size: usize) -> (TempDir, Daemon, String) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    fs::write(folder.path().join("file"), text(size, 1)).expect("it can be written");
    let listener = format!("files=tcp://127.0.0.1:0?root={}", folder.path().display());
    let daemon = Daemon::echo(ENGINE, &["--listen", &listener]);
    let target = format!("files=tcp://{}", daemon.address());
    (folder, daemon, target)
}

#[test]
fn transfers_looks_and_hashes_are_answered_and_checked() {
    const SIZE: usize = 300_000;
    let (_folder, daemon, target) = serve(SIZE);
    for flags in [
        &["--connections", "8", "--rate", "200"][..],
        &["--connections", "4", "--depth", "3", "--threads", "2"],
        &["--connections", "4", "--rate", "500", "--command", "stat"],
        &["--connections", "2", "--rate", "20", "--command", "hash"],
        &["--connections", "2", "--rate", "200", "--requests-per-connection", "3"],
    ] {
        let report = right(&target, &[flags, &["--path", "file"]].concat());
        let is_transfer = !flags.contains(&"--command");
        // Of the first some bytes may have come before the window.
        let least = report.count("requests").saturating_sub(20) * SIZE as u64;
        assert!(!is_transfer || report.count("bytes_received") >= least, "{report:?}");
    }
    daemon.drain();
}

#[test]
fn an_answer_that_says_no_and_a_file_that_changes_are_errors() {
    let (folder, daemon, target) = serve(2 << 20);
    wrong(&target, &["--path", "nothing", "--rate", "100"], &["error_reply"], &[]);
    let mut command = load::command(&target, &["--path", "file", "--rate", "100", "--connections", "3", "--json"]);
    let running = start(&mut command);
    let file = fs::File::options().write(true).open(folder.path().join("file")).expect("it is there");
    let mut byte = 0_u8;
    client::wait_until("the load is over", || {
        byte = byte.wrapping_add(1);
        file.write_all_at(&[byte], (1 << 20) + 5).expect("it can be written");
        has_ended(&running)
    });
    let report = running.wait().report();
    assert!(report.error("wrong_bytes") > 0, "{report:?}");
    daemon.drain();
}

/// Whether it has ended, and nobody has asked how yet.
fn has_ended(running: &load::Running) -> bool {
    let stat = format!("/proc/{}/stat", running.process().pid().as_raw_nonzero());
    fs::read_to_string(stat).expect("it is there until somebody asks").contains(") Z ")
}
