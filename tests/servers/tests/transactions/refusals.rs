//! What a database refuses within an attempt's transaction: of the library's own table it is said
//! before the body runs, where that can be known; of what the body wrote it is the application's
//! to set right. Whatever it is, nothing stays, and the key is free.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use idem::stores::memory::MemoryStore;
use idem::stores::postgres::PostgresStore;
use idem::{Engine, Error, Fingerprint, InFlight, StoreError};
use idem_tests::Postgres;
use sqlx::PgPool;

use crate::databases;

/// A database with a login that has what the documentation says, and a table of its own.
async fn with_app() -> (Postgres, PgPool) {
    let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    for migration in PostgresStore::MIGRATIONS {
        postgres.psql(migration);
    }
    postgres.psql(
        "CREATE ROLE app LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON idem_records TO app; \
         GRANT SELECT ON idem_schema TO app; \
         CREATE TABLE entries (reference TEXT NOT NULL, amount BIGINT NOT NULL); \
         GRANT ALL ON entries TO app",
    );
    let url = postgres.url().replace("//postgres@", "//app@");
    (postgres, PgPool::connect(&url).await.unwrap())
}

/// Books in a transaction, and says how often the body ran.
async fn book(pool: &PgPool) -> (Result<i64, Error>, usize) {
    let executions = AtomicUsize::new(0);
    let executions_of = &executions;
    let booked = Engine::new(MemoryStore::new())
        .operation("tests.refusals")
        // A server that refuses a commit says so a moment before it lets go of the record.
        .in_flight(InFlight::Wait(Duration::from_secs(30)))
        .transaction(pool)
        .run(
            "k",
            Fingerprint::of("the request").unwrap(),
            |mut tx| async move {
                executions_of.fetch_add(1, Ordering::SeqCst);
                let insert = "INSERT INTO entries (reference, amount) VALUES ('k', 1)";
                sqlx::query(insert).execute(&mut *tx).await.unwrap();
                (tx, Ok(1))
            },
        )
        .await;
    (booked, executions.load(Ordering::SeqCst))
}

