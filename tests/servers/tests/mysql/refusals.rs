//! What a server or a login refuses, and what is said of it.

use std::time::Duration;

use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::mysql::MySqlStore;
use idem::{ConnectError, NotReplayable, Outcome, StoreError};
use idem_tests::MariaDb;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{Executor, MySqlPool};

use crate::conformance::{claim, finish, patient_at, patient_in};
use crate::log::listen;

fn shown(error: &ConnectError) -> String {
    format!("{error} {error:?}")
}

#[tokio::test]
async fn a_password_is_in_no_message() {
    let server = MariaDb::builder().login("app", "s3cret/ü").start();
    patient_at(&server.url()).await;
    let wrong = server.url().replace("s3cret", "wr0ng");
    let error = MySqlStore::connect(&wrong).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Store(StoreError::Rejected { .. })),
        "{error:?}"
    );
    assert!(!shown(&error).contains("wr0ng"), "{error:?}");
    let builder = MySqlStore::builder(&server.url()).unwrap();
    let store = patient_at(&server.url()).await;
    for debug in [format!("{builder:?}"), format!("{store:?}")] {
        assert!(!debug.contains("s3cret"), "{debug}");
    }
}

#[tokio::test]
async fn a_right_that_is_missing_is_an_error_of_connecting() {
    let server = MariaDb::builder().login("app", "x").start();
    patient_at(&server.url()).await;
    server.sql(
        "REVOKE ALL ON shop.* FROM 'app'@'127.0.0.1'; \
         GRANT SELECT ON shop.idem_schema TO 'app'@'127.0.0.1'; \
         GRANT SELECT, INSERT, UPDATE ON shop.idem_records TO 'app'@'127.0.0.1'",
    );
    let error = MySqlStore::connect(&server.url()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("rights on the table idem_records: DELETE"),
        "{error}"
    );
    server.sql("GRANT DELETE ON shop.idem_records TO 'app'@'127.0.0.1'");
    let store = patient_at(&server.url()).await;
    finish(&store, &claim(1), b"done").await;
}

#[tokio::test]
async fn a_log_of_statements_is_refused() {
    let server = MariaDb::builder()
        .with_log()
        .setting("binlog-format", "STATEMENT")
        .start();
    let error = MySqlStore::connect(&server.url()).await.unwrap_err();
    assert!(error.to_string().contains("binlog_format"), "{error}");
}

#[tokio::test]
async fn settings_that_weaken_the_promise_are_warned_of() {
    let server = MariaDb::builder()
        .with_log()
        .setting("innodb-flush-log-at-trx-commit", "2")
        .setting("max-allowed-packet", "2M")
        .start();
    let (log, _guard) = listen();
    patient_at(&server.url()).await;
    let said = log.take();
    for setting in [
        "innodb_flush_log_at_trx_commit",
        "sync_binlog",
        "max_allowed_packet",
    ] {
        assert!(said.contains(setting), "{said}");
    }
    let server = MariaDb::builder().setting("sync-binlog", "1").start();
    patient_at(&server.url()).await;
    assert_eq!(log.take(), "");
}

#[tokio::test]
async fn a_pool_whose_sessions_do_not_commit_is_refused() {
    let server = MariaDb::start();
    patient_at(&server.url()).await;
    let pool = MySqlPoolOptions::new().max_connections(2);
    let pool = pool.after_connect(|connection, _| {
        Box::pin(async move { connection.execute("SET autocommit = 0").await.map(drop) })
    });
    let store = patient_in(pool.connect(&server.url()).await.unwrap());
    let refused = store.claim(&claim(1)).await;
    assert!(
        matches!(refused, Err(StoreError::Rejected { .. })),
        "{refused:?}"
    );
    assert_eq!(server.sql("SELECT COUNT(*) FROM idem_records"), "0");
}

async fn is_not_kept(store: &MySqlStore, number: u8) {
    let claim = claim(number);
    assert_eq!(store.claim(&claim).await.unwrap(), Claimed::acquired(1));
    let large = bytes::Bytes::from(vec![7; 800_000]);
    let change = store.complete(&Lease::of(&claim, 1), large).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let Claimed::Finished { outcome, .. } = store.claim(&claim.by_another()).await.unwrap() else {
        panic!("it is finished");
    };
    let kept = Outcome::decode(&outcome).unwrap();
    assert_eq!(kept, Outcome::NotReplayable(NotReplayable::TooLarge));
}

#[tokio::test]
async fn an_outcome_that_the_server_does_not_take_cannot_be_replayed_and_is_not_sent() {
    let server = MariaDb::builder()
        .setting("max-allowed-packet", "1M")
        .start();
    let own = patient_at(&server.url()).await;
    is_not_kept(&own, 1).await;
    let pool = MySqlPool::connect(&server.url()).await.unwrap();
    is_not_kept(&patient_in(pool), 2).await;
    // Steps are refused before anything is lost.
    let running = claim(3);
    own.claim(&running).await.unwrap();
    let large = bytes::Bytes::from(vec![7; 800_000]);
    let refused = own.checkpoint(&Lease::of(&running, 1), 0, large).await;
    assert!(
        matches!(refused, Err(StoreError::Rejected { .. })),
        "{refused:?}"
    );
    // And what fits goes on to fit.
    let fits = bytes::Bytes::from(vec![7; 400_000]);
    let change = own.complete(&Lease::of(&running, 1), fits.clone()).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let Claimed::Finished { outcome, .. } = own.claim(&running.by_another()).await.unwrap() else {
        panic!("it is finished");
    };
    assert_eq!(outcome, fits);
}

#[tokio::test]
async fn no_room_for_a_connection_is_not_ready_and_passes() {
    let server = MariaDb::builder().setting("max-connections", "10").start();
    let url = format!("{}?timeout=500ms&max_connections=2", server.url());
    let began = std::time::Instant::now();
    // To open it takes calls, too: a slow machine may need several tries.
    let store = loop {
        match MySqlStore::connect(&url).await {
            Ok(store) => break store,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{error:?}"),
        }
    };
    let pool = MySqlPoolOptions::new().max_connections(30);
    let pool = pool.acquire_timeout(Duration::from_millis(300));
    let pool = pool.connect(&server.url()).await.unwrap();
    let mut others = Vec::new();
    while let Ok(connection) = pool.acquire().await {
        others.push(connection);
    }
    let refused = store.claim(&claim(1)).await;
    assert!(
        matches!(
            refused,
            Err(StoreError::NotReady { .. } | StoreError::NotSent { .. })
        ),
        "{refused:?}"
    );
    drop(others);
    pool.close().await;
    let began = std::time::Instant::now();
    while let Err(error) = store.claim(&claim(1)).await {
        assert!(began.elapsed() < Duration::from_secs(60), "{error:?}");
    }
}
