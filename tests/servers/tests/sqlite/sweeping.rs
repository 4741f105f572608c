//! Deleting what has expired, in nobody's way.

use std::sync::Arc;
use std::time::Duration;

use idem::store::Store;
use idem::stores::memory::MemoryStore;
use idem::stores::sqlite::{SqliteStore, SqliteTransactions};
use idem::transactional::TransactionSource;
use idem::{Engine, Error, Fingerprint};
use sqlx::SqlitePool;

use crate::file::{File, acquire, claim};
use crate::latencies::claims_until;
use crate::log::listen;

/// How long claims are watched without a sweep, to compare with.
const BEFORE: Duration = Duration::from_secs(2);

/// For a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_served_while_much_is_swept() {
    let rows = std::env::var("IDEM_SWEEP_ROWS").map_or(10_000, |rows| rows.parse().unwrap());
    let file = File::new();
    drop(file.store().await);
    file.run(&format!(
        "INSERT INTO idem_records (id, fingerprint, attempt, token, lease_until, gone_at, outcome) \
         SELECT randomblob(32), x'01', 1, x'02', 1, 2 + abs(random() % 86400000), randomblob(300) \
         FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows}) \
               SELECT i FROM n)"
    ))
    .await;
    assert_eq!(file.number("SELECT count(*) FROM idem_records").await, rows);

    // It sweeps, too, half a minute after it was opened.
    let patient = || {
        let builder = SqliteStore::builder(&file.url()).unwrap();
        builder.busy_timeout(PATIENCE)
    };
    let still = patient().connect().await.unwrap();
    let before = claims_until(Arc::new(still.clone()), tokio::time::sleep(BEFORE)).await;
    println!("before the sweep: {before}");
    drop(still);

    let sweeps = patient().sweep_every(Some(Duration::from_millis(1)));
    let sweeps: Arc<dyn Store> = Arc::new(sweeps.connect().await.unwrap());
    let swept = async {
        let expired = "SELECT EXISTS (SELECT 1 FROM idem_records WHERE gone_at < 86400002)";
        while file.number(expired).await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let meanwhile = claims_until(sweeps, swept).await;
    println!("during the sweep of {rows} records: {meanwhile}");
    // What is alive is all there.
    let left = file.number("SELECT count(*) FROM idem_records").await;
    let alive = before.count() + meanwhile.count();
    assert_eq!(usize::try_from(left).unwrap(), alive);
}

/// So many rows of which the time is over, with outcomes of so many bytes.
async fn expired(file: &File, rows: u32, bytes: u32) {
    file.run(&format!(
        "INSERT INTO idem_records (id, fingerprint, attempt, token, lease_until, gone_at, outcome)
         SELECT randomblob(32), x'01', 1, x'02', 1, 2, zeroblob({bytes})
         FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows})
               SELECT i FROM n)"
    ))
    .await;
}

const RECORDS: &str = "SELECT count(*) FROM idem_records WHERE gone_at = 2";

