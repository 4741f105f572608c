//! The tables: whether they exist, their version, and their migrations.
//!
//! `idem_schema` holds the version of both. The application's own migrations are not touched. Both tables
//! are in the database that the connection names.
//!
//! The servers commit after each statement that changes tables, so a migration may stop halfway. Each can
//! be run again from its beginning, and its last statement notes its version.

use std::borrow::Cow;
use std::fmt;

use idem_core::StoreError;
use sqlx::Error;
use sqlx::mysql::{MySqlConnection, MySqlRow};

use super::NAME;
use super::errors::{connect_error, schema_error};
use super::message::{Message, maybe_number, number, word};
use crate::ConnectError;

/// Each upgrades the tables by one version, which it notes in `idem_schema`.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_records.sql")];

/// The version of the tables that this code needs, or a newer one that allows it.
const VERSION: usize = MIGRATIONS.len();

/// How many seconds a process waits for another one that migrates.
const LONGEST_WAIT: u32 = 60;

const TABLES: &str = "SELECT TABLE_NAME AS name FROM information_schema.TABLES \
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ('idem_records', 'idem_schema') \
    ORDER BY TABLE_NAME";

/// The row of the newest migration.
const NEWEST: &str = "SELECT version, min_version FROM idem_schema ORDER BY version DESC LIMIT 1";

/// Fails if the table is not the store's.
const COLUMNS: &str = "SELECT id, fingerprint, attempt, state, token, claimed_at, lease_until, \
    expires_at, sweep_at, operation, steps, outcome FROM idem_records LIMIT 0";

/// The version of the tables; 0 if there are none, or not all of them. It may be newer than this code's if
/// the tables allow that.
///
/// # Errors
/// When they are foreign, or too new for this code.
async fn look(connection: &mut MySqlConnection) -> Result<usize, ConnectError> {
    let rows = ask(connection, TABLES).await?;
    let tables: Result<Vec<&str>, Error> = rows.iter().map(|row| word(row, "name")).collect();
    let tables = tables.map_err(schema_error)?;
    if tables.contains(&"idem_records") {
        ask(connection, COLUMNS).await?;
    }
    if tables.len() < 2 {
        return Ok(0);
    }
    let newest = ask(connection, NEWEST).await?;
    let Some(newest) = newest.first() else {
        return Ok(0);
    };
    match Versions::read(newest) {
        Some(Versions { version, oldest }) if oldest <= VERSION => Ok(version),
        Some(Versions { version, oldest }) => Err(unfit(format!(
            "its tables are of version {version} and may be used by programs that know version {oldest}; this version of idem-rs knows {VERSION}"
        ))),
        None => Err(unfit("its table idem_schema is of another's making")),
    }
}

async fn ask(
    connection: &mut MySqlConnection,
    sql: &'static str,
) -> Result<Vec<MySqlRow>, ConnectError> {
    let (answer, ended) = Message::plain(sql).send(connection, |_| {}).await;
    ended.map_err(schema_error)?;
    Ok(answer.into_rows())
}

/// The versions that the tables hold.
struct Versions {
    version: usize,
    /// The oldest version that a program must know to use them.
    oldest: usize,
}

impl Versions {
    /// `None` if the table is foreign.
    fn read(row: &MySqlRow) -> Option<Self> {
        let number = |column| {
            let number = number(row, column).ok()?;
            usize::try_from(number).ok().filter(|number| *number > 0)
        };
        Some(Self {
            version: number("version")?,
            oldest: number("min_version")?,
        })
    }
}

pub(super) fn unfit(problem: impl Into<Cow<'static, str>>) -> ConnectError {
    ConnectError::Unfit {
        store: NAME,
        problem: problem.into(),
    }
}

/// # Errors
/// When there are no tables that this version can use.
pub(super) async fn check(connection: &mut MySqlConnection) -> Result<(), ConnectError> {
    match look(connection).await? {
        0 => Err(unfit(
            "there are no tables idem_records and idem_schema in its database; let the store migrate, or run its migrations by hand",
        )),
        version if version < VERSION => Err(unfit(format!(
            "its tables are of version {version}, and this version of idem-rs needs version {VERSION}; let the store migrate, or run its migrations by hand"
        ))),
        _ => Ok(()),
    }
}

/// The version of the tables.
///
/// # Errors
/// When they are foreign, or too new for this code.
pub(super) async fn version(connection: &mut MySqlConnection) -> Result<usize, ConnectError> {
    look(connection).await
}

/// Upgrades the tables to this version. Of concurrent processes one does, and the others wait. The
/// connection is not used for anything else: the lock ends with it.
pub(super) async fn migrate(connection: &mut MySqlConnection) -> Result<(), ConnectError> {
    // If there is nothing to do, nothing is locked, and no right is needed.
    if look(connection).await? >= VERSION {
        return Ok(());
    }
    let lock =
        format!("SELECT GET_LOCK(CONCAT('idem_', SHA1(DATABASE())), {LONGEST_WAIT}) AS locked");
    let (answer, ended) = Message::plain(lock).send(connection, |_| {}).await;
    ended.map_err(schema_error)?;
    let locked = answer.rows().first().map(|row| maybe_number(row, "locked"));
    if locked.transpose().map_err(connect_error)?.flatten() != Some(1) {
        return Err(ConnectError::Store(StoreError::busy(NAME, AnotherMigrates)));
    }
    let version = look(connection).await?;
    for migration in MIGRATIONS.iter().skip(version) {
        let migration = Message::plain(super::message::without_comments(migration));
        migration
            .send(connection, |_| {})
            .await
            .1
            .map_err(schema_error)?;
    }
    Ok(())
}

/// Another process has migrated the tables for as long as this one has waited.
#[derive(Debug)]
struct AnotherMigrates;

impl fmt::Display for AnotherMigrates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "another process has been migrating the tables for {LONGEST_WAIT} seconds; see SHOW PROCESSLIST, and start again when it has ended"
        )
    }
}

impl std::error::Error for AnotherMigrates {}
