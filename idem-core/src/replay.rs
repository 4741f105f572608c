//! How a function's value becomes an outcome, and an outcome a value again.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::current;
use crate::error::Error;
use crate::outcome::{NotReplayable, Outcome, Undecodable, Verdict};
use crate::settings::Settings;

/// `errors = "release"`: an `Err` frees the key.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseErrors;

/// `errors = "store"`: an `Err` is final too, unless an idempotent call that the body has made was
/// refused, or a step was not kept. What the body had done before is not known then: the attempt counts as crashed, and the
/// next one follows `on_crash`.
#[derive(Clone, Copy, Debug)]
pub struct StoreErrors;

/// What a crash has left behind, for who retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum AfterCrash {
    /// Nothing: what the body had written is rolled back.
    RolledBack,
    /// A retry runs again.
    RunsAgain,
    /// A retry is refused until somebody has said what happened.
    Refuses,
}

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

    /// [`verdict`](Self::verdict) where the engine's settings are known, for values that its settings shape,
    /// such as responses of HTTP.
    #[doc(hidden)]
    fn verdict_under(&self, _settings: &Settings) -> Verdict {
        self.verdict()
    }

    /// [`replay`](Self::replay) where the engine's settings are known.
    #[doc(hidden)]
    fn replay_under(outcome: &Outcome, _settings: &Settings) -> Result<Self, Error> {
        Self::replay(outcome)
    }

    /// [`refused`](Self::refused) where the engine's settings are known.
    #[doc(hidden)]
    fn refused_under(error: Error, _settings: &Settings) -> Self {
        Self::refused(error)
    }

    /// The value for a body that panicked, where one can say so. `None` resumes the panic.
    #[doc(hidden)]
    fn crashed(_settings: &Settings, _next: AfterCrash) -> Option<Self> {
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
    note = "an error of another crate becomes one of yours before: `call().await.map_err(MyError::from)`",
    note = "over a handler of a web framework use that framework's form, such as `idem::axum::idempotent`: it refuses with a response"
)]
pub trait CarriesRefusal: From<Error> {}

#[diagnostic::do_not_recommend]
impl<E: From<Error>> CarriesRefusal for E {}

impl Verdict {
    /// Of a body that a call or a step within it has stopped. Where it was a step, the next attempt
    /// goes on from there.
    #[doc(hidden)]
    pub fn of_one_stopped_within() -> Self {
        match current::has_failed_step() {
            true => Self::Released,
            false => Self::Crashed,
        }
    }
}

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
            // The next attempt goes on where this one stopped.
            Err(_) if current::has_failed_step() => Verdict::Released,
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
