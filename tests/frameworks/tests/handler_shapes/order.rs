//! The order of work: the head first, the claim, and the last extractor only for a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::{FromRef, FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use idem::axum::idempotent;

use crate::{assert_runs_once, post_json, run, send, with_engine};

/// Counts how often the last extractor has run.
#[derive(Clone, Default)]
struct Extractions(Arc<AtomicU32>);

struct Counted(String);

impl<S: Send + Sync> FromRequest<S> for Counted
where
    Extractions: FromRef<S>,
{
    type Rejection = (StatusCode, &'static str);

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        Extractions::from_ref(state)
            .0
            .fetch_add(1, Ordering::SeqCst);
        let text = String::from_request(request, state)
            .await
            .map_err(|_| (StatusCode::BAD_REQUEST, "no text"))?;
        if text == "bad" {
            return Err((StatusCode::UNPROCESSABLE_ENTITY, "bad text"));
        }
        Ok(Self(text))
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn deferred(State(_): State<Extractions>, Counted(text): Counted) -> String {
    run(&text)
}

#[idempotent(key = text, ttl = "1h")]
async fn key_of_the_body(Counted(text): Counted) -> String {
    run(&text)
}

#[idempotent(key = header("Idempotency-Key"), scope = text, ttl = "1h")]
async fn scope_of_the_body(Counted(text): Counted) -> String {
    run(&text)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", fingerprint(text))]
async fn fingerprint_of_the_body(Counted(text): Counted) -> String {
    run(&text)
}

/// A method and a field have the last argument's name here; neither is the argument.
#[idempotent(key = header("Idempotency-Key"), scope = id.text().len() as u64, ttl = "1h", fingerprint(id.text))]
async fn another_text(Path(id): Path<Id>, State(_): State<Extractions>, text: Counted) -> String {
    run(&format!("{} {}", id.text, text.0))
}

#[derive(serde::Deserialize)]
struct Id {
    text: String,
}

impl Id {
    fn text(&self) -> &str {
        &self.text
    }
}

#[tokio::test]
async fn a_field_of_the_same_name_is_not_the_last_argument() {
    let extractions = Extractions::default();
    let router = router(&extractions);
    let body = assert_runs_once(&router, || post_json("/another/7", "k", "text")).await;
    assert!(body.starts_with("7 text #"), "{body}");
    assert_eq!(extractions.0.load(Ordering::SeqCst), 1);
}

fn router(extractions: &Extractions) -> Router {
    let router = Router::new()
        .route("/deferred", post(deferred))
        .route("/key", post(key_of_the_body))
        .route("/scope", post(scope_of_the_body))
        .route("/fingerprint", post(fingerprint_of_the_body))
        .route("/another/{text}", post(another_text));
    with_engine(router.with_state(extractions.clone()))
}

#[tokio::test]
async fn a_replay_extracts_nothing_from_the_body() {
    let extractions = Extractions::default();
    let router = router(&extractions);
    assert_runs_once(&router, || post_json("/deferred", "k", "text")).await;
    assert_eq!(extractions.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_key_scope_and_fingerprint_name_is_extracted_for_every_request() {
    for uri in ["/key", "/scope", "/fingerprint"] {
        let extractions = Extractions::default();
        let router = router(&extractions);
        let body = assert_runs_once(&router, || post_json(uri, "k", "text")).await;
        assert!(body.starts_with("text #"), "{body}");
        assert_eq!(extractions.0.load(Ordering::SeqCst), 2, "{uri}");
    }
}

#[tokio::test]
async fn a_rejection_of_the_last_extractor_leaves_the_key_free() {
    for uri in ["/deferred", "/key", "/scope", "/fingerprint"] {
        let router = router(&Extractions::default());
        for _ in 0..2 {
            let rejected = send(&router, post_json(uri, "k", "bad")).await;
            assert_eq!(rejected.status, StatusCode::UNPROCESSABLE_ENTITY);
            assert_eq!(rejected.body, "bad text");
            assert!(!rejected.replayed);
        }
        assert_runs_once(&router, || post_json(uri, "k", "good")).await;
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn counts_the_attempts(text: String) -> String {
    let number = idem::attempt().number();
    assert!(number > 1 || text != "panic", "on purpose");
    run(&format!("{text} {number}"))
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_next_request_is_the_second_attempt() {
    let router = with_engine(Router::new().route("/", post(counts_the_attempts)));
    let crashed = send(&router, post_json("/", "k", "panic")).await;
    assert_eq!(crashed.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!crashed.body.contains("on purpose"), "{}", crashed.body);
    let body = assert_runs_once(&router, || post_json("/", "k", "panic")).await;
    assert!(body.starts_with("panic 2 #"), "{body}");
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn changes_its_arguments(mut text: String) -> String {
    text.push('!');
    run(&text)
}

#[idempotent(key = value["id"].as_str(), ttl = "1h", fingerprint(value))]
async fn changes_what_it_was_keyed_by(Json(mut value): Json<serde_json::Value>) -> String {
    let id = value["id"].take();
    run(&format!("{id} {value}"))
}

#[tokio::test]
async fn a_handler_may_change_what_it_was_given() {
    let router = Router::new()
        .route("/", post(changes_its_arguments))
        .route("/key", post(changes_what_it_was_keyed_by));
    let router = with_engine(router);
    let body = assert_runs_once(&router, || post_json("/", "k", "text")).await;
    assert!(body.starts_with("text! #"), "{body}");
    let body = assert_runs_once(&router, || post_json("/key", "k", r#"{"id":"k"}"#)).await;
    assert!(body.starts_with("\"k\" {\"id\":null} #"), "{body}");
}
