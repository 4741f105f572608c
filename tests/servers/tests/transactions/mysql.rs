//! What only MySQL and MariaDB can get wrong, and the handler form there.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::post;
use axum::{Extension, Json, Router};
use http_body_util::BodyExt;
use idem::axum::idempotent;
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprint, StoreError};
use idem_tests::MariaDb;
use sqlx::{AssertSqlSafe, MySqlConnection, MySqlPool};
use tower::ServiceExt;

use crate::databases::mysql;

#[derive(Clone)]
struct Shop {
    pool: MySqlPool,
}

#[idempotent(
    key = header("Idempotency-Key"),
    ttl = "24h",
    name = "tests.mysql.shop",
    transaction = shop.pool
)]
async fn order(
    State(shop): State<Shop>,
    Path(what): Path<String>,
    Json(amount): Json<i64>,
) -> Result<(StatusCode, String), StatusCode> {
    sqlx::query("INSERT INTO entries (reference, amount) VALUES (?, ?)")
        .bind(&what)
        .bind(amount)
        .execute(&mut **tx)
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    match &*what {
        "refused" => Err(StatusCode::CONFLICT),
        "busy" => Err(StatusCode::SERVICE_UNAVAILABLE),
        _ => Ok((StatusCode::CREATED, format!("{what} for {amount}"))),
    }
}

struct Bench {
    server: MariaDb,
    router: Router,
}

impl Bench {
    async fn new() -> Self {
        let (server, pool) = mysql(4).await;
        let router = Router::new()
            .route("/orders/{what}", post(order))
            .layer(Extension(Engine::new(MemoryStore::new())))
            .with_state(Shop { pool });
        Self { server, router }
    }

    /// Status, whether it is a replay, and body.
    async fn send(&self, what: &str) -> (StatusCode, bool, String) {
        let request = Request::post(format!("/orders/{what}"))
            .header("idempotency-key", what)
            .header("content-type", "application/json")
            .body(Body::from("3"))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let is_replay = response.headers().contains_key("idempotent-replayed");
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, is_replay, String::from_utf8(body.to_vec()).unwrap())
    }

    fn counts(&self) -> String {
        self.server.sql(
            "SELECT (SELECT COUNT(*) FROM entries), \
                (SELECT COUNT(*) FROM idem_records WHERE state = 'finished'), \
                (SELECT COUNT(*) FROM idem_records)",
        )
    }
}

#[tokio::test]
async fn a_response_commits_with_its_rows_and_is_replayed() {
    let bench = Bench::new().await;
    let (status, is_replay, body) = bench.send("book").await;
    assert_eq!((status, is_replay), (StatusCode::CREATED, false));
    assert_eq!(bench.send("book").await, (StatusCode::CREATED, true, body));
    assert_eq!(bench.counts(), "1\t1\t1");
}

#[tokio::test]
async fn an_error_response_is_kept_and_its_rows_are_rolled_back_to_the_savepoint() {
    let bench = Bench::new().await;
    for is_replay in [false, true] {
        let (status, replayed, _) = bench.send("refused").await;
        assert_eq!((status, replayed), (StatusCode::CONFLICT, is_replay));
        assert_eq!(bench.counts(), "0\t1\t1");
    }
}

#[tokio::test]
async fn a_response_that_frees_the_key_rolls_everything_back() {
    let bench = Bench::new().await;
    for _ in 0..2 {
        let (status, replayed, _) = bench.send("busy").await;
        assert_eq!((status, replayed), (StatusCode::SERVICE_UNAVAILABLE, false));
        assert_eq!(bench.counts(), "0\t0\t0");
    }
}

fn request() -> Fingerprint {
    Fingerprint::of("the request").unwrap()
}

async fn execute(tx: &mut MySqlConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(tx).await.unwrap();
}

async fn book(pool: &MySqlPool, statements: &'static str) -> Result<i64, Error> {
    Engine::new(MemoryStore::new())
        .operation("tests.mysql")
        .transaction(pool)
        .run("k", request(), |mut tx| async move {
            execute(&mut tx, statements).await;
            (tx, Ok(1))
        })
        .await
}

const INSERT: &str = "INSERT INTO entries VALUES ('k', 1)";

