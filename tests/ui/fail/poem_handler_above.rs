//! poem's macro leaves the attribute on the function within its endpoint.

use idem::poem::idempotent;
use poem::handler;
use poem::web::{Data, Json};

#[handler]
#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(bank: Data<&String>, order: Json<u64>) -> String {
    format!("{} {}", order.0, bank.0)
}

fn main() {
    let _ = poem::post(charge);
}
