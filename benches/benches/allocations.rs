//! What the allocator sees: bytes kept per record and held per duplicate that waits, and allocations per
//! request. These figures are the same on a noisy machine.

use std::alloc::System;

use idem::stores::memory::MemoryStore;
use idem_benches::by_hand;
use idem_benches::http::Keys::{Fresh, Known};
use idem_benches::http::{
    Client, by_hand_app, hashed_app, install_engine, plain_app, protected_app,
};
use idem_benches::store::{Moka, OUTCOME_BYTES, Sharded, Shelf, claims, outcomes};
use idem_benches::waiting::Duplicates;
use idem_benches::{runtime, scaled};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let records = scaled(200_000, 20_000);
    println!("\n### Memory per finished record ({records} records of {OUTCOME_BYTES} B)\n");
    println!("| | bytes |");
    println!("|---|---:|");
    kept("sharded `Mutex<HashMap>`", records, Sharded::default());
    kept("moka, sync", records, Moka::lasting());
    kept("moka, sync, expiry per entry", records, Moka::expiring());
    let store = MemoryStore::builder().max_bytes(8 << 30).build();
    kept("**idem, memory store**", records, store.clone());
    #[allow(clippy::cast_precision_loss)]
    let counted = store.used_bytes() as f64 / records as f64;
    println!("| the same, as the store counts it | {counted:.0} |");

    waiting();

    println!("\n### Allocations per request, in process\n");
    println!("| | allocations | bytes |");
    println!("|---|---:|---:|");
    install_engine();
    let runtime = runtime();
    let sharded = || by_hand_app(by_hand::Sharded::<false>::default());
    let apps = [
        ("plain handler", plain_app(), Fresh),
        ("+ body buffered and hashed", hashed_app(), Fresh),
        ("first, by hand, sharded map", sharded(), Fresh),
        ("**first, idem**", protected_app(), Fresh),
        ("replay, by hand, sharded map", sharded(), Known),
        ("**replay, idem**", protected_app(), Known),
    ];
    for (name, app, keys) in apps {
        let client = Client::new(&runtime, app, keys);
        let requests = 1000;
        let change = client.measured(
            &runtime,
            requests,
            || Region::new(ALLOCATOR),
            |region| region.change(),
        );
        #[allow(clippy::cast_precision_loss)]
        let per_request = |total: usize| total as f64 / requests as f64;
        println!(
            "| {name} | {:.1} | {:.0} |",
            per_request(change.allocations + change.reallocations),
            per_request(change.bytes_allocated),
        );
    }
}

/// What duplicates hold that wait, with their tasks and their requests.
fn waiting() {
    const DUPLICATES: usize = 10_000;
    println!("\n### Memory per duplicate that waits, of {DUPLICATES}\n");
    println!("| | bytes | ratio |");
    println!("|---|---:|---:|");
    let runtime = runtime();
    let of = Duplicates::new(&runtime, DUPLICATES, in_use);
    // What the runtime keeps for so many tasks is there afterwards.
    of.of_notify(false);
    let all = [
        ("`Notify` + `OnceLock`", of.of_notify(false)),
        ("the same, each within a `timeout`", of.of_notify(true)),
        ("**idem, `run`**", of.of_run()),
        (
            "`Notify` + `OnceLock`, in handlers of axum",
            of.of_a_handler(),
        ),
        ("**idem, the attribute over axum**", of.of_the_attribute()),
    ];
    for (name, waited) in all {
        let ratio = waited.bytes / all[0].1.bytes;
        println!("| {name} | {:.0} | {ratio:.2} |", waited.bytes);
    }
}

fn in_use() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

/// The bytes that are allocated and not freed when all records are finished.
fn kept(name: &str, records: usize, shelf: impl Shelf) {
    let claims = claims(records);
    let region = Region::new(ALLOCATOR);
    let outcomes = outcomes(records);
    for claim in &claims {
        shelf.claim(claim);
    }
    for (claim, outcome) in claims.iter().zip(outcomes) {
        shelf.complete(claim, outcome);
    }
    let change = region.change();
    #[allow(clippy::cast_precision_loss)]
    let bytes = change
        .bytes_allocated
        .saturating_sub(change.bytes_deallocated) as f64;
    #[allow(clippy::cast_precision_loss)]
    let bytes = bytes / records as f64;
    println!("| {name} | {bytes:.0} |");
}
