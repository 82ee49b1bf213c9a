//! The fuzz target of the commands of `files` without a fuzzer: on the committed corpus, and on seeded inputs that are mostly
//! commands. `MAITRED_SEEDS=100000` goes on for longer.

#[path = "fuzz/files.rs"]
mod files;
#[path = "support/random.rs"]
mod random;

use std::fs;
use std::path::Path;

use maitred::random::Random;

use random::Draw;

#[test]
fn commands_are_what_a_plain_reading_says() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/files_command");
    let inputs = fs::read_dir(&corpus).expect("the target has a corpus").map(|file| file.expect("a file").path());
    let mut count = 0;
    for input in inputs {
        files::check(&fs::read(&input).unwrap_or_else(|error| panic!("{}: {error}", input.display())));
        count += 1;
    }
    assert!(count > 5, "the corpus has {count} inputs");
    let seeds = std::env::var("MAITRED_SEEDS").map_or(3_000, |seeds| seeds.parse().expect("a number"));
    for seed in 0..seeds {
        files::check(&draw(&mut Random::new(seed)));
    }
}

fn draw(random: &mut Random) -> Vec<u8> {
    let mut input = Vec::new();
    for _ in 0..random.up_to(20) {
        let word = random.pick(&["STAT", "HASH", "GET", "ADD", "DEL", "LIST", "CHANGED", "QUIT", "GE", "GETS", ""]);
        input.extend_from_slice(word.as_bytes());
        input.extend_from_slice(random.pick(&[&b" "[..], b" ", b" ", b"", b"  ", b"\t"]));
        let len = random.pick(&[0, 1, 5, 40, 4_094, 4_095, 4_096, 5_000]);
        input.extend((0..len).map(|_| random.pick(b"ab/.. \xff\r")));
        if random.once_in(10) {
            input.push(0);
        }
        input.push(b'\n');
    }
    input
}
