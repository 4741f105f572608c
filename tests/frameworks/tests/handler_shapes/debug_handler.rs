//! `#[axum::debug_handler]` below the attribute, and above it, where it works for a handler with
//! arguments; `tests/ui/fail` has what is said to one without.

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use idem::axum::idempotent;

use crate::{assert_runs_once, post_json, run, with_engine};

#[derive(Clone)]
struct Bank(&'static str);

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
#[axum::debug_handler]
async fn none() -> String {
    run("none")
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
#[axum::debug_handler]
async fn one(Json(cents): Json<u32>) -> String {
    run(&format!("one {cents}"))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
#[axum::debug_handler(state = Bank)]
async fn two(State(bank): State<Bank>, Json(cents): Json<u32>) -> Result<String, String> {
    Ok(run(&format!("two {} {cents}", bank.0)))
}

#[idempotent(key = (id, cents), ttl = "1h", fingerprint(cents))]
#[axum::debug_handler]
async fn three(State(bank): State<Bank>, Path(id): Path<u8>, Json(cents): Json<u32>) -> String {
    run(&format!("three {} {id} {cents}", bank.0))
}

#[axum::debug_handler]
#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn above_one(Json(cents): Json<u32>) -> String {
    run(&format!("above one {cents}"))
}

#[axum::debug_handler]
#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn above_one_of_the_head(State(bank): State<Bank>) -> String {
    run(&format!("above head {}", bank.0))
}

#[axum::debug_handler(state = Bank)]
#[idempotent(key = id, ttl = "1h")]
async fn above_two(Path(id): Path<u8>, Json(cents): Json<u32>) -> Result<String, String> {
    Ok(run(&format!("above two {id} {cents}")))
}

#[tokio::test]
async fn debug_handler_above_the_attribute_checks_and_stays_out_of_the_way() {
    let router = Router::new()
        .route("/one", post(above_one))
        .route("/head", post(above_one_of_the_head))
        .route("/two/{id}", post(above_two))
        .with_state(Bank("b"));
    let router = with_engine(router);
    for (uri, expected) in [
        ("/one", "above one 5 #"),
        ("/head", "above head b #"),
        ("/two/1", "above two 1 5 #"),
    ] {
        let body = assert_runs_once(&router, || post_json(uri, "k", "5")).await;
        assert!(body.starts_with(expected), "{uri}: {body}");
    }
}

#[tokio::test]
async fn debug_handler_below_the_attribute_checks_and_stays_out_of_the_way() {
    let router = Router::new()
        .route("/none", post(none))
        .route("/one", post(one))
        .route("/two", post(two))
        .route("/three/{id}", post(three))
        .with_state(Bank("b"));
    let router = with_engine(router);
    for (uri, expected) in [
        ("/none", "none #"),
        ("/one", "one 5 #"),
        ("/two", "two b 5 #"),
        ("/three/1", "three b 1 5 #"),
    ] {
        let body = assert_runs_once(&router, || post_json(uri, "k", "5")).await;
        assert!(body.starts_with(expected), "{uri}: {body}");
    }
}
