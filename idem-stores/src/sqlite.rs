//! The store of one machine: a SQLite file, durable, without a server.
//!
//! One row per record, one statement per transition, and the machine's clock as SQLite reads it.
//! A claim is looked up first, on a connection that only reads: what is finished, running or
//! another request's needs no write, and waits for nobody. What has to be written goes through
//! one writer, which commits together whatever was asked for meanwhile. Every commit is on the
//! disk before it is acknowledged.
//!
//! Who holds a lease goes first: renewals and the ends of attempts are written before claims, and
//! claims wait in a queue with a bound. One that finds it full fails at once.
//!
//! Processes of one machine share the file; SQLite's lock decides between them. A file on a
//! network file system is nobody's to promise anything about. When the file is replaced while it is
//! open, the store goes on with the one that is there now if it has the store's tables; when it is
//! moved or deleted, the store refuses.
//!
//! | to find | look in |
//! |---|---|
//! | the tables | `migrations` |
//! | the statements, and the clock | `statements`, and the files beside it |
//! | what a row says | `record` |
//! | grouped commits | `writer`, `writes` |
//! | who goes first, and who is refused | `lanes` |
//! | connections that only read | `readers` |
//! | waking waiters | `watching` |
//! | claims inside the application's transactions | `transaction`, `pools` |
//! | what a URL says, and how connections are opened | `target` |
//! | whether the file is still the one that was opened | `file` |
//! | whose the tables are | `schema` |
//! | what an error means | `errors` |
//! | what is refused or warned of at start-up | `checks` |
//! | deleting what has expired | `sweeping` |
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

mod builder;
mod checks;
mod errors;
mod file;
mod lanes;
mod pools;
mod readers;
mod record;
mod schema;
mod statements;
mod sweeping;
mod target;
mod transaction;
mod watching;
mod writer;
mod writes;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Inspection, Lease, RecordId, Store, StoreError, Token, Watch,
};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnection;

use crate::ConnectError;
use builder::Limits;
pub use builder::{SqlitePoolBuilder, SqliteStoreBuilder};
use readers::Readers;
use record::Record;
use target::{Opened, Target};
pub use transaction::SqliteTransactions;
use watching::Watchers;
use writer::Writer;
use writes::{Change as Changing, Completion, End, To};

const NAME: &str = "sqlite";

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
    /// The statements that make the tables, one text for each version, to be run by hand or by the
    /// application's own migrations: in this order, each in one transaction, once.
    pub const MIGRATIONS: &[&str] = schema::MIGRATIONS;

    /// Starts a store from a URL; see [`connect`](crate::connect()) for what it can say.
    ///
    /// # Errors
    /// When the URL is malformed, or names a database in memory. No message repeats it.
    pub fn builder(url: &str) -> Result<SqliteStoreBuilder, ConnectError> {
        SqliteStoreBuilder::of_url(url)
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
    /// Up to six connections of the store's own are opened with the pool's options, so that the
    /// pool may be as small as it likes, and whoever holds a lease never waits for it. They commit
    /// with `synchronous` at `EXTRA`; the pool's own settings stay as they are, and those that
    /// weaken what the store promises are each a warning. How long a call waits for a lock is the
    /// pool's `busy_timeout`.
    ///
    /// # Errors
    /// When the database cannot be opened, is in memory, keeps no journal on the disk, or has tables
    /// of another's making or of a version that this one may not use.
    pub async fn from_pool(pool: &SqlitePool) -> Result<Self, ConnectError> {
        Self::pool_builder(pool).connect().await
    }

    /// The same, with settings.
    pub fn pool_builder(pool: &SqlitePool) -> SqlitePoolBuilder {
        SqlitePoolBuilder::over(pool.clone())
    }

    fn over(target: Target, opened: Option<Opened>, limits: Limits) -> Result<Self, ConnectError> {
        let target = Arc::new(target);
        let watchers = Arc::<Watchers>::default();
        let readers = Readers::new(Arc::clone(&target), &limits);
        let writer = Writer::new(Arc::clone(&target), opened, Arc::clone(&watchers), limits);
        // It sweeps, also where this process never writes.
        writer.start().map_err(ConnectError::Store)?;
        Ok(Self {
            inner: Arc::new(Inner {
                readers,
                watchers,
                writer,
                target,
            }),
        })
    }

    /// Creates the tables `idem_schema` and `idem_records`, or brings them to this version; the
    /// statements are in the package's `src/sqlite/migrations`. It may be called again, and by
    /// many processes at once.
    ///
    /// # Errors
    /// As [`SqliteStoreBuilder::connect`]. It is all done, or nothing is.
    pub async fn migrate(&self) -> Result<(), ConnectError> {
        let mut opened = self.inner.target.open().await?;
        schema::migrate(&mut opened.connection).await
    }

    /// Deletes up to `batch` records whose time is over, in one transaction, and says how many: none
    /// only where none is left, and fewer where their outcomes come to more than 4 MiB.
    /// The store does it by itself, unless it was told not to.
    ///
    /// # Errors
    /// When the database cannot be written, or too many calls wait for it.
    pub async fn sweep(&self, batch: u32) -> Result<u64, StoreError> {
        let writer = &self.inner.writer;
        writer
            .ask_in_the_queue(batch, Instant::now(), Changing::Sweep)
            .await
    }

    async fn end(&self, id: &RecordId, token: &Token, to: To) -> Result<Change, StoreError> {
        let end = End {
            id: *id,
            token: *token,
            to,
        };
        self.inner.writer.ask(end, Changing::End).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let since = Instant::now();
        let Inner {
            readers, writer, ..
        } = &*self.inner;
        let answer = readers
            .read(since, async |connection| {
                statements::answer(connection, claim).await
            })
            .await?;
        match answer {
            Some(answer) => Ok(answer),
            None => {
                writer
                    .ask_in_the_queue(*claim, since, Changing::Claim)
                    .await
            }
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        self.inner.writer.ask(*lease, Changing::Renew).await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let completion = Completion {
            lease: *lease,
            outcome,
        };
        self.inner.writer.ask(completion, Changing::Complete).await
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
            .read(Instant::now(), async |connection| {
                statements::look(connection, id, None).await
            })
            .await?;
        Ok(record.map(Record::inspection))
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        // Whose thread looks for what other processes change.
        self.inner.writer.start()?;
        self.inner.watchers.watch(id, &self.inner.readers).await
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
