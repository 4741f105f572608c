//! What this process knows of each pool of the application's, for as long as it runs: when expired
//! records were last deleted through it, and which of its sessions are in an attempt's transaction
//! that their server may end by itself.
//!
//! Pools cannot hold anything of ours, and transactions know nothing but their pool.

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
use super::hung::Session;
use super::sweeping::{Progress, Sweeper, has_failed};
use crate::database::database_id;

/// How many pools are known. A process that has had more knows them anew.
const MOST: usize = 1024;

/// How many records one sweep between other work deletes at most.
const SWEPT_AT_ONCE: u64 = 10_000;

/// How long nothing is deleted after the server has refused it.
const AFTER_REFUSAL: Duration = Duration::from_secs(60 * 60);

/// How soon the end of a session is noticed: half of what the server waits, within these.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(5);

static POOLS: LazyLock<Mutex<HashMap<Vec<u8>, Arc<OfPool>>>> = LazyLock::new(Mutex::default);

/// Where a pool leads: the pool, and what it connects to.
pub(super) fn id_of_database(pool: &PgPool) -> Vec<u8> {
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
pub(super) struct OfPool {
    sweeps: Mutex<Sweeps>,
    sweeper: Sweeper,
    sessions: Mutex<Sessions>,
}

impl OfPool {
    pub(super) fn of(pool: &PgPool) -> Arc<Self> {
        let mut pools = lock(&POOLS);
        if pools.len() >= MOST {
            pools.clear();
        }
        Arc::clone(pools.entry(id_of_database(pool)).or_default())
    }

    /// Deletes expired records in the background, where it is time to.
    pub(super) fn sweep_in_time(
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
            every: (limit / 2).clamp(SOONEST, LATEST),
            ended,
        });
        if !std::mem::replace(&mut sessions.looks, true) {
            tokio::spawn(Arc::clone(self).look(pool.clone()));
        }
        Watch::new(async move {
            if has_ended.await.is_err() {
                std::future::pending().await
            }
        })
    }

    /// Looks for as long as a session is watched: with one connection for all of them, for as long as
    /// one statement takes.
    async fn look(self: Arc<Self>, pool: PgPool) {
        loop {
            let every = {
                let mut sessions = lock(&self.sessions);
                sessions
                    .watched
                    .retain(|watched| !watched.ended.is_closed());
                let every = sessions.watched.iter().map(|watched| watched.every).min();
                sessions.looks = every.is_some() && !pool.is_closed();
                match every {
                    Some(every) if sessions.looks => every,
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
            // A pool whose connections are all taken says nothing now.
            let found = timeout(LATEST, living(&pool, &asked)).await;
            if let Ok(Ok(living)) = found {
                lock(&self.sessions).tell(&asked, &living);
            }
        }
    }
}

/// Which of these sessions are still there.
async fn living(pool: &PgPool, sessions: &[Session]) -> Result<Vec<Session>, Error> {
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
    /// `None`: at once.
    next: Option<Instant>,
    progress: Progress,
    has_warned: bool,
}

impl Sweeps {
    /// Whether to sweep now: it is time to, and nobody does.
    fn begin(&mut self, every: Duration) -> bool {
        let now = Instant::now();
        if self.runs || self.next.is_some_and(|next| now < next) {
            return false;
        }
        // Processes do not sweep at once.
        let pause = every.mul_f64(rand::random_range(0.5..1.0));
        self.next = Some(now.checked_add(pause).unwrap_or(now));
        self.runs = true;
        true
    }
}

/// A sweep, until it ends or its runtime does.
struct Sweep(Arc<OfPool>);

impl Sweep {
    /// Bounded: it does not keep the pool for long.
    async fn run(self, connections: Connections) {
        let OfPool {
            sweeps, sweeper, ..
        } = &*self.0;
        let mut progress = lock(sweeps).progress.next();
        let swept = sweeper.sweep(&connections, SWEPT_AT_ONCE, &mut progress);
        let swept = swept.await;
        let mut sweeps = lock(sweeps);
        sweeps.progress = progress;
        match swept {
            // There are more, and the next one need not wait.
            Ok(SWEPT_AT_ONCE..) => sweeps.next = None,
            Ok(_) => {}
            Err(error @ StoreError::Rejected { .. }) => {
                sweeps.next = Instant::now().checked_add(AFTER_REFUSAL);
                if !std::mem::replace(&mut sweeps.has_warned, true) {
                    warn!(
                        target: "idem",
                        error = &error as &dyn std::error::Error,
                        "expired records are not deleted, and take up ever more room: the login may not; grant it DELETE on idem_records, or have another one sweep"
                    );
                }
            }
            Err(error) => has_failed(&error),
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
    looks: bool,
}

struct Watched {
    session: Session,
    every: Duration,
    ended: oneshot::Sender<()>,
}

impl Sessions {
    fn tell(&mut self, asked: &[Session], living: &[Session]) {
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
