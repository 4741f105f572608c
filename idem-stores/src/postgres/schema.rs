//! The tables: whether they are there, of which version, and how they come to be.
//!
//! `idem_schema` holds their version. What the application keeps of its own migrations is not
//! touched. Both tables are where `search_path` finds them.

use std::borrow::Cow;

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::NAME;
use super::errors::schema_error;
use crate::ConnectError;

/// Each makes the next version of its predecessor's tables, and says so in `idem_schema`.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_records.sql")];

/// Of the processes that want to migrate, the one that holds this advisory lock does: "idem_001".
const LOCK: i64 = 0x6964_656d_5f30_3031;

/// Asked of the catalog itself: what the server's process remembers of names may be from before
/// the lock.
const TABLES: &str = "SELECT relname::text FROM pg_catalog.pg_class \
    WHERE relname IN ('idem_records', 'idem_schema') AND pg_table_is_visible(oid)";

/// The version of the tables; 0 where there are none.
async fn look(connection: &mut PgConnection) -> Result<usize, ConnectError> {
    let tables: Vec<String> = sqlx::query_scalar(TABLES)
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .map_err(schema_error)?;
    match &tables[..] {
        [] => return Ok(0),
        [only] => return Err(unfit(format!("of its two tables there is only {only}"))),
        _ => {}
    }
    let version: Option<i32> = sqlx::query_scalar("SELECT max(version) FROM idem_schema")
        .persistent(false)
        .fetch_one(connection)
        .await
        .map_err(schema_error)?;
    match version.map(usize::try_from) {
        Some(Ok(version @ 1..)) if version <= MIGRATIONS.len() => Ok(version),
        _ => Err(unfit(format!(
            "its tables are of version {}, and this version of idem-rs knows {}; it is to be as new as the newest that uses them",
            version.unwrap_or_default(),
            MIGRATIONS.len()
        ))),
    }
}

fn unfit(problem: impl Into<Cow<'static, str>>) -> ConnectError {
    ConnectError::Unfit {
        store: NAME,
        problem: problem.into(),
    }
}

/// # Errors
/// When the tables are not those of this version.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), ConnectError> {
    let todo = "let the store migrate, or run its migrations by hand";
    match look(connection).await? {
        0 => Err(unfit(format!(
            "there is no table idem_records where search_path looks; {todo}"
        ))),
        version if version < MIGRATIONS.len() => Err(unfit(format!(
            "its tables are of version {version}, and this version of idem-rs works with {}; {todo}",
            MIGRATIONS.len()
        ))),
        _ => Ok(()),
    }
}

/// Brings the tables to this version. Of many processes at once one does, and the others wait.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), ConnectError> {
    // Where there is nothing to do, nothing is locked and no right is needed.
    if look(&mut *connection).await? == MIGRATIONS.len() {
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
    for migration in &MIGRATIONS[version..] {
        sqlx::raw_sql(*migration)
            .execute(&mut *transaction)
            .await
            .map_err(schema_error)?;
    }
    transaction.commit().await.map_err(schema_error)
}
