use idem::{Error, idempotent};

#[idempotent(key = id, ttl = "24h", in_flight = "attach 5s")]
async fn a_value(id: u64) -> Result<u64, Error> {
    Ok(id)
}

mod axum_handler {
    use idem::axum::idempotent;

    #[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "attach", transaction = pool)]
    pub async fn in_a_transaction(pool: sqlx::PgPool, body: String) -> String {
        body
    }
}

fn main() {
    drop(a_value(1));
}
