//! What is returned is written as a response.

use idem::salvo::idempotent;
use salvo::prelude::*;

struct Receipt;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn charge(res: &mut Response) -> Receipt {
    res.status_code(StatusCode::CREATED);
    Receipt
}

fn main() {}
