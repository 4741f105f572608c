use idem::{Error, idempotent};

#[derive(serde::Serialize)]
struct Order {
    id: String,
    cents: u64,
}

fn take(id: String) -> String {
    id
}

#[idempotent(key = take(o.id), ttl = "1h")]
async fn settle(o: Order) -> Result<u64, Error> {
    Ok(o.cents)
}

#[idempotent(key = o.into_key(), ttl = "1h", skip(o))]
async fn consumed(o: Order) -> Result<u64, Error> {
    Ok(o.cents)
}

impl Order {
    fn into_key(self) -> String {
        self.id
    }
}

#[idem::axum::idempotent(key = take(id), ttl = "1h")]
async fn handler(axum::extract::Path(id): axum::extract::Path<String>) -> String {
    id
}

fn main() {}
