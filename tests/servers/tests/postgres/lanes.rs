//! Load: who holds a lease goes first, whoever else comes, and who cannot be served is told so at
//! once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use idem::StoreError;
use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::postgres::PostgresStore;
use idem_tests::{Postgres, wait_until};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;

use crate::conformance::claim;
use crate::flood::{self, Fared, HELD, LEASE};
use crate::limits::Transaction;

const LIMIT: Duration = Duration::from_secs(30);

/// Somebody's transaction that has the records of these numbers, and does not end: who claims one
/// of them waits.
fn hold(postgres: &Postgres, numbers: &[u8]) -> Transaction {
    let row = |number: &u8| {
        let id = claim(*number).id;
        format!("(now(), now() + interval '1 h', now(), 1, '\\x{id}', '\\x01', '\\x02')")
    };
    let rows: Vec<_> = numbers.iter().map(row).collect();
    let insert = "INSERT INTO idem_records \
        (lease_until, expires_at, sweep_at, attempt, id, fingerprint, token) VALUES";
    Transaction::begin(postgres, &format!("{insert} {}", rows.join(", ")))
}

/// Waits until so many statements of the store wait for a lock.
async fn until_waiting(postgres: &Postgres, count: usize) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let started = Instant::now();
    loop {
        let seen = postgres.psql(waiting);
        if seen == count.to_string() {
            return;
        }
        assert!(started.elapsed() < LIMIT, "{seen} wait, not {count}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn store(postgres: &Postgres, options: &str) -> PostgresStore {
    let url = format!("{}?{options}", postgres.url());
    PostgresStore::connect(&url).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_hang_leave_connections_to_who_holds_a_lease() {
    let postgres = Postgres::start();
    // Three serve claims, and one serves nothing else than holders.
    let store = store(&postgres, "max_connections=4&timeout=20s").await;
    let held: Vec<_> = (0..5).map(claim).collect();
    for claim in &held {
        store.claim(claim).await.unwrap();
    }
    let others = hold(&postgres, &[100]);
    let mut hanging = JoinSet::new();
    for _ in 0..10 {
        let store = store.clone();
        hanging.spawn(async move { store.claim(&claim(100)).await });
    }
    until_waiting(&postgres, 3).await;
    let started = Instant::now();
    for claim in &held {
        let renewed = store.renew(&Lease::of(claim, 1)).await;
        assert_eq!(renewed.unwrap(), Change::Applied);
    }
    let done = bytes::Bytes::from_static(b"done");
    let completed = store.complete(&Lease::of(&held[0], 1), done).await;
    assert_eq!(completed.unwrap(), Change::Applied);
    let released = store.release(&held[1].id, &held[1].token).await;
    assert_eq!(released.unwrap(), Change::Applied);
    let abandoned = store.abandon(&held[2].id, &held[2].token).await;
    assert_eq!(abandoned.unwrap(), Change::Applied);
    println!("eight calls of holders took {:?}", started.elapsed());
    until_waiting(&postgres, 3).await;
    drop(others);
    // The transaction was rolled back: one of them has the record.
    let answers: Vec<_> = hanging
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let acquired = answers
        .iter()
        .filter(|answer| matches!(answer, Claimed::Acquired { .. }));
    assert_eq!(acquired.count(), 1, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_finds_the_line_full_fails_at_once_and_unsent() {
    let postgres = Postgres::start();
    let store = store(&postgres, "max_connections=2&max_waiting=3&timeout=20s").await;
    let others = hold(&postgres, &[100]);
    let ask = |number: u8| {
        let store = store.clone();
        tokio::spawn(async move {
            loop {
                match store.claim(&claim(number)).await {
                    // Another one of this test was in line before.
                    Err(StoreError::Overloaded { .. }) => tokio::task::yield_now().await,
                    answer => return answer,
                }
            }
        })
    };
    let first = ask(100);
    until_waiting(&postgres, 1).await;
    let waiting: Vec<_> = (1..=3).map(ask).collect();
    // All that come now find the line full, once those are in it.
    let started = Instant::now();
    loop {
        let another = claim(50);
        let asked = store.claim(&another);
        match tokio::time::timeout(Duration::from_millis(50), asked).await {
            Ok(Err(StoreError::Overloaded { store: "postgres" })) => break,
            // It was in line itself, and has left it.
            other => assert!(started.elapsed() < LIMIT, "{other:?}"),
        }
    }
    for number in 51..80 {
        let asked = Instant::now();
        let refused = store.claim(&claim(number)).await;
        assert!(
            matches!(refused, Err(StoreError::Overloaded { .. })),
            "{refused:?}"
        );
        assert!(asked.elapsed() < Duration::from_secs(1));
    }
    drop(others);
    first.await.unwrap().unwrap();
    for claimed in waiting {
        let claimed = claimed.await.unwrap().unwrap();
        assert_eq!(claimed, Claimed::acquired(1));
    }
    let refused = format!(
        "SELECT count(*) FROM idem_records WHERE id >= '\\x{}'",
        claim(51).id
    );
    assert_eq!(
        postgres.psql(&format!("{refused} AND id < '\\x{}'", claim(80).id)),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_time_is_over_in_line_was_not_sent() {
    let postgres = Postgres::start();
    let store = store(&postgres, "max_connections=2&timeout=4s").await;
    let others = hold(&postgres, &[100]);
    // The first has the one connection for claims, until its time is over as well: who waits in line is given
    // up a second before that. All ask at the same instant.
    let claims: Vec<_> = [100].into_iter().chain(1..=20).map(claim).collect();
    let mut answers = join_all(claims.iter().map(|claim| store.claim(claim))).await;
    answers.remove(0).unwrap_err();
    for refused in answers {
        let Err(error @ StoreError::NotSent { .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(!error.may_have_effect() && error.is_outage());
    }
    drop(others);
    // The first was sent, and may have taken effect by now.
    let others = format!(
        "SELECT count(*) FROM idem_records WHERE id <> '\\x{}'",
        claim(100).id
    );
    assert_eq!(postgres.psql(&others), "0");
}

/// Its disk takes no part: who goes first is tested, and not how long a commit takes beside other programs.
fn without_disk() -> Postgres {
    Postgres::builder().setting("fsync", "off").start()
}

/// Who was served, and nobody else, has left a record.
fn only_they_have_records(postgres: &Postgres, fared: &Fared) {
    let records = postgres.psql("SELECT count(*) FROM idem_records");
    assert_eq!(records, (fared.served + HELD).to_string(), "{fared:?}");
    assert!(fared.unsent > 0, "{fared:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_thousand_callers_cost_no_lease() {
    let postgres = without_disk();
    let [here, elsewhere] = [store(&postgres, "").await, store(&postgres, "").await];
    let fared = flood::costs_no_lease(here, elsewhere, 20_000, LEASE).await;
    only_they_have_records(&postgres, &fared);
}

/// A server whose commits take ten milliseconds.
fn slow() -> Postgres {
    let builder = Postgres::builder().setting("commit_delay", "10000");
    builder.setting("commit_siblings", "0").start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_thousand_callers_of_a_slow_server_cost_no_lease() {
    let postgres = slow();
    let [here, elsewhere] = [store(&postgres, "").await, store(&postgres, "").await];
    let fared = flood::costs_no_lease(here, elsewhere, 4000, LEASE).await;
    only_they_have_records(&postgres, &fared);
}

async fn pool(postgres: &Postgres, connections: u32) -> PgPool {
    let options = PgPoolOptions::new().max_connections(connections);
    options.connect(&postgres.url()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_thousand_callers_cost_no_lease_in_a_pool_that_the_application_uses_up() {
    let postgres = without_disk();
    let pool = pool(&postgres, 10).await;
    let here = PostgresStore::from_pool(pool.clone());
    here.migrate().await.unwrap();
    let elsewhere = store(&postgres, "").await;
    let used = Arc::new(AtomicBool::new(true));
    let mut application = JoinSet::new();
    for _ in 0..100 {
        let (pool, used) = (pool.clone(), Arc::clone(&used));
        application.spawn(async move {
            while used.load(Ordering::SeqCst) {
                let slow = sqlx::query("SELECT pg_sleep(0.05)").execute(&pool).await;
                // It has waited in vain, as others do.
                drop(slow);
            }
        });
    }
    let fared = flood::costs_no_lease(here, elsewhere, 20_000, LEASE).await;
    only_they_have_records(&postgres, &fared);
    used.store(false, Ordering::SeqCst);
    application.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_aside_while_leases_are_held_and_no_longer() {
    let postgres = Postgres::start();
    for (size, kept) in [(2, 1), (7, 1), (8, 2), (20, 2)] {
        let pool = pool(&postgres, size).await;
        let store = PostgresStore::from_pool(pool.clone());
        store.migrate().await.unwrap();
        let number = u8::try_from(size).unwrap() * 4;
        let (first, second) = (claim(number), claim(number + 1));
        for claim in [&first, &second] {
            store.claim(claim).await.unwrap();
        }
        // The application takes all that it can have, and keeps it.
        let mut taken = Vec::new();
        for _ in 0..size - kept {
            taken.push(pool.acquire().await.unwrap());
        }
        let none = tokio::time::timeout(Duration::from_millis(300), pool.acquire()).await;
        assert!(none.is_err(), "{size}");
        let renewed = store.renew(&Lease::of(&first, 1)).await;
        assert_eq!(renewed.unwrap(), Change::Applied, "{size}");
        let released = store.release(&first.id, &first.token).await;
        assert_eq!(released.unwrap(), Change::Applied, "{size}");
        let done = bytes::Bytes::from_static(b"done");
        let completed = store.complete(&Lease::of(&second, 1), done).await;
        assert_eq!(completed.unwrap(), Change::Applied, "{size}");
        // Nothing is held: all of it is the application's.
        for _ in 0..kept {
            let next = tokio::time::timeout(LIMIT, pool.acquire()).await;
            taken.push(next.expect("a connection was kept").unwrap());
        }
        drop(taken);
        tokio::time::timeout(LIMIT, pool.close()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_may_be_closed_and_a_lease_run_out_while_connections_are_kept_aside() {
    let postgres = Postgres::start();
    let pool = pool(&postgres, 4).await;
    let store = PostgresStore::from_pool(pool.clone());
    store.migrate().await.unwrap();
    // Its end is never heard of.
    let brief = claim(1).lease(Duration::from_millis(500));
    store.claim(&brief).await.unwrap();
    let mut taken = Vec::new();
    for _ in 0..4 {
        let next = tokio::time::timeout(LIMIT, pool.acquire()).await;
        taken.push(next.expect("a connection was kept").unwrap());
    }
    drop(taken);
    store.claim(&claim(2)).await.unwrap();
    tokio::time::timeout(LIMIT, pool.close())
        .await
        .expect("the pool waits for the store");
    let refused = store.renew(&Lease::of(&claim(2), 1)).await;
    assert!(
        matches!(refused, Err(StoreError::Rejected { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn many_wait_and_are_served_in_time() {
    let postgres = Postgres::start();
    let store = store(&postgres, "max_connections=4&timeout=20s").await;
    let claims = (0..=255).map(|number| {
        let store = store.clone();
        async move { store.claim(&claim(number)).await }
    });
    for claimed in join_all(claims).await {
        assert_eq!(claimed.unwrap(), Claimed::acquired(1));
    }
    wait_until("connections", LIMIT, || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idem'";
        // Three are for claims.
        match &*postgres.psql(open) {
            "3" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
}
