use idem::idempotent;

struct SettleError;

impl From<idem::Error> for SettleError {
    fn from(_: idem::Error) -> Self {
        Self
    }
}

#[idempotent(key = id, ttl = "24h", errors = "store")]
async fn settle(id: u64) -> Result<u64, SettleError> {
    Ok(id)
}

fn main() {
    // The function is still there: no second error.
    drop(settle(1));
}
