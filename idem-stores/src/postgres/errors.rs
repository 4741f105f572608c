//! What the words of the driver and the server mean: the one place that says so.
//!
//! | what failed | before anything was sent | after |
//! |---|---|---|
//! | no connection in time, a socket's error | `NotSent` | `Unavailable` |
//! | the session is ended (`FATAL`) | as its code says | `Unavailable`, but for logins |
//! | `53100` | `Full` | `Full` |
//! | classes `08` (not `08P01`), `53`, `57`; `25006` | `NotReady` | `NotReady` |
//! | `08P01` of a pooler that has no session to give | `NotReady` | `Unavailable` |
//! | `40003` | | `Unavailable` |
//! | classes `40`, `55` | `Busy` | `Busy` |
//! | any other code | `Rejected` | `Rejected` |
//! | a row that this version does not write | | `Unreadable` |
//! | another statement's row, and whatever else there may be | `Rejected` | `Rejected` |
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

mod code {
    pub(super) const PROTOCOL_VIOLATION: &str = "08P01";
    pub(super) const READ_ONLY_TRANSACTION: &str = "25006";
    pub(super) const FAILED_TRANSACTION: &str = "25P02";
    pub(super) const NO_SUCH_STATEMENT: &str = "26000";
    pub(super) const SERIALIZATION_FAILURE: &str = "40001";
    pub(super) const COMPLETION_UNKNOWN: &str = "40003";
    pub(super) const DEADLOCK_DETECTED: &str = "40P01";
    pub(super) const STATEMENT_EXISTS: &str = "42P05";
    pub(super) const DISK_FULL: &str = "53100";
    pub(super) const CANCELED: &str = "57014";
    /// What a plan was made for has changed.
    pub(super) const NOT_SUPPORTED: &str = "0A000";

    /// Classes of those whom the server does not let in, or not to that database.
    pub(super) const OF_LOGINS: &[&str] = &["28", "3D", "42"];
    /// Classes of what keeps a server from serving.
    pub(super) const OF_OUTAGES: &[&str] = &["08", "53", "57"];
    /// Classes of what was in the way, and will not be for long.
    pub(super) const OF_OTHERS: &[&str] = &["40", "55"];
}

/// What PgBouncer says when it has no session to give: all its own errors are `08P01`.
const POOLER_HAS_NONE: &[&str] = &[
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

/// How far a call had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Nothing of it was sent.
    NoFurther,
    /// It was sent, or may have been.
    ToTheServer,
}

pub(super) fn store_error(error: Error, came: Came) -> StoreError {
    if is_of_another_statement(&error) {
        return StoreError::rejected(NAME, error);
    }
    if is_of_the_row(&error) {
        return StoreError::Unreadable { store: NAME };
    }
    if let Some(refusal) = of_the_server(&error) {
        return match means(refusal, came) {
            Meaning::Full => StoreError::Full {
                store: NAME,
                max_bytes: None,
            },
            Meaning::Unanswered => StoreError::unavailable(NAME, error),
            Meaning::NotReady => StoreError::not_ready(NAME, error),
            Meaning::Busy => StoreError::busy(NAME, error),
            Meaning::Rejected if is_of_prepared_statements(&error) => {
                StoreError::rejected(NAME, MixedUp(error))
            }
            Meaning::Rejected => StoreError::rejected(NAME, error),
        };
    }
    match (&error, came) {
        // A certificate that is not trusted, and what this process itself has wrong.
        (Error::Tls(source), Came::NoFurther) if !source.is::<io::Error>() => {
            StoreError::rejected(NAME, error)
        }
        (Error::Configuration(_) | Error::PoolClosed | Error::Encode(_), _)
        | (Error::Protocol(_), Came::NoFurther) => StoreError::rejected(NAME, error),
        (_, Came::NoFurther) => StoreError::not_sent(NAME, error),
        (_, Came::ToTheServer) => StoreError::unavailable(NAME, error),
    }
}

enum Meaning {
    Full,
    NotReady,
    Busy,
    Rejected,
    /// Nobody knows whether it has taken effect.
    Unanswered,
}

fn means(refusal: &PgDatabaseError, came: Came) -> Meaning {
    let code = refusal.code();
    let is_of = |classes: &[&str]| classes.iter().any(|class| code.starts_with(class));
    let ends_the_session = matches!(refusal.severity(), PgSeverity::Fatal | PgSeverity::Panic);
    if ends_the_session && came == Came::ToTheServer && !is_of(code::OF_LOGINS) {
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
        _ if is_of(code::OF_OUTAGES) => Meaning::NotReady,
        _ if is_of(code::OF_OTHERS) => Meaning::Busy,
        _ => Meaning::Rejected,
    }
}

fn has_no_session(refusal: &PgDatabaseError) -> bool {
    POOLER_HAS_NONE
        .iter()
        .any(|words| refusal.message().contains(words))
}

