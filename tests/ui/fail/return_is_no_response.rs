use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

struct Charge;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn create(text: String) -> Charge {
    drop(text);
    Charge
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
