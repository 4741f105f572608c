//! `transaction = …` in every handler form: rows and response commit together, or not at all.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use actix_web::web;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use idem::http::{RequestIdentity, outcome_of};
use idem::stores::memory::MemoryStore;
use idem::stores::sqlite::SqliteStore;
use idem::{Begun, Engine, Fingerprinter, Key, Verdict};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

/// A database in a file of its own, which goes with it.
struct Database {
    pool: SqlitePool,
    file: PathBuf,
}

impl Database {
    async fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("idem-forms-{}-{number}.db", std::process::id());
        let file = std::env::temp_dir().join(name);
        let options = SqliteConnectOptions::new();
        let options = options.filename(&file).create_if_missing(true);
        let pool = SqlitePoolOptions::new().max_connections(4);
        let pool = pool.connect_with(options).await.unwrap();
        let store = SqliteStore::from_pool(&pool).await.unwrap();
        store.migrate().await.unwrap();
        let create = "CREATE TABLE deposits (what TEXT NOT NULL)";
        sqlx::query(create).execute(&pool).await.unwrap();
        Self { pool, file }
    }

    async fn deposits(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM deposits");
        count.fetch_one(&self.pool).await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let file = format!("{}{suffix}", self.file.display());
            let _ = std::fs::remove_file(file);
        }
    }
}

type Tx = sqlx::Transaction<'static, sqlx::Sqlite>;

/// Books, and answers by what is booked.
async fn deposit(tx: &mut Tx, what: &str) -> StatusCode {
    let insert = sqlx::query("INSERT INTO deposits (what) VALUES ($1)");
    insert.bind(what).execute(&mut **tx).await.unwrap();
    match what {
        "refused" => StatusCode::PAYMENT_REQUIRED,
        "busy" => StatusCode::SERVICE_UNAVAILABLE,
        "panic" => panic!("as handlers do"),
        _ => StatusCode::CREATED,
    }
}

/// What a form does with one request: its status, and whether it is a replay.
trait Form {
    async fn send(&self, what: &'static str) -> (u16, bool);
}

async fn commits_or_rolls_back<F: Form>(database: &Database, form: &F) {
    // (what, first, again, rows that it leaves)
    let cases = [
        ("paid", (201, false), (201, true), 1),
        ("refused", (402, false), (402, true), 0),
        ("busy", (503, false), (503, false), 0),
        ("panic", (500, false), (500, false), 0),
    ];
    let mut rows = 0;
    for (what, first, again, leaves) in cases {
        assert_eq!(form.send(what).await, first, "{what}");
        assert_eq!(form.send(what).await, again, "{what}");
        rows += leaves;
        assert_eq!(database.deposits().await, rows, "{what}");
    }
}

#[idem::http::idempotent(
    key = header("Idempotency-Key"),
    ttl = "24h",
    transaction = pool,
    engine = engine
)]
async fn plain(pool: SqlitePool, engine: Engine, request: Request<Bytes>) -> Response<Full<Bytes>> {
    let what = String::from_utf8_lossy(request.body()).into_owned();
    let mut response = Response::new(Full::default());
    *response.status_mut() = deposit(tx, &what).await;
    response
}

struct Plain(SqlitePool, Engine);

impl Form for Plain {
    async fn send(&self, what: &'static str) -> (u16, bool) {
        let request = Request::post("/").header("idempotency-key", what);
        let request = request.body(Full::new(Bytes::from_static(what.as_bytes())));
        let response = plain(self.0.clone(), self.1.clone(), request.unwrap()).await;
        let is_replay = response.headers().contains_key("idempotent-replayed");
        let status = response.status().as_u16();
        response.into_body().collect().await.unwrap();
        (status, is_replay)
    }
}

#[tokio::test]
async fn a_function_of_a_request() {
    let database = Database::new().await;
    let form = Plain(database.pool.clone(), Engine::new(MemoryStore::new()));
    commits_or_rolls_back(&database, &form).await;
}

#[tokio::test]
async fn a_record_of_a_version_before_is_known_again() {
    let database = Database::new().await;
    let store = SqliteStore::from_pool(&database.pool).await.unwrap();
    let engine = Engine::new(store);
    let request = |what: &'static str| {
        let request = Request::post("/").header("idempotency-key", "k");
        let request = request.header("content-type", "text/plain; charset=utf-8");
        request
            .body(Full::new(Bytes::from_static(what.as_bytes())))
            .unwrap()
    };
    // As it took a request: the content type byte by byte.
    let mut former = Fingerprinter::new();
    former.bytes("method", b"POST");
    former.bytes("path", b"/");
    former.bytes("query", b"");
    former.bytes("content-type", b"text/plain; charset=utf-8");
    let sent = request("rent");
    let identity = RequestIdentity {
        method: sent.method(),
        uri: sent.uri(),
        headers: sent.headers(),
    };
    identity.count_caller(&mut former);
    former.bytes("body", b"rent");
    let keyed = engine
        .operation("forms::transaction_forms::plain")
        .keyed(Key::of("k"));
    let Begun::Execute(execution) = keyed.unwrap().begin(former.finish()).await.unwrap() else {
        panic!("the key is new");
    };
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::ACCEPTED;
    let outcome = outcome_of(&response, engine.http());
    let ended = execution.drive(async { (Verdict::Final(outcome), ()) });
    ended.await.unwrap();
    for (what, status) in [("rent", 202), ("lent", 422), ("rent", 202)] {
        let answer = plain(database.pool.clone(), engine.clone(), request(what)).await;
        assert_eq!(answer.status(), status);
    }
    assert_eq!(database.deposits().await, 0);
}

