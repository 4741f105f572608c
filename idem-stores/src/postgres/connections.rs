//! Where calls get their connections from, and how a call uses its connection. Knows nothing of records.
//!
//! The store's own connections are not in a pool of the driver's. That pool asks the server whenever a
//! connection comes back whether it still answers, which is half of the cost of a replay. It waits
//! without limit for that answer (a server that vanished without a word keeps a connection for a quarter
//! of an hour). And it hands out dead connections one after the other when a server was restarted. A pool
//! of the application's is used as it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use idem_core::{StoreError, Token};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{Error, PgPool, Postgres};
use tokio::time::{Instant, timeout_at};

use super::NAME;
use super::checkout::{Checkout, Recovery};
use super::errors::{connect_error, is_serialization_failure, store_error};
use super::hung_sessions::{Address, HungSessions};
use super::sessions::{OwnPool, Sessions, session};
use super::statement::{Limits, Protocol, Statement};
use super::target::{Pooler, Settings};
use crate::ConnectError;
use crate::sql::application_pool::{ApplicationPool, max_size, reserved_size};
use crate::sql::borrowed::Source;
use crate::sql::conflicts::Conflicts;
use crate::sql::errors::{Sent, silence};
use crate::sql::gate::{Gate, Lane};

/// The fewest connections of the store's own: one for lease holders, and one for other calls.
const MIN_CONNECTIONS: usize = 2;

/// Where connections come from. Clones share them.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    source: Source<Sessions, Postgres>,
    gate: Arc<Gate>,
    recovery: Arc<Recovery>,
    protocol: Protocol,
    timeout: Duration,
}

impl Connections {
    pub(super) fn own(options: PgConnectOptions, settings: &Settings) -> Self {
        let permits = settings.max_connections.max(MIN_CONNECTIONS);
        let for_holders = (permits / 4).max(1);
        let timeout = settings.timeout;
        let address = Address::Options(Box::new(options.clone()));
        let gate = Gate::new(permits, permits - for_holders, settings.max_waiting);
        Self(Arc::new(Inner {
            source: Source::Own(Arc::new(OwnPool::new(
                Sessions::new(options, timeout),
                timeout,
            ))),
            recovery: Recovery::new(&gate, HungSessions::new(address, timeout), timeout),
            gate,
            protocol: match settings.pooler {
                Pooler::Session => Protocol::Prepared,
                Pooler::Transaction => Protocol::Simple,
            },
            timeout,
        }))
    }

    pub(super) fn of_application(pool: PgPool, settings: &Settings) -> Self {
        let permits = max_size(&pool).max(1);
        let timeout = settings.timeout;
        let for_others = permits - reserved_size(permits);
        let gate = Gate::new(permits, for_others, settings.max_waiting);
        let hung = HungSessions::new(Address::OfPool(pool.clone()), timeout);
        Self(Arc::new(Inner {
            source: Source::Application(ApplicationPool::new(pool)),
            recovery: Recovery::new(&gate, hung, timeout),
            gate,
            protocol: match settings.pooler {
                Pooler::Session => Protocol::PreparedMarked,
                Pooler::Transaction => Protocol::Simple,
            },
            timeout,
        }))
    }

    /// How long a call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Whether a session belongs to one client for as long as its connection is open.
    pub(super) fn have_sessions(&self) -> bool {
        self.0.protocol != Protocol::Simple
    }

    /// How to connect to the same server.
    pub(super) fn options(&self) -> PgConnectOptions {
        match &self.0.source {
            Source::Own(pool) => pool.opener().options().clone(),
            Source::Application(pool) => (*pool.pool().connect_options()).clone(),
        }
    }

    /// The store's own connections, if it has some.
    pub(super) fn own_pool(&self) -> Option<&Arc<OwnPool>> {
        match &self.0.source {
            Source::Own(pool) => Some(pool),
            Source::Application(_) => None,
        }
    }

    /// The application's pool, if the store uses one.
    pub(super) fn application_pool(&self) -> Option<&PgPool> {
        match &self.0.source {
            Source::Own(_) => None,
            Source::Application(pool) => Some(pool.pool()),
        }
    }

    /// Notes that a lease is held from now on, for this long at most.
    pub(super) fn note_lease(&self, token: &Token, lease: Duration) {
        if let Source::Application(pool) = &self.0.source {
            pool.note_lease(token, lease);
        }
    }

    /// Notes that a lease has ended.
    pub(super) fn note_lease_end(&self, token: &Token) {
        if let Source::Application(pool) = &self.0.source {
            pool.note_lease_end(token);
        }
    }

