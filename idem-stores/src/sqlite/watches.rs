//! Waking waiters. A commit of this process wakes them at once. Nothing announces a commit of another
//! process, so while a record is watched the database is polled every few milliseconds.

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use idem_core::{RecordHasher, RecordId, StoreError, Token, Watch};
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::debug;

use super::errors::without_effect;
use super::readers::Readers;
use super::statements;
use super::target::{Opened, Target};
use crate::watchers::Watchers;

/// The longest pause between two polls. The shortest is half of it.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The pause after a poll that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(250);

/// The most records that one statement looks at.
const MAX_RECORDS_PER_STATEMENT: usize = 256;

/// The token that holds a watched record. `None` if it was abandoned.
type Holder = Option<Token>;

/// The records that this process watches.
#[derive(Default)]
pub(super) struct Watches {
    state: Mutex<State>,
    begun: Notify,
}

#[derive(Default)]
struct State {
    watchers: Watchers<RecordId>,
    /// The holder of a record when its newest watch began.
    holders: HashMap<RecordId, Holder, RecordHasher>,
    /// Some holders were seen after the last poll.
    has_unchecked: bool,
}

impl Watches {
    /// Watches the record as it is now.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(super) async fn watch(
        self: &Arc<Self>,
        id: &RecordId,
        readers: &Readers,
    ) -> Result<Watch, StoreError> {
        // Registered first, so that a commit after the look wakes it.
        let (mut woken, subscription) = self.subscribe(id);
        let running = readers
            .read(Instant::now(), async |connection| {
                statements::running(connection, [id]).await
            })
            .await?;
        let Some((_, holder)) = running.first() else {
            return Ok(Watch::new(ready(())));
        };
        self.note_holder(id, *holder);
        Ok(Watch::new(async move {
            let _ = woken.changed().await;
            drop(subscription);
        }))
    }

    fn subscribe(self: &Arc<Self>, id: &RecordId) -> (watch::Receiver<()>, Subscription) {
        let woken = self.lock().watchers.register(id);
        let subscription = Subscription {
            id: *id,
            watches: Arc::clone(self),
        };
        (woken, subscription)
    }

    /// Called while the record is watched.
    fn note_holder(&self, id: &RecordId, holder: Holder) {
        {
            let mut state = self.lock();
            // The poller may have seen the commit already that changes this holder.
            state.has_unchecked = true;
            let before = state.holders.insert(*id, holder);
            if before.is_some_and(|before| before != holder) {
                // This wakes older watches of the record.
                state.watchers.wake(id);
            }
        }
        self.begun.notify_one();
    }

    pub(super) fn wake(&self, id: &RecordId) {
        self.lock().watchers.wake(id);
    }

    pub(super) fn wake_all(&self) {
        self.lock().watchers.wake_all();
    }

    /// Resolves when something is watched.
    async fn has_begun(&self) {
        while self.lock().watchers.is_empty() {
            self.begun.notified().await;
        }
    }

    fn take_has_unchecked(&self) -> bool {
        std::mem::take(&mut self.lock().has_unchecked)
    }

    fn holders(&self) -> Vec<(RecordId, Holder)> {
        let state = self.lock();
        let holders = state.holders.iter();
        holders.map(|(id, holder)| (*id, *holder)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One watch of a record.
struct Subscription {
    id: RecordId,
    watches: Arc<Watches>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.watches.lock();
        if state.watchers.unregister(&self.id) {
            state.holders.remove(&self.id);
        }
    }
}

/// Wakes watches of records that other processes have changed, for as long as it is polled.
pub(super) async fn poll_other_processes(watches: Arc<Watches>, target: Arc<Target>) {
    let mut opened: Option<Opened> = None;
    let mut version = None;
    loop {
        watches.has_begun().await;
        sleep(POLL_INTERVAL.mul_f64(rand::random_range(0.5..1.0))).await;
        let polled = async {
            let used = match &mut opened {
                Some(used) => used,
                none => none.insert(target.open_to_read("idem-watcher").await?),
            };
            let polled = poll(&watches, &mut used.connection, &mut version).await;
            target.check_in_place(used)?;
            polled.map_err(without_effect)
        };
        let polled: Result<(), StoreError> = polled.await;
        if let Err(error) = polled {
            debug!(
                target: "idem",
                error = &error as &dyn std::error::Error,
                "the sqlite database could not be polled for changes"
            );
            opened = None;
            version = None;
            // Their callers look, and learn the error.
            watches.wake_all();
            sleep(PAUSE_AFTER_FAILURE).await;
        }
    }
}

async fn poll(
    watches: &Watches,
    connection: &mut SqliteConnection,
    version: &mut Option<i64>,
) -> Result<(), sqlx::Error> {
    let has_unchecked = watches.take_has_unchecked();
    // Read before the records are: a commit in between is found by the next poll.
    let now = Some(statements::data_version(connection).await?);
    if now == *version && !has_unchecked {
        return Ok(());
    }
    for watched in watches.holders().chunks(MAX_RECORDS_PER_STATEMENT) {
        let ids = watched.iter().map(|(id, _)| id);
        let running = statements::running(connection, ids).await?;
        let running: HashMap<_, _, RecordHasher> = running.into_iter().collect();
        for (id, holder) in watched {
            if running.get(id) != Some(holder) {
                watches.wake(id);
            }
        }
    }
    *version = now;
    Ok(())
}
