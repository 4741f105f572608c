use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", errors = "store", skip(text))]
async fn create(text: String) -> String {
    text
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
