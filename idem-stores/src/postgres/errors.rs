//! What an error of the server or the driver means to the caller: the one table.
//!
//! | what failed | before anything was sent | after |
//! |---|---|---|
//! | no connection in time, a socket's error: see `sql::errors` | `NotSent` | `Unavailable` |
//! | the session is ended (`FATAL`) | as its code says | `Unavailable`, but for logins |
//! | `53100` | `Full` | `Full` |
//! | classes `08` (not `08P01`), `53`, `57`; `25006` | `NotReady` | `NotReady` |
//! | `08P01` of a pooler that has no session to give | `NotReady` | `Unavailable` |
//! | `40003` | | `Unavailable` |
//! | classes `40`, `55` | `Busy` | `Busy` |
//! | any other code | `Rejected` | `Rejected` |
//! | a row that this version does not write | | `Unreadable` |
//! | another statement's row, and all other errors | `Rejected` | `Rejected` |
//!
//! The codes are those of <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use std::fmt;
use std::io;

use idem_core::{CommitError, StoreError};
use sqlx::Error;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::NAME;
use super::statement::{AnotherStatement, SHARED_SESSIONS};
use crate::ConnectError;
use crate::sql::errors::{NoTables, OldTables, Sent, driver_error, is_unexpected_row};

mod code {
    pub(super) const PROTOCOL_VIOLATION: &str = "08P01";
    pub(super) const READ_ONLY_TRANSACTION: &str = "25006";
    pub(super) const FAILED_TRANSACTION: &str = "25P02";
    pub(super) const NO_SUCH_STATEMENT: &str = "26000";
    pub(super) const SERIALIZATION_FAILURE: &str = "40001";
    pub(super) const COMPLETION_UNKNOWN: &str = "40003";
    pub(super) const DEADLOCK_DETECTED: &str = "40P01";
    pub(super) const STATEMENT_EXISTS: &str = "42P05";
    pub(super) const UNDEFINED_COLUMN: &str = "42703";
    pub(super) const UNDEFINED_TABLE: &str = "42P01";
    pub(super) const LOCK_NOT_AVAILABLE: &str = "55P03";
    pub(super) const DISK_FULL: &str = "53100";
    pub(super) const CANCELED: &str = "57014";
    /// The tables of a prepared plan have changed.
    pub(super) const NOT_SUPPORTED: &str = "0A000";

    /// Classes of errors of logins and rights.
    pub(super) const LOGIN_CLASSES: &[&str] = &["28", "3D", "42"];
    /// Classes of errors of a server that cannot serve now.
    pub(super) const OUTAGE_CLASSES: &[&str] = &["08", "53", "57"];
    /// Classes of conflicts with other transactions, which pass.
    pub(super) const CONFLICT_CLASSES: &[&str] = &["40", "55"];
}

/// Messages of PgBouncer without a session to give. All of its own errors have the code `08P01`.
const POOLER_HAS_NO_SESSION: &[&str] = &[
    "query_wait_timeout",
    "server_login_retry",
    "server conn crashed",
    "connect timeout",
    "connect failed",
    "cannot connect",
    "client_login_timeout",
    "max_client_conn",
    "no more connections",
    "server closed",
    "server down",
    "shutting down",
    "shut down",
    "idle timeout",
    "idle transaction timeout",
    "query timeout",
];

pub(super) fn store_error(error: Error, sent: Sent) -> StoreError {
    if is_another_statement(&error) {
        return StoreError::rejected(NAME, error);
    }
    if is_unexpected_row(&error) {
        return StoreError::Unreadable { store: NAME };
    }
    if let Some(refusal) = server_error(&error) {
        return match meaning(refusal, sent) {
            Meaning::Full => StoreError::Full {
                store: NAME,
                max_bytes: None,
            },
            Meaning::Unanswered => StoreError::unavailable(NAME, error),
            Meaning::NotReady => StoreError::not_ready(NAME, error),
            Meaning::Busy => StoreError::busy(NAME, error),
            Meaning::Rejected if refusal.code() == code::UNDEFINED_COLUMN => {
                StoreError::rejected(NAME, OldTables(error))
            }
            Meaning::Rejected if refusal.code() == code::UNDEFINED_TABLE => {
                let made_by = "PostgresStore::from_pool(pool).migrate()";
                StoreError::rejected(NAME, NoTables { error, made_by })
            }
            Meaning::Rejected if is_prepared_statement_error(&error) => {
                StoreError::rejected(NAME, PreparedStatementMixup(error))
            }
            Meaning::Rejected => StoreError::rejected(NAME, error),
        };
    }
    driver_error(NAME, error, sent)
}

