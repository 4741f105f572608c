//! The handler form in a transaction: the response commits with the rows.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, Response, StatusCode};
use axum::routing::post;
use axum::{Extension, Json, Router};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use idem::Engine;
use idem::axum::idempotent;
use idem::stores::memory::MemoryStore;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::databases::sqlite;

#[derive(Clone)]
struct Shop {
    pool: sqlx::SqlitePool,
    /// Bodies that were begun, and may go on.
    begun: Arc<Semaphore>,
    gate: Arc<Semaphore>,
}

#[idempotent(
    key = header("Idempotency-Key"),
    ttl = "24h",
    name = "tests.shop",
    transaction = shop.pool
)]
async fn order(
    State(shop): State<Shop>,
    Path(what): Path<String>,
    Json(amount): Json<i64>,
) -> Result<(StatusCode, String), StatusCode> {
    sqlx::query("INSERT INTO entries (reference, amount) VALUES ($1, $2)")
        .bind(&what)
        .bind(amount)
        .execute(&mut **tx)
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    shop.begun.add_permits(1);
    if what == "slow" {
        shop.gate.acquire().await.unwrap().forget();
    }
    match &*what {
        "refused" => Err(StatusCode::CONFLICT),
        "busy" => Err(StatusCode::SERVICE_UNAVAILABLE),
        "panic" => panic!("as handlers do"),
        _ => Ok((StatusCode::CREATED, format!("{what} for {amount}"))),
    }
}

struct Answer {
    status: StatusCode,
    is_replay: bool,
    problem: bool,
    body: String,
}

async fn answer(response: Response<Body>) -> Answer {
    let headers = response.headers();
    Answer {
        status: response.status(),
        is_replay: headers.contains_key("idempotent-replayed"),
        problem: headers
            .get("content-type")
            .is_some_and(|kind| kind == "application/problem+json"),
        body: {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(body.to_vec()).unwrap()
        },
    }
}

fn request(what: &str, key: &str, body: &str) -> Request<Body> {
    Request::post(format!("/orders/{what}"))
        .header("idempotency-key", key)
        .header("content-type", "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap()
}

struct Bench {
    shop: Shop,
    router: Router,
    _file: crate::databases::File,
}

impl Bench {
    async fn new() -> Self {
        let (file, pool) = sqlite(4).await;
        let shop = Shop {
            pool,
            begun: Arc::new(Semaphore::new(0)),
            gate: Arc::new(Semaphore::new(0)),
        };
        let router = Router::new()
            .route("/orders/{what}", post(order))
            .layer(Extension(Engine::new(MemoryStore::new())))
            .with_state(shop.clone());
        Self {
            shop,
            router,
            _file: file,
        }
    }

    async fn send(&self, what: &str, key: &str, body: &str) -> Answer {
        let sent = self.router.clone().oneshot(request(what, key, body));
        answer(sent.await.unwrap()).await
    }

    async fn entries(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM entries")
            .fetch_one(&self.shop.pool)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn a_response_commits_with_its_rows_and_is_replayed() {
    let bench = Bench::new().await;
    let first = bench.send("tea", "k", "3").await;
    assert_eq!(
        (first.status, first.is_replay),
        (StatusCode::CREATED, false)
    );
    let again = bench.send("tea", "k", "3").await;
    assert_eq!((again.status, again.is_replay), (StatusCode::CREATED, true));
    assert_eq!((again.body, bench.entries().await), (first.body, 1));
    let other = bench.send("tea", "k", "4").await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(other.problem);
}

#[tokio::test]
async fn a_final_error_is_stored_and_its_rows_are_not() {
    let bench = Bench::new().await;
    for is_replay in [false, true] {
        let refused = bench.send("refused", "k", "3").await;
        assert_eq!(
            (refused.status, refused.is_replay),
            (StatusCode::CONFLICT, is_replay)
        );
        assert_eq!(bench.entries().await, 0);
    }
    assert_eq!(bench.shop.begun.available_permits(), 1);
}

#[tokio::test]
async fn a_status_that_says_not_processed_rolls_everything_back() {
    let bench = Bench::new().await;
    for _ in 0..2 {
        let busy = bench.send("busy", "k", "3").await;
        assert_eq!(
            (busy.status, busy.is_replay),
            (StatusCode::SERVICE_UNAVAILABLE, false)
        );
        assert_eq!(bench.entries().await, 0);
    }
    assert_eq!(bench.shop.begun.available_permits(), 2);
}

#[tokio::test]
async fn a_panic_rolls_everything_back_and_says_so() {
    let bench = Bench::new().await;
    for _ in 0..2 {
        let crashed = bench.send("panic", "k", "3").await;
        assert_eq!(crashed.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(
            crashed.problem && crashed.body.contains("rolled back"),
            "{}",
            crashed.body
        );
        assert_eq!(bench.entries().await, 0);
    }
}

#[tokio::test]
async fn a_body_that_the_extractor_rejects_claims_nothing() {
    let bench = Bench::new().await;
    let rejected = bench.send("tea", "k", "not a number").await;
    assert_eq!(rejected.status, StatusCode::BAD_REQUEST);
    assert!(!rejected.problem);
    assert_eq!(
        bench.send("tea", "k", "3").await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_the_commit() {
    let bench = Bench::new().await;
    let client = tokio::spawn(bench.router.clone().oneshot(request("slow", "k", "3")));
    bench.shop.begun.acquire().await.unwrap().forget();
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    bench.shop.gate.add_permits(1);
    let replay = loop {
        let answer = bench.send("slow", "k", "3").await;
        if answer.status != StatusCode::CONFLICT {
            break answer;
        }
        // In flight until it has committed.
        assert!(answer.problem);
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (replay.status, replay.is_replay),
        (StatusCode::CREATED, true)
    );
    assert_eq!(bench.entries().await, 1);
}

#[tokio::test]
async fn of_a_double_click_one_runs() {
    let bench = Bench::new().await;
    let clicks = (0..16).map(|_| bench.send("slow", "k", "3"));
    let opened = async {
        bench.shop.begun.acquire().await.unwrap().forget();
        bench.shop.gate.add_permits(1);
    };
    let (answers, ()) = tokio::join!(join_all(clicks), opened);
    let firsts = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::CREATED && !answer.is_replay);
    assert_eq!((firsts.count(), bench.entries().await), (1, 1));
}

#[tokio::test]
async fn a_commit_that_the_database_refuses_is_a_500_that_says_so_and_frees_the_key() {
    let bench = Bench::new().await;
    // Where a row refers to a line that nobody has written by the end.
    let tables = "
        CREATE TABLE accounts (id INTEGER PRIMARY KEY);
        CREATE TABLE lines (
            account INTEGER NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED
        );
        CREATE TRIGGER writes_a_line AFTER INSERT ON entries WHEN NEW.reference = 'dangling'
        BEGIN INSERT INTO lines VALUES (7); END";
    sqlx::raw_sql(tables)
        .execute(&bench.shop.pool)
        .await
        .unwrap();
    for _ in 0..2 {
        let refused = bench.send("dangling", "k", "5").await;
        assert_eq!(refused.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(refused.problem && !refused.is_replay);
        assert!(refused.body.contains("commit-refused"), "{}", refused.body);
        // Why is for the log.
        assert!(!refused.body.contains("FOREIGN KEY"), "{}", refused.body);
        assert_eq!(bench.entries().await, 0);
    }
    let account = sqlx::query("INSERT INTO accounts VALUES (7)");
    account.execute(&bench.shop.pool).await.unwrap();
    let answer = bench.send("dangling", "k", "5").await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(bench.entries().await, 1);
}