/// What fails while the tables are looked at or made. What the server refuses there is no outage.
pub(super) fn schema_error(error: Error) -> ConnectError {
    match of_the_server(&error) {
        Some(refusal) if refusal.code().starts_with("42") => ConnectError::Unfit {
            store: NAME,
            problem: format!("its tables cannot be made or read: {}", refusal.message()).into(),
        },
        Some(refusal) if refusal.code() == code::READ_ONLY_TRANSACTION => ConnectError::Unfit {
            store: NAME,
            problem: "its tables are not of this version, and the server takes no writes: it is a standby, or set to read only".into(),
        },
        _ => ConnectError::Store(store_error(error, Came::ToTheServer)),
    }
}

/// What fails while a connection is opened.
pub(super) fn connect_error(error: Error) -> ConnectError {
    ConnectError::Store(store_error(error, Came::NoFurther))
}

/// Why a transaction was not committed whose outcome was to be written. Whatever fails before
/// COMMIT is sent, the connection, too, rolls back.
pub(super) fn finish_error(error: Error) -> CommitError {
    match of_the_server(&error) {
        // By an error of the body's SQL that the body has not minded.
        Some(refusal) if refusal.code() == code::FAILED_TRANSACTION => {
            CommitError::Refused(std::sync::Arc::new(error))
        }
        _ => CommitError::RolledBack(store_error(error, Came::ToTheServer)),
    }
}

/// Why a commit was not acknowledged. What the server refuses then is what the body wrote: a
/// deferred constraint, for example.
pub(super) fn commit_error(error: Error) -> CommitError {
    let Some(refusal) = of_the_server(&error) else {
        return CommitError::Unknown(StoreError::unavailable(NAME, error));
    };
    if leaves_open(refusal) {
        return CommitError::Unknown(StoreError::unavailable(NAME, error));
    }
    match means(refusal, Came::ToTheServer) {
        Meaning::Rejected => CommitError::Refused(std::sync::Arc::new(error)),
        _ => CommitError::RolledBack(store_error(error, Came::ToTheServer)),
    }
}

/// Whether the error speaks of the session and not of the transaction: a server that ends, or a
/// pooler that has lost it. Not all of them have a class of their own for that: `58` is the
/// system's.
fn leaves_open(refusal: &PgDatabaseError) -> bool {
    let code = refusal.code();
    matches!(refusal.severity(), PgSeverity::Fatal | PgSeverity::Panic)
        || ["08", "57P0", "58"]
            .iter()
            .any(|class| code.starts_with(class))
        || code == code::COMPLETION_UNKNOWN
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

/// Whether the server takes no writes: a standby, or a primary that was demoted.
pub(super) fn is_read_only(error: &Error) -> bool {
    of_the_server(error).is_some_and(|error| error.code() == code::READ_ONLY_TRANSACTION)
}

/// Whether a statement was given up for the time that it took.
pub(super) fn took_too_long(error: &StoreError) -> bool {
    let (StoreError::NotReady { source, .. } | StoreError::Unavailable { source, .. }) = error
    else {
        return false;
    };
    match source.downcast_ref::<Error>() {
        Some(Error::Io(error)) => error.kind() == io::ErrorKind::TimedOut,
        Some(error) => of_the_server(error).is_some_and(|error| error.code() == code::CANCELED),
        None => false,
    }
}

/// Whether the connection is not to be used again: it is broken or silent, what was prepared on it
/// is not what it should be, or it leads to a server that takes no writes any more (a primary that
/// was demoted; its name may mean the new one by now).
pub(super) fn is_of_the_connection(error: &Error) -> bool {
    match of_the_server(error) {
        Some(refusal) => {
            matches!(refusal.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                || matches!(
                    refusal.code(),
                    code::READ_ONLY_TRANSACTION | code::FAILED_TRANSACTION | code::NOT_SUPPORTED
                )
                || is_of_prepared_statements(error)
        }
        None => is_of_another_statement(error) || !is_of_the_row(error),
    }
}

/// Whether the session may still be at work on what was sent: nothing was heard of it.
pub(super) fn may_still_work(error: &Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        // Whoever closes a connection has ended its session.
        Error::Io(error) => !matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
        ),
        Error::Protocol(_) => true,
        _ => false,
    }
}

/// Whether a pooler does not let pass what sessions are to start with.
pub(super) fn refuses_start_up_options(error: &Error) -> bool {
    of_the_server(error).is_some_and(|refusal| refusal.message().contains("startup parameter"))
}

/// Whether a prepared statement is not what this connection has prepared.
fn is_of_prepared_statements(error: &Error) -> bool {
    of_the_server(error).is_some_and(|refusal| {
        matches!(
            refusal.code(),
            code::NO_SUCH_STATEMENT | code::STATEMENT_EXISTS | code::PROTOCOL_VIOLATION
        )
    })
}

fn is_of_another_statement(error: &Error) -> bool {
    matches!(error, Error::Decode(source) if source.is::<AnotherStatement>())
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

/// The server does not know a statement that was prepared, or knows it as another one.
#[derive(Debug)]
struct MixedUp(Error);

impl fmt::Display for MixedUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {SHARED_SESSIONS}", self.0)
    }
}

impl std::error::Error for MixedUp {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// A call had no turn in time.
#[derive(Debug)]
pub(super) struct WaitedTooLong;

impl fmt::Display for WaitedTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the calls before it took so long that none of its own time would have been left",
        )
    }
}

impl std::error::Error for WaitedTooLong {}