enum Meaning {
    Full,
    NotReady,
    Busy,
    Rejected,
    /// It is not known whether it has taken effect.
    Unanswered,
}

fn meaning(refusal: &PgDatabaseError, sent: Sent) -> Meaning {
    let code = refusal.code();
    let is_of = |classes: &[&str]| classes.iter().any(|class| code.starts_with(class));
    let ends_the_session = matches!(refusal.severity(), PgSeverity::Fatal | PgSeverity::Panic);
    if ends_the_session && sent == Sent::Maybe && !is_of(code::LOGIN_CLASSES) {
        return Meaning::Unanswered;
    }
    match code {
        code::DISK_FULL => Meaning::Full,
        code::COMPLETION_UNKNOWN => Meaning::Unanswered,
        code::READ_ONLY_TRANSACTION => Meaning::NotReady,
        code::PROTOCOL_VIOLATION if ends_the_session && has_no_session(refusal) => {
            Meaning::NotReady
        }
        code::PROTOCOL_VIOLATION => Meaning::Rejected,
        _ if is_of(code::OUTAGE_CLASSES) => Meaning::NotReady,
        _ if is_of(code::CONFLICT_CLASSES) => Meaning::Busy,
        _ => Meaning::Rejected,
    }
}

fn has_no_session(refusal: &PgDatabaseError) -> bool {
    POOLER_HAS_NO_SESSION
        .iter()
        .any(|words| refusal.message().contains(words))
}

/// The error of reading or creating the tables. What the server refuses then is no outage.
pub(super) fn schema_error(error: Error) -> ConnectError {
    match server_error(&error) {
        Some(refusal) if refusal.code().starts_with("42") => ConnectError::Unfit {
            store: NAME,
            problem: format!(
                "its tables cannot be created, upgraded or read: {}; let their owner run the migrations",
                refusal.message()
            )
            .into(),
        },
        Some(refusal) if refusal.code() == code::READ_ONLY_TRANSACTION => ConnectError::Unfit {
            store: NAME,
            problem: "its tables are not of this version, and the server takes no writes: it is a standby, or set to read only".into(),
        },
        _ => ConnectError::Store(store_error(error, Sent::Maybe)),
    }
}

/// The error of opening a connection.
pub(super) fn connect_error(error: Error) -> ConnectError {
    ConnectError::Store(store_error(error, Sent::Nothing))
}

/// Why a transaction could not write its outcome. Whatever fails before COMMIT is sent, the connection
/// included, rolls back.
pub(super) fn finish_error(error: Error) -> CommitError {
    match server_error(&error) {
        // The body has ignored an error of its SQL.
        Some(refusal) if refusal.code() == code::FAILED_TRANSACTION => {
            CommitError::Refused(std::sync::Arc::new(error))
        }
        _ => CommitError::RolledBack(store_error(error, Sent::Maybe)),
    }
}

/// Why a commit was not acknowledged. What the server refuses then is what the body wrote, for example by
/// a deferred constraint.
pub(super) fn commit_error(error: Error) -> CommitError {
    let Some(refusal) = server_error(&error) else {
        return CommitError::Unknown(StoreError::unavailable(NAME, error));
    };
    if leaves_outcome_unknown(refusal) {
        return CommitError::Unknown(StoreError::unavailable(NAME, error));
    }
    match meaning(refusal, Sent::Maybe) {
        Meaning::Rejected => CommitError::Refused(std::sync::Arc::new(error)),
        _ => CommitError::RolledBack(store_error(error, Sent::Maybe)),
    }
}

