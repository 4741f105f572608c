use idem::{Error, idempotent};

#[idempotent(key: id, ttl = "24h")]
async fn colon(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id ttl = "24h")]
async fn no_comma(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent("id", ttl = "24h", key = id)]
async fn no_name(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = , ttl = "24h")]
async fn no_value(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key, ttl = "24h")]
async fn no_equals(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "24h", fingerprint = id)]
async fn no_parentheses(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "24h", fingerprint())]
async fn empty_list(id: u64) -> Result<u64, Error> {
    Ok(id)
}

fn main() {
    drop((colon(1), no_comma(1), no_name(1), no_value(1), no_equals(1)));
    drop((no_parentheses(1), empty_list(1)));
}
