//! What this process knows of each of the application's pools: when expired records were last deleted
//! through it, and which of its sessions are in an attempt's transaction that the server may end by
//! itself.
//!
//! It is kept for as long as the process runs: a pool cannot hold it, and a transaction knows only its
//! pool.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use idem_core::{StoreError, Watch};
use sqlx::{AssertSqlSafe, Error, PgPool};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::connections::Connections;
use super::hung_sessions::Session;
use super::sweeping::{Progress, Sweeper, warn_of_failure};
use crate::database::database_id;

/// The most pools. With more, all are forgotten, and known anew.
const MAX_POOLS: usize = 1024;

/// The most records that one sweep deletes.
const MAX_SWEPT: u64 = 10_000;

/// The pause after the server has refused to delete.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(60 * 60);

/// How soon the end of a session is noticed: half of the server's timeout, within these.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(5);

static POOLS: LazyLock<Mutex<HashMap<Vec<u8>, Arc<PoolState>>>> = LazyLock::new(Mutex::default);

/// The bytes that tell a pool's database from every other.
pub(super) fn database_id_of(pool: &PgPool) -> Vec<u8> {
    let options = pool.connect_options();
    database_id(
        pool,
        (
            (options.get_host(), options.get_port()),
            options.get_socket(),
            (options.get_username(), options.get_database()),
            options.get_options(),
        ),
    )
}

#[derive(Default)]
pub(super) struct PoolState {
    sweeps: Mutex<Sweeps>,
    sweeper: Sweeper,
    sessions: Mutex<Sessions>,
}

impl PoolState {
    pub(super) fn of(pool: &PgPool) -> Arc<Self> {
        let mut pools = lock(&POOLS);
        if pools.len() >= MAX_POOLS {
            pools.clear();
        }
        Arc::clone(pools.entry(database_id_of(pool)).or_default())
    }

    /// Deletes expired records in the background, if it is time to.
    pub(super) fn sweep_if_due(
        self: &Arc<Self>,
        every: Duration,
        connections: impl FnOnce() -> Connections,
    ) {
        if lock(&self.sweeps).begin(every) {
            let sweep = Sweep(Arc::clone(self));
            tokio::spawn(sweep.run(connections()));
        }
    }

    /// Resolves when the server has ended the session.
    pub(super) fn session_ended(
        self: &Arc<Self>,
        pool: &PgPool,
        session: Session,
        limit: Duration,
    ) -> Watch {
        let (ended, has_ended) = oneshot::channel();
        let mut sessions = lock(&self.sessions);
        sessions.watched.push(Watched {
            session,
            every: (limit / 2).clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL),
            ended,
        });
        if !std::mem::replace(&mut sessions.is_polling, true) {
            tokio::spawn(Arc::clone(self).poll_sessions(pool.clone()));
        }
        Watch::new(async move {
            if has_ended.await.is_err() {
                std::future::pending().await
            }
        })
    }

    /// Polls for as long as a session is watched. All sessions share one connection, for one short
    /// statement.
    async fn poll_sessions(self: Arc<Self>, pool: PgPool) {
        loop {
            let every = {
                let mut sessions = lock(&self.sessions);
                sessions
                    .watched
                    .retain(|watched| !watched.ended.is_closed());
                let every = sessions.watched.iter().map(|watched| watched.every).min();
                sessions.is_polling = every.is_some() && !pool.is_closed();
                match every {
                    Some(every) if sessions.is_polling => every,
                    _ => {
                        sessions.watched.clear();
                        return;
                    }
                }
            };
            sleep(every).await;
            let asked: Vec<_> = {
                let sessions = lock(&self.sessions);
                let watched = sessions.watched.iter();
                watched.map(|watched| watched.session).collect()
            };
            // With all connections in use, this poll finds nothing.
            let found = timeout(MAX_POLL_INTERVAL, find_living(&pool, &asked)).await;
            if let Ok(Ok(living)) = found {
                lock(&self.sessions).report_ended(&asked, &living);
            }
        }
    }
}

/// Which of these sessions still exist.
async fn find_living(pool: &PgPool, sessions: &[Session]) -> Result<Vec<Session>, Error> {
    let mut known = String::from("(0, 0)");
    for Session { pid, began } in sessions {
        let _ = write!(known, ", ({pid}, {began})");
    }
    let query = format!(
        "SELECT pid, began FROM (\
            SELECT pid, coalesce((extract(epoch FROM backend_start) * 1000000)::bigint, 0) AS began \
            FROM pg_stat_get_activity(NULL)) AS sessions \
         WHERE (pid, began) IN ({known})"
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(pool).await?;
    rows.iter().map(Session::read).collect()
}

/// When to delete expired records.
#[derive(Default)]
struct Sweeps {
    runs: bool,
    /// `None`: now.
    next: Option<Instant>,
    progress: Progress,
    has_warned: bool,
}

impl Sweeps {
    /// Whether to sweep now: it is time to, and no sweep runs.
    fn begin(&mut self, every: Duration) -> bool {
        let now = Instant::now();
        if self.runs || self.next.is_some_and(|next| now < next) {
            return false;
        }
        // Processes do not sweep at the same time.
        let pause = every.mul_f64(rand::random_range(0.5..1.0));
        self.next = Some(now.checked_add(pause).unwrap_or(now));
        self.runs = true;
        true
    }
}

/// A sweep, until it ends or its runtime does.
struct Sweep(Arc<PoolState>);

impl Sweep {
    /// A sweep is bounded, so it does not keep the pool open for long.
    async fn run(self, connections: Connections) {
        let PoolState {
            sweeps, sweeper, ..
        } = &*self.0;
        let mut progress = lock(sweeps).progress.next();
        let swept = sweeper.sweep(&connections, MAX_SWEPT, &mut progress);
        let swept = swept.await;
        let mut sweeps = lock(sweeps);
        sweeps.progress = progress;
        match swept {
            // There are more, so the next sweep need not wait.
            Ok(MAX_SWEPT..) => sweeps.next = None,
            Ok(_) => {}
            Err(error @ StoreError::Rejected { .. }) => {
                sweeps.next = Instant::now().checked_add(PAUSE_AFTER_REFUSAL);
                if !std::mem::replace(&mut sweeps.has_warned, true) {
                    warn!(
                        target: "idem",
                        error = &error as &dyn std::error::Error,
                        "expired records are not deleted, and take up ever more space: the login lacks the right; grant it DELETE on idem_records, or let another process sweep"
                    );
                }
            }
            Err(error) => warn_of_failure(&error),
        }
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        lock(&self.0.sweeps).runs = false;
    }
}

#[derive(Default)]
struct Sessions {
    watched: Vec<Watched>,
    is_polling: bool,
}

struct Watched {
    session: Session,
    every: Duration,
    ended: oneshot::Sender<()>,
}

impl Sessions {
    fn report_ended(&mut self, asked: &[Session], living: &[Session]) {
        let is_gone = |session: &Session| asked.contains(session) && !living.contains(session);
        let (gone, watched) = std::mem::take(&mut self.watched)
            .into_iter()
            .partition(|watched: &Watched| is_gone(&watched.session));
        self.watched = watched;
        for Watched { ended, .. } in gone {
            let _ = ended.send(());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
