use idem::{Error, idempotent};

#[derive(serde::Serialize)]
struct Receipt;

#[idempotent(key = id, ttl = "24h")]
async fn settle(id: u64) -> Result<Receipt, Error> {
    drop(id);
    Ok(Receipt)
}

fn main() {
    // The function is still there: no second error.
    drop(settle(1));
}
