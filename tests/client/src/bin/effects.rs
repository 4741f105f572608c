//! A server to be killed: `effects --store URL`. It writes down each time that it really does something:
//! in PostgreSQL and SQLite in the transaction of the record, in Redis under a lease.

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use clap::Parser;
use idem::axum::idempotent;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, AsyncConnectionConfig};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{PgPool, SqlitePool};
use tokio::net::TcpListener;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    store: String,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS effects (operation BIGINT NOT NULL)";
const INSERT: &str = "INSERT INTO effects (operation) VALUES ($1)";

/// 503 frees the key.
fn later(_: impl Error) -> StatusCode {
    StatusCode::SERVICE_UNAVAILABLE
}

fn number(body: &str) -> Result<i64, StatusCode> {
    body.parse().map_err(|_| StatusCode::BAD_REQUEST)
}

type Done = Result<(StatusCode, String), StatusCode>;

#[derive(Clone)]
struct Postgres {
    pool: PgPool,
}

#[idempotent(key = header("Idempotency-Key"), scope = "chaos", ttl = "1h", name = "chaos.postgres", transaction = store.pool)]
async fn in_postgres(State(store): State<Postgres>, body: String) -> Done {
    let insert = sqlx::query(INSERT).bind(number(&body)?);
    insert.execute(&mut **tx).await.map_err(later)?;
    Ok((StatusCode::CREATED, format!("done {body}")))
}

#[derive(Clone)]
struct Sqlite {
    pool: SqlitePool,
}

#[idempotent(key = header("Idempotency-Key"), scope = "chaos", ttl = "1h", name = "chaos.sqlite", transaction = store.pool)]
async fn in_sqlite(State(store): State<Sqlite>, body: String) -> Done {
    let insert = sqlx::query(INSERT).bind(number(&body)?);
    insert.execute(&mut **tx).await.map_err(later)?;
    Ok((StatusCode::CREATED, format!("done {body}")))
}

// Which attempt it was explains what a crash has doubled.
#[idempotent(key = header("Idempotency-Key"), scope = "chaos", ttl = "1h", name = "chaos.redis", lease = "3s")]
async fn in_redis(State(mut redis): State<MultiplexedConnection>, body: String) -> Done {
    let effect = format!("{} {}", number(&body)?, idem::attempt().number());
    let _: usize = redis.rpush("effects", effect).await.map_err(later)?;
    Ok((StatusCode::CREATED, format!("done {body}")))
}

async fn open(store: &str) -> Result<Router, Box<dyn Error>> {
    Ok(if store.starts_with("sqlite:") {
        let file: SqliteConnectOptions = store.parse()?;
        let file = file
            .create_if_missing(true)
            .busy_timeout(Duration::from_secs(10))
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePool::connect_with(file).await?;
        sqlx::query(TABLE).execute(&pool).await?;
        Router::new()
            .route("/effects", post(in_sqlite))
            .with_state(Sqlite { pool })
    } else if store.starts_with("postgres:") {
        let pool = PgPool::connect(store).await?;
        sqlx::query(TABLE).execute(&pool).await?;
        Router::new()
            .route("/effects", post(in_postgres))
            .with_state(Postgres { pool })
    } else {
        let client = redis::Client::open(store)?;
        // Who did not wait for the answer would free the key of what was done.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Router::new()
            .route("/effects", post(in_redis))
            .with_state(connection)
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect(&options.store).await?.install()?;
    let router = open(&options.store).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}
