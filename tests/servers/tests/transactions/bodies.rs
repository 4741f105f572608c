//! Bodies that do to their transaction what they should not, and databases that end it: nothing
//! is stored of what has not happened, and the next call finds a fit connection.

use std::future::Future;

use futures_util::FutureExt;
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprint, Operation};
use sqlx::{Connection, PgPool, Postgres, Sqlite, SqlitePool, Transaction, raw_sql};

use crate::databases::{postgres, sqlite};

fn operation() -> Operation {
    Engine::new(MemoryStore::new()).operation("tests.bodies")
}

fn request() -> Fingerprint {
    Fingerprint::of("the request").unwrap()
}

#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Stored(String);

impl From<Error> for Stored {
    fn from(error: Error) -> Self {
        Self(format!("not run: {error}"))
    }
}

macro_rules! count {
    ($pool:expr, $table:literal) => {{
        let count = concat!("SELECT count(*) FROM ", $table);
        let count: i64 = sqlx::query_scalar(count).fetch_one($pool).await.unwrap();
        count
    }};
}

/// The body writes, and then does this.
async fn in_postgres<F>(
    pool: &PgPool,
    then: impl FnOnce(Transaction<'static, Postgres>) -> F,
) -> Result<i64, Error>
where
    F: Future<Output = Transaction<'static, Postgres>>,
{
    let body = |mut tx: Transaction<'static, Postgres>| async move {
        raw_sql("INSERT INTO entries VALUES ('first', 1)")
            .execute(&mut *tx)
            .await
            .unwrap();
        (then(tx).await, Ok(1))
    };
    operation()
        .transaction(pool)
        .run("k", request(), body)
        .await
}

#[tokio::test]
async fn postgres_what_a_body_has_rolled_back_is_not_stored_as_done() {
    let (_server, pool) = postgres(1).await;
    let refused = in_postgres(&pool, |mut tx| async move {
        raw_sql("ROLLBACK").execute(&mut *tx).await.unwrap();
        tx
    })
    .await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    assert_eq!(
        (count!(&pool, "entries"), count!(&pool, "idem_records")),
        (0, 0)
    );
    let booked = in_postgres(&pool, |tx| async { tx }).await;
    assert_eq!(booked.unwrap(), 1);
}

#[tokio::test]
async fn postgres_a_nested_transaction_whose_begin_is_given_up_is_not_stored_as_done() {
    let (_server, pool) = postgres(1).await;
    let refused = in_postgres(&pool, |mut tx| async move {
        // A limit of time, for example. The driver then rolls everything back.
        // Until the server is not faster.
        while tx.begin().now_or_never().is_some() {}
        tx
    })
    .await;
    // All of it, or nothing of it.
    let records = i64::from(refused.is_ok());
    assert_eq!(
        (count!(&pool, "entries"), count!(&pool, "idem_records")),
        (records, records),
        "{refused:?}"
    );
}

#[tokio::test]
async fn postgres_a_record_goes_into_the_table_that_was_looked_at() {
    let (_server, pool) = postgres(1).await;
    let tenant = "CREATE SCHEMA tenant; \
        CREATE TABLE tenant.idem_records (LIKE idem_records INCLUDING ALL)";
    raw_sql(tenant).execute(&pool).await.unwrap();
    let refused = in_postgres(&pool, |mut tx| async move {
        let elsewhere = "SET LOCAL search_path = tenant";
        raw_sql(elsewhere).execute(&mut *tx).await.unwrap();
        tx
    })
    .await;
    // There it would never be found.
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    assert_eq!(
        (count!(&pool, "entries"), count!(&pool, "idem_records")),
        (0, 0)
    );
    assert_eq!(count!(&pool, "tenant.idem_records"), 0);
}

#[tokio::test]
async fn postgres_where_the_lock_is_refused_no_transaction_stays_open() {
    let (_server, pool) = postgres(1).await;
    // As when the server has no room for more locks.
    let revoke = "REVOKE EXECUTE ON FUNCTION pg_try_advisory_xact_lock(bigint) FROM PUBLIC; \
        CREATE ROLE app; GRANT ALL ON ALL TABLES IN SCHEMA public TO app; SET ROLE app";
    raw_sql(revoke).execute(&pool).await.unwrap();
    let refused = in_postgres(&pool, |tx| async { tx }).await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    // The pool's one connection is fit for use.
    assert_eq!(count!(&pool, "entries"), 0);
}

