//! The file of a cell: found, begun by several at once, or something else; read-only, cut off, removed; on a full disk.

#[path = "support/cells.rs"]
mod cells;

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::process::Signal;

use maitred::cell::Cell;

use cells::{DEADLINE, Place, Watch, cell, set, text, wait_until};

#[test]
fn what_is_no_cell_is_named_with_the_reason_and_left_as_it_was() {
    let marked = |first: &[u8], bytes: usize| {
        let mut content = first.to_vec();
        content.resize(bytes, 0);
        content
    };
    let table: [(&str, Vec<u8>); 9] = [
        ("it is not a cell", b"some text\n".to_vec()),
        ("it is not a cell", b"m".to_vec()),
        ("it is not a cell", vec![b'x'; 30_000]),
        ("it is not a cell", vec![0; 20_481]),
        ("it is not a cell", [vec![0; 20_000], vec![1]].concat()),
        ("it is cut off: 8 bytes of 20480 are left", b"maitred\x01".to_vec()),
        ("it is cut off: 20479 bytes of 20480 are left", marked(b"maitred\x01", 20_479)),
        ("it is damaged: it begins as a cell and does not end as one", marked(b"maitred\x01", 20_480)),
        ("it is a cell of layout 2, not 1", marked(b"maitred\x02", 20_480)),
    ];
    for (reason, content) in table {
        let place = Place::new();
        fs::write(&place.path, &content).expect("a file in a folder of ours");
        let message = format!("maitred: cannot open the cell {}: {reason}\n", place.path.display());
        for (command, more) in [("get", &[][..]), ("set", &["x"]), ("watch", &["--count", "1"])] {
            assert_eq!(place.run(command, more), (1, String::new(), message.clone()), "{command}");
        }
        assert!(fs::read(&place.path).expect("it is there") == content, "{reason}");
    }
}

#[test]
fn what_is_no_file_is_named_with_the_reason() {
    let place = Place::new();
    let folder = place.folder.path();
    let fifo = folder.join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("there is such a program");
    assert!(made.success());
    symlink("loop", folder.join("loop")).expect("a link in a folder of ours");
    let table = [
        (folder.to_owned(), "Is a directory (os error 21)"),
        (folder.join("none").join("cell"), "No such file or directory (os error 2)"),
        (folder.join("x".repeat(256)), "File name too long (os error 36)"),
        (folder.join("loop"), "Too many levels of symbolic links (os error 40)"),
        (PathBuf::from("/dev/null"), "it is not a regular file"),
        (fifo, "it is not a regular file"),
    ];
    for (path, reason) in table {
        let place = Place { path, folder: tempfile::tempdir().expect("a temporary folder") };
        let message = format!("maitred: cannot open the cell {}: {reason}\n", place.path.display());
        assert_eq!(place.run("get", &[]), (1, String::new(), message.clone()));
        assert_eq!(place.run("set", &["x"]), (1, String::new(), message));
    }
}

#[test]
fn an_empty_file_and_a_beginning_that_was_killed_become_a_cell() {
    let last_mark = |bytes: usize| [vec![0; bytes], b"maitred\x01".to_vec()].concat();
    for content in [vec![], vec![0; 1], vec![0; 4_096], vec![0; 20_480], last_mark(20_472)] {
        let place = Place::new();
        fs::write(&place.path, &content).expect("a file in a folder of ours");
        assert_eq!(place.say("get", &[]), "0 \n", "{} bytes", content.len());
        assert_eq!(place.say("set", &["x"]), "1 x\n");
    }
}

