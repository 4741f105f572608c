//! Settings of a store, and how it is opened.

use std::fmt;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tracing::warn;

use super::connections::Connections;
use super::pool_state::PoolState;
use super::store::PostgresStore;
use super::target::{Pooler, Settings};
use super::{checks, pooler, target};
use crate::ConnectError;

impl PostgresStore {
    /// Starts a store from a URL; see [`connect`](crate::connect()) for what it can say.
    ///
    /// # Errors
    /// When the URL is malformed. No message repeats it.
    pub fn builder(url: &str) -> Result<PostgresStoreBuilder, ConnectError> {
        PostgresStoreBuilder::from_url(url)
    }

    /// Connects to what the URL names.
    ///
    /// # Errors
    /// As [`PostgresStore::builder`] and [`PostgresStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url)?.connect().await
    }

    /// A store over the application's own pool. Nothing is sent to the server yet, and nothing is
    /// migrated: see [`migrate`](Self::migrate).
    ///
    /// A call takes at most 2 seconds, whatever the pool's own timeout is. For each call the pool asks the
    /// server once more whether the returned connection still answers, and once more before it is used
    /// unless `test_before_acquire` is off. While a record is watched, one connection beside the pool is
    /// open, and another one while the server is asked to terminate sessions that hang.
    ///
    /// While leases are held, one of the pool's connections is reserved for lease holders, and two of a
    /// pool of eight or more. The application can use all the others without losing a lease. A pool of one
    /// connection has none to reserve: renewals wait like every call, and a warning says so.
    ///
    /// Expired records are deleted while the store is used, once a minute; see
    /// [`PostgresPoolBuilder::sweep_every`].
    ///
    /// What the application leaves behind on a connection affects the store, too. With `sqlx` 0.9 a
    /// [`begin`](sqlx::Pool::begin) that is dropped before its answer leaves a transaction open, and what
    /// is written in it, records included, is not committed. If that may happen, for example in handlers
    /// that end with their clients, give the store connections of its own.
    pub fn from_pool(pool: PgPool) -> Self {
        Self::pool_builder(pool).build()
    }

    /// The same, with settings.
    pub fn pool_builder(pool: PgPool) -> PostgresPoolBuilder {
        PostgresPoolBuilder::new(pool)
    }
}

/// The settings of calls, which both builders have.
macro_rules! call_settings {
    () => {
        /// How many calls that hold no lease, above all claims, wait for a connection at most; 1,024
        /// unless given. That is about what ten connections do in the time of a call, if a write takes
        /// 10 ms. When so many wait, the next call fails at once, unsent, with
        /// [`StoreError::Overloaded`](idem_core::StoreError::Overloaded).
        pub const fn max_waiting(mut self, calls: usize) -> Self {
            self.settings.max_waiting = calls;
            self
        }

        /// The timeout of a call, waiting for a connection included; 2 seconds unless given. Below half of
        /// the engine's store timeout it leaves time for a second try. The time of a lease holder's call
        /// begins when it has its connection.
        ///
        /// On connections of the store's own, the server gives a statement up after the same time. In the
        /// sessions of an application's pool nothing is set: a statement that takes longer is ended over
        /// another connection.
        pub const fn timeout(mut self, timeout: Duration) -> Self {
            self.settings.timeout = timeout;
            self
        }

        /// What is between the store and its server; [`Pooler::Session`] unless given, which includes
        /// nothing at all.
        pub const fn pooler(mut self, pooler: Pooler) -> Self {
            self.settings.pooler = pooler;
            self
        }
    };
}

/// Settings of a [`PostgresStore`] with connections of its own.
#[must_use]
pub struct PostgresStoreBuilder {
    options: PgConnectOptions,
    settings: Settings,
}

impl PostgresStoreBuilder {
    fn from_url(url: &str) -> Result<Self, ConnectError> {
        let (options, settings) = target::parse(url)?;
        Ok(Self { options, settings })
    }

