//! Calls that are dropped while their answer is under way.

use std::time::Duration;

use futures_util::future::join_all;
use idem::store::{Claimed, Store};
use idem::stores::mysql::MySqlStore;
use idem_tests::MariaDb;
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;

use crate::conformance::{claim, finish, patient_in};

const RECORDS: u8 = 8;

/// Many packets' worth, and another one for each record.
fn outcome_of(number: u8) -> Vec<u8> {
    vec![number; 400_000]
}

async fn every_answer_is_its_own(store: &MySqlStore) {
    for number in 0..RECORDS {
        finish(store, &claim(number), &outcome_of(number)).await;
    }
    // Dropped anywhere: before the answer, between its packets, and within one.
    for round in 0..60_u32 {
        let calls = (0..RECORDS).map(|number| async move {
            let limit = Duration::from_micros(u64::from(round) * 150 + u64::from(number) * 40);
            let retry = claim(number);
            let _ = tokio::time::timeout(limit, store.claim(&retry)).await;
        });
        join_all(calls).await;
        let number = u8::try_from(round).unwrap() % RECORDS;
        let answer = store.claim(&claim(number)).await.unwrap();
        let Claimed::Finished { outcome, .. } = answer else {
            panic!("{answer:?}");
        };
        assert!(outcome == outcome_of(number), "another's answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_never_taken_for_another_calls() {
    let server = MariaDb::start();
    let url = format!("{}?max_connections=3&timeout=30s", server.url());
    every_answer_is_its_own(&MySqlStore::connect(&url).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_with_a_pool_of_the_application() {
    let server = MariaDb::start();
    let pool = MySqlPoolOptions::new().max_connections(3);
    let pool: MySqlPool = pool.connect(&server.url()).await.unwrap();
    let store = patient_in(pool);
    store.migrate().await.unwrap();
    every_answer_is_its_own(&store).await;
}

/// The driver puts such a connection back with its transaction open.
#[tokio::test]
async fn a_transaction_that_was_left_open_on_a_connection_takes_no_record_along() {
    let server = MariaDb::start();
    let pool = MySqlPoolOptions::new().max_connections(1);
    let pool = pool.connect(&server.url()).await.unwrap();
    let store = MySqlStore::pool_builder(pool.clone())
        .sweep_every(None)
        .build();
    store.migrate().await.unwrap();
    sqlx::raw_sql("START TRANSACTION")
        .execute(&pool)
        .await
        .unwrap();
    finish(&store, &claim(1), b"done").await;
    sqlx::raw_sql("ROLLBACK").execute(&pool).await.unwrap();
    let seen = server.sql("SELECT COUNT(*) FROM idem_records WHERE state = 'finished'");
    assert_eq!(seen, "1");
}