    /// Begins a call: waits for a connection.
    pub(super) async fn begin(&self, lane: Lane) -> Result<Call, StoreError> {
        let Inner { gate, timeout, .. } = &*self.0;
        let (permit, deadline) = gate.enter(NAME, lane, *timeout).await?;
        let borrowed = timeout_at(deadline, self.0.source.check_out(lane, permit)).await;
        let borrowed = borrowed.unwrap_or(Err(Error::PoolTimedOut));
        let borrowed = borrowed.map_err(|error| store_error(error, Sent::Nothing))?;
        Ok(Call {
            checkout: Checkout::new(borrowed, &self.0.recovery),
            deadline,
            protocol: self.0.protocol,
            timeout: *timeout,
        })
    }

    /// Runs a statement until `read` finds an answer in its row.
    pub(super) async fn run<'q, T>(
        &self,
        lane: Lane,
        statement: &Statement<'q>,
        read: impl Fn(&PgRow) -> Result<Option<T>, Error>,
    ) -> Result<T, StoreError> {
        let mut call = self.begin(lane).await?;
        let answer = call.run(statement, read).await;
        call.finish(answer)
    }

    /// Uses a connection without a time limit, and closes it if that fails or is dropped.
    pub(super) async fn with<T>(
        &self,
        used: impl AsyncFnOnce(&mut PgConnection) -> Result<T, ConnectError>,
    ) -> Result<T, ConnectError> {
        let Call { mut checkout, .. } =
            self.begin(Lane::Other).await.map_err(ConnectError::Store)?;
        if self.have_sessions() && !checkout.has_known_session() {
            // If the call is dropped, a session that is known can be ended at once.
            let found = session(checkout.connection().map_err(connect_error)?, "").await;
            checkout.set_session(found.map_err(connect_error)?.0);
        }
        checkout.runs_many_statements();
        let answer = used(checkout.connection().map_err(connect_error)?).await;
        checkout.close_unless(answer.is_ok());
        answer
    }
}

/// A call that has its connection.
pub(super) struct Call {
    checkout: Checkout,
    deadline: Instant,
    protocol: Protocol,
    timeout: Duration,
}

impl Call {
    /// Runs a statement until `read` finds an answer in its row. `Ok(None)` means to run it again. So
    /// does a transaction that was rolled back because of a concurrent one.
    pub(super) async fn run<'q, T>(
        &mut self,
        statement: &Statement<'q>,
        read: impl Fn(&PgRow) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut conflicts = Conflicts::default();
        loop {
            match self.run_once(statement, &read).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) if is_serialization_failure(&error) => {
                    conflicts.pause(error, self.deadline, self.timeout).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs a statement once.
    pub(super) async fn run_once<'q, T>(
        &mut self,
        statement: &Statement<'q>,
        read: impl Fn(&PgRow) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let limits = Limits {
            timeout: statement.time_limit(self.timeout),
        };
        let connection = self.checkout.begin_statement()?;
        let row = statement.run(connection, self.protocol, Some(limits));
        let silent = |_| Err(silence());
        let row = timeout_at(self.deadline, row).await.unwrap_or_else(silent);
        read(&row?)
    }

    /// Runs a statement whose answer has many rows.
    pub(super) async fn run_for_rows(
        &mut self,
        statement: &Statement<'_>,
    ) -> Result<Vec<PgRow>, Error> {
        let mut conflicts = Conflicts::default();
        loop {
            match self.run_once_for_rows(statement).await {
                Err(error) if is_serialization_failure(&error) => {
                    conflicts.pause(error, self.deadline, self.timeout).await?;
                }
                answer => return answer,
            }
        }
    }

    async fn run_once_for_rows(&mut self, statement: &Statement<'_>) -> Result<Vec<PgRow>, Error> {
        let limits = Limits {
            timeout: statement.time_limit(self.timeout),
        };
        let connection = self.checkout.begin_statement()?;
        let rows = statement.run_for_rows(connection, self.protocol, Some(limits));
        let silent = |_| Err(silence());
        timeout_at(self.deadline, rows).await.unwrap_or_else(silent)
    }

    /// Ends the call.
    pub(super) fn finish<T>(self, answer: Result<T, Error>) -> Result<T, StoreError> {
        self.checkout.end(answer.as_ref().err());
        answer.map_err(|error| store_error(error, Sent::Maybe))
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.0.source {
            Source::Own(_) => "own",
            Source::Application(_) => "pool",
        };
        f.debug_struct("Connections")
            .field("source", &source)
            .field("protocol", &self.0.protocol)
            .field("timeout", &self.0.timeout)
            .finish_non_exhaustive()
    }
}
