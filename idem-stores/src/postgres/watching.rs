//! Waking those who wait: `LISTEN idem` on one connection per store, beside those for calls.
//!
//! It is opened when something is first watched, and closed a while after nothing is. A
//! notification carries a record's id. When the connection is lost all watches wake: their
//! callers look, and watch again, which opens the next one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use idem_core::{RecordId, StoreError, Watch};
use sqlx::Executor;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::NAME;
use super::connections::Connections;
use super::errors::{Came, store_error};

const LISTEN: &str = "LISTEN idem";

/// How often the server is asked whether it is still there, or, where nothing is watched, the
/// connection is closed.
const LOOK: Duration = Duration::from_secs(10);

type Opening = Shared<BoxFuture<'static, Result<(), StoreError>>>;

pub(super) struct Watching {
    connections: Connections,
    ears: Arc<Mutex<Ears>>,
}

#[derive(Default)]
struct Ears {
    /// What is watched.
    watched: HashMap<RecordId, Watched>,
    listening: Option<Listening>,
    /// Counts the attempts to open a connection.
    generation: u64,
}

/// The connection, or the attempt to open it.
struct Listening {
    opening: Opening,
    task: AbortHandle,
    generation: u64,
}

#[derive(Default)]
struct Watched {
    woken: watch::Sender<()>,
    watches: usize,
}

impl Watching {
    pub(super) fn new(connections: Connections) -> Self {
        Self {
            connections,
            ears: Arc::default(),
        }
    }

    /// Starts to listen. What is notified after this has returned wakes the watch.
    pub(super) async fn subscribe(&self, id: RecordId) -> Result<Subscription, StoreError> {
        let (subscription, opening) = {
            let mut ears = lock(&self.ears);
            // Registered first: from the server's answer on everything is heard, the loss of the
            // connection, too.
            let subscription = Subscription {
                woken: ears.register(id),
                id,
                ears: Arc::clone(&self.ears),
            };
            let opening = match &ears.listening {
                Some(listening) => listening.opening.clone(),
                None => self.open(&mut ears),
            };
            (subscription, opening)
        };
        opening.await?;
        Ok(subscription)
    }

    fn open(&self, ears: &mut Ears) -> Opening {
        let (opened, opening) = oneshot::channel();
        ears.generation += 1;
        let generation = ears.generation;
        let ear = Ear {
            ears: Arc::downgrade(&self.ears),
            generation,
        };
        // On a task of its own: it goes on when the call that began it is dropped.
        let task = tokio::spawn(ear.listen(self.connections.clone(), opened));
        let opening = opening
            .map(|opened| {
                let lost = |_| Err(StoreError::not_sent(NAME, sqlx::Error::WorkerCrashed));
                opened.unwrap_or_else(lost)
            })
            .boxed()
            .shared();
        ears.listening = Some(Listening {
            opening: opening.clone(),
            task: task.abort_handle(),
            generation,
        });
        opening
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let listening = lock(&self.ears).listening.take();
        if let Some(listening) = listening {
            listening.task.abort();
        }
    }
}

impl Ears {
    fn register(&mut self, id: RecordId) -> watch::Receiver<()> {
        let watched = self.watched.entry(id).or_default();
        watched.watches += 1;
        watched.woken.subscribe()
    }

    fn unregister(&mut self, id: &RecordId) {
        let Some(watched) = self.watched.get_mut(id) else {
            return;
        };
        watched.watches -= 1;
        if watched.watches == 0 {
            self.watched.remove(id);
        }
    }
}

fn lock(ears: &Mutex<Ears>) -> MutexGuard<'_, Ears> {
    ears.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Belongs to one connection, and is dropped with it, whatever ended it.
struct Ear {
    ears: Weak<Mutex<Ears>>,
    generation: u64,
}

impl Ear {
    async fn listen(
        self,
        connections: Connections,
        opened: oneshot::Sender<Result<(), StoreError>>,
    ) {
        let limit = connections.timeout();
        let listener = timeout(limit, open(&connections)).await;
        match listener.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok(listener) => {
                let _ = opened.send(Ok(()));
                self.hear(listener, limit).await;
            }
            Err(error) => {
                // The next watch tries again.
                drop(self);
                let _ = opened.send(Err(store_error(error, Came::NoFurther)));
            }
        }
    }

    /// Returns when the connection is lost, or of no use.
    async fn hear(&self, mut listener: PgListener, limit: Duration) {
        let mut look = Instant::now() + LOOK;
        loop {
            match timeout_at(look, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => self.heard(notification.payload()),
                Ok(Ok(None) | Err(_)) => return,
                Err(_) => {
                    if self.may_rest() {
                        return;
                    }
                    // A server that vanished without a word would be listened to for ever.
                    match timeout(limit, listener.execute(LISTEN)).await {
                        Ok(Ok(_)) => look = Instant::now() + LOOK,
                        _ => return,
                    }
                }
            }
        }
    }

    fn heard(&self, payload: &str) {
        let (Some(id), Some(ears)) = (record_id(payload), self.ears.upgrade()) else {
            return;
        };
        if let Some(watched) = lock(&ears).watched.get(&id) {
            watched.woken.send_replace(());
        }
    }

    /// Whether nothing is watched. Then the next watch opens another connection.
    fn may_rest(&self) -> bool {
        let Some(ears) = self.ears.upgrade() else {
            return true;
        };
        let mut ears = lock(&ears);
        let rests = ears.watched.is_empty();
        if rests {
            ears.listening = None;
        }
        rests
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let Some(ears) = self.ears.upgrade() else {
            return;
        };
        let mut ears = lock(&ears);
        let is_own = |listening: &mut Listening| listening.generation == self.generation;
        drop(ears.listening.take_if(is_own));
        for watched in ears.watched.values() {
            watched.woken.send_replace(());
        }
    }
}

/// A connection of its own: those for calls may be few.
async fn open(connections: &Connections) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(connections.options());
    let mut listener = PgListener::connect_with(&pool).await?;
    // The next connection is for those who watch again.
    listener.eager_reconnect(false);
    listener.execute(LISTEN).await?;
    Ok(listener)
}

/// One watch of a record.
pub(super) struct Subscription {
    id: RecordId,
    woken: watch::Receiver<()>,
    ears: Arc<Mutex<Ears>>,
}

impl Subscription {
    pub(super) fn into_watch(mut self) -> Watch {
        Watch::new(async move {
            let _ = self.woken.changed().await;
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.ears).unregister(&self.id);
    }
}

fn record_id(payload: &str) -> Option<RecordId> {
    let mut bytes = [0; 32];
    if payload.len() != 2 * bytes.len() {
        return None;
    }
    for (place, byte) in bytes.iter_mut().enumerate() {
        let digits = payload.get(2 * place..2 * place + 2)?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(RecordId::from_bytes(bytes))
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_a_record_or_not_ours() {
        let id = RecordId::from_bytes(std::array::from_fn(|place| place as u8 * 7));
        assert_eq!(record_id(&id.to_string()), Some(id));
        let long = "é".repeat(32);
        for other in ["", "7f", &"x".repeat(64), &long] {
            assert_eq!(record_id(other), None, "{other}");
        }
    }
}
