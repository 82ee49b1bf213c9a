//! The fuzz targets of framing without a fuzzer: what they check, on the committed corpus and on seeded inputs.
//!
//! The corpus lies in `tests/fuzz/corpus`, a folder for each target. A fuzzer has no idea of frames and finds long ones
//! seldom, so the seeded streams are mostly made of frames: of all sizes up to the limit, of one size a thousand times,
//! with lengths and lines just above it, and broken off anywhere. `MAITRED_SEEDS=100000` goes on for longer.

#[path = "fuzz/framing.rs"]
mod framing;
#[path = "support/random.rs"]
mod random;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use maitred::random::Random;
use maitred::session::framing::Framing;

use framing::{HEADER, Kind, check};
use random::Draw;

#[test]
fn frames_by_length_are_the_same_however_they_come() {
    check_all(Kind::Length, "framing_length");
}

#[test]
fn lines_are_the_same_however_they_come() {
    check_all(Kind::Line, "framing_line");
}

#[test]
fn frames_by_nul_are_the_same_however_they_come() {
    check_all(Kind::Nul, "framing_nul");
}

#[test]
fn a_thousand_frames_in_one_piece_are_a_thousand_frames() {
    // The largest ring, the largest limit of the choices that has no least length.
    for kind in [Kind::Length, Kind::Line, Kind::Nul] {
        let mut input = vec![7, 3, 0];
        (0..1_000_u32).for_each(|number| input.extend(frame(kind, &vec![b'x'; number as usize % 5 + 20])));
        check(kind, &input);
    }
}

fn check_all(kind: Kind, target: &str) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files = fs::read_dir(&corpus).expect("every target has a corpus").map(|file| file.expect("a file").path());
    let mut count = 0;
    for file in files {
        let input = fs::read(&file).expect("it can be read");
        told(&format!("{}", file.display()), || check(kind, &input));
        count += 1;
    }
    assert!(count > 5, "the corpus of {target} has {count} inputs");
    let seeds = std::env::var("MAITRED_SEEDS").map_or(1_500, |seeds| seeds.parse().expect("a number"));
    for seed in 0..seeds {
        let input = draw(kind, &mut Random::new(seed));
        told(&format!("seed {seed}"), || check(kind, &input));
    }
}

/// Says of which input it was true if the check fails.
fn told(input: &str, check: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(check)) {
        eprintln!("with the input of {input}");
        resume_unwind(panic);
    }
}

fn draw(kind: Kind, random: &mut Random) -> Vec<u8> {
    let mut input: Vec<u8> = (0..HEADER).map(|_| random.next() as u8).collect();
    if random.once_in(4) {
        let len = random.below(300);
        input.extend((0..len).map(|_| random.pick(b"\0\0\0\x01\x02\x07\r\r\n\na\xff")));
        return input;
    }
    let framing = kind.framing(input[0]);
    let longest = match framing {
        Framing::Length { most, .. } => most,
        Framing::Line { most } | Framing::Nul { most } => most - 1,
    };
    let longest = longest.min(random.pick(&[3, 60, 1_000, 10_000])) as usize;
    let most_bytes = if random.once_in(50) { 20_000 } else { 500 };
    while input.len() < most_bytes && !random.once_in(40) {
        let len = random.below(longest + 1);
        let body: Vec<u8> = (0..len).map(|_| random.pick(b"abc\r\x01\xfe")).collect();
        input.extend(frame(kind, &body));
    }
    match framing {
        Framing::Length { least, most } => {
            let hostile = [0, 1, least.wrapping_sub(1), most, most.wrapping_add(1), 1 << 31, u32::MAX];
            input.extend(random.pick(&hostile).to_be_bytes());
        }
        Framing::Line { most } | Framing::Nul { most } => {
            let len = random.pick(&[most - 1, most, most.saturating_add(1)]).min(10_000);
            input.extend(frame(kind, &vec![b'z'; len as usize]));
        }
    }
    if random.once_in(3) {
        input.truncate(HEADER + random.below(input.len() - HEADER));
    }
    input
}

fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    match kind {
        Kind::Length => [&(body.len() as u32).to_be_bytes()[..], body].concat(),
        Kind::Line => [body, b"\n"].concat(),
        Kind::Nul => [body, b"\0"].concat(),
    }
}
