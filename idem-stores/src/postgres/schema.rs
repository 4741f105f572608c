//! The tables: whether they are there, whose they are, and how they come to be.
//!
//! `idem_schema` holds the version of both. What the application keeps of its own migrations is not
//! touched. Both tables are where `search_path` finds them.

use std::borrow::Cow;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};

use super::NAME;
use super::errors::schema_error;
use crate::ConnectError;

/// Each makes of its predecessor's tables its own, and says so in `idem_schema`.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_records.sql"),
    include_str!("migrations/0002_min_version.sql"),
];

/// The version that this code makes of the tables. It uses older ones as they are.
const VERSION: usize = MIGRATIONS.len();

/// Of the processes that want to migrate, the one that holds this advisory lock does: "idem_001".
const LOCK: i64 = 0x6964_656d_5f30_3031;

/// Asked of the catalog itself: what the server's process remembers of names may be from before
/// the lock.
const TABLES: &str = "SELECT relname::text FROM pg_catalog.pg_class \
    WHERE relname IN ('idem_records', 'idem_schema') AND pg_table_is_visible(oid)";

/// What the newest migration says. All columns: a newer version may have more, and version 1 has
/// fewer.
const NEWEST: &str = "SELECT * FROM idem_schema ORDER BY version DESC LIMIT 1";

/// The version of the tables; 0 where there are none. A newer one than this code's where the tables
/// say that this code may use them.
///
/// # Errors
/// When they are of another's making, or too new for this code.
async fn look(connection: &mut PgConnection) -> Result<usize, ConnectError> {
    // In the simple protocol: what is prepared would remember which columns there are.
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

/// What the tables say of themselves.
struct Versions {
    version: usize,
    /// The oldest version that a program must know to use them.
    oldest: usize,
}

impl Versions {
    /// `None` where they are not of this code's making.
    fn read(row: &PgRow) -> Option<Self> {
        let number = |column| {
            let number: i32 = row.try_get(column).ok()?;
            usize::try_from(number).ok().filter(|number| *number > 0)
        };
        let version = number("version")?;
        let oldest = match row.try_column("min_version") {
            Ok(_) => number("min_version")?,
            // Version 1 does not say so yet.
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

/// Brings the tables to this version. Of many processes at once one does, and the others wait.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), ConnectError> {
    // Where there is nothing to do nothing is locked and no right is needed.
    if look(&mut *connection).await? >= VERSION {
        return Ok(());
    }
    let mut transaction = connection.begin().await.map_err(schema_error)?;
    // It may wait for another process, and change much.
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
