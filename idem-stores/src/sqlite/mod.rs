//! The store of one machine: a SQLite file, durable, without a server.
//!
//! One row per record, one statement per transition, and the machine's clock as SQLite reads it.
//! A claim is looked up first, on a connection that only reads: what is finished, running or
//! another request's needs no write, and waits for nobody. What has to be written goes through
//! one writer, which commits together whatever was asked for meanwhile. Every commit is on the
//! disk before it is acknowledged.
//!
//! Processes of one machine share the file; SQLite's lock decides between them. A file on a
//! network file system is nobody's to promise anything about.
//!
//! | to find | look in |
//! |---|---|
//! | the tables | `migrations` |
//! | the statements, and the clock | `statements`, and the files beside it |
//! | what a row says | `record` |
//! | grouped commits | `writer`, `writes` |
//! | connections that only read | `readers` |
//! | waking waiters | `watching` |
//! | claims inside the application's transactions | `transaction` |
//! | what a URL says, and how connections are opened | `target` |
//! | whose the tables are | `schema` |
//! | what is warned of at start-up | `checks` |
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use idem_stores::sqlite::SqliteStore;
//!
//! // A file of its own.
//! let store = SqliteStore::builder("sqlite:///var/lib/shop/idem.db")?
//!     .busy_timeout(Duration::from_millis(800))
//!     .connect()
//!     .await?;
//!
//! // Or two tables in the application's database.
//! # let pool = sqlx::SqlitePool::connect_lazy("sqlite://shop.db")?;
//! let store = SqliteStore::from_pool(&pool).await?;
//! store.migrate().await?;
//! # Ok(())
//! # }
//! ```

mod checks;
mod errors;
mod readers;
mod record;
mod schema;
mod statements;
mod target;
mod transaction;
mod watching;
mod writer;
mod writes;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Inspection, Lease, RecordId, Store, StoreError, Token, Watch,
};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnection;

use crate::ConnectError;
use errors::{connect_error, store_error};
use readers::Readers;
use record::Record;
use target::Target;
pub use transaction::SqliteTransactions;
use watching::Watchers;
use writer::Writer;
use writes::{Completion, End, To, Write};

const NAME: &str = "sqlite";

/// Settings of a [`SqliteStore`] with a file of its own.
#[must_use]
pub struct SqliteStoreBuilder {
    path: PathBuf,
    busy_timeout: Duration,
    sweep_every: Duration,
}

impl SqliteStoreBuilder {
    /// How long a call waits while another process holds the database's lock; 2 seconds unless
    /// given. Then it fails, and has changed nothing. Below half of the engine's store timeout
    /// it leaves time for a second try.
    pub const fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// How often records whose time is over are deleted, about; every minute unless given, and a
    /// millisecond apart at least.
    /// Until then they take up room, and nothing else: they count as absent.
    pub const fn sweep_every(mut self, pause: Duration) -> Self {
        self.sweep_every = pause;
        self
    }

    /// Opens the file. Where it is missing it is created, in a directory that is there; its
    /// tables are created, or brought to this version.
    ///
    /// # Errors
    /// When the file cannot be opened, created or written, is no SQLite database or a damaged
    /// one, has tables of another's making or of a newer version, or is locked for longer than
    /// the timeout. Nothing that was there is changed then.
    pub async fn connect(self) -> Result<SqliteStore, ConnectError> {
        let target = Target::file(self.path, self.busy_timeout);
        let mut connection = target
            .create(self.busy_timeout)
            .await
            .map_err(connect_error)?;
        schema::migrate(&mut connection).await?;
        checks::run(&mut connection).await.map_err(connect_error)?;
        target::hurries(&mut connection)
            .await
            .map_err(connect_error)?;
        let (opened, sweep_every) = (Some(connection), Some(self.sweep_every));
        let store = SqliteStore::over(target, opened, self.busy_timeout, sweep_every);
        // It sweeps, also where this process never writes.
        store.inner.writer.queue().map_err(ConnectError::Store)?;
        Ok(store)
    }
}

impl fmt::Debug for SqliteStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStoreBuilder")
            .field("busy_timeout", &self.busy_timeout)
            .field("sweep_every", &self.sweep_every)
            .finish_non_exhaustive()
    }
}

/// Keeps records in a SQLite database. Clones share its connections, which close with the last
/// one.
///
/// It may be used from any runtime, and from another one later. A call that is dropped may have
/// its effect all the same, as if its answer was lost.
///
/// Tests move its clock, for every process that uses the database:
/// `UPDATE idem_schema SET clock_offset_ms = clock_offset_ms + 3600000`.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    target: Arc<Target>,
    readers: Readers,
    watchers: Arc<Watchers>,
    writer: Writer,
}

