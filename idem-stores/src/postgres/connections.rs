//! Connections on loan: one per call, for as long as its statement takes. Knows nothing of
//! records.
//!
//! The store's own are not in a pool of the driver's. That one asks the server, whenever a
//! connection comes back, whether it still answers, which is half of what a replay costs; waits
//! without a limit where it does not (a server that vanished without a word keeps a connection
//! for a quarter of an hour); and hands dead ones out one after the other when a server was
//! restarted. A pool of the application's is used as it is.
//!
//! A call that is dropped leaves an answer under way. The driver counts the answers that it is
//! owed and reads them all before it sends more (`wait_until_ready` in sqlx-postgres 0.9), so
//! none is ever taken for another's. Here such a connection is lent again once it has done so, and
//! closed where that takes longer than a call may.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use idem_core::StoreError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, PgPool, Postgres};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::errors::{has_met_another, is_of_the_connection, schema_error, store_error};
use super::own::{Own, Taken};
use crate::ConnectError;

/// The longest pause before a statement that met another one is sent again.
const LAST_PAUSE: Duration = Duration::from_millis(50);

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Where connections come from. Clones share them.
#[derive(Clone)]
pub(super) struct Connections {
    source: Source,
    timeout: Duration,
}

#[derive(Clone)]
enum Source {
    Own(Arc<Own>),
    Pool(PgPool),
}

impl Connections {
    pub(super) fn own(
        options: PgConnectOptions,
        max_connections: usize,
        timeout: Duration,
    ) -> Self {
        let own = Own::new(options, max_connections, timeout);
        Self {
            source: Source::Own(Arc::new(own)),
            timeout,
        }
    }

    pub(super) const fn of_pool(pool: PgPool, timeout: Duration) -> Self {
        Self {
            source: Source::Pool(pool),
            timeout,
        }
    }

    /// How long a call may take.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How to connect to the same server.
    pub(super) fn options(&self) -> PgConnectOptions {
        match &self.source {
            Source::Own(own) => own.options().clone(),
            Source::Pool(pool) => pool.connect_options().as_ref().clone(),
        }
    }

    /// Sends a statement until `read` finds an answer in its row: `Ok(None)` is to ask again,
    /// and so is a transaction that met another one and was rolled back. All of it is within the
    /// timeout.
    pub(super) async fn ask<'q, T>(
        &self,
        statement: impl Fn() -> Statement<'q>,
        read: impl Fn(Option<PgRow>) -> Result<Option<T>, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let now = Instant::now();
        let deadline = now.checked_add(self.timeout);
        let deadline = deadline.unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()));
        let lent = timeout_at(deadline, self.lend()).await;
        let lent = lent.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let mut loan = lent.map_err(store_error)?;
        let asked = async {
            let mut pause = Duration::from_millis(1);
            loop {
                match statement().fetch_optional(loan.connection()?).await {
                    Ok(row) => {
                        if let Some(answer) = read(row)? {
                            return Ok(answer);
                        }
                    }
                    Err(error) if has_met_another(&error) => {
                        sleep(pause.mul_f64(rand::random())).await;
                        pause = (pause * 2).min(LAST_PAUSE);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let timed_out = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        let answer = timeout_at(deadline, asked).await.unwrap_or_else(timed_out);
        loan.ended_with(answer.as_ref().err());
        answer.map_err(store_error)
    }

    /// Uses a connection for as long as it takes, and closes it where that failed or was dropped.
    pub(super) async fn with<T>(
        &self,
        used: impl AsyncFnOnce(&mut PgConnection) -> Result<T, ConnectError>,
    ) -> Result<T, ConnectError> {
        let lent = timeout(self.timeout, self.lend()).await;
        let lent = lent.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let mut loan = lent.map_err(schema_error)?;
        loan.is_one_statement = false;
        let answer = used(loan.connection().map_err(schema_error)?).await;
        let failed = answer.is_err().then_some(&sqlx::Error::WorkerCrashed);
        loan.ended_with(failed);
        answer
    }

    async fn lend(&self) -> Result<Loan, sqlx::Error> {
        let line = match &self.source {
            Source::Own(own) => Line::Own(own.take().await?, Arc::clone(own)),
            Source::Pool(pool) => Line::Pool(pool.acquire().await?),
        };
        Ok(Loan {
            line: Some(line),
            is_one_statement: true,
            began: Instant::now(),
            timeout: self.timeout,
            runtime: Handle::current(),
        })
    }
}

enum Line {
    Own(Taken, Arc<Own>),
    Pool(PoolConnection<Postgres>),
}

impl Line {
    fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(taken, _) => &mut taken.connection,
            Self::Pool(connection) => connection,
        }
    }

    fn give_back(self) {
        match self {
            Self::Own(taken, own) => own.give_back(taken),
            Self::Pool(connection) => drop(connection),
        }
    }

    fn discard(self, began: Instant) {
        match self {
            Self::Own(taken, own) => {
                drop(taken);
                own.doubt(began);
            }
            Self::Pool(mut connection) => connection.close_on_drop(),
        }
    }
}

/// A connection on loan. Where it is dropped without an end, its call was dropped.
struct Loan {
    line: Option<Line>,
    /// Nothing of it stays open, whenever its call is dropped. The driver forgets a BEGIN whose
    /// answer it has not read, and what comes next would be in that transaction.
    is_one_statement: bool,
    began: Instant,
    timeout: Duration,
    runtime: Handle,
}

impl Loan {
    fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        let line = self.line.as_mut().map(Line::connection);
        line.ok_or(sqlx::Error::PoolClosed)
    }

    /// Ends the loan after a call that was answered, or failed.
    fn ended_with(mut self, error: Option<&sqlx::Error>) {
        let Some(line) = self.line.take() else { return };
        if error.is_some_and(is_of_the_connection) {
            line.discard(self.began);
        } else {
            line.give_back();
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(mut line) = self.line.take() else {
            return;
        };
        let (began, limit) = (self.began, self.timeout);
        // Whoever drops a call need not be on the runtime. The driver's pool needs to be, also where
        // the runtime is gone.
        let _context = self.runtime.enter();
        if !self.is_one_statement {
            line.discard(began);
            return;
        }
        self.runtime.spawn(async move {
            match timeout(limit, line.connection().ping()).await {
                Ok(Ok(())) => line.give_back(),
                _ => line.discard(began),
            }
        });
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Own(_) => "own",
            Source::Pool(_) => "pool",
        };
        f.debug_struct("Connections")
            .field("source", &source)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
