use idem::idempotent;

struct SettleError;

impl From<idem::Error> for SettleError {
    fn from(_: idem::Error) -> Self {
        Self
    }
}

#[idempotent(key = id, ttl = "24h")]
async fn wrong_value(id: u64) -> Result<u64, SettleError> {
    id
}

#[idempotent(key = id, ttl = "24h")]
async fn wrong_error(id: u64) -> Result<u64, SettleError> {
    let more: u64 = "7".parse()?;
    Ok(id + more)
}

#[idempotent(key = id, ttl = "24h")]
async fn no_tail(id: u64) -> Result<u64, SettleError> {
    let _ = id;
}

#[idempotent(key = id, ttl = "24h")]
async fn unknown_name(id: u64) -> Result<u64, SettleError> {
    Ok(idd)
}

fn main() {
    drop((wrong_value(1), wrong_error(1), no_tail(1), unknown_name(1)));
}
