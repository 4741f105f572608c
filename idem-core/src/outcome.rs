//! Outcomes: the bytes that a store keeps for a finished record.
//!
//! An outcome is one byte of version, one byte of kind, and the content. Bytes that cannot be
//! read are an error for the caller, never a reason to run the body again.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;

/// What an attempt leaves behind when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Store this outcome; every retry gets it.
    Final(Outcome),
    /// Nothing happened: free the key. After a finished step something has: the attempt is suspended,
    /// and the next one goes on from there.
    Released,
    /// Nobody knows what happened, as after a panic: the lease is over at once, and the next claim
    /// follows `on_crash`. In a transaction everything is rolled back.
    Crashed,
}

/// A final outcome. Its `Debug` form shows no content.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// A function's value, as JSON.
    Value(Bytes),
    /// A function's error under `errors = "store"`, as JSON.
    Failure(Bytes),
    /// An HTTP response, as the module `http` encodes it.
    Response(Bytes),
    /// An answer of gRPC, as the module `tonic` of `idem-rs` encodes it.
    Rpc(Bytes),
    /// The body ran and what it answered was not kept: a tombstone.
    NotReplayable(NotReplayable),
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, content) = match self {
            Self::Value(content) => ("Value", content),
            Self::Failure(content) => ("Failure", content),
            Self::Response(content) => ("Response", content),
            Self::Rpc(content) => ("Rpc", content),
            Self::NotReplayable(reason) => {
                return f.debug_tuple("NotReplayable").field(reason).finish();
            }
        };
        write!(f, "{kind}({} bytes)", content.len())
    }
}

const VALUE: u8 = b'V';
const FAILURE: u8 = b'F';
const RESPONSE: u8 = b'R';
const RPC: u8 = b'G';
const TOMBSTONE: u8 = b'T';

impl Outcome {
    /// The bytes to store.
    pub fn encode(&self) -> Bytes {
        let reason;
        let (kind, content): (u8, &[u8]) = match self {
            Self::Value(content) => (VALUE, content),
            Self::Failure(content) => (FAILURE, content),
            Self::Response(content) => (RESPONSE, content),
            Self::Rpc(content) => (RPC, content),
            Self::NotReplayable(why) => {
                reason = [why.code()];
                (TOMBSTONE, &reason)
            }
        };
        let mut encoded = BytesMut::with_capacity(2 + content.len());
        encoded.put_u8(VERSION);
        encoded.put_u8(kind);
        encoded.put_slice(content);
        encoded.freeze()
    }

    /// Reads stored bytes; the content shares their memory.
    ///
    /// # Errors
    /// When the bytes are of another version or are no outcome at all.
    pub fn decode(encoded: &Bytes) -> Result<Self, Undecodable> {
        let [VERSION, kind, content @ ..] = &encoded[..] else {
            return Err(Undecodable);
        };
        let content = encoded.slice_ref(content);
        match *kind {
            VALUE => Ok(Self::Value(content)),
            FAILURE => Ok(Self::Failure(content)),
            RESPONSE => Ok(Self::Response(content)),
            RPC => Ok(Self::Rpc(content)),
            TOMBSTONE => match content[..] {
                [code] => NotReplayable::from_code(code).map(Self::NotReplayable),
                _ => Err(Undecodable),
            },
            _ => Err(Undecodable),
        }
    }
}

/// Why the outcome of an executed operation was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotReplayable {
    /// It is larger than the engine's bound.
    TooLarge,
    /// Its length was not known when it began: a stream.
    Streamed,
    /// It could not be serialised, or it failed while it was read.
    NotCaptured,
}

impl NotReplayable {
    const fn code(self) -> u8 {
        match self {
            Self::TooLarge => b'L',
            Self::Streamed => b'S',
            Self::NotCaptured => b'C',
        }
    }

    const fn from_code(code: u8) -> Result<Self, Undecodable> {
        match code {
            b'L' => Ok(Self::TooLarge),
            b'S' => Ok(Self::Streamed),
            b'C' => Ok(Self::NotCaptured),
            _ => Err(Undecodable),
        }
    }
}

impl fmt::Display for NotReplayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the operation was executed, and its first answer cannot be given again: ")?;
        f.write_str(match self {
            Self::TooLarge => "it was too large to be kept",
            Self::Streamed => "it was streamed",
            Self::NotCaptured => "it could not be read whole",
        })
    }
}

impl std::error::Error for NotReplayable {}

/// A stored outcome that this version of the program cannot read. It is never run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecodable;

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the operation was executed, and this version of the program cannot read its stored outcome")
    }
}

impl std::error::Error for Undecodable {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_round_trip_byte_for_byte() {
        for content in [&b""[..], b"null", b"\0\xff\r\n", &[7; 1 << 20]] {
            let content = Bytes::copy_from_slice(content);
            for outcome in [
                Outcome::Value(content.clone()),
                Outcome::Failure(content.clone()),
                Outcome::Response(content.clone()),
                Outcome::Rpc(content.clone()),
            ] {
                assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome));
            }
        }
        for reason in [
            NotReplayable::TooLarge,
            NotReplayable::Streamed,
            NotReplayable::NotCaptured,
        ] {
            let outcome = Outcome::NotReplayable(reason);
            assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome));
        }
    }

    #[test]
    fn foreign_bytes_are_an_error() {
        for bytes in [
            &b""[..],
            b"\x01",
            b"\x02V{}",
            b"\x01?",
            b"\x01T",
            b"\x01TLL",
            b"\x01T?",
        ] {
            assert_eq!(
                Outcome::decode(&Bytes::copy_from_slice(bytes)),
                Err(Undecodable)
            );
        }
    }
}
