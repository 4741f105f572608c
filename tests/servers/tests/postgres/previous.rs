//! Databases and processes of the version before: tables of version 1, and the statements that its
//! processes go on to use.

use std::time::Duration;

use idem::store::{Change, Claim, Claimed, Lease, Store, Token};
use idem::stores::postgres::PostgresStore;
use idem::{Fingerprint, OnCrash, RecordId};
use idem_tests::Postgres;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection, Row};

use crate::conformance::finish;
use crate::limits::Transaction;
use crate::log::listen;

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
    reads_every_row(&PostgresStore::connect(&postgres.url()).await.unwrap()).await;
    assert_eq!(version(&postgres), "2");
}

#[tokio::test]
async fn tables_of_version_1_are_used_as_they_are_where_the_store_is_not_to_migrate() {
    let postgres = version_1();
    let url = format!("{}?migrate=off", postgres.url());
    reads_every_row(&PostgresStore::connect(&url).await.unwrap()).await;
    assert_eq!(version(&postgres), "1");
}

#[tokio::test]
async fn tables_of_version_1_are_used_as_they_are_where_the_login_may_not_migrate() {
    let postgres = version_1();
    postgres.psql(
        "CREATE ROLE app LOGIN; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON idem_records TO app; \
         GRANT SELECT ON idem_schema TO app",
    );
    let url = postgres.url().replace("//postgres@", "//app@");
    let (log, _guard) = listen();
    reads_every_row(&PostgresStore::connect(&url).await.unwrap()).await;
    let said = log.take();
    assert!(
        said.contains("must be owner of table idem_schema"),
        "{said}"
    );
    assert!(
        said.contains("let their owner run the migrations"),
        "{said}"
    );
    // Who asks for no more than the migration is told that there was none.
    let pool = PgPool::connect(&url).await.unwrap();
    let refused = PostgresStore::from_pool(pool).migrate().await.unwrap_err();
    assert!(refused.to_string().contains("must be owner"), "{refused}");
    assert_eq!(version(&postgres), "1");

    // By hand, while the process runs.
    postgres.psql(PostgresStore::MIGRATIONS[1]);
    log.take();
    let store = PostgresStore::connect(&url).await.unwrap();
    assert_eq!(log.take(), "");
    replays(&store, &of(5), b"first").await;
}

#[tokio::test]
async fn the_migration_waits_for_no_record_and_none_for_it() {
    let postgres = version_1();
    let url = format!("{}?migrate=off", postgres.url());
    let before = PostgresStore::connect(&url).await.unwrap();
    let migration = PostgresStore::MIGRATIONS[1];
    let migrates = Transaction::begin(&postgres, migration);
    finish(&before, &of(6), b"meanwhile").await;
    replays(&before, &of(6), b"meanwhile").await;
    // It has rolled back.
    drop(migrates);
    assert_eq!(version(&postgres), "1");

    let lock = "LOCK TABLE idem_records IN ACCESS EXCLUSIVE MODE";
    let locked = Transaction::begin(&postgres, lock);
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    PostgresStore::from_pool(pool).migrate().await.unwrap();
    assert_eq!(version(&postgres), "2");
    drop(locked);
    replays(&before, &of(6), b"meanwhile").await;
}

/// A process of the version before: its statements, word for word.
struct Old(PgConnection);

