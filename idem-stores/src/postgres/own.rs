//! Connections of the store's own: a bounded number, opened when they are needed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// Pauses between attempts to connect while a server is away: doubled from the first to the
/// last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(320);

/// How long a connection is kept: load spreads again after a server was added, and what a server
/// process has grown by is given back.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 60);

/// How long one that nobody needs is kept.
const LONGEST_REST: Duration = Duration::from_secs(10 * 60);

pub(super) struct Own {
    options: PgConnectOptions,
    timeout: Duration,
    permits: Arc<Semaphore>,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    /// Those that rest. The last one has answered last.
    idle: Vec<Line>,
    /// Attempts to connect that have failed since one succeeded.
    failed: u32,
}

struct Line {
    connection: PgConnection,
    opened: Instant,
    answered: Instant,
}

/// A connection, and the right to have it.
pub(super) struct Taken {
    pub(super) connection: PgConnection,
    opened: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Own {
    pub(super) fn new(
        options: PgConnectOptions,
        max_connections: usize,
        timeout: Duration,
    ) -> Self {
        let permits = max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            options,
            timeout,
            permits: Arc::new(Semaphore::new(permits)),
            shelf: Mutex::default(),
        }
    }

    pub(super) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// A connection that rests, or a new one. Waits where all are taken.
    pub(super) async fn take(self: &Arc<Self>) -> Result<Taken, sqlx::Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let rested = self.shelf().take();
        if let Some(line) = rested {
            return Ok(Taken {
                connection: line.connection,
                opened: line.opened,
                _permit: permit,
            });
        }
        // On a task of its own, which goes on when the call that began it is dropped: otherwise
        // callers who have waited for long would each begin what they have no time to end.
        let (opened, opening) = oneshot::channel();
        let own = Arc::clone(self);
        tokio::spawn(async move {
            let result = own.open().await.map(|connection| Taken {
                connection,
                opened: Instant::now(),
                _permit: permit,
            });
            if let Err(Ok(unclaimed)) = opened.send(result) {
                own.give_back(unclaimed);
            }
        });
        opening.await.unwrap_or(Err(sqlx::Error::PoolClosed))
    }

    /// Takes back a connection that has just answered.
    pub(super) fn give_back(&self, taken: Taken) {
        let now = Instant::now();
        let mut shelf = self.shelf();
        shelf.idle.push(Line {
            connection: taken.connection,
            opened: taken.opened,
            answered: now,
        });
        // The first has rested longest.
        if now.duration_since(shelf.idle[0].answered) > LONGEST_REST {
            drop(shelf.idle.remove(0));
        }
    }

    /// Closes those that have not answered since: another one has failed.
    pub(super) fn doubt(&self, since: Instant) {
        self.shelf().idle.retain(|line| line.answered > since);
    }

    async fn open(&self) -> Result<PgConnection, sqlx::Error> {
        // Whoever waits for it has time left.
        let pause = self.shelf().pause().min(self.timeout / 4);
        sleep(pause).await;
        let opened = timeout(self.timeout, self.open_now()).await;
        let opened = opened.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let mut shelf = self.shelf();
        shelf.failed = match opened {
            Ok(_) => 0,
            Err(_) => shelf.failed.saturating_add(1),
        };
        opened
    }

    async fn open_now(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        // A plan that was made while the table was small would read all of it, and is kept until
        // the statistics say otherwise. Nothing here is worth compiling. And what a caller has
        // given up is not carried out much later.
        let settings = format!(
            "SET enable_seqscan = off; SET jit = off; SET statement_timeout = {}",
            self.timeout.as_millis().clamp(1, 2_147_483_647)
        );
        connection.execute(AssertSqlSafe(settings)).await?;
        Ok(connection)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn take(&mut self) -> Option<Line> {
        while let Some(line) = self.idle.pop() {
            if line.opened.elapsed() < LONGEST_LIFE {
                return Some(line);
            }
        }
        None
    }

    fn pause(&self) -> Duration {
        match self.failed {
            0 => Duration::ZERO,
            failed => (FIRST_PAUSE * (1 << failed.min(16))).min(LAST_PAUSE),
        }
    }
}
