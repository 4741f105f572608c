//! Deleting records whose time is over: in batches, each a short transaction of its own that
//! takes no row that anybody else has locked.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem_core::StoreError;
use sqlx::Row;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::connections::Connections;
use super::errors::took_too_long;
use super::gate::Lane;
use super::statements;

/// How many records a batch deletes at most. Large outcomes take longer: fewer of them do.
const LARGEST_BATCH: u32 = 1000;

/// Between two sweeps passes as much at least.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// How often a sweep begins at the beginning: what a batch could not have is left for the next
/// one that does.
const FROM_THE_START: Duration = Duration::from_secs(30 * 60);

/// Sweeps one database, and remembers how.
#[derive(Debug)]
pub(super) struct Sweeper {
    /// How many records a batch deletes in time.
    batch: AtomicU32,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self {
            batch: AtomicU32::new(LARGEST_BATCH),
        }
    }
}

/// How far sweeps have come. The index keeps entries of what was deleted for as long as any
/// transaction of the database might still see it: a sweep that began at the beginning would read
/// ever more of them.
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
        match self.began.elapsed() > FROM_THE_START {
            true => Self::default(),
            false => self,
        }
    }
}

impl Sweeper {
    /// Deletes at most so many records, and answers how many; fewer say that there are no more.
    pub(super) async fn sweep(
        &self,
        connections: &Connections,
        most: u64,
        progress: &mut Progress,
    ) -> Result<u64, StoreError> {
        let mut deleted = 0;
        while deleted < most {
            let batch = self.batch.load(Ordering::Relaxed);
            let batch = batch.min(u32::try_from(most - deleted).unwrap_or(batch));
            let began = Instant::now();
            let swept = match delete(connections, batch, progress).await {
                Err(error) if took_too_long(&error) && batch > 1 => {
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
                let larger = batch.saturating_mul(2).min(LARGEST_BATCH);
                self.batch.fetch_max(larger, Ordering::Relaxed);
            }
            if deleted < most {
                // At most half of one connection's time.
                sleep(took).await;
            }
        }
        Ok(deleted)
    }
}

/// Deletes one batch, from where another one came to.
async fn delete(
    connections: &Connections,
    batch: u32,
    progress: &mut Progress,
) -> Result<u64, StoreError> {
    let statement = statements::sweep(batch, progress.to);
    let (records, to): (i64, Option<i64>) = connections
        .ask(Lane::Other, &statement, |row| {
            Ok(Some((row.try_get("records")?, row.try_get("swept_to")?)))
        })
        .await?;
    progress.to = to.or(progress.to);
    Ok(records.try_into().unwrap_or(0))
}

/// The task that sweeps in the background, until this is dropped.
pub(super) struct Sweeping(JoinHandle<()>);

impl Sweeping {
    pub(super) fn start(connections: Connections, every: Duration) -> Self {
        Self(tokio::spawn(keep_sweeping(connections, every)))
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep_sweeping(connections: Connections, every: Duration) {
    let every = every.max(MIN_PAUSE);
    let sweeper = Sweeper::default();
    let mut progress = Progress::default();
    loop {
        sleep(every.mul_f64(rand::random_range(0.5..1.0))).await;
        progress = progress.next();
        let swept = sweeper.sweep(&connections, u64::MAX, &mut progress);
        if let Err(error) = swept.await {
            has_failed(&error);
        }
    }
}

pub(super) fn has_failed(error: &StoreError) {
    warn!(
        target: "idem",
        error = error as &dyn std::error::Error,
        "expired records could not be deleted; the next sweep tries again"
    );
}

impl fmt::Debug for Sweeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweeping").finish_non_exhaustive()
    }
}
