//! The memory of a cell under loom: a reader beside writers, writers that die, watchers that sleep; and, with a step of
//! the protocol left out or out of its place, that these models do find what goes wrong.
//!
//! A text is two words, both of them the number of its version. A missed wake is a thread that sleeps for ever, which
//! loom reports.
//!
//! Loom looks for races with the last access to a word and no earlier one: if the writer loaded a word between a
//! reader's load and its own store, that store would not be tried before that load. So writers here know which version
//! is next, and take the steps of a set without its looks.

use std::sync::Arc;

use super::*;
use crate::sync::{Mutex, model, thread};

const LONG: Duration = Duration::from_secs(1);

/// The image and what all processes have beside it: the file's lock, with the newest version.
struct Shared {
    image: Image,
    lock: Mutex<u64>,
}

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared { image: Image::empty(), lock: Mutex::new(0) })
    }

    /// Sets a new value, as its version says.
    fn set_next(&self) {
        let mut version = self.lock.lock().unwrap();
        *version += 1;
        self.image.write(*version, &text(*version)).unwrap();
    }

    /// A writer that dies behind so many steps.
    fn begin_next(&self, steps: usize) {
        let next = *self.lock.lock().unwrap() + 1;
        let slot = self.image.slot(next);
        let steps_of_a_set: [&dyn Fn(); 3] = [&|| slot.invalidate(), &|| slot.fill(&[0xaa; 16]), &|| slot.seal(next)];
        steps_of_a_set.iter().take(steps).for_each(|step| step());
    }

    fn read(&self) -> u64 {
        let (version, found) = self.read_unchecked();
        check(version, &found);
        version
    }

    fn read_unchecked(&self) -> (u64, Vec<u8>) {
        let mut found = Vec::new();
        (self.image.read(&mut found).unwrap(), found)
    }
}

fn text(version: u64) -> [u8; 16] {
    let mut text = [0; 16];
    text[..8].copy_from_slice(&version.to_ne_bytes());
    text[8..].copy_from_slice(&version.to_ne_bytes());
    text
}

/// INVARIANT whole-or-again.
fn check(version: u64, found: &[u8]) {
    assert!(is_whole(version, found), "torn: version {version}: {found:?}");
}

fn is_whole(version: u64, found: &[u8]) -> bool {
    let expected = if version == 0 { Vec::new() } else { text(version).to_vec() };
    found == expected
}

/// That a reader under this model finds a torn text. It is noted and not thrown: a panic on one of loom's small stacks has no
/// room to print where it comes from.
fn assert_torn(read: impl Fn(&Arc<Shared>) -> (u64, Vec<u8>) + Send + Sync + 'static) {
    let is_torn = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let note = Arc::clone(&is_torn);
    model(move || {
        let (version, found) = read(&Shared::new());
        note.fetch_or(!is_whole(version, &found), std::sync::atomic::Ordering::Relaxed);
    });
    assert!(is_torn.load(std::sync::atomic::Ordering::Relaxed), "the model does not see what goes wrong");
}

fn spawn(shared: &Arc<Shared>, act: impl Fn(&Shared) + 'static) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || act(&shared))
}

/// Three changes: a reader may have to begin again, and again.
#[test]
fn a_reader_beside_a_writer_finds_whole_values() {
    model(|| {
        let shared = Shared::new();
        let writer = spawn(&shared, |shared| (0..3).for_each(|_| shared.set_next()));
        shared.read();
        writer.join().unwrap();
        assert_eq!(shared.read(), 3);
    });
}

#[test]
fn values_never_go_back() {
    model(|| {
        let shared = Shared::new();
        let writer = spawn(&shared, Shared::set_next);
        let first = shared.read();
        assert!(shared.read() >= first);
        writer.join().unwrap();
    });
}

#[test]
fn two_writers_take_turns_under_a_reader() {
    model(|| {
        let shared = Shared::new();
        let writers = [(); 2].map(|()| spawn(&shared, Shared::set_next));
        shared.read();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!(shared.read(), 2);
    });
}

