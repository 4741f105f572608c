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

/// Between two sweeps passes as much at least.
const MIN_PAUSE: Duration = Duration::from_millis(1);

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
    let every = every.max(MIN_PAUSE);
    // The index keeps entries of what was deleted for as long as any transaction of the database
    // might still see it: a sweep that began at the beginning would read ever more of them.
    let mut from = None;
    let mut began = Instant::now();
    loop {
        sleep(every.mul_f64(rand::random_range(0.5..1.0))).await;
        let mut place = from.clone();
        if began.elapsed() > FROM_THE_START {
            place = None;
            began = Instant::now();
        }
        let swept = sweep_all(&connections, &mut place).await;
        if place.is_some() {
            from = place;
        }
        if let Err(error) = swept {
            warn!(
                target: "idem",
                error = &error as &dyn std::error::Error,
                "expired records could not be deleted; the next sweep tries again"
            );
        }
    }
}

/// Sweeps until there is no whole batch any more, and says how far it came.
async fn sweep_all(
    connections: &Connections,
    place: &mut Option<String>,
) -> Result<(), StoreError> {
    loop {
        let began = Instant::now();
        let swept = sweep(connections, BATCH, place.as_deref()).await?;
        if swept.to.is_some() {
            *place = swept.to;
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