#[test]
fn many_processes_that_begin_a_cell_at_once_begin_one() {
    for round in 0..10 {
        let place = Place::new();
        let texts: Vec<String> = (0..6).map(|number| format!("{round} {number}")).collect();
        let begin = |text: &String| {
            let mut command = cell("set", &place.path, &[text]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
        };
        let children: Vec<Child> = texts.iter().map(begin).collect();
        let ends: BTreeSet<String> = children
            .into_iter()
            .map(|child| {
                let Output { status, stdout, stderr } = child.wait_with_output().expect("it is ours");
                assert!(status.success() && stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
                String::from_utf8(stdout).expect("only text is printed")
            })
            .collect();
        let versions: BTreeSet<&str> = ends.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(versions, ["1", "2", "3", "4", "5", "6"].into(), "{ends:?}");
        let newest = place.say("get", &[]);
        assert!(newest.starts_with("6 ") && ends.contains(&newest), "{newest}");
    }
}

/// In a thread that may do no more than its user: the system's administrator may write to everything else.
fn without_privileges(what: impl FnOnce() + Send) {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    thread::scope(|scope| {
        let unprivileged = scope.spawn(|| {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets).expect("everybody may give up what they can");
            what();
        });
        unprivileged.join().expect("the checks hold");
    });
}

#[test]
fn who_may_only_read_gets_and_watches() {
    let place = Place::new();
    let writer = place.open();
    set(&writer, "one");
    fs::set_permissions(&place.path, Permissions::from_mode(0o444)).expect("it is ours");
    without_privileges(|| {
        let reader = place.open();
        assert_eq!(reader.read().expect("it is a cell"), (1, b"one".to_vec()));
        thread::scope(|scope| {
            let watch = scope.spawn(|| reader.wait(1, Some(DEADLINE)).expect("it is a cell"));
            // Woken by the kernel: it sleeps on a mapping that it may not write to.
            let text = |number: u64| number.to_string();
            wait_until("a set has woken it", || {
                let version = writer.version().expect("it is a cell");
                version > 1 && watch.is_finished() || set(&writer, &text(version)).woken == 1
            });
            assert!(watch.join().expect("it does not panic") > Some(1));
        });
        let reason = reader.set(text("x")).expect_err("it may only read").to_string();
        assert_eq!(reason, format!("cannot set the cell {}: Permission denied (os error 13)", place.path.display()));

        fs::set_permissions(&place.path, Permissions::from_mode(0o000)).expect("it is ours");
        let reason = Cell::open(&place.path).err().expect("it may not be read").to_string();
        assert_eq!(reason, format!("cannot open the cell {}: Permission denied (os error 13)", place.path.display()));
    });
    // Somebody else has to begin it.
    let place = Place::new();
    fs::write(&place.path, b"").expect("a file in a folder of ours");
    fs::set_permissions(&place.path, Permissions::from_mode(0o444)).expect("it is ours");
    without_privileges(|| {
        let reason = Cell::open(&place.path).err().expect("it is empty").to_string();
        assert!(reason.ends_with("it is empty, and a cell is begun only by who may write to it"), "{reason}");
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o555)).expect("it is ours");
    without_privileges(|| {
        let reason = Cell::open(&folder.path().join("cell")).err().expect("nothing can be made there").to_string();
        assert!(reason.ends_with("Permission denied (os error 13)"), "{reason}");
    });
}

#[test]
fn a_file_that_is_cut_off_under_a_process_is_an_error_and_not_its_end() {
    for bytes in [0, 100, 4_096, 10_000, 20_479] {
        let place = Place::new();
        let [cell, other] = [place.open(), place.open()];
        set(&cell, "one");
        set(&cell, "two");
        let mut watch = Watch::of(&place.path, &[]);
        watch.next();
        let file = File::options().write(true).open(&place.path).expect("it is there");
        file.set_len(bytes).expect("it is ours");
        let read = cell.read().expect_err("it is cut off").to_string();
        let path = place.path.display();
        assert_eq!(read, format!("cannot read the cell {path}: it was cut off, or overwritten with something else"));
        let set = other.set(text("x")).expect_err("it is cut off").to_string();
        assert_eq!(set, format!("cannot set the cell {path}: it is cut off: {bytes} bytes of 20480 are left"));
        assert!(cell.wait(2, Some(DEADLINE)).is_err(), "nobody waits for what cannot come");
        assert_eq!(watch.child.wait().expect("it is ours").code(), Some(1), "{bytes} bytes");
    }
}

#[test]
fn a_bus_error_that_is_none_of_a_cells_still_ends_the_process() {
    let place = Place::new();
    let mut watch = Watch::of(&place.path, &[]);
    watch.next();
    // Ours hands it to the handler of Rust's own, which takes itself away when it is told of no overflow.
    let mut status = None;
    wait_until("it ends", || {
        watch.signal(Signal::BUS);
        status = watch.child.try_wait().expect("it is ours");
        status.is_some()
    });
    assert_eq!(status.expect("it has ended").signal(), Some(Signal::BUS.as_raw()));
}

#[test]
fn a_file_that_is_removed_or_replaced_ends_those_who_watch_it() {
    for replace in [false, true] {
        let place = Place::new();
        let cell = place.open();
        let mut watch = Watch::of(&place.path, &[]);
        watch.next();
        if replace {
            let other = place.folder.path().join("other");
            Cell::open(&other).expect("it becomes a cell");
            fs::rename(&other, &place.path).expect("they are ours");
        } else {
            fs::remove_file(&place.path).expect("it is ours");
        }
        let path = place.path.display();
        let reason = "it was removed, or another file has taken its place";
        let set = cell.set(text("x")).expect_err("nobody would find it").to_string();
        assert_eq!(set, format!("cannot set the cell {path}: {reason}"));
        let wait = cell.wait(0, Some(DEADLINE)).expect_err("nothing can come").to_string();
        assert_eq!(wait, format!("cannot watch the cell {path}: {reason}"));
        assert_eq!(watch.child.wait().expect("it is ours").code(), Some(1));
        assert_eq!(cell.read().expect("what it was can be read"), (0, Vec::new()));
    }
}

#[test]
fn blocks_are_set_aside_before_anything_is_stored() {
    let place = Place::new();
    let cell = place.open();
    set(&cell, "one");
    let blocks = || fs::metadata(&place.path).expect("it is there").blocks() * 512;
    assert!(blocks() >= 20_480, "{}", blocks());
    // A copy with holes, as `cp` makes them where it finds zeros.
    let content = fs::read(&place.path).expect("it is there");
    let copy = Place::new();
    let file = File::create(&copy.path).expect("a file in a folder of ours");
    file.set_len(20_480).expect("it is ours");
    for (page, bytes) in content.chunks(4_096).enumerate().filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0)) {
        file.write_all_at(bytes, page as u64 * 4_096).expect("there is room");
    }
    assert_eq!(copy.say("set", &["two"]), "2 two\n");
    assert!(fs::metadata(&copy.path).expect("it is there").blocks() * 512 >= 20_480);
}

