//! The store of many processes beside the business data: PostgreSQL 14 and newer.
//!
//! One row per record, one prepared statement and one round trip per transition, and the server's
//! clock. A claim reads first and writes only where it must, so a replay leaves nothing behind: no
//! dead row, no log, no transaction number. Who waits is woken by `NOTIFY`, and only where
//! somebody waits is anything notified.
//!
//! Every statement is right in every race at `READ COMMITTED`, the server's default: what it
//! writes is decided by the row as it is once it is locked. Where a race leaves it without an
//! answer, it is sent again. Under `REPEATABLE READ` and `SERIALIZABLE` the server refuses one of
//! two that meet; that one is sent again, too.
//!
//! | to find | look in |
//! |---|---|
//! | the tables | `migrations` |
//! | the statements | `statements`, and the files beside it |
//! | connections, and what happens when a call is dropped | `connections`, `own` |
//! | waking waiters | `watching` |
//! | deleting what has expired | `sweeping` |
//! | claims inside the application's transactions | `transaction` |
//! | what a URL says | `target` |
//! | migrating, and finding the tables | `schema` |
//! | what is warned of at start-up | `checks` |
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use idem_stores::postgres::PostgresStore;
//!
//! // Connections of its own.
//! let store = PostgresStore::builder("postgres://app:secret@127.0.0.1/shop")?
//!     .max_connections(8)
//!     .timeout(Duration::from_millis(800))
//!     .connect()
//!     .await?;
//!
//! // Or those of the application.
//! # let pool = sqlx::PgPool::connect_lazy("postgres://app@127.0.0.1/shop")?;
//! let store = PostgresStore::from_pool(pool);
//! store.migrate().await?;
//! store.sweep_every(Duration::from_secs(60));
//! # Ok(())
//! # }
//! ```

mod checks;
mod connections;
mod errors;
mod own;
mod schema;
mod statements;
mod sweeping;
mod target;
mod transaction;
mod watching;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Inspection, Lease, RecordId, Store, StoreError, Token, Watch,
};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgRow};

use crate::ConnectError;
use checks::Server;
use connections::{Connections, Statement};
use sweeping::Sweeping;
use target::Settings;
pub use transaction::PgTransactions;
use watching::Watching;

const NAME: &str = "postgres";

/// Settings of a [`PostgresStore`] with connections of its own.
#[must_use]
pub struct PostgresStoreBuilder {
    options: PgConnectOptions,
    settings: Settings,
}

impl PostgresStoreBuilder {
    /// How many connections are open at most; 10 unless given, and 1 at least. One more is, while
    /// anybody waits. A call takes one for as long as its statement runs; waiters take none.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = connections;
        self
    }

    /// How long a call may take, connecting included; 2 seconds unless given. Below half of the
    /// engine's store timeout it leaves time for a second try. The server gives up a statement
    /// after the same time.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Whether [`connect`](Self::connect) brings the tables to this version; `true` unless given.
    /// Otherwise it fails where they are not: then they are made by hand, from
    /// [`PostgresStore::MIGRATIONS`].
    pub const fn migrate(mut self, migrate: bool) -> Self {
        self.settings.migrate = migrate;
        self
    }

    /// How often records whose time is over are deleted, at most; every minute unless given, and a
    /// millisecond apart at least.
    /// `None` leaves that to [`PostgresStore::sweep`]. Until then they take up room, and nothing
    /// else: they count as absent.
    pub const fn sweep_every(mut self, pause: Option<Duration>) -> Self {
        self.settings.sweep_every = pause;
        self
    }

    /// Connects, makes or checks the tables, and warns of settings of the server that weaken what
    /// the store promises.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses the login, and when the tables are missing,
    /// of a newer version, or may not be made.
    pub async fn connect(self) -> Result<PostgresStore, ConnectError> {
        let Settings {
            max_connections,
            timeout,
            migrate,
            sweep_every,
        } = self.settings;
        let store = PostgresStore::over(Connections::own(self.options, max_connections, timeout));
        if migrate {
            store.migrate().await?;
        } else {
            store.check().await?;
        }
        let server = store.inner.connections.ask(checks::ask, Server::read);
        server.await.map_err(ConnectError::Store)?.warn();
        if let Some(pause) = sweep_every {
            store.sweep_every(pause);
        }
        Ok(store)
    }
}

impl fmt::Debug for PostgresStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options hold the password, and show it.
        f.debug_struct("PostgresStoreBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Keeps records in PostgreSQL. Clones share its connections.
///
/// The tables are `idem_records` and `idem_schema`, found through `search_path`.
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    connections: Connections,
    watching: Watching,
    sweeping: Mutex<Option<Sweeping>>,
}

impl PostgresStore {
    /// The statements that make the tables, one text for each version, to be run by hand or by
    /// the application's own migrations: in this order, each in one transaction, once.
    pub const MIGRATIONS: &[&str] = schema::MIGRATIONS;

    /// Starts a store from a URL; see [`connect`](crate::connect()) for what it can say.
    ///
    /// # Errors
    /// When the URL is malformed. No message repeats it.
    pub fn builder(url: &str) -> Result<PostgresStoreBuilder, ConnectError> {
        let (options, settings) = target::parse(url)?;
        Ok(PostgresStoreBuilder { options, settings })
    }

