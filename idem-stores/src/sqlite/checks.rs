//! What is checked at start-up, or at a pool's first transaction. Settings that break what the store
//! promises are refused. Each setting that weakens it is a warning with its reason.

use std::fmt;
use std::time::Duration;

use idem_core::{Finding, StoreError};
use sqlx::sqlite::SqliteConnection;

use super::errors::without_effect;
use super::target::{EXTRA, FULL, Target, has_a_file, journal_mode, synchronous};
use super::{schema, statements};
use crate::findings;

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
        if self.has_a_file {
            findings::warn_of(&[self.journal(), self.syncing()]);
        }
    }

    fn journal(&self) -> Finding {
        let mode = self.journal_mode.clone();
        match &*self.journal_mode {
            "wal" => Finding::fine("journal_mode", mode),
            _ => Finding::warning(
                "journal_mode",
                mode,
                "the sqlite database has no write-ahead log: readers and writers wait for each other",
                "set journal_mode to WAL",
            ),
        }
    }

    fn syncing(&self) -> Finding {
        let name = match self.synchronous {
            0 => "OFF",
            1 => "NORMAL",
            FULL => "FULL",
            _ => "EXTRA",
        };
        if self.synchronous < FULL {
            return Finding::warning(
                "synchronous",
                name,
                "the application's connections to the sqlite database do not wait for the disk: what they commit may be lost with the power, records in its transactions, too",
                "set synchronous to FULL",
            );
        }
        if self.journal_mode == "delete" && self.synchronous < EXTRA {
            return Finding::warning(
                "synchronous",
                name,
                "the application's connections to the sqlite database do not wait until the deletion of the journal is on the disk: a loss of power can undo what they have just committed, records in its transactions, too",
                "set journal_mode to WAL, or synchronous to EXTRA",
            );
        }
        Finding::fine("synchronous", name)
    }
}

/// The file's settings, its tables, whether it can be written, and who sweeps it. What an application
/// sets for connections of its own is not seen from here.
pub(super) async fn examine(target: &Target) -> Result<Vec<Finding>, StoreError> {
    let mut opened = target.open().await?;
    let connection = &mut opened.connection;
    let mut found = Vec::new();
    match schema::check(&mut *connection).await {
        Ok(version) => found.push(Finding::fine("schema", format!("version {version}"))),
        Err(problem) => found.push(Finding::problem(
            "schema",
            "",
            problem.to_string(),
            "let the application migrate, or run the store's migrations by hand",
        )),
    }
    let settings = Settings::of(connection).await.map_err(without_effect)?;
    found.push(match settings.refuse_without_journal() {
        Ok(()) => settings.journal(),
        Err(problem) => Finding::problem(
            "journal_mode",
            settings.journal_mode.clone(),
            problem.to_string(),
            "",
        ),
    });
    found.push(settings.syncing());
    found.push(match try_to_write(connection).await {
        Ok(()) => Finding::fine("writes", "taken"),
        Err(error) => Finding::problem(
            "writes",
            "refused",
            without_effect(error).to_string(),
            "see the rights of the file and of its directory, the space on its disk, and who holds its lock",
        ),
    });
    let offset = statements::clock_offset(connection).await;
    let offset = offset.map_err(without_effect)?;
    found.push(match offset {
        0 => Finding::fine("clock_offset_ms", "0"),
        millis => Finding::problem(
            "clock_offset_ms",
            millis.to_string(),
            "the clock of this database was moved, as tests do it: leases and retentions are judged by it",
            "UPDATE idem_schema SET clock_offset_ms = 0, when nothing uses the database",
        ),
    });
    let late = statements::oldest_expired(connection).await;
    let late = late.map_err(without_effect)?;
    let late = late.and_then(|millis| u64::try_from(millis).ok());
    found.push(findings::sweeping(late.map(Duration::from_millis)));
    Ok(found)
}

/// Takes the lock of writers for a moment, and changes a row into what it is.
async fn try_to_write(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    statements::execute(&mut *connection, "BEGIN IMMEDIATE").await?;
    let same = "UPDATE idem_schema SET clock_offset_ms = clock_offset_ms";
    let written = statements::execute(&mut *connection, same).await;
    statements::execute(connection, "ROLLBACK").await?;
    written
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
