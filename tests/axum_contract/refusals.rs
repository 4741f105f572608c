//! When the handler must not run, it does not run, and the answer says why.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, State};
use axum::routing::post as route;
use axum::{Extension, Json, Router};
use http::request::Parts;
use http::{Request, StatusCode};
use idem::axum::idempotent;
use idem::conformance::faults::{FaultyStore, Method};
use idem::http::{HttpSettings, KeySyntax};
use idem::stores::memory::MemoryStore;
use idem::{Engine, EngineBuilder};
use serde::Deserialize;

use crate::support::{Server, Works, is_replay, post, problem};

const KEY: &str = "idempotency-key";

#[derive(Deserialize)]
struct Order {
    amount: u32,
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(State(works): State<Works>, Json(order): Json<Order>) -> String {
    format!("{}: {}", works.execute(), order.amount)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
async fn optional(State(works): State<Works>, Json(order): Json<Order>) -> String {
    let protected = idem::attempt().is_protected();
    format!("{}: {} {protected}", works.execute(), order.amount)
}

/// Refuses as an application would that is overloaded, or declined, by the amount.
#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn by_amount(State(works): State<Works>, Json(order): Json<Order>) -> StatusCode {
    works.execute();
    StatusCode::from_u16(order.amount.try_into().unwrap()).unwrap()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", release(500))]
async fn releases_500(State(works): State<Works>, Json(order): Json<Order>) -> StatusCode {
    works.execute();
    StatusCode::from_u16(order.amount.try_into().unwrap()).unwrap()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn nothing_happened(State(works): State<Works>) -> &'static str {
    works.execute();
    idem::attempt().release();
    "nothing to do yet"
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

struct Authenticated;

impl<S: Sync> FromRequestParts<S> for Authenticated {
    type Rejection = StatusCode;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        match head.headers.get("authorization") {
            Some(_) => Ok(Self),
            None => Err(StatusCode::UNAUTHORIZED),
        }
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn guarded(_: Authenticated, State(works): State<Works>, body: String) -> String {
    format!("{}: {body}", works.execute())
}

struct Setup {
    server: Server,
    works: Works,
    store: FaultyStore,
}

async fn serve(configure: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Setup {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let engine = configure(Engine::builder(store.clone())).build();
    let works = Works::default();
    let router = Router::new()
        .route("/charges", route(charge))
        .route("/optional", route(optional))
        .route("/by-amount", route(by_amount))
        .route("/releases-500", route(releases_500))
        .route("/nothing-happened", route(nothing_happened))
        .route("/guarded", route(guarded))
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

fn with_keys(keys: &[&[u8]]) -> Request<String> {
    let mut request = Request::post("/charges").header("content-type", "application/json");
    for key in keys {
        request = request.header(KEY, *key);
    }
    request.body(order(1)).unwrap()
}

#[tokio::test]
async fn a_missing_malformed_or_doubled_key_runs_nothing_and_claims_nothing() {
    let Setup {
        server,
        works,
        store,
    } = serve(|engine| engine).await;
    let long = "k".repeat(256);
    let cases: [(&[&[u8]], &str); 9] = [
        (&[], "key-missing"),
        (&[b""], "key-invalid"),
        (&[b"\"\""], "key-invalid"),
        (&[b"\"open"], "key-invalid"),
        (&[b"\"a\"b"], "key-invalid"),
        (&[b"a b"], "key-invalid"),
        (&[b"caf\xe9"], "key-invalid"),
        (&[long.as_bytes()], "key-invalid"),
        (&[b"a", b"a"], "key-invalid"),
    ];
    for (keys, kind) in cases {
        let refused = server.send(with_keys(keys)).await;
        assert_eq!(refused.status(), 400);
        assert_eq!(problem(&refused), kind);
    }
    assert_eq!(works.executed(), 0);
    assert_eq!(store.calls(Method::Claim), 0);
}

#[tokio::test]
async fn strict_and_uuid_only_are_settings() {
    let strict = HttpSettings::new().key_syntax(KeySyntax::Strict);
    let Setup { server, .. } = serve(|engine| engine.http(strict)).await;
    assert_eq!(server.send(with_keys(&[b"bare"])).await.status(), 400);
    assert_eq!(server.send(with_keys(&[b"\"quoted\""])).await.status(), 200);
    let uuid = HttpSettings::new().key_syntax(KeySyntax::Uuid);
    let Setup { server, .. } = serve(|engine| engine.http(uuid)).await;
    assert_eq!(server.send(with_keys(&[b"\"quoted\""])).await.status(), 400);
    let id = uuid::Uuid::new_v4().to_string();
    assert_eq!(server.send(with_keys(&[id.as_bytes()])).await.status(), 200);
}

#[tokio::test]
async fn problems_carry_the_configured_type_and_link() {
    let settings = HttpSettings::new()
        .problem_base("https://api.example/problems/")
        .documentation("https://api.example/docs/idempotency");
    let Setup { server, .. } = serve(|engine| engine.http(settings)).await;
    let refused = server.send(with_keys(&[])).await;
    let body: serde_json::Value = serde_json::from_slice(refused.body()).unwrap();
    assert_eq!(body["type"], "https://api.example/problems/key-missing");
    assert_eq!(
        refused.headers()["link"],
        "<https://api.example/docs/idempotency>; rel=\"describedby\""
    );
}

#[tokio::test]
async fn without_a_key_an_optional_operation_runs_unprotected_but_a_bad_key_is_refused() {
    let Setup {
        server,
        works,
        store,
    } = serve(|engine| engine).await;
    for number in 1..=2 {
        let mut request = post("/optional", "x", order(7));
        request.headers_mut().remove(KEY);
        let response = server.send(request).await;
        assert_eq!(response.body(), &format!("{number}: 7 false"));
    }
    assert_eq!(store.calls(Method::Claim), 0);
    let refused = server.send(post("/optional", "a b", order(7))).await;
    assert_eq!(
        (refused.status(), problem(&refused).as_str()),
        (StatusCode::BAD_REQUEST, "key-invalid")
    );
    for _ in 0..2 {
        let response = server.send(post("/optional", "a", order(7))).await;
        assert_eq!(response.body(), "3: 7 true");
    }
    assert_eq!(works.executed(), 3);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_claims_nothing() {
    let small = HttpSettings::new().max_request_bytes(20);
    let Setup {
        server,
        works,
        store,
    } = serve(|engine| engine.http(small)).await;
    let long = format!("{{\"amount\": 1{}}}", " ".repeat(20));
    let refused = server.send(post("/charges", "a", long)).await;
    assert_eq!(refused.status(), 413);
    assert_eq!(problem(&refused), "body-too-large");
    assert_eq!(store.calls(Method::Claim), 0);
    // The default limit, by ten megabytes.
    let Setup {
        server,
        works: others,
        store: other,
    } = serve(|engine| engine).await;
    let refused = server
        .send(post("/charges", "a", vec![b' '; 10_000_000]))
        .await;
    assert_eq!(refused.status(), 413);
    assert_eq!(other.calls(Method::Claim), 0);
    assert_eq!(works.executed() + others.executed(), 0);
}

#[tokio::test]
async fn the_limit_holds_whatever_counts_for_the_fingerprint() {
    let small = HttpSettings::new().max_request_bytes(20);
    let Setup {
        server,
        works,
        store,
    } = serve(|engine| engine.http(small)).await;
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
async fn an_extractors_rejection_is_the_frameworks_own_and_keeps_nothing_claimed() {
    let Setup {
        server,
        works,
        store,
    } = serve(|engine| engine).await;
    let text = |mut request: Request<bytes::Bytes>| {
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
        let key = request.headers()[KEY].clone();
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
async fn authentication_comes_before_the_key_and_the_claim() {
    let Setup {
        server,
        works,
        store,
    } = serve(|engine| engine).await;
    for key in ["a", "not a key"] {
        let rejected = server.send(post("/guarded", key, "x")).await;
        assert_eq!(rejected.status(), 401);
        assert!(rejected.body().is_empty());
    }
    assert_eq!(works.executed(), 0);
    assert_eq!(store.calls(Method::Claim), 0);
}

#[tokio::test]
async fn statuses_that_say_not_processed_free_the_key_and_all_others_are_final() {
    let Setup { server, works, .. } = serve(|engine| engine).await;
    let mut expected = 0;
    for status in [
        200, 201, 400, 402, 404, 409, 422, 500, 502, 504, 401, 408, 425, 429, 503,
    ] {
        let released = [401, 408, 425, 429, 503].contains(&status);
        let key = status.to_string();
        for again in [false, true] {
            let response = server.send(post("/by-amount", &key, order(status))).await;
            assert_eq!(u32::from(response.status().as_u16()), status);
            assert_eq!(is_replay(&response), again && !released, "{status}");
        }
        expected += if released { 2 } else { 1 };
    }
    assert_eq!(works.executed(), expected);
}

#[tokio::test]
async fn an_operation_lists_its_own_released_statuses() {
    let Setup { server, works, .. } = serve(|engine| engine).await;
    for (status, replayed) in [(500, false), (503, true)] {
        let key = status.to_string();
        server
            .send(post("/releases-500", &key, order(status)))
            .await;
        let again = server
            .send(post("/releases-500", &key, order(status)))
            .await;
        assert_eq!(is_replay(&again), replayed);
    }
    assert_eq!(works.executed(), 3);
}

#[tokio::test]
async fn a_body_can_say_that_nothing_happened() {
    let Setup { server, works, .. } = serve(|engine| engine).await;
    for _ in 0..2 {
        let response = server.send(post("/nothing-happened", "a", "")).await;
        assert!(!is_replay(&response));
        assert_eq!(response.body(), "nothing to do yet");
    }
    assert_eq!(works.executed(), 2);
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
