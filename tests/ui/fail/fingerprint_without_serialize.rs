use idem::{Error, idempotent};

struct Size;

struct Pool {
    size: Size,
}

#[idempotent(key = id, ttl = "24h", fingerprint(pool.size, id))]
async fn settle(pool: &Pool, id: u64) -> Result<u64, Error> {
    drop(&pool.size);
    Ok(id)
}

fn main() {
    // The function is still there: no second error.
    drop(settle(&Pool { size: Size }, 1));
}
