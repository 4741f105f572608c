//! Servers that take no writes: what is finished is given back, and nothing is run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::memory::MemoryStore;
use idem::stores::postgres::PostgresStore;
use idem::{Engine, EngineBuilder, Error, Fingerprint, StoreError};
use idem_tests::Postgres;
use sqlx::PgPool;

use crate::conformance::{claim, finish};
use crate::costs::run;
use crate::limits::{patient_at, patient_in};
use crate::log::listen;

async fn is_not_ready(store: &PostgresStore, number: u8) {
    let refused = store.claim(&claim(number)).await;
    assert!(
        matches!(refused, Err(StoreError::NotReady { .. })),
        "{refused:?}"
    );
}

/// One record is finished, and one is running.
async fn replays_the_first_alone(store: &PostgresStore) {
    for _ in 0..3 {
        let replayed = store.claim(&claim(1)).await.unwrap();
        let Claimed::Finished {
            outcome,
            retention_left: Some(_),
            claimed_at: Some(_),
        } = replayed
        else {
            panic!("{replayed:?}");
        };
        assert_eq!(outcome, "done");
    }
    let mut another = claim(1);
    another.fingerprint = Fingerprint::of("another request").unwrap();
    assert_eq!(store.claim(&another).await.unwrap(), Claimed::Mismatch);
    is_not_ready(store, 2).await;
    is_not_ready(store, 3).await;
    assert!(store.inspect(&claim(2).id).await.unwrap().is_some());
}

async fn primary() -> Postgres {
    let primary = Postgres::start();
    let store = patient_at(&primary.url()).await;
    finish(&store, &claim(1), b"done").await;
    let acquired = store.claim(&claim(2)).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
    primary
}

#[tokio::test]
async fn a_standby_is_warned_of_and_replays_and_runs_nothing_until_it_is_promoted() {
    let primary = primary().await;
    let standby = primary.standby();
    let (log, _guard) = listen();
    let store = patient_at(&standby.url()).await;
    let said = log.take();
    assert!(said.contains("server is a standby"), "{said}");
    assert!(!said.contains("default_transaction_read_only"), "{said}");
    replays_the_first_alone(&store).await;
    let pooled = patient_in(PgPool::connect(&standby.url()).await.unwrap());
    replays_the_first_alone(&pooled).await;

    primary.kill();
    assert_eq!(standby.psql("SELECT pg_promote()"), "t");
    for (number, store) in [(3, &store), (4, &pooled)] {
        finish(store, &claim(number), b"after").await;
        let running = store.claim(&claim(2)).await.unwrap();
        assert!(matches!(running, Claimed::InFlight { .. }), "{running:?}");
    }
}

#[tokio::test]
async fn a_login_that_only_reads_is_warned_of_and_replays_and_runs_nothing() {
    let primary = primary().await;
    primary.psql("ALTER ROLE postgres SET default_transaction_read_only = on");
    let (log, _guard) = listen();
    let store = patient_at(&primary.url()).await;
    let said = log.take();
    assert!(said.contains("default_transaction_read_only"), "{said}");
    replays_the_first_alone(&store).await;
    let pooled = patient_in(PgPool::connect(&primary.url()).await.unwrap());
    replays_the_first_alone(&pooled).await;
}

/// What is given back from a server that takes no writes costs one look more, and on others none.
#[tokio::test]
async fn a_replay_of_a_standby_is_one_statement_that_is_refused_and_one_that_reads() {
    let primary = Postgres::start();
    let store = patient_at(&primary.url()).await;
    let operation = Engine::new(store).operation("op");
    run(&operation, "k").await.unwrap();
    let standby = primary.standby();
    let store = patient_at(&standby.url()).await;
    standby.psql("SELECT pg_stat_statements_reset()");
    let operation = EngineBuilder::new(Arc::new(store)).build().operation("op");
    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    // What is refused is not counted by the server.
    let statements = standby.psql(
        "SELECT calls, query LIKE '%idem_records%' FROM pg_stat_statements \
         WHERE query NOT LIKE '%pg_stat_%'",
    );
    assert_eq!(statements, "1|t");
}

