//! Whether a call costs more where more records are present, and what memory a record keeps.

use idem::stores::memory::MemoryStore;
use idem_benches::store::{Shelf, claims_of, outcomes};
use idem_benches::{per_operation, scaled, thread_cpu};

/// Calls that are measured, and their rounds: the median is printed.
const CALLS: usize = 500;

fn main() {
    let rounds = scaled(21, 5);
    println!("\n### Claim, completion and replay, by the number of records present\n");
    println!("| | ns | ratio | bytes of the process for each record |");
    println!("|---|---:|---:|---:|");
    let before = resident();
    let store = MemoryStore::builder().max_bytes(64 << 30).build();
    let (mut present, mut first) = (0, None);
    for records in [10_000, 100_000, 1_000_000] {
        keep(&store, present..records);
        present = present.max(records);
        #[allow(clippy::cast_precision_loss)]
        let bytes = (resident() - before) as f64 / records as f64;
        let times = (0..rounds).map(|_| {
            let fresh = present..present + CALLS;
            present += CALLS;
            calls(&store, fresh)
        });
        let time = idem_benches::median(times.collect());
        let ratio = time / *first.get_or_insert(time);
        println!("| **idem, {records} records** | {time:.0} | {ratio:.2} | {bytes:.0} |");
    }
}

fn keep(store: &MemoryStore, numbers: std::ops::Range<usize>) {
    for first in numbers.clone().step_by(CALLS) {
        let claims = claims_of(first..(first + CALLS).min(numbers.end));
        for (claim, outcome) in claims.iter().zip(outcomes(claims.len())) {
            Shelf::claim(store, claim);
            Shelf::complete(store, claim, outcome);
        }
    }
}

/// The nanoseconds of a first call and a replay.
fn calls(store: &MemoryStore, numbers: std::ops::Range<usize>) -> f64 {
    let claims = claims_of(numbers);
    let outcomes = outcomes(claims.len());
    let started = thread_cpu();
    for (claim, outcome) in claims.iter().zip(outcomes) {
        Shelf::claim(store, claim);
        Shelf::complete(store, claim, outcome);
        std::hint::black_box(store.replay(claim));
    }
    per_operation(started, claims.len())
}

/// The bytes of memory that this process has.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux says so");
    let resident = pages.split_whitespace().nth(1);
    let resident: usize = resident
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    resident * 4096
}
