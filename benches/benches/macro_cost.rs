//! The attributed function against the same call of the engine, written by hand.
//!
//! `--instructions` counts instructions under `valgrind --tool=callgrind` instead of time.

use std::process::Command;
use std::time::Duration;

use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprinter, Policy, idempotent};
use idem_benches::Target::{AtMost, Baseline};
use idem_benches::http::{Order, Receipt, charge};
use idem_benches::{
    Contender, interleave, on_a_task, per_operation, print, runtime, scaled, thread_cpu,
};
use tokio::runtime::Runtime;

// The names are of one length: they are hashed.
#[idempotent(name = "attributed", key = id, ttl = "24h")]
async fn attributed(id: u64, order: Order) -> Result<Receipt, Error> {
    Ok(charge(&order))
}

const POLICY: Policy = Policy::new(Duration::from_secs(24 * 60 * 60));

async fn by_hand(id: u64, order: Order) -> Result<Receipt, Error> {
    let mut fingerprint = Fingerprinter::new();
    fingerprint.value("id", &id)?;
    fingerprint.value("order", &order)?;
    Engine::installed()?
        .operation("by hand 10")
        .policy(POLICY)
        .run(&id, fingerprint.finish(), async move { Ok(charge(&order)) })
        .await
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Attributed,
    ByHand,
    /// Only what both forms are given is made.
    Neither,
}

/// Calls under the given keys; the nanoseconds of one.
fn calls(runtime: &Runtime, form: Form, keys: impl Iterator<Item = u64>) -> f64 {
    let orders: Vec<_> = keys.map(|key| (key, Order::sample())).collect();
    on_a_task(runtime, async move {
        let (started, count) = (thread_cpu(), orders.len());
        for (key, order) in orders {
            let receipt = match form {
                Form::Attributed => attributed(key, order).await,
                Form::ByHand => by_hand(key, order).await,
                Form::Neither => continue,
            };
            std::hint::black_box(receipt).expect("a receipt");
        }
        per_operation(started, count)
    })
}

const CALLS: u64 = 400;

fn main() {
    let store = MemoryStore::builder().max_bytes(8 << 30).build();
    Engine::new(store).install().ok();
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(count) = arguments.iter().position(|argument| argument == "--count") {
        count_these(&arguments[count + 1..]);
    } else if arguments
        .iter()
        .any(|argument| argument == "--instructions")
    {
        instructions();
    } else {
        time();
    }
}

fn time() {
    let runtime = &runtime();
    let rounds = scaled(201, 31);
    let contender = |name, target, form, fresh: bool| {
        let mut next = CALLS;
        Contender::new(name, target, move || {
            let first = if fresh { next } else { 0 };
            next += CALLS;
            [calls(runtime, form, first..first + CALLS)]
        })
    };
    for (title, fresh) in [("First call", true), ("Replay", false)] {
        let contenders = vec![
            contender("by hand", Baseline, Form::ByHand, fresh),
            contender("**attributed**", AtMost(1.02), Form::Attributed, fresh),
        ];
        let [figures] = interleave(rounds, contenders);
        let title = format!("{title}, a function over the memory store");
        print(&title, "µs per call", 1000.0, &figures);
    }
}

/// What callgrind runs: `attributed|by-hand|neither first|replay COUNT`.
fn count_these(arguments: &[String]) {
    let [form, path, count] = arguments else {
        panic!("--count attributed|by-hand|neither first|replay COUNT");
    };
    let form = match form.as_str() {
        "attributed" => Form::Attributed,
        "by-hand" => Form::ByHand,
        _ => Form::Neither,
    };
    let count: u64 = count.parse().expect("a number");
    let runtime = runtime();
    if path == "first" {
        calls(&runtime, form, 0..count);
    } else {
        calls(&runtime, form, (0..count).map(|number| number % 16));
    }
}

/// Instructions per call: the difference of two runs of different length, less what is spent
/// on the arguments.
fn instructions() {
    println!("\n### Instructions per call, a function over the memory store\n");
    println!("| | by hand | attributed | ratio | target |");
    println!("|---|---:|---:|---:|---:|");
    for path in ["first", "replay"] {
        let per_call = |form: &str| {
            let (few, many) = (1000, 3000);
            (callgrind(form, path, many) - callgrind(form, path, few)) / f64::from(many - few)
        };
        let arguments = per_call("neither");
        let by_hand = per_call("by-hand") - arguments;
        let attributed = per_call("attributed") - arguments;
        let ratio = attributed / by_hand;
        println!("| {path} | {by_hand:.0} | {attributed:.0} | {ratio:.4} | ≤ 1.02 |");
    }
}

fn callgrind(form: &str, path: &str, count: i32) -> f64 {
    let this = std::env::current_exe().expect("this program's path");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["--count", form, path, &count.to_string()])
        .output()
        .expect("valgrind is installed");
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .unwrap_or_else(|| panic!("callgrind counted nothing:\n{report}"));
    collected.1.trim().parse().expect("a number")
}
