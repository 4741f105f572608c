//! One key is one request of one caller to one operation, and nothing else.

use axum::extract::{FromRequestParts, State};
use axum::routing::{any, post as route};
use axum::{Extension, Router};
use bytes::Bytes;
use http::request::Parts;
use http::{Request, StatusCode};
use idem::Engine;
use idem::axum::idempotent;
use idem::stores::memory::MemoryStore;

use crate::support::{Server, Works, is_replay, post, problem};

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(State(works): State<Works>, body: String) -> String {
    format!("{}: {body}", works.execute())
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn refund(State(works): State<Works>, body: String) -> String {
    format!("{}: {body}", works.execute())
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn slow(State(works): State<Works>, body: String) -> String {
    works.stop_here().await;
    format!("{}: {body}", works.execute())
}

/// Authenticates by a header, as an application would.
struct Tenant(String);

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = StatusCode;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let tenant = head
            .headers
            .get("x-tenant")
            .ok_or(StatusCode::UNAUTHORIZED)?;
        Ok(Self(tenant.to_str().unwrap_or_default().to_owned()))
    }
}

#[idempotent(key = header("Idempotency-Key"), scope = tenant.0, ttl = "24h")]
async fn scoped(tenant: Tenant, State(works): State<Works>, body: String) -> String {
    format!("{}: {} {body}", works.execute(), tenant.0)
}

async fn serve() -> (Server, Works) {
    let works = Works::default();
    let versions = Router::new().route("/charges", route(charge));
    let router = Router::new()
        .route("/charges", any(charge))
        .route("/charges/other", any(charge))
        .route("/refunds", route(refund))
        .route("/slow", any(slow))
        .route("/slow/other", any(slow))
        .route("/scoped", route(scoped))
        .nest("/v1", versions.clone())
        .nest("/v2", versions)
        .layer(Extension(Engine::new(MemoryStore::new())))
        .with_state(works.clone());
    (Server::start(router).await, works)
}

fn others(path: &str, key: &str) -> Vec<Request<Bytes>> {
    let put = Request::put(path)
        .header("idempotency-key", key)
        .header("content-type", "application/json")
        .body(Bytes::from_static(b"{}"))
        .unwrap();
    let mut content_type = post(path, key, "{}");
    let text = "text/plain".parse().unwrap();
    content_type.headers_mut().insert("content-type", text);
    vec![
        post(path, key, "{ }"),
        post(path, key, ""),
        post(&format!("{path}/other"), key, "{}"),
        post(&format!("{path}?dry=1"), key, "{}"),
        put,
        content_type,
    ]
}

#[tokio::test]
async fn another_request_under_a_key_is_a_mismatch_and_harms_nothing() {
    let (server, works) = serve().await;
    let first = server.send(post("/charges", "a", "{}")).await;
    for other in others("/charges", "a") {
        let refused = server.send(other).await;
        assert_eq!(refused.status(), 422);
        assert_eq!(problem(&refused), "mismatch");
        let replay = server.send(post("/charges", "a", "{}")).await;
        assert!(is_replay(&replay));
        assert_eq!(replay.body(), first.body());
    }
    assert_eq!(works.executed(), 1);
}

#[tokio::test]
async fn another_request_under_a_key_is_a_mismatch_while_the_first_runs() {
    let (server, works) = serve().await;
    let first = tokio::spawn(server.send(post("/slow", "a", "{}")));
    works.started().await;
    for other in others("/slow", "a") {
        let refused = server.send(other).await;
        assert_eq!(refused.status(), 422);
        assert_eq!(problem(&refused), "mismatch");
    }
    works.let_go();
    let first = first.await.unwrap();
    assert_eq!(first.status(), 200);
    let replay = server.send(post("/slow", "a", "{}")).await;
    assert_eq!(replay.body(), first.body());
    assert_eq!(works.executed(), 1);
}

#[tokio::test]
async fn a_nested_routers_prefix_counts() {
    let (server, works) = serve().await;
    assert_eq!(
        server.send(post("/v1/charges", "a", "{}")).await.status(),
        200
    );
    assert_eq!(
        server.send(post("/v2/charges", "a", "{}")).await.status(),
        422
    );
    assert!(is_replay(
        &server.send(post("/v1/charges", "a", "{}")).await
    ));
    assert_eq!(works.executed(), 1);
}

#[tokio::test]
async fn without_a_scope_a_caller_never_gets_anothers_answer() {
    let (server, works) = serve().await;
    let with = |authorization: Option<&str>| {
        let mut request = post("/charges", "a", "{}");
        if let Some(value) = authorization {
            let value = value.parse().unwrap();
            request.headers_mut().insert("authorization", value);
        }
        server.send(request)
    };
    let first = with(Some("Bearer alice")).await;
    assert_eq!(first.status(), 200);
    for other in [Some("Bearer bob"), Some("bearer alice"), Some(""), None] {
        let refused = with(other).await;
        assert_eq!(refused.status(), 422);
        assert_ne!(refused.body(), first.body());
    }
    assert!(is_replay(&with(Some("Bearer alice")).await));
    assert_eq!(works.executed(), 1);
}

#[tokio::test]
async fn within_a_scope_each_tenant_has_its_own_keys_and_may_rotate_its_token() {
    let (server, works) = serve().await;
    let send = |tenant: &str, key: &str, token: &str| {
        let mut request = post("/scoped", key, "{}");
        let headers = request.headers_mut();
        headers.insert("x-tenant", tenant.parse().unwrap());
        headers.insert("authorization", token.parse().unwrap());
        server.send(request)
    };
    // ("a", "bc") and ("ab", "c") are different records.
    for (number, (tenant, key)) in (1..).zip([("a", "bc"), ("ab", "c"), ("b", "bc")]) {
        let first = send(tenant, key, "Bearer old").await;
        assert_eq!(first.body(), &format!("{number}: {tenant} {{}}"));
        let replay = send(tenant, key, "Bearer new").await;
        assert!(is_replay(&replay));
        assert_eq!(replay.body(), first.body());
    }
    assert_eq!(works.executed(), 3);
}

#[tokio::test]
async fn two_operations_never_share_a_record() {
    let (server, works) = serve().await;
    let charged = server.send(post("/charges", "a", "{}")).await;
    let refunded = server.send(post("/refunds", "a", "{}")).await;
    assert!(!is_replay(&refunded));
    assert_ne!(charged.body(), refunded.body());
    assert_eq!(works.executed(), 2);
}

#[tokio::test]
async fn a_quoted_and_a_bare_key_name_one_record() {
    let (server, works) = serve().await;
    for (key, replayed) in [("\"k-1\"", false), ("k-1", true), ("\"k-1\";p=1", true)] {
        let response = server.send(post("/charges", key, "{}")).await;
        assert_eq!(is_replay(&response), replayed, "{key}");
    }
    assert_eq!(works.executed(), 1);
}
