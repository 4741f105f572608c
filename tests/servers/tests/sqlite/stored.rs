//! Rows of every kind of record, as they were stored before.

use idem::store::{Change, Claimed, Lease, OperationName, Store};
use idem::stores::Sqlx;
use idem::stores::sqlite::SqliteStore;
use idem::transactional::{BegunTransaction, TransactionSource, Transactional};
use sqlx::sqlite::SqlitePoolOptions;

use crate::file::File;
use crate::records::{self, CRASHED, claim_of};

/// The tables of version 2, as their migrations left them.
const TABLES: &str = "
CREATE TABLE idem_schema (
    version         INTEGER NOT NULL,
    clock_offset_ms INTEGER NOT NULL DEFAULT 0,
    min_version     INTEGER NOT NULL DEFAULT 1
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
INSERT INTO idem_schema (version) VALUES (2);
";

/// Attempt, id, fingerprint, token and outcome of each row: blobs as SQLite quotes them.
const ROWS: &str = "\
1|X'0101010101010101010101010101010101010101010101010101010101010101'|X'01AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'01010101010101010101010101010101'|X'0156226368617267656422'\n\
2|X'0202020202020202020202020202020202020202020202020202020202020202'|X'02AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'02020202020202020202020202020202'|X'01467B226465636C696E6564223A35317D'\n\
1|X'0303030303030303030303030303030303030303030303030303030303030303'|X'03AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'03030303030303030303030303030303'|X'0152C901010C636F6E74656E742D747970650A746578742F706C61696E0763686172676564'\n\
1|X'0404040404040404040404040404040404040404040404040404040404040404'|X'04AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'04040404040404040404040404040404'|X'01472A090A0763686172676564'\n\
1|X'0505050505050505050505050505050505050505050505050505050505050505'|X'01AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'05050505050505050505050505050505'|X'01544C'\n\
1|X'0606060606060606060606060606060606060606060606060606060606060606'|X'02AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'06060606060606060606060606060606'|X'015453'\n\
200|X'0707070707070707070707070707070707070707070707070707070707070707'|X'03AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'07070707070707070707070707070707'|X'015443'\n\
1|X'0808080808080808080808080808080808080808080808080808080808080808'|X'04AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'08080808080808080808080808080808'|NULL\n\
1|X'0909090909090909090909090909090909090909090909090909090909090909'|X'01AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'09090909090909090909090909090909'|NULL\n\
1|X'0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B0B'|X'03AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|NULL|NULL\n\
3|X'0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C'|X'04AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C0C'|NULL\n\
1|X'2712B07161E234779DEAAEBAC4DE9297B7FE2CB14FDBAFA53F58F639BA98647B'|X'02F28179A1AD0D2E598BF747CC079024AE03D7D0397D23CC79B15746C3C01DC0A6'|X'0E0E0E0E0E0E0E0E0E0E0E0E0E0E0E0E'|X'0152C901010C636F6E74656E742D7479706519746578742F706C61696E3B20636861727365743D7574662D3809636861726765642035'\n\
1|X'640AA379B08A18CDC2E4864BC1480F0D981DA2C08340F316E7C43382A65171E6'|X'013DEFBD241A6121F7ABAFDD1DB155FC2BF4DE216BD630FFE34462529AD3B1E875'|X'0D0D0D0D0D0D0D0D0D0D0D0D0D0D0D0D'|X'0156226368617267656422'";

/// The same of a crashed attempt.
const CRASHED_ROW: &str = "1|X'0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A'|X'02AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'|X'0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A'|NULL";

/// The end of a lease that holds, in milliseconds since 1970, and the end of its record.
const TIMES: (i64, i64) = (4_102_444_000_000, 4_102_447_600_000);
/// The same of a lease that is over.
const TIMES_PAST: (i64, i64) = (1_700_000_000_000, 4_102_447_600_000);

/// A file with all of them.
async fn stored() -> File {
    let file = File::new();
    let options = file.options().create_if_missing(true);
    let pool = SqlitePoolOptions::new();
    let pool = pool.connect_with(options).await.unwrap();
    for sql in ["PRAGMA journal_mode = WAL", TABLES] {
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
    for row in ROWS.lines().chain([CRASHED_ROW]) {
        let is_over = row == CRASHED_ROW || row.ends_with("|NULL|NULL");
        let (lease_until, gone_at) = if is_over { TIMES_PAST } else { TIMES };
        file.run(&format!(
            "INSERT INTO idem_records \
                (attempt, id, fingerprint, token, outcome, lease_until, gone_at) \
             VALUES ({}, {lease_until}, {gone_at})",
            row.replace('|', ", ")
        ))
        .await;
    }
    file
}

#[tokio::test]
async fn rows_of_every_kind_are_read_replayed_ended_and_taken_over() {
    let file = stored().await;
    records::read_all(file.store().await).await;
}

#[tokio::test]
async fn rows_of_every_kind_are_read_in_an_applications_database() {
    let file = stored().await;
    let pool = SqlitePoolOptions::new().connect_lazy_with(file.options());
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    store.migrate().await.unwrap();
    records::read_all(store).await;
}

#[tokio::test]
async fn transactions_replay_and_take_over_rows_that_were_stored_before() {
    let file = stored().await;
    let pool = SqlitePoolOptions::new().connect_lazy_with(file.options());
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    store.migrate().await.unwrap();
    let database = TransactionSource::<Sqlx>::database(&pool);
    for record in records::FINISHED {
        match database.begin(&record.retry()).await.unwrap() {
            BegunTransaction::Answered(Claimed::Finished { outcome, .. }) => {
                assert_eq!(outcome, record.outcome);
            }
            other => panic!("{other:?}"),
        }
    }
    for number in [records::RUNNING, records::WATCHED, records::CREATED] {
        let begun = database
            .begin(&claim_of(number).by_another())
            .await
            .unwrap();
        let in_flight = matches!(begun, BegunTransaction::Answered(Claimed::InFlight { .. }));
        assert!(in_flight, "{begun:?}");
    }
    for number in [CRASHED, records::ABANDONED] {
        match database
            .begin(&claim_of(number).by_another())
            .await
            .unwrap()
        {
            BegunTransaction::Acquired { attempt, .. } => assert_eq!(attempt, 2),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_written_is_what_was_written_before() {
    let file = File::new();
    records::write_all(&file.store().await).await;
    let mut connection = file.connection().await;
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT attempt || '|' || quote(id) || '|' || quote(fingerprint) || '|' || quote(token) \
            || '|' || quote(outcome) \
         FROM idem_records ORDER BY id",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(rows.join("\n"), ROWS);
    let retention = "SELECT DISTINCT gone_at - lease_until FROM idem_records \
        WHERE outcome IS NULL AND token IS NOT NULL";
    assert_eq!(file.number(retention).await, 3_600_000);
}

/// Outcome and steps of records with finished steps: running, and suspended.
const WITH_STEPS: &str = "\
1|X'00'|X'01000161'|'orders'\n\
0|X'FF'|X'01000161'|'orders'";

#[tokio::test]
async fn records_with_finished_steps_are_written_and_read_as_before() {
    let file = File::new();
    let store = file.store().await;
    let claims = [1, 2].map(|number| claim_of(number).operation(OperationName::new("orders")));
    for claim in &claims {
        assert_eq!(store.claim(claim).await.unwrap(), Claimed::acquired(1));
        let steps = b"\x01\0\x01a".as_slice();
        let lease = Lease::of(claim, 1);
        let step = store.checkpoint(&lease, 0, steps.into()).await;
        assert_eq!(step.unwrap(), Change::Applied);
    }
    let suspended = &claims[1];
    let change = store.suspend(&suspended.id, &suspended.token).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let mut connection = file.connection().await;
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT (token IS NOT NULL) || '|' || quote(outcome) || '|' || quote(steps) \
            || '|' || quote(operation) \
         FROM idem_records ORDER BY id",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(rows.join("\n"), WITH_STEPS);
    file.run("UPDATE idem_records SET lease_until = 1").await;
    for claim in &claims {
        let answer = store.claim(&claim.by_another()).await.unwrap();
        let Claimed::Acquired { attempt: 2, steps } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(&steps[..], b"\x01\0\x01a");
    }
}

#[tokio::test]
async fn calls_are_identified_as_before() {
    let file = File::new();
    records::identities_are_those_of_before(file.store().await).await;
}
