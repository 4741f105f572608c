//! Settings, and how a store is opened with them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::SqlitePool;

use super::SqliteStore;
use super::checks::Settings;
use super::errors::{connect_error, unfit};
use super::schema;
use super::sweeping::{EVERY, Pause};
use super::target::{self, Address, IN_MEMORY, Target};
use crate::ConnectError;

/// The claims of 32 transactions: a third of a second where a commit takes 10 ms, and all of a claim's
/// time where it takes 60. Behind more, a claim would wait for nothing.
const MAX_WAITING: usize = 4096;

/// How long calls wait, and how many, and when others sweep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long one waits for the lock.
    pub(super) patience: Duration,
    pub(super) max_waiting: usize,
    pub(super) sweep_every: Pause,
}

/// Settings of a [`SqliteStore`] with a file of its own.
#[must_use]
pub struct SqliteStoreBuilder {
    path: PathBuf,
    limits: Limits,
}

impl SqliteStoreBuilder {
    pub(super) fn of_url(url: &str) -> Result<Self, ConnectError> {
        let Address {
            path,
            busy_timeout,
            max_waiting,
            sweep_every,
        } = Target::parse(url)?;
        let limits = Limits {
            patience: busy_timeout.unwrap_or(Duration::from_secs(2)),
            max_waiting: max_waiting.unwrap_or(MAX_WAITING),
            sweep_every: sweep_every.unwrap_or(Some(EVERY)),
        };
        Ok(Self { path, limits })
    }

    /// How long a call waits while another process holds the database's lock; 2 seconds unless
    /// given. Then it fails with [`StoreError::Busy`](idem_core::StoreError::Busy), and has changed
    /// nothing. Below the engine's store timeout the caller learns why.
    ///
    /// A claim waits as long behind other calls of this process, but a second at least; then it is
    /// [`StoreError::NotSent`](idem_core::StoreError::NotSent). What the holder of a lease asks for
    /// does not count that time.
    pub const fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.limits.patience = timeout;
        self
    }

    /// How many claims may wait to be written, and how many claims and other looks to be read; 4096
    /// each unless given. One more fails at once with
    /// [`StoreError::Overloaded`](idem_core::StoreError::Overloaded), and is not sent.
    ///
    /// The default is what 32 transactions take along: a third of a second where a commit takes
    /// 10 ms. A longer queue serves nobody sooner.
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.limits.max_waiting = calls;
        self
    }

    /// How often records whose time is over are deleted, about; every minute unless given, and a
    /// millisecond apart at least. `None` leaves that to [`SqliteStore::sweep`], or to another
    /// process. Until then they take up room, and nothing else: they count as absent.
    pub const fn sweep_every(mut self, pause: Option<Duration>) -> Self {
        self.limits.sweep_every = pause;
        self
    }

    /// Opens the file. Where it is missing it is created, in a directory that is there; its
    /// tables are created, or brought to this version.
    ///
    /// # Errors
    /// When the file cannot be opened, created or written, is no SQLite database or a damaged
    /// one, keeps no journal on the disk, has tables of another's making or of a version that this
    /// one may not use, or is locked for longer than the timeout. Nothing that was there is changed
    /// then.
    pub async fn connect(self) -> Result<SqliteStore, ConnectError> {
        let Self { path, limits } = self;
        let target = Target::file(path, limits.patience);
        let mut opened = target.create(limits.patience).await?;
        let connection = &mut opened.connection;
        schema::migrate(connection).await?;
        let settings = Settings::of(connection).await.map_err(connect_error)?;
        refuse_without_journal(&settings)?;
        settings.warn();
        let hurries = target::hurries(connection).await;
        hurries.map_err(connect_error)?;
        SqliteStore::over(target, Some(opened), limits)
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
    sweep_every: Pause,
}

impl SqlitePoolBuilder {
    pub(super) const fn over(pool: SqlitePool) -> Self {
        Self {
            pool,
            max_waiting: MAX_WAITING,
            sweep_every: Some(EVERY),
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
        let target = Target::with((*pool.connect_options()).clone());
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
        // The writer opens its own: this one may have looked before the tables were there.
        let patience = target::patience(connection).await;
        let limits = Limits {
            patience: patience.map_err(connect_error)?,
            max_waiting,
            sweep_every,
        };
        SqliteStore::over(target, None, limits)
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
