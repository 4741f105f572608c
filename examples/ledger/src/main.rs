//! Money transfers whose records lie beside the money: claim, bookings and answer commit
//! together, so that a crash at any instant leaves a transfer that happened once, or not at
//! all.
//!
//! `cargo run -p ledger`, then paste the printed lines into another terminal. `--store
//! postgres://…` keeps everything in PostgreSQL, and `mysql://…` in MySQL or MariaDB. `--mode lease` shows the other way: the record
//! commits apart from the bookings, and a crash between the two leaves a doubt.

use std::error::Error;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use tokio::net::TcpListener;

/// Money transfers that are safe to retry.
#[derive(Parser)]
struct Options {
    /// The loopback port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// The database: `sqlite://FILE`, `postgres://…` or `mysql://…`. Everything is in there.
    #[arg(long, default_value = "sqlite://ledger.db")]
    store: String,
    /// Where a transfer and its record commit.
    #[arg(long, value_enum, default_value = "transaction")]
    mode: Mode,
    /// With `--mode lease`: what a crash between the two commits leads to.
    #[arg(long, value_enum, default_value = "rerun")]
    on_crash: OnCrash,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// Together.
    Transaction,
    /// Apart.
    Lease,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnCrash {
    /// The transfer runs again.
    Rerun,
    /// It is refused, until somebody has looked.
    Refuse,
}

#[derive(Deserialize)]
struct NewTransfer {
    from: String,
    to: String,
    amount: i64,
    /// The client's own mark. Nothing keeps two transfers with one mark apart.
    #[serde(default)]
    reference: String,
}

#[derive(Serialize, sqlx::FromRow)]
struct Transfer {
    id: i64,
    from_account: String,
    to_account: String,
    amount: i64,
    reference: String,
}

#[derive(Serialize, sqlx::FromRow)]
struct Account {
    name: String,
    balance: i64,
}

/// Why a transfer was not made. All but the last are final: a retry gets the same answer.
enum Refused {
    NotAnAmount,
    NoSuchPayer,
    NoSuchPayee,
    NotEnough,
    /// The database's own words are for the log; 503 frees the key.
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NotAnAmount => (StatusCode::BAD_REQUEST, "the amount is not above zero\n"),
            Self::NoSuchPayer => (StatusCode::NOT_FOUND, "nobody of that name pays\n"),
            Self::NoSuchPayee => (StatusCode::NOT_FOUND, "nobody of that name is paid\n"),
            Self::NotEnough => (StatusCode::CONFLICT, "there is not enough money\n"),
            Self::Database(error) => {
                tracing::error!(%error, "a transfer failed");
                (StatusCode::SERVICE_UNAVAILABLE, "the database is busy\n")
            }
        };
        (status, text).into_response()
    }
}

type Booked = Result<(StatusCode, Json<Transfer>), Refused>;

