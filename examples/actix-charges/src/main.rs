//! actix-web: `cargo run -p actix-charges -- --port 3000`.

use std::error::Error;
use std::sync::{Mutex, PoisonError};

use actix_web::web::{Data, Json};
use actix_web::{App, HttpResponse, HttpServer, Responder, get, post};
use clap::Parser;
use idem::actix::idempotent;
use serde::{Deserialize, Serialize};

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

type Bank = Data<Mutex<Vec<Charge>>>;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[post("/charges")]
async fn create_charge(bank: Bank, charge: Json<Charge>) -> impl Responder {
    let mut charges = bank.lock().unwrap_or_else(PoisonError::into_inner);
    charges.push(charge.clone());
    HttpResponse::Created().json(charge)
}

#[get("/charges")]
async fn list_charges(bank: Bank) -> impl Responder {
    Json(bank.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect("memory://").await?.install()?;
    let bank = Bank::default();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(bank.clone())
            .service(create_charge)
            .service(list_charges)
    });
    let server = server.bind(("127.0.0.1", options.port))?;
    for address in server.addrs() {
        println!("listening on http://{address}");
    }
    Ok(server.run().await?)
}
