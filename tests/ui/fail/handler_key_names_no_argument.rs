use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

#[idempotent(key = "create", ttl = "24h")]
async fn create(text: String) -> String {
    text
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