/// The ledger over one kind of database: the handlers and almost all of the SQL are the same for all, and the
/// driver's types are not. `$mark` writes the places of values as the database does, and `$last` is the id
/// that it has given last.
// rustfmt moves attributes in a macro to the right, and further each time.
#[rustfmt::skip]
macro_rules! ledger {
    ($module:ident, $Pool:ty, $Connection:ty, $id:literal, $ignore:literal, $mark:expr, $last:literal) => {
        mod $module {
            use idem::axum::idempotent;

            use super::*;

            #[derive(Clone)]
            pub(super) struct Ledger {
                pool: $Pool,
            }

            impl Ledger {
                pub(super) async fn open(pool: $Pool) -> Result<Self, sqlx::Error> {
                    let tables = concat!(
                        "CREATE TABLE IF NOT EXISTS accounts (
                             name VARCHAR(64) PRIMARY KEY,
                             balance BIGINT NOT NULL
                         );
                         CREATE TABLE IF NOT EXISTS transfers (
                             id ",
                        $id,
                        ",
                             from_account TEXT NOT NULL,
                             to_account TEXT NOT NULL,
                             amount BIGINT NOT NULL,
                             reference TEXT NOT NULL
                         );
                         INSERT INTO accounts (name, balance)
                         VALUES ('a', 1000000), ('b', 1000000) ",
                        $ignore,
                    );
                    sqlx::raw_sql(tables).execute(&pool).await?;
                    Ok(Self { pool })
                }

                pub(super) fn router(self, mode: Mode, on_crash: OnCrash) -> Router {
                    let transfer = match (mode, on_crash) {
                        (Mode::Transaction, _) => post(transfer),
                        (Mode::Lease, OnCrash::Rerun) => post(transfer_apart),
                        (Mode::Lease, OnCrash::Refuse) => post(transfer_apart_once),
                    };
                    Router::new()
                        .route("/transfers", transfer.get(transfers))
                        .route("/accounts", get(accounts))
                        .with_state(self)
                }
            }

            /// One transaction for everything: `tx` is the attribute's. The operation has its module's
            /// name: there is one for each database.
            #[idempotent(
                key = header("Idempotency-Key"),
                ttl = "24h",
                transaction = ledger.pool
            )]
            async fn transfer(
                State(ledger): State<Ledger>,
                Json(order): Json<NewTransfer>,
            ) -> Booked {
                book(tx, order).await
            }

            /// A transaction of its own; the record commits before it, and after it.
            #[idempotent(
                key = header("Idempotency-Key"),
                ttl = "24h",
                lease = "1s"
            )]
            async fn transfer_apart(
                State(ledger): State<Ledger>,
                Json(order): Json<NewTransfer>,
            ) -> Booked {
                ledger.book_apart(order).await
            }

            /// The same, and after a crash it is refused.
            #[idempotent(
                key = header("Idempotency-Key"),
                ttl = "24h",
                lease = "1s",
                on_crash = "refuse"
            )]
            async fn transfer_apart_once(
                State(ledger): State<Ledger>,
                Json(order): Json<NewTransfer>,
            ) -> Booked {
                ledger.book_apart(order).await
            }

            impl Ledger {
                async fn book_apart(&self, order: NewTransfer) -> Booked {
                    let mut tx = self.pool.begin().await?;
                    let booked = book(&mut tx, order).await?;
                    // Without an answer nobody knows: a crash, and none that frees the key.
                    tx.commit().await.expect("the commit is answered");
                    Ok(booked)
                }
            }

            /// Takes the money, and gives it. Who calls rolls back what is refused half-way.
            async fn book(tx: &mut $Connection, order: NewTransfer) -> Booked {
                if order.amount <= 0 {
                    return Err(Refused::NotAnAmount);
                }
                // By name: transfers that cross would each wait for the other's second account.
                let mut changes = [(&order.from, -order.amount), (&order.to, order.amount)];
                changes.sort();
                for (account, change) in changes {
                    let changed = sqlx::query(AssertSqlSafe($mark(
                        "UPDATE accounts SET balance = balance + $1
                         WHERE name = $2 AND balance + $3 >= 0",
                    )))
                    .bind(change)
                    .bind(account)
                    .bind(change)
                    .execute(&mut *tx)
                    .await?;
                    if changed.rows_affected() == 1 {
                        continue;
                    }
                    if change > 0 {
                        return Err(Refused::NoSuchPayee);
                    }
                    let payer = $mark("SELECT 1 FROM accounts WHERE name = $1");
                    let payer = sqlx::query(AssertSqlSafe(payer))
                        .bind(account)
                        .fetch_optional(&mut *tx)
                        .await?;
                    return Err(match payer {
                        Some(_) => Refused::NotEnough,
                        None => Refused::NoSuchPayer,
                    });
                }
                sqlx::query(AssertSqlSafe($mark(
                    "INSERT INTO transfers (from_account, to_account, amount, reference)
                     VALUES ($1, $2, $3, $4)",
                )))
                .bind(order.from)
                .bind(order.to)
                .bind(order.amount)
                .bind(order.reference)
                .execute(&mut *tx)
                .await?;
                let transfer = concat!(
                    "SELECT id, from_account, to_account, amount, reference
                     FROM transfers WHERE id = ",
                    $last
                );
                let transfer = sqlx::query_as(transfer).fetch_one(tx).await?;
                Ok((StatusCode::CREATED, Json(transfer)))
            }

            async fn transfers(
                State(ledger): State<Ledger>,
            ) -> Result<Json<Vec<Transfer>>, Refused> {
                let all = "SELECT id, from_account, to_account, amount, reference
                           FROM transfers ORDER BY id";
                Ok(Json(sqlx::query_as(all).fetch_all(&ledger.pool).await?))
            }

            async fn accounts(State(ledger): State<Ledger>) -> Result<Json<Vec<Account>>, Refused> {
                let all = "SELECT name, balance FROM accounts ORDER BY name";
                Ok(Json(sqlx::query_as(all).fetch_all(&ledger.pool).await?))
            }
        }
    };
}

