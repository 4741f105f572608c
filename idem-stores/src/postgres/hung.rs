//! Sessions that nobody waits for and that have not ended: a commit that waits for a standby that is
//! away, a lock that is not given. Closing their connection does not end them, and where each is
//! replaced by another one they take all that the server has. So their place is free again when
//! the server has said that they are gone; it is asked, over a connection beside all others, and
//! told to end them.
//!
//! A session of the store's own is known by the number of its process and by when it began, which
//! mean nothing on another server. Of the application's connections, and behind a pooler that
//! shares sessions, no more is known than what their statements begin with.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Error, PgPool, Row};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::errors::of_the_server;
use super::statement::{MARK, in_settings};

/// Pauses between looks: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// A session of the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Session {
    pub(super) pid: i32,
    /// When it began, in microseconds since 1970.
    pub(super) began: i64,
}

impl Session {
    /// Columns of a statement's own session: see [`Session::read`].
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
pub(super) enum Place {
    Options(Box<PgConnectOptions>),
    OfPool(PgPool),
}

impl Place {
    pub(super) fn options(&self) -> PgConnectOptions {
        match self {
            Self::Options(options) => (**options).clone(),
            Self::OfPool(pool) => (*pool.connect_options()).clone(),
        }
    }
}

pub(super) struct Hung {
    place: Place,
    /// How long a statement may take.
    timeout: Duration,
    state: Mutex<State>,
    /// Another session is to end.
    another: Notify,
}

#[derive(Default)]
struct State {
    awaited: BTreeMap<u64, Awaited>,
    next_number: u64,
    looks: bool,
}

struct Awaited {
    /// `None`: any statement of this process that takes longer than it may.
    session: Option<Session>,
    since: Instant,
    /// The server has been told to end it, or is about to be.
    is_condemned: bool,
    gone: oneshot::Sender<()>,
}

/// What a look has found.
#[derive(Default)]
struct Found {
    sessions: Vec<Session>,
    /// Sessions with a statement of this process's that takes too long.
    with_statements: usize,
}

/// A session that is to end. Dropped, nobody waits for it any more.
pub(super) struct Ending<'a> {
    hung: &'a Hung,
    number: u64,
    is_gone: oneshot::Receiver<()>,
}

impl Ending<'_> {
    /// Resolves when the session is gone.
    pub(super) async fn gone(&mut self) {
        let _ = (&mut self.is_gone).await;
    }

    /// It has answered after all. Whether it goes on: the server may have been told to end it.
    pub(super) fn withdraw(self) -> bool {
        let awaited = self.hung.state().awaited.remove(&self.number);
        awaited.is_some_and(|awaited| !awaited.is_condemned)
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.hung.state().awaited.remove(&self.number);
    }
}

