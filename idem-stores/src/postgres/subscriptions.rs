//! Waking waiters: `LISTEN idem` on one connection per store, beside those for calls.
//!
//! The connection is opened by the first watch, and closed a while after the last one. A notification
//! carries a record's id. When the connection is lost all watches wake: their callers look, and watch
//! again, which opens the next connection.

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
use super::errors::store_error;
use crate::sql::errors::Sent;
use crate::watchers::Watchers;

const LISTEN: &str = "LISTEN idem";

/// How often the connection is checked: it is closed if nothing is watched, and else the server must
/// answer.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

type Opening = Shared<BoxFuture<'static, Result<(), StoreError>>>;

pub(super) struct Subscriptions {
    connections: Connections,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    watchers: Watchers<RecordId>,
    listener: Option<OpenListener>,
    /// Counts the attempts to open a connection.
    generation: u64,
}

/// The task that listens, and its attempt to open the connection.
struct OpenListener {
    opening: Opening,
    task: AbortHandle,
    generation: u64,
}

impl Subscriptions {
    pub(super) fn new(connections: Connections) -> Self {
        Self {
            connections,
            state: Arc::default(),
        }
    }

    /// Starts to listen. Every notification after this has returned wakes the watch.
    pub(super) async fn subscribe(&self, id: RecordId) -> Result<Subscription, StoreError> {
        let (subscription, opening) = {
            let mut state = lock(&self.state);
            // Registered first: from the server's answer on, every notification and the loss of the
            // connection must find the watch.
            let subscription = Subscription {
                woken: state.watchers.register(&id),
                id,
                state: Arc::clone(&self.state),
            };
            let opening = match &state.listener {
                Some(listener) => listener.opening.clone(),
                None => self.open(&mut state),
            };
            (subscription, opening)
        };
        opening.await?;
        Ok(subscription)
    }

    fn open(&self, state: &mut State) -> Opening {
        let (opened, opening) = oneshot::channel();
        state.generation += 1;
        let generation = state.generation;
        let receiver = Listener {
            state: Arc::downgrade(&self.state),
            generation,
        };
        // On a task of its own: it goes on when the call that began it is dropped.
        let task = tokio::spawn(receiver.listen(self.connections.clone(), opened));
        let opening = opening
            .map(|opened| {
                let lost = |_| Err(StoreError::not_sent(NAME, sqlx::Error::WorkerCrashed));
                opened.unwrap_or_else(lost)
            })
            .boxed()
            .shared();
        state.listener = Some(OpenListener {
            opening: opening.clone(),
            task: task.abort_handle(),
            generation,
        });
        opening
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        let listener = lock(&self.state).listener.take();
        if let Some(listener) = listener {
            listener.task.abort();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Receives the notifications of one connection, and is dropped with it, whatever ended it.
struct Listener {
    state: Weak<Mutex<State>>,
    generation: u64,
}

impl Listener {
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
                self.receive(listener, limit).await;
            }
            Err(error) => {
                // The next watch tries again.
                drop(self);
                let _ = opened.send(Err(store_error(error, Sent::Nothing)));
            }
        }
    }

    /// Returns when the connection is lost, or idle.
    async fn receive(&self, mut listener: PgListener, limit: Duration) {
        let mut next_check = Instant::now() + CHECK_INTERVAL;
        loop {
            match timeout_at(next_check, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => self.wake(notification.payload()),
                Ok(Ok(None) | Err(_)) => return,
                Err(_) => {
                    if self.close_if_idle() {
                        return;
                    }
                    // Otherwise a server that vanished without a word would never be noticed.
                    match timeout(limit, listener.execute(LISTEN)).await {
                        Ok(Ok(_)) => next_check = Instant::now() + CHECK_INTERVAL,
                        _ => return,
                    }
                }
            }
        }
    }

    fn wake(&self, payload: &str) {
        let (Some(id), Some(state)) = (record_id(payload), self.state.upgrade()) else {
            return;
        };
        lock(&state).watchers.wake(&id);
    }

    /// Whether nothing is watched. If so, the next watch opens another connection.
    fn close_if_idle(&self) -> bool {
        let Some(state) = self.state.upgrade() else {
            return true;
        };
        let mut state = lock(&state);
        let is_idle = state.watchers.is_empty();
        if is_idle {
            state.listener = None;
        }
        is_idle
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(state) = self.state.upgrade() else {
            return;
        };
        let mut state = lock(&state);
        let is_own = |listener: &mut OpenListener| listener.generation == self.generation;
        drop(state.listener.take_if(is_own));
        state.watchers.wake_all();
    }
}

/// Opens a connection of its own: those for calls may be few.
async fn open(connections: &Connections) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(connections.options());
    let mut listener = PgListener::connect_with(&pool).await?;
    // The watches that come next open the next connection.
    listener.eager_reconnect(false);
    listener.execute(LISTEN).await?;
    Ok(listener)
}

/// One watch of a record.
pub(super) struct Subscription {
    id: RecordId,
    woken: watch::Receiver<()>,
    state: Arc<Mutex<State>>,
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
        lock(&self.state).watchers.unregister(&self.id);
    }
}

fn record_id(payload: &str) -> Option<RecordId> {
    let mut bytes = [0; 32];
    if payload.len() != 2 * bytes.len() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        let digits = payload.get(2 * at..2 * at + 2)?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(RecordId::from_bytes(bytes))
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriptions").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_a_record_or_not_ours() {
        let id = RecordId::from_bytes(std::array::from_fn(|at| at as u8 * 7));
        assert_eq!(record_id(&id.to_string()), Some(id));
        let long = "é".repeat(32);
        for other in ["", "7f", &"x".repeat(64), &long] {
            assert_eq!(record_id(other), None, "{other}");
        }
    }
}
