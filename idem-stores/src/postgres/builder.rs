//! What a store can be told before it is there.

use std::fmt;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tracing::warn;

use super::connections::Connections;
use super::pools::OfPool;
use super::target::{Pooler, Settings};
use super::{PostgresStore, checks, pooler, target};
use crate::ConnectError;

/// Settings of a [`PostgresStore`] with connections of its own.
#[must_use]
pub struct PostgresStoreBuilder {
    options: PgConnectOptions,
    settings: Settings,
}

impl PostgresStoreBuilder {
    pub(super) fn of_url(url: &str) -> Result<Self, ConnectError> {
        let (options, settings) = target::parse(url)?;
        Ok(Self { options, settings })
    }

    /// How many connections are open at most; 10 unless given, and 2 at least. A quarter of them,
    /// and one at least, serve only those who hold a lease: renewals and the ends of attempts.
    ///
    /// Beside these, one is open while anybody waits, one while the server is asked to end sessions
    /// that hang, and two for a moment in [`connect`](Self::connect). A session that hangs, in a
    /// commit that waits for a standby say, counts until the server has said that it is gone.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = connections;
        self
    }

    /// How many calls of those who hold no lease wait for a connection at most, claims above all;
    /// 1,024 unless given: about what ten connections do in the time that a call has, where a write
    /// takes 10 ms. The next one fails at once, unsent, with
    /// [`StoreError::Overloaded`](idem_core::StoreError::Overloaded).
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.settings.max_waiting = calls;
        self
    }

    /// How long a call may take, waiting for a connection included; 2 seconds unless given. Below
    /// half of the engine's store timeout it leaves time for a second try. The server gives up a
    /// statement after the same time. For calls of those who hold a lease it begins when they have
    /// their connection.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// What stands between the store and its server; [`Pooler::Session`] unless given, which also
    /// means nothing.
    pub const fn pooler(mut self, pooler: Pooler) -> Self {
        self.settings.pooler = pooler;
        self
    }

    /// Whether [`connect`](Self::connect) makes the tables, and brings them to this version where the
    /// login may; `true` unless given. Otherwise they are made by hand, from
    /// [`PostgresStore::MIGRATIONS`]: it fails where there are none, and uses those of an older
    /// version as they are.
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
    /// When the server cannot be reached or refuses the login; when the tables are missing, of a
    /// newer version that this one may not use, or may not be made or used by the login; and where a pooler gives each transaction another
    /// session and [`pooler`](Self::pooler) does not say so.
    pub async fn connect(self) -> Result<PostgresStore, ConnectError> {
        let connections = Connections::own(self.options, &self.settings);
        if let (Some(own), true) = (connections.as_own(), connections.have_sessions()) {
            pooler::prove(own, connections.timeout()).await?;
        }
        let store = PostgresStore::over(connections, None);
        if self.settings.migrate {
            store.migrate_if_allowed().await?;
        } else {
            store.check().await?;
        }
        let connections = &store.inner.connections;
        connections.with(async |it| checks::check(it).await).await?;
        if let Some(pause) = self.settings.sweep_every {
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

/// Settings of a [`PostgresStore`] over a pool of the application's.
#[must_use]
pub struct PostgresPoolBuilder {
    pool: PgPool,
    settings: Settings,
}

impl PostgresPoolBuilder {
    pub(super) fn over(pool: PgPool) -> Self {
        Self {
            pool,
            settings: Settings::default(),
        }
    }

    /// See [`PostgresStoreBuilder::max_waiting`].
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.settings.max_waiting = calls;
        self
    }

    /// See [`PostgresStoreBuilder::timeout`]. Nothing is set in the pool's sessions: a statement
    /// that takes longer is ended over another connection.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// See [`PostgresStoreBuilder::pooler`].
    pub const fn pooler(mut self, pooler: Pooler) -> Self {
        self.settings.pooler = pooler;
        self
    }

    /// How often records whose time is over are deleted, at most; every minute unless given, and as
    /// fast as they come where there are more than 10,000. It is done in the background while
    /// records are claimed, over one connection of the pool, and keeps the pool open for no longer
    /// than it takes. `None` leaves that to [`PostgresStore::sweep`], or to another process;
    /// [`PostgresStore::sweep_every`] does so at rest, too.
    pub const fn sweep_every(mut self, pause: Option<Duration>) -> Self {
        self.settings.sweep_every = pause;
        self
    }

    /// The store. Nothing is asked of the server yet: see [`PostgresStore::from_pool`].
    pub fn build(self) -> PostgresStore {
        if self.pool.options().get_max_connections() < 2 {
            warn!(
                target: "idem",
                "the pool that the postgres store uses has one connection: renewals of leases wait for it like everybody else, and leases may be lost; give it two at least, or give the store connections of its own"
            );
        }
        let of_pool = OfPool::of(&self.pool);
        let sweeps = self.settings.sweep_every.map(|every| (of_pool, every));
        PostgresStore::over(Connections::of_pool(self.pool, &self.settings), sweeps)
    }
}

impl fmt::Debug for PostgresPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresPoolBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
