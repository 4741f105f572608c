//! salvo's macro leaves the attribute on the function within its handler.

use idem::salvo::idempotent;
use salvo::extract::JsonBody;
use salvo::prelude::*;

#[handler]
#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(order: JsonBody<u64>, depot: &mut Depot) -> String {
    format!("{} {}", order.into_inner(), depot.contains_key("bank"))
}

fn main() {
    let _ = Router::new().post(charge);
}
