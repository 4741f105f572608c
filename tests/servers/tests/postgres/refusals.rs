//! What a server refuses is no outage: each row of the store's table of errors, on a real server.
//! The body runs only where the store may be away and the engine was told to go on without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use idem::store::{Claimed, Lease, Store};
use idem::stores::postgres::PostgresStore;
use idem::{EngineBuilder, Error, Fingerprint, StoreError};
use idem_tests::Postgres;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool};

use crate::conformance::{claim, finish};
use crate::limits::{Transaction, impatient, patient_at};

type Refused = fn(&StoreError) -> bool;

const REJECTED: Refused = |error| matches!(error, StoreError::Rejected { .. });
const BUSY: Refused = |error| matches!(error, StoreError::Busy { .. });
const NOT_READY: Refused = |error| matches!(error, StoreError::NotReady { .. });
const FULL: Refused = |error| matches!(error, StoreError::Full { .. });

/// A server with a login that has what the documentation says, and no more.
fn with_app() -> (Postgres, String) {
    let postgres = Postgres::start();
    for migration in PostgresStore::MIGRATIONS {
        postgres.psql(migration);
    }
    postgres.psql(
        "CREATE ROLE app LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON idem_records TO app; \
         GRANT SELECT ON idem_schema TO app",
    );
    let url = postgres.url().replace("//postgres@", "//app@");
    (postgres, url)
}

/// Asks for the body to be run, and says how often it was.
async fn runs(store: &PostgresStore, fail_open: bool) -> (Result<u32, Error>, usize) {
    let engine = EngineBuilder::new(Arc::new(store.clone()));
    let engine = engine.fail_open(fail_open).build();
    let executions = AtomicUsize::new(0);
    let body = async {
        executions.fetch_add(1, Ordering::SeqCst);
        Ok(1)
    };
    let request = Fingerprint::of("the request").unwrap();
    let operation = engine.operation("tests.refusals");
    let answer = operation.run("k", request, body).await;
    engine.idle().await;
    (answer, executions.load(Ordering::SeqCst))
}

/// The store says so of a claim, and the engine runs nothing unless it is an outage and was told to.
async fn is_refused(what: &str, store: &PostgresStore, refused: Refused) {
    // The first call may find connections that were just ended.
    for fail_open in [true, false] {
        let (answer, executions) = runs(store, fail_open).await;
        let error = store.claim(&claim(1)).await.unwrap_err();
        assert!(refused(&error), "{what}: {error:?}");
        if fail_open && error.is_outage() {
            assert_eq!((answer.unwrap(), executions), (1, 1), "{what}");
            continue;
        }
        let Err(Error::Store(error)) = answer else {
            panic!("{what}: {answer:?}");
        };
        assert!(refused(&error), "{what}: {error:?}");
        assert_eq!(executions, 0, "{what}");
    }
}

