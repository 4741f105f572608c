use idem::{Error, idempotent};
use sqlx::SqlitePool;

#[idempotent(key = id, ttl = "24h", skip(pool), transaction = pool, lease = "30s")]
async fn lease(pool: &SqlitePool, id: i64) -> Result<i64, Error> {
    read(tx, id).await
}

#[idempotent(key = id, ttl = "24h", skip(pool), transaction = pool, on_crash = "refuse")]
async fn on_crash(pool: &SqlitePool, id: i64) -> Result<i64, Error> {
    read(tx, id).await
}

#[idempotent(key = tx, ttl = "24h", skip(pool), transaction = pool)]
async fn named_tx(pool: &SqlitePool, tx: i64) -> Result<i64, Error> {
    Ok(tx)
}

mod handler {
    use axum::extract::State;
    use idem::axum::idempotent;
    use sqlx::SqlitePool;

    #[idempotent(
        key = header("Idempotency-Key"),
        ttl = "24h",
        required = false,
        transaction = pool
    )]
    pub async fn optional(State(pool): State<SqlitePool>) -> String {
        format!("{:?}", super::read(tx, 1).await.is_ok())
    }
}

async fn read(tx: &mut sqlx::SqliteConnection, id: i64) -> Result<i64, Error> {
    let _ = tx;
    Ok(id)
}

fn main() {
    drop((lease, on_crash, named_tx, handler::optional));
}
