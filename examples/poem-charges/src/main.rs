//! poem: `cargo run -p poem-charges -- --port 3000`.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use idem::poem::idempotent;
use poem::http::StatusCode;
use poem::listener::TcpAcceptor;
use poem::web::{Data, Json};
use poem::{EndpointExt, Route, Server, handler, post};
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

type Bank = Arc<Mutex<Vec<Charge>>>;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn create_charge(bank: Data<&Bank>, charge: Json<Charge>) -> (StatusCode, Json<Charge>) {
    let mut charges = bank.lock().unwrap_or_else(PoisonError::into_inner);
    charges.push(charge.0.clone());
    (StatusCode::CREATED, charge)
}

#[handler]
async fn list_charges(bank: Data<&Bank>) -> Json<Vec<Charge>> {
    Json(bank.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect("memory://").await?.install()?;
    let routes = Route::new()
        .at("/charges", post(create_charge).get(list_charges))
        .data(Bank::default());
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let acceptor = TcpAcceptor::from_tokio(listener)?;
    Ok(Server::new_with_acceptor(acceptor).run(routes).await?)
}
