//! What an error of the server or the driver means to the caller: the one table.
//!
//! | what failed | before anything was sent | after |
//! |---|---|---|
//! | no connection in time, a socket's error: see `sql::errors` | `NotSent` | `Unavailable` |
//! | 1021, 1114 | `Full` | `Full` |
//! | 1040, 1203, 1226; 1047 of Galera; 1290, 1792, 1836 | `NotReady` | `NotReady` |
//! | 1053, 1080, 1152 to 1161, 1317, 1927, 1969, 3024 | `NotReady` | `Unavailable` |
//! | 1020, 1205, 1213, 3101, 3572 | `Busy` | `Busy` |
//! | any other number | `Rejected` | `Rejected` |
//! | a row that this version does not write | | `Unreadable` |
//!
//! A message has more than one statement, and one of them may have been committed when another is
//! interrupted: then its effect is not known.
//!
//! The numbers are those of <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>
//! and <https://mariadb.com/kb/en/mariadb-error-code-reference/>.

use std::fmt;
use std::io;
use std::sync::Arc;

use idem_core::{CommitError, StoreError};
use sqlx::Error;
use sqlx::mysql::MySqlDatabaseError;

use super::NAME;
use crate::ConnectError;
use crate::sql::errors::{NoTables, OldTables, Sent, driver_error, is_unexpected_row};

mod number {
    pub(super) const RECORD_CHANGED: u16 = 1020;
    pub(super) const DISK_FULL: u16 = 1021;
    pub(super) const TOO_MANY_CONNECTIONS: u16 = 1040;
    pub(super) const NOT_A_NODE: u16 = 1047;
    pub(super) const SHUTS_DOWN: u16 = 1053;
    pub(super) const UNKNOWN_COLUMN: u16 = 1054;
    pub(super) const DUPLICATE_KEY: u16 = 1062;
    pub(super) const SYNTAX: u16 = 1064;
    pub(super) const FORCED_CLOSE: u16 = 1080;
    pub(super) const TABLE_FULL: u16 = 1114;
    pub(super) const TABLE_DENIED: u16 = 1142;
    pub(super) const COLUMN_DENIED: u16 = 1143;
    pub(super) const NO_SUCH_TABLE: u16 = 1146;
    pub(super) const PACKET_TOO_LARGE: u16 = 1153;
    pub(super) const TOO_MANY_OF_USER: u16 = 1203;
    pub(super) const LOCK_TIMEOUT: u16 = 1205;
    pub(super) const DEADLOCK: u16 = 1213;
    pub(super) const RESOURCE_LIMIT: u16 = 1226;
    pub(super) const TWO_ROWS: u16 = 1242;
    pub(super) const READ_ONLY_SERVER: u16 = 1290;
    pub(super) const NO_SUCH_SAVEPOINT: u16 = 1305;
    pub(super) const INTERRUPTED: u16 = 1317;
    pub(super) const READ_ONLY_TRANSACTION: u16 = 1792;
    pub(super) const READ_ONLY_MODE: u16 = 1836;
    pub(super) const KILLED: u16 = 1927;
    pub(super) const STATEMENT_TIMEOUT_OF_MARIADB: u16 = 1969;
    pub(super) const STATEMENT_TIMEOUT_OF_MYSQL: u16 = 3024;
    /// A group of servers did not agree to the commit.
    pub(super) const ROLLED_BACK_BY_GROUP: u16 = 3101;
    pub(super) const NOWAIT: u16 = 3572;
}

