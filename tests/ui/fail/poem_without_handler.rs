//! Without `#[handler]` the function would be no endpoint.

use idem::poem::idempotent;
use poem::web::Json;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(order: Json<u64>) -> String {
    order.0.to_string()
}

fn main() {}