impl Old {
    async fn claim(&mut self, claim: &Claim) -> (i32, Option<Vec<u8>>) {
        let row = sqlx::query(
            "WITH standing AS (
    SELECT attempt, fingerprint = $2 AS same, token = $3 AS own, outcome,
        CASE WHEN token IS NOT NULL THEN lease_until - now() END AS lease_left,
        expires_at - now() AS kept
    FROM idem_records
    WHERE id = $1 AND expires_at > now() AND NOT (
        $6 AND outcome IS NULL AND fingerprint = $2
        AND (token IS NULL OR token <> $3 AND lease_until <= now()))
), acquired AS (
    INSERT INTO idem_records AS r
        (id, fingerprint, attempt, token, lease_until, expires_at, sweep_at)
    SELECT $1, $2, 1, $3, now() + $4, now() + $4 + $5, now() + $4 + $4 + $5
    WHERE NOT EXISTS (SELECT FROM standing)
    ON CONFLICT (id) DO UPDATE SET
        fingerprint = excluded.fingerprint,
        attempt = CASE WHEN r.expires_at > now() THEN least(r.attempt, 2147483646) + 1 ELSE 1 END,
        token = excluded.token,
        lease_until = excluded.lease_until,
        expires_at = excluded.expires_at,
        sweep_at = excluded.sweep_at,
        watched = r.watched AND r.expires_at > now(),
        outcome = NULL
    WHERE r.expires_at <= now() OR (
        $6 AND r.outcome IS NULL AND r.fingerprint = $2
        AND (r.token IS NULL OR r.token <> $3 AND r.lease_until <= now()))
    RETURNING attempt
)
SELECT attempt, true AS same, true AS own, NULL::bytea AS outcome,
    NULL::interval AS lease_left, NULL::interval AS kept
FROM acquired
UNION ALL
SELECT attempt, same, own, outcome, lease_left, kept FROM standing",
        )
        .bind(&claim.id.as_bytes()[..])
        .bind(claim.fingerprint.to_bytes().to_vec())
        .bind(&claim.token.as_bytes()[..])
        .bind(claim.lease)
        .bind(claim.retention)
        .bind(claim.on_crash == OnCrash::Rerun)
        .fetch_one(&mut self.0)
        .await
        .unwrap();
        (row.get("attempt"), row.get("outcome"))
    }

    async fn complete(&mut self, claim: &Claim, outcome: &[u8]) -> bool {
        sqlx::query_scalar(
            "WITH held AS (
    SELECT outcome FROM idem_records WHERE id = $1 AND token = $2 AND expires_at > now()
), finished AS (
    UPDATE idem_records SET
        outcome = $3,
        expires_at = now() + $4,
        sweep_at = greatest(sweep_at, now() + $4)
    WHERE id = $1 AND token = $2 AND outcome IS NULL AND expires_at > now()
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT EXISTS (SELECT FROM finished) OR EXISTS (SELECT FROM held)
WHERE EXISTS (SELECT FROM finished) OR NOT EXISTS (SELECT FROM held WHERE outcome IS NULL)",
        )
        .bind(&claim.id.as_bytes()[..])
        .bind(&claim.token.as_bytes()[..])
        .bind(outcome)
        .bind(claim.retention)
        .fetch_one(&mut self.0)
        .await
        .unwrap()
    }
}

#[tokio::test]
async fn processes_of_both_versions_share_the_tables() {
    let postgres = version_1();
    let mut old = Old(PgConnection::connect(&postgres.url()).await.unwrap());
    // It has begun before the migration, and goes on after it.
    let begun = of(6);
    assert_eq!(old.claim(&begun).await, (1, None));
    let store = PostgresStore::connect(&postgres.url()).await.unwrap();
    assert_eq!(version(&postgres), "2");
    let refused = store.claim(&of(6)).await.unwrap();
    assert!(matches!(refused, Claimed::InFlight { .. }), "{refused:?}");
    assert!(old.complete(&begun, b"by the old one").await);
    replays(&store, &of(6), b"by the old one").await;

    let begun = of(7);
    let acquired = store.claim(&begun).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
    assert_eq!(old.claim(&of(7)).await, (1, None));
    assert!(!old.complete(&of(7), b"not its own").await);
    let lease = Lease::of(&begun, 1);
    let done = store.complete(&lease, "by the new one".into()).await;
    assert_eq!(done.unwrap(), Change::Applied);
    let replayed = old.claim(&of(7)).await;
    assert_eq!(replayed, (1, Some(b"by the new one".to_vec())));
}
