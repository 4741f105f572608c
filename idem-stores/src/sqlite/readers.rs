//! Connections that only read: most of what a store is asked needs no write, and then neither
//! waits for those who write nor keeps them waiting.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use idem_core::StoreError;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::builder::Limits;
use super::errors::{spares_the_connection, without_effect};
use super::file::Replaced;
use super::lanes::{Queue, longest_wait, waited_too_long};
use super::target::{Opened, Target};

/// How many read at once. Each has a thread.
const READERS: usize = 4;

pub(super) struct Readers {
    target: Arc<Target>,
    /// Of those who read or wait for their turn.
    queue: Queue,
    permits: Semaphore,
    free: Mutex<Vec<Opened>>,
    /// How long one waits for a turn.
    patience: Duration,
}

impl Readers {
    pub(super) fn new(target: Arc<Target>, limits: &Limits) -> Self {
        Self {
            target,
            queue: Queue::bounded(limits.max_waiting.saturating_add(READERS)),
            permits: Semaphore::new(READERS),
            free: Mutex::default(),
            patience: limits.patience,
        }
    }

    /// Reads. What is seen was committed, and is durable: a write-ahead log is shown to readers
    /// after it was written through.
    pub(super) async fn read<T>(
        &self,
        since: Instant,
        read: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let _place = self.queue.enter()?;
        let _permit = self.turn(since).await?;
        let mut opened = match self.take_free() {
            Some(opened) => opened,
            None => self.target.open_to_read("idem-reader").await?,
        };
        // Where the caller goes away meanwhile, the connection goes, too.
        let result = read(&mut opened.connection).await;
        self.target
            .still_has(&opened)
            .map_err(Replaced::after_reading)?;
        if result.as_ref().err().is_none_or(spares_the_connection) {
            self.free().push(opened);
        }
        result.map_err(without_effect)
    }

    async fn turn(&self, since: Instant) -> Result<SemaphorePermit<'_>, StoreError> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let left = longest_wait(self.patience).saturating_sub(since.elapsed());
        match timeout(left, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            // Never closed.
            Ok(Err(_)) | Err(_) => Err(waited_too_long()),
        }
    }

    /// A connection to the file that is there now.
    fn take_free(&self) -> Option<Opened> {
        let mut free = self.free();
        while let Some(opened) = free.pop() {
            if self.target.still_has(&opened).is_ok() {
                return Some(opened);
            }
        }
        None
    }

    fn free(&self) -> MutexGuard<'_, Vec<Opened>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_turn_until_the_time_is_over_is_not_sent() {
        let target = Arc::new(Target::file(PathBuf::from("/nowhere"), Duration::ZERO));
        let limits = Limits {
            patience: Duration::from_secs(2),
            max_waiting: 16,
            sweep_every: None,
        };
        let readers = Readers::new(target, &limits);
        let turns = readers.permits.acquire_many(4).await.unwrap();
        let since = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let answer = readers.read(since, async |_| Ok(())).await;
        assert!(
            matches!(answer, Err(StoreError::NotSent { .. })),
            "{answer:?}"
        );
        drop(turns);
        // Whose turn it is, is served however long it took.
        let answer = readers.read(since, async |_| Ok(())).await;
        assert!(
            answer.is_err_and(|error| format!("{error:?}").contains("Sqlite")),
            "the file is nowhere"
        );
    }
}
