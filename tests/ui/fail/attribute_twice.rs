//! Twice over one function.

use idem::axum::idempotent;

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn create(body: String) -> String {
    body
}

#[idem::idempotent(key = order, ttl = "1h")]
#[idem::idempotent(key = order, ttl = "2h")]
async fn ship(order: u64) -> Result<u64, idem::Error> {
    Ok(order)
}

fn main() {}
