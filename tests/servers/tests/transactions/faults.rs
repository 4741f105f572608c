//! Commits whose answers are lost, and bodies whose own SQL fails: the caller is told the truth,
//! and what happened happened once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use idem::store::Claim;
use idem::stores::memory::MemoryStore;
use idem::transactional::{
    BegunTransaction, CommitError, TransactionEnd, TransactionSource, Transactional,
};
use idem::{Engine, EngineBuilder, Error, Fingerprint, InFlight, Operation, StoreError};
use sqlx::{PgPool, Postgres, Sqlite, Transaction};
use tokio::sync::Barrier;

use crate::databases::{postgres, sqlite};

/// What befalls a commit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It happens, and its answer is lost.
    AfterEffect,
    /// It does not, and nobody says so.
    BeforeEffect,
    /// The same, and the database is away from then on.
    ForGood,
}

/// A database one commit of which goes wrong.
pub(crate) struct Faulty<D> {
    database: D,
    fault: Fault,
    commits: Arc<AtomicU32>,
    begins_fail: AtomicU32,
}

/// Marks the sources of this file.
pub(crate) struct Here;

#[derive(Clone)]
pub(crate) struct FaultySource<S> {
    pub(crate) source: S,
    pub(crate) fault: Fault,
    pub(crate) commits: Arc<AtomicU32>,
}

impl<S: TransactionSource<idem::stores::Sqlx>> TransactionSource<Here> for FaultySource<S> {
    type Database = Faulty<S::Database>;

    fn database(&self) -> Self::Database {
        Faulty {
            database: self.source.database(),
            fault: self.fault,
            commits: Arc::clone(&self.commits),
            begins_fail: AtomicU32::new(0),
        }
    }
}

fn lost() -> StoreError {
    StoreError::unavailable("faulty", std::io::Error::other("the answer is lost"))
}

#[async_trait]
impl<D: Transactional> Transactional for Faulty<D> {
    type Transaction = D::Transaction;

    fn name(&self) -> &'static str {
        self.database.name()
    }

    fn database_id(&self) -> Vec<u8> {
        self.database.database_id()
    }

    async fn begin(&self, claim: &Claim) -> Result<BegunTransaction<D::Transaction>, StoreError> {
        if self.begins_fail.load(Ordering::SeqCst) > 0 {
            return Err(lost());
        }
        self.database.begin(claim).await
    }

    async fn commit(
        &self,
        transaction: D::Transaction,
        ended: &TransactionEnd<'_>,
    ) -> Result<(), CommitError> {
        if self.commits.fetch_add(1, Ordering::SeqCst) > 0 {
            return self.database.commit(transaction, ended).await;
        }
        match self.fault {
            Fault::AfterEffect => self.database.commit(transaction, ended).await?,
            Fault::BeforeEffect => drop(transaction),
            Fault::ForGood => {
                drop(transaction);
                self.begins_fail.store(1, Ordering::SeqCst);
            }
        }
        Err(CommitError::Unknown(lost()))
    }

    async fn roll_back(&self, transaction: D::Transaction) -> Result<(), StoreError> {
        self.database.roll_back(transaction).await
    }
}

fn operation() -> Operation {
    let engine = EngineBuilder::new(Arc::new(MemoryStore::new()));
    let engine = engine.store_timeout(Duration::from_secs(2)).build();
    engine.operation("tests.transactions")
}

fn request() -> Fingerprint {
    Fingerprint::of("the request").unwrap()
}

async fn book<Via, S: TransactionSource<Via>>(
    operation: &Operation,
    source: &S,
    value: i64,
) -> Result<i64, Error> {
    operation
        .clone()
        .transaction(source)
        .run("k", request(), |tx| async move { (tx, Ok(value)) })
        .await
}