    /// How many connections are open at most; 10 unless given, and 2 at least. A quarter of them, and one
    /// at least, serve lease holders only: renewals and the ends of attempts.
    ///
    /// Beside these, one connection is open while a record is watched, one while the server is asked to
    /// terminate sessions that hang, and two for a moment in [`connect`](Self::connect). A session that
    /// hangs, for example in a commit that waits for a standby, counts until the server has said that it
    /// is gone.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = connections;
        self
    }

    call_settings!();

    /// Whether [`connect`](Self::connect) creates the tables, and upgrades them to this version; `true`
    /// unless given. With `false` they are created and upgraded by hand, from
    /// [`PostgresStore::MIGRATIONS`]: without tables of this version it fails. Programs of the version
    /// before go on using them.
    pub const fn migrate(mut self, migrate: bool) -> Self {
        self.settings.migrate = migrate;
        self
    }

    /// The longest pause between two deletions of expired records; a minute unless given, and a
    /// millisecond at least. `None` leaves that to [`PostgresStore::sweep`]. An expired record only takes
    /// up space: it counts as absent.
    pub const fn sweep_every(mut self, pause: Option<Duration>) -> Self {
        self.settings.sweep_every = pause;
        self
    }

    /// Connects, creates or checks the tables, and warns of server settings that weaken what the store
    /// promises.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses the login; when the tables are missing, have an
    /// older version or a newer one that this one may not use, or the login may not create, upgrade or use
    /// them; and when a pooler
    /// gives each transaction another session and [`pooler`](Self::pooler) does not say so.
    pub async fn connect(self) -> Result<PostgresStore, ConnectError> {
        let store = self.open().await?;
        if self.settings.migrate {
            store.migrate().await?;
        } else {
            store.check().await?;
        }
        let checked = store.connections().with(async |it| checks::check(it).await);
        checked.await?;
        if let Some(pause) = self.settings.sweep_every {
            store.sweep_every(pause);
        }
        Ok(store)
    }

    /// Connects to tables that are there, for tools beside the application: it migrates nothing, sweeps
    /// nothing, and asks for no right before it is needed.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), but for missing rights.
    pub async fn attach(self) -> Result<PostgresStore, ConnectError> {
        let store = self.open().await?;
        store.check().await?;
        Ok(store)
    }

    async fn open(&self) -> Result<PostgresStore, ConnectError> {
        let connections = Connections::own(self.options.clone(), &self.settings);
        if let (Some(pool), true) = (connections.own_pool(), connections.have_sessions()) {
            pooler::check_sessions(pool, connections.timeout()).await?;
        }
        Ok(PostgresStore::new(connections, None))
    }
}

impl fmt::Debug for PostgresStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options would show the password.
        f.debug_struct("PostgresStoreBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`PostgresStore`] over the application's pool.
#[must_use]
pub struct PostgresPoolBuilder {
    pool: PgPool,
    settings: Settings,
}

impl PostgresPoolBuilder {
    fn new(pool: PgPool) -> Self {
        Self {
            pool,
            settings: Settings::default(),
        }
    }

    call_settings!();

    /// The longest pause between two deletions of expired records; a minute unless given. With more than
    /// 10,000 expired records there is no pause. They are deleted in the background while records are
    /// claimed, over one connection of the pool, and the pool stays open for no longer than that takes.
    /// `None` leaves it to [`PostgresStore::sweep`], or to another process.
    /// [`PostgresStore::sweep_every`] also deletes while the store is not used.
    pub const fn sweep_every(mut self, pause: Option<Duration>) -> Self {
        self.settings.sweep_every = pause;
        self
    }

    /// Builds the store. Nothing is sent to the server yet: see [`PostgresStore::from_pool`].
    pub fn build(self) -> PostgresStore {
        if self.pool.options().get_max_connections() < 2 {
            warn!(
                target: "idem",
                "the pool of the postgres store has one connection: renewals of leases wait for it like all calls, and leases may be lost; give it two at least, or give the store connections of its own"
            );
        }
        let pool_state = PoolState::of(&self.pool);
        let sweeps_on_use = self.settings.sweep_every.map(|every| (pool_state, every));
        let connections = Connections::of_application(self.pool, &self.settings);
        PostgresStore::new(connections, sweeps_on_use)
    }
}

impl fmt::Debug for PostgresPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresPoolBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
