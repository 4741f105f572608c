//! The argument that reads the body goes last.

use idem::poem::idempotent;
use poem::handler;
use poem::web::{Data, Json};

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn charge(order: Json<u64>, bank: Data<&String>) -> String {
    format!("{} {}", order.0, bank.0)
}

fn main() {}
