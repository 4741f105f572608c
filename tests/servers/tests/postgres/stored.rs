//! Rows of every kind of record, as they were stored before.

use idem::store::{Change, Claimed, Lease, OperationName, Store};
use idem::stores::Sqlx;
use idem::stores::postgres::PostgresStore;
use idem::transactional::{BegunTransaction, TransactionSource, Transactional};
use idem_tests::Postgres;
use sqlx::PgPool;

use crate::limits::patient_at;
use crate::records::{self, CRASHED, claim_of};

/// The tables of version 2, as their migrations left them.
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
    applied_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    min_version integer NOT NULL DEFAULT 1
);
INSERT INTO idem_schema (version) VALUES (1), (2);
";

/// Attempt, whether it is watched, id, fingerprint, token and outcome of each row, as `psql` shows
/// them.
const ROWS: &str = r"1|f|\x0101010101010101010101010101010101010101010101010101010101010101|\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x01010101010101010101010101010101|\x0156226368617267656422
2|f|\x0202020202020202020202020202020202020202020202020202020202020202|\x02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x02020202020202020202020202020202|\x01467b226465636c696e6564223a35317d
1|f|\x0303030303030303030303030303030303030303030303030303030303030303|\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x03030303030303030303030303030303|\x0152c901010c636f6e74656e742d747970650a746578742f706c61696e0763686172676564
1|f|\x0404040404040404040404040404040404040404040404040404040404040404|\x04aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x04040404040404040404040404040404|\x01472a090a0763686172676564
1|f|\x0505050505050505050505050505050505050505050505050505050505050505|\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x05050505050505050505050505050505|\x01544c
1|f|\x0606060606060606060606060606060606060606060606060606060606060606|\x02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x06060606060606060606060606060606|\x015453
200|f|\x0707070707070707070707070707070707070707070707070707070707070707|\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x07070707070707070707070707070707|\x015443
1|f|\x0808080808080808080808080808080808080808080808080808080808080808|\x04aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x08080808080808080808080808080808|
1|t|\x0909090909090909090909090909090909090909090909090909090909090909|\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x09090909090909090909090909090909|
1|f|\x0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b|\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa||
3|f|\x0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c|\x04aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c|
1|f|\x2712b07161e234779deaaebac4de9297b7fe2cb14fdbafa53f58f639ba98647b|\x02f28179a1ad0d2e598bf747cc079024ae03d7d0397d23cc79b15746c3c01dc0a6|\x0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e|\x0152c901010c636f6e74656e742d7479706519746578742f706c61696e3b20636861727365743d7574662d3809636861726765642035
1|f|\x640aa379b08a18cdc2e4864bc1480f0d981da2c08340f316e7c43382a65171e6|\x013defbd241a6121f7abafdd1db155fc2bf4de216bd630ffe34462529ad3b1e875|\x0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d|\x0156226368617267656422";

/// The same of a crashed attempt.
const CRASHED_ROW: &str = r"1|f|\x0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a|\x02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|\x0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a|";

/// What a row's times are while its lease holds.
const TIMES: &str =
    "now() + interval '30 s', now() + interval '1 hour 30 s', now() + interval '1 hour 60 s'";
/// What they are when it is over.
const TIMES_PAST: &str =
    "now() - interval '1 s', now() + interval '1 hour', now() + interval '1 hour'";

fn insert(postgres: &Postgres, row: &str, times: &str) {
    let values: Vec<_> = row
        .split('|')
        .map(|value| match value {
            "" => "NULL".to_owned(),
            value => format!("'{value}'"),
        })
        .collect();
    postgres.psql(&format!(
        "INSERT INTO idem_records (lease_until, expires_at, sweep_at, \
            attempt, watched, id, fingerprint, token, outcome) \
         VALUES ({times}, {})",
        values.join(", ")
    ));
}

/// A server with all of them.
fn stored() -> Postgres {
    let postgres = Postgres::start();
    postgres.psql(TABLES);
    for row in ROWS.lines().chain([CRASHED_ROW]) {
        let is_over = row == CRASHED_ROW || row.ends_with("||");
        insert(&postgres, row, if is_over { TIMES_PAST } else { TIMES });
    }
    postgres
}

#[tokio::test]
async fn rows_of_every_kind_are_read_replayed_ended_and_taken_over() {
    let postgres = stored();
    let store = patient_at(&postgres.url()).await;
    records::read_all(store).await;
}

#[tokio::test]
async fn rows_of_every_kind_are_read_behind_a_pooler_of_transactions() {
    let postgres = stored();
    let url = format!("{}?pooler=transaction", postgres.url());
    let store = PostgresStore::connect(&url).await.unwrap();
    records::read_all(store).await;
}

#[tokio::test]
async fn transactions_replay_and_take_over_rows_that_were_stored_before() {
    let postgres = stored();
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    PostgresStore::from_pool(pool.clone())
        .migrate()
        .await
        .unwrap();
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
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    records::write_all(&store).await;
    let rows = postgres.psql(
        "SELECT attempt, watched, id, fingerprint, token, outcome FROM idem_records ORDER BY id",
    );
    assert_eq!(rows, ROWS);
    let times = postgres.psql(
        "SELECT DISTINCT expires_at - lease_until, sweep_at - expires_at FROM idem_records \
         WHERE outcome IS NULL AND token IS NOT NULL",
    );
    assert_eq!(times, "01:00:00|00:00:30");
}

/// Outcome and steps of records with finished steps: running, and suspended.
const WITH_STEPS: &str = r"t|\x7374657073|\x01000161|\x6f7264657273
f|\x73757370656e646564|\x01000161|\x6f7264657273";

#[tokio::test]
async fn records_with_finished_steps_are_written_and_read_as_before() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
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
    let rows = "SELECT token IS NOT NULL, outcome, steps, operation FROM idem_records ORDER BY id";
    assert_eq!(postgres.psql(rows), WITH_STEPS);
    postgres.psql("UPDATE idem_records SET lease_until = now()");
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
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    records::identities_are_those_of_before(store).await;
}
