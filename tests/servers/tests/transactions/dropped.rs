//! Calls that are dropped wherever they wait: no transaction stays open, and no connection goes
//! back into the application's pool in one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use idem::stores::memory::MemoryStore;
use idem::stores::postgres::PostgresStore;
use idem::{Engine, EngineBuilder, Error, Fingerprint, StoreError};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::databases::{postgres, sqlite};

/// It bounds a hang, and says nothing of speed.
const LIMIT: Duration = Duration::from_secs(60);

/// A future that is given up where it waits for the last of so many times.
struct GivenUp<F> {
    future: Pin<Box<F>>,
    polls: u32,
}

impl<F: Future> Future for GivenUp<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.polls -= 1;
        match self.future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.polls == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// `None` where it was dropped.
async fn given_up_after<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let future = Box::pin(future);
    GivenUp { future, polls }.await
}

macro_rules! book {
    ($pool:ident, $key:expr) => {{
        let engine = Engine::new(MemoryStore::new());
        let (pool, key) = ($pool.clone(), $key);
        async move {
            let booked: Result<i64, Error> = engine
                .operation("tests.dropped")
                .transaction(&pool)
                .run(
                    &key,
                    Fingerprint::of("the request").unwrap(),
                    |mut tx| async move {
                        let insert = "INSERT INTO entries (reference, amount) VALUES ('k', 1)";
                        sqlx::query(insert).execute(&mut *tx).await.unwrap();
                        (tx, Ok(1))
                    },
                )
                .await;
            booked
        }
    }};
}

async fn is_at_rest(watcher: &PgPool) {
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
        AND state <> 'idle' AND backend_type = 'client backend'";
    // What was dropped is rolled back in the background.
    let began = Instant::now();
    loop {
        let busy: i64 = sqlx::query_scalar(busy).fetch_one(watcher).await.unwrap();
        if busy == 0 {
            return;
        }
        assert!(began.elapsed() < LIMIT, "a transaction stays open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn postgres_a_call_that_is_dropped_anywhere_leaves_no_transaction_open() {
    let (server, pool) = postgres(1).await;
    let watcher = PgPool::connect(&server.url()).await.unwrap();
    let count = async |table: &str| -> i64 {
        let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        sqlx::query_scalar(count).fetch_one(&watcher).await.unwrap()
    };
    let mut of_the_application = 0;
    // Thrice: where it waits depends on how fast the server is.
    for polls in (1..12).cycle().take(33) {
        let ended = given_up_after(polls, book!(pool, of_the_application)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        // What the application writes on the pool's one connection is committed.
        sqlx::query("CREATE TABLE IF NOT EXISTS own AS SELECT 1 AS one")
            .execute(&pool)
            .await
            .unwrap();
        sqlx::query("INSERT INTO own VALUES (1)")
            .execute(&pool)
            .await
            .unwrap();
        of_the_application += 1;
        assert_eq!(count("own").await, 1 + of_the_application, "{polls}");
        is_at_rest(&watcher).await;
        assert_eq!(count("entries").await, count("idem_records").await);
        if let Some(booked) = ended {
            assert_eq!(booked.unwrap(), 1);
        }
    }
    assert!(count("entries").await > 0, "it was never run to its end");
}

#[tokio::test]
async fn postgres_calls_of_a_server_that_stood_still_leave_no_transaction_open() {
    let (server, pool) = postgres(4).await;
    let watcher = PgPool::connect(&server.url()).await.unwrap();
    let [impatient, patient] = [Duration::from_millis(300), LIMIT].map(|timeout| {
        let engine = EngineBuilder::new(Arc::new(MemoryStore::new()));
        engine.store_timeout(timeout).build()
    });
    let call = async |engine: &Engine, key: i64| -> Result<i64, Error> {
        engine
            .operation("tests.dropped")
            .transaction(&pool)
            .run(&key, Fingerprint::of("the request").unwrap(), |tx| async {
                (tx, Ok(1))
            })
            .await
    };
    // All connections are open, and rest.
    for answer in join_all((0..4).map(|key| call(&patient, key))).await {
        answer.unwrap();
    }
    is_at_rest(&watcher).await;
    server.pause();
    for refused in join_all((4..8).map(|key| call(&impatient, key))).await {
        // Nobody looks for the trouble in another place.
        let Err(Error::Store(StoreError::TimedOut { store, .. })) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(store, "postgres");
    }
    server.resume();
    is_at_rest(&watcher).await;
    for key in 4..8 {
        assert_eq!(call(&patient, key).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn sqlite_a_call_that_is_dropped_anywhere_leaves_no_transaction_open() {
    let (_file, pool) = sqlite(1).await;
    let count = async |sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap()
    };
    for polls in 1..40 {
        let ended = given_up_after(polls, book!(pool, polls)).await;
        // The pool's one connection, and the file's one lock.
        let free = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        free.rollback().await.unwrap();
        assert_eq!(
            count("SELECT count(*) FROM entries").await,
            count("SELECT count(*) FROM idem_records").await
        );
        if let Some(booked) = ended {
            assert_eq!(booked.unwrap(), 1);
        }
    }
    assert!(count("SELECT count(*) FROM entries").await > 0);
}

#[tokio::test]
async fn postgres_a_migration_that_is_dropped_anywhere_leaves_no_transaction_open() {
    let server = tokio::task::spawn_blocking(idem_tests::Postgres::start)
        .await
        .unwrap();
    let watcher = PgPool::connect(&server.url()).await.unwrap();
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect(&server.url()).await.unwrap();
    let store = PostgresStore::from_pool(pool.clone());
    let mut dropped = 0;
    // Until it ends before it is dropped.
    for polls in 1.. {
        let migrated = given_up_after(polls, store.migrate()).await;
        is_at_rest(&watcher).await;
        sqlx::raw_sql("DROP TABLE IF EXISTS idem_records, idem_schema")
            .execute(&watcher)
            .await
            .unwrap();
        if let Some(migrated) = migrated {
            migrated.unwrap();
            break;
        }
        dropped = polls;
    }
    println!("dropped at {dropped} points");
    assert!(dropped > 10);
    store.migrate().await.unwrap();
}
