use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

#[axum::debug_handler]
#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn create() -> String {
    String::new()
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
