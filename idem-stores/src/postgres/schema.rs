//! The tables: whether they exist, their version, and their migrations.
//!
//! `idem_schema` holds the version of both. The application's own migrations are not touched. Both tables
//! are found through `search_path`.

use std::borrow::Cow;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};

use super::NAME;
use super::errors::schema_error;
use crate::ConnectError;

/// Each upgrades the tables by one version, which it notes in `idem_schema`.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_records.sql"),
    include_str!("migrations/0002_min_version.sql"),
];

/// The version that this code upgrades the tables to. It can use older ones as they are.
const VERSION: usize = MIGRATIONS.len();

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
        _ => Ok(()),
    }
}

/// Upgrades the tables to this version. Of concurrent processes one does, and the others wait.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), ConnectError> {
    // If there is nothing to do, nothing is locked, and no right is needed.
    if look(&mut *connection).await? >= VERSION {
        return Ok(());
    }
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
        sqlx::raw_sql(*migration)
            .execute(&mut *transaction)
            .await
            .map_err(schema_error)?;
    }
    transaction.commit().await.map_err(schema_error)
}
