//! What it costs: statements, counted by the server, and what they leave behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use idem::store::Store;
use idem::{EngineBuilder, Error, Fingerprint, InFlight, Operation};
use idem_tests::{Postgres, wait_until};
use sqlx::postgres::PgListener;
use tokio::sync::Notify;

use crate::conformance::{claim, finish};
use crate::limits::patient_at;

type Calls = BTreeMap<&'static str, u64>;

/// What each statement is told by.
const STATEMENTS: &[(&str, &str)] = &[
    ("claim", "acquired AS"),
    ("renew", "renewed AS"),
    ("complete", "finished AS"),
    ("release", "released AS"),
    ("abandon", "abandoned AS"),
    ("inspect", "SELECT $3 AS statement, attempt, fingerprint"),
    ("watch", "marked AS"),
    ("listen", "LISTEN idem"),
];

/// Statements since the last look, whoever sent them.
pub(crate) fn statements(postgres: &Postgres) -> Calls {
    let statistics = "SELECT calls, replace(query, E'\n', '~') FROM pg_stat_statements \
        WHERE query NOT LIKE '%pg_stat_%'";
    let rows = postgres.psql(statistics);
    postgres.psql("SELECT pg_stat_statements_reset()");
    let mut calls = Calls::new();
    for row in rows.lines() {
        let (count, query) = row.split_once('|').unwrap();
        let query = query.replace('~', "\n");
        let told = STATEMENTS.iter().find(|(_, by)| query.contains(by));
        let (name, _) = told.unwrap_or_else(|| panic!("what is {query}?"));
        *calls.entry(name).or_default() += count.parse::<u64>().unwrap();
    }
    calls
}

fn expected(calls: &[(&'static str, u64)]) -> Calls {
    calls.iter().copied().collect()
}

fn first_call() -> Calls {
    expected(&[("claim", 1), ("complete", 1)])
}

pub(crate) async fn run(operation: &Operation, key: &str) -> Result<u32, Error> {
    let fingerprint = Fingerprint::of(&key).unwrap();
    operation
        .run(key, fingerprint, async { Ok(idem::attempt().number()) })
        .await
}

async fn engine(postgres: &Postgres) -> EngineBuilder {
    let store = patient_at(&postgres.url()).await;
    statements_of_start_up(postgres);
    EngineBuilder::new(Arc::new(store))
}

fn statements_of_start_up(postgres: &Postgres) {
    postgres.psql("SELECT pg_stat_statements_reset()");
}

#[tokio::test]
async fn a_first_call_is_two_statements_and_a_replay_one() {
    let postgres = Postgres::start();
    let operation = engine(&postgres).await.build().operation("op");
    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    assert_eq!(statements(&postgres), first_call());
    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    assert_eq!(statements(&postgres), expected(&[("claim", 1)]));
}

#[tokio::test]
async fn a_cached_replay_is_no_statement() {
    let postgres = Postgres::start();
    let here = engine(&postgres).await.cache(1_000_000);
    let there = engine(&postgres).await.cache(1_000_000);
    let [here, there] = [here, there].map(|engine| engine.build().operation("op"));
    assert_eq!(run(&here, "k").await.unwrap(), 1);
    assert_eq!(statements(&postgres), first_call());
    // Another process asks once: the answer says how long it may be kept.
    for (operation, calls) in [(&here, expected(&[])), (&there, expected(&[("claim", 1)]))] {
        for _ in 0..100 {
            assert_eq!(run(operation, "k").await.unwrap(), 1);
        }
        assert_eq!(statements(&postgres), calls);
    }
}

/// A body that goes on until it is told to end.
struct Body {
    started: Notify,
    end: Notify,
}

impl Body {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Notify::new(),
            end: Notify::new(),
        })
    }

    async fn run(self: Arc<Self>, operation: Operation) -> Result<u32, Error> {
        let body = async {
            self.started.notify_one();
            self.end.notified().await;
            Ok::<_, Error>(7)
        };
        let fingerprint = Fingerprint::of("k").unwrap();
        operation.run("k", fingerprint, body).await
    }
}

#[tokio::test]
async fn a_thousand_duplicates_in_one_process_are_two_statements_in_all() {
    for policy in [InFlight::Reject, InFlight::Wait(Duration::from_secs(60))] {
        let postgres = Postgres::start();
        let operation = engine(&postgres).await.build().operation("op");
        let operation = operation.in_flight(policy);
        let body = Body::new();
        let first = tokio::spawn(Arc::clone(&body).run(operation.clone()));
        body.started.notified().await;
        let duplicates = join_all((0..1000).map(|_| run(&operation, "k")));
        let ends = async {
            // One thread: when this goes on, every duplicate has gone as far as it can.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            body.end.notify_one();
        };
        let (answers, ()) = tokio::join!(duplicates, ends);
        for answer in answers {
            match policy {
                InFlight::Reject => assert!(matches!(answer, Err(Error::InFlight { .. }))),
                _ => assert_eq!(answer.unwrap(), 7),
            }
        }
        assert_eq!(first.await.unwrap().unwrap(), 7);
        assert_eq!(statements(&postgres), first_call(), "{policy:?}");
    }
}

