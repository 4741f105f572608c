//! The handler form, `idem::axum::idempotent`: every shape of axum handler runs once per key
//! and its response is replayed, whatever it extracts, returns, and however it is routed.
//!
//! No engine is installed: each router carries one of its own in a request extension.

mod debug_handler;
mod extractors;
mod forbidding;
mod futures;
mod handlers;
mod keys;
mod lints;
mod order;
mod policies;
mod routers;

use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use idem::Engine;
use idem::http::IDEMPOTENT_REPLAYED;
use idem::stores::memory::MemoryStore;
use tower::ServiceExt as _;

/// Says in a response which run of which body it comes from: no two runs say the same.
fn run(name: &str) -> String {
    static RUNS: AtomicU32 = AtomicU32::new(1);
    format!("{name} #{}", RUNS.fetch_add(1, Ordering::SeqCst))
}

/// A router with an engine over a store of its own.
fn with_engine(router: Router) -> Router {
    let store = MemoryStore::builder().build();
    router.layer(Extension(Engine::new(store)))
}

/// What a client sees.
#[derive(Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    body: String,
    replayed: bool,
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status,
        body: String::from_utf8(body.to_vec()).unwrap(),
        replayed: head.headers.contains_key(IDEMPOTENT_REPLAYED),
    }
}

/// A request with a key and a body of JSON.
fn post_json(uri: &str, key: &str, body: &str) -> Request<Body> {
    let request = Request::post(uri)
        .header("idempotency-key", key)
        .header("content-type", "application/json");
    request.body(Body::from(body.to_owned())).unwrap()
}

/// A request that is to be protected, as every one must be: sent twice, it runs once.
/// Gives the body of the answer.
async fn assert_runs_once(router: &Router, request: impl Fn() -> Request<Body>) -> String {
    let first = send(router, request()).await;
    assert!(first.status.is_success(), "{first:?}");
    assert!(!first.replayed);
    let second = send(router, request()).await;
    let replay = Answer {
        replayed: true,
        ..first
    };
    assert_eq!(second, replay);
    second.body
}
