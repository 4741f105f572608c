//! Connections of the store's own: opened when they are needed, and kept.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Error, Row};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::errors::refuses_start_up_options;
use super::gate::Turn;
use super::hung::Session;
use super::statement::in_settings;

/// Pauses between attempts to connect while a server is away: doubled from the first to the
/// last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(320);

/// How long a connection is kept: load spreads again after a server was added, and what a server
/// process has grown by is given back.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 60);

/// How long one that nobody needs is kept.
const LONGEST_REST: Duration = Duration::from_secs(10 * 60);

/// How sessions come by their settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum SettingsBy {
    /// They have none: their settings are not the store's alone.
    Nothing,
    /// With the connection's start, which costs no round trip and leaves nothing behind.
    StartUp,
    /// A statement, where a pooler lets no options pass and each session is one client's.
    Statement,
}

impl SettingsBy {
    const ALL: [Self; 3] = [Self::Nothing, Self::StartUp, Self::Statement];
}

pub(super) struct Own {
    options: PgConnectOptions,
    timeout: Duration,
    settings_by: AtomicU8,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    /// Those that rest. The last one has answered last.
    idle: Vec<Rested>,
    /// Attempts to connect that have failed since one succeeded.
    failed: u32,
}

struct Rested {
    line: Line,
    answered: Instant,
}

/// An open connection.
pub(super) struct Line {
    pub(super) connection: PgConnection,
    /// Where sessions are the store's own.
    pub(super) session: Option<Session>,
    opened: Instant,
}

/// A connection, and the right to have it.
pub(super) struct Taken {
    pub(super) line: Line,
    pub(super) turn: Turn,
}

impl Own {
    pub(super) fn new(options: PgConnectOptions, timeout: Duration) -> Self {
        Self {
            options,
            timeout,
            settings_by: AtomicU8::new(SettingsBy::Nothing as u8),
            shelf: Mutex::default(),
        }
    }

    pub(super) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    fn settings_by(&self) -> SettingsBy {
        SettingsBy::ALL[usize::from(self.settings_by.load(Ordering::Relaxed))]
    }

    pub(super) fn set_by(&self, settings_by: SettingsBy) {
        self.settings_by.store(settings_by as u8, Ordering::Relaxed);
    }

    /// A connection that rests, or a new one.
    pub(super) async fn take(self: &Arc<Self>, turn: Turn) -> Result<Taken, Error> {
        let rested = self.shelf().take();
        if let Some(line) = rested {
            return Ok(Taken { line, turn });
        }
        // On a task of its own, which goes on when the call that began it is dropped: otherwise
        // callers who have waited for long would each begin what they have no time to end.
        let (opened, opening) = oneshot::channel();
        let own = Arc::clone(self);
        tokio::spawn(async move {
            let result = own.open().await.map(|line| Taken { line, turn });
            if let Err(Ok(unclaimed)) = opened.send(result) {
                own.give_back(unclaimed);
            }
        });
        opening.await.unwrap_or(Err(Error::PoolClosed))
    }

    /// Takes back a connection that has just answered.
    pub(super) fn give_back(&self, taken: Taken) {
        let now = Instant::now();
        let mut shelf = self.shelf();
        shelf.idle.push(Rested {
            line: taken.line,
            answered: now,
        });
        // The first has rested longest.
        if now.duration_since(shelf.idle[0].answered) > LONGEST_REST {
            drop(shelf.idle.remove(0));
        }
        drop(shelf);
        // Whoever has it next finds the connection.
        drop(taken.turn);
    }

    /// Those that have not answered since: another one has failed, and they may have, too.
    pub(super) fn doubted(&self, since: Instant) -> Vec<Line> {
        let mut shelf = self.shelf();
        let (sound, doubted): (Vec<_>, Vec<_>) = std::mem::take(&mut shelf.idle)
            .into_iter()
            .partition(|rested| rested.answered > since);
        shelf.idle = sound;
        drop(shelf);
        doubted.into_iter().map(|rested| rested.line).collect()
    }

    async fn open(&self) -> Result<Line, Error> {
        // Whoever waits for it has time left.
        let pause = self.shelf().pause().min(self.timeout / 4);
        sleep(pause).await;
        let opened = timeout(self.timeout, self.open_now()).await;
        let opened = opened.unwrap_or(Err(Error::PoolTimedOut));
        let mut shelf = self.shelf();
        shelf.failed = match opened {
            Ok(_) => 0,
            Err(_) => shelf.failed.saturating_add(1),
        };
        opened
    }

    async fn open_now(&self) -> Result<Line, Error> {
        let opened = Instant::now();
        let settings_by = self.settings_by();
        let with_options = settings_by == SettingsBy::StartUp;
        let mut connection = match self.connect(with_options).await {
            Err(error) if with_options && refuses_start_up_options(&error) => {
                // Somebody has put a pooler in between since the store was connected. Whose its
                // sessions are is not known, so nothing is set in them.
                warn!(
                    target: "idem",
                    "a pooler now refuses the options that the postgres store starts its sessions with; it goes on without them"
                );
                self.set_by(SettingsBy::Nothing);
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
        Ok(Line {
            connection,
            session,
            opened,
        })
    }

    /// Connects, and asks for the store's settings on the way, or not.
    pub(super) async fn connect(&self, with_options: bool) -> Result<PgConnection, Error> {
        if !with_options {
            return PgConnection::connect_with(&self.options).await;
        }
        let settings = self.settings();
        PgConnection::connect_with(&self.options.clone().options(settings)).await
    }

    /// A plan that was made while the table was small would read all of it, and is kept until the
    /// statistics say otherwise. Nothing here is worth compiling. And what a caller has given up is
    /// not carried out much later.
    fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("enable_seqscan", "off".to_owned()),
            ("jit", "off".to_owned()),
            ("statement_timeout", in_settings(self.timeout).to_string()),
        ]
    }

    fn set_statements(&self) -> String {
        let settings = self.settings().into_iter();
        settings
            .map(|(name, value)| format!("SET {name} = {value}; "))
            .collect()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's session, after these statements in the same message, and whether it has the
/// store's settings.
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

impl Shelf {
    fn take(&mut self) -> Option<Line> {
        while let Some(Rested { line, .. }) = self.idle.pop() {
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