#[idem::actix::idempotent(key = header("Idempotency-Key"), ttl = "24h", transaction = **pool)]
async fn actix(pool: web::Data<SqlitePool>, what: String) -> actix_web::HttpResponse {
    let status = deposit(tx, &what).await;
    let status = actix_web::http::StatusCode::from_u16(status.as_u16()).unwrap();
    actix_web::HttpResponse::new(status)
}

struct Actix(SqlitePool, Engine);

impl Form for Actix {
    async fn send(&self, what: &'static str) -> (u16, bool) {
        let app = actix_web::App::new()
            .app_data(web::Data::new(self.0.clone()))
            .app_data(self.1.clone())
            .route("/", web::post().to(actix));
        let app = actix_web::test::init_service(app).await;
        let request = actix_web::test::TestRequest::post();
        let request = request.insert_header(("idempotency-key", what));
        let request = request.set_payload(what).to_request();
        let response = actix_web::test::call_service(&app, request).await;
        let is_replay = response.headers().contains_key("idempotent-replayed");
        (response.status().as_u16(), is_replay)
    }
}

#[actix_web::test]
async fn an_actix_handler() {
    let database = Database::new().await;
    let form = Actix(database.pool.clone(), Engine::new(MemoryStore::new()));
    commits_or_rolls_back(&database, &form).await;
}

#[idem::poem::idempotent(key = header("Idempotency-Key"), ttl = "24h", transaction = **pool)]
#[poem::handler]
async fn poem_handler(pool: poem::web::Data<&SqlitePool>, what: String) -> StatusCode {
    deposit(tx, &what).await
}

struct Poem(SqlitePool, Engine);

impl Form for Poem {
    async fn send(&self, what: &'static str) -> (u16, bool) {
        use poem::EndpointExt;

        let endpoint = poem_handler.data(self.0.clone()).data(self.1.clone());
        let client = poem::test::TestClient::new(endpoint);
        let request = client.post("/").header("idempotency-key", what);
        let response = request.body(what).send().await.0;
        let is_replay = response.headers().contains_key("idempotent-replayed");
        (response.status().as_u16(), is_replay)
    }
}

#[tokio::test]
async fn a_poem_handler() {
    let database = Database::new().await;
    let form = Poem(database.pool.clone(), Engine::new(MemoryStore::new()));
    commits_or_rolls_back(&database, &form).await;
}

#[idem::salvo::idempotent(
    key = header("Idempotency-Key"),
    ttl = "24h",
    transaction = depot.get_typed::<SqlitePool>().unwrap()
)]
#[salvo::handler]
async fn salvo_handler(depot: &mut salvo::Depot, req: &mut salvo::Request) -> StatusCode {
    assert!(depot.contains_typed::<SqlitePool>());
    let what = req.payload().await.unwrap().to_vec();
    deposit(tx, &String::from_utf8(what).unwrap()).await
}

struct Salvo(SqlitePool, Engine);

#[salvo::handler]
impl Salvo {
    async fn handle(&self, depot: &mut salvo::Depot) {
        depot.insert_typed(self.0.clone());
        depot.insert_typed(self.1.clone());
    }
}

impl Form for Salvo {
    async fn send(&self, what: &'static str) -> (u16, bool) {
        let state = Self(self.0.clone(), self.1.clone());
        let router = salvo::Router::new().hoop(state).post(salvo_handler);
        let request = salvo::test::TestClient::post("http://shop/");
        let request = request.add_header("idempotency-key", what, true).body(what);
        let response = request.send(router).await;
        let is_replay = response.headers().contains_key("idempotent-replayed");
        (response.status_code.unwrap().as_u16(), is_replay)
    }
}

#[tokio::test]
async fn a_salvo_handler() {
    let database = Database::new().await;
    let form = Salvo(database.pool.clone(), Engine::new(MemoryStore::new()));
    commits_or_rolls_back(&database, &form).await;
}

#[idem::axum::idempotent(
    name = "tests.deposits", key = header("Idempotency-Key"), ttl = "24h", transaction = pool
)]
async fn layered(
    axum::extract::State(pool): axum::extract::State<SqlitePool>,
    what: String,
) -> StatusCode {
    deposit(tx, &what).await
}

#[tokio::test]
async fn under_a_layer_of_the_same_name_a_transaction_is_refused_with_the_reason() {
    let database = Database::new().await;
    let engine = Engine::new(MemoryStore::new());
    let day = std::time::Duration::from_secs(24 * 60 * 60);
    // The layer's record under another name is one of its own.
    for (name, status) in [("tests.deposits", 500), ("another", 201)] {
        let layer = idem::axum::layer(day).name(name).engine(engine.clone());
        let router = axum::Router::new()
            .route("/", axum::routing::post(layered))
            .layer(layer)
            .layer(axum::Extension(engine.clone()))
            .with_state(database.pool.clone());
        for again in [false, true] {
            let request = Request::post("/").header("idempotency-key", "a");
            let request = request.body(axum::body::Body::from("paid")).unwrap();
            let Ok(answer) = tower::ServiceExt::oneshot(router.clone(), request).await;
            assert_eq!(answer.status(), status, "{name}");
            let is_replay = answer.headers().contains_key("idempotent-replayed");
            assert_eq!(is_replay, again && status == 201);
            if status == 500 {
                let body = answer.into_body().collect().await.unwrap().to_bytes();
                let body = String::from_utf8_lossy(&body).into_owned();
                assert!(body.contains("misconfigured"), "{body}");
            }
        }
        assert_eq!(database.deposits().await, i64::from(status == 201));
    }
}
