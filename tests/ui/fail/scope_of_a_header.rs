//! Only a key is read from a header by its name.

use idem::axum::idempotent;

#[idempotent(key = header("Idempotency-Key"), scope = header("X-Tenant"), ttl = "1h")]
async fn create(body: String) -> String {
    body
}

fn main() {}
