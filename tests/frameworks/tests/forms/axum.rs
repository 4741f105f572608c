//! What is axum's own: where the engine and the limit come from, and its extractors' answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest, State};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::post as route;
use axum::{Extension, Json, Router};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use idem::axum::idempotent;
use idem::conformance::faults::{FaultyStore, Method};
use idem::http::HttpSettings;
use idem::store::{Change, Claim, Lease, Store};
use idem::stores::memory::MemoryStore;
use idem::{Engine, EngineBuilder, Fingerprinter, Key, Outcome, RecordId};
use idem_frameworks::{Server, Works, is_replay, post, problem};
use serde::Deserialize;
use tower::ServiceExt;

#[derive(Deserialize)]
struct Order {
    amount: u32,
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(State(works): State<Works>, Json(order): Json<Order>) -> String {
    format!("{}: {}", works.execute(), order.amount)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", fingerprint(works.executed()))]
async fn named_parts(State(works): State<Works>, body: String) -> String {
    format!("{}: {}", works.execute(), body.len())
}

/// Its key is in the body, and its engine in the state.
#[idempotent(key = body, ttl = "24h", engine = state.1)]
async fn own_engine(State(state): State<(Works, Engine)>, body: String) -> String {
    format!("{}: {}", state.0.execute(), body.len())
}

/// Its engine comes with the body's extractor, so it is known only after the body was read.
struct Carried(Engine, String);

impl FromRequest<(Works, Engine)> for Carried {
    type Rejection = StatusCode;

    async fn from_request(
        request: axum::extract::Request,
        state: &(Works, Engine),
    ) -> Result<Self, StatusCode> {
        let body = String::from_request(request, state).await;
        Ok(Self(
            state.1.clone(),
            body.map_err(|_| StatusCode::BAD_REQUEST)?,
        ))
    }
}

#[idempotent(key = carried.1, ttl = "24h", engine = carried.0)]
async fn carried_engine(State(state): State<(Works, Engine)>, carried: Carried) -> String {
    format!("{}: {}", state.0.execute(), carried.1)
}

struct Setup {
    server: Server,
    works: Works,
    store: FaultyStore,
}

async fn serve(settings: HttpSettings) -> Setup {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let engine = Engine::builder(store.clone()).http(settings).build();
    let works = Works::default();
    let router = Router::new()
        .route("/charges", route(charge))
        .route("/named-parts", route(named_parts))
        .layer(Extension(engine))
        .with_state(works.clone());
    Setup {
        server: Server::start(router).await,
        works,
        store,
    }
}

fn order(amount: u32) -> String {
    format!("{{\"amount\": {amount}}}")
}

#[tokio::test]
async fn the_limit_holds_whatever_counts_for_the_fingerprint() {
    let small = HttpSettings::new().max_request_bytes(20);
    let Setup {
        server,
        works,
        store,
    } = serve(small).await;
    let refused = server.send(post("/named-parts", "a", "x".repeat(21))).await;
    assert_eq!(refused.status(), 413);
    assert_eq!((works.executed(), store.calls(Method::Claim)), (0, 0));
    let accepted = server.send(post("/named-parts", "a", "x".repeat(20))).await;
    assert_eq!(accepted.body(), "1: 20");
}

#[tokio::test]
async fn an_engine_that_the_body_brings_serves_without_an_installed_one() {
    let works = Works::default();
    let state = (works.clone(), Engine::new(MemoryStore::new()));
    let router = Router::new()
        .route("/", route(carried_engine))
        .with_state(state);
    let server = Server::start(router).await;
    for _ in 0..2 {
        assert_eq!(server.send(post("/", "", "k")).await.body(), "1: k");
    }
    assert_eq!(works.executed(), 1);
}

#[tokio::test]
async fn an_operations_own_engine_sets_the_limit_for_a_key_in_the_body_too() {
    let works = Works::default();
    let http = HttpSettings::new().max_request_bytes(20);
    let engine = Engine::builder(MemoryStore::new()).http(http).build();
    let router = Router::new()
        .route("/", route(own_engine))
        .with_state((works.clone(), engine));
    let server = Server::start(router).await;
    assert_eq!(
        server.send(post("/", "", "x".repeat(21))).await.status(),
        413
    );
    for _ in 0..2 {
        assert_eq!(
            server.send(post("/", "", "x".repeat(20))).await.body(),
            "1: 20"
        );
    }
    assert_eq!(works.executed(), 1);
}

#[tokio::test]
async fn a_rejection_is_axums_own_and_frees_the_key() {
    let Setup {
        server,
        works,
        store,
    } = serve(HttpSettings::new()).await;
    let text = |mut request: Request<Bytes>| {
        let value = "text/plain".parse().unwrap();
        request.headers_mut().insert("content-type", value);
        request
    };
    let cases = [
        (post("/charges", "a", "{"), 400),
        (post("/charges", "b", "{\"amount\": \"much\"}"), 422),
        (text(post("/charges", "c", order(1))), 415),
    ];
    for (request, status) in cases {
        let key = request.headers()["idempotency-key"].clone();
        let rejected = server.send(request).await;
        assert_eq!(rejected.status(), status);
        assert_ne!(
            rejected.headers().get("content-type").unwrap(),
            "application/problem+json"
        );
        // The key is free, for another request too.
        let accepted = server
            .send(post("/charges", key.to_str().unwrap(), order(1)))
            .await;
        assert_eq!(accepted.status(), 200);
        assert!(!is_replay(&accepted));
    }
    assert_eq!(works.executed(), 3);
    assert_eq!(store.calls(Method::Release), 3);
}

#[tokio::test]
async fn without_an_engine_nothing_runs() {
    let works = Works::default();
    let router = Router::new()
        .route("/charges", route(charge))
        .with_state(works.clone());
    let server = Server::start(router).await;
    let refused = server.send(post("/charges", "a", order(1))).await;
    assert_eq!(refused.status(), 500);
    assert_eq!(problem(&refused), "misconfigured");
    assert_eq!(works.executed(), 0);
}

#[idempotent(name = "tests.upgraded", key = header("Idempotency-Key"), ttl = "24h")]
async fn upgraded(State(works): State<Works>, body: String) -> String {
    format!("{}: {body}", works.execute())
}

#[tokio::test]
async fn a_record_that_does_not_know_its_host_is_refused_and_not_run() {
    let store = Arc::new(MemoryStore::new());
    // As version 1 of the fingerprint had it.
    let mut request = Fingerprinter::new();
    request.bytes("method", b"POST");
    request.bytes("path", b"/");
    request.bytes("query", b"");
    request.bytes("content-type", b"application/json");
    request.bytes("body", b"x");
    let claim = Claim::new(
        RecordId::derive("", "tests.upgraded", None, &Key::of("a").unwrap()),
        request.finish(),
        Duration::from_secs(30),
        Duration::from_secs(60),
    );
    store.claim(&claim).await.unwrap();
    let lease = Lease::of(&claim, 1);
    let outcome = Outcome::Response(Bytes::new()).encode();
    let stored = store.complete(&lease, outcome);
    assert_eq!(stored.await.unwrap(), Change::Applied);

    let works = Works::default();
    let router = Router::new()
        .route("/", route(upgraded))
        .layer(Extension(EngineBuilder::new(store).build()))
        .with_state(works.clone());
    let server = Server::start(router).await;
    let refused = server.send(post("/", "a", "x")).await;
    assert_eq!(refused.status(), 422);
    assert_eq!(problem(&refused), "mismatch");
    assert_eq!(works.executed(), 0);
}

/// What `tower_http::limit::RequestBodyLimitLayer` does to a body whose length is not announced.
async fn at_most_ten_bytes(request: axum::extract::Request, next: Next) -> Response {
    next.run(request.map(|body| Body::new(Limited::new(body, 10))))
        .await
}

#[tokio::test]
async fn a_body_over_another_layers_limit_is_413_and_claims_nothing() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let works = Works::default();
    let handled = Router::new().route("/handled", route(upgraded));
    let layered = Router::new()
        .route("/layered", route(async |body: String| body))
        .layer(idem::axum::layer(Duration::from_secs(60)));
    let router = handled
        .merge(layered)
        .layer(from_fn(at_most_ten_bytes))
        .layer(Extension(Engine::new(store.clone())))
        .with_state(works.clone());
    for path in ["/handled", "/layered"] {
        let frames = ["12345", "67890", "1"].map(|text| Ok::<_, Infallible>(Bytes::from(text)));
        let body = Body::from_stream(futures_util::stream::iter(frames));
        let request = Request::post(path).header("idempotency-key", "a");
        let Ok(refused) = router.clone().oneshot(request.body(body).unwrap()).await;
        let (head, body) = refused.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let refused = http::Response::from_parts(head, body);
        assert_eq!(refused.status(), 413, "{path}");
        assert_eq!(problem(&refused), "body-too-large");
    }
    assert_eq!(store.calls(Method::Claim), 0);
    assert_eq!(works.executed(), 0);
}

#[tokio::test]
async fn a_body_over_axums_own_limit_is_axums_own_answer_and_frees_the_key() {
    let works = Works::default();
    let router = Router::new()
        .route("/", route(upgraded))
        .layer(DefaultBodyLimit::max(10))
        .layer(Extension(Engine::new(MemoryStore::new())))
        .with_state(works.clone());
    let server = Server::start(router).await;
    assert_eq!(
        server.send(post("/", "a", "x".repeat(11))).await.status(),
        413
    );
    assert_eq!(server.send(post("/", "a", "x")).await.body(), "1: x");
}