impl SqliteStore {
    /// Starts a store from a URL; see [`connect`](crate::connect()) for what it can say.
    ///
    /// # Errors
    /// When the URL is malformed, or names a database in memory. No message repeats it.
    pub fn builder(url: &str) -> Result<SqliteStoreBuilder, ConnectError> {
        let (path, busy_timeout) = Target::parse(url)?;
        Ok(SqliteStoreBuilder {
            path,
            busy_timeout: busy_timeout.unwrap_or(Duration::from_secs(2)),
            sweep_every: Duration::from_secs(60),
        })
    }

    /// Opens the file that the URL names.
    ///
    /// # Errors
    /// As [`SqliteStore::builder`] and [`SqliteStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url)?.connect().await
    }

    /// Keeps the records in the application's database, beside its own rows. Call
    /// [`migrate`](Self::migrate) before the first use, and [`sweep`](Self::sweep) every now and
    /// then.
    ///
    /// Up to six connections of the store's own are opened with the pool's options, so that the
    /// pool may be as small as it likes. They commit with `synchronous` at `FULL` at least; the
    /// pool's own settings stay as they are, and those that weaken what the store promises are
    /// each a warning. How long a call waits for a lock is the pool's `busy_timeout`.
    ///
    /// # Errors
    /// When the database cannot be opened, is in memory, or has tables of another's making or of
    /// a newer version.
    pub async fn from_pool(pool: &SqlitePool) -> Result<Self, ConnectError> {
        let target = Target::with((*pool.connect_options()).clone());
        let mut connection = target.open().await.map_err(connect_error)?;
        target::refuse_memory(&mut connection).await?;
        schema::check(&mut connection).await?;
        let mut pooled = pool.acquire().await.map_err(connect_error)?;
        checks::run(&mut pooled).await.map_err(connect_error)?;
        // The writer opens its own: this one may have looked before the tables were there.
        let patience = target::patience(&mut connection).await;
        let patience = patience.map_err(connect_error)?;
        Ok(Self::over(target, None, patience, None))
    }

    fn over(
        target: Target,
        opened: Option<SqliteConnection>,
        patience: Duration,
        sweep_every: Option<Duration>,
    ) -> Self {
        let target = Arc::new(target);
        let watchers = Arc::<Watchers>::default();
        let writer = Writer::new(
            Arc::clone(&target),
            opened,
            Arc::clone(&watchers),
            patience,
            sweep_every,
        );
        Self {
            inner: Arc::new(Inner {
                readers: Readers::new(Arc::clone(&target)),
                watchers,
                writer,
                target,
            }),
        }
    }

    /// Creates the tables `idem_schema` and `idem_records`, or brings them to this version; the
    /// statements are in the package's `src/sqlite/migrations`. It may be called again, and by
    /// many processes at once.
    ///
    /// # Errors
    /// As [`SqliteStoreBuilder::connect`]. It is all done, or nothing is.
    pub async fn migrate(&self) -> Result<(), ConnectError> {
        let mut connection = self.inner.target.open().await.map_err(connect_error)?;
        schema::migrate(&mut connection).await
    }

    /// Deletes up to `batch` records whose time is over, in one transaction, and says how many.
    /// A store that was opened by URL does it by itself.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn sweep(&self, batch: u32) -> Result<u64, StoreError> {
        self.inner.writer.ask(batch, Write::Sweep).await
    }

    async fn end(&self, id: &RecordId, token: &Token, to: To) -> Result<Change, StoreError> {
        let end = End {
            id: *id,
            token: *token,
            to,
        };
        self.inner.writer.ask(end, Write::End).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let answer = self
            .inner
            .readers
            .read(async |connection| statements::answer(connection, claim).await)
            .await
            .map_err(store_error)?;
        match answer {
            Some(answer) => Ok(answer),
            None => self.inner.writer.ask(*claim, Write::Claim).await,
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        self.inner.writer.ask(*lease, Write::Renew).await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let completion = Completion {
            lease: *lease,
            outcome,
        };
        self.inner.writer.ask(completion, Write::Complete).await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(id, token, To::Absent).await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(id, token, To::Abandoned).await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let record = self
            .inner
            .readers
            .read(async |connection| statements::look(connection, id, None).await)
            .await
            .map_err(store_error)?;
        Ok(record.map(Record::inspection))
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        // Whose thread looks for what other processes change.
        self.inner.writer.queue()?;
        let watch = self.inner.watchers.watch(id, &self.inner.readers).await;
        watch.map_err(store_error)
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

/// Runs a statement without parameters.
async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(connection).await.map(drop)
}
