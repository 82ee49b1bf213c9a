//! The pattern of RFC 864, by its description: what `chargen` has to say.

/// The byte at this place: 95 lines of 72 characters, each of which begins one character further on in the ring of the
/// printing characters of ASCII, with CR and LF; then again from the first.
pub(crate) fn byte_at(place: usize) -> u8 {
    match (place / 74, place % 74) {
        (_, 72) => b'\r',
        (_, 73) => b'\n',
        (line, column) => b' ' + ((line + column) % 95) as u8,
    }
}

/// So many bytes from the first on.
#[allow(dead_code, reason = "each test binary uses a part of it")]
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(byte_at).collect()
}
