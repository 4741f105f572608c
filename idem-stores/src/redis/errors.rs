//! From the server's and the driver's words to what callers are told: one table.
//!
//! | what happened | error |
//! |---|---|
//! | no connection could be opened; a cluster has no connection to any node; no time was left | `NotSent` |
//! | the connection broke, or nothing was heard in time; bytes that are no answer | `Unavailable` |
//! | `LOADING`, `MASTERDOWN`, `READONLY`, `CLUSTERDOWN`, `MISCONF`, `NOREPLICAS`, `UNBLOCKED`, too many clients | `NotReady` |
//! | `BUSY` (another script runs), `TRYAGAIN` | `Busy` |
//! | `OOM` | `Full` |
//! | `WRONGTYPE`: another kind of value lies at the key | `Unreadable` |
//! | any other error that the server answers, a certificate that nobody trusts, settings that the driver does not take | `Rejected` |
//!
//! `MOVED` and `ASK` are among the last: a cluster's connection follows them, so what is left is a
//! node of a cluster that was taken for a server of its own.

use std::error::Error;
use std::io;
use std::sync::Arc;

use idem_core::StoreError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::NAME;

pub(super) const UNREADABLE: StoreError = StoreError::Unreadable { store: NAME };

/// Why a call has no value.
#[derive(Debug)]
pub(super) enum CallError {
    /// Nothing was written.
    NotSent(RedisError),
    /// It was written, or may have been, and nothing was heard of it.
    Unanswered(RedisError),
    /// The server answered this, and did nothing.
    Answered(RedisError),
}

impl CallError {
    /// Of a connection that could not be opened.
    pub(super) fn of_opening(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed
            | ErrorKind::InvalidClientConfig
            | ErrorKind::RESP3NotSupported
            | ErrorKind::Client
            | ErrorKind::Server(_)
            | ErrorKind::Extension => Self::Answered(error),
            _ if is_distrust(&error) => Self::Answered(error),
            _ => Self::NotSent(error),
        }
    }

    /// Of a command that was given to an open connection.
    pub(super) fn of_command(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => Self::Answered(error),
            // The driver found no node to give it to.
            ErrorKind::ClusterConnectionNotFound => Self::NotSent(error),
            _ => Self::Unanswered(error),
        }
    }

    pub(super) fn answer(&self) -> Option<&RedisError> {
        match self {
            Self::Answered(error) => Some(error),
            Self::NotSent(_) | Self::Unanswered(_) => None,
        }
    }

    /// Whether the server is there and takes no write now, so that what it has may still be read.
    pub(super) fn refuses_writes(&self) -> bool {
        self.answer()
            .and_then(RedisError::code)
            .is_some_and(|code| matches!(code, "OOM" | "MISCONF" | "NOREPLICAS" | "READONLY"))
    }

    pub(super) fn is_out_of_memory(&self) -> bool {
        self.answer().and_then(RedisError::code) == Some("OOM")
    }
}

/// A handshake that failed over a certificate: of the errors of a connection it alone says that
/// the data is wrong.
fn is_distrust(error: &RedisError) -> bool {
    type Shared = Arc<dyn Error + Send + Sync>;
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<Shared>());
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    io.is_some_and(|io| io.kind() == io::ErrorKind::InvalidData)
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotSent(error) => Self::not_sent(NAME, error),
            CallError::Unanswered(error) => Self::unavailable(NAME, error),
            CallError::Answered(error) => of_answer(error),
        }
    }
}

fn of_answer(error: RedisError) -> StoreError {
    let too_many_clients = || {
        let detail = error.detail();
        detail.is_some_and(|detail| detail.contains("max number of clients"))
    };
    match error.code() {
        Some(
            "LOADING" | "MASTERDOWN" | "READONLY" | "CLUSTERDOWN" | "MISCONF" | "NOREPLICAS"
            | "UNBLOCKED",
        ) => StoreError::not_ready(NAME, error),
        Some("ERR") if too_many_clients() => StoreError::not_ready(NAME, error),
        Some("BUSY" | "TRYAGAIN") => StoreError::busy(NAME, error),
        Some("OOM") => StoreError::Full {
            store: NAME,
            max_bytes: None,
        },
        Some("WRONGTYPE") => UNREADABLE,
        _ => StoreError::rejected(NAME, error),
    }
}

/// A cluster whose slots move faster than they are followed.
pub(super) fn slots_move(last: &RedisError) -> RedisError {
    let detail = last.to_string();
    let kind = ErrorKind::Server(ServerErrorKind::ClusterDown);
    (kind, "the cluster's slots are moving", detail).into()
}
