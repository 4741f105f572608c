//! Sessions that hang: however long they do, a store has no more of the server's than it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::postgres::PostgresStore;
use idem::{EngineBuilder, Fingerprint, OnCrash, StoreError};
use idem_tests::Postgres;
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;

use crate::conformance::claim;
use crate::limits::{Transaction, impatient, patient, patient_at};

const LIMIT: Duration = Duration::from_secs(30);

/// How many sessions of the store's there are at most while this goes on.
async fn most_sessions(postgres: &Postgres, meanwhile: impl Future<Output = ()>) -> u32 {
    let ended = AtomicBool::new(false);
    let counting = async {
        let mut most = 0;
        while !ended.load(Ordering::SeqCst) {
            let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idem'";
            let count = tokio::task::block_in_place(|| postgres.psql(count));
            most = most.max(count.parse().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        most
    };
    let meanwhile = async {
        meanwhile.await;
        ended.store(true, Ordering::SeqCst);
    };
    tokio::join!(counting, meanwhile).0
}

/// Callers who ask for new records over and over, for so long.
async fn crowd(store: &PostgresStore, time: Duration) {
    let until = Instant::now() + time;
    let mut crowd = JoinSet::new();
    for _ in 0..40 {
        let store = store.clone();
        crowd.spawn(async move {
            while Instant::now() < until {
                let id = idem::RecordId::from_bytes(rand::random());
                let claim = idem::store::Claim::new(
                    id,
                    Fingerprint::of("request").unwrap(),
                    Duration::from_secs(30),
                    Duration::from_secs(3600),
                );
                let _ = store.claim(&claim).await;
                let _ = store.release(&claim.id, &claim.token).await;
            }
        });
    }
    crowd.join_all().await;
}

/// Every commit waits for a standby that is not there, and no limit of the server's ends it.
fn standby_goes(postgres: &Postgres) {
    postgres.psql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    postgres.psql("SELECT pg_reload_conf()");
}

fn standby_comes_back(postgres: &Postgres) {
    postgres.psql("ALTER SYSTEM RESET synchronous_standby_names");
    postgres.psql("SELECT pg_reload_conf()");
}

async fn is_served(store: &PostgresStore, number: u8) {
    let started = Instant::now();
    while let Err(error) = store.claim(&claim(number)).await {
        assert!(started.elapsed() < LIMIT, "{error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_that_hang_take_no_more_sessions_than_the_store_may_have() {
    let postgres = Postgres::start();
    let url = format!("{}?max_connections=4&timeout=500ms", postgres.url());
    let store = impatient(&url).await;
    is_served(&store, 1).await;
    standby_goes(&postgres);
    let most = most_sessions(&postgres, crowd(&store, Duration::from_secs(8))).await;
    println!("{most} sessions at most");
    // One more while they are ended.
    assert!((4..=4 + 1).contains(&most), "{most} sessions");
    standby_comes_back(&postgres);
    is_served(&store, 2).await;
    let started = Instant::now();
    let renewed = loop {
        match store.renew(&Lease::of(&claim(1), 1)).await {
            Ok(renewed) => break renewed,
            Err(error) => assert!(started.elapsed() < LIMIT, "{error:?}"),
        }
    };
    assert_eq!(renewed, Change::LeaseLost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_that_cannot_be_ended_are_counted_until_they_end() {
    let postgres = Postgres::start();
    patient_at(&postgres.url()).await;
    postgres.psql(
        "CREATE ROLE app LOGIN; GRANT ALL ON idem_records, idem_schema TO app; \
         REVOKE EXECUTE ON FUNCTION pg_terminate_backend(integer, bigint) FROM PUBLIC",
    );
    let url = postgres.url().replace("//postgres@", "//app@");
    let url = format!("{url}?max_connections=4&timeout=500ms");
    let store = impatient(&url).await;
    standby_goes(&postgres);
    let crowd = async {
        crowd(&store, Duration::from_secs(5)).await;
        // All of them hang, and nothing is sent.
        let refused = store.claim(&claim(1)).await;
        assert!(
            matches!(refused, Err(StoreError::NotSent { .. })),
            "{refused:?}"
        );
    };
    let most = most_sessions(&postgres, crowd).await;
    assert!((4..=4 + 1).contains(&most), "{most} sessions");
    standby_comes_back(&postgres);
    is_served(&store, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_table_that_is_locked_takes_no_more_of_a_pool_than_it_has() {
    let postgres = Postgres::start();
    let url = format!("{}?application_name=idem", postgres.url());
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .connect(&url)
        .await
        .unwrap();
    let store = PostgresStore::pool_builder(pool.clone()).timeout(Duration::from_millis(500));
    let store = store.build();
    store.migrate().await.unwrap();
    let locked = Transaction::begin(
        &postgres,
        "LOCK TABLE idem_records IN ACCESS EXCLUSIVE MODE",
    );
    let crowded = crowd(&store, Duration::from_secs(6));
    let most = most_sessions(&postgres, crowded).await;
    assert!((3..=4 + 1).contains(&most), "{most} sessions");
    // Though nothing limits the statements of a pool, those that were given up are ended.
    let hangs = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let started = Instant::now();
    while postgres.psql(hangs) != "0" {
        assert!(started.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(locked);
    is_served(&store, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claims_whose_commits_hang_leave_no_key_stuck() {
    let postgres = Postgres::start();
    let url = format!("{}?timeout=700ms", postgres.url());
    let store = impatient(&url).await;
    let patient = patient(&postgres).await;
    let engine = EngineBuilder::new(Arc::new(store.clone()));
    let engine = engine.store_timeout(Duration::from_secs(2)).build();
    let operation = engine.operation("tests.hung").on_crash(OnCrash::Refuse);
    let request = || Fingerprint::of("the request").unwrap();
    standby_goes(&postgres);
    let mut callers = JoinSet::new();
    for number in 0..100 {
        let operation = operation.clone();
        callers.spawn(async move {
            let answer: Result<u32, idem::Error> =
                operation.run(&number, request(), async { Ok(1) }).await;
            answer
        });
    }
    let answers = callers.join_all().await;
    let ran = answers.iter().filter(|answer| answer.is_ok()).count();
    standby_comes_back(&postgres);
    tokio::time::timeout(Duration::from_secs(60), engine.idle())
        .await
        .unwrap();
    println!("{ran} of 100 ran");
    let patient = EngineBuilder::new(Arc::new(patient)).store_timeout(LIMIT);
    let patient = patient.build().operation("tests.hung");
    let patient = patient.on_crash(OnCrash::Refuse);
    for number in 0..100 {
        let answer: Result<u32, idem::Error> =
            patient.run(&number, request(), async { Ok(1) }).await;
        assert_eq!(answer.unwrap(), 1, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_that_has_answered_late_is_lent_again() {
    let postgres = Postgres::start();
    let url = format!("{}?max_connections=2&timeout=10s", postgres.url());
    let store = PostgresStore::connect(&url).await.unwrap();
    store.claim(&claim(1)).await.unwrap();
    let pid = "SELECT pid FROM pg_stat_activity WHERE application_name = 'idem'";
    let before = postgres.psql(pid);
    let locked = Transaction::begin(
        &postgres,
        "LOCK TABLE idem_records IN ACCESS EXCLUSIVE MODE",
    );
    let given_up = claim(2);
    let dropped = tokio::time::timeout(Duration::from_millis(300), store.claim(&given_up)).await;
    assert!(dropped.is_err());
    drop(locked);
    let answer = store.claim(&claim(3)).await.unwrap();
    assert_eq!(answer, Claimed::acquired(1));
    assert_eq!(postgres.psql(pid), before);
}
