use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

struct ApiError;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn create(text: String) -> Result<String, ApiError> {
    Ok(text)
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
