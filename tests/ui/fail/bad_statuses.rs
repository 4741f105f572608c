use idem::axum::idempotent;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", release(409, 200))]
async fn success() {}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", release(99, 1000, 600))]
async fn no_status() {}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", release("409"))]
async fn text() {}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", release = 409)]
async fn equals() {}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = "no")]
async fn required() {}

fn main() {
    drop((success(), no_status(), text(), equals(), required()));
}
