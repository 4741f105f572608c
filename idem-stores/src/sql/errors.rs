//! What an error of the driver means to the caller, where the server has said nothing.
//!
//! | what failed | before anything was sent | after |
//! |---|---|---|
//! | no connection in time, a socket's error | `NotSent` | `Unavailable` |
//! | an untrusted certificate, a mistake of this process | `Rejected` | `Rejected` |

use std::fmt;
use std::io;

use idem_core::StoreError;
use sqlx::Error;

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Nothing was sent.
    Nothing,
    /// A statement was sent, or may have been.
    Maybe,
}

/// An error that is not the server's.
pub(crate) fn driver_error(store: &'static str, error: Error, sent: Sent) -> StoreError {
    match (&error, sent) {
        (Error::Tls(source), Sent::Nothing) if !source.is::<io::Error>() => {
            StoreError::rejected(store, error)
        }
        // A handshake failed over what one side said. With an untrusted certificate it is no outage: no
        // body may run because of it.
        (Error::Io(source), Sent::Nothing) if source.kind() == io::ErrorKind::InvalidData => {
            StoreError::rejected(store, error)
        }
        (Error::Configuration(_) | Error::PoolClosed | Error::Encode(_), _)
        | (Error::Protocol(_), Sent::Nothing) => StoreError::rejected(store, error),
        (_, Sent::Nothing) => StoreError::not_sent(store, error),
        (_, Sent::Maybe) => StoreError::unavailable(store, error),
    }
}

/// Whether this version does not write such a row.
pub(crate) fn is_unexpected_row(error: &Error) -> bool {
    matches!(
        error,
        Error::ColumnDecode { .. }
            | Error::ColumnIndexOutOfBounds { .. }
            | Error::ColumnNotFound(_)
            | Error::Decode(_)
            | Error::RowNotFound
    )
}

/// A statement that was not answered in time.
pub(crate) fn silence() -> Error {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

/// A call had no connection in time.
#[derive(Debug)]
pub(crate) struct WaitedTooLong;

impl fmt::Display for WaitedTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call waited behind other calls until too little of its time was left")
    }
}

impl std::error::Error for WaitedTooLong {}

/// The tables lack what this version needs.
#[derive(Debug)]
pub(crate) struct OldTables(pub(crate) Error);

impl fmt::Display for OldTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; its tables are of an older version: let the store migrate, or run its migrations by hand",
            self.0
        )
    }
}

impl std::error::Error for OldTables {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The database has no tables of this library, or the session's path does not lead to them.
#[derive(Debug)]
pub(crate) struct NoTables {
    pub(crate) error: Error,
    /// The call that makes them.
    pub(crate) made_by: &'static str,
}

impl fmt::Display for NoTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, made_by } = self;
        write!(
            f,
            "{error}; its tables are missing: make them at start-up with `{made_by}`, or run its migrations by hand"
        )
    }
}

impl std::error::Error for NoTables {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
