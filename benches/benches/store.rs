//! The memory store's transitions, one thread.

use idem::stores::memory::MemoryStore;
use idem_benches::Target::{Baseline, None};
use idem_benches::store::{Moka, OUTCOME_BYTES, Sharded, Shelf, claims, outcomes, shuffled};
use idem_benches::{Contender, interleave, per_operation, print, scaled, thread_cpu};

fn main() {
    let (rounds, records) = (scaled(7, 3), scaled(200_000, 20_000));
    let claims = claims(records);
    let order = shuffled(records);
    let transitions = |shelf: &dyn Shelf| {
        let outcomes = outcomes(records);

        let started = thread_cpu();
        for claim in &claims {
            shelf.claim(claim);
        }
        let claimed = per_operation(started, records);

        let started = thread_cpu();
        for (claim, outcome) in claims.iter().zip(outcomes) {
            shelf.complete(claim, outcome);
        }
        let completed = per_operation(started, records);

        let started = thread_cpu();
        for index in &order {
            assert_eq!(shelf.replay(&claims[*index]).len(), OUTCOME_BYTES);
        }
        [claimed, completed, per_operation(started, records)]
    };
    // The others count no bytes, know no lease, and are not safe against two claims at once
    // (moka) or forget nothing (the map).
    let contenders = vec![
        Contender::new("sharded `Mutex<HashMap>`", Baseline, || {
            transitions(&Sharded::default())
        }),
        Contender::new("moka, sync", None, || transitions(&Moka::lasting())),
        Contender::new("moka, sync, expiry per entry", None, || {
            transitions(&Moka::expiring())
        }),
        Contender::new("**idem, memory store**", None, || {
            transitions(&MemoryStore::builder().max_bytes(8 << 30).build())
        }),
    ];
    let titles = ["claim", "complete", "replay, in no order"];
    for (title, figures) in titles.iter().zip(interleave(rounds, contenders)) {
        let title = format!("{title} ({records} records of {OUTCOME_BYTES} B)");
        print(&title, "ns per call", 1.0, &figures);
    }
}