#[tokio::test]
async fn a_duplicate_elsewhere_claims_watches_claims_and_claims_when_it_is_woken() {
    let postgres = Postgres::start();
    let waits = InFlight::Wait(Duration::from_secs(60));
    let [here, there] = [engine(&postgres).await, engine(&postgres).await]
        .map(|engine| engine.build().operation("op").in_flight(waits));
    let body = Body::new();
    let first = tokio::spawn(Arc::clone(&body).run(here));
    body.started.notified().await;
    assert_eq!(statements(&postgres), expected(&[("claim", 1)]));
    let second = tokio::spawn({
        let there = there.clone();
        async move { run(&there, "k").await }
    });
    let claims =
        "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE '%acquired AS%'";
    while postgres.psql(claims).parse::<u32>().unwrap() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    body.end.notify_one();
    assert_eq!(first.await.unwrap().unwrap(), 7);
    assert_eq!(second.await.unwrap().unwrap(), 7);
    let mut calls = statements(&postgres);
    // While this process was busy it may have polled besides.
    let claims = calls.remove("claim").unwrap();
    assert!((3..=6).contains(&claims), "{claims} claims");
    assert_eq!(
        calls,
        expected(&[("complete", 1), ("listen", 1), ("watch", 1)])
    );
}

#[tokio::test]
async fn nothing_is_notified_where_nobody_waits() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    let operation = EngineBuilder::new(Arc::new(store.clone()))
        .build()
        .operation("op");
    let mut listener = PgListener::connect(&postgres.url()).await.unwrap();
    listener.listen("idem").await.unwrap();
    for key in 0..100 {
        run(&operation, &key.to_string()).await.unwrap();
    }
    let watched = claim(1);
    store.claim(&watched).await.unwrap();
    let watch = store.watch(&watched.id).await.unwrap();
    let _ = store.release(&watched.id, &watched.token).await.unwrap();
    watch.await;
    // The first that is heard.
    let notification = listener.recv().await.unwrap();
    assert_eq!(notification.payload(), watched.id.to_string());
}

#[tokio::test]
async fn replays_leave_nothing_behind() {
    // Nothing but the replays: otherwise the server itself would write.
    let quiet = [
        ("autovacuum", "off"),
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
    ];
    let builder = quiet
        .iter()
        .fold(Postgres::builder(), |builder, (name, value)| {
            builder.setting(name, value)
        });
    let postgres = builder.start();
    let store = patient_at(&postgres.url()).await;
    finish(&store, &claim(1), &[7; 350]).await;
    // The first one to read a row may note that its writer has committed.
    store.claim(&claim(1)).await.unwrap();
    postgres.psql("CHECKPOINT");

    let state = || {
        postgres.psql(
            "SELECT pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot()); \
             SELECT n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup FROM pg_stat_user_tables \
                WHERE relname = 'idem_records'",
        )
    };
    let reads = || {
        let reads = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'idem_records'";
        postgres.psql(reads).parse::<u64>().unwrap()
    };
    // The server counts what a connection did when that has been idle for a while.
    let counted = |what: &str, count: u64| {
        wait_until(what, Duration::from_secs(20), || match reads() {
            seen if seen >= count => Ok(seen),
            seen => Err(format!("{seen} of {count}")),
        })
    };
    let before_reads = counted("statistics of the beginning", 1);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let before = state();
    for _ in 0..1000 {
        store.claim(&claim(1)).await.unwrap();
    }
    counted("statistics of 1,000 replays", before_reads + 1000);
    assert_eq!(state(), before);
    // The look itself sees what there is to see.
    finish(&store, &claim(2), &[7; 350]).await;
    assert_ne!(state(), before);
}

#[tokio::test]
async fn a_completion_changes_no_index() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    for number in 0..100 {
        finish(&store, &claim(number), &[7; 50]).await;
    }
    let updates =
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'idem_records'";
    let updates = wait_until("statistics", Duration::from_secs(20), || {
        let updates = postgres.psql(updates);
        if updates.starts_with("100|") {
            Ok(updates)
        } else {
            Err(updates)
        }
    });
    let hot: u32 = updates.split_once('|').unwrap().1.parse().unwrap();
    assert!(hot >= 90, "{hot} of 100");
}
