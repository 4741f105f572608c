//! Which sessions of an application's pool the server has ended by itself, while an attempt's transaction was
//! in them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use idem_core::Watch;
use sqlx::Error;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// How soon the end of a session is noticed: half of the server's timeout, within these.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// A pool that can say which sessions of its server exist.
pub(crate) trait Sessions: Send + Sync + 'static {
    type Session: Copy + PartialEq + Send + Sync;

    fn is_closed(&self) -> bool;

    /// Which of these sessions still exist. Dropped when it takes too long.
    fn find_living(
        &self,
        sessions: &[Self::Session],
    ) -> impl Future<Output = Result<Vec<Self::Session>, Error>> + Send;
}

/// The sessions that are watched.
pub(crate) struct EndedSessions<S>(Mutex<State<S>>);

struct State<S> {
    watched: Vec<Watched<S>>,
    is_polling: bool,
}

struct Watched<S> {
    session: S,
    every: Duration,
    ended: oneshot::Sender<()>,
}

impl<S> Default for EndedSessions<S> {
    fn default() -> Self {
        Self(Mutex::new(State {
            watched: Vec::new(),
            is_polling: false,
        }))
    }
}

impl<S: Copy + PartialEq + Send + Sync + 'static> EndedSessions<S> {
    /// Resolves when the server has ended the session, which it does after this time.
    pub(crate) fn watch(
        self: &Arc<Self>,
        pool: impl Sessions<Session = S>,
        session: S,
        limit: Duration,
    ) -> Watch {
        let (ended, has_ended) = oneshot::channel();
        let mut state = self.state();
        state.watched.push(Watched {
            session,
            every: (limit / 2).clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL),
            ended,
        });
        if !std::mem::replace(&mut state.is_polling, true) {
            tokio::spawn(Arc::clone(self).poll(pool));
        }
        Watch::new(async move {
            if has_ended.await.is_err() {
                std::future::pending().await
            }
        })
    }

    /// Polls for as long as a session is watched. All sessions share one connection, for one short
    /// statement.
    async fn poll(self: Arc<Self>, pool: impl Sessions<Session = S>) {
        loop {
            let every = {
                let mut state = self.state();
                state.watched.retain(|watched| !watched.ended.is_closed());
                let every = state.watched.iter().map(|watched| watched.every).min();
                state.is_polling = every.is_some() && !pool.is_closed();
                match every {
                    Some(every) if state.is_polling => every,
                    _ => {
                        state.watched.clear();
                        return;
                    }
                }
            };
            sleep(every).await;
            let asked: Vec<_> = {
                let state = self.state();
                state
                    .watched
                    .iter()
                    .map(|watched| watched.session)
                    .collect()
            };
            // With all connections in use, this poll finds nothing.
            let found = timeout(MAX_POLL_INTERVAL, pool.find_living(&asked)).await;
            if let Ok(Ok(living)) = found {
                self.state().report_ended(&asked, &living);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: PartialEq> State<S> {
    fn report_ended(&mut self, asked: &[S], living: &[S]) {
        let is_gone = |session: &S| asked.contains(session) && !living.contains(session);
        let (gone, watched) = std::mem::take(&mut self.watched)
            .into_iter()
            .partition(|watched: &Watched<S>| is_gone(&watched.session));
        self.watched = watched;
        for Watched { ended, .. } in gone {
            let _ = ended.send(());
        }
    }
}
