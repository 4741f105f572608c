//! The store of many processes beside the business data: PostgreSQL 14 and newer.
//!
//! One row per record, one statement and one round trip per transition, and the server's clock. A claim reads first and writes only where it must, so a replay leaves nothing behind: no
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
//! | how a statement is sent, and how it knows that it was the one | `statement` |
//! | who goes first, and how many wait | `gate` |
//! | connections, and what happens when a call is dropped | `connections`, `own`, `shared` |
//! | sessions that hang | `hung` |
//! | what an error means | `errors` |
//! | poolers | `pooler` |
//! | waking waiters | `watching` |
//! | deleting what has expired | `sweeping` |
//! | claims inside the application's transactions | `transaction` |
//! | what a URL says | `target`, `builder` |
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
//! # Ok(())
//! # }
//! ```

mod builder;
mod checks;
mod connections;
mod errors;
mod gate;
mod hung;
mod own;
mod pooler;
mod pools;
mod schema;
mod shared;
mod statement;
mod statements;
mod sweeping;
mod target;
mod transaction;
mod watching;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Inspection, Lease, RecordId, Store, StoreError, Token, Watch,
};
use sqlx::PgPool;
use tracing::warn;

use crate::ConnectError;
pub use builder::{PostgresPoolBuilder, PostgresStoreBuilder};
use connections::Connections;
use errors::is_read_only;
use gate::Lane;
use pools::OfPool;
use statement::Statement;
use sweeping::{Sweeper, Sweeping};
pub use target::Pooler;
pub use transaction::PgTransactions;
use watching::Watching;

const NAME: &str = "postgres";

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
    sweeper: Sweeper,
    sweeping: Mutex<Option<Sweeping>>,
    /// Sweeps while the store is used, and how often.
    of_pool: Option<(Arc<OfPool>, Duration)>,
}

