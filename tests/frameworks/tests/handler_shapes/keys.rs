//! Keys, scopes and fingerprints: from headers, from the head's extractors, from the body.

use axum::Json;
use axum::Router;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use idem::axum::idempotent;
use serde::{Deserialize, Serialize};

use crate::{assert_runs_once, post_json, run, send, with_engine};

#[derive(Deserialize, Serialize)]
struct Order {
    id: String,
    cents: u32,
    note: Option<String>,
}

fn body(id: &str, cents: u32, note: &str) -> String {
    serde_json::json!({ "id": id, "cents": cents, "note": note }).to_string()
}

#[idempotent(key = order_id, ttl = "1h")]
async fn by_path(Path(order_id): Path<u64>, Json(order): Json<Order>) -> String {
    run(&format!("{order_id} {}", order.cents))
}

#[idempotent(key = headers.get("x-event").map(|id| id.as_bytes()), ttl = "1h")]
async fn by_another_header(headers: HeaderMap) -> String {
    run(&format!("{}", headers.len()))
}

#[idempotent(key = header("X-Request-ID"), ttl = "1h")]
async fn by_a_header_of_another_name() -> String {
    run("request id")
}

#[idempotent(key = order.id, ttl = "1h")]
async fn by_body(Json(order): Json<Order>) -> String {
    run(&order.id)
}

#[idempotent(key = (tenant, order.id), ttl = "1h")]
async fn composite(Path(tenant): Path<String>, Json(order): Json<Order>) -> String {
    run(&format!("{tenant} {}", order.id))
}

#[idempotent(key = format!("{tenant}/{}", tenant.len()), scope = format!("{text:?}"), ttl = "1h")]
async fn formatted(Path(tenant): Path<String>, text: String) -> String {
    run(&format!("{tenant} {text}"))
}

#[tokio::test]
async fn a_format_string_names_arguments() {
    let router = with_engine(Router::new().route("/{tenant}", post(formatted)));
    let once = assert_runs_once(&router, || post_json("/a", "", "text")).await;
    assert!(once.starts_with("a text #"), "{once}");
}

