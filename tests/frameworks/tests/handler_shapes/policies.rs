//! `required`, `release`, `engine`, `ttl`, `in_flight`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use idem::Engine;
use idem::axum::idempotent;
use idem::stores::memory::{ManualClock, MemoryStore};
use tokio::sync::Barrier;

use crate::{assert_runs_once, post_json, run, send, with_engine};

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", required = false)]
async fn optional(text: String) -> String {
    run(&format!("{text} {}", idem::attempt().is_protected()))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", required = true)]
async fn required(text: String) -> String {
    run(&text)
}

fn without_key(uri: &str) -> Request<axum::body::Body> {
    let mut request = post_json(uri, "", "text");
    request.headers_mut().remove("idempotency-key");
    request
}

#[tokio::test]
async fn a_key_is_required_unless_it_is_said_not_to_be() {
    let router = Router::new()
        .route("/optional", post(optional))
        .route("/required", post(required));
    let router = with_engine(router);
    let refused = send(&router, without_key("/required")).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.body.contains("key-missing"));

    let first = send(&router, without_key("/optional")).await;
    let second = send(&router, without_key("/optional")).await;
    assert!(first.body.starts_with("text false #"), "{}", first.body);
    assert_ne!(first.body, second.body, "without a key every request runs");

    let body = assert_runs_once(&router, || post_json("/optional", "k", "text")).await;
    assert!(body.starts_with("text true #"), "{body}");
}

#[tokio::test]
async fn a_malformed_key_is_never_an_absent_one() {
    let router = with_engine(Router::new().route("/", post(optional)));
    for key in ["", "\"unterminated", "a b"] {
        let refused = send(&router, post_json("/", key, "text")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{key}");
        assert!(refused.body.contains("key-invalid"), "{}", refused.body);
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", release(404, 418))]
async fn answers(Path(status): Path<u16>) -> (StatusCode, String) {
    (StatusCode::from_u16(status).unwrap(), run("answered"))
}

#[tokio::test]
async fn the_released_statuses_free_the_key_and_no_others() {
    let router = with_engine(Router::new().route("/{status}", post(answers)));
    for (uri, kept) in [
        ("/404", false),
        ("/418", false),
        ("/200", true),
        ("/429", true),
        ("/503", true),
    ] {
        let first = send(&router, post_json(uri, uri, "")).await;
        let second = send(&router, post_json(uri, uri, "")).await;
        assert_eq!(second.replayed, kept, "{uri}");
        assert_eq!(first.body == second.body, kept, "{uri}");
    }
}

#[derive(Clone)]
struct Shop {
    engine: Engine,
}

#[idempotent(key = header("Idempotency-Key"), ttl = "90s", engine = shop.engine)]
async fn with_its_own_engine(State(shop): State<Shop>, text: String) -> String {
    let _ = shop;
    run(&text)
}

const MINUTE: Duration = Duration::from_secs(60);

#[idempotent(key = header("Idempotency-Key"), ttl = MINUTE * 3 / 2, lease = MINUTE, engine = shop.engine)]
async fn with_a_computed_ttl(State(shop): State<Shop>, text: String) -> String {
    let _ = shop;
    run(&text)
}

#[tokio::test]
async fn an_engine_can_be_named_and_an_outcome_is_kept_for_its_ttl() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().manual_clock(clock.clone()).build();
    let shop = Shop {
        engine: Engine::new(store),
    };
    let router = Router::new()
        .route("/literal", post(with_its_own_engine))
        .route("/computed", post(with_a_computed_ttl))
        .with_state(shop);
    for uri in ["/literal", "/computed"] {
        let request = || post_json(uri, "k", "text");
        let first = assert_runs_once(&router, request).await;
        clock.advance(Duration::from_secs(89));
        assert_eq!(send(&router, request()).await.body, first);
        clock.advance(Duration::from_secs(2));
        assert_ne!(assert_runs_once(&router, request).await, first);
    }
}

#[idempotent(
    key = header("Idempotency-Key"),
    ttl = Duration::from_secs(seconds),
    lease = Duration::from_secs(seconds),
    engine = shop.engine,
)]
async fn kept_as_its_body_says(State(shop): State<Shop>, Json(seconds): Json<u64>) -> String {
    let _ = shop;
    run(&seconds.to_string())
}

#[tokio::test]
async fn the_last_argument_may_name_the_ttl_and_a_zero_is_refused() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().manual_clock(clock.clone()).build();
    let shop = Shop {
        engine: Engine::new(store),
    };
    let router = Router::new()
        .route("/", post(kept_as_its_body_says))
        .with_state(shop);
    let request = || post_json("/", "k", "90");
    let first = assert_runs_once(&router, request).await;
    clock.advance(Duration::from_secs(89));
    assert_eq!(send(&router, request()).await.body, first);
    clock.advance(Duration::from_secs(2));
    assert_ne!(assert_runs_once(&router, request).await, first);

    let refused = send(&router, post_json("/", "zero", "0")).await;
    assert_eq!(refused.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(refused.body.contains("misconfigured"), "{}", refused.body);
}

#[tokio::test]
async fn without_any_engine_nothing_runs() {
    let router = Router::new().route("/", post(required));
    let refused = send(&router, post_json("/", "k", "text")).await;
    assert_eq!(refused.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(refused.body.contains("\"status\":500"), "{}", refused.body);
}

#[derive(Clone)]
struct Gate(Arc<Barrier>);

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", in_flight = "wait 5s")]
async fn waits(State(gate): State<Gate>) -> String {
    gate.0.wait().await;
    gate.0.wait().await;
    run("waited")
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", in_flight = "reject")]
async fn rejects(State(gate): State<Gate>) -> String {
    gate.0.wait().await;
    gate.0.wait().await;
    run("rejected")
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_waits_or_is_refused_as_the_attribute_says() {
    let gate = Gate(Arc::new(Barrier::new(2)));
    let router = Router::new()
        .route("/waits", post(waits))
        .route("/rejects", post(rejects))
        .with_state(gate.clone());
    let router = with_engine(router);
    for (uri, waits) in [("/waits", true), ("/rejects", false)] {
        let request = move || post_json(uri, "k", "");
        let first = tokio::spawn({
            let router = router.clone();
            async move { send(&router, request()).await }
        });
        gate.0.wait().await;
        let (duplicate, _) = if waits {
            tokio::join!(send(&router, request()), gate.0.wait())
        } else {
            let refused = send(&router, request()).await;
            (refused, gate.0.wait().await)
        };
        let first = first.await.unwrap();
        if waits {
            assert_eq!(duplicate.body, first.body);
        } else {
            assert_eq!(duplicate.status, StatusCode::CONFLICT);
        }
        assert_eq!(duplicate.replayed, waits);
    }
}
