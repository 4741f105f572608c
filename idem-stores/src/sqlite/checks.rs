//! What is asked of the database once, at start-up: settings that weaken what the store promises
//! are each a warning with its reason. None is fatal.

use sqlx::sqlite::SqliteConnection;
use tracing::warn;

use super::target::{FULL, journal_mode, synchronous};

/// # Errors
/// When the settings cannot be read.
pub(super) async fn run(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mode = journal_mode(&mut *connection).await?;
    if mode != "wal" {
        warn!(
            target: "idem",
            mode,
            "the sqlite database has no write-ahead log: who reads and who writes wait for each other; set journal_mode to WAL"
        );
    }
    let level = synchronous(connection).await?;
    if level < FULL {
        warn!(
            target: "idem",
            synchronous = if level == 0 { "OFF" } else { "NORMAL" },
            "the application's connections to the sqlite database do not wait for the disk: what they commit may be lost with the power, records in its transactions, too; set synchronous to FULL"
        );
    }
    Ok(())
}
