//! The tables: whether they exist, their version, and their migrations.
//!
//! `idem_schema` holds the version of both. The application's own migrations are not touched. Both tables
//! are found through `search_path`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use idem_core::StoreError;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use tokio::time::{Instant, sleep};

use super::NAME;
use super::errors::{is_lock_timeout, schema_error};
use crate::ConnectError;
use crate::backoff::Backoff;

/// Each upgrades the tables by one version, which it notes in `idem_schema`.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_records.sql"),
    include_str!("migrations/0002_min_version.sql"),
    include_str!("migrations/0003_steps.sql"),
];

/// The version of the tables that this code needs, or a newer one that allows it.
const VERSION: usize = MIGRATIONS.len();

/// How long a migration is tried while other transactions use the tables: a copy of the whole table, or
/// a body that runs in a transaction.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Pauses between the tries.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// The advisory lock of the process that migrates: "idem_001".
const LOCK: i64 = 0x6964_656d_5f30_3031;

/// From the catalog itself: the server's process may remember names from before the lock.
const TABLES: &str = "SELECT relname::text FROM pg_catalog.pg_class \
    WHERE relname IN ('idem_records', 'idem_schema') AND pg_table_is_visible(oid)";

/// The row of the newest migration. All columns: a newer version may have more, and version 1 has fewer.
const NEWEST: &str = "SELECT * FROM idem_schema ORDER BY version DESC LIMIT 1";

/// The version of the tables; 0 if there are none. It may be newer than this code's if the tables allow
/// that.
///
/// # Errors
/// When they are foreign, or too new for this code.
async fn look(connection: &mut PgConnection) -> Result<usize, ConnectError> {
    // In the simple protocol: a prepared statement would remember the columns.
    let tables = sqlx::raw_sql(TABLES).fetch_all(&mut *connection).await;
    let tables: Vec<String> = tables
        .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
        .map_err(schema_error)?;
    match &tables[..] {
        [] => return Ok(0),
        [only] => return Err(unfit(format!("of its two tables there is only {only}"))),
        _ => {}
    }
    let newest = sqlx::raw_sql(NEWEST).fetch_optional(connection).await;
    let newest = newest.map_err(schema_error)?;
    match newest.as_ref().and_then(Versions::read) {
        Some(Versions { version, oldest }) if oldest <= VERSION => Ok(version),
        Some(Versions { version, oldest }) => Err(unfit(format!(
            "its tables are of version {version} and may be used by programs that know version {oldest}; this version of idem-rs knows {VERSION}"
        ))),
        None => Err(unfit(
            "its table idem_schema is of another's making, or empty",
        )),
    }
}

/// The versions that the tables hold.
struct Versions {
    version: usize,
    /// The oldest version that a program must know to use them.
    oldest: usize,
}

impl Versions {
    /// `None` if the table is foreign.
    fn read(row: &PgRow) -> Option<Self> {
        let number = |column| {
            let number: i32 = row.try_get(column).ok()?;
            usize::try_from(number).ok().filter(|number| *number > 0)
        };
        let version = number("version")?;
        let oldest = match row.try_column("min_version") {
            Ok(_) => number("min_version")?,
            // Version 1 has no such column.
            Err(_) => version,
        };
        Some(Self { version, oldest })
    }
}

fn unfit(problem: impl Into<Cow<'static, str>>) -> ConnectError {
    ConnectError::Unfit {
        store: NAME,
        problem: problem.into(),
    }
}

/// # Errors
/// When there are no tables that this version can use.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), ConnectError> {
    match look(connection).await? {
        0 => Err(unfit(
            "there is no table idem_records where search_path looks; let the store migrate, or run its migrations by hand",
        )),
        version if version < VERSION => Err(unfit(format!(
            "its tables are of version {version}, and this version of idem-rs needs version {VERSION}; let the store migrate, or run its migrations by hand: programs of before go on using the tables"
        ))),
        _ => Ok(()),
    }
}

/// The version of the tables.
///
/// # Errors
/// When they are foreign, or too new for this code.
pub(super) async fn version(connection: &mut PgConnection) -> Result<usize, ConnectError> {
    look(connection).await
}

/// Upgrades the tables to this version. Of concurrent processes one does, and the others wait.
///
/// A migration gives up when it has waited for a lock for a moment, because claims wait behind it, and is
/// tried again.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), ConnectError> {
    // If there is nothing to do, nothing is locked, and no right is needed.
    if look(&mut *connection).await? >= VERSION {
        return Ok(());
    }
    let began = Instant::now();
    let mut tries = 0;
    loop {
        match try_to_migrate(connection).await? {
            Migration::Done => return Ok(()),
            Migration::InTheWay(error) if began.elapsed() > LONGEST_WAIT => {
                return Err(ConnectError::Store(StoreError::busy(
                    NAME,
                    TablesInUse(error),
                )));
            }
            Migration::InTheWay(_) => {
                tries += 1;
                sleep(BACKOFF.after(tries)).await;
            }
        }
    }
}

enum Migration {
    Done,
    /// Other transactions use the tables. Nothing has changed.
    InTheWay(sqlx::Error),
}

async fn try_to_migrate(connection: &mut PgConnection) -> Result<Migration, ConnectError> {
    let mut transaction = connection.begin().await.map_err(schema_error)?;
    // It may wait for another process, and take long.
    sqlx::raw_sql("SET LOCAL statement_timeout = 0")
        .execute(&mut *transaction)
        .await
        .map_err(schema_error)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .persistent(false)
        .execute(&mut *transaction)
        .await
        .map_err(schema_error)?;
    let version = look(&mut transaction).await?;
    for migration in MIGRATIONS.iter().skip(version) {
        match sqlx::raw_sql(*migration).execute(&mut *transaction).await {
            Ok(_) => {}
            Err(error) if is_lock_timeout(&error) => {
                transaction.rollback().await.map_err(schema_error)?;
                return Ok(Migration::InTheWay(error));
            }
            Err(error) => return Err(schema_error(error)),
        }
    }
    transaction.commit().await.map_err(schema_error)?;
    Ok(Migration::Done)
}

/// Other transactions have used the tables for as long as a migration was tried.
#[derive(Debug)]
struct TablesInUse(sqlx::Error);

impl fmt::Display for TablesInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the table idem_records was not upgraded: for {LONGEST_WAIT:?} there was always a transaction that uses it; see pg_locks, and start again when that has ended"
        )
    }
}

impl std::error::Error for TablesInUse {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
