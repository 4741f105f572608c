//! A worker over a Redis stream, which delivers at least once: `cargo run -p stream-queue -- --redis
//! redis://127.0.0.1`. Put payouts into it with
//! `redis-cli XADD payouts '*' payout '{"id": "payout-1", "amount": 100}'`.
//!
//! An entry stays pending until it is acknowledged, and that is when its payout has an outcome. What a
//! worker that died has left pending, another one takes over.

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use idem::idempotent;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamReadOptions, StreamReadReply};
use serde::{Deserialize, Serialize};

const STREAM: &str = "payouts";
const DEAD: &str = "payouts.dead";
const GROUP: &str = "workers";

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "redis://127.0.0.1")]
    redis: String,
    /// This worker's name.
    #[arg(long, default_value = "worker-1")]
    name: String,
    /// Entries that another worker has had for so many milliseconds are taken over.
    #[arg(long, default_value_t = 60_000)]
    take_over_after: u64,
    /// For tests: stands still between a payment and its acknowledgement.
    #[arg(long)]
    stop_before_acknowledging: bool,
}

#[derive(Clone, Deserialize, Serialize)]
struct Payout {
    /// The business's own id. That of the stream's entry would be another one if a producer tries again.
    id: String,
    amount: u64,
}

/// The effect: a list of payments.
#[idempotent(key = payout.id, ttl = "7d", name = "payouts.pay", skip(bank))]
async fn pay(bank: &MultiplexedConnection, payout: Payout) -> Result<usize, PayError> {
    let mut bank = bank.clone();
    Ok(bank.rpush("payments", &payout.id).await?)
}

#[derive(Debug)]
enum PayError {
    /// The library's own.
    Idem(idem::Error),
    Bank(redis::RedisError),
}

impl From<idem::Error> for PayError {
    fn from(error: idem::Error) -> Self {
        Self::Idem(error)
    }
}

impl From<redis::RedisError> for PayError {
    fn from(error: redis::RedisError) -> Self {
        Self::Bank(error)
    }
}

/// What becomes of an entry.
enum Ack {
    /// There is an outcome.
    Done,
    /// It comes again, with the same key.
    Later,
    /// No retry helps, and somebody has to look.
    SetAside(String),
}

async fn handle(bank: &MultiplexedConnection, entry: &StreamId) -> Ack {
    let text: Option<String> = entry.get("payout");
    let payout = text.as_deref().map(serde_json::from_str::<Payout>);
    let Some(Ok(payout)) = payout else {
        return Ack::SetAside("no payout".to_owned());
    };
    let id = payout.id.clone();
    match pay(bank, payout).await {
        Ok(number) => {
            println!("{id}: payment {number}");
            Ack::Done
        }
        Err(PayError::Bank(error)) => {
            eprintln!("the bank: {error}");
            Ack::Later
        }
        Err(PayError::Idem(error)) => match error {
            idem::Error::NotReplayable(_) | idem::Error::Undecodable(_) => Ack::Done,
            idem::Error::InFlight { .. }
            | idem::Error::Store(_)
            | idem::Error::Unsettled(_)
            | idem::Error::DeadlineExceeded { .. } => Ack::Later,
            error => Ack::SetAside(error.to_string()),
        },
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect(&options.redis).await?.install()?;
    let client = redis::Client::open(options.redis.as_str())?;
    let mut queue = client.get_multiplexed_async_connection().await?;
    // That it is there already is no error.
    let _: Result<(), _> = queue.xgroup_create_mkstream(STREAM, GROUP, "0").await;
    println!("{} works", options.name);
    loop {
        for entry in entries(&mut queue, &options).await? {
            let ack = handle(&queue, &entry).await;
            if options.stop_before_acknowledging {
                std::future::pending::<()>().await;
            }
            match ack {
                Ack::Later => continue,
                Ack::Done => {}
                Ack::SetAside(why) => {
                    println!("set aside: {why}");
                    // Before the acknowledgement: rather twice there than nowhere.
                    let fields = [("entry", entry.id.clone()), ("why", why)];
                    let _: String = queue.xadd(DEAD, "*", &fields).await?;
                }
            }
            let _: usize = queue.xack(STREAM, GROUP, &[&entry.id]).await?;
            println!("{} acknowledged", entry.id);
        }
    }
}

/// What others have left, else what is new.
async fn entries(
    queue: &mut MultiplexedConnection,
    options: &Options,
) -> Result<Vec<StreamId>, redis::RedisError> {
    let Options {
        name,
        take_over_after,
        ..
    } = options;
    let left: StreamAutoClaimReply = queue
        .xautoclaim_options(
            STREAM,
            GROUP,
            name,
            *take_over_after,
            "0",
            redis::streams::StreamAutoClaimOptions::default().count(16),
        )
        .await?;
    if !left.claimed.is_empty() {
        return Ok(left.claimed);
    }
    // A connection that blocks would keep the payments waiting, which share it.
    let new = StreamReadOptions::default().group(GROUP, name).count(16);
    let new: Option<StreamReadReply> = queue.xread_options(&[STREAM], &[">"], &new).await?;
    let new: Vec<_> = new
        .into_iter()
        .flat_map(|it| it.keys)
        .flat_map(|it| it.ids)
        .collect();
    if new.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(new)
}
