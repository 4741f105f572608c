//! What an error of SQLite or the driver means to the caller: the one table from result codes to
//! [`StoreError`].
//!
//! | SQLite says | nothing was changed | it was writing |
//! |---|---|---|
//! | `BUSY`, `LOCKED`, `PROTOCOL`, `INTERRUPT`: another connection was in the way | `Busy` | `Busy` |
//! | `FULL`: the disk, or the database's own limit | `Full` | `Full` |
//! | `IOERR`, but for those of a damaged file | `NotReady` | `Unavailable` |
//! | `NOMEM`, `IOERR_NOMEM` | `NotReady` | `NotReady` |
//! | `CANTOPEN`: the file, its log or its journal | `NotSent` | `NotSent` |
//! | `IOERR_DATA`, `IOERR_CORRUPTFS`, `IOERR_SHORT_READ`: the file is damaged or cut off | `Rejected` | `Rejected` |
//! | `READONLY`, `PERM`, `AUTH`, `CORRUPT`, `NOTADB`, `ERROR`, `CONSTRAINT`, `SCHEMA`, and all others | `Rejected` | `Rejected` |
//!
//! An `IOERR` of a commit is no answer: what was written may be found in the log after a crash.
//!
//! The driver's own errors are in the same function: a worker that has crashed, a pool without a
//! connection, a row that cannot be read.

use std::fmt;

use idem_core::StoreError;

use super::NAME;
use super::file::Replaced;
use crate::ConnectError;

// https://sqlite.org/rescode.html
mod code {
    pub(super) const ERROR: i32 = 1;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const NOMEM: i32 = 7;
    pub(super) const READONLY: i32 = 8;
    pub(super) const INTERRUPT: i32 = 9;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const PROTOCOL: i32 = 15;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const NOTADB: i32 = 26;

    pub(super) const IOERR_SHORT_READ: i32 = IOERR | 2 << 8;
    pub(super) const IOERR_NOMEM: i32 = IOERR | 12 << 8;
    pub(super) const IOERR_DATA: i32 = IOERR | 32 << 8;
    pub(super) const IOERR_CORRUPTFS: i32 = IOERR | 33 << 8;
}

/// SQLite's extended result code, where it is SQLite that failed.
fn extended_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// SQLite's primary result code.
fn code(error: &sqlx::Error) -> Option<i32> {
    extended_code(error).map(|code| code & 0xff)
}

/// Whether another connection was in the way.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    use code::{BUSY, INTERRUPT, LOCKED, PROTOCOL};
    matches!(code(error), Some(BUSY | LOCKED | PROTOCOL | INTERRUPT))
}

/// Whether SQLite does not understand the statement, with the tables that are there.
pub(super) fn is_refused_statement(error: &sqlx::Error) -> bool {
    code(error) == Some(code::ERROR)
}

/// Whether a commit was refused because of what was written: a deferred constraint, or the
/// application's own hook.
pub(super) fn is_constraint(error: &sqlx::Error) -> bool {
    code(error) == Some(code::CONSTRAINT)
}

/// Whether the connection can still be used.
pub(super) fn keeps_connection_usable(error: &sqlx::Error) -> bool {
    use code::{BUSY, CONSTRAINT, FULL, LOCKED};
    matches!(code(error), Some(BUSY | LOCKED | FULL | CONSTRAINT))
}

/// The error of a call that has changed nothing: opening a connection, reading, a transaction before its
/// commit.
pub(super) fn without_effect(error: sqlx::Error) -> StoreError {
    store_error(error, false)
}

/// The error of a call that was writing.
pub(super) fn while_writing(error: sqlx::Error) -> StoreError {
    store_error(error, true)
}

fn store_error(error: sqlx::Error, was_writing: bool) -> StoreError {
    use code::{CANTOPEN, FULL, IOERR, NOMEM};
    use code::{IOERR_CORRUPTFS, IOERR_DATA, IOERR_NOMEM, IOERR_SHORT_READ};
    if is_busy(&error) {
        return StoreError::busy(NAME, error);
    }
    match error {
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_) => return StoreError::Unreadable { store: NAME },
        // The connection's thread has ended, or could not be started.
        sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) if was_writing => {
            return StoreError::unavailable(NAME, error);
        }
        sqlx::Error::WorkerCrashed
        | sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed => return StoreError::not_sent(NAME, error),
        _ => {}
    }
    let primary = code(&error);
    match extended_code(&error) {
        Some(IOERR_DATA | IOERR_CORRUPTFS | IOERR_SHORT_READ) => StoreError::rejected(NAME, error),
        Some(IOERR_NOMEM) => StoreError::not_ready(NAME, error),
        _ if primary == Some(IOERR) && was_writing => StoreError::unavailable(NAME, error),
        _ if primary == Some(IOERR) || primary == Some(NOMEM) => StoreError::not_ready(NAME, error),
        _ if primary == Some(CANTOPEN) => StoreError::not_sent(NAME, error),
        _ if primary == Some(FULL) => StoreError::Full {
            store: NAME,
            max_bytes: None,
        },
        _ if has_no_tables(&error) => StoreError::rejected(NAME, NoTables(error)),
        _ if is_of_old_tables(&error) => StoreError::rejected(NAME, OldTables(error)),
        _ => StoreError::rejected(NAME, error),
    }
}

fn has_no_tables(error: &sqlx::Error) -> bool {
    says(error, &["no such table"])
}

