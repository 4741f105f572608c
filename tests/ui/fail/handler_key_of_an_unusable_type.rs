use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

#[derive(serde::Deserialize)]
struct Order {
    cents: f64,
}

#[idempotent(key = order.cents, ttl = "24h")]
async fn create(axum::Json(order): axum::Json<Order>) -> String {
    order.cents.to_string()
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