pub(super) fn store_error(error: Error, sent: Sent) -> StoreError {
    if is_unexpected_row(&error) {
        return StoreError::Unreadable { store: NAME };
    }
    let Some(refusal) = server_error(&error) else {
        return driver_error(NAME, error, sent);
    };
    match meaning(refusal, sent) {
        Meaning::Full => StoreError::Full {
            store: NAME,
            max_bytes: None,
        },
        Meaning::Unanswered => StoreError::unavailable(NAME, error),
        Meaning::NotReady => StoreError::not_ready(NAME, error),
        Meaning::Busy => StoreError::busy(NAME, error),
        Meaning::Rejected => match refusal.number() {
            number::UNKNOWN_COLUMN => StoreError::rejected(NAME, OldTables(error)),
            number::NO_SUCH_TABLE => {
                let made_by = "MySqlStore::from_pool(pool).migrate()";
                StoreError::rejected(NAME, NoTables { error, made_by })
            }
            // Its words repeat a part of the statement.
            number::SYNTAX => StoreError::rejected(NAME, NotUnderstood),
            _ => StoreError::rejected(NAME, error),
        },
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Full,
    NotReady,
    Busy,
    Rejected,
    /// It is not known whether it has taken effect.
    Unanswered,
}

fn meaning(refusal: &MySqlDatabaseError, sent: Sent) -> Meaning {
    meaning_of(refusal.number(), sent)
}

const fn meaning_of(number: u16, sent: Sent) -> Meaning {
    match number {
        number::DISK_FULL | number::TABLE_FULL => Meaning::Full,
        number::TOO_MANY_CONNECTIONS
        | number::TOO_MANY_OF_USER
        | number::RESOURCE_LIMIT
        | number::NOT_A_NODE
        | number::READ_ONLY_SERVER
        | number::READ_ONLY_TRANSACTION
        | number::READ_ONLY_MODE => Meaning::NotReady,
        number::PACKET_TOO_LARGE => Meaning::Rejected,
        number::SHUTS_DOWN
        | number::FORCED_CLOSE
        | 1152..=1161
        | number::INTERRUPTED
        | number::KILLED
        | number::STATEMENT_TIMEOUT_OF_MARIADB
        | number::STATEMENT_TIMEOUT_OF_MYSQL => match sent {
            Sent::Nothing => Meaning::NotReady,
            Sent::Maybe => Meaning::Unanswered,
        },
        number::RECORD_CHANGED
        | number::LOCK_TIMEOUT
        | number::DEADLOCK
        | number::ROLLED_BACK_BY_GROUP
        | number::NOWAIT => Meaning::Busy,
        _ => Meaning::Rejected,
    }
}

/// The error of reading or creating the tables. What the server refuses then is no outage.
pub(super) fn schema_error(error: Error) -> ConnectError {
    match server_error(&error) {
        Some(refusal) if is_read_only(&error) => ConnectError::Unfit {
            store: NAME,
            problem: format!(
                "its tables are not of this version, and the server takes no writes: {}",
                refusal.message()
            )
            .into(),
        },
        Some(refusal) if meaning(refusal, Sent::Maybe) == Meaning::Rejected => {
            ConnectError::Unfit {
                store: NAME,
                problem: format!(
                    "its tables cannot be created, upgraded or read: {}; let their owner run the migrations",
                    refusal.message()
                )
                .into(),
            }
        }
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
    CommitError::RolledBack(match server_error(&error) {
        Some(refusal) if refusal.number() == number::NO_SUCH_SAVEPOINT => {
            StoreError::rejected(NAME, NotItsTransaction)
        }
        _ => store_error(error, Sent::Maybe),
    })
}

/// Why a commit was not acknowledged. What the server refuses then is what the body wrote.
pub(super) fn commit_error(error: Error) -> CommitError {
    let Some(refusal) = server_error(&error) else {
        return CommitError::Unknown(StoreError::unavailable(NAME, error));
    };
    match meaning(refusal, Sent::Maybe) {
        Meaning::Unanswered => CommitError::Unknown(StoreError::unavailable(NAME, error)),
        Meaning::Rejected => CommitError::Refused(Arc::new(error)),
        _ => CommitError::RolledBack(store_error(error, Sent::Maybe)),
    }
}

/// Whether the statement was rolled back because of a concurrent one, and may be sent again at once. It has
/// had no effect.
pub(super) fn is_conflict(error: &Error) -> bool {
    is_number(
        error,
        &[
            number::DEADLOCK,
            number::RECORD_CHANGED,
            number::LOCK_TIMEOUT,
            number::ROLLED_BACK_BY_GROUP,
        ],
    )
}

/// Whether another transaction holds a row's lock.
pub(super) fn is_locked(error: &Error) -> bool {
    is_number(error, &[number::LOCK_TIMEOUT, number::NOWAIT])
}

/// Whether the login lacks a right on a table, or on one of its columns.
pub(super) fn is_denied(error: &Error) -> bool {
    is_number(error, &[number::TABLE_DENIED, number::COLUMN_DENIED])
}

/// Whether a guard has stopped a message: a subquery of two rows.
pub(super) fn is_guard(error: &Error) -> bool {
    is_number(error, &[number::TWO_ROWS])
}

/// Whether there is a record already.
pub(super) fn is_duplicate(error: &Error) -> bool {
    is_number(error, &[number::DUPLICATE_KEY])
}

/// Whether the server takes no writes: a replica, or a primary that was demoted.
pub(super) fn is_read_only(error: &Error) -> bool {
    is_number(
        error,
        &[
            number::READ_ONLY_SERVER,
            number::READ_ONLY_TRANSACTION,
            number::READ_ONLY_MODE,
        ],
    )
}

fn is_number(error: &Error, numbers: &[u16]) -> bool {
    server_error(error).is_some_and(|refusal| numbers.contains(&refusal.number()))
}

/// Whether a statement was given up because it took too long.
pub(super) fn is_timeout(error: &StoreError) -> bool {
    let (StoreError::NotReady { source, .. } | StoreError::Unavailable { source, .. }) = error
    else {
        return false;
    };
    match source.downcast_ref::<Error>() {
        Some(Error::Io(error)) => error.kind() == io::ErrorKind::TimedOut,
        Some(error) => is_number(
            error,
            &[
                number::INTERRUPTED,
                number::STATEMENT_TIMEOUT_OF_MARIADB,
                number::STATEMENT_TIMEOUT_OF_MYSQL,
            ],
        ),
        None => false,
    }
}

/// Whether the connection must not be used again: it is broken or silent, or its server takes no writes any
/// more (a primary that was demoted; its host name may lead to the new one by now).
pub(super) fn breaks_connection(error: &Error) -> bool {
    match server_error(error) {
        Some(refusal) => {
            let number = refusal.number();
            let lives = matches!(
                number,
                number::INTERRUPTED
                    | number::STATEMENT_TIMEOUT_OF_MARIADB
                    | number::STATEMENT_TIMEOUT_OF_MYSQL
            );
            is_read_only(error)
                || number == number::PACKET_TOO_LARGE
                || !lives && meaning(refusal, Sent::Maybe) == Meaning::Unanswered
        }
        None => !is_unexpected_row(error),
    }
}

pub(super) fn server_error(error: &Error) -> Option<&MySqlDatabaseError> {
    let error = error.as_database_error()?;
    error.try_downcast_ref()
}

/// The server did not understand a statement.
#[derive(Debug)]
struct NotUnderstood;

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the server does not understand a statement of the store (1064): it is older than MySQL 8.0 and MariaDB 10.6, or a proxy in between does not pass several statements on",
        )
    }
}

impl std::error::Error for NotUnderstood {}

/// A body has ended its transaction.
#[derive(Debug)]
struct NotItsTransaction;

impl fmt::Display for NotItsTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the transaction that the body was given has ended before the body: by a statement of the body that commits (CREATE, ALTER, COMMIT) or rolls back, or by a deadlock",
        )
    }
}

impl std::error::Error for NotItsTransaction {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_committed_is_not_known() {
        for number in [1053, 1152, 1161, 1317, 1927, 1969, 3024] {
            assert_eq!(meaning_of(number, Sent::Maybe), Meaning::Unanswered);
            assert_eq!(meaning_of(number, Sent::Nothing), Meaning::NotReady);
        }
        assert_eq!(meaning_of(1153, Sent::Maybe), Meaning::Rejected);
        assert_eq!(meaning_of(1213, Sent::Maybe), Meaning::Busy);
        assert_eq!(meaning_of(1045, Sent::Nothing), Meaning::Rejected);
    }
}
