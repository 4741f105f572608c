//! Databases of the versions before, and how they are upgraded while they are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use idem::store::{Change, Claim, Claimed, Lease, Listing, Store, Token};
use idem::stores::postgres::{PgTransactions, PostgresStore};
use idem::transactional::Transactional;
use idem::{Fingerprint, OnCrash, Phase, RecordId, StoreError};
use idem_tests::{Postgres, wait_until};
use sqlx::postgres::PgPool;

use crate::conformance::finish;
use crate::limits::{Transaction, patient_at};
use crate::older::Old;

/// The tables of version 1, as its migration left them.
const TABLES: &str = "
CREATE TABLE idem_records (
    lease_until timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    sweep_at timestamptz NOT NULL,
    attempt integer NOT NULL,
    watched boolean NOT NULL DEFAULT false,
    id bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    token bytea,
    outcome bytea
);
CREATE INDEX idem_records_sweep_at ON idem_records (sweep_at);
CREATE TABLE idem_schema (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);
INSERT INTO idem_schema (version) VALUES (1);
";

/// Rows of version 1, until the year 2100: finished, running, crashed, abandoned, and one whose time
/// is over.
const ROWS: &str = r"
INSERT INTO idem_records VALUES
('2023-11-14 22:13:20+00', '2100-01-01 00:00+00', '2100-01-01 00:00+00', 3, false,
 '\x0101010101010101010101010101010101010101010101010101010101010101',
 '\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
 '\x11111111111111111111111111111111', '\x00f26f7574636f6d65ff'),
('2099-12-31 00:00+00', '2100-01-01 00:00+00', '2100-01-01 00:00+00', 2, true,
 '\x0202020202020202020202020202020202020202020202020202020202020202',
 '\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
 '\x22222222222222222222222222222222', NULL),
('2023-11-14 22:13:20+00', '2100-01-01 00:00+00', '2100-01-01 00:00+00', 7, false,
 '\x0303030303030303030303030303030303030303030303030303030303030303',
 '\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
 '\x33333333333333333333333333333333', NULL),
('2023-11-14 22:13:20+00', '2100-01-01 00:00+00', '2100-01-01 00:00+00', 1, false,
 '\x0404040404040404040404040404040404040404040404040404040404040404',
 '\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
 NULL, NULL),
('2020-09-13 12:26:40+00', '2020-09-13 12:28:20+00', '2020-09-13 12:28:20+00', 1, false,
 '\x0505050505050505050505050505050505050505050505050505050505050505',
 '\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
 '\x55555555555555555555555555555555', '\x00ff');
";

/// A claim of one of them.
fn of(number: u8) -> Claim {
    Claim::new(
        RecordId::from_bytes([number; 32]),
        Fingerprint::from_bytes(std::array::from_fn(|at| if at == 0 { 1 } else { 0xaa })),
        Duration::from_secs(30),
        Duration::from_secs(3600),
    )
}

fn version_1() -> Postgres {
    let postgres = Postgres::start();
    postgres.psql(TABLES);
    postgres.psql(ROWS);
    postgres
}

fn version(postgres: &Postgres) -> String {
    postgres.psql("SELECT max(version) FROM idem_schema")
}

async fn replays(store: &PostgresStore, claim: &Claim, expected: &'static [u8]) {
    match store.claim(claim).await.unwrap() {
        Claimed::Finished { outcome, .. } => assert_eq!(outcome, expected),
        other => panic!("{other:?}"),
    }
}

