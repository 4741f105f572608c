//! PgBouncer in between: one that gives each transaction another session is seen when a store
//! connects, and does no harm where the store is told of it.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use idem::conformance::{Harness, assert_conforms};
use idem::store::Store;
use idem::stores::postgres::{PgTransactions, Pooler, PostgresStore};
use idem::{
    ConnectError, Engine, EngineBuilder, Error, Fingerprint, InFlight, OnCrash, StoreError,
};
use idem_tests::{PgBouncer, PoolMode, Postgres};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::task::JoinSet;

use crate::limits::{impatient, patient_at};
use crate::logins::exercise;

/// What a client connects with that is no store.
fn options(url: &str) -> PgConnectOptions {
    let options = PgConnectOptions::from_str(url).unwrap();
    options.extra_float_digits(None).statement_cache_capacity(0)
}

/// What another application's sessions have.
const SETTINGS: &str = "SELECT current_setting('statement_timeout'), \
    current_setting('enable_seqscan'), current_setting('jit'), \
    current_setting('search_path'), current_setting('default_transaction_read_only')";

/// Looks at as many of the pooler's sessions as there are.
async fn are_untouched(pooler: &PgBouncer) {
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let options = options(&pooler.url());
        clients.spawn(async move {
            let mut client = PgConnection::connect_with(&options).await.unwrap();
            let query = format!("BEGIN; SELECT pg_sleep(0.1); {SETTINGS}; COMMIT");
            let query = sqlx::raw_sql(sqlx::AssertSqlSafe(query));
            let rows = query.fetch_all(&mut client).await.unwrap();
            let row = rows.last().unwrap();
            use sqlx::Row;
            (0..5)
                .map(|column| row.get::<String, _>(column))
                .collect::<Vec<_>>()
        });
    }
    while let Some(seen) = clients.join_next().await {
        assert_eq!(seen.unwrap(), ["0", "on", "on", "\"$user\", public", "off"]);
    }
}

