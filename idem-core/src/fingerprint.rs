//! Fingerprints: what must be equal on a retry.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::canonical::{self, FingerprintError};

/// The version of the algorithm that made a fingerprint is a part of it, so that a record written
/// by another version is never taken for an equal request by accident: it is a mismatch.
///
/// | version | what it counts |
/// |---|---|
/// | 1 | named parts |
/// | 2 | the same, and who asks (`Fingerprinter::with_caller`), the request's host among it |
/// | 3, 4 | the same as 1 and 2, of a multipart body each part (`Fingerprinter::by_parts`) |
const VERSION: u8 = 1;
#[cfg(feature = "http")]
const WITH_CALLER: u8 = 1;
#[cfg(feature = "http")]
const BY_PARTS: u8 = 2;

/// SHA-256 of a request, with the version of the algorithm that made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    version: u8,
    digest: [u8; 32],
}

impl Fingerprint {
    /// The length of [`Fingerprint::to_bytes`].
    pub const LEN: usize = 33;

    /// The fingerprint of one serialisable value.
    ///
    /// # Errors
    /// When the value's own `Serialize` implementation fails.
    ///
    /// ```
    /// use idem_core::Fingerprint;
    /// use std::collections::HashMap;
    ///
    /// let a: HashMap<_, _> = [("x", 1), ("y", 2)].into();
    /// let b: HashMap<_, _> = [("y", 2), ("x", 1)].into();
    /// assert_eq!(Fingerprint::of(&a)?, Fingerprint::of(&b)?);
    /// # Ok::<_, idem_core::FingerprintError>(())
    /// ```
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, FingerprintError> {
        let mut fingerprinter = Fingerprinter::new();
        fingerprinter.value("value", value)?;
        Ok(fingerprinter.finish())
    }

    /// The version and the digest, as a store keeps them.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.version;
        bytes[1..].copy_from_slice(&self.digest);
        bytes
    }

    /// A fingerprint from bytes that a store kept.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [version, digest @ ..] = bytes;
        Self { version, digest }
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint(v{}, …)", self.version)
    }
}

/// Builds a fingerprint from named, length-delimited parts.
#[derive(Clone, Debug)]
pub struct Fingerprinter {
    version: u8,
    hash: Sha256,
    scratch: Vec<u8>,
}

impl Default for Fingerprinter {
    fn default() -> Self {
        Self::new()
    }
}

impl Fingerprinter {
    /// A fingerprint of nothing yet.
    pub fn new() -> Self {
        let mut hash = Sha256::new();
        hash.update(b"idem request 1");
        Self {
            version: VERSION,
            hash,
            scratch: Vec::new(),
        }
    }

    /// Adds raw bytes under a name.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) {
        self.delimited(b'b', name, bytes);
    }

    /// Adds a serialisable value under a name, in a canonical form: maps in the order of
    /// their encoded keys, integers by value whatever their width.
    ///
    /// A set is a sequence to serde. One whose order varies (`HashSet`) gives a fingerprint
    /// that varies: use an ordered set, or name what must be equal.
    ///
    /// # Errors
    /// When the value's own `Serialize` implementation fails.
    pub fn value<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        value: &T,
    ) -> Result<(), FingerprintError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        canonical::write(value, &mut scratch)?;
        self.delimited(b'v', name, &scratch);
        self.scratch = scratch;
        Ok(())
    }

    /// Says that who asks takes part, by raw bytes that follow under names of their own.
    #[cfg(feature = "http")]
    pub(crate) const fn with_caller(&mut self) {
        self.version = VERSION + ((self.version - VERSION) | WITH_CALLER);
    }

    /// Says that a body is counted part by part.
    #[cfg(feature = "http")]
    pub(crate) const fn by_parts(&mut self) {
        self.version = VERSION + ((self.version - VERSION) | BY_PARTS);
    }

    fn delimited(&mut self, tag: u8, name: &str, bytes: &[u8]) {
        self.hash.update([tag]);
        self.hash.update((name.len() as u64).to_le_bytes());
        self.hash.update(name);
        self.hash.update((bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
    }

    /// The fingerprint of all parts.
    pub fn finish(self) -> Fingerprint {
        Fingerprint {
            version: self.version,
            digest: self.hash.finalize().into(),
        }
    }
}

/// What an earlier algorithm made of a request: it is asked for where the present one has found a
/// record of another request, which may be this one's.
#[doc(hidden)]
#[derive(Clone)]
pub struct FormerFingerprint {
    /// All but the body. Boxed: calls hold it while they wait.
    parts: Box<Fingerprinter>,
    body: Bytes,
}

impl FormerFingerprint {
    #[cfg(feature = "http")]
    pub(crate) fn new(parts: Fingerprinter, body: Bytes) -> Self {
        Self {
            parts: Box::new(parts),
            body,
        }
    }

    pub(crate) fn finish(mut self) -> Fingerprint {
        self.parts.bytes("body", &self.body);
        self.parts.finish()
    }
}

/// Shows no content.
impl fmt::Debug for FormerFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FormerFingerprint").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_of_version_1_never_changes() {
        // A change of this value makes every retry across a deploy a mismatch.
        let mut fingerprinter = Fingerprinter::new();
        fingerprinter.bytes("body", b"{}");
        fingerprinter.value("n", &(1_u8, "a", None::<u8>)).unwrap();
        let hex: String = fingerprinter
            .finish()
            .to_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "01ee1f04a5a0bb90a078f92cf2c4f3ec3a02a74101f398920cdc37a172704c7ea0"
        );
    }

    #[test]
    fn names_and_values_are_delimited() {
        let of = |parts: &[(&str, &[u8])]| {
            let mut fingerprinter = Fingerprinter::new();
            for (name, bytes) in parts {
                fingerprinter.bytes(name, bytes);
            }
            fingerprinter.finish()
        };
        assert_ne!(of(&[("a", b"bc")]), of(&[("ab", b"c")]));
        assert_ne!(of(&[("a", b"b"), ("c", b"d")]), of(&[("a", b"bcd")]));
        assert_ne!(of(&[("a", b"")]), of(&[]));
    }

    #[test]
    fn bytes_round_trip() {
        let fingerprint = Fingerprint::of("x").unwrap();
        assert_eq!(Fingerprint::from_bytes(fingerprint.to_bytes()), fingerprint);
    }
}
