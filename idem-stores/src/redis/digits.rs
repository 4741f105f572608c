//! Numbers and checksums as records have them: printable, so that scripts can read and write them.

use sha1::{Digest, Sha1};

/// The length of a checksum.
pub(super) const SEAL_LEN: usize = 8;

/// Writes a number in decimal digits, with zeros before it.
pub(super) fn digits(mut number: u64, into: &mut [u8]) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The first hexadecimal digits of the SHA-1.
pub(super) fn seal(record: &[u8]) -> [u8; SEAL_LEN] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha1::digest(record);
    std::array::from_fn(|at| {
        let byte = digest[at / 2];
        HEX[usize::from(if at % 2 == 0 { byte >> 4 } else { byte & 0xf })]
    })
}

/// Reads a number in decimal digits.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}
