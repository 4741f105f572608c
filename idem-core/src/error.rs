//! Why a body did not run, or its outcome could not be given back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::canonical::FingerprintError;
use crate::key::KeyError;
use crate::outcome::{NotReplayable, Undecodable};
use crate::policy::PolicyError;
use crate::registry::NameTaken;
use crate::steps::StepError;
use crate::store::StoreError;

/// Why a call was refused. The body did not run in this call, or everything it wrote was rolled
/// back; only [`Error::Unsettled`], [`Error::DeadlineExceeded`]
/// and the errors of steps cannot say so.
///
/// Messages never hold keys, scopes, arguments or credentials.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no key, or it is not acceptable.
    Key(KeyError),
    /// The scope could not be derived.
    Scope(KeyError),
    /// The request has no fingerprint.
    Fingerprint(FingerprintError),
    /// Another attempt for this key is running. Retry later.
    InFlight {
        /// When a retry makes sense.
        retry_after: Duration,
    },
    /// The key was used for another request. Retrying does not help.
    Mismatch,
    /// An attempt crashed, and the operation refuses to run again until an operator resolves
    /// the record. Retrying does not help.
    OutcomeUnknown {
        /// The attempt that crashed.
        attempt: u32,
    },
    /// The operation was executed, and its outcome could not be kept. Retrying does not help.
    NotReplayable(NotReplayable),
    /// A stored outcome cannot be read by this version of the program.
    Undecodable(Undecodable),
    /// The store cannot answer, so the body was not run in this call, or in a transaction: everything
    /// it wrote was rolled back. Of earlier calls with the key it says nothing. Retry later.
    Store(StoreError),
    /// A transaction's commit was sent, and the database has not said what became of it. Retry
    /// with the same key: it finds out, and runs again only if nothing has happened.
    Unsettled(StoreError),
    /// The body took longer than the operation's deadline, and was stopped. Its attempt counts as
    /// crashed: a retry runs again or is refused, as the operation says. In a transaction everything
    /// was rolled back, and the key is free.
    DeadlineExceeded {
        /// The deadline.
        after: Duration,
        /// Whether a transaction held what the body wrote.
        rolled_back: bool,
    },
    /// A step could not be run or kept.
    Step(StepError),
    /// A step has run, and the store did not take its value while the lease held. The value is
    /// offered again with the next step, and when the attempt ends.
    StepNotStored(StoreError),
    /// Another attempt may run: the lease was over before this one ended. Its step was not run, or
    /// its value not kept.
    LeaseLost,
    /// The database refused to commit what the body wrote: a constraint that is checked at the end,
    /// or a right that is missing. Everything was rolled back and the key is free, but a retry
    /// fails alike until the application is set right. Holds the driver's error.
    CommitRefused(Arc<dyn std::error::Error + Send + Sync>),
    /// The operation's rules promise nothing. Retrying does not help.
    Policy(PolicyError),
    /// No engine was given or installed.
    NoEngine,
    /// The call was not made inside a tokio runtime.
    NoRuntime,
    /// The tokio runtime has no timers: a lease could not be renewed.
    NoTimers,
    /// The operation claims in a transaction, and a layer around it, of the same operation name, has
    /// claimed its record already.
    ClaimedByLayer,
    /// Another function has the operation's name, whether or not it is ever called. Retrying does
    /// not help.
    NameTaken(NameTaken),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => error.fmt(f),
            Self::Scope(_) => f.write_str(
                "the scope that the key belongs to could not be derived from the request",
            ),
            Self::Fingerprint(error) => error.fmt(f),
            Self::InFlight { retry_after } => write!(
                f,
                "a request with this key is being processed; retry in {} s",
                whole_seconds(*retry_after)
            ),
            Self::Mismatch => f.write_str(
                "this key was used for another request; use a new key for a new request",
            ),
            Self::OutcomeUnknown { attempt } => write!(
                f,
                "attempt {attempt} for this key ended without an outcome; whether it had an effect must be resolved by hand"
            ),
            Self::NotReplayable(reason) => reason.fmt(f),
            Self::Undecodable(error) => error.fmt(f),
            Self::Store(error) => write!(f, "this call was not executed, or everything it wrote was rolled back: {error}"),
            Self::Unsettled(error) => write!(f, "whether this was executed is not known yet; retry with the same key: {error}"),
            Self::DeadlineExceeded { after, rolled_back: false } => write!(
                f,
                "this was stopped after {after:?}, half-way; a retry with the same key runs it again or is refused, as the operation says"
            ),
            Self::DeadlineExceeded { after, rolled_back: true } => write!(
                f,
                "this was stopped after {after:?}, and everything it had written was rolled back; a retry with the same key runs it again"
            ),
            Self::Step(error) => error.fmt(f),
            Self::StepNotStored(error) => write!(f, "a step has run, and its value is not stored yet; retry with the same key: {error}"),
            Self::LeaseLost => f.write_str(
                "this attempt has lost its lease, and another one may run: its step was not run, or is not kept; retry with the same key",
            ),
            Self::CommitRefused(_) => f.write_str(
                "the database refused to commit what the body wrote, and rolled everything back; the error's source and the log say why",
            ),
            Self::Policy(error) => error.fmt(f),
            Self::NoEngine => f.write_str(
                "no engine: call idem::connect(url).await?.install()? at start-up, or pass one with engine = …",
            ),
            Self::NoRuntime => f.write_str("idempotent calls need a tokio runtime"),
            Self::NoTimers => f.write_str(
                "the tokio runtime has no timers: build it with enable_time or enable_all",
            ),
            Self::ClaimedByLayer => f.write_str(
                "the operation claims in a transaction, and a layer of the same operation name has claimed its record already; give the layer another name, or leave the handler out of it",
            ),
            Self::NameTaken(taken) => taken.fmt(f),
        }
    }
}

/// A duration in seconds, rounded up, and never 0: what `Retry-After` can say.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
        .max(1)
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Key(error) | Self::Scope(error) => Some(error),
            Self::Fingerprint(error) => Some(error),
            Self::Policy(error) => Some(error),
            Self::NotReplayable(reason) => Some(reason),
            Self::Undecodable(error) => Some(error),
            Self::NameTaken(taken) => Some(taken),
            Self::Step(error) => Some(error),
            Self::Store(error) | Self::Unsettled(error) | Self::StepNotStored(error) => Some(error),
            Self::CommitRefused(error) => Some(&**error),
            _ => None,
        }
    }
}

macro_rules! from {
    ($($source:ty => $variant:ident;)*) => {$(
        impl From<$source> for Error {
            fn from(source: $source) -> Self {
                Self::$variant(source)
            }
        }
    )*};
}

from! {
    FingerprintError => Fingerprint;
    NotReplayable => NotReplayable;
    PolicyError => Policy;
    StepError => Step;
    Undecodable => Undecodable;
    StoreError => Store;
    NameTaken => NameTaken;
}