#[tokio::test]
async fn savepoints_of_the_bodys_own_are_its_own() {
    let sql = "INSERT INTO entries VALUES ('before', 1); SAVEPOINT idem; \
        INSERT INTO entries VALUES ('behind', 1)";
    let refused = || Err::<i64, _>(Stored("refused".to_owned()));
    let (_server, pool) = postgres(1).await;
    let ended: Result<i64, Stored> = operation()
        .transaction(&pool)
        .run_storing_errors("k", request(), |mut tx| async move {
            raw_sql(sql).execute(&mut *tx).await.unwrap();
            (tx, refused())
        })
        .await;
    assert_eq!(ended, refused());
    assert_eq!(
        (count!(&pool, "entries"), count!(&pool, "idem_records")),
        (0, 1)
    );

    let (_file, pool) = sqlite(1).await;
    let ended: Result<i64, Stored> = operation()
        .transaction(&pool)
        .run_storing_errors("k", request(), |mut tx| async move {
            raw_sql(sql).execute(&mut *tx).await.unwrap();
            (tx, refused())
        })
        .await;
    assert_eq!(ended, refused());
    assert_eq!(
        (count!(&pool, "entries"), count!(&pool, "idem_records")),
        (0, 1)
    );
}

/// The body's SQL makes SQLite roll everything back, and then it ends like this.
async fn rolled_back_under_it(
    pool: &SqlitePool,
    ended: impl FnOnce() -> Result<i64, Error>,
) -> Result<i64, Error> {
    let body = |mut tx: Transaction<'static, Sqlite>| async move {
        let taken = "INSERT OR ROLLBACK INTO entries VALUES ('taken', 2)";
        assert!(sqlx::query(taken).execute(&mut *tx).await.is_err());
        (tx, ended())
    };
    operation()
        .transaction(pool)
        .run("k", request(), body)
        .await
}

#[tokio::test]
async fn sqlite_a_connection_whose_transaction_was_rolled_back_under_it_is_fit_for_the_next() {
    let (_file, pool) = sqlite(1).await;
    let taken = "CREATE UNIQUE INDEX one ON entries (reference); \
        INSERT INTO entries VALUES ('taken', 1)";
    raw_sql(taken).execute(&pool).await.unwrap();
    let panicking = || -> Result<i64, Error> { panic!("as asked") };
    let endings: [fn() -> Result<i64, Error>; 3] = [|| Ok(1), || Err(Error::NoEngine), panicking];
    for (ended, key) in endings.into_iter().zip(0..) {
        let refused = tokio::spawn({
            let pool = pool.clone();
            async move { rolled_back_under_it(&pool, ended).await }
        });
        assert!(!matches!(refused.await, Ok(Ok(_))));
        assert_eq!(
            (count!(&pool, "entries"), count!(&pool, "idem_records")),
            (1, key)
        );
        let booked: Result<i64, Error> = operation()
            .transaction(&pool)
            .run(&key, request(), |tx| async move { (tx, Ok(2)) })
            .await;
        assert_eq!(booked.unwrap(), 2);
    }
}

#[tokio::test]
async fn postgres_a_statement_under_way_is_over_when_the_deadline_is_answered() {
    let (_server, pool) = postgres(2).await;
    let stopped: Result<i64, Error> = operation()
        .deadline(std::time::Duration::from_secs(1))
        .transaction(&pool)
        .run("k", request(), |mut tx| async move {
            raw_sql("INSERT INTO entries VALUES ('first', 1); SELECT pg_sleep(3)")
                .execute(&mut *tx)
                .await
                .unwrap();
            (tx, Ok(1))
        })
        .await;
    let is_rolled_back = matches!(
        stopped,
        Err(Error::DeadlineExceeded {
            rolled_back: true,
            ..
        })
    );
    assert!(is_rolled_back, "{stopped:?}");
    // For who does not wait, either.
    let next: Result<i64, Error> = operation()
        .transaction(&pool)
        .run("k", request(), |tx| async move { (tx, Ok(2)) })
        .await;
    assert_eq!(next.unwrap(), 2);
    assert_eq!(count!(&pool, "entries"), 0);
}
