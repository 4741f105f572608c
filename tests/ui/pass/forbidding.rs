//! A crate that forbids warnings and unsafe code: an expansion has neither, nor allows any.
#![deny(forbidden_lint_groups)]
#![forbid(warnings, unsafe_code)]

use idem::Error;

#[idem::idempotent(key = id, ttl = "1h")]
async fn settle<'a>(id: &'a str) -> Result<usize, Error> {
    Ok(id.len())
}

#[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn create(text: String) -> String {
    text
}

fn main() {
    drop(settle("k"));
    let _: axum::Router = axum::Router::new().route("/", axum::routing::post(create));
}
