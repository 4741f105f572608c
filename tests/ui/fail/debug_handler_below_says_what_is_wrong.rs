use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

struct Order;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[axum::debug_handler]
async fn create(order: Order, text: String) -> String {
    drop(order);
    text
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