    /// Connects to what the URL names.
    ///
    /// # Errors
    /// As [`PostgresStore::builder`] and [`PostgresStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url)?.connect().await
    }

    /// A store over the application's own pool, as it is. Nothing is asked of the server yet, and
    /// nothing is migrated or swept: see [`migrate`](Self::migrate) and
    /// [`sweep_every`](Self::sweep_every).
    ///
    /// A call takes at most 2 seconds, whatever the pool would wait. Each one costs the server a
    /// second, shorter look, when the pool asks whether a connection that was returned still
    /// answers, and a third one unless `test_before_acquire` is off. Where somebody waits, one
    /// connection beside the pool is open.
    ///
    /// What the application leaves behind on a connection is in the store's way, too: with `sqlx`
    /// 0.9 a [`begin`](sqlx::Pool::begin) that is dropped before it was answered leaves a transaction
    /// open there, and what is written in it, records as well, is not committed. Where that may
    /// happen, in handlers that end with their clients say, give the store connections of its own.
    pub fn from_pool(pool: PgPool) -> Self {
        let Settings { timeout, .. } = Settings::default();
        Self::over(Connections::of_pool(pool, timeout))
    }

    fn over(connections: Connections) -> Self {
        Self {
            inner: Arc::new(Inner {
                watching: Watching::new(connections.clone()),
                connections,
                sweeping: Mutex::default(),
            }),
        }
    }

    /// Brings the tables to this version, in one transaction. Of many processes that do so at
    /// once one does, and the others wait for it, for as long as it takes. Where they are of this
    /// version already, nothing is locked and no right to make tables is needed. Dropping the
    /// future rolls back.
    ///
    /// The application's own migrations are neither used nor disturbed.
    ///
    /// # Errors
    /// When the server cannot be reached, the tables may not be made, or they are of a newer
    /// version.
    pub async fn migrate(&self) -> Result<(), ConnectError> {
        let connections = &self.inner.connections;
        connections
            .with(async |connection| schema::migrate(connection).await)
            .await
    }

    async fn check(&self) -> Result<(), ConnectError> {
        let connections = &self.inner.connections;
        connections
            .with(async |connection| schema::check(connection).await)
            .await
    }

    /// Deletes records whose time is over, at most `batch` of them, oldest first, in a short
    /// transaction of its own. None that somebody else has locked is waited for. Answers how many
    /// it deleted: as many as `batch` says that there may be more. A thousand take some twenty
    /// milliseconds.
    ///
    /// # Errors
    /// When the server cannot be reached, or the batch takes longer than a call may.
    pub async fn sweep(&self, batch: u32) -> Result<u64, StoreError> {
        let swept = sweeping::sweep(&self.inner.connections, batch, None).await?;
        Ok(swept.records)
    }

    /// Deletes records whose time is over in the background from now on, in batches, after each
    /// pause; it is drawn between half of `pause` (a millisecond at least) and all of it, so that
    /// processes do not sweep at once. Ends with the store's last clone, or when this is called again.
    ///
    /// # Panics
    /// When called outside of a Tokio runtime.
    pub fn sweep_every(&self, pause: Duration) {
        let sweeping = Sweeping::start(self.inner.connections.clone(), pause);
        let mut running = self
            .inner
            .sweeping
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *running = Some(sweeping);
    }

    /// A change that needs the token.
    async fn change<'q>(
        &self,
        statement: impl Fn() -> Statement<'q>,
        read: impl Fn(Option<PgRow>) -> Result<Option<bool>, sqlx::Error>,
    ) -> Result<Change, StoreError> {
        let applied = self.inner.connections.ask(statement, read).await?;
        Ok(if applied {
            Change::Applied
        } else {
            Change::LeaseLost
        })
    }
}

/// What a statement has changed, it has answered with a row.
#[allow(clippy::unnecessary_wraps, reason = "as every reader of a row")]
fn is_there(row: Option<PgRow>) -> Result<Option<bool>, sqlx::Error> {
    Ok(Some(row.is_some()))
}

#[async_trait]
impl Store for PostgresStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let connections = &self.inner.connections;
        connections
            .ask(|| statements::claim(claim), statements::claimed)
            .await
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        self.change(|| statements::renew(lease), is_there).await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let statement = || statements::complete(lease, &outcome);
        self.change(statement, statements::answer).await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.change(|| statements::release(id, token), is_there)
            .await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.change(|| statements::abandon(id, token), is_there)
            .await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let connections = &self.inner.connections;
        connections
            .ask(
                || statements::inspect(id),
                |row| {
                    row.as_ref()
                        .map(statements::inspection)
                        .transpose()
                        .map(Some)
                },
            )
            .await
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let subscription = self.inner.watching.subscribe(*id).await?;
        let connections = &self.inner.connections;
        let runs = connections
            .ask(|| statements::watch(id), statements::answer)
            .await?;
        Ok(if runs {
            subscription.into_watch()
        } else {
            Watch::new(std::future::ready(()))
        })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("connections", &self.inner.connections)
            .finish_non_exhaustive()
    }
}
