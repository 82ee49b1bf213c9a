//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz console`; what is checked is in `../console.rs`.

#![no_main]

#[path = "../console.rs"]
mod console;

libfuzzer_sys::fuzz_target!(|input: &[u8]| console::check(input));
