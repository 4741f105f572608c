use idem::{Error, idempotent};

#[idempotent(key = id, ttl = "24h", scope = cents)]
async fn settle(id: u64, cents: f64) -> Result<f64, Error> {
    Ok(cents + id as f64)
}

fn main() {
    // The function is still there: no second error.
    drop(settle(1, 1.0));
}