#[tokio::test]
async fn a_head_argument_can_be_the_key() {
    let router = with_engine(Router::new().route("/{id}", post(by_path)));
    let request = |uri: &'static str| move || post_json(uri, "unused", &body("o", 5, ""));
    let seven = assert_runs_once(&router, request("/7")).await;
    let eight = assert_runs_once(&router, request("/8")).await;
    assert_ne!(seven, eight);
    let other = send(&router, post_json("/7", "unused", &body("o", 6, ""))).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn any_header_can_be_the_key() {
    let router = Router::new()
        .route("/", post(by_another_header))
        .route("/named", post(by_a_header_of_another_name));
    let router = with_engine(router);
    for (uri, name) in [("/", "x-event"), ("/named", "x-request-id")] {
        assert_runs_once(&router, || {
            let mut request = post_json(uri, "unused", "");
            request.headers_mut().insert(name, "e-1".parse().unwrap());
            request
        })
        .await;
        let without = send(&router, post_json(uri, "unused", "")).await;
        assert_eq!(without.status, StatusCode::BAD_REQUEST);
        assert!(without.body.contains("key-missing"), "{}", without.body);
        // The client's developer is told which header to send, where the attribute says it.
        let names_the_header = without
            .body
            .contains("the header `x-request-id` is missing");
        assert_eq!(names_the_header, uri == "/named", "{}", without.body);
    }
}

#[tokio::test]
async fn the_body_can_be_the_key_and_its_rejection_claims_nothing() {
    let router = with_engine(Router::new().route("/", post(by_body)));
    let rejected = send(&router, post_json("/", "unused", r#"{"id":"o"}"#)).await;
    assert_eq!(rejected.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(rejected.body.contains("missing field"), "axum's own answer");
    let valid = || post_json("/", "unused", &body("o", 5, ""));
    let once = assert_runs_once(&router, valid).await;
    assert!(once.starts_with("o #"), "{once}");
    assert_runs_once(&router, || post_json("/", "unused", &body("p", 5, ""))).await;
}

#[tokio::test]
async fn a_composite_key_of_head_and_body_is_never_confused() {
    let router = with_engine(Router::new().route("/{tenant}", post(composite)));
    let first = assert_runs_once(&router, || post_json("/a", "", &body("bc", 5, ""))).await;
    let second = assert_runs_once(&router, || post_json("/ab", "", &body("c", 5, ""))).await;
    assert_ne!(first, second);
}

struct User {
    tenant: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = StatusCode;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let tenant = head.headers.get("x-tenant").map(|tenant| tenant.to_str());
        let tenant = tenant.transpose().map_err(|_| StatusCode::BAD_REQUEST)?;
        Ok(Self {
            tenant: tenant.map(str::to_owned),
        })
    }
}

#[idempotent(key = header("Idempotency-Key"), scope = user.tenant, ttl = "1h")]
async fn scoped(user: User, Json(order): Json<Order>) -> String {
    run(&format!("{:?} {}", user.tenant, order.id))
}

#[tokio::test]
async fn two_scopes_never_share_a_response() {
    let router = with_engine(Router::new().route("/", post(scoped)));
    let request = |tenant: Option<&'static str>| {
        move || {
            let mut request = post_json("/", "k", &body("o", 5, ""));
            if let Some(tenant) = tenant {
                let headers = request.headers_mut();
                headers.insert("x-tenant", tenant.parse().unwrap());
            }
            request
        }
    };
    for tenant in [Some("a"), Some("b"), None] {
        let body = assert_runs_once(&router, request(tenant)).await;
        assert!(body.starts_with(&format!("{tenant:?} o #")), "{body}");
    }
}

#[tokio::test]
async fn without_a_scope_another_callers_response_is_never_replayed() {
    let router = with_engine(Router::new().route("/{id}", post(by_path)));
    let request = |authorization: &'static str| {
        move || {
            let mut request = post_json("/1", "unused", &body("o", 5, ""));
            let headers = request.headers_mut();
            headers.insert("authorization", authorization.parse().unwrap());
            request
        }
    };
    assert_runs_once(&router, request("Bearer a")).await;
    let other = send(&router, request("Bearer b")()).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[derive(Deserialize)]
struct Page {
    number: u32,
    trace: Option<u32>,
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", fingerprint(page.number))]
async fn fingerprint_of_the_head(Query(page): Query<Page>, text: String) -> String {
    run(&format!("{:?} {text}", page.trace))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", fingerprint(id, order.cents))]
async fn fingerprint_of_the_body(Path(id): Path<u32>, Json(order): Json<Order>) -> String {
    run(&format!("{id} {:?}", order.note))
}

#[tokio::test]
async fn a_fingerprint_of_the_head_ignores_the_body_and_not_the_rest_of_the_query() {
    let router = with_engine(Router::new().route("/", post(fingerprint_of_the_head)));
    let first = send(&router, post_json("/?number=1&trace=1", "k", "a")).await;
    assert!(first.body.starts_with("Some(1) a #"), "{first:?}");
    let again = send(&router, post_json("/?number=1&trace=1", "k", "b")).await;
    assert!(again.replayed);
    assert_eq!(again.body, first.body);
    for query in ["number=2&trace=1", "number=1&trace=2", "trace=1&number=1"] {
        let other = send(&router, post_json(&format!("/?{query}"), "k", "a")).await;
        assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
    }
}

#[tokio::test]
async fn a_fingerprint_of_the_body_ignores_the_rest_of_it() {
    let router = with_engine(Router::new().route("/{id}", post(fingerprint_of_the_body)));
    let first = send(&router, post_json("/1", "k", &body("o", 5, "a"))).await;
    assert!(first.body.starts_with("1 Some(\"a\") #"), "{first:?}");
    let again = send(&router, post_json("/1", "k", &body("p", 5, "b"))).await;
    assert!(again.replayed);
    assert_eq!(again.body, first.body);
    let other = send(&router, post_json("/1", "k", &body("o", 6, "a"))).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn by_default_the_whole_request_counts() {
    #[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
    async fn handler(text: String) -> String {
        run(&text)
    }
    let router = Router::new()
        .route("/a", post(handler).put(handler))
        .route("/b", post(handler));
    let router = with_engine(router);
    assert_runs_once(&router, || post_json("/a?q=1", "k", "body")).await;
    let mut put = post_json("/a?q=1", "k", "body");
    *put.method_mut() = axum::http::Method::PUT;
    let mut plain = post_json("/a?q=1", "k", "body");
    let headers = plain.headers_mut();
    headers.insert("content-type", "text/plain".parse().unwrap());
    for other in [
        post_json("/a?q=1", "k", "other"),
        post_json("/a?q=2", "k", "body"),
        post_json("/b?q=1", "k", "body"),
        put,
        plain,
    ] {
        let answer = send(&router, other).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
}
