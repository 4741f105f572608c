//! Settings of a store, and how it is opened.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::SqlitePool;

use super::checks::Settings;
use super::errors::{connect_error, unfit};
use super::limits::Limits;
use super::schema;
use super::store::SqliteStore;
use super::sweeping::{DEFAULT_INTERVAL, SweepInterval};
use super::target::{self, Address, IN_MEMORY, Target};
use crate::ConnectError;

/// The claims of 32 transactions: a third of a second if a commit takes 10 ms, and the whole time of a
/// claim if it takes 60 ms. Behind more claims, one would wait in vain.
const DEFAULT_MAX_WAITING: usize = 4096;

impl SqliteStore {
    /// Starts a store from a URL; see [`connect`](crate::connect()) for what it can say.
    ///
    /// # Errors
    /// When the URL is malformed, or names a database in memory. No message repeats it.
    pub fn builder(url: &str) -> Result<SqliteStoreBuilder, ConnectError> {
        SqliteStoreBuilder::from_url(url)
    }

    /// Opens the file that the URL names.
    ///
    /// # Errors
    /// As [`SqliteStore::builder`] and [`SqliteStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url)?.connect().await
    }

    /// Keeps the records in the application's database, beside its own rows. Call
    /// [`migrate`](Self::migrate) before the first use.
    ///
    /// The store opens up to six connections of its own with the pool's options. The pool may have any
    /// size, and lease holders never wait for it. The store's connections commit with `synchronous` at
    /// `EXTRA`. The pool's own settings stay as they are, and each one that weakens what the store
    /// promises is a warning. A call waits for a lock as long as the pool's `busy_timeout` says.
    ///
    /// # Errors
    /// When the database cannot be opened, is in memory, keeps no journal on the disk, or has foreign
    /// tables of these names or tables of a version that this one may not use.
    pub async fn from_pool(pool: &SqlitePool) -> Result<Self, ConnectError> {
        Self::pool_builder(pool).connect().await
    }

    /// The same, with settings.
    pub fn pool_builder(pool: &SqlitePool) -> SqlitePoolBuilder {
        SqlitePoolBuilder::new(pool.clone())
    }
}

/// Settings of a [`SqliteStore`] with a file of its own.
#[must_use]
pub struct SqliteStoreBuilder {
    path: PathBuf,
    limits: Limits,
}

impl SqliteStoreBuilder {
    fn from_url(url: &str) -> Result<Self, ConnectError> {
        let Address {
            path,
            busy_timeout,
            max_waiting,
            sweep_every,
        } = Target::parse(url)?;
        let limits = Limits {
            lock_timeout: busy_timeout.unwrap_or(Duration::from_secs(2)),
            max_waiting: max_waiting.unwrap_or(DEFAULT_MAX_WAITING),
            sweep_every: sweep_every.unwrap_or(Some(DEFAULT_INTERVAL)),
        };
        Ok(Self { path, limits })
    }

