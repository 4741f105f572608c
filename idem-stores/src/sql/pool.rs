//! A store's own connections: opened when they are needed, and kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Error;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::gate::Permit;
use crate::backoff::Backoff;

/// Pauses between attempts to connect while a server is away.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(320));

/// How long a connection is kept. Then load spreads to servers that were added, and the memory of the
/// server's session is freed.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// How long a connection is kept that no call needs.
const MAX_IDLE: Duration = Duration::from_secs(10 * 60);

/// Opens connections.
pub(crate) trait Opener: Send + Sync + 'static {
    /// A connection, with what its store knows of it.
    type Connection: Send + 'static;

    fn open(&self) -> impl Future<Output = Result<Self::Connection, Error>> + Send;
}

pub(crate) struct Pool<O: Opener> {
    opener: O,
    timeout: Duration,
    idle: Mutex<Idle<O::Connection>>,
}

struct Idle<C> {
    /// The last one has answered last.
    connections: Vec<IdleConnection<C>>,
    /// Attempts to connect that have failed since one succeeded.
    failures: u32,
}

struct IdleConnection<C> {
    open: OpenConnection<C>,
    answered: Instant,
}

/// An open connection.
pub(crate) struct OpenConnection<C> {
    pub(crate) own: C,
    opened: Instant,
}

/// A connection, and the permit to use it.
pub(crate) struct PooledConnection<C> {
    pub(crate) open: OpenConnection<C>,
    pub(crate) permit: Permit,
}

impl<O: Opener> Pool<O> {
    pub(crate) fn new(opener: O, timeout: Duration) -> Self {
        Self {
            opener,
            timeout,
            idle: Mutex::new(Idle {
                connections: Vec::new(),
                failures: 0,
            }),
        }
    }

    pub(crate) const fn opener(&self) -> &O {
        &self.opener
    }

    /// An idle connection, or a new one.
    pub(crate) async fn check_out(
        self: &Arc<Self>,
        permit: Permit,
    ) -> Result<PooledConnection<O::Connection>, Error> {
        let idle = self.idle().take();
        if let Some(open) = idle {
            return Ok(PooledConnection { open, permit });
        }
        // On a task of its own, which goes on when the call that began it is dropped. Otherwise calls that
        // have waited long would each begin an opening, and have no time left to finish it.
        let (opened, opening) = oneshot::channel();
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            let result = pool
                .open()
                .await
                .map(|open| PooledConnection { open, permit });
            if let Err(Ok(unclaimed)) = opened.send(result) {
                pool.check_in(unclaimed);
            }
        });
        opening.await.unwrap_or(Err(Error::PoolClosed))
    }

    /// Takes back a connection that has just answered.
    pub(crate) fn check_in(&self, pooled: PooledConnection<O::Connection>) {
        let now = Instant::now();
        let mut idle = self.idle();
        idle.connections.push(IdleConnection {
            open: pooled.open,
            answered: now,
        });
        // The first has been idle longest.
        if now.duration_since(idle.connections[0].answered) > MAX_IDLE {
            drop(idle.connections.remove(0));
        }
        drop(idle);
        // Dropped last: the next call finds the connection.
        drop(pooled.permit);
    }

    /// Removes the idle connections that have not answered since. Another connection has failed, and
    /// these may be broken, too.
    pub(crate) fn evict_older_than(&self, since: Instant) -> Vec<OpenConnection<O::Connection>> {
        let mut idle = self.idle();
        let (newer, older): (Vec<_>, Vec<_>) = std::mem::take(&mut idle.connections)
            .into_iter()
            .partition(|idle| idle.answered > since);
        idle.connections = newer;
        drop(idle);
        older.into_iter().map(|idle| idle.open).collect()
    }

    async fn open(&self) -> Result<OpenConnection<O::Connection>, Error> {
        // A call that waits for it has time left.
        let pause = BACKOFF.after(self.idle().failures);
        let pause = pause.min(self.timeout / 4);
        sleep(pause).await;
        let began = Instant::now();
        let opened = timeout(self.timeout, self.opener.open()).await;
        let opened = opened.unwrap_or(Err(Error::PoolTimedOut));
        let mut idle = self.idle();
        idle.failures = match opened {
            Ok(_) => 0,
            Err(_) => idle.failures.saturating_add(1),
        };
        opened.map(|own| OpenConnection { own, opened: began })
    }

    fn idle(&self) -> MutexGuard<'_, Idle<O::Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Idle<C> {
    fn take(&mut self) -> Option<OpenConnection<C>> {
        while let Some(IdleConnection { open, .. }) = self.connections.pop() {
            if open.opened.elapsed() < MAX_LIFETIME {
                return Some(open);
            }
        }
        None
    }
}
