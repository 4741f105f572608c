//! Deleting what has expired: nothing else, in nobody's way.

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use idem::Phase;
use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::postgres::PostgresStore;
use idem_tests::{Postgres, wait_until};

use crate::conformance::{claim, finish};
use crate::latencies::claims_until;

const LIMIT: Duration = Duration::from_secs(30);

/// How long claims are watched without a sweep, to compare with.
const BEFORE: Duration = Duration::from_secs(3);

/// A store that does not sweep by itself.
async fn store(postgres: &Postgres) -> PostgresStore {
    let builder = PostgresStore::builder(&postgres.url()).unwrap();
    builder.sweep_every(None).connect().await.unwrap()
}

/// Lets the time of some records be over.
fn expire(postgres: &Postgres, which: &str) {
    postgres.psql(&format!(
        "UPDATE idem_records SET lease_until = now() - interval '3 s', \
            expires_at = now() - interval '2 s', sweep_at = now() - interval '1 s' WHERE {which}"
    ));
}

/// So many records of which the time is over.
pub(crate) fn expired(postgres: &Postgres, records: u32) {
    postgres.psql(&format!(
        "INSERT INTO idem_records SELECT now() - interval '3 s', now() - interval '2 s', \
            now() - interval '1 s', 1, false, sha256(random()::text::bytea || int8send(n)), \
            '\\x01', '\\x02', '\\x00ff' \
         FROM generate_series(1, {records}) AS n"
    ));
}

fn records(postgres: &Postgres) -> u32 {
    let count = postgres.psql("SELECT count(*) FROM idem_records");
    count.parse().unwrap()
}

