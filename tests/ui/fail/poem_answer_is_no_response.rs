//! What is returned is a response, and what is extracted an extractor.

use idem::poem::idempotent;
use poem::handler;

struct Receipt;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn charge(order: String) -> Receipt {
    drop(order);
    Receipt
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn refund(receipt: Receipt) -> String {
    drop(receipt);
    String::new()
}

fn main() {}
