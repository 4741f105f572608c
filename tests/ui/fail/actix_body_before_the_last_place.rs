//! The argument that reads the body goes last.

use actix_web::web::{Data, Json};
use idem::actix::idempotent;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(order: Json<u64>, bank: Data<String>) -> String {
    format!("{order} {}", bank.as_str())
}

fn main() {}
