use idem::axum::idempotent;

#[idempotent(key = header("Idempotency Key"), ttl = "24h")]
async fn space() {}

#[idempotent(key = header(""), ttl = "24h")]
async fn empty() {}

#[idempotent(key = header(KEY), ttl = "24h")]
async fn constant() {}

#[idempotent(key = header("A", "B"), ttl = "24h")]
async fn two() {}

#[idempotent(key = header(), ttl = "24h")]
async fn none() {}

fn main() {
    drop((space(), empty(), constant(), two(), none()));
}