async fn is_refused(url: &str) {
    let started = Instant::now();
    let Err(error @ ConnectError::Unfit { .. }) = PostgresStore::connect(url).await else {
        panic!("{url} is no place for a store");
    };
    assert!(error.to_string().contains("pooler=transaction"), "{error}");
    println!("refused after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_of_transactions_is_refused_when_connecting() {
    let postgres = Postgres::start();
    // Of many, few or one session, given first in first out or last in first out, with options that
    // are refused or dropped.
    let kinds: [&[(&str, &str)]; 6] = [
        &[],
        &[("server_round_robin", "1")],
        &[("default_pool_size", "1")],
        &[("default_pool_size", "2"), ("server_round_robin", "1")],
        &[("min_pool_size", "10"), ("server_round_robin", "1")],
        &[("ignore_startup_parameters", "options,extra_float_digits")],
    ];
    for settings in kinds {
        let pooler = PgBouncer::with(&postgres, PoolMode::Transaction, settings);
        println!("{settings:?}");
        is_refused(&pooler.url()).await;
        let pool = PgPoolOptions::new().connect_lazy_with(options(&pooler.url()));
        let refused = PostgresStore::from_pool(pool).migrate().await.unwrap_err();
        assert!(
            refused.to_string().contains("Pooler::Transaction"),
            "{refused}"
        );
        are_untouched(&pooler).await;
    }
    assert_eq!(
        postgres.psql("SELECT to_regclass('idem_records') IS NULL"),
        "t"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_is_busy_is_refused_as_well() {
    let postgres = Postgres::start();
    for settings in [
        &[("default_pool_size", "3")] as &[_],
        &[("default_pool_size", "3"), ("server_round_robin", "1")],
    ] {
        let pooler = PgBouncer::with(&postgres, PoolMode::Transaction, settings);
        let busy = Arc::new(AtomicBool::new(true));
        let mut clients = JoinSet::new();
        for _ in 0..10 {
            let (options, busy) = (options(&pooler.url()), Arc::clone(&busy));
            clients.spawn(async move {
                let mut client = PgConnection::connect_with(&options).await.unwrap();
                while busy.load(Ordering::SeqCst) {
                    let short = sqlx::raw_sql("SELECT pg_sleep(0.002)");
                    short.execute(&mut client).await.unwrap();
                }
            });
        }
        for _ in 0..5 {
            is_refused(&pooler.url()).await;
        }
        busy.store(false, Ordering::SeqCst);
        clients.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_of_sessions_is_as_good_as_none() {
    let postgres = Postgres::start();
    let kinds: [&[(&str, &str)]; 3] = [
        &[],
        &[("server_round_robin", "1")],
        &[("ignore_startup_parameters", "options,extra_float_digits")],
    ];
    for (round, settings) in (0..).zip(kinds) {
        let pooler = PgBouncer::with(&postgres, PoolMode::Session, settings);
        let store = patient_at(&pooler.url()).await;
        exercise(&store, round * 10).await;
        let pool = PgPoolOptions::new().connect_with(options(&pooler.url()));
        let pooled = PostgresStore::from_pool(pool.await.unwrap());
        pooled.migrate().await.unwrap();
        exercise(&pooled, round * 10 + 5).await;
        drop((store, pooled));
        // The pooler cleans a session before it gives it to somebody else.
        are_untouched(&pooler).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_pooler_have_the_settings_that_the_store_asks_for() {
    let postgres = Postgres::start();
    let refusing = PgBouncer::start(&postgres, PoolMode::Session);
    let dropping = [("ignore_startup_parameters", "options")];
    let dropping = PgBouncer::with(&postgres, PoolMode::Session, &dropping);
    patient_at(&postgres.url()).await;
    // A sequential scan of a table of one row, unless the session says otherwise, shows it.
    postgres.psql(
        "CREATE FUNCTION says() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            RAISE EXCEPTION 'settings: %, %, %', current_setting('enable_seqscan'), \
                current_setting('jit'), current_setting('statement_timeout'); END $$; \
         CREATE TRIGGER says BEFORE INSERT ON idem_records FOR EACH ROW EXECUTE FUNCTION says()",
    );
    for url in [postgres.url(), refusing.url(), dropping.url()] {
        let url = format!("{url}?timeout=20s");
        let store = PostgresStore::connect(&url).await.unwrap();
        let refused = store
            .claim(&crate::conformance::claim(1))
            .await
            .unwrap_err();
        let said = std::error::Error::source(&refused).unwrap().to_string();
        assert!(said.contains("settings: off, off, 20s"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_with_one_session_is_not_taken_for_one_of_transactions() {
    let postgres = Postgres::start();
    let settings = [("default_pool_size", "1")];
    let pooler = PgBouncer::with(&postgres, PoolMode::Session, &settings);
    impatient(&format!("{}?timeout=1s", pooler.url())).await;
}

/// Stores behind a pooler that they are told of.
struct Told(PgBouncer);

#[async_trait]
impl Harness for Told {
    async fn store(&self) -> Arc<dyn Store> {
        let url = format!("{}?pooler=transaction", self.0.url());
        Arc::new(PostgresStore::connect(&url).await.unwrap())
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn notifies(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_behind_a_pooler_of_transactions() {
    let postgres = Postgres::start();
    let pooler = PgBouncer::start(&postgres, PoolMode::Transaction);
    assert_conforms(&Told(pooler)).await;
}

/// The same where sessions write bytes in the other way.
#[tokio::test(flavor = "multi_thread")]
async fn conforms_whatever_the_sessions_write_bytes_like() {
    let postgres = Postgres::start();
    postgres.psql(
        "ALTER ROLE postgres SET bytea_output = 'escape'; \
         ALTER ROLE postgres SET standard_conforming_strings = off; \
         ALTER ROLE postgres SET intervalstyle = 'sql_standard'",
    );
    let pooler = PgBouncer::start(&postgres, PoolMode::Transaction);
    assert_conforms(&Told(pooler)).await;
}

fn request() -> Fingerprint {
    Fingerprint::of("the request").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_720_keys_in_three_engines_behind_a_pooler_of_transactions_each_runs_once() {
    let postgres = Postgres::start();
    let settings = [("default_pool_size", "5")];
    let pooler = PgBouncer::with(&postgres, PoolMode::Transaction, &settings);
    for _ in 0..3 {
        is_refused(&pooler.url()).await;
    }
    let url = format!("{}?pooler=transaction", pooler.url());
    let mut engines = Vec::new();
    for _ in 0..2 {
        engines.push(Engine::new(PostgresStore::connect(&url).await.unwrap()));
    }
    let pool = PgPoolOptions::new().max_connections(10);
    let pool = pool.connect_with(options(&pooler.url())).await.unwrap();
    let pooled = PostgresStore::pool_builder(pool).pooler(Pooler::Transaction);
    engines.push(Engine::new(pooled.build()));
    let executions = Arc::new(Mutex::new(HashMap::<u32, u32>::new()));
    let mut calls = JoinSet::new();
    for key in 0..720_u32 {
        for engine in &engines {
            let operation = engine.operation("tests.poolers").on_crash(OnCrash::Refuse);
            let operation = operation.in_flight(InFlight::Wait(Duration::from_secs(60)));
            let executions = Arc::clone(&executions);
            calls.spawn(async move {
                loop {
                    let body = async {
                        *executions.lock().unwrap().entry(key).or_default() += 1;
                        // Some of them are released.
                        match key % 10 {
                            0 => Err(Error::NoEngine),
                            _ => Ok(key),
                        }
                    };
                    let answer: Result<u32, Error> = operation.run(&key, request(), body).await;
                    match answer {
                        Ok(value) => return assert_eq!(value, key),
                        Err(Error::NoEngine) => return assert_eq!(key % 10, 0),
                        // Too many at once, for the store or for the pooler: later.
                        Err(Error::Store(error @ StoreError::Rejected { .. })) => {
                            panic!("{key}: {error:?}")
                        }
                        Err(Error::Store(_)) => {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        Err(error) => panic!("{key}: {error:?}"),
                    }
                }
            });
        }
        if key % 40 == 0 {
            are_untouched(&pooler).await;
        }
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    are_untouched(&pooler).await;
    let executions = executions.lock().unwrap();
    for (key, count) in executions.iter() {
        assert!(*count == 1 || key % 10 == 0, "{key} ran {count} times");
    }
    assert_eq!(executions.len(), 720);
}

/// Three processes that book the same numbers, each in a transaction of its own.
async fn book(transactions: [PgTransactions; 3], numbers: i64) -> Vec<(i64, Result<i64, Error>)> {
    let mut calls = JoinSet::new();
    for transactions in transactions {
        let engine = EngineBuilder::new(Arc::new(idem::stores::memory::MemoryStore::new()));
        let operation = engine.build().operation("tests.poolers");
        let operation = operation.in_flight(InFlight::Wait(Duration::from_secs(60)));
        let operation = operation.transaction(&transactions);
        let operation = Arc::new(operation);
        for worker in 0..8 {
            let operation = Arc::clone(&operation);
            calls.spawn(async move {
                let mut answers = Vec::new();
                for number in (worker..numbers).step_by(8) {
                    let body = |mut tx: sqlx::Transaction<'static, sqlx::Postgres>| async move {
                        let insert = format!("INSERT INTO entries VALUES ({number})");
                        let insert = sqlx::raw_sql(sqlx::AssertSqlSafe(insert));
                        let inserted = insert.execute(&mut *tx).await;
                        (tx, inserted.map(|_| number).map_err(|_| Error::NoEngine))
                    };
                    answers.push((number, operation.run(&number, request(), body).await));
                }
                answers
            });
        }
    }
    calls.join_all().await.into_iter().flatten().collect()
}

async fn pool(pooler: &PgBouncer, cache: usize) -> PgPool {
    let options = options(&pooler.url()).statement_cache_capacity(cache);
    let pool = PgPoolOptions::new().max_connections(8);
    pool.connect_with(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_times_800_transactions_behind_a_pooler_of_transactions_hold() {
    let postgres = Postgres::start();
    patient_at(&postgres.url()).await;
    postgres.psql("CREATE TABLE entries (number bigint NOT NULL)");
    let settings = [("default_pool_size", "5")];
    let pooler = PgBouncer::with(&postgres, PoolMode::Transaction, &settings);
    let mut transactions = Vec::new();
    for _ in 0..3 {
        let transaction = PgTransactions::new(pool(&pooler, 100).await);
        transactions.push(transaction.pooler(Pooler::Transaction));
    }
    let transactions: [_; 3] = transactions.try_into().unwrap();
    for (number, answer) in book(transactions, 800).await {
        assert_eq!(answer.unwrap(), number);
    }
    let counts = "SELECT count(*), count(DISTINCT number) FROM entries";
    assert_eq!(postgres.psql(counts), "800|800");
    are_untouched(&pooler).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_that_are_not_told_of_a_pooler_are_refused_and_book_nothing_twice() {
    let postgres = Postgres::start();
    patient_at(&postgres.url()).await;
    postgres.psql("CREATE TABLE entries (number bigint NOT NULL)");
    let settings = [("default_pool_size", "5")];
    let pooler = PgBouncer::with(&postgres, PoolMode::Transaction, &settings);
    let pools = [
        pool(&pooler, 100).await,
        pool(&pooler, 100).await,
        pool(&pooler, 100).await,
    ];
    let (mut booked, mut refused) = (0, 0);
    for (number, answer) in book(pools.map(PgTransactions::new), 100).await {
        match answer {
            Ok(value) => {
                assert_eq!(value, number);
                booked += 1;
            }
            Err(Error::Store(StoreError::Rejected { source, .. })) => {
                assert!(
                    source.to_string().contains("Pooler::Transaction"),
                    "{source}"
                );
                refused += 1;
            }
            Err(error) => panic!("{number}: {error:?}"),
        }
    }
    println!("{booked} were booked, {refused} refused");
    assert!(refused > 0);
    let twice =
        "SELECT count(*) FROM (SELECT FROM entries GROUP BY number HAVING count(*) > 1) AS twice";
    assert_eq!(postgres.psql(twice), "0");
}
