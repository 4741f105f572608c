use idem::{Error, idempotent};

#[idempotent(key = cents, ttl = "24h")]
async fn settle(cents: f64) -> Result<f64, Error> {
    Ok(cents)
}

fn main() {
    // The function is still there: no second error.
    drop(settle(1.0));
}
