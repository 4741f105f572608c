//! The journal's file: one table in SQLite, one process, every change on the disk before it counts.

use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row, SqlitePool};

use super::entry::{Entry, Pending};
use super::error::JournalError;
use crate::key::IdempotencyKey;

/// What `PRAGMA user_version` says of a file that this version has written.
const VERSION: i64 = 1;

/// Another process that is about to end is waited for.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub(super) struct File(SqlitePool);

pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) recorded_at: SystemTime,
}

impl File {
    pub(super) async fn open(path: &Path) -> Result<Self, JournalError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            // The lock is kept until the connection ends.
            .locking_mode(SqliteLockingMode::Exclusive)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(LOCK_PATIENCE);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            // The connection holds the lock.
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options)
            .await?;
        let file = Self(pool);
        match file.prepare().await {
            Ok(()) => Ok(file),
            Err(error) => {
                file.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(&self) -> Result<(), JournalError> {
        let version: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&self.0)
            .await?;
        match version {
            VERSION => {}
            0 => {
                sqlx::raw_sql(include_str!("schema.sql"))
                    .execute(&self.0)
                    .await?;
            }
            version if version > VERSION => return Err(JournalError::Newer),
            _ => return Err(JournalError::Damaged),
        }
        // A write takes the lock, if nothing else has.
        sqlx::query("DELETE FROM operations WHERE key = ''")
            .execute(&self.0)
            .await?;
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.0.close().await;
    }

    /// Whether it is new: a key that is there stays as it is.
    pub(super) async fn record(
        &self,
        key: &IdempotencyKey,
        entry: &Entry,
        now: SystemTime,
        max_operations: u32,
    ) -> Result<bool, JournalError> {
        const INSERT: &str = "INSERT INTO operations (key, method, uri, headers, body, recorded_at) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE (SELECT count(*) FROM operations) < ?7 \
             ON CONFLICT (key) DO NOTHING";
        let inserted = sqlx::query(INSERT)
            .bind(key.as_str())
            .bind(&entry.method)
            .bind(&entry.uri)
            .bind(&entry.headers)
            .bind(&entry.body[..])
            .bind(millis(now))
            .bind(i64::from(max_operations))
            .execute(&self.0)
            .await?;
        if inserted.rows_affected() == 1 {
            return Ok(true);
        }
        match self.find(key).await? {
            Some(_) => Ok(false),
            None => Err(JournalError::Full),
        }
    }

    pub(super) async fn find(&self, key: &IdempotencyKey) -> Result<Option<Found>, JournalError> {
        const SELECT: &str =
            "SELECT method, uri, headers, body, recorded_at FROM operations WHERE key = ?1";
        let row = sqlx::query(SELECT)
            .bind(key.as_str())
            .fetch_optional(&self.0)
            .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        Ok(Some(Found {
            entry: Entry {
                method: row.try_get(0)?,
                uri: row.try_get(1)?,
                headers: row.try_get(2)?,
                body: Bytes::from(row.try_get::<Vec<u8>, _>(3)?),
            },
            recorded_at: recorded_at(&row, 4)?,
        }))
    }

    /// The oldest first.
    pub(super) async fn keys(&self) -> Result<Vec<IdempotencyKey>, JournalError> {
        const SELECT: &str = "SELECT key FROM operations ORDER BY recorded_at, key";
        let keys: Vec<String> = sqlx::query_scalar(SELECT).fetch_all(&self.0).await?;
        let keys = keys.into_iter().map(IdempotencyKey::new);
        keys.collect::<Result<_, _>>()
            .map_err(|_| JournalError::Damaged)
    }

    /// The oldest first.
    pub(super) async fn list(&self) -> Result<Vec<Pending>, JournalError> {
        const SELECT: &str =
            "SELECT key, method, uri, recorded_at FROM operations ORDER BY recorded_at, key";
        let rows = sqlx::query(SELECT).fetch_all(&self.0).await?;
        let pending = rows.iter().map(|row| {
            let text = |at| row.try_get::<String, _>(at);
            Ok(Pending {
                key: IdempotencyKey::new(text(0)?).map_err(|_| JournalError::Damaged)?,
                method: text(1)?.parse().map_err(|_| JournalError::Damaged)?,
                uri: text(2)?.parse().map_err(|_| JournalError::Damaged)?,
                recorded_at: recorded_at(row, 3)?,
            })
        });
        pending.collect()
    }

    /// Whether it was there.
    pub(super) async fn remove(&self, key: &IdempotencyKey) -> Result<bool, JournalError> {
        let delete = sqlx::query("DELETE FROM operations WHERE key = ?1").bind(key.as_str());
        Ok(delete.execute(&self.0).await?.rows_affected() > 0)
    }
}

fn millis(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn recorded_at(row: &SqliteRow, at: usize) -> Result<SystemTime, JournalError> {
    let millis = u64::try_from(row.try_get::<i64, _>(at)?).map_err(|_| JournalError::Damaged)?;
    let since = Duration::from_millis(millis);
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .ok_or(JournalError::Damaged)
}
