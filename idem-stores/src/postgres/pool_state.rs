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

use idem_core::Watch;
use sqlx::{AssertSqlSafe, Error, PgPool};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::hung_sessions::Session;
use crate::database::database_id;
use crate::sql::sweeping::SweepsOnUse;

/// The most pools. With more, all are forgotten, and known anew.
const MAX_POOLS: usize = 1024;

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
    pub(super) sweeps: Arc<SweepsOnUse>,
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