/// Whether the tables lack a column.
fn is_of_old_tables(error: &sqlx::Error) -> bool {
    says(error, &["no such column", "has no column named"])
}

fn says(error: &sqlx::Error, lacks: &[&str]) -> bool {
    is_refused_statement(error)
        && error.as_database_error().is_some_and(|error| {
            let message = error.message();
            lacks.iter().any(|words| message.contains(words))
        })
}

/// The tables lack what this version needs.
#[derive(Debug)]
struct OldTables(sqlx::Error);

impl fmt::Display for OldTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; its tables are of an older version: call SqliteStore::migrate",
            self.0
        )
    }
}

impl std::error::Error for OldTables {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The database has no tables of this library.
#[derive(Debug)]
struct NoTables(sqlx::Error);

impl fmt::Display for NoTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; its tables are missing: make them at start-up with `SqliteStore::from_pool(&pool).await?.migrate()`, or run its migrations by hand",
            self.0
        )
    }
}

impl std::error::Error for NoTables {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Why a connection could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    Driver(sqlx::Error),
    /// The file is another one than the store has opened before.
    Replaced(Replaced),
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Driver(error)
    }
}

impl From<Replaced> for OpenError {
    fn from(replaced: Replaced) -> Self {
        Self::Replaced(replaced)
    }
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Driver(error) => without_effect(error),
            OpenError::Replaced(replaced) => replaced.into(),
        }
    }
}

impl From<OpenError> for ConnectError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Driver(error) => connect_error(error),
            OpenError::Replaced(replaced) => Self::Store(replaced.into()),
        }
    }
}

/// The same error at start-up.
pub(super) fn connect_error(error: sqlx::Error) -> ConnectError {
    use code::{CANTOPEN, CORRUPT, NOTADB, READONLY};
    let problem = match code(&error) {
        Some(CANTOPEN) => {
            "the file cannot be opened or created; see its path, and who may write to its directory"
        }
        Some(READONLY) => "it cannot be written to",
        Some(NOTADB) => "the file is of another kind, or encrypted",
        Some(CORRUPT) => "the file is damaged",
        _ => return ConnectError::Store(without_effect(error)),
    };
    unfit(problem)
}

/// The database is there, and the store cannot use it.
pub(super) fn unfit(problem: impl Into<std::borrow::Cow<'static, str>>) -> ConnectError {
    ConnectError::Unfit {
        store: NAME,
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::error::Error;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// An error as SQLite gives it.
    #[derive(Debug)]
    struct Given(i32);

    impl fmt::Display for Given {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "(code: {})", self.0)
        }
    }

    impl Error for Given {}

    impl DatabaseError for Given {
        fn message(&self) -> &str {
            "as the test asked"
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.to_string().into())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn kind(error: &StoreError) -> String {
        let shown = format!("{error:?}");
        shown.split([' ', '{']).next().unwrap().to_owned()
    }

    /// Every result code of SQLite's that a call can end with.
    #[test]
    fn every_code_says_whether_the_store_is_away() {
        let busy = [5, 261, 517, 773, 6, 262, 518, 15, 9];
        let full = [13];
        let cannot_open = [14, 270, 526, 782, 1038, 1294, 1550];
        let no_memory = [7, 3082];
        let io = [
            10, 266, 778, 1034, 1290, 1546, 1802, 2058, 2314, 2570, 2826, 3338, 3594, 3850, 4106,
            4362, 4618, 4874, 5130, 5386, 5642, 5898, 6154, 6410, 6666, 6922, 7178, 7434, 7690,
            7946,
        ];
        let refused = [
            1, 2, 3, 4, 8, 11, 12, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 257, 264, 267, 275,
            516, 520, 522, 523, 531, 776, 779, 787, 1032, 1043, 1288, 1299, 1544, 1555, 1811, 2067,
            2323, 2579, 2835, 3091, 8202, 8458,
        ];
        let table: [(&[i32], _, _); 6] = [
            (&busy, "Busy", "Busy"),
            (&full, "Full", "Full"),
            (&cannot_open, "NotSent", "NotSent"),
            (&no_memory, "NotReady", "NotReady"),
            (&io, "NotReady", "Unavailable"),
            (&refused, "Rejected", "Rejected"),
        ];
        for (codes, unchanged, writing) in table {
            for code in codes {
                let error = || sqlx::Error::Database(Box::new(Given(*code)));
                assert_eq!(kind(&without_effect(error())), unchanged, "{code}");
                assert_eq!(kind(&while_writing(error())), writing, "{code}");
                assert!(!without_effect(error()).may_have_effect(), "{code}");
            }
        }
    }

    #[test]
    fn what_the_driver_says_itself_is_told_apart_by_whether_it_was_writing() {
        let crashed = || sqlx::Error::WorkerCrashed;
        assert_eq!(kind(&without_effect(crashed())), "NotSent");
        assert_eq!(kind(&while_writing(crashed())), "Unavailable");
        for error in [sqlx::Error::PoolTimedOut, sqlx::Error::PoolClosed] {
            assert_eq!(kind(&without_effect(error)), "NotSent");
        }
        let decode = sqlx::Error::Decode(Box::new(Given(0)));
        assert_eq!(kind(&without_effect(decode)), "Unreadable");
        assert_eq!(kind(&without_effect(sqlx::Error::BeginFailed)), "Rejected");
    }
}
