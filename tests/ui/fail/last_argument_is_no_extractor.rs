use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

struct Order;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn create(order: Order) -> String {
    drop(order);
    String::new()
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
