//! [`List`]: the paths that clients have put up to be watched, and the sweep that looks at all of them every so often.
//!
//! Whoever edits the list and whoever sweeps it share one lock, which nobody holds while it looks at a file. A sweep takes a
//! slice of paths, looks at each without the lock, and writes down what it found of those that are still there. What it
//! finds is told when it has finished, as a whole that no later sweep changes.
//!
//! Invariants: *bounded-list*: at most [`PATHS_MAX`] paths, each as long as the system resolves. *swept-once*: a path that is
//! on the list during a whole sweep is looked at once in it; the sweep goes through them in their order, from where it was.
//! Read next: `jobs.rs`, which keeps the time.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use std::{fmt, process};

use crate::net::files::{Root, Stat};
use crate::session::handler::Sweep;

/// Paths on a list.
pub(super) const PATHS_MAX: usize = 100_000;

/// Paths that one slice of a sweep looks at: some hundred microseconds where the disk need not be asked. Guess.
const SLICE: usize = 256;

/// A path, shared by the list, what was found, and those who are told of either.
pub(super) type Name = Arc<[u8]>;

/// What became of a file between two sweeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is another file, or has another size or another time.
    Changed,
    /// It is there, and was not.
    Come,
    /// It was there, and is not, or is no file that is given.
    Gone,
}

/// What a sweep has found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Which sweep; 0 when none has finished.
    pub(super) sweep: u64,
    pub(super) changes: Vec<(Change, Name)>,
}

/// Why an edit was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unedited {
    Full,
    NotThere,
}

/// The list of one listener.
pub(super) struct List {
    /// The process whose list it is: others have a copy of it that nobody sweeps.
    pid: OnceLock<u32>,
    inner: Mutex<Inner>,
}

struct Inner {
    every: Duration,
    /// Whose files they are; none before it has begun.
    root: Option<Arc<Root>>,
    /// None for a path that no sweep has looked at; None within for one at which there was no file.
    paths: BTreeMap<Name, Option<Option<Stat>>>,
    /// Where the present sweep is: behind this path. None before its first.
    at: Option<Name>,
    /// What it has found so far.
    changes: Vec<(Change, Name)>,
    finished: Arc<Findings>,
}

impl List {
    pub(super) fn new(every: Duration) -> List {
        let (paths, changes, finished) = (BTreeMap::new(), Vec::new(), Arc::default());
        let inner = Inner { every, root: None, paths, at: None, changes, finished };
        List { pid: OnceLock::new(), inner: Mutex::new(inner) }
    }

    /// Begins it in this process, over the files of this root; a second time changes nothing.
    pub(super) fn begin(&self, root: &Arc<Root>) {
        self.pid.get_or_init(process::id);
        self.lock().root.get_or_insert_with(|| Arc::clone(root));
    }

    /// Goes on with the files of this root, swept so often. One that lies elsewhere than the last is a folder that has come in its
    /// place.
    pub(super) fn go_on(&self, root: &Arc<Root>, every: Duration) {
        let mut inner = self.lock();
        (inner.root, inner.every) = (Some(Arc::clone(root)), every);
    }

    /// Whether this is the process whose list it is.
    pub(super) fn is_here(&self) -> bool {
        self.pid.get() == Some(&process::id())
    }

    /// Puts a path on the list, if it is not there; how many are.
    pub(super) fn add(&self, path: &[u8]) -> Result<usize, Unedited> {
        let mut inner = self.lock();
        if !inner.paths.contains_key(path) {
            if inner.paths.len() >= PATHS_MAX {
                return Err(Unedited::Full);
            }
            inner.paths.insert(path.into(), None);
        }
        Ok(inner.paths.len())
    }

    /// Takes a path off the list; how many are left.
    pub(super) fn del(&self, path: &[u8]) -> Result<usize, Unedited> {
        let mut inner = self.lock();
        inner.paths.remove(path).ok_or(Unedited::NotThere)?;
        Ok(inner.paths.len())
    }

    /// The paths behind `after`, in their order, as long as `take` says of the last one that there may be more.
    pub(super) fn names_behind(&self, after: Option<&Name>, mut take: impl FnMut(&Name) -> bool) {
        let inner = self.lock();
        let _ = inner.behind(after).all(|(name, _)| take(name));
    }

    /// What the last sweep that has finished found.
    pub(super) fn findings(&self) -> Arc<Findings> {
        Arc::clone(&self.lock().finished)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread panics while it holds this lock")
    }
}

impl Sweep for List {
    fn every(&self) -> Duration {
        self.lock().every
    }

    fn slice(&self) -> bool {
        let (root, slice) = {
            let inner = self.lock();
            (inner.root.clone(), inner.next_slice())
        };
        let Some(root) = root else { return false };
        let looked: Vec<(Name, Option<Stat>)> =
            slice.into_iter().map(|name| (Arc::clone(&name), root.stat(&name).ok())).collect();
        self.lock().note(looked)
    }
}

