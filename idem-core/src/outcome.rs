//! Outcomes: the bytes a store keeps for a finished record, and the traits that turn a
//! function's value into them and back.
//!
//! An outcome is one byte of version, one byte of kind, and the content. Bytes that cannot be
//! read are an error for the caller, never a reason to run the body again.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::current;
use crate::engine::Engine;
use crate::error::Error;

const VERSION: u8 = 1;

/// What an attempt leaves behind when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Store this outcome; every retry gets it.
    Final(Outcome),
    /// Nothing happened: free the key.
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

/// `errors = "release"`: an `Err` frees the key.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseErrors;

/// `errors = "store"`: an `Err` is final too, unless an idempotent call that the body has made was
/// refused. What the body had done before is not known then: the attempt counts as crashed, and the
/// next one follows `on_crash`.
#[derive(Clone, Copy, Debug)]
pub struct StoreErrors;

/// A value of a function that can be stored and given back: `Result<T, E>` with a
/// [`StorableValue`] and an error that carries [`Error`].
///
/// `Errors` is [`ReleaseErrors`] or [`StoreErrors`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the outcome of an idempotent function",
    label = "not a `Result` that can be stored",
    note = "return `Result<T, E>`, where `T: Serialize + DeserializeOwned` and `E: From<idem::Error>`",
    note = "over a handler of a web framework use that framework's form, such as `idem::axum::idempotent`: it stores any response"
)]
pub trait Replayable<Errors>: Sized {
    /// What to leave behind.
    fn verdict(&self) -> Verdict;

    /// The value from a stored outcome.
    ///
    /// # Errors
    /// When the outcome holds no such value.
    fn replay(outcome: &Outcome) -> Result<Self, Error>;

    /// The value that says why the body did not run.
    fn refused(error: Error) -> Self;

    /// [`verdict`](Self::verdict) where the engine is known, for values that its settings shape,
    /// such as responses of HTTP.
    #[doc(hidden)]
    fn verdict_under(&self, _engine: &Engine) -> Verdict {
        self.verdict()
    }

    /// [`refused`](Self::refused) where the engine is known.
    #[doc(hidden)]
    fn refused_under(error: Error, _engine: &Engine) -> Self {
        Self::refused(error)
    }

    /// The value for a body that panicked, where one can say so. `None` resumes the panic.
    #[doc(hidden)]
    fn crashed(_engine: &Engine, _rolled_back: bool) -> Option<Self> {
        None
    }

    /// Why [`verdict`](Self::verdict) is a tombstone, without a word of the value.
    #[doc(hidden)]
    fn why_not_kept(&self) -> Option<String> {
        None
    }

    /// Why [`replay`](Self::replay) would fail, without a word of the value.
    #[doc(hidden)]
    fn why_not_given_back(outcome: &Outcome) -> Option<String> {
        Self::replay(outcome).err().map(|error| error.to_string())
    }

    /// Whether what the body wrote in its transaction stays when this value is final.
    #[doc(hidden)]
    fn keeps_writes(&self, outcome: &Outcome) -> bool {
        !matches!(outcome, Outcome::Failure(_))
    }
}

/// A value that can be stored: anything that serde writes and reads.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored as an outcome",
    label = "this value cannot be stored and given back",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it",
    note = "over a handler of a web framework use that framework's form, such as `idem::axum::idempotent`: it stores any response",
    note = "a `Reply` of Rocket or warp is returned alone, without a `Result`: it holds an error's response as well"
)]
pub trait StorableValue: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> StorableValue for T {}

/// An error type that can say why the body did not run.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say why the body did not run",
    label = "`From<idem::Error>` is missing for this error",
    note = "write `impl From<idem::Error> for {Self}`",
    note = "over a handler of a web framework use that framework's form, such as `idem::axum::idempotent`: it refuses with a response"
)]
pub trait CarriesRefusal: From<Error> {}

#[diagnostic::do_not_recommend]
impl<E: From<Error>> CarriesRefusal for E {}

impl<T: StorableValue, E: CarriesRefusal> Replayable<ReleaseErrors> for Result<T, E> {
    fn verdict(&self) -> Verdict {
        match self {
            Ok(value) => json(value, Outcome::Value),
            Err(_) => Verdict::Released,
        }
    }

    fn replay(outcome: &Outcome) -> Result<Self, Error> {
        match outcome {
            Outcome::Value(content) => from_json(content).map(Ok),
            other => Err(not_a_value(other)),
        }
    }