async fn is_swept(file: &File) {
    while file.number(RECORDS).await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn large_outcomes_are_swept_a_few_at_a_time() {
    let file = File::new();
    let builder = SqliteStore::builder(&file.url()).unwrap();
    let store = builder.sweep_every(None).connect().await.unwrap();
    expired(&file, 100, 512 * 1024).await;
    let mut swept = Vec::new();
    loop {
        match store.sweep(1000).await.unwrap() {
            0 => break,
            rows => swept.push(rows),
        }
    }
    assert_eq!(swept.iter().sum::<u64>(), 100);
    // 4 MiB, and what the first of them has reached.
    assert_eq!(*swept.iter().max().unwrap(), 8);
    // One that is larger than that goes as well.
    expired(&file, 2, 10 * 1024 * 1024).await;
    assert_eq!(store.sweep(1000).await.unwrap(), 1);
    assert_eq!(store.sweep(1000).await.unwrap(), 1);
    expired(&file, 25, 10).await;
    assert_eq!(store.sweep(10).await.unwrap(), 10);
    assert_eq!(store.sweep(1000).await.unwrap(), 15);
    assert_eq!(store.sweep(1000).await.unwrap(), 0);
}

#[tokio::test]
async fn a_store_beside_the_application_sweeps_unless_told_not_to() {
    let file = made().await;
    let pool = SqlitePool::connect_with(file.options()).await.unwrap();
    // More than one batch.
    expired(&file, 600, 10).await;
    let builder = || SqliteStore::pool_builder(&pool);
    let never = builder().sweep_every(None).connect().await.unwrap();
    for _ in 0..20 {
        acquire(&never, &claim()).await;
    }
    assert_eq!(file.number(RECORDS).await, 600);
    let often = builder().sweep_every(Some(Duration::from_millis(10)));
    let often = often.connect().await.unwrap();
    is_swept(&file).await;
    drop(often);
    // By itself it does as well, if seldom. In another file: a sweep of the other store's may be on its way.
    let file = made().await;
    let pool = SqlitePool::connect_with(file.options()).await.unwrap();
    expired(&file, 10, 10).await;
    let seldom = SqliteStore::from_pool(&pool).await.unwrap();
    acquire(&seldom, &claim()).await;
    assert_eq!(file.number(RECORDS).await, 10);
}

async fn book<Via, S: TransactionSource<Via>>(source: &S) -> Result<i64, Error> {
    let key = format!("{:032x}", rand::random::<u128>());
    Engine::new(MemoryStore::new())
        .operation("tests.sweeping")
        .transaction(source)
        .run(&key, Fingerprint::of("request").unwrap(), |tx| async move {
            (tx, Ok(1))
        })
        .await
}

/// The tables, and nobody who has them open.
async fn made() -> File {
    let file = File::new();
    drop(file.store().await);
    file.is_closed().await;
    file
}

#[tokio::test]
async fn an_application_that_only_has_transactions_is_swept_from_the_first_one_on() {
    let file = made().await;
    let pool = SqlitePool::connect_with(file.options()).await.unwrap();
    expired(&file, 600, 10).await;
    // Not before it.
    assert_eq!(file.number(RECORDS).await, 600);
    assert_eq!(book(&pool).await.unwrap(), 1);
    // A minute goes by.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    is_swept(&file).await;
    assert_eq!(book(&pool).await.unwrap(), 1);
}

#[tokio::test]
async fn an_application_that_only_has_transactions_may_say_how_often_or_never() {
    let file = made().await;
    let pool = SqlitePool::connect_with(file.options()).await.unwrap();
    expired(&file, 10, 10).await;
    let never = SqliteTransactions::new(pool.clone()).sweep_every(None);
    assert_eq!(book(&never).await.unwrap(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    tokio::time::resume();
    for _ in 0..20 {
        assert_eq!(book(&pool).await.unwrap(), 1);
    }
    assert_eq!(file.number(RECORDS).await, 10);

    let pool = SqlitePool::connect_with(file.options()).await.unwrap();
    let often = SqliteTransactions::new(pool).sweep_every(Some(Duration::from_millis(10)));
    assert_eq!(book(&often).await.unwrap(), 1);
    is_swept(&file).await;
    expired(&file, 10, 10).await;
    is_swept(&file).await;
}

#[tokio::test]
async fn sweeping_keeps_no_pool_alive_and_ends_with_it() {
    for close in [false, true] {
        let file = made().await;
        let pool = SqlitePool::connect_with(file.options()).await.unwrap();
        let often = SqliteTransactions::new(pool.clone());
        let often = often.sweep_every(Some(Duration::from_millis(10)));
        assert_eq!(book(&often).await.unwrap(), 1);
        drop(often);
        expired(&file, 10, 10).await;
        is_swept(&file).await;
        let closed = pool.close_event();
        match close {
            true => pool.close().await,
            false => drop(pool),
        }
        closed.await;
        expired(&file, 10, 10).await;
        // Nobody is left who has it open.
        file.is_closed().await;
        assert_eq!(file.number(RECORDS).await, 10);
    }
}

#[test]
fn a_pool_that_outlives_the_runtime_of_its_first_transaction_is_swept_on_the_next() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (kept, first, second) = (runtime(), runtime(), runtime());
    let (file, often) = kept.block_on(async {
        let file = made().await;
        let pool = SqlitePool::connect_with(file.options()).await.unwrap();
        let often = SqliteTransactions::new(pool);
        (file, often.sweep_every(Some(Duration::from_millis(10))))
    });
    for runtime in [first, second] {
        runtime.block_on(async {
            assert_eq!(book(&often).await.unwrap(), 1);
            expired(&file, 10, 10).await;
            is_swept(&file).await;
        });
        drop(runtime);
    }
}

#[tokio::test]
async fn where_it_cannot_be_swept_that_is_said_once() {
    let (log, _guard) = listen();
    let file = made().await;
    expired(&file, 10, 10).await;
    file.run(
        "CREATE TABLE tries (n INTEGER);
         CREATE TRIGGER theirs BEFORE DELETE ON idem_records BEGIN
           SELECT RAISE(ABORT, 'as the test asked'); END",
    )
    .await;
    let pool = SqlitePool::connect_with(file.options()).await.unwrap();
    let often = SqliteTransactions::new(pool).sweep_every(Some(Duration::from_millis(5)));
    assert_eq!(book(&often).await.unwrap(), 1);
    let mut said = String::new();
    while !said.contains("cannot be swept") {
        tokio::time::sleep(Duration::from_millis(5)).await;
        said += &log.take();
    }
    // Many more tries.
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    said += &log.take();
    assert_eq!(said.matches("cannot be swept").count(), 1, "{said}");
    file.run("DROP TRIGGER theirs").await;
    is_swept(&file).await;
}
