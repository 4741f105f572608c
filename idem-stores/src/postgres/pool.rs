//! The store's own connections: opened when they are needed, and kept.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Error, Row};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::errors::refuses_start_up_options;
use super::gate::Permit;
use super::hung_sessions::Session;
use super::statement::setting_millis;
use crate::backoff::Backoff;

/// Pauses between attempts to connect while a server is away.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(320));

/// How long a connection is kept. Then load spreads to servers that were added, and the memory of the
/// server's process is freed.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// How long a connection is kept that no call needs.
const MAX_IDLE: Duration = Duration::from_secs(10 * 60);

/// How sessions get the store's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum SettingsBy {
    /// Not at all: sessions may be shared with other clients.
    Nothing,
    /// With the start-up message, which costs no round trip and leaves nothing behind.
    StartUp,
    /// By a statement: a pooler refuses start-up options, and each session is one client's.
    Statement,
}

impl SettingsBy {
    const ALL: [Self; 3] = [Self::Nothing, Self::StartUp, Self::Statement];
}

pub(super) struct Pool {
    options: PgConnectOptions,
    timeout: Duration,
    settings_by: AtomicU8,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// The last one has answered last.
    connections: Vec<IdleConnection>,
    /// Attempts to connect that have failed since one succeeded.
    failures: u32,
}

struct IdleConnection {
    open: OpenConnection,
    answered: Instant,
}

/// An open connection.
pub(super) struct OpenConnection {
    pub(super) connection: PgConnection,
    /// Known if sessions are the store's own.
    pub(super) session: Option<Session>,
    opened: Instant,
}

/// A connection, and the permit to use it.
pub(super) struct PooledConnection {
    pub(super) open: OpenConnection,
    pub(super) permit: Permit,
}

impl Pool {
    pub(super) fn new(options: PgConnectOptions, timeout: Duration) -> Self {
        Self {
            options,
            timeout,
            settings_by: AtomicU8::new(SettingsBy::Nothing as u8),
            idle: Mutex::default(),
        }
    }

    pub(super) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    fn settings_by(&self) -> SettingsBy {
        SettingsBy::ALL[usize::from(self.settings_by.load(Ordering::Relaxed))]
    }

    pub(super) fn set_settings_by(&self, settings_by: SettingsBy) {
        self.settings_by.store(settings_by as u8, Ordering::Relaxed);
    }

    /// An idle connection, or a new one.
    pub(super) async fn check_out(
        self: &Arc<Self>,
        permit: Permit,
    ) -> Result<PooledConnection, Error> {
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
    pub(super) fn check_in(&self, pooled: PooledConnection) {
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
    pub(super) fn evict_older_than(&self, since: Instant) -> Vec<OpenConnection> {
        let mut idle = self.idle();
        let (newer, older): (Vec<_>, Vec<_>) = std::mem::take(&mut idle.connections)
            .into_iter()
            .partition(|idle| idle.answered > since);
        idle.connections = newer;
        drop(idle);
        older.into_iter().map(|idle| idle.open).collect()
    }

    async fn open(&self) -> Result<OpenConnection, Error> {
        // A call that waits for it has time left.
        let pause = BACKOFF.after(self.idle().failures);
        let pause = pause.min(self.timeout / 4);
        sleep(pause).await;
        let opened = timeout(self.timeout, self.open_now()).await;
        let opened = opened.unwrap_or(Err(Error::PoolTimedOut));
        let mut idle = self.idle();
        idle.failures = match opened {
            Ok(_) => 0,
            Err(_) => idle.failures.saturating_add(1),
        };
        opened
    }

    async fn open_now(&self) -> Result<OpenConnection, Error> {
        let opened = Instant::now();
        let settings_by = self.settings_by();
        let with_options = settings_by == SettingsBy::StartUp;
        let mut connection = match self.connect(with_options).await {
            Err(error) if with_options && refuses_start_up_options(&error) => {
                // A pooler was put in between after the store had connected. Its sessions may be shared,
                // so nothing is set in them.
                warn!(
                    target: "idem",
                    "a pooler now refuses the options that the postgres store starts its sessions with; it goes on without them"
                );
                self.set_settings_by(SettingsBy::Nothing);
                self.connect(false).await?
            }
            connected => connected?,
        };
        let session = match settings_by {
            SettingsBy::Nothing => None,
            SettingsBy::StartUp => Some(session(&mut connection, "").await?.0),
            SettingsBy::Statement => {
                Some(session(&mut connection, &self.set_statements()).await?.0)
            }
        };
        Ok(OpenConnection {
            connection,
            session,
            opened,
        })
    }

    /// Connects, with or without the store's settings as start-up options.
    pub(super) async fn connect(&self, with_options: bool) -> Result<PgConnection, Error> {
        if !with_options {
            return PgConnection::connect_with(&self.options).await;
        }
        let settings = self.settings();
        PgConnection::connect_with(&self.options.clone().options(settings)).await
    }

    /// Without sequential scans, because a plan for a small table would scan all of it, and be kept until
    /// the statistics change. Without compilation, which never pays here. And with a timeout, so that a
    /// statement does not take effect long after its caller has given up.
    fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("enable_seqscan", "off".to_owned()),
            ("jit", "off".to_owned()),
            (
                "statement_timeout",
                setting_millis(self.timeout).to_string(),
            ),
        ]
    }

    fn set_statements(&self) -> String {
        let settings = self.settings().into_iter();
        settings
            .map(|(name, value)| format!("SET {name} = {value}; "))
            .collect()
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session of a connection, and whether it has the store's settings. The message begins with `after`.
pub(super) async fn session(
    connection: &mut PgConnection,
    after: &str,
) -> Result<(Session, bool), Error> {
    let ask = format!(
        "{after}SELECT {}, current_setting('enable_seqscan') = 'off' \
            AND current_setting('jit') = 'off' AS is_set",
        Session::OWN
    );
    let row = sqlx::raw_sql(AssertSqlSafe(ask))
        .fetch_one(connection)
        .await?;
    Ok((Session::read(&row)?, row.try_get("is_set")?))
}

impl Idle {
    fn take(&mut self) -> Option<OpenConnection> {
        while let Some(IdleConnection { open, .. }) = self.connections.pop() {
            if open.opened.elapsed() < MAX_LIFETIME {
                return Some(open);
            }
        }
        None
    }
}
