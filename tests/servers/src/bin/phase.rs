//! Calls an operation with one phase, and says how far it has come, so that a test can kill it there:
//! `phase STORE DATABASE AMOUNT`, and then `written`, to stay in the phase, or `committed`, to stay
//! between its commit and its checkpoint. The database's table `entries` is written to.

use std::time::Duration;

use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::{Engine, Error, Fingerprint, InFlight, Operation};

#[tokio::main]
async fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let (store, database, amount, stays) = match args[..] {
        [store, database, amount] => (store, database, amount, ""),
        [store, database, amount, stays] => (store, database, amount, stays),
        _ => panic!("phase STORE DATABASE AMOUNT [STAYS]; not {args:?}"),
    };
    let amount: i64 = amount.parse().expect("an amount");
    let store = idem::stores::connect(store).await.expect("a store");
    let store = FaultyStore::new(store);
    if stays == "committed" {
        store.fail(Method::Checkpoint, 1, Fault::Hang);
        let store = store.clone();
        tokio::spawn(async move {
            store.called(Method::Checkpoint, 1).await;
            println!("committed");
        });
    }
    let engine = Engine::new(store);
    // Whoever stays is killed, and its lease is waited for; whoever goes on must not lose its own on a busy
    // machine.
    let lease = Duration::from_secs(if stays.is_empty() { 60 } else { 2 });
    let operation = engine.operation("tests.phase").lease(lease);
    let stays = stays == "written";
    let value = match database.split_once("://") {
        Some(("sqlite", _)) => {
            let pool = sqlx::SqlitePool::connect(database).await.expect("a pool");
            let body = async {
                idem::phase("reserve", &pool, async |mut tx| {
                    let row = sqlx::query(INSERT).bind(amount);
                    row.execute(&mut *tx).await.expect("a row");
                    stay(stays).await;
                    Ok((tx, amount))
                })
                .await
            };
            call(&operation, body).await
        }
        _ => {
            let pool = sqlx::PgPool::connect(database).await.expect("a pool");
            let body = async {
                idem::phase("reserve", &pool, async |mut tx| {
                    let row = sqlx::query(INSERT).bind(amount);
                    row.execute(&mut *tx).await.expect("a row");
                    stay(stays).await;
                    Ok((tx, amount))
                })
                .await
            };
            call(&operation, body).await
        }
    };
    println!("{}", value.expect("a value"));
}

async fn call(
    operation: &Operation,
    body: impl Future<Output = Result<i64, Error>>,
) -> Result<i64, Error> {
    let operation = operation.clone();
    let operation = operation.in_flight(InFlight::Wait(Duration::from_secs(60)));
    let request = Fingerprint::of("the request").expect("a fingerprint");
    operation.run("k", request, body).await
}

const INSERT: &str = "INSERT INTO entries (reference, amount) VALUES ('k', $1)";

async fn stay(stays: bool) {
    if stays {
        println!("written");
        std::future::pending::<()>().await;
    }
}
