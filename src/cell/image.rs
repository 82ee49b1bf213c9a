//! [`Image`]: the memory of a cell, and how it is read without a lock while it is written.
//!
//! ```text
//!   mark │ published: v │ slot 0: version, length, text │ slot 1: version, length, text │ mark
//! ```
//! Version v lies in slot v mod 2. A writer, of which there is one at a time, writes version v+1 into the other slot and
//! then publishes it by growing `published`, the low half of the version. A reader looks which version is published,
//! copies its slot, and looks whether the slot still holds that version.
//!
//! Invariants:
//! - *whole-or-again*: a copy is returned only if the slot held one version from before its first word was loaded until
//!   after the last. Words are atomics, so that a copy that is thrown away was torn, and nothing worse.
//! - *published-is-whole*: the slot of the published version is complete, and nobody writes to it before the next version
//!   is published. So a writer that dies between any two stores leaves the version before, or the new one.
//! - *versions-grow-by-one*: a version is given to one text. One that was written and never published is written again.
//! - *no-way-back*: a slot that does not hold the published version is being overwritten, and then a later one is
//!   published already. A reader that finds neither is not early but in a damaged file.
//!
//! All bytes zero but the marks are an empty cell, version 0. The order of stores and loads is argued at each of them;
//! `image/loom_models.rs` checks it. What it costs and why it is so: `design/watched-value.md`. Read next: `mod.rs`.

use std::time::Duration;

use super::word::Word;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

/// The longest text in bytes: with `SET ` before it and the LF behind it, a line of 8 KiB.
pub(super) const TEXT_MAX_BYTES: usize = if cfg!(loom) { 16 } else { (8 << 10) - 5 };

const WORDS: usize = TEXT_MAX_BYTES.div_ceil(8);

/// Words up to the end of the last page. Loom would make every one of them anew for every interleaving.
const UNUSED: usize = if cfg!(loom) { 0 } else { (USED_BYTES.next_multiple_of(4_096) - USED_BYTES) / 8 };
const USED_BYTES: usize = 2 * size_of::<Line<Word>>() + 2 * size_of::<Slot>() + size_of::<AtomicU64>();

/// The first and the last eight bytes of a cell: whose it is, and the number of this layout.
pub(super) const MARK: [u8; 8] = *b"maitred\x01";

/// In the place of a version: the slot is being overwritten. No cell gets so far.
const NONE: u64 = u64::MAX;

/// What is in the file, from its first byte on.
#[repr(C, align(4096))]
pub(super) struct Image {
    /// [`MARK`]; written once, before anybody else looks. Zero if the file has shrunk.
    first: AtomicU64,
    /// Written by writers, at every change; loaded and slept on by everybody.
    published: Line<Word>,
    slots: [Slot; 2],
    /// So that `last` is the end of the last page. Atomics, since others may write there, whatever it is for.
    _unused: [AtomicU64; UNUSED],
    /// As `first`. A page of which only the end has gone reads as zeros there, and is no fault.
    last: AtomicU64,
}

/// Two lines of 64 bytes for itself.
#[repr(C, align(128))]
struct Line<T>(T);

/// One version of the value. Written by the one writer.
#[repr(C, align(128))]
struct Slot {
    version: AtomicU64,
    /// Of the text, in bytes.
    length: AtomicU64,
    /// The text, and zeros up to the end of its last word.
    words: [AtomicU64; WORDS],
}

/// What a set has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// The version of the text that was set, whether it is a new one or not.
    pub version: u64,
    /// Whether it is a new one: the text was another before.
    pub changed: bool,
    /// Sleeping watchers that the change has woken.
    pub woken: usize,
}

/// The image is not, or no longer, that of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// A mark has gone: the file was cut off, or overwritten.
    Marks,
    /// The published version is in none of the slots.
    Slots,
}

impl Image {
    /// An empty cell in memory of this process.
    pub(super) fn empty() -> Image {
        let mark = u64::from_ne_bytes(MARK);
        Image {
            first: AtomicU64::new(mark),
            published: Line(Word::new(0)),
            slots: [Slot::empty(), Slot::empty()],
            _unused: std::array::from_fn(|_| AtomicU64::new(0)),
            last: AtomicU64::new(mark),
        }
    }

