//! Deleting expired records.

use std::time::{Duration, Instant};

use idem::store::{Claimed, Store};
use idem::stores::mysql::MySqlStore;
use idem_tests::MariaDb;
use sqlx::MySqlPool;

use crate::conformance::{claim, finish};

const LIMIT: Duration = Duration::from_secs(60);

/// Records whose time is over, and one whose is not.
async fn expired(server: &MariaDb, store: &MySqlStore, count: u32) {
    finish(store, &claim(1), b"kept").await;
    server.sql(&format!(
        "INSERT INTO idem_records (id, fingerprint, attempt, state, claimed_at, lease_until, \
            expires_at, sweep_at) \
         SELECT UNHEX(SHA2(seq, 256)), x'01', 1, 'running', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), \
            UTC_TIMESTAMP(6) - INTERVAL seq MICROSECOND, UTC_TIMESTAMP(6) - INTERVAL seq MICROSECOND \
         FROM seq_1_to_{count}"
    ));
}

fn records(server: &MariaDb) -> u32 {
    let count = server.sql("SELECT COUNT(*) FROM idem_records");
    count.parse().unwrap()
}

async fn store(server: &MariaDb) -> MySqlStore {
    let builder = MySqlStore::builder(&server.url()).unwrap();
    builder.sweep_every(None).connect().await.unwrap()
}

#[tokio::test]
async fn what_has_expired_is_deleted_in_batches_and_nothing_else_is() {
    let server = MariaDb::start();
    let store = store(&server).await;
    expired(&server, &store, 2500).await;
    assert_eq!(store.sweep(100).await.unwrap(), 100);
    assert_eq!(records(&server), 2401);
    assert_eq!(store.sweep(10_000).await.unwrap(), 2400);
    assert_eq!(records(&server), 1);
    assert_eq!(store.sweep(100).await.unwrap(), 0);
    let kept = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(kept, Claimed::Finished { .. }));
}

#[tokio::test]
async fn sweepers_do_not_wait_for_each_other_nor_for_a_lock() {
    let server = MariaDb::start();
    let (one, other) = (store(&server).await, store(&server).await);
    expired(&server, &one, 2000).await;
    let pool = MySqlPool::connect(&server.url()).await.unwrap();
    let mut locks = pool.begin().await.unwrap();
    let lock = "SELECT id FROM idem_records WHERE id = UNHEX(SHA2(7, 256)) FOR UPDATE";
    sqlx::raw_sql(lock).fetch_one(&mut *locks).await.unwrap();
    let swept = tokio::join!(one.sweep(5000), other.sweep(5000));
    assert_eq!(swept.0.unwrap() + swept.1.unwrap(), 1999);
    locks.rollback().await.unwrap();
    assert_eq!(one.sweep(5000).await.unwrap(), 1);
}

async fn is_swept(server: &MariaDb) {
    let began = Instant::now();
    while records(server) > 2 {
        assert!(began.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_store_of_a_url_sweeps_by_itself() {
    let server = MariaDb::start();
    let store = MySqlStore::connect(&format!("{}?sweep=20ms", server.url())).await;
    expired(&server, store.as_ref().unwrap(), 1500).await;
    is_swept(&server).await;
}

#[tokio::test]
async fn a_pool_is_swept_while_it_is_used_also_where_transactions_are_repeatable_read() {
    let server = MariaDb::start();
    let pool = MySqlPool::connect(&server.url()).await.unwrap();
    let store = MySqlStore::from_pool(pool);
    store.migrate().await.unwrap();
    expired(&server, &self::store(&server).await, 1500).await;
    store.claim(&claim(2)).await.unwrap();
    is_swept(&server).await;
}

#[tokio::test]
async fn a_record_that_is_used_again_while_it_is_swept_stays() {
    let server = MariaDb::start();
    let store = store(&server).await;
    for round in 0..20 {
        let brief = claim(round).lease(Duration::ZERO).retention(Duration::ZERO);
        store.claim(&brief).await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
        let again = claim(round);
        let (swept, claimed) = tokio::join!(store.sweep(10), store.claim(&again));
        swept.unwrap();
        assert_eq!(claimed.unwrap(), Claimed::acquired(1));
        assert!(store.inspect(&again.id).await.unwrap().is_some(), "{round}");
    }
}
