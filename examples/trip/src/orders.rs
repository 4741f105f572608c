//! The orders, in SQLite or PostgreSQL.

use serde::{Deserialize, Serialize};
use sqlx::{PgPool, SqlitePool};

use crate::trips::{Interrupted, NewTrip};

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    id: i64,
    reference: String,
    price: i64,
}

pub(crate) enum Orders {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

const INSERT: &str = "INSERT INTO orders (reference, price) VALUES ($1, $2) RETURNING id";
const ALL: &str = "SELECT id, reference, price FROM orders ORDER BY id";

impl Orders {
    pub(crate) async fn open(url: &str) -> Result<Self, Box<dyn std::error::Error>> {
        // A phase's record is kept beside its rows: the tables of idem are needed there as well.
        drop(idem::connect(url).await?);
        let table = |id: &str| {
            format!(
                "CREATE TABLE IF NOT EXISTS orders ({id}, reference TEXT NOT NULL, price BIGINT NOT NULL)"
            )
        };
        Ok(match url.starts_with("sqlite:") {
            true => {
                let pool = SqlitePool::connect(url).await?;
                let table = table("id INTEGER PRIMARY KEY");
                sqlx::raw_sql(sqlx::AssertSqlSafe(table))
                    .execute(&pool)
                    .await?;
                Self::Sqlite(pool)
            }
            false => {
                let pool = PgPool::connect(url).await?;
                let table = table("id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
                sqlx::raw_sql(sqlx::AssertSqlSafe(table))
                    .execute(&pool)
                    .await?;
                Self::Postgres(pool)
            }
        })
    }

    /// Writes an order. `crash` may end the process before it commits.
    pub(crate) async fn write(
        &self,
        trip: &NewTrip,
        crash: impl FnOnce() + Send,
    ) -> Result<Order, Interrupted> {
        let NewTrip { reference, price } = trip;
        let order = |id| Order {
            id,
            reference: reference.clone(),
            price: *price,
        };
        match self {
            Self::Sqlite(pool) => {
                idem::phase("write_order", pool, async |mut tx| {
                    let insert = sqlx::query_scalar(INSERT).bind(reference).bind(price);
                    let id = insert.fetch_one(&mut *tx).await?;
                    crash();
                    Ok((tx, order(id)))
                })
                .await
            }
            Self::Postgres(pool) => {
                idem::phase("write_order", pool, async |mut tx| {
                    let insert = sqlx::query_scalar(INSERT).bind(reference).bind(price);
                    let id = insert.fetch_one(&mut *tx).await?;
                    crash();
                    Ok((tx, order(id)))
                })
                .await
            }
        }
    }

    pub(crate) async fn all(&self) -> Result<Vec<Order>, Interrupted> {
        let rows: Vec<(i64, String, i64)> = match self {
            Self::Sqlite(pool) => sqlx::query_as(ALL).fetch_all(pool).await?,
            Self::Postgres(pool) => sqlx::query_as(ALL).fetch_all(pool).await?,
        };
        let orders = rows.into_iter().map(|(id, reference, price)| Order {
            id,
            reference,
            price,
        });
        Ok(orders.collect())
    }
}
