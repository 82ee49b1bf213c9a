//! What it costs to find a message in a stream: by length, by line and by NUL, in a ring as the daemon has it.
//!
//! Four ways to find the frames of the same bytes:
//! - *in place*: the daemon's [`Framer`], whose frames are ranges of the ring;
//! - *copied out*: the same, and each body into a `Vec` of its own, as a server does whose handlers are given strings;
//! - *byte by byte*: a loop that looks at one byte after the other, and begins again at the front each time it is asked;
//! - *forgetful*: in place, but by a new framer each time it is asked, so that only what it remembers is missing.
//!
//! Two tables. *Thousands at once*: a full ring, which wraps in the middle. *A piece at a time*: one message of which a
//! piece comes, and then another, each way asked after each piece. `README.md` beside this file says how to read them.

use std::env;
use std::hint::black_box;
use std::time::Instant;

use maitred::session::framing::{Found, Framer, Framing};
use maitred::session::handler::Chunks;

/// Bytes of a ring: what the daemon has by default.
const RING_BYTES: usize = 64 << 10;

/// Bytes of a message with all that frames it.
const SIZES: [usize; 4] = [16, 64, 1 << 10, 8 << 10];

/// Bytes of the message that comes in pieces, and of these.
const LONG: usize = 8 << 10;
const PIECES: [usize; 4] = [16, 128, 1_448, 8 << 10];

const MOST: u32 = 1 << 20;

const KINDS: [(&str, Framing); 3] = [
    ("length", Framing::Length { least: 0, most: MOST }),
    ("line", Framing::Line { most: MOST }),
    ("nul", Framing::Nul { most: MOST }),
];

/// Runs of each contender, in turns.
const REPEATS: usize = 15;

/// Bytes that one run goes through: some milliseconds.
const RUN_BYTES: usize = 8 << 20;

const WAYS: [&str; 4] = ["in place", "copied out", "byte by byte", "forgetful"];

/// A way to find frames: how many bytes the one at the front has, if it is all there.
fn find(way: usize, framing: Framing, framer: &mut Framer, input: Chunks<'_>) -> Option<usize> {
    let found = match way {
        0 | 1 => framer.find(input),
        2 => find_byte_by_byte(framing, input),
        _ => Framer::new(framing).find(input),
    };
    match found {
        Found::Frame { body, bytes } if way == 1 => {
            let mut copy = vec![0; body.len()];
            body.copy_to(&mut copy);
            black_box(copy);
            Some(bytes)
        }
        Found::Frame { body, bytes } => {
            black_box(body);
            Some(bytes)
        }
        Found::Part { .. } | Found::More => None,
        Found::TooShort | Found::TooLong => panic!("every message is within its limits"),
    }
}

fn find_byte_by_byte(framing: Framing, input: Chunks<'_>) -> Found<'_> {
    let (first, second) = input.slices();
    let mut bytes = first.iter().chain(second);
    let end = match framing {
        Framing::Length { .. } => {
            let mut length = 0;
            for _ in 0..4 {
                let Some(byte) = bytes.next() else { return Found::More };
                length = length << 8 | usize::from(*byte);
            }
            let bytes = 4 + length;
            if bytes > input.len() {
                return Found::Part { bytes };
            }
            return Found::Frame { body: input.range(4..bytes), bytes };
        }
        Framing::Line { .. } => b'\n',
        Framing::Nul { .. } => 0,
    };
    match bytes.position(|byte| *byte == end) {
        Some(at) => Found::Frame { body: input.range(0..at), bytes: at + 1 },
        None => Found::More,
    }
}

/// A message of so many bytes.
fn message(framing: Framing, size: usize) -> Vec<u8> {
    let text = |len: usize| (0..len).map(|at| b'a' + (at % 26) as u8);
    match framing {
        Framing::Length { .. } => ((size - 4) as u32).to_be_bytes().into_iter().chain(text(size - 4)).collect(),
        Framing::Line { .. } => text(size - 1).chain([b'\n']).collect(),
        Framing::Nul { .. } => text(size - 1).chain([0]).collect(),
    }
}

fn main() {
    if !env::args().any(|argument| argument == "--bench") {
        eprintln!("framing: measures under `cargo bench --bench framing`");
        return;
    }
    println!("median of {REPEATS} runs in turns; ns per message, and the ratio to *in place*\n");
    println!("thousands at once: a ring of {RING_BYTES} bytes, full, which wraps in the middle");
    table("bytes", &SIZES, |way, framing, size| {
        let bytes = message(framing, size).repeat(RING_BYTES / size);
        let (first, second) = bytes.split_at(bytes.len() / 2 - 3);
        at_once(way, framing, Chunks::new(first, second), RING_BYTES / size)
    });
    println!("\na piece at a time: messages of {LONG} bytes, asked for after each piece of so many");
    table("piece", &PIECES, |way, framing, piece| in_pieces(way, framing, &message(framing, LONG), piece));
}

fn table(heading: &str, sizes: &[usize], run: impl Fn(usize, Framing, usize) -> f64) {
    print!("{:>7} {heading:>7}", "by");
    for way in WAYS {
        print!(" | {way:>12} {:>7}", "ratio");
    }
    println!();
    for (name, framing) in KINDS {
        for size in sizes {
            let mut runs = [const { Vec::new() }; WAYS.len()];
            for repeat in 0..REPEATS {
                for place in 0..WAYS.len() {
                    let way = (place + repeat) % WAYS.len();
                    runs[way].push(run(way, framing, *size));
                }
            }
            let medians = runs.map(|mut ns| {
                ns.sort_by(f64::total_cmp);
                ns[ns.len() / 2]
            });
            print!("{name:>7} {size:>7}");
            for ns in medians {
                print!(" | {ns:>12.1} {:>7.2}", ns / medians[0]);
            }
            println!();
        }
    }
}

fn at_once(way: usize, framing: Framing, ring: Chunks<'_>, messages: usize) -> f64 {
    let passes = RUN_BYTES.div_ceil(ring.len());
    let mut framer = Framer::new(framing);
    let begin = Instant::now();
    for _ in 0..passes {
        let (ring, mut at, mut count) = (black_box(ring), 0, 0);
        while let Some(bytes) = find(way, framing, &mut framer, ring.range(at..ring.len())) {
            at += bytes;
            count += 1;
        }
        assert_eq!((at, count), (ring.len(), messages));
    }
    begin.elapsed().as_nanos() as f64 / (passes * messages) as f64
}

fn in_pieces(way: usize, framing: Framing, message: &[u8], piece: usize) -> f64 {
    // The slow ways go through the message again for each of its pieces.
    let messages = (RUN_BYTES / message.len()).min(4 * piece).max(20);
    let mut framer = Framer::new(framing);
    let begin = Instant::now();
    for _ in 0..messages {
        let message = black_box(message);
        let mut shown = 0;
        let bytes = loop {
            shown = (shown + piece).min(message.len());
            if let Some(bytes) = find(way, framing, &mut framer, Chunks::new(&message[..shown], &[])) {
                break bytes;
            }
        };
        assert_eq!((bytes, shown), (message.len(), message.len()));
    }
    begin.elapsed().as_nanos() as f64 / messages as f64
}
