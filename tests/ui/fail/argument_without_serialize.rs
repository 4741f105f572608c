use idem::{Error, idempotent};

struct Pool;

#[idempotent(key = id, ttl = "24h")]
async fn settle(pool: &Pool, id: u64) -> Result<u64, Error> {
    drop(pool);
    Ok(id)
}

fn main() {
    // The function is still there: no second error.
    drop(settle(&Pool, 1));
}
