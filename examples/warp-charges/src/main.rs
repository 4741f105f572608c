//! warp: `cargo run -p warp-charges -- --port 3000`.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use idem::idempotent;
use idem::warp::{IdempotencyKey, Reply, detached};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use warp::Filter;
use warp::http::StatusCode;

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

#[idempotent(key = key, ttl = "24h", skip(bank))]
async fn create_charge(key: IdempotencyKey, bank: Bank, charge: Charge) -> Reply {
    let mut charges = bank.0.lock().unwrap_or_else(PoisonError::into_inner);
    charges.push(charge.clone());
    let charge = warp::reply::json(&charge);
    Reply::of(warp::reply::with_status(charge, StatusCode::CREATED))
}

fn list_charges(bank: Bank) -> impl warp::Reply {
    let charges = bank.0.lock().unwrap_or_else(PoisonError::into_inner);
    warp::reply::json(&*charges)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect("memory://").await?.install()?;
    let bank = Bank::default();
    let bank = warp::any().map(move || bank.clone());
    let charges = warp::path!("charges");
    let create = charges
        .and(warp::post())
        .and(idem::warp::key())
        .and(bank.clone())
        .and(warp::body::json())
        .then(|key, bank, charge| detached(create_charge(key, bank, charge)));
    let list = charges.and(warp::get()).and(bank).map(list_charges);
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    warp::serve(create.or(list)).incoming(listener).run().await;
    Ok(())
}
