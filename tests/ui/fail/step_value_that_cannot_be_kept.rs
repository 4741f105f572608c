//! A step whose value serde does not write, and one whose error cannot say why it did not run.

use idem::{Error, idempotent};

struct Receipt;

#[derive(Debug)]
struct Declined;

#[idempotent(key = order, ttl = "24h")]
async fn pay(order: u64) -> Result<u64, Error> {
    let _receipt = idem::step("charge", async { Ok::<_, Error>(Receipt) }).await?;
    Ok(order)
}

async fn charge() -> Result<u64, Declined> {
    idem::step("charge", async { Err(Declined) }).await
}

fn main() {}
