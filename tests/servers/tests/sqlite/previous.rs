//! Files of the versions before, and how they are upgraded while they are in use.

use std::time::Duration;

use idem::store::{Change, Claim, Claimed, Lease, Listing, Store, Token};
use idem::stores::sqlite::{SqliteStore, SqliteTransactions};
use idem::transactional::Transactional;
use idem::{Fingerprint, OnCrash, Phase, RecordId, StoreError};
use sqlx::sqlite::SqlitePoolOptions;

use crate::file::{File, acquire, claim, finish, replays, whole};
use crate::older::Old;

/// The tables of version 1, as its migration left them.
const TABLES: &str = "
CREATE TABLE idem_schema (
    version         INTEGER NOT NULL,
    clock_offset_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE idem_records (
    id          BLOB    NOT NULL PRIMARY KEY,
    fingerprint BLOB    NOT NULL,
    attempt     INTEGER NOT NULL,
    token       BLOB,
    lease_until INTEGER NOT NULL,
    gone_at     INTEGER NOT NULL,
    outcome     BLOB
) STRICT;
CREATE INDEX idem_records_gone_at ON idem_records (gone_at);
INSERT INTO idem_schema (version) VALUES (1);
";

/// Rows of version 1, until the year 2100: finished, running, crashed, abandoned, and one whose time
/// is over.
const ROWS: &str = "
INSERT INTO idem_records VALUES
(x'0101010101010101010101010101010101010101010101010101010101010101',
 x'01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 3,
 x'11111111111111111111111111111111', 1700000000000, 4102444800000, x'00f26f7574636f6d65ff'),
(x'0202020202020202020202020202020202020202020202020202020202020202',
 x'01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 2,
 x'22222222222222222222222222222222', 4102444000000, 4102444800000, NULL),
(x'0303030303030303030303030303030303030303030303030303030303030303',
 x'01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 7,
 x'33333333333333333333333333333333', 1700000000000, 4102444800000, NULL),
(x'0404040404040404040404040404040404040404040404040404040404040404',
 x'01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 1,
 NULL, 1700000000000, 4102444800000, NULL),
(x'0505050505050505050505050505050505050505050505050505050505050505',
 x'01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 1,
 x'55555555555555555555555555555555', 1600000000000, 1600000100000, x'00ff');
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

async fn version_1() -> File {
    let file = File::new();
    let options = file.options().create_if_missing(true);
    let pool = SqlitePoolOptions::new()
        .connect_with(options)
        .await
        .unwrap();
    for sql in ["PRAGMA journal_mode = WAL", TABLES, ROWS] {
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
    file
}

async fn reads_every_row(store: &SqliteStore) {
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
    acquire(store, &of(5)).await;
}

#[tokio::test]
async fn a_file_of_version_1_is_migrated_and_every_row_is_read() {
    let file = version_1().await;
    reads_every_row(&file.store().await).await;
    assert_eq!(file.number("SELECT version FROM idem_schema").await, 3);
}

#[tokio::test]
async fn without_the_migration_tables_of_version_1_are_refused_and_stay() {
    let file = version_1().await;
    let pool = SqlitePoolOptions::new().connect_lazy_with(file.options());
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    let error = store.claim(&of(3)).await.unwrap_err();
    let begun = SqliteTransactions::new(pool).begin(&of(3)).await.map(drop);
    for error in [error, begun.unwrap_err()] {
        assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
        assert!(whole(&error).contains("older version"), "{error:?}");
    }
    assert_eq!(file.number("SELECT version FROM idem_schema").await, 1);
    store.migrate().await.unwrap();
    reads_every_row(&store).await;
    assert_eq!(file.number("SELECT version FROM idem_schema").await, 3);
}

#[tokio::test]
async fn rows_of_before_do_not_say_what_was_not_kept_of_them() {
    let file = version_1().await;
    let store = file.store().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_live_file_is_migrated_within_a_short_transaction() {
    let file = version_1().await;
    // As many rows as somebody may have.
    file.run(
        "INSERT INTO idem_records SELECT randomblob(32), x'01', 1, x'02', 1, 4102444800000, randomblob(100)
         FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000) SELECT i FROM n)",
    )
    .await;
    let (migrated, mut is_migrated) = tokio::sync::watch::channel(false);
    let old = Old::open(&file).await;
    let calls = tokio::spawn(async move {
        let mut calls = 0;
        // Some before, some meanwhile, and some after it.
        while !*is_migrated.borrow_and_update() || calls < 100 {
            finish(&old, &claim(), b"old").await;
            calls += 1;
        }
        calls
    });
    let before = file.commits();
    let store = file.store().await;
    migrated.send_replace(true);
    assert!(calls.await.unwrap() >= 100);
    assert!(file.commits() > before);
    finish(&store, &claim(), b"outcome").await;
    // Not a row was touched: the migration wrote a page or two.
    let untouched = file.number("SELECT count(*) FROM idem_records WHERE gone_at = 4102444800000");
    assert!(untouched.await >= 50_000);
}
