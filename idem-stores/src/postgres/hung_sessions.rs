//! Sessions that hang and that no call waits for: a commit that waits for a standby that is away, a lock
//! that is not granted. Closing a connection does not end its session. If each one were replaced, the
//! replacements would use up all connections of the server. So a permit is free again when the server
//! has said that the session is gone. The server is asked over a separate connection, and told to
//! terminate such sessions.
//!
//! A session of the store's own is identified by the number of its process and the time when it began,
//! which mean nothing on another server. Of the application's connections, and behind a pooler that
//! shares sessions, only the beginning of their statements is known.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Error, PgPool, Row};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::errors::server_error;
use super::statement::{MARK, setting_millis};
use crate::backoff::Backoff;

/// Pauses between looks.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// A session of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    pub(super) pid: i32,
    /// When it began, in microseconds since 1970.
    pub(super) began: i64,
}

impl Session {
    /// Columns that identify a statement's own session; see [`Session::read`].
    pub(super) const OWN: &str = "pg_backend_pid() AS pid, \
        (SELECT (extract(epoch FROM backend_start) * 1000000)::bigint \
            FROM pg_stat_get_activity(pg_backend_pid())) AS began";

    pub(super) fn read(row: &PgRow) -> Result<Self, Error> {
        Ok(Self {
            pid: row.try_get("pid")?,
            began: row.try_get::<Option<_>, _>("began")?.unwrap_or_default(),
        })
    }
}

/// Where to connect to.
#[derive(Clone)]
pub(super) enum Address {
    Options(Box<PgConnectOptions>),
    OfPool(PgPool),
}

impl Address {
    pub(super) fn options(&self) -> PgConnectOptions {
        match self {
            Self::Options(options) => (**options).clone(),
            Self::OfPool(pool) => (*pool.connect_options()).clone(),
        }
    }
}

pub(super) struct HungSessions {
    address: Address,
    /// How long a statement may take.
    timeout: Duration,
    state: Mutex<State>,
    /// A session was added.
    added: Notify,
}

#[derive(Default)]
struct State {
    pending: BTreeMap<u64, Pending>,
    next_number: u64,
    is_running: bool,
}

struct Pending {
    /// `None`: every session with a statement of this process that takes too long.
    session: Option<Session>,
    since: Instant,
    /// The server was told to terminate it, or is about to be.
    is_terminating: bool,
    gone: oneshot::Sender<()>,
}

/// What one look has found.
#[derive(Default)]
struct Found {
    sessions: Vec<Session>,
    /// How many sessions have a statement of this process that takes too long.
    with_statements: usize,
}

/// A session that is being terminated. If this is dropped, no call waits for it any more.
pub(super) struct Termination<'a> {
    hung: &'a HungSessions,
    number: u64,
    is_gone: oneshot::Receiver<()>,
}

impl Termination<'_> {
    /// Resolves when the session is gone.
    pub(super) async fn gone(&mut self) {
        let _ = (&mut self.is_gone).await;
    }

    /// The session has answered after all. `true` if it goes on: the server was not told to terminate it.
    pub(super) fn withdraw(self) -> bool {
        let pending = self.hung.state().pending.remove(&self.number);
        pending.is_some_and(|pending| !pending.is_terminating)
    }
}

impl Drop for Termination<'_> {
    fn drop(&mut self) {
        self.hung.state().pending.remove(&self.number);
    }
}

