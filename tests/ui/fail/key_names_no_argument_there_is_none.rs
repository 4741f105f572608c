use idem::{Error, idempotent};

#[idempotent(key = uuid::Uuid::nil(), ttl = "24h")]
async fn settle() -> Result<u32, Error> {
    Ok(1)
}

fn main() {
    // The function is still there: no second error.
    drop(settle());
}
