use idem::{Error, idempotent};

#[idempotent(key = id, ttl = "24h", skip(cents), fingerprint(cents))]
async fn settle(id: u64, cents: u32) -> Result<u32, Error> {
    Ok(cents + id as u32)
}

fn main() {
    // The function is still there: no second error.
    drop(settle(1, 2));
}