impl HungSessions {
    pub(super) fn new(address: Address, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            address,
            timeout,
            state: Mutex::default(),
            added: Notify::new(),
        })
    }

    /// Terminates a session; if it is not known, all sessions with a statement that takes too long.
    pub(super) fn terminate(self: &Arc<Self>, session: Option<Session>) -> Termination<'_> {
        let (gone, is_gone) = oneshot::channel();
        let mut state = self.state();
        let number = state.next_number;
        state.next_number += 1;
        state.pending.insert(
            number,
            Pending {
                session,
                since: Instant::now(),
                is_terminating: false,
                gone,
            },
        );
        match std::mem::replace(&mut state.is_running, true) {
            true => self.added.notify_one(),
            false => drop(tokio::spawn(Arc::clone(self).run())),
        }
        Termination {
            hung: self,
            number,
            is_gone,
        }
    }

    /// Looks until no session is pending.
    async fn run(self: Arc<Self>) {
        let mut terminator = Terminator {
            connection: None,
            may_terminate: true,
            has_warned: false,
        };
        let mut looks = 1;
        while self.has_pending() {
            let began = timeout(self.timeout, self.terminate_once(&mut terminator)).await;
            if !matches!(began, Ok(Ok(()))) {
                terminator.connection = None;
            }
            // A session that was added need not wait as long as those that have hung for long.
            let added = timeout(BACKOFF.after(looks), self.added.notified()).await;
            if added.is_ok() {
                looks = 1;
                sleep(BACKOFF.after(looks)).await;
            }
            looks = looks.saturating_add(1);
        }
    }

    /// Whether the looks go on.
    fn has_pending(&self) -> bool {
        let mut state = self.state();
        state.is_running = !state.pending.is_empty();
        state.is_running
    }

    /// Terminates the pending sessions, and reports those that are gone.
    async fn terminate_once(&self, terminator: &mut Terminator) -> Result<(), Error> {
        if terminator.connection.is_none() {
            let options = self.address.options();
            terminator.connection = Some(PgConnection::connect_with(&options).await?);
        }
        let began = Instant::now();
        let (mut sessions, mut statements) = (Vec::new(), false);
        for pending in self.state().pending.values_mut() {
            pending.is_terminating = pending.session.is_some();
            sessions.extend(pending.session);
            statements |= pending.session.is_none();
        }
        let found = self.find(terminator, &sessions, statements).await?;
        terminator.warn(&found);
        let is_gone = |pending: &Pending| match &pending.session {
            Some(session) => sessions.contains(session) && !found.sessions.contains(session),
            // By then every statement that was sent before it was added would have taken too long.
            None => found.with_statements == 0 && began >= pending.since + self.timeout,
        };
        let gone: Vec<_> = {
            let mut state = self.state();
            let numbers = state.pending.iter();
            let numbers = numbers.filter(|(_, pending)| is_gone(pending));
            let numbers: Vec<_> = numbers.map(|(number, _)| *number).collect();
            let gone = numbers.iter();
            gone.filter_map(|number| state.pending.remove(number))
                .collect()
        };
        for Pending { gone, .. } in gone {
            let _ = gone.send(());
        }
        Ok(())
    }

    /// Terminates sessions, and returns those that are still there.
    async fn find(
        &self,
        terminator: &mut Terminator,
        sessions: &[Session],
        statements: bool,
    ) -> Result<Found, Error> {
        let query = self.query(sessions, statements, terminator.may_terminate);
        let connection = terminator.connection.as_mut().ok_or(Error::PoolClosed)?;
        let rows = sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(connection);
        let rows = match rows.await {
            Ok(rows) => rows,
            Err(error) => {
                let code = server_error(&error).map(|refusal| refusal.code());
                if code == Some(INSUFFICIENT_PRIVILEGE) {
                    terminator.may_terminate = false;
                }
                return Err(error);
            }
        };
        let mut found = Found::default();
        for row in &rows {
            if row.try_get("hangs")? {
                found.with_statements += 1;
            }
            found.sessions.push(Session::read(row)?);
        }
        Ok(found)
    }

    fn query(&self, sessions: &[Session], statements: bool, may_terminate: bool) -> String {
        let hangs = match statements {
            true => format!(
                "state = 'active' AND query LIKE '{}%' \
                 AND query_start <= clock_timestamp() - {} * interval '1 millisecond'",
                *MARK,
                setting_millis(self.timeout)
            ),
            false => "false".to_owned(),
        };
        let mut known = String::from("(0, 0)");
        for Session { pid, began } in sessions {
            let _ = write!(known, ", ({pid}, {began})");
        }
        let terminate = match may_terminate {
            true => "pg_terminate_backend(pid)",
            false => "false",
        };
        format!(
            "SELECT pid, began, hangs, {terminate} AS ended FROM (\
                SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint AS began, \
                    coalesce({hangs}, false) AS hangs \
                FROM pg_stat_get_activity(NULL) WHERE pid <> pg_backend_pid()) AS sessions \
             WHERE hangs OR (pid, began) IN ({known})"
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Terminator {
    connection: Option<PgConnection>,
    /// Whether this login may terminate its own sessions.
    may_terminate: bool,
    has_warned: bool,
}

impl Terminator {
    fn warn(&mut self, found: &Found) {
        let count = found.sessions.len();
        if count == 0 || self.has_warned {
            return;
        }
        self.has_warned = true;
        warn!(
            target: "idem",
            sessions = count,
            may_terminate = self.may_terminate,
            "sessions of the postgres store hang and are terminated; their connections are not replaced until the server has said that they are gone"
        );
    }
}

impl fmt::Debug for HungSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HungSessions").finish_non_exhaustive()
    }
}