fn nothing_stays(postgres: &Postgres, what: &str) {
    let rows = "SELECT (SELECT count(*) FROM entries)";
    assert_eq!(postgres.psql(rows), "0", "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_owner_of_the_records_refuses_runs_no_body() {
    let (postgres, pool) = with_app().await;
    let refusals = [
        (
            "a missing right to read",
            "REVOKE SELECT ON idem_records FROM app",
            "GRANT SELECT ON idem_records TO app",
        ),
        (
            "a missing right to insert",
            "REVOKE INSERT ON idem_records FROM app",
            "GRANT INSERT ON idem_records TO app",
        ),
        (
            "a missing right to update",
            "REVOKE UPDATE ON idem_records FROM app",
            "GRANT UPDATE ON idem_records TO app",
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
            "a login that was revoked",
            "ALTER ROLE app NOLOGIN; \
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'",
            "ALTER ROLE app LOGIN",
        ),
    ];
    for (what, done, undone) in refusals {
        postgres.psql(done);
        let (refused, executions) = book(&pool).await;
        let Err(Error::Store(StoreError::Rejected { .. })) = refused else {
            panic!("{what}: {refused:?}");
        };
        assert_eq!(executions, 0, "{what}");
        postgres.psql(undone);
        nothing_stays(&postgres, what);
    }
    let (booked, executions) = book(&pool).await;
    assert_eq!((booked.unwrap(), executions), (1, 1));
}

/// What the log says of a call in a database without the library's tables.
macro_rules! said_without_tables {
    ($pool:expr) => {{
        let pool = $pool;
        sqlx::raw_sql("DROP TABLE idem_records")
            .execute(pool)
            .await
            .unwrap();
        let request = Fingerprint::of("the request").unwrap();
        let refused: Result<i64, Error> = Engine::new(MemoryStore::new())
            .operation("tests.refusals")
            .transaction(pool)
            .run("k", request, |tx| async move { (tx, Ok(1)) })
            .await;
        let Err(Error::Store(refused @ StoreError::Rejected { .. })) = refused else {
            panic!("{refused:?}");
        };
        std::error::Error::source(&refused).unwrap().to_string()
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_tables_says_how_they_are_made() {
    let (_server, pool) = databases::postgres(2).await;
    let said = said_without_tables!(&pool);
    assert!(
        said.contains("PostgresStore::from_pool(pool).migrate()"),
        "{said}"
    );
    let (_server, pool) = databases::mysql(2).await;
    let said = said_without_tables!(&pool);
    assert!(
        said.contains("MySqlStore::from_pool(pool).migrate()"),
        "{said}"
    );
    let (_file, pool) = databases::sqlite(2).await;
    let said = said_without_tables!(&pool);
    assert!(
        said.contains("SqliteStore::from_pool(&pool).await?.migrate()"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_records_table_refuses_in_the_end_rolls_everything_back() {
    let (postgres, pool) = with_app().await;
    let refusals = [
        (
            "row-level security",
            "ALTER TABLE idem_records ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE idem_records DISABLE ROW LEVEL SECURITY",
        ),
        (
            "a constraint",
            "ALTER TABLE idem_records ADD CONSTRAINT none CHECK (attempt > 1)",
            "ALTER TABLE idem_records DROP CONSTRAINT none",
        ),
        (
            "a raising trigger",
            "CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS \
                $$ BEGIN RAISE EXCEPTION 'no'; END $$; \
             CREATE TRIGGER refuses BEFORE INSERT ON idem_records \
                FOR EACH ROW EXECUTE FUNCTION refuses()",
            "DROP TRIGGER refuses ON idem_records",
        ),
    ];
    for (what, done, undone) in refusals {
        postgres.psql(done);
        let (refused, executions) = book(&pool).await;
        let Err(Error::Store(StoreError::Rejected { .. })) = refused else {
            panic!("{what}: {refused:?}");
        };
        assert_eq!(executions, 1, "{what}");
        nothing_stays(&postgres, what);
        postgres.psql(undone);
    }
    assert_eq!(book(&pool).await.0.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_at_the_commit_is_the_applications_to_set_right() {
    let (postgres, pool) = with_app().await;
    // Each is checked at the end of the transaction.
    let deferred = |name: &str, raises: &str| {
        format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS \
                $$ BEGIN {raises}; RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER {name} AFTER INSERT ON entries \
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {name}()"
        )
    };
    let raising = |code: &str| format!("RAISE EXCEPTION 'no' USING ERRCODE = '{code}'");
    let refusals = [
        (
            "23505",
            "ALTER TABLE entries ADD CONSTRAINT one UNIQUE (amount) DEFERRABLE INITIALLY DEFERRED; \
             INSERT INTO entries VALUES ('other', 1)"
                .to_owned(),
            "DELETE FROM entries; ALTER TABLE entries DROP CONSTRAINT one",
        ),
        (
            "23503",
            "CREATE TABLE accounts (reference TEXT PRIMARY KEY); \
             ALTER TABLE entries ADD CONSTRAINT known FOREIGN KEY (reference) \
                REFERENCES accounts DEFERRABLE INITIALLY DEFERRED"
                .to_owned(),
            "ALTER TABLE entries DROP CONSTRAINT known",
        ),
        (
            "P0001",
            deferred("raises", "RAISE EXCEPTION 'no'"),
            "DROP TRIGGER raises ON entries",
        ),
        (
            "42P01",
            deferred("asks", "PERFORM FROM nothing"),
            "DROP TRIGGER asks ON entries",
        ),
        (
            "22012",
            deferred("divides", "PERFORM 1 / 0"),
            "DROP TRIGGER divides ON entries",
        ),
        (
            "XX000",
            deferred("breaks", &raising("XX000")),
            "DROP TRIGGER breaks ON entries",
        ),
    ];
    for (code, done, undone) in refusals {
        postgres.psql(&done);
        for _ in 0..2 {
            let (refused, executions) = book(&pool).await;
            let Err(Error::CommitRefused(source)) = refused else {
                panic!("{code}: {refused:?}");
            };
            let source = source.downcast_ref::<sqlx::Error>().unwrap();
            let seen = source.as_database_error().unwrap().code();
            assert_eq!(seen.as_deref(), Some(code));
            // The key is free: it runs again.
            assert_eq!(executions, 1, "{code}");
        }
        postgres.psql(undone);
        nothing_stays(&postgres, code);
        assert_eq!(
            postgres.psql("SELECT count(*) FROM idem_records"),
            "0",
            "{code}"
        );
    }
    // What was in the way, and will not be for long, is no fault of the application's.
    for (code, busy) in [
        ("40001", true),
        ("55P03", true),
        ("53200", false),
        ("57014", false),
    ] {
        postgres.psql(&deferred("was_in_the_way", &raising(code)));
        let (refused, _) = book(&pool).await;
        match refused {
            Err(Error::Store(StoreError::Busy { .. })) if busy => {}
            Err(Error::Store(StoreError::NotReady { .. })) if !busy => {}
            other => panic!("{code}: {other:?}"),
        }
        postgres.psql("DROP TRIGGER was_in_the_way ON entries; DROP FUNCTION was_in_the_way()");
    }
    assert_eq!(book(&pool).await.0.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_replays_and_runs_nothing() {
    let (postgres, pool) = with_app().await;
    assert_eq!(book(&pool).await.0.unwrap(), 1);
    postgres.psql("ALTER ROLE app SET default_transaction_read_only = on");
    let url = postgres.url().replace("//postgres@", "//app@");
    let pool = PgPool::connect(&url).await.unwrap();
    // What is finished is given back.
    let (replayed, executions) = book(&pool).await;
    assert_eq!((replayed.unwrap(), executions), (1, 0));
    postgres.psql("DELETE FROM idem_records");
    let (refused, executions) = book(&pool).await;
    assert!(
        matches!(refused, Err(Error::Store(StoreError::NotReady { .. }))),
        "{refused:?}"
    );
    assert_eq!(executions, 0);
}
