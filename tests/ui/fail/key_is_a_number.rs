//! A number is the name of no header.

use idem::idempotent;

#[idempotent(key = 7, ttl = "1h")]
async fn ship(order: u64) -> Result<u64, idem::Error> {
    Ok(order)
}

fn main() {}
