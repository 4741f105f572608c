use idem::idempotent;

#[derive(Debug)]
enum SettleError {
    Card,
}

#[idempotent(key = id, ttl = "24h")]
async fn settle(id: u64) -> Result<u64, SettleError> {
    if id == 0 { Err(SettleError::Card) } else { Ok(id) }
}

fn main() {
    // The function is still there: no second error.
    drop(settle(1));
}
