//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz files_command`; what is checked is in `../files.rs`.

#![no_main]

#[path = "../files.rs"]
mod files;

libfuzzer_sys::fuzz_target!(|input: &[u8]| files::check(input));