/// What the owner of the database does while the store is connected, and undoes.
const BY_THE_OWNER: &[(&str, &str, &str)] = &[
    (
        "a missing right to write",
        "REVOKE INSERT ON idem_records FROM app",
        "GRANT INSERT ON idem_records TO app",
    ),
    (
        "a missing right to read",
        "REVOKE SELECT ON idem_records FROM app",
        "GRANT SELECT ON idem_records TO app",
    ),
    (
        "row-level security",
        "ALTER TABLE idem_records ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE idem_records DISABLE ROW LEVEL SECURITY",
    ),
    (
        "a renamed table",
        "ALTER TABLE idem_records RENAME TO idem_recordz",
        "ALTER TABLE idem_recordz RENAME TO idem_records",
    ),
    (
        "a renamed column",
        "ALTER TABLE idem_records RENAME COLUMN token TO secret",
        "ALTER TABLE idem_records RENAME COLUMN secret TO token",
    ),
    (
        "a constraint of the owner's",
        "ALTER TABLE idem_records ADD CONSTRAINT none CHECK (attempt > 1) NOT VALID",
        "ALTER TABLE idem_records DROP CONSTRAINT none",
    ),
    (
        "a login that was revoked",
        "ALTER ROLE app NOLOGIN; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'",
        "ALTER ROLE app LOGIN",
    ),
    (
        "a database that may not be connected to",
        "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'",
        "GRANT CONNECT ON DATABASE postgres TO PUBLIC",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_the_owner_of_the_database_refuses_runs_no_body() {
    let (postgres, url) = with_app();
    for (what, done, undone) in BY_THE_OWNER {
        let own = PostgresStore::connect(&url).await.unwrap();
        // It is connected, and what it asks is prepared.
        own.claim(&claim(2)).await.unwrap();
        let pool = PgPool::connect(&url).await.unwrap();
        let pooled = PostgresStore::from_pool(pool);
        pooled.claim(&claim(3)).await.unwrap();
        postgres.psql(done);
        is_refused(what, &own, REJECTED).await;
        is_refused(what, &pooled, REJECTED).await;
        // And connecting says so, or what is missing.
        if PostgresStore::connect(&url).await.is_ok() {
            assert!(
                what.contains("constraint") || what.contains("security"),
                "{what}"
            );
        }
        postgres.psql(undone);
        own.claim(&claim(2)).await.unwrap();
        pooled.claim(&claim(3)).await.unwrap();
    }
    assert_eq!(postgres.psql("SELECT count(*) FROM idem_records"), "2");
}

/// What a trigger says, as the server would.
const CODES: &[(&str, Refused)] = &[
    ("08006", NOT_READY),
    ("08P01", REJECTED),
    ("22023", REJECTED),
    ("23505", REJECTED),
    ("25006", NOT_READY),
    ("40001", BUSY),
    ("40P01", BUSY),
    ("42501", REJECTED),
    ("53100", FULL),
    ("53200", NOT_READY),
    ("53300", NOT_READY),
    ("55006", BUSY),
    ("55P03", BUSY),
    ("57014", NOT_READY),
    ("57P03", NOT_READY),
    ("58030", REJECTED),
    ("P0001", REJECTED),
    ("XX000", REJECTED),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_code_means_what_the_table_says() {
    let (postgres, url) = with_app();
    let store = impatient(&format!("{url}?timeout=1500ms")).await;
    for (code, refused) in CODES {
        postgres.psql(&format!(
            "CREATE OR REPLACE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                RAISE EXCEPTION 'as the server would' USING ERRCODE = '{code}'; END $$; \
             CREATE OR REPLACE TRIGGER refuses BEFORE INSERT ON idem_records \
                FOR EACH ROW EXECUTE FUNCTION refuses()"
        ));
        is_refused(code, &store, *refused).await;
    }
    assert_eq!(postgres.psql("SELECT count(*) FROM idem_records"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_that_are_not_given_are_said_to_be() {
    let (postgres, url) = with_app();
    postgres.psql("ALTER ROLE app SET lock_timeout = '100ms'");
    let store = PostgresStore::connect(&url).await.unwrap();
    let locked = Transaction::begin(
        &postgres,
        "LOCK TABLE idem_records IN ACCESS EXCLUSIVE MODE",
    );
    is_refused("a table that is locked", &store, BUSY).await;
    drop(locked);
    store.claim(&claim(1)).await.unwrap();
    // Without a limit of its own the server gives the statement up after the store's.
    postgres.psql("ALTER ROLE app RESET lock_timeout");
    let store = impatient(&format!("{url}?timeout=1s")).await;
    let locked = Transaction::begin(
        &postgres,
        "LOCK TABLE idem_records IN ACCESS EXCLUSIVE MODE",
    );
    let refused = store.claim(&claim(1)).await.unwrap_err();
    assert!(refused.is_outage(), "{refused:?}");
    drop(locked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_for_a_connection_is_not_ready() {
    let postgres = Postgres::builder().setting("max_connections", "12").start();
    let mut stores = Vec::new();
    // Two of the twelve are for superusers.
    for _ in 0..2 {
        stores.push(patient_at(&postgres.url()).await);
    }
    postgres.psql(
        "CREATE ROLE many LOGIN CONNECTION LIMIT 2; GRANT ALL ON idem_records, idem_schema TO many",
    );
    let url = postgres.url().replace("//postgres@", "//many@");
    let pool = PgPoolOptions::new().max_connections(2);
    let taken = pool.connect(&url).await.unwrap();
    let both = (
        taken.acquire().await.unwrap(),
        taken.acquire().await.unwrap(),
    );
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect_lazy(&url)
        .unwrap();
    let store = PostgresStore::pool_builder(pool)
        .timeout(Duration::from_secs(1))
        .build();
    // The driver's pool tries again until the time is over, and does not say why.
    let refused = store.claim(&claim(1)).await.unwrap_err();
    assert!(
        matches!(
            refused,
            StoreError::NotSent { .. } | StoreError::NotReady { .. }
        ),
        "{refused:?}"
    );
    let Err(idem::ConnectError::Store(refused)) = PostgresStore::connect(&url).await else {
        panic!("there is no room");
    };
    assert!(NOT_READY(&refused), "{refused:?}");
    drop(both);
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_and_databases_that_are_not_there_are_rejected_and_servers_not_asked() {
    let postgres = Postgres::builder().login("app", "right").start();
    let url = postgres.url();
    for wrong in [
        url.replace(":right@", ":wrong@"),
        url.replace("//app:", "//nobody:"),
        url.replace("/postgres", "/nothing"),
    ] {
        let Err(idem::ConnectError::Store(refused)) = PostgresStore::connect(&wrong).await else {
            panic!("{wrong} lets in");
        };
        assert!(REJECTED(&refused), "{wrong}: {refused:?}");
    }
    let store = PostgresStore::connect(&url).await.unwrap();
    postgres.kill();
    // The connections that were open say that they are gone; then there are none to be had.
    for _ in 0..3 {
        let _ = store.claim(&claim(1)).await;
    }
    let refused = store.claim(&claim(1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotSent { .. }), "{refused:?}");
    let (answer, executions) = runs(&store, true).await;
    assert_eq!((answer.unwrap(), executions), (1, 1));
    assert_eq!(runs(&store, false).await.1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_a_session_has_forgotten_or_mixed_up_are_rejected_and_the_next_are_right() {
    let postgres = Postgres::start();
    patient_at(&postgres.url()).await;
    // What a pooler does that gives each transaction another session.
    let mixed_up = [
        "DEALLOCATE ALL",
        // The names that the driver gives.
        "DEALLOCATE ALL; PREPARE sqlx_s_1 AS SELECT 1",
        "DEALLOCATE ALL; PREPARE sqlx_s_1 (text, bytea, bytea, bytea, bigint, bigint, boolean) \
            AS SELECT 'another', $1 FROM (SELECT $2, $3, $4, $5, $6, $7) AS used",
    ];
    for (number, sql) in (1..).zip(mixed_up) {
        let pool = PgPoolOptions::new().max_connections(1);
        let pool = pool.connect(&postgres.url()).await.unwrap();
        let store = PostgresStore::from_pool(pool.clone());
        store.claim(&claim(number)).await.unwrap();
        // On the pool's one connection.
        pool.execute(sqlx::raw_sql(sql)).await.unwrap();
        let refused = store.claim(&claim(50 + number)).await.unwrap_err();
        assert!(REJECTED(&refused), "{sql}: {refused:?}");
        let words = std::error::Error::source(&refused).unwrap().to_string();
        assert!(words.contains("pooler=transaction"), "{sql}: {words}");
        let next = store.claim(&claim(100 + number)).await.unwrap();
        assert_eq!(next, Claimed::acquired(1), "{sql}");
    }
    let changed = format!(
        "SELECT count(*) FROM idem_records WHERE id = '\\x{}'",
        claim(51).id
    );
    assert_eq!(postgres.psql(&changed), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_under_another_ones_name_changes_nothing() {
    let postgres = Postgres::start();
    patient_at(&postgres.url()).await;
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect(&postgres.url()).await.unwrap();
    let store = PostgresStore::from_pool(pool.clone());
    let held = claim(1);
    store.claim(&held).await.unwrap();
    let abandoned = store.abandon(&claim(2).id, &claim(2).token).await.unwrap();
    assert_eq!(abandoned, idem::store::Change::LeaseLost);
    // The text of `release`, as any client prepares it, under the name that `abandon` has here.
    let release = include_str!("../../../../idem-stores/src/postgres/statements/release.sql");
    let prepared: Vec<(String, String)> =
        sqlx::query_as("SELECT name, statement FROM pg_prepared_statements")
            .persistent(false)
            .fetch_all(&pool)
            .await
            .unwrap();
    let (name, _) = prepared
        .iter()
        .find(|(_, statement)| statement.contains("abandoned AS"))
        .unwrap();
    let swapped = format!("DEALLOCATE {name}; PREPARE {name} (text, bytea, bytea) AS {release}");
    pool.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(swapped)))
        .await
        .unwrap();
    let refused = store.abandon(&held.id, &held.token).await.unwrap_err();
    assert!(REJECTED(&refused), "{refused:?}");
    // It was not deleted.
    let renewed = store.renew(&Lease::of(&held, 1)).await.unwrap();
    assert_eq!(renewed, idem::store::Change::Applied);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_are_said_when_connecting() {
    let (postgres, url) = with_app();
    for right in ["SELECT", "INSERT", "UPDATE", "DELETE"] {
        postgres.psql(&format!("REVOKE {right} ON idem_records FROM app"));
        let refused = PostgresStore::connect(&url).await.unwrap_err().to_string();
        assert!(
            refused.contains("idem_records") && refused.contains(right),
            "{refused}"
        );
        postgres.psql(&format!("GRANT {right} ON idem_records TO app"));
    }
    let store = PostgresStore::connect(&url).await.unwrap();
    finish(&store, &claim(1), b"done").await;
}