    /// The newest version.
    pub(super) fn version(&self) -> Result<u64, Damage> {
        let version = self.find()?;
        self.check_marks()?;
        Ok(version)
    }

    /// Copies the newest text in the place of what is in `text`; its version.
    ///
    /// Nothing is waited for, and whoever makes a reader begin again has set a value: once for a reader that was about to
    /// copy, twice for one that copied. Two changes take longer than a copy, so that it takes the loss of the processor
    /// in the midst of a copy to begin again, and one more such loss for each time.
    pub(super) fn read(&self, text: &mut Vec<u8>) -> Result<u64, Damage> {
        loop {
            let version = self.find()?;
            let slot = self.slot(version);
            let complete = slot.copy_to(text);
            // INVARIANT whole-or-again.
            if slot.still_holds(version) {
                self.check_marks()?;
                return if complete { Ok(version) } else { Err(Damage::Slots) };
            }
        }
    }

    /// Makes `text` the newest, unless it is already. One caller at a time, of all that have this image.
    pub(super) fn set(&self, text: &[u8]) -> Result<Set, Damage> {
        let version = self.version()?;
        if self.slot(version).has(text) {
            return Ok(Set { version, changed: false, woken: 0 });
        }
        let woken = self.write(version + 1, text)?;
        self.check_marks()?;
        Ok(Set { version: version + 1, changed: true, woken })
    }

    /// Sleeps while `seen` is the newest version, `limit` at most. May return early: look again.
    pub(super) fn sleep_while(&self, seen: u64, limit: Duration) {
        // The low half tells versions apart unless there are 2^32 changes between two looks of one watcher.
        self.published.0.sleep_while(seen as u32, limit);
    }

    /// Writes the next version and publishes it; how many watchers that has woken.
    fn write(&self, version: u64, text: &[u8]) -> Result<usize, Damage> {
        // INVARIANT published-is-whole: the four steps, in this order. Behind each a writer may die.
        let slot = self.slot(version);
        slot.invalidate();
        slot.fill(text);
        slot.seal(version);
        self.publish()
    }

    fn publish(&self) -> Result<usize, Damage> {
        self.published.0.grow().map_err(|_| Damage::Marks)
    }

    /// The newest version, while its slot held it.
    fn find(&self) -> Result<u64, Damage> {
        let mut published = self.published.0.load();
        loop {
            // Not before what the load of `published` has seen: that was behind the seal of this slot.
            let version = self.slot(u64::from(published)).holds();
            if version as u32 == published && version != NONE {
                return Ok(version);
            }
            // INVARIANT no-way-back.
            let now = self.published.0.load();
            if now == published {
                return Err(Damage::Slots);
            }
            published = now;
        }
    }

    fn slot(&self, version: u64) -> &Slot {
        &self.slots[(version % 2) as usize]
    }

    fn check_marks(&self) -> Result<(), Damage> {
        let intact = [&self.first, &self.last].map(|mark| mark.load(Ordering::Relaxed).to_ne_bytes() == MARK);
        if intact == [true; 2] { Ok(()) } else { Err(Damage::Marks) }
    }
}

