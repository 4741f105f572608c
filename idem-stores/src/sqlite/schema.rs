//! The tables: whether they exist, their version, and their migrations.
//!
//! `idem_schema` holds the version of both. The application's own migrations are not touched.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use super::errors::{connect_error, is_refused_statement, unfit};
use crate::ConnectError;

/// Each upgrades the tables by one version, which it notes in `idem_schema`.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_records.sql"),
    include_str!("migrations/0002_min_version.sql"),
    include_str!("migrations/0003_steps.sql"),
];

/// The version of the tables that this code needs, or a newer one that allows it.
pub(super) const VERSION: usize = MIGRATIONS.len();

const TABLES: &str = "SELECT name FROM sqlite_schema \
    WHERE name IN ('idem_schema', 'idem_records') ORDER BY name";

/// The version of the tables; 0 if there are none. It may be newer than this code's if the tables allow
/// that.
///
/// # Errors
/// When they are foreign, or too new for this code.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<usize, ConnectError> {
    let tables: Vec<String> = sqlx::query_scalar(TABLES)
        .fetch_all(&mut *connection)
        .await
        .map_err(connect_error)?;
    if tables.is_empty() {
        return Ok(0);
    }
    // Not prepared: its columns change with a migration.
    let row = sqlx::query("SELECT * FROM idem_schema").persistent(false);
    let versions = match row.fetch_optional(connection).await {
        Ok(row) => row.as_ref().and_then(Versions::read),
        Err(error) if is_refused_statement(&error) => None,
        Err(error) => return Err(connect_error(error)),
    };
    match versions {
        Some(Versions { version, oldest }) if tables.len() == 2 => match oldest <= VERSION {
            true => Ok(version),
            false => Err(unfit(format!(
                "its tables are of version {version} and may be used by programs that know version {oldest}; this version of idem-rs knows {VERSION}"
            ))),
        },
        _ => Err(unfit(format!(
            "it has tables of another's making, or only a part of ours: {}",
            tables.join(", ")
        ))),
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
    fn read(row: &SqliteRow) -> Option<Self> {
        let number = |column| {
            let number: i64 = row.try_get(column).ok()?;
            usize::try_from(number).ok()
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

/// Upgrades the tables to this version. Of concurrent processes one does, and the others wait.
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<(), ConnectError> {
    if check(&mut *connection).await? >= VERSION {
        return Ok(());
    }
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(connect_error)?;
    let version = check(&mut transaction).await?;
    for migration in MIGRATIONS.iter().skip(version) {
        sqlx::raw_sql(*migration)
            .execute(&mut *transaction)
            .await
            .map_err(connect_error)?;
    }
    transaction.commit().await.map_err(connect_error)
}
