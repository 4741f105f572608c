//! Databases and processes of the version before: tables of version 1, and the statements that its
//! processes go on to use.

use std::time::Duration;

use idem::store::{Change, Claim, Claimed, Lease, Store, Token};
use idem::stores::sqlite::SqliteStore;
use idem::{Fingerprint, OnCrash, RecordId};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqlitePoolOptions};

use crate::file::{File, acquire, again, claim, complete, finish, replays};

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
    assert_eq!(file.number("SELECT version FROM idem_schema").await, 2);
}

#[tokio::test]
async fn tables_of_version_1_in_an_applications_database_are_used_as_they_are() {
    let file = version_1().await;
    let pool = SqlitePoolOptions::new().connect_lazy_with(file.options());
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    reads_every_row(&store).await;
    assert_eq!(file.number("SELECT version FROM idem_schema").await, 1);
}

macro_rules! on_the_clock {
    ($statement:literal) => {
        concat!(
            "WITH clock (now) AS MATERIALIZED (
               SELECT CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER) + clock_offset_ms
               FROM idem_schema
             ) ",
            $statement
        )
    };
}

/// A process of the version before: its statements, word for word.
struct Old(SqliteConnection);

impl Old {
    async fn open(file: &File) -> Self {
        Self(file.connection().await)
    }

    async fn claim(&mut self, claim: &Claim) -> Option<i64> {
        let claimed = sqlx::query(on_the_clock!(
            "INSERT INTO idem_records (id, fingerprint, attempt, token, lease_until, gone_at)
             SELECT ?1, ?2, 1, ?3, now + ?4, now + ?4 + ?5 FROM clock WHERE true
             ON CONFLICT (id) DO UPDATE SET
               fingerprint = excluded.fingerprint,
               attempt = iif(gone_at <= (SELECT now FROM clock), 1, min(attempt + 1, 4294967295)),
               token = excluded.token,
               lease_until = excluded.lease_until,
               gone_at = excluded.gone_at,
               outcome = NULL
             WHERE gone_at <= (SELECT now FROM clock)
               OR (
                 ?6
                 AND outcome IS NULL
                 AND lease_until <= (SELECT now FROM clock)
                 AND fingerprint = excluded.fingerprint
                 AND token IS NOT excluded.token
               )
             RETURNING attempt"
        ))
        .bind(claim.id.as_bytes().to_vec())
        .bind(claim.fingerprint.to_bytes().to_vec())
        .bind(claim.token.as_bytes().to_vec())
        .bind(30_000)
        .bind(3_600_000)
        .bind(true)
        .fetch_all(&mut self.0)
        .await
        .unwrap();
        claimed.first().map(|row| row.get("attempt"))
    }

    async fn renew(&mut self, claim: &Claim) -> u64 {
        self.of(
            on_the_clock!(
                "UPDATE idem_records SET lease_until = now + 30000, gone_at = now + 3630000
                 FROM clock
                 WHERE id = ?1 AND token = ?2 AND outcome IS NULL AND gone_at > now"
            ),
            claim,
        )
        .await
    }

    async fn complete(&mut self, claim: &Claim) -> u64 {
        self.of(
            on_the_clock!(
                "UPDATE idem_records SET
                   outcome = coalesce(outcome, x'6f6c64'),
                   gone_at = iif(outcome IS NULL, now + 3600000, gone_at)
                 FROM clock
                 WHERE id = ?1 AND token = ?2 AND gone_at > now"
            ),
            claim,
        )
        .await
    }

    async fn abandon(&mut self, claim: &Claim) -> u64 {
        self.of(
            on_the_clock!(
                "UPDATE idem_records SET
                   token = NULL,
                   lease_until = min(lease_until, now),
                   gone_at = min(lease_until, now) + (gone_at - lease_until)
                 FROM clock
                 WHERE id = ?1 AND token = ?2 AND outcome IS NULL AND gone_at > now"
            ),
            claim,
        )
        .await
    }

    async fn of(&mut self, statement: &'static str, claim: &Claim) -> u64 {
        let done = sqlx::query(statement)
            .bind(claim.id.as_bytes().to_vec())
            .bind(claim.token.as_bytes().to_vec())
            .execute(&mut self.0)
            .await;
        done.unwrap().rows_affected()
    }

    /// The outcome of a finished record.
    async fn look(&mut self, claim: &Claim) -> Option<Vec<u8>> {
        let row = sqlx::query(on_the_clock!(
            "SELECT
               fingerprint,
               attempt,
               token,
               outcome IS NOT NULL AS is_finished,
               iif(?2 IS NULL OR ?2 = fingerprint, outcome, NULL) AS outcome,
               lease_until - now AS lease_left,
               gone_at - now AS left
             FROM clock CROSS JOIN idem_records
             WHERE id = ?1 AND gone_at > now"
        ))
        .bind(claim.id.as_bytes().to_vec())
        .bind(claim.fingerprint.to_bytes().to_vec())
        .fetch_optional(&mut self.0)
        .await
        .unwrap();
        row.and_then(|row| row.get("outcome"))
    }

    /// What it asks for when it starts, and never again.
    async fn version(&mut self) -> i64 {
        let version = sqlx::query_scalar("SELECT version FROM idem_schema");
        version.fetch_one(&mut self.0).await.unwrap()
    }
}

#[tokio::test]
async fn a_process_of_the_version_before_goes_on_beside_new_ones() {
    let file = version_1().await;
    let mut old = Old::open(&file).await;
    // Prepared before the migration.
    let before = claim();
    assert_eq!(old.claim(&before).await, Some(1));
    assert_eq!(old.version().await, 1);

    let store = file.store().await;
    let duplicate = store.claim(&again(&before)).await.unwrap();
    assert!(
        matches!(duplicate, Claimed::InFlight { .. }),
        "{duplicate:?}"
    );
    assert_eq!(old.renew(&before).await, 1);
    assert_eq!(old.complete(&before).await, 1);
    replays(&store, &before, b"old").await;

    let (new, crashing) = (claim(), claim());
    acquire(&store, &new).await;
    assert_eq!(old.claim(&again(&new)).await, None);
    assert_eq!(old.look(&new).await, None);
    complete(&store, &new, b"new").await;
    assert_eq!(old.look(&new).await.as_deref(), Some(b"new".as_slice()));

    assert_eq!(old.claim(&crashing).await, Some(1));
    assert_eq!(old.abandon(&crashing).await, 1);
    let next = store.claim(&again(&crashing)).await.unwrap();
    assert_eq!(next, Claimed::acquired(2));

    // One that starts now does not: it refuses every version but its own.
    assert_eq!(old.version().await, 2);
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
    let mut old = Old::open(&file).await;
    let calls = tokio::spawn(async move {
        let mut calls = 0;
        // Some before, some meanwhile, and some after it.
        while !*is_migrated.borrow_and_update() || calls < 100 {
            let claim = claim();
            assert_eq!(old.claim(&claim).await, Some(1));
            assert_eq!(old.complete(&claim).await, 1);
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
