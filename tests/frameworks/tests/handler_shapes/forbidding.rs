//! Handlers where every warning is forbidden: an expansion allows nothing, which would be a
//! warning of its own.
#![deny(forbidden_lint_groups)]
#![forbid(warnings, clippy::all)]

use std::convert::Infallible;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use idem::axum::idempotent;

use crate::run;

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
pub(crate) async fn nothing() {}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "forbidding.generic")]
pub(crate) async fn generic<T>(
    State(state): State<T>,
    Path(id): Path<u8>,
) -> impl IntoResponse + use<T>
where
    T: ToString + Clone + Send + Sync + 'static,
{
    run(&format!("{} {id}", state.to_string()))
}

#[idempotent(key = id, scope = "all", ttl = "1h", release(404), fingerprint(id, cents))]
pub(crate) async fn keyed(
    Path(id): Path<u8>,
    Json(cents): Json<u32>,
) -> Result<String, StatusCode> {
    if cents == 0 {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(run(&format!("{id} {cents}")))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
pub(crate) async fn never() -> Result<String, Infallible> {
    run("never");
    panic!("as asked")
}

#[idem::http::idempotent(key = header("Idempotency-Key"), ttl = "1h", required = false)]
pub(crate) async fn of_a_request(request: http::Request<bytes::Bytes>) -> http::Response<String> {
    http::Response::new(request.uri().to_string())
}

#[idem::actix::idempotent(key = header("Idempotency-Key"), ttl = "1h")]
pub(crate) async fn of_actix(
    id: actix_web::web::Path<u8>,
    body: String,
) -> impl actix_web::Responder {
    format!("{id} {body}")
}

#[idem::poem::idempotent(key = header("Idempotency-Key"), ttl = "1h")]
#[poem::handler]
pub(crate) async fn of_poem(given: poem::web::Data<&u8>, body: String) -> impl poem::IntoResponse {
    format!("{} {body}", given.0)
}

#[idem::poem::idempotent(key = header("Idempotency-Key"), ttl = "1h")]
#[poem::handler]
pub(crate) async fn nothing_of_poem() {}

#[derive(Clone)]
pub(crate) struct Charges;

impl Charges {
    #[idem::tonic::idempotent(key = request.get_ref().to_string(), ttl = "1h", name = "forbidding.tonic")]
    pub(crate) async fn double(
        &self,
        request: tonic::Request<u64>,
    ) -> Result<tonic::Response<u64>, tonic::Status> {
        Ok(tonic::Response::new(request.into_inner() * 2))
    }
}
