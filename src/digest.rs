//! SHA-256, a piece at a time. The only user of `sha2`. Read next: `spend.rs`, which hashes to spend time;
//! `service/files.rs`, which hashes to know.

use sha2::Digest as _;
use sha2::Sha256;

/// What has been hashed so far.
#[derive(Default)]
pub struct Digest(Sha256);

impl Digest {
    /// Of nothing.
    pub fn new() -> Digest {
        Digest::default()
    }

    /// Adds these bytes behind those that were added before.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all of them.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// A hash as people write it: lower-case hexadecimal.
pub fn hex(hash: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_those_of_the_standard() {
        let hash = |pieces: &[&[u8]]| {
            let mut digest = Digest::new();
            pieces.iter().for_each(|piece| digest.update(piece));
            hex(&digest.finish())
        };
        assert_eq!(hash(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash(&[b"abc"]), abc);
        assert_eq!(hash(&[b"a", b"", b"bc"]), abc);
    }
}
