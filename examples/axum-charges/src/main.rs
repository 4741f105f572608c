//! axum: `cargo run -p axum-charges -- --port 3000`.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use clap::Parser;
use idem::axum::idempotent;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

#[derive(Parser)]
struct Options {
    /// The loopback port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,
}

#[derive(Clone, Deserialize, Serialize)]
struct Charge {
    amount: u64,
    currency: String,
}

#[derive(Clone, Default)]
struct Bank(Arc<Mutex<Vec<Charge>>>);

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn create_charge(
    State(bank): State<Bank>,
    Json(charge): Json<Charge>,
) -> (StatusCode, Json<Charge>) {
    let mut charges = bank.0.lock().unwrap_or_else(PoisonError::into_inner);
    charges.push(charge.clone());
    (StatusCode::CREATED, Json(charge))
}

async fn list_charges(State(bank): State<Bank>) -> Json<Vec<Charge>> {
    let charges = bank.0.lock().unwrap_or_else(PoisonError::into_inner);
    Json(charges.clone())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect("memory://").await?.install()?;
    let app = Router::new()
        .route("/charges", post(create_charge).get(list_charges))
        .with_state(Bank::default());
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