/// Whether the error is the session's and not the transaction's: a server that shuts down, or a pooler
/// that has lost it. Not all of them have a class of their own: `58` is for system errors.
fn leaves_outcome_unknown(refusal: &PgDatabaseError) -> bool {
    let code = refusal.code();
    matches!(refusal.severity(), PgSeverity::Fatal | PgSeverity::Panic)
        || ["08", "57P0", "58"]
            .iter()
            .any(|class| code.starts_with(class))
        || code == code::COMPLETION_UNKNOWN
}

/// Whether the transaction was rolled back because of a concurrent one. It has had no effect. At the
/// server's default, `READ COMMITTED`, this does not happen to the store's statements.
pub(super) fn is_serialization_failure(error: &Error) -> bool {
    server_error(error).is_some_and(|error| {
        matches!(
            error.code(),
            code::SERIALIZATION_FAILURE | code::DEADLOCK_DETECTED
        )
    })
}

/// Whether a statement has waited for a lock for as long as it may.
pub(super) fn is_lock_timeout(error: &Error) -> bool {
    server_error(error).is_some_and(|error| error.code() == code::LOCK_NOT_AVAILABLE)
}

/// Whether the server takes no writes: a standby, or a primary that was demoted.
pub(super) fn is_read_only(error: &Error) -> bool {
    server_error(error).is_some_and(|error| error.code() == code::READ_ONLY_TRANSACTION)
}

/// Whether a statement was given up because it took too long.
pub(super) fn is_timeout(error: &StoreError) -> bool {
    let (StoreError::NotReady { source, .. } | StoreError::Unavailable { source, .. }) = error
    else {
        return false;
    };
    match source.downcast_ref::<Error>() {
        Some(Error::Io(error)) => error.kind() == io::ErrorKind::TimedOut,
        Some(error) => server_error(error).is_some_and(|error| error.code() == code::CANCELED),
        None => false,
    }
}

/// Whether the connection must not be used again: it is broken or silent, its prepared statements are
/// not the expected ones, or its server takes no writes any more (a primary that was demoted; its host
/// name may lead to the new one by now).
pub(super) fn breaks_connection(error: &Error) -> bool {
    match server_error(error) {
        Some(refusal) => {
            matches!(refusal.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                || matches!(
                    refusal.code(),
                    code::READ_ONLY_TRANSACTION | code::FAILED_TRANSACTION | code::NOT_SUPPORTED
                )
                || is_prepared_statement_error(error)
        }
        None => is_another_statement(error) || !is_unexpected_row(error),
    }
}

/// Whether the session may still run the statement: there was no answer.
pub(super) fn may_still_run(error: &Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        // A server that closes a connection has ended its session.
        Error::Io(error) => !matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
        ),
        Error::Protocol(_) => true,
        _ => false,
    }
}

/// Whether a pooler refuses the options that sessions start with.
pub(super) fn refuses_start_up_options(error: &Error) -> bool {
    server_error(error).is_some_and(|refusal| refusal.message().contains("startup parameter"))
}

/// Whether a prepared statement is not the one that this connection has prepared.
fn is_prepared_statement_error(error: &Error) -> bool {
    server_error(error).is_some_and(|refusal| {
        matches!(
            refusal.code(),
            code::NO_SUCH_STATEMENT | code::STATEMENT_EXISTS | code::PROTOCOL_VIOLATION
        )
    })
}

fn is_another_statement(error: &Error) -> bool {
    matches!(error, Error::Decode(source) if source.is::<AnotherStatement>())
}

pub(super) fn server_error(error: &Error) -> Option<&PgDatabaseError> {
    let error = error.as_database_error()?;
    error.try_downcast_ref()
}

/// The server does not know a prepared statement, or knows another one under its name.
#[derive(Debug)]
struct PreparedStatementMixup(Error);

impl fmt::Display for PreparedStatementMixup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {SHARED_SESSIONS}", self.0)
    }
}

impl std::error::Error for PreparedStatementMixup {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