/// The steps of a reader and of a writer. Loads are relaxed ones with fences behind them, since memory that is mapped for
/// reading only is promised no others.
impl Slot {
    fn empty() -> Slot {
        Slot {
            version: AtomicU64::new(0),
            length: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// The version that lies here, and with it its text: what is loaded after this is of that version or a later one.
    fn holds(&self) -> u64 {
        let version = self.version.load(Ordering::Relaxed);
        // Pairs with the stores in `seal` and, for INVARIANT no-way-back, in `invalidate`.
        fence(Ordering::Acquire);
        version
    }

    /// Copies the text, which may change meanwhile; false if no text can be so long.
    fn copy_to(&self, text: &mut Vec<u8>) -> bool {
        text.clear();
        let length = self.length.load(Ordering::Relaxed);
        if length > TEXT_MAX_BYTES as u64 {
            return false;
        }
        let length = length as usize;
        text.resize(length.next_multiple_of(8), 0);
        for (bytes, word) in text.chunks_exact_mut(8).zip(&self.words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        text.truncate(length);
        true
    }

    /// Whether nothing that was loaded since `holds` said so is of a later version.
    fn still_holds(&self, version: u64) -> bool {
        // Pairs with the fence in `invalidate`: whoever has loaded one word of a later text sees at least that this
        // version is gone.
        fence(Ordering::Acquire);
        self.version.load(Ordering::Relaxed) == version
    }

    /// Says that what lies here is not to be used any more.
    fn invalidate(&self) {
        // Release; pairs with the fence in `holds`: the next version was published before.
        self.version.store(NONE, Ordering::Release);
        // Pairs with the fence in `still_holds`: no store of `fill` is seen before the one above.
        fence(Ordering::Release);
    }

    fn fill(&self, text: &[u8]) {
        for (word, value) in self.words.iter().zip(words_of(text)) {
            word.store(value, Ordering::Relaxed);
        }
        self.length.store(text.len() as u64, Ordering::Relaxed);
    }

    /// Says that this version lies here, complete.
    fn seal(&self, version: u64) {
        // Release; pairs with the fence in `holds`.
        self.version.store(version, Ordering::Release);
    }

    /// Whether this is the text. For the writer, beside whom nobody changes it.
    fn has(&self, text: &[u8]) -> bool {
        self.length.load(Ordering::Relaxed) == text.len() as u64
            && self.words.iter().zip(words_of(text)).all(|(word, value)| word.load(Ordering::Relaxed) == value)
    }
}

/// The words of a text; zeros behind its end.
fn words_of(text: &[u8]) -> impl Iterator<Item = u64> {
    let (whole, rest) = text.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(last);
    whole.iter().copied().chain(last).map(u64::from_ne_bytes)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A cell whose newest version is this one, without text.
    fn image_at(version: u64) -> Image {
        let mut image = Image::empty();
        image.published = Line(Word::new(version as u32));
        image.slot(version).seal(version);
        image
    }

    fn value(image: &Image) -> (u64, String) {
        let mut text = b"left over".to_vec();
        let version = image.read(&mut text).expect("it is a cell");
        (version, String::from_utf8(text).expect("only text was set"))
    }

    fn set(image: &Image, text: &str) -> (u64, bool) {
        let set = image.set(text.as_bytes()).expect("it is a cell");
        (set.version, set.changed)
    }

    #[test]
    fn an_empty_cell_has_version_zero_and_no_text() {
        let image = Image::empty();
        assert_eq!(value(&image), (0, String::new()));
        // Which is a text like any other.
        assert_eq!((set(&image, ""), set(&image, "a"), set(&image, "")), ((0, false), (1, true), (2, true)));
        assert_eq!(value(&image), (2, String::new()));
    }

    #[test]
    fn the_present_text_again_is_no_change() {
        let image = Image::empty();
        for (text, expected) in
            [("a", (1, true)), ("a", (1, false)), ("b", (2, true)), ("a", (3, true)), ("a", (3, false))]
        {
            assert_eq!(set(&image, text), expected);
            assert_eq!(value(&image), (expected.0, text.to_owned()));
        }
        // Zeros that fill up the last word are not mistaken for text, nor text for them.
        assert_eq!((set(&image, "a\0"), set(&image, "a\0\0"), set(&image, "a")), ((4, true), (5, true), (6, true)));
    }

    #[test]
    fn texts_of_every_length_come_back() {
        let image = Image::empty();
        let text: String = (0..TEXT_MAX_BYTES).map(|place| char::from(b'!' + (place % 90) as u8)).collect();
        let lengths = (1..=33).chain(TEXT_MAX_BYTES - 9..=TEXT_MAX_BYTES).chain([1, TEXT_MAX_BYTES / 2]);
        for (version, length) in (1..).zip(lengths) {
            assert_eq!(set(&image, &text[..length]), (version, true));
            assert_eq!(value(&image), (version, text[..length].to_owned()));
            assert_eq!(set(&image, &text[..length]), (version, false));
        }
    }

    #[test]
    fn the_layout_is_that_of_the_files_that_there_are() {
        use std::mem::offset_of;
        assert_eq!(size_of::<Image>(), 20_480);
        assert_eq!(offset_of!(Image, first), 0);
        assert_eq!(offset_of!(Image, published), 128);
        assert_eq!(offset_of!(Image, slots), 256);
        assert_eq!(size_of::<Slot>(), 8_320);
        assert_eq!([offset_of!(Slot, version), offset_of!(Slot, length), offset_of!(Slot, words)], [0, 8, 16]);
        assert_eq!(offset_of!(Image, last), 20_472);
    }

    /// A writer that is killed leaves what it has stored so far.
    #[test]
    fn a_writer_that_dies_behind_any_store_leaves_one_whole_value_and_the_next_writer_goes_on() {
        let long = "a text of several words, of which some may be stored and others not";
        let words = long.len().div_ceil(8);
        for dies_after in 0..=words + 3 {
            let image = Image::empty();
            set(&image, "first");
            set(&image, "second");
            let (slot, mut stores) = (image.slot(3), 0..dies_after);
            let mut goes_on = || stores.next().is_some();
            if goes_on() {
                slot.invalidate();
            }
            for (word, value) in slot.words.iter().zip(words_of(long.as_bytes())) {
                if goes_on() {
                    word.store(value, Ordering::Relaxed);
                }
            }
            if goes_on() {
                slot.length.store(long.len() as u64, Ordering::Relaxed);
            }
            if goes_on() {
                slot.seal(3);
            }
            assert_eq!(value(&image), (2, "second".to_owned()), "{dies_after} stores");
            assert_eq!(set(&image, "second"), (2, false), "{dies_after} stores");
            assert_eq!(set(&image, "third"), (3, true), "{dies_after} stores");
            assert_eq!(value(&image), (3, "third".to_owned()), "{dies_after} stores");
        }
    }

    #[test]
    fn the_low_half_of_the_version_may_wrap() {
        for begin in [u64::from(u32::MAX) - 2, (7 << 32) - 3] {
            let image = image_at(begin);
            for version in begin + 1..begin + 6 {
                let text = version.to_string();
                assert_eq!(set(&image, &text), (version, true));
                assert_eq!(value(&image), (version, text));
                // Returns at once: another version was seen.
                image.sleep_while(version - 1, Duration::from_secs(3_600));
            }
        }
    }

    #[test]
    fn what_is_no_cell_any_more_is_an_error_and_no_endless_search() {
        type Hurt = fn(&Image);
        let damages: [(Hurt, Damage); 6] = [
            (|image| image.first.store(0, Ordering::Relaxed), Damage::Marks),
            (|image| image.last.store(0, Ordering::Relaxed), Damage::Marks),
            (|image| image.slots[0].invalidate(), Damage::Slots),
            (|image| image.slots[0].seal(4), Damage::Slots),
            (|image| drop(image.published.0.grow()), Damage::Slots),
            (|image| image.slots[0].length.store(TEXT_MAX_BYTES as u64 + 1, Ordering::Relaxed), Damage::Slots),
        ];
        for (number, (damage, expected)) in damages.into_iter().enumerate() {
            let image = Image::empty();
            set(&image, "first");
            set(&image, "second");
            damage(&image);
            assert_eq!(image.read(&mut Vec::new()), Err(expected), "damage {number}");
            if number < 5 {
                assert_eq!(image.set(b"third"), Err(expected), "damage {number}");
            }
        }
    }

    #[test]
    fn readers_beside_a_writer_find_whole_texts_that_never_go_back() {
        let image = Image::empty();
        let text = |version: u64| version.to_string().repeat(400);
        let last = 3_000;
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut version = 0;
                    while version < last {
                        let (now, found) = value(&image);
                        assert!(now >= version, "{now} behind {version}");
                        assert!(now == 0 || found == text(now), "torn: version {now}");
                        version = now;
                    }
                });
            }
            for version in 1..=last {
                assert_eq!(set(&image, &text(version)), (version, true));
            }
        });
    }
}

#[cfg(all(test, loom))]
mod loom_models;
