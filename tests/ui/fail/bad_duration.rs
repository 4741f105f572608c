use idem::{Error, idempotent};

#[idempotent(key = id, ttl = "24x")]
async fn unit(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "")]
async fn empty(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "0s")]
async fn zero(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = 24h)]
async fn unquoted(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = 86400)]
async fn integer(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "86400")]
async fn without_unit(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "1h30")]
async fn half_a_unit(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "-1h")]
async fn negative(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "1h", lease = "0ms")]
async fn lease(id: u64) -> Result<u64, Error> {
    Ok(id)
}

fn main() {
    drop((unit(1), empty(1), zero(1), unquoted(1), integer(1)));
    drop((without_unit(1), half_a_unit(1), negative(1), lease(1)));
}
