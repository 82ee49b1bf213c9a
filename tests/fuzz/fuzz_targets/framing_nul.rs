//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz framing_nul`; what is checked is in `../framing.rs`.

#![no_main]

#[path = "../framing.rs"]
mod framing;

libfuzzer_sys::fuzz_target!(|input: &[u8]| framing::check(framing::Kind::Nul, input));
