//! The tables: whether they are there, whose they are, and how they come to be.
//!
//! `idem_schema` holds the version of both. What the application keeps of its own migrations is
//! not touched.

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::NAME;
use super::errors::{connect_error, is_refused_statement};
use crate::ConnectError;

/// Each makes of its predecessor's tables its own, and says so in `idem_schema`.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_records.sql")];

const TABLES: &str = "SELECT name FROM sqlite_schema \
    WHERE name IN ('idem_schema', 'idem_records') ORDER BY name";

/// The version of the tables; 0 where there are none.
///
/// # Errors
/// When they are of another's making, or newer than this code.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<usize, ConnectError> {
    let unfit = |problem: String| ConnectError::Unfit {
        store: NAME,
        problem: problem.into(),
    };
    let tables: Vec<String> = sqlx::query_scalar(TABLES)
        .fetch_all(&mut *connection)
        .await
        .map_err(connect_error)?;
    if tables.is_empty() {
        return Ok(0);
    }
    let version: Result<Option<i64>, _> = sqlx::query_scalar("SELECT version FROM idem_schema")
        .fetch_optional(connection)
        .await;
    match version {
        Ok(Some(version)) if tables.len() == 2 => match usize::try_from(version) {
            Ok(version) if version <= MIGRATIONS.len() => Ok(version),
            _ => Err(unfit(format!(
                "its tables are of version {version}, and this version of idem-rs knows {}; it is to be as new as the newest that uses them",
                MIGRATIONS.len()
            ))),
        },
        Err(error)
            if !is_refused_statement(&error)
                && !matches!(error, sqlx::Error::ColumnDecode { .. }) =>
        {
            Err(connect_error(error))
        }
        _ => Err(unfit(format!(
            "it has tables of another's making, or only a part of ours: {}",
            tables.join(", ")
        ))),
    }
}

/// Brings the tables to this version. Of many processes at once one does, and the others wait.
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<(), ConnectError> {
    if check(&mut *connection).await? == MIGRATIONS.len() {
        return Ok(());
    }
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(connect_error)?;
    let version = check(&mut transaction).await?;
    for migration in &MIGRATIONS[version..] {
        sqlx::raw_sql(*migration)
            .execute(&mut *transaction)
            .await
            .map_err(connect_error)?;
    }
    transaction.commit().await.map_err(connect_error)
}
