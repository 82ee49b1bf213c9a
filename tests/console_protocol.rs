//! The fuzz target of the console without a fuzzer: what it checks, on the committed corpus and on seeded inputs.
//!
//! A fuzzer has no idea of commands, so the seeded streams are mostly made of them: right ones, wrong ones, with telnet's
//! commands in between, and broken off anywhere. `MAITRED_SEEDS=100000` goes on for longer.

#[path = "fuzz/console.rs"]
mod console;
#[path = "support/random.rs"]
mod random;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use maitred::random::Random;

use console::{HEADER, TOKEN, check};
use random::Draw;

/// Lines, with their ends or without, and what telnet clients mix with them.
const PARTS: &[&[u8]] = &[
    b"help\n",
    b"stats\r\n",
    b"sessions\n",
    b"kill 17\n",
    b"kill\n",
    b"workers\n",
    b"workers 3\n",
    b"workers 184467440737095516160\n",
    b"set\n",
    b"set batch 5\n",
    b"set batch 5 6\n",
    b"drain\n",
    b"  \t \n",
    b"\n",
    b"\r\n",
    b"\r",
    b"wor",
    b"kers ",
    b"\x1b[2J\n",
    b"\0\x7f\xc3\x28\n",
    b"\xff\xfb\x1f",
    b"\xff\xfd\x01",
    b"\xff\xfc\x01",
    b"\xff\xf6",
    b"\xff\xff",
    b"\xff\xfa\x1f\x00\x50\x00\n\xff\xf0",
    b"\xff\xfa\x18\xff\xff\xff\n\xff\xf0",
    b"\xff",
    b"\xff\xfa",
];

#[test]
fn the_console_says_the_same_however_it_is_told() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/console");
    let files = fs::read_dir(&corpus).expect("every target has a corpus").map(|file| file.expect("a file").path());
    let mut count = 0;
    for file in files {
        let input = fs::read(&file).expect("it can be read");
        told(&format!("{}", file.display()), || check(&input));
        count += 1;
    }
    assert!(count > 5, "the corpus has {count} inputs");
    let seeds = std::env::var("MAITRED_SEEDS").map_or(300, |seeds| seeds.parse().expect("a number"));
    for seed in 0..seeds {
        let input = draw(&mut Random::new(seed));
        told(&format!("seed {seed}"), || check(&input));
    }
}

/// Says of which input it was true if the check fails.
fn told(input: &str, check: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(check)) {
        eprintln!("with the input of {input}");
        resume_unwind(panic);
    }
}

fn draw(random: &mut Random) -> Vec<u8> {
    let mut input: Vec<u8> = (0..HEADER).map(|_| random.next() as u8).collect();
    if random.once_in(5) {
        let len = random.below(300);
        input.extend((0..len).map(|_| random.next() as u8));
        return input;
    }
    if !random.once_in(3) {
        input.extend(format!("token {TOKEN}\n").bytes());
    }
    for _ in 0..random.below(25) {
        input.extend(random.pick(PARTS));
        if random.once_in(60) {
            input.extend(vec![b'x'; random.below(10_000)]);
        }
        if random.once_in(60) {
            input.extend(b"quit\n");
        }
    }
    input
}