async fn reads_every_row(store: &PostgresStore) {
    replays(store, &of(1), b"\x00\xf2outcome\xff").await;
    let running = store.claim(&of(2)).await.unwrap();
    assert!(matches!(running, Claimed::InFlight { .. }), "{running:?}");
    let mut owner = of(2);
    owner.token = Token::from_bytes([0x22; 16]);
    let renewed = store.renew(&Lease::of(&owner, 2)).await.unwrap();
    assert_eq!(renewed, Change::Applied);
    let done = store.complete(&Lease::of(&owner, 2), "done".into()).await;
    assert_eq!(done.unwrap(), Change::Applied);
    replays(store, &of(2), b"done").await;
    let crashed = store.claim(&of(3).on_crash(OnCrash::Refuse)).await.unwrap();
    assert_eq!(crashed, Claimed::OutcomeUnknown { attempt: 7 });
    let rerun = store.claim(&of(3)).await.unwrap();
    assert_eq!(rerun, Claimed::acquired(8));
    let abandoned = store.claim(&of(4)).await.unwrap();
    assert_eq!(abandoned, Claimed::acquired(2));
    assert_eq!(store.sweep(10).await.unwrap(), 1);
    finish(store, &of(5), b"first").await;
}

#[tokio::test]
async fn a_database_of_version_1_is_migrated_and_every_row_is_read() {
    let postgres = version_1();
    reads_every_row(&patient_at(&postgres.url()).await).await;
    assert_eq!(version(&postgres), "3");
}

#[tokio::test]
async fn rows_of_before_do_not_say_what_was_not_kept_of_them() {
    let postgres = version_1();
    let store = patient_at(&postgres.url()).await;
    for number in 1..=4 {
        let found = store.inspect(&of(number).id).await.unwrap().unwrap();
        assert_eq!(found.operation.as_str(), "");
        assert_eq!(found.claimed_at, None);
        assert!(found.steps.is_empty());
        assert_ne!(found.phase, Phase::Suspended);
    }
    let listed = store.list(&Listing::new(10)).await.unwrap();
    assert_eq!(listed.records.len(), 4);
    assert!(listed.records.iter().all(|row| row.claimed_at.is_none()));
}

/// Tables of before are named by what the store cannot do with them, and nothing is changed.
#[tokio::test]
async fn without_the_migration_tables_of_version_1_are_refused_and_stay() {
    let postgres = version_1();
    let rows = "SELECT * FROM idem_records ORDER BY id";
    let before = postgres.psql(rows);
    let url = format!("{}?migrate=off", postgres.url());
    let refused = PostgresStore::connect(&url).await.unwrap_err().to_string();
    for part in ["of version 1", "needs version 3", "migrations by hand"] {
        assert!(refused.contains(part), "{refused}");
    }
    // Nobody has asked before the first call.
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let store = PostgresStore::pool_builder(pool.clone());
    let store = store.sweep_every(None).build();
    let error = store.claim(&of(3)).await.unwrap_err();
    let begun = PgTransactions::new(pool).begin(&of(3)).await.map(drop);
    for error in [error, begun.unwrap_err()] {
        let StoreError::Rejected { source, .. } = error else {
            panic!("{error:?}");
        };
        assert!(source.to_string().contains("older version"), "{source}");
    }
    assert_eq!(postgres.psql(rows), before);
    store.migrate().await.unwrap();
    reads_every_row(&store).await;
}

#[tokio::test]
async fn where_the_login_may_not_migrate_the_owner_does_by_hand() {
    let postgres = version_1();
    postgres.psql(
        "CREATE ROLE app LOGIN; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON idem_records TO app; \
         GRANT SELECT ON idem_schema TO app",
    );
    let url = postgres.url().replace("//postgres@", "//app@");
    let refused = PostgresStore::connect(&url).await.unwrap_err().to_string();
    assert!(refused.contains("must be owner"), "{refused}");
    assert!(refused.contains("let their owner run"), "{refused}");
    assert_eq!(version(&postgres), "1");
    for migration in &PostgresStore::MIGRATIONS[1..] {
        postgres.psql(&format!("BEGIN; {migration}; COMMIT"));
    }
    reads_every_row(&PostgresStore::connect(&url).await.unwrap()).await;
}

