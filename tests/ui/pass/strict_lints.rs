#![deny(warnings, missing_docs, unused, rust_2018_idioms, unreachable_pub)]
#![forbid(unsafe_code)]
//! A crate that allows nothing.

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::post;
use idem::Error;

/// A function that is never awaited, whose value nobody uses.
#[idem::idempotent(key = id, ttl = "1h", skip(note))]
#[must_use]
pub async fn settle(id: u64, note: &str) -> Result<(), Error> {
    println!("{id} {note}");
    Ok(())
}

/// A handler.
#[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h")]
pub async fn create(text: String) -> impl IntoResponse {
    text
}

fn main() {
    drop(settle(1, "note"));
    let _: Router = Router::new().route("/", post(create));
}