    fn why_not_kept(&self) -> Option<String> {
        self.as_ref().ok().and_then(why_not_written)
    }

    fn why_not_given_back(outcome: &Outcome) -> Option<String> {
        match outcome {
            Outcome::Value(content) => why_not_read::<T>(content),
            _ => None,
        }
    }

    fn refused(error: Error) -> Self {
        current::note_refusal();
        Err(error.into())
    }
}

impl<T: StorableValue, E: StorableValue + CarriesRefusal> Replayable<StoreErrors> for Result<T, E> {
    fn verdict(&self) -> Verdict {
        match self {
            Ok(value) => json(value, Outcome::Value),
            // What was refused within would be refused for as long as this is kept.
            Err(_) if current::was_refused_within() => Verdict::Crashed,
            Err(error) => json(error, Outcome::Failure),
        }
    }

    fn replay(outcome: &Outcome) -> Result<Self, Error> {
        match outcome {
            Outcome::Value(content) => from_json(content).map(Ok),
            Outcome::Failure(content) => from_json(content).map(Err),
            other => Err(not_a_value(other)),
        }
    }

    fn why_not_kept(&self) -> Option<String> {
        match self {
            Ok(value) => why_not_written(value),
            Err(error) => why_not_written(error),
        }
    }

    fn why_not_given_back(outcome: &Outcome) -> Option<String> {
        match outcome {
            Outcome::Value(content) => why_not_read::<T>(content),
            Outcome::Failure(content) => why_not_read::<E>(content),
            _ => None,
        }
    }

    fn refused(error: Error) -> Self {
        current::note_refusal();
        Err(error.into())
    }
}

fn json<T: Serialize>(value: &T, outcome: fn(Bytes) -> Outcome) -> Verdict {
    Verdict::Final(match serde_json::to_vec(value) {
        Ok(content) => outcome(content.into()),
        Err(_) => Outcome::NotReplayable(NotReplayable::NotCaptured),
    })
}

fn from_json<T: DeserializeOwned>(content: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(content).map_err(|_| Error::Undecodable(Undecodable))
}

fn why_not_written<T: Serialize>(value: &T) -> Option<String> {
    let error = serde_json::to_writer(std::io::sink(), value).err()?;
    Some(format!(
        "{} cannot be written as JSON: {}",
        std::any::type_name::<T>(),
        without_values(&error)
    ))
}

fn why_not_read<T: DeserializeOwned>(content: &[u8]) -> Option<String> {
    let error = serde_json::from_slice::<T>(content).err()?;
    Some(format!(
        "{} cannot be read from the JSON that it was written as: {}",
        std::any::type_name::<T>(),
        without_values(&error)
    ))
}

/// What serde says of an error, where it speaks of the type alone: other messages may repeat values.
fn without_values(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let of_types = [
        "missing field `",
        "duplicate field `",
        "key must be a string",
        "can only flatten",
        "u128 is not supported",
        "i128 is not supported",
    ];
    let of_a_type = of_types.iter().any(|words| said.starts_with(words));
    match (of_a_type, error.classify()) {
        (true, _) => said,
        (false, serde_json::error::Category::Data) => {
            "what is there is not what the type expects".to_owned()
        }
        (false, _) => "its own serialization fails".to_owned(),
    }
}

fn not_a_value(outcome: &Outcome) -> Error {
    match outcome {
        Outcome::NotReplayable(reason) => Error::NotReplayable(*reason),
        _ => Error::Undecodable(Undecodable),
    }
}

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

    type Released = Result<Option<u8>, Error>;

    #[test]
    fn empty_and_falsy_values_are_values() {
        for value in [Ok(None), Ok(Some(0))] {
            let value: Released = value;
            let Verdict::Final(outcome) = Replayable::<ReleaseErrors>::verdict(&value) else {
                panic!("a value is final");
            };
            let replay = <Released as Replayable<ReleaseErrors>>::replay(&outcome).unwrap();
            assert_eq!(replay.unwrap(), value.unwrap());
        }
    }

    #[test]
    fn a_value_of_another_type_is_undecodable() {
        let outcome = Outcome::Value(Bytes::from_static(b"\"text\""));
        assert!(matches!(
            <Released as Replayable<ReleaseErrors>>::replay(&outcome),
            Err(Error::Undecodable(_))
        ));
    }
}