/// It bounds a hang, and says nothing of speed.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claims_go_on_while_a_live_table_is_migrated_and_while_the_migration_must_wait() {
    let postgres = version_1();
    for migration in &PostgresStore::MIGRATIONS[1..2] {
        postgres.psql(migration);
    }
    // As many rows as somebody may have.
    postgres.psql(
        "INSERT INTO idem_records (lease_until, expires_at, sweep_at, attempt, id, fingerprint, \
            token, outcome) \
         SELECT now(), '2100-01-01', '2100-01-01', 1, sha256(n::text::bytea), '\\x01', '\\x02', \
            sha256(n::text::bytea) \
         FROM generate_series(1, 100000) AS n",
    );
    let table = "SELECT pg_relation_filenode('idem_records')";
    let before = postgres.psql(table);
    let made = Arc::new(AtomicUsize::new(0));
    let (migrated, is_migrated) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (url, is_migrated) = (postgres.url(), is_migrated.clone());
            let made = Arc::clone(&made);
            tokio::spawn(async move {
                let old = Old::connect(&url).await;
                let (mut calls, mut longest) = (0, Duration::ZERO);
                let mut left = 50;
                while left > 0 {
                    left -= u32::from(*is_migrated.borrow());
                    let mut claim = of(0);
                    claim.id = RecordId::from_bytes(rand::random());
                    let began = std::time::Instant::now();
                    assert_eq!(old.claim(&claim).await.unwrap(), Claimed::acquired(1));
                    longest = longest.max(began.elapsed());
                    let lease = Lease::of(&claim, 1);
                    let done = old.complete(&lease, "done".into()).await;
                    assert_eq!(done.unwrap(), Change::Applied);
                    calls += 1;
                    made.fetch_add(1, Ordering::SeqCst);
                }
                (calls, longest)
            })
        })
        .collect();
    // A body that runs in a transaction has looked at the table, and takes its time.
    let reads = "SELECT count(*) FROM idem_records WHERE id = ''";
    let body = Transaction::begin(&postgres, reads);
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let migrates = tokio::spawn(async move { PostgresStore::from_pool(pool).migrate().await });
    let waits = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted";
    for _ in 0..3 {
        wait_until("the migration waits", LIMIT, || {
            match &*postgres.psql(waits) {
                "1" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
        // Who comes meanwhile queues behind it, until it gives way.
        let until = made.load(Ordering::SeqCst) + 8;
        wait_until("calls go on", LIMIT, || match made.load(Ordering::SeqCst) {
            calls if calls >= until => Ok(()),
            calls => Err(format!("{calls} of {until}")),
        });
    }
    assert_eq!(version(&postgres), "2");
    drop(body);
    migrates.await.unwrap().unwrap();
    assert_eq!(version(&postgres), "3");
    migrated.send_replace(true);
    for caller in callers {
        let (calls, longest) = caller.await.unwrap();
        println!("{calls} calls, the longest claim took {longest:?}");
    }
    // Nothing was written anew, for which all would have to wait.
    assert_eq!(postgres.psql(table), before);
    // Not a row was touched.
    let untouched =
        "SELECT count(*) FROM idem_records WHERE expires_at = '2100-01-01' AND steps IS NULL";
    assert!(postgres.psql(untouched).parse::<u32>().unwrap() >= 100_000);
}

#[tokio::test]
async fn a_migration_by_hand_that_must_wait_changes_nothing_and_says_so() {
    let postgres = version_1();
    postgres.psql(PostgresStore::MIGRATIONS[1]);
    let body = Transaction::begin(&postgres, "SELECT count(*) FROM idem_records");
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let by_hand = format!("BEGIN; {}; COMMIT", PostgresStore::MIGRATIONS[2]);
    let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(by_hand.clone()));
    let refused = refused.execute(&pool).await.unwrap_err().to_string();
    assert!(refused.contains("lock timeout"), "{refused}");
    assert_eq!(version(&postgres), "2");
    drop(body);
    postgres.psql(&by_hand);
    assert_eq!(version(&postgres), "3");
}
