//! Deleting records whose time is over: in batches, each a short transaction of its own that
//! takes no row that anybody else has locked.

use std::fmt;
use std::time::Duration;

use idem_core::StoreError;
use sqlx::Row;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::connections::Connections;
use super::statements;

/// How many records a batch deletes in the background.
const BATCH: u32 = 1000;

/// How often a sweep begins at the beginning: what a batch could not have is left for the next
/// one that does.
const FROM_THE_START: Duration = Duration::from_secs(30 * 60);

/// What a batch has deleted.
pub(super) struct Swept {
    pub(super) records: u64,
    /// How far it came, as the server writes it.
    to: Option<String>,
}

/// Deletes records whose time is over, from where another batch came to.
pub(super) async fn sweep(
    connections: &Connections,
    batch: u32,
    from: Option<&str>,
) -> Result<Swept, StoreError> {
    let statement = || statements::sweep(batch, from);
    connections
        .ask(statement, |row| {
            let row = row.ok_or(sqlx::Error::RowNotFound)?;
            let records: i64 = row.try_get(0)?;
            Ok(Some(Swept {
                records: records.try_into().unwrap_or(0),
                to: row.try_get(1)?,
            }))
        })
        .await
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
    // The entries of what was deleted stay in the index while any transaction of the database
    // might still see them: a sweep that began before them each time would read ever more.
    let mut from = None;
    let mut started = Instant::now();
    loop {
        sleep(every.mul_f64(rand::random_range(0.5..1.0))).await;
        if started.elapsed() > FROM_THE_START {
            from = None;
            started = Instant::now();
        }
        if let Err(error) = sweep_all(&connections, &mut from).await {
            warn!(
                target: "idem",
                error = &error as &dyn std::error::Error,
                "expired records could not be deleted; the next sweep tries again"
            );
        }
    }
}

async fn sweep_all(connections: &Connections, from: &mut Option<String>) -> Result<(), StoreError> {
    loop {
        let began = Instant::now();
        let swept = sweep(connections, BATCH, from.as_deref()).await?;
        if swept.to.is_some() {
            *from = swept.to;
        }
        if swept.records < BATCH.into() {
            return Ok(());
        }
        // At most half of one connection's time.
        sleep(began.elapsed()).await;
    }
}

impl fmt::Debug for Sweeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweeping").finish_non_exhaustive()
    }
}