ledger!(
    sqlite,
    sqlx::SqlitePool,
    sqlx::SqliteConnection,
    "INTEGER PRIMARY KEY",
    "ON CONFLICT DO NOTHING",
    str::to_owned,
    "last_insert_rowid()"
);
ledger!(
    mysql,
    sqlx::MySqlPool,
    sqlx::MySqlConnection,
    "BIGINT AUTO_INCREMENT PRIMARY KEY",
    "ON DUPLICATE KEY UPDATE balance = balance",
    with_question_marks,
    "LAST_INSERT_ID()"
);
ledger!(
    postgres,
    sqlx::PgPool,
    sqlx::PgConnection,
    "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "ON CONFLICT DO NOTHING",
    str::to_owned,
    "lastval()"
);

/// `$1`, `$2` and so on, as MySQL writes them.
fn with_question_marks(sql: &str) -> String {
    sql.split('$')
        .enumerate()
        .map(|(place, part)| match place {
            0 => part.to_owned(),
            _ => format!(
                "?{}",
                part.trim_start_matches(|it: char| it.is_ascii_digit())
            ),
        })
        .collect()
}

/// The application's own connections, to where the records are.
async fn open(options: &Options) -> Result<Router, Box<dyn Error>> {
    let (mode, on_crash) = (options.mode, options.on_crash);
    if options.store.starts_with("sqlite:") {
        let file = options.store.parse::<SqliteConnectOptions>()?;
        let file = file
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let ledger = sqlite::Ledger::open(sqlx::SqlitePool::connect_with(file).await?).await?;
        Ok(ledger.router(mode, on_crash))
    } else if options.store.starts_with("mysql:") {
        let ledger = mysql::Ledger::open(sqlx::MySqlPool::connect(&options.store).await?).await?;
        Ok(ledger.router(mode, on_crash))
    } else {
        let pool = sqlx::PgPool::connect(&options.store).await?;
        let ledger = postgres::Ledger::open(pool).await?;
        Ok(ledger.router(mode, on_crash))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    // Makes the records' tables, too.
    idem::connect(&options.store).await?.install()?;
    let router = open(&options).await?;
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    let address = format!("http://{}", listener.local_addr()?);
    println!("listening on {address}");
    print_what_to_try(&address);
    Ok(axum::serve(listener, router).await?)
}

fn print_what_to_try(address: &str) {
    let transfer = |key: &str, to: &str| {
        format!(
            "curl -i -H 'content-type: application/json' -H 'idempotency-key: \"{key}\"' \
             -d '{{\"from\": \"a\", \"to\": \"{to}\", \"amount\": 5}}' {address}/transfers"
        )
    };
    let (rent, typo) = (transfer("rent", "b"), transfer("typo", "nobody"));
    println!(
        "
Money moves once: 201, and the same again is a replay.
  {rent}
  {rent}
A final error is stored, too, and what it had written is rolled back: 404, twice.
  {typo}
  {typo}
What was really booked. Kill this process in the middle of anything, start it, and look again.
  curl -s {address}/transfers
  curl -s {address}/accounts
"
    );
}
