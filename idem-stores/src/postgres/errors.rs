//! What the driver's errors mean to a store.

use idem_core::StoreError;
use sqlx::Error;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::NAME;
use crate::ConnectError;

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
mod code {
    pub(super) const READ_ONLY_TRANSACTION: &str = "25006";
    pub(super) const SERIALIZATION_FAILURE: &str = "40001";
    pub(super) const DEADLOCK_DETECTED: &str = "40P01";
    /// A class: a right that is missing, a table of another's making.
    pub(super) const ACCESS_RULE_VIOLATION: &str = "42";
    pub(super) const DISK_FULL: &str = "53100";
}

pub(super) fn store_error(error: Error) -> StoreError {
    if is_of_the_row(&error) {
        return StoreError::Unreadable { store: NAME };
    }
    if of_the_server(&error).is_some_and(|error| error.code() == code::DISK_FULL) {
        return StoreError::Full {
            store: NAME,
            max_bytes: None,
        };
    }
    StoreError::unavailable(NAME, error)
}

/// What fails while the tables are looked at or made. What the server refuses there is no outage.
pub(super) fn schema_error(error: Error) -> ConnectError {
    match of_the_server(&error) {
        Some(refusal) if refusal.code().starts_with(code::ACCESS_RULE_VIOLATION) => {
            ConnectError::Unfit {
                store: NAME,
                problem: format!("its tables cannot be made or read: {}", refusal.message()).into(),
            }
        }
        _ => ConnectError::Store(store_error(error)),
    }
}

/// The transaction met another one and was rolled back: it has had no effect. At the server's
/// default, `READ COMMITTED`, none of the store's does.
pub(super) fn has_met_another(error: &Error) -> bool {
    of_the_server(error).is_some_and(|error| {
        matches!(
            error.code(),
            code::SERIALIZATION_FAILURE | code::DEADLOCK_DETECTED
        )
    })
}

/// Whether the connection is broken, silent, or leads to a server that takes no writes any more
/// (a primary that was demoted; its name may mean the new one by now).
pub(super) fn is_of_the_connection(error: &Error) -> bool {
    match of_the_server(error) {
        Some(error) => {
            matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                || error.code() == code::READ_ONLY_TRANSACTION
        }
        None => !is_of_the_row(error),
    }
}

/// Whether a row is not what this version writes.
fn is_of_the_row(error: &Error) -> bool {
    matches!(
        error,
        Error::ColumnDecode { .. }
            | Error::ColumnIndexOutOfBounds { .. }
            | Error::ColumnNotFound(_)
            | Error::Decode(_)
            | Error::RowNotFound
    )
}

pub(super) fn of_the_server(error: &Error) -> Option<&PgDatabaseError> {
    let error = error.as_database_error()?;
    error.try_downcast_ref()
}