impl Inner {
    fn behind(&self, after: Option<&Name>) -> impl Iterator<Item = (&Name, &Option<Option<Stat>>)> {
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(Arc::clone(name)));
        self.paths.range((from, Bound::Unbounded))
    }

    fn next_slice(&self) -> Vec<Name> {
        self.behind(self.at.as_ref()).take(SLICE).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Writes down what a slice has found; true if the sweep goes on.
    fn note(&mut self, looked: Vec<(Name, Option<Stat>)>) -> bool {
        let is_last = looked.len() < SLICE;
        self.at = looked.last().filter(|_| !is_last).map(|(name, _)| Arc::clone(name));
        for (name, now) in looked {
            // One that was taken off meanwhile is nobody's business.
            let Some(seen) = self.paths.get_mut(&name) else { continue };
            let change = match (seen.replace(now), now) {
                (Some(Some(before)), Some(now)) if before != now => Some(Change::Changed),
                (Some(None), Some(_)) => Some(Change::Come),
                (Some(Some(_)), None) => Some(Change::Gone),
                _ => None,
            };
            self.changes.extend(change.map(|change| (change, name)));
        }
        if is_last {
            let changes = std::mem::take(&mut self.changes);
            self.finished = Arc::new(Findings { sweep: self.finished.sweep + 1, changes });
        }
        !is_last
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Changed => "changed",
            Change::Come => "come",
            Change::Gone => "gone",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn list() -> (tempfile::TempDir, List) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let list = List::new(Duration::from_secs(1));
        list.begin(&Arc::new(Root::open(folder.path()).expect("it is a folder")));
        (folder, list)
    }

    fn sweep(list: &List) -> (u64, Vec<String>) {
        while list.slice() {}
        let findings = list.findings();
        let told = findings.changes.iter().map(|(change, name)| format!("{change} {}", name.escape_ascii()));
        (findings.sweep, told.collect())
    }

    #[test]
    fn a_sweep_tells_what_became_of_files_since_the_one_before() {
        let (folder, list) = list();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("it can be written");
        assert_eq!(sweep(&list), (1, vec![]), "of nothing");
        write("a", "1");
        write("b", "1");
        for (count, path) in ["a", "b", "c", "../outside"].iter().enumerate() {
            assert_eq!(list.add(path.as_bytes()), Ok(count + 1));
        }
        assert_eq!(list.add(b"a"), Ok(4), "it is there already");
        assert_eq!(sweep(&list), (2, vec![]), "the first look");
        write("a", "22");
        fs::remove_file(folder.path().join("b")).expect("it is there");
        write("c", "1");
        assert_eq!(sweep(&list), (3, ["changed a", "gone b", "come c"].map(str::to_owned).to_vec()));
        assert_eq!(sweep(&list), (4, vec![]));
        assert_eq!(list.del(b"c"), Ok(3));
        assert_eq!(list.del(b"c"), Err(Unedited::NotThere));
        write("c", "22");
        assert_eq!(sweep(&list), (5, vec![]), "it is on the list no more");
    }

    #[test]
    fn a_list_is_swept_in_slices_while_it_is_edited() {
        let (folder, list) = list();
        let name = |number: usize| format!("{number:05}").into_bytes();
        let count = 3 * SLICE;
        for number in 0..count {
            list.add(&name(number)).expect("there is room");
        }
        assert!(list.slice(), "it is longer than a slice");
        // Behind the sweep, before it, and where it is.
        list.del(&name(1)).expect("it is there");
        list.del(&name(SLICE - 1)).expect("it is there");
        list.del(&name(2 * SLICE)).expect("it is there");
        list.add(&name(count)).expect("there is room");
        assert_eq!(sweep(&list).0, 1);
        assert!(list.lock().paths.values().all(|seen| *seen == Some(None)), "swept-once: all were looked at");
        fs::write(folder.path().join("00002"), "").expect("it can be written");
        list.add(&name(1)).expect("there is room");
        assert_eq!(sweep(&list), (2, vec!["come 00002".to_owned()]));
    }

    #[test]
    fn a_list_has_an_end() {
        let (_folder, list) = list();
        for number in 0..PATHS_MAX {
            list.add(&number.to_be_bytes()).expect("there is room");
        }
        assert_eq!(list.add(b"one more"), Err(Unedited::Full));
        assert_eq!(list.add(&0_usize.to_be_bytes()), Ok(PATHS_MAX), "it is there already");
        assert_eq!(list.del(&0_usize.to_be_bytes()), Ok(PATHS_MAX - 1));
        assert_eq!(list.add(b"one more"), Ok(PATHS_MAX));
        let mut told = 0;
        list.names_behind(Some(&Name::from(99_990_usize.to_be_bytes())), |_| {
            told += 1;
            told < 5
        });
        assert_eq!(told, 5);
    }
}
