//! What an error of the server or the driver means to the caller: the one table.
//!
//! | what happened | error |
//! |---|---|
//! | no connection could be opened; a cluster has no connection to any node; no time was left | `NotSent` |
//! | the connection broke, or there was no answer in time; bytes that are no answer | `Unavailable` |
//! | `LOADING`, `MASTERDOWN`, `READONLY`, `CLUSTERDOWN`, `MISCONF`, `NOREPLICAS`, `UNBLOCKED`, too many clients | `NotReady` |
//! | `BUSY` (another script runs), `TRYAGAIN` | `Busy` |
//! | `OOM` | `Full` |
//! | `WRONGTYPE`: the key holds another type of value | `Unreadable` |
//! | any other error that the server answers, an untrusted certificate, settings that the driver refuses | `Rejected` |
//!
//! `MOVED` and `ASK` are among the last. A cluster's connection follows them, so what is left is a node
//! of a cluster that was taken for a standalone server.

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
    /// It was sent, or may have been, and there was no answer.
    Unanswered(RedisError),
    /// The server has answered this error, and has done nothing.
    Refused(RedisError),
}

impl CallError {
    /// The error of a connection that could not be opened.
    pub(super) fn from_opening(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed
            | ErrorKind::InvalidClientConfig
            | ErrorKind::RESP3NotSupported
            | ErrorKind::Client
            | ErrorKind::Server(_)
            | ErrorKind::Extension => Self::Refused(error),
            _ if is_untrusted_certificate(&error) => Self::Refused(error),
            _ => Self::NotSent(error),
        }
    }

    /// The error of a command that was given to an open connection.
    pub(super) fn from_command(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => Self::Refused(error),
            // The driver found no node to give it to.
            ErrorKind::ClusterConnectionNotFound => Self::NotSent(error),
            _ => Self::Unanswered(error),
        }
    }

    fn refusal(&self) -> Option<&RedisError> {
        match self {
            Self::Refused(error) => Some(error),
            Self::NotSent(_) | Self::Unanswered(_) => None,
        }
    }

    /// Whether the server takes no writes now. What it has may still be read.
    pub(super) fn refuses_writes(&self) -> bool {
        self.refusal()
            .and_then(RedisError::code)
            .is_some_and(|code| matches!(code, "OOM" | "MISCONF" | "NOREPLICAS" | "READONLY"))
    }

    /// Whether the server does not know the command, or one of its words.
    pub(super) fn is_unknown_command(&self) -> bool {
        self.refusal().and_then(RedisError::code) == Some("ERR")
    }

    pub(super) fn is_out_of_memory(&self) -> bool {
        self.refusal().and_then(RedisError::code) == Some("OOM")
    }
}

/// Whether a handshake failed over a certificate. Of the errors of a connection it alone says that the
/// data is invalid.
fn is_untrusted_certificate(error: &RedisError) -> bool {
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
            CallError::Refused(error) => from_refusal(error),
        }
    }
}

fn from_refusal(error: RedisError) -> StoreError {
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

/// The error for a cluster whose slots move faster than redirections can follow.
pub(super) fn slots_are_moving(last: &RedisError) -> RedisError {
    let detail = last.to_string();
    let kind = ErrorKind::Server(ServerErrorKind::ClusterDown);
    (kind, "the cluster's slots are moving", detail).into()
}
