use idem::{Error, idempotent};

/// As another version of sqlx has it.
#[derive(Clone)]
struct PgPool;

#[idempotent(key = id, ttl = "1h", skip(pool), transaction = pool)]
async fn settle(pool: PgPool, id: u64) -> Result<u64, Error> {
    Ok(id)
}

fn main() {
    drop(settle(PgPool, 1));
}
