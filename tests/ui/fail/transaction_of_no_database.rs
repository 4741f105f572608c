use idem::{Error, idempotent};

#[idempotent(key = id, ttl = "24h", skip(pool), transaction = pool)]
async fn settle(pool: &String, id: i64) -> Result<i64, Error> {
    let _ = tx;
    Ok(id)
}

fn main() {
    drop(settle);
}
