//! A process with an engine over a store, told what to do by lines on its input. It ends with
//! its input, so that no worker outlives its test.
//!
//! | line | what it does |
//! |---|---|
//! | `call KEY COUNT` | so many equal calls at once, which come again when the store was slow; a body waits for its end |
//! | `end KEY` | ends the body that runs, with an outcome |
//! | `release KEY` | ends it, and says that nothing happened |
//! | `fence KEY` | waits until the body knows that its lease is lost |
//!
//! It answers with lines of JSON: `ready`, `started` by each body, `lost` and `ended` by one that
//! was told to, and `answers` of all calls.

use std::collections::HashMap;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use idem::{Fingerprint, InFlight, OnCrash, Operation, StoreError};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    store: String,
    /// Every execution adds a line to this file: the effect.
    #[arg(long)]
    effects: PathBuf,
    #[arg(long, default_value_t = 30_000)]
    lease_ms: u64,
    #[arg(long, default_value_t = 3_600_000)]
    ttl_ms: u64,
    /// How long a duplicate waits. 0 refuses it.
    #[arg(long, default_value_t = 0)]
    wait_ms: u64,
    #[arg(long, value_enum, default_value = "rerun")]
    on_crash: Crash,
}

#[derive(Clone, Copy, ValueEnum)]
enum Crash {
    Rerun,
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Run,
    Fence,
    End,
    Release,
}

/// The bodies' orders, by key.
#[derive(Clone, Default)]
struct Orders(Arc<Mutex<HashMap<String, watch::Sender<Order>>>>);

impl Orders {
    fn of(&self, key: &str) -> watch::Sender<Order> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key.to_owned())
            .or_insert_with(|| watch::Sender::new(Order::Run))
            .clone()
    }
}

fn say(event: &Value) {
    let mut output = std::io::stdout().lock();
    // One write: lines of tasks that speak at once stay whole.
    let _ = output.write_all(format!("{event}\n").as_bytes());
    let _ = output.flush();
}

/// Microseconds of the clock that all processes of a machine share.
fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros()
}

async fn body(key: &str, effects: PathBuf, orders: Orders) -> String {
    let attempt = idem::attempt();
    let effect = format!("{key} {} {}\n", attempt.number(), std::process::id());
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(effects)
        .and_then(|mut file| file.write_all(effect.as_bytes()));
    if let Err(error) = written {
        eprintln!("no effect: {error}");
        std::process::exit(1);
    }
    say(&json!({"event": "started", "key": key, "attempt": attempt.number()}));
    let mut order = orders.of(key).subscribe();
    let fenced = async |attempt: &idem::Attempt| {
        while !attempt.lease_lost() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    loop {
        let now_ordered = *order.borrow_and_update();
        match now_ordered {
            Order::Run => {}
            Order::Fence => {
                fenced(&attempt).await;
                say(&json!({"event": "lost", "key": key}));
            }
            Order::End => break,
            Order::Release => {
                attempt.release();
                break;
            }
        }
        if order.changed().await.is_err() {
            break;
        }
    }
    say(&json!({
        "event": "ended", "key": key, "lost": attempt.lease_lost(), "at": now().to_string(),
    }));
    format!("{} of {}", attempt.number(), std::process::id())
}

async fn call(operation: Operation, key: String, count: usize, effects: PathBuf, orders: Orders) {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let (operation, key) = (operation.clone(), key.clone());
        let (effects, orders) = (effects.clone(), orders.clone());
        calls.spawn(async move {
            loop {
                let fingerprint = Fingerprint::of(&key)?;
                let (effects, orders) = (effects.clone(), orders.clone());
                let body = async { Ok::<_, idem::Error>(body(&key, effects, orders).await) };
                match operation.run(&key, fingerprint, body).await {
                    // A machine that is busy was slow. Whatever else a store says is an answer.
                    Err(idem::Error::Store(
                        StoreError::TimedOut { .. } | StoreError::NotSent { .. },
                    )) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    answer => break answer,
                }
            }
        });
    }
    let mut answers: HashMap<String, usize> = HashMap::new();
    while let Some(answer) = calls.join_next().await {
        let answer = match answer {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => format!("error: {error}"),
            Err(error) => format!("panic: {error}"),
        };
        *answers.entry(answer).or_default() += 1;
    }
    say(&json!({
        "event": "answers", "key": key, "answers": answers, "at": now().to_string(),
    }));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
        .init();
    let engine = idem::connect(&options.store).await?.build();
    let mut operation = engine
        .operation("tests.worker")
        .ttl(Duration::from_millis(options.ttl_ms))
        .lease(Duration::from_millis(options.lease_ms))
        .on_crash(match options.on_crash {
            Crash::Rerun => OnCrash::Rerun,
            Crash::Refuse => OnCrash::Refuse,
        });
    if options.wait_ms > 0 {
        operation = operation.in_flight(InFlight::Wait(Duration::from_millis(options.wait_ms)));
    }
    let orders = Orders::default();
    say(&json!({"event": "ready"}));

    let (lines, mut next) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = next.recv().await {
        let words: Vec<_> = line.split_whitespace().collect();
        let order = match words[..] {
            ["call", key, count] => {
                let effects = options.effects.clone();
                let call = call(
                    operation.clone(),
                    key.into(),
                    count.parse()?,
                    effects,
                    orders.clone(),
                );
                tokio::spawn(call);
                continue;
            }
            ["end", _] => Order::End,
            ["release", _] => Order::Release,
            ["fence", _] => Order::Fence,
            _ => return Err(format!("what is {line:?}?").into()),
        };
        orders.of(words[1]).send_replace(order);
    }
    Ok(())
}
