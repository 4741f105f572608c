//! Connections that only read: most of what a store is asked needs no write, and then neither
//! waits for those who write nor keeps them waiting.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::sqlite::SqliteConnection;
use tokio::sync::Semaphore;

use super::errors::spares_the_connection;
use super::target::Target;

/// How many read at once. Each has a thread.
const READERS: usize = 4;

pub(super) struct Readers {
    target: Arc<Target>,
    permits: Semaphore,
    free: Mutex<Vec<SqliteConnection>>,
}

impl Readers {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            permits: Semaphore::new(READERS),
            free: Mutex::default(),
        }
    }

    /// Reads. What is seen was committed, and is durable: a write-ahead log is shown to readers
    /// after it was written through.
    pub(super) async fn read<T>(
        &self,
        read: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        // Never closed.
        let _permit = self.permits.acquire().await;
        let free = self.free().pop();
        let mut connection = match free {
            Some(connection) => connection,
            None => self.target.open_to_read("idem-reader").await?,
        };
        // Where the caller goes away meanwhile, the connection goes, too.
        let result = read(&mut connection).await;
        if result.as_ref().err().is_none_or(spares_the_connection) {
            self.free().push(connection);
        }
        result
    }

    fn free(&self) -> MutexGuard<'_, Vec<SqliteConnection>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