async fn a_lost_commit<S>(source: S)
where
    S: TransactionSource<idem::stores::Sqlx> + Clone,
{
    let faulty = |fault| FaultySource {
        source: source.clone(),
        fault,
        commits: Arc::default(),
    };
    // It did happen: the caller gets its value, and nothing is run again.
    let effective = faulty(Fault::AfterEffect);
    let operation = operation();
    assert_eq!(book(&operation, &effective, 1).await.unwrap(), 1);
    assert_eq!(book(&operation, &source, 2).await.unwrap(), 1);
}

async fn a_commit_that_never_was<S>(source: S)
where
    S: TransactionSource<idem::stores::Sqlx> + Clone,
{
    let faulty = |fault| FaultySource {
        source: source.clone(),
        fault,
        commits: Arc::default(),
    };
    // It did not happen, and the caller is told.
    let refused = book(&operation(), &faulty(Fault::BeforeEffect), 1).await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    // Nobody can say.
    let refused = book(&operation(), &faulty(Fault::ForGood), 1).await;
    assert!(matches!(refused, Err(Error::Unsettled(_))), "{refused:?}");
    // A retry finds out, and runs.
    let patient = operation().in_flight(InFlight::Wait(Duration::from_secs(30)));
    assert_eq!(book(&patient, &source, 3).await.unwrap(), 3);
}

#[tokio::test]
async fn sqlite_a_commit_whose_answer_is_lost_is_found() {
    let (_file, pool) = sqlite(4).await;
    a_lost_commit(pool).await;
}

#[tokio::test]
async fn sqlite_a_commit_that_was_lost_is_told_apart_and_runs_again() {
    let (_file, pool) = sqlite(4).await;
    a_commit_that_never_was(pool).await;
}

#[tokio::test]
async fn postgres_a_commit_whose_answer_is_lost_is_found() {
    let (_server, pool) = postgres(4).await;
    a_lost_commit(pool).await;
}

#[tokio::test]
async fn postgres_a_commit_that_was_lost_is_told_apart_and_runs_again() {
    let (_server, pool) = postgres(4).await;
    a_commit_that_never_was(pool).await;
}

async fn insert(tx: &mut Transaction<'static, Postgres>, reference: &str) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO entries (reference, amount) VALUES ($1, 1)")
        .bind(reference)
        .execute(&mut **tx)
        .await
        .map(drop)
}

async fn entries(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM entries")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_body_that_swallows_an_error_of_its_sql_cannot_commit() {
    let (_server, pool) = postgres(4).await;
    let swallowed: Result<i64, Error> = operation()
        .transaction(&pool)
        .run("k", request(), |mut tx| async move {
            insert(&mut tx, "before").await.unwrap();
            let failed = sqlx::query("SELECT 1 / 0").execute(&mut *tx).await;
            assert!(failed.is_err());
            (tx, Ok(1))
        })
        .await;
    // PostgreSQL keeps nothing of a transaction that has failed, whatever the body says, and a
    // retry would fail as well.
    assert!(
        matches!(swallowed, Err(Error::CommitRefused(_))),
        "{swallowed:?}"
    );
    assert_eq!(entries(&pool).await, 0);
    assert_eq!(book(&operation(), &pool, 2).await.unwrap(), 2);
}

