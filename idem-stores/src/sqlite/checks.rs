//! What is checked at start-up, or at a pool's first transaction. Settings that break what the store
//! promises are refused. Each setting that weakens it is a warning with its reason.

use std::fmt;

use sqlx::sqlite::SqliteConnection;
use tracing::warn;

use super::target::{EXTRA, FULL, has_a_file, journal_mode, synchronous};

/// How a connection writes.
#[derive(Debug)]
pub(super) struct Settings {
    journal_mode: String,
    synchronous: i64,
    has_a_file: bool,
}

impl Settings {
    /// # Errors
    /// When the settings cannot be read.
    pub(super) async fn of(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        Ok(Self {
            journal_mode: journal_mode(&mut *connection).await?,
            synchronous: synchronous(&mut *connection).await?,
            has_a_file: has_a_file(connection).await?,
        })
    }

    /// A database in memory ends with its process.
    pub(super) const fn has_a_file(&self) -> bool {
        self.has_a_file
    }

    /// # Errors
    /// When a killed process could leave half of a transaction behind.
    pub(super) fn refuse_without_journal(&self) -> Result<(), NoJournal> {
        match &*self.journal_mode {
            _ if !self.has_a_file => Ok(()),
            "memory" => Err(NoJournal("MEMORY")),
            "off" => Err(NoJournal("OFF")),
            _ => Ok(()),
        }
    }

    pub(super) fn warn(&self) {
        if !self.has_a_file {
            return;
        }
        let mode = &*self.journal_mode;
        if mode != "wal" {
            warn!(
                target: "idem",
                mode,
                "the sqlite database has no write-ahead log: readers and writers wait for each other; set journal_mode to WAL"
            );
        }
        if self.synchronous < FULL {
            warn!(
                target: "idem",
                synchronous = if self.synchronous == 0 { "OFF" } else { "NORMAL" },
                "the application's connections to the sqlite database do not wait for the disk: what they commit may be lost with the power, records in its transactions, too; set synchronous to FULL"
            );
        } else if mode == "delete" && self.synchronous < EXTRA {
            warn!(
                target: "idem",
                mode,
                "the application's connections to the sqlite database do not wait until the deletion of the journal is on the disk: a loss of power can undo what they have just committed, records in its transactions, too; set journal_mode to WAL, or synchronous to EXTRA"
            );
        }
    }
}

/// The database keeps no journal on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoJournal(&'static str);

impl fmt::Display for NoJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its journal_mode is {}: a process that is killed while it writes leaves half of a transaction, or a damaged file; set journal_mode to WAL",
            self.0
        )
    }
}

impl std::error::Error for NoJournal {}
