//! Connections that only read. Most calls need no write, and so neither wait for writers nor block
//! them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use idem_core::StoreError;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::errors::{keeps_connection_usable, without_effect};
use super::file::Replaced;
use super::limits::Limits;
use super::queue::{Queue, waited_too_long};
use super::target::{Opened, Target};

/// How many connections read at once. Each has a thread.
const MAX_READERS: usize = 4;

pub(super) struct Readers {
    target: Arc<Target>,
    /// Of calls that read or wait for a connection.
    queue: Queue,
    permits: Semaphore,
    free: Mutex<Vec<Opened>>,
    max_wait: Duration,
}

impl Readers {
    pub(super) fn new(target: Arc<Target>, limits: &Limits) -> Self {
        Self {
            target,
            queue: Queue::bounded(limits.max_waiting.saturating_add(MAX_READERS)),
            permits: Semaphore::new(MAX_READERS),
            free: Mutex::default(),
            max_wait: limits.max_queue_wait(),
        }
    }

    /// Reads. What is seen is committed and durable: readers see the write-ahead log only after it was
    /// synced.
    pub(super) async fn read<T>(
        &self,
        since: Instant,
        read: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let _place = self.queue.enter()?;
        let _permit = self.permit(since).await?;
        let mut opened = match self.take_free() {
            Some(opened) => opened,
            None => self.target.open_to_read("idem-reader").await?,
        };
        // If the caller goes away meanwhile, the connection is closed.
        let result = read(&mut opened.connection).await;
        self.target
            .check_in_place(&opened)
            .map_err(Replaced::after_reading)?;
        if result.as_ref().err().is_none_or(keeps_connection_usable) {
            self.free().push(opened);
        }
        result.map_err(without_effect)
    }

    async fn permit(&self, since: Instant) -> Result<SemaphorePermit<'_>, StoreError> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let left = self.max_wait.saturating_sub(since.elapsed());
        match timeout(left, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(waited_too_long()),
        }
    }

    /// A connection to the file that is at the path now.
    fn take_free(&self) -> Option<Opened> {
        let mut free = self.free();
        while let Some(opened) = free.pop() {
            if self.target.check_in_place(&opened).is_ok() {
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
            lock_timeout: Duration::from_secs(2),
            max_waiting: 16,
            sweep_every: None,
        };
        let readers = Readers::new(target, &limits);
        let all = readers.permits.acquire_many(4).await.unwrap();
        let since = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let answer = readers.read(since, async |_| Ok(())).await;
        assert!(
            matches!(answer, Err(StoreError::NotSent { .. })),
            "{answer:?}"
        );
        drop(all);
        // A call that has its permit is served, however long it has waited.
        let answer = readers.read(since, async |_| Ok(())).await;
        assert!(
            answer.is_err_and(|error| format!("{error:?}").contains("Sqlite")),
            "the file is nowhere"
        );
    }
}
