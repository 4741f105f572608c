//! Deleting expired records in batches. Each batch is a short transaction that skips locked rows.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem_core::StoreError;
use sqlx::Row;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::connections::Connections;
use super::errors::is_timeout;
use super::gate::Lane;
use super::statements;

/// The most records of a batch. Batches of large outcomes take longer, and are smaller.
const MAX_BATCH: u32 = 1000;

/// The least pause between two sweeps.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// How often a sweep starts from the beginning, and finds the rows that were locked before.
const RESTART_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// Sweeps one database, and remembers how.
#[derive(Debug)]
pub(super) struct Sweeper {
    /// The size of batches that end in time.
    batch: AtomicU32,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self {
            batch: AtomicU32::new(MAX_BATCH),
        }
    }
}

/// How far sweeps have come. The index keeps the entries of deleted rows for as long as any transaction
/// of the database might still see them. A sweep from the beginning would read ever more of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// In microseconds since 1970.
    to: Option<i64>,
    began: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            to: None,
            began: Instant::now(),
        }
    }
}

impl Progress {
    /// Where the next sweep begins.
    pub(super) fn next(self) -> Self {
        match self.began.elapsed() > RESTART_INTERVAL {
            true => Self::default(),
            false => self,
        }
    }
}

impl Sweeper {
    /// Deletes up to `max_records`, and returns how many. If it returns fewer, there are no more.
    pub(super) async fn sweep(
        &self,
        connections: &Connections,
        max_records: u64,
        progress: &mut Progress,
    ) -> Result<u64, StoreError> {
        let mut deleted = 0;
        while deleted < max_records {
            let batch = self.batch.load(Ordering::Relaxed);
            let batch = batch.min(u32::try_from(max_records - deleted).unwrap_or(batch));
            let began = Instant::now();
            let swept = match delete(connections, batch, progress).await {
                Err(error) if is_timeout(&error) && batch > 1 => {
                    self.batch.store(batch / 2, Ordering::Relaxed);
                    continue;
                }
                swept => swept?,
            };
            deleted += swept;
            if swept < batch.into() {
                break;
            }
            let took = began.elapsed();
            if took < connections.timeout() / 8 {
                let larger = batch.saturating_mul(2).min(MAX_BATCH);
                self.batch.fetch_max(larger, Ordering::Relaxed);
            }
            if deleted < max_records {
                // Sweeping takes at most half of one connection's time.
                sleep(took).await;
            }
        }
        Ok(deleted)
    }
}

/// Deletes one batch, from where the last one ended.
async fn delete(
    connections: &Connections,
    batch: u32,
    progress: &mut Progress,
) -> Result<u64, StoreError> {
    let statement = statements::sweep(batch, progress.to);
    let (records, to): (i64, Option<i64>) = connections
        .run(Lane::Other, &statement, |row| {
            Ok(Some((row.try_get("records")?, row.try_get("swept_to")?)))
        })
        .await?;
    progress.to = to.or(progress.to);
    Ok(records.try_into().unwrap_or(0))
}

/// The task that sweeps in the background. Dropping this ends it.
pub(super) struct SweepTask(JoinHandle<()>);

impl SweepTask {
    pub(super) fn start(connections: Connections, every: Duration) -> Self {
        Self(tokio::spawn(sweep_periodically(connections, every)))
    }
}

impl Drop for SweepTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn sweep_periodically(connections: Connections, every: Duration) {
    let every = every.max(MIN_PAUSE);
    let sweeper = Sweeper::default();
    let mut progress = Progress::default();
    loop {
        sleep(every.mul_f64(rand::random_range(0.5..1.0))).await;
        progress = progress.next();
        let swept = sweeper.sweep(&connections, u64::MAX, &mut progress);
        if let Err(error) = swept.await {
            warn_of_failure(&error);
        }
    }
}

pub(super) fn warn_of_failure(error: &StoreError) {
    warn!(
        target: "idem",
        error = error as &dyn std::error::Error,
        "expired records could not be deleted; the next sweep tries again"
    );
}

impl fmt::Debug for SweepTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SweepTask").finish_non_exhaustive()
    }
}