#[tokio::test]
async fn a_final_error_after_failed_sql_is_stored_alone() {
    let (_server, pool) = postgres(4).await;
    let failing = async || -> Result<i64, String> {
        let outcome: Result<i64, Stored> = operation()
            .transaction(&pool)
            .run_storing_errors("k", request(), |mut tx| async move {
                insert(&mut tx, "before").await.unwrap();
                let failed = sqlx::query("SELECT 1 / 0").execute(&mut *tx).await;
                let Driver(code) = failed.unwrap_err().into();
                (tx, Err(Stored(code)))
            })
            .await;
        outcome.map_err(|Stored(code)| code)
    };
    assert_eq!(failing().await, Err("22012".to_owned()));
    assert_eq!(failing().await, Err("22012".to_owned()));
    assert_eq!(entries(&pool).await, 0);
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Stored(String);

impl From<Error> for Stored {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

#[tokio::test]
async fn a_constraint_that_is_checked_at_the_commit_leaves_nothing_and_frees_the_key() {
    let (_server, pool) = postgres(4).await;
    sqlx::raw_sql("ALTER TABLE entries ADD UNIQUE (reference) DEFERRABLE INITIALLY DEFERRED")
        .execute(&pool)
        .await
        .unwrap();
    let doubled: Result<i64, Error> = operation()
        .transaction(&pool)
        .run("k", request(), |mut tx| async move {
            insert(&mut tx, "same").await.unwrap();
            insert(&mut tx, "same").await.unwrap();
            (tx, Ok(1))
        })
        .await;
    let Err(Error::CommitRefused(source)) = &doubled else {
        panic!("{doubled:?}");
    };
    assert!(source.to_string().contains("unique constraint"), "{source}");
    assert_eq!(entries(&pool).await, 0);
    // A server that refuses a commit says so a moment before it lets go of the record.
    let patient = operation().in_flight(InFlight::Wait(Duration::from_secs(30)));
    assert_eq!(book(&patient, &pool, 2).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_of_the_bodies_sql_is_the_drivers_error_and_frees_the_key() {
    let (_server, pool) = postgres(4).await;
    sqlx::raw_sql("INSERT INTO entries (reference, amount) VALUES ('a', 0), ('b', 0)")
        .execute(&pool)
        .await
        .unwrap();
    let met = Arc::new(Barrier::new(2));
    let cross = |key: &'static str, first: &'static str, second: &'static str| {
        let (pool, met) = (pool.clone(), Arc::clone(&met));
        tokio::spawn(async move {
            let update = "UPDATE entries SET amount = amount + 1 WHERE reference = $1";
            let crossed: Result<u8, Driver> = operation()
                .transaction(&pool)
                .run(key, request(), |mut tx| async move {
                    let ended = async {
                        sqlx::query(update).bind(first).execute(&mut *tx).await?;
                        met.wait().await;
                        sqlx::query(update).bind(second).execute(&mut *tx).await?;
                        Ok(1)
                    };
                    let ended = ended.await;
                    (tx, ended)
                })
                .await;
            crossed
        })
    };
    let (one, other) = (cross("one", "a", "b"), cross("other", "b", "a"));
    let ended = [one.await.unwrap(), other.await.unwrap()];
    let deadlocks = ended.iter().filter_map(|ended| ended.as_ref().err());
    let codes: Vec<_> = deadlocks.map(|Driver(code)| code.as_str()).collect();
    assert_eq!(codes, ["40P01"]);
    let amounts: Vec<i64> = sqlx::query_scalar("SELECT amount FROM entries")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(amounts, [1, 1]);
}

/// The driver's own error, by its code.
#[derive(Debug)]
struct Driver(String);

impl From<Error> for Driver {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl From<sqlx::Error> for Driver {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        Self(code.map_or_else(|| error.to_string(), |code| code.into_owned()))
    }
}

#[tokio::test]
async fn transactions_that_read_snapshots_are_as_safe() {
    let (server, pool) = postgres(1).await;
    let level = "ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'";
    sqlx::raw_sql(level).execute(&pool).await.unwrap();
    drop(pool);
    let pool = sqlx::PgPool::connect(&server.url()).await.unwrap();
    let patient = || {
        let engine = Engine::new(MemoryStore::new());
        let operation = engine.operation("tests.transactions");
        operation.in_flight(InFlight::Wait(Duration::from_secs(60)))
    };
    for key in 0..20 {
        let calls = (0..4_i64).map(|value| {
            let (pool, operation) = (pool.clone(), patient());
            tokio::spawn(async move {
                loop {
                    let booked: Result<i64, Error> = operation
                        .clone()
                        .transaction(&pool)
                        .run(&key, request(), |mut tx| async move {
                            let insert = "INSERT INTO entries VALUES ($1, $2)";
                            let inserted = sqlx::query(insert)
                                .bind(key.to_string())
                                .bind(value)
                                .execute(&mut *tx)
                                .await;
                            let inserted = inserted.map(|_| value);
                            (tx, inserted.map_err(|_| Error::NoEngine))
                        })
                        .await;
                    match booked {
                        Ok(value) => return value,
                        // A serialization failure: as a client would, again.
                        Err(Error::Store(_) | Error::NoEngine | Error::InFlight { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        let answers = futures_util::future::join_all(calls).await;
        let first = answers[0].as_ref().unwrap();
        assert!(
            answers
                .iter()
                .all(|answer| answer.as_ref().unwrap() == first)
        );
    }
    assert_eq!(entries(&pool).await, 20);
}

#[tokio::test]
async fn sqlite_a_body_whose_transaction_was_rolled_back_under_it_stores_nothing() {
    let (_file, pool) = sqlite(4).await;
    let run = async |sql: &'static str| sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    run("CREATE UNIQUE INDEX one ON entries (reference); INSERT INTO entries VALUES ('taken', 1)")
        .await;
    let call = async |reference: &'static str| -> Result<i64, Error> {
        let body = |mut tx: Transaction<'static, Sqlite>| async move {
            for reference in ["own", reference] {
                let insert = "INSERT OR ROLLBACK INTO entries VALUES ($1, 2)";
                let insert = sqlx::query(insert).bind(reference).execute(&mut *tx);
                // A body that swallows the error of its SQL.
                let _ = insert.await;
            }
            (tx, Ok(7))
        };
        let transaction = operation().transaction(&pool);
        transaction.run("k", request(), body).await
    };
    let Err(Error::CommitRefused(source)) = call("taken").await else {
        panic!("it was committed, or is to be tried again");
    };
    assert!(source.to_string().contains("had ended before its commit"));
    let count = async |sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap()
    };
    assert_eq!(count("SELECT count(*) FROM entries").await, 1);
    assert_eq!(count("SELECT count(*) FROM idem_records").await, 0);
    // The key is free, and the connection is fit for use.
    assert_eq!(call("other").await.unwrap(), 7);
    assert_eq!(count("SELECT count(*) FROM entries").await, 3);
}

#[tokio::test]
async fn sqlite_a_constraint_that_is_checked_at_the_commit_is_the_applications_and_frees_the_key() {
    let (_file, pool) = sqlite(1).await;
    let tables = "
        CREATE TABLE accounts (id INTEGER PRIMARY KEY);
        CREATE TABLE bookings (
            account INTEGER NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED
        );
        INSERT INTO accounts VALUES (1)";
    sqlx::raw_sql(tables).execute(&pool).await.unwrap();
    let book = async |account: i64| -> Result<i64, Error> {
        let body = |mut tx: Transaction<'static, Sqlite>| async move {
            let insert = sqlx::query("INSERT INTO bookings VALUES ($1)").bind(account);
            insert.execute(&mut *tx).await.unwrap();
            (tx, Ok(account))
        };
        let transaction = operation().transaction(&pool);
        transaction.run("k", request(), body).await
    };
    for _ in 0..2 {
        let refused = book(2).await;
        let Err(Error::CommitRefused(source)) = refused else {
            panic!("{refused:?}");
        };
        // The driver's own error.
        let source = source.downcast_ref::<sqlx::Error>().unwrap();
        let code = source.as_database_error().unwrap().code();
        assert_eq!(code.as_deref(), Some("787"));
    }
    let count = async |sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap()
    };
    assert_eq!(count("SELECT count(*) FROM bookings").await, 0);
    assert_eq!(count("SELECT count(*) FROM idem_records").await, 0);
    // The key is free, and the pool's one connection is fit for use.
    assert_eq!(book(1).await.unwrap(), 1);
    assert_eq!(count("SELECT count(*) FROM bookings").await, 1);
}

#[tokio::test]
async fn sqlite_a_trigger_that_raises_is_the_bodys_error_and_its_end_the_applications() {
    let (_file, pool) = sqlite(1).await;
    for (raises, commits) in [("ABORT", true), ("FAIL", true), ("ROLLBACK", false)] {
        let trigger = format!(
            "DROP TRIGGER IF EXISTS theirs;
             CREATE TRIGGER theirs BEFORE INSERT ON entries WHEN NEW.reference = 'refused' BEGIN
               SELECT RAISE({raises}, 'as the test asked'); END"
        );
        let trigger = sqlx::raw_sql(sqlx::AssertSqlSafe(trigger));
        trigger.execute(&pool).await.unwrap();
        // A body that swallows the error.
        let answer: Result<i64, Error> = operation()
            .transaction(&pool)
            .run(raises, request(), |mut tx| async move {
                let refused = sqlx::query("INSERT INTO entries VALUES ('refused', 1)");
                assert!(refused.execute(&mut *tx).await.is_err());
                (tx, Ok(1))
            })
            .await;
        match answer {
            Ok(1) => assert!(commits, "{raises}"),
            Err(Error::CommitRefused(_)) => assert!(!commits, "{raises}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn sqlite_a_lock_that_is_held_when_it_commits_is_no_fault_of_the_application() {
    // Without a write-ahead log a reader keeps a commit waiting.
    let (_file, pool) = sqlite(4).await;
    let mode = "PRAGMA journal_mode = DELETE";
    let options = (*pool.connect_options()).clone();
    pool.close().await;
    let options = options
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Delete)
        .busy_timeout(Duration::from_millis(100));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(mode).execute(&pool).await.unwrap();
    let mut reads = pool.begin().await.unwrap();
    let look = "SELECT count(*) FROM entries";
    let _: i64 = sqlx::query_scalar(look)
        .fetch_one(&mut *reads)
        .await
        .unwrap();
    let refused = book(&operation(), &pool, 1).await;
    assert!(
        matches!(refused, Err(Error::Store(StoreError::Busy { .. }))),
        "{refused:?}"
    );
    reads.rollback().await.unwrap();
    assert_eq!(book(&operation(), &pool, 2).await.unwrap(), 2);
}

/// A database whose commit gets lost, and another attempt finishes meanwhile.
struct Overtaken(PgPool);

impl TransactionSource<Here> for Overtaken {
    type Database = Overtaken;

    fn database(&self) -> Self::Database {
        Self(self.0.clone())
    }
}

/// An outcome that is too large to be stored.
fn large(of: &'static str) -> String {
    of.repeat(2000)
}

async fn book_large<Via, S: TransactionSource<Via>>(
    source: &S,
    of: &'static str,
) -> Result<String, Error> {
    let engine = EngineBuilder::new(Arc::new(MemoryStore::new()));
    let engine = engine.max_outcome_bytes(1000).build();
    engine
        .operation("tests.transactions")
        .in_flight(InFlight::Wait(Duration::from_secs(30)))
        .transaction(source)
        .run("k", request(), |tx| async move { (tx, Ok(large(of))) })
        .await
}

#[async_trait]
impl Transactional for Overtaken {
    type Transaction = Transaction<'static, Postgres>;

    fn name(&self) -> &'static str {
        "overtaken"
    }

    fn database_id(&self) -> Vec<u8> {
        Vec::new()
    }

    async fn begin(
        &self,
        claim: &Claim,
    ) -> Result<BegunTransaction<Self::Transaction>, StoreError> {
        self.0.database().begin(claim).await
    }

    async fn commit(
        &self,
        transaction: Self::Transaction,
        _: &TransactionEnd<'_>,
    ) -> Result<(), CommitError> {
        drop(transaction);
        let other = book_large(&self.0, "other").await;
        assert_eq!(other.unwrap(), large("other"));
        Err(CommitError::Unknown(lost()))
    }

    async fn roll_back(&self, transaction: Self::Transaction) -> Result<(), StoreError> {
        self.0.database().roll_back(transaction).await
    }
}

#[tokio::test]
async fn what_was_rolled_back_is_no_answer_where_the_stored_one_cannot_tell() {
    let (_server, pool) = postgres(4).await;
    let refused = book_large(&Overtaken(pool), "one").await;
    assert!(
        matches!(refused, Err(Error::NotReplayable(_))),
        "{refused:?}"
    );
}
