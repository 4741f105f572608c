//! Waiting: who waits takes no connection, and is woken when there is news.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use idem::store::{Change, Store};
use idem::stores::postgres::PostgresStore;
use idem::{EngineBuilder, Error, Fingerprint, InFlight, Operation};
use idem_tests::{Postgres, wait_until};
use sqlx::postgres::PgPoolOptions;
use tokio::sync::watch;

use crate::conformance::claim;
use crate::costs::run;
use crate::limits::{patient_at, patient_in};

const LIMIT: Duration = Duration::from_secs(30);
const LISTENING: &str = "pg_stat_activity WHERE query LIKE 'LISTEN%'";

/// Waits without blocking the one thread of a test.
async fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn in_time<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    let answer = tokio::time::timeout(limit, future).await;
    answer.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// As many processes, on one server.
fn engines(store: &PostgresStore, count: usize) -> Vec<Operation> {
    let engine = || {
        let engine = EngineBuilder::new(Arc::new(store.clone()));
        let engine = engine.store_timeout(LIMIT).build();
        let waits = InFlight::Wait(Duration::from_secs(120));
        engine.operation("op").in_flight(waits)
    };
    (0..count).map(|_| engine()).collect()
}

async fn sixty_four_wait(postgres: &Postgres, store: PostgresStore) {
    let executions = Arc::new(AtomicUsize::new(0));
    let end = watch::Sender::new(false);
    let duplicates = engines(&store, 64).into_iter().map(|operation| {
        let (executions, mut end) = (Arc::clone(&executions), end.subscribe());
        tokio::spawn(async move {
            let body = async {
                executions.fetch_add(1, Ordering::Relaxed);
                let _ = end.wait_for(|end| *end).await;
                Ok::<_, Error>(7)
            };
            let fingerprint = Fingerprint::of("k").unwrap();
            operation.run("k", fingerprint, body).await
        })
    });
    let duplicates: Vec<_> = duplicates.collect();
    let watches =
        "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE '%marked AS%'";
    // Those that met another's mark were sent twice.
    let watches = || postgres.psql(watches).parse::<u32>().unwrap();
    until("63 watches", LIMIT, || watches() >= 63).await;

    // Nobody is kept from the server meanwhile.
    let other = &engines(&store, 1)[0];
    let started = Instant::now();
    let keys: Vec<_> = (0..100).map(|key| format!("other {key}")).collect();
    for answer in join_all(keys.iter().map(|key| run(other, key))).await {
        assert_eq!(answer.unwrap(), 1);
    }
    println!("100 other keys in {:?} while 63 wait", started.elapsed());
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idem'";
    let connections: u32 = postgres.psql(connections).parse().unwrap();
    assert!(connections <= 4 + 1, "{connections}");
    assert_eq!(
        postgres.psql(&format!("SELECT count(*) FROM {LISTENING}")),
        "1"
    );

    let ended = Instant::now();
    end.send_replace(true);
    for answer in join_all(duplicates).await {
        assert_eq!(answer.unwrap().unwrap(), 7);
    }
    println!("63 waiters had their answer after {:?}", ended.elapsed());
    assert_eq!(executions.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_duplicates_wait_while_four_connections_serve_others() {
    let postgres = Postgres::start();
    let url = format!("{}?max_connections=4&timeout=30s", postgres.url());
    let store = PostgresStore::connect(&url).await.unwrap();
    sixty_four_wait(&postgres, store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_do_beside_a_pool_of_the_application() {
    let postgres = Postgres::start();
    let url = format!("{}?application_name=idem", postgres.url());
    let pool = PgPoolOptions::new().max_connections(4).connect(&url).await;
    let store = patient_in(pool.unwrap());
    store.migrate().await.unwrap();
    sixty_four_wait(&postgres, store).await;
}

#[tokio::test]
async fn all_watches_wake_when_their_connection_is_lost_and_the_next_listen_again() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    let claims: Vec<_> = (0..8).map(claim).collect();
    for claim in &claims {
        store.claim(claim).await.unwrap();
    }
    let watch_all = async || {
        let watches = claims.iter().map(|claim| store.watch(&claim.id));
        let watches = join_all(watches).await.into_iter().map(Result::unwrap);
        watches.collect::<Vec<_>>()
    };
    let watches = watch_all().await;
    postgres.psql(&format!(
        "SELECT pg_terminate_backend(pid) FROM {LISTENING}"
    ));
    in_time("watches of a lost connection", LIMIT, join_all(watches)).await;

    let watches = watch_all().await;
    for claim in &claims {
        let change = store.release(&claim.id, &claim.token).await.unwrap();
        assert_eq!(change, Change::Applied);
    }
    in_time("watches of the next one", LIMIT, join_all(watches)).await;
}

#[tokio::test]
async fn a_connection_that_is_silent_is_given_up() {
    let postgres = Postgres::start();
    let store = PostgresStore::connect(&postgres.url()).await.unwrap();
    store.claim(&claim(1)).await.unwrap();
    let watch = store.watch(&claim(1).id).await.unwrap();
    // As a server that vanished without a word. The others answer.
    let pid = postgres.psql(&format!("SELECT pid FROM {LISTENING}"));
    let signal = |name: &str| {
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args(["-s", name, &pid]).status().unwrap().success());
    };
    signal("STOP");
    in_time("a watch of a silent connection", LIMIT, watch).await;
    let watch = store.watch(&claim(1).id).await.unwrap();
    signal("CONT");
    let other = "SELECT count(*) FROM idem_records WHERE watched";
    assert_eq!(postgres.psql(other), "1");
    let released = store.release(&claim(1).id, &claim(1).token).await.unwrap();
    // Another token: nothing happened, and nobody wakes.
    assert_eq!(released, Change::LeaseLost);
    drop(watch);
}

#[tokio::test]
async fn where_nothing_is_watched_nobody_listens() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    let count = || postgres.psql(&format!("SELECT count(*) FROM {LISTENING}"));
    store.claim(&claim(1)).await.unwrap();
    assert_eq!(count(), "0");
    let watch = store.watch(&claim(1).id).await.unwrap();
    assert_eq!(count(), "1");
    drop(watch);
    until("nobody listens", LIMIT, || count() == "0").await;
    // And again.
    let watch = store.watch(&claim(1).id).await.unwrap();
    assert_eq!(count(), "1");
    // The store's end is the connection's, and wakes who still waits.
    drop(store);
    in_time("a watch that outlives its store", LIMIT, watch).await;
    until("nobody listens", LIMIT, || count() == "0").await;
}

#[tokio::test]
async fn of_what_does_not_run_a_watch_wakes_at_once() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    let first = claim(1);
    let watch = store.watch(&first.id).await.unwrap();
    in_time("a watch of nothing", LIMIT, watch).await;
    crate::conformance::finish(&store, &first, b"done").await;
    let watch = store.watch(&first.id).await.unwrap();
    in_time("a watch of what is finished", LIMIT, watch).await;
}