    /// How long a call waits while another process holds the database's lock; 2 seconds unless
    /// given. Then it fails with [`StoreError::Busy`](idem_core::StoreError::Busy), and has changed
    /// nothing. If the timeout is below the engine's store timeout, the caller learns the reason.
    ///
    /// A claim waits as long behind other calls of this process, but at least a second. Then it fails
    /// with [`StoreError::NotSent`](idem_core::StoreError::NotSent). Calls of lease holders have no
    /// such limit.
    pub const fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.limits.lock_timeout = timeout;
        self
    }

    /// How many claims may wait to be written, and how many claims and other reads to be read; 4096
    /// each unless given. The next one fails at once with
    /// [`StoreError::Overloaded`](idem_core::StoreError::Overloaded), and is not sent.
    ///
    /// The default is what 32 transactions commit: a third of a second if a commit takes 10 ms. A
    /// longer queue serves no call sooner.
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.limits.max_waiting = calls;
        self
    }

    /// About how often expired records are deleted; every minute unless given, and at most every
    /// millisecond. `None` leaves that to [`SqliteStore::sweep`], or to another process. An expired
    /// record only takes up space: it counts as absent.
    pub const fn sweep_every(mut self, pause: Option<Duration>) -> Self {
        self.limits.sweep_every = pause;
        self
    }

    /// Opens the file. If it is missing, it is created in its directory, which must exist. The tables
    /// are created, or upgraded to this version.
    ///
    /// # Errors
    /// When the file cannot be opened, created or written, is no SQLite database or a damaged
    /// one, keeps no journal on the disk, has foreign tables of these names or tables of a version that
    /// this one may not use, or is locked for longer than the timeout. The file is unchanged then.
    pub async fn connect(self) -> Result<SqliteStore, ConnectError> {
        let Self { path, limits } = self;
        let target = Target::file(path, limits.lock_timeout);
        let mut opened = target.create(limits.lock_timeout).await?;
        let connection = &mut opened.connection;
        schema::migrate(connection).await?;
        let settings = Settings::of(connection).await.map_err(connect_error)?;
        refuse_without_journal(&settings)?;
        settings.warn();
        let is_set = target::set_short_busy_timeout(connection).await;
        is_set.map_err(connect_error)?;
        SqliteStore::new(target, Some(opened), limits)
    }

    /// Opens a file that is there, with its tables, for tools beside the application: it creates
    /// nothing, migrates nothing and sweeps nothing, and leaves the journal as it is.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and when there is no file, or its tables are missing or of an
    /// older version.
    pub async fn attach(self) -> Result<SqliteStore, ConnectError> {
        let Self { path, mut limits } = self;
        limits.sweep_every = None;
        let target = Target::file(path, limits.lock_timeout);
        let mut opened = target.open().await?;
        let connection = &mut opened.connection;
        match schema::check(connection).await? {
            0 => return Err(unfit("it has no tables of the store")),
            version if version < schema::VERSION => {
                return Err(unfit(format!(
                    "its tables are of version {version}, and this version of idem-rs needs version {}; let the application migrate",
                    schema::VERSION
                )));
            }
            _ => {}
        }
        let is_set = target::set_short_busy_timeout(connection).await;
        is_set.map_err(connect_error)?;
        SqliteStore::new(target, Some(opened), limits)
    }
}

impl fmt::Debug for SqliteStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStoreBuilder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`SqliteStore`] in the application's database.
#[must_use]
pub struct SqlitePoolBuilder {
    pool: SqlitePool,
    max_waiting: usize,
    sweep_every: SweepInterval,
}

impl SqlitePoolBuilder {
    const fn new(pool: SqlitePool) -> Self {
        Self {
            pool,
            max_waiting: DEFAULT_MAX_WAITING,
            sweep_every: Some(DEFAULT_INTERVAL),
        }
    }

    /// See [`SqliteStoreBuilder::max_waiting`].
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.max_waiting = calls;
        self
    }

    /// See [`SqliteStoreBuilder::sweep_every`].
    pub const fn sweep_every(mut self, pause: Option<Duration>) -> Self {
        self.sweep_every = pause;
        self
    }

    /// Opens connections of the store's own; see [`SqliteStore::from_pool`].
    ///
    /// # Errors
    /// As [`SqliteStore::from_pool`].
    pub async fn connect(self) -> Result<SqliteStore, ConnectError> {
        let Self {
            pool,
            max_waiting,
            sweep_every,
        } = self;
        let target = Target::from_options((*pool.connect_options()).clone());
        let mut opened = target.open().await?;
        let connection = &mut opened.connection;
        let own = Settings::of(connection).await.map_err(connect_error)?;
        if !own.has_a_file() {
            return Err(unfit(IN_MEMORY));
        }
        schema::check(connection).await?;
        refuse_without_journal(&own)?;
        let mut pooled = pool.acquire().await.map_err(connect_error)?;
        let settings = Settings::of(&mut pooled).await.map_err(connect_error)?;
        refuse_without_journal(&settings)?;
        settings.warn();
        // The writer opens its own connection: this one may have looked before there were tables.
        let lock_timeout = target::busy_timeout(connection).await;
        let limits = Limits {
            lock_timeout: lock_timeout.map_err(connect_error)?,
            max_waiting,
            sweep_every,
        };
        SqliteStore::new(target, None, limits)
    }
}

impl fmt::Debug for SqlitePoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlitePoolBuilder")
            .field("max_waiting", &self.max_waiting)
            .field("sweep_every", &self.sweep_every)
            .finish_non_exhaustive()
    }
}

fn refuse_without_journal(settings: &Settings) -> Result<(), ConnectError> {
    let refused = settings.refuse_without_journal();
    refused.map_err(|problem| unfit(problem.to_string()))
}
