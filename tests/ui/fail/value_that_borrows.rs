use idem::{Error, idempotent};

#[idempotent(key = id, ttl = "24h")]
async fn settle(id: u64, name: &str) -> Result<&str, Error> {
    drop(id);
    Ok(name)
}

fn main() {
    // The function is still there: no second error.
    drop(settle(1, "n"));
}
