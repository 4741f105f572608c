use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn create(text: String, bytes: axum::body::Bytes) -> String {
    drop(bytes);
    text
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn refund(
    order: Option<axum::Json<u64>>,
    axum::extract::State(bank): axum::extract::State<String>,
) -> String {
    drop(order);
    bank
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
