//! A key or a scope that cannot be derived is refused without a `?`.

use axum::{Extension, http::StatusCode};
use idem::axum::idempotent;

#[derive(Clone)]
struct Claims {
    sub: String,
}

#[idempotent(
    key = header("Idempotency-Key"),
    scope = claims.sub.parse::<u64>()?,
    ttl = "1h",
)]
async fn create(Extension(claims): Extension<Claims>, body: String) -> Result<String, StatusCode> {
    Ok(body + &claims.sub)
}

fn main() {}
