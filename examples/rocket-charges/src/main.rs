//! Rocket: `cargo run -p rocket-charges -- --port 3000`.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use idem::idempotent;
use idem::rocket::{IdempotencyKey, Reply};
use rocket::fairing::AdHoc;
use rocket::http::Status;
use rocket::serde::json::Json;
use rocket::serde::{Deserialize, Serialize};
use rocket::{State, get, post, routes};

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

#[post("/charges", data = "<charge>")]
#[idempotent(key = key, ttl = "24h", skip(bank))]
async fn create_charge<'r>(
    key: IdempotencyKey<'r>,
    bank: &State<Bank>,
    charge: Json<Charge>,
) -> Reply<'r> {
    {
        let mut charges = bank.0.lock().unwrap_or_else(PoisonError::into_inner);
        charges.push(charge.0.clone());
    }
    key.reply((Status::Created, charge)).await
}

#[get("/charges")]
fn list_charges(bank: &State<Bank>) -> Json<Vec<Charge>> {
    let charges = bank.0.lock().unwrap_or_else(PoisonError::into_inner);
    Json(charges.clone())
}

#[rocket::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect("memory://").await?.install()?;
    let settings = rocket::Config::figment()
        .merge(("port", options.port))
        .merge(("log_level", "critical"));
    rocket::custom(settings)
        .manage(Bank::default())
        .mount("/", routes![create_charge, list_charges])
        .attach(AdHoc::on_liftoff("address", |rocket| {
            let port = rocket.config().port;
            Box::pin(async move { println!("listening on http://127.0.0.1:{port}") })
        }))
        .launch()
        .await?;
    Ok(())
}