#[test]
fn a_store_may_be_dropped_with_its_runtime() {
    let postgres = Postgres::start();
    for workers in [0, 2] {
        let mut builder = match workers {
            0 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.enable_all().build().unwrap();
        let url = format!("{}?application_name=idem", postgres.url());
        let kept = runtime.block_on(async {
            let pool = PgPoolOptions::new().test_before_acquire(false);
            let stores = [
                PostgresStore::connect(&url).await.unwrap(),
                patient_in(pool.connect(&url).await.unwrap()),
            ];
            let mut kept = Vec::new();
            for (number, store) in (1..).zip(stores) {
                let claim = claim(number);
                store.claim(&claim).await.unwrap();
                let watch = store.watch(&claim.id).await.unwrap();
                postgres.pause();
                let mut call = Box::pin(async move { store.claim(&claim).await });
                let answer = tokio::time::timeout(Duration::from_millis(100), &mut call).await;
                assert!(answer.is_err(), "{answer:?}");
                postgres.resume();
                kept.push((call, watch));
            }
            kept
        });
        drop(runtime);
        drop(kept);
    }
    let all = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idem'";
    wait_until("no connection", LIMIT, || match &*postgres.psql(all) {
        "0" => Ok(()),
        some => Err(some.to_owned()),
    });
}