/// A limit on the length of files stands for a disk that is full: the system refuses to set blocks aside. A real full
/// disk, too, where this user may mount one.
#[test]
fn a_full_disk_is_an_error_that_names_the_file_and_no_bus_error() {
    let place = Place::new();
    let path = place.path.to_str().expect("the path is text");
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_maitred"), path]);
        command
    };
    let limited =
        shell("trap '' XFSZ; ulimit -f 16; exec \"$1\" cell set \"$2\" x").output().expect("there is a shell");
    let message = String::from_utf8(limited.stderr).expect("only text is printed");
    let expected = format!("maitred: cannot open the cell {path}: File too large (os error 27)\n");
    assert_eq!((limited.status.code(), message), (Some(1), expected));
    assert_eq!(place.say("set", &["x"]), "1 x\n", "what is left behind is no hindrance");

    let mount = "mount -t tmpfs -o size=12k,nr_inodes=10 none \"$(dirname \"$2\")\"";
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.args([env!("CARGO_BIN_EXE_maitred"), path]).output()
    };
    if !unshare(mount).is_ok_and(|output| output.status.success()) {
        eprintln!("no file system may be mounted here: a real full disk is left out");
        return;
    }
    let begin = unshare(&format!("{mount} && exec \"$1\" cell set \"$2\" x")).expect("it has just worked");
    let message = String::from_utf8(begin.stderr).expect("only text is printed");
    let expected = format!("maitred: cannot open the cell {path}: No space left on device (os error 28)\n");
    assert_eq!((begin.status.code(), message), (Some(1), expected.clone()));
    // A cell with holes has fewer blocks than a store might need.
    let copy = format!("{mount} && cp --sparse=always /proc/self/fd/0 \"$2\" && exec \"$1\" cell set \"$2\" y");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &copy, "sh"]);
    command.args([env!("CARGO_BIN_EXE_maitred"), path]).stdin(File::open(&place.path).expect("it is there"));
    let set = command.output().expect("it has just worked");
    let message = String::from_utf8(set.stderr).expect("only text is printed");
    assert_eq!((set.status.code(), message), (Some(1), expected));
}