#[tokio::test]
async fn only_what_has_expired_is_deleted_in_batches() {
    let postgres = Postgres::start();
    let store = store(&postgres).await;
    for number in 0..10 {
        finish(&store, &claim(number), b"done").await;
    }
    expire(&postgres, "true");
    let crashed = claim(11).lease(Duration::from_millis(1));
    finish(&store, &claim(10), b"done").await;
    for kept in [crashed, claim(12)] {
        store.claim(&kept).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut swept = Vec::new();
    while swept.last() != Some(&0) {
        swept.push(store.sweep(4).await.unwrap());
    }
    assert_eq!(swept, [4, 4, 2, 0]);
    assert_eq!(records(&postgres), 3);
    // A crash is seen for as long as a retry may come.
    let seen = store.inspect(&crashed.id).await.unwrap().unwrap();
    assert_eq!(seen.phase, Phase::Running { lease_left: None });
}

#[tokio::test]
async fn what_somebody_else_has_locked_is_not_waited_for() {
    let postgres = Postgres::start();
    let store = store(&postgres).await;
    for number in 0..10 {
        finish(&store, &claim(number), b"done").await;
    }
    expire(&postgres, "true");
    let mut psql = postgres.psql_command();
    let mut locks = psql
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = locks.stdin.take().unwrap();
    let three = format!("id <= '\\x{}'", claim(2).id);
    writeln!(
        input,
        "BEGIN; SELECT FROM idem_records WHERE {three} FOR UPDATE;"
    )
    .unwrap();
    let held = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    let held_by = |count: &str| {
        wait_until("transactions", LIMIT, || match &*postgres.psql(held) {
            seen if seen == count => Ok(()),
            other => Err(other.to_owned()),
        });
    };
    held_by("1");
    assert_eq!(store.sweep(100).await.unwrap(), 7);
    drop(input);
    locks.wait().unwrap();
    held_by("0");
    assert_eq!(store.sweep(100).await.unwrap(), 3);
}

#[tokio::test]
async fn a_store_of_a_url_sweeps_until_its_last_clone_is_gone() {
    let postgres = Postgres::start();
    let url = format!("{}?sweep=100ms", postgres.url());
    let store = PostgresStore::connect(&url).await.unwrap();
    for number in 0..10 {
        finish(&store, &claim(number), b"done").await;
    }
    expire(&postgres, "true");
    let clone = store.clone();
    drop(store);
    let started = Instant::now();
    while records(&postgres) > 0 {
        assert!(started.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    finish(&clone, &claim(1), b"done").await;
    drop(clone);
    let connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idem'";
    let started = Instant::now();
    while postgres.psql(connected) != "0" {
        assert!(started.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    expire(&postgres, "true");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(records(&postgres), 1);
    assert_eq!(postgres.psql(connected), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_what_is_just_swept_are_first_attempts() {
    let postgres = Postgres::start();
    let store = store(&postgres).await;
    let ends = Arc::new(AtomicBool::new(false));
    let sweeping = tokio::spawn({
        let (store, ends) = (store.clone(), Arc::clone(&ends));
        async move {
            let mut swept = 0;
            while !ends.load(Ordering::Relaxed) {
                swept += store.sweep(10).await.unwrap();
            }
            swept
        }
    });
    // Each task has records of its own, which expire at once and are claimed again.
    let claims = (0..8_u8).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..200_u32 {
                let moment = Duration::from_millis(1);
                let brief = claim(task).lease(moment).retention(moment);
                let answer = store.claim(&brief).await.unwrap();
                assert_eq!(answer, Claimed::acquired(1), "round {round}");
                let outcome = bytes::Bytes::from_static(b"done");
                let mut lease = Lease::of(&brief, 1);
                // It would be created again.
                lease.unbroken = false;
                let change = store.complete(&lease, outcome).await;
                // It may be late.
                let _: Change = change.unwrap();
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        })
    });
    for task in claims.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    ends.store(true, Ordering::Relaxed);
    let swept = sweeping.await.unwrap();
    println!("{swept} records were swept of 1,600");
    assert!(swept > 100, "{swept}");
}

#[tokio::test]
async fn what_takes_longer_than_a_call_may_is_swept_a_few_at_a_time() {
    let postgres = Postgres::start();
    let builder = PostgresStore::builder(&postgres.url()).unwrap();
    let builder = builder.timeout(Duration::from_secs(2));
    let store = builder.sweep_every(None).connect().await.unwrap();
    expired(&postgres, 60);
    // As large outcomes do: together they take three times what a call may.
    postgres.psql(
        "CREATE FUNCTION large() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            PERFORM pg_sleep(0.1); RETURN OLD; END $$; \
         CREATE TRIGGER large BEFORE DELETE ON idem_records \
            FOR EACH ROW EXECUTE FUNCTION large()",
    );
    assert_eq!(store.sweep(1000).await.unwrap(), 60);
    assert_eq!(records(&postgres), 0);
    // It knows by now how many it can have, and learns anew when they are small again.
    postgres.psql("DROP TRIGGER large ON idem_records");
    expired(&postgres, 5000);
    assert_eq!(store.sweep(1000).await.unwrap(), 1000);
    assert_eq!(store.sweep(u32::MAX).await.unwrap(), 4000);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_served_while_much_is_swept() {
    let rows = std::env::var("IDEM_SWEEP_ROWS").map_or(50_000, |rows| rows.parse().unwrap());
    let rows = rows / 10 * 10;
    let postgres = Postgres::start();
    let store = store(&postgres).await;
    // By several statements, each within psql's patience.
    for _ in 0..10 {
        postgres.psql(&format!(
            "INSERT INTO idem_records SELECT now() - interval '3 s', now() - interval '2 s', \
                now() - random() * interval '1 day', 1, false, \
                sha256(random()::text::bytea || int8send(n)), '\\x01', '\\x02', \
                convert_to(repeat('o', 300), 'UTF8') \
             FROM generate_series(1, {}) AS n",
            rows / 10
        ));
    }
    postgres.psql("VACUUM ANALYZE idem_records");
    let expired = |limit: u32| {
        let expired = "SELECT FROM idem_records WHERE expires_at < now()";
        let some = postgres.psql(&format!(
            "SELECT count(*) FROM ({expired} LIMIT {limit}) AS e"
        ));
        some.parse::<u32>().unwrap()
    };
    // Costs the server less than a look at what is left: it reads all that was deleted.
    let deleted = || {
        let deleted = "SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'idem_records'";
        postgres.psql(deleted).parse::<u32>().unwrap()
    };
    assert_eq!(expired(rows), rows);

    let same: Arc<dyn Store> = Arc::new(store.clone());
    let before = claims_until(Arc::clone(&same), tokio::time::sleep(BEFORE)).await;
    println!("before the sweep: {before}");
    store.sweep_every(Duration::from_millis(1));
    let swept = async {
        while deleted() < rows || expired(1) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let meanwhile = claims_until(same, swept).await;
    println!("during the sweep of {rows} records: {meanwhile}");
    // What is alive is all there.
    let alive = before.count() + meanwhile.count();
    assert_eq!(records(&postgres) as usize, alive);
}