/// In a transaction, and how often the body ran.
async fn book(pool: &PgPool, key: &str) -> (Result<i64, Error>, usize) {
    let executions = AtomicUsize::new(0);
    let executions_of = &executions;
    let booked = Engine::new(MemoryStore::new())
        .operation("tests.standby")
        .transaction(pool)
        .run(key, Fingerprint::of(key).unwrap(), |tx| async move {
            executions_of.fetch_add(1, Ordering::SeqCst);
            (tx, Ok(1))
        })
        .await;
    (booked, executions.load(Ordering::SeqCst))
}

#[tokio::test]
async fn in_a_transaction_a_standby_replays_and_runs_nothing_until_it_is_promoted() {
    let primary = primary().await;
    let pool = PgPool::connect(&primary.url()).await.unwrap();
    let (booked, executions) = book(&pool, "known").await;
    assert_eq!((booked.unwrap(), executions), (1, 1));
    let standby = primary.standby();
    let pool = PgPool::connect(&standby.url()).await.unwrap();
    for _ in 0..2 {
        let (replayed, executions) = book(&pool, "known").await;
        assert_eq!((replayed.unwrap(), executions), (1, 0));
        let (refused, executions) = book(&pool, "new").await;
        assert!(
            matches!(refused, Err(Error::Store(StoreError::NotReady { .. }))),
            "{refused:?}"
        );
        assert_eq!(executions, 0);
    }
    primary.kill();
    assert_eq!(standby.psql("SELECT pg_promote()"), "t");
    let (booked, executions) = book(&pool, "new").await;
    assert_eq!((booked.unwrap(), executions), (1, 1));
}

/// A standby that was away when the last records were written.
#[tokio::test]
async fn what_had_not_come_to_a_promoted_standby_is_forgotten_but_for_owners_that_live() {
    let primary = primary().await;
    let store = patient_at(&primary.url()).await;
    let standby = primary.standby();
    standby.stop();
    finish(&store, &claim(3), b"after").await;
    let running = claim(4);
    store.claim(&running).await.unwrap();
    primary.kill();
    standby.restart();
    assert_eq!(standby.psql("SELECT pg_promote()"), "t");
    let store = patient_at(&standby.url()).await;
    let kept = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(kept, Claimed::Finished { .. }), "{kept:?}");
    // This one can run once more.
    let forgotten = store.claim(&claim(3)).await.unwrap();
    assert_eq!(forgotten, Claimed::acquired(1));
    // The owner of this one creates it again.
    let renewed = store.renew(&Lease::of(&running, 1)).await;
    assert_eq!(renewed.unwrap(), Change::Applied);
    let duplicate = store.claim(&running.by_another()).await.unwrap();
    assert!(
        matches!(duplicate, Claimed::InFlight { .. }),
        "{duplicate:?}"
    );
}

#[tokio::test]
async fn a_promoted_synchronous_standby_has_all_that_was_acknowledged() {
    let primary = primary().await;
    let standby = primary.standby();
    primary.psql("ALTER SYSTEM SET synchronous_standby_names = '*'");
    primary.psql("SELECT pg_reload_conf()");
    let followed = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    while primary.psql(followed) != "1" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let store = patient_at(&primary.url()).await;
    for number in 10..60 {
        finish(&store, &claim(number), b"done").await;
    }
    primary.kill();
    assert_eq!(standby.psql("SELECT pg_promote()"), "t");
    let store = patient_at(&standby.url()).await;
    for number in 10..60 {
        let kept = store.claim(&claim(number)).await.unwrap();
        assert!(matches!(kept, Claimed::Finished { .. }), "{kept:?}");
    }
}