#[tokio::test]
async fn a_body_that_ends_its_transaction_is_a_crash_and_keeps_no_outcome() {
    for (statements, rows) in [
        ("INSERT INTO entries VALUES ('k', 1); COMMIT", 1),
        ("INSERT INTO entries VALUES ('k', 1); ROLLBACK", 0),
        (
            "INSERT INTO entries VALUES ('k', 1); CREATE TABLE other (a int)",
            1,
        ),
        ("INSERT INTO entries VALUES ('k', 1); COMMIT; BEGIN", 1),
    ] {
        let (server, pool) = mysql(4).await;
        let refused = book(&pool, statements).await;
        let Err(Error::Store(StoreError::Rejected { source, .. })) = refused else {
            panic!("{statements}: {refused:?}");
        };
        assert!(
            source.to_string().contains("has ended before the body"),
            "{source}"
        );
        let counts = "SELECT (SELECT COUNT(*) FROM entries), \
            (SELECT COUNT(*) FROM idem_records WHERE state = 'finished')";
        assert_eq!(server.sql(counts), format!("{rows}\t0"), "{statements}");
        // The next attempt runs at once: nobody holds the record.
        assert_eq!(book(&pool, INSERT).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_duplicate_is_told_at_once_and_waits_for_no_lock() {
    let (_server, pool) = mysql(8).await;
    let (begun, go) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
    let operation = Engine::new(MemoryStore::new()).operation("tests.mysql");
    let operation = operation.transaction(&pool);
    let first = operation.run("k", request(), async |mut tx| {
        execute(&mut tx, INSERT).await;
        begun.notify_one();
        go.notified().await;
        (tx, Ok::<_, Error>(1))
    });
    let duplicates = async {
        begun.notified().await;
        let began = Instant::now();
        for _ in 0..10 {
            let refused = book(&pool, INSERT).await;
            assert!(
                matches!(refused, Err(Error::InFlight { .. })),
                "{refused:?}"
            );
        }
        // The server's limit for a lock is 50 seconds.
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
        go.notify_one();
    };
    let (first, ()) = tokio::join!(first, duplicates);
    assert_eq!(first.unwrap(), 1);
    assert_eq!(book(&pool, INSERT).await.unwrap(), 1);
}

/// The application's own setting is there again, whatever the beginning has come to.
#[tokio::test]
async fn a_session_waits_for_locks_as_long_as_before() {
    let (_server, pool) = mysql(1).await;
    let waits = async || -> i64 {
        let ask = "SELECT CAST(@@innodb_lock_wait_timeout AS signed)";
        sqlx::query_scalar(ask).fetch_one(&pool).await.unwrap()
    };
    let before = waits().await;
    book(&pool, INSERT).await.unwrap();
    assert_eq!(waits().await, before);
    book(&pool, INSERT).await.unwrap();
    assert_eq!(waits().await, before);
    let within: Result<i64, Error> = Engine::new(MemoryStore::new())
        .operation("tests.mysql")
        .transaction(&pool)
        .run("another", request(), |mut tx| async move {
            let ask = "SELECT CAST(@@innodb_lock_wait_timeout AS signed)";
            let seen = sqlx::query_scalar(ask).fetch_one(&mut *tx).await.unwrap();
            (tx, Ok(seen))
        })
        .await;
    assert_eq!(within.unwrap(), before);
}

#[tokio::test]
async fn a_deadlock_of_the_body_commits_nothing_of_it() {
    let (server, pool) = mysql(4).await;
    server.sql("CREATE TABLE accounts (id int PRIMARY KEY, balance int); INSERT INTO accounts VALUES (1, 0), (2, 0)");
    let mut other = pool.begin().await.unwrap();
    execute(
        &mut other,
        "UPDATE accounts SET balance = 7 WHERE id = 2; UPDATE entries SET amount = 0",
    )
    .await;
    let operation = Engine::new(MemoryStore::new()).operation("tests.mysql");
    let operation = operation.transaction(&pool);
    let body = operation.run("k", request(), |mut tx| async move {
        execute(&mut tx, "UPDATE accounts SET balance = 1 WHERE id = 1").await;
        let crossing = sqlx::raw_sql("UPDATE accounts SET balance = 1 WHERE id = 2");
        let failed = crossing.execute(&mut *tx).await.is_err();
        // A body that does not care.
        (tx, Ok::<_, Error>(i64::from(failed)))
    });
    let crosses = async {
        // INNODB_TRX is not read anew for who asks often.
        let waiting = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
            WHERE VARIABLE_NAME = 'Innodb_row_lock_current_waits'";
        let began = std::time::Instant::now();
        while server.sql(waiting) != "1" {
            assert!(began.elapsed() < Duration::from_secs(60), "nobody waits");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The other one has changed more, and is not the victim.
        for amount in 0..20 {
            let insert = format!("INSERT INTO entries VALUES ('other', {amount})");
            sqlx::raw_sql(AssertSqlSafe(insert))
                .execute(&mut *other)
                .await
                .unwrap();
        }
        let cross = "UPDATE accounts SET balance = 7 WHERE id = 1";
        sqlx::raw_sql(cross).execute(&mut *other).await.unwrap();
        other.commit().await.unwrap();
    };
    let (booked, ()) = tokio::join!(body, crosses);
    assert!(
        matches!(booked, Err(Error::Store(StoreError::Rejected { .. }))),
        "{booked:?}"
    );
    assert_eq!(server.sql("SELECT balance FROM accounts"), "7\n7");
    assert_eq!(server.sql("SELECT COUNT(*) FROM idem_records"), "0");
}

#[tokio::test]
async fn a_silent_body_whose_session_is_ended_is_told_so_and_commits_nothing() {
    let (server, pool) = mysql(3).await;
    server.sql("SET GLOBAL idle_transaction_timeout = 1");
    // Its sessions have the new limit.
    let pool = MySqlPool::connect_with((*pool.connect_options()).clone())
        .await
        .unwrap();
    let silent: Result<i64, Error> = Engine::new(MemoryStore::new())
        .operation("tests.mysql")
        .transaction(&pool)
        .run("k", request(), |mut tx| async move {
            execute(&mut tx, INSERT).await;
            let attempt = idem::attempt();
            assert!(attempt.is_protected() && !attempt.lease_lost());
            let told = async {
                while !attempt.lease_lost() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), told)
                .await
                .unwrap();
            (tx, Ok(1))
        })
        .await;
    assert!(matches!(silent, Err(Error::Store(_))), "{silent:?}");
    assert_eq!(server.sql("SELECT COUNT(*) FROM entries"), "0");
    assert_eq!(book(&pool, INSERT).await.unwrap(), 1);
}
