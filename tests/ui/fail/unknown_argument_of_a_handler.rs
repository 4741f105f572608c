use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", realese(401), body_limit = 12)]
async fn create(text: String) -> String {
    text
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
