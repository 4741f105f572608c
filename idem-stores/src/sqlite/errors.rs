//! What an error of the driver says to whoever asked the store.

use idem_core::StoreError;

use super::NAME;
use crate::ConnectError;

// https://sqlite.org/rescode.html
const ERROR: i32 = 1;
const PERM: i32 = 3;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READONLY: i32 = 8;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const CONSTRAINT: i32 = 19;
const AUTH: i32 = 23;
const NOTADB: i32 = 26;

/// SQLite's primary result code, where it is SQLite that failed.
fn code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Whether another connection was in the way.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(BUSY | LOCKED))
}

/// Whether SQLite does not understand the statement, with the tables that are there.
pub(super) fn is_refused_statement(error: &sqlx::Error) -> bool {
    code(error) == Some(ERROR)
}

/// Whether the connection can be used on.
pub(super) fn spares_the_connection(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(BUSY | LOCKED | FULL | CONSTRAINT))
}

pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_) => StoreError::Unreadable { store: NAME },
        error => match code(&error) {
            Some(FULL) => StoreError::Full {
                store: NAME,
                max_bytes: None,
            },
            Some(ERROR | PERM | READONLY | CORRUPT | AUTH | NOTADB) => {
                StoreError::rejected(NAME, error)
            }
            _ => StoreError::unavailable(NAME, error),
        },
    }
}

/// The same at start-up, when somebody is there to put it right.
pub(super) fn connect_error(error: sqlx::Error) -> ConnectError {
    let problem = match code(&error) {
        Some(CANTOPEN) => {
            "the file cannot be opened or created; see its path, and who may write to its directory"
        }
        Some(READONLY) => "it cannot be written to",
        Some(NOTADB) => "the file is of another kind, or encrypted",
        Some(CORRUPT) => "the file is damaged",
        _ => return ConnectError::Store(store_error(error)),
    };
    ConnectError::Unfit {
        store: NAME,
        problem: problem.into(),
    }
}
