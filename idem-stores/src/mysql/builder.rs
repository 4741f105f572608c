//! Settings of a store, and how it is opened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::MySqlPool;
use sqlx::mysql::MySqlConnectOptions;
use tracing::warn;

use super::connections::Connections;
use super::pool_state::PoolState;
use super::store::MySqlStore;
use super::target::{self, Settings};
use crate::ConnectError;

impl MySqlStore {
    /// Starts a store from a URL; see [`connect`](crate::connect()) for what it can say.
    ///
    /// # Errors
    /// When the URL is malformed. No message repeats it.
    pub fn builder(url: &str) -> Result<MySqlStoreBuilder, ConnectError> {
        MySqlStoreBuilder::from_url(url)
    }

    /// Connects to what the URL names.
    ///
    /// # Errors
    /// As [`MySqlStore::builder`] and [`MySqlStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url)?.connect().await
    }

    /// A store over the application's own pool. Nothing is sent to the server yet, and nothing is
    /// migrated: see [`migrate`](Self::migrate).
    ///
    /// A call takes at most 2 seconds, whatever the pool's own timeout is. For each call the pool asks the
    /// server once more whether the returned connection still answers, and once more before it is used
    /// unless `test_before_acquire` is off. While the server is asked to end a session that hangs, one
    /// connection beside the pool is open.
    ///
    /// Its sessions must have `autocommit` on, and may have any isolation level. A transaction that a
    /// dropped `begin` has left open on a connection is rolled back before the store uses it.
    ///
    /// Statements carry their values, outcomes too, in their text. A pool whose options log statements
    /// (`sqlx` does so at the level `debug`, and slow ones at `warn`) logs them, too: set
    /// `disable_statement_logging`, or give the store connections of its own, which log none.
    ///
    /// While leases are held, one of the pool's connections is reserved for lease holders, and two of a
    /// pool of eight or more. The application can use all the others without losing a lease. A pool of one
    /// connection has none to reserve: renewals wait like every call, and a warning says so.
    ///
    /// Expired records are deleted while the store is used, once a minute; see
    /// [`MySqlPoolBuilder::sweep_every`].
    pub fn from_pool(pool: MySqlPool) -> Self {
        Self::pool_builder(pool).build()
    }

    /// The same, with settings.
    pub fn pool_builder(pool: MySqlPool) -> MySqlPoolBuilder {
        MySqlPoolBuilder::new(pool)
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
        /// On connections of the store's own, the server waits for a lock for three quarters of it, in whole
        /// seconds and one at least, and MariaDB gives a statement up after the same time. In the sessions
        /// of an application's pool nothing is set. A session that takes longer is ended over another
        /// connection.
        pub const fn timeout(mut self, timeout: Duration) -> Self {
            self.settings.timeout = timeout;
            self
        }
    };
}

/// Settings of a [`MySqlStore`] with connections of its own.
#[must_use]
pub struct MySqlStoreBuilder {
    options: MySqlConnectOptions,
    settings: Settings,
}

impl MySqlStoreBuilder {
    fn from_url(url: &str) -> Result<Self, ConnectError> {
        let (options, settings) = target::parse(url)?;
        Ok(Self { options, settings })
    }

    /// How many connections are open at most; 10 unless given, and 2 at least. A quarter of them, and one
    /// at least, serve lease holders only: renewals and the ends of attempts.
    ///
    /// Beside these, one connection is open while the server is asked to end a session that hangs, and while
    /// the tables are created or upgraded. A session that hangs, for example in a commit that waits for a
    /// replica, counts until the server has said that it is gone.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = connections;
        self
    }

    call_settings!();

    /// Whether [`connect`](Self::connect) creates the tables, and upgrades them to this version; `true`
    /// unless given. With `false` they are created and upgraded by hand, from
    /// [`MySqlStore::MIGRATIONS`]: without tables of this version it fails.
    pub const fn migrate(mut self, migrate: bool) -> Self {
        self.settings.migrate = migrate;
        self
    }

    /// The longest pause between two deletions of expired records; a minute unless given, and a
    /// millisecond at least. `None` leaves that to [`MySqlStore::sweep`]. An expired record only takes
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
    /// them; and when the server's binary log has `binlog_format = STATEMENT`.
    pub async fn connect(self) -> Result<MySqlStore, ConnectError> {
        let connections = Connections::own(self.options, &self.settings);
        let store = MySqlStore::new(connections, None);
        store.begin(self.settings.migrate).await?;
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
    pub async fn attach(self) -> Result<MySqlStore, ConnectError> {
        let store = MySqlStore::new(Connections::own(self.options, &self.settings), None);
        store.check().await?;
        Ok(store)
    }
}

impl fmt::Debug for MySqlStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options would show the password.
        f.debug_struct("MySqlStoreBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`MySqlStore`] over the application's pool.
#[must_use]
pub struct MySqlPoolBuilder {
    pool: MySqlPool,
    settings: Settings,
}

impl MySqlPoolBuilder {
    fn new(pool: MySqlPool) -> Self {
        Self {
            pool,
            settings: Settings::default(),
        }
    }

    call_settings!();

    /// The longest pause between two deletions of expired records; a minute unless given. With more than
    /// 10,000 expired records there is no pause. They are deleted in the background while records are
    /// claimed, over one connection of the pool, and the pool stays open for no longer than that takes.
    /// `None` leaves it to [`MySqlStore::sweep`], or to another process.
    /// [`MySqlStore::sweep_every`] also deletes while the store is not used.
    pub const fn sweep_every(mut self, pause: Option<Duration>) -> Self {
        self.settings.sweep_every = pause;
        self
    }

    /// Builds the store. Nothing is sent to the server yet: see [`MySqlStore::from_pool`].
    pub fn build(self) -> MySqlStore {
        if self.pool.options().get_max_connections() < 2 {
            warn!(
                target: "idem",
                "the pool of the mysql store has one connection: renewals of leases wait for it like all calls, and leases may be lost; give it two at least, or give the store connections of its own"
            );
        }
        let sweeps = Arc::clone(&PoolState::of(&self.pool).sweeps);
        let sweeps_on_use = self.settings.sweep_every.map(|every| (sweeps, every));
        let connections = Connections::of_application(self.pool, &self.settings);
        MySqlStore::new(connections, sweeps_on_use)
    }
}

impl fmt::Debug for MySqlPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlPoolBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
