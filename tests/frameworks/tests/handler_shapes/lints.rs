//! The generated code raises no lint that the user's code does not raise itself.
#![deny(warnings, clippy::all, clippy::pedantic, clippy::nursery)]
#![deny(
    clippy::as_conversions,
    clippy::panic,
    clippy::shadow_reuse,
    clippy::shadow_same,
    clippy::shadow_unrelated,
    clippy::unwrap_used,
    let_underscore_drop,
    single_use_lifetimes,
    unreachable_pub,
    unused_lifetimes,
    unused_qualifications
)]

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json, Router};
use idem::axum::idempotent;

use crate::{assert_runs_once, forbidding, post_json, run, send, with_engine};

/// Documented.
#[idempotent(key = header("Idempotency-Key"), ttl = "1h", release(409), required = false)]
async fn deferred(
    State(limit): State<u32>,
    Path(tenant): Path<String>,
    Json(cents): Json<u32>,
) -> Result<impl IntoResponse, StatusCode> {
    if cents > limit {
        return Err(StatusCode::CONFLICT);
    }
    Ok((StatusCode::CREATED, run(&tenant)))
}

#[idempotent(
    key = (tenant, cents),
    scope = tenant,
    ttl = "1h",
    fingerprint(cents, tenant.len()),
)]
async fn early(Path(tenant): Path<String>, Json(mut cents): Json<u32>) -> impl IntoResponse {
    cents += 1;
    run(&format!("{tenant} {cents}"))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn nothing() {}

#[tokio::test]
async fn generated_code_raises_no_lint() {
    let table = Router::new()
        .route("/deferred/{tenant}", post(deferred))
        .route("/early/{tenant}", post(early))
        .route("/nothing", post(nothing))
        .with_state(9);
    let router = with_engine(table);
    for uri in ["/deferred/t", "/early/t", "/nothing"] {
        assert_runs_once(&router, || post_json(uri, "k", "5")).await;
    }
}

#[tokio::test]
async fn where_every_warning_is_forbidden_generated_code_raises_none() {
    let table = Router::new()
        .route("/nothing", post(forbidding::nothing))
        .route("/generic/{id}", post(forbidding::generic::<&str>))
        .with_state("state")
        .route("/keyed/{id}", post(forbidding::keyed));
    let router = with_engine(table);
    for uri in ["/nothing", "/generic/1", "/keyed/1"] {
        assert_runs_once(&router, || post_json(uri, "k", "5")).await;
    }
    let crashing = with_engine(Router::new().route("/", post(forbidding::never)));
    let crashed = send(&crashing, post_json("/", "k", "")).await;
    assert_eq!(crashed.status, StatusCode::INTERNAL_SERVER_ERROR);

    let request = http::Request::post("/").body(axum::body::Body::empty());
    let refused = forbidding::of_a_request(request.unwrap()).await;
    assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let charges = forbidding::Charges;
    assert!(charges.double(tonic::Request::new(1)).await.is_err());
    drop(actix_web::Route::new().to(forbidding::of_actix));
    let of_poem = poem::Route::new()
        .at("/", poem::post(forbidding::of_poem))
        .at("/nothing", poem::post(forbidding::nothing_of_poem));
    drop(of_poem);
}
