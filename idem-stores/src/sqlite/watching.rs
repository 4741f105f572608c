//! Waking those who wait. What this process commits wakes them at once; nobody tells of what
//! other processes commit, so that while somebody waits the database is asked every few
//! milliseconds whether anything was.

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

/// The pause between two looks is drawn between half of this and all of it.
const POLL: Duration = Duration::from_millis(10);

/// The pause after a look that failed.
const CALM: Duration = Duration::from_millis(250);

/// Records of one look.
const MANY: usize = 256;

/// Who holds a watched record: `None` where it was abandoned.
type Holder = Option<Token>;

/// The records that this process watches.
#[derive(Default)]
pub(super) struct Watchers {
    state: Mutex<State>,
    begun: Notify,
}

#[derive(Default)]
struct State {
    records: HashMap<RecordId, Watched, RecordHasher>,
    /// Some have not been compared since their holder was seen.
    unchecked: bool,
}

#[derive(Default)]
struct Watched {
    woken: watch::Sender<()>,
    watches: usize,
    /// Who held the record when its newest watch began. `None` while that is not known.
    holder: Option<Holder>,
}

impl Watchers {
    /// Starts a watch of the record, as it is now.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(super) async fn watch(
        self: &Arc<Self>,
        id: &RecordId,
        readers: &Readers,
    ) -> Result<Watch, StoreError> {
        // Registered first, so that no commit falls between the look and here.
        let (mut woken, subscription) = self.subscribe(id);
        let running = readers
            .read(Instant::now(), async |connection| {
                statements::running(connection, [id]).await
            })
            .await?;
        let Some((_, holder)) = running.first() else {
            return Ok(Watch::new(ready(())));
        };
        self.seen(id, *holder);
        Ok(Watch::new(async move {
            let _ = woken.changed().await;
            drop(subscription);
        }))
    }

    fn subscribe(self: &Arc<Self>, id: &RecordId) -> (watch::Receiver<()>, Subscription) {
        let mut state = self.lock();
        let watched = state.records.entry(*id).or_default();
        watched.watches += 1;
        let subscription = Subscription {
            id: *id,
            watchers: Arc::clone(self),
        };
        (watched.woken.subscribe(), subscription)
    }

    fn seen(&self, id: &RecordId, holder: Holder) {
        {
            let mut state = self.lock();
            // What has changed since is perhaps no news to the look-out any more.
            state.unchecked = true;
            if let Some(watched) = state.records.get_mut(id) {
                let before = watched.holder.replace(holder);
                if before.is_some_and(|before| before != holder) {
                    // An older watch of the same record.
                    watched.wake();
                }
            }
        }
        self.begun.notify_one();
    }

    pub(super) fn wake(&self, id: &RecordId) {
        if let Some(watched) = self.lock().records.get(id) {
            watched.wake();
        }
    }

    pub(super) fn wake_all(&self) {
        self.lock().records.values().for_each(Watched::wake);
    }

    /// Resolves when somebody watches.
    async fn somebody(&self) {
        while self.lock().records.is_empty() {
            self.begun.notified().await;
        }
    }

    fn take_unchecked(&self) -> bool {
        std::mem::take(&mut self.lock().unchecked)
    }

    fn holders(&self) -> Vec<(RecordId, Holder)> {
        let state = self.lock();
        let holders = state.records.iter();
        holders
            .filter_map(|(id, watched)| Some((*id, watched.holder?)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn wake(&self) {
        self.woken.send_replace(());
    }
}

/// One watch of a record.
struct Subscription {
    id: RecordId,
    watchers: Arc<Watchers>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.watchers.lock();
        if let Some(watched) = state.records.get_mut(&self.id) {
            watched.watches -= 1;
            if watched.watches == 0 {
                state.records.remove(&self.id);
            }
        }
    }
}

/// Looks for what other processes have changed, for as long as it is polled.
pub(super) async fn look_out(watchers: Arc<Watchers>, target: Arc<Target>) {
    let mut opened: Option<Opened> = None;
    let mut version = None;
    loop {
        watchers.somebody().await;
        sleep(POLL.mul_f64(rand::random_range(0.5..1.0))).await;
        let looked = async {
            let used = match &mut opened {
                Some(used) => used,
                none => none.insert(target.open_to_read("idem-watcher").await?),
            };
            let looked = look(&watchers, &mut used.connection, &mut version).await;
            target.still_has(used)?;
            looked.map_err(without_effect)
        };
        let looked: Result<(), StoreError> = looked.await;
        if let Err(error) = looked {
            debug!(
                target: "idem",
                error = &error as &dyn std::error::Error,
                "the sqlite database could not be asked for changes"
            );
            opened = None;
            version = None;
            // They look themselves, and learn what is wrong.
            watchers.wake_all();
            sleep(CALM).await;
        }
    }
}

async fn look(
    watchers: &Watchers,
    connection: &mut SqliteConnection,
    version: &mut Option<i64>,
) -> Result<(), sqlx::Error> {
    let unchecked = watchers.take_unchecked();
    // Asked before the records are: what is committed in between is news the next time.
    let now = Some(statements::data_version(connection).await?);
    if now == *version && !unchecked {
        return Ok(());
    }
    for watched in watchers.holders().chunks(MANY) {
        let ids = watched.iter().map(|(id, _)| id);
        let running = statements::running(connection, ids).await?;
        let running: HashMap<_, _, RecordHasher> = running.into_iter().collect();
        for (id, holder) in watched {
            if running.get(id) != Some(holder) {
                watchers.wake(id);
            }
        }
    }
    *version = now;
    Ok(())
}
