//! Jobs of apalis, which delivers at least once: a job that fails is tried again, and one whose worker
//! died is taken over. `cargo run -p apalis-worker -- --redis redis://127.0.0.1 --push payout-1`.
//!
//! The job's key is the business's own id: apalis gives a job that is pushed twice two ids.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use apalis::layers::retry::RetryPolicy;
use apalis::prelude::*;
use apalis_redis::{Config, RedisStorage};
use clap::Parser;
use idem::idempotent;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "redis://127.0.0.1")]
    redis: String,
    /// This worker's name: another one for each.
    #[arg(long, default_value = "worker-1")]
    name: String,
    /// Puts a payout into the queue before the work begins.
    #[arg(long)]
    push: Vec<String>,
    /// How often a worker says that it lives, in milliseconds.
    #[arg(long, default_value_t = 30_000)]
    heartbeat: u64,
    /// For tests: stands still between a payment and its acknowledgement.
    #[arg(long)]
    stop_before_acknowledging: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Payout {
    id: String,
    amount: u64,
}

#[idempotent(key = payout.id, ttl = "7d", name = "payouts.pay", skip(bank))]
async fn pay(bank: MultiplexedConnection, payout: Payout) -> Result<usize, PayError> {
    let mut bank = bank;
    bank.rpush("payments", &payout.id)
        .await
        .map_err(PayError::Bank)
}

#[derive(Debug)]
enum PayError {
    /// The library's own.
    Idem(idem::Error),
    /// It frees the key: the next try pays.
    Bank(redis::RedisError),
}

impl From<idem::Error> for PayError {
    fn from(error: idem::Error) -> Self {
        Self::Idem(error)
    }
}

impl fmt::Display for PayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idem(error) => error.fmt(f),
            Self::Bank(_) => f.write_str("the bank did not take the payout"),
        }
    }
}

impl Error for PayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Idem(error) => Some(error),
            Self::Bank(error) => Some(error),
        }
    }
}

impl PayError {
    /// Whether another delivery can end otherwise.
    fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Bank(_) => true,
            Self::Idem(error) => matches!(
                error,
                idem::Error::InFlight { .. }
                    | idem::Error::Store(_)
                    | idem::Error::Unsettled(_)
                    | idem::Error::DeadlineExceeded { .. }
            ),
        }
    }
}

#[derive(Clone)]
struct Bank {
    connection: MultiplexedConnection,
    stop: bool,
}

/// The job: `Ok` acknowledges, an error is tried again.
async fn payout(payout: Payout, bank: Data<Bank>) -> Result<(), BoxDynError> {
    let id = payout.id.clone();
    let number = match pay(bank.connection.clone(), payout).await {
        Ok(number) => number,
        Err(error) if error.is_worth_a_retry() => return Err(error.into()),
        // Set aside among the failed jobs.
        Err(error) => return Err(AbortError::new(error).into()),
    };
    println!("{id}: payment {number}");
    if bank.stop {
        std::future::pending::<()>().await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect(&options.redis).await?.install()?;
    let config = Config::default()
        .queue("payouts")
        .heartbeat_interval(Duration::from_millis(options.heartbeat));
    let connection = apalis_redis::connect(options.redis.as_str()).await?;
    let mut jobs = RedisStorage::new(connection).with_config(config);
    for id in options.push {
        jobs.push(Payout { id, amount: 100 }).await?;
    }
    let client = redis::Client::open(options.redis.as_str())?;
    let bank = Bank {
        connection: client.get_multiplexed_async_connection().await?,
        stop: options.stop_before_acknowledging,
    };
    println!("{} works", options.name);
    let worker = WorkerBuilder::new(options.name.as_str())
        .backend(jobs)
        .retry(RetryPolicy::retries(5))
        .data(bank)
        .build(payout);
    worker.run().await?;
    Ok(())
}