impl Inner {
    fn sweeping(&self) -> MutexGuard<'_, Option<Sweeping>> {
        self.sweeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where nothing sweeps all the time.
    fn sweep_in_time(&self) {
        if let Some((of_pool, every)) = &self.of_pool
            && self.sweeping().is_none()
        {
            of_pool.sweep_in_time(*every, || self.connections.clone());
        }
    }
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
        PostgresStoreBuilder::of_url(url)
    }

    /// Connects to what the URL names.
    ///
    /// # Errors
    /// As [`PostgresStore::builder`] and [`PostgresStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url)?.connect().await
    }

    /// A store over the application's own pool, as it is. Nothing is asked of the server yet, and
    /// nothing is migrated: see [`migrate`](Self::migrate).
    ///
    /// A call takes at most 2 seconds, whatever the pool would wait. Each one costs the server a
    /// second, shorter look, when the pool asks whether a connection that was returned still
    /// answers, and a third one unless `test_before_acquire` is off. Where somebody waits, one
    /// connection beside the pool is open, and another one while the server is asked to end
    /// sessions that hang.
    ///
    /// While leases are held, one of the pool's connections is kept aside for those who hold them,
    /// and two of a pool of eight or more: the application can use all the others, and no lease is
    /// lost for it. A pool of one connection has none to spare: a renewal then waits for it like
    /// anybody else, which is warned of.
    ///
    /// Records whose time is over are deleted while the store is used, once a minute; see
    /// [`PostgresPoolBuilder::sweep_every`].
    ///
    /// What the application leaves behind on a connection is in the store's way, too: with `sqlx`
    /// 0.9 a [`begin`](sqlx::Pool::begin) that is dropped before it was answered leaves a transaction
    /// open there, and what is written in it, records as well, is not committed. Where that may
    /// happen, in handlers that end with their clients say, give the store connections of its own.
    pub fn from_pool(pool: PgPool) -> Self {
        Self::pool_builder(pool).build()
    }

    /// The same, with settings.
    pub fn pool_builder(pool: PgPool) -> PostgresPoolBuilder {
        PostgresPoolBuilder::over(pool)
    }

    fn over(connections: Connections, of_pool: Option<(Arc<OfPool>, Duration)>) -> Self {
        Self {
            inner: Arc::new(Inner {
                watching: Watching::new(connections.clone()),
                connections,
                sweeper: Sweeper::default(),
                sweeping: Mutex::default(),
                of_pool,
            }),
        }
    }

    /// Brings the tables to this version, in one transaction. Of many processes that do so at
    /// once one does, and the others wait for it, for as long as it takes. Claims and the ends of
    /// attempts go on meanwhile. Where the tables are of this version already, or of a newer one
    /// that this one may use, nothing is locked and no right to make tables is needed. Dropping
    /// the future rolls back.
    ///
    /// The application's own migrations are neither used nor disturbed.
    ///
    /// # Errors
    /// When the server cannot be reached, the tables may not be made or changed, or they are of a
    /// newer version that this one may not use; and where a pooler gives each transaction another
    /// session and nobody has said so.
    pub async fn migrate(&self) -> Result<(), ConnectError> {
        let connections = &self.inner.connections;
        if connections.as_pool().is_some() && connections.have_sessions() {
            pooler::prove_pool(connections).await?;
        }
        connections
            .with(async |connection| schema::migrate(connection).await)
            .await
    }

    /// The same. Tables of an older version that may not be changed are used as they are: not by
    /// this login, or not on a standby.
    async fn migrate_if_allowed(&self) -> Result<(), ConnectError> {
        let Err(refused) = self.migrate().await else {
            return Ok(());
        };
        if !matches!(refused, ConnectError::Unfit { .. }) || self.check().await.is_err() {
            return Err(refused);
        }
        warn!(
            target: "idem",
            error = &refused as &dyn std::error::Error,
            "the tables of the postgres store are of an older version and are used as they are; let their owner run the migrations"
        );
        Ok(())
    }

    async fn check(&self) -> Result<(), ConnectError> {
        let connections = &self.inner.connections;
        connections
            .with(async |connection| schema::check(connection).await)
            .await
    }

    /// Deletes records whose time is over, at most `batch` of them, oldest first, in short
    /// transactions of their own: one, unless their outcomes are so large that it would take longer
    /// than a call may. None that somebody else has locked is waited for. Answers how many it
    /// deleted: as many as `batch` says that there may be more. A thousand take some twenty
    /// milliseconds.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses it.
    pub async fn sweep(&self, batch: u32) -> Result<u64, StoreError> {
        let Inner {
            connections,
            sweeper,
            ..
        } = &*self.inner;
        let mut progress = sweeping::Progress::default();
        sweeper
            .sweep(connections, batch.into(), &mut progress)
            .await
    }

    /// Deletes records whose time is over in the background from now on, in batches, after each
    /// pause, whether the store is used or not; it is drawn between half of `pause` (a millisecond at least) and all of it, so that
    /// processes do not sweep at once. Ends with the store's last clone, or when this is called again.
    ///
    /// # Panics
    /// When called outside of a Tokio runtime.
    pub fn sweep_every(&self, pause: Duration) {
        let sweeping = Sweeping::start(self.inner.connections.clone(), pause);
        *self.inner.sweeping() = Some(sweeping);
    }

    /// A change that needs the token. Where the record is absent, and was so before anybody else
    /// can have claimed it, it is created again.
    async fn change(
        &self,
        lane: Lane,
        statement: Statement<'_>,
        recreate: Option<Statement<'_>>,
    ) -> Result<Change, StoreError> {
        let mut asking = self.inner.connections.begin(lane).await?;
        let mut answer = asking.ask(&statement, statements::applied).await;
        if let (Ok(false), Some(recreate)) = (&answer, recreate) {
            answer = asking.ask(&recreate, statements::applied).await;
            if let Ok(false) = answer {
                // Another call of the same owner's may have been faster.
                answer = asking.ask(&statement, statements::applied).await;
            }
        }
        Ok(match asking.end(answer)? {
            true => Change::Applied,
            false => Change::LeaseLost,
        })
    }

    /// The end of an attempt.
    async fn end(
        &self,
        token: &Token,
        statement: Statement<'_>,
        recreate: Option<Statement<'_>>,
    ) -> Result<Change, StoreError> {
        let change = self.change(Lane::End, statement, recreate).await?;
        self.inner.connections.has_ended(token);
        Ok(change)
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let connections = &self.inner.connections;
        let mut asking = connections.begin(Lane::Other).await?;
        let statement = statements::claim(claim);
        let mut answer = asking.ask(&statement, statements::claimed).await;
        match &answer {
            Ok(Claimed::Acquired { .. }) => {
                connections.holds(&claim.token, claim.lease);
                self.inner.sweep_in_time();
            }
            // What is finished is so for good: no write is needed to say so.
            Err(error) if is_read_only(error) => {
                let finished = statements::finished(claim);
                if let Ok(Some(finished)) = asking.once(&finished, statements::claimed).await {
                    answer = Ok(finished);
                }
            }
            _ => {}
        }
        asking.end(answer)
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        let recreate = lease.unbroken.then(|| statements::recreate(lease, None));
        let renewed = self.change(Lane::Renewal, statements::renew(lease), recreate);
        let change = renewed.await?;
        match change {
            Change::Applied => self.inner.connections.holds(&lease.token, lease.duration),
            _ => self.inner.connections.has_ended(&lease.token),
        }
        Ok(change)
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let recreate = || statements::recreate(lease, Some(&outcome));
        let recreate = lease.unbroken.then(recreate);
        let statement = statements::complete(lease, &outcome);
        self.end(&lease.token, statement, recreate).await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(token, statements::release(id, token), None).await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(token, statements::abandon(id, token), None).await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let inspect = statements::inspect(id);
        let connections = &self.inner.connections;
        connections
            .ask(Lane::Other, &inspect, statements::inspection)
            .await
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let connections = &self.inner.connections;
        if !connections.have_sessions() {
            return Ok(Watch::never());
        }
        let subscription = self.inner.watching.subscribe(*id).await?;
        let watch = statements::watch(id);
        let runs = connections
            .ask(Lane::Other, &watch, statements::runs)
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
