//! Rows of every kind of record, as version 1 of the tables has them.

use idem::store::{Change, Claimed, Lease, OperationName, Store};
use idem::stores::Sqlx;
use idem::stores::mysql::MySqlStore;
use idem::transactional::{BegunTransaction, TransactionSource, Transactional};
use idem_tests::MariaDb;
use sqlx::MySqlPool;

use crate::conformance::patient_at;
use crate::records::{self, CRASHED, claim_of};

/// Attempt, state, id, fingerprint, token and outcome of each row.
const COLUMNS: &str = "attempt, state, LOWER(HEX(id)), LOWER(HEX(fingerprint)), LOWER(HEX(token)), \
    LOWER(HEX(outcome))";

const ROWS: &str = include_str!("rows_of_version_1.txt");

/// The same of a crashed attempt.
const CRASHED_ROW: &str = "1\trunning\t0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\t02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\t0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\tNULL";

/// What a row's times are while its lease holds, and when it is over.
const TIMES: &str = "UTC_TIMESTAMP(6) + INTERVAL 30 SECOND, UTC_TIMESTAMP(6) + INTERVAL 3630 SECOND, \
    UTC_TIMESTAMP(6) + INTERVAL 3660 SECOND";
const TIMES_PAST: &str = "UTC_TIMESTAMP(6) - INTERVAL 1 SECOND, UTC_TIMESTAMP(6) + INTERVAL 1 HOUR, \
    UTC_TIMESTAMP(6) + INTERVAL 1 HOUR";

fn insert(server: &MariaDb, row: &str, times: &str) {
    let values: Vec<_> = row.split('\t').collect();
    let [attempt, state, bytes @ ..] = &values[..] else {
        panic!("{row}");
    };
    let bytes: Vec<_> = bytes
        .iter()
        .map(|value| match *value {
            "NULL" => "NULL".to_owned(),
            digits => format!("x'{digits}'"),
        })
        .collect();
    server.sql(&format!(
        "INSERT INTO idem_records (lease_until, expires_at, sweep_at, claimed_at, \
            attempt, state, id, fingerprint, token, outcome) \
         VALUES ({times}, UTC_TIMESTAMP(6), {attempt}, '{state}', {})",
        bytes.join(", ")
    ));
}

/// A server with all of them.
fn stored() -> MariaDb {
    let server = MariaDb::start();
    server.sql(MySqlStore::MIGRATIONS[0]);
    for row in ROWS.lines().chain([CRASHED_ROW]) {
        let is_over = row == CRASHED_ROW || row.ends_with("NULL\tNULL");
        insert(&server, row, if is_over { TIMES_PAST } else { TIMES });
    }
    server
}

#[tokio::test]
async fn rows_of_every_kind_are_read_replayed_ended_and_taken_over() {
    let server = stored();
    let store = patient_at(&server.url()).await;
    records::read_all(store).await;
}

#[tokio::test]
async fn transactions_replay_and_take_over_rows_that_a_store_has_written() {
    let server = stored();
    let pool = MySqlPool::connect(&server.url()).await.unwrap();
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
    let server = MariaDb::start();
    let store = patient_at(&server.url()).await;
    records::write_all(&store).await;
    let rows = server.sql(&format!("SELECT {COLUMNS} FROM idem_records ORDER BY id"));
    assert_eq!(rows.trim_end(), ROWS.trim_end());
    let times = server.sql(
        "SELECT DISTINCT TIMESTAMPDIFF(MICROSECOND, lease_until, expires_at), \
            TIMESTAMPDIFF(MICROSECOND, expires_at, sweep_at) FROM idem_records \
         WHERE state = 'running' AND token IS NOT NULL",
    );
    assert_eq!(times, "3600000000\t30000000");
}

/// State, steps and operation of records with finished steps.
const WITH_STEPS: &str = "1\trunning\t01000161\t6F7264657273\n0\tsuspended\t01000161\t6F7264657273";

#[tokio::test]
async fn records_with_finished_steps_are_written_and_read_as_before() {
    let server = MariaDb::start();
    let store = patient_at(&server.url()).await;
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
    let rows = "SELECT token IS NOT NULL, state, HEX(steps), HEX(operation) FROM idem_records \
        ORDER BY id";
    assert_eq!(server.sql(rows), WITH_STEPS);
    server.sql("UPDATE idem_records SET lease_until = UTC_TIMESTAMP(6)");
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
    let server = MariaDb::start();
    let store = patient_at(&server.url()).await;
    records::identities_are_those_of_before(store).await;
}