impl Hung {
    pub(super) fn new(place: Place, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            place,
            timeout,
            state: Mutex::default(),
            another: Notify::new(),
        })
    }

    /// Ends a session, or where it is not known, all those with a statement that takes longer than
    /// it may.
    pub(super) fn end(self: &Arc<Self>, session: Option<Session>) -> Ending<'_> {
        let (gone, is_gone) = oneshot::channel();
        let mut state = self.state();
        let number = state.next_number;
        state.next_number += 1;
        state.awaited.insert(
            number,
            Awaited {
                session,
                since: Instant::now(),
                is_condemned: false,
                gone,
            },
        );
        match std::mem::replace(&mut state.looks, true) {
            true => self.another.notify_one(),
            false => drop(tokio::spawn(Arc::clone(self).look())),
        }
        Ending {
            hung: self,
            number,
            is_gone,
        }
    }

    /// Looks until nobody waits for an answer.
    async fn look(self: Arc<Self>) {
        let mut looking = Looking {
            connection: None,
            may_end: true,
            has_warned: false,
        };
        let mut pause = FIRST_PAUSE;
        while self.is_awaited() {
            let looked = timeout(self.timeout, self.look_once(&mut looking)).await;
            if !matches!(looked, Ok(Ok(()))) {
                looking.connection = None;
            }
            // It need not wait for as long as those that have hung for long.
            if timeout(pause, self.another.notified()).await.is_ok() {
                pause = FIRST_PAUSE;
                sleep(pause).await;
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Whether the look goes on.
    fn is_awaited(&self) -> bool {
        let mut state = self.state();
        state.looks = !state.awaited.is_empty();
        state.looks
    }

    /// Ends what is to end, and tells those whose session is gone.
    async fn look_once(&self, looking: &mut Looking) -> Result<(), Error> {
        if looking.connection.is_none() {
            let options = self.place.options();
            looking.connection = Some(PgConnection::connect_with(&options).await?);
        }
        let looked = Instant::now();
        let (mut sessions, mut statements) = (Vec::new(), false);
        for awaited in self.state().awaited.values_mut() {
            awaited.is_condemned = awaited.session.is_some();
            sessions.extend(awaited.session);
            statements |= awaited.session.is_none();
        }
        let found = self.find(looking, &sessions, statements).await?;
        looking.warn(&found);
        let is_gone = |awaited: &Awaited| match &awaited.session {
            Some(session) => sessions.contains(session) && !found.sessions.contains(session),
            // Whatever was sent before it came would have taken too long by then.
            None => found.with_statements == 0 && looked >= awaited.since + self.timeout,
        };
        let gone: Vec<_> = {
            let mut state = self.state();
            let numbers = state.awaited.iter();
            let numbers = numbers.filter(|(_, awaited)| is_gone(awaited));
            let numbers: Vec<_> = numbers.map(|(number, _)| *number).collect();
            let gone = numbers.iter();
            gone.filter_map(|number| state.awaited.remove(number))
                .collect()
        };
        for Awaited { gone, .. } in gone {
            let _ = gone.send(());
        }
        Ok(())
    }

    /// Ends them, and says which are still there.
    async fn find(
        &self,
        looking: &mut Looking,
        sessions: &[Session],
        statements: bool,
    ) -> Result<Found, Error> {
        let query = self.query(sessions, statements, looking.may_end);
        let connection = looking.connection.as_mut().ok_or(Error::PoolClosed)?;
        let rows = sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(connection);
        let rows = match rows.await {
            Ok(rows) => rows,
            Err(error) => {
                let code = of_the_server(&error).map(|refusal| refusal.code());
                if code == Some(INSUFFICIENT_PRIVILEGE) {
                    looking.may_end = false;
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

    fn query(&self, sessions: &[Session], statements: bool, may_end: bool) -> String {
        let hangs = match statements {
            true => format!(
                "state = 'active' AND query LIKE '{}%' \
                 AND query_start <= clock_timestamp() - {} * interval '1 millisecond'",
                *MARK,
                in_settings(self.timeout)
            ),
            false => "false".to_owned(),
        };
        let mut known = String::from("(0, 0)");
        for Session { pid, began } in sessions {
            let _ = write!(known, ", ({pid}, {began})");
        }
        let end = match may_end {
            true => "pg_terminate_backend(pid)",
            false => "false",
        };
        format!(
            "SELECT pid, began, hangs, {end} AS ended FROM (\
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

struct Looking {
    connection: Option<PgConnection>,
    /// Whether this login may end its own sessions.
    may_end: bool,
    has_warned: bool,
}

impl Looking {
    fn warn(&mut self, found: &Found) {
        let count = found.sessions.len();
        if count == 0 || self.has_warned {
            return;
        }
        self.has_warned = true;
        warn!(
            target: "idem",
            sessions = count,
            may_end = self.may_end,
            "sessions of the postgres store hang and are ended; their connections are not replaced until the server has said that they are gone"
        );
    }
}

impl fmt::Debug for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hung").finish_non_exhaustive()
    }
}