/// What a dead writer has left is neither read nor in the way.
#[test]
fn a_writer_that_dies_leaves_readers_and_the_next_writer_alone() {
    for steps in 0..=3 {
        model(move || {
            let shared = Shared::new();
            shared.set_next();
            let writers = spawn(&shared, move |shared| {
                shared.begin_next(steps);
                shared.set_next();
                shared.begin_next(steps);
            });
            assert!((1..=2).contains(&shared.read()));
            writers.join().unwrap();
            assert_eq!(shared.read(), 2);
        });
    }
}

/// As `Cell::wait` does.
fn wait(image: &Image, seen: u64) -> u64 {
    loop {
        let version = image.version().unwrap();
        if version > seen {
            return version;
        }
        image.sleep_while(version, LONG);
    }
}

#[test]
fn the_newest_is_never_missed_and_none_is_acted_on_twice() {
    model(|| {
        let shared = Shared::new();
        let watcher = spawn(&shared, |shared| {
            let mut seen = 0;
            while seen < 2 {
                let version = wait(&shared.image, seen);
                let read = shared.read();
                assert!(seen < version && version <= read);
                seen = read;
            }
            assert_eq!(seen, 2);
        });
        shared.set_next();
        shared.set_next();
        watcher.join().unwrap();
    });
}

#[test]
fn a_change_wakes_all_who_watch() {
    model(|| {
        let shared = Shared::new();
        let watchers = [(); 2].map(|()| spawn(&shared, |shared| assert_eq!(wait(&shared.image, 0), 1)));
        shared.set_next();
        watchers.into_iter().for_each(|watcher| watcher.join().unwrap());
    });
}

/// A reader that does not look again: the proof that the models see a torn text.
#[test]
fn without_the_second_look_a_text_is_torn() {
    assert_torn(|shared| {
        let writer = spawn(shared, |shared| {
            (0..2).for_each(|_| shared.set_next());
        });
        let mut found = Vec::new();
        let version = shared.image.find().unwrap();
        shared.image.slot(version).copy_to(&mut found);
        writer.join().unwrap();
        (version, found)
    });
}

/// A writer that says only afterwards that the slot was not to be used.
#[test]
fn with_the_text_before_the_invalidation_a_text_is_torn() {
    assert_torn(|shared| {
        let writer = spawn(shared, |shared| {
            for version in 1..=2 {
                let slot = shared.image.slot(version);
                slot.fill(&text(version));
                slot.invalidate();
                slot.seal(version);
                shared.image.publish().unwrap();
            }
        });
        let read = shared.read_unchecked();
        writer.join().unwrap();
        read
    });
}

/// The stores of `invalidate`, without the fence between it and `fill`.
#[test]
fn without_the_fence_behind_the_invalidation_a_text_is_torn() {
    assert_torn(|shared| {
        let writer = spawn(shared, |shared| {
            for version in 1..=2 {
                let slot = shared.image.slot(version);
                slot.version.store(NONE, Ordering::Release);
                slot.fill(&text(version));
                slot.seal(version);
                shared.image.publish().unwrap();
            }
        });
        let read = shared.read_unchecked();
        writer.join().unwrap();
        read
    });
}

/// One slot for all versions, as with a plain seqlock: a writer that dies takes the value with it.
#[test]
fn with_one_slot_a_dead_writer_takes_the_value_with_it() {
    model(|| {
        let shared = Shared::new();
        shared.set_next();
        let slot = shared.image.slot(1);
        slot.invalidate();
        slot.fill(&text(2));
        assert_eq!(shared.image.read(&mut Vec::new()), Err(Damage::Slots));
    });
}

/// A watcher that looks and then sleeps whatever has come in between.
#[test]
#[should_panic(expected = "deadlock")]
fn a_sleep_that_does_not_compare_misses_a_change() {
    model(|| {
        let shared = Shared::new();
        let watcher = spawn(&shared, |shared| {
            if shared.image.version().unwrap() == 0 {
                let published = shared.image.published.0.load();
                shared.image.sleep_while(u64::from(published), LONG);
            }
        });
        shared.set_next();
        watcher.join().unwrap();
    });
}
