//! Calls that are dropped at any point: no answer is taken for another's, and no connection is
//! lost for it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use idem::store::{Change, Claimed, Store};
use idem::stores::postgres::PostgresStore;
use idem_tests::Postgres;
use sqlx::postgres::PgPoolOptions;
use tokio::time::timeout;

use crate::conformance::claim;
use crate::limits::patient_in;

const RECORDS: u8 = 4;

/// So large that an answer takes many reads.
fn outcome(number: u8) -> Bytes {
    vec![number; 3_000_000 + usize::from(number)].into()
}

/// Calls a store whose claims have one connection, and drops some of them.
async fn survives(store: PostgresStore) {
    for number in 0..RECORDS {
        let claim = claim(number);
        store.claim(&claim).await.unwrap();
        let lease = idem::store::Lease::of(&claim, 1);
        let change = store.complete(&lease, outcome(number)).await;
        assert_eq!(change.unwrap(), Change::Applied);
    }
    // The quickest of calls that are not dropped.
    let mut takes = Duration::MAX;
    for round in 0..20 {
        let started = Instant::now();
        store.claim(&claim(round % RECORDS)).await.unwrap();
        takes = takes.min(started.elapsed());
    }
    let mut dropped = 0;
    for round in 0..200_u32 {
        let cut_off = claim((round % u32::from(RECORDS)) as u8);
        let patience = takes.mul_f64(rand::random_range(0.0..1.0));
        dropped += u32::from(timeout(patience, store.claim(&cut_off)).await.is_err());
        // The very next call, on the same connection.
        let number = ((round + 1) % u32::from(RECORDS)) as u8;
        let answer = store.claim(&claim(number)).await.unwrap();
        let Claimed::Finished { outcome: seen, .. } = answer else {
            panic!("{answer:?}");
        };
        assert!(seen == outcome(number), "{} bytes of {number}", seen.len());
    }
    println!("{dropped} of 200 calls were dropped");
    assert!(dropped > 20, "{dropped}");
}

#[tokio::test]
async fn on_a_connection_of_its_own() {
    let postgres = Postgres::start();
    let url = format!("{}?max_connections=2&timeout=30s", postgres.url());
    survives(PostgresStore::connect(&url).await.unwrap()).await;
    // The connection that was cut off is the one that went on.
    let log = postgres.psql("SELECT sessions FROM pg_stat_database WHERE datname = 'postgres'");
    println!("{log} sessions");
}

#[tokio::test]
async fn on_a_connection_of_the_applications_pool() {
    let postgres = Postgres::start();
    let pool = PgPoolOptions::new().max_connections(1);
    let store = patient_in(pool.connect(&postgres.url()).await.unwrap());
    store.migrate().await.unwrap();
    survives(store).await;
}

#[tokio::test]
async fn on_a_server_that_does_not_answer() {
    let postgres = Postgres::start();
    // Much longer than a busy machine needs, so that it is not what ends a wait.
    let time = Duration::from_secs(60);
    let url = format!("{}?max_connections=2&timeout=60s", postgres.url());
    let store = PostgresStore::connect(&url).await.unwrap();
    postgres.pause();
    for round in 0..20_u8 {
        let patience = Duration::from_millis(u64::from(round) * 10);
        let _ = timeout(patience, store.claim(&claim(round))).await;
    }
    postgres.resume();
    // At once, though connections are still owed answers.
    let resumed = Instant::now();
    for round in 20..40 {
        let answer = store.claim(&claim(round)).await;
        assert_eq!(answer.unwrap(), Claimed::acquired(1));
    }
    assert!(resumed.elapsed() < time / 2, "{:?}", resumed.elapsed());
}
